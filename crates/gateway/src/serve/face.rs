//! What a request asks for: which of the gateway's faces it meets, and with what it is answered.
//!
//! It knows no socket and no HTTP version: sessions hand it requests and write its answers.

mod cors;
mod pages;

use std::borrow::Cow;
use std::io::Read;
use std::net::IpAddr;
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use hyper::HeaderMap;
use plimsoll_measure::Nanos;

use crate::budget::Share;
use crate::call::relay::{self, Target, Told};
use crate::call::worker::{View, Worker};
use crate::error::{Error, ErrorKind, Shape};
use crate::http1::{self, Fields};
use crate::observe::access_log::Entry;
use crate::observe::metrics;
use crate::serve::rest;

const JSON: &[u8] = b"application/json";
const TEXT: &[u8] = b"text/plain; charset=utf-8";
const METRICS: &[u8] = b"text/plain; version=0.0.4; charset=utf-8";

/// A request, borrowed from the session that read it.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// Path and query, or a whole URL.
    pub(crate) target: &'a str,
    pub(crate) fields: Fields<'a>,
    pub(crate) all: AllFields<'a>,
    pub(crate) body: &'a [u8],
    pub(crate) peer: IpAddr,
    /// When it had been read.
    pub(crate) start: Nanos,
}

/// All header fields, for what hands them on.
pub(crate) enum AllFields<'a> {
    /// A head that was read before.
    Head(&'a [u8]),
    Map(&'a HeaderMap),
}

impl AllFields<'_> {
    pub(crate) fn visit(&self, mut visit: impl FnMut(&str, &[u8])) {
        match self {
            AllFields::Head(head) => {
                http1::visit_fields(head, |field| visit(field.name, field.value))
            }
            AllFields::Map(map) => {
                map.iter().for_each(|(name, value)| visit(name.as_str(), value.as_bytes()));
            }
        }
    }
}

/// What a request is answered with.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) content_type: Cow<'static, [u8]>,
    pub(crate) body: Vec<u8>,
    /// Fields beside those that every answer has.
    pub(crate) fields: Vec<(Cow<'static, str>, Vec<u8>)>,
    pub(crate) told: Told<'a>,
    /// A long body's part of the memory, held until it is written.
    pub(crate) share: Option<Share>,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(status: u16, content_type: &'static [u8], body: Vec<u8>) -> Answer<'a> {
        Answer {
            status,
            content_type: Cow::Borrowed(content_type),
            body,
            fields: Vec::new(),
            told: Told { status, ..Told::default() },
            share: None,
        }
    }

    /// An answer to what cannot be done.
    pub(crate) fn error(error: &Error, shape: Shape, mut body: Vec<u8>) -> Answer<'a> {
        error.write(shape, b"null", &mut body);
        Answer::new(error.status(shape), JSON, body)
    }
}

