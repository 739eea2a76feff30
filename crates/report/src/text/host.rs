//! The table of the host's unusual seconds; absent if there were none.

use super::table::{Column, Notes, Row, Section, Shape, Table};
use super::width::clean;
use super::{Extent, grouped, percent, shown};
use crate::summary::Summary;
use crate::timeline::{Span, Timeline};

const HOST: Shape = Shape {
    name: 16,
    columns: &[
        Column::figures("CPU", 8),
        Column::figures("steal", 9),
        Column::figures("run delay", 11),
        Column::figures("throttled", 11),
        Column::figures("dropped", 11),
        Column::figures("fullest", 22),
    ],
    leaving: &["CPU", "run delay"],
    notes: Notes::Beneath,
};

impl Summary {
    /// The host's unusual seconds; `None` if there were none.
    pub(crate) fn host_table(&self, extent: Extent) -> Option<Table> {
        self.whole()?;
        let section = |head: String, timeline: &Timeline| {
            let unusual = timeline.unusual();
            (!unusual.is_empty()).then(|| Section {
                head,
                rows: unusual.iter().take(extent.rows).map(|span| self.host_row(span)).collect(),
                more: extent.more(unusual.len(), [""; 2]),
            })
        };
        let runs = self.merged.iter().flat_map(|merged| &merged.runs);
        let of_runs = runs.filter_map(|run| section(clean(&run.label), &run.timeline));
        let sections: Vec<Section> =
            section("host".into(), &self.timeline).into_iter().chain(of_runs).collect();
        (!sections.is_empty()).then_some(Table { shape: &HOST, sections })
    }

    fn host_row(&self, span: &Span) -> Row {
        let share = |share: Option<f64>| share.map_or(String::new(), percent);
        let count = |n: u64| if n == 0 { String::new() } else { grouped(n) };
        let throttled = span.host.throttled.map(|throttled| throttled.time).unwrap_or_default();
        let throttled = if throttled.0 == 0 { String::new() } else { shown(Some(throttled)) };
        let fullest = span.fullest().map(|(name, share)| format!("{name} {}", percent(share)));
        Row::new(
            span.seconds.since(self.facts.warmup).to_string(),
            [
                share(span.cpu_busy()),
                share(span.steal()),
                share(span.run_delay()),
                throttled,
                count(span.dropped()),
                fullest.unwrap_or_default(),
            ],
        )
    }
}
