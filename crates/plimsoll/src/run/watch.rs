//! What watches a run's seconds, on one host or on several: the progress line, the terminal, the live page, the metrics page, and
//! objectives that stop the run.

use super::progress::Progress;
use super::views::Views;
use crate::live::Board;
use crate::tell;
use crate::terminal::Terminal;
use plimsoll_measure::{Clock, Nanos, RunFacts, Snapshot, StartFacts};
use plimsoll_plan::Plan;
use plimsoll_report::{Fold, Summary, exposition, progress};
use std::path::Path;

/// Rendering figures takes at most one part in this many of a processor's time.
const RENDER_SHARE: u64 = 50;
/// Rows of the terminal's charts.
const CHARTED: usize = 300;

/// The watchers of a run.
pub(crate) struct Watch<'p> {
    plan: &'p Plan,
    pub(super) fold: Fold<'p>,
    views: Views,
    pub(crate) progress: Progress,
    terminal: Option<Terminal>,
    clock: Clock,
    /// When figures may be rendered again.
    render_after: Nanos,
    /// Of all agents, if there are several.
    pub(crate) start: StartFacts,
    /// The end of the last second.
    at: Nanos,
    /// The objective that stopped the run.
    aborted: Option<String>,
}

impl<'p> Watch<'p> {
    /// `run_dir`: where the results go.
    pub(crate) fn new(
        plan: &'p Plan,
        views: Views,
        start: StartFacts,
        run_dir: Option<&Path>,
    ) -> Watch<'p> {
        let charted = run_dir.is_some() || views.live.is_some() || views.terminal;
        let fold = if charted { Fold::new(plan).charted() } else { Fold::new(plan) };
        let mut watch = Watch {
            plan,
            fold,
            views,
            progress: Progress::new(),
            terminal: None,
            clock: Clock::start(),
            render_after: Nanos::ZERO,
            start,
            at: Nanos::ZERO,
            aborted: None,
        };
        if let Some(live) = &watch.views.live {
            live.begin(&watch.so_far(false), &plan.to_toml(), run_dir);
        }
        if watch.views.terminal {
            match Terminal::start() {
                Ok(terminal) => watch.terminal = Some(terminal),
                Err(why) => tell(&format!("warning: --tui shows nothing: {why}")),
            }
        }
        watch
    }

    /// A second has ended. `stopped`: the run is being stopped. Returns whether an objective stops it now.
    pub(crate) fn add(&mut self, counts: &Snapshot, stopped: bool) -> bool {
        self.fold.add(counts);
        let total = self.fold.total();
        if let Some(page) = &self.views.metrics {
            page.set(exposition(self.plan, counts, total));
        }
        let parts = progress(self.plan, counts, total, self.at, stopped);
        match (&self.terminal, self.fold.series()) {
            (Some(terminal), Some(series)) => {
                let done =
                    self.plan.planned_end().map(|end| counts.t.as_secs_f64() / end.as_secs_f64());
                let rows = series.recent(CHARTED, self.plan.warmup);
                terminal.progress(&self.plan.name, parts, done, rows);
            }
            _ => self.progress.show(&parts),
        }
        self.at = counts.t;
        self.show_figures(stopped);
        !stopped && self.is_missed()
    }

    /// What calls the consumer of the seconds when a viewer comes.
    pub(crate) fn calls(&self, call: impl Fn() + Send + 'static) {
        if let Some(live) = &self.views.live {
            live.calls(call);
        }
    }

    /// Shows the figures so far if a viewer has come meanwhile, who otherwise would see old ones until the second
    /// ends.
    pub(crate) fn greet(&mut self, stopped: bool) {
        if self.views.live.as_ref().is_some_and(Board::is_called) {
            self.show_figures(stopped);
        }
    }

    /// The objective that stopped the run, as a cause.
    pub(crate) fn aborted(&self) -> Option<String> {
        self.aborted.as_ref().map(|that| format!("the objective \"{that}\""))
    }

    /// The figures of the whole run.
    pub(crate) fn finish(&mut self, facts: RunFacts) -> Summary {
        std::mem::replace(&mut self.fold, Fold::new(self.plan)).finish(facts)
    }

    /// The run has ended with these figures, and its results, if they are complete, are in `run_dir`.
    pub(crate) fn end(mut self, summary: &Summary, run_dir: Option<&Path>) {
        self.progress.end();
        if let Some(live) = &self.views.live {
            live.show(summary, false);
            live.end(run_dir);
        }
        // Last, because a terminal may not read.
        drop(self.terminal.take());
    }

    /// Shows rows and figures to those who watch.
    fn show_figures(&mut self, stopped: bool) {
        let Some(series) = self.fold.series() else { return };
        let live = self.views.live.as_ref();
        live.iter().for_each(|live| live.add(series, self.plan.warmup));
        let now = self.clock.now();
        let is_watched = self.terminal.is_some() || live.is_some_and(Board::is_watched);
        if !is_watched || now < self.render_after {
            return;
        }
        let summary = self.so_far(stopped);
        live.iter().for_each(|live| live.show(&summary, true));
        if let Some(terminal) = &self.terminal {
            terminal.show(summary);
        }
        let done = self.clock.now();
        self.render_after = done + Nanos((done - now).0 * RENDER_SHARE);
    }

    /// The figures so far.
    fn so_far(&self, stopped: bool) -> Summary {
        let mut facts = RunFacts::so_far(self.start.clone(), self.plan.warmup, self.at);
        if stopped {
            facts.stopped_by = Some(self.aborted().unwrap_or("its user".into()));
        }
        self.fold.clone().finish(facts)
    }

    /// Whether an objective that stops the run does not hold.
    fn is_missed(&mut self) -> bool {
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
                return true;
            }
        }
        false
    }
}
