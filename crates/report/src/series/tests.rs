//! Rows of any length have the figures of their seconds, in bounded memory.

use super::*;
use crate::narrow::{Filters, Scope};
use crate::synthetic::{Recording, open, plan};
use plimsoll_measure::rng::Key;
use plimsoll_measure::{WallClock, prometheus};
use serde_json::Value;

fn columns(series: &TimeSeries, start: Nanos) -> Value {
    serde_json::from_str(&series.columns(0..series.len(), Scope::Run, start)).unwrap()
}

/// A series of at most `rows_max` rows from the same seconds.
fn rebuilt(recording: &Recording<'_>, rows_max: usize) -> TimeSeries {
    let mut series = TimeSeries { rows_max, ..TimeSeries::new(recording.plan) };
    let mut at = Nanos::ZERO;
    for second in &recording.seconds {
        let seconds = Seconds { from: at, to: second.t };
        at = second.t;
        series.add(second, seconds, None, &[]);
    }
    series
}

#[test]
fn rows_that_become_longer_lose_nothing() {
    let plan = open(100, 50);
    let mut recording = Recording::new(&plan);
    for second in 0..50u64 {
        let of = |n: u64| Key::new(7).with(second * 9 + n).bits();
        recording.second(|filled| {
            filled.ok(0, 50 + of(0) % 40, Nanos::from_micros(1 + of(1) % 5_000));
            filled.ok(0, 1 + of(2) % 9, Nanos::from_micros(1 + of(3) % 90_000));
            filled.failed(0, of(4) % 3, ErrorClass::RpcError, Nanos::from_micros(7));
        });
    }
    let each = rebuilt(&recording, 1_000);
    for rows_max in [2, 4, 8, 24, 26, 48, 50] {
        let series = rebuilt(&recording, rows_max);
        assert!(series.len() <= rows_max, "{} of {rows_max}", series.len());
        assert!(series.complete() <= series.len() && series.width().is_power_of_two());
        let width = series.width();
        let scheduled = |series: &TimeSeries| -> Vec<u64> {
            let open = series.last.iter().map(|(counts, ..)| counts);
            let rows = series.rows.iter().map(|(counts, _)| counts).chain(open);
            rows.map(|counts| counts.requests.scheduled).collect()
        };
        let expected: Vec<u64> =
            scheduled(&each).chunks(width).map(|chunk| chunk.iter().sum()).collect();
        assert_eq!(scheduled(&series), expected);
        // Percentiles and cells of a row are those of its seconds.
        for (row, seconds) in recording.seconds.chunks(width).enumerate() {
            let mut times = Times::default();
            seconds.iter().for_each(|second| times.merge(Times::of(second)));
            let expected = Figures::of(&times);
            let figures = match series.rows.get(row) {
                Some((_, packed)) => packed.figures.clone(),
                None => Figures::of(&series.last.as_ref().unwrap().1),
            };
            assert_eq!((figures.latency, &figures.heat), (expected.latency, &expected.heat));
        }
    }
}

#[test]
fn cells_cover_every_latency() {
    let mut last = 0;
    for value in (0..5_000).chain((5..3_600_000).map(|micros| micros * 1_000)) {
        let cell = cell_of(Nanos(value));
        assert!(cell == last || cell == last + 1 || value == 0, "{value}: {cell} after {last}");
        last = cell;
        let (power, within) = (cell / CELLS, u64::from(cell % CELLS));
        let low = (1u64 << power) + ((within << power) / u64::from(CELLS));
        assert!(low <= value.max(4), "{value} in the cell from {low}");
    }
}

#[test]
fn columns_show_rates_times_and_errors() {
    let plan = plan(
        "warmup = \"1s\"\nrate = \"100/s\"\nduration = \"3s\"\n\
         [[target]]\nname = \"a\"\nrequest = \"GET http://a/\"\n",
    );
    let mut recording = Recording::new(&plan);
    recording.second(|filled| filled.snapshot.warmup.scheduled = 0);
    recording.second(|filled| filled.ok(0, 100, Nanos::from_millis(5)));
    recording.second(|filled| {
        filled.ok(0, 60, Nanos::from_millis(5));
        filled.failed(0, 40, ErrorClass::ResponseTimeout, Nanos::from_secs(1));
    });
    let summary = recording.summary();
    let shown = columns(summary.series.as_ref().unwrap(), plan.warmup);
    assert_eq!(shown["t"], serde_json::json!([-1, 0, 1]));
    assert_eq!(shown["ok"], serde_json::json!([0, 100, 60]));
    assert_eq!(shown["failed"], serde_json::json!([0, 0, 40]));
    assert_eq!(shown["errors"]["response_timeout"], serde_json::json!([0, 0, 40]));
    assert_eq!(shown["latency"]["p50"][0], Value::Null);
    assert_eq!(shown["latency"]["max"][2].as_f64().unwrap().round(), 1_000.0);
    assert_eq!(shown["heat"][0], serde_json::json!([]));
    // A part of the streams has no figures of the whole process.
    let filters = Filters { targets: vec!["a".into()], ..Filters::default() };
    let part = recording.filtered(&filters).unwrap();
    assert_eq!(part.narrow.scope(), Scope::Run);
    let series = part.series.as_ref().unwrap();
    for (scope, known) in [(Scope::Streams, true), (Scope::Targets, false)] {
        let text = series.columns(0..series.len(), scope, Nanos::ZERO);
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((shown["planned"].is_array(), shown["in_flight"].is_array()), (known, false));
    }
    let short = series.shortened(2, Scope::Run, plan.warmup);
    let names: Vec<&str> = short.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["0s–1s", "1s–2s"]);
}

