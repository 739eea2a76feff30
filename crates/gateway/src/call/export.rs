//! Sends spans to a receiver by OTLP over HTTP, on the keeper's thread.
//!
//! The spans of [`GATHERED`] go into one request, or those of a full batch. Requests follow one another
//! over one connection. A receiver that cannot take spans now (it is not reachable, does not answer
//! within [`TIMEOUT`], or answers 429, 502, 503 or 504) is sent the same batch again: after its
//! `Retry-After`, or after a pause that doubles from [`PAUSE_MIN`] to [`PAUSE_MAX`]. A batch is given up
//! after [`GIVEN_UP_AFTER`], or at once if the receiver refuses it, because the next one may be accepted.
//! Meanwhile further spans wait in the queue, up to its limits ([`crate::observe::traces`]).
//!
//! Of an answer, at most [`ANSWER_MAX`] bytes are read: it only says how many spans were rejected. When
//! the process ends, what waits is sent without pauses, for as long as the drain allows.
//!
//! Source: the OpenTelemetry Protocol specification, "OTLP/HTTP".

use std::rc::Rc;
use std::slice;
use std::sync::Arc;

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{self, Kind};
use plimsoll_registry::settings::{Limits, TraceSettings};
use tokio::sync::mpsc::Receiver;

use super::attempt::retry_after;
use super::relay::Decimal;
use super::routing::request_start;
use super::worker::Worker;
use crate::error::{ErrorKind, RetryAfter};
use crate::http1::write_field;
use crate::observe::traces::{BATCH_BYTES_MAX, BATCH_SPANS_MAX, Sent, Traces, otlp};
use crate::transport::tls;
use crate::upstream::gate::Gate;
use crate::upstream::{Failure, Request, Reuse, Secrets, Upstream, Use};

/// How long spans are gathered for a request.
const GATHERED: Nanos = Nanos::from_secs(1);

/// The same while the process ends.
const GATHERED_AT_END: Nanos = Nanos::from_millis(10);

/// How long a request may take, as of OpenTelemetry's own exporters.
const TIMEOUT: Nanos = Nanos::from_secs(10);

/// The pauses before a batch is sent again.
const PAUSE_MIN: Nanos = Nanos::from_secs(1);
const PAUSE_MAX: Nanos = Nanos::from_secs(30);

/// How long a batch is sent again.
const GIVEN_UP_AFTER: Nanos = Nanos::from_secs(60);

/// The longest `Retry-After` that is respected; the shortest is [`PAUSE_MIN`].
const RETRY_AFTER_MAX: Nanos = Nanos::from_secs(300);

/// The bytes of an answer that are read.
const ANSWER_MAX: u64 = 64 << 10;

/// How often a lasting trouble is logged.
const LOGGED_EVERY: Nanos = Nanos::from_secs(60);

/// How soon another trouble is logged: an operator who corrects one setting sees what is wrong with the
/// next.
const LOGGED_EVERY_OTHER: Nanos = Nanos::from_secs(5);

/// Sends the spans of this process until it ends.
pub(crate) async fn run(worker: Rc<Worker>) {
    let traces = worker.shared.traces.clone();
    let Some(queued) = traces.take_queued() else { return };
    let exporter = Exporter {
        worker,
        traces,
        queued,
        receiver: None,
        serial: 0,
        has_sent: false,
        pause: PAUSE_MIN,
        not_before: Nanos::ZERO,
        trouble: None,
    };
    exporter.run().await;
}

struct Exporter {
    worker: Rc<Worker>,
    traces: Arc<Traces>,
    queued: Receiver<Vec<u8>>,
    /// The receiver, and the settings that it was made from.
    receiver: Option<(TraceSettings, Arc<Upstream>)>,
    /// The number of receivers made.
    serial: u64,
    /// The next pause; it outlasts a batch.
    pause: Nanos,
    /// Whether this receiver has accepted any spans.
    has_sent: bool,
    /// When the receiver wants the next request at the earliest.
    not_before: Nanos,
    /// The present trouble, and when it was last logged.
    trouble: Option<(Nanos, String)>,
}

/// How a receiver answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Accepted {
        rejected: u64,
    },
    /// The same spans may be accepted later.
    Later(Option<RetryAfter>, String),
    Refused(String),
}

impl Exporter {
    async fn run(mut self) {
        loop {
            if self.traces.waiting() == 0 {
                self.traces.due.notified().await;
            }
            self.gather().await;
            loop {
                let batch = self.batch();
                if batch.is_empty() {
                    break;
                }
                let sent = self.send(&batch).await;
                self.traces.settle(&batch, sent);
            }
        }
    }

