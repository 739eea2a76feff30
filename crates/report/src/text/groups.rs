//! The table of targets, streams, stages and tag values, and the tables of answers by header value.

use super::page::Page;
use super::table::{Column, Notes, Row, Section, Shape, Table};
use super::width::clean;
use super::{Extent, rate, shown};
use crate::objectives::percent;
use crate::summary::{Group, Split, StreamGroup, Summary};
use crate::tone::Tone;
use plimsoll_measure::Histogram;
use plimsoll_measure::units::grouped;

/// If this many targets failed or fewer, all of them are listed.
const FAILING_SHOWN: usize = 5;
/// Minimum number of stages shown, if there are that many: they are read as a series.
const STAGES_SHOWN: usize = 8;
/// Minimum number of header values shown, if there are that many.
const VALUES_SHOWN: usize = 5;

const GROUPS: Shape = Shape {
    name: 29,
    columns: &[
        Column::figures("scheduled", 11),
        Column::figures("ok", 9),
        Column::figures("sent/s", 9),
        Column::figures("ok/s", 9),
        Column::figures("p50", 10),
        Column::figures("p99", 10),
        Column::figures("p99 serv.", 10),
    ],
    leaving: &["sent/s", "ok/s", "p99 serv."],
    notes: Notes::Beneath,
};

const SPLIT: Shape = Shape {
    name: 30,
    columns: &[
        Column::figures("answers", 12),
        Column::figures("share", 11),
        Column::figures("from even", 11),
    ],
    leaving: &["share"],
    notes: Notes::Beneath,
};

impl Summary {
    pub(super) fn write_groups(&self, extent: Extent, page: &mut Page) {
        let rows = extent.rows;
        let listed = |what: &str, groups: Vec<(String, &Group)>, rows: usize| Section {
            head: clean(what),
            more: {
                let failing = groups.iter().skip(rows).filter(|(_, group)| fails(group)).count();
                let of =
                    if failing > 0 { format!(", {failing} with failures") } else { String::new() };
                Extent { rows, ..extent }.more(groups.len(), [&of; 2])
            },
            rows: groups.iter().take(rows).map(|(name, group)| group_row(name, group)).collect(),
        };
        let section = |what: &str, mut groups: Vec<&Group>| {
            let failing = groups.iter().filter(|group| fails(group)).count();
            let rows = if failing <= FAILING_SHOWN { rows.max(failing) } else { rows };
            let cut = groups.len() > rows;
            worst_first(&mut groups, cut);
            let groups = groups.into_iter().map(|group| (group.name.clone(), group)).collect();
            listed(what, groups, rows)
        };
        let mut sections = Vec::new();
        let targets: Vec<&Group> = self.targets.iter().map(|(group, _)| group).collect();
        if targets.len() > 1 {
            sections.push(section("target", targets));
        }
        if self.streams.len() > 1 {
            let streams = self.streams.iter().map(|stream| (&stream.group.name, &stream.group));
            let streams = streams.map(|(n, group)| (n.clone(), group)).collect();
            sections.push(listed("stream", streams, rows));
        }
        if self.stages.len() > 1 {
            sections.push(listed("stage", self.stage_groups(), rows.max(STAGES_SHOWN)));
        }
        let most = match rows {
            usize::MAX => rows,
            4.. => 2,
            _ => 1,
        };
        for (tag, groups) in self.tags.iter().filter(|(_, groups)| groups.len() > 1).take(most) {
            // A tag with a value per target would repeat the table of targets.
            if groups.len() < self.targets.len() {
                sections.push(section(tag, groups.iter().collect()));
            }
        }
        if !sections.is_empty() {
            page.gap();
            page.table(&Table { shape: &GROUPS, sections });
        }
    }

    /// The stages by number and load, with the stream's name if several streams have stages.
    pub(crate) fn stage_groups(&self) -> Vec<(String, &Group)> {
        let stream = |stage: &StreamGroup| stage.group.name.clone();
        let one = self.stages.iter().all(|stage| stream(stage) == stream(&self.stages[0]));
        let named = |stage: &StreamGroup| {
            let of = stage.stage.as_ref().map(|of| format!("{}: {}", of.number, of.load));
            let of = of.unwrap_or_default();
            if one { of } else { format!("{} {of}", stream(stage)) }
        };
        self.stages.iter().map(|stage| (named(stage), &stage.group)).collect()
    }

    /// Answers by the values of the headers that the plan names.
    pub(crate) fn split_tables(&self, extent: Extent) -> Vec<Table> {
        let extent = extent.at_least(VALUES_SHOWN);
        let table = |split: &Split| Table {
            shape: &SPLIT,
            sections: vec![Section {
                head: clean(&split.header),
                rows: split_rows(split, extent.rows),
                more: extent.more(split.counts.values.len(), [" value", " values"]),
            }],
        };
        self.splits.iter().map(table).collect()
    }
}

/// The most frequent values, then answers with other values and without the header.
fn split_rows(split: &Split, shown: usize) -> Vec<Row> {
    let counts = &split.counts;
    let share = |n: u64| percent(n as f64 / counts.total().max(1) as f64);
    let mut values: Vec<_> = counts.values.iter().collect();
    if values.len() > shown {
        values.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    }
    let mut rows: Vec<Row> = values
        .into_iter()
        .take(shown)
        .map(|(value, n)| {
            let sign = if split.from_even(*n) < 0.0 { "−" } else { "+" };
            let even = format!("{sign}{}", percent(split.from_even(*n).abs()));
            Row::new(value.label(), [grouped(*n), share(*n), even])
        })
        .collect();
    for (name, n) in [("(other)", counts.other), ("(none)", counts.none)] {
        if n > 0 {
            rows.push(Row::new(name, [grouped(n), share(n), "–".into()]).toned(Tone::Warn));
        }
    }
    rows
}

/// Whether any request was not answered as expected.
pub(crate) fn fails(group: &Group) -> bool {
    group.stats.requests.success().is_some_and(|success| success < 1.0)
}

fn group_row(label: &str, group: &Group) -> Row {
    let (requests, rates) = (&group.stats.requests, group.rates());
    let at = |histogram: &Histogram, q| shown(histogram.quantile(q));
    let cells = [
        grouped(requests.scheduled),
        requests.success().map_or("–".into(), percent),
        rate(rates.sent),
        rate(rates.ok),
        at(&group.latency, 0.5),
        at(&group.latency, 0.99),
        at(&group.service_time, 0.99),
    ];
    Row::new(label, cells).toned(tone_of(group))
}

/// The colour of a group's name.
pub(crate) fn tone_of(group: &Group) -> Tone {
    match group.stats.requests.ok {
        _ if !fails(group) => Tone::Plain,
        0 => Tone::Bad,
        _ => Tone::Warn,
    }
}

/// Sorts by lowest success rate and, if not all are shown, by highest latency. Otherwise groups that are
/// equally successful keep the plan's order.
pub(crate) fn worst_first(groups: &mut [&Group], cut: bool) {
    let success = |group: &Group| group.stats.requests.success().unwrap_or(1.0);
    let p99 = |group: &Group| cut.then(|| group.latency.quantile(0.99)).flatten();
    groups.sort_by(|a, b| success(a).total_cmp(&success(b)).then(p99(b).cmp(&p99(a))));
}
