//! Exchanges that stay open, in `summary.json`.

use super::{Times, times};
use crate::summary::Group;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub(super) struct MessagesFile {
    #[serde(flatten)]
    counts: BTreeMap<&'static str, u64>,
    #[serde(flatten)]
    times: BTreeMap<&'static str, Times>,
}

impl MessagesFile {
    /// `None` if nothing of the group stays open.
    pub(super) fn of(group: &Group) -> Option<MessagesFile> {
        let messages = group.stats.messages.as_deref()?;
        let counts = messages.counts().into_iter().map(|(n, name)| (name, n));
        let known = messages.histograms().into_iter();
        let known = known.filter_map(|(own, name)| Some((name, times(own)?)));
        Some(MessagesFile { counts: counts.collect(), times: known.collect() })
    }
}
