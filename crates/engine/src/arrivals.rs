//! What is due: the open model's pacers and the closed model's users, behind one face.

use plimsoll_measure::Nanos;
use plimsoll_plan::{Load, Pacer, Plan, Profile, Shards, Stream, Users};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// An arrival that is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    pub(crate) scheduled_at: Nanos,
    pub(crate) seq: u64,
    /// `u32::MAX` in the open model.
    pub(crate) user: u32,
    pub(crate) warm: bool,
}

/// One worker's share of a stream's arrivals.
pub(crate) enum Source {
    Open(Open),
    Closed(Closed),
}

/// The open model: the warm-up's pacer, then the run's.
pub(crate) struct Open {
    warm: Option<Pacer>,
    main: Pacer,
    /// Nothing is sent from here on.
    until: Nanos,
    end: Nanos,
}

/// The closed model: users who send again when they have their answer.
pub(crate) struct Closed {
    users: Users,
    profile: Profile,
    think_time: Nanos,
    start: Nanos,
    warm_until: Nanos,
    /// Nothing is sent from here on.
    until: Nanos,
    warm_started: u64,
    /// Users who pause, by when they are due.
    pausing: BinaryHeap<Reverse<(Nanos, u32)>>,
    /// Users who do not pause, in the order of their answers.
    ready: VecDeque<(Nanos, u32)>,
    /// Users on their way.
    busy: usize,
}

impl Source {
    pub(crate) fn new(plan: &Plan, stream: &Stream, shards: &Shards) -> Source {
        let warmup = plan.warmup;
        match (&stream.load, stream.schedules(warmup)) {
            (Load::Open { .. }, Some((warm, main))) => Source::Open(Open {
                warm: warm.map(|schedule| schedule.pacer(shards, Nanos::ZERO)),
                end: main.end(),
                main: main.pacer(shards, Nanos::ZERO),
                until: Nanos::MAX,
            }),
            (Load::Closed { profile, think_time }, _) => {
                Source::Closed(Closed::new(plan, stream, shards, profile, *think_time))
            }
            (Load::Open { .. }, None) => unreachable!("an open stream has a schedule"),
        }
    }

    /// The next arrival that is due by `now`.
    #[inline]
    pub(crate) fn pop(&mut self, now: Nanos) -> Option<Due> {
        match self {
            Source::Open(open) => open.pop(now),
            Source::Closed(closed) => closed.pop(now),
        }
    }

    /// When the next arrival is due; `None` when none is, or none before an answer comes.
    pub(crate) fn next_at(&self) -> Option<Nanos> {
        match self {
            Source::Open(open) => open.next_at(),
            Source::Closed(closed) => closed.next_at(),
        }
    }

    /// A user has an answer, or was given up.
    #[inline]
    pub(crate) fn answered(&mut self, user: u32, now: Nanos) {
        if let Source::Closed(closed) = self {
            closed.answered(user, now);
        }
    }

    /// How many arrivals can be taken up without waiting for time or answers: bounds one go, so
    /// that users who fail at once cannot keep the worker from reading.
    #[inline]
    pub(crate) fn ready_len(&self) -> usize {
        match self {
            Source::Open(_) => 0,
            Source::Closed(closed) => closed.ready.len(),
        }
    }

    /// Sends nothing from `at` on.
    pub(crate) fn stop(&mut self, at: Nanos) {
        match self {
            Source::Open(open) => open.until = open.until.min(at),
            Source::Closed(closed) => {
                closed.until = closed.until.min(at);
                closed.pausing.clear();
                closed.ready.clear();
            }
        }
    }

    /// Whether no arrival will ever come again.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Source::Open(open) => open.next_at().is_none(),
            Source::Closed(closed) => closed.busy == 0 && closed.next_at().is_none(),
        }
    }

    /// The planned end; for users with a number of requests it is not known.
    pub(crate) fn planned_end(&self) -> Option<Nanos> {
        match self {
            Source::Open(open) => Some(open.end.min(open.until)),
            Source::Closed(closed) => (closed.until != Nanos::MAX).then_some(closed.until),
        }
    }
}

impl Open {
    #[inline]
    fn pop(&mut self, now: Nanos) -> Option<Due> {
        let due = now.min(Nanos(self.until.0.saturating_sub(1)));
        let (pacer, warm) = match &mut self.warm {
            Some(pacer) if pacer.peek().is_some() => (pacer, true),
            _ => (&mut self.main, false),
        };
        let arrival = pacer.peek().filter(|arrival| arrival.at <= due)?;
        pacer.advance();
        Some(Due { scheduled_at: arrival.at, seq: arrival.seq, user: u32::MAX, warm })
    }

    fn next_at(&self) -> Option<Nanos> {
        let warm = self.warm.as_ref().and_then(Pacer::peek);
        let arrival = warm.or_else(|| self.main.peek())?;
        (arrival.at < self.until).then_some(arrival.at)
    }
}

impl Closed {
    fn new(
        plan: &Plan,
        stream: &Stream,
        shards: &Shards,
        profile: &Profile,
        think_time: Nanos,
    ) -> Closed {
        let warms_up = stream.start == Nanos::ZERO;
        let start = if warms_up { Nanos::ZERO } else { plan.warmup + stream.start };
        let users = stream.users().expect("a closed stream has users");
        let mut closed = Closed {
            profile: profile.clone(),
            think_time,
            start: plan.warmup + stream.start,
            warm_until: plan.warmup,
            until: stream.planned_end(plan.warmup).unwrap_or(Nanos::MAX),
            warm_started: 0,
            pausing: BinaryHeap::new(),
            ready: VecDeque::new(),
            busy: 0,
            users,
        };
        for user in closed.users.of(shards) {
            closed.schedule(user as u32, start);
        }
        closed
    }

    /// Lets a user start at `at`, or as soon as the stages have it.
    fn schedule(&mut self, user: u32, at: Nanos) {
        let begins = self.profile.next_at_least(f64::from(user) + 1.0, at - self.start);
        let Some(begins) = begins else { return };
        let at = if begins > at - self.start { self.start + begins } else { at };
        if at >= self.until {
            return;
        }
        if self.think_time == Nanos::ZERO && self.ready.back().is_none_or(|(last, _)| *last <= at) {
            self.ready.push_back((at, user));
        } else {
            self.pausing.push(Reverse((at, user)));
        }
    }

    #[inline]
    fn pop(&mut self, now: Nanos) -> Option<Due> {
        loop {
            let ready = self.ready.front().copied();
            let pausing = self.pausing.peek().map(|Reverse(due)| *due);
            let (at, user) = match (ready, pausing) {
                (Some(a), Some(b)) => a.min(b),
                (a, b) => a.or(b)?,
            };
            if at > now {
                return None;
            }
            if ready == Some((at, user)) {
                self.ready.pop_front();
            } else {
                self.pausing.pop();
            }
            let warm = at < self.warm_until;
            let seq = if warm {
                self.warm_started += 1;
                Some(self.warm_started << 20 | u64::from(user))
            } else {
                self.users.start(u64::from(user))
            };
            if let Some(seq) = seq {
                self.busy += 1;
                return Some(Due { scheduled_at: at, seq, user, warm });
            }
        }
    }

    fn next_at(&self) -> Option<Nanos> {
        let ready = self.ready.front().map(|(at, _)| *at);
        let pausing = self.pausing.peek().map(|Reverse((at, _))| *at);
        match (ready, pausing) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    #[inline]
    fn answered(&mut self, user: u32, now: Nanos) {
        self.busy -= 1;
        self.schedule(user, now + self.think_time);
    }
}
