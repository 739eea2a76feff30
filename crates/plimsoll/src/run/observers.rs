//! What is read of the tested system during a run: other processes and logs. Each has a thread of its own.

use crate::logs::LogFollower;
use crate::scrape::Scraper;
use plimsoll_measure::Snapshot;
use plimsoll_plan::Plan;

/// The observers of a run.
#[derive(Default)]
pub(super) struct Observers {
    scraper: Option<Scraper>,
    logs: Option<LogFollower>,
}

impl Observers {
    /// Starts what the plan asks for.
    ///
    /// # Errors
    /// What the plan names on this host does not exist, or cannot be run.
    pub(super) fn start(plan: &Plan) -> anyhow::Result<Observers> {
        // Commands last, so that none runs if anything else fails.
        let scraper = Scraper::start(plan)?;
        Ok(Observers { scraper, logs: LogFollower::start(plan)? })
    }

    /// Adds what was read since the last call to a snapshot.
    pub(super) fn add_to(&self, second: &mut Snapshot) {
        self.scraper.iter().for_each(|own| own.add_to(second));
        self.logs.iter().for_each(|own| own.add_to(second));
    }

    /// Reads once more and ends; `None` without observers. `last` makes the snapshot for the results.
    pub(super) fn finish(self, last: impl FnOnce() -> Snapshot) -> Option<Snapshot> {
        if self.scraper.is_none() && self.logs.is_none() {
            return None;
        }
        let mut last = last();
        self.scraper.into_iter().for_each(|own| own.finish(&mut last));
        self.logs.into_iter().for_each(|own| own.finish(&mut last));
        Some(last)
    }
}
