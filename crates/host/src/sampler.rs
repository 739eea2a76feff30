//! Sampling the host during a run: what it did to this process since the previous sample.
//!
//! Files stay open and are read again into one buffer, so a sample takes a `pread` or two for each
//! source and, once warm, allocates only the two lists that it returns. Counts of sockets are the
//! kernel's own: nothing walks over all sockets but the list of established ones (`senders`), which is
//! cut off. A source that cannot be read is named once, by [`Sampler::unread`], and its field is `None`
//! in every sample.
//!
//! The files take descriptors. If the run may need them, only the memory in use is read: sampling must
//! not be the cause of `fd_exhausted`.
//!
//! A sample takes 0.5 to 3 ms (docs/design/verdict.md): it must not be taken by a worker's thread.
//!
//! Submodules: `file` (files that stay open), `workers`, `tcp` (names of counters), `senders`
//! (`tcp_info`).

mod file;
mod senders;
mod tcp;
#[cfg(test)]
mod tests;
mod workers;

use crate::facts::{Descriptors, Ports};
use crate::{Source, cgroup, cpu_used, parse};
use file::{Buffer, WatchedFile};
use nix::sys::resource::{Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};
use plimsoll_measure::{HostSample, Nanos, Sockets, Tally, TcpCounter, Throttled, Usage};
use senders::Senders;
use std::fs::File;
use std::net::SocketAddr;
use workers::Worker;

/// The folder of open descriptors. Its size is their number, since Linux 6.2.
const DESCRIPTORS: &str = "/proc/self/fd";
const STATUS: &str = "/proc/self/status";
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Descriptors that sampling keeps open at most, in addition to those of workers; control groups that
/// are nested deeper than six levels may take more.
const DESCRIPTORS_KEPT: u64 = 20;
const DESCRIPTORS_PER_WORKER: u64 = 2;

/// The run that is sampled.
#[derive(Clone, Copy, Debug, Default)]
pub struct SampledRun<'r> {
    /// Where its connections are opened to: their `tcp_info` is read.
    pub destinations: &'r [SocketAddr],
    /// Its worker threads.
    pub workers: u64,
    /// Descriptors that it may need.
    pub descriptors: u64,
}

/// Reads what the host does to this process.
pub struct Sampler {
    source: Source,
    buffer: Buffer,
    files: Files,
    ports: Option<u64>,
    /// Opened for the first sample, when the workers' threads have their names.
    workers: Option<Vec<Worker>>,
    senders: Option<Senders>,
    /// The previous reading: counts since the start.
    earlier: HostSample,
    unread: Vec<String>,
}

/// The files that are read for each sample.
#[derive(Default)]
struct Files {
    /// Of this process.
    status: Option<WatchedFile>,
    stat: Option<WatchedFile>,
    softnet: Option<WatchedFile>,
    sockstat: Option<WatchedFile>,
    sockstat6: Option<WatchedFile>,
    snmp: Option<WatchedFile>,
    netstat: Option<WatchedFile>,
    /// `cpu.stat` of the control group and of those above it.
    throttled: Vec<WatchedFile>,
    /// The memory in use by the group with the tightest limit, and the limit.
    memory: Option<(WatchedFile, u64)>,
    /// Tracked connections, and their limit.
    conntrack: Option<(WatchedFile, WatchedFile)>,
    /// The folder of open descriptors, and their limit.
    descriptors: Option<(File, u64)>,
}

impl Sampler {
    /// Opens all sources. The first sample covers the time from now on.
    pub fn new(source: &Source, run: SampledRun<'_>) -> Sampler {
        let mut unread = Vec::new();
        let ports = Ports::read(source).map(Ports::count);
        let mut sampler = Sampler {
            source: source.clone(),
            buffer: Buffer::default(),
            files: Files::default(),
            ports,
            workers: Some(Vec::new()),
            senders: None,
            earlier: HostSample::default(),
            unread: Vec::new(),
        };
        match check_descriptors(source, run) {
            Ok(()) => {
                sampler.files = Files::open(source, &mut unread);
                sampler.workers = None;
                if let Err(why) = workers::check(source) {
                    unread.push(why);
                }
                let senders = Senders::open(run.destinations);
                sampler.senders = senders.map_err(|why| unread.push(why)).ok();
            }
            Err(why) => {
                unread.push(why);
                sampler.files.status = WatchedFile::open(source, STATUS).ok();
            }
        }
        if ports.is_none() {
            unread.push(format!("{PORT_RANGE}: no range of ports"));
        }
        sampler.unread = unread;
        sampler.earlier = sampler.read();
        sampler
    }

    /// The sources that could not be read, each with the reason.
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    /// What happened since the previous sample.
    pub fn sample(&mut self) -> HostSample {
        let from = thread_cpu();
        if self.workers.is_none() {
            self.workers = Some(Worker::all(&self.source));
        }
        let now = self.read();
        let mut sample = now.since(&self.earlier);
        self.earlier = now;
        sample.sending = self.senders.as_mut().and_then(|senders| senders.read(thread_cpu));
        sample.sampling = thread_cpu() - from;
        sample
    }

    /// Counts since the start, and levels.
    fn read(&mut self) -> HostSample {
        let (files, buffer) = (&self.files, &mut self.buffer);
        let (cpu, user) = cpu_used();
        let workers = self.workers.iter_mut().flatten();
        let (tcp, established) = files.tcp(buffer);
        HostSample {
            cpu,
            user,
            rss_peak_bytes: files.rss_peak(buffer),
            workers: workers.map(|worker| worker.read(buffer)).collect(),
            cpus: read(&files.stat, buffer, parse::cpu_times),
            softnet: read(&files.softnet, buffer, |text| Some(parse::softnet(text))),
            sockets: files.sockets(buffer, established),
            ports: self.ports,
            descriptors: files.descriptors(),
            conntrack: files.conntrack(buffer),
            memory: files.memory(buffer),
            throttled: files.throttled(buffer),
            tcp,
            ..HostSample::default()
        }
    }
}

