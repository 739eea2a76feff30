//! Records of single requests: those of all agents become the run's, what is missing is named, and a coordinator that
//! was replaced fetches them, too.

use super::{Nats, plan, printed, received, sim};
use crate::cache::until;
use crate::gateway::Process;
use crate::run::{Folder, command};
use nix::sys::signal::Signal;
use plimsoll_fleet::nats::{Bus, BusSettings, Credentials, Role};
use plimsoll_measure::samples::SampledTarget;
use plimsoll_report::{ParquetReader, Row};
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;

/// The rows of a run's `samples.parquet`.
fn rows(out: &Path) -> Vec<Row> {
    let targets =
        ["eth", "boba"].map(|name| SampledTarget { target: name.into(), stream: name.into() });
    let file = File::open(out.join("samples.parquet")).unwrap();
    let mut reader = ParquetReader::new(file, &targets).unwrap();
    let mut all = Vec::new();
    while let Some(rows) = reader.next_rows().unwrap() {
        all.extend(rows);
    }
    all
}

/// What NATS has of an agent's records.
fn kept(nats: &Nats, run: &str, agent: &str) -> Result<(), String> {
    let settings = BusSettings {
        url: nats.url.clone(),
        credentials: Credentials::None,
        ca: None,
        certificate: None,
        tenant: "default".into(),
        role: Role::Coordinator,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        let bus = Bus::connect(&settings, events).await.unwrap();
        let folder = Folder::new();
        let file = File::create(folder.path().join("records")).unwrap();
        bus.records(run, agent, 1, &file).await
    })
}

#[test]
fn records_of_all_agents_become_those_of_the_run() {
    let (nats, sim) = (Nats::start(), sim(&["eth", "boba"]));
    let address = sim.address().to_string();
    let agents = nats.two_agents(&address);
    let folder = Folder::new();
    let file = folder.file("plan.toml", plan(&address, "3s"));
    let out = folder.path().join("out");
    let args = ["run", &file, "--agents", "2", "--record", "all", "--format", "json", "--out"];
    let args = [&args[..], &[out.to_str().unwrap()]].concat();
    let (summary, stderr) = printed(nats.command(&args).output().unwrap());
    assert_eq!((&summary["requests"]["ok"], received(&address)), (&300.into(), 300), "{stderr}");
    let rows = rows(&out);
    assert_eq!(rows.len(), 300, "{stderr}");
    let agent = |name: &str| {
        let all = summary["agents"].as_array().unwrap();
        all.iter().find(|row| row["agent"] == name).unwrap()
    };
    // Workers are numbered over all agents; each agent sends one of the streams.
    let workers = |target: u32| {
        let of = rows.iter().filter(|row| row.sample.kind.target == target);
        let of: std::collections::BTreeSet<u16> = of.map(|row| row.counted.worker).collect();
        of
    };
    assert!(workers(0).is_disjoint(&workers(1)), "{:?} {:?}", workers(0), workers(1));
    assert!(workers(0).last() < workers(1).first(), "in the order of the agents");
    for (target, name, requests) in [(0, "one", 180), (1, "two", 120)] {
        let own: Vec<&Row> = rows.iter().filter(|row| row.sample.kind.target == target).collect();
        assert_eq!(own.len(), requests, "{name}");
        assert!(own.iter().all(|row| row.sample.kind.status == Some(200)));
        let mut due: Vec<u64> = own.iter().map(|row| row.sample.scheduled_at.0).collect();
        due.sort_unstable();
        due.dedup();
        assert_eq!(due.len(), requests, "{name}: each arrival once");
        assert_eq!(agent(name)["records"], requests, "{name}");
        assert_eq!(
            (&agent(name)["records_missing"], &agent(name)["records_missing_why"]),
            (&0.into(), &"".into())
        );
    }
    assert!(rows.is_sorted_by_key(|row| row.counted.second), "in the order of the seconds");
    // The records fit the seconds, by which a report on a part of the run compares them.
    let args = ["report", out.to_str().unwrap(), "--target", "boba", "--format", "json"];
    let part: Value = serde_json::from_slice(&command(&args).output().unwrap().stdout).unwrap();
    assert_eq!(part["requests"]["scheduled"], 120);
    assert!(part["narrowed"]["records_unused"].is_null(), "{:#}", part["narrowed"]);
    // Nothing is kept in NATS, or beside the results.
    let run = stderr.split_once("run ").unwrap().1.split(' ').next().unwrap();
    for name in ["one", "two"] {
        assert_eq!(kept(&nats, run, name), Err("1 of 1 bytes are not in NATS".into()));
    }
    let left = out.read_dir().unwrap().chain(out.join("agents").read_dir().unwrap());
    let left: Vec<String> =
        left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.contains("record") || name.contains("part")), "{left:?}");
    for agent in agents {
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.end(), Some(130));
    }
}

