//! Dispatches a call: attempts, retries and hedges, of which one answers.
//!
//! # One mechanism
//! A call is a race of attempts. It starts with one. Another one joins, on an upstream that has not
//! been tried,
//! - when an attempt fails in a way that another upstream may not (**retry**);
//! - when no attempt has ended after the usual latency (**hedge**);
//! - when an attempt has taken as long as the service's patience (**retry**, but the slow attempt goes
//!   on: it may still be the only one to answer).
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
//! Cost: while the first attempt is answered in time, a call pays for two additions, one look at a
//! histogram and a timer that is rarely registered anew ([`crate::transport::timer`]).

use std::pin::{Pin, pin};

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use plimsoll_measure::Nanos;
use plimsoll_rpc::method::{Class, Method};
use plimsoll_rpc::request::Call;

use super::attempt::{self, JudgedResponse};
use super::heads::Named;
use super::message::Summary;
use super::relay::{Target, not_routed};
use super::routing::{Need, Picked, Tried};
use crate::error::{Error, ErrorKind};
use crate::observe::stats::{Extra, RelayOutcome};
use crate::protocol::Category;
use crate::transport::timer::Late;
use crate::upstream::{Failure, Reuse};

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
}

impl<'r> Dispatched<'r> {
    /// What it requires of an upstream.
    pub(super) fn need(&self) -> Need<'r> {
        let Dispatched { call, class, named, prefer, .. } = *self;
        Need { class, method: &call.method, block: named.number, prefer }
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
    let Dispatched { call, method, is_repeatable, named, .. } = dispatched;
    let (local, service) = (&*target.worker.local, &**target.service);
    let picked = service.pick(&dispatched.need(), &Tried::default(), local);
    let picked: Picked<'a> = picked.map_err(|kind| not_routed(kind, target, &call.method))?;
    service.state.called(local.recent());
    summary.add_attempt(&picked.route.upstream.model.id);
    let reuse = if is_repeatable { Reuse::Pooled } else { Reuse::Checked };
    let start = local.recent();
    let run = async {
        let result = attempt::run(target, call, picked, reuse).await;
        Ended { picked, start, is_hedge: false, result }
    };
    let mut first = pin!(run);
    let others = usize::from(is_repeatable) * (service.routes.len() - 1);
    let ended = if others == 0 {
        Ok(first.as_mut().await)
    } else {
        let patience = service.model.patience();
        let delay = service.state.hedge_delay(method, service.model.timeout);
        let until = start + delay.map_or(patience, |delay| delay.min(patience));
        let mut timer = local.take_timer(until);
        let ended = timer.limit(local.instant(until), first.as_mut()).await;
        local.give_timer(timer);
        ended
    };
    match ended {
        Ok(Ended { result: Ok(judged), .. }) if !is_retryable(&judged, named) => {
            summary.upstream_status = Some(judged.status);
            service.state.record(method, judged.at - start, judged.at);
            Ok(judged)
        }
        ended => {
            let race = Race::new(target, dispatched, reuse);
            Box::pin(race.run(picked, start, first, ended, summary)).await
        }
    }
}

/// A call whose first attempt was not enough.
struct Race<'r, 'a> {
    target: &'r Target<'a>,
    dispatched: Dispatched<'r>,
    reuse: Reuse,
    tried: Tried,
    running: FuturesUnordered<LocalBoxFuture<'r, Ended<'a>>>,
    /// The attempts in flight: when they started, and whether each is known to be slow.
    started: Vec<(Picked<'a>, Nanos, bool)>,
    /// Attempts that ended with an error object that another upstream may not repeat.
    doubtful: Vec<Picked<'a>>,
    fallback: Option<Fallback>,
    is_hedged: bool,
}

impl<'r, 'a> Race<'r, 'a> {
    fn new(target: &'r Target<'a>, dispatched: Dispatched<'r>, reuse: Reuse) -> Race<'r, 'a> {
        Race {
            target,
            dispatched,
            reuse,
            tried: Tried::default(),
            running: FuturesUnordered::new(),
            started: Vec::new(),
            doubtful: Vec::new(),
            fallback: None,
            is_hedged: false,
        }
    }

