//! Frames of the peer.

use super::ends::Goaway;
use super::{CONNECTION_WINDOW, Complete, HEAD_MAX, Http2, Parsed, STREAM_WINDOW, Violation};
use crate::connection::{Bodies, Failure};
use crate::http2::frame::{self, Code, Head, flag, kind, setting};
use crate::http2::head::Wanted;
use crate::http2::hpack::HpackError;
use plimsoll_measure::{ErrorClass, Fault};
use std::ops::Range;

/// Maximum number of frames in a row that have nothing to do with an answer.
const IDLE_FRAMES_MAX: u32 = 10_000;
/// Maximum number of 1xx responses to a request.
const INTERIM_MAX: u32 = 100;
/// Maximum length of the reason in a GOAWAY that is shown.
const REASON_MAX: usize = 100;

pub(super) type Handled = Result<Option<Parsed>, Violation>;

fn broken<T>(code: Code) -> Result<T, Violation> {
    Err(Violation(code, Fault::BadFrame))
}

impl Http2 {
    /// Handles frames up to the first that leads to an event.
    pub(super) fn parse(
        &mut self,
        scratch: &[u8],
        bodies: &mut Bodies,
    ) -> Result<Parsed, Violation> {
        if let Some(parsed) = self.next_pending(scratch, bodies) {
            return Ok(parsed);
        }
        while self.ending.is_none()
            && let Some(head) = Head::read(&scratch[self.unparsed.clone()])
        {
            self.check(&head)?;
            let start = self.unparsed.start + frame::HEAD_LEN;
            let end = start + head.len;
            if end > self.unparsed.end {
                break;
            }
            self.unparsed.start = end;
            self.frames += 1;
            if let Some(parsed) = self.handle(&head, (scratch, start), bodies)? {
                return Ok(parsed);
            }
        }
        Ok(Parsed::Nothing)
    }

