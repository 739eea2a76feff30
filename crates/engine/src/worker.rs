//! The event loop of one thread: take up what is due, read what has come, open connections, end what
//! is past its deadline, sleep until the next of these.
//!
//! It decides *when*; what happens to an arrival is [`crate::dispatch`]'s.
//!
//! # Reading before giving up
//! A deadline is enforced only up to the instant at which the last poll began whose reports were all
//! handled: whatever arrived by then has been read. A worker that was held up for a second therefore
//! first reads what came during that second. When it was away for long, or a deadline has passed
//! meanwhile, the kernel is asked when each answer arrived, and that decides whether it was in time.

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
/// More arrivals than this are not taken up without reading in between.
const TAKEN_MAX: usize = 128;
/// A worker that did not look at its sockets for this long was away.
const AWAY: Nanos = Nanos::from_millis(5);

/// One thread's share of a run.
pub(crate) struct Worker<S: System> {
    shared: Arc<Shared>,
    reporter: Reporter,
    dispatcher: Dispatcher<S>,
    wake: Wake,
    ready: Vec<(usize, Readiness)>,
    next_tick: Nanos,
    /// How often it was told to stop.
    stop_level: u8,
    /// When sending ended, once it has.
    sending_ended: Option<Nanos>,
    time: Time,
}

/// Where a worker's time goes.
#[derive(Default)]
struct Time {
    /// When it last looked at its sockets.
    looked_at: Nanos,
    /// Since the last tick.
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

    /// The machine that it runs on.
    pub(crate) fn system(&mut self) -> &mut S {
        &mut self.dispatcher.system
    }

    /// Works until every arrival has ended.
    ///
    /// # Errors
    /// The kernel refuses to poll or to set a timer: nothing can be measured any more.
    pub(crate) fn work(&mut self) -> io::Result<()> {
        while !self.iterate()? {}
        let end = self.dispatcher.system.now();
        self.report(end, true);
        self.dispatcher.close_all();
        Ok(())
    }

    /// One iteration; whether it was the last.
    fn iterate(&mut self) -> io::Result<bool> {
        let taken = self.dispatcher.take_up_due(TAKEN_MAX);
        let polled_at = self.wait(taken)?;
        self.hear();
        let now = self.dispatcher.system.now();
        let away = now - self.time.looked_at;
        self.time.spent.pause_max = self.time.spent.pause_max.max(away);
        let was_away = away >= AWAY;
        if was_away {
            self.dispatcher.paused(Pause { from: self.time.looked_at, to: now });
        }
        self.time.looked_at = now;
        let stamping = was_away || self.dispatcher.is_any_due(now);
        let ready = std::mem::take(&mut self.ready);
        let mut seen = self.dispatcher.handle(&ready, polled_at, now, stamping);
        if ready.len() == READY_MAX {
            // The poll may have left some connections out.
            seen = Nanos::ZERO;
        }
        self.ready = ready;
        self.dispatcher.open_needed();
        self.dispatcher.time_out_due(seen, now);
        self.dispatcher.check_attempts(seen);
        while now >= self.next_tick {
            self.tick();
        }
        Ok(self.is_done(seen, now))
    }

    /// Waits for the poll, until the next thing is due; when the poll began.
    fn wait(&mut self, taken: usize) -> io::Result<Nanos> {
        let now = self.dispatcher.system.now();
        let busy = taken == TAKEN_MAX || self.dispatcher.has_work();
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
                if self.ready.is_empty() && taken == 0 {
                    let took = self.dispatcher.system.now() - now;
                    self.time.spent.spin += self.wake.spun(took);
                }
                Ok(now)
            }
            Plan::Sleep(at) => {
                self.dispatcher.system.wait(Wait::Until(at), &mut self.ready)?;
                let woken = self.dispatcher.system.now();
                self.time.asleep += woken - now;
                // A worker that sleeps looks as soon as there is something to see, but one that is
                // still asleep when its timer is due is away.
                self.time.looked_at = self.time.looked_at.max(woken.min(at));
                if self.ready.is_empty() {
                    self.wake.slept(at, woken);
                }
                Ok(now)
            }
        }
    }

    /// When something other than an arrival is due.
    fn next_other(&self, now: Nanos) -> Nanos {
        let mut at = self.next_tick.min(self.dispatcher.next_due(now));
        if let Some(ended) = self.sending_ended {
            at = at.min(ended + self.shared.plan.grace);
        }
        at
    }

    /// Takes messages.
    fn hear(&mut self) {
        while let Some(message) = self.dispatcher.system.message() {
            match message {
                Message::Resolved(resolved) => self.dispatcher.learn(resolved),
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

    /// Whether every arrival has ended; ends the sending and the grace when it is time.
    fn is_done(&mut self, seen: Nanos, now: Nanos) -> bool {
        if self.stop_level >= 1 && self.sending_ended.is_none() {
            self.dispatcher.stop_sending(now);
            self.sending_ended = Some(now);
        }
        if self.sending_ended.is_none() && self.dispatcher.sending_is_over(now) {
            self.sending_ended = Some(now);
        }
        let Some(ended) = self.sending_ended else { return false };
        // Answers that came within the grace period were read, and deadlines within it were enforced.
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
            notes: self.dispatcher.take_notes(),
            traces: self.dispatcher.take_traces(),
        });
    }
}
