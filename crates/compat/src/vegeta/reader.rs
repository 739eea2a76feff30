//! [`Reader`]: reads results in any of vegeta's encodings, which may change from one to the next.
//!
//! The encoding is determined before each result, from its first bytes: a JSON object begins with a
//! brace, a gob message with a length and an id that no text begins with (see `gob`), and anything
//! else is CSV. So files of different encodings can be concatenated. One result is in memory at a
//! time.

use super::error::{Place, Problem, ReadError};
use super::gob::{self, Decoder};
use super::source::Source;
use super::{Fields, Hit, csv, json};
use std::io::Read;

/// Bytes of one result at most, in any encoding. A result includes the response's body.
pub const RECORD_MAX: usize = 128 << 20;

/// Reads the results of one input, in the order in which they were written.
pub struct Reader<R> {
    source: Source<R>,
    gob: Decoder,
    fields: Fields,
    /// Whether the last record was a gob message: the next one may begin with a byte that would be
    /// white space in a text.
    in_gob: bool,
}

impl<R: Read> Reader<R> {
    /// Reads from `input`, which needs no buffer of its own.
    pub fn new(input: R, fields: Fields) -> Reader<R> {
        Reader { source: Source::new(input), gob: Decoder::default(), fields, in_gob: false }
    }

    /// Reads the next result into `hit`; false at the end of the input.
    ///
    /// # Errors
    /// The input cannot be read, is cut short or damaged, or not vegeta's. No further result can be
    /// read after an error.
    pub fn read(&mut self, hit: &mut Hit) -> Result<bool, ReadError> {
        loop {
            self.wait_for(2)?;
            let (first, second) = match *self.source.data() {
                [] => return Ok(false),
                [first] => (first, None),
                [first, second, ..] => (first, Some(second)),
            };
            let is_space = matches!(first, b' ' | b'\t' | b'\r' | b'\n');
            if gob::is_start(first, second) && (self.in_gob || !is_space) {
                self.in_gob = true;
                if self.gob_message(hit)? {
                    return Ok(true);
                }
                continue;
            }
            self.in_gob = false;
            match first {
                _ if is_space => self.source.consume_text(1),
                b'{' => return self.json(hit).map(|()| true),
                _ => return self.csv(hit).map(|()| true),
            }
        }
    }

    /// Whether reading the next result will wait for the input.
    pub(super) fn may_wait(&self) -> bool {
        self.source.is_drained()
    }

    /// Reads until `count` bytes are in memory or the input ends; returns whether they are.
    fn wait_for(&mut self, count: usize) -> Result<bool, ReadError> {
        self.source.fill(count).map_err(|problem| at(self.source.byte(0), problem))
    }

    /// Reads a gob message; false if it was a definition.
    fn gob_message(&mut self, hit: &mut Hit) -> Result<bool, ReadError> {
        let place = self.source.byte(0);
        self.wait_for(9)?;
        let bad = |bad| malformed(place, format!("gob: {bad}"));
        let Some((length, prefix)) = Decoder::length(self.source.data()).map_err(bad)? else {
            return Err(at(
                place,
                Problem::CutShort("it ends inside the length of a result".into()),
            ));
        };
        if length > RECORD_MAX as u64 {
            return Err(at(place, Problem::TooLarge));
        }
        let end = prefix + length as usize;
        if !self.wait_for(end)? {
            let present = self.source.data().len() - prefix;
            let what = format!("it ends after {present} of the {length} bytes of a result");
            return Err(at(place, Problem::CutShort(what)));
        }
        let message = &self.source.data()[prefix..end];
        let value = self.gob.message(message, self.fields, hit).map_err(|(bad, ahead)| {
            malformed(self.source.byte(prefix + ahead), format!("gob: {bad}"))
        })?;
        self.source.consume(end);
        Ok(value)
    }

    fn json(&mut self, hit: &mut Hit) -> Result<(), ReadError> {
        let place = self.source.place(0);
        let end = self.source.line(0).map_err(|problem| at(place, problem))?;
        let line = &self.source.data()[..end];
        match json::read(line, self.fields, hit) {
            Ok(length) => {
                let space = line[length..].iter().take_while(|byte| byte.is_ascii_whitespace());
                self.source.consume_text(length + space.count());
                Ok(())
            }
            Err(_) if json::is_cut_short(line) => Err(if line.ends_with(b"\n") {
                malformed(place, "a JSON object that does not end on its line".to_string())
            } else {
                at(place, Problem::CutShort("it ends inside a JSON object".to_string()))
            }),
            Err((what, ahead)) => Err(malformed(self.source.place(ahead), what)),
        }
    }

    fn csv(&mut self, hit: &mut Hit) -> Result<(), ReadError> {
        let place = self.source.place(0);
        let mut end = self.source.line(0).map_err(|problem| at(place, problem))?;
        let mut open = csv::is_open(&self.source.data()[..end]);
        while open {
            let longer = self.source.line(end).map_err(|problem| at(place, problem))?;
            if longer == end {
                break;
            }
            open ^= csv::is_open(&self.source.data()[end..longer]);
            end = longer;
        }
        let record = &self.source.data()[..end];
        if let Err((what, ahead)) = csv::read(record, self.fields, hit) {
            let cut_short = !record.ends_with(b"\n") && ahead >= record.len();
            let place = self.source.place(ahead);
            return Err(if open || cut_short {
                at(place, Problem::CutShort(format!("it ends inside a row: {what}")))
            } else {
                malformed(place, what)
            });
        }
        self.source.consume_text(end);
        Ok(())
    }
}

fn at(place: Place, problem: Problem) -> ReadError {
    ReadError { place, problem }
}

fn malformed(place: Place, what: String) -> ReadError {
    at(place, Problem::Malformed(what))
}
