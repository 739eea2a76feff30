//! The served heads of a service, shared by replicas ([`crate::cache::lease`]).
//!
//! The keeper renews the lease of each service that is called. A call that finds it ended waits for a
//! renewal. The second level may be slow a few times before it is given up ([`PATIENCE`]); after that
//! the call is answered with the heads that this process serves, as without a second level.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use plimsoll_measure::Nanos;
use tokio::sync::Notify;

use super::heads::{FIRST_REPORT, ServiceHeads};
use super::prefetch;
use super::routing::Service;
use super::worker::Worker;
use crate::cache::lease::{self, Record};
use crate::cache::shared::Shared;
use crate::heads::Heads;

/// How often leases are renewed while calls use them.
const RENEWAL: Duration = Duration::from_millis(30);

/// A lease that no call has used since its last renewal is renewed this often, so that the first call
/// after a pause rarely waits.
const RENEWAL_IDLE: Nanos = Nanos::from_secs(1);

/// How long a call waits, in timeouts of the second level: one more than it may miss in a row. If a call
/// waited for one timeout only, each slow renewal would let a head go back.
const PATIENCE: u64 = 4;

/// The lease of a service's heads.
#[derive(Debug, Default)]
pub(crate) struct HeadLease {
    /// Until when the heads may be served, on our clock. [`UNSHARED`]: they are not shared.
    until: AtomicU64,
    /// Whether a call has used it since the last renewal.
    is_used: AtomicBool,
    is_running: AtomicBool,
    renewed_at: AtomicU64,
    renewed: Notify,
    /// How often the shared heads have been corrected, plus 1; 0 before the first lease.
    corrections: AtomicU64,
    /// Those of our own that have been shared.
    own_corrections: AtomicU64,
}

/// The end of a lease that is not needed.
const UNSHARED: u64 = u64::MAX;

/// What the leases of all services share.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// Wakes the keeper: a call waits.
    wanted: Notify,
    /// Calls that did not wait any longer.
    pub(crate) late: AtomicU64,
    /// Registers that had a foreign value.
    pub(crate) foreign: AtomicU64,
}

impl HeadLease {
    /// Whether the heads may be served now.
    #[inline]
    fn holds(&self, now: Nanos) -> bool {
        now.0 < self.until.load(Relaxed)
    }

    /// Waits until the heads may be served, if replicas share them.
    #[inline]
    pub(super) async fn fresh(&self, worker: &Worker) {
        // Most gateways have no second level.
        if worker.shared.caching.second_level().is_none() {
            return;
        }
        self.is_used.store(true, Relaxed);
        if !self.holds(worker.local.now()) {
            Box::pin(self.wait(worker)).await;
        }
    }

    #[cold]
    async fn wait(&self, worker: &Worker) {
        let patience = Nanos(PATIENCE * worker.view().settings.cache.redis_timeout.0);
        let until = (worker.local.now() + patience).max(FIRST_REPORT);
        let waiting = async {
            loop {
                let renewed = self.renewed.notified();
                if self.holds(worker.local.now()) {
                    return;
                }
                // Otherwise the keeper would not renew again after a renewal that was slow.
                self.is_used.store(true, Relaxed);
                worker.shared.leases.wanted.notify_one();
                renewed.await;
            }
        };
        if tokio::time::timeout_at(worker.local.instant(until), waiting).await.is_err() {
            worker.shared.leases.late.fetch_add(1, Relaxed);
        }
    }

    /// Whether this replica has corrected its heads, and still has to share this.
    pub(super) fn is_correcting(&self, tracker: &Heads) -> bool {
        tracker.corrections() > self.own_corrections.load(Relaxed)
    }

    /// Records that the corrected heads are shared.
    pub(super) fn has_corrected(&self, tracker: &Heads) {
        self.own_corrections.store(tracker.corrections(), Relaxed);
    }

