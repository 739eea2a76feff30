//! Prints entries as tables, TOML and JSON.

use crate::stdout_columns;
use plimsoll_config::Text;
use plimsoll_config::values::{show_duration, show_rate};
use plimsoll_measure::Nanos;
use plimsoll_registry::config::{show_endpoint, show_service, show_upstream};
use plimsoll_registry::model::{MethodRules, Service, Upstream};
use plimsoll_registry::sources::{Item, Listed, State};
use plimsoll_registry::store::EntryKind;
use serde_json::{Value, json};

/// Output format: for people, or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

/// Formats entries of a kind.
pub(super) fn list(kind: EntryKind, entries: &[Listed], format: Format) -> String {
    match format {
        Format::Json => {
            let entries: Vec<Value> = entries.iter().map(value).collect();
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
                EntryKind::Endpoint => &["ID", "SERVICE", "FROM", "STATE", "METHODS"],
            };
            let head = head.iter().map(|cell| cell.to_string()).collect();
            let rows = std::iter::once(head).chain(entries.iter().map(|entry| row(kind, entry)));
            table(&rows.collect::<Vec<_>>(), stdout_columns()) + &reasons(entries)
        }
    }
}

/// Formats one entry with all its keys.
pub(super) fn show(kind: EntryKind, entry: &Listed, format: Format) -> String {
    if format == Format::Json {
        return format!("{:#}\n", value(entry));
    }
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
fn reasons(entries: &[Listed]) -> String {
    let reason = |entry: &Listed| match &entry.state {
        State::Refused(why) => Some(format!("\n{} is refused: {why}\n", entry.id)),
        _ => None,
    };
    entries.iter().filter_map(reason).collect()
}

fn row(kind: EntryKind, entry: &Listed) -> Vec<String> {
    let none = || String::from("–");
    let origin = entry.origin.name().to_string();
    let state = entry.state.name().to_string();
    let id = entry.id.clone();
    let service = entry.service.clone().unwrap_or_else(none);
    match (&entry.item, kind) {
        (Some(Item::Service(service)), _) => {
            let number = |n: Option<u64>| n.map_or_else(none, |n| n.to_string());
            vec![
                id,
                number(service.chain_id),
                service.block_time.map_or_else(none, span),
                number(service.sync_allowance),
                service.spread.name().into(),
                span(service.timeout),
                origin,
                state,
            ]
        }
        (Some(Item::Upstream(upstream)), _) => vec![
            id,
            entry.service.clone().unwrap_or_else(|| "any".into()),
            upstream.kind.name().into(),
            upstream.tier.to_string(),
            upstream.weight.to_string(),
            origin,
            state,
            upstream.url.shown.clone(),
        ],
        (Some(Item::Endpoint(endpoint)), _) => {
            vec![id, service, origin, state, methods(&endpoint.methods)]
        }
        (None, EntryKind::Service) => {
            vec![id, none(), none(), none(), none(), none(), origin, state]
        }
        (None, EntryKind::Upstream) => {
            vec![id, service, none(), none(), none(), origin, state, none()]
        }
        (None, EntryKind::Endpoint) => vec![id, service, origin, state, none()],
    }
}

fn span(span: Nanos) -> String {
    show_duration(span.into())
}

fn methods(rules: &MethodRules) -> String {
    let allow = if rules.allow.is_empty() { "all".to_string() } else { rules.allow.join(" ") };
    if rules.deny.is_empty() {
        return allow;
    }
    format!("{allow} except {}", rules.deny.join(" "))
}

/// Aligned columns; lines longer than `width` are truncated.
fn table(rows: &[Vec<String>], width: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let longest = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(longest).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:width$}  ");
        }
        let line = line.trim_end();
        match line.char_indices().nth(width.max(20)) {
            None => out += line,
            Some(_) => {
                let kept: String = line.chars().take(width.max(20) - 1).collect();
                out += &format!("{kept}…");
            }
        }
        out.push('\n');
    }
    out
}

fn value(entry: &Listed) -> Value {
    let mut value = match &entry.item {
        Some(Item::Service(service)) => service_value(service),
        Some(Item::Upstream(upstream)) => upstream_value(upstream),
        Some(Item::Endpoint(endpoint)) => json!({ "methods": methods_value(&endpoint.methods) }),
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
        "methods": methods_value(&upstream.methods),
        "ca": upstream.ca.as_ref().map(|path| path.display().to_string()),
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
    }
}
