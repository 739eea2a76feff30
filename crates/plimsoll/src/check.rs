//! `plimsoll check`: is the file valid, and what does it mean?

use crate::plan_source::{SetArgs, read_file};
use crate::put;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `plimsoll check`.
#[derive(clap::Args)]
#[command(after_help = "Example:
  plimsoll check plan.toml --set GATEWAY=http://localhost:3069")]
pub(crate) struct CheckArgs {
    /// The plan
    plan: PathBuf,
    #[command(flatten)]
    set: SetArgs,
}

/// Prints what will be sent when, as comments, above the resolved plan.
pub(crate) fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let plan = read_file(&args.plan, &args.set)?;
    let mut text = String::new();
    for line in plan.describe().lines() {
        text += &format!("# {line}\n");
    }
    put(&format!("{text}\n{}", plan.to_toml()))?;
    Ok(ExitCode::SUCCESS)
}
