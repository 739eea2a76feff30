//! A minimal HTTP/1.1 client that writes raw bytes and parses answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Far longer than any test takes: reaching it means that the gateway hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An answer as received.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let pairs = lines.filter_map(|line| line.split_once(": "));
        pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// Whether it announces that the connection will close.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }

    /// `data.kind` of a JSON-RPC error.
    pub(crate) fn kind(&self) -> &str {
        self.member("\"kind\":\"", '"')
    }

    /// `code` of a JSON-RPC error.
    pub(crate) fn code(&self) -> i64 {
        self.member("\"code\":", ',').parse().unwrap_or(0)
    }

    fn member(&self, before: &str, end: char) -> &str {
        let rest = self.text().split_once(before).map_or("", |(_, rest)| rest);
        rest.split(end).next().unwrap_or_default()
    }
}

/// A connection to the gateway.
pub(crate) struct Caller {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Caller {
    pub(crate) fn connect(address: SocketAddr) -> Caller {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket.set_write_timeout(Some(TIMEOUT)).unwrap();
        Caller { socket, read: Vec::new() }
    }

    /// The peer's address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.peer_addr().unwrap()
    }

    /// Writes bytes; errors are ignored, because the gateway may already have closed the connection.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.socket.write_all(bytes.as_ref());
    }

    /// Shuts down the write side.
    pub(crate) fn finish(&mut self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes the connection with a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads an answer to any request but HEAD.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer(true).unwrap()
    }

    /// Reads an answer without a body, such as one to HEAD.
    pub(crate) fn head(&mut self) -> Answer {
        self.try_answer(false).unwrap()
    }

    /// Reads an answer; `None` if the connection closes before it is complete.
    pub(crate) fn try_answer(&mut self, has_body: bool) -> Option<Answer> {
        let end = loop {
            match self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.more()?,
            }
        };
        let head = String::from_utf8(self.read[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.header("content-length").filter(|_| has_body);
        let length: usize = length.map_or(0, |value| value.parse().unwrap());
        while self.read.len() < end + length {
            self.more()?;
        }
        answer.body = self.read[end..end + length].to_vec();
        self.read.drain(..end + length);
        Some(answer)
    }

    /// Waits until part of an answer has arrived.
    pub(crate) fn wait_for_data(&mut self) {
        self.more().unwrap();
    }

    /// Reads and discards up to `max` bytes; returns how many were read.
    pub(crate) fn read_slowly(&mut self, max: usize) -> usize {
        let mut buffer = vec![0; max];
        self.socket.read(&mut buffer).unwrap()
    }

    /// Reads until the connection closes and returns the remaining bytes.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.more().is_some() {}
        std::mem::take(&mut self.read)
    }

    /// Waits until the connection closes; whether no further bytes arrived.
    pub(crate) fn ends(&mut self) -> bool {
        self.rest().is_empty()
    }

    fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 16 << 10];
        match self.socket.read(&mut buffer) {
            Ok(0) => None,
            Ok(n) => {
                self.read.extend_from_slice(&buffer[..n]);
                Some(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("no data and no close within the timeout: the gateway hangs")
            }
            Err(_) => None,
        }
    }

    /// Posts a body; `headers` are complete lines, including CRLF.
    pub(crate) fn post(&mut self, target: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send(request("POST", target, headers, body.as_ref()));
        self.answer()
    }

    /// Sends a GET request.
    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: gateway\r\n\r\n"));
        self.answer()
    }
}

/// The bytes of a request with a content length.
pub(crate) fn request(method: &str, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: gateway\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The JSON of a call.
pub(crate) fn call(id: &str, method: &str, params: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}")
}

/// The JSON of an answer with a result.
pub(crate) fn result(id: &str, result: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}")
}
