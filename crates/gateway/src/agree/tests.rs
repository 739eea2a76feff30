//! Pairs of answers that are the same or not, and properties of random ones.

use super::*;
use proptest::prelude::*;

fn is_same(left: &str, right: &str) -> bool {
    let results = [left, right].map(|text| Answer::Result(text.as_bytes()));
    Agreement::of(&results, false).agreeing.len() == 2
}

#[test]
fn answers_are_compared_by_meaning() {
    let same = |left: &str, right: &str| {
        assert!(is_same(left, right) && is_same(right, left), "{left} {right}");
    };
    let differ = |left: &str, right: &str| {
        assert!(!is_same(left, right) && !is_same(right, left), "{left} {right}");
    };
    same("null", "null");
    same("\"0xabCD\"", " \"0xABcd\" ");
    same(r#""\u0061""#, r#""a""#);
    same(r#"{"a":[1,{"b":"0xA"}],"c":true}"#, "{ \"c\": true,\n\"a\" : [1, {\"b\":\"0xa\"}] }");
    same(r#"{"a":1,"b":null}"#, r#"{"a":1}"#);
    same(r#"{"hash":"0x1","totalDifficulty":"0x0"}"#, r#"{"hash":"0x1"}"#);
    same("{}", r#"{"a":null}"#);
    same(r#"{"gasUsedRatio":[0.5]}"#, r#"{"gasUsedRatio":[5e-1]}"#);
    same("0.33333333333333331", "0.3333333333333333");
    same(r#"{"\u0061":1}"#, r#"{"a":1}"#);
    same("[[],[[]]]", "[ [ ] , [ [ ] ] ]");
    // the lengths of lists and of data, and what looks alike
    differ("[]", "[null]");
    differ("[[]]", "[[[]]]");
    differ("[[],1]", "[[1]]");
    differ("{}", "[]");
    differ("\"0x1\"", "\"0x01\"");
    differ("\"abc\"", "\"ABC\"");
    differ("\"1\"", "1");
    differ("\"null\"", "null");
    differ("9007199254740993", "9007199254740992");
    differ("0.5", "0.50001");
    differ("true", "false");
    differ(r#"{"a":1}"#, r#"{"b":1}"#);
    differ(r#"{"a":1}"#, r#"{"a":1,"b":2}"#);
    differ(r#"{"a":1,"a":2}"#, r#"{"a":1}"#);
    differ(r#"{"a":{"b":1}}"#, r#"{"a":{"b":2}}"#);
    differ(r#"{"a":"}"}"#, r#"{"a":"{"}"#);
    differ(r#"["\\","\""]"#, r#"["\\","\\"]"#);
    // optional members differ if both have them
    differ(r#"{"chainId":"0x1"}"#, r#"{"chainId":"0x2"}"#);
}

#[test]
fn standard_results_are_compared_by_standard_members() {
    assert!(STANDARD.is_sorted());
    let check = |left: &str, right: &str, expected: bool| {
        let results = [left, right].map(|text| Answer::Result(text.as_bytes()));
        let is_same = Agreement::of(&results, true).agreeing.len() == 2;
        assert_eq!(is_same, expected, "{left} {right}");
    };
    // a vendor's members, alone or with another value, at any depth
    check(r#"{"hash":"0xAb","extra":"a"}"#, r#"{"hash":"0xaB","extra":"b"}"#, true);
    check(r#"{"hash":"0x1","l1Fee":"0x2"}"#, r#"{"hash":"0x1"}"#, true);
    check(r#"[{"logs":[{"data":"0x","x":1}]}]"#, r#"[{"logs":[{"data":"0x"}]}]"#, true);
    // standard ones, with another value or missing
    check(r#"{"hash":"0x1","extra":"a"}"#, r#"{"hash":"0x2","extra":"a"}"#, false);
    check(r#"{"hash":"0x1","gas":"0x1"}"#, r#"{"hash":"0x1"}"#, false);
    check(r#"{"hash":"0x1","yParity":"0x1"}"#, r#"{"hash":"0x1"}"#, true);
    check(r#"{"yParity":"0x1"}"#, r#"{"yParity":"0x0"}"#, false);
    check(r#"[{"logs":[]}]"#, r#"[{"logs":[{}]}]"#, false);
    // what is no object
    check("\"0x1\"", "\"0x2\"", false);
    check("null", "{}", false);
    assert!(is_standard("eth_getLogs") && !is_standard("trace_block") && !is_standard("eth_call"));
}

#[test]
fn errors_are_compared_by_category() {
    let error = |code, category, data: Option<&'static str>| Answer::Error {
        code,
        category,
        data: data.map(str::as_bytes),
    };
    let check = |left: Answer<'_>, right: Answer<'_>, same: bool| {
        let agreeing = Agreement::of(&[left, right], false).agreeing.len();
        assert_eq!(agreeing == 2, same, "{left:?} {right:?}");
    };
    use Category::*;
    check(error(3, Reverted, Some("\"0xAB\"")), error(-32000, Reverted, Some("\"0xab\"")), true);
    check(error(3, Reverted, Some("\"0xab\"")), error(3, Reverted, Some("\"0xac\"")), false);
    check(error(3, Reverted, Some("\"0xab\"")), error(-32015, Reverted, None), true);
    check(error(3, Reverted, Some("\"0xab\"")), error(3, Reverted, Some("\"Reverted\"")), true);
    check(error(-32000, Funds, Some("1")), error(-32003, Funds, Some("2")), true);
    check(error(-32000, Funds, None), error(-32000, Nonce, None), false);
    check(error(-32000, Other, None), error(-32000, Other, None), true);
    check(error(-32000, Other, None), error(-32001, Other, None), false);
    check(error(-32000, Other, None), Answer::Result(b"null"), false);
}

#[test]
fn the_largest_group_wins_and_dissenters_are_named() {
    let check = |answers: &[&str], agreeing: &[usize], dissenting: &[usize]| {
        let answers: Vec<Answer<'_>> =
            answers.iter().map(|text| Answer::Result(text.as_bytes())).collect();
        let found = Agreement::of(&answers, false);
        assert_eq!(found, Agreement { agreeing: agreeing.into(), dissenting: dissenting.into() });
        found
    };
    let none = check(&[], &[], &[]);
    assert!(none.answer(1).is_none() && none.is_possible(2, 2) && !none.is_possible(2, 1));
    let one = check(&["1"], &[0], &[]);
    assert_eq!((one.answer(1), one.answer(2)), (Some(0), None));
    assert!(one.is_possible(2, 1) && !one.is_possible(2, 0));
    check(&["1", "2"], &[0], &[1]);
    check(&["1", "2", "2"], &[1, 2], &[0]);
    check(&["1", "2", "1", "2"], &[0, 2], &[1, 3]);
    // Two that differ do not agree because of a third that says less.
    let answers = ["{}", r#"{"chainId":1}"#, r#"{"chainId":2}"#, r#"{"chainId":1}"#];
    check(&answers, &[0, 1, 3], &[2]);
    assert_eq!(check(&["2", "1", "3", "1"], &[1, 3], &[0, 2]).answer(2), Some(1));
}

#[test]
fn deep_answers_need_no_stack() {
    let deep = |leaf: &str| format!("{}{leaf}{}", "[".repeat(9_000), "]".repeat(9_000));
    assert!(is_same(&deep("1"), &deep(" 1 ")));
    assert!(!is_same(&deep("1"), &deep("2")));
}

/// A random value in two spellings.
fn value() -> impl Strategy<Value = (String, String)> {
    let both = |text: &str| (text.to_string(), text.to_string());
    let leaf = prop_oneof![
        Just(("\"0xab\"".to_string(), "\"0xAB\"".to_string())),
        Just((r#""é\n""#.to_string(), r#""\u00e9\u000a""#.to_string())),
        (0u32..3).prop_map(move |n| both(&n.to_string())),
        Just(both("null")),
        Just(both("true")),
        Just(both("\"]},\"")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| {
                let (left, right): (Vec<_>, Vec<_>) = items.into_iter().unzip();
                (format!("[{}]", left.join(",")), format!("[ {} ]", right.join(" ,\t")))
            }),
            proptest::collection::btree_map("[a-c]", inner, 0..4).prop_map(|members| {
                let spell = |name: &str, value: &str| format!("\"{name}\":{value}");
                let left: Vec<String> =
                    members.iter().map(|(name, (left, _))| spell(name, left)).collect();
                let right: Vec<String> =
                    members.iter().rev().map(|(name, (_, right))| spell(name, right)).collect();
                (format!("{{{}}}", left.join(",")), format!("{{ {} }}", right.join(" , ")))
            }),
        ]
    })
}

proptest! {
    /// Two spellings of a value are the same.
    #[test]
    fn spellings_do_not_matter((left, right) in value()) {
        prop_assert!(is_same(&left, &right), "{} {}", left, right);
    }

    /// Sameness is what serde_json says of two values without nulls in objects.
    #[test]
    fn values_that_differ_are_told_apart((left, _) in value(), (right, _) in value()) {
        fn plain(value: serde_json::Value) -> serde_json::Value {
            use serde_json::Value;
            match value {
                Value::Array(items) => items.into_iter().map(plain).collect(),
                Value::Object(members) => {
                    let members = members.into_iter().filter(|(_, value)| !value.is_null());
                    members.map(|(name, value)| (name, plain(value))).collect()
                }
                other => other,
            }
        }
        let [a, b] = [&left, &right].map(|text| plain(serde_json::from_str(text).expect("JSON")));
        prop_assert_eq!(is_same(&left, &right), a == b, "{} {}", left, right);
    }

    /// No bytes make it panic or hang.
    #[test]
    fn any_bytes_are_compared(text in "[\\[\\]{}\",:\\\\a0 ]{0,40}") {
        is_same(&text, &text);
    }
}
