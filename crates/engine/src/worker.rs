//! The event loop of one thread: take up what is due, give up what is late, read what has come,
//! sleep until the next of these.
//!
//! It decides *when*; what happens to an arrival is [`crate::dispatch`]'s.

use crate::arrivals::Source;
use crate::connection::Readiness;
use crate::dispatch::Dispatcher;
use crate::request::Request;
use crate::resolve::{Question, Resolved};
use crate::run::{Report, Settings, Stop};
use crate::timer::{Timer, minimize_slack};
use mio::{Events, Poll, Token, Waker};
use plimsoll_measure::{Clock, ErrorClass, Nanos, Snapshot};
use plimsoll_plan::{Plan, Shards};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

/// What all workers of a run share; nothing of it is written on the hot path.
pub(crate) struct Shared<'p> {
    pub(crate) plan: &'p Plan,
    /// For each turn of the plan.
    pub(crate) requests: Vec<Request>,
    pub(crate) clock: Clock,
    pub(crate) stop: Stop,
    pub(crate) settings: Settings,
    /// How many exchanges are still to be shown whole.
    pub(crate) traces_left: AtomicI64,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

/// How a worker talks to the collector.
pub(crate) struct Lines {
    pub(crate) reports: Sender<Report>,
    /// Snapshots that the collector has emptied.
    pub(crate) emptied: Receiver<Snapshot>,
    pub(crate) resolver: Sender<Question>,
    pub(crate) resolved: (Sender<Resolved>, Receiver<Resolved>),
}

const TIMER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
const SECOND: Nanos = Nanos::from_secs(1);
/// What is due this soon is waited for awake. To sleep and be woken costs 10 to 30 µs of CPU time (more
/// in a virtual machine, where setting the timer leaves the guest), so that sleeping for less saves
/// nothing and only makes the worker late.
const AWAKE: Nanos = Nanos(25_000);
/// More arrivals than this are not taken up without reading in between.
const TAKEN_MAX: usize = 128;

/// One thread's share of a run.
pub(crate) struct Worker<'p> {
    shared: &'p Shared<'p>,
    index: usize,
    lines: Lines,
    poll: Poll,
    timer: Timer,
    dispatcher: Dispatcher<'p>,
    next_tick: Nanos,
    /// When sending ended, once it has.
    sending_ended: Option<Nanos>,
}

impl<'p> Worker<'p> {
    /// A worker with its share: part `index` of `settings.workers`.
    pub(crate) fn new(
        shared: &'p Shared<'p>,
        index: usize,
        lines: Lines,
        pools: Vec<crate::pool::Pool>,
    ) -> io::Result<(Worker<'p>, Arc<Waker>)> {
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry(), TIMER)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let shards = Shards::part(index, shared.settings.workers);
        let plan = shared.plan;
        let sources =
            plan.streams.iter().map(|stream| Source::new(plan, stream, &shards)).collect();
        let questions = (lines.resolver.clone(), lines.resolved.0.clone(), waker.clone());
        let registry = poll.registry().try_clone()?;
        let dispatcher = Dispatcher::new(shared, registry, sources, pools, questions);
        let worker = Worker {
            shared,
            index,
            lines,
            poll,
            timer,
            dispatcher,
            next_tick: SECOND,
            sending_ended: None,
        };
        Ok((worker, waker))
    }

    /// Works until every arrival's fate is known.
    ///
    /// # Errors
    /// The kernel refuses to poll or to set a timer: nothing can be measured any more.
    pub(crate) fn work(mut self) -> io::Result<()> {
        minimize_slack();
        let mut events = Events::with_capacity(1024);
        while self.shared.clock.until_start() > Nanos::ZERO {
            self.poll.poll(&mut events, Some(self.shared.clock.until_start().into()))?;
        }
        loop {
            let now = self.shared.clock.now();
            let taken = self.dispatcher.take_up_due(TAKEN_MAX);
            self.dispatcher.give_up_late(now);
            while now >= self.next_tick {
                self.report(self.next_tick, false);
                self.next_tick += SECOND;
            }
            if self.is_done(now) {
                break;
            }
            let busy = taken == TAKEN_MAX || self.dispatcher.wants_to_open();
            self.sleep(&mut events, busy)?;
            self.handle(&events);
            self.dispatcher.open_needed();
        }
        let end = self.shared.clock.now();
        self.report(end, true);
        self.dispatcher.close_all();
        Ok(())
    }

    fn handle(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                TIMER => {}
                WAKER => {
                    while let Ok(resolved) = self.lines.resolved.1.try_recv() {
                        self.dispatcher.learn(resolved);
                    }
                }
                Token(key) => {
                    let ready = Readiness {
                        readable: event.is_readable() || event.is_error(),
                        writable: event.is_writable(),
                        read_closed: event.is_read_closed(),
                    };
                    self.dispatcher.on_ready(key, ready);
                }
            }
        }
    }

    /// Waits for the poll, until the next thing is due.
    fn sleep(&mut self, events: &mut Events, busy: bool) -> io::Result<()> {
        let now = self.shared.clock.now();
        let at = self.next_wake();
        let wait = if busy || self.shared.settings.spin || at <= now + AWAKE {
            Some(Duration::ZERO)
        } else {
            self.timer.arm(at, now)?;
            None
        };
        match self.poll.poll(events, wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    fn next_wake(&self) -> Nanos {
        let mut at = self.next_tick.min(self.dispatcher.next_due());
        if let Some(ended) = self.sending_ended {
            at = at.min(ended + self.shared.plan.grace);
        }
        at
    }

    /// Whether every arrival's fate is known; ends the sending and the grace when it is time.
    fn is_done(&mut self, now: Nanos) -> bool {
        let level = self.shared.stop.level();
        if level >= 1 && self.sending_ended.is_none() {
            self.dispatcher.stop_sending(now);
            self.sending_ended = Some(now);
        }
        if self.sending_ended.is_none() && self.dispatcher.sending_is_over(now) {
            self.sending_ended = Some(now);
        }
        let Some(ended) = self.sending_ended else { return false };
        if level >= 2 || now >= ended + self.shared.plan.grace {
            self.dispatcher.give_up_all(ErrorClass::Aborted, now);
        }
        self.dispatcher.in_flight() == 0
    }

    fn report(&mut self, t: Nanos, last: bool) {
        let fresh = match self.lines.emptied.try_recv() {
            Ok(snapshot) => snapshot,
            Err(_) => Snapshot::new(self.shared.plan.targets.len(), self.shared.plan.streams.len()),
        };
        let counts = self.dispatcher.take_counts(t, fresh);
        let (window_end, last_end) = self.dispatcher.ends();
        let report = Report {
            worker: self.index,
            counts,
            last,
            window_end,
            last_end,
            notes: self.dispatcher.take_notes(),
            traces: self.dispatcher.take_traces(),
        };
        // The collector outlives the workers unless it panicked, and then the run is lost anyway.
        let _ = self.lines.reports.send(report);
    }
}
