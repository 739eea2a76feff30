//! `plimsoll gateway key`: makes, lists and removes the API keys of endpoints.
//!
//! A key is made here and printed once; the database and the gateway get its hash only.

use super::access::Access;
use super::additions::LimitArgs;
use super::entries::FormatArgs;
use super::listing::{Format, limits, table};
use super::messages::counted;
use crate::{put, stdout_columns, tell, usage_error};
use clap::{Args, Subcommand};
use plimsoll_config::nearest;
use plimsoll_config::values::quote;
use plimsoll_measure::WallClock;
use plimsoll_registry::model::KEY_PREFIX;
use plimsoll_registry::sources::{Outcome, Request};
use plimsoll_registry::store::EntryKind;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::process::ExitCode;

/// Random characters of a key, of 62 different ones: 238 bits.
const KEY_CHARS: usize = 40;

#[derive(Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    verb: KeyVerb,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Subcommand)]
enum KeyVerb {
    /// Make a key of an endpoint, and print it; only its hash is stored
    #[command(after_help = "\
The first key of an endpoint closes it: from then on every call needs a key. Callers send it in the \
header Authorization: Bearer KEY or X-Api-Key, or behind the endpoint's id in the path.

Examples:
  plimsoll gateway key add ethpath_1 --name web --calls 20/s
  plimsoll gateway key add ethpath_1 --name partner --expires 2027-06-30 \\
      --monthly-compute-units 1000000")]
    Add(AddKey),
    /// List the keys of an endpoint, or of all; with --admin, also when each was last used
    List {
        /// Id of the endpoint [default: all]
        endpoint: Option<String>,
    },
    /// Remove a key of an endpoint
    Remove {
        /// Id of the endpoint
        endpoint: String,
        /// Name of the key
        name: String,
        /// Remove it even if it is the only key, after which everyone may call the endpoint
        #[arg(long)]
        last: bool,
    },
}

