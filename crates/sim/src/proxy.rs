//! A TCP proxy that injects network faults: delay, limited bandwidth, resets, silence.
//!
//! It forwards bytes without interpreting them. As for simulated nodes, faults have windows and
//! shares; the affected connections follow from the seed and the order in which connections are
//! accepted. Whether a fault affects a connection is decided when the connection is accepted, except
//! for delay, bandwidth and drip, which are in force during their windows.
//!
//! # Layout
//! - this file: settings, accepting, start and stop
//! - `read`: reading faults from TOML
//! - `pump`: forwarding bytes

mod pump;
pub(crate) mod read;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use plimsoll_measure::rng::Key;
use plimsoll_measure::{Clock, Nanos};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::faults::Window;
use crate::server::{ACCEPT_PAUSE, listen, reserve};
use crate::settings::StartError;
use crate::timer::Timer;

pub use read::from_toml;

/// The settings of a proxy.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// Address to listen on; with port 0 the kernel chooses a port.
    pub listen: SocketAddr,
    /// Target, `host:port`; resolved for each connection.
    pub to: String,
    /// Determines the jitter and the connections that are affected by faults.
    pub seed: u64,
    /// Faults; their windows count from the start.
    pub faults: Vec<LinkFault>,
}

/// A network fault.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkFault {
    /// What goes wrong.
    pub kind: LinkFaultKind,
    /// When it is in force.
    pub window: Window,
    /// Share of the connections that are affected, 0 to 1.
    pub share: f64,
}

impl LinkFault {
    /// A fault that affects every connection all the time.
    pub fn new(kind: LinkFaultKind) -> LinkFault {
        LinkFault { kind, window: Window::default(), share: 1.0 }
    }
}

/// The kinds of network faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFaultKind {
    /// All data is delayed in both directions, in order.
    Delay {
        /// Minimum delay.
        by: Nanos,
        /// Maximum random addition to the delay.
        jitter: Nanos,
    },
    /// Limits the bandwidth in each direction of each connection.
    Bandwidth {
        /// Bytes per second, at least 1.
        rate: u64,
    },
    /// The connection is reset after part of the answer.
    Reset {
        /// Number of bytes.
        after: u64,
    },
    /// The connection is closed after part of the answer.
    Truncate {
        /// Number of bytes.
        after: u64,
    },
    /// Nothing is sent after part of the answer, but the connection stays open.
    Silence {
        /// Number of bytes.
        after: u64,
    },
    /// The answer is sent in small chunks.
    Drip {
        /// Bytes per chunk, at least 1.
        bytes: usize,
        /// Pause between chunks.
        pause: Nanos,
    },
    /// New connections are refused.
    Refuse,
    /// New connections are accepted, but nothing is ever sent.
    BlackHole,
    /// Further connections are accepted and closed immediately.
    Limit {
        /// Maximum number of open connections.
        connections: u64,
    },
}

/// A proxy that forwards connections until it is stopped or dropped.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Counts of a proxy since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProxyCounts {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Bytes forwarded to the target.
    pub bytes_in: u64,
    /// Bytes forwarded back.
    pub bytes_out: u64,
}

pub(crate) struct State {
    settings: ProxySettings,
    clock: Clock,
    key: Key,
    accepted: AtomicU64,
    closed: AtomicU64,
    /// Bytes to the target, and back.
    passed: [AtomicU64; 2],
}