#[test]
fn the_last_milliseconds_have_no_rate() {
    let plan = open(100, 1);
    let mut recording = Recording::new(&plan);
    recording.second(|filled| filled.ok(0, 99, Nanos::from_millis(5)));
    recording.second(|filled| filled.ok(0, 1, Nanos::from_millis(5)));
    let shown = |lengths: [u64; 2]| {
        let mut series = TimeSeries::new(&plan);
        let mut from = Nanos::ZERO;
        for (second, millis) in recording.seconds.iter().zip(lengths) {
            let to = from + Nanos::from_millis(millis);
            series.add(second, Seconds { from, to }, None, &[]);
            from = to;
        }
        columns(&series, Nanos::ZERO)
    };
    assert_eq!(shown([1_000, 8])["ok"], serde_json::json!([99, null]));
    assert_eq!(shown([1_000, 8])["latency"]["max"].as_array().unwrap().len(), 2);
    assert_eq!(shown([1_000, 500])["ok"], serde_json::json!([99, 2]));
    assert_eq!(shown([10, 0])["ok"], serde_json::json!([9900]), "the only row");
}

#[test]
fn times_of_rows_are_exact_to_the_millisecond() {
    let plan = open(1, 1);
    let mut series = TimeSeries::new(&plan);
    let (from, to) = (Nanos::from_millis(1_234_500), Nanos::from_millis(1_234_509));
    series.add(&plan.blank_snapshot(), Seconds { from, to }, None, &[]);
    let shown = columns(&series, Nanos::from_millis(500));
    assert_eq!(
        (&shown["t"], &shown["to"]),
        (&serde_json::json!([1234]), &serde_json::json!([1234.009]))
    );
}

#[test]
fn rates_of_processes_are_exact_over_failed_scrapes_and_restarts() {
    let plan = plan(
        "rate = \"1/s\"\nduration = \"9s\"\n[[target]]\nrequest = \"GET http://a/\"\n\
         [[scrape]]\nname = \"gw\"\nurl = \"http://a/metrics\"\n\
         charts = [\"open\", \"seen_total by kind\"]\n",
    );
    let page = |second: u64, text: &str| {
        let at = WallClock { unix_ns: second * 1_000_000_000 };
        Scraped::page(at, prometheus::parse(&text.replace(';', "\n")).unwrap(), &[])
    };
    let cpu = |used: f64, relays: u64| {
        format!(
            "process_cpu_seconds_total {used};process_resident_memory_bytes 1e6;open {relays};\
             plimsoll_relays_total{{upstream=\"u\"}} {relays};seen_total{{kind=\"x\"}} {relays}"
        )
    };
    let read = [
        page(1, &cpu(1.0, 0)),
        page(2, &cpu(1.5, 100)),
        Scraped::failure("refused"),
        page(4, &cpu(2.5, 300)),
        page(5, &cpu(0.25, 50)),
    ];
    let mut series = TimeSeries::new(&plan);
    let mut sum = Scraped::default();
    for (second, read) in (1..).zip(read) {
        sum.append(&read);
        let mut snapshot = plan.blank_snapshot();
        snapshot.t = Nanos::from_secs(second);
        let seconds = Seconds { from: Nanos::from_secs(second - 1), to: snapshot.t };
        series.add(&snapshot, seconds, None, std::slice::from_ref(&sum));
    }
    let shown = columns(&series, Nanos::ZERO);
    let line = |metric: &str| {
        let lines = shown["processes"].as_array().unwrap();
        let found = lines.iter().find(|line| line["metric"] == metric);
        found.unwrap_or_else(|| panic!("{metric} in {lines:?}"))["values"].clone()
    };
    assert_eq!(line("cpu"), serde_json::json!([null, 0.5, null, 0.5, 0.25]));
    assert_eq!(line("relays"), serde_json::json!([null, 100, null, 100, 50]));
    assert_eq!(line("seen_total by kind"), line("relays"));
    // A level, not a rate.
    assert_eq!(line("open"), serde_json::json!([0, 100, null, 300, 50]));
    assert_eq!(line("memory"), serde_json::json!([1000000, 1000000, null, 1000000, 1000000]));
}
