//! `plimsoll gateway usage`: what customers have used, and what that costs.
//!
//! Answers come from the database or from a running gateway's admin API, in one form ([`report`]), and are
//! printed as a table for people, or as CSV or JSON for programs.

pub(super) mod report;
mod shown;
mod unknown;

use super::admin::client::Client;
use crate::{put, stdout_columns, tell, usage_error};
use clap::Args;
use plimsoll_registry::config::Inputs;
use plimsoll_registry::sources::Editor;
use report::{Asked, Report};
use serde_json::Value;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "\
Moments are months, days or hours in UTC: 2026-11, 2026-11-27 or 2026-11-27T04.

Examples:
  plimsoll gateway usage --from 2026-11 --to 2026-12 --by endpoint,service
      November, for invoices
  plimsoll gateway usage --by day,method --endpoint ethpath_1
      what one endpoint has used this month, by day and method
  plimsoll gateway usage --by hour,key,service --format csv > usage.csv
  plimsoll gateway usage --admin http://127.0.0.1:9069
      ask a running gateway

docs/usage.md explains the figures.")]
pub(super) struct UsageArgs {
    /// First month, day or hour [default: this month]
    #[arg(long, value_name = "MOMENT")]
    from: Option<String>,
    /// The month, day or hour before which the time ends [default: none]
    #[arg(long, value_name = "MOMENT")]
    to: Option<String>,
    /// What to distinguish: hour, day or month, endpoint, key, service, method [default:
    /// endpoint,service]
    #[arg(long, value_name = "LIST")]
    by: Option<String>,
    /// Only this service
    #[arg(long, value_name = "ID")]
    service: Option<String>,
    /// Only this endpoint; "" for calls that came through none
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,
    /// Only the endpoint's key with this name
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Only this method
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = UsageFormat::Table)]
    format: UsageFormat,
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum UsageFormat {
    Table,
    Csv,
    Json,
}

/// Runs the command.
pub(super) fn run(
    args: &UsageArgs,
    inputs: Inputs,
    admin: Option<Client>,
) -> anyhow::Result<ExitCode> {
    let asked = Asked {
        from: args.from.as_deref(),
        to: args.to.as_deref(),
        by: args.by.as_deref(),
        service: args.service.as_deref(),
        endpoint: args.endpoint.as_deref(),
        key: args.key.as_deref(),
        method: args.method.as_deref(),
    };
    // Each message starts with the name of a parameter, which is that of a flag.
    let query = asked.query().map_err(|why| usage_error(format!("--{why}"), ""))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let (Some(client), UsageFormat::Csv) = (&admin, args.format) {
        put(&runtime.block_on(client.usage_csv(&asked.parameters()))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let answer = runtime.block_on(async {
        match admin {
            Some(client) => client.usage(&asked.parameters()).await,
            None => {
                let inputs = Inputs { variables: inputs.variables.leave_unset(), ..inputs };
                let mut editor = Editor::new(inputs);
                let report = Report::of(&mut editor, &query).await;
                editor.close().await;
                let report = report.map_err(|error| {
                    let (message, hint) = error.words();
                    usage_error(message, hint)
                })?;
                Ok(report.page(1, usize::MAX))
            }
        }
    })?;
    match args.format {
        UsageFormat::Json => put(&format!("{answer:#}\n"))?,
        UsageFormat::Csv => put(&shown::csv(&answer))?,
        UsageFormat::Table => print_table(&answer)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_table(answer: &Value) -> anyhow::Result<()> {
    if answer["usage"].as_array().is_none_or(Vec::is_empty) {
        tell("nothing was used in this time");
        return Ok(());
    }
    let (table, left_out) = shown::table(answer, stdout_columns());
    put(&table)?;
    if !left_out.is_empty() {
        let columns = left_out.join(", ");
        tell(&format!(
            "note: left out because the terminal is too narrow: {columns}; --format csv has all columns"
        ));
    }
    if answer["currency"].is_string() || !answer["total"]["network_upokt"].is_null() {
        tell("note: costs are computed from the configured price and parameters of the network");
    }
    Ok(())
}
