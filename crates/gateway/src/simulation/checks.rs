//! What must hold after a run, whatever failed.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use super::calls::{CallRecord, height, sent_hash};
use super::node::{CHAIN, HEIGHT, Node, blocks, fork_of, hash_at};
use super::script::{Ask, CALLING, FAULTS_END, Fault, Kind, NodeScript};
use super::sends::{REFUSALS, SendKind};
use super::{Outcome, sends};

/// The interval of health checks for the block time of the script.
const INTERVAL: Duration = Duration::from_secs(1);

/// An upstream whose fault has ended is back within this time.
pub(super) const RECOVERY: Duration = Duration::from_millis(2 * INTERVAL.as_millis() as u64 + 100);

/// A refusal may go unnoticed because its caller has left or another attempt has won.
const UNWANTED_MAX: u64 = 3;

/// Slow upstreams have answered their first checks by then.
const SLOW_START: Duration = Duration::from_secs(6);

/// The checks that failed.
pub(super) fn failures(outcome: &Outcome) -> Vec<String> {
    let mut failures = Vec::new();
    let expected = outcome.script.arrivals.len();
    if outcome.records.len() != expected {
        failures.push(format!("{} of {expected} calls ended", outcome.records.len()));
    }
    for record in &outcome.records {
        failures.extend(wrong_answer(outcome, record));
        failures.extend(lost(outcome, record));
        failures.extend(sends::failure(outcome, record));
        let took = record.end - record.start;
        if took > outcome.script.timeout * 11 / 10 {
            failures.push(format!("a call took {took:?}: {record:?}"));
        }
    }
    for record in &outcome.records {
        failures.extend(wrong_branch(outcome, record));
    }
    failures.extend(outcome.seen.iter().cloned());
    let from = if outcome.script.is_slow { SLOW_START } else { Duration::ZERO };
    let bound: Vec<CallRecord> =
        outcome.records.iter().filter(|record| record.start >= from).cloned().collect();
    failures.extend(backwards(&bound));
    failures.extend(unused(outcome));
    failures.extend(excess(outcome));
    failures.extend(pestered(outcome));
    failures.extend(unwanted(outcome));
    failures
}

/// An answer that is wrong: another caller's, another chain's, or an error for a transaction that
/// was accepted.
fn wrong_answer(outcome: &Outcome, record: &CallRecord) -> Option<String> {
    let answer = record.answer.as_ref()?;
    let wrong = |why: &str| Some(format!("{why}: {record:?}"));
    if answer["id"] != record.request["id"] {
        return wrong("the id of another call");
    }
    let result = &answer["result"];
    let is_error = answer["error"].is_object();
    if is_error {
        // An error may be the last word if what took the transaction is gone, but not a refusal.
        let hash = sent_hash(&record.request);
        let is_refusal = answer["error"]["message"] == "already known";
        let is_sent = outcome.world.transactions.borrow().contains_key(&hash);
        return if record.ask == Ask::Send && is_refusal && is_sent {
            wrong("an error for a transaction that was accepted")
        } else {
            None
        };
    }
    // Behind an open connection, another chain is noticed by the next health check.
    let was_switched = outcome.script.nodes.iter().flat_map(|node| &node.faults).any(|fault| {
        fault.kind == Kind::Switched
            && fault.from <= record.end
            && record.start < fault.from + RECOVERY
    });
    let is_right = match record.ask {
        Ask::Echo if was_switched => true,
        Ask::Echo => *result == json!([CHAIN, record.number]),
        Ask::Reverting => false,
        Ask::Pending => result.is_null(),
        Ask::ChainId => *result == json!(format!("{CHAIN:#x}")),
        Ask::Send => *result == json!(sent_hash(&record.request)),
        Ask::BlockNumber | Ask::Tagged(_) => {
            // Not higher than the chain is, whatever one upstream says.
            let highest = HEIGHT + blocks(record.end) + too_high(outcome, record.end);
            height(answer).is_some_and(|height| (900..=highest).contains(&height))
        }
        Ask::Numbered => result.is_null() || result["number"] == record.request["params"][0],
        Ask::Nonce => result.is_string(),
    };
    if is_right { None } else { wrong("a wrong answer") }
}

/// How much too high an answer may be: with fewer than two others that are good, one upstream decides.
fn too_high(outcome: &Outcome, at: Duration) -> u64 {
    let faults = outcome.script.nodes.iter().flat_map(|node| &node.faults);
    let allowed = faults.map(|fault| match fault.kind {
        Kind::Ahead(more) if fault.from <= at => {
            let until = at.min(fault.to) + RECOVERY;
            let is_alone =
                good_between(outcome, fault.from.saturating_sub(RECOVERY), until, None) < 2;
            if is_alone { more } else { 0 }
        }
        _ => 0,
    });
    allowed.max().unwrap_or_default()
}

