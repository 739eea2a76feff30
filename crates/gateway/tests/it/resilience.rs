//! Retries, limits and agreement over real sockets; the simulation tests the combinations.

use plimsoll_gateway::Gateway;
use plimsoll_registry::model::Service;

use crate::caller::{call, result};
use crate::scripted::{AfterReply, Received, Reply, Upstream};
use crate::setup::{definitions, metric, node, post, settings, start};

const NAMES: [&str; 3] = ["p1", "p2", "p3"];

/// A pool of these upstreams, without health checks.
fn pool(upstreams: &[&Upstream], service: Service) -> Gateway {
    let pairs = NAMES.iter().zip(upstreams);
    let mut all =
        definitions(pairs.map(|(name, upstream)| node(name, "eth", &upstream.url("/"))).collect());
    all.services = vec![Service { health_checks: false, ..service }];
    start(settings(), &all)
}

#[test]
fn failed_reads_are_retried_and_others_only_if_refused() {
    let broken = Upstream::start(|_, _| Reply::raw("", AfterReply::Close));
    let fine = Upstream::echo();
    let gateway = pool(&[&broken, &fine], Service::named("eth"));
    let retries = "plimsoll_extra_attempts_total{service=\"eth\",reason=\"retry\"}";
    let mut failed = 0;
    // Three calls a round, so that each kind meets each upstream.
    for _ in 0..2 {
        assert_eq!(post(&gateway, call("1", "eth_gasPrice", "[]")).status, 200);
        assert_eq!(post(&gateway, call("1", "eth_gasPrice", "[]")).status, 200);
        // A method that the gateway does not know may not be safe to repeat.
        failed += u64::from(post(&gateway, call("1", "m", "[]")).status != 200);
    }
    assert!(metric(&gateway, retries) > 0 && failed > 0, "{}", gateway.metrics());
    let limited = Upstream::start(|_, _| Reply::with(429, "Retry-After: 60\r\n", ""));
    let gateway = pool(&[&limited, &fine], Service::named("eth"));
    let parked = "plimsoll_upstream_excluded{service=\"eth\",upstream=\"p1\",reason=\"parked\"}";
    for (place, method) in ["m", "eth_gasPrice", "eth_getBalance"].into_iter().enumerate() {
        assert_eq!(metric(&gateway, parked), 0, "so far {place} kinds of calls are");
        for _ in 0..4 {
            assert_eq!(post(&gateway, call("1", method, "[]")).status, 200);
        }
        assert_eq!(limited.count(), place + 1, "{method} is parked");
    }
    assert_eq!(metric(&gateway, parked), 1, "three kinds of calls: all are");
}

#[test]
fn reverts_and_nulls_are_not_retried() {
    let revert = |_: usize, received: &Received| {
        let error = "\"error\":{\"code\":3,\"message\":\"execution reverted\"}";
        Reply::ok(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{},{error}}}", received.id()))
    };
    let both = [Upstream::start(revert), Upstream::start(revert)];
    let gateway = pool(&[&both[0], &both[1]], Service::named("eth"));
    assert_eq!(post(&gateway, call("1", "eth_call", "[]")).code(), 3);
    let nulls = [(); 2].map(|()| Upstream::start(|_, received| Reply::result(received, "null")));
    let gateway = pool(&[&nulls[0], &nulls[1]], Service::named("eth"));
    let answer = post(&gateway, call("1", "eth_getTransactionReceipt", "[]"));
    assert_eq!(answer.text(), result("1", "null"));
    let sent = [&both[0], &both[1], &nulls[0], &nulls[1]].map(|upstream| upstream.count());
    assert_eq!(sent.iter().sum::<usize>(), 2, "{sent:?}");
}

#[test]
fn upstreams_must_agree_if_asked_to() {
    let honest =
        [(); 2].map(|()| Upstream::start(|_, received| Reply::result(received, "\"0x1\"")));
    let liar = Upstream::start(|_, received| Reply::result(received, "\"0x2\""));
    let agree = plimsoll_registry::model::Agree { default: 2, methods: Vec::new() };
    let service = Service { agree, ..Service::named("eth") };
    let gateway = pool(&[&liar, &honest[0], &honest[1]], service.clone());
    for _ in 0..6 {
        let answer = post(&gateway, call("1", "eth_getBalance", "[\"0x00\",\"0x1\"]"));
        assert_eq!(answer.text(), result("1", "\"0x1\""));
    }
    let dissents = "plimsoll_dissents_total{service=\"eth\",upstream=\"p1\"}";
    assert!(metric(&gateway, dissents) > 0, "{}", gateway.metrics());
    let gateway = pool(&[&liar, &honest[0]], service);
    let answer = post(&gateway, call("1", "eth_getBalance", "[\"0x00\",\"0x1\"]"));
    assert_eq!((answer.status, answer.kind()), (502, "no_agreement"), "{}", answer.text());
}
