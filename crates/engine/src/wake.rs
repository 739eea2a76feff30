//! Waking up in time.
//!
//! A sleeping thread is woken late: by tens of microseconds here, by more where the host is busy.
//! So the timer is set early by what this thread's wake-ups have taken of late, and what then remains
//! is spent spinning. The wake-up latency is followed by stochastic approximation of a quantile
//! (Robbins and Monro 1951): each wake-up moves the estimate up by a large step when it took longer
//! and down by a small one when it did not, in the proportion that balances at the quantile.
//!
//! Spinning is for a core that nothing else needs. When the spinning thread finds itself interrupted,
//! something else needs it, and a thread that sleeps is preferred by the scheduler to one that spins:
//! spinning is suspended for a while, longer each time.

use crate::prepare::Spin;
use plimsoll_measure::Nanos;

/// The quantile of wake-up latencies that is waited out.
const QUANTILE: f64 = 0.98;
const STEP: f64 = 2_000.0;
/// The timer is never set earlier than this.
const EARLY_MAX: f64 = 150_000.0;
/// To sleep and be woken costs 10 to 30 µs of CPU time (more in a virtual machine, where setting the
/// timer leaves the guest): sleeping for less saves nothing.
const NOT_WORTH_SLEEPING: Nanos = Nanos(25_000);
/// Two looks at the clock further apart than this were interrupted.
const INTERRUPTED: Nanos = Nanos(200_000);
/// This many interruptions in a second mean that something else needs the core.
const INTERRUPTIONS: u32 = 20;
const SUSPENDED_FIRST: Nanos = Nanos::from_secs(2);
const SUSPENDED_MAX: Nanos = Nanos::from_secs(60);

/// What to do until the next arrival is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Look again at once.
    Spin,
    /// Sleep until this instant.
    Sleep(Nanos),
}

/// Decides when to sleep and when to spin.
pub(crate) struct Wake {
    spin: Spin,
    /// How late this thread is woken, nanoseconds.
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

    /// What to do at `now` when the next arrival is due at `arrival` and other work at `other`.
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

    /// A sleep until `at` ended at `woken` with nothing to read.
    pub(crate) fn slept(&mut self, at: Nanos, woken: Nanos) {
        let late = (woken - at).0 as f64;
        if woken >= at {
            let step = if late > self.latency { QUANTILE } else { QUANTILE - 1.0 };
            self.latency = (self.latency + STEP * step).clamp(0.0, EARLY_MAX);
        }
    }

    /// A spinning thread looked at the clock `took` after its last look; returns how much of that it
    /// spent spinning. A thread that was interrupted spent most of it off its CPU.
    #[inline]
    pub(crate) fn spun(&mut self, took: Nanos) -> Nanos {
        if took > INTERRUPTED {
            self.interruptions += 1;
            return Nanos::ZERO;
        }
        took
    }

    /// A second has passed.
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
    fn it_sleeps_early_and_spins_the_rest() {
        let wake = Wake::new(Spin::Adaptive); // 50 µs late at first
        let at = Nanos(1_000_000);
        assert_eq!(wake.plan(at, Nanos::MAX, Nanos(0)), Plan::Sleep(Nanos(950_000)));
        assert_eq!(wake.plan(at, Nanos(10), Nanos(0)), Plan::Sleep(Nanos(10)));
        assert_eq!(wake.plan(at, Nanos::MAX, Nanos(940_000)), Plan::Spin);
        let never = Wake::new(Spin::Never);
        assert_eq!(never.plan(at, Nanos::MAX, Nanos(999_999)), Plan::Sleep(at));
        assert_eq!(Wake::new(Spin::Always).plan(at, at, Nanos(0)), Plan::Spin);
    }

    #[test]
    fn a_core_that_others_need_is_left_to_them() {
        let mut wake = Wake::new(Spin::Adaptive);
        let at = Nanos(1_000_000_000);
        (0..INTERRUPTIONS).for_each(|_| _ = wake.spun(INTERRUPTED + Nanos(1)));
        wake.second(Nanos::ZERO);
        assert_eq!(wake.plan(at, Nanos::MAX, at), Plan::Sleep(at));
        let later = SUSPENDED_FIRST + at;
        assert_eq!(wake.plan(later, Nanos::MAX, later), Plan::Spin);
    }
}
