//! Events for operators, numbered, with the last ones kept: a consumer that reconnects continues where
//! it stopped.
//!
//! An event's id is `PROCESS-NUMBER`: numbers start anew with each process, so that an id of another
//! process, or one that is too old, is recognised, and the consumer is told that it missed events.
//! Consumers read from the kept events at their own pace, and share the description of the state that they
//! begin with; a slow one takes no memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::watch;

/// Events kept.
const KEPT_MAX: usize = 1_000;

/// Consumers at the same time.
pub(crate) const CONSUMERS_MAX: usize = 64;

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) number: u64,
    /// Its type.
    pub(crate) name: &'static str,
    /// A JSON document on one line.
    pub(crate) data: String,
}

/// The state to which events lead.
#[derive(Clone, Debug, Default)]
pub(crate) enum State {
    /// It was not observed yet.
    #[default]
    Unknown,
    /// The number of the last event that is part of it, and the state as an event without an id. Covered by
    /// a share of memory for as long as a consumer holds it.
    At(u64, Bytes),
    /// There was no memory for it.
    Shed,
}

/// The events of a process.
pub(crate) struct Events {
    process: String,
    kept: Mutex<VecDeque<Arc<Event>>>,
    /// The number of the last event.
    last: watch::Sender<u64>,
    state: Mutex<State>,
    consumers: AtomicUsize,
}

impl Events {
    /// No events yet; `process`: an id of the process without a hyphen.
    pub(crate) fn new(process: &str) -> Events {
        Events {
            process: process.into(),
            kept: Mutex::default(),
            last: watch::Sender::new(0),
            state: Mutex::default(),
            consumers: AtomicUsize::new(0),
        }
    }

    /// Adds an event.
    pub(crate) fn add(&self, name: &'static str, data: String) {
        let mut kept = lock(&self.kept);
        let number = *self.last.borrow() + 1;
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Arc::new(Event { number, name, data }));
        self.last.send_replace(number);
    }

    /// Describes the state to which the events so far lead; `None`: there is no memory for it.
    pub(crate) fn describe(&self, state: Option<Bytes>) {
        let number = *self.last.borrow();
        *lock(&self.state) = state.map_or(State::Shed, |state| State::At(number, state));
    }

    /// The state last described.
    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// The number of the last event, and its changes.
    pub(crate) fn last(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// The first event after a number; `Err`: there are newer events, but that one is no longer kept.
    pub(crate) fn after(&self, number: u64) -> Result<Option<Arc<Event>>, ()> {
        let kept = lock(&self.kept);
        let Some(first) = kept.front() else { return Ok(None) };
        match (number + 1).checked_sub(first.number) {
            Some(place) => Ok(kept.get(place as usize).cloned()),
            None => Err(()),
        }
    }

    /// Wakes consumers although there is no event: their tokens may no longer be valid.
    pub(crate) fn wake(&self) {
        self.last.send_modify(|_| {});
    }

    /// Counts one more consumer, unless there are [`CONSUMERS_MAX`]; returns whether it did.
    pub(crate) fn enter(&self) -> bool {
        let one_more = |now: usize| (now < CONSUMERS_MAX).then_some(now + 1);
        self.consumers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Counts one consumer less.
    pub(crate) fn leave(&self) {
        self.consumers.fetch_sub(1, Ordering::Relaxed);
    }

    /// An event's id.
    pub(crate) fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.process)
    }

    /// The number in an id; `None` if it is not an id of this process.
    pub(crate) fn number(&self, id: &str) -> Option<u64> {
        let number = id.strip_prefix(&self.process)?.strip_prefix('-')?.parse().ok()?;
        (number <= *self.last.borrow()).then_some(number)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_continued_or_reported_as_missed() {
        let events = Events::new("a1");
        assert_eq!(events.after(0), Ok(None));
        for number in 1..=KEPT_MAX + 5 {
            events.add("head", number.to_string());
        }
        let data = |number| events.after(number).map(|event| event.map(|event| event.data.clone()));
        assert_eq!(data(4), Err(()));
        assert_eq!(data(5), Ok(Some("6".into())));
        assert_eq!(data(1004), Ok(Some("1005".into())));
        assert_eq!(data(1005), Ok(None));
        assert_eq!(events.number(&events.id(7)), Some(7));
        for foreign in ["b2-7", "a1-1006", "a1-", "a1", "", "a1-x", "a1--1", "a17"] {
            assert_eq!(events.number(foreign), None, "{foreign}");
        }
    }
}
