//! Scenarios and properties of heads on virtual time.

use super::*;
use crate::protocol::evm::block_param::Tag;
use proptest::prelude::*;
use std::sync::Arc;

mod trust;

/// The block of a branch: branch 0 is common up to the number at which a branch starts.
fn block(branch: u64, starts_at: u64, number: u64) -> BlockId {
    let branch = if number < starts_at { 0 } else { branch };
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&branch.to_be_bytes());
    hash[8..16].copy_from_slice(&number.to_be_bytes());
    BlockId { number, hash }
}

/// A simulated node: the branch it is on, and its height.
#[derive(Clone, Copy, Debug)]
struct Node {
    branch: u64,
    starts_at: u64,
    height: u64,
}

impl Node {
    fn at(height: u64) -> Node {
        Node { branch: 0, starts_at: 0, height }
    }

    fn on(branch: u64, starts_at: u64, height: u64) -> Node {
        Node { branch, starts_at, height }
    }

    fn block(&self, number: u64) -> BlockId {
        block(self.branch, self.starts_at, number)
    }

    fn report(&self, anchor: Option<u64>) -> Report {
        Report {
            latest: self.block(self.height),
            parent: self.block(self.height.saturating_sub(1)).hash,
            safe: self.height.checked_sub(32),
            finalized: self.height.checked_sub(64),
            anchor: anchor.filter(|number| *number <= self.height).map(|n| self.block(n)),
        }
    }
}

const SETTINGS: HeadsSettings = HeadsSettings {
    lag_max: 5,
    block_time: Nanos::from_secs(12),
    stale_after: Nanos::from_secs(60),
    grace: Nanos::ZERO,
};

struct Run {
    heads: Heads,
    now: Nanos,
    reorganised: Vec<u64>,
    corrected: Vec<(u64, u64)>,
}

impl Run {
    fn of(upstreams: usize) -> Run {
        let heads = Heads::new(upstreams, SETTINGS, &Floor::default());
        Run { heads, now: Nanos::from_secs(100), reorganised: Vec::new(), corrected: Vec::new() }
    }

    fn report(&mut self, upstream: usize, node: Node) {
        let report = node.report(self.heads.anchor(node.height));
        let before = self.heads.served();
        let mut is_corrected = false;
        for event in self.heads.report(upstream, &report, self.now) {
            match event {
                Event::Reorganised { from, .. } => self.reorganised.push(from),
                Event::Corrected { from, to } => {
                    is_corrected = true;
                    self.corrected.push((from, to));
                }
                Event::Standing { .. } => {}
            }
        }
        if !is_corrected {
            assert_monotonic(before, self.heads.served());
        }
    }

    /// Each node reports, in order; then 12 s pass.
    fn poll(&mut self, nodes: &[Node]) {
        nodes.iter().enumerate().for_each(|(upstream, node)| self.report(upstream, *node));
        self.now += Nanos::from_secs(12);
    }

    fn latest(&self) -> u64 {
        self.heads.served().latest.expect("a head")
    }

    /// One letter per upstream.
    fn standings(&self) -> String {
        let letter = |upstream| match self.heads.standing(upstream) {
            Standing::Unknown => 'u',
            Standing::Current => 'c',
            Standing::Lagging => 'l',
            Standing::Forked => 'f',
            Standing::Implausible => 'i',
        };
        (0..self.heads.upstreams.len()).map(letter).collect()
    }
}

fn assert_monotonic(before: Served, after: Served) {
    assert!(after.latest >= before.latest, "{before:?} {after:?}");
    assert!(after.safe >= before.safe, "{before:?} {after:?}");
    assert!(after.finalized >= before.finalized, "{before:?} {after:?}");
    assert!(after.safe <= after.latest && after.finalized <= after.latest, "{after:?}");
    assert!(after.safe.is_none_or(|safe| after.finalized.is_none_or(|f| f <= safe)), "{after:?}");
}

