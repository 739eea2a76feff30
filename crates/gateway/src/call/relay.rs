//! A JSON-RPC body's way through the gateway: parsed, routed, relayed call by call, answered.
//!
//! Every call of a batch has its own route, its own upstream and its own fate; the answers come in
//! the order of the calls. What is sent upstream is put together anew from the parts of a call that
//! mean something, under an id that no other exchange has; what comes back must carry that id, and is
//! handed on under the bytes of the caller's. So no answer can reach the wrong caller, whatever ids
//! callers choose and whatever an upstream mixes up.
//!
//! Invariant: each call that has an id gets exactly one answer under it, and is counted once.

mod batch;

use std::rc::Rc;
use std::sync::Arc;

use plimsoll_measure::Nanos;
use plimsoll_rpc::answer;
use plimsoll_rpc::json;
use plimsoll_rpc::method::{Class, Method};
use plimsoll_rpc::request::{self, Body, Call};

use crate::call::routing::{OTHER, Route, Service};
use crate::call::worker::{View, Worker};
use crate::error::{Error, ErrorKind, Shape};
use crate::observe::stats::{Counter, Outcome, RelayOutcome, SHED};
use crate::protocol::Category;
use crate::upstream::{self, Failure, Request, Response};
use plimsoll_registry::model::{Kind, MethodRules};

/// Where a body's calls go and how errors are put.
pub(crate) struct Target<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) view: &'a View,
    pub(crate) service: &'a Arc<Service>,
    /// What the upstream is to call it: the service's id also where only upstreams know it.
    pub(crate) service_id: &'a str,
    /// The endpoint's rules, where the call came through one.
    pub(crate) rules: Option<&'a MethodRules>,
    pub(crate) shape: Shape,
    /// When the call was taken up.
    pub(crate) start: Nanos,
}

/// What a body's calls came to, beside the answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told<'a> {
    /// The HTTP status; 0: there is nothing to answer.
    pub(crate) status: u16,
    /// The upstreams that calls were relayed to, each once, as far as there is room.
    pub(crate) upstreams: [Option<&'a str>; UPSTREAMS_TOLD],
    /// Relays sent.
    pub(crate) attempts: u32,
    /// Calls, and those that failed, for the access log.
    pub(crate) calls: u32,
    pub(crate) failed: u32,
    /// The first call's method, for the access log.
    pub(crate) method: Option<Method>,
}

/// A response header names so many upstreams of a batch; the others go unnamed.
const UPSTREAMS_TOLD: usize = 5;

impl<'a> Told<'a> {
    pub(crate) fn relayed(&mut self, upstream: &'a str) {
        self.attempts += 1;
        self.name(upstream);
    }

    fn name(&mut self, upstream: &'a str) {
        for place in &mut self.upstreams {
            match place {
                Some(known) if *known == upstream => return,
                Some(_) => {}
                None => {
                    *place = Some(upstream);
                    return;
                }
            }
        }
    }

    fn join(&mut self, other: Told<'a>) {
        self.attempts += other.attempts;
        self.calls += other.calls;
        self.failed += other.failed;
        self.method = self.method.or(other.method);
        other.upstreams.into_iter().flatten().for_each(|upstream| self.name(upstream));
    }
}

/// Answers a body into `out`.
pub(crate) async fn answer<'a>(target: &Target<'a>, body: &[u8], out: &mut Vec<u8>) -> Told<'a> {
    let mut told = Told::default();
    match request::parse(body, target.view.settings.limits.batch) {
        Ok(Body::Single(call)) => {
            let status = answer_call(target, &call, out, &mut told).await;
            told.status = if call.id.is_some() { status } else { 0 };
        }
        Ok(Body::Batch(batch)) => Box::pin(batch::answer(target, &batch, out, &mut told)).await,
        Err(refused) => {
            let error = Error::from(refused.why);
            target.count_refused(&error);
            error.write(target.shape, refused.id.unwrap_or(b"null"), out);
            told.status = error.status(target.shape);
            told.failed = 1;
        }
    }
    told
}

