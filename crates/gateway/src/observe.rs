//! Counters, the metrics page, the access log and traces.

pub(crate) mod access_log;
pub(crate) mod events;
pub mod metrics;
pub(crate) mod stats;
pub(crate) mod traces;
