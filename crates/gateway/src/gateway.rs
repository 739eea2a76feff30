//! A running gateway: starts, reconfigures, drains and stops it.
//!
//! # Draining
//! First `/ready` starts to fail, and every answer closes its connection; connections are still
//! accepted, because load balancers need a moment to notice. After `idle_close`, no more connections
//! are accepted and idle ones are closed. Calls in flight then have `drain` to finish. A gateway that
//! no caller has been connected to for a minute skips `idle_close`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_measure::Nanos;
use plimsoll_registry::Definitions;
use plimsoll_registry::settings::{Limits, Settings};
use tokio::net::TcpStream;
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::cache::redis::{Redis, RedisSettings};
use crate::cache::shared::Shared as SecondLevel;
use crate::call::abandoned;
use crate::call::export;
use crate::call::health;
use crate::call::routing::Routing;
use crate::call::shared_heads;
use crate::call::worker::{Phase, Shared, State, Worker};
use crate::call::{floods, quotas};
use crate::host::Host;
use crate::keeper::Keeper;
use crate::keeper::dns::{self, Resolver};
use crate::limits;
use crate::local::Time;
use crate::observe::access_log::AccessLog;
use crate::offload;
use crate::serve::acceptor::{self, Accepted, Acceptor};
use crate::serve::admin;
use crate::serve::session::{self, Arrival, Sessions};
use crate::transport::tls::Certificate;
use crate::upstream::Network;

/// A gateway that no caller was connected to for this long is not in the rotation of any load balancer,
/// and need not wait for one to notice that it is draining. Balancers probe more often.
const UNUSED_AFTER: Nanos = Nanos::from_secs(60);

/// How often a drain checks for open connections.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long a drain waits for the spans of the last calls to be sent.
const TRACES_TIME: Nanos = Nanos::from_secs(2);

