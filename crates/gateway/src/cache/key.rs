//! Keys of answers: calls that mean the same share one, all others have different ones.
//!
//! # Canonical form
//! A call is written as its space (the service and its chain), its method, and its parameters, each
//! with its length or its end, so that different calls cannot run together. Two spellings are the same
//! if they differ only in
//! - white space, the order of an object's members, and how characters of strings are escaped;
//! - the case of hexadecimal digits in strings (`0x` and digits), also in members' names;
//! - leading zeros of the slot of `eth_getStorageAt`, which is a number or 32 bytes;
//! - parameters that are missing or an empty array.
//!
//! Everything else splits, because nodes may treat it differently: other leading zeros (geth refuses
//! them in block numbers, and returns keys of `eth_getProof` as they were written), `1` and `1.0`,
//! members that occur twice, null and missing members. Moving tags must have been bound before.
//!
//! # Hash
//! A key is 128 bits: SipHash (the standard library's keyed hasher) of the canonical form, once after a
//! 0 and once after a 1, under a key that each process draws at random. SipHash is a pseudorandom
//! function, so that a caller who does not know the key cannot find two calls with one key except by
//! chance: with 2^32 entries, about one in 2^64. Replicas need names that are the same for all; those
//! are a SHA3-256 of the canonical form ([`Canonical::digest`]), which takes longer and is only needed
//! after a miss.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use plimsoll_rpc::json::{self, Kind};
use plimsoll_rpc::method::Method;
use sha3::{Digest, Sha3_256};

/// Calls with longer parameters are not cached: making their key would hold up a worker.
pub const PARAMS_MAX: usize = 64 << 10;

/// Calls with parameters nested deeper are not cached; those of known methods have up to 7 levels.
const DEPTH_MAX: u32 = 32;

/// Members of an object that are sorted without allocating.
const MEMBERS_FEW: usize = 16;

/// The key of a call, in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub u128);

/// Makes keys.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    state: RandomState,
}

impl Keys {
    /// The key of a call.
    pub fn key(&self, call: &Canonical<'_>) -> Key {
        let half = |prefix: u8| {
            let mut hasher = self.state.build_hasher();
            hasher.write_u8(prefix);
            hasher.write(call.0);
            u128::from(hasher.finish())
        };
        Key(half(0) << 64 | half(1))
    }

    /// A number that identifies a space in this process.
    pub fn space(&self, space: &str) -> u64 {
        self.state.hash_one(space)
    }
}

/// The canonical form of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canonical<'a>(&'a [u8]);

impl<'a> Canonical<'a> {
    /// Writes the canonical form into `buffer`, which must be empty. `params` is a valid JSON text,
    /// with bound tags. `None` if the parameters are too long or nested too deeply.
    pub fn write(
        space: &str,
        method: Method,
        params: Option<&[u8]>,
        buffer: &'a mut Vec<u8>,
    ) -> Option<Canonical<'a>> {
        let params = params.unwrap_or(b"[]").trim_ascii();
        if params.len() > PARAMS_MAX {
            return None;
        }
        let mut form =
            Form { out: buffer, slot: (method.name() == "eth_getStorageAt").then_some(1) };
        form.part(b's', space.as_bytes());
        form.part(b's', method.name().as_bytes());
        form.value(params, 0)?;
        Some(Canonical(buffer))
    }

    /// A digest that is the same in all processes.
    pub fn digest(&self) -> [u8; 32] {
        Sha3_256::digest(self.0).into()
    }
}

/// Writes a canonical form.
struct Form<'a> {
    out: &'a mut Vec<u8>,
    /// The position of a parameter that may have leading zeros.
    slot: Option<usize>,
}

impl Form<'_> {
    /// A part, after what it is and its length.
    fn part(&mut self, what: u8, bytes: &[u8]) {
        self.out.push(what);
        self.out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.out.extend_from_slice(bytes);
    }

    fn value(&mut self, value: &[u8], depth: u32) -> Option<()> {
        match json::kind(value)? {
            _ if depth > DEPTH_MAX => return None,
            Kind::Array => {
                self.out.push(b'[');
                for (position, item) in json::items(value).enumerate() {
                    match item.ok()? {
                        item if depth == 0 && self.slot == Some(position) => {
                            self.slot(item, depth)?
                        }
                        item => self.value(item, depth + 1)?,
                    }
                }
                self.out.push(b']');
            }
            Kind::Object => self.object(value, depth)?,
            Kind::String => self.string(value),
            Kind::Number | Kind::Bool | Kind::Null => self.part(b'v', value),
        }
        Some(())
    }

    fn string(&mut self, raw: &[u8]) {
        // Half of a surrogate pair has no other form than its own.
        let Some(text) = json::text(raw).filter(|text| !text.contains(char::REPLACEMENT_CHARACTER))
        else {
            return self.part(b'r', raw);
        };
        self.part(b's', text.as_bytes());
        if is_hex(text.as_bytes()) {
            let start = self.out.len() - text.len();
            self.out[start..].make_ascii_lowercase();
        }
    }

    /// A slot of storage: without leading zeros.
    fn slot(&mut self, value: &[u8], depth: u32) -> Option<()> {
        const DIGITS_MAX: usize = 64;
        let text = json::text(value).unwrap_or_default();
        let digits = text.strip_prefix("0x").unwrap_or_default();
        if !(1..=DIGITS_MAX).contains(&digits.len()) || !is_hex(text.as_bytes()) {
            return self.value(value, depth + 1);
        }
        let digits = digits.trim_start_matches('0').as_bytes();
        self.part(b'q', digits);
        let start = self.out.len() - digits.len();
        self.out[start..].make_ascii_lowercase();
        Some(())
    }

    /// An object: its members in the order of their names; those of one name stay in their order.
    fn object(&mut self, object: &[u8], depth: u32) -> Option<()> {
        let mut few = [const { Placed { name: 0..0, end: 0 } }; MEMBERS_FEW];
        let (mut many, mut count) = (Vec::new(), 0);
        self.out.push(b'{');
        let start = self.out.len();
        for member in json::members(object) {
            let member = member.ok()?;
            let name = self.out.len();
            self.string(member.name);
            let name = name..self.out.len();
            self.value(member.value, depth + 1)?;
            let placed = Placed { name, end: self.out.len() };
            match few.get_mut(count) {
                Some(place) => *place = placed,
                None => {
                    if many.is_empty() {
                        many.extend_from_slice(&few);
                    }
                    many.push(placed);
                }
            }
            count += 1;
        }
        self.sort(start, if many.is_empty() { &mut few[..count] } else { &mut many });
        self.out.push(b'}');
        Some(())
    }

    /// Sorts members, which have been written from `start` on.
    fn sort(&mut self, start: usize, members: &mut [Placed]) {
        let by_name =
            |a: &Placed, b: &Placed| self.out[a.name.clone()].cmp(&self.out[b.name.clone()]);
        if members.is_sorted_by(|a, b| by_name(a, b).is_le()) {
            return;
        }
        members.sort_by(by_name);
        let end = self.out.len();
        for member in members {
            self.out.extend_from_within(member.name.start..member.end);
        }
        self.out.copy_within(end.., start);
        self.out.truncate(end);
    }
}

/// Where a member of an object has been written.
#[derive(Clone, Debug)]
struct Placed {
    name: Range<usize>,
    end: usize,
}

/// Whether a text is `0x` and hexadecimal digits.
fn is_hex(text: &[u8]) -> bool {
    text.strip_prefix(b"0x").is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests;