/// Answers one call into `out`, and gives the HTTP status that its answer has by itself.
async fn answer_call<'a>(
    target: &Target<'a>,
    call: &Call<'_>,
    out: &mut Vec<u8>,
    told: &mut Told<'a>,
) -> u16 {
    let method = Method::find(&call.method);
    let start = out.len();
    let (outcome, status) = match resolve(target, call, method, out, told).await {
        Ok(done) => done,
        Err(error) => {
            out.truncate(start);
            error.write(target.shape, call.id.unwrap_or(b"null"), out);
            (target.failed(&error), error.status(target.shape))
        }
    };
    if call.id.is_none() {
        // A notification: done, and not answered.
        out.truncate(start);
    }
    target.count(method, outcome, told);
    told.method = told.method.or(method);
    status
}

impl Target<'_> {
    /// What an error of ours is counted as; also as shed, where there was no room for the call.
    pub(crate) fn failed(&self, error: &Error) -> Outcome {
        if let Some(place) = SHED.iter().position(|kind| *kind == error.kind) {
            self.service.calls.of(self.worker.number).shed[place].add(1);
        }
        Outcome::Failed(error.kind.row().fault)
    }

    /// Counts a call that is over.
    pub(crate) fn count(&self, method: Option<Method>, outcome: Outcome, told: &mut Told<'_>) {
        let span = self.worker.now() - self.start;
        self.service.calls.of(self.worker.number).add(method, outcome, span);
        told.calls += 1;
        told.failed += u32::from(matches!(outcome, Outcome::Failed(_)));
    }

    /// Counts what was refused before anything was sent for it.
    pub(crate) fn count_refused(&self, error: &Error) {
        self.worker.counts().refused[error.kind as usize].add(1);
    }
}

/// Brings a call to its outcome, the answer written.
async fn resolve<'a>(
    target: &Target<'a>,
    call: &Call<'_>,
    method: Option<Method>,
    out: &mut Vec<u8>,
    told: &mut Told<'a>,
) -> Result<(Outcome, u16), Error> {
    if target.rules.is_some_and(|rules| !rules.permit(&call.method)) {
        let message = format!("this endpoint does not permit {}", shown(&call.method));
        return Err(Error::new(ErrorKind::MethodDenied, message));
    }
    let class = method.map_or(Class::Read, Method::class);
    match (class, &target.service.chain_id) {
        (Class::Static, Some([chain_id, net_version])) => {
            let own = if call.method == "eth_chainId" { chain_id } else { net_version };
            write_result(call.id, own, out);
            return Ok((Outcome::Ok, 200));
        }
        (Class::Subscription, _) => {
            let message = format!("{} needs a WebSocket, which is not served here", call.method);
            return Err(Error::new(ErrorKind::MethodUnsupported, message));
        }
        _ => {}
    }
    let picked = target.service.pick(class, &call.method, target.start);
    let route = picked.map_err(|kind| not_routed(kind, target.service_id, &call.method))?;
    // What a method does that nobody here knows cannot be known to be harmless twice.
    let known = method.map(Method::class);
    let repeatable = matches!(known, Some(Class::Read | Class::Static));
    relay(target, call, repeatable, route, out, told).await
}

/// Sends a call to an upstream and writes what it answers.
async fn relay<'a>(
    target: &Target<'a>,
    call: &Call<'_>,
    repeatable: bool,
    route: &'a Route,
    out: &mut Vec<u8>,
    told: &mut Told<'a>,
) -> Result<(Outcome, u16), Error> {
    let worker = target.worker;
    let id = worker.next_id();
    let (mut bytes, mut body) = (worker.take_buffer(), worker.take_buffer());
    write_call(call, id, &mut body);
    write_request(route, target.service_id, &body, &mut bytes);
    worker.give_buffer(body);
    let request = Request {
        method: "POST",
        bytes: &bytes,
        repeatable,
        deadline: target.start + target.service.model.timeout,
    };
    told.relayed(&route.upstream.model.id);
    let sent_at = worker.now();
    let flight = Flight::start(route.upstream.in_flight.of(worker.number));
    let response = upstream::exchange(worker, target.view, &route.upstream, &request).await;
    drop(flight);
    worker.give_buffer(bytes);
    let judged = response.and_then(|response| {
        let judged = judge(&response, id, call.id, out);
        // Behind an answer to another call, the one to this call may follow.
        let answered = !matches!(&judged, Err(no) if no.kind == ErrorKind::BadAnswer);
        response.release(worker, answered);
        judged
    });
    let outcome = judged.as_ref().map_or_else(|no| RelayOutcome::Failed(no.kind), |yes| yes.0);
    route.relays.of(worker.number).add(outcome, worker.now() - sent_at);
    let (outcome, status) = judged.map_err(|failure| Error::new(failure.kind, failure.message))?;
    let outcome = if outcome == RelayOutcome::Ok { Outcome::Ok } else { Outcome::RpcError };
    // PATH hands the backend's status on; a customer's client expects 200 where there is an answer.
    Ok((outcome, if target.shape == Shape::Path { status } else { 200 }))
}

