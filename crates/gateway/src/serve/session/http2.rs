//! A caller's HTTP/2 connection, read and written by the h2 crate.
//!
//! One task drives the connection and accepts its streams; each stream is a task of its own. What h2
//! leaves to its user is here:
//!
//! - **Deadlines.** A head that does not end, a connection without streams (whether or not it sends
//!   PING), a caller whose window stays shut or whose socket takes nothing: each ends within its
//!   limit, and renews as long as bytes move.
//! - **Floods.** Frames that cost the caller nothing are counted against a budget (`meter`).
//! - **Callers that leave.** A stream that is reset has a relay in flight; cutting it would cost an
//!   upstream connection for each reset. So it may end within [`CANCEL_GRACE`], holding its permit.
//!
//! The budget for small DATA frames, beyond which h2 itself ends the connection, is raised with the
//! number of streams: small requests on many streams are what this connection is for.

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

/// What a caller may send on a stream before the gateway has read it: a body of usual size needs no
/// round trip.
const STREAM_WINDOW: u32 = 128 << 10;

/// What a caller may send on all streams before the gateway has read it. Streams are read as soon as
/// their data is there.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// What of an answer lies in h2's buffer, for each stream.
const SEND_BUFFER: usize = 64 << 10;

/// h2 charges up to 256 for each small DATA frame that was not read. Twice that for each stream is
/// more than callers can reach that send a small body and its end in two frames.
const DATA_BUDGET_PER_STREAM: usize = 512;

/// And at least this: h2's own default.
const DATA_BUDGET_MIN: usize = 25_600;

/// The relays of a stream that was reset may take this long to end by themselves.
const CANCEL_GRACE: Nanos = Nanos::from_secs(1);

/// A connection that is to end may take this long to take its last frames.
const GOODBYE: Nanos = Nanos::from_secs(1);

/// A connection's deadlines are looked at this often at least, and at most every 10 ms.
const LOOK_MAX: Nanos = Nanos::from_secs(5);

/// What the streams of a connection share.
struct Shared {
    worker: Rc<Worker>,
    peer: IpAddr,
    faces: Faces,
    /// The places for calls.
    turns: Semaphore,
    meter: Rc<Meter>,
    streams: Cell<usize>,
    /// When the last stream ended.
    idle_since: Cell<Nanos>,
}

/// Serves a connection whose first bytes are in `read` already.
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
    let look = Nanos(shortest.0 / 2).clamp(Nanos::from_millis(10), LOOK_MAX);
    let mut looks = tokio::time::interval(look.into());
    let mut ending = None;
    loop {
        let event = tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let stream = stream::Stream::new(shared.clone(), respond);
                    tokio::task::spawn_local(stream.serve(request));
                    Event::Look
                }
                // An error is the caller's way of ending it.
                Some(Err(_)) | None => return,
            },
            () = shared.meter.flooded() => Event::Flooded,
            () = std::future::poll_fn(|context| slot.poll_closing(context)) => Event::Closing,
            _ = phases.wait_for(|phase| *phase >= Phase::Draining), if ending.is_none() => {
                Event::Draining
            }
            _ = looks.tick() => Event::Look,
        };
        let now = local.now();
        let is_idle = shared.streams.get() == 0;
        match event {
            Event::Flooded => break,
            Event::Closing if is_idle => break,
            Event::Closing => {
                // Its streams end first; then the connection does, by itself or at the next look.
                tokio::select! {
                    accepted = connection.accept() => if !matches!(accepted, Some(Ok(_))) { return },
                    _ = looks.tick() => {}
                }
            }
            Event::Draining => {
                ending = Some(now);
                connection.graceful_shutdown();
            }
            Event::Look => {}
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
    // Said once more, as far as the caller still reads.
    let reason =
        if shared.meter.is_flooded() { Reason::ENHANCE_YOUR_CALM } else { Reason::NO_ERROR };
    connection.abrupt_shutdown(reason);
    let closed = std::future::poll_fn(|context| connection.poll_closed(context));
    let _ = tokio::time::timeout(GOODBYE.into(), closed).await;
}

/// What the connection's task woke up for.
enum Event {
    Look,
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
