//! Parses and prints values of the configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use plimsoll_config::values::{quote, quote_filled, show_duration, show_size};
use plimsoll_config::{Field, Text};
use plimsoll_measure::Nanos;

use super::{Draft, instance};
use crate::model::Address;
use crate::settings::{Cors, Network};
use crate::store;

pub(super) fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

pub(super) fn span(span: Nanos) -> String {
    quote(&show_duration(span.into()))
}

pub(super) fn path(path: &Path) -> String {
    quote_filled(&path.display().to_string())
}

pub(super) fn addresses(field: &Field<'_>) -> Option<Vec<SocketAddr>> {
    let items = field.list()?;
    if items.is_empty() {
        field.problem("\"listen\" is empty", "write it like [\"127.0.0.1:3069\"]");
    }
    Some(items.iter().filter_map(address).collect())
}

/// An address to listen on.
pub(super) fn address(field: &Field<'_>) -> Option<SocketAddr> {
    field.parse(|text| {
        text.parse::<SocketAddr>().map_err(|_| {
            format!(
                "\"{text}\" is not an address to listen on; write it like 127.0.0.1:3069 or [::]:3069"
            )
        })
    })
}

/// Headers that must not reach an upstream: callers' credentials, and addresses that anyone can forge.
const NEVER_PASSED: [&str; 6] =
    ["authorization", "cookie", "forwarded", "proxy-authorization", "x-api-key", "x-real-ip"];

/// Headers of a connection or a message, which the gateway sets for its own. With REST, the caller's
/// `Accept` is forwarded in any case.
const SET_BY_GATEWAY: [&str; 20] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "target-service-id",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-request-id",
];

/// Whether a string is a valid header name.
pub(super) fn is_header_name(text: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_token)
}

/// Names of headers that are forwarded to upstreams.
pub(super) fn pass_headers(field: &Field<'_>, draft: &mut Draft) {
    let name = |text: &str| {
        let lower = text.to_ascii_lowercase();
        if !is_header_name(text) {
            return Err(format!("\"{text}\" is not a header name"));
        }
        if SET_BY_GATEWAY.contains(&lower.as_str()) || lower.starts_with("x-plimsoll-") {
            return Err(format!("\"{text}\" is set by the gateway"));
        }
        if NEVER_PASSED.contains(&lower.as_str()) {
            return Err(format!("\"{text}\" is never forwarded to an upstream"));
        }
        Ok(lower)
    };
    let items = field.list().unwrap_or_default();
    draft.config.settings.pass_headers = items.iter().filter_map(|item| item.parse(name)).collect();
}

/// Hashes of tokens.
pub(super) fn admin_tokens(field: &Field<'_>, draft: &mut Draft) {
    // What is not a hash may be a token, and is not repeated.
    let hash = |text: &str| {
        // With or without the prefix that the hashes of keys have.
        unhex(text.strip_prefix("sha256:").unwrap_or(text)).ok_or_else(|| {
            "not a SHA-256 hash in 64 hexadecimal digits; plimsoll gateway token makes a token and \
             its hash"
                .to_string()
        })
    };
    let items = field.list().unwrap_or_default();
    draft.config.settings.admin_tokens = items.iter().filter_map(|item| item.parse(hash)).collect();
}

/// Names of variables, each perhaps with `*` at its end.
pub(super) fn entry_variables(field: &Field<'_>, draft: &mut Draft) {
    let name = |text: &str| {
        let plain = text.strip_suffix('*').unwrap_or(text);
        let is_name = plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_name && !text.is_empty() {
            return Ok(text.to_string());
        }
        Err(format!("\"{text}\" is not the name of a variable; write it like NODE_KEY or NODE_*"))
    };
    let items = field.list().unwrap_or_default();
    draft.config.entry_variables = Some(items.iter().filter_map(|item| item.parse(name)).collect());
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[pair.len() - 1]).collect();
    (digits.len() == 64).then(|| bytes.try_into().ok()).flatten()
}

/// A string that is sent in a header.
pub(super) fn label(field: &Field<'_>, text: String) -> Option<String> {
    let plain = !text.is_empty() && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic());
    if !plain {
        let message = "\"instance\" must be 1 to 255 printable ASCII characters without spaces";
        field.problem(message, "");
    }
    plain.then_some(text)
}

pub(super) fn count(field: &Field<'_>, most: u64) -> Option<usize> {
    field.integer(1, most).map(|count| count as usize)
}

