//! Callers that send malformed, incomplete or oversized requests get an error and are disconnected, and
//! do not block the gateway.

use std::sync::{Arc, Barrier};

use plimsoll_gateway::{Gateway, Settings};
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::{AccessLog, Cors, Limits};

use crate::caller::{Caller, call, request, result};
use crate::scripted::{Reply, Upstream};
use crate::setup::{
    ENDPOINT, connect, connections, definitions, metric, node, post, refused, relays, settings,
    start, wait_until,
};

/// Limits that tests can reach; timeouts are long unless a test waits for one.
fn small() -> Limits {
    Limits { body: 1_000, header: 2_000, ..Limits::default() }
}

fn gateway(upstream: &Upstream, limits: Limits) -> Gateway {
    let definitions = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    start(Settings { limits, ..settings() }, &definitions)
}

/// A request to the gateway face with these headers, followed by `rest`.
fn with(headers: &str, rest: &str) -> String {
    format!("POST {ENDPOINT} HTTP/1.1\r\nHost: h\r\n{headers}\r\n{rest}")
}

/// Sends bytes, and checks that one error is returned and the connection closed.
fn check_refusal(gateway: &Gateway, bytes: &[u8], status: u16, kind: &str, name: &str) {
    let mut caller = connect(gateway);
    caller.send(bytes);
    let answer = caller.answer();
    assert_eq!((answer.status, answer.kind()), (status, kind), "{name}: {}", answer.text());
    assert!(answer.text().starts_with("{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-326"));
    assert_eq!(answer.header("content-type"), Some("application/json"), "{name}");
    assert!(answer.closes(), "{name}");
    assert!(caller.ends(), "{name}: no data after the answer");
}

