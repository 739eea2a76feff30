//! How calls are spread, and what a reload carries over.

use super::*;
use crate::account::InUse;
use crate::local::{Local, Time};
use crate::observe::stats::Sharded;
use crate::permit::Capacity;
use crate::upstream::slot::Slot;
use plimsoll_config::Text;
use plimsoll_measure::Nanos;
use plimsoll_registry::model::{Address, Kind, Spread};
use plimsoll_rpc::method::Class;
use std::collections::BTreeMap;

fn upstream(id: &str, service: Option<&str>, weight: u32, tier: u8) -> model::Upstream {
    let url = format!("http://{id}:80/v1");
    let address = Address::parse(&url).expect("a URL");
    model::Upstream {
        service: service.map(String::from),
        weight,
        tier,
        ..model::Upstream::at(id, Kind::Path, Text::plain(url), address)
    }
}

const NEED: Need<'_> =
    Need { class: Class::Read, method: "eth_call", known: None, block: None, prefer: None };

fn compile(definitions: &Definitions, previous: &Routing) -> Routing {
    Routing::compile(definitions, previous, 2, &mut 0).expect("compiles")
}

fn definitions(spread: Spread, upstreams: Vec<model::Upstream>) -> Definitions {
    let service = model::Service { spread, ..model::Service::named("eth") };
    let other = model::Service { spread, ..model::Service::named("boba") };
    Definitions { services: vec![service, other], upstreams, endpoints: Vec::new() }
}

fn local() -> Local {
    let capacity = Arc::new(Capacity::new(&Default::default()));
    Local::new(0, Time::start(), capacity, Arc::new(Sharded::new(1)))
}

/// Picks a route and takes a slot.
fn admitted<'s, 'l>(
    service: &'s Service,
    need: &Need<'_>,
    tried: &Tried,
    account: &'l Arc<InUse>,
    local: &'l Local,
) -> Result<(&'s Route, Slot<'l>), ErrorKind>
where
    's: 'l,
{
    let (picked, slot) = service.pick(need, tried, account, local)?;
    let of_gate = |route: &&Route| Arc::ptr_eq(&route.upstream.gate, &picked.route.upstream.gate);
    Ok((service.routes.iter().find(of_gate).expect("a route"), slot))
}

/// Picks a route.
fn pick<'s>(service: &'s Service, need: &Need<'_>, tried: &Tried) -> Result<&'s Route, ErrorKind> {
    let (account, local) = (Arc::default(), local());
    let (route, slot) = admitted(service, need, tried, &account, &local)?;
    drop(slot);
    Ok(route)
}

/// Picks `n` times; returns the ids of the upstreams in order.
fn picks(routing: &Routing, service: &str, n: usize) -> Vec<String> {
    let service = routing.service(service).expect("a service");
    (0..n)
        .map(|_| pick(service, &NEED, &Tried::default()).expect("a route"))
        .map(|route| route.upstream.model.id.clone())
        .collect()
}

