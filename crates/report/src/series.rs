//! A run over time: at most [`ROWS_MAX`] rows of equal length, for charts.
//!
//! A row begins as a second. When the series is full, each two neighbours become one, as in the
//! [`Timeline`](crate::Timeline), so that its memory does not grow with the length of the run and no second
//! is left out. Percentiles of a longer row are those of its merged histograms, not means of percentiles.
//!
//! # Layout
//! - `columns`: rows as columns of JSON, for a page
//! - `processes`: figures of scraped processes
//! - `shortened`: the series as a short table

mod columns;
mod processes;
mod shortened;

use crate::seconds::Seconds;
use crate::timeline::Span;
use plimsoll_measure::{
    ErrorClass, Histogram, Nanos, Requests, Scraped, Snapshot, Stats, StreamCounts,
};
use plimsoll_plan::{Load, Plan};
use processes::{Processes, Readings};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Rows at most, an even number: one for each second of a run of 40 minutes, then one for every two.
const ROWS_MAX: usize = 2_400;
/// The shortest row that has rates.
const RATE_MIN: Nanos = Nanos::from_millis(500);
/// Cells of a heat map in each power of two.
const CELLS: u32 = 4;

/// Counts of a row, without times.
#[derive(Clone, Debug)]
struct Counts {
    seconds: Seconds,
    /// Planned arrivals per second of the streams with a rate; `None` in the warm-up.
    planned: Option<f64>,
    /// Users of the other streams.
    users: f64,
    /// Arrivals dispatched.
    dispatched: u64,
    /// Arrivals that ended; in the warm-up, its own.
    requests: Requests,
    errors: BTreeMap<ErrorClass, u64>,
    in_flight: u64,
    connected: u64,
    /// Counts of messages, by [`MESSAGES`]; `None` if nothing stays open.
    messages: Option<[u64; MESSAGES.len()]>,
    host: Option<Span>,
    processes: Vec<Readings>,
    /// Matching lines, by log and pattern.
    logs: Vec<Vec<u64>>,
}

/// The counts of messages that a row has, by their names as columns.
const MESSAGES: [&str; 5] = ["messages", "missing", "repeated", "reordered", "silences"];

impl Counts {
    /// `n` arrivals as a rate per second. The last row of a run may last only the few milliseconds until the
    /// last answers; it has no rate unless it is the only row.
    fn per_second(&self, n: u64, is_first: bool) -> Option<f64> {
        let len = self.seconds.len();
        let is_long = len >= RATE_MIN || is_first && len > Nanos::ZERO;
        is_long.then(|| n as f64 / len.as_secs_f64())
    }

    fn append(&mut self, next: &Counts) {
        let weight = |own: &Counts| own.seconds.len().as_secs_f64();
        let (own, new) = (weight(self), weight(next));
        let share = if own + new > 0.0 { own / (own + new) } else { 0.5 };
        self.planned = match (self.planned, next.planned) {
            (Some(own), Some(next)) => Some(own * share + next * (1.0 - share)),
            (own, next) => own.or(next),
        };
        self.users = self.users.max(next.users);
        self.seconds = self.seconds.union(next.seconds);
        self.dispatched += next.dispatched;
        self.requests.merge(&next.requests);
        next.errors.iter().for_each(|(class, n)| *self.errors.entry(*class).or_default() += n);
        self.in_flight = self.in_flight.max(next.in_flight);
        self.connected = self.connected.max(next.connected);
        self.messages = match (self.messages, next.messages) {
            (Some(own), Some(next)) => Some(std::array::from_fn(|place| own[place] + next[place])),
            (own, next) => own.or(next),
        };
        match (&mut self.host, &next.host) {
            (Some(own), Some(next)) => own.append(next),
            (own, next) => *own = own.take().or(next.clone()),
        }
        self.processes.clone_from(&next.processes);
        for (own, next) in self.logs.iter_mut().zip(&next.logs) {
            own.iter_mut().zip(next).for_each(|(own, n)| *own += n);
        }
    }
}

/// The share of a second in which a stream planned arrivals.
fn planned_share(stream: &StreamCounts, seconds: Seconds) -> f64 {
    let Some(window) = stream.active else { return 0.0 };
    let planned = window.planned_to.min(seconds.to) - window.from.max(seconds.from);
    planned.as_secs_f64() / seconds.len().as_secs_f64()
}

/// The times of a row.
#[derive(Clone, Debug, Default)]
struct Times {
    /// Of every arrival that ended.
    latency: Histogram,
    /// Of every complete answer.
    service_time: Histogram,
    lag: Histogram,
    wait: Histogram,
    /// Lag of messages.
    message_lag: Histogram,
}

