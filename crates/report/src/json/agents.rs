//! The agents of a run over several hosts.

use crate::fleet::AgentRow;
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct AgentFile<'a> {
    agent: &'a str,
    scheduled: u64,
    ok: u64,
    share: f64,
    lag_p99_ns: Option<u64>,
    cpus: Option<f64>,
    valid: bool,
    start_skew_ns: Option<i64>,
    start_skew_bound_ns: Option<u64>,
    lost_at_ns: Option<u64>,
    unsent: u64,
    records: Option<u64>,
    records_missing: Option<u64>,
    records_missing_why: Option<&'a str>,
}

impl<'a> AgentFile<'a> {
    pub(super) fn of(row: &'a AgentRow) -> AgentFile<'a> {
        AgentFile {
            agent: &row.name,
            scheduled: row.scheduled,
            ok: row.ok,
            share: row.share,
            lag_p99_ns: row.lag_p99.map(|lag| lag.0),
            cpus: row.cpus,
            valid: row.valid,
            start_skew_ns: row.skew.map(|(skew, _)| skew),
            start_skew_bound_ns: row.skew.map(|(_, bound)| bound.0),
            lost_at_ns: row.lost.map(|at| at.0),
            unsent: row.unsent,
            records: row.records.as_ref().map(|own| own.records),
            records_missing: row.records.as_ref().map(|own| own.missing),
            records_missing_why: row.records.as_ref().map(|own| own.why.as_str()),
        }
    }
}
