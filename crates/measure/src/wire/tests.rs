//! Lines written and read, of this version, an older and a newer one.

use super::*;
use crate::names::{ErrorClass, Fault, OpenReason, Tally};
use crate::{
    CpuTimes, HostSample, RunFacts, Scraped, Sending, Sockets, Softnet, SplitValue, TcpCounter,
    ThreadTime, Throttled, Usage, WallClock, Window,
};

fn sample(seed: u64) -> Snapshot {
    let mut snapshot = Snapshot::new(2, 1, 2);
    snapshot.t = Nanos::from_secs(seed);
    let stats = &mut snapshot.stats[1];
    stats.requests = Requests { scheduled: 3, sent: 2, unsent: 1, ok: 1, failed: 1 };
    stats.latency_ok.record(Nanos(1_000 + seed));
    stats.service_time_ok.record(Nanos(900));
    stats.latency_failed.record(Nanos(2_000_000));
    stats.latency_failed.record(Nanos(30_000_000_000));
    stats.errors.count(ErrorClass::RpcError);
    stats.errors.count(ErrorClass::NoConnection);
    (stats.bytes_in, stats.bytes_out) = (100, 200);
    let stream = &mut snapshot.streams[0];
    (stream.planned_rate, stream.dispatched) = (5000.0, 4);
    (0..4).for_each(|i| stream.lag.record(Nanos(i)));
    (0..3).for_each(|i| stream.wait.record(Nanos(i)));
    let (from, to) = (Nanos(seed), Nanos(10 * seed));
    stream.active = Some(Window { from, planned_to: to, to });
    stream.last_sent = to;
    stream.split.add(Some(&SplitValue::of(b"gw-1")), seed);
    stream.split.add(Some(&SplitValue::of(b"")), 1);
    stream.split.add(None, 2);
    let origin = &mut snapshot.origins[1];
    (origin.limit, origin.open) = (10, seed);
    (origin.in_use, origin.capped, origin.wanted) = (Nanos(7), Nanos(2), 5);
    (origin.occupied, origin.in_use_peak) = (Nanos(9), 3);
    origin.connected.add(Nanos(4));
    origin.service_free.add(Nanos(900));
    origin.starved = 1;
    snapshot.read_lag.record(Nanos(77));
    snapshot.workers = WorkerTime { spin: Nanos(1), busy_max: Nanos(2), pause_max: Nanos(seed) };
    snapshot.status.count(200);
    snapshot.samples_dropped = seed;
    snapshot.notes = vec![note(ErrorClass::RpcError, None), note(ErrorClass::Status, Some(503))];
    snapshot.rpc.items = 2;
    snapshot.rpc.add_error(-32000, 1);
    snapshot.faults.count(Fault::BadChunk);
    snapshot.connections.opened = 1;
    snapshot.connections.peak = seed;
    snapshot.connections.reasons.count(OpenReason::NoneIdle);
    snapshot.in_flight = seed;
    snapshot.warmup = Requests { scheduled: 1, sent: 1, unsent: 0, ok: 1, failed: 0 };
    snapshot.host = host_sample(seed);
    let page = |n: u64| {
        let page = format!("a{{x=\"\\\"\"}} {n}\nb 0.1");
        Scraped::page(WallClock { unix_ns: n }, crate::prometheus::parse(&page).unwrap())
    };
    snapshot.scraped(1, &page(seed));
    if seed == 2 {
        // Two in one second, and one that failed.
        snapshot.scraped(1, &page(7));
        snapshot.scraped(1, &Scraped::failure("refused"));
    }
    snapshot
}

fn note(class: ErrorClass, status: Option<u16>) -> Note {
    Note { class, target: "b".into(), status, text: "x".into() }
}

fn host_sample(seed: u64) -> HostSample {
    let used = Usage { used: seed, limit: 10 };
    let mut tcp = Tally::new();
    tcp.add(TcpCounter::ListenDrops, seed);
    HostSample {
        cpu: Nanos(5),
        user: Nanos(2),
        rss_peak_bytes: 10 * seed,
        workers: vec![ThreadTime { cpu: Nanos(3), run_delay: Nanos(seed), preempted: 1 }; 2],
        cpus: Some(CpuTimes { total: 200, idle: 100, steal: seed, softirq: 3 }),
        softnet: Some(Softnet { dropped: seed, squeezed: 2 }),
        sockets: Some(Sockets { in_use: 1, established: 2, time_wait: seed, orphans: 3, pages: 4 }),
        ports: Some(28_232),
        descriptors: Some(used),
        conntrack: Some(used),
        memory: Some(used),
        throttled: Some(Throttled { periods: seed, time: Nanos(2) }),
        tcp: Some(tcp),
        sending: Some(Sending {
            connections: seed,
            busy: Nanos(4),
            receiver_limited: Nanos(3),
            buffer_limited: Nanos(2),
            retransmitted: 1,
        }),
        sampling: Nanos(9),
    }
}

fn header() -> Header {
    Header {
        schema: SCHEMA.into(),
        plan: "four chains".into(),
        plan_digest: "0".repeat(16),
        started_at: "2026-11-20T20:24:01.250Z".into(),
        started_at_unix_ns: 1_763_670_241_250_000_000,
        cpus: 2,
        workers: 1,
        forced: vec!["too few ports".into()],
        from_flags: true,
        names: vec!["a".into(), "b".into()],
        streams: vec!["main".into()],
        origins: vec!["http://a:80".into(), "redirects".into()],
        scrapes: vec!["gw-1".into(), "gw-2".into()],
        unread: vec!["/proc/net/netstat: not found".into()],
    }
}

