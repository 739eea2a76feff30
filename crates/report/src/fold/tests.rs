//! Figures by window, by stream and by stage; sums do not depend on order.

use super::*;
use crate::narrow::Filters;
use crate::summary::Group;
use crate::synthetic::{Filled, Recording, open, plan};
use plimsoll_measure::rng::Key;
use plimsoll_measure::{ErrorClass, Window};
use proptest::prelude::*;

fn millis(n: u64) -> Nanos {
    Nanos::from_millis(n)
}

/// `scheduled sent ok` per second, to a tenth.
fn rates(group: &Group) -> [f64; 3] {
    let rates = group.rates();
    [rates.scheduled, rates.sent, rates.ok].map(|rate| (rate.unwrap() * 10.0).round() / 10.0)
}

#[test]
fn an_unanswered_request_does_not_lower_the_rates() {
    // 20/s for 10 s; one request hangs until its timeout, 30 s later.
    let plan = open(20, 10);
    let mut recording = Recording::new(&plan);
    recording.second(|filled| filled.ok(0, 19, millis(5)));
    recording.seconds(9, |filled| filled.ok(0, 20, millis(5)));
    recording.seconds(20, |_| {});
    recording
        .second(|filled| filled.failed(0, 1, ErrorClass::ResponseTimeout, Nanos::from_secs(30)));
    recording.facts.drain = Nanos::from_secs(20);
    let summary = recording.summary();
    assert_eq!(rates(&summary.all), [20.0, 20.0, 19.9]);
    assert_eq!(summary.errors[0].1.numbers(), [30, 30]);
}

#[test]
fn a_delayed_run_does_not_show_the_planned_rate_as_sent() {
    // 50/s for 2 s were planned, but the only connection carried 10/s.
    let plan = open(50, 2);
    let mut recording = Recording::new(&plan);
    for second in 1..=10 {
        recording.second(|filled| {
            filled.ok(0, 10, millis(100));
            filled.answered_at(0, Nanos::from_secs(second));
        });
    }
    assert_eq!(rates(&recording.summary().all), [50.0, 10.0, 10.0]);
}

fn base_and_burst() -> Plan {
    plan(
        "warmup = \"1s\"\n\
         [[stream]]\nname = \"base\"\nstages = [{ rate = \"100/s\", for = \"4s\" }, { rate = \"200/s\", for = \"4s\" }]\n\
         [[stream.target]]\nname = \"a\"\ntags = { chain = \"eth\" }\nrequest = \"GET http://a/\"\n\
         [[stream]]\nname = \"burst\"\nstart = \"3s\"\nrate = \"300/s\"\nduration = \"1s\"\n\
         [[stream.target]]\nname = \"b\"\ntags = { chain = \"eth\" }\nrequest = \"GET http://a/\"\n",
    )
}

/// Fills a second of the run with the answers of that plan's targets.
fn fill(second: u64, filled: &mut Filled<'_>) {
    match second {
        0 => filled.snapshot.warmup.scheduled = 0,
        1..=4 => filled.ok(0, 100, millis(2)),
        _ => filled.ok(0, 200, millis(4)),
    }
    if second == 4 {
        filled.ok(1, 300, millis(3));
    }
}

fn recorded(plan: &Plan) -> Recording<'_> {
    let mut recording = Recording::new(plan);
    (0..9).for_each(|second| {
        recording.second(|filled| fill(second, filled));
    });
    recording
}

#[test]
fn rates_use_each_streams_window() {
    let plan = base_and_burst();
    let summary = recorded(&plan).summary();
    let by_stream: Vec<_> = summary.streams.iter().map(|stream| rates(&stream.group)).collect();
    assert_eq!(by_stream, [[150.0; 3], [300.0; 3]]);
    let by_target: Vec<_> = summary.targets.iter().map(|(group, _)| rates(group)).collect();
    assert_eq!(by_target, by_stream);
    assert_eq!(rates(&summary.tags["chain"][0]), [187.5; 3], "both, over the window of both");
    assert_eq!(rates(&summary.all), [187.5; 3]);
    let stages: Vec<_> = summary
        .stages
        .iter()
        .map(|stage| {
            let of = stage.stage.as_ref().unwrap();
            (stage.group.name.as_str(), of.number, of.load.as_str(), rates(&stage.group))
        })
        .collect();
    let first = ("base", 1, "100/s for 4s", [100.0; 3]);
    assert_eq!(stages, [first, ("base", 2, "200/s for 4s", [200.0; 3])]);
    assert!(summary.stages[1].group.latency.min() > Some(millis(3)));
}

