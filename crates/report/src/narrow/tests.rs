//! Parts of a run: what filters select, what a narrowed report shows, and wrong filters.

use super::*;
use crate::summary::Summary;
use crate::synthetic::{Recording, plan};
use plimsoll_measure::ErrorClass;
use plimsoll_measure::samples::{Kind, Sample};

fn millis(n: u64) -> Nanos {
    Nanos::from_millis(n)
}

/// Two streams; the first has two targets and three stages of two seconds, the second lasts a second.
fn chains() -> Plan {
    plan(
        "warmup = \"1s\"\n\
         [[stream]]\nname = \"base\"\nsplit_by = { header = \"x-instance\" }\nstages = [\
         { rate = \"10/s\", for = \"2s\" }, { rate = \"20/s\", for = \"2s\" }, { rate = \"30/s\", for = \"2s\" }]\n\
         [[stream.target]]\nname = \"eth\"\ntags = { chain = \"eth\", kind = \"read\" }\nrequest = \"GET http://a/\"\n\
         [[stream.target]]\nname = \"boba\"\ntags = { chain = \"boba\", kind = \"read\" }\nrequest = \"GET http://a/\"\n\
         [[stream]]\nname = \"burst\"\nstart = \"2s\"\nrate = \"6/s\"\nduration = \"1s\"\n\
         [[stream.target]]\nname = \"wei\"\ntags = { chain = \"eth\" }\nrequest = \"GET http://b/\"\n\
         [[objective]]\nthat = \"success >= 99%\"\n\
         [[objective]]\nthat = \"latency.max < 3ms\"\nwhere = { chain = \"boba\" }\n\
         [[objective]]\nthat = \"rate.ok > 1/s\"\n\
         [[objective]]\nthat = \"errors == 0\"\n\
         [[objective]]\nthat = \"status.5xx == 0%\"\n\
         [[objective]]\nthat = \"lag.max < 1s\"\n",
    )
}

/// In each stage, `eth` is answered in 1 ms and `boba` in 2 ms, 3 ms and 4 ms; `wei` fails.
fn recorded(plan: &Plan) -> Recording<'_> {
    let mut recording = Recording::new(plan);
    for second in 0..7u64 {
        recording.second(|filled| {
            let Some(stage) = second.checked_sub(1).map(|second| second / 2) else { return };
            let each = 5 * (stage + 1);
            filled.answered(0, each, [Nanos(5), Nanos(0), millis(1)]);
            filled.answered(1, each, [Nanos(7), Nanos(0), millis(2 + stage)]);
            filled.snapshot.status.add(200, 2 * each);
            filled.snapshot.connections.opened = 1;
            if second == 3 {
                filled.failed(2, 6, ErrorClass::Reset, millis(9));
            }
        });
    }
    recording
}

/// Filters from flags, as on a command line.
fn filters(text: &str) -> Filters {
    let mut filters = Filters::default();
    let words: Vec<&str> = text.split_whitespace().collect();
    for pair in words.chunks(2) {
        let [flag, value] = pair else { panic!("{text}: a flag without a value") };
        let seconds = || Some(Nanos::from_secs_f64(value.parse().unwrap()));
        match *flag {
            "--target" => filters.targets.push(value.to_string()),
            "--tag" => filters.tags.push(value.to_string()),
            "--stream" => filters.streams.push(value.to_string()),
            "--stage" => filters.stages.push(value.to_string()),
            "--from" => filters.from = seconds(),
            "--to" => filters.to = seconds(),
            flag => panic!("{flag}"),
        }
    }
    filters
}

fn part(recording: &Recording<'_>, flags: &str) -> Summary {
    recording.filtered(&filters(flags)).unwrap_or_else(|problem| panic!("{flags}: {problem:?}"))
}

