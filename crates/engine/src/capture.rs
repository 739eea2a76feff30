//! Results one by one: a record for each arrival that started and ended, for a reader outside the
//! engine.
//!
//! A worker appends records to a block of bytes and passes full blocks, and once a second the current
//! one, to the reader's thread. Reading returns a block's memory to its worker, so that nothing
//! allocates once warm. A worker never waits for the reader: it knows how many bytes it has passed on
//! and not got back. Beyond three quarters of its part of [`HELD_MAX`] it leaves out bodies, beyond all
//! of it whole records; both are counted.
//!
//! # A record
//! A fixed part, then the request (if it is not part of the plan), the answer's head, its body, and a
//! text. The part after the fixed one is written when the answer is read, and the fixed part when the
//! arrival ends.

mod record;

use crate::connection::{Answer, Failure};
use crate::recorder::Finished;
use crate::request::Request;
use plimsoll_measure::ErrorClass;
pub use record::CapturedResult;
use record::{FIXED_LEN, Fixed};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Maximum bytes of records that were passed to the reader and not read yet, for all workers of a run.
pub(crate) const HELD_MAX: usize = 64 << 20;
/// A block is passed on when it is this long: a hundred or more short answers.
const BLOCK_LEN: usize = 64 << 10;
/// Memory that a block keeps after it was read.
const BLOCK_KEPT: usize = 4 * BLOCK_LEN;

/// The engine's end: where results go. Part of a run's settings.
#[derive(Clone, Debug)]
pub struct Capture {
    body_max: u64,
    held_max: usize,
    blocks: Arc<Mutex<Sender<CapturedBlock>>>,
}

/// The reader's end. Iteration ends when the run has ended and all blocks were read.
pub struct Captured(Receiver<CapturedBlock>);

/// Records in the order in which their arrivals ended on one worker.
#[derive(Debug)]
pub struct CapturedBlock {
    bytes: Vec<u8>,
    /// What its worker left out since its previous block.
    pub dropped: Dropped,
    /// Gives the memory back.
    back: Sender<Vec<u8>>,
}

/// What was left out because the reader was too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Bodies of results.
    pub bodies: u64,
    /// Whole results.
    pub results: u64,
}

impl Capture {
    /// A new pair of ends. Of each answer's body, at most `body_max` bytes are kept; all of it if it is in
    /// gzip.
    pub fn new(body_max: u64) -> (Capture, Captured) {
        Capture::limited(body_max, HELD_MAX)
    }

    fn limited(body_max: u64, held_max: usize) -> (Capture, Captured) {
        let (blocks, captured) = channel();
        let blocks = Arc::new(Mutex::new(blocks));
        (Capture { body_max, held_max, blocks }, Captured(captured))
    }

    /// The end of one of `workers` workers.
    pub(crate) fn begin(&self, workers: usize) -> Capturing {
        let (back, returned) = channel();
        Capturing {
            body_max: self.body_max,
            held_max: self.held_max / workers.max(1),
            held: 0,
            block: Vec::with_capacity(BLOCK_LEN),
            staged: None,
            dropped: Dropped::default(),
            blocks: self.blocks.lock().expect("no holder panics").clone(),
            back,
            returned,
        }
    }
}

impl Iterator for Captured {
    type Item = CapturedBlock;

    fn next(&mut self) -> Option<CapturedBlock> {
        self.0.recv().ok()
    }
}

impl CapturedBlock {
    /// The block's results.
    pub fn results(&self) -> impl Iterator<Item = CapturedResult<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || CapturedResult::read(&mut rest))
    }
}

impl Drop for CapturedBlock {
    fn drop(&mut self) {
        // Fails if the worker has ended.
        let _ = self.back.send(std::mem::take(&mut self.bytes));
    }
}

/// A worker's end.
pub(crate) struct Capturing {
    pub(crate) body_max: u64,
    held_max: usize,
    /// Bytes that were passed on and have not come back.
    held: usize,
    block: Vec<u8>,
    /// The record whose fixed part is still missing.
    staged: Option<Staged>,
    dropped: Dropped,
    blocks: Sender<CapturedBlock>,
    back: Sender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
}

/// The variable part of a record, at the end of the block after room for the fixed part.
#[derive(Clone, Copy, Default)]
struct Staged {
    at: usize,
    fixed: Fixed,
}

