//! Checks that tables in the documentation match the code.

use plimsoll_gateway::error::TABLE;
use plimsoll_gateway::observe::metrics::METRICS;
use plimsoll_gateway::protocol::Category;
use std::path::Path;

/// Checks that the table with this header has exactly these rows.
fn check(document: &str, head: &str, rows: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines().skip_while(|line| *line != head);
    assert!(lines.next().is_some(), "{document} has no table {head}");
    let found: Vec<&str> = lines.skip(1).take_while(|line| line.starts_with('|')).collect();
    let expected = rows.join("\n");
    assert_eq!(found.join("\n"), expected, "{document} should have:\n{expected}\n");
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

#[test]
fn errors_are_documented() {
    let row = |row: &plimsoll_gateway::error::Row| {
        let retryable = yes_or_no(row.retryable);
        let (name, code, status) = (row.name, row.code, row.status);
        format!(
            "| `{name}` | {code} | {status} | {retryable} | {} | {} |",
            row.fault.word(),
            row.when
        )
    };
    let rows: Vec<String> = TABLE.iter().map(row).collect();
    check("gateway.md", "| kind | code | HTTP | retryable | fault | when |", &rows);
}

#[test]
fn meanings_of_upstreams_errors_are_documented() {
    let row = |meaning: &Category| {
        let retryable = yes_or_no(meaning.retryable());
        format!("| `{}` | {} | {retryable} |", meaning.word(), meaning.fault().word())
    };
    let rows: Vec<String> = Category::ALL.iter().map(row).collect();
    check("gateway.md", "| meaning | fault | worth trying another upstream? |", &rows);
}

#[test]
fn metrics_are_documented() {
    let row = |metric: &plimsoll_gateway::observe::metrics::Metric| {
        format!("| `{}` | {} | {} | {} |", metric.name, metric.kind, metric.labels, metric.help)
    };
    let rows: Vec<String> = METRICS.iter().map(row).collect();
    check("metrics.md", "| metric | type | labels | what |", &rows);
}

#[test]
fn metrics_of_a_run_are_documented() {
    let row = |metric: &plimsoll_report::Metric| {
        format!("| `{}` | {} | {} | {} |", metric.name, metric.kind, metric.labels, metric.help)
    };
    let rows: Vec<String> = plimsoll_report::METRICS.iter().map(row).collect();
    check("metrics.md", "| metric of a run | type | labels | what |", &rows);
}
