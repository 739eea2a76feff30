//! `samples.bin` while a run lasts, and `samples.parquet` after it.
//!
//! A thread of its own writes the samples. When a write fails, it says so once and writes nothing more; the
//! run goes on.

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
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// The file that is written during the run.
pub(crate) const SAMPLES: &str = "samples.bin";
/// The file that takes its place after the run.
pub(crate) const PARQUET: &str = "samples.parquet";
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
        let targets = plan.targets.iter().map(|target| SampledTarget {
            target: target.name.clone(),
            stream: plan.streams[target.stream].name.clone(),
        });
        let header = Header::new(started_at, targets.collect());
        let mut file = File::create_new(folder.join(SAMPLES))?;
        file.write_all(header.to_line().as_bytes())?;
        let (failed, failure) = channel();
        let thread = std::thread::Builder::new()
            .name("recording".into())
            .spawn(move || write_all(&self.inbox, file, &failed))?;
        Ok(Recording { thread, failure, folder: folder.to_path_buf() })
    }
}

/// Writes blocks until no worker is left.
fn write_all(inbox: &Receiver<SampleBlock>, file: File, failed: &Sender<io::Error>) {
    let mut file = Some(file);
    let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
    for block in inbox {
        let Some(open) = &mut file else { continue };
        bytes.clear();
        encoder.encode(block.counted(), block.samples(), &mut bytes);
        // The buffer goes back before the disk is waited for.
        drop(block);
        if let Err(error) = open.write_all(&bytes) {
            // Fails only if the run was given up.
            let _ = failed.send(error);
            file = None;
        }
    }
}

/// A recording in progress.
pub(crate) struct Recording {
    thread: JoinHandle<()>,
    failure: Receiver<io::Error>,
    folder: PathBuf,
}

impl Recording {
    /// The error that ended the recording since the last call.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.failure.try_recv().ok()
    }

    /// Waits until everything is written, after the engine has ended, and makes `samples.parquet` of it.
    ///
    /// # Errors
    /// If a write has failed that [`Recording::failure`] has not returned, or the conversion fails.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        // A panic has been printed; what was written can be read.
        let _ = self.thread.join();
        if let Ok(error) = self.failure.try_recv() {
            return Err(error).context(format!("cannot write {SAMPLES}"));
        }
        let (from, to) = (self.folder.join(SAMPLES), self.folder.join(PARQUET));
        convert(&from, &to)?;
        fs::remove_file(&from).with_context(|| format!("cannot remove {}", from.display()))
    }
}

/// Makes a Parquet file of a `samples.bin`. Returns the number of rows.
///
/// # Errors
/// If the samples cannot be read or the file cannot be written; no part of it is left then.
pub(crate) fn convert(from: &Path, to: &Path) -> anyhow::Result<u64> {
    let part = to.with_extension("parquet.part");
    let converted = convert_to(from, &part).and_then(|rows| {
        fs::rename(&part, to)?;
        Ok(rows)
    });
    if converted.is_err() {
        let _ = fs::remove_file(&part);
    }
    converted.with_context(|| format!("cannot write {}", to.display()))
}

fn convert_to(from: &Path, to: &Path) -> anyhow::Result<u64> {
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
    out.flush()?;
    Ok(rows)
}
