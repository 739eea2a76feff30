//! `--trace`: complete exchanges as text, without secrets and without control characters.
//!
//! Secrets are what the rest of the program never shows: headers with names such as Authorization,
//! Cookie or X-Api-Key, the values of secret variables, passwords in URLs, and parts of URLs that look
//! like keys. A target that echoes one of them is not shown either, in any of the forms of
//! [`Secrets`]. Control characters are escaped, because a
//! target could otherwise send commands to the terminal. At most 4 KiB of a body are shown, and the
//! engine keeps at most 16 KiB of a request or a response.

use plimsoll_config::{REDACTED, Secrets, authority_of, is_secret};
use plimsoll_engine::{TraceRecord, Traced};
use plimsoll_measure::units::{counted, grouped};
use plimsoll_plan::{Body, Plan, RequestSpec};
use plimsoll_report::clean;
use std::fmt::Write;

/// Maximum number of bytes of a body that are shown.
const BODY_MAX: usize = 4 << 10;
/// Headers whose values are URLs.
const URLS: [&str; 3] = ["location", "content-location", "referer"];

/// An exchange as text.
pub(crate) fn trace_text(record: &TraceRecord, plan: &Plan) -> String {
    let took = record.received_at - record.sent_at;
    let spec = &plan.requests[record.spec];
    let mut masks = Masks { spec, secrets: record.secrets.clone() };
    let request = masks.request(&record.request, record.redirected);
    let response = masks.response(&record.response);
    format!(
        "── {} · sent at {} · {took}\n{}\n── response\n{}\n",
        clean(&record.target),
        record.sent_at,
        request.trim_end(),
        response.trim_end(),
    )
}

/// What is left out of an exchange.
struct Masks<'p> {
    spec: &'p RequestSpec,
    /// The secrets of the plan and of the request, in case the target repeats them.
    secrets: Secrets,
}

impl Masks<'_> {
    fn request(&mut self, traced: &Traced, redirected: bool) -> String {
        let (head, body) = split(&traced.bytes);
        let (line, headers) = head.split_once('\n').unwrap_or((&head, ""));
        let mut shown = self.request_line(line, redirected) + "\n";
        let spec = self.spec;
        let is_hidden = |name: &str| {
            let mut own = spec.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name));
            is_secret(name) || own.any(|header| header.secret)
        };
        let headers = without_secrets(headers, is_hidden, &mut self.secrets);
        shown += &self.secrets.mask(&headers);
        match &spec.body {
            Body::Inline(text, _) if text.hides() && !body.is_empty() => {
                shown += &format!("\n{}", escaped(text.shown.as_bytes()));
            }
            _ => self.add_body(body, traced.more, false, &mut shown),
        }
        shown
    }

    /// `METHOD PATH HTTP/1.1`, keys in the path left out.
    fn request_line(&mut self, line: &str, redirected: bool) -> String {
        let mut words = line.trim_end().splitn(3, ' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let version = words.next().unwrap_or("");
        let sent = self.url(path, "http://host");
        let written = &self.spec.url_shown;
        let shown = if !redirected && written.replace("$${", "").contains("${") {
            if path.len() > 1 {
                self.secrets.add(path);
            }
            let written = &written[authority_of(written)..];
            let written = &written[written.find(['/', '?']).unwrap_or(written.len())..];
            format!("/{}", written.split('#').next().unwrap_or_default().trim_start_matches('/'))
        } else {
            sent
        };
        escaped(format!("{method} {shown} {version}").as_bytes())
    }

    /// A URL without its keys; `before` completes one without an authority.
    fn url(&mut self, url: &str, before: &str) -> String {
        let shown = self.secrets.add_url(&format!("{before}{url}"));
        let shown = shown.strip_prefix(before).unwrap_or(&shown);
        self.secrets.mask(shown)
    }

    fn response(&mut self, traced: &Traced) -> String {
        let (head, body) = split(&traced.bytes);
        let headers = without_secrets(&head, is_secret, &mut self.secrets);
        let mut shown = self.secrets.mask(&headers);
        let is_gzip = head.to_ascii_lowercase().contains("content-encoding: gzip");
        self.add_body(body, traced.more, is_gzip, &mut shown);
        shown
    }

    fn add_body(&self, body: &[u8], more: u64, gzip: bool, shown: &mut String) {
        if body.is_empty() && more == 0 {
            return;
        }
        let all = body.len() as u64 + more;
        if gzip {
            return shown.push_str(&format!("\n[{} of gzip]", counted(all, "byte")));
        }
        let part = &body[..body.len().min(BODY_MAX)];
        *shown += "\n";
        let left = all - part.len() as u64;
        let text = escaped(part);
        *shown += &if left > 0 { self.secrets.mask_cut(&text) } else { self.secrets.mask(&text) };
        if left > 0 {
            write!(shown, "\n[{} more bytes]", grouped(left)).expect("to memory");
        }
    }
}

