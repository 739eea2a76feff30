//! Facts about a run other than its counts.

use crate::{Nanos, Note, WallClock};

/// Facts about a run other than its counts.
#[derive(Clone, Debug)]
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
    /// The first error of each class, as reported by the system or the target, and the first
    /// unexpected answer by target and status; at most [`Note::MAX`].
    pub notes: Vec<Note>,
    /// What this host cannot carry, if the run was started with `--force` regardless.
    pub forced: Vec<String>,
}

impl RunFacts {
    /// Whether the run was stopped, before its end or while it waited for the last answers.
    pub fn was_stopped(&self) -> bool {
        self.cut_short || self.stopped_by.is_some()
    }

    /// ` by Ctrl-C`; empty if nothing is known to have stopped the run.
    pub fn by(&self) -> String {
        self.stopped_by.as_ref().map(|what| format!(" by {what}")).unwrap_or_default()
    }
}
