//! Details for people to read: the first errors of each class that differ, the first unexpected status by target
//! and status, and traces of complete exchanges.
//!
//! None is on the hot path: of each class, the first [`LOOKED_MAX`] errors are looked at, and later ones only if
//! they are the first with their fault; exchanges are traced only on request.

use super::Dispatcher;
use crate::arrival::{Arrival, Id};
use crate::connection::{EXCERPT_MAX, Failure};
use crate::judge::Cause;
use crate::prepare::Shared;
use crate::running::TraceRecord;
use crate::system::System;
use crate::tls::explain;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{ErrorClass, Fault, Listed, Note};
use plimsoll_plan::Secrets;

/// How many errors of a class are looked at: describing them costs a microsecond each.
const LOOKED_MAX: u32 = 100;

/// What was noted of a class.
#[derive(Default)]
struct OfClass {
    /// How many errors were looked at, and their faults.
    looked: u32,
    faults: u128,
    notes: Vec<Note>,
}

const _: () = assert!(Fault::ALL.len() <= u128::BITS as usize, "a bit for each fault");

/// Error notes and traces collected since the last report.
#[derive(Default)]
pub(super) struct Notebook {
    classes: [OfClass; ErrorClass::ALL.len()],
    notes: Vec<Note>,
    /// The arrivals that are being traced.
    pub(super) tracing: Vec<Id>,
    traces: Vec<TraceRecord>,
}

impl Notebook {
    /// Whether an error of this class may say something new.
    #[inline]
    pub(super) fn wants(&self, class: ErrorClass, fault: Option<Fault>) -> bool {
        let own = &self.classes[class.index()];
        let is_new = own.looked < LOOKED_MAX || own.faults & bit(fault) != bit(fault);
        is_new && own.notes.len() < Note::OF_CLASS_MAX
    }

    /// The notes since the last call.
    pub(super) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Notes an error that says something new, without secrets that the target has repeated. `status` is that of an answer
    /// whose class is `status`.
    pub(super) fn note(
        &mut self,
        shared: &Shared,
        arrival: &Arrival,
        (class, fault, status): (ErrorClass, Option<Fault>, Option<u16>),
        text: String,
    ) {
        let text = arrival.exchange.secrets(&shared.plan).mask(&text);
        let target = shared.plan.targets[arrival.target as usize].name.clone();
        let note = Note { class, target, status, text };
        if status.is_none() {
            let own = &mut self.classes[class.index()];
            own.looked += 1;
            own.faults |= bit(fault);
            if note.is_covered_by(&own.notes) {
                return;
            }
            own.notes.push(note.clone());
        }
        self.notes.push(note);
    }
}

fn bit(fault: Option<Fault>) -> u128 {
    fault.map_or(0, |fault| 1 << fault.index())
}

impl<S: System> Dispatcher<S> {
    pub(crate) fn take_traces(&mut self) -> Vec<TraceRecord> {
        std::mem::take(&mut self.notebook.traces)
    }

    pub(super) fn note_failure(&mut self, id: Id, failure: &Failure) {
        if !self.notebook.wants(failure.class, failure.fault) {
            return;
        }
        let text = match (&failure.error, failure.fault) {
            (Some(error), _) if failure.class == ErrorClass::Tls => explain(error),
            (Some(error), Some(fault)) => format!("{fault}: {error}"),
            (Some(error), None) => error.to_string(),
            (None, Some(fault)) => match failure.code {
                Some(code) if !fault.name().contains(code.name()) => {
                    format!("{fault} ({})", code.name())
                }
                _ => fault.to_string(),
            },
            (None, None) if failure.class == ErrorClass::BodyTooLarge => {
                body_too_large(self.shared.plan.body_max, failure.body_len)
            }
            (None, None) if failure.class == ErrorClass::ClosedEarly => {
                "the target closed the connection before its answer was complete".into()
            }
            (None, None) => failure.class.to_string(),
        };
        self.notebook.note(
            &self.shared,
            &self.arrivals[id],
            (failure.class, failure.fault, None),
            text,
        );
    }

    /// Notes that an arrival's time is over, and how much it was given.
    pub(super) fn note_timeout(&mut self, id: Id, cause: Cause) {
        let arrival = &self.arrivals[id];
        if !self.notebook.wants(cause.class, cause.fault) {
            return;
        }
        let timeout = self.shared.plan.timeout;
        let text = match (cause.class, cause.fault) {
            (_, Some(Fault::HandshakeTimeout)) => format!(
                "the TLS handshake was not answered within the timeout of {timeout}; if the server does \
                 not use TLS, use http://"
            ),
            (_, Some(Fault::SettingsTimeout)) => format!(
                "the target accepted the connection but did not send its HTTP/2 settings within the \
                 timeout of {timeout}; if it does not speak HTTP/2, set protocol = \"http1\""
            ),
            (_, Some(Fault::UpgradeTimeout)) => format!(
                "the target accepted the connection but did not answer the opening of a WebSocket within \
                 the timeout of {timeout}"
            ),
            (_, Some(Fault::WindowStalled)) => format!(
                "the target did not open its HTTP/2 window for the rest of the request within the timeout \
                 of {timeout}"
            ),
            (_, Some(Fault::NothingRead)) => {
                format!("the target read no byte of the request within the timeout of {timeout}")
            }
            (ErrorClass::ResponseTimeout, _) => {
                format!("no complete answer within the timeout of {timeout}")
            }
            (ErrorClass::ConnectTimeout, _) => {
                format!("no connection established within the timeout of {timeout}")
            }
            (ErrorClass::NoConnection, _) => {
                format!("no connection became free within the timeout of {timeout}")
            }
            (ErrorClass::Late, _) => {
                format!("started too late to be answered within the timeout of {timeout}")
            }
            (ErrorClass::Dns, _) => {
                format!("the name could not be resolved within the timeout of {timeout}")
            }
            (class, _) => class.to_string(),
        };
        self.notebook.note(&self.shared, arrival, (cause.class, cause.fault, None), text);
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
            secrets: arrival.exchange.secrets(&self.shared.plan),
            redirected: arrival.exchange.hop.as_ref().is_some_and(|hop| hop.is_redirect),
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
/// kept. Secrets are left out, only spaces separate words, and other bytes than those of printable UTF-8 are escaped.
pub(super) fn excerpt(body: &[u8], is_gzip: bool, secrets: &Secrets) -> String {
    if body.is_empty() {
        return String::new();
    }
    if is_gzip {
        return ", body in gzip".into();
    }
    let mut text = String::new();
    for chunk in body[..body.len().min(EXCERPT_MAX)].utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\'' | '\\' => text.push(c),
                c if c.is_whitespace() => text.push(' '),
                c => text.extend(c.escape_debug()),
            }
        }
        chunk.invalid().iter().for_each(|byte| text += &format!("\\x{byte:02x}"));
    }
    // A beginning of the longest length was cut, or nearly so.
    let is_cut = body.len() >= EXCERPT_MAX;
    let text = if is_cut { secrets.mask_cut(&text) } else { secrets.mask(&text) };
    let words: Vec<&str> = text.split_whitespace().collect();
    let cut = if is_cut { "…" } else { "" };
    format!(", body \"{}{cut}\"", words.join(" "))
}
