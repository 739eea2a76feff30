//! `plimsoll run`: runs a plan and prints the report.
//!
//! # Layout
//! - `consumer`: what happens to each second of a run
//! - `observers`: other processes and logs
//! - `progress`: the progress line
//! - `views`: what shows a run besides it
//! - `watch`: shows each second, and stops the run when an objective says so

mod consumer;
mod observers;
mod progress;
mod views;
mod watch;

use crate::fleet;
use crate::host_check;
use crate::host_file::HostFile;
use crate::interrupt::Interrupts;
use crate::logs::check_commands;
use crate::plan_source::{InlineArgs, SetArgs, SourceArgs, read_source};
use crate::proxy;
use crate::recording::Recording;
use crate::run_dir::RunDir;
use crate::{put, stdout_columns, tell, usage_error};
use consumer::Consumer;
pub(crate) use consumer::mask_split;
use observers::Observers;
use plimsoll_engine::{Control, Next, Prepared, Recorded, Settings, Spin, descriptors_needed};
use plimsoll_fleet::Records;
use plimsoll_host::{Facts, SampledRun, Sampler, Source};
use plimsoll_measure::WallClock;
use plimsoll_measure::units::counted;
use plimsoll_plan::{OnAgentLoss, Part, Plan, SEED_MAX};
use plimsoll_report::{Summary, clean};
use std::hash::{BuildHasher, RandomState};
use std::io::stdout;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;
pub(crate) use views::{ViewArgs, Views};
pub(crate) use watch::Watch;

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
    /// Requests to record one by one, for samples.parquet in the results [default: all; over several hosts: none]
    #[arg(long, value_enum, value_name = "WHICH")]
    record: Option<Record>,
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
    /// Run the commands whose output the plan follows ([[log]] command = …)
    #[arg(long)]
    allow_commands: bool,
    /// Print N complete exchanges to stderr, without secrets; of a body at most 4 KiB
    #[arg(long, value_name = "N", default_value_t = 0)]
    trace: u32,
    #[command(flatten)]
    views: ViewArgs,
    /// Serve live metrics for Prometheus at http://ADDR/metrics
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    /// Accept any TLS certificate; connections are kept alive without a flag (ab's -k)
    #[arg(long, short = 'k', alias = "insecure-skip-tls-verify")]
    insecure: bool,
    #[command(flatten)]
    inline: InlineArgs,
    #[command(flatten)]
    fleet: FleetFlags,
}

