//! `vegeta report`: figures of results, as text, JSON, a histogram or an HDR plot.

use super::files::Output;
use super::refused;
use super::results::{Results, inputs};
use crate::tell;
use plimsoll_compat::vegeta::flags::Flags;
use plimsoll_compat::vegeta::{
    BadBuckets, Buckets, Duration, ERRORS_MAX, EXACT_MAX, Fields, Metrics, report,
};
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{Clock, Nanos};
use std::process::ExitCode;

/// Moves the cursor to the top of an empty screen.
const CLEAR_SCREEN: &[u8] = b"\x1b[2J\x1b[0;0H";

/// What to report.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Json(Option<Buckets>),
    Histogram(Buckets),
    HdrPlot,
}

impl Kind {
    /// Reads `-type` and `-buckets`.
    fn of(kind: &str, buckets: &str) -> anyhow::Result<Kind> {
        let parse = |text: &str| Buckets::parse(text).map_err(bad_buckets);
        match kind {
            "text" => Ok(Kind::Text),
            "json" if buckets.is_empty() => Ok(Kind::Json(None)),
            "json" => Ok(Kind::Json(Some(parse(buckets)?))),
            "hdrplot" => Ok(Kind::HdrPlot),
            "plot" => Err(refused("the report type plot was replaced", "use vegeta plot")),
            _ => match kind.strip_prefix("hist") {
                Some(own) if buckets.is_empty() => Ok(Kind::Histogram(parse(own)?)),
                Some(_) => Ok(Kind::Histogram(parse(buckets)?)),
                None => Err(refused(
                    format!("unknown report type: {kind:?}"),
                    "the types are text, json, hist[buckets] and hdrplot",
                )),
            },
        }
    }

    fn buckets(&self) -> Option<Buckets> {
        match self {
            Kind::Json(buckets) => buckets.clone(),
            Kind::Histogram(buckets) => Some(buckets.clone()),
            Kind::Text | Kind::HdrPlot => None,
        }
    }

    fn write(&self, metrics: &Metrics) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Kind::Text => report::text(metrics).into_bytes(),
            Kind::Json(_) => report::json(metrics)?,
            Kind::Histogram(_) => {
                let buckets = metrics.buckets.as_ref().expect("counted for this kind");
                report::histogram(buckets).into_bytes()
            }
            Kind::HdrPlot => report::hdr_plot(metrics).into_bytes(),
        })
    }
}

fn bad_buckets(bad: BadBuckets) -> anyhow::Error {
    refused(bad.to_string(), "list their lower bounds with units, such as '[0,10ms,100ms]'")
}

/// Reads all results and reports on them; with `-every`, also in between.
pub(super) fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let kind = Kind::of(&flags.text("type"), &flags.text("buckets"))?;
    let inputs = inputs(flags);
    let mut results = Results::open(&inputs, Fields::Figures)?;
    let mut output = Output::create(&flags.path("output"), &inputs)?;
    let mut metrics = Metrics::new(kind.buckets());
    let mut ticker = Ticker::every(flags.duration("every"));
    while let Some(hit) = results.read() {
        metrics.add(hit);
        if ticker.as_mut().is_some_and(Ticker::is_due) {
            metrics.close();
            let clear = if output.is_stdout() { CLEAR_SCREEN } else { b"" };
            if !output.write(&[clear, &kind.write(&metrics)?].concat())? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    results.require_any()?;
    metrics.close();
    output.write(&kind.write(&metrics)?)?;
    if kind == Kind::Text {
        notes(&metrics).iter().for_each(|note| tell(note));
    }
    if !metrics.latencies.is_exact() {
        let limit = grouped(EXACT_MAX as u64);
        tell(&format!("note: more than {limit} results: quantiles are within 0.1 %, not exact"));
    }
    Ok(results.finish())
}

/// What the results show and the text report does not say.
fn notes(metrics: &Metrics) -> Vec<String> {
    let mut notes = Vec::new();
    let (unanswered, requests) = (metrics.unanswered, metrics.requests);
    if unanswered > metrics.not_requests {
        notes.push(format!(
            "note: {} of {} got no response (status 0); their latency is the time until they failed",
            grouped(unanswered - metrics.not_requests),
            counted(requests, "request"),
        ));
    }
    if metrics.not_requests > 0 {
        notes.push(format!(
            "note: {} with the error \"no targets to attack\" were never sent: vegeta's attack -lazy \
             writes them at the end of its targets, and they lower the success ratio",
            counted(metrics.not_requests, "result"),
        ));
    }
    if metrics.errors_left_out > 0 {
        notes.push(format!(
            "note: the error set is incomplete: {} had errors beyond the first {} different ones",
            counted(metrics.errors_left_out, "result"),
            grouped(metrics.errors.len().min(ERRORS_MAX) as u64),
        ));
    }
    notes
}

/// Reports that are due at an interval.
struct Ticker {
    clock: Clock,
    every: Nanos,
    next: Nanos,
}

impl Ticker {
    /// `None` if the interval is zero or negative.
    fn every(interval: Duration) -> Option<Ticker> {
        let every = Nanos(u64::try_from(interval.0).ok().filter(|nanos| *nanos > 0)?);
        let clock = Clock::start();
        Some(Ticker { next: clock.now() + every, clock, every })
    }

    /// Whether a report is due; ones that were missed are left out.
    fn is_due(&mut self) -> bool {
        let now = self.clock.now();
        let due = now >= self.next;
        if due {
            self.next = now + self.every;
        }
        due
    }
}
