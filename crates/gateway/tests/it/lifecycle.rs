//! Reloads and shutdowns under load: no caller that follows HTTP loses a call.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use plimsoll_gateway::{Drained, Gateway, Settings};
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Limits;
use plimsoll_registry::settings::Listener;

use crate::caller::{Caller, call, result};
use crate::scripted::{AfterReply, Reply, Upstream};
use crate::setup::{
    ENDPOINT, connect, connections, definitions, endpoint, gateway_to, metric, node, post, refused,
    settings, start, wait_until,
};

/// A latch: `wait` blocks until `release` is called.
#[derive(Clone, Default)]
struct Latch(Arc<(Mutex<bool>, Condvar)>);

impl Latch {
    fn release(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let mut released = self.0.0.lock().unwrap();
        while !*released {
            released = self.0.1.wait(released).unwrap();
        }
    }
}

/// An upstream that answers calls of method `held` once the latch is released, and others at once.
fn upstream_with(latch: &Latch) -> Upstream {
    let latch = latch.clone();
    Upstream::start(move |_, received| {
        if received.method() == "held" {
            latch.wait();
        }
        Reply::echo(received)
    })
}

/// Drains the gateway on another thread.
fn drain(gateway: Gateway) -> std::thread::JoinHandle<Drained> {
    std::thread::spawn(move || gateway.drain(|| false))
}

