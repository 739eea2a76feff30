//! The test suite that every dialect must pass; a dialect's tests call it with the URL of a new
//! database.

use std::sync::Arc;

mod usage;

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
        let at = sequence(store).await;
        if let Applied::Done(sequence) =
            store.apply(std::slice::from_ref(&change), at).await.unwrap()
        {
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

async fn sequence(store: &Store) -> u64 {
    store.load().await.unwrap().sequence
}

/// Applies one change.
async fn apply(store: &Store, change: &Change, at: u64) -> Result<Applied, StoreError> {
    store.apply(std::slice::from_ref(change), at).await
}

async fn entries(store: &Store) -> Vec<Entry> {
    store.load().await.unwrap().entries
}

/// Runs the whole suite on the database at `url`, which must not exist yet, or be empty.
pub(super) async fn conforms(url: &str) {
    let status = Arc::new(Status::default());
    let refused = Store::open(url, false, Arc::clone(&status)).await.unwrap_err();
    assert!(matches!(refused.kind, StoreErrorKind::Missing), "{refused}");

    let store = Store::open(url, true, Arc::clone(&status)).await.unwrap();
    let empty = store.load().await.unwrap();
    assert!(empty.sequence == 0 && empty.entries.is_empty());
    changes_are_applied(&store).await;
    several_changes_are_applied_together(&store).await;
    stale_changes_are_rejected(&store, url).await;
    changes_are_read_since_a_number(&store, url).await;
    entries_round_trip(&store, url).await;

    let mut known = store.load().await.unwrap();
    let before = status.queries();
    assert!(!store.refresh(&mut known).await.unwrap());
    assert_eq!(status.queries() - before, 1, "one statement if nothing is new");
    writers_wait_for_each_other(url).await;
    the_log_of_changes_is_bounded(&store).await;
    usage::conforms(&store, url).await;
}

async fn changes_are_applied(store: &Store) {
    let mut entry = endpoint("a");
    assert_eq!(apply(store, &Change::Add(entry.clone()), 0).await.unwrap(), Applied::Done(1));
    assert_eq!(entries(store).await, [entry.clone()]);
    assert_eq!(sequence(store).await, 1);

    entry.service = Some("boba".into());
    let replace = Change::Replace(entry.clone());
    assert_eq!(apply(store, &replace, 1).await.unwrap(), Applied::Done(2));
    assert_eq!(apply(store, &disable("a", true), 2).await.unwrap(), Applied::Done(3));
    entry.disabled = true;
    assert_eq!(entries(store).await, [entry.clone()]);
    assert_eq!(apply(store, &disable("a", false), 3).await.unwrap(), Applied::Done(4));

    // Changes that do not fit are rejected and do not advance the sequence number.
    let unfit = [Change::Add(endpoint("a")), remove("b"), disable("b", true)];
    for change in unfit.into_iter().chain([Change::Replace(endpoint("b"))]) {
        let refused = apply(store, &change, 4).await.unwrap_err();
        assert!(matches!(refused.kind, StoreErrorKind::Unfit { .. }), "{refused}");
    }
    assert_eq!(sequence(store).await, 4);
    assert_eq!(apply(store, &remove("a"), 4).await.unwrap(), Applied::Done(5));
    assert_eq!(entries(store).await, []);
}

async fn several_changes_are_applied_together(store: &Store) {
    let at = sequence(store).await;
    // The last one does not fit.
    let half = [Change::Add(endpoint("a")), Change::Add(endpoint("b")), remove("c")];
    let refused = store.apply(&half, at).await.unwrap_err();
    assert!(matches!(refused.kind, StoreErrorKind::Unfit { .. }), "{refused}");
    assert_eq!((entries(store).await, sequence(store).await), (vec![], at), "none of them");
    let all = [Change::Add(endpoint("a")), disable("a", true), remove("a")];
    assert_eq!(store.apply(&all, at).await.unwrap(), Applied::Done(at + 1));
    assert_eq!(entries(store).await, []);
}

async fn stale_changes_are_rejected(store: &Store, url: &str) {
    let other = Store::open(url, false, Arc::default()).await.unwrap();
    let at = sequence(store).await;
    let added = apply(&other, &Change::Add(endpoint("x")), at).await.unwrap();
    assert_eq!(added, Applied::Done(at + 1));
    assert_eq!(apply(store, &remove("x"), at).await.unwrap(), Applied::Moved);
    assert_eq!(entries(store).await, [endpoint("x")], "written by the other");
    assert_eq!(apply(store, &remove("x"), at + 1).await.unwrap(), Applied::Done(at + 2));
    other.close().await;
}

/// A reader that is behind reads what has changed, and arrives at what a full load returns.
async fn changes_are_read_since_a_number(store: &Store, url: &str) {
    let other = Store::open(url, false, Arc::default()).await.unwrap();
    for id in ["a", "b", "c"] {
        add(store, endpoint(id)).await;
    }
    let mut known = other.load().await.unwrap();
    let changes = [remove("a"), disable("b", true), Change::Add(endpoint("d")), remove("c")];
    for change in &changes {
        apply(store, change, sequence(store).await).await.unwrap();
    }
    add(store, endpoint("c")).await;
    assert!(other.refresh(&mut known).await.unwrap());
    let whole = store.load().await.unwrap();
    assert_eq!((known.sequence, &known.entries), (whole.sequence, &whole.entries));
    assert!(!other.refresh(&mut known).await.unwrap());
    for id in ["b", "c", "d"] {
        apply(store, &remove(id), sequence(store).await).await.unwrap();
    }
    assert!(other.refresh(&mut known).await.unwrap());
    assert_eq!(known.entries, []);
    // What is known of another database is not built upon.
    let mut foreign = Entries { sequence: known.sequence, ..Entries::default() };
    foreign.entries.push(endpoint("never"));
    assert!(other.refresh(&mut foreign).await.unwrap());
    assert_eq!(foreign.entries, []);
    other.close().await;
}

/// A reader that is too far behind loads everything.
async fn the_log_of_changes_is_bounded(store: &Store) {
    let mut known = store.load().await.unwrap();
    let at = known.sequence;
    let entry = |number: i64| Change::Add(endpoint(&format!("many-{number}")));
    let many: Vec<Change> = (0..=LOG_MAX).map(entry).collect();
    assert_eq!(store.apply(&many, at).await.unwrap(), Applied::Done(at + 1));
    add(store, endpoint("last")).await;
    assert!(store.refresh(&mut known).await.unwrap());
    let whole = store.load().await.unwrap();
    assert_eq!((known.sequence, &known.entries), (at + 2, &whole.entries));
    let removed: Vec<Change> =
        (0..=LOG_MAX).map(|number| remove(&format!("many-{number}"))).collect();
    store.apply(&removed, at + 2).await.unwrap();
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
