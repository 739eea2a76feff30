//! Parses a request body: a single call, or a batch whose calls are validated separately.
//!
//! The syntax of the whole body is checked first, so that callers never act on part of a malformed
//! body; everything else is read on demand. Whether a method exists and accepts its parameters is
//! not checked here.
//!
//! Invariant: a body is either refused as a whole or yields exactly one result for each call.

use std::borrow::Cow;

use crate::code;
use crate::json::{self, Kind, Syntax};
use crate::method::Method;

/// A call, borrowed from the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<'a> {
    /// The id as written: a string, a number or `null`. `None`: a notification, which is not
    /// answered.
    pub id: Option<&'a [u8]>,
    /// The name of the method.
    pub method: Cow<'a, str>,
    /// The parameters as written, of any type; `None` if the member is missing.
    pub params: Option<&'a [u8]>,
}

/// Why a body or call is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not JSON.
    #[error("parse error: {0}")]
    Syntax(#[from] Syntax),
    /// JSON, but not an object.
    #[error("invalid request: a call must be an object")]
    NotAnObject,
    /// The `jsonrpc` member is missing or is not `"2.0"`.
    #[error("invalid request: \"jsonrpc\" must be \"2.0\"")]
    Version,
    /// The `method` member is missing or is not a string.
    #[error("invalid request: \"method\" must be a string")]
    Method,
    /// The id is an object, an array or a boolean.
    #[error("invalid request: \"id\" must be a string, a number or null")]
    Id,
    /// A member that determines the call's meaning appears twice.
    #[error("invalid request: duplicate member \"{0}\"")]
    Duplicate(&'static str),
    /// A batch without calls.
    #[error("invalid request: empty batch")]
    EmptyBatch,
    /// A batch with more calls than allowed.
    #[error("invalid request: batch of {calls} calls, the limit is {limit}")]
    BatchTooLarge {
        /// Number of calls in the batch.
        calls: usize,
        /// Maximum number of calls.
        limit: usize,
    },
}

impl Refusal {
    /// The JSON-RPC error code to answer with.
    pub fn code(self) -> i64 {
        match self {
            Refusal::Syntax(_) => code::PARSE_ERROR,
            _ => code::INVALID_REQUEST,
        }
    }
}

/// A refused call, and the id to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused<'a> {
    /// The id as written, if it could be determined; otherwise answer with `null`.
    pub id: Option<&'a [u8]>,
    /// What is wrong.
    pub why: Refusal,
}

impl From<Refusal> for Refused<'_> {
    fn from(why: Refusal) -> Self {
        Refused { id: None, why }
    }
}

/// A request body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// One call.
    Single(Call<'a>),
    /// One or more calls, answered with one array.
    Batch(Batch<'a>),
}

/// A batch of calls, which are parsed on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a> {
    text: &'a [u8],
    count: usize,
}

impl<'a> Batch<'a> {
    /// The number of calls, valid or not; never zero.
    #[expect(clippy::len_without_is_empty, reason = "an empty batch is refused")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The calls in order, each parsed when it is visited.
    pub fn calls(&self) -> impl Iterator<Item = Result<Call<'a>, Refused<'a>>> + use<'a> {
        self.sized_calls().map(|(call, _)| call)
    }

    /// The same, each with the length of its text in bytes.
    pub fn sized_calls(
        &self,
    ) -> impl Iterator<Item = (Result<Call<'a>, Refused<'a>>, usize)> + use<'a> {
        json::items(self.text).map(|item| match item {
            Ok(item) => (call(item), item.len()),
            Err(syntax) => (Err(Refusal::Syntax(syntax).into()), 0),
        })
    }
}

/// Parses a body. A batch may contain up to `batch_max` calls.
///
/// # Errors
/// The body is not JSON, an invalid single call, or a batch that is empty or too large. An invalid
/// call in a batch is not an error here; [`Batch::calls`] returns it.
#[inline]
pub fn parse(body: &[u8], batch_max: usize) -> Result<Body<'_>, Refused<'_>> {
    if json::kind(body) != Some(Kind::Array) {
        return call(body).map(Body::Single);
    }
    let mut count = 0;
    for item in json::items(body) {
        item.map_err(Refusal::Syntax)?;
        count += 1;
    }
    match count {
        0 => Err(Refusal::EmptyBatch.into()),
        calls if calls > batch_max => {
            Err(Refusal::BatchTooLarge { calls, limit: batch_max }.into())
        }
        count => Ok(Body::Batch(Batch { text: body, count })),
    }
}

/// Parses one call.
///
/// # Errors
/// Returns why the call is invalid. A syntax error anywhere in `text` precedes all other errors.
#[inline]
pub fn call(text: &[u8]) -> Result<Call<'_>, Refused<'_>> {
    if json::kind(text) != Some(Kind::Object) {
        json::validate(text).map_err(Refusal::Syntax)?;
        return Err(Refusal::NotAnObject.into());
    }
    let (mut version, mut id, mut method, mut params) = (None, None, None, None);
    let mut duplicate = None;
    for member in json::members(text) {
        let member = member.map_err(Refusal::Syntax)?;
        let (slot, name) = match &*member.plain() {
            b"jsonrpc" => (&mut version, "jsonrpc"),
            b"id" => (&mut id, "id"),
            b"method" => (&mut method, "method"),
            b"params" => (&mut params, "params"),
            _ => continue,
        };
        if slot.replace(member.value).is_some() {
            duplicate = duplicate.or(Some(name));
        }
    }
    let good_id = id.filter(|id| is_id(id));
    let refuse = |why| Err(Refused { id: good_id, why });
    if let Some(name) = duplicate {
        // It is unknown which of two ids was meant.
        return Err(Refused {
            id: good_id.filter(|_| name != "id"),
            why: Refusal::Duplicate(name),
        });
    }
    if good_id.is_none() && id.is_some() {
        return refuse(Refusal::Id);
    }
    if !version.is_some_and(|version| json::is_text(version, "2.0")) {
        return refuse(Refusal::Version);
    }
    match method.and_then(method_name) {
        Some(method) => Ok(Call { id, method, params }),
        None => refuse(Refusal::Method),
    }
}

