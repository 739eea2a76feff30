//! Everything that can fail or take time, before the clock starts.

use crate::control::{Assignments, Control};
use crate::crew::{Crew, NO_THREADS};
use crate::pool::{Name, Pool};
use crate::request::{Request, tls_start};
use crate::running::{FromWorker, Running, Started};
use crate::source::Source;
use crate::system::resolve::{self, is_literal, lookup};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use plimsoll_measure::{Clock, HostSample, Snapshot, WallClock};
use plimsoll_plan::{Load, Origin, Plan, RequestSpec, SHARDS, Schedules, Scheme, Shards};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// Whether a worker waits for the next arrival awake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spin {
    /// For the last stretch, as long as a wake-up takes on this host.
    #[default]
    Adaptive,
    /// All the time: for cores that nothing else uses.
    Always,
    /// Not at all.
    Never,
}

/// How a run is carried out; what it measures is the plan's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads; 0: as many as the plan's load asks for, at most one for each CPU.
    pub workers: usize,
    /// Whether they spin.
    pub spin: Spin,
    /// How many whole exchanges are handed over in [`Second::traces`](crate::Second::traces).
    pub trace: u32,
    /// What this process has used of the host so far.
    pub usage: fn() -> HostSample,
    /// How many descriptors it may have open; [`u64::MAX`] where that is not known.
    pub descriptors: u64,
    /// Go on with what this host cannot carry, and with names that do not resolve.
    pub force: bool,
}

/// Why a run cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// What is wrong.
    pub message: String,
    /// How to fix it.
    pub hint: String,
}

pub(crate) fn refuse(message: impl Into<String>, hint: impl Into<String>) -> StartError {
    StartError { message: message.into(), hint: hint.into() }
}

/// What all workers of a run share; nothing of it is written on the hot path.
pub(crate) struct Shared {
    pub(crate) plan: Arc<Plan>,
    /// By request of the plan.
    pub(crate) requests: Vec<Request>,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) workers: usize,
    pub(crate) spin: Spin,
    /// The most bytes that one read takes.
    pub(crate) read_max: usize,
    /// The most bytes of unfinished bodies that a worker holds.
    pub(crate) held_max: u64,
    /// How many exchanges are still to be shown whole.
    pub(crate) traces_left: AtomicI64,
    /// Where a snapshot counts origins that only redirects lead to.
    pub(crate) redirects_slot: usize,
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
        let close = !plan.connections.reuse;
        let compile =
            |spec: &RequestSpec| Request::compile(spec, places[&spec.url.origin()], close);
        Shared {
            requests: plan.requests.iter().map(compile).collect(),
            plan: plan.clone(),
            tls,
            workers,
            spin,
            read_max: READ_MAX,
            held_max: HELD_MAX / workers.max(1) as u64,
            traces_left: AtomicI64::new(i64::from(trace)),
            redirects_slot: origins.len(),
        }
    }

    /// The most connections of a worker to one origin.
    pub(crate) fn limit(&self, worker: usize) -> usize {
        let max = self.plan.connections.max as usize;
        max / self.workers + usize::from(worker < max % self.workers)
    }
}

/// One read takes at most this much: several small answers' worth, and a share of a long one that
/// does not keep others waiting.
const READ_MAX: usize = 64 << 10;
/// Bodies that the workers of a run hold until they are whole, together.
const HELD_MAX: u64 = 256 << 20;
/// A worker is given this many arrivals per second before another is started: a tenth of what it
/// can carry, so that one late thread cannot be mistaken for a slow target.
const RATE_PER_WORKER: f64 = 10_000.0;
/// The same for users of the closed model.
const USERS_PER_WORKER: f64 = 32.0;
/// Descriptors that are not connections: standard streams, files, the metrics listener, and the
/// poll, timer and waker of each worker.
const OTHER_DESCRIPTORS: u64 = 16;
const DESCRIPTORS_PER_WORKER: u64 = 3;

/// A run that is ready: its workers wait for the clock to start.
pub struct Prepared {
    plan: Arc<Plan>,
    control: Control,
    inbox: Receiver<FromWorker>,
    emptied: Vec<Sender<Snapshot>>,
    gates: Vec<Sender<Clock>>,
    threads: Vec<JoinHandle<()>>,
    usage: fn() -> HostSample,
    forced: Vec<String>,
}

