//! Serving: one gateway process, from start to shutdown.
//!
//! The gateway runs on its own threads. Another thread watches its sources (file, database,
//! certificates) and applies valid changes as a whole; signals are still handled while that thread is
//! blocked by a locked database or a slow disk. With `--simulate`, simulated chains are served until
//! there is a real upstream.

use super::ServeArgs;
use super::messages::Messages;
use super::signals::{Event, ORPHAN_DRAIN, Signals};
use super::simulated::Simulated;
use super::supervise::{self, shift_ports};
use crate::{put, tell, usage_error};
use anyhow::Context;
use plimsoll_gateway::{Definitions, Drained, Gateway, Host, Process, Settings, StartError};
use plimsoll_registry::config::{Config, Inputs, fixed_differences, instance_name};
use plimsoll_registry::settings::{Faces, Limits};
use plimsoll_registry::sources::Sources;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// How often sources are polled, so that changes are applied within a second.
const POLL_INTERVAL: Duration = Duration::from_millis(400);

/// How long shutdown waits for the database to close. Acknowledged changes are durable without it.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// Serves until a signal to stop.
pub(super) fn run(args: &ServeArgs, inputs: Inputs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = match args.instances {
        1 => runtime.block_on(serve(args, inputs)),
        _ => runtime.block_on(supervise::run(args, inputs)),
    };
    // A hanging thread must not keep the process from exiting.
    runtime.shutdown_background();
    done
}

/// Loads the configuration and the definitions, and prints notes.
pub(super) async fn load(sources: &mut Sources) -> anyhow::Result<(Config, Definitions)> {
    let loaded = sources.load().await;
    let (config, definitions) =
        loaded.map_err(|error| usage_error(error.to_string(), error.hint()))?;
    config.notes.iter().for_each(|note| tell(&format!("note: {note}")));
    let warnings = plimsoll_gateway::warnings(&config.settings, &definitions);
    warnings.iter().for_each(|warning| tell(&format!("warning: {warning}")));
    Ok((config, definitions))
}

async fn serve(args: &ServeArgs, inputs: Inputs) -> anyhow::Result<ExitCode> {
    let last_valid = args.last_valid.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    let mut sources = Sources::new(inputs).with_fallback(last_valid);
    let (mut config, mut definitions) = load(&mut sources).await?;
    shift_ports(&mut config.settings, args.port_offset)?;
    let mut simulated = Simulated::new(args.simulate, args.simulated.as_deref());
    simulated.fill(&mut definitions)?;
    // The supervisor has already warned for all instances.
    raise_descriptor_limit(&config.settings, !args.supervised);
    let mut signals = Signals::listen(args.supervised)?;
    let started = Gateway::start(config.settings.clone(), &definitions, host(&sources));
    let gateway = Arc::new(started.map_err(|error| not_started(&error))?);
    if name_by_port(&mut config.settings, &gateway) {
        gateway.apply(config.settings.clone(), &definitions)?;
    }
    announce(args, &config, &definitions, &gateway, &sources, simulated.serves())?;
    let prefix =
        if args.supervised { format!("{}: ", config.settings.instance) } else { String::new() };
    let messages = Messages::start(prefix)?;
    messages.capture_tracing();
    let certificate = gateway.certificate_contents();
    let watcher = Watcher {
        gateway: gateway.clone(),
        sources,
        simulated,
        config,
        certificate,
        trust_rejected: false,
        last_error: String::new(),
        access_log_error: None,
        messages: messages.clone(),
    };
    let (reloads, reload_requests) = mpsc::unbounded_channel();
    let closed = watcher.start(reload_requests)?;
    loop {
        match signals.next().await {
            // The receiver outlives this loop.
            Event::Reload => drop(reloads.send(())),
            Event::Stop => break,
            Event::Orphaned => {
                messages.print("the supervisor has exited");
                break;
            }
        }
    }
    drop(reloads);
    if !args.supervised {
        messages.print("stopping: finishing calls in flight; signal again to stop at once");
    }
    let drained = drain(gateway, signals).await?;
    let _ = tokio::time::timeout(CLOSE_MAX, closed).await;
    messages.print(&stopped(&drained));
    messages.finish();
    Ok(ExitCode::SUCCESS)
}

