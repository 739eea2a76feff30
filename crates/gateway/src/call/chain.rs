//! Checks that upstreams are on their service's chain.
//!
//! If the gateway answered `eth_chainId` itself with a wrong id, wallets would sign for the wrong
//! chain. So each upstream of a service with a `chain_id` is asked for its chain id: at startup,
//! when it recovers, and every [`RECHECK_INTERVAL`] until it has confirmed the id; after that every
//! [`CONFIRMED_INTERVAL`], because a node may be replaced while nobody calls it. Until one upstream
//! has confirmed it, the gateway relays `eth_chainId`. An upstream on a different chain is not used
//! for the service. If no upstream's rules permit `eth_chainId`, the configured id is used unchecked.
//!
//! The same scans report suppressed log lines about failures of upstreams.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use plimsoll_measure::Nanos;
use plimsoll_rpc::json;
use plimsoll_rpc::request::Call;

use super::attempt;
use super::judge::judge;
use super::routing::{Route, Service};
use super::worker::Worker;
use crate::upstream::{Failure, Request, Reuse, Use};

/// How often the upstreams are scanned for due checks.
const SCAN_INTERVAL: Duration = Duration::from_millis(250);

/// How long until an upstream that did not answer, or is on a different chain, is asked again.
const RECHECK_INTERVAL: Nanos = Nanos::from_secs(5);

/// How long until an upstream that recovers repeatedly is asked again.
const RECOVERED_INTERVAL: Nanos = Nanos::from_secs(1);

/// How long until an upstream that has confirmed the id is asked again.
const CONFIRMED_INTERVAL: Nanos = Nanos::from_secs(60);

/// The timeout of a check.
const CHECK_TIMEOUT: Nanos = Nanos::from_secs(5);

/// The method that returns the chain id.
pub(super) const METHOD: &str = "eth_chainId";

/// What is known about an upstream's chain.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    state: AtomicU8,
    /// The id that the upstream last reported.
    reported_id: AtomicU64,
    /// When the upstream was last asked; 0 if never.
    asked_at: AtomicU64,
    /// The upstream's recoveries when it was last asked.
    asked_recoveries: AtomicU32,
    /// The upstream's recoveries when it was asked for the id that it last reported.
    checked_recoveries: AtomicU32,
}

/// Values of [`Chain::state`]; 0 if unknown.
const CONFIRMED: u8 = 1;
const ANOTHER: u8 = 2;

impl Chain {
    /// Whether the upstream is on the service's chain.
    #[inline]
    pub(crate) fn is_confirmed(&self) -> bool {
        self.state.load(Ordering::Relaxed) == CONFIRMED
    }

    /// Whether the upstream is on a different chain.
    #[inline]
    pub(crate) fn is_another(&self) -> bool {
        self.state.load(Ordering::Relaxed) == ANOTHER
    }

    /// The id of the chain that the upstream is on, if it is not the service's.
    pub(crate) fn other(&self) -> Option<u64> {
        self.is_another().then(|| self.reported_id.load(Ordering::Relaxed))
    }

    /// Whether to ask now. If so, the upstream is marked as asked.
    fn is_due(&self, recoveries: u32, now: Nanos) -> bool {
        let asked = self.asked_at.load(Ordering::Relaxed);
        // A check is owed until the upstream has reported an id.
        let interval = if self.asked_recoveries.load(Ordering::Relaxed) != recoveries {
            RECOVERED_INTERVAL
        } else if !self.is_confirmed()
            || self.checked_recoveries.load(Ordering::Relaxed) != recoveries
        {
            RECHECK_INTERVAL
        } else {
            CONFIRMED_INTERVAL
        };
        if asked > 0 && now - Nanos(asked) < interval {
            return false;
        }
        self.asked_at.store(now.0.max(1), Ordering::Relaxed);
        self.asked_recoveries.store(recoveries, Ordering::Relaxed);
        true
    }

    /// Records the id that was reported after this many recoveries; returns whether anything
    /// changed.
    fn record(&self, id: u64, expected: u64, recoveries: u32) -> bool {
        let state = if id == expected { CONFIRMED } else { ANOTHER };
        self.checked_recoveries.store(recoveries, Ordering::Relaxed);
        let previous = self.reported_id.swap(id, Ordering::Relaxed);
        let changed = self.state.swap(state, Ordering::Relaxed) != state;
        changed || previous != id
    }
}

