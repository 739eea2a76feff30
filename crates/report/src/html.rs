//! `report.html`: a run as one page that needs no network, with charts where there is JavaScript and with
//! tables where there is none. The page that is served during a run is the same; its script then receives
//! what changes.
//!
//! All texts come from files and peers and are escaped in one place ([`escaped`]). What the script reads is
//! JSON in which `<` is escaped too, so that no value can end the script.
//!
//! # Layout
//! - `tables`: the figures as tables
//! - `agents`: the agents of a run over several hosts
//! - `data`: what the charts are drawn from
//! - `observed`: examples of log lines, and costs
//! - `words`: how each figure is defined

mod agents;
mod data;
mod observed;
mod tables;
#[cfg(test)]
mod tests;
mod words;

use crate::objectives::percent;
use crate::seconds::Seconds;
use crate::summary::Summary;
use crate::text::{clean, is_unsafe, to_the_second};
use crate::tone::Tone;
use crate::uplot;
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{Finding, Nanos, Severity};
use std::fmt::Write as _;

const STYLE: &str = include_str!("../assets/page/page.css");
/// One module: its files share their names, and define none outside.
const SCRIPT: &str = concat!(
    include_str!("../assets/page/base.js"),
    include_str!("../assets/page/chart.js"),
    include_str!("../assets/page/panels.js"),
    include_str!("../assets/page/messages.js"),
    include_str!("../assets/page/tables.js"),
    include_str!("../assets/page/live.js"),
    include_str!("../assets/page/page.js"),
);

/// A document that the page shows at its end, folded.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Its name: `plan.toml`.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// A part of the page that changes during a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The id of its element.
    pub id: &'static str,
    /// The content.
    pub html: String,
}

/// Characters without a width that make two names look the same; joiners of emoji and scripts are not
/// among them.
const INVISIBLE: [char; 5] = ['\u{ad}', '\u{180e}', '\u{200b}', '\u{2060}', '\u{feff}'];

/// Text in HTML, also in attributes. Characters that cannot be seen or reorder text are shown as escapes.
pub(crate) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(c),
            c if is_unsafe(c) || INVISIBLE.contains(&c) => {
                _ = write!(html, "\\u{{{:x}}}", u32::from(c))
            }
            c => html.push(c),
        }
    }
    html
}

impl Summary {
    /// The page. `attachments` are shown as they are; they must contain no secrets. `live`: the
    /// run goes on, and the page's server sends what changes; its directory, or an empty text.
    pub fn to_page(&self, attachments: &[Attachment], live: Option<&str>) -> String {
        let is_live = live.is_some();
        let title = escaped(&clean(&self.name));
        let mut html = String::with_capacity(1 << 18);
        let events = if is_live { "connect-src 'self'; " } else { "" };
        let csp = format!(
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; {events}\
             img-src data:; \
             base-uri 'none'; form-action 'none'"
        );
        let _ = write!(
            html,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{csp}\">\n\
             <meta name=\"generator\" content=\"plimsoll {version}\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title} – Plimsoll</title>\n<link rel=\"icon\" href=\"data:,\">\n\
             <!-- Charts: uPlot.\n{license}\n-->\n<style>{uplot}\n{STYLE}</style>\n</head>\n",
            version = env!("CARGO_PKG_VERSION"),
            license = uplot::LICENSE,
            uplot = uplot::STYLE,
        );
        let state = if is_live { " data-live" } else { "" };
        let _ = write!(
            html,
            "<body{state}>\n<a class=\"skip\" href=\"#verdict\">Skip to the verdict</a>\n{}<main>\n",
            self.head()
        );
        let [verdict, overview, tables] = self.fragments(is_live);
        put_fragment(&mut html, &verdict);
        put_fragment(&mut html, &overview);
        html += CHARTS;
        put_fragment(&mut html, &tables);
        html += &words::definitions();
        put_attachments(&mut html, attachments);
        html += "</main>\n";
        let _ = writeln!(
            html,
            "<script type=\"application/json\" id=\"data\">{}</script>",
            self.data(live)
        );
        let _ = write!(
            html,
            "<script>{}</script>\n<script type=\"module\">{SCRIPT}</script>\n</body>\n</html>\n",
            uplot::SCRIPT
        );
        html
    }

