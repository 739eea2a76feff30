//! A machine that does not exist: virtual time, sockets, a poll, names.
//!
//! Time moves when the engine looks at the clock (a little), when it waits (to whatever comes next)
//! and when the script takes the worker off its CPU. Bytes that arrive meanwhile lie in the kernel
//! with their time of arrival. The poll is edge-triggered, as epoll is for the engine.

use super::peer::{Ending, Peer, Reply, reply_bytes};
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

/// A look at the clock costs this much time, and what the engine did since.
const LOOK: u64 = 60;
/// A poll that finds nothing costs this much.
const POLL: u64 = 400;
/// A sleeping worker is woken up to this much late.
const WAKE_MAX: u64 = 60_000;

/// Unread bytes of a peer that never stops sending.
const WINDOW: usize = 10 << 10;
/// Reading costs this much a byte: a slow machine, so that few bytes keep it busy.
const BYTE: u64 = 40;

/// Reading fewer bytes than this at a time is in the cost of everything else.
const CHEAP: usize = 1 << 10;

/// What happens at an instant.
enum Happening {
    /// The peer's kernel has answered the connection attempt.
    Connected(usize),
    Refused(usize),
    /// Bytes arrive here.
    Arrive(usize, Vec<u8>),
    /// The peer has closed, or reset.
    Ended(usize, Ending),
    /// Bytes of ours arrive at the peer.
    Reach(usize, Vec<u8>),
    /// From now on the peer sends this again and again.
    Endless(usize, Rc<[u8]>),
    /// The peer closes a connection that was idle since.
    IdleClose(usize, u64),
    Resolved(Resolved),
    Command(Command),
}

/// A socket of ours, and what lies in its kernel.
struct Sock {
    token: usize,
    address: SocketAddr,
    connected: bool,
    refused: bool,
    /// Bytes that arrived, with the instant.
    inbox: VecDeque<(u64, Vec<u8>)>,
    ended: Option<Ending>,
    /// What the peer sends again and again.
    endless: Option<Rc<[u8]>>,
    /// What the poll is going to report.
    report: Readiness,
    /// Bytes written that the peer's kernel has not taken yet.
    unsent: usize,
    wants_room: bool,
    closed: bool,
    /// Bytes of a request, as far as they reached the peer.
    request: Vec<u8>,
    /// When the peer last did something with it; `u64::MAX` when it has closed it.
    idle_since: u64,
    /// Requests reach the peer at this instant at the earliest.
    reach_at: u64,
}

/// A name's addresses, or why it has none.
type Addresses = Result<Vec<SocketAddr>, String>;

/// What the simulation saw.
#[derive(Default)]
pub(super) struct Seen {
    /// When the first byte of request `seq` of a target was written, by path.
    pub(super) sent: HashMap<(String, u64), u64>,
    /// The most sockets that were open at a time to one address.
    pub(super) open_max: HashMap<SocketAddr, usize>,
    open: HashMap<SocketAddr, usize>,
    /// Requests that reached a peer.
    pub(super) reached: HashMap<SocketAddr, u64>,
    /// When the last bytes of the answer to request `seq` arrive.
    pub(super) arrived: HashMap<u64, u64>,
    /// How long the worker was taken off its CPU.
    pub(super) paused: u64,
}

pub(super) struct World {
    now: u64,
    order: u64,
    next_socket: usize,
    timeline: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: HashMap<u64, Happening>,
    /// By a number that is never used again.
    sockets: HashMap<usize, Sock>,
    reported: VecDeque<usize>,
    messages: VecDeque<Message>,
    peers: HashMap<SocketAddr, Peer>,
    /// By name, what it has from an instant on.
    names: HashMap<String, Vec<(u64, Addresses)>>,
    /// When the worker is taken off its CPU, and for how long.
    pauses: VecDeque<(u64, u64)>,
    /// How many connections can be opened before the host is out of ports.
    ports: u64,
    /// How much room a socket has for what the peer has not taken.
    room: usize,
    /// What one look at the clock costs.
    look: u64,
    chance: Sequence,
    pub(super) seen: Seen,
}

