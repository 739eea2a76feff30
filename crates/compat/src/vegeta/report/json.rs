//! The JSON report: one line, with Go's numbers and strings.

use crate::vegeta::escape::{Style, string};
use crate::vegeta::{BadTime, Duration, Metrics};
use std::io::Write;

/// The JSON report.
///
/// # Errors
/// A timestamp of the results cannot be written in RFC 3339.
pub fn json(metrics: &Metrics) -> Result<Vec<u8>, BadTime> {
    let mut out = Vec::new();
    let Duration(total) = metrics.latency_total;
    let at = |quantile| metrics.latencies.quantile(quantile).0;
    write!(
        out,
        "{{\"latencies\":{{\"total\":{total},\"mean\":{},\"50th\":{},\"90th\":{},\"95th\":{},\
         \"99th\":{},\"max\":{},\"min\":{}}}",
        metrics.mean(total as f64) as i64,
        at(0.5),
        at(0.9),
        at(0.95),
        at(0.99),
        metrics.latency_max.0,
        metrics.latency_min.0,
    )
    .expect("a vector");
    if let Some(buckets) = &metrics.buckets {
        out.extend_from_slice(b",\"buckets\":{");
        let rows = buckets.all().map(|(lower, _, count)| format!("\"{}\":{count}", lower.0));
        list(rows, &mut out);
        out.push(b'}');
    }
    let Metrics { bytes_in, bytes_out, .. } = metrics;
    write!(
        out,
        ",\"bytes_in\":{{\"total\":{bytes_in},\"mean\":{}}},\"bytes_out\":{{\"total\":{bytes_out},\
         \"mean\":{}}},\"earliest\":\"{}\",\"latest\":\"{}\",\"end\":\"{}\",\"duration\":{},\
         \"wait\":{},\"requests\":{},\"rate\":{},\"throughput\":{},\"success\":{},\
         \"status_codes\":{{",
        number(metrics.mean(*bytes_in as f64)),
        number(metrics.mean(*bytes_out as f64)),
        metrics.earliest.to_rfc3339()?,
        metrics.latest.to_rfc3339()?,
        metrics.end.to_rfc3339()?,
        metrics.duration().0,
        metrics.wait().0,
        metrics.requests,
        number(metrics.rate()),
        number(metrics.throughput()),
        number(metrics.mean(metrics.success as f64)),
    )
    .expect("a vector");
    list(metrics.codes.iter().map(|(code, count)| format!("\"{code}\":{count}")), &mut out);
    out.extend_from_slice(b"},\"errors\":[");
    for (at, error) in metrics.errors.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        string(error, Style::Report, &mut out);
    }
    out.extend_from_slice(b"]}\n");
    Ok(out)
}

fn list(items: impl Iterator<Item = String>, out: &mut Vec<u8>) {
    out.extend_from_slice(items.collect::<Vec<_>>().join(",").as_bytes());
}

/// A number as Go's `encoding/json` writes it: with an exponent below 1e-6 and from 1e21.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-6..1e21).contains(&magnitude) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    if magnitude < 1.0 { text } else { text.replace('e', "e+") }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (1e-6, "0.000001"),
            (9.9e-7, "9.9e-7"),
            (5.011913312095619e-12, "5.011913312095619e-12"),
            (1e20, "100000000000000000000"),
            (1.5e21, "1.5e+21"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
