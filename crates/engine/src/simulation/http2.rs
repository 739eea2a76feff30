//! Simulated HTTP/2 servers, at the level of frames. Whole frames arrive at once: those of different
//! streams may arrive in any order.

use super::peer::{Ending, Flaw, Peer};
use super::standing;
use crate::http2::frame::{self, Code, Head, flag, kind, setting};
use crate::http2::head::HEAD_MAX;
use crate::http2::hpack::Decoder;
use plimsoll_measure::rng::Sequence;

/// How an HTTP/2 server behaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Http2Script {
    /// The limit of streams that it announces.
    pub(super) streams: Option<u32>,
    /// It ends each connection with GOAWAY after this many streams; later ones are not processed.
    pub(super) goaway_after: Option<u64>,
    /// The same with ENHANCE_YOUR_CALM, without answering streams that are in progress.
    pub(super) calm_after: Option<u64>,
    /// Share of streams that it refuses, in thousandths.
    pub(super) refuses: u64,
    /// The window that it opens for each request, and never opens again.
    pub(super) window: Option<u32>,
    /// It sends no settings.
    pub(super) silent: bool,
    /// What it does with every request.
    pub(super) hostile: Option<Hostile>,
}

/// A way to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hostile {
    /// A header block that never ends.
    Continuation,
    /// A block that refers to a long entry again and again.
    HpackBomb,
    /// A block that cannot be decoded.
    BadBlock,
    PushPromise,
    /// A window that is opened beyond the maximum.
    WindowOverflow,
    /// An answer on a stream that was never opened.
    IdleStream,
    /// Data on a stream that has ended.
    EndedStream,
    /// A frame that is too long.
    LongFrame,
    SettingsFlood,
    PingFlood,
    /// Empty DATA frames without end.
    EmptyData,
    /// A GOAWAY that processes more streams than the one before.
    GrowingGoaway,
    /// A frame between those of a header block.
    Interrupted,
}

impl Hostile {
    pub(super) const ALL: [Hostile; 13] = [
        Hostile::Continuation,
        Hostile::HpackBomb,
        Hostile::BadBlock,
        Hostile::PushPromise,
        Hostile::WindowOverflow,
        Hostile::IdleStream,
        Hostile::EndedStream,
        Hostile::LongFrame,
        Hostile::SettingsFlood,
        Hostile::PingFlood,
        Hostile::EmptyData,
        Hostile::GrowingGoaway,
        Hostile::Interrupted,
    ];

    /// The frames that break the protocol, and frames that are sent repeatedly after them.
    fn frames(self, stream: u32) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut out = Vec::new();
        let mut again = Vec::new();
        let whole = (kind::HEADERS, flag::END_HEADERS);
        match self {
            Hostile::Continuation => {
                frame::put(&mut out, (kind::HEADERS, 0), stream, &[0x88]);
                let part = [b"\x00\x01a\x7f\xe1\x06", [b'x'; 992].as_slice()].concat();
                frame::put(&mut again, (kind::CONTINUATION, 0), stream, &part);
            }
            Hostile::HpackBomb => {
                let entry = [b"\x88\x40\x01a\x7f\xe1\x16", [b'x'; 3040].as_slice()].concat();
                let bomb = [entry, vec![0xbe; 10_000]].concat();
                frame::put(&mut out, whole, stream, &bomb);
            }
            Hostile::BadBlock => frame::put(&mut out, whole, stream, &[0x88, 0xff, 0xff, 0xff]),
            Hostile::PushPromise => {
                frame::put(&mut out, (kind::PUSH_PROMISE, 4), stream, &[0, 0, 0, 2, 0x88]);
            }
            Hostile::WindowOverflow => {
                frame::put_window(&mut out, 0, frame::STREAM_MAX);
                frame::put_window(&mut out, 0, frame::STREAM_MAX);
            }
            Hostile::IdleStream => frame::put(&mut out, whole, stream + 1_000, &[0x88]),
            Hostile::EndedStream => {
                frame::put(
                    &mut out,
                    (kind::HEADERS, flag::END_HEADERS | flag::END_STREAM),
                    stream,
                    &[0x88],
                );
                frame::put(&mut out, (kind::DATA, 0), stream, b"x");
            }
            Hostile::LongFrame => {
                let head = Head { len: 1 << 20, kind: kind::DATA, flags: 0, stream };
                out.extend_from_slice(&head.bytes());
            }
            Hostile::SettingsFlood => {
                (0..50).for_each(|_| frame::put_settings(&mut again, &[(setting::ENABLE_PUSH, 0)]));
            }
            Hostile::PingFlood => {
                (0..50).for_each(|_| frame::put(&mut again, (kind::PING, 0), 0, b"12345678"));
            }
            Hostile::EmptyData => {
                frame::put(&mut out, whole, stream, &[0x88]);
                (0..50).for_each(|_| frame::put(&mut again, (kind::DATA, 0), stream, b""));
            }
            Hostile::GrowingGoaway => {
                for last in [1u32, 1_001] {
                    let payload = [last.to_be_bytes(), [0; 4]].concat();
                    frame::put(&mut out, (kind::GOAWAY, 0), 0, &payload);
                }
            }
            Hostile::Interrupted => {
                frame::put(&mut out, (kind::HEADERS, 0), stream, &[0x88]);
                frame::put(&mut out, (kind::PING, 0), 0, b"12345678");
            }
        }
        (out, (!again.is_empty()).then_some(again))
    }
}

