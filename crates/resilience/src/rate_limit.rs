//! A limit on calls per second, or on what calls cost, in one atomic word.
//!
//! # Why
//! A provider that permits 50 calls per second answers the others with errors, or asks for money. A
//! call that is not sent there can go to another upstream at once. The gateway limits its own callers
//! in the same way, and some of their calls cost more than others.
//!
//! # How
//! The generic cell rate algorithm (ITU-T I.371, 1993): calls are due at fixed intervals, and a call
//! may be early by the burst. It admits exactly the calls that a leaky bucket would, but its whole
//! state is the time at which the next call is due, and no timer refills anything. It does not queue
//! or wait: the caller decides what to do with a call that is not admitted.
//!
//! A call of any cost is admitted if a call of cost 1 is, and is charged in full: what it overdraws is
//! missing afterwards. So no call is too expensive for its limit, and the rate holds over time.
//!
//! # Sharing
//! By all workers: one word, replaced by compare-and-exchange, so that the limit is exact.

use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_measure::Nanos;

/// The default burst: enough that an even stream with network jitter is never refused.
const BURST: Nanos = Nanos::from_millis(100);

/// Admits calls at a limited rate.
#[derive(Debug)]
pub struct RateLimit {
    /// The interval between two calls of cost 1, in nanoseconds.
    interval: f64,
    /// How early a call may be, in nanoseconds.
    tolerance: u64,
    /// When the next call is due.
    due: AtomicU64,
}

impl RateLimit {
    /// A limit of `rate` calls a second, which must be positive, with a burst of 0.1 seconds' worth.
    pub fn new(rate: f64) -> RateLimit {
        RateLimit::with_burst(rate, BURST)
    }

    /// A limit of `rate` a second, which must be positive. `burst`: how long the rate takes to refill
    /// what can be used at once, which is at least 1.
    pub fn with_burst(rate: f64, burst: Nanos) -> RateLimit {
        let interval = (1e9 / rate).clamp(1e-3, 1e18);
        let tolerance = (burst.0 as f64 - interval).max(0.0) as u64;
        RateLimit { interval, tolerance, due: AtomicU64::new(0) }
    }

    /// Whether to admit a call now. If so, the call is counted.
    pub fn admit(&self, now: Nanos) -> bool {
        self.admit_cost(now, 1)
    }

    /// Whether to admit a call of this cost now. If so, the cost is charged.
    #[inline]
    pub fn admit_cost(&self, now: Nanos, cost: u64) -> bool {
        let span = self.span(cost);
        let charge = |due: u64| {
            let start = due.max(now.0);
            (start <= now.0.saturating_add(self.tolerance)).then(|| start.saturating_add(span))
        };
        self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge).is_ok()
    }

    /// Returns the cost of a call that was admitted but not made.
    pub fn give_back(&self, cost: u64) {
        let span = self.span(cost);
        let returned = |due: u64| Some(due.saturating_sub(span));
        // It always returns a value.
        let _ = self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, returned);
    }

    /// How long until a call is admitted, if no other is before; zero if it is now.
    pub fn wait(&self, now: Nanos) -> Nanos {
        let due = self.due.load(Ordering::Relaxed);
        Nanos(due.saturating_sub(now.0.saturating_add(self.tolerance)))
    }

    /// The time in which the rate refills this cost.
    fn span(&self, cost: u64) -> u64 {
        (self.interval * cost as f64).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_and_the_burst_are_enforced() {
        let limit = RateLimit::new(500.0);
        // A call every 100 µs for two seconds: the rate, plus one burst.
        let admitted = (0..20_000).filter(|i| limit.admit(Nanos(i * 100_000))).count();
        assert!((1_000..=1_051).contains(&admitted), "{admitted}");
        // After a pause, one burst is available again.
        let later = Nanos::from_secs(100);
        assert_eq!((0..1_000).filter(|_| limit.admit(later)).count(), 50);
        let wait = limit.wait(later);
        assert!(wait > Nanos::ZERO && limit.admit(later + wait), "{wait}");
    }

    #[test]
    fn a_slow_rate_admits_single_calls() {
        let limit = RateLimit::new(0.5);
        assert_eq!(limit.wait(Nanos::from_secs(10)), Nanos::ZERO);
        assert!(limit.admit(Nanos::from_secs(10)));
        assert_eq!(limit.wait(Nanos::from_secs(10)), Nanos::from_secs(2));
        assert!(!limit.admit(Nanos::from_secs(11)));
        assert_eq!(limit.wait(Nanos::from_secs(11)), Nanos::from_secs(1));
        assert!(limit.admit(Nanos::from_secs(12)));
    }

    #[test]
    fn costs_are_charged_in_full() {
        // (rate, cost of each call, calls offered per second)
        for (rate, cost, offered) in [(20.0, 1, 1_000), (2_000.0, 26, 1_000), (3e8, 7, 100_000_000)]
        {
            let limit = RateLimit::with_burst(rate, Nanos::from_secs(1));
            let secs = if offered > 1_000_000 { 0.01 } else { 10.0 };
            let calls = (f64::from(offered) * secs) as u64;
            let gap = 1e9 / f64::from(offered);
            let admitted =
                (0..calls).filter(|i| limit.admit_cost(Nanos((*i as f64 * gap) as u64), cost));
            let charged = admitted.count() as f64 * cost as f64;
            let expected = (rate * (secs + 1.0)).min(calls as f64 * cost as f64);
            let error = (charged - expected).abs();
            assert!(error <= cost as f64 + expected * 1e-3, "{rate}: {charged} of {expected}");
        }
    }

    #[test]
    fn a_cost_that_is_returned_can_be_used_again() {
        let limit = RateLimit::with_burst(10.0, Nanos::from_secs(1));
        let now = Nanos::from_secs(5);
        assert!(limit.admit_cost(now, 10) && !limit.admit(now));
        limit.give_back(4);
        assert_eq!((0..10).filter(|_| limit.admit(now)).count(), 4);
        // An expensive call overdraws.
        let now = Nanos::from_secs(50);
        assert!(limit.admit_cost(now, 25));
        assert_eq!(limit.wait(now), Nanos::from_millis(1_600));
    }
}
