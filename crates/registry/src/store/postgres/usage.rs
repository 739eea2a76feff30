//! Usage on a server. A batch is passed as arrays, so that it takes a few statements, however many rows it
//! has. Rows are sorted, so that writers lock them in the same order.

use sqlx::postgres::PgRow;
use sqlx::{Connection, Row};
use tokio::time::timeout;

use super::super::usage::{Days, Found, counts, stored};
use super::super::{SCHEMA, Status, StoreErrorKind};
use super::session::{Fault, Session, query};
use super::{Postgres, QUERY_MAX, Result, STATEMENT_MAX};
use crate::usage::{Batch, Counts, Put, Subject, Totals, UsageQuery};

/// The tables, since version 3 of the schema.
pub(super) const TABLES: [&str; 4] = [
    "CREATE TABLE plimsoll_usage (
        hour BIGINT NOT NULL,
        endpoint TEXT NOT NULL,
        key TEXT NOT NULL,
        service TEXT NOT NULL,
        method TEXT NOT NULL,
        calls BIGINT NOT NULL,
        ok BIGINT NOT NULL,
        errors BIGINT NOT NULL,
        failed BIGINT NOT NULL,
        hits BIGINT NOT NULL,
        relays BIGINT NOT NULL,
        hedges BIGINT NOT NULL,
        bytes_in BIGINT NOT NULL,
        bytes_out BIGINT NOT NULL,
        compute_units BIGINT NOT NULL,
        PRIMARY KEY (hour, endpoint, key, service, method)
    )",
    "CREATE TABLE plimsoll_usage_day (
        endpoint TEXT NOT NULL,
        key TEXT NOT NULL,
        day BIGINT NOT NULL,
        calls BIGINT NOT NULL,
        compute_units BIGINT NOT NULL,
        PRIMARY KEY (endpoint, key, day)
    )",
    "CREATE TABLE plimsoll_usage_writer (
        writer TEXT PRIMARY KEY,
        sequence BIGINT NOT NULL,
        hour BIGINT NOT NULL
    )",
    "UPDATE plimsoll_registry SET version = 3",
];

/// What version 4 of the schema adds: what quotas were charged. Before, only what calls were charged is
/// known.
pub(super) const ADMITTED: [&str; 3] = [
    "ALTER TABLE plimsoll_usage_day ADD COLUMN admitted_units BIGINT NOT NULL DEFAULT 0",
    "UPDATE plimsoll_usage_day SET admitted_units = compute_units",
    "UPDATE plimsoll_registry SET version = 4",
];

impl Postgres {
    pub(in crate::store) async fn put_usage(&self, batch: &Batch, hour: i64) -> Result<Put> {
        let mut link = self.link().await?;
        let session = link.session.as_mut().expect("connected above");
        let done = timeout(STATEMENT_MAX, session.put_usage(&self.status, batch, hour)).await;
        link.settle(done)
    }

    pub(in crate::store) async fn usage(&self, query: &UsageQuery) -> Result<Found> {
        let mut link = self.link().await?;
        let session = link.session.as_mut().expect("connected above");
        session.is_committing = false;
        let done = timeout(QUERY_MAX, session.usage(&self.status, query)).await;
        link.settle(done)
    }

    pub(in crate::store) async fn usage_totals(
        &self,
        endpoints: &[String],
        days: Days,
    ) -> Result<Vec<Totals>> {
        let mut link = self.link().await?;
        let session = link.session.as_mut().expect("connected above");
        session.is_committing = false;
        let totals = session.usage_totals(&self.status, endpoints, days);
        let done = timeout(STATEMENT_MAX, totals).await;
        link.settle(done)
    }

    pub(in crate::store) async fn trim_usage(&self, before: i64) -> Result<()> {
        let mut link = self.link().await?;
        let session = link.session.as_mut().expect("connected above");
        session.is_committing = false;
        let done = timeout(QUERY_MAX, session.trim_usage(&self.status, before)).await;
        link.settle(done)
    }
}

