//! The beginnings of unexpected answers, for error notes.
//!
//! A body that no check reads is discarded as it arrives. Of the first answer with an unexpected status,
//! by target and status, the beginning is kept. Later ones cost a comparison and no memory.

use super::Length;
use plimsoll_plan::{Plan, StatusRange};

/// Maximum length of a beginning, in bytes.
pub(crate) const EXCERPT_MAX: usize = 256;
/// Maximum number of beginnings kept by a worker.
const KEPT_MAX: usize = 64;

/// Which beginnings a worker keeps. The default keeps none.
#[derive(Default)]
pub(crate) struct Excerpts {
    /// The expected statuses, by request of the plan.
    expected: Box<[Vec<StatusRange>]>,
    /// The target and status of each beginning.
    kept: Vec<(u32, u16)>,
}

impl Excerpts {
    /// For the requests of a plan.
    pub(crate) fn of(plan: &Plan) -> Excerpts {
        let expected = plan.requests.iter().map(|spec| spec.expect.status.clone()).collect();
        Excerpts { expected, kept: Vec::with_capacity(KEPT_MAX) }
    }

    /// Whether to keep the beginning of this answer; later answers like it are not kept.
    pub(super) fn keeps(&mut self, target: u32, spec: u32, status: u16, length: Length) -> bool {
        let is_expected = self
            .expected
            .get(spec as usize)
            .is_none_or(|expected| expected.iter().any(|range| range.contains(&status)));
        let keeps = !is_expected
            && length != Length::Known(0)
            && self.kept.len() < KEPT_MAX
            && !self.kept.contains(&(target, status));
        if keeps {
            self.kept.push((target, status));
        }
        keeps
    }
}
