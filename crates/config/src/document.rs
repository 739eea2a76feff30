//! Reads a TOML document and keeps the position of every value.
//!
//! A [`Table`] remembers the keys that were read; [`Table::close`] reports all others as unknown, each
//! with the nearest known key. Reading does not stop at a problem: the problem is collected and the
//! value is absent.

use crate::attached::Attached;
use crate::problem::{Place, Problem, Problems};
use crate::redact::secret_within;
use crate::secrets::Secrets;
use crate::variables::{Text, Variables};
use crate::{nearest, values};
use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A document as it was written.
#[derive(Clone, Debug)]
pub struct Document {
    source: Source,
    text: String,
    lines: OnceLock<Vec<usize>>,
    /// How many bytes were looked at to find places.
    #[cfg(test)]
    searched: std::cell::Cell<usize>,
}

#[derive(Clone, Debug)]
enum Source {
    File(String),
    /// The name of each line's origin; `is_key` if it already names the line's key.
    Lines {
        names: Vec<String>,
        is_key: bool,
    },
}

impl Document {
    /// The largest document that is read, in bytes.
    pub const LEN_MAX: usize = 16 << 20;

    /// A document from a file; `file` is its name in problems.
    pub fn new(file: impl Into<String>, text: impl Into<String>) -> Document {
        Document::of(Source::File(file.into()), text.into())
    }

    /// A document assembled from database entries: the name of each and its lines of TOML. Problems
    /// show the name instead of a line and column.
    pub fn from_entries(parts: impl IntoIterator<Item = (String, String)>) -> Document {
        Document::assembled(parts, false)
    }

    /// A document assembled from flags or environment variables: the name of each and the line of
    /// TOML that assigns its key. Problems show the name instead of a line, a column and the key.
    pub fn from_named(parts: impl IntoIterator<Item = (String, String)>) -> Document {
        Document::assembled(parts, true)
    }

    fn assembled(parts: impl IntoIterator<Item = (String, String)>, is_key: bool) -> Document {
        let mut names = Vec::new();
        let mut text = String::new();
        for (name, lines) in parts {
            names.extend(std::iter::repeat_n(name, lines.matches('\n').count() + 1));
            text += &lines;
            text.push('\n');
        }
        Document::of(Source::Lines { names, is_key }, text)
    }

    fn of(source: Source, text: String) -> Document {
        Document {
            source,
            text,
            lines: OnceLock::new(),
            #[cfg(test)]
            searched: Default::default(),
        }
    }

    /// Where each line starts. Found once, because each value of a document may be asked for its place.
    fn lines(&self) -> &[usize] {
        self.lines.get_or_init(|| {
            #[cfg(test)]
            self.searched.set(self.searched.get() + self.text.len());
            let ends = self.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
            std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect()
        })
    }

    /// The top-level keys, as far as the document can be parsed: to guess its kind.
    pub fn keys(&self) -> Vec<String> {
        let (root, _) = DeTable::parse_recoverable(&self.text);
        root.get_ref().iter().map(|(name, _)| name.get_ref().to_string()).collect()
    }

