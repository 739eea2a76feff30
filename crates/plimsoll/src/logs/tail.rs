//! A file, followed by its name as `tail -F` does: from its end at the start of the run, across rotation,
//! whether it is renamed or copied and truncated, and also if it appears later.
//!
//! After a rename, the old file is read for [`OLD_POLLS`] more: its writer learns of the rotation later. A
//! file that was truncated and has since grown beyond where it was read to cannot be told from one that only
//! grew.

use super::lines::{Counter, Lines};
use plimsoll_measure::{Followed, LogEvent};
use std::fs::{File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Polls for which a file is read after it was renamed: ten seconds.
const OLD_POLLS: u32 = 100;
/// If more than this is unread, the rest is skipped: 16 MiB.
const BEHIND_MAX: u64 = 16 << 20;
/// What is read after skipping.
const KEPT: u64 = 1 << 20;
/// Bytes of one read.
const CHUNK: usize = 256 << 10;

/// A followed file.
pub(super) struct Tail {
    path: PathBuf,
    open: Option<Opened>,
    /// The file before the last rotation, and for how many polls it is still read.
    old: Option<(Opened, u32)>,
    /// Why it cannot be read; counted once.
    failing: Option<String>,
    chunk: Vec<u8>,
}

struct Opened {
    file: File,
    /// Device and inode.
    id: (u64, u64),
    at: u64,
    lines: Lines,
}

impl Tail {
    /// Opens the file at its end, if it exists.
    pub(super) fn start(path: &Path) -> Tail {
        let (open, failing) = (None, None);
        let mut tail = Tail { path: path.into(), open, old: None, failing, chunk: vec![0; CHUNK] };
        // A failure is counted by the first poll.
        if let Ok(mut opened) = Opened::at_start(&tail.path) {
            opened.skip_to_end();
            tail.open = Some(opened);
        }
        tail
    }

    /// Reads what is new.
    pub(super) fn poll(
        &mut self,
        counter: &Counter,
        budget: &mut usize,
        is_last: bool,
        into: &mut Followed,
    ) {
        let chunk = &mut self.chunk;
        if let Some((old, polls)) = &mut self.old {
            let read = old.read(chunk, counter, budget, into);
            *polls -= 1;
            if read.is_err() || *polls == 0 || is_last {
                old.lines.finish(counter, into);
                self.old = None;
            }
        }
        let mut is_read = true;
        if let Some(open) = &mut self.open {
            match open.read(chunk, counter, budget, into) {
                Ok(done) => is_read = done,
                Err(error) => {
                    let why = error.to_string();
                    self.fail(&why, into);
                    self.open = None;
                }
            }
        }
        // The rest of a file comes before what replaces it.
        if is_read {
            self.reopen(into);
            if let Some(open) = self.open.as_mut().filter(|open| open.at == 0) {
                let _ = open.read(&mut self.chunk, counter, budget, into);
            }
        }
        if is_last && let Some(open) = &mut self.open {
            open.lines.finish(counter, into);
        }
    }

    /// Opens the file of this name if it is another one than before.
    fn reopen(&mut self, into: &mut Followed) {
        let found = match std::fs::metadata(&self.path) {
            Ok(found) => found,
            // While it is being rotated, the old one is read on.
            Err(error) if error.kind() == ErrorKind::NotFound && self.open.is_some() => return,
            Err(error) => return self.fail(&describe(&error), into),
        };
        if self.open.as_ref().is_some_and(|open| open.id == id_of(&found)) {
            return;
        }
        match Opened::at_start(&self.path) {
            Ok(opened) => {
                self.failing = None;
                if let Some(old) = self.open.replace(opened) {
                    into.events.count(LogEvent::Rotated);
                    self.old = Some((old, OLD_POLLS));
                }
            }
            Err(why) => self.fail(&why, into),
        }
    }

    fn fail(&mut self, why: &str, into: &mut Followed) {
        if self.failing.as_deref() != Some(why) {
            into.fail(why, 1);
            self.failing = Some(why.into());
        }
    }
}

impl Opened {
    fn at_start(path: &Path) -> Result<Opened, String> {
        // Opening a pipe must not wait for its writer.
        let options = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
        let file = options.map_err(|error| describe(&error))?;
        let found = file.metadata().map_err(|error| describe(&error))?;
        if !found.is_file() {
            return Err("it is not a regular file".into());
        }
        Ok(Opened { file, id: id_of(&found), at: 0, lines: Lines::default() })
    }

    fn skip_to_end(&mut self) {
        self.at = self.file.metadata().map_or(0, |found| found.len());
        let mut last = [b'\n'];
        if self.at > 0 && self.file.read_at(&mut last, self.at - 1).is_ok() && last != *b"\n" {
            self.lines.resync();
        }
    }

    /// Reads until the end or until the budget is used up; returns whether the end was reached.
    fn read(
        &mut self,
        chunk: &mut [u8],
        counter: &Counter,
        budget: &mut usize,
        into: &mut Followed,
    ) -> std::io::Result<bool> {
        let len = self.file.metadata()?.len();
        if len < self.at {
            into.events.count(LogEvent::Truncated);
            self.at = 0;
            self.lines.restart();
        }
        if len - self.at > BEHIND_MAX {
            let to = len - KEPT;
            into.events.add(LogEvent::SkippedByte, to - self.at);
            self.at = to;
            self.lines.resync();
        }
        while self.at < len && *budget > 0 {
            let most = chunk.len().min(*budget);
            let read = self.file.read_at(&mut chunk[..most], self.at)?;
            if read == 0 {
                break;
            }
            self.lines.add(&chunk[..read], counter, into);
            self.at += read as u64;
            *budget -= read;
        }
        Ok(self.at >= len)
    }
}

fn id_of(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn describe(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "the file does not exist".into(),
        ErrorKind::PermissionDenied => "this user may not read the file".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::tests::counter;
    use super::*;
    use std::io::Write;

    struct Followable {
        folder: PathBuf,
        tail: Tail,
        counter: Counter,
        sum: Followed,
    }

    impl Followable {
        fn new(name: &str, text: Option<&str>) -> Followable {
            let folder =
                std::env::temp_dir().join(format!("plimsoll-tail-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
            let path = folder.join("a.log");
            text.iter().for_each(|text| std::fs::write(&path, text).unwrap());
            let (tail, counter) = (Tail::start(&path), counter("['error']"));
            Followable { folder, tail, counter, sum: Followed::default() }
        }

        fn write(&self, text: &[u8]) {
            let path = self.folder.join("a.log");
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(text).unwrap();
        }

        /// Polls; returns lines and matches so far.
        fn poll(&mut self) -> (u64, u64) {
            let (mut own, mut budget) = (Followed::default(), super::super::POLL_BYTES_MAX);
            self.tail.poll(&self.counter, &mut budget, false, &mut own);
            self.sum.append(&own);
            (self.sum.lines, self.sum.matched.first().map_or(0, |own| own.lines))
        }
    }

    impl Drop for Followable {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn a_file_is_followed_from_its_end() {
        let mut log = Followable::new("end", Some("error 1\nerror 2, incompl"));
        assert_eq!(log.poll(), (0, 0));
        log.write(b"ete\nerror 3\nerr");
        assert_eq!(log.poll(), (1, 1));
        log.write(b"or 4\n");
        assert_eq!(log.poll(), (2, 2));
        assert!(log.sum.failures.is_empty());
    }

    #[test]
    fn rotation_by_rename_loses_nothing() {
        let mut log = Followable::new("rename", Some(""));
        log.write(b"error 1\n");
        let (path, old) = (log.folder.join("a.log"), log.folder.join("a.log.1"));
        std::fs::rename(&path, &old).unwrap();
        assert_eq!(log.poll(), (1, 1), "while there is no new file, the old one is read");
        let mut writer = OpenOptions::new().append(true).open(&old).unwrap();
        log.write(b"error 2\n");
        assert_eq!(log.poll(), (2, 2));
        // The writer has not opened the new file yet.
        writer.write_all(b"error 3\n").unwrap();
        log.write(b"error 4\n");
        assert_eq!(log.poll(), (4, 4));
        assert_eq!(log.sum.events.get(LogEvent::Rotated), 1);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(log.poll(), (4, 4));
        log.write(b"error 5\n");
        assert_eq!(log.poll(), (5, 5));
    }

    #[test]
    fn rotation_by_truncation_starts_again() {
        let mut log = Followable::new("truncate", Some(""));
        log.write(b"error 1\nincomplete and long");
        assert_eq!(log.poll(), (1, 1));
        std::fs::write(log.folder.join("a.log"), "error 2\n").unwrap();
        assert_eq!(log.poll(), (2, 2));
        assert_eq!(log.sum.events.get(LogEvent::Truncated), 1);
    }

    #[test]
    fn a_missing_file_may_appear() {
        let mut log = Followable::new("missing", None);
        log.poll();
        log.poll();
        assert_eq!(log.sum.failures, [("the file does not exist".into(), 1)].into());
        log.write(b"error 1\n");
        assert_eq!(log.poll(), (1, 1), "from its start");
        let path = log.folder.join("a.log");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        log.poll();
        assert_eq!(log.sum.failures.get("it is not a regular file"), Some(&1));
        std::fs::remove_dir(&path).unwrap();
    }

    #[test]
    fn pipes_and_devices_are_not_waited_for() {
        let folder = Followable::new("pipe", None);
        let path = folder.folder.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut own = Followed::default();
        Tail::start(&path).poll(&folder.counter, &mut 1000, false, &mut own);
        Tail::start(Path::new("/dev/zero")).poll(&folder.counter, &mut 1000, false, &mut own);
        assert_eq!(own.failures, [("it is not a regular file".into(), 2)].into());
    }

    #[test]
    fn a_huge_file_and_a_flood_are_not_read_whole() {
        // Sparse: it takes no space.
        let mut log = Followable::new("huge", Some(""));
        let file = OpenOptions::new().write(true).open(log.folder.join("a.log")).unwrap();
        file.set_len(10 << 30).unwrap();
        log.tail = Tail::start(&log.folder.join("a.log"));
        assert_eq!(log.poll(), (0, 0));
        file.set_len(20 << 30).unwrap();
        log.write(b"\nerror 1\n");
        log.poll();
        assert_eq!(log.sum.matched[0].lines, 1);
        assert!(log.sum.events.get(LogEvent::SkippedByte) > 9 << 30);
        assert!(log.sum.bytes <= KEPT);
    }
}
