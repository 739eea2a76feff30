//! What is not there or not allowed: each is refused with its place and its fix, before anything is sent.

use super::{Nats, Raw, plan, received, sim};
use crate::run::{Folder, command};
use std::net::TcpListener;
use std::process::Command;

/// Runs a command that is refused with these texts.
#[track_caller]
fn refused(mut command: Command, expected: &[&str]) {
    let done = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{stderr}");
    for text in expected {
        assert!(stderr.contains(text), "no \"{text}\" in\n{stderr}");
    }
}

#[test]
fn a_server_that_is_not_there_or_lacks_jetstream_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = format!("nats://user:pass@127.0.0.1:{port}");
    let shown = format!("cannot reach NATS at nats://127.0.0.1:{port}");
    refused(command(&["agents", "--nats", &nowhere]), &[&shown]);
    refused(command(&["agent", "--nats", &nowhere, "--allow", "a"]), &[&shown]);
    refused(command(&["agents", "--nats", "nats://"]), &["nats://"]);
    refused(command(&["agents"]), &["no NATS server was given", "NATS_URL"]);
    let plain = Nats::start_with("nats", &[], &[]);
    let hint = "start the server with JetStream: nats-server --jetstream";
    refused(plain.command(&["agents"]), &["cannot open or create plimsoll_default", hint]);
    let locked = Nats::start_with("nats", &["-js", "--user", "u", "--pass", "p"], &[]);
    refused(
        locked.command(&["agents"]),
        &["refused a connection without credentials", "NATS_USER"],
    );
    let mut wrong = locked.command(&["agents", "--nats-user", "u"]);
    wrong.env("NATS_PASSWORD", "q");
    refused(wrong, &["refused the user or its password", "check NATS_USER and NATS_PASSWORD"]);
    refused(locked.command(&["agents", "--nats-user", "u"]), &["--nats-user needs a password"]);
    let mut two = locked.command(&["agents", "--nats-user", "u"]);
    two.env("NATS_PASSWORD", "p").env("NATS_TOKEN", "t");
    refused(two, &["more than one kind of credentials"]);
    let mut token = locked.command(&["agents"]);
    token.env("NATS_TOKEN", "t");
    refused(token, &["refused the token"]);
    let full = Nats::start_with("nats", &["-c", &small_store()], &[]);
    refused(full.command(&["agents"]), &["insufficient storage", "3 GB"]);
}

/// A configuration with less room than a fleet asks for.
fn small_store() -> String {
    static FOLDER: std::sync::OnceLock<Folder> = std::sync::OnceLock::new();
    FOLDER
        .get_or_init(Folder::new)
        .file("small.conf", "jetstream { max_mem: 1MB, max_file: 1MB }\n")
}

#[test]
fn what_an_agent_may_not_or_cannot_do_is_refused_before_anything_is_sent() {
    let (nats, sim) = (Nats::start(), sim(&["eth", "boba"]));
    let address = sim.address().to_string();
    let _agents =
        [nats.agent("one", "chain=eth", &address), nats.agent("two", "chain=boba", "elsewhere:1")];
    let folder = Folder::new();
    let file = folder.file("plan.toml", plan(&address, "1s"));
    let check = |args: &[&str], expected: &[&str]| {
        refused(nats.command(&[&["run", &file, "--no-out"], args].concat()), expected);
    };
    check(
        &["--agents", "2"],
        &[&format!("two: target {address} is not allowed"), "nothing was sent"],
    );
    check(&["--agents", "3", "--wait", "1s"], &["2 of 3 agents are there"]);
    // Agents of other versions.
    let mut raw = Raw::connect(&nats, "nobody");
    for (name, schema, version) in [("old", 1, "0.0.1"), ("new", 2, "9.0.0")] {
        let announcement = format!(
            "{{\"schema\":\"plimsoll/agent/{schema}\",\"name\":\"{name}\",\"session\":\"s\",\"version\":\"{version}\",\
             \"labels\":{{}},\"cpus\":1,\"allow\":[],\"findings\":[]}}"
        );
        let subject = format!("$KV.plimsoll_default_agents.{name}");
        let lines = format!("PUB {subject} {}\r\n{announcement}\r\n", announcement.len());
        assert!(raw.errors(&lines).is_empty());
    }
    let others =
        ["agent old has version 0.0.1, this is", "a message of version \"plimsoll/agent/2\""];
    check(&["--agents", "3", "--wait", "1s"], &others);
    check(&["--resume", "no-such-run"], &["cannot read the plan of the run no-such-run"]);
    let other = plan(&address, "1s").replace("\"boba\" }", "\"kava\" }");
    folder.file("plan.toml", other);
    check(&["--agents", "2", "--wait", "1s"], &["no agent for stream \"boba\" (chain=kava)"]);
    // A part that no host can carry: a million connections.
    let wide = plan(&address, "1s").replace("rate = 60", "users = 1000000").replacen(
        "name = \"by chain\"",
        "name = \"by chain\"\nconnections = { max = 1000000 }",
        1,
    );
    folder.file("plan.toml", wide);
    check(&["--agents", "2"], &["one: its host cannot carry its part"]);
    let same = nats.command(&["agent", "--name", "one", "--allow", &address]);
    refused(same, &["another agent named \"one\" is running", "--name NAME"]);
    let label = ["agent", "--label", "chain", "--allow", "a"];
    refused(nats.command(&label), &["--label chain is not in the form KEY=VALUE"]);
    let folder = ["agent", "--allow", "a", "--report-dir", "/nonexistent"];
    refused(nats.command(&folder), &["--report-dir /nonexistent is not a directory"]);
    assert_eq!(received(&address), 0);
}
