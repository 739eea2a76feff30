//! The database of entries, with a narrow interface: bring what is known up to date, apply changes.
//!
//! Entries are stored as written, with placeholders unresolved, so that no secret ends up in the
//! database; the store does not interpret them. [`crate::sources`] decides from a load whether a change
//! is valid; [`Store::apply`] then writes it only if nothing was written in between (optimistic
//! concurrency control).
//!
//! Each dialect is its own module with the same functions and passes the same tests (`conformance`).
//! Acknowledged changes survive a crash of the process and of the host.
//!
//! # Changes since a sequence number
//! Each change gets a row in a log with the kind and id of its entry, so that a reader loads only what
//! is new. The log keeps the last [`LOG_MAX`] rows; a reader further behind, or one that cannot be sure
//! to talk to the same server, loads everything.

#[cfg(test)]
mod conformance;
mod postgres;
mod sqlite;
mod status;
mod usage;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use crate::model::masked;
pub(crate) use postgres::Listener;
use postgres::Postgres;
use postgres::address::{FORM, check as check_postgres, is_postgres};
use sqlite::Sqlite;
pub(crate) use sqlite::path_of as sqlite_path;
pub use status::{Contact, Report, Status};

/// The version of the schema in both dialects.
const SCHEMA: i64 = 4;

/// Rows kept in the log of changes.
const LOG_MAX: i64 = 10_000;

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

    /// The kind with this name.
    ///
    /// # Errors
    /// There is none: the database is damaged.
    fn named(word: &str) -> Result<EntryKind, StoreErrorKind> {
        EntryKind::ALL.into_iter().find(|kind| kind.name() == word).ok_or_else(|| {
            StoreErrorKind::Database {
                message: format!("\"{word}\" is not a kind of entry"),
                hint: "restore the database from a backup, or add the entries to a new one",
            }
        })
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

/// A consistent state of the database.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// The number of changes made so far.
    pub sequence: u64,
    /// Sorted by kind and id.
    pub entries: Vec<Entry>,
    /// The connection or open file that it was read from; 0 if it was not read from the database.
    pub(crate) session: u64,
}

/// What a dialect has read.
enum Fresh {
    All {
        sequence: u64,
        entries: Vec<Entry>,
    },
    /// The entries changed since the state that is known.
    Changed {
        sequence: u64,
        changed: Vec<ChangedEntry>,
    },
}

/// Kind and id of a changed entry, and the entry, unless it was removed.
type ChangedEntry = (EntryKind, String, Option<Entry>);

impl Entries {
    /// Takes over what was read in a session; returns whether anything differs.
    fn take(&mut self, fresh: Fresh, session: u64) -> bool {
        self.session = session;
        match fresh {
            Fresh::All { sequence, mut entries } => {
                entries.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
                let differs = entries != self.entries || sequence != self.sequence;
                (self.sequence, self.entries) = (sequence, entries);
                differs
            }
            Fresh::Changed { sequence, changed } => {
                self.sequence = sequence;
                for (kind, id, entry) in changed {
                    let place =
                        self.entries.binary_search_by(|one| (one.kind, &one.id).cmp(&(kind, &id)));
                    match (place, entry) {
                        (Ok(place), Some(entry)) => self.entries[place] = entry,
                        (Ok(place), None) => drop(self.entries.remove(place)),
                        (Err(place), Some(entry)) => self.entries.insert(place, entry),
                        (Err(_), None) => {}
                    }
                }
                true
            }
        }
    }
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

impl Change {
    /// Makes the change in a sorted list of entries, as the database does.
    pub(crate) fn make(&self, entries: &mut Vec<Entry>) {
        let (kind, id) = self.subject();
        let place = entries.binary_search_by(|one| (one.kind, one.id.as_str()).cmp(&(kind, id)));
        match (self, place) {
            (Change::Add(entry), Err(place)) => entries.insert(place, entry.clone()),
            (Change::Replace(entry), Ok(place)) => entries[place] = entry.clone(),
            (Change::SetDisabled { disabled, .. }, Ok(place)) => {
                entries[place].disabled = *disabled;
            }
            (Change::Remove { .. }, Ok(place)) => drop(entries.remove(place)),
            // The database refuses these.
            _ => {}
        }
    }

    /// The kind and id of the entry.
    pub(crate) fn subject(&self) -> (EntryKind, &str) {
        match self {
            Change::Add(entry) | Change::Replace(entry) => (entry.kind, &entry.id),
            Change::SetDisabled { kind, id, .. } | Change::Remove { kind, id } => (*kind, id),
        }
    }
}

/// The result of applying changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Written durably, with this sequence number.
    Done(u64),
    /// Nothing was written because of a concurrent change. Load and decide again.
    Moved,
}

/// Why a database cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("database {database}: {kind}")]
pub struct StoreError {
    /// The database, without secrets.
    pub database: String,
    /// The reason.
    pub kind: StoreErrorKind,
}

/// Why a database cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreErrorKind {
    /// The URL is invalid.
    #[error("{0}")]
    Url(String),
    /// It does not exist, or has no tables, and was not to be created.
    #[error("it does not exist yet")]
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
    /// The server cannot be reached, or cannot be used at present.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The connection was lost while a change was committed.
    #[error("the connection was lost while the change was written: {0}")]
    Uncertain(String),
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
            StoreErrorKind::Url(_) => "write it like sqlite:plimsoll.db or postgres://…",
            StoreErrorKind::Unreachable(_) => {
                "start it, or correct its address; nothing was changed, and running gateways use what \
                 they last loaded"
            }
            StoreErrorKind::Uncertain(_) => "list the entries to see whether the change was made",
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
    Postgres(Box<Postgres>),
}

