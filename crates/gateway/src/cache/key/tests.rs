//! Spellings of calls: which share a key, and which do not.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn canonical(space: &str, method: &str, params: Option<&str>) -> Option<Vec<u8>> {
    let method = Method::find(method).expect("a method");
    let mut buffer = Vec::new();
    Canonical::write(space, method, params.map(str::as_bytes), &mut buffer)?;
    Some(buffer)
}

fn form(method: &str, params: &str) -> Vec<u8> {
    canonical("eth", method, Some(params)).expect("a canonical form")
}

#[test]
fn equivalent_spellings_share_a_key() {
    let check = |method: &str, spellings: &[&str]| {
        for spelling in spellings {
            assert_eq!(form(method, spellings[0]), form(method, spelling), "{method} {spelling}");
        }
    };
    check(
        "eth_getBalance",
        &[
            r#"["0xAbCd","0x1F"]"#,
            r#"["0xabcd","0x1f"]"#,
            " [ \"0xABCD\" ,\n\t\"0x1f\" ] ",
            r#"["\u0030xabcd","0x1\u0066"]"#,
        ],
    );
    check(
        "eth_call",
        &[
            r#"[{"to":"0xab","data":"0xCD"},"0x1"]"#,
            r#"[{"data":"0xcd","to":"0xAB"},"0x1"]"#,
            r#"[{"d\u0061ta":"0xcd","\u0074o":"0xAB"},"0x1"]"#,
        ],
    );
    // state overrides: addresses and slots are names
    check(
        "eth_call",
        &[
            r#"[{},"0x1",{"0xAb":{"stateDiff":{"0x0F":"0x01"}},"0xcd":{"balance":"0x1"}}]"#,
            r#"[{},"0x1",{"0xCD":{"balance":"0x1"},"0xaB":{"stateDiff":{"0x0f":"0x01"}}}]"#,
        ],
    );
    check(
        "eth_getStorageAt",
        &[
            r#"["0xab","0x0","0x1"]"#,
            r#"["0xab","0x00","0x1"]"#,
            r#"["0xab","0x0000000000000000000000000000000000000000000000000000000000000000","0x1"]"#,
        ],
    );
    check("eth_getStorageAt", &[r#"["0xab","0x0a","0x1"]"#, r#"["0xab","0xA","0x1"]"#]);
    let all: Vec<String> = (0..40).map(|n| format!("\"k{n:02}\":{n}")).collect();
    let mut other = all.clone();
    other.reverse();
    let object = |members: &[String]| format!("[{{{}}}]", members.join(","));
    check("eth_call", &[&object(&all), &object(&other)]);
    assert_eq!(
        canonical("eth", "eth_gasPrice", None),
        canonical("eth", "eth_gasPrice", Some("[]"))
    );
}

#[test]
fn whatever_may_differ_splits() {
    let check = |method: &str, spellings: &[&str]| {
        for (place, spelling) in spellings.iter().enumerate() {
            for other in &spellings[..place] {
                assert_ne!(form(method, spelling), form(method, other), "{spelling} {other}");
            }
        }
    };
    check(
        "eth_getBalance",
        &[
            r#"["0xab","0x1"]"#,
            r#"["0xab","0x01"]"#,
            r#"["0xab","0x10"]"#,
            r#"["0xab","0X1"]"#,
            r#"["0xab","1"]"#,
            r#"["0xab",1]"#,
            r#"["0xab",1.0]"#,
            r#"["0xab",1e0]"#,
            r#"["0xab","0x1",null]"#,
            r#"["0xab","0x1",[]]"#,
            r#"["0xab","0x1",{}]"#,
            r#"["0xab",["0x1"]]"#,
            r#"["0xab"]"#,
            r#"["0x0ab","0x1"]"#,
            r#"["ab","0x1"]"#,
            r#"["0xab0x1"]"#,
            r#"[]"#,
            r#"{}"#,
            r#"null"#,
            r#"["latest"]"#,
            r#"["Latest"]"#,
            r#"[true]"#,
            r#"["true"]"#,
            r#"["\ud800"]"#,
            r#"["\ud801"]"#,
            r#"["\ufffd"]"#,
        ],
    );
    check(
        "eth_call",
        &[
            r#"[{"a":"0x1","a":"0x2"}]"#,
            r#"[{"a":"0x2","a":"0x1"}]"#,
            r#"[{"a":"0x1"}]"#,
            r#"[{"a":"0x1","b":null}]"#,
            r#"[{"a":{"b":"0x1"},"c":{}}]"#,
            r#"[{"a":{},"c":{"b":"0x1"}}]"#,
        ],
    );
    check(
        "eth_getStorageAt",
        &[
            r#"["0xab","0x","0x1"]"#,
            r#"["0xab","0x0","0x1"]"#,
            r#"["0xab","0x0","0x01"]"#,
            r#"["0x0ab","0x0","0x1"]"#,
            r#"["0xab","","0x1"]"#,
            r#"["0xab","0x00000000000000000000000000000000000000000000000000000000000000000","0x1"]"#,
        ],
    );
    // geth returns the keys as they were written
    check("eth_getProof", &[r#"["0xab",["0x01"],"0x1"]"#, r#"["0xab",["0x1"],"0x1"]"#]);
    assert_ne!(form("eth_getBalance", r#"["0xab"]"#), form("eth_getCode", r#"["0xab"]"#));
    let spaces = ["eth", "eth@1", "ethe", "", "eths\0\0\0\u{1}"];
    for (place, space) in spaces.iter().enumerate() {
        for other in &spaces[..place] {
            let [one, two] = [space, other].map(|space| canonical(space, "eth_call", Some("[]")));
            assert_ne!(one, two, "{space} {other}");
        }
    }
}

#[test]
fn excessive_parameters_have_no_key() {
    let long = format!("[\"{}\"]", "a".repeat(PARAMS_MAX));
    assert_eq!(canonical("eth", "eth_call", Some(&long)), None);
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(canonical("eth", "eth_call", Some(&deep(DEPTH_MAX as usize + 1))).is_some());
    assert_eq!(canonical("eth", "eth_call", Some(&deep(DEPTH_MAX as usize + 2))), None);
    assert_eq!(canonical("eth", "eth_call", Some(&deep(10_000))), None);
}

#[test]
fn keys_depend_on_the_process_and_digests_do_not() {
    let mut buffer = Vec::new();
    let method = Method::find("eth_chainId").expect("a method");
    let call = Canonical::write("eth", method, None, &mut buffer).expect("a canonical form");
    let [one, other] = std::array::from_fn(|_| Keys::default());
    assert_eq!(one.key(&call), one.clone().key(&call));
    assert_ne!(one.key(&call), other.key(&call));
    let Key(key) = one.key(&call);
    assert_ne!(key as u64, (key >> 64) as u64);
    // A change of the canonical form needs a new version of the names in Redis.
    let hex: String = call.digest()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "fce9ca785d246d3e");
}

/// Parameters, apart from their spelling.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Raw(&'static str),
    Hex(String),
    Text(String),
    Array(Vec<Value>),
    Object(BTreeMap<String, Value>),
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        proptest::sample::select(vec!["null", "true", "false", "0", "17", "1e3"])
            .prop_map(Value::Raw),
        "[0-9a-f]{0,70}".prop_map(Value::Hex),
        "[a-zA-Z \"\\\\/é]{0,8}".prop_map(Value::Text),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            proptest::collection::btree_map("(0x[0-9a-f]{1,4}|[a-zA-Z]{1,5})", inner, 0..20)
                .prop_map(Value::Object),
        ]
    })
}

/// Spells values, with random choices.
struct Speller<'a>(&'a mut dyn Iterator<Item = u8>);

