//! Integration tests of the gateway as callers and upstreams see it: over sockets, byte for byte.
//!
//! Timeouts only keep a broken gateway from hanging the tests; no test asserts a duration.

mod access;
mod bad_http;
mod bad_upstream;
mod batches;
mod caching;
mod caller;
mod certificates;
mod connecting;
mod events;
mod faces;
mod frames;
mod http2;
mod http2_abuse;
mod identity;
mod lifecycle;
mod long_bodies;
mod memory;
mod metering;
mod relay;
mod resilience;
mod rest;
mod rules;
mod scripted;
mod setup;
mod spreading;
mod tls;
mod transport;
