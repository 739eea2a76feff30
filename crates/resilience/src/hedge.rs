//! When to hedge: to send a call to a second upstream although the first may still answer.
//!
//! # Why
//! The slowest calls of a healthy upstream are slow by chance: a pause of its garbage collector, a
//! queue, a lost packet. A second upstream is unlikely to be slow at the same moment, so that a few
//! per cent of additional calls remove most of the tail (Dean and Barroso, "The tail at scale", CACM
//! 2013: 2 % more requests cut the 99.9th percentile from 1,800 to 74 ms). eRPC, PATH and gRPC hedge.
//!
//! # When
//! After a quantile of the recent latency ([`crate::Quantile`]), within bounds. At the 95th
//! percentile, one call in twenty is hedged while all is well. When an upstream becomes slow, more
//! calls than that take longer than the quantile of a minute ago; the [`crate::Budget`] limits how
//! many are hedged.
//!
//! - No estimate, no hedge: a guess would hedge everything or nothing.
//! - Not below `delay_min`: hedging after microseconds spends more than it gains.
//! - Not above `delay_max`: when most calls are slow, hedges still start.
//! - Not if less than twice the delay is left until the deadline: after the delay, a second attempt
//!   of usual latency would not end in time.
//!
//! # Whose latency
//! Use the latencies of all upstreams of the service together, by method if methods differ. With one
//! estimator per upstream, an upstream that is always slow would have a long delay of its own, and its
//! calls would never be hedged.
//!
//! # What the caller must do
//! Take each hedge from the budget; send it to another upstream; hedge only what may be sent twice;
//! cancel the loser, and record its time until then as a latency (see [`crate::quantile`]).

use plimsoll_measure::Nanos;

/// The settings of hedging.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hedge {
    /// The quantile of the latency after which to hedge, from [`Hedge::QUANTILE_MIN`] to
    /// [`Hedge::QUANTILE_MAX`]. Default 0.95.
    pub quantile: f64,
    /// The shortest delay. Default 1 ms, the resolution of timers.
    pub delay_min: Nanos,
    /// The longest delay, at least `delay_min`. Default 2 s.
    pub delay_max: Nanos,
}

impl Default for Hedge {
    fn default() -> Hedge {
        Hedge { quantile: 0.95, delay_min: Nanos::from_millis(1), delay_max: Nanos::from_secs(2) }
    }
}

impl Hedge {
    /// Below it, half of the calls would be hedged.
    pub const QUANTILE_MIN: f64 = 0.5;
    /// Above it, hundreds of calls would be needed for an estimate that is more than a maximum.
    pub const QUANTILE_MAX: f64 = 0.999;

    /// How long after its start to hedge a call; `None` if it is not to be hedged. `estimate` is the
    /// recent quantile, `timeout` the time from the call's start to its deadline.
    #[inline]
    pub fn delay(&self, estimate: Option<Nanos>, timeout: Nanos) -> Option<Nanos> {
        let delay = estimate?.max(self.delay_min).min(self.delay_max);
        (delay + delay <= timeout).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_is_bounded() {
        let check = |estimate: Option<u64>, timeout: u64, delay: Option<u64>| {
            let delayed = Hedge::default()
                .delay(estimate.map(Nanos::from_micros), Nanos::from_millis(timeout));
            assert_eq!(delayed, delay.map(Nanos::from_micros), "{estimate:?} {timeout}");
        };
        check(Some(30_000), 1_000, Some(30_000));
        check(None, 1_000, None);
        check(Some(20), 1_000, Some(1_000));
        check(Some(60_000_000), 10_000, Some(2_000_000));
        // too late for a second attempt
        check(Some(30_000), 60, Some(30_000));
        check(Some(30_000), 59, None);
        check(Some(60_000_000), 3_999, None);
    }
}
