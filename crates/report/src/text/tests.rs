//! The report on terminals of several widths.

mod lists;

use super::page::{words, wrapped};
use super::width::width;
use crate::activity::{Activities, Activity, Stretch};
use crate::narrow::Narrow;
use crate::objectives::Judged;
use crate::scrapes::{Process, Relays, Scrapes};
use crate::seconds::Seconds;
use crate::summary::{Group, StageOf, StreamGroup, Summary};
use crate::timeline::Timeline;
use crate::verdict::{Headroom, Verdict};
use plimsoll_measure::{
    CpuTimes, ErrorClass, Finding, FindingId, Histogram, HostSample, Nanos, Note, Requests,
    RunFacts, Scraped, Severity, Side, Snapshot, Stats, ThreadTime, Throttled, Usage, WallClock,
    Window,
};
use plimsoll_plan::Objective;
use std::collections::BTreeMap;

const WINDOW: Window =
    Window { from: Nanos::ZERO, planned_to: Nanos::from_secs(4), to: Nanos::from_secs(4) };
const EVIDENCE: &str = "requests left late: p99 lag 5.95ms, allowed 5ms";
const FIX: &str = "give the generator more CPU (--workers, another host), or lower the rate";
const UPSTREAMS: [&str; 5] =
    ["127.0.0.1:3069", "127.0.0.1:3070", "127.0.0.1:3071", "127.0.0.1:3072", "127.0.0.1:3073"];

fn active() -> Activity {
    activity(WINDOW, Nanos::ZERO)
}

fn activity(window: Window, last_sent: Nanos) -> Activity {
    Activity::of_stretches(vec![(0, Stretch { window, last_sent })])
}

/// `ok` answered requests, each a little slower than the previous, and `failed` failed ones.
fn stats(ok: u64, failed: u64) -> Stats {
    let requests = Requests { scheduled: ok + failed, sent: ok + failed, unsent: 0, ok, failed };
    let mut stats = Stats { requests, ..Stats::default() };
    for n in 0..ok {
        stats.latency_ok.record(Nanos(435_000 + n * n * 1_700));
        stats.service_time_ok.record(Nanos(395_000 + n * n * 1_100));
    }
    (0..failed).for_each(|n| stats.latency_failed.record(Nanos::from_millis(17 + n)));
    stats.errors.add(ErrorClass::Reset, failed / 2);
    stats.errors.add(ErrorClass::ResponseTimeout, failed - failed / 2);
    stats
}

fn process(name: &str, group: &str, relays: u64) -> Process {
    let upstreams = UPSTREAMS.map(|name| (name.to_string(), relays / 5)).into();
    Process {
        name: name.into(),
        group: group.into(),
        url: "http://h/metrics".into(),
        scraped: Scraped { reads: 7, ..Scraped::default() },
        span: Nanos::from_secs(5),
        cpu: Some(Nanos(relays * 238_000)),
        memory_max: Some(20 << 20),
        restarts: u64::from(name == "gw-1"),
        missing: Vec::new(),
        calls: None,
        relays: Some(Relays { total: relays, upstreams }),
    }
}

fn finding(id: FindingId, severity: Severity, evidence: &str, fix: &str) -> Finding {
    let (evidence, fix) = (evidence.into(), fix.into());
    let (from, to) = (Nanos::ZERO, Nanos::from_secs(4));
    Finding { id, severity, side: Side::Generator, evidence, fix, from, to }
}

