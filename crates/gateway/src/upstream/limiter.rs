//! A rate limit in one atomic word.
//!
//! The generic cell rate algorithm (ITU-T I.371): a call is due at the instant when the ones before
//! it have been paid for, and may come early by the burst. Waiting and queueing are not its business.

use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_measure::Nanos;

/// So much of a second's calls may come at once: enough that an even stream with the jitter of a
/// network is never refused.
const BURST: f64 = 0.1;

/// Admits calls at a rate.
pub(crate) struct Limiter {
    /// Between two calls, in nanoseconds.
    interval: u64,
    /// How early a call may come, in nanoseconds.
    early: u64,
    /// When the next call is due.
    due: AtomicU64,
}

impl Limiter {
    /// Admits `rate` calls a second, above zero.
    pub(crate) fn new(rate: f64) -> Limiter {
        let interval = (1e9 / rate).clamp(1.0, 1e18) as u64;
        let calls = (rate * BURST).max(1.0);
        Limiter {
            interval,
            early: ((calls - 1.0) * interval as f64) as u64,
            due: AtomicU64::new(0),
        }
    }

    /// Whether one more call may come now; if so, it counts.
    pub(crate) fn admit(&self, now: Nanos) -> bool {
        let pay = |due: u64| {
            let start = due.max(now.0);
            (start <= now.0.saturating_add(self.early)).then(|| start.saturating_add(self.interval))
        };
        self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept() {
        let limiter = Limiter::new(500.0);
        // Asked every 100 µs for two seconds: the rate, and the burst once.
        let admitted = (0..20_000).filter(|i| limiter.admit(Nanos(i * 100_000))).count();
        assert!((1_000..=1_051).contains(&admitted), "{admitted}");
        // After a pause the burst is there again, and no more.
        let later = Nanos::from_secs(100);
        assert_eq!((0..1_000).filter(|_| limiter.admit(later)).count(), 50);
    }

    #[test]
    fn a_slow_rate_admits_one_at_a_time() {
        let limiter = Limiter::new(0.5);
        assert!(limiter.admit(Nanos::from_secs(10)));
        assert!(!limiter.admit(Nanos::from_secs(11)));
        assert!(limiter.admit(Nanos::from_secs(12)));
    }
}
