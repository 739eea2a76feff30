//! A limit on calls per second, in one atomic word.
//!
//! # Why
//! A provider that permits 50 calls per second answers the others with errors, or asks for money. A
//! call that is not sent there can go to another upstream at once.
//!
//! # How
//! The generic cell rate algorithm (ITU-T I.371, 1993): calls are due at fixed intervals, and a call
//! may be early by the burst. It admits exactly the calls that a leaky bucket would, but its whole
//! state is the time at which the next call is due, and no timer refills anything. It does not queue
//! or wait: the caller decides what to do with a call that is not admitted.
//!
//! # Sharing
//! By all workers: one word, replaced by compare-and-exchange, so that the limit is exact.

use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_measure::Nanos;

/// The burst, in seconds' worth of calls: enough that an even stream with network jitter is never
/// refused.
const BURST_SECS: f64 = 0.1;

/// Admits calls at a limited rate.
#[derive(Debug)]
pub struct RateLimit {
    /// The interval between two calls, in nanoseconds.
    interval: u64,
    /// How early a call may be, in nanoseconds.
    tolerance: u64,
    /// When the next call is due.
    due: AtomicU64,
}

impl RateLimit {
    /// A limit of `rate` calls a second, which must be positive.
    pub fn new(rate: f64) -> RateLimit {
        let interval = (1e9 / rate).clamp(1.0, 1e18) as u64;
        let calls = (rate * BURST_SECS).max(1.0);
        RateLimit {
            interval,
            tolerance: ((calls - 1.0) * interval as f64) as u64,
            due: AtomicU64::new(0),
        }
    }

    /// Whether to admit a call now. If so, the call is counted.
    pub fn admit(&self, now: Nanos) -> bool {
        let charge = |due: u64| {
            let start = due.max(now.0);
            (start <= now.0.saturating_add(self.tolerance))
                .then(|| start.saturating_add(self.interval))
        };
        self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge).is_ok()
    }

    /// How long until a call is admitted, if no other is before; zero if it is now.
    pub fn wait(&self, now: Nanos) -> Nanos {
        let due = self.due.load(Ordering::Relaxed);
        Nanos(due.saturating_sub(now.0.saturating_add(self.tolerance)))
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
}
