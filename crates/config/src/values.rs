//! Rates, durations, shares and sizes as people write them: `5000/s`, `1h30m`, `10MiB`.
//!
//! Each parser's error includes the expected form; each `show_*` prints what its parser accepts.

use std::fmt::Write;
use std::time::Duration;

const NS_PER_HOUR: u128 = 3_600_000_000_000;
const NS_PER_S: u128 = 1_000_000_000;
const UNITS: [(&str, u128); 6] = [
    ("h", NS_PER_HOUR),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Parses a duration: numbers with units, largest first (`250ms`, `33m`, `1h30m`, `1.5s`). Zero is
/// `0s`; the maximum is ten years.
///
/// # Errors
/// What is wrong, and the expected form.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a duration; write it like 250ms, 30s, 33m or 1h30m");
    if text.starts_with('-') {
        return Err(format!("a duration cannot be negative: \"{text}\""));
    }
    if is_number(text.trim()) {
        return Err(format!("\"{text}\" has no unit; write {}s for seconds", text.trim()));
    }
    let mut total = 0u128;
    let mut rest = text.trim();
    let mut last_unit = u128::MAX;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit = if unit == "µs" { "us" } else { unit };
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        if *scale >= last_unit {
            return Err(wrong());
        }
        last_unit = *scale;
        total += decimal(number, *scale).ok_or_else(wrong)?;
        rest = after;
    }
    if total > 10 * 365 * 24 * NS_PER_HOUR {
        return Err(format!("\"{text}\" is longer than ten years"));
    }
    Ok(Duration::from_nanos(total as u64))
}

/// Parses a duration as [`duration`] does, except that a number without a unit is in seconds: the form
/// for a command line.
///
/// # Errors
/// What is wrong, and the expected form.
pub fn flag_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if is_number(text) { duration(&format!("{text}s")) } else { duration(text) }
}

/// Whether the text is a plain decimal number.
fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// `number` × `scale`, exact; `None` unless it is a plain decimal number of at most 12 + 12 digits.
fn decimal(number: &str, scale: u128) -> Option<u128> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || whole.len() > 12 || part.len() > 12 || number.ends_with('.') {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let part_value: u128 = if part.is_empty() { 0 } else { part.parse().ok()? };
    let divisor = 10u128.pow(part.len() as u32);
    Some(whole * scale + part_value * scale / divisor)
}

/// Prints a duration exactly, in the form that [`duration`] parses.
pub fn show_duration(span: Duration) -> String {
    let mut rest = span.as_nanos();
    if rest == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, scale) in UNITS {
        let n = rest / scale;
        rest %= scale;
        if n > 0 {
            text += &format!("{n}{unit}");
        }
    }
    text
}

/// Parses a rate and returns it per second: `5000`, `5000/s`, `1.5k`, `300/m`, `2.5/s`, `5_000/s`,
/// `100/100ms`, `1/7s`. Without a unit it is per second; `k` and `M` multiply by a thousand and a
/// million.
///
/// # Errors
/// What is wrong, and the expected form.
pub fn rate(text: &str) -> Result<f64, String> {
    let wrong =
        || format!("\"{text}\" is not a rate; write it like 5000/s, 300/m, 1.5k/s or 100/100ms");
    let (number, unit) = text.trim().split_once('/').unwrap_or((text.trim(), "s"));
    let number = plain_number(number).ok_or_else(wrong)?;
    let unit = unit.trim();
    let digits = unit.find(|c: char| !c.is_ascii_digit()).unwrap_or(unit.len());
    let (count, unit) = unit.split_at(digits);
    let count = match count {
        "" => 1,
        digits => digits.parse().ok().filter(|n| (1..=PER_MAX).contains(n)).ok_or_else(wrong)?,
    };
    let unit = if unit == "µs" { "us" } else { unit };
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    // A rate per second is exactly its number; others are divided once, so that 300/m is exactly 5/s.
    let span = *scale * u128::from(count);
    Ok(if span == NS_PER_S { number } else { number * NS_PER_S as f64 / span as f64 })
}

/// Maximum number of units in a rate's denominator.
const PER_MAX: u32 = 1_000_000;

