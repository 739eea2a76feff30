//! Names the customers whose calls are refused, in the log.
//!
//! Every [`INTERVAL`] the keeper compares how many calls of each endpoint and key each limit has refused,
//! and how many requests had no valid key. Each reason of each has at most one line in [`LINE_EVERY`],
//! and there are at most [`LINES_MAX`] lines at a time, for the most refusals; the others are added up.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_measure::Nanos;
use plimsoll_measure::units::{counted, grouped};
use plimsoll_registry::model::masked;

use super::routing::Routing;
use super::worker::Worker;
use crate::limits::Allowance;
use crate::limits::refused::Refused;
use crate::observe::stats::{Limited, WrongKey};

/// How often refusals are compared.
const INTERVAL: Duration = Duration::from_secs(10);

/// How often the refusals of a customer for one reason are logged.
const LINE_EVERY: Nanos = Nanos::from_secs(60);

/// Lines at a time.
const LINES_MAX: usize = 10;

/// The keeper's task.
pub(crate) async fn watch(worker: Rc<Worker>) {
    let mut tick = tokio::time::interval(INTERVAL);
    let mut floods = Floods::default();
    loop {
        tick.tick().await;
        for line in floods.lines(&worker.view().routing, worker.local.now()) {
            tracing::info!("{line}");
        }
    }
}

/// What was last seen and logged of a ledger's refusals for a reason.
#[derive(Clone, Copy, Debug)]
struct Seen {
    count: u64,
    /// Of these, what lines have named.
    logged: u64,
    /// When the refusals that no line has named began, at the latest.
    since: Nanos,
    line_at: Option<Nanos>,
}

/// The refusals that were seen.
#[derive(Default)]
struct Floods {
    /// By endpoint and key, of those that were ever refused anything.
    seen: HashMap<(String, Option<String>), [Seen; Refused::REASONS]>,
}

impl Floods {
    /// The lines to log now.
    fn lines(&mut self, routing: &Routing, now: Nanos) -> Vec<String> {
        let mut found: Vec<(u64, String)> = Vec::new();
        let mut seen = HashMap::new();
        for (endpoint, one) in routing.endpoints() {
            for (key, allowance, ledger) in one.access.ledgers() {
                let counts = ledger.refused.counts();
                if counts.iter().all(|count| *count == 0) {
                    continue;
                }
                let name = (endpoint.to_owned(), key.map(str::to_owned));
                let since = now - INTERVAL.into();
                let first = Seen { count: 0, logged: 0, since, line_at: None };
                let mut all = self.seen.remove(&name).unwrap_or([first; Refused::REASONS]);
                let subject = Subject { endpoint, key, allowance };
                found.extend(subject.due(&counts, &mut all, now));
                seen.insert(name, all);
            }
        }
        self.seen = seen;
        found.sort_by(|a, b| b.cmp(a));
        let rest = found.split_off(found.len().min(LINES_MAX));
        let mut lines: Vec<String> = found.into_iter().map(|(_, line)| line).collect();
        if !rest.is_empty() {
            let refused = grouped(rest.iter().map(|(count, _)| count).sum());
            let more = grouped(rest.len() as u64);
            lines.push(format!("{more} more limits and keys refused {refused} calls"));
        }
        lines
    }
}

/// An endpoint, or one of its keys, that was refused something.
struct Subject<'r> {
    endpoint: &'r str,
    key: Option<&'r str>,
    allowance: Option<&'r Arc<Allowance>>,
}

impl Subject<'_> {
    /// The lines that are due, each with its count.
    fn due(
        &self,
        counts: &[u64; Refused::REASONS],
        seen: &mut [Seen; Refused::REASONS],
        now: Nanos,
    ) -> Vec<(u64, String)> {
        let mut lines = Vec::new();
        for (reason, (count, one)) in counts.iter().zip(seen).enumerate() {
            let is_quiet = *count == one.count;
            one.count = *count;
            let new = count - one.logged;
            if new > 0 && one.line_at.is_none_or(|at| now >= at + LINE_EVERY) {
                lines.push((new, self.words(reason, new, now - one.since)));
                (one.logged, one.line_at, one.since) = (*count, Some(now), now);
            } else if new == 0 && is_quiet {
                one.since = now;
            }
        }
        lines
    }

    /// What it was refused, for a reason.
    fn words(&self, reason: usize, count: u64, span: Nanos) -> String {
        let id = masked(self.endpoint);
        let key = self.key.map(|name| format!(", key {name}")).unwrap_or_default();
        let secs = span.0.div_ceil(1_000_000_000);
        let (noun, why) = match Limited::ALL.get(reason) {
            Some(limited) => {
                let words = self.allowance.and_then(|allowance| allowance.words(*limited));
                let limit = words.unwrap_or_else(|| "limit, which has been removed since".into());
                ("call", format!("its {limit}"))
            }
            None => {
                let wrong = WrongKey::ALL[reason - Limited::ALL.len()];
                ("request", format!("each {}", wrong.words()))
            }
        };
        let count = counted(count, noun);
        format!("endpoint {id}{key}: {count} refused in the last {secs} s: {why}")
    }
}

#[cfg(test)]
mod tests;
