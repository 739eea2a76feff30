//! What stays open: idle sockets, subscriptions and event streams against the simulator, servers on npm's `ws`
//! and Python's `websockets` and `aiohttp`, and the plans in `scenarios/sockets`.

use crate::clients::Chains;
use crate::report::{documented_fields, fields};
use crate::run::{RunResult, plimsoll, run_plan};
use plimsoll_measure::Nanos;
use plimsoll_sim::{Fault, FaultKind, Service, Settings, Sim};
use std::collections::BTreeSet;
use std::path::Path;

/// A chain with a block every 50 ms.
fn sim() -> Sim {
    let eth = Service { block_time: Nanos::from_millis(50), ..Service::named("eth").unwrap() };
    Sim::start(Settings::for_tests(1, [eth])).unwrap()
}

fn stream(name: &str, sockets: u32, target: &str) -> String {
    format!(
        "[[stream]]\nname = \"{name}\"\nsockets = {sockets}\nper_second = 100\nduration = \"1200ms\"\n\
         [[stream.target]]\nname = \"{name}\"\n{target}\n"
    )
}

const SUBSCRIBE: &str = "subscribe = { method = \"eth_subscribe\", params = [\"newHeads\"] }";

fn plan(sim: &Sim, protocol: &str) -> String {
    let http = sim.url("eth");
    let socket = http.replacen("http", "ws", 1);
    [
        format!("protocol = \"{protocol}\"\n"),
        stream("idle", 20, &format!("ws = \"{socket}\"")),
        stream("heads", 20, &format!("ws = \"{socket}\"\n{SUBSCRIBE}")),
        stream("events", 20, &format!("sse = \"{http}/events\"\nnumbered = true")),
        "[[objective]]\nthat = \"messages.gaps == 0\"\n".into(),
        "[[objective]]\nthat = \"success == 100%\"\nabort = { after = \"100ms\" }\n".into(),
        "[[objective]]\nthat = \"messages.lag.p50 < 30s\"\nwhere = { target = \"heads\" }\n".into(),
    ]
    .concat()
}

/// A figure of a target's messages.
fn messages(result: &RunResult, target: &str, name: &str) -> u64 {
    let targets = result.summary["targets"].as_array().unwrap();
    let own = targets.iter().find(|own| own["name"] == target).unwrap();
    own["messages"][name].as_u64().unwrap_or_else(|| panic!("{name}: {own}"))
}

#[test]
fn all_stay_open_until_the_end_and_no_block_is_missed() {
    let sim = sim();
    for protocol in ["http1", "http2"] {
        let result = run_plan(&plan(&sim, protocol), &[]);
        assert!([0, 98].contains(&result.done.code), "{}", result.done.stdout);
        assert_eq!(result.count("/requests/ok"), 60, "{}", result.summary["notes"]);
        for target in ["idle", "heads", "events"] {
            let counts = ["opened", "kept", "dropped", "reopened", "gaps", "duplicates"]
                .map(|name| messages(&result, target, name));
            assert_eq!(counts, [20, 20, 0, 0, 0, 0], "{target}");
        }
        let mut found = BTreeSet::new();
        fields("", &result.summary, &mut found);
        found.retain(|field| field.contains("messages."));
        let documented = documented_fields("summary.md", "| field ");
        let missing: Vec<_> = found.difference(&documented).collect();
        assert!(found.len() > 20 && missing.is_empty(), "docs/summary.md lacks {missing:?}");
        assert_eq!(messages(&result, "idle", "received"), 0);
        for target in ["heads", "events"] {
            let received = messages(&result, target, "received");
            assert!(received >= 20, "{received} of {target}");
            assert_eq!(messages(&result, target, "in_order"), received);
            let own = &result.summary["targets"].as_array().unwrap()[1]["messages"];
            assert!(own["lag"]["p99"].as_u64().is_some(), "{own}");
            assert!(own["spread"]["max"].as_u64().is_some(), "{own}");
        }
        let opened = result.count("/connections/opened");
        assert_eq!(opened, if protocol == "http2" { 41 } else { 60 }, "{protocol}");
        // Subscriptions end before their connections.
        let unsubscribed = b"eth_unsubscribe";
        let is_own =
            |body: &[u8]| body.windows(unsubscribed.len()).any(|part| part == unsubscribed);
        while sim.counts().connections_open > 0 {
            std::thread::yield_now();
        }
        let ended = sim.seen().iter().filter(|call| is_own(&call.body)).count();
        assert_eq!(ended, 20, "each subscription is ended, although its notifications still come");
        sim.forget();
    }
}

