//! The file in which usage waits for the database.
//!
//! # Format
//! The first [`HEADER_BYTES`] are the header: a line with the format's name and version, and two slots
//! with the state, each a line of JSON with its checksum. Additions follow, each a line of JSON with its
//! checksum: an array of rows `[hour, endpoint, key, service, method, [counts], admitted]`. Version 1 had no
//! `admitted`: what was charged stands for it.
//!
//! The state says where the additions that are not yet delivered start, and, while a batch is being sent,
//! its id and where its additions end. It is written in place, in turns into either slot, so that this
//! needs no space on the disk, and one of the slots is always whole.
//!
//! # After a crash
//! A last line without a valid checksum was being written, and is cut off. What the state says of a batch
//! holds: it is sent again with its id. Invalid lines elsewhere are skipped and counted, the valid ones
//! around them are used, and a copy of the file is kept. A file with an invalid header is set aside. A file of
//! a newer version is left alone.

pub(super) mod folder;

use std::io;

use serde_json::{Value, json};

use super::{Batch, Counts, Rows, Subject};

/// The name of the format, before its version.
const NAME: &str = "plimsoll usage spool ";

/// The version of the format.
const VERSION: u64 = 2;

/// The oldest version that is read.
const VERSION_MIN: u64 = 1;

/// The length of the header: a page, which file systems allocate as a whole.
pub(super) const HEADER_BYTES: u64 = 4_096;

/// Where the slots are, and how long they are at most.
const SLOTS: [u64; 2] = [1_024, 2_048];
const SLOT_BYTES: usize = 512;

/// Rows of a line.
const LINE_ROWS: usize = 500;

/// A longer line is not one of ours: ids have at most 128 bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// A file, as far as a spool needs one.
pub(super) trait Disk: std::fmt::Debug {
    /// Reads bytes at an offset; fewer at the end.
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize>;
    /// Writes bytes at an offset. If it fails, some of them may be written.
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file to this length.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Waits until all is on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Replaces all, atomically.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Removes the file.
    fn remove(&mut self);
}

/// What is undelivered, and what is being sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// The slot with the higher one counts.
    generation: u64,
    /// Where the first undelivered addition starts.
    start: u64,
    frozen: Option<Frozen>,
}

/// A batch that may have been delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frozen {
    writer: String,
    sequence: u64,
    /// Where its additions end.
    end: u64,
}

/// Why a file cannot be used as a spool.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// It cannot be read or written.
    #[error("{0}")]
    Disk(#[from] io::Error),
    /// Written by a newer version of this program.
    #[error(
        "it was written by a newer version of this program (format {0}; this program supports {VERSION})"
    )]
    Newer(u64),
    /// Its header is not valid.
    #[error("its header is damaged")]
    Damaged,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Spool<D> {
    disk: D,
    /// Identifies the batches that are taken from it by this process.
    writer: String,
    /// The number of the last of them.
    sequence: u64,
    state: State,
    /// Where the next addition goes.
    end: u64,
    /// The length after the last rewriting.
    merged_bytes: u64,
    /// Whether the header on the disk is not that of `state`, so that nothing may be appended.
    is_header_stale: bool,
    /// Lines that could not be read.
    damaged: u64,
}

