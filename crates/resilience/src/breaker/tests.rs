//! Scripts of calls on virtual time, and properties under random ones.

use super::*;
use proptest::prelude::*;

/// Runs a script and returns the state after each step: `c`losed, `o`pen, `h`alf-open. Steps: `+` and
/// `-` admit a call and report its success or failure; `?` admits one and reports nothing; `!` expects
/// that a call is refused; `check` is a health check that succeeded; a number passes milliseconds.
fn run(breaker: &Breaker, now: &mut Nanos, script: &str) -> String {
    let admit = |now: Nanos| breaker.admit(now).unwrap_or_else(|| panic!("refused: {script}"));
    let step = |step: &str| {
        match step {
            "+" => drop(breaker.succeeded(admit(*now), *now)),
            "-" => drop(breaker.failed(admit(*now), *now)),
            "?" => _ = admit(*now),
            "!" => assert_eq!(breaker.admit(*now), None, "{script}"),
            "check" => drop(breaker.end_open_time(*now)),
            time => *now += Nanos::from_millis(time.parse().expect("milliseconds")),
        }
        match breaker.state() {
            State::Closed => 'c',
            State::Open { .. } => 'o',
            State::HalfOpen => 'h',
        }
    };
    script.split(' ').map(step).collect()
}

/// Open times: 250 to 500 ms, 500 to 1,000 ms, …
fn breaker() -> Breaker {
    Breaker::new(BreakerSettings { probes: 2, ..Default::default() }, 1)
}

#[test]
fn states_follow_the_reports() {
    let check = |script: &str, states: &str| {
        assert_eq!(run(&breaker(), &mut Nanos::from_secs(1), script), states, "{script}");
    };
    // five in a row
    check("- - - - -", "cccco");
    // a success in between
    check("- - - - + - - - -", "ccccccccc");
    // refused until the open time ends; closed after two successes
    check("- - - - - ! 240 ! 261 + +", "ccccooooohc");
    // closed, it counts from zero again
    check("- - - - - 501 + + - - - -", "ccccoohccccc");
    // a probe fails: open for longer
    check("- - - - - 501 - ! 490 ! 511 +", "ccccoooooooh");
    // one success is not enough
    check("- - - - - 501 + - !", "ccccoohoo");
    // two probes in a round, which nobody reports; then another round
    check("- - - - - 501 ? ? ! 501 ? ? ! 501 + +", "ccccoohhhhhhhhhc");
    // a health check ends the open time, but does not close
    check("- - - - - check + - ! check + +", "ccccohhoohhc");
    // … for one probe at a time
    check("- - - - - check ? ! check ? ! check + +", "ccccohhhhhhhhc");
    check("check - check", "ccc");
    // … or the wait for probes that have not reported
    check("- - - - - 501 ? ? ! check + +", "ccccoohhhhhc");
    // it opened again soon after it closed: the open time doubles
    check("- - - - - 501 + + - - - - - 490 ! 511 +", "ccccoohcccccooooh");
    // it was closed for half a minute: the open time is the first again
    check("- - - - - 501 + + 30001 - - - - - 501 +", "ccccoohccccccooh");
}

#[test]
fn a_share_of_failures_opens_it() {
    let breaker = breaker();
    let now = Nanos::from_secs(1);
    let states = run(&breaker, &mut now.clone(), &("- + ".repeat(10) + "-"));
    // From the 20th call on, the share is judged when a call fails.
    assert_eq!(states.find('o'), Some(20), "{states}");
    // Failures that are older than the window do not count.
    let slow = "- + 2000 ".repeat(30);
    assert!(!run(&self::breaker(), &mut now.clone(), slow.trim_end()).contains('o'));
}

#[test]
fn failures_before_it_closed_are_forgotten() {
    let settings = BreakerSettings { probes: 2, consecutive: 100, ..Default::default() };
    let breaker = Breaker::new(settings, 1);
    let mut now = Nanos::from_secs(1);
    let states = run(&breaker, &mut now, &("- + ".repeat(10) + "- 501 + + - - -"));
    assert!(states.ends_with("oohcccc"), "{states}");
}

