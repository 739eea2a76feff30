//! Errors that the gateway itself returns, in one table.
//!
//! Each kind has a row with its code, HTTP status, whether a retry may help, and whose fault the
//! error is. The customer API uses the table as it is; the PATH API maps the same kinds to PATH's
//! formats, which its clients expect. Errors returned by upstreams are categorized by
//! `protocol::Category`.
//!
//! Codes are JSON-RPC 2.0's where they fit, otherwise EIP-1474's (-32001 not found, -32002
//! unavailable, -32004 not supported, -32005 limit exceeded).

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use plimsoll_measure::{Nanos, WallClock};
use plimsoll_rpc::json;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The caller's: the same call would fail again.
    Caller,
    /// The gateway's, or its operator's.
    Gateway,
    /// An upstream's.
    Upstream,
}

impl Fault {
    /// All variants, in declaration order.
    pub const ALL: [Fault; 3] = [Fault::Caller, Fault::Gateway, Fault::Upstream];

    /// The name in metrics and documents.
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
    /// The error kind.
    pub kind: ErrorKind,
    /// The name in answers (`error.data.kind`), metrics and logs.
    pub name: &'static str,
    /// The JSON-RPC code.
    pub code: i64,
    /// The HTTP status if the response answers a single call.
    pub status: u16,
    /// Whether the same call may succeed if it is retried.
    pub retryable: bool,
    /// Whose fault it is.
    pub fault: Fault,
    /// When the error occurs, for the documentation.
    pub when: &'static str,
}

