//! Text with placeholders: `{{seq}}`, `{{uuid}}`, `{{random 1 100}}`. `{{{{` is a literal `{{`.
//!
//! A placeholder's value depends only on the plan's seed, the stream and the request's number, so that
//! the same plan sends the same requests however the work is split.

use plimsoll_measure::rng::Key;
use std::io::Write;

/// The values of an arrival's placeholders, for all its requests.
#[derive(Clone, Copy, Debug)]
pub struct Values {
    /// The arrival's number in its stream.
    pub seq: u64,
    /// Key of random values: the stream's key with the number.
    pub key: Key,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Seq,
    /// The number distinguishes placeholders of one request.
    Uuid(u64),
    Random {
        least: u64,
        most: u64,
        number: u64,
    },
}

/// Text with placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

const KNOWN: &str = "known: {{seq}}, {{uuid}}, {{random MIN MAX}}, and {{{{ for a literal {{";

impl Template {
    /// Text without placeholders.
    pub fn plain(text: impl Into<Vec<u8>>) -> Template {
        Template { parts: vec![Part::Text(text.into())] }
    }

    /// Parses text. `placed` counts the placeholders over all templates of a request.
    ///
    /// # Errors
    /// The invalid placeholder, and a list of the valid ones.
    pub fn parse(text: &str, placed: &mut u64) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("{{") {
            literal.extend_from_slice(&rest.as_bytes()[..at]);
            let inside = &rest[at + 2..];
            if let Some(after) = inside.strip_prefix("{{") {
                literal.extend_from_slice(b"{{");
                rest = after;
                continue;
            }
            let end =
                inside.find("}}").ok_or_else(|| format!("\"{{{{\" without \"}}}}\"; {KNOWN}"))?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(placeholder(inside[..end].trim(), *placed)?);
            *placed += 1;
            rest = &inside[end + 2..];
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Template { parts })
    }

    /// The template that renders as this text: each `{{` is doubled.
    pub fn escape(text: &str) -> String {
        text.replace("{{", "{{{{")
    }

    /// The text, if it has no placeholders.
    pub fn as_plain(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [] => Some(b""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text between placeholders.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_slice()),
            _ => None,
        })
    }

    /// Replaces each text between placeholders.
    ///
    /// # Errors
    /// The first error of `change`.
    pub(crate) fn change_texts(
        &mut self,
        mut change: impl FnMut(&[u8]) -> Result<String, String>,
    ) -> Result<(), String> {
        for part in &mut self.parts {
            if let Part::Text(text) = part {
                *text = change(text)?.into_bytes();
            }
        }
        Ok(())
    }

    /// Appends the text of one request.
    pub fn render(&self, values: Values, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Seq => write_number(out, values.seq),
                Part::Uuid(number) => {
                    let mut bits = values.key.with(*number).sequence();
                    write_uuid(out, bits.bits(), bits.bits());
                }
                Part::Random { least, most, number } => {
                    let mut bits = values.key.with(*number).sequence();
                    write_number(out, least + bits.below(most - least + 1));
                }
            }
        }
    }
}

fn placeholder(text: &str, number: u64) -> Result<Part, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["seq"] => Ok(Part::Seq),
        ["uuid"] => Ok(Part::Uuid(number)),
        ["random", least, most] => match (least.parse(), most.parse()) {
            (Ok(least), Ok(most)) if least <= most && most < u64::MAX => {
                Ok(Part::Random { least, most, number })
            }
            _ => Err(format!("{{{{{text}}}}} needs two whole numbers, the smaller first")),
        },
        _ => Err(format!("unknown placeholder {{{{{text}}}}}; {KNOWN}")),
    }
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    write!(out, "{number}").expect("writing to memory");
}

/// A version 4 UUID (RFC 9562 §5.4).
fn write_uuid(out: &mut Vec<u8>, high: u64, low: u64) {
    let high = high & !0xf000 | 0x4000;
    let low = low & !(0b11 << 62) | 0b10 << 62;
    let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xffff);
    let (d, e) = (low >> 48, low & 0xffff_ffff_ffff);
    write!(out, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}").expect("writing to memory");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn render(text: &str, seq: u64) -> String {
        let template = Template::parse(text, &mut 0).unwrap();
        let mut out = Vec::new();
        template.render(Values { seq, key: Key::new(1).with(seq) }, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn placeholders() {
        assert_eq!(render("no { braces } }}", 7), "no { braces } }}");
        assert_eq!(render(r#"{"id":{{seq}},"x":{"y":{}}}"#, 7), r#"{"id":7,"x":{"y":{}}}"#);
        assert_eq!(render("{{ seq }}{{seq}}", 3), "33");
        assert_eq!(render("{{random 5 5}}", 3), "5");
        assert_eq!(render("{{{{seq}}", 3), "{{seq}}");
        assert_eq!(render("a{{{{{{seq}}}}", 3), "a{{3}}");
        assert_eq!(render("{{{{{{{{", 3), "{{{{");
        assert_eq!(render("{{{{{x", 3), "{{{x");
        let uuid = render("{{uuid}}", 3);
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"), "{uuid}");
        assert_eq!(render("{{uuid}}", 3), uuid, "the same request is the same");
        assert_ne!(render("{{uuid}}", 4), uuid);
        let twice = render("{{uuid}} {{uuid}}", 3);
        assert_ne!(twice[..36], twice[37..], "two placeholders differ");
    }

    #[test]
    fn bad_placeholders() {
        let check = |text: &str, message: &str| {
            let error = Template::parse(text, &mut 0).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        };
        check("{{sequence}}", "unknown placeholder {{sequence}}; known: {{seq}}");
        check("{{seq", "\"{{\" without \"}}\"");
        check("{{random 5 1}}", "{{random 5 1}} needs two whole numbers");
        check("{{random a b}}", "{{random a b}} needs two whole numbers");
    }

    proptest! {
        /// An escaped text renders as the text, and has no placeholders.
        #[test]
        fn escaped_text_renders_as_itself(text in "[{}a-z ]{0,24}|\\PC{0,24}") {
            let escaped = Template::escape(&text);
            prop_assert_eq!(render(&escaped, 7), text.as_str());
            let template = Template::parse(&escaped, &mut 0).unwrap();
            prop_assert_eq!(template.as_plain(), Some(text.as_bytes()));
        }
    }
}