pub(super) fn size(field: &Field<'_>, least: u64, most: u64) -> Option<u64> {
    let size = field.size()?;
    if !(least..=most).contains(&size) {
        let (least, most) = (show_size(least), show_size(most));
        field.problem(format!("must be from {least} to {most}, not {}", show_size(size)), "");
        return None;
    }
    Some(size)
}

pub(super) fn time(field: &Field<'_>) -> Option<Nanos> {
    field.duration_above_zero().map(Nanos::from)
}

/// A path relative to a folder, made absolute so that it can be printed.
pub(super) fn absolute(folder: &Path, path: &str) -> PathBuf {
    let path = folder.join(path);
    std::path::absolute(&path).unwrap_or(path)
}

/// A file that must exist.
pub(super) fn file(field: &Field<'_>, folder: &Path) -> Option<PathBuf> {
    let text = field.text().filter(|text| text.unset.is_none())?;
    let path = absolute(folder, &text.value);
    if !path.is_file() {
        field.problem(format!("file not found: {}", path.display()), "");
    }
    Some(path)
}

/// A folder that must exist.
pub(super) fn folder(field: &Field<'_>, from: &Path) -> Option<PathBuf> {
    let text = field.text().filter(|text| text.unset.is_none())?;
    let path = absolute(from, &text.value);
    if !path.is_dir() {
        field.problem(format!("folder not found: {}", path.display()), "create it first");
    }
    Some(path)
}

pub(super) fn log_file(field: &Field<'_>, folder: &Path) -> Option<PathBuf> {
    let text = field.text().filter(|text| text.unset.is_none())?;
    let path = absolute(folder, &text.value);
    if !path.parent().is_some_and(Path::is_dir) {
        field.problem(format!("the folder of {} does not exist", path.display()), "");
    }
    Some(path)
}

pub(super) fn database(field: &Field<'_>, folder: &Path) -> Option<Text> {
    let mut text = field.text()?;
    if text.value == "off" || text.unset.is_some() {
        return Some(text);
    }
    if let Err((message, hint)) = store::check_url(&text.value) {
        field.problem(message, hint);
        return None;
    }
    if store::sqlite_path(&text.value).is_none() {
        return Some(text.hiding_secrets_of_url());
    }
    let plain = text.value == text.shown;
    text.value = absolute_database(&text.value, folder);
    if plain {
        text.shown = text.value.replace("${", "$${");
    }
    Some(text)
}

/// A database's URL with an absolute path.
pub(super) fn absolute_database(url: &str, folder: &Path) -> String {
    match store::sqlite_path(url) {
        Some(path) => format!("sqlite:{}", absolute(folder, path).display()),
        None => url.into(),
    }
}

pub(super) fn instances(field: &Field<'_>, draft: &mut Draft) {
    let items = field.list().unwrap_or_default();
    let read = |(at, item): (usize, &Field<'_>)| match instance(
        item.text()?.hiding_all_but_words_of_url(),
        at + 1,
    ) {
        Ok(instance) => Some(instance),
        Err(message) => {
            item.problem(message, "");
            None
        }
    };
    draft.config.instances = items.iter().enumerate().filter_map(read).collect();
}

pub(super) fn trusted_proxies(field: &Field<'_>, draft: &mut Draft) {
    let items = field.list().unwrap_or_default();
    let networks = items.iter().filter_map(|item| item.parse(Network::parse));
    draft.config.settings.trusted_proxies = networks.collect();
}

/// An origin as browsers send it.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let wrong = format!("\"{text}\" is not a valid origin; write it like https://app.example");
    let address = Address::parse(text).map_err(|_| wrong.clone())?;
    // Browsers send no wildcards; `*` is a valid host elsewhere.
    let plain = address.path == "/" && !text.ends_with('/') && !text.contains(['?', '*']);
    if plain { Ok(text.to_string()) } else { Err(wrong) }
}

pub(super) fn cors(field: &Field<'_>, draft: &mut Draft) {
    let cors = &mut draft.config.settings.cors;
    if !field.is_list() {
        match field.one_of(&[("any", true), ("off", false)]) {
            Some(true) => *cors = Cors::Any,
            Some(false) => *cors = Cors::Off,
            None => {}
        }
        return;
    }
    let items = field.list().unwrap_or_default();
    if items.is_empty() {
        field.problem("\"cors\" is empty", "write cors = \"off\" to allow no origin");
    }
    *cors = Cors::Origins(items.iter().filter_map(|item| item.parse(origin)).collect());
}
