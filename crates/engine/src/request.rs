//! Compiled requests, ready to be sent.
//!
//! A request without placeholders is a single byte array that is written as is. Others are rendered
//! into buffers of the worker, the body first, because the head contains its length.

use crate::connection::{Opening, TlsStart};
use crate::http2::encode::Fields;
use base64::Engine as _;
use plimsoll_plan::{
    Body, DefaultHeaders, Header, Origin, Plan, Protocol, RequestSpec, Scheme, Template, Url,
    Values,
};
use plimsoll_rpc::judge::Expected;
use plimsoll_websocket::COMPRESSION;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

/// A compiled request template.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) pool: usize,
    pub(crate) head_only: bool,
    /// Whether it ends its connection, by a header of its own.
    pub(crate) closes: bool,
    /// The body's length; zero if it varies.
    pub(crate) body_len: u64,
    /// Its index in the plan; `None` if it is not part of the plan.
    pub(crate) number: Option<u32>,
    /// The same for HTTP/2, if it may be sent with that.
    http2: Option<Box<Http2Request>>,
    /// The same as a call over WebSocket, if it is one.
    websocket: Option<Box<WebSocketRequest>>,
    parts: Parts,
    /// The expected JSON-RPC answer, if it is the same for every arrival.
    pub(crate) expected: Option<Expected<'static>>,
}

#[derive(Debug)]
enum Parts {
    Fixed(Vec<u8>),
    Drawn {
        /// The head, without the body's framing and the final empty line.
        head: Vec<Template>,
        body: Option<Template>,
        /// Whether the body is sent in chunked encoding, as one chunk.
        chunked: bool,
    },
}

impl Request {
    /// Compiles a request.
    pub(crate) fn compile(spec: &RequestSpec, pool: usize, style: Style) -> Request {
        let head = head(spec, style);
        let body = spec.body.template().cloned();
        let has_length = body.is_some() || matches!(spec.method.as_str(), "POST" | "PUT" | "PATCH");
        let body = if has_length { Some(body.unwrap_or_default()) } else { None };
        let fixed = head.iter().chain(&body).all(|template| template.as_plain().is_some());
        let expected = body.as_ref().and_then(|body| Expected::of(body.as_plain()?).ok());
        let expected = expected.map(Expected::into_owned);
        let body_len =
            body.as_ref().and_then(Template::as_plain).map_or(0, |body| body.len() as u64);
        let http2 = style.protocol.may_be_http2(spec.url.scheme);
        let http2 = http2.then(|| Box::new(Http2Request::compile(spec, body.as_ref(), style)));
        let websocket = spec.url.scheme.is_websocket();
        let websocket = websocket.then(|| Box::new(WebSocketRequest::compile(body.as_ref())));
        let mut request = Request {
            pool,
            number: None,
            http2,
            websocket,
            body_len,
            head_only: spec.method == "HEAD",
            closes: spec.headers.iter().any(|h| h.name.eq_ignore_ascii_case("connection")),
            parts: Parts::Drawn { head, body, chunked: spec.chunked },
            expected,
        };
        if fixed {
            let mut bytes = Vec::new();
            let values = Values { seq: 0, key: plimsoll_measure::rng::Key::new(0) };
            request.render(values, &mut bytes, &mut Vec::new());
            request.parts = Parts::Fixed(bytes);
        }
        request
    }

    /// The bytes of one request, rendered into `out` if it has placeholders.
    #[inline]
    pub(crate) fn bytes<'a>(
        &'a self,
        values: Values,
        (out, body): (&'a mut Vec<u8>, &mut Vec<u8>),
    ) -> &'a [u8] {
        match &self.parts {
            Parts::Fixed(bytes) => bytes,
            Parts::Drawn { .. } => {
                self.render(values, out, body);
                out
            }
        }
    }

    /// The request for HTTP/2.
    #[inline]
    pub(crate) fn http2(&self) -> &Http2Request {
        self.http2.as_ref().expect("HTTP/2 is spoken only where the plan may use it")
    }

    /// The call over WebSocket.
    #[inline]
    pub(crate) fn websocket(&self) -> &WebSocketRequest {
        self.websocket.as_ref().expect("only calls are sent over WebSocket")
    }

    /// Renders only the body of one request.
    pub(crate) fn render_body(&self, values: Values, out: &mut Vec<u8>) {
        out.clear();
        if let Parts::Drawn { body: Some(body), .. } = &self.parts {
            body.render(values, out);
        }
    }

    /// Renders one request into `out`, and its body into `body_out`.
    fn render(&self, values: Values, out: &mut Vec<u8>, body_out: &mut Vec<u8>) {
        out.clear();
        body_out.clear();
        match &self.parts {
            Parts::Fixed(bytes) => out.extend_from_slice(bytes),
            Parts::Drawn { head, body, chunked } => {
                head.iter().for_each(|template| template.render(values, out));
                if let Some(body) = body {
                    body.render(values, body_out);
                    if *chunked {
                        return append_chunked(body_out, out);
                    }
                    write!(out, "Content-Length: {}\r\n", body_out.len()).expect("to memory");
                }
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(body_out);
            }
        }
    }
}

