//! Usage in the database: batches are added, sums are asked for, what is old is removed.
//!
//! # Tables
//! `usage` has a row for each hour, endpoint, key, service and method; `usage_day` has the charged calls
//! and compute units, and what quotas were charged, of each endpoint, key and day, so that quotas can be
//! checked every second without reading a month of hours; `usage_writer` has the number of each writer's last batch
//! ([`crate::usage`] explains why).

use plimsoll_measure::WallClock;

use super::{Dialect, Store, StoreError, StoreErrorKind};
use crate::usage::{Batch, Counts, HOUR_NS, Put, Subject, Totals, UsageQuery, month_start};

/// Rows of an answer, or `None` if there are too many.
pub(super) type Found = Option<Vec<(Subject, Counts)>>;

/// The day of an hour, and the first day of its month, in days since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Days {
    pub(super) today: i64,
    pub(super) month: i64,
}

impl Store {
    /// Writes a batch in one transaction, unless it was written before.
    ///
    /// # Errors
    /// The database cannot be used. Nothing was written if it is unreachable; in other cases that is not
    /// known. The batch can be written again in any case.
    pub async fn put_usage(&self, batch: &Batch) -> Result<Put, StoreError> {
        let hour = (WallClock::now().unix_ns / HOUR_NS) as i64;
        match &self.dialect {
            Dialect::Sqlite(sqlite) => sqlite.put_usage(batch, hour).await,
            Dialect::Postgres(postgres) => postgres.put_usage(batch, hour).await,
        }
        .map_err(|kind| self.error(kind))
    }

    /// The sums that a question asks for, sorted. Services are always distinguished, and months are not
    /// added up ([`crate::usage::fold`] does both).
    ///
    /// # Errors
    /// The database cannot be used, or there are more than [`UsageQuery::ROWS_MAX`] rows.
    pub async fn usage(&self, query: &UsageQuery) -> Result<Vec<(Subject, Counts)>, StoreError> {
        let found = match &self.dialect {
            Dialect::Sqlite(sqlite) => sqlite.usage(query).await,
            Dialect::Postgres(postgres) => postgres.usage(query).await,
        };
        let too_many = || StoreErrorKind::Database {
            message: format!("the answer has more than {} rows", UsageQuery::ROWS_MAX),
            hint: "ask for less: a shorter time, one service or endpoint, or fewer things to group by",
        };
        found.and_then(|rows| rows.ok_or_else(too_many)).map_err(|kind| self.error(kind))
    }

    /// What these endpoints were admitted for in the day and the month of an hour, by key; nothing for those
    /// without usage in the month.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn usage_totals(
        &self,
        endpoints: &[String],
        hour: u64,
    ) -> Result<Vec<Totals>, StoreError> {
        let days = Days { today: (hour / 24) as i64, month: (month_start(hour) / 24) as i64 };
        match &self.dialect {
            Dialect::Sqlite(sqlite) => sqlite.usage_totals(endpoints, days).await,
            Dialect::Postgres(postgres) => postgres.usage_totals(endpoints, days).await,
        }
        .map_err(|kind| self.error(kind))
    }

    /// Removes what was used before an hour, and writers that have not written since.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn trim_usage(&self, before: u64) -> Result<(), StoreError> {
        match &self.dialect {
            Dialect::Sqlite(sqlite) => sqlite.trim_usage(before as i64).await,
            Dialect::Postgres(postgres) => postgres.trim_usage(before as i64).await,
        }
        .map_err(|kind| self.error(kind))
    }
}

/// A number as both dialects store it.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Figures of a row, in the order of [`Counts::NAMES`].
pub(super) fn counts(
    mut value: impl FnMut(usize) -> Result<i64, sqlx::Error>,
) -> Result<Counts, sqlx::Error> {
    let mut values = [0; Counts::COUNT];
    for (place, number) in values.iter_mut().enumerate() {
        *number = value(place)?.max(0) as u64;
    }
    Ok(Counts::of(values))
}