/// A decimal number below 10¹², optionally with `k` or `M`; `None` for anything else. Scaled in decimal, so that 1.005k is exactly 1005.
pub fn plain_number(text: &str) -> Option<f64> {
    let text = text.trim().replace('_', "");
    let (digits, exponent) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 3),
        None => text.strip_suffix('M').map_or((text.as_str(), 0), |digits| (digits, 6)),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number = format!("{digits}e{exponent}").parse::<f64>().ok()?;
    (plain && number < 1e12).then_some(number)
}

/// Denominators, in seconds, that [`show_rate`] tries in turn.
const SHOWN_PER: [(&str, f64); 3] = [("s", 1.0), ("m", 60.0), ("h", 3600.0)];
/// Other denominators up to this number of seconds are tried after these: 1/7s.
const SHOWN_PER_MAX: u32 = 100;

/// Rates below one per hour are shown with a numerator of at most this.
const SHOWN_NUMBER_MAX: u32 = 100;

/// Prints a rate in the form that [`rate`] parses.
pub fn show_rate(per_second: f64) -> String {
    let thousandths = per_second * 1000.0;
    if thousandths >= 1.0 && (thousandths - thousandths.round()).abs() < 1e-9 * thousandths {
        return format!("{}/s", thousandths.round() / 1000.0);
    }
    let seconds = (2..=SHOWN_PER_MAX).map(|n| (format!("{n}s"), f64::from(n)));
    let named = SHOWN_PER.iter().map(|(unit, scale)| (unit.to_string(), *scale));
    for (unit, scale) in named.chain(seconds) {
        let number = per_second * scale;
        if number >= 0.5 && (number - number.round()).abs() < 1e-9 * number {
            return format!("{}/{unit}", number.round());
        }
    }
    // Slower ones as a few per longer span: 7/1000h.
    for number in 1..=SHOWN_NUMBER_MAX {
        let seconds = f64::from(number) / per_second;
        let whole = seconds.round();
        if (1.0..=f64::from(PER_MAX)).contains(&(whole / 3600.0))
            && (seconds - whole).abs() < 1e-9 * whole
        {
            let units =
                [("h", 3600), ("m", 60), ("s", 1)].map(|(unit, of)| (unit, whole as u64, of));
            let fits = |(_, whole, of): &(&str, u64, u64)| {
                whole.is_multiple_of(*of) && whole / of <= u64::from(PER_MAX)
            };
            if let Some((unit, whole, of)) = units.into_iter().find(fits) {
                return format!("{number}/{}{unit}", whole / of);
            }
        }
    }
    format!("{per_second}/s")
}

/// Parses a size in bytes: `512`, `64KiB`, `10MiB`, `1GiB`, and decimal `KB`, `MB`, `GB`.
///
/// # Errors
/// What is wrong, and the expected form.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is not a size; write it like 512B, 64KiB or 10MiB");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.replace('_', "").parse().map_err(|_| wrong())?;
    number.checked_mul(scale).ok_or_else(|| format!("\"{text}\" is too large"))
}

/// Prints a size in the form that [`size`] parses.
pub fn show_size(bytes: u64) -> String {
    for (unit, scale) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes > 0 && bytes.is_multiple_of(scale) {
            return format!("{}{unit}", bytes / scale);
        }
    }
    format!("{bytes}B")
}

/// Parses a percentage: `10%` is 0.1.
///
/// # Errors
/// What is wrong, and the expected form.
pub fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match number {
        Some(number) if (0.0..=100.0).contains(&number) => Ok(number / 100.0),
        _ => Err(format!("\"{text}\" is not a share; write it like 10% or 0.5%")),
    }
}

/// Prints a share in the form that [`share`] parses.
pub fn show_share(share: f64) -> String {
    // Rounded, since 0.07 * 100 is not quite 7.
    format!("{}%", (share * 1e12).round() / 1e10)
}

/// Quotes a string whose variables are already substituted: escapes `${`.
pub fn quote_filled(text: &str) -> String {
    quote(&text.replace("${", "$${"))
}

