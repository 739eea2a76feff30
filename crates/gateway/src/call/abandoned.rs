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
//! the connection to its pool if the response answers the call, and releases the slot. If the upstream
//! asks not to be called, that is heeded. Hedges and retries that have lost are treated alike.
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
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use plimsoll_measure::Nanos;
use plimsoll_rpc::method::Method;
use tokio::sync::mpsc;

use super::attempt::{Received, SentCall, finished, unread};
use super::judge::judge;
use super::routing::Route;
use super::target::Target;
use super::worker::Worker;
use crate::error::ErrorKind;
use crate::local::Local;
use crate::observe::stats::RelayOutcome;
use crate::upstream::slot::{OwnedSlot, Slot};
use crate::upstream::{Failure, Reply, Upstream};

/// The longest response that is read to the end.
const REST_MAX: u64 = 64 << 10;

/// A response to come; if it is dropped before it is [taken](Pending::take), the rest is awaited.
pub(super) struct Pending<'s> {
    /// `None` once it has been taken.
    reply: Option<Reply>,
    /// The call's slot and what is expected; `None` if nobody waits for the rest.
    call: Option<(&'s Worker, &'s Route, &'s Slot<'s>, Expected)>,
}

/// What is known about the response to come.
#[derive(Clone, Copy)]
struct Expected {
    /// The call; `None`: a REST request.
    sent: Option<SentCall>,
    sent_at: Nanos,
    patience: Nanos,
    /// When the call times out.
    deadline: Nanos,
}

impl<'s> Pending<'s> {
    pub(super) fn new(
        reply: Reply,
        target: &'s Target<'_>,
        (route, slot): (&'s Route, &'s Slot<'s>),
        sent: Option<SentCall>,
    ) -> Pending<'s> {
        let expected = Expected {
            sent,
            sent_at: target.worker.local.recent(),
            patience: target.service.model.patience(),
            deadline: target.start + target.service.model.timeout,
        };
        Pending { reply: Some(reply), call: Some((target.worker, route, slot, expected)) }
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
fn abandon(reply: Reply, (worker, route, slot, expected): (&Worker, &Route, &Slot<'_>, Expected)) {
    let queue = worker.abandoned.borrow();
    if let Some(queue) = queue.as_ref()
        && let Some(slot) = slot.detach(&worker.local)
    {
        let left_at = worker.local.now();
        // If the worker has stopped, the slot is released here.
        let upstream = route.upstream.clone();
        drop(queue.send(Abandoned { reply, upstream, slot, expected, left_at }));
    }
}

/// A call whose caller has left.
pub(crate) struct Abandoned {
    reply: Reply,
    upstream: Arc<Upstream>,
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
        let Abandoned { mut reply, upstream, slot, expected, left_at } = self;
        let Expected { sent, sent_at, patience, deadline } = expected;
        let until = left_at + patience;
        let mut rest = reply.rest(until, REST_MAX).await;
        let is_late = rest.as_ref().is_err_and(|failure| failure.kind == ErrorKind::TimedOut);
        if is_late && deadline > until && !slot.gate.has_swallowed(sent_at) {
            rest = reply.rest(deadline, REST_MAX).await;
        }
        if rest.is_ok() {
            slot.gate.answered(local.now());
        }
        drop(slot);
        let Some(sent) = sent.filter(|_| reply.has_head()) else { return };
        let received = match rest {
            Ok(body) => finished(local, &upstream, (reply, body), REST_MAX).await,
            Err(failure) => Err(unread(&reply, failure)),
        };
        let now = local.now();
        let (outcome, retry_after) = match received {
            Err(failure) => (RelayOutcome::failed(failure.kind), failure.retry_after),
            Ok(Received { status, retry_after, response, reusable }) => {
                let judged = judge(sent.protocol, response.body(), status, sent.id);
                if let Some(reusable) = reusable.filter(|_| judged.is_ok()) {
                    reusable.release(now);
                }
                local.give_buffer(response.buffer);
                let outcome = |failure: Failure| RelayOutcome::failed(failure.kind);
                (judged.map_or_else(outcome, |verdict| verdict.outcome), retry_after)
            }
        };
        // All methods that are not known are parked together.
        let method = sent.method.map_or("", Method::name);
        upstream.parking.heed(outcome, method, retry_after, now);
    }
}
