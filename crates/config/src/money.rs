//! Money and prices: what usage costs a customer, what relays cost on the network, what a plan's machines
//! cost. Amounts are exact decimals, no floats.
//!
//! # The customer's price
//! Compute units × price, computed for each service and rounded down to [`Amount::DIGITS`] digits after
//! the point.
//!
//! # The network's cost
//! On Pocket Network a relay of a service costs CUPR compute units of the network, whatever its method,
//! and a compute unit costs CUTTM ÷ CUCG uPOKT; `uPOKT = floor(relays × CUPR × CUTTM ÷ CUCG)`, with one
//! floor at the end (poktroll, `x/proof/types/claim.go`). All of these are parameters of the network that
//! change; they are configured, not fetched, and figures computed from them are estimates: the network
//! counts relays by sampling, and charges by session.

use std::fmt;

/// A price's digits before and after the point. With these limits no product below overflows.
const DIGITS_MAX: usize = 9;

/// A number of the network's parameters.
pub const PARAMETER_MAX: u64 = 1_000_000_000_000;

/// An amount of a currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

impl Amount {
    /// Digits after the point.
    pub const DIGITS: u32 = 9;

    /// The sum.
    pub fn plus(self, other: Amount) -> Amount {
        Amount(self.0.saturating_add(other.0))
    }

    /// The difference.
    pub fn minus(self, other: Amount) -> Amount {
        Amount(self.0.saturating_sub(other.0))
    }
}

/// As a plain number with at least two digits after the point: `0.30`, `12.000001`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = 10u128.pow(Amount::DIGITS);
        let (sign, all) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        let fraction = format!("{:0width$}", all % scale, width = Amount::DIGITS as usize);
        let kept = fraction.trim_end_matches('0').len().max(2);
        f.pad(&format!("{sign}{}.{}", all / scale, &fraction[..kept]))
    }
}

/// A code of three letters: `USD`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

impl Currency {
    fn parse(word: &str) -> Option<Currency> {
        let code: [u8; 3] = word.as_bytes().try_into().ok()?;
        code.iter().all(u8::is_ascii_uppercase).then_some(Currency(code))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number of a currency's units, such as what a POKT costs: `0.007 USD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Money {
    /// Without the point.
    digits: u64,
    /// Digits after the point.
    scale: u32,
    /// The currency.
    pub currency: Currency,
}

/// How money is written.
const MONEY_FORM: &str = "write an amount and a currency, such as \"0.007 USD\"";

impl Money {
    /// Parses an amount and a currency.
    ///
    /// # Errors
    /// What is wrong, and the form.
    pub fn parse(text: &str) -> Result<Money, String> {
        let mut words = text.split_whitespace();
        let wrong = |why: String| format!("\"{text}\" {why}; {MONEY_FORM}");
        let amount = words.next().ok_or_else(|| wrong("is empty".into()))?;
        let (digits, scale) = decimal(amount).map_err(&wrong)?;
        let currency = currency(words.next()).map_err(&wrong)?;
        match words.next() {
            None => Ok(Money { digits, scale, currency }),
            Some(word) => Err(wrong(format!("has \"{word}\" after the currency"))),
        }
    }

    /// As a number, for projections; amounts are computed exactly.
    pub fn value(&self) -> f64 {
        self.digits as f64 / 10f64.powi(self.scale as i32)
    }

    /// This many of it, divided by a power of ten at most 10¹².
    fn times(&self, count: u64, per: u64) -> Amount {
        // At most 1.9 × 10¹⁹ × 10¹⁸ × 10⁰, or × 10⁹ with 10⁹ digits: below 1.7 × 10³⁸.
        let up = 10u128.pow(Amount::DIGITS - self.scale);
        let product = u128::from(count) * u128::from(self.digits);
        let amount = product.saturating_mul(up) / u128::from(per);
        Amount(i128::try_from(amount).unwrap_or(i128::MAX))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = format!("{:0width$}", self.digits, width = self.scale as usize + 1);
        if self.scale > 0 {
            digits.insert(digits.len() - self.scale as usize, '.');
        }
        write!(f, "{digits} {}", self.currency)
    }
}

/// What a unit is called in a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// `0.30 USD per million compute units`.
    ComputeUnits,
    /// The price's key names it: `database_query = "1 USD per million"`.
    OfKey,
}

/// What units cost: `0.30 USD per million compute units`, or `1 USD per million` where a key names the
/// unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// The amount.
    pub money: Money,
    /// For this many units, a power of ten.
    per: u64,
    unit: Unit,
}

/// The numbers of units that a price may be for.
const NUMBERS: [(&str, u64); 4] =
    [("", 1), ("thousand", 1_000), ("million", 1_000_000), ("billion", 1_000_000_000)];

