//! The records of single requests of a run over agents: how an agent keeps and stores its own, and how the coordinator
//! makes the `samples.parquet` of the run of all of them.
//!
//! Only runs that ask for records have them (`--record`), and only those with a run directory. An agent writes its
//! records to a file that is unlinked as soon as it is open, up to its operator's limit (`--record-disk`), and stores
//! it in NATS after its part has ended. The coordinator fetches the files of all agents, checks them, and merges
//! them by second. Workers are numbered over all agents, in the order of the report's table.
//!
//! What is missing does not stop a run: the report names the agent, the number of requests, and the reason.

use super::work::{Operator, WorkEvent};
use crate::recording::{PARQUET, Prepared, Writing, sampled_targets};
use anyhow::Context;
use plimsoll_fleet::nats::Bus;
use plimsoll_fleet::{Coordinator, Records, StoredRecords};
use plimsoll_measure::WallClock;
use plimsoll_measure::samples::{Block, Header, Reader};
use plimsoll_plan::Plan;
use plimsoll_report::{ParquetWriter, Row};
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::sync::mpsc::UnboundedSender;

/// The records of an agent's part while it is sent.
pub(super) enum Keeping {
    Writing(Writing),
    /// Nothing is recorded; the reason.
    Nothing(String),
}

/// The records of an agent's part after its end.
pub(super) struct Kept {
    file: Option<File>,
    bytes: u64,
    /// Why some or all are missing; may be empty.
    missing: String,
}

impl Keeping {
    /// Begins to record, within the operator's limits. If that is impossible, the part is sent without.
    pub(super) fn start(
        prepared: Prepared,
        operator: &Operator,
        plan: &Plan,
        started_at: WallClock,
    ) -> Keeping {
        let folder = operator.folder.display();
        let started = unlinked(&operator.folder)
            .and_then(|file| prepared.start_in(file, operator.record_disk, plan, started_at));
        started.map_or_else(
            |why| Keeping::Nothing(format!("cannot record requests in {folder}: {why}")),
            Keeping::Writing,
        )
    }

    /// Waits until everything is written, after the engine has ended.
    pub(super) fn finish(self) -> Kept {
        let ended = match self {
            Keeping::Nothing(why) => Err(why),
            Keeping::Writing(writing) => {
                writing.finish().map_err(|why| format!("cannot keep them: {why}"))
            }
        };
        match ended {
            Ok((file, bytes, failure)) => {
                let missing = failure.map_or(String::new(), |why| why.to_string());
                Kept { file: Some(file), bytes, missing }
            }
            Err(missing) => Kept { file: None, bytes: 0, missing },
        }
    }
}

impl Kept {
    /// Stores them in NATS; what is stored, and that all is, goes to `events`.
    pub(super) async fn store(
        self,
        bus: Bus,
        run: String,
        agent: String,
        events: UnboundedSender<WorkEvent>,
    ) {
        let Kept { file, bytes, missing } = self;
        let nothing = |missing| StoredRecords { bytes: 0, sha256: String::new(), missing };
        let stored = match file {
            None => nothing(missing),
            Some(file) => {
                // Receivers are gone only while the process ends.
                let each = |done| _ = events.send(WorkEvent::Storing(done));
                let sha256 =
                    digest(&file, bytes).map_err(|why| format!("cannot read them back: {why}"));
                let put = bus.put_records(&run, &agent, (&file, bytes), each).await;
                match sha256.and_then(|sha256| put.map(|()| sha256)) {
                    Ok(sha256) => StoredRecords { bytes, sha256, missing },
                    Err(why) => nothing(why),
                }
            }
        };
        let _ = events.send(WorkEvent::Recorded(stored));
    }
}

