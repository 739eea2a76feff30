//! A caller's connection: reads requests and writes answers, one after another.
//!
//! HTTP/1.1 is handled here; HTTP/2 (by ALPN, or by its preface in cleartext) is handed to `http2`. An
//! idle connection holds no buffer. A request that cannot be parsed unambiguously is answered with an
//! error, and the connection is closed.
//!
//! Invariant: every complete request is answered, in order, before the next is read; the connection is
//! closed only between answers, or because the caller closes it.

mod head;
mod http2;
mod read;
mod sessions;
mod wire;

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Faces;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{compress, face};
use crate::call::message::{AllFields, Answer, Body, Request};
use crate::call::worker::{View, Worker};
use crate::http1::{self, Framing, Glimpse};
use crate::local::BUFFER_SIZE;
use crate::offload;
use crate::payload::{Held, Payload};
use crate::permit::{CONNECTION_BYTES, Purpose, Share, TLS_BYTES};
use crate::transport::io::Io;
use crate::transport::timer::Timer;

use head::Delimited;
use read::Unread;
pub(crate) use sessions::Sessions;
use sessions::Slot;
use wire::{Watch, Wire};

/// The start of a cleartext HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// After an answer that closes the connection, further bytes from the caller are discarded, so that it
/// can read the answer: closing with unread bytes would reset the connection. This is the maximum pause
/// between bytes.
const LINGER_PAUSE: Nanos = Nanos::from_secs(2);

/// The maximum total time of discarding: enough for some hundred megabytes over a typical line.
const LINGER_TIME: Nanos = Nanos::from_secs(30);

/// An accepted connection.
pub(crate) struct Arrival {
    pub(crate) stream: TcpStream,
    pub(crate) peer: IpAddr,
    /// What its listener serves.
    pub(crate) faces: Faces,
    /// Covers the connection's memory.
    pub(crate) share: Share,
}

/// Serves a connection until it is closed.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    sessions: Rc<Sessions>,
    arrival: Arrival,
    tls: Option<TlsAcceptor>,
) {
    let Arrival { stream, peer, faces, share } = arrival;
    let mut open = Open { worker: worker.clone(), share };
    let local = worker.local.clone();
    // Answers must not wait for the caller's acknowledgement (Nagle).
    let _ = stream.set_nodelay(true);
    let until = local.instant(local.now() + worker.view().settings.limits.header_time);
    let mut timer = Timer::new(until);
    let (io, agreed_on_http2) = match tls {
        None => (Io::Plain(stream), false),
        Some(tls) => {
            if open.share.add(TLS_BYTES).is_err() {
                return;
            }
            match Box::pin(timer.limit(until, tls.accept(stream))).await {
                Ok(Ok(stream)) => {
                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    (Io::Tls(Box::new(stream.into())), http2)
                }
                // Without a handshake there is no way to answer.
                _ => return,
            }
        }
    };
    let mut session = Session {
        wire: Wire { local, io, timer },
        slot: sessions.enter(),
        peer,
        faces,
        share: None,
        buffer: Vec::new(),
        is_new: true,
        worker,
    };
    let last = if agreed_on_http2 {
        session.expect_http2().await
    } else {
        loop {
            match session.turn().await {
                NextStep::Read => {}
                last => break last,
            }
        }
    };
    let Session { worker, wire, slot, peer, faces, buffer, .. } = session;
    match last {
        NextStep::Http2 => {
            Box::pin(http2::serve(worker, wire.io, buffer, (peer, faces), slot, &mut open.share))
                .await;
        }
        NextStep::Read | NextStep::End => worker.local.give_buffer(buffer),
    }
}

/// An open connection; subtracts it from the count on drop. The acceptor has added it.
struct Open {
    worker: Rc<Worker>,
    share: Share,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.local.counts().downstream.take(1);
    }
}

struct Session {
    worker: Rc<Worker>,
    wire: Wire,
    slot: Slot,
    peer: IpAddr,
    faces: Faces,
    /// Covers the buffer while a request is being received; later, a call's permit covers it.
    share: Option<Share>,
    /// Bytes read but not yet consumed; empty and unallocated between requests.
    buffer: Vec<u8>,
    /// No request has started yet.
    is_new: bool,
}

/// What to do after a request.
enum NextStep {
    Read,
    /// Switch to HTTP/2; the buffer starts with its preface.
    Http2,
    End,
}

impl Session {
    /// Reads the preface of a caller that has negotiated HTTP/2; closes on anything else.
    async fn expect_http2(&mut self) -> NextStep {
        let limits = self.worker.view().settings.limits;
        match self.read_preface(&limits).await {
            Err(Unread::Preface) => NextStep::Http2,
            _ => NextStep::End,
        }
    }

