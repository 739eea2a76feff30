//! Handles the events of connections.

use super::notes::{body_too_large, excerpt};
use super::step::{Step, request_of, step};
use super::{Dispatcher, FollowUp, READS, has_unlisted_capacity};
use crate::arrival::Id;
use crate::connection::{Connection, Event, Failure};
use crate::judge::{Cause, Judgement};
use crate::system::{READY_MAX, Readiness, System};
use plimsoll_measure::{ErrorClass, Fault, Nanos};
use std::net::SocketAddr;

/// Maximum time for reading in one iteration of the worker; remaining connections are read in the
/// next. Arrivals due meanwhile are late by at most this plus one read.
const READ_TIME_MAX: Nanos = Nanos::from_millis(1);

/// A body up to this size is judged in less time than a clock reading takes, so follow-up work uses
/// the previous reading.
const FAST_BODY_MAX: usize = 1 << 10;

/// A connection waiting to be read, queued in the order of poll reports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unread {
    key: u32,
    serial: u64,
    /// Its unread data may have arrived before this instant.
    since: Nanos,
}

/// A complete answer.
struct Answered {
    key: usize,
    id: Id,
    now: Nanos,
    status: u16,
    /// When the kernel received its last bytes, if timestamps were requested.
    received_at: Option<Nanos>,
}

impl<S: System> Dispatcher<S> {
    /// Handles the readiness reported by the poll that began at `polled_at` and ended at `now`, and
    /// connections with data left from earlier. `stamping` requests receive timestamps from the
    /// kernel. Returns the instant up to which everything that had arrived was read.
    pub(crate) fn handle(
        &mut self,
        ready: &[(usize, Readiness)],
        polled_at: Nanos,
        now: Nanos,
        stamping: bool,
    ) -> Nanos {
        debug_assert!(ready.len() <= READY_MAX, "at most one poll's worth");
        self.stamping = stamping;
        self.clock = now;
        // Before any is read: what is read may lead to a request on a connection that is reported
        // after it, which must not be sent before the bytes there were looked at.
        for (key, ready) in ready {
            let Some(connection) = self.connections.get_mut(*key) else { continue };
            if !connection.unread.any() {
                let serial = connection.serial;
                self.unread.push_back(Unread { key: *key as u32, serial, since: polled_at });
            }
            connection.unread = connection.unread.or(*ready);
        }
        let until = now + READ_TIME_MAX;
        for _ in 0..self.unread.len() {
            if self.clock >= until {
                break;
            }
            let Some(Unread { key, serial, .. }) = self.unread.pop_front() else { break };
            let key = key as usize;
            if self.connections.get(key).is_some_and(|connection| connection.serial == serial) {
                self.on_ready(key, Readiness::NONE);
            }
        }
        self.stamping = false;
        self.unread.front().map_or(polled_at, |unread| unread.since.min(polled_at))
    }

    /// Handles a connection's readiness from the poll or left over from earlier, and sends what was started
    /// by that.
    pub(super) fn on_ready(&mut self, key: usize, ready: Readiness) {
        self.collect_unread(key, ready);
        self.flush_started();
    }

    /// Handles a connection's events after this readiness and what is left over from earlier.
    pub(super) fn collect_unread(&mut self, key: usize, ready: Readiness) {
        if let Some(connection) = self.connections.get_mut(key) {
            let ready = ready.or(std::mem::take(&mut connection.unread));
            self.collect(key, ready);
        }
    }

    /// Writes the requests that were started since the last call, with one write for each connection.
    #[inline]
    pub(super) fn flush_started(&mut self) {
        while let Some(key) = self.flushing.pop() {
            let key = key as usize;
            // Another connection may have its place by now, which has nothing to write then.
            if let Some(connection) = self.connections.get_mut(key)
                && std::mem::take(&mut connection.flushing)
            {
                connection.flush();
                // Without reading: others have their turn first.
                self.collect(key, Readiness::NONE);
            }
        }
    }

