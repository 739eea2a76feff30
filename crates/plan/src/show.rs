//! The resolved plan as TOML, which reads back to the same plan. Secrets stay placeholders.

use crate::Objective;
use crate::document::{
    DefaultHeaders, FleetRules, Http2Rules, OnAgentLoss, Plan, Protocol, ScrapeSource, SecretsFrom,
    TimeoutFrom, TlsRules, WebSocketRules,
};
use crate::stream::{Arrivals, End, Load, Stream};
use crate::target::{Body, Expect, RequestSpec, RpcExpect, Standing, StatusRange, Target};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use plimsoll_config::Secrets;
use plimsoll_config::values::{quote, quote_filled, show_duration, show_rate, show_size};
use plimsoll_measure::Nanos;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

impl Plan {
    /// The plan as a document with all defaults filled in and without secrets.
    pub fn to_toml(&self) -> String {
        self.resolved(self.has_seed.then_some(self.seed))
    }

    fn resolved(&self, seed: Option<u64>) -> String {
        let mut out = String::new();
        let mut line = |key: &str, value: String| {
            writeln!(out, "{key} = {value}").expect("writing to memory");
        };
        line("name", quote(&self.name));
        if let Some(seed) = seed {
            line("seed", seed.to_string());
        }
        line("warmup", span(self.warmup));
        line("timeout", span(self.timeout));
        if self.timeout_from != TimeoutFrom::default() {
            line("timeout_from", word(self.timeout_from, &TimeoutFrom::WORDS));
        }
        if let Some(max) = self.max_in_flight {
            line("max_in_flight", max.to_string());
        }
        if self.fleet != FleetRules::default() {
            line("fleet", show_fleet(&self.fleet));
        }
        if self.default_headers != DefaultHeaders::default() {
            line("default_headers", word(self.default_headers, &DefaultHeaders::WORDS));
        }
        line("grace", span(self.grace));
        line("redirects", self.redirects.to_string());
        line("max_body", quote(&show_size(self.body_max)));
        if self.protocol != Protocol::default() {
            line("protocol", word(self.protocol, &Protocol::WORDS));
        }
        line("connections", show_connections(self));
        if self.tls != TlsRules::default() {
            line("tls", show_tls(&self.tls, &self.secrets));
        }
        for stream in &self.streams {
            let only_events = !self.sends_pings(stream);
            out += &show_stream(stream, only_events);
            for target in &self.targets[stream.targets.clone()] {
                out += &self.show_target(target, &stream.labels);
            }
        }
        for objective in &self.objectives {
            out += &show_objective(objective);
        }
        for scrape in &self.scrapes {
            let (name, group) = (quote_filled(&scrape.name), quote_filled(&scrape.group));
            let source = match &scrape.source {
                ScrapeSource::Url { shown, .. } => format!("url = {}", quote(shown)),
                ScrapeSource::Pid(pid) => format!("pid = {pid}"),
                ScrapeSource::Cgroup(path) => format!("cgroup = {}", quote_filled(path)),
            };
            write!(out, "\n[[scrape]]\nname = {name}\ngroup = {group}\n{source}\n")
                .expect("writing to memory");
            if let Some(chain) = &scrape.chain {
                writeln!(out, "chain = {}", quote_filled(chain)).expect("writing to memory");
            }
            if !scrape.charts.is_empty() {
                let charts: Vec<String> =
                    scrape.charts.iter().map(|chart| format!("\"{chart}\"")).collect();
                writeln!(out, "charts = [{}]", charts.join(", ")).expect("writing to memory");
            }
        }
        self.logs.iter().for_each(|log| out += &log.show());
        self.cost.iter().for_each(|cost| out += &cost.show());
        out
    }

    /// FNV-1a of the resolved plan without its seed: tells whether two runs had the same plan.
    pub fn digest(&self) -> u64 {
        fnv_1a(FNV_START, &self.resolved(None))
    }

    fn show_target(&self, target: &Target, labels: &BTreeMap<String, String>) -> String {
        let mut out = format!("\n[[stream.target]]\nname = {}\n", quote_filled(&target.name));
        let mut line = |key: &str, value: String| {
            writeln!(out, "{key} = {value}").expect("writing to memory");
        };
        line("weight", target.weight.to_string());
        let own = |(tag, value): &(&String, &String)| labels.get(*tag) != Some(*value);
        let tags: BTreeMap<_, _> = target
            .tags
            .iter()
            .filter(own)
            .map(|(tag, value)| (tag.clone(), value.clone()))
            .collect();
        if !tags.is_empty() {
            line("tags", table(&tags));
        }
        match &self.requests[target.requests.clone()] {
            _ if target.file.is_some() => out += target.file.as_deref().unwrap_or_default(),
            [only] => out += &show_request(only, &self.secrets),
            requests => {
                for spec in requests {
                    out += "\n[[stream.target.turn]]\n";
                    out += &show_request(spec, &self.secrets);
                }
            }
        }
        out
    }
}

