//! Checks that upstreams are on their service's chain.
//!
//! If the gateway answered `eth_chainId` itself with a wrong id, wallets would sign for the wrong
//! chain; if it used an upstream on another chain, callers would read another chain's state. So each
//! upstream of a service with a `chain_id` is asked for its chain id. One on a different chain is not
//! used for the service. If no upstream's rules permit `eth_chainId`, the configured id is used
//! unchecked.
//!
//! # When
//! - With each health check ([`super::health`]), after the latest block was read: a head is believed only
//!   if the id that was read after it is right.
//! - Before the first call on a connection that was not yet open when the upstream last answered a check:
//!   another node may listen there since, however short the pause was. (A check covers what was opened
//!   before it was sent, or, if it takes long, [`TRANSIT_MAX`] before its answer arrived: the process that
//!   answered was still there then.) Upstreams that close each connection are
//!   excepted: for them, the health checks must do.
//! - After a loss (a connection failed or was closed by the upstream, its name has another address, it
//!   went down or recovered), also by the next scan, and every [`RECHECK_INTERVAL`] until it is answered.
//!   Until then the upstream is used only if no other can be.
//!
//! While a check is owed by all upstreams, the gateway relays `eth_chainId`.
//!
//! # Calls wait together
//! A call that finds a check owed waits for it ([`confirm`]). There is at most one such check of an
//! upstream in this process; calls that arrive meanwhile wait for the same one, and share its failure.
//! None waits beyond its own deadline, or its service's patience and [`WAIT_FACTOR`] times as long as the
//! last check took. It then fails as one that was never
//! sent, so that another upstream is tried.
//!
//! # Upstreams that do not tell
//! Some answer `eth_chainId` with an error or something that is no number. This confirms nothing: such an
//! upstream is not used if another one of the service has ever confirmed its id. If none has, those that
//! do not tell are used unchecked, because the operator has configured them and nothing else works; the
//! log says so. An answer that is only a refusal for the moment (a limit, an overload) counts as none.
//! What an upstream has told before stays true until it tells something else.
//!
//! The connection of a check stays open, so that a restart of the upstream is noticed at the next scan
//! even if nobody calls it. Checks are repeated every [`CONFIRMED_INTERVAL`], which keeps one open; an
//! upstream that does not keep it open is asked every [`RECHECK_INTERVAL`].

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_measure::Nanos;
use plimsoll_rpc::json;
use tokio::sync::watch;

use super::health::{After, ask};
use super::routing::{Route, Service};
use super::worker::Worker;
use crate::error::ErrorKind;
use crate::upstream::Failure;

/// How long until an upstream that did not answer, or is on a different chain, is asked again.
const RECHECK_INTERVAL: Nanos = Nanos::from_secs(5);

/// How long until an upstream that has been lost again is asked again.
const LOST_INTERVAL: Nanos = Nanos::from_millis(250);

/// How long until an upstream that has confirmed the id is asked again: less than a connection may be
/// idle, so that one is always open.
pub(super) const CONFIRMED_INTERVAL: Nanos = Nanos::from_secs(45);

/// A call waits for at most this many checks: while connections keep closing, or the upstream no longer
/// tells its id, none is enough.
const CHECKS_MAX: usize = 3;

/// An answer that arrives now was sent at most this long ago, as far as can be expected.
const TRANSIT_MAX: Nanos = Nanos::from_millis(100);

/// A call waits for a check at least this many times as long as the last one took, so that slow
/// upstreams can be used.
const WAIT_FACTOR: u64 = 2;

/// Checks in a row without an answer after which an upstream that has never told its chain id is
/// reported as unconfirmed.
const UNANSWERED_MAX: u32 = 2;

/// The method that returns the chain id.
pub(super) const METHOD: &str = "eth_chainId";

/// What is known about an upstream's chain.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    state: AtomicU8,
    /// The id that the upstream last reported.
    reported_id: AtomicU64,
    /// When the upstream was last asked; 0 if never.
    asked_at: AtomicU64,
    /// The upstream's losses when it was last asked.
    asked_losses: AtomicU32,
    /// The upstream's losses when it was asked the question that it last answered.
    checked_losses: AtomicU32,
    /// Connections that were opened by this time were open when it answered.
    covered_until: AtomicU64,
    /// How long the last answer took.
    took: AtomicU64,
    /// Checks in a row without an answer.
    unanswered: AtomicU32,
    /// Whether it is not used because it does not tell its id and another one does.
    is_refused: AtomicBool,
    /// The check that calls wait for.
    running: Mutex<Option<watch::Receiver<Outcome>>>,
}

/// The outcome of a check; `None` while it is running.
type Outcome = Option<Result<(), Failure>>;

