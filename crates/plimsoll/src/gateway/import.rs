//! `plimsoll gateway import`: the entries of a file in the configuration's form, as one change.
//!
//! A file by `plimsoll gateway export` also says what is disabled: `disabled = true` in an entry, and the
//! built-in services in [`BUILT_IN_DISABLED`]. What is disabled is disabled after all entries are added, in
//! the same change, so that no gateway ever uses it.

use crate::usage_error;
use plimsoll_config::values::quote;
use plimsoll_registry::sources::{REQUESTS_MAX, Request};
use plimsoll_registry::store::EntryKind;
use std::path::Path;
use toml::{Table, Value};

/// Bytes of a file.
const SIZE_MAX: u64 = 64 << 20;

/// The key of a file with the ids of built-in services to disable.
pub(super) const BUILT_IN_DISABLED: &str = "built_in_disabled";

/// The changes that a file asks for: services first, so that the others may refer to them.
pub(super) fn requests(path: &Path, replace: bool) -> anyhow::Result<Vec<Request>> {
    let shown = path.display();
    let bytes = plimsoll_config::read_file(path, SIZE_MAX)
        .map_err(|why| usage_error(format!("{shown}: {why}"), ""))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        usage_error(format!("{shown}: not UTF-8 text at byte {at}"), "")
    })?;
    let hint =
        "write tables [[service]], [[upstream]] and [[endpoint]] as in the configuration file";
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| usage_error(format!("{shown}: {error}"), hint))?;
    let is_kind = |key: &&String| EntryKind::ALL.iter().any(|kind| kind.name() == key.as_str());
    let is_known = |key: &&String| is_kind(key) || *key == BUILT_IN_DISABLED;
    if let Some(other) = table.keys().find(|key| !is_known(key)) {
        return Err(usage_error(format!("{shown}: {} is not a kind of entry", quote(other)), hint));
    }
    let (mut requests, mut disabled) = (Vec::new(), Vec::new());
    for kind in EntryKind::ALL {
        let rows = match table.get(kind.name()) {
            None => continue,
            Some(Value::Array(rows)) => rows,
            Some(_) => {
                let name = kind.name();
                return Err(usage_error(format!("{shown}: \"{name}\" is not an array"), hint));
            }
        };
        for row in rows {
            let added = request(kind, row, replace);
            match row.get(DISABLED) {
                None | Some(Value::Boolean(false)) => {}
                Some(Value::Boolean(true)) => {
                    disabled.push(Request::Disable(kind, added.id().into()));
                }
                Some(_) => {
                    let (kind, id) = (kind.name(), quote(added.id()));
                    let message =
                        format!("{shown}: {kind} {id}: \"{DISABLED}\" is not true or false");
                    return Err(usage_error(message, ""));
                }
            }
            requests.push(added);
        }
    }
    for id in built_in_disabled(&table).ok_or_else(|| {
        let message = format!("{shown}: \"{BUILT_IN_DISABLED}\" is not an array of ids");
        usage_error(message, "write it like built_in_disabled = [\"kava\"]")
    })? {
        disabled.push(Request::Disable(EntryKind::Service, id));
    }
    requests.append(&mut disabled);
    if requests.is_empty() {
        return Err(usage_error(format!("{shown}: it has no entries"), hint));
    }
    if requests.len() > REQUESTS_MAX {
        let count = requests.len();
        let message = format!(
            "{shown}: it has {count} entries; at most {REQUESTS_MAX} are imported together"
        );
        return Err(usage_error(message, "split the file"));
    }
    Ok(requests)
}

/// The key of an entry that says whether it is disabled.
const DISABLED: &str = "disabled";

/// The ids of built-in services to disable; `None` if they are not written as an array of strings.
fn built_in_disabled(table: &Table) -> Option<Vec<String>> {
    let Some(ids) = table.get(BUILT_IN_DISABLED) else { return Some(Vec::new()) };
    ids.as_array()?.iter().map(|id| id.as_str().map(String::from)).collect()
}

/// A row's addition. What is wrong with it is found when it is checked, with all other rows.
fn request(kind: EntryKind, row: &Value, replace: bool) -> Request {
    let empty = Table::new();
    let row = row.as_table().unwrap_or(&empty);
    let text = |key: &str| row.get(key).and_then(Value::as_str).map(String::from);
    let is_own = |key: &str| {
        let is_name = key == "id" || (key == "service" && kind != EntryKind::Service);
        is_name && row[key].is_str() || key == DISABLED
    };
    // Bare where possible: the form of the lines that commands write, and look for.
    let is_bare = |key: &str| {
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    let line = |(key, value): (&String, &Value)| {
        let name = if is_bare(key) { key.clone() } else { quote(key) };
        (key.clone(), format!("{name} = {value}"))
    };
    Request::Add {
        kind,
        id: text("id").unwrap_or_default(),
        service: text("service").filter(|_| kind != EntryKind::Service),
        lines: row.iter().filter(|(key, _)| !is_own(key)).map(line).collect(),
        replace,
    }
}
