//! Calls whose callers have left before the upstream has answered.
//!
//! # Why
//! Closing an HTTP/1.1 connection does not stop the upstream's work. If the slot of such a call were
//! free at once, a customer that sends calls and leaves (or resets streams) would have the upstream
//! work on any number of them, whatever its limit. And each closed connection is opened again, with a
//! TLS handshake and a check of the chain id.
//!
//! # How
//! When the future of an attempt is dropped, or times out, while its response is still to come, its
//! response and its slot are handed to a task of the worker ([`run`]), which reads the rest, returns
//! the connection to its pool if the response answers the call, and releases the slot. Hedges and
//! retries that have lost are treated alike.
//!
//! # Limits
//! There are at most as many of these calls as there are slots. One is awaited until the call would
//! have timed out, at least for the service's patience; if the upstream has answered nothing since the
//! call was sent when that is over, it hangs, and the call is given up then. The rest of a
//! response is read up to [`REST_MAX`]; a longer one has been worked out already, so its connection is
//! closed. A call that has returned its slot because its upstream hangs is not awaited. REST
//! connections are not used again.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use plimsoll_measure::Nanos;
use tokio::sync::mpsc;

use super::judge::judge;
use super::target::Target;
use super::worker::Worker;
use crate::error::ErrorKind;
use crate::http1::Coding;
use crate::local::Local;
use crate::protocol::Protocol;
use crate::upstream::Reply;
use crate::upstream::slot::{OwnedSlot, Slot};

/// The longest response that is read to the end.
const REST_MAX: u64 = 64 << 10;

/// A response to come; if it is dropped before it is [taken](Pending::take), the rest is awaited.
pub(super) struct Pending<'s> {
    /// `None` once it has been taken.
    reply: Option<Reply>,
    /// The call's slot and what is expected; `None` if nobody waits for the rest.
    call: Option<(&'s Worker, &'s Slot<'s>, Expected)>,
}

/// What is known about the response to come.
#[derive(Clone, Copy)]
struct Expected {
    /// The protocol and the id of a call; `None`: a REST request.
    answers: Option<(Protocol, u64)>,
    sent_at: Nanos,
    patience: Nanos,
    /// When the call times out.
    deadline: Nanos,
}

impl<'s> Pending<'s> {
    pub(super) fn new(
        reply: Reply,
        target: &'s Target<'_>,
        slot: &'s Slot<'s>,
        id: Option<u64>,
    ) -> Pending<'s> {
        let expected = Expected {
            answers: id.map(|id| (target.service.protocol, id)),
            sent_at: target.worker.local.recent(),
            patience: target.service.model.patience(),
            deadline: target.start + target.service.model.timeout,
        };
        Pending { reply: Some(reply), call: Some((target.worker, slot, expected)) }
    }

    /// A response without a slot.
    pub(super) fn unlimited(reply: Reply) -> Pending<'s> {
        Pending { reply: Some(reply), call: None }
    }

    /// The response, which is no longer awaited if it is dropped.
    pub(super) fn take(mut self) -> Reply {
        self.reply.take().expect("taken once")
    }
}

impl Deref for Pending<'_> {
    type Target = Reply;

    fn deref(&self) -> &Reply {
        self.reply.as_ref().expect("taken last")
    }
}

impl DerefMut for Pending<'_> {
    fn deref_mut(&mut self) -> &mut Reply {
        self.reply.as_mut().expect("taken last")
    }
}

impl Drop for Pending<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take().filter(Reply::is_owed)
            && let Some(call) = self.call
        {
            abandon(reply, call);
        }
    }
}

#[cold]
fn abandon(reply: Reply, (worker, slot, expected): (&Worker, &Slot<'_>, Expected)) {
    let queue = worker.abandoned.borrow();
    if let Some(queue) = queue.as_ref()
        && let Some(slot) = slot.detach(&worker.local)
    {
        let left_at = worker.local.now();
        // If the worker has stopped, the slot is released here.
        drop(queue.send(Abandoned { reply, slot, expected, left_at }));
    }
}

/// A call whose caller has left.
pub(crate) struct Abandoned {
    reply: Reply,
    slot: OwnedSlot,
    expected: Expected,
    left_at: Nanos,
}

/// Awaits the rest of the responses to a worker's abandoned calls.
pub(crate) async fn run(worker: Rc<Worker>) {
    let (sender, mut queue) = mpsc::unbounded_channel::<Abandoned>();
    worker.abandoned.replace(Some(sender));
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(abandoned) = queue.recv() => running.push(abandoned.end(&worker.local)),
            Some(()) = running.next() => {}
        }
    }
}

impl Abandoned {
    async fn end(self, local: &Local) {
        let Abandoned { mut reply, slot, expected, left_at } = self;
        let Expected { answers, sent_at, patience, deadline } = expected;
        let until = left_at + patience;
        let mut rest = reply.rest(until, REST_MAX).await;
        let is_late = rest.as_ref().is_err_and(|failure| failure.kind == ErrorKind::TimedOut);
        if is_late && deadline > until && slot.gate.has_answered_since(sent_at) {
            rest = reply.rest(deadline, REST_MAX).await;
        }
        if rest.is_ok() {
            slot.gate.answered(local.now());
        }
        drop(slot);
        let (Ok(body), Some((protocol, id))) = (rest, answers) else { return };
        let (status, coding) = (reply.head().0, reply.coding());
        let (response, reusable) = reply.finish(body);
        let is_answer =
            coding == Coding::None && judge(protocol, response.body(), status, id).is_ok();
        if let Some(reusable) = reusable.filter(|_| is_answer) {
            reusable.release(local.now());
        }
        local.give_buffer(response.buffer);
    }
}
