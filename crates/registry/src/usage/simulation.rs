//! A seeded simulation of writer, files and database, in which everything fails at every step.
//!
//! The process is killed at quiet moments and in the middle of any operation on a file, of which a part
//! may be done; disks are full; the database is away, refuses, loses its answer before or after the
//! commit. Whatever happens: the database never has more than was counted, and in the end it has all of it
//! but what was only in memory when the process was killed. Whenever totals may be read, what the process
//! takes for delivered is what the database has of it, to the unit.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use plimsoll_measure::rng::{Key, Sequence};

use super::delivery::Delivery;
use super::spool::{Disk, Spool};
use super::{Batch, Counts, Delivered, Rows, Subject};
use crate::store::{StoreError, StoreErrorKind};

/// Runs, each with its seed.
const SEEDS: u64 = 500;

/// Steps of a run.
const STEPS: u64 = 250;

/// Bytes of a file, so few that it is rewritten and full often.
const LIMIT: u64 = 7_000;

/// The host: files that survive the process.
#[derive(Debug)]
struct Host {
    files: RefCell<Vec<Option<Vec<u8>>>>,
    random: RefCell<Sequence>,
    is_full: Cell<bool>,
    /// Operations until the process is killed.
    killed_in: Cell<Option<u64>>,
    is_killed: Cell<bool>,
}

impl Host {
    fn below(&self, n: u64) -> u64 {
        self.random.borrow_mut().below(n)
    }

    /// Whether an operation is done, or only a part of it, after which the process is gone.
    fn begin(&self) -> io::Result<Done> {
        if self.is_killed.get() {
            return Err(io::Error::other("killed"));
        }
        match self.killed_in.get() {
            Some(0) => {
                self.is_killed.set(true);
                Ok(Done::Partly)
            }
            left => {
                self.killed_in.set(left.map(|left| left - 1));
                Ok(Done::Fully)
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    Fully,
    Partly,
}

#[derive(Debug)]
struct SimulatedFile {
    host: Rc<Host>,
    number: usize,
}

impl SimulatedFile {
    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(Some(file)) = self.host.files.borrow_mut().get_mut(self.number) {
            change(file);
        }
    }
}

impl Disk for SimulatedFile {
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        if self.host.is_killed.get() {
            return Err(io::Error::other("killed"));
        }
        let files = self.host.files.borrow();
        let file = files[self.number].as_deref().unwrap_or_default();
        let rest = file.get(at as usize..).unwrap_or_default();
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let done = self.host.begin()?;
        let length = self.host.files.borrow()[self.number].as_ref().map_or(0, Vec::len);
        let is_longer = at as usize + bytes.len() > length;
        let is_refused = self.host.is_full.get() && is_longer;
        let written = match done {
            Done::Fully if !is_refused => bytes.len(),
            // A full disk takes a part, too.
            _ => self.host.below(bytes.len() as u64 + 1) as usize,
        };
        self.change(|file| {
            let end = at as usize + written;
            if file.len() < end {
                file.resize(end, 0);
            }
            file[at as usize..end].copy_from_slice(&bytes[..written]);
        });
        if done == Done::Partly || is_refused {
            Err(io::Error::other("not written"))
        } else {
            Ok(())
        }
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let done = self.host.begin()?;
        if done == Done::Fully || self.host.below(2) == 0 {
            self.change(|file| file.resize(length as usize, 0));
        }
        if done == Done::Fully { Ok(()) } else { Err(io::Error::other("killed")) }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.host.begin().map(drop)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let done = self.host.begin()?;
        if done == Done::Fully && self.host.is_full.get() {
            return Err(io::Error::other("full"));
        }
        if done == Done::Fully || self.host.below(2) == 0 {
            self.change(|file| *file = bytes.to_vec());
        }
        if done == Done::Fully { Ok(()) } else { Err(io::Error::other("killed")) }
    }

    fn remove(&mut self) {
        if self.host.begin().is_ok() {
            self.host.files.borrow_mut()[self.number] = None;
        }
    }
}

/// The database.
#[derive(Default)]
struct Database {
    writers: BTreeMap<String, u64>,
    calls: BTreeMap<Subject, u64>,
    /// Admitted units by writer.
    admitted: BTreeMap<String, u64>,
}

impl Database {
    fn put(&mut self, batch: &Batch) {
        let last = self.writers.entry(batch.writer.clone()).or_default();
        if *last < batch.sequence {
            *last = batch.sequence;
            for (subject, counts) in &batch.rows {
                *self.calls.entry(subject.clone()).or_default() += counts.calls;
                let admitted = self.admitted.entry(batch.writer.clone()).or_default();
                *admitted += counts.admitted_units;
            }
        }
    }
}

/// A run.
struct Run {
    seed: u64,
    host: Rc<Host>,
    database: Database,
    is_down: bool,
    processes: u64,
    counted: BTreeMap<Subject, u64>,
    /// Was only in memory when the process was killed.
    at_risk: BTreeMap<Subject, u64>,
    kills: u64,
    /// The writers of what the present process has counted.
    own: BTreeSet<String>,
    delivered: Delivered,
    /// How often totals could have been read.
    certain: u64,
}

impl Run {
    fn new(seed: u64) -> Run {
        let host = Host {
            files: RefCell::default(),
            random: RefCell::new(Key::new(seed).sequence()),
            is_full: Cell::new(false),
            killed_in: Cell::new(None),
            is_killed: Cell::new(false),
        };
        Run {
            seed,
            host: Rc::new(host),
            database: Database::default(),
            is_down: false,
            processes: 0,
            counted: BTreeMap::new(),
            at_risk: BTreeMap::new(),
            kills: 0,
            own: BTreeSet::new(),
            delivered: Delivered::default(),
            certain: 0,
        }
    }