/// What a server sends, after how long.
pub(super) struct Sent {
    pub(super) after: u64,
    pub(super) bytes: Vec<u8>,
    /// The number of the request that it answers to the end.
    pub(super) answers: Option<u64>,
    /// Sent repeatedly afterwards.
    pub(super) again: Option<Vec<u8>>,
    pub(super) ending: Option<Ending>,
}

impl Sent {
    fn now(bytes: Vec<u8>) -> Sent {
        Sent { after: 0, bytes, answers: None, again: None, ending: None }
    }
}

/// A request whose head was written.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    stream: u32,
    pub(super) path: String,
    /// The number in its path; zero for what stays open.
    pub(super) seq: u64,
    /// The last event that the client has received; zero if there is none.
    last_event: u64,
}

/// Reads the requests of a connection from the bytes written.
#[derive(Default)]
pub(crate) struct Requests {
    bytes: Vec<u8>,
    is_begun: bool,
    decoder: Decoder,
}

/// What a connection asked for.
pub(crate) enum Heard {
    /// The connection begins.
    Preface,
    Head(Asked),
    /// Bytes of a body.
    Data(u32, usize),
    /// The request on a stream is complete.
    End(u32),
    Reset(u32),
}

impl Requests {
    pub(crate) fn read(&mut self, bytes: &[u8], heard: &mut Vec<Heard>) {
        self.bytes.extend_from_slice(bytes);
        if !self.is_begun && self.bytes.starts_with(frame::PREFACE) {
            self.bytes.drain(..frame::PREFACE.len());
            self.is_begun = true;
            heard.push(Heard::Preface);
        }
        while self.is_begun
            && let Some(head) = Head::read(&self.bytes)
            && self.bytes.len() >= frame::HEAD_LEN + head.len
        {
            let frame: Vec<u8> = self.bytes.drain(..frame::HEAD_LEN + head.len).collect();
            let payload = &frame[frame::HEAD_LEN..];
            match head.kind {
                kind::HEADERS => {
                    let (mut path, mut last) = (String::new(), None);
                    let visit = &mut |name: &[u8], value: &[u8]| {
                        let value = || String::from_utf8(value.to_vec()).expect("our own text");
                        match name {
                            b":path" => path = value(),
                            b"last-event-id" => last = Some(value()),
                            _ => {}
                        }
                    };
                    self.decoder.decode(payload, HEAD_MAX, visit).expect("our own blocks");
                    let (path, seq) = path.rsplit_once('/').expect("a path");
                    let last_event = last.map_or(0, |last| last.parse().expect("our own ids"));
                    heard.push(Heard::Head(Asked {
                        stream: head.stream,
                        path: path.into(),
                        seq: seq.parse().unwrap_or(0),
                        last_event,
                    }));
                }
                kind::DATA => heard.push(Heard::Data(head.stream, payload.len())),
                kind::RST_STREAM => heard.push(Heard::Reset(head.stream)),
                _ => {}
            }
            if matches!(head.kind, kind::HEADERS | kind::DATA) && head.has(flag::END_STREAM) {
                heard.push(Heard::End(head.stream));
            }
        }
    }
}

/// A server's end of a connection.
#[derive(Default)]
pub(super) struct Connection {
    requests: Requests,
    open: Vec<Asked>,
    streams: u64,
    /// It takes no more streams.
    is_ending: bool,
    /// When its last answer is sent.
    latest: u64,
}