#[test]
fn filters_select_requests_seconds_and_figures() {
    let plan = chains();
    let recording = recorded(&plan);
    let check = |flags: &str, scheduled: u64, ok_rate: f64, scope: Scope| {
        let part = part(&recording, flags);
        assert_eq!(part.all.stats.requests.scheduled, scheduled, "{flags}");
        assert_eq!(part.all.rates().ok, Some(ok_rate), "{flags}");
        assert_eq!(part.narrow.scope(), scope, "{flags}");
        assert_eq!(part.scheduled, 126, "{flags}: the whole run");
        let known = [part.lag().is_some(), part.status().is_some(), part.whole().is_some()];
        let expected = match scope {
            Scope::Run => [true, true, true],
            Scope::Streams => [true, false, false],
            Scope::Targets => [false, false, false],
        };
        assert_eq!(known, expected, "{flags}");
        assert_eq!(part.lag().map_or(0, |lag| lag.count()), if known[0] { scheduled } else { 0 });
        let groups: u64 = part.targets.iter().map(|(own, _)| own.stats.requests.scheduled).sum();
        assert_eq!(groups, scheduled, "{flags}: targets add up");
        let streams = part.streams.iter().map(|own| own.group.stats.requests.scheduled);
        assert_eq!(streams.sum::<u64>(), scheduled, "{flags}: streams add up");
    };
    use Scope::{Run, Streams, Targets};
    check("", 126, 20.0, Run);
    check("--target eth", 60, 10.0, Targets);
    check("--target eth --target boba", 120, 20.0, Streams); // all of one stream
    check("--target eth --target boba --target wei", 126, 20.0, Run);
    check("--tag chain=eth", 66, 10.0, Targets); // one of two targets, and all of the burst
    check("--tag chain=eth --tag chain=boba", 126, 20.0, Run); // either
    check("--tag chain=eth --tag kind=read", 60, 10.0, Targets); // both
    check("--stream burst", 6, 0.0, Streams);
    check("--stage 2", 40, 20.0, Streams);
    check("--stage base:2 --target boba", 20, 10.0, Targets);
    check("--stage 1 --stage 3", 80, 20.0, Streams); // the stage between them does not dilute rates
    check("--from 2 --to 4", 46, 20.0, Run);
    check("--from 4", 60, 30.0, Run);
    check("--to 2", 20, 10.0, Run);
    check("--to 100", 126, 20.0, Run); // beyond the end
    check("--stage 1 --to 1", 10, 10.0, Streams);
}

