//! `plimsoll run`: runs a plan and prints the report.

use crate::host_check;
use crate::host_file::HostFile;
use crate::interrupt::Interrupts;
use crate::metrics::{self, Page};
use crate::plan_source::{InlineArgs, SetArgs, SourceArgs, read_source};
use crate::proxy;
use crate::recording::Recording;
use crate::run_dir::RunDir;
use crate::scrape::Scraper;
use crate::trace::trace_text;
use crate::{put, stdout_columns, tell, usage_error};
use plimsoll_engine::{
    Control, Prepared, Recorded, Running, Second, Settings, Spin, descriptors_needed,
};
use plimsoll_host::{Facts, SampledRun, Sampler, Source};
use plimsoll_measure::units::counted;
use plimsoll_measure::{Nanos, Snapshot, SplitValue, WallClock};
use plimsoll_plan::{Plan, SEED_MAX, Secrets, Shards};
use plimsoll_report::{Fold, Part, Summary, clean, exposition, progress};
use std::hash::{BuildHasher, RandomState};
use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

const EXAMPLES: &str = "Examples:
  plimsoll run http://localhost:3069/health --rate 500 --duration 30s
  plimsoll run plan.toml --set GATEWAY=http://localhost:3069
  plimsoll run localhost:3069/v1 -H 'Target-Service-Id: eth' --users 50 \\
      -b '{\"jsonrpc\":\"2.0\",\"method\":\"eth_chainId\",\"params\":[],\"id\":{{seq}}}'

Latency is measured from the instant a request was due, so it includes time spent waiting behind a \
stalled target. If the run is invalid, the report says so first.";

/// Delay between the end of the preparation and the start of the clock, so that all workers are awake.
const LEAD: Duration = Duration::from_millis(20);

