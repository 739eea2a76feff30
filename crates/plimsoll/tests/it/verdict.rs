//! The verdict of complete runs against a real server.
//!
//! Findings that depend on the machine's timing are tested with the rules; these tests have wide
//! margins.

use crate::run::{Folder, RPC, RPC_RESULT, RunResult, plimsoll, run_plan, start};
use crate::server::{After, Reply, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::time::Duration;

fn findings(result: &RunResult) -> Vec<(String, String)> {
    let findings = result.summary["verdict"]["findings"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    findings.iter().map(|finding| (text(&finding["id"]), text(&finding["severity"]))).collect()
}

fn finding<'r>(result: &'r RunResult, id: &str) -> &'r Value {
    let findings = result.summary["verdict"]["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["id"] == id);
    found.unwrap_or_else(|| panic!("no {id}: {}", result.summary["verdict"]))
}

#[test]
fn a_request_without_an_answer_does_not_lower_the_rates() {
    let server = Server::start(|number, _| match number {
        5 => Reply::raw("", After::Hang),
        _ => Reply::ok("fine"),
    });
    let plan = format!(
        "rate = \"50/s\"\nduration = \"1s\"\ntimeout = \"4s\"\n[[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let result = run_plan(&plan, &[]);
    assert_eq!((result.count("/requests/ok"), result.errors("response_timeout")), (49, 1));
    let rate = |name: &str| result.summary["rate"][name].as_f64().unwrap();
    assert!(rate("ok") > 40.0 && rate("sent") > 40.0, "{}", result.summary["rate"]);
    assert!(result.count("/drain_ns") > 2_000_000_000, "{}", result.summary["drain_ns"]);
    let seconds = &result.summary["error_seconds"]["response_timeout"];
    assert!(seconds[0].as_u64() >= Some(4), "{seconds}");
}

#[test]
fn a_run_in_which_nothing_was_ok_never_exits_with_0() {
    let server = Server::start(|_, _| Reply::with(500, "", "no"));
    let plan = format!(
        "rate = \"50/s\"\nrequests = 20\n[[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let result = run_plan(&plan, &[]);
    assert_eq!(findings(&result)[0].0, "nothing_ok");
    let evidence = result.summary["verdict"]["findings"][0]["evidence"].as_str().unwrap();
    assert!(evidence.starts_with("all 20 requests failed"), "{evidence}");
    result.assert_code(99);
}

#[test]
fn a_run_that_an_objective_stopped_never_exits_with_0() {
    // Slow at first, so that the objective is missed early; then fast.
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
    let result = run_plan(&plan, &[]);
    assert_eq!(result.summary["cut_short"], true);
    result.assert_code(99);
}

#[test]
fn lateness_of_a_suspended_generator_is_attributed_to_it() {
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
    let result = RunResult::of(child.wait_with_output().unwrap().into());
    assert!(result.errors("late") >= 100, "{}", result.summary["errors"]);
    for theirs in ["connect_timeout", "reset", "closed_early"] {
        assert_eq!(result.errors(theirs), 0, "{}", result.summary["errors"]);
    }
    // Some were sent in a burst, shortly before their deadlines.
    assert!(
        result.errors("response_timeout") * 4 < result.errors("late"),
        "{}",
        result.summary["errors"]
    );
    assert_eq!(
        (result.done.code, result.summary["verdict"]["limited_by"].as_str()),
        (98, Some("generator"))
    );
}

#[test]
fn a_hostile_target_does_not_starve_a_healthy_one() {
    let healthy = Server::start(|_, _| Reply::ok(RPC_RESULT));
    let hostile = Server::start(|_, _| {
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(4000));
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        Reply { fragments: vec![head.into(), chunk.into()], then: After::Repeat }
    });
    let plan = format!(
        "timeout = \"2s\"\n\
         [[stream]]\nrate = \"200/s\"\nduration = \"2s\"\n[[stream.target]]\nname = \"healthy\"\nrequest = \"POST {}/\"\nbody = '{RPC}'\n\
         [[stream]]\nusers = 4\nduration = \"2s\"\n[[stream.target]]\nname = \"hostile\"\nrequest = \"GET {}/\"\n",
        healthy.url(),
        hostile.url()
    );
    let result = run_plan(&plan, &["--workers", "1"]);
    let healthy = &result.summary["targets"][0];
    assert_eq!(healthy["requests"]["ok"], 400, "{healthy}");
    assert_eq!(
        result.errors("response_timeout") + result.errors("body_too_large"),
        result.count("/requests/failed")
    );
    assert_eq!(result.errors("connect_timeout"), 0);
    assert!(result.count("/drain_ns") < 5_000_000_000, "ends after the timeouts");
}

#[test]
fn unresolvable_host_names_are_reported_before_the_start() {
    let plan =
        "rate = \"10/s\"\nrequests = 5\n[[target]]\nrequest = \"GET http://nowhere.invalid/\"\n";
    let folder = Folder::new();
    let path = folder.file("plan.toml", plan);
    let done = plimsoll(&["run", &path, "--no-out"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(done.stderr.contains("cannot resolve host \"nowhere.invalid\""), "{}", done.stderr);
    let result = run_plan(plan, &["--force"]);
    assert_eq!(result.errors("dns"), 5);
    for id in ["nothing_ok", "dns_failed", "forced"] {
        finding(&result, id);
    }
    result.assert_code(99);
}
