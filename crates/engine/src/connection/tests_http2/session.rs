//! A connection over a scripted wire, and the frames of its peer.

use super::*;

pub(super) struct Session {
    pub(super) connection: Connection<Wire>,
    pub(super) wire: Wire,
    pub(super) resources: ReadResources,
    pub(super) request: Request,
    pub(super) events: Vec<String>,
}

impl Session {
    /// A connection that has written its preface.
    pub(super) fn begin(len: usize) -> Session {
        let wire = Wire::new();
        let connection = fuzz::connection(&wire, 10);
        let bodies = Bodies { budget: BodyBudget::new(1 << 20), excerpts: Excerpts::default() };
        let mut session = Session {
            connection,
            wire,
            resources: ReadResources::new(1 << 10, bodies),
            request: fuzz::request(len),
            events: Vec::new(),
        };
        session.run(Readiness { writable: true, ..Readiness::NONE });
        assert_eq!(session.take(), ["Settling"]);
        session
    }

    /// An established connection.
    pub(super) fn new(len: usize) -> Session {
        let mut session = Session::begin(len);
        session.peer(&[Frame::Settings(vec![])]);
        assert_eq!(session.take(), ["Established"]);
        session
    }

    pub(super) fn start(&mut self, arrival: Id) {
        self.start_with(arrival, Some(1 << 20));
    }

    pub(super) fn start_with(&mut self, arrival: Id, body_max: Option<u64>) {
        let outgoing = fuzz::outgoing(&self.request, arrival, body_max);
        let buffers = (&mut Vec::new(), &mut Vec::new());
        let started = self.connection.start(outgoing, buffers, &mut self.resources);
        assert!(matches!(started, Started::Buffered { .. }));
    }

    pub(super) fn flush(&mut self) {
        self.connection.flush();
        self.run(Readiness::NONE);
    }

    /// Collects all events.
    pub(super) fn run(&mut self, ready: Readiness) {
        fuzz::run(&mut self.connection, ready, &mut self.resources, &mut self.events);
    }

    pub(super) fn has_closed(&self) -> bool {
        self.events.last().is_some_and(|last| last.starts_with("Closed"))
    }

    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn peer_bytes(&mut self, bytes: &[u8], segment: usize) {
        let segments = bytes.chunks(segment.max(1)).map(<[u8]>::to_vec);
        self.wire.0.borrow_mut().arrived.extend(segments);
        while !self.wire.0.borrow().arrived.is_empty() && !self.has_closed() {
            self.run(Readiness { readable: true, ..Readiness::NONE });
        }
    }

    pub(super) fn peer(&mut self, frames: &[Frame]) {
        self.peer_bytes(&bytes_of(frames), usize::MAX);
    }

    pub(super) fn peer_ends(&mut self) {
        self.wire.0.borrow_mut().has_ended = true;
        self.run(Readiness { readable: true, read_closed: true, ..Readiness::NONE });
    }

    /// What was written since the last call, as frames: kind, flags, stream, length.
    pub(super) fn written(&mut self) -> Vec<(u8, u8, u32, usize)> {
        let written = std::mem::take(&mut self.wire.0.borrow_mut().written);
        let mut rest = written.strip_prefix(frame::PREFACE).unwrap_or(&written);
        let mut frames = Vec::new();
        while let Some(head) = frame::Head::read(rest) {
            frames.push((head.kind, head.flags, head.stream, head.len));
            rest = &rest[frame::HEAD_LEN + head.len..];
        }
        frames
    }
}

/// A frame of the peer.
#[derive(Clone)]
pub(super) enum Frame {
    Settings(Vec<(u16, u32)>),
    /// A head with status 200, and whether the stream ends.
    Head(u32, bool),
    Data(u32, &'static str, bool),
    Reset(u32, u32),
    Goaway(u32, u32),
    Window(u32, u32),
    Raw(u8, u8, u32, Vec<u8>),
}

pub(super) fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    let ends = |ends: bool| if ends { flag::END_STREAM } else { 0 };
    for own in frames {
        match own {
            Frame::Settings(list) => frame::put_settings(&mut out, list),
            Frame::Head(stream, end) => {
                let kind = (kind::HEADERS, flag::END_HEADERS | ends(*end));
                frame::put(&mut out, kind, *stream, &[0x88]);
            }
            Frame::Data(stream, text, end) => {
                frame::put(&mut out, (kind::DATA, ends(*end)), *stream, text.as_bytes());
            }
            Frame::Reset(stream, code) => frame::put_reset(&mut out, *stream, Code(*code)),
            Frame::Goaway(last, code) => {
                let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
                frame::put(&mut out, (kind::GOAWAY, 0), 0, &payload);
            }
            Frame::Window(stream, by) => frame::put_window(&mut out, *stream, *by),
            Frame::Raw(kind, flags, stream, payload) => {
                frame::put(&mut out, (*kind, *flags), *stream, payload);
            }
        }
    }
    out
}
