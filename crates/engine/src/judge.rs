//! An answer against its target's expectation.
//!
//! The order is fixed: JSON-RPC, status, check. A body that is no JSON-RPC at all is put down to an
//! unexpected status where there is one: a proxy's 502 page is a 502.

use crate::connection::Answer;
use flate2::read::MultiGzDecoder;
use plimsoll_measure::{ErrorClass, Fault, RpcCounts};
use plimsoll_plan::{Expect, RpcExpect};
use plimsoll_rpc::judge::Expected;
use std::io::Read;

/// What came of it: nothing wrong, or a class and, for `protocol`, the fault.
pub(crate) type Verdict = Result<(), (ErrorClass, Option<Fault>)>;

/// Judges an answer and counts what JSON-RPC it held. `expected` is what the request asked, when it
/// was JSON-RPC; `decoded` is a buffer for gzip.
#[inline]
pub(crate) fn judge(
    expect: &Expect,
    expected: Option<&Expected<'_>>,
    answer: &Answer<'_>,
    body_max: u64,
    decoded: &mut Vec<u8>,
    counts: &mut RpcCounts,
) -> Verdict {
    let status_ok = expect.allows(answer.status);
    let status = || if status_ok { Ok(()) } else { Err((ErrorClass::Status, None)) };
    if !expect.reads_body() {
        return status();
    }
    let body = if answer.gzip {
        unpack(answer.body, body_max, decoded)?;
        decoded.as_slice()
    } else {
        answer.body
    };
    if expect.rpc != RpcExpect::Off {
        let expected = expected.expect("a plan expects JSON-RPC only of a JSON-RPC request");
        let judgement = expected.judge(body, |code| counts.add_error(code, 1));
        counts.items += u64::from(judgement.items);
        match (judgement.mismatch, expect.rpc) {
            (Some(_), _) => {
                status()?;
                return Err((ErrorClass::RpcMismatch, None));
            }
            (None, RpcExpect::Result) if judgement.errors > 0 => {
                return Err((ErrorClass::RpcError, None));
            }
            (None, RpcExpect::Error) if judgement.errors == 0 => {
                status()?;
                return Err((ErrorClass::Check, None));
            }
            _ => {}
        }
    }
    status()?;
    match &expect.contains {
        Some(text) if memchr::memmem::find(body, text.as_bytes()).is_none() => {
            Err((ErrorClass::Check, None))
        }
        _ => Ok(()),
    }
}

/// Unpacks no more than the limit on bodies, however well it was packed.
fn unpack(body: &[u8], body_max: u64, decoded: &mut Vec<u8>) -> Verdict {
    decoded.clear();
    match MultiGzDecoder::new(body).take(body_max.saturating_add(1)).read_to_end(decoded) {
        Ok(n) if n as u64 > body_max => Err((ErrorClass::BodyTooLarge, None)),
        Ok(_) => Ok(()),
        Err(_) => Err((ErrorClass::Protocol, Some(Fault::BadGzip))),
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

    fn judged(rpc: RpcExpect, contains: &str, status: u16, body: &[u8], packed: bool) -> Verdict {
        let contains = (!contains.is_empty()).then(|| contains.to_string());
        let expect = Expect { status: vec![200..=299], rpc, contains };
        let answer = Answer { status, body, gzip: packed, location: None };
        let expected = Expected::of(REQUEST).ok();
        let mut counts = RpcCounts::default();
        let verdict =
            judge(&expect, expected.as_ref(), &answer, 1000, &mut Vec::new(), &mut counts);
        let coded: u64 = counts.codes.iter().map(|(_, n)| n).sum();
        assert_eq!(counts.errors, coded + counts.codes_other);
        verdict
    }

    #[test]
    fn the_first_class_that_applies() {
        use ErrorClass::*;
        let check = |rpc, contains: &str, status, body: &[u8], class: Option<ErrorClass>| {
            let verdict = judged(rpc, contains, status, body, false);
            assert_eq!(verdict.err().map(|(class, _)| class), class, "{rpc:?} {status}");
            if status == 200 {
                let packed = judged(rpc, contains, status, &gzip(body), true);
                assert_eq!(packed.err().map(|(class, _)| class), class, "gzip");
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
    fn damaged_and_swollen_gzip() {
        let verdict = judged(RpcExpect::Result, "", 200, b"not gzip", true);
        assert_eq!(verdict, Err((ErrorClass::Protocol, Some(Fault::BadGzip))));
        let verdict = judged(RpcExpect::Result, "", 200, &gzip(&[b' '; 1001]), true);
        assert_eq!(verdict, Err((ErrorClass::BodyTooLarge, None)));
    }
}
