//! The admin API's documents.

use super::super::access::Changed;
use super::super::listing::Shown;
use crate::usage_error;
use plimsoll_registry::sources::{Outcome, REQUESTS_MAX, Request};
use plimsoll_registry::store::EntryKind;
use serde_json::{Map, Value, json};

/// How to write an action.
pub(super) const FORM: &str = "write it like {\"action\": \"add\", \"kind\": \"endpoint\", \"id\": \"…\", \"service\": \
     \"eth\", \"definition\": \"methods.deny = [\\\"debug_*\\\"]\"}; GET /api/v1/openapi.json";

/// The names of outcomes.
const OUTCOMES: [(Outcome, &str); 4] = [
    (Outcome::Changed, "changed"),
    (Outcome::Replaced, "replaced"),
    (Outcome::ReplacedBuiltIn, "replaced the built-in one"),
    (Outcome::Unchanged, "unchanged"),
];

/// An entry.
pub(super) fn resource(kind: EntryKind, shown: &Shown) -> Value {
    json!({ "kind": kind.name(), "id": shown.id(), "entry": shown.entry, "toml": shown.toml })
}

/// An entry in an answer.
pub(super) fn read_resource(value: &Value) -> Option<Shown> {
    Some(Shown { entry: value["entry"].clone(), toml: value["toml"].as_str()?.into() })
}

/// What became of actions.
pub(crate) fn show_changed(requests: &[Request], changed: &Changed) -> Value {
    let outcome = |(request, outcome): (&Request, &Outcome)| {
        let (kind, id) = request.subject();
        let name = OUTCOMES.iter().find(|(known, _)| known == outcome).map(|(_, name)| name);
        json!({ "kind": kind.name(), "id": id, "outcome": name })
    };
    let outcomes: Vec<Value> = requests.iter().zip(&changed.outcomes).map(outcome).collect();
    json!({ "outcomes": outcomes, "database": changed.database, "warnings": changed.warnings })
}

/// What became of actions, in an answer.
pub(crate) fn changed(value: &Value) -> anyhow::Result<Changed> {
    let outcome = |one: &Value| {
        OUTCOMES.iter().find(|(_, name)| one["outcome"] == *name).map(|(outcome, _)| *outcome)
    };
    let texts = |value: &Value| {
        let texts = value.as_array().into_iter().flatten();
        texts.filter_map(Value::as_str).map(String::from).collect()
    };
    let outcomes = value["outcomes"].as_array();
    let outcomes = outcomes.and_then(|all| all.iter().map(outcome).collect::<Option<Vec<_>>>());
    let outcomes = outcomes.ok_or_else(|| {
        usage_error("the gateway's answer has another form", "use the same version of plimsoll")
    })?;
    Ok(Changed {
        outcomes,
        database: value["database"].as_str().unwrap_or_default().into(),
        warnings: texts(&value["warnings"]),
    })
}

/// Actions as they are sent.
pub(super) fn show_requests(requests: &[Request]) -> Value {
    json!({ "actions": requests.iter().map(show_request).collect::<Vec<_>>() })
}

fn show_request(request: &Request) -> Value {
    let (kind, id) = request.subject();
    let mut value = json!({ "action": action(request), "kind": kind.name(), "id": id });
    let line = |(name, line): &(String, String)| json!({ "name": name, "line": line });
    match request {
        Request::Add { service, lines, .. } => {
            value["service"] = json!(service);
            value["definition"] = lines.iter().map(line).collect();
        }
        Request::AddKey { name, lines, .. } => {
            value["key"] = json!(name);
            value["definition"] = lines.iter().map(line).collect();
        }
        Request::RemoveKey { name, is_last, .. } => {
            value["key"] = json!(name);
            if *is_last {
                value["last"] = json!(true);
            }
        }
        _ => {}
    }
    value
}

fn action(request: &Request) -> &'static str {
    match request {
        Request::Add { replace: false, .. } => "add",
        Request::Add { replace: true, .. } => "replace",
        Request::Enable(..) => "enable",
        Request::Disable(..) => "disable",
        Request::Drain(_) => "drain",
        Request::Remove(..) => "remove",
        Request::AddKey { .. } => "add_key",
        Request::RemoveKey { .. } => "remove_key",
    }
}

