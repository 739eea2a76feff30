//! Dispatches arrivals to connections and ends them.
//!
//! One dispatcher serves the open and the closed model and all protocols. An arrival gets a free
//! connection at once, or waits in its pool while one is opened, up to the limit. Its end is
//! reported to the recorder exactly once, by [`Dispatcher::finish`].
//!
//! Submodules: `due` (arrivals that are due, and holding them back), `events` (connection events), `open` (opening and
//! closing connections), `standing` (exchanges that stay open), `step` (what follows an answer), `time_out`, `notes`.

mod due;
mod events;
mod notes;
mod open;
mod standing;
mod step;
mod time_out;

use self::due::Hold;
use self::events::Unread;
use self::notes::Notebook;
use self::open::Opening;
use self::standing::Standings;
use self::step::{request_of, values_of};
use crate::arrival::{Arrival, Arrivals, Id, State};
use crate::capture::Capturing;
use crate::connection::{
    Bodies, BodyBudget, Connection, Excerpts, Failure, Outgoing, ReadResources, Started,
};
use crate::feed::Feeding;
use crate::gzip::Gunzip;
use crate::judge::{Cause, Judgement};
use crate::pool::{Pool, Waiting};
use crate::prepare::Shared;
use crate::recorder::{Finished, Recorder};
use crate::sampling::Sampling;
use crate::source::Source;
use crate::system::{Readiness, System};
use plimsoll_measure::{ErrorClass, Nanos, OpenReason, Snapshot, Window};
use plimsoll_plan::TimeoutFrom;
use slab::Slab;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Maximum number of waiting arrivals per worker; further ones end at once, unsent.
const WAITING_MAX: usize = 250_000;
/// Reads per connection before other connections get their turn.
const READS: usize = 1;
/// A delay of at least one tenth (1 / `MATERIAL`) of an arrival's timeout is blamed for its
/// failure.
const MATERIAL: u64 = 10;

/// Work that the end of an exchange leads to.
enum FollowUp {
    /// The stream's next arrival: a user without think time sends again at once.
    Arrival(usize),
    /// The next request of an arrival, after a redirect.
    Request(Id),
}

/// A period in which the worker did not poll its sockets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    pub(crate) from: Nanos,
    pub(crate) to: Nanos,
}

/// Reused buffers.
struct Buffers {
    resources: ReadResources,
    out: Vec<u8>,
    body: Vec<u8>,
    gunzip: Gunzip,
    /// A decompressed body.
    decoded: Vec<u8>,
}

/// The arrivals in flight, and the connections that carry them.
pub(crate) struct Dispatcher<S: System> {
    pub(crate) system: S,
    shared: Arc<Shared>,
    sources: Vec<Source>,
    arrivals: Arrivals,
    pools: Vec<Pool>,
    connections: Slab<Connection<S::Socket>>,
    opening: Opening,
    /// Connections waiting to be read.
    unread: VecDeque<Unread>,
    /// Connections with requests that were started but not written.
    flushing: Vec<u32>,
    /// The last clock reading, reused if no newer one is needed.
    clock: Nanos,
    recorder: Recorder,
    /// Records of ended arrivals for a reader outside the engine, if it wants them.
    capture: Option<Capturing>,
    /// The requests to send, if they are not part of the plan.
    feed: Option<Feeding>,
    hold: Hold,
    standings: Standings,
    /// Work to start once a connection has reported all its events; empty otherwise.
    follow_ups: VecDeque<FollowUp>,
    buffers: Buffers,
    notebook: Notebook,
    /// The lag of the last dispatched arrival.
    lag: Nanos,
    /// The last pause.
    pause: Option<Pause>,
    /// Whether reads request receive timestamps from the kernel.
    stamping: bool,
    /// By stream, how many more arrivals may be dispatched in this iteration.
    allowance: Vec<usize>,
    reported_at: Nanos,
    last_end: Nanos,
}

