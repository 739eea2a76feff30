//! The search for the limit: windows at two limits are compared until the noise allows a decision.
//!
//! All ratios are binary logarithms of latencies, and so are steps between limits.

use plimsoll_measure::Nanos;

use super::Bounds;

/// The step between the two limits near the goal. The lower one costs throughput; a smaller step would
/// drown in the noise.
const STEP_MIN: f64 = 0.22;

/// The step at the start and after the latency has jumped: a factor of two.
const STEP_MAX: f64 = 1.0;

/// In the ramp, there is a queue if the latency has grown by this much.
const RAMP_QUEUE: f64 = 0.5;

/// The search begins this much above the knee that the ramp has found, and at this limit at least:
/// what it has found is an estimate.
const RAMP_ABOVE: f64 = 0.6;
const RAMP_MIN: f64 = 16.0;

/// Above this share of the step by which the latency grows, there is a queue at the upper limit.
const ELASTIC: f64 = 0.6;

/// Standard errors that a decision to go down needs. A wrong one is corrected by the next.
const CERTAINTY_DOWN: f64 = 0.8;

/// The same for one to go up, which costs less if it is wrong: a queue is seen sooner than a lack of
/// one.
const CERTAINTY_UP: f64 = 0.3;

/// Windows at the upper limit for each at the lower one, once the limit is roughly known.
const UPPER_WINDOWS: u32 = 5;

/// Windows without a comparison after the limit has turned out to be about right.
const REST_WINDOWS: u32 = 16;

/// They take at most this long, so that slow upstreams are followed, too.
const REST_MAX: Nanos = Nanos::from_secs(2);

/// While it rests, the limit is higher by this factor: throughput that comparisons have cost.
const REST_FACTOR: f64 = 1.12;

/// Comparisons after which one without a decision begins anew: what is older says less.
const ROUNDS_MAX: u32 = 8;

/// A latency that moves by this much within a comparison is another upstream's: the comparison begins
/// anew.
const JUMP: f64 = 2.0;

/// Between comparisons it must do so for this long, because some queues come and go.
const MOVED_MIN: Nanos = Nanos::from_secs(1);

/// A window that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) now: Nanos,
    pub(super) calls: u32,
    /// The mean of the ratios.
    pub(super) ratio: f64,
    /// Their variance.
    pub(super) variance: f64,
    /// Whether the limit was in use.
    pub(super) is_limited: bool,
    /// Whether many calls failed.
    pub(super) is_failing: bool,
    /// Whether many calls were given up, so that the ratio is no latency.
    pub(super) is_given_up: bool,
    /// Whether most calls timed out.
    pub(super) is_timed_out: bool,
}

/// The ratios at one limit.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    calls: f64,
    mean: f64,
    variance: f64,
}

impl Mean {
    fn of(window: &Window) -> Mean {
        let mut mean = Mean::default();
        mean.add(window);
        mean
    }

    fn add(&mut self, window: &Window) {
        let calls = f64::from(window.calls);
        self.calls += calls;
        let share = calls / self.calls;
        self.mean += (window.ratio - self.mean) * share;
        self.variance += (window.variance - self.variance) * share;
    }

    /// The square of the mean's standard error. Even constant latencies are not known exactly.
    fn error(&self) -> f64 {
        (self.variance + 0.01) / self.calls
    }

    /// Whether a window can no longer be one of these.
    fn excludes(&self, window: &Window) -> bool {
        let error = (self.error() + Mean::of(window).error()).sqrt();
        self.calls > 0.0 && (window.ratio - self.mean).abs() > JUMP.max(4.0 * error)
    }
}

/// At which of the two limits the present window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The number of windows that are left, and until when they last at most.
    Rest {
        windows: u32,
        until: Nanos,
    },
    /// The number of windows since the last one at the lower limit.
    Upper(u32),
    Lower,
}

/// The state of a search.
#[derive(Debug)]
pub(super) struct Control {
    /// The upper limit.
    limit: f64,
    /// The lower limit is less by this.
    step: f64,
    phase: Phase,
    /// The ratios at the lower limit and at the upper one.
    lower: Mean,
    upper: Mean,
    /// The ratios at the upper limit of the comparison before.
    known: Mean,
    /// Since when it has been another one.
    moved_at: Option<Nanos>,
    rounds: u32,
    /// Whether the last decision was up; `None` while the limit is unknown.
    was_up: Option<bool>,
    is_given_up: bool,
}

impl Control {
    pub(super) fn new(start: u32) -> Control {
        Control {
            limit: start.into(),
            step: STEP_MAX,
            phase: Phase::Upper(0),
            lower: Mean::default(),
            upper: Mean::default(),
            known: Mean::default(),
            moved_at: None,
            rounds: 0,
            was_up: None,
            is_given_up: false,
        }
    }

