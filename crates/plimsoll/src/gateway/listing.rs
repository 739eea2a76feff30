//! Prints entries as tables, TOML and JSON.

use crate::stdout_columns;
use plimsoll_config::Text;
use plimsoll_config::values::{show_duration, show_rate};
use plimsoll_measure::Nanos;
use plimsoll_registry::config::{show_date, show_endpoint, show_service, show_upstream};
use plimsoll_registry::model::{
    Access, AccessKey, CallLimits, Endpoint, MethodRules, Service, Upstream,
};
use plimsoll_registry::sources::{Item, Listed, State};
use plimsoll_registry::store::EntryKind;
use serde_json::{Value, json};

/// Output format: for people, or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

/// An entry as it is shown, wherever it comes from.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// For programs.
    pub(super) entry: Value,
    /// All its keys, as it would appear in the file.
    pub(super) toml: String,
}

impl Shown {
    pub(super) fn of(kind: EntryKind, entry: &Listed) -> Shown {
        Shown { entry: value(entry), toml: toml(kind, entry) }
    }

    pub(super) fn id(&self) -> &str {
        self.entry["id"].as_str().unwrap_or_default()
    }
}

/// Formats entries of a kind.
pub(super) fn list(kind: EntryKind, entries: &[Shown], format: Format) -> String {
    match format {
        Format::Json => {
            let entries: Vec<Value> = entries.iter().map(|shown| shown.entry.clone()).collect();
            format!("{:#}\n", Value::Array(entries))
        }
        Format::Table if entries.is_empty() => String::new(),
        Format::Table => {
            let head: &[&str] = match kind {
                EntryKind::Service => {
                    &["ID", "CHAIN", "BLOCK", "SYNC", "SPREAD", "TIMEOUT", "FROM", "STATE"]
                }
                EntryKind::Upstream => {
                    &["ID", "SERVICE", "KIND", "TIER", "WEIGHT", "FROM", "STATE", "URL"]
                }
                EntryKind::Endpoint => {
                    &["ID", "SERVICE", "FROM", "STATE", "KEYS", "LIMITS", "METHODS"]
                }
            };
            let head = head.iter().map(|cell| cell.to_string()).collect();
            let rows = entries.iter().map(|shown| row(kind, &shown.entry));
            let rows = std::iter::once(head).chain(rows);
            table(&rows.collect::<Vec<_>>(), stdout_columns()) + &reasons(entries)
        }
    }
}

/// Formats one entry with all its keys.
pub(super) fn show(entry: &Shown, format: Format) -> String {
    match format {
        Format::Json => format!("{:#}\n", entry.entry),
        Format::Table => entry.toml.clone(),
    }
}

fn toml(kind: EntryKind, entry: &Listed) -> String {
    let mut out = format!("# from: {}, {}\n", entry.origin.name(), entry.state.name());
    if let State::Refused(why) = &entry.state {
        why.lines().for_each(|line| out += &format!("# {line}\n"));
    }
    out += &format!("[[{}]]\n", kind.name());
    out += &match &entry.item {
        Some(Item::Service(service)) => show_service(service),
        Some(Item::Upstream(upstream)) => show_upstream(upstream),
        Some(Item::Endpoint(endpoint)) => show_endpoint(endpoint),
        None => format!("id = {}\n", plimsoll_config::values::quote(&entry.id)),
    };
    out
}

/// Why entries are refused, below the table: the reasons are too long for a column.
fn reasons(entries: &[Shown]) -> String {
    let reason = |shown: &Shown| {
        let why = shown.entry["reason"].as_str()?;
        Some(format!("\n{} is refused: {why}\n", shown.id()))
    };
    entries.iter().filter_map(reason).collect()
}

fn row(kind: EntryKind, entry: &Value) -> Vec<String> {
    let cell = |key: &str| match &entry[key] {
        Value::Null => String::from("–"),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let is_valid = entry["state"] != "refused" || entry.get("url").is_some();
    let service = match &entry["service"] {
        Value::Null if kind == EntryKind::Upstream && is_valid => "any".into(),
        _ => cell("service"),
    };
    match kind {
        EntryKind::Service => {
            let keys = ["id", "chain_id", "block_time", "sync_allowance", "spread", "timeout"];
            keys.into_iter().chain(["from", "state"]).map(cell).collect()
        }
        EntryKind::Upstream => {
            let mut cells: Vec<String> =
                ["id", "kind", "tier", "weight", "from", "state", "url"].map(cell).into();
            cells.insert(1, service);
            cells
        }
        EntryKind::Endpoint => {
            let keys = match entry["keys"].as_array().map_or(0, Vec::len) {
                0 => "–".into(),
                count => count.to_string(),
            };
            let limits = limits(&entry["limits"]);
            let methods = methods(&entry["methods"]);
            vec![cell("id"), service, cell("from"), cell("state"), keys, limits, methods]
        }
    }
}

fn span(span: Nanos) -> String {
    show_duration(span.into())
}

fn methods(rules: &Value) -> String {
    let names = |key: &str| {
        let names = rules[key].as_array().into_iter().flatten();
        names.filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
    };
    match (names("allow"), names("deny")) {
        _ if rules.is_null() => "–".into(),
        (allow, deny) => {
            let allow = if allow.is_empty() { "all".into() } else { allow };
            if deny.is_empty() { allow } else { format!("{allow} except {deny}") }
        }
    }
}

/// Limits in a cell.
pub(super) fn limits(limits: &Value) -> String {
    let rate = |key: &str, what: &str| {
        let rate = limits[key].as_str()?;
        // "20/s" of calls, and "1/500ms".
        let (number, per) = rate.split_once('/')?;
        Some(format!("{number} {what}/{per}"))
    };
    let quota = |key: &str, per: &str| Some(format!("{} units/{per}", limits[key].as_u64()?));
    let parts = [
        rate("calls", "calls"),
        rate("compute_units", "units"),
        quota("daily_compute_units", "day"),
        quota("monthly_compute_units", "month"),
    ];
    match parts.into_iter().flatten().collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "–".into(),
        text => text,
    }
}

