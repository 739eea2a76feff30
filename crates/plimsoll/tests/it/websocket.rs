//! JSON-RPC calls over WebSocket: the simulator in clear and over TLS, a server on npm's `ws`, one on
//! Python's `websockets`, ganache, and servers that break the protocol.

use crate::clients::Chains;
use crate::http2::certified;
use crate::run::{RunResult, plimsoll, run_plan};
use plimsoll_measure::Nanos;
use plimsoll_sim::{Distribution, Fault, FaultKind, Service, Settings, Sim, TlsFiles};
use plimsoll_websocket::{Opcode, accept_of, put};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

fn plan(load: &str, url: &str) -> String {
    format!(
        "{load}\ntimeout = \"2s\"\ntls = {{ insecure = true }}\n[[target]]\nws = \"{url}\"\n\
         body = '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_chainId\",\"params\":[]}}'\n"
    )
}

fn websocket(url: &str) -> String {
    url.replacen("http", "ws", 1)
}

/// Runs 300 calls of users and as many planned ones, which must all succeed over `at_most` connections.
fn all_ok(url: &str, at_most: u64) {
    for load in ["users = 30\nrequests = 300", "rate = \"300/s\"\nduration = \"1s\""] {
        let load =
            format!("{load}\nconnections.websocket = {{ connections = {at_most}, calls = 40 }}");
        let result = run_plan(&plan(&load, url), &[]);
        assert!([0, 98].contains(&result.done.code), "{}", result.done.stdout);
        assert_eq!(result.count("/requests/ok"), 300, "{}", result.summary["notes"]);
        let opened = result.count("/connections/opened");
        assert!((1..=at_most).contains(&opened), "{opened} connections");
        assert!(result.summary["status"].as_object().is_none_or(|counts| counts.is_empty()));
    }
}

#[test]
fn the_simulator_in_clear_and_over_tls() {
    let folder = certified();
    let files = |name: &str| folder.path().join(name);
    let tls = Some(TlsFiles { cert: files("cert.pem"), key: files("key.pem") });
    for tls in [None, tls] {
        let latency = Distribution::Uniform { from: Nanos::ZERO, to: Nanos::from_millis(9) };
        let settings = Settings::for_tests(1, [Service::named("eth").unwrap()]);
        let sim = Sim::start(Settings { tls, latency: Some(latency), ..settings }).unwrap();
        all_ok(&websocket(&sim.url("eth")), 3);
        assert_eq!(sim.counts().requests, 600, "each call was sent once");
        let seen = sim.seen();
        let ids: std::collections::HashSet<_> =
            seen.iter().map(|call| (call.connection, call.body.clone())).collect();
        assert_eq!(ids.len(), 600, "each call of a connection has its own id");
    }
}

#[test]
fn faults_of_the_target_are_named() {
    let sim = Sim::start(Settings::for_tests(1, [Service::named("eth").unwrap()])).unwrap();
    let url = websocket(&sim.url("eth"));
    let failing = |fault: Fault, class: &str| {
        sim.set_faults(vec![fault]);
        let text = plan("users = 5\nrequests = 200", &url).replace("\"2s\"", "\"200ms\"");
        let result = run_plan(&text, &[]);
        let failed = result.errors(class);
        assert!(failed > 0, "{class}: {}", result.summary["errors"]);
        assert_eq!(result.count("/requests/ok") + failed, 200, "{}", result.summary["errors"]);
        format!("{} {}", result.summary["notes"], result.summary["verdict"]["findings"])
    };
    let text = failing(Fault::new(FaultKind::Close { code: 1013 }).for_share(0.05), "closed_early");
    for part in ["with code 1013", "simulated fault", "target closed their WebSocket"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = failing(Fault::new(FaultKind::WrongId).for_share(0.02), "response_timeout");
    assert!(
        text.contains("answered no call of their") || text.contains("answered no call of its"),
        "{text}"
    );
    let error = FaultKind::Error { code: -32005, message: "limit".into() };
    let text = failing(Fault::new(error).for_share(0.1), "rpc_error");
    assert!(text.contains("JSON-RPC error"), "{text}");
    let text = failing(Fault::new(FaultKind::Reset { after: 0 }).for_share(0.05), "reset");
    assert!(text.contains("target_reset"), "{text}");
}

#[test]
fn servers_of_others() {
    for language in ["node", "python"] {
        let server = Chains::websocket(language);
        all_ok(&server.urls[0], 2);
    }
    let chains = Chains::start(1);
    all_ok(&websocket(&chains.urls[0]), 2);
}

/// The simulator, `ws` and `websockets` (whose answers come in fragments) agree to compression, and what is counted is
/// on the wire.
#[test]
fn compression_is_agreed_on_with_servers_that_have_it() {
    let sim = Sim::start(Settings::for_tests(1, [Service::named("eth").unwrap()])).unwrap();
    let servers = ["node", "python"].map(Chains::websocket);
    let others = servers.iter().map(|server| server.urls[0].clone());
    for url in std::iter::once(websocket(&sim.url("eth"))).chain(others) {
        let run = |key: &str| -> RunResult {
            let params = format!("[\"{}\"]", "x".repeat(5_000));
            let text =
                plan("users = 10\nrequests = 100", &url).replace("body", &format!("{key}\nbody"));
            let result = run_plan(&text.replace("eth_chainId", "echo").replace("[]", &params), &[]);
            assert!([0, 98].contains(&result.done.code), "{url}: {}", result.done.stdout);
            assert_eq!(result.count("/requests/ok"), 100, "{url}: {}", result.summary["notes"]);
            let findings = result.summary["verdict"]["findings"].to_string();
            assert!(!findings.contains("target_errors"), "{findings}");
            result
        };
        let (plain, compressed) = (run(""), run("compression = true"));
        for way in ["/bytes/in", "/bytes/out"] {
            let (before, after) = (plain.count(way), compressed.count(way));
            assert!(before > 500_000 && after < 50_000, "{url} {way}: {before}, {after}");
        }
    }
}

/// A server that answers each connection's opening with `answer`, and then writes `then`.
fn scripted(answer: fn(&str) -> String, then: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let then = then.clone();
            std::thread::spawn(move || {
                let Some(key) = key_of(&mut stream) else { return };
                let _ = stream.write_all(answer(&key).as_bytes());
                // After the first call, so that there is one to fail.
                let mut buffer = [0; 1 << 10];
                if stream.read(&mut buffer).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(&then);
                    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
                }
            });
        }
    });
    format!("ws://{address}/")
}

