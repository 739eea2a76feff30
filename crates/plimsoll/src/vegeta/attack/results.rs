//! Writes results on a thread of their own, so that a slow output never slows the load.

use super::hit::{HitWriter, latency};
use crate::vegeta::refused;
use anyhow::Context;
use plimsoll_compat::vegeta::{Encoder, GobEncoder, Hit};
use plimsoll_engine::{Captured, CapturedBlock, Control, Dropped};
use plimsoll_measure::{Histogram, WallClock};
use plimsoll_plan::Plan;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Where results go.
pub(super) enum Output {
    Stdout,
    File(File, String),
}

impl Output {
    /// Creates or truncates a file; `stdout` is the standard output.
    pub(super) fn open(path: &OsStr) -> anyhow::Result<Output> {
        if path == "stdout" {
            return Ok(Output::Stdout);
        }
        let shown = path.display().to_string();
        match File::create(path) {
            Ok(file) => Ok(Output::File(file, shown)),
            Err(error) => {
                let hint = "give the path of a file that can be written: -output=results.bin";
                Err(refused(format!("cannot write {shown}: {error}"), hint))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Output::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Output::File(file, _) => file.write_all(bytes),
        }
    }

    fn name(&self) -> &str {
        match self {
            Output::Stdout => "stdout",
            Output::File(_, name) => name,
        }
    }
}

/// What was written.
#[derive(Default)]
pub(super) struct Written {
    pub(super) results: u64,
    pub(super) dropped: Dropped,
    /// The time from start to end of each request that vegeta would have made.
    pub(super) latency: Histogram,
    /// Whether the reader of the output went away.
    pub(super) reader_left: bool,
    /// Why writing failed, otherwise.
    pub(super) error: Option<String>,
}

/// What the results of an attack have in common.
pub(super) struct Common {
    pub(super) plan: Arc<Plan>,
    pub(super) attack: String,
    pub(super) body_max: u64,
    pub(super) redirects: i64,
    pub(super) source: IpAddr,
}

/// The thread that writes.
pub(super) struct Writer(JoinHandle<Written>);

/// What the thread needs to know of the run once its clock starts.
pub(super) type Started = (WallClock, Control);

impl Writer {
    /// Starts the thread, and returns where it waits for the start of the run's clock.
    pub(super) fn start(
        output: Output,
        captured: Captured,
        common: Common,
    ) -> anyhow::Result<(Writer, Sender<Started>)> {
        let (begin, begun) = channel();
        let thread = std::thread::Builder::new()
            .name("results".into())
            .spawn(move || write_all(output, captured, &common, &begun))
            .context("cannot spawn the thread that writes results")?;
        Ok((Writer(thread), begin))
    }

    /// Waits until all results are written.
    pub(super) fn finish(self) -> Written {
        self.0.join().unwrap_or_else(|_| Written {
            error: Some("the thread that writes results panicked".into()),
            ..Written::default()
        })
    }
}

fn write_all(
    mut output: Output,
    captured: Captured,
    common: &Common,
    begun: &Receiver<Started>,
) -> Written {
    let mut written = Written::default();
    // Fails if the run could not start.
    let Ok((started_at, control)) = begun.recv() else { return written };
    let hits = HitWriter {
        plan: &common.plan,
        started_at,
        attack: common.attack.clone().into_bytes(),
        body_max: common.body_max,
        redirects: common.redirects,
        source: common.source,
    };
    let mut encoder = Encoder::Gob(GobEncoder::default());
    let (mut hit, mut bytes) = (Hit::default(), Vec::new());
    for block in captured {
        written.dropped.bodies += block.dropped.bodies;
        written.dropped.results += block.dropped.results;
        if written.reader_left || written.error.is_some() {
            continue;
        }
        bytes.clear();
        written.results += encode(&block, &hits, &mut hit, &mut encoder, &mut bytes);
        block.results().for_each(|result| written.latency.record(latency(&result)));
        match output.write(&bytes) {
            Ok(()) => continue,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                written.reader_left = true;
                // Nobody waits for the requests in flight.
                control.stop();
            }
            Err(error) => {
                written.error = Some(format!("cannot write {}: {error}", output.name()));
            }
        }
        control.stop();
    }
    written
}

/// Appends a block's results; returns their number.
fn encode(
    block: &CapturedBlock,
    hits: &HitWriter<'_>,
    hit: &mut Hit,
    encoder: &mut Encoder,
    bytes: &mut Vec<u8>,
) -> u64 {
    let mut written = 0;
    for result in block.results() {
        if hits.fill(&result, hit) {
            // Fails only in JSON.
            written += u64::from(encoder.write(hit, bytes).is_ok());
        }
    }
    written
}
