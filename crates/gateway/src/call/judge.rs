//! Judging an upstream's answer: is it the answer to the call that was sent, and what does it mean?
//!
//! The body decides, never the HTTP status: nodes send errors with 200 and answers with 500. Judging
//! writes nothing; it finds the part of the body that the caller is to get.
//!
//! Invariant: an answer is accepted only under the id that the call was sent with.

use std::ops::Range;

use plimsoll_rpc::answer;

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
    found: Found,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Result(Range<usize>),
    /// An error object, handed on as it is.
    Error(Range<usize>),
    /// An error object under a code with several meanings, handed on under one.
    Recoded {
        one_code: i64,
        code: i64,
        message: Range<usize>,
    },
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
    let bad = |message: String| Failure::new(ErrorKind::BadAnswer, true, message);
    let answer = match answer::parse(body) {
        Ok(answer) => answer,
        Err(why) if (200..300).contains(&status) => {
            return Err(bad(format!("the upstream's answer is not JSON-RPC: {why}")));
        }
        Err(_) => {
            let message = format!("the upstream answered with HTTP status {status}");
            return Err(Failure::new(ErrorKind::BadStatus, true, message));
        }
    };
    let sent = Decimal::of(id);
    match answer.outcome {
        answer::Outcome::Result(result) if answer.id == sent.digits() => {
            Ok(Verdict { outcome: RelayOutcome::Ok, found: Found::Result(place(body, result)) })
        }
        // A server that could not read the request answers under no id.
        answer::Outcome::Error { code, message, raw, .. }
            if answer.id == sent.digits() || answer.id == b"null" =>
        {
            let category = protocol.meaning(code, message);
            let found = match category.one_code(code) {
                None => Found::Error(place(body, raw)),
                Some(one_code) => {
                    // A message that is missing is not in the body.
                    let message = if message == b"\"\"" { 0..0 } else { place(body, message) };
                    Found::Recoded { one_code, code, message }
                }
            };
            Ok(Verdict { outcome: RelayOutcome::Rpc(category), found })
        }
        _ => Err(bad("the upstream answered another call: its id is not the one sent".into())),
    }
}

/// Where in `body` a part of it lies.
fn place(body: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - body.as_ptr() as usize;
    start..start + part.len()
}

impl Verdict {
    /// Writes the answer for the caller's id; `attach` appends a part of the body.
    pub(crate) fn write(
        &self,
        id: Option<&[u8]>,
        out: &mut Composer,
        attach: impl FnOnce(&mut Composer, Range<usize>),
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
            Found::Recoded { one_code, code, message } => {
                let start = format!(",\"error\":{{\"code\":{one_code},\"message\":");
                text.extend_from_slice(start.as_bytes());
                match message.is_empty() {
                    true => text.extend_from_slice(b"\"\""),
                    false => attach(out, message.clone()),
                }
                let data = format!(",\"data\":{{\"upstream_code\":{code}}}}}");
                out.text().extend_from_slice(data.as_bytes());
            }
        }
        out.text().push(b'}');
    }
}

#[cfg(test)]
mod tests;
