//! Scripts of failures, single ones and random ones.

use super::*;

const POLICIES: [&str; 3] = ["continue", "rebalance", "abort"];

fn secs(n: u64) -> Nanos {
    Nanos::from_secs(n)
}

#[test]
fn without_failures_every_arrival_is_sent_and_counted_once() {
    for (seed, policy) in (0..).zip(POLICIES) {
        let mut world = World::new(&plan(policy), seed);
        world.run_until(LIMIT);
        assert_eq!(world.check(seed), 0);
        let node = world.coordinator.as_ref().unwrap();
        for member in node.coordinator.members() {
            let (skew, bound) = member.skew.unwrap();
            assert_eq!((member.state, bound), (MemberState::Ended, Nanos(1_000_000)));
            assert_eq!(member.records.is_some(), world.records.is_some());
            // Clocks up to 5 s off, offsets measured to 1 ms, twice.
            assert!(skew.unsigned_abs() <= 2_000_000, "{skew} ns");
        }
    }
}

#[test]
fn the_part_of_a_killed_agent_is_unsent_from_its_last_second_until_others_take_over() {
    let lost = |policy| {
        let mut world = World::new(&plan(policy), 3);
        world.run_until(secs(15));
        world.agents[3].2 = None;
        world.run_until(LIMIT);
        let node = world.coordinator.as_ref().unwrap();
        let member = &node.coordinator.members()[3];
        assert!(member.is_lost());
        let gap = member.owned.iter().map(|own| own.to).max().unwrap();
        (world.check(3), gap - member.t, world)
    };
    let (all, gap, world) = lost("continue");
    assert!(gap > secs(1_000), "nobody took over");
    // A tenth of 150/s and a quarter of 60/s, for the rest of 30 s.
    assert!((400..=900).contains(&all), "{all}");
    let lost_notes = world.notes.iter().filter(|note| note.contains("is lost")).count();
    assert_eq!(lost_notes, 1, "{:?}", world.notes);
    let (some, gap, world) = lost("rebalance");
    assert!(gap >= LOSS_AFTER && gap <= LOSS_AFTER + secs(5), "{gap}");
    assert!(some < all, "{some}");
    assert!(world.notes[0].contains("take over its part at"), "{:?}", world.notes);
    // Only agents with the label own the labelled stream.
    let node = world.coordinator.as_ref().unwrap();
    for member in node.coordinator.members() {
        let owns = member.owned.iter().any(|own| !own.part.stream(1).is_empty());
        assert_eq!(owns, member.labels["chain"] == "boba", "{}", member.name);
    }
    let (aborted, _, world) = lost("abort");
    let node = world.coordinator.as_ref().unwrap();
    assert_eq!(node.coordinator.stop_level(), 1);
    assert!(aborted < all, "{aborted}");
}

#[test]
fn a_coordinator_that_is_killed_can_be_replaced_and_the_sums_are_exact() {
    for (seed, policy) in (10..).zip(POLICIES) {
        for at in [1, 4, 14, 30] {
            let mut world = World::new(&plan(policy), seed);
            world.run_until(secs(at));
            world.coordinator = None;
            world.run_until(secs(at) + secs(8));
            world.resume();
            world.run_until(LIMIT);
            assert_eq!(world.check(seed), 0, "{policy} at {at} s");
            let node = world.coordinator.as_ref().unwrap();
            let members = node.coordinator.members().iter();
            assert!(
                members.into_iter().all(|own| own.records.is_some() == world.records.is_some())
            );
        }
    }
}

#[test]
fn agents_that_lose_their_coordinator_stop_at_the_plans_end_and_keep_their_seconds() {
    let mut world = World::new(&plan("continue"), 20);
    world.run_until(secs(10));
    world.coordinator = None;
    world.run_until(LIMIT);
    assert!(world.is_over());
    let took = world.now - BEGIN;
    assert!(took < secs(60), "{took}");
    // Long after the end, a new coordinator still makes the report.
    world.resume();
    world.run_until(LIMIT + secs(60));
    assert_eq!(world.check(20), 0);
}

