//! Counts what each account uses: in a table of each worker, without locks, and without allocating once
//! warm.
//!
//! # What is counted
//! - A **call** when its record (`call::records`) is dropped: each exactly once, with its outcome,
//!   and for the account of its caller. A **hit** is a call without a relay of its own: its answer was in
//!   the cache, or was that of the same call of another caller.
//! - A **relay** when an attempt ends whose request was sent, or may have been sent; a **hedge** when it
//!   starts, in addition. A relay that several callers wait for belongs to the first of them. The
//!   gateway's own calls (health checks, prefetching) are relays of the service, without an endpoint.
//! - **Bytes** of the texts of calls and answers, before compression.
//! - **Compute units** of the calls that are charged ([`is_charged`]).
//! - **Admitted units**: what a call was admitted for, at that moment, whatever becomes of it. Quotas are
//!   charged these ([`crate::limits::ledger`]).
//!
//! # Handing over
//! The table is emptied into the [`Inbox`] every [`HAND_OVER_INTERVAL`], when it has [`ROWS_MAX`] rows, and when
//! the worker ends. All of a table is counted in the hour of its first row. Admitted units are counted in
//! the day that the quota was charged in, which is another one around midnight and after the clock was set back.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_registry::usage::{Counts, HOUR_NS, Inbox, OTHER, REST, Subject};
use plimsoll_rpc::method::{self, Method};

use crate::account::Account;
use crate::host::ReadWallClock;
use crate::observe::stats::{CacheUse, Outcome};

/// How often tables are handed over: a part of what a killed gateway loses.
pub(crate) const HAND_OVER_INTERVAL: Duration = Duration::from_millis(250);

/// Rows of a table; some 700 KB.
const ROWS_MAX: usize = 4_096;

/// What kind of request is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call of this method; `None`: of one that is not known.
    Call(Option<Method>),
    /// A request that is not JSON-RPC.
    Rest,
}

impl Kind {
    /// The number of kinds.
    const COUNT: u64 = method::NAMES.len() as u64 + 2;

    #[inline]
    fn place(self) -> u64 {
        match self {
            Kind::Call(Some(method)) => method.place() as u64,
            Kind::Call(None) => Kind::COUNT - 2,
            Kind::Rest => Kind::COUNT - 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Call(method) => method.map_or(OTHER, Method::name),
            Kind::Rest => REST,
        }
    }
}

/// Whether a call with this outcome is charged: if its caller got the chain's answer, be it an error
/// object. Not if the gateway or an upstream failed, or refused the call, or if the caller left.
#[inline]
pub(crate) fn is_charged(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Ok | Outcome::RpcError)
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedCall {
    pub(crate) outcome: Outcome,
    pub(crate) cache: CacheUse,
    /// Bytes of its text.
    pub(crate) bytes_in: u64,
    /// Bytes of its answer.
    pub(crate) bytes_out: u64,
    /// What it is charged, if it is.
    pub(crate) compute_units: u64,
}

/// Counts of an account and a kind.
#[derive(Debug)]
struct Row {
    account: Arc<Account>,
    kind: Kind,
    /// The day that it is counted in, if that is not the day of the table's hour.
    day: Option<u64>,
    counts: Counts,
}

/// The table of a worker.
pub(crate) struct Meter {
    /// `None`: nothing is counted.
    inbox: Option<Arc<Inbox>>,
    /// By the account's number, the kind, and whether it is counted in another day ([`place`]).
    rows: RefCell<HashMap<u64, Row, foldhash::fast::RandomState>>,
    /// The hour of the rows, since 1970.
    hour: Cell<u64>,
    /// The only other day of rows, if there are any.
    other_day: Cell<Option<u64>>,
    wall: ReadWallClock,
}

impl Meter {
    /// A table that is handed over to an inbox, if there is one; `wall` reads the wall clock.
    pub(crate) fn new(inbox: Option<Arc<Inbox>>, wall: ReadWallClock) -> Meter {
        let (rows, hour, other_day) = (RefCell::default(), Cell::new(0), Cell::new(None));
        Meter { inbox, rows, hour, other_day, wall }
    }

    /// Counts a call.
    #[inline]
    pub(crate) fn call(&self, account: &Arc<Account>, kind: Kind, ended: EndedCall) {
        let EndedCall { outcome, cache, bytes_in, bytes_out, compute_units } = ended;
        self.add(account, kind, None, |counts| {
            counts.calls += 1;
            match outcome {
                Outcome::Ok => counts.ok += 1,
                Outcome::RpcError => counts.errors += 1,
                Outcome::Failed(_) => counts.failed += 1,
                Outcome::Cancelled | Outcome::Truncated => {}
            }
            let is_hit = matches!(cache, CacheUse::Hit | CacheUse::Shared | CacheUse::Coalesced);
            counts.hits += u64::from(is_hit);
            counts.bytes_in += bytes_in;
            if !matches!(outcome, Outcome::Cancelled | Outcome::Truncated) {
                counts.bytes_out += bytes_out;
            }
            if is_charged(outcome) {
                counts.compute_units += compute_units;
            }
        });
    }

