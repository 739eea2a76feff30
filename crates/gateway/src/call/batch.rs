//! Batches: calls run a few at a time, answers are returned in order.
//!
//! A batch has at most `limits.calls_per_connection` calls in flight. Its size alone never sheds
//! it: if the process is at capacity, the next call waits for calls of the same batch, and is shed
//! only if none is in flight.
//!
//! Answers that wait for earlier ones, and the assembled answer, are charged for. An answer that
//! does not fit becomes an error with its call's id.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use plimsoll_rpc::request::{self, Batch, Call, Refused};
use tokio::sync::{Notify, SemaphorePermit};

use super::message::Summary;
use super::parse;
use super::records::Records;
use super::relay::{BodyAnswer, CallAnswer, answer_call, refused_call};
use super::target::Target;
use crate::error::{Error, ErrorKind};
use crate::offload;
use crate::payload::{Composer, Payload};
use crate::permit::{Capacity, Permit, Purpose, Share};

/// Bytes of answers that the share of the batch's request already covers.
const TEXT_FREE: u64 = 8 << 10;

/// State shared by the calls of a batch.
struct BatchState {
    /// Calls of the batch that hold a permit.
    held: Cell<usize>,
    freed: Notify,
    /// Bytes of answers that have not been written yet.
    text: Cell<u64>,
    share: RefCell<Share>,
}

/// Admits a call to be in flight, in the process and on its connection.
pub(super) struct CallSlot<'a> {
    _permit: Permit<'a>,
    /// The batch whose next call may be waiting for this permit.
    batch: Option<&'a BatchState>,
    _of_connection: Option<SemaphorePermit<'a>>,
}

impl<'a> CallSlot<'a> {
    /// The slot of a call that is not in a batch.
    #[inline]
    pub(super) fn single(permit: Permit<'a>) -> CallSlot<'a> {
        CallSlot { _permit: permit, batch: None, _of_connection: None }
    }
}

impl Drop for CallSlot<'_> {
    fn drop(&mut self) {
        if let Some(batch) = self.batch {
            batch.held.set(batch.held.get() - 1);
            batch.freed.notify_one();
        }
    }
}

impl BatchState {
    fn new(capacity: &Arc<Capacity>) -> BatchState {
        BatchState {
            held: Cell::new(0),
            freed: Notify::new(),
            text: Cell::new(0),
            share: RefCell::new(Share::new(capacity, Purpose::Long)),
        }
    }

    /// Gets the next call's slot, waiting while other calls of the batch hold permits. Calls enter
    /// one at a time, because a waiting call takes memory.
    ///
    /// # Errors
    /// The process is at capacity and no call of this batch is in flight.
    async fn enter<'a>(&'a self, target: &'a Target<'_>) -> Result<CallSlot<'a>, Error> {
        let _of_connection = target.connection_slot().await?;
        let capacity = &target.worker.local.capacity;
        loop {
            // A batch's only call in flight has the priority of a single call; further ones do not.
            let purpose = if self.held.get() == 0 { target.purpose } else { Purpose::Further };
            match capacity.enter(&target.account.in_use.calls, purpose) {
                Ok(_permit) => {
                    self.held.set(self.held.get() + 1);
                    return Ok(CallSlot { _permit, batch: Some(self), _of_connection });
                }
                Err(_) if self.held.get() > 0 => self.freed.notified().await,
                Err(busy) => return Err(busy),
            }
        }
    }

    /// Charges for an answer's text, which is held until the batch has been written.
    fn charge(&self, text: usize) -> Result<(), Error> {
        // Twice, because a growing buffer is copied.
        let all = self.text.get() + 2 * text as u64;
        self.share.borrow_mut().cover(all.saturating_sub(TEXT_FREE))?;
        self.text.set(all);
        Ok(())
    }
}

