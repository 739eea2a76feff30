//! Which environment variables entries may name.
//!
//! A gateway replaces `${NAME}` in an entry with a variable of its environment, and sends the result to the
//! upstream that the entry names. Whoever may add entries could therefore read any variable: a holder of
//! the admin API's token, or of the database's password. Entries of the file are not limited, because who
//! writes the file also decides on the environment.
//!
//! By default an entry may name any variable but the gateway's own, which hold the credentials of its
//! database, Redis and the receiver of traces. `entry_variables` limits them to a list.
//!
//! Names are looked for in the text of an entry, after undoing the escapes of TOML: too many may be found,
//! such as in a literal `$${NAME}`, but none is missed.

use plimsoll_config::placeholders;
use std::borrow::Cow;

use crate::config::KEYS;

/// The gateway's own variables beside those of [`KEYS`]: prefixes of names.
const OWN: [&str; 4] = ["PLIMSOLL_", "OTEL_", "PGPASS", "NATS_"];

/// Whether an entry may name a variable: one of these, which may end in `*`, or any but the gateway's own.
pub(super) fn is_permitted(name: &str, listed: Option<&[String]>) -> bool {
    match listed {
        Some(listed) => listed.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        }),
        None => {
            !OWN.iter().any(|own| name.starts_with(own))
                && !KEYS.iter().any(|key| key.variable() == name)
        }
    }
}

/// The names of the variables in the text of an entry.
pub(super) fn names(text: &str) -> Vec<String> {
    let mut names = placeholders(&unescaped(text));
    names.sort_unstable();
    names
}

/// A text of TOML without the escapes that name a character by its number.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('\\') {
        out += &rest[..at];
        rest = &rest[at + 1..];
        let digits = match rest.as_bytes().first() {
            Some(b'x') => 2,
            Some(b'u') => 4,
            Some(b'U') => 8,
            _ => 0,
        };
        let number = rest.get(1..1 + digits).filter(|_| digits > 0);
        let number = number.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        match number.and_then(char::from_u32) {
            Some(char) => {
                out.push(char);
                rest = &rest[1 + digits..];
            }
            None => out.push('\\'),
        }
    }
    out += rest;
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_in_whatever_way_they_are_written() {
        let check = |text: &str, expected: &[&str]| assert_eq!(names(text), expected, "{text}");
        check("url = \"http://h/\"", &[]);
        check("url = \"http://h/${B}/${A_1:-x}/${B}\"", &["A_1", "B"]);
        check(r#"url = "http://h/\u0024{A}""#, &["A"]);
        check(r#"url = "http://h/\U00000024\u007b\u0041\x42}""#, &["AB"]);
        check(r#"url = "http://h/$\u007BA}\\\"\uzzzz\u00""#, &["A"]);
        check("ca = \"$${A}\"", &["A"]);
        check("ca = \"${", &[]);
    }

    #[test]
    fn own_variables_are_not_permitted_unless_they_are_listed() {
        for own in [
            "DATABASE_URL",
            "REDIS_URL",
            "PLIMSOLL_ADMIN_TOKEN",
            "PGPASSWORD",
            "OTEL_EXPORTER_OTLP_HEADERS",
            "PATH_GATEWAY_INSTANCES",
        ] {
            assert!(!is_permitted(own, None), "{own}");
            assert!(is_permitted(own, Some(&[own.to_string()])));
        }
        assert!(is_permitted("NODE_KEY", None));
        let listed = ["NODE_*".to_string(), "TOKEN".to_string()];
        for (name, is_listed) in
            [("NODE_KEY", true), ("NODE_", true), ("TOKEN", true), ("TOKENS", false), ("A", false)]
        {
            assert_eq!(is_permitted(name, Some(&listed)), is_listed, "{name}");
        }
        assert!(!is_permitted("A", Some(&[])));
        assert!(is_permitted("A", Some(&["*".to_string()])));
    }
}