impl Price {
    /// How a price is written.
    pub const FORM: &str =
        "write an amount, a currency and a unit, such as \"0.30 USD per million compute units\"";

    /// How a price is written if its key names the unit.
    pub const FORM_OF_KEY: &str =
        "write an amount and a currency, such as \"0.04 USD\" or \"0.20 USD per million\"";

    /// Parses a price of compute units.
    ///
    /// # Errors
    /// What is wrong, and the form.
    pub fn parse(text: &str) -> Result<Price, String> {
        Price::parse_as(text, Unit::ComputeUnits, Price::FORM)
    }

    /// Parses a price whose key names the unit.
    ///
    /// # Errors
    /// What is wrong, and the form.
    pub fn parse_of_key(text: &str) -> Result<Price, String> {
        Price::parse_as(text, Unit::OfKey, Price::FORM_OF_KEY)
    }

    fn parse_as(text: &str, unit: Unit, form: &str) -> Result<Price, String> {
        let wrong = |why: String| format!("\"{text}\" {why}; {form}");
        let mut words = text.split_whitespace();
        let amount = words.next().ok_or_else(|| wrong("is empty".into()))?;
        let (digits, scale) = decimal(amount).map_err(&wrong)?;
        let currency = currency(words.next()).map_err(&wrong)?;
        let rest: Vec<&str> = words.collect();
        let number = match (unit, &rest[..]) {
            (Unit::ComputeUnits, []) => return Err(wrong("has no unit".into())),
            (Unit::OfKey, []) | (Unit::ComputeUnits, ["per", "compute", "unit"]) => "",
            (Unit::OfKey, ["per", number]) => number,
            (Unit::ComputeUnits, ["per", number, "compute", "units"]) => number,
            _ => return Err(wrong(format!("has the unit \"{}\"", rest.join(" ")))),
        };
        let known = NUMBERS.iter().find(|(word, _)| *word == number);
        let (_, per) = known.ok_or_else(|| {
            wrong(format!("is for \"{number}\" units; known are thousand, million and billion"))
        })?;
        Ok(Price { money: Money { digits, scale, currency }, per: *per, unit })
    }

    /// What this many compute units cost.
    pub fn of(&self, compute_units: u64) -> Amount {
        self.money.times(compute_units, self.per)
    }

    /// The price of one unit as a number, for projections.
    pub fn value(&self) -> f64 {
        self.money.value() / self.per as f64
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, _) = NUMBERS.iter().find(|(_, per)| *per == self.per).unwrap_or(&NUMBERS[0]);
        match (self.unit, *word) {
            (Unit::OfKey, "") => write!(f, "{}", self.money),
            (Unit::OfKey, word) => write!(f, "{} per {word}", self.money),
            (Unit::ComputeUnits, "") => write!(f, "{} per compute unit", self.money),
            (Unit::ComputeUnits, word) => write!(f, "{} per {word} compute units", self.money),
        }
    }
}

/// The digits of a decimal number without the point, and how many are after it.
fn decimal(text: &str) -> Result<(u64, u32), String> {
    if text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
        return Err(format!("starts with \"{text}\", which is negative"));
    }
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        None => (text, ""),
        Some(_) => return Err(format!("starts with \"{text}\", which is not an amount")),
    };
    let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_plain(whole) || !is_plain(fraction) {
        return Err(format!("starts with \"{text}\", which is not an amount"));
    }
    if whole.len() > DIGITS_MAX || fraction.len() > DIGITS_MAX {
        let why = format!("has more than {DIGITS_MAX} digits before or after the point");
        return Err(why);
    }
    let digits = format!("{whole}{fraction}").parse().map_err(|_| "is too large".to_string())?;
    Ok((digits, fraction.len() as u32))
}

fn currency(word: Option<&str>) -> Result<Currency, String> {
    let Some(word) = word else { return Err("has no currency".into()) };
    Currency::parse(word)
        .ok_or_else(|| format!("has the currency \"{word}\", which is not three capital letters"))
}

/// What relays cost on the network with these CUTTM and CUCG, in uPOKT: of each service their number and
/// its CUPR.
pub fn upokt((cuttm, cucg): (u64, u64), relays: impl IntoIterator<Item = (u64, u64)>) -> u64 {
    let mut units = 0u128;
    for (relays, cupr) in relays {
        units = units.saturating_add(u128::from(relays) * u128::from(cupr));
    }
    // Whole and rest apart, so that the product cannot overflow before it is divided.
    let (whole, rest) = (units / u128::from(cucg), units % u128::from(cucg));
    let cost = whole
        .saturating_mul(u128::from(cuttm))
        .saturating_add(rest * u128::from(cuttm) / u128::from(cucg));
    u64::try_from(cost).unwrap_or(u64::MAX)
}

