//! HTTP/1.1 features: pipelining, old versions, keep-alive, `Expect`, content codings, CORS.

use std::io::{Read, Write};

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use plimsoll_gateway::Settings;
use plimsoll_registry::settings::{Cors, Limits};

use crate::caller::{call, request, result};
use crate::scripted::Upstream;
use crate::setup::{ENDPOINT, ETH, connect, definitions, gateway_to, node, settings, start};

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(plain).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::echo();
    let gateway = gateway_to(&upstream.url("/"));
    let mut caller = connect(&gateway);
    let mut all = Vec::new();
    for n in 0..100 {
        all.extend(request("POST", ENDPOINT, "", call(&n.to_string(), "m", "[1]").as_bytes()));
        all.extend(b"\r\n\r\n");
        all.extend(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
        all.extend(b"POST /v1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
    }
    caller.send(all);
    for n in 0..100 {
        assert_eq!(caller.answer().text(), result(&n.to_string(), "[1]"));
        let health = caller.answer();
        assert_eq!((health.status, health.text()), (200, ""));
        assert_eq!(caller.answer().status, 400);
    }
    caller.finish();
    assert!(caller.ends());
}

#[test]
fn a_request_may_arrive_in_fragments_of_any_size() {
    let upstream = Upstream::echo();
    let gateway = gateway_to(&upstream.url("/"));
    let mut caller = connect(&gateway);
    let body = call("5", "m", "[\"abc\"]");
    let (front, back) = body.split_at(20);
    let chunked = format!(
        "POST {ENDPOINT} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n\
        {:x};ext=\"1\"\r\n{front}\r\n0{:X}\r\n{back}\r\n000\r\nTrailer: t\r\n\r\n",
        front.len(),
        back.len()
    );
    for whole in [request("POST", ENDPOINT, "", body.as_bytes()), chunked.into_bytes()] {
        for size in [1, 2, 7, 64] {
            for part in whole.chunks(size) {
                caller.send(part);
            }
            assert_eq!(caller.answer().text(), result("5", "[\"abc\"]"));
        }
    }
}

#[test]
fn connection_headers_decide_whether_a_connection_stays_open() {
    let upstream = Upstream::echo();
    let gateway = gateway_to(&upstream.url("/"));
    // (version, headers, whether the connection stays open, the answer's Connection header)
    let rows = [
        ("1.1", "", true, None),
        ("1.1", "Connection: keep-alive\r\n", true, None),
        ("1.1", "Connection: Close\r\n", false, Some("close")),
        ("1.1", "Connection: x, close\r\n", false, Some("close")),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false, Some("close")),
        ("1.0", "", false, Some("close")),
        ("1.0", "Connection: Keep-Alive\r\n", true, Some("keep-alive")),
        ("1.0", "Connection: close\r\n", false, Some("close")),
    ];
    for (version, headers, stays, announced) in rows {
        for (line, more) in [("GET /health", ""), ("GET /v1/x", ETH)] {
            let mut caller = connect(&gateway);
            caller.send(format!("{line} HTTP/{version}\r\nHost: h\r\n{headers}{more}\r\n"));
            let answer = caller.answer();
            assert!(answer.head.starts_with("HTTP/1.1 200 OK"), "{}", answer.head);
            assert_eq!(answer.header("connection"), announced, "{version} {headers} {line}");
            if stays {
                assert_eq!(caller.get("/health").status, 200, "{version} {headers}");
            } else {
                assert!(caller.ends(), "{version} {headers}");
            }
        }
    }
    // HTTP/1.0 needs no Host.
    let mut caller = connect(&gateway);
    caller.send("GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(caller.answer().status, 200);
}

#[test]
fn expect_100_continue_is_honoured() {
    let upstream = Upstream::echo();
    let limits = Limits { body: 1_000, ..Limits::default() };
    let definitions = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(Settings { limits, ..settings() }, &definitions);
    let body = call("1", "m", "[]");
    let head = |version: &str, length: usize| {
        format!(
            "POST {ENDPOINT} HTTP/{version}\r\nHost: h\r\nExpect: 100-Continue\r\n\
            Content-Length: {length}\r\n\r\n"
        )
    };
    let mut caller = connect(&gateway);
    caller.send(head("1.1", body.len()));
    assert_eq!(caller.head().status, 100);
    caller.send(&body);
    assert_eq!(caller.answer().text(), result("1", "[]"));
    // The body was sent at once: no 100 is needed.
    caller.send(format!("{}{body}", head("1.1", body.len())));
    assert_eq!(caller.answer().text(), result("1", "[]"));
    // HTTP/1.0 has no 1xx responses.
    let mut old = connect(&gateway);
    old.send(head("1.0", body.len()));
    old.send(&body);
    assert_eq!(old.answer().text(), result("1", "[]"));
    // A body that would be refused is not requested.
    caller.send(head("1.1", 1_001));
    let answer = caller.answer();
    assert_eq!((answer.status, answer.kind()), (413, "body_too_large"));
    assert!(caller.ends());
}

#[test]
fn gzip_is_accepted_and_sent() {
    let upstream = Upstream::echo();
    let limits = Limits { body: 10_000, ..Limits::default() };
    let definitions = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(Settings { limits, ..settings() }, &definitions);
    let long = format!("[\"{}\"]", "x".repeat(5_000));
    let body = call("1", "m", &long);
    let bomb = gzip(&vec![b' '; 1 << 20]);
    let half = gzip(body.as_bytes())[..40].to_vec();
    // (coding, body, status, kind)
    let rows = [
        ("gzip", gzip(body.as_bytes()), 200, ""),
        ("GZip", gzip(body.as_bytes()), 200, ""),
        ("x-gzip", gzip(body.as_bytes()), 200, ""),
        ("identity", body.clone().into_bytes(), 200, ""),
        ("gzip", body.clone().into_bytes(), 415, "unsupported_encoding"),
        ("gzip", half, 415, "unsupported_encoding"),
        ("gzip", Vec::new(), 415, "unsupported_encoding"),
        ("br", gzip(body.as_bytes()), 415, "unsupported_encoding"),
        ("gzip, gzip", gzip(body.as_bytes()), 415, "unsupported_encoding"),
        ("gzip", bomb, 413, "body_too_large"),
        ("gzip", gzip(b"{"), 400, "parse_error"),
    ];
    let mut caller = connect(&gateway);
    for (coding, body, status, kind) in rows {
        let answer = caller.post(ENDPOINT, &format!("Content-Encoding: {coding}\r\n"), &body);
        assert_eq!((answer.status, answer.kind()), (status, kind), "{coding}");
        assert_eq!(answer.header("content-encoding"), None);
    }
    // (accepted codings, whether the long answer is gzipped)
    for (accepts, gzipped) in [("gzip", true), ("gzip;q=0", false), ("br, *", true), ("", false)] {
        let answer = caller.post(ENDPOINT, &format!("Accept-Encoding: {accepts}\r\n"), &body);
        assert_eq!(answer.header("content-encoding"), gzipped.then_some("gzip"), "{accepts}");
        let mut plain = String::new();
        if gzipped {
            GzDecoder::new(&*answer.body).read_to_string(&mut plain).unwrap();
        } else {
            (&*answer.body).read_to_string(&mut plain).unwrap();
        }
        assert_eq!(plain, result("1", &long), "{accepts}");
    }
    let answer = caller.post(ENDPOINT, "Accept-Encoding: gzip\r\n", call("1", "m", "[]"));
    assert_eq!(answer.header("content-encoding"), None, "too short to be worth compressing");
}

#[test]
fn cors_admits_the_configured_origins() {
    let upstream = Upstream::echo();
    let definitions = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let with = |cors| start(Settings { cors, ..settings() }, &definitions);
    let any = with(Cors::Any);
    let some = with(Cors::Origins(vec!["https://app.example".into()]));
    let off = with(Cors::Off);
    // (gateway, origin, whether it is allowed)
    let rows = [
        (&any, "https://app.example", true),
        (&any, "null", true),
        (&any, "a b", false),
        (&some, "https://app.example", true),
        (&some, "https://app.example.evil", false),
        (&some, "https://APP.example", false),
        (&off, "https://app.example", false),
    ];
    for (gateway, origin, is_allowed) in rows {
        let header = format!("Origin: {origin}\r\n");
        let mut caller = connect(gateway);
        let allowed = is_allowed.then_some(origin);
        let answer = caller.post(ENDPOINT, &header, call("1", "m", "[]"));
        assert_eq!(answer.status, 200, "calls are answered whatever their origin");
        assert_eq!(answer.header("access-control-allow-origin"), allowed, "{origin}");
        let answer = caller.post(ENDPOINT, &header, "{");
        assert_eq!(
            answer.header("access-control-allow-origin"),
            allowed,
            "errors carry the header too"
        );
        let mut unread = connect(gateway);
        let too_long = format!("{header}Content-Length: 99999999999\r\n");
        unread.send(format!("POST {ENDPOINT} HTTP/1.1\r\nHost: h\r\n{too_long}\r\n"));
        let answer = unread.answer();
        assert_eq!(answer.status, 413);
        assert_eq!(answer.header("access-control-allow-origin"), allowed, "body not read");
        for target in [ENDPOINT, "/v1", "/v1/x"] {
            let preflight = "Access-Control-Request-Method: POST\r\n\
                Access-Control-Request-Headers: content-type, x-own\r\n";
            caller.send(request("OPTIONS", target, &format!("{header}{preflight}"), b""));
            let answer = caller.answer();
            assert_eq!((answer.status, answer.text()), (204, ""), "{target}");
            assert_eq!(answer.header("access-control-allow-origin"), allowed, "{origin} {target}");
            if is_allowed {
                let headers = answer.header("access-control-allow-headers");
                assert_eq!(headers, Some("content-type, x-own"));
                let methods = answer.header("access-control-allow-methods");
                assert!(methods.is_some_and(|methods| methods.contains("POST")), "{methods:?}");
            }
        }
    }
}
