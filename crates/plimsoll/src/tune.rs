//! `plimsoll tune`: the kernel settings that a load needs, as files or applied.

use crate::doctor::demand_of;
use crate::plan_source::SetArgs;
use crate::{put, tell, usage_error};
use plimsoll_host::doctor::Demand;
use plimsoll_host::{Source, tune};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "Examples:
  plimsoll tune plan.toml
  sudo plimsoll tune plan.toml --apply
  sudo plimsoll tune --undo

Without --apply, tune prints what it would write to /etc/sysctl.d and /etc/security/limits.d. \
--apply saves the previous values first; --undo restores them exactly.";

/// Flags of `plimsoll tune`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct TuneArgs {
    /// Plan or gateway configuration to tune for
    file: Option<PathBuf>,
    #[command(flatten)]
    set: SetArgs,
    /// Change the settings now and for later starts (as root)
    #[arg(long, conflicts_with = "undo")]
    apply: bool,
    /// Restore the settings that --apply found
    #[arg(long, conflicts_with = "file")]
    undo: bool,
}

/// Runs `plimsoll tune`.
pub(crate) fn run(args: &TuneArgs) -> anyhow::Result<ExitCode> {
    let source = Source::host();
    if args.undo {
        return report(tune::undo(&source));
    }
    let demand = match &args.file {
        Some(path) => demand_of(path, &args.set, &mut Vec::new())?,
        None => Demand::default(),
    };
    let settings = tune::settings(&source, &demand);
    if args.apply {
        return report(tune::apply(&source, &settings, &demand));
    }
    if settings.is_empty() {
        tell("every setting is large enough already");
    }
    put(&format!(
        "# /etc/sysctl.d/90-plimsoll.conf\n{}\n# /etc/security/limits.d/90-plimsoll.conf\n{}",
        tune::sysctl_file(&settings),
        tune::limits_file(&demand),
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn report(done: std::io::Result<Vec<String>>) -> anyhow::Result<ExitCode> {
    match done {
        Ok(done) => {
            done.iter().for_each(|line| tell(line));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let hint = match error.kind() {
                std::io::ErrorKind::PermissionDenied => "run it as root: sudo plimsoll tune …",
                std::io::ErrorKind::ReadOnlyFilesystem => {
                    "in a container, change the settings on the host, or start it with --sysctl"
                }
                std::io::ErrorKind::AlreadyExists => "move that file away, or merge it by hand",
                _ => "",
            };
            Err(usage_error(error.to_string(), hint))
        }
    }
}
