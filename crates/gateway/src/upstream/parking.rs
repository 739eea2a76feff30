//! Until when an upstream has asked not to be called, as a whole or with some methods.
//!
//! # Which calls
//! A 429 may be about everything or about one kind of call: a provider's limit of `eth_getLogs`, a
//! firewall's rule for `trace_`. The answer does not say which. So the method is parked first, and the
//! upstream when [`SEVERAL`] groups of methods are parked at once: a limit of everything costs two more
//! refused calls, and a limit of one kind never takes the others away. Methods outside of `eth_` are
//! one group, because providers limit `trace_` and `debug_` as a whole.
//!
//! # For how long
//! After 429, as the upstream wishes, within the bounds of [`plimsoll_resilience::parked`]. A 503 with
//! `Retry-After` is not a limit but a guess at the end of an outage, and often a wrong one. It parks the
//! upstream for [`UNAVAILABLE_MAX`] at most, and only until a health check succeeds.

use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_measure::Nanos;
use plimsoll_resilience::Parked;
use plimsoll_rpc::method::{Method, NAMES};

use crate::error::RetryAfter;
use crate::observe::stats::RelayOutcome;
use crate::protocol::Category;

/// The upstream is parked when this many groups of methods are.
const SEVERAL: usize = 3;

/// The longest time after 503: without health checks, the next calls find out.
const UNAVAILABLE_MAX: Nanos = Nanos::from_secs(10);

/// Groups of methods: each known one of `eth_`, and one group for all others.
const GROUPS: usize = NAMES.len() + 1;

/// Until when an upstream is parked.
#[derive(Debug)]
pub(crate) struct Parking {
    /// The upstream as a whole.
    whole: Parked,
    /// The same after 503.
    unavailable: Parked,
    groups: [Parked; GROUPS],
    /// The latest end of a group's time, so that a call need not look at its group; 0 if none.
    latest: AtomicU64,
}

impl Default for Parking {
    fn default() -> Parking {
        Parking {
            whole: Parked::default(),
            unavailable: Parked::default(),
            groups: [const { Parked::new() }; GROUPS],
            latest: AtomicU64::new(0),
        }
    }
}

/// The group of a method.
fn group(method: &str) -> usize {
    let known = Method::find(method).filter(|known| known.name().starts_with("eth_"));
    known.map_or(NAMES.len(), Method::place)
}

impl Parking {
    /// Parks the upstream as a whole for this long.
    #[cold]
    pub(crate) fn park(&self, span: Nanos, now: Nanos) {
        self.whole.park(Some(span), now);
    }

    /// Does what the answer to a call asks for, whether or not its caller still waits for it.
    #[cold]
    pub(crate) fn heed(
        &self,
        outcome: RelayOutcome,
        method: &str,
        retry_after: Option<RetryAfter>,
        now: Nanos,
    ) {
        let span = retry_after.map(|after| Nanos::from_secs(after.0.into()));
        match (outcome, span) {
            (RelayOutcome::Rpc(Category::RateLimited), span) => self.limited(method, span, now),
            (RelayOutcome::Failed(_) | RelayOutcome::Rpc(Category::Unavailable), Some(span)) => {
                self.unavailable(span, now);
            }
            _ => {}
        }
    }

    /// Parks a method after 429, and the upstream if several methods are parked.
    #[cold]
    pub(crate) fn limited(&self, method: &str, retry_after: Option<Nanos>, now: Nanos) {
        let end = self.groups[group(method)].park(retry_after, now);
        self.latest.fetch_max(end.0, Ordering::Relaxed);
        let parked = self.groups.iter().filter(|group| group.is_parked(now)).count();
        if parked >= SEVERAL {
            self.whole.park(retry_after, now);
        }
    }

    /// Parks the upstream after 503.
    #[cold]
    fn unavailable(&self, retry_after: Nanos, now: Nanos) {
        self.unavailable.park(Some(retry_after.min(UNAVAILABLE_MAX)), now);
    }

