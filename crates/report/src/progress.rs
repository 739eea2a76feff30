//! The progress line shown during a run.

use crate::activity::per_second;
use crate::objectives::percent;
use crate::tone::Tone;
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{MessageCounts, Nanos, Snapshot, Stats};
use plimsoll_plan::Plan;

/// A part of the progress line. On a narrow terminal the last parts are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The text.
    pub text: String,
    /// Its colour.
    pub tone: Tone,
}

/// Describes the last second, which began at `since`: time, what stays open and its messages, rate, success,
/// latency, arrivals in flight, and the most frequent error of the run so far. After sending has ended, by plan or because the run was
/// `stopped`, the answers that are still awaited, and at last the run's totals.
pub fn progress(
    plan: &Plan,
    second: &Snapshot,
    total: &Snapshot,
    since: Nanos,
    stopped: bool,
) -> Vec<Part> {
    let sent_to = total.streams.iter().filter_map(|stream| Some(stream.active?.planned_to)).max();
    let is_over = stopped || plan.planned_end().is_none_or(|end| second.t > end);
    let is_over = is_over && sent_to.is_some_and(|sent_to| sent_to < second.t);
    let is_done = is_over && second.in_flight == 0;
    let shown = if is_done { total } else { second };
    let stats = shown.total();
    let elapsed = Nanos::from_secs((second.t.0 + 500_000_000) / 1_000_000_000);
    let elapsed = plan.planned_end().map_or(elapsed, |end| elapsed.min(end));
    let of = plan.planned_end().map(|end| format!("/{end}")).unwrap_or_default();
    let warm = if second.t <= plan.warmup && second.warmup.scheduled > 0 { " warm-up" } else { "" };
    let sent = stats.requests.sent + shown.warmup.sent;
    let rate = match per_second(sent, second.t - since) {
        rate if rate < 10.0 => format!("{rate:.1}/s"),
        rate => format!("{}/s", grouped(rate.round() as u64)),
    };
    let sent = if is_done {
        format!("{} sent", grouped(sent))
    } else if is_over {
        let left = plan.grace - (second.t - sent_to.unwrap_or_default());
        format!("waiting for {}, at most {left}", counted(second.in_flight, "answer"))
    } else {
        format!("{rate} sent")
    };
    let success = stats.requests.success().or(shown.warmup.success());
    let latency = stats.latency();
    let at = |q| latency.quantile(q).map_or("–".to_string(), |span| span.to_string());
    let lag = shown.lag().quantile(0.99).map_or("–".to_string(), |span| span.to_string());
    let tone = match success {
        None => Tone::Plain,
        Some(1.0) => Tone::Good,
        Some(0.0) => Tone::Bad,
        Some(_) => Tone::Warn,
    };
    let part = |tone, text| Part { text, tone };
    let ok = success.map_or("–".into(), percent);
    let (in_flight, open) = (grouped(second.in_flight), grouped(second.connections.open));
    let mut parts = vec![part(Tone::Plain, format!("{elapsed}{of}{warm}"))];
    let all = total.total();
    if let Some(messages) = all.messages.as_ref().filter(|_| !is_over) {
        parts.extend(standing(messages, &stats, second.t - since));
    }
    // Arrivals of sockets end with the run, so that most seconds have none.
    if is_over || plan.streams.iter().any(|stream| stream.sockets.is_none()) {
        parts.extend([
            part(tone, format!("{sent}, {ok} ok")),
            part(Tone::Plain, format!("latency p50 {} p99 {}", at(0.5), at(0.99))),
            part(Tone::Plain, format!("lag p99 {lag}")),
            part(Tone::Plain, format!("{in_flight} in flight, {open} connected")),
        ]);
    }
    let errors = all.errors;
    if let Some((class, n)) = errors.iter().max_by_key(|(_, n)| *n) {
        parts.push(part(Tone::Bad, format!("{} {class}", grouped(n))));
    }
    parts
}

/// What stays open, and the messages of the last second, which was `length` long.
fn standing(all: &MessageCounts, second: &Stats, length: Nanos) -> Vec<Part> {
    let part = |tone, text| Part { text, tone };
    let rate = |n: u64| grouped(per_second(n, length).round() as u64);
    let mut parts = Vec::new();
    let open = format!("{} open", grouped(all.open()));
    let own = second.messages.as_deref();
    parts.push(match own.filter(|own| own.opened + own.dropped > 0) {
        None => part(Tone::Plain, open),
        Some(own) if own.dropped > 0 => {
            let dropped = grouped(own.dropped);
            part(Tone::Warn, format!("{open}, {} opened, {dropped} dropped", grouped(own.opened)))
        }
        Some(own) => part(Tone::Plain, format!("{open}, {} opened", grouped(own.opened))),
    });
    if all.received > 0 {
        let received = own.map_or(0, |own| own.received);
        parts.push(part(Tone::Plain, format!("{} messages/s", rate(received))));
    }
    if let Some(lag) = own.and_then(|own| own.lag.quantile(0.99)) {
        parts.push(part(Tone::Plain, format!("lag of messages p99 {lag}")));
    }
    if all.gaps > 0 {
        parts.push(part(Tone::Bad, format!("{} missing", grouped(all.gaps))));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_open_is_shown_with_its_messages() {
        let check = |change: fn(&mut MessageCounts, &mut MessageCounts), expected: &str| {
            let mut all = MessageCounts { opened: 3_000, received: 50, ..MessageCounts::default() };
            let mut own = MessageCounts { received: 2_998, ..MessageCounts::default() };
            change(&mut all, &mut own);
            let second = Stats { messages: Some(Box::new(own)), ..Stats::default() };
            let parts = standing(&all, &second, Nanos::from_secs(1));
            let texts: Vec<String> = parts.into_iter().map(|part| part.text).collect();
            assert_eq!(texts.join("  "), expected);
        };
        check(|_, _| {}, "3,000 open  2,998 messages/s");
        check(|_, own| own.opened = 500, "3,000 open, 500 opened  2,998 messages/s");
        check(
            |all, own| {
                (all.dropped, all.gaps, own.dropped) = (29, 1_200, 29);
                own.lag.record(Nanos::from_millis(1_100));
            },
            "2,971 open, 0 opened, 29 dropped  2,998 messages/s  lag of messages p99 1.1s  1,200 missing",
        );
        check(|all, _| all.received = 0, "3,000 open"); // idle sockets
    }
}
