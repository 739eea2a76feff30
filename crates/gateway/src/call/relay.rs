//! A JSON-RPC body's way through the gateway: parsed, routed, relayed call by call, answered.
//!
//! Every call of a batch has its own route, its own attempts and its own outcome; the answers come
//! in the order of the calls. What is sent upstream is written anew from the parts of a call that
//! mean something, under an id that no other exchange has; what comes back must carry that id, and is
//! handed on under the bytes of the caller's. So no answer can reach the wrong caller, whatever ids
//! callers choose and whatever an upstream mixes up.
//!
//! Invariant: each call that has an id gets exactly one answer under it, and is counted once.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use plimsoll_measure::Nanos;
use plimsoll_registry::model::MethodRules;
use plimsoll_registry::settings::Limits;
use plimsoll_rpc::method::{Class, Method};
use plimsoll_rpc::request::{self, Call, Refused};
use tokio::sync::Semaphore;

use super::attempt::{self, Retry, Won};
use super::batch;
use super::message::{Answer, Body, Summary};
use super::parse::{self, Parsed};
use super::passed::Passed;
use super::records::{Record, Records};
use super::routing::{Need, Route, Service, Tried};
use super::worker::{View, Worker};
use crate::error::{Error, ErrorKind, RetryAfter, Shape};
use crate::observe::stats::{Outcome, RelayOutcome, SHED};
use crate::payload::{Composer, Payload};
use crate::permit::Purpose;
use crate::upstream::Reuse;

/// Where a body's calls go and how errors are put.
pub(crate) struct Target<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) view: &'a View,
    pub(crate) service: &'a Arc<Service>,
    /// What the upstream is to call it: the service's id also where only upstreams know it.
    pub(crate) service_id: Cow<'a, str>,
    /// The endpoint's rules, where the call came through one.
    pub(crate) rules: Option<&'a MethodRules>,
    /// The calls in flight of the endpoint, or of the service without one.
    pub(crate) endpoint_calls: &'a AtomicU64,
    /// The places for calls of a connection with several requests at a time.
    pub(crate) turns: Option<&'a Semaphore>,
    /// Whether the request is its connection's only one.
    pub(crate) purpose: Purpose,
    pub(crate) shape: Shape,
    /// What of the request's head goes on to upstreams.
    pub(crate) passed: Passed,
    /// When the call was taken up.
    pub(crate) start: Nanos,
}

/// What a body's calls came to.
pub(crate) struct Relayed<'a> {
    /// The HTTP status; 0: there is nothing to answer.
    pub(crate) status: u16,
    pub(crate) body: Payload<'static>,
    pub(crate) summary: Summary<'a>,
    pub(crate) records: Records<'a>,
}

impl<'a> Relayed<'a> {
    /// Makes it the answer to a request.
    fn put_into(self, into: &mut Answer<'a>) {
        let Relayed { status, body, summary, records } = self;
        into.body = body;
        into.summary = summary;
        into.settlement.records = records;
        into.put_status(status);
    }
}

/// What one call came to.
pub(super) struct Answered<'a> {
    pub(super) status: u16,
    pub(super) answer: Composer,
    pub(super) summary: Summary<'a>,
    pub(super) record: Option<Record<'a>>,
}

impl<'a> Answered<'a> {
    /// Makes it the answer to a request.
    #[inline]
    fn put_into(self, into: &mut Answer<'a>) {
        let Answered { status, answer, summary, record } = self;
        into.body = answer.finish();
        into.fields.extend(summary.retry_after.map(RetryAfter::field));
        into.summary = summary;
        into.settlement.records = record.into();
        into.put_status(status);
    }

    /// Replaces the answer by an error: there is no room for it.
    pub(super) fn shed(&mut self, target: &Target<'_>, error: &Error, id: Option<&[u8]>) {
        self.answer.clear();
        if id.is_some() {
            error.write(target.shape, id.unwrap_or(b"null"), self.answer.text());
        }
        let outcome = target.failed(error);
        self.record.iter_mut().for_each(|record| record.ended(outcome));
        self.summary.fails(error, target.shape);
    }
}

/// Answers a body; `answer` is 200, JSON and empty before.
pub(crate) async fn answer<'a>(target: &Target<'a>, body: &Body<'_>, answer: &mut Answer<'a>) {
    let batch_max = target.limits().batch;
    match body {
        Body::Short(bytes) => {
            let calls = match request::parse(bytes, batch_max) {
                Ok(calls) => calls,
                Err(refused) => return refused_call(target, refused).put_into(answer),
            };
            match &calls {
                request::Body::Single(call) => single(target, call).await.put_into(answer),
                request::Body::Batch(batch) => {
                    Box::pin(batch::answer_short(target, batch)).await.put_into(answer);
                }
            }
        }
        Body::Long(bytes) => {
            Box::pin(answer_long(target, bytes, batch_max)).await.put_into(answer);
        }
    }
}

