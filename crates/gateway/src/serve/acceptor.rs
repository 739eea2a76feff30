//! The acceptor: one thread accepts connections and distributes them over the workers in turn, which is
//! more even than the kernel's balancing.
//!
//! A connection beyond a limit is answered with an error and closed. The limits are the configured
//! number of connections, the memory for connections, and the file descriptors, some of which are
//! reserved for connections to upstreams. When accepting stops, connections in the kernel's backlog are
//! still distributed and served.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_registry::settings::{self, Faces};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::face::cors;
use super::face::pages::Probe;
use crate::call::message::Answer;
use crate::call::worker::Shared;
use crate::error::{Error, ErrorKind, Shape};
use crate::http1;
use crate::permit::{CONNECTION_BYTES, Purpose, Share};

/// The listen backlog; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Pause after a failed accept. If the process is out of descriptors, the connection stays in the
/// backlog, and without a pause the thread would spin until a descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Maximum number of concurrent refusals with an answer; further callers are closed without one, so
/// that refusing costs no more than serving.
const REFUSED_MAX: usize = 64;

/// How long a refused caller may take to read the answer and close.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Descriptors of the process itself: runtimes, listeners, files, the database.
const OWN_DESCRIPTORS: u64 = 40;

/// One in this many of the other descriptors is reserved for connections to upstreams.
const RESERVED_SHARE: u64 = 4;

/// Sends connections to a worker.
pub(crate) type Arrivals = mpsc::UnboundedSender<Accepted>;

/// An accepted connection on its way to a worker.
pub(crate) struct Accepted {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) peer: IpAddr,
    /// The options of its listener.
    pub(crate) options: ListenerOptions,
    pub(crate) share: Share,
}

/// The options that a connection inherits from its listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerOptions {
    pub(crate) faces: Faces,
    pub(crate) tls: bool,
}

/// A listening socket.
pub(crate) struct BoundListener {
    pub(crate) socket: std::net::TcpListener,
    options: ListenerOptions,
}

/// The acceptor's thread.
pub(crate) struct Acceptor {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Acceptor {
    /// Starts accepting.
    ///
    /// # Errors
    /// The thread or its runtime cannot be created.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        listeners: Vec<BoundListener>,
        workers: Vec<Arrivals>,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<Acceptor> {
        let (stop, mut stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = shared.clone();
        let accept = move || {
            let (callers_max, refusals) = callers_max();
            let intake = Intake {
                shared: &shared,
                workers,
                next: Cell::new(0),
                callers_max,
                refusals: Arc::new(Semaphore::new(refusals)),
                tls,
            };
            runtime.block_on(async {
                let take = |one: BoundListener| {
                    Some((TcpListener::from_std(one.socket).ok()?, one.options))
                };
                let listeners: Vec<_> = listeners.into_iter().filter_map(take).collect();
                let accepting =
                    listeners.iter().map(|(listener, options)| intake.accept(listener, *options));
                tokio::select! {
                    _ = futures_util::future::join_all(accepting) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
                for (listener, options) in listeners {
                    intake.drain_backlog(listener, options);
                }
            });
        };
        let thread = std::thread::Builder::new().name("acceptor".into()).spawn(accept)?;
        Ok(Acceptor { stop, thread })
    }

    /// Stops accepting; returns when all connections accepted so far have been handed to workers.
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        // The panic hook has reported a panic; stopping must not panic again.
        let _ = self.thread.join();
    }
}

/// The maximum numbers of callers' connections and of concurrent refusals that leave enough descriptors
/// for upstreams.
fn callers_max() -> (u64, usize) {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let descriptors = limit.map_or(u64::MAX, |(soft, _)| soft).saturating_sub(OWN_DESCRIPTORS);
    let reserved = descriptors / RESERVED_SHARE;
    let refusals = REFUSED_MAX.min(usize::try_from(reserved / 4).unwrap_or(REFUSED_MAX));
    ((descriptors - reserved).max(1), refusals)
}

/// Accepts connections and distributes them over the workers.
struct Intake<'a> {
    shared: &'a Arc<Shared>,
    workers: Vec<Arrivals>,
    next: Cell<usize>,
    callers_max: u64,
    refusals: Arc<Semaphore>,
    tls: Option<TlsAcceptor>,
}

impl Intake<'_> {
    /// Accepts connections and hands them to the workers in turn.
    async fn accept(&self, listener: &TcpListener, options: ListenerOptions) {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            match self.share() {
                Some(share) => {
                    if let Ok(stream) = stream.into_std() {
                        self.hand_out(stream, peer, share, options);
                    }
                }
                None => self.refuse(stream, options),
            }
        }
    }

    /// The share for a further connection, if the limits allow one.
    fn share(&self) -> Option<Share> {
        let connections = self.shared.state().settings.limits.connections as u64;
        let is_full = self.shared.connections() >= connections.min(self.callers_max);
        let mut share = Share::new(&self.shared.capacity, Purpose::Connection);
        (!is_full && share.add(CONNECTION_BYTES).is_ok()).then_some(share)
    }

    /// Refuses a connection with an answer, unless too many are being refused.
    fn refuse(&self, stream: TcpStream, options: ListenerOptions) {
        // The acceptor's own shard is the last.
        let refused = &self.shared.counts.last().refused;
        refused[ErrorKind::TooManyConnections as usize].add(1);
        if let Ok(place) = self.refusals.clone().try_acquire_owned() {
            let shared = self.shared.clone();
            let tls = self.tls.clone().filter(|_| options.tls);
            tokio::spawn(async move {
                let refusal = async {
                    match tls {
                        Some(tls) => refuse(&shared, tls.accept(stream).await?).await,
                        None => refuse(&shared, stream).await,
                    }
                };
                // The connection is closed in any case.
                let _ = tokio::time::timeout(REFUSAL_TIME, refusal).await;
                drop(place);
            });
        }
    }

    /// Accepts and hands out the connections in the backlog, and closes the listener.
    fn drain_backlog(&self, listener: TcpListener, options: ListenerOptions) {
        let Ok(listener) = listener.into_std() else { return };
        // Bounded, since new connections may keep coming.
        for _ in 0..BACKLOG {
            let Ok((stream, peer)) = listener.accept() else { break };
            if let (Ok(()), Some(share)) = (stream.set_nonblocking(true), self.share()) {
                self.hand_out(stream, peer, share, options);
            }
        }
    }

    fn hand_out(
        &self,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        share: Share,
        options: ListenerOptions,
    ) {
        let peer = peer.ip().to_canonical();
        self.shared.is_connected();
        self.shared.counts.last().downstream.add(1);
        let mut accepted = Accepted { stream, peer, share, options };
        for _ in 0..self.workers.len() {
            let turn = self.next.get();
            self.next.set((turn + 1) % self.workers.len());
            // Skips workers that have panicked.
            match self.workers[turn].send(accepted) {
                Ok(()) => return,
                Err(unsent) => accepted = unsent.0,
            }
        }
        self.shared.counts.last().downstream.take(1);
    }
}

