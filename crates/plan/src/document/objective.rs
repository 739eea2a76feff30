//! Reads objectives.

use super::{Plan, read_pairs};
use crate::{Objective, RequestSpec, Stream, Target};
use plimsoll_config::Table;

impl Plan {
    /// Adds an objective, such as one from the command line.
    ///
    /// # Errors
    /// A message and a hint.
    pub fn add_objective(&mut self, text: &str) -> Result<(), (String, String)> {
        let objective = Objective::parse(text)?;
        objective.check_narrowing(&self.targets, &self.streams)?;
        objective.check_requests(&self.requests)?;
        self.objectives.push(objective);
        Ok(())
    }
}

/// Reads the objectives. What they are narrowed to is checked only if the streams are valid.
pub(super) fn read_objectives(
    root: &Table<'_>,
    (targets, requests): (&[Target], &[RequestSpec]),
    streams: Option<&[Stream]>,
) -> Vec<Objective> {
    let tables = root.field("objective").map(|f| f.tables("[[objective]]")).unwrap_or_default();
    let mut objectives = Vec::with_capacity(tables.len());
    for table in tables {
        objectives.extend(read_objective(&table, (targets, requests), streams));
        table.close();
    }
    objectives
}

fn read_objective(
    table: &Table<'_>,
    (targets, requests): (&[Target], &[RequestSpec]),
    streams: Option<&[Stream]>,
) -> Option<Objective> {
    let narrowed = table.field("where").and_then(|f| Some((f.table("where")?, f)));
    let abort = table.field("abort").and_then(|f| f.table("abort"));
    let Some(that) = table.field("that") else {
        table.problem("an objective needs \"that\"", "add that = \"latency.p99 < 250ms\"");
        return None;
    };
    let mut objective = match Objective::parse(&that.open_text("the objective")?) {
        Ok(objective) => objective,
        Err((message, hint)) => {
            that.problem(message, &hint);
            return None;
        }
    };
    let at = narrowed.as_ref().map_or(&that, |(_, field)| field);
    if let Some((narrowing, field)) = &narrowed {
        if !objective.narrowed.is_empty() {
            field.problem_with_key("\"that\" already contains \"where\"", "keep one");
            return None;
        }
        objective.narrowed = read_pairs(narrowing, "a value of \"where\"");
    }
    if let Some(streams) = streams
        && let Err((message, hint)) = objective.check_narrowing(targets, streams)
    {
        at.problem(message, &hint);
    }
    // Without any requests, their own problems are reported.
    if !requests.is_empty()
        && let Err((message, hint)) = objective.check_requests(requests)
    {
        that.problem(message, &hint);
    }
    if let Some(abort) = abort {
        let after = abort.field("after").and_then(|f| f.duration()).unwrap_or_default();
        objective.abort_after = Some(after.into());
        abort.close();
    }
    Some(objective)
}
