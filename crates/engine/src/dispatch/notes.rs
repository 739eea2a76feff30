//! Details for people to read: the first error of each class, and traces of complete exchanges.
//!
//! Neither is on the hot path: each class is noted once, and exchanges are traced only on request.

use super::Dispatcher;
use crate::arrival::{Arrival, Id};
use crate::connection::Failure;
use crate::prepare::Shared;
use crate::running::TraceRecord;
use crate::system::System;
use crate::tls::explain;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{ErrorClass, Fault, Listed, Note};

/// Error notes and traces collected since the last report.
#[derive(Default)]
pub(super) struct Notebook {
    noted: [bool; ErrorClass::ALL.len()],
    notes: Vec<Note>,
    /// The arrivals that are being traced.
    pub(super) tracing: Vec<Id>,
    traces: Vec<TraceRecord>,
}

impl Notebook {
    /// Whether an error of this class has been noted.
    pub(super) fn has(&self, class: ErrorClass) -> bool {
        self.noted[class.index()]
    }

    /// Notes the first error of a class.
    pub(super) fn note(
        &mut self,
        shared: &Shared,
        arrival: &Arrival,
        class: ErrorClass,
        text: String,
    ) {
        if !std::mem::replace(&mut self.noted[class.index()], true) {
            let target = shared.plan.targets[arrival.target as usize].name.clone();
            self.notes.push(Note { class, target, text });
        }
    }
}

impl<S: System> Dispatcher<S> {
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notebook.notes)
    }

    pub(crate) fn take_traces(&mut self) -> Vec<TraceRecord> {
        std::mem::take(&mut self.notebook.traces)
    }

    pub(super) fn note_failure(&mut self, id: Id, failure: &Failure) {
        if self.notebook.has(failure.class) {
            return;
        }
        let text = match (&failure.error, failure.fault) {
            (Some(error), _) if failure.class == ErrorClass::Tls => explain(error),
            (Some(error), _) => error.to_string(),
            (None, Some(fault @ Fault::HandshakeTimeout)) => {
                format!("{fault}; if the server does not use TLS, use http://")
            }
            (None, Some(fault)) => fault.to_string(),
            (None, None) if failure.class == ErrorClass::BodyTooLarge => {
                body_too_large(self.shared.plan.body_max, failure.body_len)
            }
            (None, None) => failure.class.to_string(),
        };
        self.notebook.note(&self.shared, &self.arrivals[id], failure.class, text);
    }

    pub(super) fn end_trace(&mut self, key: usize, id: Id) {
        if self.notebook.tracing.is_empty() {
            return;
        }
        let Some(index) = self.notebook.tracing.iter().position(|traced| *traced == id) else {
            return;
        };
        self.notebook.tracing.swap_remove(index);
        let trace = self.connections[key].take_trace(id).expect("a traced exchange has a trace");
        let arrival = &self.arrivals[id];
        self.notebook.traces.push(TraceRecord {
            target: self.shared.plan.targets[arrival.target as usize].name.clone(),
            spec: arrival.exchange.request as usize,
            redirected: arrival.exchange.hop.is_some(),
            sent_at: arrival.exchange.sent_at.unwrap_or(arrival.dispatched_at),
            received_at: self.system.now(),
            request: trace.request,
            response: trace.response,
        });
    }
}

/// The note for a body that a check would have to read and that is over the limit. `len` is its
/// size, if known.
pub(super) fn body_too_large(max: u64, len: Option<u64>) -> String {
    let len = len.map_or("a body".into(), |len| format!("a body of {} bytes", grouped(len)));
    format!("{len} exceeds max_body = {} bytes; raise max_body or --max-body", grouped(max))
}

/// The start of a body for an error note: `, body "no"`; empty if the body is empty or was not
/// kept.
pub(super) fn excerpt(body: &[u8]) -> String {
    const SHOWN: usize = 120;
    if body.is_empty() {
        return String::new();
    }
    let text: String = String::from_utf8_lossy(&body[..body.len().min(SHOWN)])
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let cut = if body.len() > SHOWN { "…" } else { "" };
    format!(", body \"{text}{cut}\"")
}
