//! Exchanges that stay open: opened by an arrival, kept until their stream ends.
//!
//! An arrival of such a stream belongs to a user, as in the closed model: it opens the exchange and ends with
//! it. At the end of its stream, or at a stop, an exchange that is open is released and counts as ok. One that
//! ends before is a failed arrival of the class of its end, and its user opens another after a back-off.
//! Latency and service time are those of the opening; how long the exchange lasted is not a latency.
//!
//! # Times
//! Once open, an arrival has no deadline. One timer for each exchange serves its pings and its silence: when
//! it fires, it is set to the earlier of both, so that a message costs no more than its time. A timer
//! is judged only up to the instant until which everything that had arrived was read (`seen`), as deadlines are.
//!
//! # Back-off
//! After a failure, a user waits [`BACK_OFF_MIN`], doubled with each further failure up to [`BACK_OFF_MAX`], of which
//! a random half, so that users who were disconnected together do not return together. An exchange that lasted
//! [`LASTING`] starts the count anew. An event stream whose server has stated a pause (`retry`) takes that instead of
//! [`BACK_OFF_MIN`]: after a stream that was open exactly that, since the server decides how its clients are spread, and
//! then doubled for every failure to open it again, but never less.

use super::Dispatcher;
use crate::arrival::{Arrival, Id, State};
use crate::connection::Arrived;
use crate::judge::{Cause, Judgement};
use crate::recorder::Recorder;
use crate::standing::{Firsts, Held, Kind, Said, Track};
use crate::system::System;
use plimsoll_measure::{ErrorClass, Fault, Nanos};
use plimsoll_plan::{Plan, Sockets, Standing};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The pause of a user after the first failure…
const BACK_OFF_MIN: Nanos = Nanos::from_millis(250);
/// …and after many: long enough that a target can recover, short enough to be part of a run.
const BACK_OFF_MAX: Nanos = Nanos::from_secs(30);
/// The shortest pause that a server can ask for: a stream that ends at once is not opened in a tight loop.
const RETRY_MIN: Nanos = Nanos::from_millis(100);
/// An exchange that was open for this long was no failure to open.
const LASTING: Nanos = Nanos::from_secs(10);
/// Maximum number of exchanges released in one iteration: each takes a write and a close, so that this takes
/// less than a few milliseconds.
const RELEASED_MAX: usize = 128;

/// When to look at an exchange. The number distinguishes its arrival from a later one with the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    at: Nanos,
    id: Id,
    stream: u16,
    number: u64,
}

/// What a user continues with after a failure.
struct Resume {
    failures: u32,
    was_open: bool,
    track: Box<Track>,
}

/// The exchanges that stay open, of all streams.
pub(super) struct Standings {
    timers: BinaryHeap<Reverse<Timer>>,
    /// By stream and user; at most one for each user who is not open.
    resumes: HashMap<(u16, u32), Resume>,
    /// Streams whose exchanges stay open.
    streams: Vec<usize>,
    /// Whether more are to be released at once.
    is_releasing: bool,
}

impl Standings {
    pub(super) fn new(plan: &Plan) -> Standings {
        let streams = plan.streams.iter().enumerate();
        let streams = streams.filter(|(_, own)| own.sockets.is_some()).map(|(place, _)| place);
        Standings {
            timers: BinaryHeap::new(),
            resumes: HashMap::new(),
            streams: streams.collect(),
            is_releasing: false,
        }
    }

    /// When the next exchange is to be looked at.
    pub(super) fn next_due(&self) -> Nanos {
        self.timers.peek().map_or(Nanos::MAX, |Reverse(timer)| timer.at)
    }

    /// Whether more exchanges are to be released.
    pub(super) fn has_work(&self) -> bool {
        self.is_releasing
    }

