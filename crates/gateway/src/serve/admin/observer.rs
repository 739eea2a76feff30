//! Observes the gateway once a second, and turns what differs into events.
//!
//! Nothing is reported from where calls are handled, so that events cost calls nothing; what happens
//! and is over within a second is not seen. While the admin API is off, nothing is observed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::call::worker::Shared;
use crate::error::ErrorKind;
use crate::heads::Served;
use crate::observe::stats::SHED;
use crate::payload::Held;
use crate::permit::{Purpose, Share};

const INTERVAL: Duration = Duration::from_secs(1);

/// What is observed. Keys are what an event is about.
#[derive(Clone, Debug, Default, PartialEq)]
struct Observed {
    /// By service and upstream: whether it is in rotation, or why not.
    upstreams: BTreeMap<(String, String), Option<&'static str>>,
    /// By service: the served heads.
    heads: BTreeMap<String, [Option<u64>; 3]>,
    /// Whether the database can be used, and the sequence number of the entries in use.
    registry: (&'static str, u64, u64),
    is_rejected: bool,
    /// By reason: calls that were shed.
    shed: BTreeMap<&'static str, u64>,
}

/// Observes until it is cancelled.
pub(crate) async fn observe(shared: Arc<Shared>) {
    let mut before = None;
    // Whether there was no memory for the last description.
    let mut is_shed = false;
    let mut tokens = Vec::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let now = shared.state().settings.admin_tokens.clone();
        if now != tokens {
            tokens = now;
            shared.events.wake();
        }
        if tokens.is_empty() {
            continue;
        }
        let now = Observed::of(&shared);
        if let Some(before) = &before {
            now.differences(before, |name, data| shared.events.add(name, data.to_string()));
        }
        if before.as_ref() != Some(&now) || is_shed {
            let state = held(&shared, now.show());
            is_shed = state.is_none();
            shared.events.describe(state);
            before = Some(now);
        }
    }
}

/// A text that is charged for until its last reader has dropped it; `None` if memory is used up.
fn held(shared: &Shared, text: String) -> Option<Bytes> {
    let mut share = Share::new(&shared.capacity, Purpose::Long);
    share.add(text.len() as u64).ok()?;
    Some(Held { bytes: text.into_bytes(), share: Some(share) }.into_bytes())
}

/// The present state, as an event without an id.
pub(super) fn state(shared: &Shared) -> Option<Bytes> {
    held(shared, Observed::of(shared).show())
}

impl Observed {
    fn of(shared: &Shared) -> Observed {
        let state = shared.state();
        let now = shared.time.now();
        let report = shared.database();
        let mut observed = Observed {
            registry: (report.contact.name(), report.sequence, shared.reloaded_at().unix_ns),
            is_rejected: shared.is_config_rejected(),
            ..Observed::default()
        };
        for service in state.routing.services() {
            let id = &service.model.id;
            for route in &service.routes {
                let key = (id.clone(), route.upstream.model.id.clone());
                observed.upstreams.insert(key, route.why_excluded(now).map(|why| why.word()));
            }
            if let Some(heads) = &service.heads {
                let Served { latest, safe, finalized } = heads.board.served();
                observed.heads.insert(id.clone(), [latest, safe, finalized]);
            }
            for (place, kind) in SHED.into_iter().enumerate() {
                let count = service.calls.sum(|calls| calls.shed[place].get());
                *observed.shed.entry(kind.row().name).or_default() += count;
            }
        }
        let full = ErrorKind::TooManyConnections;
        let count = shared.counts.sum(|counts| counts.refused[full as usize].get());
        observed.shed.insert(full.row().name, count);
        observed
    }

    /// The event `state`.
    fn show(&self) -> String {
        let upstreams: Vec<Value> =
            self.upstreams.iter().map(|(key, why)| upstream(key, *why)).collect();
        let heads: Vec<Value> = self.heads.iter().map(|(id, served)| head(id, served)).collect();
        let all = json!({ "upstreams": upstreams, "heads": heads, "registry": self.registry() });
        format!("event: state\ndata: {all}\n\n")
    }

    fn registry(&self) -> Value {
        let (database, sequence, _) = self.registry;
        json!({ "database": database, "sequence": sequence, "config_rejected": self.is_rejected })
    }

    fn differences(&self, before: &Observed, mut report: impl FnMut(&'static str, Value)) {
        if (self.registry, self.is_rejected) != (before.registry, before.is_rejected) {
            report("registry", self.registry());
        }
        for (key, why) in &self.upstreams {
            if before.upstreams.get(key) != Some(why) {
                report("upstream", upstream(key, *why));
            }
        }
        for (service, id) in before.upstreams.keys() {
            if !self.upstreams.contains_key(&(service.clone(), id.clone())) {
                let gone = json!({ "service": service, "upstream": id, "state": "removed" });
                report("upstream", gone);
            }
        }
        for (id, served) in &self.heads {
            if before.heads.get(id) != Some(served) {
                report("head", head(id, served));
            }
        }
        for (reason, count) in &self.shed {
            let more = count - before.shed.get(reason).copied().unwrap_or_default().min(*count);
            if more > 0 {
                report("shed", json!({ "reason": reason, "calls": more }));
            }
        }
    }
}

fn upstream((service, id): &(String, String), why: Option<&'static str>) -> Value {
    match why {
        None => json!({ "service": service, "upstream": id, "state": "in rotation" }),
        Some(why) => {
            json!({ "service": service, "upstream": id, "state": "excluded", "reason": why })
        }
    }
}

fn head(service: &str, [latest, safe, finalized]: &[Option<u64>; 3]) -> Value {
    json!({ "service": service, "latest": latest, "safe": safe, "finalized": finalized })
}
