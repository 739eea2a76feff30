//! Processes whose Prometheus metrics are scraped during a run.

use super::spec::secret_host;
use crate::{Scheme, Url, percent_encode};
use plimsoll_config::{Field, Table};

/// Bounds time and memory: one thread scrapes all of them every second, and each has its own series.
const SCRAPES_MAX: usize = 64;

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
        let url = table.field("url");
        if url.is_none() {
            let hint = "add url = \"http://host:port/metrics\"";
            table.problem("a scrape needs \"url\"", hint);
        }
        if scrapes.iter().any(|other| other.name == name) {
            table.problem(format!("duplicate scrape name \"{name}\""), "");
        }
        if let Some((url, url_shown)) = url.and_then(|field| read_url(&field)) {
            scrapes.push(Scrape { name, group, url, url_shown });
        }
        table.close();
    }
    scrapes
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
