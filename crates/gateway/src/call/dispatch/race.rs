//! The race of a call's attempts, once the first one was not enough.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use plimsoll_measure::Nanos;
use plimsoll_rpc::method::Class;

use super::super::attempt::JudgedResponse;
use super::super::heads::Named;
use super::super::lateness::{InFlight, Patience};
use super::super::message::Summary;
use super::super::overload;
use super::super::routing::{Admitted, Picked, Tried};
use super::super::target::Target;
use super::{Dispatched, Ended, Fallback, behind, denied, is_missing, is_retryable};
use crate::error::{Error, ErrorKind};
use crate::meter::Kind;
use crate::observe::stats::{Extra, RelayOutcome};
use crate::protocol::Category;
use crate::transport::timer::Late;
use crate::upstream::Reuse;
use crate::upstream::slot::SlotRef;

/// A retry that the budget has refused.
struct Refused {
    /// When it is offered again.
    offer_at: Nanos,
    /// How long after the last offer that is.
    interval: Nanos,
}

impl Refused {
    /// The first interval: a budget gains a few retries in this time.
    const INTERVAL_MIN: Nanos = Nanos::from_millis(50);
    /// The longest interval.
    const INTERVAL_MAX: Nanos = Nanos::from_millis(800);
}

/// The wait for a slot.
type Waiting<'r, 'a> = LocalBoxFuture<'r, Result<Admitted<'a>, Error>>;

