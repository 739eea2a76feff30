//! What the tasks of one worker thread share, and what all workers do.
//!
//! A worker's own things (connections to upstreams, buffers, counters) need no lock, because only its
//! thread touches them. What is shared is read: settings and registry are replaced as a whole, and a
//! worker looks at one number to see whether they were.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use plimsoll_measure::rng::Sequence;
use plimsoll_measure::{Clock, Nanos, WallClock};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::call::routing::{Registry, Upstream};
use crate::gateway::Outside;
use crate::observe::access_log::AccessLog;
use crate::observe::stats::{Counter, Sharded};
use crate::upstream::Pool;
use plimsoll_registry::settings::Settings;

/// A buffer's size when it is made: a usual request or answer fits.
const BUFFER_SIZE: usize = 8 << 10;

/// Buffers that grew beyond this are given back to the system.
const BUFFER_KEPT_MAX: usize = 64 << 10;

/// So many buffers wait to be used again.
const BUFFERS_KEPT_MAX: usize = 256;

/// A connection to an upstream that was idle for so long is closed: shorter than what nodes and
/// proxies allow (60 s and more), so that it is rarely closed under a request.
const UPSTREAM_IDLE: Nanos = Nanos::from_secs(50);

/// What a reload replaces.
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) registry: Registry,
}

/// The state as one call sees it, from its beginning to its end.
pub(crate) type View = Rc<Arc<State>>;

/// What all threads of a gateway share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    /// The clock's zero on the runtimes' clock.
    pub(crate) origin: Instant,
    pub(crate) started: WallClock,
    workers: u64,
    state: ArcSwap<State>,
    version: AtomicU64,
    /// The order to stop: no new work, what is under way ends.
    draining: AtomicBool,
    pub(crate) drain: watch::Sender<bool>,
    pub(crate) counts: Sharded<Counts>,
    /// What long bodies take at present, in bytes.
    pub(crate) held_bytes: AtomicU64,
    pub(crate) access_log: AccessLog,
    pub(crate) outside: Outside,
}

/// What is counted beside calls and relays.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections from callers that are open.
    pub(crate) downstream: Counter,
    /// Connections to upstreams that are open, idle ones among them.
    pub(crate) upstream: Counter,
    /// Requests that were refused before a service was known, by the error's place in the table.
    pub(crate) refused: [Counter; crate::error::TABLE.len()],
}

impl Shared {
    pub(crate) fn new(state: State, access_log: AccessLog, outside: Outside) -> Shared {
        let workers = state.settings.workers;
        #[allow(clippy::disallowed_methods)] // the runtimes' clock, read once beside our own
        let origin = Instant::now();
        Shared {
            clock: Clock::start(),
            origin,
            started: WallClock::now(),
            workers: workers as u64,
            state: ArcSwap::from_pointee(state),
            version: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            drain: watch::Sender::new(false),
            // One more than there are workers: the acceptor counts too.
            counts: Sharded::new(workers + 1),
            held_bytes: AtomicU64::new(0),
            access_log,
            outside,
        }
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Replaces settings and registry for all calls that begin from now on.
    pub(crate) fn replace(&self, state: State) {
        self.state.store(Arc::new(state));
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.drain.send_replace(true);
    }

    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Connections from callers that are open.
    pub(crate) fn connections(&self) -> u64 {
        self.counts.sum(|counts| counts.downstream.get())
    }
}

/// One worker's own.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: usize,
    view: RefCell<(u64, View)>,
    buffers: RefCell<Vec<Vec<u8>>>,
    pools: RefCell<HashMap<u64, Rc<Pool>>>,
    ids: Cell<u64>,
    recent: Cell<Nanos>,
    random: RefCell<Sequence>,
    date: RefCell<(u64, String)>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: usize) -> Worker {
        let state = shared.state();
        let seed = plimsoll_measure::rng::Key::new(shared.started.unix_ns).with(number as u64);
        Worker {
            number,
            view: RefCell::new((shared.version.load(Ordering::Acquire), Rc::new(state))),
            buffers: RefCell::default(),
            pools: RefCell::default(),
            ids: Cell::new(0),
            recent: Cell::new(Nanos::ZERO),
            random: RefCell::new(seed.sequence()),
            date: RefCell::default(),
            shared,
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        let now = self.shared.clock.now();
        self.recent.set(now);
        now
    }

    /// What the clock said when it was last asked: for who asked it a moment ago, in the same turn.
    #[inline]
    pub(crate) fn recent(&self) -> Nanos {
        self.recent.get()
    }

    /// An instant of our clock on the runtime's.
    #[inline]
    pub(crate) fn instant(&self, at: Nanos) -> Instant {
        self.shared.origin + Duration::from(at)
    }

    #[inline]
    pub(crate) fn counts(&self) -> &Counts {
        self.shared.counts.of(self.number)
    }

    /// Settings and registry as they are now.
    #[inline]
    pub(crate) fn view(&self) -> View {
        let version = self.shared.version.load(Ordering::Acquire);
        let mut view = self.view.borrow_mut();
        if view.0 != version {
            *view = (version, Rc::new(self.shared.state()));
        }
        view.1.clone()
    }

    /// A number that no other exchange of this process has. It stays below 2⁵³, which is what
    /// nodes that keep numbers as floating point can repeat, for some thousand years.
    #[inline]
    pub(crate) fn next_id(&self) -> u64 {
        let id = self.ids.get();
        self.ids.set(id + 1);
        id * self.shared.workers + self.number as u64
    }

    /// A number from 0 to 1.
    pub(crate) fn random(&self) -> f64 {
        self.random.borrow_mut().unit()
    }

    /// The Date header's value.
    pub(crate) fn write_date(&self, now: Nanos, out: &mut Vec<u8>) {
        let second = (self.shared.started.unix_ns + now.0) / 1_000_000_000;
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            let at = std::time::UNIX_EPOCH + Duration::from_secs(second);
            *date = (second, httpdate::fmt_http_date(at));
        }
        out.extend_from_slice(date.1.as_bytes());
    }

    #[inline]
    pub(crate) fn take_buffer(&self) -> Vec<u8> {
        let kept = self.buffers.borrow_mut().pop();
        kept.unwrap_or_else(|| Vec::with_capacity(BUFFER_SIZE))
    }

    #[inline]
    pub(crate) fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut kept = self.buffers.borrow_mut();
        let fits = (BUFFER_SIZE..=BUFFER_KEPT_MAX).contains(&buffer.capacity());
        if fits && kept.len() < BUFFERS_KEPT_MAX {
            buffer.clear();
            kept.push(buffer);
        }
    }

    /// The connections to an upstream.
    #[inline]
    pub(crate) fn pool(&self, upstream: &Arc<Upstream>, settings: &Settings) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        let make = || {
            let share = settings.limits.upstream_connections.div_ceil(settings.workers);
            Rc::new(Pool::new(share))
        };
        pools.entry(upstream.serial).or_insert_with(make).clone()
    }

    /// Closes connections to upstreams that nobody needs, until the worker ends.
    pub(crate) async fn tidy(self: Rc<Worker>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            let view = self.view();
            let oldest = self.now() - UPSTREAM_IDLE;
            self.pools.borrow_mut().retain(|serial, pool| {
                let known = view.registry.upstreams().iter().any(|one| one.serial == *serial);
                pool.tidy(if known { oldest } else { Nanos::MAX });
                known || !pool.is_empty()
            });
        }
    }
}
