//! Preparation: everything that can fail or take time, before the clock starts.

use crate::capture::Capture;
use crate::connection::Offer;
use crate::control::{Assignments, Control};
use crate::feed::Feed;
use crate::pool::{Limits, Name, Pool};
use crate::request::{Request, Style, opening_of, tls_start};
use crate::running::{FromWorker, HostProbe, Running, Started, Waker};
use crate::sampling::{SampleSink, Sampling};
use crate::source::Source;
use crate::standing::Firsts;
use crate::system::resolve::{self, is_literal, lookup};
use crate::threads::{NO_THREADS, WorkerThreads};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use plimsoll_measure::{Clock, Snapshot, WallClock};
use plimsoll_plan::{Load, Origin, Part, Plan, RequestSpec, SHARDS, Schedules, Shards};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// Whether a worker spins while it waits for the next arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spin {
    /// Sleep, then spin for about as long as a wake-up takes on this host.
    #[default]
    Adaptive,
    /// Always spin; for dedicated cores.
    Always,
    /// Never spin.
    Never,
}

/// How a run is executed; what it sends is defined by the plan.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Number of worker threads; 0 means as many as the plan's load needs, at most one per CPU.
    pub workers: usize,
    /// Whether workers spin.
    pub spin: Spin,
    /// Number of exchanges to trace in [`Second::traces`](crate::Second::traces).
    pub trace: u32,
    /// Start even if a name does not resolve.
    pub force: bool,
    /// What the caller found that this host cannot carry, if it starts the run regardless; becomes
    /// part of [`RunFacts::forced`](plimsoll_measure::RunFacts).
    pub forced: Vec<String>,
    /// Whether the run lasts until the plan's end even if this process has nothing left to send, because it
    /// may take over shards.
    pub lasting: bool,
    /// Where samples of arrivals go; `None` if none are recorded.
    pub samples: Option<SampleSink>,
    /// Where the results of single arrivals go, if they are wanted.
    pub capture: Option<Capture>,
    /// Where requests come from, if not from the plan. Such a run has one worker.
    pub feed: Option<Feed>,
}

/// Why a run cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// What went wrong.
    pub message: String,
    /// How to fix it.
    pub hint: String,
}

pub(crate) fn start_error(message: impl Into<String>, hint: impl Into<String>) -> StartError {
    StartError { message: message.into(), hint: hint.into() }
}

/// State shared by all workers of a run; only read on the hot path.
pub(crate) struct Shared {
    pub(crate) plan: Arc<Plan>,
    /// Compiled requests, in plan order.
    pub(crate) requests: Vec<Request>,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) workers: usize,
    pub(crate) spin: Spin,
    /// Maximum bytes per read.
    pub(crate) read_max: usize,
    /// Maximum bytes of incomplete bodies that a worker buffers.
    pub(crate) held_max: u64,
    /// Number of exchanges left to trace.
    pub(crate) traces_left: AtomicI64,
    /// Index in a snapshot for origins that are reached only by redirects.
    pub(crate) redirects_slot: usize,
    /// Maximum number of idle connections to an origin, per worker.
    pub(crate) idle_max: Option<usize>,
    /// By target, if its exchanges stay open: when messages were first received.
    pub(crate) firsts: Vec<Option<Firsts>>,
    pub(crate) capture: Option<Capture>,
    pub(crate) feed: Option<Feed>,
}

impl Shared {
    pub(crate) fn new(
        plan: &Arc<Plan>,
        origins: &[Origin],
        tls: Option<Arc<rustls::ClientConfig>>,
        (workers, spin, trace): (usize, Spin, u32),
    ) -> Shared {
        let places: HashMap<&Origin, usize> =
            origins.iter().enumerate().map(|(place, origin)| (origin, place)).collect();
        let style = Style::of(plan);
        let compile = |(number, spec): (u32, &RequestSpec)| {
            let mut request = Request::compile(spec, places[&spec.origin()], style);
            request.number = Some(number);
            request
        };
        let firsts = plan
            .targets
            .iter()
            .map(|target| plan.streams[target.stream].sockets.is_some().then(Firsts::new));
        let share = |max: u64| (max as usize).div_ceil(workers.max(1));
        Shared {
            requests: (0..).zip(&plan.requests).map(compile).collect(),
            firsts: firsts.collect(),
            plan: plan.clone(),
            tls,
            workers,
            spin,
            read_max: READ_MAX,
            held_max: HELD_MAX / workers.max(1) as u64,
            traces_left: AtomicI64::new(i64::from(trace)),
            redirects_slot: origins.len(),
            idle_max: plan.connections.idle_max.map(share),
            capture: None,
            feed: None,
        }
    }