/// Opens all listeners.
///
/// # Errors
/// An address is in use or does not belong to this host.
pub(crate) fn listen(
    listeners: &[settings::Listener],
) -> Result<Vec<BoundListener>, (SocketAddr, io::Error)> {
    let open = |address: SocketAddr| -> io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Allows a port with connections in TIME_WAIT, but not one that is in use.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    let listen = |one: &settings::Listener| {
        let socket = open(one.address).map_err(|why| (one.address, why))?;
        Ok(BoundListener { socket, options: ListenerOptions { faces: one.faces, tls: one.tls } })
    };
    listeners.iter().map(listen).collect()
}

/// The longest head that is read from a refused caller, in bytes.
const PROBE_MAX: usize = 4 << 10;

/// Answers a refused caller, and waits until it closes: closing with unread bytes would reset the
/// connection before the caller has read the answer. Health and readiness probes are answered as usual:
/// a full gateway is still alive.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    mut stream: S,
) -> io::Result<()> {
    let mut read = Vec::with_capacity(PROBE_MAX);
    while http1::head_end(&read, 0).is_none() && read.len() < PROBE_MAX {
        if stream.read_buf(&mut read).await? == 0 {
            break;
        }
    }
    let out = refusal(shared, &read);
    stream.write_all(&out).await?;
    stream.shutdown().await?;
    read.clear();
    while stream.read_buf(&mut read).await? > 0 {
        read.clear();
    }
    Ok(())
}

/// The complete answer to a refused caller.
fn refusal(shared: &Shared, read: &[u8]) -> Vec<u8> {
    let head = http1::head_end(read, 0).and_then(|end| http1::request_head(&read[..end]).ok());
    let mut is_head = false;
    let probe = head.and_then(|head| {
        is_head = head.method == "HEAD";
        let path = head.target.split('?').next().unwrap_or_default();
        let is_asked = match head.method {
            "GET" | "HEAD" => true,
            // What HAProxy sends by default.
            "OPTIONS" => path == "/" && !cors::is_preflight(&head.fields),
            _ => false,
        };
        Probe::find(path).filter(|_| is_asked)
    });
    let state = shared.state();
    let mut answer = match probe {
        Some(probe) => probe.answer(&state.routing, shared.is_draining()),
        None => {
            let error = Error::new(ErrorKind::TooManyConnections, "too many connections");
            let mut answer = Answer::error(&error, Shape::Own, Vec::new());
            cors::permit_any(&state.settings.cors, &mut answer);
            answer
        }
    };
    let mut out = Vec::new();
    answer.write_last(is_head, b"", &mut out);
    out
}
