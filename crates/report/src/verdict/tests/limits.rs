//! Connection limits: which side is at fault for waits at them.

use super::queue::{Case, Service};
use super::*;
use plimsoll_measure::StreamLimits;

/// 200/s of 50 ms each need 10 connections; there are 4.
const FOUR: Case = Case {
    rate: 200,
    secs: 10,
    limit: 4,
    timeout: 60_000,
    service: Service::Constant(50),
    burst: 0,
    poisson: false,
    seed: 1,
};

fn verdict_of(cases: &[Case]) -> Verdict {
    let plan = Case::plan(cases);
    Case::record(cases, &plan).summary().verdict
}

/// The side that a verdict blames for waits: none, the limit (with a sufficient one), or the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blames {
    Nobody,
    Limit(u64),
    /// The limit, but for so few arrivals that the run is valid.
    Minor,
    Target,
}

fn blames(verdict: &Verdict) -> Blames {
    let capped = verdict.findings.iter().find(|finding| finding.id == Id::ConnectionsCapped);
    let generator = capped.filter(|finding| finding.severity != Severity::Info);
    let target = verdict.findings.iter().any(|finding| finding.side == Side::Target);
    assert_eq!(verdict.limited_by == Some(Side::Target), target && verdict.valid, "{verdict:#?}");
    match (verdict.valid, generator) {
        (false, Some(capped)) => {
            assert_eq!(verdict.findings[0], *capped, "the cause comes first");
            assert!(!target, "the target is not blamed: {verdict:#?}");
            let number = capped.fix.strip_prefix("raise connections.max to ").unwrap();
            Blames::Limit(number.parse().unwrap())
        }
        (false, None) => panic!("{verdict:#?}"),
        (true, Some(_)) => Blames::Minor,
        (true, None) if target => Blames::Target,
        (true, None) => Blames::Nobody,
    }
}

#[test]
fn a_low_limit_is_distinguished_from_a_slow_target() {
    use Blames::*;
    use Service::*;
    let slow = SlowsDown(50, 500, 5);
    let twenty = Case { limit: 20, ..FOUR };
    let short = |case: Case| Case { timeout: 1000, ..case };
    let poisson = |case: Case| Case { poisson: true, ..case };
    let thousand = Case { rate: 1000, limit: 10, ..FOUR };
    let rows: [(Case, Blames); 29] = [
        (FOUR, Limit(20)), // all ok, after up to 15 s, of which 50 ms are service time
        (short(FOUR), Limit(20)),
        (Case { service: Exponential(50), ..FOUR }, Limit(20)),
        (short(Case { service: Exponential(50), ..FOUR }), Limit(20)),
        (Case { limit: 1, ..FOUR }, Limit(20)),
        (Case { rate: 20, service: Constant(2000), ..FOUR }, Limit(55)), // no answer for 2 s
        (Case { limit: 10, ..FOUR }, Nobody), // exactly enough for evenly spaced arrivals
        (poisson(Case { limit: 10, ..FOUR }), Limit(20)),
        (poisson(Case { limit: 11, service: Exponential(50), ..FOUR }), Limit(20)),
        (poisson(twenty), Nobody), // the suggested limit is sufficient
        (poisson(Case { service: Exponential(50), ..twenty }), Nobody),
        // The target becomes ten times slower: with headroom before, and with hardly any.
        (Case { service: slow, ..twenty }, Target),
        (short(Case { service: slow, ..twenty }), Target),
        (Case { rate: 50, service: slow, ..FOUR }, Target),
        (short(Case { rate: 50, service: slow, ..FOUR }), Target),
        // A server with half of the required capacity, from the start.
        (Case { service: Server(10), ..twenty }, Target),
        (short(Case { service: Server(10), ..twenty }), Target),
        (Case { limit: 500, service: Server(10), ..FOUR }, Target),
        (short(Case { limit: 2000, service: Server(20), ..FOUR }), Target),
        // A server that stalls periodically.
        (Case { service: Stalls(1000, 5), ..thousand }, Target),
        (Case { limit: 64, timeout: 500, service: Stalls(1000, 5), ..thousand }, Target),
        (Case { limit: 20, service: Stalls(200, 5), ..thousand }, Target),
        (short(Case { service: Hangs, ..FOUR }), Target),
        // A stall at the start, when the own service time is not known yet.
        (Case { limit: 10, timeout: 5000, service: StallsFirst(2000), ..FOUR }, Target),
        (Case { limit: 10, timeout: 5000, service: StallsFirst(2990), secs: 3, ..FOUR }, Target),
        (short(Case { limit: 10, service: StallsFirst(2000), ..FOUR }), Target),
        (Case { limit: 10, service: StallsFirst(2000), poisson: true, ..FOUR }, Target),
        // A burst at the start is a warning, unless arrivals fail because of it.
        (Case { burst: 100, ..twenty }, Minor),
        (Case { burst: 100, timeout: 200, ..twenty }, Limit(25)),
    ];
    for (case, expected) in rows {
        let verdict = verdict_of(&[case]);
        assert_eq!(blames(&verdict), expected, "{case:?}: {:#?}", verdict.findings);
    }
}

