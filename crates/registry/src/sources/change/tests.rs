//! Which changes are allowed, given a configuration and a database with all kinds of entries.

use super::*;
use crate::config::Inputs;

const FILE: &str = r#"
instances = ["http://path-1"]

[[service]]
id = "base"

[[upstream]]
id = "in-file"
service = "eth"
url = "http://127.0.0.1:8545/"

[[endpoint]]
id = "in-file"
service = "base"
"#;

fn entry(kind: EntryKind, id: &str, service: Option<&str>, definition: Option<&str>) -> Entry {
    Entry {
        kind,
        id: id.into(),
        service: service.map(String::from),
        definition: definition.map(String::from),
        disabled: definition.is_none(),
    }
}

fn database() -> Vec<Entry> {
    use EntryKind::{Endpoint, Service, Upstream};
    let mut off = entry(Endpoint, "off", Some("eth"), Some(""));
    off.disabled = true;
    vec![
        entry(Service, "mine", None, Some("chain_id = 7")),
        entry(Service, "free", None, Some("")),
        entry(Service, "boba", None, Some("chain_id = 288")),
        entry(Service, "kava", None, None),
        entry(Upstream, "node-a", Some("mine"), Some("url = \"http://h/\"")),
        entry(Endpoint, "e1", Some("mine"), Some("")),
        entry(Endpoint, "e2", Some("boba"), Some("")),
        off,
    ]
}

fn config() -> Config {
    let inputs = Inputs { file: Some("gateway.toml".into()), ..Inputs::default() };
    Config::read_with(&inputs, Some(FILE)).unwrap()
}

fn add(kind: EntryKind, id: &str, service: Option<&str>, replace: bool) -> Request {
    let service = service.map(String::from);
    Request::Add { kind, id: id.into(), service, lines: Vec::new(), replace }
}

#[track_caller]
fn allowed(request: Request, change: Option<Change>, outcome: Outcome) {
    match decide(&request, &config(), &database(), &Variables::default()) {
        Ok(Decision::Write(written, so)) => assert_eq!((Some(written), so), (change, outcome)),
        Ok(Decision::Nothing) => assert_eq!((change, outcome), (None, Outcome::Unchanged)),
        Err(error) => panic!("{request:?}: {error}"),
    }
}

#[track_caller]
fn refused(request: Request, message: &str, hint: &str) {
    match decide(&request, &config(), &database(), &Variables::default()) {
        Ok(_) => panic!("{request:?}"),
        Err(error) => {
            assert_eq!(error.to_string(), message);
            assert!(error.hint().contains(hint), "{}", error.hint());
        }
    }
}

#[test]
fn adding() {
    use EntryKind::{Endpoint, Service, Upstream};
    let new = entry(Endpoint, "new", Some("mine"), Some(""));
    allowed(
        add(Endpoint, "new", Some("mine"), false),
        Some(Change::Add(new.clone())),
        Outcome::Changed,
    );
    allowed(add(Endpoint, "new", Some("mine"), true), Some(Change::Add(new)), Outcome::Changed);
    let eth = entry(Service, "eth", None, Some(""));
    allowed(add(Service, "eth", None, false), Some(Change::Add(eth)), Outcome::ReplacedBuiltIn);
    let kava = entry(Service, "kava", None, Some(""));
    allowed(
        add(Service, "kava", None, false),
        Some(Change::Replace(kava)),
        Outcome::ReplacedBuiltIn,
    );
    // It stays disabled.
    let mut off = entry(Endpoint, "off", Some("boba"), Some(""));
    off.disabled = true;
    allowed(
        add(Endpoint, "off", Some("boba"), true),
        Some(Change::Replace(off)),
        Outcome::Replaced,
    );
    allowed(add(Endpoint, "off", Some("eth"), true), None, Outcome::Unchanged);
    // Services of the file, built-in ones and disabled ones may all be referenced.
    for service in ["base", "eth", "kava"] {
        let new = entry(Upstream, "u", Some(service), Some(""));
        allowed(add(Upstream, "u", Some(service), false), Some(Change::Add(new)), Outcome::Changed);
    }
    let exists = "the endpoint \"e1\" already exists";
    refused(add(Endpoint, "e1", Some("mine"), false), exists, "add --replace");
    refused(
        add(Upstream, "in-file", Some("eth"), true),
        "the upstream \"in-file\" is defined in the configuration",
        "choose another id",
    );
    refused(
        add(Upstream, "path-1", None, false),
        "the upstream \"path-1\" is defined in the configuration",
        "",
    );
    refused(add(Endpoint, "n", Some("bobo"), false), "unknown service \"bobo\"", "\"boba\"?");
    let hint = "add it first: plimsoll gateway service add solana";
    refused(add(Endpoint, "n", Some("solana"), false), "unknown service \"solana\"", hint);
}

