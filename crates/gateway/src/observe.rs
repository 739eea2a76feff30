//! Counters, the metrics page and the access log.

pub(crate) mod access_log;
pub mod metrics;
pub(crate) mod stats;