/// Reads one action, or several under `actions`.
///
/// # Errors
/// What is wrong with the first that is not valid.
pub(super) fn requests(value: &Value) -> Result<Vec<Request>, String> {
    let object = value.as_object().ok_or("the body is not an object")?;
    let Some(actions) = object.get("actions") else { return Ok(vec![read_request(object)?]) };
    if object.len() > 1 {
        return Err("there is a member beside \"actions\"".into());
    }
    let actions = actions.as_array().ok_or("\"actions\" is not an array")?;
    if actions.is_empty() {
        return Err("\"actions\" is empty".into());
    }
    if actions.len() > REQUESTS_MAX {
        return Err(format!("{} actions; at most {REQUESTS_MAX}", actions.len()));
    }
    let read = |(at, one): (usize, &Value)| {
        let object = one.as_object().ok_or_else(|| "it is not an object".to_string());
        object.and_then(read_request).map_err(|why| format!("action {}: {why}", at + 1))
    };
    actions.iter().enumerate().map(read).collect()
}

fn read_request(object: &Map<String, Value>) -> Result<Request, String> {
    const MEMBERS: [&str; 7] = ["action", "kind", "id", "service", "definition", "key", "last"];
    if object.keys().any(|key| !MEMBERS.contains(&key.as_str())) {
        return Err(format!("it has an unknown member; known are {}", MEMBERS.join(", ")));
    }
    let text = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("\"{key}\" is not a string")),
    };
    let needed = |key: &str| text(key)?.ok_or_else(|| format!("\"{key}\" is missing"));
    let (action, word, id) = (needed("action")?, needed("kind")?, needed("id")?);
    let kind = EntryKind::ALL.into_iter().find(|kind| kind.name() == word);
    let kind = kind.ok_or("\"kind\" is not service, upstream or endpoint")?;
    let has = |keys: &[&str]| keys.iter().any(|key| object.contains_key(*key));
    let is_add = matches!(action.as_str(), "add" | "replace");
    if !is_add && has(&["service"]) || !is_add && action != "add_key" && has(&["definition"]) {
        return Err("only \"add\" and \"replace\" have a service and a definition".into());
    }
    let is_key = matches!(action.as_str(), "add_key" | "remove_key");
    if !is_key && has(&["key", "last"]) {
        return Err("only \"add_key\" and \"remove_key\" have a key".into());
    }
    if is_key {
        return read_key_request(object, &action, kind, id);
    }
    Ok(match action.as_str() {
        "add" | "replace" => {
            let service = text("service")?;
            if kind == EntryKind::Service && service.is_some() {
                return Err("a service has no member \"service\"".into());
            }
            let lines = definition(object.get("definition"))?;
            Request::Add { kind, id, service, lines, replace: action == "replace" }
        }
        "enable" => Request::Enable(kind, id),
        "disable" => Request::Disable(kind, id),
        "remove" => Request::Remove(kind, id),
        "drain" if kind == EntryKind::Upstream => Request::Drain(id),
        "drain" => return Err("only upstreams can be drained".into()),
        _ => return Err(
            "\"action\" is not add, replace, enable, disable, drain, remove, add_key or remove_key, \
             or drop_cache alone"
                .into(),
        ),
    })
}

/// Reads an action on a key of an endpoint.
fn read_key_request(
    object: &Map<String, Value>,
    action: &str,
    kind: EntryKind,
    endpoint: String,
) -> Result<Request, String> {
    if kind != EntryKind::Endpoint {
        return Err("only endpoints have keys".into());
    }
    let name = object.get("key").and_then(Value::as_str).map(String::from);
    let name = name.ok_or("\"key\", the name of the key, is missing or not a string")?;
    let is_last = match object.get("last") {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(_) => return Err("\"last\" is not true or false".into()),
    };
    if action == "remove_key" {
        return Ok(Request::RemoveKey { endpoint, name, is_last });
    }
    if is_last {
        return Err("only \"remove_key\" has \"last\"".into());
    }
    let lines = definition(object.get("definition"))?;
    Ok(Request::AddKey { endpoint, name, lines })
}