#[test]
fn a_narrowed_report_says_so_first_and_shows_no_other_figures() {
    let plan = chains();
    let recording = recorded(&plan);
    let summary = part(&recording, "--target boba --from 2");
    let text = summary.to_text(None, usize::MAX, false);
    assert!(text.starts_with("narrowed to: target boba, seconds from 2s on\n"), "{text}");
    for line in [
        "  requests   50 of 126 requests (39.7 %)",
        "  left out   lag, wait, answers by header value, HTTP statuses, JSON-RPC codes, faults,",
        "they are counted for a stream or the whole run, not by target",
        "  verdict    of all targets of these streams in these seconds, not of the selection alone",
        "  MISSED     latency.max < 3ms where chain = boba: 4ms",
        "  held       success >= 99%: 100 %",
        "  not judged rate.ok > 1/s: a rate of all its targets",
        "  not judged errors == 0: a count of the whole run",
        "  not judged status.5xx == 0%: counted for the whole run only",
        "  not judged lag.max < 1s: counted for whole streams only",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    for absent in ["\n  lag ", "\n  wait ", "connected", "generator:", "HTTP status  ", "seed"] {
        assert!(!text.contains(absent), "{absent}\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&summary.to_json()).unwrap();
    for absent in ["lag", "wait", "status", "rpc", "faults", "connections", "generator", "host"] {
        assert!(json[absent].is_null(), "{absent}: {}", json[absent]);
    }
    assert_eq!(json["narrowed"]["scheduled_in_all"], 126);
    assert_eq!(json["narrowed"]["from_ns"], 2_000_000_000u64);
    assert!(summary.to_json().find("\"narrowed\"") < summary.to_json().find("\"requests\""));
    assert_eq!(json["streams"][0]["lag"], serde_json::Value::Null);
    assert_eq!(json["objectives_not_judged"].as_array().unwrap().len(), 4);
}

#[test]
fn the_verdict_covers_the_streams_whatever_the_target() {
    let plan = chains();
    let mut recording = recorded(&plan);
    // 30 requests to `eth` were sent late; those to `boba` were not.
    recording.seconds.pop();
    recording.second(|filled| filled.answered(0, 30, [millis(900), Nanos(0), millis(1)]));
    let verdict = |flags: &str| part(&recording, flags).verdict;
    assert!(!verdict("").valid);
    assert_eq!(verdict("--target boba"), verdict("--stream base"));
    assert!(!verdict("--target boba").valid);
    assert!(verdict("--stream burst").valid);
    assert!(verdict("--target boba --to 4").valid, "the late second is not selected");
}

/// The records of all requests of a run, and the seconds that count them.
fn with_samples(plan: &Plan) -> (Recording<'_>, Vec<(Seconds, Sample)>) {
    let mut recording = recorded(plan);
    let (mut at, mut samples) = (Nanos::ZERO, Vec::new());
    for second in &mut recording.seconds {
        let seconds = Seconds { from: at, to: second.t };
        for stream in &mut second.streams {
            (stream.lag, stream.wait) = Default::default();
        }
        for (target, stats) in (0u32..).zip(&second.stats) {
            let n = u64::from(target) + 1;
            let kind = Kind {
                target,
                error: None,
                fault: None,
                status: Some(200 + n as u16),
                rpc_code: Some(-(n as i64)),
                sent: true,
            };
            let sample = Sample {
                scheduled_at: at,
                lag: Nanos(n),
                wait: Nanos(n),
                flight: Nanos(n),
                ttfb: None,
                bytes_in: 0,
                bytes_out: 0,
                connection: None,
                kind,
                stayed: None,
            };
            for _ in 0..stats.requests.scheduled {
                let stream = &mut second.streams[plan.targets[target as usize].stream];
                stream.lag.record(sample.lag);
                stream.wait.record(sample.wait);
                second.status.count(200 + n as u16);
                second.rpc.add_error(-(n as i64), 1);
                samples.push((seconds, sample));
            }
        }
        at = second.t;
    }
    (recording, samples)
}

/// The summary of a part, with the records as changed.
fn with_records(change: impl FnOnce(&mut Vec<(Seconds, Sample)>)) -> crate::Summary {
    let plan = chains();
    let (recording, mut samples) = with_samples(&plan);
    change(&mut samples);
    let end = recording.seconds.last().unwrap().t;
    let narrow = Narrow::new(&plan, &filters("--target boba --from 2"), end).unwrap();
    let mut fold = crate::Fold::narrowed(&plan, narrow);
    recording.seconds.iter().for_each(|second| fold.add(second));
    samples.iter().for_each(|(seconds, sample)| fold.add_sample(*seconds, sample));
    fold.finish(recording.facts.clone())
}

#[test]
fn records_of_single_requests_fill_what_snapshots_lack() {
    let summary = with_records(|_| {});
    let n = summary.all.stats.requests.scheduled;
    let (lag, wait) = (summary.lag().unwrap(), summary.wait().unwrap());
    assert_eq!((lag.count(), lag.max(), wait.max()), (n, Some(Nanos(2)), Some(Nanos(2))));
    assert_eq!(summary.status().unwrap().iter().collect::<Vec<_>>(), [(202, n)]);
    assert_eq!(summary.rpc().unwrap().codes, [(-2, n)]);
    let text = summary.to_text(None, usize::MAX, false);
    assert!(text.contains("  left out   answers by header value, faults, connections,"), "{text}");
    assert!(text.contains("\n  lag  ") && !text.contains("  records "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&summary.to_json()).unwrap();
    assert_eq!((&json["lag"]["count"], &json["status"]["202"]), (&n.into(), &n.into()));
    assert_eq!((&json["rpc"]["items"], &json["rpc"]["errors"]), (&().into(), &n.into()));
    assert_eq!(json["narrowed"]["records_unused"], serde_json::Value::Null);
}

/// Any change that a report would show is found by comparing the records with the seconds.
#[test]
fn records_that_differ_from_the_seconds_are_not_used() {
    let check = |change: fn(&mut Vec<(Seconds, Sample)>), why: &str| {
        let summary = with_records(change);
        assert_eq!((summary.lag(), summary.status(), summary.rpc()), (None, None, None), "{why}");
        let found = summary.records_unused.clone().unwrap_or_default();
        assert!(found.contains(why), "{found}");
        let text = summary.to_text(None, usize::MAX, false);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!(" records not used: {found} ")), "{text}");
        let json: serde_json::Value = serde_json::from_str(&summary.to_json()).unwrap();
        assert_eq!(json["narrowed"]["records_unused"], found);
        assert!(json["narrowed"]["left_out"].to_string().contains("\"lag\""), "{json}");
    };
    fn ours(samples: &mut [(Seconds, Sample)]) -> impl Iterator<Item = &mut (Seconds, Sample)> {
        samples.iter_mut().rev().filter(|(_, sample)| sample.kind.target == 1)
    }
    fn last(samples: &mut [(Seconds, Sample)]) -> &mut Sample {
        &mut ours(samples).next().unwrap().1
    }
    let differ = "the records differ from the seconds in ";
    check(|samples| samples.retain(|(_, own)| own.kind.target != 1), "only 0 of");
    check(|samples| last(samples).kind.target = 0, "in the selection have a record");
    check(|samples| samples.extend(samples.last().copied()), differ);
    // One moves out of the selection and another one in.
    check(
        |samples| {
            samples.iter_mut().rev().find(|(_, own)| own.kind.target == 0).unwrap().1.kind.target =
                1;
            samples
                .iter_mut()
                .find(|(second, own)| own.kind.target == 1 && second.from >= Nanos::from_secs(3))
                .unwrap()
                .1
                .kind
                .target = 0;
        },
        "the requests by second and target",
    );
    check(|samples| last(samples).lag = Nanos(9), "seconds in lag");
    check(|samples| last(samples).wait = Nanos(9), "seconds in wait");
    check(|samples| last(samples).wait = Nanos::MAX, "seconds in wait");
    check(|samples| last(samples).kind.status = Some(500), "seconds in HTTP statuses");
    check(|samples| last(samples).kind.rpc_code = Some(-32000), "seconds in JSON-RPC codes");
    check(|samples| samples[0].1.lag = Nanos(9), "seconds in lag");
}

#[test]
fn wrong_filters_have_clear_errors() {
    let plan = chains();
    let recording = recorded(&plan);
    let check = |flags: &str, message: &str, hint: &str| {
        let problem = recording.filtered(&filters(flags)).err();
        let problem = problem.unwrap_or_else(|| panic!("{flags} is accepted"));
        assert!(problem.message.contains(message), "{flags}: {problem:?}");
        assert!(problem.hint.contains(hint), "{flags}: {problem:?}");
    };
    check("--target etch", "--target: no target is named \"etch\"", "did you mean \"eth\"?");
    check("--target nothing", "no target is named", "the plan has eth, boba, wei");
    check("--stream bse", "--stream: no stream is named \"bse\"", "did you mean \"base\"?");
    check("--tag boba", "--tag: \"boba\" has no \"=\"", "write NAME=VALUE");
    check("--tag chian=eth", "no tag is named \"chian\"", "did you mean \"chain\"?");
    check("--tag chain=bob", "no target has chain = \"bob\"", "did you mean \"boba\"?");
    check("--tag chain=", "no target has chain = \"\"", "the plan has boba, eth");
    check("--stage 4", "stream base has no stage 4", "it has stages 1 to 3");
    check("--stage 0", "stream base has no stage 0", "stages 1 to 3");
    check("--stage -1", "\"-1\" is not the number of a stage", "base:1");
    check("--stage burst:1", "stream burst has no stage 1", "a steady load");
    check("--stage bas:1", "no stream is named \"bas\"", "did you mean \"base\"?");
    check("--stage base:", "\"\" is not the number of a stage", "base:1");
    check("--from 3 --to 3", "--from: 3s is not before --to 3s", "");
    check("--from 3 --to 2", "--from: 3s is not before --to 2s", "");
    check("--from 6", "--from: 6s is after the end of the run", "the run lasted 6s");
    check("--from 5.9", "less than half a second before the end", "the run lasted 6s");
    check("--from 1 --to 1.5", "500ms is shorter than a second", "counted by second");
    check("--target wei --target eth --tag chain=boba", "no target matches all", "remove one");
    check("--stream burst --tag kind=read", "--tag and --stream: no target matches", "remove one");
    check("--stage 2 --to 2", "no second of the run is selected; it ended after 6s", "");
    check("--stage 2 --stream burst", "no second of the run is selected", "");
    let nothing = part(&recording, "--stream burst --from 4").nothing_selected().unwrap();
    assert!(nothing.message.contains("no request of the run is in the selection"), "{nothing:?}");
    assert_eq!(part(&recording, "--stream burst").nothing_selected(), None);

    let two = "[[stream]]\nname = \"a:1\"\nstages = [{ rate = 1, for = \"1s\" }]\n\
               [[stream.target]]\nname = \"x\"\nrequest = \"GET http://a/\"\n\
               [[stream]]\nname = \"b\"\nstages = [{ rate = 1, for = \"1s\" }]\n\
               [[stream.target]]\nname = \"y\"\nrequest = \"GET http://a/\"\n";
    let plan = crate::synthetic::plan(two);
    let narrow = |flags: &str| Narrow::new(&plan, &filters(flags), Nanos::from_secs(1));
    let problem = narrow("--stage 1").unwrap_err();
    assert_eq!(problem.message, "--stage: \"1\" does not say of which stream");
    assert_eq!(problem.hint, "write a:1:1; streams with stages: a:1, b");
    assert!(narrow("--stage a:1:1").is_ok(), "a name with a colon");
    assert!(narrow("--tag x=1").unwrap_err().message.contains("no target has a tag"));
    let plan = crate::synthetic::open(1, 1);
    let problem = Narrow::new(&plan, &filters("--stage 1"), Nanos::from_secs(1)).unwrap_err();
    assert_eq!(problem.message, "--stage: no stream has stages");
}
