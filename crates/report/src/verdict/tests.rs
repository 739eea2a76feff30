//! The rules on synthetic seconds: error classes and lateness here, its causes in `host`, connection limits in `limits`.

mod host;
mod limits;
mod queue;

use super::*;
use crate::synthetic::{Filled, Recording, open, plan};
use plimsoll_measure::{Fault, FindingId as Id};

const ZERO: Nanos = Nanos::ZERO;

fn millis(n: u64) -> Nanos {
    Nanos::from_millis(n)
}

/// Findings as `id severity side`.
fn headlines(verdict: &Verdict) -> Vec<String> {
    let headline =
        |finding: &Finding| format!("{} {} {}", finding.id, finding.severity, finding.side);
    verdict.findings.iter().map(headline).collect()
}

fn find(verdict: &Verdict, id: Id) -> &Finding {
    let found = verdict.findings.iter().find(|finding| finding.id == id);
    found.unwrap_or_else(|| panic!("no {id} in {:#?}", verdict.findings))
}

/// Start and end of a finding, in seconds.
fn seconds(finding: &Finding) -> (f64, f64) {
    (finding.from.as_secs_f64(), finding.to.as_secs_f64())
}

/// A run of 100/s over ten seconds: each second has 100 good answers in 20 ms; `fill` adds to the third,
/// fourth and fifth second.
fn verdict_of(fill: impl Fn(&mut Filled<'_>)) -> Verdict {
    let plan = open(100, 10);
    let mut recording = Recording::new(&plan);
    for second in 0..10 {
        recording.second(|filled| {
            filled.ok(0, 100, millis(20));
            if (2..5).contains(&second) {
                fill(filled);
            }
        });
    }
    recording.summary().verdict
}

#[track_caller]
fn check(verdict: &Verdict, findings: &[&str], limited_by: Option<Side>) {
    assert_eq!(headlines(verdict), findings, "{:#?}", verdict.findings);
    assert_eq!(verdict.limited_by, limited_by);
    let invalid = findings.iter().any(|finding| finding.contains(" invalid "));
    assert_eq!(verdict.valid, !invalid);
    for finding in &verdict.findings {
        assert!(!finding.evidence.is_empty() && !finding.fix.is_empty(), "{finding:?}");
    }
}

#[test]
fn a_clean_run_has_no_finding() {
    check(&verdict_of(|_| {}), &[], None);
}

#[test]
fn lag_counts_if_it_is_large_relative_to_latency() {
    let generator = Some(Side::Generator);
    type Row = (u64, u64, u64, &'static [&'static str], Option<Side>);
    let rows: [Row; 7] = [
        // Arrivals per second for three seconds, with their lag and service time in milliseconds.
        (10, 4, 20, &[], None), // below the floor
        (10, 30, 20, &["lag_high invalid generator"], generator), // 30 of 1,030
        (3, 30, 20, &["lag_high warning generator"], None), // 9 of 1,009
        (100, 30, 1000, &[], None), // relative to latencies of a second
        (100, 150, 1000, &["lag_high invalid generator"], generator),
        (1, 1500, 20, &["lag_high warning generator"], None), // only three, however late
        (0, 0, 0, &[], None),
    ];
    for (n, lag, service, findings, limited_by) in rows {
        let late =
            |filled: &mut Filled<'_>| filled.answered(0, n, [millis(lag), ZERO, millis(service)]);
        let verdict = verdict_of(late);
        check(&verdict, findings, limited_by);
        if let [finding] = verdict.findings.as_slice() {
            assert_eq!(seconds(finding), (2.0, 5.0));
        }
    }
    // One arrival of ten thousand is reported as info.
    let plan = open(10_000, 2);
    let mut recording = Recording::new(&plan);
    recording.second(|filled| filled.ok(0, 10_000, millis(1)));
    recording.second(|filled| {
        filled.ok(0, 9_999, millis(1));
        filled.answered(0, 1, [millis(8), ZERO, millis(1)]);
    });
    let verdict = recording.summary().verdict;
    check(&verdict, &["host_noise info generator"], None);
    let evidence = &verdict.findings[0].evidence;
    let one = "1 of 20,000 requests (0.01 %) was started more than 5ms late, the worst by 8ms";
    assert_eq!(evidence, one);
}

