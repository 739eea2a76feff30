//! When arrivals are due, as pure functions of (seed, stream, shard): any share of the work can be done
//! on any worker or host, from any instant, and all shares add up to the plan.
//!
//! # The open model
//! Each stream is divided into [`SHARDS`] virtual shards. The schedule is laid out on the axis of
//! the rate's integral (operational time), which is cut into cells of `SHARDS` arrivals:
//! - constant: arrival `k` is due where the integral is `k`, and belongs to shard `k mod SHARDS`;
//! - Poisson: every shard has its own unit-rate process; a cell holds a Poisson(1) number of each
//!   shard's points, placed uniformly. Their superposition is a Poisson process at the plan's rate,
//!   and, through the integral's inverse, at a rate that changes over time
//!   (Lewis and Shedler 1979; Kingman 1993, "Poisson Processes", §2.1 and §2.3).
//!
//! Arrivals are numbered by cell, then shard: `seq` runs through `0..count` without a gap whatever
//! the split, and decides target and placeholders. A [`Pacer`] walks the cells of the shards it
//! owns; to hand a shard over, one pacer drops it at an instant and another continues from
//! there.
//!
//! # The closed model
//! [`Users`]: user `u` belongs to shard `u mod min(users, SHARDS)`. A shard counts its requests in
//! the order they start, and the shards' numbers interleave: request `n` of shard `s` has the number
//! `n × shards + s`. If the stream ends after a number of requests, each shard has its part of them,
//! so the set of requests does not depend on the split.

use crate::Profile;
use crate::stream::Arrivals;
use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Key;
use std::sync::Arc;

/// Virtual shards of a stream: the most workers that can share it.
pub const SHARDS: u64 = 1024;

/// A set of shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards(Vec<u16>);

impl Shards {
    /// The shards of part `part` of `parts`, assigned round-robin.
    ///
    /// # Panics
    /// If there are more parts than shards, or no such part.
    pub fn part(part: usize, parts: usize) -> Shards {
        Shards::all().share(part, parts)
    }

    /// Every shard.
    pub fn all() -> Shards {
        Shards((0..SHARDS as u16).collect())
    }

    /// Part `part` of `parts` of these shards, assigned round-robin. All splits of a schedule use this
    /// function.
    ///
    /// # Panics
    /// If there is no such part, or there are more parts than [`SHARDS`].
    pub fn share(&self, part: usize, parts: usize) -> Shards {
        assert!(part < parts && parts <= SHARDS as usize, "part {part} of {parts}");
        Shards(self.0.iter().copied().skip(part).step_by(parts).collect())
    }

    /// The difference of the sets.
    pub fn without(&self, others: &Shards) -> Shards {
        let kept = self.0.iter().filter(|shard| others.0.binary_search(shard).is_err());
        Shards(kept.copied().collect())
    }

    /// The union of the sets.
    pub fn with(&self, others: &Shards) -> Shards {
        Shards::of(self.0.iter().chain(&others.0).copied())
    }

    /// The number of shards.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A set of the given shards.
    pub fn of(shards: impl IntoIterator<Item = u16>) -> Shards {
        let mut shards: Vec<u16> =
            shards.into_iter().filter(|shard| u64::from(*shard) < SHARDS).collect();
        shards.sort_unstable();
        shards.dedup();
        Shards(shards)
    }

    /// The shards in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(|shard| u64::from(*shard))
    }
}

/// One planned request of an open stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When the arrival is due, from the start of the run.
    pub at: Nanos,
    /// The arrival's number in the stream.
    pub seq: u64,
}

/// The arrivals of an open stream.
#[derive(Clone, Debug)]
pub struct Schedule {
    profile: Profile,
    arrivals: Arrivals,
    key: Key,
    /// When the profile begins in the run.
    start: Nanos,
    /// The number of its first arrival.
    first_seq: u64,
    /// Arrivals at or after this integral are not planned.
    cut: f64,
    count: u64,
}

