//! A signed transaction: its hash, its sender and its nonce.
//!
//! The hash is that of all bytes, for every type, also those that are not known here; except for blob
//! transactions, which are sent with their blobs: it is that of the transaction within. Senders are
//! recovered for the types 0 to 4 (EIP-155, 2930, 1559, 4844, 7702), whose signature is the last three
//! items. Nothing is validated beyond what that needs: the node decides.

use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use plimsoll_rpc::json;
use sha3::{Digest, Keccak256};

use super::{Address, Hash};

/// A transaction with blobs.
const BLOB: u8 = 3;

/// A signed transaction as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// Without blobs.
    bytes: Vec<u8>,
}

impl Raw {
    /// The transaction in the parameters of `eth_sendRawTransaction`; `None` if there is none, or a
    /// blob transaction is malformed.
    pub fn of(params: &[u8]) -> Option<Raw> {
        let first = json::items(params).next()?.ok()?;
        let bytes = super::bytes(first).filter(|bytes| !bytes.is_empty())?;
        Raw::without_blobs(bytes)
    }

    /// Blob transactions are sent as a list of the transaction, the blobs, and proofs; one without
    /// blobs is a transaction already, whose first item is not a list.
    fn without_blobs(bytes: Vec<u8>) -> Option<Raw> {
        let [BLOB, rest @ ..] = &bytes[..] else { return Some(Raw { bytes }) };
        let first = Items::of(rest)?.next()?;
        if !first.is_list {
            return Some(Raw { bytes });
        }
        Some(Raw { bytes: [&[BLOB], first.encoded].concat() })
    }

    /// The hash, by which nodes know the transaction.
    pub fn hash(&self) -> Hash {
        keccak(&self.bytes)
    }

    /// The sender and the nonce; `None` if the type is not known, or the transaction is malformed.
    pub fn sender(&self) -> Option<(Address, u64)> {
        let (kind, list) = match &self.bytes[..] {
            [0xc0..=0xff, ..] => (None, &self.bytes[..]),
            [kind @ 1..=4, list @ ..] => (Some(*kind), list),
            _ => return None,
        };
        let items: Vec<Item<'_>> = Items::of(list)?.collect();
        let (unsigned, [v, r, s]) = items.split_last_chunk()?;
        let nonce = unsigned.get(usize::from(kind.is_some()))?.number()?;
        let mut body: Vec<u8> =
            unsigned.iter().flat_map(|item| item.encoded.iter().copied()).collect();
        let is_odd = match (kind, v.number()?) {
            (Some(_), parity @ 0..=1) => parity == 1,
            (None, v @ 27..=28) => v == 28,
            (None, v @ 35..) => {
                // EIP-155: the chain id and two zeros are signed, too.
                write_number(&mut body, (v - 35) / 2);
                body.extend([0x80, 0x80]);
                (v - 35) % 2 == 1
            }
            _ => return None,
        };
        let mut signed: Vec<u8> = kind.into_iter().collect();
        write_list(&mut signed, &body);
        let signature = Signature::from_scalars(r.word()?, s.word()?).ok()?;
        let recovery = RecoveryId::new(is_odd, false);
        let key =
            VerifyingKey::recover_from_prehash(&keccak(&signed), &signature, recovery).ok()?;
        let point = key.to_sec1_point(false);
        let hash = keccak(&point.as_bytes()[1..]);
        Some((*hash.last_chunk()?, nonce))
    }
}

fn keccak(bytes: &[u8]) -> Hash {
    Keccak256::digest(bytes).into()
}

/// The items of an RLP list. It ends early if the encoding is malformed.
struct Items<'a> {
    rest: &'a [u8],
}

/// An item of an RLP list.
#[derive(Clone, Copy, Debug)]
struct Item<'a> {
    is_list: bool,
    content: &'a [u8],
    /// With its head.
    encoded: &'a [u8],
}

