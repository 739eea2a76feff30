//! What a request asks for: which of the gateway's faces it meets, and with what it is answered.
//!
//! It knows no socket and no HTTP version: sessions hand it requests and write its answers.

mod cors;
mod pages;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::decode::decoded;
use crate::call::message::{Answer, JSON, Request};
use crate::call::relay::{self, Target};
use crate::call::rest;
use crate::call::worker::{View, Worker};
use crate::error::{Error, ErrorKind, Shape};
use crate::observe::access_log::{self, Entry, Line};
use crate::offload;
use crate::payload::Payload;

const TEXT: &[u8] = b"text/plain; charset=utf-8";
const METRICS: &[u8] = b"text/plain; version=0.0.4; charset=utf-8";

/// Answers a request. `turns`: the places for calls of its connection; `None`: the connection has no
/// other request at a time.
pub(crate) async fn answer<'a>(
    worker: &'a Rc<Worker>,
    view: &'a View,
    turns: Option<&'a Semaphore>,
    request: &Request<'_>,
) -> Answer<'a> {
    let (path, query) = split(request.target);
    // It is written where it is: an answer is large to hand on.
    let mut answer = Answer::new(200, JSON, Vec::new());
    let into = &mut answer;
    let answered = match path {
        "/api/gateway" => customer(worker, view, turns, request, query, into).await,
        "/v1" | "/v1/" => instance(worker, view, turns, request, ("", query), into).await,
        _ => match path.strip_prefix("/v1/") {
            Some(_) => {
                let below = &path["/v1".len()..];
                Box::pin(instance(worker, view, turns, request, (below, query), into)).await
            }
            None => {
                let page = Box::pin(pages::answer(worker, view, request.method, path)).await;
                page.map(|page| *into = page)
            }
        },
    };
    if let Err(error) = answered {
        worker.local.counts().refused[error.kind as usize].add(1);
        let shape = if path.starts_with("/v1") { Shape::Path } else { Shape::Own };
        answer = Answer::error(&error, shape, worker.local.take_buffer());
        if let (ErrorKind::HttpMethod, Some(allow)) = (error.kind, allowed(path)) {
            answer.fields.push(("allow".into(), allow.into()));
        }
    }
    if request.fields.origin.is_some() {
        cors::permit(&view.settings.cors, request, &mut answer);
    }
    let sample = view.settings.access_log.sample;
    if sample > 0.0 && worker.local.random() < sample {
        let line = line(worker, view, request, path, &answer);
        answer.settlement.line = Some(Box::new((&worker.shared.access_log, line)));
    }
    answer
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

/// `POST /api/gateway?endpoint=ID`: a customer's call.
async fn customer<'a>(
    worker: &'a Rc<Worker>,
    view: &'a View,
    turns: Option<&'a Semaphore>,
    request: &Request<'_>,
    query: Option<&str>,
    into: &mut Answer<'a>,
) -> Result<(), Error> {
    if request.fields.websocket {
        return Err(no_websocket());
    }
    match request.method {
        "POST" => {}
        "OPTIONS" => {
            *into = cors::options("POST, OPTIONS", &view.settings.cors, request);
            return Ok(());
        }
        method => return Err(wrong_method(method)),
    }
    let Some(id) = query.and_then(|query| parameter(query, "endpoint")) else {
        let message = "no endpoint named; call /api/gateway?endpoint=ID";
        return Err(Error::new(ErrorKind::MissingEndpoint, message));
    };
    let Some(endpoint) = view.routing.endpoint(&id) else {
        return Err(Error::new(ErrorKind::UnknownEndpoint, "there is no such endpoint"));
    };
    let target = Target {
        worker,
        view,
        service: &endpoint.service,
        service_id: Cow::Borrowed(&endpoint.service.model.id),
        rules: Some(&endpoint.rules),
        endpoint_calls: &endpoint.calls,
        turns,
        purpose: request.purpose,
        shape: Shape::Own,
        start: request.start,
    };
    relayed(&target, request, into).await
}