impl Session {
    async fn put_usage(
        &mut self,
        status: &Status,
        batch: &Batch,
        hour: i64,
    ) -> std::result::Result<Put, Fault> {
        self.is_committing = false;
        status.count();
        // Rolled back on drop.
        let mut transaction = self.connection.begin().await?;
        let sql = "SELECT set_config('synchronous_commit', 'on', TRUE) \
                   WHERE current_setting('synchronous_commit') = 'off'";
        query(sql, status).fetch_optional(&mut *transaction).await?;
        let sql = "WITH known AS (SELECT version FROM plimsoll_registry), \
                   advanced AS (INSERT INTO plimsoll_usage_writer AS w \
                       SELECT $1, $2, $3 FROM known WHERE version = $4 \
                       ON CONFLICT (writer) DO UPDATE SET sequence = EXCLUDED.sequence, \
                       hour = greatest(w.hour, EXCLUDED.hour) WHERE w.sequence < EXCLUDED.sequence \
                       RETURNING 1) \
                   SELECT (SELECT version FROM known), EXISTS (SELECT FROM advanced)";
        let advance = query(sql, status).bind(batch.writer.clone()).bind(stored(batch.sequence));
        let row = advance.bind(hour).bind(SCHEMA).fetch_one(&mut *transaction).await?;
        let (found, is_new): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
        if found > SCHEMA {
            return Err(StoreErrorKind::Newer { found, known: SCHEMA }.into());
        }
        if !is_new {
            transaction.rollback().await?;
            return Ok(Put::Known);
        }
        let shown = batch.rows.iter().filter(|(_, counts)| counts.has_figures());
        let Columns { hours, endpoints, keys, services, methods, figures, .. } = Columns::of(shown);
        let sql = "INSERT INTO plimsoll_usage AS u \
                   SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], \
                   $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], \
                   $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[]) \
                   ON CONFLICT (hour, endpoint, key, service, method) DO UPDATE SET \
                   calls = u.calls + EXCLUDED.calls, ok = u.ok + EXCLUDED.ok, \
                   errors = u.errors + EXCLUDED.errors, failed = u.failed + EXCLUDED.failed, \
                   hits = u.hits + EXCLUDED.hits, relays = u.relays + EXCLUDED.relays, \
                   hedges = u.hedges + EXCLUDED.hedges, bytes_in = u.bytes_in + EXCLUDED.bytes_in, \
                   bytes_out = u.bytes_out + EXCLUDED.bytes_out, \
                   compute_units = u.compute_units + EXCLUDED.compute_units";
        let mut add = query(sql, status).bind(hours).bind(endpoints);
        add = add.bind(keys).bind(services).bind(methods);
        for column in figures {
            add = add.bind(column);
        }
        add.execute(&mut *transaction).await?;
        let sql = "INSERT INTO plimsoll_usage_day AS d \
                   SELECT endpoint, key, hour / 24, sum(ok + errors)::bigint, sum(units)::bigint, \
                   sum(admitted)::bigint \
                   FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], \
                   $6::bigint[], $7::bigint[]) \
                   AS row (hour, endpoint, key, ok, errors, units, admitted) \
                   WHERE endpoint <> '' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 \
                   ON CONFLICT (endpoint, key, day) DO UPDATE SET calls = d.calls + EXCLUDED.calls, \
                   compute_units = d.compute_units + EXCLUDED.compute_units, \
                   admitted_units = d.admitted_units + EXCLUDED.admitted_units";
        let Columns { hours, endpoints, keys, figures, admitted, .. } =
            Columns::of(batch.rows.iter());
        let [_, ok, errors, .., units] = figures;
        let add = query(sql, status).bind(hours).bind(endpoints).bind(keys);
        let add = add.bind(ok).bind(errors).bind(units).bind(admitted);
        add.execute(&mut *transaction).await?;
        self.is_committing = true;
        status.count();
        transaction.commit().await?;
        self.is_committing = false;
        Ok(Put::Written)
    }