#[test]
fn a_limit_of_http2_streams_is_the_plans_or_the_targets() {
    let case = Case { timeout: 1000, ..FOUR };
    let verdict = |http2: StreamLimits| {
        let plan = Case::plan(&[case]);
        let mut recording = Case::record(&[case], &plan);
        recording.seconds.iter_mut().for_each(|second| second.origins[0].http2 = Some(http2));
        recording.summary().verdict
    };
    let limits = StreamLimits { connections: 2, streams: 100, peer: Some(2), in_use: 0 };
    let targets = verdict(limits);
    let found = find(&targets, Id::PeerStreamLimit);
    assert!(
        found.evidence.contains(
            "waited for one of 4 streams (2 HTTP/2 connections; the target allows 2 on each)"
        ) && found.evidence.contains("so 4 streams carry 80/s of 200/s"),
        "{found:?}"
    );
    assert_eq!(
        found.fix,
        "raise connections.http2.connections to 9, or the target's limit of streams per connection \
         (nginx: http2_max_concurrent_streams, Traefik: maxConcurrentStreams) to 9"
    );
    assert_eq!((found.side, found.severity), (Side::Generator, Severity::Invalid));
    let plans = verdict(StreamLimits { streams: 2, peer: Some(128), ..limits });
    let found = find(&plans, Id::ConnectionsCapped);
    assert!(found.evidence.contains("(2 HTTP/2 connections; 2 on each)"), "{found:?}");
    assert_eq!(found.fix, "raise connections.http2.connections to 9");
    let none = verdict(StreamLimits { peer: None, streams: 4, connections: 1, in_use: 0 });
    assert!(find(&none, Id::ConnectionsCapped).evidence.contains("(1 HTTP/2 connection; 4 on it)"));
}

#[test]
fn the_evidence_contains_the_numbers() {
    let verdict = verdict_of(&[Case { timeout: 1000, ..FOUR }]);
    let check = |id: Id, evidence: &str, fix: &str| {
        let finding = find(&verdict, id);
        assert_eq!((finding.evidence.as_str(), finding.fix.as_str()), (evidence, fix));
    };
    check(
        Id::ConnectionsCapped,
        "99.6 % of the requests waited for one of 4 connections, 1,124 of them too long to be \
         answered before the timeout; the target answers in 50ms, so 4 connections carry 80/s of \
         200/s",
        "raise connections.max to 20",
    );
    check(
        Id::PlanNotHeld,
        "1,124 of 2,000 requests (56.2 %) failed because of the load generator: 1,124 no_connection",
        "raise connections.max to 20",
    );
    assert_eq!(verdict.side_of(ErrorClass::NoConnection), Side::Generator);
    let slow = Case { limit: 20, service: Service::SlowsDown(50, 500, 5), ..FOUR };
    let verdict = verdict_of(&[Case { timeout: 1000, ..slow }]);
    assert_eq!(verdict.side_of(ErrorClass::ResponseTimeout), Side::Target);
    let verdict = verdict_of(&[slow]);
    let finding = find(&verdict, Id::TargetSaturated);
    let evidence = "49 % of the requests waited for one of 20 connections; the target's service \
                    time rose from 50ms to 500ms";
    assert_eq!((finding.evidence.as_str(), finding.from), (evidence, Nanos::from_secs(5)));
}

