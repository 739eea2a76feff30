//! Reads a plan from a file, or from flags.

use crate::usage_error;
use anyhow::Context;
use plimsoll_config::values::quote;
use plimsoll_config::{Document, Variables, nearest};
use plimsoll_plan::Plan;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Variables for a plan.
#[derive(clap::Args)]
pub(crate) struct SetArgs {
    /// Set a variable that the file uses as ${NAME}; overrides the environment
    #[arg(long = "set", value_name = "NAME=VALUE", global = true)]
    set: Vec<String>,
}

impl SetArgs {
    pub(crate) fn variables(&self) -> anyhow::Result<Variables> {
        let mut variables = Variables::from_environment();
        for pair in &self.set {
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                usage_error(
                    format!("--set {pair} is not in the form NAME=VALUE"),
                    "for example --set PORT=3069",
                )
            })?;
            variables.set(name, value);
        }
        Ok(variables)
    }

    /// An error for the first `--set` variable that the document does not use.
    fn unused(&self, used: &[String]) -> Option<anyhow::Error> {
        let names = self.set.iter().filter_map(|pair| Some(pair.split_once('=')?.0));
        let name = names.into_iter().find(|name| !used.iter().any(|used| used == name))?;
        let hint = match nearest(name, used.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None if used.is_empty() => "the plan uses no variables; remove --set".into(),
            None => format!("the plan uses {}", used.join(", ")),
        };
        Some(usage_error(format!("--set {name}: the plan does not use ${{{name}}}"), hint))
    }
}

/// Flags that define a plan without a file.
#[derive(clap::Args)]
#[group(id = "inline")]
#[command(next_help_heading = "Without a plan file")]
pub(crate) struct InlineArgs {
    /// Send to this URL instead of reading a plan
    #[arg(long, value_name = "URL", conflicts_with = "plan")]
    url: Option<String>,
    /// Open model: requests per second, such as 500/s
    #[arg(long, requires = "url", conflicts_with = "users")]
    rate: Option<String>,
    /// Closed model: number of users, each sending its next request after an answer [default: 10]
    #[arg(long, requires = "url")]
    users: Option<u64>,
    /// How long each user pauses after an answer, such as 1s
    #[arg(long, requires = "url")]
    think_time: Option<String>,
    /// How long to send, such as 30s or 1h30m [default: 10s]
    #[arg(long, short = 'd', requires = "url", conflicts_with = "requests")]
    duration: Option<String>,
    /// How many requests to send
    #[arg(long, short = 'n', requires = "url")]
    requests: Option<u64>,
    /// Space the open model's requests evenly (constant) or at random (poisson)
    #[arg(long, requires = "url")]
    arrivals: Option<String>,
    /// How long to send before measuring, such as 5s
    #[arg(long, requires = "url")]
    warmup: Option<String>,
    /// Timeout, counted from when the request was due [default: 30s]
    #[arg(long, requires = "url")]
    timeout: Option<String>,
    /// Maximum number of simultaneous connections [default: 2000]
    #[arg(long, short = 'c', value_name = "N", requires = "url")]
    connections: Option<u64>,
    /// Fail an answer that a check has to read and that is larger than this, such as 64MiB [default: 10MiB]
    #[arg(long, value_name = "SIZE", requires = "url")]
    max_body: Option<String>,
    /// HTTP method [default: GET, or POST with a body]
    #[arg(long, short = 'X', requires = "url")]
    method: Option<String>,
    /// Request body; @FILE reads it from a file
    #[arg(long, short = 'b', requires = "url")]
    body: Option<String>,
    /// Header, such as "Content-Type: application/json"
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", requires = "url")]
    headers: Vec<String>,
    /// Pass/fail condition; may be repeated, such as "latency.p99 < 250ms"
    #[arg(long = "objective", value_name = "CONDITION", requires = "url")]
    objectives: Vec<String>,
}

/// Reads a plan from a file.
pub(crate) fn read_file(path: &Path, set: &SetArgs) -> anyhow::Result<Plan> {
    let hint = "give the path of a plan, or use --url; see plimsoll run --help";
    let document = Document::new(path.display().to_string(), read_text(path, hint)?);
    read_document(&document, set, path)
}

/// Reads a file named by the user.
pub(crate) fn read_text(path: &Path, hint: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| usage_error(format!("cannot read {}: {error}", path.display()), hint))
}

/// Reads a plan from a document; files that it names are relative to the folder of `path`.
pub(crate) fn read_document(
    document: &Document,
    set: &SetArgs,
    path: &Path,
) -> anyhow::Result<Plan> {
    read(document, set, path.parent().unwrap_or(Path::new("")))
}

/// Reads a plan from flags.
pub(crate) fn read_flags(args: &InlineArgs, set: &SetArgs) -> anyhow::Result<Plan> {
    let folder = std::env::current_dir().context("cannot determine the current directory")?;
    read(&Document::from_named(args.lines()?), set, &folder)
}

fn read(document: &Document, set: &SetArgs, folder: &Path) -> anyhow::Result<Plan> {
    let variables = set.variables()?;
    let read = Plan::read(document, &variables, folder);
    let unused = set.unused(&variables.used());
    match (read, unused) {
        (Ok(plan), None) => Ok(plan),
        (Ok(_), Some(unused)) => Err(unused),
        (Err(problems), unused) => {
            // A misspelt `--set` name often explains why another variable is not set.
            let unused = unused.map(|unused| format!("\n{unused}")).unwrap_or_default();
            Err(usage_error(format!("the plan is not valid\n{problems}{unused}"), ""))
        }
    }
}

