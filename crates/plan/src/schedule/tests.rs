//! Properties of the schedule: conservation, instants, goodness of fit, independence of the split.

use super::*;
use crate::Stage;
use proptest::prelude::*;

fn drain(mut pacer: Pacer) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    while let Some(arrival) = pacer.peek() {
        arrivals.push(arrival);
        pacer.advance();
    }
    arrivals
}

fn everything(schedule: &Arc<Schedule>) -> Vec<Arrival> {
    drain(schedule.pacer(&Shards::part(0, 1), Nanos::ZERO))
}

fn by_seq(mut arrivals: Vec<Arrival>) -> Vec<Arrival> {
    arrivals.sort_by_key(|arrival| arrival.seq);
    arrivals
}

fn profiles() -> impl Strategy<Value = Profile> {
    let stage = (0.0..3000.0f64, 0u64..4, 0u64..3).prop_map(|(value, over, hold)| Stage {
        value,
        over: Nanos::from_secs(over),
        hold: Nanos::from_secs(hold),
    });
    (0.0..1000.0f64, proptest::collection::vec(stage, 1..5))
        .prop_map(|(start, stages)| Profile::stages(start, &stages))
}

fn schedules() -> impl Strategy<Value = Arc<Schedule>> {
    let arrivals = prop_oneof![Just(Arrivals::Constant), Just(Arrivals::Poisson)];
    let end = prop_oneof![profiles().prop_map(Ok), (0.5..5000.0f64, 1u64..5000).prop_map(Err),];
    (arrivals, any::<u64>(), 0u64..3, end).prop_map(|(arrivals, seed, start, end)| {
        let (key, start) = (Key::new(seed), Nanos::from_secs(start));
        match end {
            Ok(profile) => Arc::new(Schedule::over(profile, arrivals, key, start)),
            Err((rate, count)) => Arc::new(Schedule::of_count(rate, count, arrivals, key, start)),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arrivals_are_conserved_whatever_the_split(schedule in schedules(), parts in 1usize..40) {
        let whole = everything(&schedule);
        prop_assert_eq!(whole.len() as u64, schedule.count());
        prop_assert!(whole.is_sorted_by_key(|arrival| arrival.at));
        let numbers: Vec<u64> = by_seq(whole.clone()).iter().map(|a| a.seq).collect();
        prop_assert_eq!(numbers, (0..schedule.count()).collect::<Vec<_>>());
        let split = (0..parts).flat_map(|part| {
            drain(schedule.pacer(&Shards::part(part, parts), Nanos::ZERO))
        });
        prop_assert_eq!(by_seq(split.collect()), by_seq(whole));
    }

    #[test]
    fn arrivals_are_conserved_when_shards_change_hands(
        schedule in schedules(),
        cut in 1u16..1023,
        share in 0.0..1.2f64,
    ) {
        let (early, late) = (Shards::of(0..cut), Shards::of(cut..1024));
        let span = (schedule.end() - schedule.start()).as_secs_f64();
        let handover = schedule.start() + Nanos::from_secs_f64(span * share);
        // `late` drops its shards at the handover, and `early` continues them from there.
        let mut arrivals = drain(schedule.pacer(&early, Nanos::ZERO));
        let lost = drain(schedule.pacer(&late, Nanos::ZERO));
        arrivals.extend(lost.into_iter().filter(|arrival| arrival.at < handover));
        arrivals.extend(drain(schedule.pacer(&late, handover)));
        prop_assert_eq!(by_seq(arrivals), by_seq(everything(&schedule)));
    }

    #[test]
    fn the_kth_instant_follows_from_the_integral(profile in profiles()) {
        let start = Nanos::from_secs(2);
        let schedule = Arc::new(Schedule::over(profile.clone(), Arrivals::Constant, Key::new(0), start));
        prop_assert_eq!(schedule.count(), (profile.total() - 1e-6).max(0.0).ceil() as u64);
        for (k, arrival) in everything(&schedule).iter().enumerate() {
            let integral = profile.integral(arrival.at - start);
            prop_assert!((integral - k as f64).abs() < 1e-4, "{k} at {} is {integral}", arrival.at);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_changed_rate_continues_numbering_and_loses_nothing(
        poisson: bool,
        seed: u64,
        rate in 1.0..3000.0f64,
        share in 0.0..1.0f64,
        parts in 1usize..5,
    ) {
        let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Constant };
        let first = Profile::constant(500.0, Nanos::from_secs(3));
        let first = Arc::new(Schedule::over(first, arrivals, Key::new(seed), Nanos::from_secs(1)));
        let at = first.start() + Nanos::from_secs_f64(3.0 * share);
        let left = Profile::constant(rate, first.end() - at);
        let second = Schedule::over(left, arrivals, Key::new(seed).with(1), at);
        let count = second.count();
        let second = Arc::new(second.numbered_from(first.seq_after(at)));
        let mut taken = Vec::new();
        for part in 0..parts {
            let shards = Shards::part(part, parts);
            let before = drain(first.pacer(&shards, Nanos::ZERO));
            taken.extend(before.into_iter().filter(|arrival| arrival.at < at));
            taken.extend(drain(second.pacer(&shards, at)));
        }
        let before = everything(&first).into_iter().filter(|arrival| arrival.at < at).count();
        prop_assert_eq!(taken.len(), before + count as usize);
        taken.sort_by_key(|arrival| arrival.seq);
        prop_assert!(taken.windows(2).all(|pair| pair[0].seq < pair[1].seq), "a number twice");
    }
}

#[test]
fn shards_are_dealt_and_handed_over() {
    let mine = Shards::part(1, 3);
    let (left, right) = (mine.share(0, 2), mine.share(1, 2));
    assert_eq!(left.len() + right.len(), mine.len());
    assert_eq!(left.with(&right), mine);
    assert_eq!(mine.without(&left), right);
    assert!(mine.without(&mine).is_empty());
}

#[test]
fn round_rates_give_round_counts() {
    let check = |rate: f64, secs: u64, count: u64| {
        let profile = Profile::constant(rate, Nanos::from_secs(secs));
        let schedule =
            Arc::new(Schedule::over(profile, Arrivals::Constant, Key::new(1), Nanos::ZERO));
        assert_eq!(schedule.count(), count, "{rate}/s for {secs} s");
    };
    check(5000.0, 1980, 9_900_000);
    check(100.0 / 60.0, 60, 100);
    check(10.0 / 3600.0, 3600, 10);
    check(0.3, 1, 1); // the first is due immediately
    check(1.0 / 3.0, 3, 1);
}

/// Kolmogorov-Smirnov: the largest distance between the sample and 1 - exp(-x).
fn distance_from_exponential(mut gaps: Vec<f64>) -> f64 {
    gaps.sort_by(f64::total_cmp);
    let n = gaps.len() as f64;
    let distance = |(i, gap): (usize, &f64)| {
        let expected = 1.0 - (-gap).exp();
        (expected - i as f64 / n).abs().max((expected - (i + 1) as f64 / n).abs())
    };
    gaps.iter().enumerate().map(distance).fold(0.0, f64::max)
}

#[test]
fn poisson_gaps_are_exponential_at_any_rate_and_in_any_part() {
    let stages = [Stage { value: 9_000.0, over: Nanos::from_secs(10), hold: Nanos::from_secs(5) }];
    let profile = Profile::stages(1_000.0, &stages);
    for (seed, parts) in [(1, 1), (2, 1), (3, 2), (4, 7), (5, 64)] {
        let key = Key::new(seed);
        let schedule =
            Arc::new(Schedule::over(profile.clone(), Arrivals::Poisson, key, Nanos::ZERO));
        let arrivals = drain(schedule.pacer(&Shards::part(0, parts), Nanos::ZERO));
        // In operational time all gaps have the same distribution, with mean 1 over all shards.
        let share = Shards::part(0, parts).iter().count() as f64 / SHARDS as f64;
        let sums: Vec<f64> = arrivals.iter().map(|a| profile.integral(a.at) * share).collect();
        let gaps: Vec<f64> = sums.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let n = gaps.len() as f64;
        // 1.63 / sqrt(n) is the 1 % point.
        let distance = distance_from_exponential(gaps);
        assert!(distance < 1.63 / n.sqrt(), "seed {seed}, {parts} parts: {distance} of {n}");
    }
}

#[test]
fn poisson_counts_have_the_variance_of_their_mean() {
    let profile = Profile::constant(20_000.0, Nanos::from_secs(10));
    let schedule = Arc::new(Schedule::over(profile, Arrivals::Poisson, Key::new(9), Nanos::ZERO));
    let mut counts = vec![0f64; 10_000];
    for arrival in everything(&schedule) {
        counts[(arrival.at.0 / 1_000_000) as usize] += 1.0;
    }
    let mean = counts.iter().sum::<f64>() / 1e4;
    let variance = counts.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 1e4;
    assert!((mean - 20.0).abs() < 0.2, "{mean}"); // 4 standard errors: 0.18
    assert!((variance / mean - 1.0).abs() < 0.057, "{}", variance / mean); // 4 standard errors
}

proptest! {
    #[test]
    fn closed_requests_are_the_same_set_whatever_the_split(
        users in 1u64..3000,
        requests in 0u64..5000,
        parts in 1usize..9,
    ) {
        let mut numbers = Vec::new();
        let mut seen = 0;
        for part in 0..parts {
            let mut own = Users::new(users, Some(requests));
            let ids = own.of(&Shards::part(part, parts));
            seen += ids.len();
            for user in ids.iter().cycle().take(ids.len() * 5001) {
                match own.start(*user) {
                    Some(ticket) => numbers.push(ticket.seq),
                    // Each shard has a quota: continue with the next shard once a user gets no request.
                    None if ids.iter().all(|user| own.clone().start(*user).is_none()) => break,
                    None => {}
                }
            }
        }
        prop_assert_eq!(seen as u64, users);
        numbers.sort_unstable();
        prop_assert_eq!(numbers, (0..requests).collect::<Vec<_>>());
    }
}
