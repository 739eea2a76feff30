//! The gateway face and the PATH face: routing, access rules, and the form of their errors.

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{Definitions, Endpoint, MethodRules, Service};

use crate::caller::{Caller, call, result};
use crate::scripted::{AfterReply, Reply, Upstream};
use crate::setup::{
    ENDPOINT, ETH, connect, definitions, endpoint, instance, metric, node, post, refused, relays,
    settings, start,
};

/// A URL with a port that nothing listens on.
fn unused_url() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/", free.local_addr().unwrap())
}

#[test]
fn each_face_has_its_own_error_codes() {
    let broken = Upstream::start(|_, _| Reply::raw("", AfterReply::Close));
    let mute = Upstream::start(|_, _| Reply::raw("", AfterReply::Hang));
    let bad = Upstream::start(|_, _| Reply::ok("{}"));
    let status = Upstream::start(|_, _| Reply::with(418, "", ""));
    let mut limited = node("limited", "limited", &bad.url("/"));
    limited.rate_limit = Some(0.000_1);
    let mut narrow = node("narrow", "narrow", &bad.url("/"));
    narrow.methods.allow = vec!["eth_*".into()];
    let services =
        ["bare", "limited", "narrow", "unreachable", "broken", "silent", "bad", "status"];
    let mut all = Definitions {
        services: services.map(Service::named).into(),
        upstreams: vec![
            limited,
            narrow,
            node("unreachable", "unreachable", &unused_url()),
            node("broken", "broken", &broken.url("/")),
            node("silent", "silent", &mute.url("/")),
            node("bad", "bad", &bad.url("/")),
            node("status", "status", &status.url("/")),
        ],
        endpoints: services.map(|service| endpoint(service, service)).into(),
    };
    let silent = all.services.iter_mut().find(|service| service.id == "silent").unwrap();
    silent.timeout = Nanos::from_millis(200);
    let gateway = start(settings(), &all);
    // Uses up the rate limit.
    connect(&gateway).post("/v1", "Target-Service-Id: limited\r\n", call("0", "m", "[]"));
    // (service, kind, retryable, code and status on the gateway face, on the PATH face)
    let rows = [
        ("bare", "no_upstream", true, (-32002, 503), (-31001, 500)),
        ("limited", "limit_reached", true, (-32005, 429), (-32005, 429)),
        ("narrow", "method_unsupported", false, (-32601, 404), (-32601, 404)),
        ("unreachable", "unreachable", true, (-32002, 502), (-31001, 500)),
        ("broken", "broken", true, (-32002, 502), (-31002, 500)),
        ("silent", "timed_out", true, (-32002, 504), (-31001, 500)),
        ("bad", "bad_answer", true, (-32002, 502), (-31002, 500)),
        ("status", "bad_status", true, (-32002, 502), (-31002, 500)),
    ];
    for (service, kind, retryable, own, path) in rows {
        let body = call("\"q\"", "m", "[]");
        let answer = connect(&gateway).post(&format!("/api/gateway?endpoint={service}"), "", &body);
        let data = format!("\"data\":{{\"kind\":\"{kind}\",\"retryable\":{retryable}}}}}}}");
        assert_eq!((answer.code(), answer.status), own, "{service} {}", answer.text());
        assert!(answer.text().ends_with(&data), "{service} {}", answer.text());
        assert!(answer.text().starts_with("{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"error\":"));
        let header = format!("Target-Service-Id: {service}\r\n");
        let answer = connect(&gateway).post("/v1", &header, &body);
        let data = format!("\"data\":{{\"kind\":\"{kind}\",\"retryable\":\"{retryable}\"}}}}}}");
        assert_eq!((answer.code(), answer.status), path, "{service} {}", answer.text());
        assert!(answer.text().ends_with(&data), "{service} {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

#[test]
fn unroutable_requests_are_refused() {
    let upstream = Upstream::echo();
    let gateway = start(settings(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    // (method, target, headers, status, kind)
    let rows = [
        ("POST", "/api/gateway", "", 400, "missing_endpoint"),
        ("POST", "/api/gateway?", "", 400, "missing_endpoint"),
        ("POST", "/api/gateway?x=e", "", 400, "missing_endpoint"),
        ("POST", "/api/gateway?endpoint", "", 400, "missing_endpoint"),
        ("POST", "/api/gateway?endpoint=", "", 404, "unknown_endpoint"),
        ("POST", "/api/gateway?endpoint=E", "", 404, "unknown_endpoint"),
        ("POST", "/api/gateway?endpoint=e%00", "", 404, "unknown_endpoint"),
        ("POST", "/api/gateway?endpoint=no&endpoint=e", "", 404, "unknown_endpoint"),
        ("GET", ENDPOINT, "", 405, "http_method"),
        ("DELETE", ENDPOINT, "", 405, "http_method"),
        ("post", ENDPOINT, "", 405, "http_method"),
        ("POST", ENDPOINT, upgrade, 501, "no_websocket"),
        ("GET", "/v1", upgrade, 501, "no_websocket"),
        ("POST", "/v1", "Target-Service-Id: nope\r\n", 400, "unknown_service"),
        ("POST", "/v1", "Target-Service-Id: \r\n", 400, "unknown_service"),
        ("GET", "/v1/x", "Target-Service-Id: ETH\r\n", 400, "unknown_service"),
        ("PUT", "/", ETH, 405, "http_method"),
        ("GET", "/v2", ETH, 404, "no_such_path"),
        ("GET", "/V1", ETH, 404, "no_such_path"),
        ("POST", "/api/gateway/nope", "", 404, "unknown_endpoint"),
        ("POST", "/api/gateway/e/", "", 404, "unknown_endpoint"),
        ("GET", "/api/gateway/e", "", 405, "http_method"),
        ("GET", "/api//gateway?endpoint=e", "", 404, "no_such_path"),
        ("POST", "/health", "", 405, "http_method"),
        ("PUT", "/metrics", "", 405, "http_method"),
        ("POST", "/ready/eth", "", 405, "http_method"),
        ("GET", "/admin/circuit-breaker/clear/eth", ETH, 404, "no_such_path"),
        ("POST", "/admin/x", ETH, 404, "no_such_path"),
        ("GET", "/config", ETH, 404, "no_such_path"),
        ("GET", "/disqualified_endpoints", ETH, 404, "no_such_path"),
        ("GET", "http://gateway/config", ETH, 404, "no_such_path"),
    ];
    let mut caller = connect(&gateway);
    for (method, target, headers, status, kind) in rows {
        caller.send(crate::caller::request(
            method,
            target,
            headers,
            call("1", "m", "[]").as_bytes(),
        ));
        let answer = caller.answer();
        assert_eq!((answer.status, answer.kind()), (status, kind), "{method} {target} {headers}");
        assert_eq!(answer.header("allow").is_some(), kind == "http_method", "{method} {target}");
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(refused(&gateway, "no_such_path"), 8);
    // PATH returns this error as plain JSON, not as JSON-RPC.
    let answer = caller.post("/v1", "", call("1", "m", "[]"));
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.text(),
        "{\"code\":400,\"message\":\"no service ID provided in 'Target-Service-Id' header\"}"
    );
}

#[test]
fn endpoint_ids_may_be_escaped() {
    let upstream = Upstream::echo();
    let mut all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    all.endpoints = vec![endpoint("ethpath_1764014188689_1", "eth")];
    let gateway = start(settings(), &all);
    for query in [
        "endpoint=ethpath_1764014188689_1",
        "endpoint=ethpath%5F1764014188689%5f1",
        "endpoint=%65thpath_1764014188689_1",
        "x=1&endpoint=ethpath_1764014188689_1&y",
        "endpoint=ethpath_1764014188689_1&endpoint=other",
        "endpoint=ethpath_1764014188689_1#fragment",
    ] {
        for host in ["", "http://gateway", "https://[::1]:3069"] {
            let target = format!("{host}/api/gateway?{query}");
            let answer = connect(&gateway).post(&target, "", call("1", "m", "[]"));
            assert_eq!((answer.status, answer.text()), (200, &*result("1", "[]")), "{target}");
        }
    }
}

#[test]
fn an_instance_serves_any_service() {
    let upstream = Upstream::echo();
    let mut known = definitions(vec![instance("p", &upstream.url("/v1"))]);
    // Without health checks, as `eth`: the instance receives only calls.
    known.services.push(Service { health_checks: false, ..Service::named("kava") });
    let gateway = start(settings(), &known);
    let longest = "x".repeat(128);
    for service in ["eth", "kava", "unheard-of", "a.b:c_d", longest.as_str()] {
        let header = format!("target-SERVICE-id:  {service} \r\n");
        let answer = connect(&gateway).post("/v1", &header, call("1", "m", "[5]"));
        assert_eq!((answer.status, answer.text()), (200, &*result("1", "[5]")), "{service}");
        let received = upstream.last();
        assert_eq!(received.header("target-service-id"), Some(service));
        assert_eq!(received.head.to_lowercase().matches("target-service-id").count(), 1);
        assert_eq!(received.line(), "POST /v1");
    }
    let too_long = "x".repeat(129);
    for service in [too_long.as_str(), "a b", "a/b", "a\"b", "é", ""] {
        let header = format!("Target-Service-Id: {service}\r\n");
        let answer = connect(&gateway).post("/v1", &header, call("1", "m", "[]"));
        assert_eq!((answer.status, answer.kind()), (400, "unknown_service"), "{service}");
    }
    let other = "{service=\"*\",upstream=\"p\",outcome=\"ok\"}";
    assert_eq!(metric(&gateway, &format!("plimsoll_relays_total{other}")), 3);
    assert_eq!(relays(&gateway, "p", "ok"), 1);
}

#[test]
fn upstream_statuses_are_forwarded_only_on_the_path_face() {
    let upstream = Upstream::start(|n, received| {
        let statuses = [200, 203, 400, 404, 429, 500, 503, 599];
        Reply::with(statuses[n / 2 % statuses.len()], "", &crate::scripted::answer(received, "1"))
    });
    let gateway = start(settings(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
    for status in [200, 203, 400, 404, 429, 500, 503, 599] {
        let answer = post(&gateway, call("1", "m", "[]"));
        assert_eq!((answer.status, answer.text()), (200, &*result("1", "1")), "{status}");
        let answer = connect(&gateway).post("/v1", ETH, call("1", "m", "[]"));
        // A result is never answered with 429: the client would repeat a call that succeeded.
        let forwarded = if status == 429 { 200 } else { status };
        assert_eq!((answer.status, answer.text()), (forwarded, &*result("1", "1")));
    }
    assert_eq!(relays(&gateway, "a", "ok"), 16);
}

#[test]
fn method_rules_match_the_decoded_name() {
    let upstream = Upstream::echo();
    let rules = |allow: &[&str], deny: &[&str]| MethodRules {
        allow: allow.iter().map(|text| text.to_string()).collect(),
        deny: deny.iter().map(|text| text.to_string()).collect(),
    };
    let mut all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    all.endpoints = vec![
        Endpoint {
            methods: rules(&["eth_*", "net_version"], &["eth_send*"]),
            ..endpoint("e", "eth")
        },
        Endpoint { methods: rules(&[], &["debug_*", "*_subscribe"]), ..endpoint("d", "eth") },
    ];
    let gateway = start(settings(), &all);
    // (endpoint, method as sent, whether it is relayed)
    let rows = [
        ("e", "eth_call", true),
        ("e", "net_version", true),
        ("e", "eth_sendRawTransaction", false),
        ("e", "eth_\\u0073endRawTransaction", false),
        ("e", "net_versions", false),
        ("e", "Eth_call", false),
        ("e", "debug_traceCall", false),
        ("e", "", false),
        ("d", "debug_traceCall", false),
        ("d", "eth_sendRawTransaction", true),
        ("d", "anything", true),
    ];
    for (id, method, relayed) in rows {
        let seen = upstream.count();
        let mut caller = Caller::connect(gateway.addresses()[0]);
        let answer =
            caller.post(&format!("/api/gateway?endpoint={id}"), "", call("1", method, "[]"));
        let expected = if relayed { (200, "") } else { (403, "method_denied") };
        assert_eq!((answer.status, answer.kind()), expected, "{id} {method}");
        assert_eq!(upstream.count() - seen, usize::from(relayed), "{id} {method}");
    }
    // In a batch each call is checked individually; the PATH face has no endpoints.
    let batch = format!("[{},{}]", call("1", "debug_x", "[]"), call("2", "eth_call", "[]"));
    let answer = post(&gateway, &batch);
    assert!(answer.text().contains("\"id\":1,\"error\":{\"code\":-32601"), "{}", answer.text());
    assert!(answer.text().ends_with(&format!("{}]", result("2", "[]"))));
    let answer = connect(&gateway).post("/v1", ETH, &batch);
    assert_eq!(answer.text(), format!("[{},{}]", result("1", "[]"), result("2", "[]")));
}

#[test]
fn health_readiness_and_metrics_are_served() {
    let upstream = Upstream::echo();
    let gateway = start(settings(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
    let mut caller = connect(&gateway);
    // (target, status, text in the body)
    let rows = [
        ("/health", 200, ""),
        (
            "/ready",
            200,
            "{\"ready\":true,\"services\":{\"eth\":{\"ready\":true,\"endpoint_count\":1",
        ),
        ("/ready/eth", 200, "\"ready\":true"),
        ("/ready/nope", 503, "there is no service \\\"nope\\\""),
        (&format!("/ready/x{}", "é".repeat(200)), 503, "there is no service \\\"xéé"),
        ("/metrics", 200, "plimsoll_connections{side=\"downstream\"} 1"),
        ("/metrics", 200, "plimsoll_upstream_usable{service=\"eth\",upstream=\"a\"} 1"),
        ("/metrics", 200, "plimsoll_memory_limit_bytes 1073741824"),
        ("/metrics", 200, "plimsoll_config_rejected 0"),
        ("/ready?detailed=true", 200, "\"config\":{\"rejected\":false,\"applied_at\":\"20"),
    ];
    for (target, status, holds) in rows {
        let answer = caller.get(target);
        assert_eq!(answer.status, status, "{target}");
        assert!(answer.text().contains(holds), "{target}: {}", answer.text());
        caller.send(format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let head = caller.head();
        assert_eq!(head.status, status, "{target}");
        // The metrics page changes between requests.
        if !matches!(target, "/health" | "/metrics") {
            assert_eq!(head.header("content-length"), answer.header("content-length"), "{target}");
        }
    }
    gateway.set_config_rejected(true);
    assert_eq!(metric(&gateway, "plimsoll_config_rejected"), 1);
    let detailed = caller.get("/ready?detailed=true");
    let rejected = "\"error\":\"the last change was rejected; the log lists its problems\"";
    assert_eq!(detailed.status, 200);
    assert!(detailed.text().contains(rejected), "{}", detailed.text());
}
