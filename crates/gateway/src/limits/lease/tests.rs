//! Leases of several replicas, on virtual time, from a simulated shared bucket: with delays, lost
//! answers, steps of the store's clock, restarts of the store and stopped replicas.

use plimsoll_measure::rng::{Key, Sequence};

use super::*;

/// The shared bucket, as the script in Redis computes it.
struct Store {
    interval: f64,
    burst: f64,
    due: f64,
}

impl Store {
    fn new(rate: f64, burst: Nanos) -> Store {
        let interval = 1e9 / rate;
        Store { interval, burst: (burst.0 as f64).max(interval), due: 0.0 }
    }

    fn ask(&mut self, request: Request, now: Nanos) -> Grant {
        let now = now.0 as f64;
        let due = self.due - request.back as f64 * self.interval;
        let due = due.clamp(now, now + self.burst);
        let available = ((now + self.burst - due) / self.interval + 1e-6).floor();
        let tokens = available.min(request.want as f64);
        self.due = due + tokens * self.interval;
        let wait = (self.due + self.interval - self.burst - now).max(0.0);
        Grant { tokens: tokens as u64, wait: Nanos(wait as u64) }
    }
}

/// A request on its way.
struct Asked {
    request: Request,
    at_store: Nanos,
    back_at: Nanos,
    grant: Option<Grant>,
}

/// A replica; its calls wait for tokens up to 5 ms.
struct Replica {
    lease: Lease,
    asked: Option<Asked>,
    waiting: Vec<Nanos>,
    admitted: u64,
    refused: u64,
    waited: u64,
}

/// What happens to the store and the replicas in a run.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// The share of answers that are lost.
    lost: f64,
    /// The store's clock is ahead of ours by this many nanoseconds from half of the time on.
    step: i64,
    /// The store forgets everything every so many seconds.
    restarts: u64,
    /// The first replica is stopped from second 20 to 40.
    is_stopped: bool,
}

struct Run {
    rate: f64,
    burst: Nanos,
    /// Calls per second of each replica.
    calls: Vec<f64>,
    cost: u64,
    delay: Nanos,
    faults: Faults,
    secs: u64,
}

impl Run {
    fn new(rate: f64, calls: &[f64]) -> Run {
        Run {
            rate,
            burst: Nanos::from_millis(500),
            calls: calls.into(),
            cost: 1,
            delay: Nanos::from_micros(300),
            faults: Faults::default(),
            secs: 60,
        }
    }

    /// The replicas after the run.
    fn run(&self) -> Vec<Replica> {
        const STEP: Nanos = Nanos::from_micros(250);
        let mut random = Key::new(self.rate.to_bits()).with(self.calls.len() as u64).sequence();
        let mut store = Store::new(self.rate, self.burst);
        let replica = |_: &f64| Replica {
            lease: Lease::new(self.rate, self.burst),
            asked: None,
            waiting: Vec::new(),
            admitted: 0,
            refused: 0,
            waited: 0,
        };
        let mut replicas: Vec<Replica> = self.calls.iter().map(replica).collect();
        // As a process does, start at some time.
        let start = Nanos::from_secs(7);
        let end = start + Nanos::from_secs(self.secs);
        let (mut now, mut due) = (start, vec![0.0f64; replicas.len()]);
        while now < end {
            let elapsed = now - start;
            let restarts = self.faults.restarts * 1_000_000_000;
            if restarts > 0 && elapsed.0 > 0 && elapsed.0.is_multiple_of(restarts) {
                store.due = 0.0;
            }
            let is_late = elapsed.0 > self.secs * 500_000_000;
            let step = if is_late { self.faults.step } else { 0 };
            // Far from zero, so that a step back is possible.
            let store_now = Nanos(now.0.saturating_add(1 << 50).saturating_add_signed(step));
            for (at, replica) in replicas.iter_mut().enumerate() {
                let second = elapsed.0 / 1_000_000_000;
                if self.faults.is_stopped && at == 0 && (20..40).contains(&second) {
                    continue;
                }
                due[at] += self.calls[at] * STEP.as_secs_f64() * 2.0 * random.unit();
                while due[at] >= 1.0 {
                    due[at] -= 1.0;
                    self.call(replica, now, now + Nanos::from_millis(5), 0);
                }
                self.keep(replica, &mut store, now, store_now, &mut random);
            }
            now += STEP;
        }
        replicas
    }

    fn call(&self, replica: &mut Replica, now: Nanos, deadline: Nanos, waited: u64) {
        match replica.lease.take(self.cost, now) {
            Taken::Yes { is_low } => {
                replica.admitted += 1;
                replica.waited += waited;
                if is_low {
                    self.ask(replica, now);
                }
            }
            Taken::Locally => panic!("a lease has only shared tokens"),
            Taken::No(_) => replica.refused += 1,
            Taken::Empty if now >= deadline => replica.refused += 1,
            Taken::Empty => {
                replica.lease.wait(self.cost);
                replica.waiting.push(deadline);
                self.ask(replica, now);
            }
        }
    }

    fn ask(&self, replica: &mut Replica, now: Nanos) {
        if replica.asked.is_none() {
            let request = replica.lease.request(now);
            let (at_store, back_at) = (now + Nanos(self.delay.0 / 2), now + self.delay);
            replica.asked = Some(Asked { request, at_store, back_at, grant: None });
        }
    }