impl World {
    pub(super) fn new(key: Key) -> World {
        World {
            now: 0,
            order: 0,
            next_socket: 0,
            timeline: BinaryHeap::new(),
            happenings: HashMap::new(),
            sockets: HashMap::new(),
            reported: VecDeque::new(),
            messages: VecDeque::new(),
            peers: HashMap::new(),
            names: HashMap::new(),
            pauses: VecDeque::new(),
            ports: u64::MAX,
            room: usize::MAX,
            look: LOOK,
            chance: key.sequence(),
            seen: Seen::default(),
        }
    }

    pub(super) fn peer(&mut self, at: SocketAddr, peer: Peer) {
        self.peers.insert(at, peer);
    }

    /// From `from` on, a name has these addresses.
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

    /// Makes the worker slow: a look at the clock costs this much.
    pub(super) fn look(&mut self, cost: u64) {
        self.look = cost;
    }

    pub(super) fn command(&mut self, at: Nanos, command: Command) {
        self.happens(at.0, Happening::Command(command));
    }

    /// What a name has now.
    pub(super) fn lookup(&self, host: &str) -> Addresses {
        let mut known = self.names.get(host).into_iter().flatten();
        let has = known.rfind(|(from, _)| *from <= self.now);
        has.map_or(Err("no such name".into()), |(_, has)| has.clone())
    }

    fn happens(&mut self, at: u64, what: Happening) {
        self.order += 1;
        self.timeline.push(Reverse((at, self.order)));
        self.happenings.insert(self.order, what);
    }

    /// Lets time pass, and the worker lose its CPU where the script says so.
    fn pass(&mut self, span: u64) {
        self.now += span;
        while self.pauses.front().is_some_and(|(from, _)| *from <= self.now) {
            let (_, length) = self.pauses.pop_front().expect("it was there");
            self.now += length;
            self.seen.paused += length;
        }
    }

    /// Lets everything happen that is due.
    fn settle(&mut self) {
        while let Some(Reverse((at, order))) = self.timeline.peek().copied()
            && at <= self.now
        {
            self.timeline.pop();
            let what = self.happenings.remove(&order).expect("each happens once");
            self.happen(at, what);
        }
    }

    fn happen(&mut self, at: u64, what: Happening) {
        match what {
            Happening::Connected(id) => self.report(id, |sock| {
                sock.connected = true;
                sock.report.writable = true;
            }),
            Happening::Refused(id) => self.report(id, |sock| {
                sock.refused = true;
                sock.report = Readiness { readable: true, writable: true, read_closed: true };
            }),
            Happening::Arrive(id, bytes) => self.report(id, |sock| {
                sock.inbox.push_back((at, bytes));
                sock.report.readable = true;
            }),
            Happening::Ended(id, ending) => self.report(id, |sock| {
                sock.ended.get_or_insert(ending);
                sock.report.readable = true;
                sock.report.read_closed = true;
            }),
            Happening::Endless(id, piece) => {
                if let Some(sock) = self.sockets.get_mut(&id) {
                    sock.endless = Some(piece);
                    self.refill(id, at);
                }
            }
            Happening::Reach(id, bytes) => self.reach(id, at, bytes),
            Happening::IdleClose(id, since) => {
                let idle = self.sockets.get(&id).is_some_and(|sock| sock.idle_since == since);
                if idle {
                    let sock = self.sockets.get_mut(&id).expect("a socket");
                    let rtt = self.peers[&sock.address].rtt;
                    // Whatever reaches the peer from now on is answered by a reset.
                    sock.idle_since = u64::MAX;
                    self.happens(at + rtt / 2, Happening::Ended(id, Ending::Close));
                }
            }
            Happening::Resolved(resolved) => self.messages.push_back(Message::Resolved(resolved)),
            Happening::Command(command) => self.messages.push_back(Message::Command(command)),
        }
    }