#[derive(Args)]
struct AddKey {
    /// Id of the endpoint
    endpoint: String,
    /// Name of the key in lists, logs and usage
    #[arg(long)]
    name: String,
    /// When the key ends, such as 2027-06-30 or 2027-06-30T12:00:00Z [default: never]
    #[arg(long, value_name = "DATE")]
    expires: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

impl KeyArgs {
    /// Carries out the command.
    pub(super) async fn run(self, access: &mut Access) -> anyhow::Result<ExitCode> {
        let format = self.format.format;
        match self.verb {
            KeyVerb::Add(add) => add.run(access, format).await?,
            KeyVerb::List { endpoint } => list(access, endpoint.as_deref(), format).await?,
            KeyVerb::Remove { endpoint, name, last } => {
                let request = Request::RemoveKey { endpoint, name, is_last: last };
                let changed = access.change(std::slice::from_ref(&request)).await?;
                let Request::RemoveKey { endpoint, name, .. } = request else { unreachable!() };
                let outcome = json!({ "endpoint": endpoint, "key": name, "outcome": "removed" });
                match format {
                    Format::Json => put(&format!("{outcome}\n"))?,
                    Format::Table => {
                        let database = &changed.database;
                        tell(&format!("removed key {name} of endpoint {endpoint} from {database}"));
                    }
                }
                changed.warnings.iter().for_each(|text| tell(text));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl AddKey {
    async fn run(self, access: &mut Access, format: Format) -> anyhow::Result<()> {
        let AddKey { endpoint, name, expires, limits } = self;
        let key = random_key()?;
        let hash: String = Sha256::digest(&key).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut lines = vec![("KEY".to_string(), format!("hash = \"sha256:{hash}\""))];
        let expires = expires.map(|date| format!("expires = {}", quote(&date)));
        lines.extend(expires.map(|line| ("--expires".to_string(), line)));
        lines.extend(limits.lines());
        let request = Request::AddKey { endpoint: endpoint.clone(), name: name.clone(), lines };
        let changed = access.change(&[request]).await?;
        debug_assert_eq!(changed.outcomes, [Outcome::Changed]);
        let fingerprint = &hash[..8];
        match format {
            Format::Json => put(&format!(
                "{}\n",
                json!({ "endpoint": endpoint, "name": name, "key": key, "fingerprint": fingerprint })
            ))?,
            Format::Table => {
                put(&format!("{key}\n"))?;
                let database = &changed.database;
                tell(&format!(
                    "added key {name} ({fingerprint}) to endpoint {endpoint} in {database}; it is not \
                     shown again"
                ));
            }
        }
        changed.warnings.iter().for_each(|text| tell(text));
        Ok(())
    }
}

/// A new key, from the system's randomness.
fn random_key() -> anyhow::Result<String> {
    const CHARS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut source = File::open("/dev/urandom")?;
    let mut key = String::from(KEY_PREFIX);
    while key.len() < KEY_PREFIX.len() + KEY_CHARS {
        let mut bytes = [0; 64];
        source.read_exact(&mut bytes)?;
        // Of 256 values, 248 stand for each character equally often.
        let chars = bytes.iter().filter(|byte| **byte < 248).map(|byte| CHARS[*byte as usize % 62]);
        key.extend(chars.map(char::from).take(KEY_PREFIX.len() + KEY_CHARS - key.len()));
    }
    Ok(key)
}

async fn list(access: &mut Access, only: Option<&str>, format: Format) -> anyhow::Result<()> {
    let used = match access {
        Access::Admin(client) => Some(client.keys(only).await?),
        Access::Database(..) => None,
    };
    let listed = access.list(EntryKind::Endpoint).await?;
    if let Some(id) = only.filter(|id| listed.entries.iter().all(|entry| entry.id() != *id)) {
        let hint = match nearest(id, listed.entries.iter().map(|entry| entry.id())) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "plimsoll gateway endpoint list shows all endpoints".into(),
        };
        return Err(usage_error(format!("there is no endpoint \"{id}\""), hint));
    }
    let now = WallClock::now();
    let mut keys: Vec<Value> = Vec::new();
    for entry in listed.entries.iter().filter(|one| only.is_none_or(|only| only == one.id())) {
        for key in entry.entry["keys"].as_array().into_iter().flatten() {
            let mut key = key.clone();
            key["endpoint"] = entry.id().into();
            let same = |one: &&Value| {
                one["endpoint"] == key["endpoint"] && one["fingerprint"] == key["fingerprint"]
            };
            if let Some(used) = &used {
                key["last_used"] =
                    used.iter().find(same).map_or(Value::Null, |one| one["last_used"].clone());
            }
            let ends = key["expires"].as_str().and_then(WallClock::parse);
            key["expired"] = ends.is_some_and(|ends| ends <= now).into();
            keys.push(key);
        }
    }
    if format == Format::Json {
        return put(&format!("{:#}\n", Value::Array(keys)));
    }
    if keys.is_empty() {
        tell("no keys yet; see plimsoll gateway key add --help");
        return Ok(());
    }
    let mut head = vec!["ENDPOINT", "NAME", "FINGERPRINT", "EXPIRES", "LIMITS"];
    let mut columns = vec!["endpoint", "name", "fingerprint", "expires", "limits"];
    if used.is_some() {
        head.insert(4, "LAST USED");
        columns.insert(4, "last_used");
    }
    let cell = |key: &Value, column: &str| match column {
        "expires" => expiry(key, now),
        "limits" => limits(&key["limits"]),
        _ => key[column].as_str().unwrap_or("–").to_string(),
    };
    let row = |key: &Value| columns.iter().map(|column| cell(key, column)).collect::<Vec<_>>();
    let rows = std::iter::once(head.iter().map(|cell| cell.to_string()).collect());
    let rows: Vec<Vec<String>> = rows.chain(keys.iter().map(row)).collect();
    put(&table(&rows, stdout_columns()))
}

/// Within this many days before its end, a table says how soon a key ends.
const SOON_DAYS: u64 = 30;
const DAY_NS: u64 = 24 * 3_600 * 1_000_000_000;

/// When a key ends, in a cell.
fn expiry(key: &Value, now: WallClock) -> String {
    let Some(text) = key["expires"].as_str() else { return "–".into() };
    let day = text.strip_suffix("T00:00:00Z").unwrap_or(text);
    let Some(ends) = WallClock::parse(text) else { return text.into() };
    match ends.unix_ns.checked_sub(now.unix_ns).filter(|left| *left > 0) {
        None => format!("{day} (expired)"),
        Some(left) if left >= SOON_DAYS * DAY_NS => day.into(),
        Some(left) if left < DAY_NS => format!("{day} (within a day)"),
        Some(left) => format!("{day} (in {})", counted((left / DAY_NS) as usize, "day")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_end_soon_are_marked() {
        let now = WallClock::parse("2026-11-27T12:00:00Z").expect("a date");
        let check = |expires: &str, shown: &str| {
            assert_eq!(expiry(&json!({ "expires": expires }), now), shown);
        };
        check("2027-06-30T00:00:00Z", "2027-06-30");
        check("2027-06-30T12:00:00Z", "2027-06-30T12:00:00Z");
        check("2026-11-27T12:00:00Z", "2026-11-27T12:00:00Z (expired)");
        check("2020-01-01T00:00:00Z", "2020-01-01 (expired)");
        check("2026-11-28T00:00:00Z", "2026-11-28 (within a day)");
        check("2026-11-29T00:00:00Z", "2026-11-29 (in 1 day)");
        check("2026-12-27T00:00:00Z", "2026-12-27 (in 29 days)");
        check("2026-12-28T00:00:00Z", "2026-12-28");
        assert_eq!(expiry(&json!({}), now), "–");
    }

    #[test]
    fn keys_are_random_and_plain() {
        let (one, other) = (random_key().expect("a key"), random_key().expect("a key"));
        assert_eq!(one.len(), KEY_PREFIX.len() + KEY_CHARS);
        assert!(one.starts_with(KEY_PREFIX) && one != other);
        assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    }
}
