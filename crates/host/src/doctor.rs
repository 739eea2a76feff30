//! What on this host would spoil a load, and by how much: facts against a demand, as pure rules.
//!
//! Each rule gives one [`Check`] with the number, why it matters for this demand, and the fix. A fact
//! that could not be read is reported as unknown, and judges nothing.

use crate::{CpuTimes, Facts, TwReuse, WakeUp};
use plimsoll_measure::Nanos;
use plimsoll_measure::units::grouped;

/// What a plan or a gateway asks of its host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    /// Where connections are opened to.
    pub destinations: Vec<Destination>,
    /// Local addresses that connections are opened from; 1 if the kernel chooses.
    pub sources: u64,
    /// Connections accepted at most; 0 for a plan.
    pub accepted: u64,
    /// Requests per second at most; 0 if unknown.
    pub rate: f64,
    /// Descriptors needed in any case; the limits of connections may need more.
    pub descriptors: u64,
    /// CPU time per request, measured on this host.
    pub cpu_per_request: Option<Nanos>,
    /// Memory that may be used, in bytes, besides connections; 0 if unknown.
    pub memory: u64,
    /// The variable that names a proxy for a destination; it is not used.
    pub proxy: Option<String>,
}

/// A host and port that connections are opened to.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// `host:port`.
    pub name: String,
    /// Whether it is on this host.
    pub is_local: bool,
    /// Connections open at a time at most.
    pub connections: u64,
    /// Connections opened per second in steady use; 0 if they are kept alive.
    pub opened: f64,
}

/// How a host was observed for a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    /// What its CPUs did.
    pub cpu: Option<CpuTimes>,
    /// How late a sleeping thread was woken.
    pub wake_up: Option<WakeUp>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Enough.
    Ok,
    /// Worth knowing.
    Note,
    /// Could not be read.
    Unknown,
    /// May spoil the results.
    Warning,
    /// The load cannot be carried.
    Blocks,
}

impl Status {
    /// Its name in JSON and text.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Note => "note",
            Status::Unknown => "unknown",
            Status::Warning => "warning",
            Status::Blocks => "blocks",
        }
    }
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked; has the same meaning in every report.
    pub id: &'static str,
    /// How it ended.
    pub status: Status,
    /// The number, and what it is compared with.
    pub value: String,
    /// Why it matters for this demand; empty if it is enough.
    pub why: String,
    /// The command, flag or key that changes it; empty if nothing has to be changed.
    pub fix: String,
}

/// A wide range of ports, above those that servers use.
pub(crate) const PORTS: &str = "10000 65535";
/// How long a port stays bound after its connection, if this side closes first.
const TIME_WAIT: f64 = 60.0;
/// The same with `tcp_tw_reuse`.
const TIME_WAIT_REUSED: f64 = 1.0;
/// How long a closed connection stays tracked.
const TRACKED: f64 = 120.0;
/// The least memory of an open connection in the kernel: its socket and small buffers, in pages.
const PAGES_PER_CONNECTION: u64 = 2;
/// Above this share of the CPU, requests are sent late.
const CPU_MAX: f64 = 0.9;
/// Above this share there is little headroom.
const CPU_HIGH: f64 = 0.5;
/// More than this share of the CPU taken by other virtual machines delays requests.
const STEAL_HIGH: f64 = 0.02;
/// A host that is busier than this before the run has little CPU left.
const BUSY_HIGH: f64 = 0.5;
/// A wake-up later than this is seen in the results.
const WAKE_UP_HIGH: Nanos = Nanos::from_millis(5);

/// All checks, the worst first.
pub fn examine(facts: &Facts, observed: &Observed, demand: &Demand) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(demand.destinations.iter().map(|to| ports(facts, demand, to)));
    checks.push(descriptors(facts, demand));
    checks.extend(time_wait(facts, demand));
    checks.extend(accept_queue(facts, demand));
    checks.extend(conntrack(facts, demand));
    checks.push(socket_memory(facts, demand));
    checks.push(cpu(facts, demand));
    checks.extend(memory(facts, demand));
    checks.push(steal(observed));
    checks.push(wake_up(observed));
    checks.push(clock(facts));
    checks.push(time(facts));
    checks.extend(proxy(demand));
    checks.push(sockets(facts));
    checks.sort_by_key(|check| std::cmp::Reverse(check.status));
    checks
}

impl Demand {
    /// Connections at most, opened and accepted.
    fn connections(&self) -> u64 {
        self.accepted + self.destinations.iter().map(|to| to.connections).sum::<u64>()
    }