impl InlineArgs {
    /// The first flag given besides `--url`, and the corresponding key of a plan file.
    fn first_given(&self) -> Option<(&'static str, &'static str)> {
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
            (self.max_body.is_some(), "--max-body", "max_body"),
            (self.method.is_some(), "--method", "request of a [[target]]"),
            (self.body.is_some(), "--body", "body of a [[target]]"),
            (!self.headers.is_empty(), "--header", "headers of a [[target]]"),
            (!self.objectives.is_empty(), "--objective", "[[objective]]"),
        ];
        flags.into_iter().find(|(given, ..)| *given).map(|(_, flag, key)| (flag, key))
    }

    /// The plan as lines of TOML, each with the flag it comes from.
    fn lines(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut lines: Vec<(String, String)> = Vec::new();
        let mut line = |flag: &str, text: String| lines.push((flag.into(), text));
        let url = self.url.as_deref().unwrap_or_default();
        line("--url", format!("name = {}", quote(&name_of(url))));
        let mut text = |flag: &str, key: &str, value: &Option<String>| {
            if let Some(value) = value {
                line(flag, format!("{key} = {}", quote(value)));
            }
        };
        text("--rate", "rate", &self.rate);
        text("--think-time", "think_time", &self.think_time);
        text("--duration", "duration", &self.duration);
        text("--arrivals", "arrivals", &self.arrivals);
        text("--warmup", "warmup", &self.warmup);
        text("--timeout", "timeout", &self.timeout);
        text("--max-body", "max_body", &self.max_body);
        match (self.users, &self.rate) {
            (Some(users), _) => line("--users", format!("users = {users}")),
            (None, None) => line("--users", "users = 10".into()),
            (None, Some(_)) => {}
        }
        match (self.requests, &self.duration) {
            (Some(requests), _) => line("--requests", format!("requests = {requests}")),
            (None, None) => line("--duration", "duration = \"10s\"".into()),
            (None, Some(_)) => {}
        }
        if let Some(max) = self.connections {
            line("--connections", format!("connections = {{ max = {max} }}"));
        }
        for objective in &self.objectives {
            line("--objective", "[[objective]]".into());
            line("--objective", format!("that = {}", quote(objective)));
        }
        line("--url", "[[target]]".into());
        line("--url", "name = \"url\"".into());
        if let Some(method) = self.method.as_deref().filter(|method| !is_token(method)) {
            let message = format!("--method \"{method}\" is not a valid HTTP method");
            return Err(usage_error(message, "for example -X POST"));
        }
        let method = match (&self.method, &self.body) {
            (Some(method), _) => method.as_str(),
            (None, Some(_)) => "POST",
            (None, None) => "GET",
        };
        line("--url", format!("request = {}", quote(&format!("{method} {url}"))));
        match self.body.as_deref().map(|body| (body, body.strip_prefix('@'))) {
            Some((_, Some(file))) => line("--body", format!("body_file = {}", quote(file))),
            Some((body, None)) => line("--body", format!("body = {}", quote(body))),
            None => {}
        }
        if !self.headers.is_empty() {
            line("--header", self.header_line()?);
        }
        Ok(lines)
    }

    fn header_line(&self) -> anyhow::Result<String> {
        let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for header in &self.headers {
            let (name, value) = header.split_once(':').ok_or_else(|| {
                let hint = "for example -H \"Content-Type: application/json\"";
                usage_error(
                    format!("--header \"{header}\" is not in the form \"NAME: VALUE\""),
                    hint,
                )
            })?;
            values.entry(name.trim()).or_default().push(quote(value.trim()));
        }
        let one = |(name, values): (&str, Vec<String>)| {
            format!("{} = [{}]", quote(name), values.join(", "))
        };
        let all: Vec<_> = values.into_iter().map(one).collect();
        Ok(format!("headers = {{ {} }}", all.join(", ")))
    }
}

/// Whether the method can be put before a URL without breaking the syntax; the plan validates it.
fn is_token(method: &str) -> bool {
    !method.is_empty() && method.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
}

/// The name of a plan from flags: the URL's host.
fn name_of(url: &str) -> String {
    let host = url.split("://").nth(1).unwrap_or(url).split(['/', '?']).next().unwrap_or("url");
    host.rsplit('@').next().unwrap_or(host).to_string()
}

/// Reads the plan of `run` from a file or from flags.
pub(crate) fn read_either(
    plan: &Option<PathBuf>,
    inline: &InlineArgs,
    set: &SetArgs,
) -> anyhow::Result<Plan> {
    match (plan, inline.first_given()) {
        (Some(path), Some((flag, key))) => {
            let path = path.display();
            Err(usage_error(
                format!("{flag} cannot be used with a plan file"),
                format!("set {key} in {path}, or give --url URL instead of {path}"),
            ))
        }
        (Some(path), None) => read_file(path, set),
        (None, _) if inline.url.is_none() => {
            Err(usage_error("give a PLAN file, or --url URL", "see plimsoll run --help"))
        }
        (None, _) => read_flags(inline, set),
    }
}
