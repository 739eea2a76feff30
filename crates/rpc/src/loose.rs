//! A response object from a server that does not follow JSON-RPC to the letter.
//!
//! Servers in the field write ids as text, codes as text, errors that are no objects, an empty error
//! beside a result, one answer in an array, a byte order mark in front. Such an answer is taken where
//! it can be read in one way only; [`crate::answer`] remains the first to be asked, and the judge of
//! what is correct.
//!
//! Invariant: an answer is taken only under the id that was asked with.

use crate::answer::Malformed;
use crate::json::{self, Kind, Member};

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loose<'a> {
    /// The result as written.
    Result(&'a [u8]),
    /// An error, in parts.
    Error {
        /// Its code, where it has one that is an integer.
        code: Option<i64>,
        /// Its message as written: mostly a string; `None` when there is none.
        message: Option<&'a [u8]>,
        /// Everything else in the error object.
        rest: Vec<Member<'a>>,
    },
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the answer to call `id`, an error also under no id.
///
/// # Errors
/// It is none, or could be read in several ways.
pub fn parse(text: &[u8], id: u64) -> Result<Loose<'_>, Malformed> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let text = json::validate(text)?;
    match json::kind(text) {
        Some(Kind::Object) => object(text, id),
        Some(Kind::Array) => {
            let mut items = json::items(text);
            match (items.next(), items.next()) {
                (Some(item), None) => object(item?, id),
                _ => Err(Malformed::NotAnObject),
            }
        }
        _ => Err(Malformed::NotAnObject),
    }
}

fn object(text: &[u8], sent: u64) -> Result<Loose<'_>, Malformed> {
    if json::kind(text) != Some(Kind::Object) {
        return Err(Malformed::NotAnObject);
    }
    let (mut id, mut result, mut error) = (None, None, None);
    for member in json::members(text) {
        let member = member?;
        let slot = match &*member.plain() {
            b"id" => &mut id,
            b"result" => &mut result,
            b"error" => &mut error,
            _ => continue,
        };
        if slot.replace(member.value).is_some() {
            return Err(Malformed::Twice);
        }
    }
    let says_nothing = |value: &&[u8]| {
        *value == b"null" || *value == b"\"\"" || json::members(value).next().is_none()
    };
    let is_null = |value: Option<&[u8]>| value.is_none_or(|value| value == b"null");
    match (result, error) {
        // Done, with nothing to show; or failed, with nothing to say.
        (Some(b"null"), Some(error)) if error != b"null" && says_nothing(&error) => {
            Err(Malformed::Both)
        }
        (Some(result), error) if error.as_ref().is_none_or(says_nothing) => {
            if id.is_some_and(|id| is_number(id, sent)) {
                return Ok(Loose::Result(result));
            }
            Err(Malformed::Id)
        }
        (result, Some(error)) if is_null(result) => {
            if is_null(id) || id.is_some_and(|id| is_number(id, sent)) {
                return read_error(error);
            }
            Err(Malformed::Id)
        }
        (Some(_), Some(_)) => Err(Malformed::Both),
        _ => Err(Malformed::Neither),
    }
}

fn read_error(error: &[u8]) -> Result<Loose<'_>, Malformed> {
    match json::kind(error) {
        Some(Kind::Object) => {}
        Some(Kind::String) => {
            return Ok(Loose::Error { code: None, message: Some(error), rest: Vec::new() });
        }
        _ => return Err(Malformed::Error),
    }
    let (mut code, mut message, mut rest) = (None, None, Vec::new());
    for member in json::members(error) {
        let member = member?;
        match &*member.plain() {
            b"code" if code.is_some() => return Err(Malformed::Twice),
            b"message" if message.is_some() => return Err(Malformed::Twice),
            b"code" => code = Some(member.value),
            b"message" => message = Some(member.value),
            _ => rest.push(member),
        }
    }
    let message = message.filter(|message| *message != b"null");
    Ok(Loose::Error { code: code.and_then(integer), message, rest })
}

