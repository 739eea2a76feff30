//! Describes a plan as text.

use crate::stream::{Arrivals, End, Load, Sockets, Stream};
use crate::{Body, Expect, Plan, RequestSpec, RpcExpect, Stage, Standing, Target, TimeoutFrom};
use crate::{Http2Rules, LogSource, Protocol, ScrapeSource, WebSocketRules};
use plimsoll_config::values::{show_duration, show_rate};
use plimsoll_config::{REDACTED, nearest};
use plimsoll_measure::Nanos;
use plimsoll_measure::units::{counted, grouped};
use std::collections::BTreeSet;
use std::fmt::Write;

impl Plan {
    /// Describes the load, the targets and the objectives for a human reader.
    pub fn describe(&self) -> String {
        let mut out = format!("{}:", self.name);
        let requests = self.planned_requests().map(|n| format!(" {}", counted(n, "request")));
        let only_sockets = self.streams.iter().all(|stream| stream.sockets.is_some());
        let users = if only_sockets { "" } else { " as many requests as the users send" };
        out += requests.as_deref().unwrap_or(users);
        if let Some(end) = self.planned_end() {
            write!(out, " in {}", exact(end - self.warmup)).expect("writing to memory");
        }
        if self.warmup > Nanos::ZERO {
            write!(out, ", after {} of warm-up", exact(self.warmup)).expect("writing to memory");
        }
        out.push('\n');
        for stream in &self.streams {
            self.describe_stream(stream, &mut out);
        }
        for objective in &self.objectives {
            let narrowed: String = objective
                .narrowed
                .iter()
                .map(|(tag, value)| format!(" where {tag} = {value}"))
                .collect();
            let abort = objective
                .abort_after
                .map(|after| format!(", stops the run if missed after {}", exact(after)));
            let abort = abort.unwrap_or_default();
            writeln!(out, "  passes when {}{narrowed}{abort}", objective.that)
                .expect("writing to memory");
        }
        for scrape in &self.scrapes {
            let (name, source) = (&scrape.name, &scrape.source);
            let verb =
                if matches!(source, ScrapeSource::Url { .. }) { "scrapes" } else { "observes" };
            writeln!(out, "  {verb} {source} every second as {name}").expect("writing to memory");
        }
        for log in &self.logs {
            let (name, source) = (&log.name, &log.source);
            let verb =
                if matches!(source, LogSource::File(_)) { "follows" } else { "runs and follows" };
            let patterns: Vec<&str> = log.patterns.iter().map(|own| own.text.as_str()).collect();
            let patterns = patterns.join(", ");
            writeln!(out, "  {verb} {source} as {name}, counting lines that match {patterns}")
                .expect("writing to memory");
        }
        let max = match self.protocol {
            _ if only_sockets => "as many connections as sockets".into(),
            _ if self.requests.iter().all(|own| own.url.scheme.is_websocket()) => {
                self.describe_websocket()
            }
            Protocol::Http2 => self.describe_http2(),
            _ => counted(self.connections.max, "connection"),
        };
        let reuse = if self.connections.reuse { "reused" } else { "one for each request" };
        let instead = match self.protocol {
            Protocol::Auto if self.may_use_http2() => {
                format!(", or {} where the server chooses it", self.describe_http2())
            }
            _ => String::new(),
        };
        writeln!(
            out,
            "  at most {max} per host and port{instead}, {reuse}; requests time out {} after {}",
            exact(self.timeout),
            match self.timeout_from {
                TimeoutFrom::Schedule => "the planned instant",
                TimeoutFrom::Start => "they start",
            }
        )
        .expect("writing to memory");
        if let Some(max) = self.max_in_flight {
            let requests = counted(max, "request");
            writeln!(out, "  at most {requests} in flight; others start when one of them ends")
                .expect("writing to memory");
        }
        if self.connections.retry_stale {
            writeln!(
                out,
                "  a request on a connection that turns out to be closed is sent once more"
            )
            .expect("writing to memory");
        }
        out
    }

    fn describe_http2(&self) -> String {
        let Http2Rules { connections, streams } = self.connections.http2;
        let connections = counted(connections, "HTTP/2 connection");
        format!("{connections} of {}", counted(streams, "stream"))
    }

    fn describe_websocket(&self) -> String {
        let WebSocketRules { connections, calls } = self.connections.websocket;
        let connections = counted(connections, "WebSocket connection");
        format!("{connections} of {}", counted(calls, "call"))
    }

