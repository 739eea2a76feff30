//! Limits on what endpoints and keys may use: rates and quotas.
//!
//! # Layout
//! - [`quota`]: compute units per day and month
//! - [`ledger`]: what was admitted
//! - [`refused`]: what was not
//! - [`calendar`]: days and months
//! - [`lease`]: tokens of a bucket that replicas share
//! - [`keep`]: the keeper's part: renews leases; enforcement without the store
//! - [`store`]: what replicas share
//!
//! A rate is a bucket: it refills at the rate and holds what refills within the burst. An endpoint's
//! limits are those of all its keys together; a key's own are in addition. A call is admitted if all of
//! them admit it, and charged to all of them or to none.

pub(crate) mod calendar;
pub(crate) mod keep;
pub(crate) mod lease;
pub(crate) mod ledger;
pub(crate) mod quota;
pub(crate) mod refused;
pub(crate) mod store;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use plimsoll_config::values::show_rate;
use plimsoll_measure::Nanos;
use plimsoll_measure::units::counted;
use plimsoll_registry::model::CallLimits;
use plimsoll_resilience::RateLimit;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::host::ReadWallClock;
use calendar::{Calendar, Span, Today};
use keep::{Leases, Wanted};
use lease::{Lease, Request, Taken};
use ledger::{CallLedgers, LEDGERS_MAX, Ledger};
use quota::{Quota, TotalsState, UsedUp};
use refused::Limited;
use store::{Ask, Store};

/// The state of the process's limits that is not of one endpoint.
pub(crate) struct Limits {
    pub(crate) calendar: Calendar,
    /// Whether quotas know the database's totals.
    pub(crate) totals: TotalsState,
    /// When a refused key was last logged.
    logged_at: AtomicU64,
    /// Empty: limits are not shared.
    leases: OnceLock<Leases>,
    /// The replicas that each enforce their part of the limits while these are not shared.
    replicas: u64,
}

impl Limits {
    /// `awaits_totals`: the process is not ready before the totals of its quotas were read. `replicas`: how
    /// many share its limits, as long as they were not counted.
    pub(crate) fn new(clock: ReadWallClock, awaits_totals: bool, replicas: u64) -> Limits {
        let (calendar, totals) = (Calendar::new(clock), TotalsState::new(awaits_totals));
        let (logged_at, leases) = (AtomicU64::new(0), OnceLock::new());
        Limits { calendar, totals, logged_at, leases, replicas }
    }

    /// Shares limits with the other replicas that use the store, from now on; at most once. Returns the
    /// queue for [`keep::keep`].
    pub(crate) fn share(&self, store: Arc<dyn Store>, id: &str, timeout: Nanos) -> Wanted {
        let (leases, wanted) = Leases::new(store, id, timeout, self.replicas);
        assert!(self.leases.set(leases).is_ok(), "limits are shared once");
        wanted
    }

    /// The leases, if limits are shared.
    #[inline]
    pub(crate) fn leases(&self) -> Option<&Leases> {
        self.leases.get()
    }

    /// Whether a line about a refused key may be logged now, if there is at most one in each span of this
    /// length.
    pub(crate) fn may_log(&self, now: Nanos, every: Nanos) -> bool {
        is_time(&self.logged_at, now, every)
    }

    /// How many times a call is charged locally, as if the other replicas had made the same call.
    fn local_share(&self) -> u64 {
        self.leases().map_or(self.replicas, Leases::replicas)
    }
}

/// Whether something may be done now that is done at most once in each span of this length; if so, records
/// that it is done.
pub(crate) fn is_time(done_at: &AtomicU64, now: Nanos, every: Nanos) -> bool {
    let next = |at: u64| (at == 0 || now >= Nanos(at) + every).then_some(now.0.max(1));
    done_at.fetch_update(Relaxed, Relaxed, next).is_ok()
}

/// What a bucket counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Calls,
    ComputeUnits,
}

