//! What a page shows below the tables of logs and costs: examples with their seconds, and the arithmetic of a
//! projection.

use super::{escaped, sentence};
use crate::logs::{Example, LogLines, PatternLines};
use crate::summary::Summary;
use crate::text::clean;
use plimsoll_measure::units::counted;
use std::fmt::Write as _;

impl Summary {
    /// Examples of lines that matched, each with a button that shows its second in the charts.
    pub(super) fn put_examples(&self, html: &mut String) {
        let matched = |log: &LogLines| log.patterns.iter().any(|own| own.lines > 0);
        if !self.logs.logs.iter().any(matched) {
            return;
        }
        html.push_str("<ul class=\"findings\" aria-label=\"Examples of lines\">\n");
        for log in &self.logs.logs {
            for pattern in log.patterns.iter().filter(|own| own.lines > 0) {
                self.put_pattern(html, log, pattern);
            }
        }
        html.push_str("</ul>\n");
    }

    fn put_pattern(&self, html: &mut String, log: &LogLines, pattern: &PatternLines) {
        let (text, name) = (escaped(&clean(&pattern.pattern)), escaped(&clean(&log.name)));
        let _ = writeln!(
            html,
            "<li class=\"info\"><p><code>{text}</code> <span class=\"tag\">{name}</span></p>"
        );
        for example in pattern.examples() {
            let Example { seconds, lines, text } = example;
            let since = seconds.since(self.facts.warmup);
            let _ = writeln!(
                html,
                "<p><button type=\"button\" class=\"span\" data-from=\"{:.1}\" data-to=\"{:.1}\">{}</button> \
                 {}: <samp>{}</samp></p>",
                since.from.as_secs_f64(),
                since.to.as_secs_f64(),
                self.second_of(example),
                counted(*lines, "line"),
                escaped(text.trim())
            );
        }
        html.push_str("</li>\n");
    }

    /// What is not known of the costs, and the projection with its arithmetic.
    pub(super) fn put_cost_lines(&self, html: &mut String) {
        let (mut is_projection, mut steps) = (false, false);
        for (lead, text) in self.cost_lines() {
            let (lead, text) = (escaped(&sentence_start(&lead)), escaped(&clean(&text)));
            if !is_projection {
                is_projection = lead.starts_with("Projection");
                let _ = writeln!(html, "<p><strong>{lead}:</strong> {}</p>", sentence(&text));
                continue;
            }
            if !steps {
                html.push_str("<dl class=\"terms\">\n");
                steps = true;
            }
            let _ = writeln!(html, "<dt>{lead}</dt><dd>{text}</dd>");
        }
        if steps {
            html.push_str("</dl>\n");
        }
    }
}

/// A lead with a capital letter, unless it is a name such as `vCPUs`.
fn sentence_start(lead: &str) -> String {
    let lead = lead.trim();
    if lead.starts_with("vCPU") {
        return lead.into();
    }
    let mut letters = lead.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
