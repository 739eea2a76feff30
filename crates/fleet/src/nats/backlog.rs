//! What a process has written and NATS has not stored yet, in order: the oldest in memory, the rest in a file.
//!
//! While NATS is away, an agent sends on and records. What it records must neither be lost nor fill the memory
//! of the host that sends the load, so at most [`BacklogLimits::memory`] bytes wait in memory. What follows goes to
//! a file, which is unlinked as soon as it is open: a killed process leaves nothing behind. The file is read back
//! from its start when the memory is free again. Seconds are kept as they are, not summed up, so the report
//! on a run with an outage has every second.
//!
//! When the file has [`BacklogLimits::disk`] bytes, or the disk refuses more, the backlog is full. The agent then stops
//! sending, as if its lease had run out, and the coordinator counts the rest of its part as unsent. The few
//! seconds until its last answer still go to memory; the plan's timeout bounds them.

use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// At most this many bytes are read back from the file at once.
const READ_BACK: usize = 256 << 10;

/// How much may wait for NATS.
#[derive(Clone, Debug)]
pub struct BacklogLimits {
    /// Bytes in memory.
    pub memory: usize,
    /// Bytes in the file; zero: there is no file.
    pub disk: u64,
    /// Where the file is made.
    pub folder: PathBuf,
}

impl Default for BacklogLimits {
    /// 4 MiB in memory and 1 GiB in the system's folder for temporary files. A second of an agent has a few kilobytes;
    /// NATS keeps 1 GiB for a tenant.
    fn default() -> BacklogLimits {
        BacklogLimits { memory: 4 << 20, disk: 1 << 30, folder: std::env::temp_dir() }
    }
}

/// Messages that wait, as bytes.
pub(super) struct Backlog {
    limits: BacklogLimits,
    /// The oldest.
    front: VecDeque<Bytes>,
    front_bytes: usize,
    /// Those after them.
    spool: Option<Spool>,
    /// The newest, once the file takes no more.
    tail: VecDeque<Bytes>,
    /// Why the file takes no more.
    full: Option<String>,
}

/// A file of messages, each after its length in four bytes.
struct Spool {
    file: File,
    read: u64,
    written: u64,
}

impl Backlog {
    pub(super) fn new(limits: BacklogLimits) -> Backlog {
        Backlog {
            limits,
            front: VecDeque::new(),
            front_bytes: 0,
            spool: None,
            tail: VecDeque::new(),
            full: None,
        }
    }

    /// Adds the newest message.
    pub(super) fn push(&mut self, message: Bytes) {
        let all_in_memory = self.spool.is_none() && self.tail.is_empty();
        if all_in_memory && self.front_bytes + message.len() <= self.limits.memory {
            self.front_bytes += message.len();
            self.front.push_back(message);
            return;
        }
        if self.full.is_none() {
            match self.spool(&message) {
                Ok(()) => return,
                Err(why) => self.full = Some(why),
            }
        }
        self.tail.push_back(message);
    }

    /// Takes the oldest message.
    ///
    /// # Errors
    /// The file cannot be read back: what it holds is lost.
    pub(super) fn pop(&mut self) -> io::Result<Option<Bytes>> {
        if self.front.is_empty() {
            self.read_back()?;
        }
        let first = self.front.pop_front().or_else(|| self.tail.pop_front());
        if let Some(first) = &first {
            self.front_bytes = self.front_bytes.saturating_sub(first.len());
        } else {
            self.full = None;
        }
        Ok(first)
    }

    /// Bytes in the file that are not read back.
    pub(super) fn on_disk(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.written - spool.read)
    }

    /// Why nothing more should be recorded.
    pub(super) fn full(&self) -> Option<&str> {
        self.full.as_deref()
    }

    fn spool(&mut self, message: &Bytes) -> Result<(), String> {
        let folder = self.limits.folder.display();
        let length =
            u32::try_from(message.len()).map_err(|_| "a report is too long".to_string())?;
        let end = self.spool.as_ref().map_or(0, |spool| spool.written) + 4 + u64::from(length);
        if end > self.limits.disk {
            return Err(format!(
                "{} bytes of reports wait for NATS in {folder}, which is the limit",
                self.limits.disk
            ));
        }
        let failed = |why: io::Error| format!("cannot keep reports in {folder}: {why}");
        let spool = match &mut self.spool {
            Some(spool) => spool,
            free => free.insert(Spool::create(&self.limits.folder).map_err(failed)?),
        };
        spool.write(message, length).map_err(failed)
    }

    fn read_back(&mut self) -> io::Result<()> {
        let Some(spool) = &mut self.spool else { return Ok(()) };
        let most = READ_BACK.min(self.limits.memory);
        while spool.read < spool.written && (self.front.is_empty() || self.front_bytes < most) {
            let message = spool.next()?;
            self.front_bytes += message.len();
            self.front.push_back(message);
        }
        if spool.read == spool.written {
            // Its place on the disk is free again.
            self.spool = None;
        }
        Ok(())
    }
}

