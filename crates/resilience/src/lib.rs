//! The parts of which a client of unreliable upstreams is built: pure state machines on virtual
//! time.
//!
//! They know no protocol, no socket and no clock: `now` is a parameter, and the caller judges
//! whether an attempt succeeded. Each part is one mechanism; the policy that combines them (which
//! failures count, where to retry) belongs to the caller.
//!
//! # Sharing
//! An upstream is shared by all worker threads: a failure that one worker sees must protect the
//! others, and a budget divided by the number of workers would be too small for each. So every part
//! that changes is updated through `&self` with relaxed atomics, takes no lock, and never allocates
//! after its creation. No part orders other memory: each is one word, or counters of which a few may
//! be lost in a race without harm; the documentation of each says which. Clock readings of different
//! threads may differ by a fraction of a window.
//!
//! What a call costs while nothing fails: a load for [`Breaker::admit`], [`Parked`] and
//! [`SlowStart`]; an addition for [`Breaker::succeeded`], [`Budget::called`] and
//! [`Quantile::record`].
//!
//! # Layout
//! - [`concurrency`]: how many calls an upstream is sent at a time
//! - [`breaker`]: stops using an upstream that fails, and finds out when it works again
//! - [`budget`]: limits retries and hedges to a share of the calls
//! - [`quantile`]: a quantile of recent latencies
//! - [`hedge`]: when to send a call a second time
//! - [`patience`]: how long to wait for an attempt before another upstream is asked
//! - [`slow_start`]: the ramp of an upstream that has returned
//! - [`parked`]: an upstream that asked not to be called for a while
//! - [`rate_limit`]: a limit on calls per second
//! - `window`: counts over a sliding window, for breaker and budget

pub mod breaker;
pub mod budget;
pub mod concurrency;
pub mod hedge;
pub mod parked;
pub mod patience;
pub mod quantile;
pub mod rate_limit;
pub mod slow_start;
mod window;

pub use breaker::{Breaker, BreakerSettings};
pub use budget::Budget;
pub use concurrency::Concurrency;
pub use hedge::Hedge;
pub use parked::Parked;
pub use patience::patience;
pub use quantile::Quantile;
pub use rate_limit::RateLimit;
pub use slow_start::SlowStart;
