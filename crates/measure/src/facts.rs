//! Facts about a run other than its counts.

use crate::{Nanos, WallClock};

/// Facts about a run other than its counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFacts {
    /// When the run started.
    pub started_at: WallClock,
    /// How long the run was sending, excluding the warm-up.
    pub duration: Nanos,
    /// Time from the end of sending until every arrival had ended.
    pub drain: Nanos,
    /// Length of the warm-up.
    pub warmup: Nanos,
    /// Whether the run was stopped early.
    pub cut_short: bool,
    /// What stopped the run, if anything did: `Ctrl-C`, or an objective.
    pub stopped_by: Option<String>,
    /// CPUs that this process may run on.
    pub cpus: usize,
    /// Number of worker threads.
    pub workers: usize,
    /// What this host cannot carry, if the run was started with `--force` regardless.
    pub forced: Vec<String>,
}

/// Facts about a run that are known when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFacts {
    /// When the run started.
    pub started_at: WallClock,
    /// CPUs that this process may run on.
    pub cpus: usize,
    /// Number of worker threads.
    pub workers: usize,
    /// What this host cannot carry, if the run was started with `--force` regardless.
    pub forced: Vec<String>,
}

impl RunFacts {
    /// The facts of a run that left no record of its end: its process was killed, or its host lost power.
    /// `planned_to` is until when its seconds planned arrivals, if they did, and `end` the end of the last
    /// one; `warmup` is what was planned; `by` what stopped it.
    pub fn of_unfinished(
        start: StartFacts,
        warmup: Nanos,
        (planned_to, end): (Option<Nanos>, Nanos),
        by: &str,
    ) -> RunFacts {
        let planned_to = planned_to.unwrap_or(end).max(warmup.min(end));
        let StartFacts { started_at, cpus, workers, forced } = start;
        RunFacts {
            started_at,
            duration: planned_to - warmup,
            drain: end - planned_to,
            warmup: warmup.min(planned_to),
            cut_short: true,
            stopped_by: Some(by.into()),
            cpus,
            workers,
            forced,
        }
    }

    /// The facts of a run that goes on, at `end`; `warmup` is what was planned.
    pub fn so_far(start: StartFacts, warmup: Nanos, end: Nanos) -> RunFacts {
        let StartFacts { started_at, cpus, workers, forced } = start;
        RunFacts {
            started_at,
            duration: end - warmup,
            drain: Nanos::ZERO,
            warmup: warmup.min(end),
            cut_short: false,
            stopped_by: None,
            cpus,
            workers,
            forced,
        }
    }

    /// Whether the run was stopped, before its end or while it waited for the last answers.
    pub fn was_stopped(&self) -> bool {
        self.cut_short || self.stopped_by.is_some()
    }

    /// ` by Ctrl-C`; empty if nothing is known to have stopped the run.
    pub fn by(&self) -> String {
        self.stopped_by.as_ref().map(|what| format!(" by {what}")).unwrap_or_default()
    }
}
