//! The health of an upstream, by the outcomes of its relays. Failures, outages and recoveries are
//! logged.
//!
//! A successful relay only reads one counter. Failures are logged with the upstream's response, at
//! most once a second for each upstream and kind, and once a minute while the upstream is known to be
//! failing, so that frequent failures of one kind do not hide another; suppressed log lines are
//! counted in the next one, or in one of their own if no failure follows.
//!
//! An outage needs several failures in a row and a second without an answer. Outages of an upstream
//! that fails and recovers in turn are logged at intervals; the next line counts the others.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use plimsoll_measure::Nanos;

use crate::error::ErrorKind;
use crate::observe::stats::RelayOutcome;

/// An upstream is down after this many failures in a row, over at least [`DOWN_AFTER_TIME`]: a
/// burst of calls in flight may fail together.
const DOWN_AFTER: u32 = 5;

/// See [`DOWN_AFTER`].
const DOWN_AFTER_TIME: Nanos = Nanos::from_secs(1);

/// The minimum interval between logged outages of an upstream.
const OUTAGE_INTERVAL: Nanos = Nanos::from_secs(10);

/// The minimum interval between logged failures of an upstream and kind.
const LOG_INTERVAL: Nanos = Nanos::from_secs(1);

/// The same after an outage was announced: the following failures are no news.
const LOG_INTERVAL_DOWN: Nanos = Nanos::from_secs(60);

/// Suppressed lines are reported after this long without a line of their kind.
const FLUSH_AFTER: Nanos = Nanos::from_secs(2);

/// At most this many bytes of an upstream's response are logged.
const TEXT_MAX: usize = 300;

/// The health of an upstream.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Failures since the last success.
    consecutive: AtomicU32,
    /// When the first of them occurred.
    failing_since: AtomicU64,
    /// How often the upstream may have been replaced: connections failed or were closed, it went down,
    /// or it recovered.
    losses: AtomicU32,
    /// Whether a connection failed since the last success.
    is_lost: AtomicBool,
    /// When the upstream went down, since the gateway's start; 0 if it is not down.
    down_since: AtomicU64,
    /// When an outage was last logged.
    announced_at: AtomicU64,
    /// Whether the present outage was logged.
    is_announced: AtomicBool,
    /// Outages that were not logged.
    unannounced: AtomicU64,
    /// The log lines about failures, by their outcome's index.
    lines: [LineLimit; RelayOutcome::COUNT],
    /// Whether its last answers closed their connections.
    closes: AtomicBool,
    /// The last failure.
    last: Mutex<String>,
}

/// Limits the frequency of log lines.
#[derive(Debug, Default)]
struct LineLimit {
    /// When a line was last logged; 0 if never.
    logged_at: AtomicU64,
    /// Lines that were not logged since.
    suppressed: AtomicU64,
}

impl LineLimit {
    /// Whether to log a line now: the number of lines suppressed before it. Otherwise, it is
    /// counted as suppressed.
    fn admit(&self, now: Nanos, interval: Nanos) -> Option<u64> {
        if takes_turn(&self.logged_at, now, interval) {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// The number of suppressed lines, if some are to be reported now.
    fn flush(&self, now: Nanos, after: Nanos) -> Option<u64> {
        let is_due =
            self.suppressed.load(Ordering::Relaxed) > 0 && takes_turn(&self.logged_at, now, after);
        is_due.then(|| self.suppressed.swap(0, Ordering::Relaxed)).filter(|more| *more > 0)
    }
}

/// Whether `interval` has passed since `last`, or it is 0; if so, sets it to `now`. If several
/// threads ask, one takes the turn.
fn takes_turn(last: &AtomicU64, now: Nanos, interval: Nanos) -> bool {
    let before = last.load(Ordering::Relaxed);
    let is_due = before == 0 || now - Nanos(before) >= interval;
    let order = Ordering::Relaxed;
    is_due && last.compare_exchange(before, now.0.max(1), order, order).is_ok()
}

/// A failed relay, to be logged.
pub(crate) struct FailureReport<'a> {
    pub(crate) upstream: &'a str,
    pub(crate) service: &'a str,
    /// The relay's outcome.
    pub(crate) outcome: RelayOutcome,
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
        let failures = self.consecutive.swap(0, Ordering::Relaxed);
        let since = self.down_since.swap(0, Ordering::Relaxed);
        let was_announced = self.is_announced.swap(false, Ordering::Relaxed);
        if self.is_lost.swap(false, Ordering::Relaxed) || since > 0 {
            self.lost();
        }
        if since > 0 && was_announced {
            // From the first failure: it went down only when it had failed for a while.
            let downtime = now - Nanos(self.failing_since.load(Ordering::Relaxed));
            tracing::info!(
                upstream,
                "upstream {upstream} is answering again, after {downtime} and {failures} failed \
                 attempts"
            );
        }
    }

