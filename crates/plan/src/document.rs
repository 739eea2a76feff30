//! Parses a plan file into a [`Plan`], validates it and fills in defaults. All problems are reported at
//! once.

mod connections;
mod cost;
mod file;
mod fleet;
mod load;
mod log;
mod objective;
mod request;
mod scrape;
mod sockets;
mod spec;

use crate::objective::{STREAM, TARGET};
use crate::target_file::RequestText;
use crate::{Objective, Origin, RequestSpec, Standing, Stream, Target};
use connections::read_connections;
pub use connections::{ConnectionRules, Http2Rules, Protocol, WebSocketRules};
use cost::read_cost;
pub use cost::{CostRules, RelaysFrom};
use file::Files;
pub use file::TargetStream;
use fleet::read_fleet;
pub use fleet::{FleetRules, OnAgentLoss, SecretsFrom};
use load::read_streams;
use log::read_logs;
pub use log::{Argument, Log, LogSource, Pattern};
use objective::read_objectives;
use plimsoll_config::{Document, Field, Problems, Secrets, Table, Text, Variables};
use plimsoll_measure::rng::Key;
use plimsoll_measure::{Nanos, Snapshot};
use scrape::read_scrapes;
pub use scrape::{Charted, Scrape, ScrapeSource};
pub use spec::is_redundant_header;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// From which instant a request's timeout counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeoutFrom {
    /// Its planned instant.
    #[default]
    Schedule,
    /// The instant at which it starts: it is due, and fewer requests are in flight than the plan allows.
    Start,
}

impl TimeoutFrom {
    /// As written in a plan.
    pub const WORDS: [(&'static str, TimeoutFrom); 2] =
        [("schedule", TimeoutFrom::Schedule), ("start", TimeoutFrom::Start)];
}

/// The headers that are sent unless a request sets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultHeaders {
    /// `User-Agent: plimsoll/…`, `Accept: */*`, and `Content-Type: application/json` with a JSON-RPC body.
    #[default]
    Plimsoll,
    /// Those of Go's HTTP client: `User-Agent: Go-http-client/1.1`, `Accept-Encoding: gzip` (not with HEAD or
    /// `Range`), and `Referer` after a redirect.
    Go,
}

impl DefaultHeaders {
    /// As written in a plan.
    pub const WORDS: [(&'static str, DefaultHeaders); 2] =
        [("plimsoll", DefaultHeaders::Plimsoll), ("go", DefaultHeaders::Go)];
}

/// Rules for TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsRules {
    /// Accept any certificate.
    pub insecure: bool,
    /// Trust these certificates (PEM) instead of the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate chain (PEM)…
    pub cert: Option<PathBuf>,
    /// …with this key (PEM).
    pub key: Option<PathBuf>,
    /// Server name for SNI and verification, instead of the URL's host.
    pub server_name: Option<String>,
}

/// A valid plan with all defaults filled in.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name used in reports and run directories.
    pub name: String,
    /// Seed of all random choices.
    pub seed: u64,
    /// Whether the seed is part of the plan. If not, each run draws one (see [`Plan::reseed`]), so
    /// that no run repeats the values of an earlier one.
    pub has_seed: bool,
    /// Whether it was made from flags, so that advice names flags instead of keys. The caller sets it.
    pub from_flags: bool,
    /// Length of the warm-up, which precedes the run proper and is excluded from its statistics.
    pub warmup: Nanos,
    /// Up to the last byte of the answer.
    pub timeout: Nanos,
    /// From which instant the timeout counts.
    pub timeout_from: TimeoutFrom,
    /// Maximum number of requests in flight, over all workers; `None`: no limit. Arrivals beyond it wait to
    /// start, and are unsent if they have not started when their stream ends.
    pub max_in_flight: Option<u64>,
    /// Headers that are sent unless a request sets them.
    pub default_headers: DefaultHeaders,
    /// How long requests in flight may take to finish after the end of the plan or a stop.
    pub grace: Nanos,
    /// Maximum number of redirects followed per request.
    pub redirects: u32,
    /// The largest response body, in bytes; after decoding, if it is decoded.
    pub body_max: u64,
    /// The HTTP version.
    pub protocol: Protocol,
    /// Rules for connections.
    pub connections: ConnectionRules,
    /// Rules for TLS.
    pub tls: TlsRules,
    /// Rules for a run over several agents.
    pub fleet: FleetRules,
    /// The streams; at least one.
    pub streams: Vec<Stream>,
    /// The targets of all streams; those of a stream are contiguous.
    pub targets: Vec<Target>,
    /// The requests of all targets; those of a target are contiguous.
    pub requests: Vec<RequestSpec>,
    /// Pass/fail conditions.
    pub objectives: Vec<Objective>,
    /// Other processes to scrape.
    pub scrapes: Vec<Scrape>,
    /// Logs to follow.
    pub logs: Vec<Log>,
    /// What the tested system costs.
    pub cost: Option<CostRules>,
    /// The values of the secret variables that the plan uses.
    pub secrets: Secrets,
}

/// Longer timeouts and grace periods would exceed the histogram's range of one hour.
const TIMEOUT_MAX: Nanos = Nanos::from_secs(30 * 60);
/// Bounds memory: each target has its own histograms.
const TARGETS_MAX: usize = 10_000;
/// Seeds are JSON numbers that every reader keeps exactly.
pub const SEED_MAX: u64 = 1 << 53;
const CONNECTIONS_MAX: u64 = 10_000_000;

impl Plan {
    /// The top-level keys of a plan.
    pub const KEYS: [&str; 35] = [
        "agents",
        "arrivals",
        "connections",
        "cost",
        "default_headers",
        "duration",
        "fleet",
        "grace",
        "labels",
        "log",
        "max_body",
        "max_in_flight",
        "name",
        "objective",
        "per_second",
        "ping",
        "protocol",
        "rate",
        "redirects",
        "requests",
        "scrape",
        "seed",
        "silence",
        "sockets",
        "split_by",
        "stages",
        "start",
        "stream",
        "target",
        "think_time",
        "timeout",
        "timeout_from",
        "tls",
        "users",
        "warmup",
    ];

