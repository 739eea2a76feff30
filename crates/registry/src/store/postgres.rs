//! Postgres: a server shared by the gateways of several hosts.
//!
//! # Connections
//! One connection for statements, which several tasks of a process use in turn, and one that listens
//! for changes ([`Listener`], only in gateways). A connection whose statement failed or took longer
//! than [`STATEMENT_MAX`] is dropped, and the next use connects again, to the first of the addresses
//! that accepts changes: a standby does not. So a server that hangs delays only the task that waits
//! for it, and a failover needs nobody's help.
//!
//! # Durability
//! A change is one transaction. It starts by advancing the sequence number, which locks that row:
//! writers take turns, and one that decided on an older state finds the number moved. A change is
//! acknowledged once the server has flushed it, whatever the role's `synchronous_commit`; if the answer
//! to the commit is lost, the error says that the outcome is not known.
//!
//! # Schema
//! `plimsoll_registry` has one row with the version of the schema and the sequence number. Migrations
//! run in one transaction under an advisory lock, so gateways that start at the same time wait for the
//! first. The version is read with every poll, so that a program notices when a newer one has migrated.

pub(super) mod address;
mod listener;
#[cfg(test)]
mod server;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow, Postgres as Dialect};
use sqlx::query::Query;
use sqlx::{ConnectOptions, Connection, Row};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

use super::status::{OpenConnection, Status};
use super::{
    Applied, Change, ChangedEntry, Entries, Entry, EntryKind, Fresh, LOG_MAX, SCHEMA,
    StoreErrorKind,
};
use address::Address;
pub(crate) use listener::Listener;

/// How long to wait for one address to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How long to wait for the answers of one operation. They take milliseconds.
const STATEMENT_MAX: Duration = Duration::from_secs(5);

/// Added to that for each change of several.
const CHANGE_MAX: Duration = Duration::from_millis(20);

/// On the server: after this time it gives up a statement that nobody waits for any more, and a
/// transaction whose process has stopped, which would block all other changes.
const SERVER_MAX: &str = "10s";

/// The key of the advisory lock: "plimsoll".
const LOCK: i64 = 0x706c_696d_736f_6c6c;

/// The channel on which changes are announced.
const CHANNEL: &str = "plimsoll_registry";

/// The statements that lead from each version of the schema to the next.
const MIGRATIONS: [&[&str]; SCHEMA as usize] = [
    // Version 1 exists only for SQLite.
    &[],
    &[
        "CREATE TABLE plimsoll_registry (
            only_row BOOLEAN PRIMARY KEY CHECK (only_row),
            version BIGINT NOT NULL,
            sequence BIGINT NOT NULL,
            logged_after BIGINT NOT NULL
        )",
        "INSERT INTO plimsoll_registry VALUES (TRUE, 2, 0, 0)",
        "CREATE TABLE plimsoll_entry (
            kind TEXT NOT NULL CHECK (kind IN ('service', 'upstream', 'endpoint')),
            id TEXT NOT NULL,
            service TEXT,
            definition TEXT,
            disabled BOOLEAN NOT NULL,
            PRIMARY KEY (kind, id)
        )",
        "CREATE TABLE plimsoll_change (
            sequence BIGINT NOT NULL,
            kind TEXT NOT NULL,
            id TEXT NOT NULL,
            PRIMARY KEY (sequence, kind, id)
        )",
    ],
];

type Result<T> = std::result::Result<T, StoreErrorKind>;

/// A database, connected when it is used.
#[derive(Debug)]
pub(super) struct Postgres {
    addresses: Vec<Address>,
    /// Whether to create the tables.
    create: bool,
    status: Arc<Status>,
    link: Mutex<Link>,
}

/// The connection for statements.
#[derive(Debug, Default)]
struct Link {
    session: Option<Session>,
    /// The address to try first: the one that last worked.
    first: usize,
    /// The number of sessions so far.
    number: u64,
}

#[derive(Debug)]
struct Session {
    connection: PgConnection,
    /// Whether a commit was sent and not answered yet.
    is_committing: bool,
    _open: OpenConnection,
}

