//! Streams whose exchanges stay open: sockets, subscriptions and event streams.

use super::load::{USERS_MAX, check_rate};
use super::request::read_compression;
use super::spec::{Part, Problem, RawBody};
use crate::stream::{End, Load, Sockets, Stream};
use crate::target::{Standing, Topic};
use crate::{Profile, RequestSpec, Stage};
use plimsoll_config::{Field, Table, Text};
use plimsoll_measure::Nanos;

/// Keys that such a stream cannot have.
const OTHER_LOAD: [&str; 6] = ["rate", "users", "think_time", "stages", "arrivals", "requests"];
/// Exchanges opened per second, unless the plan says otherwise: few enough for any server's backlog.
const PER_SECOND: f64 = 100.0;
/// How often sockets are pinged, unless the plan says otherwise: often enough for proxies that close what is
/// idle for a minute.
const PING: Nanos = Nanos::from_secs(30);
/// Pings are checked once a second at most.
const PING_MIN: Nanos = Nanos::from_secs(1);
/// Keys of a target that have no effect on what stays open.
const OF_REQUESTS: [&str; 9] =
    ["request", "body", "body_file", "body_base64", "transfer", "expect", "file", "turn", "format"];

/// The load of a stream with the key `sockets`.
pub(super) fn read_sockets(table: &Table<'_>, count: &Field<'_>) -> Option<(Load, End, Sockets)> {
    for key in OTHER_LOAD {
        if let Some(field) = table.field(key) {
            let message = format!("\"{key}\" and \"sockets\" cannot be used together");
            let hint = "sockets = 1_000 and per_second = 100 open exchanges that stay open for the \
                        stream's duration; requests need a [[stream]] of their own";
            field.problem_with_key(message, hint);
        }
    }
    let per_second = match table.field("per_second") {
        Some(field) => field.rate().and_then(|rate| check_rate(rate, &field)),
        None => Some(PER_SECOND),
    };
    let ping = match table.field("ping") {
        Some(field) => read_ping(&field),
        None => Some(PING),
    };
    let silence = table.field("silence").map(|field| field.duration_above_zero());
    let duration = table.field("duration").map(|field| (field.duration_above_zero(), field));
    let count = count.integer(1, USERS_MAX);
    let Some((span, duration)) = duration else {
        table.problem("a stream with \"sockets\" needs \"duration\"", "set duration = \"1m\"");
        return None;
    };
    let (count, per_second, span) = (count? as f64, per_second?, Nanos::from(span?));
    let over = Nanos((count / per_second * 1e9).ceil() as u64);
    if over >= span {
        let took = over.0 as f64 / 1e9;
        let message = format!(
            "opening {count} at {per_second} per second takes {took:.1}s, not less than \"duration\""
        );
        duration.problem(message, "set a longer duration, or a higher per_second");
        return None;
    }
    let silence = match silence {
        Some(span) => Some(Nanos::from(span?)),
        None => None,
    };
    let profile = Profile::stages(0.0, &[Stage { value: count, over, hold: span - over }]);
    let load = Load::Closed { profile, think_time: Nanos::ZERO };
    Some((load, End::After(span), Sockets { per_second, ping: ping?, silence }))
}

fn read_ping(field: &Field<'_>) -> Option<Nanos> {
    let ping = Nanos::from(field.duration()?);
    if ping > Nanos::ZERO && ping < PING_MIN {
        field.problem("\"ping\" must be at least 1s", "ping = \"0s\" sends no pings");
        return None;
    }
    Some(ping)
}

/// Reports keys that need a stream with the key `sockets`, and rules of the plan that contradict it.
pub(super) fn check_rest(root: &Table<'_>, streams: Option<&[Stream]>, max_in_flight: Option<u64>) {
    let has_sockets = streams.is_some_and(|all| all.iter().any(|own| own.sockets.is_some()));
    if has_sockets && max_in_flight.is_some() {
        root.problem(
            "\"max_in_flight\" and \"sockets\" cannot be used together",
            "what stays open is always in flight; remove max_in_flight",
        );
    }
}

/// Reports keys of a stream without `sockets` that have no effect there.
pub(super) fn check_without(table: &Table<'_>) {
    for key in ["per_second", "ping", "silence"] {
        if let Some(field) = table.field(key) {
            let hint = "sockets = 1_000 opens that many sockets, subscriptions or event streams";
            field.problem_with_key(format!("\"{key}\" requires \"sockets\""), hint);
        }
    }
}