    /// Goes on from the first attempt, which has ended or is late.
    async fn run(
        mut self,
        picked: Picked<'a>,
        start: Nanos,
        first: Pin<&'r mut (dyn Future<Output = Ended<'a>> + 'r)>,
        ended: Result<Ended<'a>, Late>,
        summary: &mut Summary<'a>,
    ) -> Result<JudgedResponse, Error> {
        self.tried.add(picked.route);
        self.started.push((picked, start, false));
        match ended {
            Ok(ended) => {
                if let Some(judged) = self.ended(ended, summary) {
                    return Ok(judged);
                }
            }
            Err(Late) => {
                self.running.push(Box::pin(first));
                self.late(summary);
            }
        }
        loop {
            if self.running.is_empty() {
                return self.conclude();
            }
            let local = &self.target.worker.local;
            let next = match self.due() {
                None => self.running.next().await,
                Some(due) => {
                    let next = self.running.next();
                    match tokio::time::timeout_at(local.instant(due), next).await {
                        Ok(next) => next,
                        Err(_) => {
                            self.late(summary);
                            continue;
                        }
                    }
                }
            };
            if let Some(judged) = next.and_then(|ended| self.ended(ended, summary)) {
                return Ok(judged);
            }
        }
    }

    /// When a further attempt is due if none ends before.
    fn due(&self) -> Option<Nanos> {
        let service = &self.target.service;
        let patience = service.model.patience();
        let slow = self.started.iter().filter(|(.., is_slow)| !is_slow);
        let slow = slow.map(|(_, start, _)| *start + patience).min();
        let delay = service.state.hedge_delay(self.dispatched.method, service.model.timeout);
        let hedge = match (self.is_hedged, self.started.first(), delay) {
            (false, Some((_, start, _)), Some(delay)) if self.dispatched.is_repeatable => {
                Some(*start + delay)
            }
            _ => None,
        };
        slow.filter(|_| self.dispatched.is_repeatable).into_iter().chain(hedge).min()
    }

    /// Starts a further attempt, because those in flight are late.
    fn late(&mut self, summary: &mut Summary<'a>) {
        let target = self.target;
        let service = &target.service;
        let now = target.worker.local.now();
        let patience = service.model.patience();
        let mut is_slow = false;
        for (picked, start, is_known) in &mut self.started {
            if !*is_known && now >= *start + patience {
                (*is_known, is_slow) = (true, true);
                // Reported now, because an upstream that hangs would be noticed only at the deadline.
                picked.route.failed(&target.service_id, picked.pass.take(), now);
            }
        }
        if is_slow {
            self.start(Extra::Retry, summary);
        } else if !self.is_hedged {
            self.is_hedged = true;
            self.start(Extra::Hedge, summary);
        }
    }

    /// Handles the end of an attempt; returns its answer if it is acceptable.
    fn ended(&mut self, ended: Ended<'a>, summary: &mut Summary<'a>) -> Option<JudgedResponse> {
        let Ended { picked, start, is_hedge, result } = ended;
        let target = self.target;
        let serial = picked.route.upstream.serial;
        self.started
            .retain(|(other, began, _)| other.route.upstream.serial != serial || *began != start);
        let (is_free, may_retry, same) = match &result {
            Ok(judged) => {
                summary.upstream_status = Some(judged.status);
                if !is_retryable(judged, self.dispatched.named) {
                    let judged = result.ok()?;
                    self.won(&judged, start, is_hedge);
                    return Some(judged);
                }
                if let RelayOutcome::Rpc(category) = judged.outcome()
                    && !category.is_callers_choice()
                {
                    self.doubtful.push(picked);
                }
                (false, self.dispatched.is_repeatable || self.is_refused(judged), false)
            }
            Err(failure) => {
                summary.upstream_status = failure.status().or(summary.upstream_status);
                let is_repeatable = self.dispatched.is_repeatable || !failure.sent;
                let may_retry = match failure.kind {
                    ErrorKind::UpstreamLimited | ErrorKind::UpstreamDenied => true,
                    ErrorKind::AnswerTooLarge | ErrorKind::Busy | ErrorKind::Internal => false,
                    _ => is_repeatable,
                };
                (!failure.sent, may_retry, failure.stale && is_repeatable)
            }
        };
        let is_better = !matches!(self.fallback, Some(Fallback::Judged(_)));
        match result {
            Ok(judged) => self.fallback = Some(Fallback::Judged(judged)),
            Err(failure) if is_better => self.fallback = Some(Fallback::Failed(failure)),
            Err(_) => {}
        }
        if same {
            // A pooled connection had been closed: not the upstream's failure.
            self.begin(picked, Reuse::New, is_hedge, summary);
        } else if may_retry && target.worker.local.now() < self.deadline() {
            self.start(if is_free { Extra::Elsewhere } else { Extra::Retry }, summary);
        }
        None
    }