/// Answers a short batch. Calls without an id are not answered; if no call has one, the batch is
/// not.
pub(super) async fn answer_short<'a>(target: &Target<'a>, batch: &Batch<'_>) -> BodyAnswer<'a> {
    let state = BatchState::new(&target.worker.local.capacity);
    let answer = |(call, bytes), slot| answer_item(target, call, bytes, slot, &state);
    let (out, relayed) = in_order(target, &state, batch.sized_calls(), answer).await;
    finish(out, state, relayed)
}

/// Answers a long batch, given the ranges of its items.
pub(super) async fn answer_long<'a>(
    target: &Target<'a>,
    bytes: &Bytes,
    items: Vec<Range<usize>>,
) -> BodyAnswer<'a> {
    let state = BatchState::new(&target.worker.local.capacity);
    let answer = async |item: Bytes, slot| {
        let state = &state;
        if item.len() <= offload::INLINE_MAX {
            return answer_item(target, request::call(&item), item.len(), slot, state).await;
        }
        match parse::call(item.clone()).await {
            Some(Ok(call)) => {
                answer_item(target, Ok(call.within(&item)), item.len(), slot, state).await
            }
            Some(Err(refused)) => refused_call(target, refused.within(&item)),
            None => {
                target.fail(&Error::new(ErrorKind::Internal, "the gateway is shutting down"), None)
            }
        }
    };
    let items = items.into_iter().map(|item| bytes.slice(item));
    let (out, relayed) = in_order(target, &state, items, answer).await;
    finish(out, state, relayed)
}

async fn answer_item<'a>(
    target: &Target<'a>,
    call: Result<Call<'_>, Refused<'_>>,
    bytes: usize,
    slot: Result<CallSlot<'_>, Error>,
    state: &BatchState,
) -> CallAnswer<'a> {
    let call = match call {
        Ok(call) => call,
        Err(refused) => return refused_call(target, refused),
    };
    let mut answered = answer_call(target, &call, bytes, &slot).await;
    // The next call may use it while this answer waits.
    drop(slot);
    let pooled = answered.answer.compact();
    target.worker.local.give_buffer(pooled);
    if let Err(busy) = state.charge(answered.answer.text().len()) {
        answered.shed(target, &busy, call.id);
    }
    answered
}

/// Runs the calls of a batch, each once it has its slot, and joins their answers in order.
async fn in_order<'a, 't, T, F: Future<Output = CallAnswer<'a>>>(
    target: &'t Target<'a>,
    state: &'t BatchState,
    items: impl Iterator<Item = T>,
    answer: impl Fn(T, Result<CallSlot<'t>, Error>) -> F,
) -> (Composer, BodyAnswer<'a>) {
    let width = target.limits().calls_per_connection;
    let admitted = stream::iter(items).then(async |item| (item, state.enter(target).await));
    let answers = admitted.map(|(item, slot)| answer(item, slot)).buffered(width.max(1));
    let mut answers = std::pin::pin!(answers);
    let mut out = Composer::new(Vec::new());
    let mut summary = Summary::default();
    let mut records = Records::of_batch(target.trace.batch(target));
    while let Some(mut answered) = answers.next().await {
        summary.merge(&answered.summary);
        answered.record.into_iter().for_each(|record| records.add(record));
        if !answered.answer.is_empty() {
            let separator = if out.is_empty() { b'[' } else { b',' };
            out.text().push(separator);
            out.append(&mut answered.answer);
        }
    }
    let status = if out.is_empty() {
        0
    } else {
        out.text().push(b']');
        200
    };
    if let Some(span) = &mut records.batch {
        span.answered(status, &summary);
    }
    let body = Payload::Whole(Vec::new());
    (out, BodyAnswer { status, body, summary, records })
}

fn finish<'a>(mut out: Composer, state: BatchState, relayed: BodyAnswer<'a>) -> BodyAnswer<'a> {
    let share = state.share.into_inner();
    if !share.is_empty() {
        out.hold(share);
    }
    BodyAnswer { body: out.finish(), ..relayed }
}
