//! State shared by all workers ([`Shared`]) and by the tasks of one worker thread ([`Worker`]).
//!
//! Threads mostly read shared state: settings and routes are replaced as a whole, and a worker
//! compares one version number to detect that. The exception is the process's capacity, which all
//! threads update.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use plimsoll_measure::rng::{Key, Sequence};
use plimsoll_measure::{Nanos, WallClock};
use plimsoll_registry::settings::Settings;
use plimsoll_registry::store::Report;
use tokio::sync::{mpsc, watch};

use crate::cache::Cache;
use crate::cache::shared::Shared as SecondLevel;
use crate::call::abandoned::Abandoned;
use crate::call::cached::Caching;
use crate::call::customers;
use crate::call::passed::VIA;
use crate::call::routing::{Excluded, Routing};
use crate::call::shared_heads::Leases;
use crate::host::{Host, Process};
use crate::http1::write_field;
use crate::keeper::dns::Resolver;
use crate::limits::Limits;
use crate::local::{Local, Time};
use crate::meter::{HAND_OVER_INTERVAL, Meter};
use crate::observe::access_log::AccessLog;
use crate::observe::events::Events;
use crate::observe::metrics::{
    CacheFigures, Figures, RouteFigures, SHED_NAMED_MAX, ServiceFigures,
};
use crate::observe::stats::{Counts, Sharded};
use crate::observe::traces::Traces;
use crate::permit::Capacity;
use crate::upstream::{Client, Network};

/// The state that a reload replaces.
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) routing: Routing,
}

/// A snapshot of the state, which a call uses from start to end.
pub(crate) type View = Rc<Arc<State>>;

/// The phases of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// No longer ready; each answer closes its connection.
    Draining,
    /// Idle connections are closed.
    Closing,
}

/// State shared by all threads of a gateway.
pub(crate) struct Shared {
    pub(crate) time: Time,
    pub(crate) started: WallClock,
    /// A random id of this gateway process.
    pub(crate) id: String,
    /// The header line that marks a request as having passed through this gateway.
    pub(crate) via: Vec<u8>,
    threads: u64,
    state: ArcSwap<State>,
    version: AtomicU64,
    draining: AtomicBool,
    phase: watch::Sender<Phase>,
    pub(crate) counts: Arc<Sharded<Counts>>,
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) access_log: AccessLog,
    pub(crate) traces: Arc<Traces>,
    pub(crate) caching: Caching,
    pub(crate) leases: Leases,
    /// Accounts that have had calls refused for lack of capacity.
    pub(crate) shed_accounts: AtomicU64,
    /// When a connection from a caller was last known to be open; 0 if never.
    connected_at: AtomicU64,
    /// When the configuration was last replaced, as Unix time in nanoseconds.
    reloaded_at: AtomicU64,
    /// Whether the last change to the configuration was rejected.
    is_config_rejected: AtomicBool,
    pub(crate) host: Host,
    pub(crate) limits: Arc<Limits>,
    /// What operators are told as it happens.
    pub(crate) events: Events,
}

impl Shared {
    pub(crate) fn new(
        state: State,
        access_log: AccessLog,
        resolver: Resolver,
        host: Host,
        time: Time,
        shared: Option<Arc<dyn SecondLevel>>,
    ) -> Shared {
        let caching = Caching::new(&state.settings.cache, &state.settings.limits, shared);
        let workers = state.settings.workers;
        // Replicas that do not share limits enforce them as a whole.
        let Settings { limits, .. } = &state.settings;
        let replicas = if limits.shared { u64::from(limits.replicas) } else { 1 };
        let awaits_totals = host.usage.is_some() && state.routing.quotas().next().is_some();
        let id = format!("{:016x}", RandomState::new().build_hasher().finish());
        let id_of_events = id.clone();
        let mut via = Vec::new();
        write_field(VIA, id.as_bytes(), &mut via);
        Shared {
            time,
            started: WallClock::now(),
            id,
            via,
            // The keeper also sends calls.
            threads: workers as u64 + 1,
            capacity: Arc::new(Capacity::new(&state.settings.limits)),
            state: ArcSwap::from_pointee(state),
            version: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            phase: watch::Sender::new(Phase::Serving),
            // One each for the workers, the keeper and the acceptor.
            counts: Arc::new(Sharded::new(workers + 2)),
            resolver: Arc::new(resolver),
            access_log,
            traces: Arc::default(),
            caching,
            leases: Leases::default(),
            shed_accounts: AtomicU64::new(0),
            connected_at: AtomicU64::new(0),
            reloaded_at: AtomicU64::new(WallClock::now().unix_ns),
            is_config_rejected: AtomicBool::new(false),
            events: Events::new(&id_of_events),
            limits: Arc::new(Limits::new(
                host.wall_clock.clone().unwrap_or_else(|| Arc::new(WallClock::now)),
                awaits_totals,
                replicas,
            )),
            host,
        }
    }

