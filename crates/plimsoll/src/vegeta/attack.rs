//! `plimsoll vegeta attack`: an attack is a plan, run as any other, whose results are written in vegeta's
//! encoding.
//!
//! # Layout
//! - `plan`: flags as a plan; `lazy`: targets that are read during the attack
//! - `results`: writes results; `hit`: one of them; `words`: errors as Go words them
//! - `summary`: what is printed on stderr at the end

mod hit;
mod lazy;
mod plan;
mod results;
mod summary;

pub(super) use summary::as_flags;
mod words;

use super::refused;
use crate::interrupt::Interrupts;
use crate::metrics::{self, Page};
use crate::run::{Outputs, Views, default_settings, run_plan};
use crate::{proxy, put, tell};
use anyhow::Context;
use lazy::{Lazy, Reading};
use plimsoll_compat::vegeta::flags::Flags;
use plimsoll_config::{Document, Problems, REDACTED, Variables};
use plimsoll_engine::{Capture, Feed, Settings};
use plimsoll_host::{Facts, Source};
use plimsoll_plan::{Plan, TargetStream, is_redundant_header};
use results::{Common, Output, Writer};
use std::process::ExitCode;
use std::sync::Arc;

/// Descriptors that are not connections.
const OTHER_DESCRIPTORS: u64 = 64;
/// Width of the summary where stderr is not a terminal.
const COLUMNS: usize = 100;

/// Runs an attack. `cpus` is the most worker threads to use; 0: as many as the load needs. With
/// `-print-plan`, only prints the attack as a plan.
pub(super) fn run(flags: &Flags, cpus: i64) -> anyhow::Result<ExitCode> {
    let print_plan = flags.is_on("print-plan");
    plan::refuse_unsupported(flags)?;
    if print_plan && flags.is_on("lazy") {
        let hint = "without -lazy, the plan contains all targets, or names their file";
        return Err(refused("a plan cannot contain targets that are read during the attack", hint));
    }
    let (plan, lazy) = read(flags)?;
    if print_plan {
        let text = plan.to_toml();
        put(&text)?;
        if text.contains(REDACTED) {
            tell(&format!(
                "note: {REDACTED} stands for a secret; write a variable there, such as ${{API_KEY}}"
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let output = Output::open(&flags.path("output"))?;
    announce(&plan, flags);
    let page = match flags.text("prometheus-addr") {
        address if address.is_empty() => None,
        address => {
            let page = Page::default();
            let bound = metrics::serve(&address, page.clone())?;
            tell(&format!("metrics at http://{bound}/metrics"));
            Some(page)
        }
    };
    let body_max = u64::try_from(flags.int("max-body")).unwrap_or(u64::MAX);
    let (capture, captured) = Capture::new(body_max);
    let plan = Arc::new(plan);
    let common = Common {
        plan: plan.clone(),
        attack: flags.text("name"),
        body_max,
        redirects: flags.int("redirects"),
        source: flags.address("laddr"),
    };
    let interrupts = Interrupts::listen()?;
    let (writer, started) = Writer::start(output, captured, common)?;
    let (feed, reading) = feed(&plan, lazy)?;
    let fed = feed.clone();
    // Vegeta starts whatever the host can carry, and counts a name that does not resolve as an error of
    // each request.
    let settings = Settings {
        workers: usize::try_from(cpus).unwrap_or(0),
        force: true,
        capture: Some(capture),
        feed,
        ..default_settings()
    };
    let views = Views { metrics: page, ..Views::default() };
    let outputs = Outputs { run_dir: None, views, announces: false, started: Some(started) };
    let finished = run_plan(&plan, settings, outputs, &interrupts)?;
    let written = writer.finish();
    if written.reader_left {
        return Ok(ExitCode::SUCCESS);
    }
    let columns = terminal_size::terminal_size_of(std::io::stderr());
    let columns = columns.map_or(COLUMNS, |(width, _)| width.0.into());
    let facts = summary::Facts {
        starved: fed.map_or(0, |feed| feed.waited()),
        is_endless: plan::is_endless(flags),
    };
    let text = summary::text(&finished.summary, &written, &facts, columns);
    text.lines().for_each(tell);
    if let Some(error) = written.error {
        return Err(refused(error, ""));
    }
    match reading.and_then(|reading| reading.failure()) {
        Some(problem) => Err(refused(format!("the attack ended early\n{problem}"), "")),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The plan of the flags and, with `-lazy`, the stream of its targets.
fn read(flags: &Flags) -> anyhow::Result<(Plan, Option<(Lazy, TargetStream)>)> {
    let format = flags.text("format");
    if !["http", "json"].contains(&format.as_str()) {
        let message = format!("format {format:?} isn't one of [http, json]");
        return Err(refused(message, ""));
    }
    let folder = std::env::current_dir().context("cannot determine the current directory")?;
    let document = Document::from_named(plan::lines(flags, connections_max(), &folder)?);
    if !flags.is_on("lazy") {
        let plan = Plan::read(&document, &Variables::none(), &folder).map_err(invalid)?;
        return Ok((plan, None));
    }
    let lazy = Lazy::open(&flags.path("targets"), &format)?;
    let (plan, stream) = Plan::read_stream(&document, &folder, &lazy.first).map_err(invalid)?;
    Ok((plan, Some((lazy, stream))))
}

/// Problems as an error, in vegeta's words if there are no targets.
fn invalid(problems: Problems) -> anyhow::Error {
    let text = problems.to_string();
    let lead = if text.contains("contains no requests") { "no targets to attack\n" } else { "" };
    refused(format!("{lead}{text}"), "")
}

/// How many connections this host can carry to one destination.
fn connections_max() -> u64 {
    let descriptors = plimsoll_host::raise_descriptor_limit().saturating_sub(OTHER_DESCRIPTORS);
    let facts = Facts::read(&Source::host());
    let ports = facts.ports.map_or(u64::MAX, |ports| ports.count());
    descriptors.min(ports).clamp(1, 10_000_000)
}

/// What the user should know before the attack.
fn announce(plan: &Plan, flags: &Flags) {
    proxy::note(&plan.origins()).iter().for_each(|note| tell(note));
    let is_secure = plan.requests.iter().any(|spec| spec.url.scheme.is_secure());
    if is_secure && flags.is_given("http2") && flags.is_on("http2") {
        tell("note: -http2: requests are sent over HTTP/1.1");
    }
    if flags.duration("timeout").0 == 0 {
        tell(&format!(
            "note: -timeout=0: requests time out after {}, the longest timeout",
            plan.timeout
        ));
    }
    for (name, value) in flags.headers("header") {
        if is_redundant_header(&name, &value) {
            tell(&format!("note: -header {name:?} is not sent: the engine sets it itself"));
        }
    }
    if plan::is_endless(flags) {
        tell("attacking until stopped; press Ctrl-C to stop");
    }
}

/// Starts to read the targets of a stream.
fn feed(
    plan: &Plan,
    lazy: Option<(Lazy, TargetStream)>,
) -> anyhow::Result<(Option<Feed>, Option<Reading>)> {
    let Some((lazy, stream)) = lazy else { return Ok((None, None)) };
    let (feed, feeder) = Feed::new(plan);
    let reading = lazy.read(stream, feeder)?;
    Ok((Some(feed), Some(reading)))
}
