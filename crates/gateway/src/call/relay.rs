//! Relays a JSON-RPC body: parses it, routes and relays each call, and answers.
//!
//! Every call of a batch has its own route, attempts and outcome; answers are in the order of the
//! calls. Calls are re-encoded from their method and parameters, under an id that no other exchange
//! has. A result must carry that id, and is returned with the caller's id, byte for byte. So no
//! answer can reach the wrong caller, whatever ids callers choose and whatever an upstream mixes
//! up.
//!
//! Invariant: each call that has an id gets exactly one answer with that id, and is counted once.

use std::borrow::Cow;
use std::io::Write;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use plimsoll_registry::model::{KEY_PREFIX, Sending};
use plimsoll_rpc::method::{Class, Method};
use plimsoll_rpc::request::{self, Call, Refused};

use super::admission;
use super::attempt::JudgedResponse;
use super::batch::{self, CallSlot};
use super::cached::{self, Answered};
use super::chain::parse_hex;
use super::dispatch::{Dispatched, dispatch};
use super::heads::{self, Named, block_shown};
use super::message::{Answer, Body, Summary};
use super::parse::{self, Parsed};
use super::records::{Record, Records};
use super::send::{self, Settled};
use super::target::Target;
use super::together;
use super::trace::{self, CallTrace};
use crate::cache::class::{Moment, Reason};
use crate::error::{Error, ErrorKind, RetryAfter, Shape};
use crate::meter::Kind;
use crate::observe::stats::{Outcome, RelayOutcome};
use crate::payload::{Composer, Payload};
use crate::protocol::Category;
use crate::sends::Sought;

/// The answer to all calls of a body.
pub(crate) struct BodyAnswer<'a> {
    /// The HTTP status; 0 if there is nothing to answer.
    pub(crate) status: u16,
    pub(crate) body: Payload<'static>,
    pub(crate) summary: Summary<'a>,
    pub(crate) records: Records<'a>,
}

impl<'a> BodyAnswer<'a> {
    /// Completes the answer to a request.
    fn put_into(self, into: &mut Answer<'a>) {
        let BodyAnswer { status, body, summary, records } = self;
        into.fields.extend(summary.retry_after.map(RetryAfter::field));
        into.body = body;
        into.summary = summary;
        into.settlement.records = records;
        into.set_status(status);
    }
}

/// The answer to one call.
pub(super) struct CallAnswer<'a> {
    pub(super) status: u16,
    pub(super) answer: Composer,
    pub(super) summary: Summary<'a>,
    pub(super) record: Option<Record<'a>>,
}

impl<'a> CallAnswer<'a> {
    /// Completes the answer to a request.
    #[inline]
    fn put_into(self, into: &mut Answer<'a>) {
        let CallAnswer { status, answer, summary, record } = self;
        into.body = answer.finish();
        into.fields.extend(summary.retry_after.map(RetryAfter::field));
        into.summary = summary;
        into.settlement.records = record.into();
        into.set_status(status);
    }

    /// Replaces the answer with an error, because there is no memory for the answer.
    pub(super) fn shed(&mut self, target: &Target<'_>, error: &Error, id: Option<&[u8]>) {
        self.answer.clear();
        if id.is_some() {
            error.write(target.shape, id.unwrap_or(b"null"), self.answer.text());
        }
        let outcome = target.failed(error);
        if let Some(record) = &mut self.record {
            record.ended(outcome);
            record.wrote(self.answer.length());
        }
        self.summary.fail(error, target.shape);
    }
}

