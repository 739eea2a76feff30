//! `--instances N`: runs N gateway processes on consecutive ports, and restarts those that exit.
//!
//! The instances are separate processes, like instances behind a load balancer; they share the
//! configuration and the database. The supervisor holds a pipe to each: when the supervisor exits,
//! however that happens, the pipe closes, and the instance drains and exits too. No instance outlives
//! the supervisor.

use super::ServeArgs;
use super::announce::Description;
use super::last_valid::LastValid;
use super::messages::Messages;
use super::serve::{load, raise_descriptor_limit};
use super::signals::{Event, ORPHAN_DRAIN, Signals};
use super::simulated::Simulated;
use crate::{put, usage_error};
use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plimsoll_gateway::Settings;
use plimsoll_measure::{Clock, Nanos};
use plimsoll_registry::config::Inputs;
use plimsoll_registry::settings::overlap;
use plimsoll_registry::sources::Sources;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

/// An instance that ran for this long resets its restart backoff.
const STEADY: Nanos = Nanos::from_secs(10);

/// The first pause before an instance is restarted; it doubles with each early exit.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a signal to the supervisor means for its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Serve,
    /// Reload the configuration; counts the signals.
    Reload(u64),
    /// Stop; counts the signals.
    Stop(u32),
}

/// Runs the instances until a signal to stop.
pub(super) async fn run(args: &ServeArgs, inputs: Inputs) -> anyhow::Result<ExitCode> {
    let last_valid = LastValid::keep(&inputs)?;
    let mut sources = Sources::new(inputs);
    let (config, mut definitions) = load(&mut sources).await?;
    let database = sources.database().map(String::from);
    sources.close().await;
    raise_descriptor_limit(&config.settings, true);
    let mut simulated = Simulated::new(args.simulate, None);
    simulated.fill(&mut definitions)?;
    let elsewhere = simulated.serves().then(|| simulated.address()).transpose()?;
    check_addresses(&config.settings, args.instances)?;
    let messages = Messages::start(String::new())?;
    messages.capture_tracing();
    let (order, orders) = watch::channel(Order::Serve);
    let (started, mut starts) = mpsc::channel(usize::from(args.instances));
    let mut instances = tokio::task::JoinSet::new();
    for number in 0..args.instances {
        let instance = Instance {
            number,
            instances: args.instances,
            simulated: elsewhere.clone(),
            last_valid: last_valid.copy().map(Path::to_path_buf),
            orders: orders.clone(),
            started: started.clone(),
        };
        instances.spawn(instance.run());
    }
    drop(started);
    let mut signals = Signals::listen(args.supervised)?;
    let orphan = tokio::time::sleep(Duration::MAX);
    tokio::pin!(orphan);
    let mut urls: Vec<(u16, Vec<String>)> = Vec::new();
    let mut failed = None;
    loop {
        let stop = || {
            order.send_modify(|order| {
                *order = match *order {
                    Order::Stop(times) => Order::Stop(times + 1),
                    _ => Order::Stop(1),
                }
            })
        };
        tokio::select! {
            Some(start) = starts.recv() => {
                urls.push(start);
                if urls.len() == usize::from(args.instances) {
                    urls.sort();
                    if args.supervised {
                        let first = |(_, urls): &(u16, Vec<String>)| urls.first().cloned();
                        let all: Vec<String> = urls.iter().filter_map(first).collect();
                        put(&format!("{}\n", all.join(" ")))?;
                        continue;
                    }
                    let description = Description {
                        definitions: &definitions,
                        database: database.as_deref(),
                        listeners: &config.settings.listeners,
                        urls: &urls[0].1,
                        is_simulated: elsewhere.is_some(),
                    };
                    let text = description.text();
                    messages.print(&format!("{} instances\n{}", urls.len(), text.trim_end()));
                }
            }
            // The drain took too long: escalates to the next stage.
            () = &mut orphan, if signals.is_orphaned() => {
                stop();
                orphan.as_mut().reset(tokio::time::Instant::now() + ORPHAN_DRAIN);
            }
            event = signals.next() => match event {
                Event::Stop => stop(),
                Event::Orphaned => {
                    stop();
                    orphan.as_mut().reset(tokio::time::Instant::now() + ORPHAN_DRAIN);
                }
                Event::Reload => order.send_modify(|order| match order {
                    Order::Serve => *order = Order::Reload(1),
                    Order::Reload(times) => *times += 1,
                    Order::Stop(_) => {}
                }),
            },
            ended = instances.join_next() => match ended {
                None => break,
                Some(Ok(Ok(()))) => {}
                Some(other) => {
                    // If one cannot start, the setup is wrong: all stop.
                    let error = other.map_err(anyhow::Error::from).and_then(|ended| ended);
                    failed = failed.or(error.err());
                    stop();
                }
            }
        }
    }
    messages.finish();
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Checks that no two instances would listen on the same address.
fn check_addresses(settings: &Settings, instances: u16) -> anyhow::Result<()> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for number in 0..instances {
        let mut settings = settings.clone();
        shift_ports(&mut settings, number)?;
        for address in settings.listeners.iter().map(|one| one.address) {
            if all.iter().any(|other| overlap(*other, address)) {
                let message = format!("two of the {instances} instances would listen on {address}");
                return Err(usage_error(message, OTHER_PORTS));
            }
            all.push(address);
        }
    }
    Ok(())
}

