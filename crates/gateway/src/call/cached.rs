//! How calls use the cache ([`crate::cache`]).
//!
//! A call first looks into the first level, with the branch and the heads that were served before its
//! tags were bound. A hit is attached to the caller's answer by reference. After a miss the call joins
//! the flight of its key; the leader ([`leader`]) runs detached from the caller that started it, and
//! lands one outcome for all: a result, an error object of an upstream, or an error of the gateway. An
//! outcome that is not stored is shared with those that waited for it, and with nobody else.
//!
//! A null that another call asked for may be older than this call: what it is about may have appeared in
//! between, perhaps through the same client. The same holds for a transaction that was pending, and for
//! an empty answer about something named by its hash. And an error that may be gone when the call is
//! made again, such as a timeout, came about in the first caller's time, not in this one's. So a call
//! that has waited for such an outcome of someone else's joins once more; the second flight has started
//! after the call.

mod leader;

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_registry::settings::{CacheSettings, Limits, TimesToLive};

use super::attempt::JudgedResponse;
use super::dispatch::Dispatched;
use super::heads;
use super::message::Summary;
use super::relay;
use super::target::Target;
use super::together;
use crate::cache::class::{Moment, Reason};
use crate::cache::flight::{FlightLimits, Flights, Join, Waiter};
use crate::cache::shared::Shared as SecondLevel;
use crate::cache::store::StoreLimits;
use crate::cache::{Asked, Cache, Found, Ticket};
use crate::error::{CallError, Error, ErrorKind, RetryAfter};
use crate::local::Local;
use crate::observe::stats::{CacheUse, RelayOutcome};
use crate::observe::traces::Context;
use crate::payload::{COPIED_MAX, Composer, Held};
use crate::permit::{Purpose, Share};
use leader::Leading;

/// The cache of a process and the flights of its calls.
pub(crate) struct Caching {
    /// `None`: the cache is off.
    pub(crate) cache: Option<Cache>,
    pub(crate) flights: Arc<Flights<Arc<Landed>>>,
}

impl Caching {
    /// The cache with these settings, and perhaps a second level.
    pub(crate) fn new(
        settings: &CacheSettings,
        limits: &Limits,
        shared: Option<Arc<dyn SecondLevel>>,
    ) -> Caching {
        let store = StoreLimits { bytes: settings.memory, entry: settings.entry };
        let flights = FlightLimits { flights: limits.calls, waiters: limits.calls };
        Caching {
            cache: store.is_possible().then(|| Cache::new(store, shared)),
            flights: Flights::new(flights),
        }
    }

    /// The second level, if there is one.
    pub(crate) fn second_level(&self) -> Option<&Arc<dyn SecondLevel>> {
        self.cache.as_ref()?.shared()
    }
}

/// The outcome of a flight.
#[derive(Debug)]
pub(crate) struct Landed {
    outcome: Result<Relayed, Error>,
    /// How the leader got it.
    by: CacheUse,
    attempts: u32,
    /// The ids of the upstreams that were asked.
    upstreams: Vec<String>,
    upstream_status: Option<u16>,
    /// The span of the leader's call, if it is recorded.
    span: Option<Context>,
    /// See [`heads::Read`].
    is_open: bool,
    /// Whether a call that was made after the leader's may have another outcome.
    is_early: bool,
}

/// An upstream's answer, as several callers share it.
#[derive(Debug)]
pub(super) struct Relayed {
    /// The value of `result` or `error`.
    value: Bytes,
    status: u16,
    outcome: RelayOutcome,
    error: CallError,
    retry_after: Option<RetryAfter>,
}

impl Relayed {
    /// A result from the cache, or one that the gateway has written.
    fn stored(value: Bytes) -> Relayed {
        let (outcome, error) = (RelayOutcome::Ok, CallError { kind: "ok", code: 0 });
        Relayed { value, status: 200, outcome, error, retry_after: None }
    }

    fn of(judged: JudgedResponse, local: &Local) -> Relayed {
        let (status, retry_after) = (judged.status, judged.retry_after);
        let (outcome, error) = (judged.outcome(), judged.error());
        Relayed { value: judged.into_value(local), status, outcome, error, retry_after }
    }
}

/// The answer to a call, from the cache or from an upstream.
pub(super) enum Answered {
    /// An upstream's answer to this call alone.
    Judged(JudgedResponse),
    /// A stored result.
    Stored(Bytes),
    /// The outcome of a flight, which is not an error of the gateway.
    Landed(Arc<Landed>),
}

