//! A caller's connection: requests in, answers out, one after another.
//!
//! HTTP/1.1 is read and written here; HTTP/2 (by ALPN, or by its preface in clear) is handed to
//! `http2`. A connection that waits holds no buffer. Whatever cannot be read as one request and no
//! other is answered once and ends the connection.
//!
//! Invariant: every request that was read as a whole is answered, in order, before the next is read;
//! the connection ends only between answers, or because the caller ended it.

mod http2;
mod write;

use std::net::IpAddr;
use std::rc::Rc;

use plimsoll_measure::Nanos;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::budget::Share;
use crate::call::worker::{View, Worker};
use crate::error::{Error, ErrorKind, Shape};
use crate::http1::{self, Body, Framing, Progress};
use crate::serve::face::{self, AllFields, Answer, Request};
use crate::transport::io::Io;
use crate::transport::timer::{Late, Timer};
use crate::upstream::write_all;
use plimsoll_registry::settings::Limits;

/// What an HTTP/2 connection in clear starts with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// After an answer that ends the connection, so much of what the caller still sends is read over, so
/// that it can read the answer: closing on unread bytes would reset the connection.
const LINGER_BYTES: usize = 1 << 20;

/// And for so long.
const LINGER_TIME: Nanos = Nanos::from_secs(2);

/// A buffer for a long body grows by so much at a time.
const GROWTH_MAX: usize = 1 << 20;

/// Serves a connection until it ends.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: IpAddr,
    tls: Option<TlsAcceptor>,
) {
    let _open = Open(worker.clone());
    // An answer is written in one piece and must not wait for the caller's acknowledgement.
    let _ = stream.set_nodelay(true);
    let until = worker.instant(worker.now() + worker.view().settings.limits.header_time);
    let mut timer = Timer::new(until);
    let (io, agreed_on_http2) = match tls {
        None => (Io::Plain(stream), false),
        Some(tls) => match Box::pin(timer.limit(until, tls.accept(stream))).await {
            Ok(Ok(stream)) => {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                (Io::Tls(Box::new(stream.into())), http2)
            }
            // The caller speaks no TLS, or none that is taken: there is no way to tell it.
            _ => return,
        },
    };
    let mut session = Session { worker, io, timer, peer, share: None, buffer: Vec::new() };
    if agreed_on_http2 {
        // It must not take for ever to say what it agreed on. What else it says is nothing.
        let limits = session.worker.view().settings.limits;
        let _ = session.read_preface(&limits).await;
    } else {
        while let Then::Next = session.turn().await {}
    }
    let Session { worker, io, peer, buffer, .. } = session;
    if buffer.starts_with(PREFACE) {
        Box::pin(http2::serve(worker, io, buffer, peer)).await;
    } else {
        worker.give_buffer(buffer);
    }
}

/// Counts a connection for as long as it is open. It was counted in when it was accepted.
struct Open(Rc<Worker>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts().downstream.take(1);
    }
}

struct Session {
    worker: Rc<Worker>,
    io: Io,
    timer: Timer,
    peer: IpAddr,
    /// A long body's part of the memory.
    share: Option<Share>,
    /// What was read and not yet used; empty and without memory between requests.
    buffer: Vec<u8>,
}

/// What follows a turn.
enum Then {
    Next,
    End,
}

/// Why no request was read.
enum Unread {
    /// The caller is gone, or silent for too long between requests.
    Gone,
    /// It is HTTP/2.
    Preface,
    Wrong(Error),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Unread {
        Unread::Wrong(error)
    }
}

