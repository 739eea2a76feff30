//! Simulated servers of what stays open: WebSockets with subscriptions, and event streams.
//!
//! A server numbers its messages consecutively for each connection and sends them at equal intervals, some of
//! them with a defect.

use super::http2::Sent;
use super::peer::{Ending, Peer, reply_bytes};
use crate::http2::frame::{self, Code, flag, kind};
use plimsoll_measure::rng::Sequence;
use plimsoll_websocket::{Inflate, Message, Opcode, Reader, Role, accept_of, put, put_close};

/// How a server behaves.
#[derive(Clone, Debug)]
pub(super) struct StandingScript {
    /// Time between messages, in nanoseconds, and how many are sent on a connection.
    pub(super) interval: u64,
    pub(super) messages: u64,
    pub(super) oddity: Oddity,
    /// The message that has it, counted from 1.
    pub(super) at: u64,
}

/// What a server does that it should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Oddity {
    None,
    /// A message is skipped, sent twice, or sent after the next one.
    Gap,
    Duplicate,
    Reorder,
    /// A message of another subscription, or before the answer.
    UnknownId,
    Early,
    /// Nothing more is sent; pings are answered.
    Silence,
    /// Nothing more is sent, and nothing is answered.
    Dead,
    /// The connection is closed, with a code or without.
    Close,
    Reset,
    /// Half a message, then the end or silence.
    HalfThenEnd,
    HalfThenSilence,
    /// A message that is too long.
    TooLong,
    /// Bytes that break the protocol.
    InvalidUtf8,
    FragmentedControl,
    Masked,
    /// Instead of opening.
    Status503,
    NotStanding,
    EndlessHead,
    RefusedCall,
    BadId,
}

impl Oddity {
    /// Those of WebSockets after which an exchange fails.
    pub(super) const HOSTILE: [Oddity; 15] = [
        Oddity::Dead,
        Oddity::Close,
        Oddity::Reset,
        Oddity::HalfThenEnd,
        Oddity::HalfThenSilence,
        Oddity::TooLong,
        Oddity::InvalidUtf8,
        Oddity::FragmentedControl,
        Oddity::Masked,
        Oddity::Status503,
        Oddity::NotStanding,
        Oddity::EndlessHead,
        Oddity::RefusedCall,
        Oddity::BadId,
        Oddity::Close,
    ];
    /// Those of event streams.
    pub(super) const HOSTILE_EVENTS: [Oddity; 8] = [
        Oddity::Silence,
        Oddity::Close,
        Oddity::Reset,
        Oddity::HalfThenEnd,
        Oddity::HalfThenSilence,
        Oddity::TooLong,
        Oddity::Status503,
        Oddity::NotStanding,
    ];
    /// Those that concern messages only.
    pub(super) const ODD: [Oddity; 6] = [
        Oddity::Gap,
        Oddity::Duplicate,
        Oddity::Reorder,
        Oddity::UnknownId,
        Oddity::Early,
        Oddity::Silence,
    ];
}

/// A server's end of a connection.
#[derive(Default)]
pub(super) struct Connection {
    bytes: Vec<u8>,
    /// Of a WebSocket that has opened.
    reader: Option<Reader>,
    is_dead: bool,
}

impl Connection {
    /// What the server sends after it has received bytes.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        peer: &Peer,
        random: &mut Sequence,
    ) -> Vec<Sent> {
        let script = peer.standing.as_ref().expect("a server of what stays open");
        let mut out = Vec::new();
        self.bytes.extend_from_slice(bytes);
        if self.reader.is_none() {
            let Some(end) = memchr::memmem::find(&self.bytes, b"\r\n\r\n") else { return out };
            let head: Vec<u8> = self.bytes.drain(..end + 4).collect();
            let head = String::from_utf8(head).expect("our own heads");
            out.extend(open(&head, script));
            if head.contains("Upgrade: websocket") {
                self.reader = Some(Reader::new(Role::Server, 1 << 20));
            }
        }
        let Some(reader) = &mut self.reader else { return fragmented(out, random) };
        let input = std::mem::take(&mut self.bytes);
        let (mut input, mut inflate) = (&input[..], Inflate::default());
        while let Some(message) = reader.next(&mut input, &mut inflate).expect("our own frames") {
            let mut bytes = Vec::new();
            match message {
                Message::Text(text) if text.contains("\"eth_subscribe\"") => {
                    let id = text.split("\"id\":").nth(1).expect("a call has an id");
                    let id = id.split(',').next().expect("it is not the last member");
                    out.extend(subscribe(id, script));
                    self.is_dead = matches!(script.oddity, Oddity::Dead | Oddity::HalfThenSilence);
                }
                Message::Ping(payload) if !self.is_dead => {
                    put(&mut bytes, Opcode::Pong, true, None, payload);
                }
                Message::Close { .. } => {
                    put_close(&mut bytes, 1000, "", None);
                    out.push(Sent { ending: Some(Ending::Close), ..sent(0, bytes) });
                    continue;
                }
                _ => {}
            }
            if !bytes.is_empty() {
                out.push(sent(0, bytes));
            }
        }
        fragmented(out, random)
    }
}

