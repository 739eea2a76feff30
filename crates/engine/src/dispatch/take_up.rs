//! Taking up the arrivals that are due.
//!
//! Streams are served by due instant, so that none waits behind another when the worker is late.

use super::{Dispatcher, MATERIAL};
use crate::arrival::Arrival;
use crate::judge::Why;
use crate::source::Due;
use crate::system::System;
use plimsoll_measure::{ErrorClass, Nanos};

impl<S: System> Dispatcher<S> {
    /// Takes up arrivals that are due, at most `most`; how many it took.
    pub(crate) fn take_up_due(&mut self, most: usize) -> usize {
        for (allowance, source) in self.allowance.iter_mut().zip(&self.sources) {
            // Users who fail at once are due at once: each is taken up once.
            let ready = source.ready_len();
            *allowance = if ready > 0 { ready.min(most) } else { most };
        }
        let mut taken = 0;
        if let [only] = self.allowance.as_slice() {
            let most = *only;
            while taken < most && self.take_up_one(0) {
                taken += 1;
            }
            return taken;
        }
        while taken < most
            && let Some(stream) = self.next_stream()
            && self.take_up_one(stream)
        {
            self.allowance[stream] -= 1;
            taken += 1;
        }
        taken
    }

    /// The stream whose next arrival is due first.
    fn next_stream(&self) -> Option<usize> {
        let allowed = self.sources.iter().zip(&self.allowance).enumerate();
        let due = allowed.filter(|(_, (_, allowance))| **allowance > 0);
        let due = due.filter_map(|(stream, (source, _))| Some((source.next_at()?, stream)));
        due.min().map(|(_, stream)| stream)
    }

    #[inline]
    fn take_up_one(&mut self, stream: usize) -> bool {
        self.take_up_at(stream, self.system.now())
    }

    #[inline]
    pub(super) fn take_up_at(&mut self, stream: usize, now: Nanos) -> bool {
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
        let dealt = plan.streams[stream].deck.deal(due.seq);
        let target = plan.streams[stream].targets.start + dealt.target;
        let request = plan.targets[target].request(dealt.number);
        let mut arrival = Arrival::new(stream as u16, target as u32, request as u32, due.seq);
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
            self.fail(id, now, Why::of(ErrorClass::Late));
        } else {
            self.deliver(pool, id, now);
        }
    }
}
