//! What vegeta does not say, on stderr after an attack: whether the figures can be trusted, and what
//! limited them.

use super::results::Written;
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{Finding, FindingId, Histogram, Nanos};
use plimsoll_report::{Summary, clean, paragraph};

/// Findings shown.
const FINDINGS_MAX: usize = 3;

/// The share of requests that may wait for their target before the attack counts as distorted.
const STARVED_MAX: f64 = 0.01;
/// Settings as findings name them, and as flags.
const NAMES: [(&str, &str); 16] = [
    ("; --trace 5 prints whole exchanges", ""),
    ("see the tables of errors and statuses", "see vegeta report on the results"),
    ("set redirects = N", "set -redirects=N"),
    ("raise redirects", "raise -redirects"),
    ("than the plan allows", "than -redirects allows"),
    ("raise the rate; plimsoll check PLAN shows the schedule", "raise -rate"),
    ("tls.ca", "-root-certs"),
    ("tls.cert and tls.key", "-cert and -key"),
    ("--insecure", "-insecure"),
    ("the plan's folder", "the current directory"),
    ("connections.max", "-max-connections"),
    ("max_in_flight", "-max-workers"),
    ("connections.source", "-laddr"),
    ("--workers ", "-cpus="),
    ("grace", "-timeout"),
    ("set connections.reuse = true", "remove -keepalive=false"),
];

/// What the summary needs to know of the attack.
pub(super) struct Facts {
    /// How many requests waited for their target.
    pub(super) starved: u64,
    /// Whether it lasts until it is stopped.
    pub(super) is_endless: bool,
}

/// The lines, for a terminal of this width.
pub(super) fn text(summary: &Summary, written: &Written, facts: &Facts, columns: usize) -> String {
    let mut out = String::new();
    let mut line = |lead: &str, text: String| out += &paragraph(lead, &clean(&text), columns);
    let verdict = &summary.verdict;
    let trusted = if verdict.valid {
        "valid"
    } else {
        "INVALID: the load generator distorted this attack; its results do not describe the target"
    };
    let limited = match verdict.limited_by {
        Some(side) => format!(", limited by the {side}"),
        None => String::new(),
    };
    let headline = if verdict.valid { format!("{trusted}{limited}") } else { trusted.into() };
    line("verdict    ", headline);
    let requests = &summary.all.stats.requests;
    line(
        "requests   ",
        format!(
            "{} planned, {} sent{}; {} answered with a status of 200 to 399",
            grouped(requests.scheduled),
            grouped(requests.sent),
            unsent(summary, written),
            grouped(requests.ok)
        ),
    );
    line("latency    ", format!("{}, from the planned instant", quantiles(&summary.all.latency)));
    line(
        "           ",
        format!("{}, from the start of sending, as vegeta counts", quantiles(&written.latency)),
    );
    let starved = facts.starved;
    // The first request may come before the input was opened.
    let is_starved = starved > 1 && starved as f64 > requests.scheduled as f64 * STARVED_MAX;
    if is_starved {
        let evidence = format!(
            "{} of {} requests waited for their target: the input is slower than the rate",
            grouped(starved),
            grouped(requests.scheduled)
        );
        line("finding    ", evidence);
        line("           ", "fix: lower -rate, or write the targets to a file first".into());
    }
    // What made the requests late is known then.
    let late = [FindingId::LagHigh, FindingId::PlanNotHeld, FindingId::HostNoise];
    let is_explained = |id: FindingId| {
        is_starved && late.contains(&id) || facts.is_endless && id == FindingId::CutShort
    };
    let others = verdict.findings.iter().filter(|own| !is_explained(own.id));
    let findings: Vec<&Finding> = others.collect();
    for finding in findings.iter().take(FINDINGS_MAX) {
        line("finding    ", as_flags(&finding.evidence));
        if !finding.fix.is_empty() {
            line("           ", format!("fix: {}", as_flags(&finding.fix)));
        }
    }
    if findings.len() > FINDINGS_MAX {
        let more = (findings.len() - FINDINGS_MAX) as u64;
        line("           ", format!("and {}", counted(more, "more finding")));
    }
    let dropped = written.dropped;
    if dropped.bodies > 0 {
        line(
            "left out   ",
            format!(
                "{} of {} results, because they did not fit into the 48 MiB that wait for the output",
                if dropped.bodies == 1 {
                    "1 body".into()
                } else {
                    format!("{} bodies", grouped(dropped.bodies))
                },
                grouped(written.results)
            ),
        );
    }
    if dropped.results > 0 {
        line(
            "left out   ",
            format!(
                "{}, because the output was written too slowly: the output is incomplete; write to a file, or \
                 set -max-body",
                counted(dropped.results, "result")
            ),
        );
    }
    out
}

/// What became of the requests that were not sent; empty if there are none.
fn unsent(summary: &Summary, written: &Written) -> String {
    let requests = &summary.all.stats.requests;
    // Those that failed while connecting have a result.
    let results = written.results + written.dropped.results;
    let failed = results.saturating_sub(requests.sent).min(requests.unsent);
    let mut text = String::new();
    for (n, what) in
        [(failed, "failed before they were sent"), (requests.unsent - failed, "not started")]
    {
        if n > 0 {
            text += &format!(", {} {what}", grouped(n));
        }
    }
    text
}

/// The text with settings named as flags of vegeta.
pub(in crate::vegeta) fn as_flags(text: &str) -> String {
    NAMES.iter().fold(text.into(), |text: String, (name, flag)| text.replace(name, flag))
}

fn quantiles(histogram: &Histogram) -> String {
    let at = |quantile| histogram.quantile(quantile).unwrap_or(Nanos::ZERO);
    let max = histogram.max().unwrap_or(Nanos::ZERO);
    format!("p50 {}, p95 {}, p99 {}, max {max}", at(0.5), at(0.95), at(0.99))
}
