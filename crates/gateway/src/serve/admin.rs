//! The admin API, `/api/v1/…`, on listeners for operators only.
//!
//! It is off unless a token's hash is configured. A request proves that it knows the token, which is
//! compared by its hash: every comparison looks at all bytes, of hashes that the caller cannot choose.
//! Health, events, the cache, the use of keys and limits, and the description are answered here; what concerns the registry is passed
//! on to the program that runs the gateway, which may wait for a database without delaying calls.

mod events;
mod keys;
mod limits;
mod observer;

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use plimsoll_registry::settings::{Faces, Settings};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::decode::decoded;
use super::face::cache::{self, Selection};
use crate::call::message::{Answer, JSON, Request};
use crate::call::worker::{Shared, State, View, Worker};
use crate::error::Error;
use crate::host::{AdminAnswer, AdminRequest};
use crate::http1::unescaped;
pub(crate) use observer::observe;

/// The description of this API.
const OPENAPI: &str = include_str!("admin/openapi.json");

/// How long an answer about the registry may take: longer than a database server may hang.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// The path below `/api/v1/`, if the listener serves this API.
pub(super) fn path(path: &str, faces: Faces) -> Option<&str> {
    path.strip_prefix("/api/v1/").filter(|_| faces.admin && !faces.serves_calls())
}

/// Whether there is a token, without which the API is off.
pub(super) fn is_on(state: &State) -> bool {
    !state.settings.admin_tokens.is_empty()
}

/// Answers a request to the path below `/api/v1/`.
///
/// # Errors
/// The body cannot be decoded, or is too long.
pub(super) async fn answer<'a>(
    worker: &Rc<Worker>,
    view: &View,
    request: &Request<'_>,
    below: &str,
    query: Option<&str>,
) -> Result<Answer<'a>, Error> {
    let token = match authenticated(&view.settings, request) {
        Ok(token) => token,
        Err(refusal) => return Ok(*refusal),
    };
    let methods: &[&str] = match below {
        "health" | "resources" | "usage" | "keys" | "limits" | "events/stream" | "openapi.json" => {
            &["GET"]
        }
        "action" => &["POST"],
        "cache" => &["GET", "DELETE"],
        _ if below.strip_prefix("resource/").is_some_and(|id| !id.is_empty()) => &["GET"],
        _ => return Ok(error(404, "no such path", "GET /api/v1/openapi.json describes this API")),
    };
    let Some(method) = methods.iter().find(|method| **method == request.method) else {
        let mut answer = error(405, "wrong method", &format!("use {}", methods.join(" or ")));
        answer.fields.push(("allow".into(), methods.join(", ").into()));
        return Ok(answer);
    };
    let shared = &worker.shared;
    let mut answer = match below {
        "health" => document(200, &health(shared, view)),
        "keys" => keys::answer(shared, view, query),
        "limits" => limits::answer(shared, view, query),
        "openapi.json" => Answer::new(200, JSON, OPENAPI.into()),
        "events/stream" => {
            return Ok(events::stream(shared, token, header(request, "last-event-id").as_deref()));
        }
        "cache" if *method == "GET" => {
            Answer::new(200, JSON, cache::figures(shared, view).into_bytes())
        }
        "cache" => match Selection::of_query(query.unwrap_or_default()) {
            Ok(selection) => drop_cache(shared, view, &selection).await,
            Err(why) => error(400, &why.message, ""),
        },
        _ => {
            let coding = request.fields.content_encoding;
            let limit = view.settings.limits.body;
            let body = decoded(&worker.local, coding, request.body.clone(), limit).await?;
            match dropping(body.bytes()) {
                Some(Ok(selection)) if below == "action" => {
                    drop_cache(shared, view, &selection).await
                }
                Some(Err(why)) if below == "action" => error(400, why, DROP_FORM),
                _ => {
                    let accept = header(request, "accept").unwrap_or_default();
                    let body = body.bytes().to_vec();
                    let path = unescaped(below).into_owned();
                    let query = pairs(query.unwrap_or_default());
                    let asked = AdminRequest { method, path, query, body, accept };
                    passed_on(shared, asked).await
                }
            }
        }
    };
    let is_kept =
        *method == "GET" && !matches!(below, "health" | "cache" | "keys" | "limits" | "usage");
    if answer.status == 200 && is_kept {
        tag(&mut answer, header(request, "if-none-match").as_deref());
    } else {
        answer.fields.push(("cache-control".into(), "no-store".into()));
    }
    Ok(answer)
}

