//! A run directory, read back.
//!
//! All figures come from `plan.toml` and `snapshots.jsonl`, so that the report on a run that was killed is
//! made like that on one that ended. The records of single requests (`samples.parquet`, or `samples.bin`
//! where a run did not end) add what the seconds do not count by target.

use crate::fleet::agents_of;
use crate::recording::{PARQUET, SAMPLES, sampled_targets};
use crate::run_dir::{HOST, PLAN, attachment};
use crate::{tell, usage_error};
use plimsoll_config::Document;
use plimsoll_measure::samples::{self, Block, Sample};
use plimsoll_measure::wire::{Header, ReadError, Reader};
use plimsoll_measure::{Nanos, RunFacts, Snapshot};
use plimsoll_plan::Plan;
use plimsoll_report::{
    Attachment, Filters, Fold, Narrow, ParquetReader, Row, Scope, Seconds, Summary,
};
use std::fs::{File, TryLockError};
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};

const SNAPSHOTS: &str = "snapshots.jsonl";

/// A run directory.
pub(crate) struct RecordedRun {
    folder: PathBuf,
    pub(crate) plan: Plan,
    header: Header,
    /// The end of the last second, on the run's clock.
    end: Nanos,
    /// Whether the run goes on.
    lasts: bool,
}

/// The report on a run, or on a part of it.
pub(crate) struct Reported {
    pub(crate) summary: Summary,
    pub(crate) narrow: Narrow,
    /// Whether an objective stopped the run.
    pub(crate) aborted: bool,
}

impl RecordedRun {
    /// Opens a run directory, or one by the name of a file in it.
    ///
    /// # Errors
    /// If it is not one, or was written by another version.
    pub(crate) fn open(given: &Path) -> anyhow::Result<RecordedRun> {
        let folder = folder_of(given)?;
        let path = folder.join(PLAN);
        let text = open_regular(&path)
            .and_then(std::io::read_to_string)
            .map_err(|error| not_a_run(given, &path, &error))?;
        let reader = open_snapshots(given, &folder)?;
        let header = reader.header().clone();
        let document = Document::new(path.display().to_string(), text);
        // Redirects lead to further origins.
        let origins: Vec<String> =
            header.origins.iter().filter(|name| name.contains("://")).cloned().collect();
        let mut plan = Plan::read_recorded(&document, &origins)
            .map_err(|problems| usage_error(problems.to_string(), ""))?;
        plan.from_flags = header.from_flags;
        let lasts = is_locked(&folder);
        if lasts {
            tell(&format!(
                "note: {} is still running; this is its report so far",
                folder.display()
            ));
        }
        let run = RecordedRun { end: end_of(reader, &folder)?, folder, plan, header, lasts };
        run.check_names()?;
        Ok(run)
    }

    /// Its folder, as its user wrote it.
    pub(crate) fn label(&self) -> String {
        self.folder.display().to_string()
    }

    /// When it started, and its targets.
    pub(crate) fn samples_header(&self) -> samples::Header {
        samples::Header::new(self.header.start_facts().started_at, sampled_targets(&self.plan))
    }

    /// Passes each second to `each`, in order, with its span; returns how the run ended.
    ///
    /// # Errors
    /// If a line is damaged.
    fn for_each_second(
        &self,
        mut each: impl FnMut(Seconds, &Snapshot),
    ) -> anyhow::Result<(Option<RunFacts>, bool, Vec<String>)> {
        let mut reader = open_snapshots(&self.folder, &self.folder)?;
        let mut at = Nanos::ZERO;
        while let Some(second) =
            reader.next_second().map_err(|why| unreadable(&self.folder, &why))?
        {
            let from = std::mem::replace(&mut at, second.t);
            each(Seconds { from: from.min(second.t), to: second.t }, &second);
        }
        let ignored = reader.ignored().map(String::from).collect();
        Ok((reader.facts().cloned(), reader.aborted(), ignored))
    }

    /// Passes each second to `each`, in order, with its span.
    ///
    /// # Errors
    /// If a line is damaged.
    pub(crate) fn seconds(&self, each: impl FnMut(Seconds, &Snapshot)) -> anyhow::Result<()> {
        self.for_each_second(each).map(drop)
    }

    /// The part that the filters select.
    ///
    /// # Errors
    /// Filters that do not fit the run.
    pub(crate) fn narrow(&self, filters: &Filters) -> anyhow::Result<Narrow> {
        Narrow::new(&self.plan, filters, self.end).map_err(|problem| {
            usage_error(format!("{}: {}", self.label(), problem.message), problem.hint)
        })
    }

