//! `${NAME}` in strings: the value to use, and the form that may be shown.
//!
//! A value comes from `--set NAME=VALUE` or else from the environment; `${NAME:-default}` needs
//! neither; `$${` is a literal `${`. If the name suggests a secret, the shown form keeps the
//! placeholder, so that the secret is never printed or written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::redact::{REDACTED, is_secret};
use crate::secrets::Secrets;

/// A string after variable substitution.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The value to use.
    pub value: String,
    /// The form to show: secrets stay placeholders.
    pub shown: String,
    /// A variable that is not set, if that is tolerated ([`Variables::leave_unset`]); `value` is then
    /// not usable.
    pub unset: Option<String>,
}

/// Prints only the form that may be shown.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown)
    }
}

impl Text {
    /// A string without variables.
    pub fn plain(value: impl Into<String>) -> Text {
        let value = value.into();
        Text { shown: value.clone(), value, unset: None }
    }

    fn push(&mut self, part: &str) {
        self.value += part;
        self.shown += part;
    }
}

/// What is wrong with a placeholder. What stands in a malformed one is not repeated: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Unset(String),
    /// A `${` without `}`, at this byte.
    Open(usize),
    /// A name with other characters than letters, digits and `_`, at this byte.
    Name(usize),
}

/// How to write a placeholder.
const FORM: &str = "write ${NAME} or ${NAME:-default}; write a literal ${ as $${";

impl Fault {
    /// The message and the hint.
    pub(crate) fn message_and_hint(&self) -> (String, String) {
        match self {
            Fault::Unset(name) => (
                format!("the variable {name} is not set"),
                format!("set it with --set {name}=VALUE or in the environment"),
            ),
            Fault::Open(_) => ("malformed variable: a \"${\" without \"}\"".into(), FORM.into()),
            Fault::Name(_) => (
                "malformed variable: a name has only letters, digits and \"_\"".into(),
                FORM.into(),
            ),
        }
    }

    /// The byte offset of the placeholder in `text`.
    pub(crate) fn place_in(&self, text: &str) -> usize {
        match self {
            Fault::Unset(name) => {
                let begin = |end| text.find(&format!("${{{name}{end}"));
                begin("}").or_else(|| begin(":-")).unwrap_or(0)
            }
            Fault::Open(at) | Fault::Name(at) => *at,
        }
    }
}

/// The variables that a document may use.
#[derive(Clone, Default)]
pub struct Variables {
    values: BTreeMap<String, String>,
    leave_unset: bool,
    /// What documents have used, shared by all clones.
    used: Arc<Mutex<Used>>,
}

#[derive(Default)]
struct Used {
    names: BTreeSet<String>,
    secrets: Secrets,
}

