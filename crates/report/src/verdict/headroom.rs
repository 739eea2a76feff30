//! How close the generator came to its own limits.

use super::Second;
use super::cause::busy_share;
use plimsoll_measure::Usage;

/// How much of each of its resources the generator used in the second in which it used most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Headroom {
    /// Share of a CPU that the busiest worker used, without spinning; 0 to 1.
    pub worker_busy: f64,
    /// Local ports towards the destination with the most connections, see
    /// [`Snapshot::ports`](plimsoll_measure::Snapshot::ports).
    pub ports: Option<Usage>,
    /// File descriptors.
    pub descriptors: Option<Usage>,
}

impl Headroom {
    /// Adds a second of a run with this many source addresses.
    pub(super) fn add(&mut self, second: &Second<'_>, sources: u64) {
        let snapshot = second.snapshot;
        self.worker_busy = self.worker_busy.max(busy_share(snapshot, second.seconds.len()));
        raise(&mut self.ports, snapshot.ports(sources));
        raise(&mut self.descriptors, snapshot.host.descriptors);
    }
}

fn raise(own: &mut Option<Usage>, next: Option<Usage>) {
    let share = |usage: &Option<Usage>| usage.map_or(-1.0, Usage::share);
    if share(&next) > share(own) {
        *own = next;
    }
}
