//! A budget for extra attempts: retries and hedges are at most a share of the calls, plus a floor.
//!
//! # Why
//! A retry is load on a system that is failing, perhaps because of load. With three attempts per call
//! an outage triples the traffic, and layers that retry multiply ("retry storm"; Google's SRE book,
//! chapter 22; Brooker, "Timeouts, retries and backoff with jitter", AWS 2019). A limit per call cannot
//! prevent this; a limit on the share of extra attempts does: upstreams see at most `1 + share` times
//! the calls, however many fail. Finagle's `RetryBudget`, linkerd and Envoy do the same.
//!
//! # The rule
//! An extra attempt is allowed while, over the last 10 s,
//!
//! `extra attempts ≤ share × calls + floor × 10 s`.
//!
//! So over any time `T`: `extra attempts ≤ share × calls + floor × (T + 10 s)`. (Go back from the last
//! extra attempt in steps: each window ends at an extra attempt and starts 10 s before it, the next
//! one ends at the last extra attempt before that. The windows are disjoint and contain all extra
//! attempts.)
//!
//! A window rather than a bucket of tokens, because the savings of a bucket need a maximum, which is
//! too small for a busy service or too large for a quiet one. The window's savings are the calls of
//! the last 10 s.
//!
//! # The floor
//! A service with few calls needs a minimum: at 5 calls per second, of which half go to an upstream
//! that has just died, 20 % would allow one retry per second, and the other half of the failed calls
//! would be lost. The default floor of 10 per second retries half of 20 calls per second for as long as
//! it takes. A busier service lives on its savings until its breakers open: at 1,000 calls per second,
//! the default share has saved 2,000 retries, which is 4 s of the calls to one of two upstreams.
//!
//! # Not counted
//! An attempt whose predecessor provably never reached an upstream is not extra load. The caller does
//! not ask the budget for it.
//!
//! # Sharing
//! By all workers; the limit is exact under contention. While nothing fails, a call costs one atomic
//! addition. Calls of a worker in the instant in which another one begins a new bucket of the window
//! may be counted late.

use plimsoll_measure::Nanos;

use crate::window::Window;

/// The length of the window: long enough to save up for a failure, short enough that what was saved
/// before an outage does not feed it for long.
const WINDOW: Nanos = Nanos::from_secs(10);

/// See the [module](self).
#[derive(Debug)]
pub struct Budget {
    share: f64,
    /// The floor, for a whole window.
    floor: f64,
    window: Window,
}

impl Budget {
    /// The default share: 20 % more load is what a pool of upstreams should be able to take.
    pub const SHARE: f64 = 0.2;
    /// The default floor, in extra attempts per second.
    pub const FLOOR: f64 = 10.0;
    /// The maximum share: 1 doubles the load.
    pub const SHARE_MAX: f64 = 1.0;
    /// The maximum floor: far below what a window can count.
    pub const FLOOR_MAX: f64 = 10_000.0;

    /// A budget of `share` × calls (0 to [`Budget::SHARE_MAX`]) and `floor` per second (0 to
    /// [`Budget::FLOOR_MAX`]). With both at 0 no extra attempt is allowed.
    ///
    /// # Panics
    /// A parameter is out of its range.
    pub fn new(share: f64, floor: f64) -> Budget {
        assert!((0.0..=Budget::SHARE_MAX).contains(&share), "a share of {share}");
        assert!((0.0..=Budget::FLOOR_MAX).contains(&floor), "a floor of {floor}");
        Budget { share, floor: floor * WINDOW.as_secs_f64(), window: Window::new(WINDOW) }
    }

    /// Counts a call: once per call, not per attempt.
    #[inline]
    pub fn called(&self, now: Nanos) {
        self.window.add_first(now);
    }

    /// Takes an extra attempt from the budget, or refuses it.
    #[cold]
    pub fn withdraw(&self, now: Nanos) -> bool {
        self.withdraw_reserve(0.0, now)
    }

    /// Takes an extra attempt from the budget as if its share were larger by `reserve`: for a call that
    /// would be lost otherwise. The bound of the [module](self) holds with `share + reserve`.
    #[cold]
    pub fn withdraw_reserve(&self, reserve: f64, now: Nanos) -> bool {
        self.window.try_add_second(now, |sums| {
            (sums.second + 1) as f64 <= (self.share + reserve) * sums.first as f64 + self.floor
        })
    }