/// Reports a setting of a stream that none of its targets is subject to.
pub(super) fn check_effect(table: &Table<'_>, requests: &[RequestSpec]) {
    let all = |own: fn(&Standing) -> bool| {
        !requests.is_empty() && requests.iter().flat_map(|spec| &spec.standing).all(own)
    };
    let is_idle = |own: &Standing| *own == Standing::Socket;
    if let Some(field) = table.field("silence").filter(|_| all(is_idle)) {
        let hint =
            "add subscribe = { method = \"eth_subscribe\", params = [\"newHeads\"] } to a target";
        field.problem_with_key("\"silence\" has no effect: nothing is sent to idle sockets", hint);
    }
    let is_events = |own: &Standing| matches!(own, Standing::Events { .. });
    if let Some(field) = table.field("ping").filter(|_| all(is_events)) {
        let hint = "set silence = \"1m\" to end event streams on which nothing comes";
        field.problem_with_key("\"ping\" has no effect: event streams have no pings", hint);
    }
}

/// What a target opens.
pub(super) struct Opens<'r> {
    pub(super) standing: Standing,
    pub(super) field: Field<'r>,
    pub(super) url: Text,
    pub(super) body: RawBody,
    pub(super) compression: bool,
    /// The field of a part that has a problem.
    subscribe: Option<Field<'r>>,
}

impl<'r> Opens<'r> {
    /// The field that a problem with a part is reported at.
    pub(super) fn at(&self, part: Part) -> &Field<'r> {
        match (part, &self.subscribe) {
            (Part::Body | Part::Expect, Some(subscribe)) => subscribe,
            _ => &self.field,
        }
    }
}

/// Reads what a target of a stream with `sockets` opens.
pub(super) fn read_opens<'r>(table: &Table<'r>) -> Option<Opens<'r>> {
    let mut is_whole = true;
    for key in OF_REQUESTS {
        if let Some(field) = table.field(key) {
            is_whole = false;
            let message = format!("\"{key}\" has no effect in a stream with \"sockets\"");
            let hint = "its targets have ws = \"ws://…\", with or without subscribe = { method = …, params = […] }, \
                        or sse = \"http://…\"";
            field.problem_with_key(message, hint);
        }
    }
    let (socket, events) = (table.field("ws"), table.field("sse"));
    let (subscribe, numbered) = (table.field("subscribe"), table.field("numbered"));
    let compression = read_compression(table, socket.is_some());
    if let (Some(_), Some(field)) = (&socket, &events) {
        field.problem_with_key("\"ws\" and \"sse\" cannot be used together", "keep one");
        return None;
    }
    if let Some(field) = subscribe.as_ref().filter(|_| socket.is_none()) {
        field.problem_with_key("\"subscribe\" requires \"ws\"", "");
        is_whole = false;
    }
    if let Some(field) = numbered.as_ref().filter(|_| events.is_none()) {
        field.problem_with_key("\"numbered\" requires \"sse\"", "");
        is_whole = false;
    }
    let is_events = events.is_some();
    let Some(field) = socket.or(events) else {
        let hint = "add ws = \"ws://host:port/path\" or sse = \"http://host:port/path\"";
        table.problem("a target of a stream with \"sockets\" needs \"ws\" or \"sse\"", hint);
        return None;
    };
    let url = field.text()?;
    let mut body = RawBody::Empty;
    let standing = match &subscribe {
        _ if is_events => {
            let numbered = numbered.map_or(Some(false), |field| field.boolean())?;
            Standing::Events { numbered }
        }
        None => Standing::Socket,
        Some(subscribe) => {
            let (text, standing) = read_subscribe(subscribe)?;
            body = RawBody::Inline(text);
            standing
        }
    };
    is_whole.then_some(Opens { standing, field, url, body, compression, subscribe })
}

