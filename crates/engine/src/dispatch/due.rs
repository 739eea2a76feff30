//! Dispatches the arrivals that are due.
//!
//! Streams are served in order of due time, so that a late worker delays all of them alike.

use super::{Dispatcher, MATERIAL};
use crate::arrival::Arrival;
use crate::judge::Cause;
use crate::source::Due;
use crate::system::System;
use plimsoll_measure::{ErrorClass, Nanos};

impl<S: System> Dispatcher<S> {
    /// Dispatches at most `most` due arrivals and returns their number.
    pub(crate) fn dispatch_due(&mut self, most: usize) -> usize {
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
        match self.sources[stream].pop(now) {
            Some(due) => {
                self.lag = now - due.scheduled_at;
                self.arrive(stream, due, now);
                true
            }
            None => false,
        }
    }

    fn arrive(&mut self, stream: usize, due: Due, now: Nanos) {
        let plan = &self.shared.plan;
        let card = plan.streams[stream].deck.deal(due.card);
        let target = plan.streams[stream].targets.start + card.target;
        let request = plan.targets[target].request(card.number);
        let mut arrival = Arrival::new(stream as u16, target as u32, request as u32, due.number);
        arrival.warm = due.warm;
        arrival.user = due.user;
        arrival.scheduled_at = due.scheduled_at;
        arrival.dispatched_at = now;
        arrival.exchange.since = now;
        arrival.deadline = due.scheduled_at + plan.timeout;
        let (deadline, timeout) = (arrival.deadline, plan.timeout);
        let pool = self.shared.requests[request].pool;
        self.recorder.dispatched(&arrival);
        let id = self.arrivals.insert(arrival);
        let is_late = self.lag.0 * MATERIAL >= timeout.0;
        if deadline <= now || is_late && self.pools[pool].is_unlikely(deadline, now) {
            self.fail(id, now, Cause::of(ErrorClass::Late));
        } else {
            self.deliver(pool, id, now);
        }
    }
}
