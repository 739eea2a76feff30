//! From bytes to messages.
//!
//! A message that is whole in the input, in one frame without a mask, is returned from there; others are
//! collected. Compressed messages are decompressed into a buffer that the readers of a thread share, so that a
//! connection between two messages holds neither a window nor a buffer. Everything that the peer can break is a [`Violation`], after which the connection is of no
//! more use.

use crate::deflate::Inflate;
use crate::frame::{CONTROL_MAX, HEAD_MAX, Head, Opcode, mask};

/// Which side reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads frames of a server, which are not masked.
    Client,
    /// Reads frames of a client, which are masked.
    Server,
}

/// How the peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Reserved bits are set, although no extension was agreed on that uses them there.
    #[error("a frame with reserved bits that no agreed extension uses there")]
    ReservedBits,
    /// A frame of an unknown kind.
    #[error("a frame with an unknown opcode")]
    UnknownOpcode,
    /// A control frame that is fragmented or too long.
    #[error("a control frame that is fragmented or longer than 125 bytes")]
    BadControl,
    /// A length that is not in its shortest form, or beyond 63 bits.
    #[error("a frame whose length is not in the shortest form")]
    BadLength,
    /// A masked frame of a server, or one of a client that is not masked.
    #[error("a frame with the wrong masking: clients mask, servers do not")]
    BadMask,
    /// A continuation without a beginning, or a new message before the end of the last.
    #[error("a fragment that does not continue the message")]
    BadFragment,
    /// A message of too many fragments: those without bytes would never end.
    #[error("a message of more than 10,000 fragments")]
    TooManyFragments,
    /// A message that is longer than the limit.
    #[error("a message longer than the limit")]
    TooLong,
    /// A compressed message that cannot be decompressed, or is incomplete.
    #[error("a compressed message that cannot be decompressed")]
    BadDeflate,
    /// A text that is not UTF-8.
    #[error("a text that is not valid UTF-8")]
    BadText,
    /// A close frame with a reserved code or half a code.
    #[error("a close frame with an invalid code")]
    BadClose,
    /// A frame after the close frame.
    #[error("a frame after the close frame")]
    AfterClose,
}

impl Violation {
    /// The code of the close frame with which to answer (RFC 6455 §7.4.1).
    pub fn code(self) -> u16 {
        match self {
            Violation::TooLong | Violation::TooManyFragments => 1009,
            Violation::BadText | Violation::BadDeflate => 1007,
            _ => 1002,
        }
    }
}

