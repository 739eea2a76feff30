//! Values that are written, read, damaged and mixed up.

use proptest::prelude::*;

use super::*;

fn name(params: &str) -> Name {
    let method = Method::find("eth_call").expect("a method");
    let mut buffer = Vec::new();
    let call = Canonical::write("eth@1", method, Some(params.as_bytes()), &mut buffer);
    Name::new("eth@1", method, &call.expect("a canonical form"))
}

fn entry(result: Vec<u8>) -> SharedEntry {
    SharedEntry {
        result: result.into(),
        class: Class::Young,
        head: Some(100),
        anchor: Some(Anchor { number: 100, hash: 7 }),
        remaining: Nanos::from_secs(1),
    }
}

const MAX: usize = 1 << 20;

fn decoded(params: &str, value: &[u8]) -> Option<SharedEntry> {
    decode(&name(params), value, Nanos::from_secs(1), MAX)
}

#[test]
fn names_show_service_and_method() {
    let Name { text, .. } = name("[]");
    assert!(text.starts_with("plimsoll:1:eth@1:eth_call:"), "{text}");
    assert_eq!(text.len(), "plimsoll:1:eth@1:eth_call:".len() + 32);
    assert_ne!(text, name("[1]").text);
}

#[test]
fn long_results_are_compressed_if_it_helps() {
    let text = b"0123456789abcdef".repeat(1 << 10);
    assert!(encode(&name("[]"), &entry(text.clone())).len() < text.len() / 10);
    let short = text[..COMPRESSED_MIN].to_vec();
    assert_eq!(encode(&name("[]"), &entry(short.clone())).len(), HEADER_LEN + short.len());
    let noise: Vec<u8> =
        (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for result in [text, short, noise, Vec::new()] {
        let entry = entry(result);
        let value = encode(&name("[]"), &entry);
        assert!(value.len() <= HEADER_LEN + entry.result.len());
        assert_eq!(decoded("[]", &value), Some(entry));
    }
}

#[test]
fn a_result_that_expands_beyond_its_length_is_not_used() {
    let mut value = encode(&name("[]"), &entry(vec![b'x'; 100_000]));
    assert_eq!(decode(&name("[]"), &value, Nanos::ZERO, 99_999), None);
    // It announces less than it expands to, with a valid checksum.
    value[52..56].copy_from_slice(&5_000_u32.to_be_bytes());
    let sum = checksum(&value);
    value[8..12].copy_from_slice(&sum);
    assert_eq!(decoded("[]", &value), None);
}

proptest! {
    #[test]
    fn values_are_read_back(
        result in proptest::collection::vec(any::<u8>(), 0..200),
        repeated in 1_usize..60,
        class in 0..Class::ALL.len(),
        head: Option<u64>,
        anchor: Option<(u64, u64)>,
    ) {
        let entry = SharedEntry {
            result: result.repeat(repeated).into(),
            class: Class::ALL[class],
            head,
            anchor: anchor.map(|(number, hash)| Anchor { number, hash }),
            remaining: Nanos::from_secs(1),
        };
        let value = encode(&name("[]"), &entry);
        prop_assert_eq!(result_len(&value), Some(entry.result.len()));
        prop_assert_eq!(decoded("[]", &value), Some(entry));
        prop_assert_eq!(decoded("[1]", &value), None, "another call's value");
    }

    #[test]
    fn damaged_values_are_not_used(
        length in 0_usize..9_000,
        at in any::<proptest::sample::Index>(),
        bit in 0_u8..8,
        cut in any::<proptest::sample::Index>(),
    ) {
        let value = encode(&name("[]"), &entry(vec![b'x'; length]));
        let mut flipped = value.clone();
        flipped[at.index(value.len())] ^= 1_u8 << bit;
        prop_assert_eq!(decoded("[]", &flipped), None);
        prop_assert_eq!(decoded("[]", &value[..cut.index(value.len())]), None);
        let longer = [&value[..], b"x"].concat();
        prop_assert_eq!(decoded("[]", &longer), None);
    }

    #[test]
    fn foreign_values_are_not_used(value in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(decoded("[]", &value), None);
    }
}
