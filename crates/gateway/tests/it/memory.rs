//! Long bodies and answers in sum: what is too much at a time is refused, and only then.

use plimsoll_gateway::Settings;
use plimsoll_registry::settings::Limits;

use crate::caller::{call, request, result};
use crate::scripted::Upstream;
use crate::world::{OWN, connect, definitions, metric, node, settings, start, until};

fn tight() -> Settings {
    Settings { limits: Limits { memory: 600 << 10, ..Limits::default() }, ..settings() }
}

/// A call with parameters of `bytes` bytes.
fn long(bytes: usize) -> String {
    call("1", "m", &format!("[\"{}\"]", "x".repeat(bytes)))
}

#[test]
fn bodies_that_are_held_are_counted_until_they_are_gone() {
    let upstream = Upstream::start(|_, asked| crate::scripted::Reply::result(asked, "1"));
    let gateway = start(tight(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
    let whole = request("POST", OWN, "", long(200 << 10).as_bytes());
    // One alone fits.
    let mut caller = connect(&gateway);
    caller.send(&whole);
    assert_eq!(caller.answer().text(), result("1", "1"));
    // Beside one that never comes to its end, the sum is too much.
    let mut slow = connect(&gateway);
    slow.send(&whole[..whole.len() - 1]);
    let held = || metric(&gateway, "plimsoll_memory_held_bytes");
    until("it is held", || held() > 200 << 10);
    until("the sum is used up", || {
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
    // A short one is not concerned.
    assert_eq!(connect(&gateway).post(OWN, "", call("2", "m", "[]")).text(), result("2", "1"));
    slow.reset();
    until("it fits again", || {
        let mut caller = connect(&gateway);
        caller.send(&whole);
        caller.answer().status == 200
    });
}

#[test]
fn an_answer_that_is_too_much_is_refused_and_the_next_is_relayed() {
    let answered = |asked: &crate::scripted::Asked| match asked.method() {
        "long" => format!("\"{}\"", "y".repeat(600 << 10)),
        _ => "1".into(),
    };
    let upstream =
        Upstream::start(move |_, asked| crate::scripted::Reply::result(asked, &answered(asked)));
    let gateway = start(tight(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
    let mut caller = connect(&gateway);
    for n in 0..3 {
        let answer = caller.post(OWN, "", call(&n.to_string(), "long", "[]"));
        assert_eq!((answer.status, answer.kind()), (503, "busy"));
        let id = n.to_string();
        assert_eq!(caller.post(OWN, "", call(&id, "m", "[]")).text(), result(&id, "1"));
    }
    let page = gateway.metrics();
    assert!(page.contains("outcome=\"busy\"} 3"), "{page}");
    assert!(page.contains("plimsoll_shed_total{service=\"eth\",reason=\"busy\"} 3"), "{page}");
}
