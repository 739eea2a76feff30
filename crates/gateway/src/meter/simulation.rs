//! Quotas and metering on virtual time: replicas, a database, and everything that happens to them. The
//! thread of usage is modelled, with the parts that it is made of.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plimsoll_measure::rng::{Key, Sequence};
use plimsoll_measure::{Nanos, WallClock};
use plimsoll_registry::model::CallLimits;
use plimsoll_registry::usage::{Batch, Delivered};

use super::*;
use crate::account::AccountIds;
use crate::limits::calendar::Today;
use crate::limits::ledger::{CallLedgers, Ledgers};
use crate::limits::quota::Totals;
use crate::limits::{Allowance, Hindrance, Limits, Refusal, admit};

fn at(text: &str) -> u64 {
    WallClock::parse(text).expect(text).unix_ns
}

/// A step of virtual time.
const STEP: Nanos = Nanos::from_millis(10);

/// Units of a call.
const UNITS: u64 = 2;

/// Admitted units by day, and the numbers of writers.
#[derive(Default)]
struct Database {
    is_away: Cell<bool>,
    units: BTreeMap<u64, u64>,
    writers: BTreeMap<String, u64>,
}

impl Database {
    fn put(&mut self, batch: &Batch) {
        let last = self.writers.entry(batch.writer.clone()).or_default();
        if *last < batch.sequence {
            *last = batch.sequence;
            for (subject, counts) in &batch.rows {
                *self.units.entry(subject.hour / 24).or_default() += counts.admitted_units;
            }
        }
    }

    fn totals(&self, today: Today) -> [u64; 2] {
        let month = WallClock::of_month(today.month).day();
        let units = |from: u64| self.units.range(from..=today.day).map(|(_, units)| units).sum();
        [units(today.day), units(month)]
    }
}

/// What becomes of calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Answered,
    /// Answered after 22 s.
    Slow,
    /// The caller leaves.
    Left,
}

/// A process, with two workers.
struct Replica {
    limits: Limits,
    clock: Arc<AtomicU64>,
    ledgers: CallLedgers,
    allowance: Arc<Allowance>,
    account: Arc<Account>,
    inbox: Arc<Inbox>,
    meters: [Meter; 2],
    /// Batches on disk: of earlier processes, and of this one.
    spooled: VecDeque<(bool, Batch)>,
    writer: String,
    sequence: u64,
    /// Whether answers to commits are lost now and then.
    loses_answers: bool,
    /// Whether the database may have the first batch.
    is_in_doubt: bool,
    delivered: Delivered,
    is_ready: bool,
    random: Sequence,
    /// Calls in flight, by the step in which they end.
    in_flight: VecDeque<u64>,
    steps: u64,
}

impl Replica {
    fn start(clock: &Arc<AtomicU64>, limits: CallLimits, seed: u64, old: Vec<Batch>) -> Replica {
        let read = clock.clone();
        let wall: crate::host::ReadWallClock =
            Arc::new(move || WallClock { unix_ns: read.load(Relaxed) });
        let ledger = Ledgers::default().of("e", None);
        let allowance = Allowance::renewed(&limits, ("e", None), ledger.clone(), None);
        let ledgers = [None, Some(ledger)];
        let ids = AccountIds { endpoint: Some("e"), key: None, service: "eth" };
        let account = Account::renewed(None, ids, &Arc::default(), ledgers.clone(), &mut 0);
        let inbox = Arc::new(Inbox::default());
        Replica {
            limits: Limits::new(wall.clone(), true, 1),
            clock: clock.clone(),
            ledgers,
            allowance,
            account,
            meters: [0, 1].map(|_| Meter::new(Some(inbox.clone()), wall.clone())),
            inbox,
            spooled: old.into_iter().map(|batch| (true, batch)).collect(),
            writer: format!("w{seed}"),
            sequence: 0,
            loses_answers: true,
            is_in_doubt: false,
            delivered: Delivered::default(),
            is_ready: false,
            random: Key::new(seed).sequence(),
            in_flight: VecDeque::new(),
            steps: 0,
        }
    }

    /// The process ends; `kill`: at once. What the next one finds on disk.
    fn end(mut self, kill: bool) -> Vec<Batch> {
        if !kill {
            self.meters.iter().for_each(Meter::hand_over);
            self.spool();
        }
        self.spooled.into_iter().map(|(_, batch)| batch).collect()
    }

