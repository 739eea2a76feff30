//! Runs over several agents on loopback, through a real nats-server.
//!
//! # Layout
//! - `hostile`: orders that no coordinator of ours gives
//! - `local`: `plimsoll fleet`
//! - `outage`: NATS is away while agents send
//! - `security`: credentials, TLS, and the permissions of deploy/nats/
//! - `records`: records of single requests, joined by the coordinator
//! - `refusals`: what is not there or not allowed
//! - `resuming`: a coordinator is replaced, and drains all agents
//! - `views`: metrics, scrapes and objectives of a run over agents

mod hostile;
mod local;
mod outage;
mod records;
mod refusals;
mod resuming;
mod security;
mod views;

use crate::cache::until;
use crate::gateway::Process;
use crate::run::{Done, Folder, command};
use nix::sys::signal::Signal;
use plimsoll_sim::{Service, Settings, Sim};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

/// A nats-server with files of its own; killed on drop.
struct Nats {
    child: Child,
    url: String,
    /// For those who connect, and for the server itself.
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    _folder: Folder,
}

impl Nats {
    fn start() -> Nats {
        Nats::start_with("nats", &["-js"], &[])
    }

    fn start_with(scheme: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Nats {
        let folder = Folder::new();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let own = ["-a", "127.0.0.1", "-p", &port.to_string(), "-sd"].map(String::from);
        let mut all: Vec<String> = own.to_vec();
        all.push(folder.path().to_str().unwrap().into());
        all.extend(arguments.iter().map(|text| text.to_string()));
        let environment =
            environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let environment: Vec<(String, String)> = environment.collect();
        let url = format!("{scheme}://127.0.0.1:{port}");
        let child = Nats::spawn(&all, &environment);
        let nats = Nats { child, url, environment, arguments: all, _folder: folder };
        nats.wait();
        nats
    }

    fn spawn(arguments: &[String], environment: &[(String, String)]) -> Child {
        let mut command = Command::new("nats-server");
        command.args(arguments).envs(environment.iter().cloned()).stderr(Stdio::null());
        command.spawn().expect("nats-server, which scripts/test installs")
    }

    fn address(&self) -> &str {
        self.url.rsplit_once('/').unwrap().1
    }

    fn wait(&self) {
        until("nats-server listens", || TcpStream::connect(self.address()).is_ok());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same server with the same files.
    fn start_again(&mut self) {
        self.child = Nats::spawn(&self.arguments, &self.environment);
        self.wait();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.env("NATS_URL", &self.url);
        command
    }

    fn agent(&self, name: &str, label: &str, allow: &str) -> Process {
        self.agent_with(name, label, allow, &[])
    }

    fn agent_with(&self, name: &str, label: &str, allow: &str, more: &[&str]) -> Process {
        let args = ["agent", "--name", name, "--label", label, "--allow", allow];
        let agent = Process::spawn(self.command(&[&args[..], more].concat()));
        agent.wait_for("waits for orders");
        agent
    }

    /// An agent for each of the two chains.
    fn two_agents(&self, allow: &str) -> [Process; 2] {
        [self.agent("one", "chain=eth", allow), self.agent("two", "chain=boba", allow)]
    }
}

/// The JSON that a command printed, and its stderr.
#[track_caller]
fn printed(output: Output) -> (Value, String) {
    let done = Done::from(output);
    let json =
        serde_json::from_str(&done.stdout).unwrap_or_else(|why| panic!("{why}\n{}", done.stderr));
    (json, done.stderr)
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection in NATS's text protocol.
struct Raw(BufReader<TcpStream>);

impl Raw {
    fn connect(nats: &Nats, user: &str) -> Raw {
        let mut raw = Raw(BufReader::new(TcpStream::connect(nats.address()).unwrap()));
        let connect = json!({ "verbose": false, "user": user, "pass": format!("{user}-password") });
        assert_eq!(raw.errors(&format!("CONNECT {connect}\r\n")), Vec::<String>::new());
        raw
    }

    /// What the server objects to in these lines.
    fn errors(&mut self, lines: &str) -> Vec<String> {
        self.0.get_mut().write_all(format!("{lines}PING\r\n").as_bytes()).unwrap();
        let (mut errors, mut line) = (Vec::new(), String::new());
        while self.0.read_line(&mut line).unwrap() > 0 && !line.starts_with("PONG") {
            errors.extend(line.strip_prefix("-ERR ").map(|error| error.trim().to_string()));
            line.clear();
        }
        errors
    }

    fn may_publish(&mut self, subject: &str) -> bool {
        let errors = self.errors(&format!("PUB {subject} 2\r\n{{}}\r\n"));
        let refused = format!("Permissions Violation for Publish to \"{subject}\"");
        assert!(errors.iter().all(|error| error.contains(&refused)), "{errors:?}");
        errors.is_empty()
    }
}

fn sim(services: &[&str]) -> Sim {
    let named = services.iter().flat_map(|name| Service::named(name));
    Sim::start(Settings::for_tests(1, named)).unwrap()
}

fn plan(address: &str, duration: &str) -> String {
    let stream = |chain: &str, rate: u32| {
        format!(
            "[[stream]]\nname = \"{chain}\"\nrate = {rate}\nduration = \"{duration}\"\nagents = {{ chain = \"{chain}\" }}\n\
             [[stream.target]]\nname = \"{chain}\"\nrequest = \"POST http://{address}/{chain}\"\n\
             body = '{{\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\",\"params\":[],\"id\":1}}'\n"
        )
    };
    format!("name = \"by chain\"\nseed = 5\n{}{}", stream("eth", 60), stream("boba", 40))
}

/// The number of requests that the chain has received.
fn received(address: &str) -> u64 {
    let mut caller = crate::gateway::Caller::connect(address).unwrap();
    let counts = caller.send("GET /sim/counts", "").unwrap().json();
    counts["requests"].as_u64().unwrap()
}

#[test]
fn agents_send_their_streams_and_the_sum_is_exact() {
    let (nats, sim) = (Nats::start(), sim(&["eth", "boba"]));
    let address = sim.address().to_string();
    let agents = [
        nats.agent("one", "chain=eth", &address),
        nats.agent("two", "chain=boba", &address),
        nats.agent("three", "chain=eth", &address),
    ];
    let folder = Folder::new();
    let file = folder.file("plan.toml", plan(&address, "3s"));
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let args = ["run", &file, "--agents", "3", "--format", "json", "--out", out];
    let (summary, stderr) = printed(nats.command(&args).output().unwrap());
    assert_eq!(
        (&summary["requests"]["scheduled"], &summary["requests"]["ok"]),
        (&300.into(), &300.into()),
        "{stderr}"
    );
    assert_eq!(received(&address), 300);
    let rows = summary["agents"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["agent"] == name).unwrap();
    assert_eq!(rows.len(), 3);
    for (name, requests) in [("one", 90), ("two", 120), ("three", 90)] {
        assert_eq!(row(name)["scheduled"], requests, "{name}");
        let skew = row(name)["start_skew_ns"].as_i64().unwrap().unsigned_abs();
        let bound = row(name)["start_skew_bound_ns"].as_u64().unwrap();
        // Both measurements of the offset are off by at most their bound.
        assert!(skew < 2 * bound + 50_000_000, "{name}: {skew} ± {bound} ns");
    }
    let documented = include_str!("../../../../docs/summary.md");
    for field in rows[0].as_object().unwrap().keys() {
        assert!(documented.contains(&format!("`agents[].{field}`")), "{field} is not documented");
    }
    assert!(rows[0]["records"].is_null() && !folder.path().join("out/samples.parquet").exists());
    // The run directory reads like any other.
    let report = command(&["report", out, "--format", "json"]).output().unwrap();
    let again: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(
        (&again["requests"], &again["latency"], &again["agents"], &again["verdict"]),
        (&summary["requests"], &summary["latency"], &summary["agents"], &summary["verdict"])
    );
    let text = command(&["report", out]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find(|line| line.trim_start().starts_with("two ")).unwrap();
    // A busy host makes it invalid, in both reports.
    let verdict = if row("two")["valid"] == true { " valid" } else { " INVALID" };
    assert!(line.contains("120") && line.contains(" ms") && line.ends_with(verdict), "{text}");
    // Not of a part of it.
    let part = command(&["report", out, "--stream", "eth", "--format", "json"]).output().unwrap();
    let part: Value = serde_json::from_slice(&part.stdout).unwrap();
    assert!(part.get("agents").is_none_or(|all| all.as_array().unwrap().is_empty()), "{part:#}");
    for agent in agents {
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.end(), Some(130));
    }
}

/// An order comes from another host: whatever it names on the agent's host is neither read nor run.
#[test]
fn agents_follow_no_logs_and_run_no_commands() {
    let (nats, sim) = (Nats::start(), sim(&["eth", "boba"]));
    let address = sim.address().to_string();
    let agents = nats.two_agents(&address);
    let folder = Folder::new();
    let (ran, log) =
        (folder.path().join("ran"), folder.file("secret.log", "error: of the agent\n"));
    let logs = format!(
        "[[log]]\nname = \"command\"\ncommand = [\"touch\", \"{}\"]\npatterns = [\"x\"]\n\
         [[log]]\nname = \"file\"\nfile = \"{log}\"\npatterns = [\"error\"]\n\
         [[scrape]]\npid = {}\n",
        ran.display(),
        std::process::id()
    );
    let file = folder.file("plan.toml", plan(&address, "1s") + &logs);
    let out = folder.path().join("out");
    let args = ["run", &file, "--agents", "2", "--format", "json", "--out", out.to_str().unwrap()];
    let (summary, stderr) = printed(nats.command(&args).output().unwrap());
    assert_eq!(summary["requests"]["ok"], 100, "{stderr}");
    assert!(stderr.contains("warning: [[log]] is ignored: agents read no files"), "{stderr}");
    assert!(!ran.exists(), "an agent ran a command");
    assert!(summary["logs"].as_array().unwrap().iter().all(|own| own["lines"] == 0), "{summary}");
    for agent in ["one", "two"] {
        let seconds = std::fs::read_to_string(out.join(format!("agents/{agent}.jsonl"))).unwrap();
        assert!(!seconds.contains("of the agent"), "{seconds}");
        assert!(!seconds.contains("process_cpu_seconds_total"), "{seconds}");
    }
    // Allowing commands is a matter of the host that follows them.
    let refused = nats.command(&[&args[..], &["--allow-commands"]].concat()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    for agent in agents {
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.end(), Some(130));
    }
}

#[test]
fn a_killed_agent_is_lost_and_its_requests_are_counted() {
    let (nats, sim) = (Nats::start(), sim(&["eth", "boba"]));
    let address = sim.address().to_string();
    let agents = nats.two_agents(&address);
    let folder = Folder::new();
    let file = folder.file("plan.toml", plan(&address, "4s"));
    let args = ["run", &file, "--agents", "2", "--format", "json", "--no-out"];
    let run = nats.command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // As soon as it sends.
    until("the agents send", || received(&address) > 0);
    agents[1].signal(Signal::SIGKILL);
    let done = run.wait_with_output().unwrap();
    let summary: Value = serde_json::from_slice(&done.stdout).unwrap();
    let count = |path: &str| summary.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    assert_eq!(count("/requests/scheduled"), 400);
    assert!(
        count("/requests/unsent") > 0 && count("/errors/agent_lost") == count("/requests/unsent")
    );
    assert!(received(&address) >= count("/requests/sent"));
    assert_eq!(done.status.code(), Some(98), "the plan was not held");
}
