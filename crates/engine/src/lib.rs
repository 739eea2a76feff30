//! The load engine: sends a plan on schedule and accounts for every arrival.
//!
//! It has no terminal, files or reports: it yields one [`Second`] after another. Each worker thread
//! owns all its state; nothing is shared on the hot path.
//!
//! # Layout
//! - `prepare`: [`Prepared`], everything that can fail or take time before the clock starts
//! - `threads`: the worker threads
//! - `running`: [`Running`], yields seconds; `control`: [`Control`], accepts commands
//! - `worker`: the event loop of one thread; `wake`: decides when it sleeps and when it spins
//! - `dispatch`: takes arrivals from due to their end
//! - `source`: due arrivals, from the open model's pacers or the closed model's users
//! - `standing`: exchanges that stay open, and how their messages are compared
//! - `arrival`: arrivals in flight, by deadline
//! - `pool`: the connections to one origin, and the arrivals waiting for one
//! - `connection`: the protocol interface (a connection's capacity and events); beneath it
//!   `transport` (TLS), [`http1`] (the response parser) and `http2` (frames and header compression)
//! - `events`: event streams, without I/O
//! - `request`: requests as bytes; `judge`: checks an answer against its expectation; `gzip`: bodies
//! - `recorder`: counts arrivals; `sampling`: samples of them, for a recording thread; `capture`: their
//!   results, for a caller that wants answers too
//! - `feed`: requests that are not part of the plan
//! - `system`: the machine (clock, poll, sockets, name resolution)
//! - [`fuzz`]: entry points for fuzzing
//! - `simulation` (tests): the same engine on a simulated machine, thousands of seeds
//! - `tls`: certificates; `errors`: maps OS errors to error classes

mod arrival;
mod capture;
mod connection;
mod control;
mod dispatch;
mod errors;
mod events;
mod feed;
pub mod fuzz;
mod gzip;
pub mod http1;
mod http2;
mod judge;
mod pool;
mod prepare;
mod recorder;
mod request;
mod running;
mod sampling;
#[cfg(test)]
mod simulation;
mod source;
mod standing;
mod system;
mod threads;
mod tls;
mod wake;
mod worker;

pub use capture::{Capture, Captured, CapturedBlock, CapturedResult, Dropped};
pub use connection::Traced;
pub use control::{CommandError, Control};
pub use feed::{Feed, Feeder};
pub use prepare::{Prepared, Settings, Spin, StartError, descriptors_needed};
pub use running::{HostProbe, Next, RunError, Running, Second, TraceRecord, Waker};
pub use sampling::{Recorded, SampleBlock, SampleSink};