impl Unit {
    /// The name in messages.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Unit::Calls => "calls",
            Unit::ComputeUnits => "compute units",
        }
    }

    /// A rate in words: `20 calls per second`, `1 call per minute`.
    pub(crate) fn rate(self, per_second: f64) -> String {
        let shown = show_rate(per_second);
        let (number, per) = shown.split_once('/').unwrap_or((&shown, "s"));
        let words = match self {
            Unit::Calls if number == "1" => "call",
            Unit::ComputeUnits if number == "1" => "compute unit",
            unit => unit.words(),
        };
        let per = match per {
            "s" => "second",
            "m" => "minute",
            "h" => "hour",
            other => other,
        };
        format!("{number} {words} per {per}")
    }
}

/// A limited rate.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) unit: Unit,
    pub(crate) rate: f64,
    burst: Nanos,
    /// The name in the store.
    name: String,
    /// Enforces the rate while it is not shared.
    local: RateLimit,
    lease: Lease,
    /// Whether it is queued to have its lease renewed.
    is_wanted: AtomicBool,
    /// Whether the keeper knows that it holds tokens.
    is_listed: AtomicBool,
    /// Notifies calls that wait for the lease.
    renewed: Notify,
}

impl Bucket {
    fn new((endpoint, key): (&str, Option<&str>), unit: Unit, rate: f64, burst: Nanos) -> Bucket {
        // An endpoint's id is a credential; ids and names contain no control characters.
        let text =
            format!("{endpoint}\0{}\0{unit:?}\0{rate}\0{}", key.unwrap_or_default(), burst.0);
        let hash: [u8; 32] = Sha256::digest(text).into();
        let short: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Bucket {
            unit,
            rate,
            burst,
            name: format!("plimsoll:1:limit:{short}"),
            local: RateLimit::with_burst(rate, burst),
            lease: Lease::new(rate, burst),
            is_wanted: AtomicBool::new(false),
            is_listed: AtomicBool::new(false),
            renewed: Notify::new(),
        }
    }

    /// A request to the store.
    fn ask(&self, request: Request) -> Ask<'_> {
        Ask { name: &self.name, rate: self.rate, burst: self.burst, request }
    }

    /// Charges a call.
    #[inline]
    fn take(self: &Arc<Bucket>, cost: u64, now: Nanos, limits: &Limits) -> Taken {
        let Some(leases) = limits.leases().filter(|leases| !leases.is_local()) else {
            return self.take_local(cost, now, limits);
        };
        let taken = self.lease.take(cost, now);
        if taken == (Taken::Yes { is_low: true }) {
            leases.want(self);
        }
        taken
    }

    fn take_local(&self, cost: u64, now: Nanos, limits: &Limits) -> Taken {
        if self.local.admit_cost(now, cost * limits.local_share()) {
            Taken::Locally
        } else {
            Taken::No(self.local.wait(now))
        }
    }

    /// Whether a call would be refused or has to wait for a lease.
    pub(crate) fn is_at_limit(&self, now: Nanos, limits: &Limits) -> bool {
        match limits.leases().filter(|leases| !leases.is_local()) {
            None => self.local.wait(now) > Nanos::ZERO,
            Some(_) => self.lease.is_at_limit(now),
        }
    }

    /// Returns the cost of a call that was not made to where it was taken from.
    fn give_back(&self, cost: u64, is_local: bool, limits: &Limits) {
        if is_local {
            self.local.give_back(cost * limits.local_share());
        } else {
            self.lease.give_back(cost);
        }
    }
}

/// What an endpoint, or one of its keys, may use.
#[derive(Debug)]
pub(crate) struct Allowance {
    calls: Option<Arc<Bucket>>,
    compute_units: Option<Arc<Bucket>>,
    pub(crate) quota: Arc<Quota>,
}

/// Why a call is not admitted.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A rate; how long until the call would be admitted.
    Rate {
        unit: Unit,
        rate: f64,
        wait: Nanos,
    },
    Quota(UsedUp),
}

