//! REST below `/v1`: requests are forwarded unchanged except for hop-by-hop headers, and never outside
//! the upstream's base path.

use plimsoll_config::Text;

use crate::caller::{call, request};
use crate::scripted::{AfterReply, Reply, Upstream};
use crate::setup::{ETH, connect, definitions, instance, node, relays, settings, start};

#[test]
fn requests_are_forwarded() {
    let upstream = Upstream::start(|_, received| {
        let body = format!("{} {}", received.line(), received.body);
        Reply::with(202, "Content-Type: text/x\r\nX-Own: 1\r\nX-Own: 2\r\n", &body)
    });
    let gateway = start(settings(), &definitions(vec![instance("p", &upstream.url("/v1"))]));
    // (method, target, body, request line upstream)
    let rows = [
        ("GET", "/v1/status", "", "GET /v1/status"),
        ("GET", "/v1/", "", "GET /v1"),
        ("GET", "/v1", "", "GET /v1"),
        ("GET", "/v1/a/b?x=1&y=%2F", "", "GET /v1/a/b?x=1&y=%2F"),
        ("GET", "/v1/a?", "", "GET /v1/a?"),
        ("GET", "/v1/a%20b/%E2%82%AC", "", "GET /v1/a%20b/%E2%82%AC"),
        ("GET", "/v1//a", "", "GET /v1//a"),
        ("GET", "http://gateway/v1/eth/v1/node/version", "", "GET /v1/eth/v1/node/version"),
        ("POST", "/v1/broadcast", "{}", "POST /v1/broadcast"),
        ("PUT", "/v1/x", "binary\0", "PUT /v1/x"),
        ("PATCH", "/v1/x", "", "PATCH /v1/x"),
        ("DELETE", "/v1/x", "", "DELETE /v1/x"),
        ("OPTIONS", "/v1/x", "", "OPTIONS /v1/x"),
    ];
    let mut caller = connect(&gateway);
    for (method, target, body, line) in rows {
        caller.send(request(method, target, ETH, body.as_bytes()));
        let answer = caller.answer();
        assert_eq!((answer.status, answer.text()), (202, &*format!("{line} {body}")), "{target}");
        assert_eq!(answer.header("content-type"), Some("text/x"));
        assert_eq!(answer.head.matches("x-own: ").count(), 2, "{}", answer.head);
        assert_eq!(answer.header("x-plimsoll-upstream"), Some("p"));
        let length = (!matches!(method, "GET" | "DELETE" | "OPTIONS")).then_some(body.len());
        let received = upstream.last();
        assert_eq!(received.header("content-length"), length.map(|n| n.to_string()).as_deref());
        assert_eq!(received.header("target-service-id"), Some("eth"));
    }
    assert_eq!(relays(&gateway, "p", "ok"), rows.len() as u64);
}

#[test]
fn an_upstreams_base_path_is_prepended() {
    let upstream = Upstream::start(|_, received| Reply::ok(received.line()));
    // (base, target, request line upstream)
    let rows = [
        ("/", "/v1/status", "GET /status"),
        ("/", "/v1", "GET /"),
        ("/key", "/v1/a?b", "GET /key/a?b"),
        ("/key/", "/v1/a?b", "GET /key/a?b"),
        ("/key?k=1", "/v1/a?b", "GET /key/a?k=1&b"),
        ("/key?k=1", "/v1", "GET /key?k=1"),
    ];
    for (base, target, line) in rows {
        let gateway = start(settings(), &definitions(vec![node("a", "eth", &upstream.url(base))]));
        let mut caller = connect(&gateway);
        caller.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{ETH}\r\n"));
        assert_eq!(caller.answer().text(), line, "{base} {target}");
    }
}

