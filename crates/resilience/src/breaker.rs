//! A circuit breaker: stops using an upstream that fails, and finds out when it works again.
//!
//! # Why
//! A failed upstream costs each call that is sent to it a timeout and a retry, and the retries are
//! load for the others. A breaker turns the first few failures into a decision for all callers
//! (Nygard, "Release It!", 2007; Hystrix; resilience4j; Envoy's outlier detection; linkerd's
//! consecutive-failures breaker, whose growing open time this one has).
//!
//! # States
//! - **Closed**: calls pass. It opens after `consecutive` failures in a row, or when at least
//!   `volume` calls ended within the window and at least `share` of them failed. The first rule
//!   notices a dead upstream within a few calls, the second an upstream that fails every other call,
//!   which the first never notices.
//! - **Open**: calls are refused for the open time.
//! - **Half-open**: a round of at most `probes` calls passes, and a further one for each that succeeds.
//!   When `probes` of them have succeeded, the breaker closes; one failure opens it again. If neither happens, because their callers left or
//!   they hang, another round follows after another open time. Probes in flight are not counted,
//!   so none can leak, and a breaker that nobody reports to still lets a probe through.
//!
//! # Open time
//! `open_min`, doubled each time the breaker opens again, up to `open_max`. It starts from `open_min`
//! again when the breaker has been closed for `open_max`, so that an upstream that fails and recovers
//! in turn is used less and less. Each open time is shortened by up to a half at random ("equal
//! jitter": Brooker, "Exponential backoff and jitter", AWS 2015), so that a fleet of gateways does not
//! probe an upstream at the same instant.
//!
//! # Late reports
//! A call that was sent before the breaker opened may end long after. Its failure must not prolong the
//! open time, and its success says nothing about the present. So each call holds a [`Pass`] with the
//! epoch in which it was admitted, and a report from another epoch is ignored.
//!
//! # Limits
//! A breaker cannot know whether another upstream would do better. If all upstreams of a service
//! refuse, the caller should use one anyway (Envoy's "panic threshold"): an answer that may fail is
//! better than one that fails certainly. Cancelled attempts are not reported at all. But a hedge
//! hides a hanging upstream behind cancellations, so report a loser as failed if it was several
//! hedge delays late.
//!
//! # Sharing
//! By all workers. The state is one word, replaced by compare-and-exchange: transitions are exact.
//! The count of failures in a row and the window are separate words; a race may count a failure to
//! either side of a transition.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Key;

use crate::window::Window;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerSettings {
    /// Opens after this many failures in a row; at least 1. Default 5: a pooled connection that broke
    /// is retried without a report, so five in a row are no accident.
    pub consecutive: u32,
    /// Opens when this share of the window's calls failed, above 0 and up to 1. Default 0.5: below
    /// that, retries on other upstreams are cheaper than the loss of the capacity.
    pub share: f64,
    /// The share is judged from this many calls on; at least 1. Default 20.
    pub volume: u32,
    /// The length of the window; positive. Default 10 s.
    pub window: Nanos,
    /// The first open time; positive. Default 500 ms: a restarted process is back within about that
    /// time, and a probe costs one call.
    pub open_min: Nanos,
    /// The maximum open time; at least `open_min`, at most an hour. Default 30 s.
    pub open_max: Nanos,
    /// Calls per round while half-open, and successes until the breaker closes, 1 to 15. Default 3.
    pub probes: u32,
}

impl BreakerSettings {
    /// The maximum of [`BreakerSettings::probes`].
    pub const PROBES_MAX: u32 = 15;
    /// The maximum of [`BreakerSettings::open_max`].
    pub const OPEN_MAX: Nanos = Nanos::from_secs(3600);
}

impl Default for BreakerSettings {
    fn default() -> BreakerSettings {
        BreakerSettings {
            consecutive: 5,
            share: 0.5,
            volume: 20,
            window: Nanos::from_secs(10),
            open_min: Nanos::from_millis(500),
            open_max: Nanos::from_secs(30),
            probes: 3,
        }
    }
}

/// Permission for one call; its outcome is reported with it, unless the call is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Pass {
    epoch: u16,
    /// Whether the breaker was half-open.
    pub is_probe: bool,
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls pass.
    Closed,
    /// Calls are refused until this time.
    Open {
        /// When the first probe passes.
        until: Nanos,
    },
    /// Probes pass.
    HalfOpen,
}

/// A change of state that a report has caused, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The breaker opened.
    Opened {
        /// When the first probe passes.
        until: Nanos,
    },
    /// The breaker closed.
    Closed,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    random: Key,
    /// A [`Circuit`].
    circuit: AtomicU64,
    /// Failures since the last success, while closed.
    failures: AtomicU32,
    /// Calls, and those of them that failed, while closed.
    window: Window,
}