    /// Handles a connection's events. Its capacity is used only after all of them were reported: a close
    /// that came with an answer is known by then.
    fn collect(&mut self, key: usize, mut ready: Readiness) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let mut share = READS;
        let mut last = None;
        connection.stamp(self.stamping);
        while let Some(connection) = self.connections.get_mut(key)
            && let pool = connection.pool as usize
            && let Some(event) =
                connection.next(&mut ready, &mut share, &mut self.buffers.resources)
        {
            let now = *last.insert(self.system.now());
            self.clock = now;
            match event {
                Event::Handshaking => self.pools[pool].handshaking += 1,
                Event::Settling => {
                    let pool = &mut self.pools[pool];
                    pool.handshaking -= usize::from(pool.tls.is_some());
                    pool.settling += 1;
                }
                Event::Established => self.established(key, now),
                Event::Sent { arrival } => {
                    let arrival = self.arrivals.get_mut(arrival);
                    arrival.sent(now);
                    self.recorder.sent(arrival, now);
                }
                Event::Began { arrival } => {
                    self.arrivals.get_mut(arrival).exchange.first_byte_at = Some(now);
                }
                Event::Answered { arrival: id, bytes, answer } => {
                    let arrival = self.arrivals.get_mut(id);
                    arrival.bytes_in += bytes;
                    let (status, received_at) = (answer.status, answer.received_at);
                    let counts = self.recorder.rpc(arrival.warm);
                    let gzip = (&mut self.buffers.gunzip, &mut self.buffers.decoded);
                    let body = &mut self.buffers.body;
                    let step = step(&self.shared, arrival, &answer, body, gzip, counts);
                    if matches!(step, Step::Finish(_))
                        && self.shared.plan.streams[arrival.stream as usize].split_by.is_some()
                    {
                        self.recorder.split(arrival, answer.split);
                    }
                    if answer.body.len() > FAST_BODY_MAX {
                        self.clock = self.system.now();
                    }
                    if let Some(capture) = &mut self.capture
                        && matches!(step, Step::Finish(_))
                    {
                        capture.stage_answer(&answer);
                    }
                    let is_status = step.fails_with(ErrorClass::Status);
                    let mistaken = answer.first && !is_status;
                    if let Step::Finish(Judgement { outcome: Err(cause), .. }) = &step
                        && if is_status {
                            answer.first
                        } else {
                            self.notebook.wants(cause.class, cause.fault)
                        }
                    {
                        let mut secrets = arrival.exchange.secrets(&self.shared.plan);
                        if let Some(location) = answer.location {
                            secrets.add_url(&String::from_utf8_lossy(location));
                        }
                        let body = excerpt(answer.body, answer.gzip, &secrets);
                        let text = match cause.fault {
                            Some(fault) => format!("{fault} (status {status}{body})"),
                            // Only of a body that is gzipped.
                            None if cause.class == ErrorClass::BodyTooLarge => {
                                body_too_large(self.shared.plan.body_max, None)
                            }
                            None => format!("status {status}{body}"),
                        };
                        let kind = (cause.class, cause.fault, is_status.then_some(status));
                        self.notebook.note(&self.shared, arrival, kind, text);
                    }
                    if mistaken {
                        // Another class took precedence: the next one may be noted.
                        self.buffers.resources.bodies.excerpts.forget(arrival.target, status);
                    }
                    self.answered(&Answered { key, id, now, status, received_at }, step);
                }
                Event::Failed { arrival: id, bytes, failure } => {
                    self.arrivals.get_mut(id).bytes_in += bytes;
                    self.pools[pool].end(now);
                    self.end_trace(key, id);
                    if self.may_retry(id, &failure, now) {
                        self.retry(id, Fault::StaleRetried, now);
                    } else {
                        let peer = self.peer_of(key);
                        self.fail_with(id, &failure, peer, now);
                    }
                }
                Event::Returned { arrival: id, bytes, failure, moved } => {
                    let arrival = self.arrivals.get_mut(id);
                    arrival.bytes_in += bytes;
                    let is_first = !std::mem::replace(&mut arrival.returned, true);
                    let is_in_time = now < arrival.deadline;
                    self.pools[pool].end(now);
                    self.end_trace(key, id);
                    if is_first && is_in_time {
                        self.retry(id, moved, now);
                    } else {
                        let peer = self.peer_of(key);
                        self.fail_with(id, &failure, peer, now);
                    }
                }
                Event::Opened { arrival, status, bytes } => {
                    self.opened(arrival, (status, bytes), now);
                }
                Event::Received { arrival: id, bytes, message } => {
                    let arrival = self.arrivals.get_mut(id);
                    let spec = &self.shared.plan.requests[arrival.exchange.request as usize];
                    if let Some(spec) = &spec.standing {
                        let times = (now, self.system.started_at_unix());
                        let recorder = &mut self.recorder;
                        let firsts = self.shared.firsts[arrival.target as usize].as_ref();
                        let message = (message, bytes);
                        self.standings.receive((arrival, spec), firsts, message, times, recorder);
                    }
                }
                Event::Ponged { arrival } => self.ponged(arrival, now),
                Event::Stray { fault } => self.recorder.counts.faults.count(fault),
                Event::Closed { reason, failure } => {
                    self.close_connection(key, reason, failure, now);
                    break;
                }
            }
        }
        if share == 0 && last.is_none() {
            self.clock = self.system.now();
        }
        if let Some(connection) = self.connections.get_mut(key)
            && share == 0
            && ready.any()
        {
            if !connection.unread.any() {
                let (serial, since) = (connection.serial, self.clock);
                self.unread.push_back(Unread { key: key as u32, serial, since });
            }
            connection.unread = connection.unread.or(ready);
        }
        if let Some(connection) = self.connections.get(key) {
            if let Some(streams) = connection.peer_streams().filter(|_| connection.is_established())
            {
                self.pools[connection.pool as usize].speaks(Some(streams), self.clock);
            }
            if has_unlisted_capacity(connection) {
                self.offer(key, last.unwrap_or_else(|| self.system.now()));
            }
        }
        self.start_follow_ups();
        if self.connections.get(key).is_some_and(Connection::is_unflushed) {
            self.flush_later(key);
        }
    }

    /// Queues a connection for [`Dispatcher::flush_started`].
    #[inline]
    pub(super) fn flush_later(&mut self, key: usize) {
        if !std::mem::replace(&mut self.connections[key].flushing, true) {
            self.flushing.push(key as u32);
        }
    }

    /// Starts the work that ended exchanges led to.
    fn start_follow_ups(&mut self) {
        while let Some(next) = self.follow_ups.pop_front() {
            match next {
                FollowUp::Arrival(stream) => _ = self.dispatch_at(stream, self.clock),
                FollowUp::Request(id) => {
                    let pool = request_of(&self.shared, &self.arrivals[id]).pool;
                    self.deliver(pool, id, self.clock);
                }
            }
        }
    }

    /// Whether a request may be sent again because its reused connection was closed before any byte of
    /// an answer: if no byte of it was sent, or sending it twice does no harm.
    fn may_retry(&self, id: Id, failure: &Failure, now: Nanos) -> bool {
        if failure.fault != Some(Fault::StaleKeepAlive) || !self.shared.plan.connections.retry_stale
        {
            return false;
        }
        let arrival = &self.arrivals[id];
        let spec = match &arrival.exchange.hop {
            Some(hop) => &hop.spec,
            None => &self.shared.plan.requests[arrival.exchange.request as usize],
        };
        now < arrival.deadline && (arrival.exchange.sent_at.is_none() || spec.is_replayable())
    }

    /// The address that a connection leads to.
    fn peer_of(&self, key: usize) -> Option<SocketAddr> {
        let connection = self.connections.get(key)?;
        let pool = &self.pools[connection.pool as usize];
        Some(pool.addresses[connection.address as usize].at)
    }

    fn answered(&mut self, answered: &Answered, step: Step) {
        let Answered { key, id, now, status, received_at } = *answered;
        self.end_trace(key, id);
        let connection = &self.connections[key];
        let arrival = self.arrivals.get_mut(id);
        let exchange = &mut arrival.exchange;
        exchange.first_byte_at.get_or_insert(now);
        let capped = exchange.capped;
        // Excludes the time an answer waited for us to read it.
        let sent_at = exchange.sent_at.expect("an answered request was sent");
        let service_time = received_at.unwrap_or(now) - sent_at;
        arrival.served += now - sent_at;
        let pool = &mut self.pools[connection.pool as usize];
        pool.answered(service_time, capped, now);
        pool.end(now);
        if let Some(at) = received_at
            && (connection.sampled || now > arrival.deadline)
            && !arrival.warm
        {
            self.recorder.counts.read_lag.record(now - at);
        }
        match step {
            // The kernel's timestamp decides, because the worker may have been delayed.
            Step::Finish(_) if received_at.unwrap_or(Nanos::ZERO) > arrival.deadline => {
                let outcome = Err(Cause::of(ErrorClass::ResponseTimeout));
                self.finish_answered(id, now, status, Judgement { outcome, rpc_code: None });
            }
            Step::Finish(judgement) => self.finish_answered(id, now, status, judgement),
            Step::Follow(hop) => self.follow(id, hop, now),
        }
    }

    fn finish_answered(&mut self, id: Id, now: Nanos, status: u16, judgement: Judgement) {
        let arrival = &self.arrivals[id];
        if arrival.user.is_some() {
            self.follow_ups.push_back(FollowUp::Arrival(arrival.stream as usize));
        }
        self.finish(id, now, Some(status), judgement);
    }
}