/// What a race has waited for.
enum Next<'a> {
    Ended(Ended<'a>),
    /// A retry has a slot, or was refused.
    Waited(Extra, Result<Admitted<'a>, Error>),
    /// A further attempt is due.
    Due,
}

/// A call whose first attempt was not enough.
pub(super) struct Race<'r, 'a> {
    target: &'r Target<'a>,
    dispatched: Dispatched<'r>,
    reuse: Reuse,
    tried: Tried,
    running: FuturesUnordered<LocalBoxFuture<'r, Ended<'a>>>,
    patience: Patience,
    in_flight: Vec<InFlight<'r, 'a>>,
    /// A retry that the budget has refused so far.
    refused: Option<Refused>,
    /// A retry that waits for a slot, and why it is made.
    waiting: Option<(Extra, Waiting<'r, 'a>)>,
    /// Why a retry got no slot.
    shed: Option<Error>,
    /// Attempts that ended with an error object that another upstream may not repeat.
    doubtful: Vec<Picked<'a>>,
    fallback: Option<Fallback>,
    /// Whether the fallback is that the block that a tag stands for does not exist.
    is_denied: bool,
    is_hedged: bool,
    /// Whether a transaction was refused; only the attempts in flight may still be answered better.
    is_settling: bool,
}

impl<'r, 'a> Race<'r, 'a> {
    pub(super) fn new(
        target: &'r Target<'a>,
        dispatched: Dispatched<'r>,
        reuse: Reuse,
    ) -> Race<'r, 'a> {
        Race {
            target,
            dispatched,
            reuse,
            tried: Tried::default(),
            running: FuturesUnordered::new(),
            patience: Patience::of(target, dispatched.method),
            in_flight: Vec::new(),
            refused: None,
            waiting: None,
            shed: None,
            doubtful: Vec::new(),
            fallback: None,
            is_denied: false,
            is_hedged: false,
            is_settling: false,
        }
    }

    /// Goes on from the first attempt, which has ended or is late.
    pub(super) async fn run(
        mut self,
        in_flight: InFlight<'r, 'a>,
        first: Pin<&'r mut (dyn Future<Output = Ended<'a>> + 'r)>,
        ended: Result<Ended<'a>, Late>,
        summary: &mut Summary<'a>,
    ) -> Result<JudgedResponse, Error> {
        self.tried.add(in_flight.picked.route);
        self.in_flight.push(in_flight);
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
            let local = &self.target.worker.local;
            if self.running.is_empty() && self.waiting.is_none() {
                let Some(offer_at) = self.waits_until() else { return self.conclude() };
                tokio::time::sleep_until(local.instant(offer_at)).await;
                self.late(summary);
                continue;
            }
            if self.is_denied
                && self.refused.is_none()
                && self.waiting.is_none()
                && self.in_flight.iter().all(|one| one.is_late)
            {
                // The upstream that answered may have the block a moment later; the late ones may hang.
                return self.conclude();
            }
            match self.next(self.due()).await {
                Next::Ended(ended) => {
                    if let Some(judged) = self.ended(ended, summary) {
                        return Ok(judged);
                    }
                }
                Next::Waited(extra, Ok(admitted)) => {
                    if !self.is_settling {
                        self.admitted(extra, admitted, summary);
                    }
                }
                Next::Waited(_, Err(error)) => self.shed = Some(error),
                Next::Due => self.late(summary),
            }
        }
    }

    /// Waits for an attempt to end, a slot, or the time at which a further attempt is due.
    async fn next(&mut self, due: Option<Nanos>) -> Next<'a> {
        let Race { target, running, waiting, .. } = self;
        let next = poll_fn(|context| {
            if let Some((extra, wait)) = waiting
                && let Poll::Ready(waited) = wait.as_mut().poll(context)
            {
                let extra = *extra;
                *waiting = None;
                return Poll::Ready(Next::Waited(extra, waited));
            }
            match running.poll_next_unpin(context) {
                Poll::Ready(Some(ended)) => Poll::Ready(Next::Ended(ended)),
                _ => Poll::Pending,
            }
        });
        let Some(due) = due else { return next.await };
        let due = target.worker.local.instant(due);
        tokio::time::timeout_at(due, next).await.unwrap_or(Next::Due)
    }

    /// Makes an attempt that was given a slot.
    fn admitted(&mut self, extra: Extra, admitted: Admitted<'a>, summary: &mut Summary<'a>) {
        let local = &self.target.worker.local;
        self.target.service.calls.of(local.number).extra[extra as usize].add(1);
        if extra == Extra::Hedge {
            local.meter.hedge(self.target.account, Kind::Call(self.dispatched.method));
        }
        self.tried.add(admitted.0.route);
        let (picked, slot) = admitted;
        let slot = SlotRef::Further(Rc::new(slot));
        self.begin((picked, slot), self.reuse, extra == Extra::Hedge, extra, summary);
    }

    /// Until when to wait for a retry that the budget has refused, if nothing else is left to wait for.
    fn waits_until(&self) -> Option<Nanos> {
        let Race { target, dispatched, tried, .. } = self;
        let offer_at = self.refused.as_ref()?.offer_at;
        let now = target.worker.local.now();
        let is_hopeful = target.service.has_working(&dispatched.need(), tried, now);
        (is_hopeful && offer_at < self.deadline()).then_some(offer_at)
    }

    /// When a further attempt is due if none ends before.
    fn due(&self) -> Option<Nanos> {
        let refused = self.refused.as_ref().map(|refused| refused.offer_at);
        if !self.dispatched.is_repeatable {
            return refused;
        }
        let service = &self.target.service;
        let late = self.in_flight.iter().filter_map(|one| one.due(self.patience)).min();
        let delay = service.state.hedge_delay(self.dispatched.method, service.model.timeout);
        let hedge = match (self.is_hedged, self.in_flight.first(), delay) {
            (false, Some(first), Some(delay)) => Some(first.start + delay),
            _ => None,
        };
        [late, hedge, refused].into_iter().flatten().min()
    }

    /// Starts a further attempt, because those in flight are late or a refused one is due.
    fn late(&mut self, summary: &mut Summary<'a>) {
        let (target, patience) = (self.target, self.patience);
        let now = target.worker.local.now();
        let looks = self.in_flight.iter_mut().map(|one| one.look(target, patience, now));
        let became_late = looks.filter(|is_late| *is_late).count() > 0;
        let is_offered = self.refused.as_ref().is_some_and(|refused| now >= refused.offer_at);
        // A late attempt needs more than a hedge.
        self.is_hedged |= became_late;
        if became_late || is_offered {
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
        let place = self.in_flight.iter().position(|one| one.is(&picked, start));
        let slot = place.map(|place| self.in_flight.remove(place).slot);
        let is_stale = matches!(&result, Err(failure) if failure.stale);
        if let Some(slot) = slot.as_ref().filter(|_| !is_stale) {
            slot.release();
        }
        let now = target.worker.local.now();
        let mut is_denied = false;
        let (is_free, may_retry, same) = match &result {
            Ok(judged) => {
                summary.upstream_status = Some(judged.status);
                if !is_retryable(judged, self.dispatched.named) {
                    let judged = result.ok()?;
                    if self.is_early(&judged) {
                        self.is_settling = true;
                        self.fallback = Some(Fallback::Judged(judged));
                        return None;
                    }
                    self.won(&judged, start, is_hedge);
                    return Some(judged);
                }
                is_denied = denied(target, self.dispatched.named, picked, judged);
                if let RelayOutcome::Rpc(category) = judged.outcome()
                    && !category.is_callers_choice()
                {
                    self.doubtful.push(picked);
                }
                (false, self.dispatched.is_repeatable || self.is_unexecuted(judged), false)
            }
            Err(failure) => {
                summary.upstream_status = failure.status().or(summary.upstream_status);
                let is_repeatable = self.dispatched.is_repeatable || !failure.sent;
                let may_retry = match failure.kind {
                    ErrorKind::UpstreamLimited | ErrorKind::UpstreamDenied => true,
                    ErrorKind::AnswerTooLarge | ErrorKind::Busy | ErrorKind::Internal => false,
                    _ => is_repeatable,
                };
                (!failure.sent, may_retry, is_repeatable && target.repeats(failure))
            }
        };
        if let Some(slot) = slot.as_ref().filter(|_| !same || self.is_settling) {
            slot.release();
        }
        if self.is_settling {
            return None;
        }
        let is_better = !matches!(self.fallback, Some(Fallback::Judged(_)));
        match result {
            // That another one fails says nothing about the block.
            Ok(_) if self.is_denied => {}
            Ok(judged) => self.fallback = Some(Fallback::Judged(judged)),
            Err(failure) if is_better => self.fallback = Some(Fallback::Failed(failure)),
            Err(_) => {}
        }
        self.is_denied |= is_denied;
        if let Some(slot) = slot.filter(|_| same) {
            // A pooled connection had been closed: not the upstream's failure.
            self.begin((picked, slot), Reuse::New, is_hedge, Extra::Stale, summary);
        } else if may_retry && now < self.deadline() {
            self.start(if is_free { Extra::Elsewhere } else { Extra::Retry }, summary);
        }
        None
    }

    /// Whether an answer refuses a transaction that an attempt in flight may have delivered.
    fn is_early(&self, judged: &JudgedResponse) -> bool {
        let delivery = self.dispatched.delivery.filter(|_| !self.running.is_empty());
        delivery.is_some_and(|delivery| delivery.is_refusal(judged))
    }

    /// Whether an error object means that the upstream has not executed the call.
    fn is_unexecuted(&self, judged: &JudgedResponse) -> bool {
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
        let has_other = service.has_other(&need, &self.tried, now);
        if self.is_settling || self.waiting.is_some() || !has_other {
            self.refused = None;
            return;
        }
        let is_allowed = match extra {
            Extra::Retry => self.may_retry(now),
            Extra::Hedge => service.state.hedges.withdraw(now),
            Extra::Elsewhere | Extra::Stale => true,
        };
        if !is_allowed {
            if extra == Extra::Retry && !self.refuse(now) {
                return;
            }
            return counts.refused_extra[extra as usize].add(1);
        }
        self.refused = None;
        // A hedge must not end up on an upstream that is known to fail.
        match overload::at_once(self.target, &need, &self.tried) {
            Ok(admitted) => self.admitted(extra, admitted, summary),
            Err(ErrorKind::Overloaded) if extra != Extra::Hedge => {
                let (target, dispatched, tried) =
                    (self.target, self.dispatched, self.tried.clone());
                let wait =
                    async move { overload::awaited(target, &dispatched.need(), &tried).await };
                self.waiting = Some((extra, Box::pin(wait)));
            }
            Err(_) => {}
        }
    }

    /// Whether the budget allows a retry: also that of hedges, if little of the call's time is left.
    fn may_retry(&self, now: Nanos) -> bool {
        let service = &self.target.service;
        let is_last = now >= self.last_part();
        service.state.retries.withdraw(now)
            || is_last
                && service.has_working(&self.dispatched.need(), &self.tried, now)
                && service.state.may_retry_last(now)
    }

    /// When the last part of the call's time starts, in which its retry may use what hedges have left.
    fn last_part(&self) -> Nanos {
        self.target.start + Nanos(self.target.service.model.timeout.0 / 4 * 3)
    }

    /// Records that the budget has refused a retry; returns whether it is a new one.
    fn refuse(&mut self, now: Nanos) -> bool {
        let before = self.refused.as_ref().map(|refused| refused.interval);
        let interval = before.map_or(Refused::INTERVAL_MIN, |interval| interval + interval);
        // Several offers fit into the last part.
        let longest = Nanos(self.target.service.model.timeout.0 / 16);
        let interval = interval.min(Refused::INTERVAL_MAX).min(longest);
        // At random, so that calls that failed together do not come back together.
        let pause = interval.0 as f64 * (0.5 + self.target.worker.local.random() / 2.0);
        self.refused = Some(Refused { offer_at: now + Nanos(pause as u64), interval });
        before.is_none()
    }

    fn begin(
        &mut self,
        (picked, slot): (Picked<'a>, SlotRef<'r, 'a>),
        reuse: Reuse,
        is_hedge: bool,
        why: Extra,
        summary: &mut Summary<'a>,
    ) {
        summary.add_attempt(&picked.route.upstream.model.id);
        let target = self.target;
        let trace = self.dispatched.trace.because(why);
        let dispatched = Dispatched { trace, ..self.dispatched };
        let start = target.worker.local.recent();
        self.in_flight.push(InFlight::new(picked, start, slot.clone()));
        self.running.push(Box::pin(async move {
            let result = dispatched.attempt(target, picked, &slot, reuse).await;
            Ended { picked, start, is_hedge, result }
        }));
    }

    /// Records that an attempt has won, and what this says about the others.
    fn won(&mut self, judged: &JudgedResponse, start: Nanos, is_hedge: bool) {
        let target = self.target;
        let service = &target.service;
        let now = judged.at;
        let method = self.dispatched.method;
        service.state.record(method, now - start, now);
        // The losers would have taken longer. Late ones have failed rather than been slow.
        for loser in self.in_flight.iter().filter(|one| !one.is_late) {
            service.state.record(method, now - loser.start, now);
        }
        // They would have hung, if a later one had not been answered.
        for one in &mut self.in_flight {
            one.lost(target, now);
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
        let Named { is_bound, must_exist, .. } = self.dispatched.named;
        is_bound && must_exist && (judged.is_null() || is_missing(judged))
    }

    /// The answer when all attempts have ended without an acceptable one.
    fn conclude(self) -> Result<JudgedResponse, Error> {
        match self.fallback {
            // The head would have gone back to before the block was known.
            Some(Fallback::Judged(judged)) if self.is_bound_to_nothing(&judged) => {
                Err(behind(self.dispatched.named))
            }
            Some(Fallback::Judged(judged)) => Ok(judged),
            Some(Fallback::Failed(failure)) => Err(failure.into()),
            None => {
                let none = || Error::new(ErrorKind::Internal, "no attempt was made");
                Err(self.shed.unwrap_or_else(none))
            }
        }
    }
}
