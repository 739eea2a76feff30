//! One attempt at a call; it owns its request, its connection and its response.
//!
//! An attempt does not write to the caller's answer. The call's dispatcher may race several
//! attempts, take the first that succeeds and drop the others; [`JudgedResponse::write`] writes the
//! winner's answer.
//!
//! Invariant: each attempt is counted exactly once, when it is dropped: with its outcome, or as
//! cancelled if it has none.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use plimsoll_measure::{Nanos, WallClock};
use plimsoll_registry::settings::Limits;
use plimsoll_resilience::breaker::Pass;
use plimsoll_rpc::method::Method;
use plimsoll_rpc::request::Call;
use plimsoll_rpc::{answer, json};

use super::abandoned::Pending;
use super::chain;
use super::judge::{Verdict, failed_status, judge};
use super::relay::Decimal;
use super::routing::{self, Picked, Route};
use super::target::Target;
use super::trace::{AttemptTrace, CallTrace};
use super::worker::Worker;
use crate::account::Account;
use crate::error::{CallError, ErrorKind, Fault, RetryAfter};
use crate::http1::{self, Coding, write_field};
use crate::local::Local;
use crate::meter::Kind as MeterKind;
use crate::observe::stats::RelayOutcome;
use crate::offload;
use crate::payload::{COPIED_MAX, Composer};
use crate::protocol::{Category, Protocol};
use crate::upstream::slot::Slot;
use crate::upstream::{
    Failure, FailureReport, Reply, Request, Response, Reusable, Reuse, Upstream, Use,
};
use plimsoll_registry::model::Kind;

/// Counts an attempt: as in flight until it is dropped, then once with its outcome.
pub(crate) struct Attempt<'a> {
    pub(super) local: &'a Local,
    route: &'a Route,
    /// The breaker's permission, which the outcome is reported with.
    pass: Option<Pass>,
    usage: Use,
    method: &'a str,
    /// The method, if it is known.
    known: Option<Method>,
    /// The upstream's slots that were in use when it started.
    in_use: u32,
    /// Whom it is counted for.
    account: &'a Arc<Account>,
    /// Whether the request may have been sent.
    may_be_sent: bool,
    sent_at: Nanos,
    /// The outcome and when it was reached; `None` while there is none.
    ended: Option<(RelayOutcome, Nanos)>,
    pub(super) trace: AttemptTrace,
}

