//! Metrics scraped from other processes during a run.
//!
//! Like a snapshot, a [`Scraped`] covers a period of time: a single scrape is a period, and
//! [`Scraped::append`] adds the next. The sum over all snapshots is what the report needs, and
//! memory does not grow with the length of the run.
//!
//! # Counters
//! As in Prometheus, a counter that is smaller than before was reset by a restart of its process,
//! and has grown by its present value. A change of `process_start_time_seconds` also signals a
//! restart, because a busy counter may exceed its old value again within a second. A series that is
//! new on a page started at zero since the last one (a new label value), and one that disappears
//! was reset. What a process counted between the last scrape and its exit is lost.

use crate::WallClock;
use crate::prometheus::Series;
use std::collections::BTreeMap;

/// Maximum number of series kept per page. They are recorded every second: 256 take about 16 KB.
/// Further series are counted as left out.
pub const SERIES_MAX: usize = 256;
/// Maximum number of series in a sum of pages. Those that reports show may appear when the first page's
/// are already [`SERIES_MAX`].
const SUM_MAX: usize = 2 * SERIES_MAX;
/// A reported metric and its label by which reports do not distinguish: its series are added up, unless
/// the plan charts it, because there are more of them than may be kept.
const ADDED_UP: (&str, &str) = ("plimsoll_calls_total", "method");
/// Metrics that reports show. They have a series for each service, method and outcome, of which none may be
/// left out of a sum.
const REPORTED: [&str; 6] = [
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "plimsoll_relays_total",
    "plimsoll_calls_total",
    "plimsoll_db_queries_total",
    "plimsoll_redis_operations_total",
];
/// Maximum number of distinct failure reasons kept per process.
const REASONS_MAX: usize = 8;
/// Further reasons are counted under this one.
const OTHER_REASONS: &str = "other reasons";
const STARTED_AT: &str = "process_start_time_seconds";
/// Seconds by which a reported start time may vary without a restart: some libraries derive it from
/// the wall clock and the process's age, and the wall clock is adjusted.
const STARTED_AT_JITTER: f64 = 1.0;

/// One series over a period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Track {
    /// The value at the start of the period.
    pub first: f64,
    /// The value at the end of the period.
    pub last: f64,
    /// The largest value seen.
    pub max: f64,
    /// Growth, if it is a counter.
    pub increase: f64,
    /// Number of resets, if it is a counter.
    pub resets: u64,
}

impl Track {
    /// A single reading.
    pub fn of(value: f64) -> Track {
        Track { first: value, last: value, max: value, increase: 0.0, resets: 0 }
    }

    /// Adds the next period; `restarted`: the process was restarted in between.
    fn append(&mut self, next: &Track, restarted: bool) {
        // A counter at zero cannot be reset, and its growth is the same either way.
        let back = next.first < self.last || restarted && self.last > 0.0;
        self.increase += if back { next.first } else { next.first - self.last } + next.increase;
        self.resets += u64::from(back) + next.resets;
        self.max = self.max.max(next.max);
        self.last = next.last;
    }

    /// The track of a series that was missing from the previous page.
    fn began(&self) -> Track {
        Track { first: 0.0, increase: self.increase + self.first, ..*self }
    }

    /// Records that the series is missing from the next page.
    fn end(&mut self) {
        self.append(&Track { max: self.max, ..Track::of(0.0) }, false);
    }
}

/// The metrics of one process over a period.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scraped {
    /// Number of pages read.
    pub reads: u64,
    /// Failed scrapes by reason.
    pub failures: BTreeMap<String, u64>,
    /// When the first and the last page were read.
    pub between: Option<(WallClock, WallClock)>,
    /// The series of the pages.
    pub series: BTreeMap<Series, Track>,
    /// The largest number of series that were left out of a page.
    pub left_out: u64,
}

impl Scraped {
    /// A page that was read. If there are too many series, those of `wanted` metrics and those that reports
    /// show are kept first, then those of processes and gateways, and histogram buckets last.
    pub fn page(at: WallClock, mut samples: Vec<(Series, f64)>, wanted: &[&str]) -> Scraped {
        let rank = |series: &Series| match series.name.as_str() {
            name if wanted.contains(&name) || REPORTED.contains(&name) => 0,
            name if name.ends_with("_bucket") => 3,
            name if name.starts_with("process_") || name.starts_with("plimsoll_") => 1,
            _ => 2,
        };
        if !wanted.contains(&ADDED_UP.0) {
            samples = add_up(samples);
        }
        samples.sort_by_cached_key(|(series, _)| rank(series));
        let left_out = samples.len().saturating_sub(SERIES_MAX) as u64;
        samples.truncate(SERIES_MAX);
        let series = samples.into_iter().map(|(series, value)| (series, Track::of(value)));
        Scraped {
            reads: 1,
            between: Some((at, at)),
            series: series.collect(),
            left_out,
            ..Scraped::default()
        }
    }

