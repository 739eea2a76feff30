//! `GET /api/v1/keys`: the keys of the endpoints as this process knows them, and when each was last used.
//!
//! Entries and their keys are in the registry; when a key was used is in memory.

use plimsoll_measure::WallClock;
use plimsoll_registry::config::show_date;
use serde_json::{Value, json};

use super::{document, error};
use crate::call::message::Answer;
use crate::call::routing::{Endpoint, Key};
use crate::call::worker::{Shared, State};
use crate::http1::unescaped;

/// Answers with the keys of all endpoints, or of `endpoint=ID`.
pub(super) fn answer<'a>(shared: &Shared, state: &State, query: Option<&str>) -> Answer<'a> {
    let endpoints = match asked(state, query) {
        Ok(endpoints) => endpoints,
        Err(refusal) => return *refusal,
    };
    let keys = endpoints.into_iter().flat_map(|(id, endpoint)| {
        let keys = endpoint.access.keys().into_iter();
        keys.map(move |key| shown(shared, id, key))
    });
    document(200, &json!({ "keys": keys.collect::<Vec<_>>() }))
}

/// The endpoints that a query asks for, sorted by id: all, or `endpoint=ID`.
///
/// # Errors
/// The answer to a query that is not valid.
pub(super) fn asked<'s, 'a>(
    state: &'s State,
    query: Option<&str>,
) -> Result<Vec<(&'s str, &'s Endpoint)>, Box<Answer<'a>>> {
    let refused = |message, hint| Err(Box::new(error(400, message, hint)));
    let mut only = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("endpoint", id)) if only.is_none() => only = Some(unescaped(id)),
            Some(("endpoint", _)) => return refused("the parameter endpoint is given twice", ""),
            _ => return refused("unknown parameter", "supported is endpoint"),
        }
    }
    let mut endpoints = state.routing.sorted_endpoints();
    endpoints.retain(|(id, _)| only.as_deref().is_none_or(|only| only == *id));
    Ok(endpoints)
}

fn shown(shared: &Shared, endpoint: &str, key: &Key) -> Value {
    let used = key.account.used_at().map(|at| {
        // To the second, as it is recorded.
        let secs = (shared.started.unix_ns + at.0) / 1_000_000_000;
        show_date(WallClock { unix_ns: secs * 1_000_000_000 })
    });
    json!({
        "endpoint": endpoint,
        "name": key.model.name,
        "fingerprint": key.model.fingerprint(),
        "expires": key.model.expires.map(show_date),
        "expired": key.has_expired(|| shared.limits.calendar.now()),
        "last_used": used,
    })
}