#[test]
fn ambiguous_and_malformed_requests_are_refused() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, small());
    let body = call("1", "m", "[]");
    let len = body.len();
    let chunk = format!("{len:x}\r\n{body}\r\n0\r\n\r\n");
    let chunked =
        |headers: &str, rest: &str| with(&format!("Transfer-Encoding: chunked\r\n{headers}"), rest);
    let line = |line: &str| format!("{line}\r\nHost: h\r\nContent-Length: {len}\r\n\r\n{body}");
    let rows: Vec<(&str, String)> = vec![
        (
            "two lengths",
            with(&format!("Content-Length: {len}\r\nContent-Length: {len}\r\n"), &body),
        ),
        ("two different lengths", with("Content-Length: 3\r\nContent-Length: 4\r\n", &body)),
        ("a list of lengths", with(&format!("Content-Length: {len}, {len}\r\n"), &body)),
        ("length and chunks", chunked(&format!("Content-Length: {len}\r\n"), &chunk)),
        ("chunks and length", with("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", &chunk)),
        ("a length with a sign", with(&format!("Content-Length: +{len}\r\n"), &body)),
        ("a negative length", with("Content-Length: -1\r\n", &body)),
        ("a hexadecimal length", with("Content-Length: 0x1f\r\n", &body)),
        ("a length spelled out", with("Content-Length: ten\r\n", &body)),
        ("an empty length", with("Content-Length: \r\n", &body)),
        ("a length that overflows", with("Content-Length: 99999999999999999999\r\n", &body)),
        (
            "a folded line",
            with(&format!("A: b\r\n Content-Length: 1\r\nContent-Length: {len}\r\n"), &body),
        ),
        ("a name followed by a space", with("Content-Length : 5\r\n", &body)),
        ("a name with a tab", with("Content-Length\t: 5\r\n", &body)),
        ("a line without a colon", with("Content-Length 5\r\n", &body)),
        ("a line without a name", with(": 5\r\n", &body)),
        ("a zero byte in a value", with("A: b\0c\r\n", "")),
        ("a zero byte in a name", with("A\0: b\r\n", "")),
        ("a carriage return in a value", with("A: b\rc\r\n", "")),
        ("two hosts", with("Host: h\r\nContent-Length: 0\r\n", "")),
        ("no host", format!("POST {ENDPOINT} HTTP/1.1\r\nContent-Length: 0\r\n\r\n")),
        ("another version", line(&format!("POST {ENDPOINT} HTTP/1.2"))),
        ("HTTP/2.0 as a version", line(&format!("POST {ENDPOINT} HTTP/2.0"))),
        ("no version", line(&format!("POST {ENDPOINT}"))),
        ("no target", line("POST HTTP/1.1")),
        ("two spaces", line(&format!("POST  {ENDPOINT} HTTP/1.1"))),
        ("a space in the target", line("POST /api/gateway?endpoint=e x HTTP/1.1")),
        ("a zero byte in the target", line("POST /api/gateway\0 HTTP/1.1")),
        ("a tab after the method", line(&format!("POST\t{ENDPOINT} HTTP/1.1"))),
        ("a leading space", line(&format!(" POST {ENDPOINT} HTTP/1.1"))),
        ("chunks in 1.0", chunked("", &chunk).replace("HTTP/1.1", "HTTP/1.0")),
        ("a chunk without a size", chunked("", "\r\nabc\r\n0\r\n\r\n")),
        ("a chunk size that is not a number", chunked("", "zz\r\nabc\r\n0\r\n\r\n")),
        ("a chunk size with a sign", chunked("", "+3\r\nabc\r\n0\r\n\r\n")),
        ("a chunk size with 0x", chunked("", "0x3\r\nabc\r\n0\r\n\r\n")),
        ("a chunk size after a space", chunked("", " 3\r\nabc\r\n0\r\n\r\n")),
        ("a chunk size that is too large", chunked("", "ffffffffffffffff\r\nabc\r\n")),
        ("a chunk size that overflows", chunked("", "10000000000000003\r\nabc\r\n0\r\n\r\n")),
        ("a chunk longer than its size", chunked("", "2\r\nabc\r\n0\r\n\r\n")),
        ("a chunk line without a carriage return", chunked("", "3\nabc\r\n0\r\n\r\n")),
        ("a chunk end without a carriage return", chunked("", "3\r\nabc\n0\r\n\r\n")),
        ("an endless chunk line", chunked("", &format!("3;{}", "x".repeat(500)))),
        ("endless trailers", chunked("", &format!("0\r\n{}", "A: b\r\n".repeat(3_000)))),
        ("an invalid HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX rest".into()),
        ("an HTTP/2 preface with headers", "PRI * HTTP/2.0\r\nHost: h\r\n\r\nSM\r\n\r\n".into()),
        ("garbage", "\u{1}\u{2}\u{3}\r\n\r\n".into()),
        ("a response", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into()),
        ("a call without HTTP", format!("{body}\r\n\r\n")),
    ];
    let count = rows.len() as u64;
    for (name, bytes) in rows {
        // A request smuggled behind the malformed one is never parsed.
        let smuggled = String::from_utf8(request("POST", ENDPOINT, "", body.as_bytes())).unwrap();
        check_refusal(
            &gateway,
            format!("{bytes}{smuggled}").as_bytes(),
            400,
            "malformed_http",
            name,
        );
    }
    assert_eq!(refused(&gateway, "malformed_http"), count);
    assert_eq!(upstream.count(), 0, "nothing was relayed");
    assert_eq!(post(&gateway, call("1", "m", "[7]")).text(), result("1", "[7]"));
}

#[test]
fn unsupported_transfer_codings_are_refused() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, small());
    for coding in
        ["gzip", "gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked\u{b}"]
    {
        let bytes = with(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n");
        let (status, kind) = if coding.contains('\u{b}') {
            (400, "malformed_http")
        } else {
            (501, "unsupported_transfer")
        };
        check_refusal(&gateway, bytes.as_bytes(), status, kind, coding);
    }
}

#[test]
fn lines_may_end_without_a_carriage_return() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, small());
    let body = call("1", "m", "[]");
    let len = body.len();
    let mut caller = connect(&gateway);
    for end in ["\n", "\r\n"] {
        for last in ["\n", "\r\n"] {
            let head = format!(
                "POST {ENDPOINT} HTTP/1.1{end}Host: h{end}Content-Length: {len}{end}{last}"
            );
            caller.send(format!("{head}{body}"));
            assert_eq!(caller.answer().text(), result("1", "[]"));
        }
    }
}

