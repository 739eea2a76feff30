//! A worker's idle sessions, so that they can be closed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// The sessions of one worker.
#[derive(Default)]
pub(crate) struct Sessions {
    wakers: RefCell<Slab<Option<Waker>>>,
    closing: Cell<bool>,
}

/// A session's entry.
pub(super) struct Slot {
    sessions: Rc<Sessions>,
    key: usize,
}

impl Sessions {
    /// Closes all idle sessions, and each that becomes idle from now on.
    pub(crate) fn close_idle(&self) {
        self.closing.set(true);
        let wakers: Vec<Waker> =
            self.wakers.borrow().iter().filter_map(|(_, waker)| waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn enter(self: &Rc<Sessions>) -> Slot {
        let key = self.wakers.borrow_mut().insert(None);
        Slot { sessions: self.clone(), key }
    }
}

impl Slot {
    /// Whether idle connections are being closed.
    #[inline]
    pub(super) fn is_closing(&self) -> bool {
        self.sessions.closing.get()
    }

    /// Ready once idle connections are to be closed.
    #[inline]
    pub(super) fn poll_closing(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_closing() {
            return Poll::Ready(());
        }
        let waker = &mut self.sessions.wakers.borrow_mut()[self.key];
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.sessions.wakers.borrow_mut().remove(self.key);
    }
}
