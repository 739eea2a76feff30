//! `plimsoll doctor`: what on this host would spoil a plan, or a gateway.

mod calibration;
mod demand;

use crate::check::FileKind;
use crate::plan_source::{SetArgs, read_document, read_text};
use crate::{put, stdout_columns, tell, usage_error};
pub(crate) use demand::of_plan;
use plimsoll_config::Document;
use plimsoll_host::doctor::{Check, Demand, Status, blocking, examine};
use plimsoll_host::{Facts, Source, observe, process};
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{Clock, Nanos};
use plimsoll_registry::config::{Config, Inputs};
use plimsoll_report::paragraph;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const AFTER_HELP: &str = "Examples:
  plimsoll doctor plan.toml
  plimsoll doctor gateway.toml
  plimsoll doctor --watch

Without a file, the host is checked against a plan with the default limits. doctor needs no root, and \
reports what it could not read. Exit code 0 if nothing prevents the load, 98 otherwise.";

/// The exit code if this host cannot carry the load.
pub(crate) const BLOCKED: u8 = 98;
/// How long the host is observed.
const OBSERVED: Nanos = Nanos::from_secs(1);

/// Flags of `plimsoll doctor`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DoctorArgs {
    /// Plan or gateway configuration to check this host for [default: a plan with default limits]
    file: Option<PathBuf>,
    #[command(flatten)]
    set: SetArgs,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Do not measure how much CPU time a request takes on this host (5 s)
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
    let Judged { name, mut demand, unresolved } = Judged::by(args.file.as_deref(), &args.set)?;
    if demand.rate > 0.0 && !args.no_calibration {
        tell(&format!("measuring the CPU time of a request on loopback for {}", calibration::SPAN));
        match calibration::cpu_per_request(&source) {
            Ok(cost) => demand.cpu_per_request = cost,
            Err(error) => {
                tell(&format!("note: cannot measure the CPU time of a request: {error:#}"));
            }
        }
    }
    let observed = observe(&source, OBSERVED);
    let mut checks = unresolved;
    checks.extend(examine(&Facts::read(&source), &observed, &demand));
    match args.format {
        Format::Text => put(&text(&name, args.file.is_none(), &checks, stdout_columns()))?,
        Format::Json => put(&json(&name, &checks))?,
    }
    let blocked = blocking(&checks).next().is_some();
    Ok(ExitCode::from(if blocked { BLOCKED } else { 0 }))
}

/// What this host is checked for.
pub(crate) struct Judged {
    /// The load in words, with its file: `plan.toml (5,000/s for 30s)`.
    pub(crate) name: String,
    pub(crate) demand: Demand,
    /// A check for each destination without an address.
    unresolved: Vec<Check>,
}

impl Judged {
    /// The load of a file, or of a plan with the default limits.
    pub(crate) fn by(path: Option<&Path>, set: &SetArgs) -> anyhow::Result<Judged> {
        let (name, mut demand) = match path {
            Some(path) => demand_of(path, set)?,
            None => {
                let demand = demand::of_default_plan()?;
                let most = demand.destinations.iter().map(|to| to.connections).sum();
                let most = counted(most, "connection");
                (format!("a plan with default limits (up to {most} to another host)"), demand)
            }
        };
        let unresolved = if path.is_some() { demand::resolve(&mut demand) } else { Vec::new() };
        Ok(Judged { name, demand, unresolved })
    }
}

/// The load of a file in words, and what it asks of the host.
fn demand_of(path: &Path, set: &SetArgs) -> anyhow::Result<(String, Demand)> {
    let hint = "give the path of a plan or a gateway configuration";
    let document = Document::new(path.display().to_string(), read_text(path, hint)?);
    let named = path.display();
    match FileKind::of(&document.keys(), path) {
        Some(FileKind::Gateway) => {
            let variables = set.variables()?.leave_unset();
            let file = Some(path.to_path_buf());
            let inputs = Inputs { file, variables, ..Inputs::default() };
            let config = Config::read(&inputs).map_err(|problems| {
                usage_error(format!("the configuration is not valid\n{problems}"), "")
            })?;
            let demand = demand::of_gateway(&config);
            let most = counted(demand.accepted, "connection");
            Ok((format!("{named} (a gateway that accepts up to {most})"), demand))
        }
        _ => {
            let plan = read_document(&document, set, path)?;
            Ok((format!("{named} ({})", plan.load_in_words()), of_plan(&plan, 0)))
        }
    }
}

/// The checks as text; `is_default`: no file was given.
fn text(name: &str, is_default: bool, checks: &[Check], columns: usize) -> String {
    let width = checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
    let mut out = paragraph("", &format!("checked for {name}:"), columns);
    for check in checks {
        let lead = format!("{:<8} {:<width$}  ", check.status.name(), check.id);
        out += &paragraph(&lead, &check.value, columns);
        let indent = " ".repeat(lead.len());
        if !check.why.is_empty() {
            out += &paragraph(&indent, &check.why, columns);
        }
        if !check.fix.is_empty() {
            out += &paragraph(&format!("{indent}fix: "), &check.fix, columns);
        }
    }
    let blocks = blocking(checks).count() as u64;
    let warnings = checks.iter().filter(|check| check.status == Status::Warning).count() as u64;
    let verdict = match (blocks, warnings) {
        (0, 0) => "this host can carry the load".to_string(),
        (0, _) => format!("this host can carry the load, with {}", counted(warnings, "warning")),
        (1, _) => "this host cannot carry the load: 1 check blocks it".to_string(),
        _ => format!("this host cannot carry the load: {blocks} checks block it"),
    };
    out += &paragraph("", &verdict, columns);
    if is_default {
        let hint = "name a plan or a gateway configuration to check this host for it: plimsoll doctor \
                    plan.toml";
        out += &paragraph("hint: ", hint, columns);
    }
    out
}

fn json(name: &str, checks: &[Check]) -> String {
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
    let blocked = blocking(checks).next().is_some();
    let all = serde_json::json!({
        "schema": "plimsoll/doctor/1",
        "load": name,
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
