//! Answers one HTTP request: finds the service, applies faults and capacity, and calls the node.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use plimsoll_measure::Nanos;
use plimsoll_rpc::request::{self, Body, Call, Refused};

use crate::control;
use crate::events;
use crate::faults::armed::{RequestEffects, WireFault};
use crate::feed::Feeds;
use crate::node::failure::Failure;
use crate::node::{View, write};
use crate::seen::Seen;
use crate::sim::{Host, Shared};
use crate::timer::Timer;
use crate::websocket::{self, Upgrade};
use crate::wire::{Control, Delivery};

/// One connection.
pub(crate) struct Caller {
    pub(crate) shared: Arc<Shared>,
    pub(crate) timer: Timer,
    pub(crate) control: Control,
    pub(crate) connection: u64,
    /// The service of the listener that accepted the connection, if the listener has only one.
    pub(crate) host: Option<usize>,
    /// What subscriptions of its thread are notified of.
    pub(crate) feeds: Feeds,
    /// Whether its requests are messages of a WebSocket.
    pub(crate) is_websocket: bool,
    /// The WebSocket that the connection becomes after this response.
    pub(crate) upgrade: Mutex<Option<Upgrade>>,
}

/// Approximate length of a response's head, for truncation in the middle of a body.
const HEAD_LEN: usize = 100;
/// Error code if the queue is full (EIP-1474: limit exceeded).
const LIMIT_EXCEEDED: i64 = -32005;

/// The body of a response: complete, or an event stream.
pub(crate) type Answer = Either<Full<Bytes>, events::Body>;

/// Answers one request.
pub(crate) async fn respond<B>(
    caller: Arc<Caller>,
    request: Request<B>,
) -> Result<Response<Answer>, Infallible>
where
    B: hyper::body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    // Resets the faults of the previous response.
    caller.control.set(Delivery::Intact);
    if let Some(response) = events::respond(&caller, &request) {
        return Ok(response.map(Either::Right));
    }
    Ok(respond_at_once(&caller, request).await.map(Either::Left))
}

/// Answers a request that is not for events.
async fn respond_at_once<B>(caller: &Arc<Caller>, mut request: Request<B>) -> Response<Full<Bytes>>
where
    B: hyper::body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    let shared = &caller.shared;
    if let Some(response) = websocket::upgrade(caller, &mut request) {
        return response;
    }
    let path = request.uri().path();
    if request.method() != Method::POST || path.starts_with("/sim/") {
        return control::respond(caller, request).await;
    }
    let host = match find_host(caller, &request) {
        Ok(host) => host,
        Err(response) => return *response,
    };
    let (head, body) = request.into_parts();
    let limit = shared.settings.body_max;
    let body = match Limited::new(body, limit).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let text = format!("request body too large: the limit is {limit} bytes\n");
            return plain(StatusCode::PAYLOAD_TOO_LARGE, text);
        }
        // The client disconnected during its request.
        Err(_) => return plain(StatusCode::BAD_REQUEST, "incomplete request body\n".into()),
    };
    let now = shared.clock.now();
    let order = shared.record.request(|order| Seen {
        order,
        connection: caller.connection,
        at: now,
        service: host.node.service.name.clone(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into())
            })
            .collect(),
        body: body.clone(),
    });
    answer(caller, host, &body, order, now).await
}

