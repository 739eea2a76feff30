//! Accepting connections and serving HTTP/1.1 on them, one runtime for each thread.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use plimsoll_measure::Nanos;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::http::{self, Caller};
use crate::sim::Shared;
use crate::timer::Timer;
use crate::wire::{Control, Wire};

/// Connections that may wait to be accepted; the kernel caps it with `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Pause after the system gave no descriptor for a connection, which stays in the backlog: without
/// it the thread would spin until one is free.
pub(crate) const ACCEPT_PAUSE: Nanos = Nanos::from_millis(10);

/// A place where one thread accepts connections.
pub(crate) struct Door {
    /// `None` while connections are refused from the start.
    pub(crate) listener: Option<std::net::TcpListener>,
    pub(crate) address: SocketAddr,
    /// The service it belongs to; `None`: all of them.
    pub(crate) host: Option<usize>,
    /// Holds the port while connections are refused.
    pub(crate) keeper: Arc<Socket>,
}

/// Takes a port without listening on it. Connections are refused as long as nobody else listens.
///
/// # Errors
/// The address is taken or not this host's.
pub(crate) fn reserve(address: SocketAddr) -> io::Result<Socket> {
    if address.port() != 0 {
        // Sharing a port is for the threads of one simulator, not for two of them.
        let probe = std::net::TcpListener::bind(address)?;
        drop(probe);
    }
    bind(address)
}

/// Listens on a port that was reserved.
///
/// # Errors
/// The system is out of something.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = bind(address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Serves until it is told to stop; then every connection is closed.
pub(crate) async fn serve(shared: Arc<Shared>, doors: Vec<Door>, mut stop: watch::Receiver<bool>) {
    let Ok(timer) = Timer::start(shared.clock) else { return };
    let mut accepting = JoinSet::new();
    for door in doors {
        accepting.spawn(accept(shared.clone(), timer.clone(), door));
    }
    // An error means that the simulator is gone, which is as good as being told.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(shared: Arc<Shared>, timer: Timer, door: Door) {
    let mut listener = door.listener.and_then(|listener| TcpListener::from_std(listener).ok());
    let mut changes = shared.faults.changes();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        changes.mark_unchanged();
        let now = shared.clock.now();
        let refusing = shared.faults.refusing(now);
        let edge = refusing.or(shared.faults.next_refusal(now)).unwrap_or(Nanos::MAX);
        listener = match (refusing, listener) {
            (Some(_), _) => None,
            (None, None) => listen(door.address).and_then(TcpListener::from_std).ok(),
            (None, listener) => listener,
        };
        tokio::select! {
            Some(accepted) = next(&listener) => {
                match accepted {
                    Ok((stream, _)) => {
                        let served = connection(shared.clone(), timer.clone(), stream, door.host);
                        connections.spawn(served);
                    }
                    Err(_) => timer.until(shared.clock.now() + ACCEPT_PAUSE).await,
                }
            }
            () = timer.until(edge), if edge < Nanos::MAX => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        // The reserved port outlives this loop.
        let _ = &door.keeper;
    }
}

/// The next connection; `None` while there is no listener.
pub(crate) async fn next(
    listener: &Option<TcpListener>,
) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    Some(listener.as_ref()?.accept().await)
}

async fn connection(shared: Arc<Shared>, timer: Timer, stream: TcpStream, host: Option<usize>) {
    // Answers are small and written at once; without this the last piece of a larger one would wait
    // for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let control = Control::default();
    let number = shared.record.connections.fetch_add(1, Ordering::Relaxed);
    let caller = Arc::new(Caller {
        shared: shared.clone(),
        timer,
        control: control.clone(),
        connection: number,
        host,
    });
    let service = service_fn(move |request| http::respond(caller.clone(), request));
    let wire = TokioIo::new(Wire::new(stream, control));
    let connection = http1::Builder::new().pipeline_flush(true).serve_connection(wire, service);
    // A connection that ends in an error was broken by the peer, or by a fault on purpose.
    let _ = connection.await;
    shared.record.connections_closed.fetch_add(1, Ordering::Relaxed);
}