impl Schedule {
    /// All arrivals of a profile that begins at `start`.
    ///
    /// # Panics
    /// If the profile is endless.
    pub fn over(profile: Profile, arrivals: Arrivals, key: Key, start: Nanos) -> Schedule {
        // Absorbs rounding: 100 per minute for a minute gives 100 arrivals, not 101.
        let cut = profile.total() - 1e-6;
        assert!(cut.is_finite(), "an endless profile needs a number of requests");
        let mut schedule = Schedule { profile, arrivals, key, start, first_seq: 0, cut, count: 0 };
        schedule.count = schedule.numbered_before_cell(u64::MAX);
        schedule
    }

    /// `count` arrivals at a steady rate. For Poisson arrivals this walks all cells, which takes about ten
    /// nanoseconds per arrival.
    pub fn of_count(rate: f64, count: u64, arrivals: Arrivals, key: Key, start: Nanos) -> Schedule {
        let profile = Profile::endless(rate);
        let (cut, first_seq) = (f64::INFINITY, 0);
        let mut schedule = Schedule { profile, arrivals, key, start, first_seq, cut, count };
        schedule.cut = match arrivals {
            Arrivals::Constant => count as f64 - 0.5,
            Arrivals::Poisson => schedule.poisson_cut(count),
        };
        schedule
    }

    /// The same arrivals with the profile beginning at another instant.
    pub fn starting_at(&self, start: Nanos) -> Schedule {
        Schedule { start, ..self.clone() }
    }

    /// The same arrivals, numbered from `first_seq`.
    pub fn numbered_from(&self, first_seq: u64) -> Schedule {
        Schedule { first_seq, ..self.clone() }
    }

    /// The number after that of the last arrival due before `at`, over all shards; for Poisson arrivals,
    /// rounded up to a whole cell.
    pub fn seq_after(&self, at: Nanos) -> u64 {
        let sum = if at <= self.start { 0.0 } else { self.profile.integral(at - self.start) };
        let numbered = match self.arrivals {
            Arrivals::Constant => (sum.ceil() as u64).min(self.count),
            Arrivals::Poisson if sum <= 0.0 => 0,
            Arrivals::Poisson => self.numbered_before_cell((sum / SHARDS as f64) as u64 + 1),
        };
        self.first_seq + numbered
    }

    /// The number of arrivals.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// When the profile begins in the run.
    pub fn start(&self) -> Nanos {
        self.start
    }

    /// When arrivals end: at the profile's end, or after the given number of requests.
    pub fn end(&self) -> Nanos {
        match (self.profile.end(), self.arrivals) {
            (Nanos::MAX, Arrivals::Constant) => self.instant(self.count as f64, &mut 0),
            (Nanos::MAX, Arrivals::Poisson) => self.instant(self.cut, &mut 0),
            (end, _) => self.start + end,
        }
    }

    /// Planned arrivals per second at an instant of the run.
    pub fn rate(&self, at: Nanos) -> f64 {
        if at < self.start || at >= self.end() { 0.0 } else { self.profile.value(at - self.start) }
    }

    /// A pacer over the arrivals of some shards that are due at `from` or later.
    pub fn pacer(self: &Arc<Schedule>, shards: &Shards, from: Nanos) -> Pacer {
        let mut pacer = Pacer {
            schedule: self.clone(),
            shards: shards.clone(),
            cell: 0,
            numbered: 0,
            buffer: Vec::new(),
            next: 0,
            hint: 0,
        };
        let sum = if from <= self.start { 0.0 } else { self.profile.integral(from - self.start) };
        // One cell early, so that rounding at a cell's edge cannot lose an arrival.
        pacer.cell = (sum / SHARDS as f64).max(1.0) as u64 - 1;
        pacer.numbered = self.numbered_before_cell(pacer.cell);
        pacer.fill();
        while pacer.peek().is_some_and(|arrival| arrival.at < from) {
            pacer.advance();
        }
        pacer
    }

    fn instant(&self, sum: f64, hint: &mut usize) -> Nanos {
        self.start + self.profile.instant(sum, hint)
    }

