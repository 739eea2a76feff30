//! Synthetic seconds for tests: what an engine would have counted, arrival by arrival.

use crate::fold::Fold;
use crate::narrow::{Filters, Narrow, Problem};
use crate::summary::Summary;
use plimsoll_measure::{
    ErrorClass, Fault, Nanos, OriginCounts, RunFacts, Snapshot, WallClock, Window,
};
use plimsoll_plan::{Document, Plan, Variables};
use std::path::Path;

/// A plan from TOML; its requests are never sent.
pub(crate) fn plan(text: &str) -> Plan {
    let document = Document::new("plan.toml", text);
    let read = Plan::read(&document, &Variables::none(), Path::new("."));
    read.unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// One stream with one target at a rate.
pub(crate) fn open(rate: u64, secs: u64) -> Plan {
    plan(&format!(
        "rate = \"{rate}/s\"\nduration = \"{secs}s\"\n[[target]]\nrequest = \"GET http://a/\"\n"
    ))
}

/// The seconds of a run.
pub(crate) struct Recording<'p> {
    pub(crate) plan: &'p Plan,
    pub(crate) facts: RunFacts,
    pub(crate) seconds: Vec<Snapshot>,
}

impl<'p> Recording<'p> {
    /// A run as long as its plan.
    pub(crate) fn new(plan: &'p Plan) -> Recording<'p> {
        let end = plan.planned_end().unwrap_or(plan.warmup);
        let facts = RunFacts {
            started_at: WallClock { unix_ns: 0 },
            duration: end - plan.warmup,
            drain: Nanos::ZERO,
            warmup: plan.warmup,
            cut_short: false,
            stopped_by: None,
            cpus: 2,
            workers: 1,
            forced: Vec::new(),
        };
        Recording { plan, facts, seconds: Vec::new() }
    }

    /// Adds a second filled by `fill`.
    pub(crate) fn second(&mut self, fill: impl FnOnce(&mut Filled<'_>)) -> &mut Recording<'p> {
        let from = self.seconds.last().map_or(Nanos::ZERO, |second| second.t);
        let mut snapshot = self.plan.blank_snapshot();
        snapshot.t = from + Nanos::from_secs(1);
        let mut filled = Filled { plan: self.plan, from, snapshot };
        filled.activate();
        fill(&mut filled);
        filled.snapshot.assert_identities();
        self.seconds.push(filled.snapshot);
        self
    }

    /// Adds `n` seconds, each filled by `fill`.
    pub(crate) fn seconds(&mut self, n: u64, fill: impl Fn(&mut Filled<'_>)) -> &mut Recording<'p> {
        (0..n).for_each(|_| {
            self.second(&fill);
        });
        self
    }

    /// The summary of the whole run.
    pub(crate) fn summary(&self) -> Summary {
        self.narrowed(Narrow::whole(self.plan))
    }

    /// The summary of the part that filters select.
    pub(crate) fn filtered(&self, filters: &Filters) -> Result<Summary, Problem> {
        let end = self.seconds.last().map_or(Nanos::ZERO, |second| second.t);
        Ok(self.narrowed(Narrow::new(self.plan, filters, end)?))
    }

    /// The summary of a part, with its figures over time.
    pub(crate) fn narrowed(&self, narrow: Narrow) -> Summary {
        let mut fold = Fold::narrowed(self.plan, narrow).charted();
        self.seconds.iter().for_each(|second| fold.add(second));
        fold.finish(self.facts.clone())
    }
}

/// A second that is being filled.
pub(crate) struct Filled<'p> {
    plan: &'p Plan,
    from: Nanos,
    pub(crate) snapshot: Snapshot,
}

impl Filled<'_> {
    /// Sets the streams' active windows according to the plan.
    fn activate(&mut self) {
        let (from, to) = (self.from, self.snapshot.t);
        for (stream, counts) in self.plan.streams.iter().zip(&mut self.snapshot.streams) {
            let start = self.plan.warmup + stream.start;
            let end = stream.planned_end(self.plan.warmup).unwrap_or(Nanos::MAX);
            counts.planned_rate = stream.planned_value(from, self.plan.warmup);
            if start < to {
                let planned_to = to.min(end);
                counts.active =
                    Some(Window { from: from.max(start).min(end), planned_to, to: planned_to });
            }
        }
    }

    /// Extends a stream's active window to its last answer at this instant.
    pub(crate) fn answered_at(&mut self, stream: usize, at: Nanos) {
        if let Some(window) = &mut self.snapshot.streams[stream].active {
            window.to = window.to.max(at);
        }
    }

    /// Records arrivals as started with a lag.
    fn started(&mut self, target: usize, n: u64, lag: Nanos) {
        let stream = &mut self.snapshot.streams[self.plan.targets[target].stream];
        stream.dispatched += n;
        (0..n).for_each(|_| stream.lag.record(lag));
    }

    /// Arrivals answered as expected, with this lag, wait and service time.
    pub(crate) fn answered(&mut self, target: usize, n: u64, [lag, wait, service]: [Nanos; 3]) {
        self.started(target, n, lag);
        let stats = &mut self.snapshot.stats[target];
        let requests = &mut stats.requests;
        (requests.scheduled, requests.sent) = (requests.scheduled + n, requests.sent + n);
        requests.ok += n;
        let stream = &mut self.snapshot.streams[self.plan.targets[target].stream];
        for _ in 0..n {
            stats.latency_ok.record(lag + wait + service);
            stats.service_time_ok.record(service);
            stream.wait.record(wait);
        }
    }

    /// Arrivals answered as expected, without lag or wait.
    pub(crate) fn ok(&mut self, target: usize, n: u64, service: Nanos) {
        self.answered(target, n, [Nanos::ZERO, Nanos::ZERO, service]);
    }

    /// Arrivals that failed after a time; whether they were sent follows from the class.
    pub(crate) fn failed(&mut self, target: usize, n: u64, class: ErrorClass, after: Nanos) {
        use ErrorClass::*;
        let unsent = matches!(
            class,
            NoConnection
                | Late
                | Refused
                | Dns
                | Unreachable
                | ConnectTimeout
                | PortExhausted
                | FdExhausted
        );
        let requests = &mut self.snapshot.stats[target].requests;
        if unsent {
            requests.unsent += n;
        } else {
            (requests.sent, requests.failed) = (requests.sent + n, requests.failed + n);
        }
        let wait = if unsent { after } else { Nanos::ZERO };
        self.ended(target, n, class, [wait, after]);
    }

    /// An arrival that was sent after a wait and timed out.
    pub(crate) fn timed_out(&mut self, target: usize, wait: Nanos, after: Nanos) {
        let requests = &mut self.snapshot.stats[target].requests;
        (requests.sent, requests.failed) = (requests.sent + 1, requests.failed + 1);
        self.ended(target, 1, ErrorClass::ResponseTimeout, [wait, after]);
    }

    fn ended(&mut self, target: usize, n: u64, class: ErrorClass, [wait, after]: [Nanos; 2]) {
        self.started(target, n, Nanos::ZERO);
        let stats = &mut self.snapshot.stats[target];
        stats.requests.scheduled += n;
        stats.errors.add(class, n);
        let stream = &mut self.snapshot.streams[self.plan.targets[target].stream];
        for _ in 0..n {
            stats.latency_failed.record(after);
            stream.wait.record(wait);
        }
    }

    /// Arrivals that failed with a fault.
    pub(crate) fn faulty(&mut self, n: u64, class: ErrorClass, fault: Fault) {
        self.failed(0, n, class, Nanos::from_millis(1));
        self.snapshot.faults.add(fault, n);
    }

    pub(crate) fn origin(&mut self, place: usize) -> &mut OriginCounts {
        &mut self.snapshot.origins[place]
    }
}
