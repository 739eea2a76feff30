//! The test suite that every dialect must pass; a dialect's tests call it with the URL of a new
//! database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// An endpoint of `eth`.
pub(super) fn endpoint(id: &str) -> Entry {
    Entry {
        kind: EntryKind::Endpoint,
        id: id.into(),
        service: Some("eth".into()),
        definition: Some("methods = { deny = [\"debug_*\"] }".into()),
        disabled: false,
    }
}

/// Adds an entry, retrying on concurrent changes.
pub(super) async fn add(store: &Store, entry: Entry) {
    let change = Change::Add(entry);
    loop {
        let at = store.sequence().await.unwrap();
        if let Applied::Done(sequence) = store.apply(&change, at).await.unwrap() {
            assert_eq!(sequence, at + 1);
            return;
        }
    }
}

fn disable(id: &str, disabled: bool) -> Change {
    Change::SetDisabled { kind: EntryKind::Endpoint, id: id.into(), disabled }
}

fn remove(id: &str) -> Change {
    Change::Remove { kind: EntryKind::Endpoint, id: id.into() }
}

async fn entries(store: &Store) -> Vec<Entry> {
    store.load().await.unwrap().entries
}

/// Runs the whole suite on the database at `url`, which must not exist yet.
pub(super) async fn conforms(url: &str) {
    let queries = Arc::new(AtomicU64::new(0));
    let refused = Store::open(url, false, Arc::clone(&queries)).await.unwrap_err();
    assert!(matches!(refused.kind, StoreErrorKind::Missing), "{refused}");

    let store = Store::open(url, true, Arc::clone(&queries)).await.unwrap();
    assert_eq!(store.load().await.unwrap(), Entries::default());
    changes_are_applied(&store).await;
    stale_changes_are_rejected(&store, url).await;
    entries_round_trip(&store, url).await;

    let before = queries.load(Ordering::Relaxed);
    store.sequence().await.unwrap();
    assert_eq!(queries.load(Ordering::Relaxed) - before, 1, "one statement for the number");
    writers_wait_for_each_other(url).await;
}

async fn changes_are_applied(store: &Store) {
    let mut entry = endpoint("a");
    assert_eq!(store.apply(&Change::Add(entry.clone()), 0).await.unwrap(), Applied::Done(1));
    assert_eq!(entries(store).await, [entry.clone()]);
    assert_eq!(store.sequence().await.unwrap(), 1);

    entry.service = Some("boba".into());
    let replace = Change::Replace(entry.clone());
    assert_eq!(store.apply(&replace, 1).await.unwrap(), Applied::Done(2));
    assert_eq!(store.apply(&disable("a", true), 2).await.unwrap(), Applied::Done(3));
    entry.disabled = true;
    assert_eq!(entries(store).await, [entry.clone()]);
    assert_eq!(store.apply(&disable("a", false), 3).await.unwrap(), Applied::Done(4));

    // Changes that do not fit are rejected and do not advance the sequence number.
    let unfit = [Change::Add(endpoint("a")), remove("b"), disable("b", true)];
    for change in unfit.into_iter().chain([Change::Replace(endpoint("b"))]) {
        let refused = store.apply(&change, 4).await.unwrap_err();
        assert!(matches!(refused.kind, StoreErrorKind::Unfit { .. }), "{refused}");
    }
    assert_eq!(store.sequence().await.unwrap(), 4);
    assert_eq!(store.apply(&remove("a"), 4).await.unwrap(), Applied::Done(5));
    assert_eq!(entries(store).await, []);
}

async fn stale_changes_are_rejected(store: &Store, url: &str) {
    let other = Store::open(url, false, Arc::default()).await.unwrap();
    let at = store.sequence().await.unwrap();
    assert_eq!(other.apply(&Change::Add(endpoint("x")), at).await.unwrap(), Applied::Done(at + 1));
    assert_eq!(store.apply(&remove("x"), at).await.unwrap(), Applied::Moved);
    assert_eq!(entries(store).await, [endpoint("x")], "written by the other");
    assert_eq!(store.apply(&remove("x"), at + 1).await.unwrap(), Applied::Done(at + 2));
    other.close().await;
}

async fn entries_round_trip(store: &Store, url: &str) {
    let odd = "headers = { A = \"ä'${KEY};--\\n\" }\nweight = 2";
    let mut written = vec![
        Entry { kind: EntryKind::Service, service: None, disabled: true, ..endpoint("s") },
        Entry { definition: None, kind: EntryKind::Service, service: None, ..endpoint("t") },
        Entry { kind: EntryKind::Upstream, definition: Some(odd.into()), ..endpoint("s") },
        Entry { definition: Some(String::new()), ..endpoint("s") },
    ];
    for entry in written.iter().rev() {
        add(store, entry.clone()).await;
    }
    written.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
    assert_eq!(entries(store).await, written);
    let again = Store::open(url, false, Arc::default()).await.unwrap();
    assert_eq!(entries(&again).await, written);
    again.close().await;
}

/// As many writers as there may be: the gateways on a host and the command line.
async fn writers_wait_for_each_other(url: &str) {
    const WRITERS: usize = 6;
    const EACH: usize = 15;
    let before = {
        let store = Store::open(url, false, Arc::default()).await.unwrap();
        store.load().await.unwrap()
    };
    let writer = |writer: usize| {
        let url = url.to_string();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                for number in 0..EACH {
                    // Opened each time, as the command line does.
                    let store = Store::open(&url, false, Arc::default()).await.unwrap();
                    add(&store, endpoint(&format!("w{writer}-{number}"))).await;
                    store.close().await;
                }
            });
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(writer).collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let store = Store::open(url, false, Arc::default()).await.unwrap();
    let after = store.load().await.unwrap();
    assert_eq!(after.entries.len() - before.entries.len(), WRITERS * EACH);
    assert_eq!(after.sequence - before.sequence, (WRITERS * EACH) as u64);
}
