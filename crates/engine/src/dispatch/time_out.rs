//! Ends unanswered arrivals: at their deadline, at the end of the grace period, or at the second
//! Ctrl-C.
//!
//! # Blame
//! A deadline is enforced only after everything that had arrived by then was read
//! ([`Dispatcher::time_out_due`] takes the instant up to which that is the case), so that a delayed
//! worker reads first. An arrival on a connection ends as `response_timeout` when its deadline
//! passes, even if the kernel took no byte of its request. An arrival that is still waiting ends by
//! the cause of its wait, in this order: `late` if the worker itself used up a tenth or more of its
//! time, `dns` if the name has no address, `no_connection` at the connection limit, `tls` during an
//! unanswered handshake, and otherwise `connect_timeout`.

use super::step::request_of;
use super::{Dispatcher, MATERIAL, Pause};
use crate::arrival::{Arrival, Id, State};
use crate::judge::Cause;
use crate::pool::Name;
use crate::system::{Readiness, System};
use plimsoll_measure::{ErrorClass, Fault, Nanos};
use plimsoll_plan::TimeoutFrom;

impl<S: System> Dispatcher<S> {
    /// Records a pause of the worker.
    pub(crate) fn paused(&mut self, pause: Pause) {
        self.pause = Some(pause);
    }

    /// Whether any arrival's deadline has passed.
    pub(crate) fn is_any_due(&self, now: Nanos) -> bool {
        self.arrivals.first_due().is_some_and(|(deadline, _)| deadline <= now)
    }

    /// Ends arrivals with a deadline up to `seen`, the instant up to which everything that had
    /// arrived was read.
    pub(crate) fn time_out_due(&mut self, seen: Nanos, now: Nanos) {
        while let Some((deadline, id)) = self.arrivals.first_due() {
            if deadline > seen {
                break;
            }
            self.time_out(id, None, now);
        }
    }

    /// Ends all arrivals in flight.
    pub(crate) fn abort_all(&mut self, now: Nanos) {
        while let Some(id) = self.arrivals.any() {
            self.time_out(id, Some(Cause::of(ErrorClass::Aborted)), now);
        }
    }

    fn time_out(&mut self, id: Id, cause: Option<Cause>, now: Nanos) {
        match self.arrivals[id].exchange.state {
            State::OnConnection(key) => self.abandon(id, key as usize, cause, now),
            State::Waiting => {
                let pool = request_of(&self.shared, &self.arrivals[id]).pool;
                self.leave_queue(pool, now);
                match cause {
                    Some(cause) => self.fail(id, now, cause),
                    None => self.fail_unserved(id, pool, now),
                }
                self.forget_ended(pool);
            }
        }
    }

    /// Ends an arrival whose exchange is on a connection; with HTTP/1.1, this closes the
    /// connection.
    pub(super) fn abandon(&mut self, id: Id, key: usize, cause: Option<Cause>, now: Nanos) {
        let arrival = &self.arrivals[id];
        let pool = &mut self.pools[self.connections[key].pool as usize];
        pool.end(now);
        let cause = match (cause, arrival.exchange.sent_at) {
            (Some(cause), _) => cause,
            (None, Some(sent_at)) => {
                let middle = Nanos((arrival.deadline + sent_at).0 / 2);
                if arrival.exchange.capped && pool.is_unlikely(arrival.deadline, middle) {
                    pool.count_starved();
                }
                let is_stalled = self.connections[key].is_stalled(id);
                let fault = is_stalled.then_some(Fault::WindowStalled);
                Cause { class: ErrorClass::ResponseTimeout, fault }
            }
            (None, None) if self.was_late(&self.arrivals[id]) => Cause::of(ErrorClass::Late),
            (None, None) => {
                Cause { class: ErrorClass::ResponseTimeout, fault: Some(Fault::NothingRead) }
            }
        };
        self.end_trace(key, id);
        self.note_timeout(id, cause);
        self.fail(id, now, cause);
        self.connections[key].abandon(id, &mut self.buffers.resources);
        self.on_ready(key, Readiness::NONE);
    }

    /// Ends an arrival that waited in a pool and was not sent.
    pub(super) fn fail_unserved(&mut self, id: Id, pool: usize, now: Nanos) {
        let cause = self.cause_unserved(&self.arrivals[id], pool);
        if cause.class == ErrorClass::NoConnection {
            self.pools[pool].count_starved();
        }
        self.note_timeout(id, cause);
        self.fail(id, now, cause);
    }

    fn cause_unserved(&self, arrival: &Arrival, pool: usize) -> Cause {
        let pool = &self.pools[pool];
        let since = arrival.exchange.since;
        if self.was_late(arrival) {
            Cause::of(ErrorClass::Late)
        } else if matches!(pool.name, Name::Resolving | Name::Failed(_)) {
            Cause::of(ErrorClass::Dns)
        } else if pool.was_capped(since) {
            Cause::of(ErrorClass::NoConnection)
        } else if pool.settling > 0 {
            let is_websocket = pool.origin.scheme.is_websocket();
            let fault = if is_websocket { Fault::UpgradeTimeout } else { Fault::SettingsTimeout };
            Cause { class: ErrorClass::Protocol, fault: Some(fault) }
        } else if pool.handshaking > 0 {
            Cause { class: ErrorClass::Tls, fault: Some(Fault::HandshakeTimeout) }
        } else {
            Cause::of(ErrorClass::ConnectTimeout)
        }
    }

    /// Whether an arrival was never sent because the worker itself used up a material part of its
    /// time: it dispatched the arrival late, or was away while the time ran out.
    fn was_late(&self, arrival: &Arrival) -> bool {
        if arrival.sent_at.is_some() {
            return false;
        }
        // Its time began when it was due or, if its timeout counts from there, when it started.
        let from = match (self.shared.plan.timeout_from, arrival.started_at) {
            (TimeoutFrom::Start, Some(started_at)) => started_at,
            _ => arrival.scheduled_at,
        };
        let given = arrival.deadline - from;
        let is_material = |span: Nanos| span.0 * MATERIAL >= given.0;
        let away = self.pause.is_some_and(|Pause { from: paused_at, to }| {
            let overlap = to.min(arrival.deadline) - paused_at.max(from);
            arrival.deadline > paused_at && is_material(overlap)
        });
        away || is_material(arrival.dispatched_at - from)
    }
}
