//! The `scrapes` object: figures of other processes.

use crate::scrapes::{Process, Scrapes};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub(super) struct ScrapesFile<'a> {
    processes: Vec<ProcessFile<'a>>,
    groups: Vec<GroupFile<'a>>,
}

#[derive(Serialize)]
struct GroupFile<'a> {
    name: &'a str,
    relays: u64,
    cache: BTreeMap<&'a str, u64>,
    upstreams: BTreeMap<&'a str, u64>,
    evenness: Option<EvennessFile>,
}

#[derive(Serialize)]
struct EvennessFile {
    mean_share: f64,
    deviation_max: f64,
    of: String,
}

#[derive(Serialize)]
struct ProcessFile<'a> {
    name: &'a str,
    group: &'a str,
    url: &'a str,
    reads: u64,
    failed: u64,
    failures: &'a BTreeMap<String, u64>,
    span_ns: u64,
    restarts: u64,
    cpu_ns: Option<u64>,
    cpu_share: Option<f64>,
    resident_memory_bytes_max: Option<u64>,
    open_fds_max: Option<u64>,
    calls: Option<CallsFile<'a>>,
    relays: Option<u64>,
    share: Option<f64>,
    cpu_ns_per_call: Option<u64>,
    cpu_ns_per_relay: Option<u64>,
    upstreams: BTreeMap<&'a str, u64>,
    series_left_out: u64,
}

#[derive(Serialize)]
struct CallsFile<'a> {
    total: u64,
    outcomes: &'a BTreeMap<String, u64>,
    cache: &'a BTreeMap<String, u64>,
}

impl<'a> ScrapesFile<'a> {
    /// `None` if the plan has no scrapes.
    pub(super) fn of(scrapes: &'a Scrapes) -> Option<ScrapesFile<'a>> {
        if scrapes.processes.is_empty() {
            return None;
        }
        let group = |name: &'a str| GroupFile {
            name,
            relays: scrapes.relays(name),
            cache: scrapes.cache(name),
            upstreams: scrapes.upstreams(name),
            evenness: scrapes.evenness(name).map(|even| EvennessFile {
                mean_share: even.mean_share,
                deviation_max: even.deviation_max,
                of: even.of,
            }),
        };
        let process = |process: &'a Process| ProcessFile {
            name: &process.name,
            group: &process.group,
            url: &process.url,
            reads: process.scraped.reads,
            failed: process.scraped.failed(),
            failures: &process.scraped.failures,
            span_ns: process.span.0,
            restarts: process.restarts,
            cpu_ns: process.cpu.map(|cpu| cpu.0),
            cpu_share: process.cpu_share(),
            resident_memory_bytes_max: process.memory_max,
            open_fds_max: process.scraped.max("process_open_fds").map(|n| n as u64),
            calls: process.calls.as_ref().map(|calls| CallsFile {
                total: calls.total,
                outcomes: &calls.outcomes,
                cache: &calls.cache,
            }),
            relays: process.relays.as_ref().map(|relays| relays.total),
            share: scrapes.share(process),
            cpu_ns_per_call: process.cpu_per_call().map(|cpu| cpu.0),
            cpu_ns_per_relay: process.cpu_per_relay().map(|cpu| cpu.0),
            upstreams: process
                .relays
                .iter()
                .flat_map(|relays| &relays.upstreams)
                .map(|(name, n)| (name.as_str(), *n))
                .collect(),
            series_left_out: process.scraped.left_out,
        };
        Some(ScrapesFile {
            processes: scrapes.processes.iter().map(process).collect(),
            groups: scrapes.groups().into_iter().map(group).collect(),
        })
    }
}
