//! The cache as callers and upstreams see it: hits, single flight, refusals, hostile upstreams.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use plimsoll_gateway::{Gateway, Settings};
use plimsoll_registry::model::Service;

use crate::caller::{Answer, call, request};
use crate::scripted::{AfterReply, Received, Reply, Upstream, answer};
use crate::setup::{
    ENDPOINT, connect, definitions, metric, node, post, settings, start, wait_until,
};

const HASH: &str = "0xdb785f2444d7f68bc2bc04860c27ad059217192d17e2889ec801bcae9209b204";

/// An upstream on chain 1 that answers other methods with `reply`.
fn upstream(reply: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |_, received| match received.method() {
        "eth_chainId" => Reply::result(received, "\"0x1\""),
        _ => reply(received),
    })
}

/// A gateway whose service has a chain id, and therefore a cache.
fn gateway(upstream: &Upstream, settings: Settings) -> Gateway {
    let mut all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    all.services = all.services.drain(..).map(|eth| Service { chain_id: Some(1), ..eth }).collect();
    all.endpoints[0].no_cache = true;
    start(settings, &all)
}

/// The params of a block by a hash that ends with this number.
fn by_hash(n: usize) -> String {
    format!("[\"{}{n:08x}\",false]", &HASH[..58])
}

/// A block whose hash is the first parameter, with this many bytes of data.
fn block(received: &Received, length: usize) -> String {
    let hash = received.params().split('"').nth(1).unwrap_or_default().to_string();
    let data = "x".repeat(length);
    format!("{{\"number\":\"0x1\",\"hash\":\"{hash}\",\"data\":\"{data}\"}}")
}

fn relays(upstream: &Upstream) -> usize {
    upstream.received().iter().filter(|one| one.method() != "eth_chainId").count()
}

fn used(answer: &Answer) -> &str {
    answer.header("x-cache").unwrap_or("none")
}

#[test]
fn an_answer_is_relayed_once_and_returned_with_each_callers_id() {
    let upstream = upstream(|received| Reply::result(received, &block(received, 20_000)));
    let gateway = gateway(&upstream, settings());
    let ask = |id: &str, headers: &str| {
        connect(&gateway).post(ENDPOINT, headers, call(id, "eth_getBlockByHash", &by_hash(1)))
    };
    let first = ask("1", "");
    assert_eq!((used(&first), relays(&upstream)), ("miss", 1));
    let second = ask("\"two\"", "");
    assert_eq!((used(&second), relays(&upstream)), ("hit", 1));
    assert_eq!(second.text(), first.text().replacen("\"id\":1", "\"id\":\"two\"", 1));
    let fresh = ask("3", "Cache-Control: max-age=0, no-cache\r\n");
    assert_eq!((used(&fresh), relays(&upstream)), ("bypass", 2));
    // Each item of a batch by itself.
    let known = call("4", "eth_getBlockByHash", &by_hash(1));
    let new = call("5", "eth_getBlockByHash", &by_hash(2));
    let batch = post(&gateway, format!("[{known},{new},{known}]"));
    assert_eq!((used(&batch), relays(&upstream)), ("miss", 3));
    let labels = "service=\"eth\",method=\"eth_getBlockByHash\",outcome=\"ok\",cache=\"hit\"";
    let hits = || metric(&gateway, &format!("plimsoll_calls_total{{{labels}}}"));
    wait_until("the batch is counted", || hits() == 3);
}

#[test]
fn it_can_be_turned_off() {
    let upstream = upstream(|received| Reply::result(received, &block(received, 10)));
    let mut off = settings();
    off.cache.memory = 0;
    let gateway = gateway(&upstream, off);
    for relayed in 1..3 {
        let answer = post(&gateway, call("1", "eth_getBlockByHash", &by_hash(1)));
        assert_eq!((used(&answer), relays(&upstream)), ("bypass", relayed));
    }
}

#[test]
fn many_callers_of_a_cold_key_cause_one_relay_even_if_the_first_leaves() {
    const CALLERS: usize = 500;
    let may_answer = Arc::new(AtomicBool::new(false));
    let is_open = may_answer.clone();
    let upstream = upstream(move |received| {
        while !is_open.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        Reply::result(received, &block(received, 10))
    });
    let gateway = gateway(&upstream, settings());
    let body = call("1", "eth_getBlockByHash", &by_hash(1));
    let in_flight = || metric(&gateway, "plimsoll_calls_in_flight");
    let mut first = connect(&gateway);
    first.send(request("POST", ENDPOINT, "", body.as_bytes()));
    wait_until("the first call is relayed", || relays(&upstream) == 1);
    let mut callers: Vec<_> = (0..CALLERS).map(|_| connect(&gateway)).collect();
    for caller in &mut callers {
        caller.send(request("POST", ENDPOINT, "", body.as_bytes()));
    }
    wait_until("all wait", || in_flight() == CALLERS as u64 + 1);
    first.reset();
    wait_until("the first has left", || in_flight() == CALLERS as u64);
    may_answer.store(true, Ordering::Relaxed);
    for caller in &mut callers {
        let answer = caller.answer();
        assert_eq!((answer.status, used(&answer)), (200, "coalesced"));
    }
    assert_eq!(relays(&upstream), 1);
}

