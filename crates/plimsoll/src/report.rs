//! `plimsoll report`: reports on recorded runs.

use crate::recorded::{RecordedRun, Reported};
use crate::run::{Color, exit_code, is_colored};
use crate::{stdout_columns, tell, usage_error};
use anyhow::Context;
use plimsoll_config::values::flag_duration;
use plimsoll_measure::Nanos;
use plimsoll_measure::units::counted;
use plimsoll_report::{Filters, IntervalLog, Merge, ParquetWriter, Run, Summary, TimeFigure};
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "Examples:
  plimsoll report runs/20261126-140000-plan
  plimsoll report runs/20261126-140000-plan --tag chain=boba --from 30s --to 2m
  plimsoll report runs/20261126-140000-plan --format junit --output junit.xml
  plimsoll report runs/20261126-140000-plan --format parquet -o all.parquet
  plimsoll report runs/* --format csv > figures.csv

Several runs are summed exactly: counts and histograms add up. A run that was killed is reported up \
to its last complete second. The exit code is that of plimsoll run: 98 for an invalid run, 99 for a \
missed objective.";

/// Flags of `plimsoll report`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    /// Run directories
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write the report to this new file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only targets with this tag, such as chain=boba; several: any of them
    #[arg(long = "tag", value_name = "TAG=VALUE")]
    tags: Vec<String>,
    /// Only this target; several: any of them
    #[arg(long = "target", value_name = "NAME")]
    targets: Vec<String>,
    /// Only this stream; several: any of them
    #[arg(long = "stream", value_name = "NAME")]
    streams: Vec<String>,
    /// Only this stage, counted from 1; several: any of them
    #[arg(long = "stage", value_name = "[STREAM:]N")]
    stages: Vec<String>,
    /// Only from this time on, counted from the end of the warm-up
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Nanos>,
    /// Only up to this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Nanos>,
    /// The time that hdr and hlog show
    #[arg(long, value_enum, value_name = "FIGURE", default_value_t = Figure::Latency)]
    figure: Figure,
    /// Colour the text; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    color: Color,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The report as text
    Text,
    /// The content of summary.json
    Json,
    /// JUnit XML: the verdict and each objective as test cases
    Junit,
    /// One line per target, tag, stream and stage
    Csv,
    /// One row per request, for DuckDB, pandas and others
    Parquet,
    /// HdrHistogram's percentile distribution
    #[value(alias = "hgrm")]
    Hdr,
    /// HdrHistogram's interval log: a histogram per second and target
    Hlog,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Figure {
    /// From the planned instant
    Latency,
    /// The same, of requests answered as expected
    LatencyOk,
    /// From sending to the last byte
    ServiceTime,
}

impl Figure {
    fn time(self) -> TimeFigure {
        match self {
            Figure::Latency => TimeFigure::Latency,
            Figure::LatencyOk => TimeFigure::LatencyOk,
            Figure::ServiceTime => TimeFigure::ServiceTime,
        }
    }
}

fn time(text: &str) -> Result<Nanos, String> {
    flag_duration(text).map(Nanos::from)
}

/// Reports on runs and returns the exit code.
pub(crate) fn report(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    args.color.apply();
    let runs: Vec<RecordedRun> =
        args.runs.iter().map(|path| RecordedRun::open(path)).collect::<anyhow::Result<_>>()?;
    let filters = Filters {
        targets: args.targets.clone(),
        tags: args.tags.clone(),
        streams: args.streams.clone(),
        stages: args.stages.clone(),
        from: args.from,
        to: args.to,
    };
    let out = Output::open(args)?;
    match args.format {
        Format::Parquet => {
            let rows = write_parquet(only(&runs, args.format)?, &filters, out)?;
            tell(&format!("{} written", counted(rows, "request")));
            Ok(ExitCode::SUCCESS)
        }
        Format::Hlog => {
            let run = only(&runs, args.format)?;
            let reported = run.report(&filters)?;
            check_selected(&reported.summary)?;
            write_log(run, &reported, args.figure.time(), out)?;
            Ok(exit_code(&reported.summary, reported.aborted, false))
        }
        _ => {
            let (summary, aborted) = merged(&runs, &filters)?;
            check_selected(&summary)?;
            let text = rendered(args, &summary)?;
            out.write(|out| out.write_all(text.as_bytes()))?;
            Ok(exit_code(&summary, aborted, false))
        }
    }
}

/// Filters that select nothing are a mistake.
fn check_selected(summary: &Summary) -> anyhow::Result<()> {
    match summary.nothing_selected() {
        Some(problem) => Err(usage_error(problem.message, problem.hint)),
        None => Ok(()),
    }
}

/// The only run, for formats that cannot be summed.
fn only(runs: &[RecordedRun], format: Format) -> anyhow::Result<&RecordedRun> {
    match runs {
        [run] => Ok(run),
        _ => {
            let format = format!("{format:?}").to_lowercase();
            let hint = "write a file for each run; most tools read several files as one";
            Err(usage_error(format!("--format {format} is of one run"), hint))
        }
    }
}

/// The sum of the runs, and whether an objective stopped one.
fn merged(runs: &[RecordedRun], filters: &Filters) -> anyhow::Result<(Summary, bool)> {
    let mut merge = Merge::new();
    let mut stopped = false;
    for run in runs {
        let Reported { summary, aborted, .. } = run.report(filters)?;
        stopped |= aborted;
        merge.add(Run { label: run.label(), plan: &run.plan, summary });
    }
    Ok((merge.finish(), stopped))
}

fn rendered(args: &ReportArgs, summary: &Summary) -> anyhow::Result<String> {
    let to_file = args.output.is_some();
    Ok(match args.format {
        Format::Text => {
            let columns = if to_file { usize::MAX } else { stdout_columns() };
            summary.to_text(None, columns, !to_file && is_colored(&stdout()))
        }
        Format::Json => summary.to_json() + "\n",
        Format::Junit => summary.to_junit(),
        Format::Csv => summary.to_csv(),
        Format::Hdr => summary
            .to_hgrm(args.figure.time(), None)
            .map_err(|(message, hint)| usage_error(message, hint))?,
        Format::Parquet | Format::Hlog => unreachable!("written by request and by second"),
    })
}

/// Writes the records that the filters select; returns how many there are.
fn write_parquet(run: &RecordedRun, filters: &Filters, out: Output) -> anyhow::Result<u64> {
    let narrow = run.narrow(filters)?;
    let seconds = run.seconds_of()?;
    let holds = |second: usize, target: usize| {
        let second = seconds.get(second);
        second.is_some_and(|own| narrow.holds(*own, target, run.plan.targets[target].stream))
    };
    let mut written = 0;
    out.write_anyhow(|out| {
        let mut parquet = ParquetWriter::new(out, &run.samples_header())?;
        let any = run.rows(|row| {
            if holds(row.counted.second as usize, row.sample.kind.target as usize) {
                parquet.add_row(row)?;
            }
            Ok(())
        })?;
        if !any {
            return Err(usage_error(
                format!("{} has no records of single requests", run.label()),
                "run the plan without --record none; all other formats work without them",
            ));
        }
        written = parquet.finish()?.0;
        Ok(())
    })?;
    Ok(written)
}

fn write_log(
    run: &RecordedRun,
    reported: &Reported,
    figure: TimeFigure,
    out: Output,
) -> anyhow::Result<()> {
    let mut log = IntervalLog::new(&run.plan, reported.narrow.clone(), figure);
    let summary = &reported.summary;
    out.write_anyhow(|out| {
        out.write_all(log.head(summary, summary.facts.started_at).as_bytes())?;
        let mut written = Ok(());
        run.seconds(|second| {
            if written.is_ok() {
                written = out.write_all(log.add(second).as_bytes());
            }
        })?;
        Ok(written?)
    })
}

/// Where the report goes.
enum Output {
    Stdout,
    /// A file that is renamed into place when it is complete.
    File {
        path: PathBuf,
        part: PathBuf,
        file: File,
    },
}

impl Output {
    fn open(args: &ReportArgs) -> anyhow::Result<Output> {
        let Some(path) = &args.output else {
            if args.format == Format::Parquet && stdout().is_terminal() {
                let hint = "write it to a file with --output FILE";
                return Err(usage_error("Parquet is not printed to a terminal", hint));
            }
            return Ok(Output::Stdout);
        };
        if path.exists() {
            let hint = "results are never overwritten; choose a new file";
            return Err(usage_error(format!("{} exists", path.display()), hint));
        }
        let part = part_of(path);
        let file = File::create(&part).map_err(|error| {
            usage_error(format!("cannot write {}: {error}", path.display()), "")
        })?;
        Ok(Output::File { path: path.clone(), part, file })
    }

    fn write(
        self,
        write: impl FnOnce(&mut (dyn Write + Send)) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        self.write_anyhow(|out| Ok(write(out)?))
    }

    /// Writes everything or, to a file, nothing.
    fn write_anyhow(
        self,
        write: impl FnOnce(&mut (dyn Write + Send)) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match self {
            Output::Stdout => {
                let mut out = BufWriter::with_capacity(1 << 16, stdout());
                let written = write(&mut out).and_then(|()| Ok(out.flush()?));
                // What is left in the buffer of a closed pipe is of no use.
                let _ = out.into_parts();
                match written {
                    Err(error) if is_closed_pipe(&error) => Ok(()),
                    written => written.context("cannot write to stdout"),
                }
            }
            Output::File { path, part, file } => {
                let mut out = BufWriter::with_capacity(1 << 20, file);
                let written = write(&mut out)
                    .and_then(|()| Ok(out.flush()?))
                    .and_then(|()| Ok(std::fs::rename(&part, &path)?));
                if written.is_err() {
                    let _ = std::fs::remove_file(&part);
                }
                written.with_context(|| format!("cannot write {}", path.display()))
            }
        }
    }
}

/// Whether the reader of stdout has left, as in `| head`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = |cause: &(dyn std::error::Error + 'static)| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    error.chain().any(io)
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    path.with_file_name(name)
}