#[test]
fn oversized_bodies_and_heads_are_refused() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, small());
    let body =
        |n: usize| format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{}\"}}", "m".repeat(n));
    let over = body(1_000);
    let long = "x".repeat(2_001);
    let chunked = "Transfer-Encoding: chunked\r\n";
    let rows = [
        ("a body with a length", with(&format!("Content-Length: {}\r\n", over.len()), &over), 413),
        ("a length without its body", with("Content-Length: 1001\r\n", ""), 413),
        ("a huge length", with("Content-Length: 9999999999999999999\r\n", "x"), 413),
        ("one chunk", with(chunked, &format!("{:x}\r\n{over}\r\n0\r\n\r\n", over.len())), 413),
        ("many chunks", with(chunked, &"1\r\nx\r\n".repeat(1_001)), 413),
        ("a long header", with(&format!("A: {long}\r\n"), ""), 431),
        ("a long target", format!("POST /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 431),
        ("a long method", format!("{long} / HTTP/1.1\r\nHost: h\r\n\r\n"), 431),
        ("an unterminated head", long.clone(), 431),
        ("an unterminated header line", format!("GET / HTTP/1.1\r\nA: {long}"), 431),
        ("many headers", with(&"A: b\r\n".repeat(64), ""), 431),
    ];
    for (name, bytes, status) in rows {
        let kind = if status == 413 { "body_too_large" } else { "head_too_large" };
        check_refusal(&gateway, bytes.as_bytes(), status, kind, name);
    }
    // The largest permitted body and number of headers.
    let largest = body(1_000 - body(0).len());
    assert_eq!(largest.len(), 1_000);
    let mut caller = connect(&gateway);
    assert_eq!(caller.post(ENDPOINT, &"A: b\r\n".repeat(62), &largest).text(), result("1", "null"));
    assert_eq!(refused(&gateway, "body_too_large"), 5);
    assert_eq!(refused(&gateway, "head_too_large"), 6);
}

#[test]
fn a_caller_that_keeps_sending_gets_the_refusal() {
    // More than the socket buffers hold, so that the gateway must discard the rest.
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, small());
    let mut caller = connect(&gateway);
    caller.send(with("Content-Length: 1000000\r\n", &"x".repeat(1_000_000)));
    let answer = caller.answer();
    assert_eq!((answer.status, answer.kind()), (413, "body_too_large"));
    assert!(caller.ends());
}

#[test]
fn slow_callers_get_an_error_and_idle_ones_are_disconnected() {
    let upstream = Upstream::echo();
    let brief = Nanos::from_millis(100);
    let body = "{\"jsonrpc\"";
    let head = with("Content-Length: 50\r\n", "");
    let chunked = with("Transfer-Encoding: chunked\r\n", "");
    let slow_head = Limits { header_time: brief, ..small() };
    let slow_body = Limits { body_time: brief, ..small() };
    // (limits, the bytes after which the caller goes silent)
    let rows = [
        (slow_head, "G".to_string()),
        (slow_head, "GET / HTTP/1.1\r\nHost: h\r\n".to_string()),
        (slow_head, "\r\n\r\nGET".to_string()),
        (slow_body, head.clone()),
        (slow_body, format!("{head}{body}")),
        (slow_body, chunked.clone()),
        (slow_body, format!("{chunked}f\r\n{body}")),
        (slow_body, format!("{chunked}0\r\nA: b\r\n")),
    ];
    for (limits, bytes) in rows {
        let gateway = gateway(&upstream, limits);
        check_refusal(&gateway, bytes.as_bytes(), 408, "too_slow", &bytes);
        assert_eq!(refused(&gateway, "too_slow"), 1);
    }
    // Silent between requests or within an HTTP/2 preface: closed without an answer.
    let brief = Nanos::from_millis(500);
    let idle = Limits { idle_time: brief, header_time: brief, ..small() };
    let gateway = gateway(&upstream, idle);
    for bytes in ["", "\r\n", "GET /health HTTP/1.1\r\nHost: h\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM"]
    {
        let mut caller = connect(&gateway);
        caller.send(bytes);
        if bytes.starts_with("GET") {
            assert_eq!(caller.answer().status, 200);
        }
        assert!(caller.ends(), "{bytes}");
    }
}

