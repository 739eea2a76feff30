//! Reads parameters, with geth's order of checks and messages.

use plimsoll_rpc::json::{self, Kind};

use super::failure::Failure;
use crate::chain::keccak::Hash;

/// Maximum number of parameters of any method.
const PARAMS_MAX: usize = 8;

/// The positional parameters of a call.
pub(crate) struct Params<'a> {
    items: Vec<&'a [u8]>,
}

/// One parameter, or a part of one.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a> {
    /// Index of the parameter.
    pub(crate) at: usize,
    raw: &'a [u8],
}

/// A block as given in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockRef {
    Number(u64),
    Earliest,
    Latest,
    Safe,
    Finalized,
    Pending,
    Hash { hash: Hash, canonical: bool },
}

impl<'a> Params<'a> {
    /// Reads up to `most` parameters.
    pub(crate) fn read(params: Option<&'a [u8]>, most: usize) -> Result<Params<'a>, Failure> {
        debug_assert!(most <= PARAMS_MAX);
        let params = params.unwrap_or(b"null");
        let items = match json::kind(params) {
            Some(Kind::Array) => json::items(params)
                .take(PARAMS_MAX + 1)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|syntax| Failure::params(syntax.to_string()))?,
            Some(Kind::Null) => Vec::new(),
            _ => return Err(Failure::params("non-array args")),
        };
        if items.len() > most {
            return Err(Failure::params(format!("too many arguments, want at most {most}")));
        }
        Ok(Params { items })
    }

    /// Parameter `at`, which may be missing or `null`.
    pub(crate) fn maybe(&self, at: usize) -> Option<Value<'a>> {
        let raw = *self.items.get(at)?;
        (json::kind(raw) != Some(Kind::Null)).then_some(Value { at, raw })
    }

    /// Parameter `at`.
    pub(crate) fn need(&self, at: usize) -> Result<Value<'a>, Failure> {
        self.maybe(at)
            .ok_or_else(|| Failure::params(format!("missing value for required argument {at}")))
    }

    /// Parameter `at` as a block; `latest` if it is missing.
    pub(crate) fn block(&self, at: usize) -> Result<BlockRef, Failure> {
        self.maybe(at).map_or(Ok(BlockRef::Latest), Value::block)
    }

    /// Parameter `at` as a boolean; false if it is missing.
    pub(crate) fn flag(&self, at: usize) -> Result<bool, Failure> {
        self.maybe(at).map_or(Ok(false), Value::boolean)
    }
}

impl<'a> Value<'a> {
    fn wrong(self, why: impl std::fmt::Display) -> Failure {
        Failure::argument(self.at, why)
    }

    /// The members of an object.
    pub(crate) fn members(self) -> Result<Vec<(String, Value<'a>)>, Failure> {
        if json::kind(self.raw) != Some(Kind::Object) {
            return Err(self.wrong("must be an object"));
        }
        let mut members = Vec::new();
        for member in json::members(self.raw) {
            let member = member.map_err(|syntax| self.wrong(syntax))?;
            let name = String::from_utf8_lossy(&member.plain()).into_owned();
            if json::kind(member.value) != Some(Kind::Null) {
                members.push((name, Value { at: self.at, raw: member.value }));
            }
        }
        Ok(members)
    }