/// FNV-1a of a text.
pub(crate) fn digest(text: &str) -> u64 {
    fnv_1a(FNV_START, text)
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv_1a(start: u64, text: &str) -> u64 {
    text.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The length of the requests in a resolved plan, in bytes, and their FNV-1a digest.
pub(crate) fn shown_size(requests: &[RequestSpec]) -> (u64, String) {
    const TURN: &str = "\n[[stream.target.turn]]\n";
    let (mut len, mut hash) = (0, FNV_START);
    for spec in requests {
        // Its bodies are part of the plan, so that no path needs to be shown.
        let shown = show_request(spec, &Secrets::default());
        len += (TURN.len() + shown.len()) as u64;
        hash = fnv_1a(hash, &shown);
    }
    (len, format!("{hash:016x}"))
}

/// The word for a value, quoted.
fn word<T: PartialEq>(value: T, words: &[(&str, T)]) -> String {
    let (word, _) = words.iter().find(|(_, own)| *own == value).expect("every value has a word");
    quote(word)
}

fn span(span: Nanos) -> String {
    quote(&show_duration(span.into()))
}

fn table(pairs: &BTreeMap<String, String>) -> String {
    let pair =
        |(key, value): (&String, &String)| format!("{} = {}", quote(key), quote_filled(value));
    format!("{{ {} }}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
}

fn show_fleet(rules: &FleetRules) -> String {
    let (loss, secrets) =
        (word(rules.on_agent_loss, &OnAgentLoss::WORDS), word(rules.secrets, &SecretsFrom::WORDS));
    format!("{{ on_agent_loss = {loss}, secrets = {secrets} }}")
}

fn show_connections(plan: &Plan) -> String {
    let rules = &plan.connections;
    let has_max = plan.protocol != Protocol::Http2;
    let max = if has_max { format!("max = {}, ", rules.max) } else { String::new() };
    let mut text = format!("{{ {max}reuse = {}", rules.reuse);
    if !rules.sources.is_empty() {
        let sources: Vec<_> = rules.sources.iter().map(|ip| quote(&ip.to_string())).collect();
        text += &format!(", source = [{}]", sources.join(", "));
    }
    if let Some(idle) = rules.idle_max {
        text += &format!(", idle = {idle}");
    }
    if rules.retry_stale {
        text += ", retry_stale = true";
    }
    if plan.may_use_http2() {
        let Http2Rules { connections, streams } = rules.http2;
        text += &format!(", http2 = {{ connections = {connections}, streams = {streams} }}");
    }
    if plan.uses_websocket() {
        let WebSocketRules { connections, calls } = rules.websocket;
        text += &format!(", websocket = {{ connections = {connections}, calls = {calls} }}");
    }
    text + &format!(", dns_ttl = {} }}", span(rules.dns_ttl))
}

fn show_tls(rules: &TlsRules, secrets: &Secrets) -> String {
    let mut parts = vec![format!("insecure = {}", rules.insecure)];
    let path = |path: &PathBuf| show_path(path, secrets);
    parts.extend(rules.ca.as_ref().map(|p| format!("ca = {}", path(p))));
    parts.extend(rules.cert.as_ref().map(|p| format!("cert = {}", path(p))));
    parts.extend(rules.key.as_ref().map(|p| format!("key = {}", path(p))));
    parts.extend(rules.server_name.as_ref().map(|n| format!("server_name = {}", quote_filled(n))));
    format!("{{ {} }}", parts.join(", "))
}

/// A path with its secret variables as placeholders.
fn show_path(path: &Path, secrets: &Secrets) -> String {
    quote(&secrets.placed_back(&path.display().to_string().replace("${", "$${")))
}

fn show_stream(stream: &Stream, only_events: bool) -> String {
    let mut out = format!("\n[[stream]]\nname = {}\n", quote_filled(&stream.name));
    let mut line = |key: &str, value: String| {
        writeln!(out, "{key} = {value}").expect("writing to memory");
    };
    if stream.start > Nanos::ZERO {
        line("start", span(stream.start));
    }
    if !stream.labels.is_empty() {
        line("labels", table(&stream.labels));
    }
    if !stream.agents.is_empty() {
        line("agents", table(&stream.agents));
    }
    if let Some(header) = &stream.split_by {
        line("split_by", format!("{{ header = {} }}", quote(header)));
    }
    let (Load::Open { profile, .. } | Load::Closed { profile, .. }) = &stream.load;
    if let (Some(sockets), End::After(after)) = (&stream.sockets, stream.end) {
        line("sockets", profile.max().to_string());
        line("per_second", quote(&show_rate(sockets.per_second)));
        if !only_events {
            line("ping", span(sockets.ping));
        }
        if let Some(silence) = sockets.silence {
            line("silence", span(silence));
        }
        line("duration", span(after));
        return out;
    }
    let closed = matches!(stream.load, Load::Closed { .. });
    let first = profile.value(Nanos::ZERO);
    let (key, show): (_, fn(f64) -> String) = if closed {
        ("users", |n| n.to_string())
    } else {
        ("rate", |rate| quote(&show_rate(rate)))
    };
    if stream.stages.is_empty() {
        line(key, show(first));
        match stream.end {
            End::After(after) => line("duration", span(after)),
            End::Requests(requests) => line("requests", requests.to_string()),
        }
    } else {
        let stage = |stage: &crate::Stage| {
            let (value, over, hold) = (show(stage.value), span(stage.over), span(stage.hold));
            format!("  {{ {key} = {value}, over = {over}, for = {hold} }},\n")
        };
        let ramp_from = stream.stages[0].over > Nanos::ZERO && first > 0.0;
        if ramp_from {
            line(key, show(first));
        }
        line("stages", format!("[\n{}]", stream.stages.iter().map(stage).collect::<String>()));
    }
    match &stream.load {
        Load::Open { arrivals: Arrivals::Constant, .. } => line("arrivals", quote("constant")),
        Load::Open { arrivals: Arrivals::Poisson, .. } => line("arrivals", quote("poisson")),
        Load::Closed { think_time, .. } => line("think_time", span(*think_time)),
    }
    out
}

fn show_request(spec: &RequestSpec, secrets: &Secrets) -> String {
    let mut out = String::new();
    let mut line = |key: &str, value: String| {
        writeln!(out, "{key} = {value}").expect("writing to memory");
    };
    if let Some(Standing::Events { numbered }) = &spec.standing {
        line("sse", quote(&spec.url_shown));
        if *numbered {
            line("numbered", "true".into());
        }
    } else if spec.url.scheme.is_websocket() {
        line("ws", quote(&spec.url_shown));
        if spec.compression {
            line("compression", "true".into());
        }
    } else {
        line("request", quote(&format!("{} {}", spec.method, spec.url_shown)));
    }
    if !spec.headers.is_empty() {
        line("headers", show_headers(spec));
    }
    if let Some(standing) = &spec.standing {
        if let Standing::Subscription { shown, .. } = standing {
            line("subscribe", shown.clone());
        }
        return out;
    }
    match &spec.body {
        Body::Empty => {}
        Body::Inline(text, _) => line("body", quote(&text.shown)),
        Body::File(path, _) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            line("body_file", show_path(&path, secrets));
        }
        Body::Bytes(template) => {
            let bytes: Vec<u8> = template.texts().flatten().copied().collect();
            line("body_base64", quote(&BASE64.encode(bytes)));
        }
    }
    if spec.chunked {
        line("transfer", quote("chunked"));
    }
    line("expect", show_expect(&spec.expect));
    out
}

fn show_headers(spec: &RequestSpec) -> String {
    let headers = spec.headers.iter();
    headers_table(headers.map(|header| (header.name.as_str(), header.shown.as_str())))
}

/// Header names and values as a table.
pub(crate) fn headers_table<'h>(headers: impl Iterator<Item = (&'h str, &'h str)>) -> String {
    let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, shown) in headers {
        values.entry(name).or_default().push(quote(shown));
    }
    let one = |(name, values): (&str, Vec<String>)| match values.as_slice() {
        [value] => format!("{} = {value}", quote(name)),
        _ => format!("{} = [{}]", quote(name), values.join(", ")),
    };
    format!("{{ {} }}", values.into_iter().map(one).collect::<Vec<_>>().join(", "))
}

