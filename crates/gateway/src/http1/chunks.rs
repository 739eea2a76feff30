//! Decodes the chunked transfer coding in place.
//!
//! After each call, the rest that is not yet decoded directly follows the decoded part, so that chunk
//! headers do not accumulate in the buffer.

use super::malformed;
use crate::error::Error;

/// The longest line before a chunk, with extensions, in bytes. Benign clients do not send extensions.
const LINE_MAX: usize = 256;

/// The longest trailer, in bytes. Trailers are ignored.
const TRAILER_MAX: usize = 8 << 10;

/// The state of decoding.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(u64),
    /// At the line end after a chunk.
    ChunkEnd,
    /// In the lines after the last chunk; the number of their bytes received.
    Trailer(usize),
    Done,
}

impl Chunks {
    /// Decodes `buffer` from `end` on, and advances `end` past the decoded bytes. Returns true once the
    /// last chunk and the trailer are read.
    ///
    /// # Errors
    /// Malformed chunks.
    pub(crate) fn decode(&mut self, buffer: &mut Vec<u8>, end: &mut usize) -> Result<bool, Error> {
        let mut raw = *end;
        while self.state != State::Done {
            let rest = &buffer[raw..];
            match self.state {
                State::Size => {
                    let Some(line) = line(rest, LINE_MAX)? else { break };
                    raw += line.len() + 2;
                    self.state = match size(line)? {
                        0 => State::Trailer(0),
                        size => State::Data(size),
                    };
                }
                State::Data(due) => {
                    if rest.is_empty() {
                        break;
                    }
                    let here = due.min(rest.len() as u64);
                    buffer.copy_within(raw..raw + here as usize, *end);
                    *end += here as usize;
                    raw += here as usize;
                    self.state = match due - here {
                        0 => State::ChunkEnd,
                        due => State::Data(due),
                    };
                }
                State::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        raw += 2;
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => break,
                    _ => return Err(malformed("a chunk is longer than its declared size")),
                },
                State::Trailer(read) => {
                    let Some(line) = line(rest, TRAILER_MAX - read)? else { break };
                    raw += line.len() + 2;
                    self.state = match line {
                        [] => State::Done,
                        line => State::Trailer(read + line.len().min(TRAILER_MAX - read)),
                    };
                }
                State::Done => {}
            }
        }
        let rest = buffer.len() - raw;
        buffer.copy_within(raw.., *end);
        buffer.truncate(*end + rest);
        Ok(self.state == State::Done)
    }

    /// Bytes missing of the current chunk.
    pub(crate) fn due(&self) -> usize {
        match self.state {
            State::Data(due) => usize::try_from(due).unwrap_or(usize::MAX),
            _ => 0,
        }
    }
}

/// The first line of `text`, without its line end; `None` if it is incomplete.
fn line(text: &[u8], max: usize) -> Result<Option<&[u8]>, Error> {
    match memchr::memchr(b'\n', text) {
        Some(at) if at > max => Err(malformed("a line of a chunk is too long")),
        Some(at) => match text[..at].strip_suffix(b"\r") {
            // Other parsers could take these for the end of the line or of the text.
            Some(line) if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') => {
                Err(malformed("a line of a chunk contains a control character"))
            }
            Some(line) => Ok(Some(line)),
            None => Err(malformed("a line of a chunk ends without a carriage return")),
        },
        None if text.len() > max => Err(malformed("a line of a chunk is too long")),
        None => Ok(None),
    }
}

fn size(line: &[u8]) -> Result<u64, Error> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii_end();
    let hexadecimal = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).unwrap_or_default();
    // More than 15 digits is more than any limit, and would not fit.
    match u64::from_str_radix(text, 16) {
        Ok(size) if hexadecimal && digits.len() <= 15 => Ok(size),
        _ => Err(malformed("a chunk's size is missing or invalid")),
    }
}
