//! Signals, stderr and supervision under adverse conditions: blocking files, full pipes, killed
//! instances, missing binaries.

use crate::gateway::{BLOCK_NUMBER, Caller, Process, ask, eth, metric};
use crate::run::{Folder, command};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn blocking_files_do_not_delay_signals() {
    let (folder, sim) = (Folder::new(), eth());
    let url = sim.url("eth");
    let file = folder.file(
        "gateway.toml",
        format!("[[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{url}\"\n"),
    );
    let process = Process::start(&folder, &["--listen", "127.0.0.1:0", "--database", "off"]);
    let address = process.address("");
    // Reading it blocks: there is never a writer.
    let fifo = folder.path().join("fifo");
    make_fifo(&fifo);
    std::fs::rename(fifo, file).unwrap();
    for _ in 0..3 {
        process.signal(Signal::SIGHUP);
        assert_eq!(ask(&address, "POST /v1", BLOCK_NUMBER).status, 200);
    }
    assert!(process.stop().contains("stopped after"));
}

#[test]
fn an_unread_stderr_blocks_nothing() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream = format!("eth={}", sim.url("eth"));
    let mut command = command(&["gateway", "--database", "off", "--upstream", &upstream]);
    command.args(["--listen", "127.0.0.1:0"]).current_dir(folder.path());
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on http://") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the gateway exited");
    }
    let address = line.split("http://").nth(1).unwrap().trim().to_string();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    // Each reload logs a line; the pipe holds 64 KiB.
    for n in 0..3_000 {
        nix::sys::signal::kill(pid, Signal::SIGHUP).unwrap();
        if n % 3 == 0 {
            assert_eq!(ask(&address, "GET /ready", "").status, 200);
        }
    }
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("reloaded: "), "{rest}");
}

/// The pid of a supervisor's child that has this among its arguments.
fn child_of(process: &Process, argument: &str) -> i32 {
    let parent = process.id().to_string();
    let found = Command::new("pgrep").args(["-P", &parent, "-f", argument]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().trim().parse().unwrap()
}

fn kill_child(process: &Process, argument: &str) {
    let pid = nix::unistd::Pid::from_raw(child_of(process, argument));
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
}

#[test]
fn instances_listen_on_every_address() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream = format!("eth={}", sim.url("eth"));
    let listen = "127.0.0.1:0,127.0.0.2:0";
    let process =
        Process::start(&folder, &["--instances", "2", "--listen", listen, "--upstream", &upstream]);
    process.wait_for("2 instances");
    for name in ["gw-1", "gw-2"] {
        for ip in ["127.0.0.1", "127.0.0.2"] {
            let text = format!("{name}: listening on http://{ip}:");
            let said = process.wait_for(&text);
            let rest = said.split(&text).nth(1).unwrap_or_else(|| panic!("{text}\n{said}"));
            let port = rest.split_whitespace().next().unwrap();
            assert_eq!(ask(&format!("{ip}:{port}"), "GET /ready", "").status, 200);
        }
    }
    process.stop();
}

#[test]
fn an_instance_is_restarted_although_its_binary_is_gone() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream = format!("eth={}", sim.url("eth"));
    let program = folder.path().join("copy");
    std::fs::copy(command(&[]).get_program(), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["gateway", "--instances", "2", "--listen", "127.0.0.1:0", "--database", "off"]);
    command.args(["--upstream", &upstream]).current_dir(folder.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let process = Process::spawn(command);
    process.wait_for("2 instances");
    std::fs::remove_file(&program).unwrap();
    kill_child(&process, "instance=gw-1");
    process.wait_for_next("gw-1 was killed by signal 9 (SIGKILL)");
    process.wait_for_next("gw-1: listening on http://");
    process.stop();
}

#[test]
fn a_child_that_is_never_ready_does_not_block_shutdown() {
    let folder = Folder::new();
    let fifo = folder.path().join("access.log");
    // Opening it blocks: there is never a reader.
    make_fifo(&fifo);
    let config = "access_log = { sample = \"100%\", file = \"access.log\" }\ndatabase = \"off\"\n";
    folder.file("gateway.toml", config);
    let process = Process::start(&folder, &["--instances", "2", "--listen", "127.0.0.1:0"]);
    while child_count(&process) < 2 {
        std::thread::yield_now();
    }
    process.signal(Signal::SIGTERM);
    process.end();
}

