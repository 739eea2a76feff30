//! Names of upstreams and their addresses.
//!
//! Each name is looked up once, however many connections wait for it, and looked up again when what
//! is known is older than [`FRESH`]. Until the new answer is there, and when there is none, the
//! addresses known last stay in use: a name server that fails must not fail calls. A lookup that
//! hangs occupies one thread and holds up no other name.
//!
//! Connections remember the address that they lead to; one whose address a name has no more is
//! closed when it is idle (`upstream::pool`).

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard};

use plimsoll_measure::Nanos;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::host::Resolve;

/// Known addresses are looked up again after this time. Resolvers give no time to live; short enough
/// that a changed name is noticed within a minute, long enough to cost nothing.
pub(crate) const FRESH: Nanos = Nanos::from_secs(30);

/// The addresses of a name, in the order of preference.
pub(crate) type Addresses = Arc<[IpAddr]>;

/// Names as they are known.
pub(crate) struct Resolver {
    resolve: Resolve,
    keeper: Handle,
    names: Arc<Mutex<HashMap<String, Name>>>,
}

struct Name {
    /// What the last lookup that succeeded gave, and when.
    known: Option<(Addresses, Nanos)>,
    /// When a lookup was last begun.
    asked_at: Nanos,
    /// The lookup in flight: tells its end, and why it failed.
    lookup: Option<watch::Receiver<Option<String>>>,
}

/// The host's own resolver.
pub(crate) fn of_host() -> Resolve {
    Arc::new(|name| Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
}

impl Resolver {
    pub(crate) fn new(resolve: Resolve, keeper: Handle) -> Resolver {
        Resolver { resolve, keeper, names: Arc::default() }
    }

    /// The addresses known, of whatever age; a lookup is begun when they are not fresh.
    pub(crate) fn known(&self, host: &str, now: Nanos) -> Option<Addresses> {
        let mut names = lock(&self.names);
        let name = self.name(&mut names, host, now);
        name.known.as_ref().map(|(addresses, _)| addresses.clone())
    }

    /// The addresses, waited for where none are known.
    ///
    /// # Errors
    /// Why the name has none.
    pub(crate) async fn lookup(&self, host: &str, now: Nanos) -> Result<Addresses, String> {
        let lookup = {
            let mut names = lock(&self.names);
            let name = self.name(&mut names, host, now);
            match (&name.known, &name.lookup) {
                (Some((addresses, _)), _) => return Ok(addresses.clone()),
                (None, lookup) => lookup.clone(),
            }
        };
        let Some(mut lookup) = lookup else { return Err("the name was not looked up".into()) };
        // An error means that the sender is gone: the lookup ended.
        let _ = lookup.changed().await;
        let failed = lookup.borrow().clone();
        let names = lock(&self.names);
        match names.get(host).and_then(|name| name.known.as_ref()) {
            Some((addresses, _)) => Ok(addresses.clone()),
            None => Err(failed.unwrap_or_else(|| "the lookup was cut off".into())),
        }
    }

    /// The entry of a name, with a lookup in flight if one is due.
    fn name<'a>(
        &self,
        names: &'a mut HashMap<String, Name>,
        host: &str,
        now: Nanos,
    ) -> &'a mut Name {
        if !names.contains_key(host) {
            let name = Name { known: None, asked_at: Nanos::ZERO, lookup: None };
            names.insert(host.into(), name);
        }
        let name = names.get_mut(host).expect("it was just put in");
        let is_due = name.known.is_none() || now - name.asked_at >= FRESH;
        if name.lookup.is_none() && is_due {
            name.asked_at = now;
            name.lookup = Some(self.begin(host.to_string(), now));
        }
        name
    }

    fn begin(&self, host: String, now: Nanos) -> watch::Receiver<Option<String>> {
        let (done, lookup) = watch::channel(None);
        let (resolve, names) = (self.resolve.clone(), self.names.clone());
        self.keeper.spawn_blocking(move || {
            let resolved = resolve(&host);
            let mut names = lock(&names);
            let Some(name) = names.get_mut(&host) else { return };
            name.lookup = None;
            let failed = match resolved {
                Ok(addresses) if addresses.is_empty() => "the name has no address".to_string(),
                Ok(addresses) => {
                    name.known = Some((addresses.into(), now));
                    String::new()
                }
                Err(error) => error.to_string(),
            };
            done.send_replace(Some(failed).filter(|failed| !failed.is_empty()));
        });
        lookup
    }
}

