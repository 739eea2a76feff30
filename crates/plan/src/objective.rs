//! Conditions on metrics that decide pass or fail: `latency.p99 < 250ms where chain = eth`.

mod metric;

use crate::{RequestSpec, RpcExpect, Stream, Target};
use plimsoll_config::{nearest, values};
#[cfg(doc)]
use plimsoll_measure::MessageCounts;
use plimsoll_measure::{ErrorClass, Nanos};
use std::collections::BTreeMap;

/// The time that a metric measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeKind {
    /// Latency of every arrival, from the planned instant.
    Latency,
    /// Latency of arrivals that were answered as expected.
    LatencyOk,
    /// Service time of complete responses, from the first byte sent.
    ServiceTime,
    /// The generator's own lateness.
    Lag,
    /// Waiting for a connection.
    Wait,
}

impl TimeKind {
    const NAMES: [(&'static str, TimeKind); 5] = [
        ("latency", TimeKind::Latency),
        ("latency_ok", TimeKind::LatencyOk),
        ("service_time", TimeKind::ServiceTime),
        ("lag", TimeKind::Lag),
        ("wait", TimeKind::Wait),
    ];
}

/// A statistic of a distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TimeStat {
    /// The smallest.
    Min,
    /// The mean.
    Mean,
    /// The value that this share (0 to 1) does not exceed.
    Quantile(f64),
    /// The largest.
    Max,
}

/// The metric of an objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// Share of scheduled arrivals that were answered as expected.
    Success,
    /// Arrivals that were not answered as expected.
    Errors,
    /// Arrivals that were never sent.
    Unsent,
    /// Arrivals of one error class.
    ErrorClass(ErrorClass),
    /// Arrivals whose last response has an HTTP status in this range.
    Status {
        /// The lowest…
        from: u16,
        /// …and the highest.
        to: u16,
    },
    /// JSON-RPC errors; each item of a batch counts.
    RpcErrors,
    /// Requests answered as expected, per second.
    RateOk,
    /// Requests sent, per second.
    RateSent,
    /// A time.
    Time(TimeKind, TimeStat),
    /// A count of exchanges that stay open, or of their messages, by its name in [`MessageCounts`].
    MessageCount(&'static str),
    /// A time of exchanges that stay open, or of their messages, by its name in [`MessageCounts`].
    MessageTime(&'static str, TimeStat),
}

impl Metric {
    /// Whether it is counted by target, so that `where` can narrow it to any of them.
    pub fn narrows(self) -> bool {
        use Metric::*;
        match self {
            Success | Errors | Unsent | ErrorClass(_) | RateOk | RateSent => true,
            MessageCount(_) | MessageTime(..) => true,
            Status { .. } | RpcErrors => false,
            Time(..) => !self.narrows_to_streams(),
        }
    }

    /// Whether it changes with the number of failed requests. Times do not: a failure may be fast.
    pub fn limits_failures(self) -> bool {
        match self {
            Metric::MessageCount(name) => name == "dropped",
            Metric::Time(..) | Metric::MessageTime(..) | Metric::RateSent => false,
            _ => true,
        }
    }

    /// Whether it is counted by stream, so that `where` can narrow it to streams only.
    pub fn narrows_to_streams(self) -> bool {
        matches!(self, Metric::Time(TimeKind::Lag | TimeKind::Wait, _))
    }
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `==`
    Equal,
}

impl Operator {
    /// Longer operators come first, so that `<=` is not read as `<`.
    const SIGNS: [(&'static str, Operator); 5] = [
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("==", Operator::Equal),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];

    /// Whether the comparison holds.
    pub fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Operator::Less => left < right,
            Operator::LessOrEqual => left <= right,
            Operator::Greater => left > right,
            Operator::GreaterOrEqual => left >= right,
            Operator::Equal => left == right,
        }
    }
}

/// The unit of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A count.
    Count,
    /// A share, 0 to 1: of scheduled arrivals; for JSON-RPC errors, of all JSON-RPC answers.
    Share,
    /// Nanoseconds.
    Time,
    /// Per second.
    Rate,
}

/// A condition on a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// As it was written.
    pub that: String,
    /// The metric.
    pub metric: Metric,
    /// The comparison.
    pub operator: Operator,
    /// The value to compare with, in `unit`.
    pub value: f64,
    /// The unit of `value` and of the metric.
    pub unit: Unit,
    /// Narrowed to targets with these tags; `target` and `stream` are names.
    pub narrowed: BTreeMap<String, String>,
    /// If set, the run is stopped if the objective does not hold later than this after the warm-up.
    pub abort_after: Option<Nanos>,
}

/// The key of `where` that selects a target by its name. No tag may have this name.
pub(crate) const TARGET: &str = "target";
/// The key of `where` that selects a stream by its name. No tag may have this name.
pub(crate) const STREAM: &str = "stream";