impl Store {
    /// Opens a database; with `create`, creates it if it does not exist. Counts statements and
    /// connections in `status`. Must be called in a tokio runtime with timers enabled.
    ///
    /// # Errors
    /// Why the database cannot be used.
    pub async fn open(url: &str, create: bool, status: Arc<Status>) -> Result<Store, StoreError> {
        if is_postgres(url) {
            let store = Store::server(url, create, status)?;
            let Dialect::Postgres(postgres) = &store.dialect else {
                unreachable!("as constructed")
            };
            postgres.connect().await.map_err(|kind| store.error(kind))?;
            return Ok(store);
        }
        let Some(path) = sqlite_path(url) else {
            let (why, _) = check_url(url).err().unwrap_or_default();
            let shown = url.split(':').next().unwrap_or_default().to_string();
            return Err(StoreError { database: shown, kind: StoreErrorKind::Url(why) });
        };
        let error = |kind| StoreError { database: path.to_string(), kind };
        let sqlite = Sqlite::open(Path::new(path), create, status).await.map_err(error)?;
        Ok(Store { shown: path.into(), dialect: Dialect::Sqlite(sqlite) })
    }

    /// A database on a server, which is connected to when it is used.
    ///
    /// # Errors
    /// The URL is not that of a server.
    pub(crate) fn server(
        url: &str,
        create: bool,
        status: Arc<Status>,
    ) -> Result<Store, StoreError> {
        let shown = plimsoll_config::Text::plain(url).hiding_secrets_of_url().shown;
        match Postgres::new(url, create, status) {
            Ok(postgres) => Ok(Store { shown, dialect: Dialect::Postgres(Box::new(postgres)) }),
            Err(kind) => Err(StoreError { database: "postgres".into(), kind }),
        }
    }

    /// Whether the URL is that of a server, which can be unreachable.
    pub(crate) fn is_server(url: &str) -> bool {
        is_postgres(url)
    }

    /// Whether there may be a database at the URL: a server, or a file.
    pub fn exists(url: &str) -> bool {
        is_postgres(url) || sqlite_path(url).is_some_and(|path| Path::new(path).exists())
    }

    /// Loads everything.
    ///
    /// # Errors
    /// If the database cannot be used.
    pub async fn load(&self) -> Result<Entries, StoreError> {
        let mut entries = Entries::default();
        self.refresh(&mut entries).await?;
        Ok(entries)
    }

    /// Brings what is known up to date; returns whether anything was new. Sends one statement if
    /// nothing is.
    ///
    /// # Errors
    /// If the database cannot be used.
    pub async fn refresh(&self, known: &mut Entries) -> Result<bool, StoreError> {
        match &self.dialect {
            Dialect::Sqlite(sqlite) => sqlite.refresh(known).await,
            Dialect::Postgres(postgres) => postgres.refresh(known).await,
        }
        .map_err(|kind| self.error(kind))
    }

    /// Applies changes, all or none, if the sequence number is still `at`.
    ///
    /// # Errors
    /// If a change does not fit the existing entries, or the database cannot be used. Nothing was
    /// written then, unless the error is [`StoreErrorKind::Uncertain`].
    pub async fn apply(&self, changes: &[Change], at: u64) -> Result<Applied, StoreError> {
        match &self.dialect {
            Dialect::Sqlite(sqlite) => sqlite.apply(changes, at).await,
            Dialect::Postgres(postgres) => postgres.apply(changes, at).await,
        }
        .map_err(|kind| self.error(kind))
    }

    /// Starts to listen for changes; `None` if that is not possible now, or the dialect has no such
    /// thing.
    pub(crate) async fn listen(&self) -> Option<Listener> {
        match &self.dialect {
            Dialect::Sqlite(_) => None,
            Dialect::Postgres(postgres) => postgres.listen().await.ok().flatten(),
        }
    }

    /// Closes the database; of a file, this removes the write-ahead log.
    pub async fn close(&self) {
        match &self.dialect {
            Dialect::Sqlite(sqlite) => sqlite.close().await,
            Dialect::Postgres(postgres) => postgres.close().await,
        }
    }

    /// The database's name, without secrets.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub(crate) fn unreachable(&self, why: &str) -> StoreError {
        self.error(StoreErrorKind::Unreachable(why.into()))
    }

    fn error(&self, kind: StoreErrorKind) -> StoreError {
        StoreError { database: self.shown.clone(), kind }
    }
}

/// Checks the URL of a database, without opening it.
///
/// # Errors
/// What is wrong and how to write it; the message does not repeat the URL, which may contain a secret.
pub fn check_url(url: &str) -> Result<(), (String, &'static str)> {
    const FILE: &str = "write it like sqlite:plimsoll.db, or \"off\" for no database";
    if is_postgres(url) {
        return check_postgres(url).map_err(|why| (why, FORM));
    }
    let Some(path) = sqlite_path(url) else {
        let why = match url.split_once(':') {
            Some((scheme, _)) if plimsoll_config::is_word(scheme) => {
                format!("\"{scheme}\" databases are not supported, only sqlite and postgres")
            }
            _ => "not a database URL".into(),
        };
        return Err((why, FILE));
    };
    let why = match path {
        "" => "the SQLite URL has no file name",
        ":memory:" => "an in-memory database cannot be shared and is lost on exit",
        path if path.contains('?') => "parameters after \"?\" are not supported",
        _ => return Ok(()),
    };
    Err((why.into(), FILE))
}