/// Why an operation failed: on the way, or because of what the database contains.
enum Fault {
    Sql(sqlx::Error),
    Kind(StoreErrorKind),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Fault {
        Fault::Sql(error)
    }
}

impl From<StoreErrorKind> for Fault {
    fn from(kind: StoreErrorKind) -> Fault {
        Fault::Kind(kind)
    }
}

/// An operation's result, unless it took too long.
type Timed<T> = std::result::Result<std::result::Result<T, Fault>, tokio::time::error::Elapsed>;

impl Postgres {
    /// A database at a valid URL; connects to nothing yet.
    pub(super) fn new(url: &str, create: bool, status: Arc<Status>) -> Result<Postgres> {
        let addresses = address::parse(url).map_err(StoreErrorKind::Url)?;
        Ok(Postgres { addresses, create, status, link: Mutex::default() })
    }

    /// Connects, unless there is a connection.
    pub(super) async fn connect(&self) -> Result<()> {
        self.link().await.map(drop)
    }

    pub(super) async fn refresh(&self, known: &mut Entries) -> Result<bool> {
        loop {
            let mut link = self.link().await?;
            // Another connection may lead to another server, whose history may differ.
            let is_same = known.session == link.number;
            let since = is_same.then_some(known.sequence);
            let session = link.session.as_mut().expect("connected above");
            let fresh = timeout(STATEMENT_MAX, session.fresh(&self.status, since)).await;
            match link.settle(fresh) {
                Ok(None) => return Ok(false),
                Ok(Some(fresh)) => return Ok(known.take(fresh, link.number)),
                // The server may have been restarted since the last use.
                Err(StoreErrorKind::Unreachable(_)) if is_same => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn apply(&self, changes: &[Change], at: u64) -> Result<Applied> {
        let time = STATEMENT_MAX + CHANGE_MAX * changes.len() as u32;
        let mut is_first = true;
        loop {
            let mut link = self.link().await?;
            let session = link.session.as_mut().expect("connected above");
            let applied = timeout(time, session.apply(&self.status, changes, at)).await;
            match link.settle(applied) {
                // Nothing was written, and the server may have been restarted since the last use.
                Err(StoreErrorKind::Unreachable(_)) if std::mem::take(&mut is_first) => {}
                done => return done,
            }
        }
    }

    /// Listens on the address of the connection for statements; `None` if there is none.
    pub(super) async fn listen(&self) -> Result<Option<Listener>> {
        let (options, session) = {
            let link = self.link.lock().await;
            if link.session.is_none() {
                return Ok(None);
            }
            (self.addresses[link.first].options.clone(), link.number)
        };
        Listener::start(options, session, &self.status).await.map(Some)
    }

    pub(super) async fn close(&self) {
        if let Some(session) = self.link.lock().await.session.take() {
            // The server notices a closed socket, too.
            let _ = timeout(CONNECT_MAX, session.connection.close()).await;
        }
    }

    /// The connection for statements; connects if there is none.
    async fn link(&self) -> Result<MutexGuard<'_, Link>> {
        let mut link = self.link.lock().await;
        if link.session.is_some() {
            return Ok(link);
        }
        let mut refused: Vec<String> = Vec::new();
        let mut other = None;
        for turn in 0..self.addresses.len() {
            let place = (link.first + turn) % self.addresses.len();
            let address = &self.addresses[place];
            match self.session(&address.options).await {
                Ok(session) => {
                    link.session = Some(session);
                    link.first = place;
                    link.number += 1;
                    return Ok(link);
                }
                Err(StoreErrorKind::Unreachable(why)) => {
                    refused.push(format!("{}: {why}", address.shown));
                }
                // A wrong password or a newer schema; another address may still work.
                Err(kind) => other = other.or(Some(kind)),
            }
        }
        Err(other.unwrap_or_else(|| StoreErrorKind::Unreachable(refused.join("; "))))
    }

    /// Connects to one address, and prepares the connection and the schema.
    async fn session(&self, options: &PgConnectOptions) -> Result<Session> {
        let options = options.clone().disable_statement_logging();
        let connection = timeout(CONNECT_MAX, options.connect()).await;
        let connection = connection.map_err(|_| no_answer(CONNECT_MAX))?.map_err(kind_of)?;
        let open = OpenConnection::count(&self.status);
        let mut session = Session { connection, is_committing: false, _open: open };
        let prepared = timeout(STATEMENT_MAX, session.prepare(&self.status, self.create)).await;
        match prepared {
            Ok(Ok(())) => Ok(session),
            Ok(Err(fault)) => Err(fault.into_kind()),
            Err(_) => Err(no_answer(STATEMENT_MAX)),
        }
    }
}

impl Link {
    /// The result of an operation; drops a connection on which one failed.
    fn settle<T>(&mut self, done: Timed<T>) -> Result<T> {
        let kind = match done {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(fault)) => fault.into_kind(),
            Err(_) => no_answer(STATEMENT_MAX),
        };
        let session = self.session.take();
        Err(match kind {
            StoreErrorKind::Unreachable(why) if session.is_some_and(|one| one.is_committing) => {
                StoreErrorKind::Uncertain(why)
            }
            kind => kind,
        })
    }
}

impl Session {
    /// Sets limits, checks that the server accepts changes, and brings the schema up to date.
    async fn prepare(&mut self, status: &Status, create: bool) -> std::result::Result<(), Fault> {
        status.count();
        let sql = "SELECT set_config('statement_timeout', $1, false), \
                   set_config('lock_timeout', $1, false), \
                   set_config('idle_in_transaction_session_timeout', $1, false), \
                   current_setting('transaction_read_only') = 'on'";
        let row = sqlx::query(sql).bind(SERVER_MAX).fetch_one(&mut self.connection).await?;
        if row.try_get(3)? {
            let why = "it is a standby, or read-only, and accepts no changes";
            return Err(StoreErrorKind::Unreachable(why.into()).into());
        }
        let found = version(&mut self.connection, status).await?;
        if found == SCHEMA {
            return Ok(());
        }
        if found == 0 && !create {
            return Err(StoreErrorKind::Missing.into());
        }
        status.count();
        let mut transaction = self.connection.begin().await?;
        query("SELECT pg_advisory_xact_lock($1)", status)
            .bind(LOCK)
            .execute(&mut *transaction)
            .await?;
        // Another process may have been first.
        let found = version(&mut transaction, status).await?;
        for statement in MIGRATIONS.iter().skip(found as usize).copied().flatten() {
            query(statement, status).execute(&mut *transaction).await?;
        }
        status.count();
        transaction.commit().await?;
        Ok(())
    }

