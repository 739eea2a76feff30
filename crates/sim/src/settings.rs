//! The settings of a simulator, and the reasons why it may not start.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_measure::{Clock, Nanos, WallClock};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, pki_types::pem::PemObject};

use crate::capacity::{Capacity, SERVERS_MAX};
use crate::distribution::Distribution;
use crate::faults::{FAULTS_MAX, Fault};
use crate::service::{GENESIS_UNIX_SECS, Service};

/// Maximum number of serving threads; each has its own runtime.
pub const THREADS_MAX: usize = 256;

/// PEM files for TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate, and those that lead to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Reads the files; HTTP/2 and HTTP/1.1 are offered.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, StartError> {
        let unusable = |path: &Path, why: &dyn std::fmt::Display| {
            StartError::Invalid(format!("cannot use {}: {why}", path.display()))
        };
        let chain = CertificateDer::pem_file_iter(&self.cert).and_then(Iterator::collect);
        let chain: Vec<_> = chain.map_err(|error| unusable(&self.cert, &error))?;
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.map_err(|error| unusable(&self.key, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        let mut config = config.map_err(|error| unusable(&self.cert, &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// The settings of a simulator.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Determines the chains, the service times, and the requests that are affected by faults.
    pub seed: u64,
    /// Address on which all services listen; with port 0 the kernel chooses a port.
    pub listen: SocketAddr,
    /// Number of serving threads; 1 to [`THREADS_MAX`].
    pub threads: usize,
    /// The services; at least one, with distinct names.
    pub services: Vec<Service>,
    /// Capacity of each service; `None`: as much as the machine can do.
    pub capacity: Option<Capacity>,
    /// Delay added to each answer, in addition to its service time.
    pub latency: Option<Distribution>,
    /// Certificates and key with which all listeners use TLS; `None`: without TLS.
    pub tls: Option<TlsFiles>,
    /// Maximum number of streams at a time on an HTTP/2 connection, announced in the settings; further ones
    /// are refused.
    pub http2_streams: u32,
    /// How long the peer of a WebSocket may read nothing before it is disconnected.
    pub slow_reader: Nanos,
    /// Faults; their windows count from the start.
    pub faults: Vec<Fault>,
    /// Number of requests that are recorded; others are only counted.
    pub record_max: usize,
    /// Maximum body size in bytes; larger bodies are refused with status 413.
    pub body_max: usize,
    /// Maximum number of calls in a batch.
    pub batch_max: usize,
    /// Source of the date, which determines the height of the chains.
    pub date: Date,
}

impl Settings {
    /// For tests: these services on a free port of 127.0.0.1, recording up to 100,000 requests.
    pub fn for_tests(seed: u64, services: impl IntoIterator<Item = Service>) -> Settings {
        Settings {
            seed,
            services: services.into_iter().collect(),
            record_max: 100_000,
            ..Settings::default()
        }
    }

    /// Checks that the settings are valid.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let invalid = |why: String| Err(StartError::Invalid(why));
        if self.services.is_empty() {
            return invalid("at least one service is required".into());
        }
        for (at, service) in self.services.iter().enumerate() {
            let name = &service.name;
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || !name.chars().all(plain) {
                return invalid(format!(
                    "\"{name}\" is not a valid service name; use letters, digits, \"-\", \"_\" and \".\""
                ));
            }
            if self.services[..at].iter().any(|other| other.name == *name) {
                return invalid(format!("duplicate service \"{name}\""));
            }
            if service.block_time == Nanos::ZERO {
                return invalid(format!("the block time of \"{name}\" is zero"));
            }
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            let threads = self.threads;
            return invalid(format!("threads must be 1 to {THREADS_MAX}, not {threads}"));
        }
        if let Some(Capacity { servers, .. }) = self.capacity
            && !(1..=SERVERS_MAX).contains(&servers)
        {
            return invalid(format!("servers must be 1 to {SERVERS_MAX}, not {servers}"));
        }
        if self.faults.len() > FAULTS_MAX {
            let faults = self.faults.len();
            return invalid(format!("{faults} faults; at most {FAULTS_MAX} are allowed"));
        }
        let unknown = |fault: &&Fault| {
            let named = fault.service.as_ref();
            named.is_some_and(|name| self.services.iter().all(|service| service.name != *name))
        };
        if let Some(Fault { service: Some(name), .. }) = self.faults.iter().find(unknown) {
            return invalid(format!("a fault refers to the unknown service \"{name}\""));
        }
        Ok(())
    }
}

impl Default for Settings {
    /// The `eth` service on a free port of 127.0.0.1, with one thread and without faults.
    fn default() -> Settings {
        Settings {
            seed: 1,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            threads: 1,
            services: Service::named("eth").into_iter().collect(),
            capacity: None,
            latency: None,
            tls: None,
            http2_streams: 128,
            slow_reader: Nanos::from_secs(10),
            faults: Vec::new(),
            record_max: 0,
            body_max: 5 << 20,
            batch_max: 1_000,
            date: Date::System,
        }
    }
}

/// The source of the date.
#[derive(Debug, Clone, Default)]
pub enum Date {
    /// The system clock: chains grow as time passes.
    #[default]
    System,
    /// Set by a test: chains grow when the test advances the date.
    Manual(ManualDate),
}

/// A date that changes only when it is advanced. Clones share the date.
#[derive(Debug, Clone)]
pub struct ManualDate(Arc<AtomicU64>);

impl ManualDate {
    /// A date `span` after every chain's first block.
    pub fn after_genesis(span: Nanos) -> ManualDate {
        let unix = Nanos::from_secs(GENESIS_UNIX_SECS) + span;
        ManualDate(Arc::new(AtomicU64::new(unix.0)))
    }

    /// Advances the date.
    pub fn advance(&self, span: Nanos) {
        self.0.fetch_add(span.0, Ordering::Relaxed);
    }
}

/// The date in a running simulator. It never goes back.
#[derive(Debug, Clone)]
pub(crate) enum Calendar {
    /// The date at the start, plus the time since.
    Counted {
        start: Nanos,
        clock: Clock,
    },
    Manual(ManualDate),
}

impl Calendar {
    pub(crate) fn new(date: &Date, clock: Clock) -> Calendar {
        match date {
            Date::System => {
                Calendar::Counted { start: Nanos(WallClock::now().unix_ns) - clock.now(), clock }
            }
            Date::Manual(held) => Calendar::Manual(held.clone()),
        }
    }

    /// Time since the Unix epoch.
    pub(crate) fn unix(&self) -> Nanos {
        match self {
            Calendar::Counted { start, clock } => *start + clock.now(),
            Calendar::Manual(held) => Nanos(held.0.load(Ordering::Relaxed)),
        }
    }
}

/// Why a simulator or proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings are invalid.
    #[error("{0}")]
    Invalid(String),
    /// The simulator cannot listen on an address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A thread or runtime cannot be created.
    #[error("cannot create a serving thread")]
    System(#[source] io::Error),
}

impl StartError {
    /// How to fix it; empty if the message says so.
    pub fn hint(&self) -> &'static str {
        match self {
            StartError::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "the port is in use; choose another port with --listen, or port 0 for a free one"
                }
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 require root; choose a higher port"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "this host does not have that address; use 0.0.0.0 to listen on all addresses"
                }
                _ => "",
            },
            StartError::Invalid(_) | StartError::System(_) => "",
        }
    }
}
