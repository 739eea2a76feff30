//! Decides when a worker sleeps and when it spins, so that it is on time.
//!
//! A sleeping thread wakes late: typically by tens of microseconds, by more on a busy host. The
//! timer is therefore set early by this thread's recent wake-up latency, and the remaining time is
//! spent spinning. The latency is tracked by stochastic approximation of a quantile (Robbins and
//! Monro 1951): each wake-up moves the estimate up by a large step if it took longer and down by a
//! small step if not, in the proportion that balances at the quantile.
//!
//! Spinning is for cores that nothing else needs. If a spinning thread is interrupted often,
//! something else needs the core, and the scheduler favours threads that sleep: spinning is then
//! suspended for a while, longer each time.

use crate::prepare::Spin;
use plimsoll_measure::Nanos;

/// The quantile of wake-up latencies by which the timer is set early.
const QUANTILE: f64 = 0.98;
const STEP: f64 = 2_000.0;
/// The timer is set early by at most this, in nanoseconds.
const EARLY_MAX: f64 = 150_000.0;
/// Sleeping and waking costs 10 to 30 µs of CPU time (more in a virtual machine, where setting the
/// timer exits the guest), so shorter sleeps save nothing.
const NOT_WORTH_SLEEPING: Nanos = Nanos(25_000);
/// If two consecutive clock readings are further apart than this, the thread was interrupted.
const INTERRUPTED: Nanos = Nanos(200_000);
/// At this many interruptions in a second, something else needs the core.
const INTERRUPTIONS: u32 = 20;
const SUSPENDED_FIRST: Nanos = Nanos::from_secs(2);
const SUSPENDED_MAX: Nanos = Nanos::from_secs(60);

/// How to wait for the next arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Poll again at once.
    Spin,
    /// Sleep until this instant.
    Sleep(Nanos),
}

/// The state of the decision between sleeping and spinning.
pub(crate) struct Wake {
    spin: Spin,
    /// Estimated wake-up latency of this thread, in nanoseconds.
    latency: f64,
    interruptions: u32,
    suspended_until: Nanos,
    suspension: Nanos,
}

impl Wake {
    pub(crate) fn new(spin: Spin) -> Wake {
        let suspension = SUSPENDED_FIRST;
        Wake { spin, latency: 50_000.0, interruptions: 0, suspended_until: Nanos::ZERO, suspension }
    }

    /// How to wait at `now` if the next arrival is due at `arrival` and other work at `other`.
    #[inline]
    pub(crate) fn plan(&self, arrival: Nanos, other: Nanos, now: Nanos) -> Plan {
        if self.spin == Spin::Always {
            return Plan::Spin;
        }
        if self.spin == Spin::Never || now < self.suspended_until {
            return Plan::Sleep(arrival.min(other));
        }
        let early = Nanos(self.latency as u64);
        if arrival <= now + early + NOT_WORTH_SLEEPING {
            return Plan::Spin;
        }
        Plan::Sleep((arrival - early).min(other))
    }

    /// Records that a sleep until `at` ended at `woken` with nothing to read.
    pub(crate) fn slept(&mut self, at: Nanos, woken: Nanos) {
        let late = (woken - at).0 as f64;
        if woken >= at {
            let step = if late > self.latency { QUANTILE } else { QUANTILE - 1.0 };
            self.latency = (self.latency + STEP * step).clamp(0.0, EARLY_MAX);
        }
    }

    /// Records a spin of length `took` and returns how much of it was spent spinning: nothing if
    /// the thread was interrupted, because most of the time was then spent off the CPU.
    #[inline]
    pub(crate) fn spun(&mut self, took: Nanos) -> Nanos {
        if took > INTERRUPTED {
            self.interruptions += 1;
            return Nanos::ZERO;
        }
        took
    }

    /// Called once a second.
    pub(crate) fn second(&mut self, now: Nanos) {
        if self.interruptions >= INTERRUPTIONS {
            self.suspended_until = now + self.suspension;
            self.suspension = Nanos(self.suspension.0 * 2).min(SUSPENDED_MAX);
        }
        self.interruptions = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_settles_at_the_quantile() {
        let mut wake = Wake::new(Spin::Adaptive);
        let mut latencies = plimsoll_measure::rng::Key::new(1).sequence();
        for _ in 0..100_000 {
            let at = Nanos(1_000_000);
            wake.slept(at, at + Nanos(latencies.below(100_000)));
        }
        assert!((90_000.0..110_000.0).contains(&wake.latency), "{}", wake.latency);
    }

    #[test]
    fn the_timer_is_early_and_the_rest_is_spun() {
        let wake = Wake::new(Spin::Adaptive); // initial estimate: 50 µs
        let at = Nanos(1_000_000);
        assert_eq!(wake.plan(at, Nanos::MAX, Nanos(0)), Plan::Sleep(Nanos(950_000)));
        assert_eq!(wake.plan(at, Nanos(10), Nanos(0)), Plan::Sleep(Nanos(10)));
        assert_eq!(wake.plan(at, Nanos::MAX, Nanos(940_000)), Plan::Spin);
        let never = Wake::new(Spin::Never);
        assert_eq!(never.plan(at, Nanos::MAX, Nanos(999_999)), Plan::Sleep(at));
        assert_eq!(Wake::new(Spin::Always).plan(at, at, Nanos(0)), Plan::Spin);
    }

    #[test]
    fn frequent_interruptions_suspend_spinning() {
        let mut wake = Wake::new(Spin::Adaptive);
        let at = Nanos(1_000_000_000);
        (0..INTERRUPTIONS).for_each(|_| _ = wake.spun(INTERRUPTED + Nanos(1)));
        wake.second(Nanos::ZERO);
        assert_eq!(wake.plan(at, Nanos::MAX, at), Plan::Sleep(at));
        let later = SUSPENDED_FIRST + at;
        assert_eq!(wake.plan(later, Nanos::MAX, later), Plan::Spin);
    }
}