    /// A meter for a worker.
    fn meter(&self) -> Meter {
        let wall = self.host.wall_clock.clone().unwrap_or_else(|| Arc::new(WallClock::now));
        Meter::new(self.host.usage.clone(), wall)
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Replaces settings and routes for all calls that start from now on.
    pub(crate) fn replace(&self, state: State) {
        self.capacity.set_limits(&state.settings.limits);
        self.state.store(Arc::new(state));
        self.version.fetch_add(1, Ordering::Release);
        self.reloaded_at.store(WallClock::now().unix_ns, Ordering::Relaxed);
    }

    /// What the process observes of its database.
    pub(crate) fn database(&self) -> Report {
        self.host.database.report()
    }

    /// When the configuration was last replaced.
    pub(crate) fn reloaded_at(&self) -> WallClock {
        WallClock { unix_ns: self.reloaded_at.load(Ordering::Relaxed) }
    }

    /// Whether the last change to the configuration was rejected.
    pub(crate) fn is_config_rejected(&self) -> bool {
        self.is_config_rejected.load(Ordering::Relaxed)
    }

    pub(crate) fn set_config_rejected(&self, is_rejected: bool) {
        self.is_config_rejected.store(is_rejected, Ordering::Relaxed);
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.draining.store(phase >= Phase::Draining, Ordering::Relaxed);
        self.phase.send_replace(phase);
    }

    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A channel that reports each phase as it is entered.
    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Records that a connection from a caller is open.
    pub(crate) fn is_connected(&self) {
        self.connected_at.store(self.time.now().0.max(1), Ordering::Relaxed);
    }

    /// How long no connection from a caller has been open, to the second; `None` if none ever was.
    pub(crate) fn unconnected_for(&self) -> Option<Nanos> {
        let at = self.connected_at.load(Ordering::Relaxed);
        (at > 0).then(|| self.time.now() - Nanos(at))
    }

    /// Open connections from callers.
    pub(crate) fn connections(&self) -> u64 {
        self.counts.sum(|counts| counts.downstream.get())
    }

    /// The figures of the cache.
    pub(crate) fn cache_figures(&self) -> CacheFigures {
        let cache = self.caching.cache.as_ref();
        let shared = self.caching.second_level();
        CacheFigures {
            store: cache.map(Cache::figures).unwrap_or_default(),
            flights_full: self.caching.flights.full(),
            shared: shared.map(|shared| (shared.counts(), shared.is_used())),
            heads_late: self.leases.late.load(Ordering::Relaxed),
            heads_foreign: self.leases.foreign.load(Ordering::Relaxed),
        }
    }

    /// Renders the metrics page.
    pub(crate) fn metrics(&self, state: &State) -> String {
        let services = state.routing.services();
        let service_figures = |service: &'_ Arc<super::routing::Service>| ServiceFigures {
            id: service.model.id.clone(),
            calls: service.calls.clone(),
            routes: service
                .routes
                .iter()
                .enumerate()
                .map(|(place, route)| RouteFigures {
                    upstream: route.upstream.model.id.clone(),
                    excluded: route.why_excluded(self.time.now()).map(Excluded::word),
                    head: service.head_of(place),
                    relays: route.relays.clone(),
                })
                .collect(),
            heads: service.heads.as_ref().map(|heads| heads.figures()),
            prefetched: service.state.prefetched.calls.load(Ordering::Relaxed),
            is_fallback: service.state.is_fallback.load(Ordering::Relaxed),
            line: service.state.line.clone(),
            shed: Vec::new(),
        };
        let upstreams = state.routing.upstreams().iter();
        let Process { cpu_seconds, resident_bytes, open_fds } = (self.host.process)();
        let mut services: Vec<ServiceFigures> = services.into_iter().map(service_figures).collect();
        for (id, endpoint) in state.routing.endpoints() {
            let account = &endpoint.access.account.in_use;
            let is_named = (1..=SHED_NAMED_MAX).contains(&account.shed_place());
            let is_of = |one: &&mut ServiceFigures| one.id == endpoint.service.model.id;
            if let Some(service) = services.iter_mut().filter(|_| is_named).find(is_of) {
                service.shed.push((id.to_owned(), account.shed_calls()));
            }
        }
        Figures {
            services,
            in_flight: upstreams
                .map(|one| (one.model.id.clone(), one.in_flight(), one.gate.limit()))
                .collect(),
            counts: &self.counts,
            cache: self.cache_figures(),
            customers: customers::figures(&state.routing, &self.limits, self.host.usage.is_some()),
            leases: self.limits.leases().map(|leases| leases.figures()),
            calls: self.capacity.calls(),
            memory_bytes: self.capacity.bytes(),
            memory_limit: state.settings.limits.memory,
            is_config_rejected: self.is_config_rejected(),
            reloaded_secs: self.reloaded_at().unix_ns as f64 / 1e9,
            db_queries: self.host.database.queries(),
            db_connections: self.host.database.connections(),
            database: self.host.database.report(),
            usage: self.host.usage.as_ref().map(|inbox| inbox.figures()),
            log_dropped: self.access_log.dropped(),
            traces: self.traces.counts(),
            cpu_seconds,
            resident_bytes,
            open_fds,
            started_secs: self.started.unix_ns as f64 / 1e9,
        }
        .page()
    }
}

