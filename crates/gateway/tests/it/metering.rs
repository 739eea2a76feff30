//! What is counted for whom, over real sockets.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_gateway::{Definitions, Gateway, Host};
use plimsoll_registry::model::{ComputeUnits, Service};
use plimsoll_registry::usage::{Counts, Inbox};

use crate::caller::{call, request};
use crate::scripted::{AfterReply, Reply, Upstream};
use crate::setup::{ENDPOINT, ETH, connect, definitions, host, node, post, settings, wait_until};

/// A gateway that counts.
fn start(definitions: &Definitions) -> (Gateway, Arc<Inbox>) {
    let inbox = Arc::new(Inbox::default());
    let host = Host { usage: Some(inbox.clone()), ..host() };
    (Gateway::start(settings(), definitions, host).unwrap(), inbox)
}

/// Stops a gateway; returns what it has counted, by endpoint and method.
fn counted(gateway: Gateway, inbox: &Inbox) -> BTreeMap<(String, String), Counts> {
    drop(gateway);
    let mut all: BTreeMap<_, Counts> = BTreeMap::new();
    for (subject, counts) in inbox.take().into_vec() {
        assert_eq!((subject.service.as_str(), subject.key.as_str()), ("eth", ""));
        all.entry((subject.endpoint, subject.method)).or_default().add(&counts);
    }
    all
}

fn of(all: &BTreeMap<(String, String), Counts>, endpoint: &str, method: &str) -> Counts {
    all.get(&(endpoint.into(), method.into())).copied().unwrap_or_default()
}

#[test]
fn calls_batches_and_rest_are_counted() {
    let upstream = Upstream::start(|_, received| match received.line() {
        "GET /status" => Reply::ok("healthy"),
        _ => Reply::result(received, "\"0x1\""),
    });
    let mut all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let methods = vec![("eth_call".into(), 26), ("REST".into(), 5), ("own_*".into(), 3)];
    let compute_units = ComputeUnits { default: 10, methods };
    all.services = vec![Service { compute_units, ..all.services[0].clone() }];
    let (gateway, inbox) = start(&all);
    let single = call("7", "eth_call", "[]");
    let answer = post(&gateway, &single);
    assert_eq!(answer.status, 200);
    let own = call("1", "own_method", "[]");
    // Two calls, a notification, and something that is no call.
    let notification = "{\"jsonrpc\":\"2.0\",\"method\":\"eth_call\"}";
    let batch = format!("[{single}, {own} ,{notification},{{}}]");
    assert_eq!(post(&gateway, batch).status, 200);
    let mut caller = connect(&gateway);
    caller.send(request("GET", "/v1/status", ETH, b""));
    assert_eq!(caller.answer().text(), "healthy");
    let all = counted(gateway, &inbox);
    let calls = of(&all, "e", "eth_call");
    assert_eq!((calls.calls, calls.ok, calls.relays, calls.compute_units), (3, 3, 3, 78));
    let bytes_in = 2 * single.len() + notification.len();
    assert_eq!(calls.bytes_in, bytes_in as u64);
    assert_eq!(calls.bytes_out, 2 * answer.text().len() as u64, "notifications are not answered");
    let own_calls = of(&all, "e", "other");
    assert_eq!((own_calls.calls, own_calls.compute_units), (1, 3));
    assert_eq!(own_calls.bytes_in, own.len() as u64);
    let rest = of(&all, "", "REST");
    assert_eq!((rest.calls, rest.ok, rest.relays, rest.compute_units), (1, 1, 1, 5));
    assert_eq!(rest.bytes_out, 7);
    assert_eq!(upstream.count() as u64, calls.relays + own_calls.relays + rest.relays);
}

#[test]
fn retries_are_relays_and_what_was_not_sent_is_not() {
    let broken = Upstream::start(|_, _| Reply::raw("", AfterReply::Close));
    let fine = Upstream::echo();
    let nodes = vec![node("a", "eth", &broken.url("/")), node("b", "eth", &fine.url("/"))];
    let (gateway, inbox) = start(&definitions(nodes));
    for _ in 0..4 {
        assert_eq!(post(&gateway, call("1", "eth_gasPrice", "[]")).status, 200);
    }
    let all = counted(gateway, &inbox);
    let calls = of(&all, "e", "eth_gasPrice");
    assert_eq!((calls.calls, calls.ok), (4, 4));
    assert_eq!(calls.relays, (broken.count() + fine.count()) as u64);
    assert!(calls.relays > 4);
    // Nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (gateway, inbox) = start(&definitions(vec![node("a", "eth", &format!("http://{free}/"))]));
    assert_ne!(post(&gateway, call("1", "eth_gasPrice", "[]")).status, 200);
    let all = counted(gateway, &inbox);
    let calls = of(&all, "e", "eth_gasPrice");
    assert_eq!((calls.calls, calls.failed, calls.relays), (1, 1, 0));
    assert_eq!(calls.compute_units, 0);
    assert!(calls.bytes_out > 0);
}

#[test]
fn callers_that_leave_are_not_charged() {
    let upstream = Upstream::start(|_, _| Reply::raw("", AfterReply::Hang));
    let (gateway, inbox) = start(&definitions(vec![node("a", "eth", &upstream.url("/"))]));
    let mut caller = connect(&gateway);
    let body = call("1", "eth_call", "[]");
    caller.send(request("POST", ENDPOINT, "", body.as_bytes()));
    upstream.wait_for(1);
    caller.reset();
    wait_until("the call is cancelled", || gateway.metrics().contains("outcome=\"cancelled\""));
    // Another one is in flight when the gateway ends.
    let mut caller = connect(&gateway);
    caller.send(request("POST", ENDPOINT, "", body.as_bytes()));
    upstream.wait_for(2);
    let all = counted(gateway, &inbox);
    let calls = of(&all, "e", "eth_call");
    assert_eq!((calls.calls, calls.cancelled(), calls.relays), (2, 2, 2));
    assert_eq!((calls.bytes_out, calls.compute_units), (0, 0));
    // Their quotas are.
    assert_eq!(calls.admitted_units, 2);
    assert_eq!(calls.bytes_in, 2 * body.len() as u64);
}
