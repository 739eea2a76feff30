//! `agents/index.json`: what is known of the agents of a run besides their seconds, so that `plimsoll report` shows
//! them as the run's own report does.
//!
//! Figures are not in it: they come from `agents/NAME.jsonl`, which has each agent's seconds.

use crate::usage_error;
use anyhow::Context;
use plimsoll_fleet::nats::is_name;
use plimsoll_measure::wire::Reader;
use plimsoll_measure::{Nanos, RunFacts, Snapshot};
use plimsoll_plan::Plan;
use plimsoll_report::{AgentFigures, AgentPart, AgentRecords, Fold, Summary};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

const SCHEMA: &str = "plimsoll/agents/1";
const INDEX: &str = "agents/index.json";

/// What is known of an agent besides its seconds; see [`AgentPart`].
pub(super) struct AgentFacts {
    pub(super) name: String,
    pub(super) skew: Option<(i64, Nanos)>,
    pub(super) lost: Option<Nanos>,
    pub(super) unsent: u64,
    pub(super) records: Option<AgentRecords>,
}

impl AgentFacts {
    /// With the report on its seconds, if it has sent any.
    pub(super) fn with_seconds(self, own: Option<Summary>) -> AgentPart {
        AgentPart {
            name: self.name,
            own: own.as_ref().map(AgentFigures::of),
            skew: self.skew,
            lost: self.lost,
            unsent: self.unsent,
            records: self.records,
        }
    }
}

/// Adds an agent's seconds to a fold, and passes each to `each`; returns the facts of its part.
///
/// # Errors
/// A line is damaged.
pub(super) fn read_agent<R: BufRead>(
    plan: &Plan,
    reader: &mut Reader<R>,
    fold: &mut Fold<'_>,
    mut each: impl FnMut(&Snapshot),
) -> anyhow::Result<RunFacts> {
    while let Some(second) = reader.next_second()? {
        fold.add(&second);
        each(&second);
    }
    let by = "the loss of its agent";
    let start = reader.header().start_facts();
    Ok(reader
        .facts()
        .cloned()
        .unwrap_or_else(|| RunFacts::of_unfinished(start, plan.warmup, (None, fold.total().t), by)))
}

/// Writes what is known of the agents.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(folder: &Path, parts: &[AgentPart]) -> anyhow::Result<()> {
    let one = |part: &AgentPart| {
        let records = part
            .records
            .as_ref()
            .map(|own| json!({ "records": own.records, "missing": own.missing, "why": own.why }));
        json!({
            "agent": part.name,
            "start_skew_ns": part.skew.map(|(skew, _)| skew),
            "start_skew_bound_ns": part.skew.map(|(_, bound)| bound.0),
            "lost_at_ns": part.lost.map(|at| at.0),
            "unsent": part.unsent,
            "records": records,
        })
    };
    let agents: Vec<Value> = parts.iter().map(one).collect();
    let path = folder.join(INDEX);
    let part = path.with_extension("json.part");
    let text = json!({ "schema": SCHEMA, "agents": agents }).to_string() + "\n";
    let written = fs::write(&part, text).and_then(|()| fs::rename(&part, &path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The agents of the run in a directory, with their figures; `None` if it had none, or has not ended.
///
/// # Errors
/// What is known of them cannot be read.
pub(crate) fn agents_of(folder: &Path, plan: &Plan) -> anyhow::Result<Option<Vec<AgentPart>>> {
    let path = folder.join(INDEX);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let parts = facts_of(&text).map_err(|why| {
        usage_error(
            format!("{}: {why}", path.display()),
            "restore it, or remove it: the report then has no agents",
        )
    })?;
    parts
        .into_iter()
        .map(|facts| with_seconds(folder, plan, facts))
        .collect::<anyhow::Result<_>>()
        .map(Some)
}

fn facts_of(text: &[u8]) -> Result<Vec<AgentFacts>, String> {
    let all: Value = serde_json::from_slice(text).map_err(|why| why.to_string())?;
    let schema = all["schema"].as_str().unwrap_or_default();
    if schema != SCHEMA {
        return Err(format!("schema is \"{schema}\", expected \"{SCHEMA}\""));
    }
    let one = |own: &Value| {
        let nanos = |key: &str| own[key].as_u64().map(Nanos);
        let skew = own["start_skew_ns"].as_i64().zip(nanos("start_skew_bound_ns"));
        let records = own["records"].as_object().map(|_| AgentRecords {
            records: own["records"]["records"].as_u64().unwrap_or(0),
            missing: own["records"]["missing"].as_u64().unwrap_or(0),
            why: own["records"]["why"].as_str().unwrap_or_default().into(),
        });
        let name = own["agent"]
            .as_str()
            .filter(|name| is_name(name))
            .ok_or("an agent has no valid name")?;
        let (lost, unsent) = (nanos("lost_at_ns"), own["unsent"].as_u64().unwrap_or(0));
        Ok(AgentFacts { name: name.into(), skew, lost, unsent, records })
    };
    all["agents"].as_array().into_iter().flatten().map(one).collect()
}

fn with_seconds(folder: &Path, plan: &Plan, facts: AgentFacts) -> anyhow::Result<AgentPart> {
    let path = folder.join("agents").join(format!("{}.jsonl", facts.name));
    let file = match File::open(&path) {
        Ok(file) => file,
        // It has sent nothing.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(facts.with_seconds(None)),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let read = || -> anyhow::Result<Summary> {
        let mut reader = Reader::new(BufReader::new(file))?;
        let mut fold = Fold::new(plan);
        let own = read_agent(plan, &mut reader, &mut fold, |_| {})?;
        Ok(fold.finish(own))
    };
    let own = read().with_context(|| format!("cannot read {}", path.display()))?;
    Ok(facts.with_seconds(Some(own)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_index_is_refused() {
        let check = |text: &str, why: &str| {
            let found = facts_of(text.as_bytes()).map(|all| all.len()).unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        };
        check("", "EOF");
        check("{}", "schema is \"\"");
        check("{\"schema\":\"plimsoll/agents/9\"}", "plimsoll/agents/9");
        check(
            "{\"schema\":\"plimsoll/agents/1\",\"agents\":[{\"agent\":\"../../etc/x\"}]}",
            "no valid name",
        );
        check("{\"schema\":\"plimsoll/agents/1\",\"agents\":[{}]}", "no valid name");
    }
}
