//! Secrets are planted in every place that may hold one, and all of a gateway's output is searched for
//! them.

use crate::gateway::{BLOCK_NUMBER, Process, ask};
use crate::run::{Folder, command};
use nix::sys::signal::Signal;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

/// In a variable, in URLs that are written out, in headers, in an endpoint's id.
const SECRETS: [&str; 6] = [
    "s3cret-in-variable",
    "9aa3d95b3bc440fa88ea12eaa4456161",
    "k3y-in-query",
    "t0ken-in-header",
    "1764014188689_1764014188693",
    "s3cret-in-whole-url-4711",
];

fn search(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} contains {secret}:\n{text}");
    }
}

#[test]
fn no_output_contains_a_secret() {
    let folder = Folder::new();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let file = format!(
        "listen = [\"127.0.0.1:0\"]\naccess_log = {{ sample = \"100%\", file = \"calls.log\" }}\n\
         instances = [\"http://127.0.0.1:{port}/9aa3d95b3bc440fa88ea12eaa4456161\"]\n\
         [[upstream]]\nid = \"a\"\nservice = \"eth\"\n\
         url = \"http://127.0.0.1:{port}/v3/${{NODE_KEY}}?apikey=k3y-in-query\"\n\
         headers = {{ Authorization = \"Bearer t0ken-in-header\" }}\n\
         [[upstream]]\nid = \"b\"\nservice = \"boba\"\nurl = \"${{NODE_URL}}\"\n\
         [[endpoint]]\nid = \"ethpath_1764014188689_1764014188693\"\nservice = \"eth\"\n"
    );
    let path = folder.file("gateway.toml", file);
    let url = format!("http://127.0.0.1:{port}/s3cret-in-whole-url-4711");
    let variables = [("NODE_KEY", "s3cret-in-variable"), ("NODE_URL", &*url)];

    // Output of commands.
    let database = format!("sqlite:{}", folder.path().join("x.db").display());
    let run = |args: &[&str]| {
        let mut command = command(&[args, &["--database", &database]].concat());
        let done = command.envs(variables).current_dir(folder.path()).output().unwrap();
        let text = [done.stdout, done.stderr].concat();
        (done.status.code(), String::from_utf8(text).unwrap())
    };
    run(&["gateway", "upstream", "add", "c", "--service", "eth", "--url", &url]);
    for args in [
        &["gateway", "--print-config"][..],
        &["gateway", "upstream", "list"],
        &["gateway", "upstream", "list", "--format", "json"],
        &["gateway", "upstream", "show", "a"],
        &["gateway", "upstream", "show", "c"],
    ] {
        let (code, text) = run(args);
        assert_eq!(code, Some(0), "{args:?}: {text}");
        // The endpoint's id is printed on purpose.
        search(&format!("{args:?}"), &text.replace("ethpath_1764014188689_1764014188693", ""));
    }
    let mut check = command(&["check", &path]);
    let checked = check.envs(variables).output().unwrap();
    search(
        "check",
        &String::from_utf8_lossy(&checked.stdout)
            .replace("ethpath_1764014188689_1764014188693", ""),
    );

    // Answers and logs of a gateway.
    let mut started = command(&["gateway", "--config", &path, "--database", &database]);
    started.envs(variables).current_dir(folder.path());
    let process = Process::spawn(started);
    let address = process.address("");
    let mut answers = String::new();
    for request in [
        "POST /api/gateway?endpoint=ethpath_1764014188689_1764014188693",
        "POST /api/gateway/ethpath_1764014188689_1764014188693",
        "POST /v1",
        "GET /v1/x",
        "GET /metrics",
        "GET /ready?detailed=true",
        "GET /healthz",
    ] {
        let body = if request.starts_with("POST") { BLOCK_NUMBER } else { "" };
        let response = ask(&address, request, body);
        answers += &format!("{}{}\n", response.head, response.body);
    }
    search("an answer", &answers);
    assert!(answers.contains("cannot reach the upstream: the connection was refused"), "{answers}");
    assert!(
        !answers.contains(&port.to_string()),
        "an answer contains an upstream's address:\n{answers}"
    );
    process.wait_for("attempt failed");

    // The access log, rotated and reopened.
    let log = folder.path().join("calls.log");
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    while read(&log).lines().count() < 7 {
        std::thread::yield_now();
    }
    let moved = folder.path().join("calls.log.1");
    std::fs::rename(&log, &moved).unwrap();
    process.signal(Signal::SIGHUP);
    while !log.exists() {
        std::thread::yield_now();
    }
    ask(&address, "POST /v1", BLOCK_NUMBER);
    while read(&log).lines().count() < 1 {
        std::thread::yield_now();
    }
    assert_eq!(read(&moved).lines().count(), 7);
    search("the access log", &(read(&log) + &read(&moved)));
    assert!(read(&moved).contains("\"endpoint\":\"ethp…8693\""), "{}", read(&moved));
    assert!(read(&moved).contains("\"error\":\"unreachable\""), "{}", read(&moved));
    for file in [log, moved, folder.path().join("x.db")] {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    search("stderr", &process.stop());
}
