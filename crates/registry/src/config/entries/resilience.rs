//! Reads the keys of a service for failing upstreams.

use plimsoll_config::{Field, Table, values};
use plimsoll_measure::Nanos;

use super::by_method;
use crate::model::{AGREE_MAX, Agree, HEDGE_MAX, HEDGE_MIN, RETRY_FLOOR_MAX, Resilience};

/// Reads how the calls of a service survive failing upstreams.
pub(super) fn read_resilience(table: &Table<'_>) -> Resilience {
    let default = Resilience::default();
    let share = |key| table.field(key).and_then(|field| field.parse(values::share));
    let span = |key| table.field(key).and_then(|field| field.duration()).map(Nanos::from);
    let floor = table.field("retry_floor").and_then(|field| {
        let rate = field.rate()?;
        if rate > RETRY_FLOOR_MAX {
            let message = format!("\"retry_floor\" must be at most {RETRY_FLOOR_MAX}/s");
            field.problem(message, "it is a minimum for quiet services; see retry_budget");
        }
        Some(rate)
    });
    let hedge = match table.field("hedge") {
        Some(field) => field.parse(hedge),
        None => Some(default.hedge),
    };
    Resilience {
        retry_budget: share("retry_budget").unwrap_or(default.retry_budget),
        retry_floor: floor.unwrap_or(default.retry_floor),
        hedge: hedge.unwrap_or(default.hedge),
        hedge_budget: share("hedge_budget").unwrap_or(default.hedge_budget),
        patience: table
            .field("patience")
            .and_then(|field| field.duration_above_zero())
            .map(Nanos::from),
        slow_start: span("slow_start").unwrap_or(default.slow_start),
    }
}

/// Reads how many upstreams must agree: a number, or a table of numbers by method.
pub(super) fn read_agree(table: &Table<'_>) -> Option<Agree> {
    let number = |field: &Field<'_>| field.integer(1, AGREE_MAX.into()).map(|number| number as u8);
    by_method::read(&table.field("agree")?, number)
}

/// Parses when to hedge: `p95`, or `off`.
fn hedge(text: &str) -> Result<Option<f64>, String> {
    if text == "off" {
        return Ok(None);
    }
    let (min, max) = (HEDGE_MIN * 100.0, HEDGE_MAX * 100.0);
    let form = format!("write a quantile from p{min} to p{max}, such as \"p95\", or \"off\"");
    let percent = text.strip_prefix('p').and_then(|digits| digits.parse::<f64>().ok());
    let percent = percent.ok_or_else(|| format!("\"{text}\" is not a quantile; {form}"))?;
    if !(min..=max).contains(&percent) {
        return Err(format!("the quantile {text} is out of range; {form}"));
    }
    Ok(Some(percent / 100.0))
}

/// Prints when to hedge in the form that [`hedge`] parses.
pub(in crate::config) fn show_hedge(quantile: Option<f64>) -> String {
    quantile.map_or("off".into(), |quantile| format!("p{}", (quantile * 1e12).round() / 1e10))
}
