//! The run directory: `plan.toml`, `host.json`, `snapshots.jsonl`, `samples.bin` and then
//! `samples.parquet`, `summary.json`, `report.html`.
//!
//! If the process is killed or the host loses power, the directory stays readable: the plan is on disk
//! before the run starts, each snapshot is one line in one write, samples are in checked blocks, and other
//! files are renamed into place only when complete.

use crate::host_file::HostFile;
use crate::recording::{self, Recording};
use crate::usage_error;
use anyhow::Context;
use plimsoll_engine::{Recorded, SampleSink};
use plimsoll_measure::wire::{Header, SCHEMA, end_line, to_line};
use plimsoll_measure::{Snapshot, StartFacts, WallClock};
use plimsoll_plan::Plan;
use plimsoll_report::{Attachment, Summary};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The plan as it was run.
pub(crate) const PLAN: &str = "plan.toml";
/// Facts about the host.
pub(crate) const HOST: &str = "host.json";
/// The report with charts.
pub(crate) const PAGE: &str = "report.html";

/// A document that the page contains.
pub(crate) fn attachment(name: &str, text: String) -> Attachment {
    Attachment { name: name.into(), text }
}

/// A run directory that is being written.
pub(crate) struct RunDir {
    path: PathBuf,
    /// With the number of seconds written. `None` before the start, and after an error, so that the seconds
    /// in the file have no gap.
    snapshots: Option<(File, Header, u64)>,
    /// The first error.
    failed: Option<io::Error>,
    samples: Samples,
}

/// The recording of the run's arrivals.
enum Samples {
    None,
    Prepared(recording::Prepared),
    Running(Recording),
}

impl RunDir {
    /// Creates the directory: `asked`, which must not exist, or a new one under `runs/`.
    pub(crate) fn create(asked: Option<&Path>, plan: &Plan) -> anyhow::Result<RunDir> {
        let path = match asked {
            Some(path) => {
                create_new(path).map_err(|error| creation_error(path, &error))?;
                path.to_path_buf()
            }
            None => create_under(Path::new("runs"), plan)?,
        };
        let created = RunDir { path, snapshots: None, failed: None, samples: Samples::None };
        write_synced(&created.path.join(PLAN), &plan.to_toml()).map_err(|error| {
            created.discard();
            creation_error(&created.path, &error)
        })?;
        Ok(created)
    }

    /// The directory's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Records arrivals during the run, which the engine sends to the returned sink.
    pub(crate) fn record(&mut self, recorded: Recorded) -> SampleSink {
        let (sink, prepared) = recording::Prepared::new(recorded);
        self.samples = Samples::Prepared(prepared);
        sink
    }

    /// Removes the directory of a run that did not start; it contains only a copy of the plan.
    pub(crate) fn discard(&self) {
        // Errors are ignored: the directory then stays.
        let _ = fs::remove_dir_all(&self.path);
    }

    /// Writes `host.json`, creates `snapshots.jsonl` with its header, and starts recording. Returns a warning
    /// if that fails.
    pub(crate) fn begin(
        &mut self,
        plan: &Plan,
        start: &StartFacts,
        host: &HostFile,
    ) -> Option<String> {
        let header = header(plan, start, host.unread().to_vec());
        let opened = File::create_new(self.path.join("snapshots.jsonl"));
        let written = opened.and_then(|mut file| {
            file.write_all((header.to_line() + "\n").as_bytes())?;
            file.sync_all()?;
            // Until the end, so that a report can tell that the run goes on. Some file systems cannot.
            let _ = file.try_lock();
            Ok(file)
        });
        match written {
            Ok(file) => self.snapshots = Some((file, header, 0)),
            Err(error) => self.failed = Some(error),
        }
        self.write_whole(HOST, &host.to_json());
        if let Samples::Prepared(prepared) = std::mem::replace(&mut self.samples, Samples::None) {
            match prepared.start(&self.path, plan, start.started_at) {
                Ok(recording) => self.samples = Samples::Running(recording),
                Err(error) => _ = self.failed.get_or_insert(error),
            }
        }
        let path = self.path.display();
        self.failed.as_ref().map(|error| {
            format!("warning: cannot write to {path}: {error}; the run continues and its results may be lost")
        })
    }

    /// Appends a second to `snapshots.jsonl`. Returns a warning if that, or recording, fails for the first
    /// time.
    pub(crate) fn add(&mut self, snapshot: &Snapshot) -> Option<String> {
        let (warning, recording) = (self.append(snapshot), self.recording_failed());
        warning.or(recording)
    }

    /// A warning if recording has failed since the last call.
    fn recording_failed(&mut self) -> Option<String> {
        let error = self.samples.failure()?;
        let path = self.path.join(recording::SAMPLES);
        let warning = format!(
            "warning: cannot write {}: {error}; the run continues without recording its requests",
            path.display()
        );
        self.failed.get_or_insert(error);
        Some(warning)
    }

    fn append(&mut self, snapshot: &Snapshot) -> Option<String> {
        let (file, header, seconds) = self.snapshots.as_mut()?;
        *seconds += 1;
        let line = to_line(snapshot, header) + "\n";
        let error = self.samples.with_room(|| append(file, line.as_bytes())).err()?;
        self.snapshots = None;
        let path = self.path.join("snapshots.jsonl");
        let warning = format!(
            "warning: cannot write {}: {error}; the run continues without recording its seconds",
            path.display()
        );
        self.failed.get_or_insert(error);
        Some(warning)
    }