    /// Reads the whole document with `read`, substituting variables.
    ///
    /// # Errors
    /// All problems: of syntax, and those that `read` reports.
    pub fn read<T>(
        &self,
        variables: &Variables,
        read: impl FnOnce(&Table<'_>) -> Option<T>,
    ) -> Result<T, Problems> {
        let problems = RefCell::new(Problems::default());
        let reader = Reader { document: self, variables, problems: &problems };
        if self.text.len() > Self::LEN_MAX {
            reader.note(0..0, format!("the file is larger than {} bytes", Self::LEN_MAX), "");
            return Err(problems.into_inner());
        }
        let (root, faults) = DeTable::parse_recoverable(&self.text);
        for fault in &faults {
            reader.note(fault.span().unwrap_or(0..0), fault.message().into(), "");
        }
        let value = (faults.is_empty()).then(|| {
            let table = Table {
                reader,
                table: root.get_ref(),
                span: 0..0,
                what: "the top level of the file",
                known: RefCell::default(),
            };
            let value = read(&table);
            table.close();
            value
        });
        let problems = problems.into_inner();
        match value.flatten() {
            Some(value) if problems.is_empty() => Ok(value),
            _ => {
                assert!(!problems.is_empty(), "a document that cannot be read has a problem");
                Err(problems.sorted())
            }
        }
    }

    fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let lines = self.lines();
        let line = lines.partition_point(|start| *start <= offset);
        match &self.source {
            Source::File(file) => {
                #[cfg(test)]
                self.searched.set(self.searched.get() + offset - lines[line - 1]);
                let column = self.text[lines[line - 1]..offset].chars().count() + 1;
                Place::File { file: file.clone(), line, column }
            }
            Source::Lines { names, .. } => {
                let name = names.get(line - 1).or(names.last());
                Place::Named(name.cloned().unwrap_or_default())
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Reader<'r> {
    document: &'r Document,
    pub(crate) variables: &'r Variables,
    pub(crate) problems: &'r RefCell<Problems>,
}

impl Reader<'_> {
    fn note(&self, span: Range<usize>, message: String, hint: &str) {
        self.add(self.document.place(span.start), message, hint);
    }

    /// Adds a problem, without the values of secret variables.
    pub(crate) fn add(&self, place: Place, message: String, hint: &str) {
        let secrets = self.variables.secrets();
        let (message, hint) = (secrets.mask(&message), secrets.mask(hint));
        self.problems.borrow_mut().push(Problem { place, message, hint });
    }
}

/// A table of a document.
pub struct Table<'r> {
    reader: Reader<'r>,
    table: &'r DeTable<'r>,
    span: Range<usize>,
    what: &'static str,
    known: RefCell<Vec<&'static str>>,
}

impl<'r> Table<'r> {
    /// The value of a key; marks the key as known.
    pub fn field(&self, key: &'static str) -> Option<Field<'r>> {
        self.known.borrow_mut().push(key);
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Field { reader: self.reader, key: key.into(), key_span: name.span(), value })
    }

    /// All keys with their values; for a table whose keys are chosen by the user.
    pub fn entries(&self) -> Vec<(String, Field<'r>)> {
        let entries = self.table.iter().map(|(name, value)| {
            let key = name.get_ref().to_string();
            let field =
                Field { reader: self.reader, key: key.clone(), key_span: name.span(), value };
            (key, field)
        });
        entries.collect()
    }

    /// The values of the secret variables that the document has used so far.
    pub fn secrets(&self) -> Secrets {
        self.reader.variables.secrets()
    }

    /// Whether the table has no keys.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The table's position.
    pub fn place(&self) -> Place {
        self.reader.document.place(self.span.start)
    }

    /// Reports a problem with the table as a whole.
    pub fn problem(&self, message: impl Into<String>, hint: &str) {
        self.reader.note(self.span.clone(), message.into(), hint);
    }

    /// Reports unknown keys.
    pub fn close(&self) {
        self.close_showing(|key| Cow::Borrowed(key));
    }

    /// The same, with each unknown key in the form that `shown` returns: in place of a key may stand
    /// something secret.
    pub fn close_showing(&self, shown: impl Fn(&str) -> Cow<'_, str>) {
        let known = self.known.borrow();
        for (name, _) in self.table.iter().filter(|(name, _)| !known.contains(&&**name.get_ref())) {
            let hint = match nearest(name.get_ref(), known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => {
                    let mut known = known.clone();
                    known.sort_unstable();
                    known.dedup();
                    format!("known keys: {}", known.join(", "))
                }
            };
            let message = format!("unknown key \"{}\" in {}", shown(name.get_ref()), self.what);
            self.reader.note(name.span(), message, &hint);
        }
    }
}

/// A value of a document, with its key and position.
pub struct Field<'r> {
    reader: Reader<'r>,
    key: String,
    key_span: Range<usize>,
    value: &'r Spanned<DeValue<'r>>,
}

impl<'r> Field<'r> {
    /// The value's position.
    pub fn place(&self) -> Place {
        self.reader.document.place(self.value.span().start)
    }

    /// Reports a problem at the value.
    pub fn problem(&self, message: impl Into<String>, hint: &str) {
        self.reader.note(self.value.span(), message.into(), hint);
    }

    /// Reports a problem with the value's content, after the key's name, unless the place is already
    /// named for the key.
    pub fn problem_with_value(&self, message: impl std::fmt::Display, hint: &str) {
        let message = match self.reader.document.source {
            Source::Lines { is_key: true, .. } => message.to_string(),
            _ => format!("\"{}\": {message}", self.key),
        };
        self.problem(message, hint);
    }

