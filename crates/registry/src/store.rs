//! The database behind a narrow seam: load everything, tell the sequence number, apply one change.
//!
//! It holds entries as they were written, placeholders unresolved, so that no secret lands in it; it
//! knows nothing of what they mean. What may be written is decided above it ([`crate::sources`]),
//! from what was loaded; [`Store::apply`] then writes only if nothing was written in between, so
//! that a decision never rests on what is not so any more.
//!
//! Each dialect is a module of its own behind the same functions and passes the same tests
//! (`conformance`). What `apply` acknowledged is there after the process is killed, and after the
//! host is.

#[cfg(test)]
mod conformance;
mod sqlite;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use sqlite::Sqlite;
pub(crate) use sqlite::path_of as sqlite_path;

/// What an entry defines.
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

    /// The word for it in documents and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            EntryKind::Service => "service",
            EntryKind::Upstream => "upstream",
            EntryKind::Endpoint => "endpoint",
        }
    }
}

/// An entry as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it defines.
    pub kind: EntryKind,
    /// Under which id.
    pub id: String,
    /// The service that an upstream or endpoint is for.
    pub service: Option<String>,
    /// Its other keys, as lines of TOML; `None`: it only marks a service that is built in as
    /// disabled.
    pub definition: Option<String>,
    /// Whether it is left out.
    pub disabled: bool,
}

/// Everything that a database holds, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Counts the changes; grows by one with each.
    pub sequence: u64,
    /// Sorted by kind and id.
    pub entries: Vec<Entry>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds an entry, which must not be there.
    Add(Entry),
    /// Writes over an entry, which must be there.
    Replace(Entry),
    /// Leaves an entry out, or takes it in again; it must be there.
    SetDisabled {
        /// Its kind.
        kind: EntryKind,
        /// Its id.
        id: String,
        /// Whether it is left out.
        disabled: bool,
    },
    /// Removes an entry, which must be there.
    Remove {
        /// Its kind.
        kind: EntryKind,
        /// Its id.
        id: String,
    },
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is there to stay, under this sequence number.
    Done(u64),
    /// Somebody else changed something since: nothing was written. Load and decide again.
    Moved,
}

/// Whether the database is the one that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Same,
    /// Another one was put into its place.
    Replaced,
    Gone,
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("database {database}: {kind}")]
pub struct StoreError {
    /// Which, without secrets.
    pub database: String,
    /// Why.
    pub kind: StoreErrorKind,
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreErrorKind {
    /// The URL is none.
    #[error("{0}")]
    Url(String),
    /// It is not there, and was not to be made.
    #[error("it does not exist")]
    Missing,
    /// It was there.
    #[error("it is gone")]
    Gone,
    /// Another program's.
    #[error("it holds something else")]
    Foreign,
    /// Written by a newer version of this program.
    #[error("it has schema {found}; this program knows schema {known}")]
    Newer {
        /// Its version.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// A change does not fit what is there.
    #[error("the {kind} \"{id}\" is {}there", if *.there { "already " } else { "not " })]
    Unfit {
        /// Of which kind.
        kind: &'static str,
        /// Of which entry.
        id: String,
        /// Whether it is there.
        there: bool,
    },
    /// The database said no.
    #[error("{message}")]
    Database {
        /// In its words.
        message: String,
        /// What to do about it; may be empty.
        hint: &'static str,
    },
}

impl StoreError {
    /// What to do about it; empty when the message says it.
    pub fn hint(&self) -> &'static str {
        match &self.kind {
            StoreErrorKind::Url(_) => "write it like sqlite:plimsoll.db",
            StoreErrorKind::Missing => {
                "a gateway makes it when it starts, or the first entry added"
            }
            StoreErrorKind::Gone => "put it back; the gateway uses what it loaded last until then",
            StoreErrorKind::Foreign => "name another file: --database sqlite:plimsoll.db",
            StoreErrorKind::Newer { .. } => "use the newer program; a database is not changed back",
            StoreErrorKind::Unfit { .. } => "",
            StoreErrorKind::Database { hint, .. } => hint,
        }
    }
}

/// A database that is open.
#[derive(Debug)]
pub struct Store {
    /// Without secrets.
    shown: String,
    dialect: Dialect,
}

#[derive(Debug)]
enum Dialect {
    Sqlite(Sqlite),
}

impl Store {
    /// Opens a database; with `create` it is made if it is not there. Each statement that is sent
    /// from now on is counted in `queries`. Must be called in a tokio runtime with time.
    ///
    /// # Errors
    /// Why it cannot be used.
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

    /// Whether there is a database under a URL, as far as that can be told without opening it.
    pub fn exists(url: &str) -> bool {
        sqlite_path(url).is_some_and(|path| Path::new(path).exists())
    }

    /// Loads everything.
    ///
    /// # Errors
    /// That the database said no.
    pub async fn load(&self) -> Result<Entries, StoreError> {
        let Dialect::Sqlite(sqlite) = &self.dialect;
        sqlite.load().await.map_err(|kind| self.error(kind))
    }

    /// The sequence number of the last change: cheap.
    ///
    /// # Errors
    /// That the database said no.
    pub async fn sequence(&self) -> Result<u64, StoreError> {
        let Dialect::Sqlite(sqlite) = &self.dialect;
        sqlite.sequence().await.map_err(|kind| self.error(kind))
    }

    /// Applies a change that was decided when the sequence number was `at`.
    ///
    /// # Errors
    /// That the change does not fit, or the database said no. Then nothing was written.
    pub async fn apply(&self, change: &Change, at: u64) -> Result<Applied, StoreError> {
        let Dialect::Sqlite(sqlite) = &self.dialect;
        sqlite.apply(change, at).await.map_err(|kind| self.error(kind))
    }

    /// Closes it, so that what it keeps beside its file is tidied up.
    pub async fn close(self) {
        let Dialect::Sqlite(sqlite) = self.dialect;
        sqlite.close().await;
    }

    /// What it is called, without secrets.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether it is still where it was opened.
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
/// What is wrong with it, without repeating it: it may hold a secret.
pub fn check_url(url: &str) -> Result<(), String> {
    let Some(path) = sqlite_path(url) else {
        return Err(match url.split_once(':') {
            Some((scheme, _)) if !scheme.contains('/') => {
                format!("no database of the kind \"{scheme}\" is known; there is sqlite")
            }
            _ => "not the URL of a database".into(),
        });
    };
    match path {
        "" => Err("an SQLite database without a file".into()),
        ":memory:" => Err("a database in memory is gone with its process, and only its own".into()),
        path if path.contains('?') => Err("parameters after \"?\" are not known".into()),
        _ => Ok(()),
    }
}
