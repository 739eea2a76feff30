//! What the records of single requests add to a narrowed report, checked against the seconds.
//!
//! The file of records has no checksum of its own, and a record can be missing. Whatever the seconds count too
//! must agree with them, or nothing of the records is shown: the requests of the part, by second and target,
//! and over the whole run the lags and waits of each stream, the HTTP statuses and the JSON-RPC codes. The run
//! may have counts without a record (of requests that were in flight when it was killed), but no record may be
//! without its count.

use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{
    Histogram, Nanos, RpcCounts, Sample, Snapshot, Stats, StatusCounts, rng::Key,
};
use std::collections::BTreeMap;

/// What the records of single requests add to the snapshots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// Lag of every arrival.
    pub lag: Histogram,
    /// Wait of every arrival.
    pub wait: Histogram,
    /// Complete answers by HTTP status.
    pub status: StatusCounts,
    /// Requests with a JSON-RPC error, each counted once, by its first code.
    pub rpc: RpcCounts,
}

impl Details {
    /// Adds an arrival.
    fn add(&mut self, sample: &Sample) {
        self.lag.record(sample.lag);
        self.wait.record(sample.wait);
        sample.kind.status.into_iter().for_each(|status| self.status.count(status));
        sample.kind.rpc_code.into_iter().for_each(|code| self.rpc.add_error(code, 1));
    }

    /// Adds other counts.
    pub(crate) fn merge(&mut self, other: &Details) {
        self.lag.merge(&other.lag);
        self.wait.merge(&other.wait);
        self.status.merge(&other.status);
        self.rpc.merge(&other.rpc);
    }
}

/// Requests by second and target, without a table of both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Places {
    requests: u64,
    /// The sum of a hash of each request's second and target.
    print: u64,
}

impl Places {
    fn add(&mut self, second: Nanos, target: usize, requests: u64) {
        let hash = Key::new(second.0).with(target as u64).bits();
        self.requests += requests;
        self.print = self.print.wrapping_add(hash.wrapping_mul(requests));
    }
}

/// Sums of the same requests, from seconds or from records.
#[derive(Clone, Debug, Default)]
struct Sums {
    /// Of the part.
    places: Places,
    /// By stream, of the run.
    streams: Vec<(Histogram, Histogram)>,
    /// By code, of the run.
    codes: BTreeMap<i64, u64>,
    /// Of the run.
    status: StatusCounts,
}

/// The records of a run, and what its seconds count of them.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    details: Details,
    recorded: Sums,
    counted: Sums,
    /// Errors that are not counted by code.
    codes_other: u64,
    given: bool,
}

impl Records {
    pub(crate) fn new(streams: usize) -> Records {
        let sums = Sums { streams: vec![Default::default(); streams], ..Sums::default() };
        let (recorded, counted) = (sums.clone(), sums);
        Records { details: Details::default(), recorded, counted, codes_other: 0, given: false }
    }

    /// Adds the counts of a second; `holds`: whether a target is in the part.
    pub(crate) fn count(&mut self, second: &Snapshot, holds: impl Fn(usize) -> bool) {
        let own = &mut self.counted;
        let requests = |stats: &Stats| stats.requests.scheduled;
        for (target, stats) in second.stats.iter().enumerate() {
            if requests(stats) > 0 && holds(target) {
                own.places.add(second.t, target, requests(stats));
            }
        }
        for ((lag, wait), counts) in own.streams.iter_mut().zip(&second.streams) {
            lag.merge(&counts.lag);
            wait.merge(&counts.wait);
        }
        own.status.merge(&second.status);
        for (code, n) in &second.rpc.codes {
            *own.codes.entry(*code).or_default() += n;
        }
        self.codes_other += second.rpc.codes_other;
    }

    /// Adds the record of an arrival that was counted in the second that ended at `second`; `held`: whether it
    /// is in the part.
    pub(crate) fn add(&mut self, second: Nanos, stream: usize, sample: &Sample, held: bool) {
        self.given = true;
        let own = &mut self.recorded;
        let (lag, wait) = &mut own.streams[stream];
        lag.record(sample.lag);
        wait.record(sample.wait);
        sample.kind.status.into_iter().for_each(|status| own.status.count(status));
        if let Some(code) = sample.kind.rpc_code {
            *own.codes.entry(code).or_default() += 1;
        }
        if held {
            own.places.add(second, sample.kind.target as usize, 1);
            self.details.add(sample);
        }
    }

    /// What the records add; `None` if there are none.
    ///
    /// # Errors
    /// Why they cannot be used, as a sentence without its full stop.
    pub(crate) fn details(self) -> Result<Option<Details>, String> {
        if !self.given {
            return Ok(None);
        }
        let (recorded, counted) = (&self.recorded, &self.counted);
        let (here, all) = (recorded.places.requests, counted.places.requests);
        if here < all {
            let (here, all) = (grouped(here), counted_requests(all));
            return Err(format!("only {here} of {all} in the selection have a record"));
        }
        let differs = |what: &str| {
            Err(format!(
                "the records differ from the seconds in {what}: one of the files was changed"
            ))
        };
        if recorded.places != counted.places {
            return differs("the requests by second and target");
        }
        let streams = || recorded.streams.iter().zip(&counted.streams);
        if !streams().all(|((lag, _), (of, _))| is_within(lag, of)) {
            return differs("lag");
        }
        if !streams().all(|((_, wait), (_, of))| is_within(wait, of)) {
            return differs("wait");
        }
        if recorded.status.iter().any(|(status, n)| n > counted.status.get(status)) {
            return differs("HTTP statuses");
        }
        let known = |code: &i64| counted.codes.get(code).copied().unwrap_or(0);
        if recorded.codes.iter().any(|(code, n)| *n > known(code) + self.codes_other) {
            return differs("JSON-RPC codes");
        }
        Ok(Some(self.details))
    }
}

fn counted_requests(n: u64) -> String {
    counted(n, "request")
}

/// Whether each bucket has at most as many values as in the other.
fn is_within(part: &Histogram, of: &Histogram) -> bool {
    let mut of = of.buckets();
    part.buckets().all(|(value, n)| {
        let same = of.find(|(other, _)| *other >= value);
        same.is_some_and(|(other, all)| other == value && n <= all)
    })
}