    /// Records and logs a relay that failed.
    #[cold]
    pub(crate) fn failed(&self, report: &FailureReport<'_>, now: Nanos) {
        let detail = sanitized(report.text);
        let detail = match (detail.is_empty(), report.status) {
            (true, _) => String::new(),
            // Quoted, so that it cannot imitate the line's fields.
            (false, Some(_)) => format!("; response: {detail:?}"),
            (false, None) => format!(": {detail}"),
        };
        let text = format!("{}{detail}", report.message);
        let FailureReport { upstream, service, outcome, status, .. } = *report;
        let (kind, status) = (outcome.name(), status.map(u64::from));
        if report.counts_as_down {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = format!("{kind}: {text}");
            let failures = self.count_failure(outcome, now);
            if self.announces(now) {
                let outages = self.unannounced.swap(0, Ordering::Relaxed);
                let more_outages = (outages > 1).then(|| outages - 1);
                tracing::error!(
                    upstream,
                    kind,
                    status,
                    more_outages,
                    "upstream {upstream} is failing: {failures} attempts in a row failed; last: {text}"
                );
                return;
            }
        }
        let is_known = self.is_announced.load(Ordering::Relaxed);
        let interval = if is_known { LOG_INTERVAL_DOWN } else { LOG_INTERVAL };
        let line = &self.lines[outcome.place()];
        let Some(more) = line.admit(now, interval) else { return };
        let more = (more > 0).then_some(more);
        // The caller may still be answered by another upstream.
        tracing::warn!(
            upstream,
            service,
            kind,
            status,
            more,
            "upstream {upstream}: attempt failed: {text}"
        );
    }

    /// Counts a failure and returns the number of failures in a row; the upstream may go down.
    fn count_failure(&self, outcome: RelayOutcome, now: Nanos) -> u32 {
        let is_lost =
            matches!(outcome, RelayOutcome::Failed(ErrorKind::Unreachable | ErrorKind::Broken));
        if is_lost {
            self.is_lost.store(true, Ordering::Relaxed);
            self.lost();
        }
        let failures = self.consecutive.fetch_add(1, Ordering::Relaxed) + 1;
        if failures == 1 {
            self.failing_since.store(now.0, Ordering::Relaxed);
        }
        let failing_for = now - Nanos(self.failing_since.load(Ordering::Relaxed));
        let (at, order) = (now.0.max(1), Ordering::Relaxed);
        if failures >= DOWN_AFTER
            && failing_for >= DOWN_AFTER_TIME
            && self.down_since.compare_exchange(0, at, order, order).is_ok()
        {
            self.unannounced.fetch_add(1, Ordering::Relaxed);
            self.lost();
        }
        failures
    }

    /// Whether to log the present outage now.
    fn announces(&self, now: Nanos) -> bool {
        self.down_since.load(Ordering::Relaxed) > 0
            && !self.is_announced.load(Ordering::Relaxed)
            && takes_turn(&self.announced_at, now, OUTAGE_INTERVAL)
            && !self.is_announced.swap(true, Ordering::Relaxed)
    }

    /// Logs how many lines were suppressed, of the kinds without a recent failure.
    pub(crate) fn flush(&self, upstream: &str, now: Nanos) {
        let is_known = self.is_announced.load(Ordering::Relaxed);
        let after = if is_known { LOG_INTERVAL_DOWN } else { FLUSH_AFTER };
        for (place, line) in self.lines.iter().enumerate() {
            if let Some(more) = line.flush(now, after) {
                let kind = RelayOutcome::label(place);
                tracing::warn!(upstream, kind, more, "upstream {upstream}: more attempts failed");
            }
        }
    }