    /// Connections opened per second.
    fn opened(&self) -> f64 {
        self.destinations.iter().map(|to| to.opened).sum()
    }
}

fn check(id: &'static str, status: Status, value: impl Into<String>) -> Check {
    Check { id, status, value: value.into(), why: String::new(), fix: String::new() }
}

impl Check {
    fn because(self, why: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { why: why.into(), fix: fix.into(), ..self }
    }
}

fn unknown(id: &'static str, file: &str) -> Check {
    check(id, Status::Unknown, format!("cannot read {file}"))
}

fn whole(number: f64) -> String {
    grouped(number.ceil() as u64)
}

/// Ephemeral ports: one for each connection to the same destination from the same address, and for
/// as long as it stays bound.
fn ports(facts: &Facts, demand: &Demand, to: &Destination) -> Check {
    const ID: &str = "ephemeral_ports";
    let Some(ports) = facts.ports else {
        return unknown(ID, "/proc/sys/net/ipv4/ip_local_port_range");
    };
    let available = ports.count() * demand.sources.max(1);
    let reused = match facts.tw_reuse {
        Some(TwReuse::Always) => true,
        Some(TwReuse::Loopback) => to.is_local,
        Some(TwReuse::Never) | None => false,
    };
    let hold = if reused { TIME_WAIT_REUSED } else { TIME_WAIT };
    let steady = to.opened * hold;
    let needed =
        if to.opened > 0.0 { steady.max(to.connections as f64) } else { to.connections as f64 };
    let value = format!(
        "{} for {}, of {} ({}-{}{})",
        whole(needed),
        to.name,
        grouped(available),
        ports.first,
        ports.last,
        if demand.sources > 1 {
            format!(", {} source addresses", demand.sources)
        } else {
            String::new()
        },
    );
    let addresses = (needed / ports.count().max(1) as f64).max(2.0);
    let more_ports = format!(
        "use {} source addresses (connections.source), or widen the range: sysctl -w \
         net.ipv4.ip_local_port_range=\"{PORTS}\"",
        whole(addresses),
    );
    if to.opened > 0.0 && steady > available as f64 {
        return check(ID, Status::Blocks, value).because(
            format!(
                "{} connections per second, and a port stays bound for {hold} s after each: the ports \
                 last for {:.1} s",
                whole(to.opened),
                available as f64 / to.opened,
            ),
            format!("keep connections alive (connections.reuse = true), or {more_ports}"),
        );
    }
    if needed > available as f64 {
        return check(ID, Status::Warning, value).because(
            "more connections than ports: the rest of the limit cannot be used",
            more_ports,
        );
    }
    check(ID, Status::Ok, value)
}

fn descriptors(facts: &Facts, demand: &Demand) -> Check {
    const ID: &str = "descriptors";
    let Some(found) = facts.descriptors else { return unknown(ID, "the limit of descriptors") };
    let most = demand.connections().max(demand.descriptors);
    let value = format!(
        "{} needed, {} at the limit of connections, {} allowed (soft limit {}, raised at the start)",
        grouped(demand.descriptors),
        grouped(most),
        grouped(found.hard),
        grouped(found.soft),
    );
    let raise =
        format!("raise the hard limit: ulimit -Hn {most}, or LimitNOFILE={most} in a systemd unit");
    if demand.descriptors > found.hard {
        check(ID, Status::Blocks, value)
            .because("each connection is a descriptor: the rest cannot be opened", raise)
    } else if most > found.hard {
        check(ID, Status::Warning, value).because(
            "each connection is a descriptor: the limit of connections cannot be reached",
            format!("{raise}; or lower that limit"),
        )
    } else {
        check(ID, Status::Ok, value)
    }
}

/// Sockets in TIME_WAIT beyond the limit are closed early, which may reset a late duplicate's
/// connection; at a rate without reuse it is soon reached.
fn time_wait(facts: &Facts, demand: &Demand) -> Option<Check> {
    let max = facts.tw_max?;
    let needed = demand.opened() * TIME_WAIT;
    if needed == 0.0 {
        return None;
    }
    let value = format!("{} in TIME_WAIT in steady use, at most {}", whole(needed), grouped(max));
    Some(if needed <= max as f64 {
        check("time_wait", Status::Ok, value)
    } else {
        check("time_wait", Status::Warning, value).because(
            "the kernel closes the rest early and logs it",
            "keep connections alive (connections.reuse = true)",
        )
    })
}

