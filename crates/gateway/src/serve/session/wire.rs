//! Reads and writes the bytes of a caller's HTTP/1.1 connection, with deadlines that are renewed as long
//! as bytes move.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::BufMut;
use plimsoll_measure::Nanos;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::sessions::Slot;
use crate::local::Local;
use crate::transport::io::{Condition, Io, WRITE_MAX, write_some};
use crate::transport::timer::{Late, Timer};

/// A deadline is renewed each time this many bytes move. Fewer bytes do not renew it, so that a
/// connection cannot be kept open by an occasional byte.
pub(super) const PROGRESS: usize = 4 << 10;

/// Under memory pressure, a long answer is dropped if its caller reads nothing for this long.
pub(super) const STALLED: Nanos = Nanos::from_secs(2);

/// Shorter answers are not worth dropping under memory pressure.
pub(super) const LONG_MIN: usize = 64 << 10;

/// How often the writer of a long answer checks for memory pressure.
const PRESSURE_CHECK: Nanos = Nanos::from_secs(1);

/// When to check next whether to drop an answer whose caller stopped reading at `since`; `None` if it is
/// to be dropped now.
pub(super) fn next_check(
    local: &Local,
    length: usize,
    since: Nanos,
    write_time: Nanos,
    now: Nanos,
) -> Option<Nanos> {
    let until = since + write_time;
    if length <= LONG_MIN {
        return (now < until).then_some(until);
    }
    let stalled = local.capacity.is_under_pressure() && now >= since + STALLED;
    (now < until && !stalled).then(|| until.min(now + PRESSURE_CHECK))
}

/// A connection.
pub(super) struct Wire {
    pub(super) local: Rc<Local>,
    pub(super) io: Io,
    pub(super) timer: Timer,
}

/// The result of waiting for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// There may be data to read.
    Readable,
    /// The time is up, the caller has disconnected, or idle connections are being closed.
    Over,
}

impl Wire {
    /// Waits, without a buffer, until there may be data to read.
    pub(super) async fn idle(&mut self, until: Nanos, slot: &Slot) -> Idle {
        let until = self.local.instant(until);
        let Wire { io, timer, .. } = self;
        let waiting = poll_fn(|context| match slot.poll_closing(context) {
            Poll::Ready(()) => Poll::Ready(Idle::Over),
            Poll::Pending => io.poll_readable(context).map(|readable| match readable {
                Ok(()) => Idle::Readable,
                Err(_) => Idle::Over,
            }),
        });
        timer.limit(until, waiting).await.unwrap_or(Idle::Over)
    }

    /// Waits until there may be data to read, even while idle connections are being closed.
    pub(super) async fn first(&mut self, until: Nanos) -> bool {
        let until = self.local.instant(until);
        let Wire { io, timer, .. } = self;
        let waiting = poll_fn(|context| io.poll_readable(context));
        matches!(timer.limit(until, waiting).await, Ok(Ok(())))
    }

