//! The text report: the verdict first, then objectives, then figures, each list with its worst rows first.
//!
//! In a terminal it aims at 40 lines of 100 columns, or 50 lines if other processes are shown, and cuts
//! lists to get there, but never below three rows, and never missed objectives. On a narrower terminal, the same rows take more lines:
//! text wraps (`page`), and tables drop the least important columns (`table`, in the order given by each
//! [`Shape`]). In a pipe or a file nothing is cut.
//!
//! Names and messages come from files and peers; `page` and `table` escape what would control a terminal
//! (`width`).

mod agents;
mod cost;
mod failures;
pub(crate) mod groups;
mod host;
mod logs;
mod messages;
mod page;
mod part;
mod scrapes;
mod table;
#[cfg(test)]
mod tests;
mod width;

use crate::figures::TIME_STATS;
use crate::objectives::percent;
use crate::summary::Summary;
use crate::tone::Tone;
pub(crate) use failures::examples;
pub use page::Line;
use page::{Page, toned};
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{
    Finding, FindingId, Histogram, Nanos, Severity, Side, Snapshot, Usage, WallClock,
};
use table::{Column, Shape};
pub(crate) use table::{Notes, Row, Table};
pub use width::clean;
pub(crate) use width::is_unsafe;

const LINES_MAX: usize = 40;
/// Additional lines if other processes are shown: a heading, five instances and their group.
const SCRAPE_LINES: usize = 10;
/// Additional lines if logs were followed: a heading, two logs with two patterns and their examples.
const LOG_LINES: usize = 12;
/// Additional lines if there are prices: a heading, five rows with their parts, and the projection.
const COST_LINES: usize = 20;
/// Tables are unreadable below the lower bound; lines are hard to read above the upper bound.
const COLUMNS: std::ops::RangeInclusive<usize> = 50..=100;
/// Maximum number of lines of a table's note; longer notes are cut.
const NOTE_LINES_MAX: usize = 4;
/// The last answer is mentioned if it came more than this after the last planned arrival.
const LATE_ANSWER: Nanos = Nanos::from_millis(100);
/// Candidates for the maximum number of rows per list, from generous to tight.
const ROWS: [usize; 5] = [8, 6, 5, 4, 3];

const REQUESTS: Shape = Shape {
    name: 11,
    columns: &[Column::figures("", 12), Column::figures("", 16)],
    leaving: &[],
    notes: Notes::Beside(""),
};

const TIMES: Shape = Shape {
    name: 13,
    columns: &[
        Column::figures(TIME_STATS[0].label, 9),
        Column::figures(TIME_STATS[1].label, 9),
        Column::figures(TIME_STATS[2].label, 9),
        Column::figures(TIME_STATS[3].label, 9),
        Column::figures(TIME_STATS[4].label, 9),
        Column::figures(TIME_STATS[5].label, 9),
        Column::figures(TIME_STATS[6].label, 9),
        Column::figures(TIME_STATS[7].label, 9),
    ],
    leaving: &["p95", "p90", "min", "p99.9", "mean"],
    notes: Notes::Beneath,
};

/// How much of its lists a report shows.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// Maximum number of rows per list; `usize::MAX`: all.
    rows: usize,
    /// Whether the remaining rows are in `summary.json`.
    kept: bool,
}

impl Extent {
    /// Nothing is left out.
    pub(crate) const WHOLE: Extent = Extent { rows: usize::MAX, kept: false };

    /// Whether nothing is left out.
    fn is_whole(self) -> bool {
        self.rows == usize::MAX
    }

    /// Maximum number of findings.
    fn findings(self) -> usize {
        if self.rows == usize::MAX { self.rows } else { self.rows.min(3) }
    }

    /// At least this many rows.
    fn at_least(self, rows: usize) -> Extent {
        Extent { rows: self.rows.max(rows), ..self }
    }

    /// The line that counts rows not shown, if any. `of` names one of them, or several.
    fn more(self, all: usize, of: [&str; 2]) -> Option<String> {
        let more = all.saturating_sub(self.rows);
        let of = of[usize::from(more != 1)];
        let rest = if self.kept { " in summary.json" } else { "; pipe the report to see all" };
        (more > 0).then(|| format!("… {more} more{of}{rest}"))
    }
}

