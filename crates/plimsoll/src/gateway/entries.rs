//! `plimsoll gateway service|upstream|endpoint`: lists, shows and changes entries.
//!
//! The flags of a new entry become lines of TOML, each labelled with its flag and parsed by the same
//! code as the configuration file.

use super::cache::CacheArgs;
use super::listing::{self, Format};
use crate::{put, tell, usage_error};
use clap::{Args, Subcommand};
use plimsoll_config::values::quote;
use plimsoll_config::{Text, Variables};
use plimsoll_registry::config::Inputs;
use plimsoll_registry::sources::{ChangeError, LoadError, Outcome, Request, Sources};
use plimsoll_registry::store::EntryKind;
use std::path::PathBuf;
use std::process::ExitCode;

/// The kind of entry a command works on.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Manage services: the chains that calls are relayed to
    Service(ServiceArgs),
    /// Manage upstreams: the nodes and PATH instances that serve the chains
    Upstream(UpstreamArgs),
    /// Manage endpoints: the URLs that customers call, /api/gateway?endpoint=ID
    Endpoint(EndpointArgs),
    /// Show or empty the cache of a running gateway
    Cache(CacheArgs),
}

#[derive(Args)]
pub(super) struct ServiceArgs {
    #[command(subcommand)]
    verb: ServiceVerb,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Args)]
pub(super) struct UpstreamArgs {
    #[command(subcommand)]
    verb: UpstreamVerb,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Args)]
pub(super) struct EndpointArgs {
    #[command(subcommand)]
    verb: EndpointVerb,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Args)]
struct FormatArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    format: Format,
}

#[derive(Subcommand)]
enum ServiceVerb {
    /// Add a service, or replace a built-in one
    #[command(after_help = "Example:
  plimsoll gateway service add base --chain-id 8453 --block-time 2s \\
      --sync-allowance 150")]
    Add(Box<AddService>),
    #[command(flatten)]
    Other(Verb),
}

#[derive(Subcommand)]
enum UpstreamVerb {
    /// Add an upstream
    #[command(after_help = "\
${NAME} is replaced by an environment variable of the gateway; the database stores only the name. \
The variable must have some value here too, so that the entry can be checked: --set NODE_KEY=any \
will do.

Examples:
  plimsoll gateway upstream add node-a --service eth \\
      --url 'https://node.example/${NODE_KEY}' --weight 2 --tier 1 \\
      --header 'Authorization: Bearer ${TOKEN}' --rate-limit 500/s
  plimsoll gateway upstream add path-1 --kind path \\
      --url http://127.0.0.1:4001/v1
      a PATH instance, which serves every service")]
    Add(Box<AddUpstream>),
    /// Stop sending new calls to an upstream, and finish those in flight; enable ends it
    Drain {
        /// Id of the upstream
        id: String,
    },
    #[command(flatten)]
    Other(Verb),
}

#[derive(Subcommand)]
enum EndpointVerb {
    /// Add an endpoint
    #[command(after_help = "Example:
  plimsoll gateway endpoint add ethpath_1764014188689_1764014188693 \\
      --service eth --allow 'eth_*' --deny eth_getLogs")]
    Add(AddEndpoint),
    #[command(flatten)]
    Other(Verb),
}

/// Commands common to all kinds.
#[derive(Subcommand)]
enum Verb {
    /// List all entries, with their origin and state
    List,
    /// Show one entry with all its keys, as TOML
    Show {
        /// Id of the entry
        id: String,
    },
    /// Enable a disabled entry
    Enable {
        /// Id of the entry
        id: String,
    },
    /// Disable an entry without removing it; a service's upstreams and endpoints are disabled with it
    Disable {
        /// Id of the entry
        id: String,
    },
    /// Remove an entry from the database
    Remove {
        /// Id of the entry
        id: String,
    },
}

#[derive(Args)]
struct AddService {
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
    #[command(flatten)]
    replace: ReplaceArgs,
}

#[derive(Args)]
struct AddUpstream {
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
    /// Certificates (PEM) to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    methods: MethodArgs,
    #[command(flatten)]
    replace: ReplaceArgs,
}

