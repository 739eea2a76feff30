//! Whom a call is counted for: an endpoint and its key, or a service that is called directly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plimsoll_measure::Nanos;

use crate::limits::ledger::CallLedgers;
use crate::line::Crowd;
use crate::observe::stats::SHED;

/// The last use of an account is recorded at most this often, so that calls on several threads do not
/// compete for its cache line.
const USE_STEP: Nanos = Nanos::from_secs(1);

/// What an endpoint has in flight, or a service that is called directly; all keys of an endpoint share it.
#[derive(Debug, Default)]
pub(crate) struct InUse {
    /// Calls in flight.
    pub(crate) calls: AtomicU64,
    /// Slots of upstreams that its calls hold.
    pub(crate) slots: AtomicU64,
    /// The upstreams of its service.
    upstreams: AtomicU64,
    /// When it last got a slot after waiting, as a number in order.
    pub(crate) turn: AtomicU64,
    /// Its calls that wait.
    pub(crate) crowd: Crowd,
    /// Its calls that were refused for lack of capacity, in the order of [`SHED`].
    shed: [AtomicU64; SHED.len()],
    /// Its place in the order in which accounts first had calls refused, from 1 on; 0: it had none.
    shed_place: AtomicU64,
}

impl InUse {
    /// Sets the number of its service's upstreams.
    pub(crate) fn set_upstreams(&self, upstreams: usize) {
        self.upstreams.store(upstreams as u64, Relaxed);
    }

    /// Whether it holds fewer slots than this, on average over the upstreams.
    #[inline]
    pub(crate) fn holds_less_than(&self, slots: u32) -> bool {
        let upstreams = self.upstreams.load(Relaxed).max(1);
        self.slots.load(Relaxed) < u64::from(slots) * upstreams
    }

    /// A call was refused for lack of capacity, for this reason of [`SHED`]; `places` counts the accounts
    /// to which this has happened.
    #[cold]
    pub(crate) fn shed(&self, reason: usize, places: &AtomicU64) {
        if self.shed[reason].fetch_add(1, Relaxed) == 0 && self.shed_place() == 0 {
            self.shed_place.store(places.fetch_add(1, Relaxed) + 1, Relaxed);
        }
    }

    /// Its calls that were refused, in the order of [`SHED`].
    pub(crate) fn shed_calls(&self) -> [u64; SHED.len()] {
        self.shed.each_ref().map(|count| count.load(Relaxed))
    }

    /// Its place in the order in which accounts first had calls refused; 0: it had none.
    pub(crate) fn shed_place(&self) -> u64 {
        self.shed_place.load(Relaxed)
    }
}

/// What all calls of one caller, as far as the gateway tells callers apart, share. Outlives the
/// replacement of the `Routing`, as long as its ids stay the same.
#[derive(Debug)]
pub(crate) struct Account {
    /// Unique in the process.
    pub(crate) number: u64,
    /// The endpoint's id; `None`: calls of the service that come through no endpoint.
    pub(crate) endpoint: Option<String>,
    /// The name of the key that the call came with, if the endpoint has keys.
    pub(crate) key: Option<String>,
    /// The service's id; `*` stands for all services that the registry does not list.
    pub(crate) service: String,
    pub(crate) in_use: Arc<InUse>,
    /// What the key and the endpoint were admitted for and refused; none without an endpoint.
    pub(crate) ledgers: CallLedgers,
    /// When a call last came with the key, on the process's clock; 0: never.
    used_at: AtomicU64,
}

/// The ids of an account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccountIds<'a> {
    pub(crate) endpoint: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    pub(crate) service: &'a str,
}

impl Account {
    /// The account with these ids: the previous one if it has them, otherwise a new one, which counts
    /// in `in_use`.
    pub(crate) fn renewed(
        previous: Option<&Arc<Account>>,
        ids: AccountIds<'_>,
        in_use: &Arc<InUse>,
        ledgers: CallLedgers,
        serial: &mut u64,
    ) -> Arc<Account> {
        if let Some(old) = previous.filter(|old| old.service == ids.service) {
            return old.clone();
        }
        *serial += 1;
        Arc::new(Account {
            number: *serial,
            endpoint: ids.endpoint.map(str::to_owned),
            key: ids.key.map(str::to_owned),
            service: ids.service.to_owned(),
            in_use: in_use.clone(),
            ledgers,
            used_at: AtomicU64::new(previous.map_or(0, |old| old.used_at.load(Relaxed))),
        })
    }

    /// Records a use.
    #[inline]
    pub(crate) fn used(&self, now: Nanos) {
        let before = Nanos(self.used_at.load(Relaxed));
        if before == Nanos::ZERO || now >= before + USE_STEP {
            self.used_at.store(now.0.max(1), Relaxed);
        }
    }

    /// When it was last used, on the process's clock, to the second.
    pub(crate) fn used_at(&self) -> Option<Nanos> {
        Some(Nanos(self.used_at.load(Relaxed))).filter(|at| *at > Nanos::ZERO)
    }
}
