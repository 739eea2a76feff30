//! An arrival's way to a connection, and its end.
//!
//! One dispatcher for the open and the closed model and for every protocol. An arrival takes a free
//! connection at once, or waits in its pool while one is opened for it, up to the limit. Its end is
//! told to the recorder exactly once, by [`Dispatcher::finish`].
//!
//! Below it: `open` (connections come and go), `step` (what follows an answer), `give_up`, `notes`.

mod give_up;
mod notes;
mod open;
mod step;

use self::notes::{excerpt, note};
use self::step::{Step, draw_of, request_of, step};
use crate::arrivals::{Due, Source};
use crate::connection::{Connection, Event, Outgoing, Readiness, Started};
use crate::exchange::{Exchange, Exchanges, Id};
use crate::judge::Verdict;
use crate::pool::{Pool, Waiting};
use crate::recorder::{Finished, Recorder};
use crate::resolve::{Question, Resolved};
use crate::run::TraceRecord;
use crate::worker::Shared;
use mio::{Registry, Waker};
use plimsoll_measure::{Closed, ErrorClass, Nanos, Note, RpcCounts, Snapshot};
use slab::Slab;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

/// One read takes at most this much.
const SCRATCH: usize = 64 << 10;
/// More arrivals than this are not kept waiting by a worker: they are given up at once.
const WAITING_MAX: usize = 250_000;

/// What an end gives rise to.
enum Next {
    /// The stream's next arrival: a user without pause sends again at once.
    Arrival(usize),
    /// The next request of an arrival.
    Request(Id),
}

/// The arrivals on their way, and the connections that carry them.
pub(crate) struct Dispatcher<'p> {
    shared: &'p Shared<'p>,
    registry: Registry,
    questions: (Sender<Question>, Sender<Resolved>, Arc<Waker>),
    sources: Vec<Source>,
    exchanges: Exchanges,
    pools: Vec<Pool>,
    connections: Slab<Connection>,
    /// Connections that are not established, by when they are given up.
    attempts: VecDeque<(Nanos, usize, Nanos)>,
    /// How late the last arrival was taken up.
    lag: Nanos,
    /// Pools in which somebody may have to wait for a connection that is not opened yet.
    unopened: VecDeque<usize>,
    established: u64,
    established_peak: u64,
    recorder: Recorder,
    /// Empty but while a connection tells what happened.
    next: VecDeque<Next>,
    warm_rpc: RpcCounts,
    scratch: Vec<u8>,
    out: Vec<u8>,
    body: Vec<u8>,
    decoded: Vec<u8>,
    noted: [bool; ErrorClass::ALL.len()],
    notes: Vec<Note>,
    tracing: Vec<Id>,
    traces: Vec<TraceRecord>,
    window_end: Nanos,
    last_end: Nanos,
}

