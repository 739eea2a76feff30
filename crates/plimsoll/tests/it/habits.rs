//! The command line as people who know other load generators type it.

use crate::run::{Done, Folder, RunResult, command, plimsoll};
use crate::server::{Reply, Server};
use std::io::Write;
use std::process::Stdio;

fn answering() -> Server {
    Server::start(|_, _| Reply::ok("fine"))
}

/// Runs `plimsoll run` with these arguments; every request must be answered.
fn run(args: &[&str]) -> RunResult {
    let result =
        RunResult::of(plimsoll(&[&["run", "--no-out", "--format", "json"], args].concat()));
    assert_eq!(result.count("/requests/ok"), result.count("/requests/scheduled"), "{args:?}");
    result
}

#[test]
fn a_url_is_an_argument() {
    let server = answering();
    let port = server.address.port();
    for url in [format!("http://127.0.0.1:{port}/a"), format!("127.0.0.1:{port}/a?b#c")] {
        for args in [vec![url.as_str(), "-n", "2"], vec!["-n", "2", "--url", url.as_str()]] {
            assert_eq!(run(&args).count("/requests/ok"), 2);
            assert!(server.received().last().unwrap().line().starts_with("GET /a"));
        }
    }
    let local = format!(":{port}");
    assert_eq!(run(&["-n", "1", &local]).summary["name"], format!("localhost:{port}"));
}

#[test]
fn numbers_without_units() {
    let server = answering();
    let url = server.url();
    let result = run(&[&url, "--rate", "40", "--duration", "0.5", "--timeout", "5"]);
    assert_eq!(result.count("/requests/scheduled"), 20);
    let result = run(&[&url, "-q", "0.1k", "-z", "0.2", "--warmup", "0.1s"]);
    assert_eq!(result.count("/requests/scheduled"), 20);
    let result = run(&[&url, "--rps", "5/100ms", "-d", "200ms"]);
    assert_eq!(result.count("/requests/scheduled"), 10);
}

#[test]
fn connections_without_a_rate_are_users() {
    let server = answering();
    let url = server.url();
    assert_eq!(run(&[&url, "-c", "3", "-n", "30"]).count("/connections/opened"), 3);
    assert_eq!(run(&[&url, "-c", "3", "-u", "2", "-n", "30"]).count("/connections/opened"), 2);
    let result = run(&[&url, "--concurrency", "1", "--rate", "500", "-n", "10"]);
    assert_eq!(result.count("/connections/opened"), 1, "a rate is the open model");
}

#[test]
fn keep_alive_redirects_and_method() {
    let server = Server::start(|_, received| match received.line() {
        "GET /from" => Reply::with(302, "Location: /to\r\n", ""),
        _ => Reply::ok("fine"),
    });
    let url = format!("{}/from", server.url());
    assert_eq!(run(&[&url, "-n", "4", "--no-keepalive"]).count("/connections/opened"), 4);
    assert_eq!(run(&[&url, "-n", "1"]).count("/status/302"), 1);
    assert_eq!(run(&[&url, "-n", "1", "--redirects", "1"]).count("/status/200"), 1);
    let lower = run(&[&url, "-n", "1", "-m", "get"]);
    let warning = "warning: url: \"get\" is not a known HTTP method and is sent as it is; methods \
                   are case-sensitive: write \"GET\"";
    assert!(lower.done.stderr.contains(warning), "{}", lower.done.stderr);
    assert_eq!(server.received().last().unwrap().line(), "get /from");
}

#[test]
fn chunked_bodies_are_valid_on_the_wire() {
    let server = answering();
    let url = server.url();
    run(&[&url, "-n", "1", "--chunked", "-b", "hello"]);
    run(&[&url, "-n", "1", "--chunked", "-b", "{{seq}}{{{{seq}}"]);
    run(&[&url, "-n", "1", "--chunked", "-b", ""]);
    run(&[&url, "-n", "1", "--chunked"]);
    let received = server.received();
    let framed = |number: usize| {
        let received = &received[number];
        let header = |name: &str| received.header(name).map(str::to_string);
        (header("transfer-encoding"), header("content-length"), received.body.clone())
    };
    let chunked = |body: &str| (Some("chunked".to_string()), None, body.to_string());
    assert_eq!(framed(0), chunked("5\r\nhello\r\n0\r\n\r\n"));
    assert_eq!(framed(1), chunked("8\r\n0{{seq}}\r\n0\r\n\r\n"));
    assert_eq!(framed(2), chunked("0\r\n\r\n"));
    assert_eq!(framed(3), (None, None, String::new()), "a GET has no body");
}

#[test]
fn a_plan_may_come_from_stdin() {
    let server = answering();
    let plan = format!(
        "name = \"piped\"\nrate = 100\nrequests = 3\n[[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let mut child = command(&["run", "-", "--no-out", "--format", "json"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(plan.as_bytes()).unwrap();
    let result = RunResult::of(Done::from(child.wait_with_output().unwrap()));
    assert_eq!((result.count("/requests/ok"), &result.summary["name"]), (3, &"piped".into()));
}

#[test]
fn an_objective_may_be_added_to_a_plan() {
    let server = Server::start(|_, received| {
        Reply::with(if received.line() == "GET /b" { 500 } else { 200 }, "", "")
    });
    let folder = Folder::new();
    let url = server.url();
    let plan = folder.file(
        "plan.toml",
        format!(
            "rate = 100\nrequests = 4\n[[target]]\nname = \"a\"\ntags = {{ chain = \"eth\" }}\n\
             request = \"GET {url}/a\"\n[[target]]\nname = \"b\"\nrequest = \"GET {url}/b\"\n"
        ),
    );
    let code = |objectives: &[&str]| {
        let mut args = vec!["run", &plan, "--no-out", "--format", "json"];
        objectives.iter().for_each(|objective| args.extend(["--objective", objective]));
        let result = RunResult::of(plimsoll(&args));
        (result.summary["objectives"].clone(), result)
    };
    let (objectives, result) = code(&["success == 100% where chain=eth", "status.5xx <= 50%"]);
    result.assert_code(0);
    assert_eq!(objectives[0]["where"]["chain"], "eth");
    let (_, result) = code(&["success == 100% where target=b"]);
    result.assert_code(99);
}

#[test]
fn mistakes_that_would_send_something_else_are_explained() {
    let folder = Folder::new();
    let file = folder.file("payload.json", "{}");
    let server = answering();
    let sent = plimsoll(&["run", &server.url(), "-n", "1", "--no-out", "-b", &file]);
    let hint = format!("hint: --body @{file} sends the file");
    assert!(sent.code == 0 && sent.stderr.contains(&hint), "{}", sent.stderr);
    assert_eq!(run(&[&server.url(), "-n", "0.005k"]).count("/requests/ok"), 5);
    for (args, says) in [
        (["-H", "http://h/"], "-H is followed by a URL, not by a header"),
        (["--rate", "-5"], "--rate -5 is negative"),
        (["-n", "-5"], "it cannot be negative"),
        (["-n", "1.5"], "write a whole number"),
        (["--objective", "status.6xx < 1"], "hint: HTTP has the classes 1xx to 5xx"),
    ] {
        let refused = plimsoll(&["run", "http://127.0.0.1:1/", args[0], args[1]]);
        assert_eq!(refused.code, 2, "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(says), "{args:?}: {}", refused.stderr);
    }
}
