//! Access rules: REST is off by default, listeners answer only their faces, headers are forwarded only
//! where they belong, and loops are detected.

use std::net::SocketAddr;

use plimsoll_config::Text;
use plimsoll_gateway::{Gateway, Settings};
use plimsoll_registry::model::{MethodRules, Service};
use plimsoll_registry::settings::{Faces, Limits, Listener};

use crate::caller::{Caller, call, request, result};
use crate::scripted::Upstream;
use crate::setup::{
    ENDPOINT, ETH, connect, definitions, instance, node, post, settings, start, wait_until,
};

/// Sends a request, with a call as its body if the method has one.
fn ask(gateway: &Gateway, method: &str, target: &str, headers: &str) -> crate::caller::Answer {
    let mut caller = connect(gateway);
    let body = match method {
        "GET" | "HEAD" => String::new(),
        _ => call("\"q\"", "m", "[]"),
    };
    caller.send(request(method, target, headers, body.as_bytes()));
    match method {
        "HEAD" => caller.head(),
        _ => caller.answer(),
    }
}

#[test]
fn rest_is_off_unless_a_service_enables_it() {
    let upstream = Upstream::echo();
    let mut all = definitions(vec![node("a", "eth", &upstream.url("/?key=1"))]);
    all.services = vec![Service { health_checks: false, ..Service::named("eth") }];
    let gateway = start(settings(), &all);
    // (method, target, status, kind)
    let rows = [
        ("POST", "/v1/x", 404, "no_such_path"),
        ("POST", "/v1//", 404, "no_such_path"),
        ("POST", "/v1/admin", 404, "no_such_path"),
        ("GET", "/v1/admin", 404, "no_such_path"),
        ("POST", "/v1%2fadmin", 404, "no_such_path"),
        ("PATCH", "/v1", 405, "http_method"),
        ("PUT", "/v1", 405, "http_method"),
        ("GET", "/v1", 405, "http_method"),
        ("DELETE", "/v1/", 405, "http_method"),
        ("QUERY", "/v1", 405, "http_method"),
    ];
    for (method, target, status, kind) in rows {
        let answer = ask(&gateway, method, target, ETH);
        assert_eq!((answer.status, answer.kind()), (status, kind), "{method} {target}");
        let allow = (kind == "http_method").then_some("POST, OPTIONS");
        assert_eq!(answer.header("allow"), allow, "{method} {target}");
    }
    assert_eq!(upstream.count(), 0, "nothing reached the upstream");

    // With REST enabled, JSON-RPC is still refused there, because it would bypass the method rules.
    all.services[0].rest = true;
    gateway.apply(settings(), &all).unwrap();
    let bodies = [
        call("1", "admin_removePeer", "[]"),
        format!("[{}]", call("1", "admin_removePeer", "[]")),
        "{\"method\":\"admin_removePeer\"}".into(),
        "\u{feff} {\"id\":1,\"meth\\u006fd\":\"admin_removePeer\"}".into(),
        "[1,{\"method\":\"m\"}]".into(),
    ];
    for body in bodies {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let mut caller = connect(&gateway);
            caller.send(request(method, "/v1/x", ETH, body.as_bytes()));
            let answer = caller.answer();
            assert_eq!((answer.status, answer.kind()), (400, "invalid_request"), "{method} {body}");
        }
    }
    assert_eq!(upstream.count(), 0, "nothing reached the upstream");
    let mut caller = connect(&gateway);
    caller.send(request("POST", "/v1/x", ETH, b"{\"tx_bytes\":\"00\"}"));
    caller.answer();
    assert_eq!(upstream.last().line(), "POST /x?key=1");
}

/// The headers of a browser's preflight request.
const PREFLIGHT: &str = "Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n";