impl Objective {
    /// The form of an objective, for hints.
    pub(crate) const FORM: &str = "write it like: latency.p99 < 250ms";

    /// Reads `METRIC OP VALUE`, optionally followed by `where TAG = VALUE and …`.
    ///
    /// # Errors
    /// A message and a hint.
    pub fn parse(text: &str) -> Result<Objective, (String, String)> {
        let (that, narrowed) = match text.split_once(" where ") {
            Some((that, narrowed)) => (that, read_where(narrowed)?),
            None => (text, BTreeMap::new()),
        };
        let (metric, operator, value) = split(that)?;
        let metric = metric::read(metric)?;
        let (value, unit) = read_value(metric, value)?;
        check_bound(operator, value, unit)?;
        Ok(Objective {
            that: that.trim().into(),
            metric,
            operator,
            value,
            unit,
            narrowed,
            abort_after: None,
        })
    }

    /// Whether it covers a target; `streams` are those of the plan.
    pub fn covers(&self, target: &Target, streams: &[Stream]) -> bool {
        self.narrowed.iter().all(|(key, value)| match key.as_str() {
            TARGET => target.name == *value,
            STREAM => streams[target.stream].name == *value,
            tag => target.tags.get(tag) == Some(value),
        })
    }

    /// Checks that the requests can have the metric.
    ///
    /// # Errors
    /// A message and a hint.
    pub(crate) fn check_requests(&self, requests: &[RequestSpec]) -> Result<(), (String, String)> {
        let stays_open = |spec: &RequestSpec| spec.standing.is_some();
        let is_of_messages =
            matches!(self.metric, Metric::MessageCount(_) | Metric::MessageTime(..));
        if is_of_messages && !requests.iter().any(stays_open) {
            let message =
                format!("nothing in this plan stays open, so \"{}\" has no value", self.that);
            let hint =
                "set sockets = 100 in a stream, and ws with subscribe, or sse, in its targets";
            return Err((message, hint.into()));
        }
        let reads = |spec: &RequestSpec| spec.expect.rpc != RpcExpect::Off;
        if self.metric != Metric::RpcErrors || requests.iter().any(reads) {
            return Ok(());
        }
        let message =
            "no request of this plan expects a JSON-RPC answer, so rpc.errors has no value";
        let hint = "to count failed requests, write errors instead of rpc.errors; JSON-RPC answers are \
                    checked if the body is a JSON-RPC request, unless expect.rpc = \"off\"";
        Err((message.into(), hint.into()))
    }

    /// Checks that the objective can be narrowed as it is, and that it then covers a target.
    ///
    /// # Errors
    /// A message and a hint.
    pub(crate) fn check_narrowing(
        &self,
        targets: &[Target],
        streams: &[Stream],
    ) -> Result<(), (String, String)> {
        self.check_metric()?;
        if self.narrowed.is_empty() || targets.iter().any(|target| self.covers(target, streams)) {
            return Ok(());
        }
        let names: [(&str, &str, Vec<&str>); 2] = [
            (TARGET, "target", targets.iter().map(|target| target.name.as_str()).collect()),
            (STREAM, "stream", streams.iter().map(|stream| stream.name.as_str()).collect()),
        ];
        for (key, what, known) in names {
            if let Some(name) = self.narrowed.get(key)
                && !known.contains(&name.as_str())
            {
                return Err(unknown_name(what, name, &known));
            }
        }
        let what = if self.narrowed.contains_key(TARGET) || self.narrowed.contains_key(STREAM) {
            "no target matches all of \"where\""
        } else {
            "no target has all of these tags"
        };
        Err((what.into(), "add the tags to a target, or correct \"where\"".into()))
    }

    /// Checks that the metric can be narrowed as it is.
    fn check_metric(&self) -> Result<(), (String, String)> {
        let by_stream = self.narrowed.keys().all(|key| key == STREAM);
        let error = |message, hint: &str| Err((message, hint.to_string()));
        if self.narrowed.is_empty() || self.metric.narrows() {
            Ok(())
        } else if !self.metric.narrows_to_streams() {
            let message = format!("\"{}\" covers the whole run and cannot be narrowed", self.that);
            error(message, "remove \"where\"")
        } else if !by_stream {
            let message = format!("\"{}\" is counted by stream, not by target", self.that);
            error(message, "narrow it by stream only: where = { stream = \"NAME\" }")
        } else {
            Ok(())
        }
    }
}

/// A message for a name that the plan does not have, and a hint: the nearest known one, or all if they are
/// few. `what` is the kind of thing: `target`.
pub fn unknown_name(what: &str, name: &str, known: &[&str]) -> (String, String) {
    let message = format!("no {what} is named \"{name}\"");
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.len() <= metric::LISTED_MAX => format!("the plan has {}", known.join(", ")),
        None => format!("the plan has {} {what}s", known.len()),
    };
    (message, hint)
}

