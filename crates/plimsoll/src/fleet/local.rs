//! `plimsoll fleet PLAN --local N`: NATS, N agents and their coordinator on one host, to try what a run over several
//! hosts is like before there are several.
//!
//! The parts are those of a real fleet: a nats-server of its own on a free loopback port, with a password that
//! only these processes know, and N processes of `plimsoll agent`. They have process groups of their own, so
//! that Ctrl-C reaches only the coordinator, which drains the agents. Each holds the other end of a pipe and ends
//! when that is closed: nothing is left running, even if this process is killed.
//!
//! The agents allow the plan's targets and its variables, and are labelled so that every stream finds one.

use super::coordinate::FleetRun;
use super::{NatsArgs, session};
use crate::lifeline;
use crate::plan_source::{InlineArgs, SetArgs, SourceArgs, read_source};
use crate::run::{FleetOutput, Format, LossArg, Record, ViewArgs, fleet_run, run_with_agents};
use crate::{tell, usage_error};
use anyhow::Context;
use plimsoll_config::{is_secret, placeholders};
use plimsoll_measure::units::counted;
use plimsoll_plan::{Plan, SEED_MAX};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const EXAMPLES: &str = "Examples:
  plimsoll fleet plan.toml --local 4
  plimsoll fleet plan.toml --local 4 --on-agent-loss rebalance

Needs nats-server (Debian: apt install nats-server). All agents share this host's CPUs, so the load is not \
higher than that of plimsoll run.";

/// How long the server may take to listen.
const SERVER_MAX: Duration = Duration::from_secs(15);
/// How long the agents may take to announce themselves.
const AGENTS_MAX: Duration = Duration::from_secs(20);
/// How long a process may take to end.
const END_MAX: Duration = Duration::from_secs(10);
/// Lines of a log that an error shows.
const SHOWN: usize = 5;
const USER: &str = "plimsoll";

/// Flags of `plimsoll fleet`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "plimsoll fleet [OPTIONS] --local <N> <PLAN>")]
pub(crate) struct FleetArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    set: SetArgs,
    /// Number of agents to start on this host
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    local: u16,
    /// What happens when an agent is lost; overrides the plan's fleet.on_agent_loss
    #[arg(long, value_enum, value_name = "WHAT")]
    on_agent_loss: Option<LossArg>,
    /// Write results to this new directory [default: runs/START-NAME]
    #[arg(long, value_name = "DIR", conflicts_with = "no_out")]
    out: Option<PathBuf>,
    /// Print the report only; write no results
    #[arg(long)]
    no_out: bool,
    /// Requests to record one by one, for samples.parquet in the results [default: none]
    #[arg(long, value_enum, value_name = "WHICH")]
    record: Option<Record>,
    #[command(flatten)]
    views: ViewArgs,
    /// Format of the report on stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Seed of all random choices [default: the plan's; without one, a new seed for each run]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=SEED_MAX))]
    seed: Option<u64>,
}

/// Starts a fleet on this host, runs a plan over it, and stops it.
pub(crate) fn run(args: &FleetArgs) -> anyhow::Result<ExitCode> {
    let plan = read_source(&args.source, &InlineArgs::default(), &args.set)?;
    let agents = usize::from(args.local);
    let labels = labels(&plan, agents)?;
    let views = args.views.start(None)?;
    let folder = Folder::create()?;
    let server = Server::start(&folder)?;
    let nats = NatsArgs::of_local(&server.url, USER, &server.password);
    let variables = args.set.variables()?;
    let secrets: Vec<(String, String)> = placeholders(&plan.to_toml())
        .into_iter()
        .filter(|name| is_secret(name))
        .filter_map(|name| Some((name.clone(), variables.get(&name)?.to_string())))
        .collect();
    let mut started = Vec::new();
    for (number, labels) in (1..).zip(&labels) {
        started.push(AgentProcess::start(number, labels, &plan, &secrets, &server, &folder)?);
    }
    tell(&format!(
        "{} on this host, over NATS at {}",
        counted(u64::from(args.local), "agent"),
        server.url
    ));
    let what: FleetRun = {
        let records = args.record.and_then(|record| record.over_agents(args.no_out));
        fleet_run(plan, &args.set, args.seed, (agents, AGENTS_MAX), records)?
    };
    let output = FleetOutput { out: args.out.clone(), no_out: args.no_out, format: args.format };
    let result = run_with_agents(&nats, what, args.on_agent_loss, views, &output);
    if result.is_err() {
        started.iter_mut().for_each(AgentProcess::explain);
    }
    // Agents first: they take their announcements back.
    drop(started);
    drop(server);
    result
}

