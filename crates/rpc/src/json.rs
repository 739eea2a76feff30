//! Validates JSON text and splits it into spans, without building a tree.
//!
//! Strict RFC 8259: one value, UTF-8, no trailing bytes. What the grammar allows is accepted: numbers
//! have no range, names may repeat, and a `\u` escape may be half of a surrogate pair. Nesting is
//! limited to [`DEPTH_MAX`] and tracked in bits, so that no input can exhaust the stack. Numbers are
//! not converted.
//!
//! Invariant: a returned span is a valid value without surrounding white space.

mod scan;

use std::borrow::Cow;

use scan::{Scanner, is_space};

/// Maximum nesting depth of arrays and objects; the same limit as in Go's encoding/json, which nodes
/// use. A call trace of the EVM's 1,024 frames has 2,048 levels. Deeper input is refused with
/// [`Fault::TooDeep`].
pub const DEPTH_MAX: u32 = 10_000;

/// Where and why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Syntax {
    /// Offset of the first invalid byte in the text.
    pub at: usize,
    /// The kind of error.
    pub what: Fault,
}

/// The kinds of syntax errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The text ends inside a value, or has no value.
    #[error("unexpected end")]
    End,
    /// A byte that is not allowed there.
    #[error("unexpected character")]
    Unexpected,
    /// A control character in a string; it must be escaped.
    #[error("control character in a string")]
    Control,
    /// A backslash that does not start a valid escape.
    #[error("invalid escape")]
    Escape,
    /// A string that is not UTF-8.
    #[error("invalid UTF-8")]
    Utf8,
    /// A malformed number.
    #[error("invalid number")]
    Number,
    /// More than [`DEPTH_MAX`] levels.
    #[error("nesting deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// Bytes after the value.
    #[error("trailing characters")]
    Trailing,
}

/// The type of a value, which is determined by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// A member of an object, as raw spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// The name with its quotation marks.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    escaped: bool,
}

impl<'a> Member<'a> {
    /// The decoded bytes of the name.
    #[inline]
    pub fn plain(&self) -> Cow<'a, [u8]> {
        let inner = &self.name[1..self.name.len() - 1];
        if !self.escaped {
            return Cow::Borrowed(inner);
        }
        Cow::Owned(unescape(inner).unwrap_or_default().into_bytes())
    }
}

/// Checks that `text` is exactly one value, and returns it without surrounding white space.
///
/// # Errors
/// The first [`Syntax`] fault.
#[inline]
pub fn validate(text: &[u8]) -> Result<&[u8], Syntax> {
    let mut scanner = Scanner { text, at: 0 };
    let value = scanner.value(0)?;
    scanner.end()?;
    Ok(value)
}

/// The type of the value that the first byte of `text` starts; `None` if no value starts with it.
#[inline]
pub fn kind(text: &[u8]) -> Option<Kind> {
    match text.iter().find(|byte| !is_space(**byte))? {
        b'{' => Some(Kind::Object),
        b'[' => Some(Kind::Array),
        b'"' => Some(Kind::String),
        b'-' | b'0'..=b'9' => Some(Kind::Number),
        b't' | b'f' => Some(Kind::Bool),
        b'n' => Some(Kind::Null),
        _ => None,
    }
}

/// The members of the object in `text`, in order, validated as they are visited. The iterator ends
/// after an error; `text` is valid only if the iterator ends without one.
#[inline]
pub fn members(text: &[u8]) -> Members<'_> {
    Members { inner: Inside::new(text, b'{') }
}

/// The value of the first member with this name of the object in `text`; `None` if there is none before
/// the object's end or an error.
#[inline]
pub fn member<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut members = members(text).map_while(Result::ok);
    members.find(|member| *member.plain() == *name.as_bytes()).map(|member| member.value)
}

/// The items of the array in `text`, in order, validated as they are visited. The iterator ends
/// after an error; `text` is valid only if the iterator ends without one.
#[inline]
pub fn items(text: &[u8]) -> Items<'_> {
    Items { inner: Inside::new(text, b'[') }
}

/// Decodes the string `raw`, a span returned by this module with its quotation marks; borrows unless
/// it has escapes. Half of a surrogate pair becomes U+FFFD. `None` if `raw` is not a string.
pub fn text(raw: &[u8]) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') {
        unescape(inner).map(Cow::Owned)
    } else {
        std::str::from_utf8(inner).ok().map(Cow::Borrowed)
    }
}

