//! Facts about this host that decide what load it can generate or carry.
//!
//! Each fact is `None` if it cannot be read: in a container, without `/proc`, on another system.
//! Nothing here judges; [`crate::doctor`] does.

use crate::{Cgroup, Source, parse};
use nix::sys::resource::{Resource, getrlimit};
use plimsoll_measure::{CpuTimes, Nanos, Sockets};

/// What is known of a host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The kernel's release: `6.12.0`.
    pub kernel: Option<String>,
    /// Ports that the kernel gives to outgoing connections.
    pub ports: Option<Ports>,
    /// Whether a port in TIME_WAIT may be used again after a second: `net.ipv4.tcp_tw_reuse`.
    pub tw_reuse: Option<TwReuse>,
    /// How many sockets may be in TIME_WAIT: `net.ipv4.tcp_max_tw_buckets`.
    pub tw_max: Option<u64>,
    /// The longest accept queue: `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// Half-open connections per listener: `net.ipv4.tcp_max_syn_backlog`.
    pub syn_backlog: Option<u64>,
    /// Sockets in use.
    pub sockets: Option<Sockets>,
    /// Memory for TCP over all sockets, in pages: when pressure begins, and the limit.
    pub tcp_pages: Option<(u64, u64)>,
    /// Descriptors of this process.
    pub descriptors: Option<Descriptors>,
    /// Tracked connections, and how many may be: `None` where nothing is tracked.
    pub conntrack: Option<(u64, u64)>,
    /// Whether the loopback interface is up.
    pub loopback_up: Option<bool>,
    /// CPUs that this process may run on.
    pub cpus: u64,
    /// Limits of the control group.
    pub cgroup: Cgroup,
    /// Memory that can be used without swapping, in bytes.
    pub memory_available: Option<u64>,
    /// The kernel's clock source: `tsc`, `kvm-clock`, `hpet`.
    pub clock_source: Option<String>,
    /// Whether a service keeps the clock synchronised; `None`: unknown.
    pub time_synchronised: Option<bool>,
}

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Ports in the range that are reserved.
    pub reserved: u64,
}

impl Ports {
    /// How many the kernel may give out, for each destination and source address.
    pub fn count(self) -> u64 {
        (self.last + 1).saturating_sub(self.first).saturating_sub(self.reserved)
    }
}

/// When a port in TIME_WAIT is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwReuse {
    /// After 60 s.
    Never,
    /// After a second, where both sides send timestamps.
    Always,
    /// After a second on the loopback interface, else after 60 s: the default.
    Loopback,
}

/// Limits of open descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// In force now.
    pub soft: u64,
    /// What this process may raise it to.
    pub hard: u64,
    /// Open now.
    pub open: u64,
}

impl Facts {
    /// Reads everything.
    pub fn read(source: &Source) -> Facts {
        let ipv4 = |name: &str| source.number(&format!("/proc/sys/net/ipv4/{name}"));
        Facts {
            kernel: line(source, "/proc/sys/kernel/osrelease"),
            ports: Ports::read(source),
            tw_reuse: ipv4("tcp_tw_reuse").map(|value| match value {
                0 => TwReuse::Never,
                2 => TwReuse::Loopback,
                _ => TwReuse::Always,
            }),
            tw_max: ipv4("tcp_max_tw_buckets"),
            somaxconn: source.number("/proc/sys/net/core/somaxconn"),
            syn_backlog: ipv4("tcp_max_syn_backlog"),
            sockets: sockets(source),
            tcp_pages: source
                .numbers("/proc/sys/net/ipv4/tcp_mem")
                .and_then(|pages| Some((*pages.get(1)?, *pages.get(2)?))),
            descriptors: Descriptors::read(source),
            conntrack: source
                .number("/proc/sys/net/netfilter/nf_conntrack_count")
                .zip(source.number("/proc/sys/net/netfilter/nf_conntrack_max")),
            loopback_up: loopback_up(source),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            cgroup: Cgroup::read(source),
            memory_available: memory_available(source),
            clock_source: line(
                source,
                "/sys/devices/system/clocksource/clocksource0/current_clocksource",
            ),
            time_synchronised: time_synchronised(source),
        }
    }
}

impl Ports {
    pub(crate) fn read(source: &Source) -> Option<Ports> {
        let range = source.numbers("/proc/sys/net/ipv4/ip_local_port_range")?;
        let (first, last) = (*range.first()?, *range.get(1)?);
        let text = source.text("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
        // "8080,9000-9010"
        let reserved = text.trim().split(',').filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
            (to.min(last) + 1).checked_sub(from.max(first))
        });
        Some(Ports { first, last, reserved: reserved.sum() })
    }
}

/// The sockets of this network namespace.
fn sockets(source: &Source) -> Option<Sockets> {
    let mut found = parse::sockets(&source.text("/proc/net/sockstat")?);
    found.in_use += source.text("/proc/net/sockstat6").map_or(0, |v6| parse::sockets_v6(&v6));
    let snmp = source.text("/proc/net/snmp").unwrap_or_default();
    let established = parse::counters(&snmp, "Tcp:").find(|(name, _)| *name == "CurrEstab");
    found.established = established.map_or(0, |(_, number)| number);
    Some(found)
}

/// How all CPUs have spent their time since the host started; `None` if unknown.
pub(crate) fn cpu_times(source: &Source) -> Option<CpuTimes> {
    parse::cpu_times(&source.text("/proc/stat")?)
}