impl Speller<'_> {
    fn choose(&mut self, of: u8) -> u8 {
        self.0.next().unwrap_or_default() % of
    }

    fn space(&mut self) -> &'static str {
        ["", "", " ", "\n\t"][usize::from(self.choose(4))]
    }

    fn case(&mut self, digits: &str) -> String {
        let digit = |c: char| if self.choose(2) == 0 { c.to_ascii_uppercase() } else { c };
        digits.chars().map(digit).collect()
    }

    fn string(&mut self, text: &str) -> String {
        let text = match text.strip_prefix("0x") {
            Some(digits) => format!("0x{}", self.case(digits)),
            None => text.into(),
        };
        let mut out = String::from("\"");
        for c in text.chars() {
            match c {
                _ if self.choose(8) == 0 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                '"' | '\\' => out.extend(['\\', c]),
                c => out.push(c),
            }
        }
        out + "\""
    }

    fn spell(&mut self, value: &Value) -> String {
        let text = match value {
            Value::Raw(raw) => (*raw).into(),
            Value::Hex(digits) => self.string(&format!("0x{digits}")),
            Value::Text(text) => self.string(text),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(|item| self.spell(item)).collect();
                format!("[{}]", items.join(","))
            }
            Value::Object(members) => {
                let mut spelled: Vec<String> = members
                    .iter()
                    .map(|(name, value)| {
                        format!("{}{}:{}", self.string(name), self.space(), self.spell(value))
                    })
                    .collect();
                for place in (1..spelled.len()).rev() {
                    let other = usize::from(self.choose(255)) % (place + 1);
                    spelled.swap(place, other);
                }
                format!("{{{}{}}}", self.space(), spelled.join(","))
            }
        };
        format!("{}{text}{}", self.space(), self.space())
    }
}

/// Replaces one leaf by something else.
fn change(value: &mut Value, at: Index) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let place = at.index(items.len());
            change(&mut items[place], at);
        }
        Value::Object(members) if !members.is_empty() => {
            let place = at.index(members.len());
            change(members.values_mut().nth(place).expect("a member"), at);
        }
        Value::Hex(digits) => digits.insert(0, '0'),
        Value::Text(text) => text.push('x'),
        Value::Raw("null") => *value = Value::Object(BTreeMap::new()),
        other => *other = Value::Raw("null"),
    }
}

proptest! {
    /// All spellings of a value have one key; another value has another key.
    #[test]
    fn keys_follow_the_meaning(
        items in proptest::collection::vec(value(), 1..4),
        choices in proptest::collection::vec(any::<u8>(), 64),
        at: Index,
    ) {
        let params = Value::Array(items);
        let plain = Speller(&mut std::iter::repeat(1)).spell(&params);
        let mut random = choices.into_iter().cycle();
        let spelled = Speller(&mut random).spell(&params);
        prop_assert!(json::validate(spelled.as_bytes()).is_ok(), "{spelled}");
        prop_assert_eq!(form("eth_call", &plain), form("eth_call", &spelled), "{}", spelled);
        let mut changed = params.clone();
        change(&mut changed, at);
        let changed = Speller(&mut random).spell(&changed);
        prop_assert_ne!(form("eth_call", &plain), form("eth_call", &changed), "{}", changed);
    }

    /// Any two values that differ have different canonical forms.
    #[test]
    fn values_that_differ_split(one in value(), other in value()) {
        let mut plain = std::iter::repeat(1);
        let [first, second] = [&one, &other].map(|value| Speller(&mut plain).spell(value));
        prop_assert_eq!(one == other, form("eth_call", &first) == form("eth_call", &second));
    }
}
