//! A caller's request and its answer, independent of the HTTP version.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;
use http::HeaderMap;
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Faces;

use super::records::Settlement;
use super::relay::Decimal;
use crate::error::{CallError, Error, RetryAfter, Shape};
use crate::http1::{self, Fields};
use crate::observe::stats::CacheUse;
use crate::observe::traces::Context;
use crate::payload::Payload;
use crate::permit::Purpose;

/// The media type of JSON.
pub(crate) const JSON: &[u8] = b"application/json";

/// A request, borrowed from the session that read it.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// Path and query, or an absolute URL.
    pub(crate) target: &'a str,
    pub(crate) fields: &'a Fields<'a>,
    pub(crate) all: AllFields<'a>,
    pub(crate) body: Body<'a>,
    pub(crate) peer: IpAddr,
    /// The APIs that the request's listener serves.
    pub(crate) faces: Faces,
    /// When the request was fully read.
    pub(crate) start: Nanos,
    /// Whether this is the connection's only request at present.
    pub(crate) purpose: Purpose,
}

/// A request's body.
#[derive(Clone, Debug)]
pub(crate) enum Body<'a> {
    /// In the session's buffer.
    Short(&'a [u8]),
    /// In a buffer of its own, which other threads can read.
    Long(Bytes),
}

impl Body<'_> {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Body::Short(bytes) => bytes,
            Body::Long(bytes) => bytes,
        }
    }
}

/// All headers of a request, for forwarding.
pub(crate) enum AllFields<'a> {
    /// An HTTP/1.1 head, already validated.
    Head(&'a [u8]),
    Map(&'a HeaderMap),
}

impl AllFields<'_> {
    pub(crate) fn visit(&self, mut visit: impl FnMut(&str, &[u8])) {
        match self {
            AllFields::Head(head) => {
                http1::visit_fields(head, |field| visit(field.name, field.value))
            }
            AllFields::Map(map) => {
                map.iter().for_each(|(name, value)| visit(name.as_str(), value.as_bytes()));
            }
        }
    }
}

/// The answer to a request.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) content_type: Cow<'static, [u8]>,
    pub(crate) body: Payload<'a>,
    /// Headers in addition to those of every answer.
    pub(crate) fields: Vec<(Cow<'static, str>, Vec<u8>)>,
    pub(crate) summary: Summary<'a>,
    /// What to count and log once the answer has been written.
    pub(crate) settlement: Settlement<'a>,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(status: u16, content_type: &'static [u8], body: Vec<u8>) -> Answer<'a> {
        Answer {
            status,
            content_type: Cow::Borrowed(content_type),
            body: Payload::Whole(body),
            fields: Vec::new(),
            summary: Summary::default(),
            settlement: Settlement::default(),
        }
    }

    /// Sets the status; 0 means that there is nothing to answer and becomes 204.
    #[inline]
    pub(super) fn set_status(&mut self, status: u16) {
        self.status = status;
        if status == 0 {
            self.status = 204;
            self.content_type = Cow::Borrowed(b"");
        }
    }

    /// An error answer, written to `body`, which must be empty.
    pub(crate) fn error(error: &Error, shape: Shape, body: Vec<u8>) -> Answer<'a> {
        Answer::error_to(error, shape, None, body)
    }

    /// An error answer to the call with this id.
    pub(crate) fn error_to(
        error: &Error,
        shape: Shape,
        id: Option<&[u8]>,
        mut body: Vec<u8>,
    ) -> Answer<'a> {
        error.write(shape, id.unwrap_or(b"null"), &mut body);
        let mut answer = Answer::new(error.status(shape), JSON, body);
        answer.fields.extend(error.retry_after(shape).map(RetryAfter::field));
        answer
    }
}

