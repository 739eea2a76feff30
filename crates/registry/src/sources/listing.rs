//! Lists every entry with its origin and state, for people.

use std::collections::HashSet;

use super::join::{self, Services, held_by_file};
use crate::config::Config;
use crate::model::{Endpoint, Service, Upstream};
use crate::store::{Entry, EntryKind};
use plimsoll_config::Variables;

/// A resolved entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A service.
    Service(Service),
    /// An upstream.
    Upstream(Box<Upstream>),
    /// An endpoint.
    Endpoint(Endpoint),
}

impl Item {
    fn kind(&self) -> EntryKind {
        match self {
            Item::Service(_) => EntryKind::Service,
            Item::Upstream(_) => EntryKind::Upstream,
            Item::Endpoint(_) => EntryKind::Endpoint,
        }
    }

    fn id(&self) -> &str {
        match self {
            Item::Service(service) => &service.id,
            Item::Upstream(upstream) => &upstream.id,
            Item::Endpoint(endpoint) => &endpoint.id,
        }
    }

    fn service(&self) -> Option<&str> {
        match self {
            Item::Service(_) => None,
            Item::Upstream(upstream) => upstream.service.as_deref(),
            Item::Endpoint(endpoint) => Some(&endpoint.service),
        }
    }
}

/// The origin of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A built-in service.
    BuiltIn,
    /// The configuration file.
    File,
    /// The key `instances`, or `PATH_GATEWAY_INSTANCES`.
    Instances,
    /// The database.
    Database,
}

impl Origin {
    /// The name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Origin::BuiltIn => "built-in",
            Origin::File => "file",
            Origin::Instances => "instances",
            Origin::Database => "database",
        }
    }
}

/// The state of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// In use.
    Enabled,
    /// Disabled.
    Disabled,
    /// Drained: it gets no new calls.
    Drained,
    /// Disabled because its service is.
    ServiceDisabled,
    /// Invalid, for this reason; a gateway cannot load it.
    Refused(String),
}

impl State {
    /// The name in listings.
    pub fn name(&self) -> &'static str {
        match self {
            State::Enabled => "enabled",
            State::Disabled => "disabled",
            State::Drained => "drained",
            State::ServiceDisabled => "service disabled",
            State::Refused(_) => "refused",
        }
    }
}

/// A listed entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// The service it belongs to.
    pub service: Option<String>,
    /// Its origin.
    pub origin: Origin,
    /// Its state.
    pub state: State,
    /// The resolved entry; `None` if it is invalid.
    pub item: Option<Item>,
}

/// Entries of one kind, sorted by id.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The entries.
    pub entries: Vec<Listed>,
    /// The configured database, if it does not exist.
    pub missing: Option<String>,
}

/// Entries of several kinds, sorted by kind and id.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The selected entries.
    pub entries: Vec<(EntryKind, Listed)>,
    /// How many there were to select from.
    pub total: usize,
}

/// An entry that is not resolved yet.
enum Row<'e> {
    Given(Box<(Item, Origin)>),
    /// Whether the configuration has the same kind and id.
    Stored(&'e Entry, bool),
}

impl Row<'_> {
    fn id(&self) -> &str {
        match self {
            Row::Given(given) => given.0.id(),
            Row::Stored(entry, _) => &entry.id,
        }
    }
}

/// The entries to list, and what decides their states.
pub(super) struct Lister<'e> {
    config: &'e Config,
    entries: &'e [Entry],
    variables: &'e Variables,
    database: &'e str,
    services: Services,
    held: HashSet<(EntryKind, &'e str)>,
}