/// Random bits that differ between workers and between processes.
fn trace_bits(number: usize) -> Sequence {
    let random = RandomState::new().build_hasher().finish();
    Key::new(random).with(number as u64).sequence()
}

/// A worker thread's own state.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) local: Rc<Local>,
    pub(crate) client: Client,
    /// Where calls go whose callers have left; `None` until [`super::abandoned::run`] runs.
    pub(crate) abandoned: RefCell<Option<mpsc::UnboundedSender<Abandoned>>>,
    view: RefCell<(u64, View)>,
    ids: Cell<u64>,
    /// Random bits for the ids of traces; unlike those of `local`, never the same in two processes.
    trace_bits: RefCell<Sequence>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: usize, network: Network) -> Worker {
        let state = shared.state();
        let local = Local::new(number, shared.time, shared.capacity.clone(), shared.counts.clone());
        let local = Rc::new(local.metered(shared.meter()));
        Worker {
            client: Client::new(local.clone(), shared.resolver.clone(), network),
            abandoned: RefCell::default(),
            local,
            view: RefCell::new((shared.version.load(Ordering::Acquire), Rc::new(state))),
            ids: Cell::new(0),
            trace_bits: RefCell::new(trace_bits(number)),
            shared,
        }
    }

    /// The current settings and routes.
    #[inline]
    pub(crate) fn view(&self) -> View {
        let version = self.shared.version.load(Ordering::Acquire);
        let mut view = self.view.borrow_mut();
        if view.0 != version {
            *view = (version, Rc::new(self.shared.state()));
        }
        view.1.clone()
    }

    /// An id that no other exchange of this process has, starting at 1. Ids stay below 2⁵³, the
    /// largest that nodes with floating-point numbers can return, for some thousand years.
    #[inline]
    pub(crate) fn next_id(&self) -> u64 {
        let id = self.ids.get();
        self.ids.set(id + 1);
        id * self.shared.threads + self.local.number as u64 + 1
    }

    /// Random bits for an id in a trace; never 0, which is not valid.
    pub(crate) fn trace_bits(&self) -> u64 {
        self.trace_bits.borrow_mut().bits().max(1)
    }

    /// A globally unique request id.
    pub(crate) fn new_request_id(&self) -> String {
        format!("{}-{:x}", self.shared.id, self.next_id())
    }

    /// Hands over at intervals what was counted, until the worker stops.
    pub(crate) async fn hand_over(self: Rc<Worker>) {
        let mut tick = tokio::time::interval(HAND_OVER_INTERVAL);
        loop {
            tick.tick().await;
            self.local.meter.hand_over();
        }
    }

    /// Each second closes upstream connections that are no longer needed, and records whether callers
    /// are connected, until the worker stops.
    pub(crate) async fn tidy(self: Rc<Worker>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            self.client.tidy(self.view().routing.upstreams());
            if self.shared.connections() > 0 {
                self.shared.is_connected();
            }
        }
    }
}
