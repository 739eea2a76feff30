//! Decodes signed transactions (RLP, types 0 to 2) and recovers their senders.

use k256::ecdsa::{RecoveryId, Signature as Ecdsa, VerifyingKey};

use super::failure::Failure;
use crate::chain::keccak::{Hash, keccak};
use crate::chain::transaction::{AccessList, Address, Fees, Outcome, Signature, Transaction};

/// Maximum length of a transaction, as in geth's pool.
const LEN_MAX: usize = 128 << 10;
/// Half of the curve's order: a signature with a larger `s` is invalid (EIP-2).
const HALF_ORDER: Hash = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

/// Decodes a signed transaction. Its outcome is [`NOT_EXECUTED`].
///
/// # Errors
/// With geth's messages: malformed RLP, an unknown type, an invalid signature.
pub(crate) fn decode(raw: &[u8]) -> Result<Transaction, Failure> {
    if raw.len() > LEN_MAX {
        return Err(Failure::server(format!(
            "oversized data: transaction size {}, limit {LEN_MAX}",
            raw.len()
        )));
    }
    match raw.first() {
        None => Err(Failure::server("typed transaction too short")),
        Some(0xc0..) => legacy(raw),
        Some(kind @ (1 | 2)) => typed(*kind, raw),
        Some(_) => Err(Failure::server("transaction type not supported")),
    }
}

fn legacy(raw: &[u8]) -> Result<Transaction, Failure> {
    let mut fields = Fields::of(raw)?;
    let body = fields.rest;
    let nonce = fields.number("Nonce")?;
    let price = fields.amount("GasPrice")?;
    let gas = fields.number("Gas")?;
    let to = fields.receiver()?;
    let value = fields.amount("Value")?;
    let input = fields.string("Data")?.to_vec();
    let unsigned = &body[..body.len() - fields.rest.len()];
    let v = fields.number("V")?;
    let signature = Signature { v, r: fields.word("R")?, s: fields.word("S")? };
    fields.end()?;
    let (chain_id, parity) = match v {
        27 | 28 => (None, v - 27),
        35.. => (Some((v - 35) / 2), (v - 35) % 2),
        _ => return Err(Failure::server("invalid sender")),
    };
    let mut signed = unsigned.to_vec();
    if let Some(chain_id) = chain_id {
        write_number(&mut signed, chain_id);
        signed.extend([0x80, 0x80]);
    }
    let from = signer(&keccak(&list(&signed)), &signature, parity)?;
    let fees = Fees::Legacy { price };
    let hash = keccak(raw);
    Ok(Transaction {
        hash,
        from,
        to,
        nonce,
        value,
        input,
        gas,
        fees,
        chain_id,
        signature,
        outcome: NOT_EXECUTED,
    })
}

fn typed(kind: u8, raw: &[u8]) -> Result<Transaction, Failure> {
    let mut fields = Fields::of(&raw[1..])?;
    let body = fields.rest;
    let chain_id = Some(fields.number("ChainID")?);
    let nonce = fields.number("Nonce")?;
    let (tip, max) = match kind {
        1 => (0, fields.amount("GasPrice")?),
        _ => (fields.amount("GasTipCap")?, fields.amount("GasFeeCap")?),
    };
    let gas = fields.number("Gas")?;
    let to = fields.receiver()?;
    let value = fields.amount("Value")?;
    let input = fields.string("Data")?.to_vec();
    let access = fields.access_list()?;
    let unsigned = &body[..body.len() - fields.rest.len()];
    let v = fields.number("V")?;
    let signature = Signature { v, r: fields.word("R")?, s: fields.word("S")? };
    fields.end()?;
    let mut signed = vec![kind];
    signed.extend(list(unsigned));
    let from = signer(&keccak(&signed), &signature, v)?;
    let fees = match kind {
        1 => Fees::AccessList { price: max, list: access },
        _ => Fees::Dynamic { max, tip, list: access },
    };
    let hash = keccak(raw);
    Ok(Transaction {
        hash,
        from,
        to,
        nonce,
        value,
        input,
        gas,
        fees,
        chain_id,
        signature,
        outcome: NOT_EXECUTED,
    })
}

const NOT_EXECUTED: Outcome =
    Outcome { succeeded: true, gas_used: 0, gas_price: 0, logs: Vec::new(), created: None };

