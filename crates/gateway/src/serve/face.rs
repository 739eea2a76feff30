//! What a request asks for: which of the gateway's faces it meets, and with what it is answered.
//!
//! It knows no socket and no HTTP version: sessions hand it requests and write its answers.

pub(super) mod cors;
pub(super) mod pages;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::decode::decoded;
use crate::call::message::{Answer, JSON, Request};
use crate::call::passed::{self, Passed};
use crate::call::relay::{self, Target, shown};
use crate::call::rest;
use crate::call::routing::Service;
use crate::call::worker::{View, Worker};
use crate::error::{CallError, Error, ErrorKind, Shape};
use crate::observe::access_log::{self, Entry, Line};
use crate::offload;

const TEXT: &[u8] = b"text/plain; charset=utf-8";
const METRICS: &[u8] = b"text/plain; version=0.0.4; charset=utf-8";

/// A request, and what it is answered with the help of.
struct Asked<'a, 'r> {
    worker: &'a Rc<Worker>,
    view: &'a View,
    /// The places for calls of its connection; `None`: the connection has no other request at a time.
    turns: Option<&'a Semaphore>,
    request: &'r Request<'r>,
    path: &'r str,
    query: Option<&'r str>,
    /// What the request is called: by its caller, or where calls are logged.
    id: Option<Cow<'r, [u8]>>,
}

/// Answers a request. `turns`: the places for calls of its connection; `None`: the connection has no
/// other request at a time.
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
    let asked = Asked { worker, view, turns, request, path, query, id };
    // It is written where it is: an answer is large to hand on.
    let mut answer = Answer::new(200, JSON, Vec::new());
    let mut failed = None;
    // In a place of its own: a connection that waits for a request must not hold room for it.
    if let Err(error) = Box::pin(asked.route(&mut answer)).await {
        worker.local.counts().refused[error.kind as usize].add(1);
        let shape = if path.starts_with("/v1") { Shape::Path } else { Shape::Own };
        answer = asked.refusal(&error, shape);
        failed = Some(CallError::of(&error, shape));
    }
    cors::permit(&view.settings.cors, request.fields.origin, &mut answer);
    if let Some(id) = &asked.id {
        answer.fields.push((passed::REQUEST_ID.into(), id.to_vec()));
    }
    if sample > 0.0 && worker.local.random() < sample {
        let line = asked.line(&answer, failed);
        answer.settlement.line = Some(Box::new((&worker.shared.access_log, line)));
    }
    answer
}

