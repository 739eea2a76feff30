//! What is kept for a person to read: the first error of each class, and whole exchanges.
//!
//! Both are off the usual path: a class is noted once, and exchanges are traced only when asked for.

use super::Dispatcher;
use crate::connection::Failure;
use crate::exchange::{Exchange, Id};
use crate::run::TraceRecord;
use crate::worker::Shared;
use plimsoll_measure::{Closed, ErrorClass, Note};

impl Dispatcher<'_> {
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    pub(crate) fn take_traces(&mut self) -> Vec<TraceRecord> {
        std::mem::take(&mut self.traces)
    }

    pub(super) fn note_failure(&mut self, id: Id, failure: &Failure) {
        if self.noted[failure.class.index()] {
            return;
        }
        let text = match (&failure.error, failure.fault) {
            (Some(error), _) => error.to_string(),
            (None, Some(fault)) => fault.to_string(),
            (None, None) => failure.class.to_string(),
        };
        let exchange = self.exchanges.get(id).expect("what failed is on its way");
        note(&mut self.noted, &mut self.notes, self.shared, exchange, failure.class, text);
    }

    pub(super) fn end_trace(&mut self, key: usize, id: Id) {
        if self.tracing.is_empty() {
            return;
        }
        let Some(place) = self.tracing.iter().position(|traced| *traced == id) else { return };
        self.tracing.swap_remove(place);
        let trace = self.connections[key].take_trace(id).expect("what is traced is kept");
        let exchange = self.exchanges.get(id).expect("what is traced is on its way");
        self.traces.push(TraceRecord {
            target: self.shared.plan.targets[exchange.target as usize].name.clone(),
            sent_at: exchange.sent_at,
            received_at: self.shared.clock.now(),
            request: trace.request,
            response: trace.response,
        });
    }
}

pub(super) fn note(
    noted: &mut [bool],
    notes: &mut Vec<Note>,
    shared: &Shared<'_>,
    exchange: &Exchange,
    class: ErrorClass,
    text: String,
) {
    if !std::mem::replace(&mut noted[class.index()], true) {
        let target = shared.plan.targets[exchange.target as usize].name.clone();
        notes.push(Note { class, target, text });
    }
}

/// The beginning of a body, for a person to read.
pub(super) fn excerpt(body: &[u8]) -> String {
    const SHOWN: usize = 120;
    if body.is_empty() {
        return "not kept or empty".into();
    }
    let text: String = String::from_utf8_lossy(&body[..body.len().min(SHOWN)])
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if body.len() > SHOWN { format!("{text}…") } else { text }
}
