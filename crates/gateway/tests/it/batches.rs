//! Batches: each call succeeds or fails individually, and answers are in the order of the calls.

use plimsoll_gateway::Settings;
use plimsoll_registry::settings::Limits;

use crate::caller::{call, result};
use crate::scripted::{Reply, Upstream};
use crate::setup::{
    ENDPOINT, connect, definitions, gateway_to, node, post, relays, settings, start,
};

#[test]
fn a_batch_keeps_its_order() {
    // No call is answered before all have arrived, so that answers come back in any order.
    let all = std::sync::Arc::new(std::sync::Barrier::new(20));
    let upstream = Upstream::start(move |_, received| {
        all.wait();
        Reply::echo(received)
    });
    let gateway = gateway_to(&upstream.url("/"));
    let calls: Vec<String> =
        (0..20).map(|n| call(&n.to_string(), "m", &format!("[{n}]"))).collect();
    let expected: Vec<String> =
        (0..20).map(|n| result(&n.to_string(), &format!("[{n}]"))).collect();
    let answer = post(&gateway, format!("[{}]", calls.join(",")));
    assert_eq!((answer.status, answer.text()), (200, &*format!("[{}]", expected.join(","))));
    assert_eq!(answer.header("x-plimsoll-attempts"), Some("20"));
    assert_eq!(answer.header("x-plimsoll-upstream"), Some("a"));
    assert_eq!(relays(&gateway, "a", "ok"), 20);
}

#[test]
fn calls_of_a_batch_fail_individually() {
    let upstream = Upstream::start(|_, received| match received.method() {
        "bad" => Reply::ok("nonsense"),
        "none" => Reply::with(503, "", ""),
        "error" => Reply::ok(&format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{{\"code\":3,\"message\":\"no\"}}}}",
            received.id()
        )),
        _ => Reply::echo(received),
    });
    let gateway = gateway_to(&upstream.url("/"));
    let ours = |id: &str, code: i64, kind: &str, retryable: bool| {
        let data = format!("\"data\":{{\"kind\":\"{kind}\",\"retryable\":{retryable}}}");
        (format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":{code},"), data)
    };
    let exactly = |text: String| (text, String::new());
    // (call, start of its answer, other text in it)
    let rows = [
        (call("1", "m", "[1]"), Some(exactly(result("1", "[1]")))),
        ("7".into(), Some(ours("null", -32600, "invalid_request", false))),
        (r#"{"jsonrpc":"2.0","method":"m"}"#.into(), None),
        (call("1", "m", "[2]"), Some(exactly(result("1", "[2]")))),
        (
            r#"{"id":"x","method":"m"}"#.into(),
            Some(ours("\"x\"", -32600, "invalid_request", false)),
        ),
        (call("2", "bad", "[]"), Some(ours("2", -32002, "bad_answer", true))),
        ("[]".into(), Some(ours("null", -32600, "invalid_request", false))),
        (call("3", "none", "[]"), Some(ours("3", -32002, "bad_status", true))),
        (
            call("4", "error", "[]"),
            Some(exactly(
                r#"{"jsonrpc":"2.0","id":4,"error":{"code":3,"message":"no"}}"#.to_string(),
            )),
        ),
        (r#"{"jsonrpc":"2.0","method":"bad"}"#.into(), None),
        (call("null", "m", "[3]"), Some(exactly(result("null", "[3]")))),
        ("null".into(), Some(ours("null", -32600, "invalid_request", false))),
    ];
    let calls: Vec<&str> = rows.iter().map(|(call, _)| call.as_str()).collect();
    let answer = post(&gateway, format!(" [ {} ] ", calls.join(" , ")));
    assert_eq!(answer.status, 200);
    let items: Vec<&[u8]> = plimsoll_rpc::json::items(&answer.body).map(Result::unwrap).collect();
    let expected: Vec<_> = rows.iter().filter_map(|(_, expected)| expected.clone()).collect();
    assert_eq!(items.len(), expected.len(), "{}", answer.text());
    for (item, (start, holds)) in items.into_iter().zip(expected) {
        let item = String::from_utf8_lossy(item);
        assert!(item.starts_with(&start) && item.contains(&holds), "{item} is not {start}…{holds}");
    }
    assert_eq!(relays(&gateway, "a", "bad_answer"), 2, "including the notification's");
    assert_eq!(relays(&gateway, "a", "bad_status"), 1);
}

#[test]
fn a_batch_of_notifications_has_an_empty_answer() {
    let upstream = Upstream::echo();
    let gateway = gateway_to(&upstream.url("/"));
    let one = r#"{"jsonrpc":"2.0","method":"m","params":[]}"#;
    let mut caller = connect(&gateway);
    for n in [1, 2, 50] {
        let seen = upstream.count();
        let answer = caller.post(ENDPOINT, "", format!("[{}]", vec![one; n].join(",")));
        assert_eq!((answer.status, answer.text()), (204, ""), "{n}");
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(upstream.count() - seen, n);
    }
}

#[test]
fn an_invalid_batch_is_refused_as_a_whole() {
    let upstream = Upstream::echo();
    let limits = Limits { batch: 3, ..Limits::default() };
    let definitions = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(Settings { limits, ..settings() }, &definitions);
    let one = call("1", "m", "[]");
    // (body, status, code, kind)
    let rows = [
        ("[]".to_string(), 400, -32600, "invalid_request"),
        (" [ ] ".to_string(), 400, -32600, "invalid_request"),
        (format!("[{one},{one},{one},{one}]"), 413, -32600, "batch_too_large"),
        ("[1,2,3,4]".to_string(), 413, -32600, "batch_too_large"),
        (format!("[{one},{one}"), 400, -32700, "parse_error"),
        (format!("[{one},]"), 400, -32700, "parse_error"),
        (format!("[{one} {one}]"), 400, -32700, "parse_error"),
        (format!("[{one}]x"), 400, -32700, "parse_error"),
        (format!("[{one},nope]"), 400, -32700, "parse_error"),
    ];
    for (body, status, code, kind) in rows {
        for target in [ENDPOINT, "/v1"] {
            let answer = connect(&gateway).post(target, crate::setup::ETH, &body);
            assert_eq!(
                (answer.status, answer.code(), answer.kind()),
                (status, code, kind),
                "{body}"
            );
            assert!(answer.text().starts_with("{\"jsonrpc\":\"2.0\",\"id\":null,"), "{body}");
        }
    }
    assert_eq!(upstream.count(), 0);
    let answer = post(&gateway, format!("[{one},{one},{one}]"));
    assert_eq!(answer.status, 200, "the largest permitted batch");
}