impl Prepared {
    /// Does everything that can fail or take time: counts schedules through, resolves names, loads
    /// certificates, opens each worker's poll and starts its thread. `shards` is the share of the
    /// plan that is sent from here.
    ///
    /// # Errors
    /// What keeps it from starting: a name without address, unusable certificates, an address that
    /// is not this host's, too few descriptors.
    pub fn new(
        plan: &Arc<Plan>,
        shards: &Shards,
        settings: Settings,
    ) -> Result<Prepared, StartError> {
        check_sources(plan)?;
        let cpus = allowed_cpus();
        let workers = worker_count(plan, shards, settings.workers, cpus.len());
        let mut forced = Vec::new();
        if let Err(error) = check_descriptors(plan, workers, settings.descriptors) {
            if !settings.force {
                return Err(error);
            }
            forced.push(error.message);
        }
        let origins = plan.origins();
        let names = resolve_all(&origins, settings.force, &mut forced)?;
        let tls = prepare_tls(plan)?;
        let starts = origins.iter().map(|origin| {
            tls_start(plan, tls.as_ref(), origin)
                .map_err(|message| refuse(message, "set tls.server_name"))
        });
        let starts = starts.collect::<Result<Vec<_>, _>>()?;
        let schedules: Vec<Option<Schedules>> =
            plan.streams.iter().map(|stream| stream.schedules(plan.warmup)).collect();
        let shared =
            Arc::new(Shared::new(plan, &origins, tls, (workers, settings.spin, settings.trace)));
        let resolver = resolve::start().map_err(|error| {
            refuse(format!("cannot spawn the resolver thread: {error}"), NO_THREADS)
        })?;

        // Where every CPU has a worker, each keeps to its own.
        let pins = if workers == cpus.len() { cpus } else { Vec::new() };
        let mut crew = Crew::new(workers);
        for worker in 0..workers {
            let pools = origins.iter().zip(&starts).zip(&names).enumerate();
            let pools = pools.map(|(slot, ((origin, tls), name))| {
                let limit = shared.limit(worker);
                let mut pool = Pool::new(origin.clone(), slot, tls.clone(), Name::Asked, limit);
                pool.start_at(worker);
                match name {
                    Ok(addresses) => _ = pool.learn(addresses.clone()),
                    Err(why) => pool.name = Name::Failed(why.clone()),
                }
                pool
            });
            let part = shards.share(worker, workers);
            let sources = plan.streams.iter().zip(&schedules);
            let sources = sources
                .map(|(stream, schedules)| Source::new(plan, stream, schedules.as_ref(), &part));
            let (pools, sources) = (pools.collect(), sources.collect());
            crew.start_worker(
                &shared,
                worker,
                &resolver,
                (sources, pools),
                pins.get(worker).copied(),
            )?;
        }
        let parts = (0..workers).map(|worker| shards.share(worker, workers)).collect();
        let assignments = Assignments::new(plan.clone(), &schedules, parts);
        Ok(Prepared {
            plan: plan.clone(),
            control: Control::new(assignments, crew.mailboxes),
            inbox: crew.inbox,
            emptied: crew.emptied,
            gates: crew.gates,
            threads: crew.threads,
            usage: settings.usage,
            forced,
        })
    }

    /// Worker threads.
    pub fn workers(&self) -> usize {
        self.threads.len()
    }

    /// What this host cannot carry, where the run was forced.
    pub fn forced(&self) -> &[String] {
        &self.forced
    }

    /// Commands the engine, also before it starts.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Starts the clock, which is at zero after `lead`.
    pub fn start(self, lead: Duration) -> Running {
        let clock = Clock::start_in(lead);
        let started_at = WallClock { unix_ns: WallClock::now().unix_ns + lead.as_nanos() as u64 };
        for gate in &self.gates {
            // A thread that died before the start has reported it.
            let _ = gate.send(clock);
        }
        Running::new(Started {
            plan: self.plan,
            control: self.control,
            started_at,
            inbox: self.inbox,
            emptied: self.emptied,
            threads: self.threads,
            usage: self.usage,
            forced: self.forced,
        })
    }
}

fn allowed_cpus() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let cpus: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

fn worker_count(plan: &Plan, shards: &Shards, asked: usize, cpus: usize) -> usize {
    let needed: f64 = plan
        .streams
        .iter()
        .map(|stream| match &stream.load {
            Load::Open { profile, .. } => profile.max() / RATE_PER_WORKER,
            Load::Closed { profile, .. } => profile.max() / USERS_PER_WORKER,
        })
        .sum();
    let share = shards.len() as f64 / SHARDS as f64;
    let needed = (needed * share).ceil() as usize;
    let workers = if asked > 0 { asked } else { needed.clamp(1, cpus) };
    // Each needs a connection, and a shard.
    workers.min(plan.connections.max as usize).min(shards.len()).max(1)
}

