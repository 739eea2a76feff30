//! Answers the admin API's requests about the registry.
//!
//! A thread of its own reads and changes the registry, one request at a time: a database that hangs
//! delays other changes, and nothing else.

pub(super) mod client;
mod usage;
pub(super) mod wire;

use super::access::{self, change_words, load_words};
use super::listing::Shown;
use plimsoll_gateway::{Admin, AdminAnswer, AdminRequest};
use plimsoll_registry::sources::{ChangeError, Editor, Listed, LoadError, Request, Selection};
use plimsoll_registry::store::{EntryKind, StoreError, StoreErrorKind};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::oneshot;

/// Requests that wait; further ones are refused.
const WAITING_MAX: usize = 64;

/// Entries on a page, by default and at most.
const PER_PAGE: usize = 100;
const PER_PAGE_MAX: usize = 1_000;

/// A request, and where its answer goes.
type Job = (AdminRequest, oneshot::Sender<AdminAnswer>);

/// Starts the thread, which ends with the last clone of what is returned.
pub(super) fn start(editor: Editor) -> anyhow::Result<Admin> {
    let (jobs, waiting): (SyncSender<Job>, _) = sync_channel(WAITING_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("admin".into())
        .spawn(move || runtime.block_on(serve(editor, &waiting)))?;
    Ok(Arc::new(move |request| {
        let (answer, answered) = oneshot::channel();
        // If there is no room, the receiver sees that the sender is gone.
        let _ = jobs.try_send((request, answer));
        answered
    }))
}

async fn serve(mut editor: Editor, waiting: &Receiver<Job>) {
    while let Ok((request, answer)) = waiting.recv() {
        // Whoever asked may be gone.
        if !answer.is_closed() {
            let _ = answer.send(answered(&mut editor, &request).await);
        }
    }
}

/// Why a request cannot be answered.
struct Refusal {
    status: u16,
    message: String,
    hint: String,
}

impl Refusal {
    fn answer(self) -> AdminAnswer {
        let mut error = json!({ "message": self.message });
        if !self.hint.is_empty() {
            error["hint"] = self.hint.into();
        }
        document(self.status, &json!({ "error": error }))
    }
}

fn refusal(status: u16, message: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal { status, message: message.into(), hint: hint.into() }
}

async fn answered(editor: &mut Editor, request: &AdminRequest) -> AdminAnswer {
    let found = match request.path.as_str() {
        "resources" => resources(editor, request).await,
        "action" => action(editor, request).await,
        "usage" => return usage::answer(editor, request).await,
        path => resource(editor, path.strip_prefix("resource/").unwrap_or(path), request).await,
    };
    found.map_or_else(Refusal::answer, |value| document(200, &value))
}

fn document(status: u16, value: &Value) -> AdminAnswer {
    let body = format!("{value}\n").into_bytes();
    AdminAnswer { status, media_type: "application/json", body }
}

/// The parameters of a query that have these names; each at most once.
fn parameters<'r, const N: usize>(
    request: &'r AdminRequest,
    names: [&str; N],
) -> Result<[Option<&'r str>; N], Refusal> {
    let mut values = [None; N];
    for (key, value) in &request.query {
        let Some(place) = names.iter().position(|name| name == key) else {
            let hint = format!("supported are {}", names.join(", "));
            return Err(refusal(400, "unknown parameter", hint));
        };
        if values[place].replace(value.as_str()).is_some() {
            return Err(refusal(400, format!("the parameter {key} is given twice"), ""));
        }
    }
    Ok(values)
}

fn kind(word: &str) -> Result<EntryKind, Refusal> {
    let named = EntryKind::ALL.into_iter().find(|kind| kind.name() == word);
    named
        .ok_or_else(|| refusal(400, "unknown kind of entry", "it is service, upstream or endpoint"))
}

fn number(name: &str, text: Option<&str>, default: usize, max: usize) -> Result<usize, Refusal> {
    let Some(text) = text else { return Ok(default) };
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| is_plain && (1..=max).contains(number));
    number.ok_or_else(|| refusal(400, format!("{name} must be a number from 1 to {max}"), ""))
}

async fn resources(editor: &mut Editor, request: &AdminRequest) -> Result<Value, Refusal> {
    let [only, page, per_page] = parameters(request, ["kind", "page", "per_page"])?;
    let only = only.map(kind).transpose()?;
    let page = number("page", page, 1, usize::MAX / PER_PAGE_MAX)?;
    let per_page = number("per_page", per_page, PER_PAGE, PER_PAGE_MAX)?;
    let from = (page - 1) * per_page;
    let selected = editor.select(only, |place, _| (from..from + per_page).contains(&place)).await;
    let Selection { entries, total } = selected.map_err(|error| not_loaded(&error))?;
    let pages = total.div_ceil(per_page).max(1);
    if page > pages {
        let message = format!("page {page} does not exist");
        return Err(refusal(404, message, format!("the last page is {pages}")));
    }
    let shown: Vec<Value> = entries.iter().map(shown).collect();
    Ok(json!({
        "resources": shown, "page": page, "per_page": per_page, "pages": pages, "total": total,
    }))
}

async fn resource(editor: &mut Editor, id: &str, request: &AdminRequest) -> Result<Value, Refusal> {
    let [only] = parameters(request, ["kind"])?;
    let only = only.map(kind).transpose()?;
    let selected = editor.select(only, |_, one| one == id).await;
    let Selection { entries, .. } = selected.map_err(|error| not_loaded(&error))?;
    match &entries[..] {
        [entry] => Ok(shown(entry)),
        [_, ..] => {
            let message = "entries of several kinds have this id";
            Err(refusal(409, message, "add ?kind=service, upstream or endpoint"))
        }
        [] => Err(refusal(404, "there is no such entry", "list them: /api/v1/resources")),
    }
}

fn shown((kind, listed): &(EntryKind, Listed)) -> Value {
    wire::resource(*kind, &Shown::of(*kind, listed))
}

async fn action(editor: &mut Editor, request: &AdminRequest) -> Result<Value, Refusal> {
    parameters(request, [])?;
    let value: Value = serde_json::from_slice(&request.body)
        .map_err(|error| refusal(400, format!("the body is not valid JSON: {error}"), ""))?;
    let requests = wire::requests(&value).map_err(|why| refusal(400, why, wire::FORM))?;
    let variables = editor.variables().clone();
    let changed = access::change(editor, &requests, &variables).await;
    let changed = changed.map_err(|error| not_changed(&error, &requests))?;
    Ok(wire::show_changed(&requests, &changed))
}

fn not_loaded(error: &LoadError) -> Refusal {
    let status = match error {
        LoadError::Problems(_) => 500,
        LoadError::Store(error) => store_status(error),
    };
    let (message, hint) = load_words(error);
    refusal(status, message, hint)
}

fn not_changed(error: &ChangeError, requests: &[Request]) -> Refusal {
    let status = match error {
        ChangeError::Refused { .. } => 409,
        ChangeError::Invalid(_) | ChangeError::Several(_) => 422,
        ChangeError::Load(error) => return not_loaded(error),
        ChangeError::Store(error) => store_status(error),
    };
    let (message, hint) = change_words(error, requests);
    refusal(status, message, hint)
}

fn store_status(error: &StoreError) -> u16 {
    match error.kind {
        StoreErrorKind::Unreachable(_) | StoreErrorKind::Uncertain(_) => 503,
        StoreErrorKind::Unfit { .. } => 409,
        _ => 500,
    }
}
