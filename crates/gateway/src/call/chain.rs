//! Checks that upstreams are on their service's chain.
//!
//! If the gateway answered `eth_chainId` itself with a wrong id, wallets would sign for the wrong
//! chain. So each upstream of a service with a `chain_id` is asked for its chain id: at startup and
//! whenever it may have been replaced (a loss: a connection failed or was closed by the upstream, or it
//! went down or recovered), and every [`RECHECK_INTERVAL`] until it has answered. While such a check is
//! owed by all upstreams, the gateway relays `eth_chainId`. An upstream on a different chain is not used
//! for the service, and one that owes a check is asked before a call is sent to it ([`confirm`]). If no
//! upstream's rules permit `eth_chainId`, the configured id is used unchecked.
//!
//! The connection of a check stays open, so that a restart of the upstream is noticed at the next scan
//! even if nobody calls it. Checks are repeated every [`CONFIRMED_INTERVAL`], which keeps one open; an
//! upstream that does not keep it open is asked every [`RECHECK_INTERVAL`].

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use plimsoll_measure::Nanos;
use plimsoll_rpc::json;

use super::health::{After, ask};
use super::routing::{Route, Service};
use super::worker::Worker;
use crate::error::ErrorKind;
use crate::upstream::{Failure, Health};

/// How long until an upstream that did not answer, or is on a different chain, is asked again.
const RECHECK_INTERVAL: Nanos = Nanos::from_secs(5);

/// How long until an upstream that recovers repeatedly is asked again.
const RECOVERED_INTERVAL: Nanos = Nanos::from_secs(1);

/// How long until an upstream that has confirmed the id is asked again: less than a connection may be
/// idle, so that one is always open.
pub(super) const CONFIRMED_INTERVAL: Nanos = Nanos::from_secs(45);

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
    /// Held while a call waits for a check.
    turn: tokio::sync::Mutex<()>,
}

/// Values of [`Chain::state`]; 0 if unknown.
const CONFIRMED: u8 = 1;
const ANOTHER: u8 = 2;
/// The upstream answers the question with something else than a chain id: nothing can be checked.
const UNKNOWN: u8 = 3;

impl Chain {
    /// Whether no check is owed after this many losses: the upstream has confirmed the service's chain
    /// id, or does not tell its own.
    #[inline]
    pub(crate) fn is_confirmed_after(&self, losses: u32) -> bool {
        matches!(self.state.load(Ordering::Relaxed), CONFIRMED | UNKNOWN)
            && self.checked_losses.load(Ordering::Relaxed) == losses
    }

    /// Whether the upstream has confirmed the service's chain id, and no check is owed after this many
    /// losses.
    #[inline]
    pub(crate) fn is_verified_after(&self, losses: u32) -> bool {
        self.state.load(Ordering::Relaxed) == CONFIRMED && self.is_confirmed_after(losses)
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
    /// open, whose end would be noticed; `recheck`: how often to ask while the answer is not known.
    pub(super) fn is_due(&self, seen: Seen, is_watched: bool, recheck: Nanos, now: Nanos) -> bool {
        let asked = self.asked_at.load(Ordering::Relaxed);
        let interval = if self.asked_recoveries.load(Ordering::Relaxed) != seen.recoveries {
            RECOVERED_INTERVAL
        } else if is_watched && self.is_confirmed_after(seen.losses) {
            CONFIRMED_INTERVAL
        } else {
            recheck.min(RECHECK_INTERVAL)
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

    /// Records that the upstream does not tell its chain id.
    fn record_unknown(&self, losses: u32) {
        self.state.store(UNKNOWN, Ordering::Relaxed);
        self.checked_losses.store(losses, Ordering::Relaxed);
    }
}

/// What has happened to an upstream so far: see [`Health`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) losses: u32,
    pub(super) recoveries: u32,
}

impl Seen {
    pub(super) fn of(health: &Health) -> Seen {
        Seen { losses: health.losses(), recoveries: health.recoveries() }
    }
}

/// Checks an upstream's chain before a call is sent to it, because it may have been replaced since
/// the last check. Calls that need the same check wait for the first one.
///
/// # Errors
/// The upstream is on another chain, or did not answer. Nothing of the call was sent.
pub(super) async fn confirm(
    worker: &Worker,
    service: &Service,
    route: &Route,
) -> Result<(), Failure> {
    let _turn = route.state.chain.turn.lock().await;
    if !route.is_confirmed() {
        let asked = check(worker, service, route, After::Pool).await;
        asked.map_err(|failure| Failure { sent: false, stale: false, ..failure })?;
    }
    if let Some(other) = route.state.chain.other() {
        let message = format!("the upstream is on chain {other}");
        return Err(Failure::new(ErrorKind::WrongChain, false, message));
    }
    Ok(())
}

/// Asks an upstream for its chain id, and records it.
///
/// # Errors
/// It did not answer.
pub(super) async fn check(
    worker: &Worker,
    service: &Service,
    route: &Route,
    after: After,
) -> Result<(), Failure> {
    let Some(expected) = service.model.chain_id else { return Ok(()) };
    let losses = route.upstream.health.losses();
    let chain = &route.state.chain;
    let asked = ask(worker, service, route, METHOD, b"[]", after).await?;
    let id = match asked.as_deref().and_then(parse_hex) {
        Some(id) => id,
        None => {
            chain.record_unknown(losses);
            return Ok(());
        }
    };
    if !chain.record(id, expected, losses) {
        return Ok(());
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
    Ok(())
}

/// Parses a hexadecimal result, such as `"0x1"`.
pub(super) fn parse_hex(result: &[u8]) -> Option<u64> {
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
            chain.is_due(Seen { losses, recoveries }, true, RECHECK_INTERVAL, Nanos::from_secs(at))
        };
        assert!(due(0, 0, 0), "at startup");
        assert!(!due(0, 0, 4) && due(0, 0, 6), "only after RECHECK_INTERVAL");
        assert!(chain.record(1337, 1, 0) && chain.is_another() && chain.other() == Some(1337));
        assert!(!chain.record(1337, 1, 0), "unchanged");
        assert!(!due(0, 0, 10) && due(0, 0, 12), "the upstream may be fixed");
        assert!(chain.record(1, 1, 0) && chain.other().is_none());
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
            chain.is_due(seen, false, RECHECK_INTERVAL, Nanos::from_secs(at))
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