#[test]
fn a_listener_answers_its_faces_and_probes() {
    let upstream = Upstream::echo();
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let listener =
        |faces| Listener { faces, ..Listener::at(SocketAddr::from(([127, 0, 0, 1], 0))) };
    let gateway_only = Faces { gateway: true, ..Faces::NONE };
    let path_only = Faces { path: true, ..Faces::NONE };
    let admin_only = Faces { admin: true, ..Faces::NONE };
    let faces = [gateway_only, path_only, admin_only];
    let gateway = start(Settings { listeners: faces.map(listener).into(), ..settings() }, &all);
    // (method, target, headers, by face: gateway, path, admin)
    let rows = [
        ("POST", ENDPOINT, "", [200, 404, 404]),
        ("POST", "/api/gateway/e", "", [200, 404, 404]),
        ("POST", "/v1", ETH, [404, 200, 404]),
        ("POST", "/v1/", ETH, [404, 200, 404]),
        ("POST", "/", "", [405, 200, 405]),
        ("GET", "/metrics", "", [404, 404, 200]),
        ("GET", "/health", "", [200; 3]),
        ("GET", "/health/", "", [200; 3]),
        ("GET", "/livez", "", [200; 3]),
        ("HEAD", "/ready", "", [200; 3]),
        ("GET", "/ready/", "", [200; 3]),
        ("GET", "/ready/eth", "", [200; 3]),
        ("GET", "/readyz", "", [200; 3]),
        ("GET", "/healthz", "", [200; 3]),
        ("GET", "/", "", [200; 3]),
        ("HEAD", "/", "", [200; 3]),
        ("OPTIONS", "/", "", [200; 3]),
        ("OPTIONS", "/", "Origin: https://a.example\r\n", [200; 3]),
        ("OPTIONS", "/", PREFLIGHT, [204; 3]),
        ("OPTIONS", "/ready", "", [204; 3]),
        ("OPTIONS", "*", "", [204; 3]),
        ("POST", "*", "", [404; 3]),
        ("OPTIONS", "/metrics", "", [404, 404, 204]),
    ];
    for (method, target, headers, statuses) in rows {
        for (face, status) in statuses.into_iter().enumerate() {
            let mut caller = Caller::connect(gateway.addresses()[face]);
            let body = if method == "POST" { call("1", "m", "[]") } else { String::new() };
            caller.send(request(method, target, headers, body.as_bytes()));
            let answer = if method == "HEAD" { caller.head() } else { caller.answer() };
            assert_eq!(answer.status, status, "{method} {target} on {face}");
            let has_origin = answer.header("access-control-allow-origin").is_some();
            let is_permitted = headers.contains("Origin") && face < 2;
            assert_eq!(has_origin, is_permitted, "{method} {target} on {face}");
            if method == "OPTIONS" && status == 204 {
                assert!(answer.header("allow").is_some_and(|allow| allow.starts_with("GET, HEAD")));
            }
        }
    }
    let detailed = |face: usize| {
        let mut caller = Caller::connect(gateway.addresses()[face]);
        caller.get("/ready?detailed=true").text().contains("\"address\":\"a\"")
    };
    assert_eq!([detailed(0), detailed(1), detailed(2)], [false, false, true]);
    let mut caller = Caller::connect(gateway.addresses()[0]);
    let older = caller.get("/healthz");
    assert!(
        older.text().starts_with("{\"deprecated\":true,\"status\":\"ready\""),
        "{}",
        older.text()
    );
    assert!(older.text().contains("\"configuredServiceIDs\":[\"eth\"]"), "{}", older.text());
}

#[test]
fn a_full_gateway_still_answers_probes() {
    let upstream = Upstream::echo();
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let limits = Limits { connections: 1, ..Limits::default() };
    let gateway = start(Settings { limits, ..settings() }, &all);
    let mut first = connect(&gateway);
    assert_eq!(first.get("/health").status, 200);
    wait_until("the connection counts", || crate::setup::connections(&gateway) == 1);
    let full = ask(&gateway, "POST", ENDPOINT, "");
    assert_eq!((full.status, full.kind()), (503, "too_many_connections"));
    assert_eq!(full.header("retry-after"), Some("1"));
    assert_eq!(full.header("access-control-allow-origin"), Some("*"));
    for target in ["/health", "/ready", "/ready/eth", "/", "/livez?x=1"] {
        let answer = connect(&gateway).get(target);
        assert_eq!(answer.status, 200, "{target}");
        assert!(answer.closes());
    }
    // HAProxy's default probe, and absolute forms.
    let head = "Host: h\r\nOrigin: https://a.example";
    for line in ["OPTIONS / HTTP/1.0", "OPTIONS http://h/ HTTP/1.1", "GET http://h/ready HTTP/1.1"]
    {
        let mut probe = connect(&gateway);
        probe.send(format!("{line}\r\n{head}\r\n\r\n"));
        let answer = probe.answer();
        assert_eq!(answer.status, 200, "{line}");
        let origin = answer.header("access-control-allow-origin");
        assert_eq!(origin, Some("https://a.example"), "{line}");
    }
    assert_eq!(ask(&gateway, "OPTIONS", "/", PREFLIGHT).status, 503, "not a probe");
    assert_eq!(connect(&gateway).get("/ready/nope").status, 503);
    assert_eq!(connect(&gateway).get("/metrics").status, 503, "not a probe");
}