impl Summary {
    /// The report as text, 50 to 100 columns wide. `run_dir` contains the remaining figures.
    /// `columns` is `usize::MAX` for a pipe or a file; then nothing is left out. `color` adds ANSI escape
    /// sequences.
    pub fn to_text(&self, run_dir: Option<&str>, columns: usize, color: bool) -> String {
        let kept = run_dir.is_some();
        if columns == usize::MAX {
            let all = Extent { kept, ..Extent::WHOLE };
            return self.page(all, run_dir, Page::new(*COLUMNS.end(), usize::MAX)).finish(color);
        }
        let lines = |shown: bool, lines: usize| if shown { lines } else { 0 };
        let more = lines(!self.scrapes.processes.is_empty(), SCRAPE_LINES)
            + lines(!self.logs.logs.is_empty(), LOG_LINES)
            + lines(self.cost.is_some(), COST_LINES);
        let widest = *COLUMNS.end();
        let fits = |rows: usize, note_lines: usize| {
            let extent = Extent { rows, kept };
            let page = self.page(extent, run_dir, Page::new(widest, note_lines));
            page.lines() <= LINES_MAX + more
        };
        // Every terminal width gets the same rows. Notes are cut before rows are dropped.
        let rows = ROWS.into_iter().find(|rows| fits(*rows, 1)).unwrap_or(3);
        let columns = columns.clamp(*COLUMNS.start(), widest);
        let whole = |note_lines: &usize| columns < widest || fits(rows, *note_lines);
        let note_lines = (2..=NOTE_LINES_MAX).rev().find(whole).unwrap_or(1);
        self.page(Extent { rows, kept }, run_dir, Page::new(columns, note_lines)).finish(color)
    }

    /// The report as lines of 50 to 100 columns, with nothing left out, for a view that scrolls.
    pub fn to_lines(&self, columns: usize) -> Vec<Line> {
        let columns = columns.clamp(*COLUMNS.start(), *COLUMNS.end());
        self.page(Extent::WHOLE, None, Page::new(columns, NOTE_LINES_MAX)).into_lines()
    }

    fn page(&self, extent: Extent, run_dir: Option<&str>, mut page: Page) -> Page {
        self.write_part(&mut page);
        self.write_runs(&mut page);
        self.write_agents(&mut page);
        self.write_verdict(extent, &mut page);
        self.write_run(&mut page);
        self.write_objectives(extent, &mut page);
        if !self.objectives.is_empty() {
            page.gap();
        }
        page.table(&self.requests_table());
        page.tables([self.times_table()]);
        page.tables(self.message_tables(extent));
        self.write_groups(extent, &mut page);
        page.tables(self.split_tables(extent));
        // The list of errors is shortened last.
        let errors = Extent { rows: extent.rows.saturating_add(2), ..extent };
        self.write_errors(errors, &mut page);
        page.tables(self.status_table(extent));
        self.write_scrapes(extent, &mut page);
        self.write_logs(extent, &mut page);
        self.write_cost(extent, &mut page);
        page.tables(self.host_table(extent));
        self.write_end(extent, run_dir, &mut page);
        page
    }

    /// A banner if the run is invalid or no request succeeded.
    fn write_verdict(&self, extent: Extent, page: &mut Page) {
        let first: Vec<_> =
            self.verdict.findings.iter().filter(|finding| comes_first(finding)).collect();
        if first.is_empty() {
            return;
        }
        page.rule();
        let (nothing, others): (Vec<&Finding>, Vec<&Finding>) =
            first.into_iter().partition(|finding| finding.id == FindingId::NothingOk);
        for finding in &nothing {
            page.text(toned(Tone::Bad, "NO REQUEST SUCCEEDED: "), &finding.evidence);
        }
        if !self.verdict.valid {
            let distorted = self.distorted();
            page.text(toned(Tone::Bad, "INVALID: "), &distorted);
        }
        if others.is_empty() {
            let mut fixes: Vec<&str> = nothing.iter().map(|finding| &*finding.fix).collect();
            fixes.dedup();
            fixes.iter().for_each(|fix| page.text("    fix: ", fix));
        }
        self.write_findings(others.into_iter().take(extent.rows.max(3)), page);
        page.rule();
    }