impl<'a> Items<'a> {
    /// The items of the list in `bytes`, which must contain nothing else.
    fn of(bytes: &'a [u8]) -> Option<Items<'a>> {
        let mut outer = Items { rest: bytes };
        let list = outer.next()?;
        (list.is_list && outer.rest.is_empty()).then_some(Items { rest: list.content })
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let &head = self.rest.first()?;
        let is_list = head >= 0xc0;
        let short = head.checked_sub(if is_list { 0xc0 } else { 0x80 });
        let (head_len, len) = match short {
            None => (0, 1),
            Some(len @ ..=55) => (1, usize::from(len)),
            Some(long) => {
                let digits = self.rest.get(1..1 + usize::from(long - 55))?;
                // Longer lengths than of four bytes do not fit into a request.
                let len = (digits.len() <= 4)
                    .then(|| digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)));
                (1 + digits.len(), len?)
            }
        };
        let (encoded, rest) = self.rest.split_at_checked(head_len.checked_add(len)?)?;
        self.rest = rest;
        Some(Item { is_list, content: &encoded[head_len..], encoded })
    }
}

impl Item<'_> {
    fn number(&self) -> Option<u64> {
        self.padded().map(u64::from_be_bytes)
    }

    fn word(&self) -> Option<[u8; 32]> {
        self.padded()
    }

    /// The content as a number of `N` bytes.
    fn padded<const N: usize>(&self) -> Option<[u8; N]> {
        let mut padded = [0; N];
        let from = N.checked_sub(self.content.len())?;
        padded[from..].copy_from_slice(self.content);
        (!self.is_list).then_some(padded)
    }
}

/// Writes a number as RLP.
fn write_number(out: &mut Vec<u8>, number: u64) {
    let bytes = number.to_be_bytes();
    let bytes = &bytes[(number.leading_zeros() / 8) as usize..];
    if !matches!(bytes, [0..0x80]) {
        out.push(0x80 + bytes.len() as u8);
    }
    out.extend_from_slice(bytes);
}