/// The narrowest width at which the last column is cut rather than moved below its row.
const LAST_MIN: usize = 10;

/// Aligned columns. Those that do not fit into `width` stand below their row, each on a line with its name;
/// longer lines are cut.
pub(super) fn table(rows: &[Vec<String>], width: usize) -> String {
    let Some(head) = rows.first() else { return String::new() };
    let width = width.max(20);
    let longest =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(longest).collect();
    // Where each column ends.
    let ends = widths.iter().scan(0, |from, width| {
        *from += width + 2;
        Some(*from - 2)
    });
    let fitting = ends.clone().take_while(|end| *end <= width).count();
    let left = ends.take(fitting).last().map_or(width, |end| width.saturating_sub(end + 2));
    let all_but_last = fitting + 1 == head.len() && left >= LAST_MIN;
    let beside = if all_but_last { head.len() } else { fitting.max(1) };
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).take(beside);
        let line: String = cells.map(|(cell, width)| format!("{cell:width$}  ")).collect();
        out += &cut(line.trim_end(), width);
        let below = head.iter().zip(row).skip(beside).filter(|(_, cell)| at > 0 && *cell != "–");
        for (name, cell) in below {
            out += &cut(&format!("  {}: {cell}", name.to_lowercase()), width);
        }
    }
    out
}

/// A line of at most this many characters.
fn cut(line: &str, width: usize) -> String {
    match line.char_indices().nth(width) {
        None => format!("{line}\n"),
        Some(_) => format!("{}…\n", line.chars().take(width - 1).collect::<String>()),
    }
}

fn value(entry: &Listed) -> Value {
    let mut value = match &entry.item {
        Some(Item::Service(service)) => service_value(service),
        Some(Item::Upstream(upstream)) => upstream_value(upstream),
        Some(Item::Endpoint(endpoint)) => endpoint_value(endpoint),
        None => json!({}),
    };
    value["id"] = json!(entry.id);
    if entry.service.is_some() {
        value["service"] = json!(entry.service);
    }
    value["from"] = json!(entry.origin.name());
    value["state"] = json!(entry.state.name());
    if let State::Refused(why) = &entry.state {
        value["reason"] = json!(why);
    }
    value
}

fn service_value(service: &Service) -> Value {
    json!({
        "chain_id": service.chain_id,
        "block_time": service.block_time.map(span),
        "sync_allowance": service.sync_allowance,
        "spread": service.spread.name(),
        "timeout": span(service.timeout),
    })
}

fn upstream_value(upstream: &Upstream) -> Value {
    let header = |(name, value): &(String, Text)| (name.clone(), json!(value.shown));
    json!({
        "kind": upstream.kind.name(),
        "url": upstream.url.shown,
        "headers": upstream.headers.iter().map(header).collect::<serde_json::Map<_, _>>(),
        "weight": upstream.weight,
        "tier": upstream.tier,
        "rate_limit": upstream.rate_limit.map(show_rate),
        "concurrency": upstream.concurrency.to_string(),
        "methods": methods_value(&upstream.methods),
        "ca": upstream.ca.as_ref().map(|path| path.display().to_string()),
    })
}

fn endpoint_value(endpoint: &Endpoint) -> Value {
    let Access { keys, origins, networks, limits } = &endpoint.access;
    let key = |key: &AccessKey| {
        json!({
            "name": key.name,
            "fingerprint": key.fingerprint(),
            "expires": key.expires.map(show_date),
            "limits": limits_value(&key.limits),
        })
    };
    let networks: Vec<String> = networks.iter().map(|network| network.to_string()).collect();
    json!({
        "methods": methods_value(&endpoint.methods),
        "keys": keys.iter().map(key).collect::<Vec<_>>(),
        "origins": origins,
        "networks": networks,
        "limits": limits_value(limits),
    })
}

fn limits_value(limits: &CallLimits) -> Value {
    if *limits == CallLimits::default() {
        return Value::Null;
    }
    let CallLimits { calls, compute_units, burst, daily, monthly } = limits;
    json!({
        "calls": calls.map(show_rate),
        "compute_units": compute_units.map(show_rate),
        "burst": burst.map(span),
        "daily_compute_units": daily,
        "monthly_compute_units": monthly,
    })
}

fn methods_value(rules: &MethodRules) -> Value {
    json!({ "allow": rules.allow, "deny": rules.deny })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_fit() {
        let rows = [["ID", "URL"], ["a", "http://ä.example/"], ["longer", "–"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.map(String::from).to_vec()).collect();
        let whole = "ID      URL\na       http://ä.example/\nlonger  –\n";
        assert_eq!(table(&rows, usize::MAX), whole);
        assert_eq!(table(&rows, 20), "ID      URL\na       http://ä.ex…\nlonger  –\n");
        let rows =
            [["ID", "STATE", "LIMITS", "METHODS"], ["a-long-id", "enabled", "20 calls/s", "–"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.map(String::from).to_vec()).collect();
        let narrow = "ID         STATE\na-long-id  enabled\n  limits: 20 calls/s\n";
        assert_eq!(table(&rows, 20), narrow);
        assert_eq!(table(&rows, 35).lines().count(), 2);
        assert!(table(&rows, 40).starts_with("ID         STATE    LIMITS      METHODS\n"));
    }
}