/// Appends the end of the head, and the body as one chunk (RFC 9112 §7.1). A chunk of length zero would
/// be the last one, so an empty body has only that.
fn append_chunked(body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    if !body.is_empty() {
        write!(out, "{:x}\r\n", body.len()).expect("to memory");
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
}

/// How a plan's requests are written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    /// Whether to add `Connection: close`.
    close: bool,
    headers: DefaultHeaders,
    protocol: Protocol,
}

impl Style {
    /// The style of a plan.
    pub(crate) fn of(plan: &Plan) -> Style {
        let (close, headers) = (!plan.connections.reuse, plan.default_headers);
        Style { close, headers, protocol: plan.protocol }
    }
}

/// The head without the body's framing.
fn head(spec: &RequestSpec, style: Style) -> Vec<Template> {
    let text = |text: &str| Template::plain(text);
    let mut head =
        vec![text(&format!("{} ", spec.method)), spec.path.clone(), text(" HTTP/1.1\r\n")];
    for (name, value) in headers(spec, style) {
        head.push(text(&format!("{name}: ")));
        head.push(value);
        head.push(text("\r\n"));
    }
    head
}

/// The headers except those of the body's framing: those that the request leaves to the engine, then its
/// own.
fn headers(spec: &RequestSpec, style: Style) -> Vec<(String, Template)> {
    let given = |name: &str| spec.headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    let mut headers: Vec<(String, Template)> = Vec::new();
    let mut add = |name: &str, value: &str| headers.push((name.into(), Template::plain(value)));
    if !given("host") {
        add("Host", &spec.url.authority());
    }
    let (agent, (accepts, accepted)) = match style.headers {
        DefaultHeaders::Plimsoll => {
            (concat!("plimsoll/", env!("CARGO_PKG_VERSION")), ("Accept", "*/*"))
        }
        DefaultHeaders::Go => ("Go-http-client/1.1", ("Accept-Encoding", "gzip")),
    };
    if !given("user-agent") {
        add("User-Agent", agent);
    }
    let omits = match style.headers {
        DefaultHeaders::Plimsoll => given("accept"),
        DefaultHeaders::Go => given("accept-encoding") || given("range") || spec.method == "HEAD",
    };
    if !omits {
        add(accepts, accepted);
    }
    if let Some((name, password)) = spec.url.user.as_ref().filter(|_| !given("authorization")) {
        let pair = format!("{name}:{password}");
        let pair = base64::engine::general_purpose::STANDARD.encode(pair);
        add("Authorization", &format!("Basic {pair}"));
    }
    if style.close && !given("connection") {
        add("Connection", "close");
    }
    headers.extend(spec.headers.iter().map(|header| (header.name.clone(), header.value.clone())));
    headers
}

/// A request compiled for HTTP/2.
#[derive(Debug)]
pub(crate) struct Http2Request {
    pub(crate) fields: Fields,
    /// Whether the head states the length of the body.
    pub(crate) states_length: bool,
    body: Template,
}

impl Http2Request {
    fn compile(spec: &RequestSpec, body: Option<&Template>, style: Style) -> Http2Request {
        let headers = headers(spec, style);
        let authority = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let authority = authority.map(|(_, value)| value.clone()).unwrap_or_default();
        let mut fields = Fields::default();
        fields.add(":method", Template::plain(spec.method.clone()));
        fields.add(":scheme", Template::plain(spec.url.scheme.name()));
        fields.add(":authority", authority);
        fields.add(":path", spec.path.clone());
        // Headers of HTTP/1 connections (RFC 9113 §8.2.2).
        const OMITTED: [&str; 6] = [
            "host",
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
        ];
        for (name, value) in headers {
            if !OMITTED.contains(&name.to_ascii_lowercase().as_str()) {
                fields.add(&name, value);
            }
        }
        let states_length = body.is_some() && !spec.chunked;
        Http2Request { fields, states_length, body: body.cloned().unwrap_or_default() }
    }

