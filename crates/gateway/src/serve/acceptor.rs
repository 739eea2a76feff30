//! The acceptor: one thread accepts connections and distributes them over the workers in turn, which is
//! more even than the kernel's balancing.
//!
//! A connection beyond a limit is refused (`serve/refusal.rs`). The limits are the configured number of
//! connections, the memory for connections, and the file descriptors, some of which are reserved for
//! connections to upstreams. When accepting stops, connections in the kernel's backlog are still
//! distributed and served.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_registry::settings::{self, Faces};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::refusal::{REFUSED_MAX, Refusals};
use crate::call::worker::Shared;
use crate::offload;
use crate::permit::{CONNECTION_BYTES, Purpose, Share};

/// The listen backlog; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Pause after a failed accept. If the process is out of descriptors, the connection stays in the
/// backlog, and without a pause the thread would spin until a descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(offload::THREADS)
            .build()?;
        let shared = shared.clone();
        let accept = move || {
            let (callers_max, refused_max) = callers_max(listeners.len());
            let intake = Intake {
                shared: &shared,
                workers,
                next: Cell::new(0),
                callers_max,
                refused_max,
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

/// The maximum numbers of callers' connections, and of each listener's concurrent refusals, that leave
/// enough descriptors for upstreams.
fn callers_max(listeners: usize) -> (u64, usize) {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let descriptors = limit.map_or(u64::MAX, |(soft, _)| soft).saturating_sub(OWN_DESCRIPTORS);
    let reserved = descriptors / RESERVED_SHARE;
    let each = reserved / 4 / (listeners as u64).max(1);
    let refusals = usize::try_from(each).unwrap_or(REFUSED_MAX).clamp(1, REFUSED_MAX);
    ((descriptors - reserved).max(1), refusals)
}

/// Accepts connections and distributes them over the workers.
struct Intake<'a> {
    shared: &'a Arc<Shared>,
    workers: Vec<Arrivals>,
    next: Cell<usize>,
    callers_max: u64,
    refused_max: usize,
    tls: Option<TlsAcceptor>,
}

impl Intake<'_> {
    /// Accepts connections and hands them to the workers in turn.
    async fn accept(&self, listener: &TcpListener, options: ListenerOptions) {
        let tls = self.tls.as_ref().filter(|_| options.tls);
        let mut refusals = Refusals::new(self.shared, self.refused_max, options.faces, tls);
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
                None => refusals.add(stream, peer.ip()).await,
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