    /// A failed scrape.
    pub fn failure(why: impl Into<String>) -> Scraped {
        Scraped { failures: BTreeMap::from([(why.into(), 1)]), ..Scraped::default() }
    }

    /// Number of failed scrapes.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Adds the next period.
    pub fn append(&mut self, next: &Scraped) {
        for (why, n) in &next.failures {
            let known = self.failures.len() < REASONS_MAX || self.failures.contains_key(why);
            let why = if known { why } else { OTHER_REASONS };
            *self.failures.entry(why.into()).or_default() += n;
        }
        if next.reads > 0 {
            let restarted = self.is_restarted_before(next);
            for (series, track) in &mut self.series {
                match next.series.get(series) {
                    Some(next) => track.append(next, restarted),
                    None => track.end(),
                }
            }
            for (series, track) in &next.series {
                if self.series.contains_key(series) {
                    continue;
                }
                if self.series.len() >= SUM_MAX {
                    self.left_out += 1;
                    continue;
                }
                let track = if self.reads > 0 { track.began() } else { *track };
                self.series.insert(series.clone(), track);
            }
        }
        self.reads += next.reads;
        self.left_out = self.left_out.max(next.left_out);
        self.between = match (self.between, next.between) {
            (Some((from, _)), Some((_, to))) => Some((from, to)),
            (one, other) => one.or(other),
        };
    }

    fn is_restarted_before(&self, next: &Scraped) -> bool {
        let before = self.named(STARTED_AT).next().map_or(0.0, |(_, track)| track.last);
        let after = next.named(STARTED_AT).next().map_or(0.0, |(_, track)| track.first);
        // Zero means unknown.
        before > 0.0 && after > before + STARTED_AT_JITTER
    }

    /// The total growth of the counters with this name; `None` if there are none.
    pub fn increase(&self, name: &str) -> Option<f64> {
        self.named(name).map(|(_, track)| track.increase).reduce(|a, b| a + b)
    }

    /// The growth of the counters with this name, grouped by the value of a label.
    pub fn increase_by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        self.sums_by(name, label, |track| track.increase)
    }

    fn sums_by(&self, name: &str, label: &str, of: fn(&Track) -> f64) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (series, track) in self.named(name) {
            if let Some(value) = series.label(label) {
                *sums.entry(value.to_string()).or_insert(0.0) += of(track);
            }
        }
        sums
    }

    /// The largest value seen under this name.
    pub fn max(&self, name: &str) -> Option<f64> {
        self.named(name).map(|(_, track)| track.max).reduce(f64::max)
    }

    /// The sum of the last values under this name.
    pub fn last(&self, name: &str) -> Option<f64> {
        self.named(name).map(|(_, track)| track.last).reduce(|a, b| a + b)
    }

    /// The sums of the last values under this name, by the value of a label.
    pub fn last_by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        self.sums_by(name, label, |track| track.last)
    }

    /// The number of resets of the counters with this name.
    pub fn resets(&self, name: &str) -> u64 {
        self.named(name).map(|(_, track)| track.resets).max().unwrap_or(0)
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Series, &'a Track)> {
        self.series.iter().filter(move |(series, _)| series.name == name)
    }
}

