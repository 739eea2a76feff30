//! The host during a run: at most [`SPANS_MAX`] spans of equal length.
//!
//! A span begins as a second. When the timeline is full, each two neighbours become one, so that its
//! memory does not grow with the length of the run and no second is left out. Counts add up; levels
//! keep the highest. The timeline includes the warm-up and judges nothing.

use crate::seconds::Seconds;
use plimsoll_measure::{HostSample, Nanos, Snapshot, TcpCounter, Usage};

/// Spans of a timeline at most: a two-minute run has one for each second, an hour one per 32 seconds.
const SPANS_MAX: usize = 120;
/// A resource in use to this share is shown in the report: the rest lasts for few more seconds.
const NEARLY_FULL: f64 = 0.9;
/// Time given to other virtual machines, as a share of all CPUs' time, that is shown.
const STEAL: f64 = 0.05;

/// A part of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// When.
    pub seconds: Seconds,
    /// What the host did.
    pub host: HostSample,
    /// Local ports in use for one destination, at most.
    pub ports: Option<Usage>,
}

impl Span {
    /// That of a second; `None` for one without a sample, such as that of a last scrape. `sources` are the
    /// plan's source addresses.
    pub(crate) fn of(second: &Snapshot, seconds: Seconds, sources: u64) -> Option<Span> {
        let known = second.host != HostSample::default();
        known.then(|| Span { seconds, host: second.host.clone(), ports: second.ports(sources) })
    }

    /// CPU time of the busiest worker, as a share of the span; `None` if threads cannot be read.
    pub fn worker_busy(&self) -> Option<f64> {
        self.host.workers.iter().map(|worker| self.share(worker.cpu)).reduce(f64::max)
    }

    /// Time that the worst worker waited for a CPU, as a share of the span.
    pub fn run_delay(&self) -> Option<f64> {
        self.host.workers.iter().map(|worker| self.share(worker.run_delay)).reduce(f64::max)
    }

    /// Time given to other virtual machines, as a share of all CPUs' time.
    pub fn steal(&self) -> Option<f64> {
        self.host.cpus.map(|cpus| cpus.share(cpus.steal))
    }

    /// CPU time of the whole host, as a share of all CPUs' time.
    pub fn cpu_busy(&self) -> Option<f64> {
        self.host.cpus.map(|cpus| cpus.share(cpus.busy()))
    }

    /// The resource of which the largest share is in use, and the share.
    pub fn fullest(&self) -> Option<(&'static str, f64)> {
        let resources = [
            ("ports", self.ports),
            ("descriptors", self.host.descriptors),
            ("conntrack", self.host.conntrack),
            ("memory", self.host.memory),
        ];
        let shares = resources.into_iter().filter_map(|(name, usage)| Some((name, usage?.share())));
        shares.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Packets and connections that the kernel dropped here, in the whole network namespace.
    pub fn dropped(&self) -> u64 {
        let softnet = self.host.softnet.map_or(0, |softnet| softnet.dropped);
        let counted = [
            TcpCounter::ListenDrops,
            TcpCounter::BacklogDrops,
            TcpCounter::ReceiveDrops,
            TcpCounter::MemoryAborts,
        ];
        let tcp = self.host.tcp.as_ref();
        softnet + tcp.map_or(0, |tcp| counted.iter().map(|counter| tcp.get(*counter)).sum())
    }

    /// Whether the report shows the span. Run delay is not a reason: it is usual where the target
    /// runs on the same host.
    pub fn is_unusual(&self) -> bool {
        self.host.throttled.is_some_and(|throttled| throttled.periods > 0)
            || self.steal().is_some_and(|steal| steal >= STEAL)
            || self.fullest().is_some_and(|(_, share)| share >= NEARLY_FULL)
            || self.dropped() > 0
    }

    fn share(&self, time: Nanos) -> f64 {
        time.as_secs_f64() / self.seconds.len().as_secs_f64().max(f64::MIN_POSITIVE)
    }

    pub(crate) fn append(&mut self, next: &Span) {
        self.seconds = self.seconds.union(next.seconds);
        self.host.append(&next.host);
        self.ports = self.ports.into_iter().chain(next.ports).reduce(Usage::fuller);
    }
}

/// The host during a run.
#[derive(Clone, Debug)]
pub struct Timeline {
    spans: Vec<Span>,
    /// Seconds per span.
    seconds: usize,
    /// Seconds in the last span.
    in_last: usize,
    /// Source addresses of the plan.
    sources: u64,
}

impl Timeline {
    pub(crate) fn new(sources: u64) -> Timeline {
        Timeline { spans: Vec::new(), seconds: 1, in_last: 0, sources }
    }

