//! The progress line of a run on stderr.

use super::is_colored;
use crate::tell;
use plimsoll_report::Part;
use std::io::{IsTerminal, Write, stderr};

/// The progress line: overwritten on a terminal; in a pipe, every tenth is printed.
pub(crate) struct Progress {
    terminal: bool,
    /// Whether it is printed in a pipe, too.
    pub(crate) pipes: bool,
    color: bool,
    open: bool,
    seconds: u64,
}

const SECONDS_IN_A_PIPE: u64 = 10;

impl Progress {
    pub(crate) fn new() -> Progress {
        let terminal = stderr().is_terminal();
        Progress { terminal, pipes: true, color: is_colored(&stderr()), open: false, seconds: 0 }
    }

    pub(crate) fn show(&mut self, parts: &[Part]) {
        self.seconds += 1;
        if self.terminal {
            let columns =
                terminal_size::terminal_size_of(stderr()).map_or(80, |(width, _)| width.0 as usize);
            let line = fitting(parts, columns.saturating_sub(1), self.color);
            // Write errors are ignored: progress is informational.
            let _ = write!(stderr(), "\r\x1b[K{line}");
            self.open = true;
        } else if self.pipes && self.seconds.is_multiple_of(SECONDS_IN_A_PIPE) {
            tell(&fitting(parts, usize::MAX, self.color));
        }
    }

    /// Ends the progress line, so that other output can follow.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            tell("");
        }
    }
}

/// A line of as many leading parts as fit; the first part is cut if it does not fit.
fn fitting(parts: &[Part], columns: usize, color: bool) -> String {
    const GAP: &str = "  ";
    let (mut line, mut room) = (String::new(), columns);
    for (place, Part { text, tone }) in parts.iter().enumerate() {
        let gap = if place == 0 { "" } else { GAP };
        let width = gap.len() + text.chars().count();
        if width > room {
            if place == 0 {
                line = text.chars().take(room).collect();
            }
            break;
        }
        room -= width;
        line += &format!("{gap}{}", tone.paint(text, color));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_report::Tone;

    #[test]
    fn only_parts_that_fit_are_shown() {
        let part = |text: &str, tone| Part { text: text.into(), tone };
        let parts = [part("1s/9s", Tone::Plain), part("50 % ok", Tone::Warn), part("x", Tone::Bad)];
        let check = |columns, line: &str| assert_eq!(fitting(&parts, columns, false), line);
        check(usize::MAX, "1s/9s  50 % ok  x");
        check(16, "1s/9s  50 % ok");
        check(13, "1s/9s");
        check(3, "1s/");
        check(0, "");
        let colored = "1s/9s  \x1b[33m50 % ok\x1b[0m  \x1b[1;31mx\x1b[0m";
        assert_eq!(fitting(&parts, 17, true), colored);
    }
}
