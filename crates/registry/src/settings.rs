//! How a gateway process works: addresses, limits, logs. Resolved, with every default filled in.
//!
//! What may change while it runs (services, upstreams, endpoints) is in `model`; what of this may
//! change too is said at each field.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use plimsoll_measure::Nanos;

/// Everything a process is started with, beside its definitions.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where it listens; at least one listener.
    pub listeners: Vec<Listener>,
    /// What it calls itself in response headers and logs.
    pub instance: String,
    /// How many threads serve, each with a runtime of its own.
    pub workers: usize,
    /// Certificate chain and key (PEM) to serve https with; `None`: cleartext.
    pub tls: Option<TlsFiles>,
    /// What may grow how far. Changed by a reload.
    pub limits: Limits,
    /// Who may set X-Forwarded-For. Changed by a reload.
    pub trusted_proxies: Vec<Network>,
    /// Header fields of callers, in lower case, that go on to upstreams beside those that always do.
    /// Changed by a reload.
    pub pass_headers: Vec<String>,
    /// Whether response headers name instance, upstream and attempts. Changed by a reload.
    pub reveal: bool,
    /// Which pages may call it from a browser. Changed by a reload.
    pub cors: Cors,
    /// What of the calls is logged. Changed by a reload.
    pub access_log: AccessLog,
    /// Whether answers are packed for callers that take gzip. Changed by a reload.
    pub gzip: bool,
    /// On shutdown, how long idle connections stay open and new ones are accepted after `/ready`
    /// turned negative. Changed by a reload.
    pub idle_close: Nanos,
    /// How long calls in flight may take after that. Changed by a reload.
    pub drain: Nanos,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listeners: vec![Listener::at(SocketAddr::from(([127, 0, 0, 1], 3069)))],
            instance: String::from("gateway"),
            workers: 1,
            tls: None,
            limits: Limits::default(),
            trusted_proxies: Vec::new(),
            pass_headers: Vec::new(),
            reveal: true,
            cors: Cors::default(),
            access_log: AccessLog::default(),
            gzip: true,
            idle_close: Nanos::from_secs(2),
            drain: Nanos::from_secs(30),
        }
    }
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where; port 0 takes a free one.
    pub address: SocketAddr,
    /// What it answers.
    pub faces: Faces,
    /// Whether it serves https, where the gateway has a certificate.
    pub tls: bool,
}

impl Listener {
    /// A listener for callers, which also answers operators.
    pub fn at(address: SocketAddr) -> Listener {
        Listener { address, faces: Faces::ALL, tls: true }
    }
}

/// What a listener answers, beside `/health`, `/ready` and load balancers' probes, which every
/// listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faces {
    /// `/api/gateway`: customers' calls.
    pub gateway: bool,
    /// `/v1`: calls as a PATH instance takes them.
    pub path: bool,
    /// `/metrics`, and details of `/ready`.
    pub admin: bool,
}

impl Faces {
    /// All of them.
    pub const ALL: Faces = Faces { gateway: true, path: true, admin: true };
    /// None of them.
    pub const NONE: Faces = Faces { gateway: false, path: false, admin: false };
    /// The words for them in documents.
    pub const WORDS: [&'static str; 3] = ["gateway", "path", "admin"];

    /// Opens the face with this place among the words.
    pub fn open(&mut self, place: usize) {
        match place {
            0 => self.gateway = true,
            1 => self.path = true,
            _ => self.admin = true,
        }
    }

    /// The words for those that are open.
    pub fn words(self) -> Vec<&'static str> {
        let open = [self.gateway, self.path, self.admin];
        Self::WORDS.into_iter().zip(open).filter(|(_, open)| *open).map(|(word, _)| word).collect()
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

/// What may grow how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A request's body, after decompression, in bytes.
    pub body: u64,
    /// The calls of a batch.
    pub batch: usize,
    /// A request's head, in bytes.
    pub header: usize,
    /// Connections from callers, over all workers.
    pub connections: usize,
    /// Calls in flight, over all workers.
    pub calls: usize,
    /// Calls in flight of one connection; more of them wait for their turn.
    pub calls_per_connection: usize,
    /// Calls in flight of one endpoint, over all workers.
    pub calls_per_endpoint: usize,
    /// Streams of an HTTP/2 connection.
    pub http2_streams: u32,
    /// An upstream's answer, in bytes.
    pub answer: u64,
    /// What connections, calls, bodies and answers take at a time, in sum, in bytes.
    pub memory: u64,
    /// Connections to one upstream, over all workers.
    pub upstream_connections: usize,
    /// From the first byte of a head to its last.
    pub header_time: Nanos,
    /// For each further 4 KiB of a body.
    pub body_time: Nanos,
    /// A connection without a request.
    pub idle_time: Nanos,
    /// For each further 4 KiB of a response that its caller reads.
    pub write_time: Nanos,
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
        }
    }
}

/// Which pages may call from a browser.
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

/// What of the calls is logged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessLog {
    /// The share of calls, 0 to 1; 0: none.
    pub sample: f64,
    /// Where to; `None`: stderr.
    pub file: Option<PathBuf>,
}

/// An IP network: `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads an address, or an address and a number of bits.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Network, String> {
        let wrong =
            || format!("\"{text}\" is not a network; write it like 10.0.0.0/8, 192.0.2.7 or ::1");
        let (address, bits) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match text.contains('/') {
            true => bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?,
            false => most,
        };
        Ok(Network { address, bits })
    }

    /// Whether an address lies in it. An IPv4 address that is mapped into IPv6 counts as itself.
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
    fn networks_hold_addresses() {
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
