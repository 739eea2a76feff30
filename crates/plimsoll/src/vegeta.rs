//! `plimsoll vegeta`, and the binary when it is called `vegeta`: vegeta's commands, with its flags,
//! files, reports and exit codes.
//!
//! Exit codes are vegeta's: 1 for any error, 2 for a mistake in the flags. A report over damaged
//! results is printed, and the exit code is 1. See docs/vegeta.md.

mod attack;
mod encode;
mod files;
mod interrupt;
mod plot;
mod report;
mod results;

use crate::{Refusal, put, tell};
use plimsoll_compat::vegeta::flags::{self, Command, Flags, Parsed};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// The version whose commands and files are supported.
const COMPATIBLE_WITH: &str = "12.13.0";

/// Arguments of `plimsoll vegeta`, which are parsed as vegeta parses them.
#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:
  plimsoll vegeta attack -rate=500 -duration=1m -targets=t.txt > results.bin
  cat results-host*.bin | plimsoll vegeta report
  plimsoll vegeta plot results.bin > plot.html
  ln -s \"$(command -v plimsoll)\" /usr/local/bin/vegeta   # runs as vegeta"
)]
pub(crate) struct VegetaArgs {
    /// A command (attack, report, plot or encode) and its flags; -h lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

impl VegetaArgs {
    /// The arguments for vegeta, if the program is called `vegeta` or with that command. They are
    /// taken before clap reads any, because a single dash means something else to it.
    pub(crate) fn of(args: &[OsString]) -> Option<VegetaArgs> {
        let called = args.first().and_then(|name| Path::new(name).file_name());
        let from = match called {
            Some(name) if name == "vegeta" => 1,
            _ if args.get(1).is_some_and(|command| command == "vegeta") => 2,
            _ => return None,
        };
        Some(VegetaArgs { args: args[from..].to_vec() })
    }
}

/// Runs a command of vegeta; errors are printed here, because their exit codes are vegeta's.
pub(crate) fn run(args: &VegetaArgs) -> ExitCode {
    match execute(&args.args) {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("vegeta: {}", attack::as_flags(&format!("{error:#}"))));
            ExitCode::FAILURE
        }
    }
}

fn execute(args: &[OsString]) -> anyhow::Result<ExitCode> {
    let globals = match parse(&flags::GLOBAL, args)? {
        Ok(globals) => globals,
        Err(code) => return Ok(code),
    };
    if globals.is_on("version") {
        let version = env!("CARGO_PKG_VERSION");
        put(&format!("Version: plimsoll {version}, compatible with vegeta {COMPATIBLE_WITH}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !globals.text("profile").is_empty() {
        return Err(refused(
            "-profile is not supported: it writes profiles of Go's runtime",
            "profile the process with perf record -g",
        ));
    }
    let Some((name, args)) = globals.arguments.split_first() else {
        tell(flags::overview().trim_end());
        return Ok(ExitCode::FAILURE);
    };
    if name == "dump" {
        return Err(refused(
            "vegeta dump was replaced by vegeta encode",
            "use vegeta encode -to json",
        ));
    }
    let Some(command) = flags::COMMANDS.into_iter().find(|command| name == command.name) else {
        return Err(refused(
            format!("unknown command: {}", name.display()),
            "the commands are attack, encode, plot and report; -h lists their flags",
        ));
    };
    let flags = match parse(command, args)? {
        Ok(flags) => flags,
        Err(code) => return Ok(code),
    };
    match command.name {
        "attack" => attack::run(&flags, globals.int("cpus")),
        "report" => report::run(&flags),
        "plot" => plot::run(&flags),
        _ => encode::run(&flags),
    }
}

/// Parses flags. Help and mistakes are printed, and give an exit code.
fn parse(command: &'static Command, args: &[OsString]) -> anyhow::Result<Result<Flags, ExitCode>> {
    let usage = match command.name {
        "" => flags::overview(),
        _ => flags::usage(command),
    };
    match flags::parse(command, args) {
        Ok(Parsed::Flags(flags)) => Ok(Ok(flags)),
        Ok(Parsed::Help) => put(&usage).map(|()| Err(ExitCode::SUCCESS)),
        Err(mistake) => {
            tell(&format!("{mistake}\n{}", usage.trim_end()));
            Ok(Err(ExitCode::from(2)))
        }
    }
}

/// An error with its fix.
fn refused(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Refusal { message: message.into(), hint: hint.into(), code: 1 }.into()
}
