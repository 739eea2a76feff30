//! The health of an upstream, by the outcomes of its relays. Failures, outages and recoveries are
//! logged.
//!
//! A successful relay only reads one counter. Failures are logged with the upstream's response, at
//! most once a second for each upstream; suppressed log lines are counted in the next one.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use plimsoll_measure::Nanos;

/// An upstream is down after this many failures in a row.
const DOWN_AFTER: u32 = 5;

/// The minimum interval between logged failures of an upstream.
const LOG_INTERVAL: Nanos = Nanos::from_secs(1);

/// At most this many bytes of an upstream's response are logged.
const TEXT_MAX: usize = 300;

/// The health of an upstream.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Failures since the last success.
    consecutive: AtomicU32,
    /// When the upstream went down, since the gateway's start; 0 if it is not down.
    down_since: AtomicU64,
    /// When a failure was last logged.
    logged_at: AtomicU64,
    /// Failures that were not logged since.
    suppressed: AtomicU64,
    recoveries: AtomicU32,
    /// The last failure.
    last: Mutex<String>,
}

/// A failed relay, to be logged.
pub(crate) struct FailureReport<'a> {
    pub(crate) upstream: &'a str,
    pub(crate) service: &'a str,
    /// The name of the error kind or category.
    pub(crate) kind: &'a str,
    /// The HTTP status, if there was one.
    pub(crate) status: Option<u16>,
    /// The gateway's description.
    pub(crate) message: &'a str,
    /// The upstream's response, or the system's error message.
    pub(crate) text: &'a [u8],
    /// Whether the failure counts towards the upstream being down.
    pub(crate) counts_as_down: bool,
}

impl Health {
    /// Records a relay that was answered.
    #[inline]
    pub(crate) fn answered(&self, upstream: &str, now: Nanos) {
        if self.consecutive.load(Ordering::Relaxed) > 0 {
            self.recovered(upstream, now);
        }
    }

    #[cold]
    fn recovered(&self, upstream: &str, now: Nanos) {
        self.consecutive.store(0, Ordering::Relaxed);
        let since = self.down_since.swap(0, Ordering::Relaxed);
        if since > 0 {
            self.recoveries.fetch_add(1, Ordering::Relaxed);
            let downtime = now - Nanos(since);
            tracing::info!(upstream, "is answering again, after {downtime}");
        }
    }

    /// Records and logs a relay that failed.
    #[cold]
    pub(crate) fn failed(&self, report: &FailureReport<'_>, now: Nanos) {
        let detail = sanitized(report.text);
        let detail = match (detail.is_empty(), report.status) {
            (true, _) => String::new(),
            (false, Some(_)) => format!("; response: {detail}"),
            (false, None) => format!(": {detail}"),
        };
        let text = format!("{}{detail}", report.message);
        let FailureReport { upstream, service, kind, status, .. } = *report;
        let status = status.map(u64::from);
        if report.counts_as_down {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = format!("{kind}: {text}");
            let failures = self.consecutive.fetch_add(1, Ordering::Relaxed) + 1;
            let goes_down = failures >= DOWN_AFTER
                && self
                    .down_since
                    .compare_exchange(0, now.0.max(1), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok();
            if goes_down {
                tracing::error!(
                    upstream,
                    kind,
                    status,
                    "has stopped answering: {failures} calls in a row failed; last failure: {text}"
                );
                self.logged_at.store(now.0, Ordering::Relaxed);
                return;
            }
        }
        let last = self.logged_at.load(Ordering::Relaxed);
        let is_due = last == 0 || now - Nanos(last) >= LOG_INTERVAL;
        // If several threads are due, one logs.
        let logs = is_due
            && self
                .logged_at
                .compare_exchange(last, now.0.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !logs {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let more = self.suppressed.swap(0, Ordering::Relaxed);
        let more = (more > 0).then_some(more);
        tracing::warn!(upstream, service, kind, status, more, "call failed: {text}");
    }

    /// How often the upstream has recovered after being down.
    pub(crate) fn recoveries(&self) -> u32 {
        self.recoveries.load(Ordering::Relaxed)
    }

    /// Since when the upstream has been down, and its last failure; `None` if it is not down.
    pub(crate) fn down(&self) -> Option<(Nanos, String)> {
        let since = self.down_since.load(Ordering::Relaxed);
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (since > 0).then(|| (Nanos(since), last()))
    }
}

/// The start of a text, on one line and without control characters.
fn sanitized(text: &[u8]) -> String {
    let start = String::from_utf8_lossy(&text[..text.len().min(TEXT_MAX)]);
    let plain: String = start.chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
    let mut line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.len() > TEXT_MAX {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_down_after_consecutive_failures_and_up_after_an_answer() {
        let health = Health::default();
        let fail = |counts_as_down: bool, at: u64| {
            let report = FailureReport {
                upstream: "a",
                service: "eth",
                kind: "unreachable",
                status: None,
                message: "connection refused",
                text: b"",
                counts_as_down,
            };
            health.failed(&report, Nanos::from_millis(at));
        };
        (1..DOWN_AFTER).for_each(|n| fail(true, n.into()));
        assert_eq!(health.down(), None);
        health.answered("a", Nanos::from_millis(10));
        (0..100).for_each(|n| fail(false, 10 + n));
        (1..DOWN_AFTER).for_each(|n| fail(true, 200 + u64::from(n)));
        assert_eq!(health.down(), None);
        fail(true, 300);
        let (since, why) = health.down().expect("it is down");
        assert_eq!((since, &*why), (Nanos::from_millis(300), "unreachable: connection refused"));
        fail(true, 400);
        assert_eq!(health.down().map(|(since, _)| since), Some(Nanos::from_millis(300)));
        health.answered("a", Nanos::from_millis(500));
        assert_eq!(health.down(), None);
    }

    #[test]
    fn suppressed_log_lines_are_counted() {
        let health = Health::default();
        for at in [1, 2, 3, 999, 1_000] {
            let report = FailureReport {
                upstream: "a",
                service: "eth",
                kind: "bad_status",
                status: Some(500),
                message: "m",
                text: b"",
                counts_as_down: false,
            };
            health.failed(&report, Nanos::from_millis(at));
        }
        assert_eq!(health.suppressed.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn logged_text_is_sanitized() {
        assert_eq!(sanitized(b"no\r\n\x1b[31m such\tkey \xff"), "no [31m such key \u{fffd}");
        let long = sanitized(&[b'x'; 5_000]);
        assert_eq!(long.chars().count(), TEXT_MAX + 1);
    }
}