/// The message on how the drain went.
fn stopped(drained: &Drained) -> String {
    let mut text = format!("stopped after {}", drained.took);
    if drained.calls_awaited > 0 {
        let calls = counted(drained.calls_awaited as usize, "call");
        text += &format!("; waited for {calls} in flight");
    }
    if drained.left > 0 {
        let left = counted(drained.left as usize, "connection");
        let calls = counted(drained.calls_left as usize, "call");
        let verb = if drained.left == 1 { "was" } else { "were" };
        text += &format!("; {left} {verb} still open, with {calls} in flight");
    }
    text
}

/// Watches a gateway's sources and applies changes.
struct Watcher {
    gateway: Arc<Gateway>,
    sources: Sources,
    simulated: Simulated,
    config: Config,
    /// The contents of the certificate files when they were last read.
    certificate: Option<[Vec<u8>; 2]>,
    /// The certificates to trust have changed and are not valid.
    trust_rejected: bool,
    /// The current error of polling the sources, so that it is reported once; empty if none.
    last_error: String,
    /// Why the access log cannot be written at present.
    access_log_error: Option<String>,
    messages: Messages,
}

impl Watcher {
    /// Watches on its own thread until the sender of `reload_requests` is dropped; then closes the
    /// database and notifies the returned receiver.
    fn start(
        self,
        reload_requests: mpsc::UnboundedReceiver<()>,
    ) -> anyhow::Result<tokio::sync::oneshot::Receiver<()>> {
        let (done, closed) = tokio::sync::oneshot::channel();
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
                _ = polls.tick() => {
                    match self.sources.changed().await {
                        Ok(true) => self.reload().await,
                        Ok(false) => self.last_error.clear(),
                        Err(error) => self.report_error(&error.to_string()),
                    }
                    let changed = self.gateway.is_trust_changed();
                    if changed && !self.trust_rejected {
                        self.reload().await;
                    }
                    // Rejected certificates are retried when the sources or their files change.
                    self.trust_rejected = changed && self.gateway.is_trust_changed();
                    self.reload_certificate();
                    self.check_access_log();
                }
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
        }
        self.sources.close().await;
    }

    /// Loads the sources and applies them, all or nothing.
    async fn reload(&mut self) {
        let (mut config, mut definitions) = match self.sources.load().await {
            Ok(loaded) => loaded,
            Err(error) => {
                return self.reject(&usage_error(error.to_string(), error.hint()).to_string());
            }
        };
        if let Err(error) = self.simulated.fill(&mut definitions) {
            return self.reject(&error.to_string());
        }
        name_by_port(&mut config.settings, &self.gateway);
        if let Err(error) = self.gateway.apply(config.settings.clone(), &definitions) {
            return self.reject(&error.to_string());
        }
        for key in fixed_differences(&self.config, &config) {
            self.messages.print(&format!("note: {key} changed; restart the gateway to apply it"));
        }
        let warnings = plimsoll_gateway::warnings(&config.settings, &definitions);
        warnings.iter().for_each(|warning| self.messages.print(&format!("warning: {warning}")));
        self.messages.print(&format!(
            "reloaded: {}, {}, {}",
            counted(definitions.services.len(), "service"),
            counted(definitions.upstreams.len(), "upstream"),
            counted(definitions.endpoints.len(), "endpoint")
        ));
        self.config = config;
    }

    fn reject(&self, why: &str) {
        self.messages
            .print(&format!("config change rejected; still using the previous one\n{why}"));
    }

    /// Reports an error of polling once, not at every retry.
    fn report_error(&mut self, why: &str) {
        if self.last_error != why {
            self.messages.print(&format!("cannot check for changes: {why}"));
            self.last_error = why.to_string();
        }
    }

    /// Reports when the access log cannot be written, and when it can again.
    fn check_access_log(&mut self) {
        let error = self.gateway.access_log_trouble();
        if error == self.access_log_error {
            return;
        }
        self.messages.print(&match &error {
            Some(why) => format!(
                "cannot write the access log to {why}; calls are still relayed, and \
                 plimsoll_access_log_dropped_total counts the lost lines\n  \
                 hint: free space on the disk that holds it"
            ),
            None => "the access log can be written again".to_string(),
        });
        self.access_log_error = error;
    }

    /// Reloads the certificate if its files changed.
    fn reload_certificate(&mut self) {
        let now = self.gateway.certificate_contents();
        if now.is_none() || now == self.certificate {
            return;
        }
        self.certificate = now;
        match self.gateway.reload_certificate() {
            Ok(()) => self.messages.print("reloaded the certificate"),
            // The two files rarely change at the same moment: retried once the other has changed.
            Err(error) => self.messages.print(&format!(
                "the new certificate is not valid; still using the previous one: {error}"
            )),
        }
    }
}

