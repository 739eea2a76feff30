//! What relays cost, and the projection.

use super::page::Page;
use super::table::{Column, Notes, Row, Section, Shape, Table};
use super::{Extent, counted, grouped, listed};
use crate::cost::{Cost, CostOf, Known, Resource, Unknown, amount};
use crate::objectives::percent;
use crate::summary::Summary;
use crate::tone::Tone;
use plimsoll_measure::Nanos;

const COSTS: Shape = Shape {
    name: 20,
    columns: &[
        Column::figures("relays", 12),
        Column::figures("CPU/relay", 11),
        Column::figures("bytes", 9),
        Column::figures("Redis", 8),
        Column::figures("queries", 9),
        Column::figures("units", 9),
        Column::figures("a million", 12),
    ],
    leaving: &["queries", "Redis", "units", "bytes"],
    notes: Notes::Beneath,
};

impl Summary {
    /// Figures and costs per relay; `None` without prices.
    pub(crate) fn cost_table(&self, extent: Extent) -> Option<Table> {
        let cost = self.cost.as_ref()?;
        let chains = cost.chains.iter().take(extent.rows);
        let rows = std::iter::once(&cost.total).chain(chains).map(|own| row(cost, own));
        let section = Section {
            head: "cost per relay".into(),
            rows: rows.collect(),
            more: extent.more(cost.chains.len(), [""; 2]),
        };
        Some(Table { shape: &COSTS, sections: vec![section] })
    }

    /// What is said below the table: what is not known, and the projection, each with a lead.
    pub(crate) fn cost_lines(&self) -> Vec<(String, String)> {
        let Some(cost) = &self.cost else { return Vec::new() };
        let mut lines = Vec::new();
        for Unknown { of, figures, why } in cost.unknown() {
            let of = if of == ["all"] { String::new() } else { format!(" of {}", of.join(", ")) };
            lines.push(("not known".into(), format!("{}{of}: {why}", figures.join(", "))));
        }
        lines.extend(cost.notes.iter().map(|note| ("note".into(), note.clone())));
        match &cost.projection {
            None => {}
            Some(Err(why)) => lines.push(("projection".into(), format!("not known: {why}"))),
            Some(Ok(own)) => {
                let (instances, rate) = (own.instances, grouped(own.target_rate.round() as u64));
                let month = match &own.month {
                    Ok(month) => format!(", {} a month", money(cost, month.total)),
                    Err(why) => format!("; a month's cost is not known: {why}"),
                };
                let text = format!(
                    "{} for {rate} requests/s, {} of their vCPUs used{month}; it assumes that a relay takes as \
                     much CPU time at that rate",
                    counted(instances, "instance"),
                    percent(own.utilisation),
                );
                lines.push(("projection, not measured".into(), text));
                lines.extend(
                    own.steps.iter().map(|step| (format!("  {}", step.of), step.text.clone())),
                );
            }
        }
        lines
    }

    pub(super) fn write_cost(&self, extent: Extent, page: &mut Page) {
        let Some(table) = self.cost_table(extent) else { return };
        page.tables([table]);
        for (lead, text) in self.cost_lines() {
            page.text(&format!("  {lead}: "), &text);
        }
    }
}

/// An amount in the currency of the plan.
fn money(cost: &Cost, value: f64) -> String {
    let currency = cost.currency.map(|own| format!(" {own}")).unwrap_or_default();
    format!("{}{currency}", amount(value))
}

fn row(cost: &Cost, own: &CostOf) -> Row {
    let figure = |resource: Resource| own.per_relay(&own.amount(resource));
    let shown = |known: Known<f64>, show: &dyn Fn(f64) -> String| match known {
        Ok(value) => show(value),
        Err(_) => "–".to_string(),
    };
    let small =
        |value: f64| if value >= 100.0 { grouped(value.round() as u64) } else { plain(value) };
    let cells = [
        own.relays.clone().map_or("–".into(), grouped),
        shown(figure(Resource::Cpu), &|seconds| Nanos::from_secs_f64(seconds).to_string()),
        shown(figure(Resource::Traffic), &small),
        shown(figure(Resource::Redis), &small),
        shown(figure(Resource::Database), &small),
        shown(figure(Resource::ComputeUnits), &small),
        shown(own.per_million(), &|value| money(cost, value)),
    ];
    let tone = if own.name == "all" { Tone::Strong } else { Tone::Plain };
    Row::new(&own.name, cells).noted(parts(cost, own)).toned(tone)
}

/// The parts of the cost of a million relays, and what a million answered requests cost.
fn parts(cost: &Cost, own: &CostOf) -> String {
    // The currency is in the sum, if that is known.
    let is_summed = own.per_million().is_ok();
    let known = own.parts.iter().filter_map(|(resource, part)| {
        let part = own.per_relay(part).ok()? * 1e6;
        let part = if is_summed { amount(part) } else { money(cost, part) };
        Some(format!("{} {part}", resource.words()))
    });
    let known: Vec<String> = known.collect();
    let mut notes = Vec::new();
    if known.len() > 1 || !known.is_empty() && !is_summed {
        notes.push(format!("a million relays: {}", listed(known).join(" ")));
    }
    if let Some(Ok(upokt)) = &own.upokt {
        notes.push(format!("{} uPOKT", grouped(*upokt)));
    }
    if let Ok(value) = own.per_million_ok().as_ref()
        && own.ok < own.sent
    {
        notes.push(format!("a million requests answered as expected: {}", money(cost, *value)));
    }
    notes.join("; ")
}

/// A number below a hundred with three significant digits.
fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "0" && value > 0.0 { format!("{value:.1e}") } else { text.into() }
}
