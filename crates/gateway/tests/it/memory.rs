//! The memory limit: long bodies and answers are refused while their total exceeds it, and accepted
//! again afterwards.

use plimsoll_gateway::Settings;
use plimsoll_registry::settings::Limits;

use crate::caller::{call, request, result};
use crate::scripted::Upstream;
use crate::setup::{ENDPOINT, connect, definitions, metric, node, settings, start, wait_until};

fn tight() -> Settings {
    Settings { limits: Limits { memory: 600 << 10, ..Limits::default() }, ..settings() }
}

/// A call with parameters of `bytes` bytes.
fn long(bytes: usize) -> String {
    call("1", "m", &format!("[\"{}\"]", "x".repeat(bytes)))
}

#[test]
fn long_bodies_are_charged_until_they_are_released() {
    let upstream = Upstream::start(|_, received| crate::scripted::Reply::result(received, "1"));
    let gateway = start(tight(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
    let whole = request("POST", ENDPOINT, "", long(200 << 10).as_bytes());
    // A single body fits.
    let mut caller = connect(&gateway);
    caller.send(&whole);
    assert_eq!(caller.answer().text(), result("1", "1"));
    // Together with an incomplete one it exceeds the limit.
    let mut slow = connect(&gateway);
    slow.send(&whole[..whole.len() - 1]);
    let held = || metric(&gateway, "plimsoll_memory_held_bytes");
    wait_until("the incomplete body is charged", || held() > 200 << 10);
    wait_until("memory is exhausted", || {
        let mut caller = connect(&gateway);
        caller.send(&whole);
        let answer = caller.answer();
        match answer.status {
            200 => false,
            status => {
                assert_eq!((status, answer.kind(), answer.closes()), (503, "busy", true));
                true
            }
        }
    });
    // A short call is not affected.
    assert_eq!(connect(&gateway).post(ENDPOINT, "", call("2", "m", "[]")).text(), result("2", "1"));
    slow.reset();
    wait_until("the body fits again", || {
        let mut caller = connect(&gateway);
        caller.send(&whole);
        caller.answer().status == 200
    });
}

#[test]
fn an_answer_beyond_the_limit_is_refused_and_the_next_is_relayed() {
    let answered = |received: &crate::scripted::Received| match received.method() {
        "long" => format!("\"{}\"", "y".repeat(600 << 10)),
        _ => "1".into(),
    };
    let upstream = Upstream::start(move |_, received| {
        crate::scripted::Reply::result(received, &answered(received))
    });
    let gateway = start(tight(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
    let mut caller = connect(&gateway);
    for n in 0..3 {
        let answer = caller.post(ENDPOINT, "", call(&n.to_string(), "long", "[]"));
        assert_eq!((answer.status, answer.kind()), (503, "busy"));
        let id = n.to_string();
        assert_eq!(caller.post(ENDPOINT, "", call(&id, "m", "[]")).text(), result(&id, "1"));
    }
    let page = gateway.metrics();
    assert!(page.contains("outcome=\"busy\"} 3"), "{page}");
    assert!(
        page.contains("plimsoll_shed_total{service=\"eth\",endpoint=\"e\",reason=\"busy\"} 3"),
        "{page}"
    );
}
