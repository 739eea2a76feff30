//! The table of scraped processes.

use super::page::Page;
use super::table::{Column, Notes, Row, Section, Shape, Table};
use super::width::{clean, width};
use super::{COLUMNS, Extent, counted, grouped, listed, percent, shown};
use crate::scrapes::Process;
use crate::summary::Summary;
use std::collections::BTreeMap;

/// Maximum number of upstreams listed, busiest first.
const UPSTREAMS_SHOWN: usize = 4;

const PROCESSES: Shape = Shape {
    name: 24,
    columns: &[
        Column::figures("calls", 11),
        Column::figures("relays", 11),
        Column::figures("share", 9),
        Column::figures("CPU", 9),
        Column::figures("CPU/call", 11),
        Column::figures("memory", 11),
        Column::figures("scrapes", 10),
    ],
    leaving: &["scrapes", "memory", "relays", "CPU"],
    notes: Notes::Beneath,
};

impl Summary {
    /// The scraped processes; `None` if there are none, or if they served other requests too.
    pub(crate) fn process_table(&self, extent: Extent) -> Option<Table> {
        let scrapes = &self.scrapes;
        if scrapes.processes.is_empty() || self.whole().is_none() {
            return None;
        }
        let processes = scrapes.processes.iter().take(extent.rows);
        let sections = vec![Section {
            head: "process".into(),
            rows: processes.map(|process| self.process_row(process)).collect(),
            more: extent.more(scrapes.processes.len(), [""; 2]),
        }];
        Some(Table { shape: &PROCESSES, sections })
    }

    pub(super) fn write_scrapes(&self, extent: Extent, page: &mut Page) {
        let scrapes = &self.scrapes;
        let Some(table) = self.process_table(extent) else { return };
        page.tables([table]);
        for group in scrapes.groups() {
            if let Some(even) = scrapes.evenness(group) {
                let text = format!(
                    "within {} of an even share of {} (furthest: {})",
                    percent(even.deviation_max),
                    percent(even.mean_share),
                    even.of,
                );
                page.text(&format!("  {group}: "), &text);
            }
            let cached = cached(&scrapes.cache(group));
            if !cached.is_empty() {
                page.phrases(&format!("  {group} answered from the cache: "), &cached);
            }
            let lead = format!("  {group} relayed to ");
            let room = COLUMNS.end().saturating_sub(width(&clean(&lead)));
            let room = (!extent.is_whole()).then_some(room);
            let upstreams = upstreams(scrapes.upstreams(group), room);
            if !upstreams.is_empty() {
                page.phrases(&lead, &upstreams);
            }
        }
    }

    fn process_row(&self, process: &Process) -> Row {
        let none = || "–".to_string();
        let relays = process.relays.as_ref().map(|relays| grouped(relays.total));
        let memory = process.memory_max.map(|bytes| format!("{} MiB", bytes >> 20));
        let (reads, failed) = (process.scraped.reads, process.scraped.failed());
        let cells = [
            process.answered().map_or_else(none, grouped),
            relays.unwrap_or_else(none),
            self.scrapes.share(process).map_or_else(none, percent),
            process.cpu_share().map_or_else(none, percent),
            shown(process.cpu_per_call()),
            memory.unwrap_or_else(none),
            format!("{reads}/{}", reads + failed),
        ];
        Row::new(&process.name, cells).noted(remark(process))
    }
}

/// The shares of calls that did not cause a relay of their own, by cache result.
fn cached(cache: &BTreeMap<&str, u64>) -> Vec<String> {
    let all: u64 = cache.values().sum();
    let saved = ["hit", "shared", "coalesced"].map(|result| (result, cache.get(result)));
    let saved = saved.into_iter().filter_map(|(result, n)| Some((result, *n?)));
    listed(saved.map(|(result, n)| format!("{result} {}", percent(n as f64 / all as f64))))
}

/// The upstreams that a group relayed to, with their shares; as many as fit in a line with this room, or
/// all.
fn upstreams(upstreams: BTreeMap<&str, u64>, room: Option<usize>) -> Vec<String> {
    let mut upstreams: Vec<_> = upstreams.into_iter().collect();
    upstreams.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let all: u64 = upstreams.iter().map(|(_, n)| n).sum();
    if all == 0 {
        return Vec::new();
    }
    let part = |(name, n): &(&str, u64)| format!("{name} {}", percent(*n as f64 / all as f64));
    let named = |shown: usize| {
        let mut named = listed(upstreams.iter().take(shown).map(part));
        match upstreams.len().saturating_sub(shown) {
            0 => {}
            more => named.push(format!("and {more} more")),
        }
        named
    };
    let Some(room) = room else { return named(usize::MAX) };
    let fits = |shown: &usize| width(&clean(&named(*shown).join(" "))) <= room;
    named((2..=UPSTREAMS_SHOWN).rev().find(fits).unwrap_or(1))
}

/// Restarts and failed scrapes of a process.
fn remark(process: &Process) -> String {
    let mut parts = Vec::new();
    match process.restarts {
        0 => {}
        1 => parts.push("restarted once".to_string()),
        n => parts.push(format!("restarted {n} times")),
    }
    if !process.missing.is_empty() {
        parts.push(format!("no metric {}", process.missing.join(", ")));
    }
    if let Some((why, _)) = process.failures().first() {
        let failed = process.scraped.failed();
        parts.push(format!("{} failed: {why}", counted(failed, "scrape")));
    }
    parts.join("; ")
}
