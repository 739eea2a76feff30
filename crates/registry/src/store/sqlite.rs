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
//! another program's database is rejected and left unchanged. An older schema is migrated in one
//! transaction when the file is opened.
//!
//! # Files that move
//! Before each use the path is compared with the file that was opened. Another file in its place is
//! opened, as a new session; if there is none, that is an error, and the file is not created again.

mod usage;

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::query::Query;
use sqlx::sqlite::{
    Sqlite as Dialect, SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    Applied, Change, ChangedEntry, Entries, Entry, EntryKind, Fresh, LOG_MAX, SCHEMA, Status,
    StoreErrorKind,
};

/// How long a statement waits for another process's lock. A change takes milliseconds; only a tool
/// with a forgotten open transaction holds the lock for longer.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// Attempts to open a new file while other processes do the same, and the pause between attempts.
const OPEN_TRIES: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(20);

/// "plim": identifies the file as plimsoll's.
const APPLICATION_ID: i64 = 0x706c_696d;

/// The statements that lead from each version of the schema to the next.
const MIGRATIONS: [&[&str]; SCHEMA as usize] = [
    &[
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
    ],
    &[
        "ALTER TABLE sequence ADD COLUMN logged_after INTEGER NOT NULL DEFAULT 0",
        "UPDATE sequence SET logged_after = value",
        "CREATE TABLE change (
            sequence INTEGER NOT NULL,
            kind TEXT NOT NULL,
            id TEXT NOT NULL,
            PRIMARY KEY (sequence, kind, id)
        ) WITHOUT ROWID",
        "PRAGMA user_version = 2",
    ],
    &usage::TABLES,
    &usage::ADMITTED,
];

/// The path in an SQLite database's URL.
pub(crate) fn path_of(url: &str) -> Option<&str> {
    let path = url.strip_prefix("sqlite:")?;
    Some(path.strip_prefix("//").unwrap_or(path))
}

type Result<T> = std::result::Result<T, StoreErrorKind>;

/// A file.
#[derive(Debug)]
pub(super) struct Sqlite {
    path: PathBuf,
    /// `None` after closing.
    open: Mutex<Option<Open>>,
    queries: Queries,
}

/// The file as it was opened.
#[derive(Debug)]
struct Open {
    connection: SqliteConnection,
    /// Device and inode.
    file: Option<(u64, u64)>,
    /// The number of times that a file was opened.
    session: u64,
}

/// Creates and counts statements.
#[derive(Debug)]
struct Queries(Arc<Status>);

impl Queries {
    fn count(&self) {
        self.0.count();
    }

    fn query(&self, sql: &'static str) -> Query<'static, Dialect, SqliteArguments> {
        self.count();
        sqlx::query(sql)
    }
}

impl Sqlite {
    pub(super) async fn open(path: &Path, create: bool, status: Arc<Status>) -> Result<Sqlite> {
        let queries = Queries(status);
        let connection = connect(path, create, &queries).await?;
        let open = Open { connection, file: identity(path), session: 1 };
        Ok(Sqlite { path: path.into(), open: Mutex::new(Some(open)), queries })
    }

    pub(super) async fn refresh(&self, known: &mut Entries) -> Result<bool> {
        let mut guard = self.current().await?;
        let open = guard.as_mut().ok_or(StoreErrorKind::Gone)?;
        let (session, connection) = (open.session, &mut open.connection);
        let is_same = known.session == session;
        if is_same && head(&self.queries, connection).await?.0 == known.sequence {
            return Ok(false);
        }
        self.queries.count();
        // One transaction, so that the sequence number matches the entries.
        let mut transaction = connection.begin().await?;
        let (sequence, logged_after) = head(&self.queries, &mut transaction).await?;
        let fresh = if is_same && (logged_after..=sequence).contains(&known.sequence) {
            let sql = "SELECT c.kind, c.id, e.service, e.definition, e.disabled, e.id IS NULL \
                       FROM (SELECT DISTINCT kind, id FROM change WHERE sequence > ?1) c \
                       LEFT JOIN entry e ON e.kind = c.kind AND e.id = c.id";
            let query = self.queries.query(sql).bind(known.sequence as i64);
            let rows = query.fetch_all(&mut *transaction).await?;
            let changed = rows.iter().map(changed).collect::<Result<_>>()?;
            Fresh::Changed { sequence, changed }
        } else {
            let sql = "SELECT kind, id, service, definition, disabled, 0 FROM entry";
            let rows = self.queries.query(sql).fetch_all(&mut *transaction).await?;
            let entries = rows.iter().map(|row| Ok(changed(row)?.2)).collect::<Result<Vec<_>>>()?;
            Fresh::All { sequence, entries: entries.into_iter().flatten().collect() }
        };
        self.queries.count();
        transaction.commit().await?;
        Ok(known.take(fresh, session))
    }

