//! When streams were active, and the rates that follow from it.
//!
//! Within a run, several streams were active over the smallest window that contains theirs. Time in which
//! they were not selected (between two stages of a narrowed report) and time between runs do not count;
//! time that several runs share counts once: runs on ten hosts at once add up, and runs one after another
//! do not dilute each other. Runs are compared by their hosts' wall clocks.

use plimsoll_measure::{Nanos, Requests, Snapshot, StreamCounts, Window};

/// The shortest time over which a part of a run has a rate: a late answer would give thousands per second.
const PART_MIN: Nanos = Nanos::from_secs(1);

/// Arrivals per second. Those of a part of a run are `None` if they would be over less than a second; those of
/// a whole run, if there are arrivals but no time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Scheduled arrivals, over the time in which arrivals were planned.
    pub scheduled: Option<f64>,
    /// Sent requests, over the time in which arrivals were planned or sent.
    pub sent: Option<f64>,
    /// Requests answered as expected, over the time until the last complete answer.
    pub ok: Option<f64>,
}

/// An uninterrupted stretch of activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// On the run's clock.
    pub(crate) window: Window,
    /// When the last request was sent; zero if unknown.
    pub(crate) last_sent: Nanos,
}

impl Stretch {
    pub(crate) fn of(counts: &StreamCounts) -> Option<Stretch> {
        counts.active.map(|window| Stretch { window, last_sent: counts.last_sent })
    }

    /// Without the time before an instant: a stream that only awaits answers reports the time since its
    /// last arrival. `None` if nothing remains.
    fn since(mut self, from: Nanos) -> Option<Stretch> {
        let window = &mut self.window;
        window.from = window.from.max(from);
        window.planned_to = window.planned_to.max(window.from);
        (window.to > from).then_some(self)
    }

    fn union(self, other: Stretch) -> Stretch {
        Stretch {
            window: self.window.union(other.window),
            last_sent: self.last_sent.max(other.last_sent),
        }
    }

    /// The end of sending. It ignores late answers, which must not lower the sending rate.
    fn sent_to(&self) -> Nanos {
        let window = &self.window;
        if self.last_sent == Nanos::ZERO {
            return window.to;
        }
        self.last_sent.clamp(window.planned_to, window.to.max(window.planned_to))
    }
}

/// When a group's streams were active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// With the start of each run's clock, in nanoseconds since 1970.
    stretches: Vec<(u64, Stretch)>,
    /// Whether it is of a part of a run.
    is_part: bool,
}

impl Activity {
    /// That of one stream or stage, in a run whose clock started at `start`.
    pub(crate) fn of(counts: &StreamCounts, start: u64, is_part: bool) -> Activity {
        let stretches = Stretch::of(counts).into_iter().map(|stretch| (start, stretch)).collect();
        Activity { stretches, is_part }
    }

    #[cfg(test)]
    pub(crate) fn of_stretches(stretches: Vec<(u64, Stretch)>) -> Activity {
        Activity { stretches, is_part: false }
    }

    /// Adds that of another run.
    pub(crate) fn merge(&mut self, other: &Activity) {
        self.stretches.extend(&other.stretches);
        self.is_part |= other.is_part;
    }

    /// The smallest window that contains all, on the run's clock; `None` if never active, or if several
    /// runs are merged.
    pub fn window(&self) -> Option<Window> {
        let (first, _) = self.stretches.first()?;
        let same = self.stretches.iter().all(|(start, _)| start == first);
        let windows = self.stretches.iter().map(|(_, stretch)| stretch.window);
        windows.reduce(Window::union).filter(|_| same)
    }

    /// How long they were active, until the last complete answer.
    pub fn len(&self) -> Nanos {
        self.covered(|stretch| stretch.window.to)
    }

    /// Whether they were never active.
    pub fn is_empty(&self) -> bool {
        self.len() == Nanos::ZERO
    }

