//! What overload may cost, and what a healthy system must not notice.

use super::*;

/// The calls of an endpoint that started within some seconds.
struct Part {
    span: f64,
    calls: Vec<Record>,
}

impl Part {
    fn of(records: &[Record], endpoint: usize, from: f64, to: f64) -> Part {
        let is_in = |one: &&Record| one.endpoint == endpoint && one.start >= from && one.start < to;
        Part { span: to - from, calls: records.iter().filter(is_in).copied().collect() }
    }

    /// Answers a second.
    fn goodput(&self) -> f64 {
        self.calls.iter().filter(|one| one.is_ok).count() as f64 / self.span
    }

    /// The share of calls that were answered.
    fn success(&self) -> f64 {
        self.goodput() * self.span / self.calls.len() as f64
    }

    /// A quantile of the latency of those that were answered, in milliseconds.
    fn quantile(&self, share: f64) -> f64 {
        let answered = self.calls.iter().filter(|one| one.is_ok);
        let mut all: Vec<f64> = answered.map(|one| one.latency_ms).collect();
        all.sort_by(f64::total_cmp);
        let last = all.len().checked_sub(1).expect("none was answered");
        all[(last as f64 * share) as usize]
    }

    /// The longest time that a call took that was shed.
    fn longest_shed(&self) -> f64 {
        let shed = self.calls.iter().filter(|one| one.is_shed);
        shed.map(|one| one.latency_ms).fold(0.0, f64::max)
    }
}

const SEEDS: u64 = 2;

#[test]
fn twice_the_capacity_costs_neither_throughput_nor_latency() {
    for seed in 0..SEEDS {
        let at = |load| {
            let records = run(&Scenario::of(&[rate(load)], 50), seed).records;
            Part::of(&records, 0, 25.0, 50.0)
        };
        let full = at(CAPACITY);
        let over = at(2.0 * CAPACITY);
        let (p99, p99_full) = (over.quantile(0.99), full.quantile(0.99));
        let (goodput, shed) = (over.goodput() / CAPACITY, over.longest_shed());
        println!("seed {seed}: {goodput:.3}, p99 {p99:.0} ms, {p99_full:.0} ms, shed {shed:.0} ms");
        assert!(goodput >= 0.95, "seed {seed}: {goodput}");
        assert!(p99 <= 2.0 * p99_full, "seed {seed}: {p99} ms, {p99_full} ms at capacity");
        // Two answers' time, which varies.
        assert!(shed <= 400.0, "seed {seed}: shed after {shed} ms");
    }
}

#[test]
fn a_customer_within_its_share_does_not_notice_the_flood_of_another() {
    for seed in 0..SEEDS {
        let at = |customers: &[Customer]| run(&Scenario::of(customers, 35), seed).records;
        let quiet = rate(CAPACITY / 4.0);
        let alone = Part::of(&at(&[quiet]), 0, 20.0, 35.0);
        let both = at(&[quiet, rate(10.0 * CAPACITY)]);
        let (beside, flood) = (Part::of(&both, 0, 20.0, 35.0), Part::of(&both, 1, 20.0, 35.0));
        let (success, p99, before) =
            (beside.success(), beside.quantile(0.99), alone.quantile(0.99));
        let all = (beside.goodput() + flood.goodput()) / CAPACITY;
        println!("seed {seed}: {success:.4}, p99 {p99:.0} ms, alone {before:.0} ms, all {all:.3}");
        assert!(success >= 0.999, "seed {seed}: {success}");
        assert!(p99 <= 1.5 * before, "seed {seed}: {p99} ms, {before} ms alone");
        assert!(all >= 0.95, "seed {seed}: {all}");
        let start = Part::of(&both, 0, 0.0, 20.0).success();
        assert!(start >= 0.999, "seed {seed}: {start} from the start");
    }
}

