//! Rules about connections: ports, descriptors, queues, and the kernel's tables and memory for them.

use super::{Check, Demand, Destination, Status, check, unknown, whole};
use crate::{Facts, Ports, TwReuse};
use plimsoll_measure::units::grouped;

/// The first port of a wide range, above those that servers use, and the last port there is.
const FIRST_PORT: u64 = 10_000;
const LAST_PORT: u64 = 65_535;
/// How long a port stays bound after its connection, in seconds, if this side closes first.
const TIME_WAIT: f64 = 60.0;
/// The same with `tcp_tw_reuse`.
const TIME_WAIT_REUSED: f64 = 1.0;
/// How long a closed connection stays tracked, in seconds.
const TRACKED: f64 = 120.0;
/// The least memory of an open connection in the kernel: its socket and small buffers, in pages.
pub(super) const PAGES_PER_CONNECTION: u64 = 2;
/// Accept queues are at least this long, which takes no memory until they fill up, and at most as
/// long as every kernel allows.
const QUEUE: std::ops::RangeInclusive<u64> = 4_096..=65_535;

const PORT_RANGE: &str = "net.ipv4.ip_local_port_range";
const TW_REUSE: &str = "net.ipv4.tcp_tw_reuse";
const SOMAXCONN: &str = "net.core.somaxconn";
const SYN_BACKLOG: &str = "net.ipv4.tcp_max_syn_backlog";
const CONNTRACK_MAX: &str = "net.netfilter.nf_conntrack_max";
const TCP_MEM: &str = "net.ipv4.tcp_mem";

pub(super) fn checks(facts: &Facts, demand: &Demand) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(loopback(facts, demand));
    checks.extend(demand.destinations.iter().map(|to| ports(facts, demand, to)));
    checks.push(descriptors(facts, demand));
    checks.extend(time_wait(facts, demand));
    checks.extend(accept_queue(facts, demand));
    checks.extend(conntrack(facts, demand));
    checks.push(socket_memory(facts, demand));
    checks
}

/// Every connection between two addresses of this host goes through the loopback interface.
fn loopback(facts: &Facts, demand: &Demand) -> Option<Check> {
    let local = demand.destinations.iter().find(|to| to.is_local)?;
    (facts.loopback_up == Some(false)).then(|| {
        check("loopback", Status::Blocks, "the loopback interface is down").because(
            format!("{} is on this host and cannot be reached without it", local.name),
            "ip link set lo up",
        )
    })
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
    let needed = if to.opened > 0.0 { steady.max(to.needed as f64) } else { to.connections as f64 };
    let from = match demand.sources {
        ..=1 => String::new(),
        several => format!(", from {several} source addresses"),
    };
    let value = format!(
        "{} needed for {}, {} available ({}-{}{from})",
        whole(needed),
        to.name,
        grouped(available),
        ports.first,
        ports.last,
    );
    if needed <= available as f64 {
        return check(ID, Status::Ok, value);
    }
    let addresses = (needed / ports.count().max(1) as f64).max(2.0);
    let more = format!("use {} source addresses (connections.source)", whole(addresses));
    let settings: Vec<_> = wider(ports).into_iter().collect();
    if to.needed > available {
        let why = format!(
            "{} connections to {} are open at once, and each needs a port",
            grouped(to.needed),
            to.name,
        );
        let fix = format!("use fewer users, {more}");
        return check(ID, Status::Blocks, value).because(why, fix).with_settings(settings);
    }
    if steady > available as f64 {
        let why = format!(
            "{} connections are opened per second; if this host closes them first, each port stays \
             bound for another {hold} s, and the ports last {:.1} s",
            whole(to.opened),
            available as f64 / to.opened,
        );
        let fix = format!("keep connections alive (connections.reuse = true), {more}");
        let reuse = (!reused).then(|| (TW_REUSE, "1".to_string()));
        let settings = settings.into_iter().chain(reuse).collect();
        return check(ID, Status::Warning, value).because(why, fix).with_settings(settings);
    }
    let why = "there are fewer ports than connections.max, so that limit cannot be reached";
    let fix = format!("lower connections.max, {more}");
    check(ID, Status::Warning, value).because(why, fix).with_settings(settings)
}

/// The setting for a wide range of ports, unless it is wide already. A range that begins lower keeps
/// its beginning.
fn wider(ports: Ports) -> Option<(&'static str, String)> {
    let first = ports.first.min(FIRST_PORT);
    let is_wide = ports.first <= FIRST_PORT && ports.last >= LAST_PORT;
    (!is_wide).then(|| (PORT_RANGE, format!("{first} {LAST_PORT}")))
}