/// A block of a branch that only one upstream is on, while two others were good and it had been there
/// for long enough.
fn wrong_branch(outcome: &Outcome, record: &CallRecord) -> Option<String> {
    let result = &record.answer.as_ref()?["result"];
    let (hash, number) = (result["hash"].as_str()?, height(record.answer.as_ref()?)?);
    let fault = alone_at(outcome, record.start)?;
    let is_wrong = record.end < fault.to && number > fork_of(fault) && hash != hash_at(number);
    is_wrong.then(|| format!("a block of one upstream's branch: {record:?}"))
}

/// The fault of the upstream that has been on a branch of its own for long enough at this time, while
/// two others have been good.
pub(super) fn alone_at(outcome: &Outcome, at: Duration) -> Option<&Fault> {
    let fault = outcome.script.nodes.last()?.faults.last()?;
    let is_alone = fault.kind == Kind::Forked && fault.from + RECOVERY < at && at < fault.to;
    let before = fault.from.saturating_sub(RECOVERY);
    (is_alone && good_between(outcome, before, at + RECOVERY, None) > 1).then_some(fault)
}

/// A call that failed although an upstream was good all the time.
fn lost(outcome: &Outcome, record: &CallRecord) -> Option<String> {
    let answer = record.answer.as_ref()?;
    let error = answer["error"].as_object()?;
    if record.ask == Ask::Reverting && error["code"] == 3 {
        return None;
    }
    // While the served head is too high, no upstream has it.
    let kind = answer["error"]["data"]["kind"].as_str().unwrap_or_default();
    let names_head = matches!(record.ask, Ask::Tagged(_)) && kind == "timed_out";
    if (kind == "behind" || names_head) && too_high(outcome, record.end) > 0 {
        return None;
    }
    let message = error["message"].as_str().unwrap_or_default();
    if record.ask == Ask::Send && REFUSALS.contains(&message) {
        return None;
    }
    // Until the first checks are complete.
    if outcome.script.is_slow && record.start < SLOW_START {
        return None;
    }
    let good = good_upstreams(outcome, record);
    let needed = if record.ask == Ask::Send { 1 } else { usize::from(outcome.script.agree) };
    (good >= needed).then(|| format!("lost although {good} upstreams were good: {record:?}"))
}

/// Upstreams without a fault from before the call until its end.
fn good_upstreams(outcome: &Outcome, record: &CallRecord) -> usize {
    good_between(outcome, record.start, record.end, Some(record))
}

/// Upstreams without a fault that concerns this call, or any, during this time.
fn good_between(
    outcome: &Outcome,
    start: Duration,
    end: Duration,
    call: Option<&CallRecord>,
) -> usize {
    let is_good = |node: &&NodeScript| {
        // Losing transactions is a failure, for which an upstream leaves rotation like for others.
        let takes_sends = node.sends.iter().all(|fault| {
            let is_refusal = matches!(fault.kind, SendKind::Refuse(_));
            let after = if is_refusal { Duration::ZERO } else { RECOVERY * 2 };
            is_refusal && call.is_some_and(|call| call.ask != Ask::Send)
                || end < fault.from
                || fault.to + after < start
        });
        takes_sends
            && node.faults.iter().all(|fault| {
                let parked = match fault.kind {
                    Kind::LimitingCalls(_) if call.is_some_and(|call| !call.is_eth_call()) => {
                        return true;
                    }
                    Kind::Limiting(secs) | Kind::LimitingCalls(secs) => Duration::from_secs(secs),
                    _ => Duration::ZERO,
                };
                let is_over = fault.to + parked + RECOVERY < start;
                fault.kind == Kind::Uneven || end < fault.from || is_over
            })
    };
    outcome.script.nodes.iter().filter(is_good).count()
}