#[test]
fn written_lines_read_back_despite_a_truncated_tail() {
    let (header, snapshots) = (header(), [sample(1), sample(2)]);
    let mut text = header.to_line() + "\n";
    for snapshot in &snapshots {
        snapshot.assert_identities();
        text += &(to_line(snapshot, &header) + "\n");
    }
    let facts = RunFacts {
        started_at: WallClock { unix_ns: header.started_at_unix_ns },
        duration: Nanos(3),
        drain: Nanos(1),
        warmup: Nanos(2),
        cut_short: true,
        stopped_by: Some("Ctrl-C".into()),
        cpus: 2,
        workers: 1,
        forced: header.forced.clone(),
    };
    let ended = text.clone() + &end_line(&facts, true) + "\n";
    let torn = text.clone() + "{\"t_ns\": 3, \"str"; // killed while writing
    let torn_end = ended[..ended.len() - 1].to_string();
    for (text, facts) in [(text, None), (torn, None), (torn_end, None), (ended, Some(facts))] {
        let read = read(&text).unwrap();
        assert_eq!(read.header, header);
        assert_eq!(read.snapshots, snapshots);
        assert_eq!(read.ignored, [""; 0]);
        assert_eq!((read.aborted, read.facts), (facts.is_some(), facts));
    }
}

#[test]
fn an_invalid_line_is_reported_with_its_number() {
    let second = to_line(&sample(1), &header()) + "\n";
    let text = header().to_line() + "\n{\"t_ns\": 1}\n" + &second;
    let message = read(&text).unwrap_err().to_string();
    assert!(message.starts_with("snapshots line 2: missing field"), "{message}");
    // Only the last line may have been left incomplete.
    for tail in ["{\"t_ns\": 1}\n", "\0\0\0\n", "{\"end\":{}}\n", "{\"end\":"] {
        let text = header().to_line() + "\n" + &second + tail;
        assert_eq!(read(&text).unwrap().snapshots, [sample(1)]);
    }
}

#[test]
fn any_prefix_gives_its_whole_seconds() {
    let seconds = [sample(1), sample(2)].map(|second| to_line(&second, &header()) + "\n");
    let start = header().to_line() + "\n";
    let text = start.clone() + &seconds.concat();
    for cut in 0..text.len() {
        let read = read(&text[..cut]);
        let whole = match cut.checked_sub(start.len()) {
            None => {
                read.unwrap_err();
                continue;
            }
            Some(rest) if rest < seconds[0].len() => 0,
            Some(rest) if rest < seconds[0].len() + seconds[1].len() => 1,
            Some(_) => 2,
        };
        assert_eq!(read.unwrap().snapshots, [sample(1), sample(2)][..whole]);
    }
    let mut reader = Reader::new(text.as_bytes()).unwrap();
    assert_eq!(reader.skip_to_end().unwrap(), Nanos::from_secs(2));
}

/// A line as it was written before hosts were sampled, and what a newer version might write.
#[test]
fn older_and_newer_files_are_read() {
    let header = Header { unread: Vec::new(), ..header() };
    let mut snapshot = sample(1);
    let line = to_line(&snapshot, &header);
    let with_host = |line: &str, host: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["host"] = serde_json::from_str(host).unwrap();
        value
    };
    let check = |line: &serde_json::Value, expected: &Snapshot, notes: &[&str]| {
        let read = read(&format!("{}\n{line}\n{line}\n", header.to_line())).unwrap();
        assert_eq!(read.snapshots, [expected.clone(), expected.clone()]);
        assert_eq!(read.ignored, notes);
    };
    let old = with_host(&line, r#"{"cpu_ns": 5, "user_ns": 2, "rss_peak_bytes": 10}"#);
    snapshot.host =
        HostSample { cpu: Nanos(5), user: Nanos(2), rss_peak_bytes: 10, ..HostSample::default() };
    check(&old, &snapshot, &[]);
    let newer = r#"{"cpu_ns": 5, "user_ns": 2, "rss_peak_bytes": 10, "gpu": {"load": [1]},
        "namespace_tcp": {"listen_drops": 3, "fast_opens": 1}}"#;
    let mut newer = with_host(&line, newer);
    newer["quic"] = true.into();
    newer["faults"]["bad quic frame"] = 2.into();
    let mut tcp = Tally::new();
    tcp.add(TcpCounter::ListenDrops, 3);
    snapshot.host.tcp = Some(tcp);
    let notes = [
        "unknown field \"host.gpu\" of a newer version ignored",
        "unknown field \"quic\" of a newer version ignored",
        "unknown name \"bad quic frame\" in \"faults\" of a newer version ignored",
        "unknown name \"fast_opens\" in \"host.namespace_tcp\" of a newer version ignored",
    ];
    check(&newer, &snapshot, &notes);
    // Without its class, an error would be missing from the sums.
    newer["stats"]["b"]["errors"]["quic_idle"] = 0.into();
    let text = format!("{}\n{newer}\n{line}\n", header.to_line());
    let message = read(&text).unwrap_err().to_string();
    assert_eq!(message, "snapshots line 2: unknown name \"quic_idle\"");
}

#[test]
fn seconds_append_and_workers_join() {
    let (mut joined, mut appended) = (sample(1), sample(1));
    joined.join(&sample(2));
    appended.append(&sample(2));
    assert_eq!((joined.in_flight, joined.connections.peak), (3, 3));
    assert_eq!((appended.in_flight, appended.connections.peak), (2, 2));
    assert_eq!(joined.total(), appended.total());
    joined.assert_identities();
    joined.clear();
    assert_eq!(joined, Snapshot::new(2, 1, 2));
}
