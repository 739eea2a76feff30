//! What is on its way to the database: decides what is written where, and when it may be forgotten.
//!
//! Pure apart from the files: it does not know the database, time or threads, so that a simulation can
//! stop it at every step ([`super::simulation`]).
//!
//! # Invariant
//! Each count is in exactly one place: in memory (`held`), in a file, or in the database; while a batch is
//! being sent, it is in its file or in `sending`, and may be in the database, where it cannot be added
//! again.
//!
//! # Two ways
//! Rows go into the file, and batches are taken from the file. If the file cannot be written, rows stay
//! in memory and are sent from there, in batches of their own. What is in the file is never sent from
//! memory, and the other way round: a restart would send it a second time.

use std::io;
use std::sync::Arc;

use super::spool::{Disk, Spool};
use super::{Batch, Rows};
use crate::store::{StoreError, StoreErrorKind};

/// A file that is longer than this is rewritten if that makes it shorter.
const MERGE_BYTES: u64 = 1 << 20;

/// Where a batch comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A file that an earlier process has left.
    Old,
    /// The file.
    Own,
    /// Rows that are in no file.
    Memory,
}

/// A batch that is being sent.
#[derive(Debug)]
struct Sending {
    origin: Origin,
    batch: Arc<Batch>,
    /// Whether the database may have it.
    is_in_doubt: bool,
}

/// Rows on their way to the database.
#[derive(Debug)]
pub(super) struct Delivery<D> {
    /// Identifies the batches that are sent from memory.
    writer: String,
    /// The number of the last of them.
    sequence: u64,
    /// The file of this process; `None` before it is needed, and while it cannot be created.
    own: Option<Spool<D>>,
    /// Files of earlier processes.
    old: Vec<Spool<D>>,
    /// Bytes of the file.
    limit: u64,
    /// Rows that are in no file.
    held: Rows,
    sending: Option<Sending>,
    /// Whether batches of earlier processes may be left.
    has_old: bool,
    /// Why rows are not in a file; empty if they are.
    trouble: String,
    folded: u64,
}

impl<D: Disk> Delivery<D> {
    /// A delivery with a new writer's id for what is in no file, and what earlier processes have left. The file takes at most
    /// `limit` bytes.
    pub(super) fn new(writer: String, old: Vec<Spool<D>>, limit: u64) -> Delivery<D> {
        Delivery {
            writer,
            sequence: 0,
            own: None,
            has_old: !old.is_empty(),
            old,
            limit,
            held: Rows::default(),
            sending: None,
            trouble: String::new(),
            folded: 0,
        }
    }

    /// Adds rows, and writes them to the file. `create` makes it, when it is first needed; `sync` waits for
    /// the disk, so that they survive a crash of the host.
    pub(super) fn add(
        &mut self,
        rows: Rows,
        sync: bool,
        create: impl FnOnce() -> Result<Spool<D>, String>,
    ) {
        self.held.append(rows);
        self.folded += self.held.take_folded();
        if self.held.is_empty() {
            return;
        }
        if self.own.is_none() {
            match create() {
                Ok(own) => self.own = Some(own),
                Err(why) => {
                    self.trouble = why;
                    return;
                }
            }
        }
        let written = self.write(sync);
        self.trouble = written.err().map(|error| error.to_string()).unwrap_or_default();
    }

    fn write(&mut self, sync: bool) -> io::Result<()> {
        let Some(own) = &mut self.own else { return Ok(()) };
        if own.length() >= self.limit {
            let full = format!("it has reached usage.spool ({} bytes)", self.limit);
            own.merge(0)?;
            // Half, so that it is not rewritten for every few rows.
            if own.length() >= self.limit / 2 {
                return Err(io::Error::other(full));
            }
        }
        own.append(&mut self.held)?;
        own.merge(MERGE_BYTES)?;
        if sync { own.sync() } else { Ok(()) }
    }

    /// The batch to send: that of the last call until it is [`Delivery::settled`]; `None` if there is
    /// nothing to send.
    pub(super) fn next(&mut self) -> Option<Arc<Batch>> {
        if let Some(sending) = &self.sending {
            return Some(sending.batch.clone());
        }
        let (origin, batch) = self.taken()?;
        let batch = Arc::new(batch);
        self.sending = Some(Sending { origin, batch: batch.clone(), is_in_doubt: false });
        Some(batch)
    }

