//! Reads a request: its head and body, within their limits of time and memory.

use std::ops::Range;

use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Limits;

use super::wire::{Idle, PROGRESS};
use super::{PREFACE, Session};
use crate::buffer;
use crate::call::worker::View;
use crate::error::{Error, ErrorKind};
use crate::gzip::too_large;
use crate::http1::{self, Framing, Progress};
use crate::permit::Purpose;
use crate::transport::timer::Late;

/// Longer requests are charged as [`Purpose::Long`] while they are received.
const LONG_MIN: usize = 64 << 10;

/// Why no request was read.
pub(super) enum Unread {
    /// The caller has disconnected, or was idle for too long.
    Gone,
    /// An HTTP/2 preface was read.
    Preface,
    Invalid(Error),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Unread {
        Unread::Invalid(error)
    }
}

impl Session {
    /// Reads until the buffer contains a complete head, and returns the head's end.
    pub(super) async fn read_head(&mut self) -> Result<usize, Unread> {
        // A copy, since an idle connection must not keep replaced definitions alive.
        let limits = self.worker.view().settings.limits;
        let mut seen = 0;
        let mut began = None;
        // The clock was last read when the previous answer was ready, or the connection was accepted.
        let since = self.wire.local.recent();
        loop {
            // Empty lines before a request are skipped, as RFC 9112 asks.
            let blank = self.buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if blank > 0 && seen == 0 {
                self.release(blank);
            }
            if let Some(end) = http1::head_end(&self.buffer, seen) {
                if self.buffer.starts_with(&PREFACE[..16]) {
                    return self.read_preface(&limits).await;
                }
                if end > limits.header {
                    return Err(head_too_large(limits.header).into());
                }
                return Ok(end);
            }
            if !http1::may_start(&self.buffer) {
                // For example a TLS ClientHello, in which no end of a head would ever be found.
                return Err(http1::malformed("not an HTTP request").into());
            }
            seen = self.buffer.len();
            if seen > limits.header {
                return Err(head_too_large(limits.header).into());
            }
            if seen == 0 {
                self.wait_for_request(since, &limits).await?;
                if self.buffer.capacity() == 0 {
                    self.buffer = self.worker.local.take_buffer();
                }
                // Usually reads the whole head.
                let room = self.buffer.capacity();
                match self.wire.read_now(&mut self.buffer, room).await {
                    Some(true) => continue,
                    Some(false) => return Err(Unread::Gone),
                    None => {}
                }
            }
            let began = *began.get_or_insert_with(|| self.wire.local.now());
            let until = began + limits.header_time;
            let room = match seen {
                0 => self.buffer.capacity(),
                _ => self.make_room(1)?,
            };
            match self.wire.read(until, &mut self.buffer, room).await {
                Ok(true) => {}
                Ok(false) => return Err(Unread::Gone),
                Err(Late) if self.buffer.is_empty() => return Err(Unread::Gone),
                Err(Late) => {
                    let message =
                        format!("the head was not complete within {}", limits.header_time);
                    return Err(Error::new(ErrorKind::TooSlow, message).into());
                }
            }
        }
    }

    /// Waits, without a buffer, for the first bytes of a request.
    async fn wait_for_request(&mut self, since: Nanos, limits: &Limits) -> Result<(), Unread> {
        let is_new = std::mem::replace(&mut self.is_new, false);
        match self.wire.idle(since + limits.idle_time, &self.slot).await {
            Idle::Readable => Ok(()),
            // On a new connection, the first request is probably already on its way.
            Idle::Over if self.slot.is_closing() && is_new => {
                let until = self.wire.local.now() + self.worker.view().settings.idle_close;
                self.wire.first(until).await.then_some(()).ok_or(Unread::Gone)
            }
            Idle::Over => Err(Unread::Gone),
        }
    }

    /// Grows the buffer for a request of which `due` bytes are missing, and charges the memory. Returns
    /// how many bytes may be read now.
    fn make_room(&mut self, due: usize) -> Result<usize, Error> {
        let purpose = if self.buffer.len() > LONG_MIN { Purpose::Long } else { Purpose::Further };
        if self.share.as_ref().is_none_or(|share| !share.is_for(purpose)) {
            self.share = Some(self.worker.local.share(purpose));
        }
        let share = self.share.as_mut().expect("it was just made");
        buffer::grow(&mut self.buffer, due, share)
    }

    /// Reads the rest of HTTP/2's preface.
    pub(super) async fn read_preface(&mut self, limits: &Limits) -> Result<usize, Unread> {
        let until = self.wire.local.now() + limits.header_time;
        while self.buffer.len() < PREFACE.len() {
            let room = self.make_room(PREFACE.len())?;
            if !matches!(self.wire.read(until, &mut self.buffer, room).await, Ok(true)) {
                return Err(Unread::Gone);
            }
        }
        if self.buffer.starts_with(PREFACE) {
            return Err(Unread::Preface);
        }
        Err(http1::malformed("invalid HTTP/2 preface").into())
    }

    /// Reads the rest of a body.
    pub(super) async fn read_body(
        &mut self,
        view: &View,
        framing: Framing,
        start: usize,
        expects: bool,
    ) -> Result<Range<usize>, Unread> {
        let limits = &view.settings.limits;
        let mut body = http1::Body::new(framing, start);
        let mut since = self.wire.local.now();
        let mut goal = PROGRESS;
        let mut read = 0;
        let mut send_continue = expects;
        loop {
            let due = match body.advance(&mut self.buffer, limits.body)? {
                Progress::Whole(body) => return Ok(body),
                Progress::TooLarge => return Err(too_large(limits.body).into()),
                Progress::More(due) => due,
            };
            let room = self.make_room(due)?;
            if std::mem::take(&mut send_continue) {
                let response = b"HTTP/1.1 100 Continue\r\n\r\n";
                if !self.wire.write(&[response], limits.write_time, &mut 0).await {
                    return Err(Unread::Gone);
                }
            }
            let before = self.buffer.len();
            match self.wire.read(since + limits.body_time, &mut self.buffer, room).await {
                Ok(true) => {}
                Ok(false) => return Err(Unread::Gone),
                Err(Late) => {
                    let time = limits.body_time;
                    let message = format!("less than 4 KiB of the body arrived within {time}");
                    return Err(Error::new(ErrorKind::TooSlow, message).into());
                }
            }
            let received = self.buffer.len() - before;
            buffer::give_way(received).await;
            read += received;
            if read >= goal {
                goal = read + PROGRESS;
                since = self.wire.local.now();
            }
        }
    }
}

fn head_too_large(limit: usize) -> Error {
    Error::new(ErrorKind::HeadTooLarge, format!("the head is longer than {limit} bytes"))
}