    /// What is new since a sequence number; `None` if nothing is.
    async fn fresh(
        &mut self,
        status: &Status,
        since: Option<u64>,
    ) -> std::result::Result<Option<Fresh>, Fault> {
        let connection = &mut self.connection;
        if let Some(since) = since {
            let sql = "SELECT version, sequence, logged_after FROM plimsoll_registry";
            let row = query(sql, status).fetch_one(&mut *connection).await?;
            let head = Head::of(&row)?;
            if head.sequence == since {
                return Ok(None);
            }
            // One statement sees one state.
            let sql = "SELECT r.version, r.sequence, r.logged_after, c.kind, c.id, e.service, \
                       e.definition, e.disabled, e.id IS NULL \
                       FROM plimsoll_registry r \
                       LEFT JOIN (SELECT DISTINCT kind, id FROM plimsoll_change \
                                  WHERE sequence > $1) c ON TRUE \
                       LEFT JOIN plimsoll_entry e ON e.kind = c.kind AND e.id = c.id";
            if head.covers(since) {
                let rows = query(sql, status).bind(since as i64).fetch_all(&mut *connection);
                let rows = rows.await?;
                let head = Head::of(first(&rows)?)?;
                if head.covers(since) {
                    let changed = rows.iter().filter_map(|row| changed(row).transpose());
                    let changed = changed.collect::<std::result::Result<Vec<_>, Fault>>()?;
                    return Ok(Some(Fresh::Changed { sequence: head.sequence, changed }));
                }
            }
        }
        let sql = "SELECT r.version, r.sequence, r.logged_after, e.kind, e.id, e.service, \
                   e.definition, e.disabled, FALSE \
                   FROM plimsoll_registry r LEFT JOIN plimsoll_entry e ON TRUE";
        let rows = query(sql, status).fetch_all(&mut *connection).await?;
        let head = Head::of(first(&rows)?)?;
        let entries = rows.iter().filter_map(|row| changed(row).transpose());
        let entries = entries.map(|found| found.map(|(_, _, entry)| entry));
        let entries = entries.collect::<std::result::Result<Vec<_>, Fault>>()?;
        let entries = entries.into_iter().flatten().collect();
        Ok(Some(Fresh::All { sequence: head.sequence, entries }))
    }

