//! Merged runs: sums, rates, verdicts and objectives.

use super::*;
use crate::synthetic::{Recording, open, plan};
use plimsoll_measure::rng::Key;
use plimsoll_measure::{ErrorClass, Fault, Histogram, Listed};
use proptest::prelude::*;

fn millis(n: u64) -> Nanos {
    Nanos::from_millis(n)
}

const PLAN: &str = "rate = \"10/s\"\nduration = \"2s\"\n\
     [[target]]\nname = \"a\"\ntags = { chain = \"eth\" }\nrequest = \"GET http://a/\"\n\
     [[target]]\nname = \"b\"\ntags = { chain = \"eth\" }\nrequest = \"GET http://a/\"\n\
     [[objective]]\nthat = \"success >= 60%\"\n";

/// Two seconds of 10/s, `ok` of each ten answered; started at a second of the wall clock.
fn recorded(plan: &Plan, ok: u64, started_at: u64) -> Recording<'_> {
    let mut recording = Recording::new(plan);
    recording.seconds(2, |filled| {
        filled.ok(0, ok, millis(2));
        if ok < 10 {
            filled.failed(0, 10 - ok, ErrorClass::Reset, millis(1));
        }
        filled.snapshot.connections.opened = 2;
        filled.snapshot.connections.peak = ok;
        filled.snapshot.host.cpu = millis(10);
    });
    recording.facts.started_at = WallClock { unix_ns: started_at * 1_000_000_000 };
    recording
}