impl Allowance {
    /// What these limits allow. A rate that has not changed keeps its previous bucket; another one
    /// begins with a full one. Quotas continue to count.
    pub(crate) fn renewed(
        limits: &CallLimits,
        whose: (&str, Option<&str>),
        ledger: Arc<Ledger>,
        previous: Option<&Arc<Allowance>>,
    ) -> Arc<Allowance> {
        let burst = limits.burst();
        let bucket = |unit, rate: Option<f64>, old: Option<&Arc<Bucket>>| {
            let rate = rate?;
            let old = old.filter(|old| old.rate == rate && old.burst == burst);
            Some(old.cloned().unwrap_or_else(|| Arc::new(Bucket::new(whose, unit, rate, burst))))
        };
        let calls = previous.and_then(|old| old.calls.as_ref());
        let units = previous.and_then(|old| old.compute_units.as_ref());
        let quota = previous.map(|old| &old.quota);
        Arc::new(Allowance {
            calls: bucket(Unit::Calls, limits.calls, calls),
            compute_units: bucket(Unit::ComputeUnits, limits.compute_units, units),
            quota: {
                let limits = [limits.daily, limits.monthly];
                Arc::new(Quota::new(whose.0, whose.1, limits, ledger, quota))
            },
        })
    }

    /// What a limit is, after "its"; `None` if it was removed.
    pub(crate) fn words(&self, limited: Limited) -> Option<String> {
        let bucket = |bucket: &Option<Arc<Bucket>>| {
            let bucket = bucket.as_ref()?;
            Some(format!("limit of {}", bucket.unit.rate(bucket.rate)))
        };
        let quota = |span: Span| {
            let limit = self.quota.limits[span as usize]?;
            Some(format!("{} quota of {}", span.word(), counted(limit, "compute unit")))
        };
        match limited {
            Limited::Calls => bucket(&self.calls),
            Limited::ComputeUnits => bucket(&self.compute_units),
            Limited::Daily => quota(Span::Day),
            Limited::Monthly => quota(Span::Month),
        }
    }

    /// The rates: the buckets of calls and of compute units.
    pub(crate) fn rates(&self) -> impl Iterator<Item = &Arc<Bucket>> {
        self.calls.iter().chain(&self.compute_units)
    }

    /// Whether anything is limited.
    pub(crate) fn is_limited(&self) -> bool {
        self.calls.is_some() || self.compute_units.is_some() || self.quota.is_limited()
    }

    /// The buckets, each with what a call of these compute units costs there.
    #[inline]
    fn buckets(&self, units: u64) -> impl Iterator<Item = (&Arc<Bucket>, u64)> {
        let calls = self.calls.iter().map(|bucket| (bucket, 1));
        let compute_units = self.compute_units.iter().filter(move |_| units > 0);
        calls.chain(compute_units.map(move |bucket| (bucket, units)))
    }
}

/// The most allowances of a call: its endpoint's and its key's.
pub(crate) const ALLOWANCES_MAX: usize = LEDGERS_MAX;

/// The allowances of a call; the key's first.
pub(crate) type Allowances<'a> = [Option<&'a Arc<Allowance>>; ALLOWANCES_MAX];

/// Why a call is not admitted at once.
#[derive(Debug)]
pub(crate) enum Hindrance<'a> {
    /// An allowance, by its place, does not admit it.
    Refused(usize, Refusal),
    /// The lease of a bucket is empty.
    Wait(&'a Arc<Bucket>),
}

