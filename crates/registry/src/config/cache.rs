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
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(("not a URL".into(), hint));
    };
    let wrong = match scheme {
        "redis" | "valkey" => {
            return check_authority(rest).map_err(|(why, hint)| (why.into(), hint));
        }
        "unix" | "redis+unix" | "valkey+unix" if rest.starts_with('/') => return Ok(()),
        "unix" | "redis+unix" | "valkey+unix" => {
            let hint = "write unix:///PATH, with three slashes";
            return Err(("the path of the socket is not absolute".into(), hint));
        }
        "rediss" | "valkeys" => {
            let hint = "use redis:// in a private network, or a TLS proxy such as stunnel";
            return Err((format!("{scheme}:// needs TLS, which is not supported"), hint));
        }
        _ => format!("\"{scheme}\" is not a scheme of Redis"),
    };
    Err((wrong, hint))
}

/// Checks a URL of a Redis behind its scheme.
fn check_authority(rest: &str) -> Result<(), (&'static str, &'static str)> {
    let hint = "write redis://HOST:PORT, with a password redis://:PASSWORD@HOST:PORT";
    let encode =
        "write special characters in a password as %XX: / as %2F, ? as %3F, # as %23, % as %25";
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if tail.contains('@') {
        return Err(("the password contains \"/\", \"?\" or \"#\"", encode));
    }
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if !is_percent_encoded(user) {
        return Err((
            "the password contains a \"%\" that two hexadecimal digits do not follow",
            encode,
        ));
    }
    if !user.is_empty() && !user.contains(':') {
        return Err(("the URL has a user, but no password", hint));
    }
    let database = tail.strip_prefix('/').unwrap_or(tail);
    if !database.is_empty() && database.parse::<u32>().is_err() {
        return Err(("the path of the URL is not the number of a database", hint));
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    if host.contains(|c: char| c.is_whitespace() || c == ',') {
        return Err(("the URL has no valid host", "name one host; a cluster is not supported"));
    }
    if name.is_empty() {
        return Err(("the URL has no host", hint));
    }
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err(("the URL has no valid port", hint));
    }
    if name.contains(':') && !name.starts_with('[') {
        return Err(("the host is an IPv6 address without brackets", "write redis://[::1]:6379"));
    }
    Ok(())
}

/// Whether each `%` begins an escape.
fn is_percent_encoded(text: &str) -> bool {
    let is_escape = |rest: &str| {
        rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    };
    text.split('%').skip(1).all(is_escape)
}

/// The table `cache` of the process or a service; `off` is how to turn the cache off there.
pub(super) fn table<'a>(parent: &Table<'a>, off: &str) -> Option<Table<'a>> {
    let field = parent.field("cache")?;
    if !field.is_table() {
        field.problem("\"cache\" must be a table", &format!("for no cache, write {off}"));
        return None;
    }
    field.table("cache")
}

/// Reads how long a service's answers hold, and which calls are made for each new block; `block_time` is
/// that of the service.
pub(super) fn of_service(
    table: &Table<'_>,
    block_time: Option<Nanos>,
) -> (ServiceTimes, Vec<Prefetch>) {
    const OFF: &str =
        "cache = { static = \"0s\", immutable = \"0s\", final = \"0s\", young = \"0s\" }";
    let Some(table) = self::table(table, OFF) else {
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
        let hint = format!(
            "write at least {}, lower cache.entry, or write 0 for no cache",
            show_size(least.next_multiple_of(1 << 10))
        );
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
