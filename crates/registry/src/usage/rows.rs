//! Counts by subject, merged and bounded.

use std::collections::BTreeMap;

use super::{Counts, OTHER, Subject};

/// Rows in memory that are kept apart: some 20 MB. A gateway has one for each hour, endpoint, key,
/// service and method that was used, and hands them on every half second, so that only a long outage of
/// the database together with a full disk reaches this.
pub const ROWS_MAX: usize = 50_000;

/// Counts by subject, in order. The order is that in which rows are locked in the database, so that
/// writers cannot wait for each other in a circle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    rows: BTreeMap<Subject, Counts>,
    /// Additions that were not kept apart as asked for.
    folded: u64,
}

impl Rows {
    /// Adds counts. If there are too many rows, to the row of other methods, or of no endpoint.
    pub fn add(&mut self, mut subject: Subject, counts: &Counts) {
        if self.rows.len() >= ROWS_MAX && !self.rows.contains_key(&subject) {
            self.folded += 1;
            subject.method = OTHER.into();
            if self.rows.len() >= 2 * ROWS_MAX && !self.rows.contains_key(&subject) {
                subject.endpoint.clear();
                subject.key.clear();
            }
        }
        self.rows.entry(subject).or_default().add(counts);
    }

    /// Adds others.
    pub fn append(&mut self, others: Rows) {
        self.folded += others.folded;
        for (subject, counts) in others.rows {
            self.add(subject, &counts);
        }
    }

    /// Removes the first rows, at most this many.
    pub(super) fn split_off_first(&mut self, most: usize) -> Rows {
        match self.rows.keys().nth(most).cloned() {
            None => std::mem::take(self),
            Some(next) => {
                let rest = self.rows.split_off(&next);
                Rows { rows: std::mem::replace(&mut self.rows, rest), folded: 0 }
            }
        }
    }

    /// How many additions were not kept apart since this was last asked.
    pub(super) fn take_folded(&mut self) -> u64 {
        std::mem::take(&mut self.folded)
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Subject, &Counts)> {
        self.rows.iter()
    }

    /// The rows, in order.
    pub fn into_vec(self) -> Vec<(Subject, Counts)> {
        self.rows.into_iter().collect()
    }
}

impl FromIterator<(Subject, Counts)> for Rows {
    fn from_iter<I: IntoIterator<Item = (Subject, Counts)>>(rows: I) -> Rows {
        let mut all = Rows::default();
        rows.into_iter().for_each(|(subject, counts)| all.add(subject, &counts));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(hour: u64, endpoint: usize, method: usize) -> Subject {
        Subject {
            hour,
            endpoint: format!("e{endpoint:06}"),
            key: "k".into(),
            service: "eth".into(),
            method: format!("m{method}"),
        }
    }

    #[test]
    fn too_many_rows_are_folded_and_the_totals_stay_right() {
        let one = Counts { calls: 1, compute_units: 3, ..Counts::default() };
        let mut rows = Rows::default();
        let additions = 2 * ROWS_MAX + 5_000;
        for number in 0..additions {
            rows.add(subject(7, number, number), &one);
        }
        assert!(rows.len() <= 2 * ROWS_MAX + 1, "{}", rows.len());
        let calls: u64 = rows.iter().map(|(_, counts)| counts.calls).sum();
        assert_eq!(calls, additions as u64);
        assert_eq!(rows.take_folded(), (additions - ROWS_MAX) as u64);
        assert_eq!(rows.take_folded(), 0);
        let nobody =
            Subject { hour: 7, service: "eth".into(), method: OTHER.into(), ..subject(7, 0, 0) };
        let nobody = Subject { endpoint: String::new(), key: String::new(), ..nobody };
        assert_eq!(rows.rows[&nobody].compute_units, 3 * 5_000);
        // Rows that exist are still added to.
        rows.add(subject(7, 0, 0), &one);
        assert_eq!((rows.rows[&subject(7, 0, 0)].calls, rows.take_folded()), (2, 0));
    }

    #[test]
    fn the_first_rows_are_split_off() {
        let one = Counts { calls: 1, ..Counts::default() };
        let mut rows: Rows = (0..5).map(|n| (subject(n, 0, 0), one)).collect();
        let first = rows.split_off_first(2);
        let hours = |rows: &Rows| rows.iter().map(|(row, _)| row.hour).collect::<Vec<_>>();
        assert_eq!((hours(&first), hours(&rows)), (vec![0, 1], vec![2, 3, 4]));
        assert_eq!(hours(&rows.split_off_first(3)), [2, 3, 4]);
        assert!(rows.is_empty());
    }
}