#[test]
fn callers_that_reconnect_elsewhere_lose_no_call() {
    let upstream = Upstream::echo();
    let gateways = [gateway_to(&upstream.url("/")), gateway_to(&upstream.url("/"))];
    let addresses = gateways.each_ref().map(|gateway| gateway.addresses()[0]);
    let (done, calls, moved) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let _gateway = std::thread::scope(|scope| {
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
                    let (body, expected) = if batch {
                        (format!("[{body},{body}]"), format!("[{expected},{expected}]"))
                    } else {
                        (body, expected)
                    };
                    let answer = caller.post(ENDPOINT, "", body);
                    assert_eq!((answer.status, answer.text()), (200, expected.as_str()));
                    if answer.closes() {
                        at = 1 - at;
                        caller = Caller::connect(addresses[at]);
                        moved.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let made = |n: u64| wait_until("calls are made", || calls.load(Ordering::Relaxed) >= n);
        let [first, second] = gateways;
        made(500);
        let drained = first.drain(|| false);
        assert_eq!(drained.left, 0);
        assert_eq!(moved.load(Ordering::Relaxed), 3, "callers of the first gateway have moved");
        let more = calls.load(Ordering::Relaxed) + 500;
        made(more);
        assert_eq!(connections(&second), 6);
        done.store(true, Ordering::Relaxed);
        second
    });
}

#[test]
fn calls_in_flight_are_answered_before_shutdown() {
    let latch = Latch::default();
    let upstream = upstream_with(&latch);
    let gateway = gateway_to(&upstream.url("/"));
    let address = gateway.addresses()[0];
    let body = call("1", "held", "[5]");
    let mut held: Vec<Caller> = (0..5).map(|_| connect(&gateway)).collect();
    for caller in &mut held {
        caller.send(crate::caller::request("POST", ENDPOINT, "", body.as_bytes()));
    }
    let mut idle = connect(&gateway);
    assert_eq!(idle.get("/ready").status, 200);
    upstream.wait_for(5);
    let drained = drain(gateway);
    wait_until("it is not ready", || {
        let ready = Caller::connect(address).get("/ready");
        assert_eq!(ready.closes(), ready.status == 503);
        ready.status == 503
    });
    // New requests are still served, and their connections closed.
    let answer = idle.post(ENDPOINT, "", call("2", "m", "[]"));
    assert_eq!(answer.text(), result("2", "[]"));
    assert!(answer.closes() && idle.ends());
    let answer = Caller::connect(address).post(ENDPOINT, "", call("3", "m", "[]"));
    assert_eq!(answer.text(), result("3", "[]"));
    assert!(answer.closes());
    latch.release();
    for mut caller in held {
        let answer = caller.answer();
        assert_eq!(answer.text(), result("1", "[5]"));
        assert!(answer.closes() && caller.ends());
    }
    assert_eq!(drained.join().unwrap().left, 0);
    assert!(std::net::TcpStream::connect(address).is_err(), "the listener is closed");
}

#[test]
fn pipelined_calls_after_the_closing_answer_are_not_started() {
    let latch = Latch::default();
    let upstream = upstream_with(&latch);
    let gateway = gateway_to(&upstream.url("/"));
    let mut caller = connect(&gateway);
    for n in 0..3 {
        let body = call(&n.to_string(), "held", "[]");
        caller.send(crate::caller::request("POST", ENDPOINT, "", body.as_bytes()));
    }
    upstream.wait_for(1);
    let drained = drain(gateway);
    wait_until("it is not ready", || Caller::connect(caller.address()).get("/ready").status == 503);
    latch.release();
    // The answer with `connection: close` is the last: the other calls were not started, so that the
    // caller can safely make them elsewhere.
    let answer = caller.answer();
    assert_eq!(answer.text(), result("0", "[]"));
    assert!(answer.closes() && caller.ends());
    assert_eq!(upstream.count(), 1);
    assert_eq!(drained.join().unwrap().left, 0);
}

#[test]
fn a_drain_ends_at_its_deadline_or_when_hurried() {
    let upstream = Upstream::start(|_, _| Reply::raw("", AfterReply::Hang));
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    for (drain, hurried) in [(Nanos::from_millis(50), false), (Nanos::from_secs(3_600), true)] {
        let gateway = start(Settings { drain, ..settings() }, &all);
        let before = upstream.count();
        let mut held = connect(&gateway);
        held.send(crate::caller::request("POST", ENDPOINT, "", call("1", "m", "[]").as_bytes()));
        upstream.wait_for(before + 1);
        let drained = gateway.drain(|| hurried);
        assert_eq!((drained.left, drained.calls_left, drained.calls_awaited), (1, 1, 1));
        assert!(held.ends());
    }
}

#[test]
fn idle_connections_do_not_delay_a_drain() {
    let upstream = Upstream::echo();
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(Settings { drain: Nanos::from_secs(3_600), ..settings() }, &all);
    let mut used = connect(&gateway);
    assert_eq!(used.get("/health").status, 200);
    let (mut new, mut begun) = (connect(&gateway), connect(&gateway));
    begun.send("GET /hea");
    wait_until("all are connected", || connections(&gateway) == 3);
    let drained = drain(gateway);
    assert!(used.ends() && new.ends(), "idle connections are closed");
    // A request that has begun is answered.
    begun.send("lth HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(begun.answer().status, 200);
    let drained = drained.join().unwrap();
    assert_eq!((drained.left, drained.calls_left, drained.calls_awaited), (0, 0, 0));
}

/// Callers that open a connection for each call lose none, as long as their load balancer takes the
/// gateway out of rotation within `idle_close`.
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
                        // Each call follows a readiness probe, as with a load balancer.
                        while Caller::connect(address).get("/ready").status == 200 {
                            let answer =
                                Caller::connect(address).post(ENDPOINT, "", call("1", "m", "[]"));
                            assert_eq!((answer.status, answer.text()), (200, &*result("1", "[]")));
                            calls.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            wait_until("calls are made", || calls.load(Ordering::Relaxed) >= 100);
            let drained = drain(gateway);
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            drained.join().unwrap()
        });
        assert_eq!((drained.left, drained.calls_left), (0, 0));
    }
}

/// A load balancer may still have a gateway in its rotation that has no connection at the moment.
#[test]
fn a_recently_used_gateway_waits_for_load_balancers_and_an_unused_one_does_not() {
    let upstream = Upstream::echo();
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let patient = Settings { idle_close: Nanos::from_secs(3_600), ..settings() };
    let unused = start(patient.clone(), &all);
    assert_eq!(unused.drain(|| false).left, 0);
    let used = start(patient, &all);
    let address = used.addresses()[0];
    assert_eq!(connect(&used).get("/ready").status, 200);
    wait_until("the caller has disconnected", || connections(&used) == 0);
    let hurry = Arc::new(AtomicBool::new(false));
    let is_hurried = hurry.clone();
    let drained = std::thread::spawn(move || used.drain(|| is_hurried.load(Ordering::Relaxed)));
    wait_until("it is not ready", || Caller::connect(address).get("/ready").status == 503);
    let answer = Caller::connect(address).post(ENDPOINT, "", call("1", "m", "[]"));
    assert_eq!((answer.status, answer.text()), (200, &*result("1", "[]")));
    hurry.store(true, Ordering::Relaxed);
    drained.join().unwrap();
}

