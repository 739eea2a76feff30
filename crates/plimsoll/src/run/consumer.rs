//! What happens to a run's seconds: they are summed, written, shown, and judged by objectives that stop the
//! run.

use super::observers::Observers;
use super::progress::Progress;
use super::{Finished, Views};
use crate::host_file::HostFile;
use crate::live::Board;
use crate::run_dir::RunDir;
use crate::tell;
use crate::terminal::Terminal;
use crate::trace::trace_text;
use plimsoll_engine::{Control, Running, Second};
use plimsoll_host::Source;
use plimsoll_measure::{Clock, Nanos, RunFacts, Snapshot, SplitValue, StartFacts};
use plimsoll_plan::{Plan, Secrets};
use plimsoll_report::{Fold, Summary, exposition, progress};
use std::path::Path;

/// Rendering figures takes at most one part in this many of a processor's time.
const RENDER_SHARE: u64 = 50;
/// Rows of the terminal's charts.
const CHARTED: usize = 300;

/// The consumer of a run's seconds.
pub(super) struct Consumer<'p> {
    plan: &'p Plan,
    /// What the values of response headers must not repeat.
    secrets: Secrets,
    fold: Fold<'p>,
    run_dir: Option<RunDir>,
    views: Views,
    pub(super) progress: Progress,
    terminal: Option<Terminal>,
    clock: Clock,
    /// When figures may be rendered again.
    render_after: Nanos,
    observers: Observers,
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
        observers: Observers,
        host: HostFile,
        running: &Running,
    ) -> Consumer<'p> {
        if let Some(dir) = &mut run_dir {
            dir.begin(plan, &running.start_facts(), &host).iter().for_each(|warning| tell(warning));
        }
        let charted = run_dir.is_some() || views.live.is_some() || views.terminal;
        let fold = if charted { Fold::new(plan).charted() } else { Fold::new(plan) };
        let progress = Progress::new();
        let control = running.control();
        let mut consumer = Consumer {
            plan,
            secrets: plan.secrets_of_all(),
            fold,
            run_dir,
            views,
            progress,
            terminal: None,
            clock: Clock::start(),
            render_after: Nanos::ZERO,
            observers,
            host,
            control,
            start: running.start_facts(),
            at: Nanos::ZERO,
            aborted: None,
        };
        if let Some(live) = &consumer.views.live {
            let folder = consumer.run_dir.as_ref().map(RunDir::path);
            live.begin(&consumer.so_far(), &plan.to_toml(), folder);
        }
        if consumer.views.terminal {
            match Terminal::start() {
                Ok(terminal) => consumer.terminal = Some(terminal),
                Err(why) => tell(&format!("warning: --tui shows nothing: {why}")),
            }
        }
        consumer
    }

    /// Shows rows and figures to those who watch.
    fn show_figures(&mut self) {
        let Some(series) = self.fold.series() else { return };
        let live = self.views.live.as_ref();
        live.iter().for_each(|live| live.add(series, self.plan.warmup));
        let now = self.clock.now();
        let is_watched = self.terminal.is_some() || live.is_some_and(Board::is_watched);
        if !is_watched || now < self.render_after {
            return;
        }
        let summary = self.so_far();
        live.iter().for_each(|live| live.show(&summary, true));
        if let Some(terminal) = &self.terminal {
            terminal.show(summary);
        }
        let done = self.clock.now();
        self.render_after = done + Nanos((done - now).0 * RENDER_SHARE);
    }

    /// The figures so far.
    fn so_far(&self) -> Summary {
        let (start, warmup) = (self.start.clone(), self.plan.warmup);
        let mut facts = RunFacts::so_far(start, warmup, self.at);
        if self.control.stop_level() > 0 {
            let objective = self.aborted.as_ref().map(|that| format!("the objective \"{that}\""));
            facts.stopped_by = Some(objective.unwrap_or("its user".into()));
        }
        self.fold.clone().finish(facts)
    }

    pub(super) fn add(&mut self, second: Second) {
        let Second { mut counts, traces } = second;
        self.observers.add_to(&mut counts);
        mask_split(&self.secrets, &mut counts);
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
        let parts = progress(self.plan, &counts, total, self.at, stopped);
        match (&self.terminal, self.fold.series()) {
            (Some(terminal), Some(series)) => {
                let done =
                    self.plan.planned_end().map(|end| counts.t.as_secs_f64() / end.as_secs_f64());
                terminal.progress(
                    &self.plan.name,
                    parts,
                    done,
                    series.recent(CHARTED, self.plan.warmup),
                );
            }
            _ => self.progress.show(&parts),
        }
        self.at = counts.t;
        self.show_figures();
        for record in &traces {
            self.progress.end();
            tell(&trace_text(record, self.plan));
        }
        self.abort_if_missed();
    }

    /// `signal` is the first signal that was received.
    pub(super) fn finish(mut self, running: Running, signal: Option<&str>) -> Finished {
        self.progress.end();
        self.observe_the_end();
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
        let (written, recording) = self
            .run_dir
            .map_or((Ok(()), None), |dir| dir.finish(self.plan, &summary, aborted, &self.host));
        if let Some(live) = &self.views.live {
            live.end(run_dir.as_deref().map(Path::new).filter(|_| written.is_ok()));
        }
        // Last, because a terminal may not read.
        drop(self.terminal.take());
        Finished { summary, aborted, run_dir, written, recording }
    }

    /// Reads other processes and logs once more after the run; the result becomes an additional last snapshot.
    fn observe_the_end(&mut self) {
        let observers = std::mem::take(&mut self.observers);
        let Some(last) = observers.finish(|| self.last_snapshot()) else { return };
        self.fold.add(&last);
        if let Some(warning) = self.run_dir.as_mut().and_then(|dir| dir.add(&last)) {
            tell(&warning);
        }
    }

    /// A snapshot without counts at the end of the run.
    fn last_snapshot(&self) -> Snapshot {
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
        last
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

/// Leaves out secrets that the target repeats in the header by which answers are counted.
pub(crate) fn mask_split(secrets: &Secrets, counts: &mut Snapshot) {
    for stream in &mut counts.streams {
        for (value, _) in &mut stream.split.values {
            *value = SplitValue::of(secrets.mask_cut(value.as_str()).as_bytes());
        }
        let masked = std::mem::take(&mut stream.split);
        stream.split.merge(&masked);
    }
}
