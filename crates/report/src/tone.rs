//! Colours of text on a terminal.

/// The colour of a piece of text. Colour only repeats the words: without it, nothing is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Uncoloured.
    #[default]
    Plain,
    /// Bold: a heading.
    Strong,
    /// Green: as it should be.
    Good,
    /// Yellow: worth a look.
    Warn,
    /// Bold red: failed.
    Bad,
}

impl Tone {
    /// The text with ANSI escape sequences for this colour; unchanged if `color` is false.
    pub fn paint(self, text: &str, color: bool) -> String {
        let code = match self {
            Tone::Plain => "",
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
        };
        if !color || code.is_empty() || text.trim().is_empty() {
            return text.into();
        }
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