/// Checks upstreams while the gateway runs.
pub(crate) async fn watch(worker: Rc<Worker>) {
    let mut scans = tokio::time::interval(SCAN_INTERVAL);
    loop {
        scans.tick().await;
        let view = worker.view();
        let now = worker.local.now();
        for upstream in view.routing.upstreams() {
            upstream.health.flush(&upstream.model.id, now);
        }
        for service in view.routing.services() {
            let Some(expected) = service.model.chain_id.filter(|_| service.is_listed) else {
                continue;
            };
            for (place, route) in service.routes.iter().enumerate() {
                let recoveries = route.upstream.health.recoveries();
                let is_permitted = route.upstream.model.methods.permit(METHOD);
                if is_permitted && route.chain.is_due(recoveries, now) {
                    let due = Due { service: service.clone(), place, expected, recoveries };
                    tokio::task::spawn_local(check(worker.clone(), due));
                }
            }
        }
    }
}

/// A check that is due.
struct Due {
    service: Arc<Service>,
    /// The route's index.
    place: usize,
    /// The service's chain id.
    expected: u64,
    /// The upstream's recoveries so far.
    recoveries: u32,
}

async fn check(worker: Rc<Worker>, due: Due) {
    let Due { service, place, expected, recoveries } = due;
    let route = &service.routes[place];
    // A failure is not logged here: calls to the upstream report why it fails.
    let Ok(Some(id)) = ask(&worker, &service, route).await else { return };
    if !route.chain.record(id, expected, recoveries) {
        return;
    }
    let upstream = &*route.upstream.model.id;
    let service = &*service.model.id;
    if id == expected {
        tracing::info!(
            upstream,
            service,
            "upstream {upstream} is on chain {id}, as is service {service}"
        );
    } else {
        tracing::error!(
            upstream,
            service,
            "upstream {upstream} is on chain {id} ({id:#x}), but service {service} is on chain \
             {expected} ({expected:#x}): not used for the service; use another upstream, or set \
             chain_id = {id} in [[service]]"
        );
    }
}

/// The chain id that an upstream reports; `None` if its answer is not a chain id.
async fn ask(worker: &Worker, service: &Service, route: &Route) -> Result<Option<u64>, Failure> {
    let view = worker.view();
    let id = worker.next_id();
    let call = Call { id: None, method: METHOD.into(), params: Some(b"[]") };
    let (mut head, mut body) = (route.head.clone(), Vec::new());
    attempt::write_call(&call, id, b"[]", &mut body);
    attempt::end_head(worker, body.len(), &mut head);
    let request = Request {
        method: "POST",
        parts: [&head, &body, b""],
        usage: Use::Calls,
        reuse: Reuse::New,
        deadline: worker.local.now() + CHECK_TIMEOUT.min(service.model.timeout),
    };
    let received = attempt::receive(worker, route, &request, &view.settings.limits).await?;
    let body = received.response.body();
    let verdict = judge(service.protocol, body, received.status, id)?;
    Ok(verdict.result(body).and_then(parse_hex))
}

/// Parses a hexadecimal result, such as `"0x1"`.
fn parse_hex(result: &[u8]) -> Option<u64> {
    let text = json::text(result)?;
    let digits = text.strip_prefix("0x")?;
    // Rust would also accept a sign.
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_checked_until_confirmed_and_again_after_a_recovery() {
        let chain = Chain::default();
        let at = Nanos::from_secs;
        assert!(chain.is_due(0, at(0)), "at startup");
        assert!(!chain.is_due(0, at(4)) && chain.is_due(0, at(6)), "only after RECHECK_INTERVAL");
        assert!(chain.record(1337, 1, 0) && chain.is_another() && chain.other() == Some(1337));
        assert!(!chain.record(1337, 1, 0), "unchanged");
        assert!(!chain.is_due(0, at(10)) && chain.is_due(0, at(12)), "the upstream may be fixed");
        assert!(chain.record(1, 1, 0) && chain.is_confirmed() && chain.other().is_none());
        assert!(!chain.is_due(0, at(71)) && chain.is_due(0, at(72)), "CONFIRMED_INTERVAL");
        assert!(!chain.record(1, 1, 0));
        assert!(chain.is_due(1, at(74)) && !chain.is_due(1, at(75)), "the upstream recovered");
        assert!(chain.is_confirmed(), "stays confirmed while it is rechecked");
        assert!(chain.is_due(1, at(79)), "the check failed, and is still owed");
        assert!(!chain.is_due(2, at(79)) && chain.is_due(2, at(80)), "it recovered again");
        chain.record(1, 1, 1);
        assert!(chain.is_due(2, at(85)), "the answer was to the check before");
        chain.record(1, 1, 2);
        assert!(!chain.is_due(2, at(144)) && chain.is_due(2, at(145)));
    }

    #[test]
    fn chain_ids_are_hexadecimal_strings() {
        assert_eq!(parse_hex(b"\"0x1\""), Some(1));
        assert_eq!(parse_hex(b"\"0x539\""), Some(1337));
        for other in
            [&b"1"[..], b"\"1\"", b"\"0x\"", b"null", b"\"0x10000000000000000\"", b"\"0x+1\""]
        {
            assert_eq!(parse_hex(other), None);
        }
    }
}