    /// Reads a plan. Files that it names are relative to `folder`.
    ///
    /// # Errors
    /// All problems of the document.
    pub fn read(
        document: &Document,
        variables: &Variables,
        folder: &Path,
    ) -> Result<Plan, Problems> {
        document.read(variables, |root| read_plan(root, &Files::of(folder)))
    }

    /// Reads a plan that another host has sent. It may name no files: whoever may send plans does not thereby get at
    /// the files of this host, neither through requests nor through problems.
    ///
    /// # Errors
    /// All problems of the document.
    pub fn read_sent(document: &Document, variables: &Variables) -> Result<Plan, Problems> {
        document.read(variables, |root| read_plan(root, &Files::sent()))
    }

    /// Reads a plan whose only target file is a stream, of which only the first request was read, and how
    /// to read the others. The plan has only that request.
    ///
    /// # Errors
    /// All problems of the document and of the request.
    pub fn read_stream(
        document: &Document,
        folder: &Path,
        first: &RequestText,
    ) -> Result<(Plan, TargetStream), Problems> {
        // In its place, so that problems have its line.
        let padded = [vec![b'\n'; first.line - 1], first.bytes.clone()].concat();
        let files = Files::streaming(folder, &padded);
        let plan = document.read(&Variables::none(), |root| read_plan(root, &files))?;
        Ok((plan, files.into_stream().expect("its target file was read")))
    }

    /// Reads the plan that was written into a run directory, to report on the run: its variables and files
    /// are not needed, so its requests cannot be sent. `origins` are those of its requests, in their order.
    ///
    /// # Errors
    /// All problems of the document.
    pub fn read_recorded(document: &Document, origins: &[String]) -> Result<Plan, Problems> {
        let variables = Variables::none().leave_unset();
        document.read(&variables, |root| read_plan(root, &Files::recorded(origins)))
    }

    /// The secrets that a request sends: those of all variables, and its own.
    pub fn secrets_of(&self, request: usize) -> Secrets {
        let mut secrets = self.secrets.clone();
        self.requests[request].add_secrets(&mut secrets);
        secrets
    }

