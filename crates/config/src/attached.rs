//! A file referenced by a document, in another format. Its problems are reported together with the
//! document's, each with its place in that file, and it may use the document's variables.

use crate::document::Reader;
use crate::problem::Place;
use crate::variables::Text;

/// A part of a file and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot<'t> {
    /// From 1.
    pub line: usize,
    /// Of the first character, from 1, in characters.
    pub column: usize,
    /// As it is written.
    pub text: &'t str,
}

impl<'t> Spot<'t> {
    /// The part from a byte offset on.
    pub fn from(self, byte: usize) -> Spot<'t> {
        let (before, text) = self.text.split_at(byte);
        Spot { column: self.column + before.chars().count(), text, ..self }
    }

    /// The part before a byte offset.
    pub fn upto(self, byte: usize) -> Spot<'t> {
        Spot { text: &self.text[..byte], ..self }
    }

    /// The part without surrounding white space.
    pub fn trim(self) -> Spot<'t> {
        let lead = self.text.len() - self.text.trim_start().len();
        let spot = self.from(lead);
        spot.upto(spot.text.trim_end().len())
    }
}

/// A file referenced by a document.
#[derive(Clone)]
pub struct Attached<'r> {
    reader: Reader<'r>,
    file: String,
}

impl<'r> Attached<'r> {
    pub(crate) fn new(reader: Reader<'r>, file: String) -> Attached<'r> {
        Attached { reader, file }
    }

    /// Reports a problem at a line and column, both from 1.
    pub fn problem(&self, line: usize, column: usize, message: impl Into<String>, hint: &str) {
        let place = Place::File { file: self.file.clone(), line, column };
        self.reader.add(place, message.into(), hint);
    }

    /// Substitutes the variables in a part; if that fails, reports the problem and returns `None`.
    pub fn fill(&self, spot: Spot<'_>) -> Option<Text> {
        match self.reader.variables.fill(spot.text) {
            Ok(text) => Some(text),
            Err(fault) => {
                let (message, hint) = fault.message_and_hint();
                let at = fault.place_in(spot.text);
                let lines = spot.text[..at].matches('\n').count();
                let Spot { line, column, .. } = spot.from(at);
                let column = match spot.text[..at].rfind('\n') {
                    Some(end) => spot.text[end + 1..at].chars().count() + 1,
                    None => column,
                };
                self.problem(line + lines, column, message, &hint);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Document, Variables};

    #[test]
    fn problems_name_the_place_in_the_file() {
        let document = Document::new("plan.toml", "file = \"more.txt\"\nbad = 1\n");
        let problems = document.read(&Variables::none(), |table| {
            let file = table.field("file")?.attached("more.txt");
            let spot = Spot { line: 3, column: 5, text: "aä ${NO} ${A" };
            assert_eq!(file.fill(spot), None);
            let lines = Spot { line: 7, column: 5, text: "a\nä ${NO}" };
            assert_eq!(file.fill(lines), None);
            file.problem(9, 1, "no request", "write one");
            assert_eq!(spot.from(3).trim().upto(2), Spot { line: 3, column: 8, text: "${" });
            file.fill(spot.from(spot.text.len()))
        });
        assert_eq!(
            problems.unwrap_err().to_string(),
            "more.txt:3:8: the variable NO is not set\n  \
               hint: set it with --set NO=VALUE or in the environment\n\
             more.txt:8:3: the variable NO is not set\n  \
               hint: set it with --set NO=VALUE or in the environment\n\
             more.txt:9:1: no request\n  hint: write one\n\
             plan.toml:2:1: unknown key \"bad\" in the top level of the file\n  hint: known keys: file"
        );
    }
}