/// Connections that a plan needs whatever the target does: one for each user, one for each origin of
/// an open stream.
fn connections_needed(plan: &Plan) -> u64 {
    let needed = plan.streams.iter().map(|stream| match &stream.load {
        Load::Open { .. } => 1,
        Load::Closed { profile, .. } => profile.max().ceil() as u64,
    });
    needed.sum::<u64>().min(plan.connections.max * plan.origins().len() as u64)
}

fn check_descriptors(plan: &Plan, workers: usize, limit: u64) -> Result<(), StartError> {
    let others = OTHER_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers as u64;
    let needed = connections_needed(plan) + others;
    if needed <= limit {
        return Ok(());
    }
    Err(refuse(
        format!(
            "the plan needs at least {needed} file descriptors, but this process may open only {limit}"
        ),
        format!("raise the hard limit (ulimit -Hn {needed}) or use fewer users"),
    ))
}

fn prepare_tls(plan: &Plan) -> Result<Option<Arc<rustls::ClientConfig>>, StartError> {
    let secure = plan.requests.iter().any(|spec| spec.url.scheme == Scheme::Https);
    if !secure && plan.redirects == 0 {
        return Ok(None);
    }
    match crate::tls::client_config(&plan.tls) {
        Ok(config) => Ok(Some(config)),
        // Without https targets TLS is needed only if a redirect leads there.
        Err(_) if !secure => Ok(None),
        Err(message) => {
            Err(refuse(message, "check ca, cert, key and insecure under [tls] in the plan"))
        }
    }
}

type Addresses = Result<Vec<std::net::SocketAddr>, String>;

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
                return Err(refuse(message, hint));
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
            return Err(refuse(
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
    use crate::crew::report_failure;
    use crate::running::Report;
    use plimsoll_measure::Nanos;
    use plimsoll_plan::{Document, Variables};
    use std::path::Path;
    use std::sync::mpsc::channel;

    fn plan(text: &str) -> Arc<Plan> {
        let text = format!("{text}\n[[target]]\nrequest = \"GET http://127.0.0.1:9/\"\n");
        let document = Document::new("plan.toml", text);
        Arc::new(Plan::read(&document, &Variables::default(), Path::new(".")).unwrap())
    }

    fn settings() -> Settings {
        Settings {
            workers: 2,
            spin: Spin::Never,
            trace: 0,
            usage: HostSample::default,
            descriptors: u64::MAX,
            force: false,
        }
    }

    #[test]
    fn what_this_host_cannot_carry_is_refused_before_the_start() {
        let plan = plan("users = 500\nduration = \"1s\"");
        let narrow = Settings { descriptors: 64, ..settings() };
        let refused = Prepared::new(&plan, &Shards::all(), narrow.clone()).err().unwrap();
        assert_eq!(
            refused.to_string(),
            "the plan needs at least 522 file descriptors, but this process may open only 64"
        );
        let forced = Settings { force: true, ..narrow };
        let prepared = Prepared::new(&plan, &Shards::all(), forced).unwrap();
        assert_eq!((prepared.workers(), prepared.forced().len()), (2, 1));
    }

    #[test]
    fn a_run_that_is_prepared_and_dropped_never_starts() {
        let plan = plan("rate = \"1/s\"\nduration = \"1h\"");
        let mut prepared = Prepared::new(&plan, &Shards::all(), settings()).unwrap();
        let threads = std::mem::take(&mut prepared.threads);
        drop(prepared);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn a_panic_ends_the_run_at_once() {
        let plan = plan("rate = \"1/s\"\nduration = \"1h\"");
        let (reports, inbox) = channel();
        let schedules: Vec<_> = plan.streams.iter().map(|s| s.schedules(Nanos::ZERO)).collect();
        let assignments = Assignments::new(plan.clone(), &schedules, vec![Shards::all()]);
        let mut running = Running::new(Started {
            plan: plan.clone(),
            control: Control::new(assignments, Vec::new()),
            started_at: WallClock { unix_ns: 0 },
            inbox,
            emptied: vec![channel().0, channel().0],
            threads: Vec::new(),
            usage: HostSample::default,
            forced: Vec::new(),
        });
        // One worker has reported a second; the other never will.
        let report = Report {
            worker: 0,
            counts: plan.blank_snapshot(),
            last: None,
            notes: Vec::new(),
            traces: Vec::new(),
        };
        reports.send(FromWorker::Report(Box::new(report))).unwrap();
        report_failure(1, &reports, || panic!("an arrival was lost"));
        let error = running.next_second().unwrap_err();
        assert_eq!(error.to_string(), "worker 1 panicked: an arrival was lost");
        assert_eq!(running.control().stop_level(), 2, "the others are stopped");
    }
}