    /// Whether an error object means that the upstream has not executed the call.
    fn is_refused(&self, judged: &JudgedResponse) -> bool {
        let is_filter = self.dispatched.class == Class::Filter;
        !is_filter
            && matches!(
                judged.outcome(),
                RelayOutcome::Rpc(
                    Category::RateLimited | Category::Unauthorized | Category::UnsupportedMethod
                )
            )
    }

    fn deadline(&self) -> Nanos {
        self.target.start + self.target.service.model.timeout
    }

    /// Starts an attempt on an upstream that has not been tried, if there is one and the budget
    /// allows it.
    fn start(&mut self, extra: Extra, summary: &mut Summary<'a>) {
        let (service, local) = (&**self.target.service, &*self.target.worker.local);
        let need = self.dispatched.need();
        let now = local.recent();
        let counts = service.calls.of(local.number);
        if !service.has_other(&need, &self.tried, now) {
            return;
        }
        let is_allowed = match extra {
            Extra::Retry => service.state.retries.withdraw(now),
            Extra::Hedge => service.state.hedges.withdraw(now),
            Extra::Elsewhere => true,
        };
        if !is_allowed {
            return counts.refused_extra[extra as usize].add(1);
        }
        // A hedge must not end up on an upstream that is known to fail.
        let Ok(picked) = service.pick(&need, &self.tried, local) else { return };
        counts.extra[extra as usize].add(1);
        self.tried.add(picked.route);
        self.begin(picked, self.reuse, extra == Extra::Hedge, summary);
    }

    fn begin(
        &mut self,
        picked: Picked<'a>,
        reuse: Reuse,
        is_hedge: bool,
        summary: &mut Summary<'a>,
    ) {
        summary.add_attempt(&picked.route.upstream.model.id);
        let (target, call) = (self.target, self.dispatched.call);
        let start = target.worker.local.recent();
        self.started.push((picked, start, false));
        self.running.push(Box::pin(async move {
            let result = attempt::run(target, call, picked, reuse).await;
            Ended { picked, start, is_hedge, result }
        }));
    }

    /// Records that an attempt has won, and what this says about the others.
    fn won(&mut self, judged: &JudgedResponse, start: Nanos, is_hedge: bool) {
        let service = &self.target.service;
        let now = judged.at;
        let method = self.dispatched.method;
        service.state.record(method, now - start, now);
        // The losers would have taken longer.
        for (_, start, _) in &self.started {
            service.state.record(method, now - *start, now);
        }
        for picked in self.doubtful.drain(..) {
            picked.route.failed(&self.target.service_id, picked.pass, now);
        }
        if is_hedge {
            service.calls.of(self.target.worker.local.number).hedges_won.add(1);
        }
    }

    /// Whether an answer to a call with a replaced tag is that the block does not exist.
    fn is_bound_to_nothing(&self, judged: &JudgedResponse) -> bool {
        let missing = RelayOutcome::Rpc(Category::MissingData);
        let Named { is_bound, must_exist, .. } = self.dispatched.named;
        is_bound && must_exist && (judged.is_null() || judged.outcome() == missing)
    }

    /// The answer when all attempts have ended without an acceptable one.
    fn conclude(self) -> Result<JudgedResponse, Error> {
        match self.fallback {
            // The head would have gone back to before the block was known.
            Some(Fallback::Judged(judged)) if self.is_bound_to_nothing(&judged) => {
                let number = self.dispatched.named.number.unwrap_or_default();
                let message = format!("no upstream has block {number}, which was served before");
                Err(Error::new(ErrorKind::Behind, message))
            }
            Some(Fallback::Judged(judged)) => Ok(judged),
            Some(Fallback::Failed(failure)) => Err(failure.into()),
            None => Err(Error::new(ErrorKind::Internal, "no attempt was made")),
        }
    }
}

/// Whether another upstream may answer better.
#[inline]
fn is_retryable(judged: &JudgedResponse, named: Named) -> bool {
    match judged.outcome() {
        RelayOutcome::Rpc(category) => category.retryable(),
        _ => named.must_exist && judged.is_null(),
    }
}
