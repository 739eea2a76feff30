//! What a call over WebSocket may have: the URL and the headers open a connection that many calls share.

use super::Problem;
use crate::template::Values;
use crate::{Body, Header};
use plimsoll_measure::rng::Key;

/// Headers that open a WebSocket, which the engine sets itself.
const OPENING_HEADERS: [&str; 4] =
    ["connection", "upgrade", "sec-websocket-key", "sec-websocket-version"];
/// The header that asks for compression.
const EXTENSIONS: &str = "sec-websocket-extensions";
const NO_EXTENSIONS: &str = "\"Sec-WebSocket-Extensions\" is set by the engine itself when it opens a WebSocket; compression is the only extension";
/// Why a URL or a header of a WebSocket has no placeholders.
const NO_PLACEHOLDERS: &str = "a placeholder in the URL or a header of a WebSocket, whose connections are shared by many calls";
const ONE_CALL: &str = "a call over WebSocket needs a body that is one JSON-RPC call with an id";
const CALL: &str = "a body looks like {\"jsonrpc\":\"2.0\",\"method\":…,\"params\":[…],\"id\":1}; the id is replaced by one of the connection";
/// The problem of the URL and the headers, of which `placed` placeholders are part.
pub(super) fn check_opening(headers: &[Header], placed: u64) -> Option<Problem> {
    let is_own = |name: &str| OPENING_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own));
    if let Some(Header { name, .. }) = headers.iter().find(|header| is_own(&header.name)) {
        let message = format!("\"{name}\" is set by the engine itself when it opens a WebSocket");
        return Some(Problem(message, "remove the header"));
    }
    if headers.iter().any(|header| header.name.eq_ignore_ascii_case(EXTENSIONS)) {
        let fix = "set compression = true in the target instead of the header";
        return Some(Problem(NO_EXTENSIONS.into(), fix));
    }
    (placed > 0).then(|| Problem(NO_PLACEHOLDERS.into(), ""))
}

/// The problem of a body that is not one JSON-RPC call with an id, once its placeholders are replaced.
pub(super) fn check_call(body: &Body) -> Option<Problem> {
    let mut bytes = Vec::new();
    if let Some(template) = body.template() {
        template.render(Values { seq: 0, key: Key::new(0) }, &mut bytes);
    }
    let is_one = plimsoll_rpc::request::call(&bytes).is_ok_and(|call| call.id.is_some());
    (!is_one).then(|| Problem(ONE_CALL.into(), CALL))
}

#[cfg(test)]
mod tests {
    use crate::{Document, Plan, Variables};
    use std::path::Path;

    fn read(text: &str) -> Plan {
        let document = Document::new("plan.toml", text);
        let plan = Plan::read(&document, &Variables::default(), Path::new("."));
        plan.unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn a_resolved_plan_reads_back() {
        let target = |url: &str| {
            format!(
                "[[target]]\nws = \"{url}\"\nheaders = {{ X-Key = \"k\" }}\n\
                 body = '{{\"jsonrpc\":\"2.0\",\"id\":{{{{seq}}}},\"method\":\"m\"}}'\n"
            )
        };
        let targets = [target("wss://h/a"), target("wss://h/b"), target("wss://h/a")].concat();
        let plan = read(&format!("users = 900\nduration = \"1s\"\n{targets}"));
        let resolved = plan.to_toml();
        assert_eq!(read(&resolved).to_toml(), resolved);
        // Users need nine connections of 100 calls; paths do not share them.
        assert_eq!(plan.connection_limit(&plan.origins()[0]), (9, 100));
        assert_eq!(plan.origin_names(), ["wss://h:443", "wss://h:443 (2)"]);
        assert!(plan.uses_websocket() && !plan.may_use_http2());
        assert!(plan.warnings().is_empty(), "{:?}", plan.warnings());
        assert!(!plan.requests[0].compression && !plan.describe().contains("compression"));
        let headers = plan.requests[0].headers.iter().map(|header| header.name.as_str());
        assert_eq!(headers.collect::<Vec<_>>(), ["X-Key"], "no Content-Type");
    }
}
