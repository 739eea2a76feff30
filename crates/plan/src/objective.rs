//! Conditions on metrics that decide pass or fail: `latency.p99 < 250ms`.

use plimsoll_config::{nearest, values};
use plimsoll_measure::{ErrorClass, Listed, Nanos};
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
    /// Responses with one HTTP status.
    Status(u16),
    /// JSON-RPC errors; each item of a batch counts.
    RpcErrors,
    /// Requests answered as expected, per second.
    RateOk,
    /// Requests sent, per second.
    RateSent,
    /// A time.
    Time(TimeKind, TimeStat),
}

impl Metric {
    /// Whether it is counted by target, so that `where` can narrow it.
    pub fn narrows(self) -> bool {
        use Metric::*;
        match self {
            Success | Errors | Unsent | ErrorClass(_) | RateOk | RateSent => true,
            Status(_) | RpcErrors => false,
            Time(kind, _) => !matches!(kind, TimeKind::Lag | TimeKind::Wait),
        }
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
    /// A share of scheduled arrivals, 0 to 1.
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
    /// Narrowed to targets with these tags.
    pub narrowed: BTreeMap<String, String>,
    /// If set, the run is stopped if the objective does not hold later than this after the warm-up.
    pub abort_after: Option<Nanos>,
}

const METRICS: [&str; 13] = [
    "success",
    "errors",
    "unsent",
    "errors.<class>",
    "status.<code>",
    "rpc.errors",
    "rate.ok",
    "rate.sent",
    "latency.<stat>",
    "latency_ok.<stat>",
    "service_time.<stat>",
    "lag.<stat>",
    "wait.<stat>",
];

impl Objective {
    /// Reads `METRIC OP VALUE`.
    ///
    /// # Errors
    /// A message and a hint.
    pub fn parse(that: &str) -> Result<Objective, (String, String)> {
        let found = Operator::SIGNS
            .iter()
            .filter_map(|(sign, operator)| Some((that.find(sign)?, *sign, *operator)))
            .min_by_key(|(at, sign, _)| (*at, usize::MAX - sign.len()));
        let Some((at, sign, operator)) = found else {
            let message = format!("\"{that}\" has no comparison operator; use <, <=, >, >= or ==");
            return Err((message, "write it like: latency.p99 < 250ms".into()));
        };
        let (metric, value) = (that[..at].trim(), that[at + sign.len()..].trim());
        let metric = read_metric(metric)?;
        let (value, unit) = read_value(metric, value)?;
        Ok(Objective {
            that: that.trim().into(),
            metric,
            operator,
            value,
            unit,
            narrowed: BTreeMap::new(),
            abort_after: None,
        })
    }
}

fn unknown(message: String, word: &str, known: &[&'static str]) -> (String, String) {
    let hint = match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("known: {}", known.join(", ")),
    };
    (message, hint)
}

fn read_metric(text: &str) -> Result<Metric, (String, String)> {
    let unknown_metric = || unknown(format!("unknown metric \"{text}\""), text, &METRICS);
    let (head, tail) = text.split_once('.').unwrap_or((text, ""));
    match (head, tail) {
        ("success", "") => return Ok(Metric::Success),
        ("errors", "") => return Ok(Metric::Errors),
        ("unsent", "") => return Ok(Metric::Unsent),
        ("rpc", "errors") => return Ok(Metric::RpcErrors),
        ("rate", "ok") => return Ok(Metric::RateOk),
        ("rate", "sent") => return Ok(Metric::RateSent),
        ("errors", class) => {
            let names: Vec<_> = ErrorClass::ALL.iter().map(|class| class.name()).collect();
            return ErrorClass::from_name(class)
                .map(Metric::ErrorClass)
                .ok_or_else(|| unknown(format!("unknown error class \"{class}\""), class, &names));
        }
        ("status", code) => {
            let code = code.parse().ok().filter(|code| (100..=999).contains(code));
            let invalid =
                || (format!("\"{text}\" is not an HTTP status"), "write it like status.429".into());
            return code.map(Metric::Status).ok_or_else(invalid);
        }
        _ => {}
    }
    let kind = TimeKind::NAMES.iter().find(|(name, _)| *name == head);
    let Some((_, kind)) = kind else { return Err(unknown_metric()) };
    let stat = match tail {
        "min" => Some(TimeStat::Min),
        "mean" => Some(TimeStat::Mean),
        "max" => Some(TimeStat::Max),
        _ => tail.strip_prefix('p').and_then(quantile).map(TimeStat::Quantile),
    };
    stat.map(|stat| Metric::Time(*kind, stat)).ok_or_else(|| {
        let hint = "min, mean, p50, p90, p95, p99, p99.9 (any pNN.N) or max".to_string();
        (format!("\"{text}\" is not a statistic of {head}"), hint)
    })
}

/// `99` and `99.9` are percent; `999` and `9999`, as in `p999`, are 99.9 and 99.99 percent.
fn quantile(digits: &str) -> Option<f64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let number: f64 = match (digits.len(), digits.contains('.')) {
        (3.., false) if digits.starts_with("99") => format!("{}.{}", &digits[..2], &digits[2..]),
        _ => digits.to_string(),
    }
    .parse()
    .ok()?;
    (number > 0.0 && number <= 100.0).then(|| (number * 1e9).round() / 1e11)
}

