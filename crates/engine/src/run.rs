//! From a plan to workers, and from their snapshots to an [`Outcome`].
//!
//! The calling thread collects: each second it joins what the workers counted, hands the snapshot
//! to the sink, and gives the emptied buffers back. A worker that is late is waited for, so that a
//! snapshot is always of all workers.

use crate::pool::{Addresses, Pool};
use crate::request::{Origin, Request, tls_start};
use crate::resolve::{Question, is_literal, lookup, start as start_resolver};
use crate::worker::{Lines, Shared, Worker};
use mio::Waker;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use plimsoll_measure::{Clock, HostSample, Nanos, Note, RunFacts, Snapshot, WallClock};
use plimsoll_plan::{Load, Plan, SHARDS, Scheme};
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How a run is carried out; what it measures is the plan's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads; 0: as many as the plan's load asks for, at most one for each CPU.
    pub workers: usize,
    /// Poll without sleeping: for cores that nothing else uses.
    pub spin: bool,
    /// How many whole exchanges are handed to [`Sink::trace`].
    pub trace: u32,
    /// Tells what this process has used of the host so far.
    pub usage: fn() -> HostSample,
}

/// A run is stopped from outside: once to send no more and finish what is in flight, twice to give
/// that up too.
#[derive(Clone, Default)]
pub struct Stop {
    inner: Arc<StopInner>,
}

#[derive(Default)]
struct StopInner {
    level: AtomicU8,
    wakers: Mutex<Vec<Arc<Waker>>>,
}

impl Stop {
    /// A run that nobody has stopped.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Stops one step more.
    pub fn stop(&self) {
        let level = self.inner.level.load(Ordering::Relaxed);
        self.inner.level.store(level.saturating_add(1), Ordering::Relaxed);
        for waker in self.inner.wakers.lock().expect("no holder panics").iter() {
            // A worker that has ended needs no waking.
            let _ = waker.wake();
        }
    }

    /// How often it was stopped.
    #[inline]
    pub fn level(&self) -> u8 {
        self.inner.level.load(Ordering::Relaxed)
    }
}

/// One whole exchange.
#[derive(Clone, Debug)]
pub struct TraceRecord {
    /// The target's name.
    pub target: String,
    /// When its first byte was sent.
    pub sent_at: Nanos,
    /// When it ended.
    pub received_at: Nanos,
    /// What was sent.
    pub request: Vec<u8>,
    /// What came, as it came.
    pub response: Vec<u8>,
}

/// Where a run's results go while it runs.
pub trait Sink {
    /// The run begins, with so many workers.
    fn started(&mut self, at: WallClock, workers: usize);
    /// A second has passed: what else is known of it is added here.
    fn complete(&mut self, second: &mut Snapshot);
    /// A second is complete; `total` is the sum of all so far, this one included.
    fn snapshot(&mut self, second: &Snapshot, total: &Snapshot);
    /// An exchange that is to be shown whole.
    fn trace(&mut self, record: &TraceRecord);
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When, how long, by how many workers.
    pub facts: RunFacts,
    /// The sum of all snapshots.
    pub total: Snapshot,
}

/// Why a run could not start.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub hint: String,
}

fn refuse(message: impl Into<String>, hint: impl Into<String>) -> StartError {
    StartError { message: message.into(), hint: hint.into() }
}

/// What a worker hands to the collector each second.
pub(crate) struct Report {
    pub(crate) worker: usize,
    pub(crate) counts: Snapshot,
    pub(crate) last: bool,
    pub(crate) window_end: Nanos,
    pub(crate) last_end: Nanos,
    pub(crate) notes: Vec<Note>,
    pub(crate) traces: Vec<TraceRecord>,
}

/// A worker is given this many arrivals per second before another is started: a tenth of what it
/// can carry, so that one late thread cannot be mistaken for a slow target.
const RATE_PER_WORKER: f64 = 10_000.0;
/// The same for users of the closed model.
const USERS_PER_WORKER: f64 = 32.0;
/// Time to start threads before the first arrival is due.
const LEAD: Duration = Duration::from_millis(20);

