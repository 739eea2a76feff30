//! `plimsoll demo`: complete runs, concurrent runs, and every way to stop one.

use crate::gateway::ask;
use crate::run::{Done, Folder, command};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::time::Duration;

/// Starts a demo at a low rate in this folder.
fn start(folder: &Folder, duration: &str, args: &[&str]) -> Child {
    let common = ["demo", "--rate", "200/s", "--duration", duration];
    command(&[&common, args].concat()).current_dir(folder.path()).spawn().unwrap()
}

/// Reads the output until it contains `words`, and returns it.
fn read_until(output: &mut BufReader<std::process::ChildStderr>, words: &str) -> String {
    let mut text = String::new();
    while !text.contains(words) {
        assert!(output.read_line(&mut text).unwrap() > 0, "\"{words}\" is missing:\n{text}");
    }
    text
}

/// The addresses that it named: the edge's, then the instances'.
fn addresses(said: &str) -> Vec<String> {
    let edge = said.split("edge gateway: http://").nth(1).unwrap();
    let instances = said.split("simulated chains:\n  ").nth(1).unwrap().lines().next().unwrap();
    let (first, others) = instances.split_once(' ').unwrap();
    let host = first.rsplit_once(':').unwrap().0;
    let others = others.split(' ').map(|port| format!("{host}{port}"));
    let edge = edge.split([',', '\n']).next().unwrap().to_string();
    [edge, first.to_string()].into_iter().chain(others).collect()
}

/// Waits until nothing listens on the addresses. A gateway exits shortly after its pipe is closed.
fn assert_gone(addresses: &[String]) {
    let (_keep, never) = std::sync::mpsc::channel::<()>();
    for address in addresses {
        let gone = (0..600).any(|_| {
            let refused = TcpStream::connect(address).is_err();
            let _ = never.recv_timeout(Duration::from_millis(if refused { 0 } else { 50 }));
            refused
        });
        assert!(gone, "{address} still accepts connections");
    }
}

/// The summary in the only run directory.
fn summary(folder: &Folder) -> Value {
    let mut runs = std::fs::read_dir(folder.path().join("runs")).unwrap();
    let run = runs.next().unwrap().unwrap().path();
    serde_json::from_str(&std::fs::read_to_string(run.join("summary.json")).unwrap()).unwrap()
}

/// A complete run; returns how far the edge's relays to an instance were from an even share.
fn complete_run() -> f64 {
    let folder = Folder::new();
    let done: Done = start(&folder, "2s", &[]).wait_with_output().unwrap().into();
    assert!([0, 98, 99].contains(&done.code), "{}\n{}", done.stdout, done.stderr);
    let summary = summary(&folder);
    let requests = &summary["requests"];
    assert_eq!(requests["ok"], requests["scheduled"], "{requests}");
    let groups = summary["scrapes"]["groups"].as_array().unwrap();
    let instances = groups.iter().find(|group| group["name"] == "instances").unwrap();
    assert!(done.stdout.contains("gw-3 was killed under load and served again"), "{}", done.stdout);
    assert!(done.stdout.trim_end().ends_with(" calls, 0 failed"), "{}", done.stdout);
    for words in ["instances: ", "gw-5", "results: runs/"] {
        assert!(done.stdout.contains(words), "{words}\n{}", done.stdout);
    }
    assert!(done.stdout.lines().all(|line| line.chars().count() <= 100), "{}", done.stdout);
    let mut steps = done.stderr.lines().take_while(|line| !line.starts_with("demo: "));
    assert!(steps.all(|line| line.chars().count() <= 60), "{}", done.stderr);
    assert_gone(&addresses(&done.stderr));
    let warmup = summary["warmup"]["requests"]["sent"].as_u64().unwrap();
    let sent = requests["sent"].as_u64().unwrap() + warmup;
    let edge = &summary["scrapes"]["processes"][0];
    let calls = edge["calls"]["total"].as_u64().unwrap();
    // Some requests are batches of two calls.
    assert!(calls >= sent && calls < sent + sent / 4, "{sent} requests, {edge}");
    assert_eq!(edge["calls"]["outcomes"], json!({ "ok": calls }), "{edge}");
    let uses = edge["calls"]["cache"].as_object().unwrap();
    assert_eq!(uses.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), calls, "{edge}");
    let relays = [&edge["relays"], &instances["relays"]].map(|n| n.as_u64().unwrap());
    assert!(relays[1] < relays[0] && relays[0] < calls, "the caches save nothing: {relays:?}");
    // Their calls include the edge's checks.
    assert!(instances["evenness"]["deviation_max"].as_f64().unwrap() < 0.2, "{instances}");
    let paths = edge["upstreams"].as_object().unwrap();
    let even = relays[0] as f64 / paths.len() as f64;
    let far = |n: &Value| (n.as_f64().unwrap() / even - 1.0).abs();
    paths.values().map(far).fold(0.0, f64::max)
}