/// The call of `subscribe = { method = "eth_subscribe", params = ["newHeads"] }`, shown as that table.
fn read_subscribe(field: &Field<'_>) -> Option<(Text, Standing)> {
    let table = field.table("subscribe")?;
    let (method, params) = (table.field("method"), table.field("params"));
    table.close();
    let Some(method) = method else {
        field.problem(
            "\"subscribe\" needs \"method\"",
            "write it like subscribe = { method = \"eth_subscribe\", params = [\"newHeads\"] }",
        );
        return None;
    };
    let is_named = method.is_text();
    let (Some(method), true) = (method.json(), is_named) else {
        method.problem("\"method\" must be a string, such as \"eth_subscribe\"", "");
        return None;
    };
    let params = match params {
        Some(field) if field.is_list() => Some(field.json()?),
        Some(field) => {
            field.problem("\"params\" must be a list, such as [\"newHeads\"]", "");
            return None;
        }
        None => None,
    };
    let topic = match params.as_ref().map(|own| own.text.as_str()) {
        Some(text) if text.starts_with("[\"newHeads\"") => Topic::Heads,
        Some(text) if text.starts_with("[\"logs\"") => Topic::Logs,
        _ => Topic::Other,
    };
    let part = |own: &plimsoll_config::Json| format!(",\"params\":{}", own.text);
    let params_text = params.as_ref().map(part).unwrap_or_default();
    let params_shown = params.map(|own| format!(", params = {}", own.shown)).unwrap_or_default();
    let value = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":{}{params_text}}}", method.text);
    let shown = format!("{{ method = {}{params_shown} }}", method.shown);
    // `eth_subscribe` ends with `eth_unsubscribe`, and other namespaces alike.
    let namespace = method.text.strip_suffix("_subscribe\"");
    let unsubscribe = namespace.map(|own| format!("{own}_unsubscribe\""));
    let standing = Standing::Subscription { topic, unsubscribe, shown: shown.clone() };
    Some((Text { shown, ..Text::plain(value) }, standing))
}

/// The problem of a target that opens something in a stream without `sockets`.
pub(super) fn needs_sockets(key: &str) -> Problem {
    let message = format!("\"{key}\" requires a stream with \"sockets\"");
    Problem(message, "set sockets = 100 and per_second = 10 instead of rate, users or stages")
}

#[cfg(test)]
mod tests {
    use crate::{Document, Plan, Scheme, Standing, Topic, Variables};
    use plimsoll_measure::Nanos;
    use std::path::Path;

    fn read(text: &str) -> Result<Plan, String> {
        let document = Document::new("plan.toml", text);
        let plan = Plan::read(&document, &Variables::none(), Path::new("."));
        plan.map_err(|problems| problems.to_string())
    }

    const STREAM: &str = "sockets = 1_000\nper_second = 500\nduration = \"60s\"\n";

    #[test]
    fn a_resolved_plan_reads_back() {
        let plan = read(&format!(
            "{STREAM}ping = \"10s\"\nsilence = \"30s\"\n\
             [[target]]\nws = \"ws://h/a\"\nheaders = {{ X-Key = \"k\" }}\n\
             [[target]]\nws = \"ws://h/b\"\nsubscribe = {{ method = \"eth_subscribe\", params = [\"newHeads\"] }}\n\
             [[target]]\nws = \"ws://h/c\"\ncompression = true\n\
             subscribe = {{ method = \"eth_subscribe\", params = [\"logs\", {{ address = \"0x1\" }}] }}\n\
             [[target]]\nsse = \"https://h/events\"\nnumbered = true\n"
        ))
        .unwrap();
        let resolved = plan.to_toml();
        assert_eq!(read(&resolved).unwrap().to_toml(), resolved, "{resolved}");
        let standing: Vec<_> = plan.requests.iter().flat_map(|own| &own.standing).collect();
        assert_eq!(standing[0], &Standing::Socket);
        let compressed: Vec<_> = plan.requests.iter().map(|own| own.compression).collect();
        assert_eq!(compressed, [false, false, true, false]);
        let described = plan.describe();
        assert!(described.contains("WebSocket ws://h/c with compression, subs"), "{described}");
        let topics = [Topic::Heads, Topic::Logs];
        for (own, expected) in standing[1..3].iter().zip(topics) {
            let Standing::Subscription { topic, .. } = own else { panic!("{own:?}") };
            assert_eq!(*topic, expected);
        }
        assert_eq!(standing[3], &Standing::Events { numbered: true });
        let sockets = plan.streams[0].sockets.unwrap();
        assert_eq!(
            (sockets.ping, sockets.silence),
            (Nanos::from_secs(10), Some(Nanos::from_secs(30)))
        );
        // They are opened one by one, and share no connections with calls.
        let origins = plan.origins();
        assert!(origins.iter().all(|own| own.stays_open));
        assert_eq!(plan.connection_limit(&origins[0]), (1_000, 1));
        assert_eq!(origins[3].scheme, Scheme::Https);
        assert_eq!(plan.planned_end(), Some(Nanos::from_secs(60)));
    }

