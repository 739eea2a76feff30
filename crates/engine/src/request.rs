//! Requests as bytes, ready to be sent.
//!
//! A request without placeholders is one array of bytes that is written as it is. The others are put
//! together in a buffer of the worker's, head first, because the length of the body stands before
//! it.

use crate::connection::TlsStart;
use base64::Engine as _;
use plimsoll_plan::{Draw, Plan, Scheme, Template, Turn, Url};
use plimsoll_rpc::judge::Expected;
use std::io::Write;

/// Where connections go: what has the same origin shares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) scheme: Scheme,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    pub(crate) fn of(url: &Url) -> Origin {
        Origin { scheme: url.scheme, host: url.host.clone(), port: url.port }
    }
}

/// A request template, compiled.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) pool: usize,
    pub(crate) head_only: bool,
    parts: Parts,
    /// What a JSON-RPC answer must answer, when every request asks the same.
    pub(crate) expected: Option<Expected<'static>>,
}

#[derive(Debug)]
enum Parts {
    Fixed(Vec<u8>),
    Drawn {
        /// Up to the value of Content-Length, or the whole head.
        head: Vec<Template>,
        body: Option<Template>,
    },
}

impl Request {
    /// Compiles a turn; `close` asks the other side to close after each.
    pub(crate) fn compile(turn: &Turn, pool: usize, close: bool) -> Request {
        let head = head(turn, close);
        let body = turn.body.template().cloned();
        let has_length = body.is_some() || matches!(turn.method.as_str(), "POST" | "PUT" | "PATCH");
        let body = if has_length { Some(body.unwrap_or_default()) } else { None };
        let fixed = head.iter().chain(&body).all(|template| template.as_plain().is_some());
        let expected = body.as_ref().and_then(|body| Expected::of(body.as_plain()?).ok());
        let expected = expected.map(Expected::into_owned);
        let mut request = Request {
            pool,
            head_only: turn.method == "HEAD",
            parts: Parts::Drawn { head, body },
            expected,
        };
        if fixed {
            let mut bytes = Vec::new();
            let draw = Draw { seq: 0, key: plimsoll_measure::rng::Key::new(0) };
            request.render(draw, &mut bytes, &mut Vec::new());
            request.parts = Parts::Fixed(bytes);
        }
        request
    }

    /// The bytes of one request, put together in `out` where they are not the same for all.
    #[inline]
    pub(crate) fn bytes<'a>(
        &'a self,
        draw: Draw,
        (out, body): (&'a mut Vec<u8>, &mut Vec<u8>),
    ) -> &'a [u8] {
        match &self.parts {
            Parts::Fixed(bytes) => bytes,
            Parts::Drawn { .. } => {
                self.render(draw, out, body);
                out
            }
        }
    }

    /// Renders the body of one request alone.
    pub(crate) fn render_body(&self, draw: Draw, out: &mut Vec<u8>) {
        out.clear();
        if let Parts::Drawn { body: Some(body), .. } = &self.parts {
            body.render(draw, out);
        }
    }

    /// Renders one request into `out`, and its body alone into `body_out`.
    fn render(&self, draw: Draw, out: &mut Vec<u8>, body_out: &mut Vec<u8>) {
        out.clear();
        body_out.clear();
        match &self.parts {
            Parts::Fixed(bytes) => out.extend_from_slice(bytes),
            Parts::Drawn { head, body } => {
                head.iter().for_each(|template| template.render(draw, out));
                if let Some(body) = body {
                    body.render(draw, body_out);
                    write!(out, "Content-Length: {}\r\n", body_out.len()).expect("to memory");
                }
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(body_out);
            }
        }
    }
}

/// Everything up to Content-Length.
fn head(turn: &Turn, close: bool) -> Vec<Template> {
    let text = |text: String| Template::plain(text);
    let mut head =
        vec![text(format!("{} ", turn.method)), turn.path.clone(), text(" HTTP/1.1\r\n".into())];
    let given = |name: &str| turn.headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    let mut defaults = String::new();
    if !given("host") {
        defaults += &format!("Host: {}\r\n", turn.url.authority());
    }
    if !given("user-agent") {
        defaults += concat!("User-Agent: plimsoll/", env!("CARGO_PKG_VERSION"), "\r\n");
    }
    if !given("accept") {
        defaults += "Accept: */*\r\n";
    }
    if let Some((name, password)) = turn.url.user.as_ref().filter(|_| !given("authorization")) {
        let pair = format!("{name}:{password}");
        let pair = base64::engine::general_purpose::STANDARD.encode(pair);
        defaults += &format!("Authorization: Basic {pair}\r\n");
    }
    if close {
        defaults += "Connection: close\r\n";
    }
    head.push(text(defaults));
    for header in &turn.headers {
        head.push(text(format!("{}: ", header.name)));
        head.push(header.value.clone());
        head.push(text("\r\n".into()));
    }
    head
}

/// A redirect on its way: the request that follows it.
#[derive(Debug)]
pub(crate) struct Hop {
    pub(crate) left: u32,
    pub(crate) url: Url,
    pub(crate) request: Request,
}

impl Hop {
    /// The request to send after `status` and `location`, seen from the one before (RFC 9110
    /// §15.4): 303 always, and 301 and 302 after a POST, go on as GET; another origin is told no
    /// credentials.
    pub(crate) fn after(
        before: (&Url, u32),
        turn: &Turn,
        status: u16,
        location: &str,
        close: bool,
    ) -> Result<Hop, String> {
        let url = before.0.join(location)?;
        let drops_body = status == 303 || matches!(status, 301 | 302) && turn.method == "POST";
        let mut next = turn.clone();
        let same_origin = Origin::of(&url) == Origin::of(before.0);
        if drops_body && next.method != "HEAD" {
            next.method = "GET".into();
            next.body = plimsoll_plan::Body::Empty;
            next.headers.retain(|h| !h.name.to_ascii_lowercase().starts_with("content-"));
        }
        if !same_origin {
            let secret = ["authorization", "cookie", "host"];
            next.headers.retain(|h| !secret.contains(&h.name.to_ascii_lowercase().as_str()));
        }
        next.path = Template::plain(url.path.clone());
        next.url = Url {
            user: if same_origin { turn.url.user.clone() } else { url.user.clone() },
            ..url.clone()
        };
        Ok(Hop { left: before.1 - 1, url, request: Request::compile(&next, 0, close) })
    }
}

/// What TLS to an origin begins with; `None` in the clear.
pub(crate) fn tls_start(
    plan: &Plan,
    config: Option<&std::sync::Arc<rustls::ClientConfig>>,
    origin: &Origin,
) -> Result<Option<TlsStart>, String> {
    match (origin.scheme, config) {
        (Scheme::Http, _) => Ok(None),
        (Scheme::Https, Some(config)) => {
            Ok(Some((config.clone(), crate::tls::server_name(&plan.tls, &origin.host)?)))
        }
        (Scheme::Https, None) => Err("TLS was not prepared for this run".into()),
    }
}
