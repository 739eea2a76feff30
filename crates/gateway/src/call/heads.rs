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

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_measure::Nanos;
use plimsoll_registry::model;
use plimsoll_rpc::method::Method;
use plimsoll_rpc::request::Call;
use tokio::sync::Notify;

use super::attempt::JudgedResponse;
use super::chain::parse_hex;
use super::dispatch::Dispatched;
use super::message::Summary;
use super::relay::relayed;
use super::shared_heads::HeadLease;
use super::target::Target;
use super::worker::Worker;
use crate::cache::class::Moment;
use crate::error::{Error, ErrorKind};
use crate::heads::{Board, Event, Floor, Heads, HeadsSettings, Report, Served};
use crate::observe::metrics::HeadFigures;
use crate::observe::stats::{Extra, RelayOutcome};
use crate::protocol::Category;
use crate::protocol::evm::block_param::{Block, BlockParam, Omitted, Tag};

/// How long the first calls wait for the first report of an upstream.
pub(super) const FIRST_REPORT: Nanos = Nanos::from_secs(1);

/// How long an answer waits until the block that it shows is served.
const SHOWN_WAIT: Nanos = Nanos::from_secs(1);

/// Only blocks this far below the head are certain to exist at an upstream: older ones may be pruned.
const RECENT: u64 = 128;

/// The heads of a service.
pub(crate) struct ServiceHeads {
    pub(crate) board: Board,
    tracker: Mutex<Heads>,
    settings: HeadsSettings,
    /// The serial numbers of the upstreams, in the order of the service's routes.
    upstreams: Vec<u64>,
    /// Each report of an upstream.
    reports: Notify,
    /// The right to serve them, if replicas share them.
    pub(super) lease: HeadLease,
}

