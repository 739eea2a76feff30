//! `plimsoll report`: reports on recorded runs.
//!
//! # Layout
//! - `output`: where a report goes

mod output;

use crate::recorded::{RecordedRun, Reported, newest_in};
use crate::run::{Color, exit_code, is_colored};
use crate::{stdout_columns, tell, usage_error};
use output::Output;
use plimsoll_config::values::flag_duration;
use plimsoll_measure::Nanos;
use plimsoll_measure::units::{counted, grouped};
use plimsoll_report::{
    Attachment, Filters, IntervalLog, Merge, ParquetWriter, Run, Summary, TimeFigure,
};
use std::io::stdout;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "Examples:
  plimsoll report runs/20261126-140000-plan
  plimsoll report runs/20261126-140000-plan --tag chain=boba --from 30s --to 2m
  plimsoll report runs/20261126-140000-plan --format junit --output junit.xml
  plimsoll report runs/20261126-140000-plan --format parquet -o all.parquet
  plimsoll report runs/* --format csv > figures.csv

Several runs are summed exactly: counts and histograms add up. A run that was killed is reported up \
to its last complete second. The exit code is that of plimsoll run: 130 if the run was stopped, 98 if \
it is invalid, 99 if it missed an objective.";

/// Flags of `plimsoll report`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    /// Run directories [default: the newest in runs/]
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Format of the report [default: that of --output's name, such as report.html; otherwise text]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write the report to this new file instead of stdout (-)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only targets with this tag, such as chain=boba; several values of a tag: any of them
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
    /// The time that hdr and hlog show [default: latency]
    #[arg(long, value_enum, value_name = "FIGURE")]
    figure: Option<Figure>,
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
    /// A page with charts, as report.html
    Html,
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

impl ReportArgs {
    /// That which was asked for, or which the name of the output says.
    fn format(&self) -> Format {
        let named = || {
            let extension = self.output.as_ref()?.extension()?.to_str()?.to_ascii_lowercase();
            Some(match extension.as_str() {
                "html" | "htm" => Format::Html,
                "json" => Format::Json,
                "xml" => Format::Junit,
                "csv" => Format::Csv,
                "parquet" => Format::Parquet,
                "hgrm" => Format::Hdr,
                "hlog" => Format::Hlog,
                _ => return None,
            })
        };
        self.format.or_else(named).unwrap_or(Format::Text)
    }
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
    if args.figure.is_some() && !matches!(args.format(), Format::Hdr | Format::Hlog) {
        let hint = "the other formats show all times; remove it";
        return Err(usage_error("--figure is for --format hdr and hlog", hint));
    }
    let figure = args.figure.unwrap_or(Figure::Latency).time();
    let output = Output::of(args.output.as_deref(), args.format() == Format::Parquet)?;
    let runs = opened(args)?;
    let filters = Filters {
        targets: args.targets.clone(),
        tags: args.tags.clone(),
        streams: args.streams.clone(),
        stages: args.stages.clone(),
        from: args.from,
        to: args.to,
    };
    match args.format() {
        Format::Parquet => write_parquet(only(&runs, args.format())?, &filters, &output),
        Format::Hlog => {
            let run = only(&runs, args.format())?;
            let reported = run.report(&filters, false)?;
            check_selected(&reported.summary)?;
            write_log(run, &reported, figure, &output)?;
            Ok(code_of(&reported.summary, reported.aborted))
        }
        _ => {
            let (summary, aborted) = merged(&runs, &filters, args.format() == Format::Html)?;
            check_selected(&summary)?;
            let text = rendered(args, figure, &output, (&runs, &summary))?;
            output.write(|out| Ok(out.write_all(text.as_bytes())?))?;
            Ok(code_of(&summary, aborted))
        }
    }
}

/// The exit code of the run.
fn code_of(summary: &Summary, aborted: bool) -> ExitCode {
    let interrupted = summary.facts.stopped_by.is_some() && !aborted;
    exit_code(summary, aborted, interrupted)
}

/// The runs, by default the newest.
fn opened(args: &ReportArgs) -> anyhow::Result<Vec<RecordedRun>> {
    let open = |path: &PathBuf| {
        RecordedRun::open(path).map_err(|error| {
            match args.tags.iter().find(|tag| !tag.contains('=')) {
                // `--tag chain boba`
                Some(tag) if !path.exists() => usage_error(
                    format!("--tag {tag} is not in the form TAG=VALUE"),
                    format!("for example --tag {tag}={}", path.display()),
                ),
                _ => error,
            }
        })
    };
    if !args.runs.is_empty() {
        return args.runs.iter().map(open).collect();
    }
    let newest = newest_in(Path::new("runs")).ok_or_else(|| {
        usage_error(
            "no run to report on: there is none in runs/",
            "give the directory that plimsoll run wrote",
        )
    })?;
    tell(&format!("the newest run: {}", newest.display()));
    Ok(vec![open(&newest)?])
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
fn merged(
    runs: &[RecordedRun],
    filters: &Filters,
    charted: bool,
) -> anyhow::Result<(Summary, bool)> {
    let mut merge = Merge::new();
    let mut stopped = false;
    for run in runs {
        let Reported { summary, aborted, .. } = run.report(filters, charted)?;
        stopped |= aborted;
        merge.add(Run { label: run.label(), plan: &run.plan, summary });
    }
    Ok((merge.finish(), stopped))
}

fn rendered(
    args: &ReportArgs,
    figure: TimeFigure,
    output: &Output,
    (runs, summary): (&[RecordedRun], &Summary),
) -> anyhow::Result<String> {
    Ok(match args.format() {
        Format::Text => {
            let (columns, color) = if output.is_stdout() {
                (stdout_columns(), is_colored(&stdout()))
            } else {
                (usize::MAX, matches!(args.color, Color::Always))
            };
            summary.to_text(None, columns, color)
        }
        Format::Json => summary.to_json() + "\n",
        Format::Html => summary.to_page(&attachments(runs), None),
        Format::Junit => summary.to_junit(),
        Format::Csv => summary.to_csv(),
        Format::Hdr => {
            summary.to_hgrm(figure, None).map_err(|(message, hint)| usage_error(message, hint))?
        }
        Format::Parquet | Format::Hlog => unreachable!("written by request and by second"),
    })
}

/// The plan and the host of each run.
fn attachments(runs: &[RecordedRun]) -> Vec<Attachment> {
    let named = |run: &RecordedRun| {
        let label = if runs.len() == 1 { String::new() } else { format!("{}/", run.label()) };
        let attached = run.attachments().into_iter();
        attached.map(move |own| Attachment { name: format!("{label}{}", own.name), ..own })
    };
    runs.iter().flat_map(named).collect()
}

/// Writes the records that the filters select, and says how many there are.
fn write_parquet(
    run: &RecordedRun,
    filters: &Filters,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let narrow = run.narrow(filters)?;
    let (mut seconds, mut selected) = (Vec::new(), 0);
    let stream = |target: usize| run.plan.targets[target].stream;
    run.seconds(|second, snapshot| {
        seconds.push(second);
        for (target, stats) in snapshot.stats.iter().enumerate() {
            if narrow.holds(second, target, stream(target)) {
                selected += stats.requests.scheduled;
            }
        }
    })?;
    let holds = |second: usize, target: usize| {
        seconds.get(second).is_some_and(|own| narrow.holds(*own, target, stream(target)))
    };
    if !run.has_records() {
        return Err(usage_error(
            format!("{} has no records of single requests", run.label()),
            "run the plan without --record none; all other formats work without them",
        ));
    }
    let mut written = 0;
    output.write(|out| {
        let mut parquet = ParquetWriter::new(out, &run.samples_header())?;
        run.rows(|row| {
            if holds(row.counted.second as usize, row.sample.kind.target as usize) {
                parquet.add_row(row)?;
            }
            Ok(())
        })?;
        written = parquet.finish()?.0;
        Ok(())
    })?;
    let of = format!("{} of {}", grouped(written), counted(selected, "request"));
    if written == selected {
        tell(&format!("{of} written"));
    } else {
        tell(&format!(
            "warning: {of} written: the others were not recorded (--record errors, a full disk, a damaged file)"
        ));
    }
    Ok(if written == 0 && selected > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn write_log(
    run: &RecordedRun,
    reported: &Reported,
    figure: TimeFigure,
    output: &Output,
) -> anyhow::Result<()> {
    let mut log = IntervalLog::new(&run.plan, reported.narrow.clone(), figure);
    let summary = &reported.summary;
    output.write(|out| {
        out.write_all(log.head(summary, summary.facts.started_at).as_bytes())?;
        let mut written = Ok(());
        run.seconds(|_, second| {
            if written.is_ok() {
                written = out.write_all(log.add(second).as_bytes());
            }
        })?;
        Ok(written?)
    })
}
