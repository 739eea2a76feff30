//! Lines written and read, of this version, an older and a newer one.

use super::*;
use crate::names::{ErrorClass, Fault, OpenReason, Tally};
use crate::{
    CpuTimes, Followed, HostSample, LogEvent, Order, RunFacts, Scraped, Sending, Sockets, Softnet,
    SplitValue, TcpCounter, ThreadTime, Throttled, Usage, WallClock, Window,
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
    let messages = stats.messages_mut();
    (messages.opened, messages.kept, messages.dropped) = (1, 1, 1);
    messages.opening.record(Nanos(7_000 + seed));
    for order in [Order::InOrder { missing: 3 }, Order::Duplicate] {
        messages.count(order, 40);
    }
    messages.first.record(Nanos(1_000_000));
    messages.interval.record(Nanos(2_000_000 + seed));
    messages.count_lag(Nanos(500), Nanos(400));
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
    let mut followed = Followed { lines: 5, bytes: 99, ..Followed::default() };
    followed.count(2, || "an error".into());
    followed.events.count(LogEvent::Rotated);
    followed.fail("gone", seed);
    snapshot.followed(1, &followed);
    snapshot.warmup = Requests { scheduled: 1, sent: 1, unsent: 0, ok: 1, failed: 0 };
    snapshot.host = host_sample(seed);
    let page = |n: u64| {
        let page = format!("a{{x=\"\\\"\"}} {n}\nb 0.1");
        Scraped::page(WallClock { unix_ns: n }, crate::prometheus::parse(&page).unwrap(), &[])
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

/// A line as an older version wrote it.
fn unsealed(line: &str) -> serde_json::Value {
    let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
    value.as_object_mut().unwrap().remove("crc32").expect("a checksum");
    value
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
        logs: vec!["nginx".into(), "traefik".into()],
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
    let facts = facts();
    let ended = text.clone() + &end_line(&facts, true, 2) + "\n";
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
    assert_eq!(message, "snapshots line 2: it has no checksum, but the header has one");
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
    let (line, start) = (to_line(&snapshot, &header), unsealed(&header.to_line()));
    let with_host = |line: &str, host: &str| {
        let mut value = unsealed(line);
        value["host"] = serde_json::from_str(host).unwrap();
        value
    };
    let check = |line: &serde_json::Value, expected: &Snapshot, notes: &[&str]| {
        let read = read(&format!("{start}\n{line}\n")).unwrap();
        assert_eq!(read.snapshots, std::slice::from_ref(expected));
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
    let message = read(&format!("{start}\n{newer}\n")).unwrap_err().to_string();
    let expected =
        "snapshots line 2: unknown error class \"quic_idle\", written by a newer version";
    assert_eq!(message, expected);
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
    let mut blank = Snapshot::new(2, 1, 2);
    // Its allocation is kept.
    blank.stats[1].messages_mut();
    assert_eq!(joined, blank);
}

fn facts() -> RunFacts {
    RunFacts {
        started_at: WallClock { unix_ns: header().started_at_unix_ns },
        duration: Nanos(3),
        drain: Nanos(1),
        warmup: Nanos(2),
        cut_short: true,
        stopped_by: Some("Ctrl-C".into()),
        cpus: 2,
        workers: 1,
        forced: header().forced,
    }
}

fn lines() -> Vec<String> {
    let mut lines = vec![header().to_line()];
    lines.extend([1, 2, 3].map(|second| to_line(&sample(second), &header())));
    lines.push(end_line(&facts(), false, 3));
    lines
}

fn error_of(lines: &[String]) -> String {
    read(&(lines.join("\n") + "\n")).map_or_else(|error| error.to_string(), |_| String::new())
}

/// Lines that were removed, repeated or moved, with and without checksums.
#[test]
fn lines_are_complete_and_in_order() {
    let check = |change: fn(&mut Vec<String>), error: &str| {
        let mut lines = lines();
        change(&mut lines);
        let found = error_of(&lines);
        assert!(found.starts_with(error) && found.is_empty() == error.is_empty(), "{found}");
        let older: Vec<String> = lines.iter().map(|own| unsealed(own).to_string()).collect();
        assert_eq!(error_of(&older).is_empty(), error.is_empty(), "{older:?}");
    };
    check(|_| {}, "");
    check(|lines| _ = lines.remove(1), "snapshots line 2: a line is missing before it");
    check(|lines| _ = lines.remove(2), "snapshots line 3: a line is missing before it");
    check(|lines| _ = lines.remove(3), "snapshots line 4: 3 seconds were written before it");
    check(|lines| lines.insert(2, lines[2].clone()), "snapshots line 4: it is out of order");
    check(|lines| lines.swap(2, 3), "snapshots line 3: a line is missing before it");
    check(|lines| lines.swap(3, 4), "snapshots line 4: 3 seconds were written before it");
    check(|lines| lines.push(lines[3].clone()), "snapshots line 6: it follows the line for");
    check(|lines| lines.push(lines[4].clone()), "snapshots line 6: it follows the line for");
    let torn = lines().join("\n") + "\n{\"t_ns\"";
    let message = read(&torn).unwrap_err().to_string();
    assert_eq!(message, "snapshots line 6: it follows the line for the run's end");
}

/// A last scrape of other processes has the time of the last second.
#[test]
fn a_second_without_requests_may_end_with_the_one_before() {
    let mut scraped = Snapshot::new(2, 1, 2);
    scraped.t = Nanos::from_secs(1);
    let lines = [header().to_line(), to_line(&sample(1), &header()), to_line(&scraped, &header())];
    assert_eq!(error_of(&lines), "");
}

#[test]
fn no_changed_byte_is_read() {
    let whole = lines();
    let expected = read(&(whole.join("\n") + "\n")).unwrap();
    for number in 0..whole.len() {
        let (len, tail) = (whole[number].len(), whole[number].len() - 20);
        for at in (0..tail).step_by(7).chain(tail..len) {
            let mut lines = whole.clone();
            let mut bytes = lines[number].clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            lines[number] = changed;
            let Ok(read) = read(&(lines.join("\n") + "\n")) else { continue };
            assert_eq!(read.header, expected.header, "line {number} byte {at}");
            // As if the run had been killed before its end.
            let last = number == whole.len() - 1;
            assert!(last || at >= tail, "line {number} byte {at}");
            assert_eq!(read.snapshots, expected.snapshots);
        }
    }
}

/// Damage in files without checksums.
#[test]
fn counts_that_contradict_each_other_are_errors() {
    let check = |pointer: &str, value: serde_json::Value, error: &str| {
        let mut lines = lines();
        lines.iter_mut().for_each(|line| *line = unsealed(line).to_string());
        let mut second: serde_json::Value = serde_json::from_str(&lines[2]).unwrap();
        *second.pointer_mut(pointer).unwrap() = value;
        lines[2] = second.to_string();
        let found = error_of(&lines);
        assert!(found.starts_with(&format!("snapshots line 3: {error}")), "{pointer}: {found}");
    };
    let contradict = "the counts contradict each other: ";
    let huge = u64::MAX;
    check("/stats/b/ok/n", 2.into(), contradict);
    check("/stats/b/unsent", 0.into(), contradict);
    check("/stats/b/errors/rpc_error", 7.into(), contradict);
    check("/warmup/ok", 7.into(), "the counts contradict each other: warm-up: sent = ok + failed");
    check("/streams/main/dispatched", 5.into(), contradict);
    check("/rpc/errors", 5.into(), contradict);
    for pointer in ["/stats/b/ok/n", "/stats/b/bytes/in", "/status/200", "/host/rss_peak_bytes"] {
        check(pointer, huge.into(), "18446744073709551615 is more than a run can count");
    }
    // Buckets that would overflow their sum.
    let mut histogram = Histogram::new();
    histogram.record(Nanos(5));
    (0..63).for_each(|_| histogram.merge(&histogram.clone()));
    let encoded: serde_json::Value = histogram.encode_base64().into();
    check("/stats/b/ok/latency", encoded, "invalid histogram: more values than a run can have");
    check("/stats/b", serde_json::json!([]), "at column");
    check("/t_ns", "x".into(), "at column");
    check("", serde_json::json!([1]), "expected a second, as a JSON object in braces");
    check("", serde_json::json!({"t_ns": 1}), "at column 10: missing field `streams`, in a second");
}

#[test]
fn a_later_second_waits_as_a_line() {
    let text = lines().join("\n") + "\n";
    let expected = read(&text).unwrap().snapshots;
    let mut reader = Reader::new(text.as_bytes()).unwrap();
    for second in &expected {
        assert_eq!(reader.next_second_by(second.t - Nanos(1)).unwrap(), None);
        assert!(reader.has_second().unwrap());
        assert_eq!(reader.next_second_by(second.t).unwrap().as_ref(), Some(second));
    }
    assert!(!reader.has_second().unwrap() && reader.facts().is_some());
    assert_eq!(reader.next_second_by(Nanos::MAX).unwrap(), None);
    // What follows the end is an error.
    let longer = text.clone() + &lines()[1] + "\n";
    let mut reader = Reader::new(longer.as_bytes()).unwrap();
    while reader.next_second_by(expected[expected.len() - 1].t).unwrap().is_some() {
        if reader.has_second().is_err() {
            return;
        }
    }
    panic!("a second after the end was read");
}
