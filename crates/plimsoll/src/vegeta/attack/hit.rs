//! Turns captured results into vegeta's.

use super::words::{self, Request, error, verb};
use flate2::bufread::MultiGzDecoder;
use plimsoll_compat::vegeta::{Duration, Headers, Hit, Timestamp};
use plimsoll_engine::CapturedResult;
use plimsoll_measure::{ErrorClass, Fault, Nanos, WallClock};
use plimsoll_plan::Plan;
use std::io::{self, Read};
use std::net::IpAddr;

/// Longest decoded body of a result, in bytes; longer ones are cut. The length reported is the whole one.
const DECODED_MAX: u64 = 64 << 20;

/// What all results of an attack share.
pub(super) struct HitWriter<'p> {
    pub(super) plan: &'p Plan,
    pub(super) started_at: WallClock,
    pub(super) attack: Vec<u8>,
    /// Largest number of bytes kept of a body.
    pub(super) body_max: u64,
    /// How many redirects are followed; vegeta's −1 does not follow and counts as success.
    pub(super) redirects: i64,
    /// The local address that connections are bound to.
    pub(super) source: IpAddr,
}

impl HitWriter<'_> {
    /// Fills `hit` with a result; returns false for one that vegeta does not have: of a request that was cut
    /// off by the end of the attack.
    pub(super) fn fill(&self, result: &CapturedResult<'_>, hit: &mut Hit) -> bool {
        if matches!(result.error, Some((ErrorClass::Aborted, _))) {
            return false;
        }
        hit.clear();
        let spec = &self.plan.requests[result.request];
        let (method, url) = result.own.unwrap_or((&spec.method, &spec.url_written));
        let url = url.replace("{{{{", "{{");
        hit.attack.extend_from_slice(&self.attack);
        hit.method.extend_from_slice(method.as_bytes());
        hit.url.extend_from_slice(url.as_bytes());
        hit.seq = result.number;
        let unix = self.started_at.unix_ns.saturating_add(result.started_at.0);
        hit.timestamp = Timestamp::from_unix_nanos(i64::try_from(unix).unwrap_or(i64::MAX));
        hit.latency = Duration((result.ended_at - result.started_at).0 as i64);
        let request = Request { method, url: &url, source: self.source };
        if let Some(words) = self.failure(result, &request) {
            hit.error.extend_from_slice(words.as_bytes());
            return true;
        }
        let decoded =
            self.is_decoded(result).then(|| decode(result.body, self.body_max.min(DECODED_MAX)));
        let decoded = match decoded.transpose() {
            Ok(decoded) => decoded,
            Err(error) => {
                hit.error.extend_from_slice(words::gzip(&error).as_bytes());
                return true;
            }
        };
        hit.bytes_out = result.bytes_out;
        hit.code = result.status.unwrap_or(0);
        if !hit.is_success() {
            hit.error.extend_from_slice(status_text(result.head));
        }
        hit.headers = Some(headers(result.head, decoded.is_some()));
        (hit.bytes_in, hit.body) = match decoded {
            Some((len, body)) => (len, Some(body)),
            None => (result.bytes_in, Some(result.body.to_vec())),
        };
        true
    }

    /// The error of a result that has no answer in vegeta.
    fn failure(&self, result: &CapturedResult<'_>, request: &Request<'_>) -> Option<String> {
        let location = header(result.head, "location");
        let is_redirect = matches!(result.status, Some(301 | 302 | 303 | 307 | 308));
        let stopped = || {
            let (verb, to) = (verb(request.method), words::masked(&location));
            format!("{verb} {to:?}: stopped after {} redirects", self.redirects)
        };
        match result.error? {
            (ErrorClass::Protocol, Some(Fault::TooManyRedirects)) => Some(stopped()),
            (ErrorClass::Status, _) if is_redirect && self.redirects == 0 => Some(stopped()),
            // A redirect without a location is an answer like any other.
            (ErrorClass::Protocol, Some(Fault::BadLocation)) if location.is_empty() => None,
            (ErrorClass::Status, _) => None,
            cause => Some(error(result, cause, request)),
        }
    }

    /// Whether Go's client would decode the body: it asked for gzip by itself, and all of the body is here.
    fn is_decoded(&self, result: &CapturedResult<'_>) -> bool {
        let spec = &self.plan.requests[result.request];
        let asks = |name: &str| spec.headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
        result.is_gzip
            && !asks("accept-encoding")
            && !asks("range")
            && result.bytes_in == result.body.len() as u64
            && !result.body.is_empty()
    }
}

