//! The client's side of HTTP/1.1: one exchange with an upstream, over a connection that is kept.
//!
//! Each worker has connections of its own, the one used last taken first. An exchange ends in a whole
//! response or in a failure that says whether any byte of the request may have reached the upstream.
//! A kept connection may be closed by the upstream at the very moment when it is used again; a
//! request that got no byte of an answer over such a one is sent once more over another, unless doing
//! it twice could matter. Everything else that may be tried again is for the caller to decide.
//!
//! Invariant: a connection goes back to the pool only after a whole response with nothing behind it,
//! and only when whoever asked takes it for the answer, so that none can be taken for another's.

mod connect;
mod pool;

use std::borrow::Cow;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use plimsoll_measure::Nanos;
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::budget::Share;
use crate::call::routing::Upstream;
use crate::call::worker::{View, Worker};
use crate::error::ErrorKind;
use crate::http1::{self, Body, Progress};
use crate::transport::io::Io;
use crate::transport::timer::{Late, Timer};
use plimsoll_registry::settings::Limits;

pub(crate) use pool::Pool;

/// The longest head of a response, in bytes.
const HEAD_MAX: usize = 64 << 10;

/// A buffer for a longer body grows by so much at a time, so that an upstream that announces much
/// and sends little costs little.
const GROWTH_MAX: usize = 1 << 20;

/// Interim responses before the one that counts; servers send one or two.
const INTERIM_MAX: u32 = 16;

/// A connection to an upstream.
pub(crate) struct Connection {
    io: Io,
    timer: Timer,
    idle_since: Nanos,
    _open: Open,
}

/// Counts a connection for as long as it is open.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: &Rc<Worker>) -> Open {
        worker.counts().upstream.add(1);
        Open(worker.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts().upstream.take(1);
    }
}

/// A request, ready to be sent.
pub(crate) struct Request<'a> {
    /// The HTTP method.
    pub(crate) method: &'a str,
    /// Head and body.
    pub(crate) bytes: &'a [u8],
    /// Whether doing it twice does no harm.
    pub(crate) repeatable: bool,
    pub(crate) deadline: Nanos,
}

/// A whole response.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Holds head and body.
    pub(crate) buffer: Vec<u8>,
    pub(crate) head: Range<usize>,
    pub(crate) body: Range<usize>,
    /// A long answer's part of the memory.
    pub(crate) _share: Option<Share>,
    /// What it came over, where that may be used again.
    pub(crate) kept: Option<(Rc<Pool>, Connection)>,
}

impl Response {
    pub(crate) fn body(&self) -> &[u8] {
        &self.buffer[self.body.clone()]
    }

    /// Gives back what it holds; the connection only when it was the answer to what was asked.
    pub(crate) fn release(self, worker: &Worker, answered: bool) {
        worker.give_buffer(self.buffer);
        if let Some((pool, connection)) = self.kept.filter(|_| answered) {
            pool.give(connection, worker.now());
        }
    }
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) message: Cow<'static, str>,
    /// Whether any byte of the request may have reached the upstream.
    pub(crate) sent: bool,
}

impl Failure {
    fn new(kind: ErrorKind, sent: bool, message: impl Into<Cow<'static, str>>) -> Failure {
        Failure { kind, message: message.into(), sent }
    }
}

/// Sends a request to an upstream and reads the response.
///
/// # Errors
/// There is no whole response within the deadline and the limits.
pub(crate) async fn exchange(
    worker: &Rc<Worker>,
    view: &View,
    upstream: &Arc<Upstream>,
    request: &Request<'_>,
) -> Result<Response, Failure> {
    let pool = worker.pool(upstream, &view.settings);
    let _place = match pool.place_now() {
        Some(place) => place,
        None => Box::pin(pool.place(worker, request.deadline)).await?,
    };
    let limits = &view.settings.limits;
    loop {
        let (mut connection, kept) = match pool.take(!request.repeatable) {
            Some(connection) => (connection, true),
            None => {
                let connecting = connect::connect(worker, upstream, request.deadline);
                (Box::pin(connecting).await?, false)
            }
        };
        let mut buffer = worker.take_buffer();
        let mut share = None;
        let ended = connection.exchange(worker, request, limits, &mut buffer, &mut share).await;
        match ended {
            Ok(Exchanged { status, head, body, keep_alive }) => {
                let stays = keep_alive && body.end == buffer.len();
                let kept = stays.then(|| (pool.clone(), connection));
                return Ok(Response { status, buffer, head, body, _share: share, kept });
            }
            Err(failure) => {
                let silent = failure.kind == ErrorKind::Broken && buffer.is_empty();
                worker.give_buffer(buffer);
                if !(kept && silent && (request.repeatable || !failure.sent)) {
                    return Err(failure);
                }
            }
        }
    }
}

pub(crate) struct Exchanged {
    pub(crate) status: u16,
    pub(crate) head: Range<usize>,
    pub(crate) body: Range<usize>,
    keep_alive: bool,
}

