//! The agents of a run over several hosts, as a table of the page.

use super::tables::Writer;
use crate::objectives::percent;
use crate::summary::Summary;
use crate::text::clean;
use crate::tone::Tone;
use plimsoll_measure::units::grouped;

const HEADS: [&str; 9] =
    ["agent", "requests", "share", "ok", "unsent", "lag p99", "CPUs", "start skew", "verdict"];

impl Summary {
    /// A row for each agent.
    pub(super) fn put_agents(&self, html: &mut String) {
        if self.agents.is_empty() {
            return;
        }
        let words = (1..HEADS.len()).map(|column| column == HEADS.len() - 1).collect();
        let mut table = Writer::begin(html, "Agents", &HEADS.map(String::from), words);
        for agent in &self.agents {
            let verdict = match agent.lost {
                Some(at) => format!("{}: its last second ended at {at}", agent.verdict()),
                None => agent.verdict().into(),
            };
            let verdict = match agent.records_missing() {
                Some(missing) => format!("{verdict}; {missing}"),
                None => verdict,
            };
            let cells = [
                grouped(agent.scheduled),
                percent(agent.share),
                percent(agent.ok as f64 / agent.scheduled.max(1) as f64),
                grouped(agent.unsent),
                agent.lag_p99.map_or("–".into(), |lag| lag.to_string()),
                agent.cpus.map_or("–".into(), |cpus| format!("{cpus:.2}")),
                agent.skew_shown(),
                verdict,
            ];
            let good = agent.lost.is_none() && agent.valid;
            table.row(&clean(&agent.name), &cells, if good { Tone::Plain } else { Tone::Bad });
        }
        table.end();
    }
}
