//! What answers in a simulation: servers that do what their script says, on bytes.

use plimsoll_measure::rng::Sequence;
use std::rc::Rc;

/// How a connection ends from the peer's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Close,
    Reset,
}

/// What becomes of a connection attempt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Accept {
    /// Answered, a share of them (in thousandths) only when the SYN was sent again after a second.
    Yes {
        again: u64,
    },
    Refuse,
    /// Nothing ever comes back.
    BlackHole,
    /// Accepted until an instant, refused from then on.
    Until(u64),
}

/// What is wrong with some of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// Reset in place of an answer.
    Reset,
    /// Half an answer, and the end.
    Truncate,
    /// Not HTTP.
    Garbage,
    /// Not answered at all.
    Silence,
    RpcError,
    Status500,
    /// Tiny chunks with long extensions, without end.
    Endless,
    /// Half an answer, and then nothing.
    HalfBody,
    /// The answer, and bytes that belong to nothing.
    Stray,
}

/// A server.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) accept: Accept,
    /// There and back, nanoseconds.
    pub(super) rtt: u64,
    /// How long an answer takes, and by how much that varies.
    pub(super) service: u64,
    pub(super) jitter: u64,
    /// From an instant on, an answer takes this long.
    pub(super) slows: Option<(u64, u64)>,
    /// Between these instants nothing is answered.
    pub(super) stalls: Option<(u64, u64)>,
    /// What is wrong with how many of a thousand answers, from an instant on.
    pub(super) flaw: (Flaw, u64, u64),
    /// Idle connections are closed after this long.
    pub(super) idle_close: Option<u64>,
    /// Answers come in pieces.
    pub(super) in_pieces: bool,
    /// Answers before it is asked.
    pub(super) answers_first: bool,
    /// The length of a result, in bytes.
    pub(super) result: usize,
}

impl Peer {
    /// A healthy server.
    pub(super) fn healthy(service: u64) -> Peer {
        Peer {
            accept: Accept::Yes { again: 0 },
            rtt: 100_000,
            service,
            jitter: service / 10,
            slows: None,
            stalls: None,
            flaw: (Flaw::None, 0, 0),
            idle_close: None,
            in_pieces: false,
            answers_first: false,
            result: 3,
        }
    }

    /// After how long a connection attempt is answered, and whether it is accepted.
    pub(super) fn accepts(&self, now: u64, chance: &mut Sequence) -> Option<(u64, bool)> {
        match self.accept {
            Accept::Yes { again } if chance.below(1000) < again => {
                Some((1_000_000_000 + self.rtt, true))
            }
            Accept::Yes { .. } => Some((self.rtt, true)),
            Accept::Refuse => Some((self.rtt, false)),
            Accept::BlackHole => None,
            Accept::Until(at) => Some((self.rtt, now < at)),
        }
    }

    /// A whole request off the front of what came; its JSON-RPC id.
    pub(super) fn take_request(&self, bytes: &mut Vec<u8>) -> Option<u64> {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let length = head.split("Content-Length: ").nth(1)?.split("\r\n").next()?;
        let length: usize = length.parse().ok()?;
        if bytes.len() < end + length {
            return None;
        }
        let id = id_of(&bytes[end..end + length]);
        bytes.drain(..end + length);
        Some(id.unwrap_or(0))
    }

    /// The answer to a request that arrived at `now`.
    pub(super) fn answer(&mut self, id: u64, now: u64, chance: &mut Sequence) -> Reply {
        let service = match self.slows {
            Some((from, slow)) if now >= from => slow,
            _ => self.service,
        };
        let mut after = service + chance.below(self.jitter.max(1));
        if let Some((from, to)) = self.stalls
            && (from..to).contains(&(now + after))
        {
            after = to - now;
        }
        let (flaw, of_thousand, from) = self.flaw;
        let flaw = if now >= from && chance.below(1000) < of_thousand { flaw } else { Flaw::None };
        let result = "1".repeat(self.result);
        let whole = reply_bytes(
            200,
            &format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":\"{result}\"}}"),
        );
        let (bytes, ending) = match flaw {
            Flaw::None => (whole, None),
            Flaw::Reset => (Vec::new(), Some(Ending::Reset)),
            Flaw::Truncate => (whole[..whole.len() - 5].to_vec(), Some(Ending::Close)),
            Flaw::HalfBody => {
                let (first, second) = whole[..whole.len() - 5].split_at(whole.len() / 2);
                let pieces = vec![(after, first.to_vec()), (after + 1_000_000, second.to_vec())];
                return Reply { pieces, ending: None, endless: None };
            }
            Flaw::Garbage => (b"SSH-2.0-x\r\n".to_vec(), None),
            Flaw::Silence => (Vec::new(), None),
            Flaw::RpcError => {
                let error = format!(
                    "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":-32000,\"message\":\"x\"}}}}"
                );
                (reply_bytes(200, &error), None)
            }
            Flaw::Status500 => (reply_bytes(500, "no"), None),
            Flaw::Endless => return Reply::endless(after),
            Flaw::Stray => ([whole, b"HTTP/1.1 200".to_vec()].concat(), None),
        };
        let mut pieces = Vec::new();
        if self.in_pieces && bytes.len() > 2 {
            let cut = 1 + chance.below(bytes.len() as u64 - 1) as usize;
            pieces.push((after, bytes[..cut].to_vec()));
            pieces.push((after + chance.below(200_000), bytes[cut..].to_vec()));
        } else if !bytes.is_empty() {
            pieces.push((after, bytes));
        }
        Reply { pieces, ending, endless: None }
    }
}

/// What a peer sends: pieces, each after a delay, and what follows them.
pub(super) struct Reply {
    pub(super) pieces: Vec<(u64, Vec<u8>)>,
    pub(super) ending: Option<Ending>,
    /// Sent again and again.
    pub(super) endless: Option<Rc<[u8]>>,
}

impl Reply {
    /// Tiny chunks with long extensions.
    fn endless(after: u64) -> Reply {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let piece = format!("1;{}\r\nx\r\n", "e".repeat(4000)).into_bytes();
        Reply { pieces: vec![(after, head)], ending: None, endless: Some(piece.into()) }
    }
}

pub(super) fn reply_bytes(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn id_of(body: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(body, b"\"id\":")? + 5;
    let digits: Vec<u8> = body[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// The path and the number of a request, when the bytes begin one.
pub(super) fn request_line(bytes: &[u8]) -> Option<(String, u64)> {
    let rest = bytes.strip_prefix(b"POST ")?;
    let path = rest.split(|b| *b == b' ').next()?;
    // The path ends in the number, because the body may not be among the first bytes.
    let path = std::str::from_utf8(path).ok()?;
    let (path, seq) = path.rsplit_once('/')?;
    Some((path.into(), seq.parse().ok()?))
}