#[test]
fn origins_are_judged_separately() {
    let healthy = Case { service: Service::Constant(5), ..FOUR };
    for timeout in [1000, 60_000] {
        let cases = [FOUR, healthy].map(|case| Case { timeout, ..case });
        let verdict = verdict_of(&cases);
        assert_eq!(blames(&verdict), Blames::Limit(20), "{:#?}", verdict.findings);
        assert!(verdict.findings[0].evidence.contains("of the requests to http://h0:80 waited"));
        let slow = Case { timeout, service: Service::SlowsDown(5, 500, 5), ..FOUR };
        let verdict = verdict_of(&[Case { timeout, ..healthy }, slow]);
        assert_eq!(blames(&verdict), Blames::Target, "{:#?}", verdict.findings);
        assert!(verdict.findings.iter().any(|found| found.evidence.contains("to http://h1:80")));
    }
}

#[test]
fn users_need_at_most_one_connection_each() {
    let plan = plan(
        "users = 30\nduration = \"3s\"\nconnections = { max = 4 }\n\
         [[target]]\nrequest = \"GET http://a/\"\n",
    );
    let mut recording = Recording::new(&plan);
    recording.seconds(3, |filled| {
        filled.answered(0, 80, [ZERO, millis(300), millis(50)]);
        let origin = filled.origin(0);
        (origin.limit, origin.wanted, origin.capped) = (4, 80, Nanos::from_secs(1));
        origin.in_use = Nanos::from_secs(4);
        (0..80).for_each(|_| origin.service_capped.add(millis(50)));
    });
    let verdict = recording.summary().verdict;
    assert_eq!(blames(&verdict), Blames::Limit(30), "{:#?}", verdict.findings);
    let evidence = "100 % of the requests waited for one of 4 connections; the target answers in \
                    50ms, so 4 connections carry 80/s of 600/s";
    assert_eq!(verdict.findings[0].evidence, evidence);
}

/// Checks that the first finding is the same for several seeds.
#[track_caller]
fn always(case: Case, id: Id) {
    for timeout in [1000, 60_000] {
        for seed in 0..6 {
            let case = Case { seed, timeout, poisson: true, ..case };
            let verdict = verdict_of(&[case]);
            let first = verdict.findings.first().map(|finding| finding.id);
            assert_eq!(first, Some(id), "{case:?}: {:#?}", verdict.findings);
            assert_eq!(verdict.valid, id == Id::TargetSaturated);
        }
    }
}

#[test]
fn chance_does_not_decide_the_side() {
    use Service::*;
    let case = |limit, service| Case { limit, service, ..FOUR };
    for too_low in [case(4, Exponential(50)), case(8, Exponential(50)), case(4, Cached(491))] {
        always(too_low, Id::ConnectionsCapped);
    }
    for slow in [
        case(20, SlowsDownAtRandom(50, 5)),
        case(20, Server(10)),
        case(60, Server(6)),
        Case { rate: 20, ..case(4, SlowsDownAtRandom(50, 5)) },
    ] {
        always(slow, Id::TargetSaturated);
    }
    for healthy in [case(20, Exponential(50)), case(20, Cached(491))] {
        for seed in 0..12 {
            let verdict = verdict_of(&[Case { seed, poisson: true, ..healthy }]);
            let weighty = |finding: &&Finding| finding.severity != Severity::Info;
            assert_eq!(verdict.findings.iter().find(weighty), None);
        }
    }
}