/// What a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A message of text.
    Text(&'a str),
    /// A message of bytes.
    Binary(&'a [u8]),
    /// To be answered by a pong with the same bytes.
    Ping(&'a [u8]),
    /// The answer to a ping, or a heartbeat.
    Pong(&'a [u8]),
    /// The end of the connection, to be answered by a close frame unless one was sent. Without a code, the
    /// frame has none.
    Close {
        /// Why, as a number.
        code: Option<u16>,
        /// Why, for people to read.
        reason: &'a str,
    },
}

/// The payload of a frame that is not complete.
#[derive(Clone, Copy, Debug)]
struct Open {
    head: Head,
    /// How much of it was read.
    read: usize,
}

/// Reads the frames of a peer.
#[derive(Debug)]
pub struct Reader {
    role: Role,
    message_max: usize,
    /// The beginning of a head.
    head: [u8; HEAD_MAX],
    head_read: usize,
    open: Option<Open>,
    /// The kind of the message that is not complete.
    kind: Option<Opcode>,
    message: Vec<u8>,
    /// How many of its fragments were read.
    fragments: u32,
    control: Vec<u8>,
    /// Whether `message` and `control` were returned last.
    is_returned: bool,
    /// Whether messages may be compressed, the one that is not complete is, and `message` was decompressed.
    may_be_compressed: bool,
    is_compressed: bool,
    is_inflated: bool,
    has_closed: bool,
}

/// Maximum number of fragments of a message.
const FRAGMENTS_MAX: u32 = 10_000;
/// Capacity that is kept for the next message.
const KEPT: usize = 4 << 10;

impl Reader {
    /// A reader of messages of at most `message_max` bytes, before and after decompression.
    pub fn new(role: Role, message_max: usize) -> Reader {
        Reader {
            role,
            message_max,
            head: [0; HEAD_MAX],
            head_read: 0,
            open: None,
            kind: None,
            message: Vec::new(),
            fragments: 0,
            control: Vec::new(),
            is_returned: false,
            may_be_compressed: false,
            is_compressed: false,
            is_inflated: false,
            has_closed: false,
        }
    }

    /// From now on, messages may be compressed: that was agreed on.
    pub fn allow_compression(&mut self) {
        self.may_be_compressed = true;
    }

    /// Bytes that it holds of an incomplete message.
    pub fn held(&self) -> usize {
        self.message.len()
    }

    /// The message that was returned last, if it was not returned from the input.
    pub fn last(&self) -> &[u8] {
        &self.message
    }

    /// Whether a message or a frame has begun that is not complete.
    pub fn is_within_message(&self) -> bool {
        self.kind.is_some() || self.open.is_some() || self.head_read > 0
    }

    /// The next message in the input, whose beginning it removes; `None` if the input is used up.
    /// `inflate` decompresses, and gets back the buffer of the last message that it decompressed.
    ///
    /// # Errors
    /// If the peer broke the protocol.
    #[inline]
    pub fn next<'a, 'b: 'a>(
        &'a mut self,
        input: &mut &'b [u8],
        inflate: &mut Inflate,
    ) -> Result<Option<Message<'a>>, Violation> {
        if std::mem::take(&mut self.is_returned) {
            self.forget(inflate);
        }
        loop {
            let Some(open) = self.frame(input)? else { return Ok(None) };
            let head = open.head;
            let missing = head.payload as usize - open.read;
            let is_whole = missing <= input.len();
            let (part, rest) = input.split_at(missing.min(input.len()));
            *input = rest;
            let in_place = is_whole && open.read == 0 && head.mask.is_none();
            if in_place && head.ends && self.kind.is_none() && !head.opcode.is_control() {
                self.open = None;
                if head.is_compressed {
                    self.inflate(Some(part), inflate)?;
                    return message(head.opcode, &self.message).map(Some);
                }
                return message(head.opcode, part).map(Some);
            }
            let buffer =
                if head.opcode.is_control() { &mut self.control } else { &mut self.message };
            let at = buffer.len();
            buffer.extend_from_slice(part);
            if let Some(key) = head.mask {
                mask(&mut buffer[at..], key, open.read);
            }
            if !is_whole {
                self.open = Some(Open { head, read: open.read + part.len() });
                return Ok(None);
            }
            self.open = None;
            if head.opcode.is_control() {
                self.is_returned = true;
                self.has_closed |= head.opcode == Opcode::Close;
                return message(head.opcode, &self.control).map(Some);
            }
            let kind = *self.kind.get_or_insert(head.opcode);
            self.is_compressed |= head.is_compressed;
            self.fragments += 1;
            if head.ends {
                (self.kind, self.fragments, self.is_returned) = (None, 0, true);
                if std::mem::take(&mut self.is_compressed) {
                    self.inflate(None, inflate)?;
                }
                return message(kind, &self.message).map(Some);
            }
        }
    }

    /// Forgets what was returned last.
    fn forget(&mut self, inflate: &mut Inflate) {
        self.control.clear();
        if self.kind.is_some() {
            return;
        }
        if std::mem::take(&mut self.is_inflated) {
            inflate.take_back(std::mem::take(&mut self.message));
        } else {
            self.message.clear();
            self.message.shrink_to(KEPT);
        }
    }

    /// Decompresses a payload, or the message that was collected, into `message`.
    fn inflate(&mut self, payload: Option<&[u8]>, inflate: &mut Inflate) -> Result<(), Violation> {
        let collected = std::mem::take(&mut self.message);
        self.message = inflate.message(payload.unwrap_or(&collected), self.message_max)?;
        (self.is_returned, self.is_inflated) = (true, true);
        Ok(())
    }

    /// The frame whose payload comes next in the input.
    #[inline]
    fn frame(&mut self, input: &mut &[u8]) -> Result<Option<Open>, Violation> {
        if let Some(open) = self.open {
            return Ok((!input.is_empty()).then_some(open));
        }
        let head = if self.head_read == 0 { Head::read(input)? } else { self.read_head(input)? };
        let Some(head) = head else {
            let rest = &mut self.head[self.head_read..];
            let n = input.len().min(rest.len());
            rest[..n].copy_from_slice(&input[..n]);
            self.head_read += n;
            *input = &input[n..];
            return Ok(None);
        };
        // Those of its bytes that were read before are no longer in the input.
        *input = &input[head.len - std::mem::take(&mut self.head_read)..];
        self.check(&head)?;
        let open = Open { head, read: 0 };
        self.open = Some(open);
        Ok(Some(open))
    }

    /// A head whose beginning was read before.
    #[cold]
    fn read_head(&self, input: &[u8]) -> Result<Option<Head>, Violation> {
        let mut bytes = self.head;
        let n = input.len().min(HEAD_MAX - self.head_read);
        bytes[self.head_read..self.head_read + n].copy_from_slice(&input[..n]);
        Head::read(&bytes[..self.head_read + n])
    }

    #[inline]
    fn check(&self, head: &Head) -> Result<(), Violation> {
        if self.has_closed {
            return Err(Violation::AfterClose);
        }
        if head.mask.is_some() != (self.role == Role::Server) {
            return Err(Violation::BadMask);
        }
        let begins = matches!(head.opcode, Opcode::Text | Opcode::Binary);
        if head.is_compressed && !(begins && self.may_be_compressed) {
            return Err(Violation::ReservedBits);
        }
        if head.opcode.is_control() {
            return Ok(());
        }
        if (head.opcode == Opcode::Continuation) != self.kind.is_some() {
            return Err(Violation::BadFragment);
        }
        if self.fragments == FRAGMENTS_MAX {
            return Err(Violation::TooManyFragments);
        }
        let held = if self.kind.is_some() { self.message.len() } else { 0 };
        match (self.message_max as u64).checked_sub(held as u64) {
            Some(room) if head.payload <= room => Ok(()),
            _ => Err(Violation::TooLong),
        }
    }
}

/// A complete message.
#[inline]
fn message(kind: Opcode, payload: &[u8]) -> Result<Message<'_>, Violation> {
    let text = |bytes| str::from_utf8(bytes).map_err(|_| Violation::BadText);
    Ok(match kind {
        Opcode::Text => Message::Text(text(payload)?),
        Opcode::Ping => Message::Ping(payload),
        Opcode::Pong => Message::Pong(payload),
        Opcode::Binary | Opcode::Continuation => Message::Binary(payload),
        Opcode::Close => {
            let Some((code, reason)) = payload.split_first_chunk::<2>() else {
                let is_empty = payload.is_empty();
                let none = Message::Close { code: None, reason: "" };
                return if is_empty { Ok(none) } else { Err(Violation::BadClose) };
            };
            let code = u16::from_be_bytes(*code);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Violation::BadClose);
            }
            Message::Close { code: Some(code), reason: text(reason)? }
        }
    })
}

const _: () = assert!(CONTROL_MAX < KEPT, "a control frame never allocates twice");

#[cfg(test)]
mod tests;
