//! Streams: an arrival process with its targets.

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
    /// At random, independent of each other, as from many independent users.
    Poisson,
}

/// When a stream ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After a span, excluding the warm-up.
    After(Nanos),
    /// After a number of requests, excluding the warm-up.
    Requests(u64),
}

/// The load model of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// Open model: a planned rate, regardless of the target.
    Open {
        /// Arrivals per second; endless if the stream ends after a number of requests.
        profile: Profile,
        /// Their spacing.
        arrivals: Arrivals,
    },
    /// Closed model: users who each send their next request after an answer.
    Closed {
        /// Number of users; endless if the stream ends after a number of requests.
        profile: Profile,
        /// How long each user pauses after an answer.
        think_time: Nanos,
    },
}

/// Exchanges that a closed stream keeps open, one for each of its users.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sockets {
    /// How many are opened per second until all are open.
    pub per_second: f64,
    /// How often each WebSocket is pinged; zero: never. A ping that is not answered before the next one is due
    /// ends its socket.
    pub ping: Nanos,
    /// An exchange that receives nothing for longer than this is silent.
    pub silence: Option<Nanos>,
}

/// An arrival process with its targets.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Unique in the plan.
    pub name: String,
    /// Tags added to the stream's targets.
    pub labels: BTreeMap<String, String>,
    /// Labels that an agent of a fleet must have to send the stream; empty if any agent may.
    pub agents: BTreeMap<String, String>,
    /// When the stream begins, from the end of the warm-up.
    pub start: Nanos,
    /// The load model.
    pub load: Load,
    /// Of a stream whose exchanges stay open.
    pub sockets: Option<Sockets>,
    /// When the stream ends.
    pub end: End,
    /// Response header by whose value answers are counted.
    pub split_by: Option<String>,
    /// The resolved stages, for display; empty for a steady load.
    pub stages: Vec<crate::Stage>,
    /// Indices of its targets in the plan.
    pub targets: Range<usize>,
    /// The deck of its targets.
    pub deck: Deck,
    /// Key of all its random choices.
    pub key: Key,
    /// Its place among the plan's streams, and how many there are.
    pub(crate) place: (u64, u64),
    pub(crate) counted: Counted,
}

/// The arrivals of an open stream.
#[derive(Clone, Debug)]
pub struct Schedules {
    /// The warm-up, if the stream begins with the run: at the stream's first rate above zero.
    pub warmup: Option<Arc<Schedule>>,
    /// The run proper.
    pub main: Arc<Schedule>,
}

/// A schedule that is computed on first use; for Poisson arrivals that takes about ten nanoseconds per
/// arrival.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted(OnceLock<Arc<Schedule>>);

impl Stream {
    /// The arrivals of an open stream; `None` for a closed one.
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

    /// The arrivals of the run proper, as if the stream began at zero; computed once.
    fn schedule(&self) -> Option<&Arc<Schedule>> {
        let Load::Open { profile, arrivals } = &self.load else { return None };
        let compute = || {
            let key = self.key.with(domain::SCHEDULE);
            Arc::new(match self.end {
                End::After(_) => Schedule::over(profile.clone(), *arrivals, key, Nanos::ZERO),
                End::Requests(count) => {
                    let rate = profile.value(Nanos::ZERO);
                    Schedule::of_count(rate, count, *arrivals, key, Nanos::ZERO)
                }
            })
        };
        Some(self.counted.0.get_or_init(compute))
    }

    /// The arrivals that replace those of `current` from `at`, at `rate` per second until `current` ends; if
    /// the stream ends after a number of requests, until that many are planned. `change` numbers the
    /// changes, so that each draws different instants. `None` for a closed stream.
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

    /// The values of the placeholders of the arrival with this number in the stream, the warm-up
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

    /// The users of a closed stream; `None` for an open one.
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

    /// When the stream ends, from the start of the run; `None` if not known in advance.
    pub fn planned_end(&self, warmup: Nanos) -> Option<Nanos> {
        match self.end {
            End::After(span) => Some(warmup + self.start + span),
            End::Requests(_) => self.schedule().map(|main| warmup + self.start + main.end()),
        }
    }

    /// Number of requests without the warm-up; `None` if not known in advance.
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