    /// Records the end of an arrival of a user; returns how long the user pauses.
    pub(super) fn ended(
        &mut self,
        plan: &Plan,
        arrival: &mut Arrival,
        user: u32,
        now: Nanos,
    ) -> Nanos {
        let place = (arrival.stream, user);
        let was_open = arrival.held.is_some();
        let resume = match arrival.held.take() {
            Some(held) => {
                let lasted = now - held.opened_at >= LASTING;
                let failures = if lasted { 0 } else { held.failures };
                let own = Resume { failures: 0, was_open: true, track: held.track };
                let resume = self.resumes.entry(place).insert_entry(own).into_mut();
                resume.failures = failures;
                resume
            }
            None => self.resumes.entry(place).or_insert_with(|| Resume {
                failures: 0,
                was_open: false,
                track: Box::default(),
            }),
        };
        let retry = resume.track.retry;
        let is_stated = was_open && retry.is_some();
        let failures = if is_stated { 0 } else { resume.failures };
        resume.failures = failures + 1;
        let key = plan.streams[arrival.stream as usize].key.with(u64::from(user));
        let random = key.with(u64::from(resume.failures)).bits();
        pause_after(failures, retry, if is_stated { 0 } else { random })
    }

    /// Begins an exchange that has opened; returns its state, and whether it replaces an earlier one.
    fn open(&mut self, arrival: &Arrival, sockets: &Sockets, now: Nanos) -> (Held, bool) {
        let user = arrival.user.expect("users open what stays open");
        let resume = self.resumes.remove(&(arrival.stream, user));
        let (failures, was_open, track) = match resume {
            Some(own) => (own.failures, own.was_open, own.track),
            None => (0, false, Box::default()),
        };
        let held = Held {
            opened_at: now,
            last_at: now,
            last_seen_at: now,
            received: 0,
            is_silent: false,
            ping_at: now + sockets.ping,
            pinged_at: None,
            failures,
            status: 0,
            track,
        };
        (held, was_open)
    }

    /// The id of the last event that the user of an arrival has received; empty if there is none.
    pub(super) fn last_event(&self, arrival: &Arrival) -> &[u8] {
        let place = arrival.user.map(|user| (arrival.stream, user));
        let resume = place.and_then(|place| self.resumes.get(&place));
        resume.map_or(&[], |resume| &resume.track.last_event)
    }

