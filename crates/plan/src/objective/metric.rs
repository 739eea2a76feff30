//! Reads the name of a metric, and suggests the nearest one for a name that is unknown.

use super::{Metric, TimeKind, TimeStat};
use plimsoll_config::nearest;
use plimsoll_measure::{ErrorClass, Listed, MessageCounts};

const METRICS: [&str; 15] = [
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
    "messages.<count>",
    "messages.<time>.<stat>",
];

/// Names that other load generators use, and the corresponding metric.
const ELSEWHERE: [(&str, &str); 14] = [
    ("error_rate", "errors"),
    ("failures", "errors"),
    ("http_req_failed", "errors"),
    ("checks", "success"),
    ("success_rate", "success"),
    ("http_req_duration", "latency.p95"),
    ("response_time", "latency.p95"),
    ("duration", "latency.p95"),
    ("timeouts", "errors.response_timeout"),
    ("dropped_iterations", "unsent"),
    ("http_reqs", "rate.sent"),
    ("rps", "rate.sent"),
    ("qps", "rate.sent"),
    ("throughput", "rate.ok"),
];

/// At most this many names are listed in a hint.
pub(super) const LISTED_MAX: usize = 24;

/// Reads a metric.
///
/// # Errors
/// A message and a hint.
pub(super) fn read(text: &str) -> Result<Metric, (String, String)> {
    let (head, tail) = text.split_once('.').unwrap_or((text, ""));
    match (head, tail) {
        ("success", "") => return Ok(Metric::Success),
        ("errors", "") => return Ok(Metric::Errors),
        ("unsent", "") => return Ok(Metric::Unsent),
        ("rpc", "errors") => return Ok(Metric::RpcErrors),
        ("rate", "ok") => return Ok(Metric::RateOk),
        ("rate", "sent") => return Ok(Metric::RateSent),
        ("errors", class) => {
            return ErrorClass::from_name(class)
                .map(Metric::ErrorClass)
                .ok_or_else(|| unknown_class(class));
        }
        ("status", code) => {
            let (from, to) = status_range(code).ok_or_else(|| {
                let hint = if code.ends_with("xx") {
                    "HTTP has the classes 1xx to 5xx"
                } else {
                    "write it like status.429 or status.5xx"
                };
                (format!("\"{text}\" is not an HTTP status"), hint.to_string())
            })?;
            return Ok(Metric::Status { from, to });
        }
        ("messages", name) => return read_messages(text, name),
        _ => {}
    }
    let kind = TimeKind::NAMES.iter().find(|(name, _)| *name == head);
    let Some((_, kind)) = kind else { return Err(unknown(text, head, tail)) };
    let stat = read_stat(tail);
    stat.map(|stat| Metric::Time(*kind, stat)).ok_or_else(|| no_stat(text, head, tail))
}

/// Reads the rest of `messages.…`: a count, or a time and its statistic.
fn read_messages(text: &str, name: &str) -> Result<Metric, (String, String)> {
    let own = MessageCounts::default();
    let (counts, times) = (own.counts(), own.histograms());
    let (name, stat) = name.split_once('.').unwrap_or((name, ""));
    if let Some((_, count)) = counts.iter().find(|(_, own)| *own == name && stat.is_empty()) {
        return Ok(Metric::MessageCount(count));
    }
    if let Some((_, time)) = times.iter().find(|(_, own)| *own == name) {
        let of = format!("messages.{name}");
        let stat_read = read_stat(stat).ok_or_else(|| no_stat(text, &of, stat))?;
        return Ok(Metric::MessageTime(time, stat_read));
    }
    let known = counts.iter().map(|(_, own)| *own).chain(times.iter().map(|(_, own)| *own));
    let hint = match nearest(name, known) {
        Some(near) => format!("did you mean \"messages.{near}\"?"),
        None => {
            let counts: Vec<&str> = counts.iter().map(|(_, own)| *own).collect();
            let times: Vec<&str> = times.iter().map(|(_, own)| *own).collect();
            format!("counts: {}; times: {}", counts.join(", "), times.join(", "))
        }
    };
    Err((format!("unknown metric \"{text}\""), hint))
}