#[test]
fn a_replaced_coordinator_fetches_records_and_missing_ones_are_named() {
    let (nats, sim) = (Nats::start(), sim(&["eth"]));
    let address = sim.address().to_string();
    // Room for the header of the file, and for no second.
    let small = ["--record-disk", "512"];
    let agents = [
        nats.agent_with("one", "chain=eth", &address, &["--record-disk", "0"]),
        nats.agent_with("two", "chain=boba", &address, &[]),
        nats.agent_with("three", "chain=kava", &address, &small),
    ];
    let folder = Folder::new();
    let kava = plan(&address, "4s").split("[[stream]]").nth(2).unwrap().replace("boba", "kava");
    // There is only one chain: the others are answered with an error.
    let file = folder.file("plan.toml", plan(&address, "4s") + "[[stream]]" + &kava);
    let mut first = nats.command(&["run", &file, "--agents", "3", "--record", "errors", "--out"]);
    first.arg(folder.path().join("first")).stdout(Stdio::null());
    let first = Process::spawn(first);
    let line = first.wait_for_line("run ", " over 3 agents");
    let run = line.split(' ').nth(1).unwrap();
    until("the agents send", || received(&address) > 0);
    first.signal(Signal::SIGKILL);
    assert_eq!(first.end(), None);
    let refused = nats.command(&["run", "--resume", run, "--record", "all"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--record cannot be changed"));
    let out = folder.path().join("out");
    let args = ["run", "--resume", run, "--format", "json", "--out", out.to_str().unwrap()];
    let (summary, stderr) = printed(nats.command(&args).output().unwrap());
    assert_eq!(summary["requests"]["failed"], 320, "{stderr}");
    let targets = ["eth", "boba", "kava"];
    let targets = targets.map(|name| SampledTarget { target: name.into(), stream: name.into() });
    let samples = File::open(out.join("samples.parquet")).unwrap();
    let mut reader = ParquetReader::new(samples, &targets).unwrap();
    let mut rows = Vec::new();
    while let Some(more) = reader.next_rows().unwrap() {
        rows.extend(more);
    }
    assert_eq!(rows.len(), 160, "{stderr}");
    let failed = |row: &Row| row.sample.kind.target == 1 && row.sample.kind.error.is_some();
    assert!(rows.iter().all(failed), "{:?}", rows[0]);
    let agent = |name: &str| {
        let row = summary["agents"].as_array().unwrap().iter().find(|row| row["agent"] == name);
        let row = row.unwrap();
        (row["records"].clone(), row["records_missing"].clone(), row["records_missing_why"].clone())
    };
    // All that was sent to the chain was answered.
    assert_eq!(agent("one"), (0.into(), 0.into(), "".into()));
    assert_eq!(agent("two"), (160.into(), 0.into(), "".into()));
    let (records, missing, why) = agent("three");
    assert_eq!((records, missing), (0.into(), 160.into()));
    assert!(why.as_str().unwrap().ends_with("bytes are recorded, which is the limit"), "{why}");
    let text = command(&["report", out.to_str().unwrap()]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("160 of the records of 160 requests are missing"), "{text}");
    assert!(agents[0].has_logged("the agent's operator allows none (--record-disk 0)"));
}
