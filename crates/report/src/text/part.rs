//! What a report covers, if that is not one whole run: the filters, and the runs that are merged.

use super::page::{Page, toned};
use super::table::{Column, Notes, Row, Shape, Table};
use super::{limit, listed, to_the_second};
use crate::merge::{Merged, MergedRun};
use crate::narrow::Scope;
use crate::objectives::percent;
use crate::summary::Summary;
use crate::tone::Tone;
use plimsoll_measure::units::{counted, grouped};

const RUNS: Shape = Shape {
    name: 30,
    columns: &[
        Column::figures("requests", 12),
        Column::figures("share", 9),
        Column::figures("ok", 9),
        Column::words("  started (UTC)", 22),
        Column::words("verdict", 8),
    ],
    leaving: &["share", "  started (UTC)"],
    notes: Notes::Beneath,
};

impl Summary {
    /// What the report is narrowed to, what that leaves out, and what the verdict covers.
    pub(super) fn write_part(&self, page: &mut Page) {
        if self.narrow.is_whole() {
            return;
        }
        page.phrases(toned(Tone::Strong, "narrowed to: "), &listed(self.narrow.words()));
        let requests = self.all.stats.requests.scheduled;
        let share = percent(requests as f64 / self.scheduled.max(1) as f64);
        let all = counted(self.scheduled, "request");
        page.text("  requests   ", &format!("{} of {all} ({share})", grouped(requests)));
        let left_out = self.left_out();
        if !left_out.is_empty() {
            let words = left_out.into_iter().map(|(_, words)| words.to_string());
            page.phrases("  left out   ", &listed(words));
            let why = match self.narrow.scope() {
                Scope::Targets => "they are counted for a stream or the whole run, not by target",
                _ => "they are counted for the whole run, not by stream",
            };
            page.text("             ", why);
        }
        if let Some(why) = &self.records_unused {
            page.text("  records    ", &format!("not used: {why}"));
        }
        page.text("  verdict    ", self.verdict_covers());
        page.gap();
    }

    /// What the verdict of a narrowed report is about.
    pub(crate) fn verdict_covers(&self) -> &'static str {
        match self.narrow.scope() {
            Scope::Run => "of all requests in these seconds",
            Scope::Streams => "of these streams and seconds",
            Scope::Targets => {
                "of all targets of these streams in these seconds, not of the selection alone"
            }
        }
    }

    /// The runs of a merged report.
    pub(super) fn write_runs(&self, page: &mut Page) {
        let Some(merged) = &self.merged else { return };
        let plans = match merged.plans {
            1 => "of one plan".into(),
            plans => format!("of {plans} different plans"),
        };
        let runs = counted(merged.runs.len() as u64, "run");
        page.text(toned(Tone::Strong, "merged: "), &format!("{runs} {plans}"));
        let rates =
            format!("per second of the {} in which any run was active", self.all.activity.len());
        page.text("  rates      ", &rates);
        for (given, counted) in &merged.repeated {
            let repeated = if given == counted {
                format!("{given} was given more than once; it is counted once")
            } else {
                format!("{given} is the same run as {counted}; it is counted once")
            };
            page.text("  repeated   ", &repeated);
        }
        if merged.plans > 1 && !self.objectives.is_empty() {
            page.text("  objectives ", "judged on each run alone, because the plans differ");
        }
        page.gap();
        page.table(&runs_table(merged));
        page.gap();
    }

    /// Why the figures of an invalid report mislead.
    pub(crate) fn distorted(&self) -> String {
        let Some(merged) = &self.merged else {
            return "the load generator distorted this run; the figures below do not describe the target"
                .into();
        };
        let invalid: Vec<&MergedRun> = merged.runs.iter().filter(|run| !run.valid).collect();
        let share = percent(invalid.iter().map(|run| merged.share(run)).sum());
        let names: Vec<&str> = invalid.iter().map(|run| run.label.as_str()).collect();
        format!(
            "the load generator distorted {} ({share} of the requests); the figures below do not describe \
             the target. Leave {} out",
            names.join(" and "),
            if invalid.len() == 1 { "it" } else { "them" },
        )
    }

    /// What limited each run, for a report on several.
    pub(super) fn limits_by_run(&self) -> Option<Vec<String>> {
        let merged = self.merged.as_ref()?;
        let mut limits: Vec<(&str, Vec<&str>)> = Vec::new();
        for run in &merged.runs {
            let what = limit(run.limited_by, self.limited_load());
            match limits.iter_mut().find(|(own, _)| *own == what) {
                Some((_, runs)) => runs.push(&run.label),
                None => limits.push((what, vec![&run.label])),
            }
        }
        let one = limits.len() == 1;
        let words = |(what, runs): (&str, Vec<&str>)| {
            if one { what.to_string() } else { format!("{what} ({})", runs.join(", ")) }
        };
        Some(limits.into_iter().map(words).collect())
    }
}

/// The runs of a merged report.
fn runs_table(merged: &Merged) -> Table {
    let rows = merged.runs.iter().map(|run| row(merged, run)).collect();
    Table::of(&RUNS, "run".into(), rows)
}

fn row(merged: &Merged, run: &MergedRun) -> Row {
    let started = to_the_second(run.started_at);
    let ok = percent(run.ok as f64 / run.scheduled.max(1) as f64);
    let (verdict, tone) = match (run.valid, run.cut_short) {
        (false, _) => ("INVALID", Tone::Bad),
        (true, true) => ("stopped", Tone::Warn),
        (true, false) => ("valid", Tone::Plain),
    };
    let cells = [
        grouped(run.scheduled),
        percent(merged.share(run)),
        ok,
        format!("  {started}"),
        verdict.into(),
    ];
    let row = Row::new(&run.label, cells).toned(tone);
    if merged.plans > 1 { row.noted(run.plan.clone()) } else { row }
}
