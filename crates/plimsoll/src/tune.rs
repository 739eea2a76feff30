//! `plimsoll tune`: the kernel settings that a load needs, as files or applied.

use crate::doctor::Judged;
use crate::plan_source::SetArgs;
use crate::{put, tell, usage_error};
use plimsoll_host::tune::Changes;
use plimsoll_host::{Source, tune};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "Examples:
  plimsoll tune plan.toml
  sudo plimsoll tune plan.toml --apply
  sudo plimsoll tune --undo

tune changes only what plimsoll doctor finds too low. Without --apply, it prints the files that it would \
write to /etc/sysctl.d and /etc/security/limits.d. --apply saves the previous values first; --undo restores \
them exactly.";

/// Flags of `plimsoll tune`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct TuneArgs {
    /// Plan or gateway configuration to tune for [default: a plan with default limits]
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
    let judged = Judged::by(args.file.as_deref(), &args.set)?;
    let changes = Changes::new(&source, &judged.demand);
    if changes.is_empty() {
        tell(&format!("nothing needs changing for {}", judged.name));
    } else if args.apply {
        return report(tune::apply(&source, &changes));
    } else {
        tell(&format!("for {}; --apply makes these changes:", judged.name));
        let files = changes.files();
        let shown = files.iter().map(|(path, text)| format!("# {path}\n{text}"));
        put(&shown.collect::<Vec<_>>().join("\n"))?;
    }
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
