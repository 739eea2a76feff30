//! The instrument's own lateness: in sending (`lag_high`, by open stream) and in reading
//! (`read_late`).
//!
//! A delay counts when it is over 5 ms and over a tenth of the time that it is a part of, in the
//! same second. It is looked at arrival by arrival: where more than 1 % are affected, the 99th
//! percentile is the instrument's. A closed stream has no planned instants to be late for.

use super::{Case, Found, MATERIAL, NOTABLE, Second, allowed_delay, count_over, share_of};
use crate::objectives::percent;
use crate::seconds::Seconds;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{FindingId, Histogram, Nanos, Severity, Side};

/// What was delayed.
#[derive(Default)]
struct Delayed {
    count: u64,
    seconds: Option<Seconds>,
    /// The smallest delay that counted.
    allowed: Option<Nanos>,
    worst: Nanos,
}

impl Delayed {
    fn add(&mut self, count: u64, allowed: Nanos, worst: Nanos, second: Seconds) {
        if count > 0 {
            self.count += count;
            self.allowed = Some(self.allowed.map_or(allowed, |least| least.min(allowed)));
            self.worst = self.worst.max(worst);
            Seconds::widen(&mut self.seconds, second);
        }
    }

    fn severity(&self, share: f64) -> Severity {
        if share > MATERIAL {
            Severity::Invalid
        } else if share > NOTABLE {
            Severity::Warning
        } else {
            Severity::Info
        }
    }
}

/// `lag_high` of one open stream.
pub(super) struct LagRule {
    stream: usize,
    taken_up: u64,
    late: Delayed,
    /// The 99th percentile of latency in the last second that had one.
    latency: Option<Nanos>,
}

impl LagRule {
    pub(super) fn new(stream: usize) -> LagRule {
        LagRule { stream, taken_up: 0, late: Delayed::default(), latency: None }
    }

    pub(super) fn add(&mut self, second: &Second<'_>) {
        let lag = &second.snapshot.streams[self.stream].lag;
        self.latency = second.latency[self.stream].or(self.latency);
        self.taken_up += lag.count();
        let allowed = allowed_delay(self.latency);
        let worst = lag.max().unwrap_or_default();
        self.late.add(count_over(lag, allowed), allowed, worst, second.seconds);
    }

    pub(super) fn found(&self, case: &Case<'_>) -> Option<Found> {
        let late = &self.late;
        let share = share_of(late.count, self.taken_up);
        let of = match case.plan.streams.as_slice() {
            [_] => String::new(),
            streams => format!(" of stream {}", streams[self.stream].name),
        };
        Some(Found {
            id: FindingId::LagHigh,
            severity: late.severity(share),
            side: Side::Generator,
            evidence: format!(
                "{} of {} arrivals{of} ({}) were taken up more than {} late, the worst {}",
                grouped(late.count),
                grouped(self.taken_up),
                percent(share),
                late.allowed?,
                late.worst
            ),
            fix: "use more workers (--workers N) or a less busy host, or lower the rate".into(),
            seconds: late.seconds,
            share,
        })
    }
}

/// `read_late`, of all streams: read lag is measured by connection.
#[derive(Default)]
pub(super) struct ReadRule {
    answers: u64,
    late: Delayed,
    service_time: Option<Nanos>,
}

impl ReadRule {
    /// Read lag is measured on a sample of the answers; what it shows of the sample in a second is
    /// taken to hold for all answers of that second.
    pub(super) fn add(&mut self, second: &Second<'_>) {
        let read_lag = &second.snapshot.read_lag;
        let mut service_time = Histogram::new();
        for stats in &second.snapshot.stats {
            service_time.merge(&stats.service_time_ok);
            service_time.merge(&stats.service_time_failed);
        }
        self.service_time = service_time.quantile(0.99).or(self.service_time);
        self.answers += service_time.count();
        let allowed = allowed_delay(self.service_time);
        let late = count_over(read_lag, allowed);
        let answers_per_sample = share_of(service_time.count(), read_lag.count()).max(1.0);
        let late = (late as f64 * answers_per_sample).round() as u64;
        self.late.add(late, allowed, read_lag.max().unwrap_or_default(), second.seconds);
    }

    pub(super) fn found(&self, _: &Case<'_>) -> Option<Found> {
        let late = &self.late;
        let share = share_of(late.count, self.answers).min(1.0);
        Some(Found {
            id: FindingId::ReadLate,
            severity: late.severity(share),
            side: Side::Generator,
            evidence: format!(
                "about {} of the answers lay in the kernel for more than {} before they were read, \
                 the worst for {}: service time includes it",
                percent(share),
                late.allowed?,
                late.worst
            ),
            fix: "use more workers (--workers N) or a less busy host, or lower the rate".into(),
            seconds: late.seconds,
            share,
        })
    }
}
