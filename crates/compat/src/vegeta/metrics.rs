//! [`Metrics`]: the figures of vegeta's reports, by vegeta's definitions.

use super::{Buckets, Duration, Hit, Latencies, Timestamp};
use std::collections::{BTreeMap, HashSet};

/// Different error texts that are reported; further ones are counted.
pub const ERRORS_MAX: usize = 10_000;
/// Bytes of all error texts that are reported.
pub const ERRORS_BYTES_MAX: usize = 16 << 20;

/// The error of a result that vegeta's `attack -lazy` writes at the end of its targets.
const NO_TARGETS: &[u8] = b"no targets to attack";

/// What a report is computed from.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The number of results.
    pub requests: u64,
    /// Results with a status of 200 to 399.
    pub success: u64,
    /// Results without a status, because no response was received.
    pub unanswered: u64,
    /// Results that are not of requests: vegeta's `attack -lazy` writes some when it runs out of
    /// targets, with a status of 0.
    pub not_requests: u64,
    /// Sum, extremes and distribution of the latencies.
    pub latencies: Latencies,
    /// The sum of all latencies; wraps after 292 years, as vegeta's.
    pub latency_total: Duration,
    /// The smallest latency. As in vegeta, 0 counts as unset, so that it is replaced by the next one.
    pub latency_min: Duration,
    /// The largest latency.
    pub latency_max: Duration,
    /// Bytes of the bodies of requests; wraps.
    pub bytes_out: u64,
    /// Bytes of the bodies of responses; wraps.
    pub bytes_in: u64,
    /// The first timestamp.
    pub earliest: Timestamp,
    /// The last timestamp.
    pub latest: Timestamp,
    /// The end of the response that ended last.
    pub end: Timestamp,
    /// The number of results for each status, as text, so that they are sorted as vegeta sorts them.
    pub codes: BTreeMap<String, u64>,
    /// Different errors, in the order of their first results.
    pub errors: Vec<Vec<u8>>,
    /// Results with an error that is not in `errors`, because it would exceed [`ERRORS_MAX`] or
    /// [`ERRORS_BYTES_MAX`].
    pub errors_left_out: u64,
    /// Latencies by bucket, if requested.
    pub buckets: Option<Buckets>,
    known_errors: HashSet<Vec<u8>>,
    error_bytes: usize,
    /// The statuses up to 599, by number, until they are put into `codes`.
    by_code: Vec<u64>,
}

impl Metrics {
    /// Without results; `buckets` are counted if given.
    pub fn new(buckets: Option<Buckets>) -> Metrics {
        Metrics { buckets, ..Metrics::default() }
    }

    /// Adds a result.
    pub fn add(&mut self, hit: &Hit) {
        self.requests += 1;
        self.count_code(hit.code);
        self.success += u64::from(hit.is_success());
        self.unanswered += u64::from(hit.code == 0);
        self.not_requests += u64::from(hit.code == 0 && hit.error == NO_TARGETS);
        self.bytes_out = self.bytes_out.wrapping_add(hit.bytes_out);
        self.bytes_in = self.bytes_in.wrapping_add(hit.bytes_in);
        self.latencies.add(hit.latency);
        self.latency_total = Duration(self.latency_total.0.wrapping_add(hit.latency.0));
        self.latency_max = self.latency_max.max(hit.latency);
        if hit.latency < self.latency_min || self.latency_min == Duration(0) {
            self.latency_min = hit.latency;
        }
        if self.earliest.is_zero() || hit.timestamp < self.earliest {
            self.earliest = hit.timestamp;
        }
        if hit.timestamp > self.latest {
            self.latest = hit.timestamp;
        }
        self.end = self.end.max(hit.end());
        if !hit.error.is_empty() {
            self.add_error(&hit.error);
        }
        if let Some(buckets) = &mut self.buckets {
            buckets.add(hit.latency);
        }
    }

    fn count_code(&mut self, code: u16) {
        let code = usize::from(code);
        if code >= self.by_code.len() {
            self.by_code.resize(code + 1, 0);
        }
        self.by_code[code] += 1;
    }

    fn add_error(&mut self, error: &[u8]) {
        if self.known_errors.contains(error) {
            return;
        }
        if self.errors.len() == ERRORS_MAX || self.error_bytes + error.len() > ERRORS_BYTES_MAX {
            self.errors_left_out += 1;
            return;
        }
        self.error_bytes += error.len();
        self.known_errors.insert(error.to_vec());
        self.errors.push(error.to_vec());
    }

    /// Prepares for a report; repeated after further results.
    pub fn close(&mut self) {
        self.latencies.sort();
        let counted = self.by_code.iter().enumerate().filter(|(_, count)| **count > 0);
        self.codes = counted.map(|(code, count)| (code.to_string(), *count)).collect();
    }

    /// From the first timestamp to the last.
    pub fn duration(&self) -> Duration {
        self.latest.since(self.earliest)
    }

    /// From the last timestamp to the end of the last response.
    pub fn wait(&self) -> Duration {
        self.end.since(self.latest)
    }

    /// `duration` and `wait` together.
    pub fn total(&self) -> Duration {
        Duration(self.duration().0.wrapping_add(self.wait().0))
    }

    /// Results per second of `duration`; their number if it is zero.
    pub fn rate(&self) -> f64 {
        match self.duration().seconds() {
            secs if secs > 0.0 => self.requests as f64 / secs,
            _ => self.requests as f64,
        }
    }

    /// Successful results per second of `total`; their number if `duration` is zero.
    pub fn throughput(&self) -> f64 {
        if self.duration() > Duration(0) {
            self.success as f64 / self.total().seconds()
        } else {
            self.success as f64
        }
    }

    /// `sum` divided by the number of results; 0 without results.
    pub fn mean(&self, sum: f64) -> f64 {
        if self.requests == 0 { 0.0 } else { sum / self.requests as f64 }
    }
}
