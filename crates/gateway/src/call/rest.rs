//! REST below `/v1`: requests that are not JSON-RPC, forwarded as they are.
//!
//! This serves chains with REST APIs beside or instead of JSON-RPC (Cosmos' `/status`, Beacon's
//! `/eth/v1/…`). Requests are not interpreted. Hop-by-hop headers are not forwarded, and paths that
//! traverse (`..`) are refused, so that an instance's paths outside `/v1` cannot be reached.
//!
//! A caller's request could make an upstream answer twice, and the second answer would go to
//! another caller. So these requests have separate connections, a connection that carried a body is
//! not reused, GET and HEAD are sent without a body, and a pooled connection is checked before use.
//!
//! Long answers are streamed.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use plimsoll_registry::model::{self, Kind};
use plimsoll_rpc::json;
use plimsoll_rpc::method::Class;

use super::attempt::{self, Attempt, Retry};
use super::judge::failed_status;
use super::message::{Answer, Body, Request, Summary};
use super::passed;
use super::records::Record;
use super::relay::{Decimal, Target, not_routed};
use super::routing::{self, Need, Route, Tried};
use crate::error::{CallError, Error, Fault};
use crate::http1::{self, write_field};
use crate::local::{BUFFER_SIZE, Local};
use crate::observe::stats::{Outcome, RelayOutcome};
use crate::offload;
use crate::payload::{Payload, Pieces, Truncated};
use crate::permit::Permit;
use crate::upstream::{self, Failure, ReplyChunks, Response, Reuse, Use};

/// The method name of REST requests in an upstream's method rules.
const METHOD: &str = "REST";

/// Longer answers are streamed.
const WHOLE_MAX: u64 = 64 << 10;

/// Request headers that are forwarded, in addition to those of every request (`call::passed`):
/// headers with HTTP semantics, and those of Cosmos' and Beacon's REST APIs.
const FORWARDED_HEADERS: &[&str] = &[
    "accept",
    "accept-language",
    "cache-control",
    "content-type",
    "eth-consensus-version",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
    "x-cosmos-block-height",
];

/// Response headers that are not forwarded; the gateway sets its own where needed.
const DROPPED_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "content-type",
    "date",
    "keep-alive",
    "proxy-authenticate",
    "server",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a body is JSON-RPC, or might be accepted as JSON-RPC by a node: an object with a method,
/// or an array that contains one. Such a body would bypass all method rules.
pub(crate) async fn is_call(body: &Body<'_>) -> bool {
    match body {
        Body::Long(bytes) if bytes.len() > offload::INLINE_MAX => {
            let bytes = bytes.clone();
            // Refused if it cannot be checked.
            offload::run(move || holds_call(&bytes)).await.unwrap_or(true)
        }
        body => holds_call(body.bytes()),
    }
}

fn holds_call(bytes: &[u8]) -> bool {
    let has_method = |object: &[u8]| {
        json::members(object).map_while(Result::ok).any(|member| *member.plain() == *b"method")
    };
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match json::kind(bytes) {
        Some(json::Kind::Object) => has_method(bytes),
        Some(json::Kind::Array) => json::items(bytes).map_while(Result::ok).any(has_method),
        _ => false,
    }
}

/// Forwards a request to an upstream of the service and returns its answer. `body` is the request's
/// decoded body.
pub(crate) async fn pass<'a>(
    target: &Target<'a>,
    request: &Request<'_>,
    path: (&str, Option<&str>),
    body: &Body<'_>,
) -> Answer<'a> {
    let local = &*target.worker.local;
    let mut record = Record::start(&target.service.calls, local, None, target.start);
    let mut summary = Summary { calls: 1, ..Summary::default() };
    let relayed = relay(target, request, path, body, &mut summary).await;
    let (mut answer, outcome) = relayed.unwrap_or_else(|error| {
        if summary.attempts == 0 {
            target.count_refused(&error);
        }
        summary.fail(&error, target.shape);
        let answer = Answer::error(&error, target.shape, local.take_buffer());
        (answer, target.failed(&error))
    });
    record.ended(outcome);
    summary.failed = u32::from(matches!(outcome, Outcome::Failed(_)));
    answer.summary = summary;
    answer.settlement.records.add(record);
    answer
}