/// Answers a body. `answer` must be an empty JSON answer with status 200.
pub(crate) async fn answer<'a>(target: &Target<'a>, body: &Body<'_>, answer: &mut Answer<'a>) {
    let batch_max = target.limits().batch;
    match body {
        Body::Short(bytes) => {
            let calls = match request::parse(bytes, batch_max) {
                Ok(calls) => calls,
                Err(refused) => return refused_call(target, refused).put_into(answer),
            };
            match &calls {
                request::Body::Single(call) => {
                    single(target, call, bytes.len()).await.put_into(answer);
                }
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
) -> BodyAnswer<'a> {
    match parse::body(bytes, batch_max).await {
        Some(Ok(Parsed::Single(call))) => {
            single(target, &call.within(bytes), bytes.len()).await.into()
        }
        Some(Ok(Parsed::Batch(items))) => batch::answer_long(target, bytes, items).await,
        Some(Err(refused)) => refused_call(target, refused.within(bytes)).into(),
        None => {
            let error = Error::new(ErrorKind::Internal, "the gateway is shutting down");
            target.fail(&error, None).into()
        }
    }
}

/// Answers a call whose text has this many bytes.
async fn single<'a>(target: &Target<'a>, call: &Call<'_>, bytes: usize) -> CallAnswer<'a> {
    let mut answered = match target.connection_slot().await {
        Ok(_slot) => {
            let capacity = &target.worker.local.capacity;
            let permit = capacity.enter(&target.account.in_use.calls, target.purpose);
            answer_call(target, call, bytes, &permit.map(CallSlot::single)).await
        }
        Err(busy) => target.fail(&busy, call.id),
    };
    if call.id.is_none() {
        // A notification is relayed but not answered.
        answered.status = 0;
    }
    answered
}

impl<'a> From<CallAnswer<'a>> for BodyAnswer<'a> {
    fn from(answered: CallAnswer<'a>) -> BodyAnswer<'a> {
        let CallAnswer { status, answer, summary, record } = answered;
        BodyAnswer { status, body: answer.finish(), summary, records: record.into() }
    }
}

/// Answers an invalid call.
pub(super) fn refused_call<'a>(target: &Target<'a>, refused: Refused<'_>) -> CallAnswer<'a> {
    target.fail(&Error::from(refused.why), refused.id)
}

/// Answers one call, whose text has this many bytes, with an error if it was not admitted.
pub(super) async fn answer_call<'a>(
    target: &Target<'a>,
    call: &Call<'_>,
    bytes: usize,
    slot: &Result<CallSlot<'_>, Error>,
) -> CallAnswer<'a> {
    let local = &*target.worker.local;
    let method = Method::find(&call.method);
    let units = target.service.compute_units(method, &call.method);
    let mut record = Record::start(target, Kind::Call(method), units, bytes);
    let (trace, span) = target.trace.call(target, method);
    record.span = span;
    let mut answer = Composer::new(local.take_buffer());
    let mut summary = Summary { calls: 1, method, ..Summary::default() };
    let admitted = match slot {
        Ok(_) => admission::admit(target, call, method).await,
        Err(busy) => Err(busy.clone()),
    };
    let resolved = match admitted {
        Ok(()) => resolve(target, call, method, trace, &mut answer, &mut summary).await,
        Err(refused) => Err(refused),
    };
    let (outcome, status) = resolved.unwrap_or_else(|error| {
        answer.clear();
        error.write(target.shape, call.id.unwrap_or(b"null"), answer.text());
        summary.fail(&error, target.shape);
        (target.failed(&error), error.status(target.shape))
    });
    if call.id.is_none() {
        answer.clear();
    }
    let cache = *summary.cache.get_or_insert_default();
    record.used(cache);
    record.ended(outcome);
    trace::answered(record.span.as_deref_mut(), status, &summary);
    record.wrote(answer.length());
    summary.failed = u32::from(matches!(outcome, Outcome::Failed(_)));
    CallAnswer { status, answer, summary, record: Some(record) }
}