    /// A worker's limit of requests in flight.
    pub(crate) fn in_flight_max(&self, worker: usize) -> usize {
        self.plan.max_in_flight.map_or(usize::MAX, |max| self.part(max, worker))
    }

    /// A worker's limits per origin.
    pub(crate) fn limits(&self, worker: usize, origin: &Origin) -> Limits {
        let rules = &self.plan.connections;
        let scheme = origin.scheme;
        if origin.stays_open {
            return self.limits_of_standing(worker, origin);
        }
        let (connections, streams) = match rules {
            _ if scheme.is_websocket() => (rules.websocket.connections, rules.websocket.calls),
            _ => (rules.http2.connections, rules.http2.streams),
        };
        Limits {
            http1: self.part(rules.max, worker),
            shared: self.part(connections, worker),
            in_flight: self.in_flight_max(worker),
            offer: Offer {
                protocol: self.plan.protocol,
                streams: u32::try_from(streams).unwrap_or(u32::MAX),
            },
        }
    }

    /// A worker's limits for exchanges that stay open: enough for its users, whose number per worker varies.
    /// Over HTTP/2, that is a connection for each of them: a stream that waits for another to end would wait
    /// until the end of the run, and a server may allow any number of streams. Fewer are opened if they have room.
    fn limits_of_standing(&self, worker: usize, origin: &Origin) -> Limits {
        let sockets = self.plan.sockets_to(origin);
        let streams =
            if origin.scheme.is_websocket() { 1 } else { self.plan.connections.http2.streams };
        Limits {
            http1: sockets as usize,
            shared: sockets as usize,
            in_flight: self.in_flight_max(worker),
            offer: Offer {
                protocol: self.plan.protocol,
                streams: u32::try_from(streams).unwrap_or(u32::MAX),
            },
        }
    }

    /// A worker's part of a limit for all workers.
    fn part(&self, max: u64, worker: usize) -> usize {
        let max = max as usize;
        max / self.workers + usize::from(worker < max % self.workers)
    }
}

/// Maximum bytes per read: enough for several small answers, and small enough that a long answer
/// does not keep other connections waiting.
const READ_MAX: usize = 64 << 10;
/// Maximum bytes of incomplete bodies buffered by all workers of a run.
const HELD_MAX: u64 = 256 << 20;
/// Arrivals per second per worker before another worker is added: a tenth of what a worker can
/// carry, so that a late thread is not mistaken for a slow target.
const RATE_PER_WORKER: f64 = 10_000.0;
/// The same for closed-model users.
const USERS_PER_WORKER: f64 = 32.0;
/// The same for exchanges that stay open and receive a message now and then.
const SOCKETS_PER_WORKER: f64 = 10_000.0;
/// Descriptors that are not connections: standard streams, files and the metrics listener, and for
/// each worker its epoll, timer and waker.
const OTHER_DESCRIPTORS: u64 = 16;
const DESCRIPTORS_PER_WORKER: u64 = 3;

/// A prepared run; its workers wait for the clock to start.
pub struct Prepared {
    plan: Arc<Plan>,
    control: Control,
    inbox: Receiver<FromWorker>,
    waker: Waker,
    emptied: Vec<Sender<Snapshot>>,
    gates: Vec<Sender<Clock>>,
    threads: Vec<JoinHandle<()>>,
    destinations: Vec<SocketAddr>,
    forced: Vec<String>,
}