#[test]
fn a_changed_mix_of_targets_is_not_a_slower_target() {
    let stream = |name: &str, start: u64| {
        format!(
            "[[stream]]\nname = \"{name}\"\nstart = \"{start}s\"\nrate = \"200/s\"\nduration = \"5s\"\n\
             [[stream.target]]\nname = \"{name}\"\nrequest = \"GET http://a/\"\n"
        )
    };
    let plan = plan(&format!(
        "connections = {{ max = 10 }}\n{}{}",
        stream("quick", 0),
        stream("thorough", 5)
    ));
    let mut recording = Recording::new(&plan);
    recording.seconds(5, |filled| {
        filled.ok(0, 200, millis(5));
        let origin = filled.origin(0);
        (origin.limit, origin.wanted, origin.in_use) = (10, 200, Nanos::from_secs(1));
        (0..200).for_each(|_| origin.service_free.add(millis(5)));
    });
    // The slower target takes 100 ms, so it always needed 20 connections.
    recording.seconds(5, |filled| {
        filled.answered(1, 100, [ZERO, millis(700), millis(100)]);
        let origin = filled.origin(0);
        (origin.limit, origin.wanted, origin.in_use) = (10, 200, Nanos::from_secs(10));
        origin.capped = Nanos::from_secs(1);
        (0..100).for_each(|_| origin.service_capped.add(millis(100)));
    });
    let verdict = recording.summary().verdict;
    assert_eq!(blames(&verdict), Blames::Limit(30), "{:#?}", verdict.findings);
}

/// A second at the limit, with answers of these service times, during which connections were in use.
fn at_limit(filled: &mut Filled<'_>, limit: u64, wanted: u64, answers: &[(u64, Nanos)]) {
    for (n, service) in answers {
        filled.answered(0, *n, [ZERO, millis(1000), *service]);
    }
    let origin = filled.origin(0);
    (origin.limit, origin.wanted, origin.capped) = (limit, wanted, millis(900));
    origin.in_use = Nanos::from_secs(limit);
    for (n, service) in answers {
        (0..*n).for_each(|_| origin.service_capped.add(*service));
    }
}

/// A second in which no arrival waited.
fn below_limit(filled: &mut Filled<'_>, limit: u64, n: u64, service: Nanos) {
    filled.ok(0, n, service);
    let origin = filled.origin(0);
    (origin.limit, origin.wanted, origin.in_use) = (limit, n, Nanos(n * service.0));
    (0..n).for_each(|_| origin.service_free.add(service));
}

#[test]
fn a_stall_at_the_start_is_attributed_to_the_target() {
    let plan = open(200, 10);
    let mut recording = Recording::new(&plan);
    recording.seconds(2, |filled| at_limit(filled, 10, 200, &[]));
    recording.second(|filled| {
        at_limit(filled, 10, 200, &[(10, millis(2050)), (500, Nanos(100_000))]);
    });
    let cut = recording.seconds.len();
    recording.seconds(7, |filled| below_limit(filled, 10, 200, Nanos(100_000)));
    let verdict = recording.summary().verdict;
    assert_eq!(blames(&verdict), Blames::Target, "{:#?}", verdict.findings);
    // Also if the connections are always at the limit but sustain the rate.
    recording.seconds.truncate(cut);
    recording.seconds(7, |filled| at_limit(filled, 10, 200, &[(200, millis(49))]));
    let verdict = recording.summary().verdict;
    assert_eq!(blames(&verdict), Blames::Target, "{:#?}", verdict.findings);
}

#[test]
fn observed_throughput_is_a_lower_bound_of_capacity() {
    let plan = open(1000, 6);
    let mut recording = Recording::new(&plan);
    // The first answers were queued behind other work.
    recording.second(|filled| at_limit(filled, 50, 1000, &[(250, millis(198))]));
    recording.seconds(5, |filled| at_limit(filled, 50, 1000, &[(973, millis(51))]));
    let verdict = recording.summary().verdict;
    let finding = verdict.findings.iter().find(|own| own.id == Id::ConnectionsCapped);
    let evidence = &finding.unwrap_or_else(|| panic!("{verdict:#?}")).evidence;
    assert!(evidence.contains("50 connections carry 973/s"), "{evidence}");
}