    /// Applies changes in one transaction, which is rolled back on drop.
    async fn apply(
        &mut self,
        status: &Status,
        changes: &[Change],
        at: u64,
    ) -> std::result::Result<Applied, Fault> {
        self.is_committing = false;
        status.count();
        let mut transaction = self.connection.begin().await?;
        let connection: &mut PgConnection = &mut transaction;
        let sql = "SELECT set_config('synchronous_commit', 'on', TRUE) \
                   WHERE current_setting('synchronous_commit') = 'off'";
        query(sql, status).fetch_optional(&mut *connection).await?;
        // Locks the row, so that writers take turns.
        let sql = "UPDATE plimsoll_registry SET sequence = sequence + 1 \
                   WHERE sequence = $1 AND version = $2";
        let advance = query(sql, status).bind(at as i64).bind(SCHEMA);
        if advance.execute(&mut *connection).await?.rows_affected() != 1 {
            transaction.rollback().await?;
            return Ok(Applied::Moved);
        }
        let next = at + 1;
        for change in changes {
            let (kind, id) = change.subject();
            if write(connection, status, change).await? != 1 {
                let exists = matches!(change, Change::Add(_));
                let (kind, id) = (kind.name(), id.to_string());
                transaction.rollback().await?;
                return Err(StoreErrorKind::Unfit { kind, id, exists }.into());
            }
            let sql = "INSERT INTO plimsoll_change VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
            let log = query(sql, status).bind(next as i64).bind(kind.name()).bind(id.to_string());
            log.execute(&mut *connection).await?;
        }
        let sql = "WITH last AS (SELECT sequence FROM plimsoll_change \
                                 ORDER BY sequence DESC, kind, id OFFSET $1 LIMIT 1), \
                   gone AS (DELETE FROM plimsoll_change \
                            WHERE sequence <= (SELECT sequence FROM last)) \
                   UPDATE plimsoll_registry SET logged_after = last.sequence FROM last";
        query(sql, status).bind(LOG_MAX).execute(&mut *connection).await?;
        let sql = "SELECT pg_notify($1, $2)";
        let notify = query(sql, status).bind(CHANNEL).bind(next.to_string());
        notify.execute(&mut *connection).await?;
        self.is_committing = true;
        status.count();
        transaction.commit().await?;
        self.is_committing = false;
        Ok(Applied::Done(next))
    }
}

/// Writes one change; returns how many entries it has changed.
async fn write(
    connection: &mut PgConnection,
    status: &Status,
    change: &Change,
) -> std::result::Result<u64, Fault> {
    let (kind, id) = change.subject();
    let sql = match change {
        Change::Add(_) => {
            "INSERT INTO plimsoll_entry (kind, id, service, definition, disabled) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"
        }
        Change::Replace(_) => {
            "UPDATE plimsoll_entry SET service = $3, definition = $4, disabled = $5 \
             WHERE kind = $1 AND id = $2"
        }
        Change::SetDisabled { .. } => {
            "UPDATE plimsoll_entry SET disabled = $3 WHERE kind = $1 AND id = $2"
        }
        Change::Remove { .. } => "DELETE FROM plimsoll_entry WHERE kind = $1 AND id = $2",
    };
    let query = query(sql, status).bind(kind.name()).bind(id.to_string());
    let query = match change {
        Change::Add(entry) | Change::Replace(entry) => {
            query.bind(entry.service.clone()).bind(entry.definition.clone()).bind(entry.disabled)
        }
        Change::SetDisabled { disabled, .. } => query.bind(*disabled),
        Change::Remove { .. } => query,
    };
    Ok(query.execute(connection).await?.rows_affected())
}

/// The row of `plimsoll_registry`.
struct Head {
    sequence: u64,
    logged_after: u64,
}

impl Head {
    fn of(row: &PgRow) -> std::result::Result<Head, Fault> {
        let (version, sequence, logged_after): (i64, i64, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if version > SCHEMA {
            return Err(StoreErrorKind::Newer { found: version, known: SCHEMA }.into());
        }
        Ok(Head { sequence: sequence as u64, logged_after: logged_after as u64 })
    }

    /// Whether the log has all changes since a sequence number.
    fn covers(&self, since: u64) -> bool {
        (self.logged_after..=self.sequence).contains(&since)
    }
}

fn first(rows: &[PgRow]) -> std::result::Result<&PgRow, Fault> {
    let damaged = || StoreErrorKind::Database {
        message: "plimsoll_registry has lost its row".into(),
        hint: "restore the database from a backup",
    };
    rows.first().ok_or_else(|| Fault::Kind(damaged()))
}

/// A changed entry of a row; without the entry if it was removed; `None` for a row without one.
fn changed(row: &PgRow) -> std::result::Result<Option<ChangedEntry>, Fault> {
    let Some(word) = row.try_get::<Option<String>, _>(3)? else { return Ok(None) };
    let kind = EntryKind::named(&word)?;
    let id: String = row.try_get(4)?;
    if row.try_get(8)? {
        return Ok(Some((kind, id, None)));
    }
    let (service, definition) = (row.try_get(5)?, row.try_get(6)?);
    let entry = Entry { kind, id: id.clone(), service, definition, disabled: row.try_get(7)? };
    Ok(Some((kind, id, Some(entry))))
}

/// The version of the schema; 0 if there is none.
async fn version(
    connection: &mut PgConnection,
    status: &Status,
) -> std::result::Result<i64, Fault> {
    // Not to_regclass(): within a transaction it may answer from before another process's migration.
    let sql = "SELECT EXISTS (SELECT FROM pg_class \
               WHERE relname = 'plimsoll_registry' AND pg_table_is_visible(oid))";
    if !query(sql, status).fetch_one(&mut *connection).await?.try_get::<bool, _>(0)? {
        return Ok(0);
    }
    let sql = "SELECT version FROM plimsoll_registry";
    let found = query(sql, status).fetch_one(connection).await?.try_get(0)?;
    if found > SCHEMA {
        return Err(StoreErrorKind::Newer { found, known: SCHEMA }.into());
    }
    Ok(found)
}

fn query(sql: &'static str, status: &Status) -> Query<'static, Dialect, PgArguments> {
    status.count();
    sqlx::query(sql)
}

fn no_answer(after: Duration) -> StoreErrorKind {
    StoreErrorKind::Unreachable(format!("no answer within {} s", after.as_secs()))
}

impl Fault {
    fn into_kind(self) -> StoreErrorKind {
        match self {
            Fault::Kind(kind) => kind,
            Fault::Sql(error) => kind_of(error),
        }
    }
}

/// The classes and codes of errors that say that this server cannot be used now: connection exceptions,
/// shutdown and recovery, no more connections, a server that accepts no changes, a time limit.
const PASSING: [&str; 6] = ["08", "57P", "53", "25006", "57014", "55P03"];

fn kind_of(error: sqlx::Error) -> StoreErrorKind {
    let Some(reported) = error.as_database_error() else {
        let message = match &error {
            sqlx::Error::Io(error) => error.to_string(),
            sqlx::Error::Tls(error) => format!("TLS: {error}"),
            error => error.to_string(),
        };
        return StoreErrorKind::Unreachable(message);
    };
    let message = reported.message().to_string();
    let code = reported.code().unwrap_or_default();
    if PASSING.iter().any(|passing| code.starts_with(passing)) {
        return StoreErrorKind::Unreachable(message);
    }
    let hint = match &*code {
        "28P01" | "28000" => "check the user and the password in the URL, and pg_hba.conf",
        "3D000" => "create the database first: createdb",
        "42501" => "grant the user CREATE and USAGE on the schema, and all rights on the tables",
        "42P01" | "42703" => "restore the tables plimsoll_… from a backup",
        _ => "",
    };
    StoreErrorKind::Database { message, hint }
}

#[cfg(test)]
mod tests;