/// Quotes a string for TOML; as a literal string if that avoids escapes.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    // JSON in a literal string stays readable.
    if !text.is_empty()
        && !text.contains('\'')
        && text.chars().all(|c| !c.is_control())
        && text.contains('"')
    {
        return format!("'{text}'");
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            c if c.is_control() => write!(out, "\\u{:04X}", c as u32).expect("writing to memory"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, ns: u64, shown: &str| {
            let read = duration(text).unwrap();
            assert_eq!((read.as_nanos() as u64, show_duration(read).as_str()), (ns, shown));
        };
        check("250ms", 250_000_000, "250ms");
        check("33m", 1_980_000_000_000, "33m");
        check("1h30m", 5_400_000_000_000, "1h30m");
        check("1.5s", 1_500_000_000, "1s500ms");
        check("0s", 0, "0s");
        check("7µs", 7_000, "7us");
        for bad in
            ["", "5", "s", "5x", "1.s", ".5s", "-1s", "1s1h", "1s 2ms", "99999999999h", "1e3s"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_number_without_a_unit_is_seconds_on_the_command_line_only() {
        let check = |text: &str, ns: u64| {
            assert_eq!(flag_duration(text), Ok(Duration::from_nanos(ns)), "{text}");
        };
        check("2", 2_000_000_000);
        check("0.5", 500_000_000);
        check(" 3 ", 3_000_000_000);
        check("250ms", 250_000_000);
        assert_eq!(duration("5").unwrap_err(), "\"5\" has no unit; write 5s for seconds");
        assert_eq!(duration("0.5").unwrap_err(), "\"0.5\" has no unit; write 0.5s for seconds");
        for bad in ["", "-1", "1_000", "1e3", "5x", "."] {
            assert!(flag_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates() {
        let check = |text: &str, per_second: f64, shown: &str| {
            assert_eq!(rate(text), Ok(per_second), "{text}");
            assert_eq!(show_rate(per_second), shown);
        };
        check("5000/s", 5000.0, "5000/s");
        check("5_000/s", 5000.0, "5000/s");
        check("300/m", 5.0, "5/s");
        check("100/m", 100.0 / 60.0, "100/m");
        check("10/h", 10.0 / 3600.0, "10/h");
        check("1/ms", 1000.0, "1000/s");
        check("2.5/s", 2.5, "2.5/s");
        check("0.1/s", 0.1, "0.1/s");
        check("6/m", 0.1, "0.1/s");
        check("5000", 5000.0, "5000/s");
        check("0.5", 0.5, "0.5/s");
        check("1k/s", 1000.0, "1000/s");
        check("1.5k", 1500.0, "1500/s");
        check("1.005k", 1005.0, "1005/s");
        check("2M/h", 2e6 / 3600.0, "2000000/h");
        check("100/100ms", 1000.0, "1000/s");
        check("1/7s", 1.0 / 7.0, "1/7s");
        check("50/1s", 50.0, "50/s");
        check("3/6h", 0.5 / 3600.0, "1/2h");
        check("1/1000h", 1.0 / 3_600_000.0, "1/1000h");
        check("7/1000h", 7.0 / 3_600_000.0, "7/1000h");
        check("1/1000000h", 1.0 / 3.6e9, "1/1000000h");
        check("1/3601s", 1.0 / 3601.0, "1/3601s");
        check("0.123456789", 0.123456789, "0.123456789/s");
        for bad in
            ["", "k", "5000/", "/s", "5000/day", "-1/s", "inf/s", "1e3/s", "1e3", "1/0s", "1/s2"]
        {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares() {
        let check = |text: &str, value: f64, shown: &str| {
            assert_eq!(share(text), Ok(value), "{text}");
            assert_eq!(show_share(value), shown);
        };
        check("10%", 0.1, "10%");
        check("0%", 0.0, "0%");
        check("100 %", 1.0, "100%");
        check("0.5%", 0.005, "0.5%");
        check("7%", 0.07, "7%");
        for bad in ["", "10", "%", "-1%", "101%", "NaN%", "x%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        let check = |text: &str, bytes: u64, shown: &str| {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(show_size(bytes), shown);
        };
        check("512", 512, "512B");
        check("64KiB", 65_536, "64KiB");
        check("10MiB", 10_485_760, "10MiB");
        check("1MB", 1_000_000, "1000000B");
        for bad in ["", "KiB", "1XB", "-1", "99999999999GiB", "1.5MiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