    /// The number of arrivals in all cells before this one.
    fn numbered_before_cell(&self, cell: u64) -> u64 {
        let cells = (self.cut.max(0.0) / SHARDS as f64).ceil() as u64;
        let cell = cell.min(cells);
        match self.arrivals {
            Arrivals::Constant => (cell * SHARDS).min(self.cut.max(0.0).ceil() as u64),
            Arrivals::Poisson => (0..cell).map(|cell| self.points_in(cell)).sum(),
        }
    }

    /// The number of Poisson points of all shards in a cell, up to the cut.
    fn points_in(&self, cell: u64) -> u64 {
        let whole = ((cell + 1) * SHARDS) as f64 <= self.cut;
        let count = |shard| {
            let points = Points::of(self.key, cell, shard);
            if whole { points.count } else { points.filter(|sum| *sum < self.cut).count() as u64 }
        };
        (0..SHARDS).map(count).sum()
    }

    /// The integral just after point number `count`.
    fn poisson_cut(&self, count: u64) -> f64 {
        let (mut cell, mut before) = (0, 0);
        loop {
            let points = self.points_in(cell);
            if before + points >= count {
                break;
            }
            before += points;
            cell += 1;
        }
        let mut points: Vec<f64> =
            (0..SHARDS).flat_map(|shard| Points::of(self.key, cell, shard)).collect();
        points.sort_unstable_by(f64::total_cmp);
        let last = points[..(count - before) as usize].last().copied();
        last.map_or((cell * SHARDS) as f64, f64::next_up)
    }
}

/// The points of one shard in one cell, as positions on the integral's axis, unsorted.
struct Points {
    sequence: plimsoll_measure::rng::Sequence,
    base: f64,
    count: u64,
}

impl Points {
    /// More than this in a cell have a probability below 1e-24.
    const COUNT_MAX: u64 = 24;

    fn of(key: Key, cell: u64, shard: u64) -> Points {
        let mut sequence = key.with(cell * SHARDS + shard).sequence();
        // Poisson(1) by inversion.
        let uniform = sequence.unit();
        let (mut count, mut term) = (0u64, (-1f64).exp());
        let mut sum = term;
        while uniform >= sum && count < Self::COUNT_MAX {
            count += 1;
            term /= count as f64;
            sum += term;
        }
        Points { sequence, base: (cell * SHARDS) as f64, count }
    }
}

impl Iterator for Points {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        self.count = self.count.checked_sub(1)?;
        Some(self.base + self.sequence.unit() * SHARDS as f64)
    }
}

/// Walks the arrivals of some shards in the order they are due.
#[derive(Clone, Debug)]
pub struct Pacer {
    schedule: Arc<Schedule>,
    shards: Shards,
    /// The next cell to lay out.
    cell: u64,
    /// The number of arrivals before that cell.
    numbered: u64,
    /// Arrivals of the current cell, sorted by instant.
    buffer: Vec<Arrival>,
    next: usize,
    hint: usize,
}

impl Pacer {
    /// The next arrival.
    #[inline]
    pub fn peek(&self) -> Option<Arrival> {
        let arrival = self.buffer.get(self.next)?;
        Some(Arrival { at: arrival.at, seq: self.schedule.first_seq + arrival.seq })
    }

    /// Moves to the next arrival.
    #[inline]
    pub fn advance(&mut self) {
        self.next += 1;
        if self.next >= self.buffer.len() {
            self.fill();
        }
    }

    /// Lays out cells until one contains an arrival of this pacer's shards, or the schedule ends.
    fn fill(&mut self) {
        self.buffer.clear();
        self.next = 0;
        while self.buffer.is_empty() && ((self.cell * SHARDS) as f64) < self.schedule.cut {
            match self.schedule.arrivals {
                Arrivals::Constant => self.fill_constant(),
                Arrivals::Poisson => self.fill_poisson(),
            }
            self.cell += 1;
        }
    }

