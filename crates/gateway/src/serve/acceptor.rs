//! Where connections come in: one thread accepts them and hands them to the workers in turn, so that
//! they are spread evenly whatever the kernel thinks of it.
//!
//! A caller beyond a limit is answered and closed: beyond the configured connections, beyond the
//! memory that connections may take, and where descriptors run short, because some are reserved for
//! connections to upstreams. When accepting ends, what the kernel has accepted already is handed out
//! first: a connection that was made is served.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::call::worker::Shared;
use crate::error::{Error, ErrorKind, Shape};
use crate::permit::{CONNECTION_BYTES, Purpose, Share};

/// Connections that may wait to be accepted; the kernel caps it with `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Pause after the system gave no descriptor for a connection, which stays in the backlog: without
/// it the thread would spin until one is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Callers that are refused with an answer at a time; more are closed without one, so that refusing
/// costs no more than serving.
const REFUSED_MAX: usize = 64;

/// A caller that was refused has this long to read the answer and to close.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Descriptors of the process itself: runtimes, listeners, files, the database.
const OWN_DESCRIPTORS: u64 = 40;

/// The part of all other descriptors that callers may not take: connections to upstreams need them.
const RESERVED_SHARE: u64 = 4;

/// A worker's end of the way that connections go.
pub(crate) type Arrivals = mpsc::UnboundedSender<Accepted>;

/// A connection on its way to a worker.
pub(crate) struct Accepted {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) peer: IpAddr,
    pub(crate) share: Share,
}

/// The thread that accepts.
pub(crate) struct Acceptor {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Acceptor {
    /// Starts accepting.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        listeners: Vec<std::net::TcpListener>,
        workers: Vec<Arrivals>,
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
            };
            runtime.block_on(async {
                let take = |one| TcpListener::from_std(one).ok();
                let listeners: Vec<_> = listeners.into_iter().filter_map(take).collect();
                tokio::select! {
                    _ = futures_util::future::join_all(listeners.iter().map(|one| intake.accept(one))) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
                for listener in listeners {
                    intake.accept_the_last(listener);
                }
            });
        };
        let thread = std::thread::Builder::new().name("acceptor".into()).spawn(accept)?;
        Ok(Acceptor { stop, thread })
    }

    /// Ends accepting; connections that were made until now have been handed out.
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        // A thread that panicked has said so; stopping must not panic again.
        let _ = self.thread.join();
    }
}

/// The connections from callers, and the refusals at a time, that leave descriptors for upstreams.
fn callers_max() -> (u64, usize) {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let descriptors = limit.map_or(u64::MAX, |(soft, _)| soft).saturating_sub(OWN_DESCRIPTORS);
    let reserved = descriptors / RESERVED_SHARE;
    let refusals = REFUSED_MAX.min(usize::try_from(reserved / 4).unwrap_or(REFUSED_MAX));
    ((descriptors - reserved).max(1), refusals)
}

/// Takes connections and hands them out.
struct Intake<'a> {
    shared: &'a Shared,
    workers: Vec<Arrivals>,
    next: Cell<usize>,
    callers_max: u64,
    refusals: Arc<Semaphore>,
}

impl Intake<'_> {
    /// Accepts connections and hands them out in turn.
    async fn accept(&self, listener: &TcpListener) {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            match self.share() {
                Some(share) => {
                    if let Ok(stream) = stream.into_std() {
                        self.hand_out(stream, peer, share);
                    }
                }
                None => self.refuse(stream),
            }
        }
    }

    /// What a further connection takes, if there is room for one.
    fn share(&self) -> Option<Share> {
        let connections = self.shared.state().settings.limits.connections as u64;
        let is_full = self.shared.connections() >= connections.min(self.callers_max);
        let mut share = Share::new(&self.shared.capacity, Purpose::Connection);
        (!is_full && share.add(CONNECTION_BYTES).is_ok()).then_some(share)
    }

    fn refuse(&self, stream: TcpStream) {
        // The acceptor's own shard is the last.
        let refused = &self.shared.counts.last().refused;
        refused[ErrorKind::TooManyConnections as usize].add(1);
        if let Ok(place) = self.refusals.clone().try_acquire_owned() {
            tokio::spawn(async move {
                // However it ends, the connection does.
                let _ = tokio::time::timeout(REFUSAL_TIME, refuse(stream)).await;
                drop(place);
            });
        }
    }

    /// Hands out what waits to be accepted, and closes the listener.
    fn accept_the_last(&self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        // No more than can have waited: others may keep coming.
        for _ in 0..BACKLOG {
            let Ok((stream, peer)) = listener.accept() else { break };
            if let (Ok(()), Some(share)) = (stream.set_nonblocking(true), self.share()) {
                self.hand_out(stream, peer, share);
            }
        }
    }

    fn hand_out(&self, stream: std::net::TcpStream, peer: SocketAddr, share: Share) {
        let peer = peer.ip().to_canonical();
        self.shared.accepted();
        self.shared.counts.last().downstream.add(1);
        let mut accepted = Accepted { stream, peer, share };
        for _ in 0..self.workers.len() {
            let turn = self.next.get();
            self.next.set((turn + 1) % self.workers.len());
            // A worker that panicked is passed over.
            match self.workers[turn].send(accepted) {
                Ok(()) => return,
                Err(unsent) => accepted = unsent.0,
            }
        }
        self.shared.counts.last().downstream.take(1);
    }
}

/// Listens everywhere.
///
/// # Errors
/// An address is taken or not this host's.
pub(crate) fn listen(
    addresses: &[SocketAddr],
) -> Result<Vec<std::net::TcpListener>, (SocketAddr, io::Error)> {
    let open = |address: SocketAddr| -> io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A port whose last connections are still fading may be taken; one that is in use may not.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    addresses.iter().map(|address| open(*address).map_err(|why| (*address, why))).collect()
}

/// Answers a caller for which there is no room, and waits until it closes: closing on what it has
/// sent would reset the connection before it has read the answer.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let mut body = Vec::new();
    let error = Error::new(ErrorKind::TooManyConnections, "too many connections");
    error.write(Shape::Own, b"null", &mut body);
    let mut answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
        content-length: {}\r\nretry-after: 1\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.append(&mut body);
    stream.write_all(&answer).await?;
    stream.shutdown().await?;
    let mut over = [0; 1 << 10];
    while stream.read(&mut over).await? > 0 {}
    Ok(())
}
