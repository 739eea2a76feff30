//! The simulated machine's state: virtual time, sockets, a poll, names.
//!
//! Time advances when the engine reads the clock (a little), when it waits (to the next event) and
//! when the script pauses the worker. Bytes that arrive meanwhile are queued with their time of
//! arrival. The poll is edge-triggered, as epoll is for the engine.

use super::http2::{self, Heard};
use super::peer::{Ending, Peer, Reply, reply_bytes};
use super::standing;
use crate::control::Command;
use crate::system::resolve::{Query, Resolved};
use crate::system::{Message, READY_MAX, Readiness, Wait};
use plimsoll_measure::Nanos;
use plimsoll_measure::rng::{Key, Sequence};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

/// Cost of reading the clock, including the engine's work since the last reading.
const CLOCK_COST: u64 = 60;
/// Cost of a poll.
const POLL_COST: u64 = 400;
/// Maximum delay of a wake-up.
const WAKE_MAX: u64 = 60_000;

/// Window size: unread bytes of a peer that never stops sending.
const WINDOW: usize = 10 << 10;
/// Cost per byte read: high, so that few bytes keep the worker busy.
const BYTE_COST: u64 = 40;

/// Reads up to this size cost nothing extra.
const FREE_READ_MAX: usize = 1 << 10;

/// An event on the timeline.
enum Event {
    /// The peer's kernel accepted the connection attempt.
    Connected(usize),
    Refused(usize),
    /// Bytes from the peer arrive.
    Arrive(usize, Vec<u8>),
    /// The peer closed or reset the connection.
    Ended(usize, Ending),
    /// Our bytes arrive at the peer.
    Reach(usize, Vec<u8>),
    /// The peer begins to send this repeatedly.
    Endless(usize, Rc<[u8]>),
    /// The peer closes a connection if it has been idle since the given instant.
    IdleClose(usize, u64),
    Resolved(Resolved),
    Command(Command),
}

/// One of our sockets and its kernel state.
struct SocketState {
    token: usize,
    address: SocketAddr,
    connected: bool,
    refused: bool,
    /// Bytes received, with their time of arrival.
    inbox: VecDeque<(u64, Vec<u8>)>,
    ended: Option<Ending>,
    /// The bytes that the peer sends repeatedly.
    endless: Option<Rc<[u8]>>,
    /// Readiness that the next poll reports.
    report: Readiness,
    /// Bytes written that have not reached the peer yet.
    unsent: usize,
    wants_room: bool,
    closed: bool,
    /// Request bytes that have reached the peer.
    request: Vec<u8>,
    /// When the peer last used it; `u64::MAX` if the peer closed it.
    idle_since: u64,
    /// When the last bytes written reach the peer; later bytes must not overtake them.
    reach_at: u64,
    /// If the peer speaks HTTP/2: its end, and what was written so far.
    http2: Option<(http2::Connection, http2::Requests)>,
    /// If the peer serves what stays open: its end.
    standing: Option<standing::Connection>,
}

/// A name's addresses, or a resolution error.
type Addresses = Result<Vec<SocketAddr>, String>;

/// Observations of the simulation, for checks.
#[derive(Default)]
pub(super) struct Seen {
    /// When the first byte of request `seq` of a target was written, by path.
    pub(super) sent: HashMap<(String, u64), u64>,
    /// Peak number of open sockets by address.
    pub(super) open_max: HashMap<SocketAddr, usize>,
    open: HashMap<SocketAddr, usize>,
    /// Number of requests that reached each peer.
    pub(super) reached: HashMap<SocketAddr, u64>,
    /// When the last bytes of the answer to each request arrive, by `seq`.
    pub(super) arrived: HashMap<u64, u64>,
    /// Total time for which the worker was paused.
    pub(super) paused: u64,
}

