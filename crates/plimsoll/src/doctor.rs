//! `plimsoll doctor`: what on this host would spoil a plan, or a gateway.

mod calibration;
mod demand;

use crate::check::FileKind;
use crate::plan_source::{SetArgs, read_document, read_text};
use crate::{put, tell, usage_error};
use plimsoll_config::Document;
use plimsoll_host::doctor::{Check, Demand, Status, examine};
use plimsoll_host::{Facts, Source, observe, process};
use plimsoll_measure::units::grouped;
use plimsoll_measure::{Clock, Nanos};
use plimsoll_registry::config::{Config, Inputs};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const AFTER_HELP: &str = "Examples:
  plimsoll doctor plan.toml
  plimsoll doctor gateway.toml
  plimsoll doctor --watch

Without a file, doctor reports the host's limits. It needs no root, and states what it could not read. \
Exit code 0 if nothing blocks the load, 98 otherwise.";

/// How long the host is observed.
const OBSERVED: Nanos = Nanos::from_secs(1);

/// Flags of `plimsoll doctor`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DoctorArgs {
    /// Plan or gateway configuration to check this host against
    file: Option<PathBuf>,
    #[command(flatten)]
    set: SetArgs,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Do not measure what a request costs on this host (5 s)
    #[arg(long)]
    no_calibration: bool,
    /// Print ports, sockets and descriptors every second until Ctrl-C
    #[arg(long, conflicts_with_all = ["format", "no_calibration"])]
    watch: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs `plimsoll doctor`.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let source = Source::host();
    if args.watch {
        return watch(&source);
    }
    // As a run does before it starts.
    plimsoll_host::raise_descriptor_limit();
    let mut unresolved = Vec::new();
    let mut demand = match &args.file {
        Some(path) => demand_of(path, &args.set, &mut unresolved)?,
        None => Demand::default(),
    };
    if demand.rate > 0.0 && !args.no_calibration {
        tell(&format!("measuring the cost of a request on loopback for {}", calibration::SPAN));
        match calibration::cpu_per_request(&source) {
            Ok(cost) => demand.cpu_per_request = cost,
            Err(error) => tell(&format!("note: cannot measure the cost of a request: {error:#}")),
        }
    }
    let observed = observe(&source, OBSERVED);
    let mut checks = unresolved;
    checks.extend(examine(&Facts::read(&source), &observed, &demand));
    match args.format {
        Format::Text => put(&text(&checks))?,
        Format::Json => put(&json(&checks))?,
    }
    let blocked = checks.iter().any(|check| check.status == Status::Blocks);
    Ok(ExitCode::from(if blocked { 98 } else { 0 }))
}

/// What a file asks of the host; `unresolved` gets a check for each host name without an address.
pub(crate) fn demand_of(
    path: &Path,
    set: &SetArgs,
    unresolved: &mut Vec<Check>,
) -> anyhow::Result<Demand> {
    let hint = "give the path of a plan or a gateway configuration";
    let document = Document::new(path.display().to_string(), read_text(path, hint)?);
    match FileKind::of(&document.keys(), path) {
        Some(FileKind::Gateway) => {
            let variables = set.variables()?.leave_unset();
            let file = Some(path.to_path_buf());
            let inputs = Inputs { file, variables, ..Inputs::default() };
            let config = Config::read(&inputs).map_err(|problems| {
                usage_error(format!("the configuration is not valid\n{problems}"), "")
            })?;
            Ok(demand::of_gateway(&config, unresolved))
        }
        _ => Ok(demand::of_plan(&read_document(&document, set, path)?, unresolved)),
    }
}

fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        out += &format!("{:<8} {:<width$}  {}\n", check.status.name(), check.id, check.value);
        let indent = " ".repeat(width + 11);
        if !check.why.is_empty() {
            out += &format!("{indent}{}\n", check.why);
        }
        if !check.fix.is_empty() {
            out += &format!("{indent}fix: {}\n", check.fix);
        }
    }
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let (blocks, warnings) = (count(Status::Blocks), count(Status::Warning));
    let verb = if blocks == 1 { "check blocks" } else { "checks block" };
    let plural = if warnings == 1 { "" } else { "s" };
    out += &match (blocks, warnings) {
        (0, 0) => "nothing blocks this load\n".to_string(),
        (0, _) => format!("nothing blocks this load; {warnings} warning{plural}\n"),
        _ => format!("{blocks} {verb} this load; {warnings} warning{plural}\n"),
    };
    out
}

fn json(checks: &[Check]) -> String {
    let items: Vec<_> = checks
        .iter()
        .map(|check| {
            serde_json::json!({
                "id": check.id,
                "status": check.status.name(),
                "value": check.value,
                "why": check.why,
                "fix": check.fix,
            })
        })
        .collect();
    let blocked = checks.iter().any(|check| check.status == Status::Blocks);
    let all = serde_json::json!({
        "schema": "plimsoll/doctor/1",
        "ok": !blocked,
        "checks": items,
    });
    format!("{all:#}\n")
}

/// Prints ports, sockets and descriptors every second.
fn watch(source: &Source) -> anyhow::Result<ExitCode> {
    let signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])?;
    let (stop, stopped) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signals = signals;
        signals.forever().next();
        let _ = stop.send(());
    })?;
    let clock = Clock::start();
    let overwrite = std::io::stdout().is_terminal();
    let mut second = 0;
    loop {
        let line = watched(source);
        put(&if overwrite { format!("\r\x1b[K{line}") } else { format!("{line}\n") })?;
        second += 1;
        let wait = Nanos::from_secs(second) - clock.now();
        if stopped.recv_timeout(wait.into()).is_ok() {
            break;
        }
    }
    if overwrite {
        put("\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn watched(source: &Source) -> String {
    let facts = Facts::read(source);
    let known = |value: Option<u64>| value.map_or("unknown".into(), grouped);
    let sockets = facts.sockets;
    format!(
        "ports {}  in use {}  TIME_WAIT {}  socket memory {} pages  own descriptors {}",
        known(facts.ports.map(|ports| ports.count())),
        known(sockets.map(|sockets| sockets.in_use)),
        known(sockets.map(|sockets| sockets.time_wait)),
        known(sockets.map(|sockets| sockets.pages)),
        grouped(process().open_fds),
    )
}