/// Carries a plan out.
///
/// # Errors
/// What keeps it from starting: a name without address, unusable certificates, an address that is
/// not this host's.
///
/// # Panics
/// When an arrival was lost or counted twice, or when the kernel refuses to poll.
pub fn run(
    plan: &Plan,
    settings: Settings,
    stop: &Stop,
    sink: &mut dyn Sink,
) -> Result<Outcome, StartError> {
    check_sources(plan)?;
    let cpus = allowed_cpus();
    let workers = worker_count(plan, settings.workers, cpus.len());
    let (origins, pool_of_turn) = origins(plan);
    let tls = prepare_tls(plan)?;
    let addresses = resolve_all(&origins)?;
    let close = !plan.connections.reuse;
    let requests = plan.turns.iter().zip(&pool_of_turn);
    let requests = requests.map(|(turn, pool)| Request::compile(turn, *pool, close)).collect();

    let shared = Shared {
        plan,
        requests,
        clock: Clock::start_in(LEAD),
        stop: stop.clone(),
        traces_left: AtomicI64::new(i64::from(settings.trace)),
        settings: Settings { workers, ..settings },
        tls,
    };
    let started_at = WallClock { unix_ns: WallClock::now().unix_ns + LEAD.as_nanos() as u64 };
    sink.started(started_at, workers);
    let resolver = start_resolver();
    let (reports, inbox) = channel();
    let outcome = std::thread::scope(|scope| -> Result<Outcome, StartError> {
        let mut emptied = Vec::with_capacity(workers);
        let mut threads = Vec::with_capacity(workers);
        for index in 0..workers {
            let (give_back, take_back) = channel();
            emptied.push(give_back);
            let pools = pools(&shared, &origins, &addresses, index)?;
            let lines = lines(&reports, take_back, &resolver);
            let (worker, waker) = Worker::new(&shared, index, lines, pools)
                .map_err(|error| refuse(format!("cannot poll: {error}"), "raise ulimit -n"))?;
            stop.inner.wakers.lock().expect("no holder panics").push(waker);
            let cpu = (workers == cpus.len()).then(|| cpus[index]);
            let body = move || {
                cpu.into_iter().for_each(pin_to);
                worker.work()
            };
            let name = format!("worker-{index}");
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, body)
                .map_err(|error| refuse(format!("cannot start a thread: {error}"), ""))?;
            threads.push(thread);
        }
        drop(reports);
        let outcome = collect(&shared, started_at, &inbox, &emptied, sink);
        for thread in threads {
            let worked = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            worked.expect("the kernel polls");
        }
        Ok(outcome)
    });
    stop.inner.wakers.lock().expect("no holder panics").clear();
    outcome
}

fn lines(
    reports: &Sender<Report>,
    emptied: Receiver<Snapshot>,
    resolver: &Sender<Question>,
) -> Lines {
    Lines { reports: reports.clone(), emptied, resolver: resolver.clone(), resolved: channel() }
}

/// Joins the workers' reports second by second until the last.
fn collect(
    shared: &Shared<'_>,
    started_at: WallClock,
    inbox: &Receiver<Report>,
    emptied: &[Sender<Snapshot>],
    sink: &mut dyn Sink,
) -> Outcome {
    let plan = shared.plan;
    let blank = || Snapshot::new(plan.targets.len(), plan.streams.len());
    let (mut total, mut second) = (blank(), blank());
    let mut used = (shared.settings.usage)();
    let mut queues: Vec<std::collections::VecDeque<Report>> =
        emptied.iter().map(|_| Default::default()).collect();
    let mut ended = vec![false; emptied.len()];
    let (mut window_end, mut last_end) = (Nanos::ZERO, Nanos::ZERO);
    let mut notes: Vec<Note> = Vec::new();
    loop {
        // A second is whole when every worker has reported it or has ended.
        while queues.iter().zip(&ended).any(|(queue, ended)| queue.is_empty() && !ended) {
            let Ok(report) = inbox.recv() else { break };
            queues[report.worker].push_back(report);
        }
        second.clear();
        let mut any = false;
        for (worker, queue) in queues.iter_mut().enumerate() {
            let Some(report) = queue.pop_front() else { continue };
            any = true;
            second.join(&report.counts);
            ended[worker] = report.last;
            if report.last {
                window_end = window_end.max(report.window_end);
                last_end = last_end.max(report.last_end);
            }
            report.traces.iter().for_each(|record| sink.trace(record));
            for note in report.notes {
                if !notes.iter().any(|known| known.class == note.class) {
                    notes.push(note);
                }
            }
            let mut counts = report.counts;
            counts.clear();
            // A worker that has ended needs no buffer.
            let _ = emptied[worker].send(counts);
        }
        if !any {
            break;
        }
        for (place, stream) in plan.streams.iter().enumerate() {
            second.streams[place] = stream.planned_value(second.t, plan.warmup);
        }
        let now = (shared.settings.usage)();
        second.host = HostSample {
            cpu: now.cpu - used.cpu,
            user: now.user - used.user,
            rss_peak_bytes: now.rss_peak_bytes,
        };
        used = now;
        sink.complete(&mut second);
        second.assert_identities();
        total.append(&second);
        sink.snapshot(&second, &total);
    }
    total.assert_identities();
    let cut_short =
        shared.stop.level() > 0 && plan.planned_end().is_none_or(|planned| window_end < planned);
    let facts = RunFacts {
        started_at,
        duration: window_end - plan.warmup,
        drain: last_end - window_end,
        warmup: plan.warmup.min(window_end),
        cut_short,
        workers: shared.settings.workers,
        notes,
    };
    Outcome { facts, total }
}