/// Whether the valid string `raw` (with its quotation marks) equals `plain` after decoding. `plain`
/// must not contain characters that JSON requires to be escaped.
#[inline]
pub fn is_text(raw: &[u8], plain: &str) -> bool {
    let Some(inner) = raw.get(1..raw.len().saturating_sub(1)) else { return false };
    inner == plain.as_bytes()
        || (inner.contains(&b'\\') && text(raw).is_some_and(|text| text == plain))
}

/// Iterator over the members of an object; see [`members`].
#[derive(Debug, Clone)]
pub struct Members<'a> {
    inner: Inside<'a>,
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, Syntax>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.inner.next(|scanner| {
            let (name, escaped) = scanner.name()?;
            Ok(Member { name, value: scanner.value(1)?, escaped })
        })
    }
}

/// Iterator over the items of an array; see [`items`].
#[derive(Debug, Clone)]
pub struct Items<'a> {
    inner: Inside<'a>,
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<&'a [u8], Syntax>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.inner.next(|scanner| scanner.value(1))
    }
}

/// The common part of [`Members`] and [`Items`]: brackets, commas and the end.
#[derive(Debug, Clone)]
struct Inside<'a> {
    scanner: Scanner<'a>,
    open: u8,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Within,
    Done,
}

impl<'a> Inside<'a> {
    #[inline]
    fn new(text: &'a [u8], open: u8) -> Self {
        Inside { scanner: Scanner { text, at: 0 }, open, state: State::Before }
    }

    #[inline]
    fn next<T>(
        &mut self,
        element: impl FnOnce(&mut Scanner<'a>) -> Result<T, Syntax>,
    ) -> Option<Result<T, Syntax>> {
        if self.state == State::Done {
            return None;
        }
        let next = match self.proceed() {
            Ok(true) => element(&mut self.scanner).map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        };
        if !matches!(next, Ok(Some(_))) {
            self.state = State::Done;
        }
        next.transpose()
    }

    /// Moves to the next element and returns true, or past the closing bracket and returns false.
    #[inline]
    fn proceed(&mut self) -> Result<bool, Syntax> {
        // In ASCII, a closing bracket is two after its opening one.
        let close = self.open + 2;
        let scanner = &mut self.scanner;
        if self.state == State::Before {
            scanner.expect(self.open)?;
            scanner.space();
            self.state = State::Within;
            if scanner.peek() != Some(close) {
                return Ok(true);
            }
        } else {
            scanner.space();
            match scanner.peek() {
                Some(b',') => {
                    scanner.at += 1;
                    return Ok(true);
                }
                Some(byte) if byte == close => {}
                _ => return Err(scanner.unexpected()),
            }
        }
        scanner.at += 1;
        scanner.end().map(|()| false)
    }
}

/// Writes `text` as a JSON string, with quotation marks.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut scanner = Scanner { text: text.as_bytes(), at: 0 };
    let mut written = 0;
    loop {
        scanner.plain();
        let Some(byte) = scanner.peek() else { break };
        scanner.at += 1;
        if !matches!(byte, b'"' | b'\\' | 0..0x20) {
            continue;
        }
        out.extend_from_slice(&scanner.text[written..scanner.at - 1]);
        written = scanner.at;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&scanner.text[written..]);
    out.push(b'"');
}

