//! `plimsoll sim`: flags → settings → a running simulator, proxy or verifier.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use plimsoll_config::values;
use plimsoll_measure::Nanos;
use plimsoll_sim::proxy::{self, LinkFault, LinkFaultKind, Proxy, ProxySettings};
use plimsoll_sim::verify::{self, VerifyError};
use plimsoll_sim::{Capacity, Distribution, Service, Settings, Sim, StartError, TlsFiles, faults};
use signal_hook::iterator::Signals;

use crate::{put, tell, usage_error};

/// Exit code if a node's methods disagree.
const MISSED: u8 = 99;

/// Simulate chain nodes, verify nodes, and inject network faults.
#[derive(Args, Debug)]
pub(crate) struct SimArgs {
    #[command(subcommand)]
    command: SimCommand,
}

#[derive(Subcommand, Debug)]
enum SimCommand {
    /// Serve simulated chain nodes over JSON-RPC
    ///
    /// Chains grow in real time; the same seed gives the same chains on any host. Each service is at
    /// http://ADDR/SERVICE, and at http://ADDR/v1 with the header Target-Service-Id. GET /ready
    /// reports readiness; GET /sim/counts reports the requests received.
    ///
    /// Without --servers, calls are answered immediately. With --servers, each service is a queue with
    /// C servers, each busy for the service time, so that waiting times are known in closed form.
    ///
    /// HTTP/2 is served beside HTTP/1.1: without TLS to clients that begin with it (prior knowledge), with
    /// TLS to those that choose it (ALPN). --http2-streams limits the streams of a connection.
    ///
    /// Faults are scheduled in a file (--faults), or set at run time with
    /// curl -X PUT http://ADDR/sim/faults -d '[{"kind":"stall","for":"5s"}]'
    #[command(after_help = CHAIN_EXAMPLES, verbatim_doc_comment)]
    Chain(ChainArgs),
    /// Check that a node's JSON-RPC methods agree with each other
    ///
    /// Requests blocks, transactions, receipts and logs through every method that returns them, and
    /// compares the answers. Works on a simulated node, a real node, or a gateway in front of either.
    /// On a real chain, end at a block that cannot be reorganized: --until finalized.
    ///
    /// Exit codes: 0 all methods agree, 99 some disagree, 1 the node cannot be reached, 2 wrong usage.
    #[command(verbatim_doc_comment)]
    Verify(VerifyArgs),
    /// Proxy a TCP service and inject network faults
    ///
    /// Flags apply all the time; a faults file schedules faults:
    ///   [[fault]]
    ///   kind = "delay"       # bandwidth reset truncate silence drip refuse black_hole limit
    ///   by = "50ms"
    ///   at = "20s"
    ///   for = "5s"
    ///   every = "1m"
    ///   share = "10%"
    #[command(after_help = FAULT_EXAMPLES, verbatim_doc_comment)]
    Fault(FaultArgs),
}

const FAULT_EXAMPLES: &str = "\
Examples:
  plimsoll sim fault --to 127.0.0.1:8545 --delay 20ms --jitter 5ms
      a distant node
  plimsoll sim fault --to node.example:8545 --reset-after 4KiB --share 1%
      resets one connection in a hundred in the middle of an answer";

const CHAIN_EXAMPLES: &str = "\
Examples:
  plimsoll sim chain
      four chains on 127.0.0.1:8545
  plimsoll sim chain --service eth --servers 4 --service-time 'exponential 2ms'
      an M/M/4 queue with a capacity of 2,000 calls/s
  plimsoll sim chain --latency 'lognormal 5ms 50ms' --faults faults.toml
      a slow chain with scheduled faults
  plimsoll sim chain --tls-cert cert.pem --tls-key key.pem --http2-streams 250
      HTTP/2 and HTTP/1.1 over TLS, at most 250 streams on a connection";

