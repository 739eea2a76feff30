//! A response as it arrives: its head, then its body as a whole or in chunks.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Limits;

use super::pool::Pool;
use super::{Connection, Failure, Request};
use crate::buffer;
use crate::error::{Error, ErrorKind};
use crate::gzip;
use crate::http1::{self, Body, Coding, Progress};
use crate::local::{BUFFER_POOLED_MAX, BUFFER_SIZE, Local};
use crate::payload::Held;
use crate::permit::{Purpose, Share};

/// The longest head of a response, in bytes.
const HEAD_MAX: usize = 64 << 10;

/// At most this many 1xx responses before the final one; servers send one or two.
const INFORMATIONAL_MAX: u32 = 16;

/// A response whose head or body is still to be read.
pub(crate) struct Reply {
    local: Rc<Local>,
    connection: Connection,
    pool: Rc<Pool>,
    was_pooled: bool,
    is_head: bool,
    deadline: Nanos,
    limit: u64,
    reading: Reading,
    buffer: Vec<u8>,
    /// Covers the buffer beyond its initial size.
    share: Option<Share>,
    /// Whether the request was sent as a whole, and the response is still to come.
    is_owed: bool,
}

/// A connection taken from a pool, or opened for it.
pub(super) struct Checkout {
    pub(super) connection: Connection,
    /// Whether the connection came from the pool.
    pub(super) was_pooled: bool,
    pub(super) pool: Rc<Pool>,
}

/// A complete response.
pub(crate) struct Response {
    /// Contains the head and the body.
    pub(crate) buffer: Vec<u8>,
    pub(crate) body: Range<usize>,
    /// Covers the buffer if the response is long.
    pub(crate) share: Option<Share>,
}

/// A connection that may be reused once its response has been accepted as the answer.
pub(crate) struct Reusable {
    connection: Connection,
    pool: Rc<Pool>,
}

impl Reusable {
    /// Returns the connection to its pool.
    pub(crate) fn release(self, now: Nanos) {
        self.pool.put(self.connection, now);
    }

    /// Returns the connection to its pool as the only idle one.
    pub(crate) fn release_alone(self, now: Nanos) {
        self.pool.clear();
        self.release(now);
    }
}

impl Response {
    #[inline]
    pub(crate) fn body(&self) -> &[u8] {
        &self.buffer[self.body.clone()]
    }

    /// Removes the response's content coding.
    ///
    /// # Errors
    /// The body cannot be decoded, is longer than `limit` bytes, or memory is used up.
    pub(crate) async fn decoded(
        self,
        local: &Local,
        coding: Coding,
        limit: u64,
    ) -> Result<Response, Failure> {
        let bad = |message: &'static str| Failure::new(ErrorKind::BadAnswer, true, message);
        match coding {
            Coding::None => return Ok(self),
            Coding::Gzip => {}
            Coding::Other => {
                return Err(bad("the upstream's answer has a content coding other than gzip"));
            }
        }
        let body = self.into_bytes();
        let plain = gzip::decompressed(local, &body, || body.clone(), limit).await;
        let plain = plain.map_err(|error| match error.kind {
            ErrorKind::UnsupportedEncoding => bad("the upstream's answer is not valid gzip"),
            ErrorKind::BodyTooLarge => too_large(limit),
            kind => Failure::new(kind, true, error.message),
        })?;
        let Held { bytes: buffer, share } = plain;
        let body = 0..buffer.len();
        Ok(Response { buffer, body, share })
    }

    /// The body as shared bytes, with the share that covers them.
    pub(crate) fn into_bytes(self) -> Bytes {
        Held { bytes: self.buffer, share: self.share }.into_bytes().slice(self.body)
    }
}