#[derive(Args)]
struct AddEndpoint {
    /// Id of the endpoint, as in its URL
    id: String,
    /// Service it relays to
    #[arg(long, value_name = "ID")]
    service: String,
    #[command(flatten)]
    methods: MethodArgs,
    #[command(flatten)]
    replace: ReplaceArgs,
}

#[derive(Args)]
struct MethodArgs {
    /// Allow only these methods, such as eth_call or 'eth_*'; may be repeated
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    allow: Vec<String>,
    /// Deny these methods, even if --allow matches; may be repeated
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    deny: Vec<String>,
}

#[derive(Args)]
struct ReplaceArgs {
    /// Replace the entry with the same id; a disabled entry stays disabled
    #[arg(long)]
    replace: bool,
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
        for (flag, key, names) in [
            ("--allow", "methods.allow", &methods.allow),
            ("--deny", "methods.deny", &methods.deny),
        ] {
            if !names.is_empty() {
                let names: Vec<String> = names.iter().map(|name| quote(name)).collect();
                self.0.push((flag.into(), format!("{key} = [{}]", names.join(", "))));
            }
        }
    }
}

impl AddService {
    fn request(self) -> Request {
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
    fn request(self) -> anyhow::Result<(Request, Vec<String>)> {
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
    fn request(self) -> Request {
        let mut lines = Lines::default();
        lines.methods(&self.methods);
        Request::Add {
            kind: EntryKind::Endpoint,
            id: self.id,
            service: Some(self.service),
            lines: lines.0,
            replace: self.replace.replace,
        }
    }
}

/// What a command does.
enum Task {
    List(EntryKind),
    Show(EntryKind, String),
    Change(Change),
}

/// A change to the database.
struct Change {
    kind: EntryKind,
    /// What is reported when it is done: the verb, and the preposition before the database.
    done: (&'static str, &'static str),
    request: Request,
    /// Printed when it is done.
    notes: Vec<String>,
}

impl Task {
    fn of(kind: EntryKind, verb: Verb) -> Task {
        let change =
            |done, request| Task::Change(Change { kind, done, request, notes: Vec::new() });
        match verb {
            Verb::List => Task::List(kind),
            Verb::Show { id } => Task::Show(kind, id),
            Verb::Enable { id } => change(("enabled", "in"), Request::Enable(kind, id)),
            Verb::Disable { id } => change(("disabled", "in"), Request::Disable(kind, id)),
            Verb::Remove { id } => change(("removed", "from"), Request::Remove(kind, id)),
        }
    }

    fn add(kind: EntryKind, request: Request, notes: Vec<String>) -> Task {
        Task::Change(Change { kind, done: ("added", "to"), request, notes })
    }
}

/// Runs a command on entries.
pub(super) fn run(command: Command, inputs: Inputs) -> anyhow::Result<ExitCode> {
    use EntryKind::{Endpoint, Service, Upstream};
    let (format, task) = match command {
        Command::Cache(args) => return super::cache::run(args, &inputs),
        Command::Service(ServiceArgs { verb, format }) => (
            format,
            match verb {
                ServiceVerb::Add(add) => Task::add(Service, add.request(), Vec::new()),
                ServiceVerb::Other(verb) => Task::of(Service, verb),
            },
        ),
        Command::Upstream(UpstreamArgs { verb, format }) => (
            format,
            match verb {
                UpstreamVerb::Add(add) => {
                    let (request, notes) = add.request()?;
                    Task::add(Upstream, request, notes)
                }
                UpstreamVerb::Drain { id } => {
                    let note = "note: a running gateway sends it no new calls within a second; \
                                plimsoll_relays_in_flight in /metrics shows when its last call has \
                                ended";
                    Task::Change(Change {
                        kind: Upstream,
                        done: ("drained", "in"),
                        request: Request::Drain(id),
                        notes: vec![note.into()],
                    })
                }
                UpstreamVerb::Other(verb) => Task::of(Upstream, verb),
            },
        ),
        Command::Endpoint(EndpointArgs { verb, format }) => (
            format,
            match verb {
                EndpointVerb::Add(add) => Task::add(Endpoint, add.request(), Vec::new()),
                EndpointVerb::Other(verb) => Task::of(Endpoint, verb),
            },
        ),
    };
    let strict = inputs.variables.clone();
    // The gateway's secrets need not be set where its entries are changed.
    let inputs = Inputs { variables: inputs.variables.leave_unset(), ..inputs };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut sources = Sources::new(inputs);
        let done = perform(&mut sources, task, format.format, &strict).await;
        sources.close().await;
        done
    })
}

