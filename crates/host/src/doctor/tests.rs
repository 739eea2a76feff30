//! Tables of facts and demands, and what is found.

use super::*;
use crate::{Cgroup, Descriptors, Ports, TwReuse};
use plimsoll_measure::Sockets;

fn facts() -> Facts {
    Facts {
        kernel: Some("6.12.0".into()),
        ports: Some(Ports { first: 32_768, last: 60_999, reserved: 0 }),
        tw_reuse: Some(TwReuse::Loopback),
        tw_max: Some(131_072),
        somaxconn: Some(4_096),
        syn_backlog: Some(2_048),
        sockets: Some(Sockets { in_use: 10, established: 1, time_wait: 5, orphans: 0, pages: 100 }),
        tcp_pages: Some((383_867, 575_796)),
        descriptors: Some(Descriptors { soft: 1_024, hard: 1_048_576, open: 10 }),
        conntrack: None,
        loopback_up: Some(true),
        cpus: 2,
        cgroup: Cgroup::default(),
        memory_available: Some(8 << 30),
        clock_source: Some("tsc".into()),
        time_synchronised: Some(true),
    }
}

fn demand() -> Demand {
    let name = "10.0.0.1:80".to_string();
    let to = Destination { name, is_local: false, connections: 2_000, needed: 10, opened: 0.0 };
    Demand {
        destinations: vec![to],
        sources: 1,
        rate: 5_000.0,
        descriptors: 20,
        cpu_per_request: Some(Nanos(10_000)),
        ..Demand::default()
    }
}

fn observed() -> Observed {
    let cpu = CpuTimes { total: 1_000, idle: 900, steal: 1, softirq: 5 };
    let wake_up = WakeUp { p50: Nanos(60_000), p99: Nanos(300_000), max: Nanos::from_millis(2) };
    Observed { cpu: Some(cpu), wake_up: Some(wake_up) }
}

/// Checks one finding of an otherwise good host and demand.
fn check(
    change: impl FnOnce(&mut Facts, &mut Observed, &mut Demand),
    id: &str,
    status: Status,
    parts: &[&str],
) {
    let (mut facts, mut observed, mut demand) = (facts(), observed(), demand());
    change(&mut facts, &mut observed, &mut demand);
    let checks = examine(&facts, &observed, &demand);
    let found = checks.iter().find(|check| check.id == id).unwrap_or_else(|| panic!("no {id}"));
    assert_eq!(found.status, status, "{found:?}");
    for part in parts {
        let text = format!("{} | {} | {}", found.value, found.why, found.fix);
        assert!(text.contains(part), "{part} is not in {text}");
    }
    if status >= Status::Warning {
        assert!(!found.why.is_empty() && !found.fix.is_empty(), "{found:?}");
    }
    let worst = checks.iter().map(|check| check.status).max();
    assert_eq!(checks.first().map(|check| check.status), worst, "the worst first");
}

#[test]
fn a_good_host_has_nothing_to_change() {
    let checks = examine(&facts(), &observed(), &demand());
    assert!(checks.iter().all(|check| check.status == Status::Ok), "{checks:#?}");
}

#[test]
fn ports() {
    let id = "ephemeral_ports";
    check(
        |_, _, _| {},
        id,
        Status::Ok,
        &["2,000 needed for 10.0.0.1:80, 28,232 available (32768-60999)"],
    );
    // The background's test: 5,000 new connections per second, 60 s in TIME_WAIT.
    let reopen = |demand: &mut Demand| demand.destinations[0].opened = 5_000.0;
    check(
        |_, _, demand| reopen(demand),
        id,
        Status::Warning, // if the target closes first, the ports are free at once
        &["300,000 needed for", "the ports last 5.6 s", "11 source addresses", "tw_reuse=1"],
    );
    // with reuse after a second they suffice
    check(
        |facts, _, demand| {
            reopen(demand);
            facts.tw_reuse = Some(TwReuse::Always);
        },
        id,
        Status::Ok,
        &["5,000 needed for"],
    );
    check(
        |_, _, demand| {
            reopen(demand);
            demand.destinations[0].is_local = true;
        },
        id,
        Status::Ok,
        &[],
    );
    // 11 addresses suffice, 10 do not
    let from = |sources| {
        move |_: &mut Facts, _: &mut Observed, demand: &mut Demand| {
            demand.destinations[0].opened = 5_000.0;
            demand.sources = sources;
        }
    };
    check(from(10), id, Status::Warning, &["10 source addresses"]);
    check(from(11), id, Status::Ok, &["11 source addresses"]);
    check(
        |_, _, demand| demand.destinations[0].connections = 40_000,
        id,
        Status::Warning,
        &["40,000 needed for", "2 source addresses", "ip_local_port_range=\"10000 65535\""],
    );
    let open_at_once = |needed| {
        move |_: &mut Facts, _: &mut Observed, demand: &mut Demand| {
            let to = &mut demand.destinations[0];
            (to.connections, to.needed) = (40_000, needed);
        }
    };
    check(open_at_once(28_232), id, Status::Warning, &[]);
    check(open_at_once(28_233), id, Status::Blocks, &["28,233 connections", "fewer users"]);
    check(|facts, _, _| facts.ports = None, id, Status::Unknown, &["ip_local_port_range"]);
}

