//! Secrets are planted in every place that may hold one, and all of a gateway's output is searched for
//! them.

use crate::gateway::{BLOCK_NUMBER, Process, ask};
use crate::run::{Folder, command};
use nix::sys::signal::Signal;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

/// In a variable, in each part of URLs that are written out, in headers, in endpoints' ids.
const SECRETS: [&str; 18] = [
    "s3cret-in-variable",
    "9aa3d95b3bc440fa88ea12eaa4456161",
    "k3y-in-query",
    "t0ken-in-header",
    "1764014188689_1764014188693",
    "s3cret-in-whole-url-4711",
    "0f9e8d7c6b5a49382716",
    "fragmentsecret",
    "hunter2",
    "matrixsecret",
    "73019284650192837465",
    "correct-horse-battery-staple",
    "tenantsecret",
    "defaultsecret",
    "unclosedsecret",
    "malformedsecret",
    "n0tAWord",
    "customer-4711",
];

fn search(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} contains {secret}:\n{text}");
    }
}

/// A configuration with secrets in all places; its upstreams are at this port.
fn configuration(port: u16) -> String {
    format!(
        "listen = [\"127.0.0.1:0\"]\naccess_log = {{ sample = \"100%\", file = \"calls.log\" }}\n\
         instances = [\"http://127.0.0.1:{port}/9aa3d95b3bc440fa88ea12eaa4456161\"]\n\
         [[upstream]]\nid = \"a\"\nservice = \"eth\"\n\
         url = \"http://127.0.0.1:{port}/v3/${{NODE_KEY}}?apikey=k3y-in-query\"\n\
         headers = {{ Authorization = \"Bearer t0ken-in-header\" }}\n\
         [[upstream]]\nid = \"b\"\nservice = \"boba\"\nurl = \"${{NODE_URL}}\"\n\
         [[upstream]]\nid = \"d\"\nservice = \"mantle\"\nheaders = {{ X-Tenant = \"tenantsecret\" }}\n\
         url = \"http://0f9e8d7c6b5a49382716.invalid/eth;key=matrixsecret/n0tAWord?p=hunter2\"\n\
         [[upstream]]\nid = \"e\"\nservice = \"kava\"\nheaders = {{ Accept = \"text/json\" }}\n\
         url = \"http://127.0.0.1:{port}/73019284650192837465/correct-horse-battery-staple/eth\"\n\
         [[upstream]]\nid = \"f\"\nservice = \"kava\"\nurl = \"http://127.0.0.1:{port}/v1/eth?x=${{NO_KEY:-defaultsecret}}#fragmentsecret\"\n\
         [[endpoint]]\nid = \"customer-4711\"\nservice = \"eth\"\nmethods = {{ deny = [\"debgu_*\"] }}\n\
         [[endpoint]]\nid = \"ethpath_1764014188689_1764014188693\"\nservice = \"eth\"\n"
    )
}

/// Output of commands, without the ids that are printed on purpose.
fn without_ids(text: &str) -> String {
    text.replace("\"ethpath_1764014188689_1764014188693\"", "").replace("\"customer-4711\"", "")
}

#[test]
fn no_output_contains_a_secret() {
    let folder = Folder::new();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let log = folder.path().join("calls.log");
    // Files that an earlier version or another program has left readable for everyone.
    for file in ["calls.log", "x.db"] {
        let path = folder.file(file, String::new());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let path = folder.file("gateway.toml", configuration(port));
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
        search(&format!("{args:?}"), &without_ids(&text));
    }
    let mut check = command(&["check", &path]);
    let checked = check.envs(variables).output().unwrap();
    search("check", &without_ids(&String::from_utf8_lossy(&checked.stdout)));
    let (_, printed) = run(&["gateway", "--config", &path, "--print-config"]);
    for readable in [
        "/v1/eth?x=${NO_KEY:-[redacted]}#[redacted]\"",
        "http://[redacted].invalid/[redacted]/[redacted]?p=[redacted]",
        "\"accept\" = \"text/json\"",
        "\"x-tenant\" = \"[redacted]\"",
        "endpoint cust…4711: methods.deny \"debgu_*\"",
    ] {
        assert!(printed.contains(readable), "{readable} in {printed}");
    }

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
        "POST //api/gateway/customer-4711",
        "POST /Api/gateway/customer-4711",
        "POST /api/gatewaycustomer-4711",
        "POST /api/v1/gateway/customer-4711",
        "POST /api%2fgateway/customer-4711",
        "POST /customer-4711",
        "POST /v1/customer-4711",
        "GET /ready/customer-4711?endpoint=ethpath_1764014188689_1764014188693",
        "POST /api/gateway&endpoint=customer-4711",
        "POST /api/gateway;endpoint=customer-4711",
    ] {
        let body = if request.starts_with("POST") { BLOCK_NUMBER } else { "" };
        let response = ask(&address, request, body);
        answers += &format!("{}{}\n", response.head, response.body);
    }
    // What a caller asked for is repeated to it.
    search("an answer", &answers.replace("customer-4711", ""));
    assert!(answers.contains("cannot reach the upstream: the connection was refused"), "{answers}");
    assert!(
        !answers.contains(&port.to_string()),
        "an answer contains an upstream's address:\n{answers}"
    );
    process.wait_for("attempt failed");

    // The warning about a new entry is found although it shows the id masked.
    let add = ["gateway", "endpoint", "add", "another", "--service", "eth", "--deny", "debgu_*"];
    let (_, text) = run(&add);
    assert!(text.contains("warning: endpoint an…er: methods.deny \"debgu_*\""), "{text}");

    // The access log, rotated and reopened.
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    while read(&log).lines().count() < 17 {
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
    assert_eq!(read(&moved).lines().count(), 17);
    search("the access log", &(read(&log) + &read(&moved)));
    assert!(read(&moved).contains("\"endpoint\":\"ethp…8693\""), "{}", read(&moved));
    assert!(read(&moved).contains("\"error\":\"unreachable\""), "{}", read(&moved));
    for file in [log, moved, folder.path().join("x.db")] {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    search("stderr", &process.stop());
}

#[test]
fn no_refusal_contains_a_secret() {
    let folder = Folder::new();
    let refused = |config: &str, flags: &[&str], words: &str| {
        let path = folder.file("gateway.toml", config);
        let args = [&["gateway", "--config", &path, "--database", "off"], flags].concat();
        let done = command(&args).output().unwrap();
        let text = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{text}");
        assert!(text.contains(words), "{text}");
        search(words, &text);
    };
    let endpoint = "[[endpoint]]\nid = \"customer-4711\"\nservice = \"eth\"\n";
    refused(&endpoint.repeat(2), &[], "a second endpoint with the id \"cust…4711\"");
    let upstream =
        |url: &str| format!("[[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{url}\"\n");
    refused(&upstream("https://h/${unclosedsecret"), &[], "a \"${\" without \"}\"");
    refused(&upstream("https://h/${malformedsecret-}"), &[], "letters, digits and \"_\"");
    refused(&upstream("hunter2"), &[], "\"url\": ");
    let url = "https://h/v3/9aa3d95b3bc440fa88ea12eaa4456161";
    refused("", &["--upstream", url], "\"https://h/v3/[redacted]\" is not SERVICE=URL");
    let url = "eth:https://h/v3/k3y-in-query?a=hunter2";
    refused("", &["--upstream", url], "\"eth:https://h/v3/[redacted]?a=[redacted]\" is not");
}
