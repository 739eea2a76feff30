//! Load balancing: which upstream gets which call, by the upstreams' own counts and by the metrics.

use std::sync::{Arc, Barrier};

use plimsoll_gateway::{Gateway, Settings};
use plimsoll_registry::model::{Service, Spread};

use crate::caller::{Caller, call, request};
use crate::scripted::{Reply, Upstream};
use crate::setup::{
    ENDPOINT, ETH, connect, definitions, instance, metric, node, post, settings, spread, start,
    wait_until,
};

const NAMES: [&str; 5] = ["p1", "p2", "p3", "p4", "p5"];

/// Five instances behind one gateway.
fn five(settings: Settings) -> (Vec<Upstream>, Gateway) {
    let upstreams: Vec<Upstream> = NAMES.iter().map(|_| Upstream::echo()).collect();
    let pairs = NAMES.iter().zip(&upstreams);
    let mut all =
        definitions(pairs.map(|(name, upstream)| instance(name, &upstream.url("/v1"))).collect());
    let quiet = |id| Service { health_checks: false, ..Service::named(id) };
    all.services.extend(["boba", "kava"].map(quiet));
    let gateway = start(settings, &all);
    (upstreams, gateway)
}

fn counts(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(Upstream::count).collect()
}

/// An upstream's relays over all services and outcomes, from the metrics.
fn counted(gateway: &Gateway, upstream: &str) -> usize {
    let page = gateway.metrics();
    let relays = page.lines().filter(|line| line.starts_with("plimsoll_relays_total{"));
    let own = relays.filter(|line| line.contains(&format!("upstream=\"{upstream}\"")));
    own.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[test]
fn round_robin_is_even_across_services() {
    let (upstreams, gateway) = five(settings());
    let mut caller = connect(&gateway);
    let batch = format!("[{}]", [call("1", "m", "[]"), call("2", "m", "[]")].join(","));
    for n in 0..200 {
        let service = ["eth", "boba", "kava", "unheard-of"][n * 7 % 4];
        let header = format!("Target-Service-Id: {service}\r\n");
        match n % 5 {
            0 => caller.send(request("POST", "/v1", &header, batch.as_bytes())),
            1 => caller.send(request("GET", "/v1/status", &header, b"")),
            2 => caller.send(request("POST", ENDPOINT, "", call("1", "m", "[]").as_bytes())),
            _ => caller.send(request("POST", "/v1", &header, call("1", "m", "[]").as_bytes())),
        }
        caller.answer();
        let counts = counts(&upstreams);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 1, "after {n}: {counts:?}");
    }
    for (name, upstream) in NAMES.iter().zip(&upstreams) {
        assert_eq!(counted(&gateway, name), upstream.count(), "{name}\n{}", gateway.metrics());
    }
}

#[test]
fn round_robin_is_even_under_load() {
    let (upstreams, gateway) = five(Settings { workers: 2, ..settings() });
    let address = gateway.addresses()[0];
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                let mut caller = Caller::connect(address);
                let header = format!("Target-Service-Id: {}\r\n", ["eth", "boba"][number % 2]);
                for _ in 0..500 {
                    assert_eq!(caller.post("/v1", &header, call("1", "m", "[]")).status, 200);
                }
            });
        }
    });
    let counts = counts(&upstreams);
    assert_eq!(counts.iter().sum::<usize>(), 4_000);
    assert!(counts.iter().all(|count| count.abs_diff(800) <= 8), "{counts:?}");
    for (name, upstream) in NAMES.iter().zip(&upstreams) {
        assert_eq!(counted(&gateway, name), upstream.count(), "{name}");
    }
}

#[test]
fn weights_are_exact() {
    let upstreams = [Upstream::echo(), Upstream::echo(), Upstream::echo()];
    let weighted = |at: usize, weight| {
        let one = node(NAMES[at], "eth", &upstreams[at].url("/"));
        plimsoll_registry::model::Upstream { weight, ..one }
    };
    let all = vec![weighted(0, 40), weighted(1, 20), weighted(2, 10)];
    let gateway = start(settings(), &spread(definitions(all), Spread::Weighted));
    let mut caller = connect(&gateway);
    for round in 1..=10 {
        for _ in 0..7 {
            assert_eq!(caller.post(ENDPOINT, "", call("1", "m", "[]")).status, 200);
        }
        assert_eq!(counts(&upstreams), [4 * round, 2 * round, round]);
    }
}