    fn report(&mut self, id: usize, change: impl FnOnce(&mut Sock)) {
        let Some(sock) = self.sockets.get_mut(&id) else { return };
        if sock.closed {
            return;
        }
        let had = sock.report.any();
        change(sock);
        if !had && sock.report.any() {
            self.reported.push_back(id);
        }
    }

    /// Bytes of ours reach the peer.
    fn reach(&mut self, id: usize, at: u64, bytes: Vec<u8>) {
        let Some(sock) = self.sockets.get_mut(&id) else { return };
        sock.unsent -= bytes.len();
        if sock.closed {
            return self.forget(id);
        }
        if std::mem::take(&mut sock.wants_room) {
            self.report(id, |sock| sock.report.writable = true);
        }
        let sock = self.sockets.get_mut(&id).expect("a socket");
        let address = sock.address;
        if sock.idle_since == u64::MAX {
            let rtt = self.peers[&address].rtt;
            return self.happens(at + rtt / 2, Happening::Ended(id, Ending::Reset));
        }
        sock.request.extend_from_slice(&bytes);
        sock.idle_since = at;
        let peer = self.peers.get_mut(&address).expect("a peer that was connected to");
        let Some(asked) = peer.take_request(&mut sock.request) else { return };
        let reply = peer.answer(asked, at, &mut self.chance);
        *self.seen.reached.entry(address).or_default() += 1;
        if let Some((after, _)) = reply.pieces.last() {
            let rtt = self.peers[&address].rtt;
            self.seen.arrived.insert(asked, at + after + rtt / 2);
        }
        self.reply(id, at, reply);
    }

    fn reply(&mut self, id: usize, at: u64, reply: Reply) {
        let sock = self.sockets.get_mut(&id).expect("a socket");
        let peer = &self.peers[&sock.address];
        let (half, idle_close) = (peer.rtt / 2, peer.idle_close);
        let last = reply.pieces.last().map_or(at, |(after, _)| at + after);
        let closes = reply.ending.is_some();
        sock.idle_since = if closes { u64::MAX } else { last };
        for (after, bytes) in reply.pieces {
            self.happens(at + after + half, Happening::Arrive(id, bytes));
        }
        if let Some(ending) = reply.ending {
            self.happens(last + half + 1, Happening::Ended(id, ending));
        } else if let Some(piece) = reply.endless {
            self.happens(last + half + 1, Happening::Endless(id, piece));
        } else if let Some(after) = idle_close {
            self.happens(last + after, Happening::IdleClose(id, last));
        }
    }

    /// A peer that never stops sending fills the window again.
    fn refill(&mut self, id: usize, at: u64) {
        let Some(sock) = self.sockets.get(&id) else { return };
        let Some(piece) = sock.endless.clone() else { return };
        let mut unread: usize = sock.inbox.iter().map(|(_, bytes)| bytes.len()).sum();
        while unread < WINDOW {
            unread += piece.len();
            self.happen(at, Happening::Arrive(id, piece.to_vec()));
        }
    }

    /// A socket that was closed is forgotten when nothing of it is under way.
    fn forget(&mut self, id: usize) {
        if self.sockets.get(&id).is_some_and(|sock| sock.closed && sock.unsent == 0) {
            self.sockets.remove(&id);
        }
    }

    pub(super) fn connect(&mut self, to: SocketAddr, token: usize) -> io::Result<usize> {
        if self.ports == 0 {
            return Err(io::Error::from_raw_os_error(nix::libc::EADDRNOTAVAIL));
        }
        self.ports -= 1;
        let sock = Sock {
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
        };
        self.next_socket += 1;
        let id = self.next_socket;
        self.sockets.insert(id, sock);
        let open = self.seen.open.entry(to).or_default();
        *open += 1;
        let max = self.seen.open_max.entry(to).or_default();
        *max = (*max).max(*open);
        let answer = match self.peers.get(&to) {
            Some(peer) => peer.accepts(self.now, &mut self.chance),
            None => None,
        };
        match answer {
            Some((after, true)) => {
                self.happens(self.now + after, Happening::Connected(id));
                if self.peers[&to].answers_first {
                    let at = self.now + after + 300_000;
                    self.happens(at, Happening::Arrive(id, reply_bytes(200, "{}")));
                }
            }
            Some((after, false)) => self.happens(self.now + after, Happening::Refused(id)),
            // Nothing ever comes back.
            None => {}
        }
        Ok(id)
    }