fn descriptors(facts: &Facts, demand: &Demand) -> Check {
    const ID: &str = "descriptors";
    let Some(found) = facts.descriptors else {
        return unknown(ID, "the limit of open file descriptors");
    };
    let most = demand.connections().max(demand.descriptors);
    let value = format!(
        "{} needed in any case, {} at the connection limit, {} allowed",
        grouped(demand.descriptors),
        grouped(most),
        grouped(found.hard),
    );
    let raise = |to| {
        format!("raise the hard limit: ulimit -Hn {to}, or LimitNOFILE={to} in a systemd unit")
    };
    let (status, why, fix) = if demand.descriptors > found.hard {
        let why = "each connection needs a file descriptor, and there are too few for this load";
        (Status::Blocks, why, format!("use fewer users, or {}", raise(demand.descriptors)))
    } else if most > found.hard {
        let why =
            "each connection needs a file descriptor, so the connection limit cannot be reached";
        (Status::Warning, why, format!("lower the connection limit, or {}", raise(most)))
    } else {
        return check(ID, Status::Ok, value);
    };
    Check { descriptors: Some(most), ..check(ID, status, value).because(why, fix) }
}

/// Sockets in TIME_WAIT beyond the limit are closed early, which may reset a late duplicate's
/// connection; at a rate without reuse it is soon reached.
fn time_wait(facts: &Facts, demand: &Demand) -> Option<Check> {
    let max = facts.tw_max?;
    let needed = demand.opened() * TIME_WAIT;
    if needed == 0.0 {
        return None;
    }
    let value = format!("up to {} sockets in TIME_WAIT, {} allowed", whole(needed), grouped(max));
    Some(if needed <= max as f64 {
        check("time_wait", Status::Ok, value)
    } else {
        check("time_wait", Status::Warning, value).because(
            "the kernel closes the rest early and logs an error",
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
    let value = format!(
        "somaxconn {}, tcp_max_syn_backlog {}; up to {} connections may arrive at once",
        grouped(somaxconn),
        facts.syn_backlog.map_or("unknown".into(), grouped),
        grouped(burst),
    );
    let enough = burst.min(*QUEUE.end());
    let wanted = burst.next_power_of_two().clamp(*QUEUE.start(), *QUEUE.end()).to_string();
    let limits = [(SOMAXCONN, Some(somaxconn)), (SYN_BACKLOG, facts.syn_backlog)];
    let short = limits.into_iter().filter(|(_, now)| now.is_some_and(|now| now < enough));
    let settings: Vec<_> = short.map(|(key, _)| (key, wanted.clone())).collect();
    Some(if settings.is_empty() {
        check(ID, Status::Ok, value)
    } else {
        check(ID, Status::Note, value)
            .because("a connection that finds the queue full is tried again only after 1 s", "")
            .with_settings(settings)
            .followed_by("then restart the server")
    })
}

fn conntrack(facts: &Facts, demand: &Demand) -> Option<Check> {
    // Without a rule that needs it, nothing is tracked, although the table exists.
    let is_used = |count: u64| count > 0 || facts.sockets.is_none_or(|found| found.in_use == 0);
    let (count, max) = facts.conntrack.filter(|(count, _)| is_used(*count))?;
    let needed = (demand.opened() * TRACKED).max(demand.connections() as f64) + count as f64;
    let value = format!("up to {} tracked connections, {} allowed", whole(needed), grouped(max));
    if needed <= max as f64 {
        return Some(check("conntrack", Status::Ok, value));
    }
    let certain = demand.destinations.iter().map(|to| to.needed).sum::<u64>() + count;
    let status = if certain > max { Status::Blocks } else { Status::Warning };
    let enough = ((needed * 1.5).ceil() as u64).to_string();
    let why = "the kernel drops packets of connections that it cannot track, so they time out";
    let settings = vec![(CONNTRACK_MAX, enough)];
    Some(check("conntrack", status, value).because(why, "").with_settings(settings))
}

fn socket_memory(facts: &Facts, demand: &Demand) -> Check {
    const ID: &str = "socket_memory";
    let Some((pressure, max)) = facts.tcp_pages else {
        return unknown(ID, "/proc/sys/net/ipv4/tcp_mem");
    };
    let used = facts.sockets.map_or(0, |sockets| sockets.pages);
    let needed = used + demand.connections() * PAGES_PER_CONNECTION;
    let value = format!(
        "at least {} MiB needed; memory pressure begins at {} MiB, the limit is {} MiB",
        needed >> 8,
        pressure >> 8,
        max >> 8,
    );
    if needed <= pressure {
        return check(ID, Status::Ok, value);
    }
    let why = "under pressure the kernel shrinks windows; at the limit it drops connections";
    let enough = format!("{needed} {} {}", needed * 3 / 2, needed * 2);
    check(ID, Status::Warning, value).because(why, "").with_settings(vec![(TCP_MEM, enough)])
}
