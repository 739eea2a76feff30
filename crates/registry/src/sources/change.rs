//! What may be written into the database, decided from everything that is there.
//!
//! A change is decided from one state of the database and applied to that state or not at all:
//! where somebody else was faster, it is decided again.

use plimsoll_config::{Problems, Variables, nearest};

use super::join::{self, Services, held_by_file};
use super::{LoadError, Sources};
use crate::config::{Config, unknown_service};
use crate::model::Service;
use crate::store::{Applied, Change, Entry, EntryKind, StoreError};

/// Names listed before the rest is only counted.
const NAMES_MAX: usize = 5;

/// A change that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// An entry of these keys.
    Add {
        /// What it defines.
        kind: EntryKind,
        /// Under which id.
        id: String,
        /// The service that it is for.
        service: Option<String>,
        /// Its other keys as lines of TOML, each with the name that problems give it: a flag.
        lines: Vec<(String, String)>,
        /// Whether one of the same id is written over; it stays disabled if it is.
        replace: bool,
    },
    /// Takes an entry in again.
    Enable(EntryKind, String),
    /// Leaves an entry out.
    Disable(EntryKind, String),
    /// Removes an entry.
    Remove(EntryKind, String),
}

impl Request {
    /// The kind and id of the entry that it is about.
    fn about(&self) -> (EntryKind, &str) {
        match self {
            Request::Add { kind, id, .. } => (*kind, id),
            Request::Enable(kind, id) | Request::Disable(kind, id) | Request::Remove(kind, id) => {
                (*kind, id)
            }
        }
    }

    /// The id of the entry that it is about.
    pub fn id(&self) -> &str {
        self.about().1
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is so now.
    Changed,
    /// An entry was written over.
    Replaced,
    /// A service that is built in is replaced by an entry.
    ReplacedBuiltIn,
    /// It was so before.
    Unchanged,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It makes no sense beside what is there.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// What to do instead.
        hint: String,
    },
    /// The entry is not valid.
    #[error("the entry is not valid\n{0}")]
    Invalid(Problems),
    /// What is there cannot be read.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// The database cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl ChangeError {
    /// What to do about it; empty when the message says it.
    pub fn hint(&self) -> &str {
        match self {
            ChangeError::Refused { hint, .. } => hint,
            ChangeError::Invalid(_) => "",
            ChangeError::Load(error) => error.hint(),
            ChangeError::Store(error) => error.hint(),
        }
    }
}

fn refused<T>(message: String, hint: impl Into<String>) -> Result<T, ChangeError> {
    Err(ChangeError::Refused { message, hint: hint.into() })
}

impl Sources {
    /// Does what is asked for; the database is made if it is not there. A new entry is resolved by
    /// `variables`, so that it is known to be right; what is written keeps its placeholders.
    ///
    /// # Errors
    /// Why it is refused; then nothing was written.
    pub async fn change(
        &mut self,
        request: &Request,
        variables: &Variables,
    ) -> Result<Outcome, ChangeError> {
        check_entry(request, variables)?;
        let config = self.read()?;
        let Some(store) = self.open(true).await? else {
            let hint = "name one: --database sqlite:plimsoll.db";
            return refused("the configuration says database = \"off\"".into(), hint);
        };
        loop {
            let entries = store.load().await?;
            let (change, outcome) = match decide(request, &config, &entries.entries)? {
                Decision::Write(change, outcome) => (change, outcome),
                Decision::Nothing => return Ok(Outcome::Unchanged),
            };
            if let Applied::Done(_) = store.apply(&change, entries.sequence).await? {
                return Ok(outcome);
            }
        }
    }
}

/// Whether an entry is right in itself.
fn check_entry(request: &Request, variables: &Variables) -> Result<(), ChangeError> {
    let Request::Add { kind, id, service, lines, .. } = request else { return Ok(()) };
    let quote = plimsoll_config::values::quote_filled;
    let id = ("ID".to_string(), format!("id = {}", quote(id)));
    let service = service
        .as_ref()
        .map(|service| ("--service".to_string(), format!("service = {}", quote(service))));
    let parts = std::iter::once(id).chain(service).chain(lines.iter().cloned());
    join::resolve(*kind, parts, variables).map(|_| ()).map_err(ChangeError::Invalid)
}

enum Decision {
    Write(Change, Outcome),
    Nothing,
}

fn decide(request: &Request, config: &Config, entries: &[Entry]) -> Result<Decision, ChangeError> {
    let (kind, id) = request.about();
    let there = There {
        kind,
        id,
        entry: entries.iter().find(|entry| entry.kind == kind && entry.id == id),
        built_in: kind == EntryKind::Service
            && config.built_in_services
            && Service::built_in().iter().any(|service| service.id == id),
        config,
        entries,
    };
    let in_file = held_by_file(config).contains(&(kind, id));
    let is_mark = there.entry.is_some_and(|entry| entry.definition.is_none());
    // What the file defines is changed there; but what the database has of it may go, since that
    // is the way out of a clash.
    let way_out = match request {
        Request::Enable(..) => is_mark,
        Request::Remove(..) => there.entry.is_some() && !is_mark,
        Request::Add { .. } | Request::Disable(..) => false,
    };
    if in_file && !way_out {
        return there.in_file(matches!(request, Request::Add { .. }));
    }
    match request {
        Request::Add { service, lines, replace, .. } => there.add(service, lines, *replace),
        Request::Enable(..) => there.set_disabled(false),
        Request::Disable(..) => there.set_disabled(true),
        Request::Remove(..) => there.remove(in_file),
    }
}