    /// What is probably not as intended, but not an error: unknown HTTP methods, each with its first
    /// target, and requests of a resolved plan whose secrets were left out of it.
    pub fn warnings(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut warnings = Vec::new();
        for target in &self.targets {
            for spec in &self.requests[target.requests.clone()] {
                let is_known =
                    METHODS.contains(&spec.method.as_str()) || spec.url.scheme.is_websocket();
                if !is_known && seen.insert(spec.method.as_str()) {
                    warnings.push(format!("{}: {}", target.name, unknown_method(&spec.method)));
                }
            }
        }
        for log in &self.logs {
            for pattern in log.patterns.iter().filter(|own| own.matches_everything()) {
                let (name, text) = (&log.name, &pattern.text);
                warnings.push(format!("{name}: the pattern \"{text}\" matches every line"));
            }
        }
        let incomplete = |target: &&Target| {
            self.requests[target.requests.clone()].iter().any(RequestSpec::sends_redacted)
        };
        if let Some(target) = self.targets.iter().find(incomplete) {
            warnings.push(format!(
                "{}: \"{REDACTED}\" is sent in place of a secret that resolved plans leave out; write a \
                 variable there, such as ${{API_KEY}}",
                target.name
            ));
        }
        warnings
    }

    /// A short description of the load: `5000/s for 33m`, or the totals of several streams.
    pub fn load_in_words(&self) -> String {
        match self.streams.as_slice() {
            [only] if only.stages.is_empty() => {
                let value = show_value(only, Nanos::ZERO);
                match only.end {
                    End::After(span) => format!("{value} for {}", exact(span)),
                    End::Requests(n) => format!("{value} until {}", counted(n, "request")),
                }
            }
            streams => {
                let kinds = match streams {
                    [only] => counted(only.stages.len() as u64, "stage"),
                    _ => counted(streams.len() as u64, "stream"),
                };
                let span =
                    self.planned_end().map(|end| format!(" over {}", exact(end - self.warmup)));
                let requests =
                    self.planned_requests().map(|n| format!(", {}", counted(n, "request")));
                format!("{kinds}{}{}", span.unwrap_or_default(), requests.unwrap_or_default())
            }
        }
    }

    fn describe_stream(&self, stream: &Stream, out: &mut String) {
        let mut line = |text: String| writeln!(out, "{text}").expect("writing to memory");
        let name =
            if self.streams.len() > 1 { format!("{}: ", stream.name) } else { String::new() };
        let from = match stream.start {
            Nanos::ZERO => String::new(),
            start => format!("starting at {}, ", exact(start)),
        };
        let how = match &stream.load {
            _ if let Some(sockets) = &stream.sockets => {
                describe_sockets(sockets, self.sends_pings(stream))
            }
            Load::Open { arrivals: Arrivals::Constant, .. } => "evenly spaced".into(),
            Load::Open { arrivals: Arrivals::Poisson, .. } => "Poisson arrivals".into(),
            Load::Closed { think_time: Nanos::ZERO, .. } => "each without think time".into(),
            Load::Closed { think_time, .. } => {
                format!("each with {} think time after an answer", exact(*think_time))
            }
        };
        if stream.stages.is_empty() {
            let value = show_value(stream, Nanos::ZERO);
            let end = match stream.end {
                End::After(span) => format!("for {}", exact(span)),
                End::Requests(n) => format!("until {}", counted(n, "request")),
            };
            line(format!("  {name}{from}{value} {end}, {how}"));
        } else {
            line(format!("  {name}{from}{how}:"));
            let mut at = Nanos::ZERO;
            for stage in &stream.stages {
                let value = stream.show(stage.value);
                if stage.over > Nanos::ZERO {
                    line(format!("    {:>8}  to {value} over {}", exact(at), exact(stage.over)));
                    at += stage.over;
                }
                if stage.hold > Nanos::ZERO {
                    line(format!("    {:>8}  {value} for {}", exact(at), exact(stage.hold)));
                    at += stage.hold;
                }
            }
        }
        if let Some(header) = &stream.split_by {
            line(format!("    counts answers by their header {header}"));
        }
        let targets = &self.targets[stream.targets.clone()];
        let weights: f64 = targets.iter().map(|target| f64::from(target.weight)).sum();
        for target in targets.iter().take(TARGETS_SHOWN) {
            let requests = &self.requests[target.requests.clone()];
            line(describe_target(target, requests, f64::from(target.weight) / weights));
        }
        if targets.len() > TARGETS_SHOWN {
            line(format!(
                "    … and {}",
                counted((targets.len() - TARGETS_SHOWN) as u64, "more target")
            ));
        }
    }
}

const TARGETS_SHOWN: usize = 20;

/// HTTP methods in use: RFC 9110, PATCH, QUERY, WebDAV and its extensions, UPnP, and caches.
const METHODS: [&str; 36] = [
    "ACL",
    "BIND",
    "BASELINE-CONTROL",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "M-SEARCH",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKWORKSPACE",
    "MOVE",
    "NOTIFY",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "QUERY",
    "REPORT",
    "SEARCH",
    "SUBSCRIBE",
    "TRACE",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
    "UPDATE",
];

