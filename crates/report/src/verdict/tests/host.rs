//! Why the generator was late, and what TCP counters explain.

use super::*;
use plimsoll_measure::{CpuTimes, HostSample, Tally, TcpCounter, ThreadTime, Throttled, Usage};

/// A worker's second: its CPU time and its run delay, in milliseconds.
fn worker(cpu: u64, run_delay: u64) -> ThreadTime {
    ThreadTime { cpu: millis(cpu), run_delay: millis(run_delay), preempted: 0 }
}

/// A run in which `late` of 103 arrivals in each of three seconds are 30 ms late, on this host. The busiest
/// worker was awake for `awake` milliseconds.
fn late_on(late: u64, awake: u64, host: &HostSample) -> Verdict {
    verdict_of(|filled| {
        filled.answered(0, late, [millis(30), ZERO, millis(20)]);
        filled.snapshot.workers.busy_max = millis(awake);
        filled.snapshot.workers.pause_max = millis(30);
        filled.snapshot.host = host.clone();
    })
}

#[test]
fn lateness_has_a_cause() {
    let generator = Some(Side::Generator);
    let calm =
        HostSample { workers: vec![worker(300, 2), worker(280, 1)], ..HostSample::default() };
    let with_workers =
        |workers: &[ThreadTime]| HostSample { workers: workers.into(), ..calm.clone() };
    let throttled = |ms: u64, host: &HostSample| HostSample {
        throttled: Some(Throttled { periods: 4, time: millis(ms) }),
        ..host.clone()
    };
    let steal = |steal: u64| HostSample {
        cpus: Some(CpuTimes { total: 200, idle: 100, steal, softirq: 0 }),
        ..calm.clone()
    };
    // What the host did, how long the busiest worker was awake in ms, and the findings' ids.
    let rows: [(&str, HostSample, u64, &str); 9] = [
        ("nothing known", HostSample::default(), 0, "lag_high"),
        ("a stopped process", calm.clone(), 300, "host_noise lag_high"),
        (
            "awake, but without a CPU",
            with_workers(&[worker(300, 600)]),
            950,
            "cpu_contended lag_high",
        ),
        (
            "the second worker's neighbour",
            with_workers(&[worker(99, 0), worker(300, 40)]),
            300,
            "cpu_contended lag_high",
        ),
        ("an overloaded worker", with_workers(&[worker(940, 60)]), 950, "cpu_saturated lag_high"),
        (
            "a quota, and a neighbour",
            throttled(400, &with_workers(&[worker(300, 600)])),
            950,
            "cpu_throttled lag_high",
        ),
        ("a quota that hardly mattered", throttled(5, &calm), 300, "host_noise lag_high"),
        ("a busy hypervisor", steal(20), 300, "host_noise lag_high"),
        ("a spinning worker", with_workers(&[worker(990, 1)]), 300, "host_noise lag_high"),
    ];
    for (what, host, awake, ids) in rows {
        let verdict = late_on(10, awake, &host);
        let expected: Vec<String> =
            ids.split(' ').map(|id| format!("{id} invalid generator")).collect();
        assert_eq!(headlines(&verdict), expected, "{what}");
        check(&verdict, &expected.iter().map(String::as_str).collect::<Vec<_>>(), generator);
        // The effect is fixed as its cause is.
        let fixes: Vec<&str> = verdict.findings.iter().map(|own| own.fix.as_str()).collect();
        assert!(fixes.iter().all(|fix| *fix == fixes[0]), "{what}: {fixes:?}");
    }
    let evidence =
        |host: &HostSample, awake: u64| late_on(10, awake, host).findings[0].evidence.clone();
    assert_eq!(
        evidence(&throttled(400, &calm), 300),
        "the control group's CPU limit stopped the generator 12 times, for 1.2s in all"
    );
    assert_eq!(
        evidence(&with_workers(&[worker(99, 0), worker(300, 40)]), 300),
        "worker 1 waited 40ms in one second for a CPU that other work was using"
    );
    assert!(late_on(10, 300, &steal(20)).findings[0].evidence.contains("gave 10 %"));
}

#[test]
fn rare_lateness_is_noise_unless_the_generator_made_it() {
    let host = |cpu: u64, run_delay: u64| HostSample {
        workers: vec![worker(cpu, run_delay)],
        ..HostSample::default()
    };
    // 9 of 1,009 arrivals: less than 1 %.
    check(&late_on(3, 300, &host(300, 0)), &["host_noise warning generator"], None);
    check(&late_on(3, 300, &host(300, 500)), &["host_noise warning generator"], None);
    let own = ["cpu_saturated warning generator", "lag_high warning generator"];
    check(&late_on(3, 900, &host(900, 0)), &own, None);
    let noise = late_on(3, 300, &host(300, 500)).findings.remove(0);
    assert!(
        noise.evidence.ends_with("waited 500ms in one second for a CPU that other work was using")
    );
}

