//! The table of planted faults: a row per fault, with the verdict that it must get.
//!
//! An expectation is what an engineer who knows the fault would want to read, whatever the rules say.

use crate::planted::host::Plant;
use crate::planted::judge::Expected;
use crate::planted::targets::{
    Target, chain, closes, one_in_five, slows_down_by, status, truncates,
};
use crate::run::{RPC, RPC_RESULT};
use crate::server::{After, Received, Reply};
use flate2::{Compression, write::GzEncoder};
use plimsoll_measure::Nanos;
use plimsoll_sim::{Capacity, Distribution, Fault, FaultKind, LinkFault, LinkFaultKind};
use plimsoll_sim::{Settings, Window};
use std::io::Write;
use std::sync::LazyLock;
use std::time::Duration;

/// A planted fault.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The target, and what goes wrong there.
    pub(crate) target: Target,
    /// What goes wrong on the generator's host.
    pub(crate) host: Vec<Plant>,
    /// The plan without its targets.
    pub(crate) load: String,
    /// Targets in addition to the started ones, as URLs.
    pub(crate) others: Vec<&'static str>,
    pub(crate) flags: Vec<&'static str>,
    /// Whether the outcome depends on the machine's timing: the fault is then planted by
    /// `bench/run verdict`, and its recording is replayed by `cargo test`.
    pub(crate) timing: bool,
    /// How often it is planted.
    pub(crate) runs: usize,
    pub(crate) expected: Expected,
}

impl Row {
    /// A fault whose outcome does not depend on timing.
    fn new(name: &'static str, target: Target, load: &str, expected: Expected) -> Row {
        Row {
            name,
            target,
            host: Vec::new(),
            load: load.into(),
            others: Vec::new(),
            flags: Vec::new(),
            timing: false,
            runs: 1,
            expected,
        }
    }

    fn timed(name: &'static str, target: Target, load: &str, expected: Expected) -> Row {
        Row { timing: true, ..Row::new(name, target, load, expected) }
    }

    fn on(self, host: impl Into<Vec<Plant>>) -> Row {
        Row { host: host.into(), ..self }
    }

    fn flags(self, flags: &[&'static str]) -> Row {
        Row { flags: flags.into(), ..self }
    }

    fn and(self, url: &'static str) -> Row {
        Row { others: vec![url], ..self }
    }

    /// The plan for targets at these URLs.
    pub(crate) fn plan(&self, urls: &[String]) -> String {
        let urls = urls.iter().map(String::as_str).chain(self.others.iter().copied());
        let targets = |within: &str| -> String {
            let target = |url: &str| {
                format!("[[{within}target]]\nrequest = \"POST {url}\"\nbody = '{RPC}'\n")
            };
            urls.clone().map(target).collect()
        };
        if self.load.contains("[[stream]]") {
            let targets = targets("stream.");
            self.load.replace("TARGETS\n", &targets)
        } else {
            format!("{}\n{}", self.load, targets(""))
        }
    }
}

/// The whole table.
pub(crate) fn rows() -> Vec<Row> {
    [limits(), host(), connections(), targets(), network(), pairs(), clean()]
        .into_iter()
        .flatten()
        .collect()
}

/// An address that only a namespace has.
const ELSEWHERE: &str = "10.9.9.9";
const ELSEWHERE_URL: &str = "http://10.9.9.9:8545/eth";
/// Three of a hundred packets are lost.
const LOSS: Plant = Plant::Drop("meta l4proto tcp numgen random mod 100 < 3");
const UNANSWERED: Plant = Plant::Drop("ip daddr 10.9.9.9");
const STOP: Plant =
    Plant::Stop { after: Duration::from_millis(1500), length: Duration::from_secs(1) };
const PULSES: Plant =
    Plant::Pulses { every: Duration::from_millis(100), length: Duration::from_millis(40) };

/// Enough to leave the generator less of its CPU than the rate needs.
const NEIGHBOURS: Plant = Plant::Neighbours(16);

/// Too little CPU time for the planned rate.
fn quota(version: u32) -> Plant {
    Plant::Quota { version, percent: 3 }
}

fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

/// A healthy chain.
fn healthy() -> Target {
    Target::Chains(vec![chain([])])
}

/// A chain with this latency.
fn slow(latency: u64, faults: impl Into<Vec<Fault>>) -> Settings {
    Settings { latency: Some(Distribution::Constant(ms(latency))), ..chain(faults) }
}

fn faulty(faults: impl Into<Vec<Fault>>) -> Target {
    Target::Chains(vec![chain(faults)])
}

/// A node that answers 50 calls per second.
fn narrow() -> Target {
    let service = Distribution::Constant(ms(20));
    let capacity = Some(Capacity { servers: 1, service, queue_max: None });
    Target::Chains(vec![Settings { capacity, ..chain([]) }])
}

/// An answer that takes the generator far longer to decompress and check than the server to send.
fn packed(_: usize, _: &Received) -> Reply {
    static ANSWER: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let body = RPC_RESULT.replace("0x10d4f", &"0".repeat(4 << 20));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(body.as_bytes()).unwrap();
        let body = gzip.finish().unwrap();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.into_bytes(), body].concat()
    });
    Reply::raw(ANSWER.clone(), After::Keep)
}

