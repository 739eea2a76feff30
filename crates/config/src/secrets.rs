//! Masks secret values in text that other software wrote, such as the answer of a target that repeats
//! what it was sent.
//!
//! A value is found as it is, percent-encoded, in base64 (also inside a longer base64 text, such as
//! `user:password`), and with the escapes of JSON and HTML. Short values also occur by chance, so their
//! length decides how they are searched for:
//!
//! | length in bytes | masked |
//! |---|---|
//! | 4 and more | everywhere |
//! | 2 and 3 | as a whole word: not next to a letter, a digit or `_` |
//! | 1 | not here, only where it was placed; it would hide half of the text and protects nothing |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::collections::BTreeSet;
use std::fmt::{self, Write};

use crate::Text;
use crate::redact::{REDACTED, authority_of, is_scheme, pieces};

/// Shorter values are masked as whole words only.
const ANYWHERE_MIN: usize = 4;
/// Shorter values are not searched for.
const WORD_MIN: usize = 2;
/// Values of this length have at least 6 characters of their own in any base64 text that contains
/// them, which do not occur by chance.
const BASE64_MIN: usize = 5;

/// Secret values, and the names of the variables that they come from.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// The name is empty for a value that comes from no variable.
    values: BTreeSet<(String, String)>,
}

/// Prints only names.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.iter().map(|(name, _)| name)).finish()
    }
}

impl Secrets {
    /// Adds the value of a variable.
    pub(crate) fn add_variable(&mut self, name: &str, value: &str) {
        self.values.insert((name.into(), value.into()));
    }

    /// Adds a value that comes from no variable.
    pub fn add(&mut self, value: &str) {
        self.add_variable("", value.trim());
    }

    /// Adds the value of a header, and each word of it that is long enough to be masked everywhere and
    /// is not a scheme such as `Bearer`: the target may repeat only the token.
    pub fn add_header(&mut self, value: &str) {
        self.add(value);
        let is_token = |c: char| c.is_ascii_alphanumeric() || "-_.~+/".contains(c) || !c.is_ascii();
        let words = value.split(|c| !is_token(c));
        words
            .filter(|word| word.len() >= ANYWHERE_MIN && !is_scheme(word))
            .for_each(|w| self.add(w));
    }

    /// Adds the secrets of a URL, and the parts of its path and query that look like keys; node
    /// providers put keys there. Returns the URL without them.
    pub fn add_url(&mut self, url: &str) -> String {
        let hidden = Text::plain(url).hiding_secrets_of_url().shown;
        let (before, sent) = url.split_at(path_of(url));
        if let Some((user, _)) = before[authority_of(url)..].rsplit_once('@') {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            self.add_encoded(user);
            self.add_encoded(if password.is_empty() { name } else { password });
        }
        let (authority, shown) = hidden.split_at(path_of(&hidden));
        let mut out = authority.to_string();
        for ((part, end), (kept, _)) in pieces(sent).zip(pieces(shown)) {
            let value_at = part.find('=').map_or(0, |at| at + 1);
            let value = &part[value_at..];
            if part != kept || looks_like_key(value) {
                self.add_encoded(value);
                out += &format!("{}{REDACTED}{end}", &part[..value_at]);
            } else {
                out += &format!("{part}{end}");
            }
        }
        out
    }

    /// Adds a part of a URL, as it is and percent-decoded.
    fn add_encoded(&mut self, part: &str) {
        self.add(part);
        percent_decoded(part).into_iter().for_each(|plain| self.add(&plain));
    }

    /// Replaces each value by `[redacted]`.
    pub fn mask(&self, text: &str) -> String {
        self.forms().iter().fold(text.into(), |text, form| form.replace(text))
    }

    /// Replaces each value by `[redacted]` in a text that was cut off, and also the start of one at
    /// its end.
    pub fn mask_cut(&self, text: &str) -> String {
        let mut masked = self.mask(text);
        let started = |form: &Form| {
            let ends = form.text.char_indices().map(|(at, _)| at).rev();
            ends.take_while(|at| *at >= WORD_MIN).find(|at| masked.ends_with(&form.text[..*at]))
        };
        if let Some(len) = self.forms().iter().filter_map(started).max() {
            masked.truncate(masked.len() - len);
            masked += REDACTED;
        }
        masked
    }

    /// Replaces the values of variables by their placeholders, in a text whose `${` are escaped.
    pub fn placed_back(&self, text: &str) -> String {
        let mut values: Vec<_> = self.values.iter().filter(|(name, _)| !name.is_empty()).collect();
        values.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        values.iter().filter(|(_, value)| value.len() >= WORD_MIN).fold(
            text.into(),
            |text: String, (name, value)| {
                text.replace(&value.replace("${", "$${"), &format!("${{{name}}}"))
            },
        )
    }

