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

/// How a caller is watched while it waits for an answer, or for the next part of one.
pub(super) struct Watch<'p> {
    /// What may be sent to find out whether its socket is closed; empty: nothing.
    probe: &'p [u8],
    /// Not if it has sent a further request, which waits until this one has been answered.
    is_on: bool,
    is_probed: bool,
}

impl<'p> Watch<'p> {
    /// Before the answer. `may_probe`: the caller speaks HTTP/1.1 and has sent no further request.
    pub(super) fn before_answer(may_probe: bool) -> Watch<'p> {
        // Every HTTP/1.1 client accepts it.
        Watch { probe: b"HTTP/1.1 100 Continue\r\n\r\n", is_on: may_probe, is_probed: false }
    }

    /// Between the parts of an answer; `probe` may be inserted there.
    pub(super) fn between_parts(probe: &'p [u8], is_on: bool) -> Watch<'p> {
        Watch { probe, is_on, is_probed: probe.is_empty() }
    }
}

/// Waits for an answer or a part of it; `None` if the caller disconnects first.
///
/// The end of a caller's stream means that it has closed the connection, or only that it sends nothing
/// more: TCP does not tell. So the caller is then sent something that it ignores, and whose delivery to a
/// closed socket is answered with a reset.
pub(super) async fn unless_gone<F: Future>(
    io: &mut Io,
    watch: &mut Watch<'_>,
    answer: F,
) -> Option<F::Output> {
    let mut answer = pin!(answer);
    let watched = poll_fn(|context| {
        if let Poll::Ready(answer) = answer.as_mut().poll(context) {
            return Poll::Ready(Some(answer));
        }
        while watch.is_on && io.poll_readable(context).is_ready() {
            match io.condition() {
                Condition::Quiet => {}
                Condition::Data => watch.is_on = false,
                Condition::Ended | Condition::Broken => return Poll::Ready(None),
            }
        }
        Poll::Pending
    });
    match watched.await {
        Some(answer) => Some(answer),
        None => Box::pin(unless_reset(io, watch, answer)).await,
    }
}

/// The same for a caller that has shut down its sending side.
async fn unless_reset<F: Future>(
    io: &mut Io,
    watch: &mut Watch<'_>,
    mut answer: Pin<&mut F>,
) -> Option<F::Output> {
    let mut pause = PROBE_AFTER;
    while io.condition() != Condition::Broken {
        match tokio::time::timeout(pause, answer.as_mut()).await {
            Ok(answer) => return Some(answer),
            Err(_) if watch.is_probed => pause = (pause * 2).min(LOOK_MAX),
            Err(_) => {
                watch.is_probed = true;
                let written = tokio::time::timeout(PROBE_AFTER, io.write_all(watch.probe)).await;
                if !matches!(written, Ok(Ok(()))) {
                    return None;
                }
                let _ = io.flush().await;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    const PROBE: &[u8] = b": probe\n";

    /// Watches a caller that does something, while the answer is ready only when the caller has read a
    /// probe; returns whether it is still there.
    async fn stays(
        probe: &'static [u8],
        act: impl AsyncFnOnce(TcpStream) -> Option<TcpStream>,
    ) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let connecting = TcpStream::connect(listener.local_addr().expect("an address"));
        let (caller, accepted) = tokio::join!(connecting, listener.accept());
        let mut io = Io::Plain(accepted.expect("a connection").0);
        let caller = act(caller.expect("a connection")).await;
        let mut watch = Watch::between_parts(probe, true);
        let answer = async {
            let Some(mut caller) = caller else { return std::future::pending().await };
            let mut read = [0; PROBE.len()];
            caller.read_exact(&mut read[..probe.len()]).await.expect("the probe");
            // Sent once, however long the answer takes.
            let more = tokio::time::timeout(PROBE_AFTER * 4, caller.read(&mut read)).await;
            assert!(more.is_err(), "{more:?}");
        };
        unless_gone(&mut io, &mut watch, answer).await.is_some()
    }

    #[tokio::test]
    async fn callers_that_leave_are_noticed_and_those_that_only_send_nothing_more_are_not() {
        let shut_down = async |mut caller: TcpStream| {
            caller.shutdown().await.expect("shut down");
            Some(caller)
        };
        assert!(stays(PROBE, shut_down).await);
        assert!(stays(b"", shut_down).await);
        let close = async |caller: TcpStream| {
            drop(caller);
            None
        };
        assert!(!stays(PROBE, close).await);
        let reset = async |caller: TcpStream| {
            caller.set_zero_linger().expect("lingers not");
            None
        };
        assert!(!stays(PROBE, reset).await);
        assert!(!stays(b"", reset).await);
    }
}
