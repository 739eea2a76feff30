//! One connection to a server: its preparation, the schema, and the statements.

use std::time::Duration;

use rustls::CertificateError;
use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres as Dialect};
use sqlx::query::Query;
use sqlx::{Connection, Row};

use super::super::status::{OpenConnection, Status};
use super::super::{
    Applied, Change, ChangedEntry, Entry, EntryKind, Fresh, LOG_MAX, SCHEMA, StoreErrorKind,
};
use super::{CHANNEL, usage};

/// On the server: after this time it gives up a statement that nobody waits for any more, and a
/// transaction whose process has stopped, which would block all other changes.
const SERVER_MAX: &str = "10s";

/// The key of the advisory lock: "plimsoll".
const LOCK: i64 = 0x706c_696d_736f_6c6c;

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
    &usage::TABLES,
    &usage::ADMITTED,
];

type Result<T> = std::result::Result<T, Fault>;

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: PgConnection,
    /// Whether a commit was sent and not answered yet.
    pub(super) is_committing: bool,
    pub(super) _open: OpenConnection,
}

/// Why an operation failed: on the way, or because of what the database contains.
pub(super) enum Fault {
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

impl Session {
    /// Sets limits, checks that the server accepts changes, and brings the schema up to date.
    pub(super) async fn prepare(&mut self, status: &Status, create: bool) -> Result<()> {
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
    pub(super) async fn fresh(
        &mut self,
        status: &Status,
        since: Option<u64>,
    ) -> Result<Option<Fresh>> {
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
                    let changed = changed.collect::<Result<Vec<_>>>()?;
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
        let entries = entries.collect::<Result<Vec<_>>>()?;
        let entries = entries.into_iter().flatten().collect();
        Ok(Some(Fresh::All { sequence: head.sequence, entries }))
    }

    /// Applies changes in one transaction, which is rolled back on drop.
    pub(super) async fn apply(
        &mut self,
        status: &Status,
        changes: &[Change],
        at: u64,
    ) -> Result<Applied> {
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
async fn write(connection: &mut PgConnection, status: &Status, change: &Change) -> Result<u64> {
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
    fn of(row: &PgRow) -> Result<Head> {
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

fn first(rows: &[PgRow]) -> Result<&PgRow> {
    let damaged = || StoreErrorKind::Database {
        message: "plimsoll_registry has lost its row".into(),
        hint: "restore the database from a backup",
    };
    rows.first().ok_or_else(|| Fault::Kind(damaged()))
}

/// A changed entry of a row; without the entry if it was removed; `None` for a row without one.
fn changed(row: &PgRow) -> Result<Option<ChangedEntry>> {
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
async fn version(connection: &mut PgConnection, status: &Status) -> Result<i64> {
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

pub(super) fn query(sql: &'static str, status: &Status) -> Query<'static, Dialect, PgArguments> {
    status.count();
    sqlx::query(sql)
}

pub(super) fn no_answer(after: Duration) -> StoreErrorKind {
    StoreErrorKind::Unreachable(format!("no answer within {} s", after.as_secs()))
}

impl Fault {
    pub(super) fn into_kind(self) -> StoreErrorKind {
        match self {
            Fault::Kind(kind) => kind,
            Fault::Sql(error) => kind_of(error),
        }
    }
}

/// The classes and codes of errors that say that this server cannot be used now: connection exceptions,
/// shutdown and recovery, no more connections, a server or database that accepts no changes or
/// connections, a time limit.
const PASSING: [&str; 7] = ["08", "57P", "53", "25006", "57014", "55000", "55P03"];

/// Why the server's certificate is refused; `None` for other errors. Waiting would not help.
fn refused_certificate(error: &std::io::Error) -> Option<StoreErrorKind> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(why) = inner else { return None };
    let (why, hint) = match why {
        CertificateError::UnknownIssuer => (
            "its issuer is not trusted".into(),
            "name the certificate of its CA in the URL: sslrootcert=/path/ca.pem",
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            why.to_string(),
            "connect to a name in the certificate, or check only its CA: sslmode=verify-ca",
        ),
        why => (why.to_string(), "replace the server's certificate"),
    };
    let message = format!("TLS: the server's certificate is refused: {why}");
    Some(StoreErrorKind::Database { message, hint })
}

pub(super) fn kind_of(error: sqlx::Error) -> StoreErrorKind {
    let Some(reported) = error.as_database_error() else {
        return match &error {
            sqlx::Error::Io(error) => {
                refused_certificate(error).unwrap_or(StoreErrorKind::Unreachable(error.to_string()))
            }
            sqlx::Error::Tls(error) => StoreErrorKind::Database {
                message: format!("TLS: {error}"),
                hint: "enable TLS in the server (ssl = on), or check sslmode and the certificates in the \
                       URL",
            },
            error => StoreErrorKind::Unreachable(error.to_string()),
        };
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
