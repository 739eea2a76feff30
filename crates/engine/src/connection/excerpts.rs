//! The first answers with an unexpected status, by target and status, for error notes.
//!
//! A body that no check reads is discarded as it arrives; of these answers, the beginning is kept. Later
//! answers of the same kind cost a comparison and no memory.

use plimsoll_measure::Note;
use plimsoll_plan::{Plan, StatusRange};

/// Maximum length of a beginning, in bytes.
pub(crate) const EXCERPT_MAX: usize = 256;
/// Maximum number of answers noted by a worker.
const NOTED_MAX: usize = Note::STATUSES_MAX;

/// The answers that a worker notes. The default notes none.
#[derive(Default)]
pub(crate) struct Excerpts {
    /// The expected statuses, by request of the plan.
    expected: Box<[Vec<StatusRange>]>,
    /// The target and status of each answer.
    noted: Vec<(u32, u16)>,
}

impl Excerpts {
    /// For the requests of a plan.
    pub(crate) fn of(plan: &Plan) -> Excerpts {
        let expected = plan.requests.iter().map(|spec| spec.expect.status.clone()).collect();
        Excerpts { expected, noted: Vec::with_capacity(NOTED_MAX) }
    }

    /// Whether this answer is the first of its kind and its status is unexpected. `spec` is the request's
    /// index in the plan.
    pub(super) fn is_first(&mut self, target: u32, spec: u32, status: u16) -> bool {
        let is_expected = self
            .expected
            .get(spec as usize)
            .is_none_or(|expected| expected.iter().any(|range| range.contains(&status)));
        let is_first =
            !is_expected && self.noted.len() < NOTED_MAX && !self.noted.contains(&(target, status));
        if is_first {
            self.noted.push((target, status));
        }
        is_first
    }

    /// The answer that was the first of its kind is not noted after all; the next may be.
    pub(crate) fn forget(&mut self, target: u32, status: u16) {
        self.noted.retain(|noted| *noted != (target, status));
    }
}