#[derive(Args, Debug)]
struct ChainArgs {
    /// Services, each optionally with its own address: eth,boba=127.0.0.1:8546
    #[arg(long, value_delimiter = ',', default_value = "eth,boba,mantle,kava")]
    service: Vec<String>,
    /// Address on which all services listen; port 0 picks a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8545")]
    listen: SocketAddr,
    /// Seed of the chains, the service times and the choice of faulty requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of serving threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Delay added to each answer: 5ms, 'uniform 1ms 5ms', 'exponential 5ms', 'lognormal 5ms 50ms' (median, p99)
    #[arg(long, value_name = "DISTRIBUTION", value_parser = Distribution::parse)]
    latency: Option<Distribution>,
    /// Calls that a service processes at a time; others wait in a queue
    #[arg(long, value_name = "C")]
    servers: Option<usize>,
    /// How long a server is busy with a call
    #[arg(long, value_name = "DISTRIBUTION", default_value = "1ms", value_parser = Distribution::parse, requires = "servers")]
    service_time: Distribution,
    /// Maximum number of waiting calls; further calls get status 503
    #[arg(long, value_name = "N", requires = "servers")]
    queue: Option<usize>,
    /// Transactions in an average block
    #[arg(long, value_name = "N", default_value_t = plimsoll_sim::service::TRANSACTIONS_MEAN)]
    transactions: u64,
    /// PEM file with the certificates for TLS, on all addresses
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the private key of --tls-cert
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Maximum number of streams at a time on an HTTP/2 connection
    #[arg(long, value_name = "N", default_value_t = 128)]
    http2_streams: u32,
    /// Time between the blocks of all services, instead of their own
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    block_time: Option<Nanos>,
    /// How long the peer of a WebSocket may read nothing before it is disconnected
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    slow_reader: Nanos,
    /// File with scheduled faults
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct VerifyArgs {
    /// URL of the node, such as http://127.0.0.1:8545/eth
    url: String,
    /// Header for every request, such as 'Target-Service-Id: eth'
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// How many blocks to walk
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..))]
    blocks: u64,
    /// Last block: a tag, or a number in hexadecimal
    #[arg(long, value_name = "BLOCK", default_value = "latest")]
    until: String,
}

#[derive(Args, Debug)]
struct FaultArgs {
    /// Address to listen on; port 0 picks a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address to forward connections to
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// Delay added in each direction
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    delay: Option<Nanos>,
    /// Random additional delay, up to this much
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "delay")]
    jitter: Option<Nanos>,
    /// Bytes per second in each direction of each connection, such as 64KiB
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    bandwidth: Option<u64>,
    /// Reset the connection after this many bytes of the answer
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    reset_after: Option<u64>,
    /// Close the connection after this many bytes of the answer
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    truncate_after: Option<u64>,
    /// Stop sending after this many bytes of the answer, but keep the connection open
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    silence_after: Option<u64>,
    /// Send the answer in chunks of this many bytes, 20 chunks per second
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    drip: Option<u64>,
    /// Refuse connections
    #[arg(long)]
    refuse: bool,
    /// Accept connections but never send anything
    #[arg(long)]
    black_hole: bool,
    /// Maximum number of open connections; further ones are closed immediately
    #[arg(long, value_name = "N")]
    connections: Option<u64>,
    /// Share of connections affected by the flags above, such as 10%
    #[arg(long, value_name = "SHARE", default_value = "100%", value_parser = values::share)]
    share: f64,
    /// File with scheduled faults, in addition to the flags
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Seed of the jitter and the choice of affected connections
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl FaultArgs {
    /// The faults given by flags.
    fn flags(&self) -> Vec<LinkFault> {
        use LinkFaultKind as Kind;
        let jitter = self.jitter.unwrap_or_default();
        let kinds = [
            self.delay.map(|by| Kind::Delay { by, jitter }),
            self.bandwidth.map(|rate| Kind::Bandwidth { rate: rate.max(1) }),
            self.reset_after.map(|after| Kind::Reset { after }),
            self.truncate_after.map(|after| Kind::Truncate { after }),
            self.silence_after.map(|after| Kind::Silence { after }),
            self.drip.map(|bytes| Kind::Drip {
                bytes: bytes.max(1) as usize,
                pause: Nanos::from_millis(50),
            }),
            self.refuse.then_some(Kind::Refuse),
            self.black_hole.then_some(Kind::BlackHole),
            self.connections.map(|connections| Kind::Limit { connections }),
        ];
        let fault = |kind| LinkFault { share: self.share, ..LinkFault::new(kind) };
        kinds.into_iter().flatten().map(fault).collect()
    }
}

fn duration(text: &str) -> Result<Nanos, String> {
    values::flag_duration(text).map(Nanos::from)
}

/// Runs `plimsoll sim`.
pub(crate) fn run(args: SimArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        SimCommand::Chain(args) => chain(args),
        SimCommand::Verify(args) => verify(args),
        SimCommand::Fault(args) => fault(args),
    }
}

fn chain(args: ChainArgs) -> anyhow::Result<ExitCode> {
    let service = |text: &String| {
        let mut service = service(text, args.transactions)?;
        service.block_time = args.block_time.unwrap_or(service.block_time);
        Ok(service)
    };
    let services = args.service.iter().map(service);
    let services: Vec<Service> =
        services.collect::<Result<_, _>>().map_err(|message: String| {
            usage_error(message, "write --service eth,boba,mantle,kava, or a subset")
        })?;
    let faults = read_faults(args.faults.as_deref(), faults::from_toml)?;
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
        tls: args.tls_cert.zip(args.tls_key).map(|(cert, key)| TlsFiles { cert, key }),
        http2_streams: args.http2_streams,
        slow_reader: args.slow_reader,
        faults,
        ..Settings::default()
    };
    let names: Vec<String> = settings.services.iter().map(|service| service.name.clone()).collect();
    let sim = Sim::start(settings).map_err(not_started)?;
    let mut text = String::new();
    for name in &names {
        let head = sim.head(name);
        text.push_str(&format!("{name:8} {}  at block {head}\n", sim.url(name)));
    }
    for (name, address) in sim.own_addresses() {
        text.push_str(&format!("{name:8} {}://{address}\n", sim.scheme()));
    }
    let mut signals = stop_signals()?;
    tell(&format!("{text}seed {}; stop with Ctrl-C", args.seed));
    signals.forever().next();
    let counts = sim.counts();
    sim.stop();
    tell(&format!(
        "stopped after {} requests over {} connections",
        counts.requests, counts.connections
    ));
    Ok(ExitCode::SUCCESS)
}

