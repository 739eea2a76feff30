//! Replicas that share limits, on tokio's paused clock, with a store that can be slow, silent or gone.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use plimsoll_measure::WallClock;
use plimsoll_registry::model::CallLimits;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::*;
use crate::limits::lease::{Grant, Request};
use crate::limits::ledger::CallLedgers;
use crate::limits::store::Answer;
use crate::limits::{Allowance, Hindrance, Refusal, admit, admit_later};

/// As `cache.redis_timeout`.
const TIMEOUT: Duration = Duration::from_millis(5);

/// A bucket and its replicas, as the scripts in Redis compute them.
#[derive(Default)]
struct Memory {
    due: Mutex<f64>,
    replicas: Mutex<Vec<String>>,
    /// How long an answer takes, in microseconds; [`SILENT`]: for ever.
    delay_us: AtomicU64,
}

const SILENT: u64 = u64::MAX;

impl Memory {
    async fn answered(&self) -> Option<()> {
        let delay = self.delay_us.load(Relaxed);
        let late = async {
            match delay {
                SILENT => std::future::pending().await,
                delay => sleep(Duration::from_micros(delay)).await,
            }
        };
        timeout(TIMEOUT, late).await.ok()
    }

    fn take(&self, ask: &Ask<'_>, now: Nanos) -> Grant {
        let (interval, now) = (1e9 / ask.rate, now.0 as f64);
        let burst = (ask.burst.0 as f64).max(interval);
        let Request { want, back } = ask.request;
        let mut due = self.due.lock().expect("not poisoned");
        *due = (*due - back as f64 * interval).clamp(now, now + burst);
        let tokens = ((now + burst - *due) / interval + 1e-6).floor().min(want as f64);
        *due += tokens * interval;
        let wait = (*due + interval - burst - now).max(0.0);
        Grant { tokens: tokens as u64, wait: Nanos(wait as u64) }
    }
}

/// The store as a replica sees it.
struct Link {
    memory: Arc<Memory>,
    started: Instant,
    is_cut: Arc<AtomicBool>,
}

impl Store for Link {
    fn is_used(&self) -> bool {
        !self.is_cut.load(Relaxed)
    }

    fn lease<'a>(&'a self, asks: &'a [Ask<'a>]) -> Answer<'a, Vec<Grant>> {
        Box::pin(async move {
            if self.is_cut.load(Relaxed) {
                return None;
            }
            let now = now_since(self.started);
            let grants = asks.iter().map(|ask| self.memory.take(ask, now)).collect();
            self.memory.answered().await.map(|()| grants)
        })
    }

    fn replicas<'a>(&'a self, id: &'a str) -> Answer<'a, u64> {
        Box::pin(async move {
            if self.is_cut.load(Relaxed) {
                return None;
            }
            self.memory.answered().await?;
            let mut replicas = self.memory.replicas.lock().expect("not poisoned");
            if !replicas.iter().any(|known| known == id) {
                replicas.push(id.into());
            }
            Some(replicas.len() as u64)
        })
    }
}

#[allow(clippy::disallowed_methods)] // tokio's clock, which is paused
fn now_since(started: Instant) -> Nanos {
    // Not zero, as on a process that has run for a while.
    Nanos::from_secs(5) + Instant::now().saturating_duration_since(started).into()
}

struct Replica {
    limits: Arc<Limits>,
    allowance: Arc<Allowance>,
    started: Instant,
    is_cut: Arc<AtomicBool>,
    admitted: Cell<u64>,
    /// The longest that a call waited.
    waited_max: Cell<Nanos>,
}

impl Replica {
    #[allow(clippy::disallowed_methods)] // tokio's clock, which is paused
    fn start(memory: &Arc<Memory>, id: usize, rate: f64) -> Rc<Replica> {
        let started = Instant::now();
        let limits = Limits::new(Arc::new(WallClock::default), false, 4);
        let is_cut = Arc::new(AtomicBool::new(false));
        let link = Link { memory: memory.clone(), started, is_cut: is_cut.clone() };
        let wanted = limits.share(Arc::new(link), &id.to_string(), TIMEOUT.into());
        let limits = Arc::new(limits);
        let call_limits = CallLimits { calls: Some(rate), ..CallLimits::default() };
        let allowance = Allowance::renewed(&call_limits, ("e", None), Arc::default(), None);
        let keeper = limits.clone();
        tokio::task::spawn_local(keep(keeper, Some(wanted), move || now_since(started)));
        let (admitted, waited_max) = (Cell::default(), Cell::default());
        Rc::new(Replica { limits, allowance, started, is_cut, admitted, waited_max })
    }

