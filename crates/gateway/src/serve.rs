//! The callers' side: connections come in, requests are read, faces answer them.

pub(crate) mod acceptor;
pub(crate) mod face;
pub(crate) mod rest;
pub(crate) mod session;
