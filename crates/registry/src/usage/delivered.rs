//! What this process has delivered of what it admitted, by endpoint and key.
//!
//! # Why
//! A gateway enforces a quota with the database's total and what it has admitted that is not in the total
//! yet. The latter is all it has admitted less what it has delivered, so the delivered part must be known
//! at the very moment at which the total is read. The thread of usage knows it: it has only one thing on
//! its way to the database at a time, and reads totals when no batch is in doubt.
//!
//! # Limits
//! Only the latest day and month of each endpoint and key are kept: what is delivered late, for a day
//! that is over, changes no quota that is in force. Entries of earlier months are removed. At
//! [`DELIVERED_MAX`] entries, others are not tracked and count twice in their quotas, which then refuse
//! too early rather than too late.

use std::collections::BTreeMap;

use super::{Batch, month_start};

/// Endpoints and keys that are tracked: some 20 MB.
pub const DELIVERED_MAX: usize = 100_000;

/// Units of a day and of a month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveredUnits {
    /// Admitted units of the day that were delivered.
    pub day: u64,
    /// Admitted units of the month that were delivered.
    pub month: u64,
}

/// The latest periods of an endpoint's key: each its number and its units.
#[derive(Debug, Default)]
struct Latest {
    day: (u64, u64),
    month: (u64, u64),
}

/// What this process has delivered.
#[derive(Debug, Default)]
pub struct Delivered {
    by_key: BTreeMap<(String, String), Latest>,
    /// Additions that were not tracked.
    untracked: u64,
}

impl Delivered {
    /// Adds a batch that the database has.
    pub fn add(&mut self, batch: &Batch) {
        for (subject, counts) in &batch.rows {
            let units = counts.admitted_units;
            if units == 0 || subject.endpoint.is_empty() {
                continue;
            }
            let name = (subject.endpoint.clone(), subject.key.clone());
            if self.by_key.len() >= DELIVERED_MAX && !self.by_key.contains_key(&name) {
                self.untracked += 1;
                continue;
            }
            let latest = self.by_key.entry(name).or_default();
            add(&mut latest.day, subject.hour / 24, units);
            add(&mut latest.month, month_start(subject.hour), units);
        }
    }

    /// What was delivered of the day and the month of an hour, for an endpoint's key.
    pub fn units(&self, endpoint: &str, key: &str, hour: u64) -> DeliveredUnits {
        let Some(latest) = self.by_key.get(&(endpoint.to_owned(), key.to_owned())) else {
            return DeliveredUnits::default();
        };
        let of = |(number, units): (u64, u64), asked| if number == asked { units } else { 0 };
        DeliveredUnits {
            day: of(latest.day, hour / 24),
            month: of(latest.month, month_start(hour)),
        }
    }

    /// The keys of an endpoint that have delivered anything.
    pub fn keys<'a>(&'a self, endpoint: &'a str) -> impl Iterator<Item = &'a str> {
        let from = (endpoint.to_owned(), String::new());
        let all = self.by_key.range(from..).map(|(name, _)| name);
        all.take_while(move |(of, _)| of == endpoint).map(|(_, key)| key.as_str())
    }

    /// Removes what belongs to months before that of an hour.
    pub fn forget_before(&mut self, hour: u64) {
        let month = month_start(hour);
        self.by_key.retain(|_, latest| latest.month.0 >= month);
    }

    /// Additions that were not tracked, since this was last asked.
    pub fn take_untracked(&mut self) -> u64 {
        std::mem::take(&mut self.untracked)
    }
}

fn add(latest: &mut (u64, u64), number: u64, units: u64) {
    if number > latest.0 {
        *latest = (number, 0);
    }
    if number == latest.0 {
        latest.1 = latest.1.saturating_add(units);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Counts, Subject};
    use super::*;

    fn batch(rows: &[(u64, &str, &str, u64)]) -> Batch {
        let row = |(hour, endpoint, key, admitted_units): &(u64, &str, &str, u64)| {
            let (endpoint, key) = ((*endpoint).to_string(), (*key).to_string());
            let subject = Subject { hour: *hour, endpoint, key, ..Subject::default() };
            (subject, Counts { admitted_units: *admitted_units, ..Counts::default() })
        };
        Batch { writer: "w".into(), sequence: 1, rows: rows.iter().map(row).collect() }
    }

    /// The first hour of a month.
    const HOUR: u64 = 498_192;

    #[test]
    fn the_latest_day_and_month_count() {
        let mut delivered = Delivered::default();
        delivered.add(&batch(&[
            (HOUR, "e", "", 5),
            (HOUR + 1, "e", "k", 7),
            (HOUR, "f", "", 1),
            (HOUR, "", "", 9),
        ]));
        let units = |delivered: &Delivered, key: &str, hour| {
            let DeliveredUnits { day, month } = delivered.units("e", key, hour);
            (day, month)
        };
        assert_eq!((units(&delivered, "", HOUR), units(&delivered, "k", HOUR)), ((5, 5), (7, 7)));
        assert_eq!(delivered.keys("e").collect::<Vec<_>>(), ["", "k"]);
        // The next day, and a late addition to the first.
        delivered.add(&batch(&[(HOUR + 24, "e", "", 2)]));
        delivered.add(&batch(&[(HOUR + 23, "e", "", 3)]));
        assert_eq!(units(&delivered, "", HOUR + 24), (2, 10));
        assert_eq!(units(&delivered, "k", HOUR + 24), (0, 7));
        // The next month, and one that has nothing in it.
        delivered.add(&batch(&[(HOUR + 31 * 24, "e", "", 4)]));
        assert_eq!(units(&delivered, "", HOUR + 31 * 24), (4, 4));
        delivered.forget_before(HOUR + 31 * 24);
        assert_eq!(delivered.keys("e").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn what_is_tracked_is_bounded_and_counted() {
        let mut delivered = Delivered::default();
        let names: Vec<String> = (0..DELIVERED_MAX + 3).map(|n| format!("e{n:06}")).collect();
        let rows: Vec<_> = names.iter().map(|name| (HOUR, name.as_str(), "", 1)).collect();
        delivered.add(&batch(&rows));
        assert_eq!((delivered.by_key.len(), delivered.take_untracked()), (DELIVERED_MAX, 3));
        assert_eq!(delivered.take_untracked(), 0);
        assert_eq!(delivered.units(&names[0], "", HOUR).day, 1);
    }
}
