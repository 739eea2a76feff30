//! Dispatches a call: attempts, retries and hedges, of which one answers.
//!
//! # One mechanism
//! A call is a race of attempts. It starts with one. Another one joins, on an upstream that has not
//! been tried,
//! - when an attempt fails in a way that another upstream may not (**retry**);
//! - when no attempt has ended after the usual latency (**hedge**);
//! - when an attempt is late ([`super::lateness`]; **retry**, but the late attempt goes on: it may still
//!   be the only one to answer).
//!
//! The first acceptable answer wins, and the others are cancelled. All attempts share the call's
//! deadline.
//!
//! # Limits
//! Retries and hedges draw on the service's budgets. An attempt that provably never reached its
//! upstream does not: it is no load for the upstream. A call that may not be repeated is sent again
//! only after such an attempt, or if the upstream refused it (a limit, missing credentials).
//! A call ends at the latest when it has tried each upstream once.
//!
//! An attempt for which all upstreams are at their limit waits for a slot ([`overload`]), except a hedge.
//!
//! A retry that the budget refuses is offered again ([`race`]), as long as an upstream is known to
//! work: failures come in bursts, and calls of the next seconds pay for them. From three quarters of the
//! timeout on, it may also use what hedges have left of their budget. In all, upstreams see at most
//! `1 + retry_budget + hedge_budget` times the calls, plus the floor.
//!
//! A request over a stale pooled connection is repeated on the same upstream, a few times for free
//! ([`super::routing::Service`]'s `may_repeat`), then as a retry.
//!
//! Cost: while the first attempt is answered in time, a call pays for two additions, one look at a
//! histogram and a timer that is rarely registered anew ([`crate::transport::timer`]).

mod race;

use std::pin::pin;

use plimsoll_measure::Nanos;
use plimsoll_rpc::method::{Class, Method};
use plimsoll_rpc::request::Call;

use super::attempt::{self, JudgedResponse};
use super::heads::Named;
use super::lateness::{InFlight, Patience};
use super::message::Summary;
use super::overload;
use super::routing::{Need, Picked, Tried};
use super::send::Delivery;
use super::target::Target;
use super::trace::CallTrace;
use crate::error::{Error, ErrorKind};
use crate::observe::stats::RelayOutcome;
use crate::protocol::Category;
use crate::upstream::slot::{Slot, SlotRef};
use crate::upstream::{Failure, Reuse};
use race::Race;

/// A call and how it may be handled.
#[derive(Clone, Copy)]
pub(super) struct Dispatched<'r> {
    pub(super) call: &'r Call<'r>,
    pub(super) method: Option<Method>,
    pub(super) class: Class,
    /// Whether the call may be sent again although it may have been executed.
    pub(super) is_repeatable: bool,
    /// The block that it names.
    pub(super) named: Named,
    /// The upstream that accepted the transaction that it is about.
    pub(super) prefer: Option<u64>,
    /// The transaction that it sends.
    pub(super) delivery: Option<&'r Delivery<'r>>,
    /// Its place in its trace.
    pub(super) trace: CallTrace,
}

impl<'r> Dispatched<'r> {
    /// What it requires of an upstream.
    pub(super) fn need(&self) -> Need<'r> {
        let Dispatched { call, method, class, named, prefer, .. } = *self;
        Need { class, method: &call.method, known: method, block: named.number, prefer }
    }

    /// Makes an attempt.
    #[inline]
    pub(super) async fn attempt(
        &self,
        target: &Target<'_>,
        picked: Picked<'_>,
        slot: &Slot<'_>,
        reuse: Reuse,
    ) -> Result<JudgedResponse, Failure> {
        let Some(delivery) = self.delivery else {
            return attempt::run(target, self.call, (picked, slot), reuse, self.trace).await;
        };
        let upstream = picked.route.upstream.serial;
        delivery.started(upstream);
        let result = attempt::run(target, self.call, (picked, slot), reuse, self.trace).await;
        delivery.ended(upstream, &result);
        result
    }
}

/// An attempt that has ended.
struct Ended<'a> {
    picked: Picked<'a>,
    /// When it started.
    start: Nanos,
    is_hedge: bool,
    result: Result<JudgedResponse, Failure>,
}

/// What a call without an acceptable answer is answered with.
enum Fallback {
    Judged(JudgedResponse),
    Failed(Failure),
}

/// Attempts a call until it is answered or must not be retried.
///
/// # Errors
/// No attempt was answered, or there is no route.
#[inline]
pub(super) async fn dispatch<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    summary: &mut Summary<'a>,
) -> Result<JudgedResponse, Error> {
    let Dispatched { method, is_repeatable, named, .. } = dispatched;
    let (local, service) = (&*target.worker.local, &**target.service);
    let (picked, slot) = overload::admitted(target, &dispatched.need(), &Tried::default()).await?;
    service.state.called(local.recent());
    summary.add_attempt(&picked.route.upstream.model.id);
    let reuse = if is_repeatable { Reuse::Pooled } else { Reuse::Checked };
    let start = local.recent();
    let run = async {
        let result = dispatched.attempt(target, picked, &slot, reuse).await;
        Ended { picked, start, is_hedge: false, result }
    };
    let mut first = pin!(run);
    let mut in_flight = InFlight::new(picked, start, SlotRef::First(&slot));
    let has_others = is_repeatable && service.routes.len() > 1;
    let patience = Patience::of(target, method);
    let delay =
        if has_others { service.state.hedge_delay(method, service.model.timeout) } else { None };
    let until = start + delay.map_or(patience.learned, |delay| delay.min(patience.learned));
    let mut timer = local.take_timer(until);
    let mut ended = timer.limit(local.instant(until), first.as_mut()).await;
    local.give_timer(timer);
    if ended.is_err() && !has_others {
        in_flight.look_alone();
        ended = Ok(first.as_mut().await);
    }
    match ended {
        Ok(Ended { result: Ok(judged), .. }) if !is_retryable(&judged, named) => {
            summary.upstream_status = Some(judged.status);
            service.state.record(method, judged.at - start, judged.at);
            Ok(judged)
        }
        ended => {
            let race = Race::new(target, dispatched, reuse);
            Box::pin(race.run(in_flight, first, ended, summary)).await
        }
    }
}

/// Records it if an upstream does not have the block that a tag stands for; returns whether it does
/// not.
pub(super) fn denied(
    target: &Target<'_>,
    named: Named,
    picked: Picked<'_>,
    judged: &JudgedResponse,
) -> bool {
    let is_denied = named.is_bound && (judged.is_null() || is_missing(judged));
    if let Some(number) = named.number.filter(|_| is_denied) {
        target.service.denied(picked.route, number, judged.at);
    }
    is_denied
}

/// The error for a block that was served before and that no upstream has.
#[cold]
pub(super) fn behind(named: Named) -> Error {
    let number = named.number.unwrap_or_default();
    let message = format!("no upstream has block {number}, which was served before");
    Error::new(ErrorKind::Behind, message)
}

/// Whether an answer is that the block or its state is not there.
fn is_missing(judged: &JudgedResponse) -> bool {
    judged.outcome() == RelayOutcome::Rpc(Category::MissingData)
}

/// Whether another upstream may answer better.
#[inline]
fn is_retryable(judged: &JudgedResponse, named: Named) -> bool {
    match judged.outcome() {
        RelayOutcome::Rpc(category) => category.retryable(),
        _ => named.must_exist && judged.is_null(),
    }
}
