//! What is known of a run besides its counts.

use crate::{Nanos, Note, WallClock};

/// What is known of a run besides its counts.
#[derive(Clone, Debug)]
pub struct RunFacts {
    /// When it began.
    pub started_at: WallClock,
    /// How long it was sending, the warm-up left out.
    pub duration: Nanos,
    /// How much longer it took until every arrival had ended.
    pub drain: Nanos,
    /// How long the warm-up was.
    pub warmup: Nanos,
    /// Whether it was stopped before its end.
    pub cut_short: bool,
    /// Worker threads.
    pub workers: usize,
    /// The first error of each class, in the system's or the target's words.
    pub notes: Vec<Note>,
    /// What this host could not carry of the plan, where the run was started all the same
    /// (`--force`).
    pub forced: Vec<String>,
}