/// An invalid run with groups, errors, objectives and processes, so that the report has every section.
fn full() -> Summary {
    let names = ["ethereum", "boba", "mantle reads", "a target with a name of some length"];
    let target = |(n, name): (u64, &&str)| {
        let tags = BTreeMap::from([("chain".to_string(), format!("chain {}", n % 2))]);
        (Group::of(*name, stats(400 * n, 30 * n), active()), tags)
    };
    let targets: Vec<_> = (1..).zip(&names).map(target).collect();
    let mut total = Snapshot::new(names.len(), 1, 1);
    total.stats = targets.iter().map(|(group, _)| group.stats.clone()).collect();
    (0..4300).for_each(|n| total.streams[0].lag.record(Nanos(4_590 + n * n)));
    (0..4300).for_each(|n| total.streams[0].wait.record(Nanos(n)));
    (0..60).for_each(|n| total.read_lag.record(Nanos(9_000 + n)));
    (total.connections.peak, total.connections.opened) = (12, 312);
    total.host.rss_peak_bytes = 23 << 20;
    let text = "unexpected end of the answer after 120 of 4,096 bytes: Connection reset by peer";
    let note =
        Note { class: ErrorClass::Reset, target: "boba".into(), status: None, text: text.into() };
    total.notes.push(note);
    let mut objective = Objective::parse("latency.p99 < 10ms").unwrap();
    objective.narrowed = [("part".to_string(), "block numbers".to_string())].into();
    let instances = (1..=5).map(|n| process(&format!("gw-{n}"), "instances", 290));
    let all = Group::of("all", total.total(), active());
    Summary {
        name: "demo".into(),
        load: "2 streams over 4s, 4,300 requests".into(),
        from_flags: true,
        has_rate: true,
        seed: 7,
        facts: RunFacts {
            started_at: WallClock { unix_ns: 0 },
            duration: Nanos::from_secs(4),
            drain: Nanos::ZERO,
            warmup: Nanos::ZERO,
            cut_short: false,
            stopped_by: None,
            cpus: 2,
            workers: 1,
            forced: Vec::new(),
        },
        tags: [("chain".into(), targets.iter().take(2).map(|(group, _)| group.clone()).collect())]
            .into(),
        targets,
        all,
        total,
        streams: Vec::new(),
        stages: Vec::new(),
        splits: Vec::new(),
        errors: vec![(
            ErrorClass::Reset,
            Seconds { from: Nanos::from_secs(1), to: Nanos::from_secs(3) },
        )],
        unjudged: Vec::new(),
        narrow: Narrow::whole(&crate::synthetic::open(1, 1)),
        scheduled: 4300,
        details: None,
        records_unused: None,
        merged: None,
        agents: Vec::new(),
        has_splits: false,
        activities: Activities::default(),
        objectives: vec![Judged { objective, value: Some(4_440_000.0), ok: true, run: None }],
        verdict: Verdict {
            valid: false,
            headroom: Headroom::default(),
            limited_by: Some(Side::Generator),
            findings: vec![
                finding(FindingId::PlanNotHeld, Severity::Invalid, EVIDENCE, FIX),
                finding(FindingId::CutShort, Severity::Info, "stopped after 4s", "see above"),
            ],
            sides: Vec::new(),
        },
        timeline: Timeline::new(1),
        series: None,
        planned: None,
        logs: crate::logs::Logs::default(),
        cost: None,
        has_prices: false,
        scrapes: Scrapes {
            processes: [process("edge", "edge", 1450)].into_iter().chain(instances).collect(),
        },
    }
}

/// The column headings in the line with this name. At full width, two headings may be separated by one
/// space.
fn heads<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let line = text.lines().find(|line| line.trim_start().starts_with(name));
    let heads = line.unwrap_or_else(|| panic!("no {name}\n{text}")).split_once(name).unwrap().1;
    heads.split("  ").map(str::trim).filter(|head| !head.is_empty()).collect()
}

/// The text in one line.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn narrow_terminals_drop_columns() {
    let time = "min mean p50 p90 p95 p99 p99.9 max";
    let group = "scheduled ok sent/s ok/s p50 p99 p99 serv.";
    let process = "calls relays share CPU CPU/call memory scrapes";
    let rows = [
        (100, time, group, "side count when first seen", process),
        (80, time, group, "side count when first seen", process),
        (
            60,
            "mean p50 p99 p99.9 max",
            "scheduled ok p50 p99",
            "side count when",
            "calls relays share CPU CPU/call memory",
        ),
        (
            50,
            "mean p50 p99 max",
            "scheduled ok p50 p99",
            "side count when",
            "calls relays share CPU CPU/call",
        ),
    ];
    for (columns, time, group, error, process) in rows {
        let text = full().to_text(None, columns, false);
        let check = |name: &str, shown: &str| {
            assert_eq!(heads(&text, name).join(" "), shown, "{columns}\n{text}");
        };
        check("time  ", time);
        check("target  ", group);
        check("chain  ", group);
        check("errors  ", error);
        check("process  ", process);
    }
    // With very large figures, the most important columns stay.
    let mut large = full();
    let grown = |requests: &mut Requests| {
        for n in [&mut requests.scheduled, &mut requests.sent, &mut requests.ok] {
            *n += 88_000_000_000;
        }
    };
    grown(&mut large.all.stats.requests);
    large.targets.iter_mut().for_each(|(group, _)| grown(&mut group.stats.requests));
    large.scrapes.processes.iter_mut().for_each(|process| {
        process.relays.as_mut().unwrap().total += 88_000_000_000;
        process.cpu = Some(Nanos::from_secs(88_000_000));
        process.memory_max = Some(88_888 << 20);
    });
    let text = large.to_text(None, 50, false);
    assert_eq!(heads(&text, "target  ").join(" "), "scheduled ok p50 p99", "{text}");
    assert_eq!(heads(&text, "process  ").join(" "), "calls share CPU/call", "{text}");
    assert!(text.contains("a tar…") && text.contains("88,000,001,720"), "{text}");
}

