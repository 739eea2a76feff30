//! A gateway's process settings: addresses, limits, logs; resolved, with all defaults.
//!
//! Services, upstreams and endpoints are in `model`. Fields that a reload changes are marked.

mod traces;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use plimsoll_config::Text;
use plimsoll_measure::Nanos;

use crate::model::Service;
use crate::usage::money::{Money, Price};

pub use traces::{TraceEndpoint, TraceSettings};

/// The settings of a process.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// At least one listener.
    pub listeners: Vec<Listener>,
    /// The instance's name in response headers and logs.
    pub instance: String,
    /// The number of worker threads, each with its own runtime.
    pub workers: usize,
    /// Certificate chain and key (PEM) to serve https with; `None`: cleartext.
    pub tls: Option<TlsFiles>,
    /// The SHA-256 hashes of the tokens that give access to the admin API; none: it is off. Changed by a
    /// reload.
    pub admin_tokens: Vec<[u8; 32]>,
    /// Resource limits. Changed by a reload.
    pub limits: Limits,
    /// Proxies whose X-Forwarded-For is trusted. Changed by a reload.
    pub trusted_proxies: Vec<Network>,
    /// Further headers of callers, in lower case, that are forwarded to upstreams. Changed by a reload.
    pub pass_headers: Vec<String>,
    /// Whether response headers include instance, upstream and attempts. Changed by a reload.
    pub reveal: bool,
    /// Which origins may call from a browser. Changed by a reload.
    pub cors: Cors,
    /// Access log settings. The sample is changed by a reload.
    pub access_log: AccessLog,
    /// Traces by OpenTelemetry. Changed by a reload.
    pub traces: TraceSettings,
    /// Whether answers are gzipped for callers that accept gzip. Changed by a reload.
    pub gzip: bool,
    /// The cache of answers.
    pub cache: CacheSettings,
    /// How usage is recorded, and what it costs.
    pub usage: UsageSettings,
    /// On shutdown, how long idle connections are kept and new ones accepted after `/ready` starts
    /// to fail; skipped if no caller was connected within the last minute. Changed by a reload.
    pub idle_close: Nanos,
    /// How long calls in flight may then take. Changed by a reload.
    pub drain: Nanos,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listeners: vec![Listener::at(SocketAddr::from(([127, 0, 0, 1], 3069)))],
            instance: String::from("gateway"),
            workers: 1,
            tls: None,
            admin_tokens: Vec::new(),
            limits: Limits::default(),
            trusted_proxies: Vec::new(),
            pass_headers: Vec::new(),
            reveal: true,
            cors: Cors::default(),
            access_log: AccessLog::default(),
            traces: TraceSettings::default(),
            gzip: true,
            cache: CacheSettings::default(),
            usage: UsageSettings::default(),
            idle_close: Nanos::from_secs(2),
            drain: Nanos::from_secs(30),
        }
    }
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address; port 0 picks a free port.
    pub address: SocketAddr,
    /// Which paths it serves.
    pub faces: Faces,
    /// Whether it serves https, if the gateway has a certificate.
    pub tls: bool,
}

impl Listener {
    /// A listener with all faces.
    pub fn at(address: SocketAddr) -> Listener {
        Listener { address, faces: Faces::ALL, tls: true }
    }
}

/// Whether two sockets cannot listen on these addresses at the same time. An IPv6 listener does not
/// accept IPv4 connections, so `0.0.0.0` and `[::]` do not overlap; two ports 0 never do.
pub fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let is_any = |address: SocketAddr| address.ip().is_unspecified();
    a.port() != 0
        && a.port() == b.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || is_any(a) || is_any(b))
}

/// Which paths a listener serves, in addition to `/health`, `/ready` and load balancer probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faces {
    /// `/api/gateway`: customers' calls.
    pub gateway: bool,
    /// `/v1`: calls in the form of a PATH instance.
    pub path: bool,
    /// `/metrics`, and the details of `/ready`.
    pub admin: bool,
}

