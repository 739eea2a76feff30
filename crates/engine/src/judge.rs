//! Checks an answer against its target's expectation.
//!
//! The order is fixed: JSON-RPC, status, check. A body that is not JSON-RPC counts as an unexpected
//! status if the status is unexpected: a proxy's 502 page is a 502.

use crate::connection::Answer;
use crate::gzip::{Gunzip, GzipError};
use plimsoll_measure::{ErrorClass, Fault, RpcCounts};
use plimsoll_plan::{Expect, RpcExpect};
use plimsoll_rpc::judge::Expected;

/// Cause an arrival was not answered as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) class: ErrorClass,
    pub(crate) fault: Option<Fault>,
}

impl Cause {
    pub(crate) fn of(class: ErrorClass) -> Cause {
        Cause { class, fault: None }
    }

    pub(crate) fn protocol(fault: Fault) -> Cause {
        Cause { class: ErrorClass::Protocol, fault: Some(fault) }
    }
}

/// The judgement of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) outcome: Result<(), Cause>,
    /// The code of the first JSON-RPC error in it.
    pub(crate) rpc_code: Option<i64>,
}

/// Judges an answer and counts its JSON-RPC items. `expected` describes the answer to the request
/// if that was JSON-RPC; `gzip` is a decoder with its buffer.
#[inline]
pub(crate) fn judge(
    expect: &Expect,
    expected: Option<&Expected<'_>>,
    answer: &Answer<'_>,
    body_max: u64,
    gzip: (&mut Gunzip, &mut Vec<u8>),
    counts: &mut RpcCounts,
) -> Judgement {
    let mut rpc_code = None;
    let mut on_error = |code| {
        rpc_code.get_or_insert(code);
    };
    let outcome = outcome(expect, expected, answer, (body_max, gzip), counts, &mut on_error);
    Judgement { outcome, rpc_code }
}

fn outcome(
    expect: &Expect,
    expected: Option<&Expected<'_>>,
    answer: &Answer<'_>,
    (body_max, (gunzip, decoded)): (u64, (&mut Gunzip, &mut Vec<u8>)),
    counts: &mut RpcCounts,
    on_error: &mut impl FnMut(i64),
) -> Result<(), Cause> {
    let status_ok = answer.call.is_some() || expect.allows(answer.status);
    let status = || if status_ok { Ok(()) } else { Err(Cause::of(ErrorClass::Status)) };
    if !expect.reads_body() {
        return status();
    }
    let body = if answer.gzip {
        gunzip.decode(answer.body, body_max, decoded).map_err(|error| match error {
            GzipError::Corrupt => Cause::protocol(Fault::BadGzip),
            GzipError::TooLarge => Cause::of(ErrorClass::BodyTooLarge),
        })?;
        decoded.as_slice()
    } else {
        answer.body
    };
    if expect.rpc != RpcExpect::Off {
        let expected = expected.expect("a plan expects JSON-RPC only of a JSON-RPC request");
        let judgement = expected.judge(body, |code| {
            counts.add_error(code, 1);
            on_error(code);
        });
        counts.items += u64::from(judgement.items);
        match (judgement.mismatch, expect.rpc) {
            (Some(_), _) => {
                status()?;
                return Err(Cause::of(ErrorClass::RpcMismatch));
            }
            (None, RpcExpect::Result) if judgement.errors > 0 => {
                return Err(Cause::of(ErrorClass::RpcError));
            }
            (None, RpcExpect::Error) if judgement.errors == 0 => {
                status()?;
                return Err(Cause::of(ErrorClass::Check));
            }
            _ => {}
        }
    }
    status()?;
    match &expect.contains {
        Some(text) if memchr::memmem::find(body, text.as_bytes()).is_none() => {
            Err(Cause::of(ErrorClass::Check))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const REQUEST: &[u8] = br#"{"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":1}"#;
    const RESULT: &[u8] = br#"{"jsonrpc":"2.0","id":1,"result":null}"#;
    const ERROR: &[u8] = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"x"}}"#;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn judged(
        rpc: RpcExpect,
        contains: &str,
        status: u16,
        body: &[u8],
        gzipped: bool,
    ) -> Result<(), Cause> {
        let contains = (!contains.is_empty()).then(|| contains.to_string());
        let expect = Expect { status: vec![200..=299], rpc, contains };
        let answer = Answer {
            head: &[],
            body_len: 0,
            status,
            call: None,
            body,
            gzip: gzipped,
            first: false,
            location: None,
            split: None,
            received_at: None,
        };
        let expected = Expected::of(REQUEST).ok();
        let mut counts = RpcCounts::default();
        let gzip = (&mut Gunzip::new(), &mut Vec::new());
        let judgement = judge(&expect, expected.as_ref(), &answer, 1000, gzip, &mut counts);
        assert_eq!(judgement.rpc_code, counts.codes.first().map(|(code, _)| *code));
        let coded: u64 = counts.codes.iter().map(|(_, n)| n).sum();
        assert_eq!(counts.errors, coded + counts.codes_other);
        judgement.outcome
    }

    #[test]
    fn the_first_applicable_class_is_reported() {
        use ErrorClass::*;
        let check = |rpc, contains: &str, status, body: &[u8], class: Option<ErrorClass>| {
            let outcome = judged(rpc, contains, status, body, false);
            assert_eq!(outcome.err().map(|cause| cause.class), class, "{rpc:?} {status}");
            if status == 200 {
                let gzipped = judged(rpc, contains, status, &gzip(body), true);
                assert_eq!(gzipped.err().map(|cause| cause.class), class, "gzip");
            }
        };
        check(RpcExpect::Result, "", 200, RESULT, None); // a null result is a result
        check(RpcExpect::Result, "", 200, ERROR, Some(RpcError)); // an error in a 200
        check(RpcExpect::Result, "", 500, ERROR, Some(RpcError)); // whatever the status
        check(RpcExpect::Result, "", 502, b"<html>", Some(Status)); // a proxy's page
        check(RpcExpect::Result, "", 200, b"<html>", Some(RpcMismatch));
        check(RpcExpect::Result, "", 500, RESULT, Some(Status));
        check(RpcExpect::Error, "", 200, ERROR, None);
        check(RpcExpect::Error, "", 200, RESULT, Some(Check));
        check(RpcExpect::Any, "", 200, ERROR, None);
        check(RpcExpect::Off, "", 200, b"<html>", None);
        check(RpcExpect::Off, "", 404, b"", Some(Status));
        check(RpcExpect::Off, "needle", 200, b"hay needle hay", None);
        check(RpcExpect::Off, "needle", 200, b"hay", Some(Check));
        check(RpcExpect::Off, "needle", 404, b"hay", Some(Status)); // status before check
    }

    #[test]
    fn corrupt_gzip_and_decompression_bombs_are_rejected() {
        let outcome = judged(RpcExpect::Result, "", 200, b"not gzip", true);
        assert_eq!(outcome, Err(Cause::protocol(Fault::BadGzip)));
        let outcome = judged(RpcExpect::Result, "", 200, &gzip(&[b' '; 1001]), true);
        assert_eq!(outcome, Err(Cause::of(ErrorClass::BodyTooLarge)));
    }
}
