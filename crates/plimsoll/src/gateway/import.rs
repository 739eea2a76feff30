//! `plimsoll gateway import`: the entries of a file in the configuration's form, as one change.

use crate::usage_error;
use plimsoll_config::values::quote;
use plimsoll_registry::sources::{REQUESTS_MAX, Request};
use plimsoll_registry::store::EntryKind;
use std::path::Path;
use toml::{Table, Value};

/// Bytes of a file.
const SIZE_MAX: u64 = 64 << 20;

/// The additions that a file asks for: services first, so that the others may refer to them.
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
    if let Some(other) = table.keys().find(|key| !is_kind(key)) {
        return Err(usage_error(format!("{shown}: {} is not a kind of entry", quote(other)), hint));
    }
    let mut requests = Vec::new();
    for kind in EntryKind::ALL {
        let rows = match table.get(kind.name()) {
            None => continue,
            Some(Value::Array(rows)) => rows,
            Some(_) => {
                let name = kind.name();
                return Err(usage_error(format!("{shown}: \"{name}\" is not an array"), hint));
            }
        };
        requests.extend(rows.iter().map(|row| request(kind, row, replace)));
    }
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

/// A row's addition. What is wrong with it is found when it is checked, with all other rows.
fn request(kind: EntryKind, row: &Value, replace: bool) -> Request {
    let empty = Table::new();
    let row = row.as_table().unwrap_or(&empty);
    let text = |key: &str| row.get(key).and_then(Value::as_str).map(String::from);
    let is_own = |key: &str| {
        let is_name = key == "id" || (key == "service" && kind != EntryKind::Service);
        is_name && row[key].is_str()
    };
    let line = |(key, value): (&String, &Value)| (key.clone(), format!("{} = {value}", quote(key)));
    Request::Add {
        kind,
        id: text("id").unwrap_or_default(),
        service: text("service").filter(|_| kind != EntryKind::Service),
        lines: row.iter().filter(|(key, _)| !is_own(key)).map(line).collect(),
        replace,
    }
}