/// A file that only this process can reach.
fn unlinked(folder: &Path) -> io::Result<File> {
    let path = folder.join(format!("plimsoll-records-{}", super::session()));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// The SHA-256 of the first bytes of a file, in hexadecimal digits.
fn digest(file: &File, bytes: u64) -> io::Result<String> {
    let (mut file, mut hash) = (file, Sha256::new());
    file.seek(SeekFrom::Start(0))?;
    let (mut left, mut buffer) = (bytes, vec![0; 64 << 10]);
    while left > 0 {
        let part = &mut buffer[..left.min(64 << 10) as usize];
        file.read_exact(part)?;
        hash.update(&*part);
        left -= part.len() as u64;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An agent's records at the coordinator.
pub(super) struct Fetched {
    file: Option<File>,
    /// Why some or all are missing; may be empty.
    pub(super) missing: String,
}

impl Fetched {
    pub(super) fn nothing(missing: impl Into<String>) -> Fetched {
        Fetched { file: None, missing: missing.into() }
    }
}

/// Fetches the records of all members, into unlinked files in the run directory.
pub(super) async fn fetch(
    bus: &Bus,
    run: &str,
    coordinator: &Coordinator,
    folder: &Path,
) -> Vec<Fetched> {
    let mut all = Vec::new();
    for member in coordinator.members() {
        all.push(match &member.records {
            None if member.is_lost() => Fetched::nothing("the agent was lost"),
            None => Fetched::nothing("the agent did not store them in time"),
            Some(stored) if stored.bytes == 0 => Fetched::nothing(stored.missing.clone()),
            Some(stored) => match fetch_one(bus, (run, &member.name), stored, folder).await {
                Ok(file) => Fetched { file: Some(file), missing: stored.missing.clone() },
                Err(why) => Fetched::nothing(why),
            },
        });
    }
    all
}

async fn fetch_one(
    bus: &Bus,
    (run, agent): (&str, &str),
    stored: &StoredRecords,
    folder: &Path,
) -> Result<File, String> {
    let cannot = |why: io::Error| format!("cannot keep them in {}: {why}", folder.display());
    let file = unlinked(folder).map_err(cannot)?;
    bus.records(run, agent, stored.bytes, &file).await?;
    if digest(&file, stored.bytes).map_err(cannot)? != stored.sha256 {
        return Err("what NATS has of them is damaged".into());
    }
    Ok(file)
}

/// How the records of an agent become a part of those of the run.
pub(super) struct Placed {
    /// The run's seconds in which the agent's ended, by index.
    pub(super) seconds: Vec<u32>,
    /// Number of its workers.
    pub(super) workers: usize,
}

/// Writes the run's `samples.parquet` from the records of all agents; returns the number of rows of each, and adds why
/// some are missing. Memory: a block of each agent, at most 4,096 records.
///
/// # Errors
/// The file cannot be written.
pub(super) fn join(
    plan: &Plan,
    started_at: WallClock,
    fetched: &mut [Fetched],
    placed: &[Placed],
    folder: &Path,
) -> anyhow::Result<Vec<u64>> {
    let path = folder.join(PARQUET);
    let part = path.with_extension("parquet.part");
    let joined = join_to(plan, started_at, fetched, placed, &part)
        .and_then(|rows| fs::rename(&part, &path).map(|()| rows).map_err(Into::into));
    if joined.is_err() {
        let _ = fs::remove_file(&part);
    }
    joined.with_context(|| format!("cannot write {}", path.display()))
}

fn join_to(
    plan: &Plan,
    started_at: WallClock,
    fetched: &mut [Fetched],
    placed: &[Placed],
    part: &Path,
) -> anyhow::Result<Vec<u64>> {
    let header = Header::new(started_at, sampled_targets(plan));
    let out = BufWriter::with_capacity(1 << 20, File::create(part)?);
    let mut parquet = ParquetWriter::new(out, &header)?;
    let mut sources: Vec<Source> = Vec::new();
    let (mut heap, mut first_worker) = (BinaryHeap::new(), 0_usize);
    for (own, place) in fetched.iter_mut().zip(placed) {
        let mut source = Source::open(own, &header, place, first_worker);
        first_worker += place.workers;
        source.advance(own);
        heap.extend(source.second().map(|second| Reverse((second, sources.len()))));
        sources.push(source);
    }
    while let Some(Reverse((_, place))) = heap.pop() {
        let source = &mut sources[place];
        for row in source.rows() {
            parquet.add_row(row)?;
        }
        source.advance(&mut fetched[place]);
        heap.extend(source.second().map(|second| Reverse((second, place))));
    }
    let (_, mut out) = parquet.finish()?;
    out.flush()?;
    Ok(sources.iter().map(|source| source.count).collect())
}

/// The records of one agent, block by block.
struct Source<'p> {
    reader: Option<Reader<BufReader<File>>>,
    placed: &'p Placed,
    first_worker: usize,
    next: Option<Block>,
    count: u64,
}

impl<'p> Source<'p> {
    fn open(
        own: &mut Fetched,
        all: &Header,
        placed: &'p Placed,
        first_worker: usize,
    ) -> Source<'p> {
        let reader = own.file.take().and_then(|mut file| {
            let opened = file.seek(SeekFrom::Start(0)).map_err(|why| why.to_string());
            let opened = opened.and_then(|_| {
                Reader::new(BufReader::with_capacity(16 << 10, file)).map_err(|why| why.to_string())
            });
            match opened {
                Ok((header, reader)) if header.targets == all.targets => Some(reader),
                Ok(_) => {
                    own.missing = "they are those of another plan".into();
                    None
                }
                Err(why) => {
                    own.missing = why;
                    None
                }
            }
        });
        Source { reader, placed, first_worker, next: None, count: 0 }
    }

    /// Reads the next block.
    fn advance(&mut self, own: &mut Fetched) {
        let Some(reader) = &mut self.reader else { return };
        self.next = match reader.next_block() {
            Ok(block) => block,
            Err(why) => {
                own.missing = why.to_string();
                None
            }
        };
        if let Some(why) = reader.cut() {
            own.missing = why.into();
        }
    }

    /// The run's second in which the next block was counted.
    fn second(&self) -> Option<u32> {
        let own = self.next.as_ref()?.counted.second;
        // A second that the agent did not report is its last.
        let placed = self.placed.seconds.get(own as usize).or(self.placed.seconds.last());
        Some(placed.copied().unwrap_or(own))
    }

    /// The next block's rows, as rows of the run.
    fn rows(&mut self) -> impl Iterator<Item = Row> {
        let second = self.second().unwrap_or_default();
        let block = self.next.take();
        let mut counted = block.as_ref().map(|own| own.counted).unwrap_or_default();
        let worker = self.first_worker + usize::from(counted.worker);
        (counted.worker, counted.second) = (u16::try_from(worker).unwrap_or(u16::MAX), second);
        self.count += block.as_ref().map_or(0, |own| own.samples.len() as u64);
        let samples = block.into_iter().flat_map(|own| own.samples);
        samples.map(move |sample| Row { counted, sample })
    }
}

/// How many requests of an agent should have been recorded.
pub(super) fn expected(records: Records, requests: &plimsoll_measure::Requests) -> u64 {
    match records {
        Records::All => requests.scheduled,
        Records::Errors => requests.failed + requests.unsent,
    }
}
