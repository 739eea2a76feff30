//! SQLite: the suite for all dialects, and failures specific to files.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::store::conformance::{add, conforms, endpoint};
use crate::store::{Entries, Store, StoreError, StoreErrorKind};

/// A temporary folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-store-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self) -> PathBuf {
        self.0.join("registry.db")
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn open(url: &str) -> Result<Store, StoreError> {
    Store::open(url, true, Arc::default()).await
}

#[tokio::test]
async fn sqlite_conforms() {
    conforms(&Folder::new().url()).await;
}

#[test]
fn processes_may_create_the_same_file_concurrently() {
    let folder = Folder::new();
    let start = Arc::new(std::sync::Barrier::new(6));
    let opener = |_| {
        let (url, start) = (folder.url(), Arc::clone(&start));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            start.wait();
            runtime.unwrap().block_on(async {
                let store = open(&url).await.unwrap();
                store.load().await.unwrap().sequence
            })
        })
    };
    let openers: Vec<_> = (0..6).map(opener).collect();
    assert!(openers.into_iter().all(|opener| opener.join().unwrap() == 0));
}

/// Expects this error for a file with this content.
async fn refused(content: &[u8], words: &str) {
    let folder = Folder::new();
    std::fs::write(folder.path(), content).unwrap();
    let error = match open(&folder.url()).await {
        Err(error) => error,
        Ok(store) => store.load().await.unwrap_err(),
    };
    assert!(error.to_string().contains(words), "{error}");
    assert!(!error.hint().is_empty(), "{error}");
    assert_eq!(std::fs::read(folder.path()).unwrap(), content, "left unchanged");
}

#[tokio::test]
async fn files_that_are_not_databases_are_rejected() {
    refused(b"listen = [\"127.0.0.1:3069\"]\n", "file is not a database").await;
    refused(&[0x53; 10_000], "file is not a database").await;
    // Damaged pages of the table.
    let folder = Folder::new();
    let store = open(&folder.url()).await.unwrap();
    for number in 0..100 {
        add(&store, endpoint(&format!("e{number}"))).await;
    }
    store.close().await;
    let mut content = std::fs::read(folder.path()).unwrap();
    content[4096..].iter_mut().for_each(|byte| *byte = 0xa5);
    refused(&content, "malformed").await;
}

#[tokio::test]
async fn foreign_and_newer_databases_are_rejected() {
    let folder = Folder::new();
    let options = SqliteConnectOptions::new().filename(folder.path()).create_if_missing(true);
    let mut other = options.connect().await.unwrap();
    sqlx::query("CREATE TABLE users (name TEXT)").execute(&mut other).await.unwrap();
    let error = open(&folder.url()).await.unwrap_err();
    assert!(matches!(error.kind, StoreErrorKind::Foreign), "{error}");
    other.close().await.unwrap();

    let folder = Folder::new();
    open(&folder.url()).await.unwrap().close().await;
    let options = SqliteConnectOptions::new().filename(folder.path());
    let mut newer = options.connect().await.unwrap();
    sqlx::query("PRAGMA user_version = 5").execute(&mut newer).await.unwrap();
    let error = open(&folder.url()).await.unwrap_err();
    assert!(
        error.to_string().ends_with("its schema version is 5; this program supports version 4"),
        "{error}"
    );
}

/// A file written before there was a log of changes.
#[tokio::test]
async fn older_schemas_are_migrated() {
    let folder = Folder::new();
    let options = SqliteConnectOptions::new().filename(folder.path()).create_if_missing(true);
    let mut older = options.connect().await.unwrap();
    let insert = "INSERT INTO entry VALUES \
                  ('endpoint', 'old', 'eth', 'methods = { deny = [\"debug_*\"] }', 0)";
    let first = super::MIGRATIONS[0].iter().copied();
    for sql in first.chain([insert, "UPDATE sequence SET value = 7"]) {
        sqlx::query(sql).execute(&mut older).await.unwrap();
    }
    older.close().await.unwrap();
    let store = open(&folder.url()).await.unwrap();
    let mut known = store.load().await.unwrap();
    assert_eq!((known.sequence, &known.entries[..]), (7, &[endpoint("old")][..]));
    add(&store, endpoint("new")).await;
    assert!(store.refresh(&mut known).await.unwrap());
    assert_eq!((known.sequence, known.entries.len()), (8, 2));
    // The log does not reach back to changes made before the migration.
    let mut behind = Entries { sequence: 3, ..known.clone() };
    behind.entries.clear();
    assert!(store.refresh(&mut behind).await.unwrap());
    assert_eq!(behind.entries, known.entries);
    store.close().await;
    assert_eq!(open(&folder.url()).await.unwrap().load().await.unwrap().sequence, 8);
}

