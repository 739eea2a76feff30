//! A running engine: yields one second after another and accepts commands.
//!
//! The thread that requests the next second joins the workers' counts of it. It waits for late
//! workers, so that a second always covers all of them; a worker that panics or fails to poll ends
//! the run at once.

use crate::connection::Traced;
use crate::control::Control;
use crate::prepare::allowed_cpus;
use plimsoll_measure::{HostSample, Nanos, RunFacts, Snapshot, StartFacts, WallClock, Window};
use plimsoll_plan::{Plan, Secrets};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;

/// A trace of one complete exchange.
#[derive(Clone, Debug)]
pub struct TraceRecord {
    /// The target's name.
    pub target: String,
    /// The index of its request in the plan.
    pub spec: usize,
    /// What its arrival had sent that a target may repeat and nobody may see.
    pub secrets: Secrets,
    /// Whether it follows a redirect of that request.
    pub redirected: bool,
    /// When its first byte was sent.
    pub sent_at: Nanos,
    /// When the exchange ended.
    pub received_at: Nanos,
    /// The request as sent, secrets included.
    pub request: Traced,
    /// The response as received.
    pub response: Traced,
}

/// Reads what this process used and what its host did to it since the last call; called once a second,
/// never by a worker.
pub type HostProbe = Box<dyn FnMut() -> HostSample + Send>;

/// One second of a run.
#[derive(Clone, Debug)]
pub struct Second {
    /// The counts of all workers.
    pub counts: Snapshot,
    /// Traces of exchanges, if requested.
    pub traces: Vec<TraceRecord>,
}

/// What [`Running::next_or_wake`] has waited for.
#[derive(Debug)]
pub enum Next {
    /// A second is complete.
    Second(Box<Second>),
    /// A [`Waker`] was used.
    Woken,
    /// Every arrival has ended.
    Ended,
}

/// Wakes the thread that waits for the next second; usable from other threads.
#[derive(Clone)]
pub struct Waker(Sender<FromWorker>);

impl Waker {
    pub(crate) fn new(reports: &Sender<FromWorker>) -> Waker {
        Waker(reports.clone())
    }

    /// Makes [`Running::next_or_wake`] return [`Next::Woken`] once.
    pub fn wake(&self) {
        // The receiver is gone if the run has ended.
        let _ = self.0.send(FromWorker::Wake);
    }
}

/// A failure that ended a run after its start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {worker} {why}")]
pub struct RunError {
    /// Index of the worker.
    pub worker: usize,
    /// The reason, such as "panicked: …".
    pub why: String,
}

/// A worker's report of one second.
pub(crate) struct Report {
    pub(crate) worker: usize,
    pub(crate) counts: Snapshot,
    /// In the last report only: when the worker's last arrival ended.
    pub(crate) last: Option<Nanos>,
    pub(crate) traces: Vec<TraceRecord>,
}

/// A message from a worker's thread, or from a waker.
pub(crate) enum FromWorker {
    Wake,
    Report(Box<Report>),
    Failed(RunError),
}

/// A worker's end of the reporting channels.
pub(crate) struct Reporter {
    pub(crate) worker: usize,
    blank: Snapshot,
    reports: Sender<FromWorker>,
    /// Snapshots that have been joined and cleared, for reuse.
    emptied: Receiver<Snapshot>,
}

impl Reporter {
    pub(crate) fn new(
        worker: usize,
        blank: Snapshot,
        reports: Sender<FromWorker>,
        emptied: Receiver<Snapshot>,
    ) -> Reporter {
        Reporter { worker, blank, reports, emptied }
    }

    /// An empty snapshot to count in.
    pub(crate) fn fresh(&self) -> Snapshot {
        self.emptied.try_recv().unwrap_or_else(|_| self.blank.clone())
    }

    pub(crate) fn send(&self, report: Report) {
        // The receiver is gone if the run was dropped.
        let _ = self.reports.send(FromWorker::Report(Box::new(report)));
    }
}

/// The engine's side of one worker.
struct Link {
    queue: VecDeque<Box<Report>>,
    emptied: Sender<Snapshot>,
    ended: bool,
}

/// A run in progress.
pub struct Running {
    plan: Arc<Plan>,
    control: Control,
    started_at: WallClock,
    inbox: Receiver<FromWorker>,
    waker: Waker,
    workers: Vec<Link>,
    threads: Vec<JoinHandle<()>>,
    probe: HostProbe,
    facts: Facts,
    forced: Vec<String>,
}

/// Data from which [`RunFacts`] are computed.
#[derive(Default)]
struct Facts {
    planned_to: Nanos,
    last_end: Nanos,
}

/// The parts of a started run.
pub(crate) struct Started {
    pub(crate) plan: Arc<Plan>,
    pub(crate) control: Control,
    pub(crate) started_at: WallClock,
    pub(crate) inbox: Receiver<FromWorker>,
    pub(crate) waker: Waker,
    pub(crate) emptied: Vec<Sender<Snapshot>>,
    pub(crate) threads: Vec<JoinHandle<()>>,
    pub(crate) probe: HostProbe,
    pub(crate) forced: Vec<String>,
}

impl Running {
    pub(crate) fn new(started: Started) -> Running {
        let Started { plan, control, started_at, inbox, waker, emptied, .. } = started;
        let Started { threads, probe, forced, .. } = started;
        let link = |emptied| Link { queue: VecDeque::new(), emptied, ended: false };
        let workers = emptied.into_iter().map(link).collect();
        let facts = Facts::default();
        Running { plan, control, started_at, inbox, waker, workers, threads, probe, facts, forced }
    }

