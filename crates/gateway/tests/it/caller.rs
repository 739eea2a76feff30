//! A caller that writes bytes and reads answers, and knows nothing that it is not told.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than anything here takes; what waits this long would wait for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer as it came.
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

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let pairs = lines.filter_map(|line| line.split_once(": "));
        pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// Whether it says that the connection ends.
    pub(crate) fn closes(&self) -> bool {
        self.field("connection") == Some("close")
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
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Caller { socket, read: Vec::new() }
    }

    /// Where it is connected to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.peer_addr().unwrap()
    }

    /// Writes bytes; that nobody reads them is no fault of the caller's.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.socket.write_all(bytes.as_ref());
    }

    /// Says that no more comes.
    pub(crate) fn finish(&mut self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// Ends the connection in a way that the other side notices as a fault.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads an answer to anything but HEAD.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer(true).unwrap()
    }

    /// Reads an answer to HEAD: without a body.
    pub(crate) fn head(&mut self) -> Answer {
        self.try_answer(false).unwrap()
    }

    /// Reads an answer; `None` when the connection ends before it does.
    pub(crate) fn try_answer(&mut self, bodied: bool) -> Option<Answer> {
        let end = loop {
            match self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.more()?,
            }
        };
        let head = String::from_utf8(self.read[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.field("content-length").filter(|_| bodied);
        let length: usize = length.map_or(0, |value| value.parse().unwrap());
        while self.read.len() < end + length {
            self.more()?;
        }
        answer.body = self.read[end..end + length].to_vec();
        self.read.drain(..end + length);
        Some(answer)
    }

    /// Waits until some of an answer has come.
    pub(crate) fn wait_for_some(&mut self) {
        self.more().unwrap();
    }

    /// Reads up to `most` bytes, keeps none of them, and returns how many there were.
    pub(crate) fn read_slowly(&mut self, most: usize) -> usize {
        let mut buffer = vec![0; most];
        self.socket.read(&mut buffer).unwrap()
    }

    /// Waits for the connection's end and gives what came before it.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.more().is_some() {}
        std::mem::take(&mut self.read)
    }

    /// Whether the connection ends with nothing more said.
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
                panic!("nothing came, and no end: the gateway hangs")
            }
            Err(_) => None,
        }
    }

    /// Posts a body to a target, with fields as whole lines.
    pub(crate) fn post(&mut self, target: &str, fields: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send(request("POST", target, fields, body.as_ref()));
        self.answer()
    }

    /// Asks without a body.
    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: gateway\r\n\r\n"));
        self.answer()
    }
}

/// A request with a length.
pub(crate) fn request(method: &str, target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: gateway\r\n{fields}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A JSON-RPC call.
pub(crate) fn call(id: &str, method: &str, params: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}")
}

/// The answer with a result.
pub(crate) fn result(id: &str, result: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}")
}
