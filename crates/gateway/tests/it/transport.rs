//! What HTTP/1.1 allows beside one request and one answer: pipelines, old versions, codings, CORS.

use std::io::{Read, Write};

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use plimsoll_gateway::Settings;
use plimsoll_registry::settings::{Cors, Limits};

use crate::caller::{call, request, result};
use crate::scripted::Upstream;
use crate::world::{ETH, OWN, before, connect, definitions, node, settings, start};

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(plain).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::echo();
    let gateway = before(&upstream.url("/"));
    let mut caller = connect(&gateway);
    let mut all = Vec::new();
    for n in 0..100 {
        all.extend(request("POST", OWN, "", call(&n.to_string(), "m", "[1]").as_bytes()));
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
fn however_a_request_is_cut_it_is_the_same() {
    let upstream = Upstream::echo();
    let gateway = before(&upstream.url("/"));
    let mut caller = connect(&gateway);
    let body = call("5", "m", "[\"abc\"]");
    let (front, back) = body.split_at(20);
    let chunked = format!(
        "POST {OWN} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n\
        {:x};ext=\"1\"\r\n{front}\r\n0{:X}\r\n{back}\r\n000\r\nTrailer: t\r\n\r\n",
        front.len(),
        back.len()
    );
    for whole in [request("POST", OWN, "", body.as_bytes()), chunked.into_bytes()] {
        for piece in [1, 2, 7, 64] {
            for part in whole.chunks(piece) {
                caller.send(part);
            }
            assert_eq!(caller.answer().text(), result("5", "[\"abc\"]"));
        }
    }
}

#[test]
fn connections_stay_as_long_as_they_are_wanted() {
    let upstream = Upstream::echo();
    let gateway = before(&upstream.url("/"));
    // (version, fields, whether the connection stays, what the answer says of it)
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
    for (version, fields, stays, says) in rows {
        for (line, more) in [("GET /health", ""), ("GET /v1/x", ETH)] {
            let mut caller = connect(&gateway);
            caller.send(format!("{line} HTTP/{version}\r\nHost: h\r\n{fields}{more}\r\n"));
            let answer = caller.answer();
            assert!(answer.head.starts_with("HTTP/1.1 200 OK"), "{}", answer.head);
            assert_eq!(answer.field("connection"), says, "{version} {fields} {line}");
            if stays {
                assert_eq!(caller.get("/health").status, 200, "{version} {fields}");
            } else {
                assert!(caller.ends(), "{version} {fields}");
            }
        }
    }
    // HTTP/1.0 needs no Host.
    let mut caller = connect(&gateway);
    caller.send("GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(caller.answer().status, 200);
}

#[test]
fn a_body_may_wait_to_be_asked_for() {
    let upstream = Upstream::echo();
    let limits = Limits { body: 1_000, ..Limits::default() };
    let definitions = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(Settings { limits, ..settings() }, &definitions);
    let body = call("1", "m", "[]");
    let head = |version: &str, length: usize| {
        format!(
            "POST {OWN} HTTP/{version}\r\nHost: h\r\nExpect: 100-Continue\r\n\
            Content-Length: {length}\r\n\r\n"
        )
    };
    let mut caller = connect(&gateway);
    caller.send(head("1.1", body.len()));
    assert_eq!(caller.head().status, 100);
    caller.send(&body);
    assert_eq!(caller.answer().text(), result("1", "[]"));
    // It did not wait: nothing needs to be said.
    caller.send(format!("{}{body}", head("1.1", body.len())));
    assert_eq!(caller.answer().text(), result("1", "[]"));
    // HTTP/1.0 does not know interim answers.
    let mut old = connect(&gateway);
    old.send(head("1.0", body.len()));
    old.send(&body);
    assert_eq!(old.answer().text(), result("1", "[]"));
    // What would be refused is not asked for.
    caller.send(head("1.1", 1_001));
    let answer = caller.answer();
    assert_eq!((answer.status, answer.kind()), (413, "body_too_large"));
    assert!(caller.ends());
}

#[test]
fn codings_are_taken_and_given() {
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
        let answer = caller.post(OWN, &format!("Content-Encoding: {coding}\r\n"), &body);
        assert_eq!((answer.status, answer.kind()), (status, kind), "{coding}");
        assert_eq!(answer.field("content-encoding"), None);
    }
    // (what is taken, whether the long answer is packed)
    for (accepts, packed) in [("gzip", true), ("gzip;q=0", false), ("br, *", true), ("", false)] {
        let answer = caller.post(OWN, &format!("Accept-Encoding: {accepts}\r\n"), &body);
        assert_eq!(answer.field("content-encoding"), packed.then_some("gzip"), "{accepts}");
        let mut plain = String::new();
        match packed {
            true => GzDecoder::new(&*answer.body).read_to_string(&mut plain).unwrap(),
            false => (&*answer.body).read_to_string(&mut plain).unwrap(),
        };
        assert_eq!(plain, result("1", &long), "{accepts}");
    }
    let answer = caller.post(OWN, "Accept-Encoding: gzip\r\n", call("1", "m", "[]"));
    assert_eq!(answer.field("content-encoding"), None, "too short to be worth it");
}

#[test]
fn pages_call_as_far_as_they_may() {
    let upstream = Upstream::echo();
    let definitions = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let with = |cors| start(Settings { cors, ..settings() }, &definitions);
    let any = with(Cors::Any);
    let some = with(Cors::Origins(vec!["https://app.example".into()]));
    let off = with(Cors::Off);
    // (gateway, origin, whether it may)
    let rows = [
        (&any, "https://app.example", true),
        (&any, "null", true),
        (&any, "a b", false),
        (&some, "https://app.example", true),
        (&some, "https://app.example.evil", false),
        (&some, "https://APP.example", false),
        (&off, "https://app.example", false),
    ];
    for (gateway, origin, may) in rows {
        let field = format!("Origin: {origin}\r\n");
        let mut caller = connect(gateway);
        let allowed = may.then_some(origin);
        let answer = caller.post(OWN, &field, call("1", "m", "[]"));
        assert_eq!(answer.status, 200, "a call is answered whoever asks");
        assert_eq!(answer.field("access-control-allow-origin"), allowed, "{origin}");
        let answer = caller.post(OWN, &field, "{");
        assert_eq!(answer.field("access-control-allow-origin"), allowed, "errors are read too");
        let mut unread = connect(gateway);
        let too_long = format!("{field}Content-Length: 99999999999\r\n");
        unread.send(format!("POST {OWN} HTTP/1.1\r\nHost: h\r\n{too_long}\r\n"));
        let answer = unread.answer();
        assert_eq!(answer.status, 413);
        assert_eq!(answer.field("access-control-allow-origin"), allowed, "without a body, too");
        for target in [OWN, "/v1", "/v1/x"] {
            let preflight = "Access-Control-Request-Method: POST\r\n\
                Access-Control-Request-Headers: content-type, x-own\r\n";
            caller.send(request("OPTIONS", target, &format!("{field}{preflight}"), b""));
            let answer = caller.answer();
            assert_eq!((answer.status, answer.text()), (204, ""), "{target}");
            assert_eq!(answer.field("access-control-allow-origin"), allowed, "{origin} {target}");
            if may {
                let headers = answer.field("access-control-allow-headers");
                assert_eq!(headers, Some("content-type, x-own"));
                let methods = answer.field("access-control-allow-methods");
                assert!(methods.is_some_and(|methods| methods.contains("POST")), "{methods:?}");
            }
        }
    }
}
