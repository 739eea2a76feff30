//! `samples.bin`: one fixed-width record per arrival, in checksummed blocks.
//!
//! A file is a line of JSON ([`Header`]) and then blocks, which are independent of each other: any prefix of
//! a file can be read up to its last whole block. All numbers are little-endian.
//!
//! ```text
//! block   "PBLK"  length of the body u32  CRC-32 of the body u32  body
//! body    worker u16  kinds u16  records u32  second u32  base u64  kinds × 20 bytes  records × 47 bytes
//! kind    target u32  error u8  fault u8  status u16  flags u8  3 × 0  code i64
//! record  scheduled_at - base, lag, wait, flight, ttfb, bytes in: u48  bytes out u40  connection u32  kind u16
//! ```
//! If any record of a block is of an exchange that stayed open, the body ends with 10 bytes for each record: for
//! how long it was open (an optional u48), and how many messages it received (u32).
//!
//! Times are in nanoseconds. `error` and `fault` are 0 for none, or 1 + the index of the name in the header.
//! What many records share (target, outcome, status, code) is written once per block, as a kind. An
//! optional u48 is all ones if there is none; a value beyond its range (3 days, 1 TiB) is cut to it.

use crate::names::{ErrorClass, Fault, Listed};
use crate::{Nanos, Stats, WallClock};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{self, BufRead};

/// The version of `samples.bin`.
pub const SCHEMA: &str = "plimsoll/samples/1";
/// The most samples of a block.
pub const BLOCK_MAX: usize = 4096;
/// Bytes per record.
const RECORD: usize = 47;
const KIND: usize = 20;
const FIXED: usize = 20;
/// Bytes per record at the end of a block with exchanges that stayed open.
const STAYED: usize = 10;
const PREFIX: usize = 12;
const MAGIC: &[u8; 4] = b"PBLK";
/// The longest header line; as long as a plan with 10,000 targets of long names.
const HEADER_MAX: u64 = 64 << 20;
const NONE: u64 = (1 << 48) - 1;
const U40_MAX: u64 = (1 << 40) - 1;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`SCHEMA`].
    pub schema: String,
    /// When the run started, in nanoseconds since 1970.
    pub started_at_unix_ns: u64,
    /// Targets, by index.
    pub targets: Vec<SampledTarget>,
    /// Names of error classes, by index.
    pub errors: Vec<String>,
    /// Names of faults, by index.
    pub faults: Vec<String>,
}

/// A target and its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampledTarget {
    /// The target's name.
    pub target: String,
    /// The stream's name.
    pub stream: String,
}

impl Header {
    /// A header of this version.
    pub fn new(started_at: WallClock, targets: Vec<SampledTarget>) -> Header {
        Header {
            schema: SCHEMA.into(),
            started_at_unix_ns: started_at.unix_ns,
            targets,
            errors: ErrorClass::ALL.iter().map(|class| class.name().into()).collect(),
            faults: Fault::ALL.iter().map(|fault| fault.name().into()).collect(),
        }
    }

    /// As the file's first line.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("text and lists are JSON") + "\n"
    }
}

/// What arrivals of the same fate share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The target's index in the plan.
    pub target: u32,
    /// Why the arrival is not ok; `None` if it is.
    pub error: Option<ErrorClass>,
    /// Details of the error.
    pub fault: Option<Fault>,
    /// The HTTP status of a complete answer.
    pub status: Option<u16>,
    /// The code of the first JSON-RPC error in the answer.
    pub rpc_code: Option<i64>,
    /// Whether the kernel accepted at least one byte of the request.
    pub sent: bool,
}

/// An arrival that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its planned instant on the run's clock.
    pub scheduled_at: Nanos,
    /// From then until it was dispatched.
    pub lag: Nanos,
    /// Time that its requests waited to be sent.
    pub wait: Nanos,
    /// The rest of its latency: time in which a request was on its way, or being answered.
    pub flight: Nanos,
    /// From the sending of its last request to the first byte of the answer; `None` without one.
    pub ttfb: Option<Nanos>,
    /// Bytes read, including heads.
    pub bytes_in: u64,
    /// Bytes written, including heads.
    pub bytes_out: u64,
    /// The serial number of its last connection among those of its worker; `None` if it had none.
    pub connection: Option<u32>,
    /// Its target and fate.
    pub kind: Kind,
    /// What happened once it was open; `None` for requests, and for what did not open.
    pub stayed: Option<Stayed>,
}

