//! Reports in vegeta's layout, byte for byte: text, JSON, histogram, HDR plot.

mod hdr;
mod json;

pub use hdr::hdr_plot;
pub use json::json;

use super::columns::aligned;
use super::{Buckets, Duration, Metrics};
use std::fmt::Write;

/// The text report.
///
/// Control characters in errors are escaped, except line feeds and tabs: a target chooses the text of
/// some errors, and the report may be printed on a terminal.
pub fn text(metrics: &Metrics) -> String {
    let mut out = String::new();
    let latency = |quantile| rounded(metrics.latencies.quantile(quantile));
    let mean = metrics.mean(metrics.latency_total.0 as f64);
    let Metrics { requests, bytes_in, bytes_out, .. } = metrics;
    write!(
        out,
        "Requests\t[total, rate, throughput]\t{requests}, {:.2}, {:.2}\n\
         Duration\t[total, attack, wait]\t{}, {}, {}\n\
         Latencies\t[min, mean, 50, 90, 95, 99, max]\t{}, {}, {}, {}, {}, {}, {}\n\
         Bytes In\t[total, mean]\t{bytes_in}, {:.2}\n\
         Bytes Out\t[total, mean]\t{bytes_out}, {:.2}\n\
         Success\t[ratio]\t{:.2}%\n\
         Status Codes\t[code:count]\t",
        metrics.rate(),
        metrics.throughput(),
        rounded(metrics.total()),
        rounded(metrics.duration()),
        rounded(metrics.wait()),
        rounded(metrics.latency_min),
        rounded(Duration(mean as i64)),
        latency(0.5),
        latency(0.9),
        latency(0.95),
        latency(0.99),
        rounded(metrics.latency_max),
        metrics.mean(*bytes_in as f64),
        metrics.mean(*bytes_out as f64),
        metrics.mean(metrics.success as f64) * 100.0,
    )
    .expect("a string");
    for (code, count) in &metrics.codes {
        write!(out, "{code}:{count}  ").expect("a string");
    }
    out.push_str("\nError Set:\n");
    for error in &metrics.errors {
        for character in String::from_utf8_lossy(error).chars() {
            match character {
                '\n' | '\t' => out.push(character),
                _ if character.is_control() => out.extend(character.escape_default()),
                _ => out.push(character),
            }
        }
        out.push('\n');
    }
    aligned(&out)
}

/// A duration rounded to the unit below its own.
fn rounded(duration: Duration) -> Duration {
    const UNITS: [i64; 6] = [3_600_000_000_000, 60_000_000_000, 1_000_000_000, 1_000_000, 1_000, 1];
    let units = UNITS.windows(2).find(|units| duration.0 >= units[0]);
    units.map_or(duration, |units| duration.rounded(Duration(units[1])))
}

/// The histogram report.
pub fn histogram(buckets: &Buckets) -> String {
    let mut out = "Bucket\t\t#\t%\tHistogram\n".to_string();
    let rows = buckets.all().filter(|_| buckets.total() > 0);
    for (lower, upper, count) in rows {
        let ratio = count as f64 / buckets.total() as f64;
        let upper = upper.map_or_else(|| "+Inf".to_string(), |upper| upper.to_string());
        let bar = "#".repeat((ratio * 75.0) as usize);
        writeln!(out, "[{lower},\t{upper}]\t{count}\t{:.2}%\t{bar}", ratio * 100.0)
            .expect("a string");
    }
    aligned(&out)
}
