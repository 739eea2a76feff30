//! A caller's HTTP/2 connection, on top of the h2 crate.
//!
//! One task drives the connection and accepts its streams; each stream has its own task. This module
//! adds what h2 leaves to its user:
//!
//! - **Deadlines.** An unfinished head, a connection without streams (whether or not it sends PING), a
//!   caller whose window stays closed or whose socket accepts nothing: each has a time limit, which is
//!   renewed as long as bytes move.
//! - **Floods.** Frames that cost the caller nothing are counted against a budget (`meter`).
//! - **Resets.** A stream that is reset may have a relay in flight; aborting the relay would cost an
//!   upstream connection per reset. So it may finish within [`CANCEL_GRACE`], keeping its permit.
//!
//! The budget for small DATA frames, beyond which h2 closes the connection, is raised in proportion to
//! the number of streams, since small requests on many streams are normal here.

mod meter;
mod stream;

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;

use h2::Reason;
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::{Faces, Limits};
use tokio::sync::Semaphore;

use super::sessions::Slot;
use super::wire::STALLED;
use crate::call::worker::{Phase, Worker};
use crate::permit::{HTTP2_BYTES, Share};
use crate::transport::io::Io;

use meter::{Meter, Metered};

/// Bytes that a caller may send on a stream before the gateway has read them: a typical body needs no
/// round trip for a window update.
const STREAM_WINDOW: u32 = 128 << 10;

/// The same over all streams. Streams are read as soon as their data arrives.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes of an answer that h2 buffers per stream.
const SEND_BUFFER: usize = 64 << 10;

/// h2 charges up to 256 for each unread small DATA frame. Callers that send a small body and its end in
/// two frames cannot exceed twice that per stream.
const DATA_BUDGET_PER_STREAM: usize = 512;

/// The minimum budget: h2's default.
const DATA_BUDGET_MIN: usize = 25_600;

/// How long the relays of a reset stream may take to finish.
const CANCEL_GRACE: Nanos = Nanos::from_secs(1);

/// How long a closing connection may take to accept its last frames.
const GOODBYE: Nanos = Nanos::from_secs(1);

/// The longest interval between checks of a connection's deadlines; the shortest is 10 ms.
const CHECK_INTERVAL_MAX: Nanos = Nanos::from_secs(5);

/// The state shared by the streams of a connection.
struct Shared {
    worker: Rc<Worker>,
    peer: IpAddr,
    faces: Faces,
    /// Limits the connection's concurrent calls.
    turns: Semaphore,
    meter: Rc<Meter>,
    streams: Cell<usize>,
    /// When the last stream ended.
    idle_since: Cell<Nanos>,
}

/// Serves a connection whose first bytes have already been read into `read`.
pub(super) async fn serve(
    worker: Rc<Worker>,
    io: Io,
    read: Vec<u8>,
    (peer, faces): (IpAddr, Faces),
    slot: Slot,
    share: &mut Share,
) {
    if share.add(HTTP2_BYTES).is_err() {
        return;
    }
    let local = worker.local.clone();
    let limits = worker.view().settings.limits;
    let now = local.now();
    let meter = Rc::new(Meter::new(local.clone()));
    let io = Metered::new(io, read, meter.clone());
    let until = local.instant(now + limits.header_time);
    let handshake = builder(&limits).handshake(io);
    let Ok(Ok(mut connection)) = tokio::time::timeout_at(until, handshake).await else { return };
    let shared = Rc::new(Shared {
        turns: Semaphore::new(limits.calls_per_connection),
        peer,
        faces,
        meter,
        streams: Cell::new(0),
        idle_since: Cell::new(now),
        worker,
    });
    let mut phases = shared.worker.shared.phases();
    let shortest = limits.header_time.min(limits.idle_time).min(limits.write_time);
    let interval = Nanos(shortest.0 / 2).clamp(Nanos::from_millis(10), CHECK_INTERVAL_MAX);
    let mut checks = tokio::time::interval(interval.into());
    let mut ending = None;
    loop {
        let event = tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let stream = stream::Stream::new(shared.clone(), respond);
                    tokio::task::spawn_local(stream.serve(request));
                    Event::Check
                }
                // On error, the connection is closed.
                Some(Err(_)) | None => return,
            },
            () = shared.meter.flooded() => Event::Flooded,
            () = std::future::poll_fn(|context| slot.poll_closing(context)) => Event::Closing,
            _ = phases.wait_for(|phase| *phase >= Phase::Draining), if ending.is_none() => {
                Event::Draining
            }
            _ = checks.tick() => Event::Check,
        };
        let now = local.now();
        let is_idle = shared.streams.get() == 0;
        match event {
            Event::Flooded => break,
            Event::Closing if is_idle => break,
            Event::Closing => {
                // Waits for its streams to end; then the connection closes, at the latest at the next
                // check.
                tokio::select! {
                    accepted = connection.accept() => if !matches!(accepted, Some(Ok(_))) { return },
                    _ = checks.tick() => {}
                }
            }
            Event::Draining => {
                ending = Some(now);
                connection.graceful_shutdown();
            }
            Event::Check => {}
        }
        let is_late = |since: Option<Nanos>, limit: Nanos| since.is_some_and(|at| now - at > limit);
        let blocked = shared.meter.blocked_since();
        if is_late(shared.meter.head_since(), limits.header_time)
            || is_late(blocked, limits.write_time)
            || (local.capacity.is_under_pressure() && is_late(blocked, STALLED))
            || (is_idle && is_late(ending, GOODBYE))
        {
            return;
        }
        if ending.is_none() && is_idle && now - shared.idle_since.get() > limits.idle_time {
            ending = Some(now);
            connection.graceful_shutdown();
        }
    }
    // Sends a last GOAWAY, if the caller still reads.
    let reason =
        if shared.meter.is_flooded() { Reason::ENHANCE_YOUR_CALM } else { Reason::NO_ERROR };
    connection.abrupt_shutdown(reason);
    let closed = std::future::poll_fn(|context| connection.poll_closed(context));
    let _ = tokio::time::timeout(GOODBYE.into(), closed).await;
}

/// Why the connection's task woke up.
enum Event {
    Check,
    Draining,
    Closing,
    Flooded,
}

fn builder(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    let streams = limits.http2_streams as usize;
    builder
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(u32::try_from(limits.header).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_BUDGET_MIN.max(DATA_BUDGET_PER_STREAM * streams));
    builder
}