    /// Writes the end of `snapshots.jsonl`, `summary.json`, `report.html`, and `host.json` again. `aborted`:
    /// whether an objective stopped the run. Returns the first write error of the whole run, and the recording,
    /// which is to be finished.
    pub(crate) fn finish(
        mut self,
        plan: &Plan,
        summary: &Summary,
        aborted: bool,
        host: &HostFile,
    ) -> (anyhow::Result<()>, Option<Recording>) {
        let facts = &summary.facts;
        if let Some((file, _, seconds)) = &mut self.snapshots {
            let line = end_line(facts, aborted, *seconds) + "\n";
            let written = self.samples.with_room(|| append(file, line.as_bytes()));
            written.err().into_iter().for_each(|error| _ = self.failed.get_or_insert(error));
        }
        self.write_whole(HOST, &host.to_json());
        self.write_whole("summary.json", &summary.to_json());
        let attached = [attachment(PLAN, plan.to_toml()), attachment(HOST, host.to_json())];
        self.write_whole(PAGE, &summary.to_page(&attached, None));
        let written = self.failed.map_or(Ok(()), Err);
        let written =
            written.with_context(|| format!("could not write all of {}", self.path.display()));
        match self.samples {
            Samples::Running(recording) => (written, Some(recording)),
            Samples::None | Samples::Prepared(_) => (written, None),
        }
    }

    /// Writes a file, or replaces it.
    fn write_whole(&mut self, name: &str, text: &str) {
        let unfinished = self.path.join(format!("{name}.part"));
        let written = self
            .samples
            .with_room(|| fs::write(&unfinished, text))
            .and_then(|()| fs::rename(&unfinished, self.path.join(name)));
        if let Err(error) = written {
            // A part of a file is of no use, and takes space that the other files need.
            let _ = fs::remove_file(&unfinished);
            self.failed.get_or_insert(error);
        }
    }
}

impl Samples {
    /// Writes something; if that fails, as on a full disk, again with fewer and fewer samples there.
    fn with_room(&self, mut write: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        // The recording thread may have made room itself, after the write had failed.
        let mut is_last = false;
        loop {
            let Err(error) = write() else { return Ok(()) };
            match self {
                Samples::Running(recording) if recording.make_room(&error) => {}
                Samples::Running(_) if !is_last => is_last = true,
                _ => return Err(error),
            }
        }
    }

    /// The error that ended the recording since the last call.
    fn failure(&self) -> Option<io::Error> {
        match self {
            Samples::Running(recording) => recording.failure(),
            Samples::None | Samples::Prepared(_) => None,
        }
    }
}

/// Appends a line, or nothing.
fn append(file: &mut File, line: &[u8]) -> io::Result<()> {
    let before = file.stream_position()?;
    file.write_all(line).inspect_err(|_| {
        // If this fails too, an incomplete last line is left, which readers ignore.
        let _ = file.set_len(before).and_then(|()| file.seek(SeekFrom::Start(before)));
    })
}

/// Writes a file and waits until it is on disk.
fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn create_new(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    fs::create_dir(path)
}

fn creation_error(path: &Path, error: &io::Error) -> anyhow::Error {
    let shown = path.display();
    let hint = if error.kind() == io::ErrorKind::AlreadyExists && path.exists() {
        "results are never overwritten; choose a new directory with --out DIR"
    } else {
        "choose a writable directory with --out DIR, or write no results with --no-out"
    };
    usage_error(format!("cannot create the run directory {shown}: {error}"), hint)
}

/// `runs/<start>-<name>`, numbered if two runs start in the same second.
fn create_under(folder: &Path, plan: &Plan) -> anyhow::Result<PathBuf> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let slug: String = plan.name.chars().map(plain).take(40).collect();
    let base = format!("{}-{}", WallClock::now().compact(), slug.trim_matches('-'));
    for number in 1..100 {
        let name = if number == 1 { base.clone() } else { format!("{base}-{number}") };
        let path = folder.join(name);
        match create_new(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(creation_error(&path, &error)),
        }
    }
    Err(usage_error(
        format!("{} already contains 99 runs started in this second", folder.display()),
        "choose a directory with --out DIR",
    ))
}

/// The header of a run's seconds; `unread`: what of the host could not be read.
pub(crate) fn header(plan: &Plan, start: &StartFacts, unread: Vec<String>) -> Header {
    Header {
        schema: SCHEMA.into(),
        plan: plan.name.clone(),
        plan_digest: format!("{:016x}", plan.digest()),
        started_at: start.started_at.rfc3339(),
        started_at_unix_ns: start.started_at.unix_ns,
        cpus: start.cpus,
        workers: start.workers,
        forced: start.forced.clone(),
        from_flags: plan.from_flags,
        names: plan.targets.iter().map(|target| target.name.clone()).collect(),
        streams: plan.streams.iter().map(|stream| stream.name.clone()).collect(),
        origins: plan.origin_names(),
        scrapes: plan.scrapes.iter().map(|scrape| scrape.name.clone()).collect(),
        logs: plan.logs.iter().map(|log| log.name.clone()).collect(),
        unread,
    }
}
