//! The URL of a Postgres database: `postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?PARAMETERS`.
//!
//! Several hosts are the addresses of one database, of which one accepts changes at a time: they are
//! tried in turn.

use std::fmt;
use std::fs::File;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use super::super::StoreErrorKind;

/// Addresses in one URL.
const ADDRESSES_MAX: usize = 16;

/// The parameters that are passed on; others are errors, because the driver would ignore them.
const PARAMETERS: [&str; 5] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "host"];

/// Those that name a file.
const FILES: [&str; 3] = ["sslrootcert", "sslcert", "sslkey"];

/// How to write it.
pub(in crate::store) const FORM: &str =
    "write it like postgres://USER:${PGPASSWORD}@HOST:5432/DATABASE";

/// Whether a URL is of this dialect.
pub(in crate::store) fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// One address of a database.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) options: PgConnectOptions,
    /// Host and port.
    pub(super) shown: String,
    /// The files of certificates and keys, by parameter.
    files: Vec<(&'static str, String)>,
}

impl Address {
    /// Checks that the files can be read; the driver's error would not name the file.
    ///
    /// # Errors
    /// One cannot.
    pub(super) fn check_files(&self) -> Result<(), StoreErrorKind> {
        for (parameter, path) in &self.files {
            File::open(path).map_err(|error| StoreErrorKind::Database {
                message: format!("{parameter}: cannot read {path}: {error}"),
                hint: "name a file in PEM format that this user may read",
            })?;
        }
        Ok(())
    }
}

/// Leaves out the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Parses a URL.
///
/// # Errors
/// What is wrong; the message does not repeat the URL, which contains a password.
pub(in crate::store) fn check(url: &str) -> Result<(), String> {
    parse(url).map(drop)
}

pub(super) fn parse(url: &str) -> Result<Vec<Address>, String> {
    let (_, rest) = url.split_once("://").unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    if user.contains(['#', '[', ' ']) || path.contains(['@', '#']) {
        return Err("a special character in the user name or the password is not \
                    percent-encoded (@ as %40, / as %2F, # as %23, ? as %3F)"
            .into());
    }
    let (name, query) = path.split_once('?').unwrap_or((path, ""));
    if matches!(name, "" | "/") {
        return Err("the Postgres URL names no database".into());
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let key = pair.split_once('=').map_or(pair, |(key, _)| key);
        if !PARAMETERS.contains(&key) {
            // A value written in the wrong place may be a secret; a key is short and plain.
            let shown = if plimsoll_config::is_word(key) { key } else { "…" };
            return Err(format!(
                "the parameter \"{shown}\" is not supported; supported are {}",
                PARAMETERS.join(", ")
            ));
        }
    }
    let hosts: Vec<&str> = hosts.split(',').collect();
    if hosts.len() > ADDRESSES_MAX {
        return Err(format!("{} addresses; at most {ADDRESSES_MAX} are tried", hosts.len()));
    }
    let has_socket = query.split('&').any(|pair| pair.starts_with("host="));
    if hosts.len() > 1 && (has_socket || hosts.contains(&"")) {
        return Err("an address in the list of hosts is empty".into());
    }
    hosts.into_iter().map(|host| address(&user, host, path, has_socket)).collect()
}

fn address(user: &str, host: &str, path: &str, has_socket: bool) -> Result<Address, String> {
    if host.is_empty() && !has_socket {
        return Err("the Postgres URL has no host".into());
    }
    // The driver's parser needs a host, even if a socket replaces it.
    let written = if host.is_empty() { "localhost" } else { host };
    let options = PgConnectOptions::from_str(&format!("postgres://{user}{written}{path}"))
        .map_err(|error| why(&error))?;
    if options.get_port() == 0 {
        return Err("port 0 cannot be connected to; use 1 to 65535".into());
    }
    let shown = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let named = query.split('&').filter_map(|pair| pair.split_once('='));
    let files = named.filter_map(|(key, value)| {
        let parameter = FILES.into_iter().find(|known| *known == key)?;
        Some((parameter, plimsoll_config::percent_decoded(&value.replace('+', " "))?))
    });
    let files = files.collect();
    Ok(Address { options: options.application_name("plimsoll"), shown, files })
}

/// The driver's reason, which names the part of the URL and not its value.
fn why(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Configuration(inner) => {
            let text = inner.to_string();
            // These quote what they could not parse.
            if text.contains('"') || text.contains('`') {
                "not a Postgres URL: a parameter has an unknown value".into()
            } else {
                format!("not a Postgres URL: {text}")
            }
        }
        _ => "not a Postgres URL".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed() {
        let check = |url: &str, shown: &[&str]| {
            let parsed = parse(url).unwrap_or_else(|why| panic!("{url}: {why}"));
            let found: Vec<&str> = parsed.iter().map(|one| one.shown.as_str()).collect();
            assert_eq!(found, shown, "{url}");
            for one in &parsed {
                assert_eq!(one.options.get_database(), Some("db"), "{url}");
            }
        };
        check("postgres://u:p@h/db", &["h:5432"]);
        check("postgresql://u@h:1/db?sslmode=require", &["h:1"]);
        check("postgres://u:p%40%2F@h1:1,h2,[::1]:3/db", &["h1:1", "h2:5432", "[::1]:3"]);
        check("postgres:///db?host=/run/postgresql", &["/run/postgresql"]);
    }

    #[test]
    fn mistakes_are_named_without_the_secret() {
        let check = |url: &str, words: &str| {
            let why = parse(url).expect_err(url);
            assert!(why.contains(words), "{url}: {why}");
            assert!(!why.contains("s3cret"), "{url}: {why}");
        };
        check("postgres://u:s3cret@h", "names no database");
        check("postgres://u:s3cret@h/", "names no database");
        check("postgres://u:s3cret@/db", "no host");
        check("postgres://u:s3cret@h1,,h2/db", "is empty");
        check("postgres://u:s3cret@h:99999/db", "not a Postgres URL");
        check("postgres://u:s3cret@h:0/db", "port 0");
        check("postgres://u:s3c/s3cret@h/db", "percent-encoded");
        check("postgres://u:s3cret#@h/db", "percent-encoded");
        check("postgres://u:s3cret@h/db?sslmode=s3cret", "unknown value");
        check("postgres://u:p@h/db?password=s3cret", "\"password\" is not supported");
        check("postgres://u:p@h/db?s3cret=s3cret", "is not supported");
        check(&format!("postgres://u@{}/db", vec!["h"; 17].join(",")), "17 addresses");
    }
}
