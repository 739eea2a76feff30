//! What can be recognized of a request that cannot be read, so that its refusal can be logged and read.
//!
//! Nothing is relayed on this basis: the head may be incomplete, contradictory or malformed.

use super::{FIELDS_MAX, is_target};

/// The recognized parts of a request; empty or `None` if missing. Of repeated headers, the last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Glimpse<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) origin: Option<&'a [u8]>,
    pub(crate) service: Option<&'a [u8]>,
    pub(crate) request_id: Option<&'a [u8]>,
    /// All lines, joined by commas.
    pub(crate) forwarded_for: Vec<u8>,
}

/// The longest method that is recognized, in bytes.
const METHOD_MAX: usize = 20;

/// The most header lines that are searched: enough for a head with a few headers too many.
const LINES_MAX: usize = 4 * FIELDS_MAX;

impl<'a> Glimpse<'a> {
    /// Searches the start of a connection's buffer.
    pub(crate) fn of(buffer: &'a [u8]) -> Glimpse<'a> {
        let mut seen = Glimpse::default();
        // The last line may be incomplete.
        let whole = memchr::memrchr(b'\n', buffer).map_or(&b""[..], |end| &buffer[..end]);
        let mut lines = whole.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        let first = lines.next().and_then(|line| std::str::from_utf8(line).ok());
        let Some((method, rest)) = first.and_then(|line| line.split_once(' ')) else { return seen };
        let Some((target, _)) = rest.rsplit_once(" HTTP/1.") else { return seen };
        let is_graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if method.len() > METHOD_MAX || !is_graphic(method) || !is_graphic(target) {
            return seen;
        }
        if !is_target(target) {
            return seen;
        }
        (seen.method, seen.target) = (method, target);
        for line in lines.take(LINES_MAX).take_while(|line| !line.is_empty()) {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            if let Ok(name) = std::str::from_utf8(&line[..colon]) {
                seen.take(name, line[colon + 1..].trim_ascii());
            }
        }
        seen
    }

    /// Processes one header.
    pub(crate) fn take(&mut self, name: &str, value: &'a [u8]) {
        if name.eq_ignore_ascii_case("x-forwarded-for") {
            self.forwarded_for.extend_from_slice(b",");
            self.forwarded_for.extend_from_slice(value);
        }
        let known = [
            ("origin", &mut self.origin),
            ("target-service-id", &mut self.service),
            ("x-request-id", &mut self.request_id),
        ];
        for (known, place) in known {
            if name.eq_ignore_ascii_case(known) {
                *place = Some(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_heads_are_recognized_in_part() {
        let check = |head: &str, method: &str, target: &str, origin: Option<&str>| {
            let seen = Glimpse::of(head.as_bytes());
            let origin = origin.map(str::as_bytes);
            assert_eq!((seen.method, seen.target, seen.origin), (method, target, origin), "{head}");
        };
        check("POST /v1 HTTP/1.1\r\nOrigin: https://a\r\n\r\n", "POST", "/v1", Some("https://a"));
        check("POST /v1 HTTP/1.1\r\nno colon\r\norigin:a\r\nx", "POST", "/v1", Some("a"));
        // Incomplete, and in the body.
        check("POST /v1 HTTP/1.1\r\nOrigin: https://a", "POST", "/v1", None);
        check("POST /v1 HTTP/1.1\r\n\r\nOrigin: a\r\n", "POST", "/v1", None);
        check("POST /v1 HT", "", "", None);
        check("POST \u{e9} HTTP/1.1\r\n", "", "", None);
        check("\0\u{1}\n", "", "", None);
        check("POST nonsense HTTP/1.1\r\n", "", "", None);
    }
}
