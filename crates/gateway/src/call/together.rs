//! Calls that are sent to several upstreams at once: reads that they must agree on, and transactions
//! that all of them are to have.
//!
//! These attempts are asked for by configuration and draw on no budget. Each uses another upstream; a
//! connection that its upstream had closed is replaced once.
//!
//! # Agreement
//! A read is sent to as many upstreams as must agree. When they do not, or some fail, further ones are
//! asked until enough agree or none is left. Upstreams whose answers differ from the agreed one are
//! counted as dissenters, and parked if the service says so. What counts as the same is in
//! [`crate::agree`]. Reads about a node itself or its pending transactions are sent to one upstream.
//!
//! # Broadcast
//! A transaction is sent to all upstreams that can take calls. The first acceptance is the answer, once
//! the others have ended or [`GRACE`] has passed, so that they get the transaction, too.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use plimsoll_measure::Nanos;
use plimsoll_rpc::method::Method;
use plimsoll_rpc::request::Call;

use super::attempt::{self, JudgedResponse};
use super::dispatch::Dispatched;
use super::heads::Named;
use super::message::Summary;
use super::relay::{Target, not_routed};
use super::routing::{Picked, Tried};
use crate::agree::{Agreement, Answer};
use crate::error::{Error, ErrorKind};
use crate::observe::stats::RelayOutcome;
use crate::protocol::Category;
use crate::protocol::evm::block_param::{Block, BlockParam, Tag};
use crate::upstream::{Failure, Reuse};

/// How long an accepted transaction's answer waits for the other upstreams.
const GRACE: Nanos = Nanos::from_millis(100);

/// An attempt that has ended.
type Ended<'a> = (Picked<'a>, Result<JudgedResponse, Failure>);

async fn attempt<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    picked: Picked<'a>,
) -> Ended<'a> {
    let result = attempt::run(target, dispatched.call, picked, Reuse::Checked).await;
    match result {
        Err(failure) if failure.stale => {
            (picked, attempt::run(target, dispatched.call, picked, Reuse::New).await)
        }
        result => (picked, result),
    }
}

/// Picks an upstream that has not been picked.
fn pick<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    tried: &mut Tried,
    summary: &mut Summary<'a>,
) -> Result<Picked<'a>, ErrorKind> {
    let picked = target.service.pick(&dispatched.need(), tried, &target.worker.local)?;
    tried.add(picked.route);
    summary.add_attempt(&picked.route.upstream.model.id);
    Ok(picked)
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
    let mut tried = Tried::default();
    let mut running = FuturesUnordered::new();
    let mut answered: Vec<(Picked<'a>, JudgedResponse)> = Vec::new();
    let mut failure = None;
    loop {
        let answers: Vec<Answer<'_>> = answered.iter().map(|(_, one)| answer(one)).collect();
        let agreement = Agreement::of(&answers);
        if let Some(at) = agreement.answer(needed) {
            for dissenter in &agreement.dissenting {
                dissented(target, answered[*dissenter].0);
            }
            let (_, judged) = answered.swap_remove(at);
            summary.upstream_status = Some(judged.status);
            return Ok(judged);
        }
        while !agreement.is_possible(needed, running.len()) {
            match pick(target, dispatched, &mut tried, summary) {
                Ok(picked) => running.push(attempt(target, dispatched, picked)),
                Err(kind) if tried.is_empty() => {
                    return Err(not_routed(kind, target, &dispatched.call.method));
                }
                Err(_) => return Err(disagreed(agreement, needed, answered.len(), failure)),
            }
        }
        let local = &target.worker.local;
        let patience = local.instant(local.now() + target.service.model.patience());
        let Ok(next) = tokio::time::timeout_at(patience, running.next()).await else {
            // The slow ones may still answer.
            if let Ok(picked) = pick(target, dispatched, &mut tried, summary) {
                running.push(attempt(target, dispatched, picked));
            }
            continue;
        };
        match next {
            Some((picked, Ok(judged))) if says_something(&judged, dispatched.named) => {
                answered.push((picked, judged));
            }
            Some((_, Err(error))) => failure = Some(error),
            _ => {}
        }
    }
}

#[cold]
fn disagreed(
    agreement: Agreement,
    needed: usize,
    answered: usize,
    failure: Option<Failure>,
) -> Error {
    if let (0, Some(failure)) = (answered, failure) {
        return failure.into();
    }
    let agreeing = agreement.agreeing.len();
    let message = format!("{agreeing} of {answered} upstreams agree, {needed} must");
    Error::new(ErrorKind::NoAgreement, message)
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
        route.upstream.parked.park(Some(span), local.now());
    }
}

/// Whether an answer says something about the call, and not only about the upstream.
fn says_something(judged: &JudgedResponse, named: Named) -> bool {
    match judged.outcome() {
        RelayOutcome::Rpc(category) => !category.retryable() && category != Category::Unauthorized,
        _ => !(named.must_exist && judged.is_null()),
    }
}

/// Whether upstreams of one chain answer a call the same: not if it is about the node itself or the
/// transactions that it waits with.
pub(super) fn is_comparable(method: Option<Method>, call: &Call<'_>) -> bool {
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
    let mut refused = None;
    loop {
        match pick(target, dispatched, &mut tried, summary) {
            Ok(picked) => running.push(attempt(target, dispatched, picked)),
            Err(kind) => {
                refused.get_or_insert(kind);
                break;
            }
        }
    }
    let mut best: Option<JudgedResponse> = None;
    let mut failure = None;
    let mut until = target.start + target.service.model.timeout;
    let local = &target.worker.local;
    while let Ok(Some((_, result))) =
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