#[test]
fn a_gateway_without_upstreams_is_not_ready() {
    let gateway = start(settings(), &definitions(Vec::new()));
    assert_eq!(connect(&gateway).get("/health").status, 200);
    for target in ["/ready", "/ready/eth", "/", "/healthz"] {
        let answer = connect(&gateway).get(target);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{target}");
    }
    assert_eq!(ask(&gateway, "OPTIONS", "/", "").status, 503);
    let answer = post(&gateway, call("1", "m", "[]"));
    assert_eq!((answer.status, answer.kind()), (503, "no_upstream"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let answer = ask(&gateway, "POST", "/", "");
    assert_eq!((answer.status, answer.kind()), (404, "no_such_path"));
}

#[test]
fn the_root_serves_the_only_service() {
    let upstream = Upstream::echo();
    let mut all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    all.services.push(Service::named("boba"));
    let gateway = start(settings(), &all);
    let answer = ask(&gateway, "POST", "/", "");
    assert_eq!((answer.status, answer.text()), (200, &*result("\"q\"", "[]")));
    all.upstreams.push(node("b", "boba", &upstream.url("/")));
    gateway.apply(settings(), &all).unwrap();
    let answer = ask(&gateway, "POST", "/", "");
    assert_eq!((answer.status, answer.kind()), (404, "no_such_path"));
    assert!(answer.text().contains("exactly one service"), "{}", answer.text());
}

#[test]
fn refusals_carry_the_callers_id_and_name_the_unknown_id() {
    let gateway = start(settings(), &definitions(Vec::new()));
    let answer =
        ask(&gateway, "POST", "/api/gateway?endpoint=nope", "Origin: https://app.example\r\n");
    assert!(
        answer.text().starts_with("{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"error\""),
        "{}",
        answer.text()
    );
    assert!(answer.text().contains("there is no endpoint \\\"nope\\\""), "{}", answer.text());
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    let answer = ask(&gateway, "POST", "/v1", "Target-Service-Id: nope\r\n");
    assert!(answer.text().contains("\"id\":\"q\""), "{}", answer.text());
    let two = format!("{ETH}{ETH}");
    let answer = ask(&gateway, "POST", "/v1", &two);
    assert_eq!((answer.status, answer.kind()), (400, "malformed_http"));
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("*"),
        "not parsed as a request, so its origin is unknown"
    );
}

#[test]
fn headers_are_forwarded_only_where_they_belong() {
    let (near, far) = (Upstream::echo(), Upstream::echo());
    let mut chain = node("chain", "eth", &far.url("/"));
    chain.headers = vec![
        ("accept".into(), Text::plain("application/json;v=2")),
        ("host".into(), Text::plain("vhost.example")),
        ("user-agent".into(), Text::plain("mine/1")),
    ];
    let trusted = |networks: &[&str]| Settings {
        pass_headers: vec!["x-tenant".into()],
        trusted_proxies: networks
            .iter()
            .map(|text| plimsoll_registry::settings::Network::parse(text).unwrap())
            .collect(),
        ..settings()
    };
    let to_path =
        start(trusted(&["127.0.0.1"]), &definitions(vec![instance("p", &near.url("/v1"))]));
    let to_node = start(trusted(&[]), &definitions(vec![chain]));
    let headers = "Target-Service-Id: eth\r\nApp-Address: pokt1\r\nRPC-Type: json_rpc\r\n\
        Target-Suppliers: s1\r\nPortal-Application-ID: app\r\nPortal-Account-ID: acc\r\n\
        X-Request-ID: r-1\r\ntraceparent: 00-1-2-01\r\nX-Tenant: t\r\nX-Other: o\r\n\
        Authorization: Bearer k\r\nCookie: c=1\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\
        X-Forwarded-For: 198.51.100.7\r\n";
    let never = ["authorization", "cookie", "forwarded", "x-real-ip", "x-other"];
    let everywhere = [("x-request-id", "r-1"), ("traceparent", "00-1-2-01"), ("x-tenant", "t")];
    let for_path = [
        ("app-address", "pokt1"),
        ("rpc-type", "json_rpc"),
        ("target-suppliers", "s1"),
        ("portal-application-id", "app"),
        ("portal-account-id", "acc"),
        ("x-forwarded-for", "198.51.100.7, 127.0.0.1"),
    ];
    // Proxies append to the header, or add a second one; PATH is sent an address in any case.
    for (lines, chain) in [
        ("", "127.0.0.1"),
        (
            "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 198.51.100.8\r\n",
            "198.51.100.7, 198.51.100.8, 127.0.0.1",
        ),
        (
            "X-Forwarded-For: x, 198.51.100.7:443, [2001:db8::1]:80\r\n",
            "198.51.100.7, 2001:db8::1, 127.0.0.1",
        ),
        ("X-Forwarded-For: unknown\r\n", "127.0.0.1"),
    ] {
        ask(&to_path, "POST", "/v1", &format!("Target-Service-Id: eth\r\n{lines}"));
        assert_eq!(near.last().header("x-forwarded-for"), Some(chain), "{lines}");
    }
    // As a call and as REST.
    for (method, target) in [("POST", "/v1"), ("GET", "/v1/status")] {
        for (gateway, upstream, is_path) in [(&to_path, &near, true), (&to_node, &far, false)] {
            let answer = ask(gateway, method, target, headers);
            assert_eq!(answer.header("x-request-id"), Some("r-1"));
            let received = upstream.last();
            for (name, value) in everywhere {
                assert_eq!(received.header(name), Some(value), "{method} {}", received.head);
            }
            for name in never {
                assert_eq!(received.header(name), None, "{method} {name} in {}", received.head);
            }
            for (name, value) in for_path {
                let expected = is_path.then_some(value);
                // REST forwards the caller's address to nodes too; addresses from an untrusted peer are dropped.
                let expected = match (name, method) {
                    ("x-forwarded-for", "GET") => expected.or(Some("127.0.0.1")),
                    _ => expected,
                };
                assert_eq!(received.header(name), expected, "{method} {}", received.head);
            }
            let own = concat!("plimsoll/", env!("CARGO_PKG_VERSION"));
            let agent = if is_path { own } else { "mine/1" };
            assert_eq!(received.header("user-agent"), Some(agent), "{}", received.head);
            if !is_path {
                assert_eq!(received.header("host"), Some("vhost.example"));
                assert_eq!(received.header("accept"), Some("application/json;v=2"));
            }
        }
    }
}

#[test]
fn cors_and_plimsoll_headers_of_upstreams_are_dropped() {
    let upstream = Upstream::start(|_, _| {
        crate::scripted::Reply::with(
            200,
            "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n\
             X-Plimsoll-Upstream: 10.0.0.1\r\nX-Kept: yes\r\n",
            "ok",
        )
    });
    let gateway = start(settings(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
    let answer = ask(&gateway, "GET", "/v1/x", ETH);
    assert_eq!(answer.header("x-kept"), Some("yes"));
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    assert_eq!(answer.header("x-plimsoll-upstream"), Some("a"));
}

#[test]
fn loops_are_detected() {
    let upstream = Upstream::echo();
    let first = start(settings(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
    let url = |gateway: &Gateway| format!("http://{}/v1", gateway.addresses()[0]);
    let second = start(settings(), &definitions(vec![instance("first", &url(&first))]));
    // Two gateways in a row are not a loop.
    assert_eq!(post(&second, call("1", "m", "[]")).status, 200);
    // Now the first gateway relays to the second.
    first.apply(settings(), &definitions(vec![instance("second", &url(&second))])).unwrap();
    let answer = post(&second, call("1", "m", "[]"));
    assert_eq!(answer.status, 200, "an upstream's error is forwarded");
    assert_eq!(answer.kind(), "loop", "{}", answer.text());
    // A gateway that relays to itself is a loop too.
    first.apply(settings(), &definitions(vec![instance("first", &url(&first))])).unwrap();
    assert_eq!(post(&first, call("1", "m", "[]")).kind(), "loop");
    assert_eq!(upstream.count(), 1);
    let row = ask(&first, "GET", "/v1/x", ETH);
    assert_eq!(row.status, 508, "REST: {}", row.text());
}

#[test]
fn a_denied_method_cannot_be_reached_through_the_gateway_face() {
    let upstream = Upstream::echo();
    let mut all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    all.endpoints[0].methods = MethodRules { allow: Vec::new(), deny: vec!["admin_*".into()] };
    let faces = Faces { gateway: true, ..Faces::NONE };
    let listener = Listener { faces, ..Listener::at(SocketAddr::from(([127, 0, 0, 1], 0))) };
    let gateway = start(Settings { listeners: vec![listener], ..settings() }, &all);
    let denied = call("1", "admin_removePeer", "[]");
    for (target, headers) in
        [(ENDPOINT, ""), ("/api/gateway/e", ""), ("/v1", ETH), ("/v1/", ETH), ("/", "")]
    {
        let mut caller = connect(&gateway);
        caller.send(request("POST", target, headers, denied.as_bytes()));
        assert!(matches!(caller.answer().status, 403..=405), "{target}");
    }
    assert_eq!(upstream.count(), 0);
}
