//! The one integration-test binary: the program as a user runs it, against real and scripted parts.
//!
//! Every run that these tests make is checked for the accounting identities, on top of what the
//! program asserts itself.

mod attack;
mod bad_input;
mod clients;
mod demo;
mod docs;
mod gateway;
mod host_limits;
mod http;
mod operating;
mod output;
mod registry;
mod run;
mod scenarios;
mod scrape;
mod secrets;
mod server;
mod stopping;
mod structure;
mod targets;
mod tls;
mod truth;
mod verdict;
