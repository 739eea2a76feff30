//! `vegeta plot`: latencies over time as one HTML page.

use super::files::Output;
use super::refused;
use super::results::{Results, inputs};
use crate::tell;
use plimsoll_compat::vegeta::flags::Flags;
use plimsoll_compat::vegeta::{ATTACKS_MAX, Fields, POINTS_MAX, Plot, THRESHOLD_MIN};
use plimsoll_measure::units::{counted, grouped};
use std::process::ExitCode;

/// Reads all results and writes their plot.
pub(super) fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let threshold = flags.int("threshold");
    let threshold = usize::try_from(threshold).ok().filter(|t| *t == 0 || *t >= THRESHOLD_MIN);
    let threshold = threshold.ok_or_else(|| {
        refused(
            format!("-threshold={}: a series cannot have so few points", flags.int("threshold")),
            format!("use at least {THRESHOLD_MIN}, or 0 for all points"),
        )
    })?;
    let inputs = inputs(flags);
    let mut results = Results::open(&inputs, Fields::Figures)?;
    let mut output = Output::create(&flags.path("output"), &inputs)?;
    let mut plot = Plot::default();
    while let Some(hit) = results.read() {
        plot.add(hit);
    }
    results.require_any()?;
    if plot.left_out > 0 {
        tell(&format!(
            "note: {} are not in the plot, which holds the first {} and {} attacks",
            counted(plot.left_out, "result"),
            grouped(POINTS_MAX as u64),
            ATTACKS_MAX,
        ));
    }
    output.write(&plot.page(&flags.text("title"), threshold))?;
    Ok(results.finish())
}