/// The lines of a definition, with their names in problems: a string, or objects with `name` and `line`.
fn definition(value: Option<&Value>) -> Result<Vec<(String, String)>, String> {
    let lines: Vec<(String, String)> = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| ("definition".into(), line.into()))
            .collect(),
        Some(Value::Array(lines)) => {
            let line = |one: &Value| {
                let members = one.as_object().filter(|members| members.len() == 2)?;
                Some((members.get("name")?.as_str()?.into(), members.get("line")?.as_str()?.into()))
            };
            let lines = lines.iter().map(line).collect::<Option<_>>();
            lines.ok_or("\"definition\" has an element that is not {\"name\", \"line\"}")?
        }
        Some(_) => return Err("\"definition\" is not a string or an array".into()),
    };
    if lines.iter().any(|(_, line)| line.chars().any(|c| c.is_control() && c != '\t')) {
        return Err("\"definition\" has a control character in a line".into());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_read_back() {
        let lines = vec![("--allow".to_string(), "methods.allow = [\"eth_*\"]".to_string())];
        let add = |kind, service: Option<&str>, replace| Request::Add {
            kind,
            id: "x".into(),
            service: service.map(String::from),
            lines: lines.clone(),
            replace,
        };
        let all = [
            add(EntryKind::Endpoint, Some("eth"), false),
            add(EntryKind::Upstream, None, true),
            add(EntryKind::Service, None, false),
            Request::Enable(EntryKind::Service, "a".into()),
            Request::Disable(EntryKind::Upstream, "a".into()),
            Request::Remove(EntryKind::Endpoint, "a".into()),
            Request::Drain("a".into()),
            Request::AddKey { endpoint: "a".into(), name: "k".into(), lines: lines.clone() },
            Request::RemoveKey { endpoint: "a".into(), name: "k".into(), is_last: true },
        ];
        assert_eq!(requests(&show_requests(&all)).unwrap(), all);
    }

    #[test]
    fn bad_actions_are_named() {
        let check = |text: &str, words: &str| {
            let why = requests(&serde_json::from_str(text).unwrap()).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        };
        check("[]", "not an object");
        check("{}", "\"action\" is missing");
        check(r#"{"actions": []}"#, "is empty");
        check(r#"{"actions": [], "id": "x"}"#, "beside");
        check(r#"{"actions": [1]}"#, "action 1: it is not an object");
        check(r#"{"action": "add", "kind": "x", "id": "a"}"#, "\"kind\" is not");
        check(r#"{"action": "drop", "kind": "upstream", "id": "a"}"#, "\"action\" is not");
        check(r#"{"action": "drain", "kind": "service", "id": "a"}"#, "only upstreams");
        check(
            r#"{"action": "add", "kind": "service", "id": "a", "service": "eth"}"#,
            "no member \"service\"",
        );
        check(r#"{"action": "add", "kind": "endpoint", "id": 1}"#, "not a string");
        check(r#"{"action": "remove", "kind": "endpoint", "id": "a", "x": 1}"#, "unknown member");
        check(
            r#"{"action": "remove", "kind": "endpoint", "id": "a", "service": "eth"}"#,
            "only \"add\"",
        );
        check(r#"{"action": "add_key", "kind": "endpoint", "id": "a"}"#, "\"key\"");
        check(
            r#"{"action": "add_key", "kind": "service", "id": "a", "key": "k"}"#,
            "only endpoints",
        );
        check(r#"{"action": "drain", "kind": "upstream", "id": "a", "key": "k"}"#, "have a key");
        check(
            r#"{"action": "remove_key", "kind": "endpoint", "id": "a", "key": "k", "last": 1}"#,
            "\"last\" is not",
        );
        check(
            r#"{"action": "add", "kind": "service", "id": "a", "definition": [{"name": "x", "line": "a = 1\nb = 2"}]}"#,
            "control character",
        );
    }
}