#[test]
fn a_late_answer_does_not_lower_the_sending_rate() {
    let plan = open(100, 2);
    let mut recording = Recording::new(&plan);
    recording.seconds(7, |filled| {
        let (stream, second) = (&mut filled.snapshot.streams[0], filled.snapshot.t);
        stream.last_sent = second.min(Nanos::from_millis(1990));
        match second.as_secs_f64() as u64 {
            1 => filled.ok(0, 100, millis(1)),
            2 => filled.ok(0, 99, millis(1)),
            7 => {
                filled.ok(0, 1, millis(6000));
                filled.answered_at(0, Nanos::from_millis(6490));
            }
            _ => {}
        }
    });
    let summary = recording.summary();
    assert_eq!(rates(&summary.streams[0].group), [100.0, 100.0, 30.8]);
    assert_eq!(rates(&summary.all), [100.0, 100.0, 30.8]);
}

/// The seconds after the plan's end have one late answer, and no time in which anything was planned.
#[test]
fn a_part_has_no_rate_over_less_than_a_second() {
    let plan = plan(
        "rate = \"100/s\"\nduration = \"2s\"\n[[target]]\nrequest = \"GET http://a/\"\n\
         [[objective]]\nthat = \"rate.ok > 50/s\"\n[[objective]]\nthat = \"rate.sent > 50/s\"\n",
    );
    let mut recording = Recording::new(&plan);
    recording.seconds(5, |filled| match filled.snapshot.t.as_secs_f64() as u64 {
        1 | 2 => filled.ok(0, 100, millis(1)),
        4 => {
            filled.ok(0, 1, millis(1));
            filled.snapshot.streams[0].active = Some(Window {
                from: millis(3000),
                planned_to: millis(3000),
                to: Nanos(3_000_085_000),
            });
        }
        _ => filled.snapshot.streams[0].active = None,
    });
    let range = |from: u64, to: u64| {
        let (from, to) = (Some(Nanos::from_secs(from)), Some(Nanos::from_secs(to)));
        recording.filtered(&Filters { from, to, ..Filters::default() }).unwrap()
    };
    let late = range(3, 5);
    assert_eq!((late.all.stats.requests.ok, late.all.rates()), (1, Default::default()));
    let text = late.to_text(None, usize::MAX, false);
    let lines: Vec<_> = text.lines().filter(|line| line.contains('–')).collect();
    assert!(lines.len() >= 3 && !text.contains("1/s") && !text.contains("0.0/s"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&late.to_json()).unwrap();
    for rate in [&json["rate"], &json["targets"][0]["rate"], &json["streams"][0]["rate"]] {
        assert_eq!(rate.to_string(), r#"{"ok":null,"scheduled":null,"sent":null}"#);
    }
    assert!(late.to_csv().contains(",1,1,0,1,0,,,,"), "{}", late.to_csv());
    assert_eq!((late.objectives.len(), late.unjudged.len()), (0, 2));
    assert_eq!(late.unjudged[0].why, "a rate over less than a second");
    let first = range(0, 1);
    assert_eq!((rates(&first.all), first.objectives.len()), ([100.0; 3], 2));
    // A whole run may be shorter than a second.
    let mut short = Recording::new(&plan);
    short.second(|filled| {
        filled.ok(0, 10, millis(1));
        let window = Window { from: Nanos(0), planned_to: millis(100), to: millis(100) };
        filled.snapshot.streams[0].active = Some(window);
    });
    assert_eq!(rates(&short.summary().all), [100.0; 3]);
}

/// Names come from files and peers.
#[test]
fn no_format_has_characters_that_control_a_terminal() {
    let name = "a\\u202Eb\\u007Fc\\u009Bd\\u001Be";
    let plan = plan(&format!(
        "name = \"{name}\"\nrate = \"9/s\"\nduration = \"1s\"\n\
         [[target]]\nname = \"{name}\"\nrequest = \"GET http://a/\"\n"
    ));
    let mut recording = Recording::new(&plan);
    recording.second(|filled| filled.ok(0, 9, millis(1)));
    let summary = recording.summary();
    let json = summary.to_json();
    let hgrm = summary.to_hgrm(Default::default(), None).unwrap();
    let text = summary.to_text(None, usize::MAX, false);
    for report in [&json, &hgrm, &text, &summary.to_csv(), &summary.to_junit()] {
        let control = report.chars().find(|c| !"\r\n".contains(*c) && crate::text::is_unsafe(*c));
        assert_eq!(control, None, "{report}");
    }
    let read: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(read["targets"][0]["name"], plan.targets[0].name.as_str());
}

#[test]
fn a_narrowed_fold_equals_a_fold_of_the_part() {
    let plan = base_and_burst();
    let recording = recorded(&plan);
    let whole = recording.summary();
    let filtered = |filters: Filters| recording.filtered(&filters).unwrap();
    let stage = filtered(Filters { stages: vec!["2".into()], ..Filters::default() });
    assert_eq!(rates(&stage.all), rates(&whole.stages[1].group));
    assert_eq!(stage.targets.len(), 1, "the other stream's target is excluded");
    let burst = filtered(streams(&["burst"]));
    assert_eq!(burst.all.stats, whole.targets[1].0.stats);
    let (from, to) = (Some(Nanos::from_secs(1)), Some(Nanos::from_secs(3)));
    let range = filtered(Filters { from, to, ..Filters::default() });
    assert_eq!((rates(&range.all), range.all.stats.requests.ok), ([100.0; 3], 200));
}

fn streams(names: &[&str]) -> Filters {
    Filters { streams: names.iter().map(|name| name.to_string()).collect(), ..Filters::default() }
}

/// Seconds of several workers, filled at random.
fn random_seconds(plan: &Plan, seed: u64) -> Vec<Recording<'_>> {
    let recording = |worker| {
        let mut random = Key::new(seed).with(worker).sequence();
        let mut below = |n: u64| (random.unit() * n as f64) as u64;
        let mut recording = Recording::new(plan);
        for _ in 0..9 {
            recording.second(|filled| {
                for target in 0..plan.targets.len() {
                    let times = [below(20), below(100), below(300)].map(millis);
                    filled.answered(target, below(5), times);
                    let class = [ErrorClass::Reset, ErrorClass::Late][below(2) as usize];
                    filled.failed(target, below(3), class, millis(below(500)));
                }
                let origin = filled.origin(0);
                (origin.limit, origin.wanted) = (1 + below(5), below(40));
                origin.capped = millis(below(1000));
                origin.service_capped.add(millis(below(100)));
            });
        }
        recording
    };
    (0..3).map(recording).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn sums_are_the_same_in_any_order(seed in any::<u64>()) {
        let plan = base_and_burst();
        let workers = random_seconds(&plan, seed);
        // Merges the workers of each second, in either order, and appends each worker's seconds.
        let mut joined = [Recording::new(&plan), Recording::new(&plan)];
        let mut plain = plan.blank_snapshot();
        for second in 0..9 {
            for (order, recording) in joined.iter_mut().enumerate() {
                let mut sum = plan.blank_snapshot();
                let place = |n: usize| if order == 0 { n } else { workers.len() - 1 - n };
                (0..workers.len())
                    .for_each(|n| sum.join(&workers[place(n)].seconds[second]));
                recording.seconds.push(sum);
            }
            plain.append(&joined[0].seconds[second]);
        }
        let [one, other] = joined.map(|recording| recording.summary());
        prop_assert_eq!(&one.total, &plain);
        prop_assert_eq!(one.to_json(), other.to_json());
        // A stream has the same figures alone as among others, and all streams add up to the whole.
        let mut whole = Recording::new(&plan);
        let (mut scheduled, mut stages) = (0, 0);
        whole.seconds = workers.into_iter().next().unwrap().seconds;
        for stream in 0..plan.streams.len() {
            let part = whole.filtered(&streams(&[&plan.streams[stream].name])).unwrap();
            let all = whole.summary();
            prop_assert_eq!(&part.all.stats, &all.streams[stream].group.stats);
            let active = |group: &Group| (group.activity.window(), group.activity.len());
            prop_assert_eq!(active(&part.all), active(&all.streams[stream].group));
            prop_assert_eq!(part.all.rates(), all.streams[stream].group.rates());
            scheduled += part.all.stats.requests.scheduled;
            stages += part.stages.iter().map(|stage| stage.group.stats.requests.scheduled).sum::<u64>();
        }
        let mut everything = whole.filtered(&streams(&["burst", "base"])).unwrap();
        everything.narrow = Narrow::whole(&plan);
        let all = whole.summary();
        prop_assert_eq!(everything.to_json(), all.to_json());
        prop_assert_eq!(scheduled, all.all.stats.requests.scheduled);
        // A stage lasts until the next begins, the last until the end; the warm-up precedes the first.
        let warm: u64 = whole.seconds[0].stats[0].requests.scheduled;
        prop_assert_eq!(stages + warm, all.streams[0].group.stats.requests.scheduled);
    }
}
