//! A simulation of arrivals, a connection limit and a target, and the counts that an engine would make of
//! them, second by second. The true cause of each wait is known from the simulated target.

use super::*;
use plimsoll_measure::rng::Key;
use std::collections::BinaryHeap;

/// The target's service time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Service {
    /// Constant.
    Constant(u64),
    /// Exponentially distributed with this mean.
    Exponential(u64),
    /// A cache: one in ten takes this long, the others a millisecond.
    Cached(u64),
    /// Exponential, with a mean five times as long from this second on.
    SlowsDownAtRandom(u64, u64),
    /// The first time until this second of the run, the second time from then on.
    SlowsDown(u64, u64, u64),
    /// A single server that takes this long per request; others queue at the target.
    Server(u64),
    /// Answers in a millisecond, but stalls for a number of milliseconds in every period of a number of
    /// seconds.
    Stalls(u64, u64),
    /// Stalls for this many milliseconds at the start, then answers in a tenth of a millisecond.
    StallsFirst(u64),
    /// Never answers.
    Hangs,
}

/// A simulated origin. Times are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) rate: u64,
    pub(super) secs: u64,
    pub(super) limit: u64,
    pub(super) timeout: u64,
    pub(super) service: Service,
    /// Number of additional arrivals at the very start.
    pub(super) burst: u64,
    pub(super) poisson: bool,
    pub(super) seed: u64,
}

/// The outcome of an arrival at the origin with this index.
struct Outcome {
    origin: usize,
    at: Nanos,
    start: Nanos,
    end: Nanos,
    /// The error, if any.
    error: Option<ErrorClass>,
    starved: bool,
}

fn millis(n: f64) -> Nanos {
    Nanos((n * 1e6) as u64)
}

impl Case {
    fn arrivals(&self) -> Vec<Nanos> {
        let mut random = Key::new(self.seed).with(0).sequence();
        let mut at = 0.0;
        let count = self.rate * self.secs;
        let mean = 1000.0 / self.rate as f64;
        let step = |_| {
            let now = at;
            at += if self.poisson { -(1.0 - random.unit()).ln() * mean } else { mean };
            millis(now)
        };
        let steady: Vec<Nanos> = (0..count).map(step).collect();
        (0..self.burst).map(|_| Nanos::ZERO).chain(steady).collect()
    }

    /// The outcome of each arrival, first come, first served.
    fn outcomes(&self, origin: usize) -> Vec<Outcome> {
        let mut random = Key::new(self.seed).with(1 + origin as u64).sequence();
        let timeout = Nanos::from_millis(self.timeout);
        // When each connection becomes free, earliest on top.
        let mut free: BinaryHeap<_> =
            (0..self.limit).map(|_| std::cmp::Reverse(Nanos::ZERO)).collect();
        let mut server = Nanos::ZERO;
        let mut fastest: Option<Nanos> = None;
        let outcome = |at: Nanos| {
            let std::cmp::Reverse(next) = free.pop().expect("there is a connection");
            let start = at.max(next);
            let deadline = at + timeout;
            if start + fastest.unwrap_or_default() >= deadline {
                free.push(std::cmp::Reverse(next));
                let end = deadline;
                return Outcome {
                    origin,
                    at,
                    start: end,
                    end,
                    error: Some(ErrorClass::NoConnection),
                    starved: true,
                };
            }
            let service = match self.service {
                Service::Constant(own) => millis(own as f64),
                Service::Exponential(mean) => millis(-(1.0 - random.unit()).ln() * mean as f64),
                Service::Cached(miss) => millis(if random.unit() < 0.1 { miss } else { 1 } as f64),
                Service::SlowsDownAtRandom(mean, from) => {
                    let factor = if start < Nanos::from_secs(from) { 1.0 } else { 5.0 };
                    millis(-(1.0 - random.unit()).ln() * mean as f64 * factor)
                }
                Service::SlowsDown(own, later, from) => {
                    millis(if start < Nanos::from_secs(from) { own } else { later } as f64)
                }
                Service::Server(each) => {
                    server = server.max(start) + millis(each as f64);
                    server - start
                }
                Service::Stalls(stall, every) => {
                    let (stall, every) = (Nanos::from_millis(stall), Nanos::from_secs(every));
                    let since = Nanos(start.0 % every.0);
                    // The stall is at the end of each period.
                    let from = every - stall;
                    let left = if since > from { every - since } else { Nanos::ZERO };
                    left + Nanos::from_millis(1)
                }
                Service::StallsFirst(stall) => Nanos::from_millis(stall) - start + millis(0.1),
                Service::Hangs => Nanos::from_secs(3600),
            };
            let end = start + service;
            if end > deadline {
                free.push(std::cmp::Reverse(deadline));
                // What the engine can determine: the arrival waited, and less time was left than the
                // fastest answer takes.
                let slack = fastest.map(|fastest| fastest + Nanos::from_millis(1));
                let starved = start > at && slack.is_some_and(|slack| deadline - start < slack);
                let error = Some(ErrorClass::ResponseTimeout);
                return Outcome { origin, at, start, end: deadline, error, starved };
            }
            free.push(std::cmp::Reverse(end));
            fastest = Some(fastest.map_or(service, |fastest| fastest.min(service)));
            Outcome { origin, at, start, end, error: None, starved: false }
        };
        self.arrivals().into_iter().map(outcome).collect()
    }

