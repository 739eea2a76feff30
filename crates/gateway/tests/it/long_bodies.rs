//! Long bodies and answers: delivered completely in both directions, also with slow but steady callers;
//! counted as truncated if they were not.

use std::io::Read;
use std::time::Duration;

use flate2::read::GzDecoder;
use plimsoll_gateway::Settings;
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::{AccessLog, Limits};

use crate::caller::{Answer, call, request, result};
use crate::scripted::{AfterReply, Reply, Upstream};
use crate::setup::{
    ENDPOINT, ETH, connect, connections, definitions, gateway_to, instance, metric, node, refused,
    relays, settings, start, wait_until,
};

/// A JSON string of `bytes` letters; over 64 KiB it is handled off the worker.
fn long(letter: char, bytes: usize) -> String {
    format!("\"{}\"", String::from(letter).repeat(bytes))
}

fn gunzip(answer: &Answer) -> String {
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    GzDecoder::new(&answer.body[..]).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn long_bodies_and_answers_are_relayed_unchanged() {
    let upstream = Upstream::echo();
    let gateway = gateway_to(&upstream.url("/"));
    let mut caller = connect(&gateway);
    for bytes in [8_000, 9_000, 70_000, 3 << 20] {
        let params = format!("[{}]", long('x', bytes));
        let body = call("1", "m", &params);
        let expected = result("1", &params);
        assert!(caller.post(ENDPOINT, "", &body).text() == expected, "{bytes}");
        // The upstream received the same parameters.
        assert!(upstream.last().params() == params, "{bytes}");
        let gzipped = caller.post(ENDPOINT, "Accept-Encoding: gzip\r\n", &body);
        assert!(gunzip(&gzipped) == expected, "{bytes}");
        let chunks: String = body
            .as_bytes()
            .chunks(50_000)
            .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)))
            .collect();
        let head =
            format!("POST {ENDPOINT} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        caller.send(format!("{head}{chunks}0\r\n\r\n"));
        assert!(caller.answer().text() == expected, "{bytes}");
    }
}

#[test]
fn long_calls_of_a_batch_keep_their_order() {
    let upstream = Upstream::echo();
    let gateway = gateway_to(&upstream.url("/"));
    let params: Vec<String> = (0..40)
        .map(|n| format!("[{}]", long('y', if n % 3 == 0 { 100_000 + n } else { n })))
        .collect();
    let id = |n: usize| n.to_string();
    let calls: Vec<String> =
        params.iter().enumerate().map(|(n, params)| call(&id(n), "m", params)).collect();
    let results: Vec<String> =
        params.iter().enumerate().map(|(n, params)| result(&id(n), params)).collect();
    let (body, expected) = (format!("[{}]", calls.join(",")), format!("[{}]", results.join(",")));
    let mut caller = connect(&gateway);
    assert!(caller.post(ENDPOINT, "", &body).text() == expected);
    let gzipped = caller.post(ENDPOINT, "Accept-Encoding: gzip\r\n", &body);
    assert!(gunzip(&gzipped) == expected);
    // A long body that is not valid JSON, and a batch with an invalid call.
    let broken = format!("[{}, {}", body, long('z', 70_000));
    assert_eq!(caller.post(ENDPOINT, "", &broken).kind(), "parse_error");
    let mixed = format!("[{},7,{}]", calls[0], calls[1]);
    let answer = caller.post(ENDPOINT, "", &mixed);
    assert!(answer.text().contains("invalid_request") && answer.text().contains(&results[1]));
    wait_until("no body is charged", || metric(&gateway, "plimsoll_memory_held_bytes") <= 8 << 10);
}

