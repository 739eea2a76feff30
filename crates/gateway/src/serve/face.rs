//! Routes a request by its path to one of the gateway's faces, and builds the answer.
//!
//! Independent of sockets and HTTP versions: sessions pass requests in and write the answers.

mod access;
pub(super) mod cache;
pub(super) mod cors;
mod line;
pub(super) mod pages;

use std::borrow::Cow;
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::admin;
use super::decode::decoded;
use crate::call::forwarded;
use crate::call::message::{Answer, JSON, Request};
use crate::call::passed::{self, Passed};
use crate::call::relay;
use crate::call::rest;
use crate::call::routing::{Endpoint, Service};
use crate::call::target::Target;
use crate::call::trace::RequestTrace;
use crate::call::worker::{View, Worker};
use crate::error::{CallError, Error, ErrorKind, Shape};
use crate::http1::{Glimpse, unescaped};
use crate::limits::Allowances;
use crate::local::Local;
use crate::offload;
use line::Described;
use pages::PageRequest;
use plimsoll_registry::settings::{Cors, Faces};

const TEXT: &[u8] = b"text/plain; charset=utf-8";
const METRICS: &[u8] = b"text/plain; version=0.0.4; charset=utf-8";

/// A request with its context.
struct RequestContext<'a, 'r> {
    worker: &'a Rc<Worker>,
    view: &'a View,
    /// Limits the connection's concurrent calls; `None` if the connection has only one request at a time.
    turns: Option<&'a Semaphore>,
    request: &'r Request<'r>,
    path: &'r str,
    query: Option<&'r str>,
    /// The endpoint that is called, once it is known.
    endpoint: Cell<Option<&'a Endpoint>>,
    /// The request id: the caller's, or a generated one if calls are logged.
    id: Option<Cow<'r, [u8]>>,
}

/// Answers a request. `turns` limits the connection's concurrent calls; `None` if the connection has only
/// one request at a time.
pub(crate) async fn answer<'a>(
    worker: &'a Rc<Worker>,
    view: &'a View,
    turns: Option<&'a Semaphore>,
    request: &Request<'_>,
) -> Answer<'a> {
    let (path, query) = split(request.target);
    let sample = view.settings.access_log.sample;
    let id = match passed::request_id(request) {
        Some(id) => Some(Cow::Borrowed(id)),
        None => (sample > 0.0).then(|| Cow::Owned(worker.new_request_id().into_bytes())),
    };
    let endpoint = Cell::new(None);
    let context = RequestContext { worker, view, turns, request, path, query, endpoint, id };
    // Written in place, because an answer is large to move.
    let mut answer = Answer::new(200, JSON, Vec::new());
    let mut failed = None;
    // Boxed, so that idle connections do not reserve memory for it.
    if let Err(error) = Box::pin(context.route(&mut answer)).await {
        worker.local.counts().refused[error.kind as usize].add(1);
        let shape = if path.starts_with("/v1") { Shape::Path } else { Shape::Own };
        answer = Box::pin(context.refusal(&error, shape)).await;
        failed = Some(CallError::of(&error, shape));
    }
    cors::permit(context.cors(), request.fields.origin, &mut answer);
    if let Some(id) = &context.id {
        answer.fields.push((passed::REQUEST_ID.into(), id.to_vec()));
    }
    if sample > 0.0 && worker.local.random() < sample {
        let line = Described::of(&context).line(&answer, failed);
        answer.settlement.line = Some(Box::new((&worker.shared.access_log, line)));
    }
    answer
}