#[test]
fn lag_is_judged_by_open_stream() {
    let stream = |name: &str, load: &str| {
        format!(
            "[[stream]]\nname = \"{name}\"\n{load}\nduration = \"5s\"\n\
             [[stream.target]]\nname = \"{name}\"\nrequest = \"GET http://a/\"\n"
        )
    };
    let plan = plan(&format!(
        "{}{}{}",
        stream("steady", "rate = \"100/s\""),
        stream("late", "rate = \"10/s\""),
        stream("people", "users = 5"),
    ));
    let run = |lags: [u64; 3]| {
        let mut recording = Recording::new(&plan);
        recording.seconds(5, |filled| {
            for (target, n) in [(0, 100), (1, 10), (2, 5000)] {
                filled.answered(target, n, [millis(lags[target]), ZERO, millis(10)]);
            }
        });
        recording.summary().verdict
    };
    // It is hidden neither by the many arrivals of other streams nor by the closed stream's slow answers.
    let verdict = run([0, 8, 0]);
    check(&verdict, &["lag_high invalid generator"], Some(Side::Generator));
    assert!(
        verdict.findings[0].evidence.contains("50 requests of stream late (100 %)"),
        "{verdict:?}"
    );
    check(&run([0, 0, 50]), &[], None);
}

#[test]
fn read_lag_is_extrapolated_to_all_answers() {
    let read = |samples: u64, lag: u64| {
        verdict_of(|filled| {
            (0..samples).for_each(|_| filled.snapshot.read_lag.record(millis(lag)));
            (0..samples).for_each(|_| filled.snapshot.read_lag.record(ZERO));
        })
    };
    // Three seconds of a hundred answers each, half of them read late.
    check(&read(10, 30), &["read_late invalid generator"], Some(Side::Generator));
    check(&read(10, 4), &[], None);
    // A handful of samples is inconclusive, but five late ones are not.
    check(&read(1, 30), &[], None);
    check(&read(5, 30), &["read_late invalid generator"], Some(Side::Generator));
    let finding = read(10, 30).findings.remove(0);
    assert_eq!(seconds(&finding), (2.0, 5.0));
    assert!(
        finding.evidence.starts_with("about 15 % of the answers waited in the kernel"),
        "{finding:?}"
    );
}

#[test]
fn a_single_late_arrival_does_not_invalidate_a_tiny_run() {
    let plan = open(10, 1);
    let run = |late: u64| {
        let mut recording = Recording::new(&plan);
        recording.second(|filled| {
            filled.ok(0, 10 - late, millis(1));
            filled.answered(0, late, [millis(30), ZERO, millis(1)]);
        });
        recording.summary().verdict
    };
    check(&run(1), &["lag_high warning generator"], None);
    check(&run(4), &["lag_high warning generator"], None);
    check(&run(5), &["lag_high invalid generator"], Some(Side::Generator));
}

#[test]
fn the_fix_of_lateness_depends_on_how_busy_the_workers_were() {
    let fix = |busy: u64| {
        let verdict = verdict_of(|filled| {
            filled.answered(0, 10, [millis(30), ZERO, millis(20)]);
            filled.snapshot.workers.busy_max = millis(busy);
        });
        find(&verdict, Id::LagHigh).fix.clone()
    };
    assert_eq!(fix(900), "use more workers (--workers 2) or lower the rate");
    // Why is not known: these seconds have no host samples.
    let host =
        "stop other programs on this host, or use more workers (--workers 2) or lower the rate";
    assert_eq!(fix(300), host);
}

