//! What a plan or a gateway asks of its host.

use crate::proxy;
use plimsoll_engine::descriptors_needed;
use plimsoll_host::doctor::{Check, Demand, Destination, Status};
use plimsoll_plan::{Load, Origin, Plan};
use plimsoll_registry::config::Config;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};

/// What a plan asks for.
pub(super) fn of_plan(plan: &Plan, unresolved: &mut Vec<Check>) -> Demand {
    let rules = &plan.connections;
    let origins = plan.origins();
    let destinations = origins.iter().map(|origin| {
        let (name, is_local) = resolve(&origin.host, origin.port, unresolved);
        let opened = if rules.reuse { 0.0 } else { rate_to(plan, origin) };
        Destination { name, is_local, connections: rules.max, opened }
    });
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    Demand {
        destinations: destinations.collect(),
        sources: rules.sources.len().max(1) as u64,
        accepted: 0,
        rate: plan.streams.iter().map(open_rate).sum(),
        descriptors: descriptors_needed(plan, cpus),
        cpu_per_request: None,
        // The program, and the histograms of the statistics' names.
        memory: (32 << 20) + ((plan.targets.len() as u64) << 15),
        proxy: proxy::unused(&origins).map(|(name, _)| name.to_string()),
    }
}

/// What a gateway asks for.
pub(super) fn of_gateway(config: &Config, unresolved: &mut Vec<Check>) -> Demand {
    let limits = &config.settings.limits;
    let upstreams = config.instances.iter().chain(&config.definitions.upstreams);
    let destinations: Vec<Destination> = upstreams
        .map(|upstream| {
            let address = &upstream.address;
            let (name, is_local) = resolve(&address.host, address.port, unresolved);
            let connections = limits.upstream_connections as u64;
            Destination { name, is_local, connections, opened: 0.0 }
        })
        .collect();
    Demand {
        destinations,
        sources: 1,
        accepted: limits.connections as u64,
        rate: 0.0,
        descriptors: 64,
        cpu_per_request: None,
        memory: limits.memory + (64 << 20),
        proxy: None,
    }
}

/// The highest rate of an open stream.
fn open_rate(stream: &plimsoll_plan::Stream) -> f64 {
    match &stream.load {
        Load::Open { profile, .. } => profile.max(),
        Load::Closed { .. } => 0.0,
    }
}

/// Requests per second to an origin at most, by the weights of the targets.
fn rate_to(plan: &Plan, origin: &Origin) -> f64 {
    let share = |stream: &plimsoll_plan::Stream| {
        let (mut own, mut all) = (0.0, 0.0);
        for target in &plan.targets[stream.targets.clone()] {
            let requests = &plan.requests[target.requests.clone()];
            let to = requests.iter().filter(|request| request.url.origin() == *origin).count();
            all += f64::from(target.weight);
            own += f64::from(target.weight) * to as f64 / requests.len().max(1) as f64;
        }
        own / f64::max(all, 1.0)
    };
    plan.streams.iter().map(|stream| open_rate(stream) * share(stream)).sum()
}

/// A destination's name, and whether it is on this host. Adds a check if it has no address.
fn resolve(host: &str, port: u16, unresolved: &mut Vec<Check>) -> (String, bool) {
    let name = format!("{host}:{port}");
    let addresses = (host.trim_matches(['[', ']']), port).to_socket_addrs();
    let ip = match addresses.map(|mut addresses| addresses.next()) {
        Ok(Some(address)) => address.ip(),
        other => {
            let why = other.err().map_or("it has no addresses".into(), |error| error.to_string());
            unresolved.push(Check {
                id: "dns",
                status: Status::Blocks,
                value: format!("{host} cannot be resolved: {why}"),
                why: "no connection can be opened".into(),
                fix: "check the name, or /etc/hosts".into(),
            });
            return (name, false);
        }
    };
    (name, is_local(ip))
}

/// Whether an address is one of this host's: only these can be bound.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}