    /// Reports a problem at the key.
    pub fn problem_with_key(&self, message: impl Into<String>, hint: &str) {
        self.reader.note(self.key_span.clone(), message.into(), hint);
    }

    fn wrong_type(&self, expected: &str) {
        let found = match self.value.get_ref().type_str() {
            "array" => "a list",
            "integer" => "an integer",
            other => &format!("a {other}"),
        };
        self.problem(format!("\"{}\" must be {expected}, not {found}", self.key), "");
    }

    /// Whether the value is a table.
    pub fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    /// Whether the value is a list.
    pub fn is_list(&self) -> bool {
        self.value.get_ref().is_array()
    }

    /// Whether the value is a string.
    pub fn is_text(&self) -> bool {
        self.value.get_ref().is_str()
    }

    /// Whether the value is an integer.
    pub fn is_integer(&self) -> bool {
        self.value.get_ref().is_integer()
    }

    /// A string with its variables substituted.
    pub fn text(&self) -> Option<Text> {
        let Some(text) = self.value.get_ref().as_str() else {
            self.wrong_type("a string in quotes");
            return None;
        };
        match self.reader.variables.fill(text) {
            Ok(text) => Some(text),
            Err(fault) => {
                let (message, hint) = fault.message_and_hint();
                self.problem(message, &hint);
                None
            }
        }
    }

    /// A string that results and reports contain: a secret variable in it is a problem. `what` names the
    /// string in the message: "a target's name".
    pub fn open_text(&self, what: &str) -> Option<String> {
        let text = self.text()?;
        if let Some((message, hint)) = secret_within(what, &text.shown) {
            self.problem(message, hint);
            return None;
        }
        Some(text.value)
    }

