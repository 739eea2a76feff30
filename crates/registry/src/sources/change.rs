//! Decides what requests change, from one state of the database: pure functions.

mod keys;

use plimsoll_config::{Document, Place, Problems, REDACTED, Variables, nearest};
use plimsoll_measure::WallClock;

use super::LoadError;
use super::join::{self, Services, held_by_file};
use crate::config::{Config, unknown_service_shown_as};
use crate::model::{Service, check_id};
use crate::store::{Change, Entry, EntryKind, StoreError};

/// Maximum number of names in a message; further names are counted.
const NAMES_MAX: usize = 5;

/// The most requests that are carried out together.
pub const REQUESTS_MAX: usize = 10_000;

/// The line of a drained upstream.
const DRAINED: &str = "drain = true";

/// A requested change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Adds an entry.
    Add {
        /// The entry's kind.
        kind: EntryKind,
        /// The entry's id.
        id: String,
        /// The service it belongs to.
        service: Option<String>,
        /// The other keys as lines of TOML, each with its name in problems: the flag.
        lines: Vec<(String, String)>,
        /// Whether to replace an entry of the same id; a disabled entry stays disabled.
        replace: bool,
    },
    /// Enables an entry.
    Enable(EntryKind, String),
    /// Disables an entry.
    Disable(EntryKind, String),
    /// Drains an upstream: it gets no new calls.
    Drain(String),
    /// Removes an entry.
    Remove(EntryKind, String),
    /// Adds a key to an endpoint.
    AddKey {
        /// The endpoint's id.
        endpoint: String,
        /// The key's name.
        name: String,
        /// Its hash and other properties as lines of TOML, each with its name in problems: the flag.
        lines: Vec<(String, String)>,
    },
    /// Removes a key of an endpoint.
    RemoveKey {
        /// The endpoint's id.
        endpoint: String,
        /// The key's name.
        name: String,
        /// Whether it may be the only one, without which everyone may call.
        is_last: bool,
    },
}

impl Request {
    /// The kind and id of the entry to change.
    pub fn subject(&self) -> (EntryKind, &str) {
        match self {
            Request::Add { kind, id, .. } => (*kind, id),
            Request::Drain(id) => (EntryKind::Upstream, id),
            Request::AddKey { endpoint, .. } | Request::RemoveKey { endpoint, .. } => {
                (EntryKind::Endpoint, endpoint)
            }
            Request::Enable(kind, id) | Request::Disable(kind, id) | Request::Remove(kind, id) => {
                (*kind, id)
            }
        }
    }

    /// The id of the entry to change.
    pub fn id(&self) -> &str {
        self.subject().1
    }
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The change was made.
    Changed,
    /// An existing entry was replaced.
    Replaced,
    /// The new entry replaces a built-in service.
    ReplacedBuiltIn,
    /// There was nothing to change.
    Unchanged,
}

/// Why a request was rejected.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It conflicts with the existing definitions.
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
    /// Some of several requests were rejected; each with its number, from 0.
    #[error("{} of the changes {} rejected; nothing was changed", .0.len(), if .0.len() == 1 { "was" } else { "were" })]
    Several(Vec<(usize, ChangeError)>),
    /// The existing definitions cannot be loaded.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// The database cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl ChangeError {
    /// What to do about it; empty if the message already says so.
    pub fn hint(&self) -> &str {
        match self {
            ChangeError::Refused { hint, .. } => hint,
            ChangeError::Invalid(_) | ChangeError::Several(_) => "",
            ChangeError::Load(error) => error.hint(),
            ChangeError::Store(error) => error.hint(),
        }
    }
}

pub(super) fn refused<T>(message: String, hint: impl Into<String>) -> Result<T, ChangeError> {
    Err(ChangeError::Refused { message, hint: hint.into() })
}

/// Decides on requests, each as if those before it had been carried out; returns the changes to make
/// and the outcomes.
///
/// # Errors
/// Why requests were rejected, all of them; if there are several, each with its number.
pub(super) fn decide_all(
    requests: &[Request],
    config: &Config,
    entries: &[Entry],
    variables: &Variables,
) -> Result<(Vec<Change>, Vec<Outcome>), ChangeError> {
    let mut entries = entries.to_vec();
    let (mut changes, mut outcomes, mut rejected) = (Vec::new(), Vec::new(), Vec::new());
    for (number, request) in requests.iter().enumerate() {
        let decided =
            check(request, variables).and_then(|()| decide(request, config, &entries, variables));
        match decided {
            Ok(Decision::Write(change, outcome)) => {
                change.make(&mut entries);
                changes.push(change);
                outcomes.push(outcome);
            }
            Ok(Decision::Nothing) => outcomes.push(Outcome::Unchanged),
            Err(error) => rejected.push((number, error)),
        }
    }
    match rejection(requests, rejected) {
        Some(error) => Err(error),
        None => Ok((changes, outcomes)),
    }
}