#[test]
fn the_head_of_half_of_the_upstreams_is_served() {
    let check = |heights: &[u64], latest: u64, standings: &str| {
        let mut run = Run::of(heights.len());
        let nodes: Vec<Node> = heights.iter().map(|height| Node::at(*height)).collect();
        run.poll(&vec![Node::at(90); heights.len()]);
        run.poll(&nodes);
        assert_eq!((run.latest(), &*run.standings()), (latest, standings), "{heights:?}");
        let served = run.heads.served();
        assert_eq!(served.finalized, Some(latest - 64));
        assert!(!run.heads.is_held() && run.heads.fallback().is_none());
    };
    check(&[100], 100, "c");
    check(&[100, 101], 101, "cc");
    check(&[101, 100, 100], 100, "ccc");
    check(&[101, 101, 100], 101, "ccc");
    check(&[101, 101, 100, 100], 101, "cccc");
    check(&[103, 102, 101, 100, 99], 101, "ccccc");
    // one of three or more is ahead, whatever it says
    check(&[101, 90, 90], 90, "ccc");
    check(&[101, 95, 96], 96, "ccc");
    check(&[98, 98, 90], 98, "ccl");
    // those that lag do not count
    check(&[101, 101, 90, 90, 90], 101, "cclll");
}

#[test]
fn a_lagging_upstream_leaves_and_returns() {
    let mut run = Run::of(2);
    run.poll(&[Node::at(100), Node::at(100)]);
    for height in 101..106 {
        run.poll(&[Node::at(height), Node::at(100)]);
        assert_eq!(run.standings(), "cc");
    }
    run.poll(&[Node::at(106), Node::at(100)]);
    assert_eq!(run.standings(), "cl");
    assert!(run.heads.has(1, 100) && !run.heads.has(1, 101) && run.heads.has(0, 106));
    run.poll(&[Node::at(107), Node::at(102)]);
    assert_eq!((run.standings(), run.heads.lag(1)), ("cc".into(), 5));
    // The other one is gone; the served head stays, and the one that lags serves.
    run.poll(&[Node::at(120), Node::at(102)]);
    run.now += Nanos::from_secs(61);
    run.report(1, Node::at(103));
    assert_eq!((run.standings(), run.latest()), ("ul".into(), 120));
    assert!(run.heads.is_held());
    assert_eq!(run.heads.fallback(), Some(1));
    // It catches up.
    run.report(1, Node::at(121));
    assert_eq!((run.standings(), run.latest()), ("uc".into(), 121));
    assert!(!run.heads.is_held() && run.reorganised.is_empty());
    assert_eq!(run.heads.pass(run.now + Nanos::from_secs(61)).len(), 1);
    assert_eq!((run.standings(), run.heads.fallback()), ("uu".into(), None));
    assert_eq!(run.latest(), 121);
}

#[test]
fn the_served_number_is_held_through_a_reorganisation() {
    let mut run = Run::of(3);
    (95..=100).for_each(|height| run.poll(&[Node::at(height); 3]));
    // The first one is on another branch, and lower.
    run.poll(&[Node::on(1, 97, 98), Node::at(101), Node::at(101)]);
    assert_eq!((run.standings(), run.latest()), ("fcc".into(), 101));
    assert!(!run.heads.has(0, 90) && run.reorganised.is_empty());
    // The second one follows: the chain has reorganised.
    run.poll(&[Node::on(1, 97, 99), Node::on(1, 97, 99), Node::at(102)]);
    assert_eq!(run.standings(), "ccf");
    assert_eq!((run.latest(), run.heads.is_held(), run.reorganised.len()), (101, true, 1));
    assert!(!run.heads.has(2, 101), "its block 101 was replaced");
    run.poll(&[Node::on(1, 97, 100), Node::on(1, 97, 100), Node::on(1, 97, 100)]);
    assert_eq!((run.standings(), run.latest()), ("ccc".into(), 101));
    assert!(run.heads.is_held());
    run.poll(&[Node::on(1, 97, 102); 3]);
    assert_eq!((run.latest(), run.heads.is_held(), run.reorganised.len()), (102, false, 1));
}

