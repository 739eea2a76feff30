//! The instrument's own lateness: in sending (`lag_high`, by open stream) and in reading
//! (`read_late`).
//!
//! A delay counts when it is over 5 ms and over a tenth of the time that it is a part of, in the
//! same second. It is looked at arrival by arrival: where more than 1 % are affected, the 99th
//! percentile is the instrument's, unless they are fewer than five: then it may be chance. A closed
//! stream has no planned instants to be late for.

use super::{Case, Found, MATERIAL, NOTABLE, Second, allowed_delay, count_over, share_of};
use crate::objectives::percent;
use crate::seconds::Seconds;
use crate::summary::per_second;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{FindingId, Histogram, Nanos, Severity, Side};

/// Fewer late arrivals than this never make a run invalid: a pause of the host may hit any one.
const LATE_MIN: u64 = 5;
/// From fewer samples of read lag nothing is concluded, unless [`LATE_MIN`] are late.
const SAMPLES_MIN: u64 = 20;
/// A worker that is busy for a larger share of the time has too much to do; below it the host did not
/// let the worker run.
const BUSY: f64 = 0.8;

/// What was delayed.
#[derive(Default)]
struct Delayed {
    count: u64,
    seconds: Option<Seconds>,
    /// The smallest delay that counted.
    allowed: Option<Nanos>,
    worst: Nanos,
    /// How busy the busiest worker was in these seconds, 0 to 1, times what was delayed in each.
    busy: f64,
}

impl Delayed {
    fn add(&mut self, count: u64, allowed: Nanos, worst: Nanos, second: &Second<'_>) {
        if count > 0 {
            self.count += count;
            self.allowed = Some(self.allowed.map_or(allowed, |least| least.min(allowed)));
            self.worst = self.worst.max(worst);
            let busy = second.snapshot.workers.busy_max.0;
            self.busy += count as f64 * per_second(busy, second.seconds.len()) / 1e9;
            Seconds::widen(&mut self.seconds, second.seconds);
        }
    }

    /// Adds what was delayed in a sample that holds one in `one_in`.
    fn extrapolate(&mut self, sample: &Delayed, one_in: f64) {
        self.count += (sample.count as f64 * one_in).round() as u64;
        self.busy += sample.busy * one_in;
        self.allowed = [self.allowed, sample.allowed].into_iter().flatten().min();
        self.worst = self.worst.max(sample.worst);
        if let Some(seconds) = sample.seconds {
            Seconds::widen(&mut self.seconds, seconds);
        }
    }

    fn fix(&self) -> String {
        if self.busy > BUSY * self.count as f64 {
            "use more workers (--workers N) or lower the rate".into()
        } else {
            "this host kept the generator waiting: free its CPUs (or use another host) and repeat"
                .into()
        }
    }

    /// `seen` is the number of late arrivals that were seen, not extrapolated.
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

/// A few late arrivals have not limited a run, whatever share of it they are.
fn weighty(seen: u64, share: f64) -> f64 {
    if seen < LATE_MIN { share.min(MATERIAL) } else { share }
}

/// `lag_high` of one open stream.
pub(super) struct LagRule {
    stream: usize,
    late: Delayed,
    /// The 99th percentile of latency in the last second that had one.
    latency: Option<Nanos>,
}

impl LagRule {
    pub(super) fn new(stream: usize) -> LagRule {
        LagRule { stream, late: Delayed::default(), latency: None }
    }

    /// Adds a second; returns whether the generator was overloaded in it.
    pub(super) fn add(&mut self, second: &Second<'_>) -> bool {
        let lag = &second.snapshot.streams[self.stream].lag;
        self.latency = second.latency[self.stream].or(self.latency);
        let allowed = allowed_delay(self.latency);
        let worst = lag.max().unwrap_or_default();
        let late = count_over(lag, allowed);
        self.late.add(late, allowed, worst, second);
        late >= LATE_MIN && share_of(late, lag.count()) > MATERIAL
    }

    pub(super) fn found(&self, case: &Case<'_>) -> Option<Found> {
        let late = &self.late;
        let taken_up = case.total.streams[self.stream].lag.count();
        let share = share_of(late.count, taken_up);
        let of = match case.plan.streams.as_slice() {
            [_] => String::new(),
            streams => format!(" of stream {}", streams[self.stream].name),
        };
        Some(Found {
            id: FindingId::LagHigh,
            severity: late.severity(late.count, share),
            side: Side::Generator,
            evidence: format!(
                "{} of {} arrivals{of} ({}) were taken up more than {} late, the worst {}",
                grouped(late.count),
                grouped(taken_up),
                percent(share),
                late.allowed?,
                late.worst
            ),
            fix: late.fix(),
            seconds: late.seconds,
            share: weighty(late.count, share),
        })
    }
}

/// `read_late`, of all streams: read lag is measured by connection.
#[derive(Default)]
pub(super) struct ReadRule {
    late: Delayed,
    /// Late samples.
    seen: u64,
    service_time: Option<Nanos>,
    /// Seconds that have too few samples so far.
    pool: Pool,
    /// Whether samples were late the last time that there were enough.
    was_late: bool,
}

/// Samples of one or more seconds in a row.
#[derive(Default)]
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
    /// Read lag is measured on a sample of the answers; what it shows of the sample is taken to hold
    /// for all answers of the same second. Seconds with a handful of samples are taken together with
    /// the next.
    ///
    /// Returns whether the generator is likely to have been overloaded in the second.
    pub(super) fn add(&mut self, second: &Second<'_>) -> bool {
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
        // A second without a sample says nothing of its answers.
        self.pool.answers += if read_lag.count() > 0 { service_time.count() } else { 0 };
        self.pool.late.add(seen, allowed, read_lag.max().unwrap_or_default(), second);
        let is_late = self.pool.is_late() || self.was_late;
        if self.pool.is_enough() {
            let pool = std::mem::take(&mut self.pool);
            self.was_late = pool.is_late();
            self.seen += pool.late.count;
            self.late.extrapolate(&pool.late, share_of(pool.answers, pool.samples).max(1.0));
        }
        is_late
    }

    /// Whether samples were late the last time that there were enough.
    pub(super) fn was_late(&self) -> bool {
        self.was_late
    }

    pub(super) fn found(&self, case: &Case<'_>) -> Option<Found> {
        let late = &self.late;
        let answers = case.all.service_time.count();
        let share = share_of(late.count, answers).min(1.0);
        Some(Found {
            id: FindingId::ReadLate,
            severity: late.severity(self.seen, share),
            side: Side::Generator,
            evidence: format!(
                "about {} of the answers waited in the kernel for more than {} before the instrument read \
                 them, the longest for {}; service time includes this delay",
                percent(share),
                late.allowed?,
                late.worst
            ),
            fix: late.fix(),
            seconds: late.seconds,
            share: weighty(self.seen, share),
        })
    }
}
