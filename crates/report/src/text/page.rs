//! The lines of a report. Longer text wraps at words, so that no line exceeds the page's width.

use super::table::Table;
use super::width::{char_width, clean, cut, width};
use crate::tone::Tone;

/// If the lead leaves less than 1/`LEAD_PART` of the line, or too little for a word, continuation lines
/// are not aligned with the end of the lead.
const LEAD_PART: usize = 2;
/// The indent of continuation lines in that case.
const HANG: usize = 4;

/// The beginning of a line, in a colour.
pub(super) struct Lead<'a> {
    text: &'a str,
    tone: Tone,
}

impl<'a> From<&'a str> for Lead<'a> {
    fn from(text: &'a str) -> Lead<'a> {
        Lead { text, tone: Tone::Plain }
    }
}

impl<'a> From<&'a String> for Lead<'a> {
    fn from(text: &'a String) -> Lead<'a> {
        Lead::from(text.as_str())
    }
}

/// A lead in a colour.
pub(super) fn toned(tone: Tone, text: &str) -> Lead<'_> {
    Lead { text, tone }
}

/// A line whose beginning may be coloured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The text, which does not move a terminal's cursor.
    pub text: String,
    /// The colour.
    pub tone: Tone,
    /// The bytes of the text that have the colour.
    pub toned: usize,
}

impl From<String> for Line {
    fn from(text: String) -> Line {
        Line { text, tone: Tone::Plain, toned: 0 }
    }
}

/// A report being written.
pub(super) struct Page {
    columns: usize,
    note_lines: usize,
    lines: Vec<Line>,
}

impl Page {
    /// A page `columns` wide. Notes of tables take at most `note_lines` lines each; if that is
    /// `usize::MAX`, nothing is cut.
    pub(super) fn new(columns: usize, note_lines: usize) -> Page {
        Page { columns, note_lines, lines: Vec::new() }
    }

    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn into_lines(self) -> Vec<Line> {
        self.lines
    }

    /// An empty line.
    pub(super) fn gap(&mut self) {
        self.lines.push(String::new().into());
    }

    /// A horizontal rule.
    pub(super) fn rule(&mut self) {
        self.lines.push("═".repeat(self.columns).into());
    }

    /// Tables, with an empty line before each.
    pub(super) fn tables(&mut self, tables: impl IntoIterator<Item = Table>) {
        for table in tables {
            self.gap();
            self.table(&table);
        }
    }

    /// Text that may wrap at every word.
    pub(super) fn text<'a>(&mut self, lead: impl Into<Lead<'a>>, text: &str) {
        self.phrases(lead, &words(text));
    }

    /// Text that wraps between phrases, and within a phrase only if it is longer than a line.
    pub(super) fn phrases<'a>(&mut self, lead: impl Into<Lead<'a>>, phrases: &[String]) {
        let Lead { text, tone } = lead.into();
        let lead = clean(text);
        let phrases: Vec<String> = phrases.iter().map(|phrase| clean(phrase)).collect();
        let room = self.columns.saturating_sub(width(&lead));
        let word = phrases.iter().flat_map(|phrase| phrase.split(' ')).map(width).max();
        let narrow = room < self.columns / LEAD_PART || word > Some(room);
        let hang = if narrow { HANG } else { width(&lead) };
        let first = self.lines.len();
        let lines = wrapped(&lead, &phrases, hang, self.columns);
        self.lines.extend(lines.into_iter().map(Line::from));
        let line = &mut self.lines[first];
        (line.tone, line.toned) = (tone, lead.trim_end().len().min(line.text.len()));
    }

    pub(super) fn table(&mut self, table: &Table) {
        self.lines.extend(table.lines(self.columns, self.note_lines));
    }

    /// The text of the page.
    pub(super) fn finish(self, color: bool) -> String {
        let mut page = String::new();
        for Line { text, tone, toned } in self.lines {
            // Only a table whose figures need more than the page's width is cut here.
            let text = if self.note_lines == usize::MAX { text } else { cut(&text, self.columns) };
            let (start, rest) = text.split_at_checked(toned).unwrap_or(("", &text));
            page += &(tone.paint(start, color) + rest + "\n");
        }
        page
    }
}

/// The words of a text. A percent sign stays with its number.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match words.last_mut() {
            Some(number) if word.starts_with('%') => *number += &format!(" {word}"),
            _ => words.push(word.into()),
        }
    }
    words
}

/// Phrases in lines of at most `columns`; the first line starts with the lead, the others are indented by
/// `hang`.
pub(super) fn wrapped(lead: &str, phrases: &[String], hang: usize, columns: usize) -> Vec<String> {
    let mut lines = Lines { all: vec![lead.into()], fresh: true, hang, columns };
    phrases.iter().for_each(|phrase| lines.add(phrase));
    lines.all.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
    lines.all
}

struct Lines {
    all: Vec<String>,
    /// Whether the last line contains only the lead or indent.
    fresh: bool,
    hang: usize,
    columns: usize,
}

impl Lines {
    fn add(&mut self, phrase: &str) {
        let begins = self.fresh && self.all.len() > 1;
        if phrase.is_empty() && (begins || self.room() == 0) {
            // A space between words is dropped at the start of a line.
            return;
        }
        let whole = self.columns.saturating_sub(self.hang);
        if width(phrase) + usize::from(!self.fresh) <= self.room() {
            self.push(if self.fresh { "" } else { " " });
            self.push(phrase);
        } else if width(phrase) <= whole {
            self.next();
            self.push(phrase);
        } else if phrase.contains(' ') {
            phrase.split(' ').for_each(|word| self.add(word));
        } else {
            self.add_split(phrase);
        }
    }

    /// Splits a word that is longer than a line.
    fn add_split(&mut self, word: &str) {
        let mut rest = word.chars().peekable();
        while rest.peek().is_some() {
            if !self.fresh || self.room() == 0 {
                self.next();
            }
            let mut chunk = String::new();
            let mut room = self.room().max(2);
            while let Some(c) = rest.next_if(|c| char_width(*c) <= room) {
                room -= char_width(c);
                chunk.push(c);
            }
            self.push(&chunk);
        }
    }

    /// The columns left in the last line.
    fn room(&self) -> usize {
        self.columns.saturating_sub(self.all.last().map_or(0, |line| width(line)))
    }

    fn push(&mut self, text: &str) {
        self.all.last_mut().expect("there is a first line").push_str(text);
        self.fresh = false;
    }

    fn next(&mut self) {
        self.all.push(" ".repeat(self.hang));
        self.fresh = true;
    }
}
