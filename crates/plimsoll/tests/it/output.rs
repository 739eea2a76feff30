//! The output of a run: report, run directory, metrics; and help, completions, manual page.

use crate::run::{Folder, RPC, RPC_RESULT, RunResult, plimsoll, start};
use crate::server::{Reply, Server};
use plimsoll_measure::wire::{self, Header, Reading};
use plimsoll_measure::{Nanos, Snapshot, TcpCounter};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Both workers, the sockets of the server's host, and the same seconds in the timeline.
fn the_host_was_sampled(seconds: &[Snapshot], timeline: &serde_json::Value) {
    let spans = timeline.as_array().unwrap();
    assert_eq!(spans.len(), seconds.len());
    for (second, span) in seconds.iter().zip(spans) {
        assert_eq!(span["to_ns"], second.t.0);
        assert_eq!(span["sampling_ns"], second.host.sampling.0);
        assert!(second.host.sampling > Nanos::ZERO);
    }
    let first = &seconds[0].host;
    assert_eq!(first.workers.len(), 2);
    assert!(first.workers.iter().all(|worker| worker.cpu > Nanos::ZERO));
    let tcp = first.tcp.as_ref().unwrap();
    assert!(tcp.get(TcpCounter::SegmentsOut) > 0 && tcp.get(TcpCounter::ActiveOpens) > 0);
    assert!(first.sockets.unwrap().established > 0);
    let ports = seconds[0].ports(1).unwrap();
    assert!(ports.used > 0 && ports.limit > 0);
}

#[test]
fn the_snapshots_add_up_to_the_summary() {
    let server = Server::start(|number, received| match number % 10 {
        3 => Reply::with(503, "", "busy"),
        _ if received.line().starts_with("GET") => Reply::ok("fine"),
        _ => Reply::ok(RPC_RESULT),
    });
    let folder = Folder::new();
    let plan = format!(
        "rate = \"300/s\"\nduration = \"2500ms\"\nwarmup = \"200ms\"\n\
         [[target]]\nname = \"rpc\"\nweight = 2\nrequest = \"POST {0}/\"\nbody = '{RPC}'\n\
         [[target]]\nname = \"page\"\nrequest = \"GET {0}/\"\n",
        server.url()
    );
    let plan = folder.file("plan.toml", plan);
    let out = folder.path().join("out");
    let args = ["run", &plan, "--out", out.to_str().unwrap(), "--format", "json", "--workers", "2"];
    let result = RunResult::of(plimsoll(&args));
    let text = std::fs::read_to_string(out.join("snapshots.jsonl")).unwrap();
    let Reading { snapshots, header: Header { unread, .. }, facts, ignored, .. } =
        wire::read(&text).unwrap();
    assert!(snapshots.len() >= 3 && ignored.is_empty(), "one a second");
    assert!(facts.is_some_and(|facts| !facts.was_stopped()));
    let mut sum = snapshots[0].blank();
    snapshots.iter().for_each(|snapshot| sum.append(snapshot));
    sum.assert_complete();

    let all = sum.total();
    let same = |pointer: &str, n: u64| assert_eq!(result.count(pointer), n, "{pointer}");
    same("/requests/scheduled", all.requests.scheduled);
    same("/requests/ok", all.requests.ok);
    same("/errors/status", all.errors.get(plimsoll_measure::ErrorClass::Status));
    same("/warmup/requests/scheduled", sum.warmup.scheduled);
    same("/connections/opened", sum.connections.opened);
    same("/connections/peak", sum.connections.peak);
    same("/rpc/items", sum.rpc.items);
    same("/status/200", sum.status.get(200));
    same("/bytes/in", all.bytes_in);
    same("/generator/cpu_ns", sum.host.cpu.0);
    the_host_was_sampled(&snapshots, &result.summary["host"]["timeline"]);
    let host = std::fs::read_to_string(out.join("host.json")).unwrap();
    let host: serde_json::Value = serde_json::from_str(&host).unwrap();
    assert_eq!(host["schema"], "plimsoll/host/1");
    for when in ["start", "end"] {
        assert!(host[when]["cpus"].as_u64().unwrap() > 0, "{host}");
        assert!(host[when]["ports"]["first"].is_u64() && host[when]["kernel"].is_string());
    }
    assert_eq!(host["unread"], serde_json::json!(unread));
    let times = [
        ("latency", all.latency()),
        ("service_time", all.service_time()),
        ("lag", sum.lag()),
        ("wait", sum.wait()),
        ("read_lag", sum.read_lag.clone()),
    ];
    for (name, histogram) in times {
        same(&format!("/{name}/count"), histogram.count());
        for (key, q) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
            same(&format!("/{name}/{key}"), histogram.quantile(q).unwrap_or(Nanos::ZERO).0);
        }
    }
    // The resolved plan is valid.
    let again = plimsoll(&["check", out.join("plan.toml").to_str().unwrap()]);
    assert_eq!(again.code, 0, "{}", again.stderr);
}

