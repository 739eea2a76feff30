//! A server with known latency: it answers at once, but holds every answer for part of each period.
//!
//! At a constant rate over whole periods, a share `hold / period` of the arrivals falls into a hold,
//! and their latency is spread evenly over 0 … hold: with 1 s in every 10 s the 95th percentile is
//! 500 ms, the 99th 900 ms, the 99.9th 990 ms. A generator that reports less omits latency that users
//! would see. The hold is in the middle of the period, and periods start with the first connection
//! after a time without any, so that a run of n periods meets n whole holds.
//!
//! During a hold connections are accepted and requests read; they are answered afterwards in order of
//! arrival. Usage: `stall-server ADDR [PERIOD_SECONDS HOLD_SECONDS]`; it runs until killed.

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use plimsoll_bench::request_body;
use slab::Slab;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: stall-server ADDR [PERIOD_SECONDS HOLD_SECONDS], hold below period";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
    Content-Length: 43\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"0x15f0a\"}";
const LISTENER: Token = Token(usize::MAX);
/// Limit of unparsed bytes per connection; beyond it the connection is closed.
const REQUEST_BYTES_MAX: usize = 4096;
const EVENTS_MAX: usize = 1024;

/// The times at which answers are held.
struct Timetable {
    period: Duration,
    hold: Duration,
    origin: Instant,
}

impl Timetable {
    /// How much longer answers are held at `now`; `None` if they are not.
    fn held_for(&self, now: Instant) -> Option<Duration> {
        let phase = now.saturating_duration_since(self.origin).as_nanos() % self.period.as_nanos();
        let begin = ((self.period - self.hold) / 2).as_nanos();
        let end = begin + self.hold.as_nanos();
        (begin..end).contains(&phase).then(|| Duration::from_nanos((end - phase) as u64))
    }
}

struct Session {
    stream: TcpStream,
    input: [u8; REQUEST_BYTES_MAX],
    filled: usize,
}

impl Session {
    /// Reads available bytes; returns the number of complete requests.
    fn receive(&mut self) -> io::Result<usize> {
        let mut requests = 0;
        loop {
            match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.filled += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(requests),
                Err(error) => return Err(error),
            }
            while let Some(body) = request_body(&self.input[..self.filled])? {
                requests += 1;
                self.input.copy_within(body.end..self.filled, 0);
                self.filled -= body.end;
            }
        }
    }

    fn answer(&mut self) -> io::Result<()> {
        match self.stream.write(ANSWER)? {
            n if n == ANSWER.len() => Ok(()),
            // A client that reads its answers never fills the socket's buffer with them.
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    sessions: Slab<Session>,
    /// One entry per pending answer, in order; its session may have closed meanwhile.
    held: VecDeque<usize>,
    timetable: Timetable,
}

impl Server {
    fn listen(addr: SocketAddr, period: Duration, hold: Duration) -> io::Result<Server> {
        let mut listener = TcpListener::from_std(plimsoll_bench::listen(addr)?);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let timetable = Timetable { period, hold, origin: Instant::now() };
        Ok(Server { poll, listener, sessions: Slab::new(), held: VecDeque::new(), timetable })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            match self.poll.poll(&mut events, self.wait()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(index) => self.receive(index),
                }
            }
            if self.timetable.held_for(Instant::now()).is_none() {
                while let Some(index) = self.held.pop_front() {
                    self.or_close(index, Session::answer);
                }
            }
        }
    }

    /// How long to wait for events; no limit if no answer is pending.
    fn wait(&self) -> Option<Duration> {
        if self.held.is_empty() {
            return None;
        }
        let left = self.timetable.held_for(Instant::now()).unwrap_or(Duration::ZERO);
        // epoll has millisecond resolution; the rest of a hold is spent spinning.
        Some(Duration::from_millis(left.as_millis() as u64))
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client disconnected while it was in the backlog.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            if self.sessions.is_empty() {
                self.timetable.origin = Instant::now();
                self.held.clear();
            }
            stream.set_nodelay(true)?;
            let input = [0; REQUEST_BYTES_MAX];
            let index = self.sessions.insert(Session { stream, input, filled: 0 });
            let stream = &mut self.sessions[index].stream;
            self.poll.registry().register(stream, Token(index), Interest::READABLE)?;
        }
    }

    fn receive(&mut self, index: usize) {
        let requests = self.or_close(index, Session::receive).unwrap_or(0);
        self.held.extend(std::iter::repeat_n(index, requests));
    }

    /// Applies `act` to a session, and closes the session if that fails.
    fn or_close<T>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Session) -> io::Result<T>,
    ) -> Option<T> {
        let done = act(self.sessions.get_mut(index)?);
        done.map_err(|_| {
            self.sessions.remove(index);
            // A later session may reuse this index, and has no pending answers.
            self.held.retain(|held| *held != index);
        })
        .ok()
    }
}

fn arguments() -> Option<(SocketAddr, Duration, Duration)> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (addr, period, hold) = match args.as_slice() {
        [addr] => (addr, 10.0, 1.0),
        [addr, period, hold] => (addr, period.parse().ok()?, hold.parse().ok()?),
        _ => return None,
    };
    let period = Duration::try_from_secs_f64(period).ok()?;
    let hold = Duration::try_from_secs_f64(hold).ok()?;
    (hold < period).then_some((addr.parse().ok()?, period, hold))
}

fn main() -> ExitCode {
    let Some((addr, period, hold)) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match Server::listen(addr, period, hold).and_then(|mut server| server.serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stall-server: {addr}: {error}");
            ExitCode::FAILURE
        }
    }
}