    /// Reads a request and answers it.
    async fn turn(&mut self) -> NextStep {
        let worker = self.worker.clone();
        let head_end = self.read_head().await;
        // The view is taken after the wait, so that a request uses the current settings.
        let view = worker.view();
        let head_end = match head_end {
            Ok(end) => end,
            Err(unread) => return Box::pin(self.refuse(&view, unread)).await,
        };
        let mut long = None;
        let mut head = match http1::request_head(&self.buffer[..head_end]) {
            Ok(head) => head,
            Err(error) => return Box::pin(self.refuse(&view, error.into())).await,
        };
        let here = (self.buffer.len() - head_end) as u64;
        let body = match head.framing {
            Framing::Empty => head_end..head_end,
            Framing::Length(length) if length <= here.min(view.settings.limits.body) => {
                head_end..head_end + length as usize
            }
            framing => {
                let expects = head.fields.expect_continue && !head.old;
                let body = match Box::pin(self.read_body(&view, framing, head_end, expects)).await {
                    Ok(body) => body,
                    Err(unread) => return Box::pin(self.refuse(&view, unread)).await,
                };
                if body.len() > offload::INLINE_MAX {
                    // Moved to its own buffer, so that other threads may read it.
                    long = Some(self.take_long(body.end));
                }
                // The buffer has moved: the head, which borrows from it, is parsed again.
                match http1::request_head(&long.as_deref().unwrap_or(&self.buffer)[..head_end]) {
                    Ok(again) => head = again,
                    Err(_) => return NextStep::End,
                }
                body
            }
        };
        let consumed = body.end;
        let bytes = long.as_deref().unwrap_or(&self.buffer);
        // The call starts here, with any changes made while the body was received.
        let view = worker.view();
        let request = Request {
            method: head.method,
            target: head.target,
            fields: &head.fields,
            all: AllFields::Head(&bytes[..head_end]),
            body: match &long {
                Some(bytes) => Body::Long(bytes.slice(body)),
                None => Body::Short(&self.buffer[body]),
            },
            peer: self.peer,
            faces: self.faces,
            start: worker.local.now(),
            purpose: Purpose::First,
        };
        let answering = face::answer(&worker, &view, None, &request);
        let is_alone = consumed >= bytes.len();
        let mut watch = Watch::before_answer(is_alone && !head.old);
        let answered = wire::unless_gone(&mut self.wire.io, &mut watch, answering).await;
        let Some(mut answer) = answered else { return NextStep::End };
        let accepts = head.fields.accept_encoding;
        compress::compress(&worker, &view, accepts, &mut answer).await;
        let keep_alive = head.keep_alive && !worker.shared.is_draining();
        let mut out = worker.local.take_buffer();
        let delimited = head::write(&worker, &view, &head, &answer, keep_alive, &mut out);
        if long.is_none() {
            self.release(consumed);
        }
        drop(long);
        let is_written = match (&mut answer.body, delimited) {
            // Sent in a single write, so that it cannot be truncated. Counted before the write, so that
            // the metrics include every answer that a caller has read.
            (Payload::Whole(body), Delimited::ByLength) if body.len() <= BUFFER_SIZE => {
                answer.settlement.settle(body.len() as u64, true);
                out.extend_from_slice(body);
                worker.local.give_buffer(std::mem::take(body));
                let write_time = view.settings.limits.write_time;
                let is_written = self.wire.write(&[&out], write_time, &mut 0).await;
                worker.local.give_buffer(out);
                is_written
            }
            _ => Box::pin(self.write_answer(&view, answer, delimited, out, is_alone)).await,
        };
        match (is_written, keep_alive && delimited != Delimited::ByClose) {
            (true, true) => NextStep::Read,
            (true, false) => Box::pin(self.linger()).await,
            (false, _) => NextStep::End,
        }
    }