/// Why a gateway could not be started or reconfigured.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// Certificates or keys cannot be used.
    #[error("{0}")]
    Tls(String),
    /// The access log cannot be written.
    #[error("cannot write the access log {}: {source}", file.display())]
    AccessLog {
        /// The log file.
        file: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The URL of the Redis is not valid.
    #[error("cache.redis is {0}")]
    Redis(String),
    /// A system call failed, for example because resources are exhausted.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// A gateway that serves until it is drained or dropped.
pub struct Gateway {
    shared: Arc<Shared>,
    certificate: Option<Arc<Certificate>>,
    addresses: Vec<SocketAddr>,
    /// The serial number of the last upstream compiled; locked while changes are applied.
    serial: Mutex<u64>,
    acceptor: Mutex<Option<Acceptor>>,
    stop: watch::Sender<bool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Dropped last: workers wait for its results.
    keeper: Keeper,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections still open at the end.
    pub left: u64,
    /// Calls still in flight at the end.
    pub calls_left: u64,
    /// Calls in flight when idle connections were closed, for which the drain waited.
    pub calls_awaited: u64,
    /// How long the drain took.
    pub took: Nanos,
}

impl Gateway {
    /// Starts serving; connections are accepted from when this returns.
    ///
    /// # Errors
    /// An address is in use, a certificate is invalid, the access log cannot be written, or a thread
    /// cannot be started.
    pub fn start(
        settings: Settings,
        definitions: &Definitions,
        host: Host,
    ) -> Result<Gateway, StartError> {
        let time = Time::start();
        let mut serial = 0;
        let first = Routing::empty(time.seed());
        first.waiting().set_connections_max(settings.limits.upstream_connections);
        let routing = Routing::compile(definitions, &first, settings.workers, &mut serial);
        let routing = routing.map_err(StartError::Tls)?;
        let certificate = settings.tls.as_ref().map(Certificate::read).transpose();
        let certificate = certificate.map_err(StartError::Tls)?.map(Arc::new);
        let tls = certificate.as_ref().map(Certificate::acceptor).transpose();
        let tls = tls.map_err(StartError::Tls)?;
        let log = AccessLog::new(settings.access_log.file.as_deref());
        open_log(&log, &settings)?;
        let listeners = acceptor::listen(&settings.listeners)
            .map_err(|(address, source)| StartError::Listen { address, source })?;
        let addresses = listeners.iter().map(|listener| listener.socket.local_addr());
        let addresses = addresses.collect::<io::Result<_>>()?;
        let keeper = Keeper::start()?;
        let resolve = host.resolve.clone().unwrap_or_else(dns::of_host);
        let resolver = Resolver::new(resolve, keeper.handle().clone());
        let workers = settings.workers;
        let (is_sharing, redis_timeout) = (settings.limits.shared, settings.cache.redis_timeout);
        let redis = start_redis(&settings, time, &keeper)?;
        let second_level = redis.clone().map(|redis| redis as Arc<dyn SecondLevel>);
        let state = State { settings, routing };
        let shared = Arc::new(Shared::new(state, log, resolver, host, time, second_level));
        let (stop, stopped) = watch::channel(false);
        let gateway = Gateway {
            shared,
            certificate,
            addresses,
            serial: Mutex::new(serial),
            acceptor: Mutex::default(),
            stop,
            threads: Mutex::default(),
            keeper,
        };
        let leases =
            redis.filter(|_| is_sharing).map(|redis| redis as Arc<dyn limits::store::Store>);
        let shared = &gateway.shared;
        let wanted = leases.map(|store| shared.limits.share(store, &shared.id, redis_timeout));
        let (watched, limited) = (shared.clone(), shared.limits.clone());
        gateway.keeper.run(move || keep(Rc::new(Worker::new(watched, workers, Network::Host))));
        gateway.keeper.run(move || {
            let now = move || time.now();
            limits::keep::keep(limited, wanted, now)
        });
        let observed = gateway.shared.clone();
        gateway.keeper.run(move || admin::observe(observed));
        let traced = gateway.shared.clone();
        let export = move || export::run(Rc::new(Worker::new(traced, workers, Network::Host)));
        gateway.keeper.run(export);
        let mut arrivals = Vec::new();
        for number in 0..workers {
            let (sender, receiver) = mpsc::unbounded_channel();
            arrivals.push(sender);
            let thread = WorkerThread { number, tls: tls.clone(), stop: stopped.clone() };
            // On error, dropping the gateway stops the threads that were started.
            lock(&gateway.threads).push(thread.start(&gateway.shared, receiver)?);
        }
        let acceptor = Acceptor::start(&gateway.shared, listeners, arrivals, tls)?;
        *lock(&gateway.acceptor) = Some(acceptor);
        Ok(gateway)
    }

    /// The addresses it listens on, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Replaces settings and definitions for all calls that start from now on. Listeners, workers, TLS
    /// files, the access log's file and the limit of connections to an upstream change only with a
    /// restart.
    ///
    /// # Errors
    /// An upstream's certificates are invalid, or the access log cannot be written; nothing is changed
    /// then.
    pub fn apply(&self, settings: Settings, definitions: &Definitions) -> Result<(), StartError> {
        let mut serial = lock(&self.serial);
        let before = self.shared.state();
        let workers = before.settings.workers;
        let routing = Routing::compile(definitions, &before.routing, workers, &mut serial)
            .map_err(StartError::Tls)?;
        open_log(&self.shared.access_log, &settings)?;
        let limits = Limits {
            upstream_connections: before.settings.limits.upstream_connections,
            shared: before.settings.limits.shared,
            replicas: before.settings.limits.replicas,
            ..settings.limits
        };
        let settings = Settings {
            listeners: before.settings.listeners.clone(),
            workers,
            tls: before.settings.tls.clone(),
            limits,
            ..settings
        };
        let calendar = &self.shared.limits.calendar;
        let warnings = routing.quotas().flat_map(|quota| quota.warnings(calendar, false));
        quotas::warn(warnings.collect());
        self.shared.replace(State { settings, routing });
        Ok(())
    }

    /// The contents of the certificate and key files, to detect changes, or why they cannot be read;
    /// `None` if the gateway has no certificate.
    pub fn certificate_contents(&self) -> Option<Result<[Vec<u8>; 2], String>> {
        self.certificate.as_ref().map(|certificate| certificate.contents())
    }

    /// Reloads certificate and key, for new connections.
    ///
    /// # Errors
    /// They are invalid; the previous ones stay in use.
    pub fn reload_certificate(&self) -> Result<(), StartError> {
        let reloaded = self.certificate.as_ref().map(|certificate| certificate.reload());
        reloaded.transpose().map(drop).map_err(StartError::Tls)
    }

    /// Whether a `ca` file of an upstream has changed since it was read, or cannot be read any more;
    /// [`Gateway::apply`] reads it again.
    pub fn is_trust_changed(&self) -> bool {
        self.shared.state().routing.is_trust_changed()
    }

    /// Reopens the access log's file, for log rotation.
    pub fn reopen_access_log(&self) {
        self.shared.access_log.reopen();
    }

    /// Sets whether the last change to the configuration was rejected, for metrics and `/ready`.
    pub fn set_config_rejected(&self, is_rejected: bool) {
        self.shared.set_config_rejected(is_rejected);
    }

    /// What is wrong with the access log at present, and what to do about it.
    pub fn access_log_trouble(&self) -> Option<String> {
        self.shared.access_log.trouble()
    }

    /// The metrics page.
    pub fn metrics(&self) -> String {
        self.shared.metrics(&self.shared.state())
    }

    /// Stops gracefully; returns when no connection is open or the time is up. `hurry` is polled; if it
    /// returns true, the drain ends at once.
    pub fn drain(&self, hurry: impl Fn() -> bool) -> Drained {
        let shared = self.shared.clone();
        let settings = shared.state().settings.clone();
        let start = shared.time.now();
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        let wait = |until: Nanos, is_done: &dyn Fn() -> bool| {
            while !is_done() && shared.time.now() < until && !hurry() {
                // Sleeps: nothing is ever sent.
                let _ = never.recv_timeout(DRAIN_POLL);
            }
        };
        shared.enter(Phase::Draining);
        // Callers that open a connection per call may still come when none is open.
        let is_unused = || {
            let unconnected = shared.unconnected_for();
            shared.connections() == 0 && unconnected.is_none_or(|span| span > UNUSED_AFTER)
        };
        wait(start + settings.idle_close, &is_unused);
        self.stop_accepting();
        shared.enter(Phase::Closing);
        let calls_awaited = shared.capacity.calls();
        wait(shared.time.now() + settings.drain, &|| shared.connections() == 0);
        let drained = Drained {
            left: shared.connections(),
            calls_left: shared.capacity.calls(),
            calls_awaited,
            took: shared.time.now() - start,
        };
        self.end();
        shared.traces.end();
        wait(shared.time.now() + TRACES_TIME, &|| shared.traces.waiting() == 0);
        drained
    }

    fn stop_accepting(&self) {
        let acceptor = lock(&self.acceptor).take();
        acceptor.into_iter().for_each(Acceptor::stop);
    }

    fn end(&self) {
        self.stop_accepting();
        self.stop.send_replace(true);
        for thread in lock(&self.threads).drain(..) {
            // The panic hook has reported a panic; stopping must not panic again.
            let _ = thread.join();
        }
    }
}

/// The keeper's tasks.
async fn keep(worker: Rc<Worker>) {
    tokio::task::spawn_local(worker.clone().hand_over());
    tokio::task::spawn_local(abandoned::run(worker.clone()));
    tokio::task::spawn_local(quotas::watch(worker.clone()));
    tokio::task::spawn_local(floods::watch(worker.clone()));
    tokio::task::spawn_local(shared_heads::watch(worker.clone()));
    health::watch(worker).await;
}

/// Starts using the Redis of the configuration, if there is one and the cache or limits need it.
fn start_redis(
    settings: &Settings,
    time: Time,
    keeper: &Keeper,
) -> Result<Option<Arc<Redis>>, StartError> {
    let is_needed = settings.cache.memory > 0 || settings.limits.shared;
    let settings = &settings.cache;
    let Some(url) = settings.redis.as_ref().filter(|_| is_needed) else {
        return Ok(None);
    };
    let settings = RedisSettings {
        url: url.value.clone(),
        timeout: settings.redis_timeout.into(),
        result_max: settings.entry as usize,
    };
    let redis = Redis::start(settings, time.clock(), keeper.handle());
    redis.map(Arc::new).map(Some).map_err(|error| StartError::Redis(error.to_string()))
}

/// Opens the access log if it is enabled.
fn open_log(log: &AccessLog, settings: &Settings) -> Result<(), StartError> {
    if settings.access_log.sample <= 0.0 {
        return Ok(());
    }
    let file = settings.access_log.file.clone().unwrap_or_else(|| "stderr".into());
    log.open().map_err(|source| StartError::AccessLog { file, source })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.end();
    }
}