    /// The forms of all values, the longest first: a part must not hide the rest of the whole.
    fn forms(&self) -> Vec<Form> {
        let mut forms: Vec<Form> = self.values.iter().flat_map(|(_, v)| forms_of(v)).collect();
        forms.sort_by_key(|form| std::cmp::Reverse(form.text.len()));
        forms
    }
}

/// Where the path of a URL begins.
fn path_of(url: &str) -> usize {
    let authority = authority_of(url);
    authority + url[authority..].find(['/', '?']).unwrap_or(url.len() - authority)
}

/// Whether a part of a URL could be a key: long, and not a word.
pub(crate) fn looks_like_key(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte);
    let has = |test: fn(&u8) -> bool| part.as_bytes().iter().any(test);
    let mixed = has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
    part.bytes().all(plain) && ((part.len() >= 16 && mixed) || part.len() >= 24)
}

/// How a form of a value is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bounds {
    Anywhere,
    /// Not next to a letter, a digit or `_`.
    Word,
    /// Anywhere, and masked with all of the base64 text around it.
    Base64,
}

/// A form in which a value may occur.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Form {
    text: String,
    bounds: Bounds,
}

impl Form {
    fn replace(&self, text: String) -> String {
        let (mut out, mut from) = (String::new(), 0);
        let mut search = 0;
        while let Some(at) = text[search..].find(&self.text).map(|at| search + at) {
            let end = at + self.text.len();
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let (start, end) = match self.bounds {
                Bounds::Anywhere => (at, end),
                Bounds::Word
                    if text[..at].ends_with(is_word) || text[end..].starts_with(is_word) =>
                {
                    search = end;
                    continue;
                }
                Bounds::Word => (at, end),
                Bounds::Base64 => {
                    let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/-_=".contains(c);
                    let start = text[from..at].trim_end_matches(is_base64).len() + from;
                    (start, text.len() - text[end..].trim_start_matches(is_base64).len())
                }
            };
            out += &text[from..start];
            out += REDACTED;
            (from, search) = (end, end);
        }
        if from == 0 {
            return text;
        }
        out + &text[from..]
    }
}

fn forms_of(value: &str) -> Vec<Form> {
    if value.len() < WORD_MIN {
        return Vec::new();
    }
    let bounds = if value.len() < ANYWHERE_MIN { Bounds::Word } else { Bounds::Anywhere };
    let json = json_escaped(value, false);
    let mut texts = BTreeSet::from([
        value.to_string(),
        json.replace('/', "\\/"),
        json,
        json_escaped(value, true),
        html_escaped(value),
    ]);
    for kept in KEPT {
        for upper in [true, false] {
            let text = percent_encoded(value, kept, upper);
            texts.insert(text.replace("%20", "+"));
            texts.insert(text);
        }
    }
    let mut forms: Vec<Form> = texts.into_iter().map(|text| Form { text, bounds }).collect();
    if value.len() < BASE64_MIN {
        let text = BASE64.encode(value).trim_end_matches('=').to_string();
        forms.push(Form { text, bounds: Bounds::Word });
    } else {
        forms.extend(in_base64(value.as_bytes()));
    }
    forms
}

/// The characters of a base64 text that depend on nothing but the value, for each position that the
/// value can have in a group of three bytes, in both alphabets.
fn in_base64(value: &[u8]) -> Vec<Form> {
    let aligned = |before: usize| {
        let bytes = [vec![0; before], value.to_vec()].concat();
        let text = BASE64.encode(&bytes);
        text[(before * 8).div_ceil(6)..bytes.len() * 8 / 6].to_string()
    };
    let standard = (0..3).map(aligned);
    standard
        .flat_map(|text| [text.replace('+', "-").replace('/', "_"), text])
        .map(|text| Form { text, bounds: Bounds::Base64 })
        .collect()
}

/// The ASCII characters, besides letters and digits, that different software does not percent-encode:
/// none, those of RFC 3986 §2.3, those of JavaScript's `encodeURIComponent`, those that browsers keep in a
/// path, and those that the engine keeps.
const KEPT: [&str; 5] =
    ["", "-._~", "-._~!'()*", "-._~!'()*$&+,/:;=@[]|%^", "-._~!'()*$&+,/:;=@[]|%^\"<>?`{}#\\"];

/// A text without its percent-encoding; `None` if that is malformed, or encodes what is not UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn percent_encoded(value: &str, kept: &str, upper: bool) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || byte.is_ascii() && kept.contains(char::from(byte)) {
            out.push(char::from(byte));
        } else if upper {
            write!(out, "%{byte:02X}").expect("writing to memory");
        } else {
            write!(out, "%{byte:02x}").expect("writing to memory");
        }
    }
    out
}

/// As in a JSON string; `ascii`: everything outside ASCII as `\uXXXX`.
fn json_escaped(value: &str, ascii: bool) -> String {
    let mut out = String::new();
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            c if c.is_control() || ascii && !c.is_ascii() => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("writing to memory");
                }
            }
            c => out.push(c),
        }
    }
    out
}