    async fn usage(
        &mut self,
        status: &Status,
        asked: &UsageQuery,
    ) -> std::result::Result<Found, Fault> {
        let sql = "SELECT hour / $1 * $1, CASE WHEN $2 THEN endpoint ELSE '' END, \
                   CASE WHEN $3 THEN key ELSE '' END, service, CASE WHEN $4 THEN method ELSE '' END, \
                   sum(calls)::bigint, sum(ok)::bigint, sum(errors)::bigint, sum(failed)::bigint, \
                   sum(hits)::bigint, sum(relays)::bigint, sum(hedges)::bigint, \
                   sum(bytes_in)::bigint, sum(bytes_out)::bigint, sum(compute_units)::bigint \
                   FROM plimsoll_usage WHERE hour >= $5 AND hour < $6 \
                   AND ($7::text IS NULL OR endpoint = $7) AND ($8::text IS NULL OR key = $8) \
                   AND ($9::text IS NULL OR service = $9) AND ($10::text IS NULL OR method = $10) \
                   GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 LIMIT $11";
        let UsageQuery { span, by, filter } = asked;
        let rows = query(sql, status).bind(stored(asked.bucket_hours()));
        let rows = rows.bind(by.endpoint).bind(by.key).bind(by.method);
        let rows = rows.bind(stored(span.from)).bind(stored(span.to));
        let rows = rows.bind(filter.endpoint.clone()).bind(filter.key.clone());
        let rows = rows.bind(filter.service.clone()).bind(filter.method.clone());
        let rows = rows.bind(UsageQuery::ROWS_MAX as i64 + 1);
        let rows = rows.fetch_all(&mut self.connection).await?;
        if rows.len() > UsageQuery::ROWS_MAX {
            return Ok(None);
        }
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let subject = Subject {
                hour: number(row, 0)?,
                endpoint: row.try_get(1)?,
                key: row.try_get(2)?,
                service: row.try_get(3)?,
                method: row.try_get(4)?,
            };
            found.push((subject, counts(|place| row.try_get(5 + place))?));
        }
        Ok(Some(found))
    }

    async fn usage_totals(
        &mut self,
        status: &Status,
        endpoints: &[String],
        days: Days,
    ) -> std::result::Result<Vec<Totals>, Fault> {
        let sql = "SELECT endpoint, key, \
                   coalesce(sum(admitted_units) FILTER (WHERE day = $2), 0)::bigint, \
                   sum(admitted_units)::bigint FROM plimsoll_usage_day \
                   WHERE endpoint = ANY ($1) AND day BETWEEN $3 AND $2 \
                   GROUP BY endpoint, key ORDER BY endpoint, key";
        let rows = query(sql, status).bind(endpoints.to_vec()).bind(days.today).bind(days.month);
        let rows = rows.fetch_all(&mut self.connection).await?;
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

    async fn trim_usage(&mut self, status: &Status, before: i64) -> std::result::Result<(), Fault> {
        for sql in [
            "DELETE FROM plimsoll_usage WHERE hour < $1",
            "DELETE FROM plimsoll_usage_writer WHERE hour < $1",
            "DELETE FROM plimsoll_usage_day WHERE day < $1 / 24",
        ] {
            query(sql, status).bind(before).execute(&mut self.connection).await?;
        }
        Ok(())
    }
}

/// Rows as arrays.
#[derive(Default)]
struct Columns {
    hours: Vec<i64>,
    endpoints: Vec<String>,
    keys: Vec<String>,
    services: Vec<String>,
    methods: Vec<String>,
    figures: [Vec<i64>; Counts::COUNT],
    admitted: Vec<i64>,
}

impl Columns {
    fn of<'a>(rows: impl Iterator<Item = &'a (Subject, Counts)>) -> Columns {
        let mut columns = Columns::default();
        for (subject, counts) in rows {
            let Subject { hour, endpoint, key, service, method } = subject.clone();
            columns.hours.push(stored(hour));
            columns.endpoints.push(endpoint);
            columns.keys.push(key);
            columns.services.push(service);
            columns.methods.push(method);
            for (column, figure) in columns.figures.iter_mut().zip(counts.values()) {
                column.push(stored(figure));
            }
            columns.admitted.push(stored(counts.admitted_units));
        }
        columns
    }
}

fn number(row: &PgRow, place: usize) -> sqlx::Result<u64> {
    Ok(row.try_get::<i64, _>(place)?.max(0) as u64)
}