#[test]
fn disabling_and_enabling() {
    use EntryKind::{Endpoint, Service, Upstream};
    let set =
        |kind, id: &str, disabled| Some(Change::SetDisabled { kind, id: id.into(), disabled });
    let disable = |kind, id: &str| Request::Disable(kind, id.into());
    let enable = |kind, id: &str| Request::Enable(kind, id.into());
    allowed(disable(Endpoint, "e1"), set(Endpoint, "e1", true), Outcome::Changed);
    allowed(enable(Endpoint, "off"), set(Endpoint, "off", false), Outcome::Changed);
    allowed(disable(Endpoint, "off"), None, Outcome::Unchanged);
    allowed(enable(Endpoint, "e1"), None, Outcome::Unchanged);
    // A built-in service has no entry: a mark disables it.
    let mark = Change::Add(entry(Service, "eth", None, None));
    allowed(disable(Service, "eth"), Some(mark), Outcome::Changed);
    allowed(enable(Service, "eth"), None, Outcome::Unchanged);
    allowed(disable(Service, "kava"), None, Outcome::Unchanged);
    let unmark = Change::Remove { kind: Service, id: "kava".into() };
    allowed(enable(Service, "kava"), Some(unmark), Outcome::Changed);
    refused(disable(Endpoint, "e11"), "there is no endpoint \"e11\"", "did you mean \"e1\"?");
    refused(enable(Upstream, "zzz"), "there is no upstream \"zzz\"", "upstream list");
    let message = "the endpoint \"in-file\" is defined in the configuration";
    refused(disable(Endpoint, "in-file"), message, "change it there");
}

#[test]
fn draining() {
    use EntryKind::Upstream;
    let drain = |id: &str| Request::Drain(id.into());
    let lines = "url = \"http://h/\"\ndrain = true";
    let after = entry(Upstream, "node-a", Some("mine"), Some(lines));
    allowed(drain("node-a"), Some(Change::Replace(after)), Outcome::Changed);
    refused(drain("zzz"), "there is no upstream \"zzz\"", "upstream list");
    let message = "the upstream \"in-file\" is defined in the configuration";
    refused(drain("in-file"), message, "write drain = true there");
    // Enabling it ends the drain.
    let mut entries = database();
    entries[4].definition = Some(lines.into());
    let before = entry(Upstream, "node-a", Some("mine"), Some("url = \"http://h/\""));
    let enable = Request::Enable(Upstream, "node-a".into());
    match decide(&enable, &config(), &entries, &Variables::default()) {
        Ok(Decision::Write(Change::Replace(entry), Outcome::Changed)) => assert_eq!(entry, before),
        _ => panic!("the entry is replaced"),
    }
    assert!(matches!(
        decide(&drain("node-a"), &config(), &entries, &Variables::default()),
        Ok(Decision::Nothing)
    ));
}

#[test]
fn removing() {
    use EntryKind::{Endpoint, Service, Upstream};
    let remove = |kind, id: &str| Request::Remove(kind, id.into());
    let gone = |kind, id: &str| Some(Change::Remove { kind, id: id.into() });
    allowed(remove(Endpoint, "e1"), gone(Endpoint, "e1"), Outcome::Changed);
    allowed(remove(Upstream, "node-a"), gone(Upstream, "node-a"), Outcome::Changed);
    allowed(remove(Service, "free"), gone(Service, "free"), Outcome::Changed);
    // The built-in service takes its place.
    allowed(remove(Service, "boba"), gone(Service, "boba"), Outcome::Changed);
    refused(
        remove(Service, "mine"),
        "the service \"mine\" is used by upstream \"node-a\", endpoint \"e1\"",
        "plimsoll gateway service disable mine",
    );
    refused(remove(Service, "eth"), "the service \"eth\" is built in", "service disable eth");
    refused(remove(Service, "kava"), "the service \"kava\" is built in", "service disable kava");
    refused(remove(Endpoint, "nope"), "there is no endpoint \"nope\"", "endpoint list");
    let message = "the service \"base\" is defined in the configuration";
    refused(remove(Service, "base"), message, "");
}

/// The file later defined entries that the database has too.
#[test]
fn clashes_can_be_resolved() {
    use EntryKind::{Endpoint, Service};
    let mut entries = database();
    entries.push(entry(Endpoint, "in-file", Some("eth"), Some("")));
    entries.push(entry(Service, "base", None, None));
    let decided =
        |request: Request| decide(&request, &config(), &entries, &Variables::default()).is_ok();
    assert!(decided(Request::Remove(Endpoint, "in-file".into())));
    assert!(!decided(Request::Disable(Endpoint, "in-file".into())));
    assert!(decided(Request::Enable(Service, "base".into())));
    assert!(!decided(Request::Remove(Service, "base".into())));
}

