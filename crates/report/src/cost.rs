//! What relays cost, and what a target rate would cost: [`Cost`], if the plan has `[cost]`.
//!
//! # Measured
//! Counters of the scraped processes after the warm-up, and the bytes that the load generator has read and
//! written, divided by the relays. Processes are read once a second, so that both ends of the time are off by
//! up to a second. What cannot be computed is an error with its reason ([`Known`]), and so is
//! every sum that needs it: nothing is guessed, and nothing is left out of a sum silently. CPU
//! time, queries and operations are known by chain only if each process serves one chain (`chain`
//! in `[[scrape]]`).
//!
//! # Compute units
//! On Pocket Network a relay costs CUPR compute units whatever its method, and a compute unit CUTTM ÷ CUCG
//! uPOKT: `uPOKT = floor(relays × CUPR × CUTTM ÷ CUCG)` (poktroll, `x/proof/types/claim.go`).
//!
//! # Projected
//! [`Projection`]: instances for a target rate if CPU time per relay stays as it was measured. That is an
//! assumption, so that each step of the arithmetic is shown.
//!
//! # Layout
//! - `usage`: what was used, in total and by chain
//! - `projection`: what a target rate would need

mod projection;
#[cfg(test)]
mod tests;
mod usage;

use crate::seconds::Seconds;
use crate::summary::Group;
use plimsoll_measure::{Nanos, Scraped, WallClock};
use plimsoll_plan::money::{Currency, upokt};
use plimsoll_plan::{CostRules, Scrape};
pub use projection::{Projection, Step};
use usage::Usage;

/// A figure, or why it is not known.
pub type Known<T> = Result<T, String>;

/// What has a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// CPU time.
    Cpu,
    /// Bytes between the load generator and the target.
    Traffic,
    /// Operations in Redis.
    Redis,
    /// Queries of a database.
    Database,
    /// Compute units of the network.
    ComputeUnits,
}

impl Resource {
    /// All, in the order of reports.
    pub const ALL: [Resource; 5] = [
        Resource::Cpu,
        Resource::Traffic,
        Resource::Redis,
        Resource::Database,
        Resource::ComputeUnits,
    ];

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Resource::Cpu => "CPU",
            Resource::Traffic => "traffic",
            Resource::Redis => "Redis",
            Resource::Database => "database",
            Resource::ComputeUnits => "compute units",
        }
    }

    /// As a name in files.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu",
            Resource::Traffic => "traffic",
            Resource::Redis => "redis",
            Resource::Database => "database",
            Resource::ComputeUnits => "compute_units",
        }
    }
}

/// What was used, and what it costs: of a chain, or in total.
#[derive(Clone, Debug)]
pub struct CostOf {
    /// The chain, or `all`.
    pub name: String,
    /// Requests sent.
    pub sent: u64,
    /// Requests answered as expected.
    pub ok: u64,
    /// Relays.
    pub relays: Known<u64>,
    /// CPU time of the processes.
    pub cpu: Known<Nanos>,
    /// Bytes read and written by the load generator.
    pub bytes: u64,
    /// Operations in Redis.
    pub redis: Known<u64>,
    /// Queries of a database.
    pub database: Known<u64>,
    /// Compute units of the network.
    pub compute_units: Known<u64>,
    /// What these cost on the network; `None` without `cuttm` and `cucg`.
    pub upokt: Option<Known<u64>>,
    /// What each resource costs, of those that have a price.
    pub parts: Vec<(Resource, Known<f64>)>,
}

impl CostOf {
    /// A figure per relay.
    pub fn per_relay(&self, figure: &Known<f64>) -> Known<f64> {
        match (figure, &self.relays) {
            (Err(why), _) | (Ok(_), Err(why)) => Err(why.clone()),
            (Ok(_), Ok(0)) => Err("there were no relays".into()),
            (Ok(figure), Ok(relays)) => Ok(figure / *relays as f64),
        }
    }