/// Writes a list with this body as RLP.
fn write_list(out: &mut Vec<u8>, body: &[u8]) {
    if body.len() < 56 {
        out.push(0xc0 + body.len() as u8);
    } else {
        let len = body.len().to_be_bytes();
        let len = &len[(body.len().leading_zeros() / 8) as usize..];
        out.push(0xf7 + len.len() as u8);
        out.extend_from_slice(len);
    }
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use k256::ecdsa::SigningKey;
    use plimsoll_sim::Wallet;
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("0x{digits}")
    }

    fn raw(hex: &str) -> Raw {
        Raw::of(format!("[ \"{hex}\" ]").as_bytes()).expect("a transaction")
    }

    #[test]
    fn known_transactions_are_read() {
        let check = |text: &str, hash: &str, from: &str, nonce: u64| {
            let transaction = raw(text);
            assert_eq!(hex(&transaction.hash()), hash);
            let (sender, read) = transaction.sender().expect("a sender");
            assert_eq!((hex(&sender), read), (from.into(), nonce));
        };
        // The example of EIP-155.
        check(
            "0xf86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008\
             025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761a\
             ecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83",
            "0x33469b22e9f636356c4160a87eb19df52b7412e8eac32a4a55ffe88ea8350788",
            "0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f",
            9,
        );
    }

    /// A transaction of this type, signed with a key, with as many items as the type has; and its
    /// sender.
    fn signed(kind: u8, nonce: u64, data: &[u8], is_protected: bool) -> (Vec<u8>, Address) {
        let key = SigningKey::from_slice(&keccak(b"a key")).expect("a key");
        let point = key.verifying_key().to_sec1_point(false);
        let sender = *keccak(&point.as_bytes()[1..]).last_chunk().expect("20 bytes");
        let mut body = Vec::new();
        if kind > 0 {
            write_number(&mut body, 1);
        }
        write_number(&mut body, nonce);
        let lists = [0, 1, 1, 2, 2][usize::from(kind)];
        let numbers = [4, 4, 5, 6, 5][usize::from(kind)];
        (0..numbers).for_each(|n| write_number(&mut body, 200 * n));
        // Strings and lists have the same lengths in their heads.
        let mut text = Vec::new();
        write_list(&mut text, data);
        text[0] -= 0x40;
        body.extend(text);
        (0..lists).for_each(|_| write_list(&mut body, &[0x80; 60]));
        let mut unsigned = body.clone();
        if kind == 0 && is_protected {
            write_number(&mut unsigned, 1);
            unsigned.extend([0x80, 0x80]);
        }
        let kinds: &[u8] = if kind == 0 { &[] } else { &[kind] };
        let mut digest = kinds.to_vec();
        write_list(&mut digest, &unsigned);
        let (signature, recovery) = key.sign_prehash_recoverable(&keccak(&digest));
        let v = match (kind, is_protected) {
            (0, true) => 37,
            (0, false) => 27,
            _ => 0,
        };
        write_number(&mut body, v + u64::from(recovery.is_y_odd()));
        let (r, s) = signature.split_bytes();
        for part in [r, s] {
            let zeros = part.iter().take_while(|byte| **byte == 0).count();
            body.push(0x80 + 32 - zeros as u8);
            body.extend_from_slice(&part[zeros..]);
        }
        let mut transaction = kinds.to_vec();
        write_list(&mut transaction, &body);
        (transaction, sender)
    }

    #[test]
    fn blobs_are_not_part_of_the_hash() {
        let (transaction, sender) = signed(BLOB, 7, b"data", true);
        let mut lists = transaction[1..].to_vec();
        (0..3).for_each(|_| write_list(&mut lists, &[0x80; 300]));
        let mut with_blobs = vec![BLOB];
        write_list(&mut with_blobs, &lists);
        for text in [hex(&transaction), hex(&with_blobs)] {
            let read = raw(&text);
            assert_eq!(read.hash(), keccak(&transaction));
            assert_eq!(read.sender(), Some((sender, 7)));
        }
        assert_eq!(Raw::of(format!("[\"{}\"]", hex(&with_blobs[..50])).as_bytes()), None);
    }

    #[test]
    fn what_is_not_a_transaction_has_no_sender() {
        for params in
            ["[]", "[1]", "[\"\"]", "[\"0x\"]", "[\"0x0\"]", "[\"0xgg\"]", "[\"02\"]", "{}"]
        {
            assert_eq!(Raw::of(params.as_bytes()), None, "{params}");
        }
        let (transaction, _) = signed(2, 7, b"data", true);
        let unknown = [&[0x7f], &transaction[1..]].concat();
        assert_eq!(raw(&hex(&unknown)).hash(), keccak(&unknown), "a type of another chain");
        for bytes in [&unknown[..], &[0x05, 0xc0], &[0xc0], &[0x02], &[0x02, 0xc0], &[0xff; 9]] {
            assert_eq!(raw(&hex(bytes)).sender(), None, "{bytes:?}");
        }
    }

    #[test]
    fn the_senders_of_the_simulated_chain_are_found() {
        for number in 0..4 {
            let wallet = Wallet::numbered(number);
            let text = wallet.transfer(1, 300 + number, [0x35; 20], 1_000_000);
            let (sender, nonce) = raw(&text).sender().expect("a sender");
            assert_eq!((hex(&sender), nonce), (wallet.address(), 300 + number));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Every type, nonce and length of data.
        #[test]
        fn senders_are_recovered(
            kind in 0u8..=4,
            nonce in any::<u64>(),
            data in proptest::collection::vec(any::<u8>(), 2..700),
            is_protected in any::<bool>(),
        ) {
            let (transaction, sender) = signed(kind, nonce, &data, is_protected);
            let read = raw(&hex(&transaction));
            prop_assert_eq!(read.hash(), keccak(&transaction));
            prop_assert_eq!(read.sender(), Some((sender, nonce)));
        }

        /// No bytes make it panic.
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            for first in [bytes[0], 1, 3, 0xf8] {
                let bytes = [&[first], &bytes[1..]].concat();
                if let Some(raw) = Raw::of(format!("[\"{}\"]", hex(&bytes)).as_bytes()) {
                    raw.sender();
                }
            }
        }
    }
}
