//! Checks that upstreams are on their service's chain.
//!
//! If the gateway answered `eth_chainId` itself with a wrong id, wallets would sign for the wrong
//! chain. So each upstream of a service with a `chain_id` is asked for its chain id: at startup and
//! whenever it may have been replaced (a loss: a connection failed or was closed by the upstream, or it
//! went down or recovered), and every [`RECHECK_INTERVAL`] until it has answered. While such a check is
//! owed by all upstreams, the gateway relays `eth_chainId`. An upstream on a different chain is not used
//! for the service. If no upstream's rules permit `eth_chainId`, the configured id is used unchecked.
//!
//! The connection of a check stays open, so that a restart of the upstream is noticed at the next scan
//! even if nobody calls it. Checks are repeated every [`CONFIRMED_INTERVAL`], which keeps one open; an
//! upstream that does not keep it open is asked every [`RECHECK_INTERVAL`].
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
use crate::error::ErrorKind;
use crate::upstream::{Failure, Health, Request, Reuse, Use};

/// How often the upstreams are scanned for due checks.
const SCAN_INTERVAL: Duration = Duration::from_millis(250);

/// How long until an upstream that did not answer, or is on a different chain, is asked again.
const RECHECK_INTERVAL: Nanos = Nanos::from_secs(5);

/// How long until an upstream that recovers repeatedly is asked again.
const RECOVERED_INTERVAL: Nanos = Nanos::from_secs(1);

/// How long until an upstream that has confirmed the id is asked again: less than a connection may be
/// idle, so that one is always open.
const CONFIRMED_INTERVAL: Nanos = Nanos::from_secs(45);

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
    /// The upstream's losses when it was asked for the id that it last reported.
    checked_losses: AtomicU32,
}

/// Values of [`Chain::state`]; 0 if unknown.
const CONFIRMED: u8 = 1;
const ANOTHER: u8 = 2;

impl Chain {
    /// Whether the upstream is on the service's chain.
    #[inline]
    fn is_confirmed(&self) -> bool {
        self.state.load(Ordering::Relaxed) == CONFIRMED
    }

    /// Whether the upstream is on the service's chain, and no check is owed after this many losses.
    #[inline]
    pub(crate) fn is_confirmed_after(&self, losses: u32) -> bool {
        self.is_confirmed() && self.checked_losses.load(Ordering::Relaxed) == losses
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

    /// Whether to ask now. If so, the upstream is marked as asked. `is_watched`: a connection to it is
    /// open, whose end would be noticed.
    fn is_due(&self, seen: Seen, is_watched: bool, now: Nanos) -> bool {
        let asked = self.asked_at.load(Ordering::Relaxed);
        let interval = if self.asked_recoveries.load(Ordering::Relaxed) != seen.recoveries {
            RECOVERED_INTERVAL
        } else if is_watched && self.is_confirmed_after(seen.losses) {
            CONFIRMED_INTERVAL
        } else {
            RECHECK_INTERVAL
        };
        if asked > 0 && now - Nanos(asked) < interval {
            return false;
        }
        self.asked_at.store(now.0.max(1), Ordering::Relaxed);
        self.asked_recoveries.store(seen.recoveries, Ordering::Relaxed);
        true
    }

    /// Records the id that the upstream was asked for after this many losses; returns whether anything
    /// changed.
    fn record(&self, id: u64, expected: u64, losses: u32) -> bool {
        let state = if id == expected { CONFIRMED } else { ANOTHER };
        let previous = self.reported_id.swap(id, Ordering::Relaxed);
        let changed = self.state.swap(state, Ordering::Relaxed) != state;
        self.checked_losses.store(losses, Ordering::Relaxed);
        changed || previous != id
    }
}

/// What has happened to an upstream so far: see [`Health`].
#[derive(Clone, Copy, Debug)]
struct Seen {
    losses: u32,
    recoveries: u32,
}

impl Seen {
    fn of(health: &Health) -> Seen {
        Seen { losses: health.losses(), recoveries: health.recoveries() }
    }
}

/// Checks upstreams while the gateway runs.
pub(crate) async fn watch(worker: Rc<Worker>) {
    let mut scans = tokio::time::interval(SCAN_INTERVAL);
    loop {
        scans.tick().await;
        let view = worker.view();
        let now = worker.local.now();
        worker.client.tidy(view.routing.upstreams());
        for upstream in view.routing.upstreams() {
            upstream.health.flush(&upstream.model.id, now);
        }
        for service in view.routing.services() {
            let Some(expected) = service.model.chain_id.filter(|_| service.is_listed) else {
                continue;
            };
            for (place, route) in service.routes.iter().enumerate() {
                let seen = Seen::of(&route.upstream.health);
                let is_permitted = route.upstream.model.methods.permit(METHOD);
                let is_watched = worker.client.watches(&route.upstream);
                if is_permitted && route.chain.is_due(seen, is_watched, now) {
                    let losses = seen.losses;
                    let due = Due { service: service.clone(), place, expected, losses };
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
    /// The upstream's losses so far.
    losses: u32,
}

async fn check(worker: Rc<Worker>, due: Due) {
    let Due { service, place, expected, losses } = due;
    let route = &service.routes[place];
    let id = match ask(&worker, &service, route).await {
        Ok(Some(id)) => id,
        Ok(None) => return,
        // A failure is not logged here: calls to the upstream report why it fails.
        Err(failure) => {
            if matches!(failure.kind, ErrorKind::Unreachable | ErrorKind::Broken) {
                route.upstream.health.lost();
            }
            return;
        }
    };
    if !route.chain.record(id, expected, losses) {
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
    if let Some(reusable) = received.reusable {
        reusable.release_alone(worker.local.now());
    }
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
    fn an_upstream_is_checked_until_confirmed_and_again_after_a_loss() {
        let chain = Chain::default();
        let due = |losses, recoveries, at| {
            chain.is_due(Seen { losses, recoveries }, true, Nanos::from_secs(at))
        };
        assert!(due(0, 0, 0), "at startup");
        assert!(!due(0, 0, 4) && due(0, 0, 6), "only after RECHECK_INTERVAL");
        assert!(chain.record(1337, 1, 0) && chain.is_another() && chain.other() == Some(1337));
        assert!(!chain.record(1337, 1, 0), "unchanged");
        assert!(!due(0, 0, 10) && due(0, 0, 12), "the upstream may be fixed");
        assert!(chain.record(1, 1, 0) && chain.is_confirmed() && chain.other().is_none());
        assert!(chain.is_confirmed_after(0));
        assert!(!due(0, 0, 56) && due(0, 0, 57), "CONFIRMED_INTERVAL");
        assert!(!chain.record(1, 1, 0));
        assert!(!chain.is_confirmed_after(1), "a check is owed");
        assert!(!due(1, 0, 58) && due(1, 0, 62), "a connection was lost");
        assert!(!due(2, 0, 63) && due(2, 0, 67), "the check failed, and is still owed");
        chain.record(1, 1, 1);
        assert!(!chain.is_confirmed_after(2), "the answer was to the check before");
        assert!(due(3, 1, 68) && !due(3, 1, 72), "the upstream recovered");
        assert!(!due(4, 2, 68) && due(4, 2, 69), "it recovered again");
        chain.record(1, 1, 4);
        assert!(chain.is_confirmed_after(4));
        assert!(!due(4, 2, 113) && due(4, 2, 114));
        let unwatched = |at| {
            let seen = Seen { losses: 4, recoveries: 2 };
            chain.is_due(seen, false, Nanos::from_secs(at))
        };
        assert!(!unwatched(118) && unwatched(119), "its restart would not be noticed");
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