impl<'p> Dispatcher<'p> {
    pub(crate) fn new(
        shared: &'p Shared<'p>,
        registry: Registry,
        sources: Vec<Source>,
        pools: Vec<Pool>,
        questions: (Sender<Question>, Sender<Resolved>, Arc<Waker>),
    ) -> Dispatcher<'p> {
        let plan = shared.plan;
        Dispatcher {
            shared,
            registry,
            questions,
            sources,
            exchanges: Exchanges::new(plan.streams.len()),
            pools,
            connections: Slab::new(),
            attempts: VecDeque::new(),
            lag: Nanos::ZERO,
            unopened: VecDeque::new(),
            established: 0,
            established_peak: 0,
            recorder: Recorder::new(Snapshot::new(plan.targets.len(), plan.streams.len())),
            next: VecDeque::new(),
            warm_rpc: RpcCounts::default(),
            scratch: vec![0; SCRATCH],
            out: Vec::new(),
            body: Vec::new(),
            decoded: Vec::new(),
            noted: [false; ErrorClass::ALL.len()],
            notes: Vec::new(),
            tracing: Vec::new(),
            traces: Vec::new(),
            window_end: Nanos::ZERO,
            last_end: Nanos::ZERO,
        }
    }

    /// Takes up arrivals that are due, at most `most`; how many it took.
    pub(crate) fn take_up_due(&mut self, most: usize) -> usize {
        let mut taken = 0;
        for stream in 0..self.sources.len() {
            // Users who fail at once are due at once: each has one turn.
            let ready = self.sources[stream].ready_len();
            let most = if ready > 0 { most.min(taken + ready) } else { most };
            while taken < most && self.take_up_one(stream) {
                taken += 1;
            }
        }
        taken
    }

    #[inline]
    fn take_up_one(&mut self, stream: usize) -> bool {
        let now = self.shared.clock.now();
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
        let plan = self.shared.plan;
        let dealt = plan.streams[stream].deck.deal(due.seq);
        let target = plan.streams[stream].targets.start + dealt.target;
        let turn = plan.targets[target].turn(dealt.number);
        let mut exchange = Exchange::new(stream as u16, target as u32, due.seq, due.scheduled_at);
        exchange.turn = turn as u32;
        exchange.warm = due.warm;
        exchange.user = due.user;
        exchange.dispatched_at = now;
        exchange.deadline = due.scheduled_at + plan.timeout;
        let id = self.exchanges.insert(exchange);
        self.deliver(self.shared.requests[turn].pool, id, now);
    }

    /// Sends an arrival's request on a free connection, or lets it wait for one.
    #[inline]
    fn deliver(&mut self, pool: usize, id: Id, now: Nanos) {
        while let Some(key) = self.take_free(pool) {
            if self.send(key, id, now) {
                return self.offer(key, now);
            }
        }
        if self.pools[pool].waiting_live >= WAITING_MAX {
            self.finish(id, now, None, Err((ErrorClass::NoConnection, None)));
        } else {
            let waiting = self.waiting(id);
            let pool_state = &mut self.pools[pool];
            pool_state.waiting.push_back(waiting);
            pool_state.waiting_live += 1;
            self.may_need_connections(pool);
        }
    }

    /// A connection with capacity, taken off its pool's list.
    #[inline]
    fn take_free(&mut self, pool: usize) -> Option<usize> {
        while let Some(key) = self.pools[pool].free.pop() {
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
        let exchange = self.exchanges.get(id).expect("a waiting arrival is on its way");
        Waiting { exchange: id, scheduled_at: exchange.scheduled_at, seq: exchange.seq }
    }

    /// The arrival that has waited longest and is not late yet: what is late would cost a connection
    /// and blame the target.
    fn next_waiting(&mut self, pool: usize, now: Nanos) -> Option<Id> {
        while let Some(waiting) = self.pools[pool].waiting.pop_front() {
            if self.is_waiting(&waiting, now) {
                self.pools[pool].waiting_live -= 1;
                return Some(waiting.exchange);
            }
        }
        None
    }

    /// Whether an entry still stands for an arrival that waits, and may be sent at `now`.
    fn is_waiting(&self, waiting: &Waiting, now: Nanos) -> bool {
        self.exchanges.get(waiting.exchange).is_some_and(|exchange| {
            exchange.connection.is_none()
                && exchange.seq == waiting.seq
                && exchange.scheduled_at == waiting.scheduled_at
                && exchange.deadline > now
        })
    }

    /// Forgets entries at the front that stand for nobody any more.
    fn forget_late(&mut self, pool: usize, now: Nanos) {
        while let Some(waiting) = self.pools[pool].waiting.front()
            && !self.is_waiting(waiting, now)
        {
            self.pools[pool].waiting.pop_front();
        }
    }

    /// Hands the arrival's request to a connection that has capacity; whether it was taken.
    fn send(&mut self, key: usize, id: Id, now: Nanos) -> bool {
        let shared = self.shared;
        let exchange = self.exchanges.get(id).expect("what is sent is on its way");
        let trace = shared.traces_left.load(Ordering::Relaxed) > 0
            && shared.traces_left.fetch_sub(1, Ordering::Relaxed) > 0;
        let outgoing = Outgoing {
            exchange: id,
            request: request_of(shared, exchange),
            draw: draw_of(shared, exchange),
            body_max: shared.plan.body_max,
            // Bodies are kept only where a check needs them.
            keep_body: shared.plan.turns[exchange.turn as usize].expect.reads_body(),
            last: !shared.plan.connections.reuse,
            trace,
        };
        let connection = &mut self.connections[key];
        let (sent, bytes) = match connection.start(outgoing, (&mut self.out, &mut self.body)) {
            Started::Sent { bytes } => (true, bytes),
            Started::Held { bytes } => (false, bytes),
            Started::Refused => {
                if trace {
                    shared.traces_left.fetch_add(1, Ordering::Relaxed);
                }
                self.on_ready(key, Readiness::NONE);
                return false;
            }
        };
        if trace {
            self.tracing.push(id);
        }
        let exchange = self.exchanges.get_mut(id);
        exchange.connection = Some(key as u32);
        exchange.bytes_out += bytes;
        if sent && !exchange.was_sent() {
            exchange.sent_at = now;
        }
        true
    }

    /// Tells what the poll said of a connection. Only when the connection has told all is its
    /// capacity used again: an end that came with an answer is known by then.
    pub(crate) fn on_ready(&mut self, key: usize, mut ready: Readiness) {
        let mut last = None;
        while let Some(connection) = self.connections.get_mut(key)
            && let Some(event) = connection.next(&mut ready, &mut self.scratch)
        {
            let now = *last.insert(self.shared.clock.now());
            match event {
                Event::Established => {
                    let pool = connection.pool as usize;
                    self.may_need_connections(pool);
                    self.pools[pool].connecting -= 1;
                    self.established += 1;
                    self.established_peak = self.established_peak.max(self.established);
                    self.recorder.counts.connections.opened += 1;
                }
                Event::Sent { exchange } => {
                    let exchange = self.exchanges.get_mut(exchange);
                    // An arrival is sent once, whatever redirects it follows.
                    if !exchange.was_sent() {
                        exchange.sent_at = now;
                    }
                }
                Event::Answered { exchange: id, bytes, answer } => {
                    let status = answer.status;
                    let exchange = self.exchanges.get_mut(id);
                    exchange.bytes_in += bytes;
                    let rpc = if exchange.warm {
                        &mut self.warm_rpc
                    } else {
                        &mut self.recorder.counts.rpc
                    };
                    let buffers = (&mut self.body, &mut self.decoded);
                    let exchange = &*exchange;
                    let step = step(self.shared, exchange, &answer, buffers, rpc);
                    if let Step::Finish(Err((class, fault))) = &step
                        && !self.noted[class.index()]
                    {
                        let text = match fault {
                            Some(fault) => format!("{fault} (status {status})"),
                            None => format!("status {status}, body {}", excerpt(answer.body)),
                        };
                        note(&mut self.noted, &mut self.notes, self.shared, exchange, *class, text);
                    }
                    self.answered(key, id, now, status, step);
                }
                Event::Failed { exchange: id, bytes, failure } => {
                    self.exchanges.get_mut(id).bytes_in += bytes;
                    self.note_failure(id, &failure);
                    self.end_trace(key, id);
                    self.finish(id, now, None, Err((failure.class, failure.fault)));
                }
                Event::Closed { why, failure } => {
                    self.lose(key, why, failure, now);
                    break;
                }
            }
        }
        if self.connections.get(key).is_some_and(has_unlisted_capacity) {
            self.offer(key, last.unwrap_or_else(|| self.shared.clock.now()));
        }
        while let Some(next) = self.next.pop_front() {
            match next {
                Next::Arrival(stream) => _ = self.take_up_one(stream),
                Next::Request(id) => {
                    let exchange = self.exchanges.get(id).expect("what goes on is on its way");
                    let pool = request_of(self.shared, exchange).pool;
                    self.deliver(pool, id, self.shared.clock.now());
                }
            }
        }
    }

    fn answered(&mut self, key: usize, id: Id, now: Nanos, status: u16, step: Step) {
        self.end_trace(key, id);
        match step {
            Step::Finish(verdict) => {
                let exchange = self.exchanges.get(id).expect("what was answered is on its way");
                if exchange.user != u32::MAX {
                    self.next.push_back(Next::Arrival(exchange.stream as usize));
                }
                self.finish(id, now, Some(status), verdict);
            }
            Step::Follow(hop) => self.follow(id, hop, now),
        }
    }

    /// Uses the capacity that a connection has: for who waits, or for who comes.
    #[inline]
    fn offer(&mut self, key: usize, now: Nanos) {
        while let Some(connection) = self.connections.get(key)
            && has_unlisted_capacity(connection)
        {
            let pool = connection.pool as usize;
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
                    self.pools[pool].free.push(key as u32);
                }
            }
        }
    }

    /// Tells the recorder an arrival's fate, and its user that he may go on. `status` is that of a
    /// whole response.
    fn finish(&mut self, id: Id, ended_at: Nanos, status: Option<u16>, outcome: Verdict) {
        let exchange = self.exchanges.remove(id);
        self.recorder.finish(&Finished {
            exchange: &exchange,
            ended_at,
            whole: status.is_some(),
            status: status.unwrap_or(0),
            outcome,
        });
        self.last_end = self.last_end.max(ended_at);
        if exchange.user != u32::MAX {
            self.sources[exchange.stream as usize].answered(exchange.user, ended_at);
        }
    }

    /// Stops sending.
    pub(crate) fn stop_sending(&mut self, now: Nanos) {
        self.sources.iter_mut().for_each(|source| source.stop(now));
        self.window_end = self.window_end.max(now);
    }

    /// Whether no arrival will come any more.
    pub(crate) fn sending_is_over(&self, now: Nanos) -> bool {
        self.sources.iter().all(|source| {
            source.is_over()
                || source.planned_end().is_some_and(|end| now >= end)
                    && source.next_at().is_none_or(|at| at > now)
        })
    }

    /// How many arrivals are on their way.
    pub(crate) fn in_flight(&self) -> usize {
        self.exchanges.len()
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Nanos {
        let arrival = self.sources.iter().filter_map(Source::next_at).min();
        let end = self.sources.iter().filter(|s| !s.is_over()).filter_map(Source::planned_end);
        let late = self.exchanges.first_due().map(|(at, _)| at);
        let attempt = self.attempts.front().map(|(at, ..)| *at);
        let end = end.filter(|end| *end > self.shared.clock.now()).min();
        [arrival, late, attempt, end].into_iter().flatten().min().unwrap_or(Nanos::MAX)
    }

    /// Sending ended at the first; the last fate was known at the second.
    pub(crate) fn ends(&self) -> (Nanos, Nanos) {
        let planned = self.sources.iter().map(|s| s.planned_end().unwrap_or(self.last_end));
        let window_end = planned.max().unwrap_or(Nanos::ZERO).max(self.window_end);
        (window_end, self.last_end)
    }

    /// Hands out what was counted, with its gauges, and goes on counting in `fresh`.
    pub(crate) fn take_counts(&mut self, t: Nanos, fresh: Snapshot) -> Snapshot {
        let mut counts = std::mem::replace(&mut self.recorder.counts, fresh);
        counts.t = t;
        counts.in_flight = self.exchanges.len() as u64;
        counts.connections.open = self.established;
        counts.connections.peak = self.established_peak;
        self.established_peak = self.established;
        counts
    }
}

/// Whether nobody knows of its capacity yet. While one is listed, nobody waits in its pool.
fn has_unlisted_capacity(connection: &Connection) -> bool {
    !connection.listed && connection.capacity() > 0
}
