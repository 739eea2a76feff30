//! Domain separation for random choices derived from a plan's seed.
//!
//! A stream's key is `Key::new(seed).with(index of the stream)`; each kind of choice derives its own key
//! from it, so that no two kinds draw the same numbers.

/// When arrivals are due.
pub(crate) const SCHEDULE: u64 = 0;
/// When the warm-up's arrivals are due.
pub(crate) const WARMUP: u64 = 1;
/// Which target an arrival gets.
pub(crate) const DECK: u64 = 2;
/// The values of an arrival's placeholders.
pub(crate) const VALUES: u64 = 3;
/// When arrivals are due after the rate was changed during the run.
pub(crate) const CHANGED_RATE: u64 = 4;