/// `p99`, `mean` and the like.
fn read_stat(text: &str) -> Option<TimeStat> {
    match text {
        "min" => Some(TimeStat::Min),
        "mean" => Some(TimeStat::Mean),
        "max" => Some(TimeStat::Max),
        _ => text.strip_prefix('p').and_then(quantile).map(TimeStat::Quantile),
    }
}

/// The problem of a time without a statistic that is known.
fn no_stat(text: &str, head: &str, tail: &str) -> (String, String) {
    let known = "min, mean, p50, p90, p95, p99, p99.9 (any pNN.N) or max";
    let hint = match tail {
        "avg" | "average" => format!("did you mean \"{head}.mean\"?"),
        "med" | "median" => format!("did you mean \"{head}.p50\"?"),
        "" => format!("write it like {head}.p99; the statistics are {known}"),
        _ => format!("the statistics are {known}"),
    };
    let message = match tail {
        "" => format!("\"{head}\" needs a statistic"),
        _ => format!("\"{text}\" is not a statistic of {head}"),
    };
    (message, hint)
}

/// An example of an objective with this metric, or with the one that it probably stands for.
pub(super) fn example(metric: &str) -> String {
    let stands_for = |hint: &str| hint.split('"').nth(1).map(String::from);
    let named = match read(metric) {
        Ok(_) => Some(metric.to_string()),
        Err((_, hint)) => stands_for(&hint).filter(|named| read(named).is_ok()),
    };
    let value = match named.as_deref().map(read) {
        Some(Ok(Metric::Success)) => ">= 99%",
        Some(Ok(Metric::RateOk | Metric::RateSent)) => ">= 100/s",
        Some(Ok(Metric::MessageCount(_))) => "== 0",
        Some(Ok(Metric::Time(..) | Metric::MessageTime(..))) => "< 250ms",
        Some(Ok(_)) => "< 1%",
        Some(Err(_)) | None => return super::Objective::FORM.into(),
    };
    format!("write it like: {} {value}", named.unwrap_or_default())
}

fn unknown(text: &str, head: &str, tail: &str) -> (String, String) {
    let did_you_mean = |metric: &str| format!("did you mean \"{metric}\"?");
    let elsewhere = ELSEWHERE.iter().find(|(name, _)| name.eq_ignore_ascii_case(head));
    let heads = METRICS.iter().map(|metric| metric.split('.').next().unwrap_or(metric));
    let is_quantile = |text: &str| text.strip_prefix('p').and_then(quantile).is_some();
    let hint = if let Some((_, metric)) = elsewhere {
        did_you_mean(metric)
    } else if text.is_empty() {
        super::Objective::FORM.into()
    } else if is_quantile(text) || ["min", "mean", "max"].contains(&text) {
        did_you_mean(&format!("latency.{text}"))
    } else if let Some(near) = nearest(text, METRICS) {
        did_you_mean(near)
    } else if let Some(near) = nearest(head, heads).filter(|_| !tail.is_empty()) {
        did_you_mean(&format!("{near}.{tail}"))
    } else {
        format!("known: {}", METRICS.join(", "))
    };
    (format!("unknown metric \"{text}\""), hint)
}

/// An unknown class is often a part of a name: `timeout`.
fn unknown_class(class: &str) -> (String, String) {
    let names: Vec<&str> = ErrorClass::ALL.iter().map(|class| class.name()).collect();
    let containing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| class.len() >= 3 && name.contains(class.trim_end_matches('s')))
        .collect();
    let hint = match (nearest(class, names.iter().copied()), containing.as_slice()) {
        (Some(near), _) => format!("did you mean \"{near}\"?"),
        (None, []) => format!("known: {}", names.join(", ")),
        (None, several) => format!("did you mean \"{}\"?", several.join("\" or \"")),
    };
    (format!("unknown error class \"{class}\""), hint)
}

/// `429`, or `5xx`.
fn status_range(code: &str) -> Option<(u16, u16)> {
    if let Some(class) = code.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
        return Some((class * 100, class * 100 + 99));
    }
    let code = code.parse().ok().filter(|code| (100..=999).contains(code))?;
    Some((code, code))
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