    /// What all of it costs; not known if a part is not.
    pub fn all(&self) -> Known<f64> {
        if self.parts.is_empty() {
            return Err("[cost] has no price for what is counted".into());
        }
        self.parts.iter().map(|(_, cost)| cost.clone()).sum()
    }

    /// What a million relays cost.
    pub fn per_million(&self) -> Known<f64> {
        self.per_relay(&self.all()).map(|cost| cost * 1e6)
    }

    /// What a million requests that were answered as expected cost.
    pub fn per_million_ok(&self) -> Known<f64> {
        let all = self.all()?;
        if self.ok == 0 {
            Err("no request was answered".into())
        } else {
            Ok(all / self.ok as f64 * 1e6)
        }
    }

    /// The amount of a resource.
    pub fn amount(&self, resource: Resource) -> Known<f64> {
        let number = |known: &Known<u64>| known.clone().map(|n| n as f64);
        match resource {
            Resource::Cpu => self.cpu.clone().map(|cpu| cpu.as_secs_f64()),
            Resource::Traffic => Ok(self.bytes as f64),
            Resource::Redis => number(&self.redis),
            Resource::Database => number(&self.database),
            Resource::ComputeUnits => number(&self.compute_units),
        }
    }
}

/// What the relays of a run cost.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The currency of all prices; `None` without prices.
    pub currency: Option<Currency>,
    /// The tag whose values are chains.
    pub by: String,
    /// The whole run.
    pub total: CostOf,
    /// By chain.
    pub chains: Vec<CostOf>,
    /// What distorts the figures.
    pub notes: Vec<String>,
    /// What a target rate would need; `None` if the plan has no target rate.
    pub projection: Option<Known<Projection>>,
}

/// What costs are computed from.
pub(crate) struct Basis<'b> {
    pub(crate) rules: &'b CostRules,
    pub(crate) scrapes: &'b [Scrape],
    /// The sums of the scrapes at the end of the run…
    pub(crate) scraped: &'b [Scraped],
    /// …and at the end of the warm-up.
    pub(crate) before: &'b [Scraped],
    /// The time between.
    pub(crate) seconds: Seconds,
    pub(crate) started_at: WallClock,
    pub(crate) all: &'b Group,
    /// The groups by the values of the tag.
    pub(crate) chains: &'b [Group],
}

impl Cost {
    pub(crate) fn of(basis: &Basis<'_>) -> Cost {
        let usage = Usage::of(basis);
        let mut chains: Vec<CostOf> = basis.chains.iter().map(|own| usage.of_chain(own)).collect();
        let mut total = usage.total();
        total.compute_units = compute_units(basis.rules, &total.relays, &chains);
        let network = basis.rules.network;
        let on_network = |units: &Known<u64>| {
            network.map(|network| units.clone().map(|units| upokt(network, [(units, 1)])))
        };
        // One floor for the total.
        total.upokt = on_network(&total.compute_units);
        for own in &mut chains {
            let cupr = basis.rules.cupr_of(&own.name).ok_or_else(|| no_cupr(&own.name));
            own.compute_units =
                own.relays.clone().and_then(|relays| Ok(relays.saturating_mul(cupr?)));
            own.upokt = on_network(&own.compute_units);
        }
        for own in chains.iter_mut().chain([&mut total]) {
            own.parts = parts(basis.rules, own);
        }
        let projection = basis.rules.target_rate;
        let projection = projection.map(|rate| Projection::of(basis, &usage, &total, rate));
        Cost {
            currency: basis.rules.currency(),
            by: basis.rules.by.clone(),
            notes: usage.notes(),
            total,
            chains,
            projection,
        }
    }

