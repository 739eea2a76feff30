//! Whether a filter of a question names something that does not exist: the likely reason for an empty
//! answer is a typing mistake, and "nothing was used" would hide it.
//!
//! What was removed, and was used in the time that is asked about, has rows and is never looked up here.
//! Methods are not checked: those that the gateway does not know are counted as `other`.

use super::report::ReportError;
use plimsoll_config::nearest;
use plimsoll_config::values::quote;
use plimsoll_registry::sources::{Editor, Item, Listed};
use plimsoll_registry::store::EntryKind;
use plimsoll_registry::usage::Filter;

/// Checks the filters of a question that found nothing.
///
/// # Errors
/// One of them names something unknown, or the entries cannot be read.
pub(super) async fn check(editor: &mut Editor, filter: &Filter) -> Result<(), ReportError> {
    if let Some(id) = &filter.service {
        let services = listed(editor, EntryKind::Service).await?;
        let ids: Vec<&str> = services.iter().map(|one| one.id.as_str()).collect();
        let list = "plimsoll gateway service list shows all services";
        known("service", id, &ids, list.into())?;
    }
    let endpoint = filter.endpoint.as_ref().filter(|id| !id.is_empty());
    let key = filter.key.as_ref().filter(|name| !name.is_empty());
    if endpoint.is_none() && key.is_none() {
        return Ok(());
    }
    let mut endpoints = listed(editor, EntryKind::Endpoint).await?;
    if let Some(id) = endpoint {
        let ids: Vec<&str> = endpoints.iter().map(|one| one.id.as_str()).collect();
        let list = "plimsoll gateway endpoint list shows all endpoints";
        known("endpoint", id, &ids, list.into())?;
        endpoints.retain(|one| one.id == *id);
    }
    if let Some(name) = key {
        let items = endpoints.iter().filter_map(|one| one.item.as_ref());
        let keys = items.filter_map(|item| match item {
            Item::Endpoint(endpoint) => Some(&endpoint.access.keys),
            Item::Service(_) | Item::Upstream(_) => None,
        });
        let names: Vec<&str> = keys.flatten().map(|key| key.name.as_str()).collect();
        let of = endpoint.map(|id| format!(" {id}")).unwrap_or_default();
        known("key", name, &names, format!("plimsoll gateway key list{of} shows the keys"))?;
    }
    Ok(())
}

async fn listed(editor: &mut Editor, kind: EntryKind) -> Result<Vec<Listed>, ReportError> {
    Ok(editor.list(kind).await.map_err(ReportError::Load)?.entries)
}

fn known(thing: &str, name: &str, all: &[&str], list: String) -> Result<(), ReportError> {
    if all.contains(&name) {
        return Ok(());
    }
    let hint = match nearest(name, all.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => list,
    };
    let name = quote(name);
    let message =
        format!("there is no {thing} {name}, and nothing was used under that name in this time");
    Err(ReportError::Unknown(message, hint))
}
