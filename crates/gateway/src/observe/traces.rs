//! Traces by OpenTelemetry: spans, and the queue in which they wait to be sent.
//!
//! A trace is on or off as a whole, decided when its first request arrives ([`Context`]). A call whose
//! trace is not recorded has a context, which is passed on to upstreams, and nothing else. A call whose
//! trace is recorded has a [`Span`], which collects attributes in their encoded form, and so has each of
//! its attempts. A span that ends is encoded and queued ([`Traces::push`]); the exporter
//! (`call::export`), on the keeper's thread, sends what is queued.
//!
//! # Limits
//! At most [`SPANS_MAX`] spans and [`BYTES_MAX`] bytes wait or are being sent. Further spans are dropped
//! and counted: a receiver that is slow or gone costs no call anything, and memory stays bounded. The
//! queue has neither a lock nor a wake-up per span: the exporter is woken by the first span after a
//! pause, and when a batch is full.
//!
//! # Layout
//! - [`context`]: W3C Trace Context
//! - [`span`]: a span while its work goes on
//! - [`otlp`]: the encoding

pub(crate) mod context;
pub(crate) mod otlp;
pub(crate) mod span;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::{Notify, mpsc};

pub(crate) use context::Context;
pub(crate) use span::{Kind, Span};

/// The most spans that wait or are being sent.
pub(crate) const SPANS_MAX: usize = 8_192;

/// The most bytes of them.
pub(crate) const BYTES_MAX: u64 = 8 << 20;

/// The most spans in one request, as of OpenTelemetry's own exporters.
pub(crate) const BATCH_SPANS_MAX: usize = 512;

/// The most bytes of them: receivers accept at least a few MiB.
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 20;

/// The spans of a process that have not been sent yet, and the counts of those that have been.
#[derive(Debug)]
pub(crate) struct Traces {
    queue: mpsc::Sender<Vec<u8>>,
    /// Taken by the exporter.
    queued: Mutex<Option<mpsc::Receiver<Vec<u8>>>>,
    /// Spans that wait or are being sent.
    spans: AtomicU64,
    bytes: AtomicU64,
    /// Reports that spans wait, that a batch is full, or that everything is to be sent now.
    pub(crate) due: Notify,
    is_ending: AtomicBool,
    dropped: AtomicU64,
    sent: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
}

/// How many spans ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TraceCounts {
    /// Accepted by the receiver.
    pub(crate) sent: u64,
    /// Not queued, because the queue was full.
    pub(crate) dropped: u64,
    /// Refused by a receiver that accepted others of the same request.
    pub(crate) rejected: u64,
    /// Given up, because the receiver could not be reached or refused the request.
    pub(crate) failed: u64,
    /// Not sent yet.
    pub(crate) waiting: u64,
}

/// How spans were disposed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The receiver accepted all but this many.
    Accepted { rejected: u64 },
    /// They are given up.
    Failed,
}

impl Default for Traces {
    fn default() -> Traces {
        let (queue, queued) = mpsc::channel(SPANS_MAX);
        Traces {
            queue,
            queued: Mutex::new(Some(queued)),
            spans: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            due: Notify::new(),
            is_ending: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }
}

impl Traces {
    /// Queues an encoded span, or drops it if the queue is full.
    pub(crate) fn push(&self, span: Vec<u8>) {
        let bytes = span.len() as u64;
        let before = self.spans.fetch_add(1, Relaxed) as usize;
        let held = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        if before >= SPANS_MAX || held > BYTES_MAX || self.queue.try_send(span).is_err() {
            self.release(1, bytes);
            self.dropped.fetch_add(1, Relaxed);
        } else if before == 0 || before + 1 == BATCH_SPANS_MAX {
            self.due.notify_one();
        }
    }

    /// The other end of the queue; `None` if it has been taken.
    pub(crate) fn take_queued(&self) -> Option<mpsc::Receiver<Vec<u8>>> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Spans that wait or are being sent.
    pub(crate) fn waiting(&self) -> u64 {
        self.spans.load(Relaxed)
    }

    /// Records what became of a batch.
    pub(crate) fn settle(&self, batch: &[Vec<u8>], sent: Sent) {
        let spans = batch.len() as u64;
        match sent {
            Sent::Accepted { rejected } => {
                let rejected = rejected.min(spans);
                self.sent.fetch_add(spans - rejected, Relaxed);
                self.rejected.fetch_add(rejected, Relaxed);
            }
            Sent::Failed => {
                self.failed.fetch_add(spans, Relaxed);
            }
        }
        self.release(spans, batch.iter().map(|span| span.len() as u64).sum());
    }

    /// Asks the exporter to send everything now: the process is ending.
    pub(crate) fn end(&self) {
        self.is_ending.store(true, Relaxed);
        self.due.notify_one();
    }

    /// Whether the process is ending.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Relaxed)
    }

    pub(crate) fn counts(&self) -> TraceCounts {
        TraceCounts {
            sent: self.sent.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            failed: self.failed.load(Relaxed),
            waiting: self.waiting(),
        }
    }

    fn release(&self, spans: u64, bytes: u64) {
        self.spans.fetch_sub(spans, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn spans_and_bytes_are_bounded_and_drops_are_counted() {
        let traces = Traces::default();
        for _ in 0..SPANS_MAX + 10 {
            traces.push(vec![0; 100]);
        }
        let counts = traces.counts();
        assert_eq!((counts.waiting, counts.dropped), (SPANS_MAX as u64, 10));
        let mut queued = traces.take_queued().expect("not taken yet");
        assert!(traces.take_queued().is_none());
        let batch: Vec<_> = std::iter::from_fn(|| queued.try_recv().ok()).collect();
        assert_eq!(batch.len(), SPANS_MAX);
        // Those being sent count, too.
        traces.push(vec![0; 100]);
        assert_eq!(traces.counts().dropped, 11);
        traces.settle(&batch[..10], Sent::Accepted { rejected: 3 });
        traces.settle(&batch[10..], Sent::Failed);
        let counts = traces.counts();
        assert_eq!((counts.sent, counts.rejected, counts.waiting), (7, 3, 0));
        assert_eq!(counts.failed, SPANS_MAX as u64 - 10);
        for _ in 0..9 {
            traces.push(vec![0; 1 << 20]);
        }
        assert_eq!((traces.counts().waiting, traces.counts().dropped), (8, 12));
    }

    #[tokio::test]
    async fn the_exporter_is_woken_by_the_first_span_and_by_a_full_batch() {
        let traces = Traces::default();
        // Ready at once or not at all.
        let woken = async || traces.due.notified().now_or_never().is_some();
        assert!(!woken().await);
        traces.push(vec![0]);
        assert!(woken().await);
        for _ in 2..BATCH_SPANS_MAX {
            traces.push(vec![0]);
        }
        assert!(!woken().await);
        traces.push(vec![0]);
        assert!(woken().await);
        traces.push(vec![0]);
        assert!(!woken().await);
        traces.end();
        assert!(woken().await && traces.is_ending());
    }
}