    /// Reads available data, up to `room` bytes, without waiting; false at the end of the stream, `None`
    /// if no data is available. Needs no deadline and thus no clock.
    pub(super) async fn read_now(&mut self, buffer: &mut Vec<u8>, room: usize) -> Option<bool> {
        let mut into = buffer.limit(room);
        let mut reading = std::pin::pin!(self.io.read_buf(&mut into));
        poll_fn(|context| match reading.as_mut().poll(context) {
            Poll::Ready(read) => Poll::Ready(Some(read.is_ok_and(|n| n > 0))),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Reads once, up to `room` bytes; false at the end of the stream.
    pub(super) async fn read(
        &mut self,
        until: Nanos,
        buffer: &mut Vec<u8>,
        room: usize,
    ) -> Result<bool, Late> {
        let until = self.local.instant(until);
        let mut into = buffer.limit(room);
        let read = self.timer.limit(until, self.io.read_buf(&mut into)).await?;
        Ok(read.is_ok_and(|n| n > 0))
    }

    /// Writes the parts in order; `sent` counts the bytes written. False if the caller does not read them
    /// or has disconnected.
    pub(super) async fn write(
        &mut self,
        parts: &[&[u8]],
        write_time: Nanos,
        sent: &mut usize,
    ) -> bool {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let Wire { local, io, timer } = self;
        let mut since = local.recent();
        let mut until = next_check(local, total, since, write_time, since);
        loop {
            let Some(limit) = until else { return false };
            let goal = total.min(*sent + PROGRESS);
            let pause = *sent + WRITE_MAX;
            let writing = poll_fn(|context| {
                while *sent < total {
                    if *sent >= pause {
                        return Poll::Ready(Ok(()));
                    }
                    match write_some(Pin::new(&mut *io), context, parts, *sent) {
                        Poll::Ready(Ok(n)) => *sent += n,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        // Enough was written to renew the deadline.
                        Poll::Pending if *sent >= goal => return Poll::Ready(Ok(())),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                tokio::io::AsyncWrite::poll_flush(Pin::new(&mut *io), context)
            });
            match timer.limit(local.instant(limit), writing).await {
                Ok(Ok(())) if *sent == total => return true,
                Ok(Ok(())) => {
                    // Lets other tasks run.
                    tokio::task::yield_now().await;
                    since = local.now();
                }
                Ok(Err(_)) => return false,
                Err(Late) => {}
            }
            until = next_check(local, total, since, write_time, local.now());
        }
    }

    /// Shuts down the sending side.
    pub(super) async fn shutdown(&mut self, until: Nanos) -> bool {
        let until = self.local.instant(until);
        matches!(self.timer.limit(until, self.io.shutdown()).await, Ok(Ok(())))
    }
}

/// How long a caller that has shut down its sending side is given before it is probed. Most answers are
/// ready by then.
const PROBE_AFTER: Duration = Duration::from_millis(50);

/// The longest interval between looks at a probed connection.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Waits for the answer to a request; `None` if the caller disconnects first.
///
/// The end of a caller's stream means that it has closed the connection, or only that it sends nothing
/// more: TCP does not tell. So the caller is then sent an interim response, which every HTTP/1.1 client
/// accepts, and whose delivery to a closed socket is answered with a reset. `may_probe`: the caller
/// speaks HTTP/1.1 and has sent no further request.
pub(super) async fn unless_gone<F: Future>(
    io: &mut Io,
    may_probe: bool,
    answer: F,
) -> Option<F::Output> {
    let mut answer = pin!(answer);
    let mut is_watched = may_probe;
    let watched = poll_fn(|context| {
        if let Poll::Ready(answer) = answer.as_mut().poll(context) {
            return Poll::Ready(Some(answer));
        }
        while is_watched && io.poll_readable(context).is_ready() {
            match io.condition() {
                Condition::Quiet => {}
                // Further requests wait until this one has been answered.
                Condition::Data => is_watched = false,
                Condition::Ended | Condition::Broken => return Poll::Ready(None),
            }
        }
        Poll::Pending
    });
    match watched.await {
        Some(answer) => Some(answer),
        None => Box::pin(unless_reset(io, answer)).await,
    }
}

/// The same for a caller that has shut down its sending side.
async fn unless_reset<F: Future>(io: &mut Io, mut answer: Pin<&mut F>) -> Option<F::Output> {
    const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut pause = PROBE_AFTER;
    let mut is_probed = false;
    while io.condition() != Condition::Broken {
        match tokio::time::timeout(pause, answer.as_mut()).await {
            Ok(answer) => return Some(answer),
            Err(_) if is_probed => pause = (pause * 2).min(LOOK_MAX),
            Err(_) => {
                is_probed = true;
                let written = tokio::time::timeout(PROBE_AFTER, io.write_all(INTERIM)).await;
                if !matches!(written, Ok(Ok(()))) {
                    return None;
                }
                let _ = io.flush().await;
            }
        }
    }
    None
}
