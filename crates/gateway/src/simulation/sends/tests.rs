//! Sends to single upstreams with chosen faults.

use super::*;
use crate::simulation::run;
use crate::simulation::script::{Fault, Script, TIMEOUT};

use SendKind::{Internal, Late, Limit, Reset, Stall};

/// The refusals by their place in [`REFUSALS`].
const NONCE: SendKind = SendKind::Refuse(0);
const FUNDS: SendKind = SendKind::Refuse(1);
const UNDERPRICED: SendKind = SendKind::Refuse(2);
const FULL: SendKind = SendKind::Refuse(3);

/// The time of the transaction.
const AT: Duration = Duration::from_secs(5);

/// Sends one transaction to upstreams that do this with it. With `down`, the first one dies as soon as
/// it has taken the transaction, and is back after this many milliseconds. Returns the error's message,
/// if there is one, and the time until the answer.
fn sent(kinds: &[Option<SendKind>], to_all: bool, down: Option<u64>) -> (Option<String>, Duration) {
    let node = |(place, kind): (usize, &Option<SendKind>)| {
        let always = |kind| SendFault { from: Duration::ZERO, to: CALLING, kind };
        let death = down.filter(|_| place == 0).map(|span| {
            let from = AT + Duration::from_micros(2_500);
            Fault { from, to: from + Duration::from_millis(span), kind: Kind::Dead }
        });
        NodeScript {
            latency_us: 1_000,
            faults: death.into_iter().collect(),
            sends: kind.map(always).into_iter().collect(),
        }
    };
    let nodes = kinds.iter().enumerate().map(node).collect();
    let arrivals = vec![Arrival { at: AT, ask: Ask::Send, leaves_after: None }];
    let script = Script {
        seed: 1,
        nodes,
        arrivals,
        agree: 1,
        sends_to_all: to_all,
        is_slow: false,
        timeout: TIMEOUT,
        retry_floor: 10.0,
    };
    let outcome = run(script);
    let record = &outcome.records[0];
    let answer = record.answer.as_ref().expect("an answer");
    let message = answer["error"]["message"].as_str().map(str::to_string);
    if message.is_none() {
        assert_eq!(answer["result"], sent_hash(&record.request));
    }
    assert_eq!(failure(&outcome, record), None);
    (message, record.end - record.start)
}

#[test]
fn a_transaction_that_was_taken_is_answered_with_its_hash() {
    let check_one = |kinds: &[Option<SendKind>], to_all: bool| {
        let (message, _) = sent(kinds, to_all, None);
        assert_eq!(message, None, "{kinds:?}, to all: {to_all}");
    };
    let check = |kinds: &[Option<SendKind>]| {
        check_one(kinds, false);
        check_one(kinds, true);
    };
    for taken in [Reset, Stall, Internal, Limit] {
        // alone
        check(&[Some(taken)]);
        // then another one refuses it, fails, too, or takes it
        for then in [NONCE, FUNDS, UNDERPRICED, FULL, Reset, Stall, Internal, Limit] {
            check(&[Some(taken), Some(then)]);
            // The first refusal is the answer if the transaction is sent to one.
            check_one(&[Some(then), Some(taken)], true);
        }
        check(&[Some(taken), None]);
        check(&[None, Some(taken)]);
        check(&[Some(taken), Some(taken), Some(FUNDS)]);
    }
    // The refusal comes first, after the service's patience or at once.
    for then in [NONCE, FUNDS, UNDERPRICED, FULL] {
        check(&[Some(Late(2_500)), Some(then)]);
        check(&[Some(Late(2_500)), Some(then), Some(then)]);
    }
}

#[test]
fn a_refusal_is_the_answer_if_nothing_is_in_doubt() {
    let check = |kinds: &[Option<SendKind>], expected: &str| {
        for to_all in [false, true] {
            let (message, time) = sent(kinds, to_all, None);
            assert_eq!(message.as_deref(), Some(expected), "{kinds:?}, to all: {to_all}");
            assert!(time < Duration::from_millis(200), "{kinds:?} took {time:?}");
        }
    };
    check(&[Some(FUNDS)], "insufficient funds for gas * price + value");
    check(&[Some(FUNDS), Some(FUNDS)], "insufficient funds for gas * price + value");
    check(&[Some(FULL), Some(FULL)], "txpool is full");
    check(&[Some(NONCE), Some(NONCE), Some(NONCE)], "nonce too low");
}

#[test]
fn an_upstream_that_returns_before_the_deadline_is_asked() {
    for to_all in [false, true] {
        for then in [FUNDS, NONCE] {
            let (message, time) = sent(&[Some(Stall), Some(then)], to_all, Some(2_000));
            assert_eq!(message, None, "{then:?}, to all: {to_all}");
            assert!(time > Duration::from_secs(2), "{time:?}");
            // It does not return.
            let (message, time) = sent(&[Some(Stall), Some(then)], to_all, Some(9_000));
            assert!(message.is_some(), "{then:?}, to all: {to_all}");
            assert!(time <= TIMEOUT, "{time:?}");
        }
    }
}
