//! Whether a run is valid, and what limited it.
//!
//! Pure rules over seconds: each rule keeps sums, in memory that does not grow with the run, and
//! returns its findings at the end. `docs/design/verdict.md` explains the rules and their thresholds.
//!
//! - `lateness`: `lag_high` by open stream, `read_late`
//! - `connections`: `connections_capped` and `target_saturated`, by origin
//! - `cause`: why the generator was late: `cpu_…`, `host_noise`
//! - `headroom`: how close the generator came to its own limits
//! - `tcp`: `accept_backlog` and `packet_loss`
//! - `remarks`: `forced`, `cut_short`, `redirects_not_followed`
//! - `errors`: findings from error classes, `plan_not_held`, `nothing_ok`
//!
//! # What makes a run invalid
//! The generator delayed more than 1 % of the arrivals that a rule covers (sent late, read late, held up
//! at a connection limit that is too low), so that the 99th percentile reflects the generator; or more
//! than 0.1 % failed in the generator. A run that was stopped early is not invalid.

mod cause;
mod connections;
mod errors;
mod headroom;
mod lateness;
mod remarks;
mod tcp;
#[cfg(test)]
mod tests;
mod wording;

use crate::objectives::percent;
use crate::seconds::{ErrorTimes, FaultTimes, Seconds};
use crate::summary::Group;
use cause::{CauseRule, LateCause};
use connections::{OriginRule, Starved};
pub use headroom::Headroom;
use lateness::{LagRule, Lateness, ReadRule};
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{
    ErrorClass, Finding, FindingId, Histogram, Nanos, RunFacts, Severity, Side, Snapshot,
};
use plimsoll_plan::{Load, Plan};
use std::cmp::Reverse;
use tcp::TcpRule;

/// If more than this share of the arrivals is affected, the 99th percentile does not reflect the target.
pub(crate) const MATERIAL: f64 = 0.01;
/// If more than this share is affected, the 99.9th percentile does not reflect the target.
const NOTABLE: f64 = 0.001;
/// Delays up to this are normal for a thread that sleeps on a virtual machine.
const DELAY_FLOOR: Nanos = Nanos::from_millis(5);
/// A delay up to this share of the time that contains it does not change any conclusion.
const DELAY_SHARE: f64 = 0.1;

/// The largest acceptable delay by the generator, given the 99th percentile of the time containing it.
fn allowed_delay(p99: Option<Nanos>) -> Nanos {
    DELAY_FLOOR.max(Nanos((p99.unwrap_or_default().0 as f64 * DELAY_SHARE) as u64))
}

/// The number of values above a limit.
fn count_over(histogram: &Histogram, limit: Nanos) -> u64 {
    histogram.count() - histogram.count_up_to(limit)
}

fn share_of(n: u64, all: u64) -> f64 {
    n as f64 / all.max(1) as f64
}

/// Whether a run is valid, what limited it, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Whether the figures describe the target.
    pub valid: bool,
    /// The side that limited the run, if any.
    pub limited_by: Option<Side>,
    /// Findings, the primary cause first, then by severity and share.
    pub findings: Vec<Finding>,
    /// How close the generator came to its own limits.
    pub headroom: Headroom,
    /// Sides of classes whose side depends on the run.
    pub(crate) sides: Vec<(ErrorClass, Side)>,
}

impl Verdict {
    /// The side to which most arrivals of a class are attributed. For arrivals that waited at a connection
    /// limit, the class alone does not determine the side.
    pub fn side_of(&self, class: ErrorClass) -> Side {
        let decided = self.sides.iter().find(|(decided, _)| *decided == class);
        decided.map_or(class.side(), |(_, side)| *side)
    }
}

/// A finished run, as input to the rules.
pub(crate) struct Case<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) facts: &'a RunFacts,
    pub(crate) total: &'a Snapshot,
    pub(crate) all: &'a Group,
    pub(crate) errors: &'a ErrorTimes,
}

