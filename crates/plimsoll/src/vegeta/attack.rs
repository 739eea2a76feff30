//! `vegeta attack`.

use super::refused;
use plimsoll_compat::vegeta::flags::Flags;
use std::process::ExitCode;

/// Sends requests. `cpus` is the most worker threads to use; 0: one for each CPU.
pub(super) fn run(_flags: &Flags, _cpus: i64) -> anyhow::Result<ExitCode> {
    Err(refused(
        "attack is not available yet",
        "use plimsoll run, which reads vegeta's target files: see docs/plan.md",
    ))
}
