//! What is counted, shown and logged. It knows figures, not where they come from.

pub(crate) mod access_log;
pub mod metrics;
pub(crate) mod stats;
