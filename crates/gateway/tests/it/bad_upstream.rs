//! Upstreams that misbehave: each in its own way, each counted, none felt by the next call.

use std::io::Write;

use plimsoll_gateway::Settings;
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Limits;

use crate::caller::{call, result};
use crate::scripted::{Reply, Then, Upstream};
use crate::world::{
    ETH, OWN, before, connect, definitions, instance, metric, node, post, relays, settings, start,
    until,
};

/// What an upstream answers; `@` stands for the id that the gateway gave the call.
struct Row {
    name: &'static str,
    reply: Vec<u8>,
    then: Then,
    /// How it is counted.
    outcome: &'static str,
    /// The answer's status and code; 0: a result, which is then 1.
    answer: (u16, i64),
}

fn row(
    name: &'static str,
    reply: impl Into<Vec<u8>>,
    then: Then,
    outcome: &'static str,
    status: u16,
    code: i64,
) -> Row {
    Row { name, reply: reply.into(), then, outcome, answer: (status, code) }
}

/// A response with a length.
fn with(status: u16, body: &str) -> String {
    let (head, body) = (format!("HTTP/1.1 {status} X\r\nContent-Length: "), body.as_bytes());
    // The id that goes in is one digit long, as the mark for it is.
    format!("{head}{}\r\n\r\n{}", body.len(), String::from_utf8_lossy(body))
}

/// A response whose body is said to be coded.
fn coded(coding: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let length = body.as_ref().len();
    let head =
        format!("HTTP/1.1 200 X\r\nContent-Encoding: {coding}\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body.as_ref()].concat()
}

/// A response whose body is gzip.
fn packed(body: &str) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body.as_bytes()).unwrap();
    coded("gzip", gzip.finish().unwrap())
}

