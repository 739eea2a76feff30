//! The faults that are set, and their effects on a request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Key;
use tokio::sync::watch;

use super::{Fault, FaultKind};

/// The faults of a simulator.
pub(crate) struct ArmedFaults {
    key: Key,
    /// Whether any fault is set. If not, requests check nothing else.
    any: AtomicBool,
    list: RwLock<Arc<Vec<Arc<ArmedFault>>>>,
    /// How many faults were ever set. Numbers them for the seed, and notifies listeners of changes.
    version: watch::Sender<u64>,
    /// How often each kind was injected.
    injected: RwLock<BTreeMap<&'static str, u64>>,
}

struct ArmedFault {
    fault: Fault,
    set_at: Nanos,
    key: Key,
    /// Matching requests so far.
    matched: AtomicU64,
    /// Repetitions of the window that were applied, for faults that happen once in each.
    turns: AtomicU64,
}

/// The effects of faults on a whole request.
#[derive(Debug, Default)]
pub(crate) struct RequestEffects {
    pub(crate) lag: u64,
    pub(crate) chain_id: Option<u64>,
    /// Blocks to replace before answering.
    pub(crate) reorganise: Vec<u64>,
    /// The response is held until then.
    pub(crate) until: Option<Nanos>,
    pub(crate) delay: Nanos,
    pub(crate) status: Option<(u16, Option<u64>)>,
    pub(crate) garbage: bool,
    /// The code with which a WebSocket connection is closed instead of the answer.
    pub(crate) close: Option<u16>,
    pub(crate) wire: Option<WireFault>,
}

/// A fault in the transmission of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireFault {
    Reset { after: usize },
    Truncate { after: Option<usize> },
    Slow { bytes: usize, every: Nanos },
    Refuse,
    Calm,
}

/// The effects of faults on one notification.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct NotificationEffects {
    /// The code with which the connection is closed instead.
    pub(crate) close: Option<u16>,
    pub(crate) is_dropped: bool,
    pub(crate) is_repeated: bool,
    /// Whether it is sent after the next one.
    pub(crate) is_late: bool,
}

/// The effects of faults on one call.
#[derive(Debug, Default)]
pub(crate) struct CallEffects {
    pub(crate) error: Option<(i64, String)>,
    pub(crate) wrong_id: bool,
}

impl ArmedFaults {
    pub(crate) fn new(key: Key) -> ArmedFaults {
        ArmedFaults {
            key,
            any: AtomicBool::new(false),
            list: RwLock::default(),
            version: watch::Sender::new(0),
            injected: RwLock::default(),
        }
    }

