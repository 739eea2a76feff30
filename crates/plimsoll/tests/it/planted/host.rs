//! Faults of the generator's host, planted around a run: limits, neighbours, pauses, packet filters.
//!
//! Everything is confined to a network namespace, a control group and processes of its own, and is
//! removed when the guards are dropped, also by a panic.

use crate::run::Done;
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A run that takes longer is killed.
const RUN_MAX: Duration = Duration::from_secs(60);

/// A fault of the generator's host.
#[derive(Clone, Copy)]
pub(crate) enum Plant {
    /// Only this many ephemeral ports, each blocked for as long as its connection is in TIME_WAIT.
    Ports(u16),
    /// A hard limit on descriptors.
    Descriptors(u32),
    /// Threads that keep the generator's CPU busy.
    Neighbours(usize),
    /// The generator gets only what other processes leave of its CPU.
    Idle,
    /// A control group of this version with this quota of a CPU, in percent.
    Quota { version: u32, percent: u32 },
    /// The process is stopped once.
    Stop { after: Duration, length: Duration },
    /// The process is stopped again and again.
    Pulses { every: Duration, length: Duration },
    /// Received packets that match this nftables expression are dropped.
    Drop(&'static str),
    /// The loopback interface has this address too.
    Address(&'static str),
}

/// The CPU of the generator; the targets are on another.
pub(crate) struct Cpus {
    generator: usize,
}

impl Cpus {
    /// Reserves a CPU for the generator, and moves this thread to the other.
    pub(crate) fn separate() -> Result<Cpus, String> {
        let own = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let usable: Vec<usize> =
            (0..CpuSet::count()).filter(|cpu| own.is_set(*cpu).unwrap_or(false)).collect();
        let [targets, .., generator] = usable[..] else {
            return Err("needs two CPUs, one of them for the generator".into());
        };
        pin(targets);
        Ok(Cpus { generator })
    }
}

/// Moves this thread to a CPU.
fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// Moves this thread, and what it starts, to a network namespace of its own, which disappears with them.
/// Without the privilege, the thread stays where it is, unless it `must` move.
///
/// # Errors
/// The privilege or program that is missing.
pub(crate) fn isolate(must: bool) -> Result<(), String> {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => shell("ip link set lo up"),
        Err(error) if must => Err(format!("needs root, for a network namespace: {error}")),
        Err(_) => Ok(()),
    }
}

fn shell(script: &str) -> Result<(), String> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let done = Command::new("sh").args(["-ec", script]).env("PATH", path).output();
    let done: Done = done.map_err(|error| error.to_string())?.into();
    let why = done.stderr.lines().next().unwrap_or("no message");
    let program = script.split_whitespace().next().unwrap_or_default();
    if done.code == 0 { Ok(()) } else { Err(format!("{program} failed: {why}")) }
}

impl Plant {
    /// Whether it changes the network namespace.
    pub(crate) fn needs_namespace(self) -> bool {
        matches!(self, Plant::Ports(_) | Plant::Drop(_) | Plant::Address(_))
    }
}

/// Faults that are planted and not yet removed, and how the run has to be started.
#[derive(Default)]
pub(crate) struct Planted {
    /// Shell commands in the process that becomes the run.
    setup: String,
    stops: Vec<Plant>,
    _hogs: Vec<Hog>,
    _group: Option<Group>,
}

impl Planted {
    /// Plants what must be there before the run.
    ///
    /// # Errors
    /// The privilege or program that is missing.
    pub(crate) fn before(plants: &[Plant], cpus: Option<&Cpus>) -> Result<Planted, String> {
        let mut planted = Planted::default();
        if let Some(cpus) = cpus {
            planted.setup += &format!("taskset -pc {} $$ >&2\n", cpus.generator);
        }
        for plant in plants {
            match *plant {
                Plant::Ports(ports) => {
                    let to = 40_000 + ports - 1;
                    shell(&format!(
                        "echo 40000 {to} >/proc/sys/net/ipv4/ip_local_port_range\n\
                         echo 0 >/proc/sys/net/ipv4/tcp_tw_reuse"
                    ))?;
                }
                Plant::Descriptors(limit) => planted.setup += &format!("ulimit -n {limit}\n"),
                Plant::Neighbours(count) => {
                    let cpu = cpus.expect("a row with neighbours has CPUs").generator;
                    planted._hogs.extend((0..count).map(|_| Hog::on(cpu)));
                }
                Plant::Idle => planted.setup += "chrt --idle --pid 0 $$\n",
                Plant::Quota { version, percent } => {
                    let group = Group::with_quota(version, percent)?;
                    let procs = group.0.join("cgroup.procs");
                    planted.setup += &format!("echo $$ >{}\n", procs.display());
                    planted._group = Some(group);
                }
                Plant::Stop { .. } | Plant::Pulses { .. } => planted.stops.push(*plant),
                Plant::Drop(matching) => shell(&format!(
                    "nft 'table inet planted {{ chain in {{ type filter hook input priority 0; \
                     {matching} drop\n}}\n}}'"
                ))?,
                Plant::Address(address) => shell(&format!("ip addr add {address}/32 dev lo"))?,
            }
        }
        Ok(planted)
    }

