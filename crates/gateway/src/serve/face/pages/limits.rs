//! How rates and quotas are enforced at present, for `/ready?detailed=true`.

use plimsoll_measure::Nanos;
use serde_json::{Map, Value, json};

use crate::call::worker::Shared;

/// Writes `,"limits":{…}`.
pub(super) fn write(shared: &Shared, now: Nanos, body: &mut Vec<u8>) {
    let limits = json!({ "rates": rates(shared, now), "quotas": quotas(shared) });
    body.extend_from_slice(format!(",\"limits\":{limits}").as_bytes());
}

fn rates(shared: &Shared, now: Nanos) -> Value {
    let Some(leases) = shared.limits.leases() else {
        return json!({ "state": "local", "reason": "limits are not shared" });
    };
    let mut state = Map::new();
    let is_local = leases.is_local();
    state.insert("state".into(), if is_local { "local" } else { "shared" }.into());
    state.insert("replicas".into(), leases.replicas().into());
    let since = leases.changed_at().map(|at| (now - at).0 / 1_000_000_000);
    if is_local {
        let reason = match since {
            Some(secs) => format!("Redis has not answered for {secs} s"),
            None => "Redis has not answered since the start".into(),
        };
        state.insert("reason".into(), reason.into());
    }
    state.insert("for_s".into(), since.map_or(Value::Null, Value::from));
    Value::Object(state)
}

fn quotas(shared: &Shared) -> Value {
    if shared.host.usage.is_none() {
        return json!({ "totals": "none", "reason": "there is no database" });
    }
    let (read_at, trouble) = shared.limits.totals.report();
    let read_at = read_at.map(|at| at.rfc3339());
    match trouble {
        _ if shared.limits.totals.is_pending() => json!({ "totals": "pending" }),
        None => json!({ "totals": "read", "read_at": read_at }),
        Some(why) => json!({ "totals": "stale", "read_at": read_at, "reason": why }),
    }
}
