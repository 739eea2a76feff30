//! Prometheus' text exposition format, version 0.0.4: what a process tells of itself.
//!
//! A line is `name{label="value",…} number`, perhaps with a timestamp and, from newer libraries, an
//! exemplar behind it; both are passed over, as are comments and types. A page with one malformed line
//! is refused whole, as Prometheus does: half a page would look like counters that went away.

use std::fmt;

/// One time series: a name and its labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// The metric's name.
    pub name: String,
    /// Names and values, by name; no name twice.
    pub labels: Vec<(String, String)>,
}

impl Series {
    /// Reads the notation of a page: `name{label="value"}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Series, &'static str> {
        let mut cursor = Cursor { rest: text };
        let series = cursor.series()?;
        if cursor.rest.is_empty() { Ok(series) } else { Err("something behind the labels") }
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// As a page writes it.
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

/// The line of a page that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Malformed {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The series of a page with their values, in order. What is not finite says nothing that could be
/// added up and is left out.
///
/// # Errors
/// The first line that is malformed.
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
        let value = words.next().ok_or("no value")?;
        // "+Inf", "-Inf" and "NaN" are numbers here, "infinity" and "nan" are harmless besides.
        let value = value.parse().map_err(|_| "the value is no number")?;
        match words.next() {
            None => {}
            Some(word) if word.starts_with('#') => {}
            Some(word) => {
                word.parse::<f64>().map_err(|_| "the timestamp is no number")?;
                if words.next().is_some_and(|word| !word.starts_with('#')) {
                    return Err("something behind the timestamp");
                }
            }
        }
        Ok((series, value))
    }

    fn series(&mut self) -> Result<Series, &'static str> {
        let name = self.word(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
        if !name.starts_with(|c: char| !c.is_ascii_digit()) {
            return Err("no metric name");
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
            return Err("a label twice");
        }
        Ok(Series { name: name.into(), labels })
    }

    /// Up to and with the closing brace; a comma may stand before it.
    fn labels(&mut self, labels: &mut Vec<(String, String)>) -> Result<(), &'static str> {
        loop {
            self.space();
            if self.take('}') {
                return Ok(());
            }
            let name = self.word(|c| c.is_ascii_alphanumeric() || c == '_');
            if !name.starts_with(|c: char| !c.is_ascii_digit()) {
                return Err("no label name");
            }
            self.space();
            if !self.take('=') {
                return Err("a label without \"=\"");
            }
            self.space();
            if !self.take('"') {
                return Err("a label's value without quotation marks");
            }
            labels.push((name.into(), self.quoted()?));
            self.space();
            if !self.take(',') && !self.rest.starts_with('}') {
                return Err("no \",\" or \"}\" behind a label");
            }
        }
    }

    /// Up to and with the closing quotation mark.
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
                    _ => return Err("an escape that is none"),
                },
                c => value.push(c),
            }
        }
        Err("a label's value without an end")
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
        assert_eq!(Series::parse("a 1"), Err("something behind the labels"));
    }

    #[test]
    fn malformed_pages() {
        let check = |line: &str, why: &str| {
            let fault = parse(&format!("ok 1\n{line}\nok 2")).unwrap_err();
            assert_eq!(fault.to_string(), format!("line 2: {why}"), "{line}");
        };
        check("<html>", "no metric name");
        check("1a 1", "no metric name");
        check("a", "no value");
        check("a one", "the value is no number");
        check("a 1 now", "the timestamp is no number");
        check("a 1 2 3", "something behind the timestamp");
        check("a{1=\"x\"} 1", "no label name");
        check("a{b} 1", "a label without \"=\"");
        check("a{b=1} 1", "a label's value without quotation marks");
        check("a{b=\"1} 1", "a label's value without an end");
        check("a{b=\"\\x\"} 1", "an escape that is none");
        check("a{b=\"1\" c=\"2\"} 1", "no \",\" or \"}\" behind a label");
        check("a{b=\"1\",b=\"2\"} 1", "a label twice");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,9}",
            labels in proptest::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_]{0,5}", ".{0,8}", 0..4),
            value: f64,
        ) {
            // A line ends a page's line, and a return before it belongs to the end.
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
        fn anything_is_read_or_refused(page in "([a-z]{1,3}|[{}=\",#\\\\ ]|[0-9]|\\PC|\n){0,40}") {
            match parse(&page) {
                Ok(samples) => for (series, _) in samples {
                    prop_assert_eq!(Series::parse(&series.to_string()), Ok(series));
                },
                Err(fault) => prop_assert!((1..=page.lines().count()).contains(&fault.line)),
            }
        }
    }
}
