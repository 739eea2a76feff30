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

mod answer;
mod body;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use plimsoll_registry::model::{self, Kind};
use plimsoll_rpc::method::Class;

use super::attempt::{self, Attempt};
use super::judge::failed_status;
use super::message::{Answer, Body, Request, Summary};
use super::overload;
use super::records::Record;
use super::relay::Decimal;
use super::routing::{self, Need, Tried};
use super::target::Target;
use super::trace::{self, AttemptTrace, CallTrace};
use crate::error::{CallError, Error};
use crate::http1::write_field;
use crate::local::{BUFFER_SIZE, Local};
use crate::meter;
use crate::observe::stats::{Extra, Outcome, RelayOutcome};
use crate::payload::{Payload, Pieces, Truncated};
use crate::permit::Permit;
use crate::upstream::slot::Slot;
use crate::upstream::{self, DETAIL_MAX, Failure, ReplyChunks, Response, Reuse, Use};

pub(crate) use body::is_call;

/// The method name of REST requests in an upstream's method rules.
pub(super) const METHOD: &str = "REST";

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

/// Forwards a request to an upstream of the service and returns its answer. `body` is the request's
/// decoded body.
pub(crate) async fn pass<'a>(
    target: &Target<'a>,
    request: &Request<'_>,
    path: (&str, Option<&str>),
    body: &Body<'_>,
) -> Answer<'a> {
    let local = &*target.worker.local;
    let units = target.service.compute_units(None, METHOD);
    let mut record = Record::start(target, meter::Kind::Rest, units, body.bytes().len());
    let mut summary = Summary { calls: 1, ..Summary::default() };
    let (trace, span) = target.trace.rest(target, request.method);
    record.span = span;
    let relayed = relay(target, request, path, body, trace, &mut summary).await;
    let (mut answer, outcome) = relayed.unwrap_or_else(|error| {
        if summary.attempts == 0 {
            target.count_refused(&error);
        }
        summary.fail(&error, target.shape);
        let answer = Answer::error(&error, target.shape, local.take_buffer());
        (answer, target.failed(&error))
    });
    record.ended(outcome);
    trace::answered(record.span.as_deref_mut(), answer.status, &summary);
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
    mut trace: CallTrace,
    summary: &mut Summary<'a>,
) -> Result<(Answer<'a>, Outcome), Error> {
    let local: &'a Local = &target.worker.local;
    let _slot = target.connection_slot().await?;
    let permit = local.capacity.enter(&target.account.in_use.calls, target.purpose)?;
    let is_bodiless = matches!(request.method, "GET" | "HEAD");
    let body = if is_bodiless { b"" } else { body.bytes() };
    let need = Need { class: Class::Read, method: METHOD, known: None, block: None, prefer: None };
    let mut tried = Tried::default();
    let (mut picked, mut slot) = overload::admitted(target, &need, &tried).await?;
    let mut reuse = Reuse::Checked;
    let (route, attempt, reply) = loop {
        let route = picked.route;
        summary.add_attempt(&route.upstream.model.id);
        let model = &route.upstream.model;
        let of_attempt = trace.attempt(target, route, METHOD);
        let path = (below, query);
        let head = request_head(target, request, model, path, &of_attempt, body.len());
        let sent = upstream::Request {
            method: request.method,
            parts: [&head, body, b""],
            usage: Use::Rest,
            reuse: if body.is_empty() { reuse } else { Reuse::New },
            deadline: target.start + target.service.model.timeout,
        };
        let mut attempt = Attempt::start(target, picked, Use::Rest, METHOD, of_attempt);
        let limits = target.limits();
        let failure = match attempt::begun(target, route, &sent, limits, (None, &slot)).await {
            Ok(pending) => {
                let reply = pending.take();
                attempt.trace.answered(Some(reply.head().0));
                break (route, attempt, reply);
            }
            Err(failure) => failure,
        };
        attempt.failed(&target.service_id, &failure);
        summary.upstream_status = failure.status().or(summary.upstream_status);
        // A request that was sent is not repeated: even a GET may not be safe to repeat.
        if failure.sent {
            return Err(failure.into());
        }
        if failure.stale {
            reuse = Reuse::New;
            trace = trace.because(Extra::Stale);
            continue;
        }
        trace = trace.because(Extra::Elsewhere);
        tried.add(route);
        match overload::admitted(target, &need, &tried).await {
            Ok(other) => (picked, slot) = other,
            Err(_) => return Err(failure.into()),
        }
    };
    let (status, head) = reply.head();
    let retry_after = if status == 429 { attempt::retry_after(head) } else { None };
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
            Outcome::Failed(row.fault)
        }
    };
    let mut answer =
        answer::head(status, head, request.method, &route.upstream.model, &route.upstream.secrets);
    let may_reuse = body.is_empty();
    answer.body = match reply.length() {
        Some(length) if length <= WHOLE_MAX => {
            let mut attempt = attempt;
            let by_status = |failure| attempt::judged_by_status(status, retry_after, failure);
            let whole = reply.whole().await.map_err(by_status);
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
            let failure = failure.map(|failure| (failure, Vec::new()));
            let (_slot, _permit) = (slot, permit);
            let streamed =
                StreamedAnswer { chunks, attempt, service, status, failure, _slot, _permit };
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
    status: u16,
    /// The failure for the answer's status, if it is an error, and the start of the body.
    failure: Option<(Failure, Vec<u8>)>,
    _slot: Slot<'a>,
    _permit: Permit<'a>,
}

impl Pieces for StreamedAnswer<'_> {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Option<Bytes>, Truncated>> + '_>> {
        Box::pin(async {
            match self.chunks.next().await {
                Ok(Some(chunk)) => {
                    if let Some((_, start)) = &mut self.failure {
                        let room = DETAIL_MAX.saturating_sub(start.len());
                        start.extend_from_slice(&chunk[..chunk.len().min(room)]);
                    }
                    Ok(Some(chunk))
                }
                Ok(None) => {
                    match self.failure.take() {
                        Some((failure, start)) => {
                            let failure = failure.with_detail(Some(self.status), &start);
                            self.attempt.failed(self.service, &failure);
                        }
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
    (below, query): (&str, Option<&str>),
    trace: &AttemptTrace,
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
    if upstream.kind == Kind::Path && !is_configured(routing::SERVICE_ID) {
        write_field(routing::SERVICE_ID, target.service_id.as_bytes(), &mut head);
    }
    target.passed.write_forwarded_for(upstream, &mut head);
    target.passed.write_without_forwarded_for(upstream, &mut head);
    trace.write(upstream, &mut head);
    head.extend_from_slice(&target.worker.shared.via);
    if length > 0 || matches!(request.method, "POST" | "PUT" | "PATCH") {
        write_field("content-length", Decimal::of(length as u64).digits(), &mut head);
    }
    head.extend_from_slice(b"\r\n");
    head
}