    /// The secrets that the plan sends: those of all variables, and of its first 1,000 requests.
    pub fn secrets_of_all(&self) -> Secrets {
        /// Text is searched for each of them.
        const REQUESTS_MAX: usize = 1_000;
        let mut secrets = self.secrets.clone();
        self.requests.iter().take(REQUESTS_MAX).for_each(|own| own.add_secrets(&mut secrets));
        secrets
    }

    /// Derives all random choices from another seed, which becomes part of the plan.
    pub fn reseed(&mut self, seed: u64) {
        (self.seed, self.has_seed) = (seed, true);
        self.streams.iter_mut().for_each(|stream| stream.reseed(seed));
    }

    /// When the last stream ends, including the warm-up; `None` if not known in advance.
    pub fn planned_end(&self) -> Option<Nanos> {
        let ends = self.streams.iter().map(|stream| stream.planned_end(self.warmup));
        ends.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The distinct origins of all requests, in the order of the requests.
    pub fn origins(&self) -> Vec<Origin> {
        let mut origins: Vec<Origin> = Vec::new();
        let mut seen = HashSet::new();
        for request in &self.requests {
            let origin = request.origin();
            if seen.insert(origin.clone()) {
                origins.push(origin);
            }
        }
        origins
    }

    /// The names under which connections are counted: the origins and, if redirects are followed, one for all
    /// origins that only redirects lead to.
    pub fn origin_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for origin in self.origins() {
            let name = origin.to_string();
            // Several WebSocket URLs of one host: their paths may hold secrets.
            let same = |other: &&String| other.split(' ').next() == Some(name.as_str());
            let before = names.iter().filter(same).count();
            names.push(if before > 0 { format!("{name} ({})", before + 1) } else { name });
        }
        if self.redirects > 0 {
            names.push("redirects".into());
        }
        names
    }

    /// The maximum number of simultaneous connections to one host and port, and how many requests each
    /// carries at a time; those of HTTP/1.1 unless HTTP/2 is certain.
    pub fn connection_limit(&self, origin: &Origin) -> (u64, u64) {
        let ConnectionRules { max, http2, websocket, .. } = &self.connections;
        let is_http2 = self.protocol == Protocol::Http2 && !origin.scheme.is_websocket();
        match self.protocol {
            _ if origin.stays_open && is_http2 => {
                let needed = self.sockets_to(origin).div_ceil(http2.streams);
                (http2.connections.max(needed), http2.streams)
            }
            _ if origin.stays_open => (self.sockets_to(origin), 1),
            _ if origin.scheme.is_websocket() => (websocket.connections, websocket.calls),
            Protocol::Auto | Protocol::Http1 => (*max, 1),
            Protocol::Http2 => (http2.connections, http2.streams),
        }
    }

    /// The most exchanges that stay open to an origin at a time.
    pub fn sockets_to(&self, origin: &Origin) -> u64 {
        let goes_there = |stream: &&Stream| {
            let targets = &self.targets[stream.targets.clone()];
            let mut specs = targets.iter().flat_map(|own| &self.requests[own.requests.clone()]);
            stream.sockets.is_some() && specs.any(|spec| spec.origin() == *origin)
        };
        self.streams.iter().filter(goes_there).map(|stream| load::peak(stream) as u64).sum()
    }

    /// Whether a target of a stream opens a WebSocket that stays open: event streams have no pings.
    pub(crate) fn sends_pings(&self, stream: &Stream) -> bool {
        let targets = &self.targets[stream.targets.clone()];
        let mut specs = targets.iter().flat_map(|own| &self.requests[own.requests.clone()]);
        specs.any(|spec| !matches!(spec.standing, Some(Standing::Events { .. })))
    }

    /// Whether requests are calls over WebSocket; what stays open has connections of its own.
    pub fn uses_websocket(&self) -> bool {
        self.requests.iter().any(|own| own.url.scheme.is_websocket() && own.standing.is_none())
    }

