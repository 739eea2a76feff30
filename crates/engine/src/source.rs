//! Due arrivals: the open model's pacers and the closed model's users behind one interface.

use plimsoll_measure::Nanos;
use plimsoll_plan::{End, Load, Pacer, Plan, Profile, Schedules, Shards, Stream, Users};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// An arrival that is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    pub(crate) scheduled_at: Nanos,
    /// Its number in the stream, the warm-up included.
    pub(crate) number: u64,
    /// The card that it is dealt from its stream's decks.
    pub(crate) card: u64,
    /// The closed model's user.
    pub(crate) user: Option<u32>,
    pub(crate) warm: bool,
}

/// One worker's share of a stream's arrivals.
pub(crate) enum Source {
    Open(OpenModel),
    Closed(ClosedModel),
}

/// The open model: a sequence of pacers (for the warm-up, the run, and each rate change).
pub(crate) struct OpenModel {
    /// If not empty, the first segment has an arrival to come.
    segments: VecDeque<Segment>,
    /// The number in the stream of the run's first arrival; the warm-up has those below.
    first_number: u64,
    start: Nanos,
    /// Nothing is sent from this instant.
    until: Nanos,
    end: Nanos,
    /// Whether the schedule was changed during the run, or may be.
    changed: bool,
}

/// A pacer, and the instant from which its arrivals are ignored.
struct Segment {
    pacer: Pacer,
    until: Nanos,
    warm: bool,
}

/// The closed model: users who send again after each answer.
pub(crate) struct ClosedModel {
    users: Users,
    profile: Profile,
    think_time: Nanos,
    start: Nanos,
    warm_until: Nanos,
    /// Nothing is sent from this instant.
    until: Nanos,
    /// The next card, if this worker deals decks of its own: a number of requests that is not
    /// known beforehand cannot be dealt from shared ones.
    next_card: u64,
    deals_shared: bool,
    /// Users who are waiting to start, by due time.
    pausing: BinaryHeap<Reverse<(Nanos, u32)>>,
    /// Users without think time, in the order of their answers.
    ready: VecDeque<(Nanos, u32)>,
    /// Number of users with a request in flight.
    busy: usize,
    /// When the last request ended.
    last_end: Nanos,
    /// Whether the stream lasts until `until` even without users.
    stays: bool,
    /// An instant from which only users of these shards start requests.
    handed_over: Option<(Nanos, Shards)>,
}

impl Source {
    /// The part of a stream that belongs to `shards`; `schedules` are given for open streams.
    pub(crate) fn new(
        plan: &Plan,
        stream: &Stream,
        schedules: Option<&Schedules>,
        shards: &Shards,
    ) -> Source {
        match (&stream.load, schedules) {
            (Load::Open { .. }, Some(schedules)) => {
                let mut segments = VecDeque::new();
                if let Some(warmup) = &schedules.warmup {
                    let pacer = warmup.pacer(shards, Nanos::ZERO);
                    segments.push_back(Segment { pacer, until: Nanos::MAX, warm: true });
                }
                let pacer = schedules.main.pacer(shards, Nanos::ZERO);
                segments.push_back(Segment { pacer, until: Nanos::MAX, warm: false });
                let (start, end) = (schedules.main.start(), schedules.main.end());
                let first_number = schedules.warmup.as_ref().map_or(0, |warmup| warmup.count());
                let mut open = OpenModel {
                    segments,
                    first_number,
                    start,
                    until: Nanos::MAX,
                    end,
                    changed: false,
                };
                open.drop_finished();
                Source::Open(open)
            }
            (Load::Closed { profile, think_time }, _) => {
                Source::Closed(ClosedModel::new(plan, stream, shards, profile, *think_time))
            }
            (Load::Open { .. }, None) => unreachable!("an open stream has a schedule"),
        }
    }

    /// Takes the next arrival that is due by `now`.
    #[inline]
    pub(crate) fn pop(&mut self, now: Nanos) -> Option<Due> {
        match self {
            Source::Open(open) => open.pop(now),
            Source::Closed(closed) => closed.pop(now),
        }
    }

