//! Reads targets: one request, several in turn, or the requests of a file.

use super::file::{FileKeys, Files, read_target_file};
use super::sockets::{Opens, needs_sockets, read_opens};
use super::spec::{
    Expectation, Part, RawBody, RawRequest, TRANSFERS, TargetDefaults, check_header, read_header,
    split_request,
};
use super::{read_tags, read_texts};
use crate::{RequestSpec, Standing, Target};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use plimsoll_config::{Field, Table, Text, read_file};

/// Largest `body_file`, in bytes: larger bodies would be file transfers.
const BODY_MAX: u64 = 64 << 20;
/// What stands for the method of a call over WebSocket.
const WEBSOCKET: &str = "WS";
/// Maximum number of requests of a target that are written in the plan.
pub(super) const REQUESTS_MAX: usize = 10_000;

/// Reads a target, and its requests into `requests`.
pub(super) fn read_target(
    table: &Table<'_>,
    files: &Files<'_>,
    place: usize,
    requests: &mut Vec<RequestSpec>,
) -> Option<Target> {
    let first = requests.len();
    let name = table.field("name").and_then(|f| f.open_text("a target's name"));
    let weight = table.field("weight").and_then(|f| f.integer(0, 1_000_000)).unwrap_or(1) as u32;
    let tags = table.field("tags").and_then(|f| f.table("tags"));
    let tags = tags.map(|tags| read_tags(&tags, "a tag")).unwrap_or_default();
    let stays_open = files.stays_open.get();
    let requests_only = |key| if stays_open { None } else { table.field(key) };
    let (file, several) = (requests_only("file"), requests_only("turn"));
    let (format, digest) = (requests_only("format"), table.field("digest"));
    let (body_folder, literal) = (table.field("body_folder"), table.field("literal"));
    let of_files = [
        ("format", &format),
        ("digest", &digest),
        ("literal", &literal),
        ("body_folder", &body_folder),
    ];
    for (key, field) in of_files {
        if file.is_none()
            && let Some(field) = field
        {
            field.problem_with_key(format!("\"{key}\" requires \"file\""), "");
        }
    }
    let mut named = None;
    let mut default_name = format!("target-{}", place + 1);
    let whole = if file.is_some() || several.is_some() {
        let what = if file.is_some() { "file" } else { "turn" };
        for key in ["request", "body", "body_file", "body_base64"] {
            // A file's requests without a body have the target's.
            let allowed = file.is_some() && key != "request";
            if let Some(field) = table.field(key).filter(|_| !allowed) {
                let message = format!("\"{key}\" and \"{what}\" cannot be used together");
                field.problem_with_key(message, "define the target's requests in one of the two");
            }
        }
        let literal = literal.and_then(|f| f.boolean()).unwrap_or(false);
        let (expect, rpc_field) = read_expectation(table).unwrap_or_default();
        let mut defaults = TargetDefaults {
            default_headers: files.default_headers.get(),
            headers: read_headers(table, "headers"),
            added: read_headers(table, "add_headers"),
            body: RawBody::Empty,
            expect,
            chunked: read_transfer(table),
            recorded: files.recorded.is_some(),
        };
        if file.is_some() {
            defaults.body = read_body(table, files)?.0.literal_if(literal);
        }
        match (file, several) {
            (Some(file), Some(several)) => {
                several
                    .problem_with_key("\"file\" and \"turn\" cannot be used together", "keep one");
                file.text().and(None)
            }
            (Some(file), None) => {
                let keys = FileKeys { file, format, digest, literal, body_folder };
                let read = read_target_file(&keys, files, &defaults, requests);
                read.map(|(stem, lines)| (default_name, named) = (stem, lines))
            }
            (None, Some(several)) => {
                read_requests(&several, files, (&defaults, rpc_field.as_ref()), requests)
            }
            (None, None) => None,
        }
    } else {
        let added = read_headers(table, "add_headers");
        let defaults = TargetDefaults {
            default_headers: files.default_headers.get(),
            added,
            recorded: files.recorded.is_some(),
            ..TargetDefaults::default()
        };
        read_request(table, files, (&defaults, None), "a target").map(|spec| requests.push(spec))
    };
    whole?;
    Some(Target {
        name: name.unwrap_or(default_name),
        stream: 0,
        weight,
        tags,
        requests: first..requests.len(),
        file: named,
    })
}

