//! Checks of a configuration beyond those of `plimsoll_registry`: warnings about valid settings that
//! are probably mistakes, and problems with the files that the settings name.
//!
//! Warnings never stop a gateway: an unknown method may exist on some node, and a listener may be
//! added later.

use std::fmt;

use plimsoll_config::{Place, Problems, nearest};
use plimsoll_registry::Definitions;
use plimsoll_registry::model::MethodRules;
use plimsoll_registry::settings::Settings;
use plimsoll_registry::store::EntryKind;
use plimsoll_rpc::method::NAMES;

use crate::transport::tls;

/// Namespaces of nodes and providers whose methods [`NAMES`] does not list.
const NAMESPACES: &[&str] = &[
    "admin",
    "alchemy",
    "anvil",
    "arb",
    "bor",
    "clique",
    "engine",
    "erigon",
    "evm",
    "flashbots",
    "hardhat",
    "kaia",
    "klay",
    "les",
    "linea",
    "miner",
    "optimism",
    "ots",
    "parity",
    "personal",
    "qn",
    "rollup",
    "rpc",
    "testing",
    "zkevm",
    "zks",
];

/// A warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The kind and id of the entry with the mistake; `None` if it is not in one entry.
    pub entry: Option<(EntryKind, String)>,
    /// The mistake.
    pub message: String,
}

/// Endpoints' ids are masked.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((kind, id)) = &self.entry {
            write!(f, "{} {}: ", kind.name(), kind.shown(id))?;
        }
        f.write_str(&self.message)
    }
}

/// The problems with certificates and keys that would keep a gateway from starting, or from applying
/// this configuration.
pub fn file_problems(settings: &Settings, definitions: &Definitions) -> Problems {
    let mut problems = Problems::default();
    for (place, message) in tls::problems(settings, definitions) {
        problems.note(Place::Named(place), message, "");
    }
    problems
}

/// The warnings for a configuration.
pub fn warnings(settings: &Settings, definitions: &Definitions) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut check = |kind, id: &str, rules| {
        let warning = |message| Warning { entry: Some((kind, id.into())), message };
        found.extend(check_rules(rules).into_iter().map(warning));
    };
    for endpoint in &definitions.endpoints {
        check(EntryKind::Endpoint, &endpoint.id, &endpoint.methods);
    }
    for upstream in &definitions.upstreams {
        check(EntryKind::Upstream, &upstream.id, &upstream.methods);
    }
    let mut add = |message: String| found.push(Warning { entry: None, message });
    let has = |face: &dyn Fn(&plimsoll_registry::settings::Listener) -> bool| {
        settings.listeners.iter().any(face)
    };
    let (customers, path) = (has(&|one| one.faces.gateway), has(&|one| one.faces.path));
    if !customers && !path {
        add("no listener relays calls; add \"gateway\" or \"path\" to a listener's faces".into());
    } else if !customers && !definitions.endpoints.is_empty() {
        add("endpoints are defined, but no listener has the face \"gateway\" that serves them"
            .into());
    }
    let rest = definitions.services.iter().find(|service| service.rest);
    if let Some(service) = rest.filter(|_| customers && !path) {
        add(format!(
            "service {} has rest = true, but no listener has the face \"path\" that serves REST",
            service.id
        ));
    }
    found
}

/// The mistakes in an entry's rules.
fn check_rules(rules: &MethodRules) -> Vec<String> {
    let mut found = Vec::new();
    let patterns = |key: &'static str, list: &'_ [String]| {
        list.iter().map(move |pattern| (key, pattern.clone())).collect::<Vec<_>>()
    };
    let all = [patterns("allow", &rules.allow), patterns("deny", &rules.deny)].concat();
    for (key, pattern) in all {
        if let Some(meant) = unmatched(&pattern) {
            let hint = meant.map(|meant| format!("; did you mean \"{meant}\"?"));
            found.push(format!(
                "methods.{key} \"{pattern}\" matches no known method{} (names are \
                 case-sensitive)",
                hint.as_deref().unwrap_or_default()
            ));
        }
    }
    for pattern in &rules.allow {
        let covers = |wide: &&String| match wide.strip_suffix('*') {
            Some(start) => pattern.starts_with(start),
            None => *wide == pattern,
        };
        if let Some(wide) = rules.deny.iter().find(covers) {
            found.push(format!(
                "methods.allow \"{pattern}\" has no effect; methods.deny \"{wide}\" overrides it"
            ));
        }
    }
    found
}

/// `Some` if a pattern probably matches nothing, with the pattern that was probably meant. An unknown
/// name is suspect only if it resembles a known one, because nodes have custom methods.
fn unmatched(pattern: &str) -> Option<Option<String>> {
    let (name, is_glob) = match pattern.strip_suffix('*') {
        Some(start) => (start, true),
        None => (pattern, false),
    };
    let matches = |known: &str| if is_glob { known.starts_with(name) } else { known == name };
    let namespace = name.split('_').next().unwrap_or_default();
    if NAMES.iter().any(|known| matches(known)) || NAMESPACES.contains(&namespace) {
        return None;
    }
    if !is_glob {
        return nearest_name(name, NAMES.iter().copied()).map(Some);
    }
    let start = |known: &str| known.split('_').next().unwrap_or_default().to_string();
    let namespaces: Vec<String> = NAMES
        .iter()
        .map(|known| start(known))
        .chain(NAMESPACES.iter().map(|n| n.to_string()))
        .collect();
    let meant = if namespaces.iter().any(|known| known == namespace) {
        None
    } else {
        nearest_name(namespace, namespaces.iter().map(String::as_str))
    };
    Some(meant.map(|meant| format!("{meant}_*")))
}

fn nearest_name<'k>(name: &str, known: impl Iterator<Item = &'k str> + Clone) -> Option<String> {
    let same = known.clone().find(|known| known.eq_ignore_ascii_case(name));
    same.or_else(|| nearest(name, known)).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_match_nothing() {
        let check = |pattern: &str, expected: Option<Option<&str>>| {
            let found = unmatched(pattern);
            assert_eq!(found.as_ref().map(Option::as_deref), expected, "{pattern}");
        };
        check("*", None);
        check("eth_*", None);
        check("eth_get*", None);
        check("eth_call", None);
        check("admin_*", None);
        check("bor_getAuthor", None);
        // A method of some node: nothing known resembles it.
        check("mychain_doSomethingUnusual", None);
        check("Admin_*", Some(Some("admin_*")));
        check("debgu_*", Some(Some("debug_*")));
        check("eth_Get*", Some(None));
        check("quux_*", Some(None));
        check("ETH_CALL", Some(Some("eth_call")));
        check("eth_getLog", Some(Some("eth_getLogs")));
    }

    #[test]
    fn rules_without_effect() {
        let rules = MethodRules {
            allow: vec!["eth_call".into(), "eth_getLogs".into()],
            deny: vec!["eth_c*".into()],
        };
        let expected =
            "methods.allow \"eth_call\" has no effect; methods.deny \"eth_c*\" overrides it";
        assert_eq!(check_rules(&rules), [expected]);
    }
}
