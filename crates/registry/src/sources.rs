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
//! # Where the database is
//! A file is read where it is needed. A server can hang, so a gateway follows it with a task of its own
//! (`feed`), and serves from the last snapshot on disk (`snapshot`) if it starts while the server cannot
//! be reached.
//!
//! # Layout
//! - `join`: the pure part of loading
//! - `listing`: every entry with its origin and state, for people
//! - `editor`: reads and changes the database on request
//! - `change`: decides what a request changes
//! - `permitted`: which environment variables entries may name
//! - `feed`, `snapshot`: follows a database on a server
//! - `watch`: whether the file's content changed

mod change;
mod editor;
mod feed;
mod join;
mod listing;
mod permitted;
mod snapshot;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_config::Problems;

pub use change::{ChangeError, Outcome, REQUESTS_MAX, Request};
pub use editor::Editor;
pub use feed::START_MAX;
pub use listing::{Item, Listed, Listing, Origin, Selection, State};

use crate::config::{Config, Database, Inputs};
use crate::model::Definitions;
use crate::store::{Entries, Status, Store, StoreError, StoreErrorKind};
use feed::Feed;
use snapshot::Snapshot;
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
    /// Where the snapshot of a database server is, according to the first configuration read.
    state_dir: PathBuf,
    link: Link,
    /// Whether loading the database failed, so that it must be retried.
    failed: bool,
    /// Configuration text for the first load if the file is invalid then.
    fallback: Option<String>,
    /// Whether the last configuration read is the fallback.
    uses_fallback: bool,
    status: Arc<Status>,
}

/// How the database is read.
#[derive(Debug)]
enum Link {
    /// Not at all, as yet.
    None,
    /// A file, and what was last read from it.
    File { store: Arc<Store>, known: Arc<Entries> },
    /// A server.
    Server(Feed),
}

impl Sources {
    /// Creates the sources; nothing is read yet.
    pub fn new(inputs: Inputs) -> Sources {
        Sources {
            inputs,
            file: Watch::default(),
            database: None,
            state_dir: PathBuf::new(),
            link: Link::None,
            failed: false,
            fallback: None,
            uses_fallback: false,
            status: Arc::default(),
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
            Err(error) if !named && !there && matches!(self.link, Link::None) => {
                self.failed = false;
                config
                    .notes
                    .push(format!("{error}; continuing with the configuration's entries only"));
                Arc::default()
            }
            entries => entries?,
        };
        let report = self.status.report();
        if report.from_disk {
            config.notes.push(format!(
                "database {}: {}; using the entries last read from it (change {})",
                self.shown(),
                report.why,
                report.sequence
            ));
        }
        let definitions =
            join::join(&config, &entries.entries, &self.inputs.variables, self.shown())?;
        Ok((config, definitions))
    }

    /// Whether the last load used the fallback, because the file was invalid.
    pub fn uses_fallback(&self) -> bool {
        self.uses_fallback
    }

    /// Whether anything may have changed since the last [`Sources::load`]. Cheap enough to call twice a
    /// second: it reads the file's metadata, and sends a database in a file one statement.
    ///
    /// # Errors
    /// If the database cannot be used; the next call retries.
    pub async fn changed(&mut self) -> Result<bool, LoadError> {
        if self.file.changed(&self.inputs) {
            return Ok(true);
        }
        if self.failed {
            // Reports a change only once the database can be loaded.
            self.entries(false).await?;
            return Ok(true);
        }
        match &mut self.link {
            Link::None => {
                Ok(self.database.as_ref().is_some_and(|found| Store::exists(&found.url.value)))
            }
            Link::File { store, known } => {
                let found = store.refresh(Arc::make_mut(known)).await;
                note(&self.status, found.as_ref().err(), known.sequence);
                Ok(found?)
            }
            Link::Server(feed) => Ok(feed.is_new()?),
        }
    }

