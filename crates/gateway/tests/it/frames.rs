//! An HTTP/2 client that writes and reads individual frames, as a hostile caller would.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// Far longer than any test takes.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

pub(crate) struct FrameClient {
    socket: TcpStream,
}

impl FrameClient {
    /// Connects and sends these settings: pairs of identifier and value.
    pub(crate) fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> FrameClient {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket.set_write_timeout(Some(TIMEOUT)).unwrap();
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut frames = FrameClient { socket };
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        assert!(frames.send(SETTINGS, 0, 0, &payload));
        frames
    }

    /// Sends a frame; false if the gateway has closed the connection.
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = (payload.len() as u32).to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.socket.write_all(&[&head, payload].concat()).is_ok()
    }

    /// Sends the headers of a call to `/v1` of service `eth`.
    pub(crate) fn send_headers(&mut self, stream: u32, flags: u8) -> bool {
        self.send(HEADERS, flags, stream, &head())
    }

    /// Sends a complete call.
    pub(crate) fn call(&mut self, stream: u32, body: &str) -> bool {
        self.send_headers(stream, END_HEADERS)
            && self.send(DATA, END_STREAM, stream, body.as_bytes())
    }

    /// Reads the next frame; `None` if the gateway has closed the connection.
    pub(crate) fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.socket.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("no frame within the timeout")
            }
            Err(_) => return None,
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.socket.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes(stream);
        Some(Frame { kind, flags, stream, payload })
    }

    /// Reads up to the next frame of this kind; `None` if the connection closed first.
    pub(crate) fn read_until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// A second handle to the connection, to read while the first writes.
    pub(crate) fn reader(&self) -> FrameClient {
        FrameClient { socket: self.socket.try_clone().unwrap() }
    }
}

/// `POST http://h/v1`, service `eth`, in HPACK without Huffman codes.
fn head() -> Vec<u8> {
    let literal =
        |index: &[u8], value: &str| [index, &[value.len() as u8], value.as_bytes()].concat();
    let name = "target-service-id";
    let named = [&[0, name.len() as u8], name.as_bytes()].concat();
    // Static entries 3 (:method POST) and 6 (:scheme http); names 4 (:path) and 1 (:authority).
    [vec![0x83, 0x86], literal(&[4], "/v1"), literal(&[1], "h"), literal(&named, "eth")].concat()
}
