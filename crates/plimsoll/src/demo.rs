//! `plimsoll demo`: the four-chain test, self-contained in one command.
//!
//! Starts five gateway instances in front of simulated chains and an edge gateway in front of the
//! instances, then load-tests the edge, and at last kills an instance under load. Instances and edge are separate processes, so that the CPU and
//! memory of each can be shown; they end with this process.

mod failure;
mod processes;

use crate::interrupt::Interrupts;
use crate::run::{Outputs, ViewArgs, default_settings, run_plan};
use crate::run_dir::{PAGE, RunDir};
use crate::sim::stop_signals;
use crate::{put, tell, usage_error};
use anyhow::Context;
use plimsoll_config::values::{show_duration, show_rate};
use plimsoll_config::{Document, Variables, values};
use plimsoll_engine::{Recorded, Settings};
use plimsoll_plan::Plan;
use processes::{Folder, GatewayProcess};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The default ports of the five instances: PATH's port and the next four.
const PORTS: std::ops::RangeInclusive<u16> = 3069..=3073;

/// The second part ramps to this multiple of the first part's rate: 2,000/s to 5,000/s.
const RAMP_FACTOR: f64 = 2.5;

/// The chains and their endpoints at the edge.
const ENDPOINTS: [(&str, &str); 4] = [
    ("eth", "ethpath_eth"),
    ("boba", "ethpath_boba"),
    ("mantle", "ethpath_mantle"),
    ("kava", "ethpath_kava"),
];

/// The plan and its target files, from `scenarios/`.
const SCENARIO: [(&str, &str); 10] = [
    ("demo.toml", include_str!("../../../scenarios/demo.toml")),
    ("failure.toml", include_str!("../../../scenarios/failure.toml")),
    ("targets-ethereum.txt", include_str!("../../../scenarios/targets-ethereum.txt")),
    ("targets-boba.txt", include_str!("../../../scenarios/targets-boba.txt")),
    ("targets-mantle.txt", include_str!("../../../scenarios/targets-mantle.txt")),
    ("targets-kava.txt", include_str!("../../../scenarios/targets-kava.txt")),
    ("mix-ethereum.txt", include_str!("../../../scenarios/mix-ethereum.txt")),
    ("mix-boba.txt", include_str!("../../../scenarios/mix-boba.txt")),
    ("mix-mantle.txt", include_str!("../../../scenarios/mix-mantle.txt")),
    ("mix-kava.txt", include_str!("../../../scenarios/mix-kava.txt")),
];

/// Flags of `plimsoll demo`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  plimsoll demo
      four chains at 2,000/s for 20 s, then a ramp to 5,000/s, then an
      instance is killed under load: about a minute
  plimsoll demo --rate 200/s --duration 8s
      a short, slow run
  plimsoll demo --live
      shows its charts while it runs, at http://127.0.0.1:8089/
  plimsoll demo --keep
      leaves the gateways running, and prints commands to call them")]
pub(crate) struct DemoArgs {
    /// Rate of the first part; the second part ramps to 2.5 times this rate
    #[arg(long, value_name = "RATE", default_value = "2000/s", value_parser = values::rate)]
    rate: f64,
    /// Total duration: half for the first part, a quarter for the ramp, a quarter at its peak
    #[arg(long, short = 'd', value_name = "DURATION", default_value = "40s", value_parser = values::flag_duration)]
    duration: Duration,
    /// Leave the gateways running after the test, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Write results to this new directory [default: runs/START-demo]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    views: ViewArgs,
}

/// Runs the demonstration.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    if args.rate <= 0.0 || args.duration < Duration::from_secs(1) {
        let hint = "for example --rate 500/s --duration 10s";
        return Err(usage_error("--rate must be above 0/s and --duration at least 1s", hint));
    }
    let views = args.views.start(None)?;
    let interrupts = Interrupts::listen()?;
    let stopped = || interrupts.first().map(|_| ExitCode::from(130));
    let folder = Folder::new()?;
    for (name, text) in SCENARIO {
        folder.write(name, text)?;
    }
    let instances = start_instances(&folder)?;
    tell(&format!(
        "five gateway instances in front of simulated chains:\n  {}",
        short(&instances.urls)
    ));
    if let Some(code) = stopped() {
        return Ok(code);
    }
    let edge = start_edge(&folder, &instances)?;
    let endpoints = ENDPOINTS.map(|(_, endpoint)| endpoint).join(", ");
    tell(&format!("edge gateway: {}, with endpoints\n  {endpoints}", edge.urls[0]));
    if let Some(code) = stopped() {
        return Ok(code);
    }
    let plan = Arc::new(plan(args, &folder, &instances, &edge)?);
    let mut run_dir = RunDir::create(args.out.as_deref(), &plan)?;
    let samples = Some(run_dir.record(Recorded::All));
    let settings = Settings { samples, ..default_settings() };
    let page = run_dir.path().join(PAGE);
    let outputs = Outputs { run_dir: Some(run_dir), views, announces: true, started: None };
    let finished = run_plan(&plan, settings, outputs, &interrupts)?;
    put(&finished.text())?;
    let code = finished.exit_code(interrupts.first().is_some());
    let kept = finished.keep_records(&interrupts);
    let mut survived = true;
    if interrupts.first().is_none() {
        let (line, held) = failure::run(args, &folder, &instances, &edge, &interrupts)?;
        put(&format!("\n{line}\n"))?;
        survived = held || interrupts.first().is_some();
    }
    let code = if survived { code } else { ExitCode::from(99) };
    // The whole path, which a browser needs.
    let page = page.canonicalize().ok().filter(|_| kept.is_ok());
    page.iter()
        .for_each(|page| tell(&format!("charts: open file://{} in a browser", page.display())));
    if args.keep && interrupts.first().is_none() {
        // Before the caller is told, who may stop it at once.
        let mut signals = stop_signals()?;
        drop(interrupts);
        tell(&how_to_call(&folder, &instances, &edge));
        signals.forever().next();
    }
    edge.stop();
    instances.stop();
    kept?;
    Ok(code)
}

