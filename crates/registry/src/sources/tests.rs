//! Loading, changing and watching with real files.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use plimsoll_config::Variables;

use super::join::RESOLVED;
use super::*;
use crate::store::EntryKind::{self, Endpoint, Service, Upstream};

/// A folder with a configuration and a database.
struct Place(PathBuf);

impl Place {
    fn new(text: &str) -> Place {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-sources-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        let place = Place(path);
        place.write(text);
        place
    }

    fn write(&self, text: &str) {
        std::fs::write(self.0.join("gateway.toml"), text).unwrap();
    }

    fn sources(&self, variables: &[(&str, &str)]) -> Sources {
        let file = Some(self.0.join("gateway.toml"));
        let mut inputs = Inputs { file, ..Inputs::default() };
        variables.iter().for_each(|(name, value)| inputs.variables.set(*name, *value));
        let mut sources = Sources::new(inputs);
        sources.file.settle = Duration::ZERO;
        sources
    }

    /// An editor of the command line.
    fn editor(&self) -> Editor {
        let variables = Variables::none().leave_unset();
        let file = Some(self.0.join("gateway.toml"));
        Editor::new(Inputs { file, variables, ..Inputs::default() })
    }

    /// Makes a change in the way the command line does.
    async fn change(&self, request: Request, variables: &[(&str, &str)]) {
        let mut strict = Variables::none();
        variables.iter().for_each(|(name, value)| strict.set(*name, *value));
        let mut editor = self.editor();
        editor.change(&[request], &strict).await.unwrap();
        editor.close().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn add(kind: EntryKind, id: &str, service: &str, lines: &str) -> Request {
    let service = (kind != Service).then(|| service.to_string());
    let lines = lines.lines().map(|line| ("--flag".to_string(), line.to_string())).collect();
    Request::Add { kind, id: id.into(), service, lines, replace: false }
}

fn ids(definitions: &Definitions) -> Vec<String> {
    let services = definitions.services.iter().map(|one| format!("service {}", one.id));
    let upstreams = definitions.upstreams.iter().map(|one| format!("upstream {}", one.id));
    let endpoints = definitions.endpoints.iter().map(|one| format!("endpoint {}", one.id));
    services.chain(upstreams).chain(endpoints).collect()
}

async fn why(sources: &mut Sources) -> String {
    sources.load().await.map(|(_, definitions)| ids(&definitions)).unwrap_err().to_string()
}

const FILE: &str =
    "[[upstream]]\nid = \"in-file\"\nservice = \"eth\"\nurl = \"http://h/${A_KEY}\"\n";
const KEYS: [(&str, &str); 2] = [("A_KEY", "k3y"), ("B_KEY", "0ther")];

#[tokio::test]
async fn three_sources_are_joined() {
    let place = Place::new(FILE);
    let mut sources = place.sources(&KEYS);
    let (config, definitions) = sources.load().await.unwrap();
    let before = ids(&definitions);
    assert_eq!(
        before,
        ["service eth", "service boba", "service mantle", "service kava", "upstream in-file"]
    );
    assert!(place.0.join("plimsoll.db").exists(), "created at the first start");
    assert_eq!(
        config.database.unwrap().url.value,
        format!("sqlite:{}/plimsoll.db", place.0.display())
    );
    assert!(!sources.changed().await.unwrap());
}

/// Changes to the database and the file while a gateway runs.
#[tokio::test]
async fn changes_are_detected() {
    let place = Place::new(FILE);
    let mut sources = place.sources(&KEYS);
    let (_, first) = sources.load().await.unwrap();
    let status = sources.status().clone();

    place.change(add(Service, "base", "", "chain_id = 8453"), &[]).await;
    assert!(sources.changed().await.unwrap());
    let (_, definitions) = sources.load().await.unwrap();
    assert_eq!(definitions.services.len(), first.services.len() + 1);
    let before = status.queries();
    assert!(!sources.changed().await.unwrap());
    assert_eq!(status.queries() - before, 1);

    // Placeholders are resolved when loading, not when adding.
    let lines = "url = \"http://h/${B_KEY}\"\nweight = 3";
    place.change(add(Upstream, "node-b", "base", lines), &KEYS[1..]).await;
    place.change(add(Endpoint, "customer-4711", "base", ""), &[]).await;
    assert!(sources.changed().await.unwrap());
    let (_, definitions) = sources.load().await.unwrap();
    let node = definitions.upstreams.iter().find(|one| one.id == "node-b").unwrap();
    assert_eq!(
        (node.url.value.as_str(), node.url.shown.as_str()),
        ("http://h/0ther", "http://h/${B_KEY}")
    );
    assert_eq!(node.weight, 3);

    // Disabling a service disables its upstreams and endpoints, also those of the file.
    place.change(Request::Disable(Service, "base".into()), &[]).await;
    place.change(Request::Disable(Service, "eth".into()), &[]).await;
    let (_, definitions) = sources.load().await.unwrap();
    assert_eq!(ids(&definitions), ["service boba", "service mantle", "service kava"]);
    place.change(Request::Enable(Service, "eth".into()), &[]).await;
    let (_, definitions) = sources.load().await.unwrap();
    assert_eq!(ids(&definitions)[3..], ["service kava", "upstream in-file"].map(String::from));

    // The file, too: two changes in quick succession, without a change of length.
    place.write(&FILE.replace("eth", "kava").replace("in-file", "in-fil"));
    assert!(sources.changed().await.unwrap());
    sources.load().await.unwrap();
    place.write(&FILE.replace("eth", "boba").replace("in-file", "in-fil"));
    assert!(sources.changed().await.unwrap());
    sources.load().await.unwrap();
    assert!(!sources.changed().await.unwrap());
}

/// Many editors, and `cp`, empty the file before they write it, and write it in parts.
#[tokio::test(start_paused = true)]
async fn half_written_files_are_ignored() {
    let text = format!("database = \"off\"\n{FILE}");
    let place = Place::new(&text);
    let mut sources = place.sources(&KEYS);
    sources.file.settle = Duration::from_secs(1);
    sources.load().await.unwrap();
    let half = &text[..text.find("[[upstream]]").unwrap()];
    for part in ["", half, "\n", half] {
        place.write(part);
        for _ in 0..2 {
            assert!(!sources.changed().await.unwrap(), "{part:?}");
            tokio::time::advance(Duration::from_millis(400)).await;
        }
    }
    place.write(&text);
    assert!(!sources.changed().await.unwrap(), "as it was");
    place.write(&text.replace("in-file", "other"));
    assert!(!sources.changed().await.unwrap());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(sources.changed().await.unwrap());
    let (_, definitions) = sources.load().await.unwrap();
    assert_eq!(ids(&definitions).last().unwrap(), "upstream other");
}

/// A file that has lost its content is rejected, also if a load is requested.
#[tokio::test]
async fn emptied_files_are_rejected() {
    let text = format!("database = \"off\"\n{FILE}");
    for blank in ["", " \n\t\r\n"] {
        let place = Place::new(&text);
        let mut sources = place.sources(&KEYS);
        sources.load().await.unwrap();
        place.write(blank);
        assert!(sources.changed().await.unwrap());
        let problem = why(&mut sources).await;
        assert!(
            problem.contains("gateway.toml: the file is empty now\n  hint: restore"),
            "{problem}"
        );
        assert!(!sources.changed().await.unwrap(), "reported once");
        assert!(why(&mut sources).await.contains("is empty now"), "still");
        // A process that takes over keeps the last configuration.
        let mut next = place.sources(&KEYS).with_fallback(Some(text.clone()));
        next.load().await.unwrap();
        assert!(next.uses_fallback());
        place.write("# none\ndatabase = \"off\"\n");
        assert!(sources.changed().await.unwrap());
        sources.load().await.unwrap();
    }
    // At the first start it may be empty.
    let place = Place::new("");
    place.sources(&[]).load().await.unwrap();
}

/// An invalid change is reported once.
#[tokio::test]
async fn errors_name_the_entry_and_a_fix() {
    let place = Place::new(FILE);
    place.change(add(Upstream, "node-b", "eth", "url = \"http://h/${B_KEY}\""), &KEYS).await;
    let shown = format!("sqlite:{}/plimsoll.db", place.0.display());
    let mut sources = place.sources(&KEYS[..1]);
    assert_eq!(
        why(&mut sources).await,
        format!(
            "upstream \"node-b\" in {shown}: the variable B_KEY is not set\n  hint: set it with \
             --set B_KEY=VALUE or in the environment; or disable the entry: plimsoll gateway \
             upstream disable node-b"
        )
    );
    assert!(!sources.changed().await.unwrap(), "reported once");
    place.change(Request::Disable(Upstream, "node-b".into()), &[]).await;
    assert!(sources.changed().await.unwrap());
    sources.load().await.unwrap();

    // A clash caused by the file.
    place.write(&FILE.replace("in-file", "node-b"));
    let clash = why(&mut sources).await;
    assert!(clash.contains("upstream \"node-b\" in sqlite:"), "{clash}");
    assert!(
        clash
            .contains(": it is also defined in the configuration\n  hint: remove it from the file"),
        "{clash}"
    );
    place.write("workers = 0");
    assert!(sources.changed().await.unwrap());
    assert!(why(&mut sources).await.contains("gateway.toml:1:11: \"workers\" must be from 1"));
    assert!(!sources.changed().await.unwrap());
    std::fs::remove_file(place.0.join("gateway.toml")).unwrap();
    assert!(sources.changed().await.unwrap());
    assert!(why(&mut sources).await.contains("gateway.toml: cannot be read: No such file"));
    place.write(FILE);
    assert!(sources.changed().await.unwrap());
    sources.load().await.unwrap();

    // A service removed from the file.
    place.write("[[service]]\nid = \"base\"\n");
    place.change(add(Endpoint, "customer-4711", "base", ""), &[]).await;
    place.write(FILE);
    let gone = why(&mut sources).await;
    assert!(
        gone.contains("endpoint \"cust…4711\" in sqlite:")
            && gone.contains("unknown service \"base\""),
        "{gone}"
    );
}

#[tokio::test]
async fn databases_removed_and_replaced_while_running() {
    let place = Place::new("database = \"sqlite:named.db\"\n");
    let mut sources = place.sources(&[]);
    sources.load().await.unwrap();
    let path = place.0.join("named.db");
    assert!(path.exists(), "a configured database is created");
    std::fs::rename(&path, place.0.join("away.db")).unwrap();
    let error = sources.changed().await.unwrap_err();
    assert!(error.to_string().ends_with("named.db: the file no longer exists"), "{error}");
    assert!(sources.load().await.is_err(), "it is not silently created again");
    // The same file is used again when it is put back; a different file is loaded.
    std::fs::rename(place.0.join("away.db"), &path).unwrap();
    assert!(sources.changed().await.unwrap());
    sources.load().await.unwrap();
    assert!(!sources.changed().await.unwrap());
    let other = Place::new("database = \"sqlite:named.db\"\n");
    other.change(add(Endpoint, "e", "eth", ""), &[]).await;
    std::fs::rename(other.0.join("named.db"), &path).unwrap();
    for beside in ["named.db-wal", "named.db-shm"] {
        let _ = std::fs::remove_file(place.0.join(beside));
    }
    assert!(sources.changed().await.unwrap());
    let (_, definitions) = sources.load().await.unwrap();
    assert_eq!(definitions.endpoints.len(), 1);

    // An unreadable database is an error, not a change, and is retried.
    let good = std::fs::read(&path).unwrap();
    std::fs::write(place.0.join("bad.db"), "no database".repeat(500)).unwrap();
    std::fs::rename(place.0.join("bad.db"), &path).unwrap();
    for _ in 0..2 {
        let error = sources.changed().await.unwrap_err();
        assert!(error.to_string().contains("file is not a database"), "{error}");
        assert!(sources.load().await.is_err());
    }
    std::fs::write(place.0.join("good.db"), good).unwrap();
    std::fs::rename(place.0.join("good.db"), &path).unwrap();
    assert!(sources.changed().await.unwrap());
    sources.load().await.unwrap();
    assert!(!sources.changed().await.unwrap());
}

/// A page costs what its own entries cost: the others are neither parsed nor read again.
#[tokio::test]
async fn a_page_resolves_only_its_own_entries() {
    const ENTRIES: usize = 300;
    let place = Place::new(FILE);
    let endpoints: Vec<Request> =
        (0..ENTRIES).map(|at| add(Endpoint, &format!("e{at:04}"), "eth", "")).collect();
    place.editor().change(&endpoints, &Variables::none()).await.unwrap();
    let mut sources = place.sources(&KEYS);
    sources.load().await.unwrap();
    let mut editor = sources.editor();
    let page = async |editor: &mut Editor, places: std::ops::Range<usize>| {
        let before = (RESOLVED.get(), sources.status().queries());
        let found = editor.select(None, |place, _| places.contains(&place)).await.unwrap();
        (found, RESOLVED.get() - before.0, sources.status().queries() - before.1)
    };
    page(&mut editor, 0..1).await;
    // Before the endpoints are four services and an upstream.
    let (found, resolved, queries) = page(&mut editor, 105..115).await;
    let ids: Vec<&str> = found.entries.iter().map(|(_, entry)| &*entry.id).collect();
    assert_eq!((ids[0], ids[9], ids.len()), ("e0100", "e0109", 10));
    assert_eq!((found.total, resolved, queries), (ENTRIES + 5, 10, 1));
    let (found, resolved, _) = page(&mut editor, ENTRIES + 5..ENTRIES + 15).await;
    assert_eq!((found.entries.len(), found.total, resolved), (0, ENTRIES + 5, 0));
    let one = editor.select(Some(Endpoint), |_, id| id == "e0007").await.unwrap();
    assert_eq!((one.entries.len(), one.total), (1, ENTRIES));
}

#[tokio::test]
async fn listings_show_everything() {
    let place = Place::new(&format!("instances = [\"http://127.0.0.1:4001\"]\n{FILE}"));
    place.change(add(Upstream, "node-b", "boba", "url = \"http://h/${B_KEY}\""), &KEYS).await;
    place.change(add(Service, "kava", "", "chain_id = 1"), &[]).await;
    place.change(Request::Disable(Service, "mantle".into()), &[]).await;
    place.change(Request::Disable(Service, "eth".into()), &[]).await;
    let mut editor = place.editor();
    let mut lines = Vec::new();
    for kind in EntryKind::ALL {
        for one in editor.list(kind).await.unwrap().entries {
            let service = one.service.as_deref().unwrap_or("-");
            lines.push(format!("{} {service} {} {}", one.id, one.origin.name(), one.state.name()));
        }
    }
    assert_eq!(
        lines,
        [
            "boba - built-in enabled",
            "eth - built-in disabled",
            "kava - database enabled",
            "mantle - built-in disabled",
            "in-file eth file service disabled",
            "node-b boba database enabled",
            "path-1 - instances enabled",
        ]
    );
    // For a gateway without the variable, the entry is invalid.
    let mut editor = place.sources(&KEYS[..1]).editor();
    let listed = editor.list(Upstream).await.unwrap().entries;
    assert!(matches!(&listed[1].state, State::Refused(why) if why.contains("B_KEY is not set")));
}

/// Several changes are made together or not at all, and each sees those before it.
#[tokio::test]
async fn several_changes_are_all_or_none() {
    let place = Place::new("database = \"sqlite:named.db\"\n");
    let mut editor = place.editor();
    let none = Variables::none();
    let service = add(Service, "base", "", "chain_id = 8453");
    let rejected = [
        service.clone(),
        add(Endpoint, "e1", "base", ""),
        add(Endpoint, "e 2", "base", ""),
        add(Endpoint, "e3", "base", "wieght = 3"),
        Request::Remove(Endpoint, "e9".into()),
    ];
    let error = editor.change(&rejected, &none).await.unwrap_err();
    let ChangeError::Several(rows) = &error else { panic!("{error}") };
    assert_eq!(rows.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3, 4]);
    let rejected = [
        service.clone(),
        service.clone(),
        add(Endpoint, "e1", "nowhere", ""),
        Request::Remove(Endpoint, "e9".into()),
    ];
    let error = editor.change(&rejected, &none).await.unwrap_err();
    let ChangeError::Several(rows) = &error else { panic!("{error}") };
    assert_eq!(rows.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(editor.list(Endpoint).await.unwrap().entries.is_empty(), "nothing was written");

    let all = [
        service,
        add(Endpoint, "e1", "base", ""),
        Request::Disable(Endpoint, "e1".into()),
        Request::Disable(Endpoint, "e1".into()),
    ];
    let outcomes = editor.change(&all, &none).await.unwrap();
    assert_eq!(outcomes[2..], [Outcome::Changed, Outcome::Unchanged]);
    let listed = editor.list(Endpoint).await.unwrap().entries;
    assert_eq!(listed[0].state, State::Disabled);
    let many = vec![Request::Enable(Endpoint, "e1".into()); REQUESTS_MAX + 1];
    let error = editor.change(&many, &none).await.unwrap_err();
    assert!(error.to_string().contains("at most 10000"), "{error}");
}
