//! Extracts the headers that the gateway interprets, in one pass.

use plimsoll_measure::Nanos;

use super::{Field, malformed};
use crate::error::{Error, ErrorKind};

/// The headers that the gateway interprets; values as received, without surrounding white space.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields<'a> {
    pub(crate) host: Option<&'a [u8]>,
    pub(crate) content_encoding: Option<&'a [u8]>,
    pub(crate) accept_encoding: Option<&'a [u8]>,
    pub(crate) origin: Option<&'a [u8]>,
    pub(crate) request_method: Option<&'a [u8]>,
    pub(crate) request_headers: Option<&'a [u8]>,
    pub(crate) service: Option<&'a [u8]>,
    pub(crate) authorization: Option<&'a [u8]>,
    pub(crate) api_key: Option<&'a [u8]>,
    /// Whether one of these two has been sent twice, with different values.
    pub(crate) is_key_repeated: bool,
    /// The last X-Forwarded-For; `call::forwarded` joins repeated ones.
    pub(crate) forwarded_for: Option<&'a [u8]>,
    pub(crate) is_forwarded_for_repeated: bool,
    pub(crate) request_id: Option<&'a [u8]>,
    /// The caller's position in a trace; empty, which is not valid, if there are several.
    pub(crate) traceparent: Option<&'a [u8]>,
    /// Whether there is any header that may be forwarded to upstreams (`call::passed`).
    pub(crate) is_passed: bool,
    /// Whether the caller asks for an answer that does not come from a cache.
    pub(crate) no_cache: bool,
    pub(crate) websocket: bool,
    pub(crate) expect_continue: bool,
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    /// How long an idle connection is safe to use, according to `Keep-Alive: timeout`.
    pub(crate) idle_max: Option<Nanos>,
    length: Option<u64>,
    chunked: bool,
}

/// A connection is not used within this time before the other side closes it: the close may already be
/// in flight.
const KEEP_ALIVE_MARGIN: Nanos = Nanos::from_secs(1);

/// How the end of a body is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// Only for responses.
    UntilClose,
}

