//! Calls that are sent to several upstreams at once: reads that they must agree on, and transactions
//! that all of them are to have.
//!
//! These attempts are asked for by configuration and draw on no budget. Each uses another upstream. A
//! stale connection is replaced once, within the budgets of [`super::dispatch`].
//!
//! # Agreement
//! A read is sent to as many upstreams as must agree. When they do not, or some fail, further ones are
//! asked until enough agree or none is left, also when some are late ([`super::lateness`]). Upstreams
//! whose answers differ from the agreed one are counted as dissenters, and parked if the service says
//! so, unless the call depends on transactions that have not reached all of them. What counts as the same
//! is in [`crate::agree`]. Reads about a node itself or its pending transactions are sent to one upstream.
//!
//! # Broadcast
//! A transaction is sent to all upstreams that can take calls. The first acceptance is the answer, once
//! the others have ended or [`GRACE`] has passed, so that they get the transaction, too.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use plimsoll_measure::Nanos;
use plimsoll_rpc::method::{Class, Method};
use plimsoll_rpc::request::Call;

use super::attempt::JudgedResponse;
use super::dispatch::{self, Dispatched, behind};
use super::heads::Named;
use super::lateness::{InFlight, Patience};
use super::message::Summary;
use super::overload;
use super::relay::not_routed;
use super::routing::{Admitted, Picked, Tried};
use super::target::Target;
use crate::agree::{self, Agreement, Answer};
use crate::error::{Error, ErrorKind};
use crate::observe::stats::{Extra, RelayOutcome};
use crate::protocol::Category;
use crate::protocol::evm::block_param::{Block, BlockParam, Tag};
use crate::upstream::slot::{Slot, SlotRef};
use crate::upstream::{Failure, Reuse};

/// How long an accepted transaction's answer waits for the other upstreams.
const GRACE: Nanos = Nanos::from_millis(100);

/// An attempt that has ended, and when it started.
type Ended<'a> = (Picked<'a>, Nanos, Result<JudgedResponse, Failure>);

async fn attempt<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    picked: Picked<'a>,
    slot: &Slot<'_>,
    start: Nanos,
) -> Ended<'a> {
    let mut result = dispatched.attempt(target, picked, slot, Reuse::Checked).await;
    if let Err(failure) = &result
        && target.repeats(failure)
    {
        let trace = dispatched.trace.because(Extra::Stale);
        let dispatched = Dispatched { trace, ..dispatched };
        result = dispatched.attempt(target, picked, slot, Reuse::New).await;
    }
    (picked, start, result)
}

/// Picks an upstream that has not been picked and has a free slot.
fn pick<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    tried: &mut Tried,
    summary: &mut Summary<'a>,
) -> Result<Admitted<'a>, ErrorKind> {
    let admitted = overload::at_once(target, &dispatched.need(), tried)?;
    picked(&admitted, tried, summary);
    Ok(admitted)
}

/// Notes that an upstream was picked.
fn picked<'a>((picked, _): &Admitted<'a>, tried: &mut Tried, summary: &mut Summary<'a>) {
    tried.add(picked.route);
    summary.add_attempt(&picked.route.upstream.model.id);
}