/// Decodes the valid value `raw` as the name of a method; `None` if it is not a string. Looking up a
/// known name is faster than decoding a string.
#[inline]
fn method_name(raw: &[u8]) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    match Method::of_bytes(inner) {
        Some(known) => Some(Cow::Borrowed(known.name())),
        None => json::text(raw),
    }
}

/// Whether the valid value `raw` has a type that is allowed for ids.
#[inline]
pub(crate) fn is_id(raw: &[u8]) -> bool {
    matches!(json::kind(raw), Some(Kind::String | Kind::Number | Kind::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_parsed() {
        let check = |body: &str, id: Option<&str>, method: &str, params: Option<&str>| {
            let call = call(body.as_bytes()).expect("a call");
            assert_eq!(call.id, id.map(str::as_bytes), "{body}");
            assert_eq!(call.method, method, "{body}");
            assert_eq!(call.params, params.map(str::as_bytes), "{body}");
        };
        check(
            r#"{"jsonrpc":"2.0","method":"eth_call","params":[{}, "latest"],"id":1}"#,
            Some("1"),
            "eth_call",
            Some(r#"[{}, "latest"]"#),
        );
        // any order, white space, escapes, unknown members
        check(
            "\n{ \"id\" : \"a\" , \"x\":{\"id\":2}, \"\\u006dethod\":\"m\\u0031\", \"jsonrpc\":\"2.0\" }",
            Some("\"a\""),
            "m1",
            None,
        );
        // a notification, and a null id
        check(r#"{"jsonrpc":"2.0","method":"m"}"#, None, "m", None);
        check(r#"{"jsonrpc":"2.0","method":"m","id":null}"#, Some("null"), "m", None);
        // parameters are not checked
        check(r#"{"jsonrpc":"2.0","method":"m","params":7}"#, None, "m", Some("7"));
    }

    #[test]
    fn errors_are_distinguished() {
        let check = |body: &str, id: Option<&str>, why: Refusal| {
            let refused = parse(body.as_bytes(), 3).expect_err(body);
            assert_eq!(refused, Refused { id: id.map(str::as_bytes), why }, "{body}");
        };
        let syntax = |at, what| Refusal::Syntax(Syntax { at, what });
        check("", None, syntax(0, json::Fault::End));
        check("[", None, syntax(1, json::Fault::End));
        check(r#"[{"jsonrpc":"2.0","method":"m"},"#, None, syntax(32, json::Fault::End));
        // syntax errors come first, wherever they are
        check(r#"{"method":1,"id":1,}"#, None, syntax(19, json::Fault::Unexpected));
        check("7", None, Refusal::NotAnObject);
        check(r#"{"id":5,"method":"m"}"#, Some("5"), Refusal::Version);
        check(r#"{"jsonrpc":2.0,"id":5,"method":"m"}"#, Some("5"), Refusal::Version);
        check(r#"{"jsonrpc":"1.0","id":5,"method":"m"}"#, Some("5"), Refusal::Version);
        check(r#"{"jsonrpc":"2.0","id":"x"}"#, Some("\"x\""), Refusal::Method);
        check(r#"{"jsonrpc":"2.0","id":1,"method":null}"#, Some("1"), Refusal::Method);
        check(r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, None, Refusal::Id);
        check(r#"{"jsonrpc":"2.0","id":true,"method":"m"}"#, None, Refusal::Id);
        check(
            r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#,
            Some("1"),
            Refusal::Duplicate("method"),
        );
        check(r#"{"jsonrpc":"2.0","id":1,"method":"a","id":2}"#, None, Refusal::Duplicate("id"));
        check("[]", None, Refusal::EmptyBatch);
        check("[1,2,3,4]", None, Refusal::BatchTooLarge { calls: 4, limit: 3 });
    }

    #[test]
    fn calls_of_a_batch_are_validated_separately() {
        let body = br#"[{"jsonrpc":"2.0","method":"a","id":1}, 5, {"id":7}]"#;
        let Ok(Body::Batch(batch)) = parse(body, 10) else { panic!("a batch") };
        assert_eq!(batch.len(), 3);
        let calls: Vec<_> = batch.calls().collect();
        assert!(calls[0].as_ref().is_ok_and(|call| call.method == "a"));
        assert_eq!(calls[1], Err(Refusal::NotAnObject.into()));
        assert_eq!(calls[2], Err(Refused { id: Some(b"7"), why: Refusal::Version }));
        assert_eq!(Refusal::EmptyBatch.code(), -32600);
        assert_eq!(parse(b"{", 1).map_err(|refused| refused.why.code()), Err(-32700));
    }
}