/// The address whose key made this signature.
fn signer(digest: &Hash, signature: &Signature, parity: u64) -> Result<Address, Failure> {
    let invalid = || Failure::server("invalid sender");
    if parity > 1 || signature.s > HALF_ORDER {
        return Err(invalid());
    }
    let recovery = RecoveryId::new(parity == 1, false);
    let ecdsa = Ecdsa::from_scalars(signature.r, signature.s).map_err(|_| invalid())?;
    let key =
        VerifyingKey::recover_from_prehash(digest, &ecdsa, recovery).map_err(|_| invalid())?;
    Ok(address_of(&key))
}

/// The address of a public key.
pub(crate) fn address_of(key: &VerifyingKey) -> Address {
    let point = key.to_sec1_point(false);
    let hash = keccak(&point.as_bytes()[1..]);
    let mut address = [0; 20];
    address.copy_from_slice(&hash[12..]);
    address
}

/// The address of the contract that `from` creates with its transaction `nonce`.
pub(crate) fn created_by(from: &Address, nonce: u64) -> Address {
    let mut body = Vec::new();
    write_bytes(&mut body, from);
    write_number(&mut body, nonce);
    let hash = keccak(&list(&body));
    let mut address = [0; 20];
    address.copy_from_slice(&hash[12..]);
    address
}

/// Writes a number as RLP.
pub(crate) fn write_number(out: &mut Vec<u8>, number: u64) {
    let bytes = number.to_be_bytes();
    write_bytes(out, &bytes[(number.leading_zeros() / 8) as usize..]);
}

/// Writes up to 55 bytes as an RLP string.
pub(crate) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    debug_assert!(bytes.len() < 56);
    if !matches!(bytes, [0..0x80]) {
        out.push(0x80 + bytes.len() as u8);
    }
    out.extend(bytes);
}

/// An RLP list with this body.
pub(crate) fn list(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 9);
    if body.len() < 56 {
        out.push(0xc0 + body.len() as u8);
    } else {
        let len = body.len().to_be_bytes();
        let len = &len[(body.len().leading_zeros() / 8) as usize..];
        out.push(0xf7 + len.len() as u8);
        out.extend(len);
    }
    out.extend(body);
    out
}

/// The unread fields of an RLP list.
struct Fields<'a> {
    rest: &'a [u8],
}

enum Item<'a> {
    String(&'a [u8]),
    List(&'a [u8]),
}

impl<'a> Fields<'a> {
    /// The fields of the list in `bytes`, which must contain nothing else.
    fn of(bytes: &'a [u8]) -> Result<Fields<'a>, Failure> {
        let mut outer = Fields { rest: bytes };
        match outer.item() {
            Some(Item::List(rest)) if outer.rest.is_empty() => Ok(Fields { rest }),
            Some(Item::List(_)) => Err(rlp("input contains more than one value")),
            Some(Item::String(_)) => Err(rlp("expected input list for types.LegacyTx")),
            None => Err(rlp("value size exceeds available input length")),
        }
    }

    fn end(&self) -> Result<(), Failure> {
        if self.rest.is_empty() { Ok(()) } else { Err(rlp("input list has too many elements")) }
    }

    /// The next item, if it is well-formed and in its shortest form.
    fn item(&mut self) -> Option<Item<'a>> {
        let (&head, after) = self.rest.split_first()?;
        let (is_list, base) = if head < 0xc0 { (false, 0x80) } else { (true, 0xc0) };
        let (content, rest) = match head.checked_sub(base) {
            None => self.rest.split_at_checked(1)?,
            Some(len @ ..=55) => after.split_at_checked(usize::from(len))?,
            Some(long) => {
                let (len, after) = after.split_at_checked(usize::from(long - 55))?;
                if len.first() == Some(&0) || len.len() > 4 {
                    return None;
                }
                let len = len.iter().fold(0usize, |len, byte| len << 8 | usize::from(*byte));
                (len > 55).then_some(())?;
                after.split_at_checked(len)?
            }
        };
        if !is_list && head == 0x81 && content[0] < 0x80 {
            return None;
        }
        self.rest = rest;
        Some(if is_list { Item::List(content) } else { Item::String(content) })
    }

    fn string(&mut self, field: &str) -> Result<&'a [u8], Failure> {
        match self.item() {
            Some(Item::String(bytes)) => Ok(bytes),
            Some(Item::List(_)) => Err(rlp(&format!("expected input string for {field}"))),
            None => Err(rlp(&format!("too few elements or malformed value for {field}"))),
        }
    }

    /// A number of at most `N` bytes without leading zeros.
    fn digits<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Failure> {
        let bytes = self.string(field)?;
        if bytes.first() == Some(&0) {
            return Err(rlp(&format!("non-canonical integer (leading zero bytes) for {field}")));
        }
        let from = N.checked_sub(bytes.len());
        let from = from.ok_or_else(|| rlp(&format!("input string too long for {field}")))?;
        let mut digits = [0; N];
        digits[from..].copy_from_slice(bytes);
        Ok(digits)
    }

    fn number(&mut self, field: &str) -> Result<u64, Failure> {
        self.digits(field).map(u64::from_be_bytes)
    }

    /// An amount of wei; 128 bits are enough for all of it.
    fn amount(&mut self, field: &str) -> Result<u128, Failure> {
        self.digits(field).map(u128::from_be_bytes)
    }

    fn word(&mut self, field: &str) -> Result<Hash, Failure> {
        self.digits(field)
    }

    fn receiver(&mut self) -> Result<Option<Address>, Failure> {
        match self.string("To")? {
            [] => Ok(None),
            bytes => bytes.try_into().map(Some).map_err(|_| rlp("wrong size of To")),
        }
    }

    fn access_list(&mut self) -> Result<AccessList, Failure> {
        let wrong = || rlp("malformed AccessList");
        let Some(Item::List(rest)) = self.item() else { return Err(wrong()) };
        let mut entries = Fields { rest };
        let mut list = Vec::new();
        while !entries.rest.is_empty() {
            let Some(Item::List(rest)) = entries.item() else { return Err(wrong()) };
            let mut entry = Fields { rest };
            let address = entry.string("AccessList")?.try_into().map_err(|_| wrong())?;
            let Some(Item::List(rest)) = entry.item() else { return Err(wrong()) };
            let mut slots = Fields { rest };
            let mut keys = Vec::new();
            while !slots.rest.is_empty() {
                keys.push(slots.string("AccessList")?.try_into().map_err(|_| wrong())?);
            }
            list.push((address, keys));
        }
        Ok(list)
    }
}

