//! The event loop of one thread: dispatch due arrivals, read answers, open connections, end
//! arrivals past their deadline, sleep until the next event.
//!
//! This module decides *when*; [`crate::dispatch`] decides what happens to an arrival.
//!
//! # Reading before timing out
//! Deadlines are enforced only up to the start of the last poll whose reports were all handled:
//! whatever arrived by then has been read. A worker that was delayed by a second therefore first
//! reads what arrived during that second. After a long pause, or if a deadline has passed
//! meanwhile, the kernel's receive timestamps decide whether each answer was in time.

use crate::control::Command;
use crate::dispatch::{Dispatcher, Pause};
use crate::prepare::Shared;
use crate::running::{Report, Reporter};
use crate::system::{Message, READY_MAX, Readiness, System, Wait};
use crate::wake::{Plan, Wake};
use plimsoll_measure::{Nanos, WorkerTime};
use std::io;
use std::sync::Arc;

const SECOND: Nanos = Nanos::from_secs(1);
/// Maximum number of arrivals dispatched before sockets are read again.
const BATCH_MAX: usize = 128;
/// A worker that did not poll its sockets for this long was away.
const AWAY: Nanos = Nanos::from_millis(5);

/// One thread's share of a run.
pub(crate) struct Worker<S: System> {
    shared: Arc<Shared>,
    reporter: Reporter,
    dispatcher: Dispatcher<S>,
    wake: Wake,
    ready: Vec<(usize, Readiness)>,
    next_tick: Nanos,
    /// Number of stop commands received.
    stop_level: u8,
    /// When sending ended, if it has.
    sending_ended: Option<Nanos>,
    time: Time,
}

/// How the worker spends its time.
#[derive(Default)]
struct Time {
    /// When it last polled its sockets.
    last_poll: Nanos,
    /// Time asleep since the last tick.
    asleep: Nanos,
    spent: WorkerTime,
    ticked_at: Nanos,
}