fn read_value(metric: Metric, text: &str) -> Result<(f64, Unit), (String, String)> {
    let invalid = |message: String, hint: &str| (message, hint.to_string());
    let number =
        |text: &str| text.trim().replace('_', "").parse::<f64>().ok().filter(|n| *n >= 0.0);
    match metric {
        Metric::Time(..) => values::duration(text)
            .map(|span| (span.as_nanos() as f64, Unit::Time))
            .map_err(|message| invalid(message, "")),
        Metric::RateOk | Metric::RateSent => values::rate(text)
            .map(|rate| (rate, Unit::Rate))
            .map_err(|message| invalid(message, "")),
        Metric::Success => {
            let share = match text.strip_suffix('%') {
                Some(percent) => number(percent).map(|n| n / 100.0),
                None => number(text),
            };
            share.filter(|share| *share <= 1.0).map(|share| (share, Unit::Share)).ok_or_else(|| {
                invalid(
                    format!("\"{text}\" is not a percentage or fraction"),
                    "write it like 99% or 0.99",
                )
            })
        }
        _ => match text.strip_suffix('%') {
            Some(percent) if metric.narrows() => number(percent).map(|n| (n / 100.0, Unit::Share)),
            Some(_) => None,
            None => number(text).map(|n| (n, Unit::Count)),
        }
        .ok_or_else(|| {
            invalid(
                format!("\"{text}\" is not a count or a percentage"),
                "write it like 10, or 0.1% for a share of scheduled arrivals",
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_values() {
        let check = |that: &str, metric, operator, value, unit| {
            let objective = Objective::parse(that).unwrap();
            let read = (objective.metric, objective.operator, objective.value, objective.unit);
            assert_eq!(read, (metric, operator, value, unit), "{that}");
        };
        use Operator::*;
        let time = |kind, quantile| Metric::Time(kind, TimeStat::Quantile(quantile));
        check("success >= 99%", Metric::Success, GreaterOrEqual, 0.99, Unit::Share);
        check("success>=0.99", Metric::Success, GreaterOrEqual, 0.99, Unit::Share);
        check("latency.p99 < 250ms", time(TimeKind::Latency, 0.99), Less, 2.5e8, Unit::Time);
        check("service_time.p99.9<1s", time(TimeKind::ServiceTime, 0.999), Less, 1e9, Unit::Time);
        check("lag.p999 <= 5ms", time(TimeKind::Lag, 0.999), LessOrEqual, 5e6, Unit::Time);
        check("errors.reset == 0", Metric::ErrorClass(ErrorClass::Reset), Equal, 0.0, Unit::Count);
        check("unsent < 0.1%", Metric::Unsent, Less, 0.001, Unit::Share);
        check("status.429 < 10", Metric::Status(429), Less, 10.0, Unit::Count);
        check("rate.ok > 4900/s", Metric::RateOk, Greater, 4900.0, Unit::Rate);
    }

    #[test]
    fn problems_have_hints() {
        let check = |that: &str, message: &str, hint: &str| {
            assert_eq!(Objective::parse(that).unwrap_err(), (message.into(), hint.into()));
        };
        check(
            "latency",
            "\"latency\" has no comparison operator; use <, <=, >, >= or ==",
            "write it like: latency.p99 < 250ms",
        );
        check("sucess > 99%", "unknown metric \"sucess\"", "did you mean \"success\"?");
        check("errors.rest < 1", "unknown error class \"rest\"", "did you mean \"reset\"?");
        check(
            "success > 990",
            "\"990\" is not a percentage or fraction",
            "write it like 99% or 0.99",
        );
        let error = Objective::parse("latency.p101 < 1s").unwrap_err().0;
        assert_eq!(error, "\"latency.p101\" is not a statistic of latency");
        assert!(Objective::parse("latency.p99 < 250").is_err());
        assert!(Objective::parse("frobs > 1").unwrap_err().1.starts_with("known: success"));
    }
}
