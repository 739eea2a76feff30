//! The values of flags: numbers as Go's `strconv` reads them, rates, sizes, headers and addresses.

use super::Kind;
use crate::vegeta::Duration;
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;

/// A flag's value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each is the value of the kind with its name")]
pub enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(String),
    Path(OsString),
    Duration(Duration),
    Rate(Rate),
    Address(IpAddr),
    List(Vec<String>),
    Header(String, String),
    Mapping(Mapping),
}

/// A rate of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests per `per`; 0: as fast as the workers can send.
    pub hits: i64,
    /// The unit of time; 1 s by default.
    pub per: Duration,
}

/// Another address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The address in the URL: `host:port`.
    pub from: String,
    /// The address to connect to: `host:port`.
    pub to: String,
}

impl Value {
    /// Reads a value of this kind; an error says why it is none.
    pub(super) fn parse(kind: Kind, raw: &OsStr) -> Result<Value, String> {
        if kind == Kind::Path {
            return Ok(Value::Path(raw.to_os_string()));
        }
        let text = raw.to_str().ok_or("not valid UTF-8")?;
        Ok(match kind {
            Kind::Bool => Value::Bool(boolean(text).ok_or("parse error")?),
            Kind::Int => Value::Int(integer(text)?),
            Kind::Uint => Value::Uint(unsigned(text)?),
            Kind::Text => Value::Text(text.to_string()),
            Kind::Path => unreachable!("read above"),
            Kind::Duration => Value::Duration(text.parse().map_err(|_| "parse error")?),
            Kind::Ttl if text == "-1" => Value::Duration(Duration(-1)),
            Kind::Ttl => Value::Duration(text.parse().map_err(|bad| format!("{bad}"))?),
            Kind::Rate => Value::Rate(rate(text)?),
            Kind::Size if text == "-1" => Value::Int(-1),
            Kind::Size => Value::Int(size(text)?),
            Kind::Address => Value::Address(text.parse().map_err(|_| "not an IP address")?),
            Kind::List => Value::List(text.split(',').map(String::from).collect()),
            Kind::Header => header(text)?,
            Kind::Mapping => Value::Mapping(mapping(text)?),
        })
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A signed number, in Go's base 0.
fn integer(text: &str) -> Result<i64, String> {
    let magnitude = unsigned(text.strip_prefix(['-', '+']).unwrap_or(text))?;
    let value = i128::from(magnitude) * if text.starts_with('-') { -1 } else { 1 };
    i64::try_from(value).map_err(|_| "value out of range".to_string())
}

/// An unsigned number in Go's base 0: decimal, 0x, 0o, 0b, a leading 0 for octal, and `_` between
/// digits.
fn unsigned(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    // After a prefix, an underscore may come first.
    let misplaced = digits.ends_with('_') || digits.contains("__") || lower.starts_with('_');
    let digits = digits.replace('_', "");
    if misplaced || digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err("parse error".to_string());
    }
    u64::from_str_radix(&digits, radix).map_err(|_| "value out of range".to_string())
}

/// `N`, `N/DURATION` or `N/UNIT`; `infinity` is 0. (Vegeta 12 ignores `infinity` and keeps its
/// default of 50/1s, although its manual documents the word.)
fn rate(text: &str) -> Result<Rate, String> {
    let second = Duration::from_secs(1);
    if text == "infinity" {
        return Ok(Rate { hits: 0, per: second });
    }
    let (hits, per) = text.split_once('/').unwrap_or((text, "1s"));
    let digits = hits.strip_prefix(['-', '+']).unwrap_or(hits);
    let parsing = |reason| format!("strconv.Atoi: parsing {hits:?}: {reason}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(parsing("invalid syntax"));
    }
    let hits: i64 = hits.parse().map_err(|_| parsing("value out of range"))?;
    if hits == 0 {
        return Ok(Rate { hits, per: second });
    }
    let bare = matches!(per, "ns" | "us" | "µs" | "ms" | "s" | "m" | "h");
    let per = if bare { format!("1{per}") } else { per.to_string() };
    Ok(Rate { hits, per: per.parse().map_err(|bad| format!("{bad}"))? })
}

/// Bytes such as `10485760`, `10 MB` or `1k`; the units are powers of 1024.
fn size(text: &str) -> Result<i64, String> {
    let parsing = |reason| format!("strconv.UnmarshalText: parsing {text:?}: {reason}");
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = (&text[..end], text[end..].trim());
    if matches!(unit, "Kb" | "Mb" | "Gb" | "Tb" | "Pb" | "Eb") {
        return Err(parsing(
            "unit with capital unit prefix and lower case unit (b) - bits, not bytes",
        ));
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" | "byte" => 0,
        "k" | "kb" | "kilo" | "kilobyte" | "kilobytes" => 10,
        "m" | "mb" | "mega" | "megabyte" | "megabytes" => 20,
        "g" | "gb" | "giga" | "gigabyte" | "gigabytes" => 30,
        "t" | "tb" | "tera" | "terabyte" | "terabytes" => 40,
        "p" | "pb" | "peta" | "petabyte" | "petabytes" => 50,
        "e" | "eb" => 60,
        _ => return Err(parsing("invalid syntax")),
    };
    if digits.is_empty() {
        return Err(parsing("invalid syntax"));
    }
    let bytes = digits.parse::<u64>().ok().and_then(|value| value.checked_mul(1 << shift));
    let bytes = bytes.ok_or_else(|| parsing("value out of range"))?;
    i64::try_from(bytes).map_err(|_| format!("-max-body={bytes} overflows int64"))
}

/// `Name: value`, neither of them empty.
fn header(text: &str) -> Result<Value, String> {
    let (name, value) = text.split_once(':').unwrap_or((text, ""));
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || value.is_empty() {
        return Err(format!("header '{text}' has a wrong format"));
    }
    Ok(Value::Header(name.to_string(), value.to_string()))
}

/// `host:port:host:port`; as in vegeta, IPv6 addresses cannot be written.
fn mapping(text: &str) -> Result<Mapping, String> {
    let [host, port, to_host, to_port] = text.split(':').collect::<Vec<_>>()[..] else {
        return Err(format!("invalid -connect-to {text:?}, expected format: src:port:dst:port"));
    };
    Ok(Mapping { from: format!("{host}:{port}"), to: format!("{to_host}:{to_port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, text: &str, expected: Option<Value>) {
        assert_eq!(Value::parse(kind, OsStr::new(text)).ok(), expected, "{kind:?} {text:?}");
    }

    #[test]
    fn numbers() {
        for (text, value) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("+10", Some(10)),
            ("-1", Some(-1)),
            ("0x1F", Some(31)),
            ("0b11", Some(3)),
            ("0o17", Some(15)),
            ("017", Some(15)),
            ("1_000", Some(1000)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1__0", None),
            ("_1", None),
            ("1_", None),
            ("1.5", None),
            ("--1", None),
            ("", None),
            (" 1", None),
        ] {
            check(Kind::Int, text, value.map(Value::Int));
        }
        check(Kind::Uint, "18446744073709551615", Some(Value::Uint(u64::MAX)));
        check(Kind::Uint, "18446744073709551616", None);
    }

    #[test]
    fn rates() {
        let second = 1_000_000_000;
        for (text, expected) in [
            ("500", Some((500, second))),
            ("500/1s", Some((500, second))),
            ("500/s", Some((500, second))),
            ("90/1m30s", Some((90, 90 * second))),
            ("5/ms", Some((5, 1_000_000))),
            ("0", Some((0, second))),
            ("0/x", Some((0, second))),
            ("infinity", Some((0, second))),
            ("-5", Some((-5, second))),
            ("1.5", None),
            ("5/", None),
            ("5/2", None),
            ("1_0", None),
            ("", None),
        ] {
            let rate = expected.map(|(hits, per)| Rate { hits, per: Duration(per) });
            check(Kind::Rate, text, rate.map(Value::Rate));
        }
    }

    #[test]
    fn sizes() {
        for (text, value) in [
            ("-1", Some(-1)),
            ("0", Some(0)),
            ("10485760", Some(10 << 20)),
            ("10 MB", Some(10 << 20)),
            ("10mb", Some(10 << 20)),
            ("1k", Some(1024)),
            ("7EB", Some(7 << 60)),
            ("8EB", None),
            ("16EB", None),
            ("-2", None),
            ("MB", None),
            ("1.5MB", None),
            ("10 Mb", None),
            ("1 parsec", None),
        ] {
            check(Kind::Size, text, value.map(Value::Int));
        }
    }

    #[test]
    fn lifetimes_and_addresses() {
        check(Kind::Ttl, "-1", Some(Value::Duration(Duration(-1))));
        check(Kind::Ttl, "1m", Some(Value::Duration(Duration::from_secs(60))));
        check(Kind::Ttl, "-2", None);
        check(Kind::Address, "::1", Some(Value::Address("::1".parse().unwrap())));
        check(Kind::Header, "a:", None);
        check(Kind::Header, ": b", None);
        check(Kind::Mapping, "::1:80:::1:81", None);
    }
}
