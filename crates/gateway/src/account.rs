//! Whom a call is counted for: an endpoint and its key, or a service that is called directly.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What all calls of one caller, as far as the gateway tells callers apart, share. Outlives the
/// replacement of the `Routing`, as long as its ids stay the same.
#[derive(Debug)]
#[allow(dead_code)] // its ids are read by metering and limits
pub(crate) struct Account {
    /// Unique in the process.
    pub(crate) number: u64,
    /// The endpoint's id; `None`: calls of the service that come through no endpoint.
    pub(crate) endpoint: Option<String>,
    /// The name of the key that the call came with, if the endpoint has keys.
    pub(crate) key: Option<String>,
    /// The service's id; `*` stands for all services that the registry does not list.
    pub(crate) service: String,
    /// Calls in flight.
    pub(crate) calls: Arc<AtomicU64>,
}

impl Account {
    /// The account with these ids: the previous one if it has them, otherwise a new one.
    pub(crate) fn renewed(
        previous: Option<&Arc<Account>>,
        endpoint: Option<&str>,
        service: &str,
        serial: &mut u64,
    ) -> Arc<Account> {
        if let Some(old) = previous.filter(|old| old.service == service) {
            return old.clone();
        }
        *serial += 1;
        Arc::new(Account {
            number: *serial,
            endpoint: endpoint.map(str::to_owned),
            key: None,
            service: service.to_owned(),
            calls: previous.map(|old| old.calls.clone()).unwrap_or_default(),
        })
    }
}
