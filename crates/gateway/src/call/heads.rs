//! How calls use the heads that a service serves ([`crate::heads`]).
//!
//! `eth_blockNumber` is relayed, so that an old number is not served while nothing works, and answered
//! with the served head. If the upstream's own is higher, all are asked for theirs at once. In other
//! calls, `latest`, `safe` and `finalized` are replaced by the served numbers, and a call that names a
//! block goes to an upstream that has it. An upstream that answers null for such a block has not got
//! it yet: another one is tried, and if none has it, the call fails rather than going back.
//!
//! While no upstream has the served head (after a reorganisation, or because those that had it are
//! gone), calls that read state are sent with their tags, and answered from the head that the upstream
//! has: an answer from a slightly older state is better than none. A block by tag is not, because its
//! number would show that the head went back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use plimsoll_measure::Nanos;
use plimsoll_registry::model;
use plimsoll_rpc::method::Method;
use plimsoll_rpc::request::Call;
use tokio::sync::Notify;

use super::shared_heads::HeadLease;
use super::worker::Worker;
use crate::cache::class::Moment;
use crate::heads::{Board, Event, Heads, HeadsSettings, Report, Served};
use crate::observe::metrics::HeadFigures;
use crate::protocol::evm::block_param::{Block, BlockParam, Tag};

/// How long the first calls wait for the first report of an upstream.
pub(super) const FIRST_REPORT: Nanos = Nanos::from_secs(1);

/// Only blocks this far below the head are certain to exist at an upstream: older ones may be pruned.
const RECENT: u64 = 128;

/// The heads of a service.
pub(crate) struct ServiceHeads {
    pub(crate) board: Board,
    tracker: Mutex<Heads>,
    settings: HeadsSettings,
    /// The serial numbers of the upstreams, in the order of the service's routes.
    upstreams: Vec<u64>,
    first_report: Notify,
    /// The right to serve them, if replicas share them.
    pub(super) lease: HeadLease,
}

impl ServiceHeads {
    /// The heads of a service with these upstreams; what was served before is never taken back.
    pub(crate) fn new(
        service: &model::Service,
        upstreams: Vec<u64>,
        stale_after: Nanos,
        served: Served,
    ) -> ServiceHeads {
        /// Of chains whose block time is not known: every number is plausible after a while.
        const BLOCK_TIME_UNKNOWN: Nanos = Nanos::from_millis(250);
        let settings = HeadsSettings {
            lag_max: service.sync_allowance.unwrap_or(u64::MAX),
            block_time: service.block_time.unwrap_or(BLOCK_TIME_UNKNOWN),
            stale_after,
            grace: Nanos(stale_after.0 / 4),
        };
        let heads = Heads::new(upstreams.len(), settings, served);
        let board = Board::new(upstreams.len());
        board.publish(&heads);
        let tracker = Mutex::new(heads);
        let (first_report, lease) = (Notify::new(), HeadLease::default());
        ServiceHeads { board, tracker, settings, upstreams, first_report, lease }
    }

    /// Waits until the served heads may be used.
    #[inline]
    pub(super) async fn fresh(&self, worker: &Worker) {
        self.lease.fresh(worker).await;
    }

    /// What is served now: the branch first, so that an answer is never taken for one of a later branch.
    #[inline]
    pub(super) fn moment(&self) -> Moment {
        let branch = self.board.branch();
        Moment { branch, served: self.board.served() }
    }

    /// Serves the heads that replicas share.
    pub(super) fn share(&self, served: Served) {
        let mut tracker = self.tracker();
        tracker.raise(served);
        self.board.set_shared(true);
        self.board.raise(served);
        self.board.publish(&tracker);
        drop(tracker);
        self.first_report.notify_waiters();
    }

    /// Serves the heads of this process alone.
    pub(super) fn unshare(&self) {
        self.board.set_shared(false);
        self.board.publish(&self.tracker());
    }

    /// Whether these heads are also those of a service with these upstreams.
    pub(crate) fn serves(&self, settings: &HeadsSettings, upstreams: &[u64]) -> bool {
        self.settings == *settings && self.upstreams == upstreams
    }

