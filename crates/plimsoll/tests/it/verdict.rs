//! Who is blamed, by a whole run against a real server.
//!
//! Causes that depend on the machine's timing are in the rules' own tests; these have wide margins.

use crate::run::{Folder, RPC, RPC_RESULT, Ran, plimsoll, run_plan, start};
use crate::server::{Reply, Server, Then};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::time::Duration;

/// A server that thinks for a while about each request.
fn slow(think: Duration) -> Server {
    Server::start(move |_, _| {
        let never = std::sync::mpsc::channel::<()>();
        let _ = never.1.recv_timeout(think);
        Reply::ok("fine")
    })
}

fn findings(ran: &Ran) -> Vec<(String, String)> {
    let findings = ran.summary["verdict"]["findings"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    findings.iter().map(|finding| (text(&finding["id"]), text(&finding["severity"]))).collect()
}

fn finding<'r>(ran: &'r Ran, id: &str) -> &'r Value {
    let findings = ran.summary["verdict"]["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["id"] == id);
    found.unwrap_or_else(|| panic!("no {id}: {}", ran.summary["verdict"]))
}

#[test]
fn a_connection_limit_below_what_the_plan_needs_is_named_whatever_the_timeout() {
    let server = slow(Duration::from_millis(50));
    for timeout in ["400ms", "60s"] {
        let plan = format!(
            "rate = \"200/s\"\nduration = \"2s\"\ntimeout = \"{timeout}\"\nconnections = {{ max = 4 }}\n\
             [[target]]\nrequest = \"GET {}/\"\n",
            server.url()
        );
        let ran = run_plan(&plan, &[]);
        let capped = finding(&ran, "connections_capped");
        assert_eq!(
            (&capped["severity"], &capped["side"]),
            (&"invalid".into(), &"generator".into())
        );
        let limit = capped["fix"].as_str().unwrap().strip_prefix("raise connections.max to ");
        let limit: u64 = limit.unwrap().parse().unwrap();
        assert!((11..=40).contains(&limit), "{capped}");
        assert!(!findings(&ran).iter().any(|(id, _)| id.starts_with("target_")), "{capped}");
        assert_eq!(ran.summary["verdict"]["limited_by"], "generator");
        assert_eq!(ran.done.code, 98);
        // 4 connections carry 80/s: what was sent is not what was planned.
        let sent = ran.summary["rate"]["sent"].as_f64().unwrap();
        let scheduled = ran.summary["rate"]["scheduled"].as_f64().unwrap();
        assert!((190.0..210.0).contains(&scheduled) && sent < 150.0, "{}", ran.summary["rate"]);
    }
}

