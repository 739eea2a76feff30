//! A value of a document as JSON: for what a user writes in TOML and a program sends as JSON.

use crate::document::Field;
use crate::values::quote;
use std::fmt::Write;

/// A value as JSON, and as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json {
    /// JSON, with its variables replaced.
    pub text: String,
    /// TOML that reads back to the same, with secret variables as placeholders.
    pub shown: String,
}

impl Field<'_> {
    /// Strings, integers, booleans, lists and tables of these as JSON. Other values are problems.
    pub fn json(&self) -> Option<Json> {
        if self.is_list() {
            let items: Vec<Option<Json>> = self.list()?.iter().map(Field::json).collect();
            return joined(items.into_iter().collect::<Option<Vec<_>>>()?, ('[', ']'));
        }
        if self.is_table() {
            // Entries are never unknown: `close` is not called.
            let member = |(name, field): (String, Field<'_>)| {
                let Json { text, shown } = field.json()?;
                let text = format!("{}:{text}", escaped(&name));
                Some(Json { text, shown: format!("{} = {shown}", quote(&name)) })
            };
            let members: Vec<Option<Json>> =
                self.table("a JSON object")?.entries().into_iter().map(member).collect();
            return joined(members.into_iter().collect::<Option<Vec<_>>>()?, ('{', '}'));
        }
        if self.is_text() {
            let text = self.text()?;
            return Some(Json { text: escaped(&text.value), shown: quote(&text.shown) });
        }
        let plain = if self.is_integer() {
            self.signed(i64::MIN, i64::MAX)?.to_string()
        } else {
            self.boolean()?.to_string()
        };
        Some(Json { text: plain.clone(), shown: plain })
    }
}

fn joined(items: Vec<Json>, (open, close): (char, char)) -> Option<Json> {
    let list = |part: fn(&Json) -> &str| items.iter().map(part).collect::<Vec<_>>();
    let text = list(|item| &item.text).join(",");
    let shown = list(|item| &item.shown).join(", ");
    Some(Json { text: format!("{open}{text}{close}"), shown: format!("{open}{shown}{close}") })
}

/// A string as JSON (RFC 8259 §7).
fn escaped(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0'..='\x1f' => write!(out, "\\u{:04x}", c as u32).expect("writing to memory"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use crate::{Document, Variables};

    #[test]
    fn values_become_json_and_read_back() {
        let read = |value: &str| {
            let document = Document::new("test", format!("key = {value}\n"));
            let mut variables = Variables::none();
            variables.set("API_KEY", "k\"1");
            document.read(&variables, |root| root.field("key").and_then(|field| field.json()))
        };
        let check = |value: &str, text: &str| {
            let json = read(value).unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(json.text, text);
            assert_eq!(read(&json.shown).unwrap(), json, "{}", json.shown);
        };
        check(r#"["newHeads"]"#, r#"["newHeads"]"#);
        check(r#"['a"b\c', "x\ny"]"#, "[\"a\\\"b\\\\c\",\"x\\u000ay\"]");
        check("[1, -2, true, []]", "[1,-2,true,[]]");
        check(
            r#"["logs", { address = "0x1", topics = [["0x2"]] }]"#,
            r#"["logs",{"address":"0x1","topics":[["0x2"]]}]"#,
        );
        check(r#""${API_KEY}""#, r#""k\"1""#);
        let problem = read("[1.5]").unwrap_err().to_string();
        assert!(problem.contains("true or false"), "{problem}");
    }
}
