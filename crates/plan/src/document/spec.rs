//! Converts a request as written in a plan or a target file to a [`RequestSpec`].
//!
//! Problems are reported by part; the caller knows each part's position.

mod websocket;

use crate::show::{expect_table, headers_table};
use crate::template::Values;
use crate::{
    Body, DefaultHeaders, Expect, Header, RequestSpec, RpcExpect, Standing, StatusRange, Template,
    Url, go_escaped, percent_encode,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use plimsoll_config::values::{quote, quote_filled};
use plimsoll_config::{Field, Table, Text, is_secret, secret_within};
use plimsoll_measure::rng::Key;
use std::path::PathBuf;

/// Headers that the engine sets itself, and what to write instead. A second one would contradict the
/// first, and the message would be invalid.
const OWN_HEADERS: [(&str, &str); 3] = [
    ("content-length", "it is computed from the body; remove the header"),
    ("transfer-encoding", "set transfer = \"chunked\" for a chunked body; remove the header"),
    ("connection", "for a new connection each time: connections = { reuse = false }"),
];
/// Headers of which a request has one. If it is given several, the first is sent: those of `add_headers` come
/// before the request's own. A second Host would be invalid (RFC 9112 §3.2); a second of the others would
/// contradict what the results say.
const SINGLE_HEADERS: [&str; 3] = ["host", "x-vegeta-attack", "x-vegeta-seq"];
/// How a body is framed, as written in a plan: whether it is chunked.
pub(super) const TRANSFERS: [(&str, bool); 2] = [("length", false), ("chunked", true)];
const REQUEST: &str = "write it like: POST http://host:port/path";

/// A problem and a hint how to fix it.
pub(super) struct Problem(pub(super) String, pub(super) &'static str);

/// The part of a request that has a problem.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Method,
    Url,
    /// The value of the request's own header with this index.
    Header(usize),
    Body,
    Expect,
}

/// A body with its variables replaced.
#[derive(Clone, Default)]
pub(super) enum RawBody {
    #[default]
    Empty,
    Inline(Text),
    /// From a file that the resolved plan still names.
    File(PathBuf, Vec<u8>),
    Bytes(Vec<u8>),
}

impl RawBody {
    /// A body from a file to embed in the plan, as text if it is text. `fills`: whether placeholders in
    /// it are replaced.
    pub(super) fn embedded(bytes: Vec<u8>, fills: bool) -> RawBody {
        match String::from_utf8(bytes) {
            Ok(text) => {
                let value = if fills { text } else { Template::escape(&text) };
                let shown = value.replace("${", "$${");
                RawBody::Inline(Text { shown, ..Text::plain(value) })
            }
            Err(error) => RawBody::Bytes(error.into_bytes()),
        }
    }

    /// The body as it is, if `literal`: nothing in it is a placeholder.
    pub(super) fn literal_if(self, literal: bool) -> RawBody {
        match self {
            RawBody::Inline(text) if literal => {
                let [value, shown] = [&text.value, &text.shown].map(|text| Template::escape(text));
                RawBody::Inline(Text { value, shown, ..text })
            }
            RawBody::File(_, bytes) if literal => RawBody::embedded(bytes, false),
            body => body,
        }
    }

    fn read(self, placed: &mut u64) -> Result<Body, Problem> {
        let plain = |message| Problem(message, "");
        Ok(match self {
            RawBody::Empty => Body::Empty,
            RawBody::Inline(text) => {
                let template = Template::parse(&text.value, placed).map_err(plain)?;
                Body::Inline(text, template)
            }
            RawBody::File(path, bytes) => {
                let template = match std::str::from_utf8(&bytes) {
                    Ok(text) => Template::parse(text, placed)
                        .map_err(|message| plain(format!("{}: {message}", path.display())))?,
                    Err(_) => Template::plain(bytes),
                };
                Body::File(path, template)
            }
            RawBody::Bytes(bytes) => Body::Bytes(Template::plain(bytes)),
        })
    }
}

/// A request with its variables replaced.
pub(super) struct RawRequest {
    pub(super) method: String,
    pub(super) url: Text,
    /// The request's own headers, by name and value.
    pub(super) headers: Vec<(String, Text)>,
    pub(super) body: RawBody,
    /// Whether the body is chunked, if the request says so.
    pub(super) chunked: Option<bool>,
    /// Whether it is a call over WebSocket: the URL and the headers open the connection.
    pub(super) is_websocket: bool,
    /// Whether its WebSocket is opened with an offer of compression.
    pub(super) compression: bool,
    /// What it opens, if that stays open.
    pub(super) standing: Option<Standing>,
}

/// Settings of a target that apply to all its requests unless a request overrides them.
#[derive(Clone, Default)]
pub(super) struct TargetDefaults {
    /// Which headers are sent besides those of the plan.
    pub(super) default_headers: DefaultHeaders,
    /// Already validated.
    pub(super) headers: Vec<(String, Text)>,
    /// Sent in addition to the request's own, even to those of the same name. Already validated.
    pub(super) added: Vec<(String, Text)>,
    /// The body of requests without one.
    pub(super) body: RawBody,
    pub(super) expect: Expectation,
    pub(super) chunked: Option<bool>,
    /// Whether the plan is read from a run directory, where a body may be unknown.
    pub(super) recorded: bool,
}

impl TargetDefaults {
    /// The lines of TOML that set them.
    pub(super) fn show(&self, literal: bool) -> String {
        let mut lines = String::new();
        match &self.body {
            RawBody::Empty => {}
            RawBody::Inline(text) if literal => {
                let template = Template::parse(&text.value, &mut 0).expect("an escaped text");
                let bytes = template.as_plain().expect("a text without placeholders");
                lines += &format!("body = {}\n", quote_filled(&String::from_utf8_lossy(bytes)));
            }
            RawBody::Inline(text) => lines += &format!("body = {}\n", quote(&text.shown)),
            RawBody::File(path, _) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                lines += &format!("body_file = {}\n", quote_filled(&path.display().to_string()));
            }
            RawBody::Bytes(bytes) => {
                lines += &format!("body_base64 = {}\n", quote(&BASE64.encode(bytes)));
            }
        }
        if !self.headers.is_empty() {
            lines += &format!("headers = {}\n", shown_headers(&self.headers));
        }
        if !self.added.is_empty() {
            lines += &format!("add_headers = {}\n", shown_headers(&self.added));
        }
        if self.chunked == Some(true) {
            lines += "transfer = \"chunked\"\n";
        }
        let Expectation { status, rpc, contains } = &self.expect;
        if status.is_some() || rpc.is_some() || contains.is_some() {
            let table = expect_table(status.as_ref(), *rpc, contains.as_deref());
            lines += &format!("expect = {table}\n");
        }
        lines
    }
}

