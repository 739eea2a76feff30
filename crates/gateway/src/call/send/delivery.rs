//! Which upstreams may have a transaction.
//!
//! An attempt puts its upstream in doubt when it starts. A definite refusal, or a failure before
//! anything was sent, removes the doubt; an acceptance ends all doubts. An upstream that was sent the
//! transaction twice is cleared by two refusals only: the second one may be due to the first attempt.

use std::cell::{Cell, OnceCell, RefCell};

use tokio::sync::Notify;

use super::super::attempt::JudgedResponse;
use super::super::target::Target;
use crate::local::Local;
use crate::sends::{Hash, Raw, Sent};
use crate::upstream::Failure;

/// A transaction on its way, and what is known about the upstreams that were sent it.
pub(in crate::call) struct Delivery<'r> {
    raw: Raw,
    hash: OnceCell<Hash>,
    memory: &'r Sent,
    local: &'r Local,
    /// The serial numbers of the upstreams that may have it, once for each attempt.
    doubted: RefCell<Vec<u64>>,
    is_accepted: Cell<bool>,
    /// Signals a refusal while upstreams are in doubt.
    refused: Notify,
}

impl<'r> Delivery<'r> {
    pub(super) fn new<'a>(raw: Raw, target: &'r Target<'a>) -> Delivery<'r> {
        Delivery {
            raw,
            hash: OnceCell::new(),
            memory: &target.service.state.sent,
            local: &target.worker.local,
            doubted: RefCell::default(),
            is_accepted: Cell::new(false),
            refused: Notify::new(),
        }
    }

    pub(super) fn hash(&self) -> Hash {
        *self.hash.get_or_init(|| self.raw.hash())
    }

    /// An attempt has started at this upstream.
    pub(in crate::call) fn started(&self, upstream: u64) {
        self.doubted.borrow_mut().push(upstream);
    }

    /// An attempt at this upstream has ended.
    pub(in crate::call) fn ended(&self, upstream: u64, result: &Result<JudgedResponse, Failure>) {
        match result {
            Ok(judged) if super::is_accepted(judged) => return self.accepted(upstream),
            Ok(judged) if super::refusal(judged).is_none() => return,
            Err(failure) if failure.sent => return,
            Ok(_) | Err(_) => {}
        }
        let mut doubted = self.doubted.borrow_mut();
        if let Some(at) = doubted.iter().position(|one| *one == upstream) {
            doubted.remove(at);
        }
        if result.is_ok() && !doubted.is_empty() {
            self.refused.notify_one();
        }
    }

    /// Whether an answer refuses the transaction for good, so that further attempts are pointless.
    pub(in crate::call) fn is_refusal(&self, judged: &JudgedResponse) -> bool {
        !super::is_accepted(judged) && super::refusal(judged).is_some()
    }

    /// Remembers that an upstream has the transaction.
    pub(super) fn accepted(&self, upstream: u64) {
        self.is_accepted.set(true);
        let sender = self.raw.sender().map(|(sender, _)| sender);
        self.memory.accepted(self.hash(), sender, upstream, self.local.now());
    }

    /// The upstreams that may have it.
    pub(super) fn doubted(&self) -> Vec<u64> {
        self.doubted.borrow().clone()
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        !self.doubted.borrow().is_empty()
    }

    /// The upstream that has or may have it because of an earlier call.
    pub(super) fn remembered(&self) -> Option<u64> {
        self.memory.by_hash(&self.hash(), self.local.now())
    }

    /// Whether an earlier call may have delivered it.
    pub(super) fn is_remembered(&self) -> bool {
        self.remembered().is_some()
    }

    /// Whether an upstream has accepted it.
    pub(super) fn was_accepted(&self) -> bool {
        self.memory.was_accepted(&self.hash(), self.local.now())
    }

    /// Resolves when an upstream refuses the transaction while others may have it.
    pub(super) async fn refused(&self) {
        self.refused.notified().await;
    }
}

impl Drop for Delivery<'_> {
    /// Doubts outlive the call, so that a caller who sends the transaction again gets the right answer.
    fn drop(&mut self) {
        if self.is_accepted.get() {
            return;
        }
        if let Some(upstream) = self.doubted.borrow().first() {
            self.memory.doubted(self.hash(), *upstream, self.local.now());
        }
    }
}
