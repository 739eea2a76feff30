//! `samples.bin` while a run lasts, and `samples.parquet` after it.
//!
//! A separate thread writes the samples. When a write fails, as on a full disk, it says so once and writes
//! nothing more; the run goes on. The seconds and the summary are worth more than samples: for them, samples
//! are cut off at the end again.

use crate::tell;
use anyhow::Context;
use plimsoll_engine::{Recorded, SampleBlock, SampleSink};
use plimsoll_measure::WallClock;
use plimsoll_measure::samples::{Encoder, Header, Reader, SampledTarget};
use plimsoll_measure::units::grouped;
use plimsoll_plan::Plan;
use plimsoll_report::ParquetWriter;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// The file that is written during the run.
pub(crate) const SAMPLES: &str = "samples.bin";
/// The file that takes its place after the run.
pub(crate) const PARQUET: &str = "samples.parquet";
/// How much is cut off at once to make room on a full disk, in bytes.
const ROOM: u64 = 1 << 20;
/// Rows after which a conversion says how far it is.
const ROWS_PER_LINE: u64 = 5_000_000;

/// The recording of a run that has not started.
pub(crate) struct Prepared {
    inbox: Receiver<SampleBlock>,
}

impl Prepared {
    /// A recording, and the engine's end of it.
    pub(crate) fn new(recorded: Recorded) -> (SampleSink, Prepared) {
        let (sink, inbox) = SampleSink::new(recorded);
        (sink, Prepared { inbox })
    }

    /// Starts to write `samples.bin` in a folder.
    ///
    /// # Errors
    /// If the file cannot be created or the thread cannot be started.
    pub(crate) fn start(
        self,
        folder: &Path,
        plan: &Plan,
        started_at: WallClock,
    ) -> io::Result<Recording> {
        let file = File::create_new(folder.join(SAMPLES))?;
        let writing = self.start_in(file, u64::MAX, plan, started_at)?;
        Ok(Recording { writing, folder: folder.to_path_buf() })
    }

    /// Starts to write to an empty file, at most `len_max` bytes.
    ///
    /// # Errors
    /// If the file cannot be written or the thread cannot be started.
    pub(crate) fn start_in(
        self,
        mut file: File,
        len_max: u64,
        plan: &Plan,
        started_at: WallClock,
    ) -> io::Result<Writing> {
        let header = Header::new(started_at, sampled_targets(plan));
        let header = header.to_line();
        file.write_all(header.as_bytes())?;
        let len = header.len() as u64;
        let output = Output { file, start: len, len, len_max, state: State::Writing };
        let output = Arc::new(Mutex::new(output));
        let to = output.clone();
        let thread = std::thread::Builder::new()
            .name("recording".into())
            .spawn(move || write_all(&self.inbox, &to))?;
        Ok(Writing { thread, output })
    }
}

/// A plan's targets, as records name them.
pub(crate) fn sampled_targets(plan: &Plan) -> Vec<SampledTarget> {
    let targets = plan.targets.iter().map(|target| SampledTarget {
        target: target.name.clone(),
        stream: plan.streams[target.stream].name.clone(),
    });
    targets.collect()
}

/// `samples.bin` while it is written.
struct Output {
    file: File,
    /// Where the first block begins.
    start: u64,
    len: u64,
    len_max: u64,
    state: State,
}

/// How far the recording is.
enum State {
    Writing,
    /// Nothing more is written because of an error that has not been reported yet.
    Failed(io::Error),
    /// The error has been reported.
    Ended,
}

impl Output {
    /// Appends bytes; after an error, nothing more is written.
    fn append(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Writing) {
            return;
        }
        if self.len + bytes.len() as u64 > self.len_max {
            let why = format!("{} bytes are recorded, which is the limit", self.len);
            self.state = State::Failed(io::Error::other(why));
            return;
        }
        match self.file.write_all(bytes) {
            Ok(()) => self.len += bytes.len() as u64,
            Err(error) => _ = self.make_room(&error),
        }
    }

    /// Cuts off some samples and ends the recording because of an error; returns whether there were any.
    fn make_room(&mut self, error: &io::Error) -> bool {
        if matches!(self.state, State::Writing) {
            self.state = State::Failed(error.kind().into());
        }
        let kept = self.len.saturating_sub(ROOM).max(self.start);
        // A block that failed may be there in part.
        let there = self.file.metadata().map_or(self.len, |file| file.len());
        let freed = kept < there && self.file.set_len(kept).is_ok();
        self.len = kept;
        freed
    }

    /// The error that ended the recording, once.
    fn failure(&mut self) -> Option<io::Error> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Failed(error) => Some(error),
            before => {
                self.state = before;
                None
            }
        }
    }
}