impl<'a> Asked<'a, '_> {
    /// Writes the answer of the face that the path leads to.
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

    /// What is at no face of its own: probes, metrics, and calls to the only service.
    async fn other(&self, into: &mut Answer<'a>) -> Result<(), Error> {
        let Asked { worker, view, request, .. } = self;
        if self.path == "/" && request.method == "POST" && request.faces.path {
            let Some(service) = view.routing.only_service() else {
                let message = "POST / relays when exactly one service has an upstream; call /v1 with \
                               the header Target-Service-Id";
                return Err(Error::new(ErrorKind::NoSuchPath, message));
            };
            let target = self.target(service, &service.model.id, Shape::Own)?;
            return self.relayed(&target, into).await;
        }
        *into = pages::answer(worker, view, request, self.path, self.query).await?;
        Ok(())
    }

    /// An answer that says what is wrong; under the id of the call, where there is one.
    fn refusal(&self, error: &Error, shape: Shape) -> Answer<'a> {
        let id = match error.kind {
            ErrorKind::UnknownEndpoint
            | ErrorKind::MissingEndpoint
            | ErrorKind::UnknownService
            | ErrorKind::Loop => call_id(self.request),
            _ => None,
        };
        let buffer = self.worker.local.take_buffer();
        let mut answer = Answer::error_to(error, shape, id, buffer);
        if let (ErrorKind::HttpMethod, Some(allow)) = (error.kind, allowed(self.path)) {
            answer.fields.push(("allow".into(), allow.into()));
        }
        answer
    }

    /// Where calls to a service go.
    fn target<'t>(
        &self,
        service: &'t Arc<Service>,
        service_id: &'t str,
        shape: Shape,
    ) -> Result<Target<'t>, Error>
    where
        'a: 't,
    {
        let Asked { worker, view, request, .. } = self;
        let passed = Passed::of(request, &view.settings, &worker.shared.id, self.id.as_deref())?;
        Ok(Target {
            worker,
            view,
            service,
            service_id: Cow::Borrowed(service_id),
            rules: None,
            endpoint_calls: &service.in_flight,
            turns: self.turns,
            purpose: request.purpose,
            shape,
            passed,
            start: request.start,
        })
    }

    /// `POST /api/gateway?endpoint=ID`, or the id as a part of the path: a customer's call.
    async fn customer(&self, id: Option<&str>, into: &mut Answer<'a>) -> Result<(), Error> {
        let Asked { view, request, .. } = self;
        if request.fields.websocket {
            return Err(no_websocket());
        }
        match request.method {
            "POST" => {}
            "OPTIONS" => {
                *into = cors::options("POST, OPTIONS", &view.settings.cors, request);
                return Ok(());
            }
            method => return Err(wrong_method(method, "use POST")),
        }
        let id = match id {
            Some(id) => Some(unescaped(id)),
            None => self.query.and_then(|query| parameter(query, "endpoint")),
        };
        let Some(id) = id else {
            let message = "no endpoint named; call /api/gateway?endpoint=ID";
            return Err(Error::new(ErrorKind::MissingEndpoint, message));
        };
        let Some(endpoint) = view.routing.endpoint(&id) else {
            let message = format!("there is no endpoint {}", shown(&id));
            return Err(Error::new(ErrorKind::UnknownEndpoint, message));
        };
        let service = &endpoint.service;
        let mut target = self.target(service, &service.model.id, Shape::Own)?;
        target.rules = Some(&endpoint.rules);
        target.endpoint_calls = &endpoint.calls;
        self.relayed(&target, into).await
    }

    /// `/v1` and what is below it, as a PATH instance answers it.
    async fn instance(&self, below: &str, into: &mut Answer<'a>) -> Result<(), Error> {
        let Asked { worker, view, request, .. } = self;
        if request.method == "OPTIONS" && request.fields.request_method.is_some() {
            *into = cors::options("GET, POST, PUT, OPTIONS", &view.settings.cors, request);
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
            let message = format!("there is no such service; known here: {}", known.join(", "));
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
            return Err(Error::new(ErrorKind::NoSuchPath, "the path leaves /v1"));
        }
        match (request.method, below) {
            ("POST", "") => self.relayed(&target, into).await,
            _ if !service.model.rest => Err(no_rest(request.method, below, &target.service_id)),
            _ => {
                let coding = request.fields.content_encoding;
                let limit = target.limits().body;
                let body = decoded(&worker.local, coding, request.body.clone(), limit).await?;
                if rest::is_call(&body).await {
                    let message = "JSON-RPC is taken by POST /v1 only";
                    return Err(Error::new(ErrorKind::InvalidRequest, message));
                }
                *into = Box::pin(rest::pass(&target, request, (below, self.query), &body)).await;
                Ok(())
            }
        }
    }

    /// Answers the JSON-RPC in a body.
    #[inline]
    async fn relayed(&self, target: &Target<'a>, into: &mut Answer<'a>) -> Result<(), Error> {
        let (local, limit) = (&target.worker.local, target.limits().body);
        let coding = self.request.fields.content_encoding;
        let body = decoded(local, coding, self.request.body.clone(), limit).await?;
        relay::answer(target, &body, into).await;
        Ok(())
    }

    /// The line of the access log, up to what the answer's body comes to; `refused`: the error of a
    /// request that never became a call.
    fn line(&self, answer: &Answer<'_>, refused: Option<CallError>) -> Line {
        let Asked { worker, view, request, .. } = self;
        let summary = &answer.summary;
        let endpoint_in_path = self.path.strip_prefix("/api/gateway/").filter(|id| !id.is_empty());
        let mut named = Vec::new();
        summary.write_upstreams(&mut named);
        let trusted = &view.settings.trusted_proxies;
        let now = worker.local.now();
        Line::new(&Entry {
            at: worker.shared.started.unix_ns + now.0,
            instance: &view.settings.instance,
            client: access_log::client(request.peer, request.fields.forwarded_for, trusted),
            method: request.method,
            path: match endpoint_in_path {
                Some(_) => "/api/gateway/…",
                None => self.path,
            },
            endpoint: match endpoint_in_path {
                Some(id) => Some(unescaped(id)),
                None => self.query.and_then(|query| parameter(query, "endpoint")),
            },
            service: request.fields.service,
            rpc_method: summary.method.map(|method| method.name()),
            upstreams: &String::from_utf8_lossy(&named).replace(", ", ","),
            status: answer.status,
            calls: summary.calls,
            failed: summary.failed,
            attempts: summary.attempts,
            bytes_in: request.body.bytes().len(),
            took: now - request.start,
            request_id: self.id.as_deref(),
            error: refused.or(summary.error),
            upstream_status: summary.upstream_status,
        })
    }
}