/// When a check was sent, and when its answer arrived.
#[derive(Clone, Copy, Debug)]
struct CheckTime {
    asked: Nanos,
    answered: Nanos,
}

/// Values of [`Chain::state`]; 0 if the upstream has not answered yet.
const CONFIRMED: u8 = 1;
const ANOTHER: u8 = 2;
/// The upstream answers the question with something else than a chain id, and always has.
const UNTOLD: u8 = 3;

impl Chain {
    /// Whether the upstream has confirmed the service's chain id, and no check is owed after this many
    /// losses.
    #[inline]
    pub(crate) fn is_confirmed_after(&self, losses: u32) -> bool {
        self.has_confirmed() && self.checked_losses.load(Ordering::Relaxed) == losses
    }

    /// Whether the upstream has confirmed the service's chain id, and not told another one since.
    #[inline]
    pub(crate) fn has_confirmed(&self) -> bool {
        self.state.load(Ordering::Relaxed) == CONFIRMED
    }

    /// Whether a connection that was opened at this time was open when the upstream last answered.
    #[inline]
    fn covers(&self, opened_at: Nanos) -> bool {
        self.covered_until.load(Ordering::Relaxed) >= opened_at.0
    }

    /// Whether the upstream is on a different chain.
    #[inline]
    pub(crate) fn is_another(&self) -> bool {
        self.state.load(Ordering::Relaxed) == ANOTHER
    }

    /// Whether the upstream does not tell its chain id.
    pub(crate) fn is_untold(&self) -> bool {
        self.state.load(Ordering::Relaxed) == UNTOLD
    }

    /// The id of the chain that the upstream is on, if it is not the service's.
    pub(crate) fn other(&self) -> Option<u64> {
        self.is_another().then(|| self.reported_id.load(Ordering::Relaxed))
    }

    /// Whether the upstream is not used because it does not tell its id.
    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    /// Whether the upstream has never answered, although it has been asked repeatedly.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.state.load(Ordering::Relaxed) == 0
            && self.unanswered.load(Ordering::Relaxed) >= UNANSWERED_MAX
    }

    /// Sets whether the upstream is not used because it does not tell its id; returns whether this is
    /// a change.
    pub(super) fn refuse(&self, is_refused: bool) -> bool {
        self.is_refused.swap(is_refused, Ordering::Relaxed) != is_refused
    }

    /// Whether to ask now, after this many losses. If so, the upstream is marked as asked. `is_watched`:
    /// a connection to it is open, whose end would be noticed; `recheck`: how often to ask while the
    /// answer is not known.
    pub(super) fn is_due(&self, losses: u32, is_watched: bool, recheck: Nanos, now: Nanos) -> bool {
        let asked = self.asked_at.load(Ordering::Relaxed);
        let interval = if self.asked_losses.load(Ordering::Relaxed) != losses {
            LOST_INTERVAL
        } else if is_watched && self.is_confirmed_after(losses) {
            CONFIRMED_INTERVAL
        } else {
            recheck.min(RECHECK_INTERVAL)
        };
        if asked > 0 && now - Nanos(asked) < interval {
            return false;
        }
        self.asked(losses, now);
        true
    }

    fn asked(&self, losses: u32, now: Nanos) {
        self.asked_at.store(now.0.max(1), Ordering::Relaxed);
        self.asked_losses.store(losses, Ordering::Relaxed);
    }

    /// Records the id that the upstream was asked for after this many losses; returns whether anything
    /// changed.
    fn record(&self, id: u64, expected: u64, losses: u32, time: CheckTime) -> bool {
        let state = if id == expected { CONFIRMED } else { ANOTHER };
        let previous = self.reported_id.swap(id, Ordering::Relaxed);
        self.answered(losses, time);
        self.state.swap(state, Ordering::Relaxed) != state || previous != id
    }

    /// Records that the upstream does not tell its chain id; returns whether this is news.
    fn record_untold(&self, losses: u32, time: CheckTime) -> bool {
        let order = Ordering::Relaxed;
        let is_news = self.state.compare_exchange(0, UNTOLD, order, order).is_ok();
        if self.is_untold() {
            self.answered(losses, time);
        }
        is_news
    }

    fn answered(&self, losses: u32, CheckTime { asked, answered }: CheckTime) {
        self.unanswered.store(0, Ordering::Relaxed);
        self.checked_losses.store(losses, Ordering::Relaxed);
        let covered = asked.max(answered - TRANSIT_MAX);
        self.covered_until.fetch_max(covered.0, Ordering::Relaxed);
        self.took.store((answered - asked).0, Ordering::Relaxed);
    }

    fn is_unanswered_again(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// The check that is running, or a new one.
    fn join(&self, start: impl FnOnce(watch::Sender<Outcome>)) -> watch::Receiver<Outcome> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let is_running = |outcome: &&watch::Receiver<Outcome>| {
            outcome.borrow().is_none() && outcome.has_changed().is_ok()
        };
        match running.as_ref().filter(is_running) {
            Some(outcome) => outcome.clone(),
            None => {
                let (sender, outcome) = watch::channel(None);
                *running = Some(outcome.clone());
                start(sender);
                outcome
            }
        }
    }
}