impl Prepared {
    /// Does everything that can fail or take time: counts the schedules' arrivals, resolves names,
    /// loads certificates, and sets up each worker's epoll and thread. `part` is the part of the
    /// plan sent by this process.
    ///
    /// # Errors
    /// If the run cannot start: a name does not resolve, certificates are unusable, a source
    /// address is not assigned to this host, or a thread cannot be started.
    pub fn new(plan: &Arc<Plan>, part: &Part, settings: Settings) -> Result<Prepared, StartError> {
        check_sources(plan)?;
        let cpus = allowed_cpus();
        let workers = match settings.feed {
            Some(_) => 1,
            None => worker_count(plan, part, settings.workers, cpus.len()),
        };
        let mut forced = settings.forced;
        let origins = plan.origins();
        let names = resolve_all(&origins, settings.force, &mut forced)?;
        let tls = prepare_tls(plan)?;
        let starts = origins.iter().map(|origin| {
            tls_start(plan, tls.as_ref(), origin)
                .map_err(|message| start_error(message, "set tls.server_name"))
        });
        let starts = starts.collect::<Result<Vec<_>, _>>()?;
        let schedules: Vec<Option<Schedules>> =
            plan.streams.iter().map(|stream| stream.schedules(plan.warmup)).collect();
        let shared = Shared::new(plan, &origins, tls, (workers, settings.spin, settings.trace));
        let openings: Vec<_> = origins.iter().map(|origin| opening_of(plan, origin)).collect();
        let (capture, feed) = (settings.capture, settings.feed);
        let shared = Arc::new(Shared { capture, feed, ..shared });
        let resolver = resolve::start().map_err(|error| {
            start_error(format!("cannot spawn the resolver thread: {error}"), NO_THREADS)
        })?;

        // With one worker per CPU, pin each worker to its CPU.
        let pins = if workers == cpus.len() { cpus } else { Vec::new() };
        let mut spawned = WorkerThreads::new(workers);
        for worker in 0..workers {
            let pools = origins.iter().zip(&starts).zip(&names).enumerate();
            let pools = pools.map(|(slot, ((origin, tls), name))| {
                let limits = shared.limits(worker, origin);
                let mut pool =
                    Pool::new(origin.clone(), slot, tls.clone(), Name::Resolving, limits);
                pool.opening = openings[slot].clone();
                pool.start_at(worker);
                match name {
                    Ok(addresses) => _ = pool.set_addresses(addresses.clone()),
                    Err(why) => pool.name = Name::Failed(why.clone()),
                }
                pool
            });
            let own = part.share(worker, workers);
            let sources = plan.streams.iter().zip(&schedules).zip(own.streams());
            let sources = sources.map(|((stream, schedules), shards)| {
                let mut source = Source::new(plan, stream, schedules.as_ref(), shards);
                if settings.lasting {
                    source.stay();
                }
                source
            });
            let (pools, sources) = (pools.collect(), sources.collect());
            let sampling = settings.samples.as_ref().map(|sink| Sampling::new(worker, sink));
            spawned.start_worker(
                &shared,
                worker,
                &resolver,
                (sources, pools, sampling),
                pins.get(worker).copied(),
            )?;
        }
        if let Some(feed) = &shared.feed {
            feed.wakes(spawned.mailboxes[0].clone());
        }
        let parts = (0..workers).map(|worker| part.share(worker, workers)).collect();
        let assignments = Assignments::new(plan.clone(), &schedules, parts);
        Ok(Prepared {
            plan: plan.clone(),
            control: Control::new(assignments, spawned.mailboxes),
            inbox: spawned.inbox,
            waker: Waker::new(&spawned.reports),
            emptied: spawned.emptied,
            gates: spawned.gates,
            threads: spawned.handles,
            destinations: names.into_iter().flatten().flatten().collect(),
            forced,
        })
    }

    /// Number of worker threads.
    pub fn workers(&self) -> usize {
        self.threads.len()
    }

    /// The addresses of the plan's origins, as resolved now.
    pub fn destinations(&self) -> &[SocketAddr] {
        &self.destinations
    }

    /// The problems that were overridden by [`Settings::force`].
    pub fn forced(&self) -> &[String] {
        &self.forced
    }

