//! Changes to the keys of an endpoint: each key is a line of its entry, `keys.NAME = { … }`.
//!
//! The entry is read, changed, and its lines about keys are written anew; all other lines stay as they
//! are. So a change of one key keeps what others have changed in between.

use plimsoll_config::{Document, Place, Problems, Variables};
use plimsoll_measure::WallClock;

use super::super::join::{self, resolve};
use super::super::listing::Item;
use super::{ChangeError, Decision, Existing, Outcome, refused};
use crate::config::{show_date, show_key};
use crate::model::{AccessKey, Endpoint, KEYS_MAX, check_key_name};
use crate::store::{Change, Entry, EntryKind};

/// Reads a new key from its lines, each with its name in problems.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(
    name: &str,
    lines: &[(String, String)],
    variables: &Variables,
) -> Result<AccessKey, ChangeError> {
    if let Err(message) = check_key_name(name) {
        let mut problems = Problems::default();
        problems.note(Place::Named("NAME".into()), message, "");
        return Err(ChangeError::Invalid(problems));
    }
    let own = ["id = \"e\"", "service = \"s\""].map(|line| ("KEY".to_string(), line.to_string()));
    let of_key = lines.iter().flat_map(|(flag, text)| {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| (flag.clone(), format!("keys.{name}.{}", line.trim_start())))
    });
    let document = Document::from_named(own.into_iter().chain(of_key));
    let item = resolve(EntryKind::Endpoint, &document, variables).map_err(ChangeError::Invalid)?;
    let keys = match item {
        Item::Endpoint(endpoint) => endpoint.access.keys,
        Item::Service(_) | Item::Upstream(_) => Vec::new(),
    };
    match <[AccessKey; 1]>::try_from(keys) {
        Ok([key]) => Ok(key),
        Err(_) => refused("a key without a hash".into(), "add hash = \"sha256:…\""),
    }
}

/// Checks that a new key has not expired yet.
///
/// # Errors
/// It has, or the key is not valid.
pub(super) fn check_expiry(
    name: &str,
    lines: &[(String, String)],
    variables: &Variables,
    now: WallClock,
) -> Result<(), ChangeError> {
    let Some(expires) = read(name, lines, variables)?.expires.filter(|at| *at <= now) else {
        return Ok(());
    };
    let line = lines.iter().find(|(_, line)| line.trim_start().starts_with("expires"));
    let place = line.map_or("expires", |(flag, _)| flag.as_str());
    let mut problems = Problems::default();
    let message = format!("{} is in the past: nobody could use the key", show_date(expires));
    let hint = "give a later date, or leave it out for a key that does not expire";
    problems.note(Place::Named(place.into()), message, hint);
    Err(ChangeError::Invalid(problems))
}

impl Existing<'_> {
    /// Adds a key.
    pub(super) fn add_key(&self, key: AccessKey) -> Result<Decision, ChangeError> {
        let (entry, mut endpoint) = self.endpoint()?;
        let keys = &mut endpoint.access.keys;
        let name = &key.name;
        if let Some(old) = keys.iter().find(|old| old.name == key.name) {
            if *old == key {
                return Ok(Decision::Nothing);
            }
            let hint = "choose another name; both keys are valid until you remove one";
            return refused(format!("the endpoint already has a key \"{name}\""), hint);
        }
        if let Some(same) = keys.iter().find(|old| old.hash == key.hash) {
            let message = format!("the key \"{}\" of this endpoint is the same", same.name);
            return refused(message, "make another one");
        }
        if keys.len() >= KEYS_MAX {
            let hint = "remove keys that are no longer used; plimsoll gateway key list shows them";
            return refused(format!("the endpoint already has {KEYS_MAX} keys"), hint);
        }
        keys.push(key);
        self.write(entry, endpoint)
    }

    /// Removes a key; the only one if `is_last`, which opens the endpoint.
    pub(super) fn remove_key(&self, name: &str, is_last: bool) -> Result<Decision, ChangeError> {
        let (entry, mut endpoint) = self.endpoint()?;
        let keys = &mut endpoint.access.keys;
        let count = keys.len();
        keys.retain(|key| key.name != name);
        if keys.len() == count {
            let known: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
            let hint = match plimsoll_config::nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None if known.is_empty() => "it has no keys".into(),
                None => format!("its keys: {}", known.join(", ")),
            };
            return refused("the endpoint has no key of this name".into(), hint);
        }
        if keys.is_empty() && !is_last {
            let message = "it is the only key: without keys, everyone who knows the endpoint's id may \
                           call it";
            let hint = "add another key first, disable the endpoint, or add --last";
            return refused(message.into(), hint);
        }
        self.write(entry, endpoint)
    }

    /// The endpoint and its entry.
    fn endpoint(&self) -> Result<(&Entry, Endpoint), ChangeError> {
        let Some(entry) = self.entry else { return self.absent() };
        match join::item(entry, self.variables, "the database") {
            Ok(Item::Endpoint(endpoint)) => Ok((entry, endpoint)),
            Ok(Item::Service(_) | Item::Upstream(_)) => self.absent(),
            Err(problems) => Err(ChangeError::Invalid(problems)),
        }
    }

    /// Writes the entry with the keys of the endpoint.
    fn write(&self, entry: &Entry, mut endpoint: Endpoint) -> Result<Decision, ChangeError> {
        let keys = &mut endpoint.access.keys;
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        let lines = entry.definition.iter().flat_map(|lines| lines.lines());
        let others = lines.filter(|line| !is_about_keys(line)).map(String::from);
        let own = keys.iter().map(|key| format!("keys.{} = {}", key.name, show_key(key)));
        let definition = Some(others.chain(own).collect::<Vec<_>>().join("\n"));
        let new = Entry { definition, ..entry.clone() };
        let is_same = |item: Item| item == Item::Endpoint(endpoint);
        if !join::item(&new, self.variables, "the database").is_ok_and(is_same) {
            let hint =
                "add the endpoint anew with --replace, each key on one line: keys.NAME = { … }";
            return refused("the endpoint's keys are not on lines of their own".into(), hint);
        }
        Ok(Decision::Write(Change::Replace(new), Outcome::Changed))
    }

    /// The definition of an endpoint that replaces this one, with its keys if the new one has none: an
    /// endpoint must not be opened by a change of something else.
    pub(super) fn with_keys(&self, mut new: Entry) -> Entry {
        let old = self.entry.and_then(|entry| entry.definition.as_deref()).unwrap_or_default();
        let lines = new.definition.get_or_insert_default();
        if self.kind == EntryKind::Endpoint && !lines.lines().any(is_about_keys) {
            let kept: Vec<&str> = old.lines().filter(|line| is_about_keys(line)).collect();
            let own = lines.lines().chain(kept).collect::<Vec<_>>().join("\n");
            *lines = own;
        }
        new
    }
}

/// Whether a line of an endpoint's entry defines keys.
fn is_about_keys(line: &str) -> bool {
    let line = line.trim_start();
    let mut forms = ["keys", "\"keys\"", "'keys'"].into_iter();
    forms.any(|key| {
        let rest = line.strip_prefix(key);
        rest.is_some_and(|rest| rest.trim_start().starts_with(['.', '=']))
    })
}
