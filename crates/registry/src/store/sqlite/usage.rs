//! Usage in a file. A batch is passed as one JSON document, so that it takes three statements, however
//! many rows it has.

use serde_json::Value;
use sqlx::{Connection, Row};

use super::super::StoreErrorKind;
use super::super::usage::{Days, Found, counts, stored};
use super::{Result, Sqlite};
use crate::usage::{Batch, Counts, Put, Subject, Totals, UsageQuery};

/// The tables, since version 3 of the schema.
pub(super) const TABLES: [&str; 4] = [
    "CREATE TABLE usage (
        hour INTEGER NOT NULL,
        endpoint TEXT NOT NULL,
        key TEXT NOT NULL,
        service TEXT NOT NULL,
        method TEXT NOT NULL,
        calls INTEGER NOT NULL,
        ok INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        hits INTEGER NOT NULL,
        relays INTEGER NOT NULL,
        hedges INTEGER NOT NULL,
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        compute_units INTEGER NOT NULL,
        PRIMARY KEY (hour, endpoint, key, service, method)
    ) WITHOUT ROWID",
    "CREATE TABLE usage_day (
        endpoint TEXT NOT NULL,
        key TEXT NOT NULL,
        day INTEGER NOT NULL,
        calls INTEGER NOT NULL,
        compute_units INTEGER NOT NULL,
        PRIMARY KEY (endpoint, key, day)
    ) WITHOUT ROWID",
    "CREATE TABLE usage_writer (
        writer TEXT PRIMARY KEY,
        sequence INTEGER NOT NULL,
        hour INTEGER NOT NULL
    ) WITHOUT ROWID",
    "PRAGMA user_version = 3",
];

/// What version 4 of the schema adds: what quotas were charged. Before, only what calls were charged is
/// known.
pub(super) const ADMITTED: [&str; 3] = [
    "ALTER TABLE usage_day ADD COLUMN admitted_units INTEGER NOT NULL DEFAULT 0",
    "UPDATE usage_day SET admitted_units = compute_units",
    "PRAGMA user_version = 4",
];

impl Sqlite {
    pub(in crate::store) async fn put_usage(&self, batch: &Batch, hour: i64) -> Result<Put> {
        let mut guard = self.current().await?;
        let open = guard.as_mut().ok_or(StoreErrorKind::Gone)?;
        self.queries.count();
        // Rolled back on drop.
        let mut transaction = open.connection.begin_with("BEGIN IMMEDIATE").await?;
        let sql = "INSERT INTO usage_writer AS w VALUES (?1, ?2, ?3) \
                   ON CONFLICT (writer) DO UPDATE SET sequence = excluded.sequence, \
                   hour = max(w.hour, excluded.hour) WHERE w.sequence < excluded.sequence";
        let advance = self.queries.query(sql).bind(batch.writer.clone());
        let advance = advance.bind(stored(batch.sequence)).bind(hour);
        if advance.execute(&mut *transaction).await?.rows_affected() != 1 {
            return Ok(Put::Known);
        }
        let sql = "INSERT INTO usage AS u \
                   SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, \
                   value->>6, value->>7, value->>8, value->>9, value->>10, value->>11, value->>12, \
                   value->>13, value->>14 FROM json_each(?1) WHERE TRUE \
                   ON CONFLICT (hour, endpoint, key, service, method) DO UPDATE SET \
                   calls = u.calls + excluded.calls, ok = u.ok + excluded.ok, \
                   errors = u.errors + excluded.errors, failed = u.failed + excluded.failed, \
                   hits = u.hits + excluded.hits, relays = u.relays + excluded.relays, \
                   hedges = u.hedges + excluded.hedges, bytes_in = u.bytes_in + excluded.bytes_in, \
                   bytes_out = u.bytes_out + excluded.bytes_out, \
                   compute_units = u.compute_units + excluded.compute_units";
        let shown = document(batch.rows.iter().filter(|(_, counts)| counts.has_figures()));
        self.queries.query(sql).bind(shown).execute(&mut *transaction).await?;
        let sql = "INSERT INTO usage_day AS d \
                   SELECT value->>1, value->>2, (value->>0) / 24, \
                   sum((value->>6) + (value->>7)), sum(value->>14), sum(value->>15) \
                   FROM json_each(?1) WHERE value->>1 <> '' GROUP BY 1, 2, 3 \
                   ON CONFLICT (endpoint, key, day) DO UPDATE SET calls = d.calls + excluded.calls, \
                   compute_units = d.compute_units + excluded.compute_units, \
                   admitted_units = d.admitted_units + excluded.admitted_units";
        self.queries
            .query(sql)
            .bind(document(batch.rows.iter()))
            .execute(&mut *transaction)
            .await?;
        self.queries.count();
        transaction.commit().await?;
        Ok(Put::Written)
    }

