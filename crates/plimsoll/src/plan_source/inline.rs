//! Flags that define a plan without a file, as lines of TOML.

use crate::{tell, usage_error};
use plimsoll_config::is_word as is_plain_word;
use plimsoll_config::values::{self, quote, show_duration};
use std::collections::BTreeMap;
use std::path::Path;

/// The longest path on Linux, in bytes.
const PATH_MAX: usize = 4096;

/// Flags that define a plan without a file.
#[derive(clap::Args, Default)]
#[command(next_help_heading = "Without a plan file")]
pub(crate) struct InlineArgs {
    /// Send to this URL, like the argument URL
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// Open model: requests per second, such as 500, 1.5k or 300/m
    #[arg(long, value_name = "RATE", conflicts_with = "users")]
    #[arg(short_aliases = ['q', 'R'], aliases = ["rps", "qps", "query-per-second"])]
    rate: Option<String>,
    /// Closed model: number of users, each sending its next request after an answer
    /// [default: --connections, or 10]
    #[arg(long, value_name = "N", value_parser = count)]
    #[arg(short_alias = 'u', aliases = ["vus"])]
    users: Option<u64>,
    /// How long each user pauses after an answer, such as 1s
    #[arg(long, value_name = "TIME")]
    think_time: Option<String>,
    /// How long to send, such as 30s or 1h30m; a plain number is in seconds [default: 10s]
    #[arg(long, short = 'd', value_name = "TIME", conflicts_with = "requests")]
    #[arg(short_alias = 'z', alias = "run-time")]
    duration: Option<String>,
    /// How many requests to send
    #[arg(long, short = 'n', value_name = "N", value_parser = count, alias = "iterations")]
    requests: Option<u64>,
    /// Space the open model's requests evenly (constant) or at random (poisson)
    #[arg(long, value_name = "HOW")]
    arrivals: Option<String>,
    /// How long to send before measuring, such as 5s
    #[arg(long, value_name = "TIME")]
    warmup: Option<String>,
    /// Timeout, counted from when the request was due [default: 30s]
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Maximum number of simultaneous connections [default: 2000]; without --rate and --users also
    /// the number of users
    #[arg(long, short = 'c', value_name = "N", value_parser = count)]
    #[arg(aliases = ["concurrency", "max-connections"])]
    connections: Option<u64>,
    /// HTTP version: auto (HTTP/2 if the server chooses it in the TLS handshake), http1, or http2 (also
    /// without TLS) [default: auto]
    #[arg(long, value_name = "VERSION")]
    protocol: Option<String>,
    /// Open a new connection for each request
    #[arg(long, aliases = ["disable-keepalive", "no-connection-reuse"])]
    no_keepalive: bool,
    /// Maximum number of redirects followed per request [default: 0]
    #[arg(long, value_name = "N", aliases = ["redirect", "max-redirects"])]
    redirects: Option<u64>,
    /// Fail an answer that a check has to read and that is larger than this, such as 64MiB
    /// [default: 10MiB]
    #[arg(long, value_name = "SIZE")]
    max_body: Option<String>,
    /// HTTP method [default: GET, or POST with a body]
    #[arg(long, short = 'X', value_name = "METHOD", short_alias = 'm')]
    method: Option<String>,
    /// Request body; @FILE reads it from a file
    #[arg(long, short = 'b', value_name = "BODY", alias = "data")]
    body: Option<String>,
    /// Send the body in chunked encoding instead of with its length
    #[arg(long)]
    chunked: bool,
    /// Header, such as "Content-Type: application/json"; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", alias = "headers")]
    headers: Vec<String>,
    /// Trust these CA certificates (PEM file) instead of the system's
    #[arg(long, value_name = "FILE", aliases = ["cacert", "root-certs"])]
    ca: Option<String>,
    /// Client certificate (PEM file)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<String>,
    /// Key of the client certificate (PEM file)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<String>,
}

/// A whole number, optionally with `k` or `M`: `1.5k` is one, `1.5` is not.
fn count(text: &str) -> Result<u64, String> {
    if text.starts_with('-') {
        return Err("it cannot be negative".into());
    }
    let number = values::plain_number(text).filter(|number| number.fract() == 0.0);
    number.map(|number| number as u64).ok_or_else(|| {
        "write a whole number, such as 100, 10k or 1M (at most 999,999,999,999)".into()
    })
}

/// Lines of TOML, each with the flag that it comes from.
#[derive(Default)]
struct Lines(Vec<(String, String)>);

