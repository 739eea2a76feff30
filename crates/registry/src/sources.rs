//! A gateway's definitions, joined from built-in services, the configuration and the database.
//!
//! # Precedence
//! A service of the configuration or of the database replaces the built-in one. Neither the
//! configuration nor the database overrides the other: the same kind and id in both is a problem,
//! because whichever won, someone would edit the other and see no effect. The configuration may
//! reference only services that it defines or that are built in; the database may reference all.
//!
//! # All or nothing
//! [`Sources::load`] returns all definitions or all problems. A running gateway keeps its definitions
//! until a load succeeds, so that a change never takes effect in part.
//!
//! # Layout
//! - `join`: the pure part of loading
//! - `listing`: every entry with its origin and state, for people
//! - `change`: validates and applies changes to the database
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

/// Why definitions could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The configuration or an entry is invalid.
    #[error("{0}")]
    Problems(#[from] Problems),
    /// The database cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl LoadError {
    /// What to do about it; empty if the message already says so.
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
    /// The database according to the last configuration read.
    database: Option<Database>,
    store: Option<Store>,
    /// The sequence number of the last load.
    sequence: u64,
    /// Whether loading the database failed, so that it must be retried.
    failed: bool,
    /// Configuration text for the first load if the file is invalid then.
    fallback: Option<String>,
    /// Whether the last configuration read is the fallback.
    uses_fallback: bool,
    queries: Arc<AtomicU64>,
}

impl Sources {
    /// Creates the sources; nothing is read yet.
    pub fn new(inputs: Inputs) -> Sources {
        Sources {
            inputs,
            file: Watch::default(),
            database: None,
            store: None,
            sequence: 0,
            failed: false,
            fallback: None,
            uses_fallback: false,
            queries: Arc::default(),
        }
    }

    /// Uses `text` as the configuration for the first load if the file is invalid then.
    pub fn with_fallback(mut self, text: Option<String>) -> Sources {
        if let Some(text) = &text {
            self.file.follows(text);
        }
        Sources { fallback: text, ..self }
    }

    /// Reads and joins everything. Changes made before this call are no longer reported by
    /// [`Sources::changed`], even if the load fails. The database is created if it does not exist.
    ///
    /// The first database opened stays in use; switching to another needs a restart.
    ///
    /// # Errors
    /// All problems.
    pub async fn load(&mut self) -> Result<(Config, Definitions), LoadError> {
        let mut config = self.read()?;
        let named = self.database.as_ref().is_some_and(|database| database.named);
        let there = self.database.as_ref().is_some_and(|found| Store::exists(&found.url.value));
        let entries = match self.entries(true).await {
            // The database was not configured, and the folder is not writable: continue without one.
            Err(error) if !named && !there && self.store.is_none() => {
                self.failed = false;
                config
                    .notes
                    .push(format!("{error}; continuing with the configuration's entries only"));
                Entries::default()
            }
            entries => entries?,
        };
        self.sequence = entries.sequence;
        let definitions =
            join::join(&config, &entries.entries, &self.inputs.variables, self.shown())?;
        Ok((config, definitions))
    }

    /// Whether the last load used the fallback, because the file was invalid.
    pub fn uses_fallback(&self) -> bool {
        self.uses_fallback
    }

    /// Whether anything may have changed since the last [`Sources::load`]. Cheap enough to call twice a
    /// second: it reads the file's metadata and sends the database one statement.
    ///
    /// # Errors
    /// If the database cannot be queried; the next call retries.
    pub async fn changed(&mut self) -> Result<bool, LoadError> {
        if self.file.changed(&self.inputs) {
            return Ok(true);
        }
        let presence = self.store.as_ref().map(Store::presence);
        if self.failed || presence == Some(Presence::Replaced) {
            // Reports a change only once the database can be loaded.
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

    /// Counts the statements sent to the database. The counter is the same for the lifetime of the
    /// sources.
    pub fn queries(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.queries)
    }

    /// Closes the database.
    pub async fn close(self) {
        if let Some(store) = self.store {
            store.close().await;
        }
    }

    /// Reads the configuration, including the database's location.
    fn read(&mut self) -> Result<Config, LoadError> {
        let fallback = self.fallback.take();
        let text = self.file.read(&self.inputs);
        let read = text.and_then(|text| Config::read_with(&self.inputs, text.as_deref()));
        self.uses_fallback = read.is_err() && fallback.is_some();
        let config = match (read, fallback) {
            (Err(problems), Some(text)) => {
                let mut config = Config::read_with(&self.inputs, Some(&text))?;
                config.notes.push(format!(
                    "the configuration is not valid; using the last valid one\n{problems}"
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

    /// The database's entries; empty if there is no database.
    async fn entries(&mut self, create: bool) -> Result<Entries, StoreError> {
        self.failed = true;
        let entries = match self.open(create).await? {
            Some(store) => store.load().await?,
            None => Entries::default(),
        };
        self.failed = false;
        Ok(entries)
    }

    /// The database, if there is one; opens it if necessary, and reopens it if its file was replaced.
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

    /// The database's URL without secrets; `None` if there is no database or nothing was read yet.
    pub fn database(&self) -> Option<&str> {
        self.database.as_ref().map(|database| database.url.shown.as_str())
    }

    /// The database's name in problems.
    fn shown(&self) -> &str {
        self.database().unwrap_or("the database")
    }
}

#[cfg(test)]
mod tests;