#[test]
fn arrivals_started_as_the_warm_up_ends_count() {
    let plan = plan(
        "rate = \"100/s\"\nduration = \"2s\"\nwarmup = \"1s\"\n[[target]]\nrequest = \"GET http://a/\"\n",
    );
    let mut recording = Recording::new(&plan);
    recording.second(|filled| filled.ok(0, 2, millis(1)));
    recording.second(|filled| filled.ok(0, 98, millis(1)));
    recording.second(|filled| {
        filled.ok(0, 90, millis(1));
        filled.answered(0, 10, [millis(30), ZERO, millis(1)]);
    });
    let verdict = recording.summary().verdict;
    assert!(verdict.findings[0].evidence.starts_with("10 of 200 requests (5 %)"), "{verdict:?}");
}

#[test]
fn handshakes_and_protocol_have_separate_findings() {
    let verdict = verdict_of(|filled| {
        filled.failed(0, 4, ErrorClass::Tls, millis(1));
        filled.failed(0, 3, ErrorClass::Protocol, millis(1));
        filled.failed(0, 2, ErrorClass::Status, millis(1));
    });
    let evidence: Vec<&str> = verdict.findings.iter().map(|own| own.evidence.as_str()).collect();
    let expected = [
        "12 of 1,027 requests (1.2 %) failed in the TLS handshake",
        "9 of 1,027 requests (0.9 %) got an answer that is not valid HTTP",
        "6 of 1,027 requests (0.6 %) got an unexpected answer",
    ];
    assert_eq!(evidence, expected);
    let fix = "see the tls error in the list of errors, which names the cause and what to set";
    assert_eq!(verdict.findings[0].fix, fix);
}

#[test]
fn a_silent_target_is_not_fixed_by_a_lower_rate() {
    let plan = open(10, 2);
    let mut recording = Recording::new(&plan);
    recording.seconds(2, |filled| filled.failed(0, 10, ErrorClass::ResponseTimeout, millis(500)));
    let verdict = recording.summary().verdict;
    let findings = ["nothing_ok warning target", "target_stalled warning target"];
    check(&verdict, &findings, Some(Side::Target));
    assert!(verdict.findings.iter().all(|own| own.fix.starts_with("check the service")));
}

#[test]
fn lateness_is_secondary_if_nothing_was_ok() {
    let plan = open(100, 10);
    let mut recording = Recording::new(&plan);
    recording.seconds(10, |filled| {
        filled.failed(0, 100, ErrorClass::Status, millis(5));
        let lag = &mut filled.snapshot.streams[0].lag;
        lag.clear();
        (0..98).for_each(|_| lag.record(ZERO));
        (0..2).for_each(|_| lag.record(millis(30)));
    });
    let findings =
        ["nothing_ok warning target", "target_errors warning target", "lag_high warning generator"];
    check(&recording.summary().verdict, &findings, Some(Side::Target));
}

#[test]
fn failures_in_the_generator() {
    use ErrorClass::*;
    let rows: [(ErrorClass, &[&str]); 5] = [
        (Late, &["plan_not_held invalid generator"]),
        (Aborted, &["plan_not_held invalid generator"]),
        (PortExhausted, &["ports_exhausted invalid generator", "plan_not_held invalid generator"]),
        (FdExhausted, &["fds_exhausted invalid generator", "plan_not_held invalid generator"]),
        (
            MemoryExhausted,
            &["memory_pressure invalid generator", "plan_not_held invalid generator"],
        ),
    ];
    for (class, findings) in rows {
        let verdict = verdict_of(|filled| filled.failed(0, 1, class, millis(1)));
        check(&verdict, findings, Some(Side::Generator));
        let not_held = find(&verdict, Id::PlanNotHeld);
        let evidence =
            format!("3 of 1,003 requests (0.3 %) failed because of the load generator: 3 {class}");
        assert_eq!((&not_held.evidence, seconds(not_held)), (&evidence, (2.0, 5.0)));
    }
    // One failure in ten thousand is a warning.
    let plan = open(10_000, 1);
    let mut recording = Recording::new(&plan);
    recording.second(|filled| {
        filled.ok(0, 9_999, millis(1));
        filled.failed(0, 1, PortExhausted, millis(1));
    });
    check(&recording.summary().verdict, &["ports_exhausted warning generator"], None);
}