async fn answer_long<'a>(
    target: &Target<'a>,
    bytes: &bytes::Bytes,
    batch_max: usize,
) -> Relayed<'a> {
    match parse::body(bytes, batch_max).await {
        Some(Ok(Parsed::Single(call))) => single(target, &call.within(bytes)).await.into(),
        Some(Ok(Parsed::Batch(items))) => batch::answer_long(target, bytes, items).await,
        Some(Err(refused)) => refused_call(target, refused.within(bytes)).into(),
        None => target.fail(&Error::new(ErrorKind::Internal, "the gateway is ending"), None).into(),
    }
}

async fn single<'a>(target: &Target<'a>, call: &Call<'_>) -> Answered<'a> {
    let mut answered = match target.turn().await {
        Ok(_turn) => {
            let capacity = &target.worker.local.capacity;
            let entered = capacity.enter(target.endpoint_calls, target.purpose);
            answer_call(target, call, &entered.map(batch::Turn::alone)).await
        }
        Err(busy) => target.fail(&busy, call.id),
    };
    if call.id.is_none() {
        // A notification: done, and not answered.
        answered.status = 0;
    }
    answered
}

impl<'a> From<Answered<'a>> for Relayed<'a> {
    fn from(answered: Answered<'a>) -> Relayed<'a> {
        let Answered { status, answer, summary, record } = answered;
        Relayed { status, body: answer.finish(), summary, records: record.into() }
    }
}

/// Answers what was to be a call and is none.
pub(super) fn refused_call<'a>(target: &Target<'a>, refused: Refused<'_>) -> Answered<'a> {
    target.fail(&Error::from(refused.why), refused.id)
}

/// Answers one call under its permit, or says why it got none.
pub(super) async fn answer_call<'a>(
    target: &Target<'a>,
    call: &Call<'_>,
    entered: &Result<batch::Turn<'_>, Error>,
) -> Answered<'a> {
    let local = &*target.worker.local;
    let method = Method::find(&call.method);
    let calls = &*target.service.calls;
    let mut record = Record::start(calls, local, method, target.start);
    let mut answer = Composer::new(local.take_buffer());
    let mut summary = Summary { calls: 1, method, ..Summary::default() };
    let resolved = match entered {
        Ok(_) => resolve(target, call, method, &mut answer, &mut summary).await,
        Err(busy) => Err(busy.clone()),
    };
    let (outcome, status) = resolved.unwrap_or_else(|error| {
        answer.clear();
        error.write(target.shape, call.id.unwrap_or(b"null"), answer.text());
        summary.fails(&error, target.shape);
        (target.failed(&error), error.status(target.shape))
    });
    if call.id.is_none() {
        answer.clear();
    }
    record.ended(outcome);
    summary.failed = u32::from(matches!(outcome, Outcome::Failed(_)));
    Answered { status, answer, summary, record: Some(record) }
}

impl<'a> Target<'a> {
    pub(crate) fn limits(&self) -> &'a Limits {
        &self.view.settings.limits
    }

    /// What an error of ours is counted as; also as shed, where there was no room for the call.
    pub(crate) fn failed(&self, error: &Error) -> Outcome {
        if let Some(place) = SHED.iter().position(|kind| *kind == error.kind) {
            self.service.calls.of(self.worker.local.number).shed[place].add(1);
        }
        Outcome::Failed(error.kind.row().fault)
    }

    /// Counts what was refused before anything was sent for it.
    pub(crate) fn count_refused(&self, error: &Error) {
        self.worker.local.counts().refused[error.kind as usize].add(1);
    }

    /// Answers with an error what was not taken for a call.
    pub(super) fn fail(&self, error: &Error, id: Option<&[u8]>) -> Answered<'a> {
        self.count_refused(error);
        let mut answer = Composer::new(self.worker.local.take_buffer());
        error.write(self.shape, id.unwrap_or(b"null"), answer.text());
        let mut summary = Summary::default();
        summary.fails(error, self.shape);
        Answered { status: error.status(self.shape), answer, summary, record: None }
    }

    /// Waits for a place among the calls of its connection.
    ///
    /// # Errors
    /// None was free until the service's timeout.
    pub(super) async fn turn(&self) -> Result<Option<tokio::sync::SemaphorePermit<'a>>, Error> {
        let Some(turns) = self.turns else { return Ok(None) };
        if let Ok(turn) = turns.try_acquire() {
            return Ok(Some(turn));
        }
        let until = self.worker.local.instant(self.start + self.service.model.timeout);
        match tokio::time::timeout_at(until, turns.acquire()).await {
            Ok(Ok(turn)) => Ok(Some(turn)),
            _ => {
                let message = "limits.calls_per_connection calls were in flight until the timeout";
                Err(Error::new(ErrorKind::Busy, message))
            }
        }
    }
}