/// Flags of a run over several agents.
#[derive(clap::Args)]
#[command(next_help_heading = "Several hosts")]
struct FleetFlags {
    #[command(flatten)]
    nats: fleet::NatsArgs,
    /// Run over N agents (plimsoll agent), which are found through NATS
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    agents: Option<u16>,
    /// How long to wait for the agents
    #[arg(long, value_name = "TIME", default_value = "30s")]
    wait: String,
    /// What happens when an agent is lost; overrides the plan's fleet.on_agent_loss
    #[arg(long, value_enum, value_name = "WHAT")]
    on_agent_loss: Option<LossArg>,
    /// Continue a run over several agents whose coordinator is gone
    #[arg(long, value_name = "RUN", conflicts_with = "agents")]
    resume: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum LossArg {
    /// The others continue with their parts
    Continue,
    /// The others take over its part
    Rebalance,
    /// All stop
    Abort,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Format {
    /// The report as text
    Text,
    /// summary.json
    Json,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Record {
    /// Every request
    All,
    /// Those that were not answered as expected
    Errors,
    /// None; the report does not need them
    None,
}

impl Record {
    /// What agents record; nothing if there are no results to write it to.
    pub(crate) fn over_agents(self, no_out: bool) -> Option<Records> {
        match self {
            Record::All if !no_out => Some(Records::All),
            Record::Errors if !no_out => Some(Records::Errors),
            _ => None,
        }
    }
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
pub(crate) fn run(mut args: RunArgs) -> anyhow::Result<ExitCode> {
    args.color.apply();
    args.views.give_back(&mut args.source);
    let args = &args;
    if args.fleet.agents.is_some() || args.fleet.resume.is_some() {
        return run_fleet(args);
    }
    let mut plan = read_source(&args.source, &args.inline, &args.set)?;
    check_commands(&plan, args.allow_commands)?;
    plan.warnings().iter().for_each(|warning| tell(&format!("warning: {warning}")));
    proxy::note(&plan.origins()).iter().for_each(|note| tell(note));
    plan.tls.insecure |= args.insecure;
    if let Some(seed) = args.seed.or_else(|| (!plan.has_seed).then(fresh_seed)) {
        plan.reseed(seed);
    }
    host_check::fit_connections(&mut plan, &Facts::read(&Source::host()))
        .iter()
        .for_each(|note| tell(note));
    let views = args.views.start(args.metrics.as_deref())?;
    let mut run_dir =
        if args.no_out { None } else { Some(RunDir::create(args.out.as_deref(), &plan)?) };
    let recorded = match args.record.unwrap_or(Record::All) {
        Record::All => Some(Recorded::All),
        Record::Errors => Some(Recorded::Errors),
        Record::None => None,
    };
    let samples = run_dir.as_mut().zip(recorded).map(|(dir, recorded)| dir.record(recorded));
    let settings = Settings { samples, ..settings(args) };
    let interrupts = Interrupts::listen()?;
    let outputs = Outputs { run_dir, views, announces: true, started: None };
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

/// Runs a plan over several agents.
fn run_fleet(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let flags = &args.fleet;
    let is_local = args.workers > 0 || args.spin || args.no_spin || args.force || args.trace > 0;
    let is_local = is_local || args.allow_commands;
    if is_local {
        return Err(usage_error(
            "--workers, --spin, --no-spin, --force, --trace and --allow-commands are for runs on this host",
            "leave them out with --agents and --resume",
        ));
    }
    let what = match (&flags.resume, flags.agents) {
        (Some(_), _) if args.record.is_some() => {
            return Err(usage_error(
                "--record cannot be changed with --resume",
                "leave it out: the run records what it was begun with",
            ));
        }
        (Some(run), _) => {
            let variables = args.set.variables()?;
            fleet::FleetRun::Resume(fleet::Resume { run: run.clone(), variables })
        }
        (None, agents) => {
            let mut plan = read_source(&args.source, &args.inline, &args.set)?;
            plan.tls.insecure |= args.insecure;
            let wait = plimsoll_config::values::flag_duration(&flags.wait)
                .map_err(|why| usage_error(format!("--wait: {why}"), "for example --wait 60s"))?;
            let agents = usize::from(agents.unwrap_or(1));
            let records = args.record.and_then(|record| record.over_agents(args.no_out));
            fleet_run(plan, &args.set, args.seed, (agents, wait), records)?
        }
    };
    let output = FleetOutput { out: args.out.clone(), no_out: args.no_out, format: args.format };
    let views = args.views.start(args.metrics.as_deref())?;
    run_with_agents(&flags.nats, what, flags.on_agent_loss, views, &output)
}

/// A run over agents to begin.
pub(crate) fn fleet_run(
    mut plan: Plan,
    set: &SetArgs,
    seed: Option<u64>,
    (agents, wait): (usize, Duration),
    records: Option<Records>,
) -> anyhow::Result<fleet::FleetRun> {
    plan.warnings().iter().for_each(|warning| tell(&format!("warning: {warning}")));
    if let Some(seed) = seed.or_else(|| (!plan.has_seed).then(fresh_seed)) {
        plan.reseed(seed);
    }
    let variables = set.variables()?;
    Ok(fleet::FleetRun::Begin(Box::new(fleet::Begin { plan, variables, agents, records, wait })))
}

/// Where the results of a run over agents go.
pub(crate) struct FleetOutput {
    pub(crate) out: Option<PathBuf>,
    pub(crate) no_out: bool,
    pub(crate) format: Format,
}

/// Coordinates a run, prints its report and returns the exit code.
pub(crate) fn run_with_agents(
    nats: &fleet::NatsArgs,
    what: fleet::FleetRun,
    on_loss: Option<LossArg>,
    views: Views,
    output: &FleetOutput,
) -> anyhow::Result<ExitCode> {
    let on_loss = on_loss.map(|loss| match loss {
        LossArg::Continue => OnAgentLoss::Continue,
        LossArg::Rebalance => OnAgentLoss::Rebalance,
        LossArg::Abort => OnAgentLoss::Abort,
    });
    let out = output.out.as_deref();
    let directory = |plan: &Plan| {
        if output.no_out { Ok(None) } else { RunDir::create(out, plan).map(Some) }
    };
    let (finished, interrupted) = fleet::coordinate(nats, what, on_loss, views, directory)?;
    match output.format {
        Format::Text => put(&finished.text())?,
        Format::Json => put(&(finished.summary.to_json() + "\n"))?,
    }
    finished.written?;
    Ok(exit_code(&finished.summary, finished.aborted, interrupted))
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
    /// A run over several agents, whose records of single requests are written.
    pub(crate) fn of_fleet(
        summary: Summary,
        run_dir: Option<String>,
        written: anyhow::Result<()>,
        aborted: bool,
    ) -> Finished {
        Finished { summary, aborted, run_dir, written, recording: None }
    }

    /// Where the results are, if they could be written.
    pub(crate) fn results(&self) -> Option<&Path> {
        self.run_dir.as_deref().filter(|_| self.written.is_ok()).map(Path::new)
    }

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
    pub(crate) views: Views,
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
    let Outputs { run_dir, views, announces, started } = outputs;
    let settings = match host_check::check(plan, settings) {
        Ok(settings) => settings,
        Err(error) => {
            run_dir.iter().for_each(RunDir::discard);
            return Err(error);
        }
    };
    let observers = match Observers::start(plan) {
        Ok(observers) => observers,
        Err(error) => {
            run_dir.iter().for_each(RunDir::discard);
            return Err(error);
        }
    };
    interrupts.prepare_run(run_dir.as_ref().map(RunDir::path));
    let prepared = match Prepared::new(plan, &Part::whole(plan), settings) {
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
    let mut consumer = Consumer::new(plan, run_dir, views, observers, host, &running);
    consumer.watch.progress.pipes = announces;
    loop {
        match running.next_or_wake().inspect_err(|_| consumer.watch.progress.end())? {
            Next::Second(second) => consumer.add(*second),
            Next::Woken => consumer.greet(),
            Next::Ended => break,
        }
    }
    let finished = consumer.finish(running, interrupts.first());
    interrupts.results_written();
    Ok(finished)
}

/// Whether text for this stream is coloured: on a terminal, unless `--color`, `NO_COLOR`,
/// `CLICOLOR_FORCE` or `TERM=dumb` say otherwise.
pub(crate) fn is_colored(stream: &impl anstream::stream::RawStream) -> bool {
    anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never
}