impl Breaker {
    /// A closed breaker. `seed` should differ between breakers and processes; it draws the open
    /// times.
    ///
    /// # Panics
    /// A setting is out of its range.
    pub fn new(settings: BreakerSettings, seed: u64) -> Breaker {
        let BreakerSettings { consecutive, share, volume, window, open_min, open_max, probes } =
            settings;
        assert!(consecutive > 0 && volume > 0, "zero calls");
        assert!(share > 0.0 && share <= 1.0, "a share of {share}");
        assert!(window > Nanos::ZERO && open_min > Nanos::ZERO, "a time of zero");
        assert!(open_min <= open_max && open_max <= BreakerSettings::OPEN_MAX, "{open_max}");
        assert!((1..=BreakerSettings::PROBES_MAX).contains(&probes), "{probes} probes");
        Breaker {
            settings,
            random: Key::new(seed),
            circuit: AtomicU64::new(Circuit::new().packed()),
            failures: AtomicU32::new(0),
            window: Window::new(window),
        }
    }

    /// Admits a call, or refuses it.
    #[inline]
    pub fn admit(&self, now: Nanos) -> Option<Pass> {
        let circuit = Circuit::unpacked(self.circuit.load(Relaxed));
        if circuit.phase == Phase::Closed {
            return Some(circuit.pass());
        }
        self.admit_probe(now)
    }

    #[cold]
    fn admit_probe(&self, now: Nanos) -> Option<Pass> {
        self.update(|circuit| match circuit.phase {
            Phase::Closed => Some(circuit),
            Phase::Open if !circuit.is_due(now) => None,
            Phase::Open => Some(self.half_opened(circuit, now).admitting()),
            // The probes of the last round did not report.
            Phase::HalfOpen if circuit.is_due(now) => {
                let at = self.until(circuit, now);
                Some(Circuit { at, admitted: 0, ..circuit }.admitting())
            }
            Phase::HalfOpen => {
                (u32::from(circuit.admitted) < self.settings.probes).then(|| circuit.admitting())
            }
        })
        .map(|(_, circuit)| circuit.pass())
    }

    /// Whether [`Breaker::admit`] would admit a call now; admits none.
    #[inline]
    pub fn is_admitting(&self, now: Nanos) -> bool {
        let circuit = Circuit::unpacked(self.circuit.load(Relaxed));
        circuit.phase == Phase::Closed
            || circuit.is_due(now)
            || circuit.phase == Phase::HalfOpen
                && u32::from(circuit.admitted) < self.settings.probes
    }

    /// Reports that a call succeeded: the upstream answered, whatever the answer.
    #[inline]
    pub fn succeeded(&self, pass: Pass, now: Nanos) -> Option<Change> {
        let circuit = Circuit::unpacked(self.circuit.load(Relaxed));
        if circuit.phase == Phase::Closed {
            if circuit.epoch == pass.epoch {
                self.window.add_first(now);
                if self.failures.load(Relaxed) > 0 {
                    self.failures.store(0, Relaxed);
                }
            }
            return None;
        }
        self.probe_succeeded(pass, now)
    }

    #[cold]
    fn probe_succeeded(&self, pass: Pass, now: Nanos) -> Option<Change> {
        let (_, circuit) = self.update(|circuit| {
            if circuit.phase != Phase::HalfOpen || circuit.epoch != pass.epoch {
                return None;
            }
            let succeeded = circuit.succeeded + 1;
            if u32::from(succeeded) < self.settings.probes {
                // Its place is free for the next probe.
                let admitted = circuit.admitted.saturating_sub(1);
                return Some(Circuit { succeeded, admitted, ..circuit });
            }
            let at = now.0 / MILLI;
            Some(Circuit { at, ..circuit.next(Phase::Closed) })
        })?;
        if circuit.phase != Phase::Closed {
            return None;
        }
        self.window.clear();
        self.failures.store(0, Relaxed);
        Some(Change::Closed)
    }

    /// Reports that a call failed for a reason that is the upstream's: no connection, no answer in
    /// time, an answer that is not one.
    #[cold]
    pub fn failed(&self, pass: Pass, now: Nanos) -> Option<Change> {
        let circuit = Circuit::unpacked(self.circuit.load(Relaxed));
        if circuit.epoch != pass.epoch {
            return None;
        }
        if circuit.phase == Phase::Closed && !self.count_failure(now) {
            return None;
        }
        let (_, circuit) = self.update(|circuit| {
            if circuit.epoch != pass.epoch || circuit.phase == Phase::Open {
                return None;
            }
            let was_quiet = circuit.phase == Phase::Closed
                && now.0 / MILLI >= circuit.at + self.settings.open_max.0 / MILLI;
            let level = if was_quiet { 1 } else { (circuit.level + 1).min(LEVEL_MAX) };
            let opened = Circuit { level, ..circuit.next(Phase::Open) };
            Some(Circuit { at: self.until(opened, now), ..opened })
        })?;
        Some(Change::Opened { until: circuit.time() })
    }

    /// Counts a failure while closed; whether the breaker should open.
    fn count_failure(&self, now: Nanos) -> bool {
        self.window.add_both(now);
        if self.failures.fetch_add(1, Relaxed) + 1 >= self.settings.consecutive {
            return true;
        }
        let sums = self.window.sums(now);
        sums.first >= u64::from(self.settings.volume)
            && sums.second as f64 >= self.settings.share * sums.first as f64
    }