fn add_key(name: &str, digit: char, more: &str) -> Request {
    let hash = String::from(digit).repeat(64);
    Request::AddKey {
        endpoint: "e1".into(),
        name: name.into(),
        lines: vec![("--hash".into(), format!("hash = \"sha256:{hash}\"\n{more}"))],
    }
}

fn remove_key(name: &str, is_last: bool) -> Request {
    Request::RemoveKey { endpoint: "e1".into(), name: name.into(), is_last }
}

#[test]
fn keys() {
    use EntryKind::Endpoint;
    let none = Variables::default();
    let decided = |requests: &[Request], entries: &[Entry]| {
        let (changes, outcomes) = decide_all(requests, &config(), entries, &none)?;
        let mut entries = entries.to_vec();
        changes.iter().for_each(|change| change.clone().make(&mut entries));
        let found = entries.iter().find(|entry| entry.id == "e1").expect("an endpoint");
        Ok::<_, ChangeError>((found.definition.clone().unwrap_or_default(), outcomes))
    };
    let mut all = database();
    let place = all.iter().position(|entry| entry.id == "e1").expect("an endpoint");
    all[place].definition = Some("methods.deny = [\"debug_*\"]".into());
    let two = [add_key("web", 'b', "limits.calls = \"5/s\""), add_key("app", 'a', "")];
    let (text, _) = decided(&two, &all).expect("it is valid");
    let [a, b] = ["a", "b"].map(|digit| digit.repeat(64));
    let app = format!("keys.app = {{ hash = \"sha256:{a}\" }}");
    let web = format!("keys.web = {{ hash = \"sha256:{b}\", limits = {{ calls = \"5/s\" }} }}");
    assert_eq!(text, format!("methods.deny = [\"debug_*\"]\n{app}\n{web}"));
    all[place].definition = Some(text.clone());
    // Again, and removed.
    assert_eq!(decided(&two[1..], &all).expect("valid").1, [Outcome::Unchanged]);
    let (text, _) = decided(&[remove_key("web", false)], &all).expect("it is valid");
    assert_eq!(text, format!("methods.deny = [\"debug_*\"]\n{app}"));
    // An endpoint that is replaced keeps its keys, unless the new one names its own.
    let replaced = [add(Endpoint, "e1", Some("mine"), true)];
    let (text, _) = decided(&replaced, &all).expect("it is valid");
    assert_eq!(text, format!("{app}\n{web}"));
    let error = |request: Request| decided(&[request], &all).expect_err("it is refused");
    for (request, message, hint) in [
        (add_key("web", 'c', ""), "the endpoint already has a key \"web\"", "another name"),
        (add_key("new", 'a', ""), "the key \"app\" of this endpoint is the same", "another one"),
        (remove_key("wbe", false), "the endpoint has no key of this name", "did you mean \"web\"?"),
    ] {
        let error = error(request);
        assert_eq!(error.to_string(), message);
        assert!(error.hint().contains(hint), "{}", error.hint());
    }
    for (name, more) in
        [("", ""), ("a b", ""), ("plk_secret", ""), ("k", "hash = 1"), ("k", "x = 1")]
    {
        let error = error(add_key(name, 'c', more));
        assert!(matches!(error, ChangeError::Invalid(_)), "{error}");
        assert!(!error.to_string().contains("plk_secret"), "{error}");
    }
    let both = [remove_key("app", false), remove_key("web", false)];
    let Err(ChangeError::Several(rejected)) = decided(&both, &all) else {
        panic!("it is the last")
    };
    assert!(rejected[0].1.to_string().contains("it is the only key"), "{rejected:?}");
    let both = [remove_key("app", false), remove_key("web", true)];
    assert_eq!(decided(&both, &all).expect("it is valid").0, "methods.deny = [\"debug_*\"]");
    // Keys in one table, which no line can be added to.
    all[place].definition = Some(format!("keys = {{ app = {{ hash = \"sha256:{a}\" }} }}"));
    let (text, _) = decided(&two[..1], &all).expect("it is rewritten");
    assert_eq!(text, format!("{app}\n{web}"));
    let hidden = "agree = 1\nkeys\\u0061 = 1";
    all[place].definition = Some(hidden.into());
    assert!(decided(&two[..1], &all).is_err());
    let absent = Request::RemoveKey { endpoint: "e9".into(), name: "k".into(), is_last: false };
    refused(absent, "there is no endpoint \"e9\"", "");
}