fn sent(after: u64, bytes: Vec<u8>) -> Sent {
    Sent { after, bytes, answers: None, again: None, ending: None }
}

fn end(after: u64, ending: Ending) -> Sent {
    Sent { ending: Some(ending), ..sent(after, Vec::new()) }
}

/// Splits some of what is sent in two, a microsecond apart.
fn fragmented(all: Vec<Sent>, random: &mut Sequence) -> Vec<Sent> {
    const GAP: u64 = 1_000;
    let (mut out, mut latest) = (Vec::new(), 0);
    for mut own in all {
        own.after = own.after.max(latest);
        latest = own.after;
        if own.bytes.len() > 1 && random.below(3) == 0 {
            let rest = own.bytes.split_off(1 + random.below(own.bytes.len() as u64 - 1) as usize);
            latest += GAP;
            let last = Sent { after: latest, bytes: rest, ..own };
            out.push(sent(latest - GAP, own.bytes));
            out.push(last);
        } else {
            out.push(own);
        }
    }
    out
}

/// The answer to the request that opens.
fn open(head: &str, script: &StandingScript) -> Vec<Sent> {
    let is_websocket = head.contains("Upgrade: websocket");
    match script.oddity {
        Oddity::Status503 => return vec![sent(0, reply_bytes(503, "no"))],
        Oddity::NotStanding => return vec![sent(0, reply_bytes(200, "{}"))],
        Oddity::EndlessHead => {
            let line = format!("x: {}\r\n", "y".repeat(2_000)).into_bytes();
            let first = b"HTTP/1.1 101 x\r\n".to_vec();
            return vec![Sent { again: Some(line), ..sent(0, first) }];
        }
        _ => {}
    }
    if is_websocket {
        let key = head.split("Sec-WebSocket-Key: ").nth(1).expect("a key");
        let accept = accept_of(key.split("\r\n").next().expect("a line"));
        let answer = format!(
            "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        return vec![sent(0, answer.into_bytes())];
    }
    let last = head.split("Last-Event-ID: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let last: u64 = last.map_or(0, |last| last.parse().expect("our own ids"));
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".to_vec();
    let mut out = vec![sent(0, head)];
    out.extend(messages(script, &|number| event(number + last)));
    out
}

/// An event, and its id.
fn event(number: u64) -> Vec<u8> {
    format!("id: {number}\ndata: {{\"number\":{number}}}\n\n").into_bytes()
}

/// An event stream over HTTP/2 after the last event: what ends it leaves the other streams alone.
pub(super) fn stream(stream: u32, last: u64, script: &StandingScript) -> Vec<Sent> {
    // Below the peer's limit of a frame.
    const PART: usize = 4_000;
    let mut head = Vec::new();
    let whole = (kind::HEADERS, flag::END_HEADERS);
    match script.oddity {
        // :status, without indexing.
        Oddity::Status503 => {
            let ends = (kind::HEADERS, flag::END_HEADERS | flag::END_STREAM);
            frame::put(&mut head, ends, stream, b"\x08\x03503");
            return vec![sent(0, head)];
        }
        Oddity::NotStanding => {
            frame::put(&mut head, whole, stream, b"\x88\x0f\x10\x10application/json");
            frame::put(&mut head, (kind::DATA, flag::END_STREAM), stream, b"{}");
            return vec![sent(0, head)];
        }
        _ => frame::put(&mut head, whole, stream, b"\x88\x0f\x10\x11text/event-stream"),
    }
    frame::put(&mut head, (kind::DATA, 0), stream, b"retry: 500\n\n");
    let mut out = vec![sent(0, head)];
    for mut own in messages(script, &|number| event(number + last)) {
        let text = std::mem::take(&mut own.bytes);
        let bytes = &mut own.bytes;
        for part in text.chunks(PART) {
            frame::put(bytes, (kind::DATA, 0), stream, part);
        }
        match own.ending.take() {
            Some(Ending::Close) => frame::put(bytes, (kind::DATA, flag::END_STREAM), stream, b""),
            Some(Ending::Reset) => frame::put_reset(bytes, stream, Code(2)),
            None => {}
        }
        out.push(own);
    }
    out
}

/// The answer to a subscription, and its notifications.
fn subscribe(id: &str, script: &StandingScript) -> Vec<Sent> {
    let text = |text: String| {
        let mut out = Vec::new();
        put(&mut out, Opcode::Text, true, None, text.as_bytes());
        out
    };
    let notification = |subscription: &str, number: u64| {
        text(format!(
            "{{\"method\":\"eth_subscription\",\"params\":{{\"subscription\":\"{subscription}\",\
             \"result\":{{\"number\":\"{number:#x}\",\"hash\":\"{number}\"}}}}}}"
        ))
    };
    let answer = match script.oddity {
        Oddity::RefusedCall => {
            format!("{{\"id\":{id},\"error\":{{\"code\":-32601,\"message\":\"x\"}}}}")
        }
        Oddity::BadId => format!("{{\"id\":{id},\"result\":null}}"),
        _ => format!("{{\"id\":{id},\"result\":\"0xab\"}}"),
    };
    let answer = text(answer);
    let mut out = Vec::new();
    if script.oddity == Oddity::Early {
        out.push(sent(0, notification("0xab", 1)));
    }
    out.push(sent(1_000, answer));
    if matches!(script.oddity, Oddity::RefusedCall | Oddity::BadId) {
        return out;
    }
    if script.oddity == Oddity::UnknownId {
        out.push(sent(script.at * script.interval, notification("0xac", 1)));
    }
    out.extend(messages(script, &|number| notification("0xab", number)));
    out
}

/// The messages at their times, up to the one after which nothing follows.
fn messages(script: &StandingScript, message: &dyn Fn(u64) -> Vec<u8>) -> Vec<Sent> {
    let mut out = Vec::new();
    let mut late = None;
    for number in 1..=script.messages {
        // After what opens it.
        let at = number * script.interval + 500_000;
        let bytes = message(number);
        if number != script.at {
            out.push(sent(at, bytes));
            out.extend(late.take().map(|late| sent(at + 1, late)));
            continue;
        }
        match script.oddity {
            Oddity::Gap => {}
            Oddity::Duplicate => out.extend([sent(at, bytes.clone()), sent(at + 1, bytes)]),
            Oddity::Reorder => late = Some(bytes),
            Oddity::Silence | Oddity::Dead => break,
            Oddity::Reset => {
                out.push(end(at, Ending::Reset));
                break;
            }
            Oddity::Close => {
                let mut close = Vec::new();
                if bytes[0] == 0x81 {
                    put_close(&mut close, 1013, "", None);
                }
                out.push(Sent { ending: Some(Ending::Close), ..sent(at, close) });
                break;
            }
            Oddity::HalfThenEnd | Oddity::HalfThenSilence => {
                let half = bytes[..bytes.len() / 2].to_vec();
                let ending = (script.oddity == Oddity::HalfThenEnd).then_some(Ending::Close);
                out.push(Sent { ending, ..sent(at, half) });
                break;
            }
            odd => {
                out.push(sent(at, broken(odd, &bytes)));
                if !matches!(odd, Oddity::None | Oddity::UnknownId | Oddity::Early) {
                    break;
                }
            }
        }
    }
    out
}

/// A message that breaks the protocol.
fn broken(odd: Oddity, message: &[u8]) -> Vec<u8> {
    match odd {
        Oddity::TooLong if message[0] == 0x81 => {
            let mut out = vec![0x81, 127];
            out.extend_from_slice(&(1u64 << 40).to_be_bytes());
            out
        }
        Oddity::TooLong => format!("data: {}\n\n", "x".repeat(20_000)).into_bytes(),
        Oddity::InvalidUtf8 => b"\x81\x02\xc3\x28".to_vec(),
        Oddity::FragmentedControl => b"\x09\x00".to_vec(),
        Oddity::Masked => b"\x81\x82\0\0\0\0hi".to_vec(),
        _ => message.to_vec(),
    }
}