    /// Adds the next second. One without a sample, such as that of a last scrape, is ignored.
    pub(crate) fn add(&mut self, second: &Snapshot, seconds: Seconds) {
        let Some(span) = Span::of(second, seconds, self.sources) else { return };
        match self.spans.last_mut() {
            Some(last) if self.in_last < self.seconds => last.append(&span),
            _ => {
                if self.spans.len() == SPANS_MAX {
                    self.halve();
                }
                self.spans.push(span);
                self.in_last = 0;
            }
        }
        self.in_last += 1;
    }

    /// The spans, in order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The unusual spans; neighbours are one.
    pub fn unusual(&self) -> Vec<Span> {
        let mut found: Vec<Span> = Vec::new();
        for span in self.spans.iter().filter(|span| span.is_unusual()) {
            match found.last_mut().filter(|last| last.seconds.to == span.seconds.from) {
                Some(last) => last.append(span),
                None => found.push(span.clone()),
            }
        }
        found
    }

    /// Makes each two neighbours one.
    fn halve(&mut self) {
        let pairs = self.spans.chunks(2).map(|pair| {
            let mut span = pair[0].clone();
            pair[1..].iter().for_each(|next| span.append(next));
            span
        });
        self.spans = pairs.collect();
        self.seconds *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_measure::{CpuTimes, Sockets, Throttled};

    fn second(number: u64, host: HostSample) -> (Snapshot, Seconds) {
        let seconds = Seconds { from: Nanos::from_secs(number), to: Nanos::from_secs(number + 1) };
        let mut second = Snapshot::new(0, 0, 1);
        (second.t, second.host) = (seconds.to, host);
        (second, seconds)
    }

    #[test]
    fn a_long_run_keeps_every_second_in_few_spans() {
        for length in [1, 119, 120, 121, 240, 241, 3_600, 10_000] {
            let mut timeline = Timeline::new(1);
            for number in 0..length {
                let host = HostSample { cpu: Nanos(1), ..HostSample::default() };
                let (second, seconds) = second(number, host);
                timeline.add(&second, seconds);
            }
            let (blank, seconds) = second(length, HostSample::default());
            timeline.add(&blank, seconds);
            let spans = timeline.spans();
            assert!(spans.len() <= SPANS_MAX && spans.len() as u64 >= length.min(60));
            let cpu: u64 = spans.iter().map(|span| span.host.cpu.0).sum();
            assert_eq!(cpu, length);
            assert!(spans.windows(2).all(|two| two[0].seconds.to == two[1].seconds.from));
            let (first, last) = (&spans[0], &spans[spans.len() - 1]);
            assert_eq!(
                (first.seconds.from, last.seconds.to.0),
                (Nanos::ZERO, length * 1_000_000_000)
            );
        }
    }

    #[test]
    fn unusual_neighbours_are_one_span() {
        let quiet = HostSample { cpu: Nanos(1), ..HostSample::default() };
        let throttled = Some(Throttled { periods: 1, time: Nanos(5) });
        let throttled = HostSample { throttled, ..quiet.clone() };
        let stolen = Some(CpuTimes { total: 200, idle: 0, steal: 10, softirq: 0 });
        let stolen = HostSample { cpus: stolen, ..quiet.clone() };
        let sockets = Some(Sockets { time_wait: 95, ..Sockets::default() });
        let ports = HostSample { sockets, ports: Some(100), ..quiet.clone() };
        let mut timeline = Timeline::new(1);
        let run = [quiet.clone(), throttled, stolen, quiet.clone(), ports];
        for (number, host) in run.into_iter().enumerate() {
            let (second, seconds) = second(number as u64, host);
            timeline.add(&second, seconds);
        }
        let unusual = timeline.unusual();
        let shown: Vec<_> = unusual.iter().map(|span| span.seconds.to_string()).collect();
        assert_eq!(shown, ["1s–3s", "4s–5s"]);
        assert_eq!(unusual[0].steal(), Some(0.05));
        assert_eq!(unusual[1].fullest(), Some(("ports", 0.95)));
    }
}
