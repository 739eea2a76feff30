//! Dispatches the arrivals that are due.
//!
//! Streams are served in order of due time, so that a late worker delays all of them alike.
//!
//! # Holding arrivals back
//! While as many requests are in flight as the plan allows, no arrival is taken from its source: the
//! schedule remembers them, so that a backlog of any length needs no memory. An arrival that was due
//! meanwhile counts as dispatched when it was due, or when the limit was reached: its lag is only the
//! worker's own. The rest is its wait. Arrivals that have not started when their stream ends are
//! unsent. Arrivals are held back in the same way while a [`Feed`](crate::feed::Feed) has no request
//! for them; that is lag, because the instrument's own input is late.

use super::{Dispatcher, MATERIAL};
use crate::arrival::Arrival;
use crate::feed::Supply;
use crate::judge::Cause;
use crate::source::Due;
use crate::system::System;
use plimsoll_measure::{ErrorClass, Nanos};
use plimsoll_plan::TimeoutFrom;

/// The state of holding arrivals back.
pub(super) struct Hold {
    /// Maximum number of requests in flight.
    max: usize,
    /// Since when arrivals that are due have been held back, if any are.
    since: Option<Nanos>,
    /// When the last arrival started.
    started_at: Nanos,
}

impl Hold {
    pub(super) fn new(max: usize) -> Hold {
        Hold { max, since: None, started_at: Nanos::ZERO }
    }
}

impl<S: System> Dispatcher<S> {
    /// Dispatches at most `most` due arrivals and returns their number.
    pub(crate) fn dispatch_due(&mut self, most: usize) -> usize {
        let dispatched = self.dispatch_most(most);
        self.flush_started();
        dispatched
    }

    fn dispatch_most(&mut self, most: usize) -> usize {
        for (allowance, source) in self.allowance.iter_mut().zip(&self.sources) {
            // Users whose requests fail at once are due again at once: each gets one turn.
            let ready = source.ready_len();
            *allowance = if ready > 0 { ready.min(most) } else { most };
        }
        let mut dispatched = 0;
        if let [only] = self.allowance.as_slice() {
            let most = *only;
            while dispatched < most && self.dispatch_next(0) {
                dispatched += 1;
            }
            return dispatched;
        }
        while dispatched < most
            && let Some(stream) = self.next_stream()
            && self.dispatch_next(stream)
        {
            self.allowance[stream] -= 1;
            dispatched += 1;
        }
        dispatched
    }

    /// The stream with the earliest due arrival.
    fn next_stream(&self) -> Option<usize> {
        let allowed = self.sources.iter().zip(&self.allowance).enumerate();
        let due = allowed.filter(|(_, (_, allowance))| **allowance > 0);
        let due = due.filter_map(|(stream, (source, _))| Some((source.next_at()?, stream)));
        due.min().map(|(_, stream)| stream)
    }

    #[inline]
    fn dispatch_next(&mut self, stream: usize) -> bool {
        self.dispatch_at(stream, self.system.now())
    }

    #[inline]
    pub(super) fn dispatch_at(&mut self, stream: usize, now: Nanos) -> bool {
        if self.is_full() && self.sources[stream].is_due(now) {
            self.hold(now);
        }
        if self.hold.since.is_some() {
            return self.dispatch_held(stream, now);
        }
        if self.feed.is_some() && !self.is_supplied(stream, now) {
            return false;
        }
        match self.sources[stream].pop(now) {
            Some(due) => {
                self.lag = now - due.scheduled_at;
                self.arrive(stream, due, now, now);
                true
            }
            None => false,
        }
    }