    /// Replaces the list, or adds to it if `keep`; the windows count from `now`.
    pub(crate) fn set(&self, faults: Vec<Fault>, keep: bool, now: Nanos) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut number = *self.version.borrow();
        let fresh = faults.into_iter().map(|fault| {
            number += 1;
            let key = self.key.with(number);
            let (matched, turns) = (AtomicU64::new(0), AtomicU64::new(0));
            Arc::new(ArmedFault { fault, set_at: now, key, matched, turns })
        });
        let mut faults: Vec<Arc<ArmedFault>> = if keep { list.to_vec() } else { Vec::new() };
        faults.extend(fresh);
        self.any.store(!faults.is_empty(), Ordering::Release);
        *list = Arc::new(faults);
        drop(list);
        self.version.send_replace(number + 1);
    }

    /// The faults that are set, in force or not.
    pub(crate) fn list(&self) -> Vec<Fault> {
        self.armed().iter().map(|armed| armed.fault.clone()).collect()
    }

    /// How often each kind was injected.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.injected.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether no fault is set.
    pub(crate) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// Notifies of every change of the list.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The time until which new connections are refused; `None` if they are accepted.
    pub(crate) fn refusing(&self, now: Nanos) -> Option<Nanos> {
        self.refusals(|armed| Some(armed.set_at + armed.fault.window.turn(now - armed.set_at)?.1))
            .max()
    }

    /// When the next refusal starts.
    pub(crate) fn next_refusal(&self, now: Nanos) -> Option<Nanos> {
        self.refusals(|armed| {
            Some(armed.set_at + armed.fault.window.next_start(now - armed.set_at)?)
        })
        .min()
    }

    fn refusals(&self, when: impl Fn(&ArmedFault) -> Option<Nanos>) -> impl Iterator<Item = Nanos> {
        let armed = self.armed();
        let refusals = armed.iter().filter(|armed| armed.fault.kind == FaultKind::Refuse);
        refusals.filter_map(|armed| when(armed)).collect::<Vec<_>>().into_iter()
    }

    /// After how many streams an HTTP/2 connection ends with GOAWAY.
    pub(crate) fn goaway_after(&self, now: Nanos) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        let armed = self.armed();
        let after = armed.iter().filter_map(|armed| match armed.fault.kind {
            FaultKind::Goaway { after } => {
                armed.fault.window.turn(now - armed.set_at).map(|_| after)
            }
            _ => None,
        });
        after.min()
    }

    /// Counts a GOAWAY.
    pub(crate) fn count_goaway(&self) {
        self.count(&FaultKind::Goaway { after: 0 });
    }

    /// The effects on a request for `service` that calls `methods`.
    pub(crate) fn apply(&self, service: &str, methods: &[&str], now: Nanos) -> RequestEffects {
        let mut effects = RequestEffects::default();
        for armed in self.armed().iter() {
            let Fault { kind, method, .. } = &armed.fault;
            let by_method = method.as_ref().is_none_or(|wanted| methods.contains(&wanted.as_str()));
            if !by_method || !armed.is_for(service) {
                continue;
            }
            // Reorganisations also happen if their window opened and closed between two requests.
            if let FaultKind::Reorganise { depth } = *kind {
                for _ in 0..armed.take_due_windows(now) {
                    effects.reorganise.push(depth);
                    self.count(kind);
                }
                continue;
            }
            let Some((_, end)) = armed.fault.window.turn(now - armed.set_at) else { continue };
            if !armed.selects_next() {
                continue;
            }
            match *kind {
                FaultKind::Status { status, retry_after } => {
                    effects.status = effects.status.or(Some((status, retry_after)));
                }
                FaultKind::Stall => effects.until = effects.until.max(Some(armed.set_at + end)),
                FaultKind::Delay { by } => effects.delay += by,
                FaultKind::Lag { blocks } => effects.lag = effects.lag.max(blocks),
                FaultKind::ChainId { id } => effects.chain_id = Some(id),
                FaultKind::Reset { after } => effects.wire = Some(WireFault::Reset { after }),
                FaultKind::Truncate { after } => effects.wire = Some(WireFault::Truncate { after }),
                FaultKind::Slow { bytes, every } => {
                    effects.wire = Some(WireFault::Slow { bytes, every });
                }
                FaultKind::Garbage => effects.garbage = true,
                FaultKind::RefuseStream => effects.wire = Some(WireFault::Refuse),
                FaultKind::Calm => effects.wire = Some(WireFault::Calm),
                FaultKind::Close { code } => effects.close = Some(code),
                // Handled by `apply_to_call`, `apply_to_notification`, `refusing`, `goaway_after`, and above.
                FaultKind::Error { .. }
                | FaultKind::WrongId
                | FaultKind::Refuse
                | FaultKind::Goaway { .. }
                | FaultKind::Silence
                | FaultKind::Drop
                | FaultKind::Duplicate
                | FaultKind::Reorder
                | FaultKind::Reorganise { .. } => continue,
            }
            self.count(kind);
        }
        effects
    }

    /// The effects on one call.
    pub(crate) fn apply_to_call(&self, service: &str, method: &str, now: Nanos) -> CallEffects {
        let mut effects = CallEffects::default();
        for armed in self.armed().iter() {
            let fault = &armed.fault;
            let is_of_call = matches!(fault.kind, FaultKind::Error { .. } | FaultKind::WrongId);
            let by_method = fault.method.as_ref().is_none_or(|wanted| wanted == method);
            let in_force = || fault.window.turn(now - armed.set_at).is_some();
            if !(is_of_call
                && by_method
                && armed.is_for(service)
                && in_force()
                && armed.selects_next())
            {
                continue;
            }
            match &fault.kind {
                FaultKind::Error { code, message } if effects.error.is_none() => {
                    effects.error = Some((*code, message.clone()));
                }
                FaultKind::WrongId => effects.wrong_id = true,
                _ => continue,
            }
            self.count(&fault.kind);
        }
        effects
    }

    /// The effects on a notification of a subscription to `kind`, such as newHeads.
    pub(crate) fn apply_to_notification(
        &self,
        service: &str,
        kind: &str,
        now: Nanos,
    ) -> NotificationEffects {
        let mut effects = NotificationEffects::default();
        if self.is_empty() {
            return effects;
        }
        for armed in self.armed().iter() {
            let fault = &armed.fault;
            let is_one = matches!(
                fault.kind,
                FaultKind::Close { .. }
                    | FaultKind::Silence
                    | FaultKind::Drop
                    | FaultKind::Duplicate
                    | FaultKind::Reorder
            );
            let by_kind = fault.method.as_ref().is_none_or(|wanted| wanted == kind);
            let in_force = || fault.window.turn(now - armed.set_at).is_some();
            if !(is_one && by_kind && armed.is_for(service) && in_force() && armed.selects_next()) {
                continue;
            }
            match fault.kind {
                FaultKind::Close { code } => effects.close = Some(code),
                FaultKind::Duplicate => effects.is_repeated = true,
                FaultKind::Reorder => effects.is_late = true,
                _ => effects.is_dropped = true,
            }
            self.count(&fault.kind);
        }
        effects
    }

    fn armed(&self) -> Arc<Vec<Arc<ArmedFault>>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, kind: &FaultKind) {
        let mut injected = self.injected.write().unwrap_or_else(PoisonError::into_inner);
        *injected.entry(kind.name()).or_default() += 1;
    }
}

