//! Reads a plan from a file, from stdin, or from flags.
//!
//! # Layout
//! - `argument`: what the argument of `plimsoll run` is: a plan, a URL, or a mistake
//! - `inline`: flags that define a plan without a file

mod argument;
mod inline;

use crate::usage_error;
use anyhow::Context;
use argument::Argument;
pub(crate) use inline::InlineArgs;
use plimsoll_config::{Document, Variables, is_word, nearest};
use plimsoll_plan::Plan;
use std::io::Read;
use std::path::Path;

/// Variables for a plan.
#[derive(clap::Args)]
pub(crate) struct SetArgs {
    /// Set a variable that the file uses as ${NAME}; overrides the environment
    #[arg(long = "set", value_name = "NAME=VALUE", global = true)]
    set: Vec<String>,
}

impl SetArgs {
    pub(crate) fn variables(&self) -> anyhow::Result<Variables> {
        let mut variables = Variables::from_environment();
        for pair in &self.set {
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                // What follows the name may be a secret.
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let name = &pair[..pair.find(|c| !is_name(c)).unwrap_or(pair.len())];
                let shown = if is_word(name) { name } else { "" };
                let shown = format!("{shown}{}", if shown == pair { "" } else { "…" });
                usage_error(
                    format!("--set {shown} is not in the form NAME=VALUE"),
                    "for example --set PORT=3069",
                )
            })?;
            variables.set(name, value);
        }
        Ok(variables)
    }

    /// An error for the first `--set` variable that the document does not use.
    fn unused(&self, used: &[String]) -> Option<anyhow::Error> {
        let names = self.set.iter().filter_map(|pair| Some(pair.split_once('=')?.0));
        let name = names.into_iter().find(|name| !used.iter().any(|used| used == name))?;
        let hint = match nearest(name, used.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None if used.is_empty() => "the plan uses no variables; remove --set".into(),
            None => format!("the plan uses {}", used.join(", ")),
        };
        Some(usage_error(format!("--set {name}: the plan does not use ${{{name}}}"), hint))
    }
}

/// What to run: a plan or a URL, and objectives.
#[derive(clap::Args)]
pub(crate) struct SourceArgs {
    /// Plan file (TOML; see docs/plan.md), "-" for stdin, or a URL such as http://localhost:8080/
    #[arg(value_name = "PLAN|URL")]
    arguments: Vec<String>,
    /// Pass/fail condition, such as "latency.p99 < 250ms"; may be repeated, and is added to a plan's
    #[arg(long = "objective", value_name = "CONDITION")]
    objectives: Vec<String>,
}

impl SourceArgs {
    /// Takes the value of a flag that may stand without one, if it is the plan rather: `--live plan.toml`.
    pub(crate) fn reclaim(&mut self, value: &mut Option<String>) {
        let is_plan =
            |value: &String| value.ends_with(".toml") || value == "-" || value.contains('/');
        if self.arguments.is_empty() && value.as_ref().is_some_and(is_plan) {
            self.arguments.extend(value.take());
        }
    }
}

/// Reads the plan of `run` from a file, from stdin, or from flags.
pub(crate) fn read_source(
    source: &SourceArgs,
    inline: &InlineArgs,
    set: &SetArgs,
) -> anyhow::Result<Plan> {
    let argument = Argument::of(&source.arguments, inline.url.as_deref())?;
    let (named, first) = (argument.to_string(), inline.first_given());
    let mut plan = match (argument, first) {
        (Argument::Url { flag, url }, _) => {
            let document = Document::from_named(inline.lines(flag, &url)?);
            Plan { from_flags: true, ..read(&document, set, &current_folder()?)? }
        }
        (_, Some((flag, key))) => {
            return Err(usage_error(
                format!("{flag} cannot be used with a plan file"),
                format!("set {key} in {named}, or give a URL instead of {named}"),
            ));
        }
        (Argument::Stdin, None) => {
            read(&Document::new(named, read_stdin()?), set, &current_folder()?)?
        }
        (Argument::File(path), None) => {
            let hint = "give the path of a plan, or a URL; see plimsoll run --help";
            let text = read_text(&path, hint)?;
            argument::refuse_other_formats(&path, &text)?;
            read_document(&Document::new(named, text), set, &path)?
        }
    };
    for objective in &source.objectives {
        plan.add_objective(objective)
            .map_err(|(message, hint)| usage_error(format!("--objective: {message}"), hint))?;
    }
    Ok(plan)
}

fn current_folder() -> anyhow::Result<std::path::PathBuf> {
    std::env::current_dir().context("cannot determine the current directory")
}

/// Reads a text file named by the user.
pub(crate) fn read_text(path: &Path, hint: &str) -> anyhow::Result<String> {
    let bytes = plimsoll_config::read_file(path, Document::LEN_MAX as u64);
    let text = bytes.and_then(|bytes| {
        String::from_utf8(bytes)
            .map_err(|_| format!("cannot read {}: it is not text in UTF-8", path.display()))
    });
    text.map_err(|message| usage_error(message, hint))
}

fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().take(Document::LEN_MAX as u64 + 1).read_to_string(&mut text);
    read.map_err(|error| usage_error(format!("cannot read the plan from stdin: {error}"), ""))?;
    Ok(text)
}

/// Reads a plan from a document; files that it names are relative to the folder of `path`. A plan without
/// a name is named after its file.
pub(crate) fn read_document(
    document: &Document,
    set: &SetArgs,
    path: &Path,
) -> anyhow::Result<Plan> {
    let mut plan = read(document, set, path.parent().unwrap_or(Path::new("")))?;
    if let Some(stem) = path.file_stem()
        && !document.keys().iter().any(|key| key == "name")
    {
        plan.name = stem.to_string_lossy().into_owned();
    }
    Ok(plan)
}

fn read(document: &Document, set: &SetArgs, folder: &Path) -> anyhow::Result<Plan> {
    let variables = set.variables()?;
    let read = Plan::read(document, &variables, folder);
    let unused = set.unused(&variables.used());
    match (read, unused) {
        (Ok(plan), None) => Ok(plan),
        (Ok(_), Some(unused)) => Err(unused),
        (Err(problems), unused) => {
            // A misspelt `--set` name often explains why another variable is not set.
            let unused = unused.map(|unused| format!("\n{unused}")).unwrap_or_default();
            Err(usage_error(format!("the plan is not valid\n{problems}{unused}"), ""))
        }
    }
}