    /// Records that the upstream may have been replaced.
    pub(crate) fn lost(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the upstream may have been replaced: what was known about it must be checked again.
    pub(crate) fn losses(&self) -> u32 {
        self.losses.load(Ordering::Relaxed)
    }

    /// Whether the upstream keeps connections open after an answer, as far as is known.
    #[inline]
    pub(crate) fn keeps_connections(&self) -> bool {
        !self.closes.load(Ordering::Relaxed)
    }

    /// Records whether an answer left its connection open. The first one that does not may be the
    /// last word of a process that is replaced.
    #[inline]
    pub(crate) fn kept(&self, is_open: bool) {
        if self.keeps_connections() != is_open {
            self.closes.store(!is_open, Ordering::Relaxed);
            if !is_open {
                self.lost();
            }
        }
    }

    /// Whether the upstream is down.
    pub(crate) fn is_down(&self) -> bool {
        self.down_since.load(Ordering::Relaxed) > 0
    }

    /// Since when the upstream has been down, and its last failure; `None` if it is not down.
    pub(crate) fn down(&self) -> Option<(Nanos, String)> {
        let since = self.down_since.load(Ordering::Relaxed);
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (since > 0).then(|| (Nanos(since), last()))
    }
}

/// The start of a text, on one line and without characters that are invisible or change how the
/// line is displayed.
fn sanitized(text: &[u8]) -> String {
    let start = String::from_utf8_lossy(&text[..text.len().min(TEXT_MAX)]);
    let plain: String = start.chars().map(|one| if is_hidden(one) { ' ' } else { one }).collect();
    let mut line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.len() > TEXT_MAX {
        line.push('…');
    }
    line
}

/// Whether a character is a control character or one of Unicode's that format text: they order it
/// from right to left, join it, or have no width.
fn is_hidden(one: char) -> bool {
    one.is_control()
        || matches!(
            one,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNREACHABLE: RelayOutcome = RelayOutcome::Failed(ErrorKind::Unreachable);
    const BAD_STATUS: RelayOutcome = RelayOutcome::Failed(ErrorKind::BadStatus);

    fn fail(health: &Health, outcome: RelayOutcome, counts_as_down: bool, at: Nanos) {
        let report = FailureReport {
            upstream: "a",
            service: "eth",
            outcome,
            status: None,
            message: "connection refused",
            text: b"",
            counts_as_down,
        };
        health.failed(&report, at);
    }

    #[test]
    fn an_upstream_is_down_after_consecutive_failures_and_up_after_an_answer() {
        let health = Health::default();
        let at = Nanos::from_millis;
        let failed = |counts_as_down, ms| fail(&health, UNREACHABLE, counts_as_down, at(ms));
        (0..100).for_each(|n| failed(true, n));
        assert_eq!(health.down(), None, "less than a second");
        health.answered("a", at(200));
        (0..10).for_each(|n| failed(false, 300 + n * 1_000));
        (1..DOWN_AFTER).for_each(|n| failed(true, 20_000 + 1_000 * u64::from(n)));
        assert_eq!(health.down(), None, "too few");
        failed(true, 30_000);
        let (since, why) = health.down().expect("it is down");
        assert_eq!((since, &*why), (at(30_000), "unreachable: connection refused"));
        failed(true, 31_000);
        assert_eq!(health.down().map(|(since, _)| since), Some(at(30_000)));
        health.answered("a", at(32_000));
        assert_eq!(health.down(), None);
    }

    #[test]
    fn a_failed_connection_is_followed_by_a_recovery() {
        let health = Health::default();
        let at = Nanos::from_secs;
        // (outcome, losses from the failure on, losses after the next answer)
        let rows = [(BAD_STATUS, 0, 0), (UNREACHABLE, 1, 2), (BAD_STATUS, 2, 2)];
        for (outcome, failed, losses) in rows {
            fail(&health, outcome, true, at(1));
            assert_eq!(health.losses(), failed, "{outcome:?}");
            health.answered("a", at(2));
            health.answered("a", at(3));
            assert_eq!(health.losses(), losses, "{outcome:?}");
        }
        // An outage by other failures, too.
        (0..DOWN_AFTER).for_each(|n| fail(&health, BAD_STATUS, true, at(4 + u64::from(n))));
        assert_eq!(health.losses(), 3);
        health.answered("a", at(20));
        assert_eq!(health.losses(), 4);
        // Closing each connection is a habit; closing the first one may be an end.
        [true, false, false, true, true, false].into_iter().for_each(|kept| health.kept(kept));
        assert_eq!((health.losses(), health.keeps_connections()), (6, false));
    }

    #[test]
    fn outages_of_a_flapping_upstream_are_logged_at_intervals() {
        let health = Health::default();
        let is_announced = || health.is_announced.load(Ordering::Relaxed);
        let mut announced = Vec::new();
        // Every two seconds it fails for 1.2 s and recovers.
        for cycle in 0..10 {
            for n in 0..7 {
                let was = is_announced();
                fail(&health, UNREACHABLE, true, Nanos::from_millis(cycle * 2_000 + n * 200 + 1));
                if is_announced() && !was {
                    announced.push((cycle, health.unannounced.load(Ordering::Relaxed)));
                }
            }
            health.answered("a", Nanos::from_millis(cycle * 2_000 + 1_900));
        }
        assert_eq!(announced, [(0, 0), (5, 0)]);
        assert_eq!(health.unannounced.load(Ordering::Relaxed), 4);
        // An outage that lasts is logged when the interval has passed.
        (0..10).for_each(|n| fail(&health, UNREACHABLE, true, Nanos::from_secs(20 + n)));
        assert!(is_announced());
    }

    #[test]
    fn suppressed_log_lines_are_counted_for_each_kind() {
        let health = Health::default();
        let suppressed = |outcome: RelayOutcome| {
            health.lines[outcome.place()].suppressed.load(Ordering::Relaxed)
        };
        for at in [1, 2, 3, 999, 1_000] {
            fail(&health, BAD_STATUS, false, Nanos::from_millis(at));
        }
        assert_eq!(suppressed(BAD_STATUS), 4);
        fail(&health, UNREACHABLE, false, Nanos::from_millis(1_000));
        assert_eq!(suppressed(UNREACHABLE), 0, "logged");
        health.flush("a", Nanos::from_millis(1_500));
        assert_eq!(suppressed(BAD_STATUS), 4, "the next failure may report them");
        health.flush("a", Nanos::from_millis(3_000));
        assert_eq!(suppressed(BAD_STATUS), 0);
        fail(&health, BAD_STATUS, false, Nanos::from_millis(3_001));
        assert_eq!(suppressed(BAD_STATUS), 1, "a line was just logged");
    }

    #[test]
    fn while_an_upstream_is_down_a_failure_is_logged_once_a_minute() {
        let health = Health::default();
        let suppressed = |at: u64| {
            fail(&health, UNREACHABLE, true, Nanos::from_secs(at));
            health.lines[UNREACHABLE.place()].suppressed.load(Ordering::Relaxed)
        };
        // Each failure is logged until the outage is announced at 5 s; then one a minute.
        let rows = [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 1), (63, 2), (64, 0), (65, 1)];
        for (at, expected) in rows {
            assert_eq!(suppressed(at), expected, "after {at} s");
            health.flush("a", Nanos::from_secs(at));
        }
        health.answered("a", Nanos::from_secs(70));
        assert_eq!(suppressed(71), 0, "a new failure is news");
    }

    #[test]
    fn logged_text_is_sanitized() {
        assert_eq!(sanitized(b"no\r\n\x1b[31m such\tkey \xff"), "no [31m such key \u{fffd}");
        assert_eq!(sanitized("a\u{202e}b\u{200b}\u{2066}c\u{feff}é".as_bytes()), "a b c é");
        let long = sanitized(&[b'x'; 5_000]);
        assert_eq!(long.chars().count(), TEXT_MAX + 1);
    }
}