/// The length of a decoded body, and its first `most` bytes.
fn decode(body: &[u8], most: u64) -> io::Result<(u64, Vec<u8>)> {
    let mut decoder = MultiGzDecoder::new(body);
    let mut kept = Vec::new();
    let read = decoder.by_ref().take(most).read_to_end(&mut kept)? as u64;
    let more = io::copy(&mut decoder, &mut io::sink())?;
    Ok((read + more, kept))
}

/// The status as the answer words it: `404 Not Found`.
fn status_text(head: &[u8]) -> &[u8] {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii();
    let from = line.iter().position(|b| *b == b' ').map_or(line.len(), |at| at + 1);
    &line[from..]
}

/// The lines of a head after the first, as names and values; continuation lines are joined.
fn fields(head: &[u8]) -> Vec<(&[u8], Vec<u8>)> {
    let mut fields: Vec<(&[u8], Vec<u8>)> = Vec::new();
    for line in head.split(|b| *b == b'\n').skip(1) {
        let is_continued = line.starts_with(b" ") || line.starts_with(b"\t");
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match (fields.last_mut(), text.iter().position(|b| *b == b':')) {
            (Some((_, value)), _) if is_continued => {
                value.push(b' ');
                value.extend_from_slice(text);
            }
            (_, Some(colon)) => {
                fields.push((&text[..colon], text[colon + 1..].trim_ascii().to_vec()));
            }
            (_, None) => {}
        }
    }
    fields
}

/// The value of a header; empty if there is none.
fn header(head: &[u8], name: &str) -> String {
    let fields = fields(head);
    let found = fields.iter().find(|(own, _)| own.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
}

/// The headers as Go's client presents them: names in canonical form, without those that describe the
/// transfer; of a body that it decoded, also without those that describe its coding.
fn headers(head: &[u8], is_decoded: bool) -> Headers {
    let mut headers = Headers::default();
    let mut has_length = false;
    for (name, value) in fields(head) {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let is_length = is("content-length");
        let is_hidden = is("transfer-encoding")
            || is("trailer")
            || is_length && std::mem::replace(&mut has_length, true)
            || is_decoded && (is("content-encoding") || is_length);
        if !is_hidden {
            headers.add(&canonical(name), &value);
        }
    }
    headers
}

/// `Content-Type` for `content-type`; names with other characters than those of tokens stay as they are.
fn canonical(name: &[u8]) -> Vec<u8> {
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    if !name.iter().all(is_token) {
        return name.to_vec();
    }
    let mut upper = true;
    let letter = |b: &u8| {
        let c = if upper { b.to_ascii_uppercase() } else { b.to_ascii_lowercase() };
        upper = *b == b'-';
        c
    };
    name.iter().map(letter).collect()
}

/// The time from a request's start to its end, as vegeta measures it.
pub(super) fn latency(result: &CapturedResult<'_>) -> Nanos {
    result.ended_at - result.started_at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_gzip_has_the_words_of_go() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, &[b'x'; 1000]).unwrap();
        let whole = encoder.finish().unwrap();
        let check = |body: &[u8], error: &str| {
            for most in [0, 10, u64::MAX] {
                let found = decode(body, most).map_err(|error| words::gzip(&error));
                assert_eq!(found, Err(error), "{most}: {}", body.escape_ascii());
            }
        };
        (1..whole.len()).for_each(|len| check(&whole[..len], "unexpected EOF"));
        check(b"not in gzip at all", "gzip: invalid header");
        check(&[&whole, b"no second part".as_slice()].concat(), "gzip: invalid header");
        check(&[&whole[..whole.len() - 8], &[0; 8]].concat(), "gzip: invalid checksum");
        check(&[&whole[..10], &[0xff; 20]].concat(), "flate: corrupt input");
    }

    #[test]
    fn heads_become_headers() {
        let head = b"HTTP/1.1 404 Not There \r\nx-a: 1\r\nX-A:2\r\nContent-length: 3\r\ncontent-length: 3\r\n\
            Transfer-Encoding: chunked\r\nX-Long: a\r\n  b\r\nx y: z\r\nContent-Encoding: gzip\r\n\r\n";
        assert_eq!(status_text(head), b"404 Not There");
        assert_eq!(header(head, "x-long"), "a b");
        let shown = |is_decoded| {
            let headers = headers(head, is_decoded);
            let one = |(name, values): &(&[u8], &[Vec<u8>])| {
                let values: Vec<_> =
                    values.iter().map(|value| String::from_utf8_lossy(value)).collect();
                format!("{}={}", String::from_utf8_lossy(name), values.join(","))
            };
            headers.sorted().iter().map(one).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown(true), "X-A=1,2 X-Long=a b x y=z");
        assert_eq!(shown(false), "Content-Encoding=gzip Content-Length=3 X-A=1,2 X-Long=a b x y=z");
    }
}