    /// Makes a call; whether it is admitted.
    fn call(&mut self, fate: Fate) -> bool {
        let allowances = [None, Some(&self.allowance)];
        let now = Nanos(self.clock.load(Relaxed));
        let today = match admit(&allowances, &self.ledgers, UNITS, now, &self.limits, false) {
            Ok(today) => today,
            Err(Hindrance::Refused(_, Refusal::Quota(_))) => return false,
            Err(other) => panic!("{other:?}"),
        };
        let meter = &self.meters[self.random.below(2) as usize];
        meter.admitted(&self.account, Kind::Rest, UNITS, today.day);
        match fate {
            Fate::Answered => self.finish(Outcome::Ok),
            Fate::Left => self.finish(Outcome::Cancelled),
            Fate::Slow => self.in_flight.push_back(self.steps + 2_200),
        }
        true
    }

    fn finish(&self, outcome: Outcome) {
        let (bytes_in, bytes_out, cache) = (1, 1, CacheUse::Miss);
        let ended = EndedCall { outcome, cache, bytes_in, bytes_out, compute_units: UNITS };
        self.meters[0].call(&self.account, Kind::Rest, ended);
    }

    fn spool(&mut self) {
        let rows = self.inbox.take().into_vec();
        if !rows.is_empty() {
            self.sequence += 1;
            let (writer, sequence) = (self.writer.clone(), self.sequence);
            self.spooled.push_back((false, Batch { writer, sequence, rows }));
        }
    }

    /// Sends batches.
    fn deliver(&mut self, database: &mut Database) {
        while let Some((is_old, batch)) = self.spooled.front() {
            if database.is_away.get() {
                return;
            }
            database.put(batch);
            self.is_in_doubt = self.loses_answers && self.random.below(5) == 0;
            if self.is_in_doubt {
                return;
            }
            if !is_old {
                self.delivered.add(batch);
            }
            self.spooled.pop_front();
        }
    }

    /// Asks for totals, as the keeper and the thread of usage do.
    fn read_totals(&mut self, database: &Database) {
        let has_old = self.spooled.front().is_some_and(|(is_old, _)| *is_old);
        if database.is_away.get() {
            self.is_ready = true;
        } else if !has_old && !self.is_in_doubt {
            let today = self.limits.calendar.today();
            let units = self.delivered.units("e", "", today.hour());
            let delivered = [units.day, units.month];
            let totals = Totals { total: database.totals(today), delivered };
            self.allowance.quota.set_totals(today, &totals);
            self.is_ready = true;
        }
    }

    /// One step; `phase` shifts its timers against those of the others.
    fn step(&mut self, database: &mut Database, phase: u64) {
        let is_due = |every: u64, step: u64| step.is_multiple_of(every);
        let step = self.steps + phase;
        while self.in_flight.front().is_some_and(|end| *end <= self.steps) {
            self.in_flight.pop_front();
            self.finish(Outcome::Ok);
        }
        if is_due(10, step) {
            self.limits.calendar.tick();
        }
        if is_due(25, step + 3) {
            self.meters[0].hand_over();
        }
        if is_due(25, step + 17) {
            self.meters[1].hand_over();
        }
        if is_due(25, step) {
            self.spool();
        }
        if is_due(50, step) {
            self.deliver(database);
        }
        if is_due(100, step + 9) || (!self.is_ready && is_due(25, step)) {
            self.read_totals(database);
        }
        self.steps += 1;
    }
}

/// Replicas, their clock and their database.
struct World {
    clock: Arc<AtomicU64>,
    database: Database,
    replicas: Vec<Replica>,
    limits: CallLimits,
    seed: u64,
    /// Admitted units.
    admitted: u64,
}

impl World {
    fn new(
        start: &str,
        replicas: u64,
        daily: Option<u64>,
        monthly: Option<u64>,
        seed: u64,
    ) -> World {
        let clock = Arc::new(AtomicU64::new(at(start)));
        let limits = CallLimits { daily, monthly, ..CallLimits::default() };
        let replica = |n| Replica::start(&clock, limits, seed * 10 + n, Vec::new());
        let replicas = (0..replicas).map(replica).collect();
        World { replicas, clock, database: Database::default(), limits, seed, admitted: 0 }
    }

    /// A hundred calls a second to each replica that is ready; returns the admitted units.
    fn run(&mut self, secs: u64, fate: Fate) -> u64 {
        let before = self.admitted;
        for _ in 0..secs * 100 {
            self.clock.fetch_add(STEP.0, Relaxed);
            for (at, replica) in self.replicas.iter_mut().enumerate() {
                replica.step(&mut self.database, at as u64 * 37);
                if replica.is_ready && replica.call(fate) {
                    self.admitted += UNITS;
                }
            }
        }
        self.admitted - before
    }

    fn restart(&mut self, kill: bool) {
        self.seed += 1;
        let old = self.replicas.remove(0).end(kill);
        let next = Replica::start(&self.clock, self.limits, self.seed * 10, old);
        self.replicas.push(next);
    }
}

