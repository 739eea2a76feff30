//! How a service's calls survive failing upstreams.

use plimsoll_measure::Nanos;

use super::ByMethod;

/// Where transactions are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sending {
    /// To one upstream, and to another one if it does not answer.
    #[default]
    One,
    /// To all upstreams at once.
    All,
}

impl Sending {
    /// The names in documents.
    pub const NAMES: [(&'static str, Sending); 2] = [("one", Sending::One), ("all", Sending::All)];

    /// The name in documents.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, sending)| *sending == self).map_or("", |(word, _)| word)
    }
}

/// The maximum of upstreams that must agree.
pub const AGREE_MAX: u8 = 9;

/// How many upstreams must agree on reads: 1 (no agreement) to [`AGREE_MAX`], by method.
pub type Agree = ByMethod<u8>;

/// How the calls of a service survive failing upstreams.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resilience {
    /// Retries are at most this share of the calls, 0 to 1, plus [`Resilience::retry_floor`].
    pub retry_budget: f64,
    /// Retries per second that are possible in any case, 0 to 10,000.
    pub retry_floor: f64,
    /// The quantile of the latency after which a call is hedged, [`HEDGE_MIN`] to [`HEDGE_MAX`];
    /// `None`: never.
    pub hedge: Option<f64>,
    /// Hedges are at most this share of the calls, 0 to 1.
    pub hedge_budget: f64,
    /// How long an attempt may take before another upstream is tried, too; `None`: a quarter of the
    /// service's timeout.
    pub patience: Option<Nanos>,
    /// How long an upstream that has returned takes to get its full share of the calls.
    pub slow_start: Nanos,
}

/// The lowest quantile for hedging: below it, more than half of the calls would be hedged.
pub const HEDGE_MIN: f64 = 0.5;

/// The highest quantile for hedging: above it, thousands of calls would be needed for an estimate.
pub const HEDGE_MAX: f64 = 0.999;

/// The maximum of [`Resilience::retry_floor`].
pub const RETRY_FLOOR_MAX: f64 = 10_000.0;

impl Default for Resilience {
    fn default() -> Resilience {
        Resilience {
            retry_budget: 0.1,
            retry_floor: 10.0,
            hedge: None,
            hedge_budget: 0.1,
            patience: None,
            slow_start: Nanos::from_secs(10),
        }
    }
}