/// Connections are refused during 400 ms of each second.
fn refusing() -> Target {
    let window = Window { at: ms(300), length: Some(ms(400)), every: Some(ms(1000)) };
    Target::Link(vec![LinkFault { window, ..LinkFault::new(LinkFaultKind::Refuse) }])
}

/// All answers are held for 600 ms.
fn stalls() -> Fault {
    Fault::new(FaultKind::Stall).during(ms(600), ms(600))
}

fn rpc_errors() -> Fault {
    one_in_five(FaultKind::Error { code: -32000, message: "header not found".into() })
}

fn truncated() -> Fault {
    one_in_five(FaultKind::Truncate { after: None })
}

/// Ports and descriptors.
fn limits() -> Vec<Row> {
    let closing = || Target::Scripted(|_, _| closes(RPC_RESULT, 200));
    let users = "users = 100\nduration = \"1500ms\"\ntimeout = \"5s\"";
    vec![
        Row::new(
            "100 ports, each connection closed",
            closing(),
            "rate = \"200/s\"\nduration = \"1500ms\"\ntimeout = \"5s\"",
            Expected::invalid("ports_exhausted").fix("ip_local_port_range"),
        )
        .on([Plant::Ports(100)]),
        Row::new(
            "64 descriptors for 100 users",
            healthy(),
            users,
            Expected::refused(98, &["needed in any case", "64 allowed", "fix: ", "--force"]),
        )
        .on([Plant::Descriptors(64)]),
        Row::new(
            "64 descriptors for 100 users, forced",
            Target::Chains(vec![slow(300, [])]),
            users,
            Expected::invalid("fds_exhausted")
                .must(&["forced"])
                .may(&["cpu_saturated"])
                .fix("ulimit"),
        )
        .on([Plant::Descriptors(64)])
        .flags(&["--force"]),
        Row::new(
            "64 descriptors for 120 connections",
            Target::Chains(vec![slow(300, [])]),
            "rate = \"400/s\"\nduration = \"1s\"\ntimeout = \"5s\"",
            Expected::invalid("fds_exhausted").fix("ulimit"),
        )
        .on([Plant::Descriptors(64)]),
    ]
}

/// CPU time and pauses.
fn host() -> Vec<Row> {
    let steady = "rate = \"1000/s\"\nduration = \"4s\"\ntimeout = \"10s\"";
    let busy = "rate = \"4000/s\"\nduration = \"4s\"\ntimeout = \"10s\"";
    let users = "users = 128\nthink_time = \"20ms\"\nduration = \"4s\"\ntimeout = \"10s\"";
    let contended = || Expected::invalid("cpu_contended").fix("CPU");
    let throttled = || Expected::invalid("cpu_throttled").fix("control group");
    // Answers that arrive while the worker does not run.
    let waiting = || Target::Chains(vec![slow(20, [])]);
    vec![
        Row::timed("busy neighbours", healthy(), busy, contended()).on([NEIGHBOURS]),
        Row::timed("starved while reading", waiting(), users, contended().or("read_late"))
            .on([Plant::Idle, Plant::Neighbours(1)]),
        Row::timed(
            "stopped again and again while reading",
            waiting(),
            users,
            Expected::invalid("read_late").or("host_noise").or("cpu_contended"),
        )
        .on([PULSES]),
        Row::timed("CPU quota", healthy(), steady, throttled()).on([quota(1)]),
        Row::timed("CPU quota, cgroup v2", healthy(), steady, throttled()).on([quota(2)]),
        Row::timed(
            "stopped for a second",
            healthy(),
            steady,
            Expected::invalid("host_noise").or("lag_high"),
        )
        .on([STOP]),
        Row::timed(
            "rate too high for a worker",
            Target::Scripted(packed),
            "rate = \"2000/s\"\nduration = \"3s\"\ntimeout = \"10s\"",
            Expected::invalid("cpu_saturated").fix("rate"),
        )
        .flags(&["--workers", "1"]),
    ]
}