/// Adds an instance's number to each port; port 0 stays.
pub(super) fn shift_ports(settings: &mut Settings, number: u16) -> anyhow::Result<()> {
    for address in settings.listeners.iter_mut().map(|one| &mut one.address) {
        if address.port() != 0 {
            let port = address.port().checked_add(number).ok_or_else(|| {
                let message = format!("{address} plus {number} exceeds port 65535");
                usage_error(message, OTHER_PORTS)
            })?;
            address.set_port(port);
        }
    }
    Ok(())
}

const OTHER_PORTS: &str = "choose other ports with --listen";

/// One of the processes.
struct Instance {
    number: u16,
    /// How many there are.
    instances: u16,
    simulated: Option<String>,
    last_valid: Option<PathBuf>,
    orders: watch::Receiver<Order>,
    /// Receives the instance's number and the URLs of its listeners when it first listens.
    started: mpsc::Sender<(u16, Vec<String>)>,
}

impl Instance {
    fn name(&self) -> String {
        format!("gw-{}", self.number + 1)
    }

    /// Keeps a process running until the order to stop.
    async fn run(mut self) -> anyhow::Result<()> {
        let clock = Clock::start();
        let mut pause = PAUSE_FIRST;
        let mut once_up = false;
        loop {
            let began = clock.now();
            let name = self.name();
            let ended = match self.start() {
                Ok(child) => {
                    let status = self.watch(child, &mut once_up).await?;
                    ended(&name, status)
                }
                // May be a temporary shortage of memory or processes: retried.
                Err(error) if once_up => format!("{error:#}"),
                Err(error) => return Err(error),
            };
            if matches!(*self.orders.borrow(), Order::Stop(_)) {
                return Ok(());
            }
            if !once_up {
                anyhow::bail!("{name} could not start");
            }
            if clock.now() - began >= STEADY {
                pause = PAUSE_FIRST;
            }
            let shown = Nanos::from(pause);
            tracing::warn!("{ended}; restarting in {shown}");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.orders.wait_for(|order| matches!(order, Order::Stop(_))) => return Ok(()),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Starts the process: this program with its own arguments, except those that differ between
    /// instances.
    fn start(&self) -> anyhow::Result<Child> {
        // The running executable, even if its file has been replaced since.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("plimsoll");
        command.args(inherited(std::env::args().skip(1)));
        command.arg("--supervised").arg("--instances=1");
        command.arg(format!("--replicas={}", self.instances));
        command.arg(format!("--port-offset={}", self.number));
        command.arg(format!("--instance={}", self.name()));
        let last_valid = self.last_valid.iter();
        command.args(last_valid.map(|file| format!("--last-valid={}", file.display())));
        command.args(self.simulated.iter().map(|url| format!("--simulated={url}")));
        // Its own process group: Ctrl-C in a terminal signals only the supervisor, which forwards it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        command.spawn().with_context(|| format!("cannot start {}", self.name()))
    }

    /// Waits for the process to exit and forwards orders to it. Its first line of output is its URL.
    async fn watch(&mut self, mut child: Child, once_up: &mut bool) -> anyhow::Result<ExitStatus> {
        // Taken so that it stays open: `wait` closes a child's stdin.
        let _pipe = child.stdin.take();
        let stdout = child.stdout.take().context("its stdout is not a pipe")?;
        let mut lines = BufReader::new(stdout).lines();
        let (mut is_up, mut has_ended) = (false, false);
        self.orders.mark_unchanged();
        let mut order = *self.orders.borrow();
        let kill = tokio::time::sleep(Duration::MAX);
        tokio::pin!(kill);
        loop {
            if let (Order::Stop(_), Some(pid)) = (order, child.id()) {
                send(pid, Signal::SIGTERM);
                if !is_up {
                    // It may hang before it installs its signal handlers.
                    kill.as_mut().reset(tokio::time::Instant::now() + ORPHAN_DRAIN);
                }
            }
            // An instance that is not up yet has still to read the configuration.
            if let (Order::Reload(_), Some(pid), true) = (order, child.id(), is_up) {
                send(pid, Signal::SIGHUP);
            }
            if let Order::Stop(3..) = order {
                let _ = child.start_kill();
            }
            // Each order is acted on once.
            order = Order::Serve;
            tokio::select! {
                status = child.wait() => return Ok(status?),
                () = &mut kill, if !is_up => {
                    let _ = child.start_kill();
                    kill.as_mut().reset(tokio::time::Instant::now() + ORPHAN_DRAIN);
                }
                line = lines.next_line(), if !has_ended => match line {
                    Ok(Some(line)) => {
                        is_up = true;
                        if !std::mem::replace(once_up, true) {
                            let urls = line.split_whitespace().map(String::from).collect();
                            let _ = self.started.send((self.number, urls)).await;
                        }
                    }
                    _ => has_ended = true,
                },
                changed = self.orders.changed() => {
                    changed.context("the supervisor has exited")?;
                    order = *self.orders.borrow_and_update();
                }
            }
        }
    }
}

/// How a process ended.
fn ended(name: &str, status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(number), _) => match Signal::try_from(number) {
            Ok(signal) => format!("{name} was killed by signal {number} ({signal})"),
            Err(_) => format!("{name} was killed by signal {number}"),
        },
        (None, Some(code)) => format!("{name} exited with code {code}"),
        (None, None) => format!("{name} ended"),
    }
}