    /// The number of CPUs that the run may use.
    pub(crate) fn cpus(&self) -> usize {
        if self.setup.contains("taskset") {
            return 1;
        }
        std::thread::available_parallelism().unwrap().get()
    }

    /// Runs the program with these arguments until it exits.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        let script = format!("{}exec \"$@\"", self.setup);
        let child = Command::new("sh")
            .args(["-ec", &script, "sh", env!("CARGO_BIN_EXE_plimsoll")])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Running::new(child.unwrap(), &self.stops).finish()
    }
}

/// A run. If it is dropped, the process is killed.
struct Running {
    child: Option<Child>,
    /// Threads that send signals, until their channel is closed.
    signals: Vec<(Sender<()>, JoinHandle<()>)>,
}

impl Running {
    fn new(child: Child, stops: &[Plant]) -> Running {
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let mut running = Running { child: Some(child), signals: Vec::new() };
        running.signal(move |done| {
            if wait(done, RUN_MAX) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        for stop in stops {
            match *stop {
                Plant::Stop { after, length } => running.signal(move |done| {
                    if wait(done, after) {
                        stopped(pid, done, length);
                    }
                }),
                Plant::Pulses { every, length } => running.signal(move |done| {
                    while wait(done, every - length) && stopped(pid, done, length) {}
                }),
                _ => unreachable!("not a stop"),
            }
        }
        running
    }

    fn signal(&mut self, sends: impl FnOnce(&Receiver<()>) + Send + 'static) {
        let (ends, done) = channel();
        self.signals.push((ends, std::thread::spawn(move || sends(&done))));
    }

    fn finish(mut self) -> Done {
        self.child.take().unwrap().wait_with_output().unwrap().into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        for (ends, thread) in self.signals.drain(..) {
            drop(ends);
            let _ = thread.join();
        }
    }
}

/// Waits; returns whether the time has passed, and the run goes on.
fn wait(done: &Receiver<()>, span: Duration) -> bool {
    matches!(done.recv_timeout(span), Err(std::sync::mpsc::RecvTimeoutError::Timeout))
}

/// Stops the process for a while; returns whether it goes on.
fn stopped(pid: Pid, done: &Receiver<()>, length: Duration) -> bool {
    let stopped = kill(pid, Signal::SIGSTOP).is_ok() && wait(done, length);
    let _ = kill(pid, Signal::SIGCONT);
    stopped
}

/// A thread that keeps a CPU busy.
struct Hog(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Hog {
    fn on(cpu: usize) -> Hog {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            pin(cpu);
            while !stopped.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        Hog(stop, Some(thread))
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(JoinHandle::join);
    }
}

/// A control group of the CPU controller; its processes must have ended when it is dropped.
struct Group(PathBuf);

impl Group {
    fn with_quota(version: u32, percent: u32) -> Result<Group, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-planted-{}-{number}", std::process::id());
        let quota = 1_000 * percent;
        let (root, file, settings) = if version == 1 {
            let quota =
                [("cpu.cfs_period_us", "100000".into()), ("cpu.cfs_quota_us", quota.to_string())];
            ("/sys/fs/cgroup/cpu", "cpu.shares", quota.to_vec())
        } else {
            let quota = [("cpu.max", format!("{quota} 100000"))];
            ("/sys/fs/cgroup", "cgroup.controllers", quota.to_vec())
        };
        let root = Path::new(root);
        if !root.join(file).exists() {
            return Err(format!("needs cgroup v{version} with the CPU controller"));
        }
        let missing =
            |error| format!("needs root, for a control group in {}: {error}", root.display());
        let group = Group(root.join(name));
        std::fs::create_dir(&group.0).map_err(missing)?;
        for (file, value) in settings {
            std::fs::write(group.0.join(file), value).map_err(missing)?;
        }
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