fn show_expect(expect: &Expect) -> String {
    expect_table(Some(&expect.status), Some(expect.rpc), expect.contains.as_deref())
}

/// An expectation, as far as it is given, as a table.
pub(crate) fn expect_table(
    status: Option<&Vec<StatusRange>>,
    rpc: Option<RpcExpect>,
    contains: Option<&str>,
) -> String {
    let range = |range: &StatusRange| quote(&format!("{}-{}", range.start(), range.end()));
    let statuses = status.map(|ranges| {
        let ranges: Vec<_> = ranges.iter().map(range).collect();
        format!("status = [{}]", ranges.join(", "))
    });
    let word = rpc.map(|rpc| {
        let word = RpcExpect::WORDS.iter().find(|(_, own)| *own == rpc);
        format!("jsonrpc = \"{}\"", word.expect("every expectation has a name").0)
    });
    let contains = contains.map(|text| format!("contains = {}", quote_filled(text)));
    let parts: Vec<_> = [statuses, word, contains].into_iter().flatten().collect();
    format!("{{ {} }}", parts.join(", "))
}

fn show_objective(objective: &Objective) -> String {
    let mut out = format!("\n[[objective]]\nthat = {}\n", quote_filled(&objective.that));
    if !objective.narrowed.is_empty() {
        out += &format!("where = {}\n", table(&objective.narrowed));
    }
    if let Some(after) = objective.abort_after {
        out += &format!("abort = {{ after = {} }}\n", span(after));
    }
    out
}
