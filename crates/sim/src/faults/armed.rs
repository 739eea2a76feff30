//! The list of faults in force, and what it does to one request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Key;
use tokio::sync::watch;

use super::{Fault, FaultKind};

/// The faults of a simulator.
pub(crate) struct Armed {
    key: Key,
    /// Whether there are any: what most requests look at and nothing else.
    any: AtomicBool,
    list: RwLock<Arc<Vec<Arc<Trap>>>>,
    /// How many were ever set; numbers them for the seed, and wakes who waits for a change.
    version: watch::Sender<u64>,
    struck: RwLock<BTreeMap<&'static str, u64>>,
}

struct Trap {
    fault: Fault,
    set_at: Nanos,
    key: Key,
    /// Matching requests so far.
    matched: AtomicU64,
    /// Turns of its window that were carried out: for what happens once in each.
    turns: AtomicU64,
}

/// What happens to one request as a whole.
#[derive(Debug, Default)]
pub(crate) struct Struck {
    pub(crate) lag: u64,
    pub(crate) chain_id: Option<u64>,
    /// Blocks to replace before answering.
    pub(crate) reorganise: Vec<u64>,
    /// Held until then.
    pub(crate) until: Option<Nanos>,
    pub(crate) delay: Nanos,
    pub(crate) status: Option<(u16, Option<u64>)>,
    pub(crate) garbage: bool,
    pub(crate) wire: Option<WireFault>,
}

/// What happens to a response on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireFault {
    Reset { after: usize },
    Truncate { after: Option<usize> },
    Slow { bytes: usize, every: Nanos },
}

/// What happens to one call.
#[derive(Debug, Default)]
pub(crate) struct StruckCall {
    pub(crate) error: Option<(i64, String)>,
    pub(crate) wrong_id: bool,
}

impl Armed {
    pub(crate) fn new(key: Key) -> Armed {
        Armed {
            key,
            any: AtomicBool::new(false),
            list: RwLock::default(),
            version: watch::Sender::new(0),
            struck: RwLock::default(),
        }
    }

    /// Replaces the list (`keep`: adds to it), counting windows from `now`.
    pub(crate) fn set(&self, faults: Vec<Fault>, keep: bool, now: Nanos) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut number = *self.version.borrow();
        let fresh = faults.into_iter().map(|fault| {
            number += 1;
            let key = self.key.with(number);
            let (matched, turns) = (AtomicU64::new(0), AtomicU64::new(0));
            Arc::new(Trap { fault, set_at: now, key, matched, turns })
        });
        let mut traps: Vec<Arc<Trap>> = if keep { list.to_vec() } else { Vec::new() };
        traps.extend(fresh);
        self.any.store(!traps.is_empty(), Ordering::Release);
        *list = Arc::new(traps);
        drop(list);
        self.version.send_replace(number + 1);
    }

    /// The faults that are set, in force or not.
    pub(crate) fn list(&self) -> Vec<Fault> {
        self.traps().iter().map(|trap| trap.fault.clone()).collect()
    }

    /// How often each kind struck.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.struck.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is nothing to look at.
    pub(crate) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// Wakes with every change of the list.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Until when new connections are refused; `None`: they are not.
    pub(crate) fn refusing(&self, now: Nanos) -> Option<Nanos> {
        self.refusals(|trap| Some(trap.set_at + trap.fault.window.turn(now - trap.set_at)?.1)).max()
    }

    /// When the next refusal starts.
    pub(crate) fn next_refusal(&self, now: Nanos) -> Option<Nanos> {
        self.refusals(|trap| Some(trap.set_at + trap.fault.window.next_start(now - trap.set_at)?))
            .min()
    }

    fn refusals(&self, when: impl Fn(&Trap) -> Option<Nanos>) -> impl Iterator<Item = Nanos> {
        let traps = self.traps();
        let refusals = traps.iter().filter(|trap| trap.fault.kind == FaultKind::Refuse);
        refusals.filter_map(|trap| when(trap)).collect::<Vec<_>>().into_iter()
    }

    /// What happens to a request for `service` that calls `methods`.
    pub(crate) fn strike(&self, service: &str, methods: &[&str], now: Nanos) -> Struck {
        let mut struck = Struck::default();
        for trap in self.traps().iter() {
            let Fault { kind, method, .. } = &trap.fault;
            let by_method = method.as_ref().is_none_or(|wanted| methods.contains(&wanted.as_str()));
            if !by_method || !trap.is_for(service) {
                continue;
            }
            // A reorganisation whose window has passed between two requests has happened.
            if let FaultKind::Reorganise { depth } = *kind {
                for _ in 0..trap.turns_due(now) {
                    struck.reorganise.push(depth);
                    self.count(kind);
                }
                continue;
            }
            let Some((_, end)) = trap.fault.window.turn(now - trap.set_at) else { continue };
            if !trap.hits() {
                continue;
            }
            match *kind {
                FaultKind::Status { status, retry_after } => {
                    struck.status = struck.status.or(Some((status, retry_after)));
                }
                FaultKind::Stall => struck.until = struck.until.max(Some(trap.set_at + end)),
                FaultKind::Delay { by } => struck.delay += by,
                FaultKind::Lag { blocks } => struck.lag = struck.lag.max(blocks),
                FaultKind::ChainId { id } => struck.chain_id = Some(id),
                FaultKind::Reset { after } => struck.wire = Some(WireFault::Reset { after }),
                FaultKind::Truncate { after } => struck.wire = Some(WireFault::Truncate { after }),
                FaultKind::Slow { bytes, every } => {
                    struck.wire = Some(WireFault::Slow { bytes, every });
                }
                FaultKind::Garbage => struck.garbage = true,
                // Not of a request: see `strike_call`, `refusing` and above.
                FaultKind::Error { .. }
                | FaultKind::WrongId
                | FaultKind::Refuse
                | FaultKind::Reorganise { .. } => continue,
            }
            self.count(kind);
        }
        struck
    }

    /// What happens to one call.
    pub(crate) fn strike_call(&self, service: &str, method: &str, now: Nanos) -> StruckCall {
        let mut struck = StruckCall::default();
        for trap in self.traps().iter() {
            let fault = &trap.fault;
            let is_of_call = matches!(fault.kind, FaultKind::Error { .. } | FaultKind::WrongId);
            let by_method = fault.method.as_ref().is_none_or(|wanted| wanted == method);
            let in_force = || fault.window.turn(now - trap.set_at).is_some();
            if !(is_of_call && by_method && trap.is_for(service) && in_force() && trap.hits()) {
                continue;
            }
            match &fault.kind {
                FaultKind::Error { code, message } if struck.error.is_none() => {
                    struck.error = Some((*code, message.clone()));
                }
                FaultKind::WrongId => struck.wrong_id = true,
                _ => continue,
            }
            self.count(&fault.kind);
        }
        struck
    }

    fn traps(&self) -> Arc<Vec<Arc<Trap>>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, kind: &FaultKind) {
        let mut struck = self.struck.write().unwrap_or_else(PoisonError::into_inner);
        *struck.entry(kind.name()).or_default() += 1;
    }
}