#[test]
fn failures_in_the_network_and_at_the_target() {
    use ErrorClass::*;
    let rows: [(ErrorClass, &str); 13] = [
        (Dns, "dns_failed warning network"),
        (Unreachable, "unreachable warning network"),
        (ConnectTimeout, "unreachable warning network"),
        (Refused, "target_refused warning target"),
        (Reset, "target_reset warning target"),
        (ClosedEarly, "target_reset warning target"),
        (ResponseTimeout, "target_stalled warning target"),
        (RpcError, "target_rpc_errors warning target"),
        (Tls, "target_errors warning target"),
        (Protocol, "target_errors warning target"),
        (BodyTooLarge, "target_errors warning target"),
        (Status, "target_errors warning target"),
        (Check, "target_errors warning target"),
    ];
    for (class, finding) in rows {
        let verdict = verdict_of(|filled| filled.failed(0, 5, class, millis(40)));
        check(&verdict, &[finding], Some(class.side()));
        assert_eq!(seconds(&verdict.findings[0]), (2.0, 5.0));
        // Errors of 1 % of the arrivals have not limited the run.
        let verdict = verdict_of(|filled| filled.failed(0, 1, class, millis(40)));
        check(&verdict, &[finding], None);
    }
}

#[test]
fn closed_keep_alive_connections_and_silent_handshakes_are_not_crashes() {
    let verdict = verdict_of(|filled| {
        filled.faulty(4, ErrorClass::Reset, Fault::StaleKeepAlive);
        filled.failed(0, 1, ErrorClass::Reset, millis(1));
        filled.faulty(2, ErrorClass::Tls, Fault::HandshakeTimeout);
    });
    let findings = [
        "target_reset warning target",
        "target_stalled warning target",
        "target_reset warning target",
    ];
    check(&verdict, &findings, Some(Side::Target));
    let [stale, handshake, reset] = verdict.findings.as_slice() else { panic!("three") };
    assert!(
        stale
            .evidence
            .starts_with("12 of 1,021 requests (1.2 %) failed because the target closed a"),
        "{stale:?}"
    );
    assert!(stale.fix.contains("keep-alive timeout"), "{stale:?}");
    assert!(handshake.evidence.contains("did not answer the TLS handshake"), "{handshake:?}");
    assert!(
        reset.evidence.starts_with("3 of 1,021 requests (0.3 %) failed because the target reset"),
        "{reset:?}"
    );
}

/// During a run, the exchanges that are open count as ok.
#[test]
fn what_is_open_may_still_be_ok() {
    let plan = open(100, 2);
    let mut recording = Recording::new(&plan);
    recording.seconds(2, |filled| {
        filled.failed(0, 10, ErrorClass::Reset, millis(5));
        let messages = filled.snapshot.stats[0].messages_mut();
        messages.opened = 40;
        messages.opening.record_n(millis(1), 40);
    });
    let summary = recording.summary();
    assert!(!summary.nothing_ok(), "{:?}", summary.verdict.findings);
    assert_eq!(summary.success(), Some(0.8));
}

#[test]
fn nothing_ok_is_the_first_finding() {
    use ErrorClass::*;
    let plan = open(100, 2);
    let run = |errors: &[(ErrorClass, u64)]| {
        let mut recording = Recording::new(&plan);
        recording.seconds(2, |filled| {
            errors.iter().for_each(|(class, n)| filled.failed(0, *n, *class, millis(5)));
        });
        recording.summary()
    };
    type Row = (&'static [(ErrorClass, u64)], &'static str, Side);
    let rows: [Row; 5] = [
        (&[(Refused, 100)], "warning", Side::Target),
        (&[(ConnectTimeout, 60), (Refused, 40)], "warning", Side::Network),
        (&[(PortExhausted, 90), (Reset, 10)], "invalid", Side::Generator),
        (&[(Late, 1), (Reset, 99)], "warning", Side::Target), // lateness is secondary
        (&[], "warning", Side::Target),
    ];
    for (errors, severity, side) in rows {
        let summary = run(errors);
        let verdict = &summary.verdict;
        assert_eq!(headlines(verdict)[0], format!("nothing_ok {severity} {side}"), "{errors:?}");
        assert!(summary.nothing_ok());
        assert_eq!((verdict.valid, verdict.limited_by), (severity != "invalid", Some(side)));
    }
    let finding = run(&[(Refused, 100)]).verdict.findings.remove(0);
    let evidence = "all 200 requests failed with the error \"refused\"";
    assert_eq!(finding.evidence, evidence);
    assert_eq!(finding.fix, "check that the target is running and listens on this port");
    let finding = run(&[]).verdict.findings.remove(0);
    assert_eq!(finding.evidence, "no request was due");
}