#[test]
fn late_reports_are_ignored() {
    let breaker = breaker();
    let mut now = Nanos::from_secs(1);
    let early = breaker.admit(now).expect("closed");
    run(&breaker, &mut now, "- - - - -");
    let opened = breaker.state();
    assert_eq!(breaker.failed(early, now), None);
    assert_eq!(breaker.succeeded(early, now), None);
    assert_eq!(breaker.state(), opened);
    run(&breaker, &mut now, "501 ?");
    assert_eq!(breaker.failed(early, now), None);
    assert_eq!(breaker.succeeded(early, now), None);
    let probe = breaker.admit(now).expect("the second probe");
    assert_eq!(breaker.succeeded(probe, now), None, "the first of two successes");
    assert!(probe.is_probe && !early.is_probe);
    assert!(matches!(breaker.failed(probe, now), Some(Change::Opened { .. })));
    assert_eq!(breaker.failed(probe, now), None, "counted once");
}

#[test]
fn the_state_fits_into_its_word() {
    let full = Circuit {
        phase: Phase::HalfOpen,
        level: LEVEL_MAX,
        admitted: 15,
        succeeded: 15,
        epoch: 511,
        at: (1 << 40) - 1,
    };
    for circuit in [full, Circuit::new(), Circuit { phase: Phase::Open, ..full }] {
        assert_eq!(Circuit::unpacked(circuit.packed()), circuit);
    }
}

/// What a caller may do at any time.
#[derive(Clone, Copy, Debug)]
enum Step {
    Admit,
    /// Reports the outcome of one of the calls in flight.
    Report {
        which: usize,
        succeeded: bool,
    },
    Check,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Admit),
        4 => (0usize..64, any::<bool>()).prop_map(|(which, succeeded)| Step::Report { which, succeeded }),
        1 => Just(Step::Check),
        2 => (0u64..3_000).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happened, a call is admitted after the longest open time; open times are within
    /// their bounds; and no more probes are
    /// admitted at once than configured.
    #[test]
    fn a_probe_always_gets_through(
        steps in proptest::collection::vec(step(), 0..300),
        seed in any::<u64>(),
    ) {
        let open_max = Nanos::from_secs(4);
        let settings = BreakerSettings { probes: 2, open_max, ..Default::default() };
        let breaker = Breaker::new(settings, seed);
        let mut now = Nanos::from_secs(100);
        let mut in_flight = Vec::new();
        let mut probes = 0;
        for step in steps {
            let mut change = None;
            if !matches!(step, Step::Admit) {
                probes = 0;
            }
            match step {
                Step::Admit => {
                    let promised = breaker.is_admitting(now);
                    let pass = breaker.admit(now);
                    prop_assert_eq!(promised, pass.is_some());
                    probes += u32::from(pass.is_some_and(|pass| pass.is_probe));
                    prop_assert!(probes <= 2, "{probes} probes at once");
                    in_flight.extend(pass);
                }
                Step::Report { which, succeeded } if !in_flight.is_empty() => {
                    let pass = in_flight.swap_remove(which % in_flight.len());
                    change = if succeeded {
                        breaker.succeeded(pass, now)
                    } else {
                        breaker.failed(pass, now)
                    };
                }
                Step::Report { .. } => {}
                Step::Check => _ = breaker.end_open_time(now),
                Step::Wait(millis) => {
                    now += Nanos::from_millis(millis);
                }
            }
            if let Some(Change::Opened { until }) = change {
                let time = until - now;
                prop_assert!(time >= Nanos::from_millis(250), "{time}");
                prop_assert!(time <= open_max + Nanos::from_millis(1), "{time}");
            }
        }
        prop_assert!(breaker.admit(now + open_max + Nanos::from_millis(1)).is_some());
    }
}