    /// How many extra attempts are allowed now, for metrics.
    pub fn balance(&self, now: Nanos) -> u64 {
        let sums = self.window.sums(now);
        (self.share * sums.first as f64 + self.floor - sums.second as f64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_share_and_the_floor_are_allowed() {
        let check = |share: f64, floor: f64, calls: u32, allowed: usize| {
            let budget = Budget::new(share, floor);
            let now = Nanos::from_secs(5);
            (0..calls).for_each(|_| budget.called(now));
            assert_eq!(budget.balance(now), allowed as u64);
            assert_eq!((0..1_000).filter(|_| budget.withdraw(now)).count(), allowed);
            // Ten seconds later the calls are forgotten, and the floor is available again.
            let later = Nanos::from_secs(16);
            let floor = (floor * 10.0) as usize;
            assert_eq!((0..1_000).filter(|_| budget.withdraw(later)).count(), floor);
        };
        check(0.2, 0.0, 100, 20);
        check(0.2, 10.0, 100, 120);
        check(0.2, 0.1, 4, 1);
        check(0.0, 10.0, 100, 100);
        check(0.0, 0.0, 100, 0);
        check(1.0, 0.0, 7, 7);
    }

    #[test]
    fn the_reserve_adds_to_the_share() {
        let budget = Budget::new(0.1, 1.0);
        let now = Nanos::from_secs(5);
        (0..100).for_each(|_| budget.called(now));
        assert_eq!((0..1_000).filter(|_| budget.withdraw(now)).count(), 20);
        assert_eq!((0..1_000).filter(|_| budget.withdraw_reserve(0.1, now)).count(), 10);
        assert!(!budget.withdraw(now) && !budget.withdraw_reserve(0.1, now));
    }

    /// One of two upstreams is lost: every other call needs a retry.
    #[test]
    fn the_loss_of_one_of_two_upstreams_is_survived() {
        let lost = |calls_per_sec: u64, secs: u64| {
            let budget = Budget::new(Budget::SHARE, Budget::FLOOR);
            let mut refused = 0;
            for n in 0..calls_per_sec * (10 + secs) {
                let now = Nanos(n * 1_000_000_000 / calls_per_sec);
                budget.called(now);
                let fails = now >= Nanos::from_secs(10) && n % 2 == 0;
                refused += u64::from(fails && !budget.withdraw(now));
            }
            refused
        };
        assert_eq!(lost(1, 600), 0, "quiet: for ever");
        assert_eq!(lost(20, 600), 0, "as many as the floor: for ever");
        assert_eq!(lost(1_000, 4), 0, "busy: for several seconds");
        assert!(lost(1_000, 60) > 10_000, "not for ever");
    }

    #[test]
    fn workers_share_one_budget() {
        let budget = Budget::new(0.5, 0.0);
        let allowed = std::thread::scope(|scope| {
            let worker = || {
                let calls = 0..20_000u64;
                let extra = calls.filter(|n| {
                    let now = Nanos::from_secs(1) + Nanos(n * 10_000);
                    budget.called(now);
                    budget.withdraw(now)
                });
                extra.count()
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().expect("counts")).sum::<usize>()
        });
        assert!(allowed <= 40_000, "{allowed}");
    }

    proptest! {
        /// Over any time, extra attempts are at most share × calls + floor × (time + window), however
        /// calls and extra attempts are mixed.
        #[test]
        fn the_bound_holds_over_any_time(
            share in 0.0..1.0f64,
            floor in 0.0..20.0f64,
            steps in proptest::collection::vec((0u64..2_000, 0u32..50, 0u32..50), 1..100),
        ) {
            let budget = Budget::new(share, floor);
            let start = Nanos::from_secs(1_000);
            let mut now = start;
            let (mut calls, mut extra) = (0u32, 0u32);
            for (pause, called, wanted) in steps {
                now += Nanos::from_millis(pause);
                (0..called).for_each(|_| budget.called(now));
                calls += called;
                extra += (0..wanted).filter(|_| budget.withdraw(now)).count() as u32;
                let time = (now - start + WINDOW).as_secs_f64();
                let bound = share * f64::from(calls) + floor * time;
                prop_assert!(f64::from(extra) <= bound + 1e-6, "{} > {}", extra, bound);
            }
        }
    }
}
