//! Metrics by endpoint: what was refused, and how much of the quotas is used.

use std::collections::BTreeMap;

use super::{Page, QUOTA_USED, QUOTAS_STALE, QUOTAS_USED_UP, REFUSED_CUSTOMERS};
use crate::limits::calendar::Span;
use crate::limits::refused::Refused;
use crate::observe::stats::{Limited, WrongKey};

/// The figures of endpoints.
#[derive(Default)]
pub(crate) struct Customers {
    /// By masked id.
    pub(crate) refused: BTreeMap<String, [u64; Refused::REASONS]>,
    /// By masked id, name of the key and span.
    pub(crate) used: BTreeMap<(String, String, &'static str), f64>,
    /// By span.
    pub(crate) used_up: [u64; 2],
    /// `None`: there is no database.
    pub(crate) is_stale: Option<bool>,
}

impl Page {
    pub(super) fn customers(&mut self, customers: &Customers) {
        let Customers { refused, used, used_up, is_stale } = customers;
        self.head(REFUSED_CUSTOMERS);
        let reasons = || Limited::NAMES.into_iter().chain(WrongKey::NAMES);
        for (endpoint, counts) in refused {
            for (reason, count) in reasons().zip(counts).filter(|(_, count)| **count > 0) {
                let labels = [("endpoint", endpoint.as_str()), ("reason", reason)];
                self.sample(REFUSED_CUSTOMERS, "", &labels, count);
            }
        }
        self.head(QUOTA_USED);
        for ((endpoint, key, quota), ratio) in used {
            let labels = [("endpoint", endpoint.as_str()), ("key", key), ("quota", quota)];
            self.sample(QUOTA_USED, "", &labels, ratio);
        }
        self.head(QUOTAS_USED_UP);
        for span in Span::ALL {
            self.sample(QUOTAS_USED_UP, "", &[("quota", span.word())], used_up[span as usize]);
        }
        if let Some(is_stale) = is_stale {
            self.one(QUOTAS_STALE, u8::from(*is_stale));
        }
    }
}