/// Answers a request.
pub(crate) async fn answer<'a>(
    worker: &'a Rc<Worker>,
    view: &'a View,
    request: &Request<'a>,
) -> Answer<'a> {
    let (path, query) = split(request.target);
    let answered = match path {
        "/api/gateway" => customer(worker, view, request, query).await,
        "/v1" | "/v1/" => instance(worker, view, request, "", query).await,
        _ => match path.strip_prefix("/v1/") {
            Some(_) => instance(worker, view, request, &path["/v1".len()..], query).await,
            None => pages::answer(worker, view, request.method, path),
        },
    };
    let answered = answered.and_then(|mut answer| {
        let limit = view.settings.limits.memory;
        Share::cover(&mut answer.share, worker, answer.body.len(), limit).map(|()| answer)
    });
    let shape = if path.starts_with("/v1") { Shape::Path } else { Shape::Own };
    let mut answer = answered.unwrap_or_else(|error| {
        worker.counts().refused[error.kind as usize].add(1);
        let mut answer = Answer::error(&error, shape, worker.take_buffer());
        if let (ErrorKind::HttpMethod, Some(allow)) = (error.kind, allowed(path)) {
            answer.fields.push(("allow".into(), allow.into()));
        }
        answer
    });
    if request.fields.origin.is_some() {
        cors::permit(&view.settings.cors, request, &mut answer);
    }
    log(worker, view, request, path, &answer);
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
    request: &Request<'a>,
    query: Option<&str>,
) -> Result<Answer<'a>, Error> {
    if request.fields.websocket {
        return Err(no_websocket());
    }
    match request.method {
        "POST" => {}
        "OPTIONS" => return Ok(cors::options("POST, OPTIONS", &view.settings.cors, request)),
        method => return Err(wrong_method(method)),
    }
    let Some(id) = query.and_then(|query| parameter(query, "endpoint")) else {
        let message = "no endpoint named; call /api/gateway?endpoint=ID";
        return Err(Error::new(ErrorKind::MissingEndpoint, message));
    };
    let Some(endpoint) = view.registry.endpoint(&id) else {
        return Err(Error::new(ErrorKind::UnknownEndpoint, "there is no such endpoint"));
    };
    let target = Target {
        worker,
        view,
        service: &endpoint.service,
        service_id: &endpoint.service.model.id,
        rules: Some(&endpoint.rules),
        shape: Shape::Own,
        start: request.start,
    };
    relayed(&target, request).await
}

/// `/v1` and what is below it, as a PATH instance answers it.
async fn instance<'a>(
    worker: &'a Rc<Worker>,
    view: &'a View,
    request: &Request<'a>,
    below: &str,
    query: Option<&str>,
) -> Result<Answer<'a>, Error> {
    if request.method == "OPTIONS" && request.fields.request_method.is_some() {
        return Ok(cors::options("GET, POST, PUT, OPTIONS", &view.settings.cors, request));
    }
    if request.fields.websocket {
        return Err(no_websocket());
    }
    let Some(id) = request.fields.service.and_then(|id| std::str::from_utf8(id).ok()) else {
        let message = "no service ID provided in 'Target-Service-Id' header";
        return Err(Error::new(ErrorKind::MissingService, message));
    };
    let Some(service) = view.registry.service(id) else {
        let known: Vec<&str> =
            view.registry.services().iter().map(|service| service.model.id.as_str()).collect();
        let message = format!("there is no such service; known here: {}", known.join(", "));
        return Err(Error::new(ErrorKind::UnknownService, message));
    };
    let target = Target {
        worker,
        view,
        service,
        service_id: id,
        rules: None,
        shape: Shape::Path,
        start: request.start,
    };
    match (request.method, below) {
        ("POST", "") => relayed(&target, request).await,
        _ => Ok(Box::pin(rest::pass(&target, request, below, query)).await),
    }
}

/// Answers the JSON-RPC in a body.
async fn relayed<'a>(target: &Target<'a>, request: &Request<'_>) -> Result<Answer<'a>, Error> {
    let limit = target.view.settings.limits.body;
    let body = decoded(request.fields.content_encoding, request.body, limit)?;
    let mut out = target.worker.take_buffer();
    let told = relay::answer(target, &body, &mut out).await;
    let mut answer = match told.status {
        0 => Answer::new(204, b"", out),
        status => Answer::new(status, JSON, out),
    };
    let status = answer.status;
    answer.told = Told { status, ..told };
    Ok(answer)
}