impl<'a> Attempt<'a> {
    pub(super) fn start(
        target: &Target<'a>,
        picked: Picked<'a>,
        usage: Use,
        method: &'a str,
        trace: AttemptTrace,
    ) -> Attempt<'a> {
        let Picked { route, pass, in_use, method: known } = picked;
        let local: &'a Local = &target.worker.local;
        Attempt {
            local,
            route,
            pass,
            usage,
            method,
            known,
            in_use,
            account: target.account,
            may_be_sent: true,
            sent_at: local.now(),
            ended: None,
            trace,
        }
    }

    /// Sets the outcome, reached `at` this time.
    pub(crate) fn ended(&mut self, outcome: RelayOutcome, at: Nanos) {
        self.ended = Some((outcome, at));
    }

    /// Counts an answer for which neither the upstream nor the gateway is at fault.
    #[inline]
    pub(super) fn answered(&mut self, outcome: RelayOutcome, at: Nanos) {
        self.ended(outcome, at);
        self.route.upstream.health.answered(&self.route.upstream.model.id, at);
        self.route.relays.of(self.local.number).answered(at);
        self.route.succeeded(self.pass, at);
    }

    /// Counts and logs a failure. A stale connection and a lack of capacity in this process are not
    /// logged, because the upstream did not fail.
    #[cold]
    pub(super) fn failed(&mut self, service: &str, failure: &Failure) {
        let at = self.local.now();
        let outcome = RelayOutcome::failed(failure.kind);
        self.ended(outcome, at);
        self.may_be_sent = failure.sent;
        if failure.stale {
            self.route.upstream.health.lost();
        }
        if failure.stale || failure.kind == ErrorKind::Busy {
            return;
        }
        if self.usage == Use::Calls {
            self.route.upstream.parking.heed(outcome, self.method, failure.retry_after, at);
        }
        let (status, text) = match &failure.detail {
            None => (None, &[][..]),
            Some(detail) => (detail.status, &detail.text[..]),
        };
        let counts_as_down = counts_as_down(failure.kind, self.usage, status);
        let report = FailureReport {
            upstream: &self.route.upstream.model.id,
            service,
            outcome,
            status,
            message: &failure.message,
            text,
            counts_as_down,
        };
        self.route.upstream.health.failed(&report, at);
        if counts_as_down {
            self.route.failed(service, self.pass, at);
        }
    }

    /// Counts and logs an error object that is not the caller's fault.
    #[cold]
    fn failed_with_error(&mut self, service: &str, judged: &JudgedResponse) {
        self.ended(judged.outcome(), judged.at);
        let report = FailureReport {
            upstream: &self.route.upstream.model.id,
            service,
            outcome: judged.outcome(),
            status: Some(judged.status),
            message: "the upstream returned a JSON-RPC error",
            text: judged.response.body(),
            counts_as_down: false,
        };
        self.route.upstream.health.failed(&report, judged.at);
        let parking = &self.route.upstream.parking;
        parking.heed(judged.outcome(), self.method, judged.retry_after, judged.at);
        // Callers may be able to cause the others; they count if another upstream does better.
        if let RelayOutcome::Rpc(Category::Unavailable | Category::Unauthorized) = judged.outcome()
        {
            self.route.failed(service, self.pass, judged.at);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let cancelled = || (RelayOutcome::Cancelled, self.local.now());
        let (outcome, at) = self.ended.unwrap_or_else(cancelled);
        self.route.relays.of(self.local.number).add(outcome, at - self.sent_at);
        if self.may_be_sent {
            let kind = match self.usage {
                Use::Calls => MeterKind::Call(self.known),
                Use::Rest => MeterKind::Rest,
            };
            self.local.meter.relay(self.account, kind);
        }
        self.trace.end(outcome, at);
        let gate = &self.route.upstream.gate;
        gate.ended(self.known, self.in_use, (self.sent_at, at), outcome);
    }
}

/// Whether a failure counts towards the upstream being down. With REST, callers choose the request,
/// and can cause any status except those of gateways whose backend does not answer.
fn counts_as_down(kind: ErrorKind, usage: Use, status: Option<u16>) -> bool {
    match (kind, usage) {
        (ErrorKind::UpstreamLimited | ErrorKind::AnswerTooLarge | ErrorKind::WrongChain, _) => {
            false
        }
        (ErrorKind::BadStatus | ErrorKind::UpstreamDenied, Use::Rest) => {
            matches!(status, Some(502..=504))
        }
        // A caller's long body may exceed the upstream's limit.
        (ErrorKind::BadStatus, Use::Calls) => status != Some(413),
        _ => true,
    }
}

/// A response that answers the call, and how it was judged.
pub(crate) struct JudgedResponse {
    pub(crate) status: u16,
    /// The upstream's Retry-After, if it rate limits.
    pub(crate) retry_after: Option<RetryAfter>,
    /// When the response was judged.
    pub(super) at: Nanos,
    verdict: Verdict,
    response: Response,
}

impl JudgedResponse {
    pub(crate) fn outcome(&self) -> RelayOutcome {
        self.verdict.outcome
    }

    /// The result, unless the answer is an error.
    pub(super) fn result(&self) -> Option<&[u8]> {
        self.verdict.result(self.response.body())
    }

    /// The data of the error object, if there is one.
    pub(super) fn error_data(&self) -> Option<&[u8]> {
        let parsed = answer::parse(self.response.body()).ok()?;
        let answer::Outcome::Error { raw, .. } = parsed.outcome else { return None };
        json::member(raw, "data")
    }