    /// Waits until a batch is full, spans have been gathered for long enough, or the process ends.
    async fn gather(&self) {
        let local = &self.worker.local;
        let until = local.now() + if self.traces.is_ending() { GATHERED_AT_END } else { GATHERED };
        let due = || self.traces.is_ending() || self.traces.waiting() >= BATCH_SPANS_MAX as u64;
        loop {
            let news = tokio::time::timeout_at(local.instant(until), self.traces.due.notified());
            if news.await.is_err() || due() {
                return;
            }
        }
    }

    /// The next spans that fit into one request.
    fn batch(&mut self) -> Vec<Vec<u8>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_SPANS_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(span) = self.queued.try_recv() else { break };
            bytes += span.len();
            batch.push(span);
        }
        batch
    }

    /// Sends spans until the receiver has accepted or refused them, or they are dropped.
    async fn send(&mut self, batch: &[Vec<u8>]) -> Sent {
        let local = self.worker.local.clone();
        let start = local.now();
        self.wait(self.not_before).await;
        loop {
            let view = self.worker.view();
            let settings = &view.settings;
            let receiver = match self.receiver(&settings.traces) {
                Ok(Some(receiver)) => receiver,
                // Traces were turned off.
                Ok(None) => return Sent::Failed,
                Err(why) => {
                    self.troubled(&settings.traces, &why);
                    return Sent::Failed;
                }
            };
            let (service, instance) = (&*settings.traces.service, &*settings.instance);
            let body = otlp::request(otlp::Resource { service, instance }, batch);
            match self.post(&receiver, &body).await {
                Answer::Accepted { rejected } => {
                    self.recovered(&settings.traces);
                    return Sent::Accepted { rejected };
                }
                Answer::Refused(why) => {
                    self.troubled(&settings.traces, &why);
                    return Sent::Failed;
                }
                Answer::Later(wish, why) => {
                    self.troubled(&settings.traces, &why);
                    self.not_before = local.now() + self.pause_for(wish);
                }
            }
            if self.traces.is_ending() || self.not_before > start + GIVEN_UP_AFTER {
                return Sent::Failed;
            }
            self.wait(self.not_before).await;
        }
    }

    /// Waits until this time, or until the process ends.
    async fn wait(&self, until: Nanos) {
        let local = &self.worker.local;
        while local.now() < until && !self.traces.is_ending() {
            let _ = tokio::time::timeout_at(local.instant(until), self.traces.due.notified()).await;
        }
    }

    /// The pause that a receiver wants, or the next one of ours, at random up to a quarter shorter so that
    /// replicas do not come back together.
    fn pause_for(&mut self, wish: Option<RetryAfter>) -> Nanos {
        if let Some(RetryAfter(secs)) = wish {
            return Nanos::from_secs(secs.into()).clamp(PAUSE_MIN, RETRY_AFTER_MAX);
        }
        let pause = self.pause;
        self.pause = (pause + pause).min(PAUSE_MAX);
        Nanos((pause.0 as f64 * (1.0 - self.worker.local.random() / 4.0)) as u64)
    }

    /// The receiver of the settings; `None` if there is none.
    ///
    /// # Errors
    /// There are no trusted certificates.
    fn receiver(&mut self, settings: &TraceSettings) -> Result<Option<Arc<Upstream>>, String> {
        let Some(endpoint) = &settings.endpoint else { return Ok(None) };
        let is_same = |made: &TraceSettings| {
            made.endpoint == settings.endpoint && made.headers == settings.headers
        };
        if let Some((_, known)) = self.receiver.as_ref().filter(|(made, _)| is_same(made)) {
            return Ok(Some(known.clone()));
        }
        let (url, address) = (endpoint.url.clone(), endpoint.address.clone());
        let connector = address.tls.then(|| tls::Roots::default().connector(None)).transpose()?;
        let model = model::Upstream {
            headers: settings.headers.clone(),
            ..model::Upstream::at(String::from("traces"), Kind::Evm, url, address)
        };
        self.serial += 1;
        let receiver = Arc::new(Upstream {
            secrets: Secrets::of(&model),
            model,
            serial: self.serial,
            ca: None,
            connector,
            gate: Arc::new(Gate::new(model::Concurrency::Off, &Arc::default())),
            rate_limit: None,
            parking: Arc::default(),
            health: Arc::default(),
        });
        self.receiver = Some((settings.clone(), receiver.clone()));
        self.has_sent = false;
        (self.pause, self.not_before) = (PAUSE_MIN, Nanos::ZERO);
        Ok(Some(receiver))
    }

    /// Makes one request, again over a new connection if a pooled one was closed.
    async fn post(&self, receiver: &Arc<Upstream>, body: &[u8]) -> Answer {
        let client = &self.worker.client;
        client.tidy(slice::from_ref(receiver));
        let mut head = request_start("POST", &receiver.model, &receiver.model.address.path, &[]);
        write_field("content-type", b"application/x-protobuf", &mut head);
        write_field("content-length", Decimal::of(body.len() as u64).digits(), &mut head);
        head.extend_from_slice(b"\r\n");
        let request = |reuse| Request {
            method: "POST",
            parts: [&head, body, b""],
            usage: Use::Calls,
            reuse,
            deadline: self.worker.local.now() + TIMEOUT,
        };
        let mut answer = self.exchange(receiver, &request(Reuse::Checked)).await;
        if answer.as_ref().is_err_and(|failure| failure.stale) {
            answer = self.exchange(receiver, &request(Reuse::New)).await;
        }
        answer.unwrap_or_else(|failure| Answer::Later(None, reason(&failure)))
    }

    async fn exchange(
        &self,
        receiver: &Upstream,
        request: &Request<'_>,
    ) -> Result<Answer, Failure> {
        let limits = Limits { answer: ANSWER_MAX, ..Limits::default() };
        let mut reply = self.worker.client.prepare(receiver, request, &limits).await?;
        reply.begin(request).await?;
        let (status, head) = reply.head();
        let said = said(status);
        match status {
            200..=299 => {
                // The spans are accepted even if the rest cannot be read.
                let Ok((response, reusable)) = reply.whole().await else {
                    return Ok(Answer::Accepted { rejected: 0 });
                };
                if let Some(reusable) = reusable {
                    reusable.release(self.worker.local.now());
                }
                Ok(Answer::Accepted { rejected: otlp::rejected(response.body()) })
            }
            429 | 503 => Ok(Answer::Later(retry_after(head), said)),
            502 | 504 => Ok(Answer::Later(None, said)),
            _ => Ok(Answer::Refused(said)),
        }
    }

    fn troubled(&mut self, settings: &TraceSettings, why: &str) {
        let now = self.worker.local.now();
        if let Some((logged, last)) = &self.trouble {
            let pause = if last == why { LOGGED_EVERY } else { LOGGED_EVERY_OTHER };
            if now < *logged + pause {
                return;
            }
        }
        self.trouble = Some((now, why.into()));
        let receiver = shown(settings);
        tracing::warn!(
            receiver,
            "spans cannot be sent to {receiver}: {why}; calls are not affected"
        );
    }

    fn recovered(&mut self, settings: &TraceSettings) {
        (self.pause, self.not_before) = (PAUSE_MIN, Nanos::ZERO);
        let (was_troubled, is_first) = (self.trouble.take().is_some(), !self.has_sent);
        self.has_sent = true;
        let receiver = shown(settings);
        if is_first {
            tracing::info!(receiver, "spans are sent to {receiver}, which has accepted the first");
        } else if was_troubled {
            tracing::info!(receiver, "spans are sent to {receiver} again");
        }
    }
}