#[test]
fn a_failure_is_shared_and_not_stored() {
    const CALLERS: usize = 20;
    let upstream = upstream(|received| {
        let id = received.id();
        let error = "{\"code\":3,\"message\":\"execution reverted\",\"data\":\"0xab\"}";
        Reply::ok(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}"))
    });
    let gateway = gateway(&upstream, settings());
    let body = call("9", "eth_getBlockByHash", &by_hash(1));
    let barrier = Barrier::new(CALLERS);
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                barrier.wait();
                let answer = post(&gateway, &body);
                assert!(answer.text().contains("\"data\":\"0xab\""), "{}", answer.text());
                assert!(answer.text().contains("\"id\":9"));
            });
        }
    });
    let before = relays(&upstream);
    assert_eq!(used(&post(&gateway, &body)), "miss");
    assert_eq!((relays(&upstream), metric(&gateway, "plimsoll_cache_entries")), (before + 1, 0));
}

#[test]
fn what_a_hostile_upstream_answers_is_not_stored() {
    let check = |what: &str, make: fn(&Received) -> Reply| {
        let upstream = upstream(make);
        let gateway = gateway(&upstream, settings());
        for _ in 0..2 {
            let answer = post(&gateway, call("1", "eth_getBlockByHash", &by_hash(1)));
            assert_ne!(used(&answer), "hit", "{what}");
            assert_eq!(metric(&gateway, "plimsoll_cache_entries"), 0, "{what}");
        }
    };
    check("null", |received| Reply::result(received, "null"));
    check("another block", |received| {
        Reply::result(received, "{\"number\":\"0x1\",\"hash\":\"0x12\"}")
    });
    check("not a block", |received| Reply::result(received, "[[[[7]]]]"));
    check("no hash", |received| Reply::result(received, "{\"number\":\"0x1\"}"));
    check("30 MiB", |received| Reply::result(received, &block(received, 30 << 20)));
    check("another id", |received| {
        Reply::ok(&answer(received, &block(received, 1)).replace("\"id\":", "\"id\":7"))
    });
    check("an error in 200", |received| {
        let id = received.id();
        Reply::ok(&format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":-32000,\"message\":\"x\"}}}}"
        ))
    });
    check("half", |received| {
        let text = answer(received, &block(received, 1));
        let head = format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", text.len());
        Reply::raw(format!("{head}{}", &text[..text.len() / 2]), AfterReply::Close)
    });
}

#[test]
fn the_operator_sees_and_removes_answers() {
    let upstream = upstream(|received| Reply::result(received, &block(received, 10)));
    let gateway = gateway(&upstream, settings());
    let fill = || {
        for n in 0..3 {
            post(&gateway, call("1", "eth_getBlockByHash", &by_hash(n)));
        }
    };
    let remove = |query: &str| {
        let target = format!("/api/v1/cache{query}");
        let mut caller = connect(&gateway);
        caller.send(request("DELETE", &target, "", b""));
        caller.answer()
    };
    fill();
    let stats = connect(&gateway).get("/api/v1/cache");
    assert!(stats.text().contains("\"entries\":3"), "{}", stats.text());
    assert!(stats.text().contains("\"eth_getBlockByHash\":{\"hit\":0,"), "{}", stats.text());
    let key = by_hash(1).replace('"', "%22");
    let query = format!("?service=eth&method=eth_getBlockByHash&key={key}");
    assert_eq!(remove(&query).text(), "{\"memory\":1,\"redis\":null}");
    assert_eq!(remove("?method=eth_call").text(), "{\"memory\":0,\"redis\":null}");
    assert_eq!(remove("?service=eth").text(), "{\"memory\":2,\"redis\":null}");
    for (bad, why) in [
        ("?service=no", "there is no service"),
        ("?method=no", "no answers of"),
        ("?key=[]", "a key needs its service"),
        ("?service=eth&method=eth_call&key=x", "a key is the call's params"),
    ] {
        assert!(remove(bad).text().contains(why), "{bad}: {}", remove(bad).text());
    }
}
