//! A running gateway: started, told of changes, drained, stopped.
//!
//! Draining is the order in which nobody is hurt: `/ready` says no, connections are still taken, each
//! next answer says that its connection ends, and what is under way finishes; when no connection is
//! left, or the time is up, it is over.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_measure::Nanos;
use tokio::net::TcpStream;
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::call::routing::Registry;
use crate::call::worker::{Shared, State, Worker};
use crate::observe::access_log::AccessLog;
use crate::serve::acceptor::{self, Acceptor, Arrival};
use crate::serve::session;
use crate::transport::tls::Certificate;
use plimsoll_registry::model::Definitions;
use plimsoll_registry::settings::{Limits, Settings};

/// While draining, so often is looked whether connections are left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// What a gateway asks of the program that runs it.
#[derive(Clone)]
pub struct Outside {
    /// Figures of this process.
    pub process: Arc<dyn Fn() -> Process + Send + Sync>,
    /// Database queries so far.
    pub db_queries: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// Figures of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
}

/// Why a gateway does not start, or does not take a change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Certificates or keys cannot be used.
    #[error("{0}")]
    Tls(String),
    /// The access log cannot be written.
    #[error("cannot write the access log: {0}")]
    AccessLog(io::Error),
    /// The system is out of something.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// A gateway that serves until it is drained or dropped.
pub struct Gateway {
    shared: Arc<Shared>,
    certificate: Option<Arc<Certificate>>,
    addresses: Vec<SocketAddr>,
    serial: u64,
    acceptor: Option<Acceptor>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open when the time was up.
    pub left: u64,
    /// How long it took.
    pub took: Nanos,
}

impl Gateway {
    /// Starts serving. When this returns, connections are accepted.
    ///
    /// # Errors
    /// An address is taken, certificates are not valid, or the system is out of something.
    pub fn start(
        settings: Settings,
        definitions: &Definitions,
        outside: Outside,
    ) -> Result<Gateway, StartError> {
        let mut serial = 0;
        let registry =
            Registry::compile(definitions, &Registry::empty(), settings.workers, &mut serial)
                .map_err(StartError::Tls)?;
        let certificate = settings.tls.as_ref().map(Certificate::read).transpose();
        let certificate = certificate.map_err(StartError::Tls)?.map(Arc::new);
        let tls = certificate.as_ref().map(Certificate::acceptor).transpose();
        let tls = tls.map_err(StartError::Tls)?;
        let log = AccessLog::new(settings.access_log.file.as_deref());
        if settings.access_log.sample > 0.0 {
            log.open().map_err(StartError::AccessLog)?;
        }
        let listeners = acceptor::listen(&settings.listen)?;
        let addresses = listeners.iter().map(|listener| listener.local_addr());
        let addresses = addresses.collect::<io::Result<_>>()?;
        let workers = settings.workers;
        let shared = Arc::new(Shared::new(State { settings, registry }, log, outside));
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        let mut seats = Vec::new();
        for number in 0..workers {
            let (seat, arrivals) = mpsc::unbounded_channel();
            seats.push(seat);
            threads.push(worker(&shared, number, arrivals, tls.clone(), stopped.clone())?);
        }
        let acceptor = Some(Acceptor::start(&shared, listeners, seats)?);
        Ok(Gateway { shared, certificate, addresses, serial, acceptor, stop, threads })
    }

    /// Where it listens, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Replaces settings and definitions for all calls that begin from now on. Addresses, workers,
    /// TLS files, the access log's file and the limit of connections to an upstream stay as they are
    /// until a restart.
    ///
    /// # Errors
    /// Certificates of an upstream cannot be used, or the access log cannot be written; then nothing
    /// is changed.
    pub fn apply(
        &mut self,
        settings: Settings,
        definitions: &Definitions,
    ) -> Result<(), StartError> {
        let before = self.shared.state();
        let workers = before.settings.workers;
        let registry = Registry::compile(definitions, &before.registry, workers, &mut self.serial)
            .map_err(StartError::Tls)?;
        if settings.access_log.sample > 0.0 {
            self.shared.access_log.open().map_err(StartError::AccessLog)?;
        }
        let limits = Limits {
            upstream_connections: before.settings.limits.upstream_connections,
            ..settings.limits
        };
        let settings = Settings {
            listen: before.settings.listen.clone(),
            workers,
            tls: before.settings.tls.clone(),
            limits,
            ..settings
        };
        self.shared.replace(State { settings, registry });
        Ok(())
    }

    /// The contents of certificate and key, to see whether they changed.
    pub fn certificate_contents(&self) -> Option<[Vec<u8>; 2]> {
        self.certificate.as_ref()?.contents()
    }

    /// Reads certificate and key again, for connections that come from now on.
    ///
    /// # Errors
    /// They are not valid; those before stay in use.
    pub fn reload_certificate(&self) -> Result<(), StartError> {
        let read = self.certificate.as_ref().map(|certificate| certificate.read_again());
        read.transpose().map(drop).map_err(StartError::Tls)
    }

    /// The metrics page.
    pub fn metrics(&self) -> String {
        crate::observe::metrics::page(&self.shared, &Rc::new(self.shared.state()))
    }

    /// Stops without hurting anyone; returns when no connection is left or the time is up. `hurry`
    /// is asked now and then whether to stop at once.
    pub fn drain(mut self, hurry: impl Fn() -> bool) -> Drained {
        let start = self.shared.clock.now();
        let limit = self.shared.state().settings.drain;
        self.shared.start_draining();
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        let shared = self.shared.clone();
        let passed = || shared.clock.now() - start;
        let wait = || {
            while shared.connections() > 0 && passed() < limit && !hurry() {
                // Nobody sends: this waits.
                let _ = never.recv_timeout(DRAIN_LOOK);
            }
        };
        wait();
        // Who came at the very end is served too.
        self.acceptor.take().into_iter().for_each(Acceptor::stop);
        wait();
        let drained = Drained { left: self.shared.connections(), took: passed() };
        self.end();
        drained
    }

    fn end(&mut self) {
        self.acceptor.take().into_iter().for_each(Acceptor::stop);
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; stopping must not panic again.
            let _ = thread.join();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a worker: a thread with a runtime, and sessions for the connections that it is handed.
fn worker(
    shared: &Arc<Shared>,
    number: usize,
    mut arrivals: mpsc::UnboundedReceiver<Arrival>,
    tls: Option<TlsAcceptor>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let shared = shared.clone();
    let serve = move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let Ok(runtime) = builder.enable_all().build_local(LocalOptions::default()) else { return };
        let worker = Rc::new(Worker::new(shared, number));
        runtime.block_on(async {
            tokio::task::spawn_local(worker.clone().tidy());
            loop {
                tokio::select! {
                    // When no more can come, those that came are served on.
                    Some((stream, peer)) = arrivals.recv() => {
                        let Ok(stream) = TcpStream::from_std(stream) else {
                            worker.counts().downstream.take(1);
                            continue;
                        };
                        tokio::task::spawn_local(session::serve(
                            worker.clone(),
                            stream,
                            peer,
                            tls.clone(),
                        ));
                    }
                    _ = stop.wait_for(|stop| *stop) => break,
                }
            }
        });
    };
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(serve)
}
