//! Properties that hold for all input: agreement with an independent parser, and no panics.

use plimsoll_rpc::{answer, json, judge, loose, request};
use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

/// Any JSON value, nested a few levels, with strings of any characters.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The text of a value, pretty-printed or not, with some bytes replaced or cut off.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\u0e-.tn \x1f".to_vec())];
    let edits = prop::collection::vec((any::<prop::sample::Index>(), byte), 0..4);
    (any_value(), any::<bool>(), edits, any::<prop::sample::Index>(), 0..4u8).prop_map(
        |(value, pretty, edits, cut, shorten)| {
            let mut text = if pretty {
                serde_json::to_vec_pretty(&value).expect("a value")
            } else {
                serde_json::to_vec(&value).expect("a value")
            };
            for (at, byte) in edits {
                let at = at.index(text.len());
                text[at] = byte;
            }
            if shorten == 0 {
                text.truncate(cut.index(text.len()));
            }
            text
        },
    )
}

/// Calls every parser of untrusted input.
fn read_all(text: &[u8]) {
    let valid = json::validate(text).is_ok();
    match json::kind(text) {
        Some(json::Kind::Object) => assert_eq!(valid, json::members(text).all(|m| m.is_ok())),
        Some(json::Kind::Array) => assert_eq!(valid, json::items(text).all(|i| i.is_ok())),
        _ => {}
    }
    let _ = json::text(text);
    let _ = answer::parse(text);
    let _ = loose::parse(text, 1);
    if let Ok(request::Body::Batch(batch)) = request::parse(text, 100) {
        assert_eq!(batch.calls().count(), batch.len());
    }
    let call = br#"[{"jsonrpc":"2.0","method":"m","id":1}]"#;
    let _ = judge::judge(call, text, |_| {});
    let _ = judge::judge(&call[1..call.len() - 1], text, |_| {});
    let _ = judge::judge(text, text, |_| {});
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn validation_agrees_with_serde_json(text in damaged()) {
        let theirs = serde_json::from_slice::<&RawValue>(&text);
        prop_assert_eq!(json::validate(&text).is_ok(), theirs.is_ok(), "{:?}", theirs);
        read_all(&text);
    }

    #[test]
    fn spans_parse_to_the_values(value in any_value(), pretty: bool) {
        let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
        let text = text.expect("a value");
        let parse = |raw: &[u8]| serde_json::from_slice::<Value>(raw).expect("a span is a value");
        prop_assert_eq!(parse(json::validate(&text).expect("valid")), parse(&text));
        match &value {
            Value::Array(items) => {
                let spans: Vec<_> = json::items(&text).map(|item| parse(item.expect("valid"))).collect();
                prop_assert_eq!(spans.len(), items.len());
                prop_assert_eq!(Value::from(spans), parse(&text));
            }
            Value::Object(_) => {
                let spans = json::members(&text).map(|member| {
                    let member = member.expect("valid");
                    (json::text(member.name).expect("a name").into_owned(), parse(member.value))
                });
                prop_assert_eq!(Value::Object(spans.collect()), parse(&text));
            }
            Value::String(plain) => prop_assert!(json::text(&text).is_some_and(|text| text == *plain)),
            _ => {}
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all(&text);
    }

    #[test]
    fn a_batch_may_be_answered_in_any_order(
        ids in prop::collection::vec(any::<i16>(), 1..40),
        order in any::<prop::sample::Index>(),
        leave_out in any::<prop::sample::Index>(),
    ) {
        let calls: Vec<_> = ids.iter().map(|id| format!(r#"{{"jsonrpc":"2.0","method":"m","id":{id}}}"#)).collect();
        let mut answers: Vec<_> = ids.iter().map(|id| format!(r#"{{"jsonrpc":"2.0","result":{id},"id":{id}}}"#)).collect();
        answers.rotate_left(order.index(ids.len()));
        let request = format!("[{}]", calls.join(","));
        let expected = judge::Expected::of(request.as_bytes()).expect("a batch");
        let all = expected.judge(format!("[{}]", answers.join(",")).as_bytes(), |_| {});
        prop_assert_eq!((all.items as usize, all.mismatch), (ids.len(), None));
        answers.remove(leave_out.index(ids.len()));
        let fewer = expected.judge(format!("[{}]", answers.join(",")).as_bytes(), |_| {});
        prop_assert_eq!(fewer.mismatch, Some(judge::Mismatch::MissingItem));
    }
}