/// A body without its content coding.
pub(crate) fn decoded<'a>(
    coding: Option<&[u8]>,
    body: &'a [u8],
    limit: u64,
) -> Result<Cow<'a, [u8]>, Error> {
    let Some(coding) = coding.filter(|coding| !coding.eq_ignore_ascii_case(b"identity")) else {
        return Ok(Cow::Borrowed(body));
    };
    if !coding.eq_ignore_ascii_case(b"gzip") && !coding.eq_ignore_ascii_case(b"x-gzip") {
        let message = format!("content coding \"{}\"; only gzip is taken", coding.escape_ascii());
        return Err(Error::new(ErrorKind::UnsupportedEncoding, message));
    }
    let mut plain = Vec::new();
    // One byte more than may be, to see that there is more.
    match MultiGzDecoder::new(body).take(limit + 1).read_to_end(&mut plain) {
        Ok(_) if plain.len() as u64 > limit => Err(too_large(limit)),
        Ok(_) => Ok(Cow::Owned(plain)),
        Err(error) => {
            let message = format!("the body is not gzip: {error}");
            Err(Error::new(ErrorKind::UnsupportedEncoding, message))
        }
    }
}

pub(crate) fn too_large(limit: u64) -> Error {
    Error::new(ErrorKind::BodyTooLarge, format!("the body is longer than {limit} bytes"))
}

fn wrong_method(method: &str) -> Error {
    let method: String = method.chars().take(20).collect();
    Error::new(ErrorKind::HttpMethod, format!("{method} is not what this path takes"))
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
    query.split('&').find_map(value).map(unescaped)
}

/// A text without `%xx`; what is no escape stays as it is, and what is no UTF-8 becomes U+FFFD.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
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

/// So often a path is unescaped to see whether it climbs, for whoever unescapes twice; what is escaped
/// more often than that is not meant well.
const UNESCAPE_MAX: usize = 4;

/// Whether a path says, in whatever spelling, to go up: then it could leave what it seems to be in.
pub(crate) fn climbs(path: &str) -> bool {
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

fn log(worker: &Worker, view: &View, request: &Request<'_>, path: &str, answer: &Answer<'_>) {
    let sample = view.settings.access_log.sample;
    if sample <= 0.0 || worker.random() >= sample {
        return;
    }
    let trusted = &view.settings.trusted_proxies;
    worker.shared.access_log.write(&Entry {
        at: worker.shared.started.unix_ns + worker.now().0,
        instance: &view.settings.instance,
        client: crate::observe::access_log::client(
            request.peer,
            request.fields.forwarded_for,
            trusted,
        ),
        method: request.method,
        path,
        endpoint: split(request.target).1.and_then(|query| parameter(query, "endpoint")),
        service: request.fields.service,
        answer,
        bytes_in: request.body.len(),
        took: worker.now() - request.start,
    });
}

/// The metrics page.
fn metrics_page<'a>(worker: &Worker, view: &View) -> Answer<'a> {
    Answer::new(200, METRICS, metrics::page(&worker.shared, view).into_bytes())
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
            assert!(climbs(bad), "{bad}");
        }
        for good in ["/", "/cosmos/bank/v1beta1/balances/kava1", "/a..b/c;d", "/...", "/x%20y%25"] {
            assert!(!climbs(good), "{good}");
        }
    }

    #[test]
    fn bodies_are_decoded_within_the_limit() {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&[b' '; 10_000]).expect("writes");
        let packed = gzip.finish().expect("writes");
        let kind = |coding: &[u8], body: &[u8], limit| {
            decoded(Some(coding), body, limit).map(|body| body.len()).map_err(|error| error.kind)
        };
        assert_eq!(kind(b"gzip", &packed, 10_000), Ok(10_000));
        assert_eq!(kind(b"gzip", &packed, 9_999), Err(ErrorKind::BodyTooLarge));
        assert_eq!(
            kind(b"gzip", &packed[..packed.len() - 9], 10_000),
            Err(ErrorKind::UnsupportedEncoding)
        );
        assert_eq!(kind(b"gzip", b"plain", 100), Err(ErrorKind::UnsupportedEncoding));
        assert_eq!(kind(b"br", b"", 100), Err(ErrorKind::UnsupportedEncoding));
        assert_eq!(kind(b"identity", b"abc", 100), Ok(3));
    }
}