/// Answers a read with what this many upstreams agree on.
///
/// # Errors
/// Too few answered, or they do not agree.
pub(super) async fn agreed<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    needed: usize,
    summary: &mut Summary<'a>,
) -> Result<JudgedResponse, Error> {
    let Dispatched { method, call, named, .. } = dispatched;
    let (local, state) = (&target.worker.local, &target.service.state);
    let patience = Patience::of(target, method);
    let is_standard = agree::is_standard(&call.method);
    let mut tried = Tried::default();
    let mut running = FuturesUnordered::new();
    let mut in_flight: Vec<InFlight<'a, 'a>> = Vec::new();
    let mut answered: Vec<(Picked<'a>, JudgedResponse)> = Vec::new();
    let mut failure = None;
    let mut is_denied = false;
    // Attempts beyond those that must agree, because others are late.
    let mut spare = 0;
    // One attempt at a time waits for a slot, while the others go on.
    let mut waiting: Option<LocalBoxFuture<'_, Result<Admitted<'a>, Error>>> = None;
    state.called(local.recent());
    let begun = async |picked, slot: Rc<Slot<'a>>, start| {
        attempt(target, dispatched, picked, &slot, start).await
    };
    loop {
        let answers: Vec<Answer<'_>> = answered.iter().map(|(_, one)| answer(one)).collect();
        let agreement = Agreement::of(&answers, is_standard);
        if let Some(at) = agreement.answer(needed) {
            if !depends_on_pending(&call.method) {
                for dissenter in &agreement.dissenting {
                    dissented(target, answered[*dissenter].0);
                }
            }
            let (_, judged) = answered.swap_remove(at);
            summary.upstream_status = Some(judged.status);
            return Ok(judged);
        }
        while waiting.is_none()
            && !agreement.is_possible(needed, running.len().saturating_sub(spare))
        {
            match pick(target, dispatched, &mut tried, summary) {
                Ok((picked, slot)) => {
                    let (start, slot) = (local.now(), Rc::new(slot));
                    let shared = SlotRef::Further(slot.clone());
                    in_flight.push(InFlight::new(picked, start, shared));
                    running.push(begun(picked, slot, start));
                }
                Err(ErrorKind::Overloaded) => {
                    let tried = tried.clone();
                    let wait =
                        async move { overload::awaited(target, &dispatched.need(), &tried).await };
                    waiting = Some(Box::pin(wait));
                }
                Err(kind) if tried.is_empty() => {
                    return Err(not_routed(kind, target, &call.method));
                }
                // The late ones may still answer.
                Err(_) if agreement.is_possible(needed, running.len()) => break,
                Err(_) if is_denied => return Err(behind(named)),
                Err(_) => return Err(disagreed(&agreement, needed, answered.len(), failure)),
            }
        }
        let due = in_flight.iter().filter_map(|one| one.due(patience)).min();
        let next = poll_fn(|context| {
            if let Some(wait) = &mut waiting
                && let Poll::Ready(waited) = wait.as_mut().poll(context)
            {
                return Poll::Ready(Err(waited));
            }
            match running.poll_next_unpin(context) {
                Poll::Ready(Some(ended)) => Poll::Ready(Ok(ended)),
                _ => Poll::Pending,
            }
        });
        let next = match due {
            None => Ok(next.await),
            Some(due) => tokio::time::timeout_at(local.instant(due), next).await,
        };
        let (picked, start, result) = match next {
            Ok(Ok(ended)) => ended,
            Ok(Err(waited)) => {
                waiting = None;
                let (admitted, start) = (waited?, local.now());
                picked(&admitted, &mut tried, summary);
                let (picked, slot) = admitted;
                let slot = Rc::new(slot);
                in_flight.push(InFlight::new(picked, start, SlotRef::Further(slot.clone())));
                running.push(begun(picked, slot, start));
                continue;
            }
            Err(_) => {
                let now = local.now();
                let late = in_flight.iter_mut().map(|one| one.look(target, patience, now));
                spare += late.filter(|is_late| *is_late).count();
                continue;
            }
        };
        let ended = in_flight.iter().position(|one| one.is(&picked, start));
        if ended.is_some_and(|at| in_flight.swap_remove(at).is_late) {
            spare -= 1;
        }
        match result {
            Ok(judged) => {
                state.record(method, judged.at - start, judged.at);
                if says_something(&judged, named) {
                    answered.push((picked, judged));
                } else {
                    is_denied |= dispatch::denied(target, named, picked, &judged);
                }
            }
            Err(error) => failure = Some(error),
        }
    }
}

#[cold]
fn disagreed(
    agreement: &Agreement,
    needed: usize,
    answered: usize,
    failure: Option<Failure>,
) -> Error {
    let agreeing = agreement.agreeing.len();
    let failed = failure.map_or(String::new(), |failure| format!("; {}", failure.message));
    let message = if answered < needed {
        format!("{answered} of the {needed} upstreams that must agree answered{failed}")
    } else {
        format!("{agreeing} of {answered} upstreams agree, {needed} must{failed}")
    };
    Error::new(ErrorKind::NoAgreement, message)
}

/// Whether what a node answers depends on the transactions that have reached it: honest nodes differ
/// until a block has settled it.
fn depends_on_pending(method: &str) -> bool {
    matches!(
        method,
        "eth_getTransactionByHash"
            | "eth_getTransactionReceipt"
            | "eth_getRawTransactionByHash"
            | "eth_getTransactionBySenderAndNonce"
            | "eth_pendingTransactions"
            | "eth_estimateGas"
            | "eth_createAccessList"
            | "eth_fillTransaction"
            | "debug_getRawTransaction"
    )
}