#[test]
fn prepared_agents_give_up_if_no_order_to_start_comes() {
    let mut world = World::new(&plan("continue"), 21);
    world.run_until(Nanos::from_millis(600));
    world.coordinator = None;
    world.run_until(LIMIT);
    assert!(world.agents.iter().flat_map(|own| &own.2).all(|node| node.agent.run().is_none()));
    assert!(world.sent.is_empty());
}

#[test]
fn records_are_waited_for_until_their_agent_is_silent() {
    let mut world = World::new(&plan("continue"), 22);
    world.records = Some(Records::All);
    world.begin();
    world.run_until(secs(25));
    // Its last second is stored, and then it is gone.
    let ends = |world: &World| {
        let node = world.coordinator.as_ref().unwrap();
        node.coordinator.members()[5].state == MemberState::Ended
    };
    while !ends(&world) {
        world.agents[5].2.as_mut().unwrap().stored = None;
        world.step();
    }
    let ended = world.now;
    world.agents[5].2 = None;
    world.run_until(LIMIT);
    let waited = world.now - ended;
    assert!(waited > RECORDS_MAX - secs(5) && waited < RECORDS_MAX + secs(10), "{waited}");
    assert_eq!(world.check(22), 0);
    let node = world.coordinator.as_ref().unwrap();
    let without = node.coordinator.members().iter().filter(|own| own.records.is_none());
    assert!(without.map(|own| own.name.as_str()).eq(["agent-5"]));
    assert!(world.notes.iter().any(|note| note.starts_with("waiting for the records of")));
}

#[test]
fn a_second_coordinator_is_refused() {
    let mut world = World::new(&plan("rebalance"), 30);
    world.run_until(secs(10));
    let first = world.coordinator.take();
    world.resume();
    let mut second = world.coordinator.take().unwrap();
    world.coordinator = first;
    for _ in 0..200 {
        world.step();
        world.step_coordinator(&mut second);
    }
    assert_eq!(second.outcome, Some(Outcome::HasCoordinator));
    world.run_until(LIMIT);
    assert_eq!(world.check(30), 0);
}

#[test]
fn a_coordinator_that_was_cut_off_and_replaced_stops() {
    let mut world = World::new(&plan("rebalance"), 31);
    world.run_until(secs(10));
    let mut first = world.coordinator.take().unwrap();
    first.link.cut_until = world.now + secs(12);
    world.resume();
    for _ in 0..400 {
        world.step();
        world.step_coordinator(&mut first);
    }
    assert_eq!(first.outcome, Some(Outcome::Replaced));
    world.run_until(LIMIT);
    assert_eq!(world.check(31), 0);
}

#[test]
fn an_agent_that_was_cut_off_delivers_what_it_recorded() {
    // Longer than it takes to be lost.
    let run = |policy, seed| {
        let mut world = World::new(&plan(policy), seed);
        world.run_until(secs(10));
        let until = world.now + secs(16);
        world.agents[4].2.as_mut().unwrap().link.cut_until = until;
        world.run_until(LIMIT);
        (world.check(seed), world.notes)
    };
    let (lost, notes) = run("continue", 40);
    assert_eq!((lost, notes.len()), (0, 1), "{notes:?}");
    // The loss stops all, and the agent stops by itself: it sends nothing once its lease is over.
    let mut world = World::new(&plan("abort"), 42);
    world.run_until(secs(10));
    let cut = world.now;
    world.agents[4].2.as_mut().unwrap().link.cut_until = cut + secs(40);
    let lease = crate::coordinator::LEASE;
    world.run_until(cut - BEGIN + lease);
    let stopped = world.sent.len();
    assert!(
        world.agents.iter().flat_map(|own| &own.2).filter(|own| own.engine.is_some()).count() == 9
    );
    world.run_until(cut - BEGIN + LOSS_AFTER + secs(4));
    assert!(world.sent.len() > stopped, "the others stop only once it is lost");
    assert!(world.agents.iter().flat_map(|own| &own.2).all(|own| own.engine.is_none()));
    world.run_until(LIMIT);
    assert!(world.check(42) > 0);
    // It must not send while others may own its shards, and others take over once.
    let (lost, notes) = run("rebalance", 41);
    assert!(lost > 0 && notes[0].contains("take over"), "{lost} {notes:?}");
}