#[test]
fn an_overloaded_generator_blames_neither_limit_nor_target() {
    let plan = open(100, 6);
    let run = |lag: u64| {
        let mut recording = Recording::new(&plan);
        recording.seconds(3, |filled| below_limit(filled, 4, 100, millis(5)));
        recording.seconds(3, |filled| {
            at_limit(filled, 4, 100, &[(50, millis(80))]);
            (0..50).for_each(|_| filled.snapshot.read_lag.record(millis(lag)));
        });
        recording.summary().verdict
    };
    check(&run(70), &["read_late invalid generator"], Some(Side::Generator));
    check(&run(1), &["target_saturated warning target"], Some(Side::Target));
}

#[test]
fn nothing_was_answered_at_all() {
    let plan = open(100, 4);
    let run = |occupied: Nanos| {
        let mut recording = Recording::new(&plan);
        recording.seconds(4, |filled| {
            filled.failed(0, 96, ErrorClass::NoConnection, millis(1000));
            filled.failed(0, 4, ErrorClass::ResponseTimeout, millis(1000));
            at_limit(filled, 4, 100, &[]);
            filled.origin(0).starved = 96;
            filled.origin(0).occupied = occupied;
        });
        recording.summary().verdict
    };
    let verdict = run(ZERO);
    let saturated = find(&verdict, Id::TargetSaturated);
    assert!(saturated.evidence.ends_with("accepted connections but never answered"));
    assert!(saturated.fix.starts_with("check the service"), "{saturated:?}");
    assert!(verdict.findings[0].fix.starts_with("check the service"), "{verdict:#?}");
    let verdict = run(Nanos::from_secs(4));
    let saturated = find(&verdict, Id::TargetSaturated);
    assert!(saturated.evidence.ends_with("no connection was established in time"));
}

#[test]
fn connecting_occupies_a_connection() {
    let plan = open(50, 5);
    let run = |limit: u64, answers: u64, connecting: u64| {
        let mut recording = Recording::new(&plan);
        recording.seconds(5, |filled| {
            at_limit(filled, limit, 50, &[(answers, millis(1))]);
            let origin = filled.origin(0);
            origin.in_use = millis(answers);
            origin.occupied = Nanos::from_secs(limit);
            (0..answers).for_each(|_| origin.connected.add(millis(connecting)));
        });
        recording.summary().verdict
    };
    // Only at the start if connections are reused.
    let mut recording = Recording::new(&plan);
    recording.second(|filled| {
        at_limit(filled, 8, 50, &[(50, millis(1))]);
        let origin = filled.origin(0);
        (origin.in_use, origin.occupied) = (millis(50), Nanos::from_secs(8));
        (0..8).for_each(|_| origin.connected.add(millis(300)));
    });
    recording.seconds(4, |filled| below_limit(filled, 8, 50, millis(1)));
    let verdict = recording.summary().verdict;
    assert_eq!(blames(&verdict), Blames::Minor, "{:#?}", verdict.findings);
    let opened = "they arrived while connections were still being opened, which took 300ms";
    assert!(verdict.findings[0].evidence.contains(opened), "{verdict:#?}");
    assert_eq!(verdict.findings[0].fix, "raise connections.max to 25");
    let verdict = run(8, 26, 300);
    assert_eq!(blames(&verdict), Blames::Limit(25), "{:#?}", verdict.findings);
    let evidence = "100 % of the requests waited for one of 8 connections; the target answers in \
                    1ms after 300ms of connecting, so 8 connections carry 27/s of 50/s";
    assert_eq!(verdict.findings[0].evidence.replace("52 %", "100 %"), evidence);
}

#[test]
fn users_need_no_headroom() {
    let plan = plan(
        "users = 30\nduration = \"3s\"\nconnections = { max = 30 }\n\
         [[target]]\nrequest = \"GET http://a/\"\n",
    );
    let mut recording = Recording::new(&plan);
    recording.seconds(3, |filled| at_limit(filled, 30, 600, &[(600, millis(50))]));
    let verdict = recording.summary().verdict;
    assert!(verdict.valid, "{:#?}", verdict.findings);
    assert!(!verdict.findings.iter().any(|own| own.evidence.contains("more at peaks")));
}