/// Prints only names: any value of the environment may be a secret.
impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Variables {
    /// No variables.
    pub fn none() -> Variables {
        Variables::default()
    }

    /// The process's environment, without variables that are not UTF-8.
    pub fn from_environment() -> Variables {
        let text = |s: std::ffi::OsString| s.into_string().ok();
        let pairs = std::env::vars_os().filter_map(|(k, v)| Some((text(k)?, text(v)?)));
        Variables { values: pairs.collect(), ..Variables::default() }
    }

    /// Sets a variable; overrides the environment.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.values.insert(name.into(), value.into());
    }

    /// Tolerates unset variables: their placeholders stay as written. For reading a document where
    /// its secrets are not available.
    pub fn leave_unset(mut self) -> Variables {
        self.leave_unset = true;
        self
    }

    /// The value of a variable, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The names of the variables that are set, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The names of the variables that documents have used so far, set or not, sorted.
    ///
    /// # Panics
    /// If a thread panicked while it added a name.
    pub fn used(&self) -> Vec<String> {
        self.used.lock().expect("no holder panics").names.iter().cloned().collect()
    }

    /// The values of secret variables that documents have used so far.
    ///
    /// # Panics
    /// If a thread panicked while it added a value.
    pub fn secrets(&self) -> Secrets {
        self.used.lock().expect("no holder panics").secrets.clone()
    }

    pub(crate) fn fill(&self, text: &str) -> Result<Text, Fault> {
        let mut filled = Text::default();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(escaped) = before.strip_suffix('$') {
                filled.push(escaped);
                filled.value += "${";
                filled.shown += "$${";
                rest = &from[2..];
                continue;
            }
            filled.push(before);
            let at = text.len() - from.len();
            let end = from.find('}').ok_or(Fault::Open(at))?;
            let inside = &from[2..end];
            let (name, default) = match inside.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inside, None),
            };
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(Fault::Name(at));
            }
            self.used.lock().expect("no holder panics").names.insert(name.into());
            let value = match (self.values.get(name), default) {
                (Some(value), _) => value.as_str(),
                // A resolved plan does not contain the default of a secret.
                (None, None | Some(REDACTED)) if self.leave_unset => {
                    filled.unset = Some(name.into());
                    filled.push(&from[..=end]);
                    rest = &from[end + 1..];
                    continue;
                }
                (None, None | Some(REDACTED)) => return Err(Fault::Unset(name.into())),
                (None, Some(default)) => default,
            };
            filled.value += value;
            if is_secret(name) {
                self.used.lock().expect("no holder panics").secrets.add_variable(name, value);
                filled.shown += &match default {
                    Some(default) if !default.is_empty() => format!("${{{name}:-{REDACTED}}}"),
                    _ => from[..=end].to_string(),
                };
            } else {
                // The shown form must parse back: a `${` within the value is not a placeholder.
                filled.shown += &value.replace("${", "$${");
            }
            rest = &from[end + 1..];
        }
        filled.push(rest);
        Ok(filled)
    }
}

/// The names in `${NAME}` and `${NAME:-default}`, each once, in the order in which they appear; also
/// behind a `$` that makes the text a literal.
pub fn placeholders(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for part in text.split("${").skip(1) {
        let name: String =
            part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_and_hides() {
        let mut variables = Variables::none();
        variables.set("HOST", "example.org");
        variables.set("NODE_KEY", "s3cret");
        let check = |text: &str, value: &str, shown: &str| {
            let expected = Text { value: value.into(), shown: shown.into(), unset: None };
            assert_eq!(variables.fill(text), Ok(expected), "{text}");
        };
        check("plain $ text", "plain $ text", "plain $ text");
        check("http://${HOST}/", "http://example.org/", "http://example.org/");
        check("${HOST}/${NODE_KEY}", "example.org/s3cret", "example.org/${NODE_KEY}");
        check("${PORT:-80}", "80", "80");
        check("$${HOST}", "${HOST}", "$${HOST}");
        assert_eq!(variables.fill("${NO}"), Err(Fault::Unset("NO".into())));
        assert_eq!(variables.fill("a ${NO"), Err(Fault::Open(2)));
        assert_eq!(variables.fill("a ${s3cret-}"), Err(Fault::Name(2)));
        check("${NO_KEY:-s3cret}", "s3cret", "${NO_KEY:-[redacted]}");
        check("${NO_KEY:-}", "", "${NO_KEY:-}");
        let mut printed = format!("{variables:?}");
        for fault in [Fault::Open(2), Fault::Name(2)] {
            let (message, hint) = fault.message_and_hint();
            printed += &(message + &hint);
        }
        assert!(!printed.contains("s3cret"), "{printed}");
        assert_eq!(variables.used(), ["HOST", "NO", "NODE_KEY", "NO_KEY", "PORT"]);
        assert_eq!(variables.fill("${a b}"), Err(Fault::Name(0)));

        let variables = variables.leave_unset();
        let left = variables.fill("${HOST}/${NO}").unwrap();
        assert_eq!((left.shown.as_str(), left.unset.as_deref()), ("example.org/${NO}", Some("NO")));
        let left = variables.fill("${NO_KEY:-[redacted]}").unwrap();
        assert_eq!(
            (left.shown.as_str(), left.unset.as_deref()),
            ("${NO_KEY:-[redacted]}", Some("NO_KEY"))
        );
    }
}
