"""Sections of results, rendered for a terminal and as Markdown."""

import textwrap
from dataclasses import dataclass, field
from statistics import median

WIDTH = 100


@dataclass
class Table:
    """A table with a header row; the first column is text, the others are figures."""

    head: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells) -> None:
        """Appends a row."""
        assert len(cells) == len(self.head), "one cell per column"
        self.rows.append([str(cell) for cell in cells])


class Section:
    """The results of one section, filled in while it runs."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.method = ""
        self.tables: list[Table] = []
        self.bars = Table(["figure", "value", "bar", ""])
        self.notes: list[str] = []

    def table(self, *head: str) -> Table:
        """Appends a table."""
        self.tables.append(Table(list(head)))
        return self.tables[-1]

    def bar(self, figure: str, value: str, bar: str, held: bool) -> None:
        """Appends a figure with its bar."""
        self.bars.add(figure, value, bar, "ok" if held else "over")

    def note(self, text: str) -> None:
        """Appends a note below the tables."""
        self.notes.append(text)

    def all_tables(self) -> list[Table]:
        """The non-empty tables, the bars last."""
        return [table for table in [*self.tables, self.bars] if table.rows]


def spread(values: list[float], digits: int = 2) -> str:
    """The median, with the lowest and highest value in brackets."""
    if not values:
        return "–"
    shown = f"{median(values):,.{digits}f}"
    if len(values) == 1:
        return shown
    return f"{shown} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def terminal(section: Section) -> str:
    """The section as text with aligned columns."""
    parts = [f"\n== {section.title}", *textwrap.wrap(section.method, WIDTH)]
    for table in section.all_tables():
        lines = [table.head, *table.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]
        parts.append("")
        for line in lines:
            cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
            parts.append("  ".join([line[0].ljust(widths[0]), *cells]).rstrip())
    notes = [line for note in section.notes for line in textwrap.wrap(f"- {note}", WIDTH)]
    return "\n".join([*parts, "", *notes])


def markdown(facts: list[tuple[str, str]], sections: list[Section]) -> str:
    """The results file as Markdown."""
    parts = ["# Results of bench/run", "", "What they mean: [README](../README.md).", ""]
    parts += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts)]
    for section in sections:
        parts += ["", f"## {section.title}"] + (["", section.method] if section.method else [])
        for table in section.all_tables():
            parts += ["", row(table.head), "|---" + "|---:" * (len(table.head) - 1) + "|"]
            parts += [row(cells) for cells in table.rows]
        parts += ["", *(f"- {note}" for note in section.notes)]
    return "\n".join(parts) + "\n"


def row(cells: list[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"
