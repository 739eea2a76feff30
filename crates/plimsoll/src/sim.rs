//! `plimsoll sim`: flags → settings → a running simulator, proxy or verifier.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use plimsoll_sim::{Capacity, Distribution, Fault, Service, Settings, Sim, faults};

/// Serve simulated chains, put faults before anything real, check what a node says.
#[derive(Args, Debug)]
pub(crate) struct SimArgs {
    #[command(subcommand)]
    command: SimCommand,
}

#[derive(Subcommand, Debug)]
enum SimCommand {
    /// Serve simulated chain nodes over JSON-RPC
    ///
    /// A chain grows in real time and is the same for the same seed, here and on any other host.
    /// Each service is at http://ADDR/SERVICE, and at http://ADDR/v1 with the header
    /// Target-Service-Id. GET /ready says that it is there, GET /sim/counts what it saw.
    ///
    /// Without --servers it answers as fast as it can. With it, it is a queue whose waiting times are
    /// known in closed form: C servers, each busy for the service time.
    ///
    /// Faults come from a timetable, or while it runs from
    /// curl -X PUT http://ADDR/sim/faults -d '[{"kind":"stall","for":"5s"}]'
    #[command(after_help = CHAIN_EXAMPLES, verbatim_doc_comment)]
    Chain(ChainArgs),
}

const CHAIN_EXAMPLES: &str = "\
Examples:
  plimsoll sim chain
      four chains on 127.0.0.1:8545
  plimsoll sim chain --service eth --servers 4 --service-time 'exponential 2ms'
      an M/M/4 queue that can do 2,000 calls a second
  plimsoll sim chain --latency 'lognormal 5ms 50ms' --faults faults.toml
      a slow chain with faults on a timetable";

#[derive(Args, Debug)]
struct ChainArgs {
    /// Services, each with a listener of its own if one is given: eth,boba=127.0.0.1:8546
    #[arg(long, value_delimiter = ',', default_value = "eth,boba,mantle,kava")]
    service: Vec<String>,
    /// Where all services listen; port 0 for a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8545")]
    listen: SocketAddr,
    /// Decides the chains, the service times and which requests faults strike
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that serve
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// How much later each answer comes: 5ms, 'uniform 1ms 5ms', 'exponential 5ms', 'lognormal 5ms 50ms' (median, p99)
    #[arg(long, value_name = "DISTRIBUTION", value_parser = Distribution::parse)]
    latency: Option<Distribution>,
    /// Calls that a service works on at a time; the others wait in a queue
    #[arg(long, value_name = "C")]
    servers: Option<usize>,
    /// How long a server is busy with a call
    #[arg(long, value_name = "DISTRIBUTION", default_value = "1ms", value_parser = Distribution::parse, requires = "servers")]
    service_time: Distribution,
    /// Calls that may wait; one more is refused with status 503
    #[arg(long, value_name = "N", requires = "servers")]
    queue: Option<usize>,
    /// Transactions in an average block
    #[arg(long, value_name = "N", default_value_t = plimsoll_sim::service::TRANSACTIONS_MEAN)]
    transactions: u64,
    /// A timetable of faults
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
}

/// Runs `plimsoll sim`.
pub(crate) fn run(args: SimArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        SimCommand::Chain(args) => chain(args),
    }
}

/// Prints a usage error with what to do about it.
fn usage(message: impl std::fmt::Display, hint: &str) -> anyhow::Result<ExitCode> {
    let mut text = format!("error: {message}\n");
    if !hint.is_empty() {
        text.push_str(&format!("  hint: {hint}\n"));
    }
    std::io::stderr().write_all(text.as_bytes())?;
    Ok(ExitCode::from(2))
}

fn chain(args: ChainArgs) -> anyhow::Result<ExitCode> {
    let mut services = Vec::new();
    for text in &args.service {
        match service(text, args.transactions) {
            Ok(service) => services.push(service),
            Err(message) => return usage(message, "--service eth,boba,mantle,kava"),
        }
    }
    let faults = match read_faults(args.faults.as_deref()) {
        Ok(faults) => faults,
        Err(error) => return usage(format!("{error:#}"), ""),
    };
    let settings = Settings {
        seed: args.seed,
        listen: args.listen,
        threads: args.threads,
        services,
        capacity: args.servers.map(|servers| Capacity {
            servers,
            service: args.service_time,
            queue_max: args.queue,
        }),
        latency: args.latency,
        faults,
        ..Settings::default()
    };
    let names: Vec<String> = settings.services.iter().map(|service| service.name.clone()).collect();
    let sim = match Sim::start(settings) {
        Ok(sim) => sim,
        Err(error) => return usage(&error, error.hint()),
    };
    let mut text = String::new();
    for name in &names {
        let head = sim.head(name);
        text.push_str(&format!("{name:8} {}  at block {head}\n", sim.url(name)));
    }
    for (name, address) in sim.own_addresses() {
        text.push_str(&format!("{name:8} http://{address}\n"));
    }
    text.push_str(&format!("seed {}; stop with Ctrl-C\n", args.seed));
    std::io::stderr().write_all(text.as_bytes())?;
    wait_for_stop()?;
    let counts = sim.counts();
    sim.stop();
    let text = format!(
        "stopped after {} requests over {} connections\n",
        counts.requests, counts.connections
    );
    std::io::stderr().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Reads `NAME` or `NAME=ADDR`.
fn service(text: &str, transactions: u64) -> Result<Service, String> {
    let (name, listen) = text.split_once('=').map_or((text, None), |(n, a)| (n, Some(a)));
    let known = Service::known();
    let names = known.iter().map(|service| service.name.as_str());
    let service = known.iter().find(|service| service.name == name).ok_or_else(|| {
        let listed = names.clone().collect::<Vec<_>>().join(", ");
        format!("unknown service \"{name}\": one of {listed}")
    })?;
    let listen = listen.map(|address| {
        address.parse().map_err(|_| {
            format!("\"{address}\" is no address to listen on: write {name}=127.0.0.1:8546")
        })
    });
    Ok(Service { listen: listen.transpose()?, transactions, ..service.clone() })
}

fn read_faults(file: Option<&std::path::Path>) -> anyhow::Result<Vec<Fault>> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
    faults::from_toml(&shown, &text).map_err(|problems| anyhow!("{problems}"))
}

/// Waits for Ctrl-C or a request to terminate.
fn wait_for_stop() -> anyhow::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
        .context("cannot wait for signals")?;
    signals.forever().next();
    Ok(())
}
