//! Ending arrivals that were not answered: at their deadline, at the end of the grace period, at the
//! second Ctrl-C.
//!
//! # Who is to blame
//! A deadline is enforced only after everything was read that had arrived by then
//! ([`Dispatcher::time_out_due`] takes the instant up to which that is so): an instrument that was
//! held up reads first. An arrival on a connection whose deadline passes ends as
//! `response_timeout`, also when the target's window had no room for a byte of it. One that is still
//! waiting ends by what it waited for: as `late` when the
//! worker itself took a material part of its time, as `no_connection` at the limit on
//! connections, as `dns` without an address, as `tls` in an unanswered handshake, else as
//! `connect_timeout`.

use super::step::request_of;
use super::{Dispatcher, MATERIAL, Pause};
use crate::arrival::{Arrival, Id, State};
use crate::connection::Failure;
use crate::judge::Why;
use crate::pool::Name;
use crate::system::{Readiness, System};
use plimsoll_measure::{ErrorClass, Fault, Nanos};

impl<S: System> Dispatcher<S> {
    /// The worker was away for a while.
    pub(crate) fn paused(&mut self, pause: Pause) {
        self.pause = Some(pause);
    }

    /// Whether an arrival's deadline has passed.
    pub(crate) fn is_any_due(&self, now: Nanos) -> bool {
        self.arrivals.first_due().is_some_and(|(deadline, _)| deadline <= now)
    }

    /// Ends arrivals whose deadline was reached by `seen`, up to which everything was read that had
    /// arrived.
    pub(crate) fn time_out_due(&mut self, seen: Nanos, now: Nanos) {
        while let Some((deadline, id)) = self.arrivals.first_due() {
            if deadline > seen {
                break;
            }
            self.time_out(id, None, now);
        }
    }

    /// Ends everything that is on its way.
    pub(crate) fn abort_all(&mut self, now: Nanos) {
        while let Some((_, id)) = self.arrivals.first_due() {
            self.time_out(id, Some(ErrorClass::Aborted), now);
        }
    }

    fn time_out(&mut self, id: Id, class: Option<ErrorClass>, now: Nanos) {
        match self.arrivals[id].exchange.state {
            State::OnConnection(key) => self.abandon(id, key as usize, class, now),
            State::Waiting => {
                let pool = request_of(&self.shared, &self.arrivals[id]).pool;
                self.leave_queue(pool, now);
                match class {
                    Some(class) => self.fail(id, now, Why::of(class)),
                    None => self.fail_unserved(id, pool, now),
                }
                self.forget_ended(pool);
            }
        }
    }

    /// Ends an arrival whose exchange is on a connection; over HTTP/1.1 that costs the connection.
    fn abandon(&mut self, id: Id, key: usize, class: Option<ErrorClass>, now: Nanos) {
        let arrival = &self.arrivals[id];
        let pool = &mut self.pools[self.connections[key].pool as usize];
        pool.end(now);
        let why = match (class, arrival.exchange.sent_at) {
            (Some(class), _) => Why::of(class),
            (None, Some(sent_at)) => {
                let middle = Nanos((arrival.deadline + sent_at).0 / 2);
                if arrival.exchange.capped && pool.is_unlikely(arrival.deadline, middle) {
                    pool.starve();
                }
                Why::of(ErrorClass::ResponseTimeout)
            }
            (None, None) if self.was_late(&self.arrivals[id]) => Why::of(ErrorClass::Late),
            (None, None) => {
                Why { class: ErrorClass::ResponseTimeout, fault: Some(Fault::NothingRead) }
            }
        };
        self.end_trace(key, id);
        self.fail(id, now, why);
        self.connections[key].abandon(id, &mut self.buffers.lent.held);
        self.on_ready(key, Readiness::NONE);
    }

    /// An arrival that waited in a pool ends without having been sent there.
    pub(super) fn fail_unserved(&mut self, id: Id, pool: usize, now: Nanos) {
        let why = self.why_unserved(&self.arrivals[id], pool);
        if why.class == ErrorClass::NoConnection {
            self.pools[pool].starve();
        }
        if let Some(fault) = why.fault {
            let failure = Failure { class: why.class, fault: Some(fault), error: None };
            self.note_failure(id, &failure);
        }
        self.fail(id, now, why);
    }

    fn why_unserved(&self, arrival: &Arrival, pool: usize) -> Why {
        let pool = &self.pools[pool];
        let since = arrival.exchange.since;
        if self.was_late(arrival) {
            Why::of(ErrorClass::Late)
        } else if matches!(pool.name, Name::Asked | Name::Failed(_)) {
            Why::of(ErrorClass::Dns)
        } else if pool.was_capped(since) {
            Why::of(ErrorClass::NoConnection)
        } else if pool.handshaking > 0 {
            Why { class: ErrorClass::Tls, fault: Some(Fault::HandshakeTimeout) }
        } else {
            Why::of(ErrorClass::ConnectTimeout)
        }
    }

    /// Whether an arrival was never sent because the worker itself took a material part of its time:
    /// it took it up late, or was away when the time ran out.
    fn was_late(&self, arrival: &Arrival) -> bool {
        if arrival.sent_at.is_some() {
            return false;
        }
        let given = arrival.deadline - arrival.scheduled_at;
        let is_material = |span: Nanos| span.0 * MATERIAL >= given.0;
        let away = self.pause.is_some_and(|Pause { from, to }| {
            let overlap = to.min(arrival.deadline) - from.max(arrival.scheduled_at);
            arrival.deadline > from && is_material(overlap)
        });
        away || is_material(arrival.dispatched_at - arrival.scheduled_at)
    }
}
