//! What a plan or a gateway asks of its host.
//!
//! A demand is computed without any lookup, so that a run can be checked at once; [`resolve`] adds what
//! only the resolver knows.

use crate::proxy;
use anyhow::Context;
use plimsoll_config::{Document, Variables};
use plimsoll_engine::descriptors_needed;
use plimsoll_host::doctor::{Check, Demand, Destination, Status};
use plimsoll_measure::Nanos;
use plimsoll_plan::{Load, Origin, Plan, Stream};
use plimsoll_registry::config::Config;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;

/// What a plan asks for, if it runs with as many workers as were asked for (0: as needed).
pub(crate) fn of_plan(plan: &Plan, workers: usize) -> Demand {
    let rules = &plan.connections;
    let origins = plan.origins();
    let destinations = origins.iter().map(|origin| Destination {
        name: format!("{}:{}", origin.host, origin.port),
        is_local: is_loopback(&origin.host),
        connections: plan.connection_limit(origin).0,
        needed: open_at_once(plan, origin),
        opened: if rules.reuse { 0.0 } else { rate_to(plan, origin) },
    });
    Demand {
        destinations: destinations.collect(),
        sources: rules.sources.len().max(1) as u64,
        accepted: 0,
        rate: plan.streams.iter().map(open_rate).sum(),
        descriptors: descriptors_needed(plan, workers),
        cpu_per_request: None,
        // The program, and the histograms of the statistics' names.
        memory: (32 << 20) + ((plan.targets.len() as u64) << 15),
        proxy: proxy::unused(&origins).map(|(name, _)| name.to_string()),
    }
}

/// What a plan with the default limits asks for, if it sends to another host.
pub(super) fn of_default_plan() -> anyhow::Result<Demand> {
    const TEXT: &str =
        "users = 10\nduration = \"10s\"\n[[target]]\nrequest = \"GET http://host/\"\n";
    let document = Document::new("default", TEXT);
    let plan = Plan::read(&document, &Variables::default(), Path::new("."));
    let plan =
        plan.map_err(|problems| anyhow::anyhow!("{problems}")).context("the default plan")?;
    let mut demand = of_plan(&plan, 0);
    demand.destinations.iter_mut().for_each(|to| to.name = "another host".into());
    Ok(demand)
}

/// What a gateway asks for.
pub(super) fn of_gateway(config: &Config) -> Demand {
    let limits = &config.settings.limits;
    let upstreams = config.instances.iter().chain(&config.definitions.upstreams);
    let destinations = upstreams.map(|upstream| {
        let address = &upstream.address;
        Destination {
            name: format!("{}:{}", address.host, address.port),
            is_local: is_loopback(&address.host),
            connections: limits.upstream_connections as u64,
            needed: 0,
            opened: 0.0,
        }
    });
    Demand {
        destinations: destinations.collect(),
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
fn open_rate(stream: &Stream) -> f64 {
    match &stream.load {
        Load::Open { profile, .. } => profile.max(),
        Load::Closed { .. } => 0.0,
    }
}

/// Connections that are open to an origin at the same time in any case: those of users who send all
/// their requests to it without a pause.
fn open_at_once(plan: &Plan, origin: &Origin) -> u64 {
    let goes_here = |stream: &&Stream| {
        let targets = &plan.targets[stream.targets.clone()];
        let mut requests =
            targets.iter().flat_map(|target| &plan.requests[target.requests.clone()]);
        requests.all(|request| request.origin() == *origin)
    };
    let users = plan.streams.iter().filter(goes_here).map(|stream| match &stream.load {
        Load::Closed { profile, think_time: Nanos::ZERO } if stream.start == Nanos::ZERO => {
            profile.max().ceil() as u64
        }
        Load::Closed { .. } | Load::Open { .. } => 0,
    });
    let (max, each) = plan.connection_limit(origin);
    users.sum::<u64>().div_ceil(each).min(max)
}

/// Requests per second to an origin at most, by the weights of the targets.
fn rate_to(plan: &Plan, origin: &Origin) -> f64 {
    let share = |stream: &Stream| {
        let (mut own, mut all) = (0.0, 0.0);
        for target in &plan.targets[stream.targets.clone()] {
            let requests = &plan.requests[target.requests.clone()];
            let to = requests.iter().filter(|request| request.origin() == *origin).count();
            all += f64::from(target.weight);
            own += f64::from(target.weight) * to as f64 / requests.len().max(1) as f64;
        }
        own / f64::max(all, 1.0)
    };
    plan.streams.iter().map(|stream| open_rate(stream) * share(stream)).sum()
}

/// Finds out which destinations are on this host; returns a check for each one without an address.
pub(super) fn resolve(demand: &mut Demand) -> Vec<Check> {
    let mut unresolved = Vec::new();
    for to in &mut demand.destinations {
        match to.name.to_socket_addrs().map(|mut addresses| addresses.next()) {
            Ok(Some(address)) => to.is_local = is_local(address.ip()),
            other => {
                let why = other.err().map_or("no address".into(), |error| error.to_string());
                unresolved.push(Check {
                    id: "dns",
                    status: Status::Blocks,
                    value: format!("cannot resolve {}: {why}", to.name),
                    why: "no connection can be opened to it".into(),
                    fix: "check the host name, DNS and /etc/hosts".into(),
                    settings: Vec::new(),
                    descriptors: None,
                });
            }
        }
    }
    unresolved
}

/// Whether a host is known to be this one without a lookup.
fn is_loopback(host: &str) -> bool {
    let literal = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || literal.is_ok_and(|ip| ip.is_loopback())
}

/// Whether an address is one of this host's: only these can be bound.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}
