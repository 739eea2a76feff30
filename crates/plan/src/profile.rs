//! A piecewise linear value over time: arrivals per second, or users.
//!
//! For arrivals, the integral matters: the k-th arrival (from 0) is due when the integral reaches k.
//! Each line's integral is a parabola, so its inverse is the root of a quadratic, in the form without
//! cancellation: `x = 2u / (r + sqrt(r² + 2su))` for the remainder `u`, start `r` and slope `s`.
//! Times are seconds as `f64`: exact to a nanosecond for a hundred days.

use plimsoll_measure::Nanos;

/// A stage: ramps linearly to a value, then holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// Arrivals per second, or users.
    pub value: f64,
    /// How long the ramp takes; zero is a step.
    pub over: Nanos,
    /// How long the value is held after the ramp.
    pub hold: Nanos,
}

/// One straight line.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    /// Start, in seconds.
    from: f64,
    /// Length in seconds; infinite for the last line of an endless profile.
    len: f64,
    start: f64,
    /// The value at its end, exactly: `start + slope * len` is rounded.
    end: f64,
    slope: f64,
    /// The integral up to its start.
    before: f64,
}

impl Line {
    fn integral(&self, x: f64) -> f64 {
        (self.start + self.slope * x / 2.0) * x
    }
}

/// A value over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    lines: Vec<Line>,
}

impl Profile {
    /// A constant value without an end.
    pub fn endless(value: f64) -> Profile {
        Profile {
            lines: vec![Line {
                from: 0.0,
                len: f64::INFINITY,
                start: value,
                end: value,
                slope: 0.0,
                before: 0.0,
            }],
        }
    }

    /// A constant value for a span.
    pub fn constant(value: f64, span: Nanos) -> Profile {
        Profile::stages(value, &[Stage { value, over: Nanos::ZERO, hold: span }])
    }

    /// Starts at `start` and goes through the stages.
    pub fn stages(start: f64, stages: &[Stage]) -> Profile {
        let mut lines: Vec<Line> = Vec::with_capacity(stages.len() * 2);
        let (mut from, mut before, mut value) = (0.0, 0.0, start);
        for stage in stages {
            let ramp = (stage.over.as_secs_f64(), value);
            for (len, start) in [ramp, (stage.hold.as_secs_f64(), stage.value)] {
                if len > 0.0 {
                    let (end, slope) = (stage.value, (stage.value - start) / len);
                    let line = Line { from, len, start, end, slope, before };
                    before += line.integral(len);
                    from += len;
                    lines.push(line);
                }
            }
            value = stage.value;
        }
        Profile { lines }
    }

    /// When the profile ends; [`Nanos::MAX`] if endless.
    pub fn end(&self) -> Nanos {
        self.lines.last().map_or(Nanos::ZERO, |line| Nanos::from_secs_f64(line.from + line.len))
    }

    /// The integral over the whole profile.
    pub fn total(&self) -> f64 {
        self.lines.last().map_or(0.0, |line| {
            if line.len.is_infinite() {
                f64::INFINITY
            } else {
                line.before + line.integral(line.len)
            }
        })
    }

    /// The value at an instant: at a step, the new value; after the end, zero.
    pub fn value(&self, at: Nanos) -> f64 {
        let at = at.as_secs_f64();
        let line = self.lines.iter().rev().find(|line| line.from <= at);
        line.filter(|line| at < line.from + line.len)
            .map_or(0.0, |line| line.start + line.slope * (at - line.from))
    }

    /// The largest value.
    pub fn max(&self) -> f64 {
        self.lines.iter().map(|line| line.start.max(line.end)).fold(0.0, f64::max)
    }

    /// The integral up to an instant.
    pub fn integral(&self, at: Nanos) -> f64 {
        let at = at.as_secs_f64();
        let line = self.lines.iter().rev().find(|line| line.from <= at);
        line.map_or(0.0, |line| line.before + line.integral((at - line.from).min(line.len)))
    }