fn rlp(why: &str) -> Failure {
    Failure::server(format!("rlp: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::params::parse_bytes;

    /// The example of EIP-155, signed with the key 0x46…46.
    const EIP_155: &str = "0xf86c098504a817c800825208943535353535353535353535353535353535353535880\
        de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cb\
        e9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83";

    #[test]
    fn a_known_transaction_is_decoded() {
        let raw = parse_bytes(EIP_155).expect("hex");
        let transaction = decode(&raw).expect("a transaction");
        assert_eq!(transaction.nonce, 9);
        assert_eq!(transaction.value, 1_000_000_000_000_000_000);
        assert_eq!(transaction.fees, Fees::Legacy { price: 20_000_000_000 });
        assert_eq!((transaction.chain_id, transaction.to), (Some(1), Some([0x35; 20])));
        let sender = parse_bytes("0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f").expect("hex");
        assert_eq!(transaction.from.to_vec(), sender);
    }

    #[test]
    fn damaged_transactions_are_refused() {
        let raw = parse_bytes(EIP_155).expect("hex");
        let check = |raw: &[u8], message: &str| {
            let failure = decode(raw).expect_err(message);
            assert!(failure.message.starts_with(message), "{failure:?}");
        };
        check(&[], "typed transaction too short");
        check(&raw[..50], "rlp: value size exceeds");
        check(&[&raw[..], &[0]].concat(), "rlp: input contains more than one value");
        check(&[3, 0xc0], "transaction type not supported");
        check(&[0xc0], "rlp: too few elements");
        let mut parity = raw.clone();
        parity[raw.len() - 67] = 0x1d; // v = 29
        check(&parity, "invalid sender");
        for at in 0..raw.len() {
            let mut damaged = raw.clone();
            damaged[at] ^= 0x55;
            let _ = decode(&damaged); // refused, or another sender, but never a panic
        }
    }

    #[test]
    fn addresses_of_created_contracts() {
        // The first contract of a known account.
        let from = parse_bytes("0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0").expect("hex");
        let from: Address = from.try_into().expect("an address");
        let contract = parse_bytes("0xcd234a471b72ba2f1ccf0a70fcaba648a5eecd8d").expect("hex");
        assert_eq!(created_by(&from, 0).to_vec(), contract);
    }
}