fn rejection(requests: &[Request], mut rejected: Vec<(usize, ChangeError)>) -> Option<ChangeError> {
    match rejected.len() {
        0 => None,
        1 if requests.len() == 1 => rejected.pop().map(|(_, error)| error),
        _ => Some(ChangeError::Several(rejected)),
    }
}

/// Checks that new keys have not expired before they were made.
///
/// # Errors
/// Those that have.
pub(super) fn check_new_keys(
    requests: &[Request],
    variables: &Variables,
    now: WallClock,
) -> Result<(), ChangeError> {
    let mut rejected = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        if let Request::AddKey { name, lines, .. } = request
            && let Err(error) = keys::check_expiry(name, lines, variables, now)
        {
            rejected.push((number, error));
        }
    }
    rejection(requests, rejected).map_or(Ok(()), Err)
}

/// Checks that no line has the mark that listings show instead of a secret. A listing that was imported would
/// otherwise be noticed only by calls that fail.
fn check_secrets(lines: &[(String, String)]) -> Result<(), ChangeError> {
    let mut problems = Problems::default();
    // A default that is not shown is read like none.
    let default = format!(":-{REDACTED}}}");
    for (name, line) in lines {
        if line.replace(&default, "}").contains(REDACTED) {
            let message = format!("\"{REDACTED}\" stands in the place of a secret");
            let hint = "write the secret, or ${NAME} for a variable; plimsoll gateway export writes \
                        entries with their secrets";
            problems.note(Place::Named(name.clone()), message, hint);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ChangeError::Invalid(problems)) }
}

/// Checks a new entry on its own.
pub(super) fn check(request: &Request, variables: &Variables) -> Result<(), ChangeError> {
    let (kind, id, service, lines) = match request {
        Request::Add { kind, id, service, lines, .. } => (kind, id, service, lines),
        Request::AddKey { name, lines, .. } => {
            return keys::read(name, lines, variables).map(drop);
        }
        _ => return Ok(()),
    };
    check_secrets(lines)?;
    // Shown as typed: only messages about entries that exist mask the ids of endpoints.
    if let Err(message) = check_id(id) {
        let mut problems = Problems::default();
        problems.note(Place::Named("ID".into()), message, "");
        return Err(ChangeError::Invalid(problems));
    }
    let quote = plimsoll_config::values::quote_filled;
    let id = ("ID".to_string(), format!("id = {}", quote(id)));
    let service = service
        .as_ref()
        .map(|service| ("--service".to_string(), format!("service = {}", quote(service))));
    let parts = std::iter::once(id).chain(service).chain(lines.iter().cloned());
    let item = join::resolve(*kind, &Document::from_named(parts), variables);
    let item = item.map_err(ChangeError::Invalid)?;
    // Lines that are valid one by one may mean something else together, such as the head of a table.
    let entry = entry_of(request).map(|entry| join::item(&entry, variables, "the request"));
    if entry.is_some_and(|stored| stored.ok().as_ref() != Some(&item)) {
        let hint = "write each key on one line, without heads of tables";
        return refused("the entry does not mean the same when its lines are joined".into(), hint);
    }
    Ok(())
}

/// The entry that a request adds, enabled.
fn entry_of(request: &Request) -> Option<Entry> {
    let Request::Add { kind, id, service, lines, .. } = request else { return None };
    let lines: Vec<&str> = lines.iter().map(|(_, line)| line.as_str()).collect();
    Some(Entry {
        kind: *kind,
        id: id.clone(),
        service: service.clone(),
        definition: Some(lines.join("\n")),
        disabled: false,
    })
}

enum Decision {
    Write(Change, Outcome),
    Nothing,
}

fn decide(
    request: &Request,
    config: &Config,
    entries: &[Entry],
    variables: &Variables,
) -> Result<Decision, ChangeError> {
    let (kind, id) = request.subject();
    let existing = Existing {
        kind,
        id,
        entry: entries.iter().find(|entry| entry.kind == kind && entry.id == id),
        built_in: kind == EntryKind::Service
            && config.built_in_services
            && Service::built_in().iter().any(|service| service.id == id),
        config,
        entries,
        variables,
    };
    let in_file = held_by_file(config).contains(&(kind, id));
    let is_mark = existing.entry.is_some_and(|entry| entry.definition.is_none());
    // Entries of the file are changed in the file. A duplicate in the database may be removed, which
    // resolves the clash.
    let resolves_clash = match request {
        Request::Enable(..) => is_mark,
        Request::Remove(..) => existing.entry.is_some() && !is_mark,
        Request::Add { .. }
        | Request::Disable(..)
        | Request::Drain(..)
        | Request::AddKey { .. }
        | Request::RemoveKey { .. } => false,
    };
    if in_file && !resolves_clash {
        return existing.in_file(request);
    }
    match request {
        Request::Add { replace, .. } => {
            let new = entry_of(request).expect("an addition");
            join::permitted(&new, config, "the request").map_err(ChangeError::Invalid)?;
            existing.add(new, *replace)
        }
        Request::Enable(..) if existing.is_drained() => existing.set_drained(false),
        Request::Enable(..) => existing.set_disabled(false),
        Request::Drain(..) if existing.is_drained() => Ok(Decision::Nothing),
        Request::Drain(..) => existing.set_drained(true),
        Request::Disable(..) => existing.set_disabled(true),
        Request::Remove(..) => existing.remove(in_file),
        Request::AddKey { name, lines, .. } => {
            existing.add_key(keys::read(name, lines, variables)?)
        }
        Request::RemoveKey { name, is_last, .. } => existing.remove_key(name, *is_last),
    }
}