/// Headers as a table of TOML, without secrets.
fn shown_headers(headers: &[(String, Text)]) -> String {
    let shown: Vec<(&str, String)> = headers
        .iter()
        .map(|(name, text)| (name.as_str(), text.clone().hidden_if_secret(name).shown))
        .collect();
    headers_table(shown.iter().map(|(name, shown)| (*name, shown.as_str())))
}

impl RawRequest {
    /// The request as it will be sent. Headers are sorted by name, so that the resolved plan, whose
    /// tables have no order, sends the same bytes.
    pub(super) fn spec(
        self,
        defaults: &TargetDefaults,
        expect: &Expectation,
        mut problem: impl FnMut(Part, Problem),
    ) -> Option<RequestSpec> {
        let mut placed = 0;
        let mut ok = true;
        let mut note = |part, fault| {
            ok = false;
            problem(part, fault);
        };
        if let Err(fault) = check_method(&self.method) {
            note(Part::Method, fault);
        }
        let url_written = self.url.value.clone();
        let is_websocket = self.is_websocket;
        let style = (defaults.default_headers, is_websocket);
        let url =
            read_url(&self.url, style, &mut placed).map_err(|fault| note(Part::Url, fault)).ok();
        let named = |name: &str| self.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let given = defaults.headers.iter().filter(|(name, _)| !named(name));
        let mut written: Vec<(Option<usize>, String, Text)> = given
            .chain(&defaults.added)
            .map(|(name, text)| (None, name.clone(), text.clone()))
            .collect();
        let own = self.headers.into_iter().enumerate();
        written.extend(own.map(|(place, (name, text))| (Some(place), name, text)));
        drop_seconds(&mut written);
        written.sort_by(|(_, a, _), (_, b, _)| a.cmp(b));
        let mut headers = Vec::with_capacity(written.len() + 1);
        for (place, name, text) in written {
            match read_header(name, text, &mut placed) {
                Ok(header) => headers.push(header),
                Err(fault) => note(Part::Header(place.unwrap_or(0)), fault),
            }
        }
        if let Some(fault) = websocket::check_opening(&headers, placed).filter(|_| is_websocket) {
            note(Part::Url, fault);
        }
        let body = match self.body {
            RawBody::Empty => defaults.body.clone(),
            own => own,
        };
        let body = body.read(&mut placed).map_err(|fault| note(Part::Body, fault)).ok()?;
        let is_rpc = asks_json_rpc(&body);
        let is_silent = self.standing == Some(Standing::Socket);
        if let Some(fault) = websocket::check_call(&body).filter(|_| is_websocket && !is_silent) {
            note(Part::Url, fault);
        }
        let adds_type =
            !is_websocket && is_rpc && defaults.default_headers == DefaultHeaders::Plimsoll;
        if adds_type && !headers.iter().any(|h| h.name.eq_ignore_ascii_case("content-type")) {
            headers.push(Header {
                name: "Content-Type".into(),
                value: Template::plain("application/json"),
                shown: "application/json".into(),
                secret: false,
            });
            headers.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let may_be_rpc = is_rpc || defaults.recorded;
        let expect = expect.of(&defaults.expect, is_rpc, may_be_rpc);
        let expect = expect.map_err(|f| note(Part::Expect, f)).ok();
        let ((url, url_shown, path), expect) = (url?, expect?);
        let method = self.method;
        let chunked = self.chunked.or(defaults.chunked).unwrap_or(false);
        ok.then_some(RequestSpec {
            method,
            url,
            url_shown,
            url_written,
            path,
            headers,
            body,
            chunked,
            expect,
            compression: self.compression,
            standing: self.standing,
        })
    }
}

/// Of each header that a request has once, leaves the first.
fn drop_seconds(headers: &mut Vec<(Option<usize>, String, Text)>) {
    let mut seen = [false; SINGLE_HEADERS.len()];
    headers.retain(|(_, name, _)| {
        let single = SINGLE_HEADERS.iter().position(|single| name.eq_ignore_ascii_case(single));
        single.is_none_or(|place| !std::mem::replace(&mut seen[place], true))
    });
}

/// `METHOD URL`.
pub(super) fn split_request(text: &Text) -> Result<(String, Text), Problem> {
    let Some((method, url)) = text.value.trim().split_once(' ') else {
        let shown = text.clone().hiding_secrets_of_url().shown;
        return Err(Problem(format!("\"{shown}\" is not in the form METHOD URL"), REQUEST));
    };
    let (shown_method, shown) = text.shown.trim().split_once(' ').unwrap_or((&text.shown, ""));
    if let Some((message, hint)) = secret_within("the method", shown_method) {
        return Err(Problem(message, hint));
    }
    Ok((method.into(), Text { shown: shown.trim().into(), ..Text::plain(url.trim()) }))
}

fn check_method(method: &str) -> Result<(), Problem> {
    if !is_token(method) {
        return Err(Problem(format!("\"{method}\" is not a valid HTTP method"), REQUEST));
    }
    if method.eq_ignore_ascii_case("CONNECT") {
        return Err(Problem("CONNECT is not supported: it opens a tunnel".into(), ""));
    }
    Ok(())
}

/// The URL, the URL as shown, and the path as sent: with [`DefaultHeaders::Go`], escaped as Go's client does.
fn read_url(
    text: &Text,
    (style, is_websocket): (DefaultHeaders, bool),
    placed: &mut u64,
) -> Result<(Url, String, Template), Problem> {
    let plain = |message| Problem(message, "");
    if ["unix:", "http+unix:"].iter().any(|scheme| text.value.starts_with(scheme)) {
        let hint = "let the target listen on a TCP port, such as 127.0.0.1:8080";
        return Err(Problem("Unix sockets are not supported".into(), hint));
    }
    let text = text.clone().hiding_secrets_of_url();
    if let Some((message, hint)) = secret_host(&text) {
        return Err(Problem(message, hint));
    }
    let parse = if is_websocket { Url::parse_websocket } else { Url::parse };
    let url = parse(&text.value).map_err(|message| {
        let is_other = message.contains("unsupported scheme \"ws");
        Problem(
            message,
            if is_other {
                "for WebSocket, write ws = \"ws://host:port/path\" instead of request"
            } else {
                ""
            },
        )
    })?;
    if let Some((_, version)) =
        url.path.rsplit_once(' ').filter(|(_, end)| end.starts_with("HTTP/"))
    {
        return Err(Problem(format!("\"{version}\" after the URL"), "leave out the HTTP version"));
    }
    let mut path = Template::parse(&url.path, placed).map_err(plain)?;
    let mut in_query = false;
    let encode = |text: &[u8]| {
        let end = text.iter().position(|b| *b == b'?').filter(|_| !in_query);
        let (path, query) = text.split_at(match (style, in_query) {
            (DefaultHeaders::Go, false) => end.unwrap_or(text.len()),
            _ => 0,
        });
        in_query |= end.is_some();
        Ok(go_escaped(path)? + &percent_encode(query)?)
    };
    path.change_texts(encode)
        .map_err(|message| Problem(message, "percent-encode it; a tab is %09"))?;
    Ok((url, text.shown, path))
}

/// The problem of a URL whose host comes from a secret variable: the host names the connections.
pub(super) fn secret_host(url: &Text) -> Option<(String, &'static str)> {
    let rest = url.shown.split_once("://").map_or(url.shown.as_str(), |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    secret_within("the host", authority.rsplit('@').next().unwrap_or(authority))
}

/// Whether the text is a token (RFC 9110 §5.6.2), as methods and header names must be.
pub(super) fn is_token(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(allowed)
}

/// Whether a header states what the engine sends anyway. Recorded requests often have such headers.
pub fn is_redundant_header(name: &str, value: &str) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    is("content-length")
        || is("transfer-encoding")
        || is("connection") && value.trim().eq_ignore_ascii_case("keep-alive")
}

/// Checks that a header name is valid, and that the engine does not set the header itself.
pub(super) fn check_header(name: &str, value: &str) -> Result<(), Problem> {
    if !is_token(name) {
        return Err(Problem(format!("\"{name}\" is not a valid header name"), ""));
    }
    if is_close(name, value) {
        return Ok(());
    }
    if let Some((_, hint)) = OWN_HEADERS.iter().find(|(own, _)| name.eq_ignore_ascii_case(own)) {
        return Err(Problem(format!("\"{name}\" is set by the engine itself"), hint));
    }
    Ok(())
}

/// Whether a header ends the connection after the answer.
fn is_close(name: &str, value: &str) -> bool {
    name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close")
}

/// A header. The name must be valid.
pub(super) fn read_header(name: String, text: Text, placed: &mut u64) -> Result<Header, Problem> {
    let text = text.hidden_if_secret(&name);
    let secret = is_secret(&name) || text.hides();
    if text.value.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f) {
        return Err(Problem(format!("header \"{name}\" contains a control character"), ""));
    }
    let value = Template::parse(&text.value, placed).map_err(|message| Problem(message, ""))?;
    Ok(Header { name, value, shown: text.shown, secret })
}

