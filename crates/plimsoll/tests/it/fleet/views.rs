//! What watches a run over agents: metrics, scraped processes, an objective that stops it, and the page of the report.

use super::Nats;
use crate::cache::until;
use crate::gateway::{Caller, Process};
use crate::run::{Folder, RPC, RPC_RESULT};
use crate::server::{Reply, Server};
use serde_json::Value;
use std::process::Stdio;

#[test]
fn a_run_over_agents_is_shown_and_an_objective_stops_it() {
    let nats = Nats::start();
    let server = Server::start(|_, received| match received.line() {
        "GET /metrics" => Reply::ok("process_cpu_seconds_total 5\n"),
        _ => Reply::ok(RPC_RESULT),
    });
    let address = server.address.to_string();
    let _agents = [nats.agent("one", "a=b", &address), nats.agent("two", "a=b", &address)];
    let folder = Folder::new();
    let file = folder.file(
        "plan.toml",
        format!(
            "rate = 50\nduration = \"60s\"\n[[target]]\nname = \"rpc\"\nrequest = \"POST http://{address}/v1\"\n\
             body = '{RPC}'\n[[scrape]]\nname = \"gw-1\"\nurl = \"http://{address}/metrics\"\n\
             [[objective]]\nthat = \"rate.ok > 100000/s\"\nabort = {{ after = \"2s\" }}\n"
        ),
    );
    let out = folder.path().join("out");
    let args = ["run", &file, "--agents", "2", "--metrics", "127.0.0.1:0", "--out"];
    let mut command = nats.command(&[&args[..], &[out.to_str().unwrap()]].concat());
    command.stdout(Stdio::null());
    let run = Process::spawn(command);
    let line = run.wait_for_line("metrics at http://", "/metrics");
    let metrics = line.split('/').nth(2).unwrap().to_string();
    until("the page has the requests", || {
        let answer = Caller::connect(&metrics).unwrap().send("GET /metrics", "").unwrap();
        answer.body.contains("rpc")
    });
    run.wait_for("stopping: the objective \"rate.ok > 100000/s\" does not hold after 2s");
    assert_eq!(run.end(), Some(99));
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let summary: Value = serde_json::from_str(&read("summary.json")).unwrap();
    assert_eq!(summary["stopped_by"], "the objective \"rate.ok > 100000/s\"");
    let posts = server.received().iter().filter(|own| own.line() == "POST /v1").count();
    assert_eq!(
        (&summary["requests"]["sent"], &summary["requests"]["ok"]),
        (&posts.into(), &posts.into())
    );
    let scraped = &summary["scrapes"]["processes"][0];
    assert!(scraped["name"] == "gw-1" && scraped["reads"].as_u64().unwrap() > 1, "{scraped}");
    let page = read("report.html");
    assert!(page.contains("<caption>Agents</caption>") && page.contains(">one</th>"), "no agents");
}