#[test]
fn slow_calls_of_one_customer_do_not_hold_up_fast_ones_of_another() {
    let fast = rate(capacity(16) / 20.0);
    let slow = Customer { method: SLOW, ..rate(2.5 * capacity(16) / SLOW_TIMES) };
    // (name, concurrency, the least success; the median and the 99th percentile to those alone)
    for (name, concurrency, least, times) in [
        ("fixed", model::Concurrency::Fixed(16), 0.999, (1.5, 1.5)),
        // Behind what waits at the nodes, as few calls end from which the limit is found. Without a
        // limit, no fast call is answered.
        ("measured", model::Concurrency::Auto, 0.95, (11.0, 14.0)),
    ] {
        for seed in 0..SEEDS {
            let at = |customers: &[Customer]| {
                let scenario = Scenario::of(customers, 60);
                let records = run(&Scenario { servers: 16, concurrency, ..scenario }, seed).records;
                Part::of(&records, 0, 30.0, 60.0)
            };
            let (alone, beside) = (at(&[fast]), at(&[fast, slow]));
            let (p50, p99) = (beside.quantile(0.5), beside.quantile(0.99));
            let (before, success) = ((alone.quantile(0.5), alone.quantile(0.99)), beside.success());
            println!(
                "{name}, seed {seed}: {success:.4}, p50 {p50:.0} ms, p99 {p99:.0} ms, alone {before:?}"
            );
            assert!(success >= least, "{name}, seed {seed}: {success}");
            let is_near = p50 <= times.0 * before.0 && p99 <= times.1 * before.1;
            assert!(is_near, "{name}, seed {seed}: {p50} and {p99} ms, {before:?} alone");
        }
    }
}

#[test]
fn callers_that_leave_do_not_exceed_the_limit() {
    let leaving =
        Customer { leaves_after: Some(Duration::from_millis(10)), ..rate(10.0 * CAPACITY) };
    let quiet = rate(CAPACITY / 4.0);
    let concurrency = model::Concurrency::Fixed(SERVERS as u32);
    for seed in 0..SEEDS {
        let alone = Scenario { concurrency, ..Scenario::of(&[quiet], 20) };
        let alone = Part::of(&run(&alone, seed).records, 0, 5.0, 20.0);
        let scenario = Scenario { concurrency, ..Scenario::of(&[quiet, leaving], 20) };
        let Ran { records, most, opened } = run(&scenario, seed);
        let beside = Part::of(&records, 0, 5.0, 20.0);
        let (success, p99) = (beside.success(), beside.quantile(0.99));
        let before = alone.quantile(0.99);
        println!(
            "seed {seed}: {success:.4}, p99 {p99:.0} ms, alone {before:.0} ms, {most:?} {opened:?}"
        );
        assert!(most.iter().all(|most| *most <= SERVERS), "seed {seed}: {most:?} at a node");
        // Connections are used again, too.
        assert!(opened.iter().all(|opened| *opened <= 4 * SERVERS), "seed {seed}: {opened:?}");
        assert!(success >= 0.999, "seed {seed}: {success}");
        assert!(p99 <= 2.0 * before, "seed {seed}: {p99} ms, {before} ms alone");
    }
}

/// Stalls of 0.2 to 1 s, one in each 4 s.
fn stalls(at: f64) -> Work {
    let mut random = Key::new(7).with((at / 4.0) as u64).sequence();
    let begin = (at / 4.0).floor() * 4.0 + 1.5 * random.unit();
    let end = begin + 0.2 + 0.8 * random.unit();
    if (begin..end).contains(&at) { Work::Stall(end) } else { Work::Times(1.0) }
}

fn slower_for_a_second(at: f64) -> Work {
    Work::Times(if (5.0..6.0).contains(&at) { 10.0 } else { 1.0 })
}