    pub(super) fn plan(cases: &[Case]) -> Plan {
        let Case { rate, secs, limit, timeout, .. } = cases[0];
        let targets: String = (0..cases.len())
            .map(|n| format!("[[target]]\nname = \"{n}\"\nrequest = \"GET http://h{n}/\"\n"))
            .collect();
        let rate = rate * cases.len() as u64;
        plan(&format!(
            "rate = \"{rate}/s\"\nduration = \"{secs}s\"\ntimeout = \"{timeout}ms\"\n\
             connections = {{ max = {limit} }}\n{targets}"
        ))
    }

    /// Runs a plan whose targets, each at its own origin, behave according to the cases.
    pub(super) fn record<'p>(cases: &[Case], plan: &'p Plan) -> Recording<'p> {
        let outcomes: Vec<Outcome> =
            (0..).zip(cases).flat_map(|(origin, case)| case.outcomes(origin)).collect();
        let last = outcomes.iter().map(|outcome| outcome.end).max().unwrap_or_default();
        let mut recording = Recording::new(plan);
        for number in 0..last.0.div_ceil(Nanos::from_secs(1).0) {
            let from = Nanos::from_secs(number);
            let second = from..from + Nanos::from_secs(1);
            recording.second(|filled| {
                outcomes.iter().for_each(|outcome| outcome.count(filled, &second))
            });
            let origins = &mut recording.seconds.last_mut().unwrap().origins;
            for (place, counts) in origins.iter_mut().enumerate() {
                counts.limit = cases[place].limit;
                counts.capped = capped(&outcomes, place, &second);
                let own = outcomes.iter().filter(|outcome| outcome.origin == place);
                own.for_each(|outcome| counts.in_use += outcome.in_use(&second));
            }
        }
        recording
    }
}

/// How long within a second any arrival waited at an origin's limit.
fn capped(outcomes: &[Outcome], origin: usize, second: &std::ops::Range<Nanos>) -> Nanos {
    let (mut covered, mut capped) = (second.start, Nanos::ZERO);
    for outcome in outcomes.iter().filter(|outcome| outcome.origin == origin) {
        let from = outcome.at.max(covered);
        let to = outcome.start.min(second.end);
        if to > from {
            capped += to - from;
            covered = to;
        }
    }
    capped
}

impl Outcome {
    /// How long within a second the arrival held a connection.
    fn in_use(&self, second: &std::ops::Range<Nanos>) -> Nanos {
        self.end.min(second.end) - self.start.max(second.start)
    }

    fn count(&self, filled: &mut Filled<'_>, second: &std::ops::Range<Nanos>) {
        if second.contains(&self.at) {
            filled.origin(self.origin).wanted += 1;
        }
        if !second.contains(&self.end) {
            return;
        }
        let wait = self.start - self.at;
        match self.error {
            None => {
                let service = self.end - self.start;
                filled.answered(self.origin, 1, [Nanos::ZERO, wait, service]);
                filled.answered_at(0, self.end);
                let counts = filled.origin(self.origin);
                let began_at_limit = wait > Nanos::ZERO;
                let sum = if began_at_limit {
                    &mut counts.service_capped
                } else {
                    &mut counts.service_free
                };
                sum.add(service);
            }
            Some(class) => {
                let after = self.end - self.at;
                if class == ErrorClass::ResponseTimeout {
                    filled.timed_out(self.origin, wait, after);
                } else {
                    filled.failed(self.origin, 1, class, after);
                }
                filled.origin(self.origin).starved += u64::from(self.starved);
            }
        }
    }
}
