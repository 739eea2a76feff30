//! Prints the resolved configuration as TOML that parses back to the same configuration; secrets stay
//! placeholders.

use std::fmt::{Display, Write};

use plimsoll_config::Text;
use plimsoll_config::values::{quote, quote_filled, show_duration, show_rate, show_share};
use plimsoll_measure::Nanos;

use super::access::show_access;
use super::entries::show_hedge;
use super::{Config, KEYS};
use crate::model::{ByMethod, Concurrency, Endpoint, MethodRules, Service, Upstream};
use crate::settings::Listener;

impl Config {
    /// The configuration as TOML, with all defaults, and without secrets and the database's entries.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut table = "";
        for key in &KEYS {
            let Some(value) = key.show(self) else { continue };
            let (of, name) = key.table_and_name();
            if of != table {
                out += &format!("\n[{of}]\n");
                table = of;
            }
            out += &format!("{name} = {value}\n");
        }
        if let Some(database) = self.database.as_ref().filter(|database| !database.named) {
            let url = quote(&database.url.shown);
            out = format!("# database = {url}  # by default\n{out}");
        }
        for listener in &self.listeners {
            out += &format!("\n[[listener]]\n{}", show_listener(listener));
        }
        for service in &self.definitions.services {
            out += &format!("\n[[service]]\n{}", show_service(service));
        }
        for upstream in &self.definitions.upstreams {
            out += &format!("\n[[upstream]]\n{}", show_upstream(upstream));
        }
        for endpoint in &self.definitions.endpoints {
            out += &format!("\n[[endpoint]]\n{}", show_endpoint(endpoint));
        }
        out
    }
}

/// Lines of a table.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, key: &str, value: String) {
        writeln!(self.0, "{key} = {value}").expect("writing to memory");
    }

    fn maybe<T>(&mut self, key: &str, value: Option<T>, show: impl FnOnce(T) -> String) {
        if let Some(value) = value {
            self.line(key, show(value));
        }
    }

    fn methods(&mut self, rules: &MethodRules) {
        let list = |key: &str, patterns: &[String]| {
            let quoted: Vec<String> = patterns.iter().map(|pattern| quote(pattern)).collect();
            (!quoted.is_empty()).then(|| format!("{key} = [{}]", quoted.join(", ")))
        };
        let parts: Vec<String> = [list("allow", &rules.allow), list("deny", &rules.deny)]
            .into_iter()
            .flatten()
            .collect();
        if !parts.is_empty() {
            self.line("methods", format!("{{ {} }}", parts.join(", ")));
        }
    }
}

fn span(span: Nanos) -> String {
    quote(&show_duration(span.into()))
}

fn show_by_method<T: Copy + Display>(numbers: &ByMethod<T>) -> String {
    if numbers.methods.is_empty() {
        return numbers.default.to_string();
    }
    let methods = numbers.methods.iter().map(|(pattern, number)| (pattern.as_str(), *number));
    let all = methods.chain([("*", numbers.default)]);
    let parts: Vec<String> =
        all.map(|(pattern, number)| format!("{} = {number}", quote(pattern))).collect();
    format!("{{ {} }}", parts.join(", "))
}

/// A listener's keys, one per line.
fn show_listener(listener: &Listener) -> String {
    let mut lines = Lines::default();
    lines.line("address", quote(&listener.address.to_string()));
    let faces = listener.faces.names().into_iter().map(quote);
    lines.line("faces", format!("[{}]", faces.collect::<Vec<_>>().join(", ")));
    if !listener.tls {
        lines.line("tls", "false".into());
    }
    lines.0
}

