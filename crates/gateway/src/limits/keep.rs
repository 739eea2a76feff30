//! The keeper's part of shared limits: renews leases, returns idle ones, and counts the replicas.
//!
//! Calls never ask the store themselves. They put the bucket whose lease is to be renewed into a queue,
//! each bucket at most once; the keeper asks for all that are queued in one round trip.
//!
//! # Without the store
//! If the store does not answer within its timeout, limits are enforced locally from this moment on:
//! each replica charges a call to a bucket of its own, N times, where N is the number of replicas last
//! seen. So replicas with equal traffic admit the limit together. The error is bounded: with unequal
//! traffic a replica admits as little as 1/N of the limit, all of them together never more than the
//! limit plus one burst, unless replicas have been added since, or some still reach the store: then the
//! limit is enforced by the latter, and 1/N more is admitted by each of the others, less than twice the
//! limit in all. The store is tried again every [`TICK`].
//!
//! A replica that has never reached the store has counted no others: N is then `limits.replicas`, and with
//! `--instances` at least their number. If that is too small by a factor, that many times the limit is
//! admitted until the store is reached.
//!
//! # Logging
//! One line says how limits are enforced whenever that differs from the last line about it, at most every
//! [`LOG_EVERY`]. So the last line is right, also after outages that are too short for a line of their own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plimsoll_measure::Nanos;
use plimsoll_measure::units::counted;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::store::{Ask, Store};
use super::{Bucket, Limits};

/// How often idle leases are looked for, the calendar is read, and a lost store is tried.
const TICK: Duration = Duration::from_millis(100);

/// How often a replica reports that it runs.
const REPORT_EVERY: Nanos = Nanos::from_secs(1);

/// The most buckets in one round trip: a few milliseconds of Redis at most.
const ASKS_MAX: usize = 128;

/// How often a change between shared and local enforcement is logged.
const LOG_EVERY: Nanos = Nanos::from_secs(10);

/// How long a process that starts waits for the store before it logs that it does without.
const START_TIME: Nanos = Nanos::from_secs(2);

/// Figures of the leases.
#[derive(Debug, Default)]
pub(crate) struct LeaseCounts {
    /// Tokens taken out of shared buckets.
    pub(crate) leased: AtomicU64,
    /// Tokens returned.
    pub(crate) returned: AtomicU64,
    /// Tokens of calls that were admitted without the store.
    pub(crate) local: AtomicU64,
    /// Round trips to the store that renewed leases, and those of them that failed.
    pub(crate) asked: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// Calls that waited for a lease.
    pub(crate) waited: AtomicU64,
}

/// The leases of a process.
pub(crate) struct Leases {
    store: Arc<dyn Store>,
    /// This replica.
    id: String,
    /// How long a call waits for a lease.
    pub(crate) timeout: Nanos,
    wanted: mpsc::UnboundedSender<Arc<Bucket>>,
    is_local: AtomicBool,
    replicas: AtomicU64,
    /// Since when it is as it is; 0: never changed.
    changed_at: AtomicU64,
    logged: Mutex<Logged>,
    pub(crate) counts: LeaseCounts,
}

/// What was last logged of the store.
#[derive(Debug, Default)]
struct Logged {
    /// When it was first tried.
    started: Option<Nanos>,
    /// Whether limits were enforced locally, and when that was logged.
    last: Option<(bool, Nanos)>,
}

/// The queue of the buckets whose lease is to be renewed.
pub(crate) type Wanted = mpsc::UnboundedReceiver<Arc<Bucket>>;

/// Figures of shared limits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LeaseFigures {
    pub(crate) is_local: bool,
    pub(crate) replicas: u64,
    pub(crate) leased: u64,
    pub(crate) returned: u64,
    pub(crate) local: u64,
    pub(crate) asked: u64,
    pub(crate) failed: u64,
    pub(crate) waited: u64,
}

impl Leases {
    /// The figures at present.
    pub(crate) fn figures(&self) -> LeaseFigures {
        let LeaseCounts { leased, returned, local, asked, failed, waited } = &self.counts;
        LeaseFigures {
            is_local: self.is_local(),
            replicas: self.replicas(),
            leased: leased.load(Relaxed),
            returned: returned.load(Relaxed),
            local: local.load(Relaxed),
            asked: asked.load(Relaxed),
            failed: failed.load(Relaxed),
            waited: waited.load(Relaxed),
        }
    }

