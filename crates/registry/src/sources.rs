//! Everything that says what a gateway relays, joined: built-in services, the configuration, the
//! database.
//!
//! # Who goes before whom
//! A service of the configuration or of the database replaces the one that is built in. Between
//! configuration and database nobody goes first: the same kind and id in both is a problem, since
//! whichever won, somebody would look at the wrong one. The configuration names only services that
//! it defines itself or that are built in; the database may name all.
//!
//! # All or nothing
//! [`Sources::load`] gives everything or every problem. A running gateway keeps what it has until a
//! load succeeds, so that no half of a change is ever in force.
//!
//! # Layout
//! - `join`: the pure part of loading
//! - `listing`: every entry with where it comes from, for people
//! - `change`: what may be written, decided from what is there
//! - `watch`: whether the file's content changed

mod change;
mod join;
mod listing;
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use plimsoll_config::Problems;

pub use change::{ChangeError, Outcome, Request};
pub use listing::{Item, Listed, Listing, Origin, State};

use crate::config::{Config, Database, Inputs};
use crate::model::Definitions;
use crate::store::{Entries, Presence, Store, StoreError, StoreErrorKind};
use watch::Watch;

/// Why definitions are not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Something is wrong with what was read.
    #[error("{0}")]
    Problems(#[from] Problems),
    /// The database cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl LoadError {
    /// What to do about it; empty when the message says it.
    pub fn hint(&self) -> &'static str {
        match self {
            LoadError::Problems(_) => "",
            LoadError::Store(error) => error.hint(),
        }
    }
}

/// Where a gateway's definitions come from.
#[derive(Debug)]
pub struct Sources {
    inputs: Inputs,
    file: Watch,
    /// As the configuration said when it was read last.
    database: Option<Database>,
    store: Option<Store>,
    /// The sequence number of what was loaded last.
    sequence: u64,
    /// Whether the database failed when it was to be loaded: then it is tried again.
    failed: bool,
    /// A file's text to begin with, should the file not be valid.
    fallback: Option<String>,
    queries: Arc<AtomicU64>,
}

impl Sources {
    /// Sources that nothing was read from yet.
    pub fn new(inputs: Inputs) -> Sources {
        Sources {
            inputs,
            file: Watch::default(),
            database: None,
            store: None,
            sequence: 0,
            failed: false,
            fallback: None,
            queries: Arc::default(),
        }
    }

    /// Sources that begin with this text of the file, should the file itself not be valid then.
    pub fn with_fallback(self, text: Option<String>) -> Sources {
        Sources { fallback: text, ..self }
    }

    /// Reads and joins everything. What changed until now does not count as a change any more, also
    /// when it is refused. A database that is named is made if it is not there.
    ///
    /// A database stays the one that was opened first: another needs a restart.
    ///
    /// # Errors
    /// Everything that is wrong. What was loaded before need not be given up for it.
    pub async fn load(&mut self) -> Result<(Config, Definitions), LoadError> {
        let mut config = self.read()?;
        let named = self.database.as_ref().is_some_and(|database| database.named);
        let there = self.database.as_ref().is_some_and(|found| Store::exists(&found.url.value));
        let entries = match self.entries(true).await {
            // Nobody asked for one: in a folder that cannot be written it goes without.
            Err(error) if !named && !there && self.store.is_none() => {
                self.failed = false;
                config.notes.push(format!("{error}; there are no entries but the configuration's"));
                Entries::default()
            }
            entries => entries?,
        };
        self.sequence = entries.sequence;
        let definitions =
            join::join(&config, &entries.entries, &self.inputs.variables, self.shown())?;
        Ok((config, definitions))
    }

    /// Whether anything may have changed since [`Sources::load`] was called last. Cheap (the file's
    /// metadata, one statement to the database): meant to be asked twice a second.
    ///
    /// # Errors
    /// That the database cannot be asked; it is asked again the next time.
    pub async fn changed(&mut self) -> Result<bool, LoadError> {
        if self.file.changed(&self.inputs).await {
            return Ok(true);
        }
        let presence = self.store.as_ref().map(Store::presence);
        if self.failed || presence == Some(Presence::Replaced) {
            // It is said that it can be loaded when it can.
            self.entries(false).await?;
            return Ok(true);
        }
        match &self.store {
            None => Ok(self.database.as_ref().is_some_and(|found| Store::exists(&found.url.value))),
            Some(store) if presence == Some(Presence::Gone) => {
                Err(store.error(StoreErrorKind::Gone).into())
            }
            Some(store) => Ok(store.sequence().await? != self.sequence),
        }
    }

    /// How many statements were sent to the database. It is the same counter as long as the sources
    /// are there.
    pub fn queries(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.queries)
    }

    /// Closes the database.
    pub async fn close(self) {
        if let Some(store) = self.store {
            store.close().await;
        }
    }

    /// Reads the configuration, and with it where the database is.
    fn read(&mut self) -> Result<Config, LoadError> {
        let fallback = self.fallback.take();
        let text = self.file.read(&self.inputs);
        let read = text.and_then(|text| Config::read_with(&self.inputs, text.as_deref()));
        let config = match (read, fallback) {
            (Err(problems), Some(text)) => {
                let mut config = Config::read_with(&self.inputs, Some(&text))?;
                config.notes.push(format!(
                    "the configuration is not valid; using the last one that was\n{problems}"
                ));
                config
            }
            (read, _) => read?,
        };
        if self.store.is_none() {
            self.database = config.database.clone();
        }
        Ok(config)
    }

    /// What the database holds; nothing where there is none.
    async fn entries(&mut self, create: bool) -> Result<Entries, StoreError> {
        self.failed = true;
        let entries = match self.open(create).await? {
            Some(store) => store.load().await?,
            None => Entries::default(),
        };
        self.failed = false;
        Ok(entries)
    }

    /// The database, if there is one; opened unless it is, and again if another was put into its
    /// place.
    async fn open(&mut self, create: bool) -> Result<Option<&Store>, StoreError> {
        let Some(database) = &self.database else { return Ok(None) };
        let url = &database.url.value;
        match self.store.as_ref().map(|store| (store.presence(), store)) {
            Some((Presence::Same, _)) => {}
            Some((Presence::Gone, store)) => return Err(store.error(StoreErrorKind::Gone)),
            Some((Presence::Replaced, _)) => {
                self.store = Some(Store::open(url, false, Arc::clone(&self.queries)).await?);
            }
            None if create || Store::exists(url) => {
                self.store = Some(Store::open(url, create, Arc::clone(&self.queries)).await?);
            }
            None => {}
        }
        Ok(self.store.as_ref())
    }

    /// The database's URL, without secrets; `None`: there is none, or nothing was read yet.
    pub fn database(&self) -> Option<&str> {
        self.database.as_ref().map(|database| database.url.shown.as_str())
    }

    /// What the database is called in problems.
    fn shown(&self) -> &str {
        self.database().unwrap_or("the database")
    }
}

#[cfg(test)]
mod tests;