/// Answers a request that cannot be read; `bytes_in`: what was read of its body.
pub(crate) fn refused<'a>(
    worker: &'a Worker,
    view: &View,
    error: &Error,
    seen: &Glimpse<'_>,
    (peer, faces): (IpAddr, Faces),
    bytes_in: usize,
) -> Answer<'a> {
    worker.local.counts().refused[error.kind as usize].add(1);
    let start = worker.local.now();
    let mut answer = Answer::error(error, Shape::Own, Vec::new());
    let cors = cors::rule(&view.settings.cors, faces);
    match seen.origin {
        Some(origin) => cors::permit(cors, Some(origin), &mut answer),
        None => cors::permit_any(cors, &mut answer),
    }
    let sample = view.settings.access_log.sample;
    let id = match seen.request_id.and_then(passed::valid_id) {
        Some(id) => Some(id.to_vec()),
        None => (sample > 0.0).then(|| worker.new_request_id().into_bytes()),
    };
    if sample > 0.0 && worker.local.random() < sample {
        let (path, query) = split(seen.target);
        let trusted = &view.settings.trusted_proxies;
        let described = Described {
            worker,
            view,
            client: forwarded::client(peer, Some(&seen.forwarded_for), trusted),
            method: seen.method,
            path,
            query,
            service: seen.service,
            request_id: id.as_deref(),
            bytes_in,
            start,
        };
        let line = described.line(&answer, Some(CallError::of(error, Shape::Own)));
        answer.settlement.line = Some(Box::new((&worker.shared.access_log, line)));
    }
    answer.fields.extend(id.map(|id| (passed::REQUEST_ID.into(), id)));
    answer
}

