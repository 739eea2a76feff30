//! The stream of events, as server-sent events.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::watch;

use super::{error, observer};
use crate::call::message::Answer;
use crate::call::worker::{Phase, Shared};
use crate::payload::{Payload, Pieces, Truncated};

/// After this time without an event, a comment is sent, so that proxies and clients see that the
/// connection is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Streams at the same time.
const STREAMS_MAX: usize = 64;

/// The streams that are open in this process.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// How long a client waits before it connects again, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Answers with a stream that continues after the event with this id.
pub(super) fn stream<'a>(shared: &Arc<Shared>, last_id: Option<&str>) -> Answer<'a> {
    let Some(place) = Place::take() else {
        let message = format!("{STREAMS_MAX} streams are open, which is the most");
        return error(503, &message, "close one, or try again");
    };
    let last = shared.events.last();
    let number = *last.borrow();
    let mut stream = Stream {
        number,
        last,
        phases: shared.phases(),
        shared: shared.clone(),
        first: None,
        _place: place,
    };
    let known = last_id.map(|id| shared.events.number(id));
    stream.first = Some(match known {
        Some(Some(number)) => {
            stream.number = number;
            format!("retry: {RETRY_MS}\n\n")
        }
        Some(None) => stream.reset("the id is not one of this process's events"),
        None => stream.state(),
    });
    let mut answer = Answer::new(200, b"text/event-stream", Vec::new());
    answer.fields.push(("cache-control".into(), "no-store".into()));
    // nginx would otherwise collect the events.
    answer.fields.push(("x-accel-buffering".into(), "no".into()));
    answer.body = Payload::Pieces(Box::new(stream));
    answer
}

/// One of the [`STREAMS_MAX`] streams.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let one_more = |open: usize| (open < STREAMS_MAX).then_some(open + 1);
        OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok().then_some(Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream.
struct Stream {
    shared: Arc<Shared>,
    /// The number of the event last sent.
    number: u64,
    last: watch::Receiver<u64>,
    phases: watch::Receiver<Phase>,
    /// What is sent first.
    first: Option<String>,
    _place: Place,
}

impl Stream {
    /// The present state, as an event with the id of the last one.
    fn state(&self) -> String {
        let state = observer::state(&self.shared);
        let id = self.shared.events.id(self.number);
        format!("retry: {RETRY_MS}\nid: {id}\nevent: state\ndata: {state}\n\n")
    }

    /// Tells the consumer that it has missed events, and the present state.
    fn reset(&mut self, why: &str) -> String {
        self.number = *self.last.borrow();
        format!("event: reset\ndata: {}\n\n{}", json!({ "reason": why }), self.state())
    }

    /// The next part of the stream; `None` at its end.
    async fn part(&mut self) -> Option<String> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            self.last.borrow_and_update();
            match self.shared.events.after(self.number) {
                Ok(Some(event)) => {
                    self.number = event.number;
                    let id = self.shared.events.id(event.number);
                    return Some(format!(
                        "id: {id}\nevent: {}\ndata: {}\n\n",
                        event.name, event.data
                    ));
                }
                Ok(None) => {}
                Err(()) => {
                    return Some(self.reset("the consumer is too slow, or was away too long"));
                }
            }
            tokio::select! {
                changed = self.last.changed() => changed.ok()?,
                _ = self.phases.wait_for(|phase| *phase >= Phase::Draining) => return None,
                () = tokio::time::sleep(HEARTBEAT) => return Some(": heartbeat\n\n".into()),
            }
        }
    }
}

impl Pieces for Stream {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Option<Bytes>, Truncated>> + '_>> {
        Box::pin(async { Ok(self.part().await.map(Bytes::from)) })
    }

    fn length(&self) -> Option<u64> {
        None
    }
}