    /// Counts a message.
    pub(super) fn receive(
        &mut self,
        (arrival, spec): (&mut Arrival, &Standing),
        firsts: Option<&Firsts>,
        (message, bytes): (Arrived<'_>, u64),
        (now, started_at_unix): (Nanos, Nanos),
        recorder: &mut Recorder,
    ) {
        arrival.bytes_in += bytes;
        let target = arrival.target;
        let Some(held) = &mut arrival.held else {
            return recorder.unmatched(target, bytes);
        };
        let (kind, said) = match (message, spec) {
            (Arrived::Notification(result), Standing::Subscription { topic, .. }) => {
                let kind = Kind::from(*topic);
                (kind, Said::of_result(kind, result))
            }
            (Arrived::Event { id, data }, Standing::Events { numbered }) => {
                let kind = if *numbered { Kind::Numbered } else { Kind::Plain };
                if let Some(id) = id {
                    held.track.last_event.clear();
                    held.track.last_event.extend_from_slice(id);
                }
                (kind, Said::of_event(kind, id, data, held.received.into()))
            }
            (Arrived::Heartbeat, _) => {
                (held.last_seen_at, held.is_silent) = (now, false);
                return recorder.heartbeat(target);
            }
            (Arrived::Retry(pause), _) => {
                held.track.retry = Some(pause.clamp(RETRY_MIN, BACK_OFF_MAX));
                return;
            }
            _ => return recorder.unmatched(target, bytes),
        };
        let order = held.track.order(kind, &said);
        let since = now - held.last_at;
        let is_first = held.received == 0;
        held.received = held.received.saturating_add(1);
        (held.last_at, held.last_seen_at, held.is_silent) = (now, now, false);
        let spread = firsts.and_then(|firsts| firsts.since(&said, now));
        let stamp = said.unix.map(|unix| (started_at_unix + now, unix));
        recorder.received(target, (order, bytes), (is_first, since), (stamp, spread));
    }

    fn set_timer(&mut self, arrival: &Arrival, id: Id, sockets: &Sockets, now: Nanos) {
        let Some(held) = &arrival.held else { return };
        let ping_at = if sockets.ping > Nanos::ZERO { held.ping_at } else { Nanos::MAX };
        let silent_at = match sockets.silence {
            // Looked at again, in case it ends.
            Some(silence) if held.is_silent => now + silence,
            Some(silence) => held.last_seen_at + silence,
            None => Nanos::MAX,
        };
        let at = ping_at.min(silent_at);
        if at < Nanos::MAX {
            let Arrival { stream, number, .. } = *arrival;
            self.timers.push(Reverse(Timer { at, id, stream, number }));
        }
    }
}

/// The settings of an arrival's exchange, as far as they concern it: nothing is sent to idle sockets, so that
/// they are not silent.
fn sockets_of(plan: &Plan, arrival: &Arrival) -> Option<Sockets> {
    let sockets = plan.streams[arrival.stream as usize].sockets?;
    let spec = &plan.requests[arrival.exchange.request as usize];
    let is_idle = spec.standing == Some(Standing::Socket);
    Some(Sockets { silence: sockets.silence.filter(|_| !is_idle), ..sockets })
}

/// The pause after this many failures in a row; up to half of it is taken off at random.
fn pause_after(failures: u32, retry: Option<Nanos>, random: u64) -> Nanos {
    let least = retry.unwrap_or(BACK_OFF_MIN);
    let longest = Nanos(least.0 << failures.min(16)).min(BACK_OFF_MAX);
    let drawn = Nanos(longest.0 - random % (longest.0 / 2).max(1));
    drawn.max(retry.unwrap_or_default())
}

/// What a timer finds.
enum Due {
    Nothing,
    Ping,
    /// The last ping was not answered.
    PingTimeout,
}

impl<S: System> Dispatcher<S> {
    /// An exchange that stays open has opened.
    pub(super) fn opened(&mut self, id: Id, (status, bytes): (u16, u64), now: Nanos) {
        let arrival = self.arrivals.get_mut(id);
        arrival.bytes_in += bytes;
        let exchange = &mut arrival.exchange;
        exchange.first_byte_at.get_or_insert(now);
        arrival.served += now - exchange.sent_at.expect("an open exchange was sent");
        let Some(sockets) = sockets_of(&self.shared.plan, arrival) else { return };
        let (held, reopened) = self.standings.open(arrival, &sockets, now);
        arrival.held = Some(Box::new(Held { status, ..held }));
        arrival.deadline = Nanos::MAX;
        self.recorder.opened(arrival, reopened, now);
        self.standings.set_timer(arrival, id, &sockets, now);
        self.arrivals.stand(id);
    }

    /// Handles the timers up to `seen`, the instant up to which everything that had arrived was read, and
    /// releases the exchanges of streams that are over.
    pub(crate) fn tend_standing(&mut self, seen: Nanos, now: Nanos) {
        if self.standings.streams.is_empty() {
            return;
        }
        while let Some(Reverse(timer)) = self.standings.timers.peek().copied()
            && timer.at <= seen
        {
            self.standings.timers.pop();
            self.on_timer(timer, seen, now);
        }
        let mut left = RELEASED_MAX;
        for place in 0..self.standings.streams.len() {
            let stream = self.standings.streams[place];
            if self.sources[stream].planned_end().is_none_or(|end| now < end) {
                continue;
            }
            while left > 0
                && let Some(id) = self.arrivals.first_standing(stream)
            {
                self.release(id, now);
                left -= 1;
            }
        }
        self.standings.is_releasing = left == 0;
        self.flush_started();
    }