#[test]
fn runs_that_were_stopped_or_forced() {
    let plan = open(100, 60);
    let mut recording = Recording::new(&plan);
    recording.second(|filled| filled.ok(0, 95, millis(5)));
    recording.second(|filled| filled.failed(0, 5, ErrorClass::Aborted, millis(500)));
    recording.facts.cut_short = true;
    recording.facts.duration = millis(1500);
    let verdict = recording.summary().verdict;
    check(&verdict, &["cut_short info generator"], None);
    assert_eq!(verdict.findings[0].evidence, "the run was stopped after 1.5s");
    recording.facts.forced =
        vec!["host \"a\" does not resolve".into(), "it needs 30 of 20 descriptors".into()];
    let verdict = recording.summary().verdict;
    check(&verdict, &["forced warning generator", "cut_short info generator"], None);
    let evidence = "started with --force despite: host \"a\" does not resolve; \
                    it needs 30 of 20 descriptors";
    assert_eq!(verdict.findings[0].evidence, evidence);
}

#[test]
fn a_stop_during_the_warm_up_is_only_cut_short() {
    let plan = plan(
        "rate = \"100/s\"\nduration = \"3s\"\nwarmup = \"2s\"\n[[target]]\nrequest = \"GET http://a/\"\n",
    );
    let mut recording = Recording::new(&plan);
    recording.second(|_| {});
    (recording.facts.cut_short, recording.facts.duration) = (true, ZERO);
    let summary = recording.summary();
    check(&summary.verdict, &["cut_short info generator"], None);
    assert!(!summary.nothing_ok());
    assert_eq!(
        summary.verdict.findings[0].evidence,
        "the run was stopped during the warm-up; no request was counted"
    );
}

#[test]
fn the_warm_up_is_not_judged() {
    let plan = plan(
        "rate = \"100/s\"\nduration = \"3s\"\nwarmup = \"2s\"\nconnections = { max = 2 }\n\
         [[target]]\nrequest = \"GET http://a/\"\n",
    );
    let mut recording = Recording::new(&plan);
    recording.seconds(2, |filled| {
        let origin = filled.origin(0);
        (origin.limit, origin.wanted, origin.starved) = (2, 100, 50);
        origin.capped = Nanos::from_secs(1);
        filled.snapshot.read_lag.record(millis(500));
        filled.snapshot.faults.add(Fault::StaleKeepAlive, 1);
    });
    recording.seconds(3, |filled| filled.ok(0, 100, millis(5)));
    let ids: Vec<Id> =
        recording.summary().verdict.findings.iter().map(|finding| finding.id).collect();
    assert!(!ids.contains(&Id::ReadLate) && !ids.contains(&Id::ConnectionsCapped), "{ids:?}");
}

