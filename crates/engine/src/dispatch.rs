//! An arrival's way to a connection, and its end.
//!
//! One dispatcher for the open and the closed model and for every protocol. An arrival takes a free
//! connection at once, or waits in its pool while one is opened for it, up to the limit. Its end is
//! reported to the recorder exactly once, by [`Dispatcher::finish`].
//!
//! Below it: `take_up` (arrivals that are due), `events` (what connections report), `open`
//! (connections are opened and lost), `step` (what follows an answer), `time_out`, `notes`.

mod events;
mod notes;
mod open;
mod step;
mod take_up;
mod time_out;

use self::events::Unread;
use self::notes::Notebook;
use self::open::Opening;
use self::step::{request_of, values_of};
use crate::arrival::{Arrival, Arrivals, Id, State};
use crate::connection::{Connection, Held, Lent, Outgoing, Started};
use crate::judge::{Judgement, Why};
use crate::pool::{Pool, Waiting};
use crate::prepare::Shared;
use crate::recorder::{Finished, Recorder};
use crate::source::Source;
use crate::system::{Readiness, System};
use plimsoll_measure::{ErrorClass, Nanos, Snapshot, Window};
use slab::Slab;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// More arrivals than this are not kept waiting by a worker: they end at once, unsent.
const WAITING_MAX: usize = 250_000;
/// A connection reads this often before others have their share.
const READS: usize = 1;
/// Time lost to less than this share of an arrival's time is not what made it fail.
const MATERIAL: u64 = 10;

/// What the end of an exchange gives rise to.
enum Next {
    /// The stream's next arrival: a user without pause sends again at once.
    Arrival(usize),
    /// The next request of an arrival.
    Request(Id),
}

/// A stretch in which the worker did not look at its sockets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    pub(crate) from: Nanos,
    pub(crate) to: Nanos,
}

/// What is used again and again and grows only to what it needs.
struct Buffers {
    lent: Lent,
    out: Vec<u8>,
    body: Vec<u8>,
    decoded: Vec<u8>,
}

/// The arrivals on their way, and the connections that carry them.
pub(crate) struct Dispatcher<S: System> {
    pub(crate) system: S,
    shared: Arc<Shared>,
    sources: Vec<Source>,
    arrivals: Arrivals,
    pools: Vec<Pool>,
    connections: Slab<Connection<S::Socket>>,
    opening: Opening,
    /// Connections that wait to be read.
    unread: VecDeque<Unread>,
    /// The last reading of the clock, for what needs no later one.
    clock: Nanos,
    recorder: Recorder,
    /// Empty but while a connection reports what happened.
    next: VecDeque<Next>,
    buffers: Buffers,
    notebook: Notebook,
    /// How late the last arrival was taken up.
    lag: Nanos,
    /// The last pause.
    pause: Option<Pause>,
    /// Whether the kernel is asked when what is read now arrived.
    stamping: bool,
    /// By stream, how many arrivals may still be taken up in this iteration.
    allowance: Vec<usize>,
    reported_at: Nanos,
    last_end: Nanos,
}

