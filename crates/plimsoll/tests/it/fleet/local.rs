//! `plimsoll fleet PLAN --local N`: the same sums as a run, and nothing left running.

use super::{plan, printed, received, sim};
use crate::cache::until;
use crate::gateway::Process;
use crate::run::{Folder, command};
use nix::sys::signal::Signal;
use std::net::TcpStream;

#[test]
fn a_fleet_on_one_host_runs_a_plan_with_labels_and_secrets() {
    let sim = sim(&["eth", "boba"]);
    let address = sim.address().to_string();
    let folder = Folder::new();
    let text =
        plan(&address, "2s").replace("body =", "headers = { X-Key = \"${FLEET_KEY}\" }\nbody =");
    let file = folder.file("plan.toml", text);
    // They all create what a fleet needs, in just the room that it needs.
    let args = ["fleet", &file, "--local", "6", "--no-out", "--format", "json"];
    let (summary, stderr) = printed(command(&args).env("FLEET_KEY", "s3cret").output().unwrap());
    assert_eq!(
        (&summary["requests"]["scheduled"], &summary["requests"]["ok"]),
        (&200.into(), &200.into()),
        "{stderr}"
    );
    assert_eq!((received(&address), summary["agents"].as_array().unwrap().len()), (200, 6));
    assert!(stderr.contains("6 agents on this host, over NATS at nats://127.0.0.1:"), "{stderr}");
    assert!(!stderr.contains("s3cret"), "{stderr}");
    // Agents that no stream can use are an error before anything starts.
    let done = command(&["fleet", &file, "--local", "1"]).env("FLEET_KEY", "k").output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(stderr.contains("ask for 2 agents with different labels"), "{stderr}");
    assert_eq!((done.status.code(), received(&address)), (Some(2), 200));
}

#[test]
fn nothing_of_a_fleet_is_left_running() {
    for (signal, code) in [(Signal::SIGINT, Some(130)), (Signal::SIGKILL, None)] {
        let sim = sim(&["eth", "boba"]);
        let address = sim.address().to_string();
        let folder = Folder::new();
        let file = folder.file("plan.toml", plan(&address, "60s"));
        let fleet = Process::spawn(command(&["fleet", &file, "--local", "2", "--no-out"]));
        let line = fleet.wait_for_line("", "over NATS at nats://");
        let nats = line.rsplit_once("//").unwrap().1.trim().to_string();
        assert!(TcpStream::connect(&nats).is_ok());
        until("the agents send", || received(&address) > 0);
        fleet.signal(signal);
        assert_eq!(fleet.end(), code, "{signal}");
        until("NATS has ended", || TcpStream::connect(&nats).is_err());
        until("the agents have ended", || !has_process(&nats));
    }
}

/// Whether a process with this address in its environment exists.
fn has_process(address: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut environments =
        processes.filter_map(|one| std::fs::read(one.path().join("environ")).ok());
    environments.any(|text| String::from_utf8_lossy(&text).contains(address))
}
