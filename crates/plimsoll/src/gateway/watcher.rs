//! Watches a gateway's sources (file, database, certificates) and its access log, applies changes as a
//! whole, and logs what happened.

use super::changes;
use super::messages::counted;
use super::serve::name_by_port;
use super::simulated::Simulated;
use crate::usage_error;
use plimsoll_gateway::{Definitions, Gateway};
use plimsoll_measure::{Clock, Nanos};
use plimsoll_registry::config::{Config, fixed_differences, reloaded_differences};
use plimsoll_registry::sources::Sources;
use plimsoll_registry::usage::Inbox;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often sources are polled, so that changes are applied within a second.
const POLL_INTERVAL: Duration = Duration::from_millis(400);

/// How often trouble with the access log is reported while it lasts.
const REMIND_INTERVAL: Nanos = Nanos::from_secs(60);

/// Watches a gateway's sources and applies changes.
pub(super) struct Watcher {
    gateway: Arc<Gateway>,
    sources: Sources,
    simulated: Simulated,
    /// What the gateway was started with: the keys that need a restart have these values.
    started: Config,
    /// What was last applied.
    config: Config,
    definitions: Definitions,
    /// The last change of the sources was rejected.
    is_rejected: bool,
    /// The contents of the certificate files when they were last read, or why they cannot be read.
    certificate: Option<Result<[Vec<u8>; 2], String>>,
    is_certificate_rejected: bool,
    /// The certificates to trust have changed and are not valid.
    is_trust_rejected: bool,
    /// The current error of polling the sources, so that it is reported once; empty if none.
    last_error: String,
    /// Why the snapshot of the database cannot be written, as last reported; empty if it can.
    snapshot_error: String,
    /// What is recorded of usage, if it is.
    usage: Option<Arc<Inbox>>,
    /// Why usage cannot be written to disk, and to the database, as last reported; empty if it can.
    usage_errors: [String; 2],
    /// The current trouble of the access log, and when it was last reported.
    access_log_trouble: Option<(String, Nanos)>,
    clock: Clock,
}

impl Watcher {
    /// A watcher for a gateway that was started with this configuration and these definitions.
    pub(super) fn new(
        gateway: Arc<Gateway>,
        sources: Sources,
        simulated: Simulated,
        usage: Option<Arc<Inbox>>,
        (config, definitions): (Config, Definitions),
    ) -> Watcher {
        Watcher {
            certificate: gateway.certificate_contents(),
            gateway,
            is_rejected: sources.uses_fallback(),
            sources,
            simulated,
            started: config.clone(),
            config,
            definitions,
            is_certificate_rejected: false,
            is_trust_rejected: false,
            last_error: String::new(),
            snapshot_error: String::new(),
            usage,
            usage_errors: Default::default(),
            access_log_trouble: None,
            clock: Clock::start(),
        }
    }

    /// Watches on its own thread until the sender of `reload_requests` is dropped; then closes the
    /// database and notifies the returned receiver.
    pub(super) fn start(
        self,
        reload_requests: mpsc::UnboundedReceiver<()>,
    ) -> anyhow::Result<oneshot::Receiver<()>> {
        let (done, closed) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("watcher".into()).spawn(move || {
            runtime.block_on(self.watch(reload_requests));
            // The receiver is gone if closing took too long.
            let _ = done.send(());
        })?;
        Ok(closed)
    }

    async fn watch(mut self, mut reload_requests: mpsc::UnboundedReceiver<()>) {
        let mut polls = tokio::time::interval(POLL_INTERVAL);
        loop {
            tokio::select! {
                _ = polls.tick() => self.poll().await,
                () = self.sources.announced() => self.poll().await,
                request = reload_requests.recv() => match request {
                    Some(()) => {
                        self.gateway.reopen_access_log();
                        self.reload().await;
                        self.certificate = None;
                        self.reload_certificate();
                    }
                    None => break,
                },
            }
            self.gateway.set_config_rejected(self.is_rejected || self.is_certificate_rejected);
        }
        self.sources.close().await;
    }

    async fn poll(&mut self) {
        match self.sources.changed().await {
            Ok(changed) => {
                if !self.last_error.is_empty() {
                    self.last_error.clear();
                    let database = self.sources.database().unwrap_or_default();
                    tracing::info!("the database {database} is available again");
                }
                if changed {
                    self.reload().await;
                }
            }
            Err(error) => self.report_error(&error.to_string()),
        }
        self.check_snapshot();
        self.check_usage();
        // Rejected certificates are retried when the sources or their files change.
        let changed = self.gateway.is_trust_changed();
        if changed != self.is_trust_rejected {
            self.reload().await;
        }
        self.is_trust_rejected = changed && self.gateway.is_trust_changed();
        self.reload_certificate();
        self.check_access_log();
    }