    fn fill_constant(&mut self) {
        for shard in self.shards.iter() {
            let seq = self.cell * SHARDS + shard;
            if seq as f64 >= self.schedule.cut {
                break;
            }
            let at = self.schedule.instant(seq as f64, &mut self.hint);
            self.buffer.push(Arrival { at, seq });
        }
    }

    fn fill_poisson(&mut self) {
        let mut own = self.shards.iter().peekable();
        // Points of a cell are unsorted, so each search begins at the line of the cell's start.
        self.schedule.instant((self.cell * SHARDS) as f64, &mut self.hint);
        for shard in 0..SHARDS {
            let points = Points::of(self.schedule.key, self.cell, shard);
            let inside = points.filter(|sum| *sum < self.schedule.cut);
            if own.next_if_eq(&shard).is_some() {
                for sum in inside {
                    let at = self.schedule.instant(sum, &mut self.hint.clone());
                    self.buffer.push(Arrival { at, seq: self.numbered });
                    self.numbered += 1;
                }
            } else if ((self.cell + 1) * SHARDS) as f64 <= self.schedule.cut {
                self.numbered += Points::of(self.schedule.key, self.cell, shard).count;
            } else {
                self.numbered += inside.count() as u64;
            }
        }
        self.buffer.sort_unstable_by_key(|arrival| (arrival.at, arrival.seq));
    }
}

/// The users of a closed stream, with the requests started by one share of the work.
#[derive(Clone, Debug)]
pub struct Users {
    /// The number of shards that have users.
    shards: u64,
    users: u64,
    requests: Option<u64>,
    /// By shard, requests started in the run proper.
    started: Vec<u64>,
    /// By shard, requests started in the warm-up.
    warmed_up: Vec<u64>,
}

/// The numbers of a user's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its number in the run proper, from 0.
    pub seq: u64,
    /// Its number in the stream, the warm-up included: no other request of the stream has it.
    pub number: u64,
}

impl Users {
    /// `users` users, who stop after `requests` requests in total, if given.
    pub fn new(users: u64, requests: Option<u64>) -> Users {
        let shards = users.clamp(1, SHARDS);
        let none = vec![0; shards as usize];
        Users { shards, users, requests, started: none.clone(), warmed_up: none }
    }

    /// The users of some shards.
    pub fn of(&self, shards: &Shards) -> Vec<u64> {
        let own: Vec<bool> =
            (0..self.shards).map(|shard| shards.0.binary_search(&(shard as u16)).is_ok()).collect();
        (0..self.users).filter(|user| own[(user % self.shards) as usize]).collect()
    }

    /// Whether a user belongs to some shards.
    pub fn belongs_to(&self, user: u64, shards: &Shards) -> bool {
        shards.0.binary_search(&((user % self.shards) as u16)).is_ok()
    }

    /// Sets the number of the next request of each of these shards to `first`, so that a shard that was taken
    /// over does not repeat the numbers of its former owner.
    pub fn number_from(&mut self, shards: &Shards, first: u64) {
        for shard in shards.iter().filter(|shard| *shard < self.shards) {
            self.started[shard as usize] = first;
        }
    }

    /// The number in the stream of the user's next request in the warm-up.
    pub fn start_warm(&mut self, user: u64) -> u64 {
        let shard = user % self.shards;
        let warmed_up = &mut self.warmed_up[shard as usize];
        *warmed_up += 1;
        (*warmed_up - 1) * self.shards + shard
    }

    /// The numbers of the user's next request in the run proper; `None` if the shard has started
    /// its part of them.
    pub fn start(&mut self, user: u64) -> Option<Ticket> {
        let shard = user % self.shards;
        let started = &mut self.started[shard as usize];
        let seq = *started * self.shards + shard;
        if self.requests.is_some_and(|requests| seq >= requests) {
            return None;
        }
        *started += 1;
        let number = seq + self.warmed_up[shard as usize] * self.shards;
        Some(Ticket { seq, number })
    }
}

#[cfg(test)]
mod tests;