    fn open(&self, number: usize) -> Option<Spool<SimulatedFile>> {
        let disk = SimulatedFile { host: self.host.clone(), number };
        Spool::open(disk, self.writer(number)).ok()
    }

    /// The present process's id for what it sends from a file.
    fn writer(&self, number: usize) -> String {
        format!("file-{number}-{}", self.processes)
    }

    /// A new process, which finds what the last one has left.
    fn start(&mut self) -> Delivery<SimulatedFile> {
        self.host.is_killed.set(false);
        self.host.killed_in.set(None);
        self.processes += 1;
        let count = self.host.files.borrow().len();
        let there = (0..count).filter(|number| self.host.files.borrow()[*number].is_some());
        let numbers: Vec<usize> = there.collect();
        let opened = numbers.iter().filter_map(|number| {
            let spool = self.open(*number);
            // An empty file on a full disk gets its header later.
            let is_full = self.host.is_full.get();
            assert!(spool.is_some() || is_full, "seed {}: a file cannot be opened", self.seed);
            spool.inspect(|spool| assert_eq!(spool.damaged(), 0, "seed {}", self.seed))
        });
        let old = opened.collect();
        let writer = format!("writer-{}", self.processes);
        self.own = BTreeSet::from([writer.clone()]);
        self.delivered = Delivered::default();
        Delivery::new(writer, old, LIMIT)
    }

    fn rows(&mut self) -> Rows {
        let mut rows = Rows::default();
        for _ in 0..=self.host.below(6) {
            let subject = Subject {
                hour: self.host.below(3),
                endpoint: format!("endpoint-{}", self.host.below(6)),
                service: "eth".into(),
                method: "eth_call".into(),
                ..Subject::default()
            };
            let calls = 1 + self.host.below(9);
            *self.counted.entry(subject.clone()).or_default() += calls;
            let counts = Counts { calls, admitted_units: 3 * calls, ..Counts::default() };
            rows.add(subject, &counts);
        }
        rows
    }

    fn add(&mut self, delivery: &mut Delivery<SimulatedFile>, rows: Rows) {
        let sync = self.host.below(2) == 0;
        let number = self.host.files.borrow().len();
        delivery.add(rows, sync, || {
            self.host.files.borrow_mut().push(Some(Vec::new()));
            self.open(number).ok_or_else(|| "cannot be created".into())
        });
        if self.host.files.borrow().len() > number {
            self.own.insert(self.writer(number));
        }
    }

