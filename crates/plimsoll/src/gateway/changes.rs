//! Describes what a reload changed, for the log.

use super::messages::{counted, listed};
use plimsoll_gateway::Definitions;
use plimsoll_registry::store::EntryKind;
use std::borrow::Cow;
use std::collections::HashMap;

/// What was added, removed and changed; "nothing changed" if the definitions and `settings`, the names
/// of changed settings, are the same.
pub(super) fn describe(before: &Definitions, after: &Definitions, settings: &[&str]) -> String {
    let mut changes = Changes::default();
    changes.note(EntryKind::Service, &before.services, &after.services, |one| &one.id);
    changes.note(EntryKind::Upstream, &before.upstreams, &after.upstreams, |one| &one.id);
    changes.note(EntryKind::Endpoint, &before.endpoints, &after.endpoints, |one| &one.id);
    changes.add(CHANGED, "setting", settings);
    let parts: Vec<String> = ["added", "removed", "changed"]
        .into_iter()
        .zip(changes.0)
        .filter(|(_, parts)| !parts.is_empty())
        .map(|(verb, parts)| match parts.split_last() {
            Some((last, rest)) if !rest.is_empty() => {
                format!("{verb} {} and {last}", rest.join(", "))
            }
            _ => format!("{verb} {}", parts.concat()),
        })
        .collect();
    if parts.is_empty() { "nothing changed".into() } else { parts.join("; ") }
}

/// The parts for what was added, removed and changed.
#[derive(Default)]
struct Changes([Vec<String>; 3]);

const ADDED: usize = 0;
const REMOVED: usize = 1;
const CHANGED: usize = 2;

impl Changes {
    /// Compares entries of one kind by their ids.
    fn note<'a, T: PartialEq>(
        &mut self,
        kind: EntryKind,
        before: &'a [T],
        after: &'a [T],
        id: impl Fn(&'a T) -> &'a str,
    ) {
        let by_id = |items: &'a [T]| -> HashMap<&'a str, &'a T> {
            items.iter().map(|item| (id(item), item)).collect()
        };
        let (old, new) = (by_id(before), by_id(after));
        let ids = |items: &'a [T], are: &dyn Fn(&'a T) -> bool| -> Vec<Cow<'a, str>> {
            items.iter().filter(|item| are(item)).map(|item| kind.shown(id(item))).collect()
        };
        let name = kind.name();
        self.add(ADDED, name, &ids(after, &|item| !old.contains_key(id(item))));
        self.add(REMOVED, name, &ids(before, &|item| !new.contains_key(id(item))));
        let differs = |item: &'a T| old.get(id(item)).is_some_and(|known| **known != *item);
        self.add(CHANGED, name, &ids(after, &differs));
    }

    fn add(&mut self, place: usize, kind: &str, ids: &[impl AsRef<str>]) {
        if !ids.is_empty() {
            self.0[place].push(format!("{} ({})", counted(ids.len(), kind), listed(ids)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_registry::model::{Endpoint, Service};

    /// Services as `ID` or `ID=CHAIN`, and endpoints, separated by spaces.
    fn definitions(services: &str, endpoints: &str) -> Definitions {
        let service = |text: &str| {
            let (id, chain) = text.split_once('=').unwrap_or((text, "1"));
            Service { chain_id: chain.parse().ok(), ..Service::named(id) }
        };
        let endpoint = |id: &str| Endpoint::named(id, "eth");
        Definitions {
            services: services.split_whitespace().map(service).collect(),
            upstreams: Vec::new(),
            endpoints: endpoints.split_whitespace().map(endpoint).collect(),
        }
    }

    #[test]
    fn reloads_are_described() {
        let check = |before: (&str, &str), after: (&str, &str), settings: &[&str], text: &str| {
            let (before, after) = (definitions(before.0, before.1), definitions(after.0, after.1));
            assert_eq!(describe(&before, &after, settings), text);
        };
        check(("a b", "e"), ("b a", "e"), &[], "nothing changed");
        check(("a", ""), ("a b", ""), &[], "added 1 service (b)");
        check(
            ("a b", "e"),
            ("a=2 c", ""),
            &["reveal", "limits.body"],
            "added 1 service (c); removed 1 service (b) and 1 endpoint (…); changed 1 service (a) \
             and 2 settings (reveal, limits.body)",
        );
        check(("", ""), ("a b c d e f g", ""), &[], "added 7 services (a, b, c, d, e and 2 more)");
        // An endpoint's id is its customer's credential.
        let id = "ethpath_1764014188689_1764014188693";
        check(("", id), ("", ""), &[], "removed 1 endpoint (ethp…8693)");
    }
}
