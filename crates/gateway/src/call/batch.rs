//! A batch: its calls a few at a time, its answers in order.
//!
//! A batch has at most `limits.calls_per_connection` calls in flight, however many it holds, and its
//! size alone never sheds it: where the process has no room for a further call, the call waits for
//! those of its own batch, and is shed only when there are none.
//!
//! Answers that wait for earlier ones, and the whole that is put together, are charged for; an answer
//! for which there is no room becomes an error under its id.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use plimsoll_rpc::request::{self, Batch, Call, Refused};
use tokio::sync::Notify;

use super::message::Summary;
use super::parse;
use super::records::Records;
use super::relay::{Answered, Relayed, Target, answer_call, refused_call};
use crate::error::{Error, ErrorKind};
use crate::offload;
use crate::payload::{Composer, Payload};
use crate::permit::{Capacity, Permit, Purpose, Share};

/// Text of a batch's answers that its request's own share covers.
const TEXT_FREE: u64 = 8 << 10;

/// What the calls of a batch share: the permits that they hold, the text that waits to be written.
pub(crate) struct Turns {
    held: Cell<usize>,
    freed: Notify,
    text: Cell<u64>,
    share: RefCell<Share>,
}

/// A call's permit; a batch's other calls wait for it.
pub(super) struct Turn<'a> {
    _permit: Permit<'a>,
    turns: Option<&'a Turns>,
}

impl<'a> Turn<'a> {
    /// The permit of a call that is in no batch.
    #[inline]
    pub(super) fn alone(permit: Permit<'a>) -> Turn<'a> {
        Turn { _permit: permit, turns: None }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(turns) = self.turns {
            turns.held.set(turns.held.get() - 1);
            turns.freed.notify_one();
        }
    }
}

impl Turns {
    fn new(capacity: &Arc<Capacity>) -> Turns {
        Turns {
            held: Cell::new(0),
            freed: Notify::new(),
            text: Cell::new(0),
            share: RefCell::new(Share::new(capacity, Purpose::Long)),
        }
    }

    /// Waits for a permit for as long as calls of the same batch hold some.
    ///
    /// # Errors
    /// There is no room, and no call of this batch will make any.
    pub(super) async fn enter<'a>(
        &'a self,
        capacity: &'a Capacity,
        endpoint: &'a AtomicU64,
        purpose: Purpose,
    ) -> Result<Turn<'a>, Error> {
        loop {
            // The first of a batch is as good as a call alone; the others come beside it.
            let purpose = if self.held.get() == 0 { purpose } else { Purpose::Further };
            match capacity.enter(endpoint, purpose) {
                Ok(permit) => {
                    self.held.set(self.held.get() + 1);
                    return Ok(Turn { _permit: permit, turns: Some(self) });
                }
                Err(_) if self.held.get() > 0 => self.freed.notified().await,
                Err(busy) => {
                    // Others that wait would wait for ever.
                    self.freed.notify_one();
                    return Err(busy);
                }
            }
        }
    }

    /// Charges for an answer's text, which is there until the batch has been written.
    fn charge(&self, text: usize) -> Result<(), Error> {
        // A buffer that grows is there twice for a moment.
        let all = self.text.get() + 2 * text as u64;
        self.share.borrow_mut().cover(all.saturating_sub(TEXT_FREE))?;
        self.text.set(all);
        Ok(())
    }
}

/// Answers a short batch. Calls without an id leave nothing; if none has one, neither does the batch.
pub(super) async fn answer_short<'a>(target: &Target<'a>, batch: &Batch<'_>) -> Relayed<'a> {
    let turns = Turns::new(&target.worker.local.capacity);
    let answers = batch.calls().map(|call| answer_item(target, call, &turns));
    let (out, relayed) = in_order(target, answers).await;
    finish(out, turns, relayed)
}

/// Answers a long batch, whose items lie in these places.
pub(super) async fn answer_long<'a>(
    target: &Target<'a>,
    bytes: &Bytes,
    items: Vec<Range<usize>>,
) -> Relayed<'a> {
    let turns = Turns::new(&target.worker.local.capacity);
    let answers = items.into_iter().map(|item| {
        let (turns, item) = (&turns, bytes.slice(item));
        async move {
            if item.len() <= offload::INLINE_MAX {
                return answer_item(target, request::call(&item), turns).await;
            }
            match parse::call(item.clone()).await {
                Some(Ok(call)) => answer_item(target, Ok(call.within(&item)), turns).await,
                Some(Err(refused)) => answer_item(target, Err(refused.within(&item)), turns).await,
                None => {
                    let error = Error::new(ErrorKind::Internal, "the gateway is ending");
                    target.fail(&error, None)
                }
            }
        }
    });
    let (out, relayed) = in_order(target, answers).await;
    finish(out, turns, relayed)
}

async fn answer_item<'a>(
    target: &Target<'a>,
    call: Result<Call<'_>, Refused<'_>>,
    turns: &Turns,
) -> Answered<'a> {
    let call = match call {
        Ok(call) => call,
        Err(refused) => return refused_call(target, refused),
    };
    let mut answered = match target.turn().await {
        Ok(_turn) => answer_call(target, &call, Some(turns)).await,
        Err(busy) => return target.fail(&busy, call.id),
    };
    let local = &*target.worker.local;
    let pooled = answered.answer.compact();
    local.give_buffer(pooled);
    if let Err(busy) = turns.charge(answered.answer.text().len()) {
        answered.shed(target, &busy, call.id);
    }
    answered
}

/// Runs the calls of a batch and joins their answers.
async fn in_order<'a>(
    target: &Target<'a>,
    answers: impl Iterator<Item = impl Future<Output = Answered<'a>>>,
) -> (Composer, Relayed<'a>) {
    let width = target.limits().calls_per_connection;
    let mut answers = std::pin::pin!(stream::iter(answers).buffered(width.max(1)));
    let mut out = Composer::new(Vec::new());
    let (mut summary, mut records) = (Summary::default(), Records::default());
    while let Some(mut answered) = answers.next().await {
        summary.join(&answered.summary);
        answered.record.into_iter().for_each(|record| records.add(record));
        if !answered.answer.is_empty() {
            let separator = if out.is_empty() { b'[' } else { b',' };
            out.text().push(separator);
            out.append(&mut answered.answer);
        }
    }
    let status = match out.is_empty() {
        true => 0,
        false => {
            out.text().push(b']');
            200
        }
    };
    let body = Payload::Whole(Vec::new());
    (out, Relayed { status, body, summary, records })
}

fn finish<'a>(mut out: Composer, turns: Turns, relayed: Relayed<'a>) -> Relayed<'a> {
    let share = turns.share.into_inner();
    if !share.is_empty() {
        out.hold(share);
    }
    Relayed { body: out.finish(), ..relayed }
}
