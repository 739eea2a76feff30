//! The thread that takes what workers hand over to the file and to the database.
//!
//! Every [`SPOOL_INTERVAL`] it writes what was handed over into the file, also while a batch is on its way
//! to a database that hangs; every [`DELIVER_INTERVAL`] it sends the next batch. After a failure it waits
//! longer, up to [`PAUSE_MAX`]. Nothing but this thread waits for disk or database.
//!
//! # Old usage
//! Once an hour, rows older than `usage.keep` are removed. That depends on the wall clock, so it is put off for
//! an hour after the clock was set.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use plimsoll_measure::{Clock, Nanos, WallClock};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::delivery::Delivery;
use super::spool::folder::{Folder, LockedFile};
use super::{Counts, Delivered, DeliveredUnits, HOUR_NS, Put, Rows, Subject, Totals, new_writer};
use crate::store::{Store, StoreError, StoreErrorKind};

/// How often what was handed over is written to the file. Together with the interval at which workers hand
/// over, this is what a killed gateway loses.
const SPOOL_INTERVAL: Duration = Duration::from_millis(250);

/// How often a batch is sent.
const DELIVER_INTERVAL: Duration = Duration::from_millis(500);

/// The longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often to try again to create the file.
const CREATE_INTERVAL: Duration = Duration::from_secs(2);

/// How often old usage is removed.
const TRIM_INTERVAL: Nanos = Nanos::from_secs(3_600);

/// A wall clock that differs by more from the time that has passed was set.
const STEP_MIN_NS: u64 = 60_000_000_000;

/// Messages that wait to be logged; later ones are dropped.
const NOTES_MAX: usize = 64;

/// Where workers hand over what they have counted. Bounded like [`Rows`].
#[derive(Debug, Default)]
pub struct Inbox {
    rows: Mutex<Rows>,
    figures: Mutex<Figures>,
    notes: Mutex<VecDeque<String>>,
    asked: Mutex<Option<TotalsRequest>>,
}

/// A question about totals.
#[derive(Debug)]
struct TotalsRequest {
    endpoints: Vec<String>,
    hour: u64,
    answer: oneshot::Sender<TotalsAnswer>,
}

/// The totals of endpoints by key, and what this process has delivered of them, at one moment.
pub type TotalsAnswer = Result<Vec<(Totals, DeliveredUnits)>, String>;

/// How recording goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Batches that the database has taken.
    pub written: u64,
    /// Batches that it already had: the answer to an earlier commit was lost.
    pub known: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Bytes that wait in files.
    pub spooled_bytes: u64,
    /// Rows that wait in memory, because the file cannot take them.
    pub held_rows: u64,
    /// Additions that were not kept apart by method or endpoint, for lack of memory.
    pub folded: u64,
    /// Additions that could not be read back from a file.
    pub lost: u64,
    /// Why the file cannot be written; empty if it can.
    pub spool_error: String,
    /// Why the database cannot be written; empty if it can.
    pub store_error: String,
    /// Whether that is because it cannot be reached.
    pub is_unreachable: bool,
}

impl Inbox {
    /// Adds rows; waits for nothing but others who do.
    pub fn add(&self, rows: impl Iterator<Item = (Subject, Counts)>) {
        let mut all = lock(&self.rows);
        rows.for_each(|(subject, counts)| all.add(subject, &counts));
    }

    /// Takes all rows.
    pub fn take(&self) -> Rows {
        std::mem::take(&mut lock(&self.rows))
    }

    /// Asks what endpoints were admitted for in the day and the month of an hour, according to the
    /// database, and how much of that this process has delivered. The answer comes when earlier processes'
    /// files are delivered and no batch is in doubt. A later question replaces one that is not answered
    /// yet.
    pub fn ask_totals(&self, endpoints: Vec<String>, hour: u64) -> oneshot::Receiver<TotalsAnswer> {
        let (answer, answered) = oneshot::channel();
        *lock(&self.asked) = Some(TotalsRequest { endpoints, hour, answer });
        answered
    }

    /// How recording goes.
    pub fn figures(&self) -> Figures {
        lock(&self.figures).clone()
    }

    /// What should be logged, and was not yet.
    pub fn take_notes(&self) -> Vec<String> {
        lock(&self.notes).drain(..).collect()
    }

