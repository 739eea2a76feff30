//! The connection limit, by origin: too low for the plan, or reached because the target slowed down?
//!
//! # The rule
//! By Little's law `rate × service time` connections are in use on average. In each second in which
//! arrivals were held up at the limit:
//! - The target **slowed down** when this second's mean service time is above its own by more than
//!   chance and a quarter, or when it answered far less than connections in use would carry. Its own
//!   service time is that of exchanges begun below the limit, if possible in seconds in which nothing
//!   was held up.
//! - The limit is **too low** when it is below what the rate needs at the target's own service time;
//!   where the service time stayed flat, also when it leaves no room for chance (two standard
//!   deviations of a Poisson number: `needed + 2 √needed`). That is the limit that the fix names.
//! - Otherwise arrivals came in a **burst**. Seconds without a break between them belong together:
//!   what comes before or after a slow-down or a limit that is too low is its beginning or backlog.
//!
//! An arrival counts as held up when its exchange began at the limit after a wait that is not small
//! beside its stream's latency, or when the wait left too little time for an answer.

mod held_up;
mod service_time;

use super::{Case, Found, MATERIAL, NOTABLE, Second, allowed_delay, count_over, share_of};
use crate::objectives::percent;
use crate::summary::per_second;
pub(super) use held_up::Starved;
use held_up::{Cause, Evidence, HeldUp, Need};
use plimsoll_measure::units::grouped;
use plimsoll_measure::{ErrorClass, FindingId, Nanos, OriginCounts, Severity, Side};
use plimsoll_plan::{Load, Plan, Target};
use service_time::{ServiceTime, Shown};

/// A limit that misses what is needed by less than this is not called too low.
const TOLERANCE: f64 = 0.05;

/// The part that the users of a closed stream take in an origin.
struct ClosedShare {
    stream: usize,
    /// The part of their requests that goes there.
    part: f64,
    think_time: Nanos,
}

/// The rule for one origin.
pub(super) struct OriginRule {
    place: usize,
    name: String,
    /// The streams that send there.
    streams: Vec<usize>,
    closed: Vec<ClosedShare>,
    wanted: u64,
    service_time: ServiceTime,
    /// The rate in the last second in which anything was wanted.
    rate: f64,
    /// The cause so far, while arrivals are held up without a break.
    cause: Option<Cause>,
    held_up: [HeldUp; 3],
    /// What is held up in a burst of which more may be known in the next second.
    burst: HeldUp,
}

impl OriginRule {
    /// A rule for each origin of the plan.
    pub(super) fn all(plan: &Plan) -> Vec<OriginRule> {
        let origins = plan.origins();
        let names = plan.origin_names().into_iter().enumerate();
        let rule = |(place, name)| {
            // Where redirects lead is not in the plan: any target may go there.
            let part = |target: &Target| {
                let Some(origin) = origins.get(place) else { return 1.0 };
                let requests = &plan.requests[target.requests.clone()];
                let here = requests.iter().filter(|request| request.url.origin() == *origin);
                here.count() as f64 / requests.len() as f64
            };
            OriginRule::new(place, name, plan, &part)
        };
        names.map(rule).collect()
    }

    fn new(place: usize, name: String, plan: &Plan, part: &dyn Fn(&Target) -> f64) -> OriginRule {
        let targets = plan.targets.iter().enumerate();
        let targets: Vec<usize> =
            targets.filter(|(_, target)| part(target) > 0.0).map(|(place, _)| place).collect();
        let mut streams: Vec<usize> = targets.iter().map(|own| plan.targets[*own].stream).collect();
        streams.dedup();
        let share = |stream: &usize| {
            let Load::Closed { think_time, .. } = plan.streams[*stream].load else { return None };
            let all = &plan.targets[plan.streams[*stream].targets.clone()];
            let weight = |target: &Target| f64::from(target.weight);
            let here: f64 = all.iter().map(|target| weight(target) * part(target)).sum();
            let part = here / all.iter().map(weight).sum::<f64>();
            Some(ClosedShare { stream: *stream, part, think_time })
        };
        OriginRule {
            place,
            name,
            closed: streams.iter().filter_map(share).collect(),
            streams,
            wanted: 0,
            service_time: ServiceTime::new(targets),
            rate: 0.0,
            cause: None,
            held_up: Default::default(),
            burst: HeldUp::default(),
        }
    }

    /// Adds a second; takes those that starved here from the errors of the second.
    pub(super) fn add(&mut self, second: &Second<'_>, errors: &mut Starved) {
        let counts = &second.snapshot.origins[self.place];
        let first = self.wanted == 0;
        self.wanted += counts.wanted;
        let [unsent, timed_out] =
            [ErrorClass::NoConnection, ErrorClass::ResponseTimeout].map(|class| {
                let stats = self.service_time.stats(second);
                stats.map(|stats| stats.errors.get(class)).sum::<u64>()
            });
        self.service_time.learn(second, counts, timed_out + counts.starved > 0);
        if counts.wanted > 0 && second.seconds.len() > Nanos::ZERO {
            self.rate = per_second(counts.wanted, second.seconds.len());
        }
        let held_up_now =
            counts.capped > Nanos::ZERO || counts.starved > 0 || counts.service_capped.count > 0;
        if !held_up_now {
            self.service_time.learn_unhindered(second, counts);
            self.cause = None;
            self.held_up[Cause::Burst as usize].merge(std::mem::take(&mut self.burst));
            return;
        }
        let waited = self.streams.iter().map(|stream| {
            let wait = &second.snapshot.streams[*stream].wait;
            count_over(wait, allowed_delay(second.latency[*stream]))
        });
        let (arrivals, starved) = count_held_up(counts, unsent + timed_out, waited.sum());
        let shown = self.service_time.shown(second, counts, timed_out);
        let (cause, evidence) = self.cause_of(counts.limit, shown, first, second);
        let held_up = HeldUp {
            arrivals,
            starved: errors.take(starved),
            seconds: Some(second.seconds),
            worst: Some(evidence),
        };
        self.cause = Some(cause);
        self.burst.merge(held_up);
        if cause != Cause::Burst {
            self.held_up[cause as usize].merge(std::mem::take(&mut self.burst));
        }
    }