fn lock(names: &Mutex<HashMap<String, Name>>) -> MutexGuard<'_, HashMap<String, Name>> {
    names.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Keeper;
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let limited =
            async { tokio::time::timeout(std::time::Duration::from_secs(60), future).await };
        runtime.expect("a runtime").block_on(limited).expect("it hangs")
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn one_lookup_serves_all_and_is_repeated_when_it_is_old() {
        let keeper = Keeper::start().expect("a thread");
        let (answer, answers) = mpsc::channel::<io::Result<Vec<IpAddr>>>();
        let asked = Arc::new(AtomicUsize::new(0));
        let resolve: Resolve = {
            let (asked, answers) = (asked.clone(), Mutex::new(answers));
            Arc::new(move |_| {
                asked.fetch_add(1, Ordering::SeqCst);
                answers.lock().expect("no panic").recv().expect("an answer")
            })
        };
        let resolver = Resolver::new(resolve, keeper.handle().clone());
        run(async {
            let waiting = futures_util::future::join_all(
                (0..100).map(|_| resolver.lookup("node", Nanos::ZERO)),
            );
            let answering = async { answer.send(Ok(vec![ip(1)])).expect("a listener") };
            let (found, ()) = futures_util::future::join(waiting, answering).await;
            assert!(found.iter().all(|found| found.as_deref() == Ok(&[ip(1)])));
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            // An old answer is used while a new one is fetched, and when that fails.
            let later = Nanos(FRESH.0 + 1);
            assert_eq!(resolver.known("node", later).as_deref(), Some(&[ip(1)][..]));
            answer.send(Err(io::Error::other("no name server"))).expect("a listener");
            while lock(&resolver.names)["node"].lookup.is_some() {
                tokio::task::yield_now().await;
            }
            let later = Nanos(2 * FRESH.0 + 2);
            assert_eq!(resolver.known("node", later).as_deref(), Some(&[ip(1)][..]));
            answer.send(Ok(vec![ip(2)])).expect("a listener");
            while resolver.known("node", later).as_deref() != Some(&[ip(2)][..]) {
                tokio::task::yield_now().await;
            }
            assert_eq!(asked.load(Ordering::SeqCst), 3);
        });
    }

    #[test]
    fn a_lookup_that_hangs_holds_up_no_other_and_no_end() {
        let keeper = Keeper::start().expect("a thread");
        let (_never, hung) = mpsc::channel::<()>();
        let hung = Mutex::new(hung);
        let resolve: Resolve = Arc::new(move |name| match name {
            "hung" => {
                let _ = hung.lock().expect("no panic").recv();
                Err(io::Error::other("given up"))
            }
            _ => Ok(vec![ip(1)]),
        });
        let resolver = Resolver::new(resolve, keeper.handle().clone());
        run(async {
            let mut hung = Box::pin(resolver.lookup("hung", Nanos::ZERO));
            let begun = std::future::poll_fn(|context| {
                std::task::Poll::Ready(hung.as_mut().poll(context).is_pending())
            });
            assert!(begun.await);
            assert_eq!(resolver.lookup("other", Nanos::ZERO).await.as_deref(), Ok(&[ip(1)][..]));
        });
        drop(keeper);
    }

    #[test]
    fn a_name_without_an_address_is_asked_for_again() {
        let keeper = Keeper::start().expect("a thread");
        let asked = AtomicUsize::new(0);
        let resolve: Resolve = Arc::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(Vec::new()),
            1 => Err(io::Error::other("refused")),
            _ => Ok(vec![ip(1)]),
        });
        let resolver = Resolver::new(resolve, keeper.handle().clone());
        run(async {
            let why = || async { resolver.lookup("node", Nanos::ZERO).await };
            assert_eq!(why().await, Err("the name has no address".into()));
            assert_eq!(why().await, Err("refused".into()));
            assert_eq!(why().await.as_deref(), Ok(&[ip(1)][..]));
        });
    }
}