#[test]
fn a_batch_of_any_size_is_served_a_few_calls_at_a_time() {
    let upstream = Upstream::echo();
    let limits = Limits { batch: 1_000, calls: 20, calls_per_connection: 100, ..Limits::default() };
    let gateway = start(
        Settings { limits, ..settings() },
        &definitions(vec![node("a", "eth", &upstream.url("/"))]),
    );
    let calls: Vec<String> = (0..1_000).map(|n| call(&n.to_string(), "m", "[]")).collect();
    let results: Vec<String> = (0..1_000).map(|n| result(&n.to_string(), "[]")).collect();
    let answer = connect(&gateway).post(ENDPOINT, "", format!("[{}]", calls.join(",")));
    assert_eq!(answer.text(), format!("[{}]", results.join(",")));
    assert!(upstream.connections() <= 20, "{}", upstream.connections());
}

#[test]
fn calls_beyond_a_limit_are_busy() {
    let upstream = Upstream::start(|_, received| match received.method() {
        "held" => Reply::raw("", AfterReply::Hang),
        _ => Reply::echo(received),
    });
    for limits in [
        Limits { calls: 1, ..Limits::default() },
        Limits { calls_per_endpoint: 1, ..Limits::default() },
    ] {
        let before = upstream.count();
        let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
        let gateway = start(Settings { limits, ..settings() }, &all);
        let mut held = connect(&gateway);
        held.send(request("POST", ENDPOINT, "", call("1", "held", "[]").as_bytes()));
        upstream.wait_for(before + 1);
        let answer = connect(&gateway).post(ENDPOINT, "", call("2", "m", "[]"));
        assert_eq!((answer.status, answer.kind()), (503, "busy"), "{}", answer.text());
        assert!(answer.text().contains("limits.calls"), "{}", answer.text());
        // Calls outside the endpoint, here over `/v1`, are not affected by its limit.
        let other = connect(&gateway).post("/v1", ETH, call("3", "m", "[]"));
        assert_eq!(other.status == 200, limits.calls > 1);
        drop(held);
        assert_eq!(metric(&gateway, "plimsoll_calls_in_flight"), 1);
    }
}

/// A body sent in chunks with pauses takes longer than `body_time` in total; another trickles in.
#[test]
fn callers_may_send_slowly_but_steadily() {
    let upstream = Upstream::echo();
    let limits = Limits { body_time: Nanos::from_secs(2), ..Limits::default() };
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(Settings { limits, ..settings() }, &all);
    let params = format!("[{}]", long('x', 400_000));
    let bytes = request("POST", ENDPOINT, "", call("1", "m", &params).as_bytes());
    let mut steady = connect(&gateway);
    let mut trickling = connect(&gateway);
    trickling.send(&bytes[..200]);
    for (part, byte) in bytes.chunks(8_000).zip(&bytes[200..]) {
        steady.send(part);
        trickling.send([*byte]);
        std::thread::park_timeout(Duration::from_millis(60));
    }
    assert!(steady.answer().text() == result("1", &params));
    assert_eq!(trickling.answer().status, 408);
    assert_eq!(refused(&gateway, "too_slow"), 1);
}

#[test]
fn callers_may_read_slowly_but_steadily() {
    let text = long('x', 12 << 20);
    let reply = text.clone();
    let upstream = Upstream::start(move |_, received| Reply::result(received, &reply));
    let limits = Limits { write_time: Nanos::from_secs(1), ..Limits::default() };
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(Settings { limits, ..settings() }, &all);
    let ask = request("POST", ENDPOINT, "", call("1", "m", "[]").as_bytes());
    let (mut steady, mut stalled) = (connect(&gateway), connect(&gateway));
    steady.send(&ask);
    stalled.send(&ask);
    stalled.wait_for_data();
    let mut read = 0;
    while read < text.len() {
        read += steady.read_slowly(200_000);
        std::thread::park_timeout(Duration::from_millis(40));
    }
    wait_until("the stalled caller is disconnected", || connections(&gateway) == 1);
    let truncated = "service=\"eth\",method=\"other\",outcome=\"truncated\",cache=\"bypass\"";
    wait_until("its answer is counted as truncated", || {
        metric(&gateway, &format!("plimsoll_calls_total{{{truncated}}}")) == 1
    });
}