    /// Whether requests may be sent with HTTP/2.
    pub fn may_use_http2(&self) -> bool {
        self.requests.iter().any(|request| self.protocol.may_be_http2(request.url.scheme))
    }

    /// An empty snapshot.
    pub fn blank_snapshot(&self) -> Snapshot {
        Snapshot::new(self.targets.len(), self.streams.len(), self.origin_names().len())
    }

    /// Number of planned requests without the warm-up; `None` if not known in advance.
    pub fn planned_requests(&self) -> Option<u64> {
        self.streams.iter().map(Stream::planned_requests).sum()
    }
}

fn read_plan(root: &Table<'_>, files: &Files<'_>) -> Option<Plan> {
    let name = root.field("name").map(|f| f.open_text("the plan's name"));
    let given_seed = root.field("seed").map(|f| f.integer(0, SEED_MAX));
    let seed = given_seed.flatten().unwrap_or(1);
    let span = |key| root.field(key).and_then(|f: Field<'_>| f.duration()).map(Nanos::from);
    let warmup = span("warmup").unwrap_or(Nanos::ZERO);
    let timeout = bounded_span(root, "timeout").unwrap_or(Nanos::from_secs(30));
    let timeout_from = root.field("timeout_from").and_then(|f| f.one_of(&TimeoutFrom::WORDS));
    let timeout_from = timeout_from.unwrap_or_default();
    let max_in_flight = read_max_in_flight(root, timeout_from);
    let default_headers = root.field("default_headers");
    let default_headers = default_headers.and_then(|f| f.one_of(&DefaultHeaders::WORDS));
    let default_headers = default_headers.unwrap_or_default();
    let grace = match root.field("grace") {
        Some(field) => bounded(&field, "grace", field.duration()).unwrap_or_default(),
        None => timeout,
    };
    let redirects = root.field("redirects").and_then(|f| f.integer(0, 50)).unwrap_or(0) as u32;
    let body_max = root.field("max_body").and_then(|f| f.size()).unwrap_or(10 << 20);
    let protocol = root.field("protocol").and_then(|f| f.one_of(&Protocol::WORDS));
    let protocol = protocol.unwrap_or_default();
    let connections = read_connections(root, protocol);
    let tls = read_tls(root, files);
    let fleet = read_fleet(root);

    let (mut targets, mut requests) = (Vec::new(), Vec::new());
    files.default_headers.set(default_headers);
    let streams = read_streams(root, files, Key::new(seed), (&mut targets, &mut requests));
    if targets.len() > TARGETS_MAX {
        root.problem(format!("{} targets; the maximum is {TARGETS_MAX}", targets.len()), "");
    }
    check_websockets(root, &requests);
    sockets::check_rest(root, streams.as_deref(), max_in_flight);
    let objectives = read_objectives(root, (&targets, &requests), streams.as_deref());
    let scrapes = read_scrapes(root);
    let logs = read_logs(root, files);
    let cost = read_cost(root, &targets, &scrapes);
    let streams = streams.filter(|streams| !streams.is_empty())?;
    let users = streams.iter().filter(|own| own.sockets.is_none());
    let users = users.filter_map(|s| s.users().map(|_| load::peak(s) as u64)).sum::<u64>();
    let connections = connections.for_users(users);
    let plan = Plan {
        name: name.unwrap_or_else(|| Some("plan".into()))?,
        seed,
        has_seed: given_seed.is_some(),
        from_flags: false,
        warmup,
        timeout,
        timeout_from,
        max_in_flight,
        default_headers,
        grace,
        redirects,
        body_max,
        protocol,
        connections,
        tls,
        fleet,
        streams,
        targets,
        requests,
        objectives,
        scrapes,
        logs,
        cost,
        secrets: root.secrets(),
    };
    // Contents of files may be longer in TOML. The limit ensures that a resolved plan can be read back.
    let resolved = plan.to_toml().len();
    if resolved > Document::LEN_MAX {
        let message =
            format!("the resolved plan has {resolved} bytes; the maximum is {}", Document::LEN_MAX);
        root.problem(message, "use fewer or smaller requests in the target files");
        return None;
    }
    Some(plan)
}

/// Connections to one WebSocket URL are shared, so that their requests must open them alike.
fn check_websockets(root: &Table<'_>, requests: &[RequestSpec]) {
    let mut opened: HashMap<Origin, &RequestSpec> = HashMap::new();
    for own in requests.iter().filter(|own| own.url.scheme.is_websocket()) {
        let first = opened.entry(own.origin()).or_insert(own);
        if first.compression != own.compression {
            let message =
                format!("of the targets of {}, only some have \"compression\"", own.url_shown);
            let hint = "these targets share connections; set it in all of them or in none";
            return root.problem(message, hint);
        }
        if first.headers != own.headers || first.url != own.url {
            let message = format!("the targets of {} have different headers", own.url_shown);
            let hint = "the headers open the connections that these targets share; give them the same ones";
            return root.problem(message, hint);
        }
    }
}

/// The limit of requests in flight. If the timeout counted from the planned instant, waiting arrivals would
/// have to be remembered to time out.
fn read_max_in_flight(root: &Table<'_>, timeout_from: TimeoutFrom) -> Option<u64> {
    let field = root.field("max_in_flight")?;
    if timeout_from != TimeoutFrom::Start {
        field.problem_with_key(
            "\"max_in_flight\" requires timeout_from = \"start\"",
            "to limit connections only, set connections = { max = … }",
        );
    }
    field.integer(1, CONNECTIONS_MAX)
}

fn bounded_span(root: &Table<'_>, key: &'static str) -> Option<Nanos> {
    let field = root.field(key)?;
    bounded(&field, key, field.duration_above_zero())
}

fn bounded(field: &Field<'_>, key: &str, span: Option<Duration>) -> Option<Nanos> {
    let span = Nanos::from(span?);
    if span > TIMEOUT_MAX {
        field.problem(format!("\"{key}\" must be at most {TIMEOUT_MAX}"), "");
    }
    Some(span)
}

fn read_tls(root: &Table<'_>, files: &Files<'_>) -> TlsRules {
    let mut rules = TlsRules::default();
    let Some(table) = root.field("tls").and_then(|f| f.table("tls")) else { return rules };
    rules.insecure = table.field("insecure").and_then(|f| f.boolean()).unwrap_or(false);
    let file = |key| {
        let field: Field<'_> = table.field(key)?;
        let path = files.folder.join(field.text()?.value);
        if let Some(why) = files.refusal(&path) {
            field.problem(why, files.hint());
        } else if files.recorded.is_none() && !path.is_file() {
            field.problem(format!("file not found: {}", path.display()), "");
        }
        Some(path)
    };
    rules.ca = file("ca");
    rules.cert = file("cert");
    rules.key = file("key");
    rules.server_name = table.field("server_name").and_then(|f| f.open_text("the server name"));
    if rules.cert.is_some() != rules.key.is_some() {
        table.problem("a client certificate needs both \"cert\" and \"key\"", "");
    }
    table.close();
    rules
}

/// A table of user-defined names and strings; `what` names one of them.
fn read_pairs(table: &Table<'_>, what: &str) -> BTreeMap<String, String> {
    let text = |(name, field): (String, Field<'_>)| Some((name, field.open_text(what)?));
    // Entries are never unknown: `close` is not called.
    table.entries().into_iter().filter_map(text).collect()
}

/// Tags of a target or labels of a stream; `what` names one of them.
fn read_tags(table: &Table<'_>, what: &str) -> BTreeMap<String, String> {
    for (name, field) in table.entries() {
        if [TARGET, STREAM].contains(&name.as_str()) {
            let hint = "choose another name for the tag";
            field.problem_with_key(
                format!("\"{name}\" cannot be a tag: in \"where\" it is the name of a {name}"),
                hint,
            );
        }
    }
    read_pairs(table, what)
}

/// A header's value or values.
fn read_texts(field: &Field<'_>) -> Vec<Text> {
    if field.is_list() {
        field.list().unwrap_or_default().iter().filter_map(Field::text).collect()
    } else {
        field.text().into_iter().collect()
    }
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;
