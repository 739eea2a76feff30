//! The report for a terminal: at most 40 lines of 100 columns, 50 where other processes are shown, the
//! verdict first.

mod scrapes;

use crate::objectives::percent;
use crate::summary::{Group, Summary};
use plimsoll_measure::units::grouped;
use plimsoll_measure::{Histogram, Nanos, Severity};

const LINES_MAX: usize = 40;
/// So many more where other processes are shown: a heading, five instances, what is said of them all.
const SCRAPE_LINES: usize = 10;
const COLUMNS_MAX: usize = 100;
/// How many rows the lists may have, from generous to tight.
const ROWS: [usize; 7] = [8, 6, 5, 4, 3, 2, 1];

impl Summary {
    /// As text. `run_dir` is where the rest is, if anywhere.
    pub fn to_text(&self, run_dir: Option<&str>) -> String {
        let more = if self.scrapes.processes.is_empty() { 0 } else { SCRAPE_LINES };
        let mut lines = Vec::new();
        for rows in ROWS {
            lines = self.lines(rows, run_dir);
            if lines.len() <= LINES_MAX + more {
                break;
            }
        }
        let fit = |line: String| {
            if line.chars().count() <= COLUMNS_MAX {
                return line;
            }
            line.chars().take(COLUMNS_MAX - 1).chain(['…']).collect()
        };
        let mut text = lines.into_iter().map(fit).collect::<Vec<_>>().join("\n");
        text.push('\n');
        text
    }

    fn lines(&self, rows: usize, run_dir: Option<&str>) -> Vec<String> {
        let mut lines = Vec::new();
        self.verdict_lines(&mut lines);
        self.request_lines(&mut lines);
        self.time_lines(&mut lines);
        self.group_lines(rows, &mut lines);
        // What went wrong is the last to be shortened.
        self.error_lines(rows + 2, &mut lines);
        self.objective_lines(rows, &mut lines);
        self.scrape_lines(rows, &mut lines);
        self.end_lines(rows, run_dir, &mut lines);
        lines
    }

    /// Invalid is said first and largest.
    fn verdict_lines(&self, lines: &mut Vec<String>) {
        let invalid =
            || self.verdict.findings.iter().filter(|finding| finding.severity == Severity::Invalid);
        if invalid().next().is_none() {
            return;
        }
        lines.push("═".repeat(COLUMNS_MAX));
        lines.push(
            "INVALID: the instrument was the limit; the figures below are not the target's".into(),
        );
        for finding in invalid().take(3) {
            lines.push(format!("  {}: {}", finding.id, finding.evidence));
            lines.extend(wrapped("    fix: ", &finding.fix));
        }
        lines.push("═".repeat(COLUMNS_MAX));
    }

    fn request_lines(&self, lines: &mut Vec<String>) {
        let facts = &self.facts;
        let requests = &self.all.stats.requests;
        let (scheduled, sent, ok) = self.rates(&self.all.stats);
        let share = |n: u64| percent(n as f64 / requests.scheduled.max(1) as f64);
        lines.push(format!("{}: {}", self.name, self.load));
        let warm = match self.total.warmup.scheduled {
            0 => String::new(),
            n => format!(", after {} of warm-up with {} requests", facts.warmup, grouped(n)),
        };
        let cut = if facts.cut_short { ", stopped before its end" } else { "" };
        lines.push(format!("  ran        {}{warm}{cut}", facts.duration));
        lines.push(format!(
            "  scheduled  {:>12}  {:>12}/s",
            grouped(requests.scheduled),
            rate(scheduled)
        ));
        let unsent = match requests.unsent {
            0 => String::new(),
            n => format!("   {} never sent", grouped(n)),
        };
        lines.push(format!(
            "  sent       {:>12}  {:>12}/s{unsent}",
            grouped(requests.sent),
            rate(sent)
        ));
        let failed = match requests.failed {
            0 => String::new(),
            n => format!("   {} failed", grouped(n)),
        };
        lines.push(format!(
            "  ok         {:>12}  {:>12}/s   {} of the scheduled{failed}",
            grouped(requests.ok),
            rate(ok),
            share(requests.ok)
        ));
        let connections = &self.total.connections;
        lines.push(format!(
            "  connected  {:>12}  {:>14}  at a time, {} opened",
            "",
            grouped(connections.peak),
            grouped(connections.opened)
        ));
    }