    /// Ends a window of the ramp; returns the limit for the next one, and whether the ramp is over.
    pub(super) fn ramp(&mut self, window: &Window, bounds: Bounds) -> (u32, bool) {
        let mut is_over = false;
        if window.is_limited && !window.is_failing {
            if window.ratio < RAMP_QUEUE && !window.is_given_up {
                self.limit *= 2.0;
                is_over = self.limit >= bounds.max.into();
            } else {
                let knee = self.limit * (RAMP_ABOVE - window.ratio).exp2();
                self.limit = knee.clamp(RAMP_MIN.min(self.limit), self.limit);
                is_over = true;
            }
        }
        self.limit = self.limit.clamp(bounds.min.into(), bounds.max.into());
        (self.limit.round() as u32, is_over)
    }

    /// Ends a window; returns the limit for the next one.
    pub(super) fn step(&mut self, window: &Window, bounds: Bounds) -> u32 {
        if !window.is_limited || window.is_failing {
            self.begin();
        } else if window.is_timed_out {
            self.limit /= 2.0;
            self.restart();
        } else {
            self.compare(window);
        }
        self.limit = self.limit.clamp(bounds.min.into(), bounds.max.into());
        let limit = match self.phase {
            Phase::Rest { .. } => self.limit * REST_FACTOR,
            Phase::Upper(_) => self.limit,
            Phase::Lower => self.lower_limit(),
        };
        (limit.round() as u32).clamp(bounds.min, bounds.max)
    }

    /// The ratio that is expected in the present window, if it is known.
    pub(super) fn expected(&self) -> Option<f64> {
        let seen = match self.phase {
            Phase::Rest { .. } => return None,
            Phase::Upper(_) => self.upper,
            Phase::Lower => self.lower,
        };
        (seen.calls > 0.0).then_some(seen.mean)
    }

    /// The lower limit; it differs by at least one.
    fn lower_limit(&self) -> f64 {
        (self.limit * (-self.step).exp2()).min(self.limit - 1.0).max(1.0)
    }

    /// Begins a comparison.
    fn begin(&mut self) {
        (self.lower, self.upper) = Default::default();
        (self.phase, self.rounds, self.is_given_up) = (Phase::Upper(0), 0, false);
    }

    /// Whether the latency has been another one than before for some time.
    fn has_moved(&mut self, window: &Window) -> bool {
        if !self.known.excludes(window) {
            self.moved_at = None;
            return false;
        }
        match self.moved_at {
            None => {
                self.moved_at = Some(window.now);
                false
            }
            Some(at) => window.now >= at + MOVED_MIN,
        }
    }

    /// Begins the search anew, from where it is.
    fn restart(&mut self) {
        (self.step, self.was_up) = (STEP_MAX, None);
        (self.known, self.moved_at) = (Mean::default(), None);
        self.begin();
    }

    fn rest(&mut self, now: Nanos) {
        self.begin();
        self.phase = Phase::Rest { windows: REST_WINDOWS, until: now + REST_MAX };
    }

    /// Adds a window to the comparison.
    fn compare(&mut self, window: &Window) {
        if self.phase != Phase::Lower && self.has_moved(window) {
            return self.restart();
        }
        let seen = match self.phase {
            Phase::Rest { windows, until } => {
                let windows = windows - 1;
                let is_over = windows == 0 || window.now >= until;
                self.phase = if is_over { Phase::Upper(0) } else { Phase::Rest { windows, until } };
                return;
            }
            Phase::Upper(_) => &mut self.upper,
            Phase::Lower => &mut self.lower,
        };
        if seen.excludes(window) {
            return self.restart();
        }
        seen.add(window);
        self.is_given_up |= window.is_given_up;
        let wanted = if self.was_up.is_none() { 1 } else { UPPER_WINDOWS };
        self.phase = match self.phase {
            Phase::Upper(windows) if windows + 1 < wanted => Phase::Upper(windows + 1),
            Phase::Upper(_) => Phase::Lower,
            _ => Phase::Upper(0),
        };
        if matches!(self.phase, Phase::Upper(0)) {
            self.judge(window.now);
        }
    }

    /// Decides, if the difference of the two limits is clear.
    fn judge(&mut self, now: Nanos) {
        self.rounds += 1;
        self.known = self.upper;
        let step = (self.limit / self.lower_limit()).log2();
        let above = self.upper.mean - self.lower.mean - ELASTIC * step;
        let error = (self.lower.error() + self.upper.error()).sqrt();
        if above > CERTAINTY_DOWN * error {
            self.decide(false, now);
        } else if above < -CERTAINTY_UP * error && !self.is_given_up {
            self.decide(true, now);
        } else if self.rounds >= ROUNDS_MAX {
            let is_small = self.step <= STEP_MIN;
            self.step = if is_small { 2.0 * STEP_MIN } else { (self.step / 2.0).max(STEP_MIN) };
            self.rest(now);
        }
    }

    fn decide(&mut self, is_up: bool, now: Nanos) {
        let factor = (self.limit / self.lower_limit()).max(1.0);
        self.limit = if is_up { self.limit * factor } else { self.limit / factor };
        let is_turn = self.was_up.is_some_and(|was_up| was_up != is_up);
        self.step =
            if is_turn { (self.step / 2.0).max(STEP_MIN) } else { (self.step * 2.0).min(STEP_MAX) };
        self.was_up = Some(is_up);
        if is_turn && is_up { self.rest(now) } else { self.begin() }
    }
}