    /// Counts a request that was sent to an upstream.
    #[inline]
    pub(crate) fn relay(&self, account: &Arc<Account>, kind: Kind) {
        self.add(account, kind, None, |counts| counts.relays += 1);
    }

    /// Counts a hedge.
    pub(crate) fn hedge(&self, account: &Arc<Account>, kind: Kind) {
        self.add(account, kind, None, |counts| counts.hedges += 1);
    }

    /// Counts what a call was admitted for on a day.
    #[inline]
    pub(crate) fn admitted(&self, account: &Arc<Account>, kind: Kind, units: u64, day: u64) {
        if units > 0 {
            let day = if self.is_of(day) { None } else { self.other(day) };
            self.add(account, kind, day, |counts| counts.admitted_units += units);
        }
    }

    /// Whether the table has rows, and is of this day.
    #[inline]
    fn is_of(&self, day: u64) -> bool {
        self.hour.get() / 24 == day && !self.rows.borrow().is_empty()
    }

    /// Begins the table if it is empty; what to count a row of this day under.
    #[cold]
    fn other(&self, day: u64) -> Option<u64> {
        self.begin();
        if self.hour.get() / 24 == day {
            return None;
        }
        if self.other_day.get().is_some_and(|other| other != day) {
            self.hand_over();
            self.begin();
        }
        let day = Some(day).filter(|day| self.hour.get() / 24 != *day);
        self.other_day.set(day);
        day
    }

    /// Sets the hour of an empty table.
    fn begin(&self) {
        if self.rows.borrow().is_empty() {
            self.hour.set((self.wall)().unix_ns / HOUR_NS);
            self.other_day.set(None);
        }
    }

    #[inline]
    fn add(
        &self,
        account: &Arc<Account>,
        kind: Kind,
        day: Option<u64>,
        count: impl FnOnce(&mut Counts),
    ) {
        if self.inbox.is_none() {
            return;
        }
        let key = place(account, kind, day.is_some());
        if let Some(row) = self.rows.borrow_mut().get_mut(&key) {
            return count(&mut row.counts);
        }
        let mut counts = Counts::default();
        count(&mut counts);
        self.insert(key, Row { account: account.clone(), kind, day, counts });
    }

    #[cold]
    fn insert(&self, key: u64, row: Row) {
        if self.rows.borrow().len() >= ROWS_MAX {
            self.hand_over();
        }
        self.begin();
        if row.day.is_some() {
            self.other_day.set(row.day);
        }
        self.rows.borrow_mut().insert(key, row);
    }

    /// Hands over what was counted; keeps the table's memory.
    pub(crate) fn hand_over(&self) {
        let Some(inbox) = &self.inbox else { return };
        let mut rows = self.rows.borrow_mut();
        if rows.is_empty() {
            return;
        }
        let hour = self.hour.get();
        inbox.add(rows.drain().map(|(_, Row { account, kind, day, counts })| {
            let subject = Subject {
                hour: day.map_or(hour, |day| day * 24),
                endpoint: account.endpoint.clone().unwrap_or_default(),
                key: account.key.clone().unwrap_or_default(),
                service: account.service.clone(),
                method: kind.name().into(),
            };
            (subject, counts)
        }));
    }
}

/// The key of a row.
#[inline]
fn place(account: &Account, kind: Kind, is_of_another_day: bool) -> u64 {
    (account.number * Kind::COUNT + kind.place()) * 2 + u64::from(is_of_another_day)
}

/// Calls in flight are counted as cancelled when their worker ends, after its tasks.
impl Drop for Meter {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use plimsoll_measure::WallClock;

    use super::*;
    use crate::account::AccountIds;
    use crate::error::Fault;
    use crate::limits::ledger::CallLedgers;

    /// A wall clock that the test sets, in hours.
    fn clock(hour: &Arc<AtomicU64>) -> ReadWallClock {
        let hour = hour.clone();
        Arc::new(move || WallClock { unix_ns: hour.load(Ordering::Relaxed) * HOUR_NS + 1 })
    }

    fn account(number: u64) -> Arc<Account> {
        let (mut serial, id) = (number - 1, format!("e{number}"));
        let ids = AccountIds { endpoint: Some(&id), key: None, service: "eth" };
        Account::renewed(None, ids, &Arc::default(), CallLedgers::default(), &mut serial)
    }