impl Reply {
    pub(super) fn new(
        local: Rc<Local>,
        from: Checkout,
        request: &Request<'_>,
        limits: &Limits,
    ) -> Reply {
        let buffer = local.take_buffer();
        Reply {
            local,
            connection: from.connection,
            pool: from.pool,
            was_pooled: from.was_pooled,
            is_head: request.method == "HEAD",
            deadline: request.deadline,
            limit: limits.answer,
            reading: Reading::default(),
            buffer,
            share: None,
            is_owed: false,
        }
    }

    /// Writes the request and reads the head of the response.
    ///
    /// # Errors
    /// No head arrived within the deadline and the limits.
    pub(crate) async fn begin(&mut self, request: &Request<'_>) -> Result<(), Failure> {
        if let Err(failure) = self.connection.write(&self.local, request).await {
            let stale = self.was_pooled && !failure.sent;
            return Err(self.stale_or_not(failure, stale));
        }
        self.is_owed = true;
        match self.read_head().await {
            Ok(()) if self.was_pooled => self.pool.was_good(),
            Ok(()) => {}
            Err(failure) => {
                let is_broken = failure.kind == ErrorKind::Broken;
                let stale = self.was_pooled && is_broken && self.is_untouched();
                return Err(self.stale_or_not(failure, stale));
            }
        }
        Ok(())
    }

    #[cold]
    fn stale_or_not(&self, failure: Failure, stale: bool) -> Failure {
        if stale {
            self.pool.was_stale(self.local.now());
        }
        Failure { stale, ..failure }
    }

    /// Whether the upstream still works on the request, as far as is known.
    pub(crate) fn is_owed(&self) -> bool {
        self.is_owed
    }

    /// Reads the rest of a response that nobody waits for any more, `until` this time, if it is at most
    /// this long, and returns the range of its body. May be called again after a timeout.
    ///
    /// # Errors
    /// It did not end by then, or is longer, or the connection broke.
    pub(crate) async fn rest(
        &mut self,
        until: Nanos,
        length_max: u64,
    ) -> Result<Range<usize>, Failure> {
        (self.deadline, self.limit) = (until, self.limit.min(length_max));
        if self.reading.head.is_none() {
            self.read_head().await?;
        }
        self.read_body().await
    }

    /// Returns the connection to its pool: nothing was sent.
    #[cold]
    pub(crate) fn put_back(self, now: Nanos) {
        self.pool.put(self.connection, now);
    }

    /// When its connection was opened.
    #[inline]
    pub(crate) fn opened_at(&self) -> Nanos {
        self.connection.opened_at
    }

    /// Whether no byte of the response has arrived.
    fn is_untouched(&self) -> bool {
        self.buffer.is_empty() && self.reading.head.is_none() && self.reading.informational == 0
    }

    async fn read_head(&mut self) -> Result<(), Failure> {
        while !self.reading.find_head(&mut self.buffer, self.is_head)? {
            let room = self.grow(1)?;
            if !self.read(self.deadline, room).await? {
                return Err(self.reading.ended_in_head(&self.buffer));
            }
        }
        Ok(())
    }

    /// Whether the head of the response has been read.
    pub(crate) fn has_head(&self) -> bool {
        self.reading.head.is_some()
    }

    /// The status and the head's bytes.
    pub(crate) fn head(&self) -> (u16, &[u8]) {
        let head = self.reading.head.as_ref().expect("the head was read");
        (head.status, &self.buffer[..head.end])
    }

    /// The content coding of the body.
    pub(crate) fn coding(&self) -> Coding {
        self.reading.head.as_ref().map(|head| head.coding).unwrap_or_default()
    }