impl<'a> RequestContext<'a, '_> {
    /// Writes the answer of the face at the path.
    #[inline]
    async fn route(&self, into: &mut Answer<'a>) -> Result<(), Error> {
        let faces = self.request.faces;
        match self.path {
            "/api/gateway" | "/api/gateway/" if faces.gateway => self.customer(None, into).await,
            "/v1" | "/v1/" if faces.path => self.instance("", into).await,
            path => {
                if let Some(below) = path.strip_prefix("/v1").filter(|_| faces.path)
                    && below.starts_with('/')
                {
                    return Box::pin(self.instance(below, into)).await;
                }
                if let Some(id) = path.strip_prefix("/api/gateway/").filter(|_| faces.gateway) {
                    return Box::pin(self.customer(Some(id), into)).await;
                }
                Box::pin(self.other(into)).await
            }
        }
    }

    /// All other paths: probes, metrics, and calls to the only service.
    async fn other(&self, into: &mut Answer<'a>) -> Result<(), Error> {
        let RequestContext { worker, view, request, .. } = self;
        if self.path == "/" && request.method == "POST" && request.faces.path {
            let Some(service) = view.routing.only_service() else {
                let message = "POST / relays when exactly one service has an upstream; call /v1 with \
                               the header Target-Service-Id";
                return Err(Error::new(ErrorKind::NoSuchPath, message));
            };
            let target = self.target(service, &service.model.id, Shape::Own)?;
            return self.relayed(&target, into).await;
        }
        let is_cache =
            self.path == cache::PATH && request.faces.admin && request.method != "OPTIONS";
        if let Some(below) = admin::path(self.path, request.faces)
            && (!is_cache || admin::is_on(view))
        {
            *into = admin::answer(worker, view, request, below, self.query).await?;
            return Ok(());
        }
        if is_cache {
            *into = cache::answer(self).await?;
            return Ok(());
        }
        let asked = PageRequest {
            method: request.method,
            path: self.path,
            query: self.query,
            fields: request.fields,
            faces: request.faces,
        };
        *into = pages::answer(&worker.shared, view, &asked).await?;
        Ok(())
    }

    /// Which pages may read the answer.
    fn cors(&self) -> &'a Cors {
        let origins = self.endpoint.get().and_then(|endpoint| endpoint.access.origins.as_ref());
        match origins.filter(|_| self.view.settings.cors != Cors::Off) {
            Some(own) => own,
            None => cors::rule(&self.view.settings.cors, self.request.faces),
        }
    }

    /// The answer for an error; under the call's id, if it is known.
    async fn refusal(&self, error: &Error, shape: Shape) -> Answer<'a> {
        let local = &self.worker.local;
        let id = match error.kind {
            ErrorKind::UnknownEndpoint
            | ErrorKind::MissingEndpoint
            | ErrorKind::UnknownService
            | ErrorKind::MissingKey
            | ErrorKind::InvalidKey
            | ErrorKind::ConflictingKeys
            | ErrorKind::OriginDenied
            | ErrorKind::NetworkDenied
            | ErrorKind::Loop => call_id(local, self.request).await,
            _ => None,
        };
        let mut answer = Answer::error_to(error, shape, id.as_deref(), local.take_buffer());
        if let (ErrorKind::HttpMethod, Some(allow)) = (error.kind, allowed(self.path)) {
            answer.fields.push(("allow".into(), allow.into()));
        }
        if matches!(error.kind, ErrorKind::MissingKey | ErrorKind::InvalidKey) {
            answer.fields.push(("www-authenticate".into(), b"Bearer".to_vec()));
        }
        answer
    }

    /// The target for calls to a service.
    fn target<'t>(
        &self,
        service: &'t Arc<Service>,
        service_id: &'t str,
        shape: Shape,
    ) -> Result<Target<'t>, Error>
    where
        'a: 't,
    {
        let RequestContext { worker, view, request, .. } = self;
        let trace = RequestTrace::of(worker, view, request);
        let (own, id) = (&worker.shared.id, self.id.as_deref());
        let passed = Passed::of(request, &view.settings, own, id, &trace)?;
        Ok(Target {
            worker,
            view,
            service,
            service_id: Cow::Borrowed(service_id),
            rules: None,
            agree: None,
            no_cache: false,
            account: &service.account,
            allowances: Allowances::default(),
            turns: self.turns,
            purpose: request.purpose,
            shape,
            passed,
            trace,
            start: request.start,
        })
    }

    /// A customer's call: `POST /api/gateway?endpoint=ID`, or with the id in the path.
    async fn customer(&self, id: Option<&str>, into: &mut Answer<'a>) -> Result<(), Error> {
        let RequestContext { view, request, .. } = self;
        if request.fields.websocket {
            return Err(no_websocket());
        }
        let (id, key) = named(id, self.query);
        let endpoint = id.as_deref().and_then(|id| view.routing.endpoint(id));
        self.endpoint.set(endpoint);
        match request.method {
            "POST" => {}
            "OPTIONS" => {
                *into = cors::options("POST, OPTIONS", self.cors(), request.fields);
                return Ok(());
            }
            method => return Err(wrong_method(method, "use POST")),
        }
        let Some(id) = id else {
            let message = "no endpoint given; call /api/gateway?endpoint=ID";
            return Err(Error::new(ErrorKind::MissingEndpoint, message));
        };
        let Some(endpoint) = endpoint else {
            let message = access::unknown_endpoint(&view.routing, &id);
            return Err(Error::new(ErrorKind::UnknownEndpoint, message));
        };
        let key = access::check(self, endpoint, key.as_deref())?;
        let service = &endpoint.service;
        let mut target = self.target(service, &service.model.id, Shape::Own)?;
        target.rules = Some(&endpoint.rules);
        target.agree = endpoint.agree.as_ref();
        target.no_cache = endpoint.no_cache && request.fields.no_cache;
        target.allowances = endpoint.access.allowances(key);
        target.account = key.map_or(&endpoint.access.account, |key| &key.account);
        target.account.used(request.start);
        self.relayed(&target, into).await
    }

    /// `/v1` and paths below it, in the form of a PATH instance.
    async fn instance(&self, below: &str, into: &mut Answer<'a>) -> Result<(), Error> {
        let RequestContext { worker, view, request, .. } = self;
        if request.method == "OPTIONS" && request.fields.request_method.is_some() {
            *into = cors::options("GET, POST, PUT, OPTIONS", &view.settings.cors, request.fields);
            return Ok(());
        }
        if request.fields.websocket {
            return Err(no_websocket());
        }
        let Some(id) = request.fields.service.and_then(|id| std::str::from_utf8(id).ok()) else {
            let message = "no service ID provided in 'Target-Service-Id' header";
            return Err(Error::new(ErrorKind::MissingService, message));
        };
        let Some(service) = view.routing.service(id) else {
            let known: Vec<&str> =
                view.routing.services().iter().map(|service| service.model.id.as_str()).collect();
            let message = format!("no such service; known services: {}", known.join(", "));
            return Err(Error::new(ErrorKind::UnknownService, message));
        };
        let mut target = self.target(service, &service.model.id, Shape::Path)?;
        if !service.is_listed {
            target.service_id = Cow::Owned(id.into());
        }
        if matches!(request.method, "TRACE" | "CONNECT") {
            return Err(wrong_method(request.method, "use POST"));
        }
        if traverses(below) {
            return Err(Error::new(ErrorKind::NoSuchPath, "the path leads out of /v1"));
        }
        match (request.method, below) {
            ("POST", "") => self.relayed(&target, into).await,
            _ if !service.model.rest => Err(no_rest(request.method, below, &target.service_id)),
            _ => {
                let coding = request.fields.content_encoding;
                let limit = target.limits().body;
                let body = decoded(&worker.local, coding, request.body.clone(), limit).await?;
                if rest::is_call(&body).await {
                    let message = "JSON-RPC is accepted only as POST /v1";
                    return Err(Error::new(ErrorKind::InvalidRequest, message));
                }
                *into = Box::pin(rest::pass(&target, request, (below, self.query), &body)).await;
                Ok(())
            }
        }
    }

    /// Relays the JSON-RPC calls in a body.
    #[inline]
    async fn relayed(&self, target: &Target<'a>, into: &mut Answer<'a>) -> Result<(), Error> {
        let (local, limit) = (&target.worker.local, target.limits().body);
        let coding = self.request.fields.content_encoding;
        let body = decoded(local, coding, self.request.body.clone(), limit).await?;
        relay::answer(target, &body, into).await;
        Ok(())
    }
}

