//! Upstreams that misbehave: each failure is counted, and does not affect the next call.

mod unusual;

use std::io::Write;

use plimsoll_gateway::Settings;
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Limits;

use crate::caller::{call, result};
use crate::scripted::{AfterReply, Reply, Upstream};
use crate::setup::{
    ENDPOINT, ETH, connect, definitions, gateway_to, instance, metric, node, post, relays,
    settings, start, wait_until,
};

/// An upstream's reply; `@` stands for the id that the gateway assigned to the call.
struct Row {
    name: &'static str,
    reply: Vec<u8>,
    after: AfterReply,
    /// The outcome under which it is counted.
    outcome: &'static str,
    /// The answer's status and error code; 0 for a result, which is then 1.
    answer: (u16, i64),
}

fn row(
    name: &'static str,
    reply: impl Into<Vec<u8>>,
    after: AfterReply,
    outcome: &'static str,
    status: u16,
    code: i64,
) -> Row {
    Row { name, reply: reply.into(), after, outcome, answer: (status, code) }
}

/// A response with a content length.
fn with(status: u16, body: &str) -> String {
    let (head, body) = (format!("HTTP/1.1 {status} X\r\nContent-Length: "), body.as_bytes());
    // The id is one digit, as long as its placeholder.
    format!("{head}{}\r\n\r\n{}", body.len(), String::from_utf8_lossy(body))
}

/// A response with this content coding.
fn coded(coding: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let length = body.as_ref().len();
    let head =
        format!("HTTP/1.1 200 X\r\nContent-Encoding: {coding}\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body.as_ref()].concat()
}

/// A response with a gzipped body.
fn gzipped_response(body: &str) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body.as_bytes()).unwrap();
    coded("gzip", gzip.finish().unwrap())
}

/// Checks each row: the answer to the call, its count, and that the next call is answered.
fn check(rows: Vec<Row>) {
    for Row { name, reply, after, outcome, answer: (status, code) } in rows {
        let upstream = Upstream::start(move |number, received| {
            if number > 0 {
                return Reply::echo(received);
            }
            assert_eq!(received.id().len(), 1);
            let id = received.id().as_bytes()[0];
            let bytes: Vec<u8> =
                reply.iter().map(|byte| if *byte == b'@' { id } else { *byte }).collect();
            Reply::raw(bytes, after)
        });
        let limits = Limits { answer: 100_000, ..Limits::default() };
        let mut definitions = definitions(vec![node("a", "eth", &upstream.url("/"))]);
        if outcome == "timed_out" {
            definitions.services[0].timeout = Nanos::from_millis(200);
        }
        let gateway = start(Settings { limits, ..settings() }, &definitions);
        let answer = post(&gateway, call("\"q\"", "m", "[]"));
        assert_eq!((answer.status, answer.code()), (status, code), "{name}: {}", answer.text());
        match code {
            0 => assert_eq!(answer.text(), result("\"q\"", "1"), "{name}"),
            _ => assert!(answer.text().starts_with("{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"error\":")),
        }
        if !matches!(code, 0) && answer.kind() != "" {
            // Refusals by HTTP status are counted like error objects of the same meaning.
            let kind = match outcome {
                "rate_limited" => "upstream_limited",
                "unauthorized" => "upstream_denied",
                outcome => outcome,
            };
            assert_eq!(answer.kind(), kind, "{name}");
        }
        assert_eq!(relays(&gateway, "a", outcome), 1, "{name}\n{}", gateway.metrics());
        definitions.services[0].timeout = Nanos::from_secs(30);
        gateway.apply(Settings { limits, ..settings() }, &definitions).unwrap();
        // An upstream that limits the gateway is not called for a second.
        let mut answer = post(&gateway, call("2", "m", "[3]"));
        if outcome == "rate_limited" {
            assert_eq!(answer.kind(), "limit_reached", "after {name}");
            wait_until("the upstream is called again", || {
                answer = post(&gateway, call("2", "m", "[3]"));
                answer.status == 200
            });
        }
        assert_eq!((answer.status, answer.text()), (200, &*result("2", "[3]")), "after {name}");
    }
}

