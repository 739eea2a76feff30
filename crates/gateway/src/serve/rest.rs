//! REST below `/v1`: requests that are not JSON-RPC, handed on as they are.
//!
//! Chains that speak REST beside or instead of JSON-RPC (Cosmos' `/status`, Beacon's `/eth/v1/…`) are
//! asked this way. Nothing in them is understood; fields that belong to one connection stay on it,
//! and paths that climb are refused, so that what lies beside `/v1` at an instance cannot be reached.

use std::borrow::Cow;

use crate::call::relay::{Decimal, Flight, Target, Told, not_routed};
use crate::call::routing;
use crate::error::{Error, ErrorKind, Fault};
use crate::http1;
use crate::observe::stats::{Outcome, RelayOutcome};
use crate::serve::face::{self, Answer, Request};
use crate::upstream::{self, Response};
use plimsoll_registry::model::Kind;
use plimsoll_rpc::method::Class;

/// What a request that names no JSON-RPC method counts as in the rules of an upstream.
const METHOD: &str = "REST";

/// Fields that belong to a connection, or that the gateway writes itself.
const NOT_HANDED_ON: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "target-service-id",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
];

/// Fields of an answer that are not the upstream's to say.
const NOT_TAKEN: &[&str] = &[
    "access-control-allow-origin",
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

/// Hands a request on to an upstream of the service, and its answer back.
pub(crate) async fn pass<'a>(
    target: &Target<'a>,
    request: &Request<'_>,
    below: &str,
    query: Option<&str>,
) -> Answer<'a> {
    let mut told = Told::default();
    let (mut answer, outcome) = match relay(target, request, below, query, &mut told).await {
        Ok(done) => done,
        Err(error) => {
            if told.attempts == 0 {
                target.count_refused(&error);
            }
            let answer = Answer::error(&error, target.shape, target.worker.take_buffer());
            (answer, target.failed(&error))
        }
    };
    target.count(None, outcome, &mut told);
    answer.told = Told { status: answer.status, ..told };
    answer
}

async fn relay<'a>(
    target: &Target<'a>,
    request: &Request<'_>,
    below: &str,
    query: Option<&str>,
    told: &mut Told<'a>,
) -> Result<(Answer<'a>, Outcome), Error> {
    if face::climbs(below) {
        return Err(Error::new(ErrorKind::NoSuchPath, "the path climbs"));
    }
    let limit = target.view.settings.limits.body;
    let body = face::decoded(request.fields.content_encoding, request.body, limit)?;
    let picked = target.service.pick(Class::Read, METHOD, target.start);
    let route = picked.map_err(|kind| not_routed(kind, target.service_id, METHOD))?;
    let bytes = put_together(target, request, &route.upstream.model, below, query, &body);
    told.relayed(&route.upstream.model.id);
    let sent_at = target.worker.now();
    let flight = Flight::start(route.upstream.in_flight.of(target.worker.number));
    let exchange = upstream::Request {
        method: request.method,
        bytes: &bytes,
        repeatable: matches!(request.method, "GET" | "HEAD"),
        deadline: target.start + target.service.model.timeout,
    };
    let response = upstream::exchange(target.worker, target.view, &route.upstream, &exchange).await;
    drop(flight);
    let relayed = match &response {
        Ok(response) if response.status < 500 => RelayOutcome::Ok,
        Ok(_) => RelayOutcome::Failed(ErrorKind::BadStatus),
        Err(failure) => RelayOutcome::Failed(failure.kind),
    };
    route.relays.of(target.worker.number).add(relayed, target.worker.now() - sent_at);
    let response = response.map_err(|failure| Error::new(failure.kind, failure.message))?;
    let outcome = match relayed {
        RelayOutcome::Ok => Outcome::Ok,
        _ => Outcome::Failed(Fault::Upstream),
    };
    let answer = hand_back(&response, request.method);
    response.release(target.worker, true);
    Ok((answer, outcome))
}

/// The request as the upstream is sent it.
fn put_together(
    target: &Target<'_>,
    request: &Request<'_>,
    upstream: &plimsoll_registry::model::Upstream,
    below: &str,
    query: Option<&str>,
    body: &[u8],
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
    let mut head = routing::request_start(request.method, upstream, &path);
    let own = |name: &str| upstream.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    let mut options = Options::default();
    request.all.visit(|name, value| options.read(name, value));
    request.all.visit(|name, value| {
        let stays = NOT_HANDED_ON.iter().any(|field| field.eq_ignore_ascii_case(name))
            || name.eq_ignore_ascii_case("content-encoding")
            || options.name(name)
            || own(name);
        if !stays {
            field(name, value, &mut head);
        }
    });
    if upstream.kind == Kind::Path {
        field("target-service-id", target.service_id.as_bytes(), &mut head);
    }
    field("x-forwarded-for", request.peer.to_string().as_bytes(), &mut head);
    if !body.is_empty() || matches!(request.method, "POST" | "PUT" | "PATCH") {
        field("content-length", Decimal::of(body.len() as u64).digits(), &mut head);
    }
    head.extend_from_slice(b"\r\n");
    head.extend_from_slice(body);
    head
}

fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
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

/// The answer as the caller is given it.
fn hand_back<'a>(response: &Response, method: &str) -> Answer<'a> {
    let head = &response.buffer[response.head.clone()];
    let mut options = Options::default();
    http1::visit_response_fields(head, |field| options.read(field.name, field.value));
    // Without a body, the length is that of the one there would be.
    let bodiless = method == "HEAD" || response.status == 304;
    let mut content_type = Vec::new();
    let mut fields: Vec<(Cow<'static, str>, Vec<u8>)> = Vec::new();
    http1::visit_response_fields(head, |field| {
        if field.name.eq_ignore_ascii_case("content-type") {
            content_type = field.value.to_vec();
        }
        let taken = !NOT_TAKEN.iter().any(|name| name.eq_ignore_ascii_case(field.name))
            && !options.name(field.name);
        if taken || (bodiless && field.name.eq_ignore_ascii_case("content-length")) {
            let name = field.name.to_ascii_lowercase();
            fields.push((name.into(), field.value.to_vec()));
        }
    });
    Answer {
        status: response.status,
        content_type: content_type.into(),
        body: response.body().to_vec(),
        fields,
        told: Told::default(),
        share: None,
    }
}
