//! `plimsoll gateway export`: the entries of a database in the form that `import` reads.
//!
//! Entries are written as they are stored: variables stay variables, and secrets that were written out are
//! written out here, too. That is why only the database is read. The admin API gives no secrets away, so
//! that its token, which may change entries, cannot be used to read them.

use super::access::load_words;
use super::entries::ExportArgs;
use super::import::BUILT_IN_DISABLED;
use crate::{put, tell, usage_error};
use anyhow::Context;
use plimsoll_config::values::quote;
use plimsoll_registry::config::Inputs;
use plimsoll_registry::sources::{Editor, LoadError};
use plimsoll_registry::store::{Entry, StoreError, StoreErrorKind};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

/// Runs the command.
pub(super) fn run(args: &ExportArgs, inputs: Inputs) -> anyhow::Result<ExitCode> {
    let inputs = Inputs { variables: inputs.variables.leave_unset(), ..inputs };
    let mut editor = Editor::new(inputs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stored = runtime.block_on(async {
        let stored = editor.stored().await;
        let database = editor.database().map(String::from);
        editor.close().await;
        stored.map(|entries| (entries, database.unwrap_or_default()))
    });
    let (entries, database) = stored.map_err(|error| refused(&error))?;
    let text = document(&entries.entries, &database);
    match &args.output {
        Some(path) => write(path, &text)?,
        None => put(&text)?,
    }
    let count = match entries.entries.len() {
        1 => "1 entry".into(),
        count => format!("{count} entries"),
    };
    let to = args.output.as_ref().map(|path| format!(" to {}", path.display()));
    let to = to.unwrap_or_default();
    tell(&format!("exported {count} of {database}{to}, with their secrets"));
    Ok(ExitCode::SUCCESS)
}

fn refused(error: &LoadError) -> anyhow::Error {
    let (message, hint) = match error {
        LoadError::Store(StoreError { kind: StoreErrorKind::Missing, .. }) => (
            error.to_string(),
            "run the command in the folder of the gateway's configuration file, or give --config FILE \
             or --database URL"
                .into(),
        ),
        error => load_words(error),
    };
    usage_error(message, hint)
}

/// Writes a new file that only its owner may read.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let shown = path.display();
    let mut options = OpenOptions::new();
    let mut file = match options.write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let hint = "choose another name, or remove it";
            return Err(usage_error(format!("{shown} already exists"), hint));
        }
        file => file.with_context(|| format!("cannot write {shown}"))?,
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.with_context(|| format!("cannot write {shown}"))
}

/// The entries as a file for `import`.
fn document(entries: &[Entry], database: &str) -> String {
    let mut text = format!(
        "# The entries of {database}, for plimsoll gateway import. This file contains secrets.\n"
    );
    let marks = entries.iter().filter(|entry| entry.definition.is_none());
    let marks: Vec<String> = marks.map(|entry| quote(&entry.id)).collect();
    if !marks.is_empty() {
        text += &format!("{BUILT_IN_DISABLED} = [{}]\n", marks.join(", "));
    }
    for entry in entries {
        let Some(definition) = &entry.definition else { continue };
        text += &format!("\n[[{}]]\nid = {}\n", entry.kind.name(), quote(&entry.id));
        if let Some(service) = &entry.service {
            text += &format!("service = {}\n", quote(service));
        }
        if entry.disabled {
            text += "disabled = true\n";
        }
        for line in definition.lines() {
            text += line;
            text.push('\n');
        }
    }
    text
}