    fn keep(
        &self,
        replica: &mut Replica,
        store: &mut Store,
        now: Nanos,
        store_now: Nanos,
        random: &mut Sequence,
    ) {
        if let Some(asked) = &mut replica.asked {
            if asked.grant.is_none() && now >= asked.at_store {
                asked.grant = Some(store.ask(asked.request, store_now));
            }
            if let Some(grant) = asked.grant.filter(|_| now >= asked.back_at) {
                let request = asked.request;
                replica.asked = None;
                if random.unit() >= self.faults.lost {
                    replica.lease.granted(request, grant, now);
                }
                for deadline in std::mem::take(&mut replica.waiting) {
                    self.call(replica, now, deadline, 1);
                }
            }
        } else if let Some(request) = replica.lease.tidy(now) {
            store.ask(request, store_now);
        }
    }

    /// Checks that the admitted cost is within these shares of `rate × time`, plus one burst at most.
    fn check(&self, below: f64, above: f64) {
        let replicas = self.run();
        let admitted: u64 = replicas.iter().map(|one| one.admitted * self.cost).sum();
        let limit = self.rate * self.secs as f64;
        let offered: f64 = self.calls.iter().sum::<f64>() * (self.secs * self.cost) as f64;
        let burst = (self.rate * self.burst.as_secs_f64()).max(1.0) + self.cost as f64;
        let (least, most) =
            (limit.min(offered * 0.99) * (1.0 - below), limit * (1.0 + above) + burst);
        let what = format!(
            "rate {}, calls {:?}, cost {}: {admitted}, limit {limit}, offered {offered}",
            self.rate, self.calls, self.cost
        );
        assert!(admitted as f64 >= least && admitted as f64 <= most, "{what}");
    }
}

#[test]
fn replicas_admit_the_limit_and_no_more() {
    for rate in [20.0, 300.0, 2_000.0, 20_000.0] {
        for share in [0.5, 1.2, 3.0] {
            let offered = rate * share;
            let quarter = offered / 4.0;
            Run::new(rate, &[offered]).check(0.01, 0.0);
            Run::new(rate, &[quarter; 4]).check(0.01, 0.0);
            Run::new(rate, &[offered, 0.0, 0.0, 0.0]).check(0.01, 0.0);
            Run::new(rate, &[offered * 0.9, offered * 0.1, 1.0, 0.1]).check(0.01, 0.0);
        }
    }
}

#[test]
fn costs_slow_stores_and_small_bursts_are_within_bounds() {
    let run = Run::new(2_000.0, &[30.0; 4]);
    Run { cost: 26, ..run }.check(0.01, 0.0);
    // Each answer takes 4 ms.
    let run = Run::new(2_000.0, &[800.0; 4]);
    Run { delay: Nanos::from_millis(4), ..run }.check(0.01, 0.0);
    // A burst of one call: of few calls, many would come while the only token is there already.
    for (rate, calls) in [(20.0, 500.0), (1.0, 50.0)] {
        let run = Run::new(rate, &[calls; 4]);
        Run { burst: Nanos::from_millis(1), ..run }.check(0.03, 0.0);
    }
}

#[test]
fn faults_of_the_store_and_of_replicas_are_bounded() {
    let with = |faults| Run { faults, ..Run::new(1_000.0, &[500.0; 4]) };
    // Tokens whose answer is lost are lost, but never admitted twice.
    with(Faults { lost: 0.01, ..Faults::default() }).check(0.03, 0.0);
    // A step forward fills the bucket once more; a step back empties it.
    with(Faults { step: 3_600_000_000_000, ..Faults::default() }).check(0.01, 0.01);
    with(Faults { step: -3_600_000_000_000, ..Faults::default() }).check(0.02, 0.0);
    // A store that forgets gives another burst: 5 of 500 tokens.
    with(Faults { restarts: 10, ..Faults::default() }).check(0.01, 5.0 * 500.0 / 60_000.0);
    // A stopped replica does not spend what it held when it continues.
    with(Faults { is_stopped: true, ..Faults::default() }).check(0.01, 0.0);
}

#[test]
fn calls_rarely_wait() {
    let [replica] = &Run::new(20_000.0, &[10_000.0]).run()[..] else { panic!("one replica") };
    assert_eq!(replica.refused, 0);
    let share = replica.waited as f64 / replica.admitted as f64;
    assert!(share < 0.01, "{share}");
}

#[test]
fn idle_leases_are_returned() {
    let lease = Lease::new(1_000.0, Nanos::from_secs(1));
    let now = Nanos::from_secs(5);
    assert_eq!(lease.take(1, now), Taken::Empty);
    lease.wait(10);
    let request = lease.request(now);
    assert_eq!(request, Request { want: 10, back: 0 });
    lease.granted(request, Grant { tokens: 10, wait: Nanos::ZERO }, now);
    assert_eq!(lease.take(4, now), Taken::Yes { is_low: false });
    assert_eq!(lease.tidy(now + Nanos::from_millis(400)), None);
    assert_eq!(lease.tidy(now + Nanos::from_millis(600)), Some(Request { want: 0, back: 6 }));
    assert!(!lease.is_held());
    // A debt is asked for, and tokens that are too old are not spent.
    lease.granted(request, Grant { tokens: 1, wait: Nanos::from_millis(1) }, now);
    assert_eq!(lease.take(26, now), Taken::Yes { is_low: false });
    assert!(matches!(lease.take(1, now), Taken::No(_)));
    let now = now + Nanos::from_millis(50);
    assert_eq!(lease.request(now).want, 1 + 25);
    lease.granted(Request { want: 26, back: 0 }, Grant { tokens: 26, wait: Nanos::ZERO }, now);
    assert_eq!(lease.take(1, now + Nanos::from_secs(2)), Taken::Empty);
    assert_eq!(lease.tidy(now + Nanos::from_secs(2)), None);
    assert!(!lease.is_held());
}