impl Times {
    /// Those of a second, whose total is `stats`.
    fn of(second: &Snapshot, stats: &Stats) -> Times {
        let (latency, service_time) = (stats.latency(), stats.service_time());
        let message_lag = stats.messages.as_ref().map(|own| own.lag.clone()).unwrap_or_default();
        Times { latency, service_time, lag: second.lag(), wait: second.wait(), message_lag }
    }

    fn all(&mut self) -> [&mut Histogram; 5] {
        let Times { latency, service_time, lag, wait, message_lag } = self;
        [latency, service_time, lag, wait, message_lag]
    }

    fn merge(&mut self, mut next: Times) {
        for (own, next) in self.all().into_iter().zip(next.all()) {
            own.merge(next);
        }
    }

    fn pack(mut self) -> Packed {
        let figures = Figures::of(&self);
        Packed { figures, histograms: self.all().map(|own| own.encode().into()) }
    }
}

/// Figures of a row's times.
#[derive(Clone, Debug)]
struct Figures {
    /// p50, p90, p99, p99.9 and the maximum.
    latency: [Option<Nanos>; 5],
    /// p50, p90, p99, p99.9 and the maximum.
    service_time: [Option<Nanos>; 5],
    /// The 99th percentile.
    lag: Option<Nanos>,
    /// The 99th percentile.
    wait: Option<Nanos>,
    /// p50 and p99 of the lag of messages.
    message_lag: [Option<Nanos>; 2],
    /// Latencies by cell of the heat map.
    heat: Vec<(u32, u64)>,
}

impl Figures {
    fn of(times: &Times) -> Figures {
        let quantiles =
            |of: &Histogram| [0.5, 0.9, 0.99, 0.999, 1.0].map(|quantile| of.quantile(quantile));
        let mut heat: Vec<(u32, u64)> = Vec::new();
        for (value, n) in times.latency.buckets() {
            let cell = cell_of(value);
            match heat.last_mut().filter(|(last, _)| *last == cell) {
                Some((_, own)) => *own += n,
                None => heat.push((cell, n)),
            }
        }
        Figures {
            latency: quantiles(&times.latency),
            service_time: quantiles(&times.service_time),
            lag: times.lag.quantile(0.99),
            wait: times.wait.quantile(0.99),
            message_lag: [0.5, 0.99].map(|quantile| times.message_lag.quantile(quantile)),
            heat,
        }
    }
}

/// The cell of a latency: [`CELLS`] in each power of two nanoseconds, equally wide within it.
fn cell_of(value: Nanos) -> u32 {
    let value = value.0.max(u64::from(CELLS));
    let power = value.ilog2();
    let within = (value >> (power - CELLS.ilog2())) as u32 & (CELLS - 1);
    power * CELLS + within
}

/// The times of a finished row: its figures, and its histograms, small, for the case that two rows become
/// one.
#[derive(Clone, Debug)]
struct Packed {
    figures: Figures,
    histograms: [Box<[u8]>; 5],
}

impl Packed {
    fn unpack(&self) -> Times {
        let mut times = Times::default();
        for (own, packed) in times.all().into_iter().zip(&self.histograms) {
            *own = Histogram::decode(packed).expect("it was encoded here");
        }
        times
    }
}

/// Figures of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recent {
    /// The middle of the row, in seconds since the end of the warm-up.
    pub at: f64,
    /// Planned arrivals per second, of streams with a rate; `None` in the warm-up.
    pub planned: Option<f64>,
    /// Requests per second that were sent and whose outcome became known.
    pub sent: f64,
    /// Arrivals per second that failed or were not sent.
    pub failed: f64,
    /// The median latency; `None` if no arrival ended.
    pub p50: Option<Nanos>,
    /// The 99th percentile of latency.
    pub p99: Option<Nanos>,
}

fn recent(counts: &Counts, figures: &Figures, start: Nanos) -> Recent {
    let (seconds, requests) = (counts.seconds, &counts.requests);
    let per_second = |n: u64| n as f64 / seconds.len().as_secs_f64().max(f64::MIN_POSITIVE);
    Recent {
        at: seconds.middle().as_secs_f64() - start.as_secs_f64(),
        planned: counts.planned,
        sent: per_second(requests.sent),
        failed: per_second(requests.failed + requests.unsent),
        p50: figures.latency[0],
        p99: figures.latency[2],
    }
}

/// A run over time.
#[derive(Clone, Debug)]
pub struct TimeSeries {
    rows: Vec<(Counts, Packed)>,
    /// The last row, which may be shorter, with its number of seconds.
    last: Option<(Counts, Times, usize)>,
    /// Seconds in each row.
    width: usize,
    rows_max: usize,
    /// By stream: whether it has a rate.
    open: Vec<bool>,
    warmup: Nanos,
    processes: Processes,
    /// The patterns of each log.
    patterns: Vec<Vec<String>>,
}

