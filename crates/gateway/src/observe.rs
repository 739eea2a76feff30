//! Counters, the metrics page and the access log.

pub(crate) mod access_log;
pub(crate) mod events;
pub mod metrics;
pub(crate) mod stats;