#[test]
fn advice_names_flags_or_keys_and_no_more_workers_than_cpus() {
    let mut plan = open(200, 5);
    for (from_flags, fix) in [(false, "raise connections.max"), (true, "raise --connections")] {
        plan.from_flags = from_flags;
        let mut recording = Recording::new(&plan);
        recording.facts.workers = recording.facts.cpus;
        recording.seconds(5, |filled| filled.failed(0, 1, ErrorClass::NoConnection, millis(1)));
        let verdict = recording.summary().verdict;
        let found = find(&verdict, Id::PlanNotHeld);
        assert!(found.fix.starts_with(fix), "{found:?}");
        let mut recording = Recording { seconds: Vec::new(), ..recording };
        recording.seconds(5, |filled| filled.failed(0, 1, ErrorClass::Late, millis(1)));
        let verdict = recording.summary().verdict;
        let found = find(&verdict, Id::PlanNotHeld);
        assert!(found.fix.starts_with("lower the rate, or use a host with more CPUs"), "{found:?}");
    }
}

#[test]
fn ends_of_http2_streams_and_connections_are_told_apart() {
    let verdict = verdict_of(|filled| {
        filled.faulty(40, ErrorClass::Reset, Fault::RefusedStream);
        filled.faulty(30, ErrorClass::Reset, Fault::EnhanceYourCalm);
        filled.faulty(20, ErrorClass::Reset, Fault::Goaway);
        filled.faulty(10, ErrorClass::Reset, Fault::StreamReset);
        filled.faulty(5, ErrorClass::Protocol, Fault::NotHttp2);
        filled.faulty(4, ErrorClass::Protocol, Fault::FrameFlood);
        // Of a connection, and not an error.
        filled.snapshot.faults.add(Fault::GoawayLocal, 1);
        filled.snapshot.faults.add(Fault::GoawayMoved, 7);
    });
    let ids: Vec<Id> = verdict.findings.iter().map(|finding| finding.id).collect();
    use Id::{GoawayLocal, TargetErrors, TargetGoaway, TargetReset};
    let expected = [
        TargetGoaway,
        TargetGoaway,
        TargetGoaway,
        TargetReset,
        TargetErrors,
        TargetErrors,
        GoawayLocal,
    ];
    assert_eq!(ids, expected, "{:#?}", verdict.findings);
    let has = |at: usize, words: &str| {
        assert!(verdict.findings[at].evidence.contains(words), "{:?}", verdict.findings[at]);
    };
    has(0, "REFUSED_STREAM");
    has(1, "ENHANCE_YOUR_CALM");
    has(2, "ended their connection with GOAWAY");
    has(4, "does not speak HTTP/2");
    has(5, "not valid HTTP");
    has(6, "3 connections were ended by this side with GOAWAY");
}

#[test]
fn redirects_are_pointed_out_if_they_were_neither_followed_nor_expected() {
    let check = |key: &str, expect: &str, statuses: &[(u16, u64)], evidence: Option<&str>| {
        let plan = crate::synthetic::plan(&format!(
            "rate = \"10/s\"\nduration = \"1s\"\n{key}\n[[target]]\nrequest = \"GET http://a/\"\n{expect}\n"
        ));
        let mut recording = Recording::new(&plan);
        recording.second(|filled| {
            filled.ok(0, 10, millis(1));
            statuses.iter().for_each(|(status, n)| filled.snapshot.status.add(*status, *n));
        });
        let verdict = recording.summary().verdict;
        let found = verdict.findings.iter().find(|own| own.id == Id::RedirectsNotFollowed);
        assert_eq!(found.map(|own| own.evidence.as_str()), evidence, "{key} {expect}");
        assert!(found.is_none_or(|own| own.severity == Severity::Info) && verdict.valid);
    };
    let to_follow = |text: &str| format!("{text}; set redirects = N to follow them");
    let all = to_follow("all 10 answers were 302 redirects, which were not followed");
    check("", "", &[(302, 10)], Some(&all));
    let some = to_follow("3 of 10 answers were redirects, which were not followed");
    check("", "", &[(200, 7), (301, 1), (308, 2)], Some(&some));
    let one = to_follow("1 of 10 answers was a 307 redirect, which was not followed");
    check("", "", &[(200, 9), (307, 1)], Some(&one));
    check("", "", &[(200, 9), (304, 1)], None); // not a redirect
    check("redirects = 1", "", &[(302, 10)], None);
    check("", "expect.status = 302", &[(302, 10)], None);
}