fn unknown_method(method: &str) -> String {
    let capitals = method.to_ascii_uppercase();
    let hint = if METHODS.contains(&capitals.as_str()) {
        format!("; methods are case-sensitive: write \"{capitals}\"")
    } else if let Some(near) = nearest(&capitals, METHODS) {
        format!("; did you mean \"{near}\"?")
    } else {
        String::new()
    };
    format!("\"{method}\" is not a known HTTP method and is sent as it is{hint}")
}

/// A stream's rate or number of users at an instant after its start.
fn show_value(stream: &Stream, at: Nanos) -> String {
    let (Load::Open { profile, .. } | Load::Closed { profile, .. }) = &stream.load;
    let value = if stream.sockets.is_some() { profile.max() } else { profile.value(at) };
    stream.show(value)
}

fn describe_sockets(sockets: &Sockets, sends_pings: bool) -> String {
    let Sockets { per_second, ping, silence } = sockets;
    let ping = match *ping {
        _ if !sends_pings => String::new(),
        Nanos::ZERO => " and never pinged".into(),
        ping => format!(" and pinged every {}", exact(ping)),
    };
    let silence = silence.map(|span| format!(", silent after {}", exact(span)));
    format!("opened at {}{ping}{}", grouped_rate(*per_second), silence.unwrap_or_default())
}

impl Stream {
    /// A value of its load as text: `5,000/s`, `20 users`.
    fn show(&self, value: f64) -> String {
        match self.load {
            Load::Open { .. } => grouped_rate(value),
            Load::Closed { .. } if self.sockets.is_some() => {
                counted(value.round() as u64, "socket")
            }
            Load::Closed { .. } => users(value),
        }
    }

    /// One of its stages in a few words: `3,500/s for 10s`, `ramp to 5,000/s over 10s`.
    pub fn stage_in_words(&self, stage: &Stage) -> String {
        let value = self.show(stage.value);
        match (exact(stage.over), exact(stage.hold)) {
            (_, hold) if stage.over == Nanos::ZERO => format!("{value} for {hold}"),
            (over, _) if stage.hold == Nanos::ZERO => format!("ramp to {value} over {over}"),
            (over, hold) => format!("{value} over {over}, then {hold}"),
        }
    }
}

fn users(n: f64) -> String {
    counted(n.round() as u64, "user")
}

/// A rate with commas between thousands: `5,000/s`.
fn grouped_rate(per_second: f64) -> String {
    let shown = show_rate(per_second);
    let (digits, rest) = shown.split_at(shown.find(['.', '/']).unwrap_or(shown.len()));
    digits.parse().map_or_else(|_| shown.clone(), |n| grouped(n) + rest)
}

fn exact(span: Nanos) -> String {
    show_duration(span.into())
}

fn describe_target(target: &Target, requests: &[RequestSpec], share: f64) -> String {
    let percent = format!("{:.1}", share * 100.0);
    let percent = percent.strip_suffix(".0").unwrap_or(&percent);
    let first = &requests[0];
    let body = match &first.body {
        Body::Empty => "",
        _ => " with a body",
    };
    let others = match requests.len() - 1 {
        0 => String::new(),
        others => format!(" and {} more in turn", grouped(others as u64)),
    };
    let expects = if requests.iter().all(|spec| spec.expect == first.expect) {
        format!(", expects {}", describe_expect(&first.expect))
    } else {
        ", each with its own expectation".into()
    };
    let (name, method) = (&target.name, &first.method);
    let compression = if first.compression { " with compression" } else { "" };
    let url = format!("{}{compression}", first.url_shown);
    if let Some(standing) = &first.standing {
        let what = match standing {
            Standing::Socket => format!("WebSocket {url}, idle"),
            Standing::Subscription { shown, .. } => {
                format!("WebSocket {url}, subscribes with {shown}")
            }
            Standing::Events { numbered: true } => format!("event stream {url}, numbered"),
            Standing::Events { numbered: false } => format!("event stream {url}"),
        };
        return format!("    {percent:>5} %  {name}: {what}");
    }
    format!("    {percent:>5} %  {name}: {method} {url}{body}{others}{expects}")
}

fn describe_expect(expect: &Expect) -> String {
    let statuses: Vec<_> = expect
        .status
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (100, 999) => "any status".to_string(),
            (from, to) if from == to => format!("status {from}"),
            (from, to) => format!("status {from}-{to}"),
        })
        .collect();
    let mut text = statuses.join(" or ");
    text += match expect.rpc {
        RpcExpect::Off => "",
        RpcExpect::Result => " and a JSON-RPC result",
        RpcExpect::Error => " and a JSON-RPC error",
        RpcExpect::Any => " and a JSON-RPC answer",
    };
    if let Some(contains) = &expect.contains {
        text += &format!(" and \"{contains}\" in the body");
    }
    text
}
