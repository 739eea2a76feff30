//! What must hold after a run, whatever failed.

use std::time::Duration;

use serde_json::json;

use super::Outcome;
use super::calls::{CallRecord, height, sent_hash};
use super::node::CHAIN;
use super::script::{Ask, FAULTS_END, Kind, NodeScript};

/// The interval of health checks for the block time of the script.
const INTERVAL: Duration = Duration::from_secs(1);

/// An upstream whose fault has ended is back within this time.
const RECOVERY: Duration = Duration::from_millis(2 * INTERVAL.as_millis() as u64 + 100);

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
    }
    failures.extend(backwards(&outcome.records));
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
    let is_right = match record.ask {
        Ask::Echo => *result == json!([CHAIN, record.number]),
        Ask::Reverting => false,
        Ask::Pending => result.is_null(),
        Ask::ChainId => *result == json!(format!("{CHAIN:#x}")),
        Ask::Send => *result == json!(sent_hash(&record.request)),
        Ask::BlockNumber | Ask::Tagged(_) => {
            height(answer).is_some_and(|height| (900..2_000).contains(&height))
        }
        Ask::Numbered => result.is_null() || result["number"] == record.request["params"][0],
        Ask::Nonce => result.is_string(),
    };
    if is_right { None } else { wrong("a wrong answer") }
}

/// A call that failed although an upstream was good all the time.
fn lost(outcome: &Outcome, record: &CallRecord) -> Option<String> {
    let answer = record.answer.as_ref()?;
    let error = answer["error"].as_object()?;
    if record.ask == Ask::Reverting && error["code"] == 3 {
        return None;
    }
    let good = good_upstreams(outcome, record);
    let needed = if record.ask == Ask::Send { 1 } else { usize::from(outcome.script.agree) };
    (good >= needed).then(|| format!("lost although {good} upstreams were good: {record:?}"))
}

/// Upstreams without a fault from before the call until its end.
fn good_upstreams(outcome: &Outcome, record: &CallRecord) -> usize {
    let is_good = |node: &&NodeScript| {
        node.faults.iter().all(|fault| {
            let parked = match fault.kind {
                Kind::Limiting(secs) => Duration::from_secs(secs),
                _ => Duration::ZERO,
            };
            record.end < fault.from || fault.to + parked + RECOVERY < record.start
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
