//! REST below `/v1`: requests that are not JSON-RPC, handed on as they are.
//!
//! Chains that speak REST beside or instead of JSON-RPC (Cosmos' `/status`, Beacon's `/eth/v1/…`) are
//! asked this way. Nothing in them is understood; header fields that belong to one connection stay on
//! it, and paths that traverse (`..`) are refused, so that what lies beside `/v1` at an instance
//! cannot be reached.
//!
//! What a caller wrote could make an upstream answer twice, and the second answer would be another
//! caller's. So these requests have connections of their own, a connection that carried a body is
//! not used again, GET and HEAD carry none, and a pooled connection is checked before it is used.
//!
//! A long answer is handed on in pieces as it comes.

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
use crate::upstream::{self, Failure, ReplyPieces, Response, Reuse, Use};

/// What a request that names no JSON-RPC method counts as in the rules of an upstream.
const METHOD: &str = "REST";

/// A longer answer is handed on in pieces.
const WHOLE_MAX: u64 = 64 << 10;

/// Fields of a request that go on to the upstream, beside those that go with every request
/// (`call::passed`): what HTTP's own semantics need, and what Cosmos' and Beacon's REST take.
const HANDED_ON: &[&str] = &[
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

/// Fields of an answer that are not the upstream's to say.
const NOT_TAKEN: &[&str] = &[
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

/// Whether a body is JSON-RPC, or what some node takes for it: an object with a method, or an array of
/// such. It would be past every rule on methods.
pub(crate) async fn is_call(body: &Body<'_>) -> bool {
    match body {
        Body::Long(bytes) if bytes.len() > offload::INLINE_MAX => {
            let bytes = bytes.clone();
            // Where it can no longer be checked, it is refused.
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

/// Hands a request on to an upstream of the service, and its answer back. `body` is the request's,
/// decoded.
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
        summary.fails(&error, target.shape);
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
    let _turn = target.turn().await?;
    let permit = local.capacity.enter(target.endpoint_calls, target.purpose)?;
    let is_bodiless = matches!(request.method, "GET" | "HEAD");
    let body = if is_bodiless { b"" } else { body.bytes() };
    let need = Need { class: Class::Read, method: METHOD };
    let mut tried = Tried::default();
    let pick = |tried: &Tried| target.service.pick(&need, tried, local.recent());
    let mut route: &'a Route = pick(&tried).map_err(|kind| not_routed(kind, target, METHOD))?;
    // What was sent and not answered is not sent again: what a request does, even a GET, is not
    // known here.
    let repeatable = false;
    let mut reuse = Reuse::Checked;
    let (attempt, reply) = loop {
        summary.tries(&route.upstream.model.id);
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
                    let failure = failure.with(Some(status), whole.body());
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
            let pieces = reply.into_pieces(target.service.model.timeout);
            let service = &target.service.model.id;
            let failure = failure.map(|failure| failure.with(Some(status), b""));
            let relaying = Relaying { pieces, attempt, service, failure, _permit: permit };
            Payload::Pieces(Box::new(relaying))
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

/// An answer that is handed on while it comes.
struct Relaying<'a> {
    pieces: ReplyPieces,
    attempt: Attempt<'a>,
    /// For the log.
    service: &'a str,
    /// The failure that its status stands for.
    failure: Option<Failure>,
    _permit: Permit<'a>,
}

impl Pieces for Relaying<'_> {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Option<Bytes>, Truncated>> + '_>> {
        Box::pin(async {
            match self.pieces.next().await {
                Ok(Some(piece)) => Ok(Some(piece)),
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
        self.pieces.length()
    }
}

/// The request's head as it is sent to the upstream.
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
    let own = |name: &str| upstream.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    request.all.visit(|name, value| {
        if HANDED_ON.iter().any(|known| known.eq_ignore_ascii_case(name)) && !own(name) {
            write_field(name, value, &mut head);
        }
    });
    if upstream.kind == Kind::Path {
        write_field("target-service-id", target.service_id.as_bytes(), &mut head);
    }
    let chain = passed::forwarded_for(request, &target.view.settings);
    let chain = chain.unwrap_or_else(|| request.peer.to_string().into_bytes());
    write_field("x-forwarded-for", &chain, &mut head);
    target.passed.write_without_chain(upstream.kind, &mut head);
    head.extend_from_slice(&target.worker.shared.via);
    if length > 0 || matches!(request.method, "POST" | "PUT" | "PATCH") {
        write_field("content-length", Decimal::of(length as u64).digits(), &mut head);
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// What the Connection fields of a message name: fields that are for this connection only, RFC 9110
/// §7.6.1.
#[derive(Default)]
struct Options(Vec<Vec<u8>>);

impl Options {
    fn read(&mut self, name: &str, value: &[u8]) {
        if name.eq_ignore_ascii_case("connection") {
            self.0.extend(value.split(|byte| *byte == b',').map(|one| one.trim_ascii().to_vec()));
        }
    }

    fn name(&self, name: &str) -> bool {
        self.0.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Whether only the gateway may set this field of an answer.
fn is_the_gateways(name: &str) -> bool {
    let starts = |start: &str| {
        name.get(..start.len()).is_some_and(|front| front.eq_ignore_ascii_case(start))
    };
    starts("access-control-") || starts("x-plimsoll-")
}

/// The answer as the caller is given it, without its body.
fn answer_head<'a>(status: u16, head: &[u8], method: &str) -> Answer<'a> {
    let mut options = Options::default();
    http1::visit_response_fields(head, |field| options.read(field.name, field.value));
    // Without a body, the length is that of the one there would be.
    let bodiless = method == "HEAD" || status == 304;
    let mut answer = Answer::new(status, b"", Vec::new());
    http1::visit_response_fields(head, |field| {
        if field.name.eq_ignore_ascii_case("content-type") {
            answer.content_type = Cow::Owned(field.value.to_vec());
        }
        let taken = !NOT_TAKEN.iter().any(|name| name.eq_ignore_ascii_case(field.name))
            && !options.name(field.name)
            && !is_the_gateways(field.name);
        if taken || (bodiless && field.name.eq_ignore_ascii_case("content-length")) {
            let name = field.name.to_ascii_lowercase();
            answer.fields.push((name.into(), field.value.to_vec()));
        }
    });
    answer
}