/// Flags of `plimsoll run`.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true, after_help = EXAMPLES, override_usage = "plimsoll run [OPTIONS] <PLAN|URL>")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    set: SetArgs,
    /// Write results to this new directory [default: runs/START-NAME]
    #[arg(long, value_name = "DIR", conflicts_with = "no_out")]
    out: Option<PathBuf>,
    /// Print the report only; write no results
    #[arg(long)]
    no_out: bool,
    /// Requests to record one by one, for samples.parquet in the results
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Record::All)]
    record: Record,
    /// Format of the report on stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Colour the report and the progress line; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    color: Color,
    /// Seed of all random choices and {{uuid}}; the same seed sends the same requests again
    /// [default: the plan's; without one, a new seed for each run, which the report prints]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=SEED_MAX))]
    seed: Option<u64>,
    /// Worker threads; 0 = as many as the load needs, at most one per CPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    /// Busy-wait instead of sleeping: least lag; needs a free core per worker
    #[arg(long, conflicts_with = "no_spin")]
    spin: bool,
    /// Always sleep until the next request is due: least CPU, more lag
    #[arg(long)]
    no_spin: bool,
    /// Start even if this host cannot sustain the plan's load or a host name does not resolve
    #[arg(long)]
    force: bool,
    /// Print N complete exchanges to stderr, without secrets; of a body at most 4 KiB
    #[arg(long, value_name = "N", default_value_t = 0)]
    trace: u32,
    /// Serve live metrics for Prometheus at http://ADDR/metrics
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    /// Accept any TLS certificate; connections are kept alive without a flag (ab's -k)
    #[arg(long, short = 'k', alias = "insecure-skip-tls-verify")]
    insecure: bool,
    #[command(flatten)]
    inline: InlineArgs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// The report as text
    Text,
    /// summary.json
    Json,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Record {
    /// Every request
    All,
    /// Those that were not answered as expected
    Errors,
    /// None; the report does not need them
    None,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    /// Applies to everything this process prints.
    pub(crate) fn apply(self) {
        match self {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// Runs a plan, prints its report and returns the exit code.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    args.color.apply();
    let mut plan = read_source(&args.source, &args.inline, &args.set)?;
    plan.warnings().iter().for_each(|warning| tell(&format!("warning: {warning}")));
    proxy::note(&plan.origins()).iter().for_each(|note| tell(note));
    plan.tls.insecure |= args.insecure;
    if let Some(seed) = args.seed.or_else(|| (!plan.has_seed).then(fresh_seed)) {
        plan.reseed(seed);
    }
    host_check::fit_connections(&mut plan, &Facts::read(&Source::host()))
        .iter()
        .for_each(|note| tell(note));
    let page = Page::default();
    if let Some(address) = &args.metrics {
        let bound = metrics::serve(address, page.clone())?;
        tell(&format!("metrics at http://{bound}/metrics"));
    }
    let mut run_dir =
        if args.no_out { None } else { Some(RunDir::create(args.out.as_deref(), &plan)?) };
    let recorded = match args.record {
        Record::All => Some(Recorded::All),
        Record::Errors => Some(Recorded::Errors),
        Record::None => None,
    };
    let samples = run_dir.as_mut().zip(recorded).map(|(dir, recorded)| dir.record(recorded));
    let settings = Settings { samples, ..settings(args) };
    let interrupts = Interrupts::listen()?;
    let page = args.metrics.is_some().then_some(page);
    let outputs = Outputs { run_dir, page, announces: true, started: None };
    let finished = run_plan(&Arc::new(plan), settings, outputs, &interrupts)?;
    let printed = match args.format {
        Format::Text => put(&finished.text()),
        Format::Json => put(&(finished.summary.to_json() + "\n")),
    };
    let code = finished.exit_code(interrupts.first().is_some());
    finished.keep_records(&interrupts)?;
    match printed {
        // The terminal is gone, which is what interrupted the run.
        Err(error) if interrupts.first().is_some() => tell(&format!("{error:#}")),
        printed => printed?,
    }
    Ok(code)
}

/// A seed that no run before had.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(WallClock::now().unix_ns) % SEED_MAX
}

fn settings(args: &RunArgs) -> Settings {
    let spin = if args.spin {
        Spin::Always
    } else if args.no_spin {
        Spin::Never
    } else {
        Spin::Adaptive
    };
    let (workers, trace, force) = (args.workers, args.trace, args.force);
    Settings { workers, spin, trace, force, ..default_settings() }
}

/// The settings without any flags.
pub(crate) fn default_settings() -> Settings {
    Settings::default()
}

/// A finished run.
pub(crate) struct Finished {
    pub(crate) summary: Summary,
    /// Whether an objective stopped it.
    aborted: bool,
    /// Path of the run directory.
    run_dir: Option<String>,
    /// Whether it was written completely, except for the records of single requests…
    written: anyhow::Result<()>,
    /// …which are not converted yet.
    recording: Option<Recording>,
}

impl Finished {
    /// The report, as wide as stdout is.
    pub(crate) fn text(&self) -> String {
        // The report does not refer to results that could not be written.
        let run_dir = self.run_dir.as_deref().filter(|_| self.written.is_ok());
        self.summary.to_text(run_dir, stdout_columns(), is_colored(&stdout()))
    }

    /// Converts the records of single requests, after the report was printed: it may take a while.
    ///
    /// # Errors
    /// The first write error of the whole run.
    pub(crate) fn keep_records(self, interrupts: &Interrupts) -> anyhow::Result<()> {
        interrupts.converting();
        let converted = self.recording.map_or(Ok(()), Recording::finish);
        interrupts.results_written();
        self.written.and(converted)
    }

    /// The exit code; see [`exit_code`].
    pub(crate) fn exit_code(&self, interrupted: bool) -> ExitCode {
        exit_code(&self.summary, self.aborted, interrupted)
    }
}

/// Interrupted takes precedence over invalid, and invalid over a missed objective. A run that an objective
/// stopped (`aborted`), or in which no request succeeded, counts as a missed objective.
pub(crate) fn exit_code(summary: &Summary, aborted: bool, interrupted: bool) -> ExitCode {
    ExitCode::from(if interrupted {
        130
    } else if !summary.verdict.valid {
        98
    } else if aborted || summary.nothing_ok() || !summary.objectives_hold() {
        99
    } else {
        0
    })
}

/// What a run writes and prints while it runs.
pub(crate) struct Outputs {
    pub(crate) run_dir: Option<RunDir>,
    /// The page for Prometheus.
    pub(crate) page: Option<Page>,
    /// Whether the load is announced, and progress is printed even if stderr is not a terminal.
    pub(crate) announces: bool,
    /// Receives the time at which the clock starts, and the run's control.
    pub(crate) started: Option<Sender<(WallClock, Control)>>,
}

/// Runs a plan until it ends or is stopped.
///
/// # Errors
/// The run could not start, or a worker failed.
pub(crate) fn run_plan(
    plan: &Arc<Plan>,
    settings: Settings,
    outputs: Outputs,
    interrupts: &Interrupts,
) -> anyhow::Result<Finished> {
    let Outputs { run_dir, page, announces, started } = outputs;
    let settings = match host_check::check(plan, settings) {
        Ok(settings) => settings,
        Err(error) => {
            run_dir.iter().for_each(RunDir::discard);
            return Err(error);
        }
    };
    let scraper = Scraper::start(&plan.scrapes)?;
    interrupts.prepare_run(run_dir.as_ref().map(RunDir::path));
    let prepared = match Prepared::new(plan, &Shards::all(), settings) {
        Ok(prepared) => prepared,
        Err(error) => {
            run_dir.iter().for_each(RunDir::discard);
            // Paths and host names may come from variables.
            let mask = |text: &str| plan.secrets.mask(text);
            return Err(usage_error(mask(&error.message), mask(&error.hint)));
        }
    };
    // Before the announcement, which users may answer with Ctrl-C: from then on the results are kept.
    interrupts.stop_run(prepared.control());
    if announces {
        let workers = counted(prepared.workers() as u64, "worker");
        tell(&format!("{}: {}, {workers}", clean(&plan.name), plan.load_in_words()));
    }
    let how = if announces { "started with --force: " } else { "" };
    prepared.forced().iter().for_each(|what| tell(&format!("warning: {how}{what}")));
    let source = Source::host();
    let mut sampler = Sampler::new(
        &source,
        SampledRun {
            destinations: prepared.destinations(),
            workers: prepared.workers() as u64,
            descriptors: descriptors_needed(plan, prepared.workers()),
        },
    );
    let host = HostFile::at_start(&source, sampler.unread());
    let mut running = prepared.start(LEAD, Box::new(move || sampler.sample()));
    // Its receiver may be gone.
    started.iter().for_each(|started| {
        _ = started.send((running.start_facts().started_at, running.control()))
    });
    let mut live = Live::new(plan, run_dir, page, scraper, host, &running);
    live.progress.pipes = announces;
    while let Some(second) = running.next_second().inspect_err(|_| live.progress.end())? {
        live.add(second);
    }
    let finished = live.finish(running, interrupts.first());
    interrupts.results_written();
    Ok(finished)
}

/// The consumer of a run's seconds: writes files, progress and metrics, and checks objectives that stop
/// the run.
struct Live<'p> {
    plan: &'p Plan,
    /// What the values of response headers must not repeat.
    secrets: Secrets,
    fold: Fold<'p>,
    run_dir: Option<RunDir>,
    page: Option<Page>,
    progress: Progress,
    scraper: Option<Scraper>,
    host: HostFile,
    control: Control,
    /// The end of the last second.
    at: Nanos,
    /// The objective that stopped it.
    aborted: Option<String>,
}