impl<D: Disk> Spool<D> {
    /// Opens a file, which may be empty. Batches that are taken from it get the writer's id, which must be a new
    /// one: the numbers of a writer only rise, so two sources with one id could overtake each other.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) fn open(mut disk: D, writer: String) -> Result<Spool<D>, OpenError> {
        let mut header = vec![0; HEADER_BYTES as usize];
        let length = disk.read(0, &mut header)?;
        header.truncate(length);
        let line = header.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        match line.strip_prefix(NAME).map(str::parse::<u64>) {
            // Nothing is appended before the header is whole.
            _ if length < HEADER_BYTES as usize && is_start_of_header(&header) => {
                let mut spool = Spool::fresh(disk, writer);
                spool.create()?;
                return Ok(spool);
            }
            Some(Ok(VERSION_MIN..=VERSION)) => {}
            Some(Ok(newer)) if newer > VERSION => return Err(OpenError::Newer(newer)),
            _ => return Err(OpenError::Damaged),
        }
        let slots = SLOTS.iter().filter_map(|at| read_slot(header.get(*at as usize..)?));
        let state = slots.max_by_key(|state| state.generation).ok_or(OpenError::Damaged)?;
        let mut spool = Spool { state, ..Spool::fresh(disk, writer) };
        let (mut end, mut damaged, mut since) = (HEADER_BYTES, 0, 0);
        spool.read_lines(HEADER_BYTES, u64::MAX, |place, rows| {
            match rows {
                Some(_) => (end, damaged, since) = (place, damaged + since, 0),
                None => since += 1,
            }
            true
        })?;
        // Invalid lines at the end were being written.
        (spool.end, spool.damaged) = (end, damaged);
        spool.disk.truncate(end)?;
        let sent = spool.state.frozen.as_mut().map(|frozen| &mut frozen.end);
        for offset in [Some(&mut spool.state.start), sent].into_iter().flatten() {
            if *offset > end {
                // All had been delivered, and the file was cut. What is appended is not part of that.
                *offset = end;
                spool.is_header_stale = true;
            }
        }
        spool.merged_bytes = spool.end;
        Ok(spool)
    }

    fn fresh(disk: D, writer: String) -> Spool<D> {
        Spool {
            disk,
            writer,
            sequence: 0,
            state: State { start: HEADER_BYTES, ..State::default() },
            end: HEADER_BYTES,
            merged_bytes: HEADER_BYTES,
            is_header_stale: false,
            damaged: 0,
        }
    }

    /// Writes the header of an empty file.
    fn create(&mut self) -> io::Result<()> {
        self.disk.truncate(0)?;
        self.disk.write(0, &header(&self.state))
    }

    /// Lines that could not be read, and were skipped.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Bytes of what is not delivered.
    pub(super) fn bytes(&self) -> u64 {
        self.end - self.state.start
    }

    /// The file's length.
    pub(super) fn length(&self) -> u64 {
        self.end
    }

    /// Whether all has been delivered.
    pub(super) fn is_empty(&self) -> bool {
        self.state.frozen.is_none() && self.state.start >= self.end
    }

    /// Appends rows, a line at a time; those that were written are removed from `rows`.
    ///
    /// # Errors
    /// The rest cannot be written.
    pub(super) fn append(&mut self, rows: &mut Rows) -> io::Result<()> {
        self.renew_header()?;
        while !rows.is_empty() {
            let mut rest = std::mem::take(rows);
            let first = rest.split_off_first(LINE_ROWS);
            let line = line(&show_rows(&first));
            if let Err(error) = self.disk.write(self.end, line.as_bytes()) {
                // What was written of the line is not valid. It takes space until it is overwritten.
                let _ = self.disk.truncate(self.end);
                rest.append(first);
                *rows = rest;
                return Err(error);
            }
            self.end += line.len() as u64;
            *rows = rest;
        }
        Ok(())
    }

    /// Waits until all is on the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.disk.sync()
    }

    /// The batch that is being sent, as before a crash; otherwise the next one; `None` if all is delivered. It stays the same until [`Spool::delivered`].
    ///
    /// # Errors
    /// The file cannot be read or written; nothing may be sent of it.
    pub(super) fn batch(&mut self) -> io::Result<Option<Batch>> {
        self.renew_header()?;
        if let Some(Frozen { writer, sequence, end }) = self.state.frozen.clone() {
            let (rows, _) = self.rows(self.state.start, end, usize::MAX)?;
            return Ok(Some(Batch { writer, sequence, rows: rows.into_vec() }));
        }
        if self.state.start >= self.end {
            return Ok(None);
        }
        let (rows, end) = self.rows(self.state.start, self.end, Batch::ROWS_MAX)?;
        let (writer, sequence) = (self.writer.clone(), self.sequence + 1);
        let frozen = Frozen { writer: writer.clone(), sequence, end };
        self.set(State { frozen: Some(frozen), ..self.state.clone() })?;
        self.sequence = sequence;
        Ok(Some(Batch { writer, sequence, rows: rows.into_vec() }))
    }

    /// Records that the batch has been delivered.
    ///
    /// # Errors
    /// The file cannot be written. After a crash the batch would be sent again.
    pub(super) fn delivered(&mut self) -> io::Result<()> {
        let Some(frozen) = self.state.frozen.take() else { return Ok(()) };
        self.state.start = frozen.end.min(self.end);
        self.is_header_stale = true;
        if self.state.start >= self.end {
            // Cut first: what the header still says of the batch then means nothing.
            self.disk.truncate(HEADER_BYTES)?;
            (self.state.start, self.end) = (HEADER_BYTES, HEADER_BYTES);
            self.merged_bytes = HEADER_BYTES;
        }
        self.renew_header()
    }

    /// Merges the additions of each row, if the file is long and has doubled since.
    ///
    /// # Errors
    /// The file cannot be rewritten, and is as before.
    pub(super) fn merge(&mut self, least: u64) -> io::Result<()> {
        if self.end < least || self.end < 2 * self.merged_bytes {
            return Ok(());
        }
        let mut lines = String::new();
        let mut frozen = self.state.frozen.clone();
        let from = frozen.as_ref().map_or(self.state.start, |frozen| frozen.end);
        if let Some(frozen) = &mut frozen {
            lines += &self.merged(self.state.start, frozen.end)?;
            frozen.end = HEADER_BYTES + lines.len() as u64;
        }
        lines += &self.merged(from, self.end)?;
        let generation = self.state.generation + 1;
        let state = State { generation, start: HEADER_BYTES, frozen };
        let mut whole = header(&state);
        whole.extend_from_slice(lines.as_bytes());
        self.disk.replace(&whole)?;
        (self.state, self.end, self.merged_bytes) = (state, whole.len() as u64, whole.len() as u64);
        self.is_header_stale = false;
        Ok(())
    }

    /// Removes the file.
    pub(super) fn remove(mut self) {
        self.disk.remove();
    }

    fn merged(&mut self, from: u64, to: u64) -> io::Result<String> {
        let (mut rows, _) = self.rows(from, to, usize::MAX)?;
        let mut lines = String::new();
        while !rows.is_empty() {
            lines += &line(&show_rows(&rows.split_off_first(LINE_ROWS)));
        }
        Ok(lines)
    }

    /// The rows between two offsets, and the offset after the last one that was read: it stops before
    /// there are more than this many rows.
    fn rows(&mut self, from: u64, to: u64, most: usize) -> io::Result<(Rows, u64)> {
        let (mut rows, mut end) = (Rows::default(), from);
        self.read_lines(from, to, |place, line| {
            if let Some(line) = line {
                if !rows.is_empty() && rows.len() + line.len() > most {
                    return false;
                }
                line.into_iter().for_each(|(subject, counts)| rows.add(subject, &counts));
            }
            end = place;
            true
        })?;
        Ok((rows, end))
    }

    /// Reads lines: `each` gets the offset after each line and its rows, `None` for an invalid line, and
    /// returns whether to go on.
    fn read_lines(
        &mut self,
        from: u64,
        to: u64,
        mut each: impl FnMut(u64, Option<Vec<(Subject, Counts)>>) -> bool,
    ) -> io::Result<()> {
        let (mut buffer, mut at, mut line_at) = (Vec::new(), from, from);
        let mut chunk = vec![0; READ_BYTES];
        loop {
            while let Some(length) = buffer.iter().position(|byte| *byte == b'\n') {
                line_at += length as u64 + 1;
                let rows = checked(&buffer[..length]).and_then(|value| read_rows(&value));
                buffer.drain(..=length);
                if !each(line_at, rows) {
                    return Ok(());
                }
            }
            if buffer.len() > LINE_BYTES_MAX {
                line_at += buffer.len() as u64;
                buffer.clear();
                if !each(line_at, None) {
                    return Ok(());
                }
            }
            let wanted = READ_BYTES.min(to.saturating_sub(at) as usize);
            let length = self.disk.read(at, &mut chunk[..wanted])?;
            if length == 0 {
                break;
            }
            buffer.extend_from_slice(&chunk[..length]);
            at += length as u64;
        }
        if !buffer.is_empty() {
            each(line_at + buffer.len() as u64, None);
        }
        Ok(())
    }

    fn set(&mut self, state: State) -> io::Result<()> {
        let before = std::mem::replace(&mut self.state, state);
        self.is_header_stale = true;
        let written = self.renew_header();
        if written.is_err() {
            // The disk may have either; both are right until the batch is sent.
            self.state = before;
        }
        written
    }

    /// Writes the state into the older slot, unless it is there.
    fn renew_header(&mut self) -> io::Result<()> {
        if self.is_header_stale {
            let next = State { generation: self.state.generation + 1, ..self.state.clone() };
            self.disk.write(SLOTS[(next.generation % 2) as usize], &slot(&next))?;
            // Only now: a write that has failed is repeated in the same slot, and the other stays whole.
            (self.state, self.is_header_stale) = (next, false);
        }
        Ok(())
    }
}

