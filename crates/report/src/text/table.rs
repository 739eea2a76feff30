//! Tables of a report: each row has a name, cells, and optionally a note.
//!
//! # If a table does not fit
//! First the space between columns shrinks, equally for all columns, and names longer than [`NAME_MIN`]
//! are cut; then notes move below their rows; then columns are dropped in the shape's order. All
//! sections of a table share one layout, so that their columns line up. In a pipe, a name that does not
//! fit is not cut but has a line of its own, above its figures.

use super::page::{Line, words, wrapped};
use super::width::{clean, cut, padded, width};
use crate::tone::Tone;

/// Names are not cut below this width while a column can be dropped instead.
const NAME_MIN: usize = 16;
/// The indent of every line.
const INDENT: usize = 2;
/// The minimum space between two columns.
const GAP: usize = 2;
/// A note beside its row needs at least this width to be readable.
const NOTE_MIN: usize = 24;

/// The layout of a kind of table.
pub(crate) struct Shape {
    /// Width of the names.
    pub(crate) name: usize,
    pub(crate) columns: &'static [Column],
    /// The columns that may be dropped, in this order.
    pub(crate) leaving: &'static [&'static str],
    pub(crate) notes: Notes,
}

/// Where notes are placed.
pub(crate) enum Notes {
    /// To the right of their row, under this heading; below the row if there is no room.
    Beside(&'static str),
    /// Below their row.
    Beneath,
}

/// A column and its preferred width.
pub(crate) struct Column {
    pub(crate) head: &'static str,
    width: usize,
    /// Whether it has words, not figures.
    pub(crate) words: bool,
}

impl Column {
    /// Right-aligned figures.
    pub(crate) const fn figures(head: &'static str, width: usize) -> Column {
        Column { head, width, words: false }
    }

    /// Left-aligned words.
    pub(crate) const fn words(head: &'static str, width: usize) -> Column {
        Column { head, width, words: true }
    }
}

/// A table: sections of rows, separated by empty lines.
pub(crate) struct Table {
    pub(crate) shape: &'static Shape,
    pub(crate) sections: Vec<Section>,
}

/// Rows under a common heading.
pub(crate) struct Section {
    /// Heading of the names. If it and all column headings are empty, the heading line is omitted.
    pub(crate) head: String,
    pub(crate) rows: Vec<Row>,
    /// A line that counts the rows not shown.
    pub(crate) more: Option<String>,
}

/// A name, a cell for each column, and a note.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cells: Vec<String>,
    pub(crate) note: String,
    /// Colour of the name.
    pub(crate) tone: Tone,
}

impl Row {
    /// A row without a note.
    pub(crate) fn new(name: impl AsRef<str>, cells: impl Into<Vec<String>>) -> Row {
        let (name, note) = (clean(name.as_ref()), String::new());
        Row { name, cells: cells.into(), note, tone: Tone::Plain }
    }

    /// The same with a note.
    pub(crate) fn noted(self, note: impl AsRef<str>) -> Row {
        Row { note: clean(note.as_ref()), ..self }
    }

    /// The same with its name in a colour.
    pub(crate) fn toned(self, tone: Tone) -> Row {
        Row { tone, ..self }
    }
}

/// The widths chosen for a page.
struct Layout {
    name: usize,
    /// Index and width of each column that is shown.
    shown: Vec<(usize, usize)>,
    notes_beside: bool,
}

impl Layout {
    fn width(&self) -> usize {
        INDENT + self.name + self.shown.iter().map(|(_, width)| width).sum::<usize>()
    }
}

impl Table {
    /// A table with one section.
    pub(crate) fn of(shape: &'static Shape, head: String, rows: Vec<Row>) -> Table {
        Table { shape, sections: vec![Section { head, rows, more: None }] }
    }

    /// The table as lines of at most `columns`. Each note takes at most `note_lines` lines.
    pub(super) fn lines(&self, columns: usize, note_lines: usize) -> Vec<Line> {
        let layout = self.layout(columns);
        let noted = Noted { columns, lines: note_lines };
        let mut lines = Vec::new();
        for (place, section) in self.sections.iter().enumerate() {
            if place > 0 {
                lines.push(String::new().into());
            }
            let head = self.head(section, &layout).toned(Tone::Strong);
            let head = self.row_lines(&head, &layout, noted);
            lines.extend(head.into_iter().filter(|line| !line.text.is_empty()));
            for row in &section.rows {
                lines.extend(self.row_lines(row, &layout, noted));
            }
            if let Some(more) = &section.more {
                lines.push(format!("{}{more}", " ".repeat(INDENT)).into());
            }
        }
        lines
    }

    /// The layout that shows the most columns, and of these the widest that fits.
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
        // Everything else is at its minimum, so names are cut below theirs.
        let least = self.narrowed(&needs, self.shape.leaving.len(), self.shape.name);
        let over = least.width().saturating_sub(columns);
        Layout { name: least.name.saturating_sub(over).max(GAP), ..least }
    }

    /// A layout with `left_out` columns dropped and the others narrowed by `by`, down to their minimum.
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

    fn row_lines(&self, row: &Row, layout: &Layout, noted: Noted) -> Vec<Line> {
        let indent = " ".repeat(INDENT);
        let mut lines: Vec<String> = Vec::new();
        let mut name = cut(&row.name, layout.name - 1);
        if noted.is_whole() && name != row.name {
            let above = wrapped(&indent, std::slice::from_ref(&row.name), INDENT, noted.columns);
            lines.extend(above);
            name.clear();
        }
        let mut line = format!("{indent}{}", padded(&name, layout.name));
        for &(place, width) in &layout.shown {
            let cell = &row.cells[place];
            line += &if self.shape.columns[place].words {
                format!("{}{cell:<1$}", " ".repeat(GAP), width - GAP)
            } else {
                format!("{cell:>width$}")
            };
        }
        if row.note.is_empty() {
            lines.push(line.trim_end().into());
        } else if layout.notes_beside {
            lines.extend(noted.lines(&format!("{line}{}", " ".repeat(GAP)), &row.note));
        } else {
            let lead = match self.shape.notes {
                Notes::Beside(head) if !head.is_empty() => format!("    {head}: "),
                _ => "    ".into(),
            };
            lines.push(line.trim_end().into());
            lines.extend(noted.lines(&lead, row.note.trim_start()));
        }
        let mut lines: Vec<Line> = lines.into_iter().map(Line::from).collect();
        let whole =
            if row.tone == Tone::Strong { lines[0].text.len() } else { INDENT + name.len() };
        let toned = if name.is_empty() { lines[0].text.len() } else { whole };
        (lines[0].tone, lines[0].toned) = (row.tone, toned.min(lines[0].text.len()));
        lines
    }
}

/// The space available for notes.
#[derive(Clone, Copy)]
struct Noted {
    columns: usize,
    lines: usize,
}

impl Noted {
    /// Whether nothing is cut.
    fn is_whole(self) -> bool {
        self.lines == usize::MAX
    }

    /// The lines of a note after its lead.
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

/// The widest name, cells and note of a table.
struct Needs {
    name: usize,
    cells: Vec<usize>,
    note: usize,
}
