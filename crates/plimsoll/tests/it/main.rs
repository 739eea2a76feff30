//! The integration tests: the program as a user runs it, with real and scripted components.
//!
//! The accounting identities are checked for every run, in addition to the program's own assertions.

mod attack;
mod bad_input;
mod browser;
mod clients;
mod demo;
mod docs;
mod doctor;
mod failure;
mod full;
mod gateway;
mod habits;
mod host_limits;
mod http;
mod http2;
mod instrument_secrets;
mod live;
mod operating;
mod output;
mod page;
mod planted;
mod readers;
mod recipes;
mod records;
mod redirects;
mod registry;
mod reloading;
mod report;
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
mod upstreams;
mod vegeta;
mod vegeta_attack;
mod vegeta_input;
mod verdict;
mod websocket;
