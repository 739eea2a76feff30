//! Reads and checks the settings of the cache: how long answers hold, how much they may take, and the
//! URL of a Redis.

use plimsoll_config::values::show_size;
use plimsoll_config::{Field, Place, Problems, Table, Text, nearest};
use plimsoll_measure::Nanos;
use plimsoll_rpc::json::{self, Kind};
use plimsoll_rpc::method::{Method, NAMES};

use super::fields::span;
use crate::model::{Prefetch, ServiceTimes};
use crate::settings::{CacheSettings, TimesToLive};

/// Longer times are assumed to be typos: a year.
const TIME_MAX: Nanos = Nanos::from_secs(366 * 24 * 3_600);

/// Reads how long answers hold.
pub(super) fn time_to_live(field: &Field<'_>) -> Option<Nanos> {
    let time = field.duration().map(Nanos::from)?;
    if time > TIME_MAX {
        let message = format!("must be at most {}, not {}", span(TIME_MAX), span(time));
        field.problem(message, "write \"0s\" to store no such answers");
        return None;
    }
    Some(time)
}

/// Reads how long a service waits for Redis.
pub(super) fn redis_timeout(field: &Field<'_>) -> Option<Nanos> {
    const MOST: Nanos = Nanos::from_secs(1);
    let time = field.duration_above_zero().map(Nanos::from)?;
    if time > MOST {
        let hint =
            "a call that misses waits this long before it is relayed; write a few milliseconds";
        field.problem(format!("\"redis_timeout\" must be at most {}", span(MOST)), hint);
        return None;
    }
    Some(time)
}

/// Reads the URL of a Redis.
pub(super) fn redis(field: &Field<'_>) -> Option<Text> {
    let text = field.text()?.hiding_secrets_of_url();
    if text.unset.is_none()
        && let Err((message, hint)) = check_redis(&text.value)
    {
        // The message does not contain the URL, because it may contain a password.
        field.problem(format!("\"redis\": {message}"), hint);
        return None;
    }
    Some(text)
}

/// Checks the URL of a Redis.
fn check_redis(url: &str) -> Result<(), (String, &'static str)> {
    let hint = "write redis://HOST:PORT, with a password redis://:PASSWORD@HOST:PORT";
    let wrong = |message: &str| Err((message.to_string(), hint));
    let Some((scheme, rest)) = url.split_once("://") else { return wrong("not a URL") };
    match scheme {
        "redis" | "valkey" => {
            let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            let is_database = database.is_empty() || database.parse::<u32>().is_ok();
            match host.rsplit_once(':') {
                _ if host.is_empty() => wrong("the URL has no host"),
                _ if !is_database => wrong("the path of the URL is not the number of a database"),
                Some((_, port)) if !host.ends_with(']') && port.parse::<u16>().is_err() => {
                    wrong("the URL has no valid port")
                }
                _ => Ok(()),
            }
        }
        "unix" | "redis+unix" | "valkey+unix" if rest.starts_with('/') => Ok(()),
        "unix" | "redis+unix" | "valkey+unix" => wrong("the path of the socket is not absolute"),
        "rediss" | "valkeys" => Err((
            format!("{scheme}:// needs TLS, which is not supported"),
            "use redis:// in a private network, or a TLS proxy such as stunnel",
        )),
        _ => Err((format!("\"{scheme}\" is not a scheme of Redis"), hint)),
    }
}

/// Reads how long a service's answers hold, and which calls are made for each new block; `block_time` is
/// that of the service.
pub(super) fn of_service(
    table: &Table<'_>,
    block_time: Option<Nanos>,
) -> (ServiceTimes, Vec<Prefetch>) {
    let Some(table) = table.field("cache").and_then(|field| field.table("cache")) else {
        return (ServiceTimes::default(), Vec::new());
    };
    let times = times(&table, block_time);
    let calls = table.field("prefetch").map(|field| prefetch(&field)).unwrap_or_default();
    table.close();
    (times, calls)
}

