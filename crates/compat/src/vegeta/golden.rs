//! Files that the real vegeta wrote (`golden/make`): read, written and reported on, byte for byte.

use super::report::{hdr_plot, histogram, json, text};
use super::{Buckets, Encoder, Fields, Hit, Metrics, Reader};
use std::path::Path;

const NAMES: [&str; 3] = ["mixed", "equal", "one"];

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)).unwrap()
}

fn read(bytes: &[u8], fields: Fields) -> Vec<Hit> {
    let mut reader = Reader::new(bytes, fields);
    let (mut hits, mut hit) = (Vec::new(), Hit::default());
    while reader.read(&mut hit).unwrap() {
        hits.push(hit.clone());
    }
    hits
}

fn write(hits: &[Hit], encoding: &str) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::named(encoding).unwrap(), Vec::new());
    hits.iter().for_each(|hit| encoder.write(hit, &mut out).unwrap());
    out
}

#[track_caller]
fn assert_same(written: &[u8], name: &str) {
    let (written, expected) = (String::from_utf8_lossy(written), golden(name));
    assert_eq!(written, String::from_utf8_lossy(&expected), "{name}");
}

#[test]
fn every_encoding_is_converted_into_every_other_as_vegeta_does() {
    for name in NAMES {
        let source = read(&golden(&format!("{name}.source")), Fields::All);
        for encoding in ["gob", "json", "csv"] {
            assert_same(&write(&source, encoding), &format!("{name}.{encoding}"));
        }
        for from in ["gob", "csv"] {
            let hits = read(&golden(&format!("{name}.{from}")), Fields::All);
            assert_same(&write(&hits, "json"), &format!("{name}.from-{from}.json"));
        }
    }
}

fn metrics(name: &str, buckets: Option<&str>) -> Metrics {
    let mut metrics = Metrics::new(buckets.map(|text| Buckets::parse(text).unwrap()));
    read(&golden(name), Fields::Figures).iter().for_each(|hit| metrics.add(hit));
    metrics.close();
    metrics
}

/// Replaces the quantiles, which vegeta estimates, in a report of any kind.
fn without_quantiles(report: &str) -> String {
    let line = |line: &str| {
        let words: Vec<_> = line.split(", ").collect();
        if line.starts_with("Latencies ") {
            return [&words[..8], &["…"], &words[12..]].concat().join(", ");
        }
        let pairs = line.split(',').map(|pair| match pair.split_once("th\":") {
            Some((name, _)) => format!("{name}th\":…"),
            None => pair.to_string(),
        });
        pairs.collect::<Vec<_>>().join(",")
    };
    report.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Without the first column, which holds latencies, and the padding, which follows their width.
fn without_values(plot: &str) -> Vec<Vec<&str>> {
    plot.lines().map(|line| line.split_whitespace().skip(1).collect()).collect()
}

#[test]
fn reports_are_vegetas_from_every_encoding() {
    for encoding in ["source", "gob", "json"] {
        for name in NAMES {
            let from = format!("{name}.{encoding}");
            let plain = metrics(&from, None);
            let bucketed = metrics(&from, Some("[0,1ms,10ms]"));
            let counted = metrics(&from, Some("[1ms,2ms,1.5s]")).buckets.unwrap();
            assert_same(histogram(&counted).as_bytes(), &format!("{name}.hist"));
            let expected = |kind| String::from_utf8(golden(&format!("{name}.{kind}"))).unwrap();
            let reports = [
                (text(&plain), expected("text")),
                (String::from_utf8(json(&plain).unwrap()).unwrap(), expected("report.json")),
                (String::from_utf8(json(&bucketed).unwrap()).unwrap(), expected("buckets.json")),
            ];
            for (report, expected) in reports {
                if name == "mixed" {
                    assert_eq!(without_quantiles(&report), without_quantiles(&expected));
                } else {
                    assert_eq!(report, expected);
                }
            }
            let (plot, expected) = (hdr_plot(&plain), expected("hdrplot"));
            assert_eq!(without_values(&plot), without_values(&expected));
            assert!(name == "mixed" || plot == expected);
        }
    }
}

#[test]
fn reports_without_results() {
    let mut metrics = Metrics::new(Some(Buckets::parse("[0,1ms]").unwrap()));
    metrics.close();
    assert!(
        text(&metrics)
            .starts_with("Requests      [total, rate, throughput]         0, 0.00, 0.00\n")
    );
    assert!(
        text(&metrics).ends_with("Status Codes  [code:count]                      \nError Set:\n")
    );
    let json = String::from_utf8(json(&metrics).unwrap()).unwrap();
    assert!(json.contains("\"buckets\":{\"0\":0,\"1000000\":0}"), "{json}");
    assert!(json.contains("\"earliest\":\"0001-01-01T00:00:00Z\""), "{json}");
    assert_eq!(histogram(metrics.buckets.as_ref().unwrap()), "Bucket    #  %  Histogram\n");
    assert!(hdr_plot(&metrics).ends_with("0.000000   1.000000    0           10000000.000000\n"));
}

#[test]
fn files_of_all_encodings_can_be_concatenated() {
    let parts = [
        "one.gob",
        "equal.gob",
        "one.json",
        "one.csv",
        "one.gob",
        "one.csv",
        "equal.json",
        "one.gob",
    ];
    let all: Vec<u8> = parts.iter().flat_map(|name| golden(name)).collect();
    assert_eq!(read(&all, Fields::All).len(), 6 + 2 * 40);
    assert_eq!(read(&all, Fields::Figures).len(), 6 + 2 * 40);
}

/// Gob streams of other types, written by Go.
#[test]
fn unknown_fields_are_skipped_and_foreign_types_refused() {
    for fields in [Fields::All, Fields::Figures] {
        let hits = read(&golden("extra.gob"), fields);
        let figures = |hit: &Hit| (hit.code, hit.latency.0, hit.timestamp.to_string());
        let full = (200, 5, "2026-11-26T10:00:00+01:00".to_string());
        let empty = (404, -1, "0001-01-01T00:00:00Z".to_string());
        assert_eq!(hits.iter().map(figures).collect::<Vec<_>>(), [full.clone(), empty, full]);
        assert_eq!(hits[0].url, if fields == Fields::All { &b"http://a/"[..] } else { b"" });
    }
    for (name, says) in [
        ("foreign.gob", "byte 22: gob: a value of another Go type than vegeta's Result"),
        ("mistyped.gob", "byte 25: gob: a value of another Go type than vegeta's Result"),
        ("number.gob", "1:1: neither gob, JSON nor CSV of vegeta"),
    ] {
        let bytes = golden(name);
        let error =
            Reader::new(bytes.as_slice(), Fields::All).read(&mut Hit::default()).unwrap_err();
        assert!(error.to_string().starts_with(says), "{name}: {error}");
    }
}