/// The accept queue of a listener on this host: the gateway's own, or a local target's.
fn accept_queue(facts: &Facts, demand: &Demand) -> Option<Check> {
    const ID: &str = "accept_queue";
    let local = demand.destinations.iter().filter(|to| to.is_local);
    let burst = local.map(|to| to.connections).max().unwrap_or(0).max(demand.accepted);
    if burst == 0 {
        return None;
    }
    let Some(somaxconn) = facts.somaxconn else {
        return Some(unknown(ID, "/proc/sys/net/core/somaxconn"));
    };
    let queue = facts.syn_backlog.map_or(somaxconn, |backlog| backlog.min(somaxconn));
    let value = format!(
        "somaxconn {}, tcp_max_syn_backlog {}; up to {} connections at once",
        grouped(somaxconn),
        facts.syn_backlog.map_or("unknown".into(), grouped),
        grouped(burst),
    );
    Some(if burst <= queue {
        check(ID, Status::Ok, value)
    } else {
        check(ID, Status::Note, value).because(
            "connections that come at the same moment beyond the queue are tried again after 1 s",
            format!(
                "sysctl -w net.core.somaxconn={burst} net.ipv4.tcp_max_syn_backlog={burst}, and \
                 restart the server"
            ),
        )
    })
}

fn conntrack(facts: &Facts, demand: &Demand) -> Option<Check> {
    // Without a rule that needs it, nothing is tracked, although the table exists.
    let is_used = |count: u64| count > 0 || facts.sockets.is_none_or(|found| found.in_use == 0);
    let (count, max) = facts.conntrack.filter(|(count, _)| is_used(*count))?;
    let needed = (demand.opened() * TRACKED).max(demand.connections() as f64) + count as f64;
    let value = format!("{} of {} tracked connections", whole(needed), grouped(max));
    Some(if needed <= max as f64 {
        check("conntrack", Status::Ok, value)
    } else {
        check("conntrack", Status::Blocks, value).because(
            "the kernel drops packets of connections that it cannot track: they time out",
            format!(
                "sysctl -w net.netfilter.nf_conntrack_max={}",
                whole(needed * 1.5).replace(',', "")
            ),
        )
    })
}

fn socket_memory(facts: &Facts, demand: &Demand) -> Check {
    const ID: &str = "socket_memory";
    let Some((pressure, max)) = facts.tcp_pages else {
        return unknown(ID, "/proc/sys/net/ipv4/tcp_mem");
    };
    let used = facts.sockets.map_or(0, |sockets| sockets.pages);
    let needed = used + demand.connections() * PAGES_PER_CONNECTION;
    let value = format!(
        "{} MiB at least, pressure from {} MiB, limit {} MiB",
        needed >> 8,
        pressure >> 8,
        max >> 8,
    );
    if needed <= pressure {
        return check(ID, Status::Ok, value);
    }
    check(ID, Status::Warning, value).because(
        "under pressure the kernel shrinks windows, beyond the limit it drops connections",
        format!("sysctl -w net.ipv4.tcp_mem=\"{needed} {} {}\"", needed * 3 / 2, needed * 2),
    )
}

/// What the rate takes of the CPU, by what a request took in the calibration.
fn cpu(facts: &Facts, demand: &Demand) -> Check {
    const ID: &str = "cpu";
    let quota = facts.cgroup.cpus.filter(|quota| *quota < facts.cpus as f64);
    let cpus = quota.unwrap_or(facts.cpus as f64);
    let named = match quota {
        Some(quota) => format!("{quota} CPUs (the control group's limit)"),
        None if facts.cpus == 1 => "1 CPU".to_string(),
        None => format!("{} CPUs", facts.cpus),
    };
    let Some(each) = demand.cpu_per_request.filter(|_| demand.rate > 0.0) else {
        let status = if quota.is_some() { Status::Note } else { Status::Ok };
        return check(ID, status, named);
    };
    let share = demand.rate * each.as_secs_f64() / cpus;
    let value = format!(
        "{:.0} % of {named} for {}/s, at {each} per request (measured on loopback)",
        share * 100.0,
        whole(demand.rate),
    );
    let most = cpus * CPU_MAX / each.as_secs_f64();
    if share > CPU_MAX {
        return check(ID, Status::Blocks, value).because(
            "requests would be sent late, and the results would reflect the generator",
            format!("lower the rate below {}/s, or use more CPUs or hosts", whole(most)),
        );
    }
    let status = if share > CPU_HIGH { Status::Warning } else { Status::Ok };
    let checked = check(ID, status, value);
    if status == Status::Ok {
        return checked;
    }
    checked.because(
        "little headroom: a target on this host, TLS and large bodies take CPU too",
        format!("this host carries about {}/s", whole(most)),
    )
}

