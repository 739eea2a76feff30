//! Reads and prints who may call an endpoint, and how much.
//!
//! A key in the wrong place must not end up in a log: messages never repeat what stands in the place of
//! a hash or of a key's name.

use plimsoll_config::values::{quote, show_rate};
use plimsoll_config::{Field, Table};
use plimsoll_measure::{Nanos, WallClock};

use super::fields::{hex, origin, span, unhex};
use crate::model::{
    Access, AccessKey, BURST_MAX, CallLimits, KEYS_MAX, RATE_MAX, RULES_MAX, check_key_name,
};
use crate::settings::Network;

/// The form of a hash.
const HASH_PREFIX: &str = "sha256:";

/// Reads the keys of an endpoint that concern access.
pub(super) fn read_access(table: &Table<'_>) -> Access {
    let keys = table.field("keys").map(|field| read_keys(&field)).unwrap_or_default();
    let origins = read_rules(table, "origins", origin);
    let networks = read_rules(table, "networks", Network::parse);
    let limits = read_limits(table);
    Access { keys, origins, networks, limits }
}

/// Reads a list of rules; an empty list is a problem, because it would allow everything.
fn read_rules<T>(
    table: &Table<'_>,
    key: &'static str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let Some(field) = table.field(key) else { return Vec::new() };
    let Some(items) = field.list() else { return Vec::new() };
    if items.is_empty() {
        field.problem(format!("\"{key}\" is empty"), "remove it to allow all callers");
    }
    if items.len() > RULES_MAX {
        let message = format!("\"{key}\" has {} items; at most {RULES_MAX}", items.len());
        field.problem(message, "");
    }
    items.iter().filter_map(|item| item.parse(&read)).collect()
}

fn read_keys(field: &Field<'_>) -> Vec<AccessKey> {
    let Some(table) = field.table("keys") else { return Vec::new() };
    let mut keys: Vec<AccessKey> =
        table.entries().iter().filter_map(|(name, field)| read_key(name, field)).collect();
    if table.is_empty() {
        field.problem("\"keys\" is empty", "remove it to allow calls without a key");
    }
    if table.entries().len() > KEYS_MAX {
        let message = format!("{} keys; an endpoint has at most {KEYS_MAX}", table.entries().len());
        field.problem(message, "remove those that are no longer used, or add an endpoint");
    }
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    for (at, key) in keys.iter().enumerate() {
        if let Some(other) = keys[..at].iter().find(|other| other.hash == key.hash) {
            let message = format!("the keys \"{}\" and \"{}\" are the same", other.name, key.name);
            field.problem(message, "remove one of them");
        }
    }
    keys
}

fn read_key(name: &str, field: &Field<'_>) -> Option<AccessKey> {
    let hint = "write keys.NAME = { hash = \"sha256:…\" }; plimsoll gateway key add makes one";
    let is_named = check_key_name(name).map_err(|why| field.problem_with_key(why, hint)).is_ok();
    if !field.is_table() {
        field.problem("a key must be a table", hint);
        return None;
    }
    let table = field.table("a key")?;
    let hash = match table.field("hash") {
        Some(field) => field.parse(|text| {
            let hash = text.strip_prefix(HASH_PREFIX).and_then(unhex);
            // What is not a hash may be the key, and is not repeated.
            hash.ok_or_else(|| {
                format!("not {HASH_PREFIX} and 64 hexadecimal digits; the key itself is not stored")
            })
        }),
        None => {
            table.problem("a key without \"hash\"", hint);
            None
        }
    };
    let expires = table.field("expires").and_then(|field| {
        field.date_time(|text| {
            WallClock::parse(text).ok_or_else(|| {
                format!(
                    "\"{text}\" is not a date; write it like 2027-01-31 or 2027-01-31T12:00:00Z"
                )
            })
        })
    });
    let limits = read_limits(&table);
    table.close();
    Some(AccessKey { name: name.into(), hash: hash.filter(|_| is_named)?, expires, limits })
}

fn read_limits(table: &Table<'_>) -> CallLimits {
    let Some(table) = table.field("limits").and_then(|field| field.table("limits")) else {
        return CallLimits::default();
    };
    let rate = |key: &'static str| {
        let field = table.field(key)?;
        let rate = field.rate()?;
        if rate <= 0.0 || rate > RATE_MAX {
            let (most, hint) = (show_rate(RATE_MAX), "to refuse all calls, disable the endpoint");
            field.problem(format!("\"{key}\" must be above 0/s and at most {most}"), hint);
            return None;
        }
        Some(rate)
    };
    let quota = |key: &'static str| table.field(key)?.integer(1, u64::MAX >> 1);
    let (calls, compute_units) = (rate("calls"), rate("compute_units"));
    let burst = table.field("burst").and_then(|field| {
        if field.is_integer() {
            let hint = "write \"2s\" for as much as the rate gives in two seconds";
            field.problem("\"burst\" must be a duration", hint);
            return None;
        }
        let burst = Nanos::from(field.duration_above_zero()?);
        if burst > BURST_MAX {
            field.problem(format!("\"burst\" must be at most {}", span(BURST_MAX)), "");
            return None;
        }
        if calls.is_none() && compute_units.is_none() {
            let hint = "add \"calls\" or \"compute_units\", or remove \"burst\"";
            field.problem("\"burst\" without a rate", hint);
        }
        Some(burst)
    });
    let (daily, monthly) = (quota("daily_compute_units"), quota("monthly_compute_units"));
    table.close();
    CallLimits { calls, compute_units, burst, daily, monthly }
}

/// The lines of an endpoint, each a key and its value.
pub(super) fn show_access(access: &Access) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    if !access.origins.is_empty() {
        let origins = access.origins.iter().map(|origin| quote(origin)).collect();
        lines.push(("origins".into(), list(origins)));
    }
    if !access.networks.is_empty() {
        let networks = access.networks.iter().map(|one| quote(&one.to_string())).collect();
        lines.push(("networks".into(), list(networks)));
    }
    lines.extend(show_limits(&access.limits).map(|limits| ("limits".into(), limits)));
    lines.extend(access.keys.iter().map(|key| (format!("keys.{}", key.name), show_key(key))));
    lines
}

/// A key as an inline table.
pub fn show_key(key: &AccessKey) -> String {
    let mut parts = vec![format!("hash = {}", quote(&format!("{HASH_PREFIX}{}", hex(&key.hash))))];
    parts.extend(key.expires.map(|at| format!("expires = {}", quote(&show_date(at)))));
    parts.extend(show_limits(&key.limits).map(|limits| format!("limits = {limits}")));
    format!("{{ {} }}", parts.join(", "))
}

/// A date in the form that is read.
pub fn show_date(at: WallClock) -> String {
    at.rfc3339().replace(".000Z", "Z")
}

/// Limits as an inline table; `None` if there are none.
pub fn show_limits(limits: &CallLimits) -> Option<String> {
    if *limits == CallLimits::default() {
        return None;
    }
    let CallLimits { calls, compute_units, burst, daily, monthly } = limits;
    let rate = |key: &str, rate: &Option<f64>| {
        rate.map(|rate| format!("{key} = {}", quote(&show_rate(rate))))
    };
    let number = |key: &str, number: &Option<u64>| number.map(|number| format!("{key} = {number}"));
    let parts = [
        rate("calls", calls),
        rate("compute_units", compute_units),
        burst.map(|burst| format!("burst = {}", span(burst))),
        number("daily_compute_units", daily),
        number("monthly_compute_units", monthly),
    ];
    Some(format!("{{ {} }}", parts.into_iter().flatten().collect::<Vec<_>>().join(", ")))
}
