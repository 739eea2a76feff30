//! The parts of a plan's seed: what each random choice derives from.
//!
//! A stream's key is `Key::new(seed).with(place of the stream)`; below it each kind of choice has a
//! branch of its own, so that no two ever draw the same numbers.

/// When arrivals are due.
pub(crate) const SCHEDULE: u64 = 0;
/// When the warm-up's arrivals are due.
pub(crate) const WARMUP: u64 = 1;
/// Which target an arrival is dealt.
pub(crate) const DECK: u64 = 2;
/// What fills an arrival's placeholders.
pub(crate) const VALUES: u64 = 3;
/// When arrivals are due after the rate was changed while the plan ran.
pub(crate) const CHANGED_RATE: u64 = 4;