async fn perform(
    sources: &mut Sources,
    task: Task,
    format: Format,
    strict: &Variables,
) -> anyhow::Result<ExitCode> {
    match task {
        Task::List(kind) => {
            let listed = sources.list(kind).await.map_err(not_loaded)?;
            if let Some(missing) = &listed.missing {
                tell(&format!("note: the database {missing} does not exist yet"));
            }
            put(&listing::list(kind, &listed.entries, format))?;
            if listed.entries.is_empty() {
                let kind = kind.name();
                tell(&format!("no {kind}s yet; see plimsoll gateway {kind} add --help"));
            }
        }
        Task::Show(kind, id) => {
            let listed = sources.list(kind).await.map_err(not_loaded)?;
            let entries: Vec<_> = listed.entries.iter().filter(|entry| entry.id == id).collect();
            if entries.is_empty() {
                let ids = listed.entries.iter().map(|entry| entry.id.as_str());
                let kind = kind.name();
                let hint = match plimsoll_config::nearest(&id, ids) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("plimsoll gateway {kind} list shows all {kind}s"),
                };
                return Err(usage_error(format!("there is no {kind} \"{id}\""), hint));
            }
            for entry in entries {
                put(&listing::show(kind, entry, format))?;
            }
        }
        Task::Change(change) => {
            let outcome = sources.change(&change.request, strict).await.map_err(not_changed)?;
            report(sources, &change, outcome, format)?;
            change.notes.iter().for_each(|note| tell(note));
            warn(sources, &change).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Warns about a new entry, and if running gateways will reject what the database now holds.
async fn warn(sources: &mut Sources, change: &Change) {
    let rejected = match sources.load().await {
        Ok((config, definitions)) => {
            if let Request::Add { id, .. } = &change.request {
                let entry = Some((change.kind, id.clone()));
                let all = plimsoll_gateway::warnings(&config.settings, &definitions);
                let own = all.iter().filter(|warning| warning.entry == entry);
                own.for_each(|warning| tell(&format!("warning: {warning}")));
            }
            let problems = plimsoll_gateway::file_problems(&config.settings, &definitions);
            (!problems.is_empty()).then(|| problems.to_string())
        }
        Err(error) => Some(usage_error(error.to_string(), error.hint()).to_string()),
    };
    if let Some(why) = rejected {
        tell(&format!(
            "warning: the resulting configuration is not valid: running gateways reject it and keep \
             the previous one\n{why}"
        ));
    }
}

fn report(
    sources: &Sources,
    change: &Change,
    outcome: Outcome,
    format: Format,
) -> anyhow::Result<()> {
    let (kind, id) = (change.kind.name(), change.request.id());
    let (done, preposition) = change.done;
    if format == Format::Json {
        let outcome = match outcome {
            Outcome::Changed | Outcome::ReplacedBuiltIn => done,
            Outcome::Replaced => "replaced",
            Outcome::Unchanged => "unchanged",
        };
        return put(&format!(
            "{}\n",
            serde_json::json!({ "kind": kind, "id": id, "outcome": outcome })
        ));
    }
    let database = sources.database().unwrap_or_default();
    let text = match outcome {
        Outcome::Changed => format!("{done} {kind} {id} {preposition} {database}"),
        Outcome::Replaced => format!("replaced {kind} {id} in {database}"),
        Outcome::ReplacedBuiltIn => {
            format!("added {kind} {id} to {database}, replacing the built-in one")
        }
        Outcome::Unchanged => format!("{kind} {id} is unchanged"),
    };
    tell(&text);
    Ok(())
}

fn not_loaded(error: LoadError) -> anyhow::Error {
    match &error {
        LoadError::Problems(problems) => {
            usage_error(format!("the configuration is not valid\n{problems}"), "")
        }
        LoadError::Store(_) => usage_error(error.to_string(), error.hint()),
    }
}

fn not_changed(error: ChangeError) -> anyhow::Error {
    match error {
        ChangeError::Load(error) => not_loaded(error),
        error => usage_error(error.to_string(), error.hint()),
    }
}
