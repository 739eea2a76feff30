//! Which reports are believed, and what an upstream is trusted to have.

use super::*;

#[test]
fn one_wrong_height_of_several_changes_nothing() {
    for upstreams in 3..6 {
        for above in [1, 5, 8, 9, 20, 60, 64, 1_000, 1_000_000_000] {
            for repeats in [1, 2, 50] {
                let mut run = Run::of(upstreams);
                let honest = |run: &mut Run, height| {
                    (1..upstreams).for_each(|at| run.report(at, Node::at(height)));
                    run.now += Nanos::from_secs(12);
                };
                (90..=100).for_each(|height| run.poll(&vec![Node::at(height); upstreams]));
                for height in 101..101 + repeats {
                    run.report(0, Node::on(1, height, height + above));
                    honest(&mut run, height);
                    assert_eq!(run.latest(), height, "{above} above");
                    assert_eq!(&run.standings()[1..], "c".repeat(upstreams - 1), "{above} above");
                }
                run.report(0, Node::at(101 + repeats));
                honest(&mut run, 101 + repeats);
                assert_eq!((run.latest(), run.standings()), (101 + repeats, "c".repeat(upstreams)));
                assert!(run.corrected.is_empty() && run.reorganised.is_empty());
            }
        }
    }
}

#[test]
fn the_first_report_alone_does_not_decide() {
    let settings = HeadsSettings { grace: Nanos::from_secs(5), ..SETTINGS };
    for upstreams in 2..6 {
        let mut run = Run::of(upstreams);
        run.heads = Heads::new(upstreams, settings, &Floor::default());
        run.report(0, Node::at(1_000_000_100));
        assert_eq!(run.heads.served().latest, None);
        (1..upstreams).for_each(|at| run.report(at, Node::at(100)));
        let expected = if upstreams == 2 { 1_000_000_100 } else { 100 };
        assert_eq!(run.latest(), expected, "{upstreams} upstreams");
        if upstreams > 2 {
            assert_eq!(run.standings(), format!("i{}", "c".repeat(upstreams - 1)));
        }
    }
    // The others do not answer: as soon as this is known, or after the grace period.
    let mut run = Run::of(3);
    run.heads = Heads::new(3, settings, &Floor::default());
    run.report(0, Node::at(100));
    run.heads.missed(1);
    run.heads.pass(run.now);
    assert_eq!(run.heads.served().latest, None);
    let mut late = run.heads.clone();
    run.heads.missed(2);
    run.heads.pass(run.now);
    assert_eq!(run.latest(), 100);
    late.pass(run.now + Nanos::from_secs(5));
    assert_eq!(late.served().latest, Some(100));
}

#[test]
fn a_lie_that_was_believed_is_corrected_by_a_majority() {
    // (upstreams, honest ones that report, whether the liar goes on, whether it is corrected)
    for (upstreams, honest, goes_on, is_corrected) in [
        (5, 4, true, true),
        (4, 3, true, true),
        (3, 2, true, false),
        (3, 2, false, true),
        (5, 2, true, false),
        (2, 1, true, false),
        (2, 1, false, true),
    ] {
        let mut run = Run::of(upstreams);
        let liar = upstreams - 1;
        // It was alone.
        (0..3).for_each(|_| run.report(liar, Node::on(1, 0, 1_000_000)));
        assert_eq!(run.latest(), 1_000_000);
        for height in 100..110 {
            (0..honest).for_each(|at| run.report(at, Node::at(height)));
            let node = if goes_on { Node::on(1, 0, 1_000_000 + height) } else { Node::at(height) };
            run.report(liar, node);
            run.now += Nanos::from_secs(12);
        }
        let row = (upstreams, honest, goes_on);
        assert_eq!(run.corrected.len(), usize::from(is_corrected), "{row:?}");
        assert_eq!(run.latest() < 1_000, is_corrected, "{row:?}");
        if is_corrected {
            assert_eq!(run.latest(), 109);
            let expected = if goes_on { 'i' } else { 'c' };
            assert!(run.standings().ends_with(expected), "{row:?}: {}", run.standings());
            assert!(run.standings().starts_with(&"c".repeat(honest)), "{row:?}");
        }
    }
}

