//! Limits on what endpoints and keys may use: rates and quotas.
//!
//! # Layout
//! - [`quota`]: compute units per day and month
//!
//! A rate is a bucket: it refills at the rate and holds what refills within the burst. An endpoint's
//! limits are those of all its keys together; a key's own are in addition. A call is admitted if all of
//! them admit it, and charged to all of them or to none.

pub(crate) mod quota;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plimsoll_measure::Nanos;
use plimsoll_registry::model::CallLimits;
use plimsoll_resilience::RateLimit;
use std::time::Duration;

use crate::host::ReadWallClock;
use quota::{Calendar, Quota, UsedUp};

/// The state of the process's limits that is not of one endpoint.
pub(crate) struct Limits {
    pub(crate) calendar: Calendar,
    /// When a refused key was last logged.
    logged_at: AtomicU64,
}

impl Limits {
    pub(crate) fn new(clock: ReadWallClock) -> Limits {
        Limits { calendar: Calendar::new(clock), logged_at: AtomicU64::new(0) }
    }

    /// Whether a line may be logged now, if there is at most one in each span of this length.
    pub(crate) fn may_log(&self, now: Nanos, every: Nanos) -> bool {
        let next = |at: u64| (at == 0 || now >= Nanos(at) + every).then_some(now.0.max(1));
        self.logged_at.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

/// How often the calendar is read.
const TICK: Duration = Duration::from_millis(250);

/// The keeper's task: keeps the calendar at the present.
pub(crate) async fn keep<S>(shared: Arc<S>, limits: impl Fn(&S) -> &Limits) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        limits(&shared).calendar.tick();
    }
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
}

/// A limited rate.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) unit: Unit,
    pub(crate) rate: f64,
    burst: Nanos,
    local: RateLimit,
}

impl Bucket {
    /// The bucket of a limit: the previous one if nothing has changed, otherwise a full one.
    fn renewed(
        unit: Unit,
        rate: Option<f64>,
        burst: Nanos,
        previous: Option<&Arc<Bucket>>,
    ) -> Option<Arc<Bucket>> {
        let rate = rate?;
        let is_same = |old: &&Arc<Bucket>| old.rate == rate && old.burst == burst;
        if let Some(old) = previous.filter(is_same) {
            return Some(old.clone());
        }
        let local = RateLimit::with_burst(rate, burst);
        Some(Arc::new(Bucket { unit, rate, burst, local }))
    }

    /// Charges a call.
    ///
    /// # Errors
    /// How long until it would be admitted.
    #[inline]
    fn take(&self, cost: u64, now: Nanos) -> Result<(), Nanos> {
        if self.local.admit_cost(now, cost) { Ok(()) } else { Err(self.local.wait(now)) }
    }

    /// Returns the cost of a call that was not made.
    fn give_back(&self, cost: u64) {
        self.local.give_back(cost);
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
    /// What these limits allow. Continues the previous allowance of the same endpoint or key.
    pub(crate) fn renewed(
        limits: &CallLimits,
        (endpoint, key): (&str, Option<&str>),
        previous: Option<&Arc<Allowance>>,
    ) -> Arc<Allowance> {
        let burst = limits.burst();
        let old = |of: fn(&Allowance) -> Option<&Arc<Bucket>>| previous.and_then(|old| of(old));
        let calls = old(|old| old.calls.as_ref());
        let units = old(|old| old.compute_units.as_ref());
        let quota = previous.map(|old| &old.quota);
        Arc::new(Allowance {
            calls: Bucket::renewed(Unit::Calls, limits.calls, burst, calls),
            compute_units: Bucket::renewed(Unit::ComputeUnits, limits.compute_units, burst, units),
            quota: Arc::new(Quota::new(endpoint, key, limits.daily, limits.monthly, quota)),
        })
    }

    /// Whether anything is limited.
    pub(crate) fn is_limited(&self) -> bool {
        self.calls.is_some() || self.compute_units.is_some() || self.quota.is_limited()
    }

    /// The buckets, each with what a call of these compute units costs there.
    #[inline]
    fn buckets(&self, units: u64) -> impl Iterator<Item = (&Arc<Bucket>, u64)> {
        let calls = self.calls.iter().map(|bucket| (bucket, 1));
        calls.chain(self.compute_units.iter().map(move |bucket| (bucket, units)))
    }
}

/// The most allowances of a call: its endpoint's and its key's.
pub(crate) const ALLOWANCES_MAX: usize = 2;

/// The allowances of a call; the key's first.
pub(crate) type Allowances<'a> = [Option<&'a Arc<Allowance>>; ALLOWANCES_MAX];

/// Admits a call that costs these compute units, and charges it to all allowances.
///
/// # Errors
/// The place of the allowance that does not admit it, and why; nothing is charged then.
pub(crate) fn admit(
    allowances: &Allowances<'_>,
    units: u64,
    now: Nanos,
    limits: &Limits,
) -> Result<(), (usize, Refusal)> {
    let all = || allowances.iter().enumerate().filter_map(|(at, one)| Some((at, (*one)?)));
    for (at, allowance) in all() {
        allowance.quota.check(&limits.calendar).map_err(|used| (at, Refusal::Quota(used)))?;
    }
    let buckets = || all().flat_map(|(at, one)| one.buckets(units).map(move |cost| (at, cost)));
    for (taken, (at, (bucket, cost))) in buckets().enumerate() {
        if let Err(wait) = bucket.take(cost, now) {
            buckets().take(taken).for_each(|(_, (bucket, cost))| bucket.give_back(cost));
            return Err((at, Refusal::Rate { unit: bucket.unit, rate: bucket.rate, wait }));
        }
    }
    for (_, allowance) in all() {
        if allowance.quota.is_limited() {
            allowance.quota.charge(units);
        }
    }
    Ok(())
}