    /// Leases of a replica; `replicas`: how many there are, as long as they were not counted.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        id: &str,
        timeout: Nanos,
        replicas: u64,
    ) -> (Leases, Wanted) {
        let (wanted, queue) = mpsc::unbounded_channel();
        let leases = Leases {
            store,
            id: id.into(),
            timeout,
            wanted,
            // Until the store has answered once.
            is_local: AtomicBool::new(true),
            replicas: AtomicU64::new(replicas),
            changed_at: AtomicU64::new(0),
            logged: Mutex::default(),
            counts: LeaseCounts::default(),
        };
        (leases, queue)
    }

    /// Whether the store is not used at present.
    #[inline]
    pub(crate) fn is_local(&self) -> bool {
        self.is_local.load(Relaxed)
    }

    /// The replicas last seen, at least 1.
    #[inline]
    pub(crate) fn replicas(&self) -> u64 {
        self.replicas.load(Relaxed)
    }

    /// When enforcement last changed between shared and local; `None`: it is as at the start.
    pub(crate) fn changed_at(&self) -> Option<Nanos> {
        Some(Nanos(self.changed_at.load(Relaxed))).filter(|at| *at > Nanos::ZERO)
    }

    /// Has the lease of a bucket renewed.
    #[inline]
    pub(crate) fn want(&self, bucket: &Arc<Bucket>) {
        if !bucket.is_wanted.load(Relaxed) && !bucket.is_wanted.swap(true, Relaxed) {
            // An error means that the gateway is stopping; calls then enforce limits locally.
            let _ = self.wanted.send(bucket.clone());
        }
    }

    /// Renews leases.
    async fn renew(&self, buckets: &[Arc<Bucket>], now: impl Fn() -> Nanos) {
        if !self.is_local() {
            let at = now();
            let ask = |bucket: &'_ Arc<Bucket>| bucket.lease.request(at);
            let requests: Vec<_> = buckets.iter().map(ask).collect();
            let pairs = buckets.iter().zip(&requests);
            let asks: Vec<Ask<'_>> = pairs.map(|(bucket, one)| bucket.ask(*one)).collect();
            self.counts.asked.fetch_add(1, Relaxed);
            match self.store.lease(&asks).await {
                Some(grants) if grants.len() == asks.len() => {
                    let at = now();
                    for ((bucket, request), grant) in buckets.iter().zip(requests).zip(grants) {
                        self.counts.leased.fetch_add(grant.tokens, Relaxed);
                        bucket.lease.granted(request, grant, at);
                    }
                }
                _ => {
                    self.counts.failed.fetch_add(1, Relaxed);
                    self.lost(at);
                }
            }
        }
        for bucket in buckets {
            bucket.is_wanted.store(false, Relaxed);
            bucket.renewed.notify_waiters();
        }
    }

    /// Returns leases that are not needed; keeps the others in `held`.
    async fn tidy(&self, held: &mut Vec<Arc<Bucket>>, now: Nanos) {
        let requests: Vec<_> = held
            .iter()
            .filter_map(|bucket| Some((bucket.clone(), bucket.lease.tidy(now)?)))
            .collect();
        held.retain(|bucket| {
            let is_held = bucket.lease.is_held();
            bucket.is_listed.store(is_held, Relaxed);
            is_held
        });
        for some in requests.chunks(ASKS_MAX).filter(|_| !self.is_local()) {
            let asks: Vec<Ask<'_>> = some.iter().map(|(bucket, one)| bucket.ask(*one)).collect();
            match self.store.lease(&asks).await {
                Some(_) => {
                    let back = asks.iter().map(|ask| ask.request.back).sum();
                    self.counts.returned.fetch_add(back, Relaxed);
                }
                None => self.lost(now),
            }
        }
    }

    /// Reports that this replica runs, and whether the store can be used.
    async fn report(&self, now: Nanos) {
        if !self.store.is_used() {
            return self.lost(now);
        }
        let Some(replicas) = self.store.replicas(&self.id).await else { return self.lost(now) };
        self.replicas.store(replicas.max(1), Relaxed);
        self.set_local(false, now);
    }

    /// Enforces limits locally from now on.
    fn lost(&self, now: Nanos) {
        self.set_local(true, now);
    }

    fn set_local(&self, is_local: bool, now: Nanos) {
        if self.is_local.swap(is_local, Relaxed) != is_local {
            self.changed_at.store(now.0.max(1), Relaxed);
        }
    }

    /// Logs how limits are enforced, if that differs from the last line about it.
    fn log(&self, now: Nanos) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let (is_local, replicas) = (self.is_local(), self.replicas());
        let started = *logged.started.get_or_insert(now);
        let is_due = match logged.last {
            None => !is_local || now >= started + START_TIME,
            Some((was_local, at)) => was_local != is_local && now >= at + LOG_EVERY,
        };
        if !is_due {
            return;
        }
        match (is_local, logged.last) {
            (false, _) => {
                let replicas = counted(replicas, "replica");
                tracing::info!("limits are shared through Redis by {replicas}");
            }
            (true, Some(_)) => tracing::warn!(
                "limits are no longer shared, because Redis does not answer: each of \
                 {replicas} replicas enforces 1/{replicas} of every limit until it does"
            ),
            (true, None) => tracing::warn!(
                "limits are not shared, because Redis has not answered since the start: this replica \
                 enforces 1/{replicas} of every limit until it does (limits.replicas)"
            ),
        }
        logged.last = Some((is_local, now));
    }
}

/// The keeper's task: keeps the calendar at the present, and the leases renewed.
pub(crate) async fn keep(limits: Arc<Limits>, mut wanted: Option<Wanted>, now: impl Fn() -> Nanos) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut batch, mut held) = (Vec::new(), Vec::new());
    let mut reported_at = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                limits.calendar.tick();
                let Some(leases) = limits.leases() else { continue };
                let at = now();
                if leases.is_local() || reported_at.is_none_or(|before| at >= before + REPORT_EVERY) {
                    leases.report(at).await;
                    reported_at = Some(at);
                }
                leases.log(now());
                leases.tidy(&mut held, now()).await;
            }
            Some(_) = next(&mut wanted, &mut batch) => {
                let Some(leases) = limits.leases() else { continue };
                leases.renew(&batch, &now).await;
                let new = batch.drain(..).filter(|bucket: &Arc<Bucket>| {
                    bucket.lease.is_held() && !bucket.is_listed.swap(true, Relaxed)
                });
                held.extend(new);
            }
        }
    }
}

/// Waits for buckets whose leases are to be renewed; forever if limits are not shared.
async fn next(wanted: &mut Option<Wanted>, batch: &mut Vec<Arc<Bucket>>) -> Option<usize> {
    match wanted {
        Some(wanted) => Some(wanted.recv_many(batch, ASKS_MAX).await).filter(|count| *count > 0),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
