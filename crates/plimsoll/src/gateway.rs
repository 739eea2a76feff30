//! `plimsoll gateway`: turns flags into inputs, then serves, prints the configuration, or changes
//! entries in the database.

mod access;
mod additions;
mod admin;
mod announce;
mod cache;
mod changes;
mod entries;
mod export;
mod import;
mod keys;
mod last_valid;
mod limits;
mod listing;
mod messages;
mod serve;
mod signals;
mod simulated;
mod supervise;
mod usage;
mod watcher;

use crate::plan_source::SetArgs;
use crate::{put, tell, usage_error};
use admin::client::Client;
use plimsoll_registry::Definitions;
use plimsoll_registry::config::{Config, FILE_DEFAULT, Inputs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  plimsoll gateway --simulate
      serve four simulated chains, to try the gateway without a node
  plimsoll gateway --upstream eth=http://127.0.0.1:8545
      relay calls to a node; callers POST to http://127.0.0.1:3069/v1 with the
      header Target-Service-Id: eth
  PATH_GATEWAY_INSTANCES=http://127.0.0.1:4001,http://127.0.0.1:4002 \\
      plimsoll gateway
      balance calls over two PATH instances
  plimsoll gateway endpoint add ethpath_1 --service eth
      make /api/gateway?endpoint=ethpath_1 available within a second
  plimsoll gateway --config gateway.toml --instances 5 --listen 127.0.0.1:3069
      run five processes on consecutive ports, and restart any that exits
  plimsoll gateway --config gateway.toml --print-config
      print every key with its effective value, secrets redacted

Flags override the environment, which overrides the file. docs/configuration.md lists every key.";

/// Relay JSON-RPC to nodes and PATH instances, or manage what is relayed.
///
/// Without a subcommand the gateway serves until it receives a signal to stop. Services, upstreams
/// and endpoints come from the configuration file and from a database; the subcommands change the
/// database, and a running gateway applies the change within a second.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, subcommand_value_name = "COMMAND", subcommand_help_heading = "Commands")]
pub(crate) struct GatewayArgs {
    #[command(subcommand)]
    command: Option<entries::Command>,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    origin: OriginArgs,
}

/// Where the configuration comes from.
#[derive(clap::Args)]
#[command(next_help_heading = "Configuration")]
struct OriginArgs {
    /// Configuration file [default: gateway.toml, if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Database of entries, such as sqlite:plimsoll.db, or "off"
    #[arg(long, value_name = "URL", global = true)]
    database: Option<String>,
    /// Ask a running gateway's admin API instead of the database; PLIMSOLL_ADMIN_TOKEN has the token
    #[arg(long, value_name = "URL", global = true, conflicts_with = "database")]
    admin: Option<String>,
    /// Certificates (PEM) to trust for an https URL of --admin instead of the system's
    #[arg(long, value_name = "FILE", global = true, requires = "admin")]
    admin_ca: Option<PathBuf>,
    #[command(flatten)]
    set: SetArgs,
}

/// Flags for serving.
#[derive(clap::Args)]
pub(crate) struct ServeArgs {
    /// Address to listen on; port 0 picks a free port [default: 127.0.0.1:3069]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    listen: Vec<String>,
    /// Name of this instance in response headers and logs [default: HOST:PORT]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Number of processes to run, on consecutive ports
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    instances: u16,
    /// Number of worker threads per process [default: 1]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Add an upstream node for a service; may be repeated
    #[arg(long, value_name = "SERVICE=URL")]
    upstream: Vec<String>,
    /// Relay to simulated chains (eth, boba, mantle, kava) until an upstream is added
    #[arg(long)]
    simulate: bool,
    /// Print the resolved configuration, secrets redacted, and exit
    #[arg(long)]
    print_config: bool,
    /// Set by the supervisor: stdin is a pipe that closes when the supervisor exits
    #[arg(long, hide = true)]
    supervised: bool,
    /// Set by the supervisor: the number of instances
    #[arg(long, hide = true, default_value_t = 1)]
    replicas: u16,
    /// Set by the supervisor: added to each port
    #[arg(long, hide = true, default_value_t = 0)]
    port_offset: u16,
    /// Set by the supervisor: URL of its simulated chains
    #[arg(long, hide = true)]
    simulated: Option<String>,
    /// Set by the supervisor: file with the last valid configuration
    #[arg(long, hide = true)]
    last_valid: Option<PathBuf>,
}

impl ServeArgs {
    /// The first flag given that applies only to serving.
    fn first_given(&self) -> Option<&'static str> {
        let given = [
            (!self.listen.is_empty(), "--listen"),
            (self.instance.is_some(), "--instance"),
            (self.instances != 1, "--instances"),
            (self.workers.is_some(), "--workers"),
            (!self.upstream.is_empty(), "--upstream"),
            (self.simulate, "--simulate"),
            (self.print_config, "--print-config"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag)
    }

    fn flags(&self) -> Vec<(&'static str, String)> {
        let listen = self.listen.iter().map(|address| ("--listen", address.clone()));
        let instance = self.instance.iter().map(|name| ("--instance", name.clone()));
        let workers = self.workers.iter().map(|workers| ("--workers", workers.clone()));
        let upstreams = self.upstream.iter().map(|upstream| ("--upstream", upstream.clone()));
        listen.chain(instance).chain(workers).chain(upstreams).collect()
    }
}

impl OriginArgs {
    fn inputs(&self, mut flags: Vec<(&'static str, String)>) -> anyhow::Result<Inputs> {
        flags.extend(self.database.iter().map(|database| ("--database", database.clone())));
        let file = self.config.clone().or_else(|| {
            let default = Path::new(FILE_DEFAULT);
            default.is_file().then(|| default.to_path_buf())
        });
        Ok(Inputs { file, variables: self.set.variables()?, flags })
    }
}

/// Runs `plimsoll gateway`.
pub(crate) fn run(args: GatewayArgs) -> anyhow::Result<ExitCode> {
    if let Some(command) = args.command {
        if let Some(flag) = args.serve.first_given() {
            let hint =
                format!("remove {flag}; it applies only to plimsoll gateway without a command");
            return Err(usage_error(format!("{flag} cannot be used with a command"), hint));
        }
        let inputs = args.origin.inputs(Vec::new())?;
        let ca = args.origin.admin_ca.as_deref();
        let admin = args.origin.admin.as_deref();
        let admin = admin.map(|url| Client::new(url, ca, &inputs.variables)).transpose()?;
        return entries::run(command, inputs, admin);
    }
    if args.origin.admin.is_some() {
        let hint = "for example plimsoll gateway endpoint list --admin http://127.0.0.1:9069";
        return Err(usage_error("--admin is used with a command", hint));
    }
    let inputs = args.origin.inputs(args.serve.flags())?;
    if args.serve.print_config { print_config(&inputs) } else { serve::run(&args.serve, inputs) }
}

/// Prints the resolved configuration.
pub(crate) fn print_config(inputs: &Inputs) -> anyhow::Result<ExitCode> {
    let config = Config::read(inputs).map_err(|problems| {
        usage_error(format!("the configuration is not valid\n{problems}"), "")
    })?;
    let problems = plimsoll_gateway::file_problems(&config.settings, &config.definitions);
    if !problems.is_empty() {
        return Err(usage_error(format!("the configuration is not valid\n{problems}"), ""));
    }
    tell_notes(&config, &config.definitions);
    put(&config.to_toml())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what an operator should look at in a valid configuration.
fn tell_notes(config: &Config, definitions: &Definitions) {
    config.notes.iter().for_each(|note| tell(&format!("note: {note}")));
    let warnings = plimsoll_gateway::warnings(&config.settings, definitions);
    warnings.iter().for_each(|warning| tell(&format!("warning: {warning}")));
}