#[test]
fn missing_and_repeated_messages_and_closed_connections_are_counted() {
    let sim = sim();
    let failing = |fault: FaultKind, share: f64| {
        sim.set_faults(vec![Fault::new(fault).for_share(share)]);
        let text = plan(&sim, "http1").replace("abort = { after = \"100ms\" }\n", "");
        run_plan(&text, &[])
    };
    let result = failing(FaultKind::Drop, 0.2);
    assert_eq!(result.done.code, 99, "{}", result.done.stdout);
    assert!(messages(&result, "heads", "gaps") > 0 && messages(&result, "events", "gaps") > 0);
    let findings = result.summary["verdict"]["findings"].to_string();
    assert!(findings.contains("target_messages"), "{findings}");
    let result = failing(FaultKind::Duplicate, 0.2);
    assert!(messages(&result, "heads", "duplicates") > 0);
    assert!(messages(&result, "events", "duplicates") > 0);
    assert_eq!(messages(&result, "heads", "gaps"), 0);
    let result = failing(FaultKind::Reorder, 0.1);
    assert!(messages(&result, "heads", "reordered") > 0, "{}", result.done.stdout);
    let result = failing(FaultKind::Close { code: 1013 }, 0.05);
    // The event streams end in the middle of an event.
    let cut = result.summary["faults"]["answer cut off before its end"].as_u64();
    assert!(cut.is_some_and(|n| n > 0), "{}", result.summary["faults"]);
    for target in ["heads", "events"] {
        let [opened, kept, dropped, reopened] =
            ["opened", "kept", "dropped", "reopened"].map(|name| messages(&result, target, name));
        assert!(dropped > 0 && reopened > 0, "{target}: {}", result.done.stdout);
        assert_eq!(opened, kept + dropped);
    }
    let errors = result.errors("closed_early");
    let dropped = messages(&result, "heads", "dropped") + messages(&result, "events", "dropped");
    assert_eq!(errors, dropped, "each is an error of its class");
    // Not one message: the streams are open all the same.
    let silent = ["heads", "events"].iter().fold(plan(&sim, "http1"), |text, name| {
        let of = format!("name = \"{name}\"\nsockets");
        text.replace(&of, &of.replace("sockets", "silence = \"300ms\"\nsockets"))
    });
    sim.set_faults(vec![Fault::new(FaultKind::Silence)]);
    let result = run_plan(&silent, &[]);
    assert_eq!(messages(&result, "heads", "silences"), 20);
    assert_eq!(messages(&result, "heads", "kept"), 20);
    // Each is ended and opened again; the last ones may be open at the end.
    assert!(messages(&result, "events", "dropped") >= 20, "{}", result.done.stdout);
    assert!(result.errors("response_timeout") >= 20);
}

/// A stream that stays open cannot wait for another to end.
#[test]
fn a_server_that_allows_few_streams_gets_more_connections() {
    let eth = Service { block_time: Nanos::from_millis(50), ..Service::named("eth").unwrap() };
    let settings = Settings { http2_streams: 2, ..Settings::for_tests(1, [eth]) };
    let sim = Sim::start(settings).unwrap();
    let events = format!("sse = \"{}/events\"\nnumbered = true", sim.url("eth"));
    let text = format!("protocol = \"http2\"\n{}", stream("events", 25, &events));
    let result = run_plan(&text, &[]);
    assert!([0, 98].contains(&result.done.code), "{}", result.done.stdout);
    let counts = ["opened", "kept", "gaps"].map(|name| messages(&result, "events", name));
    assert_eq!(counts, [25, 25, 0], "{}", result.summary["errors"]);
    assert!(result.count("/connections/opened") >= 13, "two on each");
}

#[test]
fn servers_of_others() {
    for language in ["node", "python"] {
        let server = Chains::websocket(language);
        let url = &server.urls[0];
        let target = format!("ws = \"{url}\"\n{SUBSCRIBE}");
        let compressed = format!("ws = \"{url}/other\"\ncompression = true\n{SUBSCRIBE}");
        let streams = [stream("heads", 30, &target), stream("compressed", 30, &compressed)];
        let result = run_plan(&streams.concat(), &[]);
        assert!([0, 98].contains(&result.done.code), "{language}: {}", result.done.stdout);
        for name in ["heads", "compressed"] {
            assert_eq!(messages(&result, name, "kept"), 30);
            let received = messages(&result, name, "received");
            assert!(received >= 30 && messages(&result, name, "in_order") == received);
            assert_eq!(messages(&result, name, "gaps"), 0);
        }
    }
    // Each stream ends after five events, and continues after the last one.
    for language in ["node", "python"] {
        let server = Chains::events(language);
        let target = format!("sse = \"{}/events\"\nnumbered = true", server.urls[0]);
        let result = run_plan(&stream("events", 10, &target), &[]);
        let [dropped, gaps, duplicates] =
            ["dropped", "gaps", "duplicates"].map(|name| messages(&result, "events", name));
        assert!(dropped >= 10, "{language}: {}", result.done.stdout);
        assert_eq!((gaps, duplicates), (0, 0), "{language}");
        assert!(messages(&result, "events", "heartbeats") > 0, "{language}");
    }
}

#[test]
fn the_scenarios_shortened() {
    let sim = sim();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/sockets");
    let http = sim.url("eth");
    let set = [
        format!("WEBSOCKET={}", http.replacen("http", "ws", 1)),
        format!("EVENTS={http}/events"),
        "SOCKETS=50".into(),
        "PER_SECOND=100".into(),
        "DURATION=900ms".into(),
        "EVENTS_TOKEN=x".into(),
    ];
    let mut ran = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let path = path.to_str().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let mut args = vec!["run", path, "--no-out", "--format", "json"];
        for own in &set {
            let name = own.split('=').next().unwrap();
            if text.contains(&format!("${{{name}")) {
                args.extend(["--set", own]);
            }
        }
        let result = RunResult::of(plimsoll(&args));
        assert_eq!(result.count("/requests/ok"), 50, "{path}: {}", result.done.stdout);
        assert_eq!(result.count("/messages/kept"), 50, "{path}");
        ran += 1;
    }
    assert_eq!(ran, 3);
}