/// Answers a call from configuration or from an upstream, and writes the answer to `out`.
async fn resolve<'a>(
    target: &Target<'a>,
    call: &Call<'_>,
    method: Option<Method>,
    trace: CallTrace,
    out: &mut Composer,
    summary: &mut Summary<'a>,
) -> Result<(Outcome, u16), Error> {
    let local = &*target.worker.local;
    let known = target.service.protocol.class(method);
    let class = known.unwrap_or(Class::Read);
    match (class, &target.service.chain_id) {
        (Class::Static, Some([chain_id, net_version])) if target.service.is_chain_confirmed() => {
            let result = if call.method == "eth_chainId" { chain_id } else { net_version };
            write_result(call.id, result, out.text());
            return Ok((Outcome::Ok, 200));
        }
        (Class::Subscription, _) => {
            let message = format!("{} needs a WebSocket, which is not supported", call.method);
            return Err(Error::new(ErrorKind::MethodUnsupported, message));
        }
        _ => {}
    }
    // An unknown method may not be safe to repeat.
    let is_repeatable =
        matches!(known, Some(Class::Read | Class::Static)) || call.method == send::METHOD;
    let mut params = local.take_buffer();
    let Bound { call: sent, named, moment } = bound(target, call, method, &mut params).await;
    let prefer = preferred(target, call);
    let dispatched = Dispatched {
        call: &sent,
        method,
        class,
        is_repeatable,
        named,
        prefer,
        delivery: None,
        trace,
    };
    let answered = if call.method == send::METHOD {
        cached::bypassed(target, Reason::Sends);
        match Box::pin(send::send(target, dispatched, summary)).await {
            Ok(Settled::Judged(judged)) => Ok(Answered::Judged(judged)),
            Ok(Settled::Accepted(hash)) => {
                write_result(call.id, send::text(&hash).as_bytes(), out.text());
                return Ok((Outcome::Ok, 200));
            }
            Err(error) => Err(error),
        }
    } else {
        let answered = cached::answered(target, dispatched, call.params, moment, summary).await;
        let is_known = || target.service.heads.as_ref().is_some_and(|heads| heads.is_known());
        if named.is_unknown && is_repeatable && is_known() {
            // The answer may be from above the head that is served now.
            local.give_buffer(params);
            return Box::pin(resolve(target, call, method, trace, out, summary)).await;
        }
        answered
    };
    local.give_buffer(params);
    let answered = answered?;
    let outcome = match answered.outcome() {
        RelayOutcome::Ok => Outcome::Ok,
        _ => {
            summary.error = answered.error();
            Outcome::RpcError
        }
    };
    // PATH forwards the backend's status. A customer's client expects 200 for any JSON-RPC answer,
    // except 429, which clients act on; no client should repeat a call because it reverted.
    let is_limited = answered.outcome() == RelayOutcome::Rpc(Category::RateLimited);
    let status = match answered.status() {
        429 if is_limited => 429,
        429 => 200,
        status if target.shape == Shape::Path => status,
        _ => 200,
    };
    // Only a 429 has one.
    summary.retry_after = is_limited.then(|| answered.retry_after().unwrap_or(RetryAfter::SOON));
    if let (Some(heads), Some(result)) = (&target.service.heads, answered.relayed_result())
        && let Some(number) = block_shown(&call.method, result)
    {
        let ask = || target.service.state.has_news.store(true, Ordering::Relaxed);
        Box::pin(heads.catch_up(target.worker, number, ask)).await;
    }
    match (&answered, named.height) {
        (Answered::Judged(judged), Some(number)) if outcome == Outcome::Ok => {
            if judged.result().and_then(parse_hex).is_some_and(|own| own > number) {
                target.service.state.has_news.store(true, Ordering::Relaxed);
            }
            write_number(call.id, number, out);
        }
        _ => answered.write(local, call.id, out),
    }
    Ok((outcome, status))
}

/// A call whose tags have been replaced.
pub(super) struct Bound<'p> {
    pub(super) call: Call<'p>,
    pub(super) named: Named,
    /// What was served before.
    pub(super) moment: Moment,
}