    fn now(&self) -> Nanos {
        now_since(self.started)
    }

    /// Makes a call.
    async fn call(&self) {
        let (limits, start) = (&*self.limits, self.now());
        let (allowances, ledgers) = ([Some(&self.allowance), None], CallLedgers::default());
        let admitted = match admit(&allowances, &ledgers, 1, start, limits, false) {
            Ok(_) => Ok(()),
            Err(Hindrance::Refused(at, refusal)) => Err((at, refusal)),
            Err(Hindrance::Wait(bucket)) => {
                let until = self.started + Duration::from(start - Nanos::from_secs(5)) + TIMEOUT;
                let now = || self.now();
                let later = admit_later(&allowances, &ledgers, 1, bucket, limits, until, now).await;
                later.map(drop)
            }
        };
        match admitted {
            Ok(()) => self.admitted.set(self.admitted.get() + 1),
            Err((_, Refusal::Rate { .. })) => {}
            Err((_, Refusal::Quota(_))) => panic!("there is no quota"),
        }
        self.waited_max.set(self.waited_max.get().max(self.now() - start));
    }

    /// Makes calls at a rate for some seconds.
    async fn load(self: Rc<Self>, rate: u64, secs: u64) {
        #[allow(clippy::disallowed_methods)] // tokio's clock, which is paused
        let start = Instant::now();
        for number in 0..rate * secs {
            tokio::task::spawn_local({
                let replica = self.clone();
                async move { replica.call().await }
            });
            // Timers have a resolution of a millisecond.
            sleep_until(start + Duration::from_nanos(number * 1_000_000_000 / rate)).await;
        }
    }

    fn is_local(&self) -> bool {
        self.limits.leases().is_some_and(Leases::is_local)
    }
}

/// Runs `test` on a paused clock.
fn with_paused_clock(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, test());
}

/// Runs `test` on a paused clock, with four replicas of a limit of 400/s that know each other.
fn with_replicas(test: impl AsyncFnOnce(Arc<Memory>, Vec<Rc<Replica>>)) {
    with_paused_clock(async || {
        let memory = Arc::new(Memory::default());
        memory.delay_us.store(300, Relaxed);
        let replicas: Vec<_> = (0..4).map(|id| Replica::start(&memory, id, RATE as f64)).collect();
        sleep(Duration::from_secs(3)).await;
        assert!(replicas.iter().all(|one| !one.is_local()));
        test(memory, replicas).await;
    });
}

const RATE: u64 = 400;

/// Twice the limit over all replicas for some seconds; how many calls were admitted.
async fn overload(replicas: &[Rc<Replica>], secs: u64) -> u64 {
    let before: u64 = replicas.iter().map(|one| one.admitted.get()).sum();
    let share = 2 * RATE / replicas.len() as u64;
    let loads = replicas.iter().map(|one| tokio::task::spawn_local(one.clone().load(share, secs)));
    futures_util::future::join_all(loads.collect::<Vec<_>>()).await;
    sleep(Duration::from_millis(20)).await;
    replicas.iter().map(|one| one.admitted.get()).sum::<u64>() - before
}

/// The limit over some seconds, with these numbers of bursts more.
fn within(admitted: u64, secs: u64, bursts: f64) {
    let limit = (RATE * secs) as f64;
    // Calls also come shortly before and after.
    let most = limit + bursts * RATE as f64 / 2.0 + 0.03 * RATE as f64;
    let admitted = admitted as f64;
    assert!(admitted >= limit * 0.99 && admitted <= most, "{admitted} of {limit} to {most}");
}

#[test]
fn replicas_enforce_a_limit_together() {
    with_replicas(async |_, replicas| {
        within(overload(&replicas, 20).await, 20, 1.0);
        // All calls come to one replica.
        within(overload(&replicas[..1], 20).await, 20, 1.0);
        // Timers have a resolution of a millisecond.
        assert!(replicas.iter().all(|one| one.waited_max.get() <= Nanos::from_millis(3)));
    });
}

#[test]
fn a_silent_store_leaves_each_replica_its_part() {
    with_replicas(async |memory, replicas| {
        overload(&replicas, 5).await;
        memory.delay_us.store(SILENT, Relaxed);
        within(overload(&replicas, 20).await, 20, 1.1);
        assert!(replicas.iter().all(|one| one.is_local()));
        // No call waited longer than the timeout.
        let most = Nanos::from(TIMEOUT) + Nanos::from_millis(2);
        assert!(replicas.iter().all(|one| one.waited_max.get() <= most));
        memory.delay_us.store(300, Relaxed);
        within(overload(&replicas, 20).await, 20, 1.1);
        assert!(replicas.iter().all(|one| !one.is_local()));
    });
}

