//! `GET /api/v1/limits`: what endpoints and keys may use, have used and were refused, as this process
//! knows it.

use std::sync::Arc;

use plimsoll_registry::config::show_date;
use serde_json::{Map, Value, json};

use super::{document, keys};
use crate::call::message::Answer;
use crate::call::worker::{Shared, State};
use crate::limits::calendar::Span;
use crate::limits::ledger::Ledger;
use crate::limits::{Allowance, Bucket};
use crate::observe::stats::{Limited, WrongKey};

/// Answers with the limits of all endpoints and keys that have any or were refused anything, or of
/// `endpoint=ID`.
pub(super) fn answer<'a>(shared: &Shared, state: &State, query: Option<&str>) -> Answer<'a> {
    let endpoints = match keys::asked(state, query) {
        Ok(endpoints) => endpoints,
        Err(refusal) => return *refusal,
    };
    let mut rows = Vec::new();
    for (id, endpoint) in endpoints {
        let mut ledgers: Vec<_> = endpoint.access.ledgers().collect();
        ledgers.sort_by_key(|(key, _, _)| *key);
        for (key, allowance, ledger) in ledgers {
            let refused = refused(ledger);
            if allowance.is_some() || !refused.is_empty() {
                rows.push(json!({
                    "endpoint": id,
                    "key": key,
                    "rates": allowance.map(|one| rates(shared, one)).unwrap_or_default(),
                    "quotas": allowance.map(|one| quotas(shared, one, ledger)).unwrap_or_default(),
                    "refused": refused,
                }));
            }
        }
    }
    document(200, &json!({ "limits": rows }))
}

/// The rates, and whether each is used up at this moment.
fn rates(shared: &Shared, allowance: &Allowance) -> Vec<Value> {
    let now = shared.time.now();
    let rate = |bucket: &Arc<Bucket>| {
        json!({
            "of": bucket.unit.words(),
            "limit_per_second": bucket.rate,
            "at_limit": bucket.is_at_limit(now, &shared.limits),
        })
    };
    allowance.rates().map(rate).collect()
}

fn quotas(shared: &Shared, allowance: &Allowance, ledger: &Ledger) -> Vec<Value> {
    let today = shared.limits.calendar.today();
    let quota = |span: Span| {
        let limit = allowance.quota.limits[span as usize]?;
        let used = ledger.used(span, today);
        Some(json!({
            "quota": span.word(),
            "limit": limit,
            "used": used,
            "left": limit.saturating_sub(used),
            "until": show_date(today.next(span)),
        }))
    };
    Span::ALL.into_iter().filter_map(quota).collect()
}

/// What was refused since the start, by reason.
fn refused(ledger: &Ledger) -> Map<String, Value> {
    let names = Limited::NAMES.into_iter().chain(WrongKey::NAMES);
    let counts = names.zip(ledger.refused.counts()).filter(|(_, count)| *count > 0);
    counts.map(|(name, count)| (name.to_owned(), count.into())).collect()
}
