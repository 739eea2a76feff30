//! What happens to the seconds of a run on this host: other processes and logs are read, they are written, and watched.

use super::observers::Observers;
use super::watch::Watch;
use super::{Finished, Views};
use crate::host_file::HostFile;
use crate::run_dir::RunDir;
use crate::tell;
use crate::trace::trace_text;
use plimsoll_engine::{Control, Running, Second};
use plimsoll_host::Source;
use plimsoll_measure::{Snapshot, SplitValue};
use plimsoll_plan::{Plan, Secrets};
use std::path::Path;

/// The consumer of a run's seconds.
pub(super) struct Consumer<'p> {
    plan: &'p Plan,
    /// What the values of response headers must not repeat.
    secrets: Secrets,
    run_dir: Option<RunDir>,
    pub(super) watch: Watch<'p>,
    observers: Observers,
    host: HostFile,
    control: Control,
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
        let folder = run_dir.as_ref().map(RunDir::path);
        let watch = Watch::new(plan, views, running.start_facts(), folder);
        let waker = running.waker();
        watch.calls(move || waker.wake());
        let (secrets, control) = (plan.secrets_of_all(), running.control());
        Consumer { plan, secrets, run_dir, watch, observers, host, control }
    }

    pub(super) fn add(&mut self, second: Second) {
        let Second { mut counts, traces } = second;
        self.observers.add_to(&mut counts);
        mask_split(&self.secrets, &mut counts);
        if let Some(warning) = self.run_dir.as_mut().and_then(|dir| dir.add(&counts)) {
            self.watch.progress.end();
            tell(&warning);
        }
        let stops = self.watch.add(&counts, self.control.stop_level() > 0);
        for record in &traces {
            self.watch.progress.end();
            tell(&trace_text(record, self.plan));
        }
        if stops {
            self.control.stop();
        }
    }

    /// A viewer has come.
    pub(super) fn greet(&mut self) {
        self.watch.greet(self.control.stop_level() > 0);
    }

    /// `signal` is the first signal that was received.
    pub(super) fn finish(mut self, running: Running, signal: Option<&str>) -> Finished {
        self.watch.progress.end();
        self.observe_the_end();
        let mut facts = running.finish();
        let objective = self.watch.aborted();
        let aborted = objective.is_some();
        facts.stopped_by = objective.or_else(|| signal.map(String::from));
        let summary = self.watch.finish(facts);
        let run_dir = self.run_dir.as_ref().map(|dir| dir.path().display().to_string());
        self.host.end(&Source::host());
        let (written, recording) = self
            .run_dir
            .map_or((Ok(()), None), |dir| dir.finish(self.plan, &summary, aborted, &self.host));
        self.watch.end(&summary, run_dir.as_deref().map(Path::new).filter(|_| written.is_ok()));
        Finished { summary, aborted, run_dir, written, recording }
    }

    /// Reads other processes and logs once more after the run; the result becomes an additional last snapshot.
    fn observe_the_end(&mut self) {
        let observers = std::mem::take(&mut self.observers);
        let Some(last) = observers.finish(|| self.last_snapshot()) else { return };
        self.watch.fold.add(&last);
        if let Some(warning) = self.run_dir.as_mut().and_then(|dir| dir.add(&last)) {
            tell(&warning);
        }
    }

    /// A snapshot without counts at the end of the run.
    fn last_snapshot(&self) -> Snapshot {
        let total = self.watch.fold.total();
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