impl Faces {
    /// All of them.
    pub const ALL: Faces = Faces { gateway: true, path: true, admin: true };
    /// None of them.
    pub const NONE: Faces = Faces { gateway: false, path: false, admin: false };
    /// The names in documents.
    pub const NAMES: [&'static str; 3] = ["gateway", "path", "admin"];

    /// Enables the face at this index of [`Faces::NAMES`].
    pub fn open(&mut self, place: usize) {
        match place {
            0 => self.gateway = true,
            1 => self.path = true,
            _ => self.admin = true,
        }
    }

    /// Whether callers' requests are served, not only an operator's.
    pub fn serves_calls(self) -> bool {
        self.gateway || self.path
    }

    /// The names of the enabled faces.
    pub fn names(self) -> Vec<&'static str> {
        let open = [self.gateway, self.path, self.admin];
        Self::NAMES.into_iter().zip(open).filter(|(_, open)| *open).map(|(word, _)| word).collect()
    }
}

/// Files for https.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Resource limits of the process, not of each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body after decompression.
    pub body: u64,
    /// Calls in a batch.
    pub batch: usize,
    /// Bytes of a request's head.
    pub header: usize,
    /// Connections from callers.
    pub connections: usize,
    /// Calls in flight.
    pub calls: usize,
    /// Calls in flight of one connection; further calls wait.
    pub calls_per_connection: usize,
    /// Calls in flight of one endpoint.
    pub calls_per_endpoint: usize,
    /// Concurrent streams of an HTTP/2 connection.
    pub http2_streams: u32,
    /// Bytes of an upstream's answer.
    pub answer: u64,
    /// Total bytes of connections, calls, bodies and answers.
    pub memory: u64,
    /// Connections to one upstream.
    pub upstream_connections: usize,
    /// Time from the first to the last byte of a request's head.
    pub header_time: Nanos,
    /// Time for each 4 KiB of a request's body.
    pub body_time: Nanos,
    /// How long a connection may stay open without a request.
    pub idle_time: Nanos,
    /// Time in which the caller must read each 4 KiB of a response.
    pub write_time: Nanos,
    /// Whether replicas that share a Redis enforce the rates of endpoints and keys together.
    pub shared: bool,
    /// How many replicas share limits, as long as Redis has not counted them.
    pub replicas: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body: 10 << 20,
            batch: 1_000,
            header: 32 << 10,
            connections: 20_000,
            calls: 10_000,
            calls_per_connection: 100,
            calls_per_endpoint: 10_000,
            http2_streams: 100,
            answer: 64 << 20,
            memory: 1 << 30,
            upstream_connections: 1_000,
            header_time: Nanos::from_secs(10),
            body_time: Nanos::from_secs(60),
            idle_time: Nanos::from_secs(180),
            write_time: Nanos::from_secs(60),
            shared: true,
            replicas: 1,
        }
    }
}

/// The cache of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Bytes of all answers in this process; 0: no cache.
    pub memory: u64,
    /// Bytes of a result; longer ones are not stored.
    pub entry: u64,
    /// A Redis that replicas share, if any.
    pub redis: Option<Text>,
    /// How long a call waits for Redis.
    pub redis_timeout: Nanos,
    /// How long answers hold. Changed by a reload.
    pub times: TimesToLive,
}

impl CacheSettings {
    /// Of the bytes, what other than results takes for each entry.
    pub const ENTRY_OVERHEAD: u64 = 320;

    /// The least `memory` for a cache whose longest results have this many bytes: a part is reserved for
    /// answers that were asked for only once.
    pub fn memory_min(entry: u64) -> u64 {
        (entry + CacheSettings::ENTRY_OVERHEAD).div_ceil(95) * 100
    }
}

impl Default for CacheSettings {
    fn default() -> CacheSettings {
        CacheSettings {
            memory: 64 << 20,
            entry: 1 << 20,
            redis: None,
            redis_timeout: Nanos::from_millis(5),
            times: TimesToLive::default(),
        }
    }
}

/// How long answers hold, by their class; 0: they are not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimesToLive {
    /// About the chain itself.
    pub fixed: Nanos,
    /// About a block that the call names by its hash.
    pub immutable: Nanos,
    /// About blocks up to the finalized head.
    pub finalized: Nanos,
    /// About later blocks and the head; limited to the service's block time.
    pub young: Nanos,
}

impl Default for TimesToLive {
    fn default() -> TimesToLive {
        TimesToLive {
            fixed: Nanos::from_secs(3_600),
            immutable: Nanos::from_secs(3_600),
            finalized: Nanos::from_secs(3_600),
            young: Nanos::from_secs(12),
        }
    }
}

