//! The HDR plot: latencies at fixed quantiles, as HdrHistogram's plotter reads them.

use crate::vegeta::Metrics;
use crate::vegeta::columns::aligned;
use std::fmt::Write;

/// The quantiles in millionths: the ticks of HdrHistogram's percentile axis.
const QUANTILES: [u32; 94] = [
    0, 100000, 200000, 300000, 400000, 500000, 550000, 600000, 650000, 700000, 750000, 775000,
    800000, 825000, 850000, 875000, 887500, 900000, 912500, 925000, 937500, 943750, 950000, 956250,
    962500, 968750, 971875, 975000, 978125, 981250, 984375, 985938, 987500, 989062, 990625, 992188,
    992969, 993750, 994531, 995313, 996094, 996484, 996875, 997266, 997656, 998047, 998242, 998437,
    998633, 998828, 999023, 999121, 999219, 999316, 999414, 999512, 999561, 999609, 999658, 999707,
    999756, 999780, 999805, 999829, 999854, 999878, 999890, 999902, 999915, 999927, 999939, 999945,
    999951, 999957, 999963, 999969, 999973, 999976, 999979, 999982, 999985, 999986, 999988, 999989,
    999991, 999992, 999993, 999994, 999995, 999996, 999997, 999998, 999999, 1000000,
];

/// The HDR plot report.
pub fn hdr_plot(metrics: &Metrics) -> String {
    let mut out = "Value(ms)\tPercentile\tTotalCount\t1/(1-Percentile)\n".to_string();
    for millionths in QUANTILES {
        let quantile = f64::from(millionths) / 1e6;
        let latency = metrics.latencies.quantile(quantile).0;
        let millis = (latency / 1_000_000) as f64 + (latency % 1_000_000) as f64 / 1e6;
        let count = (quantile * metrics.requests as f64 + 0.5) as i64;
        let inverse = if quantile < 1.0 { 1.0 / (1.0 - quantile) } else { 1e7 };
        writeln!(out, "{millis:.6}\t{quantile:.6}\t{count}\t{inverse:.6}").expect("a string");
    }
    aligned(&out)
}
