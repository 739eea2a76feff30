//! The lines of a report. Longer text wraps at words, so that no line exceeds the page's width.

use super::table::Table;

/// If the lead leaves less than 1/`LEAD_PART` of the line, or too little for a word, continuation lines
/// are not aligned with the end of the lead.
const LEAD_PART: usize = 2;
/// The indent of continuation lines in that case.
const HANG: usize = 4;

/// A report being written.
pub(super) struct Page {
    columns: usize,
    note_lines: usize,
    lines: Vec<String>,
}

impl Page {
    /// A page `columns` wide. Notes of tables take at most `note_lines` lines each.
    pub(super) fn new(columns: usize, note_lines: usize) -> Page {
        Page { columns, note_lines, lines: Vec::new() }
    }

    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// An empty line.
    pub(super) fn gap(&mut self) {
        self.lines.push(String::new());
    }

    /// A horizontal rule.
    pub(super) fn rule(&mut self) {
        self.lines.push("═".repeat(self.columns));
    }

    /// Text that may wrap at every word.
    pub(super) fn text(&mut self, lead: &str, text: &str) {
        self.phrases(lead, &words(text));
    }

    /// Text that wraps between phrases, and within a phrase only if it is longer than a line.
    pub(super) fn phrases(&mut self, lead: &str, phrases: &[String]) {
        let room = self.columns.saturating_sub(width(lead));
        let word = phrases.iter().flat_map(|phrase| phrase.split(' ')).map(width).max();
        let narrow = room < self.columns / LEAD_PART || word > Some(room);
        let hang = if narrow { HANG } else { width(lead) };
        self.lines.extend(wrapped(lead, phrases, hang, self.columns));
    }

    pub(super) fn table(&mut self, table: &Table) {
        self.lines.extend(table.lines(self.columns, self.note_lines));
    }

    /// The text of the page.
    pub(super) fn finish(self) -> String {
        self.lines.iter().map(|line| cut(line, self.columns) + "\n").collect()
    }
}

/// The width of a text in columns.
pub(super) fn width(text: &str) -> usize {
    text.chars().count()
}

/// The text, cut to `columns` with an ellipsis if it is longer.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.into();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
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
            let chunk: String = rest.by_ref().take(self.room().max(1)).collect();
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