/// The existing entry with a request's kind and id, and everything else that is defined.
struct Existing<'a> {
    kind: EntryKind,
    id: &'a str,
    entry: Option<&'a Entry>,
    built_in: bool,
    config: &'a Config,
    entries: &'a [Entry],
    variables: &'a Variables,
}

impl Existing<'_> {
    fn in_file<T>(&self, request: &Request) -> Result<T, ChangeError> {
        let (kind, id) = (self.kind.name(), self.id);
        let hint = match request {
            Request::Add { .. } => "choose another id, or remove it from the configuration first",
            Request::Drain(_) => {
                "write drain = true there; a running gateway applies the change within a second"
            }
            _ => "change it there; a running gateway applies the change within a second",
        };
        refused(format!("the {kind} \"{id}\" is defined in the configuration"), hint)
    }

    fn absent<T>(&self) -> Result<T, ChangeError> {
        let (kind, id) = (self.kind.name(), self.id);
        let ids = self.entries.iter().filter(|entry| entry.kind == self.kind);
        let hint = match nearest(id, ids.map(|entry| entry.id.as_str())) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("plimsoll gateway {kind} list shows all {kind}s"),
        };
        refused(format!("there is no {kind} \"{id}\""), hint)
    }

    fn add(&self, new: Entry, replace: bool) -> Result<Decision, ChangeError> {
        let (kind, id) = (self.kind.name(), self.id);
        let services = Services::new(self.config, self.entries);
        if let Some(service) = &new.service
            && !services.is_known(service)
        {
            let (message, hint) = unknown_service_shown_as(service, service, &services.ids());
            let hint = hint.replace(
                &format!("[[service]] with id = \"{service}\""),
                &format!("it first: plimsoll gateway service add {service}"),
            );
            return refused(message, hint);
        }
        Ok(match self.entry {
            None if self.built_in => Decision::Write(Change::Add(new), Outcome::ReplacedBuiltIn),
            None => Decision::Write(Change::Add(new), Outcome::Changed),
            // A mark was not added by a user, and needs no --replace.
            Some(old) if old.definition.is_none() => {
                Decision::Write(Change::Replace(new), Outcome::ReplacedBuiltIn)
            }
            Some(old) if replace => {
                let new = self.with_keys(Entry { disabled: old.disabled, ..new });
                if new == *old {
                    Decision::Nothing
                } else {
                    Decision::Write(Change::Replace(new), Outcome::Replaced)
                }
            }
            Some(_) => {
                let message = format!("the {kind} \"{id}\" already exists");
                return refused(message, "add --replace to replace it");
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

    /// Whether the upstream is drained.
    fn is_drained(&self) -> bool {
        let definition = self.entry.and_then(|entry| entry.definition.as_deref());
        definition.is_some_and(|lines| lines.lines().any(|line| line == DRAINED))
    }

    /// Drains an upstream, or enables one that was drained.
    fn set_drained(&self, is_drained: bool) -> Result<Decision, ChangeError> {
        let Some(entry) = self.entry else { return self.absent() };
        let lines = entry.definition.iter().flat_map(|lines| lines.lines());
        let kept = lines.filter(|line| *line != DRAINED);
        let lines: Vec<&str> = kept.chain(is_drained.then_some(DRAINED)).collect();
        let definition = Some(lines.join("\n"));
        let disabled = is_drained && entry.disabled;
        let new = Entry { definition, disabled, ..entry.clone() };
        Ok(Decision::Write(Change::Replace(new), Outcome::Changed))
    }

    fn remove(&self, in_file: bool) -> Result<Decision, ChangeError> {
        let (kind, id) = (self.kind, self.id);
        let own = self.entry.filter(|entry| entry.definition.is_some());
        if own.is_none() && self.built_in {
            let message = format!("the service \"{id}\" is built in");
            return refused(
                message,
                format!("disable it instead: plimsoll gateway service disable {id}"),
            );
        }
        if own.is_none() {
            return self.absent();
        }
        // A service remains if it is also built in or in the file.
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
                    "remove them first, or disable the service: plimsoll gateway service disable {id}"
                );
                return refused(message, hint);
            }
        }
        let id = id.to_string();
        Ok(Decision::Write(Change::Remove { kind, id }, Outcome::Changed))
    }

    /// The entries that reference the service. The configuration's never reference the database.
    fn users(&self) -> Vec<String> {
        let users = self.entries.iter().filter(|one| one.service.as_deref() == Some(self.id));
        users.map(|one| format!("{} \"{}\"", one.kind.name(), one.id)).collect()
    }
}

#[cfg(test)]
mod tests;