/// The hash of a request's token, or the refusal of a request without a valid one.
fn authenticated<'a>(
    settings: &Settings,
    request: &Request<'_>,
) -> Result<[u8; 32], Box<Answer<'a>>> {
    if settings.admin_tokens.is_empty() {
        let hint = "set admin_token_sha256; plimsoll gateway token makes a token and its hash";
        return Err(Box::new(error(404, "the admin API is off", hint)));
    }
    let given = header(request, "authorization").unwrap_or_default();
    let (scheme, token) = given.split_once(' ').unwrap_or_default();
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    let hash: [u8; 32] = Sha256::digest(token.trim()).into();
    if is_bearer && is_valid(settings, &hash) {
        return Ok(hash);
    }
    let message = if is_bearer { "the token is wrong" } else { "the token is missing" };
    let mut answer = error(401, message, "send the header Authorization: Bearer TOKEN");
    answer.fields.push(("www-authenticate".into(), "Bearer".into()));
    Err(Box::new(answer))
}

/// Whether a token's hash is one of the configured ones; takes the same time for every wrong one.
fn is_valid(settings: &Settings, hash: &[u8; 32]) -> bool {
    let differs =
        |known: &[u8; 32]| known.iter().zip(hash).fold(0, |differs, (a, b)| differs | (a ^ b)) != 0;
    settings.admin_tokens.iter().fold(false, |valid, known| valid | !differs(known))
}

/// The value of a header that is needed only here.
fn header(request: &Request<'_>, name: &str) -> Option<String> {
    let mut found = None;
    request.all.visit(|field, value| {
        if field.eq_ignore_ascii_case(name) && found.is_none() {
            found = Some(String::from_utf8_lossy(value).into_owned());
        }
    });
    found
}

/// How to write the action that removes answers.
const DROP_FORM: &str = "write it like {\"action\": \"drop_cache\", \"service\": \"eth\", \"method\": \
                         \"eth_getBlockByNumber\", \"key\": [\"0x1b4\", false]}; all but the action may be left out";

/// The selection of an action `drop_cache`, or what is wrong with it; `None` if it is another action.
fn dropping(body: &[u8]) -> Option<Result<Selection, &'static str>> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let object =
        value.as_object().filter(|object| object.get("action") == Some(&"drop_cache".into()))?;
    let mut selection = Selection::default();
    for (name, value) in object {
        match (name.as_str(), value) {
            ("action", _) => {}
            ("service", Value::String(id)) => selection.service = Some(id.clone()),
            ("method", Value::String(name)) => selection.method = Some(name.clone()),
            ("key", Value::Array(_) | Value::Object(_)) => selection.key = Some(value.to_string()),
            ("service" | "method", _) => {
                return Some(Err("\"service\" or \"method\" is not a string"));
            }
            ("key", _) => return Some(Err("\"key\" is not an array: it is the call's params")),
            _ => return Some(Err("it has an unknown member")),
        }
    }
    Some(Ok(selection))
}

/// Removes answers from this process's memory and from Redis.
async fn drop_cache<'a>(shared: &Shared, state: &State, selection: &Selection) -> Answer<'a> {
    match cache::remove(shared, state, selection).await {
        Ok(removed) => Answer::new(200, JSON, removed.into_bytes()),
        Err(why) => error(422, &why.message, ""),
    }
}