/// What is there under the kind and id of a request, and around it.
struct There<'a> {
    kind: EntryKind,
    id: &'a str,
    entry: Option<&'a Entry>,
    built_in: bool,
    config: &'a Config,
    entries: &'a [Entry],
}

impl There<'_> {
    fn in_file<T>(&self, add: bool) -> Result<T, ChangeError> {
        let (kind, id) = (self.kind.word(), self.id);
        let hint = match add {
            true => "choose another id, or take it out of the configuration first",
            false => "change it there; a running gateway sees it within a second",
        };
        refused(format!("the {kind} \"{id}\" is defined by the configuration"), hint)
    }

    fn absent<T>(&self) -> Result<T, ChangeError> {
        let (kind, id) = (self.kind.word(), self.id);
        let ids = self.entries.iter().filter(|entry| entry.kind == self.kind);
        let hint = match nearest(id, ids.map(|entry| entry.id.as_str())) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("plimsoll gateway {kind} list shows what there is"),
        };
        refused(format!("there is no {kind} \"{id}\""), hint)
    }

    fn add(
        &self,
        service: &Option<String>,
        lines: &[(String, String)],
        replace: bool,
    ) -> Result<Decision, ChangeError> {
        let (kind, id) = (self.kind.word(), self.id);
        let services = Services::new(self.config, self.entries);
        if let Some(service) = service
            && !services.is_known(service)
        {
            let (message, hint) = unknown_service(service, &services.ids());
            let hint = hint.replace(
                &format!("[[service]] with id = \"{service}\""),
                &format!("it first: plimsoll gateway service add {service}"),
            );
            return refused(message, hint);
        }
        let lines: Vec<&str> = lines.iter().map(|(_, line)| line.as_str()).collect();
        let new = Entry {
            kind: self.kind,
            id: id.into(),
            service: service.clone(),
            definition: Some(lines.join("\n")),
            disabled: false,
        };
        Ok(match self.entry {
            None if self.built_in => Decision::Write(Change::Add(new), Outcome::ReplacedBuiltIn),
            None => Decision::Write(Change::Add(new), Outcome::Changed),
            // A mark is not what somebody added.
            Some(old) if old.definition.is_none() => {
                Decision::Write(Change::Replace(new), Outcome::ReplacedBuiltIn)
            }
            Some(old) if replace => {
                let new = Entry { disabled: old.disabled, ..new };
                match new == *old {
                    true => Decision::Nothing,
                    false => Decision::Write(Change::Replace(new), Outcome::Replaced),
                }
            }
            Some(_) => {
                let message = format!("the {kind} \"{id}\" is there already");
                return refused(message, "add --replace to write over it");
            }
        })
    }

    fn set_disabled(&self, disabled: bool) -> Result<Decision, ChangeError> {
        let (kind, id) = (self.kind, self.id.to_string());
        let mark =
            || Entry { kind, id: id.clone(), service: None, definition: None, disabled: true };
        Ok(match self.entry {
            Some(entry) if entry.definition.is_none() && !disabled => {
                Decision::Write(Change::Remove { kind, id }, Outcome::Changed)
            }
            Some(entry) if entry.disabled == disabled => Decision::Nothing,
            Some(_) => {
                Decision::Write(Change::SetDisabled { kind, id, disabled }, Outcome::Changed)
            }
            None if self.built_in && disabled => {
                Decision::Write(Change::Add(mark()), Outcome::Changed)
            }
            None if self.built_in => Decision::Nothing,
            None => return self.absent(),
        })
    }

    fn remove(&self, in_file: bool) -> Result<Decision, ChangeError> {
        let (kind, id) = (self.kind, self.id);
        let own = self.entry.filter(|entry| entry.definition.is_some());
        if own.is_none() && self.built_in {
            let message = format!("the service \"{id}\" is built in");
            return refused(
                message,
                format!("to leave it out: plimsoll gateway service disable {id}"),
            );
        }
        if own.is_none() {
            return self.absent();
        }
        // Without its entry, a service may still be there.
        if kind == EntryKind::Service && !self.built_in && !in_file {
            let users = self.users();
            if !users.is_empty() {
                let shown = users.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
                let more = match users.len() - users.len().min(NAMES_MAX) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let message = format!("the service \"{id}\" is used by {shown}{more}");
                let hint = format!(
                    "remove them first, or leave it out: plimsoll gateway service disable {id}"
                );
                return refused(message, hint);
            }
        }
        let id = id.to_string();
        Ok(Decision::Write(Change::Remove { kind, id }, Outcome::Changed))
    }

    /// The entries that name the service; the configuration's name only services of its own.
    fn users(&self) -> Vec<String> {
        let users = self.entries.iter().filter(|one| one.service.as_deref() == Some(self.id));
        users.map(|one| format!("{} \"{}\"", one.kind.word(), one.id)).collect()
    }
}

#[cfg(test)]
mod tests;