/// The head, as text, and the body.
fn split(bytes: &[u8]) -> (String, &[u8]) {
    let ends = [&b"\r\n\r\n"[..], b"\n\n"].map(|end| {
        let at = bytes.windows(end.len()).position(|window| window == end);
        at.map(|at| (at, at + end.len()))
    });
    let (head, body) = ends.into_iter().flatten().min().unwrap_or((bytes.len(), bytes.len()));
    (String::from_utf8_lossy(&bytes[..head]).replace("\r\n", "\n"), &bytes[body..])
}

/// Header lines, escaped and without the values of hidden headers, which are added to the secrets like
/// those of URLs. Continuations of a value are hidden with it.
fn without_secrets(lines: &str, is_hidden: impl Fn(&str) -> bool, secrets: &mut Secrets) -> String {
    let mut shown = String::new();
    let mut hiding = false;
    for line in lines.split('\n').filter(|line| !line.is_empty()) {
        if line.starts_with([' ', '\t']) {
            if hiding {
                secrets.add_header(line.trim());
                continue;
            }
        } else if let Some((name, value)) = line.split_once(':') {
            hiding = is_hidden(name);
            if hiding {
                secrets.add_header(value.trim());
                shown += &format!("{}: {REDACTED}\n", escaped(name.as_bytes()));
                continue;
            }
            if URLS.iter().any(|own| name.eq_ignore_ascii_case(own)) {
                let url = secrets.add_url(value);
                shown += &format!("{name}:{}\n", escaped(url.as_bytes()));
                continue;
            }
        }
        shown += &escaped(line.as_bytes());
        shown.push('\n');
    }
    shown
}