    pub(super) async fn apply(&self, changes: &[Change], at: u64) -> Result<Applied> {
        let mut guard = self.current().await?;
        let open = guard.as_mut().ok_or(StoreErrorKind::Gone)?;
        self.queries.count();
        // Rolled back on drop.
        let mut transaction = open.connection.begin_with("BEGIN IMMEDIATE").await?;
        if head(&self.queries, &mut transaction).await?.0 != at {
            return Ok(Applied::Moved);
        }
        let next = at + 1;
        for change in changes {
            let (kind, id) = change.subject();
            if self.write(&mut transaction, change).await? != 1 {
                let exists = matches!(change, Change::Add(_));
                let (kind, id) = (kind.name(), id.to_string());
                return Err(StoreErrorKind::Unfit { kind, id, exists });
            }
            let sql = "INSERT INTO change VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
            let log = self.queries.query(sql).bind(next as i64).bind(kind.name());
            log.bind(id.to_string()).execute(&mut *transaction).await?;
        }
        let advance = "UPDATE sequence SET value = value + 1, logged_after = max(logged_after, \
                       ifnull((SELECT sequence FROM change ORDER BY sequence DESC, kind, id \
                               LIMIT 1 OFFSET ?1), 0))";
        self.queries.query(advance).bind(LOG_MAX).execute(&mut *transaction).await?;
        let trim = "DELETE FROM change WHERE sequence <= (SELECT logged_after FROM sequence)";
        self.queries.query(trim).execute(&mut *transaction).await?;
        self.queries.count();
        transaction.commit().await?;
        Ok(Applied::Done(next))
    }

    /// Writes one change; returns how many entries it has changed.
    async fn write(&self, connection: &mut SqliteConnection, change: &Change) -> Result<u64> {
        let (kind, id) = change.subject();
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
        let query = self.queries.query(query).bind(kind.name()).bind(id.to_string());
        let query = match change {
            Change::Add(entry) | Change::Replace(entry) => query
                .bind(entry.service.clone())
                .bind(entry.definition.clone())
                .bind(entry.disabled),
            Change::SetDisabled { disabled, .. } => query.bind(*disabled),
            Change::Remove { .. } => query,
        };
        Ok(query.execute(connection).await?.rows_affected())
    }

    pub(super) async fn close(&self) {
        if let Some(open) = self.open.lock().await.take() {
            // On error the log remains beside the file and is recovered at the next open.
            let _ = open.connection.close().await;
        }
    }

    /// The open file, which is the one at the path.
    async fn current(&self) -> Result<MutexGuard<'_, Option<Open>>> {
        let mut guard = self.open.lock().await;
        let found = identity(&self.path).ok_or(StoreErrorKind::Gone)?;
        let Some(open) = guard.as_mut() else { return Ok(guard) };
        if open.file != Some(found) {
            let connection = connect(&self.path, false, &self.queries).await?;
            *open = Open { connection, file: identity(&self.path), session: open.session + 1 };
        }
        Ok(guard)
    }
}

/// Opens the file, and creates it if `create` says so.
async fn connect(path: &Path, create: bool, queries: &Queries) -> Result<SqliteConnection> {
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
    let mut tries = 0;
    let connection = loop {
        tries += 1;
        match open(&options, queries).await {
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
    Ok(connection)
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

/// Connects, and brings the schema up to date.
async fn open(
    options: &SqliteConnectOptions,
    queries: &Queries,
) -> std::result::Result<SqliteConnection, Fault> {
    let mut connection = options.connect().await?;
    let found = version(&mut connection, queries).await?;
    if found == 0 {
        queries.query("PRAGMA journal_mode = WAL").execute(&mut connection).await?;
    }
    if found < SCHEMA {
        queries.count();
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        // Another process may have been first.
        let found = version(&mut transaction, queries).await?;
        for sql in MIGRATIONS.iter().skip(found as usize).copied().flatten() {
            queries.query(sql).execute(&mut *transaction).await?;
        }
        queries.count();
        transaction.commit().await?;
    }
    Ok(connection)
}

/// The version of the schema; 0 in an empty file.
async fn version(
    connection: &mut SqliteConnection,
    queries: &Queries,
) -> std::result::Result<i64, Fault> {
    let sql = "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema) \
               FROM pragma_application_id, pragma_user_version";
    let row = queries.query(sql).fetch_one(connection).await?;
    let (id, version, tables): (i64, i64, i64) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    match (id, version) {
        (APPLICATION_ID, 1..=SCHEMA) => Ok(version),
        (APPLICATION_ID, found) => Err(Fault::Kind(StoreErrorKind::Newer { found, known: SCHEMA })),
        (0, 0) if tables == 0 => Ok(0),
        _ => Err(Fault::Kind(StoreErrorKind::Foreign)),
    }
}

/// The sequence number, and the one after which the log has all changes.
async fn head(queries: &Queries, connection: &mut SqliteConnection) -> Result<(u64, u64)> {
    let sql = "SELECT value, logged_after FROM sequence";
    let row = queries.query(sql).fetch_one(connection).await?;
    let (value, logged_after): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok((value as u64, logged_after as u64))
}

/// A changed entry of a row; without the entry if it was removed.
fn changed(row: &SqliteRow) -> Result<ChangedEntry> {
    let kind = EntryKind::named(&row.try_get::<String, _>(0)?)?;
    let id: String = row.try_get(1)?;
    if row.try_get(5)? {
        return Ok((kind, id, None));
    }
    let (service, definition) = (row.try_get(2)?, row.try_get(3)?);
    let entry = Entry { kind, id: id.clone(), service, definition, disabled: row.try_get(4)? };
    Ok((kind, id, Some(entry)))
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