/// Writes blocks until no worker is left.
fn write_all(inbox: &Receiver<SampleBlock>, output: &Mutex<Output>) {
    let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
    for block in inbox {
        bytes.clear();
        encoder.encode(block.counted(), block.samples(), &mut bytes);
        // The buffer goes back before the disk is waited for.
        drop(block);
        locked(output).append(&bytes);
    }
}

fn locked(output: &Mutex<Output>) -> MutexGuard<'_, Output> {
    output.lock().expect("no holder panics")
}

/// A file of samples that is being written.
pub(crate) struct Writing {
    thread: JoinHandle<()>,
    output: Arc<Mutex<Output>>,
}

impl Writing {
    /// Waits until everything is written, after the engine has ended. Returns the file, its length, and the error
    /// that ended the recording early.
    ///
    /// # Errors
    /// If the file cannot be used any more.
    pub(crate) fn finish(self) -> io::Result<(File, u64, Option<io::Error>)> {
        // A panic has been printed; what was written can be read.
        let _ = self.thread.join();
        let mut output = locked(&self.output);
        let failure = output.failure();
        Ok((output.file.try_clone()?, output.len, failure))
    }
}

/// A recording in progress.
pub(crate) struct Recording {
    writing: Writing,
    folder: PathBuf,
}

impl Recording {
    /// The error that ended the recording, once.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        locked(&self.writing.output).failure()
    }

    /// Cuts off some samples and ends the recording, because another file could not be written; returns
    /// whether there were any.
    pub(crate) fn make_room(&self, error: &io::Error) -> bool {
        locked(&self.writing.output).make_room(error)
    }

    /// Waits until everything is written, after the engine has ended, and makes `samples.parquet` of it,
    /// unless the recording ended early.
    ///
    /// # Errors
    /// If a write has failed that [`Recording::failure`] has not returned, or the conversion fails.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        // A panic has been printed; what was written can be read.
        let _ = self.writing.thread.join();
        let mut output = locked(&self.writing.output);
        if let Some(error) = output.failure() {
            return Err(error).context(format!("cannot write {SAMPLES}"));
        }
        if matches!(output.state, State::Ended) {
            return Ok(());
        }
        let (from, to) = (self.folder.join(SAMPLES), self.folder.join(PARQUET));
        convert(&from, &to)?;
        fs::remove_file(&from).with_context(|| format!("cannot remove {}", from.display()))
    }
}

/// Makes a Parquet file of a `samples.bin`.
///
/// # Errors
/// If the samples cannot be read or the file cannot be written; no part of it is left then.
fn convert(from: &Path, to: &Path) -> anyhow::Result<()> {
    let part = to.with_extension("parquet.part");
    let converted = convert_to(from, &part).and_then(|()| Ok(fs::rename(&part, to)?));
    if converted.is_err() {
        let _ = fs::remove_file(&part);
    }
    converted.with_context(|| format!("cannot write {}", to.display()))
}

fn convert_to(from: &Path, to: &Path) -> anyhow::Result<()> {
    let samples = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let (header, mut samples) = Reader::new(BufReader::with_capacity(1 << 20, samples))
        .with_context(|| format!("cannot read {}", from.display()))?;
    let out = BufWriter::with_capacity(1 << 20, File::create(to)?);
    let mut parquet = ParquetWriter::new(out, &header)?;
    let (mut rows, mut told) = (0, ROWS_PER_LINE);
    while let Some(block) = samples.next_block()? {
        parquet.add(&block)?;
        rows += block.samples.len() as u64;
        if rows >= told {
            tell(&format!("{PARQUET}: {} requests so far", grouped(rows)));
            told += ROWS_PER_LINE;
        }
    }
    if let Some(why) = samples.cut() {
        tell(&format!("note: {}: {why}; what precedes it is kept", from.display()));
    }
    let (_, mut out) = parquet.finish()?;
    Ok(out.flush()?)
}