    /// Waits until a database server announces something new; [`Sources::changed`] then returns true.
    /// Waits forever for other databases.
    pub async fn announced(&mut self) {
        match &mut self.link {
            Link::Server(feed) => feed.news().await,
            _ => std::future::pending().await,
        }
    }

    /// What is observed of the database. The same object for the lifetime of the sources.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Reads and changes entries on behalf of a gateway that runs on these sources.
    pub fn editor(&self) -> Editor {
        let (store, view) = match &self.link {
            Link::None => (None, None),
            Link::File { store, .. } => (Some(store.clone()), None),
            Link::Server(feed) => (Some(feed.store().clone()), Some(feed.view())),
        };
        Editor::beside(self.inputs.clone(), store, view, self.status.clone())
    }

    /// The database for usage, and the folder for what waits for it; `None` if there is no database. A file
    /// is opened a second time, so that whoever holds its lock delays usage and nothing else; a server is
    /// used over the connection that there is.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn usage_store(&self) -> Result<Option<(Arc<Store>, PathBuf)>, StoreError> {
        let store = match &self.link {
            Link::None => return Ok(None),
            Link::Server(feed) => feed.store().clone(),
            Link::File { .. } => {
                let Some(database) = &self.database else { return Ok(None) };
                let url = database.usable_url()?;
                Arc::new(Store::open(url, false, self.status.clone()).await?)
            }
        };
        Ok(Some((store, self.state_dir.clone())))
    }

    /// Closes the database.
    pub async fn close(self) {
        match self.link {
            Link::None => {}
            Link::File { store, .. } => store.close().await,
            Link::Server(feed) => feed.store().close().await,
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
        if matches!(self.link, Link::None) {
            self.database = config.database.clone();
            let beside =
                || self.inputs.file.as_deref().and_then(Path::parent).map(Path::to_path_buf);
            self.state_dir = config.state_dir.clone().or_else(beside).unwrap_or_default();
        }
        Ok(config)
    }

    /// The database's entries; empty if there is no database.
    async fn entries(&mut self, create: bool) -> Result<Arc<Entries>, StoreError> {
        self.failed = true;
        if let (Link::None, Some(database)) = (&self.link, &self.database) {
            let url = database.usable_url()?;
            if Store::is_server(url) {
                let store = Store::server(url, true, self.status.clone())?;
                let snapshot = Snapshot::of(&self.state_dir, &database.url.shown);
                let feed = Feed::start(store, snapshot, self.status.clone());
                let feed = feed.map_err(|error| StoreError {
                    database: database.url.shown.clone(),
                    kind: StoreErrorKind::Database { message: error.to_string(), hint: "" },
                })?;
                self.link = Link::Server(feed);
            } else if create || Store::exists(url) {
                let store = Store::open(url, create, self.status.clone()).await;
                note(&self.status, store.as_ref().err(), 0);
                self.link = Link::File { store: Arc::new(store?), known: Arc::default() };
            }
        }
        let entries = match &mut self.link {
            Link::None => Arc::default(),
            Link::File { store, known } => {
                let found = store.refresh(Arc::make_mut(known)).await;
                note(&self.status, found.as_ref().err(), known.sequence);
                found?;
                known.clone()
            }
            Link::Server(feed) => feed.take().await?,
        };
        self.failed = false;
        Ok(entries)
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

/// Records how the use of a database in a file went.
fn note(status: &Status, error: Option<&StoreError>, sequence: u64) {
    match error {
        Some(error) => status.is_down(&error.kind.to_string()),
        None => status.is_up(sequence),
    }
}

impl Database {
    /// The URL.
    ///
    /// # Errors
    /// A variable in it is not set.
    fn usable_url(&self) -> Result<&str, StoreError> {
        match &self.url.unset {
            None => Ok(&self.url.value),
            Some(name) => {
                let kind = StoreErrorKind::Url(format!("the variable {name} is not set"));
                Err(StoreError { database: self.url.shown.clone(), kind })
            }
        }
    }
}

#[cfg(test)]
mod tests;
