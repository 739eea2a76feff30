//! The database of entries, with a narrow interface: load everything, return the sequence number,
//! apply one change.
//!
//! Entries are stored as written, with placeholders unresolved, so that no secret ends up in the
//! database; the store does not interpret them. [`crate::sources`] decides from a load whether a change
//! is valid; [`Store::apply`] then writes it only if nothing was written in between (optimistic
//! concurrency control).
//!
//! Each dialect is its own module with the same functions and passes the same tests (`conformance`).
//! Acknowledged changes survive a crash of the process and of the host.

#[cfg(test)]
mod conformance;
mod sqlite;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::model::masked;
use sqlite::Sqlite;
pub(crate) use sqlite::path_of as sqlite_path;

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A service.
    Service,
    /// An upstream.
    Upstream,
    /// An endpoint.
    Endpoint,
}

impl EntryKind {
    /// All of them.
    pub const ALL: [EntryKind; 3] = [EntryKind::Service, EntryKind::Upstream, EntryKind::Endpoint];

    /// The name in documents and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::Service => "service",
            EntryKind::Upstream => "upstream",
            EntryKind::Endpoint => "endpoint",
        }
    }

    /// The id of an entry of this kind as logs show it: masked if it is a credential.
    pub fn shown(self, id: &str) -> Cow<'_, str> {
        match self {
            EntryKind::Service | EntryKind::Upstream => Cow::Borrowed(id),
            EntryKind::Endpoint => Cow::Owned(masked(id)),
        }
    }
}

/// An entry as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its kind.
    pub kind: EntryKind,
    /// Its id.
    pub id: String,
    /// The service that an upstream or endpoint belongs to.
    pub service: Option<String>,
    /// The other keys as lines of TOML; `None` for a mark that only disables a built-in service.
    pub definition: Option<String>,
    /// Whether it is disabled.
    pub disabled: bool,
}

/// A consistent snapshot of the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// The number of changes made so far.
    pub sequence: u64,
    /// Sorted by kind and id.
    pub entries: Vec<Entry>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds an entry, which must not exist.
    Add(Entry),
    /// Replaces an entry, which must exist.
    Replace(Entry),
    /// Disables or enables an entry, which must exist.
    SetDisabled {
        /// Its kind.
        kind: EntryKind,
        /// Its id.
        id: String,
        /// Whether to disable it.
        disabled: bool,
    },
    /// Removes an entry, which must exist.
    Remove {
        /// Its kind.
        kind: EntryKind,
        /// Its id.
        id: String,
    },
}

/// The result of applying a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Written durably, with this sequence number.
    Done(u64),
    /// Nothing was written because of a concurrent change. Load and decide again.
    Moved,
}

/// Whether the file at the path is still the one that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Same,
    /// Another file has taken its place.
    Replaced,
    Gone,
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("database {database}: {kind}")]
pub struct StoreError {
    /// The database, without secrets.
    pub database: String,
    /// The reason.
    pub kind: StoreErrorKind,
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreErrorKind {
    /// The URL is invalid.
    #[error("{0}")]
    Url(String),
    /// It does not exist and was not to be created.
    #[error("the file does not exist")]
    Missing,
    /// It was removed after it was opened.
    #[error("the file no longer exists")]
    Gone,
    /// It belongs to another program.
    #[error("not a Plimsoll database")]
    Foreign,
    /// Written by a newer version of this program.
    #[error("its schema version is {found}; this program supports version {known}")]
    Newer {
        /// The schema version of the file.
        found: i64,
        /// The newest supported version.
        known: i64,
    },
    /// An entry exists that must not, or does not exist and must.
    #[error("the {kind} \"{id}\" {}", if *.exists { "already exists" } else { "does not exist" })]
    Unfit {
        /// The entry's kind.
        kind: &'static str,
        /// The entry's id.
        id: String,
        /// Whether the entry exists.
        exists: bool,
    },
    /// The database reported an error.
    #[error("{message}")]
    Database {
        /// The database's message.
        message: String,
        /// What to do about it; may be empty.
        hint: &'static str,
    },
}

impl StoreError {
    /// What to do about it; empty if the message already says so.
    pub fn hint(&self) -> &'static str {
        match &self.kind {
            StoreErrorKind::Url(_) => "write it like sqlite:plimsoll.db",
            StoreErrorKind::Missing => "start a gateway or add an entry to create it",
            StoreErrorKind::Gone => "restore it; until then the gateway uses what it last loaded",
            StoreErrorKind::Foreign => "choose another file: --database sqlite:plimsoll.db",
            StoreErrorKind::Newer { .. } => "use the newer program; databases cannot be downgraded",
            StoreErrorKind::Unfit { .. } => "",
            StoreErrorKind::Database { hint, .. } => hint,
        }
    }
}

