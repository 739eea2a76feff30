//! Quotas: compute units per day and per month, in UTC.
//!
//! # How
//! A call is admitted while less than the quota is used, and charged in full when it is admitted
//! ([`super::ledger`] has the sum, and why it is exact). Enforcement is local and waits for nothing; what other
//! replicas have admitted since their last flush is missing, so that a quota is overrun by at most what
//! they admit in 2.5 s: what one admits is handed over (¼ s), spooled (¼ s),
//! sent (½ s) and written, and the others ask once a second and read it (¼ s). While the database is unreachable, each replica counts its own calls
//! on top of the last totals.
//!
//! # Start
//! A process knows nothing before it has read the totals for the first time. Until then `/ready` says
//! that it is not ready ([`TotalsState`]), unless the database cannot be reached.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_measure::WallClock;
use plimsoll_registry::model::masked;

use super::calendar::{Calendar, Span, Today};
use super::ledger::Ledger;

/// The database's totals of an endpoint or a key, over all replicas, and what this process has delivered
/// of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// By span.
    pub(crate) total: [u64; 2],
    pub(crate) delivered: [u64; 2],
}

/// The quotas of an endpoint, over all its keys, or of one key.
#[derive(Debug)]
pub(crate) struct Quota {
    pub(crate) endpoint: String,
    /// `None`: the quotas of the endpoint.
    pub(crate) key: Option<String>,
    /// Units per day and per month.
    pub(crate) limits: [Option<u64>; 2],
    pub(crate) ledger: Arc<Ledger>,
    /// Whether it was checked that the limits are not used up from the start.
    is_checked: AtomicBool,
}

/// A quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsedUp {
    pub(crate) span: Span,
    pub(crate) limit: u64,
    /// When the next period begins.
    pub(crate) until: WallClock,
}

impl Quota {
    /// Quotas with these limits. `previous`: those that they replace.
    pub(crate) fn new(
        endpoint: &str,
        key: Option<&str>,
        limits: [Option<u64>; 2],
        ledger: Arc<Ledger>,
        previous: Option<&Arc<Quota>>,
    ) -> Quota {
        let same = previous.filter(|old| old.limits == limits);
        let is_checked = AtomicBool::new(same.is_some_and(|old| old.is_checked.load(Relaxed)));
        Quota { endpoint: endpoint.into(), key: key.map(String::from), limits, ledger, is_checked }
    }

    /// Whether there is any limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.limits.iter().any(Option::is_some)
    }

    /// Checks whether a call is admitted, without charging it.
    ///
    /// # Errors
    /// The quota that is used up; of two, that of the longer period.
    #[inline]
    pub(crate) fn check(&self, today: Today) -> Result<(), UsedUp> {
        for span in [Span::Month, Span::Day] {
            let Some(limit) = self.limits[span as usize] else { continue };
            if self.ledger.used(span, today) >= limit {
                return Err(UsedUp { span, limit, until: today.next(span) });
            }
        }
        Ok(())
    }

    /// What to warn of: quotas that are used up before they have admitted a call. `is_final`: the totals are
    /// known, so that this is asked only once.
    pub(crate) fn warnings(&self, calendar: &Calendar, is_final: bool) -> Vec<String> {
        if self.is_checked.load(Relaxed) {
            return Vec::new();
        }
        let today = calendar.today();
        let below = |span: Span| {
            let limit = self.limits[span as usize]?;
            let used = self.ledger.used(span, today);
            let whose = match &self.key {
                Some(name) => format!("of its key {name}"),
                None => "of all its keys".into(),
            };
            (used >= limit).then(|| {
                let (id, word, until) = (masked(&self.endpoint), span.word(), today.next(span));
                format!(
                    "endpoint {id}: the {word} quota {whose}, {limit} compute units, is already used \
                     up: {used} have been used, and calls are refused until {}",
                    until.rfc3339()
                )
            })
        };
        let found: Vec<String> = Span::ALL.into_iter().filter_map(below).collect();
        self.is_checked.store(is_final || !found.is_empty(), Relaxed);
        found
    }

    /// Sets what all replicas have used on a day and in its month, according to the database.
    pub(crate) fn set_totals(&self, today: Today, totals: &Totals) {
        for span in Span::ALL {
            let (total, delivered) = (totals.total[span as usize], totals.delivered[span as usize]);
            self.ledger.set_total(span, today, total, delivered);
        }
    }
}

/// Whether quotas know the database's totals.
#[derive(Debug)]
pub(crate) struct TotalsState {
    is_pending: AtomicBool,
    /// When they were last read, as Unix time in nanoseconds; 0: never.
    read_at: AtomicU64,
    /// Why they cannot be read; empty if they can.
    trouble: Mutex<String>,
}

impl TotalsState {
    /// `is_pending`: totals must be read before the process is ready.
    pub(crate) fn new(is_pending: bool) -> TotalsState {
        let is_pending = AtomicBool::new(is_pending);
        TotalsState { is_pending, read_at: AtomicU64::new(0), trouble: Mutex::default() }
    }

    /// Whether the first attempt to read them has not ended.
    pub(crate) fn is_pending(&self) -> bool {
        self.is_pending.load(Relaxed)
    }

    /// Records the end of an attempt to read them.
    pub(crate) fn record(&self, result: Result<(), String>, now: WallClock) {
        if result.is_ok() {
            self.read_at.store(now.unix_ns, Relaxed);
        }
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        *trouble = result.err().unwrap_or_default();
        self.is_pending.store(false, Relaxed);
    }

    /// When they were last read, and why they cannot be read at present.
    pub(crate) fn report(&self) -> (Option<WallClock>, Option<String>) {
        let read_at = Some(self.read_at.load(Relaxed)).filter(|at| *at > 0);
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let read_at = read_at.map(|unix_ns| WallClock { unix_ns });
        (read_at, Some(trouble).filter(|why| !why.is_empty()))
    }
}

#[cfg(test)]
mod tests;