impl Connection {
    /// What the server sends after it has received bytes.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        peer: &Peer,
        now: u64,
        random: &mut Sequence,
    ) -> Vec<Sent> {
        let script = peer.http2.as_ref().expect("a server of HTTP/2");
        let mut heard = Vec::new();
        self.requests.read(bytes, &mut heard);
        let mut out = Vec::new();
        for heard in heard {
            match heard {
                Heard::Preface if script.silent => {}
                Heard::Preface => out.push(Sent::now(settings(script))),
                Heard::Head(asked) if self.is_ending => _ = asked,
                Heard::Head(asked) => {
                    self.streams += 1;
                    self.open.push(asked);
                }
                Heard::Data(_, 0) => {}
                Heard::Data(..) if script.window.is_some() => {}
                Heard::Data(stream, len) => {
                    let mut bytes = Vec::new();
                    frame::put_window(&mut bytes, 0, len as u32);
                    frame::put_window(&mut bytes, stream, len as u32);
                    out.push(Sent::now(bytes));
                }
                Heard::Reset(stream) => self.open.retain(|own| own.stream != stream),
                Heard::End(stream) => {
                    let Some(at) = self.open.iter().position(|own| own.stream == stream) else {
                        continue;
                    };
                    let asked = self.open.remove(at);
                    self.answer(&asked, peer, now, random, &mut out);
                }
            }
        }
        out
    }

    fn answer(
        &mut self,
        asked: &Asked,
        peer: &Peer,
        now: u64,
        random: &mut Sequence,
        out: &mut Vec<Sent>,
    ) {
        let script = peer.http2.as_ref().expect("a server of HTTP/2");
        let stream = asked.stream;
        let after = peer.after(now, random);
        if script.calm_after.is_some_and(|most| self.streams >= most) {
            self.is_ending = true;
            let bytes = goaway(stream, Code::ENHANCE_YOUR_CALM);
            out.push(Sent { ending: Some(Ending::Close), ..Sent::now(bytes) });
            return;
        }
        if random.below(1000) < script.refuses {
            let mut bytes = Vec::new();
            frame::put_reset(&mut bytes, stream, Code::REFUSED_STREAM);
            out.push(Sent::now(bytes));
            return;
        }
        if let Some(hostile) = script.hostile {
            let (bytes, again) = hostile.frames(stream);
            out.push(Sent { after, again, ..Sent::now(bytes) });
            return;
        }
        if let Some(events) = &peer.standing {
            out.extend(standing::stream(stream, asked.last_event, events));
            return;
        }
        let (bytes, answers) = answer(asked, peer, peer.flaw_of(now, random));
        self.latest = self.latest.max(now + after);
        out.push(Sent { after, answers: answers.then_some(asked.seq), ..Sent::now(bytes) });
        if script.goaway_after.is_some_and(|most| self.streams >= most) && !self.is_ending {
            self.is_ending = true;
            out.push(Sent::now(goaway(stream, Code(0))));
            // What was begun before is answered. Streams after this one are not.
            self.open.retain(|own| own.stream < stream);
        }
        if self.is_ending && self.open.is_empty() {
            let ending = Some(Ending::Close);
            out.push(Sent { after: self.latest + 1 - now, ending, ..Sent::now(Vec::new()) });
        }
    }
}

fn settings(script: &Http2Script) -> Vec<u8> {
    let mut settings = Vec::new();
    settings.extend(script.streams.map(|streams| (setting::MAX_CONCURRENT_STREAMS, streams)));
    settings.extend(script.window.map(|window| (setting::INITIAL_WINDOW_SIZE, window)));
    let mut bytes = Vec::new();
    frame::put_settings(&mut bytes, &settings);
    bytes
}

fn goaway(last: u32, code: Code) -> Vec<u8> {
    let payload = [last.to_be_bytes(), code.0.to_be_bytes()].concat();
    let mut bytes = Vec::new();
    frame::put(&mut bytes, (kind::GOAWAY, 0), 0, &payload);
    bytes
}

/// The frames of an answer, and whether it is complete.
fn answer(asked: &Asked, peer: &Peer, flaw: Flaw) -> (Vec<u8>, bool) {
    let (stream, seq) = (asked.stream, asked.seq);
    let result = "1".repeat(peer.result);
    let body = match flaw {
        Flaw::RpcError => format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{seq},\"error\":{{\"code\":-32000,\"message\":\"x\"}}}}"
        ),
        _ => format!("{{\"jsonrpc\":\"2.0\",\"id\":{seq},\"result\":\"{result}\"}}"),
    };
    // :status 200 or 500, and content-length without indexing.
    let status = if flaw == Flaw::Status500 { 0x8e } else { 0x88 };
    let length = body.len().to_string();
    let mut block = vec![status, 0x0f, 0x0d, length.len() as u8];
    block.extend_from_slice(length.as_bytes());
    if flaw == Flaw::Garbage {
        block.extend_from_slice(b"\x00\x01A\x01b");
    }
    let mut bytes = Vec::new();
    match flaw {
        Flaw::Silence => return (bytes, false),
        Flaw::Reset => {
            frame::put_reset(&mut bytes, stream, Code(2));
            return (bytes, false);
        }
        _ => frame::put(&mut bytes, (kind::HEADERS, flag::END_HEADERS), stream, &block),
    }
    let cut = match flaw {
        Flaw::Truncate | Flaw::HalfBody => body.len() / 2,
        _ => body.len(),
    };
    let body = &body.as_bytes()[..cut];
    let count = body.chunks(4_000).count();
    for (number, part) in (1..).zip(body.chunks(4_000)) {
        let ends = number == count && flaw != Flaw::HalfBody;
        let flags = if ends { flag::END_STREAM } else { 0 };
        frame::put(&mut bytes, (kind::DATA, flags), stream, part);
    }
    (bytes, flaw != Flaw::HalfBody)
}