#[test]
fn lines_fit_and_no_text_is_lost() {
    let summary = full();
    let dir = "/a/folder/with/a/path/that/is/longer/than/most/terminals/are/wide/demo";
    for columns in [50, 55, 60, 67, 72, 80, 90, 99, 100] {
        let text = summary.to_text(Some(dir), columns, false);
        for line in text.lines() {
            assert!(width(line) <= columns && line.trim_end() == line, "{columns}: {line}|");
        }
        let rules: Vec<_> = text.lines().filter(|line| line.starts_with('═')).collect();
        assert_eq!(rules, vec!["═".repeat(columns); 2]);
        let text = unwrapped(&text);
        for words in [
            "INVALID: the load generator distorted this run; the figures below do not describe the target",
            &format!("plan_not_held: {EVIDENCE} fix: {FIX} ═"),
            "of scheduled 300 failed",
            "peak, 312 opened",
            "held latency.p99 < 10ms where part = block numbers: 4.44ms",
            "restarted once",
            "edge relayed to 127.0.0.1:3069 20 %, 127.0.0.1:3070 20 %, 127.0.0.1:3071 20 % and 2 more",
            "instances: within 0 % of an even share of 20 % (furthest: gw-5)",
            "gw-5",
            "cut_short: stopped after 4s results:",
        ] {
            assert!(text.contains(words), "{columns}: {words}\n{text}");
        }
        assert!(text.replace(' ', "").contains(&format!("results:{dir}/report.html")), "{text}");
    }
}

