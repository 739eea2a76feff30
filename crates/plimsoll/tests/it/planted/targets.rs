//! The targets of planted faults: simulated chains, links and scripted servers, healthy or not.

use crate::server::{After, Received, Reply, Server};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket,
};
use plimsoll_measure::Nanos;
use plimsoll_sim::{Fault, FaultKind, LinkFault, Proxy, ProxySettings, Settings, Sim};
use std::any::Any;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// What a row's plan is run against.
pub(crate) enum Target {
    /// Simulated chains, each at an address of its own.
    Chains(Vec<Settings>),
    /// A healthy chain behind a link with these faults.
    Link(Vec<LinkFault>),
    /// A scripted server.
    Scripted(fn(usize, &Received) -> Reply),
    /// A scripted server that accepts a connection after each pause, and has room for one more.
    SlowToAccept(Duration, fn(usize, &Received) -> Reply),
}

/// Running targets; they stop when this is dropped.
pub(crate) struct Targets {
    /// Their URLs, in order.
    pub(crate) urls: Vec<String>,
    _running: Vec<Box<dyn Any>>,
}

impl Target {
    /// Starts it in this thread's network namespace.
    pub(crate) fn start(&self) -> Targets {
        let mut targets = Targets { urls: Vec::new(), _running: Vec::new() };
        match self {
            Target::Chains(chains) => chains.iter().for_each(|chain| targets.chain(chain.clone())),
            Target::Link(faults) => {
                targets.chain(Settings::default());
                let behind = targets.urls.remove(0);
                let to = behind.split('/').nth(2).unwrap().to_string();
                let (listen, faults) = (([127, 0, 0, 1], 0).into(), faults.clone());
                let proxy = Proxy::start(ProxySettings { listen, to, seed: 1, faults }).unwrap();
                targets.add(format!("http://{}/eth", proxy.address()), proxy);
            }
            Target::Scripted(reply) => {
                let server = Server::start(*reply);
                targets.add(server.url(), server);
            }
            Target::SlowToAccept(pause, reply) => {
                let server = Server::on(with_backlog_1(), *pause, *reply);
                targets.add(server.url(), server);
            }
        }
        targets
    }
}

impl Targets {
    fn chain(&mut self, settings: Settings) {
        let sim = Sim::start(settings).unwrap();
        self.add(sim.url("eth"), sim);
    }

    fn add(&mut self, url: String, running: impl Any) {
        self.urls.push(url);
        self._running.push(Box::new(running));
    }
}

/// A listener with the smallest accept queue that the kernel allows.
fn with_backlog_1() -> TcpListener {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    listen(&socket, Backlog::new(1).unwrap()).unwrap();
    TcpListener::from(socket)
}

/// A chain with these faults.
pub(crate) fn chain(faults: impl Into<Vec<Fault>>) -> Settings {
    Settings { faults: faults.into(), ..Settings::default() }
}

/// A fault of one in five requests.
pub(crate) fn one_in_five(kind: FaultKind) -> Fault {
    Fault::new(kind).for_share(0.2)
}

/// A status without a body.
pub(crate) fn status(status: u16) -> FaultKind {
    FaultKind::Status { status, retry_after: None }
}

/// Answers take this much longer from 1.5 s after the start on, for two seconds.
pub(crate) fn slows_down_by(by: Nanos) -> Fault {
    let (at, length) = (Nanos::from_millis(1500), Nanos::from_secs(2));
    Fault::new(FaultKind::Delay { by }).during(at, length)
}

/// Asks the client to close the connection after the answer, and waits until it has.
pub(crate) fn closes(body: &str, status: u16) -> Reply {
    let mut reply = Reply::with(status, "Connection: close\r\n", body);
    reply.then = After::Hang;
    reply
}

/// Half of the promised body.
pub(crate) fn truncates(body: &str) -> Reply {
    let length = 2 * body.len();
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    Reply::raw(text, After::Close)
}