    /// Whether to renew it now. If so, it is marked as being renewed.
    fn starts(&self, now: Nanos) -> bool {
        let since = now - Nanos(self.renewed_at.load(Relaxed));
        let is_due = self.is_used.swap(false, Relaxed) || since > RENEWAL_IDLE;
        is_due && !self.is_running.swap(true, Relaxed)
    }
}

/// Renews leases while the gateway runs.
pub(crate) async fn watch(worker: Rc<Worker>) {
    let Some(shared) = worker.shared.caching.second_level().cloned() else { return };
    loop {
        let pause = tokio::time::sleep(RENEWAL);
        let _ = futures_util::future::select(
            std::pin::pin!(pause),
            std::pin::pin!(worker.shared.leases.wanted.notified()),
        )
        .await;
        let view = worker.view();
        for service in view.routing.services() {
            let (Some(heads), Some(space)) = (&service.heads, service.spaces.first()) else {
                continue;
            };
            if heads.lease.starts(worker.local.now()) {
                let register = lease::register(space);
                let (worker, service) = (worker.clone(), service.clone());
                tokio::task::spawn_local(renew(worker, service, shared.clone(), register));
            }
        }
    }
}

async fn renew(
    worker: Rc<Worker>,
    service: Arc<Service>,
    shared: Arc<dyn Shared>,
    register: String,
) {
    let Some(heads) = &service.heads else { return };
    // From before the question: the lease must not last longer than the store counts.
    let asked_at = worker.local.now();
    let renewed = ask(&worker, heads, &*shared, &register).await;
    let now = worker.local.now();
    match renewed {
        Some(lease) => {
            let corrections = lease.served.corrections + 1;
            let before = heads.lease.corrections.fetch_max(corrections, Relaxed);
            heads.share(lease.served.heads, before != 0 && before < corrections, now);
            // One that does not know yet what this replica has served must not be used.
            let is_behind = heads.board.served().latest > lease.served.heads.latest;
            let is_known = before <= corrections && !is_behind;
            let until = if is_known { (asked_at + lease.span).0 } else { 0 };
            heads.lease.until.store(until, Relaxed);
            prefetch::start(&worker, &service);
        }
        None if shared.is_used() || now < FIRST_REPORT => {}
        None => {
            heads.lease.until.store(UNSHARED, Relaxed);
            heads.unshare(now);
        }
    }
    heads.lease.renewed_at.store(now.0, Relaxed);
    heads.lease.is_running.store(false, Relaxed);
    heads.lease.renewed.notify_waiters();
}

/// The heads that this replica proposes for a register with this many corrections.
fn own_heads(heads: &ServiceHeads, corrections: u64) -> lease::Heads {
    let known = heads.lease.corrections.load(Relaxed).checked_sub(1);
    let corrections = known.unwrap_or(corrections);
    let tracker = heads.tracker();
    match heads.lease.is_correcting(&tracker) {
        true => lease::Heads { corrections: corrections + 1, heads: tracker.served() },
        false => {
            let heads = tracker.served().highest(heads.board.served());
            lease::Heads { corrections, heads }
        }
    }
}

/// Asks the register for a lease, and proposes this replica's heads.
async fn ask(
    worker: &Worker,
    heads: &ServiceHeads,
    shared: &dyn Shared,
    register: &str,
) -> Option<lease::Lease> {
    let (value, time) = shared.read(register).await?;
    let record = match &value {
        None => Record::default(),
        Some(value) => Record::read(register, value).unwrap_or_else(|| {
            worker.shared.leases.foreign.fetch_add(1, Relaxed);
            Record::default()
        }),
    };
    let (lease, new) = lease::take(record, own_heads(heads, record.served.corrections), time);
    let text = new.write(register);
    if value.as_deref() != Some(text.as_bytes()) {
        // If another replica was faster, the next renewal proposes again.
        shared.replace(register, value.as_deref(), text.as_bytes()).await;
    }
    Some(lease)
}
