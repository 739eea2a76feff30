//! Disks that fill up, files that are rotated and deleted.

use super::*;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

/// A disk with this many bytes left; `None`: enough.
struct Disk {
    written: Arc<Mutex<Vec<u8>>>,
    full: Arc<Mutex<Option<usize>>>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut full = self.full.lock().expect("no panic");
        let n = full.map_or(bytes.len(), |room| room.min(bytes.len()));
        if n == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        full.iter_mut().for_each(|room| *room -= n);
        self.written.lock().expect("no panic").extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Disk {}

/// Runs a writer while `test` sends it orders.
fn with_writer(
    out: Box<dyn Output>,
    file: Option<&Path>,
    test: impl FnOnce(&State, SyncSender<Order>),
) {
    let state = State::default();
    let (orders, waiting) = sync_channel(100);
    std::thread::scope(|scope| {
        let writer = Writer { out, file: file.map(Path::to_path_buf), state: &state };
        // Ends when the sender is gone.
        scope.spawn(move || writer.run(&waiting));
        test(&state, orders);
    });
}

/// Waits until the trouble contains `text`; `None`: until there is no trouble.
fn wait_for(state: &State, text: Option<&str>) -> String {
    loop {
        let trouble = state.trouble(Some(Path::new("calls.log")));
        match (&trouble, text) {
            (None, None) => return String::new(),
            (Some(trouble), Some(text)) if trouble.contains(text) => return trouble.clone(),
            _ => std::thread::yield_now(),
        }
    }
}

#[test]
fn a_full_disk_drops_lines_and_is_reported() {
    let (written, full) = (Arc::default(), Arc::new(Mutex::new(None)));
    let disk = Disk { written: Arc::clone(&written), full: full.clone() };
    with_writer(Box::new(disk), None, |state, orders| {
        let log = |room: Option<usize>, line: &str| {
            *full.lock().expect("no panic") = room;
            orders.send(Order::Write(line.as_bytes().to_vec())).expect("it is waited for");
        };
        log(Some(3), "one\n");
        let trouble = wait_for(state, Some("cannot write the access log calls.log: no storage"));
        assert!(trouble.ends_with("hint: free space on the disk that holds it"), "{trouble}");
        log(Some(0), "two\n");
        while state.dropped.load(Ordering::Relaxed) < 2 {
            std::thread::yield_now();
        }
        log(None, "three\n");
        wait_for(state, None);
        assert_eq!(state.dropped.load(Ordering::Relaxed), 2);
    });
    let written = written.lock().expect("no panic");
    assert_eq!(String::from_utf8_lossy(&written), "one\nthree\n");
}

/// A log file in its own folder, which is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = format!("plimsoll-access-log-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        Folder(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Waits until a file contains exactly this.
    fn wait_for(&self, name: &str, contents: &str) {
        while std::fs::read_to_string(self.path(name)).unwrap_or_default() != contents {
            std::thread::yield_now();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_reopening_that_fails_is_reported_and_retried_until_it_works() {
    let folder = Folder::new("reopen");
    let log = folder.path("calls.log");
    let out = Box::new(open_file(&log).expect("a file"));
    with_writer(out, Some(&log), |state, orders| {
        let write =
            |line: &str| orders.send(Order::Write(line.as_bytes().to_vec())).expect("it is open");
        write("one\n");
        folder.wait_for("calls.log", "one\n");
        // Rotated, but something else has taken the name.
        std::fs::rename(&log, folder.path("calls.log.1")).expect("renamed");
        std::fs::create_dir(&log).expect("a folder");
        state.reopen.store(true, Ordering::Relaxed);
        orders.send(Order::Reopen).expect("it is open");
        let trouble = wait_for(state, Some("lines still go to the old file"));
        assert!(trouble.contains("hint: move the folder"), "{trouble}");
        // A line that was written to the old file does not end the trouble.
        write("two\n");
        folder.wait_for("calls.log.1", "one\ntwo\n");
        wait_for(state, Some("cannot reopen the access log"));
        std::fs::remove_dir(&log).expect("removed");
        wait_for(state, None);
        write("three\n");
        folder.wait_for("calls.log", "three\n");
        assert_eq!(state.dropped.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_deleted_file_is_created_again_and_lines_are_not_lost_silently() {
    let folder = Folder::new("deleted");
    let log = folder.path("calls.log");
    let out = Box::new(open_file(&log).expect("a file"));
    with_writer(out, Some(&log), |state, orders| {
        let write =
            |line: &str| orders.send(Order::Write(line.as_bytes().to_vec())).expect("it is open");
        std::fs::remove_file(&log).expect("removed");
        write("one\n");
        folder.wait_for("calls.log", "one\n");
        // Nothing can take its place.
        std::fs::remove_file(&log).expect("removed");
        std::fs::create_dir(&log).expect("a folder");
        write("two\n");
        wait_for(state, Some("was deleted and cannot be opened again"));
        assert_eq!(state.dropped.load(Ordering::Relaxed), 1);
        std::fs::remove_dir(&log).expect("removed");
        wait_for(state, None);
        write("three\n");
        folder.wait_for("calls.log", "three\n");
    });
}
