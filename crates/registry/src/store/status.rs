//! What a process has observed of its database, for its metrics and its readiness page.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use plimsoll_measure::WallClock;

/// What a process has observed of its database; shared by everyone who uses it.
#[derive(Debug, Default)]
pub struct Status {
    queries: AtomicU64,
    connections: AtomicU64,
    report: Mutex<Report>,
}

/// Whether the database can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contact {
    /// There is no database, or it has not been used yet.
    #[default]
    None,
    /// The last use succeeded.
    Up,
    /// The last use failed.
    Down,
}

impl Contact {
    /// The name on pages.
    pub fn name(self) -> &'static str {
        match self {
            Contact::None => "none",
            Contact::Up => "up",
            Contact::Down => "down",
        }
    }
}

/// The state of the database and of the entries in use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Whether the database can be used.
    pub contact: Contact,
    /// Since when; `None` if it was never used.
    pub since: Option<WallClock>,
    /// Why it cannot be used; empty otherwise. Contains no secret.
    pub why: String,
    /// The sequence number of the entries in use.
    pub sequence: u64,
    /// Whether the entries in use come from the snapshot on disk, because the database could not be
    /// reached since the start.
    pub from_disk: bool,
    /// Why the snapshot on disk cannot be written; empty if it can, or if there is none.
    pub snapshot_error: String,
}

impl Status {
    /// Statements sent so far.
    pub fn queries(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    /// Connections to a database server that are open.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The present state.
    pub fn report(&self) -> Report {
        self.lock().clone()
    }

    /// Counts a statement.
    pub(super) fn count(&self) {
        self.queries.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that the database was used, and the sequence number of the entries.
    pub(crate) fn is_up(&self, sequence: u64) {
        let mut report = self.lock();
        report.enter(Contact::Up);
        report.why.clear();
        report.sequence = sequence;
        report.from_disk = false;
    }

    /// Records that the database cannot be used.
    pub(crate) fn is_down(&self, why: &str) {
        let mut report = self.lock();
        report.enter(Contact::Down);
        report.why = why.into();
    }

    /// Records that entries of the snapshot on disk are used.
    pub(crate) fn uses_snapshot(&self, sequence: u64) {
        let mut report = self.lock();
        report.sequence = sequence;
        report.from_disk = true;
    }

    /// Records whether the snapshot could be written.
    pub(crate) fn snapshot_written(&self, result: Result<(), String>) {
        self.lock().snapshot_error = result.err().unwrap_or_default();
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Report {
    fn enter(&mut self, contact: Contact) {
        if self.contact != contact {
            self.contact = contact;
            self.since = Some(WallClock::now());
        }
    }
}

/// Counts one open connection until it is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection(std::sync::Arc<Status>);

impl OpenConnection {
    pub(super) fn count(status: &std::sync::Arc<Status>) -> OpenConnection {
        status.connections.fetch_add(1, Ordering::Relaxed);
        OpenConnection(status.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
