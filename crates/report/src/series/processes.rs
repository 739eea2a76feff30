//! Figures of scraped processes over time: CPU and memory of any process, and what Plimsoll gateways count.
//!
//! A row keeps the counters' growth since the first scrape, so that its rates are exact over any number of
//! seconds, also over those whose scrape failed.

use plimsoll_measure::Scraped;
use plimsoll_plan::Scrape;

/// Lines of all processes at most. Further ones are counted.
const LINES_MAX: usize = 1024;

/// A figure, with a chart of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Figure {
    /// Its name in a page's data: `cpu`, or the name of a metric that the plan charts.
    pub(super) name: String,
    /// Whether the plan charts it.
    pub(super) is_own: bool,
    metric: String,
    /// The label by whose values it is shown.
    by: Option<String>,
    /// Whether its readings are growth; otherwise they are levels.
    pub(super) is_counter: bool,
}

/// Charted for every process: name, metric, label.
const FIGURES: [(&str, &str, Option<&str>); 6] = [
    ("cpu", "process_cpu_seconds_total", None),
    ("memory", "process_resident_memory_bytes", None),
    ("relays", "plimsoll_relays_total", Some("upstream")),
    ("cache", "plimsoll_calls_total", Some("cache")),
    ("database", "plimsoll_db_queries_total", None),
    ("redis", "plimsoll_redis_operations_total", None),
];

impl Figure {
    fn of(is_own: bool, name: &str, metric: &str, by: Option<&str>) -> Figure {
        // Prometheus's naming: counters, and the counts and sums of histograms and summaries.
        let ends = ["_total", "_count", "_sum", "_bucket"];
        Figure {
            name: name.into(),
            is_own,
            metric: metric.into(),
            by: by.map(String::from),
            is_counter: ends.iter().any(|end| metric.ends_with(end)),
        }
    }

    /// Those of a process.
    fn all(scrape: &Scrape) -> Vec<Figure> {
        let common = FIGURES.iter().map(|(name, metric, by)| Figure::of(false, name, metric, *by));
        let own = scrape
            .charts
            .iter()
            .map(|chart| Figure::of(true, &chart.to_string(), &chart.metric, chart.by.as_deref()));
        common.chain(own).collect()
    }

    /// Whether it is shown by the value of a label, summed over the processes of a group.
    pub(super) fn is_labelled(&self) -> bool {
        self.by.is_some()
    }

    /// The readings by the value of the label.
    fn read(&self, scraped: &Scraped) -> Vec<(String, f64)> {
        let sums = match (&self.by, self.is_counter) {
            (Some(label), true) => scraped.increase_by(&self.metric, label),
            (Some(label), false) => scraped.last_by(&self.metric, label),
            (None, counter) => {
                let sum = if counter {
                    scraped.increase(&self.metric)
                } else {
                    scraped.last(&self.metric)
                };
                return sum.map(|sum| (String::new(), sum)).into_iter().collect();
            }
        };
        sums.into_iter().filter(|(_, sum)| *sum != 0.0).collect()
    }
}

/// A line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// Index of the process in the plan.
    pub(super) process: usize,
    /// Its index among those of the process.
    figure: usize,
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
    /// By process of the plan.
    figures: Vec<Vec<Figure>>,
    /// The group of each process.
    groups: Vec<String>,
    pub(super) lines: Vec<Line>,
    /// Lines that were left out.
    pub(super) left_out: usize,
}

/// A line of a page's chart, and the lines that it sums, each with its process.
pub(super) struct Summed<'p> {
    pub(super) of: &'p Line,
    pub(super) lines: Vec<(usize, usize)>,
}

impl Processes {
    pub(super) fn new(scrapes: &[Scrape]) -> Processes {
        let figures = scrapes.iter().map(Figure::all).collect();
        let groups = scrapes.iter().map(|scrape| scrape.group.clone()).collect();
        Processes { figures, groups, lines: Vec::new(), left_out: 0 }
    }

    /// The lines of charts: those of a group with the same label are one.
    pub(super) fn summed(&self) -> Vec<Summed<'_>> {
        let mut all: Vec<Summed<'_>> = Vec::new();
        for (place, line) in self.lines.iter().enumerate() {
            let figure = self.figure(line);
            let same = |own: &&mut Summed<'_>| {
                let other = self.figure(own.of);
                (figure.is_labelled() && other.name == figure.name && other.is_own == figure.is_own)
                    && own.of.label == line.label
                    && self.groups[own.of.process] == self.groups[line.process]
            };
            match all.iter_mut().find(same) {
                Some(own) => own.lines.push((line.process, place)),
                None => all.push(Summed { of: line, lines: vec![(line.process, place)] }),
            }
        }
        all
    }

    /// What a line shows.
    pub(super) fn figure(&self, line: &Line) -> &Figure {
        &self.figures[line.process][line.figure]
    }

    /// The readings of each process, from the sums of all seconds so far.
    pub(super) fn read(&mut self, scraped: &[Scraped]) -> Vec<Readings> {
        let none = Scraped::default();
        self.left_out = 0;
        (0..self.figures.len())
            .map(|place| self.read_one(place, scraped.get(place).unwrap_or(&none)))
            .collect()
    }

    fn read_one(&mut self, process: usize, scraped: &Scraped) -> Readings {
        let mut values = Vec::new();
        for figure in 0..self.figures[process].len() {
            for (label, value) in self.figures[process][figure].read(scraped) {
                if let Some(line) = self.line(Line { process, figure, label }) {
                    values.push((line, value));
                }
            }
        }
        let span = scraped.between.map(|(from, to)| to.unix_ns.saturating_sub(from.unix_ns));
        Readings { pages: scraped.reads, at: span.unwrap_or_default() as f64 / 1e9, values }
    }

    /// The index of a line, which is new if it was not known.
    fn line(&mut self, line: Line) -> Option<usize> {
        if let Some(known) = self.lines.iter().position(|known| *known == line) {
            return Some(known);
        }
        if self.lines.len() >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines.push(line);
        Some(self.lines.len() - 1)
    }
}

impl Readings {
    /// Nothing was read.
    pub(super) const NONE: Readings = Readings { pages: 0, at: 0.0, values: Vec::new() };

    pub(super) fn value(&self, line: usize) -> Option<f64> {
        self.values.iter().find(|(own, _)| *own == line).map(|(_, value)| *value)
    }
}
