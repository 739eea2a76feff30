//! The flags of new entries, as lines of TOML: each is labelled with its flag, and parsed by the same
//! code as the configuration file.

use crate::usage_error;
use clap::Args;
use plimsoll_config::Text;
use plimsoll_config::values::quote;
use plimsoll_registry::sources::Request;
use plimsoll_registry::store::EntryKind;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct AddService {
    /// Id of the service, which callers send as Target-Service-Id
    id: String,
    /// Chain id; the gateway then answers eth_chainId and net_version itself
    #[arg(long, value_name = "N")]
    chain_id: Option<u64>,
    /// Time between two blocks, such as 12s
    #[arg(long, value_name = "DURATION")]
    block_time: Option<String>,
    /// Number of blocks an upstream may lag behind
    #[arg(long, value_name = "BLOCKS")]
    sync_allowance: Option<u64>,
    /// How calls are balanced: round-robin, least-loaded or weighted [default: round-robin]
    #[arg(long, value_name = "HOW")]
    spread: Option<String>,
    /// Timeout of a call, from its start to the last byte of the answer [default: 30s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// Also relay requests that are not JSON-RPC: paths below /v1, and GET, PUT, PATCH and DELETE
    #[arg(long)]
    rest: bool,
    /// Never ask upstreams for their latest block and readiness
    #[arg(long)]
    no_health_checks: bool,
    /// Retries as a share of the calls [default: 10%]
    #[arg(long, value_name = "SHARE")]
    retry_budget: Option<String>,
    /// Send a call to a second upstream after this quantile of the latency, such as p95 [default: off]
    #[arg(long, value_name = "QUANTILE")]
    hedge: Option<String>,
    /// Time without an answer until another upstream is tried, too [default: a quarter of the timeout]
    #[arg(long, value_name = "DURATION")]
    patience: Option<String>,
    /// Send transactions to one upstream or all of them [default: one]
    #[arg(long, value_name = "one|all")]
    send: Option<String>,
    /// Number of upstreams that must agree on reads [default: 1]
    #[arg(long, value_name = "N")]
    agree: Option<u64>,
    /// Compute units of each call, or of calls of a method: 10, eth_call=26 or 'debug_*=300'; may be
    /// repeated [default: 1]
    #[arg(long, value_name = "[METHOD=]N", value_delimiter = ',')]
    compute_units: Vec<String>,
    #[command(flatten)]
    replace: ReplaceArgs,
}

#[derive(Args)]
pub(super) struct AddUpstream {
    /// Id of the upstream in metrics and response headers
    id: String,
    /// Service it serves; optional with --kind path
    #[arg(long, value_name = "ID")]
    service: Option<String>,
    /// Protocol: evm (a node) or path (a PATH instance) [default: evm]
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// URL to send calls to
    #[arg(long)]
    url: String,
    /// Header to send with each request; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Weight relative to the service's other upstreams [default: 1]
    #[arg(long, value_name = "N")]
    weight: Option<u64>,
    /// Tier; used only if no upstream of a lower-numbered tier is available [default: 0]
    #[arg(long, value_name = "N")]
    tier: Option<u64>,
    /// Maximum rate of calls from each gateway process, such as 500/s
    #[arg(long, value_name = "RATE")]
    rate_limit: Option<String>,
    /// Calls sent to it at a time by each gateway process: auto, off or a number [default: auto]
    #[arg(long, value_name = "N")]
    concurrency: Option<String>,
    /// Certificates (PEM) to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    methods: MethodArgs,
    #[command(flatten)]
    replace: ReplaceArgs,
}

#[derive(Args)]
pub(super) struct AddEndpoint {
    /// Id of the endpoint, as in its URL
    id: String,
    /// Service it relays to
    #[arg(long, value_name = "ID")]
    service: String,
    #[command(flatten)]
    methods: MethodArgs,
    /// Allow only pages of these origins, such as https://app.example; may be repeated
    #[arg(long = "origin", value_name = "ORIGIN", value_delimiter = ',')]
    origins: Vec<String>,
    /// Allow only callers in these networks, such as 198.51.100.0/24; may be repeated
    #[arg(long = "network", value_name = "NETWORK", value_delimiter = ',')]
    networks: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    replace: ReplaceArgs,
}

#[derive(Args)]
pub(super) struct LimitArgs {
    /// Maximum calls per second, such as 100/s
    #[arg(long, value_name = "RATE", value_parser = timed_rate)]
    calls: Option<String>,
    /// Maximum compute units per second, such as 2000/s
    #[arg(long = "compute-unit-rate", value_name = "RATE", value_parser = timed_rate)]
    compute_units: Option<String>,
    /// How much of the rates may be used at once, as the time in which it refills [default: 500ms]
    #[arg(long, value_name = "DURATION")]
    burst: Option<String>,
    /// Maximum compute units per day (UTC)
    #[arg(long, value_name = "N")]
    daily_compute_units: Option<u64>,
    /// Maximum compute units per calendar month (UTC)
    #[arg(long, value_name = "N")]
    monthly_compute_units: Option<u64>,
}

impl LimitArgs {
    /// Lines of TOML, each with its flag.
    pub(super) fn lines(&self) -> Vec<(String, String)> {
        let mut lines = Lines::default();
        lines.text("--calls", "limits.calls", &self.calls);
        lines.text("--compute-unit-rate", "limits.compute_units", &self.compute_units);
        lines.text("--burst", "limits.burst", &self.burst);
        let (daily, monthly) = (self.daily_compute_units, self.monthly_compute_units);
        lines.number("--daily-compute-units", "limits.daily_compute_units", daily);
        lines.number("--monthly-compute-units", "limits.monthly_compute_units", monthly);
        lines.0
    }
}

