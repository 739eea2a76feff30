//! The one kind of table that a report has: rows of a name, cells, and maybe a note.
//!
//! # Where it does not fit
//! First what is between the columns goes, all columns narrowed by as much at a time, and names longer
//! than [`NAME_MIN`] are shortened; then notes go under their rows; then columns are left out in the
//! shape's order. All sections of a table are laid out together, so that their columns stand under each
//! other.

use super::page::{cut, width, words, wrapped};

/// Names keep so much of themselves as long as a column can be left out instead.
const NAME_MIN: usize = 16;
/// What every line begins with.
const INDENT: usize = 2;
/// What is kept between two columns that are narrowed.
const GAP: usize = 2;
/// With less room than this a note beside its row is a rag.
const NOTE_MIN: usize = 24;

/// What the tables of a kind have in common.
pub(super) struct Shape {
    /// How wide names are.
    pub(super) name: usize,
    pub(super) columns: &'static [Column],
    /// The columns that may be left out, the first to go first.
    pub(super) leaving: &'static [&'static str],
    pub(super) notes: Notes,
}

/// Where notes stand.
pub(super) enum Notes {
    /// Behind their row under this head; under their row where there is no room.
    Beside(&'static str),
    /// Under their row.
    Beneath,
}

/// A column, and how wide it is where there is room.
pub(super) struct Column {
    head: &'static str,
    width: usize,
    words: bool,
}

impl Column {
    /// Figures, which stand at the right.
    pub(super) const fn figures(head: &'static str, width: usize) -> Column {
        Column { head, width, words: false }
    }

    /// Words, which stand at the left.
    pub(super) const fn words(head: &'static str, width: usize) -> Column {
        Column { head, width, words: true }
    }
}

/// A table's rows by section, an empty line between them.
pub(super) struct Table {
    pub(super) shape: &'static Shape,
    pub(super) sections: Vec<Section>,
}

/// Rows under a head of their own.
pub(super) struct Section {
    /// What the names are; without it and without the columns' heads there is no head.
    pub(super) head: String,
    pub(super) rows: Vec<Row>,
    /// Said of what is not shown.
    pub(super) more: Option<String>,
}

/// A name, a cell for each column, and what is to be said besides.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) cells: Vec<String>,
    pub(super) note: String,
}

impl Row {
    /// One of which nothing more is to be said.
    pub(super) fn new(name: impl Into<String>, cells: impl Into<Vec<String>>) -> Row {
        Row { name: name.into(), cells: cells.into(), note: String::new() }
    }

    /// The same with a note.
    pub(super) fn noted(self, note: impl Into<String>) -> Row {
        Row { note: note.into(), ..self }
    }
}

/// How wide everything is.
struct Layout {
    name: usize,
    /// The places of the columns that are shown, and how wide they are.
    shown: Vec<(usize, usize)>,
    notes_beside: bool,
}

impl Layout {
    fn width(&self) -> usize {
        INDENT + self.name + self.shown.iter().map(|(_, width)| width).sum::<usize>()
    }
}

impl Table {
    /// As lines of at most `columns`; each note takes at most `note_lines` of them.
    pub(super) fn lines(&self, columns: usize, note_lines: usize) -> Vec<String> {
        let layout = self.layout(columns);
        let noted = Noted { columns, lines: note_lines };
        let mut lines = Vec::new();
        for (place, section) in self.sections.iter().enumerate() {
            if place > 0 {
                lines.push(String::new());
            }
            let head = self.row_lines(&self.head(section, &layout), &layout, noted);
            lines.extend(head.into_iter().filter(|line| !line.is_empty()));
            for row in &section.rows {
                lines.extend(self.row_lines(row, &layout, noted));
            }
            if let Some(more) = &section.more {
                lines.push(format!("{}{more}", " ".repeat(INDENT)));
            }
        }
        lines
    }