/// The integer that a number or a string reads as.
fn integer(raw: &[u8]) -> Option<i64> {
    let text = match json::kind(raw)? {
        Kind::Number => std::str::from_utf8(raw).ok()?.to_string(),
        Kind::String => json::text(raw)?.trim().to_string(),
        _ => return None,
    };
    let whole = match text.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => {
            whole
        }
        Some(_) => return None,
        None => &text,
    };
    whole.parse().ok()
}

/// Whether an id, as a number or as text, is this one.
fn is_number(raw: &[u8], number: u64) -> bool {
    integer(raw).is_some_and(|id| u64::try_from(id) == Ok(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_one_reading_is_read() {
        let result = |text: &str, result: &str| {
            let read = parse(text.as_bytes(), 7);
            assert_eq!(read, Ok(Loose::Result(result.as_bytes())), "{text}");
        };
        result(r#"{"jsonrpc":"2.0","id":"7","result":"0x1"}"#, "\"0x1\"");
        result(r#"{"id":7.0,"result":[1]}"#, "[1]");
        result(r#"{"id":7,"result":1,"error":{}}"#, "1");
        result(r#"{"id":7,"result":1,"error":""}"#, "1");
        result(r#"{"id":"7","result":null,"error":null}"#, "null");
        result(r#" [ {"id":7,"result":1} ] "#, "1");
        result("\u{feff}{\"id\":7,\"result\":1}", "1");
        result(r#"{"jsonrpc":"1.0","id":7,"result":1}"#, "1");
        let error = |text: &str, code: Option<i64>, message: Option<&str>, rest: usize| match parse(
            text.as_bytes(),
            7,
        ) {
            Ok(Loose::Error { code: c, message: m, rest: r }) => {
                assert_eq!((c, m), (code, message.map(str::as_bytes)), "{text}");
                assert_eq!(r.len(), rest, "{text}");
            }
            other => panic!("{text}: {other:?}"),
        };
        error(r#"{"id":"7","error":"boom"}"#, None, Some("\"boom\""), 0);
        error(
            r#"{"id":7,"error":{"code":"-32000","message":"m"}}"#,
            Some(-32000),
            Some("\"m\""),
            0,
        );
        error(r#"{"id":7,"error":{"code":3.0,"data":"0x"}}"#, Some(3), None, 1);
        error(r#"{"id":7,"error":{"message":{"why":1}}}"#, None, Some("{\"why\":1}"), 0);
        error(r#"{"error":{"code":"x","message":null}}"#, None, None, 0);
        error(r#"[{"id":null,"result":null,"error":{"code":1,"a":1,"b":2}}]"#, Some(1), None, 2);
    }

    #[test]
    fn what_has_several_readings_is_not() {
        let check = |text: &str, why: Malformed| {
            assert_eq!(parse(text.as_bytes(), 7), Err(why), "{text}");
        };
        check(r#"{"id":8,"result":1}"#, Malformed::Id);
        check(r#"{"id":"8","error":"boom"}"#, Malformed::Id);
        check(r#"{"id":"7a","result":1}"#, Malformed::Id);
        check(r#"{"id":7.5,"result":1}"#, Malformed::Id);
        check(r#"{"id":null,"result":1}"#, Malformed::Id);
        check(r#"{"result":1}"#, Malformed::Id);
        check(r#"{"id":7,"result":1,"error":{"code":1}}"#, Malformed::Both);
        check(r#"{"id":7,"result":null,"error":{}}"#, Malformed::Both);
        check(r#"{"id":7,"id":"7","result":1}"#, Malformed::Twice);
        check(r#"{"id":7,"error":{"code":1,"code":2}}"#, Malformed::Twice);
        check(r#"[{"id":7,"result":1},{"id":7,"result":2}]"#, Malformed::NotAnObject);
        check(r#"{"id":7}"#, Malformed::Neither);
        check(r#"{"id":7,"error":5}"#, Malformed::Error);
        check("[]", Malformed::NotAnObject);
        check("1", Malformed::NotAnObject);
    }
}