impl<S: System> Worker<S> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        reporter: Reporter,
        dispatcher: Dispatcher<S>,
    ) -> Worker<S> {
        Worker {
            wake: Wake::new(shared.spin),
            shared,
            reporter,
            dispatcher,
            ready: Vec::with_capacity(READY_MAX),
            next_tick: SECOND,
            stop_level: 0,
            sending_ended: None,
            time: Time::default(),
        }
    }

    /// The machine that the worker runs on.
    pub(crate) fn system(&mut self) -> &mut S {
        &mut self.dispatcher.system
    }

    /// Runs until every arrival has ended.
    ///
    /// # Errors
    /// If polling or setting a timer fails: nothing can be measured then.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        while !self.iterate()? {}
        let end = self.dispatcher.system.now();
        self.report(end, true);
        self.dispatcher.close_all();
        self.dispatcher.system.finish_lingering();
        Ok(())
    }

    /// Runs one iteration; returns whether it was the last.
    fn iterate(&mut self) -> io::Result<bool> {
        let dispatched = self.dispatcher.dispatch_due(BATCH_MAX);
        let polled_at = self.wait(dispatched)?;
        self.handle_messages();
        let now = self.dispatcher.system.now();
        let away = now - self.time.last_poll;
        self.time.spent.pause_max = self.time.spent.pause_max.max(away);
        let was_away = away >= AWAY;
        if was_away {
            self.dispatcher.paused(Pause { from: self.time.last_poll, to: now });
        }
        self.time.last_poll = now;
        let stamping = was_away || self.dispatcher.is_any_due(now);
        let ready = std::mem::take(&mut self.ready);
        let mut seen = self.dispatcher.handle(&ready, polled_at, now, stamping);
        if ready.len() == READY_MAX {
            // The poll may have left out some connections.
            seen = Nanos::ZERO;
        }
        self.ready = ready;
        self.dispatcher.open_needed();
        self.dispatcher.time_out_due(seen, now);
        self.dispatcher.tend_standing(seen, now);
        self.dispatcher.check_attempts(seen);
        while now >= self.next_tick {
            self.tick();
        }
        Ok(self.is_done(seen, now))
    }

    /// Polls until the next event is due; returns when the poll began.
    fn wait(&mut self, dispatched: usize) -> io::Result<Nanos> {
        let now = self.dispatcher.system.now();
        let busy = dispatched == BATCH_MAX || self.dispatcher.has_work();
        let arrival = self.dispatcher.next_arrival();
        let other = self.next_other(now);
        let plan = if busy || other <= now || arrival <= now {
            self.dispatcher.system.wait(Wait::Not, &mut self.ready)?;
            return Ok(now);
        } else {
            self.wake.plan(arrival, other, now)
        };
        match plan {
            Plan::Spin => {
                self.dispatcher.system.wait(Wait::Not, &mut self.ready)?;
                if self.ready.is_empty() && dispatched == 0 {
                    let took = self.dispatcher.system.now() - now;
                    self.time.spent.spin += self.wake.spun(took);
                }
                Ok(now)
            }
            Plan::Sleep(at) => {
                self.dispatcher.system.wait(Wait::Until(at), &mut self.ready)?;
                let woken = self.dispatcher.system.now();
                self.time.asleep += woken - now;
                // Sleeping counts as polling, because readiness ends the sleep; but a worker that
                // is still asleep after its timer was due is away.
                self.time.last_poll = self.time.last_poll.max(woken.min(at));
                if self.ready.is_empty() {
                    self.wake.slept(at, woken);
                }
                Ok(now)
            }
        }
    }

    /// When the next event other than an arrival is due.
    fn next_other(&self, now: Nanos) -> Nanos {
        let mut at = self.next_tick.min(self.dispatcher.next_due(now));
        if let Some(ended) = self.sending_ended {
            at = at.min(ended + self.shared.plan.grace);
        }
        at
    }

    /// Handles pending messages.
    fn handle_messages(&mut self) {
        while let Some(message) = self.dispatcher.system.message() {
            match message {
                Message::Resolved(resolved) => self.dispatcher.on_resolved(resolved),
                // The next iteration dispatches the arrivals that waited for it.
                Message::Fed => {}
                Message::Command(Command::Stop) => {
                    self.stop_level = self.stop_level.saturating_add(1)
                }
                Message::Command(Command::Pace { stream, at, pacer, end }) => {
                    self.dispatcher.source(stream).pace(at, *pacer, end);
                }
                Message::Command(Command::HandOver { stream, at, shards, added, first }) => {
                    self.dispatcher.source(stream).hand_over(at, &shards, &added, first);
                }
            }
        }
    }

    /// Whether every arrival has ended; also ends sending and the grace period when they are over.
    fn is_done(&mut self, seen: Nanos, now: Nanos) -> bool {
        if self.stop_level >= 1 && self.sending_ended.is_none() {
            self.dispatcher.stop_sending(now);
            self.sending_ended = Some(now);
        }
        if self.sending_ended.is_none() && self.dispatcher.sending_is_over(now) {
            self.sending_ended = Some(now);
        }
        let Some(ended) = self.sending_ended else { return false };
        // By now, answers that arrived within the grace period were read and deadlines within it
        // were enforced.
        if self.stop_level >= 2 || seen >= ended + self.shared.plan.grace {
            self.dispatcher.abort_all(now);
        }
        self.dispatcher.in_flight() == 0
    }

    fn tick(&mut self) {
        let t = self.next_tick;
        self.report(t, false);
        self.wake.second(t);
        self.dispatcher.refresh_names(t);
        self.next_tick += SECOND;
    }

    fn report(&mut self, t: Nanos, last: bool) {
        let mut counts = self.dispatcher.take_counts(t, self.reporter.fresh());
        let time = &mut self.time;
        let idle = time.asleep + time.spent.spin;
        time.spent.busy_max = (t - time.ticked_at) - idle;
        counts.workers = std::mem::take(&mut time.spent);
        (time.asleep, time.ticked_at) = (Nanos::ZERO, t);
        self.reporter.send(Report {
            worker: self.reporter.worker,
            counts,
            last: last.then_some(self.dispatcher.last_end()),
            traces: self.dispatcher.take_traces(),
        });
    }
}
