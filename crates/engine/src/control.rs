//! Commands to a running engine: stop, change a stream's rate, hand over shards.
//!
//! [`Assignments`] is pure: it records which worker owns which shards under which schedule, and
//! computes the commands for a change; [`Control`] sends them. A change takes effect at an instant,
//! which must lie in the future: arrivals due before it follow the old schedule and later ones the
//! new schedule, no matter when a worker receives the command.

use crate::system::Message;
use crate::system::kernel::Mailbox;
use plimsoll_measure::Nanos;
use plimsoll_plan::{End, Load, Pacer, Part, Plan, SHARDS, Schedule, Schedules, Shards};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

/// A command to a worker.
pub(crate) enum Command {
    /// First: stop sending. Second: also end the arrivals in flight.
    Stop,
    /// From `at` on, `pacer` generates the stream's arrivals, up to `end`.
    Pace { stream: usize, at: Nanos, pacer: Box<Pacer>, end: Nanos },
    /// From `at` on, only users of `shards` start requests. Those of `added` start at `at` and
    /// number their requests from `first`.
    HandOver { stream: usize, at: Nanos, shards: Shards, added: Shards, first: u64 },
}

/// The reason why a command was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such stream.
    #[error("the plan has no stream {0}")]
    NoStream(usize),
    /// Only streams of the open model have a rate.
    #[error("stream \"{0}\" has users, not a rate")]
    Closed(String),
    /// Only the former owner knows how many requests are left.
    #[error(
        "stream \"{0}\" ends after a fixed number of requests; its users cannot move to another process"
    )]
    Counted(String),
    /// The rate is not a number above zero.
    #[error("invalid rate {0}; it must be a number above zero")]
    BadRate(String),
    /// A shard is already owned by this process, or is not owned by it.
    #[error("shard {0} is {1} owned here")]
    Ownership(u64, &'static str),
}

/// Commands with the index of their worker.
pub(crate) type Commands = Vec<(usize, Command)>;

/// Which worker owns which shards, and the schedules of all streams.
pub(crate) struct Assignments {
    plan: Arc<Plan>,
    /// By worker.
    parts: Vec<Part>,
    /// By stream: its schedules, each with the instant from which it applies. Empty for closed
    /// streams.
    schedules: Vec<Vec<(Nanos, Arc<Schedule>)>>,
    changes: u64,
}

impl Assignments {
    pub(crate) fn new(
        plan: Arc<Plan>,
        schedules: &[Option<Schedules>],
        parts: Vec<Part>,
    ) -> Assignments {
        let first = |open: &Option<Schedules>| {
            open.iter().map(|open| (Nanos::ZERO, open.main.clone())).collect()
        };
        let schedules = schedules.iter().map(first).collect();
        Assignments { plan, parts, schedules, changes: 0 }
    }

    /// This process's share of a stream's planned arrivals per second, or users, at an instant.
    pub(crate) fn planned_rate(&self, stream: usize, at: Nanos) -> f64 {
        let owned: usize = self.parts.iter().map(|part| part.stream(stream).len()).sum();
        let share = owned as f64 / SHARDS as f64;
        let in_force = self.schedules[stream].iter().rev().find(|(from, _)| *from <= at);
        let whole = match in_force {
            Some((_, schedule)) => schedule.rate(at),
            None => self.plan.streams[stream].planned_value(at, self.plan.warmup),
        };
        whole * share
    }

    /// Whether this process sends a part of a stream.
    fn owns(&self, stream: usize) -> bool {
        self.parts.iter().any(|part| !part.stream(stream).is_empty())
    }

    /// Changes the rate of an open stream from `at`.
    pub(crate) fn set_rate(
        &mut self,
        stream: usize,
        rate: f64,
        at: Nanos,
    ) -> Result<Commands, CommandError> {
        let own = self.plan.streams.get(stream).ok_or(CommandError::NoStream(stream))?;
        if !(rate.is_finite() && rate > 0.0) {
            return Err(CommandError::BadRate(rate.to_string()));
        }
        let closed = || CommandError::Closed(own.name.clone());
        let (_, current) = self.schedules[stream].last().ok_or_else(closed)?;
        self.changes += 1;
        let schedule = own.changed_rate(current, rate, at, self.changes).ok_or_else(closed)?;
        let schedule = Arc::new(schedule);
        self.schedules[stream].push((at, schedule.clone()));
        let pace = |part: &Part| pace(stream, &schedule, part.stream(stream), at);
        Ok(self.parts.iter().map(pace).enumerate().collect())
    }

    /// Gives shards away at `at`.
    pub(crate) fn hand_over(&mut self, given: &Part, at: Nanos) -> Result<Commands, CommandError> {
        if let Some(shard) = first_of(&given.without(&self.owned())) {
            return Err(CommandError::Ownership(shard, "not"));
        }
        self.check_users(given)?;
        let kept: Vec<Part> = self.parts.iter().map(|part| part.without(given)).collect();
        Ok(self.reassign(kept, at))
    }