    /// The instant at which the integral reaches `sum`; it must be below [`Profile::total`].
    /// The search starts at `hint`, which is updated to where it ended, so that increasing sums are found in
    /// constant time.
    pub fn instant(&self, sum: f64, hint: &mut usize) -> Nanos {
        let mut place = (*hint).min(self.lines.len().saturating_sub(1));
        if self.lines.get(place).is_some_and(|line| line.before > sum) {
            place = 0;
        }
        while self.lines.get(place + 1).is_some_and(|next| next.before <= sum) {
            place += 1;
        }
        *hint = place;
        let Some(line) = self.lines.get(place) else { return Nanos::ZERO };
        let left = sum - line.before;
        if left <= 0.0 {
            return Nanos::from_secs_f64(line.from);
        }
        let root = (line.start * line.start + 2.0 * line.slope * left).max(0.0).sqrt();
        let x = (2.0 * left / (line.start + root)).min(line.len);
        Nanos::from_secs_f64(line.from + x)
    }

    /// The first instant at or after `from` at which the value is at least `value`, if any.
    pub fn next_at_least(&self, value: f64, from: Nanos) -> Option<Nanos> {
        let from = from.as_secs_f64();
        // Tolerates floating-point error at the ends of lines, so that no user is lost to rounding.
        let value = value - 1e-9;
        for line in self.lines.iter().filter(|line| line.from + line.len > from) {
            let x = (from - line.from).max(0.0);
            if line.start + line.slope * x >= value {
                return Some(Nanos::from_secs_f64(line.from + x));
            }
            if line.slope > 0.0 && line.start + line.slope * line.len >= value {
                return Some(Nanos::from_secs_f64(line.from + (value - line.start) / line.slope));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(s: u64) -> Nanos {
        Nanos::from_secs(s)
    }

    fn ramp_hold_step() -> Profile {
        let stages = [
            Stage { value: 100.0, over: secs(10), hold: secs(5) },
            Stage { value: 400.0, over: Nanos::ZERO, hold: secs(1) },
            Stage { value: 0.0, over: secs(4), hold: secs(2) },
        ];
        Profile::stages(0.0, &stages)
    }

    #[test]
    fn integrals_by_hand() {
        let profile = ramp_hold_step();
        let check = |at: u64, value: f64, integral: f64| {
            assert_eq!((profile.value(secs(at)), profile.integral(secs(at))), (value, integral));
        };
        check(0, 0.0, 0.0);
        check(5, 50.0, 125.0);
        check(10, 100.0, 500.0);
        check(15, 400.0, 1000.0); // the step
        check(16, 400.0, 1400.0);
        check(18, 200.0, 2000.0);
        check(21, 0.0, 2200.0); // held at zero
        check(99, 0.0, 2200.0);
        assert_eq!((profile.total(), profile.end(), profile.max()), (2200.0, secs(22), 400.0));
    }

    /// 26 users over 26/345 s are not 26.000000000000004.
    #[test]
    fn the_end_of_a_ramp_is_exact() {
        for count in 1..=40u32 {
            for rate in 1..=400u32 {
                let over = Nanos((f64::from(count) / f64::from(rate) * 1e9).ceil() as u64);
                let stage = Stage { value: f64::from(count), over, hold: secs(1) };
                assert_eq!(Profile::stages(0.0, &[stage]).max(), f64::from(count));
            }
        }
    }

    #[test]
    fn users_come_and_go_with_the_value() {
        let profile = ramp_hold_step();
        let next = |value, from| profile.next_at_least(value, secs(from));
        assert_eq!(next(50.0, 0), Some(secs(5)));
        assert_eq!(next(50.0, 7), Some(secs(7)));
        assert_eq!(next(300.0, 0), Some(secs(15)));
        assert_eq!(next(300.0, 18), None);
    }

    proptest! {
        #[test]
        fn the_inverse_undoes_the_integral(
            start in 0.0..1e4,
            stages in proptest::collection::vec((0.0..1e4, 0u64..20, 0u64..20), 1..6),
            share in 0.0..1.0,
        ) {
            let stages: Vec<Stage> = stages
                .into_iter()
                .map(|(value, over, hold)| Stage { value, over: secs(over), hold: secs(hold) })
                .collect();
            let profile = Profile::stages(start, &stages);
            let sum = profile.total() * share;
            let at = profile.instant(sum, &mut 0);
            prop_assert!(at <= profile.end());
            // Half a nanosecond of rounding at the highest rate.
            prop_assert!((profile.integral(at) - sum).abs() < 1e-4, "{sum} at {at}");
        }
    }
}
