//! The figures of reports, by name: text, JSON, CSV and HdrHistogram files take them from these tables.

use crate::activity::Rates;
use crate::summary::Group;
use plimsoll_measure::{Histogram, Nanos, Requests, Stats};

/// A figure of a histogram of times.
pub(crate) struct TimeStat {
    /// In JSON and CSV.
    pub(crate) name: &'static str,
    /// In the text report.
    pub(crate) label: &'static str,
    pub(crate) of: fn(&Histogram) -> Option<Nanos>,
}

/// All of them, in the order of the reports.
pub(crate) const TIME_STATS: [TimeStat; 8] = [
    TimeStat { name: "min", label: "min", of: Histogram::min },
    TimeStat { name: "mean", label: "mean", of: Histogram::mean },
    TimeStat { name: "p50", label: "p50", of: |histogram| histogram.quantile(0.5) },
    TimeStat { name: "p90", label: "p90", of: |histogram| histogram.quantile(0.9) },
    TimeStat { name: "p95", label: "p95", of: |histogram| histogram.quantile(0.95) },
    TimeStat { name: "p99", label: "p99", of: |histogram| histogram.quantile(0.99) },
    TimeStat { name: "p999", label: "p99.9", of: |histogram| histogram.quantile(0.999) },
    TimeStat { name: "max", label: "max", of: Histogram::max },
];

/// Arrivals by outcome.
pub(crate) fn counts(requests: &Requests) -> [(&'static str, u64); 5] {
    let Requests { scheduled, sent, unsent, ok, failed } = *requests;
    [("scheduled", scheduled), ("sent", sent), ("unsent", unsent), ("ok", ok), ("failed", failed)]
}

/// Rates per second.
pub(crate) fn rates(rates: Rates) -> [(&'static str, Option<f64>); 3] {
    let Rates { scheduled, sent, ok } = rates;
    [("scheduled", scheduled), ("sent", sent), ("ok", ok)]
}

/// A time that every group has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeFigure {
    /// Latency of every arrival.
    #[default]
    Latency,
    /// Latency of ok arrivals.
    LatencyOk,
    /// Service time of every complete answer.
    ServiceTime,
}

impl TimeFigure {
    /// All of them.
    pub const ALL: [TimeFigure; 3] =
        [TimeFigure::Latency, TimeFigure::LatencyOk, TimeFigure::ServiceTime];

    /// Its name in files and flags.
    pub fn name(self) -> &'static str {
        match self {
            TimeFigure::Latency => "latency",
            TimeFigure::LatencyOk => "latency_ok",
            TimeFigure::ServiceTime => "service_time",
        }
    }

    /// That of a group.
    pub fn of(self, group: &Group) -> &Histogram {
        match self {
            TimeFigure::Latency => &group.latency,
            TimeFigure::LatencyOk => &group.stats.latency_ok,
            TimeFigure::ServiceTime => &group.service_time,
        }
    }

    /// That of counts.
    pub(crate) fn of_stats(self, stats: &Stats) -> Histogram {
        match self {
            TimeFigure::Latency => stats.latency(),
            TimeFigure::LatencyOk => stats.latency_ok.clone(),
            TimeFigure::ServiceTime => stats.service_time(),
        }
    }
}