#[test]
fn hop_by_hop_headers_are_not_forwarded() {
    let upstream = Upstream::start(|_, _| {
        let headers = "Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
            Server: s\r\nDate: d\r\nUpgrade: h2c\r\nTrailer: t\r\nX-Stays: 1\r\n";
        Reply::with(200, headers, "fine")
    });
    let mut one = instance("p", &upstream.url("/v1"));
    one.headers = vec![("authorization".into(), Text::plain("Bearer own"))];
    let gateway = start(settings(), &definitions(vec![one]));
    let mut caller = connect(&gateway);
    let headers = "Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
        Proxy-Authorization: p\r\nAccept-Encoding: gzip\r\nX-Forwarded-For: 203.0.113.9\r\n\
        Authorization: theirs\r\nIf-None-Match: \"e\"\r\nX-Other: 1\r\nAccept: text/x\r\nExpect: 100-continue\r\n";
    caller.send(request("POST", "/v1/x", &format!("{ETH}{headers}"), b"body"));
    let answer = caller.answer();
    let received = upstream.last();
    let dropped = [
        "x-secret",
        "keep-alive",
        "te",
        "proxy-authorization",
        "accept-encoding",
        "expect",
        "x-other",
    ];
    for name in dropped.into_iter().chain(["connection"]) {
        assert_eq!(received.header(name), None, "{name}: {}", received.head);
    }
    // (header, value upstream)
    let forwarded = [
        ("if-none-match", "\"e\""),
        ("accept", "text/x"),
        ("authorization", "Bearer own"),
        ("x-forwarded-for", "127.0.0.1"),
        ("host", &*upstream.address.to_string()),
    ];
    for (name, value) in forwarded {
        assert_eq!(received.header(name), Some(value), "{}", received.head);
        assert_eq!(
            received.head.to_lowercase().matches(&format!("\n{name}: ")).count(),
            1,
            "{name}"
        );
    }
    assert_eq!((answer.status, answer.text()), (200, "fine"));
    for name in ["x-hop", "keep-alive", "server", "upgrade", "trailer", "connection"] {
        assert_eq!(answer.header(name), None, "{name}: {}", answer.head);
    }
    assert_eq!(answer.header("x-stays"), Some("1"));
    assert_ne!(answer.header("date"), Some("d"));
}

#[test]
fn paths_that_traverse_upwards_are_refused() {
    let upstream = Upstream::start(|_, received| Reply::ok(received.line()));
    let gateway = start(settings(), &definitions(vec![instance("p", &upstream.url("/v1"))]));
    let traversals = [
        "/v1/../admin",
        "/v1/..",
        "/v1/.",
        "/v1/./../config",
        "/v1/a/../../config",
        "/v1/%2e%2e/config",
        "/v1/%2E%2e/config",
        "/v1/.%2e/config",
        "/v1/..%2fconfig",
        "/v1/..%2Fconfig",
        "/v1/%2e%2e%2fconfig",
        "/v1/..%5cconfig",
        "/v1/..\\config",
        "/v1/a\\..\\..\\config",
        "/v1/%252e%252e/config",
        "/v1/%252e%252e%252fconfig",
        "/v1/%25252e%25252e/config",
        "/v1/%2525252e%2525252e%2525252fconfig",
        "/v1/..;/config",
        "/v1/..;x=1/config",
        "/v1/%2e%2e%3b/config",
        "http://gateway/v1/../config",
        "/v1//../config",
    ];
    let mut caller = connect(&gateway);
    for target in traversals {
        caller.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{ETH}\r\n"));
        let answer = caller.answer();
        assert_eq!((answer.status, answer.kind()), (404, "no_such_path"), "{target}");
    }
    assert_eq!(upstream.count(), 0);
    for target in ["/v1/a..b", "/v1/...", "/v1/..a", "/v1/a;b/c", "/v1/%zz%2", "/v1/a?b=../c"] {
        caller.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{ETH}\r\n"));
        assert_eq!(caller.answer().text(), format!("GET {target}"));
    }
}

