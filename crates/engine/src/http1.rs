//! An incremental HTTP/1.1 response parser (RFC 9112).
//!
//! It does no I/O: the connection feeds bytes in any fragmentation, and the parser returns pieces
//! that borrow from them. If a response arrives in one read, nothing is copied. Errors that a
//! lenient client would ignore (two lengths, a length with chunked coding, bytes after the end) are
//! a [`Fault`] here: a measuring tool must not guess.

mod split;

use memchr::memchr;
use plimsoll_measure::{Fault, SplitValue};
use split::Split;

/// Maximum size of a response head.
pub const HEAD_MAX: usize = 64 << 10;
/// Maximum size of the extensions of one chunk.
const CHUNK_LINE_MAX: u32 = 4 << 10;
const TRAILERS_MAX: u32 = 64 << 10;
const INTERIM_MAX: u32 = 100;

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// This many bytes, possibly zero.
    Known(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection is closed.
    UntilClose,
}

/// The parts of a response head that the engine needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// HTTP status, 200 to 999; 1xx responses are skipped.
    pub status: u16,
    /// How long the body is.
    pub length: Length,
    /// Whether the connection can be reused.
    pub keep_alive: bool,
    /// Whether the body is gzipped.
    pub gzip: bool,
    /// The `Location` header.
    pub location: Option<Box<[u8]>>,
}

/// What the parser found.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The head is complete.
    Head,
    /// Part of the body; never empty.
    Body(&'a [u8]),
    /// The response is complete.
    End,
    /// All input was consumed; more is needed.
    More,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Known { left: u64 },
    UntilClose,
    Chunk(Chunk),
    End,
}

/// The state within the chunked coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size { size: u64, digits: u32 },
    Extension { size: u64, seen: u32 },
    SizeEnd { size: u64 },
    Data { left: u64 },
    DataEnd,
    DataEndFeed,
    TrailerStart { seen: u32 },
    Trailer { seen: u32 },
    LastFeed,
}

/// A parser for successive responses.
#[derive(Debug)]
pub struct Parser {
    state: State,
    head_only: bool,
    head: Head,
    /// Whether the connection has carried another response before.
    follows: bool,
    interim: u32,
    split: Split,
    /// Whether the bytes of heads are kept, and those of the current one.
    keeps_head: bool,
    head_bytes: Vec<u8>,
    /// The part of an incomplete head from earlier reads.
    carry: Vec<u8>,
}

impl Default for Parser {
    fn default() -> Parser {
        Parser::new()
    }
}

impl Parser {
    /// A parser that expects no response yet; see [`Parser::expect`].
    pub fn new() -> Parser {
        let length = Length::Known(0);
        let head = Head { status: 0, length, keep_alive: false, gzip: false, location: None };
        Parser {
            state: State::End,
            head_only: false,
            head,
            follows: false,
            interim: 0,
            split: Split::default(),
            keeps_head: false,
            head_bytes: Vec::new(),
            carry: Vec::new(),
        }
    }

    /// Prepares for the next response; `head_only` if it answers a HEAD request.
    pub fn expect(&mut self, head_only: bool) {
        self.state = State::Head;
        self.head_only = head_only;
        self.interim = 0;
        self.carry.clear();
        self.split.header.clear();
    }

    /// Also extracts the value of this header from the next response; see [`Parser::split`].
    pub fn extract(&mut self, header: &str) {
        self.split.header.extend_from_slice(header.as_bytes());
    }

    /// Sets whether the bytes of the next head are kept; see [`Parser::head_bytes`].
    pub fn keep_head(&mut self, keep: bool) {
        self.keeps_head = keep;
        self.head_bytes.clear();
    }

    /// The bytes of the current head, with its final empty line; empty unless [`Parser::keep_head`] was
    /// called.
    pub fn head_bytes(&self) -> &[u8] {
        &self.head_bytes
    }

    /// The value of the header named to [`Parser::extract`]: that of its first line in the current
    /// response; `None` if there is none.
    pub fn split(&self) -> Option<&SplitValue> {
        self.split.value.as_ref()
    }

