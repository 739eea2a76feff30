//! The generator's own lateness: in sending (`lag_high`, by open stream) and in reading (`read_late`).
//!
//! A delay counts if it is over 5 ms and over a tenth of the time that contains it, in the same second.
//! If more than 1 % of arrivals are affected, the 99th percentile reflects the generator; fewer than five
//! late arrivals may be chance. Closed streams have no planned instants and cannot be late.

use super::cause::{CAUSES, LateCause};
use super::{Case, Found, MATERIAL, NOTABLE, Second, allowed_delay, count_over, share_of};
use crate::objectives::percent;
use crate::seconds::Seconds;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{FindingId, Histogram, Nanos, Severity, Side, Snapshot};

/// Fewer late arrivals than this never make a run invalid: a pause of the host may hit a few.
const LATE_MIN: u64 = 5;
/// Fewer samples of read lag than this are inconclusive, unless [`LATE_MIN`] are late.
const SAMPLES_MIN: u64 = 20;

/// Late arrivals or answers.
#[derive(Clone, Default)]
struct Delayed {
    count: u64,
    seconds: Option<Seconds>,
    /// The smallest delay that counted.
    allowed: Option<Nanos>,
    worst: Nanos,
    /// The number delayed by the cause of their second's lateness.
    causes: [f64; CAUSES],
}

impl Delayed {
    fn add(&mut self, count: u64, allowed: Nanos, worst: Nanos, second: &Second<'_>) {
        if count > 0 {
            self.count += count;
            self.allowed = Some(self.allowed.map_or(allowed, |least| least.min(allowed)));
            self.worst = self.worst.max(worst);
            if let Some(cause) = second.cause {
                self.causes[cause as usize] += count as f64;
            }
            Seconds::widen(&mut self.seconds, second.seconds);
        }
    }

    /// Adds the delays of a sample that contains one in `one_in`.
    fn extrapolate(&mut self, sample: &Delayed, one_in: f64) {
        self.count += (sample.count as f64 * one_in).round() as u64;
        self.causes.iter_mut().zip(sample.causes).for_each(|(own, n)| *own += n * one_in);
        self.allowed = [self.allowed, sample.allowed].into_iter().flatten().min();
        self.worst = self.worst.max(sample.worst);
        if let Some(seconds) = sample.seconds {
            Seconds::widen(&mut self.seconds, seconds);
        }
    }

    fn cause(&self) -> Option<LateCause> {
        LateCause::main(&self.causes)
    }

    fn fix(&self, case: &Case<'_>) -> String {
        match self.cause() {
            Some(cause) => cause.fix(case),
            None => format!("stop other programs on this host, or {}", case.more_cpu()),
        }
    }

    /// `seen` is the observed number of late arrivals, not extrapolated.
    fn severity(&self, seen: u64, share: f64) -> Severity {
        if share > MATERIAL && seen >= LATE_MIN {
            Severity::Invalid
        } else if share > NOTABLE {
            Severity::Warning
        } else {
            Severity::Info
        }
    }
}

/// The share used for weighting: fewer than [`LATE_MIN`] late arrivals never count as limiting a run.
fn limiting_share(seen: u64, share: f64) -> f64 {
    if seen < LATE_MIN { share.min(MATERIAL) } else { share }
}

/// Lateness in one second.
#[derive(Clone, Copy, Default)]
pub(super) struct Lateness {
    /// Something was late.
    pub(super) any: bool,
    /// Enough was late for service times to include the generator's delay.
    pub(super) overloaded: bool,
}

impl Lateness {
    pub(super) fn or(self, other: Lateness) -> Lateness {
        Lateness { any: self.any || other.any, overloaded: self.overloaded || other.overloaded }
    }
}

/// `lag_high` of one open stream.
#[derive(Clone)]
pub(super) struct LagRule {
    stream: usize,
    late: Delayed,
    /// 99th percentile of latency in the last second that had one.
    latency: Option<Nanos>,
}

impl LagRule {
    pub(super) fn new(stream: usize) -> LagRule {
        LagRule { stream, late: Delayed::default(), latency: None }
    }

    /// The longest lag in a second.
    pub(super) fn worst(&self, snapshot: &Snapshot) -> Nanos {
        snapshot.streams[self.stream].lag.max().unwrap_or_default()
    }

