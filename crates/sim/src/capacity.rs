//! A node's capacity: *c* servers and one queue, first come first served.
//!
//! The station is a function of the arrivals. Each server is busy until a known time, and the
//! earliest free one takes the next call, so the start and end of a call's service are known when
//! the call arrives, and no events have to be simulated. With Poisson arrivals this is an M/G/c
//! queue: M/M/c (Erlang) for exponential service times, M/D/c (Crommelin) for constant ones, with
//! loss if the queue is bounded. The tests compare it with both closed forms.
//!
//! A station reads no clock and does not wait: the caller passes in the arrival times, and waits.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use plimsoll_measure::Nanos;
use plimsoll_measure::rng::{Key, Sequence};

use crate::distribution::Distribution;

/// Maximum number of servers of a station; with more, the capacity would hardly be a limit.
pub const SERVERS_MAX: usize = 10_000;

/// The capacity of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// Number of calls served at a time; 1 to [`SERVERS_MAX`].
    pub servers: usize,
    /// How long a server is busy with a call.
    pub service: Distribution,
    /// Maximum number of waiting calls; further calls are refused. `None`: unlimited.
    pub queue_max: Option<usize>,
}

/// Start and end of a call's service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// When a server starts the call.
    pub start: Nanos,
    /// When the server is free again.
    pub done: Nanos,
}

/// The servers and their queue.
#[derive(Debug, Clone)]
pub struct Station {
    capacity: Capacity,
    /// When each server becomes free.
    free: BinaryHeap<Reverse<Nanos>>,
    /// When the service of each waiting call starts, in order. Only used for a bounded queue.
    waiting: VecDeque<Nanos>,
    random: Sequence,
}

impl Station {
    /// A station whose servers are all free. The key determines the service times.
    ///
    /// # Panics
    /// If there are no servers, or more than [`SERVERS_MAX`].
    pub fn new(capacity: Capacity, key: Key) -> Station {
        assert!((1..=SERVERS_MAX).contains(&capacity.servers), "1 to {SERVERS_MAX} servers");
        Station {
            capacity,
            free: vec![Reverse(Nanos::ZERO); capacity.servers].into(),
            waiting: VecDeque::new(),
            random: key.sequence(),
        }
    }

