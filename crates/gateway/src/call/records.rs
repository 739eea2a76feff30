//! Counts calls, each exactly once.
//!
//! A call has a [`Record`] from its start, which is counted when it is dropped: as cancelled unless
//! the call was answered, and as truncated if the answer did not fully reach the caller. An answer
//! carries the records of its calls and its access log line in a [`Settlement`] until it has been
//! written.

use std::sync::Arc;

use plimsoll_measure::Nanos;

use super::target::Target;
use super::trace::{self, BatchSpan};
use crate::account::Account;
use crate::local::Local;
use crate::meter::{EndedCall, Kind};
use crate::observe::access_log::{AccessLog, Line};
use crate::observe::stats::{CacheUse, Calls, Outcome, Sharded};
use crate::observe::traces::Span;

/// A call that has not been counted yet.
pub(crate) struct Record<'a> {
    calls: &'a Sharded<Calls>,
    local: &'a Local,
    /// Whom it is counted for.
    account: &'a Arc<Account>,
    kind: Kind,
    start: Nanos,
    cache: CacheUse,
    bytes_in: u64,
    bytes_out: u64,
    compute_units: u64,
    /// The outcome and the call's duration; `None` until the answer is ready.
    ended: Option<(Outcome, Nanos)>,
    /// Its span, if its trace is recorded.
    pub(super) span: Option<Box<Span>>,
}

impl<'a> Record<'a> {
    /// Starts a call of this kind, which is charged this if it is answered, and whose text has this many
    /// bytes.
    pub(crate) fn start(
        target: &Target<'a>,
        kind: Kind,
        compute_units: u64,
        bytes_in: usize,
    ) -> Record<'a> {
        Record {
            calls: &target.service.calls,
            local: &target.worker.local,
            account: target.account,
            kind,
            start: target.start,
            cache: CacheUse::default(),
            bytes_in: bytes_in as u64,
            bytes_out: 0,
            compute_units,
            ended: None,
            span: None,
        }
    }

    /// Sets the bytes of the answer.
    pub(crate) fn wrote(&mut self, bytes: u64) {
        self.bytes_out = bytes;
    }

    /// Sets the outcome: the answer is ready.
    pub(crate) fn ended(&mut self, outcome: Outcome) {
        self.ended = Some((outcome, self.local.now() - self.start));
    }

    /// Sets how the call used the cache.
    pub(crate) fn used(&mut self, cache: CacheUse) {
        self.cache = cache;
    }

    /// Marks the answer as truncated, unless the call had already failed.
    fn truncate(&mut self) {
        if let Some((outcome @ (Outcome::Ok | Outcome::RpcError), _)) = &mut self.ended {
            *outcome = Outcome::Truncated;
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let cancelled = || (Outcome::Cancelled, self.local.now() - self.start);
        let (outcome, span) = self.ended.unwrap_or_else(cancelled);
        let Record { local, cache, bytes_in, bytes_out, compute_units, .. } = *self;
        let method = match self.kind {
            Kind::Call(method) => method,
            Kind::Rest => None,
        };
        self.calls.of(local.number).add(method, cache, outcome, span);
        let ended = EndedCall { outcome, cache, bytes_in, bytes_out, compute_units };
        local.meter.call(self.account, self.kind, ended);
        trace::end(&mut self.span, outcome, local);
    }
}

/// The records of an answer's calls. The first is stored inline, so that a single call does not
/// allocate.
#[derive(Default)]
pub(crate) struct Records<'a> {
    first: Option<Record<'a>>,
    rest: Vec<Record<'a>>,
    /// The span of the batch that they are items of; dropped after them.
    pub(super) batch: Option<BatchSpan<'a>>,
}

impl<'a> From<Option<Record<'a>>> for Records<'a> {
    fn from(first: Option<Record<'a>>) -> Records<'a> {
        Records { first, ..Records::default() }
    }
}

impl<'a> Records<'a> {
    /// The records of a batch, with its span if its trace is recorded.
    pub(super) fn of_batch(batch: Option<BatchSpan<'a>>) -> Records<'a> {
        Records { batch, ..Records::default() }
    }

    pub(crate) fn add(&mut self, record: Record<'a>) {
        match self.first {
            None => self.first = Some(record),
            Some(_) => self.rest.push(record),
        }
    }
}

/// What to count and log once an answer has been written, or could not be.
#[derive(Default)]
pub(crate) struct Settlement<'a> {
    pub(crate) records: Records<'a>,
    pub(crate) line: Option<Box<(&'a AccessLog, Line)>>,
    is_settled: bool,
}

impl Settlement<'_> {
    /// Records that the caller disconnected before the answer was ready.
    pub(crate) fn cancel(mut self) {
        let records = self.records.first.iter_mut().chain(&mut self.records.rest);
        records.for_each(|record| record.ended(Outcome::Cancelled));
    }

    /// Records that the answer was written: `bytes_out` of its body, and whether that was all.
    pub(crate) fn settle(&mut self, bytes_out: u64, is_complete: bool) {
        self.is_settled = true;
        if let Some(record) = self.records.first.as_mut().filter(|one| one.kind == Kind::Rest) {
            record.wrote(bytes_out);
        }
        if !is_complete {
            self.records.first.iter_mut().chain(&mut self.records.rest).for_each(Record::truncate);
        }
        // Dropping a record counts it.
        self.records = Records::default();
        if let Some(line) = self.line.take() {
            let (log, line) = *line;
            log.write(line, bytes_out, is_complete);
        }
    }
}

impl Drop for Settlement<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.settle(0, false);
        }
    }
}