impl Session {
    /// Reads a request and answers it.
    async fn turn(&mut self) -> Then {
        let head_end = self.read_head().await;
        // What applies to a request is what there is when it comes, not while it was waited for.
        let view = self.worker.view();
        let head_end = match head_end {
            Ok(end) => end,
            Err(unread) => return Box::pin(self.refuse(&view, unread)).await,
        };
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
                match Box::pin(self.read_body(&view, framing, head_end, expects)).await {
                    Ok(body) => {
                        // The buffer may have moved: what was borrowed from it is read again.
                        let Ok(again) = http1::request_head(&self.buffer[..head_end]) else {
                            return Then::End;
                        };
                        head = again;
                        body
                    }
                    Err(unread) => return Box::pin(self.refuse(&view, unread)).await,
                }
            }
        };
        let consumed = body.end;
        // The call begins here: changes that were made while its body came are for it too.
        let view = self.worker.view();
        let (keep_alive, out, _share) = {
            let worker = &self.worker;
            let request = Request {
                method: head.method,
                target: head.target,
                fields: head.fields,
                all: AllFields::Head(&self.buffer[..head_end]),
                body: &self.buffer[body],
                peer: self.peer,
                start: worker.now(),
            };
            let answer = face::answer(worker, &view, &request).await;
            let keep_alive = head.keep_alive && !worker.shared.is_draining();
            let mut out = worker.take_buffer();
            write::answer(worker, &view, &head, &answer, keep_alive, &mut out);
            worker.give_buffer(answer.body);
            (keep_alive, out, answer.share)
        };
        self.release(consumed);
        let written = self.write(&view, &out).await;
        self.worker.give_buffer(out);
        match (written, keep_alive) {
            (true, true) => Then::Next,
            (true, false) => Box::pin(self.linger()).await,
            (false, _) => Then::End,
        }
    }

    /// Forgets what was used; gives the buffer back when nothing is left.
    fn release(&mut self, consumed: usize) {
        self.share = None;
        if consumed < self.buffer.len() {
            self.buffer.drain(..consumed);
        } else {
            self.worker.give_buffer(std::mem::take(&mut self.buffer));
        }
    }

    /// Reads until a whole head is in the buffer, and says where it ends.
    async fn read_head(&mut self) -> Result<usize, Unread> {
        // A copy: a connection that waits must not keep definitions alive that were replaced.
        let limits = self.worker.view().settings.limits;
        let mut seen = 0;
        let mut began = None;
        // The clock was asked when the last answer was ready, or the connection began.
        let mut now = self.worker.recent();
        loop {
            // Empty lines before a request are read over, as RFC 9112 asks.
            let blank = self.buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if blank > 0 && seen == 0 {
                self.release(blank);
            }
            if let Some(end) = http1::head_end(&self.buffer, seen) {
                return match self.buffer.starts_with(&PREFACE[..16]) {
                    true => self.read_preface(&limits).await,
                    false if end > limits.header => Err(head_too_large(limits.header).into()),
                    false => Ok(end),
                };
            }
            if !http1::may_start(&self.buffer) {
                // A TLS hello, for one: its end would be waited for in vain.
                return Err(http1::malformed("not an HTTP request").into());
            }
            seen = self.buffer.len();
            if seen > limits.header {
                return Err(head_too_large(limits.header).into());
            }
            let until = match (seen, began) {
                (0, _) => now + limits.idle_time,
                (_, None) => {
                    now = self.worker.now();
                    *began.insert(now) + limits.header_time
                }
                (_, Some(began)) => began + limits.header_time,
            };
            match self.read(until).await {
                Ok(true) => {}
                Ok(false) => return Err(Unread::Gone),
                Err(Late) if seen == 0 => return Err(Unread::Gone),
                Err(Late) => {
                    let message = format!("the head did not come within {}", limits.header_time);
                    return Err(Error::new(ErrorKind::TooSlow, message).into());
                }
            }
        }
    }

    /// Reads what follows the first lines of HTTP/2's preface.
    async fn read_preface(&mut self, limits: &Limits) -> Result<usize, Unread> {
        let until = self.worker.now() + limits.header_time;
        while self.buffer.len() < PREFACE.len() {
            if !matches!(self.read(until).await, Ok(true)) {
                return Err(Unread::Gone);
            }
        }
        match self.buffer.starts_with(PREFACE) {
            true => Err(Unread::Preface),
            false => Err(http1::malformed("not HTTP/2 after its first line").into()),
        }
    }

    /// Reads a body that is not all here.
    async fn read_body(
        &mut self,
        view: &View,
        framing: Framing,
        start: usize,
        expects: bool,
    ) -> Result<std::ops::Range<usize>, Unread> {
        let limits = &view.settings.limits;
        let mut body = Body::new(framing, start);
        let until = self.worker.now() + limits.body_time;
        let mut asked = !expects;
        loop {
            match body.advance(&mut self.buffer, limits.body)? {
                Progress::Whole(body) => return Ok(body),
                Progress::TooLarge => return Err(face::too_large(limits.body).into()),
                Progress::More(due) => self.buffer.reserve(due.min(GROWTH_MAX)),
            }
            Share::cover(&mut self.share, &self.worker, self.buffer.capacity(), limits.memory)?;
            if !asked {
                asked = true;
                let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
                if !self.write(view, interim).await {
                    return Err(Unread::Gone);
                }
            }
            match self.read(until).await {
                Ok(true) => {}
                Ok(false) => return Err(Unread::Gone),
                Err(Late) => {
                    let message = format!("the body did not come within {}", limits.body_time);
                    return Err(Error::new(ErrorKind::TooSlow, message).into());
                }
            }
        }
    }

    /// Reads what has come, once; false: there is nothing more to come.
    async fn read(&mut self, until: Nanos) -> Result<bool, Late> {
        let until = self.worker.instant(until);
        let Session { worker, io, timer, buffer, .. } = self;
        if buffer.capacity() == 0 {
            if timer.limit(until, io.readable()).await?.is_err() {
                return Ok(false);
            }
            *buffer = worker.take_buffer();
        }
        let read = timer.limit(until, io.read_buf(buffer)).await?;
        Ok(read.is_ok_and(|n| n > 0))
    }

    /// Writes everything; false: the caller does not read it.
    async fn write(&mut self, view: &View, bytes: &[u8]) -> bool {
        let until = self.worker.instant(self.worker.recent() + view.settings.limits.write_time);
        let Session { io, timer, .. } = self;
        matches!(timer.limit(until, write_all(io, bytes, &mut 0)).await, Ok(Ok(())))
    }

    /// Answers what could not be read, and ends.
    async fn refuse(&mut self, view: &View, unread: Unread) -> Then {
        let error = match unread {
            Unread::Gone | Unread::Preface => return Then::End,
            Unread::Wrong(error) => error,
        };
        self.worker.counts().refused[error.kind as usize].add(1);
        // It may have been waited for: the clock is asked again.
        self.worker.now();
        let answer = Answer::error(&error, Shape::Own, Vec::new());
        let mut out = Vec::new();
        write::refusal(&self.worker, view, &answer, &mut out);
        self.release(self.buffer.len());
        match self.write(view, &out).await {
            true => self.linger().await,
            false => Then::End,
        }
    }

    /// Lets the caller read the last answer: says that no more comes, and waits for it to close.
    async fn linger(&mut self) -> Then {
        let until = self.worker.now() + LINGER_TIME;
        let limit = self.worker.instant(until);
        let Session { io, timer, .. } = self;
        if !matches!(timer.limit(limit, io.shutdown()).await, Ok(Ok(()))) {
            return Then::End;
        }
        let mut over = 0;
        while over < LINGER_BYTES && matches!(self.read(until).await, Ok(true)) {
            over += self.buffer.len();
            self.buffer.clear();
        }
        self.buffer.clear();
        Then::End
    }
}

fn head_too_large(limit: usize) -> Error {
    Error::new(ErrorKind::HeadTooLarge, format!("the head is longer than {limit} bytes"))
}