    /// The upstream's body.
    pub(super) fn body(&self) -> &[u8] {
        self.response.body()
    }

    /// The code of the error returned to the caller; 0 for a result.
    pub(super) fn code(&self) -> i64 {
        self.verdict.code
    }

    /// Whether the answer is the result null.
    #[inline]
    pub(super) fn is_null(&self) -> bool {
        self.verdict.result(self.response.body()) == Some(b"null")
    }

    /// The error returned to the caller, if the outcome is not a result.
    pub(super) fn error(&self) -> CallError {
        CallError { kind: self.outcome().name(), code: self.verdict.code }
    }

    /// The value of the answer's member `result` or `error`. A long one refers to the upstream's body.
    pub(super) fn into_value(self, local: &Local) -> Bytes {
        let JudgedResponse { verdict, response, .. } = self;
        if response.body.len() > COPIED_MAX {
            return verdict.value(&response.into_bytes());
        }
        let value = verdict.value(&Bytes::copy_from_slice(response.body()));
        local.give_buffer(response.buffer);
        value
    }

    /// Writes the answer with the caller's id. A long body is attached by reference, not copied.
    pub(crate) fn write(self, local: &Local, id: Option<&[u8]>, out: &mut Composer) {
        let JudgedResponse { verdict, response, .. } = self;
        if response.body.len() <= COPIED_MAX {
            let body = response.body();
            verdict.write(id, out, |out, part| out.text().extend_from_slice(&body[part]));
            return local.give_buffer(response.buffer);
        }
        let body = response.into_bytes();
        verdict.write(id, out, |out, part| out.attach(body.slice(part)));
    }
}

/// Sends a call over a route.
///
/// # Errors
/// No answer to the call was received.
pub(super) async fn run(
    target: &Target<'_>,
    call: &Call<'_>,
    (picked, slot): (Picked<'_>, &Slot<'_>),
    reuse: Reuse,
    trace: CallTrace,
) -> Result<JudgedResponse, Failure> {
    let route = picked.route;
    let worker = target.worker;
    let local = &*worker.local;
    let id = worker.next_id();
    let (mut head, mut body) = (local.take_buffer(), local.take_buffer());
    let params = call.params.unwrap_or_default();
    let (copied, referred) =
        if params.len() <= COPIED_MAX { (params, &b""[..]) } else { (&b""[..], params) };
    write_call(call, id, copied, &mut body);
    let end: &[u8] = if referred.is_empty() { b"" } else { b"}" };
    let length = body.len() + referred.len() + end.len();
    let trace = trace.attempt(target, route, &call.method);
    write_head(target, route, &trace, length, &mut head);
    head.extend_from_slice(&body);
    local.give_buffer(body);
    let request = Request {
        method: "POST",
        parts: [&head, referred, end],
        usage: Use::Calls,
        reuse,
        deadline: target.start + target.service.model.timeout,
    };
    let sent = SentCall { id, protocol: target.service.protocol, method: picked.method };
    let mut attempt = Attempt::start(target, picked, Use::Calls, &call.method, trace);
    let result = exchange(target, route, &request, (sent, slot)).await;
    attempt.trace.judged(&result);
    match &result {
        Ok(judged) => {
            match judged.outcome() {
                RelayOutcome::Rpc(category)
                    if category.fault() != Fault::Caller && !category.is_callers_choice() =>
                {
                    attempt.failed_with_error(&target.service_id, judged);
                }
                outcome => attempt.answered(outcome, judged.at),
            }
            if judged.verdict.is_loose {
                route.relays.of(local.number).loose.add(1);
            }
        }
        Err(failure) => attempt.failed(&target.service_id, failure),
    }
    local.give_buffer(head);
    result
}

