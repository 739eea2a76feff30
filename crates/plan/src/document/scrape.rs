//! Processes whose Prometheus metrics are scraped during a run.

use super::spec::secret_host;
use crate::{Scheme, Url, percent_encode};
use plimsoll_config::{Field, Table};
use std::fmt;

/// Bounds time and memory: one thread scrapes all of them every second, and each has its own series.
const SCRAPES_MAX: usize = 64;

/// Metrics to chart of one process at most: each takes space in the page for every second.
const CHARTS_MAX: usize = 8;

/// The default group.
const GROUP: &str = "gateways";

/// A process to scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrape {
    /// Name in the report; unique in the plan.
    pub name: String,
    /// Processes of a group share one load; the report shows per group how evenly.
    pub group: String,
    /// URL of its metrics; plain HTTP.
    pub url: Url,
    /// The URL without secrets, for display.
    pub url_shown: String,
    /// Metrics to chart besides those that are charted for every process.
    pub charts: Vec<Charted>,
}

/// A metric to chart: `http_requests_total by code`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charted {
    /// Its name.
    pub metric: String,
    /// The label by whose values it is shown; `None`: the sum of all its series.
    pub by: Option<String>,
}

impl fmt::Display for Charted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            None => f.write_str(&self.metric),
            Some(label) => write!(f, "{} by {label}", self.metric),
        }
    }
}

pub(super) fn read_scrapes(root: &Table<'_>) -> Vec<Scrape> {
    let Some(field) = root.field("scrape") else { return Vec::new() };
    let tables = field.tables("[[scrape]]");
    if tables.len() > SCRAPES_MAX {
        field.problem(format!("{} scrapes; the maximum is {SCRAPES_MAX}", tables.len()), "");
        return Vec::new();
    }
    let mut scrapes: Vec<Scrape> = Vec::with_capacity(tables.len());
    for (place, table) in tables.iter().enumerate() {
        let name = table.field("name").and_then(|f| f.open_text("the name of a scrape"));
        let name = name.unwrap_or_else(|| format!("scrape-{}", place + 1));
        let group = table.field("group").and_then(|f| f.open_text("the group of a scrape"));
        let group = group.unwrap_or_else(|| GROUP.into());
        let charts = table.field("charts").map(|field| read_charts(&field)).unwrap_or_default();
        let url = table.field("url");
        if url.is_none() {
            let hint = "add url = \"http://host:port/metrics\"";
            table.problem("a scrape needs \"url\"", hint);
        }
        if scrapes.iter().any(|other| other.name == name) {
            table.problem(format!("duplicate scrape name \"{name}\""), "");
        }
        if let Some((url, url_shown)) = url.and_then(|field| read_url(&field)) {
            scrapes.push(Scrape { name, group, url, url_shown, charts });
        }
        table.close();
    }
    scrapes
}

fn read_charts(field: &Field<'_>) -> Vec<Charted> {
    let items = field.list().unwrap_or_default();
    if items.len() > CHARTS_MAX {
        field.problem(format!("{} charts; the maximum is {CHARTS_MAX}", items.len()), "");
        return Vec::new();
    }
    items.iter().filter_map(read_chart).collect()
}

fn read_chart(field: &Field<'_>) -> Option<Charted> {
    let text = field.open_text("the name of a metric")?;
    let (metric, by) = match text.split_once(" by ") {
        Some((metric, by)) => (metric.trim(), Some(by.trim())),
        None => (text.trim(), None),
    };
    let is_name = |name: &str| {
        let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':');
        first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    if !is_name(metric) || !by.is_none_or(is_name) {
        let hint = "write \"NAME\" or \"NAME by LABEL\", such as \"http_requests_total by code\"";
        field.problem(format!("\"{text}\" is not the name of a metric"), hint);
        return None;
    }
    Some(Charted { metric: metric.into(), by: by.map(String::from) })
}

fn read_url(field: &Field<'_>) -> Option<(Url, String)> {
    let text = field.text()?.hiding_secrets_of_url();
    if let Some((message, hint)) = secret_host(&text) {
        field.problem(message, hint);
        return None;
    }
    let url = match Url::parse(&text.value) {
        Ok(url) => url,
        Err(message) => {
            field.problem(message, "");
            return None;
        }
    };
    if url.scheme != Scheme::Http || url.user.is_some() {
        let hint = "use a URL such as http://127.0.0.1:9069/metrics";
        field.problem("a scrape supports only plain HTTP without credentials", hint);
        return None;
    }
    match percent_encode(url.path.as_bytes()) {
        Ok(path) => Some((Url { path, ..url }, text.shown)),
        Err(message) => {
            field.problem(message, "percent-encode it; a tab is %09");
            None
        }
    }
}