impl Files {
    fn open(source: &Source, unread: &mut Vec<String>) -> Files {
        let optional = |path: &str| WatchedFile::open(source, path).ok();
        let throttled: Vec<_> =
            cgroup::cpu_stats(source).iter().filter_map(|path| optional(path)).collect();
        if throttled.is_empty() {
            unread.push("cpu.stat: no control group with a CPU controller".into());
        }
        let mut expected = |path: &str| {
            let opened = WatchedFile::open(source, path);
            opened.map_err(|why| unread.push(format!("{path}: {why}"))).ok()
        };
        let mut files = Files {
            status: expected(STATUS),
            stat: expected("/proc/stat"),
            softnet: expected("/proc/net/softnet_stat"),
            sockstat: expected("/proc/net/sockstat"),
            // Absent without IPv6.
            sockstat6: optional("/proc/net/sockstat6"),
            snmp: expected("/proc/net/snmp"),
            netstat: expected("/proc/net/netstat"),
            throttled,
            // Absent without a limit.
            memory: cgroup::memory(source)
                .and_then(|memory| Some((optional(&memory.used_path)?, memory.max))),
            // Absent if no connections are tracked.
            conntrack: optional("/proc/sys/net/netfilter/nf_conntrack_count")
                .zip(optional("/proc/sys/net/netfilter/nf_conntrack_max")),
            descriptors: None,
        };
        match open_descriptors(source) {
            Ok(open) => files.descriptors = Some(open),
            Err(why) => unread.push(format!("{DESCRIPTORS}: {why}")),
        }
        files
    }

    fn rss_peak(&self, buffer: &mut Buffer) -> u64 {
        read(&self.status, buffer, |text| parse::value(text, "VmHWM")).unwrap_or(0) << 10
    }

    fn sockets(&self, buffer: &mut Buffer, established: u64) -> Option<Sockets> {
        let mut sockets = read(&self.sockstat, buffer, |text| Some(parse::sockets(text)))?;
        let v6 = read(&self.sockstat6, buffer, |text| Some(parse::sockets_v6(text)));
        sockets.in_use += v6.unwrap_or(0);
        sockets.established = established;
        Some(sockets)
    }

    /// The TCP counters, and the number of established connections.
    fn tcp(&self, buffer: &mut Buffer) -> (Option<Tally<TcpCounter>>, u64) {
        let mut tally = Tally::new();
        let snmp = read(&self.snmp, buffer, |text| Some(tcp::read_snmp(text, &mut tally)));
        let netstat = read(&self.netstat, buffer, |text| {
            tcp::read_netstat(text, &mut tally);
            Some(())
        });
        ((snmp.is_some() || netstat.is_some()).then_some(tally), snmp.unwrap_or(0))
    }

    fn descriptors(&self) -> Option<Usage> {
        let (folder, limit) = self.descriptors.as_ref()?;
        Some(Usage { used: folder.metadata().ok()?.len(), limit: *limit })
    }

    fn conntrack(&self, buffer: &mut Buffer) -> Option<Usage> {
        let (used, limit) = self.conntrack.as_ref()?;
        let mut number = |file: &WatchedFile| file.read(buffer, |t| parse::numbers(t).next());
        Some(Usage { used: number(used)?, limit: number(limit)? })
    }

    fn memory(&self, buffer: &mut Buffer) -> Option<Usage> {
        let (file, limit) = self.memory.as_ref()?;
        let used = file.read(buffer, |text| parse::numbers(text).next())?;
        Some(Usage { used, limit: *limit })
    }

    fn throttled(&self, buffer: &mut Buffer) -> Option<Throttled> {
        let mut sum = None;
        for file in &self.throttled {
            if let Some(text) = file.text(buffer) {
                sum.get_or_insert_with(Throttled::default).add(&parse::throttled(text));
            }
        }
        sum
    }
}

/// Parses the present text of a file that may be missing.
fn read<T>(
    file: &Option<WatchedFile>,
    buffer: &mut Buffer,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    file.as_ref()?.read(buffer, parse)
}

/// Whether there are descriptors for sampling.
///
/// # Errors
/// How many are free, and how many are needed.
fn check_descriptors(source: &Source, run: SampledRun<'_>) -> Result<(), String> {
    let Some(own) = Descriptors::read(source) else { return Ok(()) };
    let free = own.soft.saturating_sub(own.open);
    let kept = DESCRIPTORS_KEPT + DESCRIPTORS_PER_WORKER * run.workers;
    let needed = kept.saturating_add(run.descriptors);
    if needed <= free {
        return Ok(());
    }
    Err(format!(
        "/proc and /sys: sampling takes {kept} descriptors and the run {}, but only {free} are free",
        run.descriptors
    ))
}

fn open_descriptors(source: &Source) -> Result<(File, u64), String> {
    let folder = File::open(source.path(DESCRIPTORS)).map_err(|error| error.to_string())?;
    let count = folder.metadata().map_err(|error| error.to_string())?.len();
    if count == 0 {
        return Err("this kernel does not count open descriptors; Linux 6.2 does".into());
    }
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    Ok((folder, limit))
}

/// CPU time of the calling thread; zero if unavailable.
fn thread_cpu() -> Nanos {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(Nanos::ZERO, |time| std::time::Duration::from(time).into())
}