/// An exchange that was open: a socket, a subscription or an event stream. Its times are those of the opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stayed {
    /// From its opening to its end.
    pub open_for: Nanos,
    /// Messages received.
    pub messages: u32,
}

impl Sample {
    /// From the planned instant to its end.
    pub fn latency(&self) -> Nanos {
        self.lag + self.wait + self.flight
    }

    /// From sending to the last byte of the answer; `None` without a complete answer.
    pub fn service_time(&self) -> Option<Nanos> {
        (self.kind.sent && self.kind.status.is_some()).then_some(self.flight)
    }

    /// When it ended, on the run's clock.
    pub fn ended_at(&self) -> Nanos {
        self.scheduled_at + self.latency()
    }
}

impl Stats {
    /// Counts a sample as its arrival was counted during the run.
    pub fn add_sample(&mut self, sample: &Sample) {
        let Kind { error, sent, .. } = sample.kind;
        let requests = &mut self.requests;
        requests.scheduled += 1;
        *(if sent { &mut requests.sent } else { &mut requests.unsent }) += 1;
        if sent {
            *(if error.is_none() { &mut requests.ok } else { &mut requests.failed }) += 1;
        }
        let (latency, service_time) = match error {
            None => (&mut self.latency_ok, &mut self.service_time_ok),
            Some(class) => {
                self.errors.count(class);
                (&mut self.latency_failed, &mut self.service_time_failed)
            }
        };
        latency.record(sample.latency());
        sample.service_time().into_iter().for_each(|span| service_time.record(span));
        self.bytes_in += sample.bytes_in;
        self.bytes_out += sample.bytes_out;
    }
}

/// Samples of one worker in one second, at most [`BLOCK_MAX`], in the order in which they ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where they were counted.
    pub counted: Counted,
    /// The samples.
    pub samples: Vec<Sample>,
}

/// Where samples were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Index of the worker.
    pub worker: u16,
    /// Index of the second in `snapshots.jsonl`.
    pub second: u32,
}

/// Encodes blocks; reuses its memory.
#[derive(Default)]
pub struct Encoder {
    kinds: HashMap<Kind, u16>,
    last: Option<(Kind, u16)>,
    listed: Vec<u8>,
    records: Vec<u8>,
}

impl Encoder {
    /// Appends a block to `out`.
    ///
    /// # Panics
    /// If there are more than [`BLOCK_MAX`] samples.
    pub fn encode(&mut self, counted: Counted, samples: &[Sample], out: &mut Vec<u8>) {
        assert!(samples.len() <= BLOCK_MAX, "a block has at most {BLOCK_MAX} samples");
        self.kinds.clear();
        self.last = None;
        self.listed.clear();
        self.records.clear();
        let base = samples.iter().map(|sample| sample.scheduled_at).min().unwrap_or_default();
        for sample in samples {
            let kind = self.kind(&sample.kind);
            let ttfb = sample.ttfb.map_or(NONE, |ttfb| ttfb.0.min(NONE - 1));
            let spans = [sample.scheduled_at - base, sample.lag, sample.wait, sample.flight];
            spans.iter().for_each(|span| put_u48(&mut self.records, span.0.min(NONE - 1)));
            put_u48(&mut self.records, ttfb);
            put_u48(&mut self.records, sample.bytes_in.min(NONE - 1));
            let bytes_out = sample.bytes_out.min(U40_MAX).to_le_bytes();
            self.records.extend_from_slice(&bytes_out[..5]);
            let connection = sample.connection.unwrap_or(u32::MAX);
            self.records.extend_from_slice(&connection.to_le_bytes());
            self.records.extend_from_slice(&kind.to_le_bytes());
        }
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; PREFIX - 4]);
        out.extend_from_slice(&counted.worker.to_le_bytes());
        out.extend_from_slice(&(self.kinds.len() as u16).to_le_bytes());
        out.extend_from_slice(&(samples.len() as u32).to_le_bytes());
        out.extend_from_slice(&counted.second.to_le_bytes());
        out.extend_from_slice(&base.0.to_le_bytes());
        out.extend_from_slice(&self.listed);
        out.extend_from_slice(&self.records);
        if samples.iter().any(|sample| sample.stayed.is_some()) {
            for sample in samples {
                let open_for = sample.stayed.map_or(NONE, |own| own.open_for.0.min(NONE - 1));
                put_u48(out, open_for);
                let messages = sample.stayed.map_or(0, |own| own.messages);
                out.extend_from_slice(&messages.to_le_bytes());
            }
        }
        let body = &out[start + PREFIX..];
        let (len, sum) = (body.len() as u32, checksum(body));
        out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
        out[start + 8..start + 12].copy_from_slice(&sum.to_le_bytes());
    }

    /// The kind's number in the block.
    fn kind(&mut self, kind: &Kind) -> u16 {
        if let Some((last, number)) = self.last
            && last == *kind
        {
            return number;
        }
        let next = self.kinds.len() as u16;
        let number = *self.kinds.entry(*kind).or_insert(next);
        if number == next {
            let one_up = |index: Option<usize>| index.map_or(0, |index| index as u8 + 1);
            self.listed.extend_from_slice(&kind.target.to_le_bytes());
            self.listed.push(one_up(kind.error.map(Listed::index)));
            self.listed.push(one_up(kind.fault.map(Listed::index)));
            self.listed.extend_from_slice(&kind.status.unwrap_or(0).to_le_bytes());
            let flags = u8::from(kind.sent) | u8::from(kind.rpc_code.is_some()) << 1;
            self.listed.extend_from_slice(&[flags, 0, 0, 0]);
            self.listed.extend_from_slice(&kind.rpc_code.unwrap_or(0).to_le_bytes());
        }
        self.last = Some((*kind, number));
        number
    }
}

