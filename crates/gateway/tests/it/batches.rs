//! Batches: each call with a fate of its own, the answers in the order of the calls.

use plimsoll_gateway::Settings;
use plimsoll_registry::settings::Limits;

use crate::caller::{call, result};
use crate::scripted::{Reply, Upstream};
use crate::world::{OWN, before, connect, definitions, node, post, relays, settings, start};

#[test]
fn a_batch_keeps_its_order() {
    // The last is answered first: no call is answered before all have come.
    let all = std::sync::Arc::new(std::sync::Barrier::new(20));
    let upstream = Upstream::start(move |_, asked| {
        all.wait();
        Reply::echo(asked)
    });
    let gateway = before(&upstream.url("/"));
    let calls: Vec<String> =
        (0..20).map(|n| call(&n.to_string(), "m", &format!("[{n}]"))).collect();
    let expected: Vec<String> =
        (0..20).map(|n| result(&n.to_string(), &format!("[{n}]"))).collect();
    let answer = post(&gateway, format!("[{}]", calls.join(",")));
    assert_eq!((answer.status, answer.text()), (200, &*format!("[{}]", expected.join(","))));
    assert_eq!(answer.field("x-plimsoll-attempts"), Some("20"));
    assert_eq!(answer.field("x-plimsoll-upstream"), Some("a"));
    assert_eq!(relays(&gateway, "a", "ok"), 20);
}

#[test]
fn each_call_has_its_own_fate() {
    let upstream = Upstream::start(|_, asked| match asked.method() {
        "bad" => Reply::ok("nonsense"),
        "none" => Reply::with(503, "", ""),
        "error" => Reply::ok(&format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{{\"code\":3,\"message\":\"no\"}}}}",
            asked.id()
        )),
        _ => Reply::echo(asked),
    });
    let gateway = before(&upstream.url("/"));
    let ours = |id: &str, code: i64, kind: &str, retryable: bool| {
        let data = format!("\"data\":{{\"kind\":\"{kind}\",\"retryable\":{retryable}}}");
        (format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":{code},"), data)
    };
    let exactly = |text: String| (text, String::new());
    // (the call, how its answer starts, what else it holds)
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
    assert_eq!(relays(&gateway, "a", "bad_answer"), 2, "the notification's among them");
    assert_eq!(relays(&gateway, "a", "bad_status"), 1);
}

#[test]
fn a_batch_may_leave_nothing_to_answer() {
    let upstream = Upstream::echo();
    let gateway = before(&upstream.url("/"));
    let one = r#"{"jsonrpc":"2.0","method":"m","params":[]}"#;
    let mut caller = connect(&gateway);
    for n in [1, 2, 50] {
        let seen = upstream.count();
        let answer = caller.post(OWN, "", format!("[{}]", vec![one; n].join(",")));
        assert_eq!((answer.status, answer.text()), (204, ""), "{n}");
        assert_eq!(answer.field("content-length"), None);
        assert_eq!(upstream.count() - seen, n);
    }
}

#[test]
fn a_batch_is_refused_as_a_whole() {
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
        for target in [OWN, "/v1"] {
            let answer = connect(&gateway).post(target, crate::world::ETH, &body);
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
    assert_eq!(answer.status, 200, "as many as may be");
}