#[test]
fn reloads_fail_no_call() {
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
                    let answer = caller.post(ENDPOINT, "", call("1", "m", &params));
                    assert_eq!((answer.status, answer.text()), (200, &*result("1", &params)));
                    assert!(!answer.closes(), "a reload closes no connection");
                }
            });
        }
        let sets: [&[usize]; 6] = [&[0], &[0, 1], &[2], &[1, 0], &[0, 1, 2], &[2, 1]];
        for round in 0..60 {
            let more = calls.load(Ordering::Relaxed) + 20;
            let mut chosen: Vec<_> = sets[round % sets.len()].iter().map(|at| one(*at)).collect();
            // The same upstream with another weight.
            chosen[0].weight = 1 + round as u32;
            gateway.apply(settings(), &definitions(chosen)).unwrap();
            wait_until("calls are made", || calls.load(Ordering::Relaxed) >= more);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(upstreams.iter().all(|upstream| upstream.count() > 0));
    wait_until("callers have disconnected", || connections(&gateway) == 0);
    gateway.apply(settings(), &definitions(Vec::new())).unwrap();
    let open = "plimsoll_connections{side=\"upstream\"}";
    wait_until("unused upstream connections are closed", || metric(&gateway, open) == 0);
}

#[test]
fn a_reload_applies_from_the_next_call() {
    let latch = Latch::default();
    let upstream = upstream_with(&latch);
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(settings(), &all);
    let mut caller = connect(&gateway);
    let mut in_flight = connect(&gateway);
    in_flight.send(crate::caller::request(
        "POST",
        ENDPOINT,
        "",
        call("9", "held", "[]").as_bytes(),
    ));
    upstream.wait_for(1);
    // An endpoint is removed.
    let mut gone = all.clone();
    gone.endpoints = vec![endpoint("other", "eth")];
    gateway.apply(settings(), &gone).unwrap();
    let answer = caller.post(ENDPOINT, "", call("1", "m", "[]"));
    assert_eq!((answer.status, answer.kind()), (404, "unknown_endpoint"));
    let answer = caller.post("/api/gateway?endpoint=other", "", call("1", "m", "[]"));
    assert_eq!(answer.status, 200);
    assert_eq!(refused(&gateway, "unknown_endpoint"), 1);
    // A limit is lowered.
    let limits = Limits { body: 10, ..Limits::default() };
    gateway.apply(Settings { limits, ..settings() }, &all).unwrap();
    let answer = caller.post(ENDPOINT, "", call("1", "m", "[]"));
    assert_eq!((answer.status, answer.kind()), (413, "body_too_large"));
    // An invalid change is not applied, not even in part.
    let mut bad = node("b", "eth", "https://127.0.0.1:1/");
    bad.ca = Some("/nonexistent/ca.pem".into());
    let mut wrong = definitions(vec![bad]);
    wrong.endpoints = Vec::new();
    assert!(gateway.apply(settings(), &wrong).is_err());
    gateway.apply(settings(), &all).unwrap();
    assert!(gateway.apply(settings(), &wrong).is_err());
    assert_eq!(post(&gateway, call("1", "m", "[]")).text(), result("1", "[]"));
    // The call in flight was not affected.
    latch.release();
    assert_eq!(in_flight.answer().text(), result("9", "[]"));
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let upstream = Upstream::echo();
    let gateway = gateway_to(&upstream.url("/"));
    let all = definitions(Vec::new());
    let listeners = vec![Listener::at(gateway.addresses()[0])];
    let started = Gateway::start(
        Settings { listeners: listeners.clone(), ..settings() },
        &all,
        crate::setup::host(),
    );
    let why = started.err().unwrap().to_string();
    assert!(why.contains(&format!("cannot listen on {}", gateway.addresses()[0])), "{why}");
    // Once it has stopped, its address can be reused at once, whatever connections it had.
    assert_eq!(post(&gateway, call("1", "m", "[]")).status, 200);
    drop(gateway);
    start(Settings { listeners, ..settings() }, &all);
}