/// A rate as written, which must name its unit of time: beside quotas, a bare number may be meant for a
/// day.
fn timed_rate(text: &str) -> Result<String, String> {
    let number = text.trim();
    if plimsoll_config::values::plain_number(number).is_none() {
        return Ok(text.into());
    }
    Err(format!(
        "no unit of time; write {number}/s for {number} per second, or {number}/m or {number}/h"
    ))
}

#[derive(Args)]
pub(super) struct MethodArgs {
    /// Allow only these methods, such as eth_call or 'eth_*'; may be repeated
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    allow: Vec<String>,
    /// Deny these methods, even if --allow matches; may be repeated
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    deny: Vec<String>,
}

#[derive(Args)]
pub(super) struct ReplaceArgs {
    /// Replace the entry with the same id; a disabled entry stays disabled
    #[arg(long)]
    pub(super) replace: bool,
}

/// Lines of TOML, each with the flag it comes from.
#[derive(Default)]
struct Lines(Vec<(String, String)>);

impl Lines {
    fn text(&mut self, flag: &str, key: &str, value: &Option<String>) {
        if let Some(value) = value {
            self.0.push((flag.into(), format!("{key} = {}", quote(value))));
        }
    }

    fn number(&mut self, flag: &str, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.0.push((flag.into(), format!("{key} = {value}")));
        }
    }

    fn methods(&mut self, methods: &MethodArgs) {
        self.list("--allow", "methods.allow", &methods.allow);
        self.list("--deny", "methods.deny", &methods.deny);
    }

    fn list(&mut self, flag: &str, key: &str, names: &[String]) {
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(|name| quote(name)).collect();
            self.0.push((flag.into(), format!("{key} = [{}]", names.join(", "))));
        }
    }
}

impl AddService {
    pub(super) fn request(self) -> Request {
        let mut lines = Lines::default();
        lines.number("--chain-id", "chain_id", self.chain_id);
        lines.text("--block-time", "block_time", &self.block_time);
        lines.number("--sync-allowance", "sync_allowance", self.sync_allowance);
        lines.text("--spread", "spread", &self.spread);
        lines.text("--timeout", "timeout", &self.timeout);
        if self.rest {
            lines.0.push(("--rest".into(), "rest = true".into()));
        }
        if self.no_health_checks {
            lines.0.push(("--no-health-checks".into(), "health_checks = false".into()));
        }
        lines.text("--retry-budget", "retry_budget", &self.retry_budget);
        lines.text("--hedge", "hedge", &self.hedge);
        lines.text("--patience", "patience", &self.patience);
        lines.text("--send", "send", &self.send);
        lines.number("--agree", "agree", self.agree);
        for written in &self.compute_units {
            let (method, number) = written.split_once('=').unwrap_or(("default", written));
            // What is not a number is refused like a string in the file.
            let number = number.parse().map_or_else(|_| quote(number), |n: u64| n.to_string());
            let line = format!("compute_units.{} = {number}", quote(method));
            lines.0.push(("--compute-units".into(), line));
        }
        Request::Add {
            kind: EntryKind::Service,
            id: self.id,
            service: None,
            lines: lines.0,
            replace: self.replace.replace,
        }
    }
}

impl AddUpstream {
    /// The request, and notes to print once it has succeeded.
    pub(super) fn request(self) -> anyhow::Result<(Request, Vec<String>)> {
        let (mut lines, mut notes) = (Lines::default(), Vec::new());
        lines.text("--kind", "kind", &self.kind);
        lines.text("--url", "url", &Some(self.url));
        for header in &self.headers {
            let Some((name, value)) = header.split_once(':') else {
                let hint = "for example --header 'Authorization: Bearer ${TOKEN}'";
                return Err(usage_error("--header must be NAME: VALUE", hint));
            };
            let (name, value) = (name.trim(), value.trim());
            if Text::plain(value).hidden_unless_open(name).shown != value {
                notes.push(format!(
                    "note: the value of {name} is stored in the database in clear text; to store \
                     only a variable's name, write --header '{name}: ${{NAME}}'"
                ));
            }
            let line = format!("headers.{} = {}", quote(name), quote(value));
            lines.0.push(("--header".into(), line));
        }
        lines.number("--weight", "weight", self.weight);
        lines.number("--tier", "tier", self.tier);
        lines.text("--rate-limit", "rate_limit", &self.rate_limit);
        lines.text("--concurrency", "concurrency", &self.concurrency);
        if let Some(ca) = &self.ca {
            let ca = std::path::absolute(ca)?.display().to_string();
            lines.text("--ca", "ca", &Some(ca.replace("${", "$${")));
        }
        lines.methods(&self.methods);
        let request = Request::Add {
            kind: EntryKind::Upstream,
            id: self.id,
            service: self.service,
            lines: lines.0,
            replace: self.replace.replace,
        };
        Ok((request, notes))
    }
}

impl AddEndpoint {
    pub(super) fn request(self) -> Request {
        let mut lines = Lines::default();
        lines.methods(&self.methods);
        lines.list("--origin", "origins", &self.origins);
        lines.list("--network", "networks", &self.networks);
        lines.0.extend(self.limits.lines());
        Request::Add {
            kind: EntryKind::Endpoint,
            id: self.id,
            service: Some(self.service),
            lines: lines.0,
            replace: self.replace.replace,
        }
    }
}
