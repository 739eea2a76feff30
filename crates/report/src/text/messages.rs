//! The tables of exchanges that stay open: how many, what arrived on them, and its times; absent if there
//! are none.

use super::table::{Column, Notes, Row, Section, Shape, Table};
use super::width::clean;
use super::{Extent, TIMES, times};
use crate::summary::{Group, Summary};
use plimsoll_measure::MessageCounts;
use plimsoll_measure::units::grouped;

const MESSAGES: Shape = Shape {
    name: 18,
    columns: &[
        Column::figures("opened", 9),
        Column::figures("dropped", 9),
        Column::figures("messages", 11),
        Column::figures("missing", 9),
        Column::figures("repeated", 10),
        Column::figures("late", 8),
        Column::figures("replaced", 10),
        Column::figures("silences", 10),
    ],
    leaving: &["replaced", "late", "repeated"],
    notes: Notes::Beneath,
};

impl Summary {
    pub(super) fn message_tables(&self, extent: Extent) -> Vec<Table> {
        let Some(all) = &self.all.stats.messages else { return Vec::new() };
        let own: Vec<(&Group, &MessageCounts)> = self
            .targets
            .iter()
            .filter_map(|(group, _)| Some((group, group.stats.messages.as_deref()?)))
            .collect();
        let rows = own.iter().take(extent.rows).map(|(group, messages)| row(&group.name, messages));
        let counts = Table {
            shape: &MESSAGES,
            sections: vec![Section {
                head: "stays open".into(),
                rows: rows.collect(),
                more: extent.more(own.len(), [""; 2]),
            }],
        };
        let named = [
            ("opening", &all.opening),
            ("first message", &all.first),
            ("interval", &all.interval),
            ("lag", &all.lag),
            ("spread", &all.spread),
            ("pong", &all.pong),
        ];
        let rows: Vec<Row> = named
            .into_iter()
            .filter(|(_, histogram)| histogram.count() > 0)
            .map(|(name, histogram)| times(name, histogram))
            .collect();
        let spans = (!rows.is_empty()).then(|| Table::of(&TIMES, "messages".into(), rows));
        [counts].into_iter().chain(spans).collect()
    }
}

fn row(name: &str, messages: &MessageCounts) -> Row {
    let counts = [
        messages.opened,
        messages.dropped,
        messages.received,
        messages.gaps,
        messages.duplicates,
        messages.reordered,
        messages.replaced,
        messages.silences,
    ];
    let mut notes = Vec::new();
    for (n, what) in [
        (messages.reopened, "opened again after an end that came too early"),
        (messages.unmatched, "messages that belong to no subscription"),
        (messages.ahead, "messages with a timestamp in the future, by this host's clock"),
    ] {
        if n > 0 {
            notes.push(format!("{} {what}", grouped(n)));
        }
    }
    Row::new(clean(name), counts.map(grouped)).noted(notes.join("; "))
}
