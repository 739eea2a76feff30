//! The lower bound for a load generator: one thread that writes a request and reads its answer in a loop.
//!
//! It records nothing, times nothing and checks only the status, so its cost is that of the kernel and
//! of parsing response heads. No load generator can cost less. Usage: `bare-loop ADDR CONNECTIONS SECONDS`; one line of JSON on stdout.

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const BODY: &str = r#"{"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":1}"#;
const USAGE: &str = "usage: bare-loop ADDR CONNECTIONS SECONDS";
/// Answers in this benchmark have 200 bytes; one that does not fit is an error.
const ANSWER_BYTES_MAX: usize = 4096;
/// Events per poll; 64 connections never fill it.
const EVENTS_MAX: usize = 1024;

struct Connection {
    stream: TcpStream,
    input: [u8; ANSWER_BYTES_MAX],
    filled: usize,
}

impl Connection {
    fn open(addr: &str) -> io::Result<Connection> {
        let stream = std::net::TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream);
        Ok(Connection { stream, input: [0; ANSWER_BYTES_MAX], filled: 0 })
    }

    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        // The socket's buffer is empty, because the answer to the previous request has been read.
        match self.stream.write(request)? {
            n if n == request.len() => Ok(()),
            n => Err(io::Error::other(format!("only {n} bytes of a request were accepted"))),
        }
    }

    /// Reads until the answer is complete (true) or the socket is empty (false).
    fn receive(&mut self) -> io::Result<bool> {
        loop {
            match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => {
                    return Err(io::Error::other(
                        "the connection closed, or an answer is too long",
                    ));
                }
                Ok(n) => self.filled += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if answer_len(&self.input[..self.filled])?.is_some_and(|len| len == self.filled) {
                self.filled = 0;
                return Ok(true);
            }
        }
    }
}

/// The length of the answer; `None` if its head is incomplete.
fn answer_len(bytes: &[u8]) -> io::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_len) =
        response.parse(bytes).map_err(|error| io::Error::other(format!("not HTTP: {error}")))?
    else {
        return Ok(None);
    };
    if response.code != Some(200) {
        return Err(io::Error::other(format!("status {:?}", response.code)));
    }
    let body_len = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok())
        .ok_or_else(|| io::Error::other("an answer without content-length"))?;
    Ok(Some(head_len + body_len))
}

fn request(addr: &str) -> Vec<u8> {
    format!(
        "POST / HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
    .into_bytes()
}

/// Runs the loop for `span`; returns the number of completed exchanges.
fn exchange(addr: &str, connections: usize, span: Duration) -> io::Result<u64> {
    let request = request(addr);
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(EVENTS_MAX);
    let mut open =
        (0..connections).map(|_| Connection::open(addr)).collect::<io::Result<Vec<_>>>()?;
    for (index, connection) in open.iter_mut().enumerate() {
        poll.registry().register(&mut connection.stream, Token(index), Interest::READABLE)?;
        connection.send(&request)?;
    }
    let mut exchanges = 0;
    let end = Instant::now() + span;
    while Instant::now() < end {
        match poll.poll(&mut events, Some(Duration::from_millis(100))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let connection = &mut open[event.token().0];
            if connection.receive()? {
                exchanges += 1;
                connection.send(&request)?;
            }
        }
    }
    Ok(exchanges)
}

fn run(addr: &str, connections: usize, seconds: f64) -> io::Result<()> {
    let started = Instant::now();
    let exchanges = exchange(addr, connections, Duration::from_secs_f64(seconds))?;
    let seconds = started.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let each = |micros: i64| micros as f64 / exchanges.max(1) as f64;
    let user = usage.user_time().num_microseconds();
    let cpu = user + usage.system_time().num_microseconds();
    println!(
        "{{\"exchanges\":{exchanges},\"seconds\":{seconds:.3},\"cpu_us_per_exchange\":{:.3},\
         \"user_us_per_exchange\":{:.3}}}",
        each(cpu),
        each(user)
    );
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addr, connections, seconds] = args.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let (Ok(connections), Ok(seconds)) = (connections.parse(), seconds.parse()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(addr, connections, seconds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare-loop: {error}");
            ExitCode::FAILURE
        }
    }
}
