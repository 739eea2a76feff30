//! The data of a page's charts, as JSON.
//!
//! ```text
//! {"live": bool, "folder": the run directory of a live page or null,
//!  "runs": [{"label", "started", "warmup": s, "processes": [{"name", "group"}], "logs": [NAME, …], "rows": [COLUMNS, …]}],
//!  "facts": FACTS}
//! ```
//! COLUMNS are those of [`TimeSeries::columns`](crate::TimeSeries::columns): rows from `from` on, which replace
//! earlier ones from there. FACTS hold for all runs: percentile distributions as pairs of percentile and
//! milliseconds, the share that is ok, findings, stages, and the side of each class of error.

use crate::figures::TimeFigure;
use crate::hdr::percentiles;
use crate::logs::Logs;
use crate::narrow::Scope;
use crate::scrapes::Scrapes;
use crate::series::TimeSeries;
use crate::summary::Summary;
use plimsoll_measure::{ErrorClass, Histogram, Listed, Nanos, WallClock};
use serde_json::{Value, json};

impl Summary {
    /// The JSON that the page's script reads. It contains no `<`.
    pub(super) fn data(&self, live: Option<&str>) -> String {
        let runs: Vec<String> = match &self.merged {
            Some(merged) => merged
                .runs
                .iter()
                .filter_map(|run| {
                    let series = run.series.as_ref()?;
                    let observed = (&run.scrapes, &run.logs);
                    let info = info(&run.label, run.started_at, self.facts.warmup, observed);
                    Some(self.run_data(info, series, run.warmup))
                })
                .collect(),
            None => self
                .series
                .iter()
                .map(|series| {
                    let facts = &self.facts;
                    let observed = (&self.scrapes, &self.logs);
                    let info = info(&self.name, facts.started_at, facts.warmup, observed);
                    self.run_data(info, series, facts.warmup)
                })
                .collect(),
        };
        let text = format!(
            "{{\"live\":{},\"folder\":{},\"runs\":[{}],\"facts\":{}}}",
            live.is_some(),
            json!(live.filter(|folder| !folder.is_empty())),
            runs.join(","),
            self.chart_facts()
        );
        without_tags(&text)
    }

    /// When each stage begins, by its number and load.
    fn stage_marks(&self) -> Vec<Value> {
        let marks = self.stages.iter().filter(|_| self.merged.is_none()).filter_map(|stage| {
            let (of, window) = (stage.stage.as_ref()?, stage.group.activity.window()?);
            let at = window.from.as_secs_f64() - self.facts.warmup.as_secs_f64();
            let label = crate::clean(&format!("{}: {}", of.number, of.load));
            Some(json!({ "at": at, "label": label, "stream": crate::clean(&stage.group.name) }))
        });
        marks.collect()
    }

    fn run_data(&self, info: Value, series: &TimeSeries, warmup: Nanos) -> String {
        let rows = series.columns(0..series.len(), self.narrow.scope(), warmup);
        let mut text = info.to_string();
        text.pop();
        format!("{text},\"rows\":[{rows}]}}")
    }

    /// The facts of all runs that change during a run, as JSON.
    pub fn chart_facts(&self) -> String {
        let facts = &self.facts;
        let seconds = |time: Nanos| time.as_secs_f64() - facts.warmup.as_secs_f64();
        let distribution =
            |figure: TimeFigure| (figure.name().to_string(), steps(figure.of(&self.all)));
        let of_one = self.merged.is_none();
        let findings = self.verdict.findings.iter().filter(|_| of_one).map(|finding| {
            json!({
                "id": finding.id.name(),
                "severity": finding.severity.name(),
                "side": finding.side.name(),
                "from": seconds(finding.from),
                "to": seconds(finding.to),
            })
        });
        let sides = ErrorClass::ALL.iter().map(|class| {
            (class.name().to_string(), Value::from(self.verdict.side_of(*class).name()))
        });
        let value = json!({
            "valid": self.verdict.valid,
            "duration": facts.duration.as_secs_f64(),
            "planned": self.planned.map(Nanos::as_secs_f64),
            "ok": self.all.stats.requests.success(),
            "in_flight": self.total.in_flight,
            "stopping": facts.stopped_by.is_some(),
            "stages": self.stage_marks(),
            "percentiles": Value::Object(TimeFigure::ALL.into_iter().map(distribution).collect()),
            "findings": findings.collect::<Vec<Value>>(),
            "sides": Value::Object(sides.collect()),
            "whole": self.narrow.scope() == Scope::Run,
        });
        without_tags(&value.to_string())
    }
}

fn info(
    label: &str,
    started: WallClock,
    warmup: Nanos,
    (scrapes, logs): (&Scrapes, &Logs),
) -> Value {
    let processes = scrapes.processes.iter().map(|process| {
        json!({
            "name": crate::clean(&process.name),
            "group": crate::clean(&process.group),
            "missing": process.missing,
        })
    });
    json!({
        "label": crate::clean(label),
        "started": started.rfc3339(),
        "warmup": warmup.as_secs_f64(),
        "processes": processes.collect::<Vec<Value>>(),
        "logs": logs.logs.iter().map(|log| crate::clean(&log.name)).collect::<Vec<String>>(),
    })
}

/// Percentiles with their values in milliseconds: about five in each half of the rest, and the common ones.
fn steps(histogram: &Histogram) -> Value {
    let mut steps: Vec<(f64, f64)> = percentiles(histogram)
        .into_iter()
        .map(|(value, percentile, _)| (percentile, value.as_millis_f64()))
        .collect();
    // Beyond the last but one, each percentile is the maximum.
    let finest = steps.iter().rev().nth(1).map_or(0.0, |(percentile, _)| *percentile);
    for percentile in [50.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999] {
        let is_new = steps.iter().all(|(own, _)| *own != percentile) && percentile < finest;
        if let Some(value) = histogram.quantile(percentile / 100.0).filter(|_| is_new) {
            steps.push((percentile, value.as_millis_f64()));
        }
    }
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    steps.into_iter().map(|(percentile, value)| json!([percentile, value])).collect()
}

/// JSON without `<`, which could end a script, and `>`; they can stand only within strings.
fn without_tags(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_percentiles_are_those_of_the_tables() {
        let mut histogram = Histogram::new();
        for n in 1..=5_000u64 {
            histogram.record(Nanos::from_micros(n * n));
        }
        let steps = steps(&histogram);
        let value = |percentile: f64| {
            let all = steps.as_array().unwrap();
            let found = all.iter().find(|step| step[0].as_f64() == Some(percentile));
            found.map(|step| step[1].as_f64().unwrap())
        };
        for percentile in [50.0, 90.0, 95.0, 99.0, 99.9] {
            let own = histogram.quantile(percentile / 100.0).unwrap().as_millis_f64();
            assert_eq!(value(percentile), Some(own), "{percentile}");
        }
        assert_eq!(value(99.999), None, "finer than the values");
        let all: Vec<f64> =
            steps.as_array().unwrap().iter().map(|step| step[0].as_f64().unwrap()).collect();
        assert!(all.is_sorted_by(|a, b| a < b) && all.last() == Some(&100.0), "{all:?}");
        assert_eq!(super::steps(&Histogram::new()), json!([]));
    }
}