/// A head that went backwards: lower than one that was answered before the call started.
fn backwards(records: &[CallRecord]) -> Vec<String> {
    let mut failures = Vec::new();
    for tag in 0..3 {
        let of_tag = |record: &&CallRecord| {
            record.ask == Ask::Tagged(tag) || tag == 0 && record.ask == Ask::BlockNumber
        };
        let seen: Vec<(&CallRecord, u64)> = records
            .iter()
            .filter(of_tag)
            .filter_map(|record| Some((record, height(record.answer.as_ref()?)?)))
            .collect();
        let mut ends: Vec<(Duration, u64)> = seen.iter().map(|(one, h)| (one.end, *h)).collect();
        ends.sort();
        let mut highest = 0;
        for end in &mut ends {
            highest = highest.max(end.1);
            end.1 = highest;
        }
        for (record, height) in seen {
            let before = ends.partition_point(|(end, _)| *end < record.start);
            if before > 0 && ends[before - 1].1 > height {
                failures.push(format!("went back from {}: {record:?}", ends[before - 1].1));
            }
        }
    }
    failures
}

/// Upstreams that were not used again after their last fault.
fn unused(outcome: &Outcome) -> Vec<String> {
    // The cache answers the others. An upstream that returns gets a small share of these at first.
    let calls: usize = outcome.nodes.iter().map(|node| node.late_calls.get()).sum();
    // While the served head is too high, the others are behind.
    if calls < 100 || too_high(outcome, CALLING) > 0 {
        return Vec::new();
    }
    let unused =
        outcome.nodes.iter().enumerate().filter(|(_, node)| node.last_used.get() < FAULTS_END);
    unused.map(|(place, _)| format!("upstream {place} was not used again")).collect()
}

/// More relays than retries and hedges may add.
fn excess(outcome: &Outcome) -> Option<String> {
    // The others are asked for by configuration.
    if outcome.script.agree > 1 || outcome.script.sends_to_all {
        return None;
    }
    let asked: u64 = outcome.nodes.iter().map(|node| node.asked.get()).sum();
    let calls = outcome.records.len() as u64;
    // The floor of retries, and one repeat per second over stale connections, each of the time of the
    // run and of one window of the budget.
    let time = CALLING + outcome.script.timeout * 5 / 4 + Duration::from_secs(10);
    let floor = (outcome.script.retry_floor + 1.0) * time.as_secs_f64();
    let allowed = calls * 12 / 10 + (floor as u64).min(200);
    (asked > allowed).then(|| format!("{asked} calls upstream for {calls} calls"))
}

/// Upstreams that were called all the time although they hung and another one was good: breakers and
/// health checks let some calls through, of which each needs a retry.
fn pestered(outcome: &Outcome) -> Vec<String> {
    let Outcome { script, nodes, .. } = outcome;
    // A hedge that wins hides that the first attempt would not have been answered.
    if script.is_hedged() || script.agree > 1 || script.sends_to_all {
        return Vec::new();
    }
    let hanging = nodes.iter().zip(&script.nodes).enumerate().flat_map(|(place, (node, own))| {
        let faults = own.faults.iter().filter(|fault| fault.kind == Kind::Hanging);
        faults.map(move |fault| (place, node, fault))
    });
    let pestered = hanging.filter_map(|(place, node, fault)| {
        let is_good = |other: &NodeScript| {
            let mut faults = other.faults.iter();
            other.sends.is_empty()
                && faults.all(|one| fault.to < one.from || one.to + RECOVERY < fault.from)
        };
        let mut others = script.nodes.iter().enumerate().filter(|(other, _)| *other != place);
        if !others.any(|(_, other)| is_good(other)) {
            return None;
        }
        let hung = node.hung.borrow();
        let times = hung.iter().filter(|at| fault.from <= **at && **at < fault.to);
        let times: Vec<Duration> = times.copied().collect();
        // The breaker opens when five calls are late: at the latest after the service's patience.
        let opened = *times.get(4)? + script.timeout / 4 + Duration::from_millis(100);
        let count = times.iter().filter(|at| **at > opened).count();
        // Three calls test it when each of its ever longer open times has passed, and one after each
        // health check, which it answers.
        let secs = fault.to.saturating_sub(opened).as_secs() as usize + 1;
        let periods = 2 + secs.ilog2() as usize;
        let allowed = 3 * periods + secs;
        (count > allowed)
            .then(|| format!("pestered: {count} calls of upstream {place}, which hung"))
    });
    pestered.collect()
}

/// Upstreams that were called although they had asked not to be.
fn unwanted(outcome: &Outcome) -> Vec<String> {
    let nodes = outcome.nodes.iter().enumerate();
    let unwanted =
        nodes.filter(|(_, node)| node.unwanted.get() > UNWANTED_MAX + node.limited.get() / 4);
    let text = |(place, node): (usize, &Rc<Node>)| {
        let (unwanted, limited) = (node.unwanted.get(), node.limited.get());
        format!("unwanted: {unwanted} calls of upstream {place}, which refused {limited}")
    };
    unwanted.map(text).collect()
}
