//! The figures as tables, also those over time: complete without JavaScript, on paper and for screen
//! readers.

use super::{escaped, sentence};
use crate::merge::Merged;
use crate::objectives::percent;
use crate::seconds::Seconds;
use crate::summary::{Group, Summary};
use crate::text::groups::{fails, tone_of, worst_first};
use crate::text::{Extent, Notes, Row, Table, clean, examples, rate, shown, to_the_second};
use crate::tone::Tone;
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{Histogram, Note, Snapshot};
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
pub(super) struct Writer<'h> {
    html: &'h mut String,
    /// The columns that have words, not figures.
    words: Vec<bool>,
}

impl<'h> Writer<'h> {
    /// Begins a table. The first head is that of the names.
    pub(super) fn begin(
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

    pub(super) fn row(&mut self, name: &str, cells: &[String], tone: Tone) {
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

    pub(super) fn end(self) {
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
    /// Tiles, runs and objectives. `live`: the run goes on.
    pub(super) fn overview_html(&self, live: bool) -> String {
        let mut html = String::new();
        self.put_tiles(&mut html, live);
        if let Some(merged) = &self.merged {
            put_runs(&mut html, merged);
            for (given, counted) in &merged.repeated {
                let text = format!("{given} is the same run as {counted}; it is counted once.");
                let _ = writeln!(html, "<p>{}</p>", escaped(&clean(&text)));
            }
        }
        self.put_objectives(&mut html);
        self.put_agents(&mut html);
        html
    }

    fn put_tiles(&self, html: &mut String, live: bool) {
        let requests = &self.all.stats.requests;
        let rates = self.all.rates();
        let per_second = |of: Option<f64>| format!("{}/s", rate(of));
        let share = self.success().map_or("–".into(), percent);
        let ok_class = match self.success() {
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
        let in_flight = match live {
            true => format!(", {} in flight", grouped(self.total.in_flight)),
            false => String::new(),
        };
        let scheduled = format!("{}{in_flight}", per_second(rates.scheduled));
        let mut tiles = [
            ("", "Scheduled", grouped(requests.scheduled), scheduled),
            ("", "Sent", grouped(requests.sent), per_second(rates.sent)),
            (ok_class, "Ok", share, format!("{}, {not_ok}", per_second(rates.ok))),
            ("", "Latency p50", time(0.5), "from the planned instant".into()),
            ("", "Latency p99", time(0.99), format!("service time {service}")),
            ("", "Latency max", time(1.0), counted(self.all.latency.count(), "arrival")),
        ];
        if let Some(messages) = &self.all.stats.messages
            && self.targets.iter().all(|(target, _)| target.stats.messages.is_some())
        {
            let [.., p50, p99, max] = &mut tiles;
            let others = [(messages.duplicates, "repeated"), (messages.reordered, "out of order")];
            let others = others.map(|(n, what)| format!("{} {what}", grouped(n))).join(", ");
            let in_order = format!("{} in order", grouped(messages.in_order));
            *p50 = ("", "Messages", grouped(messages.received), in_order);
            let class = if messages.gaps > 0 { "warn" } else { "" };
            *p99 = (class, "Missing", grouped(messages.gaps), others);
            let opening = format!("time to open {}", shown(messages.opening.quantile(0.99)));
            *max = ("", "Message lag p99", shown(messages.lag.quantile(0.99)), opening);
        }
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
        self.put_requests(&mut html);
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
        self.put_errors_by_target(&mut html);
        if let Some(table) = self.status_table(Extent::WHOLE) {
            put_table(&mut html, "HTTP statuses", &table);
        }
        if let Some(table) = self.process_table(Extent::WHOLE) {
            put_table(&mut html, "Other processes", &table);
        }
        if let Some(table) = self.log_table(Extent::WHOLE) {
            put_table(&mut html, "Logs", &table);
            self.put_examples(&mut html);
        }
        if let Some(table) = self.cost_table(Extent::WHOLE) {
            put_table(&mut html, "Cost per relay", &table);
            self.put_cost_lines(&mut html);
        }
        if let Some(table) = self.host_table(Extent::WHOLE) {
            put_table(&mut html, "Unusual seconds of the load generator's host", &table);
        }
        self.put_over_time(&mut html);
        html
    }

    fn put_requests(&self, html: &mut String) {
        let (requests, rates) = (&self.all.stats.requests, self.all.rates());
        let heads = ["arrivals", "count", "share", "per second"].map(String::from);
        let mut table = Writer::begin(html, "Requests", &heads, Vec::new());
        let rows = [
            ("scheduled", requests.scheduled, rates.scheduled),
            ("sent", requests.sent, rates.sent),
            ("ok", requests.ok, rates.ok),
            ("failed", requests.failed, None),
            ("unsent", requests.unsent, None),
        ];
        for (name, n, per_second) in rows {
            let share = percent(n as f64 / requests.scheduled.max(1) as f64);
            let tone =
                if n > 0 && ["failed", "unsent"].contains(&name) { Tone::Bad } else { Tone::Plain };
            table.row(name, &[grouped(n), share, rate(per_second)], tone);
        }
        table.end();
        if let Some(connections) = self.whole().map(|whole| &whole.connections) {
            let (peak, opened) = (grouped(connections.peak), grouped(connections.opened));
            let streams = match self.whole().and_then(Snapshot::http2) {
                Some((peak, _)) => format!(" HTTP/2 streams: at most {} at once.", grouped(peak)),
                None => String::new(),
            };
            let _ = writeln!(
                html,
                "<p>Connections: at most {peak} at once, {opened} opened.{streams}</p>"
            );
        }
    }

    /// Which targets failed, and how; only if there are several.
    fn put_errors_by_target(&self, html: &mut String) {
        let failing: Vec<&Group> =
            self.targets.iter().map(|(group, _)| group).filter(|group| fails(group)).collect();
        if failing.is_empty() || self.targets.len() < 2 {
            return;
        }
        let heads = ["target", "error", "side", "count", "of its requests", "first seen"];
        let words = vec![true, true, false, false, true];
        let mut table = Writer::begin(html, "Errors by target", &heads.map(String::from), words);
        for group in failing {
            let mut errors: Vec<_> = group.stats.errors.iter().collect();
            errors.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
            for (class, n) in errors {
                let of = |note: &&Note| note.class == class && note.target == group.name;
                let note = examples(class, self.notes().filter(of).map(|note| clean(&note.text)));
                let share = percent(n as f64 / group.stats.requests.scheduled.max(1) as f64);
                let side = self.verdict.side_of(class).to_string();
                let cells = [class.to_string(), side, grouped(n), share, note];
                table.row(&clean(&group.name), &cells, Tone::Bad);
            }
        }
        table.end();
    }

    fn put_groups(&self, html: &mut String) {
        let all = self.all.stats.requests.scheduled;
        let mut targets: Vec<&Group> = self.targets.iter().map(|(group, _)| group).collect();
        worst_first(&mut targets, false);
        let named = |groups: Vec<&'_ Group>| -> Vec<(String, Group)> {
            groups.into_iter().map(|group| (group.name.clone(), group.clone())).collect()
        };
        put_groups(html, "Targets", "target", all, &named(targets));
        // A tag with a value per target would repeat the table of targets.
        for (tag, groups) in self.tags.iter().filter(|(_, own)| own.len() < self.targets.len()) {
            let caption = format!("By tag {}", clean(tag));
            put_groups(html, &caption, tag, all, &named(groups.iter().collect()));
        }
        if self.streams.len() > 1 {
            let streams = self.streams.iter().map(|stream| &stream.group).collect();
            put_groups(html, "Streams", "stream", all, &named(streams));
        }
        let when = |group: &Group| {
            let window = group.activity.window().filter(|_| self.merged.is_none())?;
            let seconds = Seconds { from: window.from, to: window.planned_to };
            Some(format!(" ({})", seconds.since(self.facts.warmup)))
        };
        let stages: Vec<(String, Group)> = self
            .stage_groups()
            .into_iter()
            .map(|(name, group)| (name + &when(group).unwrap_or_default(), group.clone()))
            .collect();
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

/// The runs of a merged report, side by side.
fn put_runs(html: &mut String, merged: &Merged) {
    let heads = [
        "run",
        "verdict",
        "requests",
        "ok",
        "ok/s",
        "p50",
        "p99",
        "max",
        "p99 service",
        "started (UTC)",
    ];
    let mut words = vec![false; heads.len() - 1];
    words[0] = true;
    let mut table = Writer::begin(html, "Runs", &heads.map(String::from), words);
    for run in &merged.runs {
        let started = to_the_second(run.started_at);
        let (verdict, tone) = match (run.valid, run.cut_short, run.missed) {
            (false, ..) => ("invalid".into(), Tone::Bad),
            (true, _, 1..) => {
                (format!("{} missed", counted(run.missed as u64, "objective")), Tone::Bad)
            }
            (true, true, 0) => ("valid, stopped early".into(), Tone::Warn),
            (true, false, 0) if run.ok < run.scheduled => {
                ("valid, with failures".into(), Tone::Warn)
            }
            (true, false, 0) => ("valid".into(), Tone::Good),
        };
        let cells = [
            verdict,
            grouped(run.scheduled),
            percent(run.ok as f64 / run.scheduled.max(1) as f64),
            rate(run.rates.ok),
            shown(run.latency[0]),
            shown(run.latency[1]),
            shown(run.latency[2]),
            shown(run.service_time),
            started,
        ];
        let name = match merged.plans {
            1 => run.label.clone(),
            _ => format!("{} ({})", run.label, run.plan),
        };
        table.row(&clean(&name), &cells, tone);
    }
    table.end();
    html.push_str("<p>All other figures are sums of these runs.</p>\n");
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