impl<'a> Fields<'a> {
    /// Extracts the headers.
    ///
    /// # Errors
    /// Headers that contradict each other or are malformed.
    pub(crate) fn read(all: &[Field<'a>]) -> Result<Fields<'a>, Error> {
        let mut fields = Fields::default();
        for field in all {
            fields.take(field.name, field.value)?;
        }
        if fields.chunked && fields.length.is_some() {
            return Err(malformed("both Content-Length and Transfer-Encoding"));
        }
        Ok(fields)
    }

    /// Processes one header; its name may be in any case.
    pub(crate) fn take(&mut self, name: &str, value: &'a [u8]) -> Result<(), Error> {
        // Length and first letter rule out most other headers cheaply.
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match (name.len(), name.as_bytes().first().map(u8::to_ascii_lowercase)) {
            (4, Some(b'h')) if is("host") => self.host(value)?,
            (6, Some(b'o')) if is("origin") => self.origin = Some(value),
            (6, Some(b'e')) if is("expect") => {
                self.expect_continue = value.eq_ignore_ascii_case(b"100-continue");
            }
            (7, Some(b'u')) if is("upgrade") => {
                self.websocket = value.eq_ignore_ascii_case(b"websocket");
            }
            (9, Some(b'x')) if is("x-api-key") => {
                let before = self.api_key.replace(value);
                self.is_key_repeated |= before.is_some_and(|before| before != value);
            }
            (13, Some(b'a')) if is("authorization") => {
                let before = self.authorization.replace(value);
                self.is_key_repeated |= before.is_some_and(|before| before != value);
            }
            (10, Some(b'c')) if is("connection") => self.connection(value),
            (10, Some(b'k')) if is("keep-alive") => self.keep_alive_timeout(value),
            (13, Some(b'c')) if is("cache-control") => self.cache_control(value),
            (14, Some(b'c')) if is("content-length") => self.content_length(value)?,
            (15, Some(b'a')) if is("accept-encoding") => self.accept_encoding = Some(value),
            (8, Some(b'r')) if is("rpc-type") => self.is_passed = true,
            (10, Some(b't')) if is("tracestate") => self.is_passed = true,
            (11, Some(b't')) if is("traceparent") => {
                self.is_passed = true;
                if self.traceparent.replace(value).is_some() {
                    self.traceparent = Some(b"");
                }
            }
            (11, Some(b'a')) if is("app-address") => self.is_passed = true,
            (12, Some(b'x')) if is("x-request-id") => self.request_id = Some(value),
            (14, Some(b'x')) if is("x-plimsoll-via") => self.is_passed = true,
            (15, Some(b'x')) if is("x-forwarded-for") => {
                self.is_passed = true;
                self.is_forwarded_for_repeated |= self.forwarded_for.replace(value).is_some();
            }
            (16, Some(b't')) if is("target-suppliers") => self.is_passed = true,
            (17 | 21, Some(b'p')) if is("portal-account-id") || is("portal-application-id") => {
                self.is_passed = true;
            }
            (16, Some(b'c')) if is("content-encoding") => self.content_encoding = Some(value),
            (17, Some(b't')) if is("transfer-encoding") => self.transfer_encoding(value)?,
            (17, Some(b't')) if is("target-service-id") => self.service(value)?,
            (29, Some(b'a')) if is("access-control-request-method") => {
                self.request_method = Some(value);
            }
            (30, Some(b'a')) if is("access-control-request-headers") => {
                self.request_headers = Some(value);
            }
            _ => {}
        }
        Ok(())
    }

    fn service(&mut self, value: &'a [u8]) -> Result<(), Error> {
        match self.service.replace(value) {
            Some(_) => Err(malformed("two Target-Service-Id headers")),
            None => Ok(()),
        }
    }

    fn host(&mut self, value: &'a [u8]) -> Result<(), Error> {
        match self.host.replace(value) {
            Some(_) => Err(malformed("two Host headers")),
            None if is_host(value) => Ok(()),
            None => Err(malformed("the Host header is not valid")),
        }
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    fn cache_control(&mut self, value: &[u8]) {
        for directive in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.no_cache |= [&b"no-cache"[..], b"no-store", b"max-age=0"]
                .iter()
                .any(|known| directive.eq_ignore_ascii_case(known));
        }
    }

    /// Malformed parameters are ignored.
    fn keep_alive_timeout(&mut self, value: &[u8]) {
        let mut parameters =
            value.split(|byte| matches!(byte, b',' | b';')).map(<[u8]>::trim_ascii);
        let timeout = parameters.find_map(|one| {
            let (name, value) = one.split_at_checked(b"timeout=".len())?;
            let value = std::str::from_utf8(value)
                .ok()
                .filter(|_| name.eq_ignore_ascii_case(b"timeout="))?;
            value.parse().ok()
        });
        self.idle_max = timeout.map(|secs| Nanos::from_secs(secs) - KEEP_ALIVE_MARGIN);
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Error> {
        let append = |length: u64, digit: &u8| match digit {
            b'0'..=b'9' => length.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
            _ => None,
        };
        let length = value.iter().try_fold(0, append).filter(|_| !value.is_empty());
        let length = length.ok_or_else(|| {
            malformed(format!("Content-Length is not a number: {}", quoted(value)))
        })?;
        // Even if both are equal: sending two suggests an attack.
        match self.length.replace(length) {
            Some(_) => Err(malformed("two Content-Length headers")),
            None => Ok(()),
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Error> {
        if self.chunked {
            return Err(malformed("two Transfer-Encoding headers"));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            let coding = quoted(value);
            let message = format!("transfer coding {coding} is not supported; use chunked");
            return Err(Error::new(ErrorKind::UnsupportedTransfer, message));
        }
        self.chunked = true;
        Ok(())
    }

    /// The body's framing; `otherwise` if no header determines it.
    pub(crate) fn framing(&self, otherwise: Framing) -> Result<Framing, Error> {
        Ok(match (self.chunked, self.length) {
            (true, _) => Framing::Chunked,
            (false, Some(0)) => Framing::Empty,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => otherwise,
        })
    }
}

/// Quotes a header's value, truncated.
pub(crate) fn quoted(value: &[u8]) -> String {
    const SHOWN_MAX: usize = 64;
    match value.get(..SHOWN_MAX).filter(|_| value.len() > SHOWN_MAX) {
        Some(start) => format!("\"{}…\"", start.escape_ascii()),
        None => format!("\"{}\"", value.escape_ascii()),
    }
}

/// Whether this is a host according to RFC 3986 §3.2.2 (may be empty), with an optional port.
pub(super) fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|byte| *byte == b':') {
        // A colon within brackets belongs to an IPv6 address.
        Some(at) if !value[at..].contains(&b']') => (&value[..at], &value[at + 1..]),
        _ => (value, &b""[..]),
    };
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    let is_address = |byte: &u8| byte.is_ascii_alphanumeric() || b":.%".contains(byte);
    let is_valid = match host.strip_prefix(b"[") {
        Some(rest) => {
            rest.strip_suffix(b"]").is_some_and(|ip| !ip.is_empty() && ip.iter().all(is_address))
        }
        None => host.iter().all(is_name),
    };
    is_valid && port.iter().all(u8::is_ascii_digit) && port.len() <= 5
}
