//! The agents of a run over several hosts, with a row for each.

use super::page::Page;
use super::table::{Column, Notes, Row, Shape, Table};
use crate::fleet::AgentRow;
use crate::objectives::percent;
use crate::summary::Summary;
use crate::tone::Tone;
use plimsoll_measure::units::grouped;

const AGENTS: Shape = Shape {
    name: 16,
    columns: &[
        Column::figures("requests", 12),
        Column::figures("share", 9),
        Column::figures("ok", 9),
        Column::figures("lag p99", 10),
        Column::figures("CPUs", 7),
        Column::figures("start skew", 20),
        Column::words("  verdict", 10),
    ],
    leaving: &["share", "CPUs", "start skew", "lag p99"],
    notes: Notes::Beneath,
};

impl Summary {
    /// A row for each agent.
    pub(super) fn write_agents(&self, page: &mut Page) {
        if self.agents.is_empty() {
            return;
        }
        let rows = self.agents.iter().map(row).collect();
        page.table(&Table::of(&AGENTS, "agent".into(), rows));
        page.gap();
    }
}

fn row(agent: &AgentRow) -> Row {
    let tone = match (agent.lost, agent.valid) {
        (None, true) => Tone::Plain,
        _ => Tone::Bad,
    };
    let cells = [
        grouped(agent.scheduled),
        percent(agent.share),
        percent(agent.ok as f64 / agent.scheduled.max(1) as f64),
        agent.lag_p99.map_or("-".into(), |lag| lag.to_string()),
        agent.cpus.map_or("-".into(), |cpus| format!("{cpus:.2}")),
        agent.skew_shown(),
        format!("  {}", agent.verdict()),
    ];
    let row = Row::new(&agent.name, cells).toned(tone);
    let lost = agent.lost.map(|at| {
        let unsent = grouped(agent.unsent);
        format!("lost: its last second ended at {at}; {unsent} of its requests are unsent")
    });
    let notes: Vec<String> = lost.into_iter().chain(agent.records_missing()).collect();
    if notes.is_empty() { row } else { row.noted(notes.join("; ")) }
}