impl Proxy {
    /// Starts listening. When this returns, connections are accepted.
    ///
    /// # Errors
    /// The address is in use, or a system resource is exhausted.
    pub fn start(settings: ProxySettings) -> Result<Proxy, StartError> {
        let wanted = settings.listen;
        let wrong = |source| StartError::Listen { address: wanted, source };
        let reservation = reserve(wanted).map_err(wrong)?;
        let address = reservation.local_addr().map_err(wrong)?.as_socket();
        let address = address.ok_or_else(|| wrong(io::ErrorKind::AddrNotAvailable.into()))?;
        let state = Arc::new(State {
            clock: Clock::start(),
            key: Key::new(settings.seed),
            settings,
            accepted: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            passed: Default::default(),
        });
        // A proxy that refuses from the start must not accept before its thread runs.
        let listener = match state.refusal(Nanos::ZERO) {
            (true, _) => None,
            (false, _) => Some(listen(address).map_err(wrong)?),
        };
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::System)?;
        let serving = state.clone();
        let thread = std::thread::Builder::new().name("fault-proxy".into()).spawn(move || {
            // Reserves the port while connections are refused.
            let _reservation = reservation;
            runtime.block_on(serve(serving, listener, address, stopped));
        });
        let thread = Some(thread.map_err(StartError::System)?);
        Ok(Proxy { address, state, stop, thread })
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counts since the start.
    pub fn counts(&self) -> ProxyCounts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let closed = load(&self.state.closed);
        let accepted = load(&self.state.accepted);
        ProxyCounts {
            accepted,
            open: accepted.saturating_sub(closed),
            bytes_in: load(&self.state.passed[0]),
            bytes_out: load(&self.state.passed[1]),
        }
    }

    /// Stops the proxy. When this returns, all connections are closed.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // The panic of a thread was already reported; do not panic again.
            let _ = thread.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    /// The faults that affect connection `number` and are in force at `now`, with the ends of their
    /// windows.
    fn in_force(&self, number: u64, now: Nanos) -> impl Iterator<Item = (LinkFaultKind, Nanos)> {
        (0..).zip(&self.settings.faults).filter_map(move |(at, fault)| {
            let (_, end) = fault.window.turn(now)?;
            let draw = self.key.with(at).with(number).sequence().unit();
            (draw < fault.share).then_some((fault.kind, end))
        })
    }

    /// Whether connections are refused, and when that changes.
    fn refusal(&self, now: Nanos) -> (bool, Nanos) {
        let windows = || {
            let faults = self.settings.faults.iter();
            faults.filter(|fault| fault.kind == LinkFaultKind::Refuse).map(|fault| fault.window)
        };
        match windows().filter_map(|window| window.turn(now)).map(|(_, end)| end).max() {
            Some(end) => (true, end),
            None => {
                let next = windows().filter_map(|window| window.next_start(now)).min();
                (false, next.unwrap_or(Nanos::MAX))
            }
        }
    }
}

async fn serve(
    state: Arc<State>,
    listener: Option<std::net::TcpListener>,
    address: SocketAddr,
    mut stop: watch::Receiver<bool>,
) {
    let Ok(timer) = Timer::start(state.clock) else { return };
    let mut listener = listener.and_then(|listener| TcpListener::from_std(listener).ok());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (refusing, edge) = state.refusal(state.clock.now());
        listener = match (refusing, listener) {
            (true, _) => None,
            (false, None) => listen(address).and_then(TcpListener::from_std).ok(),
            (false, listener) => listener,
        };
        tokio::select! {
            Some(accepted) = crate::server::next(&listener) => {
                match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(connection(state.clone(), timer.clone(), stream));
                    }
                    Err(_) => timer.until(state.clock.now() + ACCEPT_PAUSE).await,
                }
            }
            () = timer.until(edge), if edge < Nanos::MAX => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

async fn connection(state: Arc<State>, timer: Timer, stream: TcpStream) {
    let number = state.accepted.fetch_add(1, Ordering::Relaxed);
    let open = number - state.closed.load(Ordering::Relaxed).min(number);
    let kinds: Vec<_> = state.in_force(number, state.clock.now()).map(|(kind, _)| kind).collect();
    let full = |kind: &LinkFaultKind| matches!(kind, LinkFaultKind::Limit { connections } if open >= *connections);
    if kinds.contains(&LinkFaultKind::BlackHole) {
        // Kept open and unread until the peer closes it or the proxy stops.
        pump::until_closed(&stream).await;
    } else if !kinds.iter().any(full)
        && let Ok(target) = TcpStream::connect(&state.settings.to).await
    {
        let _ = (stream.set_nodelay(true), target.set_nodelay(true));
        pump::both_ways(&state, &timer, number, stream, target, &kinds).await;
    }
    state.closed.fetch_add(1, Ordering::Relaxed);
}