    /// How heads are judged.
    pub(crate) fn settings(&self) -> HeadsSettings {
        self.settings
    }

    /// Takes an upstream's report, and publishes what follows.
    pub(super) fn report(&self, upstream: usize, report: &Report, now: Nanos) -> Vec<Event> {
        let mut tracker = self.tracker();
        let events = tracker.report(upstream, report, now);
        self.board.publish(&tracker);
        drop(tracker);
        self.first_report.notify_waiters();
        events
    }

    /// Passes time, and publishes what follows.
    pub(super) fn pass(&self, now: Nanos) -> Vec<Event> {
        let mut tracker = self.tracker();
        let events = tracker.pass(now);
        self.board.publish(&tracker);
        events
    }

    /// The tracker, for the keeper and for pages.
    pub(crate) fn tracker(&self) -> MutexGuard<'_, Heads> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The figures for the metrics page.
    pub(crate) fn figures(&self) -> HeadFigures {
        let Served { latest, safe, finalized } = self.board.served();
        HeadFigures {
            served: [latest, safe, finalized],
            is_held: self.board.is_held(),
            reorganisations: self.tracker().reorganisations(),
        }
    }

    /// Waits for the first report if the gateway has just started.
    async fn known(&self, worker: &Worker) {
        let until = worker.local.instant(FIRST_REPORT);
        if worker.local.now() < FIRST_REPORT {
            let reported = self.first_report.notified();
            if self.board.head(Tag::Latest).is_none() {
                // Without a report, calls are relayed as they are.
                let _ = tokio::time::timeout_at(until, reported).await;
            }
        }
    }
}

/// The block that a call names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Named {
    /// An upstream must have the block with this number.
    pub(super) number: Option<u64>,
    /// Whether the block is named by a tag that was replaced.
    pub(super) is_bound: bool,
    /// Whether null means that the upstream does not have the block.
    pub(super) must_exist: bool,
    /// The result to answer with instead of the upstream's: the served head.
    pub(super) height: Option<u64>,
}

/// Replaces the tags of a call by the served numbers. The new parameters are appended to `params`, which
/// stays empty if nothing changes.
pub(super) async fn bind(
    worker: &Worker,
    heads: &ServiceHeads,
    method: Method,
    call: &Call<'_>,
    params: &mut Vec<u8>,
) -> Named {
    let param = BlockParam::of(method);
    let is_number = call.method == "eth_blockNumber";
    if param == BlockParam::None && !is_number {
        return Named::default();
    }
    if heads.board.head(Tag::Latest).is_none() {
        Box::pin(heads.known(worker)).await;
    }
    let Some(latest) = heads.board.head(Tag::Latest) else {
        return Named::default();
    };
    if is_number {
        return Named { height: Some(latest), ..Named::default() };
    }
    let Some(given) = call.params else { return Named::default() };
    let shows_number = shows_number(&call.method);
    let is_held = heads.board.is_held();
    let mut named = Named::default();
    for block in param.blocks(Some(given)) {
        let number = match block {
            Block::Tag(tag) => heads.board.head(tag),
            Block::Number(number) if number <= latest => Some(number),
            _ => None,
        };
        named.is_bound |= matches!(block, Block::Tag(_)) && number.is_some();
        named.number = named.number.max(number);
    }
    if is_held && !shows_number && named.is_bound {
        return Named::default();
    }
    if named.is_bound {
        param.bind(given, |tag| heads.board.head(tag), params);
    }
    let is_recent = named.number.is_some_and(|number| number + RECENT >= latest);
    named.must_exist = shows_number && is_recent;
    named
}

/// Whether the result shows the block's number, or is null only if the block does not exist.
fn shows_number(method: &str) -> bool {
    matches!(
        method,
        "eth_getBlockByNumber"
            | "eth_getHeaderByNumber"
            | "eth_getBlockReceipts"
            | "eth_getBlockTransactionCountByNumber"
            | "eth_getUncleCountByBlockNumber"
    )
}