impl TimeSeries {
    /// No rows yet.
    pub(crate) fn new(plan: &Plan) -> TimeSeries {
        let open = plan.streams.iter().map(|stream| matches!(stream.load, Load::Open { .. }));
        TimeSeries {
            rows: Vec::new(),
            last: None,
            width: 1,
            rows_max: ROWS_MAX,
            open: open.collect(),
            warmup: plan.warmup,
            processes: Processes::new(&plan.scrapes),
            patterns: plan
                .logs
                .iter()
                .map(|log| log.patterns.iter().map(|own| own.text.clone()).collect())
                .collect(),
        }
    }

    /// Adds the next second. `scraped` are the sums of all seconds so far, including this one; `host` is
    /// that of the second.
    pub(crate) fn add(
        &mut self,
        second: &Snapshot,
        seconds: Seconds,
        host: Option<Span>,
        scraped: &[Scraped],
    ) {
        if seconds.len() == Nanos::ZERO {
            return;
        }
        let planned = |open: bool| -> f64 {
            let own = second.streams.iter().zip(&self.open).filter(|(_, own)| **own == open);
            own.map(|(stream, _)| stream.planned_rate * planned_share(stream, seconds)).sum()
        };
        let stats = second.total();
        let mut requests = stats.requests;
        let is_warmup = seconds.middle() < self.warmup;
        // Late answers of the warm-up are no results of the run.
        if is_warmup {
            requests.merge(&second.warmup);
        }
        let counts = Counts {
            seconds,
            planned: (!is_warmup).then(|| planned(true)),
            users: planned(false),
            dispatched: second.streams.iter().map(|stream| stream.dispatched).sum(),
            requests,
            errors: stats.errors.iter().collect(),
            in_flight: second.in_flight,
            connected: second.connections.open,
            messages: stats
                .messages
                .as_ref()
                .map(|own| [own.received, own.gaps, own.duplicates, own.reordered, own.silences]),
            host,
            processes: self.processes.read(scraped),
            logs: self.lines_of(second),
        };
        let times = Times::of(second, &stats);
        match &mut self.last {
            Some((own, own_times, number)) if *number < self.width => {
                own.append(&counts);
                own_times.merge(times);
                *number += 1;
            }
            _ => {
                self.close();
                if self.rows.len() >= self.rows_max {
                    self.halve();
                }
                self.last = Some((counts, times, 1));
            }
        }
    }

    /// Matching lines of a second.
    fn lines_of(&self, second: &Snapshot) -> Vec<Vec<u64>> {
        let lines = |(place, patterns): (usize, &Vec<String>)| -> Vec<u64> {
            let matched = second.logs.get(place).map_or(&[][..], |own| &own.matched[..]);
            (0..patterns.len()).map(|own| matched.get(own).map_or(0, |own| own.lines)).collect()
        };
        self.patterns.iter().enumerate().map(lines).collect()
    }

    /// Packs the last row.
    fn close(&mut self) {
        if let Some((counts, times, _)) = self.last.take() {
            self.rows.push((counts, times.pack()));
        }
    }

    /// Makes each two neighbours one.
    fn halve(&mut self) {
        let pairs = self.rows.chunks(2).map(|pair| {
            let (mut counts, mut times) = (pair[0].0.clone(), pair[0].1.unpack());
            for (next, packed) in &pair[1..] {
                counts.append(next);
                times.merge(packed.unpack());
            }
            (counts, times.pack())
        });
        self.rows = pairs.collect();
        self.width *= 2;
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len() + usize::from(self.last.is_some())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last `most` rows. Times are counted from `start`.
    pub fn recent(&self, most: usize, start: Nanos) -> Vec<Recent> {
        let rows = self.figures().skip(self.len().saturating_sub(most));
        rows.map(|(counts, figures)| recent(counts, &figures, start)).collect()
    }

    /// Each row with the figures of its times.
    fn figures(&self) -> impl Iterator<Item = (&Counts, Cow<'_, Figures>)> {
        let closed =
            self.rows.iter().map(|(counts, packed)| (counts, Cow::Borrowed(&packed.figures)));
        let open = self.last.iter();
        closed.chain(open.map(|(counts, times, _)| (counts, Cow::Owned(Figures::of(times)))))
    }

    /// Seconds in each row; it doubles when the series is full, and all rows change.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows that will not change unless the width does.
    pub fn complete(&self) -> usize {
        let is_open = self.last.as_ref().is_some_and(|(_, _, number)| *number < self.width);
        self.len() - usize::from(is_open)
    }
}

#[cfg(test)]
mod tests;