#[test]
fn a_head_sent_byte_by_byte_is_too_slow() {
    let upstream = Upstream::echo();
    let limits = Limits { header: 1 << 20, header_time: Nanos::from_millis(100), ..small() };
    let gateway = gateway(&upstream, limits);
    let mut caller = connect(&gateway);
    caller.send("GET / HTTP/1.1\r\n");
    // Each byte is followed by a round trip to the gateway: the timeout covers the whole head.
    let mut other = connect(&gateway);
    wait_until("it is refused", || {
        caller.send("A");
        other.get("/health");
        refused(&gateway, "too_slow") > 0
    });
    assert_eq!(caller.answer().kind(), "too_slow");
}

#[test]
fn callers_that_do_not_read_are_disconnected() {
    let upstream = Upstream::echo();
    let limits = Limits { write_time: Nanos::from_millis(100), ..Limits::default() };
    let gateway = gateway(&upstream, limits);
    let mut caller = connect(&gateway);
    let body = call("1", "m", &format!("\"{}\"", "x".repeat(9 << 20)));
    caller.send(request("POST", ENDPOINT, "", body.as_bytes()));
    wait_until("all connections are closed", || connections(&gateway) == 0);
    assert!(caller.rest().len() < body.len(), "the end of the answer is missing");
}

#[test]
fn half_closed_callers_are_answered() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, small());
    let body = call("1", "m", "[]");
    let whole = String::from_utf8(request("POST", ENDPOINT, "", body.as_bytes())).unwrap();
    let mut caller = connect(&gateway);
    caller.send(&whole);
    caller.send(&whole);
    caller.finish();
    assert_eq!(caller.answer().text(), result("1", "[]"));
    assert_eq!(caller.answer().text(), result("1", "[]"));
    assert!(caller.ends());
    // Incomplete requests are dropped.
    for end in [0, 1, 10, whole.len() - body.len(), whole.len() - 1] {
        let mut caller = connect(&gateway);
        caller.send(&whole[..end]);
        caller.finish();
        assert!(caller.ends(), "{end}");
    }
    assert_eq!(upstream.count(), 2);
}

/// A caller that has only shut down its sending side waits for its answer.
#[test]
fn callers_that_leave_cancel_their_calls() {
    let gate = Arc::new(Barrier::new(3));
    let upstream = {
        let gate = gate.clone();
        Upstream::start(move |_, received| {
            if received.method() == "slow" {
                gate.wait();
            }
            Reply::echo(received)
        })
    };
    let gateway = gateway(&upstream, small());
    let stuck = request("POST", ENDPOINT, "", call("1", "slow", "[]").as_bytes());
    let mut waiting = connect(&gateway);
    waiting.send(&stuck);
    upstream.wait_for(1);
    waiting.finish();
    let mut leaving = connect(&gateway);
    leaving.send(&stuck);
    upstream.wait_for(2);
    drop(leaving);
    wait_until("the call is cancelled", || relays(&gateway, "a", "cancelled") == 1);
    assert_eq!(metric(&gateway, "plimsoll_calls_in_flight"), 1, "the other one waits");
    gate.wait();
    // To learn whether it has left, the other one was sent an interim response.
    assert_eq!(waiting.answer().status, 100);
    assert_eq!(waiting.answer().text(), result("1", "[]"));
}

#[test]
fn tls_on_a_plain_port_is_refused() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, small());
    let config = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    );
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config =
        config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = "gateway.example".try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    check_refusal(&gateway, &hello, 400, "malformed_http", "a TLS hello");
    // Bytes that cannot start a request are refused at once.
    for first in [b"\0".as_slice(), b"\x80", b"\xff\xfe", b"{\"jsonrpc\":\"2.0\"", b"(", b" "] {
        check_refusal(&gateway, first, 400, "malformed_http", &first.escape_ascii().to_string());
    }
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    let upstream = Upstream::echo();
    let limits = Limits { connections: 3, ..small() };
    let gateway = gateway(&upstream, limits);
    let mut callers: Vec<Caller> = (0..3).map(|_| connect(&gateway)).collect();
    for caller in &mut callers {
        assert_eq!(caller.get("/health").status, 200);
    }
    for n in 1..=20 {
        let mut late = connect(&gateway);
        late.send(request("POST", ENDPOINT, "", call("1", "m", "[]").as_bytes()));
        let answer = late.answer();
        assert_eq!((answer.status, answer.code()), (503, -32005));
        assert_eq!(answer.kind(), "too_many_connections");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(plimsoll_rpc::json::validate(&answer.body).is_ok(), "{}", answer.text());
        assert!(answer.closes() && late.ends());
        assert_eq!(refused(&gateway, "too_many_connections"), n);
    }
    assert_eq!(upstream.count(), 0);
    // Closing a connection makes room for another.
    drop(callers.pop());
    wait_until("a connection is closed", || connections(&gateway) == 2);
    assert_eq!(post(&gateway, call("1", "m", "[]")).status, 200);
}

