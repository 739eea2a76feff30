//! Ctrl-C: once to finish the requests in flight, twice to stop immediately; results are kept.

use crate::run::{Done, Folder, RunResult, run_plan, start};
use crate::server::{After, Reply, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plimsoll_measure::wire::{self, Reading};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

pub(crate) fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
}

fn run_args(folder: &Folder, url: &str, timeout: &str) -> Vec<String> {
    let plan = format!(
        "rate = \"100/s\"\nduration = \"10m\"\ntimeout = \"{timeout}\"\n[[target]]\nrequest = \"GET {url}/\"\n"
    );
    let plan = folder.file("plan.toml", plan);
    let out = folder.path().join("out").to_str().unwrap().to_string();
    ["run", &plan, "--out", &out, "--format", "json"].map(String::from).to_vec()
}

fn finish(child: Child) -> RunResult {
    RunResult::of(Done::from(child.wait_with_output().unwrap()))
}

#[test]
fn the_first_interrupt_drains_and_keeps_the_results() {
    let server = Server::start(|_, _| Reply::ok("fine"));
    let folder = Folder::new();
    let args = run_args(&folder, &server.url(), "5s");
    let child = start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    server.wait_for(30);
    interrupt(&child);
    let result = finish(child);
    assert_eq!(result.done.code, 130);
    assert_eq!((result.errors("aborted"), result.summary["cut_short"].as_bool()), (0, Some(true)));
    assert_eq!(result.summary["stopped_by"], "Ctrl-C");
    let findings = result.summary["verdict"]["findings"].as_array().unwrap();
    let cut_short = findings.iter().find(|finding| finding["id"] == "cut_short").unwrap();
    let evidence = cut_short["evidence"].as_str().unwrap();
    assert!(evidence.starts_with("the run was stopped after ") && evidence.ends_with(" by Ctrl-C"));
    assert!(result.count("/requests/ok") >= 30);
    assert_eq!(result.count("/requests/scheduled") as usize, server.received().len());
    let kept = std::fs::read_to_string(folder.path().join("out/summary.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&kept).unwrap(), result.summary);
}

#[test]
fn the_second_interrupt_stops_at_once() {
    let server = Server::start(|_, _| Reply::raw("", After::Hang));
    let folder = Folder::new();
    let args = run_args(&folder, &server.url(), "20m");
    let mut child = start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    server.wait_for(20);
    interrupt(&child);
    let mut line = String::new();
    while !line.contains("waiting for the answers to requests already sent") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the message is missing");
    }
    interrupt(&child);
    let _ = stderr.read_to_string(&mut line);
    let result = finish(child);
    assert_eq!(result.done.code, 130);
    assert_eq!(result.errors("aborted"), result.count("/requests/scheduled"));
    assert!(result.count("/requests/failed") >= 20, "{}", result.summary["requests"]);
}

/// Stops a run by a signal during its warm-up, and returns its output.
fn stopped_in_warmup(signal: Signal) -> Done {
    let server = Server::start(|_, _| Reply::ok("fine"));
    let url = format!("{}/", server.url());
    let child = start(&["run", "--url", &url, "--rate", "100/s", "--warmup", "10m", "--no-out"]);
    server.wait_for(20);
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_run_stopped_during_its_warm_up_is_reported_as_such() {
    let signals = [
        (Signal::SIGINT, "Ctrl-C"),
        (Signal::SIGTERM, "SIGTERM"),
        (Signal::SIGHUP, "SIGHUP (the terminal was closed)"),
    ];
    for (signal, name) in signals {
        let done = stopped_in_warmup(signal);
        assert_eq!(done.code, 130, "{signal}: {}", done.stderr);
        assert!(done.stdout.contains(", stopped during the warm-up by "), "{}", done.stdout);
        assert!(done.stdout.contains(name), "{}", done.stdout);
        assert!(!done.stdout.contains("NO REQUEST SUCCEEDED"), "{}", done.stdout);
        assert!(!done.stdout.contains("nothing_ok"), "{}", done.stdout);
    }
}

#[test]
fn snapshots_written_before_a_kill_can_be_read() {
    let server = Server::start(|_, _| Reply::ok("fine"));
    let folder = Folder::new();
    let args = run_args(&folder, &server.url(), "5s");
    let mut child = start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    server.wait_for(250); // more than two seconds of the plan
    child.kill().unwrap();
    child.wait().unwrap();
    let out = folder.path().join("out");
    let text = std::fs::read_to_string(out.join("snapshots.jsonl")).unwrap();
    let Reading { header, snapshots, .. } = wire::read(&text).unwrap();
    assert_eq!(header.names, ["target-1"]);
    assert!(!snapshots.is_empty());
    snapshots.iter().for_each(plimsoll_measure::Snapshot::assert_identities);
    assert!(out.join("plan.toml").exists() && !out.join("summary.json").exists());
}

#[test]
fn requests_in_flight_at_the_end_of_the_grace_period_are_aborted_and_the_run_is_invalid() {
    let server = Server::start(|_, _| Reply::raw("", After::Hang));
    let plan = format!(
        "rate = \"1000/s\"\nrequests = 5\ntimeout = \"20m\"\ngrace = \"200ms\"\n\
         [[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let result = run_plan(&plan, &["--spin"]);
    assert_eq!((result.errors("aborted"), result.count("/requests/failed")), (5, 5));
    assert_eq!(result.summary["cut_short"], false);
    assert_eq!(result.done.code, 98, "the plan, not the target, ended the requests");
}

/// Starts a run in its own network namespace, whose name server never answers.
fn start_unresolvable(folder: &Folder, out: &str) -> Child {
    let resolv = folder.file("resolv.conf", "nameserver 192.0.2.1\n");
    let bin = env!("CARGO_BIN_EXE_plimsoll");
    let script = format!(
        "ip link add name v0 type veth peer name v1\n\
         ip addr add 192.0.2.2/24 dev v0\n\
         ip link set v0 up\n\
         ip link set v1 up\n\
         mount --bind {resolv} /etc/resolv.conf\n\
         exec {bin} run --url http://host.example/ -n 1 --out {out}\n"
    );
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--net", "--mount", "sh", "-ec", &script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Whether the program is running and handles SIGINT.
fn listens(child: &Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let caught = u64::from_str_radix(field("SigCgt:").trim(), 16).unwrap();
    field("Name:").trim() == "plimsoll" && caught >> (Signal::SIGINT as i32 - 1) & 1 == 1
}

#[test]
fn the_first_interrupt_ends_a_run_whose_host_name_is_being_resolved() {
    let folder = Folder::new();
    let out = folder.path().join("out");
    let mut child = start_unresolvable(&folder, out.to_str().unwrap());
    while !listens(&child) {
        std::thread::yield_now();
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!out.exists(), "a run that never started leaves nothing behind");
}

#[test]
fn signals_that_interrupt_system_calls_do_not_disturb_a_run() {
    let server = Server::start(|_, _| Reply::ok("fine"));
    let folder = Folder::new();
    let plan = folder.file(
        "plan.toml",
        format!(
            "rate = \"200/s\"\nduration = \"500ms\"\n[[target]]\nrequest = \"GET {}/\"\n",
            server.url()
        ),
    );
    let mut child = start(&["run", &plan, "--no-out", "--format", "json"]);
    // From the first instruction on: a stop and a continuation interrupt a poll even without a handler.
    while child.try_wait().unwrap().is_none() {
        for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
        }
        std::thread::yield_now();
    }
    let ran = finish(child);
    assert_eq!(ran.count("/requests/scheduled"), 100, "{}", ran.summary["errors"]);
}

#[test]
fn no_number_and_kind_of_signals_loses_the_results() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let server = Server::start(|_, _| Reply::raw("", After::Hang));
        let folder = Folder::new();
        let args = run_args(&folder, &server.url(), "20m");
        let mut child = start(&args.iter().map(String::as_str).collect::<Vec<_>>());
        // Nobody reads the report or the messages.
        drop((child.stdout.take(), child.stderr.take()));
        server.wait_for(20);
        // The kernel merges pending signals: repeated until the process has ended.
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
            std::thread::yield_now();
        };
        assert_eq!(status.code(), Some(130), "{signal}: {status}");
        let kept = std::fs::read_to_string(folder.path().join("out/summary.json"));
        let summary: serde_json::Value = serde_json::from_str(&kept.unwrap()).unwrap();
        assert_eq!(summary["cut_short"], true, "{signal}");
        assert_eq!(summary["errors"]["aborted"], summary["requests"]["scheduled"]);
    }
}

#[test]
fn a_quarter_million_waiting_arrivals_end_at_once() {
    let server = Server::start(|_, _| Reply::raw("", After::Hang));
    let folder = Folder::new();
    let plan = format!(
        "users = 250000\nduration = \"10m\"\ntimeout = \"20m\"\nconnections = {{ max = 50 }}\n\
         [[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let plan = folder.file("plan.toml", plan);
    let args = ["run", &plan, "--no-out", "--format", "json", "--workers", "1", "--force"];
    let mut child = start(&args);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    server.wait_for(50);
    for words in ["waiting for the answers", "stopping now"] {
        interrupt(&child);
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it says: {words}");
        }
    }
    let result = finish(child);
    assert_eq!(result.done.code, 130);
    assert_eq!(result.errors("aborted"), result.count("/requests/scheduled"));
}
