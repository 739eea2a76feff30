//! A load engine of the simulation: walks the real schedule, answers after a random time, and counts into real
//! snapshots.

use plimsoll_measure::rng::Sequence;
use plimsoll_measure::wire::{Header, SCHEMA, end_line, to_line};
use plimsoll_measure::{Nanos, RunFacts, Snapshot, WallClock, Window};
use plimsoll_plan::{Pacer, Part, Plan};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often each arrival of the run proper was sent, by stream and number.
pub(super) type Sent = BTreeMap<(usize, u64), u32>;

/// What an engine yields.
pub(super) enum Yield {
    Second(Nanos, String),
    Ended(String),
}

pub(super) struct SimEngine {
    plan: Arc<Plan>,
    pacers: Vec<(usize, bool, Pacer)>,
    counts: Snapshot,
    seconds: u64,
    at: Nanos,
    lasting: bool,
    stopped: Option<Nanos>,
    /// Ends of requests in flight, with target, or `None` of the warm-up.
    in_flight: Vec<(Nanos, Nanos, Option<usize>)>,
    pub(super) header: Header,
}

impl SimEngine {
    pub(super) fn new(plan: &Arc<Plan>, part: &Part, lasting: bool) -> SimEngine {
        let header = Header {
            schema: SCHEMA.into(),
            plan: plan.name.clone(),
            plan_digest: format!("{:016x}", plan.digest()),
            started_at: WallClock { unix_ns: 0 }.rfc3339(),
            started_at_unix_ns: 0,
            cpus: 1,
            workers: 1,
            forced: Vec::new(),
            from_flags: false,
            names: plan.targets.iter().map(|target| target.name.clone()).collect(),
            streams: plan.streams.iter().map(|stream| stream.name.clone()).collect(),
            origins: plan.origin_names(),
            scrapes: Vec::new(),
            logs: Vec::new(),
            unread: Vec::new(),
        };
        let mut engine = SimEngine {
            plan: plan.clone(),
            pacers: Vec::new(),
            counts: plan.blank_snapshot(),
            seconds: 0,
            at: Nanos::ZERO,
            lasting,
            stopped: None,
            in_flight: Vec::new(),
            header,
        };
        engine.own(part, Nanos::ZERO);
        engine
    }

    pub(super) fn own(&mut self, part: &Part, from: Nanos) {
        for (place, stream) in self.plan.streams.iter().enumerate() {
            let schedules = stream.schedules(self.plan.warmup).expect("open streams");
            let shards = part.stream(place);
            if from == Nanos::ZERO
                && let Some(warmup) = &schedules.warmup
            {
                self.pacers.push((place, true, warmup.pacer(shards, from)));
            }
            self.pacers.push((place, false, schedules.main.pacer(shards, from)));
        }
    }

    pub(super) fn stop(&mut self) {
        self.stopped.get_or_insert(self.at);
    }

    /// Runs until `now` on the run's clock.
    pub(super) fn run_to(
        &mut self,
        now: Nanos,
        sent: &mut Sent,
        random: &mut Sequence,
    ) -> Vec<Yield> {
        let mut yields = Vec::new();
        while self.at < now {
            let tick = Nanos::from_secs(self.seconds + 1);
            let next = now.min(tick);
            self.advance(next, sent, random);
            if next == tick {
                yields.push(self.end_second());
            }
        }
        let end = self.plan.planned_end().expect("known");
        let sends = self.pacers.iter().any(|(_, _, pacer)| pacer.peek().is_some());
        let over = self.stopped.is_some() || !sends && (!self.lasting || self.at >= end);
        if over && self.in_flight.is_empty() && self.at > Nanos::from_secs(self.seconds) {
            yields.push(self.end_second());
            let facts = RunFacts {
                started_at: WallClock { unix_ns: 0 },
                duration: self.at.min(end) - self.plan.warmup,
                drain: self.at - end,
                warmup: self.plan.warmup,
                cut_short: self.stopped.is_some(),
                stopped_by: None,
                cpus: 1,
                workers: 1,
                forced: Vec::new(),
            };
            yields.push(Yield::Ended(end_line(&facts, false, self.seconds)));
        }
        yields
    }

    fn advance(&mut self, to: Nanos, sent: &mut Sent, random: &mut Sequence) {
        for (stream, warm, pacer) in &mut self.pacers {
            while let Some(arrival) =
                pacer.peek().filter(|own| own.at < to && self.stopped.is_none())
            {
                pacer.advance();
                let ends = arrival.at + Nanos(random.below(300_000_000));
                let own = &self.plan.streams[*stream];
                if *warm {
                    self.in_flight.push((arrival.at, ends, None));
                } else {
                    *sent.entry((*stream, arrival.seq)).or_default() += 1;
                    let target = own.targets.start + own.deck.deal(arrival.seq).target;
                    self.in_flight.push((arrival.at, ends, Some(target)));
                    self.counts.streams[*stream].dispatched += 1;
                    self.counts.streams[*stream].lag.record(Nanos::ZERO);
                }
            }
        }
        let counts = &mut self.counts;
        self.in_flight.retain(|(due, ends, target)| {
            if *ends >= to {
                return true;
            }
            match target {
                None => {
                    counts.warmup.scheduled += 1;
                    counts.warmup.sent += 1;
                    counts.warmup.ok += 1;
                }
                Some(target) => {
                    let stats = &mut counts.stats[*target];
                    stats.requests.scheduled += 1;
                    stats.requests.sent += 1;
                    stats.requests.ok += 1;
                    stats.latency_ok.record(*ends - *due);
                    stats.service_time_ok.record(*ends - *due);
                    counts.streams[self.plan.targets[*target].stream].wait.record(Nanos::ZERO);
                }
            }
            false
        });
        self.at = to;
    }

    fn end_second(&mut self) -> Yield {
        let from = Nanos::from_secs(self.seconds);
        self.seconds += 1;
        self.counts.t = self.at;
        self.counts.in_flight = self.in_flight.len() as u64;
        let window = Window { from, planned_to: self.at, to: self.at };
        self.counts.streams.iter_mut().for_each(|stream| stream.active = Some(window));
        let line = to_line(&self.counts, &self.header);
        self.counts = self.plan.blank_snapshot();
        Yield::Second(self.at, line)
    }
}