    /// Takes shards over at `at`, split over the workers.
    pub(crate) fn take_over(&mut self, taken: &Part, at: Nanos) -> Result<Commands, CommandError> {
        if let Some(shard) = first_of(&taken.without(&taken.without(&self.owned()))) {
            return Err(CommandError::Ownership(shard, "already"));
        }
        self.check_users(taken)?;
        let workers = self.parts.len();
        let more = self.parts.iter().enumerate();
        let grown = more.map(|(worker, own)| own.with(&taken.share(worker, workers))).collect();
        Ok(self.reassign(grown, at))
    }

    fn owned(&self) -> Part {
        let nothing = Part::nothing(self.plan.streams.len());
        self.parts.iter().fold(nothing, |all, part| all.with(part))
    }

    fn check_users(&self, moved: &Part) -> Result<(), CommandError> {
        let streams = self.plan.streams.iter().zip(moved.streams());
        let counted = streams.filter(|(_, shards)| !shards.is_empty()).find(|(stream, _)| {
            matches!((&stream.load, stream.end), (Load::Closed { .. }, End::Requests(_)))
        });
        counted.map_or(Ok(()), |(stream, _)| Err(CommandError::Counted(stream.name.clone())))
    }

    fn reassign(&mut self, parts: Vec<Part>, at: Nanos) -> Commands {
        /// Maximum requests of a shard's users between two handovers; beyond this, numbers would
        /// repeat.
        const BETWEEN: u64 = 1 << 24;
        self.changes += 1;
        let first = self.changes * BETWEEN;
        let mut commands = Commands::new();
        for (worker, (before, now)) in self.parts.iter().zip(&parts).enumerate() {
            for (stream, schedules) in self.schedules.iter().enumerate() {
                let (before, own) = (before.stream(stream), now.stream(stream));
                if own == before {
                    continue;
                }
                let command = match schedules.last() {
                    Some((_, schedule)) => pace(stream, schedule, own, at),
                    None => {
                        let (shards, added) = (own.clone(), own.without(before));
                        Command::HandOver { stream, at, shards, added, first }
                    }
                };
                commands.push((worker, command));
            }
        }
        self.parts = parts;
        commands
    }
}

/// The first shard of a part, of any stream.
fn first_of(part: &Part) -> Option<u64> {
    part.streams().iter().find_map(|shards| shards.iter().next())
}

fn pace(stream: usize, schedule: &Arc<Schedule>, shards: &Shards, at: Nanos) -> Command {
    let pacer = Box::new(schedule.pacer(shards, at));
    Command::Pace { stream, at, pacer, end: schedule.end() }
}

/// A handle for commanding a running engine from any thread.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    level: AtomicU8,
    assignments: Mutex<Assignments>,
    workers: Vec<Mailbox>,
}

impl Control {
    pub(crate) fn new(assignments: Assignments, workers: Vec<Mailbox>) -> Control {
        let (level, assignments) = (AtomicU8::new(0), Mutex::new(assignments));
        Control { inner: Arc::new(Inner { level, assignments, workers }) }
    }

    /// Stops the run. The first call stops sending and lets arrivals in flight finish; the second
    /// ends those too.
    pub fn stop(&self) {
        let level = self.stop_level();
        self.inner.level.store(level.saturating_add(1), Ordering::Relaxed);
        for worker in &self.inner.workers {
            // Fails if the worker has already ended.
            worker.send(Message::Command(Command::Stop));
        }
    }

    /// How often `stop` was called.
    pub fn stop_level(&self) -> u8 {
        self.inner.level.load(Ordering::Relaxed)
    }

    /// Changes an open stream's rate from the instant `at` of the run until the stream's planned
    /// end. `rate` is in arrivals per second for the whole plan; this process sends its shards'
    /// part of it.
    ///
    /// # Errors
    /// If the stream does not exist or is closed, or the rate is invalid.
    pub fn set_rate(&self, stream: usize, rate: f64, at: Nanos) -> Result<(), CommandError> {
        self.change(|assignments| assignments.set_rate(stream, rate, at))
    }

    /// Gives shards away at the instant `at` of the run.
    ///
    /// # Errors
    /// If a shard is not owned by this process, or a closed stream ends after a number of requests.
    pub fn hand_over(&self, given: &Part, at: Nanos) -> Result<(), CommandError> {
        self.change(|assignments| assignments.hand_over(given, at))
    }

    /// Takes shards over at the instant `at` of the run.
    ///
    /// # Errors
    /// If a shard is already owned by this process, or a closed stream ends after a number of
    /// requests.
    pub fn take_over(&self, taken: &Part, at: Nanos) -> Result<(), CommandError> {
        self.change(|assignments| assignments.take_over(taken, at))
    }

    pub(crate) fn planned_rate(&self, stream: usize, at: Nanos) -> f64 {
        self.inner.assignments.lock().expect("no holder panics").planned_rate(stream, at)
    }

    pub(crate) fn owns(&self, stream: usize) -> bool {
        self.inner.assignments.lock().expect("no holder panics").owns(stream)
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Assignments) -> Result<Commands, CommandError>,
    ) -> Result<(), CommandError> {
        let mut assignments = self.inner.assignments.lock().expect("no holder panics");
        for (worker, command) in change(&mut assignments)? {
            // Fails if the worker has already ended.
            self.inner.workers[worker].send(Message::Command(command));
        }
        Ok(())
    }
}