/// Finds the service by the listener, by the first part of the path, by PATH's header if the path is
/// `/v1`, or because there is only one service.
pub(crate) fn find_host<'c, B>(
    caller: &'c Caller,
    request: &Request<B>,
) -> Result<&'c Host, Box<Response<Full<Bytes>>>> {
    let shared = &caller.shared;
    if let Some(number) = caller.host {
        return Ok(&shared.hosts[number]);
    }
    let name = request.uri().path()[1..].split('/').next().unwrap_or_default();
    if name == "v1" {
        let Some(id) = request.headers().get("target-service-id") else {
            return Err(Box::new(control::no_service_id()));
        };
        let id = String::from_utf8_lossy(id.as_bytes()).into_owned();
        return shared.host(&id).ok_or_else(|| Box::new(control::unknown_service_id(shared, &id)));
    }
    let host = if name.is_empty() && shared.hosts.len() == 1 {
        shared.hosts.first()
    } else {
        shared.host(name)
    };
    host.ok_or_else(|| {
        let known = shared.names().collect::<Vec<_>>().join(", ");
        let message = format!("unknown service \"{name}\": use /SERVICE, one of {known}");
        let mut out = Vec::new();
        let failure = Failure::new(plimsoll_rpc::code::METHOD_NOT_FOUND, message);
        write_failure(&mut out, None, &failure);
        Box::new(json(StatusCode::NOT_FOUND, out))
    })
}

/// What a request led to.
pub(crate) enum Outcome {
    /// The answers to its calls.
    Answer(Vec<u8>),
    /// An HTTP status without an answer, and the seconds of `Retry-After`.
    Status(u16, Option<u64>),
    /// The queue was full; the answer says so.
    Full(Vec<u8>),
    /// The code with which a WebSocket connection is closed.
    Close(u16),
}

async fn answer(
    caller: &Caller,
    host: &Host,
    body: &Bytes,
    order: u64,
    now: Nanos,
) -> Response<Full<Bytes>> {
    match outcome(caller, host, body, order, now).await {
        Outcome::Answer(out) => json(StatusCode::OK, out),
        Outcome::Full(out) => json(StatusCode::SERVICE_UNAVAILABLE, out),
        Outcome::Status(status, retry_after) => refuse(status, retry_after),
        // Of WebSocket connections.
        Outcome::Close(_) => plain(StatusCode::BAD_GATEWAY, String::new()),
    }
}

/// Answers the calls of a request, after the time that its service, its latency and its faults take.
pub(crate) async fn outcome(
    caller: &Caller,
    host: &Host,
    body: &[u8],
    order: u64,
    now: Nanos,
) -> Outcome {
    let shared = &caller.shared;
    let calls = request::parse(body, shared.settings.batch_max);
    let effects = inject(shared, host, &calls, now);
    let done = match host.station().map(|mut station| station.arrive(shared.clock.now())) {
        None => Nanos::ZERO,
        Some(Some(visit)) => visit.done,
        Some(None) => {
            shared.record.overflowed.fetch_add(1, Ordering::Relaxed);
            let mut out = Vec::new();
            let failure = Failure::new(LIMIT_EXCEEDED, "the node's queue is full");
            write_failure(&mut out, None, &failure);
            return Outcome::Full(out);
        }
    };
    let mut until = done;
    if let Some(latency) = &shared.settings.latency {
        until = done.max(now) + latency.sample(&mut shared.latency_key.with(order).sequence());
    }
    if effects.delay > Nanos::ZERO {
        until = until.max(now) + effects.delay;
    }
    let until = until.max(effects.until.unwrap_or_default());
    if until > Nanos::ZERO {
        caller.timer.until(until).await;
    }
    if let Some((status, retry_after)) = effects.status {
        return Outcome::Status(status, retry_after);
    }
    if let Some(code) = effects.close.filter(|_| caller.is_websocket) {
        return Outcome::Close(code);
    }
    let out = if effects.garbage {
        b"<html>502 Bad Gateway \xff{".to_vec()
    } else {
        let mut view = host.node.view(shared.calendar.unix());
        view.head = view.tip.saturating_sub(effects.lag);
        view.chain_id = effects.chain_id.unwrap_or(view.chain_id);
        answer_calls(shared, host, &calls, &view, now)
    };
    if let Some(fault) = effects.wire {
        caller.control.set(match fault {
            WireFault::Reset { after } => Delivery::Cut { left: after, reset: true },
            WireFault::Truncate { after } => {
                Delivery::Cut { left: after.unwrap_or(HEAD_LEN + out.len() / 2), reset: false }
            }
            WireFault::Slow { bytes, every } => Delivery::Drip { bytes, every },
            WireFault::Refuse => Delivery::Refuse,
            WireFault::Calm => Delivery::Calm,
        });
    }
    Outcome::Answer(out)
}

