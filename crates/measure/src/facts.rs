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
    /// Number of worker threads.
    pub workers: usize,
    /// The first error of each class, as reported by the system or the target.
    pub notes: Vec<Note>,
    /// What this host cannot carry, if the run was started with `--force` regardless.
    pub forced: Vec<String>,
}
