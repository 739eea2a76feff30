//! Serving: one gateway process, from its sources to its end.
//!
//! The gateway itself runs on threads of its own. Another thread watches its sources (file, database,
//! certificates) and applies what is valid as a whole; whatever it waits for (a locked database, a
//! slow disk), signals are handled meanwhile. Where it was asked to, it serves simulated chains as long
//! as there is no real upstream.

use super::ServeArgs;
use super::messages::Messages;
use super::signals::{Asked, ORPHAN_DRAIN, Signals};
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

/// How often sources are looked at: what was changed is in force within a second.
const LOOK: Duration = Duration::from_millis(400);

/// At the end, the database has this long to be closed. It is not needed for what was acknowledged.
const CLOSE: Duration = Duration::from_secs(1);

/// Serves until it is asked to stop.
pub(super) fn run(args: &ServeArgs, inputs: Inputs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = match args.instances {
        1 => runtime.block_on(serve(args, inputs)),
        _ => runtime.block_on(supervise::run(args, inputs)),
    };
    // A thread that hangs must not keep the process from ending.
    runtime.shutdown_background();
    done
}

/// Reads everything that says what to serve.
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
    // A supervisor has said it for all.
    raise_descriptor_limit(&config.settings, !args.supervised);
    let mut signals = Signals::listen(args.supervised)?;
    let started = Gateway::start(config.settings.clone(), &definitions, host(&sources));
    let gateway = Arc::new(started.map_err(|error| not_started(&error))?);
    if name_by_port(&mut config.settings, &gateway) {
        gateway.apply(config.settings.clone(), &definitions)?;
    }
    greet(args, &config, &definitions, &gateway, &sources, simulated.serves())?;
    let prefix = match args.supervised {
        true => format!("{}: ", config.settings.instance),
        false => String::new(),
    };
    let messages = Messages::start(prefix)?;
    messages.take_log();
    let certificate = gateway.certificate_contents();
    let watcher = Watcher {
        gateway: gateway.clone(),
        sources,
        simulated,
        config,
        certificate,
        trust_rejected: false,
        trouble: String::new(),
        log_trouble: None,
        messages: messages.clone(),
    };
    let (reloads, asked_to_reload) = mpsc::unbounded_channel();
    let closed = watcher.start(asked_to_reload)?;
    loop {
        match signals.next().await {
            // The watcher ends only with this loop.
            Asked::Reload => drop(reloads.send(())),
            Asked::Stop => break,
            Asked::Orphaned => {
                messages.tell("the supervisor is gone");
                break;
            }
        }
    }
    drop(reloads);
    if !args.supervised {
        messages.tell("stopping: finishing calls in flight; once more to stop at once");
    }
    let drained = drain(gateway, signals).await?;
    let _ = tokio::time::timeout(CLOSE, closed).await;
    messages.tell(&stopped(&drained));
    messages.finish();
    Ok(ExitCode::SUCCESS)
}

/// How a drain ended, in words.
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

/// Watches what a gateway is made from, and applies changes.
struct Watcher {
    gateway: Arc<Gateway>,
    sources: Sources,
    simulated: Simulated,
    config: Config,
    /// As the certificate's files were read last.
    certificate: Option<[Vec<u8>; 2]>,
    /// Certificates to trust changed and were not valid.
    trust_rejected: bool,
    /// What does not work at present, so that it is said once.
    trouble: String,
    /// Why the access log cannot be written at present.
    log_trouble: Option<String>,
    messages: Messages,
}

impl Watcher {
    /// Watches on a thread of its own until nobody can ask for a reload any more; the receiver hears
    /// when the database is closed.
    fn start(
        self,
        asked: mpsc::UnboundedReceiver<()>,
    ) -> anyhow::Result<tokio::sync::oneshot::Receiver<()>> {
        let (done, closed) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("watcher".into()).spawn(move || {
            runtime.block_on(self.watch(asked));
            // The process may have ended meanwhile.
            let _ = done.send(());
        })?;
        Ok(closed)
    }

