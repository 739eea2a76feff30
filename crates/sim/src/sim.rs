//! A running simulator: started, asked, changed, stopped.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use plimsoll_measure::rng::Key;
use plimsoll_measure::{Clock, Nanos};
use tokio::sync::watch;

use crate::capacity::Station;
use crate::faults::armed::Armed;
use crate::faults::{FAULTS_MAX, Fault};
use crate::node::Node;
use crate::seen::{Counts, Record, Seen};
use crate::server::{self, Door};
use crate::settings::{Calendar, Settings, StartError};

/// A simulator that serves until it is stopped or dropped.
pub struct Sim {
    shared: Arc<Shared>,
    address: SocketAddr,
    own: Vec<(String, SocketAddr)>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// What all threads of a simulator share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) calendar: Calendar,
    pub(crate) hosts: Vec<Host>,
    pub(crate) faults: Armed,
    pub(crate) record: Record,
    pub(crate) latency_key: Key,
}

/// A service as it is served.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) station: Option<Mutex<Station>>,
}

impl Shared {
    /// The service called `name`.
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
    /// The settings are impossible, an address is taken, or the system is out of something.
    pub fn start(settings: Settings) -> Result<Sim, StartError> {
        settings.check()?;
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
            faults: Armed::new(key.with(2)),
            record: Record::new(settings.record_max),
            latency_key: key.with(3),
            settings,
        });
        shared.faults.set(shared.settings.faults.clone(), false, Nanos::ZERO);
        let (doors, address, own) = open_doors(&shared)?;
        let (stop, stopped) = watch::channel(false);
        let threads = doors.into_iter().enumerate().map(|(number, doors)| {
            let (shared, stopped) = (shared.clone(), stopped.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            std::thread::Builder::new()
                .name(format!("sim-{number}"))
                .spawn(move || runtime.block_on(server::serve(shared, doors, stopped)))
        });
        let threads = threads.collect::<io::Result<_>>().map_err(StartError::System)?;
        Ok(Sim { shared, address, own, stop, threads })
    }

    /// Where all services listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Services with listeners of their own, and where those are.
    pub fn own_addresses(&self) -> &[(String, SocketAddr)] {
        &self.own
    }

    /// Where a service is asked: `http://127.0.0.1:PORT/NAME`.
    pub fn url(&self, service: &str) -> String {
        format!("http://{}/{service}", self.address)
    }

    /// The requests that it saw, in order, as far as they were recorded.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.record.seen()
    }

    /// Empties the record; counts go on.
    pub fn forget(&self) {
        self.shared.record.forget();
    }

    /// What it counted.
    pub fn counts(&self) -> Counts {
        Counts { faults: self.shared.faults.counts(), ..self.shared.record.counts() }
    }

    /// Replaces the faults; their windows count from now.
    ///
    /// # Panics
    /// When there are more than [`FAULTS_MAX`].
    pub fn set_faults(&self, faults: Vec<Fault>) {
        assert!(faults.len() <= FAULTS_MAX, "at most {FAULTS_MAX} faults");
        self.shared.faults.set(faults, false, self.shared.clock.now());
    }

    /// The newest block of a service.
    ///
    /// # Panics
    /// When there is no such service.
    pub fn head(&self, service: &str) -> u64 {
        let host = self.shared.host(service);
        let host = host.unwrap_or_else(|| panic!("no service \"{service}\""));
        host.node.view(self.shared.calendar.unix()).head
    }

    /// How long it has been running.
    pub fn uptime(&self) -> Nanos {
        self.shared.clock.now()
    }

    /// Stops serving: listeners and connections are closed when this returns.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; stopping must not panic again.
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

type Doors = (Vec<Vec<Door>>, SocketAddr, Vec<(String, SocketAddr)>);

/// Listens everywhere, once for each thread; the kernel spreads connections over them.
fn open_doors(shared: &Shared) -> Result<Doors, StartError> {
    let settings = &shared.settings;
    let mut doors: Vec<Vec<Door>> = (0..settings.threads).map(|_| Vec::new()).collect();
    let mut open = |wanted: SocketAddr, host: Option<usize>| {
        let wrong = |source| StartError::Listen { address: wanted, source };
        let keeper = Arc::new(server::reserve(wanted).map_err(wrong)?);
        let address = keeper.local_addr().map_err(wrong)?.as_socket();
        let address = address.ok_or_else(|| wrong(io::ErrorKind::AddrNotAvailable.into()))?;
        for doors in &mut doors {
            let refusing = shared.faults.refusing(Nanos::ZERO).is_some();
            let listener = match refusing {
                true => None,
                false => Some(server::listen(address).map_err(wrong)?),
            };
            doors.push(Door { listener, address, host, keeper: keeper.clone() });
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
    Ok((doors, address, own))
}