    /// Loads the sources and applies them, all or nothing.
    async fn reload(&mut self) {
        let applied = self.apply().await;
        self.is_rejected = applied.is_err();
        match applied {
            Ok(description) => tracing::info!("reloaded: {description}"),
            Err(why) => {
                tracing::error!("config change rejected; still using the previous one\n{why}");
                return;
            }
        }
        for key in fixed_differences(&self.started, &self.config) {
            tracing::warn!("{key} changed; restart the gateway to apply it");
        }
        for warning in plimsoll_gateway::warnings(&self.config.settings, &self.definitions) {
            tracing::warn!("{warning}");
        }
        if self.definitions.upstreams.is_empty() {
            tracing::warn!(
                "no upstream is left: calls are answered with no_upstream, and /ready with 503"
            );
        }
    }

    /// Loads the sources and applies them; returns what has changed.
    async fn apply(&mut self) -> anyhow::Result<String> {
        let loaded = self.sources.load().await;
        let (mut config, mut definitions) =
            loaded.map_err(|error| usage_error(error.to_string(), error.hint()))?;
        self.simulated.fill(&mut definitions)?;
        name_by_port(&mut config.settings, &self.gateway);
        self.gateway.apply(config.settings.clone(), &definitions)?;
        let settings = reloaded_differences(&self.config, &config);
        let changes = changes::describe(&self.definitions, &definitions, &settings);
        let totals = format!(
            "{}, {}, {}",
            counted(definitions.services.len(), "service"),
            counted(definitions.upstreams.len(), "upstream"),
            counted(definitions.endpoints.len(), "endpoint")
        );
        (self.config, self.definitions) = (config, definitions);
        Ok(format!("{changes}; now {totals}"))
    }

    /// Reports an error of polling once, not at every retry.
    fn report_error(&mut self, why: &str) {
        if self.last_error != why {
            tracing::warn!("cannot check for changes: {why}");
            self.last_error = why.to_string();
        }
    }

    /// Reports when the entries cannot be saved for the next start.
    fn check_snapshot(&mut self) {
        let why = self.sources.status().report().snapshot_error;
        if why != self.snapshot_error && !why.is_empty() {
            tracing::warn!(
                "cannot save the database's entries for a start while it cannot be reached: {why}; \
                 set state_dir to a folder that outlives the process"
            );
        }
        self.snapshot_error = why;
    }

    /// Reports what happens to usage that cannot be written. That the database cannot be reached is
    /// reported by [`Watcher::poll`].
    fn check_usage(&mut self) {
        let Some(inbox) = &self.usage else { return };
        for note in inbox.take_notes() {
            tracing::error!("{note}");
        }
        let figures = inbox.figures();
        let store_error = if figures.is_unreachable { String::new() } else { figures.store_error };
        let [spool_before, store_before] = &self.usage_errors;
        match (figures.spool_error.as_str(), spool_before.as_str()) {
            ("", "") => {}
            ("", _) => tracing::info!("usage is written to disk again"),
            (why, before) if why == before => {}
            (why, _) => tracing::error!(
                "usage cannot be written to disk, and waits in memory for the database: {why}; free \
                 space, or set state_dir to a folder that can be written"
            ),
        }
        match (store_error.as_str(), store_before.as_str()) {
            ("", "") => {}
            ("", _) => tracing::info!("usage is written to the database again"),
            (why, before) if why == before => {}
            (why, _) => {
                tracing::error!(
                    "usage cannot be written to the database, and waits on disk: {why}"
                );
            }
        }
        self.usage_errors = [figures.spool_error, store_error];
    }

    /// Reports when lines of the access log do not go where they should, and when they do again.
    fn check_access_log(&mut self) {
        let trouble = self.gateway.access_log_trouble();
        let now = self.clock.now();
        match (&trouble, &self.access_log_trouble) {
            (None, None) => return,
            (None, Some(_)) => tracing::info!("the access log is written again"),
            (Some(why), Some((known, at))) if why == known && now - *at < REMIND_INTERVAL => return,
            (Some(why), _) => tracing::error!("{why}"),
        }
        self.access_log_trouble = trouble.map(|why| (why, now));
    }

    /// Reloads the certificate if its files changed, and reports if they cannot be used.
    fn reload_certificate(&mut self) {
        let now = self.gateway.certificate_contents();
        if now.is_none() || now == self.certificate {
            return;
        }
        let reloaded = match &now {
            Some(Err(why)) => Err(why.clone()),
            _ => self.gateway.reload_certificate().map_err(|error| error.to_string()),
        };
        self.certificate = now;
        self.is_certificate_rejected = reloaded.is_err();
        match reloaded {
            Ok(()) => tracing::info!("reloaded the certificate"),
            // The two files rarely change at the same moment: retried once the other has changed.
            Err(why) => tracing::error!(
                "the certificate cannot be reloaded; still using the previous one: {why}"
            ),
        }
    }
}