macro_rules! errors {
    ($($kind:ident = $name:literal, $code:literal, $status:literal, $retryable:ident, $fault:ident, $when:literal;)*) => {
        /// The gateway's own errors.
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
    Parse = "parse_error", -32700, 400, no, Caller, "The body is empty, is not JSON, or nests deeper than 10,000 levels.";
    InvalidRequest = "invalid_request", -32600, 400, no, Caller, "The body is JSON but not a valid call: not an object, no \"jsonrpc\": \"2.0\", no method, an invalid id, a duplicate member, or an empty batch.";
    BatchTooLarge = "batch_too_large", -32600, 413, no, Caller, "A batch has more calls than limits.batch.";
    BodyTooLarge = "body_too_large", -32600, 413, no, Caller, "The body is longer than limits.body.";
    HeadTooLarge = "head_too_large", -32600, 431, no, Caller, "The request head is longer than limits.header or has more than 64 headers.";
    MalformedHttp = "malformed_http", -32600, 400, no, Caller, "The request is not valid HTTP or is ambiguous: two lengths, both a length and chunks, a non-numeric length, a control character in a chunk line, an invalid host. The connection is closed.";
    UnsupportedTransfer = "unsupported_transfer", -32600, 501, no, Caller, "The request has a transfer coding other than chunked.";
    UnsupportedEncoding = "unsupported_encoding", -32600, 415, no, Caller, "The request has a content coding other than gzip, or its gzip body is corrupt or has more than 1,000 members.";
    TooSlow = "too_slow", -32600, 408, yes, Caller, "The request head did not arrive within limits.header_time, or less than 4 KiB of the body arrived within limits.body_time. The connection is closed.";
    NoSuchPath = "no_such_path", -32600, 404, no, Caller, "The gateway does not serve this path. /admin, /config and /disqualified_endpoints of an instance are never relayed.";
    HttpMethod = "http_method", -32600, 405, no, Caller, "The path does not allow this HTTP method.";
    Loop = "loop", -32600, 508, no, Gateway, "The request has already passed through this gateway, or through more than 8 gateways: an upstream leads back to the gateway.";
    NoWebSocket = "no_websocket", -32601, 501, no, Caller, "The request is a WebSocket upgrade; WebSocket is not supported.";
    MissingEndpoint = "missing_endpoint", -32600, 400, no, Caller, "/api/gateway was called without endpoint=ID.";
    UnknownEndpoint = "unknown_endpoint", -32001, 404, no, Caller, "No endpoint has this id, or it is disabled.";
    MissingService = "missing_service", -32600, 400, no, Caller, "/v1 was called without the Target-Service-Id header.";
    UnknownService = "unknown_service", -32600, 400, no, Caller, "No service has this id, or it is disabled.";
    MissingKey = "missing_key", -32600, 401, no, Caller, "The endpoint has keys, and the request presents none.";
    InvalidKey = "invalid_key", -32600, 401, no, Caller, "The key is unknown, has expired, or is another endpoint's; the answer does not say which.";
    ConflictingKeys = "conflicting_keys", -32600, 400, no, Caller, "The request presents different keys in its path, X-Api-Key and Authorization.";
    OriginDenied = "origin_denied", -32600, 403, no, Caller, "The endpoint's origins do not include that of the calling page, or the request has no Origin.";
    NetworkDenied = "network_denied", -32600, 403, no, Caller, "The endpoint's networks do not include the caller's address.";
    RateLimited = "rate_limited", -32005, 429, yes, Caller, "The rate of the endpoint or of the key is used up. error.data.retry_after and Retry-After say when to retry, in seconds.";
    QuotaExceeded = "quota_exceeded", -32005, 429, yes, Caller, "The daily or monthly quota of the endpoint or of the key is used up. error.data.retry_after and Retry-After say when the next period begins.";
    MethodDenied = "method_denied", -32601, 403, no, Caller, "The endpoint's rules do not permit the method.";
    MethodUnsupported = "method_unsupported", -32601, 404, no, Caller, "No upstream of the service accepts the method, or the method needs a WebSocket (eth_subscribe).";
    LimitReached = "limit_reached", -32005, 429, yes, Gateway, "Every upstream of the service is at its rate_limit.";
    Overloaded = "overloaded", -32005, 503, yes, Gateway, "The upstreams of the service are at their capacity, and the call would have waited too long for its turn. error.data.retry_after and Retry-After say when the queue will have been served.";
    Busy = "busy", -32005, 503, yes, Gateway, "The process is at capacity (limits.calls, limits.calls_per_endpoint or limits.memory), or the call timed out waiting because limits.calls_per_connection calls were already in flight on its connection.";
    TooManyConnections = "too_many_connections", -32005, 503, yes, Gateway, "Another connection would exceed limits.connections, the connections' quota of limits.memory, or the process's file descriptors. The connection is closed.";
    NoUpstream = "no_upstream", -32002, 503, yes, Gateway, "The service has no upstream.";
    WrongChain = "wrong_chain", -32002, 503, yes, Gateway, "Every upstream of the service is on a different chain from the service's chain_id.";
    Behind = "behind", -32002, 503, yes, Upstream, "No upstream has a block that was already served as latest, safe or finalized: after a reorganisation, or because the upstreams that had it are gone.";
    NoAgreement = "no_agreement", -32002, 502, yes, Upstream, "Fewer upstreams than agree requires answered the same.";
    Unreachable = "unreachable", -32002, 502, yes, Upstream, "The connection to the upstream failed: refused, no route, name not found, or a TLS error. Nothing was sent.";
    TimedOut = "timed_out", -32002, 504, yes, Upstream, "The upstream did not answer within the service's timeout.";
    Broken = "broken", -32002, 502, yes, Upstream, "The upstream closed the connection before or during its answer, or its answer is not valid HTTP.";
    UpstreamLimited = "upstream_limited", -32005, 429, yes, Upstream, "The upstream answered with HTTP 429 and no JSON-RPC body. Relay metrics count it as rate_limited.";
    UpstreamDenied = "upstream_denied", -32002, 502, no, Gateway, "The upstream answered with HTTP 401 or 403 and no JSON-RPC body: it does not accept the gateway's credentials. Relay metrics count it as unauthorized.";
    BadStatus = "bad_status", -32002, 502, yes, Upstream, "The upstream answered with an HTTP error and no JSON-RPC body.";
    BadAnswer = "bad_answer", -32002, 502, yes, Upstream, "The upstream's answer does not answer the call: not JSON-RPC, a different id, or neither a result nor an error.";
    AnswerTooLarge = "answer_too_large", -32005, 502, no, Upstream, "The upstream's answer is longer than limits.answer.";
    Internal = "internal_error", -32603, 500, yes, Gateway, "An internal error in the gateway.";
}

impl ErrorKind {
    /// The row of this kind.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
}

/// An error with a message for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) kind: ErrorKind,
    pub(crate) message: Cow<'static, str>,
    /// The JSON-RPC code, if it differs from the table's.
    pub(crate) code: Option<i64>,
    /// When to retry, if the upstream sent Retry-After.
    pub(crate) retry_after: Option<RetryAfter>,
}