    /// The head of the current response; until [`Piece::Head`] is returned, that of the previous
    /// one.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Whether no byte of the response was received.
    pub fn is_untouched(&self) -> bool {
        self.state == State::Head && self.carry.is_empty() && self.interim == 0
    }

    /// Whether the response ends with the connection.
    pub fn ends_at_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Consumes the next piece from the front of `input`.
    ///
    /// # Errors
    /// If the response is malformed; the parser must not be used further until [`Parser::expect`].
    #[inline]
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Piece<'a>, Fault> {
        match self.state {
            State::Head => self.read_head(input),
            State::Known { left: 0 } => Ok(self.end()),
            _ if input.is_empty() => {
                Ok(if self.state == State::End { Piece::End } else { Piece::More })
            }
            State::Known { left } => {
                let (piece, rest) =
                    input.split_at(input.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                *input = rest;
                self.state = State::Known { left: left - piece.len() as u64 };
                Ok(Piece::Body(piece))
            }
            State::UntilClose => Ok(Piece::Body(std::mem::take(input))),
            State::Chunk(chunk) => self.read_chunk(chunk, input),
            State::End => Err(Fault::BytesAfter),
        }
    }

    fn end(&mut self) -> Piece<'static> {
        (self.state, self.follows) = (State::End, true);
        Piece::End
    }

    fn read_head<'a>(&mut self, input: &mut &'a [u8]) -> Result<Piece<'a>, Fault> {
        loop {
            // Fail at once if the input does not begin like a response.
            let start = if self.carry.is_empty() { *input } else { &self.carry[..] };
            let prefix = start.len().min(b"HTTP/1.".len());
            if start[..prefix] != b"HTTP/1."[..prefix] {
                let follows = self.follows && self.interim == 0;
                return Err(if follows { Fault::BytesAfter } else { Fault::NotHttp });
            }
            let head = if self.carry.is_empty() {
                match end_of_head(input, 0) {
                    Some(end) => {
                        let head = parse_head(&input[..end], self.head_only, &mut self.split)?;
                        if self.keeps_head {
                            self.head_bytes.clear();
                            self.head_bytes.extend_from_slice(&input[..end]);
                        }
                        *input = &input[end..];
                        head
                    }
                    None => return self.carry_over(input),
                }
            } else {
                let before = self.carry.len();
                let room = (HEAD_MAX + 1).saturating_sub(before).min(input.len());
                self.carry.extend_from_slice(&input[..room]);
                match end_of_head(&self.carry, before.saturating_sub(3)) {
                    Some(end) => {
                        let head = parse_head(&self.carry[..end], self.head_only, &mut self.split)?;
                        *input = &input[end - before..];
                        self.carry.truncate(end);
                        std::mem::swap(&mut self.carry, &mut self.head_bytes);
                        self.carry.clear();
                        head
                    }
                    None if self.carry.len() > HEAD_MAX => return Err(Fault::HeadTooLong),
                    None => {
                        *input = &[];
                        return Ok(Piece::More);
                    }
                }
            };
            match head.status {
                101 => return Err(Fault::Switched),
                100..200 => {
                    self.interim += 1;
                    if self.interim > INTERIM_MAX {
                        return Err(Fault::TooManyInterim);
                    }
                    if input.is_empty() {
                        return Ok(Piece::More);
                    }
                }
                _ => {
                    self.state = match head.length {
                        Length::Known(left) => State::Known { left },
                        Length::UntilClose => State::UntilClose,
                        Length::Chunked => State::Chunk(Chunk::Size { size: 0, digits: 0 }),
                    };
                    self.head = head;
                    return Ok(Piece::Head);
                }
            }
        }
    }

    fn carry_over<'a>(&mut self, input: &mut &'a [u8]) -> Result<Piece<'a>, Fault> {
        if input.len() > HEAD_MAX {
            return Err(Fault::HeadTooLong);
        }
        self.carry.extend_from_slice(input);
        *input = &[];
        Ok(Piece::More)
    }

    fn read_chunk<'a>(
        &mut self,
        mut chunk: Chunk,
        input: &mut &'a [u8],
    ) -> Result<Piece<'a>, Fault> {
        while let Some((&byte, rest)) = input.split_first() {
            if let Chunk::Data { left } = chunk {
                let (piece, rest) =
                    input.split_at(input.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                *input = rest;
                let left = left - piece.len() as u64;
                let next = if left == 0 { Chunk::DataEnd } else { Chunk::Data { left } };
                self.state = State::Chunk(next);
                return Ok(Piece::Body(piece));
            }
            if let Chunk::Extension { size, seen } = chunk {
                // Extensions are skipped unparsed.
                let skipped = memchr(b'\n', input).unwrap_or(input.len());
                let seen = seen.saturating_add(u32::try_from(skipped).unwrap_or(u32::MAX));
                if seen > CHUNK_LINE_MAX {
                    return Err(Fault::BadChunk);
                }
                if skipped == input.len() {
                    *input = &[];
                    chunk = Chunk::Extension { size, seen };
                } else {
                    *input = &input[skipped + 1..];
                    chunk = Chunk::data(size);
                }
                continue;
            }
            *input = rest;
            chunk = match chunk.after(byte)? {
                Some(chunk) => chunk,
                None => return Ok(self.end()),
            };
        }
        self.state = State::Chunk(chunk);
        Ok(Piece::More)
    }
}

