//! SQLite: a file shared by the gateways and the command line on one host.
//!
//! # Durability
//! Write-ahead log with `synchronous = FULL`: a commit returns once the log is on disk. Acknowledged
//! changes survive a crash of the process (the log is recovered at the next start) and of the host.
//! Changes are rare and made by people, so that a few milliseconds each do not matter; with the log,
//! readers never wait for a writer.
//!
//! # Concurrent processes
//! Writers take the write lock at the start (`BEGIN IMMEDIATE`) and wait for each other up to
//! [`BUSY_MAX`]; a transaction that starts as a reader could fail when upgrading to a writer. Only
//! the first steps on a new file (enabling the log) fail immediately if two processes do them at the
//! same time; they are retried.
//!
//! # Schema
//! `user_version` is the schema's version, and `application_id` identifies plimsoll's databases:
//! another program's database is rejected and left unchanged.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::query::Query;
use sqlx::sqlite::{
    Sqlite as Dialect, SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};
use tokio::sync::Mutex;

use super::{Applied, Change, Entries, Entry, EntryKind, Presence, StoreErrorKind};

/// How long a statement waits for another process's lock. A change takes milliseconds; only a tool
/// with a forgotten open transaction holds the lock for longer.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// Attempts to open a new file while other processes do the same, and the pause between attempts.
const OPEN_TRIES: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(20);

/// "plim": identifies the file as plimsoll's.
const APPLICATION_ID: i64 = 0x706c_696d;

/// The version of the schema below.
const SCHEMA: i64 = 1;

const CREATE: [&str; 5] = [
    "CREATE TABLE sequence (only INTEGER PRIMARY KEY CHECK (only = 1), value INTEGER NOT NULL)",
    "INSERT INTO sequence VALUES (1, 0)",
    "CREATE TABLE entry (
        kind TEXT NOT NULL CHECK (kind IN ('service', 'upstream', 'endpoint')),
        id TEXT NOT NULL,
        service TEXT,
        definition TEXT,
        disabled INTEGER NOT NULL CHECK (disabled IN (0, 1)),
        PRIMARY KEY (kind, id)
    ) WITHOUT ROWID",
    "PRAGMA application_id = 0x706c696d",
    "PRAGMA user_version = 1",
];

/// The path in an SQLite database's URL.
pub(crate) fn path_of(url: &str) -> Option<&str> {
    let path = url.strip_prefix("sqlite:")?;
    Some(path.strip_prefix("//").unwrap_or(path))
}

type Result<T> = std::result::Result<T, StoreErrorKind>;

/// An open file.
#[derive(Debug)]
pub(super) struct Sqlite {
    path: PathBuf,
    /// Device and inode when it was opened.
    file: Option<(u64, u64)>,
    connection: Mutex<SqliteConnection>,
    queries: Queries,
}

/// Creates and counts statements.
#[derive(Debug)]
struct Queries(Arc<AtomicU64>);

