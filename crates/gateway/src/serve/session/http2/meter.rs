//! Protects a connection against floods of HTTP/2 frames.
//!
//! Frames that carry no request (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, CONTINUATION, empty DATA,
//! unknown types) consume a budget that is refilled by requests, bytes written and time; resets consume
//! another budget, which is refilled by answers. When a budget is exhausted, reading stops and the
//! connection is closed with ENHANCE_YOUR_CALM. The budgets follow the limits that nginx and Envoy chose
//! after CVE-2019-9512, related CVEs, and CVE-2023-44487.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use plimsoll_measure::Nanos;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::local::Local;
use crate::transport::io::Io;

/// The maximum budget: frames without a request that may come in a burst.
const FRAMES_MAX: u64 = 1_000;

/// Refill per request: window updates for its answer, a ping.
const FRAMES_PER_REQUEST: u64 = 8;

/// One frame is refilled per this many bytes written: callers answer DATA with window updates.
const BYTES_PER_FRAME: u64 = 256;

/// Refill per second.
const FRAMES_PER_SECOND: u64 = 100;

/// Streams that may be reset in excess of those that were answered.
const RESETS_MAX: u64 = 200;

/// The length of HTTP/2's preface, which is not a frame.
const PREFACE: u32 = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// The counts of a connection.
pub(super) struct Meter {
    local: Rc<Local>,
    frames: Cell<u64>,
    resets: Cell<u64>,
    refilled_at: Cell<Nanos>,
    unpaid_bytes: Cell<u64>,
    head_since: Cell<Option<Nanos>>,
    blocked_since: Cell<Option<Nanos>>,
    is_flooded: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Meter {
    pub(super) fn new(local: Rc<Local>) -> Meter {
        Meter {
            refilled_at: Cell::new(local.now()),
            local,
            frames: Cell::new(FRAMES_MAX),
            resets: Cell::new(RESETS_MAX),
            unpaid_bytes: Cell::new(0),
            head_since: Cell::new(None),
            blocked_since: Cell::new(None),
            is_flooded: Cell::new(false),
            waiting: RefCell::new(None),
        }
    }

    /// When the head being received started.
    pub(super) fn head_since(&self) -> Option<Nanos> {
        self.head_since.get()
    }

    /// Since when the caller's socket has accepted nothing although there was data to write.
    pub(super) fn blocked_since(&self) -> Option<Nanos> {
        self.blocked_since.get()
    }

    pub(super) fn is_flooded(&self) -> bool {
        self.is_flooded.get()
    }

    /// Waits until a budget is exhausted.
    pub(super) async fn flooded(&self) {
        poll_fn(|context| {
            if self.is_flooded() {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Records that a stream was answered.
    pub(super) fn answered(&self) {
        self.resets.set((self.resets.get() + 1).min(RESETS_MAX));
    }

    /// Records a frame.
    fn frame(&self, kind: u8, flags: u8, length: u32) {
        match kind {
            HEADERS => {
                self.refill(FRAMES_PER_REQUEST);
                self.head_since.set(Some(self.local.recent()));
            }
            RST_STREAM => self.take(&self.resets),
            DATA if length > 0 || flags & END_STREAM != 0 => {}
            SETTINGS | PING if flags & ACK != 0 => {}
            _ => {
                if self.frames.get() == 0 {
                    let now = self.local.now();
                    let passed = (now - self.refilled_at.replace(now)).as_secs_f64();
                    self.refill((passed * FRAMES_PER_SECOND as f64) as u64);
                }
                self.take(&self.frames);
            }
        }
    }

    /// Records the end of a frame.
    fn frame_ended(&self, kind: u8, flags: u8) {
        if matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0 {
            self.head_since.set(None);
        }
    }

    fn wrote(&self, bytes: u64) {
        let unpaid = self.unpaid_bytes.get() + bytes;
        self.refill(unpaid / BYTES_PER_FRAME);
        self.unpaid_bytes.set(unpaid % BYTES_PER_FRAME);
        self.blocked_since.set(None);
    }

    fn blocked(&self) {
        if self.blocked_since.get().is_none() {
            self.blocked_since.set(Some(self.local.now()));
        }
    }

    fn refill(&self, frames: u64) {
        self.frames.set((self.frames.get() + frames).min(FRAMES_MAX));
    }

    fn take(&self, budget: &Cell<u64>) {
        match budget.get().checked_sub(1) {
            Some(left) => budget.set(left),
            None => {
                self.is_flooded.set(true);
                self.waiting.borrow_mut().take().into_iter().for_each(Waker::wake);
            }
        }
    }
}

/// Finds the frames in a stream of bytes, however it is fragmented.
#[derive(Debug)]
struct Frames {
    /// Missing bytes of the current frame, or of the preface.
    due: u32,
    head: [u8; 9],
    /// Bytes received of the next frame's head.
    have: usize,
    current: Option<(u8, u8)>,
}

impl Frames {
    fn new() -> Frames {
        Frames { due: PREFACE, head: [0; 9], have: 0, current: None }
    }

    fn pass(&mut self, mut bytes: &[u8], meter: &Meter) {
        while !bytes.is_empty() {
            if self.due > 0 {
                let skipped = bytes.len().min(self.due as usize);
                bytes = &bytes[skipped..];
                self.due -= skipped as u32;
            } else {
                let taken = bytes.len().min(self.head.len() - self.have);
                self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
                self.have += taken;
                bytes = &bytes[taken..];
                if self.have < self.head.len() {
                    return;
                }
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                self.due = u32::from_be_bytes([0, a, b, c]);
                self.current = Some((kind, flags));
                meter.frame(kind, flags, self.due);
            }
            if self.due == 0
                && let Some((kind, flags)) = self.current.take()
            {
                meter.frame_ended(kind, flags);
            }
        }
    }
}

/// A connection whose frames are counted; its first bytes may have been read before.
pub(super) struct Metered {
    io: Io,
    read: Vec<u8>,
    at: usize,
    frames: Frames,
    meter: Rc<Meter>,
}

impl Metered {
    pub(super) fn new(io: Io, read: Vec<u8>, meter: Rc<Meter>) -> Metered {
        Metered { io, read, at: 0, frames: Frames::new(), meter }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.meter.is_flooded() {
            return Poll::Pending;
        }
        let start = into.filled().len();
        if this.at < this.read.len() {
            let end = this.read.len().min(this.at + into.remaining());
            into.put_slice(&this.read[this.at..end]);
            this.at = end;
            if this.at == this.read.len() {
                (this.read, this.at) = (Vec::new(), 0);
            }
        } else {
            std::task::ready!(Pin::new(&mut this.io).poll_read(context, into))?;
        }
        this.frames.pass(&into.filled()[start..], &this.meter);
        Poll::Ready(Ok(()))
    }
}

impl Metered {
    fn written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(n)) => self.meter.wrote(*n as u64),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.meter.blocked(),
        }
        written
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(context, bytes);
        this.written(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(context, slices);
        this.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
