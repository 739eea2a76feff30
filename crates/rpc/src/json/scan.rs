//! The scanner: walks JSON text and stops at the first invalid byte.
//!
//! It implements the grammar only. Open containers are tracked as bits, not as stack frames.

use super::{DEPTH_MAX, Fault, Syntax};

/// A position in a text.
#[derive(Debug, Clone)]
pub(super) struct Scanner<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Scanner<'a> {
    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[inline]
    pub(super) fn space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    #[inline]
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Syntax> {
        self.space();
        if self.peek() != Some(byte) {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(())
    }

    #[inline]
    pub(super) fn end(&mut self) -> Result<(), Syntax> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { Err(self.fault(Fault::Trailing)) }
    }

    #[cold]
    pub(super) fn unexpected(&self) -> Syntax {
        self.fault(if self.at < self.text.len() { Fault::Unexpected } else { Fault::End })
    }

    fn fault(&self, what: Fault) -> Syntax {
        Syntax { at: self.at, what }
    }

    /// A member's name, and the colon after it. Also returns whether the name has escapes.
    #[inline]
    pub(super) fn name(&mut self) -> Result<(&'a [u8], bool), Syntax> {
        self.space();
        let from = self.at;
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        let escaped = self.string()?;
        let name = &self.text[from..self.at];
        self.expect(b':')?;
        Ok((name, escaped))
    }

    /// A value at nesting level `depth`.
    #[inline]
    pub(super) fn value(&mut self, depth: u32) -> Result<&'a [u8], Syntax> {
        self.space();
        let from = self.at;
        // Fast path: most values are strings and numbers.
        match self.peek() {
            Some(b'"') => {
                self.string()?;
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => return self.nested(depth),
        }
        Ok(&self.text[from..self.at])
    }

    /// A value that may contain others. The low bits of `objects` are the open containers, the
    /// innermost lowest, set for objects; `outer` has those that do not fit into one word.
    fn nested(&mut self, depth: u32) -> Result<&'a [u8], Syntax> {
        let from = self.at;
        let floor = depth;
        let mut depth = depth;
        let mut objects = 0u128;
        let mut outer = Vec::new();
        // Whether the word is full at this level.
        let is_full = |depth: u32| depth > floor && (depth - floor).is_multiple_of(u128::BITS);
        loop {
            self.space();
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(open @ (b'{' | b'[')) => {
                    if depth == DEPTH_MAX {
                        return Err(self.fault(Fault::TooDeep));
                    }
                    self.at += 1;
                    self.space();
                    if self.peek() == Some(open + 2) {
                        self.at += 1;
                    } else {
                        if is_full(depth) {
                            outer.push(objects);
                        }
                        depth += 1;
                        objects = objects << 1 | u128::from(open == b'{');
                        if open == b'{' {
                            self.name()?;
                        }
                        continue;
                    }
                }
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                _ => return Err(self.unexpected()),
            }
            // After a value, the containers around it may end.
            loop {
                if depth == floor {
                    return Ok(&self.text[from..self.at]);
                }
                self.space();
                let in_object = objects & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if in_object {
                            self.name()?;
                        }
                        break;
                    }
                    Some(b'}') if in_object => {}
                    Some(b']') if !in_object => {}
                    _ => return Err(self.unexpected()),
                }
                self.at += 1;
                depth -= 1;
                objects = if is_full(depth) { outer.pop().unwrap_or(0) } else { objects >> 1 };
            }
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Syntax> {
        for byte in word {
            if self.peek() != Some(*byte) {
                return Err(self.unexpected());
            }
            self.at += 1;
        }
        Ok(())
    }

    #[inline]
    fn number(&mut self) -> Result<(), Syntax> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), Syntax> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > from {
            return Ok(());
        }
        Err(if self.at < self.text.len() { self.fault(Fault::Number) } else { self.unexpected() })
    }

    /// A string with its quotation marks. Returns whether it has escapes.
    #[inline]
    fn string(&mut self) -> Result<bool, Syntax> {
        self.at += 1;
        let from = self.at;
        self.plain();
        // Fast path: most strings have only plain bytes.
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(false);
        }
        self.string_from(from)
    }

    /// The rest of a string that began at `from`.
    fn string_from(&mut self, from: usize) -> Result<bool, Syntax> {
        let (mut ascii, mut escaped) = (true, false);
        loop {
            self.plain();
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(0..0x20) => return Err(self.fault(Fault::Control)),
                Some(0x80..) => {
                    ascii = false;
                    while self.peek().is_some_and(|byte| byte >= 0x80) {
                        self.at += 1;
                    }
                }
                Some(_) => self.at += 1,
                None => return Err(self.fault(Fault::End)),
            }
        }
        if !ascii && let Err(error) = std::str::from_utf8(&self.text[from..self.at]) {
            return Err(Syntax { at: from + error.valid_up_to(), what: Fault::Utf8 });
        }
        self.at += 1;
        Ok(escaped)
    }

    /// Skips bytes that need no special handling, eight at a time.
    #[inline]
    pub(super) fn plain(&mut self) {
        while let Some(word) = self.text[self.at..].first_chunk::<8>() {
            let special = special(u64::from_le_bytes(*word));
            if special != 0 {
                self.at += (special.trailing_zeros() / 8) as usize;
                return;
            }
            self.at += 8;
        }
        // The last bytes of the text.
        let is_plain = |byte| !matches!(byte, b'"' | b'\\' | 0..0x20 | 0x80..);
        while self.peek().is_some_and(is_plain) {
            self.at += 1;
        }
    }

    fn escape(&mut self) -> Result<(), Syntax> {
        let Some(letter) = self.text.get(self.at + 1) else {
            return Err(Syntax { at: self.text.len(), what: Fault::End });
        };
        match letter {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
            b'u' => {
                for at in self.at + 2..self.at + 6 {
                    match self.text.get(at) {
                        Some(byte) if byte.is_ascii_hexdigit() => {}
                        Some(_) => return Err(Syntax { at, what: Fault::Escape }),
                        None => return Err(Syntax { at, what: Fault::End }),
                    }
                }
                self.at += 6;
            }
            _ => return Err(Syntax { at: self.at + 1, what: Fault::Escape }),
        }
        Ok(())
    }
}

#[inline]
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// Sets the top bit of each byte that is not plain: quotation mark, backslash, control, non-ASCII.
/// Bits above the lowest one may be false positives (a borrow propagates); the lowest never is.
#[inline]
fn special(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const TOPS: u64 = ONES * 0x80;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let quote = zero(word ^ (ONES * b'"' as u64));
    let slash = zero(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | slash | control | word) & TOPS
}