/// Reads `NAME` or `NAME=ADDR`.
fn service(text: &str, transactions: u64) -> Result<Service, String> {
    let (name, listen) = text.split_once('=').map_or((text, None), |(n, a)| (n, Some(a)));
    let known = Service::known();
    let names = known.iter().map(|service| service.name.as_str());
    let service = known.iter().find(|service| service.name == name).ok_or_else(|| {
        let listed = names.clone().collect::<Vec<_>>().join(", ");
        format!("unknown service \"{name}\"; must be one of {listed}")
    })?;
    let listen = listen.map(|address| {
        address.parse().map_err(|_| {
            format!("\"{address}\" is not a valid address; write {name}=127.0.0.1:8546")
        })
    });
    Ok(Service { listen: listen.transpose()?, transactions, ..service.clone() })
}

/// Reads a file of faults, if given.
fn read_faults<T>(
    file: Option<&Path>,
    read: impl FnOnce(&str, &str) -> Result<Vec<T>, plimsoll_config::Problems>,
) -> anyhow::Result<Vec<T>> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let shown = file.display().to_string();
    let text = crate::plan_source::read_text(file, "")?;
    read(&shown, &text).map_err(|problems| usage_error(problems.to_string(), ""))
}

fn not_started(error: StartError) -> anyhow::Error {
    match error {
        StartError::System(_) => error.into(),
        StartError::Invalid(_) | StartError::Listen { .. } => {
            usage_error(error.to_string(), error.hint())
        }
    }
}

fn verify(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let mut headers = Vec::new();
    for header in &args.header {
        let Some((name, value)) = header.split_once(':') else {
            return Err(usage_error(
                format!("\"{header}\" is not a valid header"),
                "write it like -H 'Target-Service-Id: eth'",
            ));
        };
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    let options =
        verify::Options { url: args.url, headers, blocks: args.blocks, until: args.until };
    let outcome = match verify::verify(&options, |_| {}) {
        Ok(outcome) => outcome,
        Err(error @ VerifyError::Url { .. }) => {
            let hint = "write it like plimsoll sim verify http://127.0.0.1:8545/eth";
            return Err(usage_error(error.to_string(), hint));
        }
        Err(error) => return Err(error.into()),
    };
    let mut text = String::new();
    for line in &outcome.shown {
        text.push_str(&format!("{line}\n"));
    }
    let what = if outcome.balances {
        "including balances"
    } else {
        "balances were skipped: not a simulated node"
    };
    text.push_str(&format!(
        "{} blocks, {} transactions, {} logs ({what}): {} checks in {} calls, {} disagreements\n",
        outcome.blocks,
        outcome.transactions,
        outcome.logs,
        outcome.checks,
        outcome.calls,
        outcome.disagreements
    ));
    put(&text)?;
    Ok(if outcome.disagreements == 0 { ExitCode::SUCCESS } else { ExitCode::from(MISSED) })
}

fn fault(args: FaultArgs) -> anyhow::Result<ExitCode> {
    let mut faults = args.flags();
    faults.extend(read_faults(args.faults.as_deref(), proxy::from_toml)?);
    if args.to.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        let message = format!("\"{}\" has no port", args.to);
        return Err(usage_error(message, "write it like --to 127.0.0.1:8545"));
    }
    let settings =
        ProxySettings { listen: args.listen, to: args.to.clone(), seed: args.seed, faults };
    let proxy = Proxy::start(settings).map_err(not_started)?;
    let mut signals = stop_signals()?;
    tell(&format!("{} -> {}; stop with Ctrl-C", proxy.address(), args.to));
    signals.forever().next();
    let counts = proxy.counts();
    proxy.stop();
    tell(&format!(
        "stopped after {} connections, {} bytes sent, {} bytes received",
        counts.accepted, counts.bytes_in, counts.bytes_out
    ));
    Ok(ExitCode::SUCCESS)
}

/// SIGINT and SIGTERM, from now on.
pub(crate) fn stop_signals() -> anyhow::Result<Signals> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    Signals::new([SIGINT, SIGTERM]).context("cannot wait for signals")
}
