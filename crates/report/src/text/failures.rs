//! What failed: objectives, errors, HTTP statuses, findings.

use super::page::{Page, toned};
use super::table::{Column, Notes, Row, Section, Shape, Table};
use super::{Extent, listed};
use crate::objectives::{Unjudged, percent};
use crate::seconds::Seconds;
use crate::summary::{Group, Summary};
use crate::tone::Tone;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{ErrorClass, Finding, Note, Severity};
use plimsoll_plan::Objective;

const ERRORS: Shape = Shape {
    name: 18,
    columns: &[
        Column::words("side", 14),
        Column::figures("count", 12),
        Column::figures("when", 10),
    ],
    leaving: &["when", "side"],
    notes: Notes::Beside("first seen"),
};

const STATUSES: Shape = Shape {
    name: 18,
    columns: &[Column::figures("count", 12), Column::figures("share", 10)],
    leaving: &[],
    notes: Notes::Beneath,
};

const STATUSES_NOTED: Shape = Shape { notes: Notes::Beside("first seen"), ..STATUSES };

/// Minimum number of objectives shown, if there are that many.
const OBJECTIVES_SHOWN: usize = 5;
/// Minimum number of statuses shown, if there are that many.
const STATUSES_SHOWN: usize = 6;

impl Summary {
    pub(super) fn write_objectives(&self, extent: Extent, page: &mut Page) {
        if self.objectives.is_empty() && self.unjudged.is_empty() {
            return;
        }
        let mut judged: Vec<_> = self.objectives.iter().collect();
        judged.sort_by_key(|judged| judged.ok);
        // Missed ones are always shown.
        let missed = judged.iter().filter(|judged| !judged.ok).count();
        let rows = extent.rows.max(missed).max(OBJECTIVES_SHOWN);
        let more = Extent { rows, ..extent }.more(judged.len(), [" objective", " objectives"]);
        for judged in judged.into_iter().take(rows) {
            let run = judged.run.as_ref().map(|run| format!("{run}: ")).unwrap_or_default();
            let phrases = phrases(&run, &judged.objective, &judged.shown());
            let lead = if judged.ok {
                toned(Tone::Good, "  held       ")
            } else {
                toned(Tone::Bad, "  MISSED     ")
            };
            page.phrases(lead, &phrases);
        }
        if let Some(more) = more {
            page.text("  ", &more);
        }
        for Unjudged { objective, why } in self.unjudged.iter().take(rows) {
            let phrases = phrases("", objective, why);
            page.phrases("  not judged ", &phrases);
        }
    }

    /// Failures and arrivals not sent, by class.
    pub(crate) fn error_table(&self, extent: Extent) -> Option<Table> {
        let mut errors: Vec<_> = self.all.stats.errors.iter().collect();
        if errors.is_empty() {
            return None;
        }
        errors.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let more = extent.more(errors.len(), [" class", " classes"]);
        let row = |(class, n): (ErrorClass, u64)| {
            let of_class = self.notes().filter(|note| note.class == class);
            let note = examples(class, of_class.map(noted));
            let when = self.errors.iter().find(|(seen, _)| *seen == class);
            let when = when.map(|(_, seconds)| seconds.since(self.facts.warmup).to_string());
            let when = when.unwrap_or("–".into());
            Row::new(class.to_string(), [self.verdict.side_of(class).to_string(), grouped(n), when])
                .noted(note)
                .toned(Tone::Bad)
        };
        let rows = errors.into_iter().take(extent.rows).map(row).collect();
        let sections = vec![Section { head: "errors".into(), rows, more }];
        Some(Table { shape: &ERRORS, sections })
    }

    /// The codes of JSON-RPC errors with their counts, and how they are counted.
    pub(crate) fn error_codes(&self, extent: Extent) -> (&'static str, Vec<String>) {
        let codes = self.rpc().map(|rpc| rpc.codes.as_slice()).unwrap_or_default();
        let codes = codes.iter().take(extent.rows.max(6));
        let codes = listed(codes.map(|(code, n)| format!("{code} × {}", grouped(*n))));
        (if self.whole().is_some() { "" } else { ", the first of each request" }, codes)
    }

    pub(super) fn write_errors(&self, extent: Extent, page: &mut Page) {
        let Some(table) = self.error_table(extent) else { return };
        page.tables([table]);
        let (of, codes) = self.error_codes(extent);
        if !codes.is_empty() {
            page.phrases(&format!("  JSON-RPC error codes{of}: "), &codes);
        }
    }