impl<'p> Live<'p> {
    fn new(
        plan: &'p Plan,
        mut run_dir: Option<RunDir>,
        page: Option<Page>,
        scraper: Option<Scraper>,
        host: HostFile,
        running: &Running,
    ) -> Live<'p> {
        if let Some(dir) = &mut run_dir {
            dir.begin(plan, &running.start_facts(), &host).iter().for_each(|warning| tell(warning));
        }
        let fold = if run_dir.is_some() { Fold::new(plan).charted() } else { Fold::new(plan) };
        let progress = Progress::new();
        let control = running.control();
        Live {
            plan,
            secrets: plan.secrets_of_all(),
            fold,
            run_dir,
            page,
            progress,
            scraper,
            host,
            control,
            at: Nanos::ZERO,
            aborted: None,
        }
    }

    fn add(&mut self, second: Second) {
        let Second { mut counts, traces } = second;
        if let Some(scraper) = &self.scraper {
            scraper.add_to(&mut counts);
        }
        self.mask_split(&mut counts);
        self.fold.add(&counts);
        if let Some(warning) = self.run_dir.as_mut().and_then(|dir| dir.add(&counts)) {
            self.progress.end();
            tell(&warning);
        }
        let total = self.fold.total();
        if let Some(page) = &self.page {
            page.set(exposition(self.plan, &counts, total));
        }
        let stopped = self.control.stop_level() > 0;
        self.progress.show(&progress(self.plan, &counts, total, self.at, stopped));
        self.at = counts.t;
        for record in &traces {
            self.progress.end();
            tell(&trace_text(record, self.plan));
        }
        self.abort_if_missed();
    }

    /// Leaves out secrets that the target repeats in the header by which answers are counted.
    fn mask_split(&self, counts: &mut Snapshot) {
        for stream in &mut counts.streams {
            for (value, _) in &mut stream.split.values {
                *value = SplitValue::of(self.secrets.mask_cut(value.as_str()).as_bytes());
            }
            let masked = std::mem::take(&mut stream.split);
            stream.split.merge(&masked);
        }
    }

    /// `signal` is the first signal that was received.
    fn finish(mut self, running: Running, signal: Option<&str>) -> Finished {
        self.progress.end();
        self.scrape_at_the_end();
        let mut facts = running.finish();
        let objective = self.aborted.as_ref().map(|that| format!("the objective \"{that}\""));
        facts.stopped_by = objective.or_else(|| signal.map(String::from));
        let summary = self.fold.finish(facts);
        let run_dir = self.run_dir.as_ref().map(|dir| dir.path().display().to_string());
        self.host.end(&Source::host());
        let aborted = self.aborted.is_some();
        let (written, recording) = self.run_dir.map_or((Ok(()), None), |dir| {
            dir.finish(self.plan, &summary, aborted, &self.host)
        });
        Finished { summary, aborted, run_dir, written, recording }
    }

    /// Scrapes once more after the run; the result becomes an additional last snapshot.
    fn scrape_at_the_end(&mut self) {
        let Some(scraper) = self.scraper.take() else { return };
        let total = self.fold.total();
        let mut last = self.plan.blank_snapshot();
        last.t = total.t;
        last.in_flight = total.in_flight;
        last.connections.open = total.connections.open;
        for (last, total) in last.streams.iter_mut().zip(&total.streams) {
            last.planned_rate = total.planned_rate;
        }
        for (last, total) in last.origins.iter_mut().zip(&total.origins) {
            (last.limit, last.open) = (total.limit, total.open);
        }
        scraper.finish(&mut last);
        self.fold.add(&last);
        if let Some(warning) = self.run_dir.as_mut().and_then(|dir| dir.add(&last)) {
            tell(&warning);
        }
    }

    fn abort_if_missed(&mut self) {
        if self.control.stop_level() > 0 {
            return;
        }
        let elapsed = self.fold.total().t - self.plan.warmup;
        for objective in &self.plan.objectives {
            let Some(after) = objective.abort_after.filter(|after| elapsed > *after) else {
                continue;
            };
            let judged = self.fold.judge(objective);
            if judged.value.is_some() && !judged.ok {
                let that = &objective.that;
                self.progress.end();
                let value = judged.shown();
                tell(&format!(
                    "stopping: the objective \"{that}\" does not hold after {after}: {value}"
                ));
                self.aborted = Some(that.clone());
                self.control.stop();
                return;
            }
        }
    }
}

