//! How long to wait for an attempt before another upstream is asked, too.
//!
//! # Why
//! A fixed time is wrong for most services: a quarter of a timeout of 30 s is 7.5 s, during which an
//! upstream that hangs collects every call that it gets. At 150 calls per second these are more than a
//! retry budget can pay for at once. An upstream that usually answers within milliseconds can be
//! doubted much sooner.
//!
//! # How long
//! [`MULTIPLE`] times a high quantile of the recent latency ([`crate::Quantile`]), from [`SHORTEST`] to
//! the configured time, which also applies while there is no estimate. Hedging aims at the slowest few
//! per cent of healthy calls; patience is far above them, so that its end is evidence of a failure.
//!
//! # What the caller must do
//! Let the late attempt go on, since it may still be the first to answer. Take the other attempt from the
//! retry budget. Do not record how long a late attempt took that lost: its time would raise the quantile
//! and with it the patience, as long as the upstream hangs.

use plimsoll_measure::Nanos;

/// How many times the quantile: a latency ten times that of 19 in 20 calls is hardly ever chance.
pub const MULTIPLE: u64 = 10;

/// The shortest patience: pauses of this length (garbage collection, a lost packet with its
/// retransmission after 200 ms) are no failures.
pub const SHORTEST: Nanos = Nanos::from_millis(250);

/// How long to wait, by the recent quantile and the configured time, which is never exceeded.
#[inline]
pub fn patience(estimate: Option<Nanos>, configured: Nanos) -> Nanos {
    let learned = estimate.map(|estimate| Nanos(estimate.0.saturating_mul(MULTIPLE)));
    learned.map_or(configured, |learned| learned.max(SHORTEST).min(configured))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_latency_within_bounds() {
        let check = |estimate: Option<u64>, configured: u64, expected: u64| {
            let patience =
                patience(estimate.map(Nanos::from_millis), Nanos::from_millis(configured));
            assert_eq!(patience, Nanos::from_millis(expected), "{estimate:?} {configured}");
        };
        check(None, 7_500, 7_500);
        check(Some(2), 7_500, 250);
        check(Some(100), 7_500, 1_000);
        check(Some(2_000), 7_500, 7_500);
        // configured to be shorter than the shortest
        check(Some(2), 100, 100);
        check(None, 100, 100);
        assert_eq!(patience(Some(Nanos(u64::MAX)), Nanos(5)), Nanos(5));
    }
}