    /// The body of one request, rendered into `out` if it has placeholders.
    #[inline]
    pub(crate) fn body<'a>(&'a self, values: Values, out: &'a mut Vec<u8>) -> &'a [u8] {
        if let Some(plain) = self.body.as_plain() {
            return plain;
        }
        out.clear();
        self.body.render(values, out);
        out
    }
}

/// A call over WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocketRequest {
    body: Template,
    /// Where the id is, if the body has no placeholders.
    id: Option<Range<usize>>,
}

impl WebSocketRequest {
    fn compile(body: Option<&Template>) -> WebSocketRequest {
        let body = body.cloned().unwrap_or_default();
        let id = body.as_plain().and_then(id_in);
        WebSocketRequest { body, id }
    }

    /// Renders the call with this id instead of its own into `out`; `scratch` is a buffer.
    #[inline]
    pub(crate) fn render(
        &self,
        values: Values,
        id: u64,
        (out, scratch): (&mut Vec<u8>, &mut Vec<u8>),
    ) {
        let (body, place) = match self.body.as_plain() {
            Some(plain) => (plain, self.id.clone()),
            None => {
                scratch.clear();
                self.body.render(values, scratch);
                (&scratch[..], id_in(scratch))
            }
        };
        out.clear();
        // The plan was checked with other values of the placeholders.
        let place = place.unwrap_or(body.len()..body.len());
        out.extend_from_slice(&body[..place.start]);
        write!(out, "{id}").expect("to memory");
        out.extend_from_slice(&body[place.end..]);
    }
}

