//! Targets with several requests: from files, on the wire, and from the resolved plan.

use crate::run::{Folder, RPC_RESULT, RunResult, plimsoll};
use crate::server::{Reply, Server};
use std::collections::BTreeMap;

/// Number of times that each request was received.
fn received(server: &Server) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for received in server.received() {
        *counts.entry(format!("{} {}", received.line(), received.body)).or_insert(0) += 1;
    }
    counts
}

#[test]
fn requests_from_a_file_share_its_weight_and_the_resolved_plan_needs_no_file() {
    let server = Server::start(|_, received| {
        Reply::ok(if received.body.contains("jsonrpc") { RPC_RESULT } else { "fine" })
    });
    let folder = Folder::new();
    folder.file("body.txt", "from a file");
    let boba = "# two requests\nPOST ${GATEWAY}/one\nContent-Type: application/json\n\n\
        {\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\",\"params\":[],\"id\":1}\n\n\
        POST ${GATEWAY}/two\nX-Id: 7\n@body.txt";
    folder.file("targets-boba.txt", boba);
    let line = "{\"method\":\"GET\",\"url\":\"${GATEWAY}/three\"}\n{\"method\":\"POST\",\"url\":\"${GATEWAY}/four\",\"body\":\"eyJ4Ijp7fX0=\"}";
    folder.file("kava.jsonl", line);
    let plan = folder.file(
        "plan.toml",
        "rate = \"3000/s\"\nrequests = 600\n\
         [[target]]\nfile = \"targets-boba.txt\"\nweight = 2\ntags = { chain = \"boba\" }\n\
         [[target]]\nfile = \"kava.jsonl\"\nformat = \"json\"\n",
    );
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let gateway = format!("GATEWAY={}", server.url());
    let args =
        ["run", &plan, "--set", &gateway, "--out", out, "--format", "json", "--workers", "2"];
    let result = RunResult::of(plimsoll(&args));
    assert_eq!(result.count("/requests/ok"), 600, "{}", result.summary);
    assert_eq!(result.summary["targets"].as_array().unwrap().len(), 2, "a name for each file");
    assert_eq!(result.count("/tags/chain/boba/requests/ok"), 400);
    let first = received(&server);
    assert_eq!(first.values().copied().collect::<Vec<_>>(), [100, 100, 200, 200], "{first:?}");
    assert_eq!(first["POST /two from a file"], 200);
    assert_eq!(first["POST /four {\"x\":{}}"], 100);

    // The resolved plan includes the files, and sends the same requests without them.
    for file in ["targets-boba.txt", "kava.jsonl", "body.txt", "plan.toml"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    let resolved = format!("{out}/plan.toml");
    let again = RunResult::of(plimsoll(&["run", &resolved, "--no-out", "--format", "json"]));
    assert_eq!(again.count("/requests/ok"), 600, "{}", again.summary);
    let doubled: BTreeMap<_, _> = first.into_iter().map(|(line, n)| (line, 2 * n)).collect();
    assert_eq!(received(&server), doubled);
}

#[test]
fn check_reports_all_errors_in_a_file() {
    let folder = Folder::new();
    folder.file("t.txt", "GET ${GATEWAY}/\n\nPOST h/");
    let plan =
        folder.file("plan.toml", "rate = \"1/s\"\nrequests = 1\n[[target]]\nfile = \"t.txt\"\n");
    let done = plimsoll(&["check", &plan]);
    assert_eq!((done.code, done.stdout.as_str()), (2, ""));
    for words in [
        "t.txt:1:5: the variable GATEWAY is not set",
        "hint: set it with --set GATEWAY=VALUE or in the environment",
        "t.txt:3:6: \"h/\" is not a valid URL",
    ] {
        assert!(done.stderr.contains(words), "{words}\n{}", done.stderr);
    }
}