    /// What ran, and for how long.
    fn write_run(&self, page: &mut Page) {
        let facts = &self.facts;
        page.text(toned(Tone::Strong, &format!("{}: ", self.name)), &self.load);
        let warm = match self.whole().map_or(0, |whole| whole.warmup.scheduled) {
            0 => String::new(),
            n if self.stopped_in_warmup() => format!(" after {}", counted(n, "request")),
            n => format!(", after {} of warm-up with {}", facts.warmup, counted(n, "request")),
        };
        let by = facts.by();
        let cut = if self.stopped_in_warmup() {
            format!(", stopped during the warm-up{by}")
        } else if facts.cut_short {
            format!(", stopped early{by}")
        } else if facts.stopped_by.is_some() {
            format!(", stopped while waiting for the last answers{by}")
        } else {
            String::new()
        };
        if self.merged.is_some() {
            return;
        }
        let last = self.last_answer().map(|at| format!(", last answer after {at}"));
        let last = last.unwrap_or_default();
        let drain = match facts.drain {
            Nanos::ZERO => String::new(),
            drain => format!(", then waited {drain} for requests in flight"),
        };
        page.text(
            "  ran        ",
            &if self.stopped_in_warmup() {
                format!("{}{cut}{warm}{drain}", facts.duration)
            } else {
                format!("{}{last}{warm}{cut}{drain}", facts.duration)
            },
        );
    }

    /// Arrivals by outcome, and connections.
    fn requests_table(&self) -> Table {
        let requests = &self.all.stats.requests;
        let rates = self.all.rates();
        let share = percent(requests.ok as f64 / requests.scheduled.max(1) as f64);
        let counted = |name: &str, n: u64, per_second: Option<f64>| {
            let unit = per_second.map_or("", |_| "/s");
            Row::new(name, [grouped(n), format!("{}{unit}", rate(per_second))])
        };
        // A note after a unit needs a wider gap.
        let unsent = match requests.unsent {
            0 => String::new(),
            n => format!(" {} never sent", grouped(n)),
        };
        let failed = match requests.failed {
            0 => String::new(),
            n => format!("   {} failed", grouped(n)),
        };
        let mut rows = vec![
            counted("scheduled", requests.scheduled, rates.scheduled),
            counted("sent", requests.sent, rates.sent).noted(unsent),
            counted("ok", requests.ok, rates.ok).noted(format!(" {share} of scheduled{failed}")),
        ];
        if let Some(connections) = self.whole().map(|whole| &whole.connections) {
            let peak = [String::new(), grouped(connections.peak)];
            let of = if self.merged.is_some() { "peak in one run" } else { "peak" };
            let opened = format!("{of}, {} opened", grouped(connections.opened));
            rows.push(Row::new("connected", peak).noted(opened));
            if let Some((peak, limits)) = self.whole().and_then(Snapshot::http2) {
                let allowed = match limits.peer {
                    Some(peer) => format!(", the target allows {} on a connection", grouped(peer)),
                    None => String::new(),
                };
                let peak = [String::new(), grouped(peak)];
                rows.push(Row::new("streams", peak).noted(format!("{of}, HTTP/2{allowed}")));
            }
        }
        Table::of(&REQUESTS, String::new(), rows)
    }

    /// Times of all requests.
    pub(crate) fn times_table(&self) -> Table {
        let stats = &self.all.stats;
        let mut rows = vec![times("latency", &self.all.latency)];
        if stats.latency_failed.count() > 0 {
            rows.push(times("  ok only", &stats.latency_ok));
        }
        rows.push(times("service time", &self.all.service_time));
        let read_lag = self.whole().map(|whole| whole.read_lag.clone());
        let read_lag = read_lag.filter(|read_lag| read_lag.count() > 0);
        let known = [("lag", self.lag()), ("read lag", read_lag), ("wait", self.wait())];
        for (name, histogram) in known {
            rows.extend(histogram.map(|histogram| times(name, &histogram)));
        }
        Table::of(&TIMES, "time".into(), rows)
    }