/// Whether bytes are the start of a header that was being written.
fn is_start_of_header(bytes: &[u8]) -> bool {
    let whole = format!("{NAME}{VERSION}\n");
    let known = bytes.len().min(whole.len());
    bytes[..known] == whole.as_bytes()[..known]
}

fn header(state: &State) -> Vec<u8> {
    let mut bytes = format!("{NAME}{VERSION}\n").into_bytes();
    bytes.resize(HEADER_BYTES as usize - 1, b' ');
    bytes.push(b'\n');
    let at = SLOTS[(state.generation % 2) as usize] as usize;
    bytes[at..at + SLOT_BYTES].copy_from_slice(&slot(state));
    bytes
}

fn slot(state: &State) -> Vec<u8> {
    let frozen = state.frozen.as_ref().map(|Frozen { writer, sequence, end }| {
        json!({ "writer": writer, "sequence": sequence, "end": end })
    });
    let value = json!({ "generation": state.generation, "start": state.start, "sending": frozen });
    let mut bytes = line(&value).into_bytes();
    assert!(bytes.len() <= SLOT_BYTES, "a writer's id is short");
    bytes.resize(SLOT_BYTES, b' ');
    bytes
}

fn read_slot(bytes: &[u8]) -> Option<State> {
    let value = checked(bytes.get(..SLOT_BYTES)?.split(|byte| *byte == b'\n').next()?)?;
    let frozen = match &value["sending"] {
        Value::Null => None,
        sending => Some(Frozen {
            writer: sending["writer"].as_str()?.into(),
            sequence: sending["sequence"].as_u64()?,
            end: sending["end"].as_u64()?,
        }),
    };
    let (generation, start) = (value["generation"].as_u64()?, value["start"].as_u64()?);
    (start >= HEADER_BYTES).then_some(State { generation, start, frozen })
}

