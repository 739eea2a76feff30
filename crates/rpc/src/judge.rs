//! Checks whether a response body answers a request body, and counts the errors in it.
//!
//! Ids are compared by their bytes, or, if one of them has escapes, by their decoded text. A batch
//! may be answered in any order. A server that cannot determine the id of a call sends an error with
//! the id `null`: such an error counts as the answer to any one call, and a single error object as
//! the answer to a whole batch; both are errors of the call, not mismatches. HTTP status and other
//! expectations are not checked here.
//!
//! Invariant: a judgement without mismatch has one answer for each call that expects one, and
//! `errors` of them are error objects, whose codes were each visited once.

use std::borrow::Cow;

use crate::answer::{self, Answer, Malformed, Outcome};
use crate::json::{self, Kind};
use crate::request::{self, Body, Refusal, Refused};

/// Batches up to this size are judged without allocation: one bit for each call on the stack.
const BATCH_ON_STACK: usize = 1024;

/// The expected answers to a request body. For a single call this takes one scan and no allocation;
/// a batch allocates, so prepare it once if the body does not change.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    shape: Shape<'a>,
}

#[derive(Debug, Clone)]
enum Shape<'a> {
    /// Notifications only: no answer is expected.
    Nothing,
    Single(Id<'a>),
    Batch {
        /// In the order of the calls.
        ids: Vec<Id<'a>>,
        /// Positions in `ids`, ordered by id and then by position.
        sorted: Vec<u32>,
        /// Number of invalid calls without an id, which a server can only refuse.
        nameless: u32,
    },
}

/// An id in canonical form: its bytes, or, if it has escapes, the decoded string in quotation marks.
type Id<'a> = Cow<'a, [u8]>;

/// The result of judging a response body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Number of answers: results and errors.
    pub items: u32,
    /// Number of error objects.
    pub errors: u32,
    /// The code of the first error object.
    pub first_error_code: Option<i64>,
    /// The first reason why the body does not answer the request.
    pub mismatch: Option<Mismatch>,
}

/// Why a body does not answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Not JSON.
    #[error("the response is not JSON")]
    NotJson,
    /// JSON, but not a response object: neither result nor error, or both.
    #[error("the response is not JSON-RPC")]
    NotJsonRpc,
    /// An answer whose id matches no call.
    #[error("the id of an answer matches no call")]
    WrongId,
    /// A call without an answer.
    #[error("a call has no answer")]
    MissingItem,
    /// A second answer to a call, or an answer when none is expected.
    #[error("there are more answers than calls")]
    ExtraItem,
    /// A single answer to a batch.
    #[error("a batch was answered with a single object")]
    NotABatch,
    /// An array in answer to a single call.
    #[error("a single call was answered with a batch")]
    UnexpectedBatch,
}

impl From<Malformed> for Mismatch {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Syntax(_) => Mismatch::NotJson,
            _ => Mismatch::NotJsonRpc,
        }
    }
}

impl<'a> Expected<'a> {
    /// Determines the expected answers to `request`.
    ///
    /// # Errors
    /// The body is neither a call nor a batch. Invalid calls in a batch are not an error: they expect
    /// an error as their answer.
    #[inline]
    pub fn of(request: &'a [u8]) -> Result<Self, Refusal> {
        let shape = match request::parse(request, u32::MAX as usize).map_err(|no| no.why)? {
            Body::Single(call) => call.id.map_or(Shape::Nothing, |id| Shape::Single(plain(id))),
            Body::Batch(batch) => Self::of_batch(batch),
        };
        Ok(Expected { shape })
    }

    /// The answer to a call with this id, as written.
    pub fn of_id(id: &'a [u8]) -> Self {
        Expected { shape: Shape::Single(plain(id)) }
    }

