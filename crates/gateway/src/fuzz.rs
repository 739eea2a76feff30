//! Entry points for fuzzing: the parsers of untrusted bytes, fed in fragments, without sockets. Not a
//! public interface.

use plimsoll_measure::Nanos;
use plimsoll_rpc::json;
use plimsoll_rpc::method::Method;
use plimsoll_rpc::request::{self, Body as Calls, Call};

use crate::agree::{Agreement, Answer};
use crate::cache::class::{self, Plan};
use crate::cache::key::Canonical;
use crate::cache::shared::{self, Name};
use crate::call::{attempt, judge};
use crate::heads::Served;
use crate::http1::{self, Body, Progress};
use crate::payload::{Composer, Payload};
use crate::protocol::Protocol;
use crate::protocol::evm::block_param::{Block, BlockParam, Tag};
use crate::sends::{Raw, Sought};
use crate::serve::face;
use crate::upstream::Reading;

/// Reads requests as a session does. Returns the bodies of complete requests, and whether the bytes
/// after them were rejected.
pub fn requests(bytes: &[u8], fragment: usize, body_max: u64) -> (Vec<Vec<u8>>, bool) {
    let mut fragments = bytes.chunks(fragment.max(1));
    let (mut buffer, mut bodies) = (Vec::new(), Vec::new());
    loop {
        let mut seen = 0;
        let end = loop {
            if seen == 0 {
                let blank = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                buffer.drain(..blank);
            }
            if let Some(end) = http1::head_end(&buffer, seen) {
                break end;
            }
            if !http1::may_start(&buffer) {
                return (bodies, true);
            }
            seen = buffer.len();
            match fragments.next() {
                Some(fragment) => buffer.extend_from_slice(fragment),
                None => return (bodies, false),
            }
        };
        let framing = match http1::request_head(&buffer[..end]) {
            Ok(head) => {
                face::traverses(head.target);
                head.framing
            }
            Err(_) => return (bodies, true),
        };
        let mut body = Body::new(framing, end);
        let whole = loop {
            match body.advance(&mut buffer, body_max) {
                Ok(Progress::Whole(body)) => break body,
                Ok(Progress::More(_)) => match fragments.next() {
                    Some(fragment) => buffer.extend_from_slice(fragment),
                    None => return (bodies, false),
                },
                Ok(Progress::TooLarge) | Err(_) => return (bodies, true),
            }
        };
        bodies.push(buffer[whole.clone()].to_vec());
        buffer.drain(..whole.end);
    }
}

/// The calls of a body, each with the bytes that are sent upstream for it.
pub fn calls(body: &[u8]) -> Vec<(Call<'_>, Vec<u8>)> {
    let calls: Vec<Call<'_>> = match request::parse(body, 1_000) {
        Ok(Calls::Single(call)) => vec![call],
        Ok(Calls::Batch(batch)) => batch.calls().filter_map(Result::ok).collect(),
        Err(_) => Vec::new(),
    };
    calls
        .into_iter()
        .map(|call| {
            let mut out = Vec::new();
            attempt::write_call(&call, 42, call.params.unwrap_or_default(), &mut out);
            (call, out)
        })
        .collect()
}

/// Reads an upstream's response to call 42 and judges it. Returns its status and body and, if it is an
/// answer, what the caller with `id` receives.
pub fn response(
    bytes: &[u8],
    fragment: usize,
    id: &[u8],
) -> Option<(u16, Vec<u8>, Option<Vec<u8>>)> {
    let mut reading = Reading::default();
    let mut buffer = Vec::new();
    let mut fragments = bytes.chunks(fragment.max(1));
    while !reading.find_head(&mut buffer, false).ok()? {
        buffer.extend_from_slice(fragments.next()?);
    }
    let body = loop {
        if let Progress::Whole(body) = match reading.advance(&mut buffer, 1 << 20).ok()? {
            Progress::TooLarge => return None,
            progress => progress,
        } {
            break body;
        }
        match fragments.next() {
            Some(fragment) => buffer.extend_from_slice(fragment),
            None => break reading.at_close(&buffer).ok()?,
        }
    };
    let (status, body) = (reading.status(), &buffer[body]);
    let verdict = judge::judge(Protocol::Evm, body, status, 42).ok();
    let answered = verdict.map(|verdict| written(&verdict, id, body));
    Some((status, body.to_vec(), answered))
}

/// Judges an upstream's error with this code, message and data (JSON, as written) under this HTTP
/// status. Returns the category's name, and what the caller with the id 7 receives.
pub fn error(code: i64, message: &[u8], data: &[u8], status: u16) -> (&'static str, Vec<u8>) {
    let mut body = format!("{{\"id\":42,\"error\":{{\"code\":{code},\"message\":").into_bytes();
    json::write_text(&mut body, &String::from_utf8_lossy(message));
    body.extend_from_slice(b",\"data\":");
    body.extend_from_slice(data);
    body.extend_from_slice(b"}}");
    let verdict = judge::judge(Protocol::Evm, &body, status, 42).expect("an answer to the call");
    (verdict.outcome.name(), written(&verdict, b"7", &body))
}

/// Binds the moving tags in parameters to a number. Returns the parameters, and whether they still name
/// such a tag; `None` if nothing changes or the method is not known.
pub fn bound(method: &str, params: &[u8], number: u64) -> Option<(Vec<u8>, bool)> {
    let is_moving = |tag| matches!(tag, Tag::Latest | Tag::Safe | Tag::Finalized);
    let param = BlockParam::of(Method::find(method)?);
    let mut bound = Vec::new();
    param.bind(params, |tag| is_moving(tag).then_some(number), &mut bound);
    if bound.is_empty() {
        return None;
    }
    let mut blocks = param.blocks(Some(&bound));
    let is_left = blocks.any(|block| matches!(block, Block::Tag(tag) if is_moving(tag)));
    drop(blocks);
    Some((bound, is_left))
}

/// Reads parameters as those of a send and of a read about a transaction. Returns the hash of the
/// transaction that is sent, if there is one.
pub fn transaction(method: &str, params: &[u8]) -> Option<[u8; 32]> {
    Sought::of(method, Some(params));
    let raw = Raw::of(params)?;
    raw.sender();
    Some(raw.hash())
}

/// Classifies a call and its result as the cache does, with a head at 100, and reads the result as a
/// value from Redis. Returns the canonical form of the call, if it has one.
pub fn cached(method: &str, params: &[u8], result: &[u8]) -> Option<Vec<u8>> {
    let method = Method::find(method)?;
    let served = Served { latest: Some(100), safe: None, finalized: Some(60) };
    if let Plan::Use(scope) = class::plan(Some(method), Some(params), served)
        && json::validate(result).is_ok()
    {
        let _ = class::classify(method, Some(params), scope, result, served);
    }
    let mut form = Vec::new();
    let call = Canonical::write("eth", method, Some(params), &mut form)?;
    let name = Name::new("eth", method, &call);
    assert_eq!(shared::decode(&name, result, Nanos::ZERO, 1 << 20), None, "a forged value");
    Some(form)
}

/// Whether two results agree.
pub fn agree(left: &[u8], right: &[u8]) -> bool {
    Agreement::of(&[Answer::Result(left), Answer::Result(right)], false).answer(2).is_some()
}

fn written(verdict: &judge::Verdict, id: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Composer::new(Vec::new());
    verdict.write(Some(id), &mut out, |out, part| out.text().extend_from_slice(&body[part]));
    match out.finish() {
        Payload::Whole(text) => text,
        _ => unreachable!("nothing was attached"),
    }
}