    fn write_end(&self, extent: Extent, run_dir: Option<&str>, page: &mut Page) {
        // No gap before the generator's own figures if other processes are listed above.
        if self.scrapes.processes.is_empty() {
            page.gap();
        }
        self.write_generator(page);
        if self.verdict.valid && self.all.stats.requests.scheduled > 0 {
            page.phrases("  limited by: ", &self.limited_by());
        }
        let others = self.verdict.findings.iter().filter(|finding| !comes_first(finding));
        self.write_findings(others.take(extent.findings()), page);
        if let Some(failed) = self.failed_without_objective() {
            let failed = counted(failed, "request");
            let add = self.add_objectives(&["success >= 99%"]);
            page.text(
                toned(Tone::Warn, "  exit code 0: "),
                &format!("{failed} failed, but no objective limits failures; {add}"),
            );
        } else if self.verdict.findings.is_empty()
            && self.merged.is_none()
            && self.narrow.is_whole()
        {
            page.text("  next: ", &self.next());
        }
        if let Some(dir) = run_dir {
            let parts = [format!("{dir}/report.html"), "summary.json".into()];
            let parts = parts.into_iter().chain(["per second: snapshots.jsonl".into()]);
            page.phrases("  results: ", &listed(parts));
        }
    }

    /// What the load generator used; not shown for some of the requests.
    fn write_generator(&self, page: &mut Page) {
        let Some(whole) = self.whole() else { return };
        let cpu = self.cpu_per_request().map(|cpu| {
            let spin = match cpu.spin {
                Nanos::ZERO => String::new(),
                spin => format!(" (and {spin} spinning)"),
            };
            let requests = self.all.stats.requests.sent + self.total.warmup.sent;
            match self.all.stats.messages.as_ref().map_or(0, |messages| messages.received) {
                // Most of the work is that of messages.
                n if n > requests => {
                    let each = u128::from(cpu.work.0) * u128::from(requests) / u128::from(n);
                    format!("{} CPU per message", Nanos(each as u64))
                }
                _ => format!("{} CPU per request{spin}", cpu.work),
            }
        });
        let workers = counted(self.facts.workers as u64, "worker");
        let memory = match whole.host.rss_peak_bytes >> 20 {
            0 => None, // it cannot be read
            peak => Some(format!("peak memory {peak} MiB")),
        };
        let seed = self.merged.is_none().then(|| format!("seed {}", self.seed));
        let parts = [Some(workers), cpu, memory, seed];
        page.phrases("  generator: ", &listed(parts.into_iter().flatten()));
    }

    /// What limited a valid run or each of several, in phrases.
    pub(crate) fn limited_by(&self) -> Vec<String> {
        listed(self.limits_by_run().unwrap_or_else(|| self.limits().collect()))
    }

    /// What limited a valid run, and how close the generator came to its own limits.
    fn limits(&self) -> impl Iterator<Item = String> {
        /// Smaller shares are not worth a line.
        const SHARE_MIN: f64 = 0.01;
        let headroom = &self.verdict.headroom;
        let limit = limit(self.verdict.limited_by, self.limited_load());
        let busy = format!("busiest worker at most {} busy", percent(headroom.worker_busy));
        let used = |usage: Option<Usage>, of: &str| {
            let usage = usage.filter(|usage| usage.share() >= SHARE_MIN)?;
            Some(format!("{} of {} {of}", grouped(usage.used), grouped(usage.limit)))
        };
        let ports = used(headroom.ports, "local ports");
        let descriptors = used(headroom.descriptors, "descriptors");
        let known = (headroom.worker_busy > 0.0).then_some(busy);
        [Some(limit.into()), known, ports, descriptors].into_iter().flatten()
    }

