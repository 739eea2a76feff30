//! How advice names settings: as flags, if the run was started with flags alone, and otherwise as keys of
//! the plan.

use super::Case;
use plimsoll_plan::Plan;

/// The place of a setting in a text, the key, and the flag.
const SETTINGS: [(&str, &str, &str); 16] = [
    ("{connections.max}", "connections.max", "--connections"),
    (
        "{http2.connections}",
        "connections.http2.connections",
        "connections.http2.connections in a plan file",
    ),
    ("{http2.streams}", "connections.http2.streams", "connections.http2.streams in a plan file"),
    (
        "{websocket.connections}",
        "connections.websocket.connections",
        "connections.websocket.connections in a plan file",
    ),
    ("{use HTTP/2}", "set protocol = \"http2\"", "use --protocol http2"),
    ("{use HTTP/1.1}", "set protocol = \"http1\"", "use --protocol http1"),
    ("{max_in_flight}", "max_in_flight", "max_in_flight in a plan file"),
    ("{connections.source}", "connections.source", "connections.source in a plan file"),
    ("{reuse connections}", "set connections.reuse = true", "remove --no-keepalive"),
    ("{do not reuse connections}", "set connections.reuse = false", "add --no-keepalive"),
    ("{grace}", "grace", "grace in a plan file"),
    ("{max_body}", "max_body", "--max-body"),
    ("{timeout}", "timeout", "--timeout"),
    ("{redirects}", "redirects", "--redirects"),
    ("{follow redirects}", "set redirects = N", "add --redirects N"),
    ("{users}", "users", "--users"),
];

/// A text with its settings named as the user of this plan gives them, and `{the timeout}` replaced.
pub(crate) fn advise(plan: &Plan, text: &str) -> String {
    let text = text.replace("{the timeout}", &plan.timeout.to_string());
    SETTINGS.iter().fold(text, |text, (place, key, flag)| {
        text.replace(place, if plan.from_flags { flag } else { key })
    })
}

impl Case<'_> {
    /// See [`advise`].
    pub(super) fn advise(&self, text: &str) -> String {
        advise(self.plan, text)
    }

    /// What gives the generator more CPU: more workers are of no use beyond one per CPU.
    pub(super) fn more_cpu(&self) -> String {
        let (workers, cpus) = (self.facts.workers, self.facts.cpus);
        if workers < cpus {
            format!("use more workers (--workers {cpus}) or lower the rate")
        } else {
            "lower the rate, or use a host with more CPUs".into()
        }
    }
}
