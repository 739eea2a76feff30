//! Agreeing on compression in the opening handshake (RFC 7692 §7.1).
//!
//! Both sides give up their context after each message, so that neither keeps a window per connection. A client
//! offers exactly that, and nothing about window sizes: every window fits into the decompressor's.

/// The value of `Sec-WebSocket-Extensions` with which a client offers compression, and a server accepts it.
pub const COMPRESSION: &str =
    "permessage-deflate; client_no_context_takeover; server_no_context_takeover";

const NAME: &str = "permessage-deflate";
const CLIENT_CONTEXT: &str = "client_no_context_takeover";
const SERVER_CONTEXT: &str = "server_no_context_takeover";
const CLIENT_WINDOW: &str = "client_max_window_bits";
const SERVER_WINDOW: &str = "server_max_window_bits";
/// Maximum length of a part of an answer that is shown.
const SHOWN_MAX: usize = 100;

/// Why an answer to an offer of compression, or to none, is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// An extension that was not offered.
    #[error("the extension \"{0}\", which was not asked for")]
    Unasked(String),
    /// More than one extension, or the same twice.
    #[error("the extension permessage-deflate twice")]
    Twice,
    /// A parameter that was not offered, or that is given twice.
    #[error("permessage-deflate with \"{0}\", which was not offered")]
    Parameter(String),
    /// A window of a size that does not exist.
    #[error("permessage-deflate with \"{0}\"; the bits of a window are 8 to 15")]
    WindowBits(String),
    /// The server would compress a message with parts of earlier ones.
    #[error("permessage-deflate without server_no_context_takeover, which was asked for")]
    ContextTakeover,
}

/// Whether a server agreed to compression. `values` are those of its headers `Sec-WebSocket-Extensions`; `is_offered`:
/// whether the client offered [`COMPRESSION`].
///
/// # Errors
/// If the server agreed to something else.
pub fn check_compression<'a>(
    values: impl Iterator<Item = &'a str>,
    is_offered: bool,
) -> Result<bool, BadReply> {
    let mut is_agreed = false;
    for extension in values.flat_map(|value| value.split(',')).map(str::trim) {
        let mut parameters = extension.split(';').map(str::trim);
        let name = parameters.next().unwrap_or_default();
        if extension.is_empty() {
            continue;
        }
        if !is_offered || !name.eq_ignore_ascii_case(NAME) {
            return Err(BadReply::Unasked(shown(extension)));
        }
        if std::mem::replace(&mut is_agreed, true) {
            return Err(BadReply::Twice);
        }
        let mut seen = Vec::new();
        for parameter in parameters {
            let (name, value) = split(parameter);
            let is_new = !seen.contains(&name);
            match (&*name, value) {
                (CLIENT_CONTEXT | SERVER_CONTEXT, None) if is_new => {}
                // A server may limit its own window without being asked.
                (SERVER_WINDOW, Some(bits)) if is_new => {
                    if window_bits(bits).is_none() {
                        return Err(BadReply::WindowBits(shown(parameter)));
                    }
                }
                _ => return Err(BadReply::Parameter(shown(parameter))),
            }
            seen.push(name);
        }
        if !seen.iter().any(|name| name == SERVER_CONTEXT) {
            return Err(BadReply::ContextTakeover);
        }
    }
    Ok(is_agreed)
}

/// Whether a server without windows per connection can accept one of these offers, with the answer
/// [`COMPRESSION`]. It compresses with a full window, so that it declines offers that limit it.
pub fn accept_compression<'a>(mut offers: impl Iterator<Item = &'a str>) -> bool {
    offers.any(|value| {
        value.split(',').any(|offer| {
            let mut parameters = offer.split(';').map(str::trim);
            let is_own = parameters.next().is_some_and(|name| name.eq_ignore_ascii_case(NAME));
            let mut seen = Vec::new();
            let all = parameters.all(|parameter| {
                let (name, value) = split(parameter);
                let is_fine = match (&*name, value) {
                    (CLIENT_CONTEXT | SERVER_CONTEXT | CLIENT_WINDOW, None) => true,
                    (CLIENT_WINDOW, Some(bits)) => window_bits(bits).is_some(),
                    (SERVER_WINDOW, Some(bits)) => bits == "15",
                    _ => false,
                } && !seen.contains(&name);
                seen.push(name);
                is_fine
            });
            is_own && all
        })
    })
}