impl Answer<'_> {
    /// Writes a short answer, with these additional header lines, that closes its connection.
    pub(crate) fn write_last(&mut self, is_head: bool, lines: &[u8], out: &mut Vec<u8>) {
        let body = match &mut self.body {
            Payload::Whole(body) => std::mem::take(body),
            _ => Vec::new(),
        };
        http1::write_status(self.status, out);
        http1::write_field("content-type", &self.content_type, out);
        http1::write_field("content-length", Decimal::of(body.len() as u64).digits(), out);
        out.extend_from_slice(lines);
        for (name, value) in &self.fields {
            http1::write_field(name, value, out);
        }
        out.extend_from_slice(b"connection: close\r\n\r\n");
        if !is_head {
            out.extend_from_slice(&body);
        }
    }
}

/// At most this many upstreams of a batch are named in a response header.
const UPSTREAMS_NAMED_MAX: usize = 5;

/// The outcome of a request's calls, for response headers and the access log.
#[derive(Debug, Default)]
pub(crate) struct Summary<'a> {
    /// The upstream of the first attempt.
    pub(super) upstream: Option<&'a str>,
    /// Other upstreams, without duplicates, up to [`UPSTREAMS_NAMED_MAX`] in total.
    pub(super) others: Vec<&'a str>,
    pub(crate) attempts: u32,
    pub(crate) calls: u32,
    pub(crate) failed: u32,
    /// The first error returned for a call.
    pub(crate) error: Option<CallError>,
    /// The HTTP status of the last upstream response, if there was one.
    pub(crate) upstream_status: Option<u16>,
    /// When to retry, if the call was refused temporarily.
    pub(crate) retry_after: Option<RetryAfter>,
    /// How the calls used the cache: the most expensive way; `None` if there was no call.
    pub(crate) cache: Option<CacheUse>,
    /// The span of the call whose answer this call has got, if that is recorded.
    pub(super) flight: Option<Context>,
    /// The first known method among the calls.
    pub(crate) method: Option<plimsoll_rpc::method::Method>,
}

impl<'a> Summary<'a> {
    /// Records an attempt.
    pub(crate) fn add_attempt(&mut self, upstream: &'a str) {
        self.attempts += 1;
        self.add_upstream(upstream);
    }

    /// Records that a call is answered with one of the gateway's own errors.
    pub(super) fn fail(&mut self, error: &Error, shape: Shape) {
        self.failed = 1;
        self.retry_after = error.retry_after(shape);
        self.error = Some(CallError::of(error, shape));
    }

    pub(super) fn add_upstream(&mut self, upstream: &'a str) {
        if self.upstream.is_none() {
            self.upstream = Some(upstream);
        } else if self.upstream != Some(upstream)
            && !self.others.contains(&upstream)
            && self.others.len() + 1 < UPSTREAMS_NAMED_MAX
        {
            self.others.push(upstream);
        }
    }

    /// Adds the summary of other calls.
    pub(crate) fn merge(&mut self, other: &Summary<'a>) {
        // A batch may be retried when any of its calls may, if all were refused.
        let is_first = self.calls == 0 && self.failed == 0;
        self.retry_after = match (self.retry_after, other.retry_after) {
            (Some(own), Some(another)) => Some(own.min(another)),
            (None, another) if is_first => another,
            _ => None,
        };
        self.attempts += other.attempts;
        self.calls += other.calls;
        self.failed += other.failed;
        self.method = self.method.or(other.method);
        self.cache = self.cache.max(other.cache);
        self.error = self.error.or(other.error);
        self.upstream_status = other.upstream_status.or(self.upstream_status);
        other.upstreams().for_each(|upstream| self.add_upstream(upstream));
    }

    /// The upstreams, in the order in which they were first asked.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &'a str> {
        self.upstream.into_iter().chain(self.others.iter().copied())
    }

    /// Writes the upstreams, separated by commas.
    pub(crate) fn write_upstreams(&self, out: &mut Vec<u8>) {
        for (at, upstream) in self.upstreams().enumerate() {
            if at > 0 {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(upstream.as_bytes());
        }
    }
}