    /// The report on the part that the filters select; `charted`: also over time.
    ///
    /// # Errors
    /// If the directory is damaged, or the filters do not fit the run.
    pub(crate) fn report(&self, filters: &Filters, charted: bool) -> anyhow::Result<Reported> {
        let narrow = self.narrow(filters)?;
        let mut fold = Fold::narrowed(&self.plan, narrow.clone());
        if charted {
            fold = fold.charted();
        }
        let (mut planned_to, mut seconds) = (None, Vec::new());
        let (facts, aborted, ignored) = self.for_each_second(|span, second| {
            seconds.push(span);
            let active = second.streams.iter().filter_map(|stream| stream.active);
            planned_to = active.map(|window| window.planned_to).chain(planned_to).max();
            fold.add(second);
        })?;
        ignored.iter().for_each(|what| tell(&format!("note: {}: {what}", self.label())));
        if narrow.scope() != Scope::Run {
            self.add_records(&mut fold, &seconds)?;
        }
        let facts = facts.unwrap_or_else(|| {
            let by = if self.lasts { STILL_RUNNING } else { KILLED };
            let start = self.header.start_facts();
            let end = seconds.last().map_or(Nanos::ZERO, |last| last.to);
            RunFacts::of_unfinished(start, self.plan.warmup, (planned_to, end), by)
        });
        let mut summary = fold.finish(facts);
        if narrow.scope() == Scope::Run
            && let Some(agents) = agents_of(&self.folder, &self.plan)?
        {
            summary = summary.with_agents(agents);
        }
        Ok(Reported { summary, narrow, aborted })
    }

    /// Adds the records of single requests.
    fn add_records(&self, fold: &mut Fold<'_>, seconds: &[Seconds]) -> anyhow::Result<()> {
        let mut add = |second: u32, sample: &Sample| {
            if let Some(second) = seconds.get(second as usize) {
                fold.add_sample(*second, sample);
            }
        };
        if let Some(file) = self.file(PARQUET) {
            let read = quietly(|| {
                ParquetReader::new(file, &sampled_targets(&self.plan))?.for_each_detail(&mut add)
            });
            read.unwrap_or_else(|error| self.note(PARQUET, &error.to_string()));
            return Ok(());
        }
        self.each_block(|block| {
            block.samples.iter().for_each(|sample| add(block.counted.second, sample));
            Ok(())
        })
    }

    /// The plan and the facts about the host, as far as they can be read.
    pub(crate) fn attachments(&self) -> Vec<Attachment> {
        let read = |name: &str| {
            let text =
                open_regular(&self.folder.join(name)).and_then(std::io::read_to_string).ok()?;
            Some(attachment(name, text))
        };
        [PLAN, HOST].into_iter().filter_map(read).collect()
    }

    /// Whether requests were recorded one by one.
    pub(crate) fn has_records(&self) -> bool {
        [PARQUET, SAMPLES].iter().any(|name| self.folder.join(name).symlink_metadata().is_ok())
    }

    /// Passes the records of all requests to `each`. What is damaged is left out, with a note.
    ///
    /// # Errors
    /// The first error of `each`.
    pub(crate) fn rows(
        &self,
        mut each: impl FnMut(Row) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(file) = self.file(PARQUET) else {
            return self.each_block(|Block { counted, samples }| {
                samples.into_iter().try_for_each(|sample| each(Row { counted, sample }))
            });
        };
        let mut reader = match quietly(|| ParquetReader::new(file, &sampled_targets(&self.plan))) {
            Ok(reader) => reader,
            Err(error) => {
                self.note(PARQUET, &error.to_string());
                return Ok(());
            }
        };
        loop {
            match quietly(|| reader.next_rows()) {
                Ok(Some(rows)) => rows.into_iter().try_for_each(&mut each)?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.note(PARQUET, &error.to_string());
                    return Ok(());
                }
            }
        }
    }

    /// Passes the blocks of `samples.bin` to `each`, if there is such a file.
    fn each_block(&self, mut each: impl FnMut(Block) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Some(file) = self.file(SAMPLES) else { return Ok(()) };
        let mut reader = match samples::Reader::new(BufReader::with_capacity(1 << 20, file)) {
            Ok((_, reader)) => reader,
            Err(error) => {
                self.note(SAMPLES, &error.to_string());
                return Ok(());
            }
        };
        while let Some(block) = reader.next_block()? {
            each(block)?;
        }
        reader.cut().into_iter().for_each(|why| self.note(SAMPLES, why));
        Ok(())
    }

    /// A file of the run; `None` if there is none. One that cannot be read is noted.
    fn file(&self, name: &str) -> Option<File> {
        match open_regular(&self.folder.join(name)) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                self.note(name, &error.to_string());
                None
            }
        }
    }

    fn note(&self, name: &str, why: &str) {
        let path = self.folder.join(name);
        tell(&format!("note: {}: {why}; the records from there on are left out", path.display()));
    }

    /// The plan must have the names that the seconds are counted by.
    fn check_names(&self) -> anyhow::Result<()> {
        let Plan { targets, streams, scrapes, logs, .. } = &self.plan;
        let same = self.header.names.iter().eq(targets.iter().map(|own| &own.name))
            && self.header.streams.iter().eq(streams.iter().map(|own| &own.name))
            && self.header.scrapes.iter().eq(scrapes.iter().map(|own| &own.name))
            && self.header.logs.iter().eq(logs.iter().map(|own| &own.name))
            && self.header.origins == self.plan.origin_names();
        if same {
            return Ok(());
        }
        Err(usage_error(
            format!("{}: plan.toml is not the plan of {SNAPSHOTS}", self.label()),
            "restore the plan.toml that the run wrote; only its objectives may be changed",
        ))
    }
}

