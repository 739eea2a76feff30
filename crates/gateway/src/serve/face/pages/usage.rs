//! Where the usage waits that the database has not got yet, in `/ready?detailed=true`.

use serde_json::json;

use crate::call::worker::Shared;

/// Writes `,"usage":{…}`, if usage is recorded.
pub(super) fn write(shared: &Shared, body: &mut Vec<u8>) {
    let Some(inbox) = &shared.host.usage else { return };
    let figures = inbox.figures();
    let mut usage = json!({
        "waits_in": if figures.spool_error.is_empty() { "file" } else { "memory" },
        "spooled_bytes": figures.spooled_bytes,
        "held_rows": figures.held_rows,
    });
    if !figures.spool_error.is_empty() {
        usage["reason"] = figures.spool_error.into();
    }
    body.extend_from_slice(format!(",\"usage\":{usage}").as_bytes());
}