impl Chunk {
    /// The state after one byte of framing; `None` at the end of the body.
    fn after(self, byte: u8) -> Result<Option<Chunk>, Fault> {
        let next = match self {
            Chunk::Size { size, digits } => match (char::from(byte).to_digit(16), byte) {
                // Limits leading zeros.
                (Some(_), _) if digits >= 64 => return Err(Fault::BadChunk),
                (Some(digit), _) => {
                    let size = size.checked_mul(16).ok_or(Fault::BadChunk)? + u64::from(digit);
                    Chunk::Size { size, digits: digits + 1 }
                }
                _ if digits == 0 => return Err(Fault::BadChunk),
                (None, b'\r') => Chunk::SizeEnd { size },
                (None, b'\n') => Chunk::data(size),
                (None, b';' | b' ' | b'\t') => Chunk::Extension { size, seen: 0 },
                _ => return Err(Fault::BadChunk),
            },
            Chunk::Extension { .. } => unreachable!("extensions are skipped as a whole"),
            Chunk::SizeEnd { size } if byte == b'\n' => Chunk::data(size),
            Chunk::SizeEnd { .. } => return Err(Fault::BadChunk),
            Chunk::Data { .. } => unreachable!("data is taken in slices"),
            Chunk::DataEnd if byte == b'\r' => Chunk::DataEndFeed,
            Chunk::DataEnd | Chunk::DataEndFeed if byte == b'\n' => {
                Chunk::Size { size: 0, digits: 0 }
            }
            Chunk::DataEnd | Chunk::DataEndFeed => return Err(Fault::BadChunkEnd),
            Chunk::TrailerStart { .. } if byte == b'\r' => Chunk::LastFeed,
            Chunk::TrailerStart { .. } if byte == b'\n' => return Ok(None),
            Chunk::TrailerStart { seen: TRAILERS_MAX.. }
            | Chunk::Trailer { seen: TRAILERS_MAX.. } => {
                return Err(Fault::BadChunkEnd);
            }
            Chunk::Trailer { seen } if byte == b'\n' => Chunk::TrailerStart { seen: seen + 1 },
            Chunk::TrailerStart { seen } | Chunk::Trailer { seen } => {
                Chunk::Trailer { seen: seen + 1 }
            }
            Chunk::LastFeed if byte == b'\n' => return Ok(None),
            Chunk::LastFeed => return Err(Fault::BadChunkEnd),
        };
        Ok(Some(next))
    }

    fn data(size: u64) -> Chunk {
        if size == 0 { Chunk::TrailerStart { seen: 0 } } else { Chunk::Data { left: size } }
    }
}

