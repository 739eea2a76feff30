//! `plimsoll check`: validates a file and prints it resolved.

use crate::plan_source::{SetArgs, read_document, read_text};
use crate::{gateway, put, tell, usage_error};
use plimsoll_config::{Document, nearest};
use plimsoll_plan::Plan;
use plimsoll_registry::config::Config;
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Flags of `plimsoll check`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  plimsoll check plan.toml --set GATEWAY=http://localhost:3069
  plimsoll check gateway.toml")]
pub(crate) struct CheckArgs {
    /// Plan or gateway configuration file
    file: PathBuf,
    /// Kind of file [default: detected from its keys and its name]
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
    /// The kind that more of the keys belong to; keys that both kinds have are ignored. If that does
    /// not decide, misspelt keys do, and then the file's name.
    pub(crate) fn of(keys: &[String], file: &Path) -> Option<FileKind> {
        let plan_keys = || Plan::KEYS.iter().copied();
        let by_exact_keys = FileKind::more(keys, |key| {
            (
                plan_keys().any(|known| known == key),
                Config::top_level_keys().any(|known| known == key),
            )
        });
        let by_near_keys = || {
            FileKind::more(keys, |key| {
                let near = nearest(key, plan_keys().chain(Config::top_level_keys()));
                let is_near = |known| near == Some(known);
                (plan_keys().any(is_near), Config::top_level_keys().any(is_near))
            })
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let by_name = || match (name.contains("plan"), name.contains("gateway")) {
            (true, false) => Some(FileKind::Plan),
            (false, true) => Some(FileKind::Gateway),
            _ => None,
        };
        by_exact_keys.or_else(by_near_keys).or_else(by_name)
    }

    /// The kind that more of the keys belong to; `belongs`: whether a key belongs to a plan, and to a
    /// gateway configuration.
    fn more(keys: &[String], belongs: impl Fn(&str) -> (bool, bool)) -> Option<FileKind> {
        let count = |kind| keys.iter().filter(|key| belongs(key) == kind).count();
        match count((true, false)).cmp(&count((false, true))) {
            Ordering::Greater => Some(FileKind::Plan),
            Ordering::Less => Some(FileKind::Gateway),
            Ordering::Equal => None,
        }
    }
}

/// Prints the resolved file; for a plan, preceded by a description of the load as comments.
pub(crate) fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let shown = args.file.display().to_string();
    let text = read_text(&args.file, "give the path of a plan or a gateway configuration")?;
    let document = Document::new(&shown, text);
    let keys = document.keys();
    match args.kind.or_else(|| FileKind::of(&keys, &args.file)) {
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
            assert_eq!(FileKind::of(&keys, Path::new("file.toml")), kind, "{keys:?}");
        };
        check(&["rate", "target"], Some(FileKind::Plan));
        check(&["ratee", "target", "tls"], Some(FileKind::Plan));
        check(&["listen", "tls"], Some(FileKind::Gateway));
        check(&["upstreem", "endpoint"], Some(FileKind::Gateway));
        check(&["tls"], None); // both kinds have this key
        check(&["target", "upstream"], None);
        check(&[], None);
        check(&["lisden"], Some(FileKind::Gateway));
        check(&["ratee"], Some(FileKind::Plan));
        check(&["target", "upstream", "enpoint"], Some(FileKind::Gateway));
        let by_name = |file: &str, kind| {
            assert_eq!(FileKind::of(&["tls".to_string()], Path::new(file)), kind, "{file}");
        };
        by_name("/etc/plimsoll/gateway.toml", Some(FileKind::Gateway));
        by_name("my-Plan.toml", Some(FileKind::Plan));
        by_name("/plans/tls.toml", None);
        by_name("gateway-plan.toml", None);
    }
}