impl Trap {
    fn is_for(&self, service: &str) -> bool {
        self.fault.service.as_ref().is_none_or(|wanted| wanted == service)
    }

    /// Whether the next matching request is one of the share that is struck. Stalls, lags and wrong
    /// chain ids are of the node: they strike every request.
    fn hits(&self) -> bool {
        let whole = matches!(
            self.fault.kind,
            FaultKind::Stall
                | FaultKind::Lag { .. }
                | FaultKind::ChainId { .. }
                | FaultKind::Refuse
        );
        if whole || self.fault.share >= 1.0 {
            return true;
        }
        let number = self.matched.fetch_add(1, Ordering::Relaxed);
        self.key.with(number).sequence().unit() < self.fault.share
    }

    /// How many turns have begun and were not taken yet; takes them.
    fn turns_due(&self, now: Nanos) -> u64 {
        let begun = self.fault.window.started(now - self.set_at).map_or(0, |(turn, _)| turn + 1);
        begun.saturating_sub(self.turns.fetch_max(begun, Ordering::AcqRel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Nanos = Nanos::from_secs(1);

    #[test]
    fn shares_are_met_and_repeat() {
        let strikes = |seed| {
            let armed = Armed::new(Key::new(seed));
            armed.set(vec![Fault::new(FaultKind::Garbage).for_share(0.3)], false, Nanos::ZERO);
            (0..10_000).map(|_| armed.strike("eth", &["m"], T).garbage).collect::<Vec<_>>()
        };
        let first = strikes(1);
        assert_eq!(first, strikes(1));
        assert_ne!(first, strikes(2));
        let share = first.iter().filter(|struck| **struck).count();
        // 3,000 expected with a standard deviation of 46.
        assert!((2_850..3_150).contains(&share), "{share}");
    }

    #[test]
    fn faults_strike_what_they_are_for() {
        let armed = Armed::new(Key::new(1));
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
        assert!(armed.strike_call("eth", "eth_call", T).error.is_some());
        assert!(armed.strike_call("eth", "eth_chainId", T).error.is_none());
        assert_eq!(armed.strike("eth", &[], T).lag, 7);
        assert_eq!(armed.strike("boba", &[], T).lag, 0);
        assert_eq!(armed.strike("boba", &[], T).until, None);
        let end = Some(Nanos::from_secs(6));
        assert_eq!(armed.strike("boba", &[], Nanos::from_secs(5)).until, end);
        assert_eq!(armed.counts(), BTreeMap::from([("error", 1), ("lag", 1), ("stall", 1)]));
        armed.set(Vec::new(), false, T);
        assert!(armed.is_empty() && armed.list().is_empty());
    }

    #[test]
    fn reorganisations_happen_once_in_each_window() {
        let armed = Armed::new(Key::new(1));
        let mut fault = Fault::new(FaultKind::Reorganise { depth: 2 }).during(T, T);
        fault.window.every = Some(Nanos::from_secs(10));
        armed.set(vec![fault], false, Nanos::ZERO);
        let depths = |secs| armed.strike("eth", &[], Nanos::from_secs(secs)).reorganise;
        assert_eq!(depths(0), Vec::<u64>::new());
        assert_eq!(depths(1), [2]);
        assert_eq!(depths(1), Vec::<u64>::new());
        assert_eq!(depths(22), [2, 2], "two windows have begun since");
    }

    #[test]
    fn refusals_have_edges() {
        let armed = Armed::new(Key::new(1));
        let s = Nanos::from_secs;
        armed.set(vec![Fault::new(FaultKind::Refuse).during(s(2), s(3))], false, s(10));
        assert_eq!((armed.refusing(s(11)), armed.next_refusal(s(11))), (None, Some(s(12))));
        assert_eq!((armed.refusing(s(13)), armed.next_refusal(s(13))), (Some(s(15)), None));
        assert_eq!((armed.refusing(s(15)), armed.next_refusal(s(15))), (None, None));
    }
}