/// Whether a check is owed before a call is sent over a connection that was opened at this time.
#[inline]
pub(super) fn is_owed(route: &Route, opened_at: Nanos) -> bool {
    route.is_chain_checked
        && (!route.is_confirmed()
            || !route.state.chain.covers(opened_at) && route.upstream.health.keeps_connections())
}

/// Waits for the check that is owed before a call is sent over a connection that was opened at this
/// time.
///
/// # Errors
/// The upstream is on another chain, does not tell, or did not answer `until` this time. Nothing of the
/// call was sent.
#[cold]
pub(super) async fn confirm(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    route: &Route,
    opened_at: Nanos,
    deadline: Nanos,
) -> Result<(), Failure> {
    let chain = &route.state.chain;
    let local = &worker.local;
    let usual = Nanos(WAIT_FACTOR * chain.took.load(Ordering::Relaxed));
    let patience = service.model.patience().max(usual);
    let until = local.instant(deadline.min(local.now() + patience));
    let place = service.routes.iter().position(|one| std::ptr::eq(one, route));
    let place = place.expect("the route is the service's");
    for _ in 0..CHECKS_MAX {
        if let Some(other) = chain.other() {
            let message = format!("the upstream is on chain {other}");
            return Err(Failure::new(ErrorKind::WrongChain, false, message));
        }
        if chain.is_untold() {
            return match service.tells_chain() {
                true => {
                    let message = "the upstream does not tell its chain id";
                    Err(Failure::new(ErrorKind::WrongChain, false, message))
                }
                false => Ok(()),
            };
        }
        if !is_owed(route, opened_at) {
            return Ok(());
        }
        let mut outcome = chain.join(|sender| {
            let (worker, service) = (worker.clone(), service.clone());
            tokio::task::spawn_local(async move {
                let route = &service.routes[place];
                sender.send_replace(Some(check(&worker, &service, route, After::Pool).await));
            });
        });
        let outcome = match tokio::time::timeout_at(until, outcome.wait_for(Option::is_some)).await
        {
            Ok(Ok(outcome)) => outcome.clone(),
            // Its worker has stopped.
            Ok(Err(_)) => None,
            Err(_) => {
                let message = "the upstream did not confirm its chain id in time";
                return Err(Failure::new(ErrorKind::TimedOut, false, message));
            }
        };
        if let Some(Err(failure)) = outcome {
            return Err(Failure { sent: false, stale: false, ..failure });
        }
    }
    let message =
        format!("the upstream did not confirm its chain id in {CHECKS_MAX} checks in a row");
    Err(Failure::new(ErrorKind::Unreachable, false, message))
}

/// Asks an upstream for its chain id, and records it.
///
/// # Errors
/// It did not answer.
pub(super) async fn check(
    worker: &Worker,
    service: &Service,
    route: &Route,
    after: After,
) -> Result<(), Failure> {
    let Some(expected) = service.model.chain_id else { return Ok(()) };
    let losses = route.upstream.health.losses();
    let at = worker.local.now();
    let chain = &route.state.chain;
    chain.asked(losses, at);
    let asked = ask(worker, service, route, METHOD, b"[]", after).await;
    let asked = asked.inspect_err(|_| chain.is_unanswered_again())?;
    let time = CheckTime { asked: at, answered: worker.local.now() };
    let (upstream, service) = (&*route.upstream.model.id, &*service.model.id);
    let Some(id) = asked.as_deref().and_then(parse_hex) else {
        if chain.record_untold(losses, time) {
            tracing::warn!(
                upstream,
                service,
                "upstream {upstream} does not tell its chain id: used for {service} only while no \
                 upstream does, and then unchecked"
            );
        }
        return Ok(());
    };
    if !chain.record(id, expected, losses, time) {
        return Ok(());
    }
    if id == expected {
        tracing::info!(
            upstream,
            service,
            "upstream {upstream} is on chain {id}, as is service {service}"
        );
    } else {
        tracing::error!(
            upstream,
            service,
            "upstream {upstream} is on chain {id} ({id:#x}), but service {service} is on chain \
             {expected} ({expected:#x}): not used for the service; use another upstream, or set \
             chain_id = {id} in [[service]]"
        );
    }
    Ok(())
}

