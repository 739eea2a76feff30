//! A rate limiter in one atomic word.
//!
//! It implements the generic cell rate algorithm (ITU-T I.371): calls are due at fixed intervals,
//! and a call may be early by the burst. The limiter does not queue or wait.

use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_measure::Nanos;

/// The burst, in seconds' worth of calls: enough that an even stream with network jitter is never
/// refused.
const BURST_SECS: f64 = 0.1;

/// Admits calls at a limited rate.
pub(crate) struct Limiter {
    /// The interval between two calls, in nanoseconds.
    interval: u64,
    /// How early a call may be, in nanoseconds.
    tolerance: u64,
    /// When the next call is due.
    due: AtomicU64,
}

impl Limiter {
    /// A limiter for `rate` calls a second, which must be positive.
    pub(crate) fn new(rate: f64) -> Limiter {
        let interval = (1e9 / rate).clamp(1.0, 1e18) as u64;
        let calls = (rate * BURST_SECS).max(1.0);
        Limiter {
            interval,
            tolerance: ((calls - 1.0) * interval as f64) as u64,
            due: AtomicU64::new(0),
        }
    }

    /// Whether to admit a call now. If so, the call is counted.
    pub(crate) fn admit(&self, now: Nanos) -> bool {
        let charge = |due: u64| {
            let start = due.max(now.0);
            (start <= now.0.saturating_add(self.tolerance))
                .then(|| start.saturating_add(self.interval))
        };
        self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_and_the_burst_are_enforced() {
        let limiter = Limiter::new(500.0);
        // A call every 100 µs for two seconds: the rate, plus one burst.
        let admitted = (0..20_000).filter(|i| limiter.admit(Nanos(i * 100_000))).count();
        assert!((1_000..=1_051).contains(&admitted), "{admitted}");
        // After a pause, one burst is available again.
        let later = Nanos::from_secs(100);
        assert_eq!((0..1_000).filter(|_| limiter.admit(later)).count(), 50);
    }

    #[test]
    fn a_slow_rate_admits_single_calls() {
        let limiter = Limiter::new(0.5);
        assert!(limiter.admit(Nanos::from_secs(10)));
        assert!(!limiter.admit(Nanos::from_secs(11)));
        assert!(limiter.admit(Nanos::from_secs(12)));
    }
}