/// Tries each row: the call, how it is counted, and that the next call is answered.
fn check(rows: Vec<Row>) {
    for Row { name, reply, then, outcome, answer: (status, code) } in rows {
        let upstream = Upstream::start(move |number, asked| {
            if number > 0 {
                return Reply::echo(asked);
            }
            assert_eq!(asked.id().len(), 1);
            let id = asked.id().as_bytes()[0];
            let bytes: Vec<u8> =
                reply.iter().map(|byte| if *byte == b'@' { id } else { *byte }).collect();
            Reply::raw(bytes, then)
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
            // What an upstream refused is counted like its error objects.
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
        let answer = post(&gateway, call("2", "m", "[3]"));
        assert_eq!((answer.status, answer.text()), (200, &*result("2", "[3]")), "after {name}");
    }
}

#[test]
fn what_is_no_http_is_broken() {
    let broken = |name, reply: &str, then| row(name, reply, then, "broken", 502, -32002);
    let fine = r#"{"jsonrpc":"2.0","id":@,"result":1}"#;
    let len = fine.len();
    check(vec![
        broken("closes at once", "", Then::Close),
        broken("resets at once", "", Then::Reset),
        broken("garbage", "\0\u{1}garbage\r\n\r\n", Then::Keep),
        broken("garbage, closed", "hello", Then::Close),
        broken("no head", fine, Then::Close),
        broken("another protocol", "SSH-2.0-OpenSSH_9.6\r\n\r\n", Then::Keep),
        broken("half a head", "HTTP/1.1 200 OK\r\nContent-Le", Then::Close),
        broken("half a head, reset", "HTTP/1.1 200 OK\r\nContent-Le", Then::Reset),
        broken("half a body", &with(200, fine)[..60], Then::Close),
        broken("half a body, reset", &with(200, fine)[..60], Then::Reset),
        broken(
            "half of the chunks",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"id\"\r\n",
            Then::Close,
        ),
        broken(
            "two lengths",
            &format!(
                "HTTP/1.1 200 X\r\nContent-Length: {len}\r\nContent-Length: {len}\r\n\r\n{fine}"
            ),
            Then::Keep,
        ),
        broken(
            "a list of lengths",
            &format!("HTTP/1.1 200 X\r\nContent-Length: {len}, {len}\r\n\r\n{fine}"),
            Then::Keep,
        ),
        broken(
            "length and chunks",
            "HTTP/1.1 200 X\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Then::Keep,
        ),
        broken("a length below zero", "HTTP/1.1 200 X\r\nContent-Length: -1\r\n\r\n", Then::Keep),
        broken(
            "a length beyond all",
            "HTTP/1.1 200 X\r\nContent-Length: 99999999999999999999\r\n\r\n",
            Then::Keep,
        ),
        broken(
            "a chunk that is none",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            Then::Keep,
        ),
        broken(
            "a chunk below zero",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            Then::Keep,
        ),
        broken(
            "a chunk beyond all",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            Then::Keep,
        ),
        broken(
            "a chunk longer than said",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
            Then::Keep,
        ),
        broken(
            "another transfer coding",
            "HTTP/1.1 200 X\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            Then::Keep,
        ),
        broken(
            "a folded line",
            "HTTP/1.1 200 X\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
            Then::Keep,
        ),
        broken("a name with a space", "HTTP/1.1 200 X\r\nContent-Length : 0\r\n\r\n", Then::Keep),
        broken("no status", "HTTP/1.1 OK\r\n\r\n", Then::Keep),
        broken("a status too low", &with(99, fine).replace(" 99 ", " 099 "), Then::Keep),
        broken("another protocol's switch", "HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\n", Then::Keep),
        broken("HTTP/2", "HTTP/2 200\r\nContent-Length: 0\r\n\r\n", Then::Keep),
        broken("a head without an end", "X: y\r\n", Then::Repeat),
        broken(
            "too many fields",
            &format!("HTTP/1.1 200 X\r\n{}\r\n", "A: b\r\n".repeat(513)),
            Then::Keep,
        ),
        broken("interim answers without an end", "HTTP/1.1 100 Continue\r\n\r\n", Then::Repeat),
    ]);
}

#[test]
fn what_is_no_answer_is_none() {
    let bad = |name, reply: String| row(name, reply, Then::Keep, "bad_answer", 502, -32002);
    let body = |name, body: &str| bad(name, with(200, body));
    let gzipped = packed(r#"{"jsonrpc":"2.0","id":1,"result":1}"#);
    let status = |name, status| row(name, with(status, ""), Then::Keep, "bad_status", 502, -32002);
    check(vec![
        body("another id", r#"{"jsonrpc":"2.0","id":77,"result":1}"#),
        body("the id as a broken number", r#"{"jsonrpc":"2.0","id":@.5,"result":1}"#),
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
        body("neither", r#"{"jsonrpc":"2.0","id":@}"#),
        body(
            "two answers in one",
            r#"{"jsonrpc":"2.0","id":@,"result":1}{"jsonrpc":"2.0","id":@,"result":1}"#,
        ),
        body("half of it", r#"{"jsonrpc":"2.0","id":@,"resu"#),
        body("nothing", ""),
        body("a page", "<html>"),
        body("control characters", "{\"jsonrpc\":\"2.0\",\"id\":@,\"result\":\"a\0\"}"),
        body(
            "too deep",
            &format!("{{\"id\":@,\"result\":{}1{}}}", "[".repeat(10_001), "]".repeat(10_001)),
        ),
        bad("no content", "HTTP/1.1 204 X\r\n\r\n".into()),
        row(
            "a broken gzip body",
            gzipped[..gzipped.len() - 4].to_vec(),
            Then::Close,
            "broken",
            502,
            -32002,
        ),
        row("a gzip body that is none", coded("gzip", "{}"), Then::Keep, "bad_answer", 502, -32002),
        row("another coding", coded("br", "{}"), Then::Keep, "bad_answer", 502, -32002),
        row(
            "not UTF-8",
            [
                with(200, "{\"id\":@,\"result\":\"..\"}").replace("..\"}", "").into_bytes(),
                b"\xff\xfe\"}".to_vec(),
            ]
            .concat(),
            Then::Keep,
            "bad_answer",
            502,
            -32002,
        ),
        status("a redirection", 302),
        status("not modified", 304),
        row("too many", with(429, "<html>"), Then::Keep, "rate_limited", 429, -32005),
        row("no key", with(401, "no such key"), Then::Keep, "unauthorized", 502, -32002),
        row("not for you", with(403, ""), Then::Keep, "unauthorized", 502, -32002),
        status("a failure", 500),
        row("a page of a proxy", with(502, "<html>"), Then::Keep, "bad_status", 502, -32002),
    ]);
}

#[test]
fn what_never_ends_is_ended() {
    let late = |name, reply: &str| row(name, reply, Then::Hang, "timed_out", 504, -32002);
    let long = |name, reply: String, then| row(name, reply, then, "answer_too_large", 502, -32005);
    let spaces = " ".repeat(1_000);
    check(vec![
        late("nothing at all", ""),
        late("half a head", "HTTP/1.1 200 OK\r\n"),
        late("half a body", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
        late(
            "chunks without a last",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        ),
        late("a body until nobody closes", "HTTP/1.1 200 OK\r\n\r\n{}"),
        late("an interim answer alone", "HTTP/1.1 100 Continue\r\n\r\n"),
        long(
            "a length too long",
            "HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n".into(),
            Then::Hang,
        ),
        long(
            "a length beyond memory",
            "HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n".into(),
            Then::Hang,
        ),
        long("a body without an end", format!("HTTP/1.1 200 OK\r\n\r\n{spaces}"), Then::Repeat),
        long(
            "a body too long",
            format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(100_001)),
            Then::Close,
        ),
        long(
            "a chunk too long",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}",
                200_000,
                " ".repeat(200_000)
            ),
            Then::Hang,
        ),
    ]);
}

#[test]
fn chunks_without_an_end_are_ended() {
    let upstream = Upstream::start(|_, _| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let fragments = vec![head.into(), b"a;x\r\n          \r\n".repeat(100)];
        Reply { fragments, then: Then::Repeat }
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
fn unusual_answers_are_answers() {
    let fine = r#"{"jsonrpc":"2.0","id":@,"result":1}"#;
    let len = fine.len();
    let plain = with(200, fine);
    let (front, back) = fine.split_at(9);
    let chunked = "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n";
    let ok = |name, reply: String, then| row(name, reply, then, "ok", 200, 0);
    let error = |name, status, text: &str, outcome, code| {
        row(name, with(status, text), Then::Keep, outcome, 200, code)
    };
    check(vec![
        ok("plain", plain.clone(), Then::Keep),
        ok("closed behind", plain.clone(), Then::Close),
        ok("a rest behind", format!("{plain}rest"), Then::Keep),
        ok("two answers", format!("{plain}{plain}"), Then::Keep),
        ok("an interim answer", format!("HTTP/1.1 100 Continue\r\n\r\n{plain}"), Then::Keep),
        ok(
            "interim answers",
            format!("HTTP/1.1 102 X\r\n\r\nHTTP/1.1 103 X\r\nLink: a\r\n\r\n{plain}"),
            Then::Keep,
        ),
        ok(
            "chunks and trailers",
            format!(
                "{chunked}\r\n09;a=\"b\"\r\n{front}\r\n{:X} \r\n{back}\r\n0\r\nA: b\r\nC: d\r\n\r\n",
                back.len()
            ),
            Then::Keep,
        ),
        ok("until it closes", format!("HTTP/1.1 200 X\r\n\r\n{fine}"), Then::Close),
        ok("1.0, until it closes", format!("HTTP/1.0 200 X\r\n\r\n{fine}"), Then::Close),
        ok("1.0, with a length", plain.replace("HTTP/1.1", "HTTP/1.0"), Then::Close),
        ok(
            "1.0, kept",
            format!(
                "HTTP/1.0 200 X\r\nConnection: keep-alive\r\nContent-Length: {len}\r\n\r\n{fine}"
            ),
            Then::Keep,
        ),
        ok("no reason", format!("HTTP/1.1 200\r\nContent-Length: {len}\r\n\r\n{fine}"), Then::Keep),
        ok(
            "lines without carriage returns",
            format!("HTTP/1.1 200 X\nContent-Length: {len}\n\n{fine}"),
            Then::Keep,
        ),
        ok(
            "closing by its own word",
            format!("HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{fine}"),
            Then::Close,
        ),
        ok("a failure that is none", with(500, fine), Then::Keep),
        ok("the id as a text", with(200, r#"{"jsonrpc":"2.0","id":"@","result":1}"#), Then::Keep),
        ok("the id as a fraction", with(200, r#"{"id":@.0,"result":1,"error":{}}"#), Then::Keep),
        ok("another version", with(200, r#"{"jsonrpc":"1.1","id":@,"result":1}"#), Then::Keep),
        ok("an array", with(200, r#"[{"jsonrpc":"2.0","id":@,"result":1}]"#), Then::Keep),
        ok("a byte order mark", with(200, "\u{feff}{\"id\":@,\"result\":1}"), Then::Keep),
        ok(
            "many fields",
            with(200, fine)
                .replace("Content-Length", &format!("{}Content-Length", "A: b\r\n".repeat(500))),
            Then::Keep,
        ),
        error("an error that is a text", 200, r#"{"id":@,"error":"no"}"#, "other", -32000),
        error(
            "a code as a text",
            200,
            r#"{"id":@,"error":{"code":"3","message":"execution reverted"}}"#,
            "reverted",
            3,
        ),
        error(
            "a contract that says limit",
            200,
            r#"{"id":@,"error":{"code":-32000,"message":"execution reverted: rate limit exceeded"}}"#,
            "reverted",
            -32000,
        ),
        ok("version left out", with(200, "{\"result\":1,\"error\":null,\"id\":@}"), Then::Keep),
        error(
            "an error",
            200,
            r#"{"jsonrpc":"2.0","id":@,"error":{"code":3,"message":"execution reverted"}}"#,
            "reverted",
            3,
        ),
        error(
            "an error under null",
            200,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}"#,
            "invalid_request",
            -32700,
        ),
        error(
            "an error under no id",
            400,
            r#"{"error":{"code":-32600,"message":"?"}}"#,
            "invalid_request",
            -32600,
        ),
        row(
            "429 with words",
            with(429, r#"{"jsonrpc":"2.0","id":@,"error":{"code":-32000,"message":"slow"}}"#),
            Then::Keep,
            "rate_limited",
            429,
            -32000,
        ),
        error(
            "500 with words",
            500,
            r#"{"jsonrpc":"2.0","id":@,"error":{"code":-32603,"message":"oops"}}"#,
            "internal",
            -32603,
        ),
        error(
            "a clashing code",
            200,
            r#"{"jsonrpc":"2.0","id":@,"error":{"code":-32016,"message":"over rate limit"}}"#,
            "rate_limited",
            -32005,
        ),
    ]);
}

#[test]
fn who_cannot_be_reached_is_unreachable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plain_address = plain.local_addr().unwrap();
    std::thread::spawn(move || {
        for _ in 0..2 {
            plain.accept().unwrap().0.write_all(b"no TLS here\r\n").unwrap();
        }
    });
    // (URL, what the answer says of it)
    let rows = [
        (format!("http://{free}/"), "refused"),
        ("http://no-such-host.invalid/".into(), "its name could not be resolved"),
        (format!("https://{plain_address}/"), "TLS"),
    ];
    for (url, says) in rows {
        let gateway = before(&url);
        for method in ["eth_call", "eth_sendRawTransaction"] {
            let answer = post(&gateway, call("1", method, "[]"));
            let told = (answer.status, answer.code(), answer.kind());
            assert_eq!(told, (502, -32002, "unreachable"), "{url} {}", answer.text());
            assert!(
                answer.text().contains("cannot reach the upstream: ")
                    && answer.text().contains(says),
                "{url}"
            );
            assert!(!answer.text().contains(&free.to_string()), "its address may be a secret");
        }
        assert_eq!(relays(&gateway, "a", "unreachable"), 2, "{url}");
    }
}

#[test]
fn a_connection_closed_in_between_costs_no_call() {
    // Each answer is followed by the end of its connection, without a word of it before.
    let upstream = Upstream::start(|_, asked| Reply { then: Then::Close, ..Reply::echo(asked) });
    let gateway = start(settings(), &definitions(vec![instance("a", &upstream.url("/v1"))]));
    let mut caller = connect(&gateway);
    for n in 0..100 {
        // Doing it twice could matter, so it has to be seen before it is sent.
        let method = ["eth_call", "eth_sendRawTransaction"][n % 2];
        let answer = caller.post(OWN, "", call("1", method, &format!("[{n}]")));
        assert_eq!(answer.text(), result("1", &format!("[{n}]")), "{n}");
        upstream.wait_for_closed(n + 1);
    }
    caller.send(format!("GET /v1/x HTTP/1.1\r\nHost: h\r\n{ETH}\r\n"));
    assert_eq!(caller.answer().status, 200);
    assert_eq!(upstream.connections(), 101);
}

#[test]
fn a_second_answer_is_nobodys() {
    // Two answers to each request: at once, or the second behind the first.
    for at_once in [true, false] {
        let upstream = Upstream::start(move |n, asked| {
            let answer = Reply::echo(asked).fragments.remove(0);
            let false_one = Reply::ok(&result(asked.id(), &format!("\"second of {n}\"")));
            let both = [answer, false_one.fragments.concat()];
            let fragments = if at_once { vec![both.concat()] } else { both.into() };
            Reply { fragments, then: Then::Keep }
        });
        let gateway = before(&upstream.url("/"));
        let mut caller = connect(&gateway);
        let mut answered = 0;
        for n in 0..200 {
            let answer = caller.post(OWN, "", call(&n.to_string(), "m", &format!("[{n}]")));
            match answer.status {
                200 => assert_eq!(answer.text(), result(&n.to_string(), &format!("[{n}]"))),
                _ => assert_eq!(answer.kind(), "bad_answer"),
            }
            answered += u64::from(answer.status == 200);
        }
        assert!(!at_once || answered == 200, "only one that comes late can be in the way");
        assert!(answered > 0);
        assert_eq!(relays(&gateway, "a", "ok"), answered);
        assert_eq!(relays(&gateway, "a", "bad_answer"), 200 - answered);
    }
}

#[test]
fn packed_answers_are_unpacked_within_the_limits() {
    // (how many bytes the result has, what comes of it)
    let rows = [(1, "ok"), (10_000, "ok"), (90_000, "ok"), (100_001, "answer_too_large")];
    for (length, outcome) in rows {
        let upstream = Upstream::start(move |_, asked| {
            let result = format!("\"{}\"", "x".repeat(length));
            Reply::raw(packed(&crate::scripted::answer(asked, &result)), Then::Keep)
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
        until("it is given back", || metric(&gateway, "plimsoll_memory_held_bytes") == 0);
    }
}

#[test]
fn callers_are_told_when_to_try_again() {
    // (the upstream's header, what the caller receives)
    let rows = [
        ("Retry-After: 7\r\n", "7"),
        ("Retry-After: 99999999\r\n", "3600"),
        ("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", "1"),
        ("", "1"),
    ];
    for (fields, told) in rows {
        for body in ["<html>", r#"{"jsonrpc":"2.0","id":1,"error":{"code":429,"message":"no"}}"#] {
            let upstream = Upstream::start(move |_, _| Reply::with(429, fields, body));
            let gateway =
                start(settings(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
            let answer = post(&gateway, call("1", "m", "[]"));
            assert_eq!((answer.status, answer.code()), (429, -32005), "{fields}{body}");
            assert_eq!(answer.field("retry-after"), Some(told), "{fields}{body}");
            assert_eq!(relays(&gateway, "a", "rate_limited"), 1);
        }
    }
    // A limit of our own.
    let upstream = Upstream::echo();
    let mut limited = node("a", "eth", &upstream.url("/"));
    limited.rate_limit = Some(0.001);
    let gateway = start(settings(), &definitions(vec![limited]));
    assert_eq!(post(&gateway, call("1", "m", "[]")).status, 200);
    let answer = post(&gateway, call("1", "m", "[]"));
    assert_eq!((answer.status, answer.kind()), (429, "limit_reached"));
    assert_eq!(answer.field("retry-after"), Some("1"));
}
