//! Serving: one gateway process, from its sources to its end.
//!
//! The gateway itself runs on threads of its own; this loop watches what it is told (file, database,
//! certificates, signals) and hands on what is valid as a whole. With nothing to relay to it brings
//! simulated chains, and drops them as soon as there is a real upstream.

use super::signals::{Asked, ORPHAN_DRAIN, Signals};
use super::simulated::Simulated;
use super::{ServeArgs, supervise};
use crate::{put, tell, usage_error};
use anyhow::Context;
use plimsoll_gateway::{Definitions, Drained, Gateway, Host, Process, Settings, StartError};
use plimsoll_registry::config::{Config, Inputs, fixed_differences, instance_name};
use plimsoll_registry::sources::Sources;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// So often it is looked whether anything changed: what was changed is in force within a second.
const LOOK: Duration = Duration::from_millis(400);

/// Serves until it is told to stop.
pub(super) fn run(args: &ServeArgs, inputs: Inputs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args.instances {
        1 => runtime.block_on(serve(args, inputs)),
        _ => runtime.block_on(supervise::run(args, inputs)),
    }
}

/// Reads everything that says what to serve.
pub(super) async fn load(sources: &mut Sources) -> anyhow::Result<(Config, Definitions)> {
    let loaded = sources.load().await;
    let (config, definitions) =
        loaded.map_err(|error| usage_error(error.to_string(), error.hint()))?;
    config.notes.iter().for_each(|note| tell(&format!("note: {note}")));
    Ok((config, definitions))
}

async fn serve(args: &ServeArgs, inputs: Inputs) -> anyhow::Result<ExitCode> {
    let mut sources = Sources::new(inputs);
    let (mut config, mut definitions) = load(&mut sources).await?;
    let mut simulated = Simulated::new(args.simulated.as_deref());
    simulated.fill(&mut definitions)?;
    // A supervisor has said it for all.
    raise_descriptor_limit(&config.settings, !args.supervised);
    let mut signals = Signals::listen(args.supervised)?;
    let started = Gateway::start(config.settings.clone(), &definitions, host(&sources));
    let mut gateway = started.map_err(|error| not_started(&error))?;
    if name_by_port(&mut config.settings, &gateway) {
        gateway.apply(config.settings.clone(), &definitions)?;
    }
    greet(args, &config, &definitions, &gateway, &sources, simulated.serves())?;
    let (voice, trouble) = (Voice::of(args, &config), String::new());
    let mut serving = Serving { gateway, sources, simulated, config, trouble, voice };
    let mut certificate = serving.gateway.certificate_contents();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = looks.tick() => {
                match serving.sources.changed().await {
                    Ok(true) => serving.reload().await,
                    Ok(false) => serving.trouble.clear(),
                    Err(error) => serving.trouble(&error.to_string()),
                }
                serving.renew(&mut certificate);
            }
            asked = signals.next() => match asked {
                Asked::Reload => {
                    serving.reload().await;
                    certificate = None;
                    serving.renew(&mut certificate);
                }
                Asked::Stop => break,
                Asked::Orphaned => {
                    serving.voice.tell("the supervisor is gone");
                    break;
                }
            }
        }
    }
    let Serving { gateway, sources, simulated, voice, .. } = serving;
    if !args.supervised {
        voice.tell("stopping: finishing what is under way; once more to stop at once");
    }
    let drained = drain(gateway, signals).await?;
    sources.close().await;
    drop(simulated);
    voice.tell(&match drained.left {
        0 => format!("stopped after {}", drained.took),
        left => format!("stopped after {}; {left} connections were still open", drained.took),
    });
    Ok(ExitCode::SUCCESS)
}

/// A gateway with what feeds it.
struct Serving {
    gateway: Gateway,
    sources: Sources,
    simulated: Simulated,
    config: Config,
    /// What does not work at present, so that it is said once.
    trouble: String,
    voice: Voice,
}

/// Says things to a person; an instance among several says which it is.
struct Voice {
    prefix: String,
}

impl Voice {
    fn of(args: &ServeArgs, config: &Config) -> Voice {
        let prefix = match args.supervised {
            true => format!("{}: ", config.settings.instance),
            false => String::new(),
        };
        Voice { prefix }
    }

    fn tell(&self, text: &str) {
        tell(&format!("{}{text}", self.prefix));
    }
}

impl Serving {
    /// Takes up what changed, all or nothing.
    async fn reload(&mut self) {
        let (mut config, mut definitions) = match self.sources.load().await {
            Ok(loaded) => loaded,
            Err(error) => {
                return self.refuse(&usage_error(error.to_string(), error.hint()).to_string());
            }
        };
        if let Err(error) = self.simulated.fill(&mut definitions) {
            return self.refuse(&error.to_string());
        }
        name_by_port(&mut config.settings, &self.gateway);
        if let Err(error) = self.gateway.apply(config.settings.clone(), &definitions) {
            return self.refuse(&error.to_string());
        }
        for key in fixed_differences(&self.config, &config) {
            self.voice.tell(&format!("note: {key} changed; that needs a restart"));
        }
        self.voice.tell(&format!(
            "reloaded: {}, {}, {}",
            counted(definitions.services.len(), "service"),
            counted(definitions.upstreams.len(), "upstream"),
            counted(definitions.endpoints.len(), "endpoint")
        ));
        self.config = config;
    }

    fn refuse(&self, why: &str) {
        self.voice.tell(&format!("a change is refused; what was there stays in force\n{why}"));
    }

    /// Something does not work, and is tried again: said once, not twice a second.
    fn trouble(&mut self, why: &str) {
        if self.trouble != why {
            self.voice.tell(&format!("cannot look for changes: {why}"));
            self.trouble = why.to_string();
        }
    }

    /// Reads the certificate again when its files changed.
    fn renew(&self, known: &mut Option<[Vec<u8>; 2]>) {
        let now = self.gateway.certificate_contents();
        if now.is_none() || now == *known {
            return;
        }
        *known = now;
        match self.gateway.reload_certificate() {
            Ok(()) => self.voice.tell("the certificate was read again"),
            // Both files rarely change at once: it is tried again when the other has.
            Err(error) => self.voice.tell(&format!("the new certificate is not used: {error}")),
        }
    }
}

/// Lets the gateway finish; a second signal cuts it short.
async fn drain(gateway: Gateway, mut signals: Signals) -> anyhow::Result<Drained> {
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
    if may < wanted && says {
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
    let scheme = if config.settings.tls.is_some() { "https" } else { "http" };
    let urls: Vec<String> =
        gateway.addresses().iter().map(|address| format!("{scheme}://{address}")).collect();
    let instance = &config.settings.instance;
    let mut text = String::new();
    for url in &urls {
        text += &format!("plimsoll gateway {instance}: listening on {url}\n");
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
        text +=
            "  no upstream is configured: these chains are simulated; see --help for real ones\n";
    }
    if let Some(database) = database {
        let endpoints = counted(definitions.endpoints.len(), "endpoint");
        text += &format!("  {endpoints}; entries are kept in {database}\n");
    }
    let call = "-d '{\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\",\"params\":[],\"id\":1}'";
    match (definitions.endpoints.first(), first) {
        (Some(endpoint), _) => {
            text += &format!("try: curl -s '{url}/api/gateway?endpoint={}' {call}\n", endpoint.id);
        }
        (None, Some(service)) => {
            text += &format!("try: curl -s {url}/v1 -H 'Target-Service-Id: {service}' {call}\n");
        }
        (None, None) => {}
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
