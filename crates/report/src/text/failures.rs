//! What failed: objectives, errors, HTTP statuses, findings.

use super::page::{Page, toned};
use super::table::{Column, Notes, Row, Section, Shape, Table};
use super::{Extent, listed};
use crate::objectives::percent;
use crate::seconds::Seconds;
use crate::summary::Summary;
use crate::tone::Tone;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{ErrorClass, Finding, Note, Severity};

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
        if self.objectives.is_empty() {
            return;
        }
        let mut judged: Vec<_> = self.objectives.iter().collect();
        judged.sort_by_key(|judged| judged.ok);
        // Missed ones are always shown.
        let missed = judged.iter().filter(|judged| !judged.ok).count();
        let rows = extent.rows.max(missed).max(OBJECTIVES_SHOWN);
        let more = Extent { rows, ..extent }.more(judged.len(), [" objective", " objectives"]);
        for judged in judged.into_iter().take(rows) {
            let objective = &judged.objective;
            let narrowed = objective.narrowed.iter();
            let mut phrases = vec![objective.that.clone()];
            phrases.extend(narrowed.map(|(tag, value)| format!("where {tag} = {value}")));
            if let Some(last) = phrases.last_mut() {
                *last += &format!(": {}", judged.shown());
            }
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
    }

    pub(super) fn write_errors(&self, extent: Extent, page: &mut Page) {
        let mut errors: Vec<_> = self.all.stats.errors.iter().collect();
        if errors.is_empty() {
            return;
        }
        errors.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let more = extent.more(errors.len(), [" class", " classes"]);
        let row = |(class, n): (ErrorClass, u64)| {
            let note = self.total.notes.iter().find(|note| note.class == class);
            let note = note.map(noted);
            let when = self.errors.iter().find(|(seen, _)| *seen == class);
            let when = when.map(|(_, seconds)| seconds.since(self.facts.warmup).to_string());
            let when = when.unwrap_or("–".into());
            Row::new(class.to_string(), [self.verdict.side_of(class).to_string(), grouped(n), when])
                .noted(note.unwrap_or_default())
                .toned(Tone::Bad)
        };
        let rows = errors.into_iter().take(extent.rows).map(row).collect();
        page.gap();
        page.table(&Table {
            shape: &ERRORS,
            sections: vec![Section { head: "errors".into(), rows, more }],
        });
        let codes = self.total.rpc.codes.iter().take(extent.rows.max(6));
        let codes = listed(codes.map(|(code, n)| format!("{code} × {}", grouped(*n))));
        if !codes.is_empty() {
            page.phrases("  JSON-RPC error codes: ", &codes);
        }
    }

    /// HTTP statuses, if there are several, or any was unexpected or is not 2xx. The first answer with
    /// an unexpected status is beside the class of the error; those with other statuses are here.
    pub(super) fn write_statuses(&self, extent: Extent, page: &mut Page) {
        let extent = extent.at_least(STATUSES_SHOWN);
        let mut statuses: Vec<(u16, u64)> = self.total.status.iter().collect();
        let odd = statuses.iter().any(|(status, _)| !(200..300).contains(status));
        let unexpected = self.all.stats.errors.get(ErrorClass::Status) > 0;
        if statuses.is_empty() || statuses.len() == 1 && !odd && !unexpected {
            return;
        }
        let of_status = self.total.notes.iter().filter(|note| note.class == ErrorClass::Status);
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
        page.gap();
        page.table(&Table {
            shape,
            sections: vec![Section {
                head: "HTTP status".into(),
                more: extent.more(statuses.len(), [" status", " statuses"]),
                rows: statuses.iter().take(extent.rows).map(row).collect(),
            }],
        });
    }

    /// A finding with its seconds and, unless it is only for information, its fix.
    pub(super) fn write_finding(&self, finding: &Finding, page: &mut Page) {
        let facts = &self.facts;
        let seconds = Seconds { from: finding.from, to: finding.to };
        let whole = finding.from <= facts.warmup && finding.to >= facts.warmup + facts.duration;
        let when = seconds.since(facts.warmup);
        let when = if whole { String::new() } else { format!(" [{when}]") };
        let tone = match finding.severity {
            Severity::Invalid => Tone::Bad,
            Severity::Warning => Tone::Warn,
            Severity::Info => Tone::Plain,
        };
        let lead = format!("  {}: ", finding.id);
        page.text(toned(tone, &lead), &format!("{}{when}", finding.evidence));
        if finding.severity != Severity::Info {
            page.text("    fix: ", &finding.fix);
        }
    }
}

/// A note, with the target that it concerns.
fn noted(note: &Note) -> String {
    format!("{} ({})", note.text, note.target)
}
