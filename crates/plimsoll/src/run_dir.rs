//! The run directory: `plan.toml`, `snapshots.jsonl`, `summary.json`.
//!
//! Whatever has been written stays readable when the process is killed: the plan is there from the
//! start, each snapshot is a line written whole, and the summary appears under its name only when it
//! is complete.

use crate::usage_error;
use anyhow::Context;
use plimsoll_measure::wire::{Header, SCHEMA, to_line};
use plimsoll_measure::{Snapshot, WallClock};
use plimsoll_plan::Plan;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A run directory that is being written.
pub(crate) struct RunDir {
    path: PathBuf,
    snapshots: Option<(File, Header)>,
    /// The first error; after it nothing more is written.
    failed: Option<io::Error>,
}

impl RunDir {
    /// Makes the directory: `asked`, which must not exist, or a new one under `runs/`.
    pub(crate) fn create(asked: Option<&Path>, plan: &Plan) -> anyhow::Result<RunDir> {
        let path = match asked {
            Some(path) => {
                create_new(path).map_err(|error| refusal(path, &error))?;
                path.to_path_buf()
            }
            None => create_under(Path::new("runs"), plan)?,
        };
        fs::write(path.join("plan.toml"), plan.to_toml())
            .map_err(|error| refusal(&path, &error))?;
        Ok(RunDir { path, snapshots: None, failed: None })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Begins `snapshots.jsonl`.
    pub(crate) fn begin(&mut self, plan: &Plan, started_at: WallClock) {
        let header = Header {
            schema: SCHEMA.into(),
            plan: plan.name.clone(),
            plan_digest: format!("{:016x}", plan.digest()),
            started_at: started_at.rfc3339(),
            names: plan.targets.iter().map(|target| target.name.clone()).collect(),
            streams: plan.streams.iter().map(|stream| stream.name.clone()).collect(),
            scrapes: plan.scrapes.iter().map(|scrape| scrape.name.clone()).collect(),
        };
        let opened = File::create_new(self.path.join("snapshots.jsonl"));
        let begun = opened.and_then(|mut file| {
            file.write_all((header.to_line() + "\n").as_bytes())?;
            Ok(file)
        });
        match begun {
            Ok(file) => self.snapshots = Some((file, header)),
            Err(error) => self.failed = Some(error),
        }
    }

    /// Adds a second.
    pub(crate) fn add(&mut self, snapshot: &Snapshot) {
        let open = self.snapshots.as_mut().filter(|_| self.failed.is_none());
        let Some((file, header)) = open else { return };
        let line = to_line(snapshot, header) + "\n";
        if let Err(error) = file.write_all(line.as_bytes()) {
            self.failed = Some(error);
        }
    }

    /// Writes `summary.json`.
    ///
    /// # Errors
    /// The first error of the whole run.
    pub(crate) fn finish(self, summary: &str) -> anyhow::Result<()> {
        let unfinished = self.path.join("summary.json.part");
        let written = match self.failed {
            Some(error) => Err(error),
            None => fs::write(&unfinished, summary)
                .and_then(|()| fs::rename(&unfinished, self.path.join("summary.json"))),
        };
        written.with_context(|| format!("could not write all of {}", self.path.display()))
    }
}

fn create_new(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    fs::create_dir(path)
}

fn refusal(path: &Path, error: &io::Error) -> anyhow::Error {
    let shown = path.display();
    let hint = if path.exists() {
        "results are never overwritten; name another with --out DIR"
    } else {
        "name a directory that can be written with --out DIR, or write none with --no-out"
    };
    usage_error(format!("cannot make the run directory {shown}: {error}"), hint)
}

/// `runs/<start>-<name>`, with a number behind it when two begin in the same second.
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
            Err(error) => return Err(refusal(&path, &error)),
        }
    }
    Err(usage_error(format!("{} is full of runs of this second", folder.display()), ""))
}