impl Case<'_> {
    fn scheduled(&self) -> u64 {
        self.all.stats.requests.scheduled
    }

    fn count(&self, class: ErrorClass) -> u64 {
        self.all.stats.errors.get(class)
    }

    /// Whether the run had no complete answer at all, expected or not.
    fn nothing_answered(&self) -> bool {
        self.all.service_time.count() == 0
    }

    fn share(&self, n: u64) -> f64 {
        share_of(n, self.scheduled())
    }

    /// `12 of 5,000 requests (0.2 %)`, or `all 5,000 requests`.
    fn of_all(&self, n: u64) -> String {
        match (n, self.scheduled()) {
            (1, 1) => "the only request".into(),
            (n, all) if n == all => format!("all {} requests", grouped(all)),
            (n, all) => {
                format!(
                    "{} of {} ({})",
                    grouped(n),
                    counted(all, "request"),
                    percent(self.share(n))
                )
            }
        }
    }
}

/// Arrivals that starved at a connection limit, by cause.
#[derive(Clone)]
struct Blame {
    /// Because the limit was too low.
    limit: Starved,
    /// Because the target had slowed down.
    target: Starved,
}

impl Blame {
    fn sides(&self, case: &Case<'_>) -> Vec<(ErrorClass, Side)> {
        let side = |generator: bool| if generator { Side::Generator } else { Side::Target };
        let timed_out = case.count(ErrorClass::ResponseTimeout);
        vec![
            (ErrorClass::NoConnection, side(self.limit.unsent >= self.target.unsent)),
            (ErrorClass::ResponseTimeout, side(2 * self.limit.timed_out > timed_out)),
        ]
    }
}

/// A finding, with the share used for sorting.
#[derive(Clone)]
struct Found {
    id: FindingId,
    severity: Severity,
    side: Side,
    evidence: String,
    fix: String,
    /// `None`: the whole run.
    seconds: Option<Seconds>,
    /// The share of the arrivals concerned, 0 to 1.
    share: f64,
}

impl Found {
    /// Adds another finding of the same kind; keeps the evidence of the weightier one.
    fn absorb(&mut self, other: Found) {
        let seconds = match (self.seconds, other.seconds) {
            (Some(own), Some(other)) => Some(own.union(other)),
            _ => None,
        };
        if (other.severity, other.share) > (self.severity, self.share) {
            *self = other;
        }
        self.seconds = seconds;
    }
}

/// A second, as input to the rules.
#[derive(Clone)]
struct Second<'a> {
    snapshot: &'a Snapshot,
    seconds: Seconds,
    /// 99th percentile of latency by stream.
    latency: Vec<Option<Nanos>>,
    /// Whether the generator is likely to have sent or read late, so that service times may include its
    /// own delay.
    overloaded: bool,
    /// Whether service times are usable as the target's.
    representative: bool,
    /// The cause of late arrivals and answers, if there are any.
    cause: Option<LateCause>,
}

/// The sums of all rules.
#[derive(Clone)]
pub(crate) struct Rules {
    lag: Vec<LagRule>,
    read: ReadRule,
    causes: CauseRule,
    headroom: Headroom,
    tcp: TcpRule,
    origins: Vec<OriginRule>,
    /// `no_connection` errors not explained by any origin's limit.
    unexplained: u64,
    faults: FaultTimes,
}

impl Rules {
    pub(crate) fn new(plan: &Plan) -> Rules {
        let open = |stream: &usize| matches!(plan.streams[*stream].load, Load::Open { .. });
        Rules {
            lag: (0..plan.streams.len()).filter(open).map(LagRule::new).collect(),
            read: ReadRule::default(),
            causes: CauseRule::default(),
            headroom: Headroom::default(),
            tcp: TcpRule::default(),
            origins: OriginRule::all(plan),
            unexplained: 0,
            faults: FaultTimes::default(),
        }
    }

