//! The `cost` object. What is not known is `null`, and listed with its reason in `unknown`.

use crate::cost::{Cost, CostOf, Known, Projection, Resource, Step, Unknown};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub(super) struct CostFile<'a> {
    currency: Option<String>,
    by: &'a str,
    total: CostOfFile,
    chains: BTreeMap<&'a str, CostOfFile>,
    unknown: Vec<UnknownFile<'a>>,
    notes: &'a [String],
    projection: Option<ProjectionFile<'a>>,
    projection_unknown: Option<&'a str>,
}

#[derive(Serialize)]
struct CostOfFile {
    requests_sent: u64,
    requests_ok: u64,
    relays: Option<u64>,
    cpu_ns_per_relay: Option<f64>,
    bytes_per_relay: Option<f64>,
    redis_operations_per_relay: Option<f64>,
    database_queries_per_relay: Option<f64>,
    compute_units_per_relay: Option<f64>,
    upokt: Option<u64>,
    per_million_relays: Option<f64>,
    per_million_ok: Option<f64>,
    /// Of a million relays.
    parts: BTreeMap<&'static str, Option<f64>>,
}

#[derive(Serialize)]
struct UnknownFile<'a> {
    of: Vec<&'a str>,
    figures: Vec<&'static str>,
    why: &'a str,
}

#[derive(Serialize)]
struct ProjectionFile<'a> {
    target_rate: f64,
    utilisation: f64,
    measured_rate: f64,
    measured_instances: u64,
    relays_per_request: f64,
    cpu_ns_per_relay: u64,
    vcpus: f64,
    instances: u64,
    month: Option<MonthFile>,
    month_unknown: Option<&'a str>,
    arithmetic: Vec<String>,
}

#[derive(Serialize)]
struct MonthFile {
    instances: f64,
    usage: BTreeMap<&'static str, f64>,
    total: f64,
}

impl<'a> CostFile<'a> {
    pub(super) fn of(cost: &'a Cost) -> CostFile<'a> {
        let unknown = cost.unknown().into_iter();
        let projection = cost.projection.as_ref();
        CostFile {
            currency: cost.currency.map(|own| own.to_string()),
            by: &cost.by,
            total: cost_of_file(&cost.total),
            chains: cost.chains.iter().map(|own| (own.name.as_str(), cost_of_file(own))).collect(),
            unknown: unknown
                .map(|Unknown { of, figures, why }| UnknownFile { of, figures, why })
                .collect(),
            notes: &cost.notes,
            projection: projection.and_then(|own| own.as_ref().ok()).map(projection_file),
            projection_unknown: projection.and_then(|own| own.as_ref().err()).map(String::as_str),
        }
    }
}

fn cost_of_file(own: &CostOf) -> CostOfFile {
    let per_relay = |resource: Resource| own.per_relay(&own.amount(resource)).ok();
    let part = |(resource, cost): &(Resource, Known<f64>)| {
        (resource.name(), own.per_relay(cost).ok().map(|cost| cost * 1e6))
    };
    CostOfFile {
        requests_sent: own.sent,
        requests_ok: own.ok,
        relays: own.relays.clone().ok(),
        cpu_ns_per_relay: per_relay(Resource::Cpu).map(|seconds| seconds * 1e9),
        bytes_per_relay: per_relay(Resource::Traffic),
        redis_operations_per_relay: per_relay(Resource::Redis),
        database_queries_per_relay: per_relay(Resource::Database),
        compute_units_per_relay: per_relay(Resource::ComputeUnits),
        upokt: own.upokt.clone().and_then(Result::ok),
        per_million_relays: own.per_million().ok(),
        per_million_ok: own.per_million_ok().ok(),
        parts: own.parts.iter().map(part).collect(),
    }
}

fn projection_file(own: &Projection) -> ProjectionFile<'_> {
    let month = own.month.as_ref();
    let usage = |used: &Vec<(Resource, f64)>| {
        used.iter().map(|(resource, cost)| (resource.name(), *cost)).collect()
    };
    ProjectionFile {
        target_rate: own.target_rate,
        utilisation: own.utilisation,
        measured_rate: own.measured_rate,
        measured_instances: own.measured_instances,
        relays_per_request: own.relays_per_request,
        cpu_ns_per_relay: own.cpu_per_relay.0,
        vcpus: own.vcpus,
        instances: own.instances,
        month: month.ok().map(|month| MonthFile {
            instances: month.instances,
            usage: usage(&month.usage),
            total: month.total,
        }),
        month_unknown: month.err().map(String::as_str),
        arithmetic: own.steps.iter().map(|Step { of, text }| format!("{of}: {text}")).collect(),
    }
}
