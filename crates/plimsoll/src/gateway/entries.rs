//! `plimsoll gateway service|upstream|endpoint|import|token`: lists, shows and changes entries.

use super::access::{Access, Changed};
use super::additions::{AddEndpoint, AddService, AddUpstream, ReplaceArgs};
use super::admin::client::Client;
use super::admin::wire;
use super::cache::CacheArgs;
use super::import;
use super::keys::KeyArgs;
use super::listing::{self, Format};
use super::usage::UsageArgs;
use crate::{put, tell, usage_error};
use clap::{Args, Subcommand};
use plimsoll_registry::config::Inputs;
use plimsoll_registry::sources::{Editor, Outcome, Request};
use plimsoll_registry::store::EntryKind;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
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
    /// Manage the API keys of endpoints
    Key(KeyArgs),
    /// Add all entries of a file, or none
    #[command(after_help = "\
The file has tables [[service]], [[upstream]] and [[endpoint]], as in the configuration file. If any \
entry is not valid, all that is wrong is listed and nothing is added. A file by plimsoll gateway export \
also says what is disabled.")]
    Import {
        /// File to read
        file: PathBuf,
        #[command(flatten)]
        replace: ReplaceArgs,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Write the entries of the database, with their secrets, as a file for import
    #[command(after_help = "\
Entries are written as they are stored: ${NAME} stays ${NAME}, and secrets that were written out are \
written out. The admin API gives no secrets away, so the command reads the database, without --admin. \
Usage is not exported; see plimsoll gateway usage --format csv.

Example:
  plimsoll gateway export --database sqlite:plimsoll.db \\
      --output entries.toml
  plimsoll gateway import entries.toml --database \"$DATABASE_URL\"
      move from SQLite to Postgres; add --set NAME=any for each variable that
      is not set here")]
    Export(ExportArgs),
    /// Make a token for the admin API, and its hash for admin_token_sha256
    Token,
    /// Show or empty the cache of a running gateway
    Cache(CacheArgs),
    /// Show what customers have used, and what that costs
    Usage(UsageArgs),
}

#[derive(Args)]
pub(super) struct ExportArgs {
    /// New file to write, readable by its owner only [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
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
pub(super) struct FormatArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    pub(super) format: Format,
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
    Add(Box<AddEndpoint>),
    /// Show what is used and left of limits, and what they refused; needs --admin
    #[command(after_help = "Example:
  plimsoll gateway endpoint limits --admin http://127.0.0.1:3072
      what quotas have left, which rates are reached at present, and what was
      refused since the start of that gateway, by endpoint and key")]
    Limits {
        /// Id of the endpoint [default: all]
        id: Option<String>,
    },
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

/// What a command does.
enum Task {
    List(EntryKind),
    Show(EntryKind, String),
    Change(Change),
    Import(Vec<Request>),
    Key(KeyArgs),
    Limits(Option<String>),
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
pub(super) fn run(
    command: Command,
    inputs: Inputs,
    admin: Option<Client>,
) -> anyhow::Result<ExitCode> {
    use EntryKind::{Endpoint, Service, Upstream};
    let (format, task) = match command {
        Command::Token => return token(),
        Command::Import { file, replace, format } => {
            (format, Task::Import(import::requests(&file, replace.replace)?))
        }
        Command::Export(args) => {
            if admin.is_some() {
                let hint = "leave out --admin; give --config FILE or --database URL";
                return Err(usage_error("export reads the database, not the admin API", hint));
            }
            return super::export::run(&args, inputs);
        }
        Command::Cache(args) => return super::cache::run(args, &inputs, admin),
        Command::Key(args) => (FormatArgs { format: Format::Table }, Task::Key(args)),
        Command::Usage(args) => return super::usage::run(&args, inputs, admin),
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
                EndpointVerb::Limits { id } => Task::Limits(id),
                EndpointVerb::Other(verb) => Task::of(Endpoint, verb),
            },
        ),
    };
    let mut access = match admin {
        Some(client) => Access::Admin(client),
        None => {
            let strict = inputs.variables.clone();
            // The gateway's secrets need not be set where its entries are changed.
            let inputs = Inputs { variables: inputs.variables.leave_unset(), ..inputs };
            Access::Database(Box::new(Editor::new(inputs)), strict)
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let done = perform(&mut access, task, format.format).await;
        access.close().await;
        done
    })
}

/// Prints a new token, and how to use it.
fn token() -> anyhow::Result<ExitCode> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let hash: String = Sha256::digest(&token).iter().map(|byte| format!("{byte:02x}")).collect();
    put(&format!("{token}\n"))?;
    tell(&format!(
        "the gateway gets only its hash: admin_token_sha256 = [\"{hash}\"]\n\
         commands with --admin and other clients get the token itself: PLIMSOLL_ADMIN_TOKEN"
    ));
    Ok(ExitCode::SUCCESS)
}

async fn perform(access: &mut Access, task: Task, format: Format) -> anyhow::Result<ExitCode> {
    match task {
        Task::List(kind) => {
            let listed = access.list(kind).await?;
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
            let listed = access.list(kind).await?;
            let entries: Vec<_> = listed.entries.iter().filter(|entry| entry.id() == id).collect();
            if entries.is_empty() {
                let ids = listed.entries.iter().map(|entry| entry.id());
                let kind = kind.name();
                let hint = match plimsoll_config::nearest(&id, ids) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("plimsoll gateway {kind} list shows all {kind}s"),
                };
                return Err(usage_error(format!("there is no {kind} \"{id}\""), hint));
            }
            for entry in entries {
                put(&listing::show(entry, format))?;
            }
        }
        Task::Change(change) => {
            let changed = access.change(std::slice::from_ref(&change.request)).await?;
            report(&change, &changed, format)?;
            change.notes.iter().chain(&changed.warnings).for_each(|text| tell(text));
        }
        Task::Key(args) => return args.run(access).await,
        Task::Limits(id) => super::limits::show(access, id.as_deref(), format).await?,
        Task::Import(requests) => {
            let changed = access.change(&requests).await?;
            report_import(&requests, &changed, format)?;
            changed.warnings.iter().for_each(|text| tell(text));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn report_import(requests: &[Request], changed: &Changed, format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        let value = wire::show_changed(requests, changed);
        return put(&format!("{}\n", value["outcomes"]));
    }
    let is_addition = |request: &Request| matches!(request, Request::Add { .. });
    let outcomes: Vec<(&Request, Outcome)> =
        requests.iter().zip(changed.outcomes.iter().copied()).collect();
    let count = |outcome: Outcome| {
        outcomes.iter().filter(|(request, one)| is_addition(request) && *one == outcome).count()
    };
    let added = count(Outcome::Changed) + count(Outcome::ReplacedBuiltIn);
    let (replaced, unchanged) = (count(Outcome::Replaced), count(Outcome::Unchanged));
    let database = &changed.database;
    let disabled =
        outcomes.iter().filter(|(request, one)| !is_addition(request) && *one == Outcome::Changed);
    let disabled = match disabled.count() {
        0 => String::new(),
        count => format!("; disabled {count}"),
    };
    tell(&format!(
        "added {added}, replaced {replaced}, left {unchanged} unchanged in {database}{disabled}"
    ));
    Ok(())
}

fn report(change: &Change, changed: &Changed, format: Format) -> anyhow::Result<()> {
    let (kind, id) = (change.kind.name(), change.request.id());
    let (done, preposition) = change.done;
    let outcome = changed.outcomes[0];
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
    let database = &changed.database;
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
