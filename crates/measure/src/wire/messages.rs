//! Serialized counts of exchanges that stay open: counts and histograms by name.

use super::{Ignored, decode, encode};
use crate::snapshot::MessageCounts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Default, Serialize, Deserialize)]
pub(super) struct MessagesLine {
    counts: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    times: BTreeMap<String, String>,
}

impl MessagesLine {
    pub(super) fn from(messages: &MessageCounts) -> MessagesLine {
        let counts = messages.counts().into_iter().filter(|(n, _)| *n > 0);
        let times = messages.histograms().into_iter();
        MessagesLine {
            counts: counts.map(|(n, name)| (name.into(), n)).collect(),
            times: times.filter_map(|(own, name)| Some((name.into(), encode(own)?))).collect(),
        }
    }

    pub(super) fn into_counts(mut self, ignored: &mut Ignored) -> Result<MessageCounts, String> {
        let mut messages = MessageCounts::default();
        for (own, name) in messages.counts_mut() {
            *own = self.counts.remove(name).unwrap_or(0);
        }
        for (own, name) in messages.histograms_mut() {
            *own = decode(self.times.remove(name))?;
        }
        self.counts.keys().chain(self.times.keys()).for_each(|own| ignored.field("messages", own));
        Ok(messages)
    }
}