/// An open database.
#[derive(Debug)]
pub struct Store {
    /// The database's name, without secrets.
    shown: String,
    dialect: Dialect,
}

#[derive(Debug)]
enum Dialect {
    Sqlite(Sqlite),
}

impl Store {
    /// Opens a database; with `create`, creates it if it does not exist. Counts every statement in
    /// `queries`. Must be called in a tokio runtime with timers enabled.
    ///
    /// # Errors
    /// Why the database cannot be used.
    pub async fn open(
        url: &str,
        create: bool,
        queries: Arc<AtomicU64>,
    ) -> Result<Store, StoreError> {
        let Some(path) = sqlite_path(url) else {
            let why = check_url(url).err().unwrap_or_default();
            let shown = url.split(':').next().unwrap_or_default().to_string();
            return Err(StoreError { database: shown, kind: StoreErrorKind::Url(why) });
        };
        let error = |kind| StoreError { database: path.to_string(), kind };
        let sqlite = Sqlite::open(Path::new(path), create, queries).await.map_err(error)?;
        Ok(Store { shown: path.into(), dialect: Dialect::Sqlite(sqlite) })
    }

    /// Whether a file exists at the URL's path.
    pub fn exists(url: &str) -> bool {
        sqlite_path(url).is_some_and(|path| Path::new(path).exists())
    }

    /// Loads everything.
    ///
    /// # Errors
    /// If the database reports one.
    pub async fn load(&self) -> Result<Entries, StoreError> {
        let Dialect::Sqlite(sqlite) = &self.dialect;
        sqlite.load().await.map_err(|kind| self.error(kind))
    }

    /// The sequence number of the last change: cheap.
    ///
    /// # Errors
    /// If the database reports one.
    pub async fn sequence(&self) -> Result<u64, StoreError> {
        let Dialect::Sqlite(sqlite) = &self.dialect;
        sqlite.sequence().await.map_err(|kind| self.error(kind))
    }

    /// Applies a change if the sequence number is still `at`.
    ///
    /// # Errors
    /// If the change does not fit the existing entries, or the database reports an error. Nothing was
    /// written then.
    pub async fn apply(&self, change: &Change, at: u64) -> Result<Applied, StoreError> {
        let Dialect::Sqlite(sqlite) = &self.dialect;
        sqlite.apply(change, at).await.map_err(|kind| self.error(kind))
    }

    /// Closes the database, which removes its write-ahead log.
    pub async fn close(self) {
        let Dialect::Sqlite(sqlite) = self.dialect;
        sqlite.close().await;
    }

    /// The database's name, without secrets.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether the file is still the one that was opened.
    pub(crate) fn presence(&self) -> Presence {
        let Dialect::Sqlite(sqlite) = &self.dialect;
        sqlite.presence()
    }

    pub(crate) fn error(&self, kind: StoreErrorKind) -> StoreError {
        StoreError { database: self.shown.clone(), kind }
    }
}

/// Checks the URL of a database, without opening it.
///
/// # Errors
/// What is wrong; the message does not repeat the URL, which may contain a secret.
pub fn check_url(url: &str) -> Result<(), String> {
    let Some(path) = sqlite_path(url) else {
        return Err(match url.split_once(':') {
            Some((scheme, _)) if !scheme.contains('/') => {
                format!("\"{scheme}\" databases are not supported, only sqlite")
            }
            _ => "not a database URL".into(),
        });
    };
    match path {
        "" => Err("the SQLite URL has no file name".into()),
        ":memory:" => Err("an in-memory database cannot be shared and is lost on exit".into()),
        path if path.contains('?') => Err("parameters after \"?\" are not supported".into()),
        _ => Ok(()),
    }
}
