//! Parses a response object into a result or an error.
//!
//! The parser is strict where an answer could be misinterpreted, and lenient where servers in the
//! field deviate harmlessly: `jsonrpc` may be missing (JSON-RPC 1.0 servers omit it), a `null` error
//! beside a result and a `null` result beside an error are ignored, an error may lack its message
//! (which is reported), and a missing id is treated as `null`. Whether the id is the expected one is not checked here.
//!
//! Invariant: an answer has exactly one outcome.

use crate::json::{self, Kind, Syntax};

/// A response object, borrowed from the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The id as written; `null` if there is none.
    pub id: &'a [u8],
    /// The outcome of the call.
    pub outcome: Outcome<'a>,
}

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The result as written; `null` is a result.
    Result(&'a [u8]),
    /// An error object.
    Error {
        /// The code.
        code: i64,
        /// The message as written, a string; `None` if it is missing.
        message: Option<&'a [u8]>,
        /// The data as written.
        data: Option<&'a [u8]>,
        /// The whole error object as written.
        raw: &'a [u8],
    },
}

/// Why a response object is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Syntax(#[from] Syntax),
    /// JSON, but not an object.
    #[error("not an object")]
    NotAnObject,
    /// `jsonrpc` is present and is not `"2.0"`.
    #[error("\"jsonrpc\" is not \"2.0\"")]
    Version,
    /// The id is an object, an array or a boolean.
    #[error("\"id\" is not a string, a number or null")]
    Id,
    /// A member that determines the meaning appears twice.
    #[error("duplicate member")]
    Duplicate,
    /// Neither a result nor an error.
    #[error("neither result nor error")]
    Neither,
    /// Both a result and an error that are not null.
    #[error("both result and error")]
    Both,
    /// The error is not an object with an integer code and, if present, a string message.
    #[error("\"error\" is not an error object")]
    Error,
}

/// Parses one response object.
///
/// # Errors
/// Returns why it is invalid. A syntax error anywhere in `text` precedes all other errors.
#[inline]
pub fn parse(text: &[u8]) -> Result<Answer<'_>, Malformed> {
    if json::kind(text) != Some(Kind::Object) {
        json::validate(text)?;
        return Err(Malformed::NotAnObject);
    }
    let (mut version, mut id, mut result, mut error) = (None, None, None, None);
    let mut duplicate = false;
    for member in json::members(text) {
        let member = member?;
        let slot = match &*member.plain() {
            b"jsonrpc" => &mut version,
            b"id" => &mut id,
            b"result" => &mut result,
            b"error" => &mut error,
            _ => continue,
        };
        duplicate |= slot.replace(member.value).is_some();
    }
    if duplicate {
        return Err(Malformed::Duplicate);
    }
    if version.is_some_and(|version| !json::is_text(version, "2.0")) {
        return Err(Malformed::Version);
    }
    let id = id.unwrap_or(b"null");
    if !crate::request::is_id(id) {
        return Err(Malformed::Id);
    }
    let outcome = match (result, error.filter(|error| error != b"null")) {
        (Some(result), None) => Outcome::Result(result),
        (None | Some(b"null"), Some(error)) => read_error(error)?,
        (Some(_), Some(_)) => return Err(Malformed::Both),
        (None, None) => return Err(Malformed::Neither),
    };
    Ok(Answer { id, outcome })
}

fn read_error(error: &[u8]) -> Result<Outcome<'_>, Malformed> {
    if json::kind(error) != Some(Kind::Object) {
        return Err(Malformed::Error);
    }
    let (mut code, mut message, mut data) = (None, None, None);
    for member in json::members(error) {
        let member = member?;
        let slot = match &*member.plain() {
            b"code" => &mut code,
            b"message" => &mut message,
            b"data" => &mut data,
            _ => continue,
        };
        if slot.replace(member.value).is_some() {
            return Err(Malformed::Duplicate);
        }
    }
    if message.is_some_and(|message| json::kind(message) != Some(Kind::String)) {
        return Err(Malformed::Error);
    }
    let code = code.and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    Ok(Outcome::Error { code: code.ok_or(Malformed::Error)?, message, data, raw: error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_parsed() {
        let check = |text: &str, id: &str, outcome: Outcome<'_>| {
            assert_eq!(parse(text.as_bytes()), Ok(Answer { id: id.as_bytes(), outcome }), "{text}");
        };
        type Text = Option<&'static str>;
        let error = |code, message: Text, data: Text, raw: &'static str| {
            let (message, data) = (message.map(str::as_bytes), data.map(str::as_bytes));
            Outcome::Error { code, message, data, raw: raw.as_bytes() }
        };
        check(r#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#, "1", Outcome::Result(b"\"0x1\""));
        // null is a valid result; a null error is ignored
        check(r#"{"jsonrpc":"2.0","id":1,"result":null}"#, "1", Outcome::Result(b"null"));
        check(r#"{"result":null,"error":null,"id":"a"}"#, "\"a\"", Outcome::Result(b"null"));
        check(
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse","data":[1]}}"#,
            "null",
            error(
                -32700,
                Some("\"parse\""),
                Some("[1]"),
                r#"{"code":-32700,"message":"parse","data":[1]}"#,
            ),
        );
        // an error of JSON-RPC 1.0, without an id
        check(
            r#"{"result":null,"error":{"code":3}}"#,
            "null",
            error(3, None, None, r#"{"code":3}"#),
        );
    }

    #[test]
    fn malformed_answers_are_distinguished() {
        let check = |text: &str, why: Malformed| {
            assert_eq!(parse(text.as_bytes()), Err(why), "{text}");
        };
        check("[]", Malformed::NotAnObject);
        check("<html>", Malformed::Syntax(Syntax { at: 0, what: json::Fault::Unexpected }));
        check(r#"{"jsonrpc":"2.0","id":1}"#, Malformed::Neither);
        check(r#"{"id":1,"error":null}"#, Malformed::Neither);
        check(r#"{"id":1,"result":1,"error":{"code":1}}"#, Malformed::Both);
        check(r#"{"jsonrpc":"1.0","id":1,"result":1}"#, Malformed::Version);
        check(r#"{"id":[1],"result":1}"#, Malformed::Id);
        check(r#"{"id":1,"id":1,"result":1}"#, Malformed::Duplicate);
        check(r#"{"id":1,"error":"boom"}"#, Malformed::Error);
        check(r#"{"id":1,"error":{"message":"no code"}}"#, Malformed::Error);
        check(r#"{"id":1,"error":{"code":"3"}}"#, Malformed::Error);
        check(r#"{"id":1,"error":{"code":1.5}}"#, Malformed::Error);
        check(r#"{"id":1,"error":{"code":99999999999999999999}}"#, Malformed::Error);
        check(
            r#"{"id":1,"error":{"code":+1}}"#,
            Malformed::Syntax(Syntax { at: 24, what: json::Fault::Unexpected }),
        );
        check(r#"{"id":1,"error":{"code":1,"message":2}}"#, Malformed::Error);
        check(r#"{"id":1,"error":{"code":1,"message":"a","c\u006fde":2}}"#, Malformed::Duplicate);
        check(r#"{"id":1,"error":{"code":1,"message":"a","message":"b"}}"#, Malformed::Duplicate);
    }
}
