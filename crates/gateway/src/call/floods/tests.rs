//! What is logged of floods, and when.

use plimsoll_registry::model::{self, CallLimits, Definitions};

use super::*;
use crate::limits::ledger::Ledger;

const SECOND: Nanos = Nanos::from_secs(1);

/// Endpoints with a limit of 20 calls per second and 1,000 compute units a day.
fn routing(endpoints: usize) -> Routing {
    let limits = CallLimits { calls: Some(20.0), daily: Some(1_000), ..CallLimits::default() };
    let endpoint = |number: usize| {
        let mut endpoint = model::Endpoint::named(format!("customer-{number:04}"), "eth");
        endpoint.access.limits = limits;
        endpoint
    };
    let endpoints = (0..endpoints).map(endpoint).collect();
    let services = vec![model::Service::named("eth")];
    let definitions = Definitions { services, upstreams: Vec::new(), endpoints };
    Routing::compile(&definitions, &Routing::empty(0), 1, &mut 0).expect("compiles")
}

fn refuse(routing: &Routing, endpoint: usize, limited: Limited, count: u64) {
    let id = format!("customer-{endpoint:04}");
    let ledger: &Arc<Ledger> =
        routing.endpoint(&id).and_then(|one| one.access.ledger()).expect("a ledger");
    ledger.refused.limited[limited as usize].fetch_add(count, std::sync::atomic::Ordering::Relaxed);
}

#[test]
fn a_flood_is_named_once_a_minute() {
    let (routing, mut floods) = (routing(2), Floods::default());
    let mut at = |secs: u64| floods.lines(&routing, Nanos(secs * SECOND.0));
    assert!(at(100).is_empty());
    refuse(&routing, 1, Limited::Calls, 12_400);
    let line = |count: &str, secs: u64| {
        format!(
            "endpoint cust…0001: {count} refused in the last {secs} s: its limit of 20 calls per second"
        )
    };
    assert_eq!(at(110), [line("12,400 calls", 10)]);
    for secs in [120, 130, 140, 150, 160] {
        refuse(&routing, 1, Limited::Calls, 10);
        assert!(at(secs).is_empty());
    }
    assert_eq!(at(170), [line("50 calls", 60)]);
    // After a pause, the line is about what is new.
    assert!(at(180).is_empty());
    assert!(at(300).is_empty());
    refuse(&routing, 1, Limited::Calls, 1);
    refuse(&routing, 1, Limited::Daily, 7);
    let daily = "endpoint cust…0001: 7 calls refused in the last 10 s: \
                 its daily quota of 1,000 compute units";
    assert_eq!(at(310), [daily.to_string(), line("1 call", 10)]);
}

#[test]
fn the_largest_floods_are_named_and_the_others_added_up() {
    let (routing, mut floods) = (routing(30), Floods::default());
    (0..30).for_each(|number| refuse(&routing, number, Limited::Calls, 100 + number as u64));
    let lines = floods.lines(&routing, Nanos(100 * SECOND.0));
    assert_eq!(lines.len(), LINES_MAX + 1);
    assert!(lines[0].starts_with("endpoint cust…0029: 129 calls refused"), "{lines:?}");
    assert_eq!(lines[LINES_MAX], "20 more limits and keys refused 2,190 calls");
}

#[test]
fn wrong_keys_are_named() {
    let subject = Subject { endpoint: "customer-0001", key: None, allowance: None };
    let mut counts = [0; Refused::REASONS];
    counts[Limited::ALL.len() + WrongKey::Unknown as usize] = 3;
    let first = Seen { count: 0, logged: 0, since: Nanos::ZERO, line_at: None };
    let lines = subject.due(&counts, &mut [first; Refused::REASONS], Nanos(10 * SECOND.0));
    let line = "endpoint cust…0001: 3 requests refused in the last 10 s: each has an unknown key";
    assert_eq!(lines, [(3, line.to_string())]);
}
