//! A report on a run over several agents: the total with a row for each agent.
//!
//! Figures come from the joined seconds. What depends on a host is judged by agent: each has a verdict over its
//! own seconds and its own host's. An agent whose part is invalid makes the run invalid only if that can change
//! the result: if it sent more than 1 % of the requests, the 99th percentile may reflect it. Otherwise its
//! findings are warnings. Findings about the target and the network are those of the total.

use crate::objectives::percent;
use crate::summary::Summary;
use crate::verdict::MATERIAL;
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{ErrorClass, Finding, FindingId, Nanos, Requests, Severity, Side};

/// An agent's part of a run.
pub struct AgentPart {
    /// Its name.
    pub name: String,
    /// What its seconds alone say; `None` if it sent none.
    pub own: Option<AgentFigures>,
    /// When its clock started, minus when it should have, in nanoseconds, and the most by which that is off.
    pub skew: Option<(i64, Nanos)>,
    /// The end of its last second, if it was lost.
    pub lost: Option<Nanos>,
    /// Arrivals of its part that are unsent because it was lost.
    pub unsent: u64,
    /// The records of its requests, if the run has any.
    pub records: Option<AgentRecords>,
}

/// The records of an agent's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRecords {
    /// Requests of which there is one.
    pub records: u64,
    /// Requests of which there should be one.
    pub missing: u64,
    /// Why those are missing.
    pub why: String,
}

/// What an agent's seconds alone say: the part of a [`Summary`] that a run keeps for each agent. A whole one has megabytes.
pub struct AgentFigures {
    requests: Requests,
    lag_p99: Option<Nanos>,
    /// CPUs that it used, on average.
    cpus: f64,
    valid: bool,
    /// Of its own side.
    findings: Vec<Finding>,
    worker_busy: f64,
}

impl AgentFigures {
    /// From the report on an agent's seconds.
    pub fn of(own: &Summary) -> AgentFigures {
        let findings = own.verdict.findings.iter().filter(|own| own.side == Side::Generator);
        AgentFigures {
            requests: own.all.stats.requests,
            lag_p99: own.total.lag().quantile(0.99),
            cpus: own.total.host.cpu.as_secs_f64() / own.total.t.as_secs_f64().max(1e-9),
            valid: own.verdict.valid,
            findings: findings.cloned().collect(),
            worker_busy: own.verdict.headroom.worker_busy,
        }
    }
}

/// An agent in a report.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// Its name.
    pub name: String,
    /// Arrivals that it reported.
    pub scheduled: u64,
    /// Of these, ok.
    pub ok: u64,
    /// Its share of all arrivals, 0 to 1.
    pub share: f64,
    /// The 99th percentile of its lag.
    pub lag_p99: Option<Nanos>,
    /// CPUs that it used, on average.
    pub cpus: Option<f64>,
    /// Whether its figures describe the target.
    pub valid: bool,
    /// As in [`AgentPart`].
    pub skew: Option<(i64, Nanos)>,
    /// As in [`AgentPart`].
    pub lost: Option<Nanos>,
    /// As in [`AgentPart`].
    pub unsent: u64,
    /// As in [`AgentPart`].
    pub records: Option<AgentRecords>,
}

impl Summary {
    /// The report on a run with its agents.
    pub fn with_agents(mut self, parts: Vec<AgentPart>) -> Summary {
        let all = self.all.stats.requests.scheduled;
        let rows: Vec<AgentRow> = parts.iter().map(|part| row(part, all)).collect();
        let lost = self.all.stats.errors.get(ErrorClass::AgentLost) > 0;
        // What depends on a host is judged by agent.
        self.verdict.findings.retain(|finding| {
            finding.side != Side::Generator || (finding.id == FindingId::PlanNotHeld && lost)
        });
        let bad: f64 = rows.iter().filter(|row| !row.valid).map(|row| row.share).sum();
        let changes = bad > MATERIAL;
        for (part, row) in parts.iter().zip(&rows) {
            let findings = part.own.iter().flat_map(|own| &own.findings);
            self.verdict.findings.extend(findings.map(|finding| {
                let share = percent(row.share);
                let evidence =
                    format!("agent {} ({share} of the requests): {}", part.name, finding.evidence);
                let severity = match finding.severity {
                    Severity::Invalid if !changes => Severity::Warning,
                    severity => severity,
                };
                Finding { evidence, severity, ..finding.clone() }
            }));
        }
        self.verdict.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let invalid = self.verdict.findings.iter().find(|own| own.severity == Severity::Invalid);
        self.verdict.valid = invalid.is_none();
        self.verdict.limited_by = match (invalid, self.verdict.limited_by) {
            (Some(finding), _) => Some(finding.side),
            (None, Some(Side::Generator)) => None,
            (None, side) => side,
        };
        for part in &parts {
            let busy = part.own.as_ref().map_or(0.0, |own| own.worker_busy);
            self.verdict.headroom.worker_busy = self.verdict.headroom.worker_busy.max(busy);
        }
        self.agents = rows;
        self
    }
}

fn row(part: &AgentPart, all: u64) -> AgentRow {
    let own = part.own.as_ref();
    let requests = own.map(|own| own.requests).unwrap_or_default();
    AgentRow {
        name: part.name.clone(),
        scheduled: requests.scheduled,
        ok: requests.ok,
        share: requests.scheduled as f64 / all.max(1) as f64,
        lag_p99: own.and_then(|own| own.lag_p99),
        cpus: own.map(|own| own.cpus),
        valid: own.is_some_and(|own| own.valid),
        skew: part.skew,
        lost: part.lost,
        unsent: part.unsent,
        records: part.records.clone(),
    }
}

impl AgentRow {
    /// The verdict in a word.
    pub fn verdict(&self) -> &'static str {
        match (self.lost, self.valid) {
            (Some(_), _) => "LOST",
            (None, false) => "INVALID",
            (None, true) => "valid",
        }
    }

    /// That records of its requests are missing, and why.
    pub(crate) fn records_missing(&self) -> Option<String> {
        let own = self.records.as_ref().filter(|own| own.missing > 0)?;
        let all = counted(own.records + own.missing, "request");
        Some(format!("{} of the records of {all} are missing: {}", grouped(own.missing), own.why))
    }

    /// The skew in milliseconds with its bound: `+0.12 ± 0.08 ms`.
    pub fn skew_shown(&self) -> String {
        self.skew.map_or("-".into(), |(skew, bound)| {
            format!("{:+.2} ± {:.2} ms", skew as f64 / 1e6, bound.as_millis_f64())
        })
    }
}