/// Connection limits: too low from the start, and sufficient until the target slows down.
fn connections() -> Vec<Row> {
    let steady = |rate: u64, timeout: &str| {
        format!(
            "rate = \"{rate}/s\"\nduration = \"4s\"\ntimeout = \"{timeout}\"\nconnections = {{ max = 4 }}"
        )
    };
    let burst = |rate: u64, burst: u64| {
        format!(
            "timeout = \"10s\"\nconnections = {{ max = 4 }}\n\
             [[stream]]\nname = \"steady\"\nrate = \"{rate}/s\"\nduration = \"4s\"\nTARGETS\n\
             [[stream]]\nname = \"burst\"\nstart = \"1700ms\"\nrate = \"{burst}/s\"\nduration = \"1s\"\nTARGETS\n"
        )
    };
    // Four connections carry 80/s at 50 ms; 200/s at 20 ms, 8/s at 520 ms.
    let low = || Target::Chains(vec![slow(50, [])]);
    let slower = || Target::Chains(vec![slow(20, [slows_down_by(ms(500))])]);
    let capped = || Expected::invalid("connections_capped").fix("connections.max");
    let saturated = || Expected::target("target_saturated").may(&["target_stalled"]).fix("rate");
    vec![
        Row::timed("limit too low, short timeout", low(), &steady(200, "300ms"), capped()),
        Row::timed("limit too low, long timeout", low(), &steady(200, "60s"), capped()),
        Row::timed("limit too low in bursts", low(), &burst(30, 300), capped()),
        Row::timed(
            "limit too low, two hosts",
            Target::Chains(vec![slow(50, []), slow(50, [])]),
            &steady(400, "60s"),
            capped(),
        ),
        Row::timed("slowed down, short timeout", slower(), &steady(60, "300ms"), saturated()),
        Row::timed("slowed down, long timeout", slower(), &steady(60, "60s"), saturated()),
        Row::timed("slowed down in a burst", slower(), &burst(30, 60), saturated()),
        Row::timed(
            "slowed down, one of two hosts",
            Target::Chains(vec![slow(20, [slows_down_by(ms(500))]), slow(20, [])]),
            &steady(120, "60s"),
            saturated(),
        ),
    ]
}

/// Faults of the target.
fn targets() -> Vec<Row> {
    let load = "rate = \"200/s\"\nduration = \"1500ms\"\ntimeout = \"5s\"";
    let anew = format!("{load}\nconnections = {{ reuse = false }}");
    let gone = Target::Link(vec![LinkFault::new(LinkFaultKind::Refuse)]);
    let backlog = |reply| Target::SlowToAccept(Duration::from_millis(50), reply);
    vec![
        Row::new(
            "small accept backlog",
            backlog(|_, _| closes(RPC_RESULT, 200)),
            "rate = \"100/s\"\nduration = \"2s\"\ntimeout = \"2500ms\"",
            Expected::target("accept_backlog")
                .may(&["unreachable", "target_stalled", "target_saturated"])
                .fix("somaxconn"),
        ),
        // A listener that closes resets the connections in its accept queue.
        Row::new(
            "refusing",
            refusing(),
            &anew,
            Expected::target("target_refused").may(&["target_reset"]).fix("listens"),
        ),
        Row::new(
            "refusing all the time",
            gone,
            load,
            Expected::target("nothing_ok").must(&["target_refused"]).fix("listens").code(99),
        ),
        Row::new(
            "resetting in an answer",
            faulty([one_in_five(FaultKind::Reset { after: 10 })]),
            load,
            Expected::target("target_reset").fix("crashes"),
        ),
        Row::new(
            "resetting before an answer",
            faulty([one_in_five(FaultKind::Reset { after: 0 })]),
            load,
            Expected::target("target_reset").fix("crashes"),
        ),
        Row::new(
            "stalling",
            faulty([stalls()]),
            "rate = \"200/s\"\nduration = \"1500ms\"\ntimeout = \"200ms\"",
            Expected::target("target_stalled").fix("timeout"),
        ),
        Row::timed(
            "slower than the rate",
            narrow(),
            "rate = \"100/s\"\nduration = \"4s\"\ntimeout = \"20s\"\nconnections = { max = 64 }",
            Expected::target("target_saturated").fix("rate"),
        ),
        Row::new(
            "JSON-RPC errors in 200s",
            faulty([rpc_errors()]),
            load,
            Expected::target("target_rpc_errors").fix("codes"),
        ),
        Row::new(
            "429s",
            faulty([one_in_five(status(429))]),
            load,
            Expected::target("target_rate_limited").fix("rate"),
        ),
        Row::new(
            "503s",
            faulty([one_in_five(status(503))]),
            load,
            Expected::target("target_errors").fix("--trace"),
        ),
        Row::new(
            "truncated bodies",
            faulty([truncated()]),
            load,
            Expected::target("target_truncated"),
        ),
    ]
}