impl ServiceHeads {
    /// The heads of a service with these upstreams; what was served before is never taken back.
    pub(crate) fn new(
        service: &model::Service,
        upstreams: Vec<u64>,
        stale_after: Nanos,
        floor: Arc<Floor>,
    ) -> ServiceHeads {
        /// Of chains whose block time is not known: every number is plausible after a while.
        const BLOCK_TIME_UNKNOWN: Nanos = Nanos::from_millis(250);
        let settings = HeadsSettings {
            lag_max: service.sync_allowance.unwrap_or(u64::MAX),
            block_time: service.block_time.unwrap_or(BLOCK_TIME_UNKNOWN),
            stale_after,
            grace: Nanos(stale_after.0 / 4),
        };
        let heads = Heads::new(upstreams.len(), settings, &floor);
        let board = Board::new(upstreams.len(), floor);
        let tracker = Mutex::new(heads);
        let (reports, lease) = (Notify::new(), HeadLease::default());
        ServiceHeads { board, tracker, settings, upstreams, reports, lease }
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

    /// Serves the heads that replicas share, which may be lower if they have been corrected.
    pub(super) fn share(&self, served: Served, is_corrected: bool, now: Nanos) {
        let writer = self.board.floor.writer();
        let mut tracker = self.tracker();
        if is_corrected {
            tracker.replace(served, now);
            self.lease.has_corrected(&tracker);
            self.board.replace(served, now);
        } else {
            if !self.lease.is_correcting(&tracker) {
                tracker.raise(served);
            }
            self.board.replace(self.board.served().highest(served), now);
        }
        self.board.set_shared(true);
        self.board.publish(&tracker, now);
        drop((tracker, writer));
        self.reports.notify_waiters();
    }

    /// Serves the heads of this process alone.
    pub(super) fn unshare(&self, now: Nanos) {
        let _writer = self.board.floor.writer();
        self.board.set_shared(false);
        self.board.publish(&self.tracker(), now);
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
        let events = self.update(now, |tracker| tracker.report(upstream, report, now));
        self.reports.notify_waiters();
        events
    }

    /// Passes time, and publishes what follows; reports are recent for `stale_after`.
    pub(super) fn pass(&self, stale_after: Nanos, now: Nanos) -> Vec<Event> {
        self.update(now, |tracker| {
            tracker.set_stale_after(stale_after);
            tracker.pass(now)
        })
    }

    /// Records that an upstream did not answer a check.
    pub(super) fn missed(&self, upstream: usize) {
        self.tracker().missed(upstream);
    }

    /// Records that an upstream does not have a block although it reported it.
    #[cold]
    pub(crate) fn denied(&self, upstream: usize, number: u64, now: Nanos) {
        self.update(now, |tracker| {
            tracker.denied(upstream, number, now);
            Vec::new()
        });
    }

    /// Changes what is known, and publishes it.
    fn update(&self, now: Nanos, change: impl FnOnce(&mut Heads) -> Vec<Event>) -> Vec<Event> {
        let floor = &self.board.floor;
        let _writer = floor.writer();
        let mut tracker = self.tracker();
        if !self.board.is_shared() {
            tracker.adopt(floor);
        }
        let events = change(&mut tracker);
        self.board.publish(&tracker, now);
        events
    }

    /// The tracker, for the keeper and for pages.
    pub(crate) fn tracker(&self) -> MutexGuard<'_, Heads> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The figures for the metrics page.
    pub(crate) fn figures(&self) -> HeadFigures {
        let Served { latest, safe, finalized } = self.board.served();
        let tracker = self.tracker();
        HeadFigures {
            served: [latest, safe, finalized],
            is_held: self.board.is_held(),
            reorganisations: tracker.reorganisations(),
            corrections: tracker.corrections(),
        }
    }

    /// Whether a head is served.
    pub(super) fn is_known(&self) -> bool {
        self.board.head(Tag::Latest).is_some()
    }

    /// Waits for the first head if the gateway has just started.
    async fn known(&self, worker: &Worker) {
        let until = worker.local.instant(FIRST_REPORT);
        while worker.local.now() < FIRST_REPORT {
            let reported = self.reports.notified();
            // Without a head, calls are relayed as they are.
            if self.is_known() || tokio::time::timeout_at(until, reported).await.is_err() {
                return;
            }
        }
    }

    /// Waits until the block that an answer shows is served, for a moment: a caller that has seen its
    /// transaction in a block finds the state of that block under `latest`.
    pub(super) async fn catch_up(&self, worker: &Worker, number: u64, ask: impl FnOnce()) {
        let is_served = || self.board.head(Tag::Latest).is_none_or(|latest| latest >= number);
        if is_served() {
            return;
        }
        ask();
        let until = worker.local.instant(worker.local.now() + SHOWN_WAIT);
        loop {
            let reported = self.reports.notified();
            if is_served() || tokio::time::timeout_at(until, reported).await.is_err() {
                return;
            }
        }
    }
}

/// The block in which the result shows a transaction.
pub(super) fn block_shown(method: &str, result: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"blockNumber\"";
    if !matches!(method, "eth_getTransactionReceipt" | "eth_getTransactionByHash") {
        return None;
    }
    let at = result.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let rest = result[at..].trim_ascii_start().strip_prefix(b":")?;
    let end = rest.iter().position(|byte| b",}".contains(byte))?;
    parse_hex(rest[..end].trim_ascii())
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
    /// Whether the call is about a head, and none was known yet.
    pub(super) is_unknown: bool,
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
    let is_number = matches!(&*call.method, "eth_blockNumber" | "erigon_blockNumber");
    if param == BlockParam::None && !is_number {
        return Named::default();
    }
    if !heads.is_known() {
        Box::pin(heads.known(worker)).await;
    }
    let Some(latest) = heads.board.head(Tag::Latest) else {
        let is_tag = |block| matches!(block, Block::Tag(_));
        let is_unknown = is_number || param.blocks(call.params).any(is_tag);
        return Named { is_unknown, ..Named::default() };
    };
    if is_number {
        // Erigon's takes a tag.
        let asked = BlockParam::Block(0, Omitted::Latest).blocks(call.params).next();
        let height = match asked.filter(|_| call.method == "erigon_blockNumber") {
            Some(Block::Tag(tag)) => heads.board.head(tag),
            Some(_) => None,
            None => Some(latest),
        };
        return Named { height, ..Named::default() };
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

/// The first pause before a call is repeated; each is twice as long.
const PAUSE: Nanos = Nanos::from_millis(20);

/// How often it is repeated.
const REPEATS_MAX: u32 = 7;

/// Whether a call failed only because its tag stands for a block that no upstream has found.
fn is_denied(judged: &Result<JudgedResponse, Error>, named: Named) -> bool {
    let missing = RelayOutcome::Rpc(Category::MissingData);
    named.is_bound
        && match judged {
            Ok(judged) => judged.outcome() == missing,
            Err(error) => error.kind == ErrorKind::Behind,
        }
}

/// Relays a read. Repeats one whose tag stands for a block that no upstream has found, although one has reported
/// it: that one is several nodes, of which another may have it. A call whose result does not show the
/// block's number is sent with its tag instead, as its caller wrote it (`given`). Repeats draw on the
/// retry budget.
#[inline]
pub(super) async fn read<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    given: Option<&[u8]>,
    summary: &mut Summary<'a>,
) -> Result<Read, Error> {
    let judged = relayed(target, dispatched, summary).await;
    if is_denied(&judged, dispatched.named) && dispatched.is_repeatable {
        return Box::pin(repeated(target, dispatched, given, judged, summary)).await;
    }
    Ok(Read { judged: judged?, is_open: false })
}

/// The answer to a read.
pub(super) struct Read {
    pub(super) judged: JudgedResponse,
    /// Whether its tag stood for the head of the upstream, and not for the one that is served.
    pub(super) is_open: bool,
}

#[cold]
async fn repeated<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    given: Option<&[u8]>,
    mut judged: Result<JudgedResponse, Error>,
    summary: &mut Summary<'a>,
) -> Result<Read, Error> {
    let (local, service) = (&target.worker.local, &**target.service);
    let counts = service.calls.of(local.number);
    let deadline = target.start + service.model.timeout;
    // Where several must agree, their own heads would differ.
    let is_open = !shows_number(&dispatched.call.method) && judged.is_ok();
    let call = dispatched.call;
    let given = Call { id: call.id, method: Cow::Borrowed(&call.method), params: given };
    let trace = dispatched.trace.because(Extra::Retry);
    let again = match is_open {
        true => Dispatched { call: &given, named: Named::default(), trace, ..dispatched },
        false => Dispatched { trace, ..dispatched },
    };
    for repeat in 0..REPEATS_MAX {
        let is_first = repeat == 0;
        if !(is_open && is_first) {
            let until = local.now() + Nanos(PAUSE.0 << repeat);
            if until >= deadline {
                break;
            }
            tokio::time::sleep_until(local.instant(until)).await;
        }
        if !service.state.retries.withdraw(local.now()) {
            counts.refused_extra[Extra::Retry as usize].add(1);
            continue;
        }
        counts.extra[Extra::Retry as usize].add(1);
        judged = relayed(target, again, summary).await;
        if is_open || !is_denied(&judged, again.named) {
            break;
        }
    }
    Ok(Read { judged: judged?, is_open })
}

/// Whether the result shows the block's number, or is null only if the block does not exist.
fn shows_number(method: &str) -> bool {
    matches!(
        method,
        "eth_getBlockByNumber"
            | "eth_getHeaderByNumber"
            | "erigon_getHeaderByNumber"
            | "eth_getTransactionReceiptsByBlock"
            | "ots_getBlockDetails"
            | "eth_getBlockReceipts"
            | "eth_getBlockTransactionCountByNumber"
            | "eth_getUncleCountByBlockNumber"
    )
}

#[cfg(test)]
mod tests {
    use super::block_shown;

    #[test]
    fn receipts_and_transactions_show_their_block() {
        let check = |method: &str, result: &str, shown: Option<u64>| {
            assert_eq!(block_shown(method, result.as_bytes()), shown, "{method} {result}");
        };
        let receipt = "eth_getTransactionReceipt";
        check(receipt, r#"{"blockNumber":"0x10","logs":[{"blockNumber":"0x10"}]}"#, Some(16));
        check(receipt, r#"{"a":1, "blockNumber" : "0xff" }"#, Some(255));
        check("eth_getTransactionByHash", r#"{"blockNumber":null,"hash":"0x1"}"#, None);
        check(receipt, "null", None);
        check(receipt, r#"{"blockNumber":"#, None);
        check("eth_getBlockByNumber", r#"{"blockNumber":"0x10"}"#, None);
    }
}
