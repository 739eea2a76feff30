//! Forwards bytes from one side to the other, subject to faults.
//!
//! Each direction has a reader, which stamps each chunk with the time at which it is due, and a
//! writer, which waits for that time. A delay therefore delays every byte without limiting the rate.
//! At most [`CHUNKS_MAX`] chunks are buffered; then the reader waits, as with a full socket buffer.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Sequence;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::{LinkFaultKind, State};
use crate::timer::Timer;

/// Maximum number of bytes read at a time.
const CHUNK_LEN: usize = 16 << 10;
/// Maximum number of buffered chunks per direction: 4 MiB.
const CHUNKS_MAX: usize = 256;
/// Writes per second at a limited bandwidth.
const BANDWIDTH_STEPS: u64 = 100;

/// How a direction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The sender has sent everything.
    Finished,
    /// A side has disconnected, or the connection is to be closed.
    Close,
    /// The connection is to be reset.
    Reset,
}

/// A direction: to the target or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    In = 0,
    Out = 1,
}

struct Link<'s> {
    state: &'s State,
    timer: &'s Timer,
    number: u64,
    /// The faults that were decided when the connection was accepted.
    kinds: &'s [LinkFaultKind],
}

/// Forwards bytes until both sides have finished, or a fault ends the connection.
pub(super) async fn both_ways(
    state: &State,
    timer: &Timer,
    number: u64,
    mut client: TcpStream,
    mut target: TcpStream,
    kinds: &[LinkFaultKind],
) {
    let link = Link { state, timer, number, kinds };
    let end = {
        let (from_client, to_client) = client.split();
        let (from_target, to_target) = target.split();
        let inward = link.forward(from_client, to_target, Direction::In);
        let outward = link.forward(from_target, to_client, Direction::Out);
        tokio::pin!(inward, outward);
        // A side that has finished sending may still receive an answer.
        tokio::select! {
            end = &mut inward => match end {
                End::Finished => outward.await,
                end => end,
            },
            end = &mut outward => match end {
                End::Finished => inward.await,
                end => end,
            },
        }
    };
    if end == End::Reset {
        for stream in [&client, &target] {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Waits until the peer has closed a connection, without reading.
pub(super) async fn until_closed(stream: &TcpStream) {
    let mut byte = [0];
    loop {
        // The socket stays readable once the peer has sent something, so poll at an interval.
        match stream.peek(&mut byte).await {
            Ok(0) | Err(_) => return,
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        if stream.take_error().is_ok_and(|error| error.is_some()) {
            return;
        }
    }
}

impl Link<'_> {
    async fn forward(&self, from: ReadHalf<'_>, to: WriteHalf<'_>, direction: Direction) -> End {
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        let (read, written) =
            tokio::join!(self.read(from, sender, direction), self.write(receiver, to, direction));
        if written == End::Finished { read } else { written }
    }

    async fn read(
        &self,
        mut from: ReadHalf<'_>,
        sender: mpsc::Sender<(Nanos, Vec<u8>)>,
        direction: Direction,
    ) -> End {
        let mut random =
            self.state.key.with(1 << 32 | direction as u64).with(self.number).sequence();
        let mut due = Nanos::ZERO;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_LEN);
            let read = tokio::select! {
                read = from.read_buf(&mut chunk) => read,
                () = sender.closed() => return End::Close,
            };
            match read {
                Ok(0) => return End::Finished,
                Err(_) => return End::Close,
                Ok(_) => {
                    // Keeps the order: no chunk overtakes another.
                    due = due.max(self.state.clock.now() + self.delay(&mut random));
                    if sender.send((due, chunk)).await.is_err() {
                        return End::Close;
                    }
                }
            }
        }
    }

    async fn write(
        &self,
        mut receiver: mpsc::Receiver<(Nanos, Vec<u8>)>,
        mut to: WriteHalf<'_>,
        direction: Direction,
    ) -> End {
        let mut forwarded = 0u64;
        while let Some((due, chunk)) = receiver.recv().await {
            self.timer.until(due).await;
            let mut rest = chunk.as_slice();
            while !rest.is_empty() {
                let mut len = rest.len();
                let end = self.end(direction);
                if let Some((after, end)) = end {
                    let left = after.saturating_sub(forwarded);
                    if left == 0 {
                        return stop(end, receiver).await;
                    }
                    len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
                }
                let (most, pause) = self.pace(direction);
                len = len.min(most);
                if to.write_all(&rest[..len]).await.is_err() {
                    return End::Close;
                }
                forwarded += len as u64;
                self.state.passed[direction as usize].fetch_add(len as u64, Ordering::Relaxed);
                rest = &rest[len..];
                if pause > Nanos::ZERO {
                    self.timer.until(self.state.clock.now() + pause).await;
                }
            }
            if let Some((after, end)) = self.end(direction)
                && forwarded >= after
            {
                return stop(end, receiver).await;
            }
        }
        finish(&mut to).await
    }

    /// The delay of a chunk.
    fn delay(&self, random: &mut Sequence) -> Nanos {
        let mut delay = Nanos::ZERO;
        for (kind, _) in self.state.in_force(self.number, self.state.clock.now()) {
            if let LinkFaultKind::Delay { by, jitter } = kind {
                delay += by + Nanos((jitter.0 as f64 * random.unit()) as u64);
            }
        }
        delay
    }

    /// The maximum number of bytes to write at once, and the pause after them.
    fn pace(&self, direction: Direction) -> (usize, Nanos) {
        let mut pace = (usize::MAX, Nanos::ZERO);
        for (kind, _) in self.state.in_force(self.number, self.state.clock.now()) {
            let (most, pause) = match kind {
                LinkFaultKind::Bandwidth { rate } => {
                    let step = rate.div_ceil(BANDWIDTH_STEPS);
                    (step as usize, Nanos(step * 1_000_000_000 / rate))
                }
                LinkFaultKind::Drip { bytes, pause } if direction == Direction::Out => {
                    (bytes, pause)
                }
                _ => continue,
            };
            pace = (pace.0.min(most), pace.1.max(pause));
        }
        pace
    }

    /// The number of bytes after which this direction ends, and how it ends; `None` is silence.
    fn end(&self, direction: Direction) -> Option<(u64, Option<End>)> {
        let ends = self.kinds.iter().filter_map(|kind| match *kind {
            LinkFaultKind::Reset { after } => Some((after, Some(End::Reset))),
            LinkFaultKind::Truncate { after } => Some((after, Some(End::Close))),
            LinkFaultKind::Silence { after } => Some((after, None)),
            _ => None,
        });
        ends.filter(|_| direction == Direction::Out).min_by_key(|(after, _)| *after)
    }
}

/// Ends a direction. For silence, discards further data until the sender has disconnected.
async fn stop(end: Option<End>, mut receiver: mpsc::Receiver<(Nanos, Vec<u8>)>) -> End {
    if let Some(end) = end {
        return end;
    }
    while receiver.recv().await.is_some() {}
    End::Close
}

async fn finish(to: &mut WriteHalf<'_>) -> End {
    let done: io::Result<()> = to.shutdown().await;
    if done.is_ok() { End::Finished } else { End::Close }
}