impl Answered {
    fn relayed(&self) -> Option<&Relayed> {
        match self {
            Answered::Landed(landed) => landed.outcome.as_ref().ok(),
            _ => None,
        }
    }

    /// The result of an upstream's answer; `None` for a stored one.
    pub(super) fn relayed_result(&self) -> Option<&[u8]> {
        match self {
            Answered::Judged(judged) => judged.result(),
            _ => self
                .relayed()
                .filter(|relayed| relayed.outcome == RelayOutcome::Ok)
                .map(|relayed| &*relayed.value),
        }
    }

    pub(super) fn outcome(&self) -> RelayOutcome {
        match self {
            Answered::Judged(judged) => judged.outcome(),
            _ => self.relayed().map_or(RelayOutcome::Ok, |relayed| relayed.outcome),
        }
    }

    /// The error returned to the caller, if the outcome is not a result.
    pub(super) fn error(&self) -> Option<CallError> {
        match self {
            Answered::Judged(judged) => Some(judged.error()),
            _ => self.relayed().map(|relayed| relayed.error),
        }
    }

    /// The HTTP status of the upstream.
    pub(super) fn status(&self) -> u16 {
        match self {
            Answered::Judged(judged) => judged.status,
            _ => self.relayed().map_or(200, |relayed| relayed.status),
        }
    }

    pub(super) fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Answered::Judged(judged) => judged.retry_after,
            _ => self.relayed()?.retry_after,
        }
    }

    /// Writes the answer with the caller's id. A long value is attached by reference.
    pub(super) fn write(self, local: &Local, id: Option<&[u8]>, out: &mut Composer) {
        let (member, value): (&[u8], Bytes) = match self {
            Answered::Judged(judged) => return judged.write(local, id, out),
            Answered::Stored(result) => (b"result", result),
            Answered::Landed(ref landed) => match &landed.outcome {
                Ok(relayed) if relayed.outcome == RelayOutcome::Ok => {
                    (b"result", relayed.value.clone())
                }
                Ok(relayed) => (b"error", relayed.value.clone()),
                Err(_) => unreachable!("errors of the gateway are returned as such"),
            },
        };
        relay::write_member(id, member, value, out);
    }
}

/// Answers a call from the cache, or relays it. `given` are its parameters as its caller wrote them.
///
/// # Errors
/// The call was relayed, and there is no answer to return.
#[inline]
pub(super) async fn answered<'a>(
    target: &Target<'a>,
    dispatched: Dispatched<'_>,
    given: Option<&[u8]>,
    moment: Moment,
    summary: &mut Summary<'a>,
) -> Result<Answered, Error> {
    let local = &*target.worker.local;
    let question = Question::of(target, &dispatched, given, moment);
    let reason = match &question {
        Err(reason) => *reason,
        Ok(question) => {
            let mut buffer = local.take_buffer();
            let asked = question.asked();
            let found = question.cache.find(&asked, local.recent(), &mut buffer);
            local.give_buffer(buffer);
            match found {
                Found::Hit(result) => {
                    summary.cache = Some(CacheUse::Hit);
                    return Ok(Answered::Stored(charged(local, result)?));
                }
                Found::Miss(ticket) => {
                    let missed = missed(target, question, ticket, summary);
                    return Box::pin(missed).await;
                }
                Found::Bypass(reason) => reason,
            }
        }
    };
    bypassed(target, reason);
    let read = heads::read(target, dispatched, given, summary).await?;
    Ok(Answered::Judged(read.judged))
}

/// Counts a call that bypasses the cache.
pub(super) fn bypassed(target: &Target<'_>, reason: Reason) {
    target.service.calls.of(target.worker.local.number).bypassed[reason as usize].add(1);
}

/// What a call asks the cache for.
struct Question<'r> {
    cache: &'r Cache,
    space: &'r str,
    dispatched: Dispatched<'r>,
    /// Its parameters as its caller wrote them.
    given: Option<&'r [u8]>,
    moment: Moment,
    times: TimesToLive,
    sees_branches: bool,
}