    /// Whether as many requests are in flight as the plan allows.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.arrivals.len() >= self.hold.max
    }

    /// Whether due arrivals are held back because too many requests are in flight.
    #[inline]
    pub(super) fn is_holding(&self) -> bool {
        self.hold.since.is_some()
    }

    /// Begins to hold arrivals back.
    fn hold(&mut self, now: Nanos) {
        if self.hold.since.is_none() {
            self.hold.since = Some(now);
            self.pools.iter_mut().for_each(|pool| pool.hold(now));
        }
    }

    /// Dispatches an arrival of a stream whose arrivals were held back.
    fn dispatch_held(&mut self, stream: usize, now: Nanos) -> bool {
        let is_over = self.sources[stream].planned_end().is_some_and(|end| now >= end);
        if self.is_full() && !is_over {
            return false;
        }
        if !is_over && self.feed.is_some() && !self.is_supplied(stream, now) {
            return false;
        }
        let Some(due) = self.sources[stream].pop(now) else {
            // All of a stream's arrivals have caught up; those of others may not have.
            if !self.is_full() && self.sources.iter().all(|source| !source.is_due(now)) {
                self.hold.since = None;
                self.pools.iter_mut().for_each(|pool| pool.release(now));
            }
            return false;
        };
        let since = self.hold.since.unwrap_or(now);
        let dispatched_at = due.scheduled_at.max(since).min(now);
        self.lag = dispatched_at - due.scheduled_at;
        if is_over {
            self.never_start(stream, due, dispatched_at, now);
        } else {
            self.arrive(stream, due, dispatched_at, now);
        }
        true
    }

    /// Whether the feed, if there is one, has a request for an arrival that is due. At its end, sending
    /// stops.
    fn is_supplied(&mut self, stream: usize, now: Nanos) -> bool {
        let Some(feed) = &mut self.feed else { return true };
        if !self.sources[stream].is_due(now) {
            return false;
        }
        match feed.supply(now) {
            Supply::Ready => true,
            Supply::Empty => false,
            Supply::Ended => {
                self.stop_sending(now);
                self.drop_unsupplied(now);
                false
            }
        }
    }

    /// Forgets the arrivals that are due but have no request: they are not part of the run.
    fn drop_unsupplied(&mut self, now: Nanos) {
        for source in &mut self.sources {
            while source.pop(now).is_some() {}
        }
    }

    fn arrival_of(&self, stream: usize, due: Due) -> (Arrival, usize) {
        let plan = &self.shared.plan;
        let card = plan.streams[stream].deck.deal(due.card);
        let target = plan.streams[stream].targets.start + card.target;
        let request = plan.targets[target].request(card.number);
        let mut arrival = Arrival::new(stream as u16, target as u32, request as u32, due.number);
        arrival.warm = due.warm;
        arrival.user = due.user;
        arrival.scheduled_at = due.scheduled_at;
        (arrival, request)
    }

    fn arrive(&mut self, stream: usize, due: Due, dispatched_at: Nanos, now: Nanos) {
        let (mut arrival, request) = self.arrival_of(stream, due);
        let plan = &self.shared.plan;
        let started_at = now.max(self.hold.started_at);
        self.hold.started_at = started_at;
        arrival.dispatched_at = dispatched_at;
        arrival.started_at = Some(started_at);
        arrival.waited = now - dispatched_at;
        arrival.exchange.since = now;
        let timeout = plan.timeout;
        let from_start = plan.timeout_from == TimeoutFrom::Start;
        let deadline = if from_start { started_at } else { due.scheduled_at } + timeout;
        arrival.deadline = deadline;
        self.recorder.dispatched(&arrival);
        if let Some(feed) = &mut self.feed {
            arrival.exchange.hop = Some(feed.take(due.scheduled_at));
            let id = self.arrivals.insert(arrival);
            return self.deliver_own(id, now);
        }
        let pool = self.shared.requests[request].pool;
        let id = self.arrivals.insert(arrival);
        let is_late = !from_start && self.lag.0 * MATERIAL >= timeout.0;
        if deadline <= now || is_late && self.pools[pool].is_unlikely(deadline, now) {
            self.fail(id, now, Cause::of(ErrorClass::Late));
        } else {
            self.deliver(pool, id, now);
        }
    }

    /// Counts an arrival that could not start before its stream ended.
    fn never_start(&mut self, stream: usize, due: Due, dispatched_at: Nanos, now: Nanos) {
        let (mut arrival, request) = self.arrival_of(stream, due);
        arrival.dispatched_at = dispatched_at;
        arrival.exchange.since = dispatched_at;
        self.recorder.dispatched(&arrival);
        self.pools[self.shared.requests[request].pool].count_starved();
        let id = self.arrivals.insert(arrival);
        self.fail(id, now, Cause::of(ErrorClass::NoConnection));
    }
}