/// The error returned for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallError {
    /// The kind of the gateway's error, or the category of the upstream's.
    pub(crate) kind: &'static str,
    /// The JSON-RPC code.
    pub(crate) code: i64,
}

impl CallError {
    pub(crate) fn of(error: &Error, shape: Shape) -> CallError {
        CallError { kind: error.kind.row().name, code: error.code(shape) }
    }
}

/// Seconds after which a caller may retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RetryAfter(pub(crate) u32);

impl RetryAfter {
    /// The default if the upstream gave no number: soon, but not immediately.
    pub(crate) const SOON: RetryAfter = RetryAfter(1);
    pub(crate) const MAX: u32 = 3_600;

    /// Parses an upstream's Retry-After: seconds, or a date. Anything else, and a date in the past,
    /// gives [`RetryAfter::SOON`].
    pub(crate) fn read(value: &[u8], now: WallClock) -> RetryAfter {
        let text = std::str::from_utf8(value).unwrap_or_default().trim();
        let until = |text| {
            let now = UNIX_EPOCH + Duration::from_nanos(now.unix_ns);
            let wait = httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?;
            // Rounded up, so that no caller is early.
            Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
        };
        let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
        let secs = match text.parse::<u64>() {
            Ok(secs) if is_number => Some(secs),
            // Too large for the type.
            Err(_) if is_number => Some(u64::MAX),
            _ => until(text),
        };
        let max = u64::from(RetryAfter::MAX);
        secs.map_or(RetryAfter::SOON, |secs| RetryAfter(secs.min(max) as u32))
    }

    /// A time to wait, rounded up, and at least a second.
    pub(crate) fn of(wait: Nanos) -> RetryAfter {
        let secs = wait.0.div_ceil(1_000_000_000).max(1);
        RetryAfter(u32::try_from(secs).unwrap_or(u32::MAX))
    }

