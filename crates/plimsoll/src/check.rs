//! `plimsoll check`: validates a file and prints it resolved.

use crate::plan_source::{SetArgs, read_document, read_text};
use crate::{gateway, put, tell, usage_error};
use plimsoll_config::Document;
use plimsoll_plan::Plan;
use plimsoll_registry::config::Config;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `plimsoll check`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  plimsoll check plan.toml --set GATEWAY=http://localhost:3069
  plimsoll check gateway.toml")]
pub(crate) struct CheckArgs {
    /// Plan or gateway configuration file
    file: PathBuf,
    /// Kind of file [default: detected from its keys]
    #[arg(long, value_enum)]
    kind: Option<FileKind>,
    #[command(flatten)]
    set: SetArgs,
}

/// Kind of a file: a plan has targets and a rate or users; a gateway configuration has listen,
/// upstreams and endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FileKind {
    Plan,
    Gateway,
}

impl FileKind {
    /// The kind that more of the keys belong to; keys that both kinds have are ignored.
    pub(crate) fn of(keys: &[String]) -> Option<FileKind> {
        let count = |is_key: fn(&str) -> bool, is_other: fn(&str) -> bool| {
            keys.iter().filter(|key| is_key(key) && !is_other(key)).count()
        };
        let plan = count(is_plan_key, Config::has_key);
        let gateway = count(Config::has_key, is_plan_key);
        match plan.cmp(&gateway) {
            std::cmp::Ordering::Greater => Some(FileKind::Plan),
            std::cmp::Ordering::Less => Some(FileKind::Gateway),
            std::cmp::Ordering::Equal => None,
        }
    }
}

fn is_plan_key(key: &str) -> bool {
    Plan::KEYS.contains(&key)
}

/// Prints the resolved file; for a plan, preceded by a description of the load as comments.
pub(crate) fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let shown = args.file.display().to_string();
    let text = read_text(&args.file, "give the path of a plan or a gateway configuration")?;
    let document = Document::new(&shown, text);
    let keys = document.keys();
    match args.kind.or_else(|| FileKind::of(&keys)) {
        Some(FileKind::Plan) => {
            let plan = read_document(&document, &args.set, &args.file)?;
            plan.warnings().iter().for_each(|warning| tell(&format!("warning: {warning}")));
            let mut text = String::new();
            for line in plan.describe().lines() {
                text += &format!("# {line}\n");
            }
            put(&format!("{text}\n{}", plan.to_toml()))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(FileKind::Gateway) => {
            let file = Some(args.file);
            let variables = args.set.variables()?;
            gateway::print_config(&plimsoll_registry::config::Inputs {
                file,
                variables,
                ..Default::default()
            })
        }
        None => {
            let why = if keys.is_empty() {
                "it has no readable keys".into()
            } else {
                format!("its keys are {}", keys.join(", "))
            };
            let hint = "a plan has target and rate or users; a gateway configuration has listen, \
                        upstream or endpoint; choose one with --kind plan or --kind gateway";
            let message = format!(
                "cannot determine whether {shown} is a plan or a gateway configuration: {why}"
            );
            Err(usage_error(message, hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_follows_from_the_keys() {
        let check = |keys: &[&str], kind: Option<FileKind>| {
            let keys: Vec<String> = keys.iter().map(|key| key.to_string()).collect();
            assert_eq!(FileKind::of(&keys), kind, "{keys:?}");
        };
        check(&["rate", "target"], Some(FileKind::Plan));
        check(&["ratee", "target", "tls"], Some(FileKind::Plan));
        check(&["listen", "tls"], Some(FileKind::Gateway));
        check(&["upstreem", "endpoint"], Some(FileKind::Gateway));
        check(&["tls"], None); // both kinds have this key
        check(&["target", "upstream"], None);
        check(&[], None);
    }
}
