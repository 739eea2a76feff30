//! When something happened, to the second: from the start of the first second concerned to the end of
//! the last one.

use plimsoll_measure::{ErrorClass, Fault, Listed, Nanos, Tally};
use std::fmt;

/// A range of whole seconds of the run, on the run's clock (including the warm-up).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds {
    /// The start of the first.
    pub from: Nanos,
    /// The end of the last.
    pub to: Nanos,
}

impl Seconds {
    /// The smallest range that contains both.
    pub(crate) fn union(self, other: Seconds) -> Seconds {
        Seconds { from: self.from.min(other.from), to: self.to.max(other.to) }
    }

    /// Extends a range by a second.
    pub(crate) fn widen(seen: &mut Option<Seconds>, second: Seconds) {
        *seen = Some(seen.map_or(second, |seen| seen.union(second)));
    }

    /// The same range relative to an instant, such as the end of the warm-up.
    pub fn since(self, start: Nanos) -> Seconds {
        // Counts from the very end of the warm-up belong to the first second after it.
        let to = self.to - start;
        let first = Nanos::from_secs(1);
        let to = if to == Nanos::ZERO { first } else { to };
        Seconds { from: self.from - start, to }
    }

    /// The length of the range.
    pub fn len(&self) -> Nanos {
        self.to - self.from
    }

    /// The midpoint.
    pub(crate) fn middle(self) -> Nanos {
        Nanos(self.from.0 + self.len().0 / 2)
    }

    /// The numbers of the first and last second, counted from 0.
    pub fn numbers(self) -> [u64; 2] {
        let second = Nanos::from_secs(1).0;
        let last = self.to.0.saturating_sub(1) / second;
        [(self.from.0 / second).min(last), last]
    }
}

/// `3s–5s`.
impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = match whole(self.to) {
            // The end of a run of a few milliseconds.
            zero if zero == "0s" => self.to.to_string(),
            whole => whole,
        };
        f.pad(&format!("{}–{to}", whole(self.from)))
    }
}

/// An instant to the tenth of a second: seconds of a run begin and end within milliseconds of a
/// whole one.
fn whole(at: Nanos) -> String {
    let tenth = Nanos::from_millis(100).0;
    match Nanos((at.0 + tenth / 2) / tenth * tenth) {
        Nanos::ZERO => "0s".into(),
        rounded => rounded.to_string(),
    }
}

/// When each member of a [`Listed`] type was counted.
#[derive(Clone, Debug)]
pub(crate) struct Times<C: Listed> {
    seen: Vec<Option<Seconds>>,
    list: std::marker::PhantomData<C>,
}

/// When arrivals failed, by class.
pub(crate) type ErrorTimes = Times<ErrorClass>;
/// When faults were seen.
pub(crate) type FaultTimes = Times<Fault>;

impl<C: Listed> Default for Times<C> {
    fn default() -> Times<C> {
        Times { seen: vec![None; C::ALL.len()], list: std::marker::PhantomData }
    }
}

impl<C: Listed> Times<C> {
    pub(crate) fn add(&mut self, counted: &Tally<C>, second: Seconds) {
        for (member, _) in counted.iter() {
            Seconds::widen(&mut self.seen[member.index()], second);
        }
    }

    pub(crate) fn get(&self, member: C) -> Option<Seconds> {
        self.seen[member.index()]
    }

    /// The range over several members.
    pub(crate) fn over(&self, members: &[C]) -> Option<Seconds> {
        members.iter().filter_map(|member| self.get(*member)).reduce(Seconds::union)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_count_from_the_end_of_the_warm_up() {
        let since = |from: u64, to: u64| {
            let seconds = Seconds { from: Nanos::from_secs(from), to: Nanos::from_secs(to) };
            seconds.since(Nanos::from_secs(2)).to_string()
        };
        assert_eq!([since(3, 5), since(1, 3), since(1, 2)], ["1s–3s", "0s–1s", "0s–1s"]);
    }

    #[test]
    fn seconds_have_numbers_and_read_well() {
        let check = |from: u64, to: u64, numbers: [u64; 2], text: &str| {
            let seconds = Seconds { from: Nanos::from_millis(from), to: Nanos::from_millis(to) };
            assert_eq!((seconds.numbers(), seconds.to_string().as_str()), (numbers, text));
        };
        check(0, 1000, [0, 0], "0s–1s");
        check(3001, 5002, [3, 5], "3s–5s"); // ticks come a little late
        check(3000, 5000, [3, 4], "3s–5s");
        check(2000, 2500, [2, 2], "2s–2.5s");
        check(0, 13, [0, 0], "0s–13ms");
        check(125_000, 125_000, [124, 124], "2m5s–2m5s");
    }
}
