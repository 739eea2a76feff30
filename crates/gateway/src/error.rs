//! What the gateway itself answers instead of a result: one table of its errors.
//!
//! Each error has a closed kind, and its row says code, HTTP status, whether trying again may help
//! and whose fault it is. The customers' face answers by the table; PATH's face wraps the same kinds
//! in PATH's shapes, so that its clients find what they know. What upstreams answer with is not
//! here: see `category`.
//!
//! Codes: JSON-RPC 2.0's own where they fit, EIP-1474's (-32001 not found, -32002 unavailable, -32004
//! not supported, -32005 limit exceeded) for the rest.

use std::borrow::Cow;

use plimsoll_rpc::json;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The caller's: the same call will fail again.
    Caller,
    /// The gateway's, or its operator's.
    Gateway,
    /// An upstream's.
    Upstream,
}

impl Fault {
    /// Every one, in the order of its place.
    pub const ALL: [Fault; 3] = [Fault::Caller, Fault::Gateway, Fault::Upstream];

    /// The word for it in metrics and documents.
    pub fn word(self) -> &'static str {
        match self {
            Fault::Caller => "caller",
            Fault::Gateway => "gateway",
            Fault::Upstream => "upstream",
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which error.
    pub kind: ErrorKind,
    /// Its name in answers (`error.data.kind`), metrics and logs.
    pub name: &'static str,
    /// The JSON-RPC code.
    pub code: i64,
    /// The HTTP status, where the response answers one call.
    pub status: u16,
    /// Whether the same call may succeed when it is tried again.
    pub retryable: bool,
    /// Whose fault it is.
    pub fault: Fault,
    /// When it happens, for the documentation.
    pub when: &'static str,
}

macro_rules! errors {
    ($($kind:ident = $name:literal, $code:literal, $status:literal, $retryable:ident, $fault:ident, $when:literal;)*) => {
        /// The errors of the gateway itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorKind {
            $(#[doc = $when] $kind,)*
        }

        /// Every error, in the order of [`ErrorKind`].
        pub const TABLE: &[Row] = &[
            $(Row {
                kind: ErrorKind::$kind,
                name: $name,
                code: $code,
                status: $status,
                retryable: errors!(@ $retryable),
                fault: Fault::$fault,
                when: $when,
            },)*
        ];
    };
    (@ yes) => { true };
    (@ no) => { false };
}

errors! {
    Parse = "parse_error", -32700, 400, no, Caller, "The body is not JSON, is empty, or nests deeper than 10,000 levels.";
    InvalidRequest = "invalid_request", -32600, 400, no, Caller, "The body is JSON and no call: no object, no \"jsonrpc\": \"2.0\", no method, an id that cannot be one, a member twice, an empty batch.";
    BatchTooLarge = "batch_too_large", -32600, 413, no, Caller, "A batch holds more calls than limits.batch.";
    BodyTooLarge = "body_too_large", -32600, 413, no, Caller, "A body is longer than limits.body.";
    HeadTooLarge = "head_too_large", -32600, 431, no, Caller, "A head is longer than limits.header, or has more than 64 fields.";
    MalformedHttp = "malformed_http", -32600, 400, no, Caller, "The request is not HTTP, or could be read in two ways: two lengths, a length and chunks, a length that is not a number, a control character in a chunk's line, a host that is not valid. The connection is closed.";
    UnsupportedTransfer = "unsupported_transfer", -32600, 501, no, Caller, "A transfer coding other than chunked.";
    UnsupportedEncoding = "unsupported_encoding", -32600, 415, no, Caller, "A content coding other than gzip, or a gzip body that is broken or has more than 1,000 members.";
    TooSlow = "too_slow", -32600, 408, yes, Caller, "A head did not come within limits.header_time, or less than 4 KiB of a body within limits.body_time. The connection is closed.";
    NoSuchPath = "no_such_path", -32600, 404, no, Caller, "A path that the gateway does not serve; among them those of an instance that are never relayed: /admin, /config, /disqualified_endpoints.";
    HttpMethod = "http_method", -32600, 405, no, Caller, "An HTTP method that the path does not take.";
    Loop = "loop", -32600, 508, no, Gateway, "The request has come through this gateway before: an upstream leads back to it.";
    NoWebSocket = "no_websocket", -32601, 501, no, Caller, "A WebSocket upgrade, which is not served.";
    MissingEndpoint = "missing_endpoint", -32600, 400, no, Caller, "/api/gateway without endpoint=ID.";
    UnknownEndpoint = "unknown_endpoint", -32001, 404, no, Caller, "No endpoint has this id, or it is disabled.";
    MissingService = "missing_service", -32600, 400, no, Caller, "/v1 without the header Target-Service-Id.";
    UnknownService = "unknown_service", -32600, 400, no, Caller, "No service has this id, or it is disabled.";
    MethodDenied = "method_denied", -32601, 403, no, Caller, "The endpoint's rules do not permit the method.";
    MethodUnsupported = "method_unsupported", -32601, 404, no, Caller, "No upstream of the service takes the method, or it needs a connection that stays (eth_subscribe).";
    LimitReached = "limit_reached", -32005, 429, yes, Gateway, "Every upstream of the service is at its rate_limit.";
    Busy = "busy", -32005, 503, yes, Gateway, "The process has no room: limits.calls, limits.calls_per_endpoint or limits.memory is reached; or the call waited for its turn on its connection until the timeout.";
    TooManyConnections = "too_many_connections", -32005, 503, yes, Gateway, "More connections than limits.connections, their quota of limits.memory or the process's descriptors allow. The connection is closed.";
    NoUpstream = "no_upstream", -32002, 503, yes, Gateway, "The service has no upstream.";
    WrongChain = "wrong_chain", -32002, 503, yes, Gateway, "Every upstream of the service is on another chain than the service's chain_id says.";
    Unreachable = "unreachable", -32002, 502, yes, Upstream, "No connection to the upstream: refused, no route, no such name, TLS failed. Nothing was sent.";
    TimedOut = "timed_out", -32002, 504, yes, Upstream, "The upstream did not answer within the service's timeout.";
    Broken = "broken", -32002, 502, yes, Upstream, "The upstream broke the connection before or within its answer, or what it sent is not HTTP.";
    UpstreamLimited = "upstream_limited", -32005, 429, yes, Upstream, "The upstream answered with HTTP 429 and no JSON-RPC body. Counted among relays as rate_limited.";
    UpstreamDenied = "upstream_denied", -32002, 502, no, Gateway, "The upstream answered with HTTP 401 or 403 and no JSON-RPC body: it does not accept the gateway's credentials. Counted among relays as unauthorized.";
    BadStatus = "bad_status", -32002, 502, yes, Upstream, "The upstream answered with an HTTP error and no JSON-RPC body.";
    BadAnswer = "bad_answer", -32002, 502, yes, Upstream, "The upstream answered with something that is no answer to the call: not JSON-RPC, another id, neither result nor error.";
    AnswerTooLarge = "answer_too_large", -32005, 502, no, Upstream, "The upstream's answer is longer than limits.answer.";
    Internal = "internal_error", -32603, 500, yes, Gateway, "The gateway failed for reasons of its own.";
}

impl ErrorKind {
    /// Its row.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
}

/// An error, with words for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) kind: ErrorKind,
    pub(crate) message: Cow<'static, str>,
    /// The JSON-RPC code, where it is not the table's.
    pub(crate) code: Option<i64>,
    /// When to try again, where an upstream said so.
    pub(crate) retry_after: Option<RetryAfter>,
}