#[test]
fn callers_that_write_before_they_read_get_the_refusal() {
    let upstream = Upstream::echo();
    let limits = Limits { body: 1_000, ..Limits::default() };
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(Settings { limits, ..settings() }, &all);
    let mut caller = connect(&gateway);
    caller.send(request("POST", ENDPOINT, "", &vec![b' '; 30 << 20]));
    let answer = caller.answer();
    assert_eq!((answer.status, answer.kind()), (413, "body_too_large"));
}

#[test]
fn long_rest_answers_are_streamed() {
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let part = "p".repeat(40_000);
    let body = part.repeat(10);
    let chunks = chunk(&part).repeat(10) + "0\r\n\r\n";
    let upstream = Upstream::start(move |_, received| match received.line() {
        "GET /v1/chunks" => {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_string();
            let fragments =
                [head + &chunks[..7], chunks[7..100_000].into(), chunks[100_000..].into()];
            Reply {
                fragments: fragments.map(String::into_bytes).into(),
                after: AfterReply::KeepAlive,
            }
        }
        "GET /v1/length" => Reply::with(200, "", &part.repeat(10)),
        _ => {
            let text = format!("HTTP/1.1 200 OK\r\n\r\n{}", part.repeat(10));
            Reply::raw(text, AfterReply::Close)
        }
    });
    let gateway = start(settings(), &definitions(vec![instance("a", &upstream.url("/v1"))]));
    for path in ["/v1/chunks", "/v1/length", "/v1/close"] {
        for version in ["1.1", "1.0"] {
            let mut caller = connect(&gateway);
            caller.send(format!(
                "GET {path} HTTP/{version}\r\nHost: h\r\n{ETH}Connection: close\r\n\r\n"
            ));
            let read = String::from_utf8(caller.rest()).unwrap();
            let (head, rest) = read.split_once("\r\n\r\n").unwrap();
            let is_chunked = head.contains("transfer-encoding: chunked");
            assert_eq!(is_chunked, version == "1.1" && path != "/v1/length", "{head}");
            let plain = if is_chunked { dechunked(rest) } else { rest.to_string() };
            assert!(plain == body, "{path} {version}: {} bytes", plain.len());
        }
    }
    wait_until("all are counted", || relays(&gateway, "a", "ok") == 6);
}

fn dechunked(mut text: &str) -> String {
    let mut plain = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            assert_eq!(rest, "\r\n");
            return plain;
        }
        plain += &rest[..size];
        text = rest[size..].strip_prefix("\r\n").unwrap();
    }
}

#[test]
fn an_answer_that_breaks_off_is_counted_as_truncated() {
    let upstream = Upstream::start(|_, _| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n";
        Reply::raw(format!("{head}{}", "x".repeat(90_000)), AfterReply::Close)
    });
    let folder = std::env::temp_dir().join(format!("plimsoll-truncated-{}", std::process::id()));
    let access_log = AccessLog { sample: 1.0, file: Some(folder.clone()) };
    let gateway = start(
        Settings { access_log, ..settings() },
        &definitions(vec![instance("a", &upstream.url("/v1"))]),
    );
    let mut caller = connect(&gateway);
    caller.send(request("GET", "/v1/x", ETH, b""));
    let read = String::from_utf8(caller.rest()).unwrap();
    assert!(read.contains("xxx") && !read.ends_with("0\r\n\r\n"), "no terminating chunk");
    let calls = |outcome: &str| {
        let labels =
            format!("service=\"eth\",method=\"other\",outcome=\"{outcome}\",cache=\"bypass\"");
        metric(&gateway, &format!("plimsoll_calls_total{{{labels}}}"))
    };
    wait_until("the call is counted", || calls("truncated") == 1);
    assert_eq!((calls("ok"), relays(&gateway, "a", "broken")), (0, 1));
    wait_until("the call is logged", || {
        std::fs::read_to_string(&folder).is_ok_and(|text| text.contains("\"truncated\":true"))
    });
    std::fs::remove_file(folder).unwrap();
}
