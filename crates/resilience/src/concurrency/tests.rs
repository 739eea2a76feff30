//! The limit against simulated upstreams whose capacity is known.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use plimsoll_measure::rng::{Key, Sequence};
use proptest::prelude::*;

use super::*;

/// A class of calls.
#[derive(Clone, Copy)]
struct Class {
    /// Its share of the calls.
    share: f64,
    mean_ms: f64,
    shape: Shape,
}

#[derive(Clone, Copy)]
enum Shape {
    Fixed,
    Exponential,
    /// With this standard deviation of the logarithm.
    Lognormal(f64),
}

impl Class {
    fn draw(&self, random: &mut Sequence) -> f64 {
        match self.shape {
            Shape::Fixed => self.mean_ms,
            Shape::Exponential => -self.mean_ms * (1.0 - random.unit()).ln(),
            Shape::Lognormal(sigma) => {
                let (a, b) = (1.0 - random.unit(), random.unit());
                let normal = (-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos();
                self.mean_ms * (sigma * normal - sigma * sigma / 2.0).exp()
            }
        }
    }
}

/// An upstream with some servers and an unbounded queue, and callers that call beyond its capacity or
/// below it.
struct World {
    classes: Vec<Class>,
    /// By second.
    servers: fn(f64) -> usize,
    /// Calls per second, by second.
    rate: fn(f64) -> f64,
    /// Classes' second set from this second on.
    later: Option<(f64, Vec<Class>)>,
    rtt_ms: f64,
    /// The share of calls that fail at once, by second.
    failing: fn(f64) -> f64,
    bounds: Bounds,
    secs: f64,
}

impl Default for World {
    fn default() -> World {
        World {
            classes: vec![Class { share: 1.0, mean_ms: 20.0, shape: Shape::Exponential }],
            servers: |_| 16,
            rate: |_| 1_600.0,
            later: None,
            rtt_ms: 0.5,
            failing: |_| 0.0,
            bounds: Bounds::default(),
            secs: 60.0,
        }
    }
}

/// What happened in a second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    /// The servers' use, from 0 to 1.
    busy: f64,
    /// Calls that waited at the upstream, on average.
    queue: f64,
    limit: f64,
}

/// How long a call waits for a place.
const WAIT_MS: f64 = 20.0;

#[derive(Clone, Copy, PartialEq)]
struct At(f64);

impl Eq for At {}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &At) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for At {
    fn cmp(&self, other: &At) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Done(usize),
    /// The answer has arrived.
    Back(usize),
    Second,
}

#[derive(Clone, Copy)]
struct Flying {
    kind: usize,
    sent: f64,
    service: f64,
    in_flight: u32,
    fails: bool,
}

fn nanos(ms: f64) -> Nanos {
    Nanos((ms * 1e6) as u64 + 1_000_000_000)
}

impl World {
    fn run(&self, seed: u64) -> Vec<Second> {
        let mut random = Key::new(seed).sequence();
        let limit = Concurrency::new(self.bounds, 8);
        let mut events = BinaryHeap::new();
        let push = |events: &mut BinaryHeap<_>, at: f64, event: Event| {
            events.push(Reverse((At(at), event)));
        };
        push(&mut events, 0.0, Event::Arrival);
        push(&mut events, 1_000.0, Event::Second);
        let (mut calls, mut waiting): (Vec<Flying>, VecDeque<(f64, usize)>) = Default::default();
        let (mut free, mut busy, mut in_flight) = (VecDeque::<usize>::new(), 0usize, 0u32);
        let (mut seconds, mut second, mut last) = (Vec::new(), Second::default(), 0.0f64);
        while let Some(Reverse((At(now), event))) = events.pop() {
            let servers = (self.servers)(now / 1e3);
            let span = now - last;
            second.busy += span / 1e3 * busy.min(servers) as f64 / servers as f64;
            second.queue += span / 1e3 * free.len() as f64;
            last = now;
            match event {
                Event::Second => {
                    second.limit = limit.limit().into();
                    seconds.push(std::mem::take(&mut second));
                    if now >= self.secs * 1e3 {
                        return seconds;
                    }
                    push(&mut events, now + 1_000.0, Event::Second);
                }
                Event::Arrival => {
                    let gap = -(1.0 - random.unit()).ln() / (self.rate)(now / 1e3) * 1e3;
                    push(&mut events, now + gap, Event::Arrival);
                    let classes = match &self.later {
                        Some((from, later)) if now >= from * 1e3 => later,
                        _ => &self.classes,
                    };
                    let mut at = random.unit();
                    let kind = classes.iter().position(|class| {
                        at -= class.share;
                        at < 0.0
                    });
                    let kind = kind.unwrap_or(0);
                    let service = classes[kind].draw(&mut random);
                    let fails = random.unit() < (self.failing)(now / 1e3);
                    waiting.push_back((now, calls.len()));
                    calls.push(Flying { kind, sent: 0.0, service, in_flight: 0, fails });
                }
                Event::Done(call) => {
                    if !calls[call].fails {
                        busy -= 1;
                    }
                    push(&mut events, now + self.rtt_ms, Event::Back(call));
                }
                Event::Back(call) => {
                    let done = calls[call];
                    in_flight -= 1;
                    limit.record(&Sample {
                        kind: done.kind,
                        started: nanos(done.sent),
                        ended: nanos(now),
                        in_flight: done.in_flight,
                        ending: if done.fails { Ending::Failed } else { Ending::Answered },
                    });
                }
            }
            while let Some((since, call)) = waiting.front().copied() {
                if now - since > WAIT_MS {
                    waiting.pop_front();
                } else if in_flight < limit.limit() {
                    in_flight += 1;
                    calls[call].sent = now;
                    calls[call].in_flight = in_flight;
                    waiting.pop_front();
                    if calls[call].fails {
                        push(&mut events, now, Event::Done(call));
                    } else {
                        free.push_back(call);
                    }
                } else {
                    break;
                }
            }
            while busy < servers {
                let Some(call) = free.pop_front() else { break };
                busy += 1;
                push(&mut events, now + calls[call].service, Event::Done(call));
            }
        }
        seconds
    }
}

