//! NATS is away while agents send: what they record waits in memory, then on disk, and nothing is lost; an agent
//! that can keep no more stops, and what it did not send is counted.

use super::{Nats, plan, printed, received, sim};
use crate::cache::until;
use crate::run::Folder;
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn an_outage_of_nats_loses_no_second_and_a_full_disk_stops_the_agent() {
    let (mut nats, sim) = (Nats::start(), sim(&["eth", "boba"]));
    let address = sim.address().to_string();
    // One second of this plan has more than 2 KiB.
    let small = ["--report-memory", "2KiB"];
    let agents = [
        nats.agent_with("one", "chain=eth", &address, &small),
        nats.agent_with(
            "two",
            "chain=boba",
            &address,
            &[&small[..], &["--report-disk", "0"]].concat(),
        ),
    ];
    let folder = Folder::new();
    let file = folder.file("plan.toml", plan(&address, "6s"));
    let args = ["run", &file, "--agents", "2", "--format", "json", "--no-out"];
    let run = nats.command(&args).spawn().unwrap();
    until("the agents send", || received(&address) > 0);
    nats.kill();
    agents[0].wait_for("are kept on disk");
    agents[1].wait_for("the agent stops sending: 0 bytes of reports wait for NATS");
    // The first agent sends all of its part meanwhile.
    agents[0].wait_for("the run has ended");
    agents[1].wait_for("the run has ended");
    let sent = received(&address);
    nats.start_again();
    let (summary, stderr) = printed(run.wait_with_output().unwrap());
    let count = |path: &str| summary.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    assert_eq!(count("/requests/scheduled"), 600, "{stderr}");
    assert_eq!((count("/requests/sent"), count("/requests/ok")), (sent, sent), "{stderr}");
    assert_eq!(count("/requests/unsent"), 600 - sent);
    assert_eq!(count("/errors/agent_lost"), 600 - sent);
    let row = |name: &str| {
        summary["agents"].as_array().unwrap().iter().find(|row| row["agent"] == name).unwrap()
    };
    assert_eq!((&row("one")["scheduled"], &row("one")["unsent"]), (&360.into(), &0.into()));
    assert!(row("two")["unsent"].as_u64().unwrap() > 0, "{summary:#}");
    for agent in agents {
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.end(), Some(130));
    }
}