/// Parses a hexadecimal result, such as `"0x1"`.
pub(super) fn parse_hex(result: &[u8]) -> Option<u64> {
    let text = json::text(result)?;
    let digits = text.strip_prefix("0x")?;
    // Rust would also accept a sign.
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> CheckTime {
        CheckTime { asked: Nanos::from_secs(secs), answered: Nanos::from_secs(secs) }
    }

    #[test]
    fn an_upstream_is_checked_until_confirmed_and_again_after_a_loss() {
        let chain = Chain::default();
        let secs = Nanos::from_secs;
        let due = |losses, at| chain.is_due(losses, true, RECHECK_INTERVAL, secs(at));
        assert!(due(0, 0), "at startup");
        assert!(!due(0, 4) && due(0, 6), "only after RECHECK_INTERVAL");
        assert!(chain.record(1337, 1, 0, at(6)) && chain.is_another());
        assert_eq!(chain.other(), Some(1337));
        assert!(!chain.record(1337, 1, 0, at(6)), "unchanged");
        assert!(!due(0, 10) && due(0, 12), "the upstream may be fixed");
        assert!(chain.record(1, 1, 0, at(12)) && chain.other().is_none());
        assert!(chain.is_confirmed_after(0));
        assert!(!due(0, 56) && due(0, 57), "CONFIRMED_INTERVAL");
        assert!(!chain.record(1, 1, 0, at(57)));
        assert!(!chain.is_confirmed_after(1), "a check is owed");
        assert!(due(1, 58), "a connection was lost");
        assert!(!due(1, 62) && due(1, 63), "the check failed, and is still owed");
        assert!(due(2, 64), "another one was lost");
        chain.record(1, 1, 1, at(64));
        assert!(!chain.is_confirmed_after(2), "the answer was to the check before");
        chain.record(1, 1, 2, at(65));
        assert!(chain.is_confirmed_after(2));
        assert!(!due(2, 108) && due(2, 109));
        let unwatched = |at| chain.is_due(2, false, RECHECK_INTERVAL, secs(at));
        assert!(!unwatched(113) && unwatched(114), "its restart would not be noticed");
    }

    #[test]
    fn only_connections_from_before_a_check_are_covered() {
        let chain = Chain::default();
        let secs = Nanos::from_secs;
        assert!(!chain.covers(secs(1)));
        chain.record(1, 1, 0, at(5));
        assert!(chain.covers(secs(5)) && !chain.covers(secs(6)));
        chain.record(1, 1, 0, at(4));
        assert!(chain.covers(secs(5)), "an earlier check that ended later");
        chain.record(1, 1, 0, CheckTime { asked: secs(6), answered: secs(9) });
        assert!(chain.covers(Nanos::from_millis(8_900)) && !chain.covers(secs(9)));
    }

    #[test]
    fn what_was_told_stays_until_something_else_is_told() {
        let chain = Chain::default();
        assert!(chain.record_untold(0, at(0)) && chain.is_untold());
        assert!(!chain.record_untold(0, at(0)), "no news");
        assert!(!chain.is_confirmed_after(0) && !chain.has_confirmed());
        chain.record(7, 1, 0, at(0));
        chain.record_untold(0, at(0));
        assert!(chain.is_another(), "a garbled answer clears nothing");
        chain.record(1, 1, 0, at(0));
        chain.record_untold(1, at(0));
        assert!(chain.has_confirmed() && !chain.is_confirmed_after(1), "still owed");
    }

    #[test]
    fn there_is_one_check_at_a_time() {
        let chain = Chain::default();
        let started = std::cell::RefCell::new(Vec::new());
        let join = || chain.join(|sender| started.borrow_mut().push(sender));
        let waiters = [(); 3].map(|()| join());
        assert_eq!(started.borrow().len(), 1);
        let failure = Failure::new(ErrorKind::TimedOut, true, "late");
        started.borrow()[0].send_replace(Some(Err(failure.clone())));
        for waiter in &waiters {
            assert_eq!(*waiter.borrow(), Some(Err(failure.clone())), "shared");
        }
        join();
        assert_eq!(started.borrow().len(), 2, "after its end, a new one");
        started.borrow_mut().clear();
        join();
        assert_eq!(started.borrow().len(), 1, "the one before was dropped");
    }

    #[test]
    fn chain_ids_are_hexadecimal_strings() {
        assert_eq!(parse_hex(b"\"0x1\""), Some(1));
        assert_eq!(parse_hex(b"\"0x539\""), Some(1337));
        for other in
            [&b"1"[..], b"\"1\"", b"\"0x\"", b"null", b"\"0x10000000000000000\"", b"\"0x+1\""]
        {
            assert_eq!(parse_hex(other), None);
        }
    }
}