/// Reads the calls that are made for each new block.
fn prefetch(field: &Field<'_>) -> Vec<Prefetch> {
    let items = field.list().unwrap_or_default();
    if items.len() > Prefetch::MAX {
        let message = format!("{} calls in \"prefetch\", at most {}", items.len(), Prefetch::MAX);
        field.problem(message, "each is made for every block; keep those that most callers make");
        return Vec::new();
    }
    let call = |item: &Field<'_>| {
        let text = item.text()?.value;
        let (method, params) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        let params = Some(params.trim()).filter(|params| !params.is_empty()).map(String::from);
        let hint =
            "write the method and its params as JSON: 'eth_getBlockByNumber [\"latest\", false]'";
        if Method::find(method).is_none() {
            let nearest = nearest(method, NAMES.iter().copied());
            let hint = nearest.map_or(hint.into(), |name| format!("did you mean \"{name}\"?"));
            item.problem(format!("\"{method}\" is not a method that is cached"), &hint);
            return None;
        }
        let is_list = |params: &String| {
            let is_kind = matches!(json::kind(params.as_bytes()), Some(Kind::Array | Kind::Object));
            is_kind && json::validate(params.as_bytes()).is_ok()
        };
        if !params.as_ref().is_none_or(is_list) {
            item.problem("the params of a call are not a JSON array or object", hint);
            return None;
        }
        Some(Prefetch { method: method.into(), params })
    };
    items.iter().filter_map(call).collect()
}

/// Reads how long a service's answers hold.
fn times(table: &Table<'_>, block_time: Option<Nanos>) -> ServiceTimes {
    let time = |key| table.field(key).and_then(|field| time_to_live(&field));
    let times = ServiceTimes {
        fixed: time("static"),
        immutable: time("immutable"),
        finalized: time("final"),
        young: time("young"),
    };
    let longest = TimesToLive::young_max(block_time);
    if let (Some(young), Some(field)) =
        (times.young.filter(|time| *time > longest), table.field("young"))
    {
        let (message, hint) = match block_time {
            Some(block_time) => (
                format!(
                    "\"young\" is {}, but a block takes {}: answers about the head would be stored for \
                     longer than the head lasts",
                    span(young),
                    span(block_time)
                ),
                format!("write at most {}", span(block_time)),
            ),
            None => (
                format!("\"young\" is {}, but the service has no \"block_time\"", span(young)),
                format!("set block_time, or write at most {}", span(longest)),
            ),
        };
        field.problem(message, &hint);
    }
    if let (Some(last), Some(young), Some(field)) =
        (times.finalized, times.young, table.field("final"))
        && let Some((message, hint)) = shorter_than_young(last, young)
    {
        field.problem(message, hint);
    }
    times
}

/// The problem with final answers that hold for less time than young ones.
fn shorter_than_young(last: Nanos, young: Nanos) -> Option<(String, &'static str)> {
    (last > Nanos::ZERO && last < young).then(|| {
        let message = format!(
            "\"final\" is {}, shorter than \"young\", which is {}: answers that cannot change would be \
             stored for less time than those that may",
            span(last),
            span(young)
        );
        (message, "raise final, lower young, or turn one of them off with \"0s\"")
    })
}

/// Checks the settings of all layers together; `place` finds where a key was given.
pub(super) fn check(
    cache: &CacheSettings,
    place: impl Fn(&'static str) -> Option<Place>,
    problems: &mut Problems,
) {
    let least = CacheSettings::memory_min(cache.entry);
    if cache.memory > 0 && cache.memory < least {
        let message = format!(
            "\"cache.memory\" is {}, less than one answer of \"cache.entry\" ({}) needs",
            show_size(cache.memory),
            show_size(cache.entry)
        );
        let hint =
            format!("write at least {least} bytes, lower cache.entry, or write 0 for no cache");
        let given = place("cache.memory").or_else(|| place("cache.entry"));
        problems.note(given.unwrap_or(Place::Named("cache.memory".into())), message, hint);
    }
    let times = &cache.times;
    let given = place("cache.final").or_else(|| place("cache.young"));
    if let (Some(given), Some((message, hint))) =
        (given, shorter_than_young(times.finalized, times.young))
    {
        problems.note(given, message, hint);
    }
}