/// Labels for each agent, so that every stream finds an agent and the streams with labels are spread evenly.
fn labels(plan: &Plan, agents: usize) -> anyhow::Result<Vec<BTreeMap<String, String>>> {
    let mut wanted: Vec<&BTreeMap<String, String>> = Vec::new();
    for stream in &plan.streams {
        if !stream.agents.is_empty() && !wanted.contains(&&stream.agents) {
            wanted.push(&stream.agents);
        }
    }
    let mut labels: Vec<BTreeMap<String, String>> = vec![BTreeMap::new(); agents];
    for own in &wanted {
        let fits = |labels: &BTreeMap<String, String>| {
            own.iter().all(|(key, value)| labels.get(key).is_none_or(|known| known == value))
        };
        let free = labels.iter().position(BTreeMap::is_empty);
        let Some(place) = free.or_else(|| labels.iter().position(fits)) else {
            return Err(usage_error(
                format!(
                    "the plan's streams ask for {} with different labels, and --local starts {agents}",
                    counted(wanted.len() as u64, "agent")
                ),
                format!("--local {}", wanted.len()),
            ));
        };
        labels[place].extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let free = labels.iter_mut().filter(|own| own.is_empty());
    free.zip(wanted.iter().cycle()).for_each(|(own, wanted)| own.clone_from(wanted));
    Ok(labels)
}

/// A folder for the server's files and everybody's logs, which only this user can read.
struct Folder(PathBuf);

impl Folder {
    fn create() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("plimsoll-fleet-{}", session()));
        let created = fs::DirBuilder::new().mode(0o700).create(&path);
        created.with_context(|| format!("cannot create the directory {}", path.display()))?;
        Ok(Folder(path))
    }

    fn log(&self, name: &str) -> anyhow::Result<File> {
        let path = self.0.join(name);
        File::create(&path).with_context(|| format!("cannot create {}", path.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays in the system's folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The nats-server.
struct Server {
    child: Option<Child>,
    url: String,
    password: String,
}

/// Becomes the server; a process beside it ends the server when the pipe is closed.
const WRAPPER: &str =
    "exec 3<&0; { read -r _ <&3; kill $$; } 2>/dev/null & exec \"$0\" -c \"$1\" </dev/null 3<&-";

impl Server {
    fn start(folder: &Folder) -> anyhow::Result<Server> {
        let program = find_server().ok_or_else(|| {
            usage_error(
                "nats-server is not installed",
                "Debian: apt install nats-server; with a server elsewhere: plimsoll agent --nats URL, plimsoll run --nats URL --agents N",
            )
        })?;
        let (path, password) = (&folder.0, session() + &session());
        let config = path.join("nats-server.conf");
        let shown = path.display();
        let text = format!(
            "host: 127.0.0.1\nport: -1\nmax_payload: 8MB\n\
             jetstream {{ store_dir: \"{shown}/jetstream\", max_mem: 64MB, max_file: 4GB }}\n\
             authorization {{ user: {USER}, password: \"{password}\" }}\n"
        );
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(&config);
        file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = Command::new("sh");
        command.args(["-c", WRAPPER]).arg(&program).arg(&config);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn().context("cannot start sh")?;
        let log = child.stderr.take().context("its stderr is not a pipe")?;
        // From now on it is ended with this value.
        let mut server = Server { child: Some(child), url: String::new(), password };
        server.url = format!("nats://{}", address_of(log)?);
        Ok(server)
    }
}

/// The address on which a server listens, from its log, which is read until its end.
fn address_of(log: ChildStderr) -> anyhow::Result<String> {
    const LISTENS: &str = "Listening for client connections on ";
    let (found, address) = mpsc::channel();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if let Some((_, address)) = line.split_once(LISTENS) {
                // Nobody waits for a second one.
                let _ = found.send(address.trim().to_string());
            }
            let mut kept = kept.lock().expect("no holder panics");
            kept.push(line);
            let old = kept.len().saturating_sub(SHOWN);
            kept.drain(..old);
        }
    });
    address.recv_timeout(SERVER_MAX).map_err(|_| {
        let lines = lines.lock().expect("no holder panics");
        let shown: String = lines.iter().map(|line| format!("\n  {line}")).collect();
        usage_error(format!("nats-server does not start{shown}"), "")
    })
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.take().into_iter().for_each(|child| lifeline::end(child, None, END_MAX));
    }
}