/// Admits a call that costs these compute units, and charges it to all allowances and ledgers; returns the
/// day that it was charged to. `is_late`: the call has waited for its leases as long as it may.
///
/// # Errors
/// Why it is not admitted; nothing is charged then.
#[inline]
pub(crate) fn admit<'a>(
    allowances: &Allowances<'a>,
    ledgers: &CallLedgers,
    units: u64,
    now: Nanos,
    limits: &Limits,
    is_late: bool,
) -> Result<Today, Hindrance<'a>> {
    let today = limits.calendar.today();
    let all = || allowances.iter().enumerate().filter_map(|(at, one)| Some((at, (*one)?)));
    for (at, allowance) in all() {
        let checked = allowance.quota.check(today);
        checked.map_err(|used| Hindrance::Refused(at, Refusal::Quota(used)))?;
    }
    let buckets = || all().flat_map(|(at, one)| one.buckets(units).map(move |cost| (at, cost)));
    // Which buckets were charged locally, and how much; the mode may change at any time.
    let (mut local, mut local_tokens) = ([false; 2 * ALLOWANCES_MAX], 0);
    for (taken, (at, (bucket, cost))) in buckets().enumerate() {
        let outcome = match bucket.take(cost, now, limits) {
            Taken::Empty if is_late => bucket.take_local(cost, now, limits),
            outcome => outcome,
        };
        let hindrance = match outcome {
            Taken::Yes { .. } => continue,
            Taken::Locally => {
                (local[taken], local_tokens) = (true, local_tokens + cost);
                continue;
            }
            Taken::No(wait) => {
                let (unit, rate) = (bucket.unit, bucket.rate);
                Hindrance::Refused(at, Refusal::Rate { unit, rate, wait })
            }
            Taken::Empty => {
                bucket.lease.wait(cost);
                Hindrance::Wait(bucket)
            }
        };
        let charged = buckets().zip(local).take(taken);
        charged.for_each(|((_, (bucket, cost)), local)| bucket.give_back(cost, local, limits));
        return Err(hindrance);
    }
    if let Err((at, used)) = charge(allowances, ledgers, units, today) {
        // Another thread has used the quota up since it was checked.
        let charged = buckets().zip(local);
        charged.for_each(|((_, (bucket, cost)), local)| bucket.give_back(cost, local, limits));
        return Err(Hindrance::Refused(at, Refusal::Quota(used)));
    }
    if let Some(leases) = limits.leases().filter(|_| local_tokens > 0) {
        leases.counts.local.fetch_add(local_tokens, Relaxed);
    }
    Ok(today)
}

/// Charges a call to its ledgers.
///
/// # Errors
/// The place of a ledger whose quota is used up; nothing is charged then.
#[inline]
fn charge(
    allowances: &Allowances<'_>,
    ledgers: &CallLedgers,
    units: u64,
    today: Today,
) -> Result<(), (usize, UsedUp)> {
    for (at, ledger) in ledgers.iter().enumerate() {
        let Some(ledger) = ledger else { continue };
        let limits = allowances[at].map(|one| one.quota.limits).unwrap_or_default();
        if let Err(span) = ledger.charge(today, units, limits) {
            ledgers[..at].iter().flatten().for_each(|one| one.give_back(today, units));
            let limit = limits[span as usize].unwrap_or_default();
            return Err((at, UsedUp { span, limit, until: today.next(span) }));
        }
    }
    Ok(())
}

/// Admits a call like [`admit`], once `bucket`, which hinders it, has a new lease. Waits until `until`
/// at most; then limits are enforced locally.
///
/// # Errors
/// The place of the allowance that does not admit it, and why.
pub(crate) async fn admit_later<'a>(
    allowances: &Allowances<'a>,
    ledgers: &CallLedgers,
    units: u64,
    mut bucket: &'a Arc<Bucket>,
    limits: &Limits,
    until: Instant,
    now: impl Fn() -> Nanos,
) -> Result<Today, (usize, Refusal)> {
    let mut is_late = false;
    if let Some(leases) = limits.leases() {
        leases.counts.waited.fetch_add(1, Relaxed);
    }
    loop {
        // Enabled before the bucket is queued, so that no notification is missed.
        let mut renewed = std::pin::pin!(bucket.renewed.notified());
        renewed.as_mut().enable();
        if let Some(leases) = limits.leases().filter(|_| !is_late) {
            leases.want(bucket);
            is_late = timeout_at(until, renewed).await.is_err();
        }
        match admit(allowances, ledgers, units, now(), limits, is_late) {
            Ok(today) => return Ok(today),
            Err(Hindrance::Refused(at, refusal)) => return Err((at, refusal)),
            Err(Hindrance::Wait(other)) => bucket = other,
        }
    }
}