    /// Adds a second; returns whether arrivals were late in it.
    pub(super) fn add(&mut self, second: &Second<'_>) -> Lateness {
        let lag = &second.snapshot.streams[self.stream].lag;
        self.latency = second.latency[self.stream].or(self.latency);
        let allowed = allowed_delay(self.latency);
        let worst = lag.max().unwrap_or_default();
        let late = count_over(lag, allowed);
        self.late.add(late, allowed, worst, second);
        let overloaded = late >= LATE_MIN && share_of(late, lag.count()) > MATERIAL;
        Lateness { any: late > 0, overloaded }
    }

    /// The finding, and its cause.
    pub(super) fn found(&self, case: &Case<'_>) -> Option<(Found, Option<LateCause>)> {
        let late = &self.late;
        let started = case.total.streams[self.stream].lag.count();
        let share = share_of(late.count, started);
        let of = match case.plan.streams.as_slice() {
            [_] => String::new(),
            streams => format!(" of stream {}", streams[self.stream].name),
        };
        let was = if late.count == 1 { "was" } else { "were" };
        let found = Found {
            id: FindingId::LagHigh,
            severity: late.severity(late.count, share),
            side: Side::Generator,
            evidence: format!(
                "{} of {} requests{of} ({}) {was} started more than {} late, the worst by {}",
                grouped(late.count),
                grouped(started),
                percent(share),
                late.allowed?,
                late.worst
            ),
            fix: late.fix(case),
            seconds: late.seconds,
            share: limiting_share(late.count, share),
        };
        Some((found, late.cause()))
    }
}

/// `read_late`, over all streams: read lag is measured by connection.
#[derive(Clone, Default)]
pub(super) struct ReadRule {
    late: Delayed,
    /// Number of late samples.
    seen: u64,
    service_time: Option<Nanos>,
    /// Seconds that still have too few samples.
    pool: Pool,
    /// Whether the last complete pool was late.
    was_late: bool,
}

/// Samples of one or more consecutive seconds.
#[derive(Clone, Default)]
struct Pool {
    samples: u64,
    answers: u64,
    late: Delayed,
}

impl Pool {
    fn is_enough(&self) -> bool {
        self.samples >= SAMPLES_MIN || self.late.count >= LATE_MIN
    }

    fn is_late(&self) -> bool {
        share_of(self.late.count, self.samples) > MATERIAL
    }
}

impl ReadRule {
    /// Adds a second. Read lag is measured on a sample of the answers and extrapolated to all answers of the
    /// same second. Seconds with too few samples are combined with the next.
    ///
    /// Returns whether answers were read late, and whether the generator is likely to have been overloaded in
    /// the second.
    pub(super) fn add(&mut self, second: &Second<'_>) -> Lateness {
        let read_lag = &second.snapshot.read_lag;
        let mut service_time = Histogram::new();
        for stats in &second.snapshot.stats {
            service_time.merge(&stats.service_time_ok);
            service_time.merge(&stats.service_time_failed);
        }
        self.service_time = service_time.quantile(0.99).or(self.service_time);
        let allowed = allowed_delay(self.service_time);
        let seen = count_over(read_lag, allowed);
        self.pool.samples += read_lag.count();
        // A second without samples is not extrapolated.
        self.pool.answers += if read_lag.count() > 0 { service_time.count() } else { 0 };
        self.pool.late.add(seen, allowed, read_lag.max().unwrap_or_default(), second);
        let overloaded = self.pool.is_late() || self.was_late;
        if self.pool.is_enough() {
            let pool = std::mem::take(&mut self.pool);
            self.was_late = pool.is_late();
            self.seen += pool.late.count;
            self.late.extrapolate(&pool.late, share_of(pool.answers, pool.samples).max(1.0));
        }
        Lateness { any: seen > 0, overloaded }
    }

    /// Whether the last complete pool of samples was late.
    pub(super) fn was_late(&self) -> bool {
        self.was_late
    }

    /// The finding, and its cause.
    pub(super) fn found(&self, case: &Case<'_>) -> Option<(Found, Option<LateCause>)> {
        let late = &self.late;
        let answers = case.all.service_time.count();
        let share = share_of(late.count, answers).min(1.0);
        let found = Found {
            id: FindingId::ReadLate,
            severity: late.severity(self.seen, share),
            side: Side::Generator,
            evidence: format!(
                "about {} of the answers waited in the kernel for more than {} before the generator read \
                 them, the longest for {}; service times include this delay",
                percent(share),
                late.allowed?,
                late.worst
            ),
            fix: late.fix(case),
            seconds: late.seconds,
            share: limiting_share(self.seen, share),
        };
        Some((found, late.cause()))
    }
}