impl Spool {
    fn create(folder: &std::path::Path) -> io::Result<Spool> {
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let path = folder.join(format!("plimsoll-reports-{random:016x}"));
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Spool { file, read: 0, written: 0 })
    }

    fn write(&mut self, message: &Bytes, length: u32) -> io::Result<()> {
        self.file.write_all_at(&length.to_le_bytes(), self.written)?;
        self.file.write_all_at(message, self.written + 4)?;
        // Only now: half a message is overwritten by the next.
        self.written += 4 + u64::from(length);
        Ok(())
    }

    fn next(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.file.read_exact_at(&mut length, self.read)?;
        let mut message = vec![0; u32::from_le_bytes(length) as usize];
        self.file.read_exact_at(&mut message, self.read + 4)?;
        self.read += 4 + message.len() as u64;
        Ok(message.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(memory: usize, disk: u64) -> Backlog {
        Backlog::new(BacklogLimits { memory, disk, folder: std::env::temp_dir() })
    }

    fn message(number: u32) -> Bytes {
        Bytes::from(format!("{number:0>100}"))
    }

    fn drain(backlog: &mut Backlog) -> Vec<Bytes> {
        std::iter::from_fn(|| backlog.pop().unwrap()).collect()
    }

    #[test]
    fn everything_comes_back_in_order_and_memory_is_bounded() {
        let mut backlog = backlog(1000, 1 << 20);
        // A thousand arrive while every third is taken: NATS is slow, then away.
        let (mut next, mut taken) = (0, Vec::new());
        for _ in 0..1000 {
            backlog.push(message(next));
            next += 1;
            if next % 3 == 0 && next < 500 {
                taken.extend(backlog.pop().unwrap());
            }
            let in_memory: usize = backlog.front.iter().chain(&backlog.tail).map(Bytes::len).sum();
            assert!(in_memory <= 1100 && backlog.front_bytes <= 1100, "{in_memory}");
        }
        assert!(backlog.full().is_none() && backlog.on_disk() > 70_000);
        taken.extend(drain(&mut backlog));
        assert_eq!(taken, (0..1000).map(message).collect::<Vec<_>>());
        // The file is gone, and memory is used again.
        assert_eq!((backlog.on_disk(), backlog.spool.is_none()), (0, true));
        backlog.push(message(7));
        assert_eq!(backlog.spool.is_none().then(|| drain(&mut backlog)), Some(vec![message(7)]));
    }

    #[test]
    fn a_full_backlog_says_so_and_loses_nothing() {
        for (disk, why) in
            [(520, "520 bytes of reports wait for NATS"), (0, "0 bytes of reports wait for NATS")]
        {
            let mut backlog = backlog(300, disk);
            (0..8).for_each(|number| backlog.push(message(number)));
            assert!(backlog.full().is_none() || disk == 0);
            (8..20).for_each(|number| backlog.push(message(number)));
            assert!(
                backlog.full().is_some_and(|full| full.starts_with(why)),
                "{:?}",
                backlog.full()
            );
            assert_eq!(drain(&mut backlog), (0..20).map(message).collect::<Vec<_>>());
            // The next run may record again.
            assert_eq!(backlog.full(), None);
        }
        let folder = std::path::PathBuf::from("/nonexistent");
        let mut nowhere = Backlog::new(BacklogLimits { memory: 0, disk: 1000, folder });
        nowhere.push(message(1));
        assert!(nowhere.full().is_some_and(|full| full.contains("/nonexistent")));
        assert_eq!(drain(&mut nowhere), [message(1)]);
    }
}