impl Descriptors {
    pub(crate) fn read(source: &Source) -> Option<Descriptors> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        // The folder itself is open while it is read.
        let open = source.count("/proc/self/fd").unwrap_or(0).saturating_sub(1);
        Some(Descriptors { soft, hard, open })
    }
}

/// The text of a file of one line; `None` if it is empty.
fn line(source: &Source, path: &str) -> Option<String> {
    let text = source.text(path)?;
    Some(text.trim().to_string()).filter(|text| !text.is_empty())
}

fn memory_available(source: &Source) -> Option<u64> {
    let text = source.text("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// By the interface's flags, of which the lowest bit is IFF_UP.
fn loopback_up(source: &Source) -> Option<bool> {
    let text = source.text("/sys/class/net/lo/flags")?;
    let flags = u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()?;
    Some(flags & 1 == 1)
}

/// By what the usual services leave behind; without one it is unknown, since the host of a virtual
/// machine may keep the time.
fn time_synchronised(source: &Source) -> Option<bool> {
    if source.has("/run/systemd/timesync/synchronized") {
        return Some(true);
    }
    let runs = |name: &str| source.has(&format!("/run/{name}"));
    let others = ["chrony/chronyd.pid", "chronyd.pid", "ntpd.pid", "openntpd.pid"];
    if others.iter().any(|name| runs(name)) {
        return Some(true);
    }
    runs("systemd/timesync").then_some(false)
}

/// How late a thread that sleeps is woken: delays of a bare timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WakeUp {
    /// Half of the wake-ups were later.
    pub p50: Nanos,
    /// 1 % were later.
    pub p99: Nanos,
    /// The latest.
    pub max: Nanos,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[test]
    fn facts_are_read() {
        let host = Fixture::new(&[
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("proc/sys/net/ipv4/ip_local_reserved_ports", "8080,32768-32777,60999-61010\n"),
            ("proc/sys/net/ipv4/tcp_tw_reuse", "2\n"),
            ("proc/sys/net/ipv4/tcp_mem", "10 20 30\n"),
            ("proc/sys/net/core/somaxconn", "4096\n"),
            ("proc/sys/net/netfilter/nf_conntrack_count", "7\n"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "65536\n"),
            (
                "proc/net/sockstat",
                "sockets: used 18\nTCP: inuse 3 orphan 0 tw 54 alloc 81 mem 83\n",
            ),
            ("proc/net/sockstat6", "TCP6: inuse 2\n"),
            ("proc/net/snmp", "Tcp: CurrEstab\nTcp: 4\n"),
            ("proc/meminfo", "MemTotal: 8 kB\nMemAvailable:    2048 kB\n"),
            ("proc/stat", "cpu  10 1 2 30 4 0 5 6 9 9\ncpu0 1 2\n"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n"),
            ("run/chrony/chronyd.pid", "1"),
            ("proc/sys/kernel/osrelease", "6.12.0\n"),
        ]);
        let facts = Facts::read(&host.source());
        assert_eq!(facts.ports, Some(Ports { first: 32768, last: 60999, reserved: 11 }));
        assert_eq!(facts.ports.map(Ports::count), Some(28_221));
        assert_eq!(facts.tw_reuse, Some(TwReuse::Loopback));
        assert_eq!((facts.tcp_pages, facts.somaxconn), (Some((20, 30)), Some(4096)));
        assert_eq!(
            facts.sockets,
            Some(Sockets { in_use: 5, established: 4, time_wait: 54, orphans: 0, pages: 83 })
        );
        assert_eq!(facts.conntrack, Some((7, 65_536)));
        assert_eq!(facts.memory_available, Some(2 << 20));
        assert_eq!(facts.clock_source.as_deref(), Some("hpet"));
        assert_eq!(facts.kernel.as_deref(), Some("6.12.0"));
        assert_eq!(facts.time_synchronised, Some(true));
        let times = cpu_times(&host.source()).unwrap();
        assert_eq!(times, CpuTimes { total: 58, idle: 34, steal: 6, softirq: 5 });
    }

    #[test]
    fn nothing_is_known_without_proc() {
        let host = Fixture::new(&[]);
        let facts = Facts::read(&host.source());
        assert_eq!((facts.ports, facts.sockets, facts.conntrack), (None, None, None));
        assert_eq!(cpu_times(&host.source()), None);
    }

    #[test]
    fn files_of_another_format_are_unknown() {
        let host = Fixture::new(&[
            ("proc/sys/net/ipv4/ip_local_port_range", "none\n"),
            ("proc/sys/net/ipv4/tcp_mem", "1\n"),
            ("proc/net/sockstat", "\u{0}\n"),
            ("proc/meminfo", "MemAvailable: lots\n"),
            ("proc/stat", "cpu\n"),
        ]);
        let facts = Facts::read(&host.source());
        assert_eq!((facts.ports, facts.tcp_pages, facts.memory_available), (None, None, None));
        assert_eq!(facts.sockets, Some(Sockets::default()));
    }

    #[test]
    fn this_host_has_facts() {
        let facts = Facts::read(&Source::host());
        assert!(facts.ports.is_some_and(|ports| ports.count() > 0), "{facts:?}");
        assert!(facts.descriptors.is_some_and(|open| open.open > 0 && open.hard >= open.soft));
        assert!(facts.cpus > 0 && facts.sockets.is_some());
    }
}
