//! Bytes from one side to the other, late, slowly, or not at all.
//!
//! Each direction is a reader, which stamps what it reads with the instant at which it is to leave,
//! and a writer, which waits for that instant: a delay so delays every byte and limits no rate. What
//! is under way is bounded by [`UNDER_WAY_MAX`] pieces; a reader that is further ahead waits, as a
//! full socket buffer would make it.

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

/// Bytes read at a time.
const PIECE_LEN: usize = 16 << 10;
/// Pieces of one direction that may be under way: 4 MiB.
const UNDER_WAY_MAX: usize = 256;
/// Pieces a second into which a bandwidth is cut.
const BANDWIDTH_STEPS: u64 = 100;

/// How a direction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The sender had nothing more to send.
    Finished,
    /// A side is gone, or it is to be closed.
    Close,
    /// It is to be reset.
    Reset,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In = 0,
    Out = 1,
}

struct Link<'s> {
    state: &'s State,
    timer: &'s Timer,
    number: u64,
    /// What was decided when the connection was accepted.
    kinds: &'s [LinkFaultKind],
}

/// Passes bytes until both sides have finished, or a fault ends it.
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
        let inward = link.pass(from_client, to_target, Way::In);
        let outward = link.pass(from_target, to_client, Way::Out);
        tokio::pin!(inward, outward);
        // One side that has finished sending may still be answered.
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

/// Waits until the peer has closed a connection, reading nothing of what it sends.
pub(super) async fn until_closed(stream: &TcpStream) {
    let mut byte = [0];
    loop {
        // A peer that sent something and closed shows as readable all the time; look now and then.
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
    async fn pass(&self, from: ReadHalf<'_>, to: WriteHalf<'_>, way: Way) -> End {
        let (sender, receiver) = mpsc::channel(UNDER_WAY_MAX);
        let (read, written) =
            tokio::join!(self.read(from, sender, way), self.write(receiver, to, way));
        if written == End::Finished { read } else { written }
    }

    async fn read(
        &self,
        mut from: ReadHalf<'_>,
        sender: mpsc::Sender<(Nanos, Vec<u8>)>,
        way: Way,
    ) -> End {
        let mut random = self.state.key.with(1 << 32 | way as u64).with(self.number).sequence();
        let mut due = Nanos::ZERO;
        loop {
            let mut piece = Vec::with_capacity(PIECE_LEN);
            let read = tokio::select! {
                read = from.read_buf(&mut piece) => read,
                () = sender.closed() => return End::Close,
            };
            match read {
                Ok(0) => return End::Finished,
                Err(_) => return End::Close,
                Ok(_) => {
                    // Order is kept: nothing overtakes.
                    due = due.max(self.state.clock.now() + self.delay(&mut random));
                    if sender.send((due, piece)).await.is_err() {
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
        way: Way,
    ) -> End {
        let mut passed = 0u64;
        while let Some((due, piece)) = receiver.recv().await {
            self.timer.until(due).await;
            let mut rest = piece.as_slice();
            while !rest.is_empty() {
                let mut len = rest.len();
                let end = self.end(way);
                if let Some((after, end)) = end {
                    let left = after.saturating_sub(passed);
                    if left == 0 {
                        return stop(end, receiver).await;
                    }
                    len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
                }
                let (most, pause) = self.pace(way);
                len = len.min(most);
                if to.write_all(&rest[..len]).await.is_err() {
                    return End::Close;
                }
                passed += len as u64;
                self.state.passed[way as usize].fetch_add(len as u64, Ordering::Relaxed);
                rest = &rest[len..];
                if pause > Nanos::ZERO {
                    self.timer.until(self.state.clock.now() + pause).await;
                }
            }
            if let Some((after, end)) = self.end(way)
                && passed >= after
            {
                return stop(end, receiver).await;
            }
        }
        finish(&mut to).await
    }

    /// How much later a piece leaves.
    fn delay(&self, random: &mut Sequence) -> Nanos {
        let mut delay = Nanos::ZERO;
        for (kind, _) in self.state.in_force(self.number, self.state.clock.now()) {
            if let LinkFaultKind::Delay { by, jitter } = kind {
                delay += by + Nanos((jitter.0 as f64 * random.unit()) as u64);
            }
        }
        delay
    }

    /// The most bytes to write at once, and the pause behind them.
    fn pace(&self, way: Way) -> (usize, Nanos) {
        let mut pace = (usize::MAX, Nanos::ZERO);
        for (kind, _) in self.state.in_force(self.number, self.state.clock.now()) {
            let (most, pause) = match kind {
                LinkFaultKind::Bandwidth { rate } => {
                    let step = rate.div_ceil(BANDWIDTH_STEPS);
                    (step as usize, Nanos(step * 1_000_000_000 / rate))
                }
                LinkFaultKind::Drip { bytes, pause } if way == Way::Out => (bytes, pause),
                _ => continue,
            };
            pace = (pace.0.min(most), pace.1.max(pause));
        }
        pace
    }

    /// After how many bytes this direction ends, and how; silence is `None`.
    fn end(&self, way: Way) -> Option<(u64, Option<End>)> {
        let ends = self.kinds.iter().filter_map(|kind| match *kind {
            LinkFaultKind::Reset { after } => Some((after, Some(End::Reset))),
            LinkFaultKind::Truncate { after } => Some((after, Some(End::Close))),
            LinkFaultKind::Silence { after } => Some((after, None)),
            _ => None,
        });
        ends.filter(|_| way == Way::Out).min_by_key(|(after, _)| *after)
    }
}

/// Ends a direction; in silence what still comes is swallowed until its sender is gone.
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