impl Queries {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn query(&self, sql: &'static str) -> Query<'static, Dialect, SqliteArguments> {
        self.count();
        sqlx::query(sql)
    }
}

impl Sqlite {
    pub(super) async fn open(path: &Path, create: bool, queries: Arc<AtomicU64>) -> Result<Sqlite> {
        if !create && !path.exists() {
            return Err(StoreErrorKind::Missing);
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
            && !folder.is_dir()
        {
            let message = format!("the folder {} does not exist", folder.display());
            return Err(StoreErrorKind::Database { message, hint: "create it first" });
        }
        if create && !path.exists() {
            // SQLite gives its auxiliary files the same permissions. If the file cannot be created,
            // SQLite's error below is the better one.
            let _ = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(create)
            .busy_timeout(BUSY_MAX)
            .synchronous(SqliteSynchronous::Full)
            .thread_name(|n| format!("sqlite-{n}"))
            .disable_statement_logging();
        let queries = Queries(queries);
        let mut tries = 0;
        let connection = loop {
            tries += 1;
            match open(&options, &queries).await {
                Err(Fault::Sql(error)) if is_busy(&error) && tries < OPEN_TRIES => {
                    tokio::time::sleep(OPEN_PAUSE).await;
                }
                Err(Fault::Sql(error)) => return Err(error.into()),
                Err(Fault::Kind(kind)) => return Err(kind),
                Ok(connection) => break connection,
            }
        };
        // Only now, since another program's file is left unchanged.
        for suffix in ["", "-wal", "-shm"] {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            crate::restrict(Path::new(&file));
        }
        let file = identity(path);
        Ok(Sqlite { path: path.into(), file, connection: Mutex::new(connection), queries })
    }

    pub(super) async fn load(&self) -> Result<Entries> {
        let mut connection = self.connection.lock().await;
        self.queries.count();
        // One transaction, so that the sequence number matches the entries.
        let mut transaction = connection.begin().await?;
        let sequence = sequence(&self.queries, &mut transaction).await?;
        let sql = "SELECT kind, id, service, definition, disabled FROM entry";
        let rows = self.queries.query(sql).fetch_all(&mut *transaction).await?;
        self.queries.count();
        transaction.commit().await?;
        let mut entries = rows.iter().map(entry).collect::<Result<Vec<Entry>>>()?;
        entries.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        Ok(Entries { sequence, entries })
    }

    pub(super) async fn sequence(&self) -> Result<u64> {
        let mut connection = self.connection.lock().await;
        sequence(&self.queries, &mut connection).await
    }

    pub(super) async fn apply(&self, change: &Change, at: u64) -> Result<Applied> {
        let mut connection = self.connection.lock().await;
        self.queries.count();
        // Rolled back on drop.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        if sequence(&self.queries, &mut transaction).await? != at {
            return Ok(Applied::Moved);
        }
        let (kind, id, must_exist) = match change {
            Change::Add(entry) => (entry.kind, &entry.id, false),
            Change::Replace(entry) => (entry.kind, &entry.id, true),
            Change::SetDisabled { kind, id, .. } | Change::Remove { kind, id } => (*kind, id, true),
        };
        let query = match change {
            Change::Add(_) => {
                "INSERT INTO entry (kind, id, service, definition, disabled) \
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING"
            }
            Change::Replace(_) => {
                "UPDATE entry SET service = ?3, definition = ?4, disabled = ?5 \
                 WHERE kind = ?1 AND id = ?2"
            }
            Change::SetDisabled { .. } => {
                "UPDATE entry SET disabled = ?3 WHERE kind = ?1 AND id = ?2"
            }
            Change::Remove { .. } => "DELETE FROM entry WHERE kind = ?1 AND id = ?2",
        };
        let query = self.queries.query(query).bind(kind.name()).bind(id.clone());
        let query = match change {
            Change::Add(entry) | Change::Replace(entry) => query
                .bind(entry.service.clone())
                .bind(entry.definition.clone())
                .bind(entry.disabled),
            Change::SetDisabled { disabled, .. } => query.bind(*disabled),
            Change::Remove { .. } => query,
        };
        if query.execute(&mut *transaction).await?.rows_affected() != 1 {
            let (kind, id) = (kind.name(), id.clone());
            return Err(StoreErrorKind::Unfit { kind, id, exists: !must_exist });
        }
        let next = "UPDATE sequence SET value = value + 1";
        self.queries.query(next).execute(&mut *transaction).await?;
        self.queries.count();
        transaction.commit().await?;
        Ok(Applied::Done(at + 1))
    }

    pub(super) async fn close(self) {
        // On error the log remains beside the file and is recovered at the next open.
        let _ = self.connection.into_inner().close().await;
    }

    pub(super) fn presence(&self) -> Presence {
        match identity(&self.path) {
            None => Presence::Gone,
            found if found == self.file => Presence::Same,
            Some(_) => Presence::Replaced,
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Why opening failed; SQL errors may be worth a retry.
enum Fault {
    Sql(sqlx::Error),
    Kind(StoreErrorKind),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Fault {
        Fault::Sql(error)
    }
}

/// Connects, and creates the schema in a new file.
async fn open(
    options: &SqliteConnectOptions,
    queries: &Queries,
) -> std::result::Result<SqliteConnection, Fault> {
    let mut connection = options.connect().await?;
    match file_kind(&mut connection, queries).await? {
        FileKind::Ours => {}
        FileKind::Foreign => return Err(Fault::Kind(StoreErrorKind::Foreign)),
        FileKind::Newer(found) => {
            return Err(Fault::Kind(StoreErrorKind::Newer { found, known: SCHEMA }));
        }
        FileKind::Empty => {
            queries.query("PRAGMA journal_mode = WAL").execute(&mut connection).await?;
            queries.count();
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            // Another process may have been first.
            if let FileKind::Empty = file_kind(&mut transaction, queries).await? {
                for sql in CREATE {
                    queries.query(sql).execute(&mut *transaction).await?;
                }
            }
            queries.count();
            transaction.commit().await?;
        }
    }
    Ok(connection)
}

/// What a database file contains.
enum FileKind {
    Ours,
    Empty,
    Foreign,
    Newer(i64),
}

async fn file_kind(
    connection: &mut SqliteConnection,
    queries: &Queries,
) -> std::result::Result<FileKind, sqlx::Error> {
    let sql = "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema) \
               FROM pragma_application_id, pragma_user_version";
    let row = queries.query(sql).fetch_one(connection).await?;
    let (id, version, tables): (i64, i64, i64) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(match (id, version) {
        (APPLICATION_ID, SCHEMA) => FileKind::Ours,
        (APPLICATION_ID, version) => FileKind::Newer(version),
        (0, 0) if tables == 0 => FileKind::Empty,
        _ => FileKind::Foreign,
    })
}

async fn sequence(queries: &Queries, connection: &mut SqliteConnection) -> Result<u64> {
    let row = queries.query("SELECT value FROM sequence").fetch_one(connection).await?;
    let value: i64 = row.try_get(0)?;
    Ok(value as u64)
}

fn entry(row: &SqliteRow) -> Result<Entry> {
    let word: String = row.try_get(0)?;
    let kind = EntryKind::ALL.into_iter().find(|kind| kind.name() == word);
    let kind = kind.ok_or_else(|| StoreErrorKind::Database {
        message: format!("\"{word}\" is not a kind of entry"),
        hint: DAMAGED,
    })?;
    Ok(Entry {
        kind,
        id: row.try_get(1)?,
        service: row.try_get(2)?,
        definition: row.try_get(3)?,
        disabled: row.try_get(4)?,
    })
}

const DAMAGED: &str = "restore the file from a backup, or move it away and add the entries again";

/// SQLite's primary result code.
fn code(error: &sqlx::Error) -> Option<i64> {
    let extended: i64 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// `SQLITE_BUSY`, `SQLITE_LOCKED`.
fn is_busy(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(5 | 6))
}

impl From<sqlx::Error> for StoreErrorKind {
    fn from(error: sqlx::Error) -> StoreErrorKind {
        let hint = match code(&error) {
            Some(5 | 6) => "another process keeps a transaction open in it; stop that process",
            Some(3 | 8 | 14 | 23) => "this user must be able to write the file and its folder",
            Some(11 | 26) => DAMAGED,
            Some(10) => "check the disk that holds it",
            Some(13) => {
                "free space on the disk that holds it, or choose another file: --database sqlite:FILE"
            }
            _ => "",
        };
        let message = match error.as_database_error() {
            Some(error) => error.message().to_string(),
            None => error.to_string(),
        };
        StoreErrorKind::Database { message, hint }
    }
}

#[cfg(test)]
mod tests;
