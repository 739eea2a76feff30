//! Checks the structure of the workspace: dependencies between crates, the code map in
//! ARCHITECTURE.md, and a module comment in every file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Additional dependencies of tests: the engine's simulation checks the verdict.
const TESTED_WITH: [(&str, &str); 1] = [("engine", "report")];

/// The only crate with unsafe code.
const UNSAFE: &str = "allocator";

/// All allowed dependencies. `sim` may be a dev-dependency of any crate.
const EDGES: [(&str, &[&str]); 16] = [
    ("allocator", &[]),
    ("measure", &[]),
    ("config", &[]),
    ("rpc", &[]),
    ("websocket", &[]),
    ("host", &["measure"]),
    ("plan", &["measure", "config", "rpc"]),
    ("report", &["measure", "plan"]),
    ("engine", &["measure", "rpc", "plan", "websocket"]),
    ("compat", &["measure", "plan", "report"]),
    ("registry", &["measure", "config", "rpc"]),
    ("resilience", &["measure"]),
    ("gateway", &["measure", "config", "rpc", "registry", "resilience"]),
    ("sim", &["measure", "config", "rpc", "websocket"]),
    ("fleet", &["measure", "plan", "engine", "host"]),
    (
        "plimsoll",
        &[
            "allocator",
            "measure",
            "config",
            "rpc",
            "host",
            "plan",
            "report",
            "engine",
            "registry",
            "gateway",
            "sim",
            "websocket",
            "compat",
            "fleet",
        ],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn crates() -> BTreeSet<String> {
    let entries = std::fs::read_dir(root().join("crates")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn manifest(name: &str) -> toml::Table {
    let path = root().join("crates").join(name).join("Cargo.toml");
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn internal(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    let Some(table) = manifest.get(section).and_then(|table| table.as_table()) else {
        return BTreeSet::new();
    };
    table.keys().filter_map(|key| key.strip_prefix("plimsoll-")).map(String::from).collect()
}

#[test]
fn crates_have_only_allowed_dependencies() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        EDGES.iter().map(|(name, edges)| (*name, edges.iter().copied().collect())).collect();
    for name in crates() {
        let allowed =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the table"));
        let manifest = manifest(&name);
        for dependency in internal(&manifest, "dependencies") {
            assert!(allowed.contains(dependency.as_str()), "{name} depends on {dependency}");
        }
        for dependency in internal(&manifest, "dev-dependencies") {
            let ok = dependency == "sim"
                || TESTED_WITH.contains(&(name.as_str(), dependency.as_str()))
                || allowed.contains(dependency.as_str());
            assert!(ok, "{name} is tested with {dependency}");
        }
    }
}

#[test]
fn versions_and_lints_are_set_only_in_the_root() {
    for name in crates() {
        let manifest = manifest(&name);
        let lints = &manifest["lints"];
        if name == UNSAFE {
            // "forbid" in the workspace could not be overridden in the crate.
            assert_eq!(lints["rust"]["unsafe_code"].as_str(), Some("deny"), "{name}");
        } else {
            assert_eq!(lints["workspace"].as_bool(), Some(true), "{name}");
        }
        for section in ["dependencies", "dev-dependencies"] {
            let Some(table) = manifest.get(section).and_then(|table| table.as_table()) else {
                continue;
            };
            for (dependency, spec) in table {
                assert_eq!(
                    spec.get("workspace").and_then(|w| w.as_bool()),
                    Some(true),
                    "{name}: {dependency}"
                );
            }
        }
    }
}

#[test]
fn the_code_map_lists_exactly_the_crates() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let named: BTreeSet<String> = map
        .split("`crates/")
        .skip(1)
        .filter_map(|rest| rest.split(['/', '`']).next())
        .map(String::from)
        .collect();
    assert_eq!(named, crates());
}

/// The gateway's modules, from the top layer down. Each may use only itself and those below it.
const GATEWAY_LAYERS: [&str; 29] = [
    "simulation",
    "fuzz",
    "warnings",
    "gateway",
    "serve",
    "call",
    "upstream",
    "keeper",
    "gzip",
    "buffer",
    "local",
    "meter",
    "account",
    "payload",
    "observe",
    "permit",
    "cache",
    "limits",
    "line",
    "offload",
    "transport",
    "agree",
    "heads",
    "sends",
    "protocol",
    "http1",
    "host",
    "error",
    "lib",
];

#[test]
fn layers_of_the_gateway_use_only_lower_layers() {
    let src = root().join("crates/gateway/src");
    let rank = |module: &str| GATEWAY_LAYERS.iter().position(|layer| *layer == module);
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inner = path.strip_prefix(&src).unwrap().with_extension("");
            let own = inner.iter().next().unwrap().to_str().unwrap();
            let own_rank = rank(own).unwrap_or_else(|| panic!("{own} is not in GATEWAY_LAYERS"));
            let text = std::fs::read_to_string(&path).unwrap();
            for rest in text.split("crate::").skip(1) {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap();
                if let Some(used) = rank(&rest[..end]) {
                    assert!(used >= own_rank, "{} uses {}", path.display(), &rest[..end]);
                }
            }
        }
    }
}

#[test]
fn every_file_has_a_module_comment() {
    let mut folders = vec![root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(text.starts_with("//! "), "{} has no //!", path.display());
            }
        }
    }
}
