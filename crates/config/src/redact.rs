//! Redaction: which parts of a value may be printed.
//!
//! Operators of a gateway write keys wherever a provider wants them: in a URL's host, path, query or
//! fragment, or in any header. So only what is known to be harmless is shown of a gateway's
//! configuration: short words in a path, ordinary host names, the values of well-known headers. In a load
//! test's plan, paths and query values are what the test is about; there only what looks like a key is
//! hidden, and names that suggest a secret decide. Everything else is replaced by `[redacted]`;
//! placeholders, `${NAME}`, are always shown.

use crate::Text;

/// Replaces secrets in shown forms.
pub const REDACTED: &str = "[redacted]";

/// The longest word in a path, in bytes: long enough for `polygon-mainnet`.
const WORD_MAX: usize = 16;

/// The most digits of a number in a path; chain ids have up to 8 (Sepolia: 11155111).
const DIGITS_MAX: usize = 8;

/// Headers whose values are never secret.
const OPEN_HEADERS: [&str; 9] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-type",
    "host",
    "rpc-type",
    "target-service-id",
    "user-agent",
];

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

/// Whether a part of a path is a short word, such as `eth`, `v1beta1`, `base-mainnet` or `8453`, and
/// thus no key.
pub fn is_word(part: &str) -> bool {
    let mut pieces = part.split(['-', '_', '.']);
    (1..=WORD_MAX).contains(&part.len()) && pieces.all(is_simple)
}