impl<'e> Lister<'e> {
    pub(super) fn new(
        config: &'e Config,
        entries: &'e [Entry],
        variables: &'e Variables,
        database: &'e str,
    ) -> Lister<'e> {
        let services = Services::new(config, entries);
        Lister { config, entries, variables, database, services, held: held_by_file(config) }
    }

    /// Lists the entries of a kind, including disabled and invalid ones, by their ids. Only those that
    /// `picks` returns true for are resolved, which takes much longer than the rest.
    pub(super) fn list(&self, kind: EntryKind, mut picks: impl FnMut(&str) -> bool) -> Vec<Listed> {
        let mut rows = self.rows(kind);
        rows.retain(|row| picks(row.id()));
        rows.into_iter().map(|row| self.listed(kind, row)).collect()
    }

    fn rows(&self, kind: EntryKind) -> Vec<Row<'e>> {
        // A mark shows as the state of the built-in service that it disables.
        let stored = self.entries.iter().filter(|entry| entry.kind == kind);
        let stored = stored.filter(|entry| entry.definition.is_some());
        let stored: Vec<(&Entry, bool)> =
            stored.map(|entry| (entry, self.held.contains(&(kind, entry.id.as_str())))).collect();
        let replaced: HashSet<&str> = stored
            .iter()
            .filter(|(_, clashes)| !clashes)
            .map(|(entry, _)| entry.id.as_str())
            .collect();
        let given = given(self.config).filter(|(item, _)| item.kind() == kind);
        let given = given.filter(|(item, _)| !replaced.contains(item.id()));
        let mut rows: Vec<Row<'e>> = given.map(|given| Row::Given(Box::new(given))).collect();
        rows.extend(stored.into_iter().map(|(entry, clashes)| Row::Stored(entry, clashes)));
        rows.sort_by(|a, b| a.id().cmp(b.id()));
        rows
    }

    fn listed(&self, kind: EntryKind, row: Row<'_>) -> Listed {
        let services = &self.services;
        let state = |service: Option<&str>| match service {
            Some(service) if !services.is_enabled(service) => State::ServiceDisabled,
            _ => State::Enabled,
        };
        let (entry, clashes) = match row {
            Row::Stored(entry, clashes) => (entry, clashes),
            Row::Given(given) => {
                let (item, origin) = *given;
                let state = match (kind, services.is_enabled(item.id())) {
                    (EntryKind::Service, false) => State::Disabled,
                    _ if matches!(&item, Item::Upstream(one) if one.drain) => State::Drained,
                    _ => state(item.service()),
                };
                let service = item.service().map(String::from);
                return Listed { id: item.id().into(), service, origin, state, item: Some(item) };
            }
        };
        let read = join::permitted(entry, self.config, self.database)
            .and_then(|()| join::item(entry, self.variables, self.database));
        let state = match (&read, &entry.service) {
            _ if clashes => State::Refused("it is also defined in the configuration".into()),
            (_, Some(service)) if !services.is_known(service) => {
                State::Refused(format!("unknown service \"{service}\""))
            }
            _ if entry.disabled => State::Disabled,
            (Err(problems), _) => State::Refused(problems.to_string()),
            (Ok(Item::Upstream(upstream)), _) if upstream.drain => State::Drained,
            (Ok(_), service) => state(service.as_deref()),
        };
        Listed {
            id: entry.id.clone(),
            service: entry.service.clone(),
            origin: Origin::Database,
            state,
            item: read.ok(),
        }
    }
}

/// The entries that exist without a database.
fn given(config: &Config) -> impl Iterator<Item = (Item, Origin)> + '_ {
    let own = &config.definitions.services;
    let services = config.services().into_iter().map(|service| {
        let in_file = own.iter().any(|other| other.id == service.id);
        (Item::Service(service), if in_file { Origin::File } else { Origin::BuiltIn })
    });
    let upstream =
        |origin| move |upstream: &Upstream| (Item::Upstream(Box::new(upstream.clone())), origin);
    let instances = config.instances.iter().map(upstream(Origin::Instances));
    let upstreams = config.definitions.upstreams.iter().map(upstream(Origin::File));
    let endpoints = config.definitions.endpoints.iter();
    let endpoints = endpoints.map(|endpoint| (Item::Endpoint(endpoint.clone()), Origin::File));
    services.chain(instances).chain(upstreams).chain(endpoints)
}