#[test]
fn broken_connections_leave_nothing_behind() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, small());
    let whole = request("POST", ENDPOINT, "", call("1", "m", "[]").as_bytes());
    for n in 0..whole.len() {
        let mut caller = connect(&gateway);
        caller.send(&whole[..=n]);
        match n % 2 {
            0 => drop(caller),
            _ => caller.reset(),
        }
    }
    wait_until("all connections are closed", || connections(&gateway) == 0);
    assert_eq!(metric(&gateway, "plimsoll_relays_in_flight{upstream=\"a\"}"), 0);
    assert_eq!(post(&gateway, call("1", "m", "[]")).status, 200);
}

/// A refusal has the caller's request id and CORS headers, and a line in the access log with everything
/// that was recognized.
#[test]
fn refused_requests_are_logged_and_readable() {
    let upstream = Upstream::echo();
    let file = std::env::temp_dir().join(format!("plimsoll-refused-{}", std::process::id()));
    let settings = Settings {
        limits: Limits { header_time: Nanos::from_millis(50), ..small() },
        access_log: AccessLog { sample: 1.0, file: Some(file.clone()) },
        cors: Cors::Origins(vec!["https://app.example".into()]),
        ..settings()
    };
    let gateway = start(settings, &definitions(vec![node("a", "eth", &upstream.url("/"))]));
    let known = "X-Request-ID: r-1\r\nOrigin: https://app.example\r\n";
    let two = format!("Target-Service-Id: eth\r\nTarget-Service-Id: eth\r\n{known}");
    let many = "X: 1\r\n".repeat(65);
    let rows = [
        (with(&format!("{known}Content-Length: 1001\r\n"), "abc"), 413, "r-1"),
        (with(&format!("{known}{many}"), ""), 431, "r-1"),
        (with(&format!("{known}X: {}\r\n", "x".repeat(2_000)), ""), 431, "r-1"),
        (format!("POST {ENDPOINT} HTTP/1.1\r\nHost: h\r\n{known}"), 408, "r-1"),
        (with(&format!("{known}Transfer-Encoding: chunked\r\n"), "zz\r\n"), 400, "r-1"),
        (with(&two, ""), 400, "r-1"),
        ("GET / HTTP/1.1\n\r\n".into(), 400, ""),
        ("nonsense\r\n\r\n".into(), 400, ""),
    ];
    for (bytes, status, id) in &rows {
        let mut caller = connect(&gateway);
        caller.send(bytes);
        let answer = caller.answer();
        assert_eq!(answer.status, *status, "{bytes}");
        let origin = (!id.is_empty()).then_some("https://app.example");
        assert_eq!(answer.header("access-control-allow-origin"), origin, "{bytes}");
        let expected = if id.is_empty() { answer.header("x-request-id") } else { Some(*id) };
        assert!(expected.is_some() && answer.header("x-request-id") == expected, "{bytes}");
    }
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_until("a line for each", || text().lines().count() == rows.len());
    for (line, (bytes, status, id)) in text().lines().zip(&rows) {
        assert!(line.contains(&format!("\"status\":{status},")), "{line}");
        assert!(line.contains(&format!("\"request_id\":\"{id}")), "{line}");
        let path = if bytes.starts_with("POST") { "\"/api/gateway" } else { "\"" };
        assert!(line.contains(&format!("\"path\":{path}")), "{line}");
    }
    drop(gateway);
    std::fs::remove_file(file).unwrap();
}
