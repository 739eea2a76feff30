//! A TCP proxy that does the network's part before anything real: delay, little bandwidth, resets,
//! silence.
//!
//! It passes bytes and knows nothing of what they mean. Faults are a typed list with windows, as for
//! the simulated nodes; which connections a share strikes follows from the seed and the order in
//! which they were accepted. What strikes a connection is decided when it is accepted, but for
//! refusal, black hole and the limit, which are about accepting itself; delay and bandwidth are in
//! force while their window is.
//!
//! # Layout
//! - this file: settings, accepting, start and stop
//! - `read`: the timetable
//! - `pump`: bytes from one side to the other

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

/// Everything that a proxy is started with.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// Where it listens; port 0: one that the kernel chooses.
    pub listen: SocketAddr,
    /// Where it passes bytes to: `host:port`, looked up for each connection.
    pub to: String,
    /// Decides jitter and which connections faults strike.
    pub seed: u64,
    /// What goes wrong, counted from the start.
    pub faults: Vec<LinkFault>,
}

/// One thing that goes wrong on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkFault {
    /// What.
    pub kind: LinkFaultKind,
    /// When.
    pub window: Window,
    /// For which share of the connections, 0 to 1.
    pub share: f64,
}

impl LinkFault {
    /// A fault of every connection, for ever.
    pub fn new(kind: LinkFaultKind) -> LinkFault {
        LinkFault { kind, window: Window::default(), share: 1.0 }
    }
}

/// What goes wrong on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFaultKind {
    /// Everything arrives later, in both directions; order is kept.
    Delay {
        /// By at least this.
        by: Nanos,
        /// And up to this much more.
        jitter: Nanos,
    },
    /// No more than `rate` bytes a second pass, in each direction of each connection.
    Bandwidth {
        /// Bytes a second, at least 1.
        rate: u64,
    },
    /// The connection is reset once `after` bytes of the answer have passed.
    Reset {
        /// How many.
        after: u64,
    },
    /// The connection is closed once `after` bytes of the answer have passed.
    Truncate {
        /// How many.
        after: u64,
    },
    /// Nothing passes any more once `after` bytes of the answer have, but the connection stays open.
    Silence {
        /// How many.
        after: u64,
    },
    /// The answer comes in small pieces.
    Drip {
        /// Bytes in a piece, at least 1.
        bytes: usize,
        /// From piece to piece.
        pause: Nanos,
    },
    /// New connections are refused.
    Refuse,
    /// New connections are accepted, and nothing is ever heard again.
    BlackHole,
    /// Connections beyond a number are accepted and closed at once.
    Limit {
        /// How many may be open.
        connections: u64,
    },
}

/// A proxy that passes bytes until it is stopped or dropped.
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
    /// Of those: open now.
    pub open: u64,
    /// Bytes passed towards the target.
    pub bytes_in: u64,
    /// Bytes passed back.
    pub bytes_out: u64,
}

pub(crate) struct State {
    settings: ProxySettings,
    clock: Clock,
    key: Key,
    accepted: AtomicU64,
    closed: AtomicU64,
    /// Towards the target, and back.
    passed: [AtomicU64; 2],
}

impl Proxy {
    /// Starts listening. When this returns, connections are accepted.
    ///
    /// # Errors
    /// The address is taken, or the system is out of something.
    pub fn start(settings: ProxySettings) -> Result<Proxy, StartError> {
        let wanted = settings.listen;
        let wrong = |source| StartError::Listen { address: wanted, source };
        let keeper = reserve(wanted).map_err(wrong)?;
        let address = keeper.local_addr().map_err(wrong)?.as_socket();
        let address = address.ok_or_else(|| wrong(io::ErrorKind::AddrNotAvailable.into()))?;
        let state = Arc::new(State {
            clock: Clock::start(),
            key: Key::new(settings.seed),
            settings,
            accepted: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            passed: Default::default(),
        });
        // One that is to refuse from the start must not accept before its thread runs.
        let listener = match state.refusal(Nanos::ZERO) {
            (true, _) => None,
            (false, _) => Some(listen(address).map_err(wrong)?),
        };
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::System)?;
        let serving = state.clone();
        let thread = std::thread::Builder::new().name("fault-proxy".into()).spawn(move || {
            // Holds the port while connections are refused.
            let _keeper = keeper;
            runtime.block_on(serve(serving, listener, address, stopped));
        });
        let thread = Some(thread.map_err(StartError::System)?);
        Ok(Proxy { address, state, stop, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it counted.
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

    /// Stops: everything is closed when this returns.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so; stopping must not panic again.
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
    /// The faults that strike connection `number` and whose window is open at `now`, with its end.
    fn in_force(&self, number: u64, now: Nanos) -> impl Iterator<Item = (LinkFaultKind, Nanos)> {
        (0..).zip(&self.settings.faults).filter_map(move |(at, fault)| {
            let (_, end) = fault.window.turn(now)?;
            let lot = self.key.with(at).with(number).sequence().unit();
            (lot < fault.share).then_some((fault.kind, end))
        })
    }

    /// Until when connections are refused, or when that next begins.
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
        // Kept open and unread until the peer gives up or the proxy stops.
        pump::until_closed(&stream).await;
    } else if !kinds.iter().any(full)
        && let Ok(target) = TcpStream::connect(&state.settings.to).await
    {
        let _ = (stream.set_nodelay(true), target.set_nodelay(true));
        pump::both_ways(&state, &timer, number, stream, target, &kinds).await;
    }
    state.closed.fetch_add(1, Ordering::Relaxed);
}