    /// A handle for commands; works before the start too.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Starts the clock, which reaches zero after `lead`. `probe` reads the host each second.
    pub fn start(self, lead: Duration, probe: HostProbe) -> Running {
        self.start_on(Clock::start_in(lead), probe)
    }

    /// Starts with a clock that will read zero in the future; see [`Prepared::start`].
    pub fn start_on(self, clock: Clock, probe: HostProbe) -> Running {
        let started_at = WallClock { unix_ns: WallClock::now().unix_ns + clock.until_start().0 };
        for gate in &self.gates {
            // If a thread died before the start, it has reported that.
            let _ = gate.send(clock);
        }
        Running::new(Started {
            plan: self.plan,
            control: self.control,
            started_at,
            inbox: self.inbox,
            waker: self.waker,
            emptied: self.emptied,
            threads: self.threads,
            probe,
            forced: self.forced,
        })
    }
}

pub(crate) fn allowed_cpus() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let cpus: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

fn worker_count(plan: &Plan, part: &Part, asked: usize, cpus: usize) -> usize {
    let share = |shards: &Shards| shards.len() as f64 / SHARDS as f64;
    let needed: f64 = plan
        .streams
        .iter()
        .zip(part.streams())
        .map(|(stream, shards)| {
            share(shards)
                * match &stream.load {
                    Load::Closed { profile, .. } if stream.sockets.is_some() => {
                        profile.max() / SOCKETS_PER_WORKER
                    }
                    Load::Open { profile, .. } => profile.max() / RATE_PER_WORKER,
                    Load::Closed { profile, .. } => profile.max() / USERS_PER_WORKER,
                }
        })
        .sum();
    let workers = if asked > 0 { asked } else { (needed.ceil() as usize).clamp(1, cpus) };
    // Each worker needs at least one connection and one shard.
    let in_flight = plan.max_in_flight.unwrap_or(u64::MAX) as usize;
    let http2 = if plan.may_use_http2() { plan.connections.http2.connections } else { u64::MAX };
    let websocket = plan.connections.websocket.connections;
    let websocket = if plan.uses_websocket() { websocket } else { u64::MAX };
    let connections = plan.connections.max.min(http2).min(websocket) as usize;
    workers.min(connections).min(in_flight).min(part.shards_max()).max(1)
}

/// Connections that a plan needs in any case: one per user, or per stream of HTTP/2 that users share, and
/// one per open stream.
fn connections_needed(plan: &Plan) -> u64 {
    let needed = plan.streams.iter().map(|stream| {
        let first = &plan.targets[stream.targets.start].requests.start;
        let (_, each) = plan.connection_limit(&plan.requests[*first].origin());
        match &stream.load {
            Load::Open { .. } => 1,
            Load::Closed { profile, .. } => (profile.max().ceil() as u64).div_ceil(each),
        }
    });
    let most = plan.origins().into_iter().map(|origin| plan.connection_limit(&origin).0);
    needed.sum::<u64>().min(most.sum())
}

/// The fewest file descriptors that a plan needs: one for each user or open stream, plus those of the
/// workers and of the process. `workers` as in [`Settings`].
pub fn descriptors_needed(plan: &Plan, workers: usize) -> u64 {
    let workers = worker_count(plan, &Part::whole(plan), workers, allowed_cpus().len());
    connections_needed(plan) + OTHER_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers as u64
}

fn prepare_tls(plan: &Plan) -> Result<Option<Arc<rustls::ClientConfig>>, StartError> {
    let secure = plan.requests.iter().any(|spec| spec.url.scheme.is_secure());
    if !secure && plan.redirects == 0 {
        return Ok(None);
    }
    match crate::tls::client_config(&plan.tls, plan.protocol) {
        Ok(config) => Ok(Some(config)),
        // Without https targets, TLS is needed only if a redirect leads to https.
        Err(_) if !secure => Ok(None),
        Err(error) => Err(error),
    }
}

type Addresses = Result<Vec<SocketAddr>, String>;