    /// Adds a call that arrives at `now`, which must not be before the previous arrival. Returns
    /// `None` if the queue is full.
    pub fn arrive(&mut self, now: Nanos) -> Option<Visit> {
        let mut earliest = self.free.peek_mut()?;
        let start = earliest.0.max(now);
        if let Some(limit) = self.capacity.queue_max {
            while self.waiting.front().is_some_and(|start| *start <= now) {
                self.waiting.pop_front();
            }
            if start > now {
                if self.waiting.len() >= limit {
                    return None;
                }
                self.waiting.push_back(start);
            }
        }
        let done = start + self.capacity.service.sample(&mut self.random);
        earliest.0 = done;
        Some(Visit { start, done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: Nanos = Nanos::from_millis(1);
    const CALLS: usize = 3_000_000;

    /// Sorted waiting times, in units of the mean service time, for Poisson arrivals at a share `load`
    /// of the capacity.
    fn waits(servers: usize, service: Distribution, load: f64, seed: u64) -> Vec<f64> {
        let capacity = Capacity { servers, service, queue_max: None };
        let mut station = Station::new(capacity, Key::new(seed));
        let mut arrivals = Key::new(seed).with(1).sequence();
        let gap = Distribution::Exponential {
            mean: Nanos((MEAN.0 as f64 / (servers as f64 * load)) as u64),
        };
        let mut now = Nanos::ZERO;
        let mut waits: Vec<f64> = (0..CALLS)
            .map(|_| {
                now += gap.sample(&mut arrivals);
                let visit = station.arrive(now).expect("no limit");
                (visit.start - now).0 as f64 / MEAN.0 as f64
            })
            .collect();
        waits.sort_by(f64::total_cmp);
        waits
    }

    /// Checks that each percentile is within 3 % of the formula, if it exceeds a tenth of the mean
    /// service time.
    fn check(what: &str, waits: &[f64], exceeds: impl Fn(f64) -> f64) {
        let mean = waits.iter().sum::<f64>() / waits.len() as f64;
        let mut compared = 0;
        for percent in [50.0, 75.0, 90.0, 95.0, 99.0] {
            let measured = waits[(waits.len() as f64 * percent / 100.0) as usize];
            let formula = invert(&exceeds, 1.0 - percent / 100.0);
            if formula > 0.1 {
                let off = measured / formula - 1.0;
                assert!(
                    off.abs() < 0.03,
                    "{what} p{percent}: {measured}, formula {formula}, mean {mean}"
                );
                compared += 1;
            }
        }
        assert!(compared >= 2, "{what}: only {compared} percentiles to compare");
        let served_at_once = waits.partition_point(|wait| *wait == 0.0) as f64 / waits.len() as f64;
        assert!((served_at_once - (1.0 - exceeds(0.0))).abs() < 0.01, "{what}: {served_at_once}");
    }

    /// The waiting time that is exceeded with this probability.
    fn invert(exceeds: &impl Fn(f64) -> f64, probability: f64) -> f64 {
        let (mut low, mut high) = (0.0, 64.0);
        if exceeds(0.0) <= probability {
            return 0.0;
        }
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if exceeds(middle) > probability { low = middle } else { high = middle }
        }
        low
    }

    /// Erlang C: the probability of waiting, for an offered load of `a` erlangs.
    fn erlang_c(servers: usize, a: f64) -> f64 {
        let mut blocked = 1.0; // Erlang B, by recursion
        for server in 1..=servers {
            blocked = a * blocked / (server as f64 + a * blocked);
        }
        let load = a / servers as f64;
        blocked / (1.0 - load + load * blocked)
    }

    #[test]
    fn exponential_service_times_match_erlang_c() {
        for (servers, load, seed) in [(1, 0.7, 1), (4, 0.8, 2), (16, 0.9, 3)] {
            let c = servers as f64;
            let any = erlang_c(servers, c * load);
            let exceeds = |wait: f64| any * (-(c - c * load) * wait).exp();
            let service = Distribution::Exponential { mean: MEAN };
            let name = format!("M/M/{servers} at {load}, seed {seed}");
            check(&name, &waits(servers, service, load, seed), exceeds);
        }
    }

    /// Crommelin 1932. The distribution of the number of calls in the system is iterated over one
    /// service time, after which exactly the calls that were in service have left.
    fn crommelin(servers: usize, load: f64) -> impl Fn(f64) -> f64 {
        const STATES: usize = 400;
        let rate = servers as f64 * load;
        let poisson: Vec<f64> = (0..STATES)
            .scan((-rate).exp(), |p, n| {
                let now = *p;
                *p *= rate / (n + 1) as f64;
                Some(now)
            })
            .collect();
        let mut states = vec![0.0; STATES];
        states[0] = 1.0;
        for _ in 0..2_000 {
            let mut next = vec![0.0; STATES];
            for (n, p) in states.iter().enumerate().filter(|(_, p)| **p > 1e-15) {
                let left = n.saturating_sub(servers);
                for (more, q) in poisson[..STATES - left].iter().enumerate() {
                    next[left + more] += p * q;
                }
            }
            states = next;
        }
        let up_to: Vec<f64> = states
            .iter()
            .scan(0.0, |sum, p| {
                *sum += p;
                Some(*sum)
            })
            .collect();
        move |wait: f64| {
            let k = wait.floor() + 1.0;
            let rest = rate * (k - wait);
            let last = k as usize * servers - 1;
            let mut term = (-rest).exp();
            let mut sum = 0.0;
            for j in 0..=last {
                // The probability that at most this many calls wait.
                sum += up_to[(last - j + servers).min(STATES - 1)] * term;
                term *= rest / (j + 1) as f64;
            }
            1.0 - sum
        }
    }

    #[test]
    fn constant_service_times_match_crommelin() {
        for (servers, load, seed) in [(1, 0.7, 4), (4, 0.9, 5)] {
            let name = format!("M/D/{servers} at {load}, seed {seed}");
            let waits = waits(servers, Distribution::Constant(MEAN), load, seed);
            check(&name, &waits, crommelin(servers, load));
        }
    }

    #[test]
    fn a_full_queue_refuses_calls() {
        let capacity =
            Capacity { servers: 2, service: Distribution::Constant(MEAN), queue_max: Some(1) };
        let mut station = Station::new(capacity, Key::new(0));
        let at = |n: u64| Nanos(n * MEAN.0 / 4);
        let visit = |start, done| Some(Visit { start: at(start), done: at(done) });
        assert_eq!(station.arrive(at(0)), visit(0, 4));
        assert_eq!(station.arrive(at(1)), visit(1, 5));
        assert_eq!(station.arrive(at(2)), visit(4, 8)); // waits
        assert_eq!(station.arrive(at(3)), None); // the queue is full
        assert_eq!(station.arrive(at(4)), visit(5, 9)); // the waiting call is being served
        let no_queue = Capacity { queue_max: Some(0), servers: 1, ..capacity };
        let mut station = Station::new(no_queue, Key::new(0));
        assert_eq!(station.arrive(at(0)), visit(0, 4));
        assert_eq!(station.arrive(at(1)), None);
        assert_eq!(station.arrive(at(4)), visit(4, 8));
    }
}