fn put_u48(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes()[..6]);
}

/// The CRC-32 of zlib.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// A file that cannot be read as samples.
#[derive(Debug, thiserror::Error)]
pub enum SamplesError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The first line is not a header of this version.
    #[error("{0}")]
    Header(String),
}

/// Reads blocks up to the end of the file or the first that is incomplete or damaged.
pub struct Reader<R> {
    input: R,
    errors: Vec<Option<ErrorClass>>,
    faults: Vec<Option<Fault>>,
    targets: usize,
    body: Vec<u8>,
    /// Bytes read so far.
    at: u64,
    /// Why reading ended before the end of the file.
    cut: Option<String>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// The file is unreadable, is empty, is not of this kind, or was written by another version.
    pub fn new(mut input: R) -> Result<(Header, Reader<R>), SamplesError> {
        let mut line = Vec::new();
        io::Read::take(&mut input, HEADER_MAX).read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Err(SamplesError::Header("the header is incomplete".into()));
        }
        let at = line.len() as u64;
        let header: Header = serde_json::from_slice(&line).map_err(|error| {
            SamplesError::Header(format!("the header is not readable: {error}"))
        })?;
        if header.schema != SCHEMA {
            let why = format!("schema is \"{}\", expected \"{SCHEMA}\"", header.schema);
            return Err(SamplesError::Header(why));
        }
        let errors = header.errors.iter().map(|name| ErrorClass::from_name(name)).collect();
        let faults = header.faults.iter().map(|name| Fault::from_name(name)).collect();
        let targets = header.targets.len();
        let (body, cut) = (Vec::new(), None);
        Ok((header, Reader { input, errors, faults, targets, body, at, cut }))
    }

    /// The next block; `None` at the end of what is readable.
    ///
    /// # Errors
    /// If reading fails.
    pub fn next_block(&mut self) -> io::Result<Option<Block>> {
        if self.cut.is_some() {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX];
        match fill(&mut self.input, &mut prefix)? {
            0 => return Ok(None),
            PREFIX => {}
            _ => return Ok(self.ends("a block is incomplete")),
        }
        let number =
            |at: usize| u32::from_le_bytes(prefix[at..at + 4].try_into().expect("4 bytes"));
        let (len, sum) = (number(4) as usize, number(8));
        if &prefix[..4] != MAGIC || len > FIXED + BLOCK_MAX * (KIND + RECORD + STAYED) {
            return Ok(self.ends("a block is damaged"));
        }
        self.body.resize(len, 0);
        if fill(&mut self.input, &mut self.body)? < len {
            return Ok(self.ends("a block is incomplete"));
        }
        if checksum(&self.body) != sum {
            return Ok(self.ends("a block is damaged"));
        }
        match self.decode() {
            Some(block) => {
                self.at += (PREFIX + len) as u64;
                Ok(Some(block))
            }
            None => Ok(self.ends("a block has unknown content")),
        }
    }

    /// Why reading ended before the end of the file: what is wrong, and at which byte.
    pub fn cut(&self) -> Option<&str> {
        self.cut.as_deref()
    }

    fn ends(&mut self, why: &str) -> Option<Block> {
        self.cut = Some(format!("{why} at byte {}", self.at));
        None
    }

    fn decode(&self) -> Option<Block> {
        let (fixed, rest) = self.body.split_at_checked(FIXED)?;
        let worker = u16::from_le_bytes(fixed[..2].try_into().ok()?);
        let kinds = u16::from_le_bytes(fixed[2..4].try_into().ok()?) as usize;
        let records = u32::from_le_bytes(fixed[4..8].try_into().ok()?) as usize;
        let second = u32::from_le_bytes(fixed[8..12].try_into().ok()?);
        let base = Nanos(u64::from_le_bytes(fixed[12..].try_into().ok()?));
        let (kinds, records_at) = (rest.split_at_checked(kinds * KIND)?, records * RECORD);
        let (kinds, rest) = kinds;
        let (rest, stayed) = rest.split_at_checked(records_at)?;
        let has_stayed = !stayed.is_empty();
        if has_stayed && stayed.len() != records * STAYED || records > BLOCK_MAX {
            return None;
        }
        let kinds: Vec<Kind> =
            kinds.chunks_exact(KIND).map(|kind| self.kind(kind)).collect::<Option<_>>()?;
        let samples = rest.chunks_exact(RECORD).map(|record| sample(record, base, &kinds));
        let mut samples = samples.collect::<Option<Vec<_>>>()?;
        for (sample, own) in samples.iter_mut().zip(stayed.chunks_exact(STAYED)) {
            let (open_for, messages) = (number(own, 0, 6), number(own, 6, 4) as u32);
            let stayed = Stayed { open_for: Nanos(open_for), messages };
            sample.stayed = (open_for != NONE).then_some(stayed);
        }
        Some(Block { counted: Counted { worker, second }, samples })
    }

    fn kind(&self, bytes: &[u8]) -> Option<Kind> {
        let target = u32::from_le_bytes(bytes[..4].try_into().ok()?);
        let error = match bytes[4] {
            0 => None,
            number => Some((*self.errors.get(number as usize - 1)?)?),
        };
        let fault = match bytes[5] {
            0 => None,
            // A fault only explains: one that a newer version knows is left out.
            number => *self.faults.get(number as usize - 1)?,
        };
        let status = u16::from_le_bytes(bytes[6..8].try_into().ok()?);
        let code = i64::from_le_bytes(bytes[12..20].try_into().ok()?);
        let flags = bytes[8];
        ((target as usize) < self.targets).then_some(Kind {
            target,
            error,
            fault,
            status: (status > 0).then_some(status),
            rpc_code: (flags & 2 != 0).then_some(code),
            sent: flags & 1 != 0,
        })
    }
}

/// A number of at most 8 bytes.
fn number(bytes: &[u8], from: usize, len: usize) -> u64 {
    let mut wide = [0; 8];
    wide[..len].copy_from_slice(&bytes[from..from + len]);
    u64::from_le_bytes(wide)
}

fn sample(record: &[u8], base: Nanos, kinds: &[Kind]) -> Option<Sample> {
    let u48 = |place: usize| number(record, place * 6, 6);
    let connection = number(record, 41, 4) as u32;
    let kind = number(record, 45, 2);
    Some(Sample {
        scheduled_at: base + Nanos(u48(0)),
        lag: Nanos(u48(1)),
        wait: Nanos(u48(2)),
        flight: Nanos(u48(3)),
        ttfb: Some(u48(4)).filter(|ttfb| *ttfb != NONE).map(Nanos),
        bytes_in: u48(5),
        bytes_out: number(record, 36, 5),
        connection: (connection != u32::MAX).then_some(connection),
        kind: *kinds.get(kind as usize)?,
        stayed: None,
    })
}

/// Reads until the buffer is full or the input ends; returns how much was read.
fn fill(input: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match input.read(&mut buffer[read..]) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