/// Brings a call to its outcome, the answer written.
async fn resolve<'a>(
    target: &Target<'a>,
    call: &Call<'_>,
    method: Option<Method>,
    out: &mut Composer,
    summary: &mut Summary<'a>,
) -> Result<(Outcome, u16), Error> {
    if target.rules.is_some_and(|rules| !rules.permit(&call.method)) {
        let message = format!("this endpoint does not permit {}", shown(&call.method));
        return Err(Error::new(ErrorKind::MethodDenied, message));
    }
    let known = target.service.protocol.class(method);
    let class = known.unwrap_or(Class::Read);
    match (class, &target.service.chain_id) {
        (Class::Static, Some([chain_id, net_version])) if target.service.is_chain_confirmed() => {
            let own = if call.method == "eth_chainId" { chain_id } else { net_version };
            write_result(call.id, own, out.text());
            return Ok((Outcome::Ok, 200));
        }
        (Class::Subscription, _) => {
            let message = format!("{} needs a WebSocket, which is not served here", call.method);
            return Err(Error::new(ErrorKind::MethodUnsupported, message));
        }
        _ => {}
    }
    // What an unknown method does is unknown: it may do harm twice.
    let repeatable = matches!(known, Some(Class::Read | Class::Static));
    let won = dispatch(target, call, class, repeatable, summary).await?;
    let outcome = match won.outcome() {
        RelayOutcome::Ok => Outcome::Ok,
        _ => {
            summary.error = Some(won.error());
            Outcome::RpcError
        }
    };
    // PATH hands the backend's status on; a customer's client expects 200 where there is an answer,
    // but for the one status that it acts on.
    let is_limited = won.status == 429 && won.outcome() != RelayOutcome::Ok;
    let status = if target.shape == Shape::Path || is_limited { won.status } else { 200 };
    summary.retry_after = won.retry_after.filter(|_| is_limited);
    won.write(&target.worker.local, call.id, out);
    Ok((outcome, status))
}

/// Attempts a call until it is answered or must not be tried again: over a new connection where a
/// pooled one turned out to be closed, and over other routes as long as nothing was sent.
async fn dispatch<'a>(
    target: &Target<'a>,
    call: &Call<'_>,
    class: Class,
    repeatable: bool,
    summary: &mut Summary<'a>,
) -> Result<Won, Error> {
    let need = Need { class, method: &call.method };
    let mut tried = Tried::default();
    let pick = |tried: &Tried| target.service.pick(&need, tried, target.worker.local.recent());
    let mut route: &'a Route =
        pick(&tried).map_err(|kind| not_routed(kind, target, &call.method))?;
    let pooled = if repeatable { Reuse::Pooled } else { Reuse::Checked };
    let mut reuse = pooled;
    loop {
        summary.tries(&route.upstream.model.id);
        let failure = match attempt::run(target, call, route, reuse).await {
            Ok(won) => {
                summary.upstream_status = Some(won.status);
                return Ok(won);
            }
            Err(failure) => failure,
        };
        summary.upstream_status = failure.status().or(summary.upstream_status);
        match attempt::after(failure, route, repeatable, &mut tried, pick)? {
            Retry::NewConnection => reuse = Reuse::New,
            Retry::Route(other) => (route, reuse) = (other, pooled),
        }
    }
}

fn write_result(id: Option<&[u8]>, result: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.unwrap_or(b"null"));
    out.extend_from_slice(b",\"result\":");
    out.extend_from_slice(result);
    out.push(b'}');
}

/// Why a call has no route, in words.
pub(crate) fn not_routed(kind: ErrorKind, target: &Target<'_>, method: &str) -> Error {
    let service = &target.service_id;
    let message = match kind {
        ErrorKind::WrongChain => target.service.other_chains(),
        ErrorKind::NoUpstream => format!("service {service} has no upstream"),
        ErrorKind::LimitReached => format!("every upstream of {service} is at its rate limit"),
        _ => format!("no upstream of {service} takes {}", shown(method)),
    };
    Error::new(kind, message)
}

/// As much of a caller's word as an answer repeats.
pub(crate) fn shown(word: &str) -> String {
    const SHOWN_MAX: usize = 64;
    match word.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("\"{}…\"", &word[..end]),
        None => format!("\"{word}\""),
    }
}

/// A number in decimal, without allocation.
pub(crate) struct Decimal {
    digits: [u8; 20],
    from: usize,
}

impl Decimal {
    #[inline]
    pub(crate) fn of(mut number: u64) -> Decimal {
        let mut decimal = Decimal { digits: [b'0'; 20], from: 20 };
        loop {
            decimal.from -= 1;
            decimal.digits[decimal.from] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return decimal;
            }
        }
    }

    #[inline]
    pub(crate) fn digits(&self) -> &[u8] {
        &self.digits[self.from..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written() {
        for number in [0, 7, 10, 18_446_744_073_709_551_615] {
            assert_eq!(Decimal::of(number).digits(), number.to_string().as_bytes());
        }
    }
}