    fn time_lines(&self, lines: &mut Vec<String>) {
        lines.push(String::new());
        let head = ["min", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"];
        let head: String = head.iter().map(|name| format!("{name:>9}")).collect();
        lines.push(format!("  {:<13}{head}", "time"));
        lines.push(times("latency", &self.all.latency));
        if self.all.stats.latency_failed.count() > 0 {
            lines.push(times("  of the ok", &self.all.stats.latency_ok));
        }
        lines.push(times("service time", &self.all.service_time));
        lines.push(times("lag", &self.total.lag));
        lines.push(times("wait", &self.total.wait));
    }

    fn group_lines(&self, rows: usize, lines: &mut Vec<String>) {
        let mut section = |what: &str, groups: Vec<&Group>| {
            lines.push(String::new());
            lines.push(format!(
                "  {what:<24}{:>12}{:>11}{:>10}{:>10}{:>10}{:>10}",
                "scheduled", "ok", "ok/s", "p50", "p99", "p99 serv."
            ));
            let more = groups.len().saturating_sub(rows);
            for group in groups.into_iter().take(rows) {
                lines.push(self.group_line(group));
            }
            if more > 0 {
                lines.push(format!("  … and {more} more in summary.json"));
            }
        };
        let targets: Vec<&Group> = self.targets.iter().map(|(group, _)| group).collect();
        if targets.len() > 1 {
            section("target", targets);
        }
        let most = if rows < 4 { 1 } else { 2 };
        for (tag, groups) in self.tags.iter().filter(|(_, groups)| groups.len() > 1).take(most) {
            // A tag that tells the same apart as the names says nothing new.
            if groups.len() < self.targets.len() {
                section(tag, groups.iter().collect());
            }
        }
    }

    fn group_line(&self, group: &Group) -> String {
        let requests = &group.stats.requests;
        let (_, _, ok) = self.rates(&group.stats);
        let at = |histogram: &Histogram, q| shown(histogram.quantile(q));
        let name: String = group.name.chars().take(23).collect();
        format!(
            "  {name:<24}{:>12}{:>11}{:>10}{:>10}{:>10}{:>10}",
            grouped(requests.scheduled),
            requests.success().map_or("–".into(), percent),
            rate(ok),
            at(&group.latency, 0.5),
            at(&group.latency, 0.99),
            at(&group.service_time, 0.99),
        )
    }

    fn error_lines(&self, rows: usize, lines: &mut Vec<String>) {
        let mut errors: Vec<_> = self.all.stats.errors.iter().collect();
        if errors.is_empty() {
            return;
        }
        errors.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        lines.push(String::new());
        lines.push(format!("  {:<20}{:<12}{:>12}  first seen", "errors", "side", "count"));
        let more = errors.len().saturating_sub(rows);
        for (class, n) in errors.into_iter().take(rows) {
            let note = self.facts.notes.iter().find(|note| note.class == class);
            let note = note.map(|note| format!("{} ({})", note.text, note.target));
            let note = note.unwrap_or_default();
            lines.push(format!("  {class:<20}{:<12}{:>12}  {note}", class.side(), grouped(n)));
        }
        if more > 0 {
            lines.push(format!("  … and {more} more classes in summary.json"));
        }
        let codes: Vec<_> = self.total.rpc.codes.iter().take(6).collect();
        if !codes.is_empty() {
            let codes: Vec<_> =
                codes.iter().map(|(code, n)| format!("{code} × {}", grouped(*n))).collect();
            lines.push(format!("  JSON-RPC error codes: {}", codes.join(", ")));
        }
    }

    fn objective_lines(&self, rows: usize, lines: &mut Vec<String>) {
        if self.objectives.is_empty() {
            return;
        }
        lines.push(String::new());
        let mut judged: Vec<_> = self.objectives.iter().collect();
        judged.sort_by_key(|judged| judged.ok);
        let more = judged.len().saturating_sub(rows);
        for judged in judged.into_iter().take(rows) {
            let narrowed: String = judged
                .objective
                .narrowed
                .iter()
                .map(|(tag, value)| format!(" where {tag} = {value}"))
                .collect();
            let word = if judged.ok { "held  " } else { "MISSED" };
            let that = &judged.objective.that;
            lines.push(format!("  {word}  {that}{narrowed}: {}", judged.shown()));
        }
        if more > 0 {
            lines.push(format!("  … and {more} more objectives in summary.json"));
        }
    }

    fn end_lines(&self, rows: usize, run_dir: Option<&str>, lines: &mut Vec<String>) {
        // The instrument's own figures stand beside the others'.
        if self.scrapes.processes.is_empty() {
            lines.push(String::new());
        }
        let cpu = self
            .cpu_per_request()
            .map(|(cpu, user)| format!(", {cpu} CPU a request ({user} user)"));
        let workers = self.facts.workers;
        lines.push(format!(
            "  generator: {workers} worker{}{}, {} MiB at most",
            if workers == 1 { "" } else { "s" },
            cpu.unwrap_or_default(),
            self.total.host.rss_peak_bytes >> 20,
        ));
        let warnings =
            self.verdict.findings.iter().filter(|finding| finding.severity != Severity::Invalid);
        for finding in warnings.take(rows.min(3)) {
            lines.push(format!("  {}: {}", finding.id, finding.evidence));
            lines.extend(wrapped("    next: ", &finding.fix));
        }
        if self.verdict.findings.is_empty() {
            let next = if self.objectives.is_empty() {
                "add [[objective]] that = \"latency.p99 < 250ms\" to make this a test that can fail"
            } else if self.objectives_hold() {
                "the plan held and so did every objective; raise the rate to look for the limit"
            } else {
                "the plan held, so the target is what missed; lower the rate to find what it carries"
            };
            lines.push(format!("  next: {next}"));
        }
        if let Some(dir) = run_dir {
            lines.push(format!(
                "  all figures: {dir}/summary.json, second by second: snapshots.jsonl"
            ));
        }
    }
}

fn shown(span: Option<Nanos>) -> String {
    span.map_or("–".into(), |span| span.to_string())
}

fn times(name: &str, histogram: &Histogram) -> String {
    let at = |q| histogram.quantile(q);
    let figures = [
        histogram.min(),
        histogram.mean(),
        at(0.5),
        at(0.9),
        at(0.95),
        at(0.99),
        at(0.999),
        histogram.max(),
    ];
    let figures: String = figures.map(|span| format!("{:>9}", shown(span))).concat();
    format!("  {name:<13}{figures}")
}

fn rate(per_second: f64) -> String {
    if per_second >= 1000.0 {
        grouped(per_second.round() as u64)
    } else {
        format!("{per_second:.1}")
    }
}

/// A text in lines that fit, each further one indented under the first.
fn wrapped(lead: &str, text: &str) -> Vec<String> {
    let room = COLUMNS_MAX - lead.chars().count();
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a first line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
            lines.push(word.into());
        } else {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    let indent = " ".repeat(lead.chars().count());
    let lead =
        |(i, line): (usize, String)| format!("{}{line}", if i == 0 { lead } else { &indent });
    lines.into_iter().enumerate().map(lead).collect()
}
