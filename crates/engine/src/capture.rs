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
        fixed.status = finished.status.filter(|status| *status > 0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrival::Arrival;
    use crate::judge::{Cause, Judgement};
    use crate::request::Style;
    use plimsoll_measure::{Fault, Nanos};
    use plimsoll_plan::{Document, Plan, Variables};

    fn request() -> Request {
        let text = "rate = 1\nduration = \"1s\"\n[[target]]\nrequest = \"POST http://h/\"\nbody = \"12345\"";
        let document = Document::new("plan.toml", text);
        let plan = Plan::read(&document, &Variables::default(), std::path::Path::new(".")).unwrap();
        Request::compile(&plan.requests[0], 0, Style::of(&plan))
    }

    fn arrival(number: u64) -> Arrival {
        let mut arrival = Arrival::new(0, 0, 0, number);
        (arrival.scheduled_at, arrival.started_at) = (Nanos(10), Some(Nanos(20)));
        arrival
    }

    fn answer(body: &[u8]) -> Answer<'_> {
        Answer {
            status: 200,
            call: None,
            body,
            gzip: false,
            head: b"HTTP/1.1 200 OK\r\n\r\n",
            body_len: body.len() as u64,
            first: false,
            location: None,
            split: None,
            received_at: None,
        }
    }

    fn commit(capturing: &mut Capturing, arrival: &Arrival, outcome: Result<(), Cause>) {
        let status = outcome.is_ok().then_some(200);
        let judgement = Judgement { outcome, rpc_code: None };
        let finished =
            Finished { arrival, ended_at: Nanos(50), status, judgement, connection: None };
        capturing.commit(&finished, &request());
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let (capture, mut captured) = Capture::new(3);
        let mut capturing = capture.begin(1);
        capturing.stage_answer(&answer(b"abcdef"));
        commit(&mut capturing, &arrival(7), Ok(()));
        let peer = "[::1]:80".parse().ok();
        let refused = std::io::Error::from_raw_os_error(111);
        capturing.stage_failure(&Failure::of_open(refused), peer);
        commit(&mut capturing, &arrival(8), Err(Cause::of(ErrorClass::Refused)));
        let text = std::io::Error::other("no such name");
        capturing.stage_failure(&Failure::caused_by(ErrorClass::Dns, text), None);
        commit(&mut capturing, &arrival(9), Err(Cause::of(ErrorClass::Dns)));
        // Neither started nor counted; what was kept for it is not part of the next.
        capturing.stage_answer(&answer(b"lost"));
        let mut unstarted = arrival(10);
        unstarted.started_at = None;
        commit(&mut capturing, &unstarted, Err(Cause::of(ErrorClass::NoConnection)));
        let mut warm = arrival(11);
        warm.warm = true;
        commit(&mut capturing, &warm, Ok(()));
        commit(&mut capturing, &arrival(12), Err(Cause::protocol(Fault::NotHttp)));
        drop(capturing);
        let block = captured.next().unwrap();
        let results: Vec<_> = block.results().collect();
        let [ok, refused, dns, odd] = results.as_slice() else { panic!("{results:?}") };
        assert_eq!((ok.number, ok.status, ok.error, ok.errno), (7, Some(200), None, None));
        let times = (ok.scheduled_at, ok.started_at, ok.ended_at);
        assert_eq!(times, (Nanos(10), Nanos(20), Nanos(50)));
        assert_eq!((ok.body, ok.bytes_in, ok.bytes_out), (b"abc".as_slice(), 6, 5));
        assert_eq!(ok.head, b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!((refused.number, refused.errno, refused.peer), (8, Some(111), peer));
        assert_eq!((refused.head, refused.text), (b"".as_slice(), ""));
        assert_eq!((dns.text, dns.errno, dns.own), ("no such name", None, None));
        let cause = Some((ErrorClass::Protocol, Some(Fault::NotHttp)));
        assert_eq!((odd.number, odd.error, odd.body), (12, cause, b"".as_slice()));
        drop(capture);
        assert!(captured.next().is_none());
    }

    #[test]
    fn a_slow_reader_costs_bodies_first_and_then_results() {
        const MAX: usize = 400_000;
        let (capture, captured) = Capture::limited(u64::MAX, MAX);
        let mut capturing = capture.begin(1);
        let body = vec![b'x'; 10_000];
        for number in 0..2_000 {
            capturing.stage_answer(&answer(&body));
            commit(&mut capturing, &arrival(number), Ok(()));
        }
        assert!(capturing.held + capturing.block.len() <= MAX, "the limit is kept");
        drop((capturing, capture));
        let (mut dropped, mut results, mut bodies, mut bytes) = (Dropped::default(), 0, 0, 0);
        for block in captured {
            dropped.bodies += block.dropped.bodies;
            dropped.results += block.dropped.results;
            bytes += block.bytes.len();
            results += block.results().count() as u64;
            bodies += block.results().filter(|result| !result.body.is_empty()).count() as u64;
        }
        assert_eq!(results + dropped.results, 2_000);
        assert!(bodies > 20 && results > bodies, "{bodies} bodies of {results} results");
        assert_eq!(results - bodies + dropped.results, dropped.bodies);
        assert!(dropped.results > 0 && bytes <= MAX, "{dropped:?}, {bytes} bytes");
    }
}
