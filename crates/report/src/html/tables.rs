//! The figures as tables, also those over time: complete without JavaScript, on paper and for screen
//! readers.

use super::{escaped, sentence};
use crate::objectives::percent;
use crate::summary::{Group, Summary};
use crate::text::groups::{fails, tone_of, worst_first};
use crate::text::part::runs_table;
use crate::text::{Extent, Notes, Row, Table, clean, rate, shown};
use crate::tone::Tone;
use plimsoll_measure::Histogram;
use plimsoll_measure::units::{counted, grouped};
use plimsoll_plan::Objective;
use std::fmt::Write as _;

/// Columns of the tables of groups: their heads, and what they mean where it is not plain.
const GROUP_HEADS: [&str; 13] = [
    "scheduled",
    "share",
    "ok",
    "failed",
    "unsent",
    "sent/s",
    "ok/s",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "p99 service",
];
/// Rows of the table over time at most, so that it can be read.
const OVER_TIME_ROWS: usize = 30;

/// A table in writing.
struct Writer<'h> {
    html: &'h mut String,
    /// The columns that have words, not figures.
    words: Vec<bool>,
}

impl<'h> Writer<'h> {
    /// Begins a table. The first head is that of the names.
    fn begin(
        html: &'h mut String,
        caption: &str,
        heads: &[String],
        words: Vec<bool>,
    ) -> Writer<'h> {
        let _ = write!(
            html,
            "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><caption>{0}</caption>\n<thead><tr>",
            escaped(caption)
        );
        for (place, head) in heads.iter().enumerate() {
            let class = if place == 0 || words.get(place - 1) == Some(&true) {
                " class=\"words\""
            } else {
                ""
            };
            let _ = write!(html, "<th scope=\"col\"{class}>{}</th>", escaped(head));
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        Writer { html, words }
    }

    fn row(&mut self, name: &str, cells: &[String], tone: Tone) {
        let class = match tone {
            Tone::Bad => " class=\"bad\"",
            Tone::Warn => " class=\"warn\"",
            Tone::Good => " class=\"good\"",
            Tone::Plain | Tone::Strong => "",
        };
        let _ = write!(self.html, "<tr{class}><th scope=\"row\">{}</th>", escaped(name));
        for (place, cell) in cells.iter().enumerate() {
            let class = if self.words.get(place) == Some(&true) { " class=\"words\"" } else { "" };
            // Texts of the text report are aligned with spaces.
            let parts: Vec<&str> =
                cell.split("  ").map(str::trim).filter(|part| !part.is_empty()).collect();
            let _ = write!(self.html, "<td{class}>{}</td>", escaped(&parts.join(", ")));
        }
        self.html.push_str("</tr>\n");
    }

    fn end(self) {
        self.html.push_str("</tbody></table></div>\n");
    }
}

/// A table of the text report.
fn put_table(html: &mut String, caption: &str, table: &Table) {
    for section in &table.sections {
        let shape = table.shape;
        let heads = shape.columns.iter().map(|column| column.head.trim().to_string());
        let mut words: Vec<bool> = shape.columns.iter().map(|column| column.words).collect();
        let mut heads: Vec<String> = std::iter::once(section.head.clone()).chain(heads).collect();
        let noted = section.rows.iter().any(|row| !row.note.is_empty());
        if noted {
            heads.push(match shape.notes {
                Notes::Beside(head) => head.into(),
                Notes::Beneath => "note".into(),
            });
            words.push(true);
        }
        let mut writer = Writer::begin(html, caption, &heads, words);
        for Row { name, cells, note, tone } in &section.rows {
            let mut cells = cells.clone();
            cells.extend(noted.then(|| note.trim().to_string()));
            writer.row(name, &cells, *tone);
        }
        writer.end();
    }
}

impl Summary {
    /// Objectives, requests and times.
    pub(super) fn overview_html(&self) -> String {
        let mut html = String::new();
        self.put_tiles(&mut html);
        if let Some(merged) = &self.merged {
            put_table(&mut html, "Runs", &runs_table(merged));
            for (given, counted) in &merged.repeated {
                let text = format!("{given} is the same run as {counted}; it is counted once.");
                let _ = writeln!(html, "<p>{}</p>", escaped(&clean(&text)));
            }
        }
        self.put_objectives(&mut html);
        html
    }