    /// The part of the plan that limits a run which nothing else limits.
    fn limited_load(&self) -> &'static str {
        match self.all.stats.messages {
            _ if self.has_rate => "the planned rate",
            Some(_) => "the number of sockets",
            None => "the number of users",
        }
    }

    /// How many requests failed in a run that exits with 0 because no objective limits failures.
    fn failed_without_objective(&self) -> Option<u64> {
        let requests = &self.all.stats.requests;
        let failed = requests.failed + requests.unsent;
        let passes = self.merged.is_none() && self.narrow.is_whole();
        let passes = passes && self.verdict.valid && !self.nothing_ok() && !self.facts.cut_short;
        let passes = passes && self.objectives_hold() && !self.limits_failures();
        (failed > 0 && passes).then_some(failed)
    }

    /// Whether an objective would be missed if enough requests failed. Latency is none: a failure may
    /// be fast.
    fn limits_failures(&self) -> bool {
        self.objectives.iter().any(|judged| judged.objective.metric.limits_failures())
    }

    /// When the last answer came, if clearly later than the last planned arrival.
    fn last_answer(&self) -> Option<Nanos> {
        let window = self.all.activity.window().filter(|_| self.narrow.is_whole())?;
        let late = window.to - window.planned_to;
        let planned = window.planned_to - window.from;
        (late > LATE_ANSWER && late.0 > planned.0 / 20).then(|| window.to - window.from)
    }

    /// What to do after a run without findings.
    fn next(&self) -> String {
        let (more, less) = match self.all.stats.messages {
            _ if self.has_rate => ("raise the rate", "lower the rate"),
            Some(_) => ("add sockets", "use fewer sockets"),
            None => ("add users", "use fewer users"),
        };
        if self.objectives.is_empty() {
            let add = self.add_objectives(&["success >= 99%", "latency.p99 < 250ms"]);
            format!("{add}, so that the run passes or fails")
        } else if self.objectives_hold() {
            format!("every objective held; {more} to find the limit")
        } else {
            format!(
                "the load was sent as planned, and the target missed an objective; {less} to find what \
                 the target sustains"
            )
        }
    }

    /// How the user adds objectives: as flags, or to the plan.
    fn add_objectives(&self, objectives: &[&str]) -> String {
        let each: Vec<String> = if self.from_flags {
            objectives.iter().map(|that| format!("--objective \"{that}\"")).collect()
        } else {
            objectives.iter().map(|that| format!("that = \"{that}\"")).collect()
        };
        let each = each.join(" and ");
        match (self.from_flags, objectives.len()) {
            (true, _) => format!("add {each}"),
            (false, 1) => format!("add [[objective]] with {each} to the plan"),
            (false, _) => format!("add [[objective]] tables with {each} to the plan"),
        }
    }
}

/// Text after a lead, wrapped at words to lines of at most `columns`; further lines are indented by the
/// width of the lead. Ends with a line break.
pub fn paragraph(lead: &str, text: &str, columns: usize) -> String {
    let mut page = Page::new(columns, usize::MAX);
    page.text(lead, text);
    page.finish(false)
}

/// Whether a finding is printed above the figures.
fn comes_first(finding: &Finding) -> bool {
    finding.severity == Severity::Invalid || finding.id == FindingId::NothingOk
}

/// What limited a run, in words.
fn limit(side: Option<Side>, load: &'static str) -> &'static str {
    match side {
        Some(Side::Generator) => "the load generator",
        Some(Side::Network) => "the network",
        Some(Side::Target) => "the target",
        None => load,
    }
}

/// The items of a list, with a comma after each but the last.
fn listed(parts: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut parts: Vec<String> = parts.into_iter().collect();
    let divided = parts.len().saturating_sub(1);
    parts.iter_mut().take(divided).for_each(|part| part.push(','));
    parts
}

/// A time, or a dash.
pub(crate) fn shown(span: Option<Nanos>) -> String {
    span.map_or("–".into(), |span| span.to_string())
}

fn times(name: &str, histogram: &Histogram) -> Row {
    Row::new(name, TIME_STATS.each_ref().map(|stat| shown((stat.of)(histogram))))
}

/// `2026-11-26 14:00:00`, in UTC.
pub(crate) fn to_the_second(at: WallClock) -> String {
    let text = at.rfc3339();
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

/// A rate, or a dash.
pub(crate) fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "–".into(),
        Some(rate) if rate >= 1000.0 => grouped(rate.round() as u64),
        Some(rate) => format!("{rate:.1}"),
    }
}
