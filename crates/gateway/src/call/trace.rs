//! Where calls meet traces ([`crate::observe::traces`]): which call belongs to which trace, and what
//! spans say.
//!
//! A request gets a [`RequestTrace`] from its headers. A call gets a [`CallTrace`] from it, which its
//! attempts are made with, and a span if its trace is recorded: one of kind server if the call is the
//! request, or an internal one below the span of its batch. An attempt gets a span of kind client, whose
//! id is what the upstream sees as its parent. Spans end where calls and attempts are counted: when their
//! record is dropped, so that none is missing and none is there twice.
//!
//! While traces are off, all of this is `None`. While a trace is not recorded, nothing is allocated, and
//! the context that upstreams are sent is the caller's, or one that says that the trace is not recorded.
//!
//! # What spans do not say
//! No parameters, no text of a caller or an upstream, no full endpoint id, no key but its name. An unknown
//! method is `_OTHER`.

use std::cell::Cell;

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{self, masked};
use plimsoll_rpc::method::Method;

use super::attempt::JudgedResponse;
use super::message::{Request, Summary};
use super::routing::Route;
use super::target::Target;
use super::worker::{View, Worker};
use crate::error::{CallError, Error};
use crate::local::Local;
use crate::observe::stats::{Extra, Outcome, RelayOutcome, SHED};
use crate::observe::traces::context::PARENT;
use crate::observe::traces::span::Parent;
use crate::observe::traces::{Context, Kind, Span};
use crate::upstream::Failure;

/// The name of a method that is not known, by the semantic conventions.
const OTHER: &str = "_OTHER";

/// A request's place in its trace.
#[derive(Debug, Default)]
pub(crate) struct RequestTrace {
    /// The request's own context; `None` while traces are off.
    context: Option<Context>,
    /// The caller's span, if it sent one.
    caller: Option<u64>,
    /// Whether the calls are items of a batch, which has a span of its own.
    is_batch: Cell<bool>,
}

impl RequestTrace {
    /// The place of a request.
    #[inline]
    pub(crate) fn of(worker: &Worker, view: &View, request: &Request<'_>) -> RequestTrace {
        if view.settings.traces.is_on() {
            RequestTrace::started(worker, view, request)
        } else {
            RequestTrace::default()
        }
    }

    fn started(worker: &Worker, view: &View, request: &Request<'_>) -> RequestTrace {
        let settings = &view.settings.traces;
        let caller = request.fields.traceparent.and_then(Context::parse);
        let trace = match caller {
            Some(caller) => caller.trace,
            None => u128::from(worker.trace_bits()) << 64 | u128::from(worker.trace_bits()),
        };
        let is_sampled = match caller {
            Some(caller) if settings.respect_parent => caller.is_sampled,
            _ => Context::is_in(trace, settings.sample),
        };
        let span = match caller {
            // A trace that is not recorded is passed on as it came.
            Some(caller) if !is_sampled => caller.span,
            _ => worker.trace_bits(),
        };
        RequestTrace {
            context: Some(Context { trace, span, is_sampled }),
            caller: caller.map(|caller| caller.span),
            is_batch: Cell::new(false),
        }
    }

    /// Whether the gateway writes the headers of traces itself.
    pub(crate) fn is_on(&self) -> bool {
        self.context.is_some()
    }

    /// Whether the request continues a trace of its caller.
    pub(crate) fn is_continued(&self) -> bool {
        self.caller.is_some()
    }

    /// The trace of a call, and its span if it is recorded. `method`: `None` if it is not known.
    #[inline]
    pub(super) fn call(
        &self,
        target: &Target<'_>,
        method: Option<Method>,
    ) -> (CallTrace, Option<Box<Span>>) {
        match self.context {
            Some(context) if context.is_sampled => {
                let name = method.map_or(OTHER, |method| method.name());
                let mut span = self.span(target, context, name);
                span.text("rpc.system.name", "jsonrpc");
                span.text("rpc.method", name);
                span.text("jsonrpc.protocol.version", "2.0");
                (CallTrace::of(span.context()), Some(span))
            }
            context => (CallTrace { context, why: None }, None),
        }
    }

    /// The trace of a REST request, and its span if it is recorded.
    pub(super) fn rest(
        &self,
        target: &Target<'_>,
        http_method: &str,
    ) -> (CallTrace, Option<Box<Span>>) {
        match self.context {
            Some(context) if context.is_sampled => {
                let mut span = self.span(target, context, "REST");
                span.text("http.request.method", known(http_method));
                (CallTrace::of(span.context()), Some(span))
            }
            context => (CallTrace { context, why: None }, None),
        }
    }

