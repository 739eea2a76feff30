//! Slow start: an upstream that has returned gets its share of calls back over a while.
//!
//! # Why
//! A process that has just started has cold caches, no connections, and uncompiled code; a node that
//! has just synced reads its state from disk. With its full share at once it is slow or falls over
//! again, and the breaker's open time doubles. HAProxy (`slowstart`), nginx (`slow_start`) and Envoy
//! (slow start mode) ramp the weight.
//!
//! # How
//! From its return, the share grows linearly from 10 % to 100 % over the ramp. The rest of its turns
//! go to other upstreams, if any of them takes the call: the ramp spreads calls and never refuses one.
//! 10 % rather than 0, so that the first calls warm it up.
//!
//! # Sharing
//! By all workers: one word. Without a ramp in progress, the only cost is to load it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plimsoll_measure::Nanos;

/// The share at the start of a ramp.
const SHARE_MIN: f64 = 0.1;

/// See the [module](self).
#[derive(Debug)]
pub struct SlowStart {
    /// The length of a ramp.
    ramp: Nanos,
    /// When the ramp started, plus 1; 0 if there is none.
    started: AtomicU64,
}

impl SlowStart {
    /// The default length of a ramp.
    pub const RAMP: Nanos = Nanos::from_secs(10);

    /// Without a ramp in progress. A ramp of zero never limits the share.
    pub fn new(ramp: Nanos) -> SlowStart {
        SlowStart { ramp, started: AtomicU64::new(0) }
    }

    /// Starts a ramp: the upstream has returned.
    pub fn begin(&self, now: Nanos) {
        self.started.store(now.0.saturating_add(1), Relaxed);
    }

    /// The upstream's present share of its usual calls, 0.1 to 1.
    #[inline]
    pub fn share(&self, now: Nanos) -> f64 {
        let started = self.started.load(Relaxed);
        if started == 0 { 1.0 } else { self.ramping(started, now) }
    }

    /// Whether the upstream takes a turn, given a random number from 0 to 1.
    #[inline]
    pub fn takes(&self, now: Nanos, random: impl FnOnce() -> f64) -> bool {
        self.started.load(Relaxed) == 0 || random() < self.share(now)
    }

    #[cold]
    fn ramping(&self, started: u64, now: Nanos) -> f64 {
        let elapsed = now - Nanos(started - 1);
        if elapsed >= self.ramp {
            // Unless another ramp has just started.
            let _ = self.started.compare_exchange(started, 0, Relaxed, Relaxed);
            return 1.0;
        }
        SHARE_MIN + (1.0 - SHARE_MIN) * (elapsed.0 as f64 / self.ramp.0 as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_to_one() {
        let slow = SlowStart::new(Nanos::from_secs(10));
        let at = |secs| slow.share(Nanos::from_secs(secs));
        assert_eq!(at(1_000), 1.0, "no ramp");
        slow.begin(Nanos::ZERO);
        assert_eq!([0, 5, 10, 20].map(at), [0.1, 0.55, 1.0, 1.0]);
        assert_eq!(at(5), 1.0, "the ramp is over");
        slow.begin(Nanos::from_secs(30));
        assert_eq!([29, 30, 35].map(at), [0.1, 0.1, 0.55], "a late reading of the clock");
        slow.begin(Nanos::from_secs(35));
        assert_eq!(at(35), 0.1, "again");
        assert_eq!(SlowStart::new(Nanos::ZERO).share(Nanos::ZERO), 1.0);
    }

    #[test]
    fn turns_are_taken_by_chance() {
        let slow = SlowStart::new(Nanos::from_secs(10));
        let now = Nanos::from_secs(5);
        assert!(slow.takes(now, || unreachable!("no random number is needed")));
        slow.begin(Nanos::ZERO);
        assert!(slow.takes(now, || 0.54) && !slow.takes(now, || 0.55));
    }
}