impl ArmedFault {
    fn is_for(&self, service: &str) -> bool {
        self.fault.service.as_ref().is_none_or(|wanted| wanted == service)
    }

    /// Whether the next matching request belongs to the affected share. Stalls, lags and wrong chain
    /// ids are properties of the node and affect every request.
    fn selects_next(&self) -> bool {
        let affects_all = matches!(
            self.fault.kind,
            FaultKind::Stall
                | FaultKind::Lag { .. }
                | FaultKind::ChainId { .. }
                | FaultKind::Refuse
                | FaultKind::Silence
        );
        if affects_all || self.fault.share >= 1.0 {
            return true;
        }
        let number = self.matched.fetch_add(1, Ordering::Relaxed);
        self.key.with(number).sequence().unit() < self.fault.share
    }

    /// The number of repetitions of the window that have begun since the last call.
    fn take_due_windows(&self, now: Nanos) -> u64 {
        let begun = self.fault.window.started(now - self.set_at).map_or(0, |(turn, _)| turn + 1);
        begun.saturating_sub(self.turns.fetch_max(begun, Ordering::AcqRel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Nanos = Nanos::from_secs(1);

    #[test]
    fn shares_are_met_and_reproducible() {
        let affected = |seed| {
            let armed = ArmedFaults::new(Key::new(seed));
            armed.set(vec![Fault::new(FaultKind::Garbage).for_share(0.3)], false, Nanos::ZERO);
            (0..10_000).map(|_| armed.apply("eth", &["m"], T).garbage).collect::<Vec<_>>()
        };
        let first = affected(1);
        assert_eq!(first, affected(1));
        assert_ne!(first, affected(2));
        let share = first.iter().filter(|affected| **affected).count();
        // 3,000 expected with a standard deviation of 46.
        assert!((2_850..3_150).contains(&share), "{share}");
    }

    #[test]
    fn faults_apply_to_their_service_and_method() {
        let armed = ArmedFaults::new(Key::new(1));
        assert!(armed.is_empty());
        let error = FaultKind::Error { code: 5, message: "x".into() };
        armed.set(
            vec![
                Fault::new(error).for_method("eth_call"),
                Fault::new(FaultKind::Lag { blocks: 7 }).for_service("eth"),
                Fault::new(FaultKind::Stall).during(Nanos::from_secs(3), Nanos::from_secs(2)),
            ],
            false,
            T,
        );
        assert!(armed.apply_to_call("eth", "eth_call", T).error.is_some());
        assert!(armed.apply_to_call("eth", "eth_chainId", T).error.is_none());
        assert_eq!(armed.apply("eth", &[], T).lag, 7);
        assert_eq!(armed.apply("boba", &[], T).lag, 0);
        assert_eq!(armed.apply("boba", &[], T).until, None);
        let end = Some(Nanos::from_secs(6));
        assert_eq!(armed.apply("boba", &[], Nanos::from_secs(5)).until, end);
        assert_eq!(armed.counts(), BTreeMap::from([("error", 1), ("lag", 1), ("stall", 1)]));
        armed.set(Vec::new(), false, T);
        assert!(armed.is_empty() && armed.list().is_empty());
    }

    #[test]
    fn reorganisations_happen_once_in_each_window() {
        let armed = ArmedFaults::new(Key::new(1));
        let mut fault = Fault::new(FaultKind::Reorganise { depth: 2 }).during(T, T);
        fault.window.every = Some(Nanos::from_secs(10));
        armed.set(vec![fault], false, Nanos::ZERO);
        let depths = |secs| armed.apply("eth", &[], Nanos::from_secs(secs)).reorganise;
        assert_eq!(depths(0), Vec::<u64>::new());
        assert_eq!(depths(1), [2]);
        assert_eq!(depths(1), Vec::<u64>::new());
        assert_eq!(depths(22), [2, 2], "two windows have begun since");
    }

    #[test]
    fn refusals_follow_their_windows() {
        let armed = ArmedFaults::new(Key::new(1));
        let s = Nanos::from_secs;
        armed.set(vec![Fault::new(FaultKind::Refuse).during(s(2), s(3))], false, s(10));
        assert_eq!((armed.refusing(s(11)), armed.next_refusal(s(11))), (None, Some(s(12))));
        assert_eq!((armed.refusing(s(13)), armed.next_refusal(s(13))), (Some(s(15)), None));
        assert_eq!((armed.refusing(s(15)), armed.next_refusal(s(15))), (None, None));
    }
}