impl Capturing {
    /// Keeps the answer to the arrival that ends next.
    pub(crate) fn stage_answer(&mut self, answer: &Answer<'_>) {
        let mut staged = self.stage();
        let fits = self.fits(self.held_max / 4 * 3, answer.head.len() + answer.body.len());
        // An answer may be kept for a check although its body is not wanted.
        let body_max = usize::try_from(self.body_max).unwrap_or(usize::MAX);
        let most = if answer.gzip { usize::MAX } else { body_max };
        let wanted = &answer.body[..answer.body.len().min(most)];
        let body = if fits { wanted } else { &[] };
        self.dropped.bodies += u64::from(!fits && !wanted.is_empty());
        let fixed = &mut staged.fixed;
        fixed.bytes_in = answer.body_len;
        fixed.is_gzip = answer.gzip;
        (fixed.head_len, fixed.body_len) = (answer.head.len() as u32, body.len() as u32);
        self.block.extend_from_slice(answer.head);
        self.block.extend_from_slice(body);
        self.staged = Some(staged);
    }

    /// Keeps the failure of the arrival that ends next. `peer` is the address it concerns.
    #[cold]
    pub(crate) fn stage_failure(&mut self, failure: &Failure, peer: Option<SocketAddr>) {
        let mut staged = self.stage();
        staged.fixed.peer = peer;
        if let Some(error) = &failure.error {
            staged.fixed.errno = error.raw_os_error().unwrap_or(0);
            if staged.fixed.errno == 0 {
                let text = match failure.class {
                    ErrorClass::Tls => crate::tls::explain(error),
                    _ => error.to_string(),
                };
                self.block.extend_from_slice(text.as_bytes());
                staged.fixed.text_len = text.len() as u32;
            }
        }
        self.staged = Some(staged);
    }

    /// Begins a record.
    fn stage(&mut self) -> Staged {
        if let Some(staged) = self.staged.take() {
            self.block.truncate(staged.at);
        }
        let at = self.block.len();
        self.block.resize(at + FIXED_LEN, 0);
        Staged { at, fixed: Fixed::default() }
    }

    /// Completes the record of an arrival that has ended. `planned` is its request in the plan.
    #[inline]
    pub(crate) fn commit(&mut self, finished: &Finished<'_>, planned: &Request) {
        let arrival = finished.arrival;
        let Some(started_at) = arrival.started_at.filter(|_| !arrival.warm) else {
            if let Some(staged) = self.staged.take() {
                self.block.truncate(staged.at);
            }
            return;
        };
        let mut staged = match self.staged.take() {
            Some(staged) => staged,
            None => self.stage(),
        };
        let fixed = &mut staged.fixed;
        fixed.number = arrival.number;
        fixed.scheduled_at = arrival.scheduled_at;
        fixed.started_at = started_at;
        fixed.ended_at = finished.ended_at;
        fixed.status = finished.status;
        fixed.cause = finished.judgement.outcome.err();
        fixed.has_begun = arrival.exchange.first_byte_at.is_some();
        fixed.was_sent = arrival.sent_at.is_some();
        fixed.request = arrival.exchange.request;
        fixed.bytes_out = planned.body_len;
        if let Some(fed) = arrival.exchange.hop.as_ref().and_then(|hop| hop.fed.as_deref()) {
            fixed.bytes_out = fed.body_len;
            self.block.extend_from_slice(fed.method.as_bytes());
            self.block.extend_from_slice(fed.url.as_bytes());
            (fixed.method_len, fixed.url_len) = (fed.method.len() as u32, fed.url.len() as u32);
        }
        staged.fixed.write(&mut self.block[staged.at..staged.at + FIXED_LEN]);
        if !self.fits(self.held_max, 0) {
            self.block.truncate(staged.at);
            self.dropped.results += 1;
        } else if self.block.len() >= BLOCK_LEN {
            self.flush();
        }
    }

    /// Whether the records held, the current block and `more` bytes are at most `max` bytes.
    #[inline]
    fn fits(&mut self, max: usize, more: usize) -> bool {
        if self.held + self.block.len() + more <= max {
            return true;
        }
        while let Ok(block) = self.returned.try_recv() {
            self.held -= block.len();
        }
        self.held + self.block.len() + more <= max
    }

    /// Passes the current block to the reader.
    pub(crate) fn flush(&mut self) {
        if self.block.is_empty() && self.dropped == Dropped::default() {
            return;
        }
        let mut fresh = None;
        while let Ok(mut block) = self.returned.try_recv() {
            self.held -= block.len();
            block.clear();
            block.shrink_to(BLOCK_KEPT);
            fresh = Some(block);
        }
        let fresh = fresh.unwrap_or_else(|| Vec::with_capacity(BLOCK_LEN));
        let bytes = std::mem::replace(&mut self.block, fresh);
        self.held += bytes.len();
        let dropped = std::mem::take(&mut self.dropped);
        // Fails if the reader has stopped; the block's memory then comes back at once.
        let _ = self.blocks.send(CapturedBlock { bytes, dropped, back: self.back.clone() });
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        self.flush();
    }
}
