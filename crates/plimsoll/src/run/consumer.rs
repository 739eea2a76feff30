//! What happens to a run's seconds: they are summed, written, shown, and judged by objectives that stop the
//! run.

use super::progress::Progress;
use super::{Finished, Views};
use crate::host_file::HostFile;
use crate::run_dir::RunDir;
use crate::scrape::Scraper;
use crate::tell;
use crate::trace::trace_text;
use plimsoll_engine::{Control, Running, Second};
use plimsoll_host::Source;
use plimsoll_measure::{Nanos, RunFacts, Snapshot, SplitValue, StartFacts};
use plimsoll_plan::{Plan, Secrets};
use plimsoll_report::{Fold, Summary, exposition, progress};

/// The consumer of a run's seconds.
pub(super) struct Consumer<'p> {
    plan: &'p Plan,
    /// What the values of response headers must not repeat.
    secrets: Secrets,
    fold: Fold<'p>,
    run_dir: Option<RunDir>,
    views: Views,
    pub(super) progress: Progress,
    scraper: Option<Scraper>,
    host: HostFile,
    control: Control,
    start: StartFacts,
    /// The end of the last second.
    at: Nanos,
    /// The objective that stopped it.
    aborted: Option<String>,
}

impl<'p> Consumer<'p> {
    pub(super) fn new(
        plan: &'p Plan,
        mut run_dir: Option<RunDir>,
        views: Views,
        scraper: Option<Scraper>,
        host: HostFile,
        running: &Running,
    ) -> Consumer<'p> {
        if let Some(dir) = &mut run_dir {
            dir.begin(plan, &running.start_facts(), &host).iter().for_each(|warning| tell(warning));
        }
        let charted = run_dir.is_some() || views.live.is_some();
        let fold = if charted { Fold::new(plan).charted() } else { Fold::new(plan) };
        let progress = Progress::new();
        let control = running.control();
        let consumer = Consumer {
            plan,
            secrets: plan.secrets_of_all(),
            fold,
            run_dir,
            views,
            progress,
            scraper,
            host,
            control,
            start: running.start_facts(),
            at: Nanos::ZERO,
            aborted: None,
        };
        if let Some(live) = &consumer.views.live {
            live.begin(&consumer.so_far(), &plan.to_toml());
        }
        consumer
    }

    /// The figures so far.
    fn so_far(&self) -> Summary {
        let (start, warmup) = (self.start.clone(), self.plan.warmup);
        self.fold.clone().finish(RunFacts::so_far(start, warmup, self.at))
    }

    pub(super) fn add(&mut self, second: Second) {
        let Second { mut counts, traces } = second;
        if let Some(scraper) = &self.scraper {
            scraper.add_to(&mut counts);
        }
        self.mask_split(&mut counts);
        self.fold.add(&counts);
        if let Some(warning) = self.run_dir.as_mut().and_then(|dir| dir.add(&counts)) {
            self.progress.end();
            tell(&warning);
        }
        let total = self.fold.total();
        if let Some(page) = &self.views.metrics {
            page.set(exposition(self.plan, &counts, total));
        }
        let stopped = self.control.stop_level() > 0;
        self.progress.show(&progress(self.plan, &counts, total, self.at, stopped));
        self.at = counts.t;
        if let (Some(live), Some(series)) = (&self.views.live, self.fold.series()) {
            live.add(series, self.plan.warmup, || self.so_far());
        }
        for record in &traces {
            self.progress.end();
            tell(&trace_text(record, self.plan));
        }
        self.abort_if_missed();
    }

    /// Leaves out secrets that the target repeats in the header by which answers are counted.
    fn mask_split(&self, counts: &mut Snapshot) {
        for stream in &mut counts.streams {
            for (value, _) in &mut stream.split.values {
                *value = SplitValue::of(self.secrets.mask_cut(value.as_str()).as_bytes());
            }
            let masked = std::mem::take(&mut stream.split);
            stream.split.merge(&masked);
        }
    }

    /// `signal` is the first signal that was received.
    pub(super) fn finish(mut self, running: Running, signal: Option<&str>) -> Finished {
        self.progress.end();
        self.scrape_at_the_end();
        let mut facts = running.finish();
        let objective = self.aborted.as_ref().map(|that| format!("the objective \"{that}\""));
        facts.stopped_by = objective.or_else(|| signal.map(String::from));
        let summary = self.fold.finish(facts);
        if let Some(live) = &self.views.live {
            live.show(&summary, false);
        }
        let run_dir = self.run_dir.as_ref().map(|dir| dir.path().display().to_string());
        self.host.end(&Source::host());
        let aborted = self.aborted.is_some();
        let (written, recording) = self.run_dir.map_or((Ok(()), None), |dir| {
            dir.finish(self.plan, &summary, aborted, &self.host)
        });
        if let Some(live) = &self.views.live {
            live.end(run_dir.as_deref().filter(|_| written.is_ok()));
        }
        Finished { summary, aborted, run_dir, written, recording }
    }

    /// Scrapes once more after the run; the result becomes an additional last snapshot.
    fn scrape_at_the_end(&mut self) {
        let Some(scraper) = self.scraper.take() else { return };
        let total = self.fold.total();
        let mut last = self.plan.blank_snapshot();
        last.t = total.t;
        last.in_flight = total.in_flight;
        last.connections.open = total.connections.open;
        for (last, total) in last.streams.iter_mut().zip(&total.streams) {
            last.planned_rate = total.planned_rate;
        }
        for (last, total) in last.origins.iter_mut().zip(&total.origins) {
            (last.limit, last.open) = (total.limit, total.open);
        }
        scraper.finish(&mut last);
        self.fold.add(&last);
        if let Some(warning) = self.run_dir.as_mut().and_then(|dir| dir.add(&last)) {
            tell(&warning);
        }
    }

    fn abort_if_missed(&mut self) {
        if self.control.stop_level() > 0 {
            return;
        }
        let elapsed = self.fold.total().t - self.plan.warmup;
        for objective in &self.plan.objectives {
            let Some(after) = objective.abort_after.filter(|after| elapsed > *after) else {
                continue;
            };
            let judged = self.fold.judge(objective);
            if judged.value.is_some() && !judged.ok {
                let that = &objective.that;
                self.progress.end();
                let value = judged.shown();
                tell(&format!(
                    "stopping: the objective \"{that}\" does not hold after {after}: {value}"
                ));
                self.aborted = Some(that.clone());
                self.control.stop();
                return;
            }
        }
    }
}