#[test]
fn nats_may_be_down_for_a_while_and_nobody_is_lost() {
    for (seed, policy) in (50..).zip(POLICIES) {
        let mut world = World::new(&plan(policy), seed);
        world.run_until(secs(10));
        world.down_until = world.now + secs(7);
        world.run_until(LIMIT);
        assert_eq!(world.check(seed), 0, "{policy}");
        let lost = world.notes.iter().find(|note| note.contains("lost"));
        assert_eq!(lost, None, "{policy}");
    }
}

#[test]
fn a_stop_drains_all_agents() {
    let mut world = World::new(&plan("rebalance"), 60);
    world.run_until(secs(12));
    world.coordinator.as_mut().unwrap().coordinator.stop();
    world.run_until(secs(16));
    assert!(world.is_over(), "within seconds");
    assert_eq!(world.check(60), 0);
    let sum = world.joined();
    assert_eq!(sum.total().requests.sent, world.sent.len() as u64);
}

#[test]
fn an_agent_that_takes_part_in_another_run_refuses() {
    let mut world = World::new(&plan("continue"), 70);
    world.run_until(secs(10));
    let first = world.coordinator.take().unwrap();
    let members = first.coordinator.members().iter();
    let members = members.map(|own| {
        (own.name.clone(), own.session.clone(), own.labels.clone(), own.owned[0].part.clone())
    });
    let second = Coordinator::begin(
        "other".into(),
        "c9".into(),
        world.plan.clone(),
        None,
        members.collect(),
    );
    let mut second = CoordinatorNode::new(second);
    // Of a log of its own run only.
    second.link.read = world.log.len();
    world.coordinator = Some(first);
    for _ in 0..60 {
        world.step();
        world.store(&mut second.link);
        for entry in world.fetch(&mut second.link) {
            let is_other = match &entry.message {
                LogMessage::Order(order) => order.run == "other",
                LogMessage::Report(report) => report.run == "other",
                LogMessage::Tick(_) => false,
            };
            if is_other {
                let actions = second.coordinator.read(&entry, world.now);
                second.act(actions, &mut Vec::new());
            }
        }
        let actions = second.coordinator.decide(world.now);
        second.act(actions, &mut Vec::new());
    }
    let Some(Outcome::Refused(problems)) = second.outcome else { panic!("{:?}", second.outcome) };
    assert_eq!(problems.len(), 10);
    assert_eq!(problems[0].1.message, "it takes part in the run run");
    world.run_until(LIMIT);
    world.check(70);
}

/// Random kills, restarts, cuts and outages of everything.
#[test]
fn any_failures_leave_exact_sums() {
    let seeds =
        std::env::var("PLIMSOLL_FLEET_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    for seed in 1000..1000 + seeds {
        random_run(seed);
    }
}

fn random_run(seed: u64) {
    let mut script = Key::new(seed).with(1).sequence();
    let policy = POLICIES[script.below(3) as usize];
    let mut world = World::new(&plan(policy), seed);
    let mut at = secs(3 + script.below(8));
    for _ in 0..1 + script.below(5) {
        world.run_until(at);
        let victim = script.below(10) as usize;
        let span = Nanos(script.below(20_000_000_000));
        match script.below(6) {
            0 => world.agents[victim].2 = None,
            1 => {
                let name = world.agents[victim].0.clone();
                world.agents[victim].2 = Some(world.agent(&name));
            }
            2 => {
                let until = world.now + span;
                world.agents[victim].2.iter_mut().for_each(|node| node.link.cut_until = until);
            }
            3 => world.down_until = world.now + Nanos(span.0 / 2),
            4 => {
                world.coordinator = None;
                at += span;
                world.run_until(at);
                world.resume();
            }
            _ => {
                let until = world.now + span;
                world.coordinator.iter_mut().for_each(|node| node.link.cut_until = until);
            }
        }
        at += Nanos(script.below(6_000_000_000));
    }
    world.run_until(LIMIT + secs(60));
    // Messages that were delayed to the end may have left it unfinished or unstarted.
    let outcome = world.coordinator.as_ref().and_then(|node| node.outcome.clone());
    if matches!(outcome, Some(Outcome::Refused(_))) {
        assert!(world.sent.is_empty(), "seed {seed}");
        return;
    }
    world.check(seed);
}
