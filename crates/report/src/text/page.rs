//! The lines of a report: none is longer than its columns, and what is longer wraps at words.

use super::table::Table;

/// Where a lead leaves less than this part of a line, a half, or too little for a word, further lines do
/// not hang under its end.
const LEAD_PART: usize = 2;
/// How far they are indented then.
const HANG: usize = 4;

/// A report as far as it is written.
pub(super) struct Page {
    columns: usize,
    note_lines: usize,
    lines: Vec<String>,
}

impl Page {
    /// A page `columns` wide, where a table's note takes at most `note_lines` lines.
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

    /// A line across.
    pub(super) fn rule(&mut self) {
        self.lines.push("═".repeat(self.columns));
    }

    /// A text that may wrap at every word.
    pub(super) fn text(&mut self, lead: &str, text: &str) {
        self.phrases(lead, &words(text));
    }

    /// A text that wraps between phrases; within one only where it is longer than a line.
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

    /// The whole.
    pub(super) fn finish(self) -> String {
        self.lines.iter().map(|line| cut(line, self.columns) + "\n").collect()
    }
}

/// How many columns a text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().count()
}

/// The text, at most `columns` long, with a mark where it was cut.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.into();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// The words of a text; a sign of percent stays with its number.
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

/// Phrases in lines of at most `columns`, the first after the lead, further ones indented.
pub(super) fn wrapped(lead: &str, phrases: &[String], hang: usize, columns: usize) -> Vec<String> {
    let mut lines = Lines { all: vec![lead.into()], fresh: true, hang, columns };
    phrases.iter().for_each(|phrase| lines.add(phrase));
    lines.all.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
    lines.all
}

struct Lines {
    all: Vec<String>,
    /// The last holds nothing but its lead or indent.
    fresh: bool,
    hang: usize,
    columns: usize,
}

impl Lines {
    fn add(&mut self, phrase: &str) {
        let begins = self.fresh && self.all.len() > 1;
        if phrase.is_empty() && (begins || self.room() == 0) {
            // What stood between two words is not carried over to a line's beginning.
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
            self.add_in_pieces(phrase);
        }
    }

    /// A word that is longer than a line.
    fn add_in_pieces(&mut self, word: &str) {
        let mut rest = word.chars().peekable();
        while rest.peek().is_some() {
            if !self.fresh || self.room() == 0 {
                self.next();
            }
            let piece: String = rest.by_ref().take(self.room().max(1)).collect();
            self.push(&piece);
        }
    }

    /// What the last line has left.
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