    /// Records that the upstream has answered a health check: it is available again.
    pub(crate) fn answered(&self, now: Nanos) {
        if self.unavailable.is_parked(now) {
            self.unavailable.end(now);
        }
    }

    /// Until when the upstream is parked as a whole, if it is.
    #[inline]
    pub(crate) fn until(&self, now: Nanos) -> Option<Nanos> {
        self.whole.until(now).max(self.unavailable.until(now))
    }

    /// Until when it is parked for a method, if it is.
    #[inline]
    pub(crate) fn until_for(&self, method: &str, now: Nanos) -> Option<Nanos> {
        let whole = self.until(now);
        if now.0 >= self.latest.load(Ordering::Relaxed) {
            return whole;
        }
        whole.max(self.groups[group(method)].until(now))
    }

    /// Until when it has asked not to be called with a method, whether it answers or not.
    pub(crate) fn limited_until(&self, method: &str, now: Nanos) -> Option<Nanos> {
        self.whole.until(now).max(self.groups[group(method)].until(now))
    }

    /// Whether it is parked because it is unavailable.
    pub(crate) fn is_unavailable(&self, now: Nanos) -> bool {
        self.unavailable.is_parked(now)
    }

    /// The parked methods, for people.
    pub(crate) fn methods(&self, now: Nanos) -> Vec<&'static str> {
        let names = NAMES.iter().copied().chain(["methods other than eth_*"]);
        let parked = names.zip(&self.groups).filter(|(_, group)| group.is_parked(now));
        parked.map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refusals at 0 s, each of a method with Retry-After in seconds; then until when calls of methods
    /// are parked, in seconds.
    #[test]
    fn methods_are_parked_before_the_upstream() {
        let check = |refusals: &[(&str, Option<u64>)], expected: &[(&str, Option<u64>)]| {
            let parking = Parking::default();
            let now = Nanos::from_secs(100);
            for (method, retry_after) in refusals {
                parking.limited(method, retry_after.map(Nanos::from_secs), now);
            }
            for (method, until) in expected {
                let until = until.map(|secs| now + Nanos::from_secs(secs));
                assert_eq!(parking.until_for(method, now), until, "{refusals:?} {method}");
            }
        };
        check(&[], &[("eth_call", None)]);
        check(
            &[("trace_block", Some(3_600))],
            &[("trace_block", Some(60)), ("trace_filter", Some(60)), ("eth_call", None)],
        );
        // one group
        check(
            &[("trace_block", Some(9)), ("debug_traceCall", Some(9)), ("net_version", Some(9))],
            &[("erigon_x", Some(9)), ("eth_call", None)],
        );
        check(
            &[("eth_getLogs", Some(9)), ("trace_block", Some(9))],
            &[("eth_getLogs", Some(9)), ("eth_call", None)],
        );
        // several: everything
        check(
            &[("eth_getLogs", Some(9)), ("eth_call", Some(5)), ("eth_getBalance", Some(7))],
            &[("eth_getCode", Some(7)), ("eth_getLogs", Some(9)), ("trace_block", Some(7))],
        );
        check(&[("eth_call", None)], &[("eth_call", Some(1))]);
    }

    #[test]
    fn an_unavailable_upstream_returns_with_a_health_check() {
        let parking = Parking::default();
        let at = Nanos::from_secs;
        parking.unavailable(at(120), at(100));
        assert_eq!(
            parking.until_for("eth_call", at(101)),
            Some(at(110)),
            "not for as long as it says"
        );
        assert!(
            parking.is_unavailable(at(101)) && parking.limited_until("eth_call", at(101)).is_none()
        );
        parking.answered(at(102));
        assert_eq!(parking.until(at(102)), None);
        // A limit is not ended by an answer.
        parking.park(at(30), at(103));
        parking.answered(at(104));
        assert_eq!(parking.until(at(104)), Some(at(133)));
    }
}