fn child_count(process: &Process) -> usize {
    let parent = process.id().to_string();
    let found = Command::new("pgrep").args(["-P", &parent]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().count()
}

#[test]
fn an_instance_is_restarted_with_the_last_valid_configuration() {
    let (folder, sim) = (Folder::new(), eth());
    let url = sim.url("eth");
    let good = format!("[[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{url}\"\n");
    folder.file("gateway.toml", &good);
    let args = ["--instances", "2", "--listen", "127.0.0.1:0", "--database", "off"];
    let process = Process::start(&folder, &args);
    process.wait_for("2 instances");
    folder.file("gateway.toml", "no = \"such key\"\n");
    process.wait_for_line("gw-1: 20", "ERROR config change rejected");
    kill_child(&process, "instance=gw-1");
    process.wait_for_next("gw-1 was killed by signal 9 (SIGKILL)");
    process.wait_for_next("the configuration is not valid; using the last valid one");
    process.wait_for_next("gw-1: listening on http://");
    let address = process.address("gw-1");
    assert_eq!(ask(&address, "POST /v1", BLOCK_NUMBER).status, 200);
    while metric(&address, "plimsoll_config_rejected") != 1.0 {
        std::thread::yield_now();
    }
    // Once the file is valid again, it is used.
    folder.file("gateway.toml", good.replace("\"a\"", "\"b\""));
    process
        .wait_for_line("gw-1: 20", " INFO reloaded: added 1 upstream (b); removed 1 upstream (a)");
    let answered = ask(&address, "POST /v1", BLOCK_NUMBER);
    assert_eq!(answered.header("x-plimsoll-upstream"), Some("b"), "{}", answered.head);
    process.stop();
}

#[test]
fn callers_leave_descriptors_for_upstreams() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream = format!("eth={}", sim.url("eth"));
    let program = command(&[]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 100 && exec \"$0\" \"$@\""]).arg(program.get_program());
    limited.args(["gateway", "--listen", "127.0.0.1:0", "--database", "off"]);
    limited.args(["--upstream", &upstream]).current_dir(folder.path());
    limited.stdout(Stdio::piped()).stderr(Stdio::piped());
    let process = Process::spawn(limited);
    let address = process.address("");
    // More connections than descriptors. The first ones are accepted, and their calls still need an
    // upstream connection.
    let mut idle: Vec<_> = (0..300).map(|_| Caller::connect(&address).unwrap()).collect();
    for caller in &mut idle[..10] {
        assert_eq!(caller.send("POST /v1", BLOCK_NUMBER).unwrap().status, 200);
    }
    drop(idle);
    process.stop();
}