    #[test]
    fn problems_name_the_key_and_the_fix() {
        let check = |lines: &str, words: &str| {
            let problems = read(lines).map(|plan| plan.to_toml()).unwrap_err();
            assert!(problems.contains(words), "\n{lines}\nreports\n{problems}");
        };
        let stream = |lines: &str, words: &str| {
            check(&format!("{lines}\n[[target]]\nws = \"ws://h/\"\n"), words);
        };
        stream("sockets = 10", "a stream with \"sockets\" needs \"duration\"");
        stream("sockets = 0\nduration = \"1s\"", "\"sockets\" must be");
        stream(
            "sockets = 1000\nduration = \"10s\"",
            "opening 1000 at 100 per second takes 10.0s, not less than \"duration\"",
        );
        for key in ["rate = 1", "users = 1", "think_time = \"1s\"", "requests = 5"] {
            let name = key.split(' ').next().unwrap();
            let words = format!("\"{name}\" and \"sockets\" cannot be used together");
            stream(&format!("{STREAM}{key}"), &words);
        }
        stream(&format!("{STREAM}ping = \"10ms\""), "\"ping\" must be at least 1s");
        stream(&format!("{STREAM}silence = \"0s\""), "must be longer than zero");
        stream("sockets = 9\nper_second = 0\nduration = \"1s\"", "must be above 0/s");
        stream(&format!("{STREAM}silence = \"1s\""), "\"silence\" has no effect: nothing is sent");
        check(
            &format!("{STREAM}ping = \"5s\"\n[[target]]\nsse = \"http://h/\"\n"),
            "\"ping\" has no effect: event streams have no pings",
        );
        stream(
            &format!("{STREAM}max_in_flight = 5\ntimeout_from = \"start\""),
            "\"max_in_flight\" and \"sockets\" cannot be used together",
        );
        stream("rate = 1\nduration = \"1s\"\nsilence = \"1s\"", "\"silence\" requires \"sockets\"");
        let target =
            |lines: &str, words: &str| check(&format!("{STREAM}[[target]]\n{lines}"), words);
        target("name = \"a\"", "a target of a stream with \"sockets\" needs \"ws\" or \"sse\"");
        target("request = \"GET http://h/\"", "\"request\" has no effect in a stream");
        target("ws = \"ws://h/\"\nbody = \"{}\"", "\"body\" has no effect in a stream");
        target(
            "ws = \"ws://h/\"\nsse = \"http://h/\"",
            "\"ws\" and \"sse\" cannot be used together",
        );
        target("ws = \"http://h/\"", "unsupported scheme");
        target("sse = \"ws://h/\"", "unsupported scheme");
        target(
            "sse = \"http://h/\"\nsubscribe = { method = \"m\" }",
            "\"subscribe\" requires \"ws\"",
        );
        target("sse = \"http://h/\"\ncompression = true", "\"compression\" requires \"ws\"");
        target("ws = \"ws://h/\"\ncompression = 1", "\"compression\"");
        target("ws = \"ws://h/\"\nnumbered = true", "\"numbered\" requires \"sse\"");
        target("ws = \"ws://h/\"\nsubscribe = { params = [] }", "\"subscribe\" needs \"method\"");
        target("ws = \"ws://h/\"\nsubscribe = { method = 5 }", "\"method\" must be a string");
        target(
            "ws = \"ws://h/\"\nsubscribe = { method = \"m\", params = \"newHeads\" }",
            "\"params\" must be a list",
        );
        let requests = |lines: &str, words: &str| {
            check(&format!("rate = 1\nduration = \"1s\"\n[[target]]\n{lines}"), words);
        };
        requests(
            "request = \"GET http://h/\"\ncompression = true",
            "\"compression\" requires \"ws\"",
        );
        requests("sse = \"http://h/\"", "\"sse\" requires a stream with \"sockets\"");
        requests(
            "ws = \"ws://h/\"\nsubscribe = { method = \"m\" }",
            "\"subscribe\" requires a stream with \"sockets\"",
        );
    }
}
