//! Judges an upstream's response: whether it answers the call that was sent, and what it means.
//!
//! The body decides, not the HTTP status: nodes send errors with 200 and results with 500. Judging
//! writes nothing; it locates the part of the body to return to the caller.
//!
//! Invariant: a result is accepted only with the id that the call was sent with.

use std::ops::Range;

use plimsoll_rpc::loose::{self, Loose};
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
                answer::Outcome::Error { code, message, raw, .. }
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

/// An error object with its code replaced. Everything else is kept, and the upstream's code is
/// added as `upstream_code`.
fn with_code(body: &[u8], raw: &[u8], code: i64, normalized: i64) -> Vec<Part> {
    let (mut parts, mut has_message, mut has_code) = (Vec::new(), false, false);
    let whole = range_in(body, raw);
    let mut from = whole.start;
    for member in json::members(raw).map_while(Result::ok) {
        match &*member.plain() {
            b"code" => {
                let value = range_in(body, member.value);
                parts.push(Part::Body(from..value.start));
                parts.push(Part::Text(normalized.to_string()));
                from = value.end;
            }
            b"message" => has_message = true,
            b"upstream_code" => has_code = true,
            _ => {}
        }
    }
    parts.push(Part::Body(from..whole.end - 1));
    let mut end = String::new();
    if !has_message {
        end.push_str(",\"message\":\"\"");
    }
    if !has_code {
        end.push_str(&format!(",\"upstream_code\":{code}"));
    }
    end.push('}');
    parts.push(Part::Text(end));
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
    let category = protocol.categorize(code.unwrap_or_default(), message.unwrap_or_default());
    let category = category.with_status(status);
    let shown = match code {
        None => category.code(),
        Some(code) => category.normalized_code(code).unwrap_or(code),
    };
    let mut parts = vec![Part::Text(format!("{{\"code\":{shown},\"message\":"))];
    parts.push(match message {
        Some(message) if json::kind(message) == Some(json::Kind::String) => {
            Part::Body(range_in(body, message))
        }
        message => {
            let mut text = Vec::new();
            json::write_text(&mut text, &String::from_utf8_lossy(truncated(message)));
            Part::Text(String::from_utf8_lossy(&text).into_owned())
        }
    });
    for member in rest {
        parts.push(Part::Text(",".into()));
        let (name, value) = (range_in(body, member.name), range_in(body, member.value));
        parts.push(Part::Body(name.start..value.end));
    }
    let replaced = code.filter(|code| *code != shown);
    parts.push(Part::Text(match replaced {
        Some(code) => format!(",\"upstream_code\":{code}}}"),
        None => "}".into(),
    }));
    let outcome = RelayOutcome::Rpc(category);
    Verdict { outcome, code: shown, is_loose: true, content: Content::Rebuilt(parts) }
}

/// The start of a message that is not a string.
fn truncated(message: Option<&[u8]>) -> &[u8] {
    const SHOWN_MAX: usize = 1 << 10;
    let message = message.unwrap_or_default();
    &message[..message.len().min(SHOWN_MAX)]
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
