//! Who may call an endpoint, and how much: keys, origins, networks, limits.

use plimsoll_measure::{Nanos, WallClock};

use crate::settings::Network;

/// Keys of one endpoint; enough for one per application and a rotation of each.
pub const KEYS_MAX: usize = 64;

/// The longest name of a key, in bytes; names are in metrics and in the database.
pub const KEY_NAME_MAX: usize = 64;

/// Origins, and networks, of one endpoint. Each call compares its own with all of them.
pub const RULES_MAX: usize = 64;

/// The highest rate, per second. Higher ones are assumed to be typos.
pub const RATE_MAX: f64 = 1e9;

/// The longest burst.
pub const BURST_MAX: Nanos = Nanos::from_secs(3_600);

/// The start of every key, so that scanners for leaked secrets recognize it.
pub const KEY_PREFIX: &str = "plk_";

/// Who may call an endpoint, and how much. By default everyone, without limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    /// A call needs one of these keys; none: no key is needed. Sorted by name, at most [`KEYS_MAX`].
    pub keys: Vec<AccessKey>,
    /// The pages that may call, such as `https://app.example`; none: pages of every origin, and
    /// callers that are not pages.
    pub origins: Vec<String>,
    /// The networks that may call; none: all.
    pub networks: Vec<Network>,
    /// The limits of all keys together.
    pub limits: CallLimits,
}

/// A key of an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessKey {
    /// Unique in the endpoint.
    pub name: String,
    /// The SHA-256 hash of the key's text.
    pub hash: [u8; 32],
    /// From when on the key is not valid.
    pub expires: Option<WallClock>,
    /// Its own limits, in addition to those of the endpoint.
    pub limits: CallLimits,
}

impl AccessKey {
    /// The start of the hash, by which people recognize a key.
    pub fn fingerprint(&self) -> String {
        self.hash[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// How many calls are admitted; `None`: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CallLimits {
    /// Calls per second, above 0.
    pub calls: Option<f64>,
    /// Compute units per second, above 0.
    pub compute_units: Option<f64>,
    /// How much of the rates may be used at once, as the time in which they refill; `None`:
    /// [`CallLimits::BURST`].
    pub burst: Option<Nanos>,
    /// Compute units per day (UTC).
    pub daily: Option<u64>,
    /// Compute units per month (UTC).
    pub monthly: Option<u64>,
}

impl CallLimits {
    /// The default burst. It is admitted in addition to the rate, once after a pause: over a minute, 0.8 %.
    pub const BURST: Nanos = Nanos::from_millis(500);

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        let rates = self.calls.is_some() || self.compute_units.is_some();
        !rates && self.daily.is_none() && self.monthly.is_none()
    }

    /// The burst, by default or as written.
    pub fn burst(&self) -> Nanos {
        self.burst.unwrap_or(CallLimits::BURST)
    }
}

/// Checks the name of a key.
///
/// # Errors
/// What is wrong with it.
pub fn check_key_name(name: &str) -> Result<(), String> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if name.starts_with(KEY_PREFIX) {
        return Err("a key's name must not be the key itself".into());
    }
    if plain && !name.is_empty() && name.len() <= KEY_NAME_MAX {
        return Ok(());
    }
    Err(format!(
        "not a valid name of a key; use 1 to {KEY_NAME_MAX} letters, digits, \"_\" and \"-\""
    ))
}
