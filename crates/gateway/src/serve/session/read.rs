//! Reading a request: its head, its body, and what each of them may take meanwhile.

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

/// A longer request counts as long while it is read.
const LONG_MIN: usize = 64 << 10;

/// Why no request was read.
pub(super) enum Unread {
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
    /// Reads until a whole head is in the buffer, and gives where it ends.
    pub(super) async fn read_head(&mut self) -> Result<usize, Unread> {
        // A copy: a connection that waits must not keep definitions alive that were replaced.
        let limits = self.worker.view().settings.limits;
        let mut seen = 0;
        let mut began = None;
        // The clock was read when the last answer was ready, or the connection began.
        let since = self.wire.local.recent();
        loop {
            // Empty lines before a request are skipped, as RFC 9112 asks.
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
            if seen == 0 {
                self.wait_for_request(since, &limits).await?;
                if self.buffer.capacity() == 0 {
                    self.buffer = self.worker.local.take_buffer();
                }
                // Mostly the whole head.
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
                    let message = format!("the head did not come within {}", limits.header_time);
                    return Err(Error::new(ErrorKind::TooSlow, message).into());
                }
            }
        }
    }

    /// Waits, without a buffer, for a request to begin.
    async fn wait_for_request(&mut self, since: Nanos, limits: &Limits) -> Result<(), Unread> {
        let is_new = std::mem::replace(&mut self.is_new, false);
        match self.wire.idle(since + limits.idle_time, &self.slot).await {
            Idle::Readable => Ok(()),
            // A connection that was just made is for a request that is on its way.
            Idle::Over if self.slot.is_closing() && is_new => {
                let until = self.wire.local.now() + self.worker.view().settings.idle_close;
                self.wire.first(until).await.then_some(()).ok_or(Unread::Gone)
            }
            Idle::Over => Err(Unread::Gone),
        }
    }

    /// Makes room for more of a request, of which `due` bytes are to come, and charges for it: what
    /// is waited for takes memory meanwhile. Gives how many bytes may be read now.
    fn make_room(&mut self, due: usize) -> Result<usize, Error> {
        let purpose = match self.buffer.len() > LONG_MIN {
            true => Purpose::Long,
            false => Purpose::Further,
        };
        if self.share.as_ref().is_none_or(|share| !share.is_for(purpose)) {
            self.share = Some(self.worker.local.share(purpose));
        }
        let share = self.share.as_mut().expect("it was just made");
        buffer::grow(&mut self.buffer, due, share)
    }

    /// Reads what follows the first lines of HTTP/2's preface.
    pub(super) async fn read_preface(&mut self, limits: &Limits) -> Result<usize, Unread> {
        let until = self.wire.local.now() + limits.header_time;
        while self.buffer.len() < PREFACE.len() {
            let room = self.make_room(PREFACE.len())?;
            if !matches!(self.wire.read(until, &mut self.buffer, room).await, Ok(true)) {
                return Err(Unread::Gone);
            }
        }
        match self.buffer.starts_with(PREFACE) {
            true => Err(Unread::Preface),
            false => Err(http1::malformed("not HTTP/2 after its first line").into()),
        }
    }

    /// Reads a body that is not all here.
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
        let mut asked = !expects;
        loop {
            let due = match body.advance(&mut self.buffer, limits.body)? {
                Progress::Whole(body) => return Ok(body),
                Progress::TooLarge => return Err(too_large(limits.body).into()),
                Progress::More(due) => due,
            };
            let room = self.make_room(due)?;
            if !asked {
                asked = true;
                let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
                if !self.wire.write(&[interim], limits.write_time, &mut 0).await {
                    return Err(Unread::Gone);
                }
            }
            let before = self.buffer.len();
            match self.wire.read(since + limits.body_time, &mut self.buffer, room).await {
                Ok(true) => {}
                Ok(false) => return Err(Unread::Gone),
                Err(Late) => {
                    let time = limits.body_time;
                    let message = format!("less than 4 KiB of the body came within {time}");
                    return Err(Error::new(ErrorKind::TooSlow, message).into());
                }
            }
            let came = self.buffer.len() - before;
            buffer::give_way(came).await;
            read += came;
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
