//! What a summary covers, if that is not one whole run.

use super::cost::CostFile;
use super::host::HostFile;
use super::logs::LogFile;
use super::scrapes::ScrapesFile;
use crate::merge::{Merged, MergedRun};
use crate::narrow::Filters;
use crate::summary::Summary;
use plimsoll_measure::Listed;
use serde::Serialize;

/// What a summary is narrowed to. Times count from the end of the warm-up.
#[derive(Serialize)]
pub(super) struct NarrowedFile<'a> {
    targets: &'a [String],
    tags: &'a [String],
    streams: &'a [String],
    stages: &'a [String],
    from_ns: Option<u64>,
    to_ns: Option<u64>,
    /// Arrivals of the run, selected or not.
    scheduled_in_all: u64,
    /// Fields that are `null` or empty because they are not known for these requests alone.
    left_out: Vec<&'static str>,
    /// Why the records of single requests could not be used.
    records_unused: Option<&'a str>,
    verdict_covers: &'static str,
}

impl<'a> NarrowedFile<'a> {
    pub(super) fn of(summary: &'a Summary) -> NarrowedFile<'a> {
        let Filters { targets, tags, streams, stages, from, to } = summary.narrow.filters();
        NarrowedFile {
            targets,
            tags,
            streams,
            stages,
            from_ns: from.map(|from| from.0),
            to_ns: to.map(|to| to.0),
            scheduled_in_all: summary.scheduled,
            left_out: summary.left_out().into_iter().map(|(name, _)| name).collect(),
            records_unused: summary.records_unused.as_deref(),
            verdict_covers: summary.verdict_covers(),
        }
    }
}

/// The runs of a merged summary.
#[derive(Serialize)]
pub(super) struct MergedFile<'a> {
    plans: usize,
    active_ns: u64,
    runs: Vec<RunFile<'a>>,
    repeated: Vec<RepeatedFile<'a>>,
}

#[derive(Serialize)]
struct RunFile<'a> {
    run: &'a str,
    plan: &'a str,
    digest: String,
    started_at: String,
    seed: u64,
    duration_ns: u64,
    cut_short: bool,
    scheduled: u64,
    ok: u64,
    share: f64,
    valid: bool,
    limited_by: &'static str,
    host: HostFile,
    #[serde(skip_serializing_if = "Option::is_none")]
    scrapes: Option<ScrapesFile<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<LogFile<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<CostFile<'a>>,
}

#[derive(Serialize)]
struct RepeatedFile<'a> {
    run: &'a str,
    same_as: &'a str,
}

impl<'a> MergedFile<'a> {
    pub(super) fn of(merged: &'a Merged) -> MergedFile<'a> {
        let repeated = merged.repeated.iter().map(|(run, same_as)| RepeatedFile { run, same_as });
        MergedFile {
            plans: merged.plans,
            active_ns: merged.active.0,
            runs: merged.runs.iter().map(|run| run_file(merged, run)).collect(),
            repeated: repeated.collect(),
        }
    }
}

fn run_file<'a>(merged: &Merged, run: &'a MergedRun) -> RunFile<'a> {
    RunFile {
        run: &run.label,
        plan: &run.plan,
        digest: format!("{:016x}", run.digest),
        started_at: run.started_at.rfc3339(),
        seed: run.seed,
        duration_ns: run.duration.0,
        cut_short: run.cut_short,
        scheduled: run.scheduled,
        ok: run.ok,
        share: merged.share(run),
        valid: run.valid,
        limited_by: run.limited_by.map_or("none", |side| side.name()),
        host: HostFile::of(&run.timeline),
        scrapes: ScrapesFile::of(&run.scrapes),
        logs: LogFile::all(&run.logs),
        cost: run.cost.as_ref().map(CostFile::of),
    }
}