    fn taken(&mut self) -> Option<(Origin, Batch)> {
        while let Some(old) = self.old.first_mut() {
            match old.batch() {
                Ok(Some(batch)) => return Some((Origin::Old, batch)),
                Ok(None) => self.old.remove(0).remove(),
                Err(error) => {
                    self.trouble = error.to_string();
                    break;
                }
            }
        }
        self.has_old = false;
        match self.own.as_mut().map(|own| own.batch()) {
            Some(Ok(Some(batch))) => return Some((Origin::Own, batch)),
            Some(Err(error)) => self.trouble = error.to_string(),
            Some(Ok(None)) | None => {}
        }
        if self.held.is_empty() {
            return None;
        }
        let rows = self.held.split_off_first(Batch::ROWS_MAX).into_vec();
        self.sequence += 1;
        let (writer, sequence) = (self.writer.clone(), self.sequence);
        Some((Origin::Memory, Batch { writer, sequence, rows }))
    }

    /// Records what became of the batch; returns it if the database has it and this process has admitted
    /// what it holds.
    pub(super) fn settled(&mut self, result: Result<(), &StoreError>) -> Option<Arc<Batch>> {
        let mut sending = self.sending.take()?;
        let Err(error) = result else {
            self.delivered(sending.origin);
            return Some(sending.batch).filter(|_| sending.origin != Origin::Old);
        };
        sending.is_in_doubt |= !matches!(error.kind, StoreErrorKind::Unreachable(_));
        if sending.origin == Origin::Memory && !sending.is_in_doubt {
            // It was never written, and its rows may now go into the file.
            self.held.append(sending.batch.rows.iter().cloned().collect());
        } else {
            self.sending = Some(sending);
        }
        None
    }

    fn delivered(&mut self, origin: Origin) {
        let spool = match origin {
            Origin::Memory => None,
            Origin::Old => self.old.first_mut(),
            Origin::Own => self.own.as_mut(),
        };
        if let Some(Err(error)) = spool.map(Spool::delivered) {
            // It would be sent again only after a crash, and is known then.
            self.trouble = error.to_string();
        }
    }

    /// Whether the database's totals are known to hold what earlier processes have left and all that
    /// [`Delivery::settled`] has returned, and nothing else of this process.
    pub(super) fn is_certain(&self) -> bool {
        self.sending.is_none() && !self.has_old
    }

    /// Whether nothing is left to send.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let files = self.own.iter().chain(&self.old);
        self.sending.is_none() && self.held.is_empty() && files.into_iter().all(Spool::is_empty)
    }

    /// Bytes in files.
    pub(super) fn spooled_bytes(&self) -> u64 {
        self.own.iter().chain(&self.old).map(Spool::bytes).sum()
    }

    /// Rows that are in no file.
    pub(super) fn held_rows(&self) -> usize {
        let sending = self.sending.as_ref().filter(|sending| sending.origin == Origin::Memory);
        self.held.len() + sending.map_or(0, |sending| sending.batch.rows.len())
    }

    /// Why rows are in no file; empty if all are.
    pub(super) fn trouble(&self) -> &str {
        &self.trouble
    }

    /// Additions that were not kept apart, since this was last asked.
    pub(super) fn take_folded(&mut self) -> u64 {
        std::mem::take(&mut self.folded)
    }

    /// Rows that are in no file, and may be lost.
    #[cfg(test)]
    pub(super) fn unsaved(&self) -> Vec<(super::Subject, super::Counts)> {
        let sending = self.sending.iter().filter(|sending| sending.origin == Origin::Memory);
        let sending = sending.flat_map(|sending| sending.batch.rows.clone());
        sending.chain(self.held.clone().into_vec()).collect()
    }

    /// Ends; removes a file that is no longer needed.
    pub(super) fn finish(mut self) {
        if let Some(own) = self.own.take_if(|own| own.is_empty()) {
            own.remove();
        }
    }
}