impl<S: System> Dispatcher<S> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        system: S,
        sources: Vec<Source>,
        pools: Vec<Pool>,
    ) -> Dispatcher<S> {
        let held = Held::up_to(shared.held_max);
        let lent = Lent { scratch: vec![0; shared.read_max], held };
        let (out, body, decoded) = (Vec::new(), Vec::new(), Vec::new());
        Dispatcher {
            system,
            arrivals: Arrivals::new(shared.plan.streams.len()),
            recorder: Recorder::new(shared.plan.blank_snapshot()),
            allowance: vec![0; sources.len()],
            shared,
            sources,
            pools,
            connections: Slab::new(),
            opening: Opening::default(),
            unread: VecDeque::new(),
            clock: Nanos::ZERO,
            next: VecDeque::new(),
            buffers: Buffers { lent, out, body, decoded },
            notebook: Notebook::default(),
            lag: Nanos::ZERO,
            pause: None,
            stamping: false,
            reported_at: Nanos::ZERO,
            last_end: Nanos::ZERO,
        }
    }

    /// Sends an arrival's request on a free connection, or lets it wait for one.
    #[inline]
    fn deliver(&mut self, pool: usize, id: Id, now: Nanos) {
        self.pools[pool].want();
        while let Some(key) = self.take_free(pool) {
            if self.send(key, id, now) {
                return self.offer(key, now);
            }
        }
        let waiting = self.waiting(id);
        let state = &mut self.pools[pool];
        if state.waiting_live >= WAITING_MAX {
            return self.fail(id, now, Why::of(ErrorClass::NoConnection));
        }
        state.waiting.push_back(waiting);
        state.waiting_live += 1;
        self.may_need_connections(pool);
    }

    /// A connection with capacity, taken off its pool's list.
    #[inline]
    fn take_free(&mut self, pool: usize) -> Option<usize> {
        while let Some(key) = self.pools[pool].take_free() {
            let connection = &mut self.connections[key as usize];
            connection.listed = false;
            // The other side may have taken back what it allowed.
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
            seq: arrival.seq,
        }
    }

    /// The arrival that has waited longest and can still be answered in time. One that cannot would
    /// cost a connection, and the target would be blamed for it.
    fn next_waiting(&mut self, pool: usize, now: Nanos) -> Option<Id> {
        while let Some(waiting) = self.pools[pool].waiting.pop_front() {
            if !self.is_waiting(&waiting) {
                continue;
            }
            self.leave_queue(pool, now);
            let (id, arrival) = (waiting.arrival, &self.arrivals[waiting.arrival]);
            if self.is_in_vain(arrival, pool, now) {
                self.fail_unserved(id, pool, now);
                continue;
            }
            return Some(id);
        }
        None
    }

    /// Whether an arrival that has waited in a pool is not worth sending any more.
    fn is_in_vain(&self, arrival: &Arrival, pool: usize, now: Nanos) -> bool {
        if arrival.deadline <= now {
            return true;
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

    /// One arrival less waits.
    fn leave_queue(&mut self, pool: usize, now: Nanos) {
        let state = &mut self.pools[pool];
        state.waiting_live -= 1;
        if state.waiting_live == 0 {
            state.uncap(now);
        }
    }

    /// Whether an entry still stands for an arrival that waits.
    fn is_waiting(&self, waiting: &Waiting) -> bool {
        self.arrivals.get(waiting.arrival).is_some_and(|arrival| {
            arrival.exchange.state == State::Waiting
                && arrival.seq == waiting.seq
                && arrival.stream == waiting.stream
                && arrival.scheduled_at == waiting.scheduled_at
        })
    }

    /// Forgets entries at the front whose arrivals wait no more.
    fn forget_ended(&mut self, pool: usize) {
        while let Some(waiting) = self.pools[pool].waiting.front()
            && !self.is_waiting(waiting)
        {
            self.pools[pool].waiting.pop_front();
        }
    }

    /// Hands the arrival's request to a connection that has capacity; whether it was taken.
    fn send(&mut self, key: usize, id: Id, now: Nanos) -> bool {
        let shared = &self.shared;
        let arrival = &self.arrivals[id];
        let trace = shared.traces_left.load(Ordering::Relaxed) > 0
            && shared.traces_left.fetch_sub(1, Ordering::Relaxed) > 0;
        let outgoing = Outgoing {
            arrival: id,
            request: request_of(shared, arrival),
            values: values_of(shared, arrival),
            body_max: shared.plan.body_max,
            // Bodies are kept only where a check needs them.
            keep_body: shared.plan.requests[arrival.exchange.request as usize].expect.reads_body(),
            last: !shared.plan.connections.reuse,
            trace,
        };
        let connection = &mut self.connections[key];
        let buffers = (&mut self.buffers.out, &mut self.buffers.body);
        let (sent, bytes) = match connection.start(outgoing, buffers) {
            Started::Sent { bytes } => (true, bytes),
            Started::Held { bytes } => (false, bytes),
            Started::Refused => {
                if trace {
                    self.shared.traces_left.fetch_add(1, Ordering::Relaxed);
                }
                self.on_ready(key, Readiness::NONE);
                return false;
            }
        };
        if trace {
            self.notebook.tracing.push(id);
        }
        let pool = &mut self.pools[connection.pool as usize];
        let arrival = self.arrivals.get_mut(id);
        let waited_at_limit = pool.was_capped(arrival.exchange.since);
        arrival.exchange.capped = pool.begin(now) || waited_at_limit;
        arrival.exchange.state = State::OnConnection(key as u32);
        arrival.bytes_out += bytes;
        if sent {
            arrival.sent(now);
            self.recorder.sent(arrival, now);
        }
        true
    }

    /// Uses the capacity that a connection has: for a waiting arrival or the next one.
    #[inline]
    fn offer(&mut self, key: usize, now: Nanos) {
        while let Some(connection) = self.connections.get(key)
            && has_unlisted_capacity(connection)
        {
            let (pool, address) = (connection.pool as usize, connection.address as usize);
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
                None => {
                    self.connections[key].listed = true;
                    self.pools[pool].addresses[address].free.push(key as u32);
                }
            }
        }
    }

    /// An arrival ends without an answer.
    fn fail(&mut self, id: Id, now: Nanos, why: Why) {
        self.finish(id, now, None, Judgement { outcome: Err(why), rpc_code: None });
    }

    /// Reports an arrival's end to the recorder, and to its user, who may go on. `status` is that
    /// of a whole response.
    fn finish(&mut self, id: Id, ended_at: Nanos, status: Option<u16>, judgement: Judgement) {
        let arrival = self.arrivals.remove(id);
        self.recorder.finish(&Finished { arrival: &arrival, ended_at, status, judgement });
        self.last_end = self.last_end.max(ended_at);
        if let Some(user) = arrival.user {
            self.sources[arrival.stream as usize].ended(user, ended_at);
        }
    }

    /// Stops sending.
    pub(crate) fn stop_sending(&mut self, now: Nanos) {
        self.sources.iter_mut().for_each(|source| source.stop(now));
    }

    /// The arrivals of a stream.
    pub(crate) fn source(&mut self, stream: usize) -> &mut Source {
        &mut self.sources[stream]
    }

    /// Whether no arrival will come any more.
    pub(crate) fn sending_is_over(&self, now: Nanos) -> bool {
        self.sources.iter().all(|source| {
            source.is_over(now)
                || source.planned_end().is_some_and(|end| now >= end)
                    && source.next_at().is_none_or(|at| at > now)
        })
    }

    /// How many arrivals are on their way.
    pub(crate) fn in_flight(&self) -> usize {
        self.arrivals.len()
    }

    /// When an arrival is due next.
    #[inline]
    pub(crate) fn next_arrival(&self) -> Nanos {
        self.sources.iter().filter_map(Source::next_at).min().unwrap_or(Nanos::MAX)
    }

    /// When something else is due next: a deadline, an attempt to connect, a stream's end.
    pub(crate) fn next_due(&self, now: Nanos) -> Nanos {
        let end = self.sources.iter().filter(|s| !s.is_over(now)).filter_map(Source::planned_end);
        let end = end.filter(|end| *end > now).min().unwrap_or(Nanos::MAX);
        let deadline = self.arrivals.first_due().map_or(Nanos::MAX, |(at, _)| at);
        deadline.min(self.opening.next_check).min(end)
    }

    /// Whether there is work that waits for nothing but its turn.
    pub(crate) fn has_work(&self) -> bool {
        !self.unread.is_empty() || self.wants_to_open()
    }

    /// When the last arrival ended.
    pub(crate) fn last_end(&self) -> Nanos {
        self.last_end
    }

    /// Hands out what was counted up to `t`, with its gauges, and goes on counting in `fresh`.
    pub(crate) fn take_counts(&mut self, t: Nanos, fresh: Snapshot) -> Snapshot {
        let mut counts = std::mem::replace(&mut self.recorder.counts, fresh);
        counts.t = t;
        counts.in_flight = self.arrivals.len() as u64;
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

/// When a stream was active since `since`, whose sending began at `start` and went on `until`.
fn window(since: Nanos, start: Nanos, until: Nanos, last_answer: Nanos) -> Option<Window> {
    let from = since.max(start).min(until);
    let sent = until > from;
    if !sent && last_answer <= since.max(start) {
        return None;
    }
    Some(Window { from, planned_to: until, to: until.max(last_answer) })
}

/// Whether nobody knows of its capacity yet. While one is listed, nobody waits in its pool.
fn has_unlisted_capacity<K: crate::system::Socket>(connection: &Connection<K>) -> bool {
    !connection.listed && connection.capacity() > 0
}