/// Asks the program that runs the gateway.
async fn passed_on<'a>(shared: &Shared, asked: AdminRequest) -> Answer<'a> {
    let Some(admin) = &shared.host.admin else {
        return error(404, "this program has no registry", "");
    };
    match tokio::time::timeout(ANSWER_MAX, admin(asked)).await {
        Ok(Ok(AdminAnswer { status, media_type, body })) => {
            Answer::new(status, media_type.as_bytes(), body)
        }
        _ => error(503, "the registry is busy", "try again; list the entries before a change"),
    }
}

/// The parameters of a query, decoded.
fn pairs(query: &str) -> Vec<(String, String)> {
    let plain = |text: &str| unescaped(&text.replace('+', " ")).into_owned();
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (plain(key), plain(value))
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect()
}

/// The state of the process.
fn health(shared: &Shared, state: &State) -> Value {
    let report = shared.database();
    let ready = state.routing.services().iter().any(|service| !service.routes.is_empty())
        && !shared.is_draining();
    let mut database = json!({
        "state": report.contact.name(),
        "sequence": report.sequence,
        "from_disk": report.from_disk,
        "connections": shared.host.database.connections(),
    });
    if let Some(since) = report.since {
        database["since"] = since.rfc3339().into();
    }
    for (name, why) in [("error", report.why), ("snapshot_error", report.snapshot_error)] {
        if !why.is_empty() {
            database[name] = why.into();
        }
    }
    json!({
        "instance": state.settings.instance,
        "version": env!("CARGO_PKG_VERSION"),
        "started_at": shared.started.rfc3339(),
        "ready": ready,
        "draining": shared.is_draining(),
        "config_rejected": shared.is_config_rejected(),
        "database": database,
        "redis": redis(shared),
    })
}

/// The state of Redis.
fn redis(shared: &Shared) -> Value {
    let Some(redis) = shared.caching.second_level() else { return json!({ "state": "none" }) };
    let mut state = json!({ "state": if redis.is_used() { "up" } else { "down" } });
    if let Some(why) = redis.trouble() {
        state["error"] = why.into();
    }
    state
}

/// Adds an entity tag, and leaves out the body if the caller has it.
fn tag(answer: &mut Answer<'_>, known: Option<&str>) {
    let crate::payload::Payload::Whole(body) = &mut answer.body else { return };
    let hash: [u8; 32] = Sha256::digest(&body).into();
    let short: String = hash[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{short}\"");
    let is_known = known.is_some_and(|known| {
        known
            .split(',')
            .map(|one| one.trim().trim_start_matches("W/"))
            .any(|one| one == tag || one == "*")
    });
    if is_known {
        answer.status = 304;
        answer.content_type = Cow::Borrowed(b"");
        body.clear();
    }
    answer.fields.push(("etag".into(), tag.into_bytes()));
    // It may be kept, and must be checked before it is used again.
    answer.fields.push(("cache-control".into(), "private, no-cache".into()));
}

fn document<'a>(status: u16, value: &Value) -> Answer<'a> {
    Answer::new(status, JSON, format!("{value}\n").into_bytes())
}

fn error<'a>(status: u16, message: &str, hint: &str) -> Answer<'a> {
    let mut error = json!({ "message": message });
    if !hint.is_empty() {
        error["hint"] = hint.into();
    }
    document(status, &json!({ "error": error }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_by_their_hashes() {
        let hash = |token: &str| -> [u8; 32] { Sha256::digest(token).into() };
        let settings =
            Settings { admin_tokens: vec![hash("one"), hash("two")], ..Settings::default() };
        assert!(is_valid(&settings, &hash("one")) && is_valid(&settings, &hash("two")));
        for wrong in ["", "on", "onee", "One", "three"] {
            assert!(!is_valid(&settings, &hash(wrong)), "{wrong}");
        }
    }
}
