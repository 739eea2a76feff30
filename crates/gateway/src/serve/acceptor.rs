//! Where connections come in: one thread accepts them and hands them to the workers in turn, so that
//! they are spread evenly whatever the kernel thinks of it.
//!
//! A caller beyond the limit is told so. When accepting ends, what the kernel has accepted already is
//! handed out first: a connection that was made is served.

use std::cell::RefCell;
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
use crate::gateway::StartError;

/// Connections that may wait to be accepted; the kernel caps it with `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Pause after the system gave no descriptor for a connection, which stays in the backlog: without
/// it the thread would spin until one is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// So many callers at a time are told so; more are closed without a word, so that telling them costs
/// no more than serving them.
const TURNED_AWAY_MAX: usize = 256;

/// A caller that was told has so long to read it and to go.
const TURN_AWAY_TIME: Duration = Duration::from_secs(1);

/// A connection, and whose it is.
pub(crate) type Arrival = (std::net::TcpStream, IpAddr);

/// A worker's end of the way that connections go.
pub(crate) type Seat = mpsc::UnboundedSender<Arrival>;

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
        seats: Vec<Seat>,
    ) -> io::Result<Acceptor> {
        let (stop, mut stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = shared.clone();
        let accept = move || {
            let door = Door { shared: &shared, seats: RefCell::new(seats.iter().cycle()) };
            runtime.block_on(async {
                let take = |one| TcpListener::from_std(one).ok();
                let listeners: Vec<_> = listeners.into_iter().filter_map(take).collect();
                tokio::select! {
                    _ = futures_util::future::join_all(listeners.iter().map(|one| door.accept(one))) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
                for listener in listeners {
                    door.accept_the_last(listener);
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

/// Where connections are handed out.
struct Door<'a> {
    shared: &'a Shared,
    seats: RefCell<std::iter::Cycle<std::slice::Iter<'a, Seat>>>,
}

impl Door<'_> {
    /// Accepts connections and hands them out in turn.
    async fn accept(&self, listener: &TcpListener) {
        let places = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let connections = self.shared.state().settings.limits.connections;
            if self.shared.connections() < connections as u64 {
                if let Ok(stream) = stream.into_std() {
                    self.hand_out(stream, peer);
                }
                continue;
            }
            // The acceptor's own shard is the last.
            let refused = &self.shared.counts.last().refused;
            refused[ErrorKind::TooManyConnections as usize].add(1);
            if let Ok(place) = places.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    // However it ends, the connection does.
                    let _ = tokio::time::timeout(TURN_AWAY_TIME, turn_away(stream)).await;
                    drop(place);
                });
            }
        }
    }

    /// Hands out what waits to be accepted, and closes the listener.
    fn accept_the_last(&self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        // No more than can have waited: others may keep coming.
        for _ in 0..BACKLOG {
            let Ok((stream, peer)) = listener.accept() else { break };
            if stream.set_nonblocking(true).is_ok() {
                self.hand_out(stream, peer);
            }
        }
    }

    fn hand_out(&self, stream: std::net::TcpStream, peer: SocketAddr) {
        self.shared.counts.last().downstream.add(1);
        let seat = self.seats.borrow_mut().next().expect("there are workers");
        // A worker ends only when all do.
        let _ = seat.send((stream, peer.ip().to_canonical()));
    }
}

/// Listens everywhere.
///
/// # Errors
/// An address is taken or not this host's.
pub(crate) fn listen(addresses: &[SocketAddr]) -> Result<Vec<std::net::TcpListener>, StartError> {
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
    let all = addresses.iter().map(|address| {
        open(*address).map_err(|source| StartError::Listen { address: *address, source })
    });
    all.collect()
}

/// Tells a caller that it is one too many, and waits until it goes: closing on what it has sent would
/// reset the connection before it has read the answer.
async fn turn_away(mut stream: TcpStream) -> io::Result<()> {
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