/// Drains the gateway; a second signal cuts it short.
async fn drain(gateway: Arc<Gateway>, mut signals: Signals) -> anyhow::Result<Drained> {
    let hurry = Arc::new(AtomicBool::new(false));
    let hurry_flag = hurry.clone();
    let mut drained =
        tokio::task::spawn_blocking(move || gateway.drain(|| hurry_flag.load(Ordering::Relaxed)));
    let orphan = tokio::time::sleep(ORPHAN_DRAIN);
    tokio::pin!(orphan);
    loop {
        tokio::select! {
            done = &mut drained => return done.context("the gateway panicked while draining"),
            () = &mut orphan, if signals.is_orphaned() && !hurry.load(Ordering::Relaxed) => {
                hurry.store(true, Ordering::Relaxed);
            }
            event = signals.next() => match event {
                Event::Stop => hurry.store(true, Ordering::Relaxed),
                Event::Orphaned => orphan.as_mut().reset(tokio::time::Instant::now() + ORPHAN_DRAIN),
                Event::Reload => {}
            }
        }
    }
}

/// If the gateway's default name contains port 0, replaces it by the port that the kernel chose;
/// returns whether it did.
fn name_by_port(settings: &mut Settings, gateway: &Gateway) -> bool {
    let unnamed = settings.instance == instance_name(0);
    if let (true, Some(address)) = (unnamed, gateway.addresses().first()) {
        settings.instance = instance_name(address.port());
    }
    unnamed
}

fn host(sources: &Sources) -> Host {
    let queries = sources.queries();
    Host {
        process: Arc::new(|| {
            let process = plimsoll_host::process();
            Process {
                cpu_seconds: process.cpu.as_secs_f64(),
                resident_bytes: process.resident_bytes,
                open_fds: process.open_fds,
            }
        }),
        db_queries: Arc::new(move || queries.load(Ordering::Relaxed)),
        resolve: None,
    }
}

fn not_started(error: &StartError) -> anyhow::Error {
    let hint = match error {
        StartError::Listen { .. } => {
            "stop the process that listens there, or choose another address with --listen; port 0 \
             picks a free port"
        }
        _ => "",
    };
    usage_error(error.to_string(), hint)
}