    fn put_tiles(&self, html: &mut String) {
        let requests = &self.all.stats.requests;
        let rates = self.all.rates();
        let per_second = |of: Option<f64>| format!("{}/s", rate(of));
        let share = requests.success().map_or("–".into(), percent);
        let ok_class = match requests.success() {
            Some(success) if success >= 1.0 => "good",
            Some(success) if success > 0.0 => "warn",
            Some(_) => "bad",
            None => "",
        };
        let not_ok = [(requests.failed, "failed"), (requests.unsent, "never sent")];
        let not_ok: Vec<String> = not_ok
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{} {what}", grouped(*n)))
            .collect();
        let not_ok = if not_ok.is_empty() { "none failed".into() } else { not_ok.join(", ") };
        let time = |q| shown(self.all.latency.quantile(q));
        let service = shown(self.all.service_time.quantile(0.99));
        let tiles = [
            ("", "Scheduled", grouped(requests.scheduled), per_second(rates.scheduled)),
            ("", "Sent", grouped(requests.sent), per_second(rates.sent)),
            (ok_class, "Ok", share, format!("{}, {not_ok}", per_second(rates.ok))),
            ("", "Latency p50", time(0.5), "from the planned instant".into()),
            ("", "Latency p99", time(0.99), format!("service time {service}")),
            ("", "Latency max", time(1.0), counted(self.all.latency.count(), "arrival")),
        ];
        html.push_str("<dl class=\"tiles\">\n");
        for (class, name, value, note) in tiles {
            let _ = writeln!(
                html,
                "<div class=\"{class}\"><dt>{name}</dt><dd><span>{}</span> <small>{}</small></dd></div>",
                escaped(&value),
                escaped(&note)
            );
        }
        html.push_str("</dl>\n");
    }

    fn put_objectives(&self, html: &mut String) {
        if self.objectives.is_empty() && self.unjudged.is_empty() {
            return;
        }
        let heads = ["objective", "result", "value"].map(String::from);
        let mut table = Writer::begin(html, "Objectives", &heads, vec![true, true]);
        let mut judged: Vec<_> = self.objectives.iter().collect();
        judged.sort_by_key(|judged| judged.ok);
        for judged in judged {
            let run = judged.run.as_ref().map(|run| format!("{run}: ")).unwrap_or_default();
            let (word, tone) = if judged.ok { ("held", Tone::Good) } else { ("missed", Tone::Bad) };
            let name = clean(&format!("{run}{}", named(&judged.objective)));
            table.row(&name, &[word.into(), clean(&judged.shown())], tone);
        }
        for unjudged in &self.unjudged {
            let name = clean(&named(&unjudged.objective));
            table.row(&name, &["not judged".into(), clean(unjudged.why)], Tone::Plain);
        }
        table.end();
    }

    /// All other tables.
    pub(super) fn tables_html(&self) -> String {
        let mut html = String::from("<h2>Figures</h2>\n");
        put_table(&mut html, "Requests", &self.requests_table());
        put_table(&mut html, "Times", &self.times_table());
        self.put_groups(&mut html);
        for table in self.split_tables(Extent::WHOLE) {
            put_table(&mut html, "Answers by header value", &table);
        }
        if let Some(table) = self.error_table(Extent::WHOLE) {
            put_table(&mut html, "Errors", &table);
            let (of, codes) = self.error_codes(Extent::WHOLE);
            if !codes.is_empty() {
                let text = format!("JSON-RPC error codes{of}: {}", codes.join(" "));
                let _ = writeln!(html, "<p>{}</p>", escaped(&sentence(&text)));
            }
        }
        if let Some(table) = self.status_table(Extent::WHOLE) {
            put_table(&mut html, "HTTP statuses", &table);
        }
        if let Some(table) = self.process_table(Extent::WHOLE) {
            put_table(&mut html, "Other processes", &table);
        }
        if let Some(table) = self.host_table(Extent::WHOLE) {
            put_table(&mut html, "Unusual seconds of the load generator's host", &table);
        }
        self.put_over_time(&mut html);
        let left_out = self.left_out();
        if !left_out.is_empty() {
            let words: Vec<&str> = left_out.iter().map(|(_, words)| *words).collect();
            let text = format!("not known for this part of the run alone: {}", words.join(", "));
            let _ = writeln!(html, "<p>{}</p>", escaped(&sentence(&text)));
        }
        html
    }

