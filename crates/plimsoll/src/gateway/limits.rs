//! `plimsoll gateway endpoint limits`: what endpoints and keys may use, have used and were refused.
//!
//! Only a running gateway knows it: the database lacks the calls of the last second, and has no refusals.

use super::access::Access;
use super::listing::{Format, table};
use crate::{put, stdout_columns, tell, usage_error};
use plimsoll_measure::units::grouped;
use serde_json::Value;

/// The columns of the table.
const HEAD: [&str; 6] = ["ENDPOINT", "KEY", "RATES", "USED TODAY", "USED THIS MONTH", "REFUSED"];

/// Prints the limits of an endpoint and its keys, or of all.
pub(super) async fn show(
    access: &mut Access,
    only: Option<&str>,
    format: Format,
) -> anyhow::Result<()> {
    let Access::Admin(client) = access else {
        let message = "only a running gateway knows what is left of limits";
        let hint = "name its admin address with --admin URL, and its token in PLIMSOLL_ADMIN_TOKEN";
        return Err(usage_error(message, hint));
    };
    let limits = client.limits(only).await?;
    if format == Format::Json {
        return put(&format!("{:#}\n", Value::Array(limits)));
    }
    if limits.is_empty() {
        tell("no endpoint or key is limited, or was refused anything since the gateway's start");
        return Ok(());
    }
    let rows = std::iter::once(HEAD.map(String::from).to_vec()).chain(limits.iter().map(row));
    put(&table(&rows.collect::<Vec<_>>(), stdout_columns()))
}

fn row(limit: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("–").to_string();
    let rates = listed(&limit["rates"], |rate| {
        let number = rate["limit_per_second"].as_f64().unwrap_or_default();
        let mut shown = plimsoll_config::values::show_rate(number);
        if rate["of"] != "calls" {
            shown += " compute units";
        }
        if rate["at_limit"] == true {
            shown += " (reached)";
        }
        Some(shown)
    });
    let quota = |span: &str| {
        listed(&limit["quotas"], |quota| {
            let number = |name: &str| grouped(quota[name].as_u64().unwrap_or_default());
            (quota["quota"] == span).then(|| format!("{} of {}", number("used"), number("limit")))
        })
    };
    let refused = limit["refused"].as_object().into_iter().flatten();
    let refused: Vec<String> = refused
        .map(|(reason, count)| format!("{reason}: {}", grouped(count.as_u64().unwrap_or_default())))
        .collect();
    let refused = if refused.is_empty() { "–".into() } else { refused.join(", ") };
    let (endpoint, key) = (text(&limit["endpoint"]), text(&limit["key"]));
    vec![endpoint, key, rates, quota("daily"), quota("monthly"), refused]
}

/// The elements of an array that are shown, or a dash.
fn listed(values: &Value, show: impl Fn(&Value) -> Option<String>) -> String {
    let shown: Vec<String> = values.as_array().into_iter().flatten().filter_map(show).collect();
    if shown.is_empty() { "–".into() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_shows_what_is_used_and_refused() {
        let until = "2027-01-01";
        let limit = json!({
            "endpoint": "acme", "key": null,
            "rates": [
                { "of": "calls", "limit_per_second": 20.0, "at_limit": true },
                { "of": "compute units", "limit_per_second": 2000.0, "at_limit": false },
            ],
            "quotas": [
                { "quota": "daily", "limit": 1_000, "used": 990, "left": 10, "until": until },
            ],
            "refused": { "calls": 12_400, "daily": 3 },
        });
        let rates = "20/s (reached), 2000/s compute units";
        let refused = "calls: 12,400, daily: 3";
        assert_eq!(row(&limit), ["acme", "–", rates, "990 of 1,000", "–", refused]);
        let open = json!({ "endpoint": "open", "key": "web", "refused": {} });
        assert_eq!(row(&open), ["open", "web", "–", "–", "–", "–"]);
    }
}