/// The effects of faults on a whole request. Carries out reorganisations that are due.
fn inject(
    shared: &Shared,
    host: &Host,
    calls: &Result<Body<'_>, Refused<'_>>,
    now: Nanos,
) -> RequestEffects {
    if shared.faults.is_empty() {
        return RequestEffects::default();
    }
    let batch: Vec<Call<'_>> = match calls {
        Ok(Body::Single(call)) => vec![call.clone()],
        Ok(Body::Batch(batch)) => batch.calls().filter_map(Result::ok).collect(),
        Err(_) => Vec::new(),
    };
    let methods: Vec<&str> = batch.iter().map(|call| &*call.method).collect();
    let effects = shared.faults.apply(&host.node.service.name, &methods, now);
    for depth in &effects.reorganise {
        // Has no effect if the list is full; the limit is documented.
        host.node.reorganise(shared.calendar.unix(), *depth);
    }
    effects
}

fn answer_calls(
    shared: &Shared,
    host: &Host,
    calls: &Result<Body<'_>, Refused<'_>>,
    view: &View,
    now: Nanos,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    match calls {
        Err(refused) => write_refusal(&mut out, refused),
        Ok(Body::Single(call)) => answer_call(shared, host, call, view, now, &mut out),
        Ok(Body::Batch(batch)) => {
            for call in batch.calls() {
                let start = out.len();
                out.push(if start == 0 { b'[' } else { b',' });
                match call {
                    Ok(call) => answer_call(shared, host, &call, view, now, &mut out),
                    Err(refused) => write_refusal(&mut out, &refused),
                }
                if out.len() == start + 1 {
                    out.truncate(start); // a notification
                }
            }
            if !out.is_empty() {
                out.push(b']');
            }
        }
    }
    out
}

fn answer_call(
    shared: &Shared,
    host: &Host,
    call: &Call<'_>,
    view: &View,
    now: Nanos,
    out: &mut Vec<u8>,
) {
    shared.record.call(&call.method);
    let service = &host.node.service.name;
    let effects = if shared.faults.is_empty() {
        Default::default()
    } else {
        shared.faults.apply_to_call(service, &call.method, now)
    };
    let start = out.len();
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    match call.id {
        _ if effects.wrong_id => out.extend_from_slice(b"\"not the id that was sent\""),
        id => out.extend_from_slice(id.unwrap_or(b"null")),
    }
    let result = out.len();
    out.extend_from_slice(b",\"result\":");
    let outcome = match effects.error {
        Some((code, message)) => Err(Failure::new(code, message)),
        None => host.node.answer(call, view, out),
    };
    if let Err(failure) = outcome {
        out.truncate(result);
        out.extend_from_slice(b",\"error\":");
        failure.write(out);
    }
    out.push(b'}');
    if call.id.is_none() {
        out.truncate(start);
    }
}

fn write_refusal(out: &mut Vec<u8>, refused: &Refused<'_>) {
    write_failure(out, refused.id, &Failure::new(refused.why.code(), refused.why.to_string()));
}

/// Writes an error response with this `id`.
pub(crate) fn write_failure(out: &mut Vec<u8>, id: Option<&[u8]>, failure: &Failure) {
    let mut object = write::Object::open(out);
    object.raw("jsonrpc", "\"2.0\"");
    object.member("id").extend_from_slice(id.unwrap_or(b"null"));
    failure.write(object.member("error"));
    object.close();
}

fn refuse(status: u16, retry_after: Option<u64>) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = plain(status, format!("{status}\n"));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A JSON response.
pub(crate) fn json(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    with_type(status, body, HeaderValue::from_static("application/json"))
}

/// A plain-text response.
pub(crate) fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    with_type(status, body.into_bytes(), HeaderValue::from_static("text/plain; charset=utf-8"))
}

fn with_type(status: StatusCode, body: Vec<u8>, kind: HeaderValue) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