#[test]
fn invalid_http_is_broken() {
    let broken = |name, reply: &str, after| row(name, reply, after, "broken", 502, -32002);
    let fine = r#"{"jsonrpc":"2.0","id":@,"result":1}"#;
    let len = fine.len();
    check(vec![
        broken("closes at once", "", AfterReply::Close),
        broken("resets at once", "", AfterReply::Reset),
        broken("garbage", "\0\u{1}garbage\r\n\r\n", AfterReply::KeepAlive),
        broken("garbage, closed", "hello", AfterReply::Close),
        broken("no head", fine, AfterReply::Close),
        broken("another protocol", "SSH-2.0-OpenSSH_9.6\r\n\r\n", AfterReply::KeepAlive),
        broken("half a head", "HTTP/1.1 200 OK\r\nContent-Le", AfterReply::Close),
        broken("half a head, reset", "HTTP/1.1 200 OK\r\nContent-Le", AfterReply::Reset),
        broken("half a body", &with(200, fine)[..60], AfterReply::Close),
        broken("half a body, reset", &with(200, fine)[..60], AfterReply::Reset),
        broken(
            "incomplete chunks",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"id\"\r\n",
            AfterReply::Close,
        ),
        broken(
            "two lengths",
            &format!(
                "HTTP/1.1 200 X\r\nContent-Length: {len}\r\nContent-Length: {len}\r\n\r\n{fine}"
            ),
            AfterReply::KeepAlive,
        ),
        broken(
            "a list of lengths",
            &format!("HTTP/1.1 200 X\r\nContent-Length: {len}, {len}\r\n\r\n{fine}"),
            AfterReply::KeepAlive,
        ),
        broken(
            "length and chunks",
            "HTTP/1.1 200 X\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            AfterReply::KeepAlive,
        ),
        broken(
            "a negative length",
            "HTTP/1.1 200 X\r\nContent-Length: -1\r\n\r\n",
            AfterReply::KeepAlive,
        ),
        broken(
            "a length that overflows",
            "HTTP/1.1 200 X\r\nContent-Length: 99999999999999999999\r\n\r\n",
            AfterReply::KeepAlive,
        ),
        broken(
            "a chunk size that is not a number",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            AfterReply::KeepAlive,
        ),
        broken(
            "a negative chunk size",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            AfterReply::KeepAlive,
        ),
        broken(
            "a chunk size that is too large",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            AfterReply::KeepAlive,
        ),
        broken(
            "a chunk longer than its size",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
            AfterReply::KeepAlive,
        ),
        broken(
            "another transfer coding",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            AfterReply::KeepAlive,
        ),
        broken(
            "a folded line",
            "HTTP/1.1 200 X\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
            AfterReply::KeepAlive,
        ),
        broken(
            "a name with a space",
            "HTTP/1.1 200 X\r\nContent-Length : 0\r\n\r\n",
            AfterReply::KeepAlive,
        ),
        broken("no status", "HTTP/1.1 OK\r\n\r\n", AfterReply::KeepAlive),
        broken("a status too low", &with(99, fine).replace(" 99 ", " 099 "), AfterReply::KeepAlive),
        broken(
            "a protocol switch",
            "HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\n",
            AfterReply::KeepAlive,
        ),
        broken("HTTP/2", "HTTP/2 200\r\nContent-Length: 0\r\n\r\n", AfterReply::KeepAlive),
        broken("an endless head", "X: y\r\n", AfterReply::RepeatLast),
        broken(
            "too many headers",
            &format!("HTTP/1.1 200 X\r\n{}\r\n", "A: b\r\n".repeat(513)),
            AfterReply::KeepAlive,
        ),
        broken("endless 1xx responses", "HTTP/1.1 100 Continue\r\n\r\n", AfterReply::RepeatLast),
    ]);
}

