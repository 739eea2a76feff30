//! [`Source`]: the bytes of an input, of which at least one whole record is in memory at a time.

use super::{Place, Problem, RECORD_MAX};
use std::io::Read;

/// Bytes that are read at once; large enough that the calls do not matter.
const BUFFER: usize = 256 << 10;

/// An input, its unread bytes, and its position.
pub(super) struct Source<R> {
    input: R,
    buffer: Vec<u8>,
    /// The unread bytes in the buffer.
    start: usize,
    end: usize,
    /// The position of `start` in the input.
    offset: u64,
    /// The line of `start`, from 1, and the offset of its first byte; counted only while text is read.
    line: u64,
    line_start: u64,
    /// Whether binary records were passed, so that lines mean nothing.
    binary: bool,
    ended: bool,
}

impl<R: Read> Source<R> {
    pub(super) fn new(input: R) -> Source<R> {
        Source {
            input,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            offset: 0,
            line: 1,
            line_start: 0,
            binary: false,
            ended: false,
        }
    }

    /// The unread bytes that are in memory.
    pub(super) fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Whether the next record needs more of the input, as far as is known.
    pub(super) fn is_drained(&self) -> bool {
        self.start == self.end && !self.ended
    }

    /// Reads until `wanted` bytes are in memory or the input ends; returns whether they are.
    pub(super) fn fill(&mut self, wanted: usize) -> Result<bool, Problem> {
        while self.end - self.start < wanted && !self.ended {
            if self.start > 0 && (self.start == self.end || self.buffer.len() - self.start < wanted)
            {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            if self.end == self.buffer.len() {
                self.buffer.resize((self.buffer.len() * 2).max(BUFFER), 0);
            }
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.end - self.start >= wanted)
    }

    /// The number of bytes up to and including the next line feed that is at `from` or later; without
    /// one, all bytes up to the end of the input.
    pub(super) fn line(&mut self, from: usize) -> Result<usize, Problem> {
        let mut searched = from;
        loop {
            let data = self.data();
            if let Some(at) = data[searched.min(data.len())..].iter().position(|b| *b == b'\n') {
                return Ok(searched + at + 1);
            }
            searched = data.len();
            if searched > RECORD_MAX {
                return Err(Problem::TooLarge);
            }
            if !self.fill(searched + 1)? {
                return Ok(searched);
            }
        }
    }

    /// Passes over a binary record.
    pub(super) fn consume(&mut self, count: usize) {
        self.binary = true;
        self.pass(count);
    }

    /// Passes over text, counting its lines.
    pub(super) fn consume_text(&mut self, count: usize) {
        let passed = &self.buffer[self.start..self.start + count];
        if let Some(last) = passed.iter().rposition(|byte| *byte == b'\n') {
            self.line += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.line_start = self.offset + last as u64 + 1;
        }
        self.pass(count);
    }

    fn pass(&mut self, count: usize) {
        self.start += count;
        self.offset += count as u64;
    }

    /// The position of the byte that is `ahead` bytes further on.
    pub(super) fn byte(&self, ahead: usize) -> Place {
        Place::Byte(self.offset + ahead as u64)
    }

    /// The same as a line and a column, if the input is text.
    pub(super) fn place(&self, ahead: usize) -> Place {
        if self.binary {
            return self.byte(ahead);
        }
        let passed = &self.data()[..ahead.min(self.end - self.start)];
        let lines = passed.iter().filter(|byte| **byte == b'\n').count() as u64;
        let column = match passed.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => (passed.len() - at) as u64,
            None => self.offset + passed.len() as u64 - self.line_start + 1,
        };
        Place::Text { line: self.line + lines, column }
    }
}