pub(super) struct World {
    now: u64,
    order: u64,
    next_socket: usize,
    timeline: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, Event>,
    /// By unique number.
    sockets: HashMap<usize, SocketState>,
    reported: VecDeque<usize>,
    messages: VecDeque<Message>,
    peers: HashMap<SocketAddr, Peer>,
    /// By name, its addresses from an instant on.
    names: HashMap<String, Vec<(u64, Addresses)>>,
    /// When the worker is paused, and for how long.
    pauses: VecDeque<(u64, u64)>,
    /// Number of connections that can still be opened before ports run out.
    ports: u64,
    /// Size of a socket's send buffer.
    room: usize,
    /// Cost of reading the clock.
    clock_cost: u64,
    random: Sequence,
    pub(super) seen: Seen,
}

impl World {
    pub(super) fn new(key: Key) -> World {
        World {
            now: 0,
            order: 0,
            next_socket: 0,
            timeline: BinaryHeap::new(),
            events: HashMap::new(),
            sockets: HashMap::new(),
            reported: VecDeque::new(),
            messages: VecDeque::new(),
            peers: HashMap::new(),
            names: HashMap::new(),
            pauses: VecDeque::new(),
            ports: u64::MAX,
            room: usize::MAX,
            clock_cost: CLOCK_COST,
            random: key.sequence(),
            seen: Seen::default(),
        }
    }

    pub(super) fn peer(&mut self, at: SocketAddr, peer: Peer) {
        self.peers.insert(at, peer);
    }

    /// Sets the addresses of a name from `from` on.
    pub(super) fn name(&mut self, host: &str, from: Nanos, has: Addresses) {
        self.names.entry(host.into()).or_default().push((from.0, has));
    }

    pub(super) fn pause(&mut self, from: Nanos, length: Nanos) {
        self.pauses.push_back((from.0, length.0));
        self.pauses.make_contiguous().sort_unstable();
    }

    pub(super) fn ports(&mut self, ports: u64) {
        self.ports = ports;
    }

    pub(super) fn room(&mut self, room: usize) {
        self.room = room;
    }

    /// Makes the worker slow: sets the cost of reading the clock.
    pub(super) fn clock_cost(&mut self, cost: u64) {
        self.clock_cost = cost;
    }

    pub(super) fn command(&mut self, at: Nanos, command: Command) {
        self.schedule(at.0, Event::Command(command));
    }

    /// The current addresses of a name.
    pub(super) fn lookup(&self, host: &str) -> Addresses {
        let mut known = self.names.get(host).into_iter().flatten();
        let has = known.rfind(|(from, _)| *from <= self.now);
        has.map_or(Err("no such name".into()), |(_, has)| has.clone())
    }

    fn schedule(&mut self, at: u64, what: Event) {
        self.order += 1;
        self.timeline.push(Reverse((at, self.order)));
        self.events.insert(self.order, what);
    }

    /// Advances time, including pauses of the worker in the script.
    fn pass(&mut self, span: u64) {
        self.now += span;
        while self.pauses.front().is_some_and(|(from, _)| *from <= self.now) {
            let (_, length) = self.pauses.pop_front().expect("it was there");
            self.now += length;
            self.seen.paused += length;
        }
    }

    /// Applies all events that are due.
    fn settle(&mut self) {
        while let Some(Reverse((at, order))) = self.timeline.peek().copied()
            && at <= self.now
        {
            self.timeline.pop();
            let what = self.events.remove(&order).expect("each event is applied once");
            self.apply(at, what);
        }
    }