impl TimesToLive {
    /// Young answers of a service without a block time hold at most this long.
    const YOUNG_UNKNOWN: Nanos = Nanos::from_secs(1);

    /// The longest time for young answers of a service with this block time.
    pub fn young_max(block_time: Option<Nanos>) -> Nanos {
        block_time.unwrap_or(TimesToLive::YOUNG_UNKNOWN)
    }

    /// The times of a service.
    pub fn of(&self, service: &Service) -> TimesToLive {
        let own = &service.cache;
        let young = own.young.unwrap_or(self.young);
        TimesToLive {
            fixed: own.fixed.unwrap_or(self.fixed),
            immutable: own.immutable.unwrap_or(self.immutable),
            finalized: own.finalized.unwrap_or(self.finalized),
            young: young.min(TimesToLive::young_max(service.block_time)),
        }
    }
}

/// How usage is recorded, and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageSettings {
    /// How long it is kept in the database.
    pub keep: Nanos,
    /// Bytes of the file in which it waits for the database.
    pub spool: u64,
    /// What customers pay for compute units of services without a price of their own.
    pub price: Option<Price>,
    /// What relays cost.
    pub network: NetworkCost,
}

impl Default for UsageSettings {
    fn default() -> UsageSettings {
        UsageSettings {
            keep: Nanos::from_secs(400 * 24 * 3_600),
            spool: 64 << 20,
            price: None,
            network: NetworkCost::default(),
        }
    }
}

/// What relays cost on Pocket Network; see [`crate::usage::money`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkCost {
    /// Compute units of the network per relay (CUPR), of services without a number of their own.
    pub cupr: Option<u64>,
    /// The network's compute_units_to_tokens_multiplier.
    pub cuttm: Option<u64>,
    /// The network's compute_unit_cost_granularity.
    pub cucg: Option<u64>,
    /// What a POKT costs.
    pub pokt: Option<Money>,
}

/// Which origins may call from a browser.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cors {
    /// All.
    #[default]
    Any,
    /// These origins: `https://app.example`.
    Origins(Vec<String>),
    /// None: no CORS headers are sent.
    Off,
}

/// Access log settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessLog {
    /// The share of requests to log, 0 to 1.
    pub sample: f64,
    /// The log file; `None`: stderr.
    pub file: Option<PathBuf>,
}

/// An IP network: `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Parses an address, or an address and a prefix length.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Network, String> {
        let wrong =
            || format!("\"{text}\" is not a network; write it like 10.0.0.0/8, 192.0.2.7 or ::1");
        let (address, bits) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = if text.contains('/') {
            bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?
        } else {
            most
        };
        Ok(Network { address, bits })
    }

    /// Whether the network contains an address. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn holds(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (u32::from(own) ^ u32::from(other)) & mask == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                (u128::from(own) ^ u128::from(other)) & mask == 0
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_overlaps_addresses_of_its_family() {
        let check = |a: &str, b: &str, expected: bool| {
            let (one, other) = (a.parse().expect(a), b.parse().expect(b));
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{a} {b}");
        };
        check("127.0.0.1:1", "127.0.0.1:1", true);
        check("0.0.0.0:1", "127.0.0.1:1", true);
        check("[::]:1", "[::1]:1", true);
        check("127.0.0.1:1", "127.0.0.2:1", false);
        check("127.0.0.1:1", "127.0.0.1:2", false);
        check("0.0.0.0:1", "[::]:1", false);
        check("0.0.0.0:0", "127.0.0.1:0", false);
    }

    #[test]
    fn networks_contain_addresses() {
        let check = |network: &str, address: &str, holds: bool| {
            let network = Network::parse(network).expect(network);
            assert_eq!(
                network.holds(address.parse().expect(address)),
                holds,
                "{network} {address}"
            );
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("192.0.2.7", "192.0.2.7", true);
        check("192.0.2.7", "192.0.2.8", false);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("::1", "::1", true);
        check("fd00::/8", "fd12::1", true);
        check("127.0.0.1", "::ffff:127.0.0.1", true);
        check("::/0", "127.0.0.1", false);
        for bad in ["", "10.0.0.0/33", "10.0.0.0/", "host", "1.2.3"] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }
}
