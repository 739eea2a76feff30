//! Targets: the request and what its answer must be.

use super::{read_tags, read_texts};
use crate::template::Draw;
use crate::{Body, Expect, Header, RpcExpect, StatusRange, Target, Template, Url};
use plimsoll_config::{Field, Table, Text};
use plimsoll_measure::rng::Key;
use std::path::Path;

/// Header names that the engine sets itself.
const OWN_HEADERS: [&str; 3] = ["content-length", "transfer-encoding", "connection"];
/// Larger bodies would be a file transfer, not a call.
const BODY_MAX: u64 = 64 << 20;

pub(super) fn read_target(table: &Table<'_>, folder: &Path, place: usize) -> Option<Target> {
    let mut placed = 0;
    let name = table.field("name").and_then(|f| f.text()).map(|text| text.value);
    let weight = table.field("weight").and_then(|f| f.integer(0, 1_000_000)).unwrap_or(1) as u32;
    let tags = table.field("tags").and_then(|f| f.table("tags"));
    let tags = tags.map(|tags| read_tags(&tags)).unwrap_or_default();
    let request = table.field("request").map(|f| (read_request(&f, &mut placed), f));
    let headers = table.field("headers").and_then(|f| f.table("headers"));
    let mut headers = headers.map(|table| read_headers(&table, &mut placed)).unwrap_or_default();
    let body = read_body(table, folder, &mut placed);
    let expect = table.field("expect").and_then(|f| f.table("expect"));

    let is_rpc = body.as_ref().is_some_and(asks_json_rpc);
    let expect = read_expect(expect.as_ref(), is_rpc);
    let (request, _) = request.or_else(|| {
        table.problem(
            "a target without \"request\"",
            "add request = \"POST http://host:port/path\"",
        );
        None
    })?;
    let (method, url, url_shown, path) = request?;
    if is_rpc && !headers.iter().any(|h| h.name.eq_ignore_ascii_case("content-type")) {
        headers.push(Header {
            name: "Content-Type".into(),
            value: Template::plain("application/json"),
            shown: "application/json".into(),
        });
    }
    Some(Target {
        name: name.unwrap_or_else(|| format!("target-{}", place + 1)),
        stream: 0,
        weight,
        tags,
        method,
        url,
        url_shown,
        path,
        headers,
        body: body?,
        expect: expect?,
    })
}

fn read_request(field: &Field<'_>, placed: &mut u64) -> Option<(String, Url, String, Template)> {
    let text = field.text()?;
    let hint = "write it like: POST http://host:port/path";
    let Some((method, url)) = text.value.trim().split_once(' ') else {
        field.problem(format!("\"{}\" is not METHOD URL", text.shown), hint);
        return None;
    };
    if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase()) {
        field.problem(format!("\"{method}\" is no HTTP method"), hint);
        return None;
    }
    if method == "CONNECT" {
        field.problem("CONNECT makes a tunnel, not a request", "");
        return None;
    }
    let url = match Url::parse(url.trim()) {
        Ok(url) => url,
        Err(message) => {
            field.problem(message, "");
            return None;
        }
    };
    let path = match Template::parse(&url.path, placed) {
        Ok(path) => path,
        Err(message) => {
            field.problem(message, "");
            return None;
        }
    };
    let printable = |b: &u8| (0x21..=0x7e).contains(b);
    if !path.texts().all(|text| text.iter().all(printable)) {
        field.problem("a space or control character in the path", "write it as %20");
        return None;
    }
    let shown = text.shown.split_once(' ').map_or("", |(_, url)| url.trim());
    let shown =
        if url.user.is_some() && !shown.contains("${") { url.to_string() } else { shown.into() };
    Some((method.into(), url, shown, path))
}

fn read_headers(table: &Table<'_>, placed: &mut u64) -> Vec<Header> {
    let mut headers = Vec::new();
    for (name, field) in table.entries() {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(is_token) {
            field.problem_with_key(format!("\"{name}\" is no header name"), "");
            continue;
        }
        if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            let hint = "for a new connection each time: connections = { reuse = false }";
            field.problem_with_key(format!("\"{name}\" is set by the engine itself"), hint);
            continue;
        }
        for text in read_texts(&field) {
            let text = text.hidden_if_secret(&name);
            if text.value.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f) {
                field.problem(format!("a control character in header \"{name}\""), "");
                continue;
            }
            match Template::parse(&text.value, placed) {
                Ok(value) => headers.push(Header { name: name.clone(), value, shown: text.shown }),
                Err(message) => field.problem(message, ""),
            }
        }
    }
    headers
}