/// Reads all `[[target.turn]]` tables; `None` if any is invalid.
fn read_requests(
    field: &Field<'_>,
    files: &Files<'_>,
    defaults: (&TargetDefaults, Option<&Field<'_>>),
    requests: &mut Vec<RequestSpec>,
) -> Option<()> {
    let tables = field.tables("[[target.turn]]");
    if tables.is_empty() {
        field.problem("a target needs at least one request", "");
        return None;
    }
    if tables.len() > REQUESTS_MAX {
        field.problem(format!("{} requests; the maximum is {REQUESTS_MAX}", tables.len()), "");
        return None;
    }
    let first = requests.len();
    for table in &tables {
        requests.extend(read_request(table, files, defaults, "a turn"));
        table.close();
    }
    (requests.len() == first + tables.len()).then_some(())
}

fn read_request(
    table: &Table<'_>,
    files: &Files<'_>,
    defaults: (&TargetDefaults, Option<&Field<'_>>),
    what: &str,
) -> Option<RequestSpec> {
    let headers = read_headers(table, "headers");
    if files.stays_open.get() {
        return read_opens(table).and_then(|opens| spec_of(opens, headers, defaults.0));
    }
    for key in ["subscribe", "sse", "numbered"] {
        if let Some(field) = table.field(key) {
            let problem = needs_sockets(key);
            field.problem_with_key(problem.0, problem.1);
        }
    }
    let (request, websocket) = (table.field("request"), table.field("ws"));
    let compression = read_compression(table, websocket.is_some());
    let body = read_body(table, files);
    let expect = read_expectation(table);
    let chunked = read_transfer(table);
    if let (Some(_), Some(field)) = (&request, &websocket) {
        field.problem_with_key("\"request\" and \"ws\" cannot be used together", "keep one");
        return None;
    }
    let is_websocket = websocket.is_some();
    let Some(field) = request.or(websocket) else {
        let hint = "add request = \"POST http://host:port/path\"";
        table.problem(format!("{what} needs \"request\" or \"ws\""), hint);
        return None;
    };
    if is_websocket && chunked.is_some() {
        field.problem_with_key("\"transfer\" has no effect with \"ws\"", "remove it");
    }
    let split = match field.text()? {
        url if is_websocket => Ok((WEBSOCKET.into(), url)),
        text => split_request(&text),
    };
    let (method, url) = match split {
        Ok(split) => split,
        Err(problem) => {
            field.problem(problem.0, problem.1);
            return None;
        }
    };
    let (body, body_field) = body?;
    let (expect, rpc_field) = expect?;
    let (defaults, default_field) = defaults;
    let rpc_field = rpc_field.as_ref().or(default_field);
    let standing = None;
    let raw =
        RawRequest { method, url, headers, body, chunked, is_websocket, compression, standing };
    raw.spec(defaults, &expect, |part, problem| {
        let at = match part {
            Part::Method | Part::Url => &field,
            Part::Body => body_field.as_ref().expect("only a body that was given has problems"),
            Part::Expect => rpc_field.expect("only an expectation that was given has problems"),
            Part::Header(_) => unreachable!("headers of a table are already validated"),
        };
        at.problem(problem.0, problem.1);
    })
}

/// The request that opens what stays open.
fn spec_of(
    opens: Opens<'_>,
    mut headers: Vec<(String, Text)>,
    defaults: &TargetDefaults,
) -> Option<RequestSpec> {
    let is_websocket = !matches!(opens.standing, Standing::Events { .. });
    let method = if is_websocket { WEBSOCKET } else { "GET" };
    let accepts = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept"));
    if !is_websocket && !accepts {
        headers.push(("Accept".into(), Text::plain("text/event-stream")));
    }
    let raw = RawRequest {
        method: method.into(),
        url: opens.url.clone(),
        headers,
        body: opens.body.clone(),
        chunked: None,
        is_websocket,
        compression: opens.compression,
        standing: Some(opens.standing.clone()),
    };
    raw.spec(defaults, &Expectation::default(), |part, problem| {
        opens.at(part).problem(problem.0, problem.1);
    })
}

/// The valid headers in the table `key`. Problems with others are reported.
fn read_headers(table: &Table<'_>, key: &'static str) -> Vec<(String, Text)> {
    let Some(table) = table.field(key).and_then(|f| f.table(key)) else {
        return Vec::new();
    };
    let mut headers = Vec::new();
    for (name, field) in table.entries() {
        let texts = read_texts(&field);
        let values = texts.iter().map(|text| text.value.as_str());
        let refused = |value| check_header(&name, value).err();
        if let Some(problem) =
            std::iter::once("").filter(|_| texts.is_empty()).chain(values).find_map(refused)
        {
            field.problem_with_key(problem.0, problem.1);
            continue;
        }
        for text in texts {
            match read_header(name.clone(), text.clone(), &mut 0) {
                Ok(_) => headers.push((name.clone(), text)),
                Err(problem) => field.problem(problem.0, problem.1),
            }
        }
    }
    headers
}

/// Whether a WebSocket is to be opened with an offer of compression.
pub(super) fn read_compression(table: &Table<'_>, is_websocket: bool) -> bool {
    let Some(field) = table.field("compression") else { return false };
    if !is_websocket {
        let hint = "remove it; over HTTP, set headers = { Accept-Encoding = \"gzip\" }";
        field.problem_with_key("\"compression\" requires \"ws\"", hint);
    }
    field.boolean().unwrap_or(false)
}

/// Whether the body is chunked; `None` if the table does not say.
fn read_transfer(table: &Table<'_>) -> Option<bool> {
    table.field("transfer")?.one_of(&TRANSFERS)
}

fn read_expectation<'r>(table: &Table<'r>) -> Option<(Expectation, Option<Field<'r>>)> {
    match table.field("expect") {
        Some(field) => Expectation::read(&field.table("expect")?),
        None => Some(Default::default()),
    }
}

/// The body and its field.
fn read_body<'r>(table: &Table<'r>, files: &Files<'_>) -> Option<(RawBody, Option<Field<'r>>)> {
    let mut given = ["body", "body_file", "body_base64"]
        .into_iter()
        .filter_map(|key| table.field(key).map(|field| (key, field)));
    let Some((key, field)) = given.next() else { return Some((RawBody::Empty, None)) };
    if let Some((other, second)) = given.next() {
        second.problem_with_key(
            format!("\"{key}\" and \"{other}\" cannot be used together"),
            "keep one",
        );
        return None;
    }
    drop(given);
    let body = match key {
        "body" => RawBody::Inline(field.text()?),
        "body_file" => read_body_file(&field, files)?,
        _ => {
            let decode = |text: &str| {
                BASE64.decode(text).map_err(|error| format!("not valid base64: {error}"))
            };
            RawBody::Bytes(field.parse(decode)?)
        }
    };
    Some((body, Some(field)))
}

fn read_body_file(field: &Field<'_>, files: &Files<'_>) -> Option<RawBody> {
    let path = files.folder.join(field.text()?.value);
    if files.recorded.is_some() {
        return Some(RawBody::File(path, Vec::new()));
    }
    match files.refusal(&path).map_or_else(|| read_file(&path, BODY_MAX), Err) {
        Ok(bytes) => Some(RawBody::File(path, bytes)),
        Err(message) => {
            field.problem(message, files.hint());
            None
        }
    }
}