/// The end of the head: after the first empty line, searched from `from`.
fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(feed) = memchr(b'\n', &bytes[at..]) {
        at += feed + 1;
        match &bytes[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

fn parse_head(bytes: &[u8], head_only: bool, split: &mut Split) -> Result<Head, Fault> {
    split.value = None;
    let mut lines = Lines(bytes);
    let status_line = lines.next().ok_or(Fault::NotHttp)?;
    let (minor, status) = parse_status_line(status_line).ok_or(Fault::NotHttp)?;
    let mut head = Head {
        status,
        length: Length::UntilClose,
        keep_alive: minor >= 1,
        gzip: false,
        location: None,
    };
    let mut length = None;
    let mut chunked = false;
    while let Some(line) = lines.next() {
        if line.is_empty() {
            break;
        }
        let colon = memchr(b':', line).ok_or(Fault::BadHeader)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let unfolded = lines.is_folded().then(|| lines.unfold(value));
        let value = unfolded.as_deref().unwrap_or(value);
        if name.is_empty() || name.iter().any(|b| *b <= b' ') {
            return Err(Fault::BadHeader);
        }
        split.look_at(name, value);
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let value = parse_length(value).ok_or(Fault::BadLength)?;
                if length.replace(value).is_some_and(|before| before != value) {
                    return Err(Fault::TwoLengths);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") || chunked {
                    return Err(Fault::BadCoding);
                }
                chunked = true;
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    if option.eq_ignore_ascii_case(b"close") {
                        head.keep_alive = false;
                    } else if option.eq_ignore_ascii_case(b"keep-alive") && minor == 0 {
                        head.keep_alive = true;
                    }
                }
            }
            16 if name.eq_ignore_ascii_case(b"content-encoding") => {
                head.gzip =
                    value.eq_ignore_ascii_case(b"gzip") || value.eq_ignore_ascii_case(b"x-gzip");
            }
            8 if name.eq_ignore_ascii_case(b"location") => {
                head.location = Some(value.into());
            }
            _ => {}
        }
    }
    if length.is_some() && chunked {
        return Err(Fault::LengthAndChunked);
    }
    let no_body = head_only || matches!(status, 100..200 | 204 | 304);
    head.length = match (no_body, chunked, length) {
        (true, ..) => Length::Known(0),
        (_, true, _) => Length::Chunked,
        (_, _, Some(length)) => Length::Known(length),
        _ => Length::UntilClose,
    };
    head.keep_alive &= head.length != Length::UntilClose;
    Ok(head)
}

/// The lines of a head, without line endings.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let feed = memchr(b'\n', self.0)?;
        let line = &self.0[..feed];
        self.0 = &self.0[feed + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

impl Lines<'_> {
    /// Whether the next line continues the value of the previous one (obs-fold, RFC 9112 §5.2).
    #[inline]
    fn is_folded(&self) -> bool {
        matches!(self.0.first(), Some(b' ' | b'\t'))
    }

    /// A value joined with its continuations by spaces.
    #[cold]
    fn unfold(&mut self, value: &[u8]) -> Vec<u8> {
        let mut unfolded = value.to_vec();
        while self.is_folded()
            && let Some(line) = self.next()
        {
            let more = line.trim_ascii();
            if !unfolded.is_empty() && !more.is_empty() {
                unfolded.push(b' ');
            }
            unfolded.extend_from_slice(more);
        }
        unfolded
    }
}

/// `HTTP/1.x NNN …` to (x, NNN).
fn parse_status_line(line: &[u8]) -> Option<(u8, u16)> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (minor, rest) = rest.split_first()?;
    let (status, rest) = rest.strip_prefix(b" ")?.split_first_chunk::<3>()?;
    let plain = matches!(rest.first(), None | Some(b' '))
        && minor.is_ascii_digit()
        && status.iter().all(u8::is_ascii_digit);
    if !plain {
        return None;
    }
    let status = status.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0'));
    (status >= 100).then_some((minor - b'0', status))
}

pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests;