    /// The widest layout that fits, of those that show the most columns.
    fn layout(&self, columns: usize) -> Layout {
        let needs = self.needs();
        let beside: &[bool] = match self.shape.notes {
            Notes::Beside(_) => &[true, false],
            Notes::Beneath => &[false],
        };
        for left_out in 0..=self.shape.leaving.len() {
            for &notes_beside in beside {
                let note = if notes_beside { GAP + needs.note.min(NOTE_MIN) } else { 0 };
                let mut narrowed =
                    (0..=self.shape.name).map(|by| self.narrowed(&needs, left_out, by));
                if let Some(layout) = narrowed.find(|layout| layout.width() + note <= columns) {
                    return Layout { notes_beside, ..layout };
                }
            }
        }
        // Nothing is left to give but the names.
        let least = self.narrowed(&needs, self.shape.leaving.len(), self.shape.name);
        let over = least.width().saturating_sub(columns);
        Layout { name: least.name.saturating_sub(over).max(GAP), ..least }
    }

    /// With `left_out` columns left out and each of the others narrowed by `by`, as far as it can be.
    fn narrowed(&self, needs: &Needs, left_out: usize, by: usize) -> Layout {
        let left_out = &self.shape.leaving[..left_out];
        let shown = self.shape.columns.iter().zip(&needs.cells).enumerate();
        let shown = shown.filter(|(_, (column, _))| !left_out.contains(&column.head));
        let width = |(place, (column, need)): (usize, (&Column, &usize))| match by {
            0 => (place, column.width.max(need + 1)),
            _ => (place, column.width.saturating_sub(by).max(need + GAP)),
        };
        let name = self.shape.name.saturating_sub(by).max(needs.name.min(NAME_MIN) + 1);
        Layout { name, shown: shown.map(width).collect(), notes_beside: false }
    }

    fn needs(&self) -> Needs {
        let rows = || self.sections.iter().flat_map(|section| &section.rows);
        let longest = |(place, column): (usize, &Column)| {
            let cells = rows().map(|row| width(&row.cells[place]));
            cells.max().unwrap_or_default().max(width(column.head))
        };
        let heads = self.sections.iter().map(|section| width(&section.head));
        Needs {
            name: rows().map(|row| width(&row.name)).chain(heads).max().unwrap_or_default(),
            cells: self.shape.columns.iter().enumerate().map(longest).collect(),
            note: rows().map(|row| width(&row.note)).max().unwrap_or_default(),
        }
    }

    fn head(&self, section: &Section, layout: &Layout) -> Row {
        let heads: Vec<_> = self.shape.columns.iter().map(|column| column.head.into()).collect();
        match self.shape.notes {
            Notes::Beside(head) if layout.notes_beside => {
                Row::new(&section.head, heads).noted(head)
            }
            _ => Row::new(&section.head, heads),
        }
    }

    fn row_lines(&self, row: &Row, layout: &Layout, noted: Noted) -> Vec<String> {
        let mut line = " ".repeat(INDENT);
        line += &format!("{:<1$}", cut(&row.name, layout.name - 1), layout.name);
        for &(place, width) in &layout.shown {
            let cell = &row.cells[place];
            line += &match self.shape.columns[place].words {
                true => format!("{}{cell:<1$}", " ".repeat(GAP), width - GAP),
                false => format!("{cell:>width$}"),
            };
        }
        if row.note.is_empty() {
            return vec![line.trim_end().into()];
        }
        if layout.notes_beside {
            return noted.lines(&format!("{line}{}", " ".repeat(GAP)), &row.note);
        }
        let lead = match self.shape.notes {
            Notes::Beside(head) if !head.is_empty() => format!("    {head}: "),
            _ => "    ".into(),
        };
        let mut lines = vec![line.trim_end().into()];
        lines.extend(noted.lines(&lead, row.note.trim_start()));
        lines
    }
}

/// The room that notes have.
#[derive(Clone, Copy)]
struct Noted {
    columns: usize,
    lines: usize,
}

impl Noted {
    /// A note behind its lead.
    fn lines(self, lead: &str, note: &str) -> Vec<String> {
        let mut lines = wrapped(lead, &words(note), width(lead), self.columns);
        if lines.len() > self.lines {
            // The last line is filled before it is cut.
            let rest = lines.split_off(self.lines);
            if let Some(last) = lines.last_mut() {
                rest.iter().for_each(|line| *last += &format!(" {}", line.trim_start()));
                *last = cut(last, self.columns);
            }
        }
        lines
    }
}

/// How wide names, cells and notes are.
struct Needs {
    name: usize,
    cells: Vec<usize>,
    note: usize,
}