    fn put_groups(&self, html: &mut String) {
        let all = self.all.stats.requests.scheduled;
        let mut targets: Vec<&Group> = self.targets.iter().map(|(group, _)| group).collect();
        worst_first(&mut targets, false);
        let named = |groups: Vec<&'_ Group>| -> Vec<(String, Group)> {
            groups.into_iter().map(|group| (group.name.clone(), group.clone())).collect()
        };
        put_groups(html, "Targets", "target", all, &named(targets));
        for (tag, groups) in &self.tags {
            let caption = format!("By tag {}", clean(tag));
            put_groups(html, &caption, tag, all, &named(groups.iter().collect()));
        }
        let streams = self.streams.iter().map(|stream| &stream.group).collect();
        put_groups(html, "Streams", "stream", all, &named(streams));
        let stages: Vec<(String, Group)> =
            self.stage_groups().into_iter().map(|(name, group)| (name, group.clone())).collect();
        put_groups(html, "Stages", "stage", all, &stages);
    }

    /// At most [`OVER_TIME_ROWS`] rows of the series.
    fn put_over_time(&self, html: &mut String) {
        let Some(series) = self.series.as_ref().filter(|series| !series.is_empty()) else { return };
        let heads = [
            "time",
            "planned/s",
            "sent/s",
            "ok/s",
            "failed/s",
            "unsent/s",
            "p50",
            "p99",
            "max",
            "p99 service",
        ];
        let mut table = Writer::begin(html, "Over time", &heads.map(String::from), Vec::new());
        for row in series.shortened(OVER_TIME_ROWS, self.narrow.scope(), self.facts.warmup) {
            let tone = match (row.failed, row.ok) {
                (0, _) => Tone::Plain,
                (_, 0) => Tone::Bad,
                _ => Tone::Warn,
            };
            table.row(&row.name, &row.cells, tone);
        }
        table.end();
    }
}

fn put_groups(html: &mut String, caption: &str, head: &str, all: u64, groups: &[(String, Group)]) {
    if groups.is_empty() {
        return;
    }
    let heads: Vec<String> =
        std::iter::once(clean(head)).chain(GROUP_HEADS.map(String::from)).collect();
    let mut table = Writer::begin(html, caption, &heads, Vec::new());
    for (name, group) in groups {
        table.row(&clean(name), &group_cells(group, all), tone_of(group));
    }
    table.end();
}

fn group_cells(group: &Group, all: u64) -> [String; GROUP_HEADS.len()] {
    let (requests, rates) = (&group.stats.requests, group.rates());
    let at = |histogram: &Histogram, q| shown(histogram.quantile(q));
    let count = |n: u64| if n == 0 && !fails(group) { "0".into() } else { grouped(n) };
    let latency = &group.latency;
    [
        grouped(requests.scheduled),
        percent(requests.scheduled as f64 / all.max(1) as f64),
        requests.success().map_or("–".into(), percent),
        count(requests.failed),
        count(requests.unsent),
        rate(rates.sent),
        rate(rates.ok),
        at(latency, 0.5),
        at(latency, 0.9),
        at(latency, 0.99),
        at(latency, 0.999),
        at(latency, 1.0),
        at(&group.service_time, 0.99),
    ]
}

/// An objective with the targets that it is about.
fn named(objective: &Objective) -> String {
    let mut name = objective.that.clone();
    for (tag, value) in &objective.narrowed {
        let _ = write!(name, " where {tag} = {value}");
    }
    name
}