/// The id of the call in a body, as received; `None` for batches, and for bodies over
/// [`offload::INLINE_MAX`], compressed or not.
async fn call_id(local: &Local, request: &Request<'_>) -> Option<Vec<u8>> {
    if request.body.bytes().len() > offload::INLINE_MAX {
        return None;
    }
    let coding = request.fields.content_encoding;
    let body = decoded(local, coding, request.body.clone(), offload::INLINE_MAX as u64).await;
    let body = body.ok()?;
    let id = match plimsoll_rpc::request::parse(body.bytes(), 1) {
        Ok(plimsoll_rpc::request::Body::Single(call)) => call.id,
        Ok(plimsoll_rpc::request::Body::Batch(_)) => None,
        Err(refused) => refused.id,
    };
    id.map(<[u8]>::to_vec)
}

/// The path and query of a request target; the host of an absolute URL is ignored.
pub(super) fn split(target: &str) -> (&str, Option<&str>) {
    let target = match target.strip_prefix('/') {
        Some(_) => target,
        None => match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => target,
        },
    };
    let target = match memchr::memchr(b'#', target.as_bytes()) {
        Some(fragment) => &target[..fragment],
        None => target,
    };
    match memchr::memchr(b'?', target.as_bytes()) {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}

/// The endpoint's id and the key that a request names: behind `/api/gateway/`, or the id in the query.
#[inline]
fn named<'r>(
    in_path: Option<&'r str>,
    query: Option<&'r str>,
) -> (Option<Cow<'r, str>>, Option<Cow<'r, str>>) {
    // A path that ends in a slash has no key; it names no endpoint.
    let with_key = in_path.and_then(|id| id.split_once('/')).filter(|(_, key)| !key.is_empty());
    match (with_key, in_path) {
        (Some((id, key)), _) => (Some(unescaped(id)), Some(unescaped(key))),
        (None, Some(id)) => (Some(unescaped(id)), None),
        (None, None) => (query.and_then(|query| parameter(query, "endpoint")), None),
    }
}

