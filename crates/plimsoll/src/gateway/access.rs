//! How a command reaches the registry: through the database, or through a running gateway's admin API.
//!
//! Both give the same results in the same words: the admin API runs the functions below, and its
//! answers contain the texts.

use super::admin::client::Client;
use super::admin::wire;
use super::listing::Shown;
use crate::usage_error;
use plimsoll_config::Variables;
use plimsoll_registry::sources::{ChangeError, Editor, LoadError, Outcome, Request};
use plimsoll_registry::store::EntryKind;

/// How a command reaches the registry.
pub(super) enum Access {
    /// The database, and the variables of new entries.
    Database(Box<Editor>, Variables),
    /// A gateway.
    Admin(Client),
}

/// The entries of a kind.
pub(super) struct Entries {
    /// Sorted by id.
    pub(super) entries: Vec<Shown>,
    /// The configured database, if it does not exist.
    pub(super) missing: Option<String>,
}

/// What became of changes.
#[derive(Debug)]
pub(super) struct Changed {
    /// One for each request.
    pub(super) outcomes: Vec<Outcome>,
    /// The database's name.
    pub(super) database: String,
    /// What the operator should look at now.
    pub(super) warnings: Vec<String>,
}

impl Access {
    /// The entries of a kind.
    pub(super) async fn list(&mut self, kind: EntryKind) -> anyhow::Result<Entries> {
        match self {
            Access::Database(editor, _) => list(editor, kind).await.map_err(not_loaded),
            Access::Admin(client) => {
                Ok(Entries { entries: client.list(kind).await?, missing: None })
            }
        }
    }

    /// Makes changes, all or none.
    pub(super) async fn change(&mut self, requests: &[Request]) -> anyhow::Result<Changed> {
        match self {
            Access::Database(editor, variables) => change(editor, requests, variables)
                .await
                .map_err(|error| not_changed(&error, requests)),
            Access::Admin(client) => wire::changed(&client.change(requests).await?),
        }
    }

    /// Closes the database.
    pub(super) async fn close(self) {
        if let Access::Database(editor, _) = self {
            editor.close().await;
        }
    }
}

/// Lists the entries of a kind.
pub(super) async fn list(editor: &mut Editor, kind: EntryKind) -> Result<Entries, LoadError> {
    let listing = editor.list(kind).await?;
    let entries = listing.entries.iter().map(|entry| Shown::of(kind, entry)).collect();
    Ok(Entries { entries, missing: listing.missing })
}

/// Makes changes, and looks at what the configuration is then.
pub(super) async fn change(
    editor: &mut Editor,
    requests: &[Request],
    variables: &Variables,
) -> Result<Changed, ChangeError> {
    let outcomes = editor.change(requests, variables).await?;
    let warnings = warnings(editor, requests).await;
    let database = editor.database().unwrap_or_default().to_string();
    Ok(Changed { outcomes, database, warnings })
}

/// Warnings about new entries, and whether running gateways will reject what the database now holds.
async fn warnings(editor: &mut Editor, requests: &[Request]) -> Vec<String> {
    let mut found = Vec::new();
    let rejected = match editor.load().await {
        Ok((config, definitions)) => {
            let is_new = |kind: EntryKind, id: &str| {
                let adds =
                    |one: &&Request| matches!(one, Request::Add { .. } | Request::AddKey { .. });
                requests.iter().filter(adds).any(|one| one.subject() == (kind, id))
            };
            let all = plimsoll_gateway::warnings(&config.settings, &definitions);
            let own = all.iter().filter(|warning| {
                warning.entry.as_ref().is_some_and(|(kind, id)| is_new(*kind, id))
            });
            found.extend(own.map(|warning| format!("warning: {warning}")));
            let problems = plimsoll_gateway::file_problems(&config.settings, &definitions);
            (!problems.is_empty()).then(|| problems.to_string())
        }
        Err(error) => Some(usage_error(error.to_string(), error.hint()).to_string()),
    };
    found.extend(rejected.map(|why| {
        format!(
            "warning: the resulting configuration is not valid: running gateways reject it and keep \
             the previous one\n{why}"
        )
    }));
    found
}

fn not_loaded(error: LoadError) -> anyhow::Error {
    let (message, hint) = load_words(&error);
    usage_error(message, hint)
}

fn not_changed(error: &ChangeError, requests: &[Request]) -> anyhow::Error {
    let (message, hint) = change_words(error, requests);
    usage_error(message, hint)
}

/// The message and the hint of an error.
pub(super) fn load_words(error: &LoadError) -> (String, String) {
    match error {
        LoadError::Problems(problems) => {
            (format!("the configuration is not valid\n{problems}"), String::new())
        }
        LoadError::Store(_) => (error.to_string(), error.hint().to_string()),
    }
}

/// The message and the hint of an error; of several, each with its request.
pub(super) fn change_words(error: &ChangeError, requests: &[Request]) -> (String, String) {
    match error {
        ChangeError::Load(error) => load_words(error),
        ChangeError::Several(rows) => {
            let mut text = error.to_string();
            for (number, error) in rows {
                let (message, hint) = change_words(error, &[]);
                let (kind, id) = requests[*number].subject();
                let id = plimsoll_config::values::quote(id);
                text += &format!("\n{} ({} {id}): {message}", number + 1, kind.name());
                if !hint.is_empty() {
                    text += &format!("\n  hint: {hint}");
                }
            }
            (text, String::new())
        }
        error => (error.to_string(), error.hint().to_string()),
    }
}