async fn relay<'a>(
    target: &Target<'a>,
    request: &Request<'_>,
    (below, query): (&str, Option<&str>),
    body: &Body<'_>,
    summary: &mut Summary<'a>,
) -> Result<(Answer<'a>, Outcome), Error> {
    let local: &'a Local = &target.worker.local;
    let _slot = target.connection_slot().await?;
    let permit = local.capacity.enter(target.endpoint_calls, target.purpose)?;
    let is_bodiless = matches!(request.method, "GET" | "HEAD");
    let body = if is_bodiless { b"" } else { body.bytes() };
    let need = Need { class: Class::Read, method: METHOD };
    let mut tried = Tried::default();
    let pick = |tried: &Tried| target.service.pick(&need, tried, local.recent());
    let mut route: &'a Route = pick(&tried).map_err(|kind| not_routed(kind, target, METHOD))?;
    // A request that was sent is not repeated: even a GET may not be safe to repeat.
    let repeatable = false;
    let mut reuse = Reuse::Checked;
    let (attempt, reply) = loop {
        summary.add_attempt(&route.upstream.model.id);
        let model = &route.upstream.model;
        let head = request_head(target, request, model, below, query, body.len());
        let sent = upstream::Request {
            method: request.method,
            parts: [&head, body, b""],
            usage: Use::Rest,
            reuse: if body.is_empty() { reuse } else { Reuse::New },
            deadline: target.start + target.service.model.timeout,
        };
        let mut attempt = Attempt::start(local, route);
        let limits = target.limits();
        let failure = match target.worker.client.send(&route.upstream, &sent, limits).await {
            Ok(reply) => break (attempt, reply),
            Err(failure) => failure,
        };
        attempt.failed(&target.service_id, &failure);
        summary.upstream_status = failure.status().or(summary.upstream_status);
        match attempt::after(failure, route, repeatable, &mut tried, pick)? {
            Retry::NewConnection => reuse = Reuse::New,
            Retry::Route(other) => route = other,
        }
    };
    let (status, head) = reply.head();
    summary.upstream_status = Some(status);
    let failure = match status {
        429 | 401 | 403 | 500.. => Some(failed_status(status)),
        _ => None,
    };
    let outcome = match &failure {
        None => Outcome::Ok,
        Some(failure) => {
            let row = failure.kind.row();
            summary.error = Some(CallError { kind: row.name, code: row.code });
            Outcome::Failed(Fault::Upstream)
        }
    };
    let mut answer = answer_head(status, head, request.method);
    let may_reuse = body.is_empty();
    answer.body = match reply.length() {
        Some(length) if length <= WHOLE_MAX => {
            let mut attempt = attempt;
            let whole = reply.whole().await;
            let now = local.now();
            match (&whole, failure) {
                (Err(failure), _) => attempt.failed(&target.service_id, failure),
                (Ok((whole, _)), Some(failure)) => {
                    let failure = failure.with_detail(Some(status), whole.body());
                    attempt.failed(&target.service_id, &failure);
                }
                (Ok(_), None) => attempt.answered(RelayOutcome::Ok, now),
            }
            let (whole, reusable) = whole?;
            if let Some(reusable) = reusable.filter(|_| may_reuse) {
                reusable.release(now);
            }
            take_whole(whole, local)
        }
        _ => {
            let chunks = reply.into_chunks(target.service.model.timeout);
            let service = &target.service.model.id;
            let failure = failure.map(|failure| failure.with_detail(Some(status), b""));
            let streamed = StreamedAnswer { chunks, attempt, service, failure, _permit: permit };
            Payload::Pieces(Box::new(streamed))
        }
    };
    Ok((answer, outcome))
}

fn take_whole<'a>(response: Response, local: &Local) -> Payload<'a> {
    if response.body.len() > BUFFER_SIZE {
        return Payload::Shared(vec![response.into_bytes()]);
    }
    let mut body = local.take_buffer();
    body.extend_from_slice(response.body());
    local.give_buffer(response.buffer);
    Payload::Whole(body)
}

/// An answer that is forwarded as it arrives.
struct StreamedAnswer<'a> {
    chunks: ReplyChunks,
    attempt: Attempt<'a>,
    /// The service's id, for the log.
    service: &'a str,
    /// The failure for the answer's status, if it is an error.
    failure: Option<Failure>,
    _permit: Permit<'a>,
}