    fn cause_of(
        &self,
        limit: u64,
        shown: Shown,
        first: bool,
        second: &Second<'_>,
    ) -> (Cause, Evidence) {
        let Shown { own, risen, stood_still } = shown;
        let slowed = risen.is_some() || stood_still;
        let need = own.map(|own| self.need(own, second)).unwrap_or_default();
        let evidence = Evidence { limit, rate: self.rate, own, risen, stood_still, need };
        let limit = limit as f64;
        // While connections are being opened, and behind a slow-down, there is no room for chance.
        let too_low = if slowed || first || self.cause == Some(Cause::TargetSlowed) {
            limit < need.mean() * (1.0 - TOLERANCE)
        } else {
            limit < need.with_headroom()
        };
        let cause = if too_low {
            Cause::LimitTooLow
        } else if slowed {
            Cause::TargetSlowed
        } else {
            self.cause.unwrap_or(Cause::Burst)
        };
        (cause, evidence)
    }

    /// How many connections the plan needs in a second.
    fn need(&self, own: Nanos, second: &Second<'_>) -> Need {
        let users = self.closed.iter().map(|share| {
            let cycle = (own + share.think_time).as_secs_f64().max(1e-9);
            let users = second.snapshot.streams[share.stream].planned_rate;
            users * share.part * own.as_secs_f64() / cycle
        });
        Need { arrivals: self.rate * own.as_secs_f64(), users: users.sum() }
    }

    pub(super) fn found(&self, case: &Case<'_>) -> Vec<Found> {
        let found = Cause::ALL.into_iter().filter_map(|cause| {
            let held_up = self.held_up_for(cause);
            let worst = held_up.worst.filter(|_| held_up.arrivals > 0)?;
            Some(self.found_for(cause, &held_up, worst, case))
        });
        found.collect()
    }

    fn held_up_for(&self, cause: Cause) -> HeldUp {
        let mut held_up = self.held_up[cause as usize].clone();
        if cause == Cause::Burst {
            held_up.merge(self.burst.clone());
        }
        held_up
    }

    /// Arrivals that starved at this limit: because it is too low, and because the target had slowed
    /// down.
    pub(super) fn starved(&self) -> [Starved; 2] {
        let mut limit = self.held_up_for(Cause::LimitTooLow).starved;
        limit.merge(self.held_up_for(Cause::Burst).starved);
        [limit, self.held_up_for(Cause::TargetSlowed).starved]
    }

    fn found_for(&self, cause: Cause, held_up: &HeldUp, worst: Evidence, case: &Case<'_>) -> Found {
        let share = share_of(held_up.arrivals, self.wanted).min(1.0);
        let to = if case.plan.origins().len() > 1 {
            format!(" to {}", self.name)
        } else {
            String::new()
        };
        let limit = match worst.limit {
            1 => "the only connection".into(),
            limit => format!("one of {} connections", grouped(limit)),
        };
        let mut evidence = format!("{} of the requests{to} waited for {limit}", percent(share));
        let starved = held_up.starved.unsent + held_up.starved.timed_out;
        if starved > 0 {
            evidence += &format!(
                ", {} of them too long to be answered before the timeout",
                grouped(starved)
            );
        }
        evidence += &format!("; {}", worst.explain(cause));
        let severity = match cause {
            Cause::LimitTooLow if share > MATERIAL => Severity::Invalid,
            Cause::LimitTooLow | Cause::Burst if case.share(starved) > NOTABLE => Severity::Invalid,
            Cause::TargetSlowed => Severity::Warning,
            Cause::LimitTooLow if share > NOTABLE => Severity::Warning,
            Cause::Burst if share > MATERIAL => Severity::Warning,
            Cause::LimitTooLow | Cause::Burst => Severity::Info,
        };
        let (id, side, fix) = match cause {
            Cause::TargetSlowed => (
                FindingId::TargetSaturated,
                Side::Target,
                "lower the rate, or find out why the target slows down".into(),
            ),
            _ => (FindingId::ConnectionsCapped, Side::Generator, worst.fix()),
        };
        Found { id, severity, side, evidence, fix, seconds: held_up.seconds, share }
    }
}

/// How many arrivals were held up, and how many of these were starved.
///
/// Where answers take now this long, now that, also arrivals that were sent with some time left run
/// out of it because they had waited: of those that waited and were not answered, as many are starved
/// as timed out.
fn count_held_up(counts: &OriginCounts, timed_out: u64, waited: u64) -> (u64, u64) {
    let at_limit = counts.service_capped.count;
    let starved = waited.saturating_sub(at_limit).min(timed_out).max(counts.starved);
    ((at_limit + starved).min(waited.max(starved)), starved)
}