    /// The Retry-After header.
    pub(crate) fn field(self) -> (Cow<'static, str>, Vec<u8>) {
        ("retry-after".into(), self.0.to_string().into_bytes())
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Error {
        Error { kind, message: message.into(), code: None, retry_after: None }
    }

    /// The Retry-After to send, if the status has one.
    pub(crate) fn retry_after(&self, shape: Shape) -> Option<RetryAfter> {
        let has_retry_after = matches!(self.status(shape), 429 | 503);
        has_retry_after.then(|| self.retry_after.unwrap_or(RetryAfter::SOON))
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

/// The format of an error response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The codes and statuses of the table.
    Own,
    /// PATH's format.
    Path,
}

/// PATH's code for "no endpoint answered".
const PATH_NO_ANSWER: i64 = -31001;
/// PATH's code for "the backend's answer is bad or empty".
const PATH_BAD_ANSWER: i64 = -31002;

impl Error {
    /// The HTTP status for a single call.
    pub(crate) fn status(&self, shape: Shape) -> u16 {
        match (shape, self.code(shape)) {
            (Shape::Own, _) => self.kind.row().status,
            (Shape::Path, _) if self.kind == ErrorKind::UpstreamLimited => 429,
            (Shape::Path, PATH_NO_ANSWER | PATH_BAD_ANSWER) => 500,
            (Shape::Path, _) => self.kind.row().status,
        }
    }

    /// The JSON-RPC code of the error.
    pub(crate) fn code(&self, shape: Shape) -> i64 {
        use ErrorKind::{AnswerTooLarge, BadAnswer, BadStatus, Broken, UpstreamDenied};
        if let Some(code) = self.code {
            return code;
        }
        let row = self.kind.row();
        match (shape, self.kind) {
            (Shape::Path, BadAnswer | BadStatus | Broken | AnswerTooLarge | UpstreamDenied) => {
                PATH_BAD_ANSWER
            }
            (Shape::Path, ErrorKind::NoUpstream | ErrorKind::WrongChain | ErrorKind::Internal) => {
                PATH_NO_ANSWER
            }
            (Shape::Path, _) if row.fault == Fault::Upstream => PATH_NO_ANSWER,
            _ => row.code,
        }
    }

    /// Appends the error response for the call with this id.
    pub(crate) fn write(&self, shape: Shape, id: &[u8], out: &mut Vec<u8>) {
        if shape == Shape::Path && self.kind == ErrorKind::MissingService {
            // PATH returns this error before any JSON-RPC handling.
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
        // PATH encodes this boolean as a string.
        let quote = if shape == Shape::Path { "\"" } else { "" };
        use ErrorKind::{Overloaded, QuotaExceeded, RateLimited};
        let says_when = matches!(self.kind, RateLimited | QuotaExceeded | Overloaded);
        let retry_after = match self.retry_after.filter(|_| says_when) {
            Some(RetryAfter(secs)) => format!(",\"retry_after\":{secs}"),
            None => String::new(),
        };
        let data = format!(
            ",\"data\":{{\"kind\":\"{}\",\"retryable\":{quote}{}{quote}{retry_after}}}}}}}",
            row.name, row.retryable
        );
        out.extend_from_slice(data.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_rows_match_the_kinds() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.kind as usize, at, "{}", row.name);
            assert!((400..600).contains(&row.status), "{}", row.name);
            assert!(TABLE[..at].iter().all(|other| other.name != row.name), "{}", row.name);
        }
    }

    #[test]
    fn retry_after_is_in_seconds_or_a_date() {
        // Wed, 21 Oct 2026 07:28:00 GMT, and half a second
        let now = WallClock { unix_ns: 1_792_567_680_500_000_000 };
        let check = |value: &str, secs: u32| {
            assert_eq!(RetryAfter::read(value.as_bytes(), now), RetryAfter(secs), "{value}");
        };
        check("7", 7);
        check(" 0 ", 0);
        check("99999999999999999999", 3_600);
        check("Wed, 21 Oct 2026 07:28:10 GMT", 10);
        check("Wed, 21 Oct 2099 07:28:00 GMT", 3_600);
        check("Wed, 21 Oct 2015 07:28:00 GMT", 1);
        for other in ["", "+7", "-1", "1.5", "soon"] {
            check(other, 1);
        }
    }

    #[test]
    fn errors_are_written_in_both_formats() {
        let check = |kind, shape, id: &str, status, text: &str| {
            let error = Error::new(kind, "a \"b\" c");
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
            r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32002,"message":"a \"b\" c","data":{"kind":"timed_out","retryable":true}}}"#,
        );
        check(
            ErrorKind::TimedOut,
            Shape::Path,
            "1",
            500,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-31001,"message":"a \"b\" c","data":{"kind":"timed_out","retryable":"true"}}}"#,
        );
        check(
            ErrorKind::UpstreamDenied,
            Shape::Path,
            "1",
            500,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-31002,"message":"a \"b\" c","data":{"kind":"upstream_denied","retryable":"false"}}}"#,
        );
        check(
            ErrorKind::MissingService,
            Shape::Path,
            "null",
            400,
            r#"{"code":400,"message":"a \"b\" c"}"#,
        );
    }
}
