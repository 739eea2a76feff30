//! A gateway's definitions: services, upstreams, endpoints.
//!
//! These are the resolved forms: variables substituted, URLs parsed. They come from the configuration
//! file, the database and the built-in services, and do not record their origin.

mod access;
mod by_method;
mod resilience;

use std::path::PathBuf;

use plimsoll_config::Text;
use plimsoll_measure::Nanos;

use crate::usage::money::Price;

pub use access::{
    Access, AccessKey, BURST_MAX, CallLimits, KEY_NAME_MAX, KEY_PREFIX, KEYS_MAX, RATE_MAX,
    RULES_MAX, check_key_name,
};
pub use by_method::{ByMethod, COMPUTE_UNITS_MAX, ComputeUnits};
pub use resilience::{
    AGREE_MAX, Agree, HEDGE_MAX, HEDGE_MIN, RETRY_FLOOR_MAX, Resilience, Sending,
};

/// The longest id of a service, an upstream or an endpoint, in bytes.
pub const ID_MAX: usize = 128;

/// The largest weight of an upstream.
pub const WEIGHT_MAX: u32 = 1_000;

/// The highest tier number; tier 0 is used first.
pub const TIER_MAX: u8 = 9;

/// A chain or an agent family.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The id that callers and PATH instances use: `eth`.
    pub id: String,
    /// The chain id; if set, the gateway answers `eth_chainId` and `net_version` itself.
    pub chain_id: Option<u64>,
    /// The time between two blocks.
    pub block_time: Option<Nanos>,
    /// How many blocks an upstream may lag behind.
    pub sync_allowance: Option<u64>,
    /// How calls are balanced over its upstreams.
    pub spread: Spread,
    /// The timeout of a call, from its start to the last byte of its answer.
    pub timeout: Nanos,
    /// Whether requests that are not JSON-RPC are relayed: paths below `/v1`, and methods other than
    /// POST. Method rules do not apply to them.
    pub rest: bool,
    /// Whether upstreams are asked for their latest block and their readiness at intervals, if there
    /// are several.
    pub health_checks: bool,
    /// How calls survive failing upstreams.
    pub resilience: Resilience,
    /// Where transactions are sent.
    pub send: Sending,
    /// How many upstreams must agree on reads.
    pub agree: Agree,
    /// How long an upstream is not used that disagreed with the others; `None`: it is used.
    pub park_dissenters: Option<Nanos>,
    /// How long its answers are cached, where it differs from the process's settings.
    pub cache: ServiceTimes,
    /// The calls that are made for each new block, so that callers find their answers in the cache.
    pub prefetch: Vec<Prefetch>,
    /// What a call of each method is charged.
    pub compute_units: ComputeUnits,
    /// What customers pay for compute units; `None`: as the process's settings say.
    pub price: Option<Price>,
    /// Compute units of Pocket Network per relay; `None`: as the process's settings say.
    pub cupr: Option<u64>,
}

/// A call that is made for each new block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// Its method.
    pub method: String,
    /// Its parameters, a JSON array or object.
    pub params: Option<String>,
}

impl Prefetch {
    /// At most this many for a service.
    pub const MAX: usize = 32;
}

impl std::fmt::Display for Prefetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.params {
            Some(params) => write!(f, "{} {params}", self.method),
            None => write!(f, "{}", self.method),
        }
    }
}

/// How long a service's answers are cached, by their class; `None`: as the process's settings say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceTimes {
    /// About the chain itself.
    pub fixed: Option<Nanos>,
    /// About a block that the call names by its hash.
    pub immutable: Option<Nanos>,
    /// About blocks up to the finalized head.
    pub finalized: Option<Nanos>,
    /// About later blocks and the head.
    pub young: Option<Nanos>,
}

impl ServiceTimes {
    /// The times by their names in documents.
    pub fn named(&self) -> [(&'static str, Option<Nanos>); 4] {
        [
            ("static", self.fixed),
            ("immutable", self.immutable),
            ("final", self.finalized),
            ("young", self.young),
        ]
    }
}

impl Service {
    /// The default of [`Service::timeout`].
    pub const TIMEOUT: Nanos = Nanos::from_secs(30);