impl Lines {
    fn push(&mut self, flag: &str, line: impl Into<String>) {
        self.0.push((flag.into(), line.into()));
    }

    /// A string, if given.
    fn text(&mut self, flag: &str, key: &str, value: &Option<String>) {
        if let Some(value) = value {
            self.push(flag, format!("{key} = {}", quote(value)));
        }
    }

    /// A duration, if given. One that is not valid stays as it is; the plan's reader reports it.
    fn span(&mut self, flag: &str, key: &str, value: &Option<String>) {
        let complete = |text: &String| {
            values::flag_duration(text).map_or_else(|_| text.clone(), show_duration)
        };
        self.text(flag, key, &value.as_ref().map(complete));
    }
}

impl InlineArgs {
    /// The first flag given besides `--url`, and the corresponding key of a plan file.
    pub(super) fn first_given(&self) -> Option<(&'static str, &'static str)> {
        let flags = [
            (self.rate.is_some(), "--rate", "rate"),
            (self.users.is_some(), "--users", "users"),
            (self.think_time.is_some(), "--think-time", "think_time"),
            (self.duration.is_some(), "--duration", "duration"),
            (self.requests.is_some(), "--requests", "requests"),
            (self.arrivals.is_some(), "--arrivals", "arrivals"),
            (self.warmup.is_some(), "--warmup", "warmup"),
            (self.timeout.is_some(), "--timeout", "timeout"),
            (self.connections.is_some(), "--connections", "connections.max"),
            (self.protocol.is_some(), "--protocol", "protocol"),
            (self.no_keepalive, "--no-keepalive", "connections.reuse = false"),
            (self.redirects.is_some(), "--redirects", "redirects"),
            (self.max_body.is_some(), "--max-body", "max_body"),
            (self.method.is_some(), "--method", "request of a [[target]]"),
            (self.body.is_some(), "--body", "body of a [[target]]"),
            (self.chunked, "--chunked", "transfer = \"chunked\" of a [[target]]"),
            (!self.headers.is_empty(), "--header", "headers of a [[target]]"),
            (self.ca.is_some(), "--ca", "tls.ca"),
            (self.cert.is_some(), "--cert", "tls.cert"),
            (self.key.is_some(), "--key", "tls.key"),
        ];
        flags.into_iter().find(|(given, ..)| *given).map(|(_, flag, key)| (flag, key))
    }

    /// The plan as lines of TOML, each with the flag it comes from. `url` was given as `flag`.
    pub(super) fn lines(&self, flag: &str, url: &str) -> anyhow::Result<Vec<(String, String)>> {
        let mut lines = Lines::default();
        lines.push(flag, format!("name = {}", quote(&name_of(url))));
        self.add_load(&mut lines)?;
        lines.span("--warmup", "warmup", &self.warmup);
        lines.span("--timeout", "timeout", &self.timeout);
        lines.text("--max-body", "max_body", &self.max_body);
        if let Some(max) = self.connections {
            let protocol = self.protocol.as_deref();
            if protocol != Some("http2") {
                lines.push("--connections", format!("connections.max = {max}"));
            }
            let may_be_http2 = protocol == Some("http2") || url.starts_with("https:");
            if may_be_http2 && protocol != Some("http1") {
                lines.push("--connections", format!("connections.http2.connections = {max}"));
            }
        }
        lines.text("--protocol", "protocol", &self.protocol);
        if self.no_keepalive {
            lines.push("--no-keepalive", "connections.reuse = false");
        }
        if let Some(redirects) = self.redirects {
            lines.push("--redirects", format!("redirects = {redirects}"));
        }
        lines.text("--ca", "tls.ca", &self.ca);
        lines.text("--cert", "tls.cert", &self.cert);
        lines.text("--key", "tls.key", &self.key);
        self.add_target(&mut lines, flag, url)?;
        Ok(lines.0)
    }

