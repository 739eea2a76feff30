//! The gateway as its callers and upstreams meet it: over sockets, byte for byte.
//!
//! Timeouts are where a broken gateway would hang; what takes how long is never asserted.

mod bad_http;
mod bad_upstream;
mod batches;
mod caller;
mod certificates;
mod connecting;
mod faces;
mod frames;
mod http2;
mod http2_abuse;
mod identity;
mod life;
mod long;
mod memory;
mod relay;
mod rest;
mod rules;
mod scripted;
mod spreading;
mod tls;
mod transport;
mod world;