fn memory(facts: &Facts, demand: &Demand) -> Option<Check> {
    let (max, used, what) = match (facts.cgroup.memory_max, facts.memory_available) {
        (Some(max), _) => (max, facts.cgroup.memory_used.unwrap_or(0), "the control group's limit"),
        (None, Some(available)) => (available, 0, "available on this host"),
        (None, None) => return Some(unknown("memory", "/proc/meminfo")),
    };
    // The engine's or gateway's state of a connection, beside the kernel's.
    let needed = demand.memory + demand.connections() * (PAGES_PER_CONNECTION + 2) * 4096;
    let left = max.saturating_sub(used);
    let value = format!("{} MiB at least, {} MiB {what}", needed >> 20, left >> 20);
    Some(if needed <= left {
        check("memory", Status::Ok, value)
    } else {
        check("memory", Status::Warning, value).because(
            "the kernel may kill the process",
            "raise the limit, or lower connections.max or limits.memory",
        )
    })
}

fn steal(observed: &Observed) -> Check {
    let Some(cpu) = observed.cpu.filter(|cpu| cpu.total > 0) else {
        return unknown("steal", "/proc/stat");
    };
    let (steal, busy) = (cpu.share(cpu.steal), 1.0 - cpu.share(cpu.idle));
    let value = format!("{:.1} % stolen, {:.0} % busy", steal * 100.0, busy * 100.0);
    if steal <= STEAL_HIGH && busy <= BUSY_HIGH {
        return check("steal", Status::Ok, value);
    }
    if steal <= STEAL_HIGH {
        return check("steal", Status::Warning, value).because(
            "other programs on this host leave little CPU: requests would be late",
            "stop them, or use another host",
        );
    }
    check("steal", Status::Warning, value).because(
        "other virtual machines take CPU that this one wants: requests are late at random",
        "use a dedicated or larger instance, or another host",
    )
}

fn wake_up(observed: &Observed) -> Check {
    let Some(WakeUp { p50, p99, max }) = observed.wake_up else {
        return check("wake_up", Status::Unknown, "not measured");
    };
    let value =
        format!("a sleeping thread is woken {p50} late at p50, {p99} at p99, {max} at most");
    if p99 <= WAKE_UP_HIGH {
        return check("wake_up", Status::Ok, value);
    }
    check("wake_up", Status::Warning, value).because(
        "requests are late by as much, whatever the target does",
        "stop other load on this host, or use --spin with a core for each worker",
    )
}

fn clock(facts: &Facts) -> Check {
    let Some(name) = &facts.clock_source else {
        return unknown("clock_source", "/sys/devices/system/clocksource");
    };
    let fast = ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"];
    if fast.contains(&name.as_str()) {
        return check("clock_source", Status::Ok, name);
    }
    check("clock_source", Status::Warning, name).because(
        "reading this clock is a system call of a microsecond or more, several times per request",
        "boot with clocksource=tsc if the CPU has a stable one",
    )
}

fn time(facts: &Facts) -> Check {
    match facts.time_synchronised {
        Some(true) => check("time_sync", Status::Ok, "a service keeps the clock synchronised"),
        Some(false) => check("time_sync", Status::Note, "not synchronised").because(
            "the run's start and log lines cannot be matched with other hosts'",
            "start systemd-timesyncd or chrony",
        ),
        None => check("time_sync", Status::Unknown, "no known time service"),
    }
}

fn proxy(demand: &Demand) -> Option<Check> {
    let name = demand.proxy.as_ref()?;
    Some(check("proxy", Status::Note, format!("{name} is set")).because(
        "no proxy is used: the load goes to the target itself",
        "unset it if that is what you want",
    ))
}

fn sockets(facts: &Facts) -> Check {
    match facts.sockets {
        Some(sockets) => check(
            "sockets",
            Status::Ok,
            format!(
                "{} in use, {} in TIME_WAIT",
                grouped(sockets.in_use),
                grouped(sockets.time_wait)
            ),
        ),
        None => unknown("sockets", "/proc/net/sockstat"),
    }
}

#[cfg(test)]
mod tests;