/// A value as a line with its checksum.
fn line(value: &Value) -> String {
    let text = value.to_string();
    format!("{:08x} {text}\n", checksum(text.as_bytes()))
}

/// The value of a line without its line feed, if its checksum is right.
fn checked(line: &[u8]) -> Option<Value> {
    let text = line.get(9..).filter(|_| line[8] == b' ')?;
    let sum = u32::from_str_radix(std::str::from_utf8(&line[..8]).ok()?, 16).ok()?;
    (sum == checksum(text)).then(|| serde_json::from_slice(text).ok()).flatten()
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn show_rows(rows: &Rows) -> Value {
    let row = |(subject, counts): (&Subject, &Counts)| {
        let Subject { hour, endpoint, key, service, method } = subject;
        json!([hour, endpoint, key, service, method, counts.values(), counts.admitted_units])
    };
    rows.iter().map(row).collect()
}

fn read_rows(value: &Value) -> Option<Vec<(Subject, Counts)>> {
    let row = |row: &Value| {
        let text = |place: usize| row[place].as_str().map(String::from);
        let counts = row[5].as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>()?;
        let subject = Subject {
            hour: row[0].as_u64()?,
            endpoint: text(1)?,
            key: text(2)?,
            service: text(3)?,
            method: text(4)?,
        };
        let counts = Counts::of(counts.try_into().ok()?);
        let admitted_units = match row.get(6) {
            Some(units) => units.as_u64()?,
            None => counts.compute_units,
        };
        Some((subject, Counts { admitted_units, ..counts }))
    };
    value.as_array()?.iter().map(row).collect()
}

#[cfg(test)]
pub(super) mod tests;
