//! `plimsoll gateway`: flags → inputs → a running gateway, its configuration printed, or a change to
//! its entries.

mod entries;
mod last_valid;
mod listing;
mod messages;
mod serve;
mod signals;
mod simulated;
mod supervise;

use crate::plan_source::SetArgs;
use crate::{put, tell, usage_error};
use plimsoll_registry::config::{Config, FILE_DEFAULT, Inputs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  plimsoll gateway --simulate
      serves four simulated chains to try it with, until an upstream is added
  plimsoll gateway --upstream eth=http://127.0.0.1:8545
      relays what is asked of http://127.0.0.1:3069/v1 with the header Target-Service-Id: eth
  PATH_GATEWAY_INSTANCES=http://127.0.0.1:4001,http://127.0.0.1:4002 plimsoll gateway
      spreads calls over two PATH instances
  plimsoll gateway endpoint add ethpath_1 --service eth
      makes http://127.0.0.1:3069/api/gateway?endpoint=ethpath_1 available within a second
  plimsoll gateway --config gateway.toml --instances 5 --listen 127.0.0.1:3069
      runs five processes on consecutive ports, and restarts those that end
  plimsoll gateway --config gateway.toml --print-config
      prints every key with its value, wherever it comes from; secrets are left out

Defaults < file < environment < flags: docs/configuration.md has every key.";

/// Relay JSON-RPC to nodes and PATH instances, and say what is relayed.
///
/// Without a subcommand it serves until it is told to stop. What it relays comes from the
/// configuration file and from a database; the subcommands change the database, and a running
/// gateway takes that up within a second.
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
    /// The configuration file [default: gateway.toml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The database of entries, such as sqlite:plimsoll.db; off: none
    #[arg(long, value_name = "URL", global = true)]
    database: Option<String>,
    #[command(flatten)]
    set: SetArgs,
}

/// Flags of a gateway that serves.
#[derive(clap::Args)]
pub(crate) struct ServeArgs {
    /// Where to listen; port 0 for a free one [default: 127.0.0.1:3069]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    listen: Vec<String>,
    /// What it calls itself in response headers and logs [default: HOST:PORT]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// How many processes to run, on consecutive ports
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    instances: u16,
    /// How many threads serve, in each process [default: 1]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Relay a service to a node, beside what the file has; may be given several times
    #[arg(long, value_name = "SERVICE=URL")]
    upstream: Vec<String>,
    /// Relay to simulated chains (eth, boba, mantle, kava) until an upstream is added
    #[arg(long)]
    simulate: bool,
    /// Print the configuration resolved, without secrets, and stop
    #[arg(long)]
    print_config: bool,
    /// Given by a supervisor: stdin is a pipe that ends with it
    #[arg(long, hide = true)]
    supervised: bool,
    /// Given by a supervisor: what is added to each port
    #[arg(long, hide = true, default_value_t = 0)]
    port_offset: u16,
    /// Given by a supervisor: where it simulates chains
    #[arg(long, hide = true)]
    simulated: Option<String>,
    /// Given by a supervisor: a file with the last configuration that was valid
    #[arg(long, hide = true)]
    last_valid: Option<PathBuf>,
}

impl ServeArgs {
    /// The first flag that makes sense only where a gateway is started.
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
            let hint = "leave it out; it is for plimsoll gateway without a command";
            return Err(usage_error(format!("{flag} does not change entries"), hint));
        }
        return entries::run(command, args.origin.inputs(Vec::new())?);
    }
    let inputs = args.origin.inputs(args.serve.flags())?;
    match args.serve.print_config {
        true => print_config(&inputs),
        false => serve::run(&args.serve, inputs),
    }
}

/// Prints a configuration resolved.
pub(crate) fn print_config(inputs: &Inputs) -> anyhow::Result<ExitCode> {
    let config = Config::read(inputs).map_err(|problems| {
        usage_error(format!("the configuration is not valid\n{problems}"), "")
    })?;
    config.notes.iter().for_each(|note| tell(&format!("note: {note}")));
    let warnings = plimsoll_gateway::warnings(&config.settings, &config.definitions);
    warnings.iter().for_each(|warning| tell(&format!("warning: {warning}")));
    put(&config.to_toml())?;
    Ok(ExitCode::SUCCESS)
}