    fn of_batch(batch: request::Batch<'a>) -> Shape<'a> {
        let mut ids = Vec::with_capacity(batch.len());
        let mut nameless = 0;
        for call in batch.calls() {
            match call {
                Ok(call) => ids.extend(call.id.map(plain)),
                Err(Refused { id: Some(id), .. }) => ids.push(plain(id)),
                Err(Refused { id: None, .. }) => nameless += 1,
            }
        }
        if ids.is_empty() && nameless == 0 {
            return Shape::Nothing;
        }
        let mut sorted: Vec<u32> = (0..ids.len() as u32).collect();
        sorted.sort_by_key(|position| (&ids[*position as usize], *position));
        Shape::Batch { ids, sorted, nameless }
    }

    /// Converts to owned data, for a body that is sent repeatedly.
    pub fn into_owned(self) -> Expected<'static> {
        let own = |id: Id<'_>| Cow::Owned(id.into_owned());
        Expected {
            shape: match self.shape {
                Shape::Nothing => Shape::Nothing,
                Shape::Single(id) => Shape::Single(own(id)),
                Shape::Batch { ids, sorted, nameless } => {
                    let ids = ids.into_iter().map(own).collect();
                    Shape::Batch { ids, sorted, nameless }
                }
            },
        }
    }

    /// The number of expected answers.
    pub fn answers(&self) -> u32 {
        match &self.shape {
            Shape::Nothing => 0,
            Shape::Single(_) => 1,
            Shape::Batch { ids, nameless, .. } => ids.len() as u32 + nameless,
        }
    }

    /// Judges `response`; `visit` is called with the code of each error object.
    #[inline]
    pub fn judge(&self, response: &[u8], mut visit: impl FnMut(i64)) -> Judgement {
        let mut judgement = Judgement::default();
        let fits = match &self.shape {
            Shape::Nothing if response.trim_ascii().is_empty() => Ok(()),
            Shape::Nothing => Err(Mismatch::ExtraItem),
            Shape::Single(id) => judge_single(&mut judgement, id, response, &mut visit),
            Shape::Batch { .. } => self.judge_batch(&mut judgement, response, &mut visit),
        };
        judgement.mismatch = fits.err();
        judgement
    }

    fn judge_batch(
        &self,
        judgement: &mut Judgement,
        response: &[u8],
        visit: &mut impl FnMut(i64),
    ) -> Result<(), Mismatch> {
        let Shape::Batch { ids, sorted, nameless } = &self.shape else { return Ok(()) };
        if json::kind(response) != Some(Kind::Array) {
            let answer = answer::parse(response)?;
            return match answer.outcome {
                Outcome::Error { .. } if answer.id == b"null" => {
                    judgement.count(&answer, visit);
                    Ok(())
                }
                _ => Err(Mismatch::NotABatch),
            };
        }
        let (mut stack, mut heap) = ([0u64; BATCH_ON_STACK / 64], Vec::new());
        let taken: &mut [u64] = if ids.len() <= BATCH_ON_STACK {
            &mut stack
        } else {
            heap.resize(ids.len().div_ceil(64), 0);
            &mut heap
        };
        let (mut matched, mut unaddressed) = (0u32, 0u32);
        let mut first = None;
        for (position, item) in json::items(response).enumerate() {
            let item = item.map_err(|_| Mismatch::NotJson)?;
            let fault = match answer::parse(item) {
                Err(malformed) => Some(Mismatch::from(malformed)),
                Ok(answer) => {
                    judgement.count(&answer, visit);
                    match find(ids, sorted, taken, position, &plain(answer.id)) {
                        Found::Free => {
                            matched += 1;
                            None
                        }
                        _ if answer.is_unaddressed_error() => {
                            unaddressed += 1;
                            None
                        }
                        Found::Taken => Some(Mismatch::ExtraItem),
                        Found::Nowhere => Some(Mismatch::WrongId),
                    }
                }
            };
            first = first.or(fault);
        }
        let due = ids.len() as u32 + nameless - matched;
        match first {
            Some(fault) => Err(fault),
            None if unaddressed > due => Err(Mismatch::ExtraItem),
            None if unaddressed < due => Err(Mismatch::MissingItem),
            None => Ok(()),
        }
    }
}

/// Judges `response` against `request`, if the request is not known in advance.
///
/// # Errors
/// See [`Expected::of`].
#[inline]
pub fn judge(
    request: &[u8],
    response: &[u8],
    visit: impl FnMut(i64),
) -> Result<Judgement, Refusal> {
    Ok(Expected::of(request)?.judge(response, visit))
}

