//! The slot of a call at an upstream's gate, from before it is sent until its answer has been read.
//!
//! If the caller leaves before, the upstream still works on the call. Then the slot leaves the call's
//! future ([`Slot::detach`]), and whoever awaits the rest of the answer returns it ([`OwnedSlot`]). The
//! account keeps being charged for it, so that a customer gains nothing by leaving.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::gate::Gate;
use crate::account::InUse;
use crate::local::Local;

/// Permission to send a call to an upstream, until it is released or dropped.
pub(crate) struct Slot<'a> {
    gate: &'a Arc<Gate>,
    account: &'a Arc<InUse>,
    local: &'a Local,
    /// The slots in use when this one was taken, including it.
    pub(crate) number: u32,
    state: Cell<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    /// Returned, because the upstream hangs; it counts towards the connections.
    Hangs,
    /// Returned, or detached.
    Over,
}

impl<'a> Slot<'a> {
    pub(super) fn new(
        gate: &'a Arc<Gate>,
        account: &'a Arc<InUse>,
        local: &'a Local,
        number: u32,
    ) -> Slot<'a> {
        Slot { gate, account, local, number, state: Cell::new(State::Held) }
    }

    /// The slot that a wait has ended with.
    pub(crate) fn granted(
        gate: &'a Arc<Gate>,
        account: &'a Arc<InUse>,
        local: &'a Local,
        number: u32,
    ) -> Slot<'a> {
        Slot::new(gate, account, local, number)
    }

    /// Returns the slot although the call goes on, because the upstream hangs.
    #[cold]
    pub(crate) fn hangs(&self) {
        if self.state.get() == State::Held {
            self.state.set(State::Hangs);
            self.account.slots.fetch_sub(1, Relaxed);
            self.gate.hangs(|| self.local.recent());
        }
    }

    /// Returns the slot.
    #[inline]
    pub(crate) fn release(&self) {
        match self.state.replace(State::Over) {
            State::Held => {
                self.account.slots.fetch_sub(1, Relaxed);
                self.gate.leave(|| self.local.recent());
            }
            State::Hangs => self.gate.no_longer_hangs(|| self.local.recent()),
            State::Over => {}
        }
    }

    /// Takes the slot away from the call, which has been abandoned; `None` if it has been returned.
    #[cold]
    pub(crate) fn detach(&self, local: &Rc<Local>) -> Option<OwnedSlot> {
        if self.state.get() != State::Held {
            return None;
        }
        self.state.set(State::Over);
        let (gate, account) = (self.gate.clone(), self.account.clone());
        Some(OwnedSlot { gate, account, local: local.clone() })
    }
}

impl Drop for Slot<'_> {
    #[inline]
    fn drop(&mut self) {
        self.release();
    }
}

/// The slot of an abandoned call.
pub(crate) struct OwnedSlot {
    pub(crate) gate: Arc<Gate>,
    account: Arc<InUse>,
    local: Rc<Local>,
}

impl Drop for OwnedSlot {
    fn drop(&mut self) {
        self.account.slots.fetch_sub(1, Relaxed);
        self.gate.leave(|| self.local.recent());
    }
}

/// The slot of an attempt, which the attempt and those who watch it share.
#[derive(Clone)]
pub(crate) enum SlotRef<'r, 'a> {
    /// That of a call's first attempt.
    First(&'r Slot<'a>),
    Further(Rc<Slot<'a>>),
}

impl<'a> Deref for SlotRef<'_, 'a> {
    type Target = Slot<'a>;

    fn deref(&self) -> &Slot<'a> {
        match self {
            SlotRef::First(slot) => slot,
            SlotRef::Further(slot) => slot,
        }
    }
}
