//! Connections to upstreams: name resolution, choice of address, pooling, and the separation of REST
//! from calls.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex};

use plimsoll_gateway::{Gateway, Host};
use plimsoll_registry::Definitions;

use crate::caller::{call, request, result};
use crate::scripted::{Reply, Upstream};
use crate::setup::{
    ENDPOINT, ETH, connect, definitions, host, instance, node, post, relays, settings, start,
};

fn start_with(
    resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    definitions: &Definitions,
) -> Gateway {
    let host = Host { resolve: Some(Arc::new(resolve)), ..host() };
    Gateway::start(settings(), definitions, host).unwrap()
}

#[test]
fn unreachable_addresses_are_skipped() {
    let upstream = Upstream::echo();
    let url = format!("http://node.invalid:{}/", upstream.address.port());
    let dead: [IpAddr; 2] = ["::1".parse().unwrap(), "127.0.0.9".parse().unwrap()];
    let resolve = move |name: &str| {
        assert_eq!(name, "node.invalid");
        Ok(vec![dead[0], dead[1], IpAddr::from([127, 0, 0, 1])])
    };
    let gateway = start_with(resolve, &definitions(vec![node("a", "eth", &url)]));
    assert_eq!(post(&gateway, call("1", "m", "[1]")).text(), result("1", "[1]"));
}

#[test]
fn a_hung_or_failed_lookup_does_not_affect_other_names() {
    let upstream = Upstream::echo();
    let port = upstream.address.port();
    let url = |name: &str| format!("http://{name}:{port}/");
    let all = Definitions {
        services: ["hung", "failed", "eth"].map(plimsoll_registry::model::Service::named).into(),
        upstreams: vec![
            node("h", "hung", &url("hung.invalid")),
            node("f", "failed", &url("failed.invalid")),
            node("a", "eth", &url("node.invalid")),
        ],
        endpoints: vec![crate::setup::endpoint("e", "eth")],
    };
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let own = gate.clone();
    let resolve = move |name: &str| match name {
        "hung.invalid" => {
            let mut open = own.0.lock().unwrap();
            while !*open {
                open = own.1.wait(open).unwrap();
            }
            Ok(Vec::new())
        }
        "failed.invalid" => Err(io::Error::other("no such name")),
        _ => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
    };
    let gateway = start_with(resolve, &all);
    let mut hung: Vec<_> = (0..100).map(|_| connect(&gateway)).collect();
    for caller in &mut hung {
        let headers = "Target-Service-Id: hung\r\n";
        caller.send(request("POST", "/v1", headers, call("1", "m", "[]").as_bytes()));
    }
    let failed =
        connect(&gateway).post("/v1", "Target-Service-Id: failed\r\n", call("1", "m", "[]"));
    assert_eq!(failed.kind(), "unreachable");
    assert!(failed.text().contains("its name could not be resolved"), "{}", failed.text());
    assert_eq!(post(&gateway, call("1", "m", "[1]")).status, 200);
    // It stops although a lookup hangs.
    drop(gateway);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

#[test]
fn an_upstreams_keep_alive_timeout_is_respected() {
    for (header, connections) in
        [("Keep-Alive: timeout=60, max=100\r\n", 1), ("Keep-Alive: timeout=1\r\n", 3)]
    {
        let upstream = Upstream::start(move |_, received| {
            Reply::with(200, header, &crate::scripted::answer(received, "1"))
        });
        let gateway = start(settings(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
        for _ in 0..3 {
            assert_eq!(post(&gateway, call("1", "m", "[]")).status, 200);
        }
        assert_eq!(upstream.connections(), connections, "{header}");
    }
}

#[test]
fn unsent_calls_are_attempted_on_another_upstream() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let upstream = Upstream::echo();
    let nodes =
        vec![node("gone", "eth", &format!("http://{gone}/")), node("a", "eth", &upstream.url("/"))];
    let gateway = start(settings(), &definitions(nodes));
    for n in 0..10 {
        let answer = post(&gateway, call("1", "eth_sendRawTransaction", "[]"));
        assert_eq!(answer.text(), result("1", "[]"));
        let attempts = ["2", "1"][n % 2];
        assert_eq!(answer.header("x-plimsoll-attempts"), Some(attempts));
    }
    assert_eq!((relays(&gateway, "gone", "unreachable"), relays(&gateway, "a", "ok")), (5, 10));
    assert_eq!(upstream.count(), 10, "each was sent once");
}

#[test]
fn ids_sent_upstream_are_positive_numbers() {
    let upstream = Upstream::echo();
    let gateway = start(settings(), &definitions(vec![node("a", "eth", &upstream.url("/"))]));
    let mut last = 0;
    for _ in 0..3 {
        post(&gateway, call("0", "m", "[]"));
        let id: u64 = upstream.last().id().parse().unwrap();
        assert!(id > last && id < 10, "{id} after {last}");
        last = id;
    }
}

/// If an upstream ignored a body, a second request hidden in it would be answered to the next caller on
/// the connection.
#[test]
fn a_request_hidden_in_a_rest_body_reaches_no_other_caller() {
    let upstream = Upstream::start(|_, received| {
        if received.body.is_empty() { Reply::ok("fine") } else { Reply::echo(received) }
    });
    let gateway = start(settings(), &definitions(vec![instance("a", &upstream.url("/v1"))]));
    let hidden = "GET /v1/hidden HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut caller = connect(&gateway);
    for method in ["GET", "HEAD"] {
        caller.send(request(method, "/v1/x", ETH, hidden.as_bytes()));
        let answer = if method == "HEAD" { caller.head() } else { caller.answer() };
        assert_eq!(answer.status, 200);
        let received = upstream.last();
        assert_eq!((received.body.as_str(), received.header("content-length")), ("", None));
        assert_eq!(received.line(), format!("{method} /v1/x"));
    }
    assert_eq!(upstream.connections(), 1, "the connection is reused after requests without a body");
    // After a request with a body the connection is not reused.
    for n in 2..4 {
        caller.send(request("PUT", "/v1/x", ETH, hidden.as_bytes()));
        assert_eq!(caller.answer().status, 200);
        assert_eq!(upstream.connections(), n);
    }
    // Calls use separate connections.
    for _ in 0..3 {
        assert_eq!(post(&gateway, call("1", "m", "[]")).status, 200);
    }
    assert_eq!(upstream.connections(), 4);
    for method in ["TRACE", "CONNECT"] {
        let before = upstream.count();
        caller.send(request(method, "/v1/x", ETH, b""));
        assert_eq!(caller.answer().status, 405, "{method}");
        assert_eq!(upstream.count(), before);
    }
    assert_eq!(connect(&gateway).post(ENDPOINT, "", call("1", "m", "[]")).status, 200);
}