/// What stopped a run that has left no end.
const KILLED: &str = "a kill, a crash or a loss of power";
const STILL_RUNNING: &str = "this report: it is still running";

fn unreadable(folder: &Path, error: &ReadError) -> anyhow::Error {
    usage_error(format!("{}: {error}", folder.join(SNAPSHOTS).display()), error.hint())
}

/// The folder of a run, given by its name or by that of a file in it.
fn folder_of(given: &Path) -> anyhow::Result<PathBuf> {
    match given.metadata() {
        Ok(found) if found.is_dir() => Ok(given.to_path_buf()),
        Ok(_) => {
            let parent = given.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new(".")).to_path_buf();
            if parent.join(SNAPSHOTS).is_file() {
                return Ok(parent);
            }
            Err(usage_error(
                format!("{} is not a run directory", given.display()),
                "give the directory that plimsoll run wrote (runs/…); for vegeta's results, use \
                 plimsoll vegeta report",
            ))
        }
        Err(error) => Err(usage_error(
            format!("cannot read {}: {error}", given.display()),
            "give the directory that plimsoll run wrote (runs/…)",
        )),
    }
}

/// Opens a file, but nothing that a reader could wait for.
fn open_regular(path: &Path) -> std::io::Result<File> {
    if path.metadata()?.is_file() {
        return File::open(path);
    }
    Err(std::io::Error::other("it is not a regular file"))
}

/// Whether a run is being written.
fn is_locked(folder: &Path) -> bool {
    let file = open_regular(&folder.join(SNAPSHOTS));
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The newest run directory in a folder.
pub(crate) fn newest_in(folder: &Path) -> Option<PathBuf> {
    let runs = folder.read_dir().ok()?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let started = path.join(SNAPSHOTS).metadata().ok()?.modified().ok()?;
        Some((started, path))
    });
    runs.max().map(|(_, path)| path)
}

fn not_a_run(given: &Path, path: &Path, error: &std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::NotFound {
        let name = path.file_name().unwrap_or_default().display().to_string();
        let hint = match newest_in(given) {
            Some(newest) => format!("it has runs in it; the newest is {}", newest.display()),
            None => "give the directory that plimsoll run wrote (runs/…)".into(),
        };
        let message = format!("{} is not a run directory: it has no {name}", given.display());
        return usage_error(message, hint);
    }
    usage_error(format!("cannot read {}: {error}", path.display()), "")
}

fn open_snapshots(given: &Path, folder: &Path) -> anyhow::Result<Reader<BufReader<File>>> {
    let path = folder.join(SNAPSHOTS);
    let file = open_regular(&path).map_err(|error| not_a_run(given, &path, &error))?;
    let reader = Reader::new(BufReader::with_capacity(1 << 20, file));
    reader.map_err(|error| unreadable(folder, &error))
}

/// The end of a run's last second; a run without any has no report.
fn end_of(mut reader: Reader<BufReader<File>>, folder: &Path) -> anyhow::Result<Nanos> {
    let end = reader.skip_to_end().map_err(|why| unreadable(folder, &why))?;
    if end > Nanos::ZERO {
        return Ok(end);
    }
    Err(usage_error(
        format!("{} has no complete second", folder.display()),
        "the run was stopped within its first second, or its disk was full",
    ))
}

/// Runs something whose panics are caught and reported as errors, without the panic's own message.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let done = work();
    std::panic::set_hook(hook);
    done
}
