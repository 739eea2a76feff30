//! Log lines about whose calls are refused because upstreams are at their limit.
//!
//! Written every [`INTERVAL_SECS`] while calls are refused, for the [`LINES_MAX`] endpoints with most of them.
//! The counts are those of `plimsoll_shed_total`.

use std::collections::HashMap;

use plimsoll_measure::Nanos;

use super::routing::{Routing, Service};
use crate::account::Account;
use crate::error::ErrorKind;
use crate::observe::stats::SHED;

/// Operators see which endpoint floods, and a flood does not fill the log.
const INTERVAL_SECS: u64 = 10;

/// The most endpoints that are named at a time.
const LINES_MAX: usize = 5;

/// What was reported.
#[derive(Default)]
pub(super) struct ShedLog {
    /// When it was last looked.
    at: Option<Nanos>,
    /// By account: its calls that had been refused by then.
    seen: HashMap<u64, u64>,
}

impl ShedLog {
    /// Writes the lines that are due.
    pub(super) fn report(&mut self, routing: &Routing, now: Nanos) {
        for line in self.due(routing, now) {
            tracing::warn!("{line}");
        }
    }

    fn due(&mut self, routing: &Routing, now: Nanos) -> Vec<String> {
        if now - *self.at.get_or_insert(now) < Nanos::from_secs(INTERVAL_SECS) {
            return Vec::new();
        }
        self.at = Some(now);
        let mut more = self.more(routing);
        more.sort_by_key(|(calls, ..)| std::cmp::Reverse(*calls));
        let named = more.iter().take(LINES_MAX).map(|(calls, account, service)| {
            let (id, limit) = (&service.model.id, limit(service));
            let whose = match &account.endpoint {
                Some(endpoint) => format!("endpoint {endpoint}"),
                None => format!("service {id}, without an endpoint"),
            };
            format!(
                "{whose}: {} refused in the last {INTERVAL_SECS} s: the upstreams of {id} are at their \
                 limit ({}){}",
                of(*calls),
                of(limit.into()),
                silent(service, now)
            )
        });
        let mut lines: Vec<String> = named.collect();
        let others = more.iter().skip(LINES_MAX);
        let (endpoints, calls) =
            others.fold((0, 0), |(endpoints, sum), (calls, ..)| (endpoints + 1, sum + calls));
        if endpoints > 0 {
            lines.push(format!(
                "{endpoints} more: {} refused in the last {INTERVAL_SECS} s, because upstreams are at their \
                 limit",
                of(calls)
            ));
        }
        lines
    }

    /// The accounts with calls that have been refused since the last look, and how many.
    fn more<'r>(&mut self, routing: &'r Routing) -> Vec<(u64, &'r Account, &'r Service)> {
        let reason = SHED.iter().position(|kind| *kind == ErrorKind::Overloaded);
        let reason = reason.expect("a reason");
        let endpoints = routing.endpoints().map(|(_, one)| (&*one.access.account, &*one.service));
        let services = routing.services().into_iter().map(|one| (&*one.account, &**one));
        let mut seen = HashMap::new();
        let mut more = Vec::new();
        for (account, service) in endpoints.chain(services) {
            if account.in_use.shed_place() == 0 {
                continue;
            }
            let count = account.in_use.shed_calls()[reason];
            let before = self.seen.get(&account.number).copied().unwrap_or_default();
            seen.insert(account.number, count);
            if count > before {
                more.push((count - before, account, service));
            }
        }
        self.seen = seen;
        more
    }
}

/// A number of calls.
fn of(calls: u64) -> String {
    if calls == 1 { "1 call".into() } else { format!("{calls} calls") }
}

/// The calls that the upstreams of a service are sent at a time.
fn limit(service: &Service) -> u32 {
    service.routes.iter().map(|route| route.upstream.gate.limit()).fold(0, u32::saturating_add)
}

/// Which of its upstreams hang.
fn silent(service: &Service, now: Nanos) -> String {
    let upstreams = service.routes.iter().map(|route| &route.upstream);
    let silent = upstreams.filter_map(|one| Some((&one.model.id, one.gate.silence(now)?)));
    let words = |(id, silence): (&_, Nanos)| {
        format!("; {id} has answered nothing for {} s", silence.0 / 1_000_000_000)
    };
    silent.map(words).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use plimsoll_registry::model::{self, Definitions};

    use super::*;

    #[test]
    fn the_endpoints_with_most_refused_calls_are_named() {
        let id = |n: usize| format!("customer-{n}");
        let definitions = Definitions {
            services: vec![model::Service::named("eth")],
            upstreams: Vec::new(),
            endpoints: (0..7).map(|n| model::Endpoint::named(id(n), "eth")).collect(),
        };
        let routing = Routing::compile(&definitions, &Routing::empty(0), 1, &mut 0);
        let routing = routing.expect("compiles");
        let (mut log, places) = (ShedLog::default(), AtomicU64::new(0));
        let place = SHED.iter().position(|kind| *kind == ErrorKind::Overloaded).expect("a reason");
        let refuse = |n: usize, calls: usize| {
            let endpoint = routing.endpoint(&id(n)).expect("an endpoint");
            (0..calls).for_each(|_| endpoint.access.account.in_use.shed(place, &places));
        };
        let mut lines = |secs| log.due(&routing, Nanos::from_secs(secs));
        assert!(lines(100).is_empty(), "from here on");
        (0..7).for_each(|n| refuse(n, n));
        assert!(lines(109).is_empty(), "too soon");
        let six = lines(110);
        let first = "endpoint customer-6: 6 calls refused in the last 10 s: the upstreams of eth are at \
                     their limit (0 calls)";
        let last = "1 more: 1 call refused in the last 10 s, because upstreams are at their limit";
        assert_eq!((&*six[0], &*six[5], six.len()), (first, last, 6));
        assert!(lines(120).is_empty(), "nothing is repeated");
        refuse(0, 9_400);
        assert!(lines(130)[0].starts_with("endpoint customer-0: 9400 calls"));
        assert_eq!(places.into_inner(), 7);
    }
}
