//! What a run asks of this host before it starts: the doctor's certain checks, and a connection limit that
//! the local ports can carry.

use crate::{blocked, doctor};
use plimsoll_engine::Settings;
use plimsoll_host::doctor::{Observed, blocking, examine};
use plimsoll_host::{Facts, Source};
use plimsoll_measure::units::{counted, grouped};
use plimsoll_plan::{Load, Part, Plan, Protocol, SHARDS, Stream};

/// Lowers a connection limit that the plan leaves to its default to the local ports towards one
/// destination: with more, connecting would fail instead of waiting. Returns a note about it.
pub(crate) fn fit_connections(plan: &mut Plan, facts: &Facts) -> Option<String> {
    if plan.protocol == Protocol::Http2 {
        return None;
    }
    let rules = &mut plan.connections;
    let ports = facts.ports?.count() * rules.sources.len().max(1) as u64;
    if !rules.max_is_default || rules.max <= ports || ports == 0 {
        return None;
    }
    rules.max = ports;
    Some(format!(
        "note: connections.max is {}, since this host has {} for each destination \
         (net.ipv4.ip_local_port_range)",
        grouped(ports),
        counted(ports, "local port")
    ))
}

/// Raises the limit of descriptors, and makes the doctor's checks that need neither time nor a lookup.
/// With [`Settings::force`], the run starts regardless, and its report lists what was found.
///
/// # Errors
/// This host cannot carry the plan's load.
pub(crate) fn check(plan: &Plan, mut settings: Settings) -> anyhow::Result<Settings> {
    // Each connection needs a descriptor.
    plimsoll_host::raise_descriptor_limit();
    let demand = doctor::of_plan(plan, settings.workers);
    let checks = examine(&Facts::read(&Source::host()), &Observed::default(), &demand);
    let found: Vec<_> = blocking(&checks).collect();
    if !settings.force && !found.is_empty() {
        let each = found.iter().map(|check| {
            format!("\n  {}: {}\n  {}\n  fix: {}", check.id, check.value, check.why, check.fix)
        });
        let each: String = each.collect();
        let message = format!("this host cannot carry the plan's load; nothing was sent{each}");
        return Err(blocked(message, "--force runs the plan regardless"));
    }
    settings.forced =
        found.iter().map(|check| format!("{} ({})", check.value, check.why)).collect();
    Ok(settings)
}

/// What prevents this host from carrying a part of a plan's load: each finding with its fix.
pub(crate) fn blocking_part(plan: &Plan, part: &Part) -> Vec<(String, String)> {
    plimsoll_host::raise_descriptor_limit();
    let mut demand = doctor::of_plan(plan, 0);
    let share = share_of(plan, part);
    let scaled = |n: u64| (n as f64 * share).ceil() as u64;
    demand.rate *= share;
    demand.descriptors = scaled(demand.descriptors);
    for destination in &mut demand.destinations {
        destination.needed = scaled(destination.needed);
        destination.opened *= share;
    }
    let checks = examine(&Facts::read(&Source::host()), &Observed::default(), &demand);
    let found = blocking(&checks);
    found
        .map(|check| (format!("{}: {}: {}", check.id, check.value, check.why), check.fix.clone()))
        .collect()
}

/// A part's share of a plan's load, 0 to 1.
fn share_of(plan: &Plan, part: &Part) -> f64 {
    let peak = |stream: &Stream| match &stream.load {
        Load::Open { profile, .. } | Load::Closed { profile, .. } => profile.max(),
    };
    let all: f64 = plan.streams.iter().map(peak).sum();
    let own = plan.streams.iter().zip(part.streams());
    let own = own.map(|(stream, shards)| peak(stream) * shards.len() as f64 / SHARDS as f64);
    own.sum::<f64>() / all.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_config::{Document, Variables};
    use plimsoll_host::Ports;
    use std::path::Path;

    #[test]
    fn default_connection_limits_fit_the_ports() {
        let check = |connections: &str, ports: Option<u64>, expected: u64, noted: bool| {
            let text = format!(
                "rate = \"1/s\"\nduration = \"1s\"\n{connections}\n[[target]]\nrequest = \"GET http://h/\"\n"
            );
            let document = Document::new("plan.toml", &text);
            let mut plan = Plan::read(&document, &Variables::none(), Path::new(".")).unwrap();
            let ports = ports.map(|n| Ports { first: 10_000, last: 9_999 + n, reserved: 0 });
            let note = fit_connections(&mut plan, &Facts { ports, ..Facts::default() });
            assert_eq!((plan.connections.max, note.is_some()), (expected, noted), "{text}");
        };
        check("", Some(20_000), 2_000, false);
        check("", Some(100), 100, true);
        check("", None, 2_000, false);
        check("connections = { source = [\"127.0.0.1\", \"127.0.0.2\"] }", Some(100), 200, true);
        // A limit that the plan sets is the user's decision.
        check("connections = { max = 500 }", Some(100), 500, false);
    }
}