/// The id of the call in a short body, as written; `None`: there is none that could be found at once.
fn call_id<'r>(request: &'r Request<'_>) -> Option<&'r [u8]> {
    let body = request.body.bytes();
    if body.len() > offload::INLINE_MAX || request.fields.content_encoding.is_some() {
        return None;
    }
    match plimsoll_rpc::request::parse(body, 1) {
        Ok(plimsoll_rpc::request::Body::Single(call)) => call.id,
        Ok(plimsoll_rpc::request::Body::Batch(_)) => None,
        Err(refused) => refused.id,
    }
}

/// The path and the query of a target; a whole URL's host is read over.
fn split(target: &str) -> (&str, Option<&str>) {
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

/// Why a request that is not JSON-RPC is not relayed.
fn no_rest(method: &str, below: &str, service: &str) -> Error {
    let hint = format!(
        "service {service} is called by POST /v1; REST is off (rest = true in [[service]])"
    );
    match below {
        "" => Error::new(
            ErrorKind::HttpMethod,
            format!("{} is not allowed here: {hint}", shortened(method)),
        ),
        _ => Error::new(ErrorKind::NoSuchPath, format!("there is no such path here: {hint}")),
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
    Error::new(ErrorKind::NoWebSocket, "WebSockets are not served here")
}

/// The HTTP methods that a path takes.
fn allowed(path: &str) -> Option<&'static str> {
    match path {
        "/api/gateway" | "/v1" | "/v1/" => Some("POST, OPTIONS"),
        "/" => Some("GET, HEAD, POST, OPTIONS"),
        path if path.starts_with("/api/gateway/") => Some("POST, OPTIONS"),
        _ => (path == "/metrics" || pages::Probe::find(path).is_some()).then_some("GET, HEAD"),
    }
}

/// The value of a query's parameter; the first, should it stand there twice.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let value = |pair: &'a str| pair.strip_prefix(name)?.strip_prefix('=');
    // The first pair is mostly the one: no need to look for the ends of others.
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

/// A text without `%xx`; what is no escape stays as it is, and what is no UTF-8 becomes U+FFFD.
fn unescaped(text: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        let pair = behind.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let value = pair.filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match (byte, value.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(value)) => {
                plain.push(value);
                rest = &behind[2..];
            }
            _ => {
                plain.push(*byte);
                rest = behind;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

/// How often a path is unescaped to see whether it traverses, for servers that unescape twice; what is
/// escaped more often than that is refused.
const UNESCAPE_MAX: usize = 4;

/// Whether a path contains `..` in any spelling: then it could leave what it seems to be in.
pub(crate) fn traverses(path: &str) -> bool {
    // A part may carry parameters behind a semicolon, which some servers cut off.
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
        assert_eq!(unescaped("%zz%4"), "%zz%4");
        assert_eq!(unescaped("%+1"), "%+1");
    }

    #[test]
    fn paths_that_climb_are_seen() {
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
