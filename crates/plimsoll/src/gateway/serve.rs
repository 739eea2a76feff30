//! Serving: starts what the sources say.

use super::ServeArgs;
use crate::{tell, usage_error};
use plimsoll_gateway::config::Inputs;
use plimsoll_gateway::sources::Sources;
use std::process::ExitCode;

/// Serves until it is told to stop.
pub(super) fn run(args: &ServeArgs, inputs: Inputs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut sources = Sources::new(inputs);
        let (config, definitions) =
            sources.load().await.map_err(|error| usage_error(error.to_string(), error.hint()))?;
        config.notes.iter().for_each(|note| tell(&format!("note: {note}")));
        for address in &config.settings.listen {
            tell(&format!(
                "http://{address}  {} processes, {} upstreams, {} endpoints",
                args.instances,
                definitions.upstreams.len(),
                definitions.endpoints.len()
            ));
        }
        sources.close().await;
        Ok(ExitCode::SUCCESS)
    })
}
