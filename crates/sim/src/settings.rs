//! What a simulator is started with, and why it may not start.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_measure::{Clock, Nanos, WallClock};

use crate::capacity::{Capacity, SERVERS_MAX};
use crate::distribution::Distribution;
use crate::faults::{FAULTS_MAX, Fault};
use crate::service::{GENESIS_UNIX_SECS, Service};

/// Threads that may serve; each has a runtime of its own.
pub const THREADS_MAX: usize = 256;

/// Everything that a simulator is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Decides the chains, service times and which requests faults strike.
    pub seed: u64,
    /// Where all services listen; port 0: one that the kernel chooses.
    pub listen: SocketAddr,
    /// How many threads serve; 1 to [`THREADS_MAX`].
    pub threads: usize,
    /// The services; at least one, no name twice.
    pub services: Vec<Service>,
    /// What each service can do; `None`: as much as the machine can.
    pub capacity: Option<Capacity>,
    /// How much later each answer comes, beside the time for its service.
    pub latency: Option<Distribution>,
    /// What goes wrong, counted from the start.
    pub faults: Vec<Fault>,
    /// How many requests are kept to be asked for; the others are only counted.
    pub record_max: usize,
    /// The largest body in bytes; larger ones are refused with status 413.
    pub body_max: usize,
    /// The most calls in a batch.
    pub batch_max: usize,
    /// Where the date comes from, and with it the height of the chains.
    pub date: Date,
}

impl Settings {
    /// For tests: one service on a port of 127.0.0.1 that the kernel chooses, everything recorded up
    /// to 100,000 requests.
    pub fn for_tests(seed: u64, services: impl IntoIterator<Item = Service>) -> Settings {
        Settings {
            seed,
            services: services.into_iter().collect(),
            record_max: 100_000,
            ..Settings::default()
        }
    }

    /// Looks for what cannot be.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let impossible = |why: String| Err(StartError::Impossible(why));
        if self.services.is_empty() {
            return impossible("no service is named".into());
        }
        for (at, service) in self.services.iter().enumerate() {
            let name = &service.name;
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || !name.chars().all(plain) {
                return impossible(format!("\"{name}\" cannot be the name of a service"));
            }
            if self.services[..at].iter().any(|other| other.name == *name) {
                return impossible(format!("the service \"{name}\" is named twice"));
            }
            if service.block_time == Nanos::ZERO {
                return impossible(format!("the block time of \"{name}\" is zero"));
            }
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            return impossible(format!("{} threads; 1 to {THREADS_MAX} can serve", self.threads));
        }
        if let Some(Capacity { servers, .. }) = self.capacity
            && !(1..=SERVERS_MAX).contains(&servers)
        {
            return impossible(format!("{servers} servers; a node has 1 to {SERVERS_MAX}"));
        }
        if self.faults.len() > FAULTS_MAX {
            return impossible(format!("{} faults; at most {FAULTS_MAX}", self.faults.len()));
        }
        let unknown = |fault: &&Fault| {
            let named = fault.service.as_ref();
            named.is_some_and(|name| self.services.iter().all(|service| service.name != *name))
        };
        if let Some(Fault { service: Some(name), .. }) = self.faults.iter().find(unknown) {
            return impossible(format!("a fault is for \"{name}\", which is no service here"));
        }
        Ok(())
    }
}

impl Default for Settings {
    /// The `eth` service on a free port of this host, on one thread, without limits and faults.
    fn default() -> Settings {
        Settings {
            seed: 1,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            threads: 1,
            services: Service::named("eth").into_iter().collect(),
            capacity: None,
            latency: None,
            faults: Vec::new(),
            record_max: 0,
            body_max: 5 << 20,
            batch_max: 1_000,
            date: Date::System,
        }
    }
}

/// Where the date comes from.
#[derive(Debug, Clone, Default)]
pub enum Date {
    /// From the system: chains grow as time passes.
    #[default]
    System,
    /// From a test: chains grow when it says so.
    Held(HeldDate),
}

/// A date that stands still until it is moved; clones are the same date.
#[derive(Debug, Clone)]
pub struct HeldDate(Arc<AtomicU64>);

impl HeldDate {
    /// A date `span` after every chain's first block.
    pub fn after_genesis(span: Nanos) -> HeldDate {
        let unix = Nanos::from_secs(GENESIS_UNIX_SECS) + span;
        HeldDate(Arc::new(AtomicU64::new(unix.0)))
    }

    /// Moves it on.
    pub fn advance(&self, span: Nanos) {
        self.0.fetch_add(span.0, Ordering::Relaxed);
    }
}

/// The date, as a running simulator reads it: never backwards.
#[derive(Debug, Clone)]
pub(crate) enum Calendar {
    /// The date at the start and the time since.
    Counted {
        start: Nanos,
        clock: Clock,
    },
    Held(HeldDate),
}

impl Calendar {
    pub(crate) fn new(date: &Date, clock: Clock) -> Calendar {
        match date {
            Date::System => {
                Calendar::Counted { start: Nanos(WallClock::now().unix_ns) - clock.now(), clock }
            }
            Date::Held(held) => Calendar::Held(held.clone()),
        }
    }

    /// Since 1970.
    pub(crate) fn unix(&self) -> Nanos {
        match self {
            Calendar::Counted { start, clock } => *start + clock.now(),
            Calendar::Held(held) => Nanos(held.0.load(Ordering::Relaxed)),
        }
    }
}

/// Why a simulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict themselves.
    #[error("{0}")]
    Impossible(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The system gave no thread, timer or descriptor.
    #[error("cannot start serving")]
    System(#[source] io::Error),
}

impl StartError {
    /// What to do about it; empty when the message says it.
    pub fn hint(&self) -> &'static str {
        match self {
            StartError::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "something else listens there; choose another port (--listen), or 0 for a free one"
                }
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 are for root; choose a higher one"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "this host has no such address; 0.0.0.0 is all of them"
                }
                _ => "",
            },
            StartError::Impossible(_) | StartError::System(_) => "",
        }
    }
}
