//! Lines of logs without what looks like a secret.
//!
//! A log quotes requests of others, whose keys no plan knows. What is hidden: the value after a name that
//! suggests a secret (`api_key=…`, `"authorization":"Bearer …"`, `--token …`), what follows `Bearer` and
//! `Basic`, user names and passwords in URLs, and parts of URLs and paths that look like keys. This is a
//! guess from the form of the text: a secret that looks like a word stays. Placeholders, `${NAME}`, stay.

use crate::redact::{REDACTED, is_secret_parameter, pieces, redact, without_users};
use crate::secrets::looks_like_key;

/// Schemes before a secret, wherever they stand. Others, such as `key`, are common words.
const SCHEMES: [&str; 2] = ["bearer", "basic"];

/// The line without what looks like a secret.
pub fn without_secrets(line: &str) -> String {
    hidden(line, true)
}

/// The arguments of a command without what looks like a secret. Paths of files stay as they are.
pub fn arguments_without_secrets(line: &str) -> String {
    hidden(line, false)
}

/// `all_paths`: whether parts that look like keys are hidden in all paths, or only in those of URLs.
fn hidden(line: &str, all_paths: bool) -> String {
    let line = without_users(line);
    let mut out = String::with_capacity(line.len());
    let mut rest = line.as_str();
    while !rest.is_empty() {
        let word_len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_len);
        if let Some((between, value, end)) = value_after(word, after) {
            out += word;
            out += between;
            out += &redact(value, |_| false);
            rest = end;
        } else if word.is_empty() {
            let next = after.chars().next().map_or(0, char::len_utf8);
            if after.starts_with(if all_paths { "/" } else { "//" }) {
                let end = after.find(|c: char| c.is_whitespace() || "\"'<>`".contains(c));
                let path =
                    after[..end.unwrap_or(after.len())].trim_end_matches([':', ',', '.', ')', ']']);
                // The host of a URL stays.
                let host =
                    path.strip_prefix("//").map_or(0, |url| 2 + url.find('/').unwrap_or(url.len()));
                out += &path[..host];
                out += &path_without_keys(&path[host..]);
                rest = &after[path.len()..];
            } else {
                out += &after[..next];
                rest = &after[next..];
            }
        } else {
            out += word;
            rest = after;
        }
    }
    out
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

/// If the word says that a secret follows: what stands between, the secret, and the rest.
fn value_after<'t>(word: &str, after: &'t str) -> Option<(&'t str, &'t str, &'t str)> {
    let is_scheme = |text: &str| SCHEMES.iter().any(|own| text.eq_ignore_ascii_case(own));
    let flag = word.starts_with("--") && is_secret_parameter(word);
    let start = if is_scheme(word) || flag && after.starts_with(' ') {
        after.len() - after.strip_prefix(' ')?.len()
    } else if is_secret_parameter(word) {
        let assigned = after.trim_start_matches(['"', '\'', '\\', ' ']);
        let value = assigned.strip_prefix(['=', ':'])?;
        after.len() - value.trim_start_matches(['"', '\'', '\\', ' ']).len()
    } else {
        return None;
    };
    let (between, value) = after.split_at(start);
    if value.starts_with(REDACTED) {
        return None;
    }
    let quoted = between.ends_with(['"', '\'']);
    let ends = |c: char| match c {
        '"' | '\'' | '\\' => true,
        c if quoted => c.is_control(),
        c => c.is_whitespace() || ",;&)]<>".contains(c) || c == '}' && !value.contains("${"),
    };
    let mut len = value.find(ends).unwrap_or(value.len());
    // The secret is behind the scheme: `Authorization: Bearer …`.
    if !quoted && is_scheme(&value[..len]) && value[len..].starts_with(' ') {
        let secret = &value[len + 1..];
        len += 1 + secret.find(ends).unwrap_or(secret.len());
    }
    (len > 0).then(|| (between, &value[..len], &value[len..]))
}

/// A path and query whose parts that look like keys, and the values of parameters whose names suggest
/// secrets, are redacted.
fn path_without_keys(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for (part, end) in pieces(path) {
        let (name, value) = part.split_at(part.find('=').map_or(0, |at| at + 1));
        out += name;
        let hidden = !value.is_empty()
            && (looks_like_key(value) || is_secret_parameter(name.trim_end_matches('=')));
        out += if hidden { REDACTED } else { value };
        out += end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_files_stay_in_arguments() {
        let check = |line: &str, shown: &str| assert_eq!(arguments_without_secrets(line), shown);
        let path = "tail -F /var/log/gateway-2026-11-27-0123456789.log";
        check(path, path);
        assert_ne!(without_secrets(path), path);
        check(
            "curl https://h/v3/0123456789abcdef0123456789abcdef --token x",
            "curl https://h/v3/[redacted] --token [redacted]",
        );
    }

    #[test]
    fn secrets_of_lines_are_hidden() {
        let check = |line: &str, shown: &str| assert_eq!(without_secrets(line), shown, "{line}");
        check(
            "level=error msg=\"dial timeout\" took=3s",
            "level=error msg=\"dial timeout\" took=3s",
        );
        check("api_key=abc123, x=1", "api_key=[redacted], x=1");
        check(
            "{\"authorization\":\"Bearer a b\",\"n\":1}",
            "{\"authorization\":\"[redacted]\",\"n\":1}",
        );
        check("{\\\"token\\\":\\\"abc\\\"}", "{\\\"token\\\":\\\"[redacted]\\\"}");
        check("Authorization: Bearer abc.def rest", "Authorization: [redacted] rest");
        check("sent Bearer abc.def, failed", "sent Bearer [redacted], failed");
        check("redis://user:pw@h:6379/0 refused", "redis://[redacted]:[redacted]@h:6379/0 refused");
        check(
            "\"GET /v1/eth?apikey=7 HTTP/1.1\" 502",
            "\"GET /v1/eth?apikey=[redacted] HTTP/1.1\" 502",
        );
        check(
            "upstream https://eth.example/v3/0123456789abcdef0123456789abcdef: timeout",
            "upstream https://eth.example/v3/[redacted]: timeout",
        );
        check("docker run --token ab${X} -p 1", "docker run --token [redacted]${X} -p 1");
        check("the author of keyword= is", "the author of keyword= is");
        check("Fehler: Zeitüberschreitung – 503 /ok/ü", "Fehler: Zeitüberschreitung – 503 /ok/ü");
        check("password=", "password=");
        check("token=[redacted], Bearer [redacted]", "token=[redacted], Bearer [redacted]");
        check("", "");
    }
}