impl Pieces for StreamedAnswer<'_> {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Option<Bytes>, Truncated>> + '_>> {
        Box::pin(async {
            match self.chunks.next().await {
                Ok(Some(chunk)) => Ok(Some(chunk)),
                Ok(None) => {
                    match &self.failure {
                        Some(failure) => self.attempt.failed(self.service, failure),
                        None => {
                            self.attempt.answered(RelayOutcome::Ok, self.attempt.local.now());
                        }
                    }
                    Ok(None)
                }
                Err(failure) => {
                    self.attempt.failed(self.service, &failure);
                    Err(Truncated)
                }
            }
        })
    }

    fn length(&self) -> Option<u64> {
        self.chunks.length()
    }
}

/// The head of the upstream request.
fn request_head(
    target: &Target<'_>,
    request: &Request<'_>,
    upstream: &model::Upstream,
    below: &str,
    query: Option<&str>,
    length: usize,
) -> Vec<u8> {
    let (base, base_query) = match upstream.path().split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (upstream.path(), None),
    };
    let mut path = format!("{}{below}", base.trim_end_matches('/'));
    if path.is_empty() {
        path.push('/');
    }
    for (at, query) in base_query.into_iter().chain(query).enumerate() {
        path.push(if at == 0 { '?' } else { '&' });
        path.push_str(query);
    }
    let mut head = routing::request_start(request.method, upstream, &path, &["accept-encoding"]);
    let is_configured =
        |name: &str| upstream.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    request.all.visit(|name, value| {
        if FORWARDED_HEADERS.iter().any(|known| known.eq_ignore_ascii_case(name))
            && !is_configured(name)
        {
            write_field(name, value, &mut head);
        }
    });
    if upstream.kind == Kind::Path {
        write_field("target-service-id", target.service_id.as_bytes(), &mut head);
    }
    let chain = passed::forwarded_for(request, &target.view.settings);
    let chain = chain.unwrap_or_else(|| request.peer.to_string().into_bytes());
    write_field("x-forwarded-for", &chain, &mut head);
    target.passed.write_without_forwarded_for(upstream.kind, &mut head);
    head.extend_from_slice(&target.worker.shared.via);
    if length > 0 || matches!(request.method, "POST" | "PUT" | "PATCH") {
        write_field("content-length", Decimal::of(length as u64).digits(), &mut head);
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The header names listed in a message's Connection headers, which must not be forwarded (RFC 9110
/// §7.6.1).
#[derive(Default)]
struct ConnectionOptions(Vec<Vec<u8>>);

impl ConnectionOptions {
    fn read(&mut self, name: &str, value: &[u8]) {
        if name.eq_ignore_ascii_case("connection") {
            self.0.extend(value.split(|byte| *byte == b',').map(|one| one.trim_ascii().to_vec()));
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Whether only the gateway may set this response header.
fn is_reserved(name: &str) -> bool {
    let starts = |start: &str| {
        name.get(..start.len()).is_some_and(|front| front.eq_ignore_ascii_case(start))
    };
    starts("access-control-") || starts("x-plimsoll-")
}

/// The answer for the caller, without its body.
fn answer_head<'a>(status: u16, head: &[u8], method: &str) -> Answer<'a> {
    let mut options = ConnectionOptions::default();
    http1::visit_response_fields(head, |field| options.read(field.name, field.value));
    // The Content-Length of a response without a body is that of the omitted body.
    let bodiless = method == "HEAD" || status == 304;
    let mut answer = Answer::new(status, b"", Vec::new());
    http1::visit_response_fields(head, |field| {
        if field.name.eq_ignore_ascii_case("content-type") {
            answer.content_type = Cow::Owned(field.value.to_vec());
        }
        let taken = !DROPPED_HEADERS.iter().any(|name| name.eq_ignore_ascii_case(field.name))
            && !options.contains(field.name)
            && !is_reserved(field.name);
        if taken || (bodiless && field.name.eq_ignore_ascii_case("content-length")) {
            let name = field.name.to_ascii_lowercase();
            answer.fields.push((name.into(), field.value.to_vec()));
        }
    });
    answer
}
