//! Strings in JSON as Go writes them.

use std::fmt::Write;

/// Which of Go's JSON encoders is followed: they differ in two characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `easyjson`, for results.
    Result,
    /// `encoding/json`, for reports: `\b` and `\f` have short forms.
    Report,
}

/// Appends a JSON string. `<`, `>` and `&` are escaped, so that it can stand in HTML; every byte that
/// is not UTF-8 becomes U+FFFD.
pub(super) fn string(text: &[u8], style: Style, out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        let valid = chunk.valid();
        let mut plain = 0;
        for (at, character) in valid.char_indices() {
            if !matches!(
                character,
                '\0'..='\x1f' | '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}'
            ) {
                continue;
            }
            out.extend_from_slice(&valid.as_bytes()[plain..at]);
            plain = at + character.len_utf8();
            escape(character, style, out);
        }
        out.extend_from_slice(&valid.as_bytes()[plain..]);
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.push(b'"');
}

fn escape(character: char, style: Style, out: &mut Vec<u8>) {
    let short: &[u8] = match character {
        '"' => b"\\\"",
        '\\' => b"\\\\",
        '\n' => b"\\n",
        '\r' => b"\\r",
        '\t' => b"\\t",
        '\x08' if style == Style::Report => b"\\b",
        '\x0c' if style == Style::Report => b"\\f",
        _ => {
            let mut code = String::with_capacity(6);
            write!(code, "\\u{:04x}", character as u32).expect("a string");
            out.extend_from_slice(code.as_bytes());
            return;
        }
    };
    out.extend_from_slice(short);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &[u8], style: Style, written: &str) {
        let mut out = Vec::new();
        string(text, style, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), written);
    }

    #[test]
    fn strings() {
        check(b"", Style::Result, "\"\"");
        check("é<>&\"\\/".as_bytes(), Style::Result, r#""é\u003c\u003e\u0026\"\\/""#);
        check(b"\x00\x08\x0c\n\r\t\x7f", Style::Result, "\"\\u0000\\u0008\\u000c\\n\\r\\t\x7f\"");
        check(b"\x08\x0c", Style::Report, r#""\b\f""#);
        check("\u{2028}\u{2029}".as_bytes(), Style::Report, r#""\u2028\u2029""#);
        // Three bytes of a character of four, as Go counts them.
        check(b"a\xf0\x9f\x98b\xff", Style::Result, r#""a\ufffd\ufffd\ufffdb\ufffd""#);
    }
}