    /// The file that this value refers to; `file` is its name in problems.
    pub fn attached(&self, file: impl Into<String>) -> Attached<'r> {
        Attached::new(self.reader, file.into())
    }

    /// A string parsed by `read`, such as [`values::rate`]. `None` without a problem if it contains a
    /// variable that is left unset (see [`Variables::leave_unset`]).
    pub fn parse<T>(&self, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text().filter(|text| text.unset.is_none())?;
        match read(&text.value) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem_with_value(message, "");
                None
            }
        }
    }

    /// A date, as a TOML date or as a string, parsed by `read`.
    pub fn date_time<T>(&self, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let Some(date) = self.value.get_ref().as_datetime() else { return self.parse(read) };
        read(&date.to_string()).map_err(|message| self.problem_with_value(message, "")).ok()
    }

    /// A duration.
    pub fn duration(&self) -> Option<Duration> {
        if let Some(number) = self.number() {
            let message = format!("\"{}\" must be a string with a unit, not {number}", self.key);
            self.problem(message, &format!("write \"{number}s\" for seconds"));
            return None;
        }
        self.parse(values::duration)
    }

    /// An integer or a float, as it is written; `None` for anything else.
    pub fn number(&self) -> Option<&str> {
        match self.value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str()),
            DeValue::Float(number) => Some(number.as_str()),
            _ => None,
        }
    }

    /// A duration above zero.
    pub fn duration_above_zero(&self) -> Option<Duration> {
        let span = self.duration()?;
        if span.is_zero() {
            self.problem(format!("\"{}\" must be longer than zero", self.key), "");
            return None;
        }
        Some(span)
    }

    /// A rate per second: a number, or a string such as `300/m`.
    pub fn rate(&self) -> Option<f64> {
        if let Some(number) = self.number() {
            return values::rate(number)
                .map_err(|message| self.problem(format!("\"{}\": {message}", self.key), ""))
                .ok();
        }
        if !self.value.get_ref().is_str() {
            self.wrong_type("a number per second, or a string such as \"300/m\"");
            return None;
        }
        self.parse(values::rate)
    }

    /// A size in bytes: an integer, or a string such as `10MiB`.
    pub fn size(&self) -> Option<u64> {
        if self.is_integer() { self.integer(0, u64::MAX >> 1) } else { self.parse(values::size) }
    }

    /// An integer from `least` to `most`, or a string with a variable whose value is one.
    pub fn integer(&self, least: u64, most: u64) -> Option<u64> {
        let (number, shown) = match self.value.get_ref() {
            DeValue::String(text) if text.contains("${") => {
                let text = self.text().filter(|text| text.unset.is_none())?;
                let Ok(number) = text.value.trim().replace('_', "").parse::<i64>() else {
                    let message =
                        format!("\"{}\" must be a whole number, not \"{}\"", self.key, text.shown);
                    self.problem(message, "");
                    return None;
                };
                (Some(number), text.shown)
            }
            DeValue::Integer(digits) => {
                let number = i64::from_str_radix(digits.as_str(), digits.radix()).ok();
                (number, digits.as_str().to_string())
            }
            _ => {
                self.wrong_type("a whole number");
                return None;
            }
        };
        match number.and_then(|n| u64::try_from(n).ok()) {
            Some(n) if (least..=most).contains(&n) => Some(n),
            _ => {
                let is_above = number.is_none() && !shown.starts_with('-');
                let message = if most >= u64::MAX >> 1 && is_above {
                    format!("\"{}\" must be at most {}, not {shown}", self.key, i64::MAX)
                } else if most >= u64::MAX >> 1 {
                    format!("\"{}\" must be at least {least}, not {shown}", self.key)
                } else {
                    format!("\"{}\" must be from {least} to {most}, not {shown}", self.key)
                };
                self.problem(message, "");
                None
            }
        }
    }

    /// A possibly negative integer from `least` to `most`.
    pub fn signed(&self, least: i64, most: i64) -> Option<i64> {
        let Some(digits) = self.value.get_ref().as_integer() else {
            self.wrong_type("a whole number");
            return None;
        };
        let number = i64::from_str_radix(digits.as_str(), digits.radix()).ok();
        let number = number.filter(|n| (least..=most).contains(n));
        if number.is_none() {
            let shown = digits.as_str();
            let message = format!("\"{}\" must be from {least} to {most}, not {shown}", self.key);
            self.problem(message, "");
        }
        number
    }

    /// A boolean.
    pub fn boolean(&self) -> Option<bool> {
        let value = self.value.get_ref().as_bool();
        if value.is_none() {
            self.wrong_type("true or false");
        }
        value
    }

    /// One of a fixed set of words.
    pub fn one_of<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text().filter(|text| text.unset.is_none())?;
        let found = words.iter().find(|(word, _)| *word == text.value).map(|(_, value)| *value);
        if found.is_none() {
            let known = words.iter().map(|(word, _)| *word);
            let hint =
                nearest(&text.value, known.clone()).map(|near| format!("did you mean \"{near}\"?"));
            let one_of = alternatives(known);
            let message = format!("\"{}\" must be {one_of}, not \"{}\"", self.key, text.shown);
            self.problem(message, &hint.unwrap_or_default());
        }
        found
    }

    /// A table, named `what` in problems.
    pub fn table(&self, what: &'static str) -> Option<Table<'r>> {
        let Some(table) = self.value.get_ref().as_table() else {
            self.wrong_type("a table");
            return None;
        };
        let span = self.key_span.clone();
        Some(Table { reader: self.reader, table, span, what, known: RefCell::default() })
    }

    /// The items of a list.
    pub fn list(&self) -> Option<Vec<Field<'r>>> {
        let Some(items) = self.value.get_ref().as_array() else {
            self.wrong_type("a list");
            return None;
        };
        let item = |value: &'r Spanned<DeValue<'r>>| Field {
            reader: self.reader,
            key: self.key.clone(),
            key_span: value.span(),
            value,
        };
        Some(items.iter().map(item).collect())
    }

    /// The tables of an array of tables (`[[target]]`), each named `what` in problems.
    pub fn tables(&self, what: &'static str) -> Vec<Table<'r>> {
        match self.value.get_ref() {
            DeValue::Array(_) => {
                let items = self.list().unwrap_or_default();
                items.iter().filter_map(|item| item.table(what)).collect()
            }
            _ => {
                self.problem(
                    format!("\"{}\" must be a list of tables", self.key),
                    &format!("write [[{}]] above its keys", self.key),
                );
                Vec::new()
            }
        }
    }
}

/// Quoted words, as alternatives: `"a", "b" or "c"`.
fn alternatives<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests;
