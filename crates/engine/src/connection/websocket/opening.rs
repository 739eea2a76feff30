//! The opening handshake: one request, and an answer with status 101.

use crate::connection::Failure;
use crate::http1::HEAD_MAX;
use plimsoll_measure::Fault;
use plimsoll_measure::rng::Key;
use plimsoll_websocket::{accept_of, check_compression, key_of};
use std::io;

/// What opens connections to a URL.
#[derive(Debug)]
pub(crate) struct Opening {
    /// The head of the request, without the key and the final empty line.
    pub(crate) head: Vec<u8>,
    /// Maximum length of a message, in bytes.
    pub(crate) message_max: u64,
    /// Whether the request offers compression.
    pub(crate) compression: bool,
}

/// A handshake in progress.
pub(super) struct Upgrade {
    /// The accept key that the peer must send.
    accept: String,
    /// Whether compression was offered.
    pub(super) compression: bool,
    /// The answer so far.
    head: Vec<u8>,
}

impl Upgrade {
    /// Appends the request.
    pub(super) fn begin(opening: &Opening, random: Key, out: &mut Vec<u8>) -> Upgrade {
        let (high, low) = (random.with(0).bits(), random.with(0).with(0).bits());
        let random = u128::from(high) << 64 | u128::from(low);
        let key = key_of(random.to_ne_bytes());
        out.extend_from_slice(&opening.head);
        out.extend_from_slice(format!("Sec-WebSocket-Key: {key}\r\n\r\n").as_bytes());
        Upgrade { accept: accept_of(&key), compression: opening.compression, head: Vec::new() }
    }

    /// Reads the answer from the input; once it is complete, returns whether compression was agreed on.
    ///
    /// # Errors
    /// If the peer does not open a WebSocket.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Result<Option<bool>, Failure> {
        let seen = self.head.len().saturating_sub(3);
        let before = self.head.len();
        self.head.extend_from_slice(input);
        let Some(end) = memchr::memmem::find(&self.head[seen..], b"\r\n\r\n") else {
            *input = &[];
            return if self.head.len() > HEAD_MAX {
                Err(Failure::fault(Fault::HeadTooLong))
            } else {
                Ok(None)
            };
        };
        let end = seen + end + 4;
        *input = &input[end - before..];
        self.check(&self.head[..end]).map(Some)
    }

    fn check(&self, head: &[u8]) -> Result<bool, Failure> {
        let refused = |fault, why: String| Failure {
            error: Some(io::Error::other(why)),
            ..Failure::fault(fault)
        };
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split(' ').next());
        match status.filter(|status| status.len() == 3) {
            Some("101") => {}
            Some(status) => {
                return Err(refused(Fault::NotUpgraded, format!("status {status}")));
            }
            None => return Err(Failure::fault(Fault::NotHttp)),
        }
        let fields = lines.filter_map(|line| line.split_once(':'));
        let values = |name: &'static str| {
            let own = fields.clone().filter(move |(own, _)| own.trim().eq_ignore_ascii_case(name));
            own.map(|(_, value)| value.trim())
        };
        let value = |name| values(name).next();
        if !value("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
            let why = "status 101 without upgrade: websocket";
            return Err(refused(Fault::NotUpgraded, why.into()));
        }
        if value("sec-websocket-accept") != Some(&*self.accept) {
            return Err(Failure::fault(Fault::BadAccept));
        }
        let extensions = values("sec-websocket-extensions");
        check_compression(extensions, self.compression)
            .map_err(|bad| refused(Fault::NotUpgraded, bad.to_string()))
    }
}
