//! Targets of several requests: from files, on the wire, and from the resolved plan alone.

use crate::run::{Folder, RPC_RESULT, Ran, plimsoll};
use crate::server::{Reply, Server};
use std::collections::BTreeMap;

/// How often each request was asked for.
fn asked(server: &Server) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for asked in server.asked() {
        *counts.entry(format!("{} {}", asked.line(), asked.body)).or_insert(0) += 1;
    }
    counts
}

#[test]
fn a_files_requests_share_its_weight_evenly_and_the_run_directory_needs_no_file() {
    let server = Server::start(|_, asked| match asked.body.contains("jsonrpc") {
        true => Reply::ok(RPC_RESULT),
        false => Reply::ok("fine"),
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
    let ran = Ran::of(plimsoll(&args));
    assert_eq!(ran.count("/requests/ok"), 600, "{}", ran.summary);
    assert_eq!(ran.summary["targets"].as_array().unwrap().len(), 2, "a name for each file");
    assert_eq!(ran.count("/tags/chain/boba/requests/ok"), 400);
    let first = asked(&server);
    assert_eq!(first.values().copied().collect::<Vec<_>>(), [100, 100, 200, 200], "{first:?}");
    assert_eq!(first["POST /two from a file"], 200);
    assert_eq!(first["POST /four {\"x\":{}}"], 100);

    // The resolved plan holds the files: they may go, and it sends the same again.
    for file in ["targets-boba.txt", "kava.jsonl", "body.txt", "plan.toml"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    let resolved = format!("{out}/plan.toml");
    let again = Ran::of(plimsoll(&["run", &resolved, "--no-out", "--format", "json"]));
    assert_eq!(again.count("/requests/ok"), 600, "{}", again.summary);
    let doubled: BTreeMap<_, _> = first.into_iter().map(|(line, n)| (line, 2 * n)).collect();
    assert_eq!(asked(&server), doubled);
}

#[test]
fn check_names_every_problem_of_a_file() {
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