/// An error that a call was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallError {
    /// The kind of the gateway's error, or the category of the upstream's.
    pub(crate) kind: &'static str,
    /// Its JSON-RPC code.
    pub(crate) code: i64,
}

impl CallError {
    pub(crate) fn of(error: &Error, shape: Shape) -> CallError {
        CallError { kind: error.kind.row().name, code: error.code(shape) }
    }
}

/// In how many seconds a caller may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryAfter(pub(crate) u32);

impl RetryAfter {
    /// What is said where nothing else is known: soon, and not at once.
    pub(crate) const SOON: RetryAfter = RetryAfter(1);
    const MAX: u32 = 3_600;

    /// Reads the value of an upstream's header; a date says no more than that it will take a while.
    pub(crate) fn read(value: &[u8]) -> RetryAfter {
        let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
        number.map_or(RetryAfter::SOON, |secs: u32| RetryAfter(secs.min(RetryAfter::MAX)))
    }

    /// The header that says it.
    pub(crate) fn field(self) -> (Cow<'static, str>, Vec<u8>) {
        ("retry-after".into(), self.0.to_string().into_bytes())
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Error {
        Error { kind, message: message.into(), code: None, retry_after: None }
    }

    /// When to try again, where that is said.
    pub(crate) fn retry_after(&self, shape: Shape) -> Option<RetryAfter> {
        let says = matches!(self.status(shape), 429 | 503);
        says.then(|| self.retry_after.unwrap_or(RetryAfter::SOON))
    }
}

impl From<plimsoll_rpc::request::Refusal> for Error {
    fn from(refusal: plimsoll_rpc::request::Refusal) -> Error {
        use plimsoll_rpc::request::Refusal;
        let kind = match refusal {
            Refusal::Syntax(_) => ErrorKind::Parse,
            Refusal::BatchTooLarge { .. } => ErrorKind::BatchTooLarge,
            _ => ErrorKind::InvalidRequest,
        };
        Error::new(kind, refusal.to_string())
    }
}

/// How the caller wants to hear of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The table's codes and statuses.
    Own,
    /// PATH's.
    Path,
}

