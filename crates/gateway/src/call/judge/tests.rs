//! How ids and errors are mapped, for any response.

use super::*;
use crate::payload::Payload;
use crate::protocol::Category;
use proptest::prelude::*;

fn judged(body: &str, status: u16, id: &str) -> Result<(RelayOutcome, String), ErrorKind> {
    let verdict = judge(Protocol::Evm, body.as_bytes(), status, 42).map_err(|no| no.kind)?;
    let mut out = Composer::new(Vec::new());
    verdict.write(Some(id.as_bytes()), &mut out, |out, part| {
        out.text().extend_from_slice(&body.as_bytes()[part]);
    });
    let Payload::Whole(text) = out.finish() else { unreachable!("nothing was attached") };
    Ok((verdict.outcome, String::from_utf8(text).expect("text")))
}

#[test]
fn answers_are_written_with_the_callers_id() {
    let check = |body: &str, id: &str, outcome: RelayOutcome, text: &str| {
        assert_eq!(judged(body, 200, id), Ok((outcome, text.to_string())), "{body}");
    };
    check(
        r#"{"jsonrpc":"2.0","id":42,"result": [1, 2] }"#,
        r#""a\u0062""#,
        RelayOutcome::Ok,
        r#"{"jsonrpc":"2.0","id":"a\u0062","result":[1, 2]}"#,
    );
    check(
        r#"{"id":42,"result":null}"#,
        "1.0",
        RelayOutcome::Ok,
        r#"{"jsonrpc":"2.0","id":1.0,"result":null}"#,
    );
    // an error object is forwarded byte for byte
    check(
        r#"{"jsonrpc":"2.0","id":42,"error":{"code":3,"message":"execution reverted","data":"0x08"}}"#,
        "1",
        RelayOutcome::Rpc(Category::Reverted),
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":3,"message":"execution reverted","data":"0x08"}}"#,
    );
    // id null, from a server that could not parse the request
    check(
        r#"{"id":null,"error":{"code":-32700,"message":"?"}}"#,
        "1",
        RelayOutcome::Rpc(Category::InvalidRequest),
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32700,"message":"?"}}"#,
    );
    // a code that vendors use for different things
    check(
        r#"{"id":42,"error":{ "data":{"code":1}, "code": -32016 ,"message":"over rate limit"}}"#,
        "1",
        RelayOutcome::Rpc(Category::RateLimited),
        r#"{"jsonrpc":"2.0","id":1,"error":{ "data":{"code":1}, "code": -32005 ,"message":"over rate limit","upstream_code":-32016}}"#,
    );
    // … replaces one that was there
    check(
        r#"{"id":42,"error":{"code":429,"message":"slow down","upstream_code" : -32016, "a":1}}"#,
        "1",
        RelayOutcome::Rpc(Category::RateLimited),
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"slow down","upstream_code" : 429, "a":1}}"#,
    );
    // a revert keeps its code and its data
    check(
        r#"{"id":42,"error":{"code":-32015,"message":"VM execution error.","data":"Reverted 0x08c379a0"}}"#,
        "1",
        RelayOutcome::Rpc(Category::Reverted),
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32015,"message":"VM execution error.","data":"Reverted 0x08c379a0"}}"#,
    );
}