#[test]
fn a_replica_without_the_store_admits_its_part_more() {
    with_replicas(async |_, replicas| {
        replicas[0].is_cut.store(true, Relaxed);
        let admitted = overload(&replicas, 20).await as f64;
        let limit = (RATE * 20) as f64;
        // The others enforce the limit, of which they offer 3/4 twice, and this one a quarter.
        assert!(admitted >= limit && admitted <= limit * 1.25 + 1.3 * RATE as f64, "{admitted}");
    });
}

/// Replicas that have never reached the store know their number from the configuration.
#[test]
fn replicas_that_start_without_the_store_enforce_their_part() {
    with_paused_clock(async || {
        let memory = Arc::new(Memory::default());
        let replicas: Vec<_> = (0..4).map(|id| Replica::start(&memory, id, RATE as f64)).collect();
        replicas.iter().for_each(|one| one.is_cut.store(true, Relaxed));
        within(overload(&replicas, 20).await, 20, 1.1);
        assert!(replicas.iter().all(|one| one.is_local()));
    });
}

/// What each second's line says, of a store that answers or not.
#[test]
fn the_last_line_of_the_log_is_right() {
    let memory = Arc::new(Memory::default());
    let check = |answers: &[(u64, bool)], lines: &[(u64, bool)]| {
        with_paused_clock(async || {
            let replica = Replica::start(&memory, 0, 1.0);
            let leases = replica.limits.leases().expect("they are shared");
            let mut found = Vec::new();
            for tenth in 0..400 {
                let answer = answers.iter().rev().find(|(at, _)| *at <= tenth);
                replica.is_cut.store(answer.is_some_and(|(_, answers)| !answers), Relaxed);
                sleep(Duration::from_millis(100)).await;
                let last = leases.logged.lock().expect("not poisoned").last;
                if let Some((is_local, _)) = last
                    && found.last().is_none_or(|(_, before)| *before != is_local)
                {
                    found.push((tenth, is_local));
                }
            }
            let near = |(a, b): (&(u64, bool), &(u64, bool))| a.0.abs_diff(b.0) <= 2 && a.1 == b.1;
            let is_right = found.len() == lines.len() && found.iter().zip(lines).all(near);
            assert!(is_right, "{answers:?}: {found:?}");
        });
    };
    // Times in tenths of a second: the store answers from the start.
    check(&[(0, true)], &[(0, false)]);
    // It does not, and then does.
    check(&[(0, false)], &[(20, true)]);
    check(&[(0, false), (50, true)], &[(20, true), (120, false)]);
    // A slow connection at the start is no outage.
    check(&[(0, false), (10, true)], &[(10, false)]);
    // Outages that are too short for a line, or whose end is.
    check(&[(0, true), (50, false), (55, true)], &[(0, false)]);
    check(&[(0, true), (200, false), (230, true)], &[(0, false), (200, true), (300, false)]);
    check(&[(0, true), (50, false)], &[(0, false), (100, true)]);
}

#[test]
fn a_slow_store_is_waited_for() {
    with_replicas(async |memory, replicas| {
        memory.delay_us.store(4_000, Relaxed);
        within(overload(&replicas, 20).await, 20, 1.0);
        assert!(replicas.iter().all(|one| !one.is_local()));
    });
}

/// What a late call was charged locally returns to where it came from, if another limit refuses it: it does
/// not become a token of the lease, which nobody has taken out of the shared bucket.
#[test]
fn a_late_call_that_is_refused_leaves_no_tokens() {
    with_paused_clock(async || {
        let replica = Replica::start(&Arc::default(), 0, 1_000.0);
        let leases = replica.limits.leases().expect("they are shared");
        leases.set_local(false, replica.now());
        let limits = CallLimits { calls: Some(2.0), ..CallLimits::default() };
        let narrow = Allowance::renewed(&limits, ("e", Some("k")), Arc::default(), None);
        // The one that refuses is charged last.
        let (wide, ledgers) = (&replica.allowance, CallLedgers::default());
        let late = |allowances| {
            admit(&allowances, &ledgers, 1, replica.now(), &replica.limits, true).is_ok()
        };
        let admitted = (0..10).filter(|_| late([Some(wide), Some(&narrow)])).count() as u64;
        assert!(admitted < 10);
        assert_eq!(leases.figures().local, 2 * admitted);
        assert!(wide.rates().all(|bucket| !bucket.lease.is_held()));
    });
}