    /// The span of a batch, if it is recorded; the calls that follow are its items.
    pub(super) fn batch<'a>(&self, target: &Target<'a>) -> Option<BatchSpan<'a>> {
        let context = self.context.filter(|context| context.is_sampled)?;
        let span = self.span(target, context, "batch");
        self.is_batch.set(true);
        Some(BatchSpan { span: Some(span), local: &target.worker.local })
    }

    /// Records a call that was refused before it became one.
    #[inline]
    pub(super) fn refused(&self, target: &Target<'_>, error: &Error) {
        if let Some(context) = self.context.filter(|context| context.is_sampled) {
            let mut span = self.span(target, context, "refused");
            let failed = CallError::of(error, target.shape);
            span.text("plimsoll.outcome", Outcome::NAMES[target.failed_as(error).place()]);
            add_error(&mut span, failed);
            if span.is_server() {
                span.number("http.response.status_code", error.status(target.shape).into());
            }
            span.end(target.worker.local.now());
        }
    }

    /// A span of a call or of the request.
    #[cold]
    fn span(&self, target: &Target<'_>, context: Context, name: &str) -> Box<Span> {
        let worker = target.worker;
        let traces = &worker.shared.traces;
        let mut span = if self.is_batch.get() {
            let parent = Parent::Local(context.span);
            let context = Context { span: worker.trace_bits(), ..context };
            let start = worker.local.now();
            Span::start(traces, context, parent, Kind::Internal, name, start)
        } else {
            let parent = self.caller.map_or(Parent::None, Parent::Remote);
            let mut span = Span::start(traces, context, parent, Kind::Server, name, target.start);
            if let Some(state) = target.passed.trace_state() {
                span.state(state);
            }
            span
        };
        span.text("plimsoll.service", &target.service.model.id);
        if let Some(endpoint) = &target.account.endpoint {
            span.text("plimsoll.endpoint", &masked(endpoint));
        }
        if let Some(key) = &target.account.key {
            span.text("plimsoll.key", key);
        }
        span
    }
}

/// The place of a call in its trace, which its attempts are made with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CallTrace {
    /// `None` while traces are off.
    context: Option<Context>,
    /// Why the next attempt is made, if it is not the first.
    why: Option<Extra>,
}

impl CallTrace {
    fn of(context: Context) -> CallTrace {
        CallTrace { context: Some(context), why: None }
    }

    /// The same for an attempt that is made for this reason.
    pub(super) fn because(self, why: Extra) -> CallTrace {
        CallTrace { why: Some(why), ..self }
    }

    /// The context of the call's span, if it is recorded.
    pub(super) fn recorded(self) -> Option<Context> {
        self.context.filter(|context| context.is_sampled)
    }

    /// The trace of an attempt.
    #[inline]
    pub(super) fn attempt(self, target: &Target<'_>, route: &Route, method: &str) -> AttemptTrace {
        match self.context {
            Some(context) if context.is_sampled => self.started(target, context, route, method),
            context => AttemptTrace { context, span: None },
        }
    }

    #[cold]
    fn started(
        self,
        target: &Target<'_>,
        call: Context,
        route: &Route,
        method: &str,
    ) -> AttemptTrace {
        let worker = target.worker;
        let context = Context { span: worker.trace_bits(), ..call };
        let is_rest = method == super::rest::METHOD;
        let known = if is_rest { Some(super::rest::METHOD) } else { named(method) };
        let name = known.unwrap_or(OTHER);
        let traces = &worker.shared.traces;
        let parent = Parent::Local(call.span);
        let start = worker.local.now();
        let mut span = Span::start(traces, context, parent, Kind::Client, name, start);
        if !is_rest {
            span.text("rpc.system.name", "jsonrpc");
            span.text("rpc.method", name);
            span.text("jsonrpc.protocol.version", "2.0");
        }
        let model = &route.upstream.model;
        span.text("plimsoll.service", &target.service.model.id);
        span.text("plimsoll.upstream", &model.id);
        span.text("server.address", shown_host(model));
        span.number("server.port", model.address.port.into());
        if let Some(why) = self.why {
            span.text("plimsoll.attempt", Extra::NAMES[why as usize]);
        }
        AttemptTrace { context: Some(context), span: Some(span) }
    }
}

fn named(method: &str) -> Option<&'static str> {
    Method::find(method).map(|method| method.name())
}