fn allowed_cpus() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let cpus: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    if set.set(cpu).is_ok() {
        // Refused only where a sandbox forbids it; the thread then moves about.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

fn worker_count(plan: &Plan, asked: usize, cpus: usize) -> usize {
    let needed: f64 = plan
        .streams
        .iter()
        .map(|stream| match &stream.load {
            Load::Open { profile, .. } => profile.max() / RATE_PER_WORKER,
            Load::Closed { profile, .. } => profile.max() / USERS_PER_WORKER,
        })
        .sum();
    let workers = if asked > 0 { asked } else { (needed.ceil() as usize).clamp(1, cpus) };
    // Each needs a connection, and a shard.
    workers.min(plan.connections.max as usize).min(SHARDS as usize)
}

/// The origins of a plan, and which is each turn's.
fn origins(plan: &Plan) -> (Vec<Origin>, Vec<usize>) {
    let mut origins: Vec<Origin> = Vec::new();
    let mut of_turn = Vec::with_capacity(plan.turns.len());
    for turn in &plan.turns {
        let origin = Origin::of(&turn.url);
        let place = origins.iter().position(|known| *known == origin).unwrap_or_else(|| {
            origins.push(origin);
            origins.len() - 1
        });
        of_turn.push(place);
    }
    (origins, of_turn)
}

fn prepare_tls(plan: &Plan) -> Result<Option<Arc<rustls::ClientConfig>>, StartError> {
    let secure = plan.turns.iter().any(|turn| turn.url.scheme == Scheme::Https);
    if !secure && plan.redirects == 0 {
        return Ok(None);
    }
    match crate::tls::client_config(&plan.tls) {
        Ok(config) => Ok(Some(config)),
        // Without https targets TLS is needed only if a redirect leads there.
        Err(_) if !secure => Ok(None),
        Err(message) => Err(refuse(message, "see [tls] in the plan: ca, cert, key, insecure")),
    }
}

fn resolve_all(origins: &[Origin]) -> Result<Vec<Vec<std::net::SocketAddr>>, StartError> {
    let resolve = |origin: &Origin| {
        lookup(&origin.host, origin.port).map_err(|why| {
            let hint = if is_literal(&origin.host) { "" } else { "check the name, or /etc/hosts" };
            refuse(format!("cannot resolve host \"{}\": {why}", origin.host), hint)
        })
    };
    origins.iter().map(resolve).collect()
}

fn check_sources(plan: &Plan) -> Result<(), StartError> {
    for source in &plan.connections.sources {
        if let Err(error) = std::net::TcpListener::bind((*source, 0))
            && error.kind() == io::ErrorKind::AddrNotAvailable
        {
            return Err(refuse(
                format!("source address {source} is not this host's"),
                format!(
                    "add it with: ip address add {source}/32 dev lo, or take it out of connections.source"
                ),
            ));
        }
    }
    Ok(())
}

fn pools(
    shared: &Shared<'_>,
    origins: &[Origin],
    addresses: &[Vec<std::net::SocketAddr>],
    worker: usize,
) -> Result<Vec<Pool>, StartError> {
    let (max, workers) = (shared.plan.connections.max as usize, shared.settings.workers);
    let limit = max / workers + usize::from(worker < max % workers);
    let pool = |(origin, list): (&Origin, &Vec<std::net::SocketAddr>)| {
        let tls = tls_start(shared.plan, shared.tls.as_ref(), origin)
            .map_err(|message| refuse(message, "set tls.server_name"))?;
        // Workers begin at different addresses, so that few connections use them all too.
        let mut pool =
            Pool::new(origin.clone(), tls, Addresses::Known(list.clone()), limit, Nanos::ZERO);
        pool.turn = worker;
        Ok(pool)
    };
    origins.iter().zip(addresses).map(pool).collect()
}