    /// Ends the open time, or the wait for probes that have not reported: the upstream was found to work
    /// by other means, such as a health check. The breaker becomes half-open rather than closed, because
    /// an upstream may answer checks and fail calls; for the same reason, one probe passes, and the next
    /// when it has succeeded. Returns whether this lets calls pass.
    pub fn end_open_time(&self, now: Nanos) -> bool {
        let admitted = self.settings.probes as u8 - 1;
        let next = self.update(|circuit| match circuit.phase {
            Phase::Open => Some(Circuit { admitted, ..self.half_opened(circuit, now) }),
            Phase::HalfOpen if circuit.admitted > admitted => Some(Circuit { admitted, ..circuit }),
            _ => None,
        });
        next.is_some()
    }

    /// The state.
    pub fn state(&self) -> State {
        let circuit = Circuit::unpacked(self.circuit.load(Relaxed));
        match circuit.phase {
            Phase::Closed => State::Closed,
            Phase::Open => State::Open { until: circuit.time() },
            Phase::HalfOpen => State::HalfOpen,
        }
    }

    fn half_opened(&self, circuit: Circuit, now: Nanos) -> Circuit {
        Circuit { at: self.until(circuit, now), ..circuit.next(Phase::HalfOpen) }
    }

    /// The end of an open time that starts now, in milliseconds, rounded up.
    fn until(&self, circuit: Circuit, now: Nanos) -> u64 {
        let doublings = u32::from(circuit.level).saturating_sub(1);
        let longest = self.settings.open_min.0.saturating_mul(1 << doublings);
        let longest = longest.min(self.settings.open_max.0);
        let mut random = self.random.with(now.0).with(u64::from(circuit.epoch)).sequence();
        let time = longest as f64 * (0.5 + 0.5 * random.unit());
        (now.0 + time as u64).div_ceil(MILLI)
    }

    /// Replaces the state by what `next` makes of it; returns both.
    fn update(&self, next: impl Fn(Circuit) -> Option<Circuit>) -> Option<(Circuit, Circuit)> {
        let mut after = None;
        let updated = self.circuit.fetch_update(Relaxed, Relaxed, |word| {
            after = next(Circuit::unpacked(word));
            after.map(Circuit::packed)
        });
        Some((Circuit::unpacked(updated.ok()?), after?))
    }
}

const MILLI: u64 = 1_000_000;

/// The maximum of [`Circuit::level`].
const LEVEL_MAX: u8 = 31;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open,
    HalfOpen,
}

/// The state in one word, from its low end: phase (2 bits), level (5), admitted (4), succeeded (4),
/// epoch (9), time (40).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Circuit {
    phase: Phase,
    /// How often the breaker opened in a row.
    level: u8,
    /// Calls admitted in this round, while half-open.
    admitted: u8,
    /// Calls that succeeded while half-open.
    succeeded: u8,
    /// Increases with each change of the phase. It wraps after 512 of them, which takes longer than
    /// any call: each second one takes an open time.
    epoch: u16,
    /// In milliseconds: when the breaker closed, when the open time ends, or when the next round of
    /// probes may start. Wraps after 34 years.
    at: u64,
}

impl Circuit {
    fn new() -> Circuit {
        Circuit { phase: Phase::Closed, level: 0, admitted: 0, succeeded: 0, epoch: 0, at: 0 }
    }

    #[inline]
    fn packed(self) -> u64 {
        let phase = match self.phase {
            Phase::Closed => 0,
            Phase::Open => 1,
            Phase::HalfOpen => 2,
        };
        phase
            | u64::from(self.level) << 2
            | u64::from(self.admitted) << 7
            | u64::from(self.succeeded) << 11
            | u64::from(self.epoch) << 15
            | self.at << 24
    }

    #[inline]
    fn unpacked(word: u64) -> Circuit {
        let phase = match word & 3 {
            0 => Phase::Closed,
            1 => Phase::Open,
            _ => Phase::HalfOpen,
        };
        Circuit {
            phase,
            level: (word >> 2 & 31) as u8,
            admitted: (word >> 7 & 15) as u8,
            succeeded: (word >> 11 & 15) as u8,
            epoch: (word >> 15 & 511) as u16,
            at: word >> 24,
        }
    }

    /// The next phase, in a new epoch.
    fn next(self, phase: Phase) -> Circuit {
        let epoch = (self.epoch + 1) & 511;
        Circuit { phase, epoch, admitted: 0, succeeded: 0, ..self }
    }

    fn admitting(self) -> Circuit {
        Circuit { admitted: self.admitted + 1, ..self }
    }

    fn is_due(self, now: Nanos) -> bool {
        now.0 / MILLI >= self.at
    }

    fn time(self) -> Nanos {
        Nanos(self.at * MILLI)
    }

    #[inline]
    fn pass(self) -> Pass {
        Pass { epoch: self.epoch, is_probe: self.phase == Phase::HalfOpen }
    }
}

#[cfg(test)]
mod tests;
