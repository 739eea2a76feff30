//! What endpoints and keys were admitted for and refused, in this process and, as far as the database
//! knows, in others.
//!
//! # The sum
//! ```text
//! used = total in the database + (admitted here − delivered here)
//! ```
//!
//! A call is charged when it is admitted, and metering counts the same units at the same moment, for the
//! same day. They are delivered exactly once, whatever
//! becomes of the call: it may take minutes, fail, or lose its caller. The thread that delivers them
//! reads the total and what it has delivered so far at one moment, at which nothing is in doubt
//! ([`plimsoll_registry::usage`]). So the sum neither misses nor repeats a unit of this process, at any
//! time. Only what other replicas have admitted and not delivered yet is missing.
//!
//! # Periods
//! A day and the following one have counters of their own, as do months, so that a call that was checked
//! just before midnight is charged to the day that it was checked against.
//!
//! # Why by name
//! What is delivered is known by the names of endpoint and key. So is what was admitted: a ledger outlives
//! the removal of its endpoint, and one that is added again under the same name continues it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use Ordering::{Acquire, Relaxed, Release};

use super::calendar::{Span, Today};
use super::refused::Refused;

/// Ledgers that are kept although no configuration in use names them: some 40 MB. Beyond, they are forgotten; an
/// endpoint that is added again afterwards counts what this process delivered before as unused until it is
/// restarted or the month ends.
const UNNAMED_MAX: usize = 100_000;

/// What was admitted in a period.
#[derive(Debug, Default)]
struct Period {
    number: AtomicU64,
    /// Units that this process has admitted.
    admitted: AtomicU64,
    /// The database's total less what this process had delivered; may be below 0 after the database was
    /// replaced.
    elsewhere: AtomicU64,
}

impl Period {
    fn sum(elsewhere: u64, admitted: u64) -> u64 {
        (elsewhere.wrapping_add(admitted) as i64).max(0) as u64
    }
}

/// The ledger of an endpoint, over all its keys, or of one key.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By span, and by the parity of the period's number.
    periods: [[Period; 2]; 2],
    /// Held to begin a period.
    begins: Mutex<()>,
    pub(crate) refused: Refused,
}

/// The most ledgers of a call: its key's and its endpoint's.
pub(crate) const LEDGERS_MAX: usize = 2;

/// The ledgers of a call, the key's first.
pub(crate) type CallLedgers = [Option<Arc<Ledger>>; LEDGERS_MAX];

impl Ledger {
    /// Charges a call of these units to the day and the month, each unless it has a limit that is used up.
    ///
    /// # Errors
    /// Which limit is used up; of two, that of the longer span. Nothing is charged then.
    #[inline]
    pub(crate) fn charge(
        &self,
        today: Today,
        units: u64,
        limits: [Option<u64>; 2],
    ) -> Result<(), Span> {
        for span in [Span::Month, Span::Day] {
            let period = self.period(span, today);
            // Before the addition: what is delivered later may contain it.
            let elsewhere = period.elsewhere.load(Acquire);
            let before = period.admitted.fetch_add(units, Relaxed);
            let limit = limits[span as usize];
            if limit.is_some_and(|limit| Period::sum(elsewhere, before) >= limit) {
                period.admitted.fetch_sub(units, Relaxed);
                if span == Span::Day {
                    self.period(Span::Month, today).admitted.fetch_sub(units, Relaxed);
                }
                return Err(span);
            }
        }
        Ok(())
    }

    /// Takes back the charge of a call that was not admitted after all.
    pub(crate) fn give_back(&self, today: Today, units: u64) {
        for span in Span::ALL {
            self.period(span, today).admitted.fetch_sub(units, Relaxed);
        }
    }

    /// What has been used in a period.
    #[inline]
    pub(crate) fn used(&self, span: Span, today: Today) -> u64 {
        let period = self.period(span, today);
        let elsewhere = period.elsewhere.load(Acquire);
        Period::sum(elsewhere, period.admitted.load(Relaxed))
    }

    /// Sets the database's total in a period, and what this process had delivered of it.
    pub(crate) fn set_total(&self, span: Span, today: Today, total: u64, delivered: u64) {
        let period = self.period(span, today);
        if period.number.load(Relaxed) == today.number(span) {
            // Release: who reads this value also sees all charges that were delivered.
            period.elsewhere.store(total.wrapping_sub(delivered), Release);
        }
    }