#[test]
fn answers_without_a_body_keep_the_connection_in_sync() {
    let upstream = Upstream::start(|_, received| {
        let raw = |text: &str| Reply::raw(text, AfterReply::KeepAlive);
        match received.line() {
            "HEAD /v1/long" => raw("HTTP/1.1 200 X\r\nContent-Length: 12345\r\n\r\n"),
            "HEAD /v1/chunked" => raw("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "GET /v1/304" => raw("HTTP/1.1 304 X\r\nContent-Length: 77\r\nETag: e\r\n\r\n"),
            "GET /v1/204" => raw("HTTP/1.1 204 X\r\n\r\n"),
            _ => Reply::ok("next"),
        }
    });
    let gateway = start(settings(), &definitions(vec![instance("p", &upstream.url("/v1"))]));
    let mut caller = connect(&gateway);
    // (line, status, Content-Length: that of the body a GET would have)
    for (line, status, length) in [
        ("HEAD /v1/long", 200, Some("12345")),
        ("HEAD /v1/chunked", 200, None),
        ("GET /v1/304", 304, Some("77")),
        ("GET /v1/204", 204, None),
    ] {
        caller.send(format!("{line} HTTP/1.1\r\nHost: h\r\n{ETH}\r\n"));
        let answer = caller.head();
        assert_eq!(answer.status, status, "{line}");
        assert_eq!(answer.header("content-length"), length, "{line}");
        caller.send(format!("GET /v1/x HTTP/1.1\r\nHost: h\r\n{ETH}\r\n"));
        assert_eq!(caller.answer().text(), "next", "{line}: the connection is in sync");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn rest_failures_are_reported_as_path_errors() {
    let upstream = Upstream::start(|_, received| match received.line() {
        "GET /v1/500" => Reply::with(500, "", "upstream failure"),
        "GET /v1/404" => Reply::with(404, "", "not here"),
        _ => Reply::raw("HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhalf", AfterReply::Close),
    });
    let gateway = start(settings(), &definitions(vec![instance("p", &upstream.url("/v1"))]));
    let get = |path: &str| {
        let mut caller = connect(&gateway);
        caller.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{ETH}\r\n"));
        caller.answer()
    };
    let answer = get("/v1/500");
    assert_eq!((answer.status, answer.text()), (500, "upstream failure"));
    let answer = get("/v1/404");
    assert_eq!((answer.status, answer.text()), (404, "not here"));
    let answer = get("/v1/half");
    assert_eq!((answer.status, answer.code(), answer.kind()), (500, -31002, "broken"));
    assert_eq!(relays(&gateway, "p", "ok"), 1);
    assert_eq!(relays(&gateway, "p", "bad_status"), 1);
    assert_eq!(relays(&gateway, "p", "broken"), 1);
}

#[test]
fn an_instance_without_a_base_path_gets_v1() {
    let upstream = Upstream::start(|_, _| Reply::ok("fine"));
    let node = instance("i", &upstream.url("/"));
    let gateway = start(settings(), &definitions(vec![node]));
    for (requested, sent) in [("/v1/config", "/v1/config"), ("/v1/admin/x?y", "/v1/admin/x?y")] {
        let mut caller = connect(&gateway);
        caller.send(request("GET", requested, ETH, b""));
        assert_eq!(caller.answer().status, 200);
        assert_eq!(upstream.last().line(), format!("GET {sent}"));
    }
    connect(&gateway).post("/v1", ETH, call("1", "m", "[]"));
    assert_eq!(upstream.last().line(), "POST /v1");
}

#[test]
fn a_failed_relay_is_not_counted_as_refused() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = start(settings(), &definitions(vec![instance("p", &format!("http://{gone}"))]));
    let mut caller = connect(&gateway);
    caller.send(request("GET", "/v1/status", ETH, b""));
    let answer = caller.answer();
    assert_eq!((answer.kind(), answer.header("x-plimsoll-upstream")), ("unreachable", Some("p")));
    let page = gateway.metrics();
    assert!(page.contains("method=\"other\",outcome=\"upstream\",cache=\"bypass\"} 1"), "{page}");
    assert!(!page.contains("plimsoll_refused_total{"), "{page}");
}