    fn on_timer(&mut self, timer: Timer, seen: Nanos, now: Nanos) {
        let Timer { id, stream, number, .. } = timer;
        let Some(arrival) = self.arrivals.get(id) else { return };
        let is_same = arrival.stream == stream && arrival.number == number;
        let Some(sockets) = sockets_of(&self.shared.plan, arrival) else { return };
        let (State::OnConnection(key), true) = (arrival.exchange.state, is_same) else { return };
        let target = arrival.target;
        let spec = &self.shared.plan.requests[arrival.exchange.request as usize];
        let arrival = self.arrivals.get_mut(id);
        let Some(held) = &mut arrival.held else { return };
        if let Some(silence) = sockets.silence
            && !held.is_silent
            && held.last_seen_at + silence <= seen
        {
            held.is_silent = true;
            self.recorder.silent(target);
            // There is no ping to find out whether the peer is still there.
            if matches!(spec.standing, Some(Standing::Events { .. })) {
                let fault = Some(Fault::SilentStream);
                let cause = Cause { class: ErrorClass::ResponseTimeout, fault };
                return self.abandon(id, key as usize, Some(cause), now);
            }
        }
        let due = if sockets.ping == Nanos::ZERO || held.ping_at > seen {
            Due::Nothing
        } else if held.pinged_at.is_some() {
            Due::PingTimeout
        } else {
            held.ping_at = now + sockets.ping;
            Due::Ping
        };
        match due {
            Due::Nothing => {}
            Due::Ping if self.connections[key as usize].ping() => {
                held.pinged_at = Some(now);
                self.recorder.pinged(target);
                self.flush_later(key as usize);
            }
            // Event streams have no pings.
            Due::Ping => {}
            Due::PingTimeout => {
                let fault = Some(Fault::PingTimeout);
                let cause = Cause { class: ErrorClass::ResponseTimeout, fault };
                return self.abandon(id, key as usize, Some(cause), now);
            }
        }
        let arrival = &self.arrivals[id];
        self.standings.set_timer(arrival, id, &sockets, now);
    }

    /// The last ping of an exchange was answered.
    pub(super) fn ponged(&mut self, id: Id, now: Nanos) {
        let arrival = self.arrivals.get_mut(id);
        let target = arrival.target;
        if let Some(at) = arrival.held.as_mut().and_then(|held| held.pinged_at.take()) {
            self.recorder.ponged(target, now - at);
        }
    }

    /// Ends an open exchange in good order: its arrival is ok.
    fn release(&mut self, id: Id, now: Nanos) {
        let arrival = &self.arrivals[id];
        let State::OnConnection(key) = arrival.exchange.state else {
            unreachable!("an open exchange is on a connection");
        };
        let key = key as usize;
        let status = arrival.held.as_ref().map_or(0, |held| held.status);
        self.pools[self.connections[key].pool as usize].end(now);
        self.end_trace(key, id);
        self.finish(id, now, Some(status), Judgement { outcome: Ok(()), rpc_code: None });
        self.connections[key].release(id, &mut self.buffers.resources);
        self.flush_later(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_doubled_and_never_shorter_than_the_server_asks() {
        let check = |failures, retry: Option<u64>, random, expected: u64| {
            let pause = pause_after(failures, retry.map(Nanos::from_millis), random);
            assert_eq!(pause, Nanos::from_millis(expected), "{failures} {retry:?} {random}");
        };
        check(0, None, 0, 250);
        check(2, None, 0, 1_000);
        check(2, None, 400_000_000, 600);
        check(40, None, 0, 30_000);
        check(0, Some(3_000), 0, 3_000);
        check(1, Some(3_000), 2_000_000_000, 4_000);
        check(1, Some(3_000), 2_500_000_000, 3_500);
        check(1, Some(3_000), 3_500_000_000, 5_500);
        check(9, Some(30_000), 5_000_000_000, 30_000);
    }
}
