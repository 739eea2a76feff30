//! The width of text on a terminal, and text that cannot change the terminal.

/// Characters that take two columns: East Asian wide and fullwidth characters and emoji (the ranges of
/// Unicode's `EastAsianWidth.txt`, joined across unassigned characters).
const WIDE: [(u32, u32); 14] = [
    (0x1100, 0x115F),
    (0x231A, 0x231B),
    (0x23E9, 0x23EC),
    (0x2614, 0x2615),
    (0x26A1, 0x26A1),
    (0x2705, 0x2705),
    (0x274C, 0x274C),
    (0x2E80, 0xA4CF),
    (0xA960, 0xA97C),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE6F),
    (0xFF00, 0xFF60),
    (0x1F300, 0x3FFFD),
];
/// Characters that take no column: combining marks, joiners and variation selectors.
const ZERO: [(u32, u32); 9] = [
    (0x0300, 0x036F),
    (0x0483, 0x0489),
    (0x0591, 0x05BD),
    (0x1AB0, 0x1AFF),
    (0x1DC0, 0x1DFF),
    (0x200B, 0x200D),
    (0x20D0, 0x20FF),
    (0xFE00, 0xFE0F),
    (0xFE20, 0xFE2F),
];

fn is_in(c: char, ranges: &[(u32, u32)]) -> bool {
    ranges.iter().any(|(from, to)| (*from..=*to).contains(&u32::from(c)))
}

/// The width of a character in columns.
pub(super) fn char_width(c: char) -> usize {
    match c {
        '\0'..='\u{2FF}' => 1,
        _ if is_in(c, &ZERO) => 0,
        _ if is_in(c, &WIDE) => 2,
        _ => 1,
    }
}

/// The width of a text in columns.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// The text, cut to `columns` with an ellipsis if it is longer.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.into();
    }
    let mut room = columns.saturating_sub(1);
    let fits = |c: &char| {
        let fits = char_width(*c) <= room;
        room = room.saturating_sub(char_width(*c));
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// The text followed by spaces up to `columns`.
pub(super) fn padded(text: &str, columns: usize) -> String {
    text.to_string() + &" ".repeat(columns.saturating_sub(width(text)))
}

/// Whether a character would move the cursor, change the terminal or reverse the order of characters.
pub(crate) fn is_unsafe(c: char) -> bool {
    let reorders = matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders
}

/// The text with everything escaped that would move the cursor, change the terminal or reverse the order
/// of characters: names and error messages come from files and peers.
pub fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths() {
        let check = |text: &str, columns: usize| assert_eq!(width(text), columns, "{text}");
        check("abc µs … – ═ ×", 14);
        check("日本語", 6);
        check("한국", 4);
        check("🚀 x", 4);
        check("e\u{301}te\u{301}", 3);
        check("ＡＢ", 4);
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(padded("日本", 6), "日本  ");
    }

    #[test]
    fn nothing_controls_the_terminal() {
        let check = |text: &str, shown: &str| assert_eq!(clean(text), shown);
        check("plain – 日本 é", "plain – 日本 é");
        check("a\nb\t\r", "a\\nb\\t\\r");
        check("\x1b[31mred\x07", "\\u{1b}[31mred\\u{7}");
        check("\u{9b}2J", "\\u{9b}2J");
        check("\u{202e}evil", "\\u{202e}evil");
    }
}