fn read_body(table: &Table<'_>, folder: &Path, placed: &mut u64) -> Option<Body> {
    let inline = table.field("body");
    let file = table.field("body_file");
    match (inline, file) {
        (Some(_), Some(file)) => {
            file.problem_with_key("\"body\" and \"body_file\" together", "keep one");
            None
        }
        (Some(field), None) => {
            let text: Text = field.text()?;
            match Template::parse(&text.value, placed) {
                Ok(template) => Some(Body::Inline(text, template)),
                Err(message) => {
                    field.problem(message, "");
                    None
                }
            }
        }
        (None, Some(field)) => read_body_file(&field, folder, placed),
        (None, None) => Some(Body::Empty),
    }
}

fn read_body_file(field: &Field<'_>, folder: &Path, placed: &mut u64) -> Option<Body> {
    let path = folder.join(field.text()?.value);
    let size = std::fs::metadata(&path).map(|meta| meta.len());
    let bytes = match size
        .and_then(|size| if size > BODY_MAX { Ok(None) } else { std::fs::read(&path).map(Some) })
    {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            field.problem(format!("{} is larger than {BODY_MAX} bytes", path.display()), "");
            return None;
        }
        Err(error) => {
            let hint = "the path is seen from the folder of the plan";
            field.problem(format!("cannot read {}: {error}", path.display()), hint);
            return None;
        }
    };
    let template = match std::str::from_utf8(&bytes) {
        Ok(text) => Template::parse(text, placed),
        Err(_) => Ok(Template::plain(bytes)),
    };
    match template {
        Ok(template) => Some(Body::File(path, template)),
        Err(message) => {
            field.problem(format!("{}: {message}", path.display()), "");
            None
        }
    }
}

/// Whether a body, its placeholders filled in for some request, is JSON-RPC.
fn asks_json_rpc(body: &Body) -> bool {
    let Some(template) = body.template() else { return false };
    let mut bytes = Vec::new();
    template.render(Draw { seq: 0, key: Key::new(0) }, &mut bytes);
    plimsoll_rpc::judge::Expected::of(&bytes).is_ok_and(|expected| expected.answers() > 0)
}

fn read_expect(table: Option<&Table<'_>>, is_rpc: bool) -> Option<Expect> {
    let mut expect = Expect {
        status: vec![200..=399],
        rpc: if is_rpc { RpcExpect::Result } else { RpcExpect::Off },
        contains: None,
    };
    let Some(table) = table else { return Some(expect) };
    let status = table.field("status");
    let rpc = table.field("jsonrpc").map(|f| (f.one_of(&RpcExpect::WORDS), f));
    expect.contains = table.field("contains").and_then(|f| f.text()).map(|text| text.value);
    table.close();
    if let Some(field) = &status {
        expect.status = read_statuses(field)?;
    }
    if let Some((rpc, field)) = rpc {
        expect.rpc = rpc?;
        if expect.rpc != RpcExpect::Off && !is_rpc {
            field.problem(
                "a JSON-RPC answer is expected, but the body is no JSON-RPC request with an id",
                "a request reads {\"jsonrpc\":\"2.0\",\"method\":…,\"params\":[…],\"id\":1}",
            );
            return None;
        }
        // A JSON-RPC error may come with any status; the user who expects one need not know which.
        if expect.rpc != RpcExpect::Result && status.is_none() && is_rpc {
            expect.status = vec![100..=999];
        }
    }
    Some(expect)
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
        let wrong = || format!("\"{text}\" is no status; write 200, \"2xx\" or \"200-399\"");
        if let Some(class) = text.strip_suffix("xx") {
            let class: u16 =
                class.parse().ok().filter(|c| (1..=9).contains(c)).ok_or_else(wrong)?;
            return Ok(class * 100..=class * 100 + 99);
        }
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let read = |s: &str| s.trim().parse().ok().filter(|s| (100..=999).contains(s));
        match (read(from), read(to)) {
            (Some(from), Some(to)) if from <= to => Ok(from..=to),
            _ => Err(wrong()),
        }
    })
}
