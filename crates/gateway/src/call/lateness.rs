//! Attempts in flight, and when they are late.
//!
//! An attempt is late when it has taken as long as the patience learned from the method's latency
//! ([`plimsoll_resilience::patience`]): then another upstream is asked, too. Whether this counts as a
//! failure depends on the upstream. If it has answered no call since the attempt started, it hangs, and its
//! breaker learns so now, because the deadline may be half a minute away. If it has, the call itself may
//! be slow; it then counts as failed when the service's own patience has passed.

use plimsoll_measure::Nanos;

use super::routing::Picked;
use super::target::Target;
use crate::upstream::slot::SlotRef;
use plimsoll_rpc::method::Method;

/// How long attempts at a call may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until another upstream is asked.
    pub(super) learned: Nanos,
    /// Until the attempt counts as failed in any case.
    longest: Nanos,
}

impl Patience {
    #[inline]
    pub(super) fn of(target: &Target<'_>, method: Option<Method>) -> Patience {
        let longest = target.service.model.patience();
        Patience { learned: target.service.state.patience(method, longest), longest }
    }
}

/// An attempt in flight.
pub(super) struct InFlight<'r, 'a> {
    pub(super) picked: Picked<'a>,
    pub(super) start: Nanos,
    /// Whether it has taken as long as the learned patience.
    pub(super) is_late: bool,
    /// Whether it has been reported as failed.
    is_reported: bool,
    /// Returned early if the upstream hangs.
    pub(super) slot: SlotRef<'r, 'a>,
}

impl<'r, 'a> InFlight<'r, 'a> {
    pub(super) fn new(picked: Picked<'a>, start: Nanos, slot: SlotRef<'r, 'a>) -> InFlight<'r, 'a> {
        InFlight { picked, start, is_late: false, is_reported: false, slot }
    }

    /// Looks at an attempt that is late where there is no other upstream: its breaker would serve nobody.
    #[cold]
    pub(super) fn look_alone(&mut self) {
        let route = self.picked.route;
        if !route.has_answered_since(self.start) || route.upstream.gate.has_swallowed(self.start) {
            self.slot.hangs();
        }
    }

    pub(super) fn is(&self, picked: &Picked<'_>, start: Nanos) -> bool {
        self.start == start && self.picked.route.upstream.serial == picked.route.upstream.serial
    }

    /// When it is to be looked at next if it has not ended.
    pub(super) fn due(&self, patience: Patience) -> Option<Nanos> {
        match (self.is_late, self.is_reported) {
            (false, _) => Some(self.start + patience.learned),
            (true, false) => Some(self.start + patience.longest),
            (true, true) => None,
        }
    }

    /// Another attempt, which may have started later, has been answered: a late one has failed.
    pub(super) fn lost(&mut self, target: &Target<'_>, now: Nanos) {
        if self.is_late && !std::mem::replace(&mut self.is_reported, true) {
            self.picked.route.failed(&target.service_id, self.picked.pass, now);
        }
    }

    /// Whether it has become late now. Reports it to the upstream's breaker if that hangs.
    pub(super) fn look(&mut self, target: &Target<'_>, patience: Patience, now: Nanos) -> bool {
        if now < self.start + patience.learned {
            return false;
        }
        let route = self.picked.route;
        let is_over = now >= self.start + patience.longest;
        let is_hanging = !route.has_answered_since(self.start);
        if is_hanging || route.upstream.gate.has_swallowed(self.start) {
            self.slot.hangs();
        }
        if !self.is_reported && (is_over || is_hanging) {
            self.is_reported = true;
            route.failed(&target.service_id, self.picked.pass, now);
        }
        !std::mem::replace(&mut self.is_late, true)
    }
}
