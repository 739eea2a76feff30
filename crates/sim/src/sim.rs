//! A running simulator.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use plimsoll_measure::rng::Key;
use plimsoll_measure::{Clock, Nanos};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::capacity::Station;
use crate::faults::armed::ArmedFaults;
use crate::faults::{FAULTS_MAX, Fault};
use crate::node::Node;
use crate::seen::{Counts, Record, Seen};
use crate::server::{self, Acceptor};
use crate::settings::{Calendar, Settings, StartError, TlsFiles};

/// A simulator that serves until it is stopped or dropped.
pub struct Sim {
    shared: Arc<Shared>,
    address: SocketAddr,
    own: Vec<(String, SocketAddr)>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// State shared by all threads of a simulator.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) calendar: Calendar,
    pub(crate) hosts: Vec<Host>,
    pub(crate) faults: ArmedFaults,
    pub(crate) record: Record,
    pub(crate) latency_key: Key,
    pub(crate) tls: Option<TlsAcceptor>,
}

/// A service, its node and its capacity.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) station: Option<Mutex<Station>>,
}

impl Shared {
    /// The service with this name.
    pub(crate) fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.node.service.name == name)
    }

    /// The names of the services.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| host.node.service.name.as_str())
    }
}

impl Sim {
    /// Starts serving. When this returns, connections are accepted.
    ///
    /// # Errors
    /// The settings are invalid, an address is in use, or a system resource is exhausted.
    pub fn start(settings: Settings) -> Result<Sim, StartError> {
        settings.check()?;
        let tls = settings.tls.as_ref().map(TlsFiles::acceptor).transpose()?;
        let clock = Clock::start();
        let key = Key::new(settings.seed);
        let host = |(number, service): (u64, &crate::service::Service)| Host {
            node: Node::new(settings.seed, service.clone()),
            station: settings
                .capacity
                .map(|capacity| Mutex::new(Station::new(capacity, key.with(1).with(number)))),
        };
        let shared = Arc::new(Shared {
            clock,
            calendar: Calendar::new(&settings.date, clock),
            hosts: (0..).zip(&settings.services).map(host).collect(),
            faults: ArmedFaults::new(key.with(2)),
            record: Record::new(settings.record_max),
            latency_key: key.with(3),
            tls,
            settings,
        });
        shared.faults.set(shared.settings.faults.clone(), false, Nanos::ZERO);
        let (acceptors, address, own) = open_listeners(&shared)?;
        let (stop, stopped) = watch::channel(false);
        let threads = acceptors.into_iter().enumerate().map(|(number, acceptors)| {
            let (shared, stopped) = (shared.clone(), stopped.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            std::thread::Builder::new()
                .name(format!("sim-{number}"))
                .spawn(move || runtime.block_on(server::serve(shared, acceptors, stopped)))
        });
        let threads = threads.collect::<io::Result<_>>().map_err(StartError::System)?;
        Ok(Sim { shared, address, own, stop, threads })
    }

    /// The address on which all services listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The services with a separate listener, and its address.
    pub fn own_addresses(&self) -> &[(String, SocketAddr)] {
        &self.own
    }

    /// The URL of a service: `http://127.0.0.1:PORT/NAME`, or https.
    pub fn url(&self, service: &str) -> String {
        format!("{}://{}/{service}", self.scheme(), self.address)
    }

    /// `http`, or `https` with TLS.
    pub fn scheme(&self) -> &'static str {
        if self.shared.tls.is_some() { "https" } else { "http" }
    }

    /// The recorded requests, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.record.seen()
    }

    /// Clears the recorded requests, but not the counts.
    pub fn forget(&self) {
        self.shared.record.forget();
    }

    /// Counts since the start.
    pub fn counts(&self) -> Counts {
        Counts { faults: self.shared.faults.counts(), ..self.shared.record.counts() }
    }

    /// Replaces the faults; their windows count from now.
    ///
    /// # Panics
    /// If there are more than [`FAULTS_MAX`].
    pub fn set_faults(&self, faults: Vec<Fault>) {
        assert!(faults.len() <= FAULTS_MAX, "at most {FAULTS_MAX} faults");
        self.shared.faults.set(faults, false, self.shared.clock.now());
    }

    /// The newest block of a service.
    ///
    /// # Panics
    /// If there is no such service.
    pub fn head(&self, service: &str) -> u64 {
        let host = self.shared.host(service);
        let host = host.unwrap_or_else(|| panic!("no service \"{service}\""));
        host.node.view(self.shared.calendar.unix()).head
    }

    /// Time since the start.
    pub fn uptime(&self) -> Nanos {
        self.shared.clock.now()
    }

    /// Stops serving. When this returns, all listeners and connections are closed.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // The panic of a thread was already reported; do not panic again.
            let _ = thread.join();
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.end();
    }
}

impl Host {
    pub(crate) fn station(&self) -> Option<std::sync::MutexGuard<'_, Station>> {
        let station = self.station.as_ref()?;
        Some(station.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Acceptors = (Vec<Vec<Acceptor>>, SocketAddr, Vec<(String, SocketAddr)>);

/// Opens the listeners, one per address and thread; the kernel distributes connections over them.
fn open_listeners(shared: &Shared) -> Result<Acceptors, StartError> {
    let settings = &shared.settings;
    let mut acceptors: Vec<Vec<Acceptor>> = (0..settings.threads).map(|_| Vec::new()).collect();
    let mut open = |wanted: SocketAddr, host: Option<usize>| {
        let wrong = |source| StartError::Listen { address: wanted, source };
        let reservation = Arc::new(server::reserve(wanted).map_err(wrong)?);
        let address = reservation.local_addr().map_err(wrong)?.as_socket();
        let address = address.ok_or_else(|| wrong(io::ErrorKind::AddrNotAvailable.into()))?;
        for acceptors in &mut acceptors {
            let refusing = shared.faults.refusing(Nanos::ZERO).is_some();
            let listener =
                if refusing { None } else { Some(server::listen(address).map_err(wrong)?) };
            acceptors.push(Acceptor { listener, address, host, reservation: reservation.clone() });
        }
        Ok(address)
    };
    let address = open(settings.listen, None)?;
    let mut own = Vec::new();
    for (number, service) in settings.services.iter().enumerate() {
        if let Some(wanted) = service.listen {
            own.push((service.name.clone(), open(wanted, Some(number))?));
        }
    }
    Ok((acceptors, address, own))
}
