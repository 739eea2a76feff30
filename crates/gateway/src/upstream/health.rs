//! What the outcomes of relays say about an upstream. Logged are why they fail, when it stops answering,
//! and when it answers again.
//!
//! A relay that succeeds looks at one number. What fails is logged with the upstream's own words, at most
//! once a second for each upstream; what was left out is counted in the next line.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use plimsoll_measure::Nanos;

/// An upstream that failed this often in a row has stopped answering.
const DOWN_AFTER: u32 = 5;

/// Failures of an upstream are not logged more often.
const PAUSE: Nanos = Nanos::from_secs(1);

/// At most this many bytes of an upstream's words are logged.
const WORDS_MAX: usize = 300;

/// What is known of an upstream.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Failures since the last success.
    in_a_row: AtomicU32,
    /// When it stopped answering, since the gateway's start and never 0; 0: it answers.
    down_since: AtomicU64,
    /// When a failure was logged last, and how many were left out since.
    logged_at: AtomicU64,
    left_out: AtomicU64,
    /// How often it came back.
    recoveries: AtomicU32,
    /// Why the last relay failed.
    last: Mutex<String>,
}

/// A relay that failed, as it is logged.
pub(crate) struct Failed<'a> {
    pub(crate) upstream: &'a str,
    pub(crate) service: &'a str,
    /// The name of the error or of its meaning.
    pub(crate) kind: &'a str,
    /// The HTTP status, where one came.
    pub(crate) status: Option<u16>,
    /// What the gateway says.
    pub(crate) message: &'a str,
    /// What the upstream says.
    pub(crate) words: &'a [u8],
    /// Whether it shows that the upstream does not answer, and not that it does not like the call.
    pub(crate) counts: bool,
}

impl Health {
    /// A relay was answered.
    #[inline]
    pub(crate) fn answered(&self, upstream: &str, now: Nanos) {
        if self.in_a_row.load(Ordering::Relaxed) > 0 {
            self.recovered(upstream, now);
        }
    }

    #[cold]
    fn recovered(&self, upstream: &str, now: Nanos) {
        self.in_a_row.store(0, Ordering::Relaxed);
        let since = self.down_since.swap(0, Ordering::Relaxed);
        if since > 0 {
            self.recoveries.fetch_add(1, Ordering::Relaxed);
            let away = now - Nanos(since);
            tracing::info!(upstream, "answers again, after {away}");
        }
    }

    /// A relay failed.
    #[cold]
    pub(crate) fn failed(&self, failed: &Failed<'_>, now: Nanos) {
        let words = shown(failed.words);
        let said = match (words.is_empty(), failed.status) {
            (true, _) => String::new(),
            (false, Some(_)) => format!("; it says: {words}"),
            (false, None) => format!(": {words}"),
        };
        let text = format!("{}{said}", failed.message);
        let Failed { upstream, service, kind, status, .. } = *failed;
        let status = status.map(u64::from);
        if failed.counts {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = format!("{kind}: {text}");
            let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
            let is_first = in_a_row >= DOWN_AFTER
                && self
                    .down_since
                    .compare_exchange(0, now.0.max(1), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok();
            if is_first {
                tracing::error!(
                    upstream,
                    kind,
                    status,
                    "has stopped answering: {in_a_row} calls in a row failed, the last with: {text}"
                );
                self.logged_at.store(now.0, Ordering::Relaxed);
                return;
            }
        }
        let last = self.logged_at.load(Ordering::Relaxed);
        let is_due = last == 0 || now - Nanos(last) >= PAUSE;
        let is_mine = is_due
            && self
                .logged_at
                .compare_exchange(last, now.0.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !is_mine {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let more = self.left_out.swap(0, Ordering::Relaxed);
        let more = (more > 0).then_some(more);
        tracing::warn!(upstream, service, kind, status, more, "a call failed: {text}");
    }

    /// How often it has come back after it had stopped answering.
    pub(crate) fn recoveries(&self) -> u32 {
        self.recoveries.load(Ordering::Relaxed)
    }

    /// Since when it does not answer, and why; `None`: it answers, as far as is known.
    pub(crate) fn down(&self) -> Option<(Nanos, String)> {
        let since = self.down_since.load(Ordering::Relaxed);
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (since > 0).then(|| (Nanos(since), last()))
    }
}

/// The start of what an upstream says, on one line and without control characters.
fn shown(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(&words[..words.len().min(WORDS_MAX)]);
    let plain: String = text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
    let mut line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.len() > WORDS_MAX {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_down_after_failures_in_a_row_and_up_with_the_first_answer() {
        let health = Health::default();
        let fail = |counts: bool, at: u64| {
            let failed = Failed {
                upstream: "a",
                service: "eth",
                kind: "unreachable",
                status: None,
                message: "connection refused",
                words: b"",
                counts,
            };
            health.failed(&failed, Nanos::from_millis(at));
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
    fn what_is_left_out_is_counted() {
        let health = Health::default();
        for at in [1, 2, 3, 999, 1_000] {
            let failed = Failed {
                upstream: "a",
                service: "eth",
                kind: "bad_status",
                status: Some(500),
                message: "m",
                words: b"",
                counts: false,
            };
            health.failed(&failed, Nanos::from_millis(at));
        }
        assert_eq!(health.left_out.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn words_are_made_harmless() {
        assert_eq!(shown(b"no\r\n\x1b[31m such\tkey \xff"), "no [31m such key \u{fffd}");
        let long = shown(&[b'x'; 5_000]);
        assert_eq!(long.chars().count(), WORDS_MAX + 1);
    }
}