    /// The parts of the page that change during a run, in the page's order. `live`: the run goes on.
    pub fn fragments(&self, live: bool) -> [Fragment; 3] {
        [
            Fragment { id: "verdict", html: self.verdict_html(live) },
            Fragment { id: "overview", html: self.overview_html(live) },
            Fragment { id: "tables", html: self.tables_html() },
        ]
    }

    fn head(&self) -> String {
        let started = to_the_second(self.facts.started_at);
        let mut facts = vec![clean(&self.load), format!("started {started} UTC")];
        if let Some(merged) = &self.merged {
            facts[1] = format!("{} runs, the first {}", merged.runs.len(), facts[1]);
        } else {
            facts.push(format!("seed {}", self.seed));
        }
        if !self.narrow.is_whole() {
            facts.push(format!("narrowed to {}", self.narrow.words().join(", ")));
        }
        let facts: String =
            facts.iter().map(|fact| format!("<li>{}</li>", escaped(fact))).collect();
        format!(
            "<header>\n<p class=\"brand\">Plimsoll</p>\n<h1>{}</h1>\n<ul class=\"facts\">{facts}</ul>\n\
             <p id=\"state\" role=\"status\"></p>\n</header>\n",
            escaped(&clean(&self.name))
        )
    }

    fn verdict_html(&self, live: bool) -> String {
        let verdict = &self.verdict;
        let (tone, word, text) = self.verdict_in_words(live);
        let class = match tone {
            Tone::Bad => "bad",
            Tone::Warn => "warn",
            Tone::Good => "good",
            Tone::Plain | Tone::Strong => "info",
        };
        let mut html = self.part_html();
        let _ = writeln!(
            html,
            "<div class=\"banner {class}\"><h2>{word}</h2><p>{}</p></div>",
            escaped(&sentence(&text))
        );
        if verdict.valid && self.all.stats.requests.scheduled > 0 {
            let limits = self.limited_by();
            let _ = writeln!(
                html,
                "<p><strong>Limited by:</strong> {}</p>",
                escaped(&limits.join(" "))
            );
        }
        if !verdict.findings.is_empty() && tone != Tone::Plain {
            html += "<ul class=\"findings\">\n";
            verdict.findings.iter().for_each(|finding| html += &self.finding_html(finding));
            html += "</ul>\n";
        }
        html
    }

    /// What a page on a part of a run covers, and what it leaves out.
    fn part_html(&self) -> String {
        if self.narrow.is_whole() {
            return String::new();
        }
        let requests = self.all.stats.requests.scheduled;
        let share = percent(requests as f64 / self.scheduled.max(1) as f64);
        let all = counted(self.scheduled, "request");
        let words = self.narrow.words().join(", ");
        let mut html = format!(
            "<p class=\"part\"><strong>A part of the run: {}.</strong> {} of {all} ({share}). \
             Findings and validity are {}; objectives and figures are of the part.",
            escaped(&clean(&words)),
            grouped(requests),
            self.verdict_covers(),
        );
        let left_out: Vec<&str> = self.left_out().into_iter().map(|(_, words)| words).collect();
        if !left_out.is_empty() {
            let _ = write!(
                html,
                " Left out, because they are not known for the part alone: {}.",
                left_out.join(", ")
            );
        }
        html.push_str("</p>\n");
        html
    }

    /// The verdict in a word or two, and what it means. `live`: the run goes on.
    pub fn verdict_in_words(&self, live: bool) -> (Tone, String, String) {
        let requests = &self.all.stats.requests;
        if live && requests.scheduled == 0 {
            let word = if self.facts.duration == Nanos::ZERO { "Warming up" } else { "Running" };
            return (Tone::Plain, word.into(), "no request of the run has ended yet".into());
        }
        let missed = self.objectives.iter().filter(|judged| !judged.ok).count();
        let result = self.result_in_words(missed);
        let (tone, word, text) = if self.nothing_ok() {
            (Tone::Bad, "No request succeeded", self.most_frequent_error())
        } else if !self.verdict.valid {
            (Tone::Bad, "Invalid", self.distorted())
        } else if missed > 0 {
            let word = if missed == 1 { "Objective missed" } else { "Objectives missed" };
            (Tone::Bad, word, result)
        } else if self.facts.was_stopped() {
            let by = self.facts.by();
            (Tone::Warn, "Valid, stopped early", format!("the run was stopped{by}; {result}"))
        } else if requests.ok < requests.scheduled {
            (Tone::Warn, "Valid, with failures", result)
        } else {
            (Tone::Good, "Valid", result)
        };
        let so_far = if live { " so far" } else { "" };
        (tone, format!("{word}{so_far}"), text)
    }