fn shown(settings: &TraceSettings) -> &str {
    settings.endpoint.as_ref().map_or("", |endpoint| &endpoint.url.shown)
}

/// What a receiver answered, and how to correct it, for the log.
fn said(status: u16) -> String {
    let fix = match status {
        300..=399 => "; redirects are not followed, so set traces.endpoint to where it leads",
        401 | 403 => "; check the credentials in traces.headers",
        404 | 405 => "; check the path of traces.endpoint, which is usually /v1/traces",
        413 => "; let it accept requests of at least 1 MiB",
        415 => "; it must accept application/x-protobuf",
        _ => "",
    };
    format!("it answered with HTTP {status}{fix}")
}

/// Why there was no answer, for the log.
fn reason(failure: &Failure) -> String {
    match failure.kind {
        ErrorKind::Unreachable => {
            // The system's message: there was no answer that it could be from.
            let detail = failure.detail.as_ref().filter(|detail| detail.status.is_none());
            let why = detail.map(|detail| format!(": {}", String::from_utf8_lossy(&detail.text)));
            format!("it cannot be reached{}; check traces.endpoint", why.unwrap_or_default())
        }
        ErrorKind::TimedOut => "it did not answer in time".into(),
        ErrorKind::Broken => "it closed the connection, or its answer is not valid HTTP".into(),
        _ => "its answer cannot be read".into(),
    }
}

#[cfg(test)]
mod tests;
