//! What on this host would spoil a load, and by how much: facts against a demand, as pure rules.
//!
//! Each rule gives one [`Check`] with the number, why it matters for this demand, and the fix. A fact
//! that could not be read is reported as unknown, and judges nothing. Kernel settings that would be
//! enough are part of the check, so that the doctor advises what [`crate::tune`] changes.
//!
//! [`Status::Blocks`] is for what cannot work: `plimsoll run` refuses to start then. What may work,
//! depending on the target or on the limits that are reached, is a warning.

mod network;

use crate::{Facts, WakeUp};
use network::PAGES_PER_CONNECTION;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{CpuTimes, Nanos};

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
    /// Of these, connections that are open at the same time in any case.
    pub needed: u64,
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
    /// Kernel settings that would be enough, as `sysctl` names them; empty if none helps.
    pub settings: Vec<(&'static str, String)>,
    /// A limit of descriptors per process that would be enough, if the limit is too low.
    pub descriptors: Option<u64>,
}

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
    checks.extend(network::checks(facts, demand));
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

/// The checks that show that the load cannot be carried.
pub fn blocking(checks: &[Check]) -> impl Iterator<Item = &Check> {
    checks.iter().filter(|check| check.status == Status::Blocks)
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
    let (value, why, fix) = (value.into(), String::new(), String::new());
    Check { id, status, value, why, fix, settings: Vec::new(), descriptors: None }
}

impl Check {
    fn because(self, why: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { why: why.into(), fix: fix.into(), ..self }
    }

    /// Adds a step to the fix.
    fn followed_by(self, step: &str) -> Check {
        Check { fix: format!("{}, {step}", self.fix), ..self }
    }

    /// Adds kernel settings that would be enough, and the command for them to the fix.
    fn with_settings(self, settings: Vec<(&'static str, String)>) -> Check {
        if settings.is_empty() {
            return self;
        }
        let each = settings.iter().map(|(key, value)| {
            let quote = if value.contains(' ') { "\"" } else { "" };
            format!("{key}={quote}{value}{quote}")
        });
        let command = format!("sysctl -w {}", each.collect::<Vec<_>>().join(" "));
        let fix = [self.fix.as_str(), command.as_str()].into_iter().filter(|part| !part.is_empty());
        Check { fix: fix.collect::<Vec<_>>().join(", or: "), settings, ..self }
    }
}

fn unknown(id: &'static str, file: &str) -> Check {
    check(id, Status::Unknown, format!("cannot read {file}"))
}

fn whole(number: f64) -> String {
    grouped(number.ceil() as u64)
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
            "requests would be sent late, and the results would describe this host instead of the target",
            format!("lower the rate below {}/s, or use more CPUs or hosts", whole(most)),
        );
    }
    let status = if share > CPU_HIGH { Status::Warning } else { Status::Ok };
    let checked = check(ID, status, value);
    if status == Status::Ok {
        return checked;
    }
    checked.because(
        "there is little headroom: TLS, large bodies and a target on this host use CPU as well",
        format!("stay well below {}/s, the most this host can send", whole(most)),
    )
}

fn memory(facts: &Facts, demand: &Demand) -> Option<Check> {
    let (max, used, what) = match (facts.cgroup.memory_max, facts.memory_available) {
        (Some(max), _) => (max, facts.cgroup.memory_used.unwrap_or(0), "the control group's limit"),
        (None, Some(available)) => (available, 0, "this host's memory"),
        (None, None) => return Some(unknown("memory", "/proc/meminfo")),
    };
    // The engine's or gateway's state of a connection, beside the kernel's.
    let needed = demand.memory + demand.connections() * (PAGES_PER_CONNECTION + 2) * 4096;
    let left = max.saturating_sub(used);
    let value = format!("at least {} MiB needed, {} MiB left of {what}", needed >> 20, left >> 20);
    Some(if needed <= left {
        check("memory", Status::Ok, value)
    } else {
        check("memory", Status::Warning, value).because(
            "the kernel may kill the process when memory runs out",
            "raise the limit, or lower connections.max or limits.memory",
        )
    })
}

fn steal(observed: &Observed) -> Check {
    let Some(cpu) = observed.cpu.filter(|cpu| cpu.total > 0) else {
        return unknown("steal", "/proc/stat");
    };
    let (steal, busy) = (cpu.share(cpu.steal), 1.0 - cpu.share(cpu.idle));
    let value = format!(
        "{:.1} % of the CPU stolen by other virtual machines, {:.0} % busy",
        steal * 100.0,
        busy * 100.0
    );
    if steal <= STEAL_HIGH && busy <= BUSY_HIGH {
        return check("steal", Status::Ok, value);
    }
    if steal <= STEAL_HIGH {
        return check("steal", Status::Warning, value).because(
            "other programs on this host leave little CPU, so requests would be sent late",
            "stop them, or use another host",
        );
    }
    check("steal", Status::Warning, value).because(
        "other virtual machines take CPU time from this one, so requests are sent late at random",
        "use a dedicated or larger instance, or another host",
    )
}

fn wake_up(observed: &Observed) -> Check {
    let Some(WakeUp { p50, p99, max }) = observed.wake_up else {
        return check("wake_up", Status::Unknown, "not measured");
    };
    let value =
        format!("a sleeping thread wakes up {p50} late at p50, {p99} at p99, {max} at most");
    if p99 <= WAKE_UP_HIGH {
        return check("wake_up", Status::Ok, value);
    }
    check("wake_up", Status::Warning, value).because(
        "requests are sent late by that much, whatever the target does",
        "stop other load on this host, or use --spin with a free core for each worker",
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
        "each reading is a system call of a microsecond or more, and a request needs several",
        "boot with clocksource=tsc if the CPU has a stable one",
    )
}

fn time(facts: &Facts) -> Check {
    match facts.time_synchronised {
        Some(true) => check("time_sync", Status::Ok, "a service keeps the clock synchronised"),
        Some(false) => check("time_sync", Status::Note, "not synchronised").because(
            "the run's start time and log lines cannot be compared with those of other hosts",
            "start systemd-timesyncd or chronyd",
        ),
        None => check("time_sync", Status::Unknown, "no known time service is running"),
    }
}

fn proxy(demand: &Demand) -> Option<Check> {
    let name = demand.proxy.as_ref()?;
    Some(check("proxy", Status::Note, format!("{name} is set")).because(
        "plimsoll uses no proxy: the load goes directly to the target",
        "to go through the proxy, use its address as the target",
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