#[test]
fn one_request_without_an_answer_stretches_no_rate() {
    let server = Server::start(|number, _| match number {
        5 => Reply::raw("", Then::Hang),
        _ => Reply::ok("fine"),
    });
    let plan = format!(
        "rate = \"50/s\"\nduration = \"1s\"\ntimeout = \"4s\"\n[[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let ran = run_plan(&plan, &[]);
    assert_eq!((ran.count("/requests/ok"), ran.errors("response_timeout")), (49, 1));
    let rate = |name: &str| ran.summary["rate"][name].as_f64().unwrap();
    assert!(rate("ok") > 40.0 && rate("sent") > 40.0, "{}", ran.summary["rate"]);
    assert!(ran.count("/drain_ns") > 2_000_000_000, "{}", ran.summary["drain_ns"]);
    let seconds = &ran.summary["error_seconds"]["response_timeout"];
    assert!(seconds[0].as_u64() >= Some(4), "{seconds}");
}

#[test]
fn a_run_in_which_nothing_was_ok_never_exits_with_0() {
    let server = Server::start(|_, _| Reply::with(500, "", "no"));
    let plan = format!(
        "rate = \"50/s\"\nrequests = 20\n[[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let ran = run_plan(&plan, &[]);
    assert_eq!(findings(&ran)[0].0, "nothing_ok");
    let evidence = ran.summary["verdict"]["findings"][0]["evidence"].as_str().unwrap();
    assert!(evidence.starts_with("none of 20 arrivals was answered as expected"), "{evidence}");
    ran.assert_code(99);
}

#[test]
fn a_run_that_an_objective_stopped_never_exits_with_0() {
    // Slow at first, so that the objective is missed early; fast ever after.
    let server = Server::start(|number, _| {
        if number < 5 {
            let never = std::sync::mpsc::channel::<()>();
            let _ = never.1.recv_timeout(Duration::from_millis(300));
        }
        Reply::ok("fine")
    });
    let plan = format!(
        "rate = \"50/s\"\nduration = \"60s\"\n[[target]]\nrequest = \"GET {}/\"\n\
         [[objective]]\nthat = \"latency.p95 < 100ms\"\nabort = {{ after = \"0s\" }}\n",
        server.url()
    );
    let ran = run_plan(&plan, &[]);
    assert_eq!(ran.summary["cut_short"], true);
    ran.assert_code(99);
}

#[test]
fn a_generator_that_was_stopped_for_a_while_blames_itself() {
    let server = Server::start(|_, _| Reply::ok(RPC_RESULT));
    let folder = Folder::new();
    let plan = folder.file(
        "plan.toml",
        format!(
            "rate = \"100/s\"\nduration = \"4s\"\ntimeout = \"300ms\"\n\
             [[target]]\nrequest = \"POST {}/\"\nbody = '{RPC}'\n",
            server.url()
        ),
    );
    let child = start(&["run", &plan, "--no-out", "--format", "json"]);
    server.wait_for(100);
    let process = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(process, Signal::SIGSTOP).unwrap();
    let never = std::sync::mpsc::channel::<()>();
    let _ = never.1.recv_timeout(Duration::from_millis(1500));
    kill(process, Signal::SIGCONT).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap().into());
    assert!(ran.errors("late") >= 100, "{}", ran.summary["errors"]);
    for theirs in ["connect_timeout", "reset", "closed_early"] {
        assert_eq!(ran.errors(theirs), 0, "{}", ran.summary["errors"]);
    }
    // Some were sent with little time left, all at once.
    assert!(ran.errors("response_timeout") * 4 < ran.errors("late"), "{}", ran.summary["errors"]);
    assert_eq!(
        (ran.done.code, ran.summary["verdict"]["limited_by"].as_str()),
        (98, Some("generator"))
    );
}

#[test]
fn a_hostile_target_does_not_starve_the_healthy_one_beside_it() {
    let healthy = Server::start(|_, _| Reply::ok(RPC_RESULT));
    let hostile = Server::start(|_, _| {
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(4000));
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        Reply { fragments: vec![head.into(), chunk.into()], then: Then::Repeat }
    });
    let plan = format!(
        "timeout = \"2s\"\n\
         [[stream]]\nrate = \"200/s\"\nduration = \"2s\"\n[[stream.target]]\nname = \"healthy\"\nrequest = \"POST {}/\"\nbody = '{RPC}'\n\
         [[stream]]\nusers = 4\nduration = \"2s\"\n[[stream.target]]\nname = \"hostile\"\nrequest = \"GET {}/\"\n",
        healthy.url(),
        hostile.url()
    );
    let ran = run_plan(&plan, &["--workers", "1"]);
    let healthy = &ran.summary["targets"][0];
    assert_eq!(healthy["requests"]["ok"], 400, "{healthy}");
    assert_eq!(
        ran.errors("response_timeout") + ran.errors("body_too_large"),
        ran.count("/requests/failed")
    );
    assert_eq!(ran.errors("connect_timeout"), 0);
    assert!(ran.count("/drain_ns") < 5_000_000_000, "it ends when its timeouts have passed");
}

#[test]
fn a_name_that_does_not_resolve_is_told_before_the_start() {
    let plan =
        "rate = \"10/s\"\nrequests = 5\n[[target]]\nrequest = \"GET http://nowhere.invalid/\"\n";
    let folder = Folder::new();
    let path = folder.file("plan.toml", plan);
    let done = plimsoll(&["run", &path, "--no-out"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(done.stderr.contains("cannot resolve host \"nowhere.invalid\""), "{}", done.stderr);
    let ran = run_plan(plan, &["--force"]);
    assert_eq!(ran.errors("dns"), 5);
    for id in ["nothing_ok", "dns_failed", "forced"] {
        finding(&ran, id);
    }
    ran.assert_code(99);
}