    fn ended(outcome: Outcome, cache: CacheUse) -> EndedCall {
        EndedCall { outcome, cache, bytes_in: 10, bytes_out: 100, compute_units: 26 }
    }

    #[test]
    fn outcomes_are_counted_and_charged() {
        let hour = Arc::new(AtomicU64::new(7));
        let inbox = Arc::new(Inbox::default());
        let meter = Meter::new(Some(inbox.clone()), clock(&hour));
        let (one, call) = (account(1), Kind::Call(Method::find("eth_call")));
        let outcomes = [
            (Outcome::Ok, CacheUse::Miss),
            (Outcome::Ok, CacheUse::Hit),
            (Outcome::Ok, CacheUse::Shared),
            (Outcome::RpcError, CacheUse::Coalesced),
            (Outcome::RpcError, CacheUse::Bypass),
            (Outcome::Failed(Fault::Upstream), CacheUse::Miss),
            (Outcome::Failed(Fault::Caller), CacheUse::Bypass),
            (Outcome::Cancelled, CacheUse::Miss),
            (Outcome::Truncated, CacheUse::Bypass),
        ];
        for (outcome, cache) in outcomes {
            meter.call(&one, call, ended(outcome, cache));
        }
        meter.relay(&one, call);
        meter.relay(&one, call);
        meter.hedge(&one, call);
        meter.relay(&account(2), Kind::Rest);
        meter.relay(&account(2), Kind::Call(None));
        meter.hand_over();
        let rows = inbox.take().into_vec();
        let names: Vec<_> =
            rows.iter().map(|(row, _)| (row.endpoint.as_str(), row.method.as_str())).collect();
        assert_eq!(names, [("e1", "eth_call"), ("e2", "REST"), ("e2", "other")]);
        let expected = Counts {
            calls: 9,
            ok: 3,
            errors: 2,
            failed: 2,
            hits: 3,
            relays: 2,
            hedges: 1,
            bytes_in: 90,
            bytes_out: 700,
            compute_units: 5 * 26,
            admitted_units: 0,
        };
        assert_eq!((rows[0].0.hour, rows[0].1), (7, expected));
        assert_eq!(rows[0].1.cancelled(), 2);
        // What is counted later is in the hour that the clock has then, even if it was set back.
        hour.store(3, Ordering::Relaxed);
        meter.relay(&one, call);
        drop(meter);
        let rows = inbox.take().into_vec();
        assert_eq!((rows.len(), rows[0].0.hour, rows[0].1.relays), (1, 3, 1));
    }

    /// Rows by day: admitted units and calls.
    fn by_day(inbox: &Inbox) -> Vec<(u64, u64, u64)> {
        let rows = inbox.take().into_vec();
        let day = |(row, counts): &(Subject, Counts)| {
            (row.hour / 24, counts.admitted_units, counts.calls)
        };
        rows.iter().map(day).collect()
    }

    #[test]
    fn admitted_units_are_of_the_day_that_was_charged() {
        let hour = Arc::new(AtomicU64::new(24 * 100 + 23));
        let inbox = Arc::new(Inbox::default());
        let meter = Meter::new(Some(inbox.clone()), clock(&hour));
        let (one, call) = (account(1), Kind::Call(Method::find("eth_call")));
        meter.admitted(&one, call, 26, 100);
        meter.call(&one, call, ended(Outcome::Cancelled, CacheUse::Miss));
        // The calendar is at the next day before the table is, and a call is of the day before.
        meter.admitted(&one, call, 26, 101);
        meter.admitted(&one, call, 1, 100);
        meter.hand_over();
        assert_eq!(by_day(&inbox), [(100, 27, 1), (101, 26, 0)]);
        // The clock is set back, and the calendar is not; then the next day begins.
        hour.store(24 * 90, Ordering::Relaxed);
        meter.admitted(&one, call, 2, 101);
        meter.call(&one, call, ended(Outcome::Ok, CacheUse::Miss));
        meter.admitted(&one, call, 3, 101);
        meter.admitted(&one, call, 4, 102);
        meter.hand_over();
        assert_eq!(by_day(&inbox), [(90, 0, 1), (101, 5, 0), (102, 4, 0)]);
        meter.admitted(&one, call, 0, 102);
        assert!(inbox.take().is_empty());
    }

    #[test]
    fn a_table_is_bounded() {
        let inbox = Arc::new(Inbox::default());
        let meter = Meter::new(Some(inbox.clone()), Arc::new(WallClock::now));
        for number in 1..=ROWS_MAX as u64 + 1 {
            meter.relay(&account(number), Kind::Rest);
        }
        assert_eq!(inbox.take().len(), ROWS_MAX);
        meter.hand_over();
        assert_eq!(inbox.take().len(), 1);
    }
}
