//! One arrival process with its targets.

use crate::{Deck, Profile, Schedule, Users, Values, domain};
use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Key;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// How arrivals of the open model are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly.
    Constant,
    /// At random, independent of each other: what many independent users make together.
    Poisson,
}

/// When a stream ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After a span, the warm-up not counted.
    After(Nanos),
    /// After a number of requests, the warm-up's not counted.
    Requests(u64),
}

/// What makes a stream's requests start.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// A planned rate, whatever the target does.
    Open {
        /// Arrivals per second; endless when a number of requests ends it.
        profile: Profile,
        /// Their spacing.
        arrivals: Arrivals,
    },
    /// Users who each send again when they have their answer.
    Closed {
        /// How many; endless when a number of requests ends it.
        profile: Profile,
        /// How long each waits after an answer.
        think_time: Nanos,
    },
}

/// One arrival process with its targets.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Unique in the plan.
    pub name: String,
    /// Given to the stream's targets as tags.
    pub labels: BTreeMap<String, String>,
    /// When it begins, from the end of the warm-up.
    pub start: Nanos,
    /// What makes its requests start.
    pub load: Load,
    /// When it ends.
    pub end: End,
    /// The resolved stages, for showing; empty for a steady load.
    pub stages: Vec<crate::Stage>,
    /// Its targets' places in the plan.
    pub targets: Range<usize>,
    /// Their deck.
    pub deck: Deck,
    /// What all its random choices derive from.
    pub key: Key,
    /// Its place among the plan's streams, and how many there are.
    pub(crate) place: (u64, u64),
    pub(crate) counted: Counted,
}

/// The arrivals of an open stream.
#[derive(Clone, Debug)]
pub struct Schedules {
    /// Its part in the warm-up: a stream that begins with the run warms up at its first rate above
    /// zero.
    pub warmup: Option<Arc<Schedule>>,
    /// The run proper.
    pub main: Arc<Schedule>,
}

/// A schedule that is counted through when it is first asked for; for Poisson arrivals that takes
/// about ten nanoseconds an arrival.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted(OnceLock<Arc<Schedule>>);

impl Stream {
    /// The arrivals of an open stream. `None` for a closed one.
    pub fn schedules(&self, warmup: Nanos) -> Option<Schedules> {
        let Load::Open { profile, arrivals } = &self.load else { return None };
        let main = Arc::new(self.schedule()?.starting_at(warmup + self.start));
        let warms_up = self.start == Nanos::ZERO && warmup > Nanos::ZERO;
        let warmup = warms_up.then(|| {
            let first = profile.value(Nanos::ZERO);
            let rate = if first > 0.0 { first } else { self.first_stage_value() };
            let profile = Profile::constant(rate, warmup);
            let key = self.key.with(domain::WARMUP);
            Arc::new(Schedule::over(profile, *arrivals, key, Nanos::ZERO))
        });
        Some(Schedules { warmup, main })
    }

    /// The arrivals of the run proper, as if the stream began at zero; counted through once.
    fn schedule(&self) -> Option<&Arc<Schedule>> {
        let Load::Open { profile, arrivals } = &self.load else { return None };
        let count_through = || {
            let key = self.key.with(domain::SCHEDULE);
            Arc::new(match self.end {
                End::After(_) => Schedule::over(profile.clone(), *arrivals, key, Nanos::ZERO),
                End::Requests(count) => {
                    let rate = profile.value(Nanos::ZERO);
                    Schedule::of_count(rate, count, *arrivals, key, Nanos::ZERO)
                }
            })
        };
        Some(self.counted.0.get_or_init(count_through))
    }

    /// The arrivals that replace those of `current` from `at` on, at a rate of `rate` per second
    /// until `current` ends; for a number of requests, until as many have been planned. `change`
    /// counts the changes, so that each draws instants of its own. `None` for a closed stream.
    pub fn changed_rate(
        &self,
        current: &Schedule,
        rate: f64,
        at: Nanos,
        change: u64,
    ) -> Option<Schedule> {
        let Load::Open { arrivals, .. } = &self.load else { return None };
        let key = self.key.with(domain::CHANGED_RATE).with(change);
        let first_seq = current.seq_after(at);
        let schedule = match self.end {
            End::After(_) => {
                let left = Profile::constant(rate, current.end() - at);
                Schedule::over(left, *arrivals, key, at)
            }
            End::Requests(count) => {
                let left = count.saturating_sub(first_seq);
                Schedule::of_count(rate, left, *arrivals, key, at)
            }
        };
        Some(schedule.numbered_from(first_seq))
    }

    /// What fills the placeholders of the arrival with this number in the stream, the warm-up
    /// included. Streams take turns in `{{seq}}`, so that no two requests of a run have the same.
    #[inline]
    pub fn values(&self, number: u64) -> Values {
        let (place, streams) = self.place;
        Values { seq: number * streams + place, key: self.key.with(domain::VALUES).with(number) }
    }

    /// Derives all random choices from another seed.
    pub(crate) fn reseed(&mut self, seed: u64) {
        self.key = Key::new(seed).with(self.place.0);
        self.deck = self.deck.with_key(self.key.with(domain::DECK));
        self.counted = Counted::default();
    }

    /// The users of a closed stream. `None` for an open one.
    pub fn users(&self) -> Option<Users> {
        let Load::Closed { profile, .. } = &self.load else { return None };
        let requests = match self.end {
            End::Requests(count) => Some(count),
            End::After(_) => None,
        };
        Some(Users::new(profile.max().ceil() as u64, requests))
    }

    fn first_stage_value(&self) -> f64 {
        self.stages.iter().map(|stage| stage.value).find(|value| *value > 0.0).unwrap_or(0.0)
    }

    /// When it ends in the run, when that is known beforehand.
    pub fn planned_end(&self, warmup: Nanos) -> Option<Nanos> {
        match self.end {
            End::After(span) => Some(warmup + self.start + span),
            End::Requests(_) => self.schedule().map(|main| warmup + self.start + main.end()),
        }
    }

    /// How many requests it makes, when that is known beforehand; the warm-up not counted.
    pub fn planned_requests(&self) -> Option<u64> {
        match self.end {
            End::Requests(count) => Some(count),
            End::After(_) => self.schedule().map(|schedule| schedule.count()),
        }
    }

    /// Planned arrivals per second, or users, at an instant of the run.
    pub fn planned_value(&self, at: Nanos, warmup: Nanos) -> f64 {
        let (Load::Open { profile, .. } | Load::Closed { profile, .. }) = &self.load;
        let start = warmup + self.start;
        if at < start { 0.0 } else { profile.value(at - start) }
    }
}
