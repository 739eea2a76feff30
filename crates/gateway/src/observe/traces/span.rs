//! A span of a recorded trace, while its work goes on.

use std::sync::Arc;

use plimsoll_measure::{Nanos, WallClock};

use super::{Context, Traces, otlp};

/// What a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call within a request.
    Internal = 1,
    /// A caller's request.
    Server,
    /// A request to an upstream.
    Client,
}

/// The fields of a message `Span` that are used.
mod field {
    pub(super) const TRACE: u8 = 1;
    pub(super) const SPAN: u8 = 2;
    pub(super) const STATE: u8 = 3;
    pub(super) const PARENT: u8 = 4;
    pub(super) const NAME: u8 = 5;
    pub(super) const KIND: u8 = 6;
    pub(super) const START: u8 = 7;
    pub(super) const END: u8 = 8;
    pub(super) const ATTRIBUTES: u8 = 9;
    pub(super) const LINKS: u8 = 13;
    pub(super) const STATUS: u8 = 15;
    pub(super) const FLAGS: u8 = 16;
}

/// Flags of a span or a link: recorded, and whether its parent is in this process is known.
const FLAGS: u32 = 0x101;

/// The flag of a parent in another process.
const REMOTE: u32 = 0x200;

/// The code of a failed span's status.
const ERROR: u64 = 2;

/// A span that has not ended.
#[derive(Debug)]
pub(crate) struct Span {
    traces: Arc<Traces>,
    context: Context,
    kind: Kind,
    /// On our clock.
    start: Nanos,
    /// The encoded message, without what is known only at its end.
    message: Vec<u8>,
    /// What went wrong, if the work failed.
    error: Option<&'static str>,
}

/// The parent of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// It is the first of its trace.
    None,
    /// A span of another process.
    Remote(u64),
    /// A span of this process.
    Local(u64),
}

impl Span {
    /// A span that starts at `start`.
    pub(crate) fn start(
        traces: &Arc<Traces>,
        context: Context,
        parent: Parent,
        kind: Kind,
        name: &str,
        start: Nanos,
    ) -> Box<Span> {
        let mut message = Vec::with_capacity(512);
        otlp::bytes(field::TRACE, &context.trace.to_be_bytes(), &mut message);
        otlp::bytes(field::SPAN, &context.span.to_be_bytes(), &mut message);
        let flags = match parent {
            Parent::None => FLAGS,
            Parent::Remote(span) | Parent::Local(span) => {
                otlp::bytes(field::PARENT, &span.to_be_bytes(), &mut message);
                let is_remote = matches!(parent, Parent::Remote(_));
                if is_remote { FLAGS | REMOTE } else { FLAGS }
            }
        };
        otlp::bytes(field::NAME, name.as_bytes(), &mut message);
        otlp::number(field::KIND, kind as u64, &mut message);
        otlp::fixed32(field::FLAGS, flags, &mut message);
        Box::new(Span { traces: traces.clone(), context, kind, start, message, error: None })
    }

    pub(crate) fn context(&self) -> Context {
        self.context
    }

    pub(crate) fn is_server(&self) -> bool {
        self.kind == Kind::Server
    }

    /// Adds an attribute.
    pub(crate) fn text(&mut self, key: &'static str, value: &str) {
        otlp::text_attribute(field::ATTRIBUTES, key, value, &mut self.message);
    }

    /// Adds an attribute.
    pub(crate) fn number(&mut self, key: &'static str, value: i64) {
        otlp::number_attribute(field::ATTRIBUTES, key, value, &mut self.message);
    }

    /// Sets the `tracestate` of its trace.
    pub(crate) fn state(&mut self, state: &[u8]) {
        otlp::bytes(field::STATE, state, &mut self.message);
    }

    /// Refers to another span.
    pub(crate) fn link(&mut self, other: Context) {
        let mut link = Vec::with_capacity(32);
        otlp::bytes(1, &other.trace.to_be_bytes(), &mut link);
        otlp::bytes(2, &other.span.to_be_bytes(), &mut link);
        otlp::fixed32(6, FLAGS, &mut link);
        otlp::bytes(field::LINKS, &link, &mut self.message);
    }

    /// Records that the work failed; only the first reason counts.
    pub(crate) fn fail(&mut self, error: &'static str) {
        if self.error.is_none() {
            self.error = Some(error);
            self.text("error.type", error);
        }
    }

    /// Ends the span, which takes until now (`at` on our clock), and queues it.
    ///
    /// The wall clock is read here and not derived from the start of the process, so that spans of
    /// different hosts fit together after weeks, too.
    pub(crate) fn end(self, at: Nanos) {
        let Span { traces, start, mut message, error, .. } = self;
        let end = WallClock::now().unix_ns;
        otlp::fixed64(field::START, end.saturating_sub((at - start).0), &mut message);
        otlp::fixed64(field::END, end, &mut message);
        if let Some(error) = error {
            let mut status = Vec::with_capacity(32);
            otlp::bytes(2, error.as_bytes(), &mut status);
            otlp::number(3, ERROR, &mut status);
            otlp::bytes(field::STATUS, &status, &mut message);
        }
        message.shrink_to_fit();
        traces.push(message);
    }
}
