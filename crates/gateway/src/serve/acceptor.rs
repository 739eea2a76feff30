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
    /// The listener that it came through.
    pub(crate) entrance: Entrance,
    pub(crate) share: Share,
}

/// What a connection inherits from its listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entrance {
    pub(crate) faces: Faces,
    pub(crate) tls: bool,
}

/// A socket that is listened on.
pub(crate) struct Listening {
    pub(crate) socket: std::net::TcpListener,
    entrance: Entrance,
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
        listeners: Vec<Listening>,
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
                let take =
                    |one: Listening| Some((TcpListener::from_std(one.socket).ok()?, one.entrance));
                let listeners: Vec<_> = listeners.into_iter().filter_map(take).collect();
                let accepting =
                    listeners.iter().map(|(listener, entrance)| intake.accept(listener, *entrance));
                tokio::select! {
                    _ = futures_util::future::join_all(accepting) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
                for (listener, entrance) in listeners {
                    intake.accept_the_last(listener, entrance);
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
    shared: &'a Arc<Shared>,
    workers: Vec<Arrivals>,
    next: Cell<usize>,
    callers_max: u64,
    refusals: Arc<Semaphore>,
    tls: Option<TlsAcceptor>,
}

impl Intake<'_> {
    /// Accepts connections and hands them out in turn.
    async fn accept(&self, listener: &TcpListener, entrance: Entrance) {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            match self.share() {
                Some(share) => {
                    if let Ok(stream) = stream.into_std() {
                        self.hand_out(stream, peer, share, entrance);
                    }
                }
                None => self.refuse(stream, entrance),
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

    /// Answers a caller for whom there is no room: whether the gateway is well if it asks for that.
    fn refuse(&self, stream: TcpStream, entrance: Entrance) {
        // The acceptor's own shard is the last.
        let refused = &self.shared.counts.last().refused;
        refused[ErrorKind::TooManyConnections as usize].add(1);
        if let Ok(place) = self.refusals.clone().try_acquire_owned() {
            let shared = self.shared.clone();
            let tls = self.tls.clone().filter(|_| entrance.tls);
            tokio::spawn(async move {
                let refusal = async {
                    match tls {
                        Some(tls) => refuse(&shared, tls.accept(stream).await?).await,
                        None => refuse(&shared, stream).await,
                    }
                };
                // However it ends, the connection does.
                let _ = tokio::time::timeout(REFUSAL_TIME, refusal).await;
                drop(place);
            });
        }
    }

    /// Hands out what waits to be accepted, and closes the listener.
    fn accept_the_last(&self, listener: TcpListener, entrance: Entrance) {
        let Ok(listener) = listener.into_std() else { return };
        // No more than can have waited: others may keep coming.
        for _ in 0..BACKLOG {
            let Ok((stream, peer)) = listener.accept() else { break };
            if let (Ok(()), Some(share)) = (stream.set_nonblocking(true), self.share()) {
                self.hand_out(stream, peer, share, entrance);
            }
        }
    }

    fn hand_out(
        &self,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        share: Share,
        entrance: Entrance,
    ) {
        let peer = peer.ip().to_canonical();
        self.shared.accepted();
        self.shared.counts.last().downstream.add(1);
        let mut accepted = Accepted { stream, peer, share, entrance };
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
    listeners: &[settings::Listener],
) -> Result<Vec<Listening>, (SocketAddr, io::Error)> {
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
    let listen = |one: &settings::Listener| {
        let socket = open(one.address).map_err(|why| (one.address, why))?;
        Ok(Listening { socket, entrance: Entrance { faces: one.faces, tls: one.tls } })
    };
    listeners.iter().map(listen).collect()
}

/// The longest head that is read of a caller for whom there is no room, in bytes.
const PROBE_MAX: usize = 4 << 10;

/// Answers a caller for whom there is no room, and waits until it closes: closing with unread bytes
/// would reset the connection before it has read the answer. Probes of health and readiness are answered
/// as usual: a full gateway is not a dead one.
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

/// What a caller for whom there is no room is answered with, whole.
fn refusal(shared: &Shared, read: &[u8]) -> Vec<u8> {
    let head = http1::head_end(read, 0).and_then(|end| http1::request_head(&read[..end]).ok());
    let mut is_head = false;
    let probe = head.and_then(|head| {
        is_head = head.method == "HEAD";
        let path = head.target.split('?').next().unwrap_or_default();
        Probe::find(path).filter(|_| matches!(head.method, "GET" | "HEAD"))
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
