//! Joins the configuration and the database's entries into one set of definitions.

use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use plimsoll_config::values::quote;
use plimsoll_config::{Document, Place, Problem, Problems, Table, Variables};

use super::{Item, permitted};
use crate::config::{
    Config, ParsedEntry, read_endpoint, read_service, read_upstream, unknown_service,
};
use crate::model::{Definitions, Service};
use crate::store::{Entry, EntryKind};

/// Joins a configuration with the entries of `database`.
///
/// # Errors
/// All clashes, all references to unknown services, and all problems of entries that are not disabled.
pub(super) fn join(
    config: &Config,
    entries: &[Entry],
    variables: &Variables,
    database: &str,
) -> Result<Definitions, Problems> {
    let mut problems = Problems::default();
    let services = Services::new(config, entries);
    let held = held_by_file(config);
    let known = LazyCell::new(|| services.ids());
    let mut definitions = Definitions {
        services: services.enabled(),
        upstreams: config.instances.clone(),
        endpoints: config.definitions.endpoints.clone(),
    };
    definitions.upstreams.extend(config.definitions.upstreams.iter().cloned());
    for entry in entries {
        if held.contains(&(entry.kind, entry.id.as_str())) {
            problems.push(clash(entry, database));
        } else if let Some(service) = &entry.service
            && !services.is_known(service)
        {
            let (message, hint) = unknown_service(entry.kind, service, &known);
            problems.note(place(entry, database), message, hint);
        } else if !entry.disabled {
            match permitted(entry, config, database).and_then(|()| item(entry, variables, database))
            {
                Ok(Item::Service(service)) => definitions.services.push(service),
                Ok(Item::Upstream(upstream)) => definitions.upstreams.push(*upstream),
                Ok(Item::Endpoint(endpoint)) => definitions.endpoints.push(endpoint),
                Err(found) => problems.append(found),
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    // Upstreams and endpoints of a disabled service are disabled with it.
    definitions.upstreams.retain(|upstream| {
        upstream.service.as_ref().is_none_or(|service| services.is_enabled(service))
    });
    definitions.endpoints.retain(|endpoint| services.is_enabled(&endpoint.service));
    Ok(definitions)
}

/// Every kind and id of the configuration.
pub(super) fn held_by_file(config: &Config) -> HashSet<(EntryKind, &str)> {
    let definitions = &config.definitions;
    let services = definitions.services.iter().map(|service| (EntryKind::Service, &service.id));
    let upstreams = config.instances.iter().chain(&definitions.upstreams);
    let upstreams = upstreams.map(|upstream| (EntryKind::Upstream, &upstream.id));
    let endpoints = definitions.endpoints.iter().map(|one| (EntryKind::Endpoint, &one.id));
    let all = services.chain(upstreams).chain(endpoints);
    all.map(|(kind, id)| (kind, id.as_str())).collect()
}

/// All services, and which of them are disabled.
pub(super) struct Services {
    /// The configuration's and the built-in services, including those that the database replaces.
    given: Vec<Service>,
    given_ids: HashSet<String>,
    /// The database's services, and whether each is disabled.
    entries: HashMap<String, bool>,
}

impl Services {
    pub(super) fn new(config: &Config, entries: &[Entry]) -> Services {
        let given = config.services();
        let given_ids: HashSet<String> = given.iter().map(|service| service.id.clone()).collect();
        let entries = entries.iter().filter(|entry| entry.kind == EntryKind::Service);
        // A mark alone does not define a service.
        let entries =
            entries.filter(|entry| entry.definition.is_some() || given_ids.contains(&entry.id));
        let entries = entries.map(|entry| (entry.id.clone(), entry.disabled)).collect();
        Services { given, given_ids, entries }
    }

    pub(super) fn is_known(&self, id: &str) -> bool {
        self.entries.contains_key(id) || self.given_ids.contains(id)
    }

    pub(super) fn is_enabled(&self, id: &str) -> bool {
        match self.entries.get(id) {
            Some(disabled) => !disabled,
            None => self.is_known(id),
        }
    }

    pub(super) fn ids(&self) -> Vec<&str> {
        let given = self.given.iter().map(|service| service.id.as_str());
        let mut ids: Vec<&str> = given.chain(self.entries.keys().map(String::as_str)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The services without an entry in the database.
    fn enabled(&self) -> Vec<Service> {
        let free = |service: &&Service| !self.entries.contains_key(&service.id);
        self.given.iter().filter(free).cloned().collect()
    }
}

fn clash(entry: &Entry, database: &str) -> Problem {
    let (kind, id) = (entry.kind.name(), entry.kind.shown(&entry.id));
    Problem {
        place: place(entry, database),
        message: "it is also defined in the configuration".into(),
        hint: match entry.definition {
            Some(_) => format!(
                "remove it from the file, or run plimsoll gateway {kind} remove {id} (a running \
                 gateway keeps its current definitions)"
            ),
            None => format!(
                "the database only disables the built-in one: plimsoll gateway {kind} enable {id}"
            ),
        },
    }
}

/// An entry's name in problems.
fn name(entry: &Entry, database: &str) -> String {
    format!("{} \"{}\" in {database}", entry.kind.name(), entry.kind.shown(&entry.id))
}

fn place(entry: &Entry, database: &str) -> Place {
    Place::Named(name(entry, database))
}

#[cfg(test)]
thread_local! {
    /// How many entries this thread has resolved.
    pub(super) static RESOLVED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Checks that an entry names only variables that entries may name.
///
/// # Errors
/// The names of the others.
pub(super) fn permitted(entry: &Entry, config: &Config, database: &str) -> Result<(), Problems> {
    let mut problems = Problems::default();
    let listed = config.entry_variables.as_deref();
    for name in permitted::names(entry.definition.as_deref().unwrap_or_default()) {
        if !permitted::is_permitted(&name, listed) {
            let message = format!("entries of the database may not use the variable {name}");
            let hint = format!(
                "store it under another name, or permit it in the gateway's configuration: \
                 entry_variables = [\"{name}\", …]"
            );
            problems.note(place(entry, database), message, hint);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Resolves an entry.
///
/// # Errors
/// All its problems; each hint includes how to disable the entry.
pub(super) fn item(entry: &Entry, variables: &Variables, database: &str) -> Result<Item, Problems> {
    #[cfg(test)]
    RESOLVED.set(RESOLVED.get() + 1);
    let mut lines = format!("id = {}\n", quote(&entry.id));
    if let Some(service) = &entry.service {
        lines += &format!("service = {}\n", quote(service));
    }
    lines += entry.definition.as_deref().unwrap_or_default();
    let document = Document::from_entries([(name(entry, database), lines)]);
    resolve(entry.kind, &document, variables).map_err(|found| {
        let (kind, id) = (entry.kind.name(), entry.kind.shown(&entry.id));
        let disable = format!("disable the entry: plimsoll gateway {kind} disable {id}");
        let mut problems = Problems::default();
        for problem in found.iter() {
            let hint = match problem.hint.as_str() {
                "" => disable.clone(),
                hint => format!("{hint}; or {disable}"),
            };
            problems.note(problem.place.clone(), problem.message.clone(), hint);
        }
        problems
    })
}

/// Parses an entry.
pub(super) fn resolve(
    kind: EntryKind,
    document: &Document,
    variables: &Variables,
) -> Result<Item, Problems> {
    document.read(variables, |table: &Table<'_>| match kind {
        EntryKind::Service => valid(read_service(table)).map(Item::Service),
        EntryKind::Upstream => {
            valid(read_upstream(table, Path::new(""))).map(|one| Item::Upstream(Box::new(one)))
        }
        EntryKind::Endpoint => valid(read_endpoint(table)).map(Item::Endpoint),
    })
}

fn valid<T>(read: Option<ParsedEntry<T>>) -> Option<T> {
    read?.item
}