/// Raises the soft limit of open files to the hard limit; with `warn`, prints a note if that is too
/// low.
pub(super) fn raise_descriptor_limit(settings: &Settings, warn: bool) {
    let limits = settings.limits;
    // 64 more for files, the database and the runtime.
    let wanted = (limits.connections + limits.upstream_connections + 64) as u64;
    let allowed = plimsoll_host::raise_descriptor_limit();
    // With the default limits, a low descriptor limit just means fewer connections.
    let is_configured = limits.connections != Limits::default().connections
        || limits.upstream_connections != Limits::default().upstream_connections;
    if allowed < wanted && warn && is_configured {
        tell(&format!(
            "note: this process may open {allowed} files; limits.connections = {} and \
             limits.upstream_connections = {} need {wanted}\n  hint: ulimit -n {wanted}, or \
             LimitNOFILE={wanted} in the systemd unit",
            limits.connections, limits.upstream_connections
        ));
    }
}

/// Prints the addresses, what is served and how to try it.
fn announce(
    args: &ServeArgs,
    config: &Config,
    definitions: &Definitions,
    gateway: &Gateway,
    sources: &Sources,
    simulated: bool,
) -> anyhow::Result<()> {
    let has_tls = config.settings.tls.is_some();
    let listeners = config.settings.listeners.iter().zip(gateway.addresses());
    let urls: Vec<String> = listeners
        .clone()
        .map(|(listener, address)| {
            let scheme = if has_tls && listener.tls { "https" } else { "http" };
            format!("{scheme}://{address}")
        })
        .collect();
    let instance = &config.settings.instance;
    let mut text = String::new();
    for (url, (listener, _)) in urls.iter().zip(listeners) {
        let faces = listener.faces.names();
        let restricted = if faces.len() < Faces::NAMES.len() {
            format!(" ({})", faces.join(", "))
        } else {
            String::new()
        };
        text += &format!("plimsoll gateway {instance}: listening on {url}{restricted}\n");
    }
    if args.supervised {
        // The supervisor waits for this line, and prints the rest once for all instances.
        put(&format!("{}\n", urls.join(" ")))?;
    } else {
        text += &describe(definitions, sources.database(), &urls[0], simulated);
    }
    tell(text.trim_end());
    Ok(())
}

/// Lists the upstreams of each service, and a curl command to try.
pub(super) fn describe(
    definitions: &Definitions,
    database: Option<&str>,
    url: &str,
    simulated: bool,
) -> String {
    let mut text = String::new();
    let any: Vec<&str> = definitions
        .upstreams
        .iter()
        .filter(|upstream| upstream.service.is_none())
        .map(|upstream| upstream.id.as_str())
        .collect();
    let mut first = None;
    for service in &definitions.services {
        let own =
            definitions.upstreams.iter().filter(|one| one.service.as_ref() == Some(&service.id));
        let ids: Vec<&str> = own.map(|one| one.id.as_str()).chain(any.iter().copied()).collect();
        if !ids.is_empty() {
            first = first.or(Some(service.id.as_str()));
            text += &format!("  {:8} → {}\n", service.id, listed(&ids));
        }
    }
    if simulated {
        text += "  these chains are simulated until an upstream is added\n";
    } else if first.is_none() {
        text += "  no upstream is configured: calls are answered with no_upstream, and /ready returns 503\n  \
                 hint: add one with plimsoll gateway upstream add or --upstream eth=URL; --simulate serves simulated chains\n";
    }
    if let Some(database) = database {
        let endpoints = counted(definitions.endpoints.len(), "endpoint");
        text += &format!("  {endpoints}; database: {database}\n");
    }
    let call = "-d '{\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\",\"params\":[],\"id\":1}'";
    // Not an endpoint's URL: its id is a customer's credential, and stderr ends up in logs.
    if let Some(service) = first {
        text += &format!("try: curl -s {url}/v1 -H 'Target-Service-Id: {service}' {call}\n");
    }
    text
}

/// A count with its noun, in the singular or plural.
fn counted(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// The first few ids, and how many more there are.
fn listed(ids: &[&str]) -> String {
    const SHOWN_MAX: usize = 5;
    let shown = ids[..ids.len().min(SHOWN_MAX)].join(", ");
    match ids.len().saturating_sub(SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
