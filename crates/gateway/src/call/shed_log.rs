//! Log lines about whose calls are refused because upstreams are at their limit.
//!
//! Written every [`INTERVAL`] while calls are refused, for the [`LINES_MAX`] endpoints with most of them.
//! The counts are those of `plimsoll_shed_total`.

use std::collections::HashMap;

use plimsoll_measure::Nanos;

use super::routing::{Routing, Service};
use crate::account::Account;
use crate::error::ErrorKind;
use crate::observe::stats::SHED;

/// Operators see which endpoint floods, and a flood does not fill the log.
const INTERVAL: Nanos = Nanos::from_secs(10);

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
        if now - *self.at.get_or_insert(now) < INTERVAL {
            return;
        }
        self.at = Some(now);
        let mut more = self.more(routing);
        more.sort_by_key(|(calls, ..)| std::cmp::Reverse(*calls));
        for (calls, account, service) in more.iter().take(LINES_MAX) {
            let (id, limit) = (&service.model.id, limit(service));
            let whose = match &account.endpoint {
                Some(endpoint) => format!("endpoint {endpoint}"),
                None => format!("service {id}, without an endpoint"),
            };
            tracing::warn!(
                service = id,
                calls,
                "{whose}: {calls} calls refused in the last {INTERVAL}: the upstreams of {id} are at \
                 their limit ({limit} calls)"
            );
        }
        let others = more.iter().skip(LINES_MAX);
        let (endpoints, calls) =
            others.fold((0, 0), |(endpoints, sum), (calls, ..)| (endpoints + 1, sum + calls));
        if endpoints > 0 {
            tracing::warn!(
                calls,
                "{endpoints} further endpoints: {calls} calls refused in the last {INTERVAL}, because \
                 upstreams are at their limit"
            );
        }
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

/// The calls that the upstreams of a service are sent at a time.
fn limit(service: &Service) -> u32 {
    service.routes.iter().map(|route| route.upstream.gate.limit()).fold(0, u32::saturating_add)
}