fn html_escaped(value: &str) -> String {
    let value = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    value.replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let mut secrets = Secrets::default();
        values.iter().for_each(|value| secrets.add(value));
        secrets
    }

    #[test]
    fn values_are_masked_in_every_form() {
        let check = |value: &str, text: &str, masked: &str| {
            assert_eq!(secrets(&[value]).mask(text), masked, "{value} in {text}");
        };
        check("s3cret", "a s3crets3cret b", "a [redacted][redacted] b");
        // Percent-encoded, in either case, and as a form.
        check("a b/ü?", "x=a%20b%2F%C3%BC%3F&", "x=[redacted]&");
        check("a b/ü?", "x=a%20b%2f%c3%bc%3f&", "x=[redacted]&");
        check("a b/ü?", "/a%20b/%C3%BC?", "/[redacted]");
        check("a b/ü?", "x=a+b%2F%C3%BC%3F", "x=[redacted]");
        check("Ab/Cd", "Ab%2fCd", "[redacted]");
        // In base64: alone, and inside another text at each position.
        check("hunter2", "Basic aHVudGVyMg==, x", "Basic [redacted], x");
        for before in ["", "u", "us", "use", "user:"] {
            let text = BASE64.encode(format!("{before}hunter2 and more"));
            check("hunter2", &format!("\"{text}\""), "\"[redacted]\"");
        }
        check("???>>>", "Pz8_Pj4-", "[redacted]");
        // Escaped in JSON and HTML.
        check("a\"b\\c\nd", r#"{"x":"a\"b\\c\nd"}"#, r#"{"x":"[redacted]"}"#);
        check("grün", r#""gr\u00fcn""#, r#""[redacted]""#);
        check("ab/cd", r#""ab\/cd""#, r#""[redacted]""#);
        check("a<b&c", "<p>a&lt;b&amp;c</p>", "<p>[redacted]</p>");
    }

    #[test]
    fn short_values_are_masked_as_words() {
        let check = |value: &str, text: &str, masked: &str| {
            assert_eq!(secrets(&[value]).mask(text), masked, "{value} in {text}");
        };
        check("1", "HTTP/1.1 200", "HTTP/1.1 200");
        check("", "x", "x");
        check("42", "id=42, 421, x42, _42", "id=[redacted], 421, x42, _42");
        check("abc", "/abc/abcd \"abc\"", "/[redacted]/abcd \"[redacted]\"");
        check("abc", "Basic YWJj", "Basic [redacted]");
        check("abcd", "xabcdx", "x[redacted]x");
    }

    #[test]
    fn the_longest_is_masked_first_and_a_cut_one_too() {
        assert_eq!(secrets(&["s3cret", "s3cret-long"]).mask("s3cret-long"), "[redacted]");
        assert_eq!(secrets(&["s3cret"]).mask_cut("a s3cret b s3c"), "a [redacted] b [redacted]");
        assert_eq!(secrets(&["s3cret"]).mask_cut("yes"), "yes");
        let mut header = Secrets::default();
        header.add_header("Bearer t0ken; a=hunter2");
        assert_eq!(header.mask("Bearer t0ken a hunter2"), "Bearer [redacted] a [redacted]");
    }

    #[test]
    fn secrets_of_urls_are_added() {
        let mut secrets = Secrets::default();
        let key = "9aa3d95b3bc440fa88ea12eaa4456161";
        let url = format!("http://a:pa55@h/v3/{key}/x?api_key=a1b2=c/d&page=1&{key}");
        assert_eq!(
            secrets.add_url(&url),
            "http://[redacted]:[redacted]@h/v3/[redacted]/x?api_key=[redacted]&page=1&[redacted]"
        );
        assert_eq!(secrets.mask(&format!("{key} a1b2=c/d page")), "[redacted] [redacted] page");
        // The target repeats them decoded, or as in an Authorization header.
        secrets.add_url("//ann:p%40ss@h?token=x%2fyz");
        assert_eq!(
            secrets.mask("p@ss ann:p%40ss x/yz ann"),
            "[redacted] [redacted] [redacted] ann"
        );
        assert_eq!(secrets.mask(&BASE64.encode("ann:p@ss")), "[redacted]");
        assert_eq!(secrets.add_url("/a/b?c=d"), "/a/b?c=d");
    }

    #[test]
    fn variables_are_placed_back_and_debug_shows_names() {
        let mut secrets = secrets(&["other"]);
        secrets.add_variable("TLS_KEY", "/etc/key");
        assert_eq!(secrets.placed_back("/etc/key/other"), "${TLS_KEY}/other");
        assert_eq!(format!("{secrets:?}"), "{\"\", \"TLS_KEY\"}");
    }
}