fn resolve_all(
    origins: &[Origin],
    force: bool,
    forced: &mut Vec<String>,
) -> Result<Vec<Addresses>, StartError> {
    let mut names = Vec::with_capacity(origins.len());
    for origin in origins {
        let found = lookup(&origin.host, origin.port);
        if let Err(why) = &found {
            let message = format!("cannot resolve host \"{}\": {why}", origin.host);
            if !force {
                let hint = if is_literal(&origin.host) {
                    ""
                } else {
                    "check the name, DNS and /etc/hosts"
                };
                return Err(start_error(message, hint));
            }
            forced.push(message);
        }
        names.push(found);
    }
    Ok(names)
}

fn check_sources(plan: &Plan) -> Result<(), StartError> {
    for source in &plan.connections.sources {
        if let Err(error) = std::net::TcpListener::bind((*source, 0))
            && error.kind() == io::ErrorKind::AddrNotAvailable
        {
            return Err(start_error(
                format!("source address {source} is not assigned to this host"),
                format!(
                    "add it (ip address add {source}/32 dev lo) or remove it from connections.source"
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::running::{Next, Report};
    use crate::threads::report_failure;
    use plimsoll_measure::{HostSample, Nanos};
    use plimsoll_plan::{Document, Variables};
    use std::path::Path;
    use std::sync::mpsc::channel;

    fn plan(text: &str) -> Arc<Plan> {
        let text = format!("{text}\n[[target]]\nrequest = \"GET http://127.0.0.1:9/\"\n");
        let document = Document::new("plan.toml", text);
        Arc::new(Plan::read(&document, &Variables::default(), Path::new(".")).unwrap())
    }

    fn settings() -> Settings {
        Settings { workers: 2, spin: Spin::Never, ..Settings::default() }
    }

    #[test]
    fn descriptors_are_for_users_streams_workers_and_the_process() {
        let needed = |text: &str| descriptors_needed(&plan(text), 2);
        assert_eq!(needed("users = 500\nduration = \"1s\""), 522);
        assert_eq!(needed("rate = 500\nduration = \"1s\""), 23);
        assert_eq!(needed("users = 500\nduration = \"1s\"\nconnections.max = 100"), 122);
        assert_eq!(needed("users = 500\nduration = \"1s\"\nprotocol = \"http2\""), 27);
    }

    #[test]
    fn dropping_a_prepared_run_ends_its_threads() {
        let plan = plan("rate = \"1/s\"\nduration = \"1h\"");
        let mut prepared = Prepared::new(&plan, &Part::whole(&plan), settings()).unwrap();
        let threads = std::mem::take(&mut prepared.threads);
        drop(prepared);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn a_panic_ends_the_run_at_once() {
        let plan = plan("rate = \"1/s\"\nduration = \"1h\"");
        let (reports, inbox) = channel();
        let schedules: Vec<_> = plan.streams.iter().map(|s| s.schedules(Nanos::ZERO)).collect();
        let assignments = Assignments::new(plan.clone(), &schedules, vec![Part::whole(&plan)]);
        let mut running = Running::new(Started {
            plan: plan.clone(),
            control: Control::new(assignments, Vec::new()),
            started_at: WallClock { unix_ns: 0 },
            inbox,
            waker: Waker::new(&reports),
            emptied: vec![channel().0, channel().0],
            threads: Vec::new(),
            probe: Box::new(HostSample::default),
            forced: Vec::new(),
        });
        running.waker().wake();
        assert!(
            matches!(running.next_or_wake(), Ok(Next::Woken)),
            "although no second is complete"
        );
        running.waker().wake();
        // One worker has reported a second; the other never does.
        let report =
            Report { worker: 0, counts: plan.blank_snapshot(), last: None, traces: Vec::new() };
        reports.send(FromWorker::Report(Box::new(report))).unwrap();
        report_failure(1, &reports, || panic!("an arrival was lost"));
        let error = running.next_second().unwrap_err();
        assert_eq!(error.to_string(), "worker 1 panicked: an arrival was lost");
        assert_eq!(running.control().stop_level(), 2, "the other workers are stopped");
    }
}
