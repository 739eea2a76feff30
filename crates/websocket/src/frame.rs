//! Frames (RFC 6455 §5).

use crate::reader::Violation;

/// Maximum length of the payload of a control frame.
pub const CONTROL_MAX: usize = 125;
/// Maximum length of a frame's head.
pub const HEAD_MAX: usize = 14;

/// The reserved bit that marks the first frame of a compressed message (RFC 7692 §6).
const RSV1: u8 = 0x40;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A further part of a message.
    Continuation,
    /// The first part of a message in UTF-8.
    Text,
    /// The first part of a message of bytes.
    Binary,
    /// The end of the connection.
    Close,
    /// A question whether the other side is there.
    Ping,
    /// The answer to a ping.
    Pong,
}

impl Opcode {
    fn of(number: u8) -> Option<Opcode> {
        Some(match number {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    fn number(self) -> u8 {
        match self {
            Opcode::Continuation => 0,
            Opcode::Text => 1,
            Opcode::Binary => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        }
    }

    /// Whether it is about the connection, not a part of a message.
    pub(crate) fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Whether its message ends with it.
    pub(crate) ends: bool,
    /// Whether its message is compressed; set on the first frame of a message only (RSV1).
    pub(crate) is_compressed: bool,
    pub(crate) opcode: Opcode,
    pub(crate) mask: Option<[u8; 4]>,
    /// Length of the payload.
    pub(crate) payload: u64,
    /// Length of the head itself.
    pub(crate) len: usize,
}

impl Head {
    /// Reads the head at the beginning of `bytes`; `None` if it is incomplete.
    ///
    /// # Errors
    /// If the frame breaks the protocol, as far as its head shows it.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<Head>, Violation> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & 0x30 != 0 {
            return Err(Violation::ReservedBits);
        }
        let opcode = Opcode::of(first & 0x0f).ok_or(Violation::UnknownOpcode)?;
        let (ends, is_compressed) = (first & 0x80 != 0, first & RSV1 != 0);
        let is_masked = second & 0x80 != 0;
        let short = second & 0x7f;
        if opcode.is_control() && (!ends || short > CONTROL_MAX as u8) {
            return Err(Violation::BadControl);
        }
        let (payload, extra) = match short {
            126 => {
                let Some(bytes) = rest.first_chunk::<2>() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*bytes)), 2)
            }
            127 => {
                let Some(bytes) = rest.first_chunk::<8>() else { return Ok(None) };
                (u64::from_be_bytes(*bytes), 8)
            }
            short => (u64::from(short), 0),
        };
        let is_shortest = match extra {
            0 => true,
            2 => payload > CONTROL_MAX as u64,
            _ => payload > u64::from(u16::MAX) && payload < 1 << 63,
        };
        if !is_shortest {
            return Err(Violation::BadLength);
        }
        let mut len = 2 + extra;
        let mut mask = None;
        if is_masked {
            let Some(key) = rest[extra..].first_chunk::<4>() else { return Ok(None) };
            mask = Some(*key);
            len += key.len();
        }
        Ok(Some(Head { ends, is_compressed, opcode, mask, payload, len }))
    }
}

/// Length of the head of a frame with a payload of this length.
pub fn head_len(payload: usize, is_masked: bool) -> usize {
    let extra = match payload {
        0..=CONTROL_MAX => 0,
        126..=0xffff => 2,
        _ => 8,
    };
    2 + extra + if is_masked { 4 } else { 0 }
}

/// Appends a frame. Clients mask their frames, servers do not.
///
/// # Panics
/// If the payload of a control frame is longer than [`CONTROL_MAX`].
#[inline]
pub fn put(out: &mut Vec<u8>, opcode: Opcode, ends: bool, key: Option<[u8; 4]>, payload: &[u8]) {
    let len = payload.len();
    assert!(!opcode.is_control() || len <= CONTROL_MAX && ends, "control frames are short");
    let masked = if key.is_some() { 0x80 } else { 0 };
    out.push(if ends { 0x80 } else { 0 } | opcode.number());
    match len {
        0..=CONTROL_MAX => out.push(masked | len as u8),
        126..=0xffff => {
            out.push(masked | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    let Some(key) = key else { return out.extend_from_slice(payload) };
    out.extend_from_slice(&key);
    let at = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[at..], key, 0);
}

/// Appends a message whose payload was compressed, in one frame.
#[inline]
pub fn put_compressed(out: &mut Vec<u8>, opcode: Opcode, key: Option<[u8; 4]>, payload: &[u8]) {
    let at = out.len();
    put(out, opcode, true, key, payload);
    out[at] |= RSV1;
}

/// Appends a close frame. A reason that does not fit is cut.
pub fn put_close(out: &mut Vec<u8>, code: u16, reason: &str, key: Option<[u8; 4]>) {
    let end = reason.floor_char_boundary(reason.len().min(CONTROL_MAX - 2));
    let payload = [&code.to_be_bytes()[..], &reason.as_bytes()[..end]].concat();
    put(out, Opcode::Close, true, key, &payload);
}

/// Masks or unmasks a part of a payload that begins `at` bytes after the payload's start.
#[inline]
pub fn mask(bytes: &mut [u8], key: [u8; 4], at: usize) {
    let key: [u8; 4] = std::array::from_fn(|own| key[(at + own) % 4]);
    let wide = u64::from_ne_bytes(std::array::from_fn(|own| key[own % 4]));
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    rest.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}
