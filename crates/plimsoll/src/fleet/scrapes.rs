//! What the coordinator of a run scrapes from other processes (`[[scrape]]`), second by second.
//!
//! It is kept as another file beside the agents', with seconds that have nothing but metrics. The report joins it
//! as it joins an agent's, so there is one way from seconds to a report.

use super::result::{AgentFiles, SCRAPES};
use crate::run_dir::header;
use crate::scrape::Scraper;
use plimsoll_measure::wire::{Header, to_line};
use plimsoll_measure::{Nanos, Snapshot, StartFacts};
use plimsoll_plan::Plan;

/// The name of the file: agents' names have no dots.
const NAME: &str = "coordinator.scrapes";

/// The scrapes of a run.
pub(super) struct Scrapes {
    scraper: Scraper,
    header: Header,
    /// A second without counts.
    blank: Snapshot,
    /// Whether the header is written.
    begun: bool,
    /// The end of the last second that was written.
    at: Nanos,
}

impl Scrapes {
    /// Starts scraping; `None` if the plan has no scrapes.
    pub(super) fn start(plan: &Plan, start: &StartFacts) -> anyhow::Result<Option<Scrapes>> {
        let scraper = Scraper::start(plan)?;
        Ok(scraper.map(|scraper| Scrapes {
            scraper,
            header: header(plan, start, Vec::new()),
            blank: plan.blank_snapshot(),
            begun: false,
            at: Nanos::ZERO,
        }))
    }

    /// Adds what was scraped since the last call to a second of the run, and keeps it.
    pub(super) fn add_to(
        &mut self,
        second: &mut Snapshot,
        files: &mut AgentFiles,
    ) -> anyhow::Result<()> {
        let mut own = self.blank.clone();
        self.scraper.add_to(&mut own);
        for (place, scraped) in own.scrapes.iter().enumerate() {
            second.scraped(place, scraped);
        }
        self.write(own, second.t, files)
    }

    /// Scrapes once more: the last second is followed by metrics alone.
    pub(super) fn finish(self, files: &mut AgentFiles) -> anyhow::Result<()> {
        let mut last = self.blank;
        self.scraper.finish(&mut last);
        if !self.begun {
            files.add(SCRAPES, NAME, &self.header.to_line())?;
        }
        write_second(files, &self.header, last, self.at)
    }

    fn write(&mut self, own: Snapshot, t: Nanos, files: &mut AgentFiles) -> anyhow::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            files.add(SCRAPES, NAME, &self.header.to_line())?;
        }
        // A file of seconds has no gaps.
        while t - self.at > Nanos::from_secs(1) {
            self.at += Nanos::from_secs(1);
            write_second(files, &self.header, self.blank.clone(), self.at)?;
        }
        self.at = t;
        write_second(files, &self.header, own, t)
    }
}

fn write_second(
    files: &mut AgentFiles,
    header: &Header,
    mut own: Snapshot,
    t: Nanos,
) -> anyhow::Result<()> {
    own.t = t;
    files.add(SCRAPES, NAME, &to_line(&own, header))
}