    /// When the next arrival is due; `None` if there is none, or none until an answer comes.
    #[inline]
    pub(crate) fn next_at(&self) -> Option<Nanos> {
        match self {
            Source::Open(open) => open.next_at(),
            Source::Closed(closed) => closed.next_at(),
        }
    }

    /// Records that a user's arrival has ended; the next one is due after the think time and this pause.
    #[inline]
    pub(crate) fn ended(&mut self, user: u32, now: Nanos, pause: Nanos) {
        if let Source::Closed(closed) = self {
            closed.ended(user, now, pause);
        }
    }

    /// Whether an arrival is due.
    #[inline]
    pub(crate) fn is_due(&self, now: Nanos) -> bool {
        self.next_at().is_some_and(|at| at <= now)
    }

    /// Number of users queued to send without think time. It bounds one iteration, so that users
    /// whose requests fail at once cannot keep the worker from reading.
    #[inline]
    pub(crate) fn ready_len(&self) -> usize {
        match self {
            Source::Open(_) => 0,
            Source::Closed(closed) => closed.ready.len(),
        }
    }

    /// Keeps the stream open until its planned end, because this process may take over shards of it.
    pub(crate) fn stay(&mut self) {
        match self {
            Source::Open(open) => open.changed = true,
            // A stream that ends after a number of requests has no such end, and cannot be handed over.
            Source::Closed(closed) => closed.stays = closed.until < Nanos::MAX,
        }
    }

    /// Stops sending at `at`.
    pub(crate) fn stop(&mut self, at: Nanos) {
        match self {
            Source::Open(open) => {
                open.until = open.until.min(at);
                open.drop_finished();
            }
            Source::Closed(closed) => {
                closed.until = closed.until.min(at);
                closed.pausing.clear();
                closed.ready.clear();
            }
        }
    }

    /// From `at` on, `pacer` generates the arrivals, up to `end`.
    pub(crate) fn pace(&mut self, at: Nanos, pacer: Pacer, end: Nanos) {
        if let Source::Open(open) = self {
            for segment in open.segments.iter_mut().filter(|segment| !segment.warm) {
                segment.until = segment.until.min(at);
            }
            open.segments.push_back(Segment { pacer, until: Nanos::MAX, warm: false });
            (open.end, open.changed) = (end, true);
            open.drop_finished();
        }
    }

    /// From `at` on, only users of `shards` start requests; those of `added` start at `at`.
    pub(crate) fn hand_over(&mut self, at: Nanos, shards: &Shards, added: &Shards, first: u64) {
        if let Source::Closed(closed) = self {
            closed.handed_over = Some((at, shards.clone()));
            closed.users.number_from(added, first);
            for user in closed.users.of(added) {
                closed.schedule(user as u32, at);
            }
        }
    }

    /// Whether there will be no more arrivals. A stream that was changed is not over before its
    /// end, because it may be changed again.
    pub(crate) fn is_over(&self, now: Nanos) -> bool {
        match self {
            Source::Open(open) => {
                let may_change = open.changed && now < open.end.min(open.until);
                open.next_at().is_none() && !may_change
            }
            Source::Closed(closed) => {
                let may_change = closed.stays && now < closed.until;
                closed.busy == 0 && closed.next_at().is_none() && !may_change
            }
        }
    }

    /// The planned end; unknown for users with a fixed number of requests.
    pub(crate) fn planned_end(&self) -> Option<Nanos> {
        match self {
            Source::Open(open) => Some(open.end.min(open.until)),
            Source::Closed(closed) => (closed.until != Nanos::MAX).then_some(closed.until),
        }
    }

