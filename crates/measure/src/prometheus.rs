//! A parser for Prometheus' text exposition format, version 0.0.4.
//!
//! A line is `name{label="value",…} number`, optionally followed by a timestamp and, from newer
//! libraries, an exemplar; both are ignored, as are comments and types. A page with a malformed
//! line is rejected as a whole, as in Prometheus: with half a page, counters would seem to have
//! disappeared.

use std::fmt;

/// One time series: a name and its labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// The metric's name.
    pub name: String,
    /// Label names and values, sorted by name; names are unique.
    pub labels: Vec<(String, String)>,
}

impl Series {
    /// Parses `name{label="value"}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Series, &'static str> {
        let mut cursor = Cursor { rest: text };
        let series = cursor.series()?;
        if cursor.rest.is_empty() { Ok(series) } else { Err("unexpected text after the labels") }
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// In the exposition format.
impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        for (place, (name, value)) in self.labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(f, "{}{name}=\"{value}\"", if place == 0 { '{' } else { ',' })?;
        }
        if self.labels.is_empty() { Ok(()) } else { write!(f, "}}") }
    }
}

/// A malformed line of a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Malformed {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The series of a page with their values, in page order. Values that are not finite cannot be
/// summed and are left out.
///
/// # Errors
/// The first malformed line.
pub fn parse(page: &str) -> Result<Vec<(Series, f64)>, Malformed> {
    let mut samples = Vec::new();
    for (line, number) in page.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let sample = Cursor { rest: line }.sample();
        let (series, value) = sample.map_err(|why| Malformed { line: number, why })?;
        if value.is_finite() {
            samples.push((series, value));
        }
    }
    Ok(samples)
}

struct Cursor<'t> {
    rest: &'t str,
}

impl<'t> Cursor<'t> {
    fn sample(&mut self) -> Result<(Series, f64), &'static str> {
        let series = self.series()?;
        let mut words = self.rest.split_ascii_whitespace();
        let value = words.next().ok_or("missing value")?;
        // Rust parses "+Inf", "-Inf" and "NaN", as the format requires.
        let value = value.parse().map_err(|_| "the value is not a number")?;
        match words.next() {
            None => {}
            Some(word) if word.starts_with('#') => {}
            Some(word) => {
                word.parse::<f64>().map_err(|_| "the timestamp is not a number")?;
                if words.next().is_some_and(|word| !word.starts_with('#')) {
                    return Err("unexpected text after the timestamp");
                }
            }
        }
        Ok((series, value))
    }

    fn series(&mut self) -> Result<Series, &'static str> {
        let name = self.word(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
        if !name.starts_with(|c: char| !c.is_ascii_digit()) {
            return Err("missing or invalid metric name");
        }
        let mut labels = Vec::new();
        let before = self.rest;
        self.space();
        if self.take('{') {
            self.labels(&mut labels)?;
        } else {
            self.rest = before;
        }
        labels.sort();
        if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("duplicate label");
        }
        Ok(Series { name: name.into(), labels })
    }

    /// Through the closing brace; a trailing comma is allowed.
    fn labels(&mut self, labels: &mut Vec<(String, String)>) -> Result<(), &'static str> {
        loop {
            self.space();
            if self.take('}') {
                return Ok(());
            }
            let name = self.word(|c| c.is_ascii_alphanumeric() || c == '_');
            if !name.starts_with(|c: char| !c.is_ascii_digit()) {
                return Err("missing or invalid label name");
            }
            self.space();
            if !self.take('=') {
                return Err("expected \"=\" after a label name");
            }
            self.space();
            if !self.take('"') {
                return Err("label value is not quoted");
            }
            labels.push((name.into(), self.quoted()?));
            self.space();
            if !self.take(',') && !self.rest.starts_with('}') {
                return Err("expected \",\" or \"}\" after a label");
            }
        }
    }

    /// Through the closing quotation mark.
    fn quoted(&mut self) -> Result<String, &'static str> {
        let mut value = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(value);
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => value.push('\n'),
                    Some(c @ ('"' | '\\')) => value.push(c),
                    _ => return Err("invalid escape sequence"),
                },
                c => value.push(c),
            }
        }
        Err("unterminated label value")
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> &'t str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn take(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages() {
        let page = "# HELP a what it is\n# TYPE a counter\na 1\n\n  b_total{x=\"1\"} 2.5e3 1700000000\r\n\
            c:d { y = \"q\\\"\\\\\\n}\" , x=\"\", } +3 # {trace=\"1\"} 0.5\ne NaN\nf +Inf 12 # x\n";
        let shown: Vec<String> = parse(page)
            .unwrap()
            .iter()
            .map(|(series, value)| format!("{series} {value}"))
            .collect();
        let expected = ["a 1", "b_total{x=\"1\"} 2500", "c:d{x=\"\",y=\"q\\\"\\\\\\n}\"} 3"];
        assert_eq!(shown, expected);
        let series = Series::parse("a{b=\"c\"}").unwrap();
        assert_eq!((series.label("b"), series.label("c")), (Some("c"), None));
        assert_eq!(Series::parse("a 1"), Err("unexpected text after the labels"));
    }

    #[test]
    fn malformed_pages() {
        let check = |line: &str, why: &str| {
            let fault = parse(&format!("ok 1\n{line}\nok 2")).unwrap_err();
            assert_eq!(fault.to_string(), format!("line 2: {why}"), "{line}");
        };
        check("<html>", "missing or invalid metric name");
        check("1a 1", "missing or invalid metric name");
        check("a", "missing value");
        check("a one", "the value is not a number");
        check("a 1 now", "the timestamp is not a number");
        check("a 1 2 3", "unexpected text after the timestamp");
        check("a{1=\"x\"} 1", "missing or invalid label name");
        check("a{b} 1", "expected \"=\" after a label name");
        check("a{b=1} 1", "label value is not quoted");
        check("a{b=\"1} 1", "unterminated label value");
        check("a{b=\"\\x\"} 1", "invalid escape sequence");
        check("a{b=\"1\" c=\"2\"} 1", "expected \",\" or \"}\" after a label");
        check("a{b=\"1\",b=\"2\"} 1", "duplicate label");
    }

    proptest! {
        #[test]
        fn displayed_series_parse_back(
            name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,9}",
            labels in proptest::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_]{0,5}", ".{0,8}", 0..4),
            value: f64,
        ) {
            // A carriage return before a line feed is part of the line ending.
            let labels = labels.into_iter().map(|(k, v)| (k, v.replace('\r', ""))).collect();
            let series = Series { name, labels };
            prop_assert_eq!(Series::parse(&series.to_string()), Ok(series.clone()));
            let read = parse(&format!("{series} {value}")).unwrap();
            if value.is_finite() {
                prop_assert_eq!(read, vec![(series, value)]);
            } else {
                prop_assert_eq!(read, vec![]);
            }
        }

        #[test]
        fn any_input_parses_or_names_a_line(page in "([a-z]{1,3}|[{}=\",#\\\\ ]|[0-9]|\\PC|\n){0,40}") {
            match parse(&page) {
                Ok(samples) => for (series, _) in samples {
                    prop_assert_eq!(Series::parse(&series.to_string()), Ok(series));
                },
                Err(fault) => prop_assert!((1..=page.lines().count()).contains(&fault.line)),
            }
        }
    }
}