    fn apply(&mut self, at: u64, what: Event) {
        match what {
            Event::Connected(id) => self.report(id, |socket| {
                socket.connected = true;
                socket.report.writable = true;
            }),
            Event::Refused(id) => self.report(id, |socket| {
                socket.refused = true;
                socket.report = Readiness { readable: true, writable: true, read_closed: true };
            }),
            Event::Arrive(id, bytes) => self.report(id, |socket| {
                socket.inbox.push_back((at, bytes));
                socket.report.readable = true;
            }),
            Event::Ended(id, ending) => self.report(id, |socket| {
                socket.ended.get_or_insert(ending);
                socket.report.readable = true;
                socket.report.read_closed = true;
            }),
            Event::Endless(id, chunk) => {
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.endless = Some(chunk);
                    self.refill(id, at);
                }
            }
            Event::Reach(id, bytes) => self.reach(id, at, bytes),
            Event::IdleClose(id, since) => {
                let idle = self.sockets.get(&id).is_some_and(|socket| socket.idle_since == since);
                if idle {
                    let socket = self.sockets.get_mut(&id).expect("a socket");
                    let rtt = self.peers[&socket.address].rtt;
                    // From now on, the peer answers bytes with a reset.
                    socket.idle_since = u64::MAX;
                    self.schedule(at + rtt / 2, Event::Ended(id, Ending::Close));
                }
            }
            Event::Resolved(resolved) => self.messages.push_back(Message::Resolved(resolved)),
            Event::Command(command) => self.messages.push_back(Message::Command(command)),
        }
    }

    fn report(&mut self, id: usize, change: impl FnOnce(&mut SocketState)) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if socket.closed {
            return;
        }
        let had = socket.report.any();
        change(socket);
        if !had && socket.report.any() {
            self.reported.push_back(id);
        }
    }

    /// Delivers our bytes to the peer.
    fn reach(&mut self, id: usize, at: u64, bytes: Vec<u8>) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.unsent -= bytes.len();
        if socket.closed {
            return self.forget(id);
        }
        if std::mem::take(&mut socket.wants_room) {
            self.report(id, |socket| socket.report.writable = true);
        }
        let socket = self.sockets.get_mut(&id).expect("a socket");
        let address = socket.address;
        if socket.idle_since == u64::MAX {
            let rtt = self.peers[&address].rtt;
            return self.schedule(at + rtt / 2, Event::Ended(id, Ending::Reset));
        }
        if socket.http2.is_some() {
            return self.reach_http2(id, at, &bytes);
        }
        if socket.standing.is_some() {
            return self.reach_standing(id, at, &bytes);
        }
        socket.request.extend_from_slice(&bytes);
        socket.idle_since = at;
        let peer = self.peers.get_mut(&address).expect("a peer that was connected to");
        let Some(asked) = peer.take_request(&mut socket.request) else { return };
        let reply = peer.answer(asked, at, &mut self.random);
        *self.seen.reached.entry(address).or_default() += 1;
        if let Some((after, _)) = reply.fragments.last() {
            let rtt = self.peers[&address].rtt;
            self.seen.arrived.insert(asked, at + after + rtt / 2);
        }
        self.reply(id, at, reply);
    }

    fn reach_http2(&mut self, id: usize, at: u64, bytes: &[u8]) {
        let socket = self.sockets.get_mut(&id).expect("a socket");
        let (address, (connection, _)) = (socket.address, socket.http2.as_mut().expect("as above"));
        let peer = &self.peers[&address];
        let sent = connection.receive(bytes, peer, at, &mut self.random);
        self.send(id, at, sent);
    }

    fn reach_standing(&mut self, id: usize, at: u64, bytes: &[u8]) {
        let socket = self.sockets.get_mut(&id).expect("a socket");
        let (address, connection) = (socket.address, socket.standing.as_mut());
        let connection = connection.expect("a server of what stays open");
        *self.seen.reached.entry(address).or_default() += 1;
        let sent = connection.receive(bytes, &self.peers[&address], &mut self.random);
        self.send(id, at, sent);
    }

    /// Schedules what a peer sends.
    fn send(&mut self, id: usize, at: u64, all: Vec<http2::Sent>) {
        let address = self.sockets[&id].address;
        let half = self.peers[&address].rtt / 2;
        for sent in all {
            let arrives = at + sent.after + half;
            if let Some(seq) = sent.answers {
                *self.seen.reached.entry(address).or_default() += 1;
                self.seen.arrived.insert(seq, arrives);
            }
            if !sent.bytes.is_empty() {
                self.schedule(arrives, Event::Arrive(id, sent.bytes));
            }
            if let Some(chunk) = sent.again {
                self.schedule(arrives + 1, Event::Endless(id, chunk.into()));
            }
            if let Some(ending) = sent.ending {
                self.schedule(arrives + 1, Event::Ended(id, ending));
            }
        }
    }

    fn reply(&mut self, id: usize, at: u64, reply: Reply) {
        let socket = self.sockets.get_mut(&id).expect("a socket");
        let peer = &self.peers[&socket.address];
        let (half, idle_close) = (peer.rtt / 2, peer.idle_close);
        let last = reply.fragments.last().map_or(at, |(after, _)| at + after);
        let closes = reply.ending.is_some();
        socket.idle_since = if closes { u64::MAX } else { last };
        for (after, bytes) in reply.fragments {
            self.schedule(at + after + half, Event::Arrive(id, bytes));
        }
        if let Some(ending) = reply.ending {
            self.schedule(last + half + 1, Event::Ended(id, ending));
        } else if let Some(chunk) = reply.endless {
            self.schedule(last + half + 1, Event::Endless(id, chunk));
        } else if let Some(after) = idle_close {
            self.schedule(last + after, Event::IdleClose(id, last));
        }
    }

    /// Refills the window of a peer that never stops sending.
    fn refill(&mut self, id: usize, at: u64) {
        let Some(socket) = self.sockets.get(&id) else { return };
        let Some(chunk) = socket.endless.clone() else { return };
        let mut unread: usize = socket.inbox.iter().map(|(_, bytes)| bytes.len()).sum();
        while unread < WINDOW {
            unread += chunk.len();
            self.apply(at, Event::Arrive(id, chunk.to_vec()));
        }
    }

    /// Removes a closed socket once none of its bytes are in transit.
    fn forget(&mut self, id: usize) {
        if self.sockets.get(&id).is_some_and(|socket| socket.closed && socket.unsent == 0) {
            self.sockets.remove(&id);
        }
    }

    pub(super) fn connect(&mut self, to: SocketAddr, token: usize) -> io::Result<usize> {
        if self.ports == 0 {
            return Err(io::Error::from_raw_os_error(nix::libc::EADDRNOTAVAIL));
        }
        self.ports -= 1;
        let socket = SocketState {
            token,
            address: to,
            connected: false,
            refused: false,
            inbox: VecDeque::new(),
            ended: None,
            endless: None,
            report: Readiness::NONE,
            unsent: 0,
            wants_room: false,
            closed: false,
            request: Vec::new(),
            idle_since: 0,
            reach_at: 0,
            http2: self
                .peers
                .get(&to)
                .is_some_and(|peer| peer.http2.is_some())
                .then(Default::default),
            standing: self
                .peers
                .get(&to)
                .is_some_and(|peer| peer.standing.is_some())
                .then(Default::default),
        };
        self.next_socket += 1;
        let id = self.next_socket;
        self.sockets.insert(id, socket);
        let open = self.seen.open.entry(to).or_default();
        *open += 1;
        let max = self.seen.open_max.entry(to).or_default();
        *max = (*max).max(*open);
        let answer = match self.peers.get(&to) {
            Some(peer) => peer.accepts(self.now, &mut self.random),
            None => None,
        };
        match answer {
            Some((after, true)) => {
                self.schedule(self.now + after, Event::Connected(id));
                if self.peers[&to].answers_first {
                    let at = self.now + after + 300_000;
                    self.schedule(at, Event::Arrive(id, reply_bytes(200, "{}")));
                }
            }
            Some((after, false)) => self.schedule(self.now + after, Event::Refused(id)),
            // Never answered.
            None => {}
        }
        Ok(id)
    }

    pub(super) fn close(&mut self, id: usize) {
        let socket = self.sockets.get_mut(&id).expect("a socket");
        socket.closed = true;
        socket.report = Readiness::NONE;
        *self.seen.open.entry(socket.address).or_default() -= 1;
        self.reported.retain(|reported| *reported != id);
        self.forget(id);
    }

    pub(super) fn read(
        &mut self,
        id: usize,
        buffer: &mut [u8],
    ) -> io::Result<(usize, Option<Nanos>)> {
        self.settle();
        let socket = self.sockets.get_mut(&id).expect("a socket");
        let mut n = 0;
        let mut stamp = None;
        while n < buffer.len()
            && let Some((at, bytes)) = socket.inbox.front_mut()
        {
            let taken = bytes.len().min(buffer.len() - n);
            buffer[n..n + taken].copy_from_slice(&bytes[..taken]);
            n += taken;
            stamp = Some(Nanos(*at));
            if taken == bytes.len() {
                socket.inbox.pop_front();
            } else {
                bytes.drain(..taken);
            }
        }
        let ended = socket.ended;
        self.refill(id, self.now);
        self.pass(if n > FREE_READ_MAX { BYTE_COST * n as u64 } else { 0 });
        match (n, ended) {
            (0, None) => Err(io::ErrorKind::WouldBlock.into()),
            (0, Some(Ending::Close)) => Ok((0, None)),
            (0, Some(Ending::Reset)) => Err(io::Error::from_raw_os_error(nix::libc::ECONNRESET)),
            _ => Ok((n, stamp)),
        }
    }

    pub(super) fn write(&mut self, id: usize, bytes: &[u8]) -> io::Result<usize> {
        self.settle();
        let (room, now) = (self.room, self.now);
        let socket = self.sockets.get_mut(&id).expect("a socket");
        if socket.ended == Some(Ending::Reset) {
            return Err(io::Error::from_raw_os_error(nix::libc::ECONNRESET));
        }
        let taken = bytes.len().min(room - socket.unsent.min(room));
        if taken < bytes.len() {
            socket.wants_room = true;
        }
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        socket.unsent += taken;
        let rtt = self.peers[&socket.address].rtt;
        socket.reach_at = (now + rtt / 2).max(socket.reach_at + 1);
        let at = socket.reach_at;
        let mut heard = Vec::new();
        match &mut socket.http2 {
            Some((_, requests)) => requests.read(&bytes[..taken], &mut heard),
            None => {
                if let Some(first) = super::peer::request_line(bytes) {
                    self.seen.sent.entry(first).or_insert(now);
                }
            }
        }
        for heard in heard {
            if let Heard::Head(asked) = heard {
                self.seen.sent.entry((asked.path, asked.seq)).or_insert(now);
            }
        }
        self.schedule(at, Event::Reach(id, bytes[..taken].to_vec()));
        Ok(taken)
    }

    pub(super) fn wait(&mut self, wait: Wait, ready: &mut Vec<(usize, Readiness)>) {
        self.pass(POLL_COST);
        self.settle();
        if let Wait::Until(at) = wait {
            while self.reported.is_empty() && self.messages.is_empty() && self.now < at.0 {
                let next = self.timeline.peek().map_or(u64::MAX, |Reverse((next, _))| *next);
                let to = next.min(at.0);
                assert!(to < u64::MAX, "no event would ever wake the worker");
                let late = self.random.below(WAKE_MAX);
                self.pass(to.saturating_sub(self.now) + late);
                self.settle();
            }
        }
        while ready.len() < READY_MAX
            && let Some(id) = self.reported.pop_front()
        {
            let socket = self.sockets.get_mut(&id).expect("a socket");
            ready.push((socket.token, std::mem::take(&mut socket.report)));
        }
    }

    pub(super) fn message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    pub(super) fn resolve(&mut self, query: Query) {
        let after = 100_000 + self.random.below(20_000_000);
        let addresses = self
            .lookup(&query.host)
            .map(|list| list.into_iter().map(|at| SocketAddr::new(at.ip(), query.port)).collect());
        let resolved = Resolved { pool: query.pool, addresses };
        self.schedule(self.now + after, Event::Resolved(resolved));
    }

    /// Reads the clock.
    pub(super) fn now(&mut self) -> Nanos {
        self.pass(self.clock_cost);
        Nanos(self.now)
    }

    pub(super) fn is_connected(&mut self, id: usize) -> io::Result<bool> {
        self.settle();
        let socket = &self.sockets[&id];
        if socket.refused {
            return Err(io::Error::from_raw_os_error(nix::libc::ECONNREFUSED));
        }
        Ok(socket.connected)
    }
}