    pub(in crate::store) async fn usage(&self, query: &UsageQuery) -> Result<Found> {
        let mut guard = self.current().await?;
        let open = guard.as_mut().ok_or(StoreErrorKind::Gone)?;
        let sql = "SELECT hour / ?1 * ?1 AS bucket, iif(?2, endpoint, '') AS e, \
                   iif(?3, key, '') AS k, service, iif(?4, method, '') AS m, \
                   sum(calls), sum(ok), sum(errors), sum(failed), sum(hits), sum(relays), \
                   sum(hedges), sum(bytes_in), sum(bytes_out), sum(compute_units) \
                   FROM usage WHERE hour >= ?5 AND hour < ?6 \
                   AND (?7 IS NULL OR endpoint = ?7) AND (?8 IS NULL OR key = ?8) \
                   AND (?9 IS NULL OR service = ?9) AND (?10 IS NULL OR method = ?10) \
                   GROUP BY bucket, e, k, service, m ORDER BY bucket, e, k, service, m LIMIT ?11";
        let UsageQuery { span, by, filter } = query;
        let rows = self.queries.query(sql).bind(stored(query.bucket_hours()));
        let rows = rows.bind(by.endpoint).bind(by.key).bind(by.method);
        let rows = rows.bind(stored(span.from)).bind(stored(span.to));
        let rows = rows.bind(filter.endpoint.clone()).bind(filter.key.clone());
        let rows = rows.bind(filter.service.clone()).bind(filter.method.clone());
        let rows = rows.bind(UsageQuery::ROWS_MAX as i64 + 1);
        let rows = rows.fetch_all(&mut open.connection).await?;
        if rows.len() > UsageQuery::ROWS_MAX {
            return Ok(None);
        }
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let subject = Subject {
                hour: row.try_get::<i64, _>(0)?.max(0) as u64,
                endpoint: row.try_get(1)?,
                key: row.try_get(2)?,
                service: row.try_get(3)?,
                method: row.try_get(4)?,
            };
            found.push((subject, counts(|place| row.try_get(5 + place))?));
        }
        Ok(Some(found))
    }

    pub(in crate::store) async fn usage_totals(
        &self,
        endpoints: &[String],
        days: Days,
    ) -> Result<Vec<Totals>> {
        let mut guard = self.current().await?;
        let open = guard.as_mut().ok_or(StoreErrorKind::Gone)?;
        let sql = "SELECT endpoint, key, \
                   coalesce(sum(admitted_units) FILTER (WHERE day = ?2), 0), \
                   sum(admitted_units) FROM usage_day \
                   WHERE endpoint IN (SELECT value FROM json_each(?1)) AND day BETWEEN ?3 AND ?2 \
                   GROUP BY endpoint, key ORDER BY endpoint, key";
        let names = Value::from(endpoints.to_vec()).to_string();
        let rows = self.queries.query(sql).bind(names).bind(days.today).bind(days.month);
        let rows = rows.fetch_all(&mut open.connection).await?;
        let number = |row: &sqlx::sqlite::SqliteRow, place: usize| -> sqlx::Result<u64> {
            Ok(row.try_get::<i64, _>(place)?.max(0) as u64)
        };
        let mut totals = Vec::with_capacity(rows.len());
        for row in &rows {
            totals.push(Totals {
                endpoint: row.try_get(0)?,
                key: row.try_get(1)?,
                day: number(row, 2)?,
                month: number(row, 3)?,
            });
        }
        Ok(totals)
    }

    pub(in crate::store) async fn trim_usage(&self, before: i64) -> Result<()> {
        let mut guard = self.current().await?;
        let open = guard.as_mut().ok_or(StoreErrorKind::Gone)?;
        self.queries.count();
        let mut transaction = open.connection.begin_with("BEGIN IMMEDIATE").await?;
        for sql in [
            "DELETE FROM usage WHERE hour < ?1",
            "DELETE FROM usage_writer WHERE hour < ?1",
            "DELETE FROM usage_day WHERE day < ?1 / 24",
        ] {
            self.queries.query(sql).bind(before).execute(&mut *transaction).await?;
        }
        self.queries.count();
        transaction.commit().await?;
        Ok(())
    }
}

/// Rows: `[[hour, endpoint, key, service, method, calls, …, admitted_units], …]`.
fn document<'a>(rows: impl Iterator<Item = &'a (Subject, Counts)>) -> String {
    let row = |(subject, counts): &(Subject, Counts)| {
        let Subject { hour, endpoint, key, service, method } = subject;
        let names = [endpoint, key, service, method].map(|name| Value::from(name.as_str()));
        let figures = counts.values().into_iter().chain([counts.admitted_units]);
        let figures = figures.map(|figure| Value::from(stored(figure)));
        std::iter::once(Value::from(stored(*hour))).chain(names).chain(figures).collect::<Value>()
    };
    rows.map(row).collect::<Value>().to_string()
}