/// The key in the head of a request.
fn key_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    Some(head.split("Sec-WebSocket-Key: ").nth(1)?.trim().to_owned())
}

fn opened(key: &str) -> String {
    let accept = accept_of(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

fn extended(key: &str, extensions: &str) -> String {
    let header = format!("\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n");
    opened(key).replace("\r\n\r\n", &header)
}

#[test]
fn servers_that_break_the_protocol() {
    let check = |answer: fn(&str) -> String, then: &[u8], class: &str, parts: &[&str]| {
        let url = scripted(answer, then.to_vec());
        let text = plan("users = 1\nrequests = 3", &url).replace("\"2s\"", "\"300ms\"");
        let asks = parts.iter().any(|part| part.contains("compress") || part.contains("deflate"));
        let text = if asks { text.replace("body", "compression = true\nbody") } else { text };
        let result = run_plan(&text, &[]);
        assert_eq!(
            (result.errors(class), result.done.code),
            (3, 99),
            "{}",
            result.summary["errors"]
        );
        let notes =
            format!("{} {}", result.summary["notes"], result.summary["verdict"]["findings"]);
        for part in parts {
            assert!(notes.contains(part), "{part}: {notes}");
        }
    };
    let no = "did not open a WebSocket";
    let ok = |_: &str| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned();
    check(ok, b"", "protocol", &["status 200", no]);
    check(|_| opened("other"), b"", "protocol", &["wrong accept key", no]);
    check(|_| String::new(), b"", "protocol", &["did not answer the opening of a WebSocket", no]);
    let broke = "broke the WebSocket protocol";
    check(opened, b"\x81\x81\0\0\0\0x", "protocol", &["wrong masking", broke]);
    check(opened, b"\x09\x01x", "protocol", &["control frame that is fragmented", broke]);
    check(opened, b"\x81\x02\xc3\x28", "protocol", &["not valid UTF-8", broke]);
    check(opened, b"\x81\x7f\x00\x00\x00\x01\x00\x00\x00\x00", "body_too_large", &["max_body"]);
    let mut stray = Vec::new();
    put(&mut stray, Opcode::Text, true, None, br#"{"jsonrpc":"2.0","id":77,"result":1}"#);
    check(opened, &stray, "response_timeout", &["answered no call"]);
    check(opened, b"\x81", "response_timeout", &["target_stalled"]);
    // Compression that was declined, agreed on in another way, or misused.
    let declined = "opened without the compression that the plan asks for";
    check(opened, b"", "response_timeout", &[declined, "enable permessage-deflate"]);
    let agreed = |key: &str| extended(key, "permessage-deflate; server_no_context_takeover");
    let bits = |key: &str| {
        extended(key, "permessage-deflate; server_no_context_takeover; server_max_window_bits=16")
    };
    check(bits, b"", "protocol", &["permessage-deflate", "the bits of a window are 8 to 15", no]);
    let keeps = |key: &str| extended(key, "permessage-deflate; client_no_context_takeover");
    check(keeps, b"", "protocol", &["permessage-deflate without server_no_context_takeover", no]);
    check(
        agreed,
        b"\xc1\x03\xff\xff\xff",
        "protocol",
        &["compressed message that cannot be", broke],
    );
}

#[test]
fn bad_plans_are_explained() {
    let check = |target: &str, parts: &[&str]| {
        let folder = crate::run::Folder::new();
        let text = format!("rate = 1\nduration = \"1s\"\n[[target]]\n{target}\n");
        let done = plimsoll(&["check", &folder.file("plan.toml", text)]);
        assert_eq!(done.code, 2, "{}", done.stdout);
        for part in parts {
            assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
        }
    };
    let body = "body = '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}'";
    check(
        "ws = \"ws://h/\"",
        &["plan.toml:4:6", "needs a body that is one JSON-RPC call with an id"],
    );
    check("ws = \"ws://h/\"\nbody = '[]'", &["one JSON-RPC call"]);
    check("ws = \"ws://h/\"\nbody = '{\"jsonrpc\":\"2.0\",\"method\":\"m\"}'", &["with an id"]);
    check(&format!("ws = \"http://h/\"\n{body}"), &["unsupported scheme \"http\"; use ws or wss"]);
    check(&format!("ws = \"ws://h/{{{{seq}}}}\"\n{body}"), &["a placeholder in the URL"]);
    check(
        &format!("ws = \"ws://h/\"\nrequest = \"GET http://h/\"\n{body}"),
        &["cannot be used together"],
    );
    check("request = \"POST ws://h/\"", &["unsupported scheme \"ws\"", "write ws = "]);
    check(&format!("ws = \"ws://h/\"\ntransfer = \"chunked\"\n{body}"), &["no effect with \"ws\""]);
    let two = format!(
        "ws = \"ws://h/\"\n{body}\n[[target]]\nws = \"ws://h/\"\nheaders = {{ A = \"b\" }}\n{body}"
    );
    check(&two, &["different headers", "give them the same ones"]);
    for header in ["Upgrade = \"x\"", "Connection = \"close\"", "Sec-WebSocket-Key = \"x\""] {
        let target = format!("ws = \"ws://h/\"\nheaders = {{ {header} }}\n{body}");
        check(&target, &["is set by the engine itself when it opens a WebSocket"]);
    }
    let target = format!(
        "ws = \"ws://h/\"\nheaders = {{ Sec-WebSocket-Extensions = \"permessage-deflate\" }}\n{body}"
    );
    check(&target, &["is set by the engine itself", "set compression = true in the target"]);
    let two = format!(
        "ws = \"ws://h/\"\n{body}\n[[target]]\nws = \"ws://h/\"\ncompression = true\n{body}"
    );
    check(&two, &["only some have \"compression\"", "in all of them or in none"]);
    check(
        "request = \"GET http://h/\"\ncompression = true",
        &["\"compression\" requires \"ws\"", "Accept-Encoding"],
    );
    let done = plimsoll(&["run", "ws://127.0.0.1:9/", "-n", "1"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(done.stderr.contains("unsupported scheme \"ws\""), "{}", done.stderr);
}

/// The limit of calls is named, and the advice is enough.
#[test]
fn a_limit_of_calls_is_named_with_a_fix() {
    let latency = Distribution::parse("100ms").ok();
    let settings = Settings::for_tests(1, [Service::named("eth").unwrap()]);
    let sim = Sim::start(Settings { latency, ..settings }).unwrap();
    let run = |connections: u64| -> RunResult {
        let load = format!(
            "rate = \"500/s\"\nduration = \"1s\"\nconnections.websocket = {{ connections = {connections}, calls = 10 }}"
        );
        run_plan(&plan(&load, &websocket(&sim.url("eth"))), &[])
    };
    let low = run(1);
    let finding = &low.summary["verdict"]["findings"][0];
    let evidence = finding["evidence"].as_str().unwrap();
    assert!(
        evidence.contains("10 calls at a time (1 WebSocket connection; 10 on it)"),
        "{evidence}"
    );
    let fix = finding["fix"].as_str().unwrap();
    assert!(fix.starts_with("raise connections.websocket.connections to "), "{fix}");
    let enough = fix.split_whitespace().nth(3).unwrap().trim_end_matches(',');
    let high = run(enough.parse().unwrap());
    assert_eq!(high.count("/requests/ok"), 500, "{}", high.summary["errors"]);
}
