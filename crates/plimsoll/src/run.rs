//! `plimsoll run`: carries out a plan and reports.

use crate::interrupt::Interrupts;
use crate::metrics::{self, Page};
use crate::plan_source::{InlineArgs, SetArgs, read_either};
use crate::run_dir::RunDir;
use crate::scrape::Scraper;
use crate::{put, stdout_columns, tell, usage_error};
use plimsoll_engine::{Settings, Sink, Stop, TraceRecord};
use plimsoll_measure::{Snapshot, WallClock};
use plimsoll_plan::Plan;
use plimsoll_report::{Summary, exposition, judge_objective, progress_line};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "Examples:
  plimsoll run plan.toml --set GATEWAY=http://localhost:3069
  plimsoll run --url http://localhost:3069/health --rate 500/s --duration 30s
  plimsoll run --url http://localhost:3069/v1 -H 'Target-Service-Id: eth' --users 50 \\
      --body '{\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\",\"params\":[],\"id\":{{seq}}}'

Latency counts from the instant a request was planned for, so that a stalled target cannot hide.
The report says first whether the run may be believed.";

/// Flags of `plimsoll run`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// The plan; see docs/plan.md
    plan: Option<PathBuf>,
    #[command(flatten)]
    set: SetArgs,
    /// Where results go; must not exist [default: runs/START-NAME]
    #[arg(long, value_name = "DIR", conflicts_with = "no_out")]
    out: Option<PathBuf>,
    /// Keep no results but the report
    #[arg(long)]
    no_out: bool,
    /// What to print to stdout at the end
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Threads that send; 0: as the load asks for, at most one for each CPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    /// Never sleep: less lag, on cores that nothing else uses
    #[arg(long)]
    spin: bool,
    /// Print N whole exchanges to stderr, as they went over the wire
    #[arg(long, value_name = "N", default_value_t = 0)]
    trace: u32,
    /// Serve the run's figures to Prometheus while it goes on, at http://ADDR/metrics
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    /// Accept any TLS certificate
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    inline: InlineArgs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// The report, for reading
    Text,
    /// summary.json
    Json,
}

/// Runs, reports, and says by the exit code what came of it.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let mut plan = read_either(&args.plan, &args.inline, &args.set)?;
    plan.tls.insecure |= args.insecure;
    let page = Page::default();
    if let Some(address) = &args.metrics {
        let bound = metrics::serve(address, page.clone())?;
        tell(&format!("metrics at http://{bound}/metrics"));
    }
    let run_dir = match args.no_out {
        true => None,
        false => Some(RunDir::create(args.out.as_deref(), &plan)?),
    };
    let stop = Stop::new();
    let interrupts = Interrupts::listen(stop.clone())?;
    let settings = Settings {
        workers: args.workers,
        spin: args.spin,
        trace: args.trace,
        usage: plimsoll_host::usage,
    };
    let page = args.metrics.is_some().then_some(page);
    let carried = carry_out(&plan, settings, run_dir, page, &stop)?;
    match args.format {
        Format::Text => put(&carried.text())?,
        Format::Json => put(&(carried.summary.to_json() + "\n"))?,
    }
    carried.written?;
    Ok(exit_code(&carried.summary, interrupts.any()))
}

/// What came of a plan.
pub(crate) struct Carried {
    pub(crate) summary: Summary,
    /// Where the run directory is.
    run_dir: Option<String>,
    /// Whether it is whole.
    pub(crate) written: anyhow::Result<()>,
}

impl Carried {
    /// The report, for reading, as wide as stdout is.
    pub(crate) fn text(&self) -> String {
        self.summary.to_text(self.run_dir.as_deref(), stdout_columns())
    }
}

/// Carries out a plan, to its end or until it is told to stop.
///
/// # Errors
/// The run could not begin.
pub(crate) fn carry_out(
    plan: &Plan,
    settings: Settings,
    run_dir: Option<RunDir>,
    page: Option<Page>,
    stop: &Stop,
) -> anyhow::Result<Carried> {
    let mut sink = Live::new(plan, run_dir, stop.clone(), page);
    sink.scraper = Scraper::start(&plan.scrapes)?;
    // Connections are descriptors. Where it cannot be raised, fd_exhausted tells.
    plimsoll_host::raise_descriptor_limit();
    let outcome = plimsoll_engine::run(plan, settings, stop, &mut sink)
        .map_err(|error| usage_error(error.message, error.hint));
    sink.progress.end();
    let mut outcome = outcome.inspect_err(|_| sink.discard())?;
    sink.scrape_at_the_end(&mut outcome.total);
    let summary = Summary::new(plan, outcome.facts, outcome.total);
    let run_dir = sink.run_dir.as_ref().map(|dir| dir.path().display().to_string());
    let written = sink.run_dir.map_or(Ok(()), |dir| dir.finish(&summary.to_json()));
    Ok(Carried { summary, run_dir, written })
}