#[test]
fn a_pipe_gets_the_widest_report() {
    let mut summary = full();
    summary.all.stats.requests.unsent = 7;
    let text = summary.to_text(Some("runs/x"), usize::MAX, false);
    let terminal = summary.to_text(Some("runs/x"), 100, false);
    assert!(terminal.lines().count() <= 50, "{terminal}");
    assert!(!summary.to_text(None, 100, false).contains("summary.json"), "there is none");
    assert!(!text.contains('…') && text.contains("gw-5"), "{text}");
    let all = "127.0.0.1:3072 20 %, 127.0.0.1:3073 20 % ";
    assert!(unwrapped(&text).contains(all) && !text.contains("and 2 more"), "{text}");
    for line in [
        "  sent              4,300         1,075/s   7 never sent",
        "  ok                4,000         1,000/s   93 % of scheduled   300 failed",
        "  connected                            12  peak, 312 opened",
        "  time               min     mean      p50      p90      p95      p99    p99.9      max",
        "    ok only        435µs    906ms    483ms    2.45s    3.33s    4.13s    4.33s    4.35s",
        "  target                         scheduled       ok   sent/s     ok/s       p50       p99 p99 serv.",
        "  a target with a name of some length",
        "                                     1,720     93 %    430.0    400.0     929ms     4.26s     2.76s",
        "  read lag           9µs   9.03µs   9.03µs   9.05µs   9.06µs   9.06µs   9.06µs   9.06µs",
        "  errors              side               count      when  first seen",
        "  reset               target               150     1s–3s  unexpected end of the answer after 120 of",
        "  process                       calls     relays    share      CPU   CPU/call     memory   scrapes",
        "  gw-1                            290        290     20 %    1.4 %      238µs     20 MiB       7/7",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
    assert_eq!(
        summary.to_text(None, 0, false),
        summary.to_text(None, 50, false),
        "there is a least width"
    );
}

/// A class may have several causes; what was noted of another class or beyond three is not shown with it.
#[test]
fn up_to_three_errors_of_a_class_are_quoted() {
    let mut summary = full();
    for text in ["Broken pipe", "stream reset", "a fourth"] {
        let note = Note { text: text.into(), ..summary.total.notes[0].clone() };
        summary.total.notes.push(note);
    }
    let other = Note { class: ErrorClass::Tls, ..summary.total.notes[0].clone() };
    summary.total.notes.insert(1, other);
    let text = unwrapped(&summary.to_text(None, usize::MAX, false));
    let quoted = "reset by peer (boba); also: Broken pipe (boba); also: stream reset (boba)";
    assert!(text.contains(quoted) && !text.contains("a fourth"), "{text}");
}

#[test]
fn notes_are_cut_only_on_long_reports() {
    let mut summary = full();
    summary.scrapes.processes.truncate(1);
    summary.objectives.clear();
    for columns in [100, 80, 60, 50] {
        let text = unwrapped(&summary.to_text(None, columns, false));
        assert!(text.contains("4,096 bytes: Connection reset by peer (boba)"), "{columns}\n{text}");
    }
}

#[test]
fn texts_wrap_at_words() {
    let rows: [(&str, &str, usize, &str); 8] = [
        ("lead: ", "one  two", 20, "lead: one  two"),
        ("lead: ", "one two three", 13, "lead: one two|      three"),
        ("lead: ", "one two  three", 13, "lead: one two|      three"),
        ("lead: ", "an even 20 % of", 16, "lead: an even|      20 % of"),
        ("lead: ", "of a:b:c:d:e:f:g:h", 14, "lead: of|      a:b:c:d:|      e:f:g:h"),
        ("lead: ", "a:b:c:d:e:f", 14, "lead: a:b:c:d:|      e:f"),
        ("", "one two", 5, "one|two"),
        ("lead: ", "", 14, "lead:"),
    ];
    for (lead, text, columns, lines) in rows {
        let wrapped = wrapped(lead, &words(text), width(lead), columns);
        assert_eq!(wrapped.join("|"), lines, "{text}");
    }
    let phrases = ["one two,".to_string(), "three four".to_string()];
    assert_eq!(wrapped("- ", &phrases, 2, 17), ["- one two,", "  three four"]);
    assert_eq!(wrapped("- ", &phrases, 2, 9), ["- one", "  two,", "  three", "  four"]);
}

#[test]
fn names_may_be_longer_than_lines() {
    let long = "upstream/".repeat(30);
    let mut summary = full();
    summary.name = long.clone();
    summary.targets[0].0.name = long.clone();
    summary.objectives[0].objective.that = long.clone();
    summary.verdict.findings[0].evidence = long.clone();
    let process = &mut summary.scrapes.processes[0];
    (process.name, process.group) = (long.clone(), long.clone());
    process.relays = Some(Relays { total: 1, upstreams: [(long.clone(), 1)].into() });
    for columns in [50, 60, 100] {
        let text = summary.to_text(Some(&long), columns, false);
        assert!(text.lines().all(|line| width(line) <= columns), "{text}");
        let pieces = unwrapped(&text).replace(' ', "");
        for words in ["plan_not_held:", "held", "results:"] {
            assert!(pieces.contains(&format!("{words}{long}")), "{columns}: {words}\n{text}");
        }
    }
}

#[test]
fn nothing_ok_has_a_banner() {
    let mut summary = full();
    let refused = "check that the target is running";
    let [mut nothing, mut cause] =
        [Severity::Warning; 2].map(|severity| finding(FindingId::NothingOk, severity, "", refused));
    nothing.evidence = "all 300 requests failed".into();
    (cause.id, cause.from) = (FindingId::TargetRefused, Nanos::from_secs(1));
    cause.evidence = "connections were refused".into();
    summary.verdict.findings = vec![nothing, cause];
    summary.verdict.valid = true;
    let text = summary.to_text(None, 100, false);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "NO REQUEST SUCCEEDED: all 300 requests failed");
    assert_eq!(lines[2], format!("    fix: {refused}"));
    assert!(lines[3].starts_with('═') && !text.contains("INVALID"), "{text}");
    assert!(text.contains("  target_refused: connections were refused [1s–4s]\n"), "{text}");

    // If the generator was the limit, that is the reason.
    summary.verdict.findings[0].severity = Severity::Invalid;
    summary.verdict.findings[1].severity = Severity::Invalid;
    summary.verdict.valid = false;
    let text = summary.to_text(None, 100, false);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].starts_with("NO REQUEST SUCCEEDED: ") && lines[2].starts_with("INVALID: "));
    assert!(lines[3].starts_with("  target_refused: "), "{text}");
}