#[test]
fn a_healthy_system_is_refused_nothing() {
    let big = |customers: &[Customer]| Scenario { servers: 16, ..Scenario::of(customers, 30) };
    let (half, half_of_big) = (rate(CAPACITY / 2.0), rate(capacity(16) / 2.0));
    let at_once = Customer::of(Load::Bursts(1_000, 1e3));
    let rows = [
        ("half of the capacity", Scenario::of(&[half], 30)),
        ("0.9 of the capacity", Scenario::of(&[rate(0.9 * CAPACITY)], 60)),
        ("upstreams that stall", Scenario { work: stalls, ..Scenario::of(&[half], 40) }),
        (
            "a machine that stalls",
            Scenario { work: stalls, is_machine: true, ..Scenario::of(&[half], 40) },
        ),
        (
            "the same, 16 servers",
            Scenario { work: stalls, is_machine: true, ..big(&[half_of_big]) },
        ),
        ("bursts of 500", big(&[Customer::of(Load::Bursts(500, 5.0))])),
        ("1,000 calls at the start", big(&[at_once, half_of_big])),
        ("slower for 1 s", Scenario { work: slower_for_a_second, ..Scenario::of(&[half], 20) }),
        ("slower for 1 s, 16", Scenario { work: slower_for_a_second, ..big(&[half_of_big]) }),
        ("64 users, 16 servers", big(&[Customer::of(Load::Users(64))])),
        ("64 users", Scenario::of(&[Customer::of(Load::Users(64))], 30)),
        (
            "64 users, limit of 4",
            Scenario {
                concurrency: model::Concurrency::Fixed(4),
                ..Scenario::of(&[Customer::of(Load::Users(64))], 30)
            },
        ),
    ];
    for (name, scenario) in &rows {
        for seed in 0..SEEDS {
            let ran = run(scenario, seed);
            let lost = ran.records.iter().filter(|one| !one.is_ok).count();
            let shed = ran.records.iter().filter(|one| one.is_shed).count();
            let latest = ran.records.iter().map(|one| one.latency_ms).fold(0.0, f64::max);
            let all = ran.records.len();
            let full = capacity(scenario.servers) * scenario.secs as f64;
            let throughput = all as f64 / full;
            println!(
                "{name}, seed {seed}: {lost} of {all} lost ({shed} shed), {latest:.0} ms, {throughput:.3}"
            );
            assert_eq!(lost, 0, "{name}, seed {seed}: of {all}, {shed} of them shed");
            if matches!(scenario.customers[0].load, Load::Users(_)) {
                assert!(throughput >= 0.93, "{name}, seed {seed}: {throughput}");
            }
        }
    }
}

#[test]
fn a_capacity_that_drops_and_returns_is_followed() {
    fn tenth(at: f64) -> Work {
        Work::Times(if (25.0..55.0).contains(&at) { 10.0 } else { 1.0 })
    }
    let scenario = Scenario { work: tenth, ..Scenario::of(&[rate(1.5 * CAPACITY)], 85) };
    let records = run(&scenario, 1).records;
    let during = Part::of(&records, 0, 35.0, 55.0).goodput() / (CAPACITY / 10.0);
    let after = Part::of(&records, 0, 70.0, 85.0).goodput() / CAPACITY;
    println!("during {during:.3}, after {after:.3}");
    assert!(during >= 0.8, "{during}");
    assert!(after >= 0.85, "{after}");
    let longest = Part::of(&records, 0, 0.0, 85.0).longest_shed();
    assert!(longest <= TIMEOUT.as_secs_f64() * 1e3 / 2.0 + 1.0, "shed after {longest} ms");
}

#[test]
fn upstreams_that_have_hung_are_used_again() {
    fn hang(at: f64) -> Work {
        if (10.0..20.0).contains(&at) { Work::Hang } else { Work::Times(1.0) }
    }
    let scenario = Scenario { work: hang, ..Scenario::of(&[rate(0.7 * CAPACITY)], 40) };
    for seed in 0..SEEDS {
        let Ran { records, most, .. } = run(&scenario, seed);
        let during = Part::of(&records, 0, 11.0, 19.0).success();
        let after = Part::of(&records, 0, 26.0, 40.0);
        let (success, p99) = (after.success(), after.quantile(0.99));
        println!("seed {seed}: {during:.3} during, {success:.4} after, p99 {p99:.0} ms, {most:?}");
        assert!(success >= 0.98, "seed {seed}: {success}");
        let before = Part::of(&records, 0, 0.0, 10.0);
        assert!(before.success() >= 0.99, "seed {seed}: {}", before.success());
        let usual = before.quantile(0.99);
        assert!(p99 <= 2.0 * usual, "seed {seed}: {p99} ms, {usual} ms before");
    }
}
