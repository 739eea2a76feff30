//! The access log's writer: a thread that appends lines to a file, and reopens it.
//!
//! Lines that cannot be written, for example because the disk is full, are counted, and the next ones
//! are tried. A reopening that fails is retried with each batch and each [`RETRY_INTERVAL`] until it
//! works; meanwhile lines go to the old file. Lines in a deleted file would be lost without a trace:
//! a file that was deleted is reopened, and if that fails, its lines count as dropped.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Queued lines are written in batches of about this many bytes.
const BATCH: usize = 32 << 10;

/// How often a reopening that failed is retried while there are no lines.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A message to the writer.
pub(super) enum Order {
    Write(Vec<u8>),
    /// [`State::reopen`] is set.
    Reopen,
}

/// The writer's state, as others see it.
#[derive(Default)]
pub(super) struct State {
    pub(super) dropped: AtomicU64,
    /// The file is to be reopened.
    pub(super) reopen: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
}

impl State {
    /// What is wrong at present, and what to do about it; `None` if nothing is.
    pub(super) fn trouble(&self, file: Option<&Path>) -> Option<String> {
        let file = file.map_or("stderr".into(), Path::to_string_lossy);
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map(|trouble| trouble.describe(&file))
    }
}

/// Why lines do not go where they should.
#[derive(Debug)]
struct Trouble {
    error: io::Error,
    effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// The last write failed.
    NotWritten,
    /// The file could not be reopened; the old one is still written.
    OldFile,
    /// The file was deleted, and could not be opened again.
    Deleted,
}

impl Trouble {
    fn describe(&self, file: &str) -> String {
        let error = &self.error;
        let lost = "plimsoll_access_log_dropped_total counts the lost lines";
        let text = match self.effect {
            Effect::NotWritten => {
                format!(
                    "cannot write the access log {file}: {error}; calls are relayed, and {lost}"
                )
            }
            Effect::OldFile => format!(
                "cannot reopen the access log {file}: {error}; lines still go to the old file, and \
                 reopening is retried every second"
            ),
            Effect::Deleted => format!(
                "the access log {file} was deleted and cannot be opened again: {error}; this is \
                 retried every second, and {lost}"
            ),
        };
        let hint = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free space on the disk that holds it"
            }
            io::ErrorKind::PermissionDenied => {
                "this user must be able to write the file and its folder"
            }
            io::ErrorKind::NotFound => "create the folder again",
            io::ErrorKind::IsADirectory => "move the folder with the log's name out of the way",
            io::ErrorKind::ReadOnlyFilesystem => "mount its file system for writing",
            _ => return text,
        };
        format!("{text}\n  hint: {hint}")
    }
}

/// Where lines go.
pub(super) trait Output: Write + Send {
    /// Whether the output's file has been deleted.
    fn is_deleted(&self) -> bool {
        false
    }
}

impl Output for io::Stderr {}

impl Output for File {
    fn is_deleted(&self) -> bool {
        self.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }
}

/// Opens a log that only its owner may read.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let file = File::options().append(true).create(true).mode(0o600).open(path)?;
    plimsoll_registry::restrict(path);
    Ok(file)
}

/// The writer.
pub(super) struct Writer<'s> {
    pub(super) out: Box<dyn Output>,
    /// `None`: stderr.
    pub(super) file: Option<PathBuf>,
    pub(super) state: &'s State,
}

impl Writer<'_> {
    /// Writes lines until all senders are gone.
    pub(super) fn run(mut self, waiting: &Receiver<Order>) {
        let mut batch = Vec::with_capacity(BATCH);
        // The previous batch may have been written in part.
        let mut is_torn = false;
        let mut next = None;
        loop {
            let retries = self.state.reopen.load(Ordering::Relaxed);
            let order = match next.take() {
                Some(order) => Ok(order),
                None if retries => waiting.recv_timeout(RETRY_INTERVAL),
                None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if let Err(RecvTimeoutError::Disconnected) = order {
                return;
            }
            batch.clear();
            let mut lines = 0;
            if let Ok(Order::Write(line)) = order {
                if is_torn {
                    batch.push(b'\n');
                }
                batch.extend_from_slice(&line);
                lines = 1;
                while batch.len() < BATCH {
                    match waiting.try_recv() {
                        Ok(Order::Write(line)) => batch.extend_from_slice(&line),
                        other => {
                            next = other.ok();
                            break;
                        }
                    }
                    lines += 1;
                }
            }
            let mut trouble = self.reopen();
            let is_lost = trouble.as_ref().is_some_and(|one| one.effect == Effect::Deleted);
            if lines > 0 && is_lost {
                self.state.dropped.fetch_add(lines, Ordering::Relaxed);
            } else if lines > 0 {
                let failed = self.out.write_all(&batch).err();
                is_torn = failed.is_some();
                if let Some(error) = failed {
                    self.state.dropped.fetch_add(lines, Ordering::Relaxed);
                    trouble = Some(Trouble { error, effect: Effect::NotWritten });
                }
            } else if is_torn && trouble.is_none() {
                // Nothing was written that could show whether writing works again.
                continue;
            }
            *self.state.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        }
    }

    /// Reopens the file if that is due, or if it was deleted; returns why that failed.
    fn reopen(&mut self) -> Option<Trouble> {
        let file = self.file.as_deref()?;
        let is_deleted = self.out.is_deleted();
        if !is_deleted && !self.state.reopen.load(Ordering::Relaxed) {
            return None;
        }
        // Cleared first: a request that arrives now must not be missed.
        self.state.reopen.store(false, Ordering::Relaxed);
        match open_file(file) {
            Ok(again) => {
                self.out = Box::new(again);
                None
            }
            Err(error) => {
                self.state.reopen.store(true, Ordering::Relaxed);
                let effect = if is_deleted { Effect::Deleted } else { Effect::OldFile };
                Some(Trouble { error, effect })
            }
        }
    }
}

#[cfg(test)]
mod tests;
