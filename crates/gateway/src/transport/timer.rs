//! Deadlines without a timer operation per deadline.
//!
//! Most deadlines are moved before they are reached, when one exchange ends and the next begins. So the
//! registered timer stays where it is; when it fires before the current deadline, it is reset to that
//! deadline. A connection in steady use costs one timer operation per span of its shortest deadline
//! instead of two per exchange.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use tokio::time::{Instant, Sleep};

/// A movable deadline.
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
}

/// The deadline was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late;

impl Timer {
    /// A timer that is registered on first use.
    pub(crate) fn new(until: Instant) -> Timer {
        Timer { sleep: Box::pin(tokio::time::sleep_until(until)) }
    }

    /// Waits for `future` until the deadline.
    pub(crate) async fn limit<F: Future>(
        &mut self,
        until: Instant,
        future: F,
    ) -> Result<F::Output, Late> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            if self.sleep.deadline() > until {
                self.sleep.as_mut().reset(until);
            }
            while self.sleep.as_mut().poll(context).is_ready() {
                if self.sleep.deadline() >= until {
                    return Poll::Ready(Err(Late));
                }
                self.sleep.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    }
}
