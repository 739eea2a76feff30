//! The series as few rows of text.

use super::{Counts, TimeSeries, Times};
use crate::narrow::Scope;
use crate::text::{rate, shown};
use plimsoll_measure::{Histogram, Nanos};

/// A row as text.
pub(crate) struct ShortRow {
    /// When: `3s–5s`.
    pub(crate) name: String,
    /// Arrivals that failed or were not sent.
    pub(crate) failed: u64,
    /// Arrivals answered as expected.
    pub(crate) ok: u64,
    /// Planned, sent, ok, failed and unsent per second; p50, p99 and maximum of latency; p99 of service time.
    pub(crate) cells: [String; 9],
}

impl TimeSeries {
    /// The series in at most `most` rows of equal length. Times are counted from `start`.
    pub(crate) fn shortened(&self, most: usize, scope: Scope, start: Nanos) -> Vec<ShortRow> {
        let open = self.last.as_ref().map(|(counts, times, _)| (counts, times.clone()));
        let closed = self.rows.iter().map(|(counts, packed)| (counts, packed.unpack()));
        let each = self.len().div_ceil(most.max(1));
        let mut rows: Vec<(Counts, Times, usize)> = Vec::new();
        for (counts, times) in closed.chain(open) {
            match rows.last_mut().filter(|(_, _, number)| *number < each) {
                Some((own, own_times, number)) => {
                    own.append(counts);
                    own_times.merge(times);
                    *number += 1;
                }
                None => rows.push((counts.clone(), times, 1)),
            }
        }
        let known = scope != Scope::Targets && self.open.contains(&true);
        let rows = rows.iter().enumerate();
        rows.map(|(place, (counts, times, _))| {
            let known = known && counts.seconds.to > start;
            short(counts, times, known, place == 0, start)
        })
        .collect()
    }
}

/// `planned`: whether the rate is known; that of the warm-up is not.
fn short(counts: &Counts, times: &Times, planned: bool, is_first: bool, start: Nanos) -> ShortRow {
    let (seconds, requests) = (counts.seconds, &counts.requests);
    let per_second = |n: u64| rate(counts.per_second(n, is_first));
    let at = |histogram: &Histogram, q| shown(histogram.quantile(q));
    let name = match seconds.to <= start {
        true => format!("warm-up {seconds}"),
        false => seconds.since(start).to_string(),
    };
    ShortRow {
        name,
        failed: requests.failed + requests.unsent,
        ok: requests.ok,
        cells: [
            rate(counts.planned.filter(|_| planned)),
            per_second(requests.sent),
            per_second(requests.ok),
            per_second(requests.failed),
            per_second(requests.unsent),
            at(&times.latency, 0.5),
            at(&times.latency, 0.99),
            at(&times.latency, 1.0),
            at(&times.service_time, 0.99),
        ],
    }
}
