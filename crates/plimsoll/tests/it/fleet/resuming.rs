//! A coordinator is replaced only once it is gone; Ctrl-C at the new one drains all agents.

use super::{Nats, plan, received, sim};
use crate::cache::until;
use crate::gateway::Process;
use crate::run::Folder;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::process::Stdio;

#[test]
fn a_coordinator_is_replaced_once_it_is_gone_and_drains_all_agents() {
    let (nats, sim) = (Nats::start(), sim(&["eth", "boba"]));
    let address = sim.address().to_string();
    let agents = nats.two_agents(&address);
    let folder = Folder::new();
    let file = folder.file("plan.toml", plan(&address, "60s"));
    let coordinator = |args: &[&str]| {
        let mut command = nats.command(&[&["run"], args].concat());
        command.stdout(Stdio::null());
        Process::spawn(command)
    };
    let first = coordinator(&[&file, "--agents", "2", "--no-out"]);
    let line = first.wait_for_line("run ", " over 2 agents");
    let run = line.split(' ').nth(1).unwrap();
    until("the agents send", || received(&address) > 0);
    let done = nats.command(&["run", "--resume", run, "--no-out"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(&format!("the run {run} has a coordinator")), "{stderr}");

    first.signal(Signal::SIGKILL);
    assert_eq!(first.end(), None);
    let out = folder.path().join("out");
    let second = coordinator(&["--resume", run, "--out", out.to_str().unwrap()]);
    second.wait_for("resuming the run");
    second.signal(Signal::SIGINT);
    assert_eq!(second.end(), Some(130));
    let summary = std::fs::read(out.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    let (requests, sent) = (&summary["requests"], received(&address));
    assert_eq!((&requests["sent"], &requests["ok"]), (&sent.into(), &sent.into()), "{requests}");
    assert_eq!((&requests["unsent"], &summary["cut_short"]), (&0.into(), &true.into()));
    // Not that of the streams that one of the agents does not send.
    assert!(summary["duration_ns"].as_u64().unwrap() < 60_000_000_000, "{summary:#}");
    assert_eq!(summary["stopped_by"], "Ctrl-C");
    // What was reported is not kept in NATS.
    let done = nats.command(&["run", "--resume", run, "--no-out"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(stderr.contains("cannot read the plan of the run"), "{stderr}");
    for agent in agents {
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.end(), Some(130));
    }
}