/// What the answer to a call is recognized by, and what it is about.
#[derive(Clone, Copy)]
pub(super) struct SentCall {
    pub(super) id: u64,
    pub(super) protocol: Protocol,
    /// The method, if it is known.
    pub(super) method: Option<Method>,
}

async fn exchange(
    target: &Target<'_>,
    route: &Route,
    request: &Request<'_>,
    (sent, slot): (SentCall, &Slot<'_>),
) -> Result<JudgedResponse, Failure> {
    let (local, limits) = (&*target.worker.local, target.limits());
    let SentCall { id, protocol, .. } = sent;
    let pending = begun(target, route, request, limits, (Some(sent), slot)).await?;
    let Received { status, retry_after, mut response, reusable } =
        read(local, route, pending, limits).await?;
    let judged = if response.body.len() <= offload::INLINE_MAX {
        judge(protocol, response.body(), status, id)
    } else {
        let judging =
            offload::run(move || (judge(protocol, response.body(), status, id), response));
        let unchecked = || {
            Failure::new(ErrorKind::Internal, true, "the upstream's answer could not be checked")
        };
        let (judged, judged_response) = judging.await.ok_or_else(unchecked)?;
        response = judged_response;
        judged
    };
    let at = local.now();
    // After an answer to a different call, the answer to this call may still arrive.
    let may_reuse = !matches!(&judged, Err(failure) if failure.kind == ErrorKind::BadAnswer);
    if let Some(reusable) = reusable.filter(|_| may_reuse) {
        reusable.release(at);
    }
    match judged {
        Ok(verdict) => Ok(JudgedResponse { status, retry_after, at, verdict, response }),
        Err(failure) => {
            let failure = failure.with_detail(Some(status), response.body());
            local.give_buffer(response.buffer);
            Err(Failure { retry_after, ..failure })
        }
    }
}

/// Sends a request once the upstream's chain is confirmed, and reads the head of the response.
///
/// # Errors
/// The upstream is on another chain, or no head arrived within the deadline and the limits.
#[inline]
pub(super) async fn begun<'s>(
    target: &'s Target<'_>,
    route: &'s Route,
    request: &Request<'_>,
    limits: &Limits,
    (sent, slot): (Option<SentCall>, &'s Slot<'_>),
) -> Result<Pending<'s>, Failure> {
    let worker = target.worker;
    let reply = worker.client.prepare(&route.upstream, request, limits).await?;
    let mut pending = Pending::new(reply, target, (route, slot), sent);
    // Only now is it known which connection is used.
    let opened_at = pending.opened_at();
    if chain::is_owed(route, opened_at) {
        let (service, deadline) = (target.service, request.deadline);
        let confirmed = Box::pin(chain::confirm(worker, service, route, opened_at, deadline));
        if let Err(failure) = confirmed.await {
            pending.take().put_back(worker.local.now());
            return Err(failure);
        }
    }
    pending.begin(request).await?;
    Ok(pending)
}

/// A complete response, with its content coding removed.
pub(super) struct Received {
    pub(super) status: u16,
    /// The upstream's Retry-After, if it has no capacity.
    pub(super) retry_after: Option<RetryAfter>,
    pub(super) response: Response,
    /// The connection, if it may be reused.
    pub(super) reusable: Option<Reusable>,
}

/// Sends a request over a route and reads the response.
///
/// # Errors
/// No complete response arrived within the deadline and the limits.
#[inline]
pub(super) async fn receive(
    worker: &Worker,
    route: &Route,
    request: &Request<'_>,
    limits: &Limits,
) -> Result<Received, Failure> {
    let mut reply = worker.client.prepare(&route.upstream, request, limits).await?;
    reply.begin(request).await?;
    read(&worker.local, route, Pending::unlimited(reply), limits).await
}

/// Reads a response whose head has arrived.
#[inline]
async fn read(
    local: &Local,
    route: &Route,
    mut pending: Pending<'_>,
    limits: &Limits,
) -> Result<Received, Failure> {
    match pending.read_body().await {
        Ok(body) => finished(local, &route.upstream, (pending.take(), body), limits.answer).await,
        Err(failure) => Err(unread(&pending, failure)),
    }
}

