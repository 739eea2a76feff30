//! Processes that are observed during a run: by their Prometheus metrics, or by what the kernel of this host
//! counts for a process or a control group.

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

/// The highest process id that Linux gives.
const PID_MAX: u64 = 1 << 22;

/// A process to observe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrape {
    /// Name in the report; unique in the plan.
    pub name: String,
    /// Processes of a group share one load; the report shows per group how evenly.
    pub group: String,
    /// Where its figures come from.
    pub source: ScrapeSource,
    /// The chain that it serves, and no other; `None`: all of them.
    pub chain: Option<String>,
    /// Metrics to chart besides those that are charted for every process.
    pub charts: Vec<Charted>,
}

/// Where the figures of a process come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScrapeSource {
    /// A page of metrics, over plain HTTP.
    Url {
        /// Its URL.
        url: Url,
        /// The URL without secrets, for display.
        shown: String,
    },
    /// A process of this host, with its descendants.
    Pid(u32),
    /// A control group of this host: its path below the mount point of its hierarchy.
    Cgroup(String),
}

impl fmt::Display for ScrapeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScrapeSource::Url { shown, .. } => f.write_str(shown),
            ScrapeSource::Pid(pid) => write!(f, "pid {pid}"),
            ScrapeSource::Cgroup(path) => write!(f, "cgroup {path}"),
        }
    }
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
        let chain = table.field("chain").and_then(|f| f.open_text("the chain of a scrape"));
        if scrapes.iter().any(|other| other.name == name) {
            table.problem(format!("duplicate scrape name \"{name}\""), "");
        }
        if let Some(source) = read_source(table) {
            if let Some(field) = table.field("charts")
                && !matches!(source, ScrapeSource::Url { .. })
            {
                field.problem_with_key("\"charts\" needs \"url\": only a page has metrics", "");
            }
            scrapes.push(Scrape { name, group, source, chain, charts });
        }
        table.close();
    }
    scrapes
}

fn read_source(table: &Table<'_>) -> Option<ScrapeSource> {
    let given = ["url", "pid", "cgroup"].map(|key| table.field(key));
    let mut known = given.iter().flatten();
    let (first, second) = (known.next(), known.next());
    if let Some(second) = second {
        let hint = "write a [[scrape]] table for each";
        second.problem_with_key("a scrape has one of \"url\", \"pid\" and \"cgroup\"", hint);
        return None;
    }
    if first.is_none() {
        let hint = "add url = \"http://host:port/metrics\"; for a process of this host without metrics, pid or cgroup";
        table.problem("a scrape needs \"url\", \"pid\" or \"cgroup\"", hint);
    }
    let [url, pid, cgroup] = &given;
    if let Some(field) = url {
        return read_url(field).map(|(url, shown)| ScrapeSource::Url { url, shown });
    }
    if let Some(field) = pid {
        return field.integer(1, PID_MAX).map(|pid| ScrapeSource::Pid(pid as u32));
    }
    let field = cgroup.as_ref()?;
    let path = field.open_text("the path of a control group")?;
    if path.is_empty() || path.split('/').any(|part| part == "..") {
        let hint = "for example \"/system.slice/nginx.service\"; see /proc/PID/cgroup";
        field.problem(format!("\"{path}\" is not the path of a control group"), hint);
        return None;
    }
    Some(ScrapeSource::Cgroup(path))
}

fn read_charts(field: &Field<'_>) -> Vec<Charted> {
    let items = field.list().unwrap_or_default();
    if items.len() > CHARTS_MAX {
        field.problem(format!("{} charts; the maximum is {CHARTS_MAX}", items.len()), "");
        return Vec::new();
    }
    items.iter().filter_map(read_chart).collect()
}

pub(super) fn read_chart(field: &Field<'_>) -> Option<Charted> {
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
