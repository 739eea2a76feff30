//! `plimsoll agents`: lists the agents of a fleet.

use super::{NatsArgs, bus_error, runtime};
use crate::put;
use plimsoll_fleet::nats::Role;
use plimsoll_fleet::{Announcement, WireError};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

/// Flags of `plimsoll agents`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  plimsoll agents --nats nats://10.0.0.5:4222 --watch")]
pub(crate) struct AgentsArgs {
    #[command(flatten)]
    nats: NatsArgs,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Print the list again every two seconds
    #[arg(long)]
    watch: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    /// A table
    Text,
    /// JSON, one document per list
    Json,
}

/// Lists the agents.
pub(crate) fn run(args: &AgentsArgs) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        let (bus, _connection) = args.nats.connect(Role::Viewer).await?;
        loop {
            let agents = bus.agents().await.map_err(bus_error)?;
            put(&match args.format {
                Format::Text => text(&agents),
                Format::Json => json_of(&agents),
            })?;
            if !args.watch {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    })
}

fn text(agents: &[Result<Announcement, WireError>]) -> String {
    if agents.is_empty() {
        return "no agents\n".into();
    }
    let mut rows =
        vec![["agent", "state", "CPUs", "labels", "may send to", "findings"].map(String::from)];
    for agent in agents {
        rows.push(match agent {
            Ok(own) => {
                let labels: Vec<String> =
                    own.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let state = own.run.as_ref().map_or("free".into(), |run| format!("in {run}"));
                let state = if own.version == env!("CARGO_PKG_VERSION") {
                    state
                } else {
                    format!("version {}", own.version)
                };
                [
                    own.name.clone(),
                    state,
                    own.cpus.to_string(),
                    labels.join(" "),
                    own.allow.join(" "),
                    own.findings.join("; "),
                ]
            }
            Err(why) => [
                "?".into(),
                why.to_string(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
            ],
        });
    }
    let widths: Vec<usize> = (0..6)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &[String; 6]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

fn json_of(agents: &[Result<Announcement, WireError>]) -> String {
    let one = |agent: &Result<Announcement, WireError>| match agent {
        Ok(own) => json!({
            "agent": own.name,
            "session": own.session,
            "version": own.version,
            "labels": own.labels,
            "cpus": own.cpus,
            "allow": own.allow,
            "findings": own.findings,
            "run": own.run,
        }),
        Err(why) => json!({ "unreadable": why.to_string() }),
    };
    format!(
        "{:#}\n",
        json!({ "schema": "plimsoll/agents/1", "agents": agents.iter().map(one).collect::<Vec<_>>() })
    )
}