#[test]
fn blocks_below_a_change_of_branch_are_not_held_against_others() {
    let mut run = Run::of(3);
    (95..=110).for_each(|height| run.poll(&[Node::at(height); 3]));
    let node = Node::on(1, 97, 110);
    run.poll(&[node, node, Node::on(1, 97, 103)]);
    assert_eq!((run.standings(), run.reorganised.len()), ("ccl".into(), 1));
}

#[test]
fn one_upstream_decides_alone_if_there_is_no_other() {
    let mut run = Run::of(2);
    run.poll(&[Node::at(100); 2]);
    run.now += Nanos::from_secs(61);
    run.poll(&[Node::on(1, 99, 101)]);
    assert_eq!((run.standings(), run.latest()), ("cu".into(), 101));
    assert_eq!(run.reorganised, [100]);
}

#[test]
fn of_two_branches_with_as_many_upstreams_the_much_longer_is_served() {
    let mut run = Run::of(2);
    run.poll(&[Node::at(100); 2]);
    for height in 101..103 {
        run.poll(&[Node::at(100), Node::on(1, 100, height)]);
        assert_eq!((run.standings(), run.latest()), ("cf".into(), 100));
    }
    run.poll(&[Node::at(100), Node::on(1, 100, 103)]);
    assert_eq!((run.standings(), run.latest()), ("fc".into(), 103));
    // Both grow: no change back and forth.
    for height in 104..120 {
        run.poll(&[Node::at(height), Node::on(1, 100, height)]);
        assert_eq!(run.reorganised.len(), 1);
    }
    // The other one joins.
    run.poll(&[Node::on(1, 100, 120); 2]);
    assert_eq!((run.standings(), run.reorganised.len()), ("cc".into(), 1));
}

#[test]
fn a_branch_is_noticed_although_blocks_between_are_not_known() {
    let mut run = Run::of(1);
    run.poll(&[Node::at(100)]);
    // The block with the number 100 was replaced, but only 109 and 110 are reported.
    run.poll(&[Node::on(1, 98, 110)]);
    assert_eq!(run.reorganised, [100]);
}

#[test]
fn implausible_heads_are_not_served() {
    let mut run = Run::of(2);
    run.poll(&[Node::at(100); 2]);
    // One garbled answer.
    run.report(0, Node::at(1 << 40));
    assert_eq!((run.standings(), run.latest()), ("ic".into(), 100));
    run.poll(&[Node::at(101); 2]);
    assert_eq!((run.standings(), run.latest()), ("cc".into(), 101));
    // Different ones do not confirm each other.
    for height in [1 << 40, 1 << 30, 1 << 35, 1 << 20, 1 << 50] {
        run.report(0, Node::at(height));
        assert_eq!(run.latest(), 101);
    }
    // After a long time without reports, a high number is plausible.
    run.now += Nanos::from_secs(36_000);
    run.poll(&[Node::at(3_101); 2]);
    assert_eq!(run.latest(), 3_101);
}

#[test]
fn a_gateway_that_met_a_syncing_node_first_follows_the_others() {
    let mut alone = Run::of(2);
    alone.poll(&[Node::at(1_000)]);
    for _ in 0..2 {
        alone.report(1, Node::at(20_000_000));
        assert_eq!((alone.standings(), alone.latest()), ("ci".into(), 1_000));
    }
    alone.report(1, Node::at(20_000_001));
    alone.report(0, Node::at(1_100));
    assert_eq!((alone.standings(), alone.latest()), ("lc".into(), 20_000_001));
    // Two that agree are believed at once.
    let mut confirmed = Run::of(3);
    confirmed.poll(&[Node::at(1_000), Node::at(20_000_000), Node::at(20_000_001)]);
    assert_eq!(confirmed.latest(), 20_000_001);
}