    /// Sends a batch; returns whether the process was killed meanwhile.
    fn send(&mut self, delivery: &mut Delivery<SimulatedFile>) -> bool {
        let Some(batch) = delivery.next() else { return false };
        if self.host.is_killed.get() {
            return true;
        }
        let error = |kind| StoreError { database: "simulated".into(), kind };
        let lost = || error(StoreErrorKind::Uncertain("lost".into()));
        let refused = || error(StoreErrorKind::Unreachable("refused".into()));
        let result = match self.host.below(12) {
            _ if self.is_down => Err(refused()),
            0 => Err(lost()),
            1 => {
                self.database.put(&batch);
                Err(lost())
            }
            2 => Err(refused()),
            3 => return true,
            4 => {
                self.database.put(&batch);
                return true;
            }
            _ => {
                self.database.put(&batch);
                Ok(())
            }
        };
        self.settle(delivery, result.as_ref().copied());
        false
    }

    fn settle(&mut self, delivery: &mut Delivery<SimulatedFile>, result: Result<(), &StoreError>) {
        if let Some(own) = delivery.settled(result) {
            self.delivered.add(&own);
        }
    }

    fn run(mut self) -> u64 {
        let mut delivery = self.start();
        for _ in 0..STEPS {
            let is_killed = match self.host.below(40) {
                0..18 => {
                    let rows = self.rows();
                    self.add(&mut delivery, rows);
                    false
                }
                18..34 => self.send(&mut delivery),
                34 => true,
                35 => {
                    self.host.killed_in.set(Some(self.host.below(6)));
                    false
                }
                36 | 37 => {
                    self.host.is_full.set(self.host.below(2) == 0);
                    false
                }
                _ => {
                    self.is_down = self.host.below(2) == 0;
                    false
                }
            };
            if is_killed || self.host.is_killed.get() {
                for (subject, counts) in delivery.unsaved() {
                    *self.at_risk.entry(subject).or_default() += counts.calls;
                }
                self.kills += 1;
                delivery = self.start();
            }
            self.check_nothing_is_counted_twice();
            self.check_delivered(&delivery);
        }
        self.is_down = false;
        self.host.is_full.set(false);
        self.host.killed_in.set(None);
        self.add(&mut delivery, Rows::default());
        while let Some(batch) = delivery.next() {
            self.database.put(&batch);
            self.settle(&mut delivery, Ok(()));
        }
        self.check_delivered(&delivery);
        assert!(self.certain > 0, "seed {}", self.seed);
        assert!(delivery.is_empty(), "seed {}", self.seed);
        self.check_nothing_is_counted_twice();
        for (subject, calls) in &self.counted {
            let stored = self.database.calls.get(subject).copied().unwrap_or_default();
            let lost = self.at_risk.get(subject).copied().unwrap_or_default();
            assert!(stored + lost >= *calls, "seed {}: {subject:?} lost", self.seed);
        }
        self.kills
    }

    /// What the process takes for delivered is what the database has of it.
    fn check_delivered(&mut self, delivery: &Delivery<SimulatedFile>) {
        if !delivery.is_certain() {
            return;
        }
        self.certain += 1;
        let names: Vec<String> = (0..6).map(|number| format!("endpoint-{number}")).collect();
        let delivered: u64 = names.iter().map(|name| self.delivered.units(name, "", 0).month).sum();
        let stored: u64 =
            self.own.iter().filter_map(|writer| self.database.admitted.get(writer)).sum();
        assert_eq!(delivered, stored, "seed {}", self.seed);
    }

    fn check_nothing_is_counted_twice(&self) {
        for (subject, stored) in &self.database.calls {
            assert!(*stored <= self.counted[subject], "seed {}: {subject:?} twice", self.seed);
        }
    }
}

#[test]
fn nothing_is_counted_twice_and_nothing_saved_is_lost() {
    let seeds = match std::env::var("PLIMSOLL_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    };
    let kills: u64 = seeds.clone().map(|seed| Run::new(seed).run()).sum();
    assert!(kills > seeds.count() as u64, "{kills} kills");
}
