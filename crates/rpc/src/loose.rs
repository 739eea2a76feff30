//! Parses a response object from a server that violates JSON-RPC.
//!
//! Servers in the field send ids and codes as strings, errors that are not objects, an empty error
//! beside a result (`{}`, `[]`, `""`, `false`, `0`), a single answer in an array, or a byte order
//! mark. Such an answer is accepted if
//! it has only one possible meaning. Use [`crate::answer`] first; it defines what is correct.
//!
//! Invariant: a result is accepted only with the id of the call, an error with that id or none.

use crate::answer::Malformed;
use crate::json::{self, Kind, Member};

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loose<'a> {
    /// The result as written.
    Result(&'a [u8]),
    /// An error.
    Error {
        /// The code.
        code: Code<'a>,
        /// The message as written, usually a string; `None` if there is none.
        message: Option<&'a [u8]>,
        /// The other members of the error object.
        rest: Vec<Member<'a>>,
    },
}

/// The code of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code<'a> {
    /// There is none, or it is `null`.
    Missing,
    /// An integer, as a number or in a string.
    Integer(i64),
    /// Any other value, as written.
    Other(&'a [u8]),
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Parses the answer to call `id`. An error may lack the id.
///
/// # Errors
/// Returns why the text is not an answer, or is ambiguous.
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
            return Err(Malformed::Duplicate);
        }
    }
    let is_empty = |value: &&[u8]| {
        matches!(*value, b"null" | b"\"\"" | b"false" | b"0")
            || json::members(value).next().is_none()
            || json::items(value).next().is_none()
    };
    let is_null = |value: Option<&[u8]>| value.is_none_or(|value| value == b"null");
    match (result, error) {
        // Ambiguous: success with a null result, or failure with an empty error.
        (Some(b"null"), Some(error)) if error != b"null" && is_empty(&error) => {
            Err(Malformed::Both)
        }
        (Some(result), error) if error.as_ref().is_none_or(is_empty) => {
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
            let (code, message) = (Code::Missing, Some(error));
            return Ok(Loose::Error { code, message, rest: Vec::new() });
        }
        _ => return Err(Malformed::Error),
    }
    let (mut code, mut message, mut rest) = (None, None, Vec::new());
    for member in json::members(error) {
        let member = member?;
        match &*member.plain() {
            b"code" if code.is_some() => return Err(Malformed::Duplicate),
            b"message" if message.is_some() => return Err(Malformed::Duplicate),
            b"code" => code = Some(member.value),
            b"message" => message = Some(member.value),
            _ => rest.push(member),
        }
    }
    let message = message.filter(|message| *message != b"null");
    let code = match code {
        None | Some(b"null") => Code::Missing,
        Some(raw) => integer(raw).map_or(Code::Other(raw), Code::Integer),
    };
    Ok(Loose::Error { code, message, rest })
}

/// Parses a number or a string as an integer, written as JSON writes it: without `+` or leading
/// zeros.
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
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let is_plain = digits == "0" || digits.starts_with(|first| matches!(first, '1'..='9'));
    whole.parse().ok().filter(|_| is_plain)
}

/// Whether an id, given as a number or a string, equals `number`.
fn is_number(raw: &[u8], number: u64) -> bool {
    integer(raw).is_some_and(|id| u64::try_from(id) == Ok(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unambiguous_answers_are_accepted() {
        let result = |text: &str, result: &str| {
            let read = parse(text.as_bytes(), 7);
            assert_eq!(read, Ok(Loose::Result(result.as_bytes())), "{text}");
        };
        result(r#"{"jsonrpc":"2.0","id":"7","result":"0x1"}"#, "\"0x1\"");
        result(r#"{"id":7.0,"result":[1]}"#, "[1]");
        result(r#"{"id":7,"result":1,"error":{}}"#, "1");
        for empty in ["\"\"", "[]", "[ ]", "false", "0", "null"] {
            result(&format!("{{\"id\":7,\"result\":1,\"error\":{empty}}}"), "1");
        }
        result(r#"{"id":"7","result":null,"error":null}"#, "null");
        result(r#" [ {"id":7,"result":1} ] "#, "1");
        result("\u{feff}{\"id\":7,\"result\":1}", "1");
        result(r#"{"jsonrpc":"1.0","id":7,"result":1}"#, "1");
        let error = |text: &str, code: Code<'_>, message: Option<&str>, rest: usize| match parse(
            text.as_bytes(),
            7,
        ) {
            Ok(Loose::Error { code: c, message: m, rest: r }) => {
                assert_eq!((c, m), (code, message.map(str::as_bytes)), "{text}");
                assert_eq!(r.len(), rest, "{text}");
            }
            other => panic!("{text}: {other:?}"),
        };
        error(r#"{"id":"7","error":"boom"}"#, Code::Missing, Some("\"boom\""), 0);
        error(
            r#"{"id":7,"error":{"code":"-32000","message":"m"}}"#,
            Code::Integer(-32000),
            Some("\"m\""),
            0,
        );
        error(r#"{"id":7,"error":{"code":3.0,"data":"0x"}}"#, Code::Integer(3), None, 1);
        error(r#"{"id":7,"error":{"message":{"why":1}}}"#, Code::Missing, Some("{\"why\":1}"), 0);
        for code in ["\"x\"", "1e3", "99999999999999999999", "true", "\"+3\"", "\"007\"", "{}"] {
            let text = format!("{{\"error\":{{\"code\":{code},\"message\":null}}}}");
            error(&text, Code::Other(code.as_bytes()), None, 0);
        }
        error(r#"{"error":{"code":null}}"#, Code::Missing, None, 0);
        error(
            r#"[{"id":null,"result":null,"error":{"code":1,"a":1,"b":2}}]"#,
            Code::Integer(1),
            None,
            2,
        );
    }

    #[test]
    fn ambiguous_answers_are_refused() {
        let check = |text: &str, why: Malformed| {
            assert_eq!(parse(text.as_bytes(), 7), Err(why), "{text}");
        };
        check(r#"{"id":8,"result":1}"#, Malformed::Id);
        check(r#"{"id":"8","error":"boom"}"#, Malformed::Id);
        check(r#"{"id":"7a","result":1}"#, Malformed::Id);
        check(r#"{"id":7.5,"result":1}"#, Malformed::Id);
        check(r#"{"id":"+7","result":1}"#, Malformed::Id);
        check(r#"{"id":"07","result":1}"#, Malformed::Id);
        check(r#"{"id":7,"result":1,"error":true}"#, Malformed::Both);
        check(r#"{"id":7,"result":1,"error":[0]}"#, Malformed::Both);
        check(r#"{"id":7,"result":null,"error":false}"#, Malformed::Both);
        check(r#"{"id":null,"result":1}"#, Malformed::Id);
        check(r#"{"result":1}"#, Malformed::Id);
        check(r#"{"id":7,"result":1,"error":{"code":1}}"#, Malformed::Both);
        check(r#"{"id":7,"result":null,"error":{}}"#, Malformed::Both);
        check(r#"{"id":7,"id":"7","result":1}"#, Malformed::Duplicate);
        check(r#"{"id":7,"error":{"code":1,"code":2}}"#, Malformed::Duplicate);
        check(r#"[{"id":7,"result":1},{"id":7,"result":2}]"#, Malformed::NotAnObject);
        check(r#"{"id":7}"#, Malformed::Neither);
        check(r#"{"id":7,"error":5}"#, Malformed::Error);
        check("[]", Malformed::NotAnObject);
        check("1", Malformed::NotAnObject);
    }
}
