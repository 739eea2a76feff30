//! The command line: parses flags, calls the other crates, and maps the outcome to an exit code.
//!
//! Data goes to stdout, everything else to stderr. Only this crate talks to the user; measuring and
//! judging are left to the other crates.

mod check;
mod demo;
mod doctor;
mod fleet;
mod foreign;
mod gateway;
mod host_check;
mod host_file;
mod interrupt;
mod lifeline;
mod live;
mod logs;
mod man;
mod metrics;
mod plan_source;
mod proxy;
mod recorded;
mod recording;
mod report;
mod run;
mod run_dir;
mod scrape;
mod sim;
mod terminal;
mod trace;
mod tune;
mod vegeta;
mod web;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

const EXIT_CODES: &str = "Exit codes of plimsoll run and report:
  0    the run completed and every objective held
  1    internal error
  2    invalid arguments or an invalid file
  98   the run is invalid: the load generator distorted the results
  99   an objective was missed or stopped the run, or no request succeeded
  130  interrupted; results are kept

Exit codes of plimsoll gateway:
  0    stopped by a signal, or the command succeeded
  1    internal error
  2    invalid arguments or configuration, an address in use, a refused change";

/// Load-test HTTP and JSON-RPC services, and relay JSON-RPC.
#[derive(Parser)]
#[command(name = "plimsoll", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a self-contained demo: simulated chains, five gateway instances, a load test and its report
    Demo(demo::DemoArgs),
    /// Run a load test from a plan or flags, and print a report
    Run(Box<run::RunArgs>),
    /// Report on recorded runs: a part of one, the sum of several, in many formats
    Report(report::ReportArgs),
    /// Wait for orders to send a part of a run over several hosts
    Agent(fleet::AgentArgs),
    /// List the agents that wait for orders
    Agents(fleet::AgentsArgs),
    /// Try a run over several agents on this host: starts NATS, the agents and their coordinator
    Fleet(fleet::FleetArgs),
    /// Relay JSON-RPC to nodes and PATH instances, or manage upstreams and endpoints
    Gateway(Box<gateway::GatewayArgs>),
    /// Validate a plan or a gateway configuration, and print it with defaults filled in
    Check(check::CheckArgs),
    /// Report what on this host would spoil a load test or limit a gateway, and how to fix it
    Doctor(doctor::DoctorArgs),
    /// Print or apply the kernel settings that a load needs, and undo it
    Tune(tune::TuneArgs),
    /// Serve simulated chains, verify a node, or inject network faults
    Sim(sim::SimArgs),
    /// Attack, report, plot and encode with vegeta's flags and files
    Vegeta(vegeta::VegetaArgs),
    /// Print shell completions
    #[command(
        after_help = "Example:\n  plimsoll completions bash > /etc/bash_completion.d/plimsoll"
    )]
    Completions {
        /// Shell to generate completions for
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(after_help = "Example:\n  plimsoll man | man -l -")]
    Man,
}

/// An error that the user can fix: printed with its hint, without a backtrace or internal details.
#[derive(Debug)]
struct Refusal {
    message: String,
    hint: String,
    /// The exit code.
    code: u8,
}

/// A [`Refusal`] of wrong input as an [`anyhow::Error`], for commands to return.
fn usage_error(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Refusal { message: message.into(), hint: hint.into(), code: 2 }.into()
}

/// A [`Refusal`] to start a load that this host cannot carry.
fn blocked(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Refusal { message: message.into(), hint: hint.into(), code: doctor::BLOCKED }.into()
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.message)?;
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// Writes to stdout. A closed pipe (`| head`) is not an error.
fn put(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}

/// The width of the terminal on stdout; `usize::MAX` for a pipe or a file.
fn stdout_columns() -> usize {
    terminal_size::terminal_size_of(std::io::stdout())
        .map_or(usize::MAX, |(width, _)| width.0.into())
}

/// Prints a line to stderr, or later if a terminal view is shown. Write errors are ignored.
fn tell(text: &str) {
    // Plans and files are quoted in messages: nothing in them may move the terminal's cursor. In one
    // write, so that lines of several processes do not interleave.
    let line = trace::escaped(text.as_bytes()) + "\n";
    if terminal::divert(&line) {
        return;
    }
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

fn main() -> ExitCode {
    plimsoll_allocator::return_freed_memory();
    let done = parse().and_then(execute);
    match done {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("plimsoll: {error:#}"));
            ExitCode::from(error.downcast_ref().map_or(1, |refusal: &Refusal| refusal.code))
        }
    }
}

/// Parses the command line. Prints help and clap's own errors, and exits.
fn parse() -> anyhow::Result<Command> {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(args) = vegeta::VegetaArgs::of(&args) {
        return Ok(Command::Vegeta(args));
    }
    if let Some(error) = foreign::single_dash(&args, &Cli::command()) {
        return Err(error);
    }
    match Cli::try_parse_from(&args) {
        Ok(cli) => Ok(cli.command),
        Err(error) => match foreign::explain(&error, &args) {
            Some(explained) => Err(explained),
            None => error.exit(),
        },
    }
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Run(args) => run::run(*args),
        Command::Report(args) => report::report(&args),
        Command::Agent(args) => fleet::run_agent(&args),
        Command::Agents(args) => fleet::run_agents(&args),
        Command::Fleet(args) => fleet::run_fleet(&args),
        Command::Gateway(args) => gateway::run(*args),
        Command::Check(args) => check::check(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Sim(args) => sim::run(args),
        Command::Vegeta(args) => Ok(vegeta::run(&args)),
        Command::Completions { shell } => completions(shell),
        Command::Man => man(),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "plimsoll", &mut out);
    put(&String::from_utf8_lossy(&out))?;
    Ok(ExitCode::SUCCESS)
}

fn man() -> anyhow::Result<ExitCode> {
    put(&String::from_utf8_lossy(&man::page(Cli::command(), EXIT_CODES)?))?;
    Ok(ExitCode::SUCCESS)
}
