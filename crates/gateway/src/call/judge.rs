//! Judges an upstream's response: whether it answers the call that was sent, and what it means.
//!
//! The body decides, not the HTTP status: nodes send errors with 200 and results with 500. Judging
//! writes nothing; it locates the part of the body to return to the caller.
//!
//! Invariant: a result is accepted only with the id that the call was sent with.

use std::ops::Range;

use bytes::Bytes;
use plimsoll_rpc::loose::{self, Code, Loose};
use plimsoll_rpc::{answer, json};

use crate::error::ErrorKind;
use crate::observe::stats::RelayOutcome;
use crate::payload::Composer;
use crate::protocol::Protocol;
use crate::upstream::Failure;

use super::relay::Decimal;

/// The verdict on a response. Ranges refer to its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) outcome: RelayOutcome,
    /// The error code returned to the caller; 0 if the answer is a result.
    pub(crate) code: i64,
    /// Whether the upstream deviated from JSON-RPC 2.0.
    pub(crate) is_loose: bool,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Result(Range<usize>),
    /// An error object, forwarded unchanged.
    Error(Range<usize>),
    /// An error object assembled from parts.
    Rebuilt(Vec<Part>),
}

/// A part of an error object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Body(Range<usize>),
    Text(String),
}

/// Judges the body of a response with this status to the call that was sent with `id`.
///
/// # Errors
/// The body does not answer that call.
pub(crate) fn judge(
    protocol: Protocol,
    body: &[u8],
    status: u16,
    id: u64,
) -> Result<Verdict, Failure> {
    let why = match answer::parse(body) {
        Ok(answer) => {
            let is_own = answer.id == Decimal::of(id).digits();
            match answer.outcome {
                answer::Outcome::Result(result) if is_own => {
                    let content = Content::Result(range_in(body, result));
                    return Ok(Verdict::result_at(content, false));
                }
                // A server that could not parse the request answers with id null.
                // Without a message it is not valid, and is corrected below.
                answer::Outcome::Error { code, message: Some(message), raw, .. }
                    if is_own || answer.id == b"null" =>
                {
                    let category = protocol.categorize(code, message).with_status(status);
                    let (code, content) = match category.normalized_code(code) {
                        None => (code, Content::Error(range_in(body, raw))),
                        Some(normalized) => {
                            (normalized, Content::Rebuilt(with_code(body, raw, code, normalized)))
                        }
                    };
                    let outcome = RelayOutcome::Rpc(category);
                    return Ok(Verdict { outcome, code, is_loose: false, content });
                }
                _ => None,
            }
        }
        Err(why) => Some(why),
    };
    if let Ok(answer) = loose::parse(body, id) {
        return Ok(judge_loose(protocol, body, status, answer));
    }
    let bad_answer = |message: String| Failure::new(ErrorKind::BadAnswer, true, message);
    Err(match (why, status) {
        (None, _) => {
            bad_answer("the id of the upstream's answer is not the id that was sent".into())
        }
        (Some(why), 200..300) => {
            bad_answer(format!("the upstream's answer is not JSON-RPC: {why}"))
        }
        (Some(_), status) => failed_status(status),
    })
}

/// The failure for an HTTP status whose body is not JSON-RPC.
#[cold]
pub(super) fn failed_status(status: u16) -> Failure {
    let (kind, reason) = match status {
        429 => (ErrorKind::UpstreamLimited, ": it is rate limiting the gateway"),
        401 | 403 => (ErrorKind::UpstreamDenied, ""),
        _ => (ErrorKind::BadStatus, ""),
    };
    Failure::new(kind, true, format!("the upstream answered with HTTP status {status}{reason}"))
}

/// The member for the code of an error that was forwarded under another one.
const UPSTREAM_CODE: &[u8] = b"upstream_code";

/// An error object with its code replaced. Everything else is kept, and the upstream's code is
/// added as `upstream_code`; if there is such a member already, its value is replaced.
fn with_code(body: &[u8], raw: &[u8], code: i64, normalized: i64) -> Vec<Part> {
    let (mut parts, mut has_code) = (Vec::new(), false);
    let whole = range_in(body, raw);
    let mut from = whole.start;
    for member in json::members(raw).map_while(Result::ok) {
        let replacement = match &*member.plain() {
            b"code" => normalized,
            UPSTREAM_CODE => {
                has_code = true;
                code
            }
            _ => continue,
        };
        let value = range_in(body, member.value);
        parts.push(Part::Body(from..value.start));
        parts.push(Part::Text(replacement.to_string()));
        from = value.end;
    }
    parts.push(Part::Body(from..whole.end - 1));
    parts.push(Part::Text(if has_code {
        "}".into()
    } else {
        format!(",\"upstream_code\":{code}}}")
    }));
    parts
}