    pub(super) fn close(&mut self, id: usize) {
        let sock = self.sockets.get_mut(&id).expect("a socket");
        sock.closed = true;
        sock.report = Readiness::NONE;
        *self.seen.open.entry(sock.address).or_default() -= 1;
        self.reported.retain(|reported| *reported != id);
        self.forget(id);
    }

    pub(super) fn read(
        &mut self,
        id: usize,
        buffer: &mut [u8],
    ) -> io::Result<(usize, Option<Nanos>)> {
        self.settle();
        let sock = self.sockets.get_mut(&id).expect("a socket");
        let mut n = 0;
        let mut stamp = None;
        while n < buffer.len()
            && let Some((at, bytes)) = sock.inbox.front_mut()
        {
            let taken = bytes.len().min(buffer.len() - n);
            buffer[n..n + taken].copy_from_slice(&bytes[..taken]);
            n += taken;
            stamp = Some(Nanos(*at));
            if taken == bytes.len() {
                sock.inbox.pop_front();
            } else {
                bytes.drain(..taken);
            }
        }
        let ended = sock.ended;
        self.refill(id, self.now);
        self.pass(if n > CHEAP { BYTE * n as u64 } else { 0 });
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
        let sock = self.sockets.get_mut(&id).expect("a socket");
        if sock.ended == Some(Ending::Reset) {
            return Err(io::Error::from_raw_os_error(nix::libc::ECONNRESET));
        }
        let taken = bytes.len().min(room - sock.unsent.min(room));
        if taken < bytes.len() {
            sock.wants_room = true;
        }
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        sock.unsent += taken;
        let rtt = self.peers[&sock.address].rtt;
        sock.reach_at = (now + rtt / 2).max(sock.reach_at + 1);
        let at = sock.reach_at;
        if let Some(first) = super::peer::request_line(bytes) {
            self.seen.sent.entry(first).or_insert(now);
        }
        self.happens(at, Happening::Reach(id, bytes[..taken].to_vec()));
        Ok(taken)
    }

    pub(super) fn wait(&mut self, wait: Wait, ready: &mut Vec<(usize, Readiness)>) {
        self.pass(POLL);
        self.settle();
        if let Wait::Until(at) = wait {
            while self.reported.is_empty() && self.messages.is_empty() && self.now < at.0 {
                let next = self.timeline.peek().map_or(u64::MAX, |Reverse((next, _))| *next);
                let to = next.min(at.0);
                assert!(to < u64::MAX, "nothing would ever wake the worker");
                let late = self.chance.below(WAKE_MAX);
                self.pass(to.saturating_sub(self.now) + late);
                self.settle();
            }
        }
        while ready.len() < READY_MAX
            && let Some(id) = self.reported.pop_front()
        {
            let sock = self.sockets.get_mut(&id).expect("a socket");
            ready.push((sock.token, std::mem::take(&mut sock.report)));
        }
    }

    pub(super) fn message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    pub(super) fn resolve(&mut self, query: Query) {
        let after = 100_000 + self.chance.below(20_000_000);
        let addresses = self
            .lookup(&query.host)
            .map(|list| list.into_iter().map(|at| SocketAddr::new(at.ip(), query.port)).collect());
        let resolved = Resolved { pool: query.pool, addresses };
        self.happens(self.now + after, Happening::Resolved(resolved));
    }

    /// Looks at the clock.
    pub(super) fn now(&mut self) -> Nanos {
        self.pass(self.look);
        Nanos(self.now)
    }

    pub(super) fn is_connected(&mut self, id: usize) -> io::Result<bool> {
        self.settle();
        let sock = &self.sockets[&id];
        if sock.refused {
            return Err(io::Error::from_raw_os_error(nix::libc::ECONNREFUSED));
        }
        Ok(sock.connected)
    }
}