/// The progress line: overwritten on a terminal; in a pipe, every tenth is printed.
struct Progress {
    terminal: bool,
    /// Whether it is printed in a pipe, too.
    pipes: bool,
    color: bool,
    open: bool,
    seconds: u64,
}

const SECONDS_IN_A_PIPE: u64 = 10;

impl Progress {
    fn new() -> Progress {
        let terminal = stderr().is_terminal();
        Progress { terminal, pipes: true, color: is_colored(&stderr()), open: false, seconds: 0 }
    }

    fn show(&mut self, parts: &[Part]) {
        self.seconds += 1;
        if self.terminal {
            let columns =
                terminal_size::terminal_size_of(stderr()).map_or(80, |(width, _)| width.0 as usize);
            let line = fitting(parts, columns.saturating_sub(1), self.color);
            // Write errors are ignored: progress is informational.
            let _ = write!(stderr(), "\r\x1b[K{line}");
            self.open = true;
        } else if self.pipes && self.seconds.is_multiple_of(SECONDS_IN_A_PIPE) {
            tell(&fitting(parts, usize::MAX, self.color));
        }
    }

    /// Ends the progress line, so that other output can follow.
    fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            tell("");
        }
    }
}

/// A line of as many leading parts as fit; the first part is cut if it does not fit.
fn fitting(parts: &[Part], columns: usize, color: bool) -> String {
    const GAP: &str = "  ";
    let (mut line, mut room) = (String::new(), columns);
    for (place, Part { text, tone }) in parts.iter().enumerate() {
        let gap = if place == 0 { "" } else { GAP };
        let width = gap.len() + text.chars().count();
        if width > room {
            if place == 0 {
                line = text.chars().take(room).collect();
            }
            break;
        }
        room -= width;
        line += &format!("{gap}{}", tone.paint(text, color));
    }
    line
}

/// Whether text for this stream is coloured: on a terminal, unless `--color`, `NO_COLOR`,
/// `CLICOLOR_FORCE` or `TERM=dumb` say otherwise.
pub(crate) fn is_colored(stream: &impl anstream::stream::RawStream) -> bool {
    anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_report::Tone;

    #[test]
    fn only_parts_that_fit_are_shown() {
        let part = |text: &str, tone| Part { text: text.into(), tone };
        let parts = [part("1s/9s", Tone::Plain), part("50 % ok", Tone::Warn), part("x", Tone::Bad)];
        let check = |columns, line: &str| assert_eq!(fitting(&parts, columns, false), line);
        check(usize::MAX, "1s/9s  50 % ok  x");
        check(16, "1s/9s  50 % ok");
        check(13, "1s/9s");
        check(3, "1s/");
        check(0, "");
        let colored = "1s/9s  \x1b[33m50 % ok\x1b[0m  \x1b[1;31mx\x1b[0m";
        assert_eq!(fitting(&parts, 17, true), colored);
    }
}