    /// Adds a second. Seconds of the warm-up count only for lag, because an arrival of the run proper may
    /// start in the last of them.
    pub(crate) fn add(&mut self, plan: &Plan, snapshot: &Snapshot, seconds: Seconds) {
        let latency = |stream: usize| {
            let mut latency = Histogram::new();
            for stats in &snapshot.stats[plan.streams[stream].targets.clone()] {
                latency.merge(&stats.latency_ok);
                latency.merge(&stats.latency_failed);
            }
            latency.quantile(0.99)
        };
        let latency = (0..plan.streams.len()).map(latency).collect();
        let mut second = Second {
            snapshot,
            seconds,
            latency,
            overloaded: false,
            representative: true,
            cause: None,
        };
        let lags = self.lag.iter().map(|rule| rule.worst(snapshot));
        let worst = lags.chain(snapshot.read_lag.max()).max();
        second.cause = cause::of(&second, worst.unwrap_or_default());
        let lateness = self.lag.iter_mut().map(|rule| rule.add(&second));
        let lag = lateness.fold(Lateness::default(), Lateness::or);
        if seconds.to <= plan.warmup {
            return;
        }
        self.faults.add(&snapshot.faults, seconds);
        self.tcp.add(&second);
        self.headroom.add(&second, plan.connections.sources.len() as u64);
        let late = lag.or(self.read.add(&second));
        self.causes.add(&second, second.cause.filter(|_| late.any));
        second.overloaded = late.overloaded;
        second.representative = !lag.overloaded && !self.read.was_late();
        let mut errors = Starved::of(snapshot);
        self.origins.iter_mut().for_each(|origin| origin.add(&second, &mut errors));
        self.unexplained += errors.unsent;
    }

    fn blame(&self, late: bool) -> Blame {
        // Errors that no origin explains are attributed to the connection limit.
        let limit = Starved { unsent: self.unexplained, timed_out: 0 };
        let mut blame = Blame { limit, target: Starved::default() };
        for [limit, target] in self.origins.iter().map(|origin| origin.starved(late)) {
            blame.limit.merge(limit);
            blame.target.merge(target);
        }
        blame
    }

    pub(crate) fn verdict(&self, case: &Case<'_>) -> Verdict {
        let lag = self.lag.iter().filter_map(|rule| rule.found(case));
        let late: Vec<_> = lag.chain(self.read.found(case)).collect();
        let mut found = self.causes.explain(case, late);
        if !found.iter().any(|found| found.id == FindingId::CpuSaturated) {
            found.extend(self.causes.saturated(case));
        }
        let late = found.iter().any(|found| found.severity == Severity::Invalid);
        let blame = self.blame(late);
        found.extend(self.origins.iter().flat_map(|origin| origin.found(case, late)));
        let own = errors::generator(case, &blame, &found);
        found.extend(own);
        found.extend(errors::network_and_target(case, &blame, &self.faults));
        found.extend(self.tcp.found(case));
        found.extend(remarks::redirects_not_followed(case));
        found.extend(remarks::messages(case));
        found.extend(remarks::forced(case));
        found.extend(remarks::samples_dropped(case));
        found.extend(remarks::cut_short(case));
        // Effects come after their causes.
        use FindingId::{LagHigh, PlanNotHeld, ReadLate};
        let is_effect = |found: &Found| matches!(found.id, LagHigh | ReadLate | PlanNotHeld);
        let by_weight = |a: &Found, b: &Found| {
            let weight = |found: &Found| (Reverse(found.severity), is_effect(found));
            weight(a).cmp(&weight(b)).then(b.share.total_cmp(&a.share))
        };
        found.sort_by(by_weight);
        if let Some(nothing) = errors::nothing_ok(case, &blame, &mut found) {
            // `nothing_ok` may have lowered severities.
            found.sort_by(by_weight);
            found.insert(0, nothing);
        }
        let valid = found.iter().all(|found| found.severity != Severity::Invalid);
        let limit = |found: &&Found| match found.severity {
            Severity::Invalid => true,
            Severity::Warning => valid && found.share > MATERIAL,
            Severity::Info => false,
        };
        let limited_by = found.iter().find(limit).map(|found| found.side);
        let findings = found.into_iter().map(|found| found.finding(case)).collect();
        Verdict { valid, limited_by, findings, headroom: self.headroom, sides: blame.sides(case) }
    }
}

impl Found {
    fn finding(self, case: &Case<'_>) -> Finding {
        let Found { id, severity, side, evidence, fix, seconds, .. } = self;
        let from = case.facts.warmup;
        let whole = Seconds { from, to: from + case.facts.duration };
        let Seconds { from, to } = seconds.unwrap_or(whole);
        Finding { id, severity, side, evidence, fix, from, to }
    }
}