    /// All figures that are not known. Equal reasons of several chains are one.
    pub fn unknown(&self) -> Vec<Unknown<'_>> {
        let mut all: Vec<Unknown<'_>> = Vec::new();
        for own in std::iter::once(&self.total).chain(&self.chains) {
            for (figure, why) in own.unknown() {
                let place = all.iter().position(|known| known.why == why).unwrap_or(all.len());
                if place == all.len() {
                    all.push(Unknown { of: Vec::new(), figures: Vec::new(), why });
                }
                let known = &mut all[place];
                if !known.of.contains(&own.name.as_str()) {
                    known.of.push(&own.name);
                }
                if !known.figures.contains(&figure) {
                    known.figures.push(figure);
                }
            }
        }
        all
    }
}

/// Figures that are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown<'c> {
    /// Of which rows: chains, or `all`.
    pub of: Vec<&'c str>,
    /// Which.
    pub figures: Vec<&'static str>,
    /// Why.
    pub why: &'c str,
}

impl CostOf {
    /// The figures that are not known, and why; those that follow from others are left out.
    pub fn unknown(&self) -> Vec<(&'static str, &str)> {
        fn why<T>(known: &Known<T>) -> Option<&str> {
            known.as_ref().err().map(String::as_str)
        }
        let figures = [
            ("relays", why(&self.relays)),
            ("CPU", why(&self.cpu)),
            ("Redis operations", why(&self.redis)),
            ("database queries", why(&self.database)),
            ("compute units", why(&self.compute_units)),
        ];
        figures.into_iter().filter_map(|(name, why)| Some((name, why?))).collect()
    }
}

fn no_cupr(chain: &str) -> String {
    format!("the plan has no compute units per relay of {chain} (cost.cupr)")
}

/// Those of all chains; of all relays, if all have the same.
fn compute_units(rules: &CostRules, relays: &Known<u64>, chains: &[CostOf]) -> Known<u64> {
    if rules.cupr_by_chain.is_empty() {
        let cupr = rules.cupr.ok_or("the plan has no compute units per relay (cost.cupr)")?;
        return relays.clone().map(|relays| relays.saturating_mul(cupr));
    }
    let mut units = 0u64;
    for own in chains {
        let cupr = rules.cupr_of(&own.name).ok_or_else(|| no_cupr(&own.name))?;
        units = units.saturating_add(own.relays.clone()?.saturating_mul(cupr));
    }
    Ok(units)
}

/// What each resource costs that has a price.
fn parts(rules: &CostRules, of: &CostOf) -> Vec<(Resource, Known<f64>)> {
    const HOUR: f64 = 3_600.0;
    const GIB: f64 = (1u64 << 30) as f64;
    let price = |resource| match resource {
        Resource::Cpu => rules.vcpu_hour.as_ref().map(|price| price.value() / HOUR),
        Resource::Traffic => rules.traffic_gib.as_ref().map(|price| price.value() / GIB),
        Resource::Redis => rules.redis_operation.as_ref().map(|price| price.value()),
        Resource::Database => rules.database_query.as_ref().map(|price| price.value()),
        Resource::ComputeUnits => rules.compute_unit.as_ref().map(|price| price.value()),
    };
    let pokt = rules.pokt.as_ref().map(|price| price.value() / 1e6);
    let cost = |resource: Resource| {
        if let (Resource::ComputeUnits, Some(pokt), Some(upokt)) = (resource, pokt, &of.upokt) {
            return Some((resource, upokt.clone().map(|upokt| upokt as f64 * pokt)));
        }
        let price = price(resource)?;
        Some((resource, of.amount(resource).map(|amount| amount * price)))
    };
    Resource::ALL.into_iter().filter_map(cost).collect()
}

/// An amount of money as people read it: `682`, `4.31`, `0.0009120`.
pub(crate) fn amount(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 1_000.0 => plimsoll_measure::units::grouped(value.round() as u64),
        size if size >= 1.0 => format!("{value:.2}"),
        size => {
            let digits = (3 - size.log10().floor() as i32).clamp(2, 12) as usize;
            format!("{value:.digits$}")
        }
    }
}