/// Decodes the inside of a valid string.
fn unescape(inner: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(slash) = rest.iter().position(|byte| *byte == b'\\') {
        text.push_str(std::str::from_utf8(&rest[..slash]).ok()?);
        let letter = *rest.get(slash + 1)?;
        rest = &rest[slash + 2..];
        text.push(match letter {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = hex4(rest)?;
                rest = &rest[4..];
                match low_half(high, rest) {
                    Some(low) => {
                        rest = &rest[6..];
                        let pair = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                        char::from_u32(pair)?
                    }
                    None => char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            plain => char::from(plain),
        });
    }
    text.push_str(std::str::from_utf8(rest).ok()?);
    Some(text)
}

/// The second half of the surrogate pair that `high` starts, if `rest` starts with it.
fn low_half(high: u32, rest: &[u8]) -> Option<u32> {
    if !(0xd800..0xdc00).contains(&high) {
        return None;
    }
    let low = hex4(rest.strip_prefix(b"\\u")?)?;
    (0xdc00..0xe000).contains(&low).then_some(low)
}

fn hex4(digits: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits.get(..4)?).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_positions() {
        let check = |text: &str, at: usize, what: Fault| {
            assert_eq!(validate(text.as_bytes()), Err(Syntax { at, what }), "{text}");
        };
        check("", 0, Fault::End);
        check("  ", 2, Fault::End);
        check("{\"a\":1", 6, Fault::End);
        check("[1,]", 3, Fault::Unexpected);
        check("[1}", 2, Fault::Unexpected);
        check("{\"a\" 1}", 5, Fault::Unexpected);
        check("{1:1}", 1, Fault::Unexpected);
        check("nul", 3, Fault::End);
        check("nulL", 3, Fault::Unexpected);
        check("\"a\nb\"", 2, Fault::Control);
        check("\"a\\xb\"", 3, Fault::Escape);
        check("\"\\u12g4\"", 5, Fault::Escape);
        check("\"abcdefgh\\", 10, Fault::End);
        check("-", 1, Fault::End);
        check("-x", 1, Fault::Number);
        check("1.x", 2, Fault::Number);
        check("01", 1, Fault::Trailing); // a leading zero is a separate value
        check("1 2", 2, Fault::Trailing);
        assert_eq!(validate(b"\"ab\xff\""), Err(Syntax { at: 3, what: Fault::Utf8 }));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
        let limit = DEPTH_MAX as usize;
        assert!(validate(&nested(limit)).is_ok());
        let deep = nested(limit + 1);
        assert_eq!(validate(&deep), Err(Syntax { at: limit, what: Fault::TooDeep }));
        // The limit is the same when visiting items.
        assert!(items(&nested(limit)).all(|item| item.is_ok()));
        assert!(items(&deep).any(|item| item.is_err()));
        assert!(validate(&vec![b'['; 1_000_000]).is_err());
    }

    /// The nesting of a call trace.
    #[test]
    fn brackets_of_deep_values_must_match() {
        for levels in [63, 64, 65, 127, 128, 129, 256, 257, 1_024] {
            let open = "{\"calls\":[".repeat(levels);
            let text = format!("{open}1{}", "]}".repeat(levels));
            assert!(validate(text.as_bytes()).is_ok(), "{levels}");
            for wrong in [0, 1, 62, 127, 128, 129, 255, 256, 257] {
                let mut text = text.clone().into_bytes();
                let at = open.len() + 1 + wrong;
                let Some(byte) = text.get_mut(at) else { continue };
                *byte = if *byte == b']' { b'}' } else { b']' };
                let error = Syntax { at, what: Fault::Unexpected };
                assert_eq!(validate(&text), Err(error), "{levels}, {wrong}");
            }
        }
    }

    #[test]
    fn members_and_items_are_spans() {
        let object = br#" { "a" : [1, {"b":2}] ,"\u0063":"x" } "#;
        let seen: Vec<_> = members(object).map(|member| member.expect("valid")).collect();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].value, br#"[1, {"b":2}]"#);
        assert!(*seen[0].plain() == *b"a" && *seen[1].plain() == *b"c");
        assert_eq!(
            items(seen[0].value).collect::<Result<Vec<_>, _>>(),
            Ok(vec![b"1".as_slice(), br#"{"b":2}"#])
        );
        assert_eq!(members(b"{}").count(), 0);
        assert_eq!(items(b" [ ] ").count(), 0);
        // The iterator ends after an error.
        assert_eq!(items(b"[1 2").collect::<Vec<_>>().len(), 2);
        assert!(members(b"{} x").next().is_some_and(|member| member.is_err()));
        assert!(members(b"[]").next().is_some_and(|member| member.is_err()));
    }

    #[test]
    fn written_strings_decode_to_the_same() {
        let check = |plain: &str, written: &str| {
            let mut out = Vec::new();
            write_text(&mut out, plain);
            assert_eq!(String::from_utf8_lossy(&out), written);
            assert_eq!(text(&out).as_deref(), Some(plain));
        };
        check("", r#""""#);
        check("é 😀", "\"é 😀\"");
        check("a\"\\\n\r\t\u{1}\u{7f}", "\"a\\\"\\\\\\n\\r\\t\\u0001\u{7f}\"");
    }

    #[test]
    fn strings_are_decoded() {
        let check = |raw: &str, plain: Option<&str>| {
            assert_eq!(text(raw.as_bytes()).as_deref(), plain, "{raw}");
        };
        check(r#""plain""#, Some("plain"));
        check(r#""a\"\\\/\b\f\n\r\tz""#, Some("a\"\\/\u{8}\u{c}\n\r\tz"));
        check(r#""\u00e9 é \ud83d\ude00""#, Some("é é 😀"));
        check(r#""\ud83d x""#, Some("\u{fffd} x"));
        check(r#""\ud83d\u0041""#, Some("\u{fffd}A"));
        check(r#""\ude00""#, Some("\u{fffd}"));
        check("12", None);
        check("\"open", None);
        check("\"", None);
        assert!(is_text(br#""\u0069d""#, "id"));
        assert!(!is_text(b"\"", "id"));
    }
}