/// Sends a signal; an error means that the process has already exited.
fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// The arguments without those that are set per instance.
fn inherited(mut args: impl Iterator<Item = String>) -> Vec<String> {
    let own = ["--instances", "--instance"];
    let mut kept = Vec::new();
    while let Some(arg) = args.next() {
        let (flag, joined) =
            arg.split_once('=').map_or((arg.as_str(), false), |(flag, _)| (flag, true));
        match flag {
            "--supervised" => {}
            flag if own.contains(&flag) => {
                // Its value is the next argument, unless it is joined.
                let _ = if joined { None } else { args.next() };
            }
            _ => kept.push(arg),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_registry::settings::Listener;

    #[test]
    fn instances_inherit_shared_arguments() {
        let args = "gateway --supervised --config x.toml --listen 127.0.0.1:0 --instances=5 --instance gw --workers 2";
        let kept = inherited(args.split(' ').map(String::from));
        assert_eq!(kept.join(" "), "gateway --config x.toml --listen 127.0.0.1:0 --workers 2");
    }

    #[test]
    fn the_end_of_an_instance_is_named() {
        let check =
            |raw: i32, text: &str| assert_eq!(ended("gw-1", ExitStatus::from_raw(raw)), text);
        check(9, "gw-1 was killed by signal 9 (SIGKILL)");
        check(63, "gw-1 was killed by signal 63");
        check(2 << 8, "gw-1 exited with code 2");
    }

    #[test]
    fn ports_are_consecutive() {
        let settings = |text: &str| {
            let listener = |one: &str| Listener::at(one.parse().expect("an address"));
            Settings { listeners: text.split(' ').map(listener).collect(), ..Settings::default() }
        };
        let shifted = |text: &str, number| {
            let mut settings = settings(text);
            shift_ports(&mut settings, number).map(|()| settings.listeners)
        };
        let two = "127.0.0.1:3069 [::1]:4000";
        let fifth = settings("127.0.0.1:3073 [::1]:4004").listeners;
        assert_eq!(shifted(two, 4).expect("ports"), fifth);
        assert_eq!(shifted("127.0.0.1:0", 4).expect("ports"), settings("127.0.0.1:0").listeners);
        assert!(shifted("127.0.0.1:65535", 1).is_err());
        assert!(check_addresses(&settings(two), 5).is_ok());
        assert!(check_addresses(&settings("127.0.0.1:0"), 5).is_ok());
        assert!(check_addresses(&settings("127.0.0.1:1 127.0.0.1:2"), 2).is_err(), "they overlap");
        assert!(check_addresses(&settings("127.0.0.1:1 0.0.0.0:2"), 2).is_err(), "they overlap");
    }
}