    /// The items of an array; `None` if the value is not an array.
    pub(crate) fn list(self) -> Option<Vec<Value<'a>>> {
        if json::kind(self.raw) != Some(Kind::Array) {
            return None;
        }
        let item = |raw| Value { at: self.at, raw };
        json::items(self.raw).map(|raw| raw.map(item)).collect::<Result<_, _>>().ok()
    }

    /// A string without escapes.
    pub(crate) fn word(self) -> Option<&'a str> {
        let text = self.raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        str::from_utf8(text).ok().filter(|text| !text.contains('\\'))
    }

    pub(crate) fn is_null(self) -> bool {
        self.raw == b"null"
    }

    pub(crate) fn boolean(self) -> Result<bool, Failure> {
        match self.raw {
            b"true" => Ok(true),
            b"false" => Ok(false),
            _ => Err(self.wrong("must be true or false")),
        }
    }

    fn text(self) -> Result<std::borrow::Cow<'a, str>, Failure> {
        json::text(self.raw).ok_or_else(|| self.wrong("must be a string"))
    }

    /// A hexadecimal number.
    pub(crate) fn quantity(self) -> Result<u128, Failure> {
        parse_quantity(&self.text()?).map_err(|why| self.wrong(why))
    }

    /// A hexadecimal number of 64 bits. JSON numbers are accepted too, as geth does for counts.
    pub(crate) fn number(self) -> Result<u64, Failure> {
        if json::kind(self.raw) == Some(Kind::Number) {
            let text = std::str::from_utf8(self.raw).unwrap_or_default();
            return text.parse().map_err(|_| self.wrong("must be an unsigned 64-bit integer"));
        }
        u64::try_from(self.quantity()?).map_err(|_| self.wrong("hex number > 64 bits"))
    }

    /// A number from 0 to 100.
    pub(crate) fn percentile(self) -> Result<f64, Failure> {
        let text = std::str::from_utf8(self.raw).unwrap_or_default();
        let number: f64 = text.parse().map_err(|_| self.wrong("must be a number"))?;
        if (0.0..=100.0).contains(&number) {
            Ok(number)
        } else {
            Err(Failure::server(format!("invalid reward percentile: {number}")))
        }
    }

    /// Bytes in hexadecimal.
    pub(crate) fn bytes(self) -> Result<Vec<u8>, Failure> {
        parse_bytes(&self.text()?).map_err(|why| self.wrong(why))
    }

    /// Exactly `N` bytes in hexadecimal; `what` is the type in the error message.
    pub(crate) fn fixed<const N: usize>(self, what: &str) -> Result<[u8; N], Failure> {
        let bytes = self.bytes()?;
        let digits = bytes.len() * 2;
        bytes.try_into().map_err(|_| {
            self.wrong(format!("hex string has length {digits}, want {} for {what}", N * 2))
        })
    }

    /// A storage slot: up to 32 bytes, with or without leading zeros.
    pub(crate) fn slot(self) -> Result<Hash, Failure> {
        let text = self.text()?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        if digits.len() > 64 {
            return Err(self.wrong("hex string too long, want at most 32 bytes"));
        }
        let padded = parse_bytes(&format!("0x{digits:0>64}")).map_err(|why| self.wrong(why))?;
        padded.try_into().map_err(|_| self.wrong("not a storage slot"))
    }

    /// A tag, a number or an EIP-1898 object.
    pub(crate) fn block(self) -> Result<BlockRef, Failure> {
        if json::kind(self.raw) == Some(Kind::Object) {
            return self.block_object();
        }
        let text = self.text()?;
        Ok(match &*text {
            "latest" => BlockRef::Latest,
            "earliest" => BlockRef::Earliest,
            "safe" => BlockRef::Safe,
            "finalized" => BlockRef::Finalized,
            "pending" => BlockRef::Pending,
            // A hash instead of a number: accepted for state, as geth does.
            hash if hash.len() == 66 => {
                BlockRef::Hash { hash: self.fixed("common.Hash")?, canonical: false }
            }
            number => {
                let number = parse_quantity(number).map_err(|why| self.wrong(why))?;
                let number = u64::try_from(number).ok().filter(|number| *number <= i64::MAX as u64);
                BlockRef::Number(
                    number.ok_or_else(|| self.wrong("block number larger than int64"))?,
                )
            }
        })
    }

    fn block_object(self) -> Result<BlockRef, Failure> {
        let (mut hash, mut number, mut canonical) = (None, None, false);
        for (name, value) in self.members()? {
            match name.as_str() {
                "blockHash" => hash = Some(value.fixed("common.Hash")?),
                "blockNumber" => number = Some(value.block()?),
                "requireCanonical" => canonical = value.boolean()?,
                _ => {}
            }
        }
        match (hash, number) {
            (Some(_), Some(_)) => Err(self
                .wrong("cannot specify both BlockHash and BlockNumber, choose one or the other")),
            (Some(hash), None) => Ok(BlockRef::Hash { hash, canonical }),
            (None, Some(number)) => Ok(number),
            (None, None) => Err(self.wrong("blockHash or blockNumber is required")),
        }
    }
}

/// Reads a quantity as strictly as geth does.
pub(crate) fn parse_quantity(text: &str) -> Result<u128, &'static str> {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    match digits {
        None if text.is_empty() => Err("empty hex string"),
        None => Err("hex string without 0x prefix"),
        Some("") => Err("hex string \"0x\""),
        Some(digits) if digits.len() > 1 && digits.starts_with('0') => {
            Err("hex number with leading zero digits")
        }
        Some(digits) if digits.len() > 32 => Err("hex number > 128 bits"),
        Some(digits) if digits.starts_with('+') => Err("invalid hex string"),
        Some(digits) => u128::from_str_radix(digits, 16).map_err(|_| "invalid hex string"),
    }
}

/// Reads bytes as strictly as geth does.
pub(crate) fn parse_bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    let digits = digits.ok_or(if text.is_empty() {
        "empty hex string"
    } else {
        "hex string without 0x prefix"
    })?;
    if digits.len() % 2 == 1 {
        return Err("hex string of odd length");
    }
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let pairs = digits.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect::<Option<_>>()
        .ok_or("invalid hex string")
}