#[test]
fn least_loaded_avoids_a_stalled_upstream() {
    let gate = Arc::new(Barrier::new(2));
    let stalled = {
        let gate = gate.clone();
        Upstream::start(move |_, received| {
            if received.method() == "stall" {
                gate.wait();
            }
            Reply::echo(received)
        })
    };
    let moving = Upstream::echo();
    let narrow = |id: &str, url: &str, denied: &str| {
        let mut one = node(id, "eth", url);
        one.methods.deny = vec![denied.into()];
        one
    };
    let all = vec![
        narrow("stalled", &stalled.url("/"), "never"),
        narrow("moving", &moving.url("/"), "stall"),
    ];
    let gateway = start(settings(), &spread(definitions(all), Spread::LeastLoaded));
    let mut stuck = connect(&gateway);
    stuck.send(request("POST", ENDPOINT, "", call("1", "stall", "[]").as_bytes()));
    stalled.wait_for(1);
    assert_eq!(metric(&gateway, "plimsoll_relays_in_flight{upstream=\"stalled\"}"), 1);
    for _ in 0..100 {
        let answer = post(&gateway, call("1", "m", "[]"));
        assert_eq!(answer.header("x-plimsoll-upstream"), Some("moving"));
    }
    gate.wait();
    assert_eq!(stuck.answer().status, 200);
    let in_flight = "plimsoll_relays_in_flight{upstream=\"stalled\"}";
    wait_until("the stalled call ends", || metric(&gateway, in_flight) == 0);
    for _ in 0..10 {
        assert_eq!(post(&gateway, call("1", "m", "[]")).status, 200);
    }
    assert_eq!((stalled.count(), moving.count()), (6, 105));
}

#[test]
fn rules_limits_and_tiers_narrow_the_choice() {
    let upstreams = [Upstream::echo(), Upstream::echo(), Upstream::echo()];
    let mut narrow = node("narrow", "eth", &upstreams[0].url("/"));
    narrow.methods.allow = vec!["eth_*".into()];
    let mut limited = node("limited", "eth", &upstreams[1].url("/"));
    limited.rate_limit = Some(0.000_1);
    let mut last = node("last", "eth", &upstreams[2].url("/"));
    last.tier = 1;
    let gateway = start(settings(), &definitions(vec![narrow, limited, last]));
    // (method, expected upstream)
    let rows = [
        ("eth_call", "narrow"),
        ("debug_x", "limited"),
        // `limited` has used up its rate limit.
        ("debug_x", "last"),
        ("debug_x", "last"),
        ("eth_call", "narrow"),
        ("eth_call", "narrow"),
        // Filter calls go to the upstream that keeps the filters.
        ("eth_newFilter", "narrow"),
        ("eth_getFilterChanges", "narrow"),
        ("eth_uninstallFilter", "narrow"),
    ];
    for (method, upstream) in rows {
        let answer = post(&gateway, call("1", method, "[]"));
        assert_eq!(answer.header("x-plimsoll-upstream"), Some(upstream), "{method}");
    }
    let three = ["eth_call", "debug_x", "eth_call"].map(|method| call("1", method, "[]"));
    let answer = post(&gateway, format!("[{}]", three.join(",")));
    assert_eq!(
        answer.header("x-plimsoll-upstream"),
        Some("narrow, last"),
        "each upstream is named once"
    );
    assert_eq!(answer.header("x-plimsoll-attempts"), Some("3"));
    let mut caller = connect(&gateway);
    caller.send(request("GET", "/v1/status", ETH, b""));
    assert_eq!(
        caller.answer().header("x-plimsoll-upstream"),
        Some("last"),
        "REST does not match eth_*"
    );
}