#[inline]
fn judge_single(
    judgement: &mut Judgement,
    id: &Id<'_>,
    response: &[u8],
    visit: &mut impl FnMut(i64),
) -> Result<(), Mismatch> {
    if json::kind(response) == Some(Kind::Array) {
        json::validate(response).map_err(|_| Mismatch::NotJson)?;
        return Err(Mismatch::UnexpectedBatch);
    }
    let answer = answer::parse(response)?;
    judgement.count(&answer, visit);
    if **id == *answer.id || *id == plain(answer.id) || answer.is_unaddressed_error() {
        Ok(())
    } else {
        Err(Mismatch::WrongId)
    }
}

impl Answer<'_> {
    fn is_unaddressed_error(&self) -> bool {
        self.id == b"null" && matches!(self.outcome, Outcome::Error { .. })
    }
}

impl Judgement {
    fn count(&mut self, answer: &Answer<'_>, visit: &mut impl FnMut(i64)) {
        self.items += 1;
        if let Outcome::Error { code, .. } = answer.outcome {
            self.errors += 1;
            self.first_error_code = self.first_error_code.or(Some(code));
            visit(code);
        }
    }
}

enum Found {
    Free,
    Taken,
    Nowhere,
}

/// Finds a call with this id that has no answer yet, preferably at the answer's position, and marks
/// it as answered.
fn find(ids: &[Id<'_>], sorted: &[u32], taken: &mut [u64], position: usize, id: &Id<'_>) -> Found {
    let mut take = |at: usize| {
        let free = taken[at / 64] & 1 << (at % 64) == 0;
        taken[at / 64] |= 1 << (at % 64);
        free
    };
    if ids.get(position) == Some(id) && take(position) {
        return Found::Free;
    }
    let from = sorted.partition_point(|at| ids[*at as usize] < *id);
    let mut found = Found::Nowhere;
    for at in sorted[from..].iter().take_while(|at| ids[**at as usize] == *id) {
        if take(*at as usize) {
            return Found::Free;
        }
        found = Found::Taken;
    }
    found
}

#[inline]
fn plain(id: &[u8]) -> Id<'_> {
    if !id.contains(&b'\\') {
        return Cow::Borrowed(id);
    }
    let text = json::text(id).unwrap_or_default();
    Cow::Owned([b"\"", text.as_bytes(), b"\""].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges the response, and compares the judgement and the visited codes.
    #[track_caller]
    fn check(request: &str, response: &str, items: u32, codes: &[i64], mismatch: Option<Mismatch>) {
        let mut visited = Vec::new();
        let judgement = judge(request.as_bytes(), response.as_bytes(), |code| visited.push(code))
            .expect("a request");
        assert_eq!(visited, codes, "{response}");
        assert_eq!(
            judgement,
            Judgement {
                items,
                errors: codes.len() as u32,
                first_error_code: codes.first().copied(),
                mismatch
            },
            "{response}"
        );
    }

    fn request(id: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":{id}}}"#)
    }

    fn result(id: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"0x10"}}"#)
    }

    fn error(id: &str, code: i64) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"x"}}}}"#)
    }

    fn batch(items: &[String]) -> String {
        format!("[{}]", items.join(","))
    }

    #[test]
    fn a_single_call() {
        let one = request("1");
        check(&one, &result("1"), 1, &[], None);
        check(&one, &error("1", -32000), 1, &[-32000], None);
        // the server could not determine the id
        check(&one, &error("null", -32700), 1, &[-32700], None);
        check(&one, r#"{"error":{"code":-32005}}"#, 1, &[-32005], None);
        check(&one, &result("2"), 1, &[], Some(Mismatch::WrongId));
        check(&one, &result("null"), 1, &[], Some(Mismatch::WrongId));
        check(&one, &error("2", 5), 1, &[5], Some(Mismatch::WrongId));
        check(&one, "", 0, &[], Some(Mismatch::NotJson));
        check(&one, "<html></html>", 0, &[], Some(Mismatch::NotJson));
        check(&one, r#"{"jsonrpc":"2.0","id":1}"#, 0, &[], Some(Mismatch::NotJsonRpc));
        check(&one, &batch(&[result("1")]), 0, &[], Some(Mismatch::UnexpectedBatch));
        check(&one, "[", 0, &[], Some(Mismatch::NotJson));
        // ids are equal by their bytes or by their decoded text
        check(&request("\"a\""), &result("\"a\""), 1, &[], None);
        check(&request("\"a\""), &result("\"\\u0061\""), 1, &[], None);
        check(&request("\"\\u0061\""), &result("\"a\""), 1, &[], None);
        check(&request("\"1\""), &result("1"), 1, &[], Some(Mismatch::WrongId));
        check(&request("null"), &result("null"), 1, &[], None);
    }

    #[test]
    fn a_notification_expects_no_answer() {
        let notification = r#"{"jsonrpc":"2.0","method":"m"}"#;
        check(notification, "", 0, &[], None);
        check(notification, &result("1"), 0, &[], Some(Mismatch::ExtraItem));
        check(&batch(&[notification.into()]), " ", 0, &[], None);
    }

    #[test]
    fn a_batch() {
        let both = batch(&[request("1"), request("2")]);
        check(&both, &batch(&[result("1"), result("2")]), 2, &[], None);
        check(&both, &batch(&[result("2"), error("1", 3)]), 2, &[3], None);
        check(&both, &batch(&[result("1")]), 1, &[], Some(Mismatch::MissingItem));
        check(&both, "[]", 0, &[], Some(Mismatch::MissingItem));
        check(&both, &batch(&[result("1"), result("1")]), 2, &[], Some(Mismatch::ExtraItem));
        check(&both, &batch(&[result("1"), result("3")]), 2, &[], Some(Mismatch::WrongId));
        check(
            &both,
            &batch(&[result("1"), result("2"), result("2")]),
            3,
            &[],
            Some(Mismatch::ExtraItem),
        );
        check(&both, &batch(&[result("1"), "7".into()]), 1, &[], Some(Mismatch::NotJsonRpc));
        check(&both, "[1,", 0, &[], Some(Mismatch::NotJson));
        check(&both, &result("1"), 0, &[], Some(Mismatch::NotABatch));
        check(&both, &error("1", 9), 0, &[], Some(Mismatch::NotABatch));
        // refused as a whole
        check(&both, &error("null", -32600), 1, &[-32600], None);
        // an error without an id answers one call, not more
        check(&both, &batch(&[error("null", 4), result("2")]), 2, &[4], None);
        check(
            &both,
            &batch(&[result("1"), result("2"), error("null", 4)]),
            3,
            &[4],
            Some(Mismatch::ExtraItem),
        );
    }

    #[test]
    fn a_batch_with_duplicate_ids_or_invalid_calls() {
        // duplicate ids expect two answers
        let twins = batch(&[request("1"), request("1")]);
        check(&twins, &batch(&[result("1"), result("1")]), 2, &[], None);
        check(&twins, &batch(&[result("1")]), 1, &[], Some(Mismatch::MissingItem));
        // a notification expects no answer, an invalid call expects an error without id
        let odd = batch(&[r#"{"jsonrpc":"2.0","method":"m"}"#.into(), "5".into(), request("1")]);
        check(&odd, &batch(&[error("null", -32600), result("1")]), 2, &[-32600], None);
        check(&odd, &batch(&[result("1")]), 1, &[], Some(Mismatch::MissingItem));
    }

    #[test]
    fn large_batches_in_any_order() {
        for calls in [BATCH_ON_STACK, BATCH_ON_STACK + 1, 5000] {
            let ids: Vec<String> = (0..calls).map(|id| id.to_string()).collect();
            let body = batch(&ids.iter().map(|id| request(id)).collect::<Vec<_>>());
            let back = batch(&ids.iter().rev().map(|id| result(id)).collect::<Vec<_>>());
            let expected = Expected::of(body.as_bytes()).expect("a batch").into_owned();
            assert_eq!(expected.answers() as usize, calls);
            let judgement = expected.judge(back.as_bytes(), |_| {});
            assert_eq!((judgement.items as usize, judgement.mismatch), (calls, None));
        }
    }
}