/// What a run says by its exit code.
pub(crate) fn exit_code(summary: &Summary, interrupted: bool) -> ExitCode {
    ExitCode::from(if interrupted {
        130
    } else if !summary.verdict.valid {
        98
    } else if !summary.objectives_hold() {
        99
    } else {
        0
    })
}

/// What happens each second: files, progress, metrics, and objectives that stop the run.
struct Live<'p> {
    plan: &'p Plan,
    run_dir: Option<RunDir>,
    stop: Stop,
    page: Option<Page>,
    progress: Progress,
    scraper: Option<Scraper>,
    aborted: bool,
}

impl<'p> Live<'p> {
    fn new(plan: &'p Plan, run_dir: Option<RunDir>, stop: Stop, page: Option<Page>) -> Live<'p> {
        Live { plan, run_dir, stop, page, progress: Progress::new(), scraper: None, aborted: false }
    }

    /// Takes a run directory back of a run that never began.
    fn discard(&mut self) {
        if let Some(dir) = self.run_dir.take() {
            // It was made a moment ago and holds a copy of the plan.
            let _ = std::fs::remove_dir_all(dir.path());
        }
    }

    /// Counters are read once more when all is done: a last line that holds nothing else.
    fn scrape_at_the_end(&mut self, total: &mut Snapshot) {
        let Some(scraper) = self.scraper.take() else { return };
        let mut last = Snapshot::new(self.plan.targets.len(), self.plan.streams.len());
        last.t = total.t;
        last.in_flight = total.in_flight;
        last.connections.open = total.connections.open;
        last.streams.clone_from(&total.streams);
        scraper.finish(&mut last);
        total.append(&last);
        if let Some(dir) = &mut self.run_dir {
            dir.add(&last);
        }
    }

    fn abort_if_missed(&mut self, total: &Snapshot) {
        let elapsed = total.t - self.plan.warmup;
        for objective in &self.plan.objectives {
            let Some(after) = objective.abort_after.filter(|after| elapsed > *after) else {
                continue;
            };
            let judged = judge_objective(objective, self.plan, total, elapsed, Default::default());
            if judged.value.is_some() && !judged.ok && !self.aborted {
                self.aborted = true;
                let that = &objective.that;
                self.progress.end();
                tell(&format!("stopping: {that} does not hold after {after}: {}", judged.shown()));
                self.stop.stop();
            }
        }
    }
}

impl Sink for Live<'_> {
    fn started(&mut self, at: WallClock, workers: usize) {
        if let Some(dir) = &mut self.run_dir {
            dir.begin(self.plan, at);
        }
        let plural = if workers == 1 { "" } else { "s" };
        tell(&format!(
            "{}: {}, {workers} worker{plural}",
            self.plan.name,
            self.plan.load_in_words()
        ));
    }

    fn complete(&mut self, second: &mut Snapshot) {
        if let Some(scraper) = &self.scraper {
            scraper.add_to(second);
        }
    }

    fn snapshot(&mut self, second: &Snapshot, total: &Snapshot) {
        if let Some(dir) = &mut self.run_dir {
            dir.add(second);
        }
        if let Some(page) = &self.page {
            page.set(exposition(self.plan, second, total));
        }
        self.progress.show(&progress_line(self.plan, second, total));
        self.abort_if_missed(total);
    }

    fn trace(&mut self, record: &TraceRecord) {
        self.progress.end();
        let took = record.received_at - record.sent_at;
        tell(&format!(
            "── {} · sent at {} · {took}\n{}\n── answer\n{}\n",
            record.target,
            record.sent_at,
            String::from_utf8_lossy(&record.request).trim_end(),
            String::from_utf8_lossy(&record.response).trim_end(),
        ));
    }
}

/// A line that is written over on a terminal, and one in ten in a pipe.
struct Progress {
    terminal: bool,
    open: bool,
    seconds: u64,
}

const SECONDS_IN_A_PIPE: u64 = 10;

impl Progress {
    fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), open: false, seconds: 0 }
    }

    fn show(&mut self, line: &str) {
        self.seconds += 1;
        if self.terminal {
            let columns = terminal_size::terminal_size_of(std::io::stderr())
                .map_or(80, |(width, _)| width.0 as usize);
            let line = whole_parts(line, columns.saturating_sub(1));
            // When nobody sees it, nothing is lost.
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
            self.open = true;
        } else if self.seconds.is_multiple_of(SECONDS_IN_A_PIPE) {
            tell(line);
        }
    }

    /// Leaves the line, so that something else can be written.
    fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            tell("");
        }
    }
}

/// As many of a line's parts as there is room for, the first in any case as far as it goes.
fn whole_parts(line: &str, columns: usize) -> String {
    let ends = line.match_indices("  ").map(|(end, _)| end).chain([line.len()]);
    let fits = |end: &usize| line[..*end].chars().count() <= columns;
    match ends.take_while(fits).last() {
        Some(end) => line[..end].into(),
        None => line.chars().take(columns).collect(),
    }
}