/// Whether a body, with its placeholders replaced, is a JSON-RPC request.
fn asks_json_rpc(body: &Body) -> bool {
    let Some(template) = body.template() else { return false };
    let mut bytes = Vec::new();
    template.render(Values { seq: 0, key: Key::new(0) }, &mut bytes);
    plimsoll_rpc::judge::Expected::of(&bytes).is_ok_and(|expected| expected.answers() > 0)
}

/// An expectation as written.
#[derive(Clone, Default)]
pub(super) struct Expectation {
    status: Option<Vec<StatusRange>>,
    rpc: Option<RpcExpect>,
    contains: Option<String>,
}

impl Expectation {
    /// Also returns the field of `rpc`.
    pub(super) fn read<'r>(table: &Table<'r>) -> Option<(Expectation, Option<Field<'r>>)> {
        let status = table.field("status");
        let rpc = table.field("jsonrpc").map(|f| (f.one_of(&RpcExpect::WORDS), f));
        let contains = table.field("contains").and_then(|f| f.open_text("an expected text"));
        table.close();
        let mut expect = Expectation { contains, ..Expectation::default() };
        let mut rpc_field = None;
        if let Some(field) = &status {
            expect.status = Some(read_statuses(field)?);
        }
        if let Some((rpc, field)) = rpc {
            expect.rpc = Some(rpc?);
            rpc_field = Some(field);
        }
        Some((expect, rpc_field))
    }

    /// The expectation of one request. Missing settings come from `defaults`, then from built-in values.
    fn of(
        &self,
        defaults: &Expectation,
        is_rpc: bool,
        may_be_rpc: bool,
    ) -> Result<Expect, Problem> {
        let status = self.status.as_ref().or(defaults.status.as_ref());
        let rpc = match self.rpc.or(defaults.rpc) {
            Some(rpc) if rpc != RpcExpect::Off && !may_be_rpc => {
                return Err(Problem(
                    "a JSON-RPC answer is expected, but the body is not a JSON-RPC request with an id"
                        .into(),
                    "a request looks like {\"jsonrpc\":\"2.0\",\"method\":…,\"params\":[…],\"id\":1}",
                ));
            }
            Some(rpc) => rpc,
            None if is_rpc => RpcExpect::Result,
            None => RpcExpect::Off,
        };
        // A JSON-RPC error may have any HTTP status.
        let any = matches!(rpc, RpcExpect::Error | RpcExpect::Any);
        let default = if any { 100..=999 } else { 200..=399 };
        Ok(Expect {
            status: status.cloned().unwrap_or_else(|| vec![default]),
            rpc,
            contains: self.contains.clone().or_else(|| defaults.contains.clone()),
        })
    }
}

fn read_statuses(field: &Field<'_>) -> Option<Vec<StatusRange>> {
    if field.is_list() {
        let items = field.list()?;
        let ranges: Vec<_> = items.iter().filter_map(read_status).collect();
        return (ranges.len() == items.len() && !ranges.is_empty()).then_some(ranges);
    }
    Some(vec![read_status(field)?])
}

fn read_status(field: &Field<'_>) -> Option<StatusRange> {
    if field.is_integer() {
        let status = field.integer(100, 999)? as u16;
        return Some(status..=status);
    }
    field.parse(|text| {
        let invalid =
            || format!("\"{text}\" is not a valid status; write 200, \"2xx\" or \"200-399\"");
        if let Some(class) = text.strip_suffix("xx") {
            let class: u16 =
                class.parse().ok().filter(|c| (1..=5).contains(c)).ok_or_else(invalid)?;
            return Ok(class * 100..=class * 100 + 99);
        }
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let read = |s: &str| s.trim().parse().ok().filter(|s| (100..=999).contains(s));
        match (read(from), read(to)) {
            (Some(from), Some(to)) if from <= to => Ok(from..=to),
            _ => Err(invalid()),
        }
    })
}