/// A file written before it was stored what quotas were charged.
#[tokio::test]
async fn charged_units_stand_for_admitted_ones_in_older_files() {
    let folder = Folder::new();
    let options = SqliteConnectOptions::new().filename(folder.path()).create_if_missing(true);
    let mut older = options.connect().await.unwrap();
    let before = super::MIGRATIONS[..3].iter().flat_map(|migration| migration.iter().copied());
    for sql in before.chain(["INSERT INTO usage_day VALUES ('e', '', 20758, 3, 50)"]) {
        sqlx::query(sql).execute(&mut older).await.unwrap();
    }
    older.close().await.unwrap();
    let store = open(&folder.url()).await.unwrap();
    let totals = store.usage_totals(&["e".into()], 20_758 * 24).await.unwrap();
    assert_eq!((totals[0].day, totals[0].month), (50, 50));
}

#[tokio::test]
async fn unusable_paths_are_rejected() {
    let folder = Folder::new();
    let below = format!("sqlite:{}/no/such/x.db", folder.0.display());
    let error = open(&below).await.unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
    let error = open(&format!("sqlite:{}", folder.0.display())).await.unwrap_err();
    assert!(error.to_string().contains("unable to open database file"), "{error}");
    let error = open("mysql://user:secret@host/").await.unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn replaced_and_removed_files_are_detected() {
    let (folder, other) = (Folder::new(), Folder::new());
    let store = open(&folder.url()).await.unwrap();
    let mut known = store.load().await.unwrap();
    let there = open(&other.url()).await.unwrap();
    add(&there, endpoint("other")).await;
    there.close().await;
    std::fs::rename(other.path(), folder.path()).unwrap();
    for beside in ["db-wal", "db-shm"] {
        let _ = std::fs::remove_file(folder.path().with_extension(beside));
    }
    assert!(store.refresh(&mut known).await.unwrap());
    assert_eq!(known.entries, [endpoint("other")]);
    std::fs::remove_file(folder.path()).unwrap();
    let error = store.refresh(&mut known).await.unwrap_err();
    assert!(matches!(error.kind, StoreErrorKind::Gone), "{error}");
}

const CHILD: &str = "PLIMSOLL_TEST_STORE";

/// The child process of the test below: adds entries, and prints each once it is acknowledged.
#[tokio::test]
async fn writes_until_it_is_killed() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let store = open(&url).await.unwrap();
    let first = store.load().await.unwrap().entries.len();
    for number in first.. {
        add(&store, endpoint(&format!("e{number:06}"))).await;
        println!("\nacknowledged {number}");
    }
}

#[tokio::test]
async fn acknowledged_changes_survive_kill_9() {
    let folder = Folder::new();
    for round in 1..=5usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::sqlite::tests::writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, folder.url())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let number = |line: &str| line.strip_prefix("acknowledged ")?.parse::<usize>().ok();
        // Killed at an arbitrary point after this many.
        let mut seen = 0;
        let mut last = 0;
        while seen < round * 3 {
            let line = lines.next().unwrap().unwrap();
            if let Some(number) = number(&line) {
                (seen, last) = (seen + 1, number);
            }
        }
        child.kill().unwrap();
        last = lines.map_while(Result::ok).filter_map(|line| number(&line)).last().unwrap_or(last);
        child.wait().unwrap();
        let store = open(&folder.url()).await.unwrap();
        let entries = store.load().await.unwrap();
        assert!(entries.entries.len() > last, "{} of {last}", entries.entries.len());
        assert_eq!(entries.sequence, entries.entries.len() as u64, "no partial change");
        for (number, entry) in entries.entries.iter().enumerate() {
            assert_eq!(*entry, endpoint(&format!("e{number:06}")));
        }
        store.close().await;
    }
}
