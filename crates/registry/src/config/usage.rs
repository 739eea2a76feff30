//! Reads and checks how usage is recorded and what it costs.

use plimsoll_config::{Field, Place, Problems, values};
use plimsoll_measure::Nanos;

use super::fields::span;
use crate::settings::UsageSettings;
use crate::usage::money::PARAMETER_MAX;

/// Shorter times would remove what quotas of a month are checked against.
const KEEP_MIN: Nanos = Nanos::from_secs(32 * 24 * 3_600);

/// A smaller file could not hold a few seconds of a busy gateway.
pub(super) const SPOOL_MIN: u64 = 1 << 20;

/// Reads how long usage is kept.
pub(super) fn keep(field: &Field<'_>) -> Option<Nanos> {
    let in_days = |text: &str| text.trim().strip_suffix('d')?.parse::<u32>().ok();
    let time = if field.is_integer() {
        field.duration()
    } else {
        field.parse(|text| match in_days(text) {
            Some(days) => Err(format!(
                "\"{text}\" is in days, for which there is no unit; write \"{}h\"",
                u64::from(days) * 24
            )),
            None => values::duration(text),
        })
    };
    let time = Nanos::from(time?);
    if time < KEEP_MIN {
        let message = format!("\"keep\" must be at least {}, not {}", span(KEEP_MIN), span(time));
        field.problem(message, "monthly quotas are checked against it");
        return None;
    }
    Some(time)
}

/// Reads a parameter of the network.
pub(super) fn parameter(field: &Field<'_>) -> Option<u64> {
    field.integer(1, PARAMETER_MAX)
}

/// Checks the keys together.
pub(super) fn check(
    settings: &UsageSettings,
    place: impl Fn(&'static str) -> Option<Place>,
    problems: &mut Problems,
) {
    let network = &settings.network;
    let needed =
        [("network.cuttm", network.cuttm.is_some()), ("network.cucg", network.cucg.is_some())];
    let given = needed.iter().find(|(_, is_given)| *is_given);
    for (missing, _) in needed.iter().filter(|(_, is_given)| !is_given) {
        if let Some(place) = given.and_then(|(key, _)| place(key)) {
            let hint = "the cost of a relay is CUPR × CUTTM ÷ CUCG uPOKT";
            problems.note(place, format!("\"{missing}\" is missing"), hint);
        }
    }
    if let (Some(price), Some(pokt)) = (&settings.price, &network.pokt)
        && price.money.currency != pokt.currency
        && let Some(place) = place("network.pokt")
    {
        let (own, other) = (pokt.currency, price.money.currency);
        let message = format!("the price of a POKT is in {own}, and usage.price is in {other}");
        problems.note(place, message, "write both in one currency, so that they can be compared");
    }
}