/// Debian keeps it where only root's PATH leads.
fn find_server() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("nats-server")).find(|file| file.is_file())
}

/// An agent.
struct AgentProcess {
    name: String,
    child: Option<Child>,
    log: PathBuf,
}

impl AgentProcess {
    fn start(
        number: u16,
        labels: &BTreeMap<String, String>,
        plan: &Plan,
        secrets: &[(String, String)],
        server: &Server,
        folder: &Folder,
    ) -> anyhow::Result<AgentProcess> {
        let name = format!("local-{number}");
        // The running executable, even if its file has been replaced since.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("plimsoll").args(["agent", "--supervised", "--name", &name]);
        for origin in plan.origins() {
            let host = origin.host.trim_start_matches('[').trim_end_matches(']');
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
            command.arg(format!("--allow={host}:{}", origin.port));
        }
        labels.iter().for_each(|(key, value)| _ = command.arg(format!("--label={key}={value}")));
        for (name, value) in secrets {
            command.arg(format!("--secret={name}")).env(name, value);
        }
        for name in ["NATS_CREDS", "NATS_TOKEN", "NATS_CA", "NATS_CERT", "NATS_KEY"] {
            command.env_remove(name);
        }
        command.env("NATS_URL", &server.url).env("NATS_USER", USER);
        command.env("NATS_PASSWORD", &server.password).env("PLIMSOLL_TENANT", "default");
        let file = format!("{name}.log");
        let log = folder.log(&file)?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start the agent {name}"))?;
        Ok(AgentProcess { name, child: Some(child), log: folder.0.join(file) })
    }

    /// Says why it has ended, if it has.
    fn explain(&mut self) {
        if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
            tell(&format!("agent {} has ended ({status}){}", self.name, last_lines(&self.log)));
        }
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.child.take().into_iter().for_each(|child| lifeline::end(child, None, END_MAX));
    }
}

/// The end of a log, to be appended to a message.
fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(SHOWN)..];
    last.iter().map(|line| format!("\n  {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_config::{Document, Variables};

    fn plan(streams: &[&str]) -> Plan {
        let stream = |(number, labels): (usize, &&str)| {
            let labels = if labels.is_empty() {
                String::new()
            } else {
                format!("agents = {{ {labels} }}\n")
            };
            format!(
                "[[stream]]\nname = \"s{number}\"\nrate = 1\nduration = \"1s\"\n{labels}\
                 [[stream.target]]\nname = \"t{number}\"\nrequest = \"GET http://h/\"\n"
            )
        };
        let text: String = streams.iter().enumerate().map(stream).collect();
        Plan::read(&Document::new("p", text), &Variables::none(), Path::new(".")).unwrap()
    }

    #[test]
    fn every_stream_finds_an_agent_and_the_others_are_spread() {
        let shown = |streams: &[&str], agents: usize| match labels(&plan(streams), agents) {
            Ok(all) => all
                .iter()
                .map(|own| {
                    let pairs: Vec<String> =
                        own.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    pairs.join(",")
                })
                .collect::<Vec<_>>()
                .join(" "),
            Err(why) => why.to_string(),
        };
        let (eth, boba) = ("chain = \"eth\"", "chain = \"boba\"");
        // No labels are asked for.
        assert_eq!(shown(&["", ""], 2), " ");
        // Two kinds over five agents.
        assert_eq!(
            shown(&[eth, boba, eth], 5),
            "chain=eth chain=boba chain=eth chain=boba chain=eth"
        );
        // Labels that do not exclude each other share an agent.
        assert_eq!(shown(&[eth, "zone = \"a\""], 1), "chain=eth,zone=a");
        assert!(shown(&[eth, boba], 1).contains("2 agents with different labels"));
    }
}
