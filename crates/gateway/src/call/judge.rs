//! Judging an upstream's answer: is it the answer to the call that was sent, and what does it mean?
//!
//! The body decides, never the HTTP status: nodes send errors with 200 and answers with 500. Judging
//! writes nothing; it finds the part of the body that the caller is to get.
//!
//! Invariant: an answer is accepted only under the id that the call was sent with.

use std::ops::Range;

use plimsoll_rpc::loose::{self, Loose};
use plimsoll_rpc::{answer, json};

use crate::error::ErrorKind;
use crate::observe::stats::RelayOutcome;
use crate::payload::Composer;
use crate::protocol::Protocol;
use crate::upstream::Failure;

use super::relay::Decimal;

/// What a body was found to be. Ranges are places in the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) outcome: RelayOutcome,
    /// The code of the error that the caller gets; 0: the answer is a result.
    pub(crate) code: i64,
    /// Whether the upstream did not follow JSON-RPC to the letter.
    pub(crate) is_loose: bool,
    found: Found,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Result(Range<usize>),
    /// An error object, handed on as it is.
    Error(Range<usize>),
    /// An error object that is rebuilt from parts.
    Rebuilt(Vec<Part>),
}

/// A part of an error object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Body(Range<usize>),
    Text(String),
}

/// Judges the body of a response with this status to the call that was sent under `id`.
///
/// # Errors
/// It is not an answer to that call.
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
                    let found = Found::Result(place(body, result));
                    return Ok(Verdict::result_at(found, false));
                }
                // A server that could not read the request answers under no id.
                answer::Outcome::Error { code, message, raw, .. }
                    if is_own || answer.id == b"null" =>
                {
                    let category = protocol.meaning(code, message).with(status);
                    let (code, found) = match category.one_code(code) {
                        None => (code, Found::Error(place(body, raw))),
                        Some(one_code) => {
                            (one_code, Found::Rebuilt(recoded(body, raw, code, one_code)))
                        }
                    };
                    let outcome = RelayOutcome::Rpc(category);
                    return Ok(Verdict { outcome, code, is_loose: false, found });
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
            bad_answer("the upstream answered another call: its id is not the one sent".into())
        }
        (Some(why), 200..300) => {
            bad_answer(format!("the upstream's answer is not JSON-RPC: {why}"))
        }
        (Some(_), status) => failed_status(status),
    })
}

/// The failure that an HTTP status stands for if the body is not JSON-RPC.
#[cold]
pub(super) fn failed_status(status: u16) -> Failure {
    let (kind, more) = match status {
        429 => (ErrorKind::UpstreamLimited, ": it is limiting calls"),
        401 | 403 => (ErrorKind::UpstreamDenied, ""),
        _ => (ErrorKind::BadStatus, ""),
    };
    Failure::new(kind, true, format!("the upstream answered with HTTP status {status}{more}"))
}

/// An error object under another code: everything else that the upstream said stays, and its own
/// code beside it.
fn recoded(body: &[u8], raw: &[u8], code: i64, one_code: i64) -> Vec<Part> {
    let (mut parts, mut has_message, mut has_code) = (Vec::new(), false, false);
    let whole = place(body, raw);
    let mut from = whole.start;
    for member in json::members(raw).map_while(Result::ok) {
        match &*member.plain() {
            b"code" => {
                let value = place(body, member.value);
                parts.push(Part::Body(from..value.start));
                parts.push(Part::Text(one_code.to_string()));
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
            let found = Found::Result(place(body, result));
            return Verdict::result_at(found, true);
        }
        Loose::Error { code, message, rest } => (code, message, rest),
    };
    let category = protocol.meaning(code.unwrap_or_default(), message.unwrap_or_default());
    let category = category.with(status);
    let shown = match code {
        None => category.code(),
        Some(code) => category.one_code(code).unwrap_or(code),
    };
    let mut parts = vec![Part::Text(format!("{{\"code\":{shown},\"message\":"))];
    parts.push(match message {
        Some(message) if json::kind(message) == Some(json::Kind::String) => {
            Part::Body(place(body, message))
        }
        message => {
            let mut text = Vec::new();
            json::write_text(&mut text, &String::from_utf8_lossy(shortened(message)));
            Part::Text(String::from_utf8_lossy(&text).into_owned())
        }
    });
    for member in rest {
        parts.push(Part::Text(",".into()));
        let (name, value) = (place(body, member.name), place(body, member.value));
        parts.push(Part::Body(name.start..value.end));
    }
    let own = code.filter(|code| *code != shown);
    parts.push(Part::Text(match own {
        Some(code) => format!(",\"upstream_code\":{code}}}"),
        None => "}".into(),
    }));
    let outcome = RelayOutcome::Rpc(category);
    Verdict { outcome, code: shown, is_loose: true, found: Found::Rebuilt(parts) }
}

/// As much of a message that is no string as is shown.
fn shortened(message: Option<&[u8]>) -> &[u8] {
    const SHOWN_MAX: usize = 1 << 10;
    let message = message.unwrap_or_default();
    &message[..message.len().min(SHOWN_MAX)]
}

/// Where in `body` a part of it lies.
fn place(body: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - body.as_ptr() as usize;
    start..start + part.len()
}

impl Verdict {
    fn result_at(found: Found, is_loose: bool) -> Verdict {
        Verdict { outcome: RelayOutcome::Ok, code: 0, is_loose, found }
    }

    /// The result, where it is one.
    pub(crate) fn result<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        match &self.found {
            Found::Result(result) => Some(&body[result.clone()]),
            _ => None,
        }
    }

    /// Writes the answer for the caller's id; `attach` appends a part of the body.
    pub(crate) fn write(
        &self,
        id: Option<&[u8]>,
        out: &mut Composer,
        mut attach: impl FnMut(&mut Composer, Range<usize>),
    ) {
        let text = out.text();
        text.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        text.extend_from_slice(id.unwrap_or(b"null"));
        match &self.found {
            Found::Result(result) => {
                text.extend_from_slice(b",\"result\":");
                attach(out, result.clone());
            }
            Found::Error(error) => {
                text.extend_from_slice(b",\"error\":");
                attach(out, error.clone());
            }
            Found::Rebuilt(parts) => {
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