    /// The rates of these arrivals.
    pub fn rates(&self, requests: &Requests) -> Rates {
        let rate = |n: u64, span: Nanos| {
            let known = if self.is_part { span >= PART_MIN } else { n == 0 || span > Nanos::ZERO };
            known.then(|| per_second(n, span))
        };
        let planned = self.covered(|stretch| stretch.window.planned_to);
        Rates {
            scheduled: rate(requests.scheduled, planned),
            sent: rate(requests.sent, self.covered(Stretch::sent_to)),
            ok: rate(requests.ok, self.len()),
        }
    }

    /// The time covered by the stretches, each up to `end`.
    fn covered(&self, end: impl Fn(&Stretch) -> Nanos) -> Nanos {
        let spans = self.stretches.iter().map(|(start, stretch)| {
            let at = |instant: Nanos| start.saturating_add(instant.0);
            (at(stretch.window.from), at(end(stretch)))
        });
        covered(spans)
    }
}

/// The length of the union of spans.
pub(crate) fn covered(spans: impl IntoIterator<Item = (u64, u64)>) -> Nanos {
    let mut spans: Vec<(u64, u64)> = spans.into_iter().collect();
    spans.sort_unstable();
    let (mut sum, mut done) = (0, 0);
    for (from, to) in spans {
        sum += to.saturating_sub(from.max(done));
        done = done.max(to);
    }
    Nanos(sum)
}

/// A rate; zero over an empty span.
pub(crate) fn per_second(n: u64, span: Nanos) -> f64 {
    if span > Nanos::ZERO { n as f64 / span.as_secs_f64() } else { 0.0 }
}

/// When the streams of a plan were active: by block, a series of seconds in which the same streams are
/// selected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activities {
    blocks: Vec<Block>,
    /// Whether they are of a part of a run.
    is_part: bool,
}

#[derive(Clone, Debug)]
struct Block {
    /// The start of the run's clock, in nanoseconds since 1970.
    start: u64,
    /// Where it begins on the run's clock.
    from: Nanos,
    streams: Vec<Option<Stretch>>,
}

impl Activities {
    /// Those of a run, or of a part of one.
    pub(crate) fn new(is_part: bool) -> Activities {
        Activities { blocks: Vec::new(), is_part }
    }

    /// Adds a second that began at `from`; `fresh` if it does not continue the block.
    pub(crate) fn add(&mut self, second: &Snapshot, from: Nanos, fresh: bool) {
        if fresh || self.blocks.is_empty() {
            self.blocks.push(Block { start: 0, from, streams: vec![None; second.streams.len()] });
        }
        let block = self.blocks.last_mut().expect("a block was just added");
        for (own, counts) in block.streams.iter_mut().zip(&second.streams) {
            let next = Stretch::of(counts).and_then(|stretch| stretch.since(block.from));
            *own = own.iter().copied().chain(next).reduce(Stretch::union);
        }
    }

    /// Sets the start of the run's clock.
    pub(crate) fn started(mut self, start: u64) -> Activities {
        self.blocks.iter_mut().for_each(|block| block.start = start);
        self
    }

    /// Adds those of another run of the same plan.
    pub(crate) fn merge(&mut self, other: &Activities) {
        self.blocks.extend(other.blocks.iter().cloned());
        self.is_part |= other.is_part;
    }

    /// The activity of several streams combined.
    pub(crate) fn over(&self, streams: &[usize]) -> Activity {
        let block = |block: &Block| {
            let stretches = streams.iter().filter_map(|stream| block.streams[*stream]);
            Some((block.start, stretches.reduce(Stretch::union)?))
        };
        Activity {
            stretches: self.blocks.iter().filter_map(block).collect(),
            is_part: self.is_part,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_time_counts_once_and_gaps_do_not_count() {
        let check = |spans: &[(u64, u64)], length: u64| {
            assert_eq!(covered(spans.iter().copied()).0, length, "{spans:?}");
            assert_eq!(covered(spans.iter().rev().copied()).0, length, "{spans:?}, reversed");
        };
        check(&[], 0);
        check(&[(5, 5)], 0);
        check(&[(0, 10), (0, 10)], 10); // at once
        check(&[(0, 10), (20, 30)], 20); // one after another
        check(&[(0, 10), (5, 12), (11, 15)], 15); // overlapping
        check(&[(0, 10), (2, 3)], 10); // within
        check(&[(7, 3)], 0); // a clock that went backwards
    }
}
