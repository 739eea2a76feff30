//! A batch: its calls a few at a time, its answers in order.
//!
//! A batch has at most `limits.calls_per_connection` calls in flight, however many it holds, and its
//! size alone never sheds it: where the process has no room for a further call, the call waits for
//! those of its own batch, and is shed only when there are none.
//!
//! Answers that wait for earlier ones, and the whole that is assembled, are charged for; an answer
//! for which there is no room becomes an error under its id.

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
use super::relay::{Answered, Relayed, Target, answer_call, refused_call};
use crate::error::{Error, ErrorKind};
use crate::offload;
use crate::payload::{Composer, Payload};
use crate::permit::{Capacity, Permit, Purpose, Share};

/// Text of a batch's answers that its request's own share covers.
const TEXT_FREE: u64 = 8 << 10;

/// What the calls of a batch share: the permits that they hold, the text that waits to be written.
struct Turns {
    held: Cell<usize>,
    freed: Notify,
    text: Cell<u64>,
    share: RefCell<Share>,
}

/// A call's leave to be in flight, in the process and on its connection.
pub(super) struct Turn<'a> {
    _permit: Permit<'a>,
    /// The batch whose next call may wait for this permit.
    turns: Option<&'a Turns>,
    _of_connection: Option<SemaphorePermit<'a>>,
}

impl<'a> Turn<'a> {
    /// The permit of a call that is in no batch.
    #[inline]
    pub(super) fn alone(permit: Permit<'a>) -> Turn<'a> {
        Turn { _permit: permit, turns: None, _of_connection: None }
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

    /// Waits for the next call's permit for as long as calls of the same batch hold some. To be
    /// called for one call after another: what waits takes memory.
    ///
    /// # Errors
    /// There is no room, and no call of this batch will make any.
    async fn enter<'a>(&'a self, target: &'a Target<'_>) -> Result<Turn<'a>, Error> {
        let _of_connection = target.turn().await?;
        let capacity = &target.worker.local.capacity;
        loop {
            // The first of a batch is as good as a call alone; the others come beside it.
            let purpose = if self.held.get() == 0 { target.purpose } else { Purpose::Further };
            match capacity.enter(target.endpoint_calls, purpose) {
                Ok(_permit) => {
                    self.held.set(self.held.get() + 1);
                    return Ok(Turn { _permit, turns: Some(self), _of_connection });
                }
                Err(_) if self.held.get() > 0 => self.freed.notified().await,
                Err(busy) => return Err(busy),
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
    let answer = |call, entered| answer_item(target, call, entered, &turns);
    let (out, relayed) = in_order(target, &turns, batch.calls(), answer).await;
    finish(out, turns, relayed)
}

/// Answers a long batch, whose items lie in these places.
pub(super) async fn answer_long<'a>(
    target: &Target<'a>,
    bytes: &Bytes,
    items: Vec<Range<usize>>,
) -> Relayed<'a> {
    let turns = Turns::new(&target.worker.local.capacity);
    let answer = async |item: Bytes, entered| {
        let turns = &turns;
        if item.len() <= offload::INLINE_MAX {
            return answer_item(target, request::call(&item), entered, turns).await;
        }
        match parse::call(item.clone()).await {
            Some(Ok(call)) => answer_item(target, Ok(call.within(&item)), entered, turns).await,
            Some(Err(refused)) => refused_call(target, refused.within(&item)),
            None => target.fail(&Error::new(ErrorKind::Internal, "the gateway is ending"), None),
        }
    };
    let items = items.into_iter().map(|item| bytes.slice(item));
    let (out, relayed) = in_order(target, &turns, items, answer).await;
    finish(out, turns, relayed)
}

async fn answer_item<'a>(
    target: &Target<'a>,
    call: Result<Call<'_>, Refused<'_>>,
    entered: Result<Turn<'_>, Error>,
    turns: &Turns,
) -> Answered<'a> {
    let call = match call {
        Ok(call) => call,
        Err(refused) => return refused_call(target, refused),
    };
    let mut answered = answer_call(target, &call, &entered).await;
    // Others may have its place.
    drop(entered);
    let pooled = answered.answer.compact();
    target.worker.local.give_buffer(pooled);
    if let Err(busy) = turns.charge(answered.answer.text().len()) {
        answered.shed(target, &busy, call.id);
    }
    answered
}

/// Runs the calls of a batch, each once it has its permit, and joins their answers.
async fn in_order<'a, 't, T, F: Future<Output = Answered<'a>>>(
    target: &'t Target<'a>,
    turns: &'t Turns,
    items: impl Iterator<Item = T>,
    answer: impl Fn(T, Result<Turn<'t>, Error>) -> F,
) -> (Composer, Relayed<'a>) {
    let width = target.limits().calls_per_connection;
    let entered = stream::iter(items).then(async |item| (item, turns.enter(target).await));
    let answers = entered.map(|(item, entered)| answer(item, entered)).buffered(width.max(1));
    let mut answers = std::pin::pin!(answers);
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
