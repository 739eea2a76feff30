//! The secrets that an upstream is called with, so that its answers do not reveal them to callers.
//!
//! They are the parts of its URL and the headers that the configuration's redaction hides, provided that
//! they are long enough not to occur by chance.

use plimsoll_config::is_word;
use plimsoll_registry::model;

use crate::http1::unescaped;

/// Shorter values are no secrets, and occur by chance.
const LENGTH_MIN: usize = 6;

/// How often a text is percent-decoded to find a secret in it.
const UNESCAPE_MAX: usize = 4;

/// The secrets of an upstream, in lower case and percent-decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    pub(crate) fn of(upstream: &model::Upstream) -> Secrets {
        let (path, query) = upstream.path().split_once('?').unwrap_or((upstream.path(), ""));
        let of_path = path.split(['/', ';']).filter(|part| !is_word(part));
        // A value, its parameter's name if that is no word, or a pair without a name.
        let of_pair = |pair: &'_ str| -> [String; 2] {
            let (name, value) = pair.split_once('=').unwrap_or(("", pair));
            let name = Some(name).filter(|name| !is_word(name)).unwrap_or_default();
            [name.into(), value.into()]
        };
        let hidden = upstream.headers.iter().filter(|(_, value)| value.hides());
        // The upstream may repeat only the token behind a scheme, such as `Bearer`.
        let of_headers = hidden.flat_map(|(_, value)| {
            let words = value.value.split([' ', ',', ';', '=']).filter(|word| !is_word(word));
            words.chain([value.value.trim()])
        });
        let all = of_path.chain(of_headers).map(str::to_string);
        let all = all.chain(query.split('&').flat_map(of_pair));
        let all = all.map(|secret| unescaped(&secret).to_ascii_lowercase());
        Secrets(all.filter(|secret| secret.len() >= LENGTH_MIN).collect())
    }

    /// Whether a text contains a secret, percent-encoded or not, in any case.
    pub(crate) fn are_in(&self, text: &[u8]) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let mut text = String::from_utf8_lossy(text).to_ascii_lowercase();
        for _ in 0..=UNESCAPE_MAX {
            if self.0.iter().any(|secret| text.contains(secret)) {
                return true;
            }
            match unescaped(&text).to_ascii_lowercase() {
                same if same == text => return false,
                again => text = again,
            }
        }
        // Encoded more often than anyone would.
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_config::Text;
    use plimsoll_registry::model::{Address, Kind};

    #[test]
    fn secrets_are_found_in_every_encoding() {
        let url = "https://h/v3/node/Key1+Secret/?network=x&apikey=T0%6ben-77&bare%21value";
        let address = Address::parse(url).expect("a URL");
        let mut upstream = model::Upstream::at("a", Kind::Evm, Text::plain(url), address);
        let header = |name: &str, value: &str| {
            (name.to_string(), Text::plain(value).hidden_unless_open(name))
        };
        upstream.headers = vec![
            header("authorization", "Bearer hEad3r.t0ken"),
            header("user-agent", "plimsoll-at-home-1234"),
        ];
        let secrets = Secrets::of(&upstream);
        let rows = [
            ("/key1+secret/x", true),
            ("KEY1+SECRETS", true),
            ("/%4bey1%2bsecret", true),
            ("/%254bey1%25252BSecret", true),
            ("u=T0ken-77", true),
            ("bare!value", true),
            ("a=\"hEad3r.t0ken\"", true),
            ("%252525252525", true),
            ("/v3/node/?network=x&apikey=", false),
            ("Bearer", false),
            ("plimsoll-at-home-1234", false),
            ("100%", false),
            ("", false),
        ];
        for (text, expected) in rows {
            assert_eq!(secrets.are_in(text.as_bytes()), expected, "{text}");
        }
        assert!(secrets.are_in(b"\xff/Key1+Secret"));
        assert!(!Secrets::default().are_in(b"x"));
    }
}
