//! Deadlines without a timer operation for each.
//!
//! A deadline mostly moves on before it is reached: an exchange ends, the next begins. So the timer
//! that is registered is left where it is and only asked, when it fires, whether the deadline has
//! been reached by now; if not, it is set to where the deadline is. A connection in steady use costs
//! one timer operation in the span of its shortest deadline instead of two for each exchange.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use tokio::time::{Instant, Sleep};

/// A deadline that moves.
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
}

/// The deadline was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late;

impl Timer {
    /// A timer that is registered when it is first waited for.
    pub(crate) fn new(until: Instant) -> Timer {
        Timer { sleep: Box::pin(tokio::time::sleep_until(until)) }
    }

    /// Waits for `future`, but not beyond `until`.
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