#[test]
fn spinning_and_late_answers_are_shown() {
    let mut summary = full();
    summary.total.host.cpu = Nanos(4_300 * 15_000);
    summary.total.workers.spin = Nanos(4_300 * 6_000);
    let window = Window { to: Nanos::from_secs(9), ..WINDOW };
    summary.all.activity = activity(window, Nanos::from_millis(3990));
    summary.facts.drain = Nanos::from_millis(5200);
    let text = summary.to_text(None, 100, false);
    for line in [
        "  ran        4s, last answer after 9s, then waited 5.2s for requests in flight",
        "  sent              4,300         1,075/s",
        "  generator: 1 worker, 9µs CPU per request (and 6µs spinning), peak memory 23 MiB, seed 7",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
}

#[test]
fn statuses_are_shown_if_informative() {
    let statuses = |text: &str| text.contains("HTTP status");
    let mut summary = full();
    (0..4000).for_each(|_| summary.total.status.count(200));
    assert!(!statuses(&summary.to_text(None, usize::MAX, false)), "one, and it was expected");
    (0..300).for_each(|_| summary.total.status.count(503));
    let text = summary.to_text(None, usize::MAX, false);
    for line in [
        "  HTTP status              count     share",
        "  200                      4,000      93 %",
        "  503                        300       7 %",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
    // A single status that was not expected.
    let mut summary = full();
    summary.total.status.count(404);
    summary.all.stats.errors.add(ErrorClass::Status, 1);
    assert!(statuses(&summary.to_text(None, usize::MAX, false)));
    // A single status that was expected, but does not say that the work was done.
    let mut summary = full();
    summary.total.status.count(302);
    assert!(statuses(&summary.to_text(None, usize::MAX, false)));
    // The answers of further statuses are beside these.
    let note = |status, text: &str| {
        let (class, target) = (ErrorClass::Status, "boba".to_string());
        Note { class, target, status: Some(status), text: text.into() }
    };
    summary.total.status.count(503);
    summary.total.notes = vec![note(503, "status 503"), note(302, "status 302, body \"moved\"")];
    let text = summary.to_text(None, usize::MAX, false);
    assert!(
        text.contains(
            "  302                          1      50 %  status 302, body \"moved\" (boba)"
        ),
        "{text}"
    );
}

#[test]
fn what_stopped_a_run_is_shown() {
    let mut summary = full();
    summary.facts.stopped_by = Some("Ctrl-C".into());
    let shown = |summary: &Summary, line: &str| {
        let text = summary.to_text(None, 100, false);
        assert!(text.contains(line), "{text}");
    };
    shown(&summary, "  ran        4s, stopped while waiting for the last answers by Ctrl-C\n");
    summary.facts.cut_short = true;
    shown(&summary, "  ran        4s, stopped early by Ctrl-C\n");
    assert!(summary.to_json().contains("\"stopped_by\": \"Ctrl-C\""));
}

#[test]
fn the_worst_come_first_if_not_all_fit() {
    let mut summary = full();
    let tags = BTreeMap::new();
    summary.targets = (0..30)
        .map(|n| (Group::of(format!("t{n}"), stats(100, n), active()), tags.clone()))
        .collect();
    let missed = Objective::parse("latency.p99 < 1ns").unwrap();
    for n in 0..20 {
        let (objective, ok) = (missed.clone(), n < 19);
        summary.objectives.push(Judged { objective, value: Some(n as f64), ok, run: None });
    }
    let text = summary.to_text(None, 100, false);
    let targets = text.split("  target  ").nth(1).unwrap();
    assert!(targets.lines().nth(1).unwrap().starts_with("  t29 "), "{text}");
    assert!(text.contains(" with failures; pipe the report to see all"), "{text}");
    let missed = text.find("  MISSED  ").unwrap();
    assert!(text.find("  held    ").is_none_or(|held| missed < held), "{text}");
    assert!(missed < text.find("  sent  ").unwrap(), "objectives come first\n{text}");

    let piped = summary.to_text(None, usize::MAX, false);
    let names: Vec<_> = (0..30).map(|n| piped.find(&format!("\n  t{n} ")).unwrap()).collect();
    assert!(names.iter().rev().is_sorted(), "all of them, the worst first\n{piped}");
    assert_eq!(piped.matches("  held    ").count(), 20, "{piped}");
}

fn figures(name: &str, stage: Option<StageOf>) -> StreamGroup {
    let (lag, wait) = (Histogram::default(), Histogram::default());
    StreamGroup { group: Group::of(name, stats(40, 0), active()), stage, lag, wait }
}

#[test]
fn streams_and_stages_have_rows() {
    let mut summary = full();
    let stage = |n| StageOf { number: n, load: format!("ramp to {n}k/s over 10s") };
    summary.stages = (1..=3).map(|n| figures("main", Some(stage(n)))).collect();
    let text = summary.to_text(None, usize::MAX, false);
    assert_eq!(heads(&text, "stage  ").join(" "), "scheduled ok sent/s ok/s p50 p99 p99 serv.");
    assert!(unwrapped(&text).contains(" 3: ramp to 3k/s over 10s 40 100 % "), "{text}");
    assert!(!text.contains("  stream  "), "there is one");

    summary.streams = ["base", "spike"].map(|name| figures(name, None)).into();
    summary.stages.push(figures("spike", Some(stage(1))));
    let text = summary.to_text(None, usize::MAX, false);
    assert!(text.contains("\n  spike 1: ramp") && text.contains("\n  main 3: ramp"), "{text}");
    assert!(text.contains("\n  stream  ") && text.contains("\n  base  "), "{text}");
}

#[test]
fn failures_without_objectives_are_pointed_out() {
    let mut summary = full();
    summary.verdict.findings.clear();
    summary.verdict.valid = true;
    summary.objectives.clear();
    let says = "exit code 0: 300 requests failed, but no objective limits failures; add";
    let text = unwrapped(&summary.to_text(None, 100, false));
    assert!(text.contains(says) && text.contains("--objective \"success >= 99%\""), "{text}");
    assert!(!text.contains("next: "), "one proposal is enough");
    let mut times = full().objectives;
    times.retain(|judged| !judged.objective.metric.limits_failures());
    times.iter_mut().for_each(|judged| judged.ok = true);
    assert!(!times.is_empty());
    summary.objectives = times;
    let text = unwrapped(&summary.to_text(None, 100, false));
    assert!(text.contains(says), "a time alone lets failures pass: {text}");
    let objective = plimsoll_plan::Objective::parse("success >= 1%").unwrap();
    summary.objectives = vec![Judged { objective, value: Some(0.9), ok: true, run: None }];
    assert!(!summary.to_text(None, 100, false).contains("exit code 0"));
}

#[test]
fn the_host_is_shown_only_if_it_was_unusual() {
    let quiet = HostSample { cpu: Nanos(1), ..HostSample::default() };
    let busy = HostSample {
        workers: vec![ThreadTime { run_delay: Nanos::from_millis(250), ..ThreadTime::default() }],
        cpus: Some(CpuTimes { total: 200, idle: 50, steal: 20, softirq: 0 }),
        throttled: Some(Throttled { periods: 3, time: Nanos::from_millis(120) }),
        descriptors: Some(Usage { used: 62, limit: 64 }),
        ..quiet.clone()
    };
    let table = |seconds: &[&HostSample]| {
        let mut summary = full();
        for (number, host) in seconds.iter().enumerate() {
            let mut second = summary.total.blank();
            second.host = (*host).clone();
            let from = Nanos::from_secs(number as u64);
            summary.timeline.add(&second, Seconds { from, to: from + Nanos::from_secs(1) });
        }
        let text = summary.to_text(None, usize::MAX, false);
        let lines = text.lines().skip_while(|line| !line.starts_with("  host "));
        lines.take(2).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let none: Vec<String> = table(&[&quiet, &quiet]);
    assert_eq!(none, [""; 0]);
    let shown = table(&[&quiet, &busy]);
    let heads = "host CPU steal run delay throttled dropped fullest";
    assert_eq!(shown, [heads, "1s–2s 65 % 10 % 25 % 120ms descriptors 96.9 %"]);
}
