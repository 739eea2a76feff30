//! Simulated servers that act on their script, at the level of bytes.

use super::http2::Http2Script;
use super::standing::StandingScript;
use plimsoll_measure::rng::Sequence;
use std::rc::Rc;

/// How the peer ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Close,
    Reset,
}

/// The peer's response to connection attempts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Accept {
    /// Accepted; a share of them, in thousandths, only after a SYN retransmission one second later.
    Yes {
        again: u64,
    },
    Refuse,
    /// Never answered.
    BlackHole,
    /// Accepted until an instant, refused after it.
    Until(u64),
}

/// A defect of some of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// A reset instead of an answer.
    Reset,
    /// An incomplete answer, then a close.
    Truncate,
    /// Not HTTP.
    Garbage,
    /// No answer.
    Silence,
    RpcError,
    Status500,
    /// Endless tiny chunks with long extensions.
    Endless,
    /// An incomplete answer, then silence.
    HalfBody,
    /// The answer, then stray bytes.
    Stray,
}

/// A server.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) accept: Accept,
    /// Round-trip time, in nanoseconds.
    pub(super) rtt: u64,
    /// Time to answer and its jitter, in nanoseconds.
    pub(super) service: u64,
    pub(super) jitter: u64,
    /// An instant from which an answer takes this long instead.
    pub(super) slows: Option<(u64, u64)>,
    /// The period in which nothing is answered.
    pub(super) stalls: Option<(u64, u64)>,
    /// A defect, its share of answers in thousandths, and the instant from which it applies.
    pub(super) flaw: (Flaw, u64, u64),
    /// Idle connections are closed after this time.
    pub(super) idle_close: Option<u64>,
    /// Whether answers arrive in fragments.
    pub(super) fragmented: bool,
    /// Whether it sends an answer before the request.
    pub(super) answers_first: bool,
    /// The length of a result, in bytes.
    pub(super) result: usize,
    /// If it speaks HTTP/2 instead of HTTP/1.1.
    pub(super) http2: Option<Http2Script>,
    /// If it serves what stays open.
    pub(super) standing: Option<StandingScript>,
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
            fragmented: false,
            answers_first: false,
            result: 3,
            http2: None,
            standing: None,
        }
    }

    /// When a connection attempt is answered, relative to `now`, and whether it is accepted.
    pub(super) fn accepts(&self, now: u64, random: &mut Sequence) -> Option<(u64, bool)> {
        match self.accept {
            Accept::Yes { again } if random.below(1000) < again => {
                Some((1_000_000_000 + self.rtt, true))
            }
            Accept::Yes { .. } => Some((self.rtt, true)),
            Accept::Refuse => Some((self.rtt, false)),
            Accept::BlackHole => None,
            Accept::Until(at) => Some((self.rtt, now < at)),
        }
    }

    /// Removes a complete request from the received bytes and returns its JSON-RPC id.
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

    /// How long the answer to a request that arrived at `now` takes.
    pub(super) fn after(&self, now: u64, random: &mut Sequence) -> u64 {
        let service = match self.slows {
            Some((from, slow)) if now >= from => slow,
            _ => self.service,
        };
        let after = service + random.below(self.jitter.max(1));
        match self.stalls {
            Some((from, to)) if (from..to).contains(&(now + after)) => to - now,
            _ => after,
        }
    }

    /// The flaw of the next answer.
    pub(super) fn flaw_of(&self, now: u64, random: &mut Sequence) -> Flaw {
        let (flaw, of_thousand, from) = self.flaw;
        if now >= from && random.below(1000) < of_thousand { flaw } else { Flaw::None }
    }

    /// The answer to a request that arrived at `now`.
    pub(super) fn answer(&mut self, id: u64, now: u64, random: &mut Sequence) -> Reply {
        let after = self.after(now, random);
        let flaw = self.flaw_of(now, random);
        let result = "1".repeat(self.result);
        let complete = reply_bytes(
            200,
            &format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":\"{result}\"}}"),
        );
        let (bytes, ending) = match flaw {
            Flaw::None => (complete, None),
            Flaw::Reset => (Vec::new(), Some(Ending::Reset)),
            Flaw::Truncate => (complete[..complete.len() - 5].to_vec(), Some(Ending::Close)),
            Flaw::HalfBody => {
                let (first, second) = complete[..complete.len() - 5].split_at(complete.len() / 2);
                let fragments = vec![(after, first.to_vec()), (after + 1_000_000, second.to_vec())];
                return Reply { fragments, ending: None, endless: None };
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
            Flaw::Stray => ([complete, b"HTTP/1.1 200".to_vec()].concat(), None),
        };
        let mut fragments = Vec::new();
        if self.fragmented && bytes.len() > 2 {
            let cut = 1 + random.below(bytes.len() as u64 - 1) as usize;
            fragments.push((after, bytes[..cut].to_vec()));
            fragments.push((after + random.below(200_000), bytes[cut..].to_vec()));
        } else if !bytes.is_empty() {
            fragments.push((after, bytes));
        }
        Reply { fragments, ending, endless: None }
    }
}

/// A peer's reply: fragments, each with its delay, and what follows them.
pub(super) struct Reply {
    pub(super) fragments: Vec<(u64, Vec<u8>)>,
    pub(super) ending: Option<Ending>,
    /// Sent repeatedly afterwards.
    pub(super) endless: Option<Rc<[u8]>>,
}

impl Reply {
    /// Tiny chunks with long extensions.
    fn endless(after: u64) -> Reply {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(4000)).into_bytes();
        Reply { fragments: vec![(after, head)], ending: None, endless: Some(chunk.into()) }
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

/// The path and the number of a request, if the bytes begin one.
pub(super) fn request_line(bytes: &[u8]) -> Option<(String, u64)> {
    let rest = bytes.strip_prefix(b"POST ")?;
    let path = rest.split(|b| *b == b' ').next()?;
    // The number is in the path, because the body may not be among the first bytes.
    let path = std::str::from_utf8(path).ok()?;
    let (path, seq) = path.rsplit_once('/')?;
    Some((path.into(), seq.parse().ok()?))
}