    /// What is known about the run when it starts.
    pub fn start_facts(&self) -> StartFacts {
        StartFacts {
            started_at: self.started_at,
            cpus: allowed_cpus().len(),
            workers: self.workers.len(),
            forced: self.forced.clone(),
        }
    }

    /// A handle for commands; usable from other threads.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// What wakes [`Running::next_or_wake`].
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits for the next second; returns `None` when every arrival has ended.
    ///
    /// # Errors
    /// As [`Running::next_or_wake`].
    pub fn next_second(&mut self) -> Result<Option<Second>, RunError> {
        loop {
            match self.next_or_wake()? {
                Next::Second(second) => return Ok(Some(*second)),
                Next::Woken => {}
                Next::Ended => return Ok(None),
            }
        }
    }

    /// Waits for the next second, or until a waker is used.
    ///
    /// # Errors
    /// If a worker fails before its arrivals have ended. The other workers are stopped; the seconds
    /// returned before are complete.
    pub fn next_or_wake(&mut self) -> Result<Next, RunError> {
        // A second is complete when every worker has reported it or has ended.
        while self.workers.iter().any(|link| link.queue.is_empty() && !link.ended) {
            match self.inbox.recv() {
                Ok(FromWorker::Report(report)) => {
                    self.workers[report.worker].queue.push_back(report);
                }
                Ok(FromWorker::Wake) => return Ok(Next::Woken),
                Ok(FromWorker::Failed(error)) => {
                    self.control.stop();
                    self.control.stop();
                    return Err(error);
                }
                Err(_) => unreachable!("a worker reports its end"),
            }
        }
        let mut second: Option<Second> = None;
        for place in 0..self.workers.len() {
            let link = &mut self.workers[place];
            let Some(report) = link.queue.pop_front() else { continue };
            link.ended = report.last.is_some();
            let Report { mut counts, last, traces, .. } = *report;
            self.facts.last_end = self.facts.last_end.max(last.unwrap_or_default());
            match &mut second {
                Some(second) => {
                    second.counts.join(&counts);
                    second.traces.extend(traces);
                    counts.clear();
                    // Fails if the worker has ended and needs no buffer.
                    let _ = self.workers[place].emptied.send(counts);
                }
                None => second = Some(Second { counts, traces }),
            }
        }
        let Some(mut second) = second else { return Ok(Next::Ended) };
        self.complete(&mut second.counts);
        Ok(Next::Second(Box::new(second)))
    }

    /// Adds the data that workers do not have, and checks the accounting identities.
    fn complete(&mut self, counts: &mut Snapshot) {
        for (place, stream) in counts.streams.iter_mut().enumerate() {
            stream.planned_rate =
                self.control.planned_rate(place, rated_at(stream.active, counts.t));
            // To workers, a stream without shards has nothing left to send and so lasted until its planned end.
            if !self.control.owns(place) {
                stream.active = None;
            }
            let planned_to = stream.active.map_or(Nanos::ZERO, |window| window.planned_to);
            self.facts.planned_to = self.facts.planned_to.max(planned_to);
        }
        counts.host = (self.probe)();
        counts.assert_identities();
    }

    /// Ends the run after its last second and returns the facts besides its counts. What stopped it is
    /// known only to the caller.
    ///
    /// # Panics
    /// If a worker's thread cannot be joined.
    pub fn finish(self) -> RunFacts {
        let StartFacts { started_at, cpus, workers, forced } = self.start_facts();
        for thread in self.threads {
            thread.join().expect("a worker's panic is caught on its own thread");
        }
        let plan = &self.plan;
        let planned_to = self.facts.planned_to.max(plan.warmup);
        let planned_end = plan.planned_end();
        let stopped = self.control.stop_level() > 0;
        RunFacts {
            started_at,
            duration: planned_to - plan.warmup,
            drain: self.facts.last_end - planned_to,
            warmup: plan.warmup.min(planned_to),
            cut_short: stopped && planned_end.is_none_or(|planned| planned_to < planned),
            stopped_by: None,
            cpus,
            workers,
            forced,
        }
    }
}

/// The instant whose planned rate stands for the second that ends at `t`: the middle of the time in
/// which arrivals were planned, since the stream may begin or end within the second.
fn rated_at(active: Option<Window>, t: Nanos) -> Nanos {
    match active {
        Some(window) if window.planned_to > window.from => {
            Nanos(window.from.0.midpoint(window.planned_to.0))
        }
        _ => t - Nanos::from_millis(500),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_planned_rate_of_a_second_is_that_of_its_planned_part() {
        let check = |active: Option<(u64, u64)>, t: u64, at: u64| {
            let ms = Nanos::from_millis;
            let active = active.map(|(from, to)| Window {
                from: ms(from),
                planned_to: ms(to),
                to: ms(to.max(t)),
            });
            assert_eq!(rated_at(active, ms(t)), ms(at), "{active:?} until {t}");
        };
        check(Some((1000, 2000)), 2000, 1500);
        check(Some((2000, 2300)), 3000, 2150); // ends within the second
        check(Some((0, 300)), 950, 150); // the only second
        check(Some((2800, 3000)), 3000, 2900); // begins within it
        check(Some((3000, 3000)), 3700, 3200); // only answers
        check(None, 4000, 3500);
    }
}