fn merged(runs: &[(&str, &Recording<'_>)]) -> Summary {
    let mut merge = Merge::new();
    for (label, recording) in runs {
        merge.add(Run {
            label: label.to_string(),
            plan: recording.plan,
            summary: recording.summary(),
        });
    }
    merge.finish()
}

#[test]
fn rates_are_over_the_time_in_which_any_run_was_active() {
    let plan = plan(PLAN);
    let [first, at_once, later, overlapping] = [0, 0, 100, 1].map(|at| recorded(&plan, 10, at));
    let check = |other: &Recording<'_>, rate: f64, active: u64| {
        let mut other =
            Recording { seconds: other.seconds.clone(), facts: other.facts.clone(), ..*other };
        // The same start on another host: another seed would tell them apart.
        other.facts.started_at.unix_ns += 1;
        let summary = merged(&[("one", &first), ("other", &other)]);
        let close = |value: Option<f64>| {
            let value = value.unwrap();
            assert!((value - rate).abs() < 1e-6, "{value} is not {rate}");
        };
        let rates = summary.all.rates();
        [rates.scheduled, rates.sent, rates.ok].into_iter().for_each(close);
        close(summary.streams[0].group.rates().ok);
        close(summary.tags["chain"][0].rates().ok);
        assert_eq!(summary.all.stats.requests.ok, 40);
        let spent = summary.merged.unwrap().active;
        assert!((spent.as_secs_f64() - active as f64).abs() < 1e-6, "{spent}");
    };
    check(&at_once, 20.0, 2);
    check(&later, 10.0, 4);
    check(&overlapping, 40.0 / 3.0, 3);
}

#[test]
fn runs_of_one_plan_are_judged_together_and_of_different_plans_alone() {
    let plan = plan(PLAN);
    let (good, bad) = (recorded(&plan, 10, 0), recorded(&plan, 4, 100));
    let summary = merged(&[("good", &good), ("bad", &bad)]);
    let judged = |summary: &Summary| -> Vec<(Option<String>, Option<f64>, bool)> {
        summary.objectives.iter().map(|own| (own.run.clone(), own.value, own.ok)).collect()
    };
    assert_eq!(judged(&summary), [(None, Some(0.7), true)]);
    assert_eq!(summary.total.connections.opened, 8);
    assert_eq!(summary.total.connections.peak, 10, "of one run");
    assert_eq!(summary.cpu_per_request().unwrap().all, millis(1));

    let other = crate::synthetic::plan(&PLAN.replace("10/s", "11/s").replace("\"b\"", "\"c\""));
    let other = recorded(&other, 10, 200);
    let summary = merged(&[("good", &good), ("other", &other), ("bad", &bad)]);
    let run = |name: &str| Some(name.to_string());
    let alone = [
        (run("good"), Some(1.0), true),
        (run("other"), Some(1.0), true),
        (run("bad"), Some(0.4), false),
    ];
    assert_eq!(judged(&summary), alone);
    let targets: Vec<_> = summary.targets.iter().map(|(own, _)| own.name.as_str()).collect();
    assert_eq!(targets, ["a", "b", "c"]);
    assert_eq!(summary.targets[0].0.stats.requests.scheduled, 60);
    assert_eq!(summary.lag().unwrap().count(), 60, "without the layout of a plan");
    let text = summary.to_text(None, usize::MAX, false);
    assert!(text.starts_with("merged: 3 runs of 2 different plans\n"), "{text}");
    assert!(text.contains("  MISSED     bad: success >= 60%: 40 %"), "{text}");
    assert!(text.contains("judged on each run alone, because the plans differ"), "{text}");
}

#[test]
fn an_invalid_run_makes_all_invalid_and_is_named() {
    let plan = open(10, 1);
    let mut valid = Recording::new(&plan);
    valid.second(|filled| filled.ok(0, 30, millis(1)));
    let mut late = Recording::new(&plan);
    late.second(|filled| filled.answered(0, 10, [millis(500), Nanos(0), millis(1)]));
    late.facts.started_at.unix_ns = 1;
    let summary = merged(&[("host-1", &valid), ("host-2", &late)]);
    assert!(!summary.verdict.valid);
    let text = summary.to_text(None, usize::MAX, false);
    let banner =
        "INVALID: the load generator distorted host-2 (25 % of the requests); the figures below do";
    assert!(text.contains(banner), "{text}");
    assert!(text.contains("host-2 (25 % of the requests): "), "{text}");
    assert!(text.find("INVALID:") < text.find("\n  scheduled"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&summary.to_json()).unwrap();
    let runs = &json["merged"]["runs"];
    assert_eq!((&runs[0]["valid"], &runs[1]["valid"]), (&true.into(), &false.into()));
    assert_eq!(
        (&runs[1]["share"], &json["seed"], &json["host"]),
        (&0.25.into(), &().into(), &().into())
    );
    assert!(summary.to_hgrm(crate::TimeFigure::Latency, None).unwrap().starts_with("# INVALID: "));
}

#[test]
fn the_same_run_counts_once() {
    let plan = plan(PLAN);
    let (one, other) = (recorded(&plan, 10, 0), recorded(&plan, 10, 1));
    let summary =
        merged(&[("runs/1", &one), ("latest", &one), ("runs/1", &one), ("runs/2", &other)]);
    assert_eq!(summary.all.stats.requests.scheduled, 40);
    let text = summary.to_text(None, usize::MAX, false);
    assert!(text.contains("merged: 2 runs of one plan"), "{text}");
    assert!(text.contains("latest is the same run as runs/1; it is counted once"), "{text}");
    assert!(text.contains("runs/1 was given more than once; it is counted once"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&summary.to_json()).unwrap();
    assert_eq!(json["merged"]["repeated"][0]["same_as"], "runs/1");
    let mut at_once = recorded(&plan, 10, 0);
    at_once.seconds.pop();
    at_once.second(|filled| filled.ok(1, 10, millis(3)));
    let summary = merged(&[("host-1", &one), ("host-2", &at_once)]);
    assert_eq!(summary.all.stats.requests.scheduled, 40, "two hosts may start at once");
    let alone = merged(&[("runs/1", &one)]);
    assert_eq!(alone.to_json(), one.summary().to_json(), "a single run is not merged");
}

#[test]
fn hosts_stay_apart() {
    let plan = plan(PLAN);
    let (one, mut other) = (recorded(&plan, 10, 0), recorded(&plan, 10, 1));
    let descriptors = Some(Usage { used: 63, limit: 64 });
    other.seconds[1].host.descriptors = descriptors;
    let summary = merged(&[("host-1", &one), ("host-2", &other)]);
    let text = summary.to_text(None, usize::MAX, false);
    let table: Vec<&str> =
        text.lines().skip_while(|line| !line.starts_with("  host-2  ")).collect();
    let run_table = table.iter().skip(1).position(|line| line.starts_with("  host-2  ")).unwrap();
    assert!(table[run_table + 2].contains("descriptors 98.4 %"), "{text}");
    assert_eq!(summary.verdict.headroom.descriptors, descriptors);
}

/// Random arrivals: target, whether ok, lag, wait and service time.
fn arrivals(seed: u64, run: u64) -> Vec<(usize, bool, [Nanos; 3])> {
    let mut random = Key::new(seed).with(run).sequence();
    let mut below = |n: u64| (random.unit() * n as f64) as u64;
    let count = below(40);
    (0..count)
        .map(|_| {
            let times = [below(1_000_000), below(5_000), below(40_000_000_000)].map(Nanos);
            (below(2) as usize, below(3) > 0, times)
        })
        .collect()
}

fn filled<'p>(plan: &'p Plan, seconds: &[Vec<(usize, bool, [Nanos; 3])>]) -> Recording<'p> {
    let mut recording = Recording::new(plan);
    for arrivals in seconds {
        recording.second(|filled| {
            for (target, ok, times) in arrivals {
                if *ok {
                    filled.answered(*target, 1, *times);
                } else {
                    filled.failed(*target, 1, ErrorClass::Reset, times[2]);
                    filled.snapshot.faults.add(Fault::ALL[0], 1);
                }
                filled.snapshot.status.add(200 + *target as u16, 1);
                filled.snapshot.rpc.add_error(*target as i64, 1);
            }
        });
    }
    recording
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// The sum of runs is what one run with all their arrivals would have counted, in any order.
    #[test]
    fn a_merged_report_equals_that_of_all_arrivals(seed in any::<u64>(), runs in 2..5u64) {
        let plan = plan(PLAN);
        let samples: Vec<_> = (0..runs).map(|run| arrivals(seed, run)).collect();
        let parts: Vec<Recording<'_>> = (0..runs)
            .map(|run| {
                let mut part = filled(&plan, &samples[run as usize..][..1]);
                part.facts.started_at.unix_ns = run * 1_000_000_000;
                part
            })
            .collect();
        let labels: Vec<String> = (0..runs).map(|run| run.to_string()).collect();
        let given: Vec<(&str, &Recording<'_>)> =
            labels.iter().map(String::as_str).zip(&parts).collect();
        let back: Vec<_> = given.iter().rev().copied().collect();
        let (sum, reversed) = (merged(&given), merged(&back));
        let all = filled(&plan, &samples).summary();
        for sum in [&sum, &reversed] {
            prop_assert_eq!(&sum.all.stats, &all.all.stats);
            prop_assert_eq!(&sum.all.latency, &all.all.latency);
            prop_assert_eq!(&sum.all.service_time, &all.all.service_time);
            prop_assert_eq!(sum.lag(), all.lag());
            prop_assert_eq!(sum.wait(), all.wait());
            prop_assert_eq!(sum.status(), all.status());
            prop_assert_eq!(sum.rpc(), all.rpc());
            prop_assert_eq!(&sum.total.faults, &all.total.faults);
            for (own, other) in sum.targets.iter().zip(&all.targets) {
                prop_assert_eq!(&own.0.stats, &other.0.stats);
            }
            prop_assert_eq!(&sum.tags["chain"][0].stats, &all.tags["chain"][0].stats);
            prop_assert_eq!(&sum.streams[0].group.stats, &all.streams[0].group.stats);
            prop_assert_eq!(&sum.streams[0].lag, &all.streams[0].lag);
            let values = |summary: &Summary| -> Vec<_> {
                summary.objectives.iter().map(|judged| judged.value).collect()
            };
            prop_assert_eq!(values(sum), values(&all));
        }
        let mut samples_of_a = Histogram::new();
        for (_, _, [lag, wait, service]) in samples.iter().flatten().filter(|own| own.1) {
            samples_of_a.record(*lag + *wait + *service);
        }
        prop_assert_eq!(&sum.all.stats.latency_ok, &samples_of_a, "and the samples themselves");
    }
}