impl<'r> Question<'r> {
    /// The question of a call, unless the cache is not used for it.
    fn of(
        target: &'r Target<'_>,
        dispatched: &Dispatched<'r>,
        given: Option<&'r [u8]>,
        moment: Moment,
    ) -> Result<Question<'r>, Reason> {
        let Some(cache) = &target.worker.shared.caching.cache else { return Err(Reason::Off) };
        if target.no_cache {
            return Err(Reason::Asked);
        }
        if target.passed.may_change_answer() {
            return Err(Reason::Headers);
        }
        let service = &**target.service;
        let place = usize::from(together::needed(target, dispatched)) - 1;
        let Some(space) = service.spaces.get(place) else { return Err(Reason::NoChain) };
        let times = target.view.settings.cache.times.of(&service.model);
        let sees_branches = service.sees_branches;
        Ok(Question { cache, space, dispatched: *dispatched, given, moment, times, sees_branches })
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            space: self.space,
            method: self.dispatched.method,
            params: self.dispatched.call.params,
            moment: self.moment,
            times: &self.times,
            sees_branches: self.sees_branches,
        }
    }
}

/// Charges for a long result for as long as callers' answers refer to it: it may be evicted before.
///
/// # Errors
/// Memory is used up.
fn charged(local: &Local, result: Bytes) -> Result<Bytes, Error> {
    if result.len() <= COPIED_MAX {
        return Ok(result);
    }
    let mut share = local.share(Purpose::Long);
    share.add(result.len() as u64)?;
    Ok(Bytes::from_owner(Charged { result, _share: share }))
}

/// A result and the share that covers it.
struct Charged {
    result: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.result
    }
}

/// Answers a call that is not in the first level.
async fn missed<'a>(
    target: &Target<'a>,
    question: &Question<'_>,
    ticket: Ticket,
    summary: &mut Summary<'a>,
) -> Result<Answered, Error> {
    let flights = &target.worker.shared.caching.flights;
    let key = ticket.flight(&question.asked());
    let mut has_waited = false;
    summary.cache = Some(CacheUse::Miss);
    loop {
        let (landed, is_own) = match flights.join(key) {
            Join::Full => break,
            Join::Lead(leader, waiter) => {
                let Some(leading) = Leading::new(target, question) else { break };
                tokio::task::spawn_local(leading.run(ticket, leader));
                (wait(target, waiter).await?, true)
            }
            Join::Wait(waiter) => (wait(target, waiter).await?, false),
        };
        // Its leader ended without an outcome: a worker is shutting down.
        let Some(landed) = landed else { break };
        let is_others = landed.is_open && !is_own && !question.dispatched.named.is_bound;
        if is_others {
            // It asked for the head of any upstream, and this call for the block by its number.
            break;
        }
        if landed.is_early && !is_own && !has_waited {
            has_waited = true;
            continue;
        }
        return taken(target, landed, is_own, summary);
    }
    let read = heads::read(target, question.dispatched, question.given, summary).await?;
    Ok(Answered::Judged(read.judged))
}

/// Waits for a flight until the call's deadline.
///
/// # Errors
/// The deadline has passed.
async fn wait(
    target: &Target<'_>,
    waiter: Waiter<Arc<Landed>>,
) -> Result<Option<Arc<Landed>>, Error> {
    let local = &target.worker.local;
    let until = target.start + target.service.model.timeout;
    let mut timer = local.take_timer(until);
    let landed = timer.limit(local.instant(until), waiter.wait()).await;
    local.give_timer(timer);
    landed.map_err(|_| {
        let message = "timed out waiting for the answer to the same call of another caller";
        Error::new(ErrorKind::TimedOut, message)
    })
}

/// The answer of a flight for one of its callers.
fn taken<'a>(
    target: &Target<'a>,
    landed: Arc<Landed>,
    is_own: bool,
    summary: &mut Summary<'a>,
) -> Result<Answered, Error> {
    summary.cache = Some(if is_own { landed.by } else { CacheUse::Coalesced });
    if !is_own {
        summary.flight = landed.span;
    } else {
        summary.attempts += landed.attempts;
        summary.upstream_status = landed.upstream_status;
        for id in &landed.upstreams {
            let mut routes = target.service.routes.iter();
            if let Some(route) = routes.find(|route| route.upstream.model.id == *id) {
                summary.add_upstream(&route.upstream.model.id);
            }
        }
    }
    match &landed.outcome {
        Err(error) => Err(error.clone()),
        Ok(_) => Ok(Answered::Landed(landed)),
    }
}

/// A short result that the gateway has written.
fn written(text: String) -> Bytes {
    Held { bytes: text.into_bytes(), share: None }.into_bytes()
}