    fn add_load(&self, lines: &mut Lines) -> anyhow::Result<()> {
        if let Some(rate) = self.rate.as_deref().filter(|rate| has_no_limit(rate)) {
            let hint = "for as many requests as possible, use --users N instead of --rate";
            return Err(usage_error(format!("--rate {rate} is not a rate"), hint));
        }
        let not_a_time = |text: &&str| text.starts_with(['{', '[', '@', '"']) || text.contains('=');
        if let Some(text) = self.duration.as_deref().filter(not_a_time) {
            let hint = "-d is --duration; give a request body with -b or --body";
            return Err(usage_error(format!("\"{text}\" is not a duration"), hint));
        }
        if let Some(rate) = self.rate.as_deref().filter(|rate| rate.starts_with('-')) {
            let hint = "write it like 500, 1.5k or 300/m";
            return Err(usage_error(format!("--rate {rate} is negative"), hint));
        }
        lines.text("--rate", "rate", &self.rate);
        match (self.users, &self.rate, self.connections) {
            (Some(users), ..) => lines.push("--users", format!("users = {users}")),
            (None, Some(_), _) => {}
            (None, None, Some(users)) => lines.push("--connections", format!("users = {users}")),
            (None, None, None) => lines.push("--users", "users = 10"),
        }
        lines.span("--think-time", "think_time", &self.think_time);
        lines.text("--arrivals", "arrivals", &self.arrivals);
        match (self.requests, &self.duration) {
            (Some(requests), _) => lines.push("--requests", format!("requests = {requests}")),
            (None, None) => lines.push("--duration", "duration = \"10s\""),
            (None, Some(_)) => lines.span("--duration", "duration", &self.duration),
        }
        Ok(())
    }

    fn add_target(&self, lines: &mut Lines, flag: &str, url: &str) -> anyhow::Result<()> {
        lines.push(flag, "[[target]]");
        lines.push(flag, "name = \"url\"");
        if let Some(method) = self.method.as_deref().filter(|method| !is_word(method)) {
            let message = format!("--method \"{method}\" is not a valid HTTP method");
            return Err(usage_error(message, "for example -X POST"));
        }
        let method = match (&self.method, &self.body) {
            (Some(method), _) => method.as_str(),
            (None, Some(_)) => "POST",
            (None, None) => "GET",
        };
        lines.push(flag, format!("request = {}", quote(&format!("{method} {url}"))));
        match self.body.as_deref().map(|body| (body, body.strip_prefix('@'))) {
            Some((_, Some(file))) => lines.push("--body", format!("body_file = {}", quote(file))),
            Some((body, None)) => {
                // A longer text is not a path; asking the kernel about it would fail.
                if body.len() <= PATH_MAX && Path::new(body).is_file() {
                    tell(&format!(
                        "warning: --body sends the text \"{body}\", which is also the name of a file\n  \
                         hint: --body @{body} sends the file"
                    ));
                }
                lines.push("--body", format!("body = {}", quote(body)));
            }
            None => {}
        }
        if self.chunked {
            lines.push("--chunked", "transfer = \"chunked\"");
        }
        if !self.headers.is_empty() {
            lines.push("--header", self.header_line()?);
        }
        Ok(())
    }

    fn header_line(&self) -> anyhow::Result<String> {
        let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for header in &self.headers {
            let hint = "for example -H \"Content-Type: application/json\"";
            let Some((name, value)) = header.split_once(':') else {
                // What follows the first word may be a secret.
                let (first, rest) =
                    header.split_once([' ', '=']).map_or((header.as_str(), ""), |(a, _)| (a, " …"));
                let shown = format!(
                    "{}{rest}",
                    if is_plain_word(first) || !rest.is_empty() { first } else { "…" }
                );
                let message = format!("--header \"{shown}\" is not in the form \"NAME: VALUE\"");
                return Err(usage_error(message, hint));
            };
            if ["http", "https"].contains(&name) && value.starts_with("//") {
                let message = "-H is followed by a URL, not by a header";
                return Err(usage_error(
                    message,
                    format!("{hint}; a URL is an argument of its own"),
                ));
            }
            values.entry(name.trim()).or_default().push(quote(value.trim()));
        }
        let one = |(name, values): (&str, Vec<String>)| {
            format!("{} = [{}]", quote(name), values.join(", "))
        };
        let all: Vec<_> = values.into_iter().map(one).collect();
        Ok(format!("headers = {{ {} }}", all.join(", ")))
    }
}

/// Whether the text is a tool's form of "as fast as possible".
fn has_no_limit(rate: &str) -> bool {
    ["0", "inf", "infinity", "max", "unlimited"].contains(&rate.to_ascii_lowercase().as_str())
}

/// Whether the method can be put before a URL without breaking the syntax; the plan validates it.
fn is_word(method: &str) -> bool {
    !method.is_empty() && method.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
}

/// The name of a plan from flags: the URL's host.
fn name_of(url: &str) -> String {
    let host = url.split("://").nth(1).unwrap_or(url).split(['/', '?']).next().unwrap_or("url");
    host.rsplit('@').next().unwrap_or(host).to_string()
}