/// Starts the instances, on their default ports if those are free.
fn start_instances(folder: &Folder) -> anyhow::Result<GatewayProcess> {
    let start = |listen: &str| {
        GatewayProcess::start(
            folder,
            "instances",
            &["--instances", "5", "--listen", listen, "--database", "off", "--simulate"],
            &[],
        )
    };
    let free = PORTS.map(|port| TcpListener::bind(("127.0.0.1", port))).all(|port| port.is_ok());
    if free && let Ok(part) = start(&format!("127.0.0.1:{}", PORTS.start())) {
        return Ok(part);
    }
    tell(&format!(
        "ports {} to {} are in use; using free ports instead",
        PORTS.start(),
        PORTS.end()
    ));
    start("127.0.0.1:0")
}

/// Creates the endpoints and starts the edge.
fn start_edge(folder: &Folder, instances: &GatewayProcess) -> anyhow::Result<GatewayProcess> {
    let database = format!("sqlite:{}", folder.path().join("edge.db").display());
    for (service, endpoint) in ENDPOINTS {
        let add = ["endpoint", "add", endpoint, "--service", service, "--database", &database];
        GatewayProcess::once(folder, &add)?;
    }
    let path = instances.urls.join(",");
    let args = ["--listen", "127.0.0.1:0", "--instance", "edge", "--database", &database];
    GatewayProcess::start(folder, "edge", &args, &[("PATH_GATEWAY_INSTANCES", &path)])
}

/// The plan, which targets the edge and scrapes the metrics of every gateway.
fn plan(
    args: &DemoArgs,
    folder: &Folder,
    instances: &GatewayProcess,
    edge: &GatewayProcess,
) -> anyhow::Result<Plan> {
    let mut text = SCENARIO[0].1.to_string();
    let mut scrape = |name: &str, group: &str, url: &str| {
        text += &format!(
            "\n[[scrape]]\nname = \"{name}\"\ngroup = \"{group}\"\nurl = \"{url}/metrics\"\n"
        );
    };
    scrape("edge", "edge", &edge.urls[0]);
    for (number, url) in (1..).zip(&instances.urls) {
        scrape(&format!("gw-{number}"), "instances", url);
    }
    let mut variables = Variables::none();
    let part = |share: u32| show_duration(args.duration / share);
    for (name, value) in [
        ("GATEWAY", edge.urls[0].clone()),
        ("RATE", show_rate(args.rate)),
        ("RAMP_RATE", show_rate(args.rate * RAMP_FACTOR)),
        ("DURATION", part(2)),
        ("RAMP_START", part(2)),
        ("RAMP", part(4)),
        ("HOLD", part(4)),
    ] {
        variables.set(name, value);
    }
    let document = Document::new("demo.toml", text);
    Plan::read(&document, &variables, folder.path())
        .map_err(|problems| anyhow::anyhow!("the built-in demo plan is not valid\n{problems}"))
        .context("please report this")
}

/// The plan of the last part.
fn failure_plan(
    args: &DemoArgs,
    folder: &Folder,
    edge: &GatewayProcess,
    duration: Duration,
) -> anyhow::Result<Plan> {
    let mut variables = Variables::none();
    variables.set("GATEWAY", edge.urls[0].clone());
    variables.set("RATE", show_rate(args.rate));
    variables.set("DURATION", show_duration(duration));
    let document = Document::new("failure.toml", SCENARIO[1].1);
    Plan::read(&document, &variables, folder.path())
        .map_err(|problems| anyhow::anyhow!("the built-in failure plan is not valid\n{problems}"))
        .context("please report this")
}

/// Lists the first URL's host and port, then only the ports of the others.
fn short(urls: &[String]) -> String {
    let hosts: Vec<&str> = urls.iter().filter_map(|url| url.split("://").nth(1)).collect();
    match hosts.split_first() {
        Some((first, others)) => {
            let ports = others.iter().filter_map(|host| host.rsplit_once(':'));
            let ports: Vec<String> = ports.map(|(_, port)| format!(":{port}")).collect();
            format!("{first} {}", ports.join(" "))
        }
        None => String::new(),
    }
}

/// Commands to call the gateways that are still running.
fn how_to_call(folder: &Folder, instances: &GatewayProcess, edge: &GatewayProcess) -> String {
    let body = "-d '{\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\",\"params\":[],\"id\":1}'";
    let (edge, instance) = (&edge.urls[0], &instances.urls[0]);
    let plan = folder.path().join("demo.toml");
    let plan: &Path = &plan;
    format!(
        "\nthe gateways keep running until Ctrl-C; to call them:\n  \
         curl -s '{edge}/api/gateway?endpoint=ethpath_eth' {body}\n  \
         curl -s {instance}/v1 -H 'Target-Service-Id: kava' {body}\n  \
         curl -s {edge}/metrics\n  \
         plimsoll run {} --set GATEWAY={edge} --set RATE=1000/s",
        plan.display()
    )
}