fn judge_loose(protocol: Protocol, body: &[u8], status: u16, answer: Loose<'_>) -> Verdict {
    let (code, message, rest) = match answer {
        Loose::Result(result) => {
            let content = Content::Result(range_in(body, result));
            return Verdict::result_at(content, true);
        }
        Loose::Error { code, message, rest } => (code, message, rest),
    };
    let integer = match code {
        Code::Integer(code) => Some(code),
        Code::Missing | Code::Other(_) => None,
    };
    let category = protocol.categorize(integer.unwrap_or_default(), message.unwrap_or_default());
    let category = category.with_status(status);
    let shown = match integer {
        None => category.code(),
        Some(code) => category.normalized_code(code).unwrap_or(code),
    };
    let replaced = match code {
        Code::Missing => None,
        Code::Integer(code) => (code != shown).then(|| Part::Text(code.to_string())),
        Code::Other(raw) => Some(Part::Body(range_in(body, raw))),
    };
    let mut parts = vec![Part::Text(format!("{{\"code\":{shown}"))];
    write_message(body, message, &mut parts);
    for member in rest {
        if *member.plain() == *UPSTREAM_CODE && replaced.is_some() {
            continue;
        }
        parts.push(Part::Text(",".into()));
        let (name, value) = (range_in(body, member.name), range_in(body, member.value));
        parts.push(Part::Body(name.start..value.end));
    }
    if let Some(code) = replaced {
        parts.extend([Part::Text(",\"upstream_code\":".into()), code]);
    }
    parts.push(Part::Text("}".into()));
    let outcome = RelayOutcome::Rpc(category);
    Verdict { outcome, code: shown, is_loose: true, content: Content::Rebuilt(parts) }
}

/// Appends the message of an error. One that is not a string is written as one; if it is long, only
/// its start, and all of it as `upstream_message`.
fn write_message(body: &[u8], message: Option<&[u8]>, parts: &mut Vec<Part>) {
    const SHOWN_MAX: usize = 1 << 10;
    let Some(message) = message else {
        return parts.push(Part::Text(",\"message\":\"\"".into()));
    };
    let whole = Part::Body(range_in(body, message));
    if json::kind(message) == Some(json::Kind::String) {
        return parts.extend([Part::Text(",\"message\":".into()), whole]);
    }
    let start = String::from_utf8_lossy(&message[..message.len().min(SHOWN_MAX)]);
    let mut text = Vec::new();
    json::write_text(&mut text, start.trim_end_matches(char::REPLACEMENT_CHARACTER));
    parts.push(Part::Text(format!(",\"message\":{}", String::from_utf8_lossy(&text))));
    if message.len() > SHOWN_MAX {
        parts.extend([Part::Text(",\"upstream_message\":".into()), whole]);
    }
}

/// The range of `part`, a subslice of `body`.
fn range_in(body: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - body.as_ptr() as usize;
    start..start + part.len()
}

impl Verdict {
    fn result_at(content: Content, is_loose: bool) -> Verdict {
        Verdict { outcome: RelayOutcome::Ok, code: 0, is_loose, content }
    }

    /// The result, unless the answer is an error.
    pub(crate) fn result<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        match &self.content {
            Content::Result(result) => Some(&body[result.clone()]),
            _ => None,
        }
    }

    /// The value of the answer's member `result` or `error`.
    pub(crate) fn value(&self, body: &Bytes) -> Bytes {
        match &self.content {
            Content::Result(range) | Content::Error(range) => body.slice(range.clone()),
            Content::Rebuilt(parts) => {
                let mut value = Vec::new();
                for part in parts {
                    value.extend_from_slice(match part {
                        Part::Body(range) => &body[range.clone()],
                        Part::Text(text) => text.as_bytes(),
                    });
                }
                value.into()
            }
        }
    }

    /// Writes the answer with the caller's id; `attach` appends a part of the body.
    pub(crate) fn write(
        &self,
        id: Option<&[u8]>,
        out: &mut Composer,
        mut attach: impl FnMut(&mut Composer, Range<usize>),
    ) {
        let text = out.text();
        text.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        text.extend_from_slice(id.unwrap_or(b"null"));
        match &self.content {
            Content::Result(result) => {
                text.extend_from_slice(b",\"result\":");
                attach(out, result.clone());
            }
            Content::Error(error) => {
                text.extend_from_slice(b",\"error\":");
                attach(out, error.clone());
            }
            Content::Rebuilt(parts) => {
                text.extend_from_slice(b",\"error\":");
                for part in parts {
                    match part {
                        Part::Body(range) => attach(out, range.clone()),
                        Part::Text(text) => out.text().extend_from_slice(text.as_bytes()),
                    }
                }
            }
        }
        out.text().push(b'}');
    }
}

#[cfg(test)]
mod tests;