    fn note(&self, note: String) {
        let mut notes = lock(&self.notes);
        if notes.len() < NOTES_MAX {
            notes.push_back(note);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A running thread.
#[derive(Debug)]
pub struct Recorder {
    inbox: Arc<Inbox>,
    /// Asks the thread to end by an instant; it answers with the rows that were left in memory.
    stop: oneshot::Sender<(Instant, oneshot::Sender<usize>)>,
}

impl Recorder {
    /// Starts the thread, which first takes over what earlier processes have left in the folder. Files
    /// take at most `limit` bytes; what is older than `keep` is removed.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        store: Arc<Store>,
        folder: &Path,
        limit: u64,
        keep: Nanos,
    ) -> std::io::Result<Recorder> {
        let inbox = Arc::new(Inbox::default());
        let folder = Folder::new(folder, store.shown());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = inbox.clone();
        std::thread::Builder::new().name("usage".into()).spawn(move || {
            runtime.block_on(async {
                Run::new(store, folder, limit, keep, shared).run(stopped).await;
            });
            runtime.shutdown_background();
        })?;
        Ok(Recorder { inbox, stop })
    }

    /// Where to hand over.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Writes what is left, for at most this long, and ends; returns how many rows are neither in the
    /// database nor in a file, and are lost.
    pub async fn finish(self, most: Duration) -> usize {
        let (answer, done) = oneshot::channel();
        if self.stop.send((Instant::now() + most, answer)).is_err() {
            return self.inbox.take().len();
        }
        done.await.unwrap_or_default()
    }
}

/// What the database is doing.
type Job = Pin<Box<dyn Future<Output = Done>>>;

/// What it has done.
enum Done {
    Put(Result<Put, StoreError>),
    /// Totals, and the question.
    Totals(Result<Vec<Totals>, StoreError>, TotalsRequest),
    Trim(Result<(), StoreError>),
}

/// The thread's state.
struct Run {
    store: Arc<Store>,
    folder: Folder,
    inbox: Arc<Inbox>,
    delivery: Delivery<LockedFile>,
    figures: Figures,
    /// When to send the next batch.
    next: Instant,
    pause: Duration,
    create_at: Instant,
    keep: Nanos,
    trim: Trim,
    clock: Clock,
    delivered: Delivered,
}

impl Run {
    fn new(store: Arc<Store>, folder: Folder, limit: u64, keep: Nanos, inbox: Arc<Inbox>) -> Run {
        let left = folder.left();
        left.notes.into_iter().for_each(|note| inbox.note(format!("usage: {note}")));
        let figures = Figures { lost: left.damaged, ..Figures::default() };
        let now = Instant::now();
        Run {
            delivery: Delivery::new(new_writer(), left.spools, limit),
            store,
            folder,
            inbox,
            figures,
            next: now,
            pause: DELIVER_INTERVAL,
            create_at: now,
            keep,
            trim: Trim::default(),
            clock: Clock::start(),
            delivered: Delivered::default(),
        }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<(Instant, oneshot::Sender<usize>)>) {
        let mut ticks = tokio::time::interval(SPOOL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut job: Option<Job> = None;
        let stop = loop {
            tokio::select! {
                biased;
                stop = &mut stopped => break stop.ok(),
                done = wait(&mut job) => {
                    self.done(done);
                    // First, or a database that is always busy with batches would never answer.
                    job = self.totals();
                    // What has piled up is sent without a pause.
                    let has_more = self.delivery.spooled_bytes() > 0;
                    if job.is_none() && self.pause == DELIVER_INTERVAL && has_more {
                        job = self.put();
                    }
                    job = job.or_else(|| self.trim());
                }
                _ = ticks.tick() => {
                    self.spool();
                    if job.is_none() && Instant::now() >= self.next {
                        job = self.put();
                    }
                    job = job.or_else(|| self.totals()).or_else(|| self.trim());
                }
            }
            self.publish();
        };
        // Without a request to stop, the process is ending in disorder; the file has what there is.
        let (deadline, answer) = stop.unzip();
        self.spool();
        let deadline = deadline.unwrap_or_else(Instant::now);
        let mut job = job.or_else(|| self.put());
        while job.is_some() {
            let Ok(done) = tokio::time::timeout_at(deadline, wait(&mut job)).await else { break };
            let is_written = !matches!(done, Done::Put(Err(_)));
            self.done(done);
            job = self.put().filter(|_| is_written);
        }
        self.publish();
        let left = self.delivery.held_rows();
        self.delivery.finish();
        if let Some(answer) = answer {
            let _ = answer.send(left);
        }
    }

    /// Writes what was handed over to the file.
    fn spool(&mut self) {
        let now = Instant::now();
        let rows = self.inbox.take();
        let may_create = now >= self.create_at;
        let is_down = !self.figures.store_error.is_empty();
        let (folder, create_at) = (&self.folder, &mut self.create_at);
        let trouble = self.figures.spool_error.clone();
        self.delivery.add(rows, is_down, || {
            if !may_create {
                return Err(trouble);
            }
            *create_at = now + CREATE_INTERVAL;
            folder.create()
        });
    }

    /// Starts to send the next batch, if there is one.
    fn put(&mut self) -> Option<Job> {
        let batch = self.delivery.next()?;
        let store = self.store.clone();
        self.next = Instant::now() + DELIVER_INTERVAL;
        Some(Box::pin(async move { Done::Put(store.put_usage(&batch).await) }))
    }

    /// Starts to answer a question, unless a batch is in doubt.
    fn totals(&mut self) -> Option<Job> {
        if !self.delivery.is_certain() {
            return None;
        }
        let asked = lock(&self.inbox.asked).take()?;
        let store = self.store.clone();
        Some(Box::pin(async move {
            let found = store.usage_totals(&asked.endpoints, asked.hour).await;
            Done::Totals(found, asked)
        }))
    }

    /// Answers a question. Nothing was sent while the totals were read.
    fn answer(&mut self, found: Result<Vec<Totals>, StoreError>, asked: TotalsRequest) {
        let TotalsRequest { endpoints, hour, answer } = asked;
        self.delivered.forget_before(hour);
        let found = found.map(|mut totals| {
            // With what was delivered and is not there any more, because the database was replaced.
            let name = |one: &Totals| (one.endpoint.clone(), one.key.clone());
            let known: HashSet<(String, String)> = totals.iter().map(name).collect();
            let keys = |endpoint| self.delivered.keys(endpoint).map(move |key| (endpoint, key));
            let names = endpoints.iter().flat_map(|endpoint| keys(endpoint));
            let names = names.map(|(endpoint, key)| (endpoint.to_owned(), key.to_owned()));
            totals.extend(
                names.filter(|name| !known.contains(name)).map(|(endpoint, key)| Totals {
                    endpoint,
                    key,
                    ..Totals::default()
                }),
            );
            let with_delivered = |totals: Totals| {
                let delivered = self.delivered.units(&totals.endpoint, &totals.key, hour);
                (totals, delivered)
            };
            totals.into_iter().map(with_delivered).collect()
        });
        // Whoever has asked may be gone.
        let _ = answer.send(found.map_err(|error| error.to_string()));
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Put(result) => self.settled(result),
            Done::Totals(found, asked) => self.answer(found, asked),
            Done::Trim(Ok(())) => {}
            Done::Trim(Err(error)) => {
                self.inbox.note(format!("old usage cannot be removed: {error}"));
            }
        }
    }

    fn settled(&mut self, result: Result<Put, StoreError>) {
        match &result {
            Ok(put) => {
                let count = match put {
                    Put::Written => &mut self.figures.written,
                    Put::Known => &mut self.figures.known,
                };
                *count += 1;
                self.pause = DELIVER_INTERVAL;
                self.figures.store_error.clear();
            }
            Err(error) => {
                self.figures.failed += 1;
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                self.next = Instant::now() + self.pause;
                self.figures.store_error = error.to_string();
                let is_unreachable = matches!(
                    error.kind,
                    StoreErrorKind::Unreachable(_) | StoreErrorKind::Uncertain(_)
                );
                self.figures.is_unreachable = is_unreachable;
            }
        }
        if let Some(batch) = self.delivery.settled(result.as_ref().map(|_| ())) {
            self.delivered.add(&batch);
        }
    }

    fn publish(&mut self) {
        self.figures.spooled_bytes = self.delivery.spooled_bytes();
        self.figures.held_rows = self.delivery.held_rows() as u64;
        self.figures.folded += self.delivery.take_folded() + self.delivered.take_untracked();
        self.figures.spool_error = self.delivery.trouble().to_string();
        *lock(&self.inbox.figures) = self.figures.clone();
    }

    /// Starts to remove old usage, if it is time to.
    fn trim(&mut self) -> Option<Job> {
        let wall = WallClock::now().unix_ns;
        if !self.trim.is_due(wall, self.clock.now()) {
            return None;
        }
        let before = wall.saturating_sub(self.keep.0) / HOUR_NS;
        let store = self.store.clone();
        Some(Box::pin(async move { Done::Trim(store.trim_usage(before).await) }))
    }
}

/// What the database has done; waits forever if it does nothing.
async fn wait(job: &mut Option<Job>) -> Done {
    match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    }
}

/// When old usage may be removed.
#[derive(Debug, Default)]
struct Trim {
    /// The wall clock and the time passed, when they were last compared.
    compared: Option<(u64, Nanos)>,
    /// When nothing had been removed for an interval, and the clock had not been set.
    since: Nanos,
}

impl Trim {
    /// Whether the wall clock has gone with the time for an interval, since it was last set and since this
    /// last returned true.
    fn is_due(&mut self, wall_ns: u64, now: Nanos) -> bool {
        let (wall_before, before) = *self.compared.get_or_insert((wall_ns, now));
        self.compared = Some((wall_ns, now));
        let expected = wall_before + (now - before).0;
        if expected.abs_diff(wall_ns) > STEP_MIN_NS {
            self.since = now;
        }
        let is_due = now - self.since >= TRIM_INTERVAL;
        if is_due {
            self.since = now;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_usage_is_removed_hourly_unless_the_clock_was_set() {
        let minute = |number: u64| Nanos::from_secs(60 * number);
        let mut trim = Trim::default();
        let (mut wall, mut due) = (1_800_000_000_000_000_000, Vec::new());
        for number in 0..300 {
            wall += minute(1).0;
            match number {
                // A year ahead, and back.
                90 => wall += minute(60 * 24 * 365).0,
                100 => wall -= minute(60 * 24 * 365).0,
                // Slewed by NTP.
                200..210 => wall += Nanos::from_secs(1).0,
                _ => {}
            }
            if trim.is_due(wall, minute(number)) {
                due.push(number);
            }
        }
        assert_eq!(due, [60, 160, 220, 280]);
    }
}
