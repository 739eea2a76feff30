//! A process or control group of this host, whose usage becomes the metrics that processes usually export.
//!
//! The CPU time of a process with its descendants may go back by a few ticks while a child is being reaped; a
//! counter that goes back would count as a restart, so that the largest time seen is kept. If another process
//! has got the id, nothing is read any more.

use plimsoll_host::{Source, Used};
use plimsoll_measure::prometheus::Series;
use plimsoll_measure::{Nanos, Scraped, WallClock};
use plimsoll_plan::{Scrape, ScrapeSource};

/// Start times of one process differ by this at most: the time of boot is adjusted with the clock.
const STARTED_JITTER_S: f64 = 2.0;

/// What is read.
enum Which {
    Process(u32),
    Group(String),
}

/// A process or group that is read each second.
pub(super) struct Local {
    source: Source,
    which: Which,
    /// When the process started.
    started: Option<f64>,
    cpu_max: Nanos,
}

impl Local {
    /// `None` for a page.
    pub(super) fn of(scrape: &Scrape) -> Option<Local> {
        let which = match &scrape.source {
            ScrapeSource::Url { .. } => return None,
            ScrapeSource::Pid(pid) => Which::Process(*pid),
            ScrapeSource::Cgroup(path) => Which::Group(path.clone()),
        };
        Some(Local { source: Source::host(), which, started: None, cpu_max: Nanos::ZERO })
    }

    /// What it has used.
    pub(super) fn used(&self) -> Result<Used, String> {
        match &self.which {
            Which::Process(pid) => Used::of_process(&self.source, *pid),
            Which::Group(path) => Used::of_cgroup(&self.source, path),
        }
    }

    /// Reads it as a page of metrics.
    pub(super) fn read(&mut self, at: WallClock) -> Scraped {
        let used = match self.used() {
            Ok(used) => used,
            Err(why) => return Scraped::failure(why),
        };
        let mut cpu = used.cpu;
        if let Which::Process(pid) = self.which {
            let known = self.started.zip(used.started);
            if known.is_some_and(|(own, now)| (own - now).abs() > STARTED_JITTER_S) {
                return Scraped::failure(format!(
                    "process {pid} has ended, and another one has its id"
                ));
            }
            self.started = self.started.or(used.started);
            self.cpu_max = self.cpu_max.max(cpu);
            cpu = self.cpu_max;
        }
        let figures = [
            ("process_cpu_seconds_total", Some(cpu.as_secs_f64())),
            ("process_resident_memory_bytes", used.memory_bytes.map(|n| n as f64)),
            ("process_start_time_seconds", self.started),
            ("process_open_fds", used.open_fds.map(|n| n as f64)),
        ];
        let series = |name: &str| Series { name: name.into(), labels: Vec::new() };
        let figures = figures.into_iter().filter_map(|(name, value)| Some((series(name), value?)));
        Scraped::page(at, figures.collect(), &[])
    }
}