#[test]
fn the_board_shows_the_heads() {
    let mut run = Run::of(2);
    let floors = Floors::default();
    let board = Board::new(2, floors.of("a", Some(1)));
    assert_eq!((board.served(), board.head(Tag::Latest)), (Served::default(), None));
    assert_eq!(board.upstream(0), (Standing::Unknown, 0));
    run.poll(&[Node::at(100), Node::at(90)]);
    board.publish(&run.heads, run.now);
    assert_eq!(board.served(), run.heads.served());
    assert_eq!(board.upstream(1), (Standing::Lagging, 90));
    assert!(board.has(0, 100) && board.has(1, 90) && !board.has(1, 91) && !board.is_held());
    let heads = [Tag::Latest, Tag::Safe, Tag::Finalized, Tag::Pending].map(|tag| board.head(tag));
    assert_eq!(heads, [Some(100), Some(68), Some(36), None]);
    // A service that comes back starts with the old heads, but not one of another chain.
    drop(board);
    let resumed = |chain| Heads::new(1, SETTINGS, &floors.of("a", chain)).served();
    assert_eq!((resumed(Some(1)), resumed(Some(2))), (run.heads.served(), Served::default()));
}

#[test]
fn floors_are_bounded() {
    let floors = Floors::default();
    let used = floors.of("used", None);
    let number = Run::of(1);
    for service in 0..2_000 {
        let floor = floors.of(&format!("s{service}"), None);
        Board::new(1, floor).publish(&number.heads, Nanos::ZERO);
    }
    assert_eq!(floors.len(), 1_026, "those in use, and FLOORS_MAX");
    assert_eq!(used.served(), Served::default());
}

#[test]
fn the_board_shows_changes_of_the_branch() {
    let mut run = Run::of(3);
    let board = || Board::new(3, Arc::default());
    assert_ne!(board().branch(), board().branch());
    let board = board();
    let mut branch = board.branch();
    let mut check = |run: &Run, changes: bool| {
        board.publish(&run.heads, Nanos::ZERO);
        assert_eq!(board.branch() != branch, changes, "{}", run.standings());
        branch = board.branch();
    };
    for height in 95..=100 {
        run.poll(&[Node::at(height); 3]);
        check(&run, false);
    }
    // lag
    run.poll(&[Node::at(90), Node::at(101), Node::at(101)]);
    check(&run, false);
    // an upstream on another branch, once
    run.poll(&[Node::on(1, 97, 101), Node::at(102), Node::at(102)]);
    check(&run, true);
    run.poll(&[Node::on(1, 97, 102), Node::at(103), Node::at(103)]);
    check(&run, false);
    // a reorganisation, and an upstream that has stayed behind
    run.poll(&[Node::on(1, 97, 104), Node::on(1, 97, 104), Node::at(104)]);
    check(&run, true);
    assert_eq!(run.heads.hash(104), Some(Node::on(1, 97, 104).block(104).hash));
    run.poll(&[Node::on(1, 97, 105); 3]);
    check(&run, false);
}

/// A report at random: of any upstream, on one of three branches, or of a garbled number.
fn observation() -> impl Strategy<Value = (usize, Node, bool, u64)> {
    let node = (0u64..3, 60u64..130, prop_oneof![20 => 70u64..140, 1 => any::<u64>()]);
    let node = node.prop_map(|(branch, starts_at, height)| Node {
        branch,
        starts_at: if branch == 0 { 0 } else { starts_at },
        height,
    });
    (0usize..4, node, any::<bool>(), 0u64..40)
}