/// Letters in one case (or capitalized), a number, or a short name with a number: `web3`, `v1beta1`.
fn is_simple(piece: &str) -> bool {
    let letters = piece.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = &piece[letters.len()..];
    let is_plain = |text: &str| {
        let tail = text.get(1..).unwrap_or_default();
        text.bytes().all(|b| b.is_ascii_alphabetic())
            && (tail.bytes().all(|b| b.is_ascii_lowercase())
                || text.bytes().all(|b| b.is_ascii_uppercase()))
    };
    let version = |text: &str| {
        let text = text.strip_suffix("alpha").or_else(|| text.strip_suffix("beta"))?;
        text.strip_prefix('v').map(|n| n.len() <= 2 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    match (letters.len(), number.len()) {
        (0, digits) => (1..=DIGITS_MAX).contains(&digits),
        (_, 0) => is_plain(letters) || version(letters) == Some(true),
        (1..=4, 1..=2) if is_plain(letters) => true,
        (_, 1..=2) => version(letters) == Some(true),
        _ => false,
    }
}

/// Whether a label of a host name, with or without a port, looks like a name rather than a key: letters
/// followed by digits, which may be longer than in a path, or a few characters of any kind.
fn is_label(label: &str) -> bool {
    const LETTERS_MAX: usize = 20;
    const DIGITS_MAX: usize = 12;
    const SHORT: usize = 8;
    label.split(['-', '_', ':']).all(|piece| {
        let letters = piece.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_name = letters.bytes().all(|b| b.is_ascii_alphabetic())
            && letters.len() <= LETTERS_MAX
            && piece.len() - letters.len() <= DIGITS_MAX;
        piece.bytes().all(|b| b.is_ascii_alphanumeric()) && (is_name || piece.len() < SHORT)
    })
}

fn redact_host(host: &str, is_shown: fn(&str) -> bool) -> String {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        let is_address = address.parse::<std::net::Ipv6Addr>().is_ok() && is_label(port);
        return if is_address { host.into() } else { REDACTED.into() };
    }
    redact_each(host, '.', is_shown)
}

/// Redacts each part between separators.
fn redact_each(text: &str, separator: char, is_shown: fn(&str) -> bool) -> String {
    let parts: Vec<String> = text.split(separator).map(|part| redact(part, is_shown)).collect();
    parts.join(separator.encode_utf8(&mut [0; 4]))
}

/// A text and what follows the first separator.
fn cut(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// A part with everything redacted but its placeholders and the literal text that `is_shown`.
pub(crate) fn redact(part: &str, is_shown: impl Fn(&str) -> bool) -> String {
    let mut out = String::new();
    let literal = |text: &str, out: &mut String| {
        *out += if text.is_empty() || is_shown(text) { text } else { REDACTED };
    };
    let mut rest = part;
    // `$${` is a literal `${`.
    while let Some((at, end)) = placeholder(rest) {
        literal(&rest[..at], &mut out);
        out += &rest[at..end];
        rest = &rest[end..];
    }
    literal(rest, &mut out);
    out
}

/// The first placeholder in a text, `${NAME}` or `{{seq}}`: its start and end.
fn placeholder(text: &str) -> Option<(usize, usize)> {
    let variable = text.match_indices("${").find_map(|(at, _)| {
        let is_escaped = text[..at].ends_with('$');
        let end = text[at..].find('}').filter(|_| !is_escaped)?;
        Some((at, at + end + 1))
    });
    let drawn = text.match_indices("{{").find_map(|(at, _)| {
        let end = at + text[at..].find("}}")?;
        is_drawn(text[at + 2..end].trim()).then_some((at, end + 2))
    });
    variable.into_iter().chain(drawn).min()
}

/// A message and a hint if a shown form, which results and reports contain, has a secret variable. `what`
/// names it: "a target's name".
pub fn secret_within(what: &str, shown: &str) -> Option<(String, &'static str)> {
    let name = secret_variable(shown)?;
    let message = format!(
        "{what}, \"{shown}\", contains the secret variable {name}: its value would be in the report, the \
         results and the metrics"
    );
    Some((
        message,
        "use a variable whose name does not suggest a secret (key, token, password, auth, …)",
    ))
}

/// The first variable in a shown form whose name suggests a secret.
fn secret_variable(shown: &str) -> Option<&str> {
    let mut rest = shown;
    while let Some((at, end)) = placeholder(rest) {
        let inside = rest[at..end].strip_prefix("${").map(|inside| inside.trim_end_matches('}'));
        let name = inside.and_then(|inside| inside.split(":-").next());
        if let Some(name) = name.filter(|name| is_secret(name)) {
            return Some(name);
        }
        rest = &rest[end..];
    }
    None
}

/// Whether the inside of `{{…}}` names a value that each request draws, so that it holds no secret.
fn is_drawn(inside: &str) -> bool {
    let random = inside.strip_prefix("random ");
    inside == "seq"
        || inside == "uuid"
        || random.is_some_and(|range| range.bytes().all(|b| b == b' ' || b.is_ascii_digit()))
}

/// Whether the name of a query parameter suggests a secret: one of its words does, or ends in such a
/// word. Stricter than [`is_secret`], since `author` and `keyword` are common.
pub(crate) fn is_secret_parameter(name: &str) -> bool {
    const WORDS: [&str; 18] = [
        "key",
        "token",
        "secret",
        "pass",
        "password",
        "passwd",
        "passphrase",
        "passcode",
        "pwd",
        "auth",
        "authorization",
        "bearer",
        "cookie",
        "session",
        "sessionid",
        "credential",
        "jwt",
        "signature",
    ];
    let split = |c: char| !c.is_ascii_alphabetic();
    name.to_ascii_lowercase().split(split).any(|word| {
        let word = word.strip_suffix('s').filter(|word| !word.ends_with('s')).unwrap_or(word);
        word == "sig" || WORDS.iter().any(|secret| word.ends_with(secret))
    })
}

/// Words that stand before the secret in an `Authorization` header.
const SCHEMES: [&str; 8] =
    ["apikey", "basic", "bearer", "digest", "key", "negotiate", "token", "aws4-hmac-sha256"];

/// Where the authority of a URL begins, or the path of a relative one, which may contain `://`.
pub fn authority_of(url: &str) -> usize {
    let end = url.find("://").filter(|at| !url[..*at].contains(['/', '?', '#']));
    end.map_or(if url.starts_with("//") { 2 } else { 0 }, |at| at + 3)
}

/// The parts of a path and query, each with the separator after it: `/` and `;` separate those of the
/// path, `&` those of the query, whose values may contain the others.
pub(crate) fn pieces(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let (path, query) = path.split_at(path.find('?').map_or(path.len(), |at| at + 1));
    let path = path.split_inclusive(['/', ';', '?']);
    let pieces = path.chain(query.split_inclusive('&'));
    pieces.map(|piece| piece.split_at(piece.trim_end_matches(['/', ';', '?', '&']).len()))
}

/// Whether a text is the scheme of an `Authorization` header, or only separates its parts.
pub(crate) fn is_scheme(text: &str) -> bool {
    let text = text.trim_matches([' ', ',', ';', ':']);
    text.is_empty() || SCHEMES.iter().any(|scheme| text.eq_ignore_ascii_case(scheme))
}

/// A text with the user names and passwords of all URLs in it redacted.
pub(crate) fn without_users(text: &str) -> String {
    let mut parts = text.split_inclusive("://");
    let mut shown = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let authority = &part[..part.find(['/', '?', '#', '&']).unwrap_or(part.len())];
        let host = authority.rfind('@').unwrap_or(0);
        shown += &redact_each(&authority[..host], ':', |_| false);
        shown += &part[host..];
    }
    shown
}

impl Text {
    /// Whether the shown form leaves out part of the value.
    pub fn hides(&self) -> bool {
        self.shown != self.value && self.shown != self.value.replace("${", "$${")
    }

    /// Redacts the value of a header whose name suggests a secret, except its placeholders; beside one,
    /// the scheme (`Bearer`) and the names of cookies stay, so that the form can be read back.
    pub fn hidden_if_secret(mut self, name: &str) -> Text {
        if !is_secret(name) {
            return self;
        }
        let has_placeholder = placeholder(&self.shown).is_some();
        self.shown = if !has_placeholder {
            REDACTED.into()
        } else if name.eq_ignore_ascii_case("cookie") {
            let cookie = |cookie: &str| match cookie.split_once('=') {
                Some((name, value)) => format!("{name}={}", redact(value, |_| false)),
                None => redact(cookie, is_scheme),
            };
            self.shown.split(';').map(cookie).collect::<Vec<_>>().join(";")
        } else {
            redact(&self.shown, is_scheme)
        };
        self
    }

    /// Redacts the secrets of a URL that a plan sends to: user name and password, the values of
    /// parameters whose names suggest a secret, and the fragment. Placeholders and the rest of the
    /// path stay, so that the form can be read back.
    pub fn hiding_secrets_of_url(mut self) -> Text {
        let shown = without_users(&self.shown);
        let (front, rest) = shown.split_at(authority_of(&shown));
        let (rest, fragment) = cut(rest, '#');
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let mut shown = front.to_string();
        let host = match authority.rsplit_once('@') {
            Some((user, host)) => {
                shown += &redact_each(user, ':', |_| false);
                shown += "@";
                host
            }
            None => authority,
        };
        shown += host;
        for (pair, end) in pieces(path) {
            match pair.split_once('=') {
                Some((name, value)) if is_secret_parameter(name) => {
                    shown += &format!("{name}={}{end}", redact(value, |_| false));
                }
                _ => shown += &format!("{pair}{end}"),
            }
        }
        if let Some(fragment) = fragment.filter(|fragment| !fragment.is_empty()) {
            shown += "#";
            shown += &redact(fragment, |_| false);
        }
        self.shown = shown;
        self
    }

    /// Redacts the value of a header, unless its name is one whose values are never secret. Beside a
    /// placeholder, a word such as `Bearer` is shown.
    pub fn hidden_unless_open(mut self, name: &str) -> Text {
        if name.eq_ignore_ascii_case("host") {
            self.shown = redact_host(&self.shown, is_label);
        } else if !OPEN_HEADERS.iter().any(|open| name.eq_ignore_ascii_case(open)) {
            let has_placeholder = placeholder(&self.shown).is_some();
            self.shown = redact(&self.shown, |text| has_placeholder && is_word(text.trim()));
        }
        self
    }

    /// Redacts everything in a URL that is not known to be harmless: user information, the fragment, the
    /// values of the query, parts of the path that are not short words, and labels of the host that look
    /// like keys.
    pub fn hiding_all_but_words_of_url(mut self) -> Text {
        self.shown = redact_url(&self.shown, &WORDS_ONLY);
        self
    }

    /// Redacts the parts of a URL's path, query and fragment that look like keys.
    pub fn hiding_keys_of_url(mut self) -> Text {
        self.shown = redact_url(&self.shown, &ALL_BUT_KEYS);
        self
    }
}

/// Which parts of a URL are shown.
struct Policy {
    user: bool,
    label: fn(&str) -> bool,
    /// Of the path; a name in the query.
    word: fn(&str) -> bool,
    /// A value in the query, with its name; the fragment.
    value: fn(&str, &str) -> bool,
}

const WORDS_ONLY: Policy =
    Policy { user: false, label: is_label, word: is_word, value: |_, _| false };

const ALL_BUT_KEYS: Policy = Policy {
    user: true,
    label: |_| true,
    word: |part| !looks_like_key(part),
    value: |name, value| !is_secret(name) && !looks_like_key(value),
};

fn redact_url(url: &str, policy: &Policy) -> String {
    let (front, rest) = match url.split_once("://") {
        // Before `=` stands the service in a flag's value.
        Some((scheme, rest)) => (redact_each(scheme, '=', policy.label) + "://", rest),
        None => (String::new(), url),
    };
    let (rest, fragment) = cut(rest, '#');
    let (rest, query) = cut(rest, '?');
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let mut shown = front;
    let host = match authority.rsplit_once('@') {
        Some((user, host)) => {
            shown += if policy.user { user } else { REDACTED };
            shown += "@";
            host
        }
        None => authority,
    };
    shown += &redact_host(host, policy.label);
    shown += &redact_each(path, '/', policy.word);
    if let Some(query) = query {
        let pair = |pair: &str| match pair.split_once('=') {
            Some((name, value)) => {
                let shown = redact(value, |value| (policy.value)(name, value));
                format!("{}={shown}", redact(name, policy.word))
            }
            None => redact(pair, |value| (policy.value)("", value)),
        };
        shown += "?";
        shown += &query.split('&').map(pair).collect::<Vec<_>>().join("&");
    }
    if let Some(fragment) = fragment {
        shown += "#";
        shown += &redact(fragment, |value| (policy.value)("", value));
    }
    shown
}

/// Whether a part of a URL could be a key: long, and not a word.
fn looks_like_key(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte);
    let has = |test: fn(&u8) -> bool| part.as_bytes().iter().any(test);
    let mixed = has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
    part.bytes().all(plain) && ((part.len() >= 16 && mixed) || part.len() >= 24)
}

#[cfg(test)]
mod tests;