/// A worker: a thread with a runtime, and the sessions of its connections.
struct WorkerThread {
    number: usize,
    tls: Option<TlsAcceptor>,
    stop: watch::Receiver<bool>,
}

impl WorkerThread {
    /// Starts the thread; returns when it is ready.
    ///
    /// # Errors
    /// The thread or its runtime cannot be created.
    fn start(
        self,
        shared: &Arc<Shared>,
        arrivals: mpsc::UnboundedReceiver<Accepted>,
    ) -> io::Result<JoinHandle<()>> {
        let shared = shared.clone();
        let (ready, started) = std::sync::mpsc::channel();
        let name = format!("worker-{}", self.number);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(offload::THREADS)
                .build_local(LocalOptions::default());
            // The receiver waits for this message.
            let _ = ready.send(runtime.as_ref().err().map(|error| io::Error::from(error.kind())));
            if let Ok(runtime) = runtime {
                runtime.block_on(self.serve(shared, arrivals));
                // Offloaded work in progress is no longer needed.
                runtime.shutdown_background();
            }
        };
        let thread = std::thread::Builder::new().name(name).spawn(run)?;
        match started.recv() {
            Ok(None) => Ok(thread),
            Ok(Some(error)) => Err(error),
            Err(_) => Err(io::Error::other("a worker thread exited during startup")),
        }
    }

    async fn serve(mut self, shared: Arc<Shared>, mut arrivals: mpsc::UnboundedReceiver<Accepted>) {
        let mut phases = shared.phases();
        let worker = Rc::new(Worker::new(shared, self.number, Network::Host));
        let sessions = Rc::new(Sessions::default());
        tokio::task::spawn_local(worker.clone().tidy());
        tokio::task::spawn_local(worker.clone().hand_over());
        tokio::task::spawn_local(abandoned::run(worker.clone()));
        let closing = {
            let sessions = sessions.clone();
            async move {
                // An error means that the gateway is gone.
                let _ = phases.wait_for(|phase| *phase >= Phase::Closing).await;
                sessions.close_idle();
            }
        };
        tokio::task::spawn_local(closing);
        loop {
            tokio::select! {
                // Once the acceptor has stopped, existing sessions continue.
                Some(Accepted { stream, peer, share, options }) = arrivals.recv() => {
                    let Ok(stream) = TcpStream::from_std(stream) else {
                        worker.local.counts().downstream.take(1);
                        continue;
                    };
                    let arrival = Arrival { stream, peer, share, faces: options.faces };
                    let tls = self.tls.clone().filter(|_| options.tls);
                    let (worker, sessions) = (worker.clone(), sessions.clone());
                    tokio::task::spawn_local(session::serve(worker, sessions, arrival, tls));
                }
                _ = self.stop.wait_for(|stop| *stop) => break,
            }
        }
    }
}
