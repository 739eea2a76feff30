//! What is known of a run besides its counts.

use crate::{Nanos, Note, WallClock};

/// What is known of a run besides its counts.
#[derive(Clone, Debug)]
pub struct RunFacts {
    /// When it began.
    pub started_at: WallClock,
    /// How long was sent, the warm-up left out.
    pub duration: Nanos,
    /// How much longer the last fate was open.
    pub drain: Nanos,
    /// How long the warm-up was.
    pub warmup: Nanos,
    /// Whether it was stopped before its end.
    pub cut_short: bool,
    /// Worker threads.
    pub workers: usize,
    /// What errors said.
    pub notes: Vec<Note>,
}