#[test]
fn descriptors() {
    let limit = |hard| {
        move |facts: &mut Facts, _: &mut Observed, _: &mut Demand| {
            facts.descriptors = Some(Descriptors { soft: 64, hard, open: 5 });
        }
    };
    check(
        limit(2_000),
        "descriptors",
        Status::Ok,
        &["20 needed in any case, 2,000 at the connection limit"],
    );
    check(
        limit(1_999),
        "descriptors",
        Status::Warning,
        &["ulimit -Hn 2000", "lower the connection limit"],
    );
    check(limit(19), "descriptors", Status::Blocks, &["too few for this load", "ulimit -Hn 20,"]);
}

#[test]
fn queues_and_tables() {
    let local = |connections| {
        move |_: &mut Facts, _: &mut Observed, demand: &mut Demand| {
            demand.destinations[0].is_local = true;
            demand.destinations[0].connections = connections;
        }
    };
    check(local(2_000), "accept_queue", Status::Ok, &[]);
    check(local(3_000), "accept_queue", Status::Note, &["tcp_max_syn_backlog=4096, then restart"]);
    let tracked = |count| {
        move |facts: &mut Facts, _: &mut Observed, _: &mut Demand| {
            facts.conntrack = Some((count, 4_000));
        }
    };
    check(
        tracked(2_000),
        "conntrack",
        Status::Ok,
        &["up to 4,000 tracked connections, 4,000 allowed"],
    );
    check(tracked(2_001), "conntrack", Status::Warning, &["nf_conntrack_max=6002"]);
    check(tracked(3_991), "conntrack", Status::Blocks, &["so they time out"]);
    check(
        |_, _, demand| demand.destinations[0].opened = 5_000.0,
        "time_wait",
        Status::Warning,
        &["300,000 sockets in TIME_WAIT", "131,072"],
    );
    check(
        |facts, _, _| facts.tcp_pages = Some((4_000, 6_000)),
        "socket_memory",
        Status::Warning,
        &["tcp_mem=\"4100 6150 8200\""],
    );
}

#[test]
fn a_loopback_interface_that_is_down_blocks_local_targets() {
    let down = |facts: &mut Facts, demand: &mut Demand, is_local| {
        facts.loopback_up = Some(false);
        demand.destinations[0].is_local = is_local;
    };
    let fix = &["10.0.0.1:80 is on this host", "ip link set lo up"];
    check(|facts, _, demand| down(facts, demand, true), "loopback", Status::Blocks, fix);
    let (mut facts, mut demand) = (facts(), demand());
    down(&mut facts, &mut demand, false);
    assert_eq!(blocking(&examine(&facts, &observed(), &demand)).count(), 0);
}

#[test]
fn cpu_and_memory() {
    // 10 µs each on 2 CPUs: 200,000/s at most, 90 % of which are usable.
    let rate =
        |rate| move |_: &mut Facts, _: &mut Observed, demand: &mut Demand| demand.rate = rate;
    check(rate(50_000.0), "cpu", Status::Ok, &["25 % of 2 CPUs for 50,000/s, at 10µs per request"]);
    check(rate(110_000.0), "cpu", Status::Warning, &["well below 180,000/s"]);
    check(rate(190_000.0), "cpu", Status::Blocks, &["below 180,000/s"]);
    check(
        |facts, _, demand| {
            facts.cgroup.cpus = Some(0.5);
            demand.rate = 50_000.0;
        },
        "cpu",
        Status::Blocks,
        &["100 % of 0.5 CPUs (the control group's limit)"],
    );
    check(
        |facts, _, _| {
            (facts.cgroup.memory_max, facts.cgroup.memory_used) = (Some(24 << 20), Some(0))
        },
        "memory",
        Status::Warning,
        &["at least 31 MiB needed, 24 MiB left of the control group's limit"],
    );
}

#[test]
fn what_the_host_does_to_timing() {
    check(
        |_, observed, _| {
            observed.cpu = Some(CpuTimes { total: 100, idle: 50, steal: 5, softirq: 0 })
        },
        "steal",
        Status::Warning,
        &["5.0 % of the CPU stolen by other virtual machines, 50 % busy"],
    );
    check(
        |_, observed, _| {
            observed.wake_up = Some(WakeUp {
                p99: Nanos::from_millis(9),
                max: Nanos::from_millis(30),
                ..WakeUp::default()
            });
        },
        "wake_up",
        Status::Warning,
        &["9ms at p99", "--spin"],
    );
    check(
        |facts, _, _| facts.clock_source = Some("acpi_pm".into()),
        "clock_source",
        Status::Warning,
        &["acpi_pm", "clocksource=tsc"],
    );
    check(
        |facts, _, _| facts.time_synchronised = Some(false),
        "time_sync",
        Status::Note,
        &["chrony"],
    );
}

#[test]
fn nothing_that_cannot_be_read_is_judged() {
    let unknown = Facts { cpus: 2, ..Facts::default() };
    let checks = examine(&unknown, &Observed::default(), &demand());
    assert!(checks.iter().all(|check| check.status <= Status::Unknown), "{checks:#?}");
    assert!(checks.iter().filter(|check| check.status == Status::Unknown).count() >= 6);
}