/// A service's keys, one per line.
pub fn show_service(service: &Service) -> String {
    let mut lines = Lines::default();
    lines.line("id", quote(&service.id));
    lines.maybe("chain_id", service.chain_id, |id| id.to_string());
    lines.maybe("block_time", service.block_time, span);
    lines.maybe("sync_allowance", service.sync_allowance, |blocks| blocks.to_string());
    lines.line("spread", quote(service.spread.name()));
    lines.line("timeout", span(service.timeout));
    lines.line("rest", service.rest.to_string());
    lines.line("health_checks", service.health_checks.to_string());
    let resilience = &service.resilience;
    lines.line("retry_budget", quote(&show_share(resilience.retry_budget)));
    lines.line("retry_floor", quote(&show_rate(resilience.retry_floor)));
    lines.line("hedge", quote(&show_hedge(resilience.hedge)));
    lines.line("hedge_budget", quote(&show_share(resilience.hedge_budget)));
    lines.maybe("patience", resilience.patience, span);
    lines.line("slow_start", span(resilience.slow_start));
    lines.line("send", quote(service.send.name()));
    lines.line("agree", show_by_method(&service.agree));
    lines.maybe("park_dissenters", service.park_dissenters, span);
    let times = service.cache.named().into_iter();
    let mut cache: Vec<String> =
        times.filter_map(|(name, time)| Some(format!("{name} = {}", span(time?)))).collect();
    if !service.prefetch.is_empty() {
        let calls: Vec<String> =
            service.prefetch.iter().map(|call| quote_filled(&call.to_string())).collect();
        cache.push(format!("prefetch = [{}]", calls.join(", ")));
    }
    if !cache.is_empty() {
        lines.line("cache", format!("{{ {} }}", cache.join(", ")));
    }
    lines.line("compute_units", show_by_method(&service.compute_units));
    lines.maybe("price", service.price.as_ref(), |price| quote(&price.to_string()));
    lines.maybe("cupr", service.cupr, |cupr| cupr.to_string());
    lines.0
}

/// Headers as a table, without secrets; `None` if there are none.
pub(super) fn show_headers(headers: &[(String, Text)]) -> Option<String> {
    let header =
        |(name, value): &(String, Text)| format!("{} = {}", quote(name), quote(&value.shown));
    let shown: Vec<String> = headers.iter().map(header).collect();
    (!shown.is_empty()).then(|| format!("{{ {} }}", shown.join(", ")))
}

/// An upstream's keys, one per line, without secrets.
pub fn show_upstream(upstream: &Upstream) -> String {
    let mut lines = Lines::default();
    lines.line("id", quote(&upstream.id));
    lines.maybe("service", upstream.service.as_deref(), quote);
    lines.line("kind", quote(upstream.kind.name()));
    lines.line("url", quote(&upstream.url.shown));
    lines.maybe("headers", show_headers(&upstream.headers), |headers| headers);
    lines.line("weight", upstream.weight.to_string());
    lines.line("tier", upstream.tier.to_string());
    lines.maybe("rate_limit", upstream.rate_limit, |rate| quote(&show_rate(rate)));
    match upstream.concurrency {
        Concurrency::Auto => {}
        fixed @ Concurrency::Fixed(_) => lines.line("concurrency", fixed.to_string()),
        Concurrency::Off => lines.line("concurrency", quote("off")),
    }
    lines.methods(&upstream.methods);
    lines.maybe("ca", upstream.ca.as_ref(), |path| quote_filled(&path.display().to_string()));
    if upstream.drain {
        lines.line("drain", "true".into());
    }
    lines.0
}

/// An endpoint's keys, one per line.
pub fn show_endpoint(endpoint: &Endpoint) -> String {
    let mut lines = Lines::default();
    lines.line("id", quote(&endpoint.id));
    lines.line("service", quote(&endpoint.service));
    lines.methods(&endpoint.methods);
    lines.maybe("agree", endpoint.agree.as_ref(), show_by_method);
    if endpoint.no_cache {
        lines.line("no_cache", "true".into());
    }
    show_access(&endpoint.access).into_iter().for_each(|(key, value)| lines.line(&key, value));
    lines.0
}
