//! Accepts connections and serves HTTP/1.1, HTTP/2 or WebSocket on them, with one runtime per thread.
//!
//! Without TLS, a connection that begins with the preface of HTTP/2 is HTTP/2; with TLS, ALPN decides.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use plimsoll_measure::Nanos;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::feed::Feeds;
use crate::http::{self, Caller};
use crate::http2;
use crate::sim::Shared;
use crate::timer::Timer;
use crate::websocket;
use crate::wire::{Control, Wire};

/// Maximum number of connections that wait to be accepted; the kernel limits it further by
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Pause if accepting fails for lack of descriptors: the connection stays in the backlog, and without
/// the pause the thread would spin until a descriptor is free.
pub(crate) const ACCEPT_PAUSE: Nanos = Nanos::from_millis(10);

/// An address on which one thread accepts connections.
pub(crate) struct Acceptor {
    /// `None` if connections are refused from the start.
    pub(crate) listener: Option<std::net::TcpListener>,
    pub(crate) address: SocketAddr,
    /// The only service it serves; `None`: all services.
    pub(crate) host: Option<usize>,
    /// Reserves the port while connections are refused.
    pub(crate) reservation: Arc<Socket>,
}

/// Binds a port without listening on it. Connections are refused until something listens on it.
///
/// # Errors
/// The address is in use, or this host does not have it.
pub(crate) fn reserve(address: SocketAddr) -> io::Result<Socket> {
    if address.port() != 0 {
        // SO_REUSEPORT is for the threads of one simulator; two simulators must not share a port.
        let probe = std::net::TcpListener::bind(address)?;
        drop(probe);
    }
    bind(address)
}

/// Listens on a reserved port.
///
/// # Errors
/// A system resource is exhausted.
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

/// Serves until `stop` is set, then closes all connections.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    acceptors: Vec<Acceptor>,
    mut stop: watch::Receiver<bool>,
) {
    let Ok(timer) = Timer::start(shared.clock) else { return };
    let feeds = Feeds::start(&shared, &timer);
    let mut accepting = JoinSet::new();
    for acceptor in acceptors {
        accepting.spawn(accept(shared.clone(), (timer.clone(), feeds.clone()), acceptor));
    }
    // An error means that the simulator was dropped, which also stops it.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(shared: Arc<Shared>, (timer, feeds): (Timer, Feeds), acceptor: Acceptor) {
    let mut listener = acceptor.listener.and_then(|listener| TcpListener::from_std(listener).ok());
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
            (None, None) => listen(acceptor.address).and_then(TcpListener::from_std).ok(),
            (None, listener) => listener,
        };
        tokio::select! {
            Some(accepted) = next(&listener) => {
                match accepted {
                    Ok((stream, _)) => {
                        let own = (timer.clone(), feeds.clone());
                        let served = connection(shared.clone(), own, stream, acceptor.host);
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
        let _ = &acceptor.reservation;
    }
}

/// The next connection; `None` while there is no listener.
pub(crate) async fn next(
    listener: &Option<TcpListener>,
) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    Some(listener.as_ref()?.accept().await)
}

async fn connection(
    shared: Arc<Shared>,
    (timer, feeds): (Timer, Feeds),
    stream: TcpStream,
    host: Option<usize>,
) {
    // Without this, the last segment of a larger answer would wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let control = Control::default();
    let number = shared.record.connections.fetch_add(1, Ordering::Relaxed);
    let caller = Arc::new(Caller {
        shared: shared.clone(),
        timer,
        control: control.clone(),
        connection: number,
        host,
        feeds,
        is_websocket: false,
        upgrade: Mutex::default(),
    });
    match &shared.tls {
        Some(tls) => {
            let wire = Wire::new(stream, Vec::new(), control);
            if let Ok(wire) = tls.accept(wire).await {
                let is_http2 = wire.get_ref().1.alpn_protocol() == Some(b"h2");
                serve_on(wire, is_http2, caller).await;
            }
        }
        None => {
            if let Ok((first, is_http2)) = http2::first_bytes(&stream).await {
                serve_on(Wire::new(stream, first, control), is_http2, caller).await;
            }
        }
    }
    shared.record.connections_closed.fetch_add(1, Ordering::Relaxed);
}

async fn serve_on(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_http2: bool,
    caller: Arc<Caller>,
) {
    if is_http2 {
        return http2::serve(io, caller).await;
    }
    let service = service_fn(|request| http::respond(caller.clone(), request));
    let mut builder = http1::Builder::new();
    let connection = builder.pipeline_flush(true).serve_connection(TokioIo::new(io), service);
    // Errors are caused by the peer, or by an injected fault.
    let _ = connection.with_upgrades().await;
    websocket::serve(&caller).await;
}