/// Where the value of the id is in a call.
fn id_in(body: &[u8]) -> Option<Range<usize>> {
    let mut members = plimsoll_rpc::json::members(body).filter_map(Result::ok);
    let id = members.find(|member| *member.plain() == *b"id")?.value;
    let start = (id.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    Some(start..start + id.len())
}

/// What opens WebSocket connections to an origin; `None` for HTTP.
pub(crate) fn opening_of(plan: &Plan, origin: &Origin) -> Option<Arc<Opening>> {
    let spec = plan.requests.iter().find(|spec| spec.origin() == *origin)?;
    spec.url.scheme.is_websocket().then(|| {
        let values = Values { seq: 0, key: plimsoll_measure::rng::Key::new(0) };
        let mut head = b"GET ".to_vec();
        spec.path.render(values, &mut head);
        head.extend_from_slice(b" HTTP/1.1\r\n");
        // Without `Connection: close`: the connection carries many calls.
        let style = Style { close: false, ..Style::of(plan) };
        for (name, value) in headers(spec, style) {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            value.render(values, &mut head);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
        );
        if spec.compression {
            let offer = format!("Sec-WebSocket-Extensions: {COMPRESSION}\r\n");
            head.extend_from_slice(offer.as_bytes());
        }
        let (message_max, compression) = (plan.body_max, spec.compression);
        Arc::new(Opening { head, message_max, compression })
    })
}

/// A request that an arrival carries itself: of a feed, or the one that a redirect leads to.
#[derive(Debug)]
pub(crate) struct Hop {
    /// How many more redirects may follow.
    pub(crate) left: u32,
    /// Whether it follows a redirect. If not, it comes from a feed.
    pub(crate) is_redirect: bool,
    /// The request of the feed that the arrival began with, if any.
    pub(crate) fed: Option<Arc<FedRequest>>,
    /// The request of the arrival before this one, if it was not of the plan either.
    pub(crate) before: Option<Box<Hop>>,
    /// The uncompiled form of `request`, from which the next redirect is derived.
    pub(crate) spec: RequestSpec,
    pub(crate) request: Request,
}

/// What results report of a request that is not part of the plan.
#[derive(Debug)]
pub(crate) struct FedRequest {
    pub(crate) method: String,
    /// As written.
    pub(crate) url: String,
    pub(crate) body_len: u64,
}

/// Headers for one origin only, besides those with secrets: names of the origin, and headers that a
/// proxy in front of it would set, which describe the network that the first origin is in.
fn is_for_one_origin(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let internal =
        ["x-forwarded", "x-real-ip", "x-internal", "x-original", "x-envoy", "x-amz-", "cf-"];
    ["host", "origin", "referer", "forwarded", "via"].contains(&name.as_str())
        || internal.iter().any(|start| name.starts_with(start))
}

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfollowed {
    /// Its `Location` is not the URL of a request.
    BadLocation,
    /// It would send a body with a secret to another origin.
    SecretBody,
}

impl Hop {
    /// The request after a redirect of `before` with a status and a `Location` (RFC 9110 §15.4): 303
    /// always becomes a GET, as do 301 and 302 after a POST or, as in Go's client, any method. Another origin is sent no credentials
    /// and no header that holds a secret or is meant for one origin, and neither is what follows, even
    /// if it leads back. Nor is it sent a body that holds a secret: the redirect is not followed.
    pub(crate) fn after(
        before: &RequestSpec,
        values: Values,
        (status, location): (u16, &[u8]),
        left: u32,
        style: Style,
    ) -> Result<Hop, Unfollowed> {
        let mut path = Vec::new();
        before.path.render(values, &mut path);
        let path = String::from_utf8_lossy(&path).into_owned();
        let url = Url { path, ..before.url.clone() }
            .join(location)
            .map_err(|_| Unfollowed::BadLocation)?;
        let mut spec = before.clone();
        let is_go = style.headers == DefaultHeaders::Go;
        let drops_body =
            status == 303 || matches!(status, 301 | 302) && (is_go || spec.method == "POST");
        if drops_body && spec.method != "HEAD" {
            spec.method = "GET".into();
            spec.body = Body::Empty;
            spec.headers.retain(|h| !h.name.to_ascii_lowercase().starts_with("content-"));
        }
        let same_origin = url.origin() == before.url.origin();
        if !same_origin {
            if matches!(&spec.body, Body::Inline(text, _) if text.hides()) {
                return Err(Unfollowed::SecretBody);
            }
            spec.headers.retain(|h| !h.secret && !is_for_one_origin(&h.name));
        }
        let inherited = before.url.user.clone().filter(|_| same_origin);
        let user = url.user.clone().or(inherited);
        spec.path = Template::plain(url.path.clone());
        spec.url = Url { user, ..url };
        spec.url_shown = spec.url.to_string();
        if is_go {
            add_referer(&mut spec, before);
        }
        let request = Request::compile(&spec, 0, style);
        Ok(Hop { left, is_redirect: true, fed: None, before: None, spec, request })
    }
}

/// Adds a `Referer` as Go's client does: the URL before without its credentials, unless it was secure and
/// the new one is not.
fn add_referer(spec: &mut RequestSpec, before: &RequestSpec) {
    let downgrades = before.url.scheme == Scheme::Https && spec.url.scheme == Scheme::Http;
    if downgrades || spec.headers.iter().any(|h| h.name.eq_ignore_ascii_case("referer")) {
        return;
    }
    let text = Url { user: None, ..before.url.clone() }.to_string();
    let (name, value) = ("Referer".into(), Template::plain(text.clone()));
    spec.headers.push(Header { name, value, shown: text, secret: false });
}

/// The TLS configuration and server name for an origin; `None` for plain HTTP.
pub(crate) fn tls_start(
    plan: &Plan,
    config: Option<&Arc<rustls::ClientConfig>>,
    origin: &Origin,
) -> Result<Option<TlsStart>, String> {
    match (origin.scheme, config) {
        (Scheme::Http | Scheme::Ws, _) => Ok(None),
        (Scheme::Wss, Some(config)) => {
            // WebSockets are opened over HTTP/1.1.
            let mut config = rustls::ClientConfig::clone(config);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let name = crate::tls::server_name(&plan.tls, &origin.host)?;
            Ok(Some((Arc::new(config), name)))
        }
        (Scheme::Https, Some(config)) => {
            Ok(Some((config.clone(), crate::tls::server_name(&plan.tls, &origin.host)?)))
        }
        (Scheme::Https | Scheme::Wss, None) => {
            Err("https is unavailable: the TLS certificates could not be loaded at the start"
                .into())
        }
    }
}

#[cfg(test)]
mod tests;
