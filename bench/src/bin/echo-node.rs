//! The node behind every proxy in the comparison: one thread, epoll, immediate answers.
//!
//! The gateway assigns its own ids and requires them in the answers, which a server that answers from
//! its configuration cannot provide. This one extracts the id from the body and answers with it. It
//! parses nothing else and has no chain: every result is `0x1b4`, except `0x1` for `eth_chainId`. Usage: `echo-node ADDR`; it runs until killed.

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use plimsoll_bench::request_body;
use slab::Slab;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

const LISTENER: Token = Token(usize::MAX);
/// Limit of unparsed bytes per connection; beyond it the connection is closed.
const REQUEST_BYTES_MAX: usize = 4096;
const EVENTS_MAX: usize = 1024;

struct Session {
    stream: TcpStream,
    input: [u8; REQUEST_BYTES_MAX],
    filled: usize,
}

impl Session {
    /// Reads available bytes, and answers each complete request.
    fn serve(&mut self, answer: &mut Vec<u8>) -> io::Result<()> {
        loop {
            match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.filled += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            while let Some(body) = request_body(&self.input[..self.filled])? {
                let end = body.end;
                write_answer(&self.input[body], answer);
                if self.stream.write(answer)? != answer.len() {
                    // A client that reads its answers never fills the socket's buffer with them.
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.input.copy_within(end..self.filled, 0);
                self.filled -= end;
            }
        }
    }
}

/// Writes the complete response to a JSON-RPC call.
fn write_answer(call: &[u8], answer: &mut Vec<u8>) {
    let id = id_of(call).unwrap_or(b"null");
    let result = if find(call, b"\"eth_chainId\"").is_some() { "0x1" } else { "0x1b4" };
    let head = "{\"jsonrpc\":\"2.0\",\"id\":";
    let tail = format!(",\"result\":\"{result}\"}}");
    let len = head.len() + id.len() + tail.len();
    answer.clear();
    // Writing to a vector does not fail.
    let _ = write!(
        answer,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n{head}"
    );
    answer.extend_from_slice(id);
    answer.extend_from_slice(tail.as_bytes());
}

/// The value of the first member named `id`: a number, or a string without escapes.
fn id_of(call: &[u8]) -> Option<&[u8]> {
    let name = b"\"id\":";
    let value = call[find(call, name)? + name.len()..].trim_ascii_start();
    let quoted = value.first() == Some(&b'"');
    let len = if quoted {
        value[1..].iter().position(|byte| *byte == b'"')? + 2
    } else {
        value.iter().position(|byte| matches!(byte, b',' | b'}' | b' '))?
    };
    Some(&value[..len])
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

fn accept(listener: &TcpListener, poll: &Poll, sessions: &mut Slab<Session>) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // The client disconnected while it was in the backlog.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        let input = [0; REQUEST_BYTES_MAX];
        let index = sessions.insert(Session { stream, input, filled: 0 });
        let stream = &mut sessions[index].stream;
        poll.registry().register(stream, Token(index), Interest::READABLE)?;
    }
}

fn run(addr: SocketAddr) -> io::Result<()> {
    let mut listener = TcpListener::from_std(plimsoll_bench::listen(addr)?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(EVENTS_MAX);
    let mut sessions = Slab::new();
    let mut answer = Vec::new();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                LISTENER => accept(&listener, &poll, &mut sessions)?,
                Token(index) => {
                    if sessions[index].serve(&mut answer).is_err() {
                        sessions.remove(index);
                    }
                }
            }
        }
    }
}

fn main() -> ExitCode {
    let Some(addr) = std::env::args().nth(1).and_then(|arg| arg.parse().ok()) else {
        eprintln!("usage: echo-node ADDR");
        return ExitCode::from(2);
    };
    match run(addr) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo-node: {addr}: {error}");
            ExitCode::FAILURE
        }
    }
}