    #[inline]
    fn period(&self, span: Span, today: Today) -> &Period {
        let number = today.number(span);
        let period = &self.periods[span as usize][(number % 2) as usize];
        if period.number.load(Acquire) < number {
            self.begin(period, number);
        }
        period
    }

    /// Begins a period, in which nothing is known to be used.
    #[cold]
    fn begin(&self, period: &Period, number: u64) {
        let _one = self.begins.lock().unwrap_or_else(PoisonError::into_inner);
        if period.number.load(Relaxed) < number {
            period.admitted.store(0, Relaxed);
            period.elsewhere.store(0, Relaxed);
            period.number.store(number, Release);
        }
    }
}

/// Ledgers by the names of endpoint and key.
type ByName = HashMap<(String, Option<String>), Arc<Ledger>>;

/// The ledgers of a process.
#[derive(Debug, Default)]
pub(crate) struct Ledgers(Mutex<ByName>);

impl Ledgers {
    /// The ledger of an endpoint or of one of its keys.
    pub(crate) fn of(&self, endpoint: &str, key: Option<&str>) -> Arc<Ledger> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (endpoint.to_owned(), key.map(str::to_owned));
        all.entry(name).or_default().clone()
    }

    /// Forgets ledgers that only this map holds, if they are too many.
    pub(crate) fn prune(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_unnamed = |ledger: &Arc<Ledger>| Arc::strong_count(ledger) == 1;
        if all.values().filter(|ledger| is_unnamed(ledger)).count() > UNNAMED_MAX {
            all.retain(|_, ledger| !is_unnamed(ledger));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: Today = Today { day: 20_000, month: 657 };

    #[test]
    fn threads_together_admit_exactly_the_limit() {
        let ledger = Ledger::default();
        let charge = |_: &u32| ledger.charge(TODAY, 1, [Some(7_777), None]).is_ok();
        let run = || (0..5_000).filter(charge).count() as u64;
        let admitted: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!((admitted, ledger.used(Span::Day, TODAY)), (7_777, 7_777));
        assert_eq!(ledger.used(Span::Month, TODAY), 7_777);
    }

    #[test]
    fn the_last_call_before_midnight_belongs_to_its_day() {
        let ledger = Ledger::default();
        let tomorrow = Today { day: TODAY.day + 1, ..TODAY };
        let limits = [Some(3), Some(5)];
        assert_eq!(ledger.charge(TODAY, 2, limits), Ok(()));
        assert_eq!(ledger.charge(tomorrow, 1, limits), Ok(()));
        // It was checked against the day before.
        assert_eq!(ledger.charge(TODAY, 1, limits), Ok(()));
        assert_eq!(ledger.charge(TODAY, 1, limits), Err(Span::Day));
        assert_eq!((ledger.used(Span::Day, TODAY), ledger.used(Span::Day, tomorrow)), (3, 1));
        assert_eq!(ledger.charge(tomorrow, 1, limits), Ok(()));
        assert_eq!(ledger.charge(tomorrow, 1, limits), Err(Span::Month));
        ledger.give_back(tomorrow, 1);
        assert_eq!(ledger.used(Span::Month, tomorrow), 4);
        // A day's slot is used again two days later.
        assert_eq!(ledger.used(Span::Day, Today { day: TODAY.day + 2, ..TODAY }), 0);
    }

    #[test]
    fn ledgers_outlive_their_endpoints_up_to_a_number() {
        let ledgers = Ledgers::default();
        let kept = ledgers.of("kept", None);
        ledgers.of("removed", Some("k")).charge(TODAY, 5, [None; 2]).unwrap();
        ledgers.prune();
        assert_eq!(ledgers.of("removed", Some("k")).used(Span::Day, TODAY), 5);
        assert_eq!(ledgers.of("removed", None).used(Span::Day, TODAY), 0);
        for number in 0..UNNAMED_MAX {
            ledgers.of(&format!("e{number}"), None);
        }
        ledgers.prune();
        assert_eq!(ledgers.0.lock().unwrap().len(), 1);
        assert!(Arc::ptr_eq(&kept, &ledgers.of("kept", None)));
    }
}