fn mean(seconds: &[Second], of: impl Fn(&Second) -> f64) -> f64 {
    seconds.iter().map(of).sum::<f64>() / seconds.len() as f64
}

/// What the limit must do.
struct Bar {
    /// The least use of the servers.
    busy: f64,
    /// The longest queue at the upstream, per server.
    queue: f64,
}

fn class(share: f64, mean_ms: f64, shape: Shape) -> Class {
    Class { share, mean_ms, shape }
}

/// Runs a world for some seeds; checks the seconds from `from` on.
fn check(name: &str, world: &World, from: usize, bar: &Bar) {
    for seed in 0..2 {
        let seconds = world.run(seed);
        let part = &seconds[from..];
        let servers = (world.servers)(from as f64) as f64;
        let (busy, queue) = (mean(part, |s| s.busy), mean(part, |s| s.queue) / servers);
        let limit = mean(part, |s| s.limit);
        println!("{name}, seed {seed}: busy {busy:.3}, queue {queue:.2}, limit {limit:.0}");
        assert!(busy >= bar.busy, "{name}, seed {seed}: the servers were busy {busy:.3}");
        assert!(queue <= bar.queue, "{name}, seed {seed}: {queue:.2} waited per server");
    }
}

#[test]
fn the_limit_is_where_the_servers_are_busy_and_nearly_nothing_waits() {
    use Shape::{Exponential, Fixed, Lognormal};
    type Servers = fn(f64) -> usize;
    type Rate = fn(f64) -> f64;
    let sizes: [(Servers, Rate, &str); 3] =
        [(|_| 4, |_| 400.0, "4"), (|_| 16, |_| 1_600.0, "16"), (|_| 100, |_| 10_000.0, "100")];
    let shapes = [("fixed", Fixed), ("exponential", Exponential), ("lognormal", Lognormal(1.0))];
    for (servers, rate, size) in sizes {
        for (name, shape) in shapes {
            let classes = vec![class(1.0, 20.0, shape)];
            let secs = if size == "100" { 30.0 } else { 60.0 };
            let world = World { classes, servers, rate, secs, ..World::default() };
            check(&format!("{name}, {size} servers"), &world, 15, &Bar { busy: 0.92, queue: 1.0 });
        }
    }
    let classes = vec![class(1.0, 20.0, Lognormal(2.0))];
    let world = World { classes, ..World::default() };
    check("heavy-tailed", &world, 15, &Bar { busy: 0.88, queue: 1.0 });
    let world = World { rtt_ms: 150.0, ..World::default() };
    check("far", &world, 25, &Bar { busy: 0.93, queue: 4.0 });
}

#[test]
fn slow_methods_do_not_starve_the_others() {
    let classes = vec![class(0.9, 1.0, Shape::Exponential), class(0.1, 500.0, Shape::Exponential)];
    let later = vec![class(0.5, 1.0, Shape::Exponential), class(0.5, 500.0, Shape::Exponential)];
    let world = World {
        classes,
        later: Some((30.0, later)),
        servers: |_| 50,
        rate: |_| 2_000.0,
        ..World::default()
    };
    check("mixed", &world, 15, &Bar { busy: 0.75, queue: 0.5 });
    check("mixed, then slower", &world, 32, &Bar { busy: 0.75, queue: 0.5 });
}