    async fn watch(mut self, mut asked: mpsc::UnboundedReceiver<()>) {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = looks.tick() => {
                    match self.sources.changed().await {
                        Ok(true) => self.reload().await,
                        Ok(false) => self.trouble.clear(),
                        Err(error) => self.trouble(&error.to_string()),
                    }
                    let changed = self.gateway.is_trust_changed();
                    if changed && !self.trust_rejected {
                        self.reload().await;
                    }
                    // What was rejected is tried again when the sources or these files change.
                    self.trust_rejected = changed && self.gateway.is_trust_changed();
                    self.renew();
                    self.look_at_log();
                }
                asked = asked.recv() => match asked {
                    Some(()) => {
                        self.gateway.reopen_access_log();
                        self.reload().await;
                        self.certificate = None;
                        self.renew();
                    }
                    None => break,
                },
            }
        }
        self.sources.close().await;
    }

    /// Takes up what changed, all or nothing.
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
            self.messages.tell(&format!("note: {key} changed; that needs a restart"));
        }
        let warnings = plimsoll_gateway::warnings(&config.settings, &definitions);
        warnings.iter().for_each(|warning| self.messages.tell(&format!("warning: {warning}")));
        self.messages.tell(&format!(
            "reloaded: {}, {}, {}",
            counted(definitions.services.len(), "service"),
            counted(definitions.upstreams.len(), "upstream"),
            counted(definitions.endpoints.len(), "endpoint")
        ));
        self.config = config;
    }

    fn reject(&self, why: &str) {
        self.messages.tell(&format!("config change rejected; still using the previous one\n{why}"));
    }

    /// Something does not work, and is tried again: said once, not twice a second.
    fn trouble(&mut self, why: &str) {
        if self.trouble != why {
            self.messages.tell(&format!("cannot look for changes: {why}"));
            self.trouble = why.to_string();
        }
    }

    /// Reports when the access log cannot be written, and when it can again.
    fn look_at_log(&mut self) {
        let trouble = self.gateway.access_log_trouble();
        if trouble == self.log_trouble {
            return;
        }
        self.messages.tell(&match &trouble {
            Some(why) => format!(
                "cannot write the access log to {why}; calls are still relayed, and \
                 plimsoll_access_log_dropped_total counts the lost lines\n  \
                 hint: free space on the disk that holds it"
            ),
            None => "the access log can be written again".to_string(),
        });
        self.log_trouble = trouble;
    }

    /// Reads the certificate again when its files changed.
    fn renew(&mut self) {
        let now = self.gateway.certificate_contents();
        if now.is_none() || now == self.certificate {
            return;
        }
        self.certificate = now;
        match self.gateway.reload_certificate() {
            Ok(()) => self.messages.tell("the certificate was read again"),
            // Both files rarely change at once: it is tried again when the other has.
            Err(error) => self.messages.tell(&format!("the new certificate is not used: {error}")),
        }
    }
}

/// Lets the gateway finish; a second signal cuts it short.
async fn drain(gateway: Arc<Gateway>, mut signals: Signals) -> anyhow::Result<Drained> {
    let hurry = Arc::new(AtomicBool::new(false));
    let asked = hurry.clone();
    let mut drained =
        tokio::task::spawn_blocking(move || gateway.drain(|| asked.load(Ordering::Relaxed)));
    let orphan = tokio::time::sleep(ORPHAN_DRAIN);
    tokio::pin!(orphan);
    loop {
        tokio::select! {
            done = &mut drained => return done.context("the gateway broke while it stopped"),
            () = &mut orphan, if signals.is_orphaned() && !hurry.load(Ordering::Relaxed) => {
                hurry.store(true, Ordering::Relaxed);
            }
            asked = signals.next() => match asked {
                Asked::Stop => hurry.store(true, Ordering::Relaxed),
                Asked::Orphaned => orphan.as_mut().reset(tokio::time::Instant::now() + ORPHAN_DRAIN),
                Asked::Reload => {}
            }
        }
    }
}

/// A gateway that is named after a port which the kernel was to choose is named after the one it
/// chose; tells whether it was.
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
            "stop what listens there, or choose another address with --listen; port 0 takes a free one"
        }
        _ => "",
    };
    usage_error(error.to_string(), hint)
}

/// Lets the process open as many descriptors as it may, and says so when that is too few.
pub(super) fn raise_descriptor_limit(settings: &Settings, says: bool) {
    let limits = settings.limits;
    // Some for files, the database and the runtime itself.
    let wanted = (limits.connections + limits.upstream_connections + 64) as u64;
    let may = plimsoll_host::raise_descriptor_limit();
    // Where nobody asked for a number, as many callers are taken as the process may have.
    let is_asked = limits.connections != Limits::default().connections
        || limits.upstream_connections != Limits::default().upstream_connections;
    if may < wanted && says && is_asked {
        tell(&format!(
            "note: this process may open {may} descriptors; limits.connections = {} with \
             limits.upstream_connections = {} needs {wanted}\n  hint: ulimit -n {wanted}, or \
             LimitNOFILE={wanted} in the unit",
            limits.connections, limits.upstream_connections
        ));
    }
}

/// Says what is served, and how to try it.
fn greet(
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
        let faces = listener.faces.words();
        let what = match faces.len() < Faces::WORDS.len() {
            true => format!(" ({})", faces.join(", ")),
            false => String::new(),
        };
        text += &format!("plimsoll gateway {instance}: listening on {url}{what}\n");
    }
    if args.supervised {
        // The supervisor waits for this line, and says the rest once for all.
        put(&format!("{}\n", urls.join(" ")))?;
    } else {
        text += &describe(definitions, sources.database(), &urls[0], simulated);
    }
    tell(text.trim_end());
    Ok(())
}

/// What is relayed where, and a line that works.
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
        text += "  no upstream is configured: calls are answered with no_upstream, and /ready says 503\n  \
                 hint: add one with plimsoll gateway upstream add or --upstream eth=URL; --simulate serves simulated chains\n";
    }
    if let Some(database) = database {
        let endpoints = counted(definitions.endpoints.len(), "endpoint");
        text += &format!("  {endpoints}; entries are kept in {database}\n");
    }
    let call = "-d '{\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\",\"params\":[],\"id\":1}'";
    // Not with an endpoint: its id is a customer's credential, and stderr is kept.
    if let Some(service) = first {
        text += &format!("try: curl -s {url}/v1 -H 'Target-Service-Id: {service}' {call}\n");
    }
    text
}

/// A number of things.
fn counted(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// As many ids as fit a line.
fn listed(ids: &[&str]) -> String {
    const SHOWN_MAX: usize = 5;
    let shown = ids[..ids.len().min(SHOWN_MAX)].join(", ");
    match ids.len().saturating_sub(SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
