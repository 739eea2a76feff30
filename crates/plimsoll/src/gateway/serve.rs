//! Serving: one gateway process, from start to shutdown.
//!
//! The gateway runs on its own threads. Another thread watches its sources ([`Watcher`]); signals are
//! still handled while that thread is blocked by a locked database or a slow disk. With `--simulate`,
//! simulated chains are served until there is a real upstream.

use super::ServeArgs;
use super::admin;
use super::announce::announce;
use super::messages::{Messages, counted};
use super::signals::{Event, ORPHAN_DRAIN, Signals};
use super::simulated::Simulated;
use super::supervise::{self, shift_ports};
use super::watcher::Watcher;
use crate::{tell, usage_error};
use anyhow::Context;
use plimsoll_gateway::{Definitions, Drained, Gateway, Host, Process, Settings, StartError};
use plimsoll_registry::config::{Config, Inputs, instance_name};
use plimsoll_registry::settings::{Limits, UsageSettings};
use plimsoll_registry::sources::{LoadError, START_MAX, Sources};
use plimsoll_registry::store::{Report, StoreErrorKind};
use plimsoll_registry::usage::{Inbox, Recorder};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long shutdown waits for the database to close. Acknowledged changes are durable without it.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// How long shutdown waits for the database to take what was counted last.
const RECORD_MAX: Duration = Duration::from_secs(2);

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

/// When a start first reports that it waits for the database, and how often it repeats that.
const REMIND_FIRST: Duration = Duration::from_millis(500);
const REMIND_INTERVAL: Duration = Duration::from_secs(5);

/// Loads the configuration and the definitions, and prints notes; reports what it waits for.
pub(super) async fn load(sources: &mut Sources) -> anyhow::Result<(Config, Definitions)> {
    let status = sources.status().clone();
    let start = tokio::time::Instant::now();
    let mut reminders = tokio::time::interval_at(start + REMIND_FIRST, REMIND_INTERVAL);
    let loaded = {
        let loading = sources.load();
        tokio::pin!(loading);
        loop {
            tokio::select! {
                loaded = &mut loading => break loaded,
                _ = reminders.tick() => tell(&waiting(&status.report(), start.elapsed())),
            }
        }
    };
    let (config, definitions) = loaded.map_err(|error| match &error {
        // Not a mistake in the setup: a service manager should try again.
        LoadError::Store(store) if matches!(store.kind, StoreErrorKind::Unreachable(_)) => {
            anyhow::anyhow!("{error}\n  hint: {}", error.hint())
        }
        _ => usage_error(error.to_string(), error.hint()),
    })?;
    super::tell_notes(&config, &definitions);
    Ok((config, definitions))
}

/// The reminder that is printed while a start waits.
fn waiting(report: &Report, waited: Duration) -> String {
    let (waited, most) = (waited.as_secs(), START_MAX.as_secs());
    let why = match report.why.as_str() {
        "" => "it has not answered yet",
        why => why,
    };
    format!("waiting for the database, {waited} of at most {most} s: {why}")
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
    let prefix =
        if args.supervised { format!("{}: ", config.settings.instance) } else { String::new() };
    let messages = Messages::start(prefix)?;
    // Before the gateway starts: its first messages must not be lost.
    messages.capture_tracing();
    let recorder = record(&sources, &config.settings.usage).await?;
    if recorder.is_none() && args.port_offset == 0 {
        tracing::info!("usage is only counted in /metrics, because there is no database");
    }
    let inbox = recorder.as_ref().map(|recorder| recorder.inbox().clone());
    let host = host(&sources, inbox.clone())?;
    let mut settings = config.settings.clone();
    // Not in the configuration, which a reload is compared with.
    settings.limits.replicas = settings.limits.replicas.max(args.replicas.into());
    let started = Gateway::start(settings, &definitions, host);
    let gateway = Arc::new(started.map_err(|error| not_started(&error))?);
    if name_by_port(&mut config.settings, &gateway) {
        gateway.apply(config.settings.clone(), &definitions)?;
    }
    let database = sources.database().map(String::from);
    let is_simulated = simulated.serves();
    // Before the announcement: from then on, every change of a file is noticed.
    let (serving, began_with) = (gateway.clone(), (config.clone(), definitions.clone()));
    let watcher = Watcher::new(serving, sources, simulated, inbox, began_with);
    announce(args, &config, &definitions, &gateway, database.as_deref(), is_simulated)?;
    let (reloads, reload_requests) = mpsc::unbounded_channel();
    let closed = watcher.start(reload_requests)?;
    loop {
        match signals.next().await {
            // The receiver outlives this loop.
            Event::Reload => drop(reloads.send(())),
            Event::Stop => break,
            Event::Orphaned => {
                tracing::warn!("the supervisor has exited: stopping");
                break;
            }
        }
    }
    if !args.supervised {
        tracing::info!("stopping: finishing calls in flight; signal again to stop at once");
    }
    let drained = drain(gateway, signals).await?;
    if let Some(recorder) = recorder {
        finish_recording(recorder).await;
    }
    // The watcher closes the database.
    drop(reloads);
    let _ = tokio::time::timeout(CLOSE_MAX, closed).await;
    tracing::info!("{}", stopped(&drained));
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
pub(super) fn name_by_port(settings: &mut Settings, gateway: &Gateway) -> bool {
    let unnamed = settings.instance == instance_name(0);
    if let (true, Some(address)) = (unnamed, gateway.addresses().first()) {
        settings.instance = instance_name(address.port());
    }
    unnamed
}

/// Starts to record usage, if there is a database.
async fn record(sources: &Sources, settings: &UsageSettings) -> anyhow::Result<Option<Recorder>> {
    let opened = sources.usage_store().await;
    let opened = opened.map_err(|error| usage_error(error.to_string(), error.hint()))?;
    let Some((store, folder)) = opened else { return Ok(None) };
    Ok(Some(Recorder::start(store, &folder, settings.spool, settings.keep)?))
}

/// Delivers what was counted last; what the database does not take in time waits on disk for the next start.
async fn finish_recording(recorder: Recorder) {
    let lost = recorder.finish(RECORD_MAX).await;
    if lost > 0 {
        let rows = counted(lost, "row");
        tracing::error!(
            "{rows} of usage could be written neither to the database nor to disk, and are lost"
        );
    }
}

fn host(sources: &Sources, usage: Option<Arc<Inbox>>) -> anyhow::Result<Host> {
    Ok(Host {
        process: Arc::new(|| {
            let process = plimsoll_host::process();
            Process {
                cpu_seconds: process.cpu.as_secs_f64(),
                resident_bytes: process.resident_bytes,
                open_fds: process.open_fds,
            }
        }),
        database: sources.status().clone(),
        usage,
        admin: Some(admin::start(sources.editor())?),
        resolve: None,
        wall_clock: None,
    })
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