    /// Checks a frame by its head alone, before its payload has arrived.
    #[inline]
    fn check(&self, head: &Head) -> Result<(), Violation> {
        if !self.is_settled && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(Violation(Code::PROTOCOL_ERROR, Fault::NotHttp2));
        }
        if head.len > frame::PAYLOAD_MAX {
            return broken(Code::FRAME_SIZE_ERROR);
        }
        match &self.block {
            Some((stream, ..)) if head.kind != kind::CONTINUATION || head.stream != *stream => {
                broken(Code::PROTOCOL_ERROR)
            }
            None if head.kind == kind::CONTINUATION => broken(Code::PROTOCOL_ERROR),
            _ => Ok(()),
        }
    }

    #[inline]
    fn handle(
        &mut self,
        head: &Head,
        (scratch, start): (&[u8], usize),
        bodies: &mut Bodies,
    ) -> Handled {
        let payload = &scratch[start..start + head.len];
        match head.kind {
            kind::DATA => return self.on_data(head, (scratch, start), bodies),
            kind::HEADERS | kind::CONTINUATION => return self.on_block(head, payload, bodies),
            _ => {}
        }
        self.count_idle()?;
        match head.kind {
            kind::SETTINGS => self.on_settings(head, payload),
            kind::PING => match (head.stream, payload.len()) {
                (0, 8) if head.has(flag::ACK) => Ok(None),
                (0, 8) => self.reply((kind::PING, flag::ACK), 0, payload_of(payload)),
                (0, _) => broken(Code::FRAME_SIZE_ERROR),
                _ => broken(Code::PROTOCOL_ERROR),
            },
            kind::GOAWAY => self.on_goaway(head, payload),
            kind::WINDOW_UPDATE => {
                let by = number_of(payload)?;
                self.on_window(head.stream, by, bodies)
            }
            kind::RST_STREAM => {
                let code = Code(number_of(payload)?);
                self.on_reset(head.stream, code, bodies)
            }
            kind::PUSH_PROMISE => Err(Violation(Code::PROTOCOL_ERROR, Fault::PushPromise)),
            kind::PRIORITY if head.stream == 0 => broken(Code::PROTOCOL_ERROR),
            kind::PRIORITY if payload.len() != 5 => broken(Code::FRAME_SIZE_ERROR),
            // Frames of unknown types are ignored.
            _ => Ok(None),
        }
    }

    fn count_idle(&mut self) -> Result<(), Violation> {
        self.idle_frames += 1;
        if self.idle_frames > IDLE_FRAMES_MAX {
            return Err(Violation(Code::ENHANCE_YOUR_CALM, Fault::FrameFlood));
        }
        Ok(())
    }

    fn reply(&mut self, kind: (u8, u8), stream: u32, payload: [u8; 8]) -> Handled {
        let len = if kind.0 == kind::PING { 8 } else { 4 };
        self.put_reply(kind, stream, &payload[..len]).map(|()| None)
    }

    fn put_reply(&mut self, kind: (u8, u8), stream: u32, payload: &[u8]) -> Result<(), Violation> {
        frame::put(self.output.bytes(), kind, stream, payload);
        if self.output.count_reply(frame::HEAD_LEN + payload.len()) {
            return Ok(());
        }
        Err(Violation(Code::ENHANCE_YOUR_CALM, Fault::FrameFlood))
    }

    /// Opens a window again.
    pub(super) fn open_window(&mut self, stream: u32, by: u32) -> Result<(), Violation> {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&by.to_be_bytes());
        self.reply((kind::WINDOW_UPDATE, 0), stream, payload).map(|_| ())
    }

    fn on_settings(&mut self, head: &Head, payload: &[u8]) -> Handled {
        if head.stream != 0 {
            return broken(Code::PROTOCOL_ERROR);
        }
        if head.has(flag::ACK) {
            return if payload.is_empty() { Ok(None) } else { broken(Code::FRAME_SIZE_ERROR) };
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return broken(Code::FRAME_SIZE_ERROR);
        }
        for [a, b, value @ ..] in settings {
            self.set(u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value))?;
        }
        self.put_reply((kind::SETTINGS, flag::ACK), 0, &[])?;
        self.write_bodies();
        let is_first = !std::mem::replace(&mut self.is_settled, true);
        Ok(is_first.then_some(Parsed::Established))
    }

    fn set(&mut self, name: u16, value: u32) -> Result<(), Violation> {
        match name {
            setting::HEADER_TABLE_SIZE => self.encoder.limit_table(value as usize),
            setting::ENABLE_PUSH if value > 0 => return broken(Code::PROTOCOL_ERROR),
            setting::MAX_CONCURRENT_STREAMS => self.peer.streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                let window = i64::from(value);
                let change = window - self.peer.window;
                self.peer.window = window;
                let mut windows = self.streams.iter_mut().map(|stream| {
                    stream.window += change;
                    stream.window
                });
                if window > frame::WINDOW_MAX || windows.any(|own| own > frame::WINDOW_MAX) {
                    return Err(Violation(Code::FLOW_CONTROL_ERROR, Fault::WindowExceeded));
                }
            }
            setting::MAX_FRAME_SIZE => {
                if !(16_384..1 << 24).contains(&value) {
                    return broken(Code::PROTOCOL_ERROR);
                }
                // Longer frames than these would be of no use.
                self.peer.payload = frame::PAYLOAD_MAX;
            }
            _ => {}
        }
        Ok(())
    }

    fn on_goaway(&mut self, head: &Head, payload: &[u8]) -> Handled {
        let (Some(last), Some(code)) = (frame::number(payload), payload.get(4..)) else {
            return broken(Code::FRAME_SIZE_ERROR);
        };
        let Some(code) = frame::number(code) else { return broken(Code::FRAME_SIZE_ERROR) };
        let last = last & frame::STREAM_MAX;
        // A later one may only return more streams.
        let grows = self.goaway.as_ref().is_some_and(|before| last > before.last);
        if head.stream != 0 || grows {
            return broken(Code::PROTOCOL_ERROR);
        }
        let reason = &payload[8..];
        let why = reason[..reason.len().min(REASON_MAX)].escape_ascii().to_string();
        self.goaway = Some(Goaway { last, code: Code(code), why });
        // Reported before further frames.
        Ok(Some(Parsed::Goaway))
    }

    fn on_window(&mut self, id: u32, by: u32, bodies: &mut Bodies) -> Handled {
        let by = i64::from(by & frame::STREAM_MAX);
        if id == 0 {
            self.window += by;
            if by == 0 {
                return broken(Code::PROTOCOL_ERROR);
            }
            if self.window > frame::WINDOW_MAX {
                return Err(Violation(Code::FLOW_CONTROL_ERROR, Fault::WindowExceeded));
            }
        } else if let Some(stream) = self.streams.get_mut(id) {
            stream.window += by;
            if by == 0 || stream.window > frame::WINDOW_MAX {
                let (code, fault) = match by {
                    0 => (Code::PROTOCOL_ERROR, Fault::BadFrame),
                    _ => (Code::FLOW_CONTROL_ERROR, Fault::WindowExceeded),
                };
                return Ok(self.fail(id, code, Failure::fault(fault), bodies));
            }
        } else {
            self.expect_closed(id)?;
        }
        self.write_bodies();
        Ok(None)
    }

    fn on_reset(&mut self, id: u32, code: Code, bodies: &mut Bodies) -> Handled {
        let Some(stream) = self.streams.get_mut(id) else {
            self.expect_closed(id)?;
            return Ok(None);
        };
        if !stream.sent {
            return Err(Violation(Code::PROTOCOL_ERROR, Fault::AnswerFirst));
        }
        self.idle_frames = 0;
        let mut stream = self.remove(id).expect("it is open");
        stream.discard(bodies);
        let fault = match code {
            Code::REFUSED_STREAM => Fault::RefusedStream,
            Code::ENHANCE_YOUR_CALM => Fault::EnhanceYourCalm,
            _ => Fault::StreamReset,
        };
        let failure =
            Failure { fault: Some(fault), code: Some(code), ..Failure::of(ErrorClass::Reset) };
        Ok(Some(Parsed::Failed(stream.arrival, stream.bytes_in, failure)))
    }

    /// Checks that a stream that is not open was open before.
    fn expect_closed(&self, id: u32) -> Result<(), Violation> {
        if id.is_multiple_of(2) || id >= self.next_id {
            return broken(Code::PROTOCOL_ERROR);
        }
        Ok(())
    }

    /// Checks that a frame of an answer may be ignored because this side has reset its stream.
    fn expect_cancelled(&self, id: u32) -> Result<(), Violation> {
        self.expect_closed(id)?;
        let is_returned = self.goaway.as_ref().is_some_and(|goaway| id > goaway.last);
        if is_returned || self.cancelled.may_have(id) {
            return Ok(());
        }
        broken(Code::STREAM_CLOSED)
    }

    /// Fails a stream whose answer is malformed or not wanted.
    pub(super) fn fail(
        &mut self,
        id: u32,
        code: Code,
        failure: Failure,
        bodies: &mut Bodies,
    ) -> Option<Parsed> {
        let stream = self.cancel(id, code, bodies)?;
        Some(Parsed::Failed(stream.arrival, stream.bytes_in, failure))
    }

    fn on_data(
        &mut self,
        head: &Head,
        (scratch, start): (&[u8], usize),
        bodies: &mut Bodies,
    ) -> Handled {
        self.received += head.len as u32;
        if self.received > CONNECTION_WINDOW {
            return Err(Violation(Code::FLOW_CONTROL_ERROR, Fault::WindowExceeded));
        }
        if self.received > CONNECTION_WINDOW / 2 {
            let received = std::mem::take(&mut self.received);
            self.open_window(0, received)?;
        }
        let Some(content) = frame::content(head, &scratch[start..start + head.len]) else {
            return broken(Code::PROTOCOL_ERROR);
        };
        let (ends, len) = (head.has(flag::END_STREAM), content.len());
        let start = start + usize::from(head.has(flag::PADDED));
        if len == 0 && !ends {
            self.count_idle()?;
        } else {
            self.idle_frames = 0;
        }
        let Some(stream) = self.streams.get_mut(head.stream) else {
            self.expect_cancelled(head.stream)?;
            return Ok(None);
        };
        stream.bytes_in += (frame::HEAD_LEN + head.len) as u64;
        stream.received += head.len as u32;
        if stream.received > STREAM_WINDOW {
            return Err(Violation(Code::FLOW_CONTROL_ERROR, Fault::WindowExceeded));
        }
        let Some(answer) = &stream.head else {
            let failure = Failure::fault(Fault::BadFrame);
            return Ok(self.fail(head.stream, Code::PROTOCOL_ERROR, failure, bodies));
        };
        if stream.events.is_some() {
            let content = start..start + len;
            return self.on_event_data(head.stream, (scratch, content), ends, bodies);
        }
        let after = stream.body.len + len as u64;
        let is_too_long = answer.length.is_some_and(|length| after > length);
        if is_too_long || stream.head_only && len > 0 {
            let failure = Failure::fault(Fault::LengthMismatch);
            return Ok(self.fail(head.stream, Code::PROTOCOL_ERROR, failure, bodies));
        }
        if let Some((.., trace)) = self.traces.iter_mut().find(|(_, id, _)| *id == head.stream) {
            trace.response.extend(content);
        }
        let kept = match stream.body.add(len) {
            Ok(kept) => start..start + kept,
            Err(failure) => return Ok(self.fail(head.stream, Code::CANCEL, failure, bodies)),
        };
        if ends && stream.body.bytes.is_empty() {
            return self.complete(head.stream, Some(kept), bodies);
        }
        if let Err(failure) = stream.body.collect(&[&scratch[kept]], bodies) {
            return Ok(self.fail(head.stream, Code::CANCEL, failure, bodies));
        }
        if ends {
            return self.complete(head.stream, None, bodies);
        }
        if stream.received > STREAM_WINDOW / 2 {
            let received = std::mem::take(&mut stream.received);
            self.open_window(head.stream, received)?;
        }
        Ok(None)
    }

    /// Completes the answer of a stream that the peer has ended.
    fn complete(
        &mut self,
        id: u32,
        location: Option<Range<usize>>,
        bodies: &mut Bodies,
    ) -> Handled {
        let stream = self.streams.get_mut(id).expect("its frame was handled");
        if stream.is_open_stream() {
            return Ok(self.end_events(id, bodies));
        }
        let Some(head) = stream.head.take() else {
            let failure = Failure::fault(Fault::BadHeader);
            return Ok(self.fail(id, Code::PROTOCOL_ERROR, failure, bodies));
        };
        let has_body = !stream.head_only && !matches!(head.status, 204 | 304);
        if has_body && head.length.is_some_and(|length| length != stream.body.len) {
            let failure = Failure::fault(Fault::LengthMismatch);
            return Ok(self.fail(id, Code::PROTOCOL_ERROR, failure, bodies));
        }
        if stream.has_rest() {
            // It was answered before it was read to the end.
            frame::put_reset(self.output.bytes(), id, Code::CANCEL);
        }
        if self.begun.last() == Some(&id) {
            self.begun.pop();
        }
        let stream = self.remove(id).expect("as above");
        let complete = Complete { head, body: stream.body, location };
        Ok(Some(Parsed::Answered(stream.arrival, stream.bytes_in, complete)))
    }

    /// A frame of a header block.
    fn on_block(&mut self, head: &Head, payload: &[u8], bodies: &mut Bodies) -> Handled {
        if head.stream == 0 {
            return broken(Code::PROTOCOL_ERROR);
        }
        let Some(content) = frame::content(head, payload) else {
            return broken(Code::PROTOCOL_ERROR);
        };
        let (is_last, mut ends) = (head.has(flag::END_HEADERS), head.has(flag::END_STREAM));
        let mut whole = None;
        if let Some((_, ends_stream, mut block)) = self.block.take() {
            ends = ends_stream;
            self.count_idle()?;
            block.extend_from_slice(content);
            whole = Some(block);
        } else if !is_last {
            whole = Some(content.to_vec());
        }
        if let Some(stream) = self.streams.get_mut(head.stream) {
            stream.bytes_in += (frame::HEAD_LEN + head.len) as u64;
        }
        let Some(block) = whole else {
            // The whole block is in the read buffer.
            return self.on_head(head.stream, ends, content, bodies);
        };
        if block.len() > HEAD_MAX {
            return Err(Violation(Code::ENHANCE_YOUR_CALM, Fault::HeadTooLong));
        }
        if is_last {
            return self.on_head(head.stream, ends, &block, bodies);
        }
        self.block = Some((head.stream, ends, block));
        Ok(None)
    }

    /// A complete header block.
    fn on_head(&mut self, id: u32, ends: bool, block: &[u8], bodies: &mut Bodies) -> Handled {
        let is_traced = self.traces.iter().any(|(_, traced, _)| *traced == id);
        let mut wanted = Wanted::default();
        if let Some(stream) = self.streams.get_mut(id) {
            wanted.keep = stream.body.captured || is_traced || stream.events.is_some();
            wanted.split_by = stream.split.map(|at| &*self.split_names[usize::from(at)]);
        }
        let decoded = self.heads.decode(block, wanted).map_err(|error| match error {
            HpackError::Malformed => Violation(Code::COMPRESSION_ERROR, Fault::BadHeaderBlock),
            HpackError::TooLarge => Violation(Code::ENHANCE_YOUR_CALM, Fault::HeadTooLong),
        })?;
        let Some(stream) = self.streams.get_mut(id) else {
            self.expect_cancelled(id)?;
            self.count_idle()?;
            return Ok(None);
        };
        if !stream.sent {
            return Err(Violation(Code::PROTOCOL_ERROR, Fault::AnswerFirst));
        }
        let is_trailer = stream.head.is_some();
        let head = match decoded {
            Ok(head) if (head.status == 0) == is_trailer && (ends || !is_trailer) => head,
            Ok(_) => {
                let failure = Failure::fault(Fault::BadHeader);
                return Ok(self.fail(id, Code::PROTOCOL_ERROR, failure, bodies));
            }
            Err(fault) => {
                let failure = Failure::fault(fault);
                return Ok(self.fail(id, Code::PROTOCOL_ERROR, failure, bodies));
            }
        };
        if let Some((.., trace)) = self.traces.iter_mut().find(|(_, traced, _)| *traced == id) {
            trace.response.extend(&head.bytes);
        }
        if is_trailer {
            return self.complete(id, None, bodies);
        }
        if head.status < 200 {
            stream.interim += 1;
            let fault = match head.status {
                101 => Some(Fault::Switched),
                _ if ends => Some(Fault::BadHeader),
                _ if stream.interim > INTERIM_MAX => Some(Fault::TooManyInterim),
                _ => None,
            };
            let failed = fault.map(Failure::fault);
            let failed =
                failed.and_then(|failure| self.fail(id, Code::PROTOCOL_ERROR, failure, bodies));
            return Ok(failed);
        }
        if stream.events.is_some() {
            return Ok(self.on_event_head(id, head, ends, bodies));
        }
        let length = if stream.head_only { None } else { head.length };
        let begun = stream.body.begin((head.status, head.gzip, length), bodies);
        stream.head = Some(head);
        if let Err(failure) = begun {
            return Ok(self.fail(id, Code::CANCEL, failure, bodies));
        }
        if ends {
            return self.complete(id, None, bodies);
        }
        self.begun.push(id);
        Ok(None)
    }
}

/// The payload of a PING.
fn payload_of(payload: &[u8]) -> [u8; 8] {
    payload.try_into().expect("its length was checked")
}

/// The number that is the whole payload.
fn number_of(payload: &[u8]) -> Result<u32, Violation> {
    match payload.len() {
        4 => Ok(frame::number(payload).expect("four bytes")),
        _ => broken(Code::FRAME_SIZE_ERROR),
    }
}