fn counts(picked: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for id in picked {
        *counts.entry(id.as_str()).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_is_even_across_services() {
    let five: Vec<_> = ["a", "b", "c", "d", "e"].map(|id| upstream(id, None, 1, 0)).into();
    let routing = compile(&definitions(Spread::RoundRobin, five), &Routing::empty(0));
    let mut all = Vec::new();
    for service in ["eth", "boba", "unheard-of", "eth", "boba", "eth", "eth"] {
        all.extend(picks(&routing, service, 1));
        let counts = counts(&all);
        let most = counts.values().max().copied().unwrap_or(0);
        let least = ["a", "b", "c", "d", "e"].map(|id| counts.get(id).copied().unwrap_or(0));
        assert!(most - least.iter().min().expect("five") <= 1, "{all:?}");
    }
}

#[test]
fn weighted_shares_are_exact_and_interleaved() {
    let upstreams = vec![upstream("a", None, 4, 0), upstream("b", None, 2, 0)];
    let routing = compile(&definitions(Spread::Weighted, upstreams), &Routing::empty(0));
    let picked = picks(&routing, "eth", 300);
    assert_eq!(counts(&picked), [("a", 200), ("b", 100)].into());
    assert!(picked.windows(2).all(|two| two != ["b", "b"]), "interleaved");
}

#[test]
fn the_least_loaded_upstream_is_picked() {
    let upstreams = vec![upstream("a", None, 1, 0), upstream("b", None, 2, 0)];
    let routing = compile(&definitions(Spread::LeastLoaded, upstreams), &Routing::empty(0));
    let service = routing.service("eth").expect("a service");
    let (account, local) = (Arc::default(), local());
    let admitted = || admitted(service, &NEED, &Tried::default(), &account, &local);
    let _slots: Vec<_> = (0..9).map(|_| admitted().expect("a route").1).collect();
    let loads: Vec<u64> = routing.upstreams().iter().map(|one| one.in_flight()).collect();
    assert_eq!(loads, [3, 6], "in proportion to the weights");
}

#[test]
fn tiers_method_rules_and_rate_limits_are_respected() {
    let mut first = upstream("a", Some("eth"), 1, 0);
    first.methods.deny = vec!["debug_*".into()];
    first.rate_limit = Some(10.0);
    let definitions = definitions(
        Spread::RoundRobin,
        vec![upstream("z", Some("eth"), 1, 1), first, upstream("y", Some("boba"), 1, 0)],
    );
    let routing = compile(&definitions, &Routing::empty(0));
    let service = routing.service("eth").expect("a service");
    let picked = |method: &str| {
        let route = pick(
            service,
            &Need { class: Class::Read, method, known: None, block: None, prefer: None },
            &Tried::default(),
        );
        route.map(|route| route.upstream.model.id.as_str())
    };
    assert_eq!(picked("eth_call"), Ok("a"), "tier 0 first");
    assert_eq!(picked("debug_traceCall"), Ok("z"), "tier 0 denies the method");
    assert_eq!(picked("eth_call"), Ok("z"), "tier 0 is at its rate limit");
    assert!(routing.service("unheard-of").is_none(), "no upstream serves unlisted services");
    let none = compile(&self::definitions(Spread::RoundRobin, Vec::new()), &Routing::empty(0));
    let none = none.service("eth").expect("a service");
    assert_eq!(pick(none, &NEED, &Tried::default()).err(), Some(ErrorKind::NoUpstream));
}

use crate::error::ErrorKind;

#[test]
fn filters_always_use_the_same_upstream() {
    let upstreams = vec![upstream("a", None, 1, 0), upstream("b", None, 1, 0)];
    let routing = compile(&definitions(Spread::RoundRobin, upstreams), &Routing::empty(0));
    let service = routing.service("eth").expect("a service");
    let filter = Need {
        class: Class::Filter,
        method: "eth_newFilter",
        known: None,
        block: None,
        prefer: None,
    };
    for _ in 0..3 {
        picks(&routing, "eth", 1);
        let route = pick(service, &filter, &Tried::default()).expect("a route");
        assert_eq!(route.upstream.model.id, "a");
    }
}

#[test]
fn a_full_upstream_is_passed_over_but_not_for_one_that_fails() {
    let mut full = upstream("a", None, 1, 0);
    full.concurrency = model::Concurrency::Fixed(1);
    let other = model::Upstream { id: "b".into(), ..full.clone() };
    let routing = compile(&definitions(Spread::RoundRobin, vec![full, other]), &Routing::empty(0));
    let service = routing.service("eth").expect("a service");
    let (account, local) = (Arc::default(), local());
    let admitted = |need| admitted(service, need, &Tried::default(), &account, &local);
    let first = admitted(&NEED).expect("a route");
    let second = admitted(&NEED).expect("the other one");
    assert_ne!(first.0.upstream.model.id, second.0.upstream.model.id);
    assert_eq!(admitted(&NEED).err(), Some(ErrorKind::Overloaded));
    assert_eq!(service.awaited(&NEED, &Tried::default(), local.now()).len(), 2);
    // A filter is on the first node only.
    let filter = Need { class: Class::Filter, ..NEED };
    let awaited = service.awaited(&filter, &Tried::default(), local.now());
    assert!(awaited.len() == 1 && Arc::ptr_eq(&awaited[0], &service.routes[0].upstream.gate));
    // The other one's breaker opens: a call waits rather than failing.
    let (second, slot) = second;
    for _ in 0..10 {
        let pass = second.state.breaker.admit(local.now());
        second.failed("eth", pass, local.now());
    }
    drop(slot);
    assert_eq!(admitted(&NEED).err(), Some(ErrorKind::Overloaded));
    let awaited = service.awaited(&NEED, &Tried::default(), local.now());
    assert!(awaited.len() == 1 && Arc::ptr_eq(&awaited[0], &first.0.upstream.gate));
}

#[test]
fn state_survives_a_reload() {
    let before = compile(
        &definitions(
            Spread::RoundRobin,
            vec![upstream("a", None, 1, 0), upstream("b", None, 1, 0)],
        ),
        &Routing::empty(0),
    );
    picks(&before, "eth", 1);
    let service = before.service("eth").expect("a service");
    let bypass = crate::observe::stats::CacheUse::Bypass;
    service.calls.of(0).add(None, bypass, crate::observe::stats::Outcome::Ok, Nanos(1));
    let mut heavier = upstream("b", None, 5, 0);
    heavier.headers = vec![("x".into(), Text::plain("y"))];
    let after = compile(
        &definitions(Spread::RoundRobin, vec![upstream("a", None, 1, 0), heavier]),
        &before,
    );
    assert_eq!(picks(&after, "eth", 1), ["b"], "the counter is carried over");
    let unknown = plimsoll_rpc::method::NAMES.len();
    let calls = &after.service("eth").expect("a service").calls;
    assert_eq!(calls.sum(|calls| calls.count(unknown, bypass as usize, 0)), 1);
    assert!(
        Arc::ptr_eq(&before.upstreams()[0], &after.upstreams()[0]),
        "an unchanged upstream is reused"
    );
    assert_eq!(before.upstreams()[1].serial, after.upstreams()[1].serial, "connections are reused");
}

#[test]
fn retried_calls_are_spread_evenly_over_the_other_upstreams() {
    let five: Vec<_> = ["a", "b", "c", "d", "e"].map(|id| upstream(id, None, 1, 0)).into();
    let routing = compile(&definitions(Spread::RoundRobin, five), &Routing::empty(0));
    let service = routing.service("eth").expect("a service");
    let mut tried = Tried::default();
    tried.add(&service.routes[1]);
    let pick_untried = |tried: &Tried| pick(service, &NEED, tried).expect("a route");
    let picked: Vec<String> = (0..500)
        .map(|_| match pick_untried(&Tried::default()) {
            // The attempt fails and is retried on another upstream.
            route if route.upstream.model.id == "b" => pick_untried(&tried),
            route => route,
        })
        .map(|route| route.upstream.model.id.clone())
        .collect();
    assert_eq!(counts(&picked), [("a", 125), ("c", 125), ("d", 125), ("e", 125)].into());
    service.routes.iter().for_each(|route| tried.add(route));
    assert!(pick(service, &NEED, &tried).is_err(), "all were tried");
}
