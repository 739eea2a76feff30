//! What was held up at a connection limit, for what cause, and how that is put.

use crate::seconds::Seconds;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{ErrorClass, Nanos, Snapshot};

/// The room for chance above what is needed, in standard deviations of a Poisson number.
const HEADROOM: f64 = 2.0;

/// Why arrivals were held up at the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    LimitTooLow,
    TargetSlowed,
    Burst,
}

impl Cause {
    pub(super) const ALL: [Cause; 3] = [Cause::LimitTooLow, Cause::TargetSlowed, Cause::Burst];
}

/// Arrivals that were held up for one cause.
#[derive(Clone, Debug, Default)]
pub(super) struct HeldUp {
    pub(super) arrivals: u64,
    /// Of them, those that the wait left too little time for an answer.
    pub(super) starved: Starved,
    pub(super) seconds: Option<Seconds>,
    pub(super) worst: Option<Evidence>,
}

impl HeldUp {
    pub(super) fn merge(&mut self, other: HeldUp) {
        self.arrivals += other.arrivals;
        self.starved.merge(other.starved);
        if let Some(seconds) = other.seconds {
            Seconds::widen(&mut self.seconds, seconds);
        }
        self.worst = match (self.worst, other.worst) {
            (Some(own), Some(other)) => Some(own.worse(other)),
            (own, other) => own.or(other),
        };
    }
}

/// Arrivals without an answer that spent their time waiting at a connection limit.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::verdict) struct Starved {
    /// Never sent: `no_connection`.
    pub(in crate::verdict) unsent: u64,
    /// Sent too late: `response_timeout`.
    pub(in crate::verdict) timed_out: u64,
}

impl Starved {
    /// Those that a second's errors leave to be explained.
    pub(in crate::verdict) fn of(snapshot: &Snapshot) -> Starved {
        let count = |class| snapshot.stats.iter().map(|stats| stats.errors.get(class)).sum();
        Starved {
            unsent: count(ErrorClass::NoConnection),
            timed_out: count(ErrorClass::ResponseTimeout),
        }
    }

    /// Takes `n` from them, those that were never sent first.
    pub(super) fn take(&mut self, n: u64) -> Starved {
        let unsent = self.unsent.min(n);
        let timed_out = self.timed_out.min(n - unsent);
        (self.unsent, self.timed_out) = (self.unsent - unsent, self.timed_out - timed_out);
        Starved { unsent, timed_out }
    }

    pub(in crate::verdict) fn merge(&mut self, other: Starved) {
        self.unsent += other.unsent;
        self.timed_out += other.timed_out;
    }
}

/// What one second showed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    pub(super) limit: u64,
    /// Requests per second that arrivals wanted to send.
    pub(super) rate: f64,
    pub(super) own: Option<Nanos>,
    /// The mean service time, where it had risen.
    pub(super) risen: Option<Nanos>,
    /// The target hardly answered at all.
    pub(super) stood_still: bool,
    pub(super) need: Need,
}

/// How many connections a plan needs on average: for planned arrivals, and for users.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    pub(super) arrivals: f64,
    pub(super) users: f64,
}

impl Need {
    /// What users want is a part of what arrives.
    pub(super) fn mean(self) -> f64 {
        self.arrivals.max(self.users)
    }

    /// Users are no more at one instant than at another.
    pub(super) fn with_headroom(self) -> f64 {
        (self.arrivals + HEADROOM * self.arrivals.sqrt()).max(self.users)
    }
}

impl Evidence {
    /// The second that needed more connections, or where the service time had risen more.
    fn worse(self, other: Evidence) -> Evidence {
        let stood_still = self.stood_still || other.stood_still;
        let weight = |of: &Evidence| (of.risen, Nanos::from_secs_f64(of.need.mean()));
        let worse = if weight(&other) > weight(&self) { other } else { self };
        Evidence { stood_still, ..worse }
    }

    pub(super) fn explain(&self, cause: Cause) -> String {
        let (own, limit) = (self.own.unwrap_or_default(), self.limit as f64);
        let carry = if self.limit == 1 { "connection carries" } else { "connections carry" };
        match cause {
            Cause::LimitTooLow if limit < self.need.mean() => format!(
                "the target answers in {own}, so {} {carry} {:.0}/s of {:.0}/s",
                grouped(self.limit),
                limit / own.as_secs_f64().max(1e-9),
                self.rate.max(self.need.mean() / own.as_secs_f64().max(1e-9)),
            ),
            Cause::LimitTooLow => format!(
                "the target answers in {own}, so {:.0}/s use {:.1} connections on average, and \
                 more at times",
                self.rate,
                self.need.mean()
            ),
            Cause::TargetSlowed => match (self.own, self.risen) {
                (None, _) => "the target answered nothing on them".into(),
                (Some(own), Some(risen)) => {
                    let still = if self.stood_still { ", and at times it stood still" } else { "" };
                    format!("the target's service time rose from {own} to {risen}{still}")
                }
                (Some(own), None) => {
                    format!("the target answers in {own}, and at times it stood still")
                }
            },
            Cause::Burst => "they came in a burst: the limit carries the mean rate".into(),
        }
    }

    pub(super) fn fix(&self) -> String {
        // A limit that was just reached is at least a quarter too low, whatever was computed.
        let enough = self.need.with_headroom().max(self.limit as f64 * 1.25);
        format!("raise connections.max to {}", round_up(enough))
    }
}

/// Up to a number that a person would write: 7, 20, 35, 250.
fn round_up(number: f64) -> u64 {
    let step = match number {
        n if n <= 10.0 => 1.0,
        n => 5.0 * 10f64.powi(n.log10().floor() as i32 - 1),
    };
    ((number / step).ceil() * step) as u64
}