#[test]
fn nonconforming_answers_are_corrected() {
    let check = |body: &str, outcome: RelayOutcome, text: &str| {
        assert!(judge(Protocol::Evm, body.as_bytes(), 200, 42).is_ok_and(|one| one.is_loose));
        assert_eq!(judged(body, 200, "1"), Ok((outcome, text.to_string())), "{body}");
    };
    let error = |outcome: Category, body: &str, error: &str| {
        let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{error}}}");
        check(body, RelayOutcome::Rpc(outcome), &text);
    };
    for body in [
        r#"{"id":"42","result":"0x1"}"#,
        r#"{"id":42.0,"result":"0x1","error":{}}"#,
        r#"[{"id":42,"result":"0x1"}]"#,
        "\u{feff}{\"id\":42,\"result\":\"0x1\"}",
    ] {
        check(body, RelayOutcome::Ok, r#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#);
    }
    error(
        Category::MissingData,
        r#"{"id":42,"error":"header not found"}"#,
        r#"{"code":-32001,"message":"header not found"}"#,
    );
    error(
        Category::RateLimited,
        r#"{"id":42,"error":{"code":"429","message":"slow down","data":[1]}}"#,
        r#"{"code":-32005,"message":"slow down","data":[1],"upstream_code":429}"#,
    );
    error(
        Category::Reverted,
        r#"{"id":42,"error":{"message":"execution reverted","data":"0x08c379a0"}}"#,
        r#"{"code":3,"message":"execution reverted","data":"0x08c379a0"}"#,
    );
    error(
        Category::Other,
        r#"{"id":42,"error":{"code":5.0,"message":{"a":"b"}}}"#,
        r#"{"code":5,"message":"{\"a\":\"b\"}"}"#,
    );
    error(Category::Other, r#"{"error":{}}"#, r#"{"code":-32000,"message":""}"#);
    // without a message
    error(
        Category::Other,
        r#"{"id":42,"error":{"code":-32016}}"#,
        r#"{"code":-32000,"message":"","upstream_code":-32016}"#,
    );
    error(
        Category::Other,
        r#"{"id":42,"error":{"code":7,"data":[1]}}"#,
        r#"{"code":7,"message":"","data":[1]}"#,
    );
    // a code that is not an integer
    for code in ["\"SERVER_ERROR\"", "1e3", "99999999999999999999", "true", "[1]"] {
        error(
            Category::RateLimited,
            &format!(r#"{{"id":42,"error":{{"code":{code},"message":"rate limit","data":1}}}}"#),
            &format!(r#"{{"code":-32005,"message":"rate limit","data":1,"upstream_code":{code}}}"#),
        );
    }
    error(
        Category::Other,
        r#"{"id":42,"error":{"code":"x","message":"m","upstream_code":5}}"#,
        r#"{"code":-32000,"message":"m","upstream_code":"x"}"#,
    );
    error(
        Category::Other,
        r#"{"id":42,"error":{"code":"7","message":"m","upstream_code":5}}"#,
        r#"{"code":7,"message":"m","upstream_code":5}"#,
    );
    // a long message that is not a string is kept beside its start
    let long = format!("[\"{}é\"]", "x".repeat(1_021));
    error(
        Category::Other,
        &format!(r#"{{"id":42,"error":{{"code":7,"message":{long}}}}}"#),
        &format!(r#"{{"code":7,"message":"[\"{}","upstream_message":{long}}}"#, "x".repeat(1_021)),
    );
}

#[test]
fn responses_that_do_not_answer_the_call_are_rejected() {
    let check = |body: &str, status: u16, kind: ErrorKind| {
        assert_eq!(judged(body, status, "1"), Err(kind), "{status} {body}");
    };
    check(r#"{"jsonrpc":"2.0","id":41,"result":1}"#, 200, ErrorKind::BadAnswer);
    check(r#"{"jsonrpc":"2.0","id":"41","result":1}"#, 200, ErrorKind::BadAnswer);
    check(r#"{"jsonrpc":"2.0","id":null,"result":1}"#, 200, ErrorKind::BadAnswer);
    check(r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":""}}"#, 200, ErrorKind::BadAnswer);
    check(r#"{"jsonrpc":"2.0","id":42}"#, 200, ErrorKind::BadAnswer);
    check(r#"[{"id":42,"result":1},{"id":42,"result":1}]"#, 200, ErrorKind::BadAnswer);
    check("", 200, ErrorKind::BadAnswer);
    check("<html>", 200, ErrorKind::BadAnswer);
    // it is unknown which of two codes was meant
    check(r#"{"id":42,"error":{"code":1,"message":"m","code":2}}"#, 200, ErrorKind::BadAnswer);
    check("<html>", 502, ErrorKind::BadStatus);
    check("", 404, ErrorKind::BadStatus);
    // the body decides, not the status
    assert!(judged(r#"{"id":42,"result":1}"#, 500, "1").is_ok());
}

proptest! {
    /// Any response is either rejected or written as valid JSON-RPC with the caller's id.
    #[test]
    fn any_response_is_judged(body in ".{0,120}", id in "[1-9][0-9]{0,8}|\"[a-z]{0,8}\"") {
        if let Ok((_, text)) = judged(&body, 200, &id) {
            let answer = answer::parse(text.as_bytes()).expect("an answer");
            prop_assert_eq!(answer.id, id.as_bytes());
        }
    }

    /// A result with a different id is never accepted.
    #[test]
    fn a_different_id_is_never_accepted(other in any::<u64>(), result in "[0-9]{1,9}") {
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":{other},\"result\":{result}}}");
        prop_assert_eq!(judged(&body, 200, "1").is_ok(), other == 42);
    }

    /// For any code, message and status of an upstream's error, its data and message reach the
    /// caller, its code is kept as `code` or `upstream_code`, and a revert stays a revert.
    #[test]
    fn any_error_is_preserved(
        code in any_code(),
        words in prop::collection::vec(any_words(), 0..4),
        data in prop::option::of(any_data()),
        status in prop::sample::select(vec![200u16, 400, 401, 403, 429, 500, 503]),
    ) {
        let message = words.join(" ");
        let mut error = serde_json::json!({ "code": code, "message": message });
        if let Some(data) = &data {
            error["data"] = data.clone();
        }
        let body = serde_json::json!({ "jsonrpc": "2.0", "id": 42, "error": error }).to_string();
        let (outcome, text) = judged(&body, status, "7").expect("an answer");
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let shown = &answer["error"];
        prop_assert_eq!(&answer["id"], 7);
        prop_assert_eq!(shown.get("data"), data.as_ref());
        prop_assert_eq!(&shown["message"], &message);
        let kept = shown.get("upstream_code").unwrap_or(&shown["code"]);
        prop_assert_eq!(kept.as_i64(), Some(code));
        let category = match outcome {
            RelayOutcome::Rpc(category) => category,
            other => panic!("{other:?}"),
        };
        if code == 3 || message.to_ascii_lowercase().starts_with("execution reverted") {
            prop_assert_eq!(category, Category::Reverted);
        } else if status == 429 && category != Category::Reverted {
            prop_assert_eq!(category, Category::RateLimited);
        }
        if category == Category::Reverted {
            prop_assert_eq!(shown["code"].as_i64(), Some(code), "clients may recognize reverts by their code");
        }
    }
}

fn any_code() -> impl Strategy<Value = i64> {
    prop_oneof![
        any::<i64>(),
        -32_768i64..-31_999,
        400i64..600,
        prop::sample::select(vec![0, 1, 3, 5, -1, -32_000, -32_015, -32_016, -32_601, -32_603]),
    ]
}

fn any_words() -> impl Strategy<Value = String> {
    let known = [
        "execution reverted",
        "Execution reverted:",
        "VM execution error.",
        "rate limit exceeded",
        "nonce too low",
        "already known",
        "missing trie node",
        "block range is too large",
        "unauthorized",
        "\"quoted\"",
        "\\u0072",
        "timeout",
    ];
    prop_oneof![prop::sample::select(known.to_vec()).prop_map(str::to_string), ".{0,20}"]
}

fn any_data() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        "0x[0-9a-f]{0,128}".prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        "[a-z]{1,9}".prop_map(|key| serde_json::json!({ key: [1, { "code": 2 }], "message": "m" })),
    ]
}