#[test]
fn invalid_answers_are_bad_answers_or_bad_statuses() {
    let bad =
        |name, reply: String| row(name, reply, AfterReply::KeepAlive, "bad_answer", 502, -32002);
    let body = |name, body: &str| bad(name, with(200, body));
    let gzipped = gzipped_response(r#"{"jsonrpc":"2.0","id":1,"result":1}"#);
    let status = |name, status| {
        row(name, with(status, ""), AfterReply::KeepAlive, "bad_status", 502, -32002)
    };
    check(vec![
        body("another id", r#"{"jsonrpc":"2.0","id":77,"result":1}"#),
        body("an id with a fraction", r#"{"jsonrpc":"2.0","id":@.5,"result":1}"#),
        body("no id", r#"{"jsonrpc":"2.0","result":1}"#),
        body("null as the id", r#"{"jsonrpc":"2.0","id":null,"result":1}"#),
        body(
            "an error under another id",
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":""}}"#,
        ),
        body("the id twice", r#"{"jsonrpc":"2.0","id":@,"id":@,"result":1}"#),
        body("two results", r#"{"jsonrpc":"2.0","id":@,"result":1,"result":2}"#),
        body(
            "result and error",
            r#"{"jsonrpc":"2.0","id":@,"result":1,"error":{"code":1,"message":""}}"#,
        ),
        body("neither result nor error", r#"{"jsonrpc":"2.0","id":@}"#),
        body(
            "two answers in one",
            r#"{"jsonrpc":"2.0","id":@,"result":1}{"jsonrpc":"2.0","id":@,"result":1}"#,
        ),
        body("half an answer", r#"{"jsonrpc":"2.0","id":@,"resu"#),
        body("an empty body", ""),
        body("an HTML page", "<html>"),
        body("control characters", "{\"jsonrpc\":\"2.0\",\"id\":@,\"result\":\"a\0\"}"),
        body(
            "too deep",
            &format!("{{\"id\":@,\"result\":{}1{}}}", "[".repeat(10_001), "]".repeat(10_001)),
        ),
        bad("no content", "HTTP/1.1 204 X\r\n\r\n".into()),
        row(
            "a broken gzip body",
            gzipped[..gzipped.len() - 4].to_vec(),
            AfterReply::Close,
            "broken",
            502,
            -32002,
        ),
        row(
            "an invalid gzip body",
            coded("gzip", "{}"),
            AfterReply::KeepAlive,
            "bad_answer",
            502,
            -32002,
        ),
        row("another coding", coded("br", "{}"), AfterReply::KeepAlive, "bad_answer", 502, -32002),
        row(
            "not UTF-8",
            [
                with(200, "{\"id\":@,\"result\":\"..\"}").replace("..\"}", "").into_bytes(),
                b"\xff\xfe\"}".to_vec(),
            ]
            .concat(),
            AfterReply::KeepAlive,
            "bad_answer",
            502,
            -32002,
        ),
        status("a redirect", 302),
        status("not modified", 304),
        row(
            "429 without JSON",
            with(429, "<html>"),
            AfterReply::KeepAlive,
            "rate_limited",
            429,
            -32005,
        ),
        row("401", with(401, "no such key"), AfterReply::KeepAlive, "unauthorized", 502, -32002),
        row("403", with(403, ""), AfterReply::KeepAlive, "unauthorized", 502, -32002),
        status("a 500", 500),
        row(
            "a proxy's error page",
            with(502, "<html>"),
            AfterReply::KeepAlive,
            "bad_status",
            502,
            -32002,
        ),
    ]);
}

#[test]
fn endless_replies_time_out_or_hit_the_size_limit() {
    let late = |name, reply: &str| row(name, reply, AfterReply::Hang, "timed_out", 504, -32002);
    let long =
        |name, reply: String, after| row(name, reply, after, "answer_too_large", 502, -32005);
    let spaces = " ".repeat(1_000);
    check(vec![
        late("nothing at all", ""),
        late("half a head", "HTTP/1.1 200 OK\r\n"),
        late("half a body", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
        late(
            "chunks without a terminator",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        ),
        late("a body until close, never closed", "HTTP/1.1 200 OK\r\n\r\n{}"),
        late("a 1xx response alone", "HTTP/1.1 100 Continue\r\n\r\n"),
        long(
            "a length over the limit",
            "HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n".into(),
            AfterReply::Hang,
        ),
        long(
            "a huge length",
            "HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n".into(),
            AfterReply::Hang,
        ),
        long("an endless body", format!("HTTP/1.1 200 OK\r\n\r\n{spaces}"), AfterReply::RepeatLast),
        long(
            "a body over the limit",
            format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(100_001)),
            AfterReply::Close,
        ),
        long(
            "a chunk over the limit",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}",
                200_000,
                " ".repeat(200_000)
            ),
            AfterReply::Hang,
        ),
    ]);
}

#[test]
fn endless_chunks_hit_the_size_limit() {
    let upstream = Upstream::start(|_, _| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let fragments = vec![head.into(), b"a;x\r\n          \r\n".repeat(100)];
        Reply { fragments, after: AfterReply::RepeatLast }
    });
    let limits = Limits { answer: 100_000, ..Limits::default() };
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(Settings { limits, ..settings() }, &all);
    for _ in 0..3 {
        assert_eq!(post(&gateway, call("1", "m", "[]")).kind(), "answer_too_large");
    }
    assert_eq!(relays(&gateway, "a", "answer_too_large"), 3);
}

#[test]
fn unreachable_upstreams_are_reported_without_their_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plain_address = plain.local_addr().unwrap();
    std::thread::spawn(move || {
        for _ in 0..2 {
            plain.accept().unwrap().0.write_all(b"no TLS here\r\n").unwrap();
        }
    });
    // (URL, text in the answer)
    let rows = [
        (format!("http://{free}/"), "refused"),
        ("http://no-such-host.invalid/".into(), "its name could not be resolved"),
        (format!("https://{plain_address}/"), "TLS"),
    ];
    for (url, says) in rows {
        let gateway = gateway_to(&url);
        for method in ["eth_call", "eth_sendRawTransaction"] {
            let answer = post(&gateway, call("1", method, "[]"));
            let actual = (answer.status, answer.code(), answer.kind());
            assert_eq!(actual, (502, -32002, "unreachable"), "{url} {}", answer.text());
            assert!(
                answer.text().contains("cannot reach the upstream: ")
                    && answer.text().contains(says),
                "{url}"
            );
            assert!(
                !answer.text().contains(&free.to_string()),
                "the address must not be disclosed"
            );
        }
        assert_eq!(relays(&gateway, "a", "unreachable"), 2, "{url}");
    }
}

#[test]
fn a_connection_closed_between_calls_fails_none() {
    // Each connection is closed after its answer, unannounced.
    let upstream =
        Upstream::start(|_, received| Reply { after: AfterReply::Close, ..Reply::echo(received) });
    let gateway = start(settings(), &definitions(vec![instance("a", &upstream.url("/v1"))]));
    let mut caller = connect(&gateway);
    for n in 0..100 {
        // A transaction must not be sent twice, so the gateway has to notice before sending.
        let method = ["eth_call", "eth_sendRawTransaction"][n % 2];
        let answer = caller.post(ENDPOINT, "", call("1", method, &format!("[{n}]")));
        assert_eq!(answer.text(), result("1", &format!("[{n}]")), "{n}");
        upstream.wait_for_closed(n + 1);
    }
    caller.send(format!("GET /v1/x HTTP/1.1\r\nHost: h\r\n{ETH}\r\n"));
    assert_eq!(caller.answer().status, 200);
    assert_eq!(upstream.connections(), 101);
}

#[test]
fn a_second_answer_reaches_no_caller() {
    // Two answers to each request, in one write or in two.
    for at_once in [true, false] {
        let upstream = Upstream::start(move |n, received| {
            let answer = Reply::echo(received).fragments.remove(0);
            let second = Reply::ok(&result(received.id(), &format!("\"second of {n}\"")));
            let both = [answer, second.fragments.concat()];
            let fragments = if at_once { vec![both.concat()] } else { both.into() };
            Reply { fragments, after: AfterReply::KeepAlive }
        });
        let gateway = gateway_to(&upstream.url("/"));
        let mut caller = connect(&gateway);
        let mut answered = 0;
        for n in 0..200 {
            let answer = caller.post(ENDPOINT, "", call(&n.to_string(), "m", &format!("[{n}]")));
            match answer.status {
                200 => assert_eq!(answer.text(), result(&n.to_string(), &format!("[{n}]"))),
                _ => assert_eq!(answer.kind(), "bad_answer"),
            }
            answered += u64::from(answer.status == 200);
        }
        assert!(!at_once || answered == 200, "only a late second answer can fail a call");
        assert!(answered > 0);
        assert_eq!(relays(&gateway, "a", "ok"), answered);
        assert_eq!(relays(&gateway, "a", "bad_answer"), 200 - answered);
    }
}

#[test]
fn gzipped_answers_are_decompressed_within_the_limits() {
    // (length of the result in bytes, outcome)
    let rows = [(1, "ok"), (10_000, "ok"), (90_000, "ok"), (100_001, "answer_too_large")];
    for (length, outcome) in rows {
        let upstream = Upstream::start(move |_, received| {
            let result = format!("\"{}\"", "x".repeat(length));
            Reply::raw(
                gzipped_response(&crate::scripted::answer(received, &result)),
                AfterReply::KeepAlive,
            )
        });
        let limits = Limits { answer: 100_000, ..Limits::default() };
        let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
        let gateway = start(Settings { limits, ..settings() }, &all);
        for _ in 0..3 {
            let answer = post(&gateway, call("1", "m", "[]"));
            match outcome {
                "ok" => assert_eq!(answer.text().len(), length + 36),
                kind => assert_eq!(answer.kind(), kind),
            }
        }
        assert_eq!(relays(&gateway, "a", outcome), 3);
        wait_until("its memory is released", || {
            metric(&gateway, "plimsoll_memory_held_bytes") == 0
        });
    }
}

#[test]
fn rate_limited_callers_get_retry_after() {
    // (the upstream's header, the caller's Retry-After)
    let rows = [
        ("Retry-After: 7\r\n", "7"),
        ("Retry-After: 99999999\r\n", "3600"),
        ("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", "1"),
        ("", "1"),
    ];
    for (headers, retry_after) in rows {
        for body in ["<html>", r#"{"jsonrpc":"2.0","id":1,"error":{"code":429,"message":"no"}}"#] {
            let upstream = Upstream::start(move |_, _| Reply::with(429, headers, body));
            let gateway =
                start(settings(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
            let answer = post(&gateway, call("1", "m", "[]"));
            assert_eq!((answer.status, answer.code()), (429, -32005), "{headers}{body}");
            assert_eq!(answer.header("retry-after"), Some(retry_after), "{headers}{body}");
            assert_eq!(relays(&gateway, "a", "rate_limited"), 1);
        }
    }
    // The gateway's own rate limit.
    let upstream = Upstream::echo();
    let mut limited = node("a", "eth", &upstream.url("/"));
    limited.rate_limit = Some(0.001);
    let gateway = start(settings(), &definitions(vec![limited]));
    assert_eq!(post(&gateway, call("1", "m", "[]")).status, 200);
    let answer = post(&gateway, call("1", "m", "[]"));
    assert_eq!((answer.status, answer.kind()), (429, "limit_reached"));
    assert_eq!(answer.header("retry-after"), Some("1000"));
}