/// The metric, the operator and the value of a condition.
fn split(that: &str) -> Result<(&str, Operator, &str), (String, String)> {
    const SIGNS: [char; 6] = ['<', '>', '=', '!', '≤', '≥'];
    let Some(at) = that.find(SIGNS) else {
        let message = format!("\"{that}\" does not compare with a value; use <, <=, >, >= or ==");
        return Err((message, metric::example(that.trim())));
    };
    let sign = &that[at..];
    let sign = &sign[..sign.find(|c| !SIGNS.contains(&c)).unwrap_or(sign.len())];
    let (metric, value) = (that[..at].trim(), that[at + sign.len()..].trim());
    if let Some((_, operator)) = Operator::SIGNS.iter().find(|(known, _)| *known == sign) {
        return Ok((metric, *operator, value));
    }
    let hint = match sign {
        "=>" | "≥" => format!("write it like: {metric} >= {value}"),
        "=<" | "≤" => format!("write it like: {metric} <= {value}"),
        "=" | "===" => format!("write it like: {metric} == {value}"),
        "!=" | "<>" | "!==" | "=!" => {
            format!("give the bound that must hold, such as: {metric} < {value}")
        }
        _ => Objective::FORM.into(),
    };
    Err((format!("\"{sign}\" is not an operator; use <, <=, >, >= or =="), hint))
}

/// `KEY = VALUE`, several joined by `and` or commas; a value may be in quotes.
fn read_where(text: &str) -> Result<BTreeMap<String, String>, (String, String)> {
    let mut narrowed = BTreeMap::new();
    for pair in text.split(',').flat_map(|part| part.split(" and ")) {
        let split = pair.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        let Some((key, value)) = split.filter(|(key, value)| !key.is_empty() && !value.is_empty())
        else {
            let message = format!("\"{}\" is not in the form TAG=VALUE", pair.trim());
            return Err((message, "write it like: latency.p99 < 250ms where chain=eth".into()));
        };
        let unquoted = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
            .unwrap_or(value);
        narrowed.insert(key.into(), unquoted.into());
    }
    Ok(narrowed)
}

/// Rejects a bound that no run can meet.
fn check_bound(operator: Operator, value: f64, unit: Unit) -> Result<(), (String, String)> {
    let error = |message: &str, hint: &str| Err((message.to_string(), hint.to_string()));
    match (unit, operator) {
        (_, Operator::Less) if value == 0.0 => {
            error("nothing is below zero", "write == 0, or a higher bound")
        }
        (Unit::Share, Operator::Greater) if value >= 1.0 => {
            error("no share is above 100%", "write == 100%, or a lower bound")
        }
        _ => Ok(()),
    }
}

fn read_value(metric: Metric, text: &str) -> Result<(f64, Unit), (String, String)> {
    let invalid = |message: String, hint: &str| (message, hint.to_string());
    let number =
        |text: &str| text.trim().replace('_', "").parse::<f64>().ok().filter(|n| *n >= 0.0);
    match metric {
        Metric::Time(..) | Metric::MessageTime(..) => values::duration(text)
            .map(|span| (span.as_nanos() as f64, Unit::Time))
            .map_err(|message| invalid(message, "")),
        Metric::RateOk | Metric::RateSent => values::rate(text)
            .map(|rate| (rate, Unit::Rate))
            .map_err(|message| invalid(message, "")),
        Metric::Success => {
            let (share, percent) = match text.strip_suffix('%') {
                Some(percent) => (number(percent).map(|n| n / 100.0), true),
                None => (number(text), false),
            };
            match share {
                Some(share) if share <= 1.0 => Ok((share, Unit::Share)),
                Some(n) if !percent && n <= 100.0 => Err(invalid(
                    format!("\"{text}\" has no unit; success is a share of the requests"),
                    &format!("write {text}%"),
                )),
                Some(_) => Err(invalid(
                    format!("\"{text}\" is more than all requests; success is at most 100%"),
                    "write it like 99% or 0.99",
                )),
                None => Err(invalid(
                    format!("\"{text}\" is not a percentage or fraction"),
                    "write it like 99% or 0.99",
                )),
            }
        }
        _ => match text.strip_suffix('%') {
            Some(percent) => match number(percent).map(|n| n / 100.0) {
                Some(share) if share > 1.0 => {
                    let message = format!("\"{text}\" is more than all; a share is at most 100%");
                    return Err(invalid(message, "write it like 1%"));
                }
                share => share.map(|share| (share, Unit::Share)),
            },
            None => number(text).map(|n| (n, Unit::Count)),
        }
        .ok_or_else(|| {
            let of = match metric {
                Metric::RpcErrors => "all JSON-RPC answers",
                Metric::MessageCount(_) => "all messages",
                _ => "all requests",
            };
            let hint = format!("write it like 10, or 0.1% of {of}");
            (format!("\"{text}\" is not a count or a percentage"), hint)
        }),
    }
}

#[cfg(test)]
mod tests;
