//! The demo's last part: an instance is killed under load and restarted by its supervisor, and no call
//! fails, because the edge sends what the instance had in flight to the others.

use super::processes::{Folder, GatewayProcess};
use super::{DemoArgs, default_settings, failure_plan};
use crate::interrupt::Interrupts;
use crate::run::{Outputs, Views, run_plan};
use plimsoll_config::values::show_duration;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// The instance to kill, counted from 0.
const KILLED: usize = 2;

/// How often the watcher looks whether the instance is back.
const LOOK: Duration = Duration::from_millis(5);

/// At most this long; a supervisor restarts an instance within a second.
const LOOKS_MAX: u32 = 2_000;

/// Runs the part; returns the line to print, and whether no call failed.
pub(super) fn run(
    args: &DemoArgs,
    folder: &Folder,
    instances: &GatewayProcess,
    edge: &GatewayProcess,
    interrupts: &Interrupts,
) -> anyhow::Result<(String, bool)> {
    let duration = (args.duration / 4).max(Duration::from_secs(3));
    let plan = Arc::new(failure_plan(args, folder, edge, duration)?);
    let (started, start) = mpsc::channel();
    let views = Views { metrics: None, live: None, terminal: false };
    let outputs = Outputs { run_dir: None, views, announces: false, started: Some(started) };
    let finished = std::thread::scope(|scope| {
        let killer = scope.spawn(move || kill_and_watch(instances, &start, duration / 4));
        let finished = run_plan(&plan, default_settings(), outputs, interrupts);
        finished.map(|finished| (finished, killer.join().unwrap_or_default()))
    });
    let (finished, back) = finished?;
    let requests = &finished.summary.all.stats.requests;
    let (sent, failed) = (requests.sent, requests.scheduled - requests.ok);
    let name = format!("gw-{}", KILLED + 1);
    let how = match back {
        Some(back) => {
            let back = show_duration(Duration::from_millis(back.as_millis() as u64));
            format!("{name} was killed under load and served again after {back}")
        }
        None => format!("{name} was killed under load and did not come back"),
    };
    Ok((format!("{how}: {sent} calls, {failed} failed"), failed == 0 && back.is_some()))
}

/// Kills the instance some time after the start; returns how long it was gone.
fn kill_and_watch(
    instances: &GatewayProcess,
    start: &mpsc::Receiver<impl Sized>,
    after: Duration,
) -> Option<Duration> {
    let address = instances.urls.get(KILLED)?.strip_prefix("http://")?.to_string();
    start.recv().ok()?;
    let (_keep, never) = mpsc::channel::<()>();
    let pause = |span| {
        // Nothing is ever sent.
        let _ = never.recv_timeout(span);
    };
    pause(after);
    if !instances.kill_instance(KILLED) {
        return None;
    }
    let is_up = || TcpStream::connect(&address).is_ok();
    let mut gone = Duration::ZERO;
    for _ in 0..LOOKS_MAX {
        pause(LOOK);
        gone += LOOK;
        if is_up() {
            return Some(gone);
        }
    }
    None
}