/// Replaces the tags of a call by the served numbers. `params` is empty, and takes the new parameters.
#[inline]
pub(super) async fn bound<'p>(
    target: &Target<'_>,
    call: &'p Call<'_>,
    method: Option<Method>,
    params: &'p mut Vec<u8>,
) -> Bound<'p> {
    let (mut named, mut moment) = (Named::default(), Moment::default());
    if let (Some(heads), Some(method)) = (&target.service.heads, method) {
        if !target.service.spaces.is_empty() {
            heads.fresh(target.worker).await;
        }
        moment = heads.moment();
        named = heads::bind(target.worker, heads, method, call, params).await;
    }
    let params = if params.is_empty() { call.params } else { Some(&params[..]) };
    let call = Call { id: call.id, method: Cow::Borrowed(&call.method), params };
    Bound { call, named, moment }
}

/// Relays a call to as many upstreams as the service asks for.
#[inline]
pub(super) async fn relayed<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    summary: &mut Summary<'a>,
) -> Result<JudgedResponse, Error> {
    let service = &target.service.model;
    match dispatched.class {
        Class::Read => {
            let needed = together::needed(target, &dispatched);
            if needed > 1 {
                let needed = needed.into();
                return Box::pin(together::agreed(target, dispatched, needed, summary)).await;
            }
        }
        Class::Send if service.send == Sending::All && dispatched.is_repeatable => {
            let broadcast = together::broadcast(target, dispatched, send::is_accepted, summary);
            return Box::pin(broadcast).await;
        }
        _ => {}
    }
    dispatch(target, dispatched, summary).await
}

/// The upstream that accepted the transaction that a read is about.
#[inline]
fn preferred(target: &Target<'_>, call: &Call<'_>) -> Option<u64> {
    let sent = &target.service.state.sent;
    if sent.is_empty() {
        return None;
    }
    let sought = Sought::of(&call.method, call.params)?;
    sent.upstream(&sought, target.worker.local.recent())
}

fn write_number(id: Option<&[u8]>, number: u64, out: &mut Composer) {
    let mut text = [0; 20];
    let mut rest = &mut text[..];
    // 16 digits, the prefix and the quotation marks fit.
    let _ = write!(rest, "\"{number:#x}\"");
    let length = 20 - rest.len();
    write_result(id, &text[..length], out.text());
}

/// Writes an answer with this member and value, which is attached by reference if it is long.
pub(super) fn write_member(id: Option<&[u8]>, member: &[u8], value: Bytes, out: &mut Composer) {
    let text = out.text();
    text.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    text.extend_from_slice(id.unwrap_or(b"null"));
    text.extend_from_slice(b",\"");
    text.extend_from_slice(member);
    text.extend_from_slice(b"\":");
    out.attach(value);
    out.text().push(b'}');
}

fn write_result(id: Option<&[u8]>, result: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.unwrap_or(b"null"));
    out.extend_from_slice(b",\"result\":");
    out.extend_from_slice(result);
    out.push(b'}');
}

/// The error for a call that has no route.
pub(crate) fn not_routed(kind: ErrorKind, target: &Target<'_>, method: &str) -> Error {
    let service = &target.service_id;
    let message = match kind {
        ErrorKind::WrongChain => target.service.other_chains(),
        ErrorKind::NoUpstream if target.service.routes.is_empty() => {
            format!("service {service} has no upstream")
        }
        ErrorKind::NoUpstream => format!("every upstream of {service} is drained"),
        ErrorKind::LimitReached => format!("every upstream of {service} is at its rate limit"),
        _ => format!("no upstream of {service} accepts {}", shown(method)),
    };
    let now = target.worker.local.recent();
    let retry_after =
        (kind == ErrorKind::LimitReached).then(|| target.service.retry_after(method, now));
    Error { retry_after, ..Error::new(kind, message) }
}

/// Quotes a caller's text, truncated; not one with an API key in it.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 64;
    if text.contains(KEY_PREFIX) {
        return "\"…\"".into();
    }
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("\"{}…\"", &text[..end]),
        None => format!("\"{text}\""),
    }
}

/// Formats a number in decimal without allocating.
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
    fn numbers_are_formatted_in_decimal() {
        for number in [0, 7, 10, 18_446_744_073_709_551_615] {
            assert_eq!(Decimal::of(number).digits(), number.to_string().as_bytes());
        }
    }
}