/// Why a request that is not JSON-RPC is not relayed.
fn no_rest(method: &str, below: &str, service: &str) -> Error {
    let hint = format!(
        "call service {service} with POST /v1; REST is off (rest = true in [[service]] enables it)"
    );
    match below {
        "" => Error::new(
            ErrorKind::HttpMethod,
            format!("{} is not allowed here: {hint}", shortened(method)),
        ),
        _ => Error::new(ErrorKind::NoSuchPath, format!("no such path: {hint}")),
    }
}

fn wrong_method(method: &str, instead: &str) -> Error {
    let message = format!("{} is not allowed here; {instead}", shortened(method));
    Error::new(ErrorKind::HttpMethod, message)
}

fn shortened(method: &str) -> String {
    method.chars().take(20).collect()
}

fn no_websocket() -> Error {
    Error::new(ErrorKind::NoWebSocket, "WebSockets are not supported")
}

/// The HTTP methods that a path allows.
fn allowed(path: &str) -> Option<&'static str> {
    match path {
        "/api/gateway" | "/v1" | "/v1/" => Some("POST, OPTIONS"),
        "/" => Some(pages::SERVER_METHODS),
        cache::PATH => Some("GET, HEAD, DELETE"),
        path if path.starts_with("/api/gateway/") => Some("POST, OPTIONS"),
        _ => (path == "/metrics" || pages::Probe::find(path).is_some())
            .then_some(pages::PAGE_METHODS),
    }
}

/// The value of a query's parameter; the first one if it is repeated.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let value = |pair: &'a str| pair.strip_prefix(name)?.strip_prefix('=');
    // Usually the first pair matches, so the query is not split in advance.
    let mut rest = query;
    loop {
        let (pair, others) = match memchr::memchr(b'&', rest.as_bytes()) {
            Some(end) => (&rest[..end], Some(&rest[end + 1..])),
            None => (rest, None),
        };
        match (value(pair), others) {
            (Some(value), _) => return Some(unescaped(value)),
            (None, others) => rest = others?,
        }
    }
}

/// How often a path is decoded to detect traversal, because some servers decode twice; paths with more
/// levels of encoding are refused.
const UNESCAPE_MAX: usize = 4;

/// Whether a path contains `.` or `..` segments in any encoding, and could thus escape its prefix.
pub(crate) fn traverses(path: &str) -> bool {
    // Some servers strip parameters after a semicolon.
    let dots = |part: &str| matches!(part.split(';').next(), Some("." | ".."));
    let mut plain = Cow::Borrowed(path);
    for _ in 0..UNESCAPE_MAX {
        if plain.split(['/', '\\']).any(dots) {
            return true;
        }
        match unescaped(&plain).into_owned() {
            same if same == plain => return path.contains('\\'),
            again => plain = Cow::Owned(again),
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_split() {
        let check = |target: &str, path: &str, query: Option<&str>| {
            assert_eq!(split(target), (path, query), "{target}");
        };
        check("/v1", "/v1", None);
        check("/api/gateway?endpoint=a&x", "/api/gateway", Some("endpoint=a&x"));
        check("http://host:1/v1?x", "/v1", Some("x"));
        check("http://host", "/", None);
        check("/a?u=http://b/", "/a", Some("u=http://b/"));
        check("*", "*", None);
        assert_eq!(parameter("a=1&endpoint=x%5fy&endpoint=z", "endpoint").as_deref(), Some("x_y"));
        assert_eq!(parameter("endpoints=x", "endpoint"), None);
    }

    #[test]
    fn traversal_is_detected() {
        for bad in [
            "/../config",
            "/a/..",
            "/%2e%2e/admin",
            "/..%2fadmin",
            "/a/%252e%252e/b",
            "/a\\..\\b",
            "/./x",
            "/%25252e%25252e/a",
            "/%252525252525",
            "/..;/a",
        ] {
            assert!(traverses(bad), "{bad}");
        }
        for good in ["/", "/cosmos/bank/v1beta1/balances/kava1", "/a..b/c;d", "/...", "/x%20y%25"] {
            assert!(!traverses(good), "{good}");
        }
    }
}