/// Text in which nothing but line feeds and tabs moves a terminal's cursor. Bytes that are not UTF-8
/// are shown as `\xNN`.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' | '\t' | '"' | '\'' | '\\' => text.push(c),
                // Also what reorders or hides text without being a control character.
                _ => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("to memory");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_measure::Nanos;
    use plimsoll_plan::{Document, Variables};
    use std::path::Path;

    const KEY: &str = "9aa3d95b3bc440fa88ea12eaa4456161";

    fn plan(target: &str) -> Plan {
        let text = format!("users = 1\nrequests = 1\n[[target]]\n{target}\n");
        let mut variables = Variables::default();
        variables.set("NODE_KEY", "s3cret-v");
        Plan::read(&Document::new("plan.toml", text), &variables, Path::new(".")).unwrap()
    }

    fn shown(target: &str, redirected: bool, request: &str, response: &[u8]) -> String {
        let traced = |bytes: &[u8]| Traced { bytes: bytes.to_vec(), more: 0 };
        let plan = plan(target);
        let record = TraceRecord {
            target: "t".into(),
            spec: 0,
            secrets: plan.secrets_of(0),
            redirected,
            sent_at: Nanos(1),
            received_at: Nanos(2),
            request: traced(request.as_bytes()),
            response: traced(response),
        };
        trace_text(&record, &plan)
    }

    #[test]
    fn secrets_are_not_shown_wherever_they_stand() {
        let plain = "request = \"GET http://h/\"";
        let variable = "request = \"POST http://h/v3/${NODE_KEY}?a=b\"\n\
                        headers = { X-Region = \"${NODE_KEY}\" }\nbody = \"b ${NODE_KEY}\"";
        let check = |target: &str, redirected, request: &str, response: &str, secret: &str| {
            let text = shown(target, redirected, request, response.as_bytes());
            assert!(!text.contains(secret), "{text}");
            assert!(text.contains(REDACTED) || text.contains("${NODE_KEY}"), "{text}");
        };
        let get = |headers: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n");
        let ok = "HTTP/1.1 200 OK\r\n\r\n";
        for name in ["Authorization", "cookie", "X-Api-Key", "api-key", "x-auth-token"] {
            check(plain, false, &get(&format!("{name}: s3cret-v")), ok, "s3cret-v");
            check(plain, false, &get(&format!("{name}:s3cret-v")), ok, "s3cret-v");
        }
        // In the response: by name, folded, and repeated by the target.
        let set = "HTTP/1.1 200 OK\r\nSet-Cookie: id=\r\n s3cret-v\r\nA: b\r\n\r\n";
        check(plain, false, &get("A: b"), set, "s3cret-v");
        let echo = "HTTP/1.1 200 OK\r\nX: Bearer s3cret-v\r\n\r\n{\"token\":\"s3cret-v\"}";
        check(plain, false, &get("Authorization: Bearer s3cret-v"), echo, "s3cret-v");
        // In URLs, also of redirects.
        let line = format!("GET /v3/{KEY}?next=http://x/&apikey=k3y HTTP/1.1\r\n\r\n");
        check(plain, false, &line, ok, KEY);
        check(plain, false, &line, ok, "k3y");
        check(plain, true, &line, &format!("{ok}no such path: /v3/{KEY}"), KEY);
        let location = format!("HTTP/1.1 302 F\r\nLocation: http://u:k3y@h/{KEY}\r\n\r\n");
        check(plain, false, &get("A: b"), &location, KEY);
        check(plain, false, &get("A: b"), &location, "k3y");
        check(plain, false, &get("A: b"), &format!("{location}moved to u:k3y@h"), "k3y");
        // From a variable: in the path, a header, the body.
        let sent = "POST /v3/s3cret-v?a=b HTTP/1.1\r\nX-Region: s3cret-v\r\n\r\nb s3cret-v";
        check(variable, false, sent, &format!("{ok}s3cret-v"), "s3cret-v");
    }

    #[test]
    fn a_target_that_repeats_a_secret_is_not_quoted() {
        let check = |target: &str, text: &str, shown: &str| {
            assert_eq!(plan(target).secrets_of(0).mask(text), shown, "{target}");
        };
        let with = |head: &str| format!("name = \"GET h/\"\nrequest = \"GET http://h/{head}");
        let header = with("\"\nheaders = { Authorization = \"Bearer s3cret-h\" }");
        check(&header, "body \"no s3cret-h\"", "body \"no [redacted]\"");
        check(&with("v3/${NODE_KEY}\""), "no /v3/s3cret-v here", "no /v3/[redacted] here");
        check(&with("\""), "nothing to hide", "nothing to hide");
    }

    #[test]
    fn what_is_no_secret_is_shown_as_it_was_sent() {
        let request = "POST /v1?x=1 HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n{\"id\":\"1\\n\"}";
        let response = b"HTTP/1.1 200 OK\r\nLocation: /a?b=c\r\n\r\n{\"result\":\"\xc3\xbc\"}";
        let text = shown("request = \"POST http://h/\"", false, request, response);
        assert_eq!(
            text,
            "── t · sent at 1ns · 1ns\nPOST /v1?x=1 HTTP/1.1\nHost: h\nAccept: */*\n\n{\"id\":\"1\\n\"}\n\
             ── response\nHTTP/1.1 200 OK\nLocation: /a?b=c\n\n{\"result\":\"ü\"}\n"
        );
    }

    #[test]
    fn control_characters_are_escaped_and_the_output_is_bounded() {
        let target = "request = \"GET http://h/\"";
        let get = "GET / HTTP/1.1\r\n\r\n";
        let hostile = b"HTTP/1.1 200 \x1b]0;x\x07\r\nX\x1b[2J: \x9b31m\r\n\r\n\x1b[2J\r\x08\xc2\x9b\xe2\x80\xae\xff\0";
        let text = shown(target, false, get, hostile);
        let moves = |c: &char| c.is_control() && *c != '\n' || *c == '\u{202e}';
        assert_eq!(text.chars().find(moves), None, "{text:?}");
        assert!(text.contains("\\u{1b}[2J\\r\\u{8}\\u{9b}\\u{202e}\\xff\\0"), "{text}");
        let long = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 10_000]].concat();
        let text = shown(target, false, get, &long);
        assert!(text.len() < 5000 && text.contains("[5,904 more bytes]"), "{text}");
        let gzip = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08";
        assert!(shown(target, false, get, gzip).contains("[3 bytes of gzip]"));
        // Bytes that are no HTTP at all are shown, too.
        assert!(shown(target, false, get, b"220 smtp\x1b ready").contains("220 smtp\\u{1b} ready"));
    }
}
