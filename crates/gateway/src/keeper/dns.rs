//! DNS cache for upstreams.
//!
//! Each name has at most one lookup in flight, however many connections wait for it, and is looked up
//! again once the result is older than [`FRESH`]. While a lookup is in flight or if it fails, the
//! previous addresses stay in use: a failing name server must not fail calls. A hung lookup occupies
//! one thread and does not delay other names.
//!
//! Connections remember their address; an idle connection to an address that its name no longer has
//! is closed (`upstream::pool`).

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard};

use plimsoll_measure::Nanos;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::host::Resolve;

/// Age at which addresses are looked up again; the resolver does not report a TTL. Short enough to
/// notice a changed name within a minute, long enough to cost nothing.
pub(crate) const FRESH: Nanos = Nanos::from_secs(30);

/// The addresses of a name, in order of preference.
pub(crate) type Addresses = Arc<[IpAddr]>;

/// The cache.
pub(crate) struct Resolver {
    resolve: Resolve,
    keeper: Handle,
    names: Arc<Mutex<HashMap<String, Name>>>,
}

struct Name {
    /// The result and time of the last successful lookup.
    known: Option<(Addresses, Nanos)>,
    /// When the last lookup was started.
    asked_at: Nanos,
    /// The lookup in flight; notifies when it ends, with the error if it failed.
    lookup: Option<watch::Receiver<Option<String>>>,
}

/// The system's resolver.
pub(crate) fn of_host() -> Resolve {
    Arc::new(|name| Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
}

impl Resolver {
    pub(crate) fn new(resolve: Resolve, keeper: Handle) -> Resolver {
        Resolver { resolve, keeper, names: Arc::default() }
    }

    /// The cached addresses, even if stale; starts a lookup if they are.
    pub(crate) fn known(&self, host: &str, now: Nanos) -> Option<Addresses> {
        let mut names = lock(&self.names);
        let name = self.name(&mut names, host, now);
        name.known.as_ref().map(|(addresses, _)| addresses.clone())
    }

    /// The cached addresses; waits for a lookup if there are none.
    ///
    /// # Errors
    /// Why the lookup failed.
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
        // An error means that the lookup ended.
        let _ = lookup.changed().await;
        let failed = lookup.borrow().clone();
        let names = lock(&self.names);
        match names.get(host).and_then(|name| name.known.as_ref()) {
            Some((addresses, _)) => Ok(addresses.clone()),
            None => Err(failed.unwrap_or_else(|| "the lookup was aborted".into())),
        }
    }

    /// The entry of a name; starts a lookup if one is due.
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
        let name = names.get_mut(host).expect("it was just inserted");
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
    fn lookups_are_shared_and_refreshed() {
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
            // Stale addresses are used while a lookup is in flight, and if it fails.
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
    fn hung_lookups_do_not_delay_others_or_shutdown() {
        let keeper = Keeper::start().expect("a thread");
        let (_never, hung) = mpsc::channel::<()>();
        let hung = Mutex::new(hung);
        let resolve: Resolve = Arc::new(move |name| match name {
            "hung" => {
                let _ = hung.lock().expect("no panic").recv();
                Err(io::Error::other("hung"))
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
    fn failed_lookups_are_retried() {
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