/// Adds up the series of [`ADDED_UP`].
fn add_up(samples: Vec<(Series, f64)>) -> Vec<(Series, f64)> {
    let (mut kept, mut sums) = (Vec::with_capacity(samples.len()), BTreeMap::new());
    for (mut series, value) in samples {
        if series.name == ADDED_UP.0 {
            series.labels.retain(|(label, _)| label != ADDED_UP.1);
            *sums.entry(series).or_insert(0.0) += value;
        } else {
            kept.push((series, value));
        }
    }
    kept.extend(sums);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prometheus::parse;
    use proptest::prelude::*;

    /// One page per second; `-` is a failed scrape.
    fn pages(pages: &[&str]) -> Vec<Scraped> {
        let page = |(second, page): (u64, &&str)| match *page {
            "-" => Scraped::failure("refused"),
            page => {
                let at = WallClock { unix_ns: second * 1_000_000_000 };
                Scraped::page(at, parse(&page.replace(';', "\n")).unwrap(), &[])
            }
        };
        (1..).zip(pages).map(page).collect()
    }

    fn sum(parts: &[Scraped]) -> Scraped {
        let mut sum = Scraped::default();
        parts.iter().for_each(|part| sum.append(part));
        sum
    }

    #[test]
    fn counters_grow_across_restarts_and_gaps() {
        let check = |texts: &[&str], increase: Option<f64>, resets: u64| {
            let sum = sum(&pages(texts));
            assert_eq!((sum.increase("a"), sum.resets("a")), (increase, resets), "{texts:?}");
        };
        check(&[], None, 0);
        check(&["a 5"], Some(0.0), 0);
        check(&["a 5", "a 7", "a 7", "a 10"], Some(5.0), 0);
        check(&["a 5", "-", "-", "a 10"], Some(5.0), 0);
        // A restart: 3 before it, 2 and 4 after it.
        check(&["a 5", "a 8", "a 2", "a 6"], Some(9.0), 1);
        check(&["a 5", "a 8", "-", "b 1", "a 2"], Some(5.0), 1);
        // A restart after which the counter exceeds its old value within a second.
        let page = |a: u64, started: f64| format!("a {a};process_start_time_seconds {started}");
        check(&[&page(5, 9.0), &page(8, 90.0)], Some(8.0), 1);
        check(&[&page(5, 9.0), &page(8, 9.1)], Some(3.0), 0);
        // A label value that appears during the run started at zero; one present from the start did
        // not.
        check(&["b 1", "a 3", "a 4"], Some(4.0), 0);
        check(&["-", "a 3", "a 4"], Some(1.0), 0);
        check(&["a{x=\"1\"} 1;a{x=\"2\"} 2", "a{x=\"1\"} 2;a{x=\"2\"} 4"], Some(3.0), 0);
    }

    #[test]
    fn sums_and_maxima_by_name_and_label() {
        let page = "a{x=\"1\",y=\"1\"} 1;a{x=\"1\",y=\"2\"} 1;a{x=\"2\"} 5;m 7";
        let sum = sum(&pages(&["m 9", page, "-", "m 8"]));
        assert_eq!((sum.reads, sum.failed(), sum.max("m"), sum.max("n")), (3, 1, Some(9.0), None));
        assert_eq!(sum.increase_by("a", "x"), [("1".into(), 2.0), ("2".into(), 5.0)].into());
        let at = |secs: u64| WallClock { unix_ns: secs * 1_000_000_000 };
        assert_eq!(sum.between, Some((at(1), at(4))));
    }

    #[test]
    fn kept_series_are_limited_and_ranked() {
        let mut samples: Vec<_> = (0..SERIES_MAX)
            .flat_map(|i| parse(&format!("b_bucket{{i=\"{i}\"}} 1\na{i} 1")).unwrap())
            .collect();
        samples.extend(parse("process_cpu_seconds_total 1\nplimsoll_relays_total 2").unwrap());
        let page = Scraped::page(WallClock { unix_ns: 0 }, samples, &[]);
        assert_eq!((page.series.len(), page.left_out), (SERIES_MAX, SERIES_MAX as u64 + 2));
        assert!(page.max("process_cpu_seconds_total").is_some() && page.max("a0").is_some());
        let mut whys = Scraped::default();
        (0..20).for_each(|i| whys.append(&Scraped::failure(format!("why {i}"))));
        assert_eq!((whys.failures.len(), whys.failed()), (REASONS_MAX + 1, 20));
    }

    #[test]
    fn reported_series_are_kept_although_they_appear_late() {
        let others = |n: usize| (0..n).map(|i| format!("a{i} 1;")).collect::<String>();
        let calls = |n: usize| -> String {
            let method = |i| format!("plimsoll_calls_total{{cache=\"hit\",method=\"{i}\"}} {n};");
            (0..300).map(method).collect()
        };
        let first = others(SERIES_MAX);
        let sum = sum(&pages(&[&first, &(calls(1) + &first), &(calls(3) + &first)]));
        assert_eq!(sum.increase("plimsoll_calls_total"), Some(900.0));
        assert_eq!(
            sum.increase_by("plimsoll_calls_total", "cache"),
            [("hit".into(), 900.0)].into()
        );
        let samples = parse(&calls(1).replace(';', "\n")).unwrap();
        let page = Scraped::page(WallClock { unix_ns: 0 }, samples, &["plimsoll_calls_total"]);
        assert_eq!(page.series.len(), SERIES_MAX, "a chart may be by method");
    }

    proptest! {
        #[test]
        fn summing_is_associative(
            values in proptest::collection::vec(
                proptest::option::of(proptest::array::uniform3(proptest::option::of(0u32..9))),
                1..12,
            ),
            cut in 0usize..12,
        ) {
            let texts: Vec<String> = values
                .iter()
                .map(|page| match page {
                    None => "-".into(),
                    Some(values) => ["a", "b", STARTED_AT]
                        .iter()
                        .zip(values)
                        .filter_map(|(name, value)| value.map(|value| format!("{name} {value};")))
                        .collect(),
                })
                .collect();
            let parts = pages(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let (left, right) = parts.split_at(cut.min(parts.len()));
            let mut halves = sum(left);
            halves.append(&sum(right));
            prop_assert_eq!(halves, sum(&parts));
        }
    }
}