proptest! {
    /// Whatever is reported, served heads do not go back, and an upstream that has a block is on the
    /// served chain and high enough.
    #[test]
    fn heads_never_go_back(
        observations in proptest::collection::vec(observation(), 1..120),
    ) {
        let mut run = Run::of(4);
        let board = Board::new(4, Arc::default());
        for (upstream, node, is_anchored, pause) in observations {
            let before = run.heads.served();
            let anchor = run.heads.anchor(node.height).filter(|_| is_anchored);
            let events = run.heads.report(upstream, &node.report(anchor), run.now);
            if !events.iter().any(|event| matches!(event, Event::Corrected { .. })) {
                assert_monotonic(before, run.heads.served());
            }
            board.publish(&run.heads, run.now);
            prop_assert_eq!(board.served(), run.heads.served());
            for upstream in 0..4 {
                for number in [0, 100, run.heads.served().latest.unwrap_or_default()] {
                    let has = run.heads.has(upstream, number);
                    prop_assert_eq!(has, board.has(upstream, number));
                    prop_assert!(!has || run.heads.latest(upstream) >= Some(number));
                }
            }
            run.now += Nanos::from_secs(pause);
            run.heads.pass(run.now);
        }
    }

    /// On one chain, whatever the lags, the order and the pauses: no reorganisation, no fork, no head
    /// above the chain's, and the served head is not below that of half of the upstreams in rotation.
    #[test]
    fn lag_is_never_taken_for_a_reorganisation(
        steps in proptest::collection::vec((0usize..4, 0u64..60, any::<bool>(), 0u64..20), 1..200),
    ) {
        let mut run = Run::of(4);
        let mut tip = 1_000;
        for (upstream, lag, is_anchored, pause) in steps {
            let node = Node::at(tip - lag);
            let anchor = run.heads.anchor(node.height).filter(|_| is_anchored);
            let known = run.heads.upstreams.iter().map(Upstream::reach).chain([node.height]);
            let jumps = { known }.any(|number| run.heads.is_jump(number));
            for event in run.heads.report(upstream, &node.report(anchor), run.now) {
                prop_assert!(!matches!(event, Event::Reorganised { .. }), "{:?}", event);
            }
            let served = run.heads.served().latest;
            prop_assert!(served.is_none_or(|latest| latest <= tip));
            prop_assert!(!run.standings().contains(['f', 'i']), "{}", run.standings());
            let current = (0..4).filter(|at| run.heads.standing(*at) == Standing::Current);
            let latest: Vec<Option<u64>> = current.map(|at| Some(run.heads.upstreams[at].reach())).collect();
            let above = latest.iter().filter(|latest| **latest > served).count();
            // Of three or more on the chain, one alone does not raise it.
            let is_on_chain = |at: &usize| "cl".contains(&run.standings()[*at..=*at]);
            let is_alone = above == 1 && (0..4).filter(is_on_chain).count() > 2;
            // Nor does one that jumps, until the jump has lasted.
            let is_jump = |number: &u64| run.heads.is_jump(*number);
            let is_doubted = above == 1 && (jumps || latest.iter().flatten().any(is_jump));
            let is_served =
                latest.is_empty() || above * 2 < latest.len() || is_alone || is_doubted;
            prop_assert!(is_served, "{:?} {:?}", latest, served);
            tip += pause / 12;
            run.now += Nanos::from_secs(pause);
        }
    }

    /// A reorganisation of all upstreams, in any order, is noticed once, and the head goes on.
    #[test]
    fn reorganisations_are_noticed(
        upstreams in 1usize..5,
        depth in 1u64..20,
        first in 0usize..5,
        lower in 0u64..4,
    ) {
        let mut run = Run::of(upstreams);
        for height in 190..=200 {
            run.poll(&vec![Node::at(height); upstreams]);
        }
        let starts_at = 201 - depth;
        for round in 0..8 {
            let node = Node::on(1, starts_at, (200 + round - lower).max(starts_at));
            for place in 0..upstreams {
                run.report((first + place) % upstreams, node);
            }
            run.now += Nanos::from_secs(12);
            prop_assert_eq!(run.latest(), node.height.max(run.latest()));
        }
        prop_assert_eq!(run.reorganised.len(), 1);
        prop_assert_eq!(run.standings(), "c".repeat(upstreams));
        prop_assert!(!run.heads.is_held());
    }
}