/// A response whose body has been read, without its content coding.
///
/// # Errors
/// The body cannot be decoded, or is longer than `limit` bytes.
#[inline]
pub(super) async fn finished(
    local: &Local,
    upstream: &Upstream,
    (reply, body): (Reply, Range<usize>),
    limit: u64,
) -> Result<Received, Failure> {
    let (status, retry_after) = asked(&reply);
    let coding = reply.coding();
    let (mut response, reusable) = reply.finish(body);
    upstream.health.kept(reusable.is_some());
    // An empty body has no coding, whatever the head says.
    if coding != Coding::None && !response.body.is_empty() {
        let decoding = Box::pin(response.decoded(local, coding, limit));
        let by_status = |failure| judged_by_status(status, retry_after, failure);
        response = decoding.await.map_err(by_status)?;
    }
    Ok(Received { status, retry_after, response, reusable })
}

/// The failure for a response whose body could not be read.
#[cold]
pub(super) fn unread(reply: &Reply, failure: Failure) -> Failure {
    let (status, retry_after) = asked(reply);
    judged_by_status(status, retry_after, failure)
}

/// The status of a response whose head has been read, and the upstream's Retry-After, if it has no capacity.
#[inline]
fn asked(reply: &Reply) -> (u16, Option<RetryAfter>) {
    let (status, head) = reply.head();
    (status, if matches!(status, 429 | 503) { retry_after(head) } else { None })
}

/// The failure for a response whose body could not be read or decoded: an HTTP error keeps its
/// meaning without its body.
#[cold]
pub(super) fn judged_by_status(
    status: u16,
    retry_after: Option<RetryAfter>,
    failure: Failure,
) -> Failure {
    if status < 400 || failure.kind == ErrorKind::Busy {
        return failure;
    }
    let judged = failed_status(status).with_detail(Some(status), b"");
    let message = format!("{}; {}", judged.message, failure.message).into();
    Failure { message, retry_after, ..judged }
}

/// The Retry-After of a response, if it has one.
#[cold]
pub(super) fn retry_after(head: &[u8]) -> Option<RetryAfter> {
    let mut found = None;
    http1::visit_response_fields(head, |field| {
        if field.name.eq_ignore_ascii_case("retry-after") {
            found = Some(RetryAfter::read(field.value, WallClock::now()));
        }
    });
    found
}

/// Re-encodes a call from its method and parameters, under the gateway's id. If `copied` is shorter
/// than the parameters, the caller sends them and the closing brace separately.
pub(crate) fn write_call(call: &Call<'_>, id: u64, copied: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(Decimal::of(id).digits());
    out.extend_from_slice(b",\"method\":");
    json::write_text(out, &call.method);
    if let Some(params) = call.params {
        out.extend_from_slice(b",\"params\":");
        out.extend_from_slice(copied);
        if copied.len() < params.len() {
            return;
        }
    }
    out.push(b'}');
}

/// Writes the head of a request with a body of `length` bytes.
fn write_head(
    target: &Target<'_>,
    route: &Route,
    trace: &AttemptTrace,
    length: usize,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&route.head);
    let model = &route.upstream.model;
    let is_named = || model.headers.iter().any(|(name, _)| name == routing::SERVICE_ID);
    if model.kind == Kind::Path && !target.service.is_listed && !is_named() {
        write_field(routing::SERVICE_ID, target.service_id.as_bytes(), out);
    }
    target.passed.write(model, out);
    trace.write(model, out);
    end_head(target.worker, length, out);
}

/// Writes the last headers of a call and ends its head.
#[inline]
pub(super) fn end_head(worker: &Worker, length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&worker.shared.via);
    write_field("content-length", Decimal::of(length as u64).digits(), out);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
