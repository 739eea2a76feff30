//! Other processes, a line each, beside the instrument's own.

use super::{grouped, percent, shown};
use crate::scrapes::Process;
use crate::summary::Summary;
use std::collections::BTreeMap;

/// How many upstreams are named, the busiest first.
const UPSTREAMS_SHOWN: usize = 4;

impl Summary {
    pub(super) fn scrape_lines(&self, rows: usize, lines: &mut Vec<String>) {
        let scrapes = &self.scrapes;
        if scrapes.processes.is_empty() {
            return;
        }
        lines.push(String::new());
        lines.push(format!(
            "  {:<24}{:>12}{:>10}{:>10}{:>12}{:>12}{:>12}",
            "process", "relays", "share", "CPU", "CPU/relay", "memory", "pages"
        ));
        let more = scrapes.processes.len().saturating_sub(rows);
        for process in scrapes.processes.iter().take(rows) {
            lines.push(self.process_line(process));
            lines.extend(remark(process));
        }
        if more > 0 {
            lines.push(format!("  … and {more} more in summary.json"));
        }
        for group in scrapes.groups() {
            if let Some(even) = scrapes.evenness(group) {
                lines.push(format!(
                    "  {group}: {} at most from an even share of {} ({})",
                    percent(even.deviation_max),
                    percent(even.mean_share),
                    even.of,
                ));
            }
            lines.extend(upstreams(group, scrapes.upstreams(group)));
        }
    }

    fn process_line(&self, process: &Process) -> String {
        let none = || "–".to_string();
        let name: String = process.name.chars().take(23).collect();
        let relays = process.relays.as_ref().map(|relays| grouped(relays.total));
        let memory = process.memory_max.map(|bytes| format!("{} MiB", bytes >> 20));
        let (reads, failed) = (process.scraped.reads, process.scraped.failed());
        format!(
            "  {name:<24}{:>12}{:>10}{:>10}{:>12}{:>12}{:>12}",
            relays.unwrap_or_else(none),
            self.scrapes.share(process).map_or_else(none, percent),
            process.cpu_share().map_or_else(none, percent),
            shown(process.cpu_per_relay()),
            memory.unwrap_or_else(none),
            format!("{reads}/{}", reads + failed),
        )
    }
}

/// Which upstreams a group relayed to, in shares.
fn upstreams(group: &str, upstreams: BTreeMap<&str, u64>) -> Option<String> {
    let mut upstreams: Vec<_> = upstreams.into_iter().collect();
    upstreams.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let all: u64 = upstreams.iter().map(|(_, n)| n).sum();
    let part = |(name, n): &(&str, u64)| format!("{name} {}", percent(*n as f64 / all as f64));
    let named: Vec<_> = upstreams.iter().take(UPSTREAMS_SHOWN).map(part).collect();
    let more = match upstreams.len().saturating_sub(UPSTREAMS_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (all > 0).then(|| format!("  {group} relayed to {}{more}", named.join(", ")))
}

/// What was unusual about a process, if anything.
fn remark(process: &Process) -> Option<String> {
    let mut parts = Vec::new();
    match process.restarts {
        0 => {}
        1 => parts.push("started again once".to_string()),
        n => parts.push(format!("started again {n} times")),
    }
    if let Some((why, _)) = process.failures().first() {
        let failed = process.scraped.failed();
        let plural = if failed == 1 { "page" } else { "pages" };
        parts.push(format!("{failed} {plural} could not be read: {why}"));
    }
    (!parts.is_empty()).then(|| format!("    {}", parts.join("; ")))
}
