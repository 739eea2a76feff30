//! Names in alerts and in the dashboard: a query of a metric, a label or an outcome that does not exist finds
//! nothing, and an alert on it never fires.

use super::{folder, strings, text, yaml};
use plimsoll_gateway::error::TABLE;
use plimsoll_gateway::protocol::Category;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Labels that Prometheus adds.
const ADDED: [&str; 2] = ["job", "instance"];

/// Every metric that the program exports, with its labels.
fn exported() -> BTreeMap<String, BTreeSet<&'static str>> {
    let gateway = plimsoll_gateway::observe::metrics::METRICS.iter();
    let gateway = gateway.map(|metric| (metric.name, metric.kind, metric.labels));
    let run = plimsoll_report::METRICS.iter();
    let run = run.map(|metric| (metric.name, metric.kind, metric.labels));
    let mut all = BTreeMap::new();
    for (name, kind, labels) in gateway.chain(run) {
        let labels = labels.split(',').filter(|label| !label.is_empty());
        let mut labels: BTreeSet<&str> = labels.chain(ADDED).collect();
        let mut name = name.to_string();
        if kind == "histogram" {
            name += "_bucket";
            labels.insert("le");
        }
        all.entry(name).or_insert_with(BTreeSet::new).extend(labels);
    }
    // Prometheus' own: whether it reached the process.
    all.insert("up".into(), BTreeSet::from(ADDED));
    all
}

/// The metrics in a query, each with the labels that it is selected by.
fn selected(query: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find(is_name) {
        rest = &rest[at..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let name = &rest[..end];
        rest = &rest[end..];
        let is_metric = ["plimsoll_", "process_"].iter().any(|start| name.starts_with(start));
        if !is_metric && name != "up" {
            continue;
        }
        let mut labels = Vec::new();
        if let Some(selector) = rest.strip_prefix('{') {
            let (inside, after) = selector.split_once('}').unwrap();
            for one in inside.split(',').map(str::trim) {
                let label = one.split(|c| !is_name(c)).next().unwrap();
                let value = one.split('"').nth(1).unwrap();
                labels.push((label.to_string(), value.to_string()));
            }
            rest = after;
        }
        found.push((name.to_string(), labels));
    }
    found
}

/// The labels that a query groups or matches by.
fn grouped(query: &str) -> BTreeSet<&str> {
    let lists = ["by (", "on (", "group_right (", "without ("]
        .into_iter()
        .flat_map(|start| query.split(start).skip(1))
        .map(|rest| rest.split(')').next().unwrap());
    lists.flat_map(|list| list.split(',')).map(str::trim).collect()
}

fn problems(query: &str) -> Vec<String> {
    let exported = exported();
    let mut problems = Vec::new();
    let mut labels: BTreeSet<&str> = BTreeSet::new();
    for (name, selectors) in selected(query) {
        let Some(known) = exported.get(&name) else {
            problems.push(format!("{name} is not exported"));
            continue;
        };
        labels.extend(known.iter().copied());
        for (label, values) in selectors {
            if !known.contains(label.as_str()) {
                problems.push(format!("{name} has no label {label}"));
            }
            if label == "outcome" {
                let unknown = values.split('|').filter(|value| !is_outcome(value));
                problems.extend(unknown.map(|value| format!("{value} is not an outcome")));
            }
        }
    }
    let unknown = grouped(query).into_iter().filter(|label| !labels.contains(label));
    problems.extend(unknown.map(|label| format!("no metric of the query has a label {label}")));
    problems
}

fn is_outcome(value: &str) -> bool {
    ["ok", "gateway", "upstream", "cancelled"].contains(&value)
        || TABLE.iter().any(|row| row.name == value)
        || Category::ALL.iter().any(|category| category.word() == value)
}

/// The queries of the dashboard's panels, with the panels' titles.
pub(super) fn panels() -> Vec<(String, Vec<String>)> {
    let dashboard: Value = serde_json::from_str(&text("grafana/plimsoll.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let queries = |panel: &Value| -> Vec<String> {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(|target| target["expr"].as_str().unwrap().to_string()).collect()
    };
    panels
        .map(|panel| (panel["title"].as_str().unwrap().to_string(), queries(panel)))
        .filter(|(_, queries)| !queries.is_empty())
        .collect()
}

fn alerts() -> Vec<(String, String)> {
    let rules = yaml("prometheus/alerts.yaml");
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let text = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_string();
    rules.map(|rule| (text(rule, "alert"), text(rule, "expr"))).collect()
}

#[test]
fn alerts_and_dashboard_use_metrics_labels_and_outcomes_that_exist() {
    let alerts = alerts();
    assert!(alerts.len() > 20);
    for (alert, query) in &alerts {
        assert_eq!(problems(query), Vec::<String>::new(), "{alert}");
    }
    for (panel, queries) in panels() {
        for query in &queries {
            assert_eq!(problems(query), Vec::<String>::new(), "{panel}");
        }
    }
}

#[test]
fn names_that_do_not_exist_are_found() {
    for (query, problem) in [
        ("rate(plimsoll_call_total[5m])", "plimsoll_call_total is not exported"),
        ("sum by (reson) (plimsoll_shed_total)", "no metric of the query has a label reson"),
        ("plimsoll_shed_total{cause=\"x\"}", "plimsoll_shed_total has no label cause"),
        ("plimsoll_calls_total{outcome=~\"ok|gatway\"}", "gatway is not an outcome"),
        ("plimsoll_call_duration_seconds", "plimsoll_call_duration_seconds is not exported"),
        ("plimsoll_relays_total{outcome!=\"ko\"}", "ko is not an outcome"),
    ] {
        assert_eq!(problems(query), [problem], "{query}");
    }
    assert_eq!(problems("sum by (outcome) (plimsoll_calls_total{outcome!~\"ok\"})"), [""; 0]);
}

#[test]
fn every_alert_is_tested_and_documented() {
    let tests = yaml("prometheus/alerts.test.yaml");
    let tests = tests["tests"].as_array().unwrap().iter();
    let fired: BTreeSet<&str> = tests
        .flat_map(|test| test["alert_rule_test"].as_array().unwrap())
        .filter(|test| !test["exp_alerts"].as_array().unwrap().is_empty())
        .map(|test| test["alertname"].as_str().unwrap())
        .collect();
    let document = folder().join("../docs/operating.md");
    let document = std::fs::read_to_string(document).unwrap();
    for (alert, _) in alerts() {
        assert!(fired.contains(alert.as_str()), "{alert} is not tested");
        assert!(document.contains(&format!("| `{alert}` |")), "{alert} is not documented");
    }
}

#[test]
fn the_dashboard_uses_its_own_data_source_and_each_panel_has_its_place() {
    let dashboard: Value = serde_json::from_str(&text("grafana/plimsoll.json")).unwrap();
    let datasource = yaml("grafana/datasource.yaml");
    let chosen = &dashboard["templating"]["list"][0]["current"]["value"];
    assert_eq!(*chosen, datasource["datasources"][0]["uid"]);
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have one id: {panel}");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            assert!(x < 24, "{panel}");
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{panel} lies upon another");
            }
        }
        let sources: Vec<&str> =
            strings(panel).into_iter().filter(|it| it.contains("datasource")).collect();
        assert!(sources.iter().all(|source| *source == "${datasource}"), "{panel}");
    }
}