    /// A service with defaults for everything but its id.
    pub fn named(id: impl Into<String>) -> Service {
        Service {
            id: id.into(),
            chain_id: None,
            block_time: None,
            sync_allowance: None,
            spread: Spread::default(),
            timeout: Service::TIMEOUT,
            rest: false,
            health_checks: true,
            resilience: Resilience::default(),
            send: Sending::default(),
            agree: Agree::default(),
            park_dissenters: None,
            cache: ServiceTimes::default(),
            prefetch: Vec::new(),
            compute_units: ComputeUnits::default(),
            price: None,
            cupr: None,
        }
    }

    /// How long an attempt may take before another upstream is tried, too.
    pub fn patience(&self) -> Nanos {
        self.resilience.patience.unwrap_or(Nanos(self.timeout.0 / 4))
    }

    /// The services that every gateway knows, as PATH's rules describe them.
    pub fn built_in() -> Vec<Service> {
        let service = |id: &str, chain_id, block_secs, sync_allowance| Service {
            chain_id: Some(chain_id),
            block_time: Some(Nanos::from_secs(block_secs)),
            sync_allowance: Some(sync_allowance),
            ..Service::named(id)
        };
        vec![
            service("eth", 1, 12, 2),
            service("boba", 288, 2, 150),
            service("mantle", 5000, 2, 150),
            service("kava", 2222, 6, 50),
        ]
    }
}

/// How calls are balanced over upstreams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// In turn, regardless of weight.
    #[default]
    RoundRobin,
    /// The upstream with the fewest calls in flight per weight; ties in turn.
    LeastLoaded,
    /// In turn, in proportion to weight.
    Weighted,
}

impl Spread {
    /// The names in documents.
    pub const NAMES: [(&'static str, Spread); 3] = [
        ("round-robin", Spread::RoundRobin),
        ("least-loaded", Spread::LeastLoaded),
        ("weighted", Spread::Weighted),
    ];

    /// The name in documents.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, spread)| *spread == self).map_or("", |(word, _)| word)
    }
}

/// A node or a gateway that calls are relayed to.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The id in metrics and response headers.
    pub id: String,
    /// The service it serves; `None`: every service, as PATH instances do.
    pub service: Option<String>,
    /// The protocol.
    pub kind: Kind,
    /// The URL.
    pub url: Text,
    /// The URL, parsed.
    pub address: Address,
    /// Headers sent with each request; names in lower case.
    pub headers: Vec<(String, Text)>,
    /// 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// 0 to [`TIER_MAX`]; a tier is used if no upstream of a lower-numbered tier is available.
    pub tier: u8,
    /// Maximum calls per second from this process; `None`: no limit.
    pub rate_limit: Option<f64>,
    /// How many calls it is sent at a time.
    pub concurrency: Concurrency,
    /// The methods that may be sent to it.
    pub methods: MethodRules,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Whether it gets no new calls; calls in flight are finished.
    pub drain: bool,
}

impl Upstream {
    /// An upstream that serves every service, with defaults for everything else.
    pub fn at(id: impl Into<String>, kind: Kind, url: Text, address: Address) -> Upstream {
        Upstream {
            id: id.into(),
            service: None,
            kind,
            url,
            address,
            headers: Vec::new(),
            weight: 1,
            tier: 0,
            rate_limit: None,
            concurrency: Concurrency::default(),
            methods: MethodRules::default(),
            ca: None,
            drain: false,
        }
    }

    /// Path and query of the URL. A PATH instance answers calls only below `/v1`, which is therefore the
    /// default.
    pub fn path(&self) -> &str {
        match (self.kind, self.address.path.as_str()) {
            (Kind::Path, "/") => "/v1",
            (_, path) => path,
        }
    }
}

/// How many calls an upstream is sent at a time by one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// As many as it can work on, which is measured.
    #[default]
    Auto,
    /// This many, 1 to [`CONCURRENCY_MAX`].
    Fixed(u32),
    /// As many as limits.upstream_connections permits.
    Off,
}

impl std::fmt::Display for Concurrency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Concurrency::Auto => f.write_str("auto"),
            Concurrency::Fixed(limit) => write!(f, "{limit}"),
            Concurrency::Off => f.write_str("off"),
        }
    }
}