/// Answers every request on each connection with the same response.
fn answer_with(listener: TcpListener, status: &str, body: &str) {
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { continue };
            let response = response.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while socket.read(&mut buffer).is_ok_and(|n| n > 0) {
                    if socket.write_all(response.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

#[test]
fn failed_calls_are_logged_with_their_reason() {
    let folder = Folder::new();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let denying = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = format!(
        "listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n\
         [[upstream]]\nid = \"gone\"\nservice = \"eth\"\nurl = \"http://{address}/\"\n\
         [[upstream]]\nid = \"denying\"\nservice = \"boba\"\nurl = \"http://{}/\"\n\
         [[endpoint]]\nid = \"to-eth\"\nservice = \"eth\"\n\
         [[endpoint]]\nid = \"to-boba\"\nservice = \"boba\"\n",
        denying.local_addr().unwrap()
    );
    folder.file("gateway.toml", file);
    answer_with(denying, "403 Forbidden", "unknown key \u{1b}[31m\r\nabc12");
    let process = Process::start(&folder, &[]);
    let own = process.address("");
    let call = |service: &str| ask(&own, &format!("POST /api/gateway/to-{service}"), BLOCK_NUMBER);
    call("boba");
    let line = process.wait_for("unknown key");
    let line = line.lines().find(|line| line.contains("unknown key")).unwrap();
    for part in [
        "WARN",
        "upstream denying: attempt failed: the upstream answered with HTTP status 403; response: \"unknown key [31m abc12\"",
        "upstream=\"denying\"",
        "service=\"boba\"",
        "kind=\"unauthorized\"",
        "status=403",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(line.starts_with("20") && line.contains("Z "), "no timestamp: {line}");
    // An outage takes at least a second.
    for _ in 0..1_000_000 {
        if process.has_logged("upstream gone is failing") {
            break;
        }
        call("eth");
    }
    let line = process.wait_for_line("20", "upstream gone is failing");
    // The system's message would repeat the reason.
    let reason = "attempts in a row failed; last: cannot reach the upstream: the connection was \
                  refused upstream=\"gone\"";
    assert!(line.contains("ERROR upstream gone is failing") && line.contains(reason), "{line}");
    assert_eq!(metric(&own, "plimsoll_upstream_usable{service=\"eth\",upstream=\"gone\"}"), 0.0);
    assert_eq!(ask(&own, "GET /ready", "").status, 200, "it may answer the next call");
    let details = ask(&own, "GET /ready?detailed=true", "").json();
    let endpoint = &details["services"]["eth"]["endpoints"][0];
    assert_eq!(endpoint["address"], "gone", "{details}");
    assert!(endpoint["error"].as_str().unwrap().starts_with("unreachable: "), "{details}");
    let reverted = "{\"error\":{\"code\":3,\"message\":\"reverted\"}}";
    answer_with(TcpListener::bind(address).unwrap(), "200 OK", reverted);
    call("eth");
    let line = process.wait_for_line("20", "upstream gone is answering again, after");
    assert!(line.contains("INFO") && line.contains(" failed attempts"), "{line}");
    // Until its breaker has closed, after several answers.
    let usable = "plimsoll_upstream_usable{service=\"eth\",upstream=\"gone\"}";
    while metric(&own, usable) < 1.0 {
        call("eth");
    }
    let details = ask(&own, "GET /ready?detailed=true", "").json();
    assert_eq!(details["services"]["eth"]["endpoints"][0]["error"], Value::Null, "{details}");
    process.stop();
}

#[test]
fn rest_failures_are_logged_and_the_access_log_has_each_error() {
    let folder = Folder::new();
    let denying = TcpListener::bind("127.0.0.1:0").unwrap();
    let limiting = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = format!(
        "listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n\
         access_log = {{ sample = \"100%\", file = \"access.log\" }}\n\
         [[service]]\nid = \"beacon\"\nrest = true\n\
         [[upstream]]\nid = \"denying\"\nservice = \"beacon\"\nurl = \"http://{}/\"\n\
         [[upstream]]\nid = \"limiting\"\nservice = \"eth\"\nurl = \"http://{}/\"\n\
         [[endpoint]]\nid = \"endpoint-a\"\nservice = \"eth\"\nmethods = {{ deny = [\"Eth_sign*\"] }}\n",
        denying.local_addr().unwrap(),
        limiting.local_addr().unwrap()
    );
    folder.file("gateway.toml", file);
    answer_with(denying, "401 Unauthorized", "no such key");
    let limited = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32097,"message":"rate limit"}}"#;
    answer_with(limiting, "429 Too Many Requests", limited);
    let process = Process::start(&folder, &[]);
    process.wait_for(
        "warning: endpoint end…t-a: methods.deny \"Eth_sign*\" matches no known method; did you mean \
         \"eth_sign*\"?",
    );
    let own = process.address("");
    let rest = "GET /v1/eth/v1/node/version HTTP/1.1\r\nTarget-Service-Id: beacon\r\n\
                X-Request-ID: r-1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let mut socket = TcpStream::connect(&own).unwrap();
    socket.write_all(rest.as_bytes()).unwrap();
    socket.read_to_end(&mut Vec::new()).unwrap();
    let line = process.wait_for("no such key");
    for part in ["upstream=\"denying\"", "service=\"beacon\"", "status=401"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    ask(&own, "POST /api/gateway/endpoint-a", BLOCK_NUMBER);
    ask(&own, "POST /api/gateway/endpoint-b", BLOCK_NUMBER);
    // (part of the line, its error, code, upstream status, attempts and service)
    let rows = [
        ("\"request_id\":\"r-1\"", json!(["upstream_denied", -32002, 401, 1, "beacon"])),
        ("\"endpoint\":\"end…t-a\"", json!(["upstream_limited", -32005, 429, 1, "eth"])),
        ("\"endpoint\":\"end…t-b\"", json!(["unknown_endpoint", -32001, null, 0, null])),
    ];
    for (part, expected) in rows {
        let line = loop {
            let log = std::fs::read_to_string(folder.path().join("access.log")).unwrap_or_default();
            if let Some(line) = log.lines().find(|line| line.contains(part)) {
                break line.to_string();
            }
            std::thread::yield_now();
        };
        let line: Value = serde_json::from_str(&line).unwrap();
        let keys = ["error", "code", "upstream_status", "attempts", "service"];
        let found = json!(keys.map(|key| &line[key]));
        assert_eq!(found, expected, "{line}");
    }
    process.stop();
}