    /// HTTP statuses, if there are several, or any was unexpected or is not 2xx. The first answer with
    /// an unexpected status is beside the class of the error; those with other statuses are here.
    pub(crate) fn status_table(&self, extent: Extent) -> Option<Table> {
        let extent = extent.at_least(STATUSES_SHOWN);
        let statuses = self.status()?;
        let mut statuses: Vec<(u16, u64)> = statuses.iter().collect();
        let odd = statuses.iter().any(|(status, _)| !(200..300).contains(status));
        let unexpected = self.all.stats.errors.get(ErrorClass::Status) > 0;
        if statuses.is_empty() || statuses.len() == 1 && !odd && !unexpected {
            return None;
        }
        let of_status = self.notes().filter(|note| note.class == ErrorClass::Status);
        let further: Vec<_> = of_status.skip(1).collect();
        statuses.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let all: u64 = statuses.iter().map(|(_, n)| n).sum();
        let row = |(status, n): &(u16, u64)| {
            let tone = match status {
                200..400 => Tone::Plain,
                400..500 => Tone::Warn,
                _ => Tone::Bad,
            };
            let cells = [grouped(*n), percent(*n as f64 / all as f64)];
            let note = further.iter().find(|note| note.status == Some(*status));
            let note = note.map(|note| noted(note)).unwrap_or_default();
            Row::new(status.to_string(), cells).noted(note).toned(tone)
        };
        let shape = if further.is_empty() { &STATUSES } else { &STATUSES_NOTED };
        let sections = vec![Section {
            head: "HTTP status".into(),
            more: extent.more(statuses.len(), [" status", " statuses"]),
            rows: statuses.iter().take(extent.rows).map(row).collect(),
        }];
        Some(Table { shape, sections })
    }

    /// The first errors of the run in these seconds, without those of classes and targets that are not in
    /// the report.
    pub(crate) fn notes(&self) -> impl Iterator<Item = &Note> {
        let of_target = |note: &&Note| {
            let group = self.targets.iter().find(|(group, _)| group.name == note.target);
            let count = |group: &Group| group.stats.errors.get(note.class) > 0;
            self.narrow.is_whole() || group.is_some_and(|(group, _)| count(group))
        };
        self.total.notes.iter().filter(of_target)
    }

    /// ` [3s–5s]`, when a finding was true; empty if during the whole run.
    pub(crate) fn when(&self, finding: &Finding) -> String {
        let facts = &self.facts;
        let seconds = Seconds { from: finding.from, to: finding.to };
        let whole = finding.from <= facts.warmup && finding.to >= facts.warmup + facts.duration;
        if whole { String::new() } else { format!(" [{}]", seconds.since(facts.warmup)) }
    }

    /// Findings with their seconds. Each has its fix, unless it is only for information, or the next one,
    /// of another run, has the same.
    pub(super) fn write_findings<'f>(
        &self,
        findings: impl Iterator<Item = &'f Finding>,
        page: &mut Page,
    ) {
        let mut findings = findings.peekable();
        while let Some(finding) = findings.next() {
            // In a merged report, the evidence says when.
            let when = if self.merged.is_some() { String::new() } else { self.when(finding) };
            let tone = match finding.severity {
                Severity::Invalid => Tone::Bad,
                Severity::Warning => Tone::Warn,
                Severity::Info => Tone::Plain,
            };
            let lead = format!("  {}: ", finding.id);
            page.text(toned(tone, &lead), &format!("{}{when}", finding.evidence));
            let again = |next: &&Finding| (next.id, &next.fix) == (finding.id, &finding.fix);
            if finding.severity != Severity::Info && !findings.peek().is_some_and(again) {
                page.text("    fix: ", &finding.fix);
            }
        }
    }
}

/// An objective and its result.
fn phrases(run: &str, objective: &Objective, result: &str) -> Vec<String> {
    let mut phrases = vec![format!("{run}{}", objective.that)];
    let narrowed = objective.narrowed.iter();
    phrases.extend(narrowed.map(|(tag, value)| format!("where {tag} = {value}")));
    if let Some(last) = phrases.last_mut() {
        *last += &format!(": {result}");
    }
    phrases
}

/// The notes of a class in one text. Statuses have a table of their own, which has all but the first.
pub(crate) fn examples(class: ErrorClass, notes: impl Iterator<Item = String>) -> String {
    let most = if class == ErrorClass::Status { 1 } else { Note::OF_CLASS_MAX };
    notes.take(most).collect::<Vec<_>>().join("; also: ")
}

/// A note, with the target that it concerns.
fn noted(note: &Note) -> String {
    format!("{} ({})", note.text, note.target)
}