/// The highest fixed concurrency.
pub const CONCURRENCY_MAX: u32 = 10_000_000;

/// An upstream's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node: JSON-RPC by POST to its URL.
    Evm,
    /// A PATH instance: JSON-RPC by POST to its URL, the service named in a header.
    Path,
}

impl Kind {
    /// The names in documents.
    pub const NAMES: [(&'static str, Kind); 2] = [("evm", Kind::Evm), ("path", Kind::Path)];

    /// The name in documents.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// A parsed URL: `https://host:port/path`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Whether it is https.
    pub tls: bool,
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port, explicit or the scheme's default.
    pub port: u16,
    /// The Host header: the host, and the port if the URL has one.
    pub authority: String,
    /// Path and query, starting with `/`.
    pub path: String,
}

/// Omits path and query, which may contain a key.
impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}/…", self.authority)
    }
}

impl Address {
    /// Parses a URL.
    ///
    /// # Errors
    /// What is wrong; the message does not repeat the URL, which may contain a secret.
    pub fn parse(url: &str) -> Result<Address, String> {
        let form = "write it like http://127.0.0.1:8545 or https://node.example/path";
        let uri: http::Uri = url.parse().map_err(|_| format!("not a URL; {form}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(other) => {
                return Err(format!("\"{other}\" is not a scheme of an upstream; {form}"));
            }
            None => return Err(format!("no scheme; {form}")),
        };
        let authority = uri.authority().ok_or_else(|| format!("no host; {form}"))?;
        if authority.as_str().contains('@') {
            let instead = "write headers = { Authorization = \"Basic …\" }";
            return Err(format!("the URL contains a user name or password; {instead}"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("no host; {form}"));
        }
        let named = authority.as_str().rsplit_once(':').map(|(_, port)| port);
        let port = match (authority.port_u16(), named) {
            (Some(0), _) => return Err("port 0 cannot be connected to; use 1 to 65535".into()),
            (Some(port), _) => port,
            // A colon within the brackets of an IPv6 address does not start a port.
            (None, Some(port)) if !port.ends_with(']') => {
                return Err(format!("\"{port}\" is not a valid port; use 1 to 65535"));
            }
            (None, _) => {
                if tls {
                    443
                } else {
                    80
                }
            }
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // A query may follow the host directly.
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        Ok(Address { tls, host: host.into(), port, authority: authority.as_str().into(), path })
    }
}

/// An endpoint: what a customer calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The id in its URL: `ethpath_…`.
    pub id: String,
    /// The service that it relays to.
    pub service: String,
    /// The methods that may be called.
    pub methods: MethodRules,
    /// How many upstreams must agree on reads; `None`: as the service says.
    pub agree: Option<Agree>,
    /// Whether a caller may ask for an answer that does not come from the cache (`Cache-Control:
    /// no-cache`).
    pub no_cache: bool,
    /// Who may call, and how much.
    pub access: Access,
}

impl Endpoint {
    /// An endpoint of a service, with defaults for everything else.
    pub fn named(id: impl Into<String>, service: impl Into<String>) -> Endpoint {
        Endpoint {
            id: id.into(),
            service: service.into(),
            methods: MethodRules::default(),
            agree: None,
            no_cache: false,
            access: Access::default(),
        }
    }
}

/// An id without its middle, for logs: an endpoint's id is its customer's credential. Shows 4 characters
/// at each end, or a third of a shorter id.
pub fn masked(id: &str) -> String {
    const SHOWN_MAX: usize = 4;
    let chars: Vec<char> = id.chars().collect();
    let shown = SHOWN_MAX.min(chars.len() / 3);
    let (front, back) = (&chars[..shown], &chars[chars.len() - shown..]);
    front.iter().chain(&['…']).chain(back).collect()
}

/// Whether a pattern, which may end in `*`, fits a method.
fn pattern_fits(pattern: &str, method: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => method.starts_with(start),
        None => pattern == method,
    }
}

/// Which methods may be used: the allowed ones except the denied ones. A pattern may end in `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodRules {
    /// Empty: all.
    pub allow: Vec<String>,
    /// Overrides `allow`.
    pub deny: Vec<String>,
}