#[test]
fn a_worker_without_headroom_limits_the_run() {
    let plan = plan("users = 5\nduration = \"10s\"\n[[target]]\nrequest = \"GET http://a/\"\n");
    let run = |cpu: u64| {
        let mut recording = Recording::new(&plan);
        recording.seconds(10, |filled| {
            filled.ok(0, 1000, millis(5));
            filled.snapshot.workers.busy_max = millis(cpu);
            filled.snapshot.host.workers = vec![worker(cpu, 0)];
            filled.snapshot.host.descriptors = Some(Usage { used: 12, limit: 1024 });
        });
        recording.summary().verdict
    };
    check(&run(960), &["cpu_saturated warning generator"], Some(Side::Generator));
    let half = run(500);
    check(&half, &[], None);
    assert_eq!(half.headroom.worker_busy, 0.5);
    assert_eq!(half.headroom.descriptors, Some(Usage { used: 12, limit: 1024 }));
}

/// A run of which three seconds have these TCP counters, and one answer after `slow` milliseconds.
fn counted(slow: u64, counts: &[(TcpCounter, u64)]) -> Verdict {
    verdict_of(|filled| {
        filled.ok(0, 1, millis(slow));
        let mut tcp = Tally::new();
        tcp.add(TcpCounter::SegmentsOut, 1000);
        counts.iter().for_each(|(counter, n)| tcp.add(*counter, *n));
        filled.snapshot.host.tcp = Some(tcp);
        // A SYN that is sent again takes a second.
        if slow >= 1000 {
            filled.origin(0).connected.add(millis(slow));
        }
    })
}

#[test]
fn tcp_counters_explain_slow_requests() {
    use TcpCounter::*;
    let backlog = "accept_backlog warning target";
    let loss = "packet_loss warning network";
    type Row<'r> = (u64, &'r [(TcpCounter, u64)], &'r [&'r str]);
    let rows: [Row<'_>; 9] = [
        (250, &[], &[]),
        (250, &[(Retransmitted, 20)], &[loss]),
        (250, &[(Retransmitted, 1)], &[]), // too few
        (250, &[(Retransmitted, 20), (SynRetransmitted, 20)], &[]), // unanswered SYNs
        (1020, &[(ListenOverflows, 4), (ListenDrops, 4)], &[backlog]),
        // The dropped handshakes explain what was sent again.
        (1020, &[(ListenOverflows, 4), (Retransmitted, 30), (SynRetransmitted, 9)], &[backlog]),
        (1020, &[(ListenOverflows, 4), (Retransmitted, 200)], &[loss, backlog]),
        // Another program's trouble in the same namespace: slow answers, but no slow connecting…
        (250, &[(ListenOverflows, 4)], &[]),
        // …and neither.
        (30, &[(ListenOverflows, 4), (Retransmitted, 20)], &[]),
    ];
    for (slow, counts, findings) in rows {
        let verdict = counted(slow, counts);
        assert_eq!(headlines(&verdict), findings, "{slow} ms, {counts:?}");
    }
    let verdict = counted(250, &[(Retransmitted, 20)]);
    let evidence = &verdict.findings[0].evidence;
    assert!(
        evidence.starts_with("60 of 3,000 TCP segments sent in this network namespace (2 %)"),
        "{evidence}"
    );
}

#[test]
fn refusals_and_truncated_answers_have_their_own_findings() {
    use ErrorClass::*;
    let limited = |class: ErrorClass, statuses: u64| {
        verdict_of(|filled| {
            filled.failed(0, 5, class, millis(10));
            filled.snapshot.status.add(429, statuses);
        })
    };
    let rate_limited = "target_rate_limited warning target";
    check(&limited(Status, 5), &[rate_limited], Some(Side::Target));
    check(&limited(RpcError, 5), &[rate_limited], Some(Side::Target));
    let both = limited(Status, 2);
    let ids: Vec<_> = both.findings.iter().map(|own| own.id).collect();
    assert_eq!(ids, [Id::TargetErrors, Id::TargetRateLimited]);
    // A plan may expect 429.
    check(&limited(Check, 5), &["target_errors warning target"], Some(Side::Target));
    let truncated = verdict_of(|filled| filled.faulty(4, ClosedEarly, Fault::Truncated));
    check(&truncated, &["target_truncated warning target"], Some(Side::Target));
}