/// Faults between generator and target.
fn network() -> Vec<Row> {
    let load = "rate = \"200/s\"\nduration = \"1500ms\"\ntimeout = \"600ms\"";
    let long = "rate = \"500/s\"\nduration = \"4s\"\ntimeout = \"10s\"";
    let delay = LinkFaultKind::Delay { by: ms(200), jitter: Nanos::ZERO };
    vec![
        Row::new(
            "address without an answer",
            healthy(),
            load,
            Expected::network("unreachable").fix("firewall"),
        )
        .and(ELSEWHERE_URL)
        .on([Plant::Address(ELSEWHERE), UNANSWERED]),
        Row::new(
            "host name that does not resolve",
            healthy(),
            load,
            Expected::network("dns_failed").must(&["forced"]).fix("resolver"),
        )
        .and("http://nowhere.invalid/eth")
        .flags(&["--force"]),
        Row::timed(
            "200 ms of delay",
            Target::Link(vec![LinkFault::new(delay)]),
            long,
            Expected::clean().latency_min(ms(400)),
        ),
        Row::timed("3 % packet loss", healthy(), long, Expected::network("packet_loss")).on([LOSS]),
    ]
}

/// Two faults at a time: which one spoiled the run, and that the other is not concealed.
fn pairs() -> Vec<Row> {
    let steady = "rate = \"1000/s\"\nduration = \"4s\"\ntimeout = \"10s\"";
    let capped =
        "rate = \"200/s\"\nduration = \"4s\"\ntimeout = \"10s\"\nconnections = { max = 4 }";
    vec![
        Row::new(
            "100 ports + 503s",
            Target::Scripted(|number, _| {
                closes(RPC_RESULT, if number % 3 == 0 { 503 } else { 200 })
            }),
            "rate = \"200/s\"\nduration = \"1500ms\"\ntimeout = \"5s\"",
            Expected::invalid("ports_exhausted").must(&["target_errors"]).sick(),
        )
        .on([Plant::Ports(100)]),
        Row::timed(
            "CPU quota + slow target",
            Target::Chains(vec![slow(50, [slows_down_by(ms(500))])]),
            steady,
            Expected::invalid("cpu_throttled").may(&["target_saturated"]).sick(),
        )
        .on([quota(1)]),
        Row::timed(
            "busy neighbours + refusing",
            refusing(),
            &format!("{}\nconnections = {{ reuse = false }}", steady.replace("1000", "4000")),
            Expected::invalid("cpu_contended").must(&["target_refused"]).sick(),
        )
        .on([NEIGHBOURS]),
        Row::new(
            "64 descriptors + stalling",
            faulty([stalls()]),
            "rate = \"400/s\"\nduration = \"1500ms\"\ntimeout = \"400ms\"",
            Expected::invalid("fds_exhausted").must(&["target_stalled"]).sick(),
        )
        .on([Plant::Descriptors(64)]),
        Row::timed(
            "limit too low + JSON-RPC errors",
            Target::Chains(vec![slow(50, [rpc_errors()])]),
            capped,
            Expected::invalid("connections_capped").must(&["target_rpc_errors"]).sick(),
        ),
        Row::timed(
            "3 % packet loss + 429s",
            faulty([one_in_five(status(429))]),
            "rate = \"500/s\"\nduration = \"4s\"\ntimeout = \"10s\"",
            Expected::target("target_rate_limited").must(&["packet_loss"]),
        )
        .on([LOSS]),
        Row::timed(
            "stopped for a second + slowed down",
            Target::Chains(vec![slow(20, [slows_down_by(ms(500))])]),
            "rate = \"60/s\"\nduration = \"5s\"\ntimeout = \"10s\"\nconnections = { max = 4 }",
            Expected::invalid("host_noise").or("lag_high").may(&["target_saturated"]).sick(),
        )
        .on([STOP]),
        Row::new(
            "small accept backlog + truncated bodies",
            Target::SlowToAccept(Duration::from_millis(50), |number, _| match number % 2 {
                0 => closes(RPC_RESULT, 200),
                _ => truncates(RPC_RESULT),
            }),
            "rate = \"100/s\"\nduration = \"2s\"\ntimeout = \"2500ms\"",
            Expected::target("accept_backlog")
                .or("target_truncated")
                .must(&["accept_backlog", "target_truncated"])
                .may(&["unreachable", "target_stalled", "target_saturated"]),
        ),
    ]
}

/// No fault at all, twenty times.
fn clean() -> Vec<Row> {
    let load = "rate = \"500/s\"\nduration = \"2s\"\ntimeout = \"5s\"";
    vec![Row { runs: 20, ..Row::timed("no fault", healthy(), load, Expected::clean()) }]
}