impl MethodRules {
    /// Whether a method may be used.
    pub fn permit(&self, method: &str) -> bool {
        let fits = |pattern: &String| pattern_fits(pattern, method);
        !self.deny.iter().any(fits) && (self.allow.is_empty() || self.allow.iter().any(fits))
    }

    /// Checks a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(pattern: &str) -> Result<(), String> {
        let name = pattern.strip_suffix('*').unwrap_or(pattern);
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./:".contains(&b));
        if plain && !pattern.is_empty() && pattern.len() <= ID_MAX {
            return Ok(());
        }
        Err(format!(
            "\"{pattern}\" is not a method pattern; write a name, or a prefix such as \"debug_*\""
        ))
    }
}

/// All definitions of a gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Definitions {
    /// Unique ids; includes the built-in services that are not disabled.
    pub services: Vec<Service>,
    /// Unique ids; the service, if any, is one of `services`.
    pub upstreams: Vec<Upstream>,
    /// Unique ids; the service is one of `services`.
    pub endpoints: Vec<Endpoint>,
}

/// Checks an id.
///
/// # Errors
/// What is wrong with it.
pub fn check_id(id: &str) -> Result<(), String> {
    check_id_shown_as(id, id)
}

/// The same, with the id shown in this form.
pub(crate) fn check_id_shown_as(id: &str, shown: &str) -> Result<(), String> {
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b));
    if plain && !id.is_empty() && id.len() <= ID_MAX {
        return Ok(());
    }
    // A long text is no id at all, and is not repeated in full.
    let more = if shown.chars().nth(ID_MAX).is_some() { "…" } else { "" };
    let shown: String = shown.chars().take(ID_MAX).collect();
    Err(format!(
        "\"{shown}{more}\" is not a valid id; use 1 to {ID_MAX} letters, digits, \"_\", \"-\", \".\" and \":\""
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed() {
        let check = |url: &str, tls: bool, host: &str, port: u16, path: &str| {
            let address = Address::parse(url).unwrap_or_else(|why| panic!("{url}: {why}"));
            assert_eq!(
                (address.tls, address.host.as_str(), address.port, address.path.as_str()),
                (tls, host, port, path),
                "{url}"
            );
        };
        check("http://127.0.0.1:8545", false, "127.0.0.1", 8545, "/");
        check("https://node.example/v3/key?x=1", true, "node.example", 443, "/v3/key?x=1");
        check("http://[::1]:3069/v1", false, "::1", 3069, "/v1");
        check("http://host", false, "host", 80, "/");
        check("https://host?apikey=K", true, "host", 443, "/?apikey=K");
        for bad in [
            "",
            "host",
            "host:80",
            "ftp://host/",
            "http://",
            "http://u:p@host/",
            "http:///x",
            "http://host:65536/",
            "http://host:0/",
            "http://host:/",
            "http://[::1]:99999/",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_masked() {
        let check = |id: &str, shown: &str| assert_eq!(masked(id), shown, "{id}");
        check("ethpath_1764014188689_1764014188693", "ethp…8693");
        check("abcdefghijkl", "abcd…ijkl");
        check("short_1", "sh…_1");
        check("key", "k…y");
        check("äöü", "ä…ü");
        check("e1", "…");
        check("", "…");
    }

    #[test]
    fn method_rules() {
        let rules = |allow: &[&str], deny: &[&str]| MethodRules {
            allow: allow.iter().map(|text| text.to_string()).collect(),
            deny: deny.iter().map(|text| text.to_string()).collect(),
        };
        assert!(rules(&[], &[]).permit("anything"));
        assert!(rules(&["eth_*"], &[]).permit("eth_call"));
        assert!(!rules(&["eth_*"], &[]).permit("debug_traceCall"));
        assert!(!rules(&["eth_*"], &["eth_call"]).permit("eth_call"));
        assert!(!rules(&[], &["*"]).permit("eth_call"));
        assert!(rules(&["net_version"], &["net_versions"]).permit("net_version"));
        assert!(MethodRules::check("eth_*").is_ok());
        assert!(MethodRules::check("*").is_ok());
        assert!(MethodRules::check("").is_err());
        assert!(MethodRules::check("e*h").is_err());
        assert!(check_id("ethpath_1764014188689_1764014188693").is_ok());
        assert!(check_id("a b").is_err());
    }
}