#[test]
fn the_limit_follows_the_capacity() {
    let servers: fn(f64) -> usize = |s| if (20.0..50.0).contains(&s) { 4 } else { 40 };
    let world = World { servers, rate: |_| 4_000.0, secs: 80.0, ..World::default() };
    check("a tenth, and back", &world, 62, &Bar { busy: 0.85, queue: 1.0 });
    let world = World { servers, rate: |_| 4_000.0, secs: 50.0, ..World::default() };
    check("a tenth", &world, 30, &Bar { busy: 0.9, queue: 3.0 });
    let later = Some((30.0, vec![class(1.0, 60.0, Shape::Exponential)]));
    let world = World { later, ..World::default() };
    check("three times as slow", &world, 40, &Bar { busy: 0.92, queue: 1.0 });
}

#[test]
fn errors_pauses_and_low_load_change_nothing() {
    let limits = |world: &World, from: usize| -> Vec<f64> {
        world.run(1)[from..].iter().map(|second| second.limit).collect()
    };
    let world =
        World { failing: |s| if s > 20.0 { 1.0 } else { 0.0 }, secs: 40.0, ..World::default() };
    let failing = limits(&world, 21);
    assert!(failing.iter().all(|limit| *limit == failing[0]), "{failing:?}");
    // Four calls a second, and a pause.
    let rate: fn(f64) -> f64 = |s| if (10.0..30.0).contains(&s) { 0.001 } else { 4.0 };
    let low = limits(&World { rate, secs: 60.0, ..World::default() }, 0);
    assert!(low.iter().all(|limit| *limit == 32.0), "{low:?}");
    // A jump of the clock by an hour.
    let limit = Concurrency::new(Bounds::default(), 1);
    for n in 0..20_000u64 {
        let started = Nanos::from_millis(n) + Nanos::from_secs(if n < 10_000 { 0 } else { 3_600 });
        let ended = started + Nanos::from_millis(20);
        let in_flight = limit.limit();
        limit.record(&Sample { kind: 0, started, ended, in_flight, ending: Ending::Answered });
    }
    assert!(limit.limit() >= 32, "{}", limit.limit());
}

proptest! {
    /// Whatever ends in whatever order, the limit stays within its bounds.
    #[test]
    fn the_limit_stays_within_its_bounds(
        bounds in (1u32..50, 0u32..1_000),
        calls in proptest::collection::vec((0usize..3, 0u64..40_000_000_000, 0u32..2_000, 0u8..4), 1..3_000),
    ) {
        let bounds = Bounds { min: bounds.0, start: 32, max: bounds.0 + bounds.1 };
        let limit = Concurrency::new(bounds, 3);
        let mut now = Nanos::from_secs(100);
        for (kind, span, in_flight, ending) in calls {
            now += Nanos(span % 5_000_000);
            let endings = [Ending::Answered, Ending::GivenUp, Ending::TimedOut, Ending::Failed];
            let ending = endings[usize::from(ending)];
            let in_flight = if in_flight < 1_000 { limit.limit() } else { in_flight };
            let sample = Sample { kind, started: now - Nanos(span), ended: now, in_flight, ending };
            limit.record(&sample);
            prop_assert!((bounds.min..=bounds.max).contains(&limit.limit()));
        }
    }
}

#[test]
fn calls_that_all_time_out_halve_the_limit_and_those_that_leave_do_not() {
    let after = |ending: Ending| {
        let limit = Concurrency::new(Bounds { min: 4, start: 64, max: 1_000 }, 1);
        for n in 0..5_000u64 {
            let started = Nanos::from_millis(n * 10);
            let ended = started + Nanos::from_secs(10);
            let in_flight = limit.limit();
            limit.record(&Sample { kind: 0, started, ended, in_flight, ending });
        }
        limit.limit()
    };
    assert_eq!((after(Ending::TimedOut), after(Ending::GivenUp)), (4, 64));
}

#[test]
fn the_ramp_finds_large_upstreams_at_once_and_small_ones_soon() {
    let limits = |servers: fn(f64) -> usize, rate: fn(f64) -> f64| -> Vec<f64> {
        let bounds = Bounds { min: 4, start: 64, max: 1_000 };
        let classes = vec![class(1.0, 40.0, Shape::Exponential)];
        let world = World { servers, rate, bounds, classes, secs: 12.0, ..World::default() };
        world.run(1).iter().map(|second| second.limit).collect()
    };
    let large = limits(|_| 1_000, |_| 20_000.0);
    assert!(large[1] >= 500.0, "{large:?}");
    let small = limits(|_| 4, |_| 200.0);
    assert!(small[8..].iter().all(|limit| *limit <= 12.0), "{small:?}");
}

#[test]
fn logarithms_are_close() {
    for nanos in [2u64, 3, 1_000, 1_500, 999_999, 123_456_789_012] {
        let exact = (nanos as f64).log2();
        let close = f64::from(log2(Nanos(nanos))) / f64::from(ONE);
        assert!((exact - close).abs() < 0.01, "{nanos}: {exact} {close}");
    }
}