    /// The body's length, if it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.reading.head.as_ref().and_then(|head| head.body.length())
    }

    /// Reads the body to its end. Also returns the connection if it may be reused.
    ///
    /// # Errors
    /// The body does not end within the deadline and the limits.
    pub(crate) async fn whole(mut self) -> Result<(Response, Option<Reusable>), Failure> {
        let body = self.read_body().await?;
        Ok(self.finish(body))
    }

    /// Reads the body to its end and returns its range in the buffer.
    pub(crate) async fn read_body(&mut self) -> Result<Range<usize>, Failure> {
        loop {
            let due = match self.reading.advance(&mut self.buffer, self.limit)? {
                Progress::Whole(body) => return Ok(body),
                Progress::More(due) => due,
                Progress::TooLarge => return Err(too_large(self.limit)),
            };
            let room = self.grow(due)?;
            let before = self.buffer.len();
            if !self.read(self.deadline, room).await? {
                return self.reading.at_close(&self.buffer);
            }
            buffer::give_way(self.buffer.len() - before).await;
        }
    }

    /// The response with the body that was read, and the connection if it may be reused.
    pub(crate) fn finish(self, body: Range<usize>) -> (Response, Option<Reusable>) {
        let Reply { connection, pool, buffer, share, mut reading, .. } = self;
        let head = reading.head.take().expect("the head was read");
        let reusable = (head.keep_alive && body.end == buffer.len())
            .then(|| Reusable { connection: head.apply(connection), pool });
        (Response { buffer, body, share }, reusable)
    }

    /// The body in chunks. Each read of the body may take up to `timeout`.
    pub(crate) fn into_chunks(self, timeout: Nanos) -> ReplyChunks {
        ReplyChunks { length: self.length(), reply: Some(self), timeout, returned: 0 }
    }

    async fn read(&mut self, deadline: Nanos, room: usize) -> Result<bool, Failure> {
        let read = self.connection.read(&self.local, deadline, &mut self.buffer, room).await;
        self.is_owed = match &read {
            Ok(is_open) => *is_open,
            Err(failure) => failure.kind == ErrorKind::TimedOut,
        };
        read
    }

    /// Makes room for more of the response, of which `due` bytes are expected. Returns how many
    /// bytes may be read now.
    fn grow(&mut self, due: usize) -> Result<usize, Failure> {
        let free = self.buffer.capacity() - self.buffer.len();
        if free > 0 && self.buffer.capacity() <= BUFFER_POOLED_MAX {
            // Covered by the call's permit.
            return Ok(free);
        }
        let share = self.share.get_or_insert_with(|| self.local.share(Purpose::Long));
        let grown = buffer::grow(&mut self.buffer, due, share);
        grown.map_err(|busy| Failure::new(busy.kind, true, busy.message))
    }
}

fn too_large(limit: u64) -> Failure {
    let message = format!("the upstream's answer is longer than {limit} bytes");
    Failure::new(ErrorKind::AnswerTooLarge, true, message)
}

/// What is wrong may quote the upstream, so it is only logged for operators.
fn broken(error: Error) -> Failure {
    let failure = Failure::new(ErrorKind::Broken, true, "the upstream's answer is not valid HTTP");
    failure.with_detail(None, error.message.as_bytes())
}

/// A response's body, chunk by chunk.
pub(crate) struct ReplyChunks {
    /// `None` once the last chunk has been returned.
    reply: Option<Reply>,
    /// The timeout of each read.
    timeout: Nanos,
    /// Bytes of the body returned so far.
    returned: u64,
    length: Option<u64>,
}

impl ReplyChunks {
    /// The body's length, if it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next chunk; `None` after the last.
    ///
    /// # Errors
    /// The body ended early, stalled, or is too long.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(reply) = &mut self.reply else { return Ok(None) };
        loop {
            let limit = reply.limit.saturating_sub(self.returned);
            let mut is_last = match reply.reading.advance(&mut reply.buffer, limit)? {
                Progress::Whole(_) => true,
                Progress::More(_) => false,
                Progress::TooLarge => return Err(too_large(reply.limit)),
            };
            let mut chunk = reply.reading.take_piece(&mut reply.buffer);
            if chunk.is_empty() && !is_last {
                reply.buffer.reserve(BUFFER_SIZE);
                let deadline = reply.local.now() + self.timeout;
                if reply.read(deadline, BUFFER_SIZE).await? {
                    continue;
                }
                let rest = reply.reading.at_close(&reply.buffer)?;
                chunk = reply.buffer[rest].to_vec();
                is_last = true;
            }
            self.returned += chunk.len() as u64;
            if is_last {
                // The connection is not reused: a request with contents chosen by a caller may
                // cause further responses on it.
                self.reply = None;
            }
            return Ok((!chunk.is_empty()).then(|| Bytes::from(chunk)));
        }
    }
}

