//! `${NAME}` in strings: the value to use, and the form that may be shown.
//!
//! A value comes from `--set NAME=VALUE` or else from the environment; `${NAME:-default}` needs
//! neither; `$${` is a literal `${`. If the name suggests a secret, the shown form keeps the
//! placeholder, so that the secret is never printed or written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

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
impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

/// What is wrong with a placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Unset(String),
    Malformed(String),
}

impl Fault {
    /// The message and the hint.
    pub(crate) fn message_and_hint(&self) -> (String, String) {
        match self {
            Fault::Unset(name) => (
                format!("the variable {name} is not set"),
                format!("set it with --set {name}=VALUE or in the environment"),
            ),
            Fault::Malformed(at) => (
                format!("malformed variable: {at}"),
                "write ${NAME} or ${NAME:-default}; write a literal ${ as $${".into(),
            ),
        }
    }

    /// The byte offset of the placeholder in `text`.
    pub(crate) fn place_in(&self, text: &str) -> usize {
        let begin = match self {
            Fault::Unset(name) => text.find(&format!("${{{name}}}")),
            Fault::Malformed(at) => text.find(at),
        };
        begin.unwrap_or(0)
    }
}

/// The variables that a document may use.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    values: BTreeMap<String, String>,
    leave_unset: bool,
    /// The names that documents have used, shared by all clones.
    used: Arc<Mutex<BTreeSet<String>>>,
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
        self.used.lock().expect("no holder panics").iter().cloned().collect()
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
            let malformed = || Fault::Malformed(from.chars().take(20).collect());
            let end = from.find('}').ok_or_else(malformed)?;
            let inside = &from[2..end];
            let (name, default) = match inside.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inside, None),
            };
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(malformed());
            }
            self.used.lock().expect("no holder panics").insert(name.into());
            let value = match (self.values.get(name), default) {
                (Some(value), _) => value.as_str(),
                (None, Some(default)) => default,
                (None, None) if self.leave_unset => {
                    filled.unset = Some(name.into());
                    filled.push(&from[..=end]);
                    rest = &from[end + 1..];
                    continue;
                }
                (None, None) => return Err(Fault::Unset(name.into())),
            };
            filled.value += value;
            if is_secret(name) {
                filled.shown += &from[..=end];
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

/// Whether a name (of a variable or header) suggests a secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    const WORDS: [&str; 12] = [
        "key",
        "token",
        "secret",
        "pass",
        "pwd",
        "auth",
        "bearer",
        "cookie",
        "session",
        "credential",
        "jwt",
        "signature",
    ];
    WORDS.iter().any(|word| name.contains(word))
}

impl Text {
    /// Whether the shown form leaves out part of the value.
    pub fn hides(&self) -> bool {
        self.shown != self.value && self.shown != self.value.replace("${", "$${")
    }

    /// Redacts the shown form if `name` (of a header) suggests a secret.
    pub fn hidden_if_secret(mut self, name: &str) -> Text {
        if is_secret(name) && !self.shown.contains("${") {
            self.shown = REDACTED.into();
        }
        self
    }

    /// Redacts the parts of a URL's path and query that look like API keys; node providers put keys
    /// there.
    pub fn hiding_keys_of_url(mut self) -> Text {
        let (front, rest) = match self.shown.split_once("://") {
            Some((scheme, rest)) => (format!("{scheme}://"), rest),
            None => (String::new(), self.shown.as_str()),
        };
        let (path, query) = rest.split_once('?').map_or((rest, None), |(p, q)| (p, Some(q)));
        let mut parts = path.split('/');
        let mut shown = front + parts.next().unwrap_or_default();
        for part in parts {
            shown += "/";
            shown += if looks_like_key(part) { REDACTED } else { part };
        }
        for (at, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
            shown += if at == 0 { "?" } else { "&" };
            match pair.split_once('=') {
                Some((name, value))
                    if !value.contains("${") && (is_secret(name) || looks_like_key(value)) =>
                {
                    shown += &format!("{name}={REDACTED}");
                }
                None if looks_like_key(pair) => shown += REDACTED,
                _ => shown += pair,
            }
        }
        self.shown = shown;
        self
    }
}

/// Replaces secrets in shown forms.
const REDACTED: &str = "[redacted]";

/// Whether a part of a URL could be a key: long, and not a word.
fn looks_like_key(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte);
    let has = |test: fn(&u8) -> bool| part.as_bytes().iter().any(test);
    let mixed = has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
    part.bytes().all(plain) && ((part.len() >= 16 && mixed) || part.len() >= 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_urls_are_not_shown() {
        let check = |url: &str, shown: &str| {
            assert_eq!(Text::plain(url).hiding_keys_of_url().shown, shown);
        };
        let key = "9aa3d95b3bc440fa88ea12eaa4456161";
        check(&format!("https://node.example/v3/{key}"), "https://node.example/v3/[redacted]");
        check(&format!("https://h/{key}/eth?x=1"), "https://h/[redacted]/eth?x=1");
        check("https://h/?apikey=K&chain=eth", "https://h/?apikey=[redacted]&chain=eth");
        check(&format!("https://h?{key}"), "https://h?[redacted]");
        check("https://h/${NODE_KEY}?token=${T}", "https://h/${NODE_KEY}?token=${T}");
        check("http://127.0.0.1:3069/v1", "http://127.0.0.1:3069/v1");
        check(
            "http://a-rather-long-host-name.example/ethereum/mainnet",
            "http://a-rather-long-host-name.example/ethereum/mainnet",
        );
        assert_eq!(
            format!("{:?}", Text { value: "s3cret".into(), ..Text::plain("${X}") }),
            "\"${X}\""
        );
    }

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
        assert_eq!(variables.fill("a ${NO"), Err(Fault::Malformed("${NO".into())));
        assert_eq!(variables.used(), ["HOST", "NO", "NODE_KEY", "PORT"]);
        assert_eq!(variables.fill("${a b}"), Err(Fault::Malformed("${a b}".into())));

        let left = variables.leave_unset().fill("${HOST}/${NO}").unwrap();
        assert_eq!((left.shown.as_str(), left.unset.as_deref()), ("example.org/${NO}", Some("NO")));
    }
}