    /// `2 of 3 objectives were missed; 54 % of the requests were answered as expected`.
    fn result_in_words(&self, missed: usize) -> String {
        let all = self.objectives.len();
        let objectives = match (missed, all) {
            (_, 0) => "no objectives".into(),
            (0, 1) => "the objective held".into(),
            (0, 2) => "both objectives held".into(),
            (0, _) => format!("all {all} objectives held"),
            (1, 1) => "the only objective was missed".into(),
            (2, 2) => "both objectives were missed".into(),
            _ => format!("{missed} of {all} objectives were missed"),
        };
        let share = self.success().map_or("–".into(), percent);
        format!("{objectives}; {share} of the requests were answered as expected")
    }

    /// `status: 1,800 of 1,800 requests`, with the first that was seen.
    fn most_frequent_error(&self) -> String {
        let errors = self.all.stats.errors.iter().max_by_key(|(_, n)| *n);
        let Some((class, n)) = errors else { return String::new() };
        let all = counted(self.all.stats.requests.scheduled, "request");
        let first = self.notes().find(|note| note.class == class);
        let first = first.map(|note| format!("; the first: {}", clean(&note.text)));
        format!("{class}: {} of {all}{}", grouped(n), first.unwrap_or_default())
    }

    fn finding_html(&self, finding: &Finding) -> String {
        let class = match finding.severity {
            Severity::Invalid => "bad",
            Severity::Warning => "warn",
            Severity::Info => "info",
        };
        let when = if self.merged.is_some() {
            String::new()
        } else {
            let since = Seconds { from: finding.from, to: finding.to }.since(self.facts.warmup);
            format!(
                " <button type=\"button\" class=\"span\" data-from=\"{:.1}\" data-to=\"{:.1}\">{}</button>",
                since.from.as_secs_f64(),
                since.to.as_secs_f64(),
                escaped(&since.to_string())
            )
        };
        let fix = match (finding.severity, finding.fix.as_str()) {
            (Severity::Info, _) | (_, "") => String::new(),
            (_, fix) => {
                format!("<p class=\"fix\"><strong>Fix:</strong> {}</p>", escaped(&clean(fix)))
            }
        };
        format!(
            "<li class=\"{class}\"><p><code>{}</code> <span class=\"tag\">{}</span> \
             <span class=\"tag\">side: {}</span>{when}</p><p>{}</p>{fix}</li>\n",
            finding.id,
            finding.severity,
            finding.side,
            escaped(&sentence(&clean(&finding.evidence)))
        )
    }
}

/// Where the script draws; without it, there is only the note.
const CHARTS: &str = "<section id=\"charts\" aria-label=\"Charts\">\n<noscript><p>The charts need JavaScript. \
                      All figures are in the tables below.</p></noscript>\n</section>\n";

fn put_fragment(html: &mut String, fragment: &Fragment) {
    let Fragment { id, html: content } = fragment;
    let _ = write!(html, "<section id=\"{id}\">\n{content}</section>\n");
}

/// Bytes of an attachment that are shown at most.
const ATTACHED_MAX: usize = 256 << 10;

fn put_attachments(html: &mut String, attachments: &[Attachment]) {
    if attachments.is_empty() {
        return;
    }
    html.push_str("<section id=\"plan\">\n<h2>Plan</h2>\n");
    for Attachment { name, text } in attachments {
        let shown = &text[..text.floor_char_boundary(ATTACHED_MAX)];
        let rest = match text.len() - shown.len() {
            0 => String::new(),
            rest => format!("<p>{rest} more bytes are in the run directory.</p>"),
        };
        let _ = writeln!(
            html,
            "<details><summary>{}</summary><pre>{}</pre>{rest}</details>",
            escaped(&clean(name)),
            escaped(shown)
        );
    }
    html.push_str("</section>\n");
}

/// The text as a sentence. One that begins with a name or a path keeps its first letter.
fn sentence(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    let word = text.split(' ').next().unwrap_or_default();
    let is_name = word.contains(['/', '.', '_', ':']);
    let start = if is_name { first.to_string() } else { first.to_uppercase().to_string() };
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{start}{}{end}", &text[first.len_utf8()..])
}