impl<S: System> Dispatcher<S> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        system: S,
        (sources, pools): (Vec<Source>, Vec<Pool>),
        sampling: Option<Sampling>,
        worker: usize,
    ) -> Dispatcher<S> {
        let budget = BodyBudget::new(shared.held_max);
        let bodies = Bodies { budget, excerpts: Excerpts::of(&shared.plan) };
        let resources = ReadResources::new(shared.read_max, bodies);
        let (out, body, decoded) = (Vec::new(), Vec::new(), Vec::new());
        let gunzip = Gunzip::new();
        Dispatcher {
            system,
            arrivals: Arrivals::new(shared.plan.streams.len()),
            recorder: Recorder::new(shared.plan.blank_snapshot(), sampling),
            capture: shared.capture.as_ref().map(|capture| capture.begin(shared.workers)),
            feed: shared.feed.as_ref().and_then(|feed| feed.begin()),
            hold: Hold::new(shared.in_flight_max(worker)),
            standings: Standings::new(&shared.plan),
            allowance: vec![0; sources.len()],
            shared,
            sources,
            pools,
            connections: Slab::new(),
            opening: Opening::default(),
            unread: VecDeque::new(),
            flushing: Vec::new(),
            clock: Nanos::ZERO,
            follow_ups: VecDeque::new(),
            buffers: Buffers { resources, out, body, gunzip, decoded },
            notebook: Notebook::default(),
            lag: Nanos::ZERO,
            pause: None,
            stamping: false,
            reported_at: Nanos::ZERO,
            last_end: Nanos::ZERO,
        }
    }

    /// Sends an arrival's request on a free connection, or queues the arrival.
    #[inline]
    fn deliver(&mut self, pool: usize, id: Id, now: Nanos) {
        self.pools[pool].count_wanted();
        while let Some(key) = self.take_free(pool) {
            if self.send(key, id, now) {
                return self.offer(key, now);
            }
        }
        let waiting = self.waiting(id);
        let state = &mut self.pools[pool];
        if state.waiting_live >= WAITING_MAX {
            return self.fail(id, now, Cause::of(ErrorClass::NoConnection));
        }
        state.waiting.push_back(waiting);
        state.waiting_live += 1;
        self.may_need_connections(pool);
    }

    /// Removes a connection with capacity from its pool's free list.
    #[inline]
    fn take_free(&mut self, pool: usize) -> Option<usize> {
        while let Some(key) = self.pools[pool].take_free() {
            let connection = &mut self.connections[key as usize];
            connection.listed = false;
            // The peer may have reduced the capacity.
            if connection.capacity() > 0 {
                return Some(key as usize);
            }
        }
        None
    }

    fn waiting(&self, id: Id) -> Waiting {
        let arrival = &self.arrivals[id];
        Waiting {
            arrival: id,
            stream: arrival.stream,
            scheduled_at: arrival.scheduled_at,
            number: arrival.number,
        }
    }

    /// The longest-waiting arrival that can still be answered in time. Sending a later one would
    /// cost a connection and blame the target.
    fn next_waiting(&mut self, pool: usize, now: Nanos) -> Option<Id> {
        while let Some(waiting) = self.pools[pool].waiting.pop_front() {
            if !self.is_waiting(&waiting) {
                continue;
            }
            self.leave_queue(pool, now);
            let (id, arrival) = (waiting.arrival, &self.arrivals[waiting.arrival]);
            if self.is_too_late(arrival, pool, now) {
                self.fail_unserved(id, pool, now);
                continue;
            }
            return Some(id);
        }
        None
    }

    /// Whether a waiting arrival can no longer be answered in time.
    fn is_too_late(&self, arrival: &Arrival, pool: usize, now: Nanos) -> bool {
        if arrival.deadline <= now {
            return true;
        }
        // A request that has started is sent while it has time left.
        if self.shared.plan.timeout_from == TimeoutFrom::Start {
            return false;
        }
        let (deadline, since) = (arrival.deadline, arrival.exchange.since);
        let pool = &self.pools[pool];
        (now - since).0 * MATERIAL >= self.shared.plan.timeout.0
            && if pool.was_capped(since) {
                pool.is_unlikely(deadline, now)
            } else {
                pool.is_hopeless(deadline, now)
            }
    }

    /// Records that an arrival has left the queue.
    fn leave_queue(&mut self, pool: usize, now: Nanos) {
        let state = &mut self.pools[pool];
        state.waiting_live -= 1;
        if state.waiting_live == 0 {
            state.uncap(now);
        }
    }

    /// Whether the arrival of a queue entry is still waiting.
    fn is_waiting(&self, waiting: &Waiting) -> bool {
        self.arrivals.get(waiting.arrival).is_some_and(|arrival| {
            arrival.exchange.state == State::Waiting
                && arrival.number == waiting.number
                && arrival.stream == waiting.stream
                && arrival.scheduled_at == waiting.scheduled_at
        })
    }

    /// Removes entries at the front of the queue whose arrivals are no longer waiting.
    fn forget_ended(&mut self, pool: usize) {
        while let Some(waiting) = self.pools[pool].waiting.front()
            && !self.is_waiting(waiting)
        {
            self.pools[pool].waiting.pop_front();
        }
    }

    /// Passes the arrival's request to a connection with capacity; returns whether it was accepted.
    fn send(&mut self, key: usize, id: Id, now: Nanos) -> bool {
        let shared = &self.shared;
        let arrival = &self.arrivals[id];
        let trace = shared.traces_left.load(Ordering::Relaxed) > 0
            && shared.traces_left.fetch_sub(1, Ordering::Relaxed) > 0;
        let request = request_of(shared, arrival);
        let spec = &shared.plan.requests[arrival.exchange.request as usize];
        let outgoing = Outgoing {
            arrival: id,
            request,
            values: values_of(shared, arrival),
            body_max: (spec.expect.reads_body() || spec.standing.is_some())
                .then_some(shared.plan.body_max),
            target: arrival.target,
            spec: arrival.exchange.request,
            last: !shared.plan.connections.reuse || request.closes,
            standing: spec.standing.as_ref(),
            last_event: if spec.standing.is_some() {
                self.standings.last_event(arrival)
            } else {
                &[]
            },
            split_by: shared.plan.streams[arrival.stream as usize].split_by.as_deref(),
            capture: self.capture.as_ref().map(|capture| capture.body_max),
            trace,
        };
        let stays_open = outgoing.standing.is_some();
        let connection = &mut self.connections[key];
        let buffers = (&mut self.buffers.out, &mut self.buffers.body);
        let resources = &mut self.buffers.resources;
        let (sent, bytes) = match connection.start(outgoing, buffers, resources) {
            Started::Sent { bytes } => (true, bytes),
            Started::Queued { bytes } => (false, bytes),
            Started::Buffered { bytes } => {
                self.flush_later(key);
                (false, bytes)
            }
            Started::Refused => {
                if trace {
                    self.shared.traces_left.fetch_add(1, Ordering::Relaxed);
                }
                self.collect_unread(key, Readiness::NONE);
                return false;
            }
        };
        if trace {
            self.notebook.tracing.push(id);
        }
        let pool = &mut self.pools[self.connections[key].pool as usize];
        let arrival = self.arrivals.get_mut(id);
        let waited_at_limit = pool.was_capped(arrival.exchange.since);
        arrival.exchange.capped = pool.begin(now) || waited_at_limit;
        arrival.exchange.state = State::OnConnection(key as u32);
        arrival.bytes_out += bytes;
        if sent {
            arrival.sent(now);
            self.recorder.sent(arrival, now);
        }
        if stays_open {
            // An idle socket has opened already.
            self.flush_later(key);
        }
        true
    }

    /// Uses a connection's capacity for waiting arrivals, or lists the connection as free.
    #[inline]
    fn offer(&mut self, key: usize, now: Nanos) {
        while let Some(connection) = self.connections.get(key)
            && has_unlisted_capacity(connection)
        {
            let (pool, address) = (connection.pool as usize, connection.address as usize);
            let is_idle = connection.is_idle();
            if self.pools[pool].addresses[address].retired {
                return self.retire(key, now);
            }
            match self.next_waiting(pool, now) {
                Some(id) if self.send(key, id, now) => {}
                Some(id) => {
                    let waiting = self.waiting(id);
                    self.pools[pool].waiting.push_front(waiting);
                    self.pools[pool].waiting_live += 1;
                    self.may_need_connections(pool);
                }
                None if is_idle
                    && self.shared.idle_max.is_some_and(|max| self.pools[pool].has_idle(max)) =>
                {
                    return self.close_connection(key, OpenReason::NoneIdle, None, now);
                }
                None => {
                    self.connections[key].listed = true;
                    self.pools[pool].list_free(address, key as u32);
                }
            }
        }
    }

    /// Ends an arrival without an answer.
    fn fail(&mut self, id: Id, now: Nanos, cause: Cause) {
        self.finish(id, now, None, Judgement { outcome: Err(cause), rpc_code: None });
    }

    /// Ends an arrival because of a failure; `peer` is the address that could not be reached.
    fn fail_with(&mut self, id: Id, failure: &Failure, peer: Option<SocketAddr>, now: Nanos) {
        self.note_failure(id, failure);
        if let Some(capture) = &mut self.capture {
            capture.stage_failure(failure, peer);
        }
        self.fail(id, now, Cause { class: failure.class, fault: failure.fault });
    }

    /// Ends an arrival: reports it to the recorder, and to its user, who may then send again.
    /// `status` is that of a complete response.
    fn finish(&mut self, id: Id, ended_at: Nanos, status: Option<u16>, judgement: Judgement) {
        let mut arrival = self.arrivals.remove(id);
        let connection = match arrival.exchange.state {
            State::OnConnection(key) => self.connections.get(key as usize).map(|own| own.serial),
            State::Waiting => None,
        };
        let finished = Finished { arrival: &arrival, ended_at, status, judgement, connection };
        self.recorder.finish(&finished);
        if let Some(capture) = &mut self.capture {
            capture.commit(&finished, &self.shared.requests[arrival.exchange.request as usize]);
        }
        self.last_end = self.last_end.max(ended_at);
        let is_ok = judgement.outcome.is_ok();
        if let Some(user) = arrival.user {
            let plan = &self.shared.plan;
            let stream = arrival.stream as usize;
            let pauses = plan.streams[stream].sockets.is_some() && !is_ok;
            let pause = if pauses {
                self.standings.ended(plan, &mut arrival, user, ended_at)
            } else {
                Nanos::ZERO
            };
            self.sources[stream].ended(user, ended_at, pause);
        }
    }

    /// Stops sending.
    pub(crate) fn stop_sending(&mut self, now: Nanos) {
        self.sources.iter_mut().for_each(|source| source.stop(now));
    }

    /// The source of a stream's arrivals.
    pub(crate) fn source(&mut self, stream: usize) -> &mut Source {
        &mut self.sources[stream]
    }

    /// Whether no further arrivals will come.
    pub(crate) fn sending_is_over(&self, now: Nanos) -> bool {
        self.sources.iter().all(|source| {
            source.is_over(now)
                || source.planned_end().is_some_and(|end| now >= end)
                    && source.next_at().is_none_or(|at| at > now)
        })
    }

    /// Number of arrivals in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.arrivals.len()
    }

    /// When the next arrival is due.
    #[inline]
    pub(crate) fn next_arrival(&self) -> Nanos {
        let is_held = self.is_full() && self.is_holding();
        let is_starved = self.feed.as_ref().is_some_and(Feeding::is_starved);
        if is_held || is_starved {
            return Nanos::MAX;
        }
        self.sources.iter().filter_map(Source::next_at).min().unwrap_or(Nanos::MAX)
    }

    /// When the next other event is due: a deadline, a check of connection attempts, a stream's
    /// end.
    pub(crate) fn next_due(&self, now: Nanos) -> Nanos {
        let end = self.sources.iter().filter(|s| !s.is_over(now)).filter_map(Source::planned_end);
        let end = end.filter(|end| *end > now).min().unwrap_or(Nanos::MAX);
        let deadline = self.arrivals.first_due().map_or(Nanos::MAX, |(at, _)| at);
        deadline.min(self.opening.next_check).min(end).min(self.standings.next_due())
    }

    /// Whether there is work that can proceed at once.
    pub(crate) fn has_work(&self) -> bool {
        !self.unread.is_empty() || self.wants_to_open() || self.standings.has_work()
    }

    /// When the last arrival ended.
    pub(crate) fn last_end(&self) -> Nanos {
        self.last_end
    }

    /// Returns the counts up to `t`, including gauges, and continues counting in `fresh`.
    pub(crate) fn take_counts(&mut self, t: Nanos, fresh: Snapshot) -> Snapshot {
        let mut counts = self.recorder.take(fresh);
        counts.t = t;
        if let Some(capture) = &mut self.capture {
            capture.flush();
        }
        counts.in_flight = self.arrivals.len() as u64;
        counts.notes = self.notebook.take_notes();
        counts.connections.open = self.opening.established;
        counts.connections.peak = self.opening.established_peak;
        self.opening.established_peak = self.opening.established;
        for pool in &mut self.pools {
            pool.report(t, &mut counts.origins[pool.slot]);
        }
        for (place, source) in self.sources.iter().enumerate() {
            let (start, until) = source.sending(t);
            let last_answer = self.recorder.last_answer(place);
            counts.streams[place].active = window(self.reported_at, start, until, last_answer);
        }
        self.reported_at = t;
        counts
    }
}

/// The window since `since` in which a stream was active that began sending at `start` and sent
/// until `until`.
fn window(since: Nanos, start: Nanos, until: Nanos, last_answer: Nanos) -> Option<Window> {
    let from = since.max(start).min(until);
    let sent = until > from;
    if !sent && last_answer <= since.max(start) {
        return None;
    }
    Some(Window { from, planned_to: until, to: until.max(last_answer) })
}

/// Whether a connection has capacity but is not on its pool's free list. No arrival waits in a pool
/// while a connection is listed.
fn has_unlisted_capacity<K: crate::system::Socket>(connection: &Connection<K>) -> bool {
    !connection.listed && connection.capacity() > 0
}