/// A parameter's name and value, which may be in quotes.
fn split(parameter: &str) -> (String, Option<&str>) {
    let (name, value) = match parameter.split_once('=') {
        Some((name, value)) => (name, Some(value.trim())),
        None => (parameter, None),
    };
    let value = value.map(|value| {
        let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        inner.unwrap_or(value)
    });
    (name.trim().to_ascii_lowercase(), value)
}

/// The bits of a window, if there is one of that size; without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits: &u8| (8..=15).contains(bits))?;
    (value == bits.to_string()).then_some(bits)
}

fn shown(part: &str) -> String {
    part.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_an_offer() {
        let check = |values: &[&str], expected: Result<bool, &str>| {
            let found = check_compression(values.iter().copied(), true);
            assert_eq!(found.map_err(|bad| bad.to_string()), expected.map_err(str::to_owned));
        };
        check(&[], Ok(false));
        check(&[""], Ok(false));
        check(&[COMPRESSION], Ok(true));
        check(&["Permessage-Deflate;SERVER_no_context_takeover"], Ok(true));
        check(
            &["permessage-deflate; server_no_context_takeover; server_max_window_bits=10"],
            Ok(true),
        );
        check(
            &["permessage-deflate; server_max_window_bits=\"15\";server_no_context_takeover"],
            Ok(true),
        );
        let takes_over =
            "permessage-deflate without server_no_context_takeover, which was asked for";
        check(&["permessage-deflate"], Err(takes_over));
        check(&["permessage-deflate; client_no_context_takeover"], Err(takes_over));
        let unasked = "the extension \"x-webkit-deflate-frame\", which was not asked for";
        check(&["x-webkit-deflate-frame"], Err(unasked));
        check(&[COMPRESSION, "x-webkit-deflate-frame"], Err(unasked));
        check(&[COMPRESSION, COMPRESSION], Err("the extension permessage-deflate twice"));
        for bits in ["7", "16", "08", "+9", "1e1", "", "-1", "99999999999"] {
            let own = format!("server_max_window_bits={bits}");
            let reply = format!("{COMPRESSION}; {own}");
            let expected =
                format!("permessage-deflate with \"{own}\"; the bits of a window are 8 to 15");
            check(&[&reply], Err(&expected));
        }
        for parameter in [
            "client_max_window_bits=15",
            "client_max_window_bits",
            "server_max_window_bits",
            "server_no_context_takeover",
            "client_no_context_takeover=1",
            "mode=fast",
            "",
        ] {
            let reply = format!("{COMPRESSION}; {parameter}");
            let expected =
                format!("permessage-deflate with \"{parameter}\", which was not offered");
            check(&[&reply], Err(&expected));
        }
    }

    #[test]
    fn without_an_offer_nothing_may_be_answered() {
        let check = |values: &[&str]| check_compression(values.iter().copied(), false);
        assert_eq!(check(&[]), Ok(false));
        assert!(matches!(check(&[COMPRESSION]), Err(BadReply::Unasked(_))));
        let Err(BadReply::Unasked(long)) = check(&[&"\u{1}".repeat(5_000)]) else { panic!() };
        assert!(long.len() < 1_000);
    }

    #[test]
    fn offers_of_clients() {
        let check = |values: &[&str], expected: bool| {
            assert_eq!(accept_compression(values.iter().copied()), expected, "{values:?}");
        };
        check(&[COMPRESSION], true);
        check(&["permessage-deflate"], true);
        check(&["permessage-deflate; client_max_window_bits"], true);
        check(&["permessage-deflate; client_max_window_bits=10"], true);
        check(&["permessage-deflate; server_max_window_bits=15"], true);
        check(&["permessage-deflate; server_max_window_bits=10"], false);
        check(&["permessage-deflate; server_max_window_bits=10, permessage-deflate"], true);
        check(&["x-other", "permessage-deflate"], true);
        check(&["permessage-deflate; client_max_window_bits=16"], false);
        check(&["permessage-deflate; mode=fast"], false);
        check(
            &["permessage-deflate; client_no_context_takeover; client_no_context_takeover"],
            false,
        );
        check(&["x-webkit-deflate-frame"], false);
        check(&[], false);
    }
}