/// The parser of a response as it arrives.
#[derive(Default)]
pub(crate) struct Reading {
    /// Bytes already searched for the end of the head.
    seen: usize,
    informational: u32,
    head: Option<Head>,
}

struct Head {
    status: u16,
    keep_alive: bool,
    /// How long the upstream keeps an idle connection, if it sent Keep-Alive.
    idle_max: Option<Nanos>,
    coding: Coding,
    end: usize,
    body: Body,
}

impl Head {
    /// Applies the upstream's idle limit to the connection.
    fn apply(&self, mut connection: Connection) -> Connection {
        if let Some(idle_max) = self.idle_max {
            connection.idle_max = idle_max.min(super::IDLE_MAX);
        }
        connection
    }
}

impl Reading {
    /// Looks for the head of the final response in `buffer`; returns whether it is complete.
    pub(crate) fn find_head(
        &mut self,
        buffer: &mut Vec<u8>,
        is_head: bool,
    ) -> Result<bool, Failure> {
        while self.head.is_none() {
            let Some(end) = http1::head_end(buffer, self.seen) else {
                self.seen = buffer.len();
                if buffer.len() > HEAD_MAX {
                    let message = "the head of the upstream's answer is longer than 64 KiB";
                    return Err(Failure::new(ErrorKind::Broken, true, message));
                }
                return Ok(false);
            };
            let head = http1::response_head(&buffer[..end], is_head).map_err(broken)?;
            match head.status {
                // The gateway never requests an upgrade.
                101 => return Err(broken(http1::malformed("unexpected 101 Switching Protocols"))),
                100..200 if self.informational < INFORMATIONAL_MAX => {
                    buffer.drain(..end);
                    (self.seen, self.informational) = (0, self.informational + 1);
                }
                100..200 => return Err(broken(http1::malformed("too many 1xx responses"))),
                status => {
                    self.head = Some(Head {
                        status,
                        keep_alive: head.keep_alive,
                        idle_max: head.idle_max,
                        coding: head.coding,
                        end,
                        body: Body::new(head.framing, end),
                    });
                }
            }
        }
        Ok(true)
    }

    /// Parses as much of the body as has arrived. The head must have been found.
    pub(crate) fn advance(
        &mut self,
        buffer: &mut Vec<u8>,
        limit: u64,
    ) -> Result<Progress, Failure> {
        let head = self.head.as_mut().expect("the head was found");
        head.body.advance(buffer, limit).map_err(broken)
    }

    fn take_piece(&mut self, buffer: &mut Vec<u8>) -> Vec<u8> {
        let head = self.head.as_mut().expect("the head was found");
        head.body.take_piece(buffer)
    }

    /// The response's status. The head must have been found.
    pub(crate) fn status(&self) -> u16 {
        self.head.as_ref().map_or(0, |head| head.status)
    }

    fn ended_in_head(&self, buffer: &[u8]) -> Failure {
        let message = if buffer.is_empty() {
            "the upstream closed the connection without answering"
        } else {
            "the upstream closed the connection in the middle of its answer's head"
        };
        Failure::new(ErrorKind::Broken, true, message)
    }

    /// The range of the body when the connection is closed.
    ///
    /// # Errors
    /// The body is incomplete.
    pub(crate) fn at_close(&self, buffer: &[u8]) -> Result<Range<usize>, Failure> {
        let body = self.head.as_ref().and_then(|head| head.body.at_close(buffer));
        body.ok_or_else(|| {
            let message = "the upstream closed the connection in the middle of its answer's body";
            Failure::new(ErrorKind::Broken, true, message)
        })
    }
}
