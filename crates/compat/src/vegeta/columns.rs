//! Text in aligned columns, as Go's `text/tabwriter` aligns it with two spaces of padding.
//!
//! A tab ends a cell. A column is a block of consecutive lines that have a cell in it; the text after
//! a line's last tab belongs to no column.

/// Replaces tabs by spaces, so that the cells of consecutive lines are aligned. `text` ends with a
/// line feed.
pub(super) fn aligned(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut out = String::with_capacity(text.len() * 2);
    align(&lines, &mut Vec::new(), &mut out);
    out
}

/// Writes lines that share the columns before `widths.len()`.
fn align(lines: &[Vec<&str>], widths: &mut Vec<usize>, out: &mut String) {
    let column = widths.len();
    let in_column = |line: &Vec<&str>| column + 1 < line.len();
    let mut rest = lines;
    while !rest.is_empty() {
        let outside = rest.iter().take_while(|line| !in_column(line)).count();
        rest[..outside].iter().for_each(|line| write_line(line, widths, out));
        rest = &rest[outside..];
        let inside = rest.iter().take_while(|line| in_column(line)).count();
        let width = rest[..inside].iter().map(|line| line[column].chars().count()).max();
        if let Some(width) = width {
            widths.push(width + 2);
            align(&rest[..inside], widths, out);
            widths.pop();
        }
        rest = &rest[inside..];
    }
}

fn write_line(line: &[&str], widths: &[usize], out: &mut String) {
    for (at, cell) in line.iter().enumerate() {
        out.push_str(cell);
        if let Some(width) = widths.get(at).filter(|_| at + 1 < line.len()) {
            out.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::aligned;

    #[test]
    fn alignment() {
        for (text, expected) in [
            ("", ""),
            ("a\n", "a\n"),
            ("a\tb\n", "a  b\n"),
            ("a\tb\nccc\td\n", "a    b\nccc  d\n"),
            ("a\tb\nx\nccc\td\n", "a  b\nx\nccc  d\n"),
            ("a\t\tb\nc\tdd\te\n", "a      b\nc  dd  e\n"),
            ("é\tb\tc\nxx\ty\n", "é   b  c\nxx  y\n"),
            ("\ta\n", "  a\n"),
        ] {
            assert_eq!(aligned(text), expected, "{text:?}");
        }
    }
}
