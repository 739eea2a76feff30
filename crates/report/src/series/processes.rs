//! Figures of scraped processes over time: CPU and memory of any process, and what Plimsoll gateways count.
//!
//! A row keeps the counters' growth since the first scrape, so that its rates are exact over any number of
//! seconds, also over those whose scrape failed.

use plimsoll_measure::Scraped;

/// Lines of all processes at most. Further ones are counted.
const LINES_MAX: usize = 96;

/// A kind of figure, each with a chart of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metric {
    Cpu,
    Memory,
    Relays,
    Cache,
    Database,
    Redis,
}

impl Metric {
    const COUNTERS: [(Metric, &'static str, Option<&'static str>); 5] = [
        (Metric::Cpu, "process_cpu_seconds_total", None),
        (Metric::Relays, "plimsoll_relays_total", Some("upstream")),
        (Metric::Cache, "plimsoll_calls_total", Some("cache")),
        (Metric::Database, "plimsoll_db_queries_total", None),
        (Metric::Redis, "plimsoll_redis_operations_total", None),
    ];
    const MEMORY: &'static str = "process_resident_memory_bytes";

    /// Its name in a page's data.
    pub(super) fn name(self) -> &'static str {
        match self {
            Metric::Cpu => "cpu",
            Metric::Memory => "memory",
            Metric::Relays => "relays",
            Metric::Cache => "cache",
            Metric::Database => "database",
            Metric::Redis => "redis",
        }
    }

    /// Whether its readings are growth; otherwise they are levels.
    pub(super) fn is_counter(self) -> bool {
        self != Metric::Memory
    }
}

/// A line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// Index of the process in the plan.
    pub(super) process: usize,
    pub(super) metric: Metric,
    /// The value of the metric's label, such as an upstream.
    pub(super) label: String,
}

/// What was known of a process at the end of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Readings {
    /// Pages read until then.
    pub(super) pages: u64,
    /// When the last page was read, in seconds since the first one.
    pub(super) at: f64,
    /// By line (of all processes): growth since the first page, or the level.
    pub(super) values: Vec<(usize, f64)>,
}

/// The lines of a run.
#[derive(Clone, Debug)]
pub(super) struct Processes {
    processes: usize,
    pub(super) lines: Vec<Line>,
    /// Lines that were left out.
    pub(super) left_out: usize,
}

impl Processes {
    pub(super) fn new(processes: usize) -> Processes {
        Processes { processes, lines: Vec::new(), left_out: 0 }
    }

    /// The readings of each process, from the sums of all seconds so far.
    pub(super) fn read(&mut self, scraped: &[Scraped]) -> Vec<Readings> {
        let none = Scraped::default();
        self.left_out = 0;
        (0..self.processes)
            .map(|place| self.read_one(place, scraped.get(place).unwrap_or(&none)))
            .collect()
    }

    fn read_one(&mut self, process: usize, scraped: &Scraped) -> Readings {
        let mut values = Vec::new();
        let mut add = |metric: Metric, label: &str, value: f64| {
            if let Some(line) = self.line(process, metric, label) {
                values.push((line, value));
            }
        };
        for (metric, name, label) in Metric::COUNTERS {
            match label {
                None => scraped.increase(name).into_iter().for_each(|n| add(metric, "", n)),
                Some(label) => scraped
                    .increase_by(name, label)
                    .iter()
                    .filter(|(_, n)| **n > 0.0)
                    .for_each(|(value, n)| add(metric, value, *n)),
            }
        }
        if let Some(level) = scraped.last(Metric::MEMORY) {
            add(Metric::Memory, "", level);
        }
        let span = scraped.between.map(|(from, to)| to.unix_ns.saturating_sub(from.unix_ns));
        Readings { pages: scraped.reads, at: span.unwrap_or_default() as f64 / 1e9, values }
    }

    /// The index of a line, which is new if it was not known.
    fn line(&mut self, process: usize, metric: Metric, label: &str) -> Option<usize> {
        let same = |line: &Line| {
            (line.process, line.metric, line.label.as_str()) == (process, metric, label)
        };
        if let Some(known) = self.lines.iter().position(same) {
            return Some(known);
        }
        if self.lines.len() >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines.push(Line { process, metric, label: label.into() });
        Some(self.lines.len() - 1)
    }
}

impl Readings {
    pub(super) fn value(&self, line: usize) -> Option<f64> {
        self.values.iter().find(|(own, _)| *own == line).map(|(_, value)| *value)
    }
}