#[test]
fn a_complete_run_succeeds_and_leaves_no_processes() {
    // If this machine stalls for a quarter of a second, the edge rightly turns to other instances.
    let mut runs = Vec::new();
    let is_even = (0..3).any(|_| {
        runs.push(complete_run());
        runs.last().is_some_and(|deviation| *deviation < 0.01)
    });
    assert!(is_even, "the greatest deviations from an even share: {runs:?}");
}

#[test]
fn two_demos_run_concurrently() {
    let folders = [Folder::new(), Folder::new()];
    // One of the five default ports is in use, so both demos use free ports.
    let _taken = TcpListener::bind("127.0.0.1:3071");
    let running: Vec<Child> = folders.iter().map(|folder| start(folder, "2s", &[])).collect();
    for (child, folder) in running.into_iter().zip(&folders) {
        let done: Done = child.wait_with_output().unwrap().into();
        assert!(done.stderr.contains("in use; using free ports instead"), "{}", done.stderr);
        let requests = &summary(folder)["requests"];
        assert_eq!(requests["ok"], requests["scheduled"], "{}", done.stderr);
    }
}

#[test]
fn ctrl_c_stops_everything_and_keeps_the_results() {
    let folder = Folder::new();
    let mut child = start(&folder, "10m", &[]);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let started = read_until(&mut stderr, "worker");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(summary(&folder)["cut_short"], true);
    assert_gone(&addresses(&started));
}

#[test]
fn no_process_survives_a_kill() {
    let folder = Folder::new();
    let mut child = start(&folder, "10m", &[]);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let output = read_until(&mut stderr, "worker");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_gone(&addresses(&output));
}

#[test]
fn a_kept_system_answers_calls() {
    let folder = Folder::new();
    let mut child = start(&folder, "2s", &["--keep"]);
    let mut stdout = child.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stdout.read_to_string(&mut text);
        text
    });
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let output = read_until(&mut stderr, "RATE=1000/s");
    let edge = &addresses(&output)[0];
    let body = crate::run::RPC;
    let answered = ask(edge, "POST /api/gateway?endpoint=ethpath_kava", body);
    assert_eq!((answered.status, answered.json()["id"].as_u64()), (200, Some(1)));
    let plan = output.split("plimsoll run ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(std::path::Path::new(plan).exists(), "{plan}");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    child.wait().unwrap();
    assert!(reading.join().unwrap().contains("results: "));
    assert_gone(&addresses(&output));
    assert!(!std::path::Path::new(plan).exists(), "the folder was removed");
}

#[test]
fn bad_input_is_reported_before_anything_is_started() {
    let folder = Folder::new();
    let check = |args: &[&str], words: &str| {
        let mut command = command(&[&["demo"], args].concat());
        let done: Done = command.current_dir(folder.path()).output().unwrap().into();
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert!(done.stderr.contains(words), "{words}\n{}", done.stderr);
    };
    check(&["--rate", "fast"], "not a rate");
    check(&["--rate", "0/s"], "above 0/s");
    check(&["--duration", "5ms"], "at least 1s");
    check(&["--out", "/proc/no/such"], "/proc/no/such");
    folder.file("taken", "");
    check(&["--out", "taken"], "taken");
}