/// Runs a test with several seeds, and prints that of a failure.
fn seeds(test: impl Fn(u64) + std::panic::RefUnwindSafe) {
    for seed in 0..20 {
        let run = std::panic::catch_unwind(|| test(seed));
        if let Err(panic) = run {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

const NOON: &str = "2027-01-31T12:00:00Z";

#[test]
fn a_steady_rate_admits_exactly_the_quota() {
    for fate in [Fate::Answered, Fate::Slow, Fate::Left] {
        seeds(|seed| {
            let mut world = World::new(NOON, 1, Some(4_000), None, seed);
            // No call is refused before the quota is used up: 100 calls of 2 units a second.
            for second in 0..20 {
                assert_eq!(world.run(1, fate), 200, "{fate:?}, second {second}");
            }
            assert_eq!(world.run(60, fate), 0, "{fate:?}");
            // All of it is delivered, whatever became of the calls.
            assert_eq!(world.database.totals(world.replicas[0].limits.calendar.today())[0], 4_000);
        });
    }
}

#[test]
fn days_and_months_begin_with_a_full_quota() {
    seeds(|seed| {
        // Twenty seconds before midnight, with calls that are in flight then.
        let mut world = World::new("2027-01-30T23:59:40Z", 1, Some(2_000), Some(5_500), seed);
        assert_eq!(world.run(25, Fate::Slow), 2_000 + 1_000);
        assert_eq!(world.run(20, Fate::Left), 1_000);
        // The month has 1,500 left on this day, which is the last.
        world.clock.store(at("2027-01-31T23:59:30Z"), Relaxed);
        assert_eq!(world.run(15, Fate::Answered), 0);
        assert_eq!(world.run(30, Fate::Answered), 2_000, "the next month");
    });
    seeds(|seed| {
        let mut world = World::new("2027-01-31T23:59:40Z", 1, None, Some(2_500), seed);
        assert_eq!(world.run(20, Fate::Slow), 2_500);
        assert_eq!(world.run(30, Fate::Answered), 2_500);
    });
}

#[test]
fn a_database_that_is_away_and_comes_back_changes_nothing() {
    seeds(|seed| {
        let mut world = World::new(NOON, 1, Some(8_000), None, seed);
        for is_away in [true, false, true, false] {
            world.database.is_away.set(is_away);
            assert_eq!(world.run(5, Fate::Slow), 1_000);
        }
        world.database.is_away.set(true);
        assert_eq!(world.run(60, Fate::Answered), 4_000);
        world.database.is_away.set(false);
        assert_eq!(world.run(60, Fate::Answered), 0);
    });
}

#[test]
fn a_restart_gives_no_second_quota() {
    seeds(|seed| {
        let mut world = World::new(NOON, 1, Some(6_000), None, seed);
        for _ in 0..4 {
            world.run(5, Fate::Slow);
            world.restart(false);
        }
        world.run(60, Fate::Answered);
        assert_eq!(world.admitted, 6_000, "to the unit");
    });
    // A killed process loses what was not on disk yet: half a second.
    seeds(|seed| {
        let mut world = World::new(NOON, 1, Some(6_000), None, seed);
        for _ in 0..4 {
            world.run(5, Fate::Slow);
            world.restart(true);
        }
        world.run(60, Fate::Answered);
        let most = 6_000 + 4 * 100;
        assert!((6_000..=most).contains(&world.admitted), "{}", world.admitted);
    });
}

/// How long what a replica admits may be unknown to another.
const REPLICAS_LAG_MS: u64 = 2_500;

#[test]
fn replicas_overrun_a_quota_by_what_the_others_admit_in_the_lag() {
    seeds(|seed| {
        let mut world = World::new(NOON, 3, Some(12_000), None, seed);
        world.replicas.iter_mut().for_each(|one| one.loses_answers = false);
        world.run(60, Fate::Slow);
        let most = 12_000 + 2 * 200 * REPLICAS_LAG_MS / 1_000;
        assert!((12_000..=most).contains(&world.admitted), "{}", world.admitted);
        // From then on all of them know.
        assert_eq!(world.run(10, Fate::Answered), 0);
    });
    // A lost answer puts off a flush, or a total.
    seeds(|seed| {
        let mut world = World::new(NOON, 3, Some(12_000), None, seed);
        world.run(60, Fate::Slow);
        let most = 12_000 + 2 * 200 * 2 * REPLICAS_LAG_MS / 1_000;
        assert!((12_000..=most).contains(&world.admitted), "{}", world.admitted);
    });
}

#[test]
fn another_replica_is_not_ready_before_it_knows_the_totals() {
    seeds(|seed| {
        let mut world = World::new(NOON, 1, Some(1_000), None, seed);
        world.run(10, Fate::Answered);
        world.replicas.push(Replica::start(&world.clock, world.limits, 99, Vec::new()));
        assert_eq!(world.run(10, Fate::Answered), 0);
    });
}