/// PATH's code for "no endpoint answered".
const PATH_NO_ANSWER: i64 = -31001;
/// PATH's code for "the backend's answer is bad or empty".
const PATH_BAD_ANSWER: i64 = -31002;

impl Error {
    /// The HTTP status to answer one call with.
    pub(crate) fn status(&self, shape: Shape) -> u16 {
        match (shape, self.code(shape)) {
            (Shape::Own, _) => self.kind.row().status,
            (Shape::Path, _) if self.kind == ErrorKind::UpstreamLimited => 429,
            (Shape::Path, PATH_NO_ANSWER | PATH_BAD_ANSWER) => 500,
            (Shape::Path, _) => self.kind.row().status,
        }
    }

    /// The JSON-RPC code to answer with.
    pub(crate) fn code(&self, shape: Shape) -> i64 {
        use ErrorKind::{AnswerTooLarge, BadAnswer, BadStatus, Broken};
        if let Some(code) = self.code {
            return code;
        }
        let row = self.kind.row();
        match (shape, self.kind) {
            (Shape::Path, BadAnswer | BadStatus | Broken | AnswerTooLarge) => PATH_BAD_ANSWER,
            (Shape::Path, ErrorKind::NoUpstream | ErrorKind::WrongChain | ErrorKind::Internal) => {
                PATH_NO_ANSWER
            }
            (Shape::Path, _) if row.fault == Fault::Upstream => PATH_NO_ANSWER,
            _ => row.code,
        }
    }

    /// Appends the answer to the call with this id.
    pub(crate) fn write(&self, shape: Shape, id: &[u8], out: &mut Vec<u8>) {
        if shape == Shape::Path && self.kind == ErrorKind::MissingService {
            // PATH answers this one before it speaks JSON-RPC.
            out.extend_from_slice(b"{\"code\":400,\"message\":");
            json::write_text(out, &self.message);
            out.push(b'}');
            return;
        }
        let row = self.kind.row();
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        out.extend_from_slice(id);
        out.extend_from_slice(
            format!(",\"error\":{{\"code\":{},\"message\":", self.code(shape)).as_bytes(),
        );
        json::write_text(out, &self.message);
        // PATH writes the truth value as a text.
        let quote = if shape == Shape::Path { "\"" } else { "" };
        let data = format!(
            ",\"data\":{{\"kind\":\"{}\",\"retryable\":{quote}{}{quote}}}}}}}",
            row.name, row.retryable
        );
        out.extend_from_slice(data.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.kind as usize, at, "{}", row.name);
            assert!((400..600).contains(&row.status), "{}", row.name);
            assert!(TABLE[..at].iter().all(|other| other.name != row.name), "{}", row.name);
        }
    }

    #[test]
    fn both_shapes() {
        let check = |kind, shape, id: &str, status, text: &str| {
            let error = Error::new(kind, "so \"it\" is");
            let mut out = Vec::new();
            error.write(shape, id.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
            assert_eq!(error.status(shape), status);
        };
        check(
            ErrorKind::TimedOut,
            Shape::Own,
            "\"a\"",
            504,
            r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32002,"message":"so \"it\" is","data":{"kind":"timed_out","retryable":true}}}"#,
        );
        check(
            ErrorKind::TimedOut,
            Shape::Path,
            "1",
            500,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-31001,"message":"so \"it\" is","data":{"kind":"timed_out","retryable":"true"}}}"#,
        );
        check(
            ErrorKind::MissingService,
            Shape::Path,
            "null",
            400,
            r#"{"code":400,"message":"so \"it\" is"}"#,
        );
    }
}