    /// When the stream starts, excluding the warm-up, and until when it has been sending at `now`.
    /// A stream with nothing left to send has been sending until its planned end.
    pub(crate) fn sending(&self, now: Nanos) -> (Nanos, Nanos) {
        let end = match self {
            Source::Open(open) => open.end.min(open.until),
            Source::Closed(closed) if closed.until == Nanos::MAX => closed.last_end,
            Source::Closed(closed) => closed.until,
        };
        let start = match self {
            Source::Open(open) => open.start,
            Source::Closed(closed) => closed.start,
        };
        (
            start,
            if self.is_over(now) || end < now && self.planned_end().is_some() { end } else { now },
        )
    }
}

impl OpenModel {
    #[inline]
    fn pop(&mut self, now: Nanos) -> Option<Due> {
        let segment = self.segments.front_mut()?;
        let arrival = segment.pacer.peek().filter(|arrival| arrival.at <= now)?;
        let warm = segment.warm;
        segment.pacer.advance();
        self.drop_finished();
        let number = if warm { arrival.seq } else { self.first_number + arrival.seq };
        Some(Due { scheduled_at: arrival.at, number, card: arrival.seq, user: None, warm })
    }

    #[inline]
    fn next_at(&self) -> Option<Nanos> {
        self.segments.front().and_then(|segment| segment.pacer.peek()).map(|arrival| arrival.at)
    }

    /// Drops segments at the front with no arrivals left.
    #[inline]
    fn drop_finished(&mut self) {
        while let Some(segment) = self.segments.front() {
            let until = segment.until.min(self.until);
            if segment.pacer.peek().is_some_and(|arrival| arrival.at < until) {
                break;
            }
            self.segments.pop_front();
        }
    }
}

impl ClosedModel {
    fn new(
        plan: &Plan,
        stream: &Stream,
        shards: &Shards,
        profile: &Profile,
        think_time: Nanos,
    ) -> ClosedModel {
        // What stays open is opened once.
        let warms_up = stream.start == Nanos::ZERO && stream.sockets.is_none();
        let start = if warms_up { Nanos::ZERO } else { plan.warmup + stream.start };
        let users = stream.users().expect("a closed stream has users");
        let mut closed = ClosedModel {
            profile: profile.clone(),
            think_time,
            start: plan.warmup + stream.start,
            warm_until: plan.warmup,
            until: stream.planned_end(plan.warmup).unwrap_or(Nanos::MAX),
            next_card: stream.deck.part(shards.iter().next().unwrap_or(0)),
            deals_shared: matches!(stream.end, End::Requests(_)),
            pausing: BinaryHeap::new(),
            ready: VecDeque::new(),
            busy: 0,
            last_end: Nanos::ZERO,
            stays: false,
            handed_over: None,
            users,
        };
        for user in closed.users.of(shards) {
            closed.schedule(user as u32, start);
        }
        closed
    }

    /// Schedules a user's next request at `at`, or when the profile next includes the user.
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

    /// Whether another owner starts this user's request at `at`.
    fn is_given_away(&self, user: u32, at: Nanos) -> bool {
        self.handed_over.as_ref().is_some_and(|(from, shards)| {
            at >= *from && !self.users.belongs_to(u64::from(user), shards)
        })
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
            if self.is_given_away(user, at) {
                continue;
            }
            let warm = at < self.warm_until;
            if let Some((number, card)) = self.number(u64::from(user), warm) {
                self.busy += 1;
                return Some(Due { scheduled_at: at, number, card, user: Some(user), warm });
            }
        }
    }

    /// The number in the stream and the card of a user's next request; `None` if the user's shard
    /// has started its part.
    #[inline]
    fn number(&mut self, user: u64, warm: bool) -> Option<(u64, u64)> {
        let (number, shared) = if warm {
            (self.users.start_warm(user), None)
        } else {
            let ticket = self.users.start(user)?;
            (ticket.number, self.deals_shared.then_some(ticket.seq))
        };
        let card = shared.unwrap_or_else(|| {
            self.next_card += 1;
            self.next_card - 1
        });
        Some((number, card))
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
    fn ended(&mut self, user: u32, now: Nanos, pause: Nanos) {
        self.busy -= 1;
        self.last_end = self.last_end.max(now);
        self.schedule(user, now + self.think_time + pause);
    }
}