#[test]
fn the_report_in_a_pipe_is_complete() {
    let server = Server::start(|number, _| match number % 7 {
        0 => Reply::with(503, "", "busy"),
        1 => Reply::ok(
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"a long message that a node might send when it is not well at all"}}"#,
        ),
        2 => Reply::ok("<html>"),
        3 => Reply::raw("nonsense", crate::server::After::Keep),
        4 => Reply::raw("", crate::server::After::Close),
        5 => Reply::raw("HTTP/1.1 2", crate::server::After::Reset),
        _ => Reply::ok(RPC_RESULT),
    });
    let targets: String = (0..30)
        .map(|i| {
            format!(
                "[[target]]\nname = \"a target with quite a long name {i}\"\ntags = {{ chain = \"c{}\", kind = \"k{}\" }}\nrequest = \"POST {}/{i}\"\nbody = '{RPC}'\n",
                i % 12, i % 5, server.url()
            )
        })
        .collect();
    let objectives: String = (1..15)
        .map(|i| {
            format!("[[objective]]\nthat = \"latency.p{i} < 1ns\"\nwhere = {{ chain = \"c1\" }}\n")
        })
        .collect();
    let folder = Folder::new();
    let plan = format!("name = \"a long name\"\nusers = 2\nrequests = 210\n{targets}{objectives}");
    let plan = folder.file("plan.toml", plan);
    let done = plimsoll(&["run", &plan, "--no-out"]);
    let lines: Vec<&str> = done.stdout.lines().collect();
    for line in &lines {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for words in [
        "MISSED     latency.p1 < 1ns where chain = c1",
        "reset by peer",
        "first seen",
        "-32000 ×",
        "MISSED     latency.p14 < 1ns where chain = c1",
        "a target with quite a l",
        "c11",
        "HTTP status",
        "status 200, body \"<html>\"",
    ] {
        assert!(done.stdout.contains(words), "{words}\n{}", done.stdout);
    }
    assert_eq!(done.stdout.matches("  a target with quite").count(), 30, "{}", done.stdout);
    assert!(!done.stdout.contains("summary.json"), "there is none: {}", done.stdout);
    assert_eq!(done.code, 99, "{}", done.stderr);
}

#[test]
fn results_that_could_not_be_written_are_not_referred_to() {
    let server = Server::start(|_, _| Reply::ok("fine"));
    let folder = Folder::new();
    let out = folder.path().join("out");
    let args = ["run", "--url", &server.url(), "--users", "1", "-d", "2s", "--out"];
    let child = start(&[&args[..], &[out.to_str().unwrap()]].concat());
    server.wait_for(5);
    std::fs::remove_dir_all(&out).unwrap();
    let done = crate::run::Done::from(child.wait_with_output().unwrap());
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("could not write all of"), "{}", done.stderr);
    assert!(done.stdout.contains("  ok  ") && !done.stdout.contains("summary.json"));
}

#[test]
fn check_prints_a_description_and_a_plan_that_can_be_read_back() {
    let folder = Folder::new();
    let plan = folder.file(
        "plan.toml",
        "name = \"x\"\nrate = \"5000/s\"\nduration = \"33m\"\n[[target]]\nrequest = \"GET http://${HOST}/${API_KEY}\"\n",
    );
    let set = ["--set", "HOST=h", "--set", "API_KEY=s3cret"];
    let done = plimsoll(&[&["check", &plan], &set[..]].concat());
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.starts_with("# x: 9,900,000 requests in 33m\n"), "{}", done.stdout);
    assert!(!done.stdout.contains("s3cret"), "secrets are not printed");
    let resolved = folder.file("resolved.toml", &done.stdout);
    let again = plimsoll(&[&["check", &resolved], &set[2..]].concat());
    assert_eq!(again.stdout, done.stdout);
}

#[test]
fn a_run_serves_metrics_and_prints_progress_every_ten_seconds() {
    let server = Server::start(|_, _| Reply::ok("fine"));
    let url = server.url();
    let mut child = start(&[
        "run",
        "--url",
        &url,
        "--rate",
        "50/s",
        "-d",
        "10500ms",
        "--no-out",
        "--metrics",
        "127.0.0.1:0",
    ]);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    let at =
        line.trim().strip_prefix("metrics at http://").unwrap().strip_suffix("/metrics").unwrap();
    server.wait_for(110); // two seconds have passed, so there is a page
    let mut socket = TcpStream::connect(at).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    socket.read_to_string(&mut page).unwrap();
    for words in [
        "200 OK",
        "plimsoll_run_requests_total{target=\"url\",fate=\"ok\"}",
        "# TYPE plimsoll_run_latency_seconds summary",
        "plimsoll_run_planned_rate{stream=\"main\"} 50",
    ] {
        assert!(page.contains(words), "{words}\n{page}");
    }
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    child.wait().unwrap();
    let progress: Vec<_> = rest.lines().filter(|line| line.contains("/s sent")).collect();
    assert_eq!(progress.len(), 1, "{rest}");
    let line = progress[0].strip_prefix("10s/10.5s  ").expect(progress[0]);
    let (rate, rest) = line.split_once("/s sent, ").unwrap();
    assert!(rest.starts_with("100 % ok"), "{line}");
    // On a busy host, an arrival may be sent in the next second.
    assert!((45..=55).contains(&rate.parse::<u32>().unwrap()), "{line}");
}

#[test]
fn help_completions_and_manual() {
    let help = plimsoll(&["run", "--help"]);
    for words in ["Examples:", "--url", "--trace", "Latency is measured from the instant"] {
        assert!(help.stdout.contains(words), "{words}\n{}", help.stdout);
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(plimsoll(&["completions", shell]).stdout.contains("no-out"), "{shell}");
    }
    let man = plimsoll(&["man"]).stdout;
    assert!(man.contains(".TH plimsoll 1") && man.contains("\\-\\-objective"), "{man}");
}
