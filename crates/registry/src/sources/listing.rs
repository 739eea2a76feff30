//! Lists every entry with its origin and state, for people.

use super::join::{self, Services, held_by_file};
use super::{LoadError, Sources};
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

impl Sources {
    /// Lists the entries of a kind, including disabled and invalid ones. Does not create the database.
    ///
    /// # Errors
    /// If the configuration or the database cannot be read.
    pub async fn list(&mut self, kind: EntryKind) -> Result<Listing, LoadError> {
        let config = self.read()?;
        let entries = self.entries(false).await?;
        let named = self.database.as_ref().filter(|database| database.named);
        let missing = named.filter(|_| self.store.is_none()).map(|found| found.url.shown.clone());
        let entries = list(&config, &entries.entries, kind, &self.inputs.variables, self.shown());
        Ok(Listing { entries, missing })
    }
}

fn list(
    config: &Config,
    entries: &[Entry],
    kind: EntryKind,
    variables: &Variables,
    database: &str,
) -> Vec<Listed> {
    let services = Services::new(config, entries);
    let state = |service: Option<&str>| match service {
        Some(service) if !services.is_enabled(service) => State::ServiceDisabled,
        _ => State::Enabled,
    };
    let held = held_by_file(config);
    let mut listed: Vec<Listed> = given(config)
        .filter(|(item, _)| item.kind() == kind)
        .map(|(item, origin)| Listed {
            id: item.id().into(),
            service: item.service().map(String::from),
            origin,
            state: match (kind, services.is_enabled(item.id())) {
                (EntryKind::Service, false) => State::Disabled,
                _ if matches!(&item, Item::Upstream(upstream) if upstream.drain) => State::Drained,
                _ => state(item.service()),
            },
            item: Some(item),
        })
        .collect();
    for entry in entries.iter().filter(|entry| entry.kind == kind) {
        // A mark shows as the state of the built-in service that it disables.
        if entry.definition.is_none() {
            continue;
        }
        let clash = held.contains(&(kind, entry.id.as_str()));
        if !clash {
            listed.retain(|given| given.id != entry.id);
        }
        let read = join::item(entry, variables, database);
        let state = match (&read, &entry.service) {
            _ if clash => State::Refused("it is also defined in the configuration".into()),
            (_, Some(service)) if !services.is_known(service) => {
                State::Refused(format!("unknown service \"{service}\""))
            }
            _ if entry.disabled => State::Disabled,
            (Err(problems), _) => State::Refused(problems.to_string()),
            (Ok(Item::Upstream(upstream)), _) if upstream.drain => State::Drained,
            (Ok(_), service) => state(service.as_deref()),
        };
        listed.push(Listed {
            id: entry.id.clone(),
            service: entry.service.clone(),
            origin: Origin::Database,
            state,
            item: read.ok(),
        });
    }
    listed.sort_by(|a, b| a.id.cmp(&b.id));
    listed
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