/// A relay under way, for as long as it lives.
pub(crate) struct Flight<'a>(&'a Counter);

impl<'a> Flight<'a> {
    pub(crate) fn start(counter: &'a Counter) -> Flight<'a> {
        counter.add(1);
        Flight(counter)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.take(1);
    }
}

/// Writes a call under our id, of the parts of it that mean something.
pub(crate) fn write_call(call: &Call<'_>, id: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(Decimal::of(id).digits());
    out.extend_from_slice(b",\"method\":");
    json::write_text(out, &call.method);
    if let Some(params) = call.params {
        out.extend_from_slice(b",\"params\":");
        out.extend_from_slice(params);
    }
    out.push(b'}');
}

/// Puts a request together: the route's head and a body.
fn write_request(route: &Route, service_id: &str, body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&route.head);
    out.extend_from_slice(Decimal::of(body.len() as u64).digits());
    if route.upstream.model.kind == Kind::Path && *route.service == *OTHER {
        out.extend_from_slice(b"\r\ntarget-service-id: ");
        out.extend_from_slice(service_id.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
}

/// Judges an upstream's answer to the call that was sent under `sent_id`, and writes it under the
/// caller's id. The body decides, never the HTTP status: nodes send errors with 200 and answers with
/// 500.
pub(crate) fn judge(
    response: &Response,
    sent_id: u64,
    id: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<(RelayOutcome, u16), Failure> {
    let bad = |message: String| Failure {
        kind: ErrorKind::BadAnswer,
        message: message.into(),
        sent: true,
    };
    let answer = match answer::parse(response.body()) {
        Ok(answer) => answer,
        Err(why) if (200..300).contains(&response.status) => {
            return Err(bad(format!("the upstream's answer is no JSON-RPC: {why}")));
        }
        Err(_) => {
            let message = format!("the upstream answered with HTTP status {}", response.status);
            return Err(Failure {
                kind: ErrorKind::BadStatus,
                message: message.into(),
                sent: true,
            });
        }
    };
    let own = Decimal::of(sent_id);
    let own = own.digits();
    match answer.outcome {
        answer::Outcome::Result(result) if answer.id == own => {
            write_result(id, result, out);
            Ok((RelayOutcome::Ok, response.status))
        }
        // A server that could not make out the request answers under no id.
        answer::Outcome::Error { code, message, raw, .. }
            if answer.id == own || answer.id == b"null" =>
        {
            let category = Category::of(code, message);
            write_rpc_error(id, category.one_code(code), code, message, raw, out);
            Ok((RelayOutcome::Rpc(category), response.status))
        }
        _ => Err(bad("the upstream answered another call: its id is not ours".into())),
    }
}

fn write_result(id: Option<&[u8]>, result: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.unwrap_or(b"null"));
    out.extend_from_slice(b",\"result\":");
    out.extend_from_slice(result);
    out.push(b'}');
}

/// Hands an error object on, under one meaning of its code.
fn write_rpc_error(
    id: Option<&[u8]>,
    one_code: Option<i64>,
    code: i64,
    message: &[u8],
    raw: &[u8],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.unwrap_or(b"null"));
    out.extend_from_slice(b",\"error\":");
    match one_code {
        None => out.extend_from_slice(raw),
        Some(one_code) => {
            out.extend_from_slice(format!("{{\"code\":{one_code},\"message\":").as_bytes());
            out.extend_from_slice(message);
            out.extend_from_slice(format!(",\"data\":{{\"upstream_code\":{code}}}}}").as_bytes());
        }
    }
    out.push(b'}');
}

/// Why a call has no route, in words.
pub(crate) fn not_routed(kind: ErrorKind, service: &str, method: &str) -> Error {
    let message = match kind {
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
mod tests;