impl Connection {
    async fn exchange(
        &mut self,
        worker: &Worker,
        request: &Request<'_>,
        limits: &Limits,
        buffer: &mut Vec<u8>,
        share: &mut Option<Share>,
    ) -> Result<Exchanged, Failure> {
        let until = worker.instant(request.deadline);
        let Connection { io, timer, .. } = self;
        let mut sent = 0;
        let written = timer.limit(until, write_all(io, request.bytes, &mut sent)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let message = format!("the upstream closed the connection: {error}");
                return Err(Failure::new(ErrorKind::Broken, sent > 0, message));
            }
            Err(Late) => {
                let message = "the upstream did not read the request in time";
                return Err(Failure::new(ErrorKind::TimedOut, sent > 0, message));
            }
        }
        let mut reading = Reading::default();
        loop {
            let read = timer.limit(until, io.read_buf(buffer)).await;
            match read {
                Ok(Ok(0)) => return reading.at_close(buffer),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let message = format!("the upstream broke the connection: {error}");
                    return Err(Failure::new(ErrorKind::Broken, true, message));
                }
                Err(Late) => {
                    let message = match buffer.is_empty() {
                        true => "the upstream did not answer in time",
                        false => "the upstream did not finish its answer in time",
                    };
                    return Err(Failure::new(ErrorKind::TimedOut, true, message));
                }
            }
            if let Some(exchanged) = reading.advance(buffer, request.method, limits.answer)? {
                return Ok(exchanged);
            }
            Share::cover(share, worker, buffer.capacity(), limits.memory)
                .map_err(|busy| Failure::new(busy.kind, true, busy.message))?;
        }
    }
}

/// A response as it arrives.
#[derive(Default)]
pub(crate) struct Reading {
    /// So much was searched for the end of the head.
    seen: usize,
    interim: u32,
    head: Option<(u16, bool, Range<usize>, Body)>,
}

impl Reading {
    /// Looks at what has arrived.
    pub(crate) fn advance(
        &mut self,
        buffer: &mut Vec<u8>,
        method: &str,
        limit: u64,
    ) -> Result<Option<Exchanged>, Failure> {
        let broken = |error: crate::error::Error| {
            let message = format!("the upstream's answer is not HTTP: {}", error.message);
            Failure::new(ErrorKind::Broken, true, message)
        };
        while self.head.is_none() {
            let Some(end) = http1::head_end(buffer, self.seen) else {
                self.seen = buffer.len();
                if buffer.len() > HEAD_MAX {
                    let message = "the head of the upstream's answer is too long";
                    return Err(Failure::new(ErrorKind::Broken, true, message));
                }
                buffer.reserve(1);
                return Ok(None);
            };
            let head = http1::response_head(&buffer[..end], method).map_err(broken)?;
            match head.status {
                // Nobody asked for another protocol.
                101 => return Err(broken(http1::malformed("it switches protocols"))),
                // An interim response: the one that counts comes behind it.
                100..200 if self.interim < INTERIM_MAX => {
                    buffer.drain(..end);
                    (self.seen, self.interim) = (0, self.interim + 1);
                }
                100..200 => return Err(broken(http1::malformed("one interim answer too many"))),
                status => {
                    let body = Body::new(head.framing, end);
                    self.head = Some((status, head.keep_alive, 0..end, body));
                }
            }
        }
        let Some((status, keep_alive, head, body)) = &mut self.head else { return Ok(None) };
        match body.advance(buffer, limit).map_err(broken)? {
            Progress::Whole(body) => Ok(Some(Exchanged {
                status: *status,
                head: head.clone(),
                body,
                keep_alive: *keep_alive,
            })),
            Progress::More(due) => {
                buffer.reserve(due.min(GROWTH_MAX));
                Ok(None)
            }
            Progress::TooLarge => {
                let message = format!("the upstream's answer is longer than {limit} bytes");
                Err(Failure::new(ErrorKind::AnswerTooLarge, true, message))
            }
        }
    }

    /// What the end of the connection makes of it.
    pub(crate) fn at_close(&self, buffer: &[u8]) -> Result<Exchanged, Failure> {
        let broken = |message| Err(Failure::new(ErrorKind::Broken, true, message));
        let Some((status, _, head, body)) = &self.head else {
            return broken(match buffer.is_empty() {
                true => "the upstream closed the connection without an answer",
                false => "the upstream closed the connection within the head of its answer",
            });
        };
        match body.at_close(buffer) {
            Some(body) => {
                Ok(Exchanged { status: *status, head: head.clone(), body, keep_alive: false })
            }
            None => broken("the upstream closed the connection within the body of its answer"),
        }
    }
}

/// Writes everything, and says how much was taken.
pub(crate) async fn write_all(io: &mut Io, bytes: &[u8], sent: &mut usize) -> std::io::Result<()> {
    std::future::poll_fn(|context| {
        while *sent < bytes.len() {
            match std::task::ready!(Pin::new(&mut *io).poll_write(context, &bytes[*sent..]))? {
                0 => return std::task::Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                n => *sent += n,
            }
        }
        Pin::new(&mut *io).poll_flush(context)
    })
    .await
}