    /// Writes a longer answer, whose head is in `out`; false if the connection must be closed. `is_alone`:
    /// the caller has sent no further request.
    async fn write_answer(
        &mut self,
        view: &View,
        mut answer: Answer<'_>,
        delimited: Delimited,
        out: Vec<u8>,
        is_alone: bool,
    ) -> bool {
        let write_time = view.settings.limits.write_time;
        let head = out.len();
        let mut sent = 0;
        let body = match delimited {
            Delimited::Bodiless => Payload::Whole(Vec::new()),
            _ => answer.body,
        };
        let is_written = match body {
            Payload::Whole(body) => {
                let is_written = self.wire.write(&[&out, &body], write_time, &mut sent).await;
                self.worker.local.give_buffer(body);
                is_written
            }
            Payload::Shared(parts) => {
                let slices: Vec<&[u8]> = std::iter::once(&*out)
                    .chain(parts.iter().map(|part| &**part))
                    .filter(|part| !part.is_empty())
                    .collect();
                let is_written = self.wire.write(&slices, write_time, &mut sent).await;
                offload::discard(parts);
                is_written
            }
            Payload::Pieces(mut pieces) => {
                let mut is_written = self.wire.write(&[&out], write_time, &mut sent).await;
                let probe = framed(pieces.probe(), delimited);
                let mut watch = Watch::between_parts(&probe, is_alone);
                while is_written {
                    let next = pieces.next();
                    let next = wire::unless_gone(&mut self.wire.io, &mut watch, next).await;
                    let Some(Ok(piece)) = next else {
                        is_written = false;
                        break;
                    };
                    let is_last = piece.is_none();
                    is_written = self.write_piece(piece, delimited, write_time, &mut sent).await;
                    if is_last {
                        break;
                    }
                }
                is_written
            }
        };
        self.worker.local.give_buffer(out);
        answer.settlement.settle(sent.saturating_sub(head) as u64, is_written);
        is_written
    }

    /// Writes a part of a body, or its end.
    async fn write_piece(
        &mut self,
        piece: Option<Bytes>,
        delimited: Delimited,
        write_time: Nanos,
        sent: &mut usize,
    ) -> bool {
        let mut taken = 0;
        let is_written = match (piece, delimited) {
            (Some(piece), Delimited::ByChunks) => {
                let size = format!("{:x}\r\n", piece.len());
                let parts = [size.as_bytes(), &piece, b"\r\n"];
                self.wire.write(&parts, write_time, &mut taken).await
            }
            (None, Delimited::ByChunks) => {
                self.wire.write(&[b"0\r\n\r\n"], write_time, &mut taken).await
            }
            (Some(piece), _) => self.wire.write(&[&piece], write_time, &mut taken).await,
            (None, _) => true,
        };
        *sent += taken;
        is_written
    }

    /// Discards consumed bytes; returns the buffer to the pool if nothing is left.
    fn release(&mut self, consumed: usize) {
        if consumed < self.buffer.len() {
            self.buffer.drain(..consumed);
        } else {
            self.worker.local.give_buffer(std::mem::take(&mut self.buffer));
        }
        self.share = None;
    }

    /// Takes the buffer with a long body out of the session; bytes after the body stay.
    fn take_long(&mut self, consumed: usize) -> Bytes {
        let rest = self.buffer[consumed..].to_vec();
        let bytes = std::mem::replace(&mut self.buffer, rest);
        Held { bytes, share: self.share.take() }.into_bytes()
    }

    /// Answers an unreadable request, and closes the connection.
    async fn refuse(&mut self, view: &View, unread: Unread) -> NextStep {
        let error = match unread {
            Unread::Gone => return NextStep::End,
            Unread::Preface => return NextStep::Http2,
            Unread::Invalid(error) => error,
        };
        let worker = self.worker.clone();
        let seen = Glimpse::of(&self.buffer);
        let head_end = http1::head_end(&self.buffer, 0);
        let bytes_in = head_end.map_or(0, |end| self.buffer.len() - end);
        let mut answer =
            face::refused(&worker, view, &error, &seen, (self.peer, self.faces), bytes_in);
        let body = answer.body.length().unwrap_or_default() as usize;
        let mut out = Vec::new();
        head::write_refusal(&worker, view, &mut answer, &mut out);
        self.release(self.buffer.len());
        let mut sent = 0;
        let is_written = self.wire.write(&[&out], view.settings.limits.write_time, &mut sent).await;
        answer.settlement.settle(sent.saturating_sub(out.len() - body) as u64, is_written);
        if is_written { self.linger().await } else { NextStep::End }
    }

    /// Lets the caller read the last answer: shuts down writing, and discards what the caller sends
    /// until it closes.
    async fn linger(&mut self) -> NextStep {
        let start = self.wire.local.now();
        if !self.wire.shutdown(start + LINGER_PAUSE).await {
            return NextStep::End;
        }
        // Covered by the connection's share.
        let mut discarded = Vec::with_capacity(CONNECTION_BYTES as usize);
        loop {
            discarded.clear();
            let until = (self.wire.local.now() + LINGER_PAUSE).min(start + LINGER_TIME);
            let room = discarded.capacity();
            if !matches!(self.wire.read(until, &mut discarded, room).await, Ok(true)) {
                return NextStep::End;
            }
        }
    }
}

/// A part of a body as it is sent.
fn framed(part: &[u8], delimited: Delimited) -> Vec<u8> {
    match delimited {
        Delimited::ByChunks if !part.is_empty() => {
            [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()
        }
        _ => part.to_vec(),
    }
}
