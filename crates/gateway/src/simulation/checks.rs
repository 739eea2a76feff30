//! What must hold after a run, whatever failed.

use std::time::Duration;

use serde_json::json;

use super::calls::{CallRecord, height, sent_hash};
use super::node::{CHAIN, HEIGHT, blocks, fork_of, hash_at};
use super::script::{Ask, FAULTS_END, Fault, Kind, NodeScript};
use super::{Outcome, TIMEOUT};

/// The interval of health checks for the block time of the script.
const INTERVAL: Duration = Duration::from_secs(1);

/// An upstream whose fault has ended is back within this time.
const RECOVERY: Duration = Duration::from_millis(2 * INTERVAL.as_millis() as u64 + 100);

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
        let took = record.end - record.start;
        if took > Duration::from(TIMEOUT) * 11 / 10 {
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
            let highest = HEIGHT + blocks(record.end) + too_high(outcome, record);
            height(answer).is_some_and(|height| (900..=highest).contains(&height))
        }
        Ask::Numbered => result.is_null() || result["number"] == record.request["params"][0],
        Ask::Nonce => result.is_string(),
    };
    if is_right { None } else { wrong("a wrong answer") }
}

/// How much too high an answer may be: with fewer than two others that are good, one upstream decides.
fn too_high(outcome: &Outcome, record: &CallRecord) -> u64 {
    let faults = outcome.script.nodes.iter().flat_map(|node| &node.faults);
    let allowed = faults.map(|fault| match fault.kind {
        Kind::Ahead(more) if fault.from <= record.end => {
            let until = record.end.min(fault.to) + RECOVERY;
            let is_alone = good_between(outcome, fault.from.saturating_sub(RECOVERY), until) < 2;
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
    (is_alone && good_between(outcome, before, at + RECOVERY) > 1).then_some(fault)
}

/// A call that failed although an upstream was good all the time.
fn lost(outcome: &Outcome, record: &CallRecord) -> Option<String> {
    let answer = record.answer.as_ref()?;
    let error = answer["error"].as_object()?;
    if record.ask == Ask::Reverting && error["code"] == 3 {
        return None;
    }
    if answer["error"]["data"]["kind"] == "behind" && too_high(outcome, record) > 0 {
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
    good_between(outcome, record.start, record.end)
}

fn good_between(outcome: &Outcome, start: Duration, end: Duration) -> usize {
    let is_good = |node: &&NodeScript| {
        node.faults.iter().all(|fault| {
            let parked = match fault.kind {
                Kind::Limiting(secs) => Duration::from_secs(secs),
                _ => Duration::ZERO,
            };
            fault.kind == Kind::Uneven || end < fault.from || fault.to + parked + RECOVERY < start
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
    let calls = outcome.records.iter().filter(|one| one.start > FAULTS_END + RECOVERY * 2);
    if calls.count() < 50 {
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
    let _ = &outcome.service;
    let allowed = calls * 12 / 10 + 200;
    (asked > allowed).then(|| format!("{asked} calls upstream for {calls} calls"))
}