/// Counts an upstream whose answer differs from the agreed one.
#[cold]
fn dissented(target: &Target<'_>, picked: Picked<'_>) {
    let local = &target.worker.local;
    let (route, service) = (picked.route, &*target.service_id);
    route.relays.of(local.number).dissents.add(1);
    let upstream = &*route.upstream.model.id;
    tracing::warn!(upstream, service, "upstream {upstream} disagrees with the others");
    if let Some(span) = target.service.model.park_dissenters {
        route.upstream.parking.park(span, local.now());
    }
}

/// Whether an answer says something about the call, and not only about the upstream.
fn says_something(judged: &JudgedResponse, named: Named) -> bool {
    match judged.outcome() {
        RelayOutcome::Rpc(category) => !category.retryable() && category != Category::Unauthorized,
        _ => !(named.must_exist && judged.is_null()),
    }
}

/// How many upstreams must agree on the answer to a call; 1 if none need to.
#[inline]
pub(super) fn needed(target: &Target<'_>, dispatched: &Dispatched<'_>) -> u8 {
    if dispatched.class != Class::Read {
        return 1;
    }
    let Dispatched { method, call, .. } = *dispatched;
    let needed = target.agree.unwrap_or(&target.service.model.agree).of(&call.method);
    if needed > 1 && is_comparable(method, call) { needed } else { 1 }
}

/// Whether upstreams of one chain answer a call the same: not if it is about the node itself or the
/// transactions that it waits with.
fn is_comparable(method: Option<Method>, call: &Call<'_>) -> bool {
    const OWN: [&str; 9] = [
        "eth_accounts",
        "eth_blockNumber",
        "eth_coinbase",
        "eth_gasPrice",
        "eth_hashrate",
        "eth_maxPriorityFeePerGas",
        "eth_mining",
        "eth_syncing",
        "web3_clientVersion",
    ];
    let is_pending = || {
        let blocks = method.map(|method| BlockParam::of(method).blocks(call.params));
        blocks.into_iter().flatten().any(|block| block == Block::Tag(Tag::Pending))
    };
    let is_own = |prefix: &str| call.method.starts_with(prefix);
    !OWN.contains(&&*call.method) && !is_own("net_") && !is_own("txpool_") && !is_pending()
}

fn answer(judged: &JudgedResponse) -> Answer<'_> {
    match (judged.result(), judged.outcome()) {
        (Some(result), _) => Answer::Result(result),
        (None, RelayOutcome::Rpc(category)) => {
            Answer::Error { code: judged.code(), category, data: judged.error_data() }
        }
        (None, _) => Answer::Error { code: judged.code(), category: Category::Other, data: None },
    }
}

/// Sends a transaction to all upstreams.
///
/// # Errors
/// No upstream answered.
pub(super) async fn broadcast<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    is_accepted: impl Fn(&JudgedResponse) -> bool,
    summary: &mut Summary<'a>,
) -> Result<JudgedResponse, Error> {
    let mut tried = Tried::default();
    let mut running = FuturesUnordered::new();
    let local = &target.worker.local;
    let mut refused = None;
    let broadcast = async |(picked, slot): Admitted<'a>| {
        attempt(target, dispatched, picked, &slot, local.recent()).await
    };
    loop {
        match pick(target, dispatched, &mut tried, summary) {
            Ok(admitted) => running.push(broadcast(admitted)),
            Err(ErrorKind::Overloaded) if running.is_empty() => {
                let admitted = overload::awaited(target, &dispatched.need(), &tried).await?;
                picked(&admitted, &mut tried, summary);
                running.push(broadcast(admitted));
            }
            Err(kind) => {
                refused.get_or_insert(kind);
                break;
            }
        }
    }
    let mut best: Option<JudgedResponse> = None;
    let mut failure = None;
    let mut until = target.start + target.service.model.timeout;
    while let Ok(Some((.., result))) =
        tokio::time::timeout_at(local.instant(until), running.next()).await
    {
        match result {
            Ok(judged) if is_accepted(&judged) => {
                if !best.as_ref().is_some_and(&is_accepted) {
                    until = until.min(local.now() + GRACE);
                    best = Some(judged);
                }
            }
            Ok(judged) => best = best.or(Some(judged)),
            Err(error) => failure = Some(error),
        }
    }
    match (best, failure, refused) {
        (Some(judged), ..) => {
            summary.upstream_status = Some(judged.status);
            Ok(judged)
        }
        (None, Some(failure), _) => Err(failure.into()),
        (None, None, kind) => {
            let kind = kind.unwrap_or(ErrorKind::TimedOut);
            Err(not_routed(kind, target, &dispatched.call.method))
        }
    }
}