/// An HTTP method, if it is one.
fn known(method: &str) -> &'static str {
    const METHODS: [&str; 9] =
        ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];
    METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER)
}

/// The host of an upstream, without labels that may be keys.
fn shown_host(upstream: &model::Upstream) -> &str {
    let shown = &upstream.url.shown;
    let from = shown.find("://").map_or(0, |at| at + 3);
    let end = shown[from..].find(['/', '?', '#']).map_or(shown.len(), |at| from + at);
    let authority = &shown[from..end];
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    }
}

/// An attempt's context and span.
#[derive(Debug, Default)]
pub(super) struct AttemptTrace {
    context: Option<Context>,
    span: Option<Box<Span>>,
}

impl AttemptTrace {
    /// Appends the `traceparent` of a request to an upstream, unless it is configured with one.
    #[inline]
    pub(super) fn write(&self, upstream: &model::Upstream, out: &mut Vec<u8>) {
        if let Some(context) = &self.context
            && !upstream.headers.iter().any(|(own, _)| own == PARENT)
        {
            out.extend_from_slice(&context.line());
        }
    }

    /// Records what a call was answered with.
    #[inline]
    pub(super) fn judged(&mut self, result: &Result<JudgedResponse, Failure>) {
        let Some(span) = &mut self.span else { return };
        let status = match result {
            Ok(judged) => {
                if judged.outcome() != RelayOutcome::Ok {
                    span.text("rpc.response.status_code", &judged.code().to_string());
                }
                Some(judged.status)
            }
            Err(failure) => failure.status(),
        };
        self.answered(status);
    }

    /// Records the status of a response, if there was one.
    #[inline]
    pub(super) fn answered(&mut self, status: Option<u16>) {
        if let (Some(span), Some(status)) = (&mut self.span, status) {
            span.number("http.response.status_code", status.into());
        }
    }

    /// Ends the span. An attempt that was cancelled has not failed.
    #[inline]
    pub(super) fn end(&mut self, outcome: RelayOutcome, at: Nanos) {
        let Some(mut span) = self.span.take() else { return };
        span.text("plimsoll.outcome", outcome.name());
        if !matches!(outcome, RelayOutcome::Ok | RelayOutcome::Cancelled) {
            span.fail(outcome.name());
        }
        span.end(at);
    }
}

/// Records how a call was answered, on its span.
#[inline]
pub(super) fn answered(span: Option<&mut Span>, status: u16, summary: &Summary<'_>) {
    if let Some(span) = span {
        describe(span, status, summary);
    }
}

#[cold]
fn describe(span: &mut Span, status: u16, summary: &Summary<'_>) {
    if span.is_server() {
        // Nothing to answer is 204.
        span.number("http.response.status_code", if status == 0 { 204 } else { status.into() });
    }
    if let Some(cache) = summary.cache {
        span.text("plimsoll.cache", cache.name());
    }
    span.number("plimsoll.attempts", summary.attempts.into());
    if let Some(flight) = summary.flight {
        span.link(flight);
    }
    if let Some(error) = summary.error {
        add_error(span, error);
    }
}

fn add_error(span: &mut Span, error: CallError) {
    span.text("rpc.response.status_code", &error.code.to_string());
    if SHED.iter().any(|kind| kind.row().name == error.kind) {
        span.text("plimsoll.shed", error.kind);
    }
    span.fail(error.kind);
}

/// Ends the span of a call.
#[inline]
pub(super) fn end(span: &mut Option<Box<Span>>, outcome: Outcome, local: &Local) {
    if let Some(mut span) = span.take() {
        span.text("plimsoll.outcome", Outcome::NAMES[outcome.place()]);
        span.end(local.now());
    }
}

/// The span of a batch, which ends when this is dropped.
pub(crate) struct BatchSpan<'a> {
    span: Option<Box<Span>>,
    local: &'a Local,
}

impl BatchSpan<'_> {
    /// Records the answer: its status, and how many calls there were and failed.
    pub(super) fn answered(&mut self, status: u16, summary: &Summary<'_>) {
        let Some(span) = &mut self.span else { return };
        span.number("http.response.status_code", if status == 0 { 204 } else { status.into() });
        span.number("plimsoll.calls", summary.calls.into());
        span.number("plimsoll.failed", summary.failed.into());
    }
}

impl Drop for BatchSpan<'_> {
    fn drop(&mut self) {
        if let Some(span) = self.span.take() {
            span.end(self.local.now());
        }
    }
}
