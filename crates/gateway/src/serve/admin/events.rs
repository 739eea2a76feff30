//! The stream of events, as server-sent events.
//!
//! A stream reads from the events that the process keeps, one at a time, when its consumer has taken the
//! previous one: a slow consumer takes no memory beyond the kernel's buffers, misses events, and is told
//! so. One that takes nothing for `limits.write_time` is disconnected. A consumer that has left is noticed by
//! the session at once, with a comment if its socket does not say so by itself.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::watch;

use super::{error, observer};
use crate::call::message::Answer;
use crate::call::worker::{Phase, Shared};
use crate::observe::events::{CONSUMERS_MAX, State};
use crate::payload::{Payload, Pieces, Truncated};

/// After this time without an event, a comment is sent, so that proxies and clients see that the
/// connection is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The comment.
const HEARTBEAT_TEXT: &str = ": heartbeat\n\n";

/// How long a client waits before it connects again, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Answers with a stream that continues after the event with this id, as long as the token is valid.
pub(super) fn stream<'a>(
    shared: &Arc<Shared>,
    token: [u8; 32],
    last_id: Option<&str>,
) -> Answer<'a> {
    if !shared.events.enter() {
        let message = format!("{CONSUMERS_MAX} streams are open, which is the most");
        return error(503, &message, "close one, or try again");
    }
    let mut stream = Stream {
        number: 0,
        last: shared.events.last(),
        phases: shared.phases(),
        shared: shared.clone(),
        token,
        ready: VecDeque::from([format!("retry: {RETRY_MS}\n\n").into()]),
        is_shed: false,
    };
    match last_id.map(|id| shared.events.number(id)) {
        Some(Some(number)) => stream.number = number,
        Some(None) => stream.reset("the id is not one of this process's events"),
        None => stream.state(),
    }
    if stream.is_shed {
        return error(503, "limits.memory is used up", "try again");
    }
    let mut answer = Answer::new(200, b"text/event-stream", Vec::new());
    answer.fields.push(("cache-control".into(), "no-store".into()));
    // nginx would otherwise collect the events.
    answer.fields.push(("x-accel-buffering".into(), "no".into()));
    answer.body = Payload::Pieces(Box::new(stream));
    answer
}

/// A stream.
struct Stream {
    shared: Arc<Shared>,
    /// The hash of the consumer's token.
    token: [u8; 32],
    /// The number of the event last sent.
    number: u64,
    last: watch::Receiver<u64>,
    phases: watch::Receiver<Phase>,
    /// What is sent next.
    ready: VecDeque<Bytes>,
    /// Whether there was no memory for the state; the stream ends.
    is_shed: bool,
}

impl Stream {
    /// Sends the state, as an event with the id of the last one that is part of it.
    fn state(&mut self) {
        let state = match self.shared.events.state() {
            State::At(number, state) => Some((number, state)),
            State::Unknown => {
                let number = *self.last.borrow();
                observer::state(&self.shared).map(|state| (number, state))
            }
            State::Shed => None,
        };
        let Some((number, state)) = state else {
            self.is_shed = true;
            return;
        };
        self.number = number;
        let id = format!("id: {}\n", self.shared.events.id(number));
        self.ready.extend([id.into(), state]);
    }

    /// Tells the consumer that it has missed events, and the state.
    fn reset(&mut self, why: &str) {
        let data = json!({ "reason": why });
        self.ready.push_back(format!("event: reset\ndata: {data}\n\n").into());
        self.state();
    }

    /// The next part of the stream; `None` at its end.
    async fn part(&mut self) -> Option<Bytes> {
        loop {
            if self.is_shed {
                return None;
            }
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if !self.shared.state().settings.admin_tokens.contains(&self.token) {
                return None;
            }
            self.last.borrow_and_update();
            match self.shared.events.after(self.number) {
                Ok(Some(event)) => {
                    self.number = event.number;
                    let id = self.shared.events.id(event.number);
                    let text = format!("id: {id}\nevent: {}\ndata: {}\n\n", event.name, event.data);
                    return Some(text.into());
                }
                Ok(None) => {}
                Err(()) => {
                    self.reset("the consumer is too slow, or was away too long");
                    continue;
                }
            }
            tokio::select! {
                changed = self.last.changed() => changed.ok()?,
                _ = self.phases.wait_for(|phase| *phase >= Phase::Draining) => return None,
                () = tokio::time::sleep(HEARTBEAT) => return Some(HEARTBEAT_TEXT.into()),
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.events.leave();
    }
}

impl Pieces for Stream {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Option<Bytes>, Truncated>> + '_>> {
        Box::pin(async { Ok(self.part().await) })
    }

    fn length(&self) -> Option<u64> {
        None
    }

    fn probe(&self) -> &'static [u8] {
        HEARTBEAT_TEXT.as_bytes()
    }
}
