//! Sockets that are closed in good order: what was written last must reach the peer.
//!
//! If bytes of the peer are unread when a socket is closed, or arrive afterwards, the kernel answers with a reset, and
//! the peer's kernel then discards what the peer has not read yet: the last call and the close frame of a
//! subscription whose notifications still come. So the writing side is shut down, what arrives is
//! discarded, and the socket is closed once the peer has closed its side.
//!
//! # Bounds
//! A socket waits for at most [`LINGER`], and discards at most [`DISCARDED_MAX`] bytes; at most [`LINGERING_MAX`]
//! sockets wait: beyond these, the one that has waited longest is closed at once, and counted. The peer may then see
//! a reset, as it would without waiting. Nothing that is measured depends on it: the exchanges have ended before.

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use plimsoll_measure::Nanos;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;

/// How long a socket waits for its peer: several round trips, and short enough for the end of a run.
const LINGER: Nanos = Nanos::from_secs(1);
/// How many bytes of a socket are discarded: more than a few notifications, and read in less than 0.1 ms.
const DISCARDED_MAX: usize = 256 << 10;
/// How many sockets wait: all of a run with 10,000 subscriptions.
const LINGERING_MAX: usize = 16 << 10;
/// Bytes per read.
const READ: usize = 16 << 10;
/// The first token of these sockets; those of connections are below.
const FIRST: usize = 1 << 48;

/// A socket whose writing side is shut down.
struct Draining {
    stream: TcpStream,
    until: Nanos,
    /// How many more bytes are discarded.
    left: usize,
}

/// The sockets of a worker that wait for their peers.
pub(super) struct Lingering {
    /// In the order of their deadlines; `None` if it was closed.
    sockets: VecDeque<Option<Draining>>,
    /// The number of the first of them; the token is made of it.
    first: usize,
    /// How many wait, at most.
    max: usize,
    buffer: Vec<u8>,
}

impl Default for Lingering {
    fn default() -> Lingering {
        Lingering { sockets: VecDeque::new(), first: 0, max: LINGERING_MAX, buffer: Vec::new() }
    }
}

impl Lingering {
    /// Whether a token is that of a socket here.
    #[inline]
    pub(super) fn is_own(token: usize) -> bool {
        token >= FIRST
    }

    /// Closes a socket in good order. Returns false if another had to be closed at once for it.
    pub(super) fn add(&mut self, mut stream: TcpStream, registry: &Registry, now: Nanos) -> bool {
        let token = FIRST + self.first + self.sockets.len();
        let is_done = stream.shutdown(Shutdown::Write).is_err()
            || registry.reregister(&mut stream, Token(token), Interest::READABLE).is_err();
        let mut own = Draining { stream, until: now + LINGER, left: DISCARDED_MAX };
        // The poll reports only what arrives from now on.
        if is_done || own.drain(&mut self.buffer) {
            return true;
        }
        self.sockets.push_back(Some(own));
        self.close_due(Nanos::ZERO);
        let is_full = self.sockets.len() > self.max;
        if is_full {
            self.forget_first();
        }
        !is_full
    }

    /// The poll has reported a socket.
    pub(super) fn on_ready(&mut self, token: usize) {
        let place = token.checked_sub(FIRST + self.first);
        if let Some(own) = place.and_then(|place| self.sockets.get_mut(place)) {
            own.take_if(|own| own.drain(&mut self.buffer));
        }
    }

    /// When the next socket is to be closed; `None` if there is none.
    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.sockets.front()?.as_ref().map_or(Some(Nanos::ZERO), |own| Some(own.until))
    }

    /// Closes the sockets that have waited for long enough.
    pub(super) fn close_due(&mut self, now: Nanos) {
        while self.next_due().is_some_and(|at| at <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        self.sockets.pop_front();
        self.first += 1;
    }
}

impl Draining {
    /// Discards what has arrived; returns whether the socket is to be closed.
    fn drain(&mut self, buffer: &mut Vec<u8>) -> bool {
        buffer.resize(READ, 0);
        while self.left > 0 {
            match self.stream.read(buffer) {
                Ok(0) => return true,
                Ok(n) => self.left = self.left.saturating_sub(n),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::io::Write;
    use std::net::TcpListener;
    use std::time::Duration;

    struct Pair {
        poll: Poll,
        lingering: Lingering,
        peer: std::net::TcpStream,
    }

    /// A socket that is closed after it has written `goodbye`, with this many bytes unread.
    fn pair(unread: usize) -> Pair {
        let poll = Poll::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        own.set_nonblocking(true).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let mut stream = TcpStream::from_std(own);
        poll.registry().register(&mut stream, Token(0), Interest::READABLE).unwrap();
        peer.write_all(&vec![0; unread]).unwrap();
        stream.write_all(b"goodbye").unwrap();
        let mut lingering = Lingering::default();
        assert!(lingering.add(stream, poll.registry(), Nanos::ZERO));
        Pair { poll, lingering, peer }
    }

    impl Pair {
        /// Handles what the poll reports until no socket waits.
        fn finish(&mut self) {
            let mut events = Events::with_capacity(8);
            while self.lingering.next_due().is_some_and(|at| at > Nanos::ZERO) {
                self.poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
                assert!(!events.is_empty(), "the peer's end is reported");
                events.iter().for_each(|event| self.lingering.on_ready(event.token().0));
            }
            self.lingering.close_due(Nanos::ZERO);
            assert_eq!(self.lingering.next_due(), None);
        }
    }

    /// The peer reads what was written last although it has sent more meanwhile, and then the end.
    #[test]
    fn a_peer_that_still_sends_reads_everything() {
        let mut pair = pair(5_000);
        pair.peer.write_all(&[0; 5_000]).unwrap();
        let mut read = Vec::new();
        pair.peer.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"goodbye");
        pair.peer.write_all(b"more").unwrap();
        assert!(pair.lingering.next_due().is_some());
        pair.peer.shutdown(Shutdown::Both).unwrap();
        pair.finish();
    }

    #[test]
    fn the_number_of_sockets_is_bounded() {
        let mut own = pair(0);
        own.lingering.max = 2;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let add = |lingering: &mut Lingering| {
            let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            stream.set_nonblocking(true).unwrap();
            let mut stream = TcpStream::from_std(stream);
            let registry = own.poll.registry();
            registry.register(&mut stream, Token(0), Interest::READABLE).unwrap();
            lingering.add(stream, registry, Nanos(1))
        };
        assert!(add(&mut own.lingering));
        assert!(!add(&mut own.lingering), "the first is closed");
        assert_eq!(own.lingering.next_due(), Some(Nanos(LINGER.0 + 1)));
        assert_eq!(own.lingering.sockets.len(), 2);
        let mut read = Vec::new();
        own.peer.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"goodbye");
    }

    #[test]
    fn time_and_bytes_are_bounded() {
        let mut own = pair(0);
        assert_eq!(own.lingering.next_due(), Some(LINGER));
        own.lingering.close_due(Nanos(LINGER.0 - 1));
        assert!(own.lingering.next_due().is_some());
        own.lingering.close_due(LINGER);
        assert_eq!(own.lingering.next_due(), None);
        // A token of a socket that was closed.
        own.lingering.on_ready(FIRST);
        own.lingering.on_ready(FIRST + 5);
        // A peer that never stops sending: it sees a reset.
        let mut flood = pair(0);
        let mut peer = flood.peer.try_clone().unwrap();
        let writer = std::thread::spawn(move || while peer.write_all(&[0; 64 << 10]).is_ok() {});
        flood.finish();
        writer.join().unwrap();
    }
}