#[test]
fn what_two_have_reached_is_never_taken_back() {
    let mut run = Run::of(5);
    (95..=300).for_each(|height| run.poll(&[Node::at(height); 5]));
    // Four start again from an old copy.
    for height in 100..140 {
        let node = Node::at(height);
        run.poll(&[node, node, node, node, Node::at(201 + height)]);
    }
    assert_eq!((run.latest(), run.corrected.len()), (300, 0));
    assert!(run.heads.is_held() || run.heads.has(4, 300));
}

#[test]
fn with_two_upstreams_the_one_that_is_consistent_is_believed() {
    let mut run = Run::of(2);
    (95..=100).for_each(|height| run.poll(&[Node::at(height); 2]));
    for height in 101..130 {
        run.poll(&[Node::at(height), Node::at(height + 1_000_000)]);
        assert_eq!((run.latest(), run.standings()), (height, "ci".into()));
    }
    // The other one is gone: there is nobody to contradict it.
    run.now += Nanos::from_secs(61);
    for height in 130..133 {
        run.report(1, Node::at(height + 1_000_000));
    }
    assert_eq!(run.latest(), 1_000_132);
}

#[test]
fn stuck_upstreams_do_not_outvote_one_that_works() {
    let mut run = Run::of(3);
    (95..=100).for_each(|height| run.poll(&[Node::at(height); 3]));
    for height in 101..120 {
        run.poll(&[Node::at(height), Node::at(100), Node::at(100)]);
    }
    assert_eq!((run.latest(), run.standings()), (119, "cll".into()));
}

#[test]
fn upstreams_of_several_nodes_are_trusted_with_what_all_have() {
    let mut run = Run::of(1);
    (95..=100).for_each(|height| run.poll(&[Node::at(height)]));
    assert!(run.heads.has(0, 100));
    run.heads.denied(0, 100, run.now);
    assert!(!run.heads.has(0, 100) && run.heads.has(0, 99));
    run.poll(&[Node::at(101)]);
    assert_eq!((run.latest(), run.heads.has(0, 100), run.standings()), (100, true, "c".into()));
    // The other node reports.
    run.poll(&[Node::at(100)]);
    assert!(run.heads.has(0, 100) && !run.heads.has(0, 101));
    // What it never reported is no denial.
    run.heads.denied(0, 150, run.now);
    assert!(run.heads.has(0, 100));
    for height in 102..120 {
        run.poll(&[Node::at(height)]);
    }
    assert_eq!(run.latest(), 119, "it has been even for a while");
}

#[test]
fn only_upstreams_that_show_that_they_followed_have_the_new_branch() {
    let mut run = Run::of(4);
    for height in 95..=100 {
        let node = Node::at(height);
        run.poll(&[node, node, Node::at(height - 2), node]);
    }
    let node = Node::on(1, 99, 103);
    // The third one's blocks are older than the branches, the fourth one's are of the old one.
    (0..2).for_each(|at| run.report(at, node));
    assert_eq!((run.reorganised.len(), run.standings()), (1, "ccuf".into()));
    assert!(!run.heads.has(2, 98) && !run.heads.has(3, 100));
    run.report(2, node);
    assert_eq!(run.standings(), "cccf");
}

#[test]
fn one_wrong_height_of_two_is_awaited() {
    let mut run = Run::of(2);
    let grace = Nanos::from_secs(12);
    run.heads = Heads::new(2, HeadsSettings { grace, ..SETTINGS }, &Floor::default());
    (90..=100).for_each(|height| run.poll(&[Node::at(height); 2]));
    run.report(1, Node::at(160));
    for (height, after) in [(101, 1), (101, 11), (102, 13), (102, 20), (103, 26)] {
        let at = run.now + Nanos::from_secs(after);
        run.heads.pass(at);
        assert!(run.latest() <= height, "{after} s after: {}", run.latest());
        if after >= 13 {
            (0..2).for_each(|one| {
                run.heads.report(one, &Node::at(height).report(None), at);
            });
        }
    }
    assert_eq!(run.latest(), 103);
}

#[test]
fn a_jump_over_known_blocks_does_not_hide_another_branch() {
    let mut run = Run::of(3);
    (90..=100).for_each(|height| run.poll(&[Node::at(height); 3]));
    (101..=108).for_each(|height| (0..2).for_each(|at| run.report(at, Node::at(height))));
    // It was at 100, which both branches have, and is now above all that is known.
    run.report(2, Node::on(1, 105, 112));
    assert_eq!(run.standings(), "ccf");
}