/// What this many uPOKT cost, if a POKT costs `price`.
pub fn of_upokt(price: &Money, upokt: u64) -> Amount {
    price.times(upokt, 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_and_shown() {
        for text in [
            "0.30 USD per million compute units",
            "2 EUR per thousand compute units",
            "0.000001 USD per compute unit",
            "12.5 CHF per billion compute units",
        ] {
            assert_eq!(Price::parse(text).unwrap().to_string(), text);
        }
        let check = |text: &str, words: &str| {
            let why = Price::parse(text).unwrap_err();
            assert!(why.contains(words) && why.contains("\"0.30 USD per million"), "{text}: {why}");
        };
        check("0.30", "has no currency");
        check("0.30 USD", "has no unit");
        check("0.30 usd per million compute units", "\"usd\", which is not three capital letters");
        check("$0.30 per million compute units", "\"$0.30\", which is not an amount");
        check("-1 USD per compute unit", "\"-1\", which is negative");
        check("1e3 USD per compute unit", "not an amount");
        check("0.30 USD per million calls", "has the unit \"per million calls\"");
        check("0.30 USD per dozen compute units", "is for \"dozen\" units");
        check("1234567890 USD per compute unit", "more than 9 digits");
        check("1. USD per compute unit", "not an amount");
        check("", "is empty");
        assert_eq!(Money::parse("0.007 USD").unwrap().to_string(), "0.007 USD");
        assert!(Money::parse("0.007 USD per POKT").unwrap_err().contains("after the currency"));
        assert!(Money::parse("0.007").unwrap_err().contains("has no currency"));
    }

    #[test]
    fn prices_whose_key_names_the_unit() {
        for (text, value) in [("0.04 USD", 0.04), ("0.20 USD per million", 2e-7)] {
            let price = Price::parse_of_key(text).unwrap();
            assert_eq!(price.to_string(), text);
            assert!((price.value() / value - 1.0).abs() < 1e-12, "{text}");
        }
        let check = |text: &str, words: &str| {
            let why = Price::parse_of_key(text).unwrap_err();
            assert!(why.contains(words) && why.contains("\"0.04 USD\""), "{text}: {why}");
        };
        check("0.04", "has no currency");
        check("-0.04 USD", "is negative");
        check("0.04 USD per hour", "is for \"hour\" units");
        check("0.04 USD a month", "has the unit \"a month\"");
        check("1 USD per million compute units", "has the unit \"per million compute units\"");
    }

    #[test]
    fn costs_are_exact() {
        let check = |price: &str, units: u64, cost: &str| {
            assert_eq!(Price::parse(price).unwrap().of(units).to_string(), cost, "{price} {units}");
        };
        check("0.30 USD per million compute units", 1_000_000, "0.30");
        check("0.30 USD per million compute units", 1, "0.0000003");
        check("0.30 USD per million compute units", 12_345_678, "3.7037034");
        // 0.1 + 0.2, and a sum that no double can hold.
        check("0.1 USD per compute unit", 3, "0.30");
        check("0.01 USD per compute unit", 9_007_199_254_740_993, "90071992547409.93");
        check("0.5 USD per billion compute units", 1, "0.00");
        check("0.000000001 USD per compute unit", u64::MAX, "18446744073.709551615");
        check("999999999.999999999 USD per compute unit", 1_000, "999999999999.999999");
        let (one, two) = (Amount(1_500_000_000), Amount(2_000_000_000));
        assert_eq!(
            (one.minus(two).to_string(), one.plus(two).to_string()),
            ("-0.50".into(), "3.50".into())
        );
    }

    #[test]
    fn the_network_costs_as_its_formula_says() {
        let check = |cuttm, cucg, relays: &[(u64, u64)], cost| {
            assert_eq!(upokt((cuttm, cucg), relays.iter().copied()), cost, "{relays:?}");
        };
        // 42 uPOKT for each compute unit of the network.
        check(42_000_000, 1_000_000, &[(10, 7)], 2_940);
        // One floor at the end: 3 × 0.14599 × 7 = 3.06579, and not three times floor(1.02193).
        check(145_990, 1_000_000, &[(3, 7)], 3);
        check(145_990, 1_000_000, &[(1, 7), (2, 7), (5, 100)], 76);
        check(1, 1, &[(u64::MAX, 1)], u64::MAX);
        check(PARAMETER_MAX, 1, &[(u64::MAX, PARAMETER_MAX)], u64::MAX);
        let pokt = Money::parse("0.007 USD").unwrap();
        assert_eq!(of_upokt(&pokt, 2_940).to_string(), "0.00002058");
    }
}
