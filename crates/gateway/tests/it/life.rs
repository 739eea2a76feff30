//! Changes and endings under load: nobody who keeps to HTTP is hurt by either.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use plimsoll_gateway::{Drained, Gateway, Settings};
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Limits;
use plimsoll_registry::settings::Listener;

use crate::caller::{Caller, call, result};
use crate::scripted::{Reply, Then, Upstream};
use crate::world::{
    OWN, before, connect, connections, definitions, endpoint, metric, node, post, refused,
    settings, start, until,
};

/// A door that is shut until it is opened.
#[derive(Clone, Default)]
struct Door(Arc<(Mutex<bool>, Condvar)>);

impl Door {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut open = self.0.0.lock().unwrap();
        while !*open {
            open = self.0.1.wait(open).unwrap();
        }
    }
}

/// An upstream that answers `held` when the door is open, and everything else at once.
fn upstream_behind(door: &Door) -> Upstream {
    let door = door.clone();
    Upstream::start(move |_, asked| {
        if asked.method() == "held" {
            door.pass();
        }
        Reply::echo(asked)
    })
}

/// Drains in a thread of its own.
fn drain(gateway: Gateway) -> std::thread::JoinHandle<Drained> {
    std::thread::spawn(move || gateway.drain(|| false))
}

#[test]
fn callers_that_move_on_lose_no_call() {
    let upstream = Upstream::echo();
    let gateways = [before(&upstream.url("/")), before(&upstream.url("/"))];
    let addresses = gateways.each_ref().map(|gateway| gateway.addresses()[0]);
    let (done, calls, moved) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let _outlives_its_callers = std::thread::scope(|scope| {
        for number in 0..6 {
            let (done, calls, moved) = (&done, &calls, &moved);
            scope.spawn(move || {
                let mut at = number % 2;
                let mut caller = Caller::connect(addresses[at]);
                while !done.load(Ordering::Relaxed) {
                    let n = calls.fetch_add(1, Ordering::Relaxed);
                    let params = format!("[{number}, {n}]");
                    let batch = n % 3 == 0;
                    let (body, expected) = (call("7", "m", &params), result("7", &params));
                    let (body, expected) = match batch {
                        true => (format!("[{body},{body}]"), format!("[{expected},{expected}]")),
                        false => (body, expected),
                    };
                    let answer = caller.post(OWN, "", body);
                    assert_eq!((answer.status, answer.text()), (200, expected.as_str()));
                    if answer.closes() {
                        at = 1 - at;
                        caller = Caller::connect(addresses[at]);
                        moved.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let made = |n: u64| until("calls are made", || calls.load(Ordering::Relaxed) >= n);
        let [first, second] = gateways;
        made(500);
        let drained = first.drain(|| false);
        assert_eq!(drained.left, 0);
        assert_eq!(moved.load(Ordering::Relaxed), 3, "those of the first have moved");
        let more = calls.load(Ordering::Relaxed) + 500;
        made(more);
        assert_eq!(connections(&second), 6);
        done.store(true, Ordering::Relaxed);
        second
    });
}

#[test]
fn what_is_under_way_is_answered_before_the_end() {
    let door = Door::default();
    let upstream = upstream_behind(&door);
    let gateway = before(&upstream.url("/"));
    let address = gateway.addresses()[0];
    let body = call("1", "held", "[5]");
    let mut held: Vec<Caller> = (0..5).map(|_| connect(&gateway)).collect();
    for caller in &mut held {
        caller.send(crate::caller::request("POST", OWN, "", body.as_bytes()));
    }
    let mut idle = connect(&gateway);
    assert_eq!(idle.get("/ready").status, 200);
    upstream.wait_for(5);
    let drained = drain(gateway);
    until("it is not ready", || {
        let ready = Caller::connect(address).get("/ready");
        assert_eq!(ready.closes(), ready.status == 503);
        ready.status == 503
    });
    // Whoever still comes is served, and sent away.
    let answer = idle.post(OWN, "", call("2", "m", "[]"));
    assert_eq!(answer.text(), result("2", "[]"));
    assert!(answer.closes() && idle.ends());
    let answer = Caller::connect(address).post(OWN, "", call("3", "m", "[]"));
    assert_eq!(answer.text(), result("3", "[]"));
    assert!(answer.closes());
    door.open();
    for mut caller in held {
        let answer = caller.answer();
        assert_eq!(answer.text(), result("1", "[5]"));
        assert!(answer.closes() && caller.ends());
    }
    assert_eq!(drained.join().unwrap().left, 0);
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn pipelined_calls_are_answered_as_far_as_was_said() {
    let door = Door::default();
    let upstream = upstream_behind(&door);
    let gateway = before(&upstream.url("/"));
    let mut caller = connect(&gateway);
    for n in 0..3 {
        let body = call(&n.to_string(), "held", "[]");
        caller.send(crate::caller::request("POST", OWN, "", body.as_bytes()));
    }
    upstream.wait_for(1);
    let drained = drain(gateway);
    until("it is not ready", || Caller::connect(caller.address()).get("/ready").status == 503);
    door.open();
    // The one that says so is the last: the others were not begun and can be made elsewhere.
    let answer = caller.answer();
    assert_eq!(answer.text(), result("0", "[]"));
    assert!(answer.closes() && caller.ends());
    assert_eq!(upstream.count(), 1);
    assert_eq!(drained.join().unwrap().left, 0);
}

#[test]
fn a_drain_ends_when_its_time_is_up_or_it_is_hurried() {
    let upstream = Upstream::start(|_, _| Reply::raw("", Then::Hang));
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    for (drain, hurried) in [(Nanos::from_millis(50), false), (Nanos::from_secs(3_600), true)] {
        let gateway = start(Settings { drain, ..settings() }, &all);
        let before = upstream.count();
        let mut held = connect(&gateway);
        held.send(crate::caller::request("POST", OWN, "", call("1", "m", "[]").as_bytes()));
        upstream.wait_for(before + 1);
        let drained = gateway.drain(|| hurried);
        assert_eq!((drained.left, drained.calls_left, drained.calls_awaited), (1, 1, 1));
        assert!(held.ends());
    }
}

#[test]
fn idle_connections_do_not_hold_up_a_drain() {
    let upstream = Upstream::echo();
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(Settings { drain: Nanos::from_secs(3_600), ..settings() }, &all);
    let mut used = connect(&gateway);
    assert_eq!(used.get("/health").status, 200);
    let (mut new, mut begun) = (connect(&gateway), connect(&gateway));
    begun.send("GET /hea");
    until("all are there", || connections(&gateway) == 3);
    let drained = drain(gateway);
    assert!(used.ends() && new.ends(), "closed although they sent nothing");
    // A request that has begun is answered.
    begun.send("lth HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(begun.answer().status, 200);
    let drained = drained.join().unwrap();
    assert_eq!((drained.left, drained.calls_left, drained.calls_awaited), (0, 0, 0));
}

/// Callers that connect for every call and honour `Connection: close` lose none, as long as the
/// balancer before them turns away within `idle_close`.
#[test]
fn callers_that_reconnect_for_each_call_lose_none() {
    let upstream = Upstream::echo();
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    for _ in 0..2 {
        let gateway = start(Settings { idle_close: Nanos::from_secs(2), ..settings() }, &all);
        let address = gateway.addresses()[0];
        let calls = AtomicU64::new(0);
        let drained = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let calls = &calls;
                    scope.spawn(move || {
                        // A balancer's probe beside each call, as it would be.
                        while Caller::connect(address).get("/ready").status == 200 {
                            let answer =
                                Caller::connect(address).post(OWN, "", call("1", "m", "[]"));
                            assert_eq!((answer.status, answer.text()), (200, &*result("1", "[]")));
                            calls.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            until("calls are made", || calls.load(Ordering::Relaxed) >= 100);
            let drained = drain(gateway);
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            drained.join().unwrap()
        });
        assert_eq!((drained.left, drained.calls_left), (0, 0));
    }
}

#[test]
fn changes_hurt_no_call() {
    let upstreams = [Upstream::echo(), Upstream::echo(), Upstream::echo()];
    let one = |at: usize| node(["a", "b", "c"][at], "eth", &upstreams[at].url("/"));
    let gateway = start(Settings { workers: 2, ..settings() }, &definitions(vec![one(0)]));
    let address = gateway.addresses()[0];
    let (done, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (done, calls) = (&done, &calls);
            scope.spawn(move || {
                let mut caller = Caller::connect(address);
                while !done.load(Ordering::Relaxed) {
                    let params = format!("[{}]", calls.fetch_add(1, Ordering::Relaxed));
                    let answer = caller.post(OWN, "", call("1", "m", &params));
                    assert_eq!((answer.status, answer.text()), (200, &*result("1", &params)));
                    assert!(!answer.closes(), "a change ends no connection");
                }
            });
        }
        let sets: [&[usize]; 6] = [&[0], &[0, 1], &[2], &[1, 0], &[0, 1, 2], &[2, 1]];
        for round in 0..60 {
            let more = calls.load(Ordering::Relaxed) + 20;
            let mut chosen: Vec<_> = sets[round % sets.len()].iter().map(|at| one(*at)).collect();
            // The same upstream, asked otherwise.
            chosen[0].weight = 1 + round as u32;
            gateway.apply(settings(), &definitions(chosen)).unwrap();
            until("calls are made", || calls.load(Ordering::Relaxed) >= more);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(upstreams.iter().all(|upstream| upstream.count() > 0));
    until("callers are gone", || connections(&gateway) == 0);
    gateway.apply(settings(), &definitions(Vec::new())).unwrap();
    let open = "plimsoll_connections{side=\"upstream\"}";
    until("what nobody needs is closed", || metric(&gateway, open) == 0);
}

#[test]
fn a_change_is_seen_by_the_next_call() {
    let door = Door::default();
    let upstream = upstream_behind(&door);
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(settings(), &all);
    let mut caller = connect(&gateway);
    let mut under_way = connect(&gateway);
    under_way.send(crate::caller::request("POST", OWN, "", call("9", "held", "[]").as_bytes()));
    upstream.wait_for(1);
    // An endpoint that goes.
    let mut gone = all.clone();
    gone.endpoints = vec![endpoint("other", "eth")];
    gateway.apply(settings(), &gone).unwrap();
    let answer = caller.post(OWN, "", call("1", "m", "[]"));
    assert_eq!((answer.status, answer.kind()), (404, "unknown_endpoint"));
    let answer = caller.post("/api/gateway?endpoint=other", "", call("1", "m", "[]"));
    assert_eq!(answer.status, 200);
    assert_eq!(refused(&gateway, "unknown_endpoint"), 1);
    // A limit that shrinks.
    let limits = Limits { body: 10, ..Limits::default() };
    gateway.apply(Settings { limits, ..settings() }, &all).unwrap();
    let answer = caller.post(OWN, "", call("1", "m", "[]"));
    assert_eq!((answer.status, answer.kind()), (413, "body_too_large"));
    // A change that cannot be: nothing of it is made.
    let mut bad = node("b", "eth", "https://127.0.0.1:1/");
    bad.ca = Some("/nonexistent/ca.pem".into());
    let mut wrong = definitions(vec![bad]);
    wrong.endpoints = Vec::new();
    assert!(gateway.apply(settings(), &wrong).is_err());
    gateway.apply(settings(), &all).unwrap();
    assert!(gateway.apply(settings(), &wrong).is_err());
    assert_eq!(post(&gateway, call("1", "m", "[]")).text(), result("1", "[]"));
    // What was under way saw none of it.
    door.open();
    assert_eq!(under_way.answer().text(), result("9", "[]"));
}

#[test]
fn an_address_that_is_taken_is_told() {
    let upstream = Upstream::echo();
    let gateway = before(&upstream.url("/"));
    let all = definitions(Vec::new());
    let listeners = vec![Listener::at(gateway.addresses()[0])];
    let started = Gateway::start(
        Settings { listeners: listeners.clone(), ..settings() },
        &all,
        crate::world::host(),
    );
    let why = started.err().unwrap().to_string();
    assert!(why.contains(&format!("cannot listen on {}", gateway.addresses()[0])), "{why}");
    // When it has gone, its place is free at once, whatever connections it had.
    assert_eq!(post(&gateway, call("1", "m", "[]")).status, 200);
    drop(gateway);
    start(Settings { listeners, ..settings() }, &all);
}