/// `/v1` and what is below it, as a PATH instance answers it.
async fn instance<'a>(
    worker: &'a Rc<Worker>,
    view: &'a View,
    turns: Option<&'a Semaphore>,
    request: &Request<'_>,
    (below, query): (&str, Option<&str>),
    into: &mut Answer<'a>,
) -> Result<(), Error> {
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
    let target = Target {
        worker,
        view,
        service,
        service_id: match service.is_listed {
            true => Cow::Borrowed(&service.model.id),
            false => Cow::Owned(id.into()),
        },
        rules: None,
        endpoint_calls: &service.in_flight,
        turns,
        purpose: request.purpose,
        shape: Shape::Path,
        start: request.start,
    };
    if matches!(request.method, "TRACE" | "CONNECT") {
        return Err(wrong_method(request.method));
    }
    if traverses(below) {
        return Err(Error::new(ErrorKind::NoSuchPath, "the path leaves /v1"));
    }
    match (request.method, below) {
        ("POST", "") => relayed(&target, request, into).await,
        _ => {
            let coding = request.fields.content_encoding;
            let limit = target.limits().body;
            let body = decoded(&worker.local, coding, request.body.clone(), limit).await?;
            *into = Box::pin(rest::pass(&target, request, (below, query), &body)).await;
            Ok(())
        }
    }
}

/// Answers the JSON-RPC in a body.
async fn relayed<'a>(
    target: &Target<'a>,
    request: &Request<'_>,
    into: &mut Answer<'a>,
) -> Result<(), Error> {
    let (local, limit) = (&target.worker.local, target.limits().body);
    let coding = request.fields.content_encoding;
    let body = decoded(local, coding, request.body.clone(), limit).await?;
    relay::answer(target, &body, into).await;
    Ok(())
}

fn wrong_method(method: &str) -> Error {
    let method: String = method.chars().take(20).collect();
    Error::new(ErrorKind::HttpMethod, format!("{method} is not allowed here"))
}

fn no_websocket() -> Error {
    Error::new(ErrorKind::NoWebSocket, "WebSockets are not served here")
}

/// The HTTP methods that a path takes.
fn allowed(path: &str) -> Option<&'static str> {
    match path {
        "/api/gateway" => Some("POST, OPTIONS"),
        "/health" | "/metrics" | "/ready" => Some("GET, HEAD"),
        _ => path.starts_with("/ready/").then_some("GET, HEAD"),
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

/// The line of the access log, up to what the answer's body comes to.
fn line(
    worker: &Worker,
    view: &View,
    request: &Request<'_>,
    path: &str,
    answer: &Answer<'_>,
) -> Line {
    let summary = &answer.summary;
    let mut named = Vec::new();
    summary.write_upstreams(&mut named);
    let trusted = &view.settings.trusted_proxies;
    let now = worker.local.now();
    Line::new(&Entry {
        at: worker.shared.started.unix_ns + now.0,
        instance: &view.settings.instance,
        client: access_log::client(request.peer, request.fields.forwarded_for, trusted),
        method: request.method,
        path,
        endpoint: split(request.target).1.and_then(|query| parameter(query, "endpoint")),
        service: request.fields.service,
        rpc_method: summary.method.map(|method| method.name()),
        upstreams: &String::from_utf8_lossy(&named).replace(", ", ","),
        status: answer.status,
        calls: summary.calls,
        failed: summary.failed,
        attempts: summary.attempts,
        bytes_in: request.body.bytes().len(),
        took: now - request.start,
    })
}

/// The metrics page. It is made on another thread: it adds up thousands of counters.
async fn metrics_page<'a>(worker: &Worker, view: &View) -> Answer<'a> {
    let (shared, state) = (worker.shared.clone(), Arc::clone(view));
    let page = offload::run(move || shared.metrics(&state)).await.unwrap_or_default();
    let mut answer = Answer::new(200, METRICS, Vec::new());
    answer.body = Payload::Whole(page.into_bytes());
    answer
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
